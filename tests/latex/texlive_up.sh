#!/bin/bash
# LaTeX and a reader of PDF from Debian's packages, installed if they are missing (root):  texlive_up.sh LOG
set -euo pipefail

missing=()
for p in texlive-latex-base texlive-latex-recommended poppler-utils; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || { echo "texlive_up: needs root to install ${missing[*]}" >&2; exit 2; }
export DEBIAN_FRONTEND=noninteractive
{ apt-get update && apt-get install -y -o DPkg::Lock::Timeout=120 --no-install-recommends "${missing[@]}"; } \
  >"$1" 2>&1 || { tail -n 15 "$1" >&2; exit 1; }

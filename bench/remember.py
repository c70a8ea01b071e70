"""Where the runs of command lines lie, remembered between commands, so that a look at a sweep does not wait for torch.

Resolving a line imports its plug-ins, and torch with them. What it found holds as long as the code is the same; it is
kept in the user's cache folder, and nothing is lost with it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from bench import registry
from bench.config import CHOICES, read, resolve, run_directory
from bench.files import write_atomic

LINES = 10_000
"""Lines remembered at most; with more the memory starts anew."""


class Memory:
    """Run directories and thread settings by line.

    Lines with plug-ins of others, in files or installed, are not remembered: nobody here sees when their code changes.
    """

    def __init__(self) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keeplora-bench"
        self._file = home / "lines.json"
        self._code = _code()
        self._known: dict[str, list] = {}
        self._new = False
        self._entries = registry.all_entries()
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            if stored["code"] == self._code and len(stored["lines"]) <= LINES:
                self._known = dict(stored["lines"])

    def look_up(self, words: Sequence[str]) -> tuple[Path, Path, int | None]:
        """Return the run directory, the folder ``out`` and the setting ``threads`` of a line.

        Raises
        ------
        UserError
            As `bench.config.resolve` does; such lines are not remembered.
        """
        key = json.dumps(list(words))
        found = self._known.get(key)
        if found is None:
            resolved = resolve(words)
            found = [str(run_directory(resolved)), resolved.run.out, resolved.run.threads]
            if self._is_own(words):
                self._known[key] = found
                self._new = True
        directory, out, threads = found
        return Path(directory), Path(out).expanduser(), threads

    def keep(self) -> None:
        """Write what is new; a cache folder that cannot be written costs time only."""
        if self._new:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._file, json.dumps({"code": self._code, "lines": self._known}))

    def _is_own(self, words: Sequence[str]) -> bool:
        given = read(words, [])
        for kind in CHOICES:
            name = str(given[f"{kind}.name"][0]) if f"{kind}.name" in given else ""
            entry = self._entries[kind].get(name)  # none for a default, which is ours, and for a model of open_clip's
            if name.endswith(".py") or (entry is not None and entry.origin != "built-in"):
                return False
        return True


def _code() -> str:
    """A hash that changes with the files of the engine and its plug-in folders, and with what else reads settings."""
    folders = [str(Path(__file__).parent)]
    for name in registry.FOLDERS:
        folders += importlib.import_module(f"bench.{name}").__path__
    files = sorted(
        path for folder in folders for ending in ("py", "json") for path in Path(folder).rglob(f"*.{ending}")
    )
    state = [(str(path), (facts := path.stat()).st_mtime_ns, facts.st_size) for path in files]
    versions = [metadata.version(name) for name in ("omegaconf", "open_clip_torch", "pyyaml")]
    return hashlib.sha256(json.dumps([state, versions, sys.version]).encode()).hexdigest()

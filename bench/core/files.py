"""Files, for those who must not wait for torch: one written whole, a run that is finished, the hash of a class."""

import contextlib
import hashlib
import inspect
import json
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that a reader sees the old content or the new one, never a part."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        scratch.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        scratch.replace(path)
    except OSError:  # a full disk, above all: what there is of it would take up room
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def is_finished(directory: Path) -> bool:
    """Whether a run directory holds a finished run."""
    try:
        return json.loads((directory / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def file_sha256(cls: type) -> str:
    """Hash of the file that a class is written in; empty where there is none."""
    source = inspect.getsourcefile(cls)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""

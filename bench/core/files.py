"""Torch-free file helpers: replace a file as a whole, hash the file of a class."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SCRATCH = ".tmp"
"""Ending of a file that is still being written; it is left behind only where a process or a machine dies."""


def write_atomic(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Write a file so that a reader, also one after a crash, sees the old content or the new one and never a part.

    Parameters
    ----------
    path : Path
        Replaced if it is there; a link is replaced, not followed.
    content : str or bytes
        Text is written as UTF-8.
    durable : bool, optional
        Whether the new content must be what a crash of the machine leaves: then the folder is synced too.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind then.
    """
    with replacing(path, durable) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, durable: bool = False, ending: str = SCRATCH) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends, and is removed when it raises.

    Parameters
    ----------
    path : Path
    durable : bool, optional
        As for `write_atomic`.
    ending : str, optional
        Of the name of the new file, for whoever looks for those that dead processes left behind.

    Yields
    ------
    BinaryIO
        In the same folder, with the rights of any new file.
    """
    # Nobody can know the name, and "x" neither opens a file that is there nor follows a link.
    scratch = path.with_name(f".{secrets.token_hex(8)}{ending}")
    file = scratch.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    if durable and os.name == "posix":  # the new name itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_scratch(folder: Path, unused_for: float = 0.0) -> None:
    """Remove what writers that were killed left in a folder.

    Parameters
    ----------
    folder : Path
        Need not exist.
    unused_for : float, optional
        Seconds since the last write to a file; 0 only where nobody else can be writing.
    """
    for path in folder.glob(f"*{SCRATCH}"):
        with contextlib.suppress(OSError):
            if not unused_for or time.time() - path.stat().st_mtime > unused_for:
                path.unlink()


def file_sha256(cls: type) -> str:
    """Return the SHA-256 of the file that a class is written in, as hex digits; empty where there is none.

    Parameters
    ----------
    cls : type
    """
    source = inspect.getsourcefile(cls)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""

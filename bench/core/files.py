"""Torch-free file helpers: replace a file as a whole, durably; write where a user says; hash files and folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

SCRATCH = ".tmp"
"""Ending of a file that is still being written; it is left behind only where a process or a machine dies."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, also one after a crash of the machine, sees the old content or the new one.

    When this returns, the new content is what a crash leaves.

    Parameters
    ----------
    path : Path
        Replaced if it is there; a link is replaced, not followed.
    content : str or bytes
        Text is written as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind then.
    """
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, ending: str = SCRATCH) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends, and is removed when it raises.

    Parameters
    ----------
    path : Path
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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk, as far as its file system can be asked for that.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If the disk fails.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to and not be read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, so that a crash of the machine does not undo it.

    Parameters
    ----------
    folder : Path
        May be there already.

    Raises
    ------
    OSError
        If it cannot be created, or something else has its name.
    """
    missing = [folder]
    while not missing[-1].exists() and missing[-1] != missing[-1].parent:
        missing.append(missing[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    for created in missing[:-1]:
        sync_folder(created.parent)


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file that the user named, wherever that name leads.

    A link stays, and the file that it leads to is replaced as a whole. What cannot be replaced is written into: named
    pipes, devices, and what this process prints to anyway (``/dev/stdout``, wherever that leads).

    Parameters
    ----------
    path : Path
    content : str or bytes
        Text is written as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    if there is not None and (own := _own_output(there)) is not None:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed before comes first
        _write_all(os.dup(own), content)
    elif there is not None and not stat.S_ISREG(there.st_mode):
        _write_all(os.open(path, os.O_WRONLY), content)  # a folder is refused here
    else:
        write_atomic(path.resolve(), content)


def _write_all(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _own_output(there: os.stat_result) -> int | None:
    """Return the descriptor of standard output or error where a file is what they lead to; None elsewhere."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(there, os.fstat(descriptor)) and not stat.S_ISDIR(there.st_mode):
                return descriptor
    return None


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


def content_sha256(path: Path) -> str:
    """Return a hash of what a path leads to, wherever that lies.

    Of a folder these are the names and the bytes of all files in it, at any depth. Hidden files and folders do not
    count, and a folder that is reached a second time by a link counts once.

    Parameters
    ----------
    path : Path
        A file or a folder.

    Returns
    -------
    str
        SHA-256 as hex digits, of a file that of its bytes; empty where something is missing or cannot be read.
    """
    try:
        if not path.is_dir():
            return _bytes_sha256(path) if path.is_file() else ""
        digest = hashlib.sha256()
        for file in _files_below(path):
            digest.update(os.fsencode(file.relative_to(path).as_posix()) + b"\0")
            status = file.stat()
            digest.update(bytes.fromhex(_kept_sha256(file, status.st_size, status.st_mtime_ns)))
        return digest.hexdigest()
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=2**18)
def _kept_sha256(file: Path, size: int, changed: int) -> str:
    """Return the hash of a file's bytes, kept while size and time stay: a sweep asks for a folder at every point."""
    return _bytes_sha256(file)


def _bytes_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files in a folder in a fixed order."""

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        seen.add(os.path.realpath(name))
        folders[:] = sorted(one for one in folders if one[0] != "." and os.path.realpath(Path(name, one)) not in seen)
        yield from (Path(name, one) for one in sorted(files) if one[0] != "." and Path(name, one).is_file())

"""Open and read files that somebody else may have put there: regular files of a bounded size, and no links.

A link would lead to a file outside, a named pipe would keep a reader waiting for ever, and ``/dev/zero`` has no end. So
whatever lies in a run directory is opened in here, and JSON from there is parsed in here.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, cast

MEGABYTE = 1_000_000

LARGEST_OBJECT = 64 * MEGABYTE
"""Bytes of a JSON file that is read as a whole; a run's own have some thousand."""

LARGEST_TABLE = 1000 * MEGABYTE
"""Bytes of a file with one line for every cell, event or pass."""

DEEPEST = 40
"""How deeply lists and objects of a JSON file may be nested; what walks through them calls itself as often."""

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class NotPlain(OSError):
    """Something else than the regular file, or the folder, that should be there; ``strerror`` says what it is."""

    def __init__(self, path: Path, what: str):
        super().__init__(errno.EINVAL, what, str(path))


def kind_of(path: Path) -> str | None:
    """Return what stands under a name, links not followed.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str or None
        ``a file``, ``a folder``, ``a symbolic link``, ``a named pipe``, ``a socket`` or ``a device``; None for nothing.

    Raises
    ------
    OSError
        If it cannot be found out.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return next((name for test, name in _KINDS if test(mode)), "a device")


def check_folder(path: Path) -> None:
    """Raise `NotPlain` where something stands under a name that is no folder, or a link to one.

    Parameters
    ----------
    path : Path
        Need not exist.
    """
    kind = kind_of(path)
    if kind not in (None, "a folder"):
        raise NotPlain(path, f"it is {kind} instead of a folder")


def check_file(path: Path, largest: int | None = None) -> None:
    """Raise `NotPlain` where something stands under a name that is no regular file, or too large.

    Parameters
    ----------
    path : Path
        Need not exist.
    largest : int, optional
        Bytes that it may have.
    """
    kind = kind_of(path)
    if kind not in (None, "a file"):
        raise NotPlain(path, f"it is {kind} instead of a file")
    if largest is not None and kind is not None and (size := path.lstat().st_size) > largest:
        raise NotPlain(path, f"it has {size} bytes, and such a file has {largest} at most")


def opened(path: Path, mode: str = "rb") -> BinaryIO:
    """Open a regular file; follow no link and wait for nobody.

    Parameters
    ----------
    path : Path
    mode : {"rb", "r+b", "ab"}
        For reading, for changing what is there, or for appending to a file that may be new.

    Returns
    -------
    BinaryIO

    Raises
    ------
    NotPlain
        If it is something else.
    OSError
        If it cannot be opened.
    """
    flags = {"rb": os.O_RDONLY, "r+b": os.O_RDWR, "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT}[mode]
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # not every system has all of them
        flags |= getattr(os, name, 0)
    check_file(path)  # opening a device may already do something
    descriptor = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotPlain(path, "it is no regular file")
        return cast(BinaryIO, os.fdopen(descriptor, mode))
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, largest: int | None = None) -> bytes:
    """Return the content of a regular file.

    Parameters
    ----------
    path : Path
    largest : int, optional
        Bytes that it may have.

    Returns
    -------
    bytes

    Raises
    ------
    NotPlain
        If it is something else, or larger.
    OSError
        If it cannot be read.
    """
    check_file(path, largest)
    with opened(path) as file:
        return file.read() if largest is None else file.read(largest)


def read_text(path: Path, largest: int = LARGEST_TABLE) -> str:
    """Return the text of a regular file in UTF-8; errors as for `read_file`, and `ValueError` for other bytes.

    Parameters
    ----------
    path : Path
    largest : int, optional
        Bytes that it may have.
    """
    return read_file(path, largest).decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """Return the value that JSON stands for.

    Parameters
    ----------
    text : str or bytes

    Raises
    ------
    ValueError
        If it is no JSON, or nested too deeply; ``json.JSONDecodeError`` names the line.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None


def check_plain(value: Any, finite: bool = True) -> None:
    """Refuse what JSON can hold and programs stumble over.

    Parameters
    ----------
    value : object
        From `parse_json`.
    finite : bool, optional
        Whether numbers are looked at too.

    Raises
    ------
    ValueError
        For a number that is no finite float, text that is not Unicode, and what is nested too deeply.
    """
    left = [(value, 1)]
    while left:
        item, depth = left.pop()
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(item, dict):
            left += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            left += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise ValueError("it holds text that is not Unicode") from None
        elif finite and isinstance(item, int | float) and not _is_finite(item):
            raise ValueError("it holds a number that is not finite or too large")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float comes near
        return False


def why(error: Exception) -> str:
    """Return in words why something could not be read; of an error of the system its message alone.

    Parameters
    ----------
    error : Exception
    """
    return (isinstance(error, OSError) and error.strerror) or str(error)

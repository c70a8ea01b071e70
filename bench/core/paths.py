"""Paths that a user writes: the home folder of ``~``, names that no file system takes, looks that never raise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bench.core.errors import UserError, shorten

LONGEST_NAME = 255
"""Bytes of one part of a path; the file systems of Linux, macOS and Windows end there."""

LONGEST_PATH = 3000
"""Bytes of a path that a user writes. Linux ends at 4096, which leaves room for what is added below a folder."""


def user_path(text: str, key: str = "") -> Path:
    """Return the path that a user wrote, with the home folder for a leading ``~``.

    Parameters
    ----------
    text : str
        As it was written; the path need not exist.
    key : str, optional
        The setting that it is written for, for the sentence about what is wrong.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        If it starts with ``~NAME`` and there is no such user, or if no file system takes such a name.
    """
    said = f"{key}={shorten(text)}" if key else f'the path "{shorten(text)}"'
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # no such user, or no home folder at all
        raise UserError(f"{said} starts with a home folder that is not known here: write the whole path") from None
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise UserError(f"{said} holds characters that no name of a file has: rename it")
    longest = max(len(part) for part in encoded.split(os.fsencode(os.sep)))
    if longest > LONGEST_NAME:
        raise UserError(f"{said} has a part of {longest} bytes: names of files have at most {LONGEST_NAME}, shorten it")
    if len(encoded) > LONGEST_PATH:
        raise UserError(f"{said} has {len(encoded)} bytes, more than {LONGEST_PATH}: write a shorter path")
    return path


def user_cache() -> Path:
    """Return the user's folder for what can be made again: ``$XDG_CACHE_HOME`` or ``~/.cache``, and our name below it.

    Returns
    -------
    Path
        It need not exist.

    Raises
    ------
    UserError
        As of `user_path`.
    """
    return user_path(str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "keeplora-bench"), "cache.dir")


def first_time(name: str) -> bool:
    """Return whether this is asked for the first time on this machine, and remember that it was.

    Parameters
    ----------
    name : str
        What is to happen once; the name of an empty file in the folder of `user_cache`.

    Returns
    -------
    bool
        Always true where that folder cannot be written.
    """
    with contextlib.suppress(OSError, UserError):
        marker = user_cache() / "once" / name
        if exists(marker):
            return False
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return True


def is_folder(path: Path) -> bool:
    """Return whether there is a folder that this process can see; unlike ``Path.is_dir`` it never raises."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, a folder above that may not be read
        return False


def is_file(path: Path) -> bool:
    """Return whether there is a regular file that this process can see; unlike ``Path.is_file`` it never raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Return whether there is anything that this process can see; unlike ``Path.exists`` it never raises."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False

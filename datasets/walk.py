"""The one walker of folders of all readers: what it leaves out, which links it follows, what it skips."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of image files, as in torchvision's ImageFolder."""

LEFT_BEHIND = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini"})
"""Names in lower case that other programs leave behind; hidden names (``._x.jpg``) begin with a dot."""


def left_out(name: str) -> bool:
    """Return whether a file or folder of this name is never part of a dataset."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def one_form(name: str) -> str:
    """Return a name in one Unicode form: macOS may write an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; links to folders count, hidden ones do not."""
    return sorted(entry.name for entry in folder.iterdir() if not left_out(entry.name) and entry.is_dir())


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth of a folder, in no fixed order.

    Links to folders are followed, except those that lead back to a folder that they are in.
    """
    start = folder.resolve()
    yield from _files(folder, frozenset(map(_identity, (start, *start.parents))))


def _files(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not left_out(entry.name)]
    for entry in entries:
        path = folder / entry.name
        if not entry.is_dir():
            yield path
        elif (own := _identity(path)) not in above:
            yield from _files(path, above | {own})


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def images_below(folder: Path, base: Path, passed: Counter[str]) -> list[str]:
    """Return the image files at any depth of a folder, in the order of ImageFolder.

    Parameters
    ----------
    folder : Path
    base : Path
        The folder that the returned paths are relative to.
    passed : Counter
        Receives the endings of all other files.

    Returns
    -------
    list of str
    """
    images = []
    for path in files_below(folder):
        ending = path.suffix.lower()
        if ending in IMAGE_ENDINGS:
            images.append((path.parent, path.name))
        else:
            passed[ending or "without an ending"] += 1
    return [(parent / name).relative_to(base).as_posix() for parent, name in sorted(images)]


def passed_over(passed: Counter[str]) -> str:
    """Return how many files a reader skipped, by their endings; empty if there are none."""
    if not passed:
        return ""
    named = [f"{count} {ending}" for ending, count in sorted(passed.items(), key=lambda one: (-one[1], one[0]))]
    more = f" and {len(named) - 5} other endings" if len(named) > 5 else ""
    return f"files skipped, since their endings are not those of images: {', '.join(named[:5])}{more}"

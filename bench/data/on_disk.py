"""Files of datasets on disk: where they lie below the data folder, and what can be checked of images before decoding.

Folders may lie one deeper than expected, have names in other Unicode forms, or be packed archives. A run and the verb
``data`` check the same.
"""

import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePath

from PIL import Image

from bench.core.errors import UserError
from bench.core.paths import LONGEST_NAME

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".tar.xz", ".gz", ".7z", ".rar")
"""Endings of packed files."""

LEFT_BEHIND = ("__MACOSX", "@eaDir")
"""Folders that other programs leave behind."""

NAMED = 3
"""Archives that one sentence names at most."""


def one_form(name: str) -> str:
    """Return a name in one Unicode form: macOS may write an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def find(root: Path, folder: str) -> Path | None:
    """Return a folder below the data folder that is not empty.

    Archives often unpack to ``NAME/NAME``. So a folder whose only folder has its own name is entered.

    Parameters
    ----------
    root : Path
        The data folder.
    folder : str
        Where the dataset may be below it.

    Returns
    -------
    Path or None
        None if there is none, or if it holds nothing but hidden files.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in PurePath(folder).parts):
        return None
    if (root / folder).is_dir():
        return _inner(root / folder)
    here: Path | None = root
    for part in PurePath(folder).parts:
        here = here and _child(here, part)
        here = here and _inner(here)
    return here


def find_or_guess(root: Path, folder: str) -> Path | None:
    """Return what `find` returns, or the expected path of a folder that cannot be read: opening it says why.

    Parameters
    ----------
    root : Path
        The data folder.
    folder : str
        Where the dataset may be below it.

    Returns
    -------
    Path or None
    """
    try:
        return find(root, folder)
    except OSError:
        return root / folder


def _inner(folder: Path) -> Path | None:
    """Return a folder, or the folder of the same name that is the only one in it; None if it is empty."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in LEFT_BEHIND]
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) == 1 and one_form(folders[0].name) == one_form(folder.name):
        return _inner(folders[0])
    return folder if entries else None


def _child(folder: Path, name: str) -> Path | None:
    if (folder / name).is_dir():
        return folder / name
    if not folder.is_dir() or name.isascii():
        return None
    return next(
        (entry for entry in folder.iterdir() if one_form(entry.name) == one_form(name) and entry.is_dir()), None
    )


def packed(root: Path, folders: Sequence[str]) -> str:
    """Return what to do about archives of a dataset that may be packed still; empty if there are none.

    Parameters
    ----------
    root : Path
        The data folder.
    folders : sequence of str
        Where the dataset may be below it.

    Returns
    -------
    str
    """
    paths = [PurePath(folder) for folder in folders if not PurePath(folder).is_absolute()]
    words = {_plain(part) for path in paths for part in path.parts} - {"data", "raw", ""}
    found = [path for path in _archives(root) if any(_plain(path.name).startswith(word) for word in words)]
    inside = {root / parent for path in paths for parent in (path, *path.parents)} - {root}
    found += [path for folder in sorted(inside) for path in _archives(folder)]
    if not found:
        return ""
    named = ", ".join(str(path) for path in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"unpack {named}{more} unless you have done so"


def _archives(folder: Path) -> list[Path]:
    try:
        names: Iterable[Path] = sorted(folder.iterdir()) if folder.is_dir() else ()
    except OSError:
        return []
    return [path for path in names if path.name.lower().endswith(ARCHIVES) and not path.name.startswith(".")]


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


LARGE = {".jpg": 1_000_000, ".jpeg": 1_000_000}
"""Bytes from which the header of a file is read, by ending: smaller files can hardly exceed Pillow's limit.

Reading all headers of a large dataset on a network disk would take minutes.
"""

LARGE_OTHERS = 20_000
"""The same for all other endings: flat areas take nearly no space there."""


@lru_cache(maxsize=1)
def threads() -> ThreadPoolExecutor:
    """Return the threads that decode; they run in parallel, because Pillow releases Python's lock."""
    return ThreadPoolExecutor(os.cpu_count(), "decode")


def checked_states(root: Path, names: Sequence[str]) -> list[os.stat_result]:
    """Return sizes and times of image files.

    Parameters
    ----------
    root : Path
        Folder that the names are relative to.
    names : sequence of str

    Returns
    -------
    list of os.stat_result

    Raises
    ------
    UserError
        If a file is missing or no file, or has more pixels than Pillow decodes; the sentence names it.
    """
    states = []
    for name in names:
        path = root / name
        try:
            state = path.stat()
        except OSError as error:
            raise UserError(
                f"the image {path} cannot be read ({error.strerror}): {_deeper(root, path) or 'check the dataset'}"
            ) from error
        if not stat.S_ISREG(state.st_mode):  # a named pipe would keep whoever opens it waiting
            raise UserError(f"the image {path} is no file but a folder, a named pipe or a device: remove it")
        if state.st_size >= LARGE.get(path.suffix.lower(), LARGE_OTHERS):
            _check_pixels(path)
        states.append(state)
    return states


def too_large(path: Path, error: Exception) -> UserError:
    """Return what to say about an image above Pillow's limit."""
    return UserError(f"the image {path} is too large ({error}): make it smaller or remove the file")


def _check_pixels(path: Path) -> None:
    try:
        with warnings.catch_warnings():  # Pillow warns from half its limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(path).close()
    except Image.DecompressionBombError as error:
        raise too_large(path, error) from error
    except (OSError, SyntaxError, ValueError):
        pass  # whoever decodes it names it


def _deeper(root: Path, path: Path) -> str:
    """Return what to do where an archive was unpacked into a folder of its own name; empty if that is not so."""
    for folder in path.parents:
        if folder != root and root not in folder.parents:
            break
        inner = folder / folder.name
        if (inner / path.relative_to(folder)).is_file():
            return f"it is one folder deeper, so move all that is in {inner} to {folder}"
    return ""

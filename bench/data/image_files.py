"""What can be checked of image files before any is decoded, the same for a run and the verb ``data``; their threads."""

import os
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from PIL import Image

from bench.core.errors import UserError

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

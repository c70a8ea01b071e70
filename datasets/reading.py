"""What readers of datasets have in common: text and MATLAB files, folders of classes, MTIL's random 80/20 split."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import FileImages, Images, Splits, Subset, UserError

from .walk import folders_in, images_below, passed_over

SPLIT_SEED = 42
"""Seed of the random split, in the code released with ZSCL and KeepLoRA."""


@cache
def class_names(dataset: str) -> Any:
    """Return the published class names of a dataset without names of its own: by folder name, or in label order."""
    return json.loads((Path(__file__).parent / "class_names.json").read_text(encoding="utf-8"))[dataset]


def text(path: Path) -> str:
    """Return the content of a text file in UTF-8, without the mark that some editors write at its start.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str

    Raises
    ------
    UserError
        If the file cannot be read or has another encoding; the sentence names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"the file {path} cannot be read (its encoding is UTF-16): save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"the file {path} cannot be read (byte 0x{content[error.start]:02x} in line {line} is not UTF-8; the "
            "encoding may be Windows-1252 or Latin-1): save it as UTF-8"
        ) from error


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, stripped."""
    return [line.strip() for line in text(path).splitlines() if line.strip()]


def json_file(path: Path) -> Any:
    """Return the content of a JSON file."""
    content = text(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def mat_file(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file, single values unwrapped."""
    from scipy.io import loadmat

    try:
        return loadmat(str(path), squeeze_me=True)
    except Exception as error:  # a damaged file can fail in any of its many parts
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"the file {path} is missing: unpack the dataset again")
    reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
    return UserError(f"the file {path} cannot be read ({reason}): unpack the dataset again")


def parsed(path: Path, parse: Callable[[], Any]) -> Any:
    """Return what a function makes of a file's content; a UserError names the file if it has another form.

    Parameters
    ----------
    path : Path
        The file, for the sentence.
    parse : callable
        Takes nothing; raises a KeyError, IndexError, ValueError, TypeError or AttributeError for a wrong content.

    Returns
    -------
    object
        What `parse` returns.

    Raises
    ------
    UserError
        If `parse` raises one of these errors.
    """
    try:
        return parse()
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the file {path} does not have the form of this dataset ({reason}): unpack it again"
        ) from error


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without those that are hidden or left by other programs."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is missing: unpack the dataset again")
    found = folders_in(folder)
    if not found:
        raise UserError(
            f"the folder {folder} holds no class folders: put the images of each class into a folder of its name, "
            "or unpack the dataset again"
        )
    return found


def images_by_class(base: Path, folders: Iterable[str], passed: Counter[str] | None = None) -> FileImages:
    """Return the images of class folders; the label of an image is the index of its folder.

    Parameters
    ----------
    base : Path
        The folder of the class folders.
    folders : iterable of str
        Names of the class folders, in label order.
    passed : Counter, optional
        Receives the endings of the files that are no images.

    Returns
    -------
    FileImages

    Raises
    ------
    UserError
        If a class folder holds no images.
    """
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        others: Counter[str] = Counter()
        images = images_below(base / folder, base, others)
        if not images:
            why = f" ({passed_over(others)})" if others else ""
            raise UserError(f"the class folder {base / folder} holds no images{why}: unpack the dataset again")
        names += images
        labels += [label] * len(images)
        if passed is not None:
            passed.update(others)
    return FileImages(base, names, labels)


def random_split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test indices of the random 80/20 split of MTIL (ZSCL), int64 each: the first part trains."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    return order[: int(0.8 * count)], order[int(0.8 * count) :]


def split_randomly(classes: Iterable[str], images: Images, passed: Counter[str]) -> Splits:
    """Return a dataset without an official split, split by `random_split`, and a note on files `passed` over."""
    train, test = random_split(len(images))
    parts = [Subset(images, indices, whole=True) for indices in (train, test)]
    return Splits(tuple(classes), parts[0], parts[1], note=passed_over(passed))


def random_split_problem(splits: Splits, train: Sequence[int], test: Sequence[int]) -> str:
    """Compare the beginning of a random split with the known one: another PyTorch might draw another order.

    Parameters
    ----------
    splits : Splits
        A dataset that was split by `split_randomly`.
    train, test : sequence of int
        The first indices of the known split.

    Returns
    -------
    str
        What differs; empty if nothing does.
    """
    if len(splits.train) + len(splits.test) <= max(*train, *test):
        return ""  # fewer images than in the published dataset: their count says so
    same = all(
        isinstance(images, Subset) and images.indices[: len(known)].tolist() == list(known)
        for images, known in ((splits.train, train), (splits.test, test))
    )
    return "" if same else "another random split than the published one"


def lacking(names: Mapping[str, str], classes: Sequence[str]) -> str:
    """Return which class folders of a dataset are missing; empty if none is."""
    missing = [folder for folder, name in names.items() if name not in classes]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"no class folder {', '.join(missing[:3])}{more}" if missing else ""


def numbered(values: Any) -> np.ndarray:
    """Return the numbers of a variable of a MATLAB file, int64 [n]; raise ValueError if there are none."""
    numbers = np.atleast_1d(values).astype(np.int64)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError("it holds no list of numbers")
    return numbers


def spoken(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as prompts use them: with blanks for underscores."""
    return tuple(name.replace("_", " ") for name in names)

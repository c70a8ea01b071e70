"""What readers of datasets have in common: text and MATLAB files, folders of classes, MTIL's random 80/20 split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import FileImages, Images, Splits, Subset, UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of image files, as in torchvision's ImageFolder."""

SPLIT_SEED = 42
"""Seed of the random split, in the code released with ZSCL and KeepLoRA."""


@cache
def class_names(dataset: str) -> Any:
    """Return the published class names of a dataset without names of its own: by folder name, or in label order."""
    return json.loads((Path(__file__).parent / "class_names.json").read_text(encoding="utf-8"))[dataset]


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, stripped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    return [line.strip() for line in lines if line.strip()]


def json_file(path: Path) -> Any:
    """Return the content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    """Return the names of the folders in a folder, sorted."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is missing: unpack the dataset again")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not found:
        raise UserError(f"the folder {folder} holds no class folders: unpack the dataset again")
    return found


def images_below(folder: Path, base: Path) -> list[str]:
    """Return the image files at any depth of a folder, relative to `base`, in the order of ImageFolder."""
    found = sorted((path.parent, path.name) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    return [(parent / name).relative_to(base).as_posix() for parent, name in found]


def images_by_class(base: Path, folders: Iterable[str]) -> FileImages:
    """Return the images of class folders; the label of an image is the index of its folder."""
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = images_below(base / folder, base)
        if not found:
            raise UserError(f"the class folder {base / folder} holds no images: unpack the dataset again")
        names += found
        labels += [label] * len(found)
    return FileImages(base, names, labels)


def random_split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test indices of the random 80/20 split of MTIL (ZSCL), int64 each: the first part trains."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    return order[: int(0.8 * count)], order[int(0.8 * count) :]


def split_randomly(classes: Iterable[str], images: Images) -> Splits:
    """Return a dataset without an official split, split by `random_split`."""
    train, test = random_split(len(images))
    return Splits(tuple(classes), Subset(images, train, whole=True), Subset(images, test, whole=True))


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
    found = np.atleast_1d(values).astype(np.int64)
    if found.ndim != 1 or len(found) == 0:
        raise ValueError("it holds no list of numbers")
    return found


def spoken(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as prompts use them: with blanks for underscores."""
    return tuple(name.replace("_", " ") for name in names)

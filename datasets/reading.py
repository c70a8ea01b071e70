"""What readers of datasets share: text and MATLAB files, folders of classes, and the random 80/20 split of MTIL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import FileImages, Images, Splits, Subset, UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""

SPLIT_SEED = 42
"""Of the random split, in the code released with ZSCL and KeepLoRA."""


@cache
def class_names(dataset: str) -> Any:
    """Published class names of a dataset that does not carry its own: by folder name, or in label order."""
    return json.loads((Path(__file__).parent / "class_names.json").read_text(encoding="utf-8"))[dataset]


def text_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    return [line.strip() for line in lines if line.strip()]


def json_file(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def mat_file(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, single values unwrapped."""
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
    """What `parse` makes of a file's content; a content of another form is told with the file's name."""
    try:
        return parse()
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the file {path} is not as this dataset has it ({reason}): unpack it again") from error


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is missing: unpack the dataset again")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not found:
        raise UserError(f"the folder {folder} holds no class folders: unpack the dataset again")
    return found


def images_below(folder: Path, base: Path) -> list[str]:
    """Image files at any depth of a folder, relative to `base`, in the order of torchvision's ImageFolder."""
    found = sorted((path.parent, path.name) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    return [(parent / name).relative_to(base).as_posix() for parent, name in found]


def images_by_class(base: Path, folders: Iterable[str]) -> FileImages:
    """Images of class folders, labelled by the position of their folder."""
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
    """Training and test indices of the random 80/20 split of MTIL (ZSCL): seed 42, the first part trains."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    return order[: int(0.8 * count)], order[int(0.8 * count) :]


def split_randomly(classes: Iterable[str], images: Images) -> Splits:
    """A dataset without an official split, split by `random_split`."""
    train, test = random_split(len(images))
    return Splits(tuple(classes), Subset(images, train, whole=True), Subset(images, test, whole=True))


def random_split_problem(splits: Splits, train: Sequence[int], test: Sequence[int]) -> str:
    """Compare the beginning of a random split with the known one: another PyTorch might draw another order."""
    if len(splits.train) + len(splits.test) <= max(*train, *test):
        return ""  # fewer images than in the published dataset, which is told by their count
    same = all(
        isinstance(images, Subset) and images.indices[: len(known)].tolist() == list(known)
        for images, known in ((splits.train, train), (splits.test, test))
    )
    return "" if same else "another random split than the published one"


def lacking(names: Mapping[str, str], classes: Sequence[str]) -> str:
    """Say which class folders of a dataset are not there."""
    missing = [folder for folder, name in names.items() if name not in classes]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"no class folder {', '.join(missing[:3])}{more}" if missing else ""


def numbered(values: Any) -> np.ndarray:
    """Numbers from a MATLAB file, int64 [n]; ValueError if there are none."""
    found = np.atleast_1d(values).astype(np.int64)
    if found.ndim != 1 or len(found) == 0:
        raise ValueError("it holds no list of numbers")
    return found


def spoken(names: Iterable[str]) -> tuple[str, ...]:
    """Names as prompts use them: underscores are blanks."""
    return tuple(name.replace("_", " ") for name in names)

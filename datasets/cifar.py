"""CIFAR-10 and CIFAR-100 in their Python layout, read without executing anything in the files."""

from __future__ import annotations

import hashlib
import io
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import Counts, Dataset, PackedImages, Splits, UserError, register

from .reading import parsed, spoken

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""The only classes and functions that a pickled dictionary of arrays, lists and texts needs."""


class _ArraysOnly(pickle.Unpickler):
    """Refuse every class and function that is not part of a plain array."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or function."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to use {module}.{name}")
        return super().find_class(module, name)


def _batch(path: Path) -> dict[str, Any]:
    try:
        return _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"the file {path} is missing: unpack the dataset again") from error
    except Exception as error:  # a pickle can fail in any way
        raise UserError(
            f"the file {path} is damaged or not a CIFAR file ({error}): unpack the dataset again"
        ) from error


def _pixels(paths: tuple[Path, ...]) -> np.ndarray:
    """Return the images of several files, uint8 [images, 32, 32, 3]."""
    return (
        np.concatenate([np.asarray(_batch(path)["data"], np.uint8) for path in paths])
        .reshape(-1, 3, 32, 32)
        .transpose(0, 2, 3, 1)
    )


class _Cifar(Dataset):
    """What both have in common.

    Attributes
    ----------
    parts : tuple of tuple of str
        The files of the training and of the test images.
    labels_key : str
        Key of the labels in these files.
    meta : tuple of str
        The file of the class names, and their key in it.
    """

    parts: tuple[tuple[str, ...], tuple[str, ...]]
    labels_key: str
    meta: tuple[str, str]

    def read(self, folder: Path) -> Splits:
        """Read class names, images and labels."""
        file, key = self.meta
        classes = parsed(folder / file, lambda: [str(name) for name in _batch(folder / file)[key]])
        train, test = (self._part(tuple(folder / name for name in names)) for names in self.parts)
        return Splits(spoken(classes), train, test)

    def _part(self, paths: tuple[Path, ...]) -> PackedImages:
        pixels = parsed(paths[0], lambda: _pixels(paths))
        labels = [label for path in paths for label in parsed(path, partial(self._labels, path))]
        if len(labels) != len(pixels):
            raise UserError(f"{paths[0]} holds {len(pixels)} images for {len(labels)} labels: unpack the dataset again")
        return PackedImages(partial(_pixels, paths), labels, hashlib.sha256(pixels.tobytes()).hexdigest())

    def _labels(self, path: Path) -> list[int]:
        return [int(label) for label in _batch(path)[self.labels_key]]


@register("dataset", "cifar100", title="100 kinds of things, 32 x 32 pixels", paper="CIFAR-100, 2009")
class Cifar100(_Cifar):
    """Official splits, fine labels."""

    short = "CIFAR100"
    folders = ("cifar-100-python",)
    parts = (("train",), ("test",))
    labels_key = "fine_labels"
    meta = ("meta", "fine_label_names")
    expected = Counts(50000, 10000, 100)
    size = "0.17 GB"
    licence = "none stated"
    obtain = "torchvision.datasets.CIFAR100(DIR, download=True)"


@register("dataset", "cifar10", title="10 kinds of things, 32 x 32 pixels", paper="CIFAR-10, 2009")
class Cifar10(_Cifar):
    """Official splits."""

    short = "CIFAR10"
    folders = ("cifar-10-batches-py",)
    parts = (tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",))
    labels_key = "labels"
    meta = ("batches.meta", "label_names")
    expected = Counts(50000, 10000, 10)
    size = "0.17 GB"
    licence = "none stated"
    obtain = "torchvision.datasets.CIFAR10(DIR, download=True)"

"""MNIST, with the order of images and the labels of torchvision's class."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from bench.api import Counts, Dataset, PackedImages, Splits, UserError, register

from .reading import class_names


@register("dataset", "mnist", title="10 handwritten digits", paper="MNIST, 1998")
class Mnist(Dataset):
    """Official splits; class names "0 - zero" and so on."""

    short = "MNIST"
    folders = ("MNIST/raw",)
    expected = Counts(60000, 10000, 10)
    template = 'a photo of the number: "{}".'
    size = "12 MB"
    licence = "CC BY-SA 3.0"
    obtain = "torchvision.datasets.MNIST(DIR, download=True)"
    broken = "yann.lecun.com; torchvision takes a mirror"

    def read(self, folder: Path) -> Splits:
        """Read the files of pixels and labels."""

        def part(split: str) -> PackedImages:
            path = _idx_file(folder, f"{split}-images", "idx3-ubyte")
            labels = _idx(_idx_file(folder, f"{split}-labels", "idx1-ubyte"))
            pixels = _idx(path)
            if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
                raise UserError(f"{path} holds {len(pixels)} images for {len(labels)} labels: unpack the dataset again")
            return PackedImages(partial(_idx, path), labels, hashlib.sha256(pixels.tobytes()).hexdigest())

        return Splits(tuple(class_names("mnist")), part("train"), part("t10k"))


def _idx_file(folder: Path, name: str, ending: str) -> Path:
    """Return a file of MNIST: some archives have a dot in its name, some a folder of the same name around it."""
    names = [f"{name}-{ending}", f"{name}.{ending}"]
    paths = [folder / one for one in names] + [folder / outer / inner for outer in names for inner in names]
    return next((path for path in paths if path.is_file()), paths[0])


def _idx(path: Path) -> np.ndarray:
    """Return the array in an IDX file of bytes."""
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    if not path.is_file():
        raise UserError(f"the file {path} is missing: unpack the dataset again (gunzip *-ubyte.gz)")
    try:
        return read_sn3_pascalvincent_tensor(str(path)).numpy()
    except (OSError, ValueError, AssertionError, RuntimeError, KeyError, IndexError) as error:
        raise UserError(f"the file {path} is damaged ({type(error).__name__}): unpack the dataset again") from error

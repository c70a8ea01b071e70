"""A task of the embedded streams while it is built: its images by split, and the rule that keeps the splits apart.

Every task has its own seeded generator, so that one task can be changed without changing the others. A builder adds the
training images first, then those of validation, then those of the test. ``Task.add`` refuses an image of validation or
test that lies within an RMS difference of 5 grey levels of an image of an earlier split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import partition
from check import close_pairs, small
from drawing import Rng, fit
from PIL import Image

BASE = 72  # side of the drawings before they are placed
SPLITS = ("train", "val", "test")


@dataclass
class Task:
    """Images and labels of one task, by split.

    Parameters
    ----------
    name : str
        Name of the task.
    template : str
        Prompt with ``{}`` for the class.
    classes : list of str
        Class names; a label is an index into them.
    sources : str
        Where the images come from, for tasks.json.
    """

    name: str
    template: str
    classes: list[str]
    sources: str
    images: dict[str, list[np.ndarray]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    labels: dict[str, list[int]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    _small: dict[str, list[np.ndarray]] = field(default_factory=lambda: {split: [] for split in SPLITS})

    def add(self, split: str, label: int, image: np.ndarray, within: bool = True) -> bool:
        """Add an image unless it is a near-duplicate of one that the task has already; say whether it was added.

        Test images are compared with training and validation images, validation images with training images, and both
        with their own split if ``within`` is true. Training images have to be added first. Images without contrast are
        refused.
        """
        if image.astype(np.float32).std() < 2.0:
            return False
        for other in SPLITS[: SPLITS.index(split) + 1]:
            if (split == other and (split == "train" or not within)) or not self.images[other]:
                continue
            if self._near(image, other):
                return False
        self.images[split].append(image)
        self.labels[split].append(label)
        self._small[split].append(small(image[None])[0])
        return True

    def _near(self, image: np.ndarray, split: str) -> bool:
        """Say whether a split has a near-duplicate of an image; small copies differ at most as much as the images."""
        gaps = np.stack(self._small[split]) - small(image[None])
        close = np.flatnonzero((gaps**2).mean(1) < partition.NEAR_DUPLICATE_RMS**2)
        others = [self.images[split][i] for i in close]
        return bool(others) and bool(close_pairs(image[None], np.stack(others), partition.NEAR_DUPLICATE_RMS))

    def count(self, split: str, label: int) -> int:
        """Return how many images of a class a split has."""
        return self.labels[split].count(label)


def fitted(image: Image.Image | np.ndarray | None, name: str) -> np.ndarray:
    """Fit a drawing into BASE pixels; every drawing that a task has chosen must be there."""
    drawing = None if image is None else fit(image, BASE)
    if drawing is None:
        raise ValueError(f"empty drawing {name}")
    return drawing


def shuffled(rng: Rng, items: list) -> list:
    """Return the items in random order."""
    return [items[i] for i in rng.permutation(len(items))]

"""Few-shot training sets: a fixed number of images for each class, drawn independently of all other classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from bench.api import Images, Splits, Subset, UserError, alone

Fewer = Literal["error", "all", "repeat"]


def draw(
    dataset: str, classes: Sequence[str], labels: np.ndarray, shots: int, seed: int, fewer: Fewer
) -> dict[str, list[int]]:
    """Draw the same number of images of every class.

    The draw depends on (dataset, class, seed) and on the order of the class's images alone: not on other classes, on
    the order of tasks, or on earlier draws.

    Parameters
    ----------
    dataset : str
        Name of the dataset.
    classes : sequence of str
        Class names in label order.
    labels : int array [images]
        Labels of the images to draw from.
    shots : int
        Images of each class.
    seed : int
        Seed of the draw.
    fewer : {"error", "all", "repeat"}
        What happens to a class with fewer images: it is refused, all of them are taken, or images are repeated.

    Returns
    -------
    dict of class name to indices of images, in ascending order

    Raises
    ------
    UserError
        If a class has fewer images and `fewer` is ``error``.
    """
    drawn = {}
    for label, name in enumerate(classes):
        own = np.flatnonzero(labels == label)
        if len(own) < shots and fewer == "error":
            raise UserError(
                f"class {name!r} of {dataset} has {len(own)} training images and stream.shots={shots}: lower it, or "
                "set stream.fewer to all or repeat"
            )
        digest = hashlib.sha256(f"{seed}/shots/{dataset}/{name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        chosen = rng.permutation(own)[:shots]
        if len(own) < shots and fewer == "repeat":
            chosen = np.concatenate([own, rng.choice(own, shots - len(own))])
        drawn[name] = sorted(chosen.tolist())
    return drawn


def few_shot(splits: Splits, chosen: Mapping[str, Sequence[int]]) -> tuple[Images, Images]:
    """Return the drawn training images, and the test images, which no longer hold the images that were not drawn.

    Parameters
    ----------
    splits : Splits
        The whole dataset.
    chosen : mapping of str to sequence of int
        Indices of training images by class, as from `draw`.

    Returns
    -------
    train, test : Images
    """
    return take(splits.train, chosen), alone(splits.test)


def take(images: Images, chosen: Mapping[str, Sequence[int]]) -> Subset:
    """Return the drawn images, class by class."""
    return Subset(images, [index for indices in chosen.values() for index in indices])

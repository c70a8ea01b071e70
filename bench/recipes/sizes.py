"""How large a model, a stream and its datasets are, without the data: the published sizes stand for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import registry
from bench.config.catalogue import architectures, split
from bench.config.run_settings import Resolved
from bench.core.errors import UserError
from bench.data.dataset import Dataset, Splits, load_dataset
from bench.data.dataset_stream import DatasetStream, Part
from bench.data.inventory import datasets, needs_data
from bench.data.stream import Stream
from bench.runs.parts import load_reference, load_stream

PROMPT = 8
"""Tokens of a prompt, roughly: class names have different lengths, and their common beginning is encoded once."""


# ---------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Towers:
    """How large a model is.

    Attributes
    ----------
    image, prompt : int
        Floating-point operations of the products and the attention in a forward pass of one image, and of one prompt
        of `PROMPT` tokens; a multiply-add is two.
    numbers : int
        Weights.
    """

    image: int
    prompt: int
    numbers: int


def towers(config: Mapping[str, Any], resolution: int | None = None) -> Towers:
    """Return the size of a model from its configuration.

    A block of width w with an MLP of r w and n positions takes 2 (4 + 2 r) n w^2 + 4 n^2 w operations; the cut of an
    image into patches, and the projections at the end of both towers, are added. The suite itself computes up to 7 %
    less of ViT-B/16, since only one position of the last block is read.

    Parameters
    ----------
    config : mapping
        In open_clip's form.
    resolution : int, optional
        Height and width of an image in pixels, in place of the configuration's own.

    Returns
    -------
    Towers
    """
    vision, text, embedding = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    size, patch = resolution or vision["image_size"], vision["patch_size"]
    size = min(size) if isinstance(size, list | tuple) else size
    patches = (size // patch) ** 2
    wide, narrow, pixels = vision["width"], text["width"], 3 * patch**2

    def blocks(tower: Mapping[str, Any], positions: int) -> tuple[int, int]:
        """Return the operations and the numbers of a tower's blocks."""
        width, layers = tower["width"], tower["layers"]
        hidden = int(tower.get("mlp_ratio", 4) * width)
        weights = 4 * width**2 + 2 * hidden * width
        beside = 4 * width + width + hidden + 4 * width  # biases of attention and MLP, two normalisations
        return layers * (2 * weights * positions + 4 * positions**2 * width), layers * (weights + beside)

    seen, image_numbers = blocks(vision, patches + 1)
    read, text_numbers = blocks(text, PROMPT)
    ends = pixels * wide + (patches + 2) * wide + 4 * wide + wide * embedding
    ends += (text.get("vocab_size", 49408) + text.get("context_length", 77) + 2) * narrow + narrow * embedding
    return Towers(
        seen + 2 * patches * pixels * wide + 2 * wide * embedding,
        read + 2 * narrow * embedding,
        image_numbers + text_numbers + ends + 1,  # and the scale of the logits
    )


def towers_of(resolved: Resolved) -> Towers:
    """Return the size of a run's model; a registered one is loaded for it.

    Parameters
    ----------
    resolved : Resolved

    Returns
    -------
    Towers

    Raises
    ------
    UserError
        If a registered model does not say its configuration.
    """
    if resolved.model_class is None:
        return towers(architectures()[split(resolved.run.model)[0]].config)
    from bench.runs.loading import load_model  # torch comes with it

    clip = load_model(resolved)
    if clip.config is None:
        raise UserError(f"model {resolved.run.model} does not say its sizes: give its Clip a config")
    return towers(clip.config)


# ---------------------------------------------------------------------------------------------- the data


class Labels:
    """Images of which only the labels are known.

    Parameters
    ----------
    count, classes : int
        Images, in equal numbers of each class as far as that is possible.
    """

    def __init__(self, count: int, classes: int):
        self.labels: np.ndarray = np.arange(count, dtype=np.int64) % classes
        self.digest = f"{count} of {classes}"

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Any:
        """Refuse to show an image."""
        raise UserError("these images are not at hand: give data=DIR")


class _Published(Dataset):
    """A dataset by its published sizes alone."""

    def __init__(self, original: Dataset):
        super().__init__(original.folders)
        self.registry_name = original.registry_name
        self.expected, self.short = original.expected, original.short

    def locate(self, root: Path) -> Path:
        """Return any folder."""
        return root

    def read(self, folder: Path) -> Splits:
        """Return as many images as were published, and names for as many classes."""
        known = self.expected
        if known is None:
            raise UserError("nobody published how many images it has: give data=DIR")
        names = tuple(f"{self.registry_name} {number}" for number in range(1, known.classes + 1))
        return Splits(names, Labels(known.train, known.classes), Labels(known.test, known.classes))


def published_stream(cls: type[DatasetStream]) -> type[DatasetStream]:
    """Return a stream's class with the published sizes of its datasets in place of the datasets.

    Parameters
    ----------
    cls : type

    Returns
    -------
    type
    """

    class OfSizes(cls):  # type: ignore[misc, valid-type]
        @classmethod
        def parts(cls, settings: Any, root: Path | None) -> list[Part]:
            return [replace(part, dataset=_Published(part.dataset)) for part in super().parts(settings, None)]

        @classmethod
        def probe_part(cls, name: str, settings: Any, root: Path | None) -> Part:
            part = super().probe_part(name, settings, None)
            return replace(part, dataset=_Published(part.dataset))

    return OfSizes


def stream_of(resolved: Resolved, ready: bool = False) -> Stream:
    """Return the stream of a run: by the published sizes of its datasets where these are not at hand.

    Parameters
    ----------
    resolved : Resolved
    ready : bool, optional
        Whether the datasets are there as published; others need not be.

    Returns
    -------
    Stream
        Its images can be read where they are at hand.

    Raises
    ------
    UserError
        If nobody published how large a dataset is.
    """
    cls = resolved.stream_class
    if ready or not needs_data(cls, resolved.stream_settings):
        return load_stream(resolved)
    if not issubclass(cls, DatasetStream):
        raise UserError(f"how many images stream {resolved.run.stream} has is not known before: give data=DIR")
    run = replace(resolved.run, data=".")
    return load_stream(replace(resolved, run=run, stream_class=published_stream(cls)))


def datasets_of(resolved: Resolved) -> dict[str, Dataset]:
    """Return the datasets of a run's stream by name, in order, and the one of its reference set.

    Parameters
    ----------
    resolved : Resolved

    Returns
    -------
    dict of str to Dataset
    """
    cls, settings, found = resolved.stream_class, resolved.stream_settings, dict[str, Dataset]()
    if needs_data(cls, settings):
        found = {one.registry_name: one for one in datasets(cls, settings, None)}
    reference = resolved.run.reference.name
    if reference in registry.entries("dataset"):
        one = load_dataset(str(reference))
        found |= {one.registry_name: one} if one.folders else {}
    return found


def reference_images(resolved: Resolved, stream: Stream) -> int | None:
    """Return how many images the reference set of a run has.

    Parameters
    ----------
    resolved : Resolved
    stream : Stream
        As of `stream_of`.

    Returns
    -------
    int or None
        By its published size where it is not at hand; None where nobody published it. 0 where the run has none.
    """
    wanted = resolved.run.reference
    try:
        found = load_reference(resolved, stream)
        return 0 if found is None else len(found.images)
    except UserError:
        known = load_dataset(str(wanted.name)).expected if wanted.name in registry.entries("dataset") else None
        return None if known is None else min(known.train, wanted.images or known.train)


SIZES = {"MB": 1e-3, "GB": 1.0, "TB": 1e3}
"""Units of `Dataset.size` in GB."""


def gigabytes(size: str) -> float | None:
    """Return a size that is written for people, such as ``"2.8 GB"``, in GB; None for any other text."""
    found = re.fullmatch(r"([\d.]+) (MB|GB|TB)", size)
    return float(found[1]) * SIZES[found[2]] if found else None

"""Labelled images: in memory, in files, packed many to a file, or a selection of others."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from bench.core.errors import UserError

DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot decode."""

PACKS_HELD = 2
"""Packed files held in memory at once: that of the task at hand and the one being evaluated."""


class Images(Protocol):
    """Labelled images, opened one at a time.

    Attributes
    ----------
    labels : int64 array [images]
        Index into the task's class names.
    digest : str
        Hash that identifies the data in records: it changes when labels or order do, and when images do as far as that
        shows without reading all of them, wherever they lie.

    Notes
    -----
    An attribute ``cache_id``, where there is one, identifies the pixels in the cache of decoded images instead: it may
    change with places and times, so that a change that `digest` cannot see is no danger.
    """

    labels: np.ndarray
    digest: str

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image at `index`; a UserError names the file if it cannot be decoded."""
        ...


class ArrayImages:
    """Images held in memory.

    Parameters
    ----------
    pixels : uint8 array [images, height, width, 3]
    labels : int array [images]
    """

    def __init__(self, pixels: np.ndarray, labels: Sequence[int] | np.ndarray):
        self.pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.pixels) != len(self.labels):
            raise UserError(f"{len(self.pixels)} images have {len(self.labels)} labels: give one label for each image")
        self.digest = hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


class FileImages:
    """Images in files, opened when they are asked for.

    The digest is of names, sizes and labels: reading whole datasets for a hash would take longer than many runs.

    Parameters
    ----------
    root : Path
        Folder that the names are relative to.
    names : sequence of str
    labels : int array [images]

    Raises
    ------
    UserError
        If a file is missing or cannot be decoded; the sentence names it.
    """

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int] | np.ndarray):
        self.root = root
        self.names = list(names)
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.names) != len(self.labels):
            raise UserError(f"{len(self.names)} files in {root} have {len(self.labels)} labels: give one label a file")
        try:
            found = [(root / name).stat() for name in self.names]
        except OSError as error:
            raise UserError(
                f"the image {error.filename} cannot be read ({error.strerror}): check the dataset"
            ) from error
        sizes = [status.st_size for status in found]
        self.digest = hashlib.sha256(json.dumps([self.names, sizes, self.labels.tolist()]).encode()).hexdigest()
        state = [str(root.resolve()), self.names, sizes, [status.st_mtime_ns for status in found]]
        self.cache_id = hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        path = self.root / self.names[index]
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except DAMAGE as error:
            raise UserError(f"the image {path} cannot be decoded ({error}): restore or remove the file") from error


class PackedImages:
    """Images of which many lie in one file, read when the first of them is asked for and let go when others are.

    Parameters
    ----------
    read : callable
        Returns the pixels, uint8 [images, height, width] or [images, height, width, 3].
    labels : int array [images]
    content : str
        Hash of the file, or whatever else identifies the pixels.
    """

    def __init__(self, read: Callable[[], np.ndarray], labels: Sequence[int] | np.ndarray, content: str):
        self.read = read
        self.labels = np.asarray(labels, dtype=np.int64)
        self.digest = hashlib.sha256(content.encode() + self.labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        with _UNPACKING:  # several threads decode: one of them reads the file
            pixels = _unpacked(self.read)
        return Image.fromarray(pixels[index])


_UNPACKING = threading.Lock()


def let_go() -> None:
    """Let go of the packed files that are held."""
    _unpacked.cache_clear()


@lru_cache(maxsize=PACKS_HELD)
def _unpacked(read: Callable[[], np.ndarray]) -> np.ndarray:
    return read()


class Subset:
    """A selection of other images, in the given order.

    Parameters
    ----------
    images : Images
    indices : int array [chosen]
    labels : int array [chosen], optional
        Their labels in this selection, where classes are numbered anew; those of `images` by default.
    whole : bool
        Say that other selections use the rest: decoded images are then kept for all of `images` together.
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int] | np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
        whole: bool = False,
    ):
        self.images = images
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = images.labels[self.indices] if labels is None else np.asarray(labels, dtype=np.int64)
        self.whole = whole
        content = images.digest.encode() + self.indices.tobytes()
        if labels is not None:
            content += self.labels.tobytes()
        self.digest = hashlib.sha256(content).hexdigest()
        pixels = cache_id(images).encode() + self.indices.tobytes()
        self.cache_id = hashlib.sha256(pixels).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return self.images.image(int(self.indices[index]))


def cache_id(images: Images) -> str:
    """What identifies the pixels of a set in the cache of decoded images."""
    return str(getattr(images, "cache_id", images.digest))


def alone(images: Images) -> Images:
    """A selection whose decoded images are kept without those that it leaves out."""
    return (
        Subset(images.images, images.indices, images.labels) if isinstance(images, Subset) and images.whole else images
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB: 16-bit and float grey levels are scaled, palettes looked up, transparency dropped.

    Images in RGB or 8-bit grey stay as they are, since open_clip's transform resizes first and converts to RGB after.
    """
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith(("I;16", "I")):  # 16 bits a pixel; Pillow holds some of them in 32
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image))
        top = levels.max()
        return Image.fromarray((levels * (255 if top <= 1 else 1)).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")

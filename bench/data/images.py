"""Labelled images: in memory, in files, packed many to a file, a selection of others, or several sets as one.

It is one file, because all of them are kinds of the same thing; half of it is documentation for authors of datasets.
"""

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
from bench.data.on_disk import checked_states, too_large

DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot decode."""

PACKS_HELD = 2
"""Packed files held in memory at once: that of the current task and the one being evaluated."""


class Images(Protocol):
    """Labelled images, opened one at a time.

    Any class with these members will do; it need not derive from this one.

    Attributes
    ----------
    labels : int64 array [images]
        Indices into the task's class names.
    digest : str
        Hash that identifies the data in records, whatever folder they are in. It changes with the labels, the order and
        the images, as far as a change of the images shows without reading all of them.

    Notes
    -----
    An optional attribute ``cache_id`` (str) identifies the pixels in the cache of decoded images, instead of `digest`.
    It may change with the folder and with the time of the last change, so that the cache notices what `digest` cannot.
    """

    labels: np.ndarray
    digest: str

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def image(self, index: int) -> Image.Image:
        """Return one image, decoded.

        Parameters
        ----------
        index : int
            From 0.

        Returns
        -------
        PIL.Image.Image
            In any mode and size.

        Raises
        ------
        UserError
            If it cannot be decoded; the sentence names the file.
        """
        ...


class ArrayImages:
    """Images held in memory.

    Parameters
    ----------
    pixels : uint8 array [images, height, width, 3]
        In RGB.
    labels : int array [images]
        Indices into the task's class names.

    Attributes
    ----------
    pixels : uint8 array [images, height, width, 3]
        As given.
    labels : int64 array [images]
        As given.
    digest : str
        SHA-256 of pixels and labels, as hex digits.

    Raises
    ------
    UserError
        If there are not as many labels as images.
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
        """Return one image, in RGB."""
        return Image.fromarray(self.pixels[index])


class FileImages:
    """Images in files, each opened when it is needed.

    Parameters
    ----------
    root : Path
        Folder that the names are relative to.
    names : sequence of str
        Paths of the files.
    labels : int array [images]
        Indices into the task's class names.

    Attributes
    ----------
    root : Path
        As given.
    names : list of str
        As given.
    labels : int64 array [images]
        As given.
    digest : str
        SHA-256 of names, sizes and labels, as hex digits: reading whole datasets for a hash would take longer than many
        runs.
    cache_id : str
        The same of folder, names, sizes and times of the last change.

    Raises
    ------
    UserError
        If a file is missing or above Pillow's limit of pixels, or there are not as many labels as files.
    """

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int] | np.ndarray):
        self.root = root
        self.names = list(names)
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.names) != len(self.labels):
            raise UserError(f"{len(self.names)} files in {root} have {len(self.labels)} labels: give one label a file")
        states = checked_states(root, self.names)
        sizes = [status.st_size for status in states]
        self.digest = hashlib.sha256(json.dumps([self.names, sizes, self.labels.tolist()]).encode()).hexdigest()
        state = [str(root.resolve()), self.names, sizes, [status.st_mtime_ns for status in states]]
        self.cache_id = hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one image, decoded from its file; a `UserError` names a file that cannot be decoded."""
        path = self.root / self.names[index]
        try:
            # The EXIF orientation is ignored, as by torchvision: docs/streams.md.
            with Image.open(path) as image:
                image.load()
                return image
        except Image.DecompressionBombError as error:
            raise too_large(path, error) from error
        except DAMAGE as error:
            raise UserError(f"the image {path} cannot be decoded ({error}): restore or remove the file") from error


class PackedImages:
    """Images of which many are in one file, read when the first of them is needed and released when others are.

    Parameters
    ----------
    read : callable
        Takes nothing and returns the pixels, uint8 [images, height, width] or [images, height, width, 3].
    labels : int array [images]
        Indices into the task's class names.
    content : str
        Hash of the file, or whatever else identifies the pixels.

    Attributes
    ----------
    read : callable
        As given.
    labels : int64 array [images]
        As given.
    digest : str
        SHA-256 of `content` and labels, as hex digits.
    """

    def __init__(self, read: Callable[[], np.ndarray], labels: Sequence[int] | np.ndarray, content: str):
        self.read = read
        self.labels = np.asarray(labels, dtype=np.int64)
        self.digest = hashlib.sha256(content.encode() + self.labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one image, grey or in RGB."""
        with _UNPACKING:  # several threads decode: one of them reads the file
            pixels = _unpacked(self.read)
        return Image.fromarray(pixels[index])


_UNPACKING = threading.Lock()


def release_packs() -> None:
    """Release the packed files that are held in memory."""
    _unpacked.cache_clear()


@lru_cache(maxsize=PACKS_HELD)
def _unpacked(read: Callable[[], np.ndarray]) -> np.ndarray:
    return read()


class Subset:
    """A selection of other images, in the given order.

    Parameters
    ----------
    images : Images
        The images to select from.
    indices : int array [chosen]
        Indices of the chosen images; an image may be chosen more than once.
    labels : int array [chosen], optional
        Their labels in this selection, if classes have other indices here; those of `images` by default.
    whole : bool, optional
        Cache decoded images of the whole set that is selected from, because other selections use the rest of it.

    Attributes
    ----------
    images : Images
        As given.
    indices : int64 array [chosen]
        As given.
    labels : int64 array [chosen]
        The labels in this selection.
    whole : bool
        As given.
    digest : str
        SHA-256 of the digest of `images`, the indices and labels of its own, as hex digits.
    cache_id : str
        The same of the cache identity of `images` and the indices.
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
        """Return one of the chosen images."""
        return self.images.image(int(self.indices[index]))


class Joined:
    """Several sets of images as one, in the given order.

    Parameters
    ----------
    parts : sequence of Images
        At least one.
    labels : sequence of int array [images of the part], optional
        The labels of each part's images here, if classes have other indices; the parts' own by default.

    Attributes
    ----------
    parts : tuple of Images
        As given.
    labels : int64 array [images]
        The labels here.
    digest : str
        SHA-256 of the digests of the parts and the labels, as hex digits.
    cache_id : str
        The same of the cache identities of the parts.
    """

    def __init__(self, parts: Sequence[Images], labels: Sequence[np.ndarray] | None = None):
        self.parts = tuple(parts)
        self.labels = np.concatenate([part.labels for part in parts] if labels is None else list(labels))
        self._ends = np.cumsum([len(part) for part in parts])
        content = json.dumps([part.digest for part in parts]).encode() + self.labels.astype(np.int64).tobytes()
        self.digest = hashlib.sha256(content).hexdigest()
        self.cache_id = hashlib.sha256(json.dumps([cache_id(part) for part in parts]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one image, as its part does.

        Parameters
        ----------
        index : int

        Returns
        -------
        PIL.Image.Image
        """
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part].image(index - (int(self._ends[part - 1]) if part else 0))


def cache_id(images: Images) -> str:
    """Return what identifies the pixels of a set in the cache of decoded images.

    Parameters
    ----------
    images : Images

    Returns
    -------
    str
    """
    return str(getattr(images, "cache_id", images.digest))


def alone(images: Images) -> Images:
    """Return the same images, cached without the set that they are selected from.

    Parameters
    ----------
    images : Images
        Perhaps a `Subset` with `whole` set.

    Returns
    -------
    Images
        The same subset without `whole`; anything else as given.
    """
    if isinstance(images, Subset) and images.whole:
        return Subset(images.images, images.indices, images.labels)
    return images


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB: scale 16-bit and float grey levels, look up palettes, drop transparency.

    Images in RGB or 8-bit grey stay as they are, since open_clip's transform resizes first and converts to RGB after.

    Parameters
    ----------
    image : PIL.Image.Image
        In any mode.

    Returns
    -------
    PIL.Image.Image
        In RGB or 8-bit grey.
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

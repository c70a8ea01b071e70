"""Random transforms of training images: the field's presets, drawn for every image by itself.

What an image becomes depends on its generator alone, not on other images, threads or processes. torchvision's
transforms draw from the global generator, so the numbers are drawn here, as theirs are, and its functions do the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from bench.core.console import watched
from bench.data.images import DAMAGE, FileImages, Images, Subset, release_packs
from bench.data.on_disk import threads
from bench.data.pixel_cache import PixelCache

RATIO = (3 / 4, 4 / 3)
"""Between which width over height of a random box lies, here as in torchvision."""

LARGEST = 2.0
"""Images are kept at this many times the size that the model reads at most, to bound what they take on the disk."""

TOGETHER = 256
"""Number of images that are decoded at a time when a whole set is stored; it bounds the memory for that."""

Box = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""


@dataclass(frozen=True)
class Preset:
    """One way to change training images at random.

    Attributes
    ----------
    area : tuple of two float or None
        Share of the image that a random box covers, which is then resized to what the model reads; None without a box.
    square : bool
        Resize as for a test, and cut out at a random place instead of the centre.
    bilinear : bool
        Resize with bilinear instead of bicubic interpolation.
    flip : float
        Probability of a mirror image.
    """

    area: tuple[float, float] | None = None
    square: bool = False
    bilinear: bool = False
    flip: float = 0.0

    @property
    def needs_original(self) -> bool:
        """Whether it needs more of the image than a test does."""
        return self.square or self.area is not None

    def side(self, size: tuple[int, int]) -> int:
        """Return how long the shorter side of an image must be so that no box is enlarged, within `LARGEST`.

        Parameters
        ----------
        size : tuple of two int
            Height and width that the model reads.

        Returns
        -------
        int
        """
        factor = 1.0 if self.area is None else min(LARGEST, 1 / math.sqrt(self.area[0] * RATIO[0]))
        return math.ceil(max(size) * factor)


PRESETS = {
    "crop": Preset(area=(0.9, 1.0)),
    "clip": Preset(square=True),
    "inflora": Preset(area=(0.08, 1.0), bilinear=True, flip=0.5),
    "pilot": Preset(area=(0.05, 1.0), bilinear=True, flip=0.5),
    "flip": Preset(flip=0.5),
}
"""The choices of train.augment but "none".

``crop`` is open_clip's training transform, used by ZSCL, MoE-Adapters, RAIL and CoDyRA. ``clip`` is that of CLIP's
paper (arXiv 2103.00020, section 2.4): a random square from the resized image. ``inflora`` is that of InfLoRA's code for
CIFAR-100 and ImageNet-R, ``pilot`` that of LAMDA-PILOT's and LoDA's.
"""


def random_box(height: int, width: int, area: tuple[float, float], generator: torch.Generator) -> Box:
    """Draw the box that torchvision's ``RandomResizedCrop`` draws from a generator in the same state.

    The area is uniform, width over height is uniform in its logarithm; after ten boxes that do not fit the largest
    central one with an allowed shape is taken.

    Parameters
    ----------
    height, width : int
        Of the image, in pixels.
    area : tuple of two float
        Smallest and largest share of the image.
    generator : torch.Generator

    Returns
    -------
    tuple of four int
        Top, left, height and width.
    """
    shapes = torch.log(torch.tensor(RATIO))
    for _ in range(10):
        target = height * width * torch.empty(1).uniform_(*area, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(*shapes.tolist(), generator=generator)).item()
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, size=(1,), generator=generator))
            return top, int(torch.randint(0, width - w + 1, size=(1,), generator=generator)), h, w
    h, w = height, width
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def changed(image: Image.Image, preset: Preset, size: tuple[int, int], generator: torch.Generator) -> np.ndarray:
    """Return an image as the model reads it, changed at random, before normalisation.

    Parameters
    ----------
    image : PIL.Image.Image
        In RGB.
    preset : Preset
        One that needs the original.
    size : tuple of two int
        Height and width that the model reads.
    generator : torch.Generator
        Of this image.

    Returns
    -------
    uint8 array [3, height, width]
    """
    mode = InterpolationMode.BILINEAR if preset.bilinear else InterpolationMode.BICUBIC
    if preset.area is not None:
        box = random_box(image.height, image.width, preset.area, generator)
        image = functional.resized_crop(image, *box, size=list(size), interpolation=mode)
    else:
        image = functional.resize(image, _covering(image.height, image.width, size), interpolation=mode)
        spare = (image.height - size[0], image.width - size[1])
        place = [int(torch.randint(0, n + 1, size=(), generator=generator)) if n else 0 for n in spare]
        image = functional.crop(image, *place, *size)
    if _mirrored(preset, generator):
        image = functional.horizontal_flip(image)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def flipped(pixels: Tensor, preset: Preset, generators: Iterator[torch.Generator]) -> Tensor:
    """Return images as a test reads them, some of them mirrored.

    Parameters
    ----------
    pixels : uint8 Tensor [images, 3, height, width]
    preset : Preset
    generators : iterator of torch.Generator
        One for each image.

    Returns
    -------
    uint8 Tensor [images, 3, height, width]
    """
    mirrored = torch.tensor([_mirrored(preset, generator) for generator in generators], dtype=torch.bool)
    return torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)


class Originals:
    """The images of a set as they were before resizing and cropping, at most so large as is of use; kept on disk.

    Parameters
    ----------
    images : Images
    opened : callable
        Takes the index of an image and returns it decoded; raises a `UserError` that names it.
    side : int
        Length of the shorter side, in pixels, to which larger images are reduced.
    cache : PixelCache or None
        Keeps them; without one every pass decodes them again.
    key : str
        Identifies the images in the cache.
    """

    def __init__(
        self, images: Images, opened: Callable[[int], Image.Image], side: int, cache: PixelCache | None, key: str
    ):
        self.side = side
        self._images = images
        self._opened = opened
        self._cache = cache
        self._key = f"{key}-{side}"
        self._sizes: np.ndarray | None = None
        self._starts: np.ndarray | None = None
        self._stored: np.ndarray | None = None

    def open(self) -> None:
        """Decode and store the images, or find them in the cache; to be called before `image`, by one thread."""
        if self._cache is None:
            return
        cache, self._cache = self._cache, None
        measured = cache.get(f"{self._key}-sizes", (len(self._images), 8), self._measured)
        if measured is None:
            return
        self._sizes = measured.view(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(3 * self._sizes.astype(np.int64).prod(axis=1))])
        self._stored = cache.get(self._key, (int(self._starts[-1]),), self._parts)

    def image(self, index: int) -> Image.Image:
        """Return one image in RGB.

        Parameters
        ----------
        index : int

        Returns
        -------
        PIL.Image.Image
        """
        if self._stored is None or self._sizes is None or self._starts is None:
            return self._reduced(index)
        height, width = self._sizes[index].tolist()
        pixels = self._stored[self._starts[index] : self._starts[index + 1]]
        return Image.fromarray(pixels.reshape(height, width, 3))

    def _measured(self) -> Iterator[np.ndarray]:
        sizes = threads().map(lambda index: _size(self._images, index), range(len(self._images)))
        kept = [reduced_size(height, width, self.side) for width, height in sizes]
        yield np.asarray(kept, dtype=np.int32).reshape(-1, 2).view(np.uint8)

    def _parts(self) -> Iterator[np.ndarray]:
        starts = range(0, len(self._images), TOGETHER)
        for start in watched("decode images", starts, len(starts)):
            part = range(start, min(start + TOGETHER, len(self._images)))
            yield np.concatenate([np.asarray(image).ravel() for image in threads().map(self._reduced, part)])
        release_packs()

    def _reduced(self, index: int) -> Image.Image:
        image = self._opened(index).convert("RGB")
        height, width = reduced_size(image.height, image.width, self.side)
        if self._sizes is not None:  # the room that was measured for it, whatever its header said
            height, width = self._sizes[index].tolist()
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


class Changed:
    """Reads the images of a set, each changed at random.

    Parameters
    ----------
    originals : Originals
    position : callable
        From the index of an image in the set to that in `originals`.
    preset : Preset
    size : tuple of two int
        Height and width that the model reads.
    draw : callable
        Takes the index of an image in the set and returns its generator.
    """

    def __init__(
        self,
        originals: Originals,
        position: Callable[[int], int],
        preset: Preset,
        size: tuple[int, int],
        draw: Callable[[int], torch.Generator],
    ):
        self._originals = originals
        self._position = position
        self._preset = preset
        self._size = size
        self._draw = draw

    def __call__(self, chosen: Tensor) -> Tensor:
        """Return some images.

        Parameters
        ----------
        chosen : int64 Tensor [images]

        Returns
        -------
        uint8 Tensor [images, 3, height, width]
        """
        self._originals.open()
        return torch.from_numpy(np.stack(list(threads().map(self._one, chosen.tolist()))))

    def _one(self, index: int) -> np.ndarray:
        return changed(self._originals.image(self._position(index)), self._preset, self._size, self._draw(index))


def reduced_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size of an image whose shorter side is to be at most `side` pixels long, as (height, width)."""
    return (height, width) if min(height, width) <= side else _covering(height, width, (side, side))


def _covering(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image that covers another size and exceeds it in one direction at most."""
    if size[0] * width >= size[1] * height:
        return size[0], max(size[1], int(size[0] * width / height))
    return max(size[0], int(size[1] * height / width)), size[1]


def _mirrored(preset: Preset, generator: torch.Generator) -> bool:
    return preset.flip > 0 and bool(torch.rand(1, generator=generator) < preset.flip)


def _size(images: Images, index: int) -> tuple[int, int]:
    """Return width and height of an image; of a file from its header alone."""
    if isinstance(images, Subset):
        return _size(images.images, int(images.indices[index]))
    if isinstance(images, FileImages):
        try:
            with Image.open(images.root / images.names[index]) as image:
                return image.size
        except DAMAGE:
            pass  # decoding it names it
    return images.image(index).size

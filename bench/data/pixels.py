"""Images as the model reads them: decoded, resized and cropped once, then served as batches.

It is one file, because all of it is about one set of images; a third of it is documentation of parameters.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.core.code import code_sha256
from bench.core.console import watched
from bench.core.errors import UserError
from bench.data.augment import PRESETS, Changed, Originals, flipped
from bench.data.images import DAMAGE, ArrayImages, Images, Joined, Subset, cache_id, release_packs, to_rgb
from bench.data.on_disk import threads
from bench.data.pixel_cache import PixelCache
from bench.model.clip import Clip

Item = TypeVar("Item")
Result = TypeVar("Result")

DECODING = 1
"""Version of `to_rgb` and of everything else between a file and its pixels that is not in a library's version."""

DECODED_TOGETHER = 256
"""Number of images that are decoded at a time when a whole set is decoded; it bounds the memory for that."""


class Pixels:
    """The images of one set, ready for one model.

    Parameters
    ----------
    images : Images
        The images.
    clip : Clip
        The model. Its transform is deterministic, so the result can be kept.
    keep : bool
        Keep the uint8 result in memory after the first pass, instead of decoding again on every pass.
    cache : PixelCache, optional
        Keeps the result on disk instead, for later runs too.
    base : Pixels, optional
        The pixels of the set that `images`, a `Subset`, selects from, if they are kept for all its subsets together.

    Attributes
    ----------
    images : Images
        As given.
    clip : Clip
        As given.
    keep : bool
        As given.
    cache : PixelCache or None
        As given; None for images that are in memory already, which cost little to decode.
    base : Pixels or None
        As given.
    labels : int64 Tensor [images]
        Indices into the task's class names, on the CPU.
    """

    def __init__(
        self,
        images: Images,
        clip: Clip,
        keep: bool,
        cache: PixelCache | None = None,
        base: "Pixels | None" = None,
    ):
        self.images = images
        self.clip = clip
        self.keep = keep
        self.cache = None if isinstance(images, ArrayImages) else cache
        self.base = base
        self.labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64))
        self._chosen = torch.from_numpy(images.indices) if base is not None and isinstance(images, Subset) else None
        self._decoded: Tensor | None = None
        self._asked_cache = False
        self._kept: Originals | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all images as the model reads them: (images, 3, height, width)."""
        return (len(self), 3, *self.clip.image_size)

    @property
    def nbytes(self) -> int:
        """Bytes that the images take in memory; 0 if another set holds them."""
        return 0 if self.base is not None else int(np.prod(self.shape))

    def uint8(self, indices: Tensor) -> Tensor:
        """Return some images, before normalisation.

        Parameters
        ----------
        indices : int64 Tensor [chosen]
            Indices of the images, in any order.

        Returns
        -------
        uint8 Tensor [chosen, 3, height, width]
            On the CPU.

        Raises
        ------
        UserError
            If an image cannot be decoded; the sentence names it.
        """
        if self.base is not None:
            assert self._chosen is not None
            return self.base.uint8(self._chosen[indices])
        if self.cache is not None and not self._asked_cache:
            stored = self.cache.get(self._key(), self.shape, self._parts)
            self._decoded = None if stored is None else torch.from_numpy(stored)
            self._asked_cache = True
        if self._decoded is None and self.keep:
            self._decoded = torch.from_numpy(np.concatenate(list(self._parts())))
        if self._decoded is not None:
            return self._decoded[indices]
        return torch.from_numpy(self._decode(indices.tolist()))

    def for_one_pass(self) -> "Pixels":
        """Return the same images for a single pass, after which none of them is kept, in memory or on disk.

        What is decoded already is read from where it is.

        Returns
        -------
        Pixels
        """
        if self._decoded is not None:
            return self
        base = None if self.base is None else self.base.for_one_pass()
        stored = self.cache is not None and self.cache.find(self._key(), shape=list(self.shape)) is not None
        return Pixels(self.images, self.clip, False, self.cache if stored else None, base)

    def identity(self) -> list[str]:
        """Return what identifies these images, their labels and their preprocessing, for the key of a shared result.

        Returns
        -------
        list of str
        """
        return [cache_id(self.images), self.images.digest, self.clip.transform_id, *self._code()]

    def _key(self) -> str:
        identity = [cache_id(self.images), self.clip.transform_id, DECODING, *self._code()]
        return hashlib.sha256(" ".join(map(str, identity)).encode()).hexdigest()[:32]

    def _code(self) -> list[str]:
        """Return the hashes of plug-ins' code that decides what the pixels are."""
        return [_plugin_code(cls) for cls in self._classes()]

    def _classes(self) -> Iterator[type]:
        """Yield the classes whose code decides what the pixels are."""
        yield type(self.clip)
        waiting = [self.images]
        while waiting:
            images = waiting.pop()
            if isinstance(images, Subset):
                waiting.append(images.images)
            elif isinstance(images, Joined):
                waiting += reversed(images.parts)
            else:
                yield type(images)

    def _parts(self) -> Iterator[np.ndarray]:
        starts = range(0, len(self), DECODED_TOGETHER)
        for start in watched("decode images", starts, len(starts)):
            yield self._decode(range(start, min(start + DECODED_TOGETHER, len(self))))
        release_packs()

    def _decode(self, indices: "list[int] | range") -> np.ndarray:
        return np.stack(list(threads().map(self._one, indices)))

    def _one(self, index: int) -> np.ndarray:
        return self.clip.to_uint8(self._opened(index))

    def _opened(self, index: int) -> Image.Image:
        try:
            return to_rgb(self.images.image(index))
        except DAMAGE as error:
            where = f"image {index} of class {int(self.labels[index])} in a set of {len(self)}"
            raise UserError(f"{where} cannot be decoded ({error}): restore or remove it") from error

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images in batches.

        Parameters
        ----------
        batch_size : int
            Images in a batch; the last batch may be smaller.
        generator : torch.Generator, optional
            Shuffles the images; without it they come in order.
        drop_last : bool, optional
            Leave out the last batch if it is smaller than `batch_size`.

        Yields
        ------
        pixels : float32 Tensor [batch, 3, height, width]
            Normalised, on the model's device.
        labels : int64 Tensor [batch]
            On the model's device.

        Raises
        ------
        UserError
            If an image cannot be decoded; the sentence names it.
        """
        return self.take(self.plan(batch_size, generator, drop_last))

    def plan(
        self, batch_size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Sequence[Tensor]:
        """Return which images each batch has.

        Parameters
        ----------
        batch_size : int
            As for `batches`.
        generator : torch.Generator, optional
            As for `batches`.
        drop_last : bool, optional
            As for `batches`.

        Returns
        -------
        sequence of int64 Tensor [batch]
            Indices of images.
        """
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        if drop_last:
            order = order[: len(order) - len(order) % batch_size]
        return order.split(batch_size) if len(order) else ()

    def take(
        self, planned: Sequence[Tensor], read: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield planned batches; the next one is read while the caller works on one.

        Parameters
        ----------
        planned : sequence of int64 Tensor [batch]
            Indices of images, as from `plan`.
        read : callable, optional
            What reads the images instead of `uint8`, as from `augmented`.

        Yields
        ------
        pixels : float32 Tensor [batch, 3, height, width]
            Normalised, on the model's device.
        labels : int64 Tensor [batch]
            On the model's device.

        Raises
        ------
        UserError
            If an image cannot be decoded; the sentence names it.
        """
        for pixels, labels in ahead(partial(self._read, read or self.uint8), planned):
            yield self.clip.normalize(pixels), labels.to(self.clip.device, non_blocking=True)

    def augmented(self, name: str, draw: Callable[[int], torch.Generator]) -> Callable[[Tensor], Tensor]:
        """Return what reads images changed at random.

        Parameters
        ----------
        name : str
            A preset of `bench.data.augment`.
        draw : callable
            Takes the index of an image and returns the generator that decides how it is changed.

        Returns
        -------
        callable
            As `uint8`.
        """
        preset = PRESETS[name]
        if not preset.needs_original:
            return lambda chosen: flipped(self.uint8(chosen), preset, map(draw, chosen.tolist()))
        size = self.clip.image_size
        if self.base is None:
            return Changed(self._originals(preset.side(size)), int, preset, size, draw)
        chosen_here = self.images.indices if isinstance(self.images, Subset) else np.arange(len(self))
        return Changed(self.base._originals(preset.side(size)), lambda i: int(chosen_here[i]), preset, size, draw)

    def _originals(self, side: int) -> Originals:
        if self._kept is None or self._kept.side != side:
            self._kept = Originals(self.images, self._opened, side, self.cache, f"{self._key()}-originals")
        return self._kept

    def _read(self, source: Callable[[Tensor], Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return uint8 images and labels on the CPU, in memory that a CUDA device can copy from by itself."""
        # Where processes share a batch, one of them may have no image of it.
        pixels = source(chosen) if len(chosen) else torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        labels = self.labels[chosen]
        return (pixels.pin_memory(), labels.pin_memory()) if self.clip.device.type == "cuda" else (pixels, labels)


def ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what is read for every item, in order; the next one is read while the caller works on one.

    Parameters
    ----------
    read : callable
        Called with an item, in another thread.
    items : iterable
        The items.

    Yields
    ------
    object
        What `read` returned.
    """
    with ThreadPoolExecutor(1, "read") as reader:
        pending: Future[Result] | None = None
        for item in items:
            before, pending = pending, reader.submit(read, item)
            if before is not None:
                yield before.result()
        if pending is not None:
            yield pending.result()


def _plugin_code(cls: type) -> str:
    """Return the hash of a plug-in's code; of the suite's own classes `DECODING` is the version."""
    return "" if cls.__module__.startswith(("bench.data.", "bench.model.")) else code_sha256(cls)


class PixelStore:
    """Keeps decoded image sets in memory while they fit; the least recently used ones are dropped first.

    Parameters
    ----------
    clip : Clip
        The model.
    budget : int
        Bytes that all sets kept in memory may take together; a set larger than this is read from the cache, or else
        decoded on every pass.
    cache : PixelCache, optional
        The cache on disk.
    """

    def __init__(self, clip: Clip, budget: int, cache: PixelCache | None = None):
        self.clip = clip
        self.budget = budget
        self.cache = cache
        self._sets: OrderedDict[int, Pixels] = OrderedDict()

    def get(self, images: Images) -> Pixels:
        """Return the pixels of an image set.

        Parameters
        ----------
        images : Images

        Returns
        -------
        Pixels
            The same object as long as it is kept.
        """
        key = id(images)
        if key not in self._sets:
            base = self.get(images.images) if isinstance(images, Subset) and images.whole else None
            pixels = Pixels(images, self.clip, False, self.cache, base)
            pixels.keep = pixels.nbytes <= self.budget
            self._sets[key] = pixels
        pixels = self._sets[key]
        if pixels.base is not None:
            self._sets.move_to_end(id(pixels.base.images))
        self._sets.move_to_end(key)
        while sum(p.nbytes for p in self._sets.values() if p.keep) > self.budget and len(self._sets) > 1:
            self._forget(next(iter(self._sets)))
        return pixels

    def release(self, images: Images) -> None:
        """Drop a set that will not be needed again soon.

        Parameters
        ----------
        images : Images
            It need not be kept.
        """
        self._forget(id(images))

    def _forget(self, key: int) -> None:
        """Drop a set and the selections from it, which would hold on to it."""
        gone = self._sets.pop(key, None)
        if gone is not None:
            for other in [k for k, pixels in self._sets.items() if pixels.base is gone]:
                del self._sets[other]

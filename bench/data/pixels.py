"""Images as the model reads them: decoded, resized and cropped once, then served as batches."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.core.console import watched
from bench.core.errors import UserError
from bench.data.images import DAMAGE, ArrayImages, Images, Subset, cache_id, let_go, to_rgb
from bench.data.pixel_cache import PixelCache
from bench.model.clip import Clip

Item = TypeVar("Item")
Result = TypeVar("Result")

DECODING = 1
"""Version of `to_rgb` and of the rest of the way from a file to bytes that no library's version tells."""

DECODED_TOGETHER = 256
"""Images decoded at a time when a whole set is; bounds the memory that takes."""


class Pixels:
    """The images of one set, ready for one model.

    Parameters
    ----------
    images : Images
    clip : Clip
        Its transform is applied; it is deterministic, so the result can be kept.
    keep : bool
        Hold the uint8 result in memory after the first pass instead of decoding anew on every pass.
    cache : PixelCache, optional
        Keeps the result on disk instead.
    base : Pixels, optional
        Of the set that `images`, a `Subset`, selects from, if that is kept for all its subsets together.
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
        # Images that lie in memory already cost little to decode.
        self.cache = None if isinstance(images, ArrayImages) else cache
        self.base = base
        self.labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64))
        self._chosen = torch.from_numpy(images.indices) if base is not None and isinstance(images, Subset) else None
        self._decoded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all images as the model reads them: (images, 3, height, width)."""
        return (len(self), 3, *self.clip.image_size)

    @property
    def nbytes(self) -> int:
        """Bytes that keeping the images takes; none where another set holds them."""
        return 0 if self.base is not None else int(np.prod(self.shape))

    def uint8(self, indices: Tensor) -> Tensor:
        """The chosen images, uint8 [images, 3, height, width], on the CPU."""
        if self.base is not None:
            assert self._chosen is not None
            return self.base.uint8(self._chosen[indices])
        if self._decoded is None and self.cache is not None:
            stored = self.cache.get(self._key(), self.shape, self._parts)
            self._decoded = None if stored is None else torch.from_numpy(stored)
            self.cache = None
        if self._decoded is None and self.keep:
            self._decoded = torch.from_numpy(np.concatenate(list(self._parts())))
        if self._decoded is not None:
            return self._decoded[indices]
        return torch.from_numpy(self._decode(indices.tolist()))

    def identity(self) -> list[str]:
        """What says which images these are, with which labels, and what is made of them."""
        return [cache_id(self.images), self.images.digest, self.clip.transform_id]

    def _key(self) -> str:
        return hashlib.sha256(f"{cache_id(self.images)} {self.clip.transform_id} {DECODING}".encode()).hexdigest()[:32]

    def _parts(self) -> Iterator[np.ndarray]:
        starts = range(0, len(self), DECODED_TOGETHER)
        for start in watched("decode images", starts, len(starts)):
            yield self._decode(range(start, min(start + DECODED_TOGETHER, len(self))))
        let_go()

    def _decode(self, indices: "list[int] | range") -> np.ndarray:
        return np.stack(list(_threads().map(self._one, indices)))

    def _one(self, index: int) -> np.ndarray:
        try:
            return self.clip.to_uint8(to_rgb(self.images.image(index)))
        except DAMAGE as error:
            where = f"image {index} of class {int(self.labels[index])} in a set of {len(self)}"
            raise UserError(f"{where} cannot be decoded ({error}): restore or remove it") from error

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of normalised images [batch, 3, height, width] and labels [batch], on the model's device.

        Parameters
        ----------
        generator : torch.Generator, optional
            Shuffles the images; without it they come in order.
        drop_last : bool
            Leave out the last batch if it is smaller than `batch_size`.
        """
        return self.take(self.plan(batch_size, generator, drop_last))

    def plan(
        self, batch_size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Sequence[Tensor]:
        """The indices of the images of each batch; parameters as for `batches`."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        if drop_last:
            order = order[: len(order) - len(order) % batch_size]
        return order.split(batch_size) if len(order) else ()

    def take(self, planned: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches with the given indices, as from `batches`; the next one is read while one is worked on."""
        for pixels, labels in ahead(self._read, planned):
            yield self.clip.normalize(pixels), labels.to(self.clip.device, non_blocking=True)

    def _read(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images as uint8 and labels, on the CPU, in memory that a CUDA device can copy from on its own."""
        pixels, labels = self.uint8(chosen), self.labels[chosen]
        return (pixels.pin_memory(), labels.pin_memory()) if self.clip.device.type == "cuda" else (pixels, labels)


def ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What is read for every item, in order; the next one is being read while the caller works on one."""
    with ThreadPoolExecutor(1, "read") as reader:
        pending: Future[Result] | None = None
        for item in items:
            before, pending = pending, reader.submit(read, item)
            if before is not None:
                yield before.result()
        if pending is not None:
            yield pending.result()


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Pillow works outside of Python's lock, so threads decode in parallel."""
    return ThreadPoolExecutor(os.cpu_count(), "decode")


class PixelStore:
    """Keeps decoded image sets while they fit into memory, the least recently used ones leaving first.

    Parameters
    ----------
    clip : Clip
    budget : int
        Bytes that all sets kept in memory may take together; a set larger than this is read from the cache, or else
        decoded on every pass.
    cache : PixelCache, optional
    """

    def __init__(self, clip: Clip, budget: int, cache: PixelCache | None = None):
        self.clip = clip
        self.budget = budget
        self.cache = cache
        self._sets: OrderedDict[int, Pixels] = OrderedDict()

    def get(self, images: Images) -> Pixels:
        """The `Pixels` of an image set; the same object as long as it is kept."""
        key = id(images)
        if key not in self._sets:
            base = self.get(images.images) if isinstance(images, Subset) and images.whole else None
            pixels = Pixels(images, self.clip, False, self.cache, base)
            pixels.keep = pixels.nbytes <= self.budget
            self._sets[key] = pixels
        found = self._sets[key]
        if found.base is not None:
            self._sets.move_to_end(id(found.base.images))
        self._sets.move_to_end(key)
        while sum(p.nbytes for p in self._sets.values() if p.keep) > self.budget and len(self._sets) > 1:
            self._forget(next(iter(self._sets)))
        return found

    def release(self, images: Images) -> None:
        """Let go of a set that will not be needed again soon."""
        self._forget(id(images))

    def _forget(self, key: int) -> None:
        """Drop a set and the selections from it, which would hold on to it."""
        gone = self._sets.pop(key, None)
        if gone is not None:
            for other in [k for k, pixels in self._sets.items() if pixels.base is gone]:
                del self._sets[other]

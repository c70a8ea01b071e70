"""Images as the model reads them: decoded, resized and cropped once, then served as batches."""

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bench.clip import Clip
from bench.errors import UserError
from bench.task import Images


class Pixels:
    """The images of one set, ready for one model.

    Parameters
    ----------
    images : Images
    clip : Clip
        Its transform is applied; it is deterministic, so the result can be kept.
    keep : bool
        Hold the uint8 result in memory after the first pass instead of decoding anew on every pass.
    """

    def __init__(self, images: Images, clip: Clip, keep: bool):
        self.images = images
        self.clip = clip
        self.keep = keep
        self.labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64))
        self._decoded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Size of all images as the model reads them, in bytes."""
        height, width = self.clip.image_size
        return len(self) * 3 * height * width

    def uint8(self, indices: Tensor) -> Tensor:
        """The chosen images, uint8 [images, 3, height, width], on the CPU."""
        if self._decoded is not None:
            return self._decoded[indices]
        if self.keep:
            self._decoded = self._decode(torch.arange(len(self)))
            return self._decoded[indices]
        return self._decode(indices)

    def _decode(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self._one(index) for index in indices.tolist()]))

    def _one(self, index: int) -> np.ndarray:
        try:
            return self.clip.to_uint8(self.images.image(index))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
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
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        stop = count - count % batch_size if drop_last else count
        for start in range(0, stop, batch_size):
            chosen = order[start : min(start + batch_size, stop)]
            yield self.clip.normalize(self.uint8(chosen)), self.labels[chosen].to(self.clip.device)


class PixelStore:
    """Keeps decoded image sets in memory while they fit, the least recently used ones leaving first.

    Parameters
    ----------
    clip : Clip
    budget : int
        Bytes that all kept sets may take together; a set larger than this is decoded on every pass.
    """

    def __init__(self, clip: Clip, budget: int):
        self.clip = clip
        self.budget = budget
        self._sets: OrderedDict[int, Pixels] = OrderedDict()

    def get(self, images: Images) -> Pixels:
        """The `Pixels` of an image set; the same object as long as it is kept."""
        key = id(images)
        if key not in self._sets:
            pixels = Pixels(images, self.clip, keep=False)
            pixels.keep = pixels.nbytes <= self.budget
            self._sets[key] = pixels
        self._sets.move_to_end(key)
        while sum(p.nbytes for p in self._sets.values() if p.keep) > self.budget and len(self._sets) > 1:
            self._sets.popitem(last=False)
        return self._sets[key]

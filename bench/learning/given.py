"""What a run gives a method beside the training images of a task: a reference set, and what is to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bench.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.pixels import Pixels


@dataclass(frozen=True)
class Reference:
    """Images and sentences outside of the stream; nothing of them is ever measured.

    Attributes
    ----------
    name : str
        As in ``reference=``.
    sentences : tuple of str
    pixels : Pixels
        The images. Their labels mean nothing.
    """

    name: str
    sentences: tuple[str, ...]
    pixels: Pixels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def images(self, chosen: Tensor) -> Tensor:
        """Return some images.

        Parameters
        ----------
        chosen : Tensor
            Their indices, int64 [batch], on the CPU.

        Returns
        -------
        Tensor
            Normalised, float32 [batch, 3, height, width], on the model's device.
        """
        return self.pixels.clip.normalize(self.pixels.uint8(chosen))

    @cached_property
    def tokens(self) -> Tensor:
        """The tokenised sentences.

        Returns
        -------
        Tensor
            int64 [sentences, context length], on the model's device.

        Raises
        ------
        UserError
            If there are no sentences.
        """
        if not self.sentences:
            raise UserError(f"reference={self.name} has no sentences: add reference.sentences=FILE, one a line")
        return self.pixels.clip.tokenize(self.sentences)


@dataclass(frozen=True)
class ToForget:
    """What a request to forget names, for the method: `TaskData.batch_to_forget` gives the images in batches.

    Attributes
    ----------
    classes : tuple of int
        The classes to forget, as indices into the prompts of the task.
    earlier : tuple of int
        The classes that earlier requests named.
    retained : tuple of int
        The classes that are to stay, with or without images.
    pixels : Pixels or None
        The training images of `classes`; None where there are none.
    """

    classes: tuple[int, ...]
    earlier: tuple[int, ...]
    retained: tuple[int, ...]
    pixels: Pixels | None

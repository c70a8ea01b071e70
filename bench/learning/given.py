"""What a run gives a method beside training images: features of images, a reference set, what is to be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.compute.world import World
from bench.core.console import watched
from bench.core.errors import UserError
from bench.core.lazy import no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.pixels import Pixels


@no_grad
def encoded(
    pixels: Pixels, batch_size: int, label: str, world: World, may_stop: Callable[[], None] = lambda: None
) -> Tensor:
    """Return the features of all images of a set, as the model is now.

    Parameters
    ----------
    pixels : Pixels
    batch_size : int
        Images per forward pass.
    label : str
        What the progress bar says.
    world : World
        The processes that share the run; each encodes its share of the batches and has all features in the end.
    may_stop : callable, optional
        Called between two batches; raises where the run has been asked to stop.

    Returns
    -------
    Tensor
        Of unit length, float32 [images, width of embedding], in the order of the images, on the CPU.
    """
    clip, once = pixels.clip, pixels.for_one_pass()
    features = torch.zeros(len(pixels), clip.model.visual.output_dim, device=clip.device)
    planned = world.my_batches(once.plan(batch_size))
    for chosen, (batch, _) in zip(planned, watched(label, once.take(planned), len(planned)), strict=True):
        features[chosen.to(clip.device)] = clip.encode_images(batch)
        may_stop()
    world.sum([features])  # each image was encoded by one process
    return features.cpu()


@dataclass(frozen=True)
class FrozenFeatures:
    """The features of image sets under towers that stay as they are: each set is encoded once, and kept on the CPU.

    Attributes
    ----------
    batch_size : int
        Images per forward pass.
    weights : str
        Hash of the model's weights.
    shared : callable
        As `Context.shared`: what an earlier run on this machine has encoded is read from the disk.
    world : World
        The processes that share the run.
    may_stop : callable
        Called between two batches; raises where the run has been asked to stop.
    """

    batch_size: int
    weights: str
    shared: Callable[[str, Any, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]
    world: World
    may_stop: Callable[[], None]
    _kept: dict[tuple[str, ...], Tensor] = field(default_factory=dict, init=False, repr=False)

    def of(self, pixels: Pixels, label: str) -> Tensor:
        """Return the features of all images of a set in the precision of products that the model has now.

        Parameters
        ----------
        pixels : Pixels
        label : str
            What the progress bar says where the set is encoded.

        Returns
        -------
        Tensor
            Of unit length, float32 [images, width of embedding], in the order of the images, on the CPU. The same one
            every time: do not change it.
        """
        key = (*pixels.identity(), str(pixels.clip.precision))
        if key not in self._kept:

            def encode() -> dict[str, Tensor]:
                return {"features": encoded(pixels, self.batch_size, label, self.world, self.may_stop)}

            shared = self.shared("image features", [self.weights, *key, self.batch_size], encode)
            self._kept[key] = shared["features"]
        return self._kept[key]

    def take(self, pixels: Pixels, label: str, planned: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Return features and labels of planned batches, as `Pixels.take` yields images and labels.

        Several processes encode together, so that one without any batch encodes too.

        Parameters
        ----------
        pixels : Pixels
        label : str
            As for `of`.
        planned : sequence of Tensor
            Indices of images, int64 [batch].

        Returns
        -------
        iterator of (Tensor, Tensor)
            Features, float32 [batch, width of embedding], and labels, int64 [batch], on the model's device.
        """
        features, device = self.of(pixels, label), pixels.clip.device  # not only when the first batch is asked for
        return ((features[chosen].to(device), pixels.labels[chosen].to(device)) for chosen in planned)


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

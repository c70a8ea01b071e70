"""The linear maps of a transformer: their weights, the activations they read, and low-rank updates on them.

Every method of this suite reads and writes a few matrices ``y = x W^T + b``. `bench.model.layers` puts layers into a
model that compute through the maps described here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

TOWERS = ("image", "text")
"""The two towers of a CLIP model."""

KINDS = ("q", "k", "v", "o", "fc1", "fc2")
"""The linear maps of a block: query, key, value and output of the attention, first and second layer of the MLP."""

Recorder = Callable[["Tensor", Optional["Tensor"]], None]
"""Receives the activation of a site, [batch, tokens, width], and a mask, bool [batch, tokens] or None.

The mask is true for tokens up to and including the end-of-text token; it is None for images, where all tokens count.
"""


class Update:
    """A change of a linear map's weight by a product of two factors: ``x W^T + b + scale * (x A^T) B^T``.

    A method derives from it where A and B are made of other tensors, of gates or of a core between frozen factors for
    example: it says in `factors` how. The engine asks for them wherever the map is used, forms the weight, merges the
    product, and keeps `tensors` where a run is broken off.

    Attributes
    ----------
    scale : float
        Factor of the product; 1 unless the update says its own.
    """

    scale: float = 1.0

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two factors as functions of the update's tensors; it is asked for them at every use of the map.

        Returns
        -------
        A : Tensor [rank, in]
            Float32, on the model's device; differentiable with respect to what is trained.
        B : Tensor [out, rank]
            The same.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say its factors")

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the update is made of, trained or frozen; by default its attributes.

        Returns
        -------
        dict of str to Tensor
            The same objects until the task ends.
        """
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    @property
    def rank(self) -> int:
        """Number of columns of B: the largest rank that the change can have."""
        return self.factors()[0].shape[0]

    def delta(self) -> Tensor:
        """Return the change of the weight, ``scale * B A``.

        Returns
        -------
        Tensor [out, in]
            In the precision of the factors; differentiable with respect to what they are made of.
        """
        A, B = self.factors()
        return self.scale * (B @ A)


@dataclass
class LowRank(Update):
    """A low-rank update of one linear map: the map computes ``x W^T + b + scale * (x A^T) B^T``.

    Attributes
    ----------
    A : Tensor [rank, in]
        Down-projection. Papers that store weights as [in, out] write its transpose.
    B : Tensor [out, rank]
        Up-projection.
    scale : float
        LoRA's alpha / rank.

    Notes
    -----
    LoRA: Hu et al., arXiv 2106.09685.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A [rank, in] and B [out, rank]."""
        return self.A, self.B


class Branches(Update):
    """Several updates of one map at a time: their changes are added up, each with its own scale.

    The map still forms one weight: the factors of all branches are joined, so several cost what one of their common
    rank costs. A tensor may be in the branches of several maps, as an A that all maps of a site share; its gradients
    add up.

    Parameters
    ----------
    *branches : Update
        Of any kind; at least one.

    Attributes
    ----------
    branches : tuple of Update
    """

    def __init__(self, *branches: Update):
        self.branches: Sequence[Update] = branches

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the rows of all A [sum of ranks, in], and the columns of all B [out, sum of ranks] times their scales.

        Returns
        -------
        A, B : Tensor
        """
        pairs = [branch.factors() for branch in self.branches]
        scaled = [branch.scale * B for branch, (_, B) in zip(self.branches, pairs, strict=True)]
        return torch.cat([A for A, _ in pairs]), torch.cat(scaled, dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of every branch, named by its number, as in ``0.A``.

        Returns
        -------
        dict of str to Tensor
        """
        parts = enumerate(branch.tensors() for branch in self.branches)
        return {f"{index}.{name}": tensor for index, part in parts for name, tensor in part.items()}


@dataclass
class Site:
    """An activation that one or several linear maps read; statistics are gathered per site, not per map.

    Attributes
    ----------
    name : str
        ``image.3.qkv``, ``image.3.o``, ``image.3.fc1``, ``image.3.fc2``, and the same for the text tower.
    width : int
        Number of features of the activation.
    maps : list of LinearMap
        The maps that read it, in the order of the rows of their common parameter.
    recorder : callable or None
        While set, every forward pass calls ``recorder(x, mask)`` with the activation, [batch, tokens, width], and with
        the tokens that count, bool [batch, tokens], or None where all do. `Clip.recording` sets it.
    """

    name: str
    width: int
    maps: list[LinearMap] = field(default_factory=list)
    recorder: Recorder | None = None


@dataclass
class LinearMap:
    """One linear map of one block.

    Attributes
    ----------
    name : str
        ``image.3.q``: tower, block, kind (q, k, v, o, fc1, fc2).
    parameter : Tensor [rows, in]
        The parameter that holds the weight; q, k and v of a block share one.
    bias_parameter : Tensor [rows] or None
        The parameter that holds the bias.
    rows : slice
        The rows of both parameters that belong to this map.
    site : Site
        The activation that the map reads.
    update : Update or None
        The update in force: a `LowRank`, several `Branches`, or a kind of a method's own.
    """

    name: str
    parameter: Tensor
    bias_parameter: Tensor | None
    rows: slice
    site: Site
    update: Update | None = None

    @property
    def tower(self) -> str:
        """The tower, ``"image"`` or ``"text"``."""
        return self.name.split(".")[0]

    @property
    def block(self) -> int:
        """Index of the block in its tower, from 0."""
        return int(self.name.split(".")[1])

    @property
    def kind(self) -> str:
        """The kind, one of `KINDS`."""
        return self.name.split(".")[2]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.rows.stop - self.rows.start

    @property
    def in_features(self) -> int:
        """Number of inputs: the width of the site."""
        return self.parameter.shape[1]

    @property
    def weight(self) -> Tensor:
        """View of the weight without the update; writing to it writes to the model.

        Returns
        -------
        Tensor [out, in]
            Detached, in the model's own precision (float32) and on its device.
        """
        return self.parameter.detach()[self.rows]

    @property
    def grad(self) -> Tensor:
        """View of the weight's gradient.

        Returns
        -------
        Tensor [out, in]

        Raises
        ------
        RuntimeError
            If no gradient has reached the parameter.
        """
        if self.parameter.grad is None:
            raise RuntimeError(f"no gradient has reached {self.name}")
        return self.parameter.grad[self.rows]

    def add(self, delta: Tensor) -> None:
        """Add a change to the weight in place, in the weight's own precision.

        Parameters
        ----------
        delta : Tensor [out, in]
            Of any floating-point type, on the weight's device.
        """
        self.weight.add_(delta.detach().to(self.parameter.dtype))  # the view is detached: no gradient is recorded

    def merge(self) -> None:
        """Add the update to the weight and remove it; do nothing without one."""
        if self.update is not None:
            self.add(self.update.delta().detach())
            self.update = None

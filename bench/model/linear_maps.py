"""The linear maps of a transformer: their weights, the activations they read, and low-rank updates on them.

Every method of this suite reads and writes a few matrices ``y = x W^T + b``. `bench.model.layers` puts layers into a
model that compute through the maps described here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOWERS = ("image", "text")
"""The two halves of a CLIP model."""

KINDS = ("q", "k", "v", "o", "fc1", "fc2")
"""The linear maps of a block: query, key, value and output of the attention, first and second layer of the MLP."""

Recorder = Callable[["Tensor"], None]


@dataclass
class LowRank:
    """A low-rank update of one linear map: the map computes ``x W^T + b + scale * (x A^T) B^T``.

    Attributes
    ----------
    A : Tensor [rank, in]
        Down-projection. Papers that store weights as [in, out] write its transpose.
    B : Tensor [out, rank]
        Up-projection.
    scale : float
        LoRA's alpha / rank.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    def delta(self) -> Tensor:
        """The change of the weight, ``scale * B A``, [out, in]."""
        return self.scale * (self.B @ self.A)


@dataclass
class Site:
    """An activation that one or several linear maps read; statistics are gathered per site, not per map.

    Attributes
    ----------
    name : str
        ``image.3.qkv``, ``image.3.o``, ``image.3.fc1``, ``image.3.fc2``, and the same under ``text.``
    width : int
        Number of features of the activation.
    maps : list of LinearMap
        The maps that read it, in the order of the rows of their common parameter.
    recorder : callable or None
        Called with the activation, [batch, tokens, width], on every forward pass while set.
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
    parameter, bias_parameter : Tensor
        The parameters that hold the map, possibly together with others.
    rows : slice
        The rows of `parameter` that belong to this map.
    site : Site
        The activation it reads.
    update : LowRank or None
        The update in force.
    """

    name: str
    parameter: Tensor
    bias_parameter: Tensor | None
    rows: slice
    site: Site
    update: LowRank | None = None

    @property
    def tower(self) -> str:
        return self.name.split(".")[0]

    @property
    def block(self) -> int:
        return int(self.name.split(".")[1])

    @property
    def kind(self) -> str:
        return self.name.split(".")[2]

    @property
    def out_features(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def in_features(self) -> int:
        return self.parameter.shape[1]

    @property
    def weight(self) -> Tensor:
        """View of the weight, [out, in], without the update; writing to it writes to the model."""
        return self.parameter.detach()[self.rows]

    @property
    def grad(self) -> Tensor:
        """View of the weight's gradient, [out, in].

        Raises
        ------
        RuntimeError
            If no gradient has reached the parameter.
        """
        if self.parameter.grad is None:
            raise RuntimeError(f"no gradient has reached {self.name}")
        return self.parameter.grad[self.rows]

    def add(self, delta: Tensor) -> None:
        """Add `delta` [out, in] to the weight in the weight's own precision."""
        self.weight.add_(delta.detach().to(self.parameter.dtype))  # the view is detached: no gradient is recorded

    def merge(self) -> None:
        """Fold the update into the weight and detach it; nothing to do without one."""
        if self.update is not None:
            self.add(self.update.delta().detach())
            self.update = None

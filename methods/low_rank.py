"""What low-rank methods share: the settings that say which maps are adapted, and the attached updates themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import KINDS, TOWERS, LinearMap, LowRank, Surroundings, UserError, setting, torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import Clip


@dataclass
class PerTower:
    """One number for each tower."""

    image: float
    text: float

    def of(self, linear_map: LinearMap) -> float:
        """The number for the tower of a map."""
        return self.image if linear_map.tower == "image" else self.text


@dataclass
class Targets:
    """Which linear maps a method adapts."""

    maps: list[str] = setting(
        ["q", "k", "v", "o"], "kinds of linear maps to adapt: attention q, k, v, o, and fc1, fc2", choices=KINDS
    )
    towers: list[str] = setting(["image", "text"], "towers whose maps are adapted", choices=TOWERS)
    rank: int = setting(16, "columns of the update", low=1, symbol="r")

    def check(self) -> list[str]:
        """What is wrong whatever the model is."""
        if self.maps and self.towers:
            return []
        return ["method.maps and method.towers choose no linear map: name at least one kind and one tower"]

    def fits(self, surroundings: Surroundings) -> list[str]:
        """What does not fit stream and model; the inputs and outputs of all maps are at least as wide as the blocks."""
        narrow = {tower: width for tower, width in surroundings.widths.items() if tower in self.towers}
        tower = min(narrow, key=lambda name: narrow[name], default="")
        if not tower or self.rank <= narrow[tower]:
            return []
        width = narrow[tower]
        return [f"method.rank={self.rank} is above the width {width} of the {tower} tower: choose at most {width}"]


def targets(clip: Clip, settings: Targets) -> list[LinearMap]:
    """The maps to adapt, in forward order.

    Raises
    ------
    UserError
        If the rank exceeds the width of one of them.
    """
    chosen, rank = clip.select(settings.maps, settings.towers), settings.rank
    narrowest = min(chosen, key=lambda m: min(m.in_features, m.out_features))
    width = min(narrowest.in_features, narrowest.out_features)
    if rank > width:
        raise UserError(f"method.rank={rank} is above the width {width} of {narrowest.name}: choose at most {width}")
    return chosen


def attach(linear_map: LinearMap, A: Tensor, scale: float, B: Tensor | None = None) -> LowRank | None:
    """Attach an update with the given factors to a map, B = 0 by default; None (nothing attached) for rank zero.

    Parameters
    ----------
    A : Tensor [rank, in]
    scale : float
    B : Tensor [out, rank], optional
    """
    if A.shape[0] == 0:
        return None
    like = linear_map.parameter
    factor = A.to(like).contiguous()
    up = torch.zeros(linear_map.out_features, A.shape[0]).to(like) if B is None else B.to(like).contiguous()
    linear_map.update = LowRank(factor, up, scale)
    return linear_map.update


def kaiming_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """LoRA's usual start for A [rank, in]: uniform in +-1/sqrt(in) (Kaiming with a = sqrt 5), drawn on the CPU."""
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)

"""What low-rank methods have in common: the settings that choose the maps to adapt, and the attached updates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import KINDS, TOWERS, LinearMap, LowRank, Surroundings, TaskData, Train, UserError, setting, torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import Clip


@dataclass
class PerTower:
    """One number for each tower.

    Attributes
    ----------
    image, text : float
        The number for all maps of the tower.
    """

    image: float
    text: float

    def of(self, linear_map: LinearMap) -> float:
        """Return the number for the tower of a map."""
        return self.image if linear_map.tower == "image" else self.text


@dataclass
class Targets:
    """The settings that choose which linear maps a method adapts.

    Attributes
    ----------
    maps : list of str
        Kinds of maps, of `KINDS`.
    towers : list of str
        Of `TOWERS`.
    rank : int
        Columns of an update.
    """

    maps: list[str] = setting(
        ["q", "k", "v", "o"], "kinds of linear maps to adapt: attention q, k, v, o, and fc1, fc2", choices=KINDS
    )
    towers: list[str] = setting(["image", "text"], "towers whose maps are adapted", choices=TOWERS)
    rank: int = setting(16, "columns of the update", low=1, symbol="r")

    def check(self) -> list[str]:
        """Return what is wrong with the settings, whatever the model is."""
        if self.maps and self.towers:
            return []
        return ["method.maps and method.towers choose no linear map: name at least one kind and one tower"]

    def fits(self, surroundings: Surroundings) -> list[str]:
        """Return what does not fit stream and model; no map is narrower than the blocks of its tower."""
        narrow = {tower: width for tower, width in surroundings.widths.items() if tower in self.towers}
        tower = min(narrow, key=lambda name: narrow[name], default="")
        if not tower or self.rank <= narrow[tower]:
            return []
        width = narrow[tower]
        return [f"method.rank={self.rank} is above the width {width} of the {tower} tower: choose at most {width}"]


@dataclass
class FromWeights(Targets):
    """The same for a method whose A and B start as a part of the weights: weight decay would erase that part."""

    def fits(self, surroundings: Surroundings) -> list[str]:
        """Return what does not fit stream, model and budget."""
        return [*super().fits(surroundings), *erased(surroundings.train)]


def erased(train: Train) -> list[str]:
    """Return what is wrong with a budget where A and B start as a part of the weights; empty without weight decay."""
    if not train.weight_decay:
        return []
    return [
        f"train.weight_decay={train.weight_decay:g} would erase the part of the weights that A and B start from: set "
        "train.weight_decay=0"
    ]


def split_off(linear_map: LinearMap, A: Tensor, B: Tensor) -> None:
    """Make a part of a weight its update: the map computes with W_res + B A, where W_res = W - B A is frozen.

    Parameters
    ----------
    linear_map : LinearMap
        Its weight becomes W_res until the update is merged.
    A : Tensor [rank, in], float64
    B : Tensor [out, rank], float64
        Both are rounded to the precision of the weight before their product is taken away.
    """
    update = attach(linear_map, A, 1.0, B)
    if update is not None:
        linear_map.add(-(update.B.to(B) @ update.A.to(A)).to(linear_map.parameter))


def allow_no_decay(task: TaskData) -> None:
    """Refuse a task whose own budget has weight decay, for the same methods; `Targets.fits` knows the run's only.

    Parameters
    ----------
    task : TaskData

    Raises
    ------
    UserError
        If its budget has weight decay.
    """
    for problem in erased(task.budget):
        raise UserError(f"{problem} for task {task.name} too")


def targets(clip: Clip, settings: Targets) -> list[LinearMap]:
    """Return the maps to adapt, in forward order.

    Parameters
    ----------
    clip : Clip
        The model.
    settings : Targets
        Which of its maps.

    Returns
    -------
    list of LinearMap

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
    """Attach an update with the given factors to a map.

    Parameters
    ----------
    linear_map : LinearMap
        It keeps the update until it is merged.
    A : Tensor [rank, in]
        Down-projection.
    scale : float
        Factor of the update.
    B : Tensor [out, rank], optional
        Up-projection; zero by default.

    Returns
    -------
    LowRank or None
        None, and nothing attached, for rank zero.
    """
    if A.shape[0] == 0:
        return None
    like = linear_map.parameter
    factor = A.to(like).contiguous()
    up = torch.zeros(linear_map.out_features, A.shape[0]).to(like) if B is None else B.to(like).contiguous()
    linear_map.update = LowRank(factor, up, scale)
    return linear_map.update


def tensors_named(maps: Iterable[LinearMap], *names: str) -> list[Tensor]:
    """Return some tensors of the updates of maps, in the order of the maps; shared ones once.

    Parameters
    ----------
    maps : iterable of LinearMap
        Those without an update are skipped.
    *names : str
        As `Update.tensors` calls them: ``"B"``.

    Returns
    -------
    list of Tensor
    """
    tensors = [m.update.tensors()[name] for m in maps if m.update for name in names]
    return list({id(tensor): tensor for tensor in tensors}.values())


def kaiming_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw LoRA's usual start for A: uniform in +-1/sqrt(in), which is Kaiming's rule with a = sqrt 5.

    Parameters
    ----------
    shape : tuple of int
        (rank, in).
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor [rank, in], float32
        On the CPU.
    """
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)

"""The subspaces of tasks, and how they overlap with each other and with the principal subspaces of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.analysis.options import Options
from bench.analysis.overlap import feature_basis, overlap, overlap_by_chance, principal_angles
from bench.analysis.parts import Directions
from bench.core.console import watched
from bench.data.pixels import PixelStore
from bench.data.stream import Task
from bench.learning.moments import second_moments
from bench.learning.task_data import Context, TaskData
from bench.metrics.scalars import mean
from bench.model.clip import Clip
from bench.model.linear_maps import LinearMap

Bases = dict[str, Tensor]
"""Name of a site -> the subspace of a task's features there, float64 [width, r]."""


@dataclass(frozen=True)
class Overlap:
    """What two subspaces have in common, averaged over the maps of a tower.

    Attributes
    ----------
    tower : {"image", "text"}
    task : str
        The task whose feature subspace is one of the two.
    other : str or None
        The task whose feature subspace is the other one; None for the principal subspace of the weights.
    energy : float or None
        Share of the weights' energy that their principal subspace holds; None for two tasks.
    overlap : float
        Mean squared cosine of the principal angles, from 0 to 1; not a number where a subspace is empty in every map.
    by_chance : float
        What random subspaces of the same dimensions have.
    angle : float
        Mean principal angle in degrees.
    dimensions : tuple of two float
        Dimensions of both subspaces as shares of the width, means over the maps.
    maps : int
        How many maps the means are over.
    """

    tower: str
    task: str
    other: str | None
    energy: float | None
    overlap: float
    by_chance: float
    angle: float
    dimensions: tuple[float, float]
    maps: int


def task_bases(clip: Clip, store: PixelStore, tasks: Sequence[Task], context: Context, options: Options) -> list[Bases]:
    """Return the feature subspaces of every task, at the sites that the chosen maps read.

    Features are those of all training images, or of the prompts in the text tower; second moments are not centred.
    """
    maps = clip.select(options.maps, options.towers)
    bases = []
    for index, task in enumerate(tasks):
        data = TaskData(index, task.name, task.prompts, clip.tokenize(task.prompts), store.get(task.train), context)
        moments = second_moments(clip, data, maps)
        bases.append({name: feature_basis(one.gram, options.feature_energy) for name, one in moments.items()})
    return bases


def overlaps(
    names: Sequence[str], bases: Sequence[Bases], decomposed: Sequence[tuple[LinearMap, Directions]], options: Options
) -> list[Overlap]:
    """Return the overlap of every two tasks, and of every task with the weights at every energy between 0 and 1.

    Parameters
    ----------
    names : sequence of str
        Of the tasks.
    bases : sequence of dict
        As `task_bases` returns them.
    decomposed : sequence of (LinearMap, Directions)
        As `bench.analysis.measure.decompose` returns it.
    options : Options
    """
    pairs = []
    energies = [one for one in options.energies if 0 < one < 1]
    for tower in options.towers:
        chosen = [(one, directions) for one, directions in decomposed if one.tower == tower]
        for first in watched(f"overlaps, {tower}", range(len(names)), len(names)):
            own = [bases[first][one.site.name] for one, _ in chosen]
            for second in range(first + 1, len(names)):
                others = [bases[second][one.site.name] for one, _ in chosen]
                pairs.append(_mean(tower, names[first], names[second], None, own, others))
            for energy in energies:
                weights = [directions.basis(directions.count(energy)) for _, directions in chosen]
                pairs.append(_mean(tower, names[first], None, energy, own, weights))
    return pairs


def _mean(
    tower: str, task: str, other: str | None, energy: float | None, first: Sequence[Tensor], second: Sequence[Tensor]
) -> Overlap:
    """Average over pairs of subspaces; pairs with an empty one have no overlap and are left out."""
    compared: dict[tuple[int, int], tuple[float, float, float]] = {}  # q, k and v have one subspace of features
    values = []
    for a, b in zip(first, second, strict=True):
        if min(a.shape[1], b.shape[1]):
            key = id(a), id(b)
            compared[key] = compared.get(key) or _compare(a, b)
            values.append(compared[key])
    over, by_chance, angle = (mean(column) for column in zip(*values, strict=True)) if values else (math.nan,) * 3
    share, share_of_other = (mean([one.shape[1] / one.shape[0] for one in group]) for group in (first, second))
    return Overlap(tower, task, other, energy, over, by_chance, angle, (share, share_of_other), len(values))


def _compare(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    width, r = a.shape
    return overlap(a, b), overlap_by_chance(width, r, b.shape[1]), float(principal_angles(a, b).mean())

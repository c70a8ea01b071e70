"""Pictures of an analysis: accuracy over the energy that is left, and overlaps as a heat map over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.measure import PARTS, Measured
from bench.analysis.report import Groups
from bench.analysis.subspaces import Overlap
from bench.compare.pictures.look import MARKERS, PAGE, canvas, numbers
from bench.compare.views import PALETTE, SEQUENTIAL, UNTRAINED
from bench.metrics.scalars import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"principal": "principal part alone", "rest": "rest alone"}
"""What the parts are called in a picture."""


def parts(measured: Sequence[Measured], groups: Groups, by_chance: Sequence[float]) -> Figure:
    """Draw mean accuracy over the energy of the principal part, a panel for every place where weights are replaced.

    Parameters
    ----------
    measured : sequence of Measured
    groups : mapping of str to sequence of int
        As from `bench.analysis.report.groups`; a line each, with a marker of its own.
    by_chance : sequence of float
        Percent of every test set that an answer drawn at random gets right; their mean is a dotted line.
    """
    places = list(dict.fromkeys(one.state.place for one in measured))
    figure = canvas(PAGE, 2.6 + 0.16 * len(groups))
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0].tolist()
    for place, axes in zip(places, panels, strict=True):
        for part, color in zip(PARTS, PALETTE, strict=False):
            those = [one for one in measured if (one.state.place, one.state.part) == (place, part)]
            for marker, (name, chosen) in zip(MARKERS, groups.items(), strict=False):
                means = [mean([one.accuracies[index] for index in chosen]) for one in those]
                label = f"{LABELS[part]}, {name}" if len(groups) > 1 else LABELS[part]
                energies = [100 * one.state.energy for one in those]
                axes.plot(energies, means, marker=marker, markersize=3, linewidth=1, color=color, label=label)
        axes.axhline(mean(by_chance), color=UNTRAINED, linestyle=":", linewidth=0.8, label="chance")
        axes.set_title("both towers" if place not in ("image", "text") else f"{place} tower")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.supxlabel("energy of the principal part (%)", fontsize=8)
    figure.supylabel("accuracy (%)", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def overlaps(measured: Sequence[Overlap], names: Sequence[str]) -> Figure:
    """Draw overlaps as a heat map: a row a task, columns for the tasks and for the weights at every energy.

    Parameters
    ----------
    measured : sequence of Overlap
    names : sequence of str
        Of the tasks, in order.
    """
    towers = list(dict.fromkeys(one.tower for one in measured))
    tables = {tower: table([one for one in measured if one.tower == tower], names) for tower in towers}
    columns, _ = tables[towers[0]]
    height = 0.19 * len(names) + 1.1
    figure = canvas(PAGE, height * len(towers))
    grid = figure.subplots(len(towers), 1, squeeze=False).flatten().tolist()
    points = min(7.0, 0.8 * PAGE * 72 / len(columns) / 3)  # a number is about three times as wide as a digit is high
    for axes, (tower, (_, cells)) in zip(grid, tables.items(), strict=True):
        image = axes.imshow(cells, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
        numbers(axes, image, cells, "{:.2f}", points)
        axes.set_title(f"{tower} tower")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=6.5)
        axes.set_xticks(range(len(columns)), columns, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.axvline(len(names) - 0.5, color="white", linewidth=3)
    figure.colorbar(image, ax=grid, label="overlap", aspect=30, pad=0.01)
    return figure


def table(pairs: Sequence[Overlap], names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the columns of a heat map and its cells.

    Parameters
    ----------
    pairs : sequence of Overlap
        Of one tower.
    names : sequence of str
        Of the tasks, in order.

    Returns
    -------
    columns : list of str
    cells : float array [tasks, columns]
        1 for a task and itself; not a number where a subspace is empty.
    """
    energies = list(dict.fromkeys(one.energy for one in pairs if one.energy is not None))
    cells = np.full((len(names), len(names) + len(energies)), math.nan)
    np.fill_diagonal(cells, 1.0)
    place = {name: index for index, name in enumerate(names)}
    for one in pairs:
        row = place[one.task]
        if one.other is not None:
            cells[row, place[one.other]] = cells[place[one.other], row] = one.overlap
        elif one.energy is not None:
            cells[row, len(names) + energies.index(one.energy)] = one.overlap
    return [*names, *(f"weights {100 * one:.4g} %" for one in energies)], cells

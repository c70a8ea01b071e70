"""Pictures of single tasks: how far methods are from the baseline on each, and how the training loss falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench.compare.per_task import apart, per_task
from bench.compare.pictures.look import PAGE, canvas, dashes, left_out, legend, look, shown
from bench.compare.runs import TITLES
from bench.compare.views import View
from bench.metrics.kinds import RANKED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST = 100.0
"""Points at which intervals are cut off: no difference of two accuracies is larger."""


def tasks(view: View) -> Figure | None:
    """Draw how far each method is from the baseline in Last on every task, with intervals that hold one by one.

    Of requests to forget it is the H-mean.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where there is no baseline, or nothing in common with it.
    """
    against = view.section.against
    names, ranked = per_task(view.section.field).tasks, RANKED[view.section.kind]
    if against is None or not names:
        return None
    others = [line for line in shown(view) if line.group is not against.baseline]
    rows = apart(against, [line.group for line in others], names, ranked)
    drawn = [(line, row) for line, row in zip(others, rows, strict=True) if any(one.mean is not None for one in row)]
    if not drawn:
        return None
    across = min(3, len(drawn))
    down = math.ceil(len(drawn) / across)
    figure = canvas(PAGE, down * (0.14 * len(names) + 0.4) + 0.3)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    for (line, row), axes in zip(drawn, grid, strict=False):
        known = [(at, one.mean, one.low, one.high) for at, one in enumerate(row) if one.mean is not None]
        arms = [
            (0.0, 0.0) if low is None or high is None else (mean - low, high - mean) for _, mean, low, high in known
        ]
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.errorbar(
            [mean for _, mean, _, _ in known], [at for at, *_ in known], xerr=np.array(arms).T, linestyle="",
            markersize=3.5, elinewidth=0.9, capsize=1.5, **look(line),
        )  # fmt: skip
        axes.set_title(line.short)
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(len(names)), [view.section.choice.named(name) for name in names])
    for axes in grid[max(len(drawn) - across, 0) : len(drawn)]:
        axes.tick_params(labelbottom=True)  # also above a place that stays empty
    low, high = grid[0].get_xlim()
    grid[0].set_xlim(max(low, -WIDEST), min(high, WIDEST))
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    base = view.lines[view.baseline].short if view.baseline is not None else ""
    figure.supxlabel(f"{TITLES[ranked]}: difference to {base} (points)", fontsize=8)
    return figure


def losses(view: View) -> Figure | None:
    """Draw the training loss after each pass over the images of every task, with standard errors.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where no loss was recorded.
    """
    lines = [line for line in shown(view) if line.losses]
    if not lines:
        return None
    across = 4
    down = math.ceil(len(view.tasks) / across)
    missing = left_out(view, 115)
    figure = canvas(PAGE, 1.45 * down + 0.2 + 0.16 * (math.ceil(len(lines) / 4) + len(missing.splitlines())))
    grid = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for line in lines:
        style = {**look(line), "linestyle": dashes(line), "markersize": 2.5, "linewidth": 1}
        for axes, passes in zip(grid, line.losses, strict=False):
            errors = [one.standard_error or 0.0 for one in passes]
            at = range(1, len(passes) + 1)
            axes.errorbar(at, [one.mean for one in passes], yerr=errors, elinewidth=0.7, **style)
    for axes, task in zip(grid, view.tasks, strict=False):
        axes.set_title(task)
        axes.grid(axis="y", alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in grid[len(view.tasks) :]:
        axes.set_visible(False)
    figure.supxlabel("\n".join(filter(None, ("pass over the images", missing))), fontsize=8)
    figure.supylabel("training loss", fontsize=8)
    legend(figure, grid[:1], "outside upper center", 4)
    return figure

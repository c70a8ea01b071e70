"""Pictures of accuracies: one against another, matrices, and curves over the stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.compare.extremes import contrast
from bench.compare.pictures.look import (
    COLUMN,
    PAGE,
    canvas,
    dashes,
    left_out,
    legend,
    look,
    numbers,
    pointed,
    reference,
    shown,
)
from bench.compare.runs import TITLES
from bench.compare.views import DIVERGING, SEQUENTIAL, Line, View
from bench.metrics.kinds import FORGETTING, LESS_IS_BETTER, TRADEOFF

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST = 3.2
"""Points of the smallest numbers in cells; smaller ones are left out."""

SMALLEST_SCALE = 0.1
"""Percentage points at the ends of the shortest scale of differences."""


def scatter(view: View, x: str | None = None, y: str | None = None) -> Figure | None:
    """Draw one scalar against another with standard errors, published numbers as hollow diamonds, bounds as lines.

    Parameters
    ----------
    view : View
    x, y : str
        Scalars, by default Last and Transfer, or Forgotten and Retained: `bench.metrics.kinds.TRADEOFF`.

    Returns
    -------
    Figure or None
        ``None`` where no line has both.
    """
    usual = TRADEOFF[view.section.kind]
    x, y = x or usual[0], y or usual[1]
    drawn = pointed(view)
    lines = [line for line in drawn if x in line.values and y in line.values and not line.group.bound]
    bounds = [line for line in drawn if line.group.bound and not line.values.keys().isdisjoint((x, y))]
    if not lines and not bounds:
        return None
    rows = view.section.published.rows if view.section.published else ()
    points = [point for row in rows if None not in (point := (row.value(x), row.value(y)))]
    names = [*(line.short for line in (*lines, *bounds)), *(["published"] if points else [])]
    columns = 2 if max(map(len, names)) <= 22 else 1
    figure = canvas(COLUMN, 2.6 + 0.16 * math.ceil(len(names) / columns))
    axes = figure.subplots()
    if points:
        axes.plot(*zip(*points, strict=True), "D", mfc="none", color="#888888", markersize=4, label="published")
    for line in lines:
        across, up = line.values[x], line.values[y]
        axes.errorbar(
            across.mean, up.mean, xerr=across.standard_error, yerr=up.standard_error, linestyle="", markersize=5,
            elinewidth=1, capsize=2, **look(line),
        )  # fmt: skip
    for line in bounds:
        reference(axes, line, x, y)
    across_is, up_is = (f"{TITLES[name]} (%{', less is better' if name in LESS_IS_BETTER else ''})" for name in (x, y))
    axes.set(xlabel=across_is, ylabel=up_is)
    axes.grid(alpha=0.3)
    legend(figure, [axes], "outside lower center", columns)
    return figure


def matrices(view: View) -> Figure | None:
    """Draw the accuracy matrix of every group, on one colour scale.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where there is no matrix.
    """
    drawn = [(line, line.mean) for line in shown(view) if line.mean is not None]
    if not drawn:
        return None
    low, high = (reach(np.stack([mean for _, mean in drawn])) for reach in (np.nanmin, np.nanmax))
    return _maps(view, drawn, low, high, SEQUENTIAL, "{:.1f}", "accuracy (%)")


def difference(view: View) -> Figure | None:
    """Draw accuracy matrices minus that of the baseline, on one scale that is symmetric about zero.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where there is no baseline, or nothing to subtract it from.
    """
    if view.baseline is None:
        return None
    base = view.lines[view.baseline]
    drawn = [
        (line, line.mean - base.mean)
        for line in shown(view)
        if line is not base and line.mean is not None and base.mean is not None
    ]
    if not drawn:
        return None
    most = max(SMALLEST_SCALE, *(contrast(line, base).reach or 0.0 for line, _ in drawn))
    return _maps(view, drawn, -most, most, DIVERGING, "{:+.1f}", f"difference to\n{base.short} (points)")


def curves(view: View) -> Figure | None:
    """Draw accuracy over the stages: on tasks so far, on those to come, on every test set; dotted where one is learned.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where there is no matrix.
    """
    lines = [(line, line.mean) for line in shown(view) if line.mean is not None]
    if not lines:
        return None
    size, across, requests = len(view.sets), 4, view.section.kind == FORGETTING
    first = 2 if any(np.isfinite(line.waiting).any() for line, _ in lines) else 1  # panels with means
    down = math.ceil((size + first) / across)
    missing = left_out(view, 115)
    figure = canvas(PAGE, 1.45 * down + 0.2 + 0.16 * (math.ceil(len(lines) / 4) + len(missing.splitlines())))
    grid = figure.subplots(down, across, sharex=True, squeeze=False).flatten().tolist()
    stages = np.arange(len(view.states))
    for line, mean in lines:
        style = {**look(line), "linestyle": dashes(line), "markersize": 2.5, "linewidth": 1}
        if line.group.bound:
            style["marker"] = ""
        grid[0].plot(stages[1:], line.learned, **style)
        if first == 2:
            grid[1].plot(stages[1 : 1 + len(line.waiting)], line.waiting, **style)
        for column in range(size):
            error = None if line.error is None else np.nan_to_num(line.error[:, column])
            grid[column + first].errorbar(stages, mean[:, column], yerr=error, elinewidth=0.7, **style)
    for column, name in enumerate(view.sets):
        if column < len(view.tasks):
            grid[column + first].axvline(column + 1, color="#888888", linestyle=":", linewidth=0.8)
        grid[column + first].set_title(name)
    grid[0].set_title("mean of requests so far" if requests else "mean of tasks learned")
    if first == 2:
        grid[1].set_title("mean of tasks to come")
    limits = [axes.get_ylim() for axes in grid[: size + first]]
    longest = max(high - low for low, high in limits)
    for axes, (low, high) in zip(grid, limits, strict=False):
        bottom = within(low, high, longest)
        axes.set_ylim(bottom, bottom + longest)  # the same slope is the same change
        axes.grid(axis="y", alpha=0.3)
    for axes in grid[size + first :]:
        axes.set_visible(False)
    grid[0].xaxis.get_major_locator().set_params(integer=True)
    below = f"stage ({'requests' if requests else 'tasks learned'})"
    figure.supxlabel("\n".join(filter(None, (below, missing))), fontsize=8)
    figure.supylabel("accuracy (%)", fontsize=8)
    legend(figure, grid[:1], "outside upper center", 4)
    return figure


def within(low: float, high: float, length: float) -> float:
    """Return where an axis of a length begins that shows a range in its middle, but nothing above 100 % if it can.

    Parameters
    ----------
    low, high : float
        The range, in percent.
    length : float
        Of the axis, in percentage points; at least that of the range.

    Returns
    -------
    float
        In percent.
    """
    return max(min((low + high - length) / 2, max(high, 100) - length), min(low, 0))


def _maps(
    view: View, drawn: Sequence[tuple[Line, np.ndarray]], low: float, high: float, scale: str, form: str, title: str
) -> Figure:
    """Draw matrices side by side with numbers in their cells and one colour bar."""
    size, states, across = len(view.sets), len(view.states), min(3, len(drawn))
    down = math.ceil(len(drawn) / across)
    side = PAGE / 3 - 0.6  # inches that are left for the cells of one of three
    figure = canvas(COLUMN if across == 1 else PAGE, down * (max(side * states / size * 0.85, 1.2) + 0.75))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    points = min(7.0, side * 72 / size / (0.6 * max(len(form.format(value)) for value in (low, high))))
    for (line, cells), axes in zip(drawn, grid, strict=False):
        image = axes.imshow(cells, cmap=scale, vmin=low, vmax=high, aspect="auto")
        if points >= SMALLEST:
            numbers(axes, image, cells, form, points)
        axes.set_title(line.short)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=6.5)
        axes.set_xticks(range(size), view.sets, rotation=90)
        axes.set_yticks(range(states), view.states)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=grid, label=title, aspect=30, pad=0.01)
    return figure

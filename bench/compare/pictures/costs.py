"""Pictures of what methods cost, and of accuracy over cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench.compare.pictures.look import PAGE, canvas, legend, look, pointed, reference, shown, starred
from bench.compare.runs import TITLES
from bench.compare.views import OVER, View
from bench.metrics.kinds import RANKED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def over_costs(view: View) -> Figure | None:
    """Draw Last over seconds and over what is stored; with an open marker where runs shared a machine, bounds as lines.

    Of requests to forget it is the H-mean.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where no line has it and one of the costs.
    """
    ranked = RANKED[view.section.kind]
    lines = [line for line in pointed(view) if ranked in line.values and any(name in line.values for name in OVER)]
    if not lines:
        return None
    figure = canvas(PAGE, 2.5 + 0.16 * math.ceil(len(lines) / 3))
    grid = figure.subplots(1, len(OVER), sharey=True)
    for axes, name in zip(grid, OVER, strict=True):
        for line in lines:
            if line.group.bound:
                reference(axes, line, None, ranked)
                continue
            if name not in line.values:
                continue
            cost, accuracy = line.values[name], line.values[ranked]
            busy = name == "seconds" and line.group.shared
            axes.errorbar(
                cost.mean, accuracy.mean, xerr=cost.standard_error, yerr=accuracy.standard_error, linestyle="",
                markersize=5, elinewidth=1, capsize=2, mfc="white" if busy else line.color, **look(line, starred(line)),
            )  # fmt: skip
        axes.set_xlabel(TITLES[name])
        axes.grid(alpha=0.3)
    grid[0].set_ylabel(f"{TITLES[ranked]} (%)")
    legend(figure, grid, "outside lower center", 3)
    return figure


def costs(view: View) -> Figure | None:
    """Draw seconds by phase, largest memory and what is stored.

    Parameters
    ----------
    view : View

    Returns
    -------
    Figure or None
        ``None`` where no run recorded any of them.
    """
    from matplotlib.patches import Patch

    lines = shown(view)[::-1]
    names = ("peak_memory_mb", "stored_bytes")
    phases = list(dict.fromkeys(phase for line in lines for phase in line.phases))
    if not phases and not any(name in line.values for line in lines for name in names):
        return None
    figure = canvas(PAGE, 1.0 + 0.22 * len(lines))
    left, *others = figure.subplots(1, 3, sharey=True)
    at = np.arange(len(lines))
    colors = [line.color for line in lines]
    start, entries = np.zeros(len(lines)), []
    for number, phase in enumerate(phases):
        seconds = np.array([line.phases.get(phase, 0.0) for line in lines])
        strength = 1 - 0.75 * number / max(len(phases) - 1, 1)
        left.barh(at, seconds, left=start, color=[(color, strength) for color in colors], edgecolor="white")
        entries.append(Patch(color=("#444444", strength), label=phase))
        start += seconds
    left.set(xlabel="seconds", yticks=at, yticklabels=[starred(line) for line in lines])
    if entries:
        figure.legend(handles=entries, loc="outside upper center", ncols=len(entries), handlelength=0.8)
    for axes, name in zip(others, names, strict=True):
        known = [line.values.get(name) for line in lines]
        errors = [over.standard_error or 0.0 if over else 0.0 for over in known]
        axes.barh(at, [over.mean if over else 0.0 for over in known], xerr=errors, color=colors, ecolor="#444444")
        axes.set_xlabel(TITLES[name])
    return figure

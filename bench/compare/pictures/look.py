"""What all pictures have in common: sizes, style, and what tells methods apart."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.compare.views import Line, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches."""

Place = Literal["outside lower center", "outside upper center"]
"""Where a legend stands."""

MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES = ("-", "--", ":", "-.", (0, (8, 2)))
"""What tells variants of one colour apart."""

BROKEN = (0, (6, 1, 1, 1, 1, 1))
"""Dashes of a bound alone, in the place of a line without any."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "svg.hashsalt": "keeplora-bench",  # names inside an SVG are drawn by chance otherwise
}


def canvas(width: float, height: float) -> Figure:
    """Return an empty picture.

    Parameters
    ----------
    width, height : float
        Inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def shown(view: View) -> list[Line]:
    """Return the lines that a picture with a panel or a line for each has room for."""
    return [view.lines[index] for index in view.shown]


def pointed(view: View) -> list[Line]:
    """Return the lines of a picture with a point for each: all, where no two of them look alike."""
    looks = {(line.color, line.variant % len(MARKERS)) for line in view.lines}
    return view.lines if len(looks) == len(view.lines) else shown(view)


def left_out(view: View, width: int) -> str:
    """Return a sentence about the methods that `shown` leaves out, in lines of some characters; empty for none."""
    drawn = {line.group.method for line in shown(view)}
    missing = dict.fromkeys(line.group.method for line in view.lines if line.group.method not in drawn)
    if not missing:
        return ""
    return textwrap.fill(f"Not drawn, for want of room: {', '.join(missing)}.", width, break_on_hyphens=False)


def legend(figure: Figure, groups: Sequence[Axes], place: Place, columns: int) -> None:
    """Put the labels of all axes below or above a picture, each once, with its marker and without error bars."""
    entries: dict[str, Any] = {}
    for axes in groups:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle[0] if isinstance(handle, tuple) else handle)
    figure.legend(entries.values(), entries.keys(), loc=place, ncols=columns)


def look(line: Line, name: str = "") -> dict[str, Any]:
    """Return colour, marker and label of a line.

    Parameters
    ----------
    line : Line
    name : str
        A label other than its own.
    """
    return {"color": line.color, "marker": MARKERS[line.variant % len(MARKERS)], "label": name or line.short}


def dashes(line: Line) -> Any:
    """Return the dashes of a line; a bound has some in any case."""
    patterns = (*DASHES[1:], BROKEN) if line.group.bound else DASHES
    return patterns[line.variant % len(patterns)]


def reference(axes: Axes, line: Line, x: str | None, y: str | None) -> None:
    """Draw a bound across a picture: a dashed line at its value on each axis that shows one of its scalars.

    Parameters
    ----------
    axes : Axes
    line : Line
    x, y : str or None
        What the axes show; None for a cost.
    """
    style: dict[str, Any] = {"color": line.color, "linestyle": dashes(line), "linewidth": 0.9, "zorder": 1}
    for name, draw in ((x, axes.axvline), (y, axes.axhline)):
        if name is not None and name in line.values:
            draw(line.values[name].mean, **style, label=line.short)
    axes.autoscale_view()  # a line inside of the margin would lie on the edge


def starred(line: Line) -> str:
    """Return the label of a line, with a star where its runs shared a machine and its seconds are no measure."""
    return f"{line.short} *" if line.group.shared else line.short


def numbers(axes: Axes, image: Any, cells: np.ndarray, form: str, points: float) -> None:
    """Write every cell's number in it, light on dark.

    Parameters
    ----------
    axes : Axes
    image : AxesImage
        What ``axes.imshow`` returned for the cells.
    cells : float array [rows, columns]
        Those that are not a number stay empty.
    form : str
        For ``str.format``.
    points : float
        Size of the numbers.
    """
    for (row, column), value in np.ndenumerate(cells):
        if math.isnan(value):
            continue
        red, green, blue, _ = image.to_rgba(value)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column, row, form.format(value).replace("-", "−"), ha="center", va="center", fontsize=points,
            color="black" if light else "white",
        )  # fmt: skip

"""What stands out in a view: winners, extremes, ratios and ranges, so that the scripts of the page only draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.compare.runs import ABSENT, COSTS
from bench.compare.significance import COMPARED
from bench.compare.tables import COLUMNS
from bench.compare.views import Line, View
from bench.metrics.kinds import FIRST, LESS_IS_BETTER, SHOWN

RATIOS = ("seconds", "peak_memory_mb")
"""Costs of which a contrast has the ratio."""

SMALLEST = 0.05
"""Points of the smallest change of a task that is named: a smaller one is printed as 0.0."""

BASELINES = 100
"""Groups that may all be chosen as a baseline. There is a contrast for each pair, so of more groups only a few may."""

DECADE = 8
"""An axis is logarithmic where the highest value of a setting is at least this many times its lowest."""

Range = tuple[float, float]  # lowest and highest value


# ------------------------------------------------------------------------------------------------ winners


def winners(view: View) -> dict[str, list[int]]:
    """Return which lines are the best in the scalars of `bench.metrics.kinds.FIRST`, such as Last.

    Returns
    -------
    dict of str to list of int
        Scalar -> the lines with the best mean as it is printed; the only line that has a value, if there is one;
        none if all have the same mean. Bounds do not count. Scalars that no line has are left out.
    """
    having = {
        name: [index for index in view.rivals if name in view.lines[index].values] for name in FIRST[view.section.kind]
    }
    return {name: lines if len(lines) == 1 else view.best[name] for name, lines in having.items() if lines}


def fastest(view: View) -> int | None:
    """Return the line that trains in the fewest seconds.

    Parameters
    ----------
    view : View

    Returns
    -------
    int or None
        ``None`` where no line trains, none was timed, or runs of some of them shared a machine.
    """
    lines = view.lines
    timed = [index for index in view.rivals if lines[index].group.trains and "seconds" in lines[index].values]
    if any(lines[index].group.shared for index in timed):
        return None
    return min(timed, key=lambda index: lines[index].values["seconds"].mean, default=None)


# ------------------------------------------------------------------------------------------------- ranges


def _hull(ranges: Iterable[Range]) -> Range | None:
    """Return the range that holds all others; ``None`` where there are none."""
    known = list(ranges)
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def accuracies(view: View) -> Range | None:
    """Return the lowest and the highest accuracy in all matrices, in percent.

    Parameters
    ----------
    view : View

    Returns
    -------
    (float, float) or None
        ``None`` where there is no matrix.
    """
    means = [line.mean for line in view.lines if line.mean is not None]
    return _hull((float(np.nanmin(mean)), float(np.nanmax(mean))) for mean in means)


def spans(line: Line) -> list[Range | None]:
    """Return in which ranges the learning curves of a line lie, in percent, standard errors included.

    Parameters
    ----------
    line : Line

    Returns
    -------
    list of (float, float) or None
        First that of the mean of the tasks learned so far, then one for each of the test sets, last that of the mean of
        the tasks not yet learned. ``None`` where nothing was measured; empty where there is no matrix.
    """
    if line.mean is None:
        return []
    error = np.zeros_like(line.mean) if line.error is None else np.nan_to_num(line.error)
    means = [(np.array(curve), np.zeros(len(curve))) for curve in (line.learned, line.waiting)]
    curves = [means[0], *zip(line.mean.T, error.T, strict=True), means[1]]
    return [
        _hull(zip((curve - more)[known].tolist(), (curve + more)[known].tolist(), strict=True))
        for curve, more in curves
        for known in [~np.isnan(curve)]
    ]


def ranges(view: View) -> dict[str, dict[str, Range | None]]:
    """Return the ranges of the axes when one column is drawn against another, standard errors included.

    Parameters
    ----------
    view : View

    Returns
    -------
    dict of str to dict of str to (float, float) or None
        Column ``a`` -> column ``b`` -> the range of ``a`` over the lines and the published rows that have both; a bound
        needs ``a`` alone, where it is no cost. Columns that no line has are left out.
    """
    items, lines = list[dict[str, Range]](), list[dict[str, Range]]()
    for line in view.lines:
        errors = {name: over.standard_error or 0.0 for name, over in line.values.items()}
        ends = {name: (over.mean - errors[name], over.mean + errors[name]) for name, over in line.values.items()}
        (lines if line.group.bound else items).append(ends)
    for row in view.section.published.rows if view.section.published else ():
        items.append({n: (value, value) for n in SHOWN[view.section.kind] if (value := row.value(n)) is not None})
    names = [name for name in COLUMNS[view.section.kind] if any(name in line.values for line in view.lines)]
    across = {a: [one[a] for one in lines if a in one and a not in COSTS] for a in names}
    both = {a: {b: [one[a] for one in items if {a, b} <= one.keys()] for b in names} for a in names}
    return {a: {b: _hull([*across[a], *both[a][b]]) for b in names} for a in names}


# ---------------------------------------------------------------------------------------------- contrasts


@dataclass(frozen=True)
class Contrast:
    """One line against another, without intervals.

    Attributes
    ----------
    differences : dict of str to float
        Mean minus mean of the scalars of `bench.compare.significance.COMPARED` that both have, in points.
    gain, loss : (int, float) or None
        The test set with the largest gain and that with the largest loss after the last stage, and the change in
        points; ``None`` where none changes by `SMALLEST` in that direction.
    ratios : dict of str to float
        Mean over mean of the costs in `RATIOS` that both have; not of seconds where runs shared a machine.
    reach : float or None
        The largest change of any cell of the matrix, without its sign, in points; ``None`` without a common cell.
    """

    differences: dict[str, float]
    gain: tuple[int, float] | None
    loss: tuple[int, float] | None
    ratios: dict[str, float]
    reach: float | None


def baselines(view: View) -> list[int]:
    """Return the lines that others may be contrasted with.

    Parameters
    ----------
    view : View

    Returns
    -------
    list of int
        All, or, of more than `BASELINES`, those that pictures show and the one that the others were tested against.
    """
    if len(view.lines) <= BASELINES:
        return list(range(len(view.lines)))
    return sorted({*view.shown} if view.baseline is None else {*view.shown, view.baseline})


def contrast(line: Line, base: Line, better: Sequence[int] | None = None) -> Contrast:
    """Return how a line differs from another one.

    Parameters
    ----------
    line, base : Line
        Of one view.
    better : sequence of int, optional
        Columns of which gains and losses are named (`bench.compare.views.View.better`); by default all.

    Returns
    -------
    Contrast
        Positive differences are in favour of `line`, unless less is better; ratios above 1 are in favour of `base`.
    """
    ours, theirs = line.values, base.values
    differences = {
        n: ours[n].mean - theirs[n].mean for names in COMPARED.values() for n in names if n in ours and n in theirs
    }
    alone = [name for name in RATIOS if name != "seconds" or not (line.group.shared or base.group.shared)]
    ratios = {n: ours[n].mean / theirs[n].mean for n in alone if n in ours and n in theirs and theirs[n].mean > 0}
    if line.mean is None or base.mean is None:
        return Contrast(differences, None, None, ratios, None)
    change = line.mean - base.mean
    known = change[~np.isnan(change)]
    reach = float(np.abs(known).max()) if known.size else None
    final = change[-1].copy()
    final[[at for at in range(len(final)) if better is not None and at not in better]] = np.nan
    return Contrast(differences, _largest(final, 1), _largest(final, -1), ratios, reach)


def _largest(changes: np.ndarray, sign: int) -> tuple[int, float] | None:
    """Return the position and the value of the largest change with a sign; ``None`` where there is none to name."""
    signed = np.where(np.isnan(changes), -math.inf, sign * changes)
    at = int(signed.argmax())
    return (at, float(changes[at])) if signed[at] >= SMALLEST else None


# ------------------------------------------------------------------------------------------ settings tried


@dataclass(frozen=True)
class Ruler:
    """How the values of a setting lie on an axis: numbers as they are or by their logarithm, words one by one.

    Attributes
    ----------
    values : list of str
        Different values in the order of the axis; among numbers without `bench.compare.runs.ABSENT`.
    positions : list of float
        Where each of them lies.
    numeric, log : bool
        Whether the values are numbers, and whether the axis is logarithmic.
    """

    values: list[str]
    positions: list[float]
    numeric: bool
    log: bool


@dataclass(frozen=True)
class Tops:
    """What the settings tried give in one column: the best line, the best tenth, the lowest and the highest mean.

    The best has the highest mean, of a cost and where less is better the lowest.
    """

    best: int
    tenth: list[int]
    low: float
    high: float


@dataclass(frozen=True)
class Tried:
    """A method that was run with different settings.

    Attributes
    ----------
    method : str
    lines : list of int
    rulers : dict of str to Ruler
        By setting that differs, in the order of their names.
    widest : list of str
        The same settings, those with most different values first.
    tops : dict of str to Tops
        By column that one of the lines has.
    """

    method: str
    lines: list[int]
    rulers: dict[str, Ruler]
    widest: list[str]
    tops: dict[str, Tops]


def tried(view: View) -> list[Tried]:
    """Return the methods that were run with different settings.

    Parameters
    ----------
    view : View

    Returns
    -------
    list of Tried
        In the order of the lines.
    """
    methods: dict[str, list[int]] = {}
    for index, line in enumerate(view.lines):
        if line.group.apart:
            methods.setdefault(line.group.method, []).append(index)
    return [_tried(view, method, lines) for method, lines in methods.items()]


def _tried(view: View, method: str, lines: list[int]) -> Tried:
    settings = [view.lines[index].group.apart for index in lines]
    rulers = {key: ruler([apart[key] for apart in settings]) for key in settings[0]}
    different = {key: len({apart[key] for apart in settings}) for key in rulers}
    widest = sorted(rulers, key=lambda key: -different[key])
    names = [name for name in COLUMNS[view.section.kind] if any(name in view.lines[index].values for index in lines)]
    tops = {name: _tops(view.lines, lines, name) for name in names}
    return Tried(method, lines, rulers, widest, tops)


def _tops(lines: Sequence[Line], indices: Sequence[int], name: str) -> Tops:
    means = {index: lines[index].values[name].mean for index in indices if name in lines[index].values}
    ranked = sorted(means, key=lambda index: means[index] if name in (*COSTS, *LESS_IS_BETTER) else -means[index])
    return Tops(ranked[0], ranked[: math.ceil(len(ranked) / 10)], min(means.values()), max(means.values()))


def ruler(values: Sequence[str]) -> Ruler:
    """Lay out the values of a setting on an axis.

    Parameters
    ----------
    values : sequence of str
        At least one, as on the command line; `bench.compare.runs.ABSENT` where a group has no such setting.

    Returns
    -------
    Ruler
        Logarithmic where there are more than two positive numbers, the highest at least `DECADE` times the lowest.
    """
    different = list(dict.fromkeys(values))
    numbers = {value: _number(value) for value in different if value != ABSENT}
    known = {value: number for value, number in numbers.items() if number is not None}
    if not known or len(known) < len(numbers):
        return Ruler(different, [float(index) for index in range(len(different))], False, False)
    ordered = sorted(known, key=lambda value: known[value])
    low, high = known[ordered[0]], known[ordered[-1]]
    log = len(ordered) > 2 and low > 0 and high / low >= DECADE
    return Ruler(ordered, [math.log10(known[one]) if log else known[one] for one in ordered], True, log)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

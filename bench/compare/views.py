"""What pictures of a comparison show: means over seeds, colours and labels, the same for the page and for papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.compare.runs import Field, Group
from bench.compare.tables import COLUMNS, SCALE, Section, best
from bench.core.errors import UserError
from bench.metrics.matrix import ZERO_SHOT
from bench.metrics.scalars import Spread, spread

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07c00", "#56b4e9", "#8a5fbf", "#8c564b")
"""Colours of methods in the order of their names, the first six after Okabe and Ito's for colour-blind readers: all
have a contrast of at least 2:1 on white and on black. A ninth method has the first colour and another marker."""

UNTRAINED = "#808080"
"""The colour of a method that trains nothing."""

SEQUENTIAL, DIVERGING = "cividis", "RdBu"
"""Matplotlib's names of the scales for accuracies and for differences: red is worse, blue is better. Both can be told
apart by colour-blind readers; cividis is perceptually uniform, RdBu as far as a scale with two hues is."""

MOST = 12
"""Groups drawn in pictures with a panel or a line for each; more cannot be told apart."""


@dataclass(frozen=True)
class Line:
    """One group of runs as it is drawn.

    Attributes
    ----------
    group : Group
    short : str
        Its label without what its field makes superfluous.
    color : str
    variant : int
        Which marker and which dashes it has: groups of one colour have different ones, as far as there are any.
    values : dict of str to Spread
        Scalars and costs of `bench.compare.tables.COLUMNS` over the seeds that have them, in the unit of the column.
    mean, error : float64 array [T + 1, T] or None
        The accuracy matrix, mean and standard error over the runs that measured a cell; NaN where none did, and the
        error also where one did. ``None`` where there is no matrix that could be averaged.
    phases : dict of str to float
        Mean seconds of each phase.
    """

    group: Group
    short: str
    color: str
    variant: int
    values: dict[str, Spread]
    mean: np.ndarray | None
    error: np.ndarray | None
    phases: dict[str, float]


@dataclass(frozen=True)
class View:
    """One field as it is drawn.

    Attributes
    ----------
    section : Section
    tasks : list of str
        Columns of the matrices; ``task 1``, ... where every seed has others. Empty where there are no matrices.
    lines : list of Line
        One a group, by method, then by the values of its settings.
    shown : list of int
        Lines drawn where a picture has room for `MOST`: all, or for each method the one with the highest Last.
    best : dict of str to list of int
        Per accuracy the lines with the highest mean, as `bench.compare.tables.best` has them.
    notes : list of str
        Those of the field, and what could not be drawn.
    """

    section: Section
    tasks: list[str]
    lines: list[Line]
    shown: list[int]
    best: dict[str, list[int]]
    notes: list[str] = field(default_factory=list)

    @property
    def states(self) -> list[str]:
        """Rows of the matrices: the untrained model, and the model after every task."""
        return [ZERO_SHOT, *self.tasks] if self.tasks else []


def views(sections: Sequence[Section]) -> list[View]:
    """Lay out fields for drawing; a method has the same colour in all of them."""
    colors = _colors(group for section in sections for group in section.field.groups)
    return [_view(section, colors) for section in sections]


def _colors(groups: Iterable[Group]) -> dict[str, str]:
    trains: dict[str, bool] = {}
    for group in groups:
        trains[group.method] = trains.get(group.method, False) or group.trains
    trained = sorted(method for method, learns in trains.items() if learns)
    colors = {method: PALETTE[place % len(PALETTE)] for place, method in enumerate(trained)}
    return {method: colors.get(method, UNTRAINED) for method in trains}


def _view(section: Section, colors: dict[str, str]) -> View:
    place = section.field
    tasks, matrices, notes = _matrices(place)
    used: dict[str, int] = {}
    groups = sorted(place.groups, key=_order)
    lines = []
    for group, short in zip(groups, _shortened(groups), strict=True):
        color = colors[group.method]
        used[color] = used.get(color, -1) + 1
        known = {name: [value * SCALE.get(name, 1) for value in group.values(name).values()] for name in COLUMNS}
        values = {name: spread(found) for name, found in known.items() if found}
        mean, error = _over(matrices.get(group.label, []))
        lines.append(Line(group, short, color, used[color], values, mean, error, _phases(group)))
    at = {group.label: number for number, group in enumerate(groups)}
    winners = {name: [at[group.label] for group in found] for name, found in best(place).items()}
    return View(section, tasks, lines, _shown(lines), winners, [*place.notes, *notes])


def _order(group: Group) -> list[tuple[str, float, str]]:
    """By method, then by the values of its settings, numbers as numbers."""

    def rank(value: str) -> tuple[str, float, str]:
        try:
            return ("", float(value), "")
        except ValueError:
            return ("~", 0.0, value)

    return [("", 0.0, group.method), *(rank(value) for value in group.apart.values()), ("", 0.0, group.fingerprint)]


def _matrices(place: Field) -> tuple[list[str], dict[str, list[np.ndarray]], list[str]]:
    """Return the tasks of a field, its matrices by label of the group, and what could not be read."""
    found: dict[str, list[np.ndarray]] = {}
    orders: list[list[str]] = []
    notes = []
    for group in place.groups:
        for run in group.runs.values():
            try:
                matrix = run.matrix
            except UserError as error:
                notes.append(f"not in matrices and curves: {error}")
                continue
            orders.append(matrix.tasks)
            found.setdefault(group.label, []).append(matrix.array())
    if len({len(order) for order in orders}) != 1:
        return [], {}, notes
    same = all(order == orders[0] for order in orders)
    return orders[0] if same else [f"task {place + 1}" for place in range(len(orders[0]))], found, notes


def _over(matrices: Sequence[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return mean and standard error of every cell over the matrices that have it."""
    stacked = np.stack(matrices) if matrices else np.empty((0, 0, 0))
    known = ~np.isnan(stacked)
    if not known.any():
        return None, None
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, stacked, 0).sum(axis=0) / count
        variance = (np.where(known, stacked - mean, 0) ** 2).sum(axis=0) / (count - 1)
        error = np.sqrt(variance / count)
    return np.where(count > 0, mean, np.nan), np.where(count > 1, error, np.nan)


def _phases(group: Group) -> dict[str, float]:
    """Return the mean seconds of each phase over the runs that were timed; what no phase accounts for is other."""
    runs = [run.summary["seconds"] for run in group.runs.values() if run.value("seconds") is not None]
    names = dict.fromkeys(name for seconds in runs for name in seconds if name != "total")
    phases = {name: math.fsum(run.get(name) or 0.0 for run in runs) / len(runs) for name in names}
    total = math.fsum(run["total"] for run in runs) / len(runs) if runs else 0.0
    rest = total - math.fsum(phases.values())
    return phases | ({"other": rest} if rest > 0.005 * total else {})


def _shortened(groups: Sequence[Group]) -> list[str]:
    """Return labels with the last part of each setting's name only, where these tell the groups apart as well."""
    named = [group.label if group.fingerprint in group.label else f"{group.method} {told(group)}" for group in groups]
    shorts = [short.strip() for short in named]
    return shorts if len(set(shorts)) == len(shorts) else [group.label for group in groups]


def told(group: Group) -> str:
    """Say which settings tell a group from others of its method: last part of the name, four digits of a number."""
    words = []
    for key, value in group.apart.items():
        try:
            brief = f"{float(value):.4g}"
        except ValueError:
            brief = value
        words.append(f"{key.rpartition('.')[2]}={brief if len(brief) < len(value) else value}")
    return " ".join(words)


def _shown(lines: Sequence[Line]) -> list[int]:
    if len(lines) <= MOST:
        return list(range(len(lines)))

    def last(place: int) -> float:
        found = lines[place].values.get("last")
        return found.mean if found else -math.inf

    methods = dict.fromkeys(line.group.method for line in lines)
    tops = [max((p for p, line in enumerate(lines) if line.group.method == m), key=last) for m in methods]
    return sorted(sorted(tops, key=last, reverse=True)[:MOST])

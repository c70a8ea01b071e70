"""What pictures of a comparison show: means over seeds, colours and labels, the same for the page and for papers.

`bench.compare.extremes` computes what stands out in a view. It is one file: colours depend on which lines a view has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.compare.grouping import ComparableRuns, Group
from bench.compare.ranking import best
from bench.compare.tables import COLUMNS, SCALE, Section
from bench.core.errors import UserError
from bench.metrics.kinds import FORGETTING, RANKED
from bench.metrics.matrix_file import ZERO_SHOT
from bench.metrics.over_seeds import Spread, spread
from bench.metrics.render import BEFORE
from bench.metrics.scalars import mean
from bench.record.events import EpochEvent, read_events
from bench.record.schema import LARGEST

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07c00", "#56b4e9", "#8a5fbf", "#8c564b")
"""Colours of methods in the order of their names, the first six after Okabe and Ito's for colour-blind readers: all
have a contrast of at least 2:1 on white and on black. A ninth method has the first colour and another marker."""

UNTRAINED = "#808080"
"""The colour of a method that trains nothing, and of bounds."""

SEQUENTIAL, DIVERGING = "cividis", "RdBu"
"""Matplotlib's names of the scales for accuracies and for differences: red is worse, blue is better. Both can be told
apart by colour-blind readers; cividis is perceptually uniform, RdBu as far as a scale with two hues is."""

MOST = 12
"""Groups drawn in pictures with a panel or a line for each, bounds not counted; more cannot be told apart."""

OVER = ("seconds", "stored_bytes")
"""Costs over which accuracies are drawn."""


@dataclass(frozen=True)
class Line:
    """One group of runs as it is drawn.

    Attributes
    ----------
    group : Group
    short : str
        Its label without what its field makes superfluous.
    color : str
        ``#rrggbb``.
    variant : int
        Which marker and which dashes it has: groups of one colour have different ones, as far as there are any.
    values : dict of str to Spread
        Scalars and costs of `bench.compare.tables.COLUMNS` over the seeds that have them, in the unit of the column.
    mean, error : float64 array [T + 1, test sets] or None
        The accuracy matrix in percent, mean and standard error over the runs that measured a cell. A cell is NaN where
        no run measured it; its error also where only one did. ``None`` where there is no matrix to average.
    learned : list of float
        The mean accuracy on the tasks so far, for each of the T stages; NaN where none of them was measured.
    waiting : list of float
        Transfer as a curve: the mean accuracy on the tasks not yet learned, for each stage but the last; NaN where none
        of them was measured, and for a bound whose Transfer means nothing. Empty where models were to forget.
    losses : list of list of Spread
        For each of the T tasks the training loss over the seeds, pass by pass; empty where none was recorded.
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
    learned: list[float]
    waiting: list[float]
    losses: list[list[Spread]]
    phases: dict[str, float]


@dataclass(frozen=True)
class View:
    """One field as it is drawn.

    Attributes
    ----------
    section : Section
    tasks : list of str
        First columns of the matrices; ``task 1``, ... where every seed has others. Empty where there are no matrices.
    beside : list of str
        Their further columns: test sets that no task is about.
    lines : list of Line
        One a group, by method, then by the values of its settings; bounds last.
    shown : list of int
        Lines drawn where a picture has room for `MOST`: all, or for each method the one with the highest
        `bench.metrics.kinds.RANKED`; the same of bounds beside them.
    best : dict of str to list of int
        Per accuracy the lines with the highest mean: see `bench.compare.ranking.best`.
    notes : list of str
        Those of the field, and what could not be drawn.
    """

    section: Section
    tasks: list[str]
    beside: list[str]
    lines: list[Line]
    shown: list[int]
    best: dict[str, list[int]]
    notes: list[str]

    @property
    def states(self) -> list[str]:
        """Rows of the matrices: the untrained model, and the model after every task."""
        return [BEFORE if self.section.kind == FORGETTING else ZERO_SHOT, *self.tasks] if self.tasks else []

    @property
    def sets(self) -> list[str]:
        """All columns of the matrices."""
        return [*self.tasks, *self.beside]

    @property
    def better(self) -> range:
        """Columns of the matrices in which more is better after the last task, and that its tasks are about."""
        size = len(self.tasks)
        return range(size, len(self.sets)) if self.section.kind == FORGETTING else range(size)

    @property
    def rivals(self) -> list[int]:
        """The lines that are no bounds."""
        return [index for index, line in enumerate(self.lines) if not line.group.bound]

    @property
    def baseline(self) -> int | None:
        """The line that the others were tested against; ``None`` where there is none."""
        against = self.section.against
        if against is None:
            return None
        return next(index for index, line in enumerate(self.lines) if line.group is against.baseline)


def views(sections: Sequence[Section]) -> list[View]:
    """Lay out fields for drawing; a method has the same colour in all of them.

    Parameters
    ----------
    sections : sequence of Section
        See `bench.compare.tables.sections`.

    Returns
    -------
    list of View
        One a section, in the same order.
    """
    colors = _colors(group for section in sections for group in section.field.groups)
    return _recolored([_view(section, colors) for section in sections])


def _colors(groups: Iterable[Group]) -> dict[str, str]:
    trains: dict[str, bool] = {}
    for group in groups:
        trains[group.method] = trains.get(group.method, False) or (group.trains and not group.bound)
    trained = sorted(method for method, learns in trains.items() if learns)
    colors = {method: PALETTE[number % len(PALETTE)] for number, method in enumerate(trained)}
    return {method: colors.get(method, UNTRAINED) for method in trains}


def _recolored(drawn: Sequence[View]) -> list[View]:
    """Give colours first to what is drawn where not all have room, so that few of these have the same one."""
    if all(len(view.shown) == len(view.lines) for view in drawn):
        return list(drawn)
    first = {view.lines[at].group.method for view in drawn for at in view.shown}
    trained = {line.group.method for view in drawn for line in view.lines if line.color != UNTRAINED}
    ordered = sorted(trained, key=lambda method: (method not in first, method))
    colors = {method: PALETTE[number % len(PALETTE)] for number, method in enumerate(ordered)}
    return [_recolored_view(view, colors) for view in drawn]


def _recolored_view(view: View, colors: dict[str, str]) -> View:
    lines, used = list(view.lines), Counter[str]()
    for at in dict.fromkeys((*view.shown, *range(len(lines)))):
        color = colors.get(lines[at].group.method, UNTRAINED)
        lines[at] = replace(lines[at], color=color, variant=used[color])
        used[color] += 1
    return replace(view, lines=lines)


def _view(section: Section, colors: dict[str, str]) -> View:
    tasks, beside, matrices, notes = _matrices(section.field)
    used: dict[str, int] = {}
    groups = sorted(section.field.groups, key=lambda group: (group.bound, _order(group)))
    lines = []
    for group, short in zip(groups, _shortened(groups), strict=True):
        color = colors[group.method]
        used[color] = used.get(color, -1) + 1
        means, error = _over(matrices.get(group.label, []))
        learned = [] if means is None else [_known_mean(means[row, :row]) for row in range(1, len(means))]
        size = 0 if means is None or section.kind == FORGETTING else len(tasks)
        waiting = [] if means is None else [_known_mean(means[row, row:size]) for row in range(1, size)]
        if not next(iter(group.runs.values())).role.has("transfer_by_row"):
            waiting = [math.nan] * len(waiting)
        losses = _losses(group, len(tasks), notes)
        phases = _phases(group)
        lines.append(
            Line(
                group,
                short,
                color,
                used[color],
                _values(group, section.kind),
                means,
                error,
                learned,
                waiting,
                losses,
                phases,
            )
        )
    at = {group.label: number for number, group in enumerate(groups)}
    winners = {name: [at[group.label] for group in few] for name, few in best(section.field).items()}
    tasks, beside = ([section.choice.named(name) for name in names] for names in (tasks, beside))
    shown = _shown(lines, RANKED[section.kind])
    return View(section, tasks, beside, lines, shown, winners, [*section.field.notes, *notes])


def _order(group: Group) -> list[tuple[str, float, str]]:
    """By method, then by the values of its settings, numbers as numbers."""

    def rank(value: str) -> tuple[str, float, str]:
        try:
            return ("", float(value), "")
        except ValueError:
            return ("~", 0.0, value)

    return [("", 0.0, group.method), *(rank(value) for value in group.apart.values()), ("", 0.0, group.fingerprint)]


def _values(group: Group, kind: str) -> dict[str, Spread]:
    recorded = {name: [value * SCALE.get(name, 1) for value in group.values(name).values()] for name in COLUMNS[kind]}
    return {name: spread(numbers) for name, numbers in recorded.items() if numbers}


def _matrices(field: ComparableRuns) -> tuple[list[str], list[str], dict[str, list[np.ndarray]], list[str]]:
    """Return the tasks of a field, other test sets, its matrices by label of the group, and what could not be read."""
    matrices: dict[str, list[np.ndarray]] = {}
    orders: list[list[str]] = []
    beside: list[list[str]] = []
    notes = []
    for group in field.groups:
        own: dict[int, list[np.ndarray]] = {}
        for key, run in group.runs.items():
            try:
                matrix = run.matrix
            except UserError as error:
                notes.append(f"not in matrices and curves: {error}")
                continue
            orders.append(matrix.tasks)
            beside.append(list(matrix.others))
            own.setdefault(key[0] if isinstance(key, tuple) else key, []).append(matrix.array(every=True))
        averaged = [few[0] if len(few) == 1 else _over(few)[0] for few in own.values()]
        if any(one is not None for one in averaged):
            matrices[group.label] = [one for one in averaged if one is not None]
    if len({(len(order), tuple(others)) for order, others in zip(orders, beside, strict=True)}) != 1:
        return [], [], {}, notes
    same = all(order == orders[0] for order in orders)
    tasks = orders[0] if same else [f"task {number}" for number in range(1, len(orders[0]) + 1)]
    return tasks, beside[0], matrices, notes


def _over(matrices: Sequence[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return mean and standard error of every cell over the matrices that have it."""
    stacked = np.stack(matrices) if matrices else np.empty((0, 0, 0))
    known = ~np.isnan(stacked)
    if not known.any():
        return None, None
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(known, stacked, 0).sum(axis=0) / count
        variance = (np.where(known, stacked - means, 0) ** 2).sum(axis=0) / (count - 1)
        error = np.sqrt(variance / count)
    return np.where(count > 0, means, np.nan), np.where(count > 1, error, np.nan)


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _losses(group: Group, size: int, notes: list[str]) -> list[list[Spread]]:
    """Return the training loss on each of some tasks, pass by pass, over the runs that made the pass."""
    losses: list[list[list[float]]] = [[] for _ in range(size)]
    for run in group.runs.values():
        try:
            events = read_events(run.path)
        except (OSError, ValueError) as error:
            notes.append(f"not in curves of the loss: {run.path}: {error}")
            continue
        trained = [one for one in events if isinstance(one, EpochEvent) and _is_loss(one.loss)]
        for passes, task in zip(losses, run.identity.tasks, strict=False):
            for number, loss in enumerate(one.loss for one in trained if one.task == task):
                if number == len(passes):
                    passes.append([])
                passes[number].append(loss)
    known = [[spread(values) for values in passes] for passes in losses]
    return known if any(known) else []


def _is_loss(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST  # what is larger is damage; so is no number


def _phases(group: Group) -> dict[str, float]:
    """Return the mean seconds of each phase over the runs that were timed; what no phase accounts for is other."""
    runs = [run.summary.seconds for run in group.runs.values() if run.value("seconds") is not None]
    names = dict.fromkeys(name for seconds in runs for name in seconds if name != "total")
    phases = {name: mean([run.get(name) or 0.0 for run in runs]) for name in names}
    total = mean([run["total"] for run in runs]) if runs else 0.0
    rest = total - math.fsum(phases.values())
    return phases | ({"other": rest} if rest > 0.005 * total else {})


def _shortened(groups: Sequence[Group]) -> list[str]:
    """Return labels with short names of settings, where these tell the groups apart as well."""
    shorts = [_short(group) for group in groups]
    return shorts if len(set(shorts)) == len(shorts) else [group.label for group in groups]


def _short(group: Group) -> str:
    settings = " ".join(f"{key}={value}" for key, value in group.apart.items())
    if not settings or not group.label.endswith(settings):
        return group.label
    return group.label.removesuffix(settings) + short_settings(group)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return names of settings without their first part, which tells nothing: ``weight_energy.image``, ``rank``.

    Parameters
    ----------
    keys : iterable of str
        Dotted settings, such as ``method.weight_energy.image`` and ``method.rank``.

    Returns
    -------
    dict of str to str
        Setting -> its short name; the whole setting where two would have the same name.
    """
    brief = {key: key.partition(".")[2] or key for key in keys}
    often = Counter(brief.values())
    return {key: name if often[name] == 1 else key for key, name in brief.items()}


def short_settings(group: Group) -> str:
    """Return a short label of the settings that tell a group from others of its method, e.g. ``rank=8``.

    Parameters
    ----------
    group : Group

    Returns
    -------
    str
        `short_names` with their values, of a long number four digits; empty where nothing differs.
    """
    words = []
    names = short_names(group.apart)
    for key, value in group.apart.items():
        try:
            brief = f"{float(value):.4g}"
        except ValueError:
            brief = value
        words.append(f"{names[key]}={brief if len(brief) < len(value) else value}")
    return " ".join(words)


def _shown(lines: Sequence[Line], scalar: str) -> list[int]:
    sides = ([i for i, line in enumerate(lines) if line.group.bound == bound] for bound in (False, True))
    return [index for side in sides for index in _few(lines, side, scalar)]


def _few(lines: Sequence[Line], chosen: Sequence[int], scalar: str) -> list[int]:
    if len(chosen) <= MOST:
        return list(chosen)

    def rank(index: int) -> float:
        over = lines[index].values.get(scalar)
        return over.mean if over else -math.inf

    methods = dict.fromkeys(lines[index].group.method for index in chosen)
    tops = [max((i for i in chosen if lines[i].group.method == m), key=rank) for m in methods]
    return sorted(sorted(tops, key=rank, reverse=True)[:MOST])

"""Transfer, Average and Last of every task: the table that papers on streams of data sets print.

Or Forgotten, Relapse, Retained and H-mean of every request. Means over seeds of what `bench.metrics.kinds.COLUMNS`
gives for each task, with what papers say of the same tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.compare.grouping import ComparableRuns, Group, Key
from bench.compare.published import METRICS, Published
from bench.compare.published import Row as PublishedRow
from bench.compare.significance import EQUAL, Against, Difference, difference, level_of, value_of
from bench.core.errors import UserError
from bench.metrics.kinds import COLUMNS, HEADLINES, LEARNING, LESS_IS_BETTER
from bench.metrics.over_seeds import Spread, spread

OVERALL = None
"""Stands for the mean over tasks, beside the tasks."""


@dataclass(frozen=True)
class TaskRow:
    """One row of a table: a method, or what a paper says of one.

    Attributes
    ----------
    label : str
    group : Group or None
        The runs; None for a published row.
    source : PublishedRow or None
        What a paper says; None for a measured row.
    tasks : list of Spread or None
        A value in percent for each task, over the seeds that have it; None where there is none. A published value has
        no errors and the n 0.
    overall : Spread or None
        The metric itself, which is the mean over tasks.
    """

    label: str
    group: Group | None
    source: PublishedRow | None
    tasks: list[Spread | None]
    overall: Spread | None


@dataclass(frozen=True)
class TaskTable:
    """One metric of all methods for every task.

    Attributes
    ----------
    scalar : str
        One of `bench.metrics.kinds.COLUMNS`.
    measured, published : list of TaskRow
        In the order of the groups, and of the published table; only published rows that have a value of the metric.
    ahead : list of TaskRow or None
        For each task and, last, for the mean over tasks: the measured row that is shown to be ahead (see `ahead`).
    """

    scalar: str
    measured: list[TaskRow]
    published: list[TaskRow]
    ahead: list[TaskRow | None]


@dataclass(frozen=True)
class PerTask:
    """All metrics of comparable runs for every task.

    Attributes
    ----------
    tasks : list of str
        In their order, or by name where each seed has its own order. ``task 1``, ... where each seed has other tasks.
    tables : list of TaskTable
        One for each metric that is defined for some task.
    notes : list of str
        What to know of these values.
    """

    tasks: list[str]
    tables: list[TaskTable]
    notes: list[str]


def per_task(
    field: ComparableRuns, published: Published | None = None, scalars: Sequence[str] = (), every: bool = False
) -> PerTask:
    """Return metrics for every task: means over seeds, and published values beside them.

    Parameters
    ----------
    field : ComparableRuns
    published : Published, optional
        What may stand beside these runs: ``published`` of `bench.compare.tables.Section`.
    scalars : sequence of str, optional
        Some of `bench.metrics.kinds.COLUMNS`, in the order of the tables; by default those of the headlines.
    every : bool, optional
        Whether published rows that have no value for any task stand there too, for their means.

    Returns
    -------
    PerTask
        Without tasks and tables where no accuracy matrix can be read, or seeds have different numbers of tasks.
    """
    kind = field.runs[0].kind
    scalars = [name for name in scalars or HEADLINES[kind].values() if name in COLUMNS[kind]]
    orders, notes = _orders(field)
    if not orders:
        return PerTask([], [], [*notes, "no table for every task: no accuracy matrix can be read"])
    if len({len(order) for order in orders}) > 1:
        return PerTask([], [], [*notes, "no table for every task: the seeds have different numbers of tasks"])
    names, keys = orders[0], list[str | int](orders[0])
    if any(order != names for order in orders):
        if len({frozenset(order) for order in orders}) == 1:
            names = sorted(names)
            keys = list(names)
            word = "order" if any(group.orders for group in field.groups) else "seed"
            own = "tasks come in several orders" if word == "order" else "each seed has its own order of tasks"
            said = f": a task's Transfer is over the {word}s that begin elsewhere" if kind == LEARNING else ""
            notes.append(own + said)
        else:
            names = [f"task {number}" for number in range(1, len(names) + 1)]
            keys = list(range(len(names)))
            notes.append("each seed has other tasks: values are those of the task at each position")
    rows = [row for row in published.rows if every or row.columns] if published else []
    tables = [_table(field, rows, scalar, names, keys) for scalar in scalars]
    kept = [table for table in tables if any(one for row in table.measured for one in row.tasks)]
    return PerTask(names, kept, notes)


def _orders(field: ComparableRuns) -> tuple[list[list[str]], list[str]]:
    """Return the tasks of every run whose matrix can be read, and what could not be read."""
    orders, notes = [], []
    for run in field.runs:
        try:
            orders.append(run.matrix.tasks)
        except UserError as error:
            notes.append(f"not in tables for every task: {error}")
    return orders, notes


def _table(
    field: ComparableRuns, published: Sequence[PublishedRow], scalar: str, names: list[str], keys: Sequence[str | int]
) -> TaskTable:
    columns = [*keys, OVERALL]
    measured = []
    for group in field.groups:
        *tasks, overall = (_over(over_seeds(group, scalar, column)) for column in columns)
        measured.append(TaskRow(group.label, group, None, tasks, overall))
    rows = {row.label: row for row in measured}
    winners = [ahead(field.groups, scalar, column) for column in columns]
    first = [None if winner is None else rows[winner.label] for winner in winners]
    return TaskTable(scalar, measured, _quoted(published, scalar, names), first)


def _over(values: dict[Key, float]) -> Spread | None:
    return spread(values.values()) if values else None


def _quoted(published: Sequence[PublishedRow], scalar: str, names: Sequence[str]) -> list[TaskRow]:
    """Return the published rows that have a value of a metric."""
    word = next((word for word, one in METRICS.items() if one == scalar), "")
    rows = []
    for row in published:
        values = row.columns.get(word, {})
        tasks, overall = [_said(values.get(name)) for name in names], _said(row.value(scalar))
        if values or overall:
            rows.append(TaskRow(row.method, None, row, tasks, overall))
    return rows


def _said(value: float | None) -> Spread | None:
    return None if value is None else Spread(value, None, None, 0)


# ------------------------------------------------------------------------------------------------ bold


def over_seeds(group: Group, scalar: str, task: str | int | None = None) -> dict[Key, float]:
    """Return a scalar, or what it is for one task, for each seed that has it, or for each order of tasks.

    Parameters
    ----------
    group : Group
    scalar : str
    task : str or int, optional
        As for `bench.compare.significance.value_of`.

    Returns
    -------
    dict of Key to float
        As for `bench.compare.grouping.Group.averaged`; in percent.
    """
    values = {key: value_of(run, scalar, task) for key, run in group.runs.items()}
    return group.averaged({key: value for key, value in values.items() if value is not None})


def ahead(groups: Sequence[Group], scalar: str, task: str | int | None = None) -> Group | None:
    """Return the group with the best mean, if its seeds show that it is ahead of the next one.

    They do where the t interval of the paired difference to the group with the second best mean lies on its side of 0.
    It is as wide as if the best one were compared with all others (`bench.compare.significance.level_of`). One seed in
    common shows nothing. Bounds are not among them.

    Parameters
    ----------
    groups : sequence of Group
    scalar : str
        More is better, unless it is one of `bench.metrics.kinds.LESS_IS_BETTER`.
    task : str or int, optional
        As for `bench.compare.significance.value_of`.

    Returns
    -------
    Group or None
    """
    values = {group.label: over_seeds(group, scalar, task) for group in groups}
    sign = -1 if scalar in LESS_IS_BETTER else 1
    ranked = sorted(
        (group for group in groups if values[group.label] and not group.bound),
        key=lambda group: -sign * float(np.mean(list(values[group.label].values()))),
    )
    if len(ranked) < 2:
        return None
    best, following = ranked[:2]
    first, second = values[best.label], values[following.label]
    gaps = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
    if len(gaps) < 2 or np.ptp(gaps) <= EQUAL:
        return None
    gap = difference(best, following, scalar, level_of(len(ranked) - 1), task)
    near = gap.low if sign > 0 else gap.high
    return best if near is not None and sign * near > 0 and "images" not in gap.over else None


# ----------------------------------------------------------------------------------------- differences


def apart(against: Against, groups: Sequence[Group], names: Sequence[str], scalar: str) -> list[list[Difference]]:
    """Return how far groups are from the baseline on every task.

    Parameters
    ----------
    against : Against
        Of its intervals each has the level of those here, which hold one by one: over many tasks some miss by chance.
    groups : sequence of Group
    names : sequence of str
        The tasks: see `PerTask`.
    scalar : str
        One of `bench.metrics.kinds.COLUMNS`.

    Returns
    -------
    list of list of Difference
        For each group one for each task.
    """
    own = {name for group in groups for run in group.runs.values() for name in run.identity.tasks}
    tasks: Sequence[str | int] = names if own.issuperset(names) else range(len(names))
    return [[difference(group, against.baseline, scalar, against.level, task) for task in tasks] for group in groups]

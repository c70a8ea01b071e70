"""Ours against theirs, number by number: what papers published of a method are known answers for runs of it.

`bench.recipes.answers` marks the numbers of a recipe with it. It is one file: a limit and the words that say it belong
together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from statistics import NormalDist
from typing import Any

import numpy as np

from bench.compare.grouping import Comparison, Group
from bench.compare.published import METRICS, POOLED, Row
from bench.compare.runs import TITLES
from bench.compare.significance import TOGETHER, level_of
from bench.compare.tables import Section, below, cited, heading, left_out
from bench.core.console import one_line
from bench.core.errors import UserError
from bench.core.tables import aligned
from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.weights import Shape, weights_of

MEAN = "Mean"
"""Stands for the mean over tasks among the tasks."""

WITHIN, ABOVE, BELOW, NOT_RUN = "within", "above", "below", "not run"
"""What a number of ours may be beside theirs."""

CHANCE = (
    "  standard error = sqrt((1 + 1/n) p (1 - p) / images), p = accuracy of our n runs and theirs together\n"
    f"  so many: where nothing but chance differs, all numbers of a row are within with {100 * TOGETHER:g} %"
)
"""What the limits are that nobody chose."""

CELL_COLUMNS = (
    "stream", "model", "apart", "method", "label", "fingerprint", "published", "reference", "number", "task", "n",
    "ours", "theirs", "difference", "limit", "verdict",
)  # fmt: skip
"""Of the CSV: docs/compare.md says what they are."""


@dataclass(frozen=True)
class Answer:
    """One published number and ours.

    Attributes
    ----------
    name : str
        What it is: ``after DTD`` for a cell of the matrix, else the name of a metric.
    task : str
        The test set, or `MEAN`.
    theirs : float
        In percent.
    ours : float or None
        In percent, the mean over seeds; None where no seed measured all that it needs.
    n : int
        Seeds that did.
    error : float
        See `standard_error`; 0 where there is none of ours.
    limit : float
        How far ours may be from theirs, in percentage points.
    """

    name: str
    task: str
    theirs: float
    ours: float | None = None
    n: int = 0
    error: float = 0.0
    limit: float = 0.0

    @property
    def difference(self) -> float | None:
        """Ours minus theirs in percentage points."""
        return None if self.ours is None else self.ours - self.theirs

    @property
    def verdict(self) -> str:
        """One of `WITHIN`, `ABOVE`, `BELOW`, `NOT_RUN`."""
        if self.difference is None:
            return NOT_RUN
        return WITHIN if abs(self.difference) <= self.limit else ABOVE if self.difference > 0 else BELOW


@dataclass(frozen=True)
class Agreement:
    """A method beside what a paper published of it.

    Attributes
    ----------
    group : Group
    row : Row
    errors : float
        How many standard errors a limit has, where it is one by chance.
    answers : list of Answer
        The cells of the matrix where the paper has it; else values for every task and means over tasks.
    bound : str
        What the limits are, in words.
    """

    group: Group
    row: Row
    errors: float
    answers: list[Answer]
    bound: str

    @property
    def summary(self) -> str:
        """How many numbers are within their limits, and how many are above, below or not run."""
        return counted(self.answers)


def counted(answers: Sequence[Answer]) -> str:
    """Return in words how many published numbers are within their limits, above, below or not run.

    Parameters
    ----------
    answers : sequence of Answer
    """
    counts = Counter(answer.verdict for answer in answers)
    rest = [f"{counts[one]} {one}" for one in (ABOVE, BELOW, NOT_RUN) if counts[one]]
    return ", ".join([f"{counts[WITHIN]} of {len(answers)} within", *rest])


def agreements(section: Section) -> list[Agreement]:
    """Compare methods with what was published of them.

    Parameters
    ----------
    section : Section
        Each of its published rows is compared with the methods that it is a result of; where none of them is shown,
        with all that are.

    Returns
    -------
    list of Agreement
        In the order of the methods, then of the published rows.
    """
    if section.published is None:
        return []
    shown = {group.method for group in section.field.groups}
    return [
        agreement(group, row, section.published.tasks)
        for group in section.field.groups
        for row in section.published.rows
        if group.method in row.registered or shown.isdisjoint(row.registered)
    ]


def agreement(
    group: Group, row: Row, tasks: Sequence[str], tolerance: float | Mapping[str, float] | None = None
) -> Agreement:
    """Compare one method with one published row.

    Parameters
    ----------
    group : Group
        One without runs has no number.
    row : Row
    tasks : sequence of str
        Those of the published table, in their order.
    tolerance : float or mapping of str to float, optional
        How far numbers may be apart, in percentage points: all of them, or those of each test set. By default the limit
        is one by chance, see `standard_error`, and allows for all numbers that were run.

    Returns
    -------
    Agreement
    """
    runs = []
    for run in group.runs.values():
        with suppress(UserError):  # a damaged matrix, or one of other tasks, counts for no number
            if run.matrix.tasks == list(tasks):
                runs.append((_shape(run.matrix), np.nan_to_num(run.matrix.array())))
    answers = [_answer(runs, tasks, *one) for one in _published(row, tasks)]
    if tolerance is not None:
        limits = [tolerance[one.task] if isinstance(tolerance, Mapping) else tolerance for one in answers]
        bound = "a band each" if isinstance(tolerance, Mapping) else f"{tolerance:g} points"
        bound = "1 point" if tolerance == 1 else bound
        allowed = [replace(one, limit=limit) for one, limit in zip(answers, limits, strict=True)]
        return Agreement(group, row, 0.0, allowed, bound)
    run_here = sum(answer.ours is not None for answer in answers)
    errors = NormalDist().inv_cdf((1 + level_of(run_here)) / 2) if run_here else 0.0
    rounding = 0.5 * 10.0 ** -_digits(row)
    allowed = [replace(one, limit=errors * one.error + rounding) for one in answers]
    return Agreement(group, row, errors, allowed, f"{errors:.2f} standard errors")


def standard_error(weights: np.ndarray, accuracies: np.ndarray, images: np.ndarray, theirs: float, n: int) -> float:
    """Return the standard error of the difference between a number of ours and a published one.

    Both count right answers on the same test images. If the training of a method decides by chance, for each image by
    itself, whether it is answered correctly, the mean of n runs and one more run differ with the variance
    (1 + 1/n) sum_j w_j^2 p_j (1 - p_j) / images_j at most, whatever the images are. Here w_j is what test set j weighs
    in the number and p_j its accuracy in it; where the number is about one test set, p_j is that of all n + 1 runs.

    Parameters
    ----------
    weights : float64 array [T + 1, T]
        How much each cell of the matrix weighs in the number.
    accuracies : float64 array [T + 1, T]
        In percent, means over seeds; anything where the weight is 0.
    images : int64 array [T]
        Sizes of the test sets.
    theirs : float
        In percent.
    n : int
        Seeds of ours.

    Returns
    -------
    float
        In percentage points.
    """
    read = weights.any(axis=0)
    shares = weights[:, read].sum(axis=0)
    p = np.clip((weights * accuracies)[:, read].sum(axis=0) / shares / 100, 0, 1)
    if len(p) == 1:
        p = (n * p + theirs / 100) / (n + 1)
    return 100 * math.sqrt((1 + 1 / n) * float((shares**2 * p * (1 - p) / images[read]).sum()))


# ---------------------------------------------------------------------------------------------- compared


def _published(row: Row, tasks: Sequence[str]) -> Iterator[tuple[str | int, str, float]]:
    """Return what a row says: a row of the matrix or a scalar, a test set or `MEAN`, percent."""
    if row.matrix:
        for stage, line in enumerate(row.matrix, start=1):
            yield from ((stage, task, value) for task, value in zip(tasks, line, strict=True))
        return
    for word, scalar in (*METRICS.items(), *zip(POOLED, POOLED, strict=True)):
        yield from ((scalar, task, value) for task, value in row.columns.get(word, {}).items())
        if scalar in row.values:
            yield scalar, MEAN, row.values[scalar]


def _answer(
    runs: Sequence[tuple[Shape, np.ndarray]], tasks: Sequence[str], number: str | int, task: str, theirs: float
) -> Answer:
    """Return one published number with ours, over the seeds that measured all that it needs."""
    column = None if task == MEAN else tasks.index(task)
    values, measured = [], []
    images = weights = np.zeros(0)
    for shape, accuracies in runs:
        with suppress(MissingCell):
            weights = _weights(number, column, shape)
            images = np.array(shape.totals)
            measured.append(accuracies)
            values.append(float((weights * accuracies).sum()))
    name = f"after {tasks[number - 1]}" if isinstance(number, int) else TITLES.get(number, number)
    if not values:
        return Answer(name, task, theirs)
    error = standard_error(weights, np.mean(measured, axis=0), images, theirs, len(values))
    return Answer(name, task, theirs, float(np.mean(values)), len(values), error)


def _shape(matrix: AccuracyMatrix) -> Shape:
    """Return what decides how much cells weigh, the sizes of the test sets included."""
    rows, size = range(len(matrix.tasks) + 1), len(matrix.tasks)
    missing = [(row, at) for row in rows for at in range(size) if matrix.state(row, at) == "missing"]
    totals = (max(matrix.cell(row, at).total or 1 for row in rows) for at in range(size))
    return Shape(size, frozenset(missing), totals=tuple(totals))


def _weights(number: str | int, column: int | None, shape: Shape) -> np.ndarray:
    """Return how much each cell of a matrix weighs in a number; `MissingCell` where one that does is missing."""
    weights = np.zeros((shape.size + 1, shape.size))
    if isinstance(number, str):
        weights = weights_of(number, shape, column)
    elif column is not None and (number, column) not in shape.missing:
        weights[number, column] = 1
    if not weights.any():
        raise MissingCell("a cell of the number is missing")
    return weights


def _digits(row: Row) -> int:
    """Return the decimals of published numbers: as many as the one with most has."""
    numbers = (
        chain(*row.matrix) if row.matrix else chain(row.values.values(), *(c.values() for c in row.columns.values()))
    )
    return max(len(repr(number).partition(".")[2]) for number in numbers)


# ------------------------------------------------------------------------------------------------- shown


def cell_text(comparison: Comparison, laid_out: Sequence[Section], bold: bool = False) -> str:
    """Return ours minus theirs as text: for every method and published row of it a table like the published one.

    Parameters
    ----------
    comparison : Comparison
    laid_out : sequence of Section
        See `bench.compare.tables.sections`.
    bold : bool
        Whether numbers outside of their limits are printed in bold, by an ANSI escape sequence.

    Returns
    -------
    str
        Blocks with an empty line between them.
    """
    blocks = []
    for section in laid_out:
        found = agreements(section)
        blocks.append(
            "\n".join([*heading(section), *([] if found else ["  nothing is published of these methods here"])])
        )
        blocks += ["\n".join(_table(section, one, bold)) for one in found]
        blocks += ["\n".join(lines)] if (lines := below(section)) else []
    if laid_out:
        blocks.append(
            "ours minus theirs in percentage points, means over n seeds; within: not farther apart than so many\n"
            f"standard errors and half of the last published digit\n{CHANCE}"
        )
    return "\n\n".join([*blocks, *left_out(comparison)])


def _table(section: Section, one: Agreement, bold: bool) -> list[str]:
    """Lay out one method beside one published row."""
    return agreement_lines(one, cited(section, one.row), section.choice.named, bold)


def agreement_lines(one: Agreement, cited: str, named: Callable[[str], str] = str, bold: bool = False) -> list[str]:
    """Lay out one method beside one published row: a title, and a table like the published one.

    Parameters
    ----------
    one : Agreement
    cited : str
        The published row, with its source.
    named : callable, optional
        Test set -> what it is called.
    bold : bool
        Whether numbers outside of their limits are printed in bold.

    Returns
    -------
    list of str
    """
    tasks = list(dict.fromkeys(answer.task for answer in one.answers))
    rows = [[one.bound, *map(named, tasks)]]
    strong = set()
    for name in dict.fromkeys(answer.name for answer in one.answers):
        cells = {answer.task: answer for answer in one.answers if answer.name == name}
        strong |= {(len(rows), at) for at, task in enumerate(tasks, start=1) if task in cells and _off(cells[task])}
        rows.append([name, *(_cell(cells.get(task)) for task in tasks)])
    n = len(one.group.runs)
    seeds = f" ({n} seed{'' if n == 1 else 's'})" if n else ""
    title = f"{one.group.label}{seeds} beside {cited}: {one.summary}"
    return [one_line(title), *aligned(rows, strong if bold else ())]


def _off(answer: Answer) -> bool:
    return answer.verdict in (ABOVE, BELOW)


def _cell(answer: Answer | None) -> str:
    """Write a difference, and what it is where it is not within its limit."""
    if answer is None:
        return "-"
    if answer.difference is None:
        return NOT_RUN
    return f"{answer.difference:+.1f}" + (f" {answer.verdict}" if _off(answer) else "")


def cell_lines(section: Section) -> Iterator[dict[str, Any]]:
    """Return a line of CSV for every published number that has a method here.

    Parameters
    ----------
    section : Section

    Returns
    -------
    iterator of dict of str to object
        Some of `CELL_COLUMNS` with numbers in percent and percentage points.
    """
    for one in agreements(section):
        names = {"method": one.group.method, "label": one.group.label, "fingerprint": one.group.fingerprint}
        shared = {**names, "published": one.row.method, "reference": one.row.source}
        for answer in one.answers:
            numbers = {key: getattr(answer, key) for key in ("n", "ours", "theirs", "difference", "limit", "verdict")}
            yield {**shared, "number": answer.name, "task": section.choice.named(answer.task), **numbers}

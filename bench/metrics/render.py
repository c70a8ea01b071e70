"""The accuracy matrix as text for a terminal, with the scalars of its kind below it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.metrics import forgetting
from bench.metrics.kinds import COLUMNS, FORGETTING, HEADLINES, LEARNING, TITLES, summary
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.matrix_file import KEPT, MISSING, PROBE, ZERO_SHOT
from bench.metrics.scalars import mean

LEGEND = {
    LEARNING: "percent correct; rows: after each task; columns: test sets; * just learned; - missing",
    FORGETTING: "percent correct; rows: before, after each request; columns: classes of requests, others; "
    "* just forgotten; - missing",
}
"""Kind of matrix -> what rows, columns and signs are."""

ROLES = {
    KEPT: "other classes, which stay",
    MISSING: "classes that stay and have no training images",
    PROBE: "test sets that no {} is about",
}
"""What the columns beside those of the tasks are; the blank is for what takes the place of a task."""

BEFORE = "before"
"""The label of the first row where a stream asks to forget: what it begins with need not be the untrained model."""

MEANINGS = {
    "forgotten": "accuracy on the classes of a request right after it; less is better",
    "relapse": "accuracy on all that earlier requests named, after each request; less is better",
    "retained": "accuracy on all classes that were to stay so far, after each request; more is better",
    "h_mean": "harmonic mean of what a request took from its classes and Retained; more is better",
    "missing": "accuracy on classes that stay and have no training images, after each request; more is better",
    "elsewhere": "accuracy on test sets that no request is about, after the last request; more is better",
}
"""What the lines below a matrix of requests say, for readers who know no paper about forgetting."""

BLANK: Literal[""] = ""
"""A place in a line that has no value there, nor could have."""


def abbreviate(names: Sequence[str], width: int) -> list[str]:
    """Cut names to a width; those that would look the same end in their position, counted from 1.

    Parameters
    ----------
    names : sequence of str
    width : int
        Characters of a name at most.
    """
    cut = [name[:width] for name in names]
    return [
        short if cut.count(short) == 1 else short[: max(0, width - len(str(number)))] + str(number)
        for number, short in enumerate(cut, start=1)
    ]


def render(matrix: AccuracyMatrix, after: int | None = None, width: int | None = None) -> str:
    """Return the matrix as text for a terminal; columns that do not fit go to another block below.

    Parameters
    ----------
    matrix : AccuracyMatrix
    after : int, optional
        Last row to show, 0..T; by default all of them.
    width : int, optional
        Characters a line may take; by default the width of the terminal (100 when there is none).

    Returns
    -------
    str

    Raises
    ------
    IndexError
        If there is no row `after`.
    """
    size = len(matrix.tasks)
    after = size if after is None else after
    width = width or shutil.get_terminal_size(fallback=(100, 24)).columns
    if not 0 <= after <= size:
        raise IndexError(f"row {after} lies outside rows 0..{size}")
    if after < size:  # what is not shown does not count below either
        matrix = matrix.until(after)
    requests = matrix.kind == FORGETTING
    inside = range(len(matrix.columns) if requests else size)  # of the block with the mean
    rows = [_row(matrix, row, inside) for row in range(after + 1)]
    below = _requests_below(matrix) if requests else _below(matrix)
    stub, cell = _widths([matrix.columns[column] for column in inside], [*rows, *below], width)
    labels = [BEFORE if requests else ZERO_SHOT, *abbreviate(matrix.tasks, stub)][: after + 1]
    rows = [replace(line, label=label) for line, label in zip(rows, labels, strict=True)]
    names = abbreviate(matrix.columns, cell - 2)
    per_block = max(1, (width + 1 - stub) // cell - 1)
    blocks = [
        _block(names, part, rows, below, stub, cell, part.stop == len(inside)) for part in _parts(inside, per_block)
    ]
    beside = range(len(inside), len(matrix.columns))
    apart = [replace(_row(matrix, row, range(beside.stop)), label=label) for row, label in enumerate(labels)]
    blocks += [_block(names, part, apart, [], stub, cell, False) for part in _parts(beside, per_block)]
    out = ["\n\n".join(blocks), LEGEND[matrix.kind], *_columns(matrix)]
    if requests:
        out += [f"{line.label}: {MEANINGS[line.about]}" for line in below]
    states = [matrix.state(row, column) for row in range(after + 1) for column in range(len(matrix.columns))]
    if "reused" in states:
        out.append(f"{states.count('reused')} of {len(states)} cells reused from an earlier row, not measured again")
    return "\n".join(out)


_Value = float | None | Literal[""]


@dataclass(frozen=True)
class _Line:
    """One line of the text: its label, a value for each column, their mean, the column to mark, and its scalar."""

    label: str
    values: Sequence[_Value]
    mean: _Value
    marked: int = -1
    about: str = ""


def _parts(columns: range, size: int) -> list[range]:
    """Divide columns into ranges of a size at most."""
    return [range(start, min(start + size, columns.stop)) for start in range(columns.start, columns.stop, size)]


def _row(matrix: AccuracyMatrix, row: int, columns: range) -> _Line:
    values = [matrix.cell(row, column).accuracy for column in columns]
    if matrix.kind == FORGETTING:  # a mean over what is to go and what is to stay says nothing
        return _Line(matrix.label(row), values, BLANK, row - 1)
    known = [value for value in values if value is not None]
    return _Line(matrix.label(row), values, mean(known) if len(known) == len(values) else None, row - 1)


def _below(matrix: AccuracyMatrix) -> list[_Line]:
    """Return the lines of Transfer, Average and Last."""
    scalars = summary(matrix)
    return [_Line(title, COLUMNS[LEARNING][name](matrix), scalars[name]) for title, name in HEADLINES[LEARNING].items()]


def _columns(matrix: AccuracyMatrix) -> list[str]:
    """Return what the columns beside those of the tasks are, a line for each role."""
    names = {role: [matrix.columns[column] for column in matrix.of_role(role)] for role in ROLES}
    about = "request" if matrix.kind == FORGETTING else "task"
    return [f"{', '.join(names[role])}: {what.format(about)}" for role, what in ROLES.items() if names[role]]


def _requests_below(matrix: AccuracyMatrix) -> list[_Line]:
    """Return the lines about forgetting: values below the requests, or below the test sets, that they are of."""
    scalars = summary(matrix)
    size = len(matrix.tasks)
    lines = []
    for name in MEANINGS:
        role = forgetting.NEEDS.get(name)
        if role and not matrix.of_role(role):
            continue
        values: list[_Value] = [BLANK] * len(matrix.columns)
        if name in COLUMNS[FORGETTING]:
            values[:size] = COLUMNS[FORGETTING][name](matrix)
        else:
            for column in matrix.of_role(PROBE):
                values[column] = matrix.cell(size, column).accuracy
        lines.append(_Line(TITLES[name], values, scalars[name], about=name))
    return lines


def _widths(names: Sequence[str], lines: Sequence[_Line], width: int) -> tuple[int, int]:
    """Return the width of the labels and of a cell. Names are complete where they fit; labels are cut last."""
    number = max(len(_one_decimal(value)) for line in lines for value in [*line.values, line.mean, 10.0])
    longest = max(len(label) for label in [ZERO_SHOT, *names])
    # The narrowest cell is " 62.6*".
    choices = [(stub, cell) for stub in (16, 9) for cell in range(min(16, longest + 2), number + 1, -1)]
    for stub, cell in choices or [(9, number + 2)]:
        stub = max(9, min(stub, longest))
        if stub + (len(names) + 1) * cell <= width + 1:
            break
    return stub, cell


def _block(
    names: Sequence[str], part: range, rows: list[_Line], below: list[_Line], stub: int, cell: int, final: bool
) -> str:
    """Lay out some columns; the final block has the means too."""

    def written(line: _Line) -> str:
        text = f"{line.label:<{stub}}"
        for column in part:
            text += f"{_one_decimal(line.values[column]):>{cell - 1}}" + ("*" if column == line.marked else " ")
        return (text + f"{_one_decimal(line.mean):>{cell - 1}}" if final else text).rstrip()

    head = " " * stub + "".join(f"{names[column]:>{cell - 1}} " for column in part)
    head = (head + f"{'mean':>{cell - 1}}" if final else head).rstrip()
    return "\n".join([head, *map(written, rows), *(["-" * len(head), *map(written, below)] if below else [])])


def _one_decimal(value: _Value) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.1f}"

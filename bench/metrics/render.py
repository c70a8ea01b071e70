"""The accuracy matrix as text for a terminal, with Transfer, Average and Last below it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.metrics.kinds import summary
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.matrix_file import ZERO_SHOT
from bench.metrics.scalars import COLUMNS, HEADLINES, mean

LEGEND = "percent correct; rows: after each task; columns: test sets; * just learned; - missing"


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
    rows = [_row(matrix, row) for row in range(after + 1)]
    below = _below(matrix)
    stub, cell = _widths(matrix.tasks, [*rows, *below], width)
    labels = [ZERO_SHOT, *abbreviate(matrix.tasks, stub)][: after + 1]
    rows = [replace(line, label=label) for line, label in zip(rows, labels, strict=True)]
    names = abbreviate(matrix.tasks, cell - 2)
    per_block = max(1, (width + 1 - stub) // cell - 1)
    blocks = [
        _block(names, range(start, min(start + per_block, size)), rows, below, stub, cell)
        for start in range(0, size, per_block)
    ]
    out = ["\n\n".join(blocks), LEGEND]
    states = [matrix.state(row, column) for row in range(after + 1) for column in range(size)]
    if "reused" in states:
        out.append(f"{states.count('reused')} of {len(states)} cells reused from an earlier row, not measured again")
    return "\n".join(out)


@dataclass(frozen=True)
class _Line:
    """One line of the text: its label, a value for each task, their mean, and the column to mark with a star."""

    label: str
    values: list[float | None]
    mean: float | None
    marked: int = -1


def _row(matrix: AccuracyMatrix, row: int) -> _Line:
    values = [matrix.cell(row, column).accuracy for column in range(len(matrix.tasks))]
    known = [value for value in values if value is not None]
    return _Line(matrix.label(row), values, mean(known) if len(known) == len(values) else None, row - 1)


def _below(matrix: AccuracyMatrix) -> list[_Line]:
    """Return the lines of Transfer, Average and Last."""
    scalars = summary(matrix)
    return [_Line(title, COLUMNS[name](matrix), scalars[name]) for title, name in HEADLINES.items()]


def _widths(tasks: Sequence[str], lines: Sequence[_Line], width: int) -> tuple[int, int]:
    """Return the width of the labels and of a cell. Names are complete where they fit; labels are cut last."""
    number = max(len(_one_decimal(value)) for line in lines for value in [*line.values, line.mean, 10.0])
    longest = max(len(label) for label in [ZERO_SHOT, *tasks])
    # The narrowest cell is " 62.6*".
    choices = [(stub, cell) for stub in (16, 9) for cell in range(min(16, longest + 2), number + 1, -1)]
    for stub, cell in choices or [(9, number + 2)]:
        stub = max(9, min(stub, longest))
        if stub + (len(tasks) + 1) * cell <= width + 1:
            break
    return stub, cell


def _block(names: Sequence[str], part: range, rows: list[_Line], below: list[_Line], stub: int, cell: int) -> str:
    """Lay out some columns; the block with the last column has the means too."""
    final = part.stop == len(names)

    def written(line: _Line) -> str:
        text = f"{line.label:<{stub}}"
        for column in part:
            text += f"{_one_decimal(line.values[column]):>{cell - 1}}" + ("*" if column == line.marked else " ")
        return (text + f"{_one_decimal(line.mean):>{cell - 1}}" if final else text).rstrip()

    head = " " * stub + "".join(f"{names[column]:>{cell - 1}} " for column in part)
    head = (head + f"{'mean':>{cell - 1}}" if final else head).rstrip()
    return "\n".join([head, *map(written, rows), "-" * len(head), *map(written, below)])


def _one_decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

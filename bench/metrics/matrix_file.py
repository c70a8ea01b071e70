"""The text of accuracy.csv: written from the cells of a matrix, and read with every field checked."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.metrics.cell import Cell

ZERO_SHOT = "zero-shot"
"""The label of row 0."""

COLUMNS = ("row", "after", "column", "task", "correct", "total", "accuracy", "state")
"""The head of the file; the last four are `Cell.fields`."""


def check_names(tasks: Sequence[str]) -> None:
    """Raise `ValueError` for names of tasks that are none, empty, not printable or not unique."""
    if not tasks:
        raise ValueError("an accuracy matrix needs at least one task")
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"the names of the tasks must differ: {list(tasks)}")
    for task in tasks:
        if not task or not task.isprintable():
            raise ValueError(f"the name of a task must be printable and not empty: {task!r}")


def label(tasks: Sequence[str], row: int) -> str:
    """Return the name of a row: ``zero-shot``, or the task after which it was measured."""
    return ZERO_SHOT if row == 0 else tasks[row - 1]


def where(tasks: Sequence[str], row: int, column: int) -> str:
    """Name a cell in words."""
    after = "of the untrained model (row 0)" if row == 0 else f'after "{label(tasks, row)}" (row {row})'
    return f'{after} on "{tasks[column]}" (column {column + 1})'


def damaged(path: Path, line: int, reason: str) -> UserError:
    """Return the error for a damaged line."""
    return UserError(f"{path}, line {line}: {reason}; the file is damaged, make the run again with another out=DIR")


def written(tasks: Sequence[str], cells: Sequence[Sequence[Cell]]) -> str:
    """Return the text of the file.

    Parameters
    ----------
    tasks : sequence of str
        Names of the T tasks.
    cells : sequence of sequence of Cell
        T + 1 rows of T cells.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            writer.writerow([row, label(tasks, row), column + 1, tasks[column], *cell.fields()])
    return stream.getvalue()


def parsed(text: str, path: Path) -> tuple[list[str], list[list[Cell]]]:
    """Return the tasks and the cells that `written` wrote.

    Parameters
    ----------
    text : str
    path : Path
        Where the text came from, for errors.

    Returns
    -------
    tasks : list of str
        Names of the T tasks.
    cells : list of list of Cell
        T + 1 rows of T cells.

    Raises
    ------
    UserError
        If the text is damaged; names the line.
    """
    lines = _lines(text, path)
    if not lines or tuple(lines[0]) != COLUMNS:
        raise damaged(path, 1, f"expected the header {','.join(COLUMNS)}")
    # The untrained model's row comes first and names every task: as many lines as there are tasks.
    tasks = [line[3] if len(line) > 3 else "" for line in lines[1:] if line[:1] == ["0"]]
    try:
        check_names(tasks)
    except ValueError as error:
        raise damaged(path, 2, str(error)) from None
    size = len(tasks) * (len(tasks) + 1)
    # As many rows as there are lines, however many cells their tasks would need: a file must not decide on the memory.
    rows = len(tasks) + 1 if len(lines) - 1 >= size else -(-len(lines) // len(tasks))
    cells = [[Cell() for _ in tasks] for _ in range(rows)]
    positions = [(row, column) for row in range(rows) for column in range(len(tasks))]
    for number, (line, (row, column)) in enumerate(zip(lines[1:], positions, strict=False), start=2):
        if len(line) != len(COLUMNS):
            raise damaged(path, number, f"{len(line)} fields instead of {len(COLUMNS)}")
        if line[:4] != [str(row), label(tasks, row), str(column + 1), tasks[column]]:
            raise damaged(
                path, number, f"expected the accuracy {where(tasks, row, column)}, found {','.join(line[:4])}"
            )
        try:
            cells[row][column] = Cell.from_fields(line[4:])
        except ValueError as error:
            raise damaged(path, number, str(error)) from None
    if len(lines) - 1 != size:
        number = min(len(lines), size + 1) + 1
        raise damaged(path, number, f"{len(lines) - 1} cells instead of {size} for {len(tasks)} tasks")
    return tasks, cells


def _lines(text: str, path: Path) -> list[list[str]]:
    # strict: a quote left open is an error here, not a field that swallows the rest of the file
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[list[str]] = []
    try:
        while (line := next(reader, None)) is not None:
            lines.append(line)
    except csv.Error as error:
        raise damaged(path, len(lines) + 1, str(error)) from None
    return lines

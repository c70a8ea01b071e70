"""The text of accuracy.csv: written from the cells of a matrix, and read with every field checked."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.metrics.cell import Cell

ZERO_SHOT = "zero-shot"
"""The label of row 0."""

COLUMNS = ("row", "after", "column", "task", "correct", "total", "accuracy", "state")
"""The head of the file; the last four are `Cell.fields`."""

ROLE = "role"
"""One more column, where the matrix has test sets that no task trains on."""

TASK, KEPT, MISSING, PROBE = "task", "kept", "missing", "probe"
ROLES = (KEPT, MISSING, PROBE)
"""What such a test set is: classes that no request names, such classes without training images, or anything else."""


def check_names(tasks: Sequence[str], others: Mapping[str, str]) -> None:
    """Raise `ValueError` for names of test sets that are none, empty, not printable, not unique, or of no role."""
    if not tasks:
        raise ValueError("an accuracy matrix needs at least one task")
    names = [*tasks, *others]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of the tasks must differ: {names}")
    for name in names:
        if not name or not name.isprintable():
            raise ValueError(f"the name of a task must be printable and not empty: {name!r}")
    for name, role in others.items():
        if role not in ROLES:
            raise ValueError(f"the test set {name} has the role {role!r}, which is none of {', '.join(ROLES)}")


def label(tasks: Sequence[str], row: int) -> str:
    """Return the name of a row: ``zero-shot``, or the task after which it was measured."""
    return ZERO_SHOT if row == 0 else tasks[row - 1]


def where(tasks: Sequence[str], columns: Sequence[str], row: int, column: int) -> str:
    """Name a cell in words."""
    after = "of the untrained model (row 0)" if row == 0 else f'after "{label(tasks, row)}" (row {row})'
    return f'{after} on "{columns[column]}" (column {column + 1})'


def damaged(path: Path, line: int, reason: str) -> UserError:
    """Return the error for a damaged line."""
    return UserError(f"{path}, line {line}: {reason}; the file is damaged, make the run again with another out=DIR")


def written(tasks: Sequence[str], others: Mapping[str, str], cells: Sequence[Sequence[Cell]]) -> str:
    """Return the text of the file.

    Parameters
    ----------
    tasks : sequence of str
        Names of the T tasks.
    others : mapping of str to str
        Names of further test sets, and the role of each.
    cells : sequence of sequence of Cell
        T + 1 rows of a cell for each task and each further test set.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*COLUMNS, ROLE) if others else COLUMNS)
    names, roles = [*tasks, *others], [*(TASK for _ in tasks), *others.values()]
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            role = [roles[column]] if others else []
            writer.writerow([row, label(tasks, row), column + 1, names[column], *cell.fields(), *role])
    return stream.getvalue()


def parsed(text: str, path: Path) -> tuple[list[str], dict[str, str], list[list[Cell]]]:
    """Return the tasks, the further test sets and the cells that `written` wrote.

    Parameters
    ----------
    text : str
    path : Path
        Where the text came from, for errors.

    Returns
    -------
    tasks : list of str
        Names of the T tasks.
    others : dict of str to str
        Names of further test sets, and the role of each.
    cells : list of list of Cell
        T + 1 rows of a cell for each task and each further test set.

    Raises
    ------
    UserError
        If the text is damaged; names the line.
    """
    lines = _lines(text, path)
    head = tuple(lines[0]) if lines else ()
    if head not in (COLUMNS, (*COLUMNS, ROLE)):
        raise damaged(path, 1, f"expected the header {','.join(COLUMNS)}")
    # The untrained model's row comes first and names every test set: as many lines as there are columns.
    first = [line for line in lines[1:] if line[:1] == ["0"]]
    names = [line[3] if len(line) > 3 else "" for line in first]
    roles = [line[-1] if head[-1] == ROLE else TASK for line in first]
    tasks = names[: next((index for index, role in enumerate(roles) if role != TASK), len(names))]
    others = dict(zip(names[len(tasks) :], roles[len(tasks) :], strict=True))
    try:
        check_names(tasks, others)
        if len(tasks) + len(others) < len(names):
            raise ValueError(f"the names of the test sets must differ: {names}")
    except ValueError as error:
        raise damaged(path, 2, str(error)) from None
    size = len(names) * (len(tasks) + 1)
    # As many rows as there are lines, however many cells their tasks would need: a file must not decide on the memory.
    rows = len(tasks) + 1 if len(lines) - 1 >= size else -(-len(lines) // len(names))
    cells = [[Cell() for _ in names] for _ in range(rows)]
    positions = [(row, column) for row in range(rows) for column in range(len(names))]
    for number, (line, (row, column)) in enumerate(zip(lines[1:], positions, strict=False), start=2):
        if len(line) != len(head):
            raise damaged(path, number, f"{len(line)} fields instead of {len(head)}")
        role = [roles[column]] if head[-1] == ROLE else []
        expected = [str(row), label(tasks, row), str(column + 1), names[column]]
        if line[:4] != expected or line[len(COLUMNS) :] != role:
            raise damaged(
                path, number, f"expected the accuracy {where(tasks, names, row, column)}, found {','.join(line[:4])}"
            )
        try:
            cells[row][column] = Cell.from_fields(line[4 : len(COLUMNS)])
        except ValueError as error:
            raise damaged(path, number, str(error)) from None
    if len(lines) - 1 != size:
        number = min(len(lines), size + 1) + 1
        raise damaged(path, number, f"{len(lines) - 1} cells instead of {size} for {len(tasks)} tasks")
    return tasks, others, cells


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

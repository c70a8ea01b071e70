"""The accuracy matrix of a run, the primary result from which every other number is computed.

Rows are states of the model: row 0 is the untrained model, row i the model after task i (i = 1..T). Columns are all T
test sets, those of tasks not yet learned included. Formulas count both from 1, as papers do; in code a column is an
index from 0, so that task ``j`` is learned in row ``j + 1``.
"""

from __future__ import annotations

import csv
import io
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import write_atomic

ZERO_SHOT = "zero-shot"
COLUMNS = ("row", "after", "column", "task", "correct", "total", "accuracy", "state")
STATES = ("measured", "reused", "missing")


class MissingCell(UserError):
    """A scalar needs a cell that is missing."""


@dataclass(frozen=True)
class Cell:
    """One accuracy: counts where this suite measured, a percentage where a paper published no counts.

    Attributes
    ----------
    state : str
        ``measured``, ``reused`` (known to equal an earlier measurement, not measured again) or ``missing``.
    correct, total : int or None
        Images answered correctly, and all images; None when missing or published without counts.
    percent : float or None
        A published accuracy in percent; None when there are counts.
    """

    state: str = "missing"
    correct: int | None = None
    total: int | None = None
    percent: float | None = None

    @property
    def accuracy(self) -> float | None:
        """The accuracy in percent, or None when the cell is missing."""
        if self.correct is not None and self.total is not None:
            return 100 * self.correct / self.total
        return self.percent


class AccuracyMatrix:
    """Accuracies of T + 1 states of a model on T test sets.

    Parameters
    ----------
    tasks : sequence of str
        Names of the T tasks in the order in which they are learned; unique, not empty, printable.

    Raises
    ------
    ValueError
        If there are no tasks, or their names are not like that.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        if not self.tasks:
            raise ValueError("an accuracy matrix needs at least one task")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"the names of the tasks must differ: {self.tasks}")
        for task in self.tasks:
            if not task or not task.isprintable():
                raise ValueError(f"the name of a task must be printable and not empty: {task!r}")
        self._cells = [[Cell() for _ in self.tasks] for _ in range(len(self.tasks) + 1)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccuracyMatrix) and (self.tasks, self._cells) == (other.tasks, other._cells)

    def __repr__(self) -> str:
        known = sum(cell.state != "missing" for row in self._cells for cell in row)
        return f"AccuracyMatrix({len(self.tasks)} tasks, {known} of {len(self.tasks) * len(self._cells)} cells known)"

    def cell(self, row: int, column: int) -> Cell:
        """Return the cell of a row and a column.

        Parameters
        ----------
        row : int
            0..T.
        column : int
            0..T-1.

        Raises
        ------
        IndexError
            If there is no such row or column.
        """
        self._check_position(row, column)
        return self._cells[row][column]

    def accuracy(self, row: int, column: int) -> float:
        """Return the accuracy of a cell in percent; raise `MissingCell` where it is missing."""
        value = self.cell(row, column).accuracy
        if value is None:
            raise MissingCell(f"the accuracy {self.where(row, column)} is missing; let the run measure it first")
        return value

    def state(self, row: int, column: int) -> str:
        """Return ``measured``, ``reused`` or ``missing``."""
        return self.cell(row, column).state

    def set(self, row: int, column: int, correct: int, total: int, state: str = "measured") -> None:
        """Store one measurement as counts of images.

        Parameters
        ----------
        row, column : int
        correct, total : int
            Images answered correctly, and all images.
        state : {"measured", "reused"}, optional

        Raises
        ------
        ValueError
            If the counts are no accuracy, or the state is another one.
        """
        self._check_position(row, column)
        correct, total = operator.index(correct), operator.index(total)
        if total < 1 or not 0 <= correct <= total:
            raise ValueError(f"{correct} correct of {total} is no accuracy ({self.where(row, column)})")
        if state not in ("measured", "reused"):
            raise ValueError(f"a cell that is set is measured or reused, not {state!r}")
        self._cells[row][column] = Cell(state, correct, total)

    def label(self, row: int) -> str:
        """Return the name of a row: ``zero-shot``, or the task after which it was measured."""
        return ZERO_SHOT if row == 0 else self.tasks[row - 1]

    def where(self, row: int, column: int) -> str:
        """Name a cell in words."""
        after = "of the untrained model (row 0)" if row == 0 else f'after "{self.label(row)}" (row {row})'
        return f'{after} on "{self.tasks[column]}" (column {column + 1})'

    def array(self) -> np.ndarray:
        """Return the accuracies.

        Returns
        -------
        float64 array [T + 1, T]
            In percent; NaN where missing.
        """
        return np.array([[math.nan if c.accuracy is None else c.accuracy for c in row] for row in self._cells])

    @classmethod
    def from_percent(
        cls,
        tasks: Sequence[str],
        rows: Iterable[Sequence[float | None]],
        zero_shot: Sequence[float | None] | None = None,
    ) -> AccuracyMatrix:
        """Make a matrix from published percentages, which come without counts.

        Parameters
        ----------
        tasks : sequence of str
            Names of the T tasks.
        rows : iterable of sequence of float
            T rows of T percentages, row i after task i; None or NaN for a missing cell.
        zero_shot : sequence of float, optional
            T percentages of the untrained model, where published.

        Raises
        ------
        ValueError
            If the numbers are no percentages, or not as many as that.
        """
        matrix = cls(tasks)
        stages = [zero_shot if zero_shot is not None else [None] * len(matrix.tasks), *rows]
        if [len(stage) for stage in stages] != [len(matrix.tasks)] * (len(matrix.tasks) + 1):
            raise ValueError(f"{len(matrix.tasks)} tasks need {len(matrix.tasks)} rows of as many accuracies")
        for row, stage in enumerate(stages):
            for column, value in enumerate(stage):
                if value is None or math.isnan(value):
                    continue
                if not 0 <= value <= 100:
                    raise ValueError(f"{value} is no percentage ({matrix.where(row, column)})")
                matrix._cells[row][column] = Cell("measured", percent=float(value))
        return matrix

    def until(self, row: int) -> AccuracyMatrix:
        """Return a copy in which everything after a row (0..T) is missing."""
        copy = AccuracyMatrix(self.tasks)
        copy._cells[: row + 1] = [list(cells) for cells in self._cells[: row + 1]]
        return copy

    def csv(self) -> str:
        """Return one line for each cell, after a line of column names."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, cells in enumerate(self._cells):
            for column, cell in enumerate(cells):
                position = [row, self.label(row), column + 1, self.tasks[column]]
                accuracy = "" if cell.accuracy is None else repr(cell.accuracy)
                counts = ["" if count is None else count for count in (cell.correct, cell.total)]
                writer.writerow([*position, *counts, accuracy, cell.state])
        return stream.getvalue()

    def to_csv(self, path: Path | str) -> None:
        """Write what `csv` returns; the file is replaced as a whole or not at all.

        Parameters
        ----------
        path : Path or str

        Raises
        ------
        UserError
            If it cannot be written.
        """
        path = Path(path)
        try:
            write_atomic(path, self.csv())
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); choose a folder you may write to with out=DIR"
            ) from None

    @classmethod
    def from_csv(cls, path: Path | str) -> AccuracyMatrix:
        """Read what `to_csv` wrote.

        Parameters
        ----------
        path : Path or str

        Raises
        ------
        UserError
            If the file cannot be read or is damaged; names the line.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(path, content.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from None
        return cls.from_text(text, path)

    @classmethod
    def from_text(cls, text: str, path: Path) -> AccuracyMatrix:
        """Read what `csv` returned.

        Parameters
        ----------
        text : str
        path : Path
            Where the text came from, for errors.

        Raises
        ------
        UserError
            If it is damaged; names the line.
        """
        # strict: a quote left open is an error here, not a field that swallows the rest of the file
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines: list[list[str]] = []
        try:
            while (line := next(reader, None)) is not None:
                lines.append(line)
        except csv.Error as error:
            raise _damaged(path, len(lines) + 1, str(error)) from None
        return _parse(path, lines)

    def _check_position(self, row: int, column: int) -> None:
        if not (0 <= row <= len(self.tasks) and 0 <= column < len(self.tasks)):
            raise IndexError(f"row {row}, column {column} lies outside rows 0..{len(self.tasks)} and the columns")


def _damaged(path: Path, line: int, reason: str) -> UserError:
    return UserError(f"{path}, line {line}: {reason}; the file is damaged, make the run again with another out=DIR")


def _parse(path: Path, lines: list[list[str]]) -> AccuracyMatrix:
    """Turn the lines of a CSV file into a matrix, and check everything."""
    if not lines or tuple(lines[0]) != COLUMNS:
        raise _damaged(path, 1, f"expected the header {','.join(COLUMNS)}")
    # The untrained model's row comes first and names every task: as many lines as there are tasks.
    first = [line for line in lines[1:] if line[:1] == ["0"]]
    names = [line[3] if len(line) > 3 else "" for line in first]
    try:
        matrix = AccuracyMatrix(names)
    except ValueError as error:
        raise _damaged(path, 2, str(error)) from None
    positions = [(row, column) for row in range(len(names) + 1) for column in range(len(names))]
    for number, (line, (row, column)) in enumerate(zip(lines[1:], positions, strict=False), start=2):
        if len(line) != len(COLUMNS):
            raise _damaged(path, number, f"{len(line)} fields instead of {len(COLUMNS)}")
        if line[:4] != [str(row), matrix.label(row), str(column + 1), names[column]]:
            found = ",".join(line[:4])
            raise _damaged(path, number, f"expected the accuracy {matrix.where(row, column)}, found {found}")
        try:
            matrix._cells[row][column] = _parse_cell(line[4:])
        except ValueError as error:
            raise _damaged(path, number, str(error)) from None
    if len(lines) - 1 != len(positions):
        number = min(len(lines), len(positions) + 1) + 1
        raise _damaged(path, number, f"{len(lines) - 1} cells instead of {len(positions)} for {len(names)} tasks")
    return matrix


def _parse_cell(fields: list[str]) -> Cell:
    """Turn the fields correct, total, accuracy and state into a cell."""
    correct, total, accuracy, state = fields
    if state not in STATES:
        raise ValueError(f"the state is {state!r} instead of {', '.join(STATES)}")
    if state == "missing":
        if correct or total or accuracy:
            raise ValueError("a missing cell has numbers")
        return Cell()
    percent = float(accuracy)
    if not 0 <= percent <= 100:
        raise ValueError(f"{accuracy} is no percentage")
    if not correct and not total:
        return Cell(state, percent=percent)
    cell = Cell(state, int(correct), int(total))
    if int(total) < 1 or not 0 <= int(correct) <= int(total):
        raise ValueError(f"{correct} correct of {total} is no accuracy")
    if abs((cell.accuracy or 0.0) - percent) > 1e-6:
        raise ValueError(f"{correct} of {total} is not {accuracy} %")
    return cell

"""The accuracy matrix of a run, the primary result from which every other number is computed.

Rows are states of the model: row 0 is the untrained model, row i the model after task i (i = 1..T). Columns are all T
test sets, those of tasks not yet learned included. Formulas count both from 1, as papers do; in code a column is an
index from 0, so that task ``j`` is learned in row ``j + 1``. Behind these columns there may be more, of test sets that
no task trains on: they count in no scalar but those that name their role. It is one file: one class, most of it
documentation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import write_output
from bench.metrics.cell import Cell
from bench.metrics.matrix_file import KEPT, check_names, damaged, label, parsed, where, written


class MissingCell(UserError):
    """A scalar needs a cell that is missing."""


class AccuracyMatrix:
    """Accuracies of T + 1 states of a model on T test sets.

    Parameters
    ----------
    tasks : sequence of str
        Names of the T tasks in the order in which they are learned; unique, not empty, printable.
    others : mapping of str to str, optional
        Names of further test sets -> their role: ``kept`` for classes that no request to forget names, ``missing`` for
        such classes without training images, ``probe`` for anything else.

    Attributes
    ----------
    tasks, others
        As given.

    Raises
    ------
    ValueError
        If there are no tasks, their names are not like that, or there is no such role.
    """

    def __init__(self, tasks: Sequence[str], others: Mapping[str, str] | None = None) -> None:
        self.tasks = list(tasks)
        self.others = dict(others or {})
        check_names(self.tasks, self.others)
        self._cells = [[Cell() for _ in self.columns] for _ in range(len(self.tasks) + 1)]

    @property
    def columns(self) -> list[str]:
        """The names of all test sets: those of the tasks, then the others."""
        return [*self.tasks, *self.others]

    @property
    def kind(self) -> str:
        """Return what the tasks are: ``forgetting`` for requests to forget, else ``learning``."""
        return "forgetting" if KEPT in self.others.values() else "learning"

    def of_role(self, role: str) -> list[int]:
        """Return the columns of further test sets of a role.

        Parameters
        ----------
        role : {"kept", "missing", "probe"}

        Returns
        -------
        list of int
        """
        return [len(self.tasks) + index for index, one in enumerate(self.others.values()) if one == role]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AccuracyMatrix):
            return False
        return (self.tasks, self.others, self._cells) == (other.tasks, other.others, other._cells)

    def __repr__(self) -> str:
        known = sum(cell.state != "missing" for row in self._cells for cell in row)
        return f"AccuracyMatrix({len(self.tasks)} tasks, {known} of {len(self.columns) * len(self._cells)} cells known)"

    def cell(self, row: int, column: int) -> Cell:
        """Return the cell of a row and a column.

        Parameters
        ----------
        row : int
            0..T.
        column : int
            0..T-1; from T on a further test set.

        Returns
        -------
        Cell

        Raises
        ------
        IndexError
            If there is no such row or column.
        """
        self._check_position(row, column)
        return self._cells[row][column]

    def accuracy(self, row: int, column: int) -> float:
        """Return the accuracy of a cell.

        Parameters
        ----------
        row : int
            0..T.
        column : int
            0..T-1; from T on a further test set.

        Returns
        -------
        float
            In percent.

        Raises
        ------
        MissingCell
            If the cell is missing.
        """
        value = self.cell(row, column).accuracy
        if value is None:
            raise MissingCell(f"the accuracy {self.where(row, column)} is missing; let the run measure it first")
        return value

    def state(self, row: int, column: int) -> str:
        """Return the state of a cell.

        Parameters
        ----------
        row : int
            0..T.
        column : int
            0..T-1; from T on a further test set.

        Returns
        -------
        {"measured", "reused", "missing"}
        """
        return self.cell(row, column).state

    def set(self, row: int, column: int, correct: int, total: int, state: str = "measured") -> None:
        """Store one measurement as counts of images.

        Parameters
        ----------
        row : int
            0..T.
        column : int
            0..T-1; from T on a further test set.
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
        """Return the name of a row.

        Parameters
        ----------
        row : int
            0..T.

        Returns
        -------
        str
            ``zero-shot``, or the task after which it was measured.
        """
        return label(self.tasks, row)

    def where(self, row: int, column: int) -> str:
        """Name a cell in words, for errors.

        Parameters
        ----------
        row : int
            0..T.
        column : int
            0..T-1; from T on a further test set.

        Returns
        -------
        str
        """
        return where(self.tasks, self.columns, row, column)

    def array(self, every: bool = False) -> np.ndarray:
        """Return the accuracies.

        Parameters
        ----------
        every : bool, optional
            Whether further test sets are in it, behind those of the tasks.

        Returns
        -------
        float64 array [T + 1, T], with all columns [T + 1, columns]
            In percent; NaN where missing.
        """
        size = len(self.columns if every else self.tasks)
        return np.array([[math.nan if c.accuracy is None else c.accuracy for c in row[:size]] for row in self._cells])

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

        Returns
        -------
        AccuracyMatrix

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
        """Return a copy in which everything after a row is missing.

        Parameters
        ----------
        row : int
            0..T.

        Returns
        -------
        AccuracyMatrix
        """
        copy = AccuracyMatrix(self.tasks, self.others)
        copy._cells[: row + 1] = [list(cells) for cells in self._cells[: row + 1]]
        return copy

    def csv(self) -> str:
        """Return the content of the file accuracy.csv.

        Returns
        -------
        str
            One line for each cell, after a line of column names.
        """
        return written(self.tasks, self.others, self._cells)

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
            write_output(path, self.csv())
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

        Returns
        -------
        AccuracyMatrix

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
            raise damaged(path, content.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from None
        return cls.from_text(text, path)

    @classmethod
    def from_text(cls, text: str, path: Path) -> AccuracyMatrix:
        """Read what `csv` returned.

        Parameters
        ----------
        text : str
        path : Path
            Where the text came from, for errors.

        Returns
        -------
        AccuracyMatrix

        Raises
        ------
        UserError
            If it is damaged; names the line.
        """
        tasks, others, cells = parsed(text, path)
        matrix = cls(tasks, others)
        matrix._cells = cells
        return matrix

    def _check_position(self, row: int, column: int) -> None:
        if not (0 <= row <= len(self.tasks) and 0 <= column < len(self.columns)):
            raise IndexError(f"row {row}, column {column} lies outside rows 0..{len(self.tasks)} and the columns")

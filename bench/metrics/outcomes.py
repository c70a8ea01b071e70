"""Which test images were answered correctly: what the accuracy matrix counts, image by image.

Two runs on the same test sets can be compared image by image, which shows far smaller differences than their counts do.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix

COLUMNS = ("row", "task", "images", "right")


class Outcomes:
    """For each measured cell of an accuracy matrix, whether each image of the test set was answered correctly.

    Parameters
    ----------
    tasks : sequence of str
        Names of the tasks, as for the matrix.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        self._cells: dict[tuple[int, int], np.ndarray] = {}

    def set(self, row: int, column: int, right: np.ndarray) -> None:
        """Store one measurement.

        Parameters
        ----------
        row, column : int
            Position of the cell, as in `AccuracyMatrix.cell`.
        right : bool array [images]
            In the order of the test set.
        """
        self._cells[row, column] = np.asarray(right, dtype=bool)

    def of(self, matrix: AccuracyMatrix, row: int, column: int) -> np.ndarray | None:
        """Return what a cell of a matrix counts.

        A reused cell counts what was measured last in its column.

        Parameters
        ----------
        matrix : AccuracyMatrix
        row, column : int

        Returns
        -------
        bool array [images], or None
            In the order of the test set; None where the cell is missing.

        Raises
        ------
        UserError
            If nothing was recorded for the cell, or something else than it counts.
        """
        cell = matrix.cell(row, column)
        if cell.state == "missing":
            return None
        while matrix.state(row, column) == "reused":
            row -= 1
        right = self._cells.get((row, column))
        if right is None or (int(right.sum()), len(right)) != (cell.correct, cell.total):
            raise UserError(
                f"the recorded outcomes do not fit the accuracy {matrix.where(row, column)}; make the run again"
            )
        return right

    def csv(self) -> str:
        """Return one line for each cell, after a line of column names.

        A line has row, task, number of images, and base64 of bits. The bits are those of ``numpy.packbits``: the first
        image is the highest bit of the first byte.
        """
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (row, column), right in sorted(self._cells.items()):
            packed = base64.b64encode(np.packbits(right).tobytes()).decode("ascii")
            writer.writerow([row, self.tasks[column], len(right), packed])
        return stream.getvalue()

    @classmethod
    def from_text(cls, text: str, tasks: Sequence[str], path: Path) -> Outcomes:
        """Read what `csv` returned.

        Parameters
        ----------
        text : str
        tasks : sequence of str
            Names of the tasks, as for the matrix.
        path : Path
            Where the text came from, for errors.

        Raises
        ------
        UserError
            If it is damaged; names the line.
        """
        outcomes = cls(tasks)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            if tuple(next(reader, ())) != COLUMNS:
                raise ValueError(f"expected the header {','.join(COLUMNS)}")
            for row, column, right in _cells(reader, outcomes.tasks):
                outcomes.set(row, column, right)
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; the file is damaged") from None
        return outcomes

    @classmethod
    def from_csv(cls, path: Path, tasks: Sequence[str]) -> Outcomes:
        """Read a file.

        Parameters
        ----------
        path : Path
        tasks : sequence of str
            Names of the tasks, as for the matrix.

        Raises
        ------
        UserError
            If it cannot be read or is damaged; names the line.
        """
        try:
            return cls.from_text(path.read_text(encoding="utf-8"), tasks, path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error})") from None


def _cells(lines: Iterator[list[str]], tasks: list[str]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield row, column and outcomes of every line; raise `ValueError` for a damaged one."""
    for line in lines:
        if len(line) != len(COLUMNS) or line[1] not in tasks:
            raise ValueError(f"expected {','.join(COLUMNS)} of a task of {', '.join(tasks)}")
        row, task, images, packed = line
        try:
            content = base64.b64decode(packed, validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
        if len(content) != -(-int(images) // 8) or not 0 <= int(row) <= len(tasks):
            raise ValueError(f"no outcomes of {images} images in row {row}")
        bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=int(images))
        yield int(row), tasks.index(task), bits.astype(bool)

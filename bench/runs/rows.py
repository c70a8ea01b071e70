"""Helpers for one row of the accuracy matrix: what is measured, reuse of the row before, its event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.metrics.matrix import AccuracyMatrix
from bench.record.record import RecordWriter


def measured(matrix: AccuracyMatrix, row: int) -> list[int]:
    """Return the columns of a row that are measured already."""
    return [column for column in range(len(matrix.tasks)) if matrix.state(row, column) == "measured"]


def reuse(matrix: AccuracyMatrix, row: int) -> None:
    """Fill a row from the row before, for a method that never changes the model."""
    for column in range(len(matrix.tasks)):
        cell = matrix.cell(row - 1, column)
        assert cell.correct is not None and cell.total is not None
        matrix.set(row, column, cell.correct, cell.total, state="reused")


def keep(matrix: AccuracyMatrix, record: RecordWriter, row: int, **values: Any) -> None:
    """Write the matrix and an event for one finished row."""
    record.matrix(matrix)
    accuracies: Mapping[str, float] = {
        task: round(matrix.accuracy(row, column), 4)
        for column, task in enumerate(matrix.tasks)
        if matrix.state(row, column) != "missing"
    }
    record.event("row", row=row, after=matrix.label(row), accuracy=accuracies, **values)

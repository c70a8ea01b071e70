"""How much each cell of a matrix weighs in a scalar that is a weighted sum of cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.metrics.kinds import COLUMNS, LEARNING, SCALARS
from bench.metrics.matrix import AccuracyMatrix


@dataclass(frozen=True)
class Shape:
    """What the weights of cells depend on, whatever was answered.

    Attributes
    ----------
    size : int
        The number T of tasks.
    missing : frozenset of (int, int)
        Row and column of the cells that are missing.
    roles : tuple of str
        Roles of the test sets beside those of the tasks.
    totals : tuple of int
        Images of each test set; empty where they do not matter, since no scalar of a stream of tasks that is compared
        weighs images.
    """

    size: int
    missing: frozenset[tuple[int, int]] = frozenset()
    roles: tuple[str, ...] = ()
    totals: tuple[int, ...] = ()


def shape_of(matrix: AccuracyMatrix) -> Shape:
    """Return the shape of a matrix.

    Parameters
    ----------
    matrix : AccuracyMatrix
        One with counts.
    """
    size, rows = len(matrix.tasks), range(len(matrix.tasks) + 1)
    if matrix.kind == LEARNING:
        empty = [(row, at) for row in rows for at in range(size) if matrix.state(row, at) == "missing"]
        return Shape(size, frozenset(empty))
    columns = range(len(matrix.columns))
    missing = frozenset((row, at) for row in rows for at in columns if matrix.state(row, at) == "missing")
    totals = [max(matrix.cell(row, column).total or 1 for row in rows) for column in columns]
    return Shape(size, missing, tuple(matrix.others.values()), tuple(totals))


@lru_cache(maxsize=256)
def weights_of(scalar: str, shape: Shape, task: int | None = None) -> np.ndarray:
    """Return how much each cell of a matrix weighs in a linear scalar.

    The weight of a cell is the value of the scalar on the matrix that is 100 % in that cell and 0 % in all others.

    Parameters
    ----------
    scalar : str
        A scalar that is compared, and none of `bench.metrics.forgetting.NOT_LINEAR`.
    shape : Shape
    task : int, optional
        The position of the task whose own value it is; by default the mean over tasks.

    Returns
    -------
    float64 array [T + 1, columns]

    Raises
    ------
    MissingCell
        If the scalar needs one of the missing cells.
    """
    names = [str(column) for column in range(shape.size)]
    matrix = AccuracyMatrix(names, {f"beside {at}": role for at, role in enumerate(shape.roles)})
    width = len(matrix.columns)
    totals = shape.totals or (1,) * width
    known = [cell for cell in np.ndindex(shape.size + 1, width) if cell not in shape.missing]
    for row, column in known:
        matrix.set(row, column, 0, totals[column])
    weights = np.zeros((shape.size + 1, width))
    for row, column in known:
        if matrix.kind == LEARNING and task not in (None, column):
            continue  # the value of a task is one of its column
        matrix.set(row, column, totals[column], totals[column])
        value = SCALARS[matrix.kind][scalar](matrix) if task is None else COLUMNS[matrix.kind][scalar](matrix)[task]
        weights[row, column] = (value or 0.0) / 100
        matrix.set(row, column, 0, totals[column])
    return weights

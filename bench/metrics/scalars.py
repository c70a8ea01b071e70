"""Every number that is computed from the accuracy matrix of a stream of tasks to learn.

A scalar is a pure function of the matrix (bench/metrics/matrix.py), in percent or percentage points. Tools that print
the same word ("transfer", "average", "forgetting") compute different things, so each name here carries its convention.
A scalar raises `MissingCell` where a cell that it needs is missing. docs/metrics.md has the formulas and their sources.
It is one file: one scalar after the other, half of it documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.matrix_file import PROBE

Scalar = Callable[[AccuracyMatrix], float]
SCALARS: dict[str, Scalar] = {}
"""Every scalar by its name, in the order in which reports show them."""
FORMULAS: dict[str, str] = {}
"""One line per scalar; a[i,j] is the accuracy in percent of row i on column j, both counted from 1."""

HEADLINES = {"Transfer": "transfer_by_column", "Average": "average_mtil", "Last": "last"}
"""The three columns of tables in papers on CLIP, in their order -> the scalar that each of them is here.

Everything that shows one of them takes its title and its scalar from here.
"""

NEEDS = {"probe": PROBE, "probe_loss": PROBE}
"""Scalars -> the role of the further test sets that they are about: a stream without any has no such number."""

LESS_IS_BETTER = ("forgetting_first_last", "forgetting_max_last", "zero_shot_loss", "probe_loss")
"""The scalars that a better method has less of."""


def entered(
    formula: str, scalars: dict[str, Scalar] = SCALARS, formulas: dict[str, str] = FORMULAS
) -> Callable[[Scalar], Scalar]:
    """Return a decorator that enters a function in a table of scalars under its own name.

    Parameters
    ----------
    formula : str
    scalars, formulas : dict, optional
        The tables; those of streams of tasks to learn by default.
    """

    def enter(function: Scalar) -> Scalar:
        scalars[function.__name__] = function
        formulas[function.__name__] = formula
        return function

    return enter


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value, summed exactly.

    Parameters
    ----------
    values : sequence of float
    """
    return math.fsum(values) / len(values)


def cells(matrix: AccuracyMatrix, name: str, positions: Iterable[tuple[int, int]]) -> list[float]:
    """Return the accuracies at some positions.

    Parameters
    ----------
    matrix : AccuracyMatrix
    name : str
        The scalar that needs them, for errors.
    positions : iterable of tuple of int
        Row and column of each.

    Raises
    ------
    MissingCell
        If one is missing; names the first.
    """
    values = []
    for row, column in positions:
        value = matrix.cell(row, column).accuracy
        if value is None:
            raise MissingCell(
                f"{name} needs the accuracy {matrix.where(row, column)}, which is missing; "
                "finish the run with every test set evaluated"
            )
        values.append(value)
    return values


def _need_two(matrix: AccuracyMatrix, name: str) -> int:
    """Return T, or refuse a scalar that compares tasks when there is only one."""
    if len(matrix.tasks) < 2:
        raise MissingCell(f"{name} needs at least two tasks; this stream has one")
    return len(matrix.tasks)


@entered("mean_j a[0,j]")
def zero_shot(matrix: AccuracyMatrix) -> float:
    """Return the mean accuracy of the untrained model over all test sets (row 0)."""
    return mean(cells(matrix, "zero_shot", ((0, column) for column in range(len(matrix.tasks)))))


@entered("mean_{j>=2} mean_{1<=i<j} a[i,j]")
def transfer_by_column(matrix: AccuracyMatrix) -> float:
    """Return Transfer as ZSCL and KeepLoRA define it.

    The mean over tasks of the mean over the stages before the task was learned. Row 0, the untrained model, is not
    part of it, and neither is the first task.
    """
    tasks = _need_two(matrix, "transfer_by_column")
    return mean([mean(_before(matrix, "transfer_by_column", column)) for column in range(1, tasks)])


@entered("mean_{1<=i<T} mean_{j>i} a[i,j]")
def transfer_by_row(matrix: AccuracyMatrix) -> float:
    """Return Transfer as mammoth computes it: the mean over stages of the mean over the tasks not yet learned.

    It has the same cells as ``transfer_by_column`` with other weights; the two can rank methods differently.
    """
    tasks = _need_two(matrix, "transfer_by_row")
    stages = [
        cells(matrix, "transfer_by_row", ((row, column) for column in range(row, tasks))) for row in range(1, tasks)
    ]
    return mean([mean(stage) for stage in stages])


@entered("mean_{i>=1} mean_j a[i,j]")
def average_mtil(matrix: AccuracyMatrix) -> float:
    """Return Average as ZSCL and KeepLoRA define it: the mean of all cells below row 0, unlearned tasks included."""
    size = len(matrix.tasks)
    return mean(cells(matrix, "average_mtil", ((row + 1, column) for row in range(size) for column in range(size))))


@entered("mean_{i>=1} mean_{j<=i} a[i,j]")
def average_cil(matrix: AccuracyMatrix) -> float:
    """Return Average as class-incremental papers define it: the mean over stages of the mean over learned tasks.

    Every task has the same weight, whatever its number of test images.
    """
    size = len(matrix.tasks)
    stages = [cells(matrix, "average_cil", ((row, column) for column in range(row))) for row in range(1, size + 1)]
    return mean([mean(stage) for stage in stages])


@entered("mean_{i>=1} (sum_{j<=i} correct[i,j] / sum_{j<=i} total[j])")
def average_cil_pooled(matrix: AccuracyMatrix) -> float:
    """Return the mean over stages of A_t of class-incremental papers: accuracy over all images of learned tasks."""
    stages = range(1, len(matrix.tasks) + 1)
    return mean([pooled(matrix, "average_cil_pooled", row, range(row)) for row in stages])


@entered("sum_j correct[T,j] / sum_j total[j]")
def last_pooled(matrix: AccuracyMatrix) -> float:
    """Return A_T of class-incremental papers: accuracy over all test images after the last task."""
    return pooled(matrix, "last_pooled", len(matrix.tasks), range(len(matrix.tasks)))


@entered("mean_j a[T,j]")
def last(matrix: AccuracyMatrix) -> float:
    """Return the mean accuracy over all test sets after the last task."""
    size = len(matrix.tasks)
    return mean(cells(matrix, "last", ((size, column) for column in range(size))))


@entered("mean_j a[j,j]")
def learning(matrix: AccuracyMatrix) -> float:
    """Return the mean accuracy on each task right after it was learned (the diagonal)."""
    return mean(cells(matrix, "learning", ((column + 1, column) for column in range(len(matrix.tasks)))))


@entered("mean_{1<=j<i<=T} a[i,j]")
def preserve(matrix: AccuracyMatrix) -> float:
    """Return Preserve as LEBA defines it: the mean of all cells below the diagonal, of tasks learned before the last.

    Every cell has the same weight, so that early tasks, which have more cells, weigh more.
    """
    size = _need_two(matrix, "preserve")
    return mean(cells(matrix, "preserve", ((row, column) for row in range(2, size + 1) for column in range(row - 1))))


@entered("mean_{j<T} (a[T,j] - a[j,j])")
def backward_transfer(matrix: AccuracyMatrix) -> float:
    """Return backward transfer as GEM defines it: last minus first accuracy of every task but the last.

    A negative number is forgetting.
    """
    return mean(_last_minus_first(matrix, "backward_transfer"))


@entered("mean_{j<T} (a[j,j] - a[T,j])")
def forgetting_first_last(matrix: AccuracyMatrix) -> float:
    """Return forgetting as avalanche computes it: first minus last accuracy of every task but the last.

    It equals minus ``backward_transfer`` and is not clipped, so that a gain is negative.
    """
    return mean([-change for change in _last_minus_first(matrix, "forgetting_first_last")])


@entered("mean_{j<T} (max_{j<=i<T} a[i,j] - a[T,j])")
def forgetting_max_last(matrix: AccuracyMatrix) -> float:
    """Return forgetting from the best stage since the task was learned, without the last one, to the last stage.

    It is not clipped: a task that ends above its best earlier stage counts as negative.
    """
    size = _need_two(matrix, "forgetting_max_last")
    drops = []
    for column in range(size - 1):
        *kept, final = cells(matrix, "forgetting_max_last", ((row, column) for row in range(column + 1, size + 1)))
        drops.append(max(kept) - final)
    return mean(drops)


@entered("mean_{j>=2} (a[0,j] - mean_{1<=i<j} a[i,j])")
def zero_shot_loss(matrix: AccuracyMatrix) -> float:
    """Return how much accuracy on unlearned tasks training cost: row 0 minus transfer by column, same tasks."""
    tasks = _need_two(matrix, "zero_shot_loss")
    start = cells(matrix, "zero_shot_loss", ((0, column) for column in range(1, tasks)))
    kept = [mean(_before(matrix, "zero_shot_loss", column)) for column in range(1, tasks)]
    return mean([before - after for before, after in zip(start, kept, strict=True)])


@entered("mean_{j in P} a[T,j]")
def probe(matrix: AccuracyMatrix) -> float:
    """Return the mean accuracy on test sets that no task trains on, after the last task."""
    return mean(_on_probes(matrix, "probe", len(matrix.tasks)))


@entered("mean_{j in P} (a[0,j] - a[T,j])")
def probe_loss(matrix: AccuracyMatrix) -> float:
    """Return what training cost on test sets that no task trains on: first minus last accuracy."""
    first, final = (_on_probes(matrix, "probe_loss", row) for row in (0, len(matrix.tasks)))
    return mean([before - after for before, after in zip(first, final, strict=True)])


def of_role(matrix: AccuracyMatrix, name: str, role: str) -> list[int]:
    """Return the columns of further test sets of a role.

    Parameters
    ----------
    matrix : AccuracyMatrix
    name : str
        The scalar that needs them, for errors.
    role : str

    Raises
    ------
    MissingCell
        If there are none.
    """
    if not (columns := matrix.of_role(role)):
        raise MissingCell(f"{name} needs a test set of the role {role}; this stream has none")
    return columns


def _on_probes(matrix: AccuracyMatrix, name: str, row: int) -> list[float]:
    """Return the accuracies on test sets that no task trains on."""
    return cells(matrix, name, ((row, column) for column in of_role(matrix, name, PROBE)))


def pooled(matrix: AccuracyMatrix, name: str, row: int, columns: Iterable[int]) -> float:
    """Return the accuracy in percent over the images of several test sets after a row.

    Parameters
    ----------
    matrix : AccuracyMatrix
    name : str
        The scalar, for errors.
    row : int
    columns : iterable of int

    Raises
    ------
    MissingCell
        If a cell is missing, or the matrix has no counts.
    """
    chosen = list(columns)
    cells(matrix, name, ((row, column) for column in chosen))
    counts = [matrix.cell(row, column) for column in chosen]
    if any(cell.total is None for cell in counts):
        raise MissingCell(f"{name} needs counts of images, and this matrix was published without them")
    return 100 * sum(cell.correct or 0 for cell in counts) / sum(cell.total or 0 for cell in counts)


def _before(matrix: AccuracyMatrix, name: str, column: int) -> list[float]:
    """Return the accuracies on a task at the trained stages before it was learned."""
    return cells(matrix, name, ((row, column) for row in range(1, column + 1)))


def _last_minus_first(matrix: AccuracyMatrix, name: str) -> list[float]:
    """Return last minus first accuracy of every task but the last."""
    size = _need_two(matrix, name)
    first = cells(matrix, name, ((column + 1, column) for column in range(size - 1)))
    final = cells(matrix, name, ((size, column) for column in range(size - 1)))
    return [after - before for before, after in zip(first, final, strict=True)]


def so_far(matrix: AccuracyMatrix, row: int) -> dict[str, float]:
    """Return transfer, average and last as they stand after a row.

    ``last`` is the mean of the row, ``average`` the mean over the trained rows up to it of their means, ``transfer``
    the mean over tasks of the mean of their cells before they are learned. Missing cells do not count, so after the
    last row these are `last`, `transfer_by_column` and, where every cell is measured, `average_mtil`; where only
    learned tasks are measured, `average_cil`.

    Parameters
    ----------
    matrix : AccuracyMatrix
    row : int
        The last row that counts, 0..T.

    Returns
    -------
    dict of str to float
        In percent; without those that have no cell yet.
    """
    known = matrix.array()[: row + 1]
    rows = [[float(value) for value in stage if not math.isnan(value)] for stage in known]
    before = [
        [float(value) for value in known[1 : column + 1, column] if not math.isnan(value)]
        for column in range(1, len(matrix.tasks))
    ]
    stages = {
        "transfer": [mean(column) for column in before if column],
        "average": [mean(stage) for stage in rows[1:] if stage],
        "last": rows[row],
    }
    return {name: mean(values) for name, values in stages.items() if values}


def transfer_stages(matrix: AccuracyMatrix) -> list[float | None]:
    """Return Transfer as a curve: for each stage but the last, the mean over the tasks that are not yet learned.

    Their mean is `transfer_by_row`. With every stage it is a mean over one task less.

    Parameters
    ----------
    matrix : AccuracyMatrix

    Returns
    -------
    list of float or None
        T - 1 values in percent; None where a cell is missing.
    """
    size = len(matrix.tasks)
    rows = ([matrix.cell(row, column).accuracy for column in range(row, size)] for row in range(1, size))
    return [_mean_or_none(row) for row in rows]


# ------------------------------------------------------------------------------------------ by column


def transfer_columns(matrix: AccuracyMatrix) -> list[float | None]:
    """Return for each task the mean over the stages before it; None for the first task and where a cell is missing."""
    return [None, *(_or_none(matrix, range(1, column + 1), column) for column in range(1, len(matrix.tasks)))]


def average_columns(matrix: AccuracyMatrix) -> list[float | None]:
    """Return for each task the mean over all trained stages; None where a cell is missing."""
    size = len(matrix.tasks)
    return [_or_none(matrix, range(1, size + 1), column) for column in range(size)]


def last_columns(matrix: AccuracyMatrix) -> list[float | None]:
    """Return for each task the accuracy after the last task; None where it is missing."""
    size = len(matrix.tasks)
    return [matrix.cell(size, column).accuracy for column in range(size)]


COLUMNS: dict[str, Callable[[AccuracyMatrix], list[float | None]]] = {
    "transfer_by_column": transfer_columns,
    "average_mtil": average_columns,
    "last": last_columns,
}
"""The scalars of `HEADLINES` -> what they are the mean of: a value in percent for each task."""


def _or_none(matrix: AccuracyMatrix, rows: Iterable[int], column: int) -> float | None:
    return _mean_or_none([matrix.cell(row, column).accuracy for row in rows])


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None

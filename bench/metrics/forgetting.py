"""Every number that is computed from the accuracy matrix of a stream of requests to forget.

Column j is the test set of the classes that request j names, row i the model after request i. Behind them stand the
classes that no request names (``kept``), such classes without training images (``missing``), and test sets of other
data (``probe``). docs/metrics.md has the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.matrix_file import KEPT, MISSING, PROBE
from bench.metrics.scalars import Scalar, cells, entered, mean, of_role, pooled

SCALARS: dict[str, Scalar] = {}
"""Every scalar by its name, in the order in which reports show them."""

FORMULAS: dict[str, str] = {}
"""One line per scalar, as in `bench.metrics.scalars.FORMULAS`; K, M and P are the columns of the three roles."""

HEADLINES = {
    "Forgotten": "forgotten",
    "Relapse": "relapse",
    "Retained": "retained",
    "H-mean": "h_mean",
    "Elsewhere": "elsewhere",
}
"""The columns of tables, in their order -> the scalar that each of them is."""

NEEDS = {"missing": MISSING, "elsewhere": PROBE, "elsewhere_loss": PROBE}
"""Scalars -> the role of the test sets that they are about: a stream without any has no such number."""

NOT_LINEAR = ("h_mean",)
"""The scalars that are no weighted sum of the accuracies of cells."""

LESS_IS_BETTER = ("forgotten", "relapse", "forgotten_last", "elsewhere_loss")
"""The scalars that a better method has less of."""


_scalar = partial(entered, scalars=SCALARS, formulas=FORMULAS)
"""Enters a function in these tables, with its formula."""


def harmonic(drop: float, retained: float) -> float:
    """Return the harmonic mean of a drop and an accuracy, in percent; 0 where nothing dropped.

    GS-LoRA's H-Mean; the released code gives a negative number where the accuracy on what was to be forgotten rose.

    Parameters
    ----------
    drop, retained : float
        In percent.
    """
    return 0.0 if drop <= 0 or retained <= 0 else 2 * drop * retained / (drop + retained)


def stays(matrix: AccuracyMatrix, row: int) -> list[int]:
    """Return the columns of what is still to stay after a row: kept classes and those that later requests name.

    Parameters
    ----------
    matrix : AccuracyMatrix
    row : int

    Returns
    -------
    list of int
    """
    return [*range(row, len(matrix.tasks)), *matrix.of_role(KEPT)]


# ---------------------------------------------------------------------------------------- of one request


def _forgotten(matrix: AccuracyMatrix, name: str, row: int) -> float:
    return cells(matrix, name, [(row, row - 1)])[0]


def _relapse(matrix: AccuracyMatrix, name: str, row: int) -> float:
    if row < 2:
        raise MissingCell(f"{name} needs an earlier request; the first one has none")
    return pooled(matrix, name, row, range(row - 1))


def _drop(matrix: AccuracyMatrix, name: str, row: int) -> float:
    before, after = cells(matrix, name, [(row - 1, row - 1), (row, row - 1)])
    return before - after


def _retained(matrix: AccuracyMatrix, name: str, row: int) -> float:
    return pooled(matrix, name, row, stays(matrix, row))


def _h_mean(matrix: AccuracyMatrix, name: str, row: int) -> float:
    return harmonic(_drop(matrix, name, row), _retained(matrix, name, row))


def _missing(matrix: AccuracyMatrix, name: str, row: int) -> float:
    return pooled(matrix, name, row, of_role(matrix, name, MISSING))


def _over_requests(matrix: AccuracyMatrix, name: str, first: int = 1) -> float:
    return mean([_OF_ONE[name](matrix, name, row) for row in range(first, len(matrix.tasks) + 1)])


_OF_ONE: dict[str, Callable[[AccuracyMatrix, str, int], float]] = {
    "forgotten": _forgotten,
    "relapse": _relapse,
    "retained": _retained,
    "h_mean": _h_mean,
    "missing": _missing,
    "drop": _drop,
}


def _columns(name: str) -> Callable[[AccuracyMatrix], list[float | None]]:
    def columns(matrix: AccuracyMatrix) -> list[float | None]:
        values: list[float | None] = []
        for row in range(1, len(matrix.tasks) + 1):
            try:
                values.append(_OF_ONE[name](matrix, name, row))
            except MissingCell:
                values.append(None)
        return values

    return columns


COLUMNS = {name: _columns(name) for name in _OF_ONE}
"""Scalars -> what they are the mean of: a value in percent for each request, None where there is none."""

# ------------------------------------------------------------------------------------------ of a stream


@_scalar("mean_i a[i,i]")
def forgotten(matrix: AccuracyMatrix) -> float:
    """Return Acc_f: the mean accuracy on the classes of each request right after it."""
    return _over_requests(matrix, "forgotten")


@_scalar("mean_{i>=2} (sum_{j<i} correct[i,j] / sum_{j<i} total[j])")
def relapse(matrix: AccuracyMatrix) -> float:
    """Return Acc_o: the mean over requests of the accuracy on all that earlier requests named."""
    if len(matrix.tasks) < 2:
        raise MissingCell("relapse needs at least two requests; this stream has one")
    return _over_requests(matrix, "relapse", first=2)


@_scalar("sum_j correct[T,j] / sum_j total[j]")
def forgotten_last(matrix: AccuracyMatrix) -> float:
    """Return the accuracy on all that any request named, after the last one."""
    return pooled(matrix, "forgotten_last", len(matrix.tasks), range(len(matrix.tasks)))


@_scalar("mean_i (a[i-1,i] - a[i,i])")
def drop(matrix: AccuracyMatrix) -> float:
    """Return Drop: the mean over requests of what the accuracy on their classes lost."""
    return _over_requests(matrix, "drop")


@_scalar("mean_i (sum_{j>i or j in K} correct[i,j] / sum_{j>i or j in K} total[j])")
def retained(matrix: AccuracyMatrix) -> float:
    """Return Acc_r: the mean over requests of the accuracy on all classes that were to stay until then."""
    return _over_requests(matrix, "retained")


@_scalar("sum_{j in K} correct[T,j] / sum_{j in K} total[j]")
def retained_last(matrix: AccuracyMatrix) -> float:
    """Return the accuracy on the classes that no request names, after the last one."""
    return _retained(matrix, "retained_last", len(matrix.tasks))


@_scalar("mean_i 2 D_i R_i / (D_i + R_i), 0 where D_i <= 0")
def h_mean(matrix: AccuracyMatrix) -> float:
    """Return H-Mean: the mean over requests of the harmonic mean of drop D_i and retained accuracy R_i."""
    return _over_requests(matrix, "h_mean")


@_scalar("mean_i (sum_{j in M} correct[i,j] / sum_{j in M} total[j])")
def missing(matrix: AccuracyMatrix) -> float:
    """Return Acc_open: the mean over requests of the accuracy on classes that stay and have no training images."""
    return _over_requests(matrix, "missing")


@_scalar("mean_{j in P} a[T,j]")
def elsewhere(matrix: AccuracyMatrix) -> float:
    """Return the mean accuracy on test sets that no request is about, after the last one."""
    columns = of_role(matrix, "elsewhere", PROBE)
    return mean(cells(matrix, "elsewhere", ((len(matrix.tasks), column) for column in columns)))


@_scalar("mean_{j in P} (a[0,j] - a[T,j])")
def elsewhere_loss(matrix: AccuracyMatrix) -> float:
    """Return what the requests cost on test sets that none of them is about: first minus last accuracy."""
    columns = of_role(matrix, "elsewhere_loss", PROBE)
    first = cells(matrix, "elsewhere_loss", ((0, column) for column in columns))
    final = cells(matrix, "elsewhere_loss", ((len(matrix.tasks), column) for column in columns))
    return mean([before - after for before, after in zip(first, final, strict=True)])


def so_far(matrix: AccuracyMatrix, row: int) -> dict[str, float]:
    """Return the scalars of `HEADLINES` as they stand after a row, which after the last row are the scalars themselves.

    Parameters
    ----------
    matrix : AccuracyMatrix
    row : int
        The last row that counts, 0..T.

    Returns
    -------
    dict of str to float
        In percent; without those that need a request that has not been made, or a cell that is missing.
    """
    values = {}
    for name in HEADLINES.values():
        if name in COLUMNS:
            known = [value for value in COLUMNS[name](matrix)[:row] if value is not None]
        else:
            known = [
                value for column in matrix.of_role(PROBE) if (value := matrix.cell(row, column).accuracy) is not None
            ]
        if known:
            values[name] = mean(known)
    return values

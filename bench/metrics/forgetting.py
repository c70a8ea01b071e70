"""Every number that is computed from the accuracy matrix of a stream of requests to forget.

Column j is the test set of the classes that request j names, row i the model after request i. Behind them stand the
classes that no request names (``kept``), such classes without training images (``missing``), and test sets of other
data (``probe``). docs/metrics.md has the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.matrix_file import KEPT, MISSING, PROBE
from bench.metrics.scalars import Scalar, cells, mean, pooled

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

LESS_IS_BETTER = ("forgotten", "relapse", "forgotten_last", "elsewhere_loss")
"""The scalars that a better method has less of."""


def _scalar(formula: str) -> Callable[[Scalar], Scalar]:
    """Return a decorator that enters a function in the table of scalars under its own name."""

    def enter(function: Scalar) -> Scalar:
        SCALARS[function.__name__] = function
        FORMULAS[function.__name__] = formula
        return function

    return enter


def harmonic(drop: float, retained: float) -> float:
    """Return the harmonic mean of a drop and an accuracy, in percent; 0 where nothing dropped.

    GS-LoRA's H-Mean; the released code gives a negative number where the accuracy on what was to be forgotten rose.

    Parameters
    ----------
    drop, retained : float
        In percent.
    """
    return 0.0 if drop <= 0 or retained <= 0 else 2 * drop * retained / (drop + retained)


def retained_after(matrix: AccuracyMatrix, row: int, name: str = "retained") -> float:
    """Return Acc_r after a row: over the images of kept classes and of those that later requests name.

    Parameters
    ----------
    matrix : AccuracyMatrix
    row : int
    name : str, optional
        The scalar, for errors.
    """
    return pooled(matrix, name, row, [*range(row, len(matrix.tasks)), *matrix.of_role(KEPT)])


def drops(matrix: AccuracyMatrix, name: str = "drop") -> list[float]:
    """Return for each request the accuracy on its classes right before it minus that right after it.

    Parameters
    ----------
    matrix : AccuracyMatrix
    name : str, optional
        The scalar, for errors.
    """
    size = len(matrix.tasks)
    before = cells(matrix, name, ((column, column) for column in range(size)))
    after = cells(matrix, name, ((column + 1, column) for column in range(size)))
    return [first - then for first, then in zip(before, after, strict=True)]


def _of_role(matrix: AccuracyMatrix, name: str, role: str) -> list[int]:
    if not (columns := matrix.of_role(role)):
        raise MissingCell(f"{name} needs a test set of the role {role}; this stream has none")
    return columns


@_scalar("mean_i a[i,i]")
def forgotten(matrix: AccuracyMatrix) -> float:
    """Return Acc_f: the mean accuracy on the classes of each request right after it."""
    return mean(cells(matrix, "forgotten", ((column + 1, column) for column in range(len(matrix.tasks)))))


@_scalar("mean_{i>=2} (sum_{j<i} correct[i,j] / sum_{j<i} total[j])")
def relapse(matrix: AccuracyMatrix) -> float:
    """Return Acc_o: the mean over requests of the accuracy on all that earlier requests named."""
    size = len(matrix.tasks)
    if size < 2:
        raise MissingCell("relapse needs at least two requests; this stream has one")
    return mean([pooled(matrix, "relapse", row, range(row - 1)) for row in range(2, size + 1)])


@_scalar("sum_j correct[T,j] / sum_j total[j]")
def forgotten_last(matrix: AccuracyMatrix) -> float:
    """Return the accuracy on all that any request named, after the last one."""
    return pooled(matrix, "forgotten_last", len(matrix.tasks), range(len(matrix.tasks)))


@_scalar("mean_i (a[i-1,i] - a[i,i])")
def drop(matrix: AccuracyMatrix) -> float:
    """Return Drop: the mean over requests of what the accuracy on their classes lost."""
    return mean(drops(matrix))


@_scalar("mean_i (sum_{j>i or j in K} correct[i,j] / sum_{j>i or j in K} total[j])")
def retained(matrix: AccuracyMatrix) -> float:
    """Return Acc_r: the mean over requests of the accuracy on all classes that were to stay until then."""
    return mean([retained_after(matrix, row) for row in range(1, len(matrix.tasks) + 1)])


@_scalar("sum_{j in K} correct[T,j] / sum_{j in K} total[j]")
def retained_last(matrix: AccuracyMatrix) -> float:
    """Return the accuracy on the classes that no request names, after the last one."""
    return retained_after(matrix, len(matrix.tasks), "retained_last")


@_scalar("mean_i 2 D_i R_i / (D_i + R_i), 0 where D_i <= 0")
def h_mean(matrix: AccuracyMatrix) -> float:
    """Return H-Mean: the mean over requests of the harmonic mean of drop D_i and retained accuracy R_i."""
    stays = [retained_after(matrix, row, "h_mean") for row in range(1, len(matrix.tasks) + 1)]
    return mean([harmonic(lost, stay) for lost, stay in zip(drops(matrix, "h_mean"), stays, strict=True)])


@_scalar("mean_i (sum_{j in M} correct[i,j] / sum_{j in M} total[j])")
def missing(matrix: AccuracyMatrix) -> float:
    """Return Acc_open: the mean over requests of the accuracy on classes that stay and have no training images."""
    columns = _of_role(matrix, "missing", MISSING)
    return mean([pooled(matrix, "missing", row, columns) for row in range(1, len(matrix.tasks) + 1)])


@_scalar("mean_{j in P} a[T,j]")
def elsewhere(matrix: AccuracyMatrix) -> float:
    """Return the mean accuracy on test sets that no request is about, after the last one."""
    columns = _of_role(matrix, "elsewhere", PROBE)
    return mean(cells(matrix, "elsewhere", ((len(matrix.tasks), column) for column in columns)))


@_scalar("mean_{j in P} (a[0,j] - a[T,j])")
def elsewhere_loss(matrix: AccuracyMatrix) -> float:
    """Return what the requests cost on test sets that none of them is about: first minus last accuracy."""
    columns = _of_role(matrix, "elsewhere_loss", PROBE)
    first = cells(matrix, "elsewhere_loss", ((0, column) for column in columns))
    final = cells(matrix, "elsewhere_loss", ((len(matrix.tasks), column) for column in columns))
    return mean([before - after for before, after in zip(first, final, strict=True)])

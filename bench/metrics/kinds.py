"""Which scalars a matrix has: those of tasks to learn, or those of requests to forget."""

from __future__ import annotations

from collections.abc import Mapping

from bench.metrics import forgetting, scalars
from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.scalars import Scalar

LEARNING, FORGETTING = "learning", "forgetting"
"""The kinds of streams, and of matrices."""

SCALARS: Mapping[str, Mapping[str, Scalar]] = {LEARNING: scalars.SCALARS, FORGETTING: forgetting.SCALARS}
"""Kind of matrix -> its scalars by name; no name occurs in both."""

HEADLINES: Mapping[str, Mapping[str, str]] = {LEARNING: scalars.HEADLINES, FORGETTING: forgetting.HEADLINES}
"""Kind of matrix -> titles of the columns of tables, in their order -> the scalar that each of them is."""

RANKED = {LEARNING: "last", FORGETTING: "h_mean"}
"""Kind of matrix -> the scalar by which methods are ranked."""

LESS_IS_BETTER = (*scalars.LESS_IS_BETTER, *forgetting.LESS_IS_BETTER)
"""The scalars of either kind that a better method has less of."""

FORMULAS = {**scalars.FORMULAS, **forgetting.FORMULAS}
"""One line per scalar of either kind; a[i,j] is the accuracy in percent of row i on column j, both from 1."""


def kind_of(scalar: str) -> str | None:
    """Return the kind of matrix that has a scalar; None where no such scalar is known.

    Parameters
    ----------
    scalar : str
        Its name.
    """
    return next((kind for kind, known in SCALARS.items() if scalar in known), None)


def summary(matrix: AccuracyMatrix) -> dict[str, float | None]:
    """Return every scalar of a matrix by name.

    Parameters
    ----------
    matrix : AccuracyMatrix

    Returns
    -------
    dict of str to float
        In percent; None where a cell that the scalar needs is missing.
    """
    values: dict[str, float | None] = {}
    for name, function in SCALARS[matrix.kind].items():
        try:
            values[name] = function(matrix)
        except MissingCell:
            values[name] = None
    return values

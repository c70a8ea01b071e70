"""Which scalars a matrix has: those of tasks to learn, or those of requests to forget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.metrics import forgetting, scalars
from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.scalars import Scalar

LEARNING, FORGETTING = "learning", "forgetting"
"""The kinds of streams, and of matrices."""

SCALARS: Mapping[str, Mapping[str, Scalar]] = {LEARNING: scalars.SCALARS, FORGETTING: forgetting.SCALARS}
"""Kind of matrix -> its scalars by name; no name occurs in both."""

HEADLINES: Mapping[str, Mapping[str, str]] = {LEARNING: scalars.HEADLINES, FORGETTING: forgetting.HEADLINES}
"""Kind of matrix -> titles of the columns of tables, in their order -> the scalar that each of them is."""

SHOWN: Mapping[str, Sequence[str]] = {
    LEARNING: ("zero_shot", *scalars.HEADLINES.values(), "learning", "backward_transfer", "probe"),
    FORGETTING: (*forgetting.HEADLINES.values(), "missing", "drop"),
}
"""Kind of matrix -> the scalars of a comparison, in the order of its columns."""

TITLES: Mapping[str, str] = {
    "zero_shot": "Zero-shot",
    **{name: title for title, name in scalars.HEADLINES.items()},
    "learning": "Learning",
    "backward_transfer": "Backward",
    "preserve": "Preserve",
    "probe": "Probe",
    **{name: title for title, name in forgetting.HEADLINES.items()},
    "missing": "Missing",
    "drop": "Drop",
}
"""Scalars of `SHOWN`, and others that tables may show -> their short headings."""

NEEDS: Mapping[str, str] = {**scalars.NEEDS, **forgetting.NEEDS}
"""Scalars -> the role of the test sets that they are about: a matrix without any has no such number."""

COLUMNS: Mapping[str, Mapping[str, Callable[[AccuracyMatrix], list[float | None]]]] = {
    LEARNING: scalars.COLUMNS,
    FORGETTING: forgetting.COLUMNS,
}
"""Kind of matrix -> the scalars that are means over tasks -> a value in percent for each task."""

RANKED = {LEARNING: scalars.HEADLINES["Last"], FORGETTING: forgetting.HEADLINES["H-mean"]}
"""Kind of matrix -> the scalar by which methods are ranked."""

FIRST = {
    LEARNING: ("last", "average_mtil", "transfer_by_column"),
    FORGETTING: ("h_mean", "forgotten", "retained", "relapse", "elsewhere"),
}
"""Kind of matrix -> the scalars of `HEADLINES` in the order in which one looks at them: `RANKED` before all others."""

TRADEOFF = {LEARNING: ("last", "transfer_by_column"), FORGETTING: ("forgotten", "retained")}
"""Kind of matrix -> the scalars on the two axes of the trade-off, across and up."""

LATER = ("preserve",)
"""Scalars that are younger than the first records, and that the matrix of such a record gives too."""

DIFFERENCES = ("backward_transfer", "drop")
"""Scalars of `SHOWN` that are differences of percentages."""

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


def scalar_of(word: str) -> str | None:
    """Return the scalar that a word names: its own name, or the title of a column of tables; None where it is neither.

    Parameters
    ----------
    word : str
        Titles in any letters, such as ``last``, ``Transfer``, ``h_mean`` or ``H-mean``.
    """
    titles = {title.lower(): name for columns in HEADLINES.values() for title, name in columns.items()}
    return word if kind_of(word) else titles.get(word.lower())


def so_far(matrix: AccuracyMatrix, row: int) -> dict[str, float]:
    """Return the headlines of a matrix as they stand after a row: `so_far` of its kind, with the names there.

    Parameters
    ----------
    matrix : AccuracyMatrix
    row : int
        The last row that counts, 0..T.
    """
    return (forgetting if matrix.kind == FORGETTING else scalars).so_far(matrix, row)


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

"""Numbers as JSON can hold them, with as many decimals as can be seen."""

from __future__ import annotations

import math
from typing import Any

from bench.compare.extremes import Range


def rounded(value: float | None, digits: int) -> float | None:
    """Return a rounded number; ``None`` for one that is not finite, since JSON has none.

    Parameters
    ----------
    value : float or None
    digits : int
        Decimals.
    """
    return round(value, digits) if value is not None and math.isfinite(value) else None


def range_of(span: Range | None) -> list[float | None] | None:
    """Return a range as a list.

    Parameters
    ----------
    span : (float, float) or None
    """
    return None if span is None else [rounded(value, 4) for value in span]


def cells(matrix: Any) -> list[list[float | None]] | None:
    """Return a matrix as lists of rows; ``None`` where it is missing or nothing in it is known.

    Parameters
    ----------
    matrix : float array [rows, columns] or None
    """
    rows = [] if matrix is None else [[rounded(value, 2) for value in row] for row in matrix.tolist()]
    return rows if any(value is not None for row in rows for value in row) else None

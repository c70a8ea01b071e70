"""Read accuracy.csv and outcomes.csv of a run directory. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.core.untrusted import LARGEST_TABLE, check_file, why
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record.schema import ACCURACY, OUTCOMES


def read_matrix(directory: Path) -> AccuracyMatrix:
    """Return the accuracy matrix of a run.

    Parameters
    ----------
    directory : Path
        A run directory.

    Returns
    -------
    AccuracyMatrix

    Raises
    ------
    UserError
        If accuracy.csv cannot be read, is damaged, or is something else than a file.
    """
    return AccuracyMatrix.from_csv(_checked(directory / ACCURACY))


def read_outcomes(directory: Path, tasks: Sequence[str]) -> Outcomes:
    """Return what the accuracy matrix of a run counts, image by image.

    Parameters
    ----------
    directory : Path
        A run directory.
    tasks : sequence of str
        Names of the tasks, as for the matrix.

    Returns
    -------
    Outcomes

    Raises
    ------
    UserError
        If outcomes.csv cannot be read, is damaged, or is something else than a file.
    """
    return Outcomes.from_csv(_checked(directory / OUTCOMES), tasks)


def _checked(path: Path) -> Path:
    try:
        check_file(path, LARGEST_TABLE)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({why(error)})") from None
    return path

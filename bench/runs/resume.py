"""Read from a checkpoint where an unfinished run stands; what does not fit is refused before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.compute.device import is_out_of_memory
from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record import checkpoint
from bench.record.checkpoint import Saved
from bench.record.schema import ACCURACY, CONFIG, OUTCOMES, Identity
from bench.runs.progress import Snapshot


def read_snapshot(
    directory: Path, decisive: Sequence[Any], empty: AccuracyMatrix, base: Saved, step: Saved | None = None
) -> tuple[Snapshot, AccuracyMatrix, Outcomes]:
    """Return the plain values of checkpoints, all of them checked.

    Parameters
    ----------
    directory : Path
        The run directory, for errors.
    decisive : sequence
        See `Snapshot`: what the run has now.
    empty : AccuracyMatrix
        The run's, before anything is measured.
    base : Saved
        A checkpoint from between two tasks.
    step : Saved, optional
        One from inside a task, which builds on it.

    Returns
    -------
    snapshot : Snapshot
    matrix : AccuracyMatrix
    outcomes : Outcomes

    Raises
    ------
    UserError
        If the values are those of another version, other data or other weights, or cannot be.
    """
    values = (step or base).values
    if values.get("version") != checkpoint.VERSION:
        raise UserError(
            f"{directory} holds an unfinished run of another version of keeplora-bench: finish it with that "
            "version, or move it away to run again"
        )
    snapshot = Snapshot.of(values, directory, len(empty.tasks), step is not None)
    if snapshot.decisive != list(decisive):
        raise UserError(
            f"{directory} holds an unfinished run with other data or weights than this line has: move it away or "
            "choose another folder with out=DIR"
        )
    try:
        matrix = AccuracyMatrix.from_text(snapshot.files[ACCURACY], Path(ACCURACY))
        outcomes = Outcomes.from_text(snapshot.files[OUTCOMES], matrix.columns, Path(OUTCOMES))
    except UserError as error:
        raise no_fit(directory, str(error).partition(";")[0]) from error
    if (matrix.tasks, matrix.others) != (empty.tasks, empty.others):
        raise no_fit(directory, "it has the accuracies of other tasks")
    return snapshot, matrix, outcomes


@contextmanager
def fitting(directory: Path) -> Iterator[None]:
    """While open, turn whatever tensors that fit neither model nor method cause into one sentence.

    Parameters
    ----------
    directory : Path
        The run directory, for errors.

    Raises
    ------
    UserError
        Also if a method refuses its own state.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise no_fit(directory, f"{type(error).__name__}: {error}".splitlines()[0]) from error


def no_fit(directory: Path, reason: str) -> UserError:
    """Return the error for a checkpoint that is not one of this run.

    Parameters
    ----------
    directory : Path
        The run directory.
    reason : str
    """
    return UserError(f"{directory} has a checkpoint that does not fit this run ({reason}): move it away to run again")


def is_described(directory: Path) -> bool:
    """Return whether the files are there that say which run a directory holds.

    Parameters
    ----------
    directory : Path
        That of an unfinished run.
    """
    try:
        return bool(Identity.read(directory).settings) and (directory / CONFIG).exists()
    except (FileNotFoundError, ValueError):
        return False

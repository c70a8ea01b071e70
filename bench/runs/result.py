"""A run from Python: settings in, what the record says out. The command line calls the same function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.resolve import resolve
from bench.learning.observers import Observers
from bench.metrics.matrix import AccuracyMatrix
from bench.record.results import read_matrix
from bench.record.schema import Summary
from bench.runs import run as engine


@dataclass(frozen=True)
class Result:
    """What a finished run gave, read from its record.

    Attributes
    ----------
    path : Path
        The run directory.
    matrix : AccuracyMatrix
        Accuracy in percent of every state of the model on every test set.
    scalars : dict of str to float
        Transfer, Average, Last and the others of docs/metrics.md by key, in percent; None where one is not defined.
    summary : dict of str to object
        All of summary.json: seconds by phase, memory in MB, trained and stored numbers.
    """

    path: Path
    matrix: AccuracyMatrix
    scalars: dict[str, float | None]
    summary: dict[str, Any]


def run(
    settings: Mapping[str, Any] | Sequence[str], command: Sequence[str] = (), observers: Observers | None = None
) -> Result:
    """Run a method on a stream, or continue such a run, or leave a finished one alone; return what it gave.

    Parameters
    ----------
    settings : mapping of str to object, or sequence of str
        Dotted keys to values, ``{"method": "keeplora", "train.epochs": 1}``; groups may be nested,
        ``{"method": "lora", "train": {"epochs": 1, "lr": 0.003}}``. Or the words of the command line,
        ``["method=keeplora", "train.epochs=1"]``.
    command : sequence of str, optional
        The command line, for the record.
    observers : Observers, optional
        Who listens to what is computed.

    Returns
    -------
    Result

    Raises
    ------
    UserError
        For everything that a user can correct: one sentence for each mistake.
    KeyboardInterrupt
        If the run was interrupted, after a checkpoint; the same call continues it.
    """
    path = engine.run(resolve(settings), command, observers)
    summary = Summary.read(path)
    return Result(path, read_matrix(path), summary.metrics, summary.to_json())

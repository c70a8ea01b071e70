"""Helpers for one row of the accuracy matrix: what is measured, reuse of the row before, its event, its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.compare import published
from bench.config.run_settings import Resolved, label_space_of
from bench.core.errors import UserError
from bench.core.stopwatch import Stopwatch, left, seconds_left
from bench.learning.method import Method
from bench.learning.optimizer import steps_of
from bench.metrics.forgetting import stays
from bench.metrics.kinds import FORGETTING
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.scalars import pooled
from bench.record.record import RecordWriter
from bench.runs.loading import Parts


def measured(matrix: AccuracyMatrix, row: int) -> list[int]:
    """Return the columns of a row that are measured already."""
    return [column for column in range(len(matrix.columns)) if matrix.state(row, column) == "measured"]


def reuse(matrix: AccuracyMatrix, row: int) -> None:
    """Fill a row from the row before, for a method that never changes the model."""
    for column in range(len(matrix.columns)):
        cell = matrix.cell(row - 1, column)
        assert cell.correct is not None and cell.total is not None
        matrix.set(row, column, cell.correct, cell.total, state="reused")


def keep(matrix: AccuracyMatrix, record: RecordWriter, row: int, **values: Any) -> None:
    """Write the matrix and an event for one finished row."""
    record.matrix(matrix)
    accuracies: Mapping[str, float] = {
        name: round(matrix.accuracy(row, column), 4)
        for column, name in enumerate(matrix.columns)
        if matrix.state(row, column) != "missing"
    }
    record.event("row", row=row, after=matrix.label(row), accuracy=accuracies, **values)


def task_line(matrix: AccuracyMatrix, row: int, seconds: float, *more: str) -> str:
    """Return the line about a task: its accuracy right after it was learned, its seconds, and what else there is.

    About a request to forget: how accuracy changed on its classes, and on what is still to stay.
    """
    head = f"[{row}/{len(matrix.tasks)}] {matrix.tasks[row - 1]:<14}"
    if matrix.kind == FORGETTING:
        stay = stays(matrix, row)
        kept = (pooled(matrix, "retained", at, stay) for at in (row - 1, row))
        gone = (matrix.accuracy(at, row - 1) for at in (row - 1, row))
        parts = (
            f"{what} {before:.1f} -> {after:.1f} %" for what, (before, after) in (("to go", gone), ("to stay", kept))
        )
        line = f"{head} {', '.join(parts)} after {seconds:5.1f} s"
    else:
        line = f"{head} accuracy {matrix.accuracy(row, row - 1):5.1f} after {seconds:5.1f} s"
    return "".join((line, *(f"  ({one})" for one in more if one)))


def others(resolved: Resolved, tasks: Sequence[str]) -> str:
    """Return a line with what is published of the untrained model and of plain LoRA on the stream of a run.

    Parameters
    ----------
    resolved : Resolved
    tasks : sequence of str
        In their order.

    Returns
    -------
    str
        Empty where nothing is published of these tasks in this order with this model; why not, where the file with the
        numbers is damaged.
    """
    run = resolved.run
    conditions = {key: value for key, value in resolved.flat.items() if key.startswith(("stream.", "model."))}
    conditions |= {
        "order of tasks": list(tasks),
        "label space": label_space_of(resolved.stream_class, resolved.stream_settings),
        "evaluate.split": run.evaluate.split,
    }
    try:
        table = published.beside(run.stream, run.model, conditions)
    except UserError as error:  # the run itself has succeeded
        return f"note: {error}"
    return published.bases(table) if table else ""


def last_measured(method: type[Method] | Method, label_space: str, tasks: int) -> int:
    """Return the last row of the matrix that is measured: all later ones are like it.

    Parameters
    ----------
    method : Method or type
    label_space : str
        The stream's.
    tasks : int
        Number of its tasks.

    Returns
    -------
    int
    """
    if label_space in ("seen", "agnostic"):
        return tasks  # where it grows, the accuracies of a constant classifier change too
    return 0 if method.constant else 1 if method.at_once else tasks


class Forecast:
    """How long a run still takes, by the seconds that steps, images and rows of the matrix took so far.

    Parameters
    ----------
    parts : Parts
    watch : Stopwatch
    method : Method

    Attributes
    ----------
    settled : int
        As of `last_measured`.
    """

    def __init__(self, parts: Parts, watch: Stopwatch, method: Method):
        self.settled = last_measured(method, parts.stream.label_space, len(parts.tasks))
        self._watch = watch
        self._images = [len(task.train) for task in parts.tasks]
        self._steps = [steps_of(budget, images) for budget, images in zip(parts.budgets, self._images, strict=True)]
        if method.at_once:
            nothing = [0] * (len(parts.tasks) - 1)
            self._images, self._steps = [sum(self._images), *nothing], [sum(self._steps), *nothing]
        self._rows = self.settled + 1

    def left(self, learned: int, step: int = 0, speed: float = 0.0) -> str:
        """Return in words how long the rest takes, roughly.

        Parameters
        ----------
        learned : int
            Tasks that are learned and measured.
        step : int, optional
            Steps of the next task that are done.
        speed : float, optional
            Steps a second, where they are being done.

        Returns
        -------
        str
            Empty as long as it is not known, and for less than a second.
        """
        begun = learned + (step > 0)  # statistics are gathered before the first step
        done = {
            "train": sum(self._steps[:learned]) + step,
            "statistics": sum(self._images[:begun]),
            "evaluate": min(learned + 1, self._rows),
        }
        total = {"train": sum(self._steps), "statistics": sum(self._images), "evaluate": self._rows}
        return left(seconds_left(self._watch.seconds, done, total, {"train": speed}))

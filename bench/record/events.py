"""Events of a run, as metrics.jsonl holds them. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from bench.core.untrusted import parse_json, read_text
from bench.record.schema import EVENTS


@dataclass(frozen=True)
class EpochEvent:
    """One pass over a task's training images.

    Attributes
    ----------
    task : str
    step : int
        Steps done in this task.
    epoch : int
        Counted from 0.
    loss : float
        Mean over the images.
    lr : float
        Learning rate at the end of the pass.
    """

    task: str
    step: int
    epoch: int
    loss: float
    lr: float


@dataclass(frozen=True)
class RowEvent:
    """One finished row of the accuracy matrix.

    Attributes
    ----------
    row : int
        0 is the untrained model, k the state after k tasks.
    after : str
        Name of the row: ``zero-shot``, or the task learned last.
    accuracy : dict of str to float
        Test set -> percent; measured and reused cells only.
    figures : dict of str to object
        What else was recorded of the task: seconds, sizes, and what the method reports.
    """

    row: int
    after: str
    accuracy: dict[str, float]
    figures: dict[str, Any]


Event: TypeAlias = EpochEvent | RowEvent


def read_events(directory: Path) -> list[Event]:
    """Return the events of metrics.jsonl so far.

    A last line that is still being written is left out, and so are events of other kinds.

    Parameters
    ----------
    directory : Path
        A run directory; without the file it has no events.

    Returns
    -------
    list of EpochEvent or RowEvent
        In the order in which they happened.

    Raises
    ------
    OSError
        If the file is there and cannot be read.
    ValueError
        If a line is damaged; names its number.
    """
    try:
        text = read_text(directory / EVENTS)
    except FileNotFoundError:
        return []
    return list(_events(text))


def _events(text: str) -> Iterator[Event]:
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            return
        try:
            content = parse_json(line)
            kind = content.pop("event")
            if kind == "epoch":
                yield EpochEvent(**{one.name: content[one.name] for one in fields(EpochEvent)})
            elif kind == "row":
                row, after, accuracy = (content.pop(name) for name in ("row", "after", "accuracy"))
                yield RowEvent(row, after, dict(accuracy), content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{EVENTS}, line {number} is damaged ({error})") from error

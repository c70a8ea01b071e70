"""Where a run stands, as plain values: what a checkpoint keeps beside its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.record.events import RowEvent
from bench.record.schema import ACCURACY, EVENTS, LARGEST, OUTCOMES, Identity


@dataclass
class Progress:
    """The position of a run between the tasks of its stream.

    Attributes
    ----------
    row : int
        The row of the matrix that is worked on: 0 is the untrained model, k the state after k tasks.
    learned : bool
        Whether the learning for that row is done.
    figures : dict of str to object
        What the record says of that row, apart from its accuracies.
    most_trained : int
        Largest number of values trained on one task so far.
    row_seconds : float
        Seconds that earlier processes spent on that row.
    """

    row: int = 0
    learned: bool = True
    figures: dict[str, Any] = field(default_factory=dict)
    most_trained: int = 0
    row_seconds: float = 0.0

    def next_row(self) -> None:
        """Go to the next row."""
        self.row, self.learned, self.figures, self.row_seconds = self.row + 1, False, {}, 0.0

    def where(self, tasks: int) -> str:
        """Return the position in words."""
        if self.row == 0:
            return "before any task"
        return f"in task {self.row} of {tasks}" if self.row <= tasks else "after the last task"


@dataclass(frozen=True)
class Snapshot:
    """All plain values of a checkpoint.

    Attributes
    ----------
    decisive : list
        What must be the same for the run to be continued: fingerprint, seed, hash of the weights, `data_identity`.
    code : dict
        `code_identity` when it was written.
    progress : Progress
    seconds, parts, reused : dict of str to float
        Of the stopwatch; ``seconds`` has the total too.
    batches : int or None
        Bytes of batches.jsonl that belong to the run so far; None where batches are not recorded.
    files : dict of str to str
        Content of the files of the record that are written from row to row.
    training : dict or None
        Plain values of the state of training; None between tasks.
    """

    decisive: list[Any]
    code: dict[str, Any]
    progress: Progress
    seconds: dict[str, float]
    parts: dict[str, float]
    reused: dict[str, float]
    batches: int | None
    files: dict[str, str]
    training: dict[str, Any] | None = None

    def values(self) -> dict[str, Any]:
        """Return the values as a checkpoint stores them."""
        stored = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del stored["progress"], stored["training"]
        training = {} if self.training is None else {"training": self.training}
        return {**stored, **vars(self.progress), **training}

    @classmethod
    def of(cls, values: Mapping[str, Any], directory: Path, tasks: int, inside: bool) -> Snapshot:
        """Read what `values` returned.

        Parameters
        ----------
        values : mapping
            From a checkpoint.
        directory : Path
            The run directory, for errors.
        tasks : int
            The number of tasks of the stream.
        inside : bool
            Whether the checkpoint was written inside a task.

        Raises
        ------
        UserError
            If something is missing or not what it should be: the file is no checkpoint of this run. Nothing else is
            raised, whatever the values are.
        """
        files = values.get("files")
        for name in files if isinstance(files, dict) else ():
            if name not in FILES:
                raise UserError(f"{directory} has a checkpoint that would write to {name}: remove it")
        wrong = [name for name, fits in SCHEMA.items() if not fits(values.get(name))]
        if not wrong and not _is_position(values, tasks, inside):
            wrong = ["position among the tasks"]
        if wrong:
            raise UserError(
                f"{directory} has a checkpoint whose {' and '.join(wrong[:3])} cannot be: move it away to run again"
            )
        progress = Progress(**{item.name: values[item.name] for item in dataclasses.fields(Progress)})
        own: dict[str, Any] = {item.name: values.get(item.name) for item in dataclasses.fields(cls)}
        return cls(**{**own, "progress": progress})


FILES = (EVENTS, ACCURACY, OUTCOMES)
"""Files of the record whose content a checkpoint holds."""


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_code(value: Any) -> bool:
    """Return whether a value is parts of an `Identity` that say with which code a run was begun."""
    try:
        Identity.from_json({**value, "settings": {}})
    except (TypeError, ValueError):
        return False
    return set(value) <= {"code_revision", "plugins_sha256"}


def _all_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_seconds, value.values()))


OWN = {item.name for item in dataclasses.fields(RowEvent)} | {"event"}
"""Names in the event of a row that no figure has."""

SCHEMA: dict[str, Callable[[Any], bool]] = {
    "decisive": lambda value: isinstance(value, list),
    "code": _is_code,
    "row": _count,
    "learned": lambda value: isinstance(value, bool),
    "figures": lambda value: isinstance(value, dict) and not OWN & set(value),
    "most_trained": _count,
    "row_seconds": _seconds,
    "seconds": _all_seconds,
    "parts": _all_seconds,
    "reused": _all_seconds,
    "batches": lambda value: value is None or _count(value),
    "files": lambda value: (
        isinstance(value, dict) and set(value) == set(FILES) and all(isinstance(text, str) for text in value.values())
    ),
    "training": lambda value: value is None or isinstance(value, dict),
}
"""What each plain value of a checkpoint has to be."""


def _is_position(values: Mapping[str, Any], tasks: int, inside: bool) -> bool:
    """Return whether a run can stand where a checkpoint says."""
    row, learned, training = values["row"], values["learned"], values.get("training")
    if row > tasks + 1 or inside != (training is not None):
        return False
    if inside:
        return not learned and 0 < row <= tasks
    # The figures of a task are there once it is learned.
    return learned if row == 0 else not learned or _count(values["figures"].get("trained"))

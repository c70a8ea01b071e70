"""Where a run stands, as plain values: what a checkpoint keeps beside its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import UserError


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
    def of(cls, values: Mapping[str, Any], where: str) -> Snapshot:
        """Read what `values` returned.

        Parameters
        ----------
        values : mapping
            From a checkpoint.
        where : str
            The run directory, for errors.

        Raises
        ------
        UserError
            If something is missing: the file is no checkpoint of this suite.
        """
        own = {item.name for item in dataclasses.fields(cls)} - {"progress", "training"}
        try:
            progress = Progress(**{item.name: values[item.name] for item in dataclasses.fields(Progress)})
            return cls(progress=progress, training=values.get("training"), **{name: values[name] for name in own})
        except KeyError as error:
            raise UserError(f"{where} has a checkpoint without {error}: move it away to run again") from error

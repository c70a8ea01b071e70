"""The order of batches as a record: which images every batch of every pass held, to be followed by another run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[str, str, int]


class BatchOrder:
    """Hands out the batches of a pass, as drawn or as recorded, and tells of them.

    A record has one JSON object a line: ``task``, ``purpose`` (gradient, head, train, statistics, ...), ``epoch``, and
    ``batches``, the indices of each batch's images in the task's training set.

    Parameters
    ----------
    replay : Path, optional
        A record to follow.
    record : callable, optional
        Is given one mapping a pass, for a record.

    Raises
    ------
    UserError
        If the record cannot be read.
    """

    def __init__(self, replay: Path | None = None, record: Callable[[Mapping[str, Any]], None] | None = None):
        self.path = replay
        self.record = record
        self.recorded: set[Key] = set()
        self._known: dict[Key, list[list[int]]] = {} if replay is None else read_order(replay)

    def plan(self, task: str, purpose: str, epoch: int, drawn: Sequence[Tensor], images: int) -> Sequence[Tensor]:
        """The batches of one pass.

        Parameters
        ----------
        drawn : sequence of int64 Tensor
            What the run would take without a record.
        images : int
            How many the training set has.

        Raises
        ------
        UserError
            If the record lacks the pass, has batches of other sizes, or names images that there are not.
        """
        chosen = drawn
        if self.path is not None:
            where = f"the pass {purpose} {epoch} of task {task} in the record {self.path}"
            found = self._known.get((task, purpose, epoch))
            if found is None:
                raise UserError(f"{where} is missing: give the record of a run with the same stream, method and epochs")
            sizes, wanted = [len(batch) for batch in found], [len(batch) for batch in drawn]
            if sizes != wanted:
                raise UserError(
                    f"{where} has {len(sizes)} batches, of {max(sizes, default=0)} images at most, and this run "
                    f"{len(wanted)}, of {max(wanted, default=0)}: set train.batch_size, and whether the last batch is "
                    "dropped, as in that run"
                )
            chosen = [torch.tensor(batch, dtype=torch.int64) for batch in found]
            if any(len(batch) == 0 or not 0 <= min(batch) <= max(batch) < images for batch in found):
                raise UserError(f"{where} names images that are not among the {images} of the task: use the same data")
        # A pass made twice (at the begin and the end of a task, or in a continued run) is the same pass.
        if self.record is not None and (task, purpose, epoch) not in self.recorded:
            self.recorded.add((task, purpose, epoch))
            batches = [batch.tolist() for batch in chosen]
            self.record({"task": task, "purpose": purpose, "epoch": epoch, "batches": batches})
        return chosen


def read_order(path: Path) -> dict[Key, list[list[int]]]:
    """The batches of every recorded pass by (task, purpose, epoch).

    Raises
    ------
    UserError
        If the record cannot be read.
    """
    known: dict[Key, list[list[int]]] = {}
    number = 0
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            number += 1
            entry = json.loads(line)
            batches = [[int(index) for index in batch] for batch in entry["batches"]]
            known[str(entry["task"]), str(entry["purpose"]), int(entry["epoch"])] = batches
    except OSError as error:
        raise UserError(f"the record {path} of batches.replay cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"line {number} of {path} is no pass of batches ({error}): record it anew") from error
    return known

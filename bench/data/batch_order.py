"""The order of batches as a record: which images every batch of every pass had, for another run to follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.lazy import torch
from bench.core.untrusted import parse_json

if TYPE_CHECKING:
    from torch import Tensor

Key = tuple[str, str, int]


class BatchOrder:
    """Decides the batches of every pass, as drawn or as in a record, and reports them.

    A record has one JSON object on each line: ``task``, ``purpose`` (gradient, head, train, statistics, ...),
    ``epoch``, and ``batches``, the indices of each batch's images in the task's training set.

    Parameters
    ----------
    replay : Path, optional
        A record to follow.
    record : callable, optional
        Called with one mapping for each pass, a line of a record.

    Attributes
    ----------
    path : Path or None
        The record to follow.
    record : callable or None
        As given.
    recorded : set of tuple
        Task, purpose and epoch of the passes that have been recorded.

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
        """Return the batches of one pass.

        Parameters
        ----------
        task : str
            Name of the task.
        purpose : str
            What the pass is for.
        epoch : int
            Index of the pass among those for the same purpose, from 0.
        drawn : sequence of int64 Tensor [batch]
            The batches that the run would take without a record.
        images : int
            Number of images in the training set.

        Returns
        -------
        sequence of int64 Tensor [batch]
            Indices of images.

        Raises
        ------
        UserError
            If the record lacks the pass, has batches of other sizes, or names images that do not exist.
        """
        chosen = drawn
        if self.path is not None:
            where = f"the pass {purpose} {epoch} of task {task} in the record {self.path}"
            known = self._known.get((task, purpose, epoch))
            if known is None:
                raise UserError(f"{where} is missing: give the record of a run with the same stream, method and epochs")
            sizes, wanted = [len(batch) for batch in known], [len(batch) for batch in drawn]
            if sizes != wanted:
                raise UserError(
                    f"{where} has {len(sizes)} batches, of {max(sizes, default=0)} images at most, and this run "
                    f"{len(wanted)}, of {max(wanted, default=0)}: set train.batch_size, and whether the last batch is "
                    "dropped, as in that run"
                )
            chosen = [torch.tensor(batch, dtype=torch.int64) for batch in known]
            if any(len(batch) == 0 or not 0 <= min(batch) <= max(batch) < images for batch in known):
                raise UserError(f"{where} names images that are not among the {images} of the task: use the same data")
        # A pass that is made twice (at the begin and the end of a task, or in a continued run) is recorded once.
        if self.record is not None and (task, purpose, epoch) not in self.recorded:
            self.recorded.add((task, purpose, epoch))
            batches = [batch.tolist() for batch in chosen]
            self.record({"task": task, "purpose": purpose, "epoch": epoch, "batches": batches})
        return chosen


def read_order(path: Path) -> dict[Key, list[list[int]]]:
    """Read a record.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of tuple to list of list of int
        The batches of every pass by (task, purpose, epoch).

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
            entry = parse_json(line)
            batches = [[int(index) for index in batch] for batch in entry["batches"]]
            known[str(entry["task"]), str(entry["purpose"]), int(entry["epoch"])] = batches
    except OSError as error:
        raise UserError(f"the record {path} of batches.replay cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"line {number} of {path} is no pass of batches ({error}): record it again") from error
    return known

"""Which process this is of those that share a run, read from the environment; no torch needed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bench.core.errors import UserError


@dataclass(frozen=True)
class Rank:
    """The position of a process among those that share a run.

    Attributes
    ----------
    rank : int
        Index of this process, from 0.
    size : int
        Number of processes.
    local_rank : int
        Index among the processes on the same machine; it decides which CUDA device a process uses.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def rank() -> Rank:
    """Return the position of this process by RANK, WORLD_SIZE and LOCAL_RANK; a single process without them.

    Returns
    -------
    Rank

    Raises
    ------
    UserError
        If the variables contradict each other.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return Rank()
    try:
        own = Rank(int(os.environ["RANK"]), int(size), int(os.environ.get("LOCAL_RANK", "0")))
    except (KeyError, ValueError):
        own = None
    if own is None or not 0 <= own.rank < own.size:
        raise UserError(
            f"WORLD_SIZE={size} needs RANK from 0 to below it: start processes with torchrun, or unset both"
        )
    return own

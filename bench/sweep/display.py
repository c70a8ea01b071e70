"""What a user sees of points while they run: their output, or how many tasks each has learned."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bench.core.signals import is_interruption
from bench.core.stopwatch import left
from bench.metrics.scalars import mean
from bench.record.events import RowEvent, read_events
from bench.record.schema import EVENTS, Identity
from bench.sweep.points import Point, state_of
from bench.sweep.processes import Child

LOOK = 1.0
"""Seconds between two looks at a running point's record."""

ENOUGH = 2
"""Points that have to be finished before it is said how long the others take."""


class Display:
    """Lines about running points: one when a point starts and one when it ends.

    Parameters
    ----------
    count : int
        Number of all points of the sweep.
    together : int, optional
        How many run at a time.
    """

    def __init__(self, count: int, together: int = 1):
        self.count = count
        self._together = together
        self._took: dict[Path, list[float]] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def head(self, point: Point) -> str:
        """Return the number of a point among all, as in ``[3/8]``."""
        return f"[{point.number}/{self.count}]"

    def started(self, child: Child) -> None:
        """Show that a process has started; called once."""
        self.say(f"{self.head(child.point)} {child.point.label}")

    def running(self, child: Child) -> None:
        """Show what is new of a process; called at every look while it runs, and once after its end."""

    def ended(self, child: Child, status: int, waiting: Sequence[Point] = (), running: Sequence[Child] = ()) -> None:
        """Show how a process ended; called once.

        Parameters
        ----------
        child : Child
        status : int
        waiting : sequence of Point, optional
            Those that have not started yet.
        running : sequence of Child, optional
            The other ones that run.
        """
        if status == 0:
            self._took.setdefault(child.point.directory.parent, []).append(child.seconds)
        rest = self._left(waiting, running)
        line = f"{self.head(child.point)} {outcome(child.point, status)} after {child.seconds:.0f} s"
        self.say(f"{line} ({rest})" if rest else line)

    def _left(self, waiting: Sequence[Point], running: Sequence[Child]) -> str:
        """Return in words how long the rest takes, roughly: a point takes as long as those of its method, or as all."""
        every = [seconds for took in self._took.values() for seconds in took]
        if len(every) < ENOUGH or not (waiting or running):
            return ""

        def needs(point: Point) -> float:
            return mean(self._took.get(point.directory.parent, every))

        begun = [max(needs(child.point) - child.seconds, 0.0) for child in running]
        work = sum(begun) + sum(map(needs, waiting))
        return left(max([work / min(self._together, len(waiting) + len(running)), *begun]))


class Output(Display):
    """All that the points print, as their logs grow."""

    def __init__(self, count: int, together: int = 1):
        super().__init__(count, together)
        self._read: dict[Path, int] = {}

    def running(self, child: Child) -> None:
        """Print what has been added to the log."""
        log = child.point.log
        with log.open("rb") as file:
            file.seek(self._read.get(log, 0))
            text = file.read()
        # A character may still be incomplete; it is shown with the next line.
        text = text[: text.rfind(b"\n") + 1] if child.process.poll() is None else text
        self._read[log] = self._read.get(log, 0) + len(text)
        if text:
            sys.stdout.write(text.decode("utf-8", errors="replace"))
            sys.stdout.flush()


class Tasks(Display):
    """How many tasks each point has learned: a bar each on a terminal, else a line for every task."""

    def __init__(self, count: int, together: int = 1):
        super().__init__(count, together)
        self._bars: dict[int, Any] = {}
        self._seen: dict[int, Progress] = {}
        self._looked: dict[int, float] = {}

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        with tqdm.external_write_mode():
            super().say(text)

    def started(self, child: Child) -> None:
        """Show that a process has started, and open its bar."""
        super().started(child)
        self._bars[child.process.pid] = tqdm(
            desc=f"{self.head(child.point)} {child.point.label}",
            unit="task",
            leave=False,
            disable=None,  # only on a terminal
            dynamic_ncols=True,
        )

    def running(self, child: Child) -> None:
        """Move the bar, or print a line, when a task has been learned."""
        pid = child.process.pid
        if child.process.poll() is None and child.seconds - self._looked.get(pid, 0.0) < LOOK:
            return
        self._looked[pid] = child.seconds
        bar = self._bars[pid]
        bar.refresh()  # the time on it runs while nothing else changes
        now = progress(child.point.directory, child.began)
        if now is None or now == self._seen.get(pid):
            return
        self._seen[pid] = now
        bar.total, bar.n = now.total, now.learned
        bar.set_postfix_str(now.task)
        if bar.disable and now.learned:
            self.learned(child.point, now)

    def learned(self, point: Point, now: Progress) -> None:
        """Print how many tasks a point has learned."""
        self.say(f"{self.head(point)} {now.learned} of {now.total} tasks learned ({now.task})")

    def ended(self, child: Child, status: int, waiting: Sequence[Point] = (), running: Sequence[Child] = ()) -> None:
        """Close the bar, and show how the process ended."""
        self._bars.pop(child.process.pid).close()
        super().ended(child, status, waiting, running)


class Progress(NamedTuple):
    """How far a run is.

    Attributes
    ----------
    learned : int
        Tasks learned.
    total : int
        Tasks in all.
    task : str
        Name of the task that was learned last; empty before the first row of the matrix.
    """

    learned: int
    total: int
    task: str


def progress(directory: Path, since: float) -> Progress | None:
    """Return how far a run is, by its record.

    Parameters
    ----------
    directory : Path
        A run directory.
    since : float
        Seconds since the epoch: an older record is one of an earlier attempt.

    Returns
    -------
    Progress or None
        None where there is no record that is new enough.
    """
    try:
        if (directory / EVENTS).stat().st_mtime < since:
            return None
        total = len(Identity.read(directory).tasks)
        rows = [event for event in read_events(directory) if isinstance(event, RowEvent)]
    except (OSError, ValueError):  # not written yet, or just being written
        return None
    return Progress(rows[-1].row, total, rows[-1].after) if rows else Progress(0, total, "")


def outcome(point: Point, status: int) -> str:
    """Return in a few words how a point ended.

    Parameters
    ----------
    point : Point
    status : int
        The exit status of its process; a signal is 128 + its number.

    Returns
    -------
    str
    """
    if is_interruption(status):
        return f"interrupted (exit status {status})"
    if status:
        return f"failed (exit status {status})"
    return state_of(point)

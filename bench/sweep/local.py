"""Run the points of a sweep on this machine, one after another or several at a time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from bench.sweep.display import Display
from bench.sweep.points import Point
from bench.sweep.processes import Child, start

POLL = 0.1
"""Seconds between two looks at the running processes, and at whether a signal has come."""


def carry_out(
    todo: Sequence[Point], processes: int, environment: Callable[[Point], Mapping[str, str]], display: Display
) -> int:
    """Run points, some at a time, until all have ended or a signal asks for an end.

    Parameters
    ----------
    todo : sequence of Point
        In the order in which they start.
    processes : int
        How many at a time.
    environment : callable
        Returns what is added to the environment for a point's process.
    display : Display

    Returns
    -------
    int
        The signal that asked for an end, else 0.
    """
    waiting, running, reported = list(todo), list[Child](), 0
    with stopping() as stop:
        try:
            while running or (waiting and not stop.count):
                while waiting and len(running) < processes and not stop.count:
                    point = waiting.pop(0)
                    child = start(point, environment(point))
                    if child is None:
                        display.say(f"{display.head(point)} skipped: another process runs it or has finished it")
                        continue
                    running.append(child)
                    display.started(child)
                time.sleep(POLL)
                if stop.count > reported:
                    reported = stop.count
                    waiting.clear()
                    display.say(f"stopping: waiting for the end of {len(running)} running points")
                for child in list(running):
                    child.pass_on(stop.signal, stop.count)
                    status = child.ended()
                    display.running(child)
                    if status is not None:
                        running.remove(child)
                        display.ended(child, status, waiting, running)
        finally:  # a full disk, a closed pipe: nobody would wait for them any more
            for child in running:
                child.process.terminate()
                child.process.wait()
                child.ended()
        return stop.signal


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --------------------------------------------------------------------------------------------- signals


class Stop:
    """Handler of signals that ask for an end: counts them, so that nothing is left half done.

    Attributes
    ----------
    signal : int
        The last one; 0 before the first.
    count : int
    """

    def __init__(self) -> None:
        self.signal = 0
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Count a signal."""
        self.signal = number
        self.count += 1

    def sleep(self, seconds: float) -> None:
        """Sleep at most some seconds, and not longer than until the first signal."""
        end = time.monotonic() + seconds
        while not self.count and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL))


@contextmanager
def stopping() -> Iterator[Stop]:
    """Count interrupts and requests to end while open."""
    stop = Stop()
    wanted = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # else started with nohup
        wanted.append(hangup)
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Run the points of a sweep on this machine, one after another or several at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from bench.sweep.display import Display
from bench.sweep.points import Point
from bench.sweep.processes import Child, start
from bench.sweep.stopping import stopping

POLL = 0.1
"""Seconds between two looks at the running processes."""


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
                    display.say(f"stopping: waiting for the end of {len(running)} running points")
                for child in list(running):
                    child.pass_on(stop.signal, stop.count)
                    status = child.ended()
                    display.running(child)
                    if status is not None:
                        running.remove(child)
                        display.ended(child, status)
        finally:  # a full disk, a closed pipe: nobody would wait for them any more
            for child in running:
                child.process.terminate()
                child.process.wait()
                child.ended()
        return stop.signal


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

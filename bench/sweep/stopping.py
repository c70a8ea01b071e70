"""Signals that ask a sweep to end: counted instead of raised, so that nothing is left half done."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL = 0.1
"""Seconds between two looks at whether a signal has come."""


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

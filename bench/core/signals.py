"""Stopping a run from outside: a signal asks for it, and the run obeys where nothing is half done."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""What asks a run to stop: Ctrl-C, a terminated job, and what schedulers send before a time limit or a preemption."""


INTERRUPTIONS = (*SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals after which a run is to be continued; SIGHUP ends it where it is."""


def is_interruption(status: int) -> bool:
    """Whether an exit status means that a run was asked to stop; what else ends a process is a failure."""
    return status - 128 in INTERRUPTIONS


class Stopped(KeyboardInterrupt):
    """A run has stopped because it was asked to, where nothing was half done; the same run again continues it.

    Attributes
    ----------
    signum : int
        The signal that asked for it.
    """

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """Remembers that a signal asked the run to stop.

    Attributes
    ----------
    signum : int or None
        The first signal that came.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Remember signals while open, instead of letting them end the process; a second Ctrl-C ends it at once.

        Outside of the main thread, where Python allows no handlers, nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.signal(signum, self._hear) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signum = signum
        print("stopping where nothing is half done (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raise `Stopped` if a signal has asked for it."""
        if self.signum is not None:
            raise Stopped(self.signum)

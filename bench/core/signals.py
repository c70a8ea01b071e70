"""Graceful stop: signals set a flag, which a run checks at safe points."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals that ask a run to stop: Ctrl-C, a terminated job, what schedulers send before a time limit or preemption."""

INTERRUPTIONS = (*SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals after which a run should be continued; SIGHUP ends it at once."""


def is_interruption(status: int) -> bool:
    """Return whether an exit status means that a run was asked to stop; any other one but 0 is a failure.

    Parameters
    ----------
    status : int
        128 + signal for a process that a signal stopped.

    Returns
    -------
    bool
    """
    return status - 128 in INTERRUPTIONS


class Stopped(KeyboardInterrupt):
    """A run has stopped because it was asked to, at a safe point; the same command again continues it.

    Parameters
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


@contextmanager
def at_once() -> Iterator[None]:
    """Raise `Stopped` where a signal asks to stop while open, so that what was started is ended too.

    Outside of the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = {signum: signal.signal(signum, stop) for signum in INTERRUPTIONS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

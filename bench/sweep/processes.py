"""The process of one point on this machine: its start, its lock, its notes, its end.

It runs in a session of its own, so that an interrupt at the terminal reaches it once: from the process that started
it, which then waits for its clean end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from bench.core.errors import UserError
from bench.sweep.attempts import Attempt, exit_status
from bench.sweep.points import Point, state_of


class Child:
    """The process of one point; until it has ended this process holds the point's lock.

    Parameters
    ----------
    point : Point
    lock : FileLock
        Held already.
    environment : mapping of str to str
        What is added to the environment.

    Attributes
    ----------
    point : Point
    process : subprocess.Popen
    began : float
        When the process started, in seconds since the epoch.
    signals : int
        How many signals were passed on to the process.
    """

    def __init__(self, point: Point, lock: FileLock, environment: Mapping[str, str]):
        self.point = point
        self.signals = 0
        self.began = time.time()
        self._lock = lock
        point.job.unlink(missing_ok=True)  # what SLURM knows of an earlier attempt no longer counts
        with point.log.open("wb") as log:
            self.process = subprocess.Popen(
                command(point),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._attempt = Attempt.of_process(self.process.pid, self.began)
        try:
            self._attempt.write(point.notes)
        except OSError:  # a full disk; nobody would know of the process
            self.process.terminate()
            self.process.wait()
            raise

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.began

    def pass_on(self, number: int, count: int) -> None:
        """Pass a signal on, unless the process has ended or has had this many signals."""
        if self.signals < count and self.process.poll() is None:
            self.process.send_signal(number)
            self.signals = count

    def ended(self) -> int | None:
        """Note and return the exit status once the process has ended, a signal as 128 + its number; else None."""
        code = self.process.poll()
        if code is None:
            return None
        status = exit_status(code)
        with contextlib.suppress(OSError):  # a full disk; without the note the point counts as interrupted
            self._attempt.ended(status, self.seconds).write(self.point.notes)
        self._lock.release()
        return status


def command(point: Point) -> list[str]:
    """Return the command line of a point."""
    return [sys.executable, "-m", "bench", "run", *point.words]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one sentence what keeps a sweep from writing into its folder.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    UserError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}): make room or choose another folder with out=DIR"
        ) from error


def start(point: Point, environment: Mapping[str, str]) -> Child | None:
    """Start a point's process.

    Parameters
    ----------
    point : Point
    environment : mapping of str to str
        What is added to the environment.

    Returns
    -------
    Child or None
        None if another process runs the point, or has finished it meanwhile.

    Raises
    ------
    UserError
        If the sweep's folder cannot be written.
    """
    with writing(point.folder):
        point.lock.parent.mkdir(parents=True, exist_ok=True)
        point.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(point.lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        if state_of(point) in ("finished", "running"):
            lock.release()
            return None
        return Child(point, lock, environment)

"""One writer for a run directory at a time, on one machine or on several.

The kernel's lock keeps out processes of the same machine, and those of other machines where a shared file system passes
locks on. The claim keeps out all: a file that says who writes, and whose time its writer renews. A writer that is dead
on this machine loses it at once, one on another machine after `CLAIM` seconds without a sign of life.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

from bench.core.console import say
from bench.core.errors import UserError
from bench.record.schema import LOCK, WRITER, is_finished

CLAIM = 60.0
"""Seconds without a sign of life after which a writer on another machine counts as gone."""


class Hold:
    """The right to write to a run directory.

    Parameters
    ----------
    directory : Path
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._lock: FileLock | None = None
        self._claim: SoftFileLease | None = None

    def take(self, may_stop: Callable[[], None]) -> None:
        """Take the right to write; the directory must be there.

        Parameters
        ----------
        may_stop : callable
            Called while this waits for a sign of life; it may raise.

        Raises
        ------
        UserError
            If another process writes, naming it.
        OSError
            If the directory cannot be written to.
        """
        lock = FileLock(self.directory / LOCK)
        claim = SoftFileLease(self.directory / WRITER, lease_duration=CLAIM)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise self._busy(claim) from None
        try:
            self._acquire(claim, may_stop)
        except BaseException:
            lock.release()
            raise
        self._lock, self._claim = lock, claim

    def give_back(self) -> None:
        """Let other processes write again."""
        lock, claim = self._lock, self._claim
        self._lock = self._claim = None
        if claim is not None:
            with suppress(OSError):
                claim.release()
        if is_finished(self.directory):
            # Nobody needs the lock of a finished run. That of an unfinished run stays: if it were removed while
            # another process is about to take it, two could hold it.
            with suppress(OSError):
                (self.directory / LOCK).unlink(missing_ok=True)
        if lock is not None:
            lock.release()

    def check(self) -> None:
        """Raise `UserError` if another process took over in the belief that this one is dead."""
        if self._claim is not None and self._claim.compromise is not None:
            raise UserError(
                f"{self.directory} has been taken over by {_writer(self._claim)}, since this process gave no sign of "
                f"life for {CLAIM:g} s: let that one continue"
            )

    def _acquire(self, claim: SoftFileLease, may_stop: Callable[[], None]) -> None:
        """Take a claim; wait for the writer's sign of life where nobody can know whether it is dead."""
        for waited in range(int(CLAIM) + 3):
            try:
                claim.acquire(timeout=1)
                return
            except Timeout:
                may_stop()
            if waited == 0:
                say(f"{self.directory} was last written by {_writer(claim)}: waiting {CLAIM:g} s for a sign of life")
        raise self._busy(claim)

    def _busy(self, claim: SoftFileLease) -> UserError:
        return UserError(f"{self.directory} is being written by {_writer(claim)}: wait for it or stop it")


def _writer(claim: SoftFileLease) -> str:
    owner = claim.owner
    return f"process {owner.pid} on {owner.hostname}" if owner else "another process"

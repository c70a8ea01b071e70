"""The record of a run on disk: settings, identity, environment, events, matrix, summary."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLease, Timeout
from omegaconf import OmegaConf

from bench.config.run_settings import Resolved
from bench.core.console import say
from bench.core.errors import UserError
from bench.core.files import is_finished, write_atomic
from bench.core.lazy import torch
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import FILE as OUTCOMES
from bench.record.provenance import environment
from bench.record.schema import BATCHES

CLAIM = 60.0
"""Seconds without a sign of life after which the writer of a record on another machine counts as gone."""


class Record:
    """Writes the record of one run; every failure to write is a `UserError` that names the folder.

    Parameters
    ----------
    directory : Path
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._claim: SoftFileLease | None = None

    @contextmanager
    def held(self, may_stop: Callable[[], None] = lambda: None) -> Iterator[None]:
        """While open, no other process writes to the directory, which is created if needed.

        The kernel's lock keeps out processes of the same machine, and on shared file systems that hand locks on those
        of others. The claim keeps out all: a file that says who writes, and whose time its writer renews. A writer
        that is dead here loses it at once, one on another machine after `CLAIM` seconds without a sign of life.

        Parameters
        ----------
        may_stop : callable
            Called while it waits for a sign of life; it may raise.

        Raises
        ------
        UserError
            If another process writes, naming it.
        """
        lock = FileLock(self.directory / "lock")
        claim = SoftFileLease(self.directory / "writer", lease_duration=CLAIM)
        with self.writing(), ExitStack() as kept:
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise _busy(claim) from None
            kept.callback(lock.release)
            _acquire(claim, may_stop)
            kept.pop_all()
        self._claim = claim
        try:
            yield
        finally:
            self._claim = None
            with suppress(OSError):
                claim.release()
            if is_finished(self.directory):
                # Of a finished run nobody needs it. That of a broken off run stays: who removes a file that somebody
                # else is about to lock makes room for two holders.
                with suppress(OSError):
                    (self.directory / "lock").unlink(missing_ok=True)
            lock.release()

    def begin(self) -> None:
        """Start anew: what an attempt without a checkpoint left behind is removed."""
        with self.writing():
            write_atomic(self.directory / "metrics.jsonl", "")
            for stale in ("accuracy.csv", OUTCOMES, "summary.json", BATCHES):
                (self.directory / stale).unlink(missing_ok=True)

    def cut(self, name: str, size: int) -> None:
        """Cut a file of lines back to a size in bytes.

        Raises
        ------
        UserError
            If it is shorter than that.
        """
        path = self.directory / name
        with self.writing():
            if not path.exists() or path.stat().st_size < size:
                raise UserError(f"{path} has lost lines of an unfinished run: move {self.directory} away to run anew")
            os.truncate(path, size)

    def size(self, name: str) -> int | None:
        """Size in bytes of a file of lines, all of which has reached the disk; None where there is none."""
        path = self.directory / name
        if not path.exists():
            return None
        with self.writing(), path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While open, a failure to write is a `UserError` that names the folder; so is a claim that was lost."""
        if self._claim is not None and self._claim.compromise is not None:
            raise UserError(
                f"{self.directory} has been taken over by {_writer(self._claim)}, since this process gave no sign of "
                f"life for {CLAIM:g} s: let that one go on"
            )
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.directory} ({error.strerror or error}): make room or choose another folder "
                "with out=DIR"
            ) from error

    def text(self, name: str, content: str) -> None:
        """Write one file of the record."""
        with self.writing():
            write_atomic(self.directory / name, content)

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the record."""
        self.text(name, json.dumps(content, indent=1) + "\n")

    def event(self, event: str, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        self.line("metrics.jsonl", {"event": event, **values})

    def line(self, name: str, content: Mapping[str, Any]) -> None:
        """Append one JSON object to a file of lines."""
        with self.writing(), (self.directory / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")

    def matrix(self, matrix: AccuracyMatrix) -> None:
        """Write accuracy.csv anew."""
        with self.writing():
            matrix.to_csv(self.directory / "accuracy.csv")

    def settings(self, resolved: Resolved) -> None:
        """Write config.yaml: all resolved settings, nested."""
        nested = OmegaConf.create()
        for key, value in resolved.flat.items():
            OmegaConf.update(nested, key, value, force_add=True)
        self.text("config.yaml", OmegaConf.to_yaml(nested))

    def environment(self, device: torch.device) -> None:
        """Write environment.json: where and with what the run is made."""
        self.json("environment.json", environment(device))

    def continued(self, device: torch.device, code: Mapping[str, Any]) -> None:
        """Add to environment.json where, with what and with which state of the code a run is continued."""
        first = dict(json.loads((self.directory / "environment.json").read_text(encoding="utf-8")))
        first.setdefault("continued", []).append({**environment(device), "code": dict(code)})
        self.json("environment.json", first)


class Witness(Record):
    """The record as a process sees it that shares a run and does not lead it: nothing is written."""

    @contextmanager
    def held(self, may_stop: Callable[[], None] = lambda: None) -> Iterator[None]:
        yield

    def begin(self) -> None: ...

    def text(self, name: str, content: str) -> None: ...

    def line(self, name: str, content: Mapping[str, Any]) -> None: ...

    def matrix(self, matrix: AccuracyMatrix) -> None: ...

    def continued(self, device: torch.device, code: Mapping[str, Any]) -> None: ...


def _acquire(claim: SoftFileLease, may_stop: Callable[[], None]) -> None:
    """Take a claim, waiting for the writer's sign of life where it cannot be told that it is dead."""
    for waited in range(int(CLAIM) + 3):
        try:
            claim.acquire(timeout=1)
            return
        except Timeout:
            may_stop()
        if waited == 0:
            say(f"{_folder(claim)} was last written by {_writer(claim)}: waiting {CLAIM:g} s for a sign of life")
    raise _busy(claim)


def _busy(claim: SoftFileLease) -> UserError:
    return UserError(f"{_folder(claim)} is being written by {_writer(claim)}: wait for it or stop it")


def _folder(claim: SoftFileLease) -> Path:
    return Path(claim.lock_file).parent


def _writer(claim: SoftFileLease) -> str:
    owner = claim.owner
    return f"process {owner.pid} on {owner.hostname}" if owner else "another process"

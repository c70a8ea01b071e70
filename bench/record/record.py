"""Write the record of a run: settings, identity, environment, events, matrix, summary.

`Record` writes; `SilentRecord` stands in for it in the other processes of a run that several share. Both are a
`RecordWriter`, so that whoever writes need not ask which process it is in.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench.config.run_settings import Resolved
from bench.core.console import say
from bench.core.errors import UserError
from bench.core.files import make_folder, remove_scratch, write_atomic
from bench.core.lazy import torch
from bench.core.untrusted import opened, read_text, why
from bench.data.batch_order import Key, read_order
from bench.metrics.matrix import AccuracyMatrix
from bench.record.config_file import config_text
from bench.record.guard import check_names
from bench.record.hold import Hold
from bench.record.provenance import differences, environment
from bench.record.schema import (
    ACCURACY,
    BATCHES,
    CONFIG,
    ENVIRONMENT,
    EVENTS,
    IDENTITY,
    OUTCOMES,
    SUMMARY,
    Identity,
    Summary,
    read_environment,
)


def record_of(directory: Path, leads: bool) -> RecordWriter:
    """Return what writes the record of a run.

    Parameters
    ----------
    directory : Path
        The run directory; it need not exist.
    leads : bool
        Whether this process writes; of those that share a run exactly one does.
    """
    return Record(directory) if leads else SilentRecord(directory)


class RecordWriter(ABC):
    """What writes the record of one run.

    Every failure to write is a `UserError` that names the folder. Names of files are those of `bench.record.schema`.

    Parameters
    ----------
    directory : Path
        The run directory.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @abstractmethod
    def held(self, may_stop: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """While open, keep other processes from writing to the directory, which is created if needed.

        Parameters
        ----------
        may_stop : callable, optional
            Called while this waits for a sign of life of another writer; it may raise.

        Raises
        ------
        UserError
            If another process writes, naming it.
        """

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """While open, turn a failure to write into a `UserError` that names the folder.

        Raises
        ------
        UserError
            Also if another process has taken over the directory.
        """

    @abstractmethod
    def begin(self) -> None:
        """Start again: remove what an attempt without a checkpoint left behind."""

    @abstractmethod
    def cut(self, name: str, size: int) -> None:
        """Cut a file of lines back.

        Parameters
        ----------
        name : str
        size : int
            Bytes that stay.

        Raises
        ------
        UserError
            If it is shorter than that.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size in bytes of a file of lines, all of which has reached the disk; None where there is none."""

    @abstractmethod
    def read(self, name: str) -> str:
        """Return the content of a text file of the record, or no text in a process that does not write."""

    @abstractmethod
    def write(self, name: str, content: str | bytes) -> None:
        """Write one file of the record as a whole; when this returns, a crash of the machine leaves it there.

        Parameters
        ----------
        name : str
        content : str or bytes
            Text is written as UTF-8.
        """

    @abstractmethod
    def line(self, name: str, content: Mapping[str, Any]) -> None:
        """Append one JSON object to a file of lines."""

    @abstractmethod
    def continued(self, device: torch.device, code: Mapping[str, Any]) -> list[str]:
        """Add to environment.json where, with what and with which state of the code a run is continued.

        Returns
        -------
        list of str
            What changes bits and is not as it was before: `bench.record.provenance.differences`.
        """

    def cut_batches(self, size: int) -> set[Key]:
        """Cut batches.jsonl back to a size in bytes; return the passes that stay: task, purpose and epoch."""
        self.cut(BATCHES, size)
        return set()

    def text(self, name: str, content: str) -> None:
        """Write one text file of the record."""
        self.write(name, content)

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the record."""
        self.text(name, json.dumps(content, indent=1) + "\n")

    def event(self, event: str, **values: Any) -> None:
        """Append one line to metrics.jsonl.

        Parameters
        ----------
        event : {"epoch", "row"}
        **values : object
            See `bench.record.events.EpochEvent` and `bench.record.events.RowEvent`.
        """
        self.line(EVENTS, {"event": event, **values})

    def matrix(self, matrix: AccuracyMatrix) -> None:
        """Write accuracy.csv."""
        self.text(ACCURACY, matrix.csv())

    def settings(self, resolved: Resolved) -> None:
        """Write config.yaml: all resolved settings, nested."""
        self.text(CONFIG, config_text(resolved.flat))

    def identity(self, identity: Identity) -> None:
        """Write identity.json: what decides the numbers."""
        self.json(IDENTITY, identity.to_json())

    def environment(self, device: torch.device) -> None:
        """Write environment.json: where and with what the run is made."""
        self.json(ENVIRONMENT, environment(device))

    def summary(self, summary: Summary) -> None:
        """Write summary.json, which makes the run a finished one, after all lines have reached the disk."""
        for name in (EVENTS, BATCHES):
            self.size(name)
        self.json(SUMMARY, summary.to_json())


class Record(RecordWriter):
    """Writes the record of one run.

    Parameters
    ----------
    directory : Path
        The run directory.
    """

    def __init__(self, directory: Path):
        super().__init__(directory)
        self._hold = Hold(directory)

    @contextmanager
    def held(self, may_stop: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep other processes from writing while open."""
        with self.writing():
            check_names(self.directory)
            make_folder(self.directory)
            self._hold.take(may_stop)
        try:
            remove_scratch(self.directory)
            yield
        finally:
            self._hold.give_back()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a failure to write into a `UserError` while open."""
        self._hold.check()
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.directory} ({error.strerror or error}): make room or choose another folder "
                "with out=DIR"
            ) from error

    def begin(self) -> None:
        """Remove what an attempt without a checkpoint left behind."""
        with self.writing():
            write_atomic(self.directory / EVENTS, "")
            for stale in (ACCURACY, OUTCOMES, SUMMARY, BATCHES):
                (self.directory / stale).unlink(missing_ok=True)

    def cut(self, name: str, size: int) -> None:
        """Cut a file of lines back to a size in bytes."""
        path = self.directory / name
        lost = UserError(f"{path} has lost lines of an unfinished run: move {self.directory} away to run it again")
        with self.writing():
            try:
                with opened(path, "r+b") as file:
                    if os.fstat(file.fileno()).st_size < size:
                        raise lost
                    file.truncate(size)
            except FileNotFoundError:
                raise lost from None

    def cut_batches(self, size: int) -> set[Key]:
        """Cut batches.jsonl back; return the passes that stay."""
        self.cut(BATCHES, size)
        return set(read_order(self.directory / BATCHES))

    def size(self, name: str) -> int | None:
        """Return the size of a file of lines, synced to the disk."""
        with self.writing():
            try:
                with opened(self.directory / name, "r+b") as file:
                    os.fsync(file.fileno())
                    return os.fstat(file.fileno()).st_size
            except FileNotFoundError:
                return None

    def read(self, name: str) -> str:
        """Return the content of a text file."""
        with self.writing():
            return read_text(self.directory / name)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file as a whole."""
        with self.writing():
            write_atomic(self.directory / name, content)

    def line(self, name: str, content: Mapping[str, Any]) -> None:
        """Append one JSON object to a file of lines."""
        with self.writing(), opened(self.directory / name, "ab") as file:
            file.write((json.dumps(content) + "\n").encode())

    def continued(self, device: torch.device, code: Mapping[str, Any]) -> list[str]:
        """Add an entry to environment.json; return what has changed since the one before."""
        first: dict[str, Any] = {}
        with self.writing():
            try:
                first = read_environment(self.directory)
            except (FileNotFoundError, ValueError) as error:
                path = self.directory / ENVIRONMENT
                say(f"note: {path} is lost ({why(error)}): the record no longer says where this run was begun")
        now, earlier = environment(device), first.setdefault("continued", [])
        changed = differences(earlier[-1] if earlier else first, now)
        earlier.append({**now, "code": dict(code)})
        self.json(ENVIRONMENT, first)
        return changed


class SilentRecord(RecordWriter):
    """The record as a process sees it that shares a run and does not lead it: nothing is written or read."""

    def held(self, may_stop: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Keep nobody out."""
        return nullcontext()

    def writing(self) -> AbstractContextManager[None]:
        """Change nothing."""
        return nullcontext()

    def begin(self) -> None:
        """Do nothing."""

    def cut(self, name: str, size: int) -> None:
        """Do nothing."""

    def size(self, name: str) -> int | None:
        """Return None."""
        return None

    def read(self, name: str) -> str:
        """Return no text."""
        return ""

    def write(self, name: str, content: str | bytes) -> None:
        """Do nothing."""

    def line(self, name: str, content: Mapping[str, Any]) -> None:
        """Do nothing."""

    def continued(self, device: torch.device, code: Mapping[str, Any]) -> list[str]:
        """Return nothing."""
        return []

"""A folder of large results on disk that many runs use: checked when read, least recently used first to go.

An entry is two files named after its key: the data, and a seal with their checksum, which is written last. An entry
without a seal that fits is made again; nothing unverified is ever used.
"""

import json
import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

from filelock import FileLock, Timeout

from bench.core.files import remove_scratch, replacing, write_atomic

SPARE = 2**30
"""Bytes that are left free on the disk."""

WAIT = 2.0
"""Seconds after which a waiting run says that it waits for another one."""

PATIENCE = 3600.0
"""Seconds after which a waiting run continues without the other one."""

DAY = 24 * 3600.0
"""Seconds after which a file that nobody has finished writing belongs to a dead process."""

PART = ".part"
"""Ending of the name of a file that is still being filled."""

_BLOCK = 2**24


class _Entry(NamedTuple):
    """One entry on disk: when it was last used, its size in bytes, and its files."""

    used: float
    size: int
    data: Path
    seal: Path


class Filling:
    """The data of an entry while they are written.

    Parameters
    ----------
    file : BinaryIO
        Open for writing.

    Attributes
    ----------
    written : int
        Bytes so far.
    crc32 : int
        Checksum of them.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.written = 0
        self.crc32 = 0

    def write(self, block: bytes | memoryview) -> None:
        """Append some bytes.

        Parameters
        ----------
        block : bytes or memoryview
        """
        self.crc32 = zlib.crc32(block, self.crc32)
        self.written += self._file.write(block)


class DiskCache:
    """A folder of entries with a limit on their size.

    Parameters
    ----------
    folder : Path
        Created when the first entry is written.
    limit : int
        Bytes that all entries may take together.
    may_stop : callable, optional
        Called every second while this waits for another run; it may raise, where the run has been asked to stop.

    Attributes
    ----------
    SUFFIX : str
        Ending of the names of data files.
    VERSION : int
        Version of the content of data files; entries with another one are made again.
    IN_USE : float
        Seconds after its last use for which an entry is not removed to make room.
    """

    SUFFIX: ClassVar[str] = ".data"
    VERSION: ClassVar[int] = 1
    IN_USE: ClassVar[float] = 0.0

    def __init__(self, folder: Path, limit: int, may_stop: Callable[[], None] = lambda: None):
        self.folder = folder
        self.limit = limit
        self.may_stop = may_stop
        self._verified: set[tuple[str, int, int]] = set()

    @contextmanager
    def locked(self, key: str, waiting: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
        """While open, keep other runs away from an entry; without a lock where the file system has none.

        A read-only folder has none either. Entries replace each other as a whole, so the worst that can happen then is
        that two runs make the same one.

        Parameters
        ----------
        key : str
            Of the entry.
        waiting : callable, optional
            Called once, with the name of the holder, if another run holds the lock for longer than `WAIT` seconds.
        """
        lock = FileLock(self.folder / f"{key}.lock")
        holder = self.folder / f"{key}.holder"
        try:
            held = self._acquire(lock, holder, waiting)
        except (OSError, NotImplementedError):
            held = False
        try:
            if held:
                with suppress(OSError):
                    write_atomic(holder, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            if held:
                with suppress(OSError):
                    holder.unlink()
                lock.release()

    def _acquire(self, lock: FileLock, holder: Path, waiting: Callable[[str], None]) -> bool:
        """Take a lock; return False after `PATIENCE` seconds, since an entry that two runs make does no harm."""
        start, reported = time.monotonic(), False
        while True:
            try:
                lock.acquire(timeout=min(WAIT, 1.0))
                return True
            except Timeout:
                self.may_stop()
            waited = time.monotonic() - start
            if waited >= PATIENCE:
                return False
            if waited >= WAIT and not reported:
                reported = True
                try:
                    name = holder.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError):
                    name = "another process"
                waiting(name)

    def find(self, key: str, **facts: Any) -> Path | None:
        """Return the data file of an entry, after verifying it, and mark the entry as used.

        Parameters
        ----------
        key : str
            Of the entry.
        **facts
            What its seal must say besides.

        Returns
        -------
        Path or None
            None if there is no such entry, or it is damaged.
        """
        data, seal = self._paths(key)
        try:
            content = json.loads(seal.read_text(encoding="utf-8"))
            with suppress(PermissionError):  # the folder may belong to somebody else
                os.utime(seal)  # before the checksum, which may take long: what is in use is not removed
            status = data.stat()
            if any(content[name] != value for name, value in {"version": self.VERSION, "key": key, **facts}.items()):
                return None
            stamp = (key, status.st_ino, status.st_mtime_ns)
            if stamp not in self._verified and _checksum(data) != content["crc32"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._verified.add(stamp)
        return data

    @contextmanager
    def filling(self, key: str, size: int, **facts: Any) -> Iterator[Filling | None]:
        """Write an entry; it exists when the block has ended, and leaves nothing behind when the block raises.

        Parameters
        ----------
        key : str
            Of the entry.
        size : int
            Bytes of its data.
        **facts
            For its seal: plain values that `find` compares.

        Yields
        ------
        Filling or None
            None if there is no room for it.

        Raises
        ------
        ValueError
            If more or fewer bytes were written.
        OSError
            If the disk is full or cannot be written to.
        """
        with ExitStack() as stack:
            with self.locked("room"):  # one run at a time: what the others are about to fill counts as taken
                file = self._reserve(key, size, stack)
            if file is None:
                yield None
                return
            filling = Filling(file)
            yield filling
            if filling.written != size:
                raise ValueError(f"{filling.written} bytes were written to an entry of {size} bytes")
            seal = self._paths(key)[1]
            seal.unlink(missing_ok=True)
        write_atomic(seal, json.dumps({"version": self.VERSION, "key": key, **facts, "crc32": filling.crc32}))

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}{self.SUFFIX}", self.folder / f"{key}.json"

    def _reserve(self, key: str, size: int, stack: ExitStack) -> BinaryIO | None:
        """Return a file of the size of an entry, which becomes its data when the stack closes; None without room."""
        if not self._make_room(key, size):
            return None
        file = stack.enter_context(replacing(self._paths(key)[0], ending=PART))
        file.truncate(size)
        return file

    def _make_room(self, key: str, size: int) -> bool:
        """Remove the least recently used entries until `size` bytes fit; if they cannot, remove none, return False."""
        now = time.time()
        entries = self._entries(key)
        removable = [entry for entry in entries if not self.IN_USE or now - entry.used >= self.IN_USE]
        taken = self._being_written(now) + sum(entry.size for entry in entries)
        free = shutil.disk_usage(self.folder).free - SPARE
        missing = size - min(self.limit - taken, free)
        if missing > sum(entry.size for entry in removable):
            return False
        for entry in removable:
            if missing <= 0:
                break
            entry.seal.unlink(missing_ok=True)
            entry.data.unlink(missing_ok=True)
            missing -= entry.size
        return True

    def _entries(self, key: str) -> list[_Entry]:
        """Return all entries, the least recently used first; one of the given key, which is damaged, is removed."""
        entries = []
        for data in self.folder.glob(f"*{self.SUFFIX}"):
            with suppress(OSError):
                if data.name == f"{key}{self.SUFFIX}":
                    data.unlink()
                    continue
                seal = data.with_suffix(".json")
                used = (seal if seal.exists() else data).stat().st_mtime
                entries.append(_Entry(used, data.stat().st_size, data, seal))
        return sorted(entries)

    def _being_written(self, now: float) -> int:
        """Return the bytes that other runs are about to fill, after removing what dead ones left."""
        remove_scratch(self.folder, unused_for=DAY)
        taken = 0
        for part in self.folder.glob(f"*{PART}"):
            with suppress(OSError):
                status = part.stat()
                if now - status.st_mtime > DAY:
                    part.unlink()
                else:
                    taken += status.st_size
        return taken


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc

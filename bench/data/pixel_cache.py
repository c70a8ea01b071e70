"""Decoded images on disk: each set is decoded and resized once, and mapped into memory by every later pass and run.

An entry is two files named after a key: the pixels, and a seal with their length and checksum that is written last.
An entry without a seal, or that does not match it, is made anew; nothing unverified is ever used.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from bench.core.files import remove_scratch, replacing, write_atomic

VERSION = 1
"""Of the layout of an entry; others are made anew."""

IN_USE = 24 * 3600
"""Seconds for which an entry is taken to be in use after it was last opened, and not removed to make room."""

SPARE = 2**30
"""Bytes that are left free on the disk."""

WAIT = 2.0
"""Seconds after which a run says that it waits for another one that decodes the same images."""

WORTH_TELLING = 10**8
"""Bytes from which on the user is told that a set is being decoded and stored."""

PART = ".part"
"""Ending of the name of a file that is being filled with pixels."""

_BLOCK = 2**24


class PixelCache:
    """A folder of decoded image sets.

    Parameters
    ----------
    folder : Path
        Made when the first set is stored.
    limit : int
        Bytes that all entries may take together; the longest unused ones make room.
    say : callable
        Is told, in one sentence, of what takes long or cannot be done.

    Attributes
    ----------
    trouble : bool
        True once the folder could not be written to; no further set is stored then.
    """

    def __init__(self, folder: Path, limit: int, say: Callable[[str], None]):
        self.folder = folder
        self.limit = limit
        self.say = say
        self.trouble = False
        self._verified: set[tuple[str, int, int]] = set()

    def get(self, key: str, shape: tuple[int, ...], decode: Callable[[], Iterable[np.ndarray]]) -> np.ndarray | None:
        """The pixels of a set, mapped into memory; decoded and stored first if they are not there.

        Several runs may ask for one set at once: one decodes, the others wait for it.

        Parameters
        ----------
        key : str
            Identifies the images and the transform.
        shape : tuple of int
            Of the uint8 result.
        decode : callable
            Yields the result in consecutive parts along the first axis.

        Returns
        -------
        uint8 array of that shape, or None
            None if it cannot be stored: too large for the limit or the disk, or the folder cannot be written to.
        """
        size = int(np.prod(shape))
        if self.trouble:
            return None
        if size > self.limit:
            self._no_room(shape)
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(key, shape):
                found = self._open(key, shape)
                if found is not None:
                    return found
                with ExitStack() as filling:
                    # One run at a time takes room: what the others are about to fill is already counted.
                    with self._lock("room", shape):
                        file = self._reserve(key, size, filling)
                    if file is None:
                        self._no_room(shape)
                        return None
                    if size > WORTH_TELLING:
                        self.say(f"decoding {shape[0]} images once, into {self.folder} ({size / 1e9:.1f} GB)")
                    crc = self._fill(file, shape, decode())
                    self._paths(key)[1].unlink(missing_ok=True)
                seal = json.dumps({"version": VERSION, "shape": list(shape), "crc32": crc})
                write_atomic(self._paths(key)[1], seal)
                return self._open(key, shape)
        except OSError as error:
            self.trouble = True
            self.say(
                f"note: decoded images cannot be kept in {self.folder} ({error.strerror or error}): set cache.dir to a "
                "folder with room, or cache.gb=0"
            )
            return None

    def _no_room(self, shape: tuple[int, ...]) -> None:
        self.say(
            f"note: no room for {shape[0]} decoded images ({np.prod(shape) / 1e9:.1f} GB) in {self.folder}: every pass "
            "decodes them anew; raise cache.gb or set cache.dir to a folder with room"
        )

    # ---- one entry

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.pixels", self.folder / f"{key}.json"

    def _open(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """A verified entry, or None."""
        pixels, seal = self._paths(key)
        try:
            told = json.loads(seal.read_text(encoding="utf-8"))
            with suppress(PermissionError):  # a folder of somebody else's may be read
                os.utime(seal)  # before the checksum, which may take long: what is in use is not removed
            status = pixels.stat()
            stamp = (key, status.st_ino, status.st_mtime_ns)
            if told["version"] != VERSION or tuple(told["shape"]) != shape or status.st_size != int(np.prod(shape)):
                return None
            if stamp not in self._verified and _checksum(pixels) != told["crc32"]:
                return None
            # Copy on write: what a caller does to the array never reaches the file.
            found = np.memmap(pixels, dtype=np.uint8, mode="c", shape=shape)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._verified.add(stamp)
        return found

    def _reserve(self, key: str, size: int, filling: ExitStack) -> BinaryIO | None:
        """Return a file of the size of an entry, whose pixels it becomes when ``filling`` closes; None without room."""
        if not self._make_room(key, size):
            return None
        file = filling.enter_context(replacing(self._paths(key)[0], ending=PART))
        file.truncate(size)
        return file

    def _fill(self, file: BinaryIO, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> int:
        """Write the pixels of a set; return their checksum."""
        crc = written = 0
        for part in parts:
            block = np.ascontiguousarray(part, dtype=np.uint8).data.cast("B")
            crc = zlib.crc32(block, crc)
            written += file.write(block)
        if written != int(np.prod(shape)):
            raise ValueError(f"{written} bytes were decoded for an array of shape {shape}")
        return crc

    # ---- the folder

    @contextmanager
    def _lock(self, key: str, shape: tuple[int, ...]) -> Iterator[None]:
        lock, held = FileLock(self.folder / f"{key}.lock"), True
        try:
            lock.acquire(timeout=WAIT)
        except Timeout:
            self.say(f"another run decodes the same {shape[0]} images: waiting for it")
            lock.acquire()
        except (OSError, NotImplementedError):
            # A read-only folder, or a file system without locks: entries are put in place whole, so the worst that
            # can happen is that two runs decode the same images.
            held = False
        try:
            yield
        finally:
            if held:
                lock.release()

    def _make_room(self, key: str, size: int) -> bool:
        """Remove what was not used for longest until `size` bytes fit; False if they cannot."""
        now, taken = time.time(), 0
        remove_scratch(self.folder, unused_for=IN_USE)
        for scratch in self.folder.glob(f"*{PART}"):
            with suppress(OSError):
                status = scratch.stat()
                if now - status.st_mtime > IN_USE:
                    scratch.unlink()
                else:
                    taken += status.st_size
        entries = []
        for pixels in self.folder.glob("*.pixels"):
            with suppress(OSError):
                if pixels.stem == key:  # damaged, and about to be replaced
                    pixels.unlink()
                    continue
                seal = pixels.with_suffix(".json")
                used = (seal if seal.exists() else pixels).stat().st_mtime
                entries.append((used, pixels.stat().st_size, pixels, seal))
        entries.sort()
        taken += sum(entry[1] for entry in entries)
        free = shutil.disk_usage(self.folder).free - SPARE
        while taken + size > self.limit or size > free:
            if not entries or now - entries[0][0] < IN_USE:
                return False
            _, bytes_, pixels, seal = entries.pop(0)
            seal.unlink(missing_ok=True)
            pixels.unlink(missing_ok=True)
            taken, free = taken - bytes_, free + bytes_
        return True


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc

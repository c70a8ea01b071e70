"""Decoded images on disk: each set is decoded and resized once, and mapped into memory by every later pass and run."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.data.disk_cache import DAY, DiskCache

WORTH_SAYING = 10**8
"""Size of a set in bytes from which on the user is told that it is being decoded and stored."""


class PixelCache(DiskCache):
    """A folder of decoded image sets.

    Parameters
    ----------
    folder : Path
        Created when the first set is stored.
    limit : int
        Bytes that all entries may take together; the least recently used ones make room.
    say : callable
        Called with one sentence about what takes long or cannot be done.
    may_stop : callable, optional
        As for `DiskCache`.

    Attributes
    ----------
    trouble : bool
        True once the folder could not be written to; no further set is stored then.
    """

    SUFFIX: ClassVar[str] = ".pixels"
    IN_USE: ClassVar[float] = DAY  # other runs may have it mapped into their memory

    def __init__(
        self, folder: Path, limit: int, say: Callable[[str], None], may_stop: Callable[[], None] = lambda: None
    ):
        super().__init__(folder, limit, may_stop)
        self.say = say
        self.trouble = False

    def get(self, key: str, shape: tuple[int, ...], decode: Callable[[], Iterable[np.ndarray]]) -> np.ndarray | None:
        """Return the pixels of a set, mapped into memory; decode and store them first if they are not there.

        Several runs may ask for one set at once: one decodes, the others wait for it.

        Parameters
        ----------
        key : str
            Identifies the images and the transform.
        shape : tuple of int
            Shape of the uint8 result.
        decode : callable
            Takes nothing and yields the result in consecutive parts along the first axis.

        Returns
        -------
        uint8 array of that shape, or None
            What a caller writes to it never reaches the file. None if it cannot be stored: too large for the limit or
            the disk, or the folder cannot be written to.
        """
        if self.trouble:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.locked(
                key, lambda holder: self.say(f"{holder} decodes the same {shape[0]} images: waiting for it")
            ):
                return self._open(key, shape) if self._stored(key, shape, decode) else None
        except OSError as error:
            self.trouble = True
            self.say(
                f"note: decoded images cannot be kept in {self.folder} ({error.strerror or error}): set cache.dir to a "
                "folder with room, or cache.gb=0"
            )
            return None

    def _stored(self, key: str, shape: tuple[int, ...], decode: Callable[[], Iterable[np.ndarray]]) -> bool:
        """Decode and store a set unless it is there; return whether it is there now."""
        if self.find(key, shape=list(shape)) is not None:
            return True
        size = int(np.prod(shape))
        with self.filling(key, size, shape=list(shape)) as filling:
            if filling is None:
                self.say(
                    f"note: no room for {shape[0]} decoded images ({size / 1e9:.1f} GB) in {self.folder}: every pass "
                    "decodes them again; raise cache.gb or set cache.dir to a folder with room"
                )
                return False
            if size > WORTH_SAYING:
                self.say(f"decoding {shape[0]} images once, into {self.folder} ({size / 1e9:.1f} GB)")
            for part in decode():
                filling.write(np.ascontiguousarray(part, dtype=np.uint8).data.cast("B"))
        return True

    def _open(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return a verified entry as an array, or None."""
        path = self.find(key, shape=list(shape))
        return None if path is None else np.memmap(path, dtype=np.uint8, mode="c", shape=shape)

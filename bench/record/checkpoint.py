"""Checkpoint files: whole or absent, checked when read, and no more of them than are needed.

A file holds tensors and plain values in the safetensors format, which is read without executing anything. Its name has
a running number and a hash of its content: ``000012-task.a1b2....safetensors``. A ``task`` file is complete; a ``step``
file, written inside a task, builds on the newest complete one and is used together with that one only.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

VERSION = 2
"""Of the content of checkpoints; a file with another version cannot be continued."""

NAME = re.compile(r"(\d{6})-(task|step)\.([0-9a-f]{32})\.safetensors")

KEPT = 2
"""Files kept of each sort: the newest may turn out to be damaged."""


@dataclass(frozen=True)
class Saved:
    """The content of one checkpoint file.

    Attributes
    ----------
    number : int
        Running number.
    base : int or None
        Number of the complete file that it builds on; None for a complete one.
    values : dict of str to object
        Plain values.
    tensors : dict of str to Tensor
    """

    number: int
    base: int | None
    values: dict[str, Any]
    tensors: dict[str, Tensor]


def pack(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> bytes:
    """A safetensors file with plain values in its header.

    Each tensor is copied into memory of its own: safetensors takes neither views nor tensors that share memory.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(copies, {"values": json.dumps(values)})


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack` packed.

    Raises
    ------
    ValueError
        If the bytes are no such file.
    """
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        values = json.loads(header["__metadata__"]["values"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no packed tensors and values: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("no packed tensors and values")
    return tensors, values


def write_durable(path: Path, content: bytes) -> None:
    """Write a file so that after a crash of the program or the machine there is all of it, or what was there before."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Checkpoints:
    """The checkpoint files of one run.

    Parameters
    ----------
    folder : Path
        Created with the first file.
    every : float or None
        Minutes between two files inside a task; None for none there.
    say : callable
        Tells the user one sentence.
    """

    def __init__(self, folder: Path, every: float | None, say: Callable[[str], None]):
        self.folder = folder
        self.every = every
        self.say = say
        self._base: int | None = None
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a file inside a task."""
        return self.every is not None and time.monotonic() - self._written >= 60 * self.every

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], complete: bool) -> None:
        """Write a file, then remove those that are no longer needed.

        Parameters
        ----------
        complete : bool
            Whether it stands alone; otherwise it builds on the newest complete one.

        Raises
        ------
        OSError
            If it cannot be written; what was written before is untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max((file.number for file in self._files()), default=0) + 1
        base = None if complete else self._base
        content = pack(tensors, {**values, "version": VERSION, "base": base})
        sort, digest = "task" if complete else "step", digest_of(content)
        write_durable(self.folder / f"{number:06d}-{sort}.{digest}.safetensors", content)
        if complete:
            self._base = number
        self._prune(sort)
        self._written = time.monotonic()

    def load(self) -> list[Saved]:
        """The state to continue from: nothing, a complete file, or a complete one and one that builds on it.

        The newest files that are whole are taken; damaged ones are told to the user and passed over.
        """
        base = self._newest("task", lambda found: True)
        if base is None:
            return []
        self._base = base.number
        step = self._newest("step", lambda found: found.base == base.number)
        return [base] if step is None else [base, step]

    def clear(self) -> None:
        """Remove all files of the run."""
        for path in [file.path for file in self._files()] + list(self.folder.glob("*.safetensors.tmp")):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list["_File"]:
        """Every file, in order; whatever else lies in the folder is not ours."""
        names = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        matches = [(path, NAME.fullmatch(path.name)) for path in names]
        return [_File(int(match[1]), match[2], match[3], path) for path, match in matches if match]

    def _newest(self, sort: str, wanted: Callable[[Saved], bool]) -> Saved | None:
        for file in reversed(self._files()):
            if file.sort != sort:
                continue
            try:
                content = file.path.read_bytes()
                if digest_of(content) != file.digest:
                    raise ValueError("its content does not fit its checksum")
                tensors, values = unpack(content)
            except (OSError, ValueError) as error:
                self.say(f"note: the checkpoint {file.path} is damaged and passed over ({error})")
                continue
            found = Saved(file.number, values.get("base"), values, tensors)
            if wanted(found):
                return found
        return None

    def _prune(self, written: str) -> None:
        """Keep the newest files; those that build on a complete one go when the next complete one is there."""
        files = self._files()
        for sort in ("task", "step"):
            there = [file for file in files if file.sort == sort]
            for file in there if written == "task" and sort == "step" else there[:-KEPT]:
                file.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _File:
    number: int
    sort: str
    digest: str
    path: Path


def digest_of(content: bytes) -> str:
    """The part of a hash of some content that file names carry."""
    return hashlib.sha256(content).hexdigest()[:32]

"""Checkpoint files: complete or absent, checked when read, and no more of them than are needed.

A file holds tensors and plain values in the safetensors format, which is read without executing anything. Its name has
a running number and a hash of its content: ``000012-task.a1b2....safetensors``. A ``task`` file is complete; a ``step``
file, written inside a task, builds on the newest complete one and is used together with that one only.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import make_folder, remove_scratch, write_atomic
from bench.core.untrusted import NotPlain, check_folder, check_plain, opened, parse_json, read_file, why

VERSION = 2
"""The version of the content of checkpoints; a run cannot continue from a file with another one."""

NAME = re.compile(r"(\d{6,12})-(task|step)\.([0-9a-f]{32})\.safetensors", re.ASCII)

KEPT = 2
"""Files kept of each kind: the newest may turn out to be damaged."""


CHUNK = 2**22
"""Bytes that are hashed at a time."""


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
    """Return the content of a safetensors file with plain values in its header.

    Each tensor is copied into memory of its own: safetensors takes neither views nor tensors that share memory.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        On any device.
    values : mapping of str to object
        What JSON can hold.

    Returns
    -------
    bytes
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(copies, {"values": json.dumps(values)})


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `pack` packed: tensors, which are on the CPU, and plain values.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    tensors : dict of str to Tensor
    values : dict of str to object

    Raises
    ------
    ValueError
        If `pack` did not make the bytes.
    """
    try:
        tensors = load(content)
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        values = parse_json(header["__metadata__"]["values"])
        check_plain(values, finite=False)  # a method may report a figure that is not
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no packed tensors and values: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("no packed tensors and values")
    return tensors, values


class Checkpoints:
    """The checkpoint files of one run.

    Parameters
    ----------
    folder : Path
        Created with the first file.
    every : float or None
        Minutes between two files inside a task; None for none there.
    say : callable
        Takes one sentence for the user.
    leads : bool, optional
        Whether this process writes. If not, it only loads.
    """

    def __init__(self, folder: Path, every: float | None, say: Callable[[str], None], leads: bool = True):
        self.folder = folder
        self.every = every
        self.say = say
        self.leads = leads
        self._base: int | None = None
        self._written = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time for a file inside a task."""
        return self.leads and self.every is not None and time.monotonic() - self._written >= 60 * self.every

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], complete: bool) -> None:
        """Write a file, then remove those that are no longer needed.

        Parameters
        ----------
        tensors : mapping of str to Tensor
        values : mapping of str to object
            What JSON can hold.
        complete : bool
            Whether it stands alone; otherwise it builds on the newest complete one.

        Raises
        ------
        OSError
            If it cannot be written; what was written before is untouched.
        """
        if not self.leads:
            return
        check_folder(self.folder)
        make_folder(self.folder)
        remove_scratch(self.folder)
        number = max((file.number for file in self._files()), default=0) + 1
        base = None if complete else self._base
        content = pack(tensors, {**values, "version": VERSION, "base": base})
        kind, digest = "task" if complete else "step", digest_of(content)
        write_atomic(self.folder / f"{number:06d}-{kind}.{digest}.safetensors", content)
        if complete:
            self._base = number
        self._prune(kind)
        self._written = time.monotonic()

    def load(self) -> list[Saved]:
        """Return the state to continue from, from the newest files that are not damaged.

        The user learns of damaged files, which are not used.

        Returns
        -------
        list of Saved
            Empty, a complete file, or a complete one and one that builds on it.

        Raises
        ------
        UserError
            If there may be a state to continue from which cannot be read.
        """
        base = self._newest("task", lambda saved: True)
        if base is None:
            return []
        self._base = base.number
        step = self._newest("step", lambda saved: saved.base == base.number)
        return [base] if step is None else [base, step]

    def clear(self) -> None:
        """Remove all files of the run."""
        if not self.leads:
            return
        for file in self._files():
            file.path.unlink()
        remove_scratch(self.folder)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[_File]:
        """Return every checkpoint, in order; whatever else lies in the folder is not ours."""
        check_folder(self.folder)
        try:
            matches = [(path, NAME.fullmatch(path.name)) for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(_File(int(match[1]), match[2], match[3], path) for path, match in matches if match)

    def _newest(self, kind: str, wanted: Callable[[Saved], bool]) -> Saved | None:
        for file in reversed(self._known()):
            if file.kind != kind:
                continue
            try:
                if _digest_of_file(file.path) != file.digest:
                    raise ValueError("its content does not fit its checksum")
                tensors, values = unpack(read_file(file.path))
            except (NotPlain, ValueError) as error:
                self.say(f"note: the checkpoint {file.path} is damaged and skipped ({why(error)})")
                continue
            except OSError as error:
                raise self._unreadable(file.path, error) from error
            saved = Saved(file.number, values.get("base"), values, tensors)
            if wanted(saved):
                return saved
        return None

    def _known(self) -> list[_File]:
        try:
            return self._files()
        except OSError as error:
            raise self._unreadable(self.folder, error) from error

    def _unreadable(self, path: Path, error: OSError) -> UserError:
        return UserError(
            f"{path}, from which an unfinished run may be continued, cannot be read ({why(error)}): make it readable, "
            f"or move {self.folder.parent} away to run again"
        )

    def _prune(self, written: str) -> None:
        """Keep the newest files; those that build on a complete one go when the next complete one is there."""
        files = self._files()
        for kind in ("task", "step"):
            known = [file for file in files if file.kind == kind]
            for file in known if written == "task" and kind == "step" else known[:-KEPT]:
                file.path.unlink(missing_ok=True)


@dataclass(frozen=True, order=True)
class _File:
    number: int
    kind: str
    digest: str
    path: Path


def digest_of(content: bytes) -> str:
    """Return the part of a hash of some content that file names carry: 32 hex digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:32]


def _digest_of_file(path: Path) -> str:
    """Return `digest_of` the content of a file, which may be larger than the memory."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()[:32]

"""Results that runs of a sweep have in common, computed once on a machine and kept on disk under what they depend on.

What a key says, the machine and the code decide a result to the bit, so that taking it from here changes nothing but
the time. What it took to compute is kept with it and told.
"""

import hashlib
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

import bench
from bench.compute.device import processor
from bench.config.registry import FOLDERS
from bench.core.files import remove_scratch, write_atomic
from bench.record.checkpoint import digest_of, pack, unpack

Compute = Callable[[], dict[str, Tensor]]


class Shared:
    """A folder of results.

    Parameters
    ----------
    folder : Path
        Made when the first result is kept.
    limit : int
        Bytes that all of them may take; the longest unused ones make room, and one larger than a quarter is not kept.
    place : mapping
        What of machine, device and code decides the bits: `place_of`.
    reused : callable
        Told the name of a result that was taken from here, and the seconds that computing it took.
    """

    def __init__(self, folder: Path, limit: int, place: Mapping[str, Any], reused: Callable[[str, float], None]):
        self.folder = folder
        self.limit = limit
        self.place = dict(place)
        self.reused = reused

    def get(self, name: str, key: Any, compute: Compute) -> dict[str, Tensor]:
        """A result: from here, or computed and kept. Of several runs that want one at once, one computes it.

        Parameters
        ----------
        name : str
            What it is, as in ``weight subspace``.
        key : object
            All that it depends on, of plain values.
        compute : callable
            Gives tensors by name.
        """
        content = json.dumps([name, key, self.place], sort_keys=True)
        stem = hashlib.sha256(content.encode()).hexdigest()[:32]
        lock = FileLock(self.folder / f"{stem}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, NotImplementedError):  # a folder that cannot be written to, or no locks there
            return compute()
        try:
            kept = self._read(stem)
            if kept is not None:
                tensors, seconds = kept
                self.reused(name, seconds)
                return tensors
            start = time.perf_counter()
            # As it will come from the disk: the last bits of a product depend on the strides of its factors.
            found = {part: tensor.contiguous() for part, tensor in compute().items()}
            with suppress(OSError):
                self._write(stem, pack(found, {"seconds": time.perf_counter() - start}))
            return found
        finally:
            lock.release()

    def _read(self, stem: str) -> tuple[dict[str, Tensor], float] | None:
        for path in self.folder.glob(f"{stem}.*.safetensors"):
            with suppress(OSError, ValueError, KeyError):
                content = path.read_bytes()
                if path.name.split(".")[1] == digest_of(content):
                    tensors, values = unpack(content)
                    with suppress(OSError):
                        os.utime(path)
                    return tensors, float(values["seconds"])
            with suppress(OSError):
                path.unlink()  # damaged
        return None

    def _write(self, stem: str, content: bytes) -> None:
        if len(content) > self.limit / 4:
            return
        remove_scratch(self.folder, unused_for=24 * 3600)
        entries = sorted(
            (path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("*.safetensors")
        )
        taken = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if taken + len(content) <= self.limit:
                break
            path.unlink(missing_ok=True)
            taken -= size
        write_atomic(self.folder / f"{stem}.{digest_of(content)}.safetensors", content, durable=True)


def place_of(device: torch.device) -> dict[str, Any]:
    """What of machine, device and the suite's code decides the bits of a result."""
    return {
        "torch": torch.__version__,
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "code": _code(),
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of the suite's own files."""
    plugins = (importlib.import_module(f"bench.{name}") for name in FOLDERS)
    folders = {Path(bench.__file__).parent, *(Path(place) for package in plugins for place in package.__path__)}
    digest = hashlib.sha256()
    for folder in sorted(folders):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

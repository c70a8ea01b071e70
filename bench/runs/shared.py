"""Results that runs of a sweep have in common, computed once on a machine and cached on disk.

The key of a result, the machine and the code decide it to the bit, so that taking it from the cache changes nothing but
the time. The time that computing it took is stored with it, and reported.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.compute.device import processor
from bench.core.code import code_sha256
from bench.data.disk_cache import DiskCache
from bench.record.checkpoint import pack, unpack
from bench.record.provenance import PACKAGES, suite_sha256, versions

Compute = Callable[[], dict[str, Tensor]]

LARGEST = 4
"""A result that takes more than this part (a quarter) of the limit is not stored."""


class ResultCache(DiskCache):
    """A folder of results.

    Parameters
    ----------
    folder : Path
        Created when the first result is stored.
    limit : int
        Bytes that all results may take together; the least recently used ones make room.
    environment : mapping of str to object
        What decides the bits of results besides their keys: `environment_of`.
    reused : callable
        Called with the name of a result that was taken from the cache, and the seconds that computing it took.
    say : callable, optional
        Called with one sentence where this waits for another run.
    may_stop : callable, optional
        As for `DiskCache`.
    """

    SUFFIX: ClassVar[str] = ".safetensors"

    def __init__(
        self,
        folder: Path,
        limit: int,
        environment: Mapping[str, Any],
        reused: Callable[[str, float], None],
        say: Callable[[str], None] = print,
        may_stop: Callable[[], None] = lambda: None,
    ):
        super().__init__(folder, limit, may_stop)
        self.say = say
        self.environment = dict(environment)
        self.reused = reused

    def get(self, name: str, key: Any, compute: Compute) -> dict[str, Tensor]:
        """Return a result from the cache, or compute and store it.

        If several runs need the same result at once, one computes it and the others wait.

        Parameters
        ----------
        name : str
            What it is, such as ``weight subspace``.
        key : object
            Everything that it depends on, as plain values that JSON can hold.
        compute : callable
            Takes nothing and returns tensors by name.

        Returns
        -------
        dict of str to Tensor
            On the CPU if it was taken from the cache.
        """
        content = json.dumps([name, key, self.environment], sort_keys=True)
        stem = hashlib.sha256(content.encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return compute()
        with self.locked(stem, lambda holder: self.say(f"{holder} computes the same {name}: waiting for it")):
            stored = self._read(stem)
            if stored is not None:
                tensors, seconds = stored
                self.reused(name, seconds)
                return tensors
            start = time.perf_counter()
            # As it will be after reading: the last bits of a product depend on the strides of its factors.
            tensors = {part: tensor.contiguous() for part, tensor in compute().items()}
            with suppress(OSError):
                self._write(stem, pack(tensors, {"seconds": time.perf_counter() - start}))
            return tensors

    def _read(self, stem: str) -> tuple[dict[str, Tensor], float] | None:
        """Return a stored result and the seconds that it took; None if there is none."""
        with suppress(OSError, ValueError, KeyError):
            path = self.find(stem)
            if path is not None:
                tensors, values = unpack(path.read_bytes())
                return tensors, float(values["seconds"])
        return None

    def _write(self, stem: str, content: bytes) -> None:
        """Store a result, if there is room."""
        if len(content) > self.limit / LARGEST:
            return
        with self.filling(stem, len(content)) as filling:
            if filling is not None:
                filling.write(content)


def environment_of(device: torch.device, model: type | None) -> dict[str, Any]:
    """Return what decides the bits of a result besides its key.

    Parameters
    ----------
    device : torch.device
    model : type or None
        Class of a model that is a plug-in: its forward pass is code.

    Returns
    -------
    dict of str to object
        Versions of the libraries that compute, machine, device, threads, hashes of the suite's and the model's code.
    """
    return {
        "packages": versions(PACKAGES),
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "code": suite_sha256(),
        "model": code_sha256(model) if model is not None else "",
    }

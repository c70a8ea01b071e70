"""Random numbers: one generator for each (seed, purpose, task), so that one draw more never shifts another's."""

from __future__ import annotations

import hashlib

from bench.core.lazy import torch


def derived_seed(seed: int, purpose: str, task: int = 0, epoch: int = 0) -> int:
    """Return a 63-bit seed that depends on all four arguments and on nothing else.

    Parameters
    ----------
    seed : int
        The run's seed for this kind of randomness (``seeds.task_order``, ``seeds.data_order`` or ``seeds.init``).
    purpose : str
        What is drawn, for example ``"train"`` or ``"lora"``.
    task, epoch : int, optional
        Index of the task and of the pass over its data.

    Returns
    -------
    int
        From 0 to 2^63 - 1.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{task}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, task: int = 0, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator seeded with `derived_seed`.

    Move what it draws to the device, so that all devices use the same numbers.

    Parameters
    ----------
    seed : int
        The run's seed for this kind of randomness.
    purpose : str
        What is drawn.
    task, epoch : int, optional
        Index of the task and of the pass over its data.

    Returns
    -------
    torch.Generator
    """
    return torch.Generator().manual_seed(derived_seed(seed, purpose, task, epoch))

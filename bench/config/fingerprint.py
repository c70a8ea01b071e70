"""Which settings decide the numbers of a run, and the name of its folder, which is made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config.run_settings import CHOICES, Resolved
from bench.core.paths import user_path

ELSEWHERE = {"out", "data", "device", "threads", "seed", "gate", "batches.record", "batches.replay"}
"""Settings that say where, on what and with which seed a run is made, not what it computes; so do `MIRRORS`."""


MIRRORS = ("track.", "cache.", "checkpoint.")


def decides(key: str) -> bool:
    """Whether a setting decides the numbers of a run, apart from its seed."""
    return key not in ELSEWHERE and not key.startswith(MIRRORS) and key not in {f"{kind}.file" for kind in CHOICES}


def fingerprint(flat: Mapping[str, Any]) -> str:
    """Return the ten hexadecimal digits that name a run's settings.

    Of the settings that do not decide the numbers (`decides`) the run's seed is in the folder's name; seeds that follow
    it are None in ``Resolved.flat`` and left out.
    """
    kept = {
        key: value
        for key, value in flat.items()
        if decides(key) and not (value is None and key.startswith(("seeds.", "batches.")))
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]


def run_directory(resolved: Resolved) -> Path:
    """Return the folder of a run: ``out/<stream>/<model>/<method>/<fingerprint>-s<seed>``."""
    run = resolved.run
    leaf = f"{fingerprint(resolved.flat)}-s{run.seed}"
    return user_path(run.out, "out") / run.stream / run.model.replace("/", "-") / run.method / leaf

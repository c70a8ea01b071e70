"""Which settings decide the numbers of a run, and the name of its folder, which is made from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config.run_settings import CHOICES, Resolved
from bench.core.paths import user_path

ELSEWHERE = {
    "out", "data", "device", "threads", "deterministic", "seed", "gate", "batches.record", "batches.replay",
    "reference.data",
}  # fmt: skip
"""Settings that say where, on what and with which seed a run is made, not what it computes."""

MIRRORS = ("track.", "cache.", "checkpoint.")
"""Groups of such settings."""

LATER: dict[str, Any] = {
    "deterministic": True,
    "evaluate.held_out": 0.1,
    "train.steps": None,
    "train.tasks": [],
    "train.betas": None,
    "train.eps": 1e-8,
    "train.lr_end": 0.0,
    "train.pct_start": 0.3,
    "train.milestones": [],
    "train.rate_per": "step",
    "train.label_smoothing": 0.0,
    "train.augment": "none",
    "evaluate.templates": [],
    "reference.name": None,
    "reference.images": None,
    "reference.sentences": None,
    "start": None,
}
"""Settings that are younger than the first records -> the value with which a run does what every run did before.

With this value they are no part of the fingerprint, so that older records keep their names; a record without them says
this value.
"""

SHARED_LATER: dict[str, Any] = {"stream.shuffle": False, "stream.probe": []}
"""What all streams of tasks to learn have had since then."""

LATER_OF: dict[tuple[str, str], dict[str, Any]] = {
    **{
        ("stream.name", name): {**SHARED_LATER, "stream.splits": "torchvision"}
        for name in ("mtil-order1", "mtil-order2", "mtil-fewshot")
    },
    **{("stream.name", name): {"stream.splits": "torchvision"} for name in ("mtil-agnostic", "mtil-split2")},
    ("stream.name", "xtail"): SHARED_LATER,
    **{("stream.name", f"cifar100-{n}"): {**SHARED_LATER, "stream.prompts": "single"} for n in (5, 10, 20)},
    **{("stream.name", name): SHARED_LATER for name in (*(f"imagenet-r-{n}" for n in (5, 10, 20)), "cub200-10")},
    **{("stream.name", name): {"stream.probe": []} for name in ("pocket", "pocket-tuning")},
    ("stream.name", "custom"): {
        **SHARED_LATER,
        "stream.split": None,
        "stream.split_seed": 0,
        "stream.shots": None,
        "stream.fewer": None,
    },
    ("method.name", "splitlora"): {"method.stat": "inputs"},
    ("method.name", "splitlora-faithful"): {"method.stat": "inputs"},
}
"""The same of the settings of one plug-in: the setting that names it, and its name."""


def later(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that are younger than the first records, with the values that meant as before.

    Parameters
    ----------
    flat : mapping of str to object
        Settings of a run or of a record by dotted key.

    Returns
    -------
    dict of str to object
    """
    added = dict(LATER)
    for (key, name), settings in LATER_OF.items():
        if flat.get(key) == name:
            added.update(settings)
    return added


def decides(key: str, flat: Mapping[str, Any] | None = None) -> bool:
    """Return whether a setting decides the numbers of a run, apart from its seed.

    Parameters
    ----------
    key : str
        Dotted.
    flat : mapping of str to object, optional
        All settings of the run: a path does not decide where the hash of what it leads to is among them.

    Returns
    -------
    bool
    """
    if flat is not None and f"{key}_sha256" in flat:
        return False
    return key not in ELSEWHERE and not key.startswith(MIRRORS) and key not in {f"{kind}.file" for kind in CHOICES}


def fingerprint(flat: Mapping[str, Any]) -> str:
    """Return the digits that name the settings of a run that decide its numbers.

    Parameters
    ----------
    flat : mapping of str to object
        ``Resolved.flat``. Seeds that follow the run's seed are None there and left out.

    Returns
    -------
    str
        Ten hexadecimal digits.
    """
    younger = later(flat)
    kept = {
        key: value
        for key, value in flat.items()
        if decides(key, flat)
        and not (value is None and key.startswith(("seeds.", "batches.")))
        and not (key in younger and value == younger[key])
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]


def run_directory(resolved: Resolved) -> Path:
    """Return the folder of a run: ``out/<stream>/<model>/<method>/<fingerprint>-s<seed>``.

    Parameters
    ----------
    resolved : Resolved

    Returns
    -------
    Path
    """
    run = resolved.run
    leaf = f"{fingerprint(resolved.flat)}-s{run.seed}"
    return user_path(run.out, "out") / run.stream / run.model.replace("/", "-") / run.method / leaf

"""Where a run comes from: hashes of data and code, revision of the code, machine, versions."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import bench
from bench.compute.device import processor
from bench.compute.world import world
from bench.config.fingerprint import fingerprint
from bench.config.registry import FOLDERS
from bench.config.run_settings import Resolved
from bench.core.code import code_sha256
from bench.core.lazy import torch
from bench.data.dataset_stream import ReferenceSet
from bench.data.stream import Stream, Task
from bench.record.flags import flags_of
from bench.record.schema import Identity, SettingValue

CODE = ("bench", *FOLDERS)
"""The folders of a checkout whose content is the code of a run."""

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "numpy",
    "omegaconf",
    "scikit-learn",
    "safetensors",
    "pillow",
)
"""Distributions whose versions environment.json records."""


def environment(device: torch.device) -> dict[str, Any]:
    """Return where and with what this process runs: the content of environment.json.

    Parameters
    ----------
    device : torch.device
        The device that it computes on.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "packages": versions(PACKAGES),
        "processes": world().size,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def data_identity(
    stream: Stream, tasks: Sequence[Task], reference: ReferenceSet | None = None, validation: bool = False
) -> dict[str, Any]:
    """Return those parts of `Identity` that say with which data a run is made.

    Parameters
    ----------
    stream : Stream
    tasks : sequence of Task
        Those of the stream, in order.
    reference : ReferenceSet, optional
    validation : bool, optional
        Whether the method chooses by the validation images of tasks.

    Returns
    -------
    dict of str to object
        ``label_space``, ``tasks``, ``manifests`` and ``prompts_sha256``; ``reference_sha256`` where there is one;
        ``validation_sha256`` where the method chooses by validation images.
    """
    measured = [*tasks, *stream.others]
    prompts = json.dumps({task.name: task.test_prompts for task in measured}, sort_keys=True)
    return {
        "label_space": stream.label_space + (", first of equal prompts" if stream.shared_prompts == "first" else ""),
        "tasks": [task.name for task in tasks],
        "manifests": {task.name: task.digest() for task in measured},
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
        **({} if reference is None else {"reference_sha256": reference.digest}),
        **({"validation_sha256": _validation(tasks)} if validation else {}),
    }


def _validation(tasks: Sequence[Task]) -> str:
    """Return a hash of the validation images of tasks and their labels."""
    digests = {task.name: task.validation.digest for task in tasks if task.validation is not None}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def code_identity(resolved: Resolved) -> dict[str, Any]:
    """Return those parts of `Identity` that say with which code a run is made.

    Parameters
    ----------
    resolved : Resolved

    Returns
    -------
    dict of str to object
        ``code_revision`` and ``plugins_sha256``.
    """
    plugins = {}
    for kind, cls in (
        ("method", resolved.method_class),
        ("stream", resolved.stream_class),
        ("model", resolved.model_class),
    ):
        if cls is not None and (digest := code_sha256(cls)):
            plugins[kind] = digest
    return {"code_revision": code_revision(), "plugins_sha256": plugins}


def identity_of(resolved: Resolved, command: Sequence[str], weights: str, data: Mapping[str, Any]) -> Identity:
    """Return what decides the numbers of a run.

    Parameters
    ----------
    resolved : Resolved
    command : sequence of str
        The words of the command line.
    weights : str
        Hash of the backbone's weights.
    data : mapping of str to object
        See `data_identity`.
    """
    flat = resolved.flat
    return Identity(
        fingerprint=fingerprint(flat),
        seed=resolved.run.seed,
        command=list(command),
        settings={key: SettingValue(flat[key], resolved.sources[key]) for key in sorted(flat)},
        seeds=dict(vars(resolved.run.seeds)),
        weights_sha256=weights,
        flags=flags_of(resolved.method_class, resolved.method_settings).held(),
        **data,
        **code_identity(resolved),
    )


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of distributions by name; those that are missing are left out."""
    return {name: version for name in names if (version := _version(name)) is not None}


@cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def suite_sha256() -> str:
    """Return a hash of all files of the suite's code, built-in plug-ins included, as they were at the first call."""
    plugins = (importlib.import_module(f"bench.{name}") for name in FOLDERS)
    folders = {Path(bench.__file__).parent, *(Path(folder) for package in plugins for folder in package.__path__)}
    digest = hashlib.sha256()
    for folder in sorted(folders):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what of the environment of a run has changed in a way that changes bits.

    Parameters
    ----------
    before, now : mapping
        As of `environment`.

    Returns
    -------
    list of str
        Such as ``threads 2 -> 4``.
    """
    found = []
    for key in ("processor", "device", "threads", "deterministic", "processes"):
        if key in before and before[key] != now[key]:
            found.append(f"{key} {before[key]} -> {now[key]}")
    packages = before.get("packages")
    if isinstance(packages, Mapping):
        names = sorted(
            name for name in {*packages, *now["packages"]} if packages.get(name) != now["packages"].get(name)
        )
        found += [f"{name} {packages.get(name, 'missing')} -> {now['packages'].get(name, 'missing')}" for name in names]
    return found


def code_revision() -> str:
    """Return the commit of the checkout that this package is in, with ``+changes`` if files differ from it.

    Outside a checkout it is ``keeplora-bench`` and the version.
    """
    folder = Path(bench.__file__).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            raise ValueError("installed below another project's checkout")
        return git("rev-parse", "HEAD") + (
            f"+changes-{suite_sha256()[:12]}" if git("status", "--porcelain", "--", *CODE) else ""
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"keeplora-bench {bench.__version__}"

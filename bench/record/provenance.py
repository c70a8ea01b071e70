"""Where a run comes from: hashes of data and code, revision of the code, machine, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bench
from bench.compute.device import processor
from bench.compute.world import world
from bench.config.fingerprint import fingerprint
from bench.config.registry import FOLDERS
from bench.config.run_settings import Resolved
from bench.core.files import file_sha256
from bench.core.lazy import torch
from bench.data.stream import Stream, Task
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
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "packages": versions(PACKAGES),
        "processes": world().size,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def data_identity(stream: Stream, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return those parts of `Identity` that say with which data a run is made.

    Parameters
    ----------
    stream : Stream
    tasks : sequence of Task
        Those of the stream, in order.

    Returns
    -------
    dict of str to object
        ``label_space``, ``tasks``, ``manifests`` and ``prompts_sha256``.
    """
    prompts = json.dumps({task.name: task.prompts for task in tasks}, sort_keys=True)
    return {
        "label_space": stream.label_space + (", first of equal prompts" if stream.shared_prompts == "first" else ""),
        "tasks": [task.name for task in tasks],
        "manifests": {task.name: task.digest() for task in tasks},
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
    }


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
        if cls is not None and (digest := file_sha256(cls)):
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
        **data,
        **code_identity(resolved),
    )


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of distributions by name; those that are missing are left out."""
    installed = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


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
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", *CODE) else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"keeplora-bench {bench.__version__}"

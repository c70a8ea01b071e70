"""Where a run comes from: hashes of data and code, revision, machine, versions."""

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
from bench.config.run_settings import Resolved
from bench.core.files import file_sha256
from bench.core.lazy import torch
from bench.data.stream import Stream, Task

CODE = ("bench", "methods", "datasets")
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


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a process runs."""
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
    """What of the data decides the numbers: order of tasks, label space, hashes of images, labels and prompts."""
    prompts = json.dumps({task.name: task.prompts for task in tasks}, sort_keys=True)
    return {
        "label_space": stream.label_space + (", first of equal prompts" if stream.shared_prompts == "first" else ""),
        "tasks": [task.name for task in tasks],
        "manifests": {task.name: task.digest() for task in tasks},
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
    }


def code_identity(resolved: Resolved) -> dict[str, Any]:
    """What of the code decides the numbers: the revision, and hashes of the plug-ins' own files."""
    plugins = {}
    for kind, cls in (
        ("method", resolved.method_class),
        ("stream", resolved.stream_class),
        ("model", resolved.model_class),
    ):
        if cls is not None and (digest := file_sha256(cls)):
            plugins[kind] = digest
    return {"code_revision": code_revision(), "plugins_sha256": plugins}


def identity(resolved: Resolved, command: Sequence[str], weights: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The content of identity.json: all that decides the numbers of a run.

    Parameters
    ----------
    weights : str
        Hash of the backbone's weights.
    data : mapping
        `data_identity`.
    """
    flat = resolved.flat
    return {
        "fingerprint": fingerprint(flat),
        "seed": resolved.run.seed,
        "command": list(command),
        "settings": {key: {"value": flat[key], "source": resolved.sources[key]} for key in sorted(flat)},
        "seeds": vars(resolved.run.seeds),
        "weights_sha256": weights,
        **data,
        **code_identity(resolved),
    }


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions of distributions; those that are missing are left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_revision() -> str:
    """The commit of the checkout that this package stands in, with ``+changes`` if it differs; else the version."""
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

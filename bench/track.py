"""The record of a run on disk: settings, identity, environment, events, matrix, summary."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import bench
from bench.config import Resolved, fingerprint
from bench.errors import UserError
from bench.task import Task

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


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new one, never a part."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def is_finished(directory: Path) -> bool:
    """Whether a run directory holds a finished run."""
    try:
        return json.loads((directory / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Record:
    """Writes the record of one run.

    Parameters
    ----------
    directory : Path
        Created if needed. Files of an unfinished attempt are replaced.

    Raises
    ------
    UserError
        If the directory cannot be written.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.event_file = directory / "metrics.jsonl"
            write_atomic(self.event_file, "")
        except OSError as error:
            raise unwritable(directory, error) from error

    def identity(self, resolved: Resolved, command: Sequence[str], weights: str, tasks: Sequence[Task]) -> None:
        """Write config.yaml, identity.json and environment.json: what decides the numbers, and where they were made."""
        flat = resolved.flat
        nested = OmegaConf.from_dotlist([])
        for key, value in flat.items():
            OmegaConf.update(nested, key, value, force_add=True)
        write_atomic(self.directory / "config.yaml", OmegaConf.to_yaml(nested))
        prompts = json.dumps({task.name: task.prompts for task in tasks}, sort_keys=True)
        self.json(
            "identity.json",
            {
                "fingerprint": fingerprint(flat),
                "seed": resolved.run.seed,
                "command": list(command),
                "settings": {key: {"value": flat[key], "source": resolved.sources[key]} for key in sorted(flat)},
                "seeds": vars(resolved.run.seeds),
                "weights_sha256": weights,
                "manifests": {task.name: task.digest() for task in tasks},
                "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
                "code_revision": code_revision(),
            },
        )

    def environment(self, device: torch.device) -> None:
        """Write environment.json."""
        self.json(
            "environment.json",
            {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "processor": processor(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "packages": versions(PACKAGES),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the record."""
        write_atomic(self.directory / name, json.dumps(content, indent=1, sort_keys=False) + "\n")

    def event(self, event: str, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        with self.event_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")


def unwritable(directory: Path, error: OSError) -> UserError:
    """The error of an output directory that cannot be written."""
    return UserError(
        f"cannot write to {directory} ({error.strerror or error}): make room or choose another folder with out=DIR"
    )


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions of distributions; those that are missing are left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"keeplora-bench {bench.__version__}"


def peak_memory_mb(device: torch.device) -> float | None:
    """Largest memory of this process so far, in MB: of the accelerator on CUDA, else resident; None where not told."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak / 1e3, 1)

"""What the files of a record are called and what they hold. Importing this loads no torch.

`Identity` and `Summary` have one reader (`read`) and one writer (`to_json`) each. Other files have their own
readers: `bench.record.events`, `bench.metrics.matrix`, `bench.metrics.outcomes`, `bench.data.batch_order`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.record.json_file import JsonFile, check_entries, check_numbers, check_parts, read_object

# ------------------------------------------------------------------------------------- names of the files

CONFIG = "config.yaml"
"""All resolved settings, nested."""

IDENTITY = "identity.json"
"""`Identity`: what decides the numbers."""

ENVIRONMENT = "environment.json"
"""Where and with what the run was made: versions, machine, device."""

STREAM = "stream.json"
"""How the tasks were made, where that is not fixed."""

EVENTS = "metrics.jsonl"
"""What happened so far, one event a line: `bench.record.events`."""

ACCURACY = "accuracy.csv"
"""The accuracy matrix, one cell a line."""

OUTCOMES = "outcomes.csv"
"""Which test images were answered correctly: what the accuracy matrix counts."""

BATCHES = "batches.jsonl"
"""The images of every batch of every pass, with ``batches.record=true``."""

MODEL = "model.safetensors"
"""What a finished run learned: changed weights, and the method's memory."""

SUMMARY = "summary.json"
"""`Summary`: present only when the run is finished."""

CHECKPOINTS = "checkpoints"
"""The folder that an unfinished run continues from."""

LOCK, WRITER = "lock", "writer"
"""Held while a process writes: the kernel's lock, and a file that names the process."""

WANDB = "wandb"
"""The folder that holds everything of W&B; no part of the record."""

FILES = (
    CONFIG, IDENTITY, ENVIRONMENT, STREAM, EVENTS, ACCURACY, OUTCOMES, BATCHES, MODEL, SUMMARY, LOCK, WRITER,
)  # fmt: skip
"""What are files in a run directory."""

FOLDERS = (CHECKPOINTS, WANDB)
"""What are folders in a run directory."""

# -------------------------------------------------------------------------------------------- identity


@dataclass(frozen=True)
class SettingValue:
    """The value of one setting, and where it came from.

    Attributes
    ----------
    value : object
        A plain value.
    source : str
        ``default``, ``method``, ``stream``, ``tuned``, ``settings`` (a file of chosen settings) or ``user``.
    """

    value: Any
    source: str = "unknown"


@dataclass(frozen=True)
class Identity(JsonFile):
    """The content of identity.json: all that decides the numbers of a run.

    Only the settings are needed to read a record. What an old or foreign record lacks is empty or None.

    Attributes
    ----------
    fingerprint : str
        Hash of the settings that decide the numbers, the seed left out.
    seed : int
    command : list of str
        The words of the command line.
    settings : dict of str to SettingValue
        By dotted key.
    seeds : dict of str to int
        Seed of each purpose; a value is None where it follows `seed`.
    weights_sha256 : str
        Hash of the backbone's weights.
    label_space : str
    tasks : list of str
        Names, in the order in which they are learned.
    manifests : dict of str to str
        Task -> hash of its images, labels and class names.
    prompts_sha256 : str
    reference_sha256 : str or None
        Hash of the images and sentences of the reference set; None where there is none.
    validation_sha256 : str or None
        Hash of the validation images of all tasks; None where the method does not choose by them.
    code_revision : str
    plugins_sha256 : dict of str to str
        Kind of plug-in -> hash of its file.
    flags : dict of str to str or None
        What the method needs, keeps and adds: `bench.record.flags.Flags.held`. None where it was not recorded.
    """

    FILE = IDENTITY
    NEEDED = {"settings": dict}
    OPTIONAL = {
        "fingerprint": str, "seed": int, "command": list, "seeds": dict, "weights_sha256": str, "label_space": str,
        "tasks": list, "manifests": dict, "prompts_sha256": str, "reference_sha256": str,
        "validation_sha256": str, "code_revision": str, "plugins_sha256": dict, "flags": dict,
    }  # fmt: skip
    ENTRIES = {"command": str, "seeds": int, "tasks": str, "manifests": str, "plugins_sha256": str, "flags": str}

    fingerprint: str | None = None
    seed: int | None = None
    command: list[str] = field(default_factory=list)
    settings: dict[str, SettingValue] = field(default_factory=dict)
    seeds: dict[str, int | None] = field(default_factory=dict)
    weights_sha256: str | None = None
    label_space: str | None = None
    tasks: list[str] = field(default_factory=list)
    manifests: dict[str, str] = field(default_factory=dict)
    prompts_sha256: str | None = None
    reference_sha256: str | None = None
    validation_sha256: str | None = None
    code_revision: str | None = None
    plugins_sha256: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Identity:
        """Return the typed form of the file's object; errors as for `read`."""
        check_parts(content, cls.NEEDED, cls.OPTIONAL)
        settings = {}
        for key, entry in content["settings"].items():
            if not isinstance(entry, dict) or "value" not in entry:
                raise ValueError(f'the setting "{key}" has no value')
            check_parts(entry, {}, {"source": str})
            settings[key] = SettingValue(entry["value"], entry.get("source") or "unknown")
        return super().from_json({**content, "settings": settings})

    def to_json(self) -> dict[str, Any]:
        """Return the object that the file holds, without what is younger than the first records and not there."""
        content = super().to_json()
        for key in ("flags", "reference_sha256", "validation_sha256"):
            if content[key] is None:
                del content[key]
        settings = {key: {"value": one.value, "source": one.source} for key, one in self.settings.items()}
        return {**content, "settings": settings}


def read_environment(directory: Path) -> dict[str, Any]:
    """Return the content of environment.json; errors as for `Identity.read`.

    Parameters
    ----------
    directory : Path
        A run directory.

    Returns
    -------
    dict of str to object
        Free facts by name; ``packages`` are versions by distribution, ``continued`` a list of later environments.
    """
    content = read_object(directory / ENVIRONMENT)
    check_parts(content, {}, {"packages": dict, "continued": list})
    check_entries(content, {"continued": dict})
    return content


# --------------------------------------------------------------------------------------------- summary

LARGEST = 1e15
"""No run takes more seconds, bytes or numbers; what is larger is damage, and sums of it would not be finite."""


@dataclass(frozen=True)
class Summary(JsonFile):
    """The content of summary.json: what a finished run gave and took.

    Attributes
    ----------
    status : str
        ``finished``; no other value is ever written.
    stream, model, method : str
    fingerprint : str
        As in `Identity`.
    seed : int
    metrics : dict of str to float
        Scalars of `bench.metrics.scalars`, in percent; None where one is not defined.
    seconds : dict of str to float
        ``total``, and those of each phase.
    seconds_of_parts, seconds_reused : dict of str to float
        Seconds of parts of the phases, and how many of them a result from another run saved.
    trainable_parameters, stored_numbers, stored_bytes : int
        Numbers trained in one task at most; numbers and bytes that the method keeps after the last task.
    peak_memory_mb : float
    """

    FILE = SUMMARY
    NEEDED = {
        "status": str, "stream": str, "model": str, "method": str, "fingerprint": str, "seed": int, "metrics": dict,
        "seconds": dict,
    }  # fmt: skip
    OPTIONAL = {"seconds_of_parts": dict, "seconds_reused": dict}

    status: str
    stream: str
    model: str
    method: str
    fingerprint: str
    seed: int
    metrics: dict[str, float | None]
    seconds: dict[str, float]
    seconds_of_parts: dict[str, float] = field(default_factory=dict)
    seconds_reused: dict[str, float] = field(default_factory=dict)
    trainable_parameters: int | None = None
    stored_numbers: int | None = None
    stored_bytes: int | None = None
    peak_memory_mb: float | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.status == "finished"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Summary:
        """Return the typed form of the file's object; errors as for `read`."""
        summary = super().from_json(content)
        sizes = ("trainable_parameters", "stored_numbers", "stored_bytes", "peak_memory_mb")
        check_numbers(summary.metrics, -100, 100)
        for numbers in (summary.seconds, summary.seconds_of_parts, summary.seconds_reused):
            check_numbers(numbers, 0, LARGEST)
        check_numbers({name: getattr(summary, name) for name in sizes}, 0, LARGEST)
        return summary


def is_finished(directory: Path) -> bool:
    """Return whether a run directory holds a finished run; a summary that cannot be read is none."""
    try:
        return read_object(directory / SUMMARY)["status"] == "finished"
    except (OSError, ValueError, KeyError):
        return False

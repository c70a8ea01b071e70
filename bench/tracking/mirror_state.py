"""What is remembered of a run directory's mirror between processes: ``wandb/state.json``.

The id of the W&B run is chosen once and kept, so that a run that is continued, or mirrored again, stays one W&B run.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.core.files import write_atomic
from bench.record.json_file import read_object
from bench.record.schema import WANDB

STATE = "state.json"

ID = re.compile(r"[^/\\#?%:\s]+")
"""What W&B takes for the id of a run."""


@dataclass
class MirrorState:
    """The content of ``wandb/state.json``.

    Attributes
    ----------
    id : str
        Id of the W&B run.
    rows : int
        Rows of history that W&B has.
    project, group, name : str
    entity : str or None
    tags : list of str
    weights : bool
        As in `bench.tracking.options.MirrorOptions`.
    url : str or None
        Where the run is to be seen; None before it was online.
    parts : list of str
        Names of the folders of offline runs that were closed.
    """

    id: str
    rows: int = 0
    project: str = ""
    entity: str | None = None
    group: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    weights: bool = False
    url: str | None = None
    parts: list[str] = field(default_factory=list)


TYPES: dict[str, Any] = {
    "id": str, "rows": int, "project": str, "entity": str | None, "group": str, "name": str, "tags": list,
    "weights": bool, "url": str | None, "parts": list,
}  # fmt: skip
"""The types of the fields of `MirrorState`."""


def folder(directory: Path) -> Path:
    """Return the folder of a run directory that holds everything of W&B."""
    return directory / WANDB


def load_state(directory: Path) -> MirrorState | None:
    """Return what is remembered of the mirror of a run directory; None if there is nothing that can be read."""
    try:
        content = read_object(folder(directory) / STATE)
    except (OSError, ValueError):
        return None
    known = {name: content[name] for name in TYPES if name in content}
    if not all(isinstance(value, TYPES[name]) for name, value in known.items()):
        return None
    if not all(isinstance(one, str) for name in ("tags", "parts") for one in known.get(name, ())):
        return None
    # The id becomes part of the names of folders that are removed.
    return MirrorState(**known) if ID.fullmatch(known.get("id", "")) else None


def save_state(directory: Path, state: MirrorState) -> None:
    """Write ``wandb/state.json``."""
    write_atomic(folder(directory) / STATE, json.dumps(asdict(state), indent=1) + "\n")

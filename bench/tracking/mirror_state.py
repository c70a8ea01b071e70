"""What is remembered of a run directory's mirror between processes: ``wandb/state.json``.

The id of the W&B run is chosen once and kept, so that a run that is continued, or mirrored again, stays one W&B run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from bench.core.files import write_atomic
from bench.record.schema import WANDB, read_object

STATE = "state.json"


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


def folder(directory: Path) -> Path:
    """Return the folder of a run directory that holds everything of W&B."""
    return directory / WANDB


def load_state(directory: Path) -> MirrorState | None:
    """Return what is remembered of the mirror of a run directory; None if there is nothing that can be read."""
    try:
        content = read_object(folder(directory) / STATE)
        return MirrorState(**{one.name: content[one.name] for one in fields(MirrorState) if one.name in content})
    except (OSError, ValueError, TypeError):
        return None


def save_state(directory: Path, state: MirrorState) -> None:
    """Write ``wandb/state.json``."""
    write_atomic(folder(directory) / STATE, json.dumps(asdict(state), indent=1) + "\n")

"""Numbers that papers published for a stream, with their sources: data files that stand beside ours, never mixed in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import registry

METRICS = {"transfer": "transfer_by_column", "average": "average_mtil", "last": "last"}
"""What a file calls a metric -> the scalar of bench/metrics/scalars.py that it is."""


@dataclass(frozen=True)
class Row:
    """What one source says of one method, in percent; None where it says nothing.

    Attributes
    ----------
    source : str
        Paper or file, in words.
    columns : mapping of metric to mapping of task to value
        Per test set, where the source has it.
    note : str
    """

    method: str
    source: str
    transfer: float | None
    average: float | None
    last: float | None
    columns: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    trained_parameters: str = ""
    extra_data: str = ""
    keeps_architecture: str = ""
    note: str = ""

    def value(self, scalar: str) -> float | None:
        """Return a scalar of bench/metrics/scalars.py, if the source has it."""
        return next((getattr(self, name) for name, one in METRICS.items() if one == scalar), None)

    @property
    def remarks(self) -> str:
        """What the source did otherwise than runs here, in one line; empty if nothing is known."""
        parts = [
            f"extra data {self.extra_data}" if self.extra_data not in ("", "no") else "",
            f"architecture kept: {self.keeps_architecture}" if self.keeps_architecture not in ("", "yes") else "",
            self.note,
        ]
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class Published:
    """The published table of one stream.

    Attributes
    ----------
    notes : tuple of str
        What to know before comparing.
    """

    stream: str
    model: str
    tasks: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]


def read(path: Path) -> Published:
    """Read a file of published numbers.

    Raises
    ------
    ValueError
        If a row names an unknown source or task: every number here has its provenance.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    tasks, sources = tuple(content["tasks"]), content["sources"]
    rows = []
    for row in content["rows"]:
        if row["source"] not in sources:
            raise ValueError(f"{path.name}: {row['method']} has the unknown source {row['source']}")
        for metric, values in row.get("columns", {}).items():
            if metric not in METRICS or not set(values) <= set(tasks):
                raise ValueError(f"{path.name}: {row['method']} has columns that are none of the stream's")
        rows.append(Row(**{**row, "source": sources[row["source"]]}))
    return Published(content["stream"], content["model"], tasks, tuple(content["notes"]), tuple(rows))


def find(stream: str) -> Published | None:
    """Return what papers published on a registered stream: ``published/NAME.json`` beside its plug-in's file.

    Nothing is imported. ``None`` where there is no such file.
    """
    entry = registry.entries("stream").get(stream)
    path = None if entry is None or entry.path is None else entry.path.parent / "published" / f"{stream}.json"
    return read(path) if path is not None and path.is_file() else None


def beside(stream: str, model: str, conditions: Mapping[str, Any]) -> Published | None:
    """Return the published table that may stand beside measured runs; ``None`` where there is none.

    It is shown where model, tasks in their order and label space are those of the table, test images are scored and the
    weights are the pre-trained ones. What else the sources did otherwise its notes tell.

    Parameters
    ----------
    conditions
        What the runs have in common: `bench.compare.runs.Field.conditions`.
    """
    found = None if "stream.file_sha256" in conditions else find(stream)  # a file of that name is another stream
    if found is None:
        return None
    ours = [
        model,
        conditions.get("order of tasks"),
        conditions.get("label space"),
        conditions.get("evaluate.split", "test"),
        conditions.get("model.weights", "pretrained"),
        conditions.get("model.checkpoint"),
    ]
    own = registry.entries("stream")[stream].facts.get("label_space")
    return found if ours == [found.model, list(found.tasks), own, "test", "pretrained", None] else None

"""Numbers that papers published for a stream, with their sources: data files, shown beside ours, never mixed in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.core.errors import UserError
from bench.core.untrusted import why
from bench.metrics.scalars import HEADLINES

METRICS = {title.lower(): name for title, name in HEADLINES.items()}
"""The name of a metric in a file -> the scalar of bench/metrics/scalars.py that it is."""


@dataclass(frozen=True)
class Row:
    """What one source says about one method.

    Attributes
    ----------
    method : str
    source : str
        Paper or file, in words.
    transfer, average, last : float or None
        In percent; None where the source does not have it.
    columns : mapping of str to mapping of str to float
        Metric -> test set -> percent, where the source has them.
    trained_parameters, extra_data, keeps_architecture : str
        What the source says of them; empty where it says nothing.
    note : str
        Anything else to know.
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
        """Return a scalar of bench/metrics/scalars.py in percent, or None where the source does not have it."""
        return next((getattr(self, name) for name, one in METRICS.items() if one == scalar), None)

    @property
    def remarks(self) -> str:
        """What the source did in another way than runs here, in one line; empty if nothing is known."""
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
    stream, model : str
    tasks : tuple of str
        In their order.
    notes : tuple of str
        What to know before comparing.
    rows : tuple of Row
    """

    stream: str
    model: str
    tasks: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]


def read(path: Path) -> Published:
    """Read a file of published numbers.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If a row names an unknown source or task, or holds something else than numbers: every number has a source.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    tasks, sources = tuple(content["tasks"]), content["sources"]
    rows = []
    for row in content["rows"]:
        if row["source"] not in sources:
            raise ValueError(f"{path.name}: {row['method']} has the unknown source {row['source']}")
        numbers = [row.get(metric) for metric in METRICS]
        for metric, values in row.get("columns", {}).items():
            if metric not in METRICS or not set(values) <= set(tasks):
                raise ValueError(f"{path.name}: {row['method']} has columns that are none of the stream's")
            numbers += values.values()
        if not all(one is None or (isinstance(one, int | float) and math.isfinite(one)) for one in numbers):
            raise ValueError(f"{path.name}: {row['method']} has a value that is no number")
        rows.append(Row(**{**row, "source": sources[row["source"]]}))
    return Published(content["stream"], content["model"], tasks, tuple(content["notes"]), tuple(rows))


def find(stream: str) -> Published | None:
    """Return what papers published on a registered stream: ``published/NAME.json`` beside its plug-in's file.

    Parameters
    ----------
    stream : str
        Its name; nothing is imported.

    Returns
    -------
    Published or None
        None where there is no such file.

    Raises
    ------
    UserError
        If the file is none of published numbers.
    """
    entry = registry.entries("stream").get(stream)
    path = None if entry is None or entry.path is None else entry.path.parent / "published" / f"{stream}.json"
    if path is None or not path.is_file():
        return None
    try:
        return read(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # whatever is in a file of JSON
        reason = f"it has no {error}" if isinstance(error, KeyError) else why(error)
        raise UserError(
            f"the published numbers in {path} cannot be read ({reason}): correct the file or take it away; compare "
            "leaves them out with published=off"
        ) from error


def beside(stream: str, model: str, conditions: Mapping[str, Any]) -> Published | None:
    """Return the published table that may be shown beside measured runs.

    It may where model, tasks in their order and label space are those of the table, test images are scored and the
    weights are the pre-trained ones. The table's notes say what else the sources did in another way.

    Parameters
    ----------
    stream, model : str
    conditions : mapping of str to object
        What the runs have in common: ``conditions`` of `bench.compare.grouping.ComparableRuns`.

    Returns
    -------
    Published or None
        None where there is no such table.
    """
    table = None if "stream.file_sha256" in conditions else find(stream)  # a file of that name is another stream
    if table is None:
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
    return table if ours == [table.model, list(table.tasks), own, "test", "pretrained", None] else None


BASES = ("zero-shot", "lora")
"""What a single run is put beside: what the model knew before, and plain learning."""


def bases(table: Published) -> str:
    """Return in one line what a table has of the untrained model and of plain LoRA.

    Parameters
    ----------
    table : Published

    Returns
    -------
    str
        Empty where it has neither.
    """
    found: dict[str, str] = {}
    for row in table.rows:
        name = row.method.partition(" (")[0]
        values = [row.value(scalar) for scalar in HEADLINES.values()]
        if name.lower() in BASES:
            found.setdefault(name.lower(), f"{name} {' / '.join('-' if v is None else f'{v:.1f}' for v in values)}")
    known = ", ".join(found[name] for name in BASES if name in found)
    return (
        f"published ({' / '.join(HEADLINES)}): {known}; sources: datasets/published/{table.stream}.json"
        if found
        else ""
    )

"""Numbers that papers published for a stream, with their sources: data files that stand beside ours, never mixed in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

METRICS = {"transfer": "transfer_by_column", "average": "average_mtil", "last": "last"}
"""What a file calls a metric -> the scalar of bench/metrics.py that it is."""


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

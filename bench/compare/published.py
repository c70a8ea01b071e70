"""Numbers that papers published for a stream, with their sources: data files, shown beside ours, never mixed in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.core.errors import UserError
from bench.core.untrusted import why
from bench.metrics.scalars import HEADLINES
from bench.record.flags import WORDS, in_words

METRICS = {title.lower(): name for title, name in HEADLINES.items()}
"""The name of a metric in a file -> the scalar of bench/metrics/scalars.py that it is."""

POOLED = ("average_cil_pooled", "last_pooled")
"""Further scalars that a file may have, by their own names: those of class-incremental streams."""


@dataclass(frozen=True)
class Row:
    """What one source says about one method.

    Attributes
    ----------
    method : str
        What the source calls it.
    source : str
        Paper or file, in words.
    values : mapping of str to float
        Scalar of bench/metrics/scalars.py -> percent, where the source has it.
    columns : mapping of str to mapping of str to float
        Metric -> test set -> percent, where the source has them.
    matrix : tuple of tuple of float
        T rows of T percentages, row i after task i, where the source has them; else empty.
    registered : tuple of str
        Methods of this suite that it is a result of, the one that is most like it first.
    flags : mapping of str to str or None
        What the method needs, keeps and adds, as `bench.record.flags.Flags.held` says it; None where that is not known.
    conditions : mapping of str to object
        What runs beside it have in common beyond what holds for the whole table, such as ``stream.shots``: names and
        values as in ``conditions`` of `bench.compare.grouping.ComparableRuns`.
    trained_parameters, note : str
        What the source says of them, and anything else to know.
    """

    method: str
    source: str
    values: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    matrix: tuple[tuple[float, ...], ...] = ()
    registered: tuple[str, ...] = ()
    flags: Mapping[str, str] | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    trained_parameters: str = ""
    note: str = ""

    def value(self, scalar: str) -> float | None:
        """Return a scalar of bench/metrics/scalars.py in percent, or None where the source does not have it."""
        return self.values.get(scalar)

    @property
    def apart(self) -> bool:
        """Whether it is set apart: the method extends the model or knows the task of a test image, or may do so."""
        return self.flags is None or bool({"extended", "task_at_test"} & set(self.flags))

    @property
    def remarks(self) -> str:
        """What the method needs and adds, and what the source did in another way, in one line; empty for nothing."""
        said = (
            "what it needs and adds is not known" if self.flags is None else in_words(self.flags) if self.flags else ""
        )
        return "; ".join(filter(None, [said, self.note]))


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
        Those that are set apart come last.
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
        If a row names an unknown source, task, metric or flag, or has something else than numbers: every number has a
        source.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    tasks, sources = tuple(content["tasks"]), content["sources"]
    rows = []
    for row in content["rows"]:
        try:
            rows.append(_row(row, tasks, sources))
        except ValueError as error:
            raise ValueError(f"{path.name}: {row['method']} has {error}") from None
    rows.sort(key=lambda row: row.apart)
    return Published(content["stream"], content["model"], tasks, tuple(content["notes"]), tuple(rows))


def _row(content: Mapping[str, Any], tasks: Sequence[str], sources: Mapping[str, str]) -> Row:
    """Return a row of a file; what is wrong with it raises `ValueError`."""
    if content["source"] not in sources:
        raise ValueError(f"the unknown source {content['source']}")
    metrics = {word: METRICS.get(word, word) for word in content if word in METRICS or word in POOLED}
    columns, matrix = content.get("columns", {}), content.get("matrix", [])
    if not set(columns) <= set(METRICS) or not all(set(values) <= set(tasks) for values in columns.values()):
        raise ValueError("columns that are none of the stream's")
    if matrix and [len(stage) for stage in matrix] != [len(tasks)] * len(tasks):
        raise ValueError(f"a matrix that is not {len(tasks)} x {len(tasks)}")
    flags = content.get("flags")
    if flags is not None and not set(flags) <= set(WORDS):
        raise ValueError(f"a flag that is none of {', '.join(WORDS)}")
    values = {scalar: content[word] for word, scalar in metrics.items() if content[word] is not None}
    numbers = list(chain(values.values(), *(one.values() for one in columns.values()), *matrix))
    if not numbers:
        raise ValueError("no number")
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
        raise ValueError("a value that is no number")
    rest = {key: value for key, value in content.items() if key not in metrics}
    rest |= {"source": sources[content["source"]], "values": values, "matrix": tuple(map(tuple, matrix))}
    return Row(**{**rest, "registered": tuple(content.get("registered", []))})


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

    It may where model and tasks in their order are those of the table, test images are scored and the weights are the
    pre-trained ones. Its rows stay if they have the label space of the runs, which is the stream's own unless they say
    another one, and if their other ``conditions`` hold. The table's notes say what else the sources did in another way.

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
        conditions.get("evaluate.split", "test"),
        conditions.get("model.weights", "pretrained"),
        conditions.get("model.checkpoint"),
    ]
    if ours != [table.model, list(table.tasks), "test", "pretrained", None]:
        return None
    own = {"label space": registry.entries("stream")[stream].facts.get("label_space")}
    rows = tuple(row for row in table.rows if all(conditions.get(k) == v for k, v in {**own, **row.conditions}.items()))
    return replace(table, rows=rows) if rows else None


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
    weights: dict[str, str] = {}
    for row in table.rows:
        name = row.method.partition(" (")[0]
        values = [row.value(scalar) for scalar in HEADLINES.values()]
        if name.lower() in BASES:
            weights.setdefault(name.lower(), f"{name} {' / '.join('-' if v is None else f'{v:.1f}' for v in values)}")
    known = ", ".join(weights[name] for name in BASES if name in weights)
    return (
        f"published ({' / '.join(HEADLINES)}): {known}; sources: datasets/published/{table.stream}.json"
        if weights
        else ""
    )

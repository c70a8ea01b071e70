"""A comparison as one tidy CSV: a line for every number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.compare.export.cells import CELL_COLUMNS, cell_lines
from bench.compare.grouping import Group
from bench.compare.per_task import TaskRow
from bench.compare.significance import Difference
from bench.compare.tables import Section
from bench.core.console import one_line
from bench.metrics.over_seeds import spread
from bench.record.flags import in_words

CSV_COLUMNS = (
    "stream", "model", "apart", "source", "method", "label", "fingerprint", "metric", "n", "mean", "standard_error",
    "baseline", "difference", "low", "high", "level", "over", "reference",
    "flags", "bound",
)  # fmt: skip
"""What docs/compare.md says of each."""

TASK_COLUMNS = (
    "stream", "model", "apart", "source", "method", "label", "fingerprint", "metric", "task", "n", "mean",
    "standard_error", "ahead", "reference", "flags", "bound",
)  # fmt: skip
"""Those of tables for every task."""

MEAN = "mean over tasks"
"""Stands for the metric itself among the tasks."""

FORMULA = ("=", "+", "-", "@")
"""What a cell begins with that spreadsheets compute; what they pass over to look for it is escaped."""


def csv_text(sections: Sequence[Section]) -> str:
    """Return one line for every group and metric, and for every published number, below `CSV_COLUMNS`.

    Tables for every task have one for each task as well, below `TASK_COLUMNS`. Ours against theirs has one for every
    published number of a method here, below `CELL_COLUMNS`.

    Parameters
    ----------
    sections : sequence of Section

    Returns
    -------
    str
        CSV. Numbers have all their digits, metrics and costs the names and units of summary.json. Names that begin
        like a formula of a spreadsheet begin with an apostrophe instead.
    """
    stream = io.StringIO()
    columns, lines_of = _LINES[sections[0].choice.per if sections else "method"]
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for line in lines_of(section):
            writer.writerow({column: _harmless(value) for column, value in line.items()})
    return stream.getvalue()


def _harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that could be one has an apostrophe before it."""
    if not isinstance(value, str):
        return value
    cell = one_line(value)
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.startswith(FORMULA) else cell
    return cell


def _shared(section: Section) -> dict[str, Any]:
    """Return what all lines of a section have in common."""
    apart = "; ".join(f"{name} {value}" for name, value in section.field.apart.items())
    return {"stream": section.field.stream, "model": section.field.model, "apart": apart}


def _by_method(section: Section) -> Iterator[dict[str, Any]]:
    yield from _measured(section)
    yield from _published(section)


def _by_cell(section: Section) -> Iterator[dict[str, Any]]:
    for line in cell_lines(section):
        yield {**_shared(section), **line}


def _measured(section: Section) -> Iterator[dict[str, Any]]:
    differences: dict[tuple[str, str], Difference] = {}
    if section.against:
        for group, its_own in section.against.rows:
            differences |= {(group.label, one.scalar): one for one in its_own}
    for group in section.field.groups:
        names = _group(group)
        for metric in section.columns:
            values = group.values(metric).values()
            if not values:
                continue
            over = spread(values)
            line: dict[str, Any] = {**_shared(section), "source": "measured", **names, "metric": metric}
            line |= {"n": over.n, "mean": over.mean, "standard_error": over.standard_error}
            if (one := differences.get((group.label, metric))) and section.against:
                line |= {"baseline": section.against.baseline.label, "difference": one.mean, "low": one.low}
                line |= {"high": one.high, "level": section.against.level, "over": one.over}
            yield line


def _published(section: Section) -> Iterator[dict[str, Any]]:
    for row in section.published.rows if section.published else ():
        for metric in section.columns:
            if (value := row.value(metric)) is not None:
                line = {**_shared(section), "source": "published", "method": row.method, "label": row.method}
                yield line | {"metric": metric, "mean": value, "reference": row.source, "flags": in_words(row.flags)}


def _by_task(section: Section) -> Iterator[dict[str, Any]]:
    tasks = [*section.per_task.tasks, MEAN]
    for table in section.per_task.tables:
        for row in (*table.measured, *table.published):
            shared = {**_shared(section), **_names(row), "metric": table.scalar}
            for task, value, first in zip(tasks, (*row.tasks, row.overall), table.ahead, strict=True):
                if value is not None:
                    line = {**shared, "task": task, "mean": value.mean, "standard_error": value.standard_error}
                    yield line | {"n": value.n or None, "ahead": "yes" if first is row else ""}


_LINES: Mapping[str, tuple[Sequence[str], Callable[[Section], Iterator[dict[str, Any]]]]] = {
    "method": (CSV_COLUMNS, _by_method),
    "task": (TASK_COLUMNS, _by_task),
    "cell": (CELL_COLUMNS, _by_cell),
}
"""What a comparison is per -> the columns of its CSV, and what makes its lines."""


def _names(row: TaskRow) -> dict[str, Any]:
    """Return what a row is: its method and, where it was measured, its settings."""
    if row.group is None:
        names = {"source": "published", "method": row.label, "label": row.label}
        return {**names, "reference": row.source.source, "flags": in_words(row.source.flags)} if row.source else names
    return {"source": "measured", **_group(row.group)}


def _group(group: Group) -> dict[str, Any]:
    names = {"method": group.method, "label": group.label, "fingerprint": group.fingerprint}
    return {**names, "flags": in_words(group.flags), "bound": "yes" if group.bound else ""}

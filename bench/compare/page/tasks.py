"""What the page shows task by task: the table of papers, and how far each method is from the baseline on every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.compare.page.numbers import range_of, rounded
from bench.compare.per_task import PerTask, TaskTable, apart, per_task
from bench.compare.significance import Difference
from bench.compare.views import View
from bench.metrics.over_seeds import Spread

WIDEST = 100.0
"""Points at which intervals are cut off where they are drawn: no difference of two accuracies is larger."""


def task_by_task(view: View) -> dict[str, Any] | None:
    """Return the metrics of all lines for every task.

    Parameters
    ----------
    view : View

    Returns
    -------
    dict or None
        Plain values with the keys of ``PerTask`` in bench/compare/html/types.d.ts; ``None`` where there is no table.
    """
    numbers = per_task(view.section.field, view.section.published)
    if not numbers.tables:
        return None
    at = {line.group.label: index for index, line in enumerate(view.lines)}
    tables = [_table(view, numbers, table, at) for table in numbers.tables]
    names = [view.section.choice.named(task) for task in numbers.tasks]
    return {"names": names, "notes": numbers.notes, "tables": tables}


def _table(view: View, numbers: PerTask, table: TaskTable, at: dict[str, int]) -> dict[str, Any]:
    rows = {at[row.label]: [_cell(one) for one in (*row.tasks, row.overall)] for row in table.measured}
    differences = _differences(view, numbers.tasks, table.scalar)
    ends = [
        end for row in differences.values() for one in row for end in (one.mean, one.low, one.high) if end is not None
    ]
    cut = [max(-WIDEST, min(WIDEST, end)) for end in (0.0, *ends)]
    return {
        "key": table.scalar,
        "rows": [rows[index] for index in range(len(view.lines))],
        "ahead": [None if row is None else at[row.label] for row in table.ahead],
        "published": [
            {
                "method": row.label,
                "apart": bool(row.source and row.source.apart),
                "values": [None if one is None else one.mean for one in (*row.tasks, row.overall)],
            }
            for row in table.published
        ],
        "differences": {
            index: [[rounded(one.mean, 3), rounded(one.low, 3), rounded(one.high, 3), one.over] for one in row]
            for index, row in differences.items()
        },
        "reach": range_of((min(cut), max(cut))),
    }


def _cell(value: Spread | None) -> list[Any] | None:
    return None if value is None else [rounded(value.mean, 3), rounded(value.standard_error, 3), value.n]


def _differences(view: View, names: Sequence[str], scalar: str) -> dict[int, list[Difference]]:
    """Return the differences to the baseline on every task, by line, of the lines that pictures show at first."""
    against = view.section.against
    if against is None:
        return {}
    shown = [index for index in view.shown if index != view.baseline]
    rows = apart(against, [view.lines[index].group for index in shown], names, scalar)
    return dict(zip(shown, rows, strict=True))

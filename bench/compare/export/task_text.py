"""Tables for every task as text."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare.grouping import Comparison
from bench.compare.per_task import TaskRow
from bench.compare.tables import BOUNDS, Section, below, captions, cited, first_bound, heading, left_out
from bench.core.console import one_line
from bench.core.tables import aligned

MEANING = {
    "transfer_by_column": "mean over the stages before the task is learned",
    "average_mtil": "mean over all stages but that of the untrained model",
    "last": "after the last task",
    "forgotten": "on the classes of the request, right after it",
    "relapse": "on all that earlier requests named, after the request",
    "retained": "on all classes that are to stay after the request",
    "h_mean": "harmonic mean of what the request took from its classes and Retained",
    "missing": "on classes that stay without training images, after the request",
    "drop": "right before the request minus right after it",
}
"""What a value of a metric is for one task."""


def task_text(comparison: Comparison, laid_out: Sequence[Section], bold: bool = False) -> str:
    """Return a comparison as text: for every section a block for each metric, with a column for each task.

    Parameters
    ----------
    comparison : Comparison
    laid_out : sequence of Section
        See `bench.compare.tables.sections`.
    bold : bool
        Whether what is shown to be ahead is printed in bold, by an ANSI escape sequence.

    Returns
    -------
    str
        Blocks with an empty line between them.
    """
    blocks = [_block(section, bold) for section in laid_out]
    if laid_out:
        tables = (table for section in laid_out for table in section.per_task.tables)
        lines = [
            f"  {laid_out[0].choice.title(name)} = {MEANING[name]}" for name in dict.fromkeys(t.scalar for t in tables)
        ]
        blocks.append("\n".join(["means over n seeds in percent, the mean over tasks ± standard error", *lines]))
    return "\n\n".join([*blocks, *left_out(comparison)])


def task_cells(row: TaskRow, plus_minus: str = " ± ") -> list[str]:
    """Write the values of a row for every task, and their mean with its standard error.

    Parameters
    ----------
    row : TaskRow
    plus_minus : str
        What stands before the standard error.

    Returns
    -------
    list of str
        One decimal, as papers have; ``-`` where there is no value; where some seeds lack it, how many have it.
    """
    seeds = row.group.n if row.group else 0
    cells = []
    for value in (*row.tasks, row.overall):
        written = "-" if value is None else f"{value.mean:.1f}"
        if value is not None and value is row.overall and value.standard_error is not None:
            written += f"{plus_minus}{value.standard_error:.1f}"
        cells.append(written if value is None or value.n == seeds else f"{written} ({value.n})")
    return cells


def _block(section: Section, bold: bool) -> str:
    made = section.per_task
    rows = [["Method", "n", *made.tasks, "Mean"]]
    strong: set[tuple[int, int]] = set()
    above: dict[int, str] = {}
    titled = set()
    for table in made.tables:
        titled.add(len(rows))
        above[len(rows)] = section.choice.title(table.scalar)
        if (first := first_bound(section.field.groups)) is not None:
            above[len(rows) + first] = BOUNDS
        for row in table.measured:
            strong |= {(len(rows), at) for at, first in enumerate(table.ahead, start=2) if first is row}
            rows.append([row.label, row.group.counted if row.group else "-", *task_cells(row)])
        quoted = captions([row.source for row in table.published if row.source])
        above |= {len(rows) + at: caption for at, caption in quoted.items()}
        for row in table.published:
            name = cited(section, row.source) if row.source else row.label
            rows.append([name, "-", *task_cells(row)])
    lines = heading(section)
    if made.tables:
        head, rule, *laid = aligned(rows, strong if bold else ())
        lines += [head, rule]
        for number, line in enumerate(laid, start=1):
            gap = [""] if number in titled and number > 1 else []
            lines += [*gap, *([above[number]] if number in above else []), line]
    notes = [one_line(f"  note: {note}") for note in made.notes]
    return "\n".join([*lines, *below(section), *notes])

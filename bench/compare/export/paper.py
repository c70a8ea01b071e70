"""A comparison as LaTeX tables that go into a paper as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.compare.choice import differing
from bench.compare.export.task_text import task_cells
from bench.compare.grouping import ComparableRuns
from bench.compare.per_task import TaskTable
from bench.compare.runs import TITLES
from bench.compare.significance import TOGETHER
from bench.compare.tables import (
    BOUNDS,
    Section,
    captions,
    cell,
    cited,
    first_bound,
    own_settings,
    provenance,
    quoted,
)
from bench.core.console import one_line
from bench.metrics.kinds import COLUMNS, LESS_IS_BETTER

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
"""Characters that mean something else in LaTeX, or look otherwise."""

BOLD = r"\textbf"

NARROW = 6
"""Columns of a table that has room in one column of a page."""

TALLEST = 36
"""Rows of a table by task that has room on a page, below its caption."""

FULL = 48
"""Lines of a table that has room on a page, those of the note below it included."""

NOTE = 100
"""Characters of a line of that note."""

LARGE = 25
"""Lines of a table whose letters are of the larger of two sizes."""

LONGEST = 60
"""Characters of a condition that a caption quotes."""


def escape(text: str) -> str:
    """Write text so that LaTeX prints it as it is.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        LaTeX.
    """
    return "".join(SPECIAL.get(character, character) for character in one_line(text))


def latex(sections: Sequence[Section]) -> str:
    r"""Return a table with a caption, a label and a ``booktabs`` tabular for every section.

    Parameters
    ----------
    sections : sequence of Section

    Returns
    -------
    str
        LaTeX. Wide tables span both columns of a page, and are as wide as it at most. Where a table for every task
        would be higher than a page, each metric has its own. Where a table with its note still would, the published
        rows that are set apart stand in a second one, below our rows as in the first. No hash is in it.
    """
    parts = [part for section in sections for part in _parts(section)]
    tables = [_table(part, reference) for part, reference in zip(parts, _references(parts), strict=True)]
    return "\n\n".join(["% needs \\usepackage{booktabs,graphicx}", *tables]) + "\n"


def _parts(section: Section) -> list[Section]:
    """Return what stands in one table each: all of a section, or parts of it where a page has too few lines for all."""
    tables = section.per_task.tables if section.choice.per == "task" else []
    if sum(1 + len(table.measured) + len(table.published) for table in tables) <= TALLEST:
        return _pages(section)
    metrics = (replace(section, choice=replace(section.choice, columns=(table.scalar,))) for table in tables)
    return [page for one in metrics for page in _pages(one)]


def _pages(section: Section) -> list[Section]:
    """Return a section, or where it is higher than a page with its note, our rows with each kind of published ones."""
    if section.published is None or _lines(section) <= FULL:
        return [section]
    kinds = [tuple(row for row in section.papers if row.apart is apart) for apart in (False, True)]
    return [replace(section, published=replace(section.published, rows=rows)) for rows in kinds if rows]


def _lines(section: Section) -> int:
    """Count rows, and about as many lines as the note has."""
    if section.choice.per == "task":
        rows = sum(1 + len(table.measured) + len(table.published) for table in section.per_task.tables)
    else:
        rows = len(section.field.groups) + len(section.papers)
    return rows + len(_note(section)) // NOTE


def _note(section: Section) -> str:
    """Say where published numbers come from; readers of a paper do not have the pages of this project."""
    notes = " ".join(map(_sentence, provenance(section.published))) if section.published else ""
    return re.sub(r" \(docs/[^)]*\)", "", notes)


def _references(sections: Sequence[Section]) -> list[str]:
    r"""Return a name for each table that ``\ref`` finds it by: its stream, what it shows, where needed a number."""
    names: list[str] = []
    for section in sections:
        stream = re.sub(r"[^a-z0-9]+", "-", section.field.stream.lower()).strip("-") or "stream"
        name = f"tab:{stream}{_ending(section)}"
        used = sum(one == name or one.startswith(f"{name}:") for one in names)
        names.append(f"{name}:{used + 1}" if used else name)
    return names


def _ending(section: Section) -> str:
    if section.choice.per != "task":
        return ""
    words = [TITLES[name].lower() for name in section.columns if name in COLUMNS[section.kind]]
    words = words if section.choice.columns else []
    return f"-{words[0]}" if len(words) == 1 else "-by-task"


def _table(section: Section, reference: str) -> str:
    """Put caption, label and tabular into a table, which is shrunk to the width of the text where it is wider."""
    by_task = section.choice.per == "task"
    if by_task and not section.per_task.tables:
        title = f"stream {section.field.stream}, model {section.field.model}"
        return "\n".join(f"% {escape(line)}" for line in (title, *section.per_task.notes))
    rows, columns = _by_task(section) if by_task else _by_method(section)
    notes = _note(section)
    kind = "table*" if columns > NARROW or notes else "table"
    size = r"\footnotesize" if len(rows) <= LARGE else r"\scriptsize"
    return "\n".join(
        [
            rf"\begin{{{kind}}}[t]",
            rf"\centering{size}\setlength{{\tabcolsep}}{{3pt}}\setlength{{\belowcaptionskip}}{{4pt}}",
            rf"\caption{{{_caption(section, any(BOLD in row for row in rows))}}}",
            rf"\label{{{reference}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {escape(notes)}}}"] if notes else []),
            rf"\end{{{kind}}}",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    """Write a row; what a row ends with would take a star or a bracket after it for its own."""
    first = "{}" + cells[0] if cells[0].startswith(("[", "*")) else cells[0]
    return " & ".join([first, *cells[1:]]) + r" \\"


def _wide(columns: int, text: str) -> str:
    return rf"\multicolumn{{{columns}}}{{l}}{{{text}}} \\"


def _bold(cell: str, strong: bool) -> str:
    return f"{BOLD}{{{cell}}}" if strong else cell


def _by_method(section: Section) -> tuple[list[str], int]:
    """Lay out a row for each method: means with standard errors; published rows below a rule of their own."""
    labels, counted = _labels(section.field), _seeds(section.field) is None
    heads = ["Method", *(["$n$"] if counted else []), *(escape(section.choice.title(name)) for name in section.columns)]
    lines, first = [_row(heads), r"\midrule"], first_bound(section.field.groups)
    for number, group in enumerate(section.field.groups):
        lines += [r"\midrule", _wide(len(heads), BOUNDS)] if number == first else []
        cells = [group.counted] if counted else []
        for name in section.columns:
            written = cell(group, name, r" $\pm$ ").replace("-", "$-$" if group.values(name) else "--")
            cells.append(_bold(written, section.ahead.get(name) is group))
        lines.append(_row([escape(labels[group.label]), *cells]))
    above = captions(section.papers)
    for at, (method, seeds, *cells) in enumerate(quoted(section)):
        lines += [r"\midrule", _wide(len(heads), above[at])] if at in above else []
        every = [seeds, *cells] if counted else cells
        lines.append(_row([escape(method), *("--" if one == "-" else one for one in every)]))
    return lines, len(heads)


def _by_task(section: Section) -> tuple[list[str], int]:
    """Lay out a block for each metric, with a row for each method and a column for each task and the mean."""
    columns = [f"\\rotatebox{{90}}{{{escape(task)}}}" for task in section.per_task.tasks]
    heads = ["Method", *columns, "Mean"]
    lines = [_row(heads)]
    for table in section.per_task.tables:
        title = escape(section.choice.title(table.scalar))
        lines += [r"\midrule", _wide(len(heads), rf"\textit{{{title}}}"), *_block(section, table)]
    return lines, len(heads)


def _block(section: Section, table: TaskTable) -> list[str]:
    labels, first = _labels(section.field), first_bound(section.field.groups)
    lines = []
    for number, row in enumerate(table.measured):
        lines += [rf"\cmidrule(lr){{1-{len(table.ahead) + 1}}}"] if number == first else []
        cells = [one.replace("-", "--") for one in task_cells(row, r" $\pm$ ")]
        strong = [_bold(cell, first is row) for cell, first in zip(cells, table.ahead, strict=True)]
        lines.append(_row([escape(labels[row.label]), *strong]))
    errors = any(row.overall and row.overall.standard_error is not None for row in table.measured)
    blank = r"\phantom{ $\pm$ 0.0}" if errors else ""  # means stand below means
    above = captions([row.source for row in table.published if row.source])
    for at, row in enumerate(table.published):
        lines += [rf"\cmidrule(lr){{1-{len(table.ahead) + 1}}}"] if at in above else []
        name = cited(section, row.source) if row.source else row.label
        *cells, mean = (one.replace("-", "--") for one in task_cells(row))
        lines.append(_row([escape(name), *cells, mean + blank]))
    return lines


def _seeds(field: ComparableRuns) -> str | None:
    """Return in words over how many seeds all groups are, or None where they have different numbers."""
    numbers = {group.counted for group in field.groups}
    return numbers.pop() if len(numbers) == 1 else None


def _labels(field: ComparableRuns) -> dict[str, str]:
    """Return what each group is called: its label, with a number in the place of a fingerprint."""
    labels, numbers = {}, dict[str, int]()
    for group in field.groups:
        labels[group.label] = group.label
        if group.fingerprint in group.label:
            numbers[group.method] = numbers.get(group.method, 0) + 1
            labels[group.label] = group.label.replace(group.fingerprint, f"({numbers[group.method]})")
    return labels


# ------------------------------------------------------------------------------------------------ caption


def _caption(section: Section, bold: bool) -> str:
    """Say what is shown, over how many seeds, what bold means, and what labels leave unsaid."""
    field, labels = section.field, _labels(section.field)
    seeds, by_task = _seeds(field), section.choice.per == "task"
    parts = [_sentence(_title(section)), _means(field, by_task)]
    if bold:
        parts.append(
            f"Bold: ahead of the next method by the paired t interval over seeds ({100 * TOGETHER:g} % for the "
            "comparisons with all methods together)."
        )
    names = [table.scalar for table in section.per_task.tables] if by_task else section.columns
    if less := [section.choice.title(name) for name in names if name in LESS_IS_BETTER]:
        parts.append(f"Less is better: {_and(less)}.")
    if by_task and seeds is None:
        parts.append("Seeds: " + ", ".join(f"{labels[g.label]} {g.counted}" for g in field.groups) + ".")
    if by_task:
        parts += map(_sentence, section.per_task.notes)
    parts += [f"{labels[g.label]}: {own_settings(g, '')}." for g in field.groups if labels[g.label] != g.label]
    parts += [_sentence(note) for note in differing([replace(g, label=labels[g.label]) for g in field.groups])]
    if section.published:
        parts += ["Below the rule: published, not measured here; the numbers in brackets are sources."]
    apart = [row.apart for row in section.papers]
    if apart and all(apart):
        parts += ["They are set apart: each extends the model, knows the task of a test image, or may do so."]
    elif by_task and any(apart):
        parts += ["Set apart by a further rule: extends the model, knows the task of a test image, or may do so."]
    return escape(" ".join(parts)).replace("n seeds", "$n$ seeds")


def _title(section: Section) -> str:
    """Return stream, model and what tells the table from others; of what is long or a hash, only that it differs."""
    field = section.field
    parts = [f"stream {field.stream}", f"model {field.model}"]
    for name, value in field.apart.items():
        plain = len(value) <= LONGEST and not _hashed(field.conditions.get(name))
        parts.append(f"{name} {value}" if plain else f"{name} unlike in other tables")
    text = ", ".join(parts)
    if section.choice.per == "task":
        titles = [section.choice.title(table.scalar) for table in section.per_task.tables]
        return f"{_and(titles)} for every task: {text}"
    return text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _hashed(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) for one in values)


def _means(field: ComparableRuns, by_task: bool) -> str:
    seeds = _seeds(field)
    if seeds == "1":
        return "One seed, in percent."
    over = "seeds" if by_task and seeds is None else "n seeds" if seeds is None else f"{seeds} seeds"
    if any(group.orders for group in field.groups):
        over = f"orders of tasks{'' if seeds is None else f' ({seeds})'}, each the mean over its seeds"
    if by_task:
        return f"Mean over {over}, in percent; the mean over tasks with its standard error."
    return f"Mean ± standard error over {over}, in percent."

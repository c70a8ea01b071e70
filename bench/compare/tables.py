"""Many runs side by side as text: a table for every field of runs that may be compared (bench/compare/grouping.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bench.compare import choice, published, significance
from bench.compare.choice import USUAL, Choice
from bench.compare.grouping import ComparableRuns, Comparison, Group
from bench.compare.per_task import PerTask, ahead, per_task
from bench.compare.published import Published, Row
from bench.compare.ranking import over_orders
from bench.compare.runs import COSTS, FORMULAS, HEADROOM, column_kind
from bench.compare.significance import COMPARED, TOGETHER, Against, Difference, explained
from bench.core.console import one_line
from bench.core.errors import UserError
from bench.core.tables import aligned
from bench.metrics.kinds import FORGETTING, LEARNING, NEEDS, SHOWN
from bench.metrics.over_seeds import spread
from bench.record.flags import in_words

COLUMNS = {kind: (*shown, *((HEADROOM,) if kind == LEARNING else ()), *COSTS) for kind, shown in SHOWN.items()}
"""Kind of runs -> columns of a table after the method and its number of seeds, where no others are chosen."""

DIGITS = {"seconds": 1, "peak_memory_mb": 0}
"""Decimals of a column; 2 for all others."""

SCALE = {"stored_bytes": 1e-6}
"""What a recorded number is multiplied by to be in the unit of its column."""

OPTIONAL = (*NEEDS, HEADROOM)
"""Columns that are only there where a run has them."""

BOUNDS = "reference lines:"
"""The line above rows of bounds and probes."""

PUBLISHED = "published, not measured here:"
"""The line above published rows."""

APART = "published, set apart (extends the model, knows the task of a test image, or may do so):"
"""The line above those of them that are not like the others."""

OPTIONS = ("baseline", "published", "flags", *choice.OPTIONS)
"""Words of the command line that are no filters."""


@dataclass(frozen=True)
class Section:
    """One field with what is shown beside it.

    Attributes
    ----------
    field : ComparableRuns
    against : Against or None
        Differences to the baseline; ``None`` where there is no baseline or nothing else.
    published : Published or None
        What papers say; ``None`` where that may not stand beside these runs.
    choice : Choice
        Which columns are shown, and names that are no labels of rows.
    flags : bool
        Whether the flags of every method are shown.
    """

    field: ComparableRuns
    against: Against | None = None
    published: Published | None = None
    choice: Choice = USUAL
    flags: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Scalars and costs that a table with a row a method shows: of those chosen the ones that its runs can have."""
        if self.choice.columns:
            return tuple(name for name in self.choice.columns if column_kind(name) in (None, self.kind))
        groups = self.field.groups
        return tuple(n for n in COLUMNS[self.kind] if n not in OPTIONAL or any(group.values(n) for group in groups))

    @property
    def papers(self) -> tuple[Row, ...]:
        """The published rows; empty where none may stand beside these runs."""
        return self.published.rows if self.published else ()

    @property
    def kind(self) -> str:
        """What its runs were asked for: ``learning`` or ``forgetting``."""
        return self.field.runs[0].kind

    @cached_property
    def per_task(self) -> PerTask:
        """The metrics for every task, with its name and for the rows and metrics of the choice."""
        made = per_task(self.field, self.published, self.choice.columns, every=True)
        return replace(made, tasks=[self.choice.named(task) for task in made.tasks])

    @cached_property
    def ahead(self) -> dict[str, Group | None]:
        """For each scalar of the columns the group that is shown to be ahead of the next one."""
        return {name: ahead(self.field.groups, name) for name in self.columns if name in SHOWN[self.kind]}


def sections(comparison: Comparison, options: Mapping[str, str] | None = None) -> list[Section]:
    """Return every field with its differences to a baseline and its published numbers.

    Parameters
    ----------
    comparison : Comparison
    options : mapping of str to str, optional
        ``baseline``: see `bench.compare.significance.against`. ``published``: ``on``, the default, or ``off``.
        ``flags``: ``off``, the default, or ``on``. The others: see `bench.compare.choice.read`.

    Returns
    -------
    list of Section
        One a field with chosen rows, in the same order.

    Raises
    ------
    UserError
        If nothing is called like the baseline, ``published`` or ``flags`` is neither, or a choice fits nothing.
    """
    options = options or {}
    baseline, quoted, flags = options.get("baseline"), options.get("published", "on"), options.get("flags", "off")
    for name, said in (("published", quoted), ("flags", flags)):
        if said not in ("on", "off"):
            raise UserError(f"{name}={said} must be on or off")
    chosen = choice.read(options)
    tables = [
        published.beside(one.stream, one.model, one.conditions) if quoted == "on" else None for one in comparison.fields
    ]
    fields, tables = choice.applied(chosen, comparison.fields, tables)
    choice.check_columns(chosen, fields)
    if baseline is not None:
        significance.check_baseline(fields, baseline)
    return [
        Section(one, significance.against(one, baseline), table, chosen, flags == "on")
        for one, table in zip(fields, tables, strict=True)
    ]


# --------------------------------------------------------------------------------------------------- text


def text(comparison: Comparison, laid_out: Sequence[Section], bold: bool = False) -> str:
    """Return a comparison as text: a table for every section, the formulas, and what was left out.

    Parameters
    ----------
    comparison : Comparison
    laid_out : sequence of Section
        See `sections`.
    bold : bool
        Whether the mean that is shown to be ahead is printed in bold, by an ANSI escape sequence.

    Returns
    -------
    str
        Blocks with an empty line between them.
    """
    blocks = [_block(section, bold) for section in laid_out]
    if laid_out:
        requests = all(section.kind == FORGETTING for section in laid_out)
        shown, title = dict.fromkeys(name for section in laid_out for name in section.columns), laid_out[0].choice.title
        formulas = [f"  {title(name)} = {name} = {FORMULAS[name]}" for name in shown if name in FORMULAS]
        blocks.append(
            "mean ± standard error over n seeds; a[i,j] = percent correct on test set j after "
            + ("request i, row 0 = model before the first" if requests else "task i, row 0 = untrained model")
            + "".join(f"\n{line}" for line in formulas)
            + _requests(laid_out)
        )
    return "\n\n".join([*blocks, *left_out(comparison)])


def _requests(laid_out: Sequence[Section]) -> str:
    """Return what formulas about requests to forget need; nothing where there are none."""
    if not any(section.kind == FORGETTING for section in laid_out):
        return ""
    return (
        "\n  requests to forget: j = 1..T are test sets of their classes, K of classes that no request names, M of "
        "those without training images, P of other data; D_i, R_i are Drop, Retained of request i; "
        "of Forgotten and Relapse less is better"
    )


def left_out(comparison: Comparison) -> list[str]:
    """Return the block of text about runs whose numbers are not used; nothing where there are none."""
    lines = [one_line(f"  {path}: {reason}") for path, reason in comparison.left_out]
    return ["\n".join(["left out:", *lines])] if lines else []


def cell(group: Group, name: str, plus_minus: str = " ± ") -> str:
    """Write mean and standard error over the seeds of a group; where some lack the value, how many have it.

    Parameters
    ----------
    group : Group
    name : str
        One of the `COLUMNS`.
    plus_minus : str
        What stands between the two.

    Returns
    -------
    str
        ``-`` where no seed has the value.
    """
    known = [value * SCALE.get(name, 1) for value in group.values(name).values()]
    if not known:
        return "-"
    over, digits = spread(known), DIGITS.get(name, 2)
    written = f"{over.mean:.{digits}f}"
    if over.standard_error is not None:
        written += f"{plus_minus}{over.standard_error:.{digits}f}"
    return written if len(known) == group.n else f"{written} ({over.n})"


def _block(section: Section, bold: bool) -> str:
    """Lay out one section: title, table, what its labels leave unsaid, differences, published numbers, notes."""
    columns, title = section.columns, section.choice.title
    rows = [["Method", "n", *(title(name) for name in columns)]]
    strong = set()
    for number, group in enumerate(section.field.groups, start=1):
        rows.append([group.label, group.counted, *(cell(group, name) for name in columns)])
        strong |= {(number, at) for at, name in enumerate(columns, start=2) if section.ahead.get(name) is group}
    lines = aligned([*rows, *quoted(section)], strong if bold else ())
    start = len(lines) - len(section.papers)
    for at, caption in reversed(captions(section.papers).items()):
        lines.insert(start + at, caption)
    if (first := first_bound(section.field.groups)) is not None:
        lines.insert(2 + first, BOUNDS)  # below the head and its rule
    compared = any(name in COMPARED[section.kind] for name in columns)
    differences = ["", *_differences(section, section.against)] if section.against and compared else []
    return "\n".join([*heading(section), *lines, *below(section), *map(one_line, differences)])


def first_bound(groups: Sequence[Group]) -> int | None:
    """Return where the bounds among rows begin; None where there are none, or nothing else."""
    first = next((at for at, group in enumerate(groups) if group.bound), 0)
    return first or None


def heading(section: Section) -> list[str]:
    """Return what stands above a table: its stream and model, and what tells it from others of both."""
    lines = [section.field.title]
    if section.field.apart:
        other = ", ".join(section.field.apart)
        lines.append(f"not comparable with other tables of this stream and model: other {other}")
    return [one_line(line) for line in lines]


def below(section: Section) -> list[str]:
    """Return what stands below a table: what labels leave unsaid, notes, and where published numbers come from."""
    lines = []
    for group in section.field.groups:
        if group.label != group.method and group.fingerprint in group.label:
            lines.append(f"  {group.label}: {own_settings(group, ' (see bench diff)')}")
    if section.flags:
        lines += [f"  {group.label}: {in_words(group.flags)}" for group in section.field.groups]
    lines += over_orders(section.field, section.columns, section.choice.title)
    lines += [f"  note: {note}" for note in section.field.notes]
    if section.published:
        lines += [f"  {line}" for line in provenance(section.published)]
    return [one_line(line) for line in lines]


def own_settings(group: Group, hint: str, shown: int = 4) -> str:
    """Return, in short, the settings that tell a group from others of its method; where some are left out, a hint."""
    parts = [f"{key}={value}" for key, value in group.apart.items()]
    more = f", and {len(parts) - shown} more{hint}" if len(parts) > shown else ""
    return ", ".join(parts[:shown]) + more or "the same settings, recorded by another version"


def quoted(section: Section) -> list[list[str]]:
    """Return the published rows of a section as cells.

    Parameters
    ----------
    section : Section

    Returns
    -------
    list of list of str
        The method with the number of its source in `provenance`, ``-`` for the seeds, and the columns of the section.
    """
    rows = []
    for row in section.papers:
        values = map(row.value, section.columns)
        rows.append([cited(section, row), "-", *("-" if value is None else f"{value:.1f}" for value in values)])
    return rows


def captions(rows: Sequence[Row]) -> dict[int, str]:
    """Return the lines above published rows by the row that each stands above, in this order."""
    first = next((at for at, row in enumerate(rows) if row.apart), len(rows))
    return ({0: PUBLISHED} if first else {}) | ({first: APART} if first < len(rows) else {})


def cited(section: Section, row: Row) -> str:
    """Return the method of a published row with the number of its source in `provenance`."""
    return f"{row.method} [{_numbered(section.published)[row.source]}]"


def provenance(table: Published) -> list[str]:
    """Return where published numbers come from, and what to know before comparing.

    Parameters
    ----------
    table : Published

    Returns
    -------
    list of str
        Sources with their numbers, notes on the table, remarks with the methods that they are about.
    """
    lines = [f"[{number}] {source}" for source, number in _numbered(table).items()]
    remarks: dict[str, list[str]] = {}
    for row in table.rows:
        remarks.setdefault(row.remarks, []).append(row.method)
    said = [f"{remark}: {', '.join(methods)}" for remark, methods in remarks.items() if remark]
    return [*lines, *table.notes, *said]


def _numbered(table: Published | None) -> dict[str, int]:
    """Return every source with its number, from 1."""
    sources = dict.fromkeys(row.source for row in table.rows) if table else {}
    return {source: number for number, source in enumerate(sources, start=1)}


def _differences(section: Section, against: Against) -> list[str]:
    """Lay out the differences to the baseline: a line for every method and scalar, and what the intervals are."""
    rows = []
    for group, differences in against.rows:
        for number, one in enumerate(one for one in differences if one.scalar in section.columns):
            title = section.choice.title(one.scalar)
            rows.append(["" if number else group.label, title, *_interval(one), one.over])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"difference to {against.baseline.label} ({100 * TOGETHER:g} % interval)"]
    for label, scalar, mean, interval, verdict, over in rows:
        cells = [label.ljust(widths[0]), scalar.ljust(widths[1]), mean.rjust(widths[2]), interval.ljust(widths[3])]
        lines.append("  " + "  ".join([*cells, verdict.ljust(widths[4]), over]).rstrip())
    return lines + [f"  {line}" for line in explained(against)]


def _interval(one: Difference) -> tuple[str, str, str]:
    """Write a difference, its interval, and whether it shows anything."""
    if one.mean is None:
        return "-", "", ""
    if one.low is None or one.high is None:
        return f"{one.mean:+.2f}", "", ""
    return f"{one.mean:+.2f}", f"[{one.low:+.2f}, {one.high:+.2f}]", "" if one.shown else "no difference shown"

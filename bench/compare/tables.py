"""Many runs side by side as text: a table for every field of runs that may be compared (bench/compare/grouping.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.compare import published, significance
from bench.compare.grouping import ComparableRuns, Comparison, Group
from bench.compare.published import Published
from bench.compare.runs import COSTS, SHOWN, TITLES
from bench.compare.significance import TOGETHER, Against, Difference
from bench.core.console import one_line
from bench.core.errors import UserError
from bench.metrics.scalars import FORMULAS, spread

COLUMNS = (*SHOWN, *COSTS)
"""Columns of a table after the method and its number of seeds."""

DIGITS = {"seconds": 1, "peak_memory_mb": 0}
"""Decimals of a column; 2 for all others."""

SCALE = {"stored_bytes": 1e-6}
"""What a recorded number is multiplied by to be in the unit of its column."""

OPTIONS = ("baseline", "published")
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
    """

    field: ComparableRuns
    against: Against | None = None
    published: Published | None = None


def sections(comparison: Comparison, options: Mapping[str, str] | None = None) -> list[Section]:
    """Return every field with its differences to a baseline and its published numbers.

    Parameters
    ----------
    comparison : Comparison
    options : mapping of str to str, optional
        ``baseline``: see `bench.compare.significance.against`. ``published``: ``on``, the default, or ``off``.

    Returns
    -------
    list of Section
        One a field, in the same order.

    Raises
    ------
    UserError
        If nothing is called like the baseline, or ``published`` is neither.
    """
    options = options or {}
    baseline, quoted = options.get("baseline"), options.get("published", "on")
    if quoted not in ("on", "off"):
        raise UserError(f"published={quoted} must be on or off")
    if baseline is not None:
        significance.check_baseline(comparison.fields, baseline)
    return [
        Section(
            field,
            significance.against(field, baseline),
            published.beside(field.stream, field.model, field.conditions) if quoted == "on" else None,
        )
        for field in comparison.fields
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
        Whether the best mean of every accuracy is printed in bold, by an ANSI escape sequence.

    Returns
    -------
    str
        Blocks with an empty line between them.
    """
    blocks = [_block(section, bold) for section in laid_out]
    if laid_out:
        formulas = [f"  {TITLES[name]} = {name} = {FORMULAS[name]}" for name in SHOWN]
        blocks.append(
            "mean ± standard error over n seeds; a[i,j] = percent correct on test set j after task i, "
            "row 0 = untrained model\n" + "\n".join(formulas)
        )
    if comparison.left_out:
        blocks.append(
            "\n".join(["left out:", *(one_line(f"  {path}: {reason}") for path, reason in comparison.left_out)])
        )
    return "\n\n".join(blocks)


def best(field: ComparableRuns) -> dict[str, list[Group]]:
    """Return which groups have the highest mean of an accuracy.

    Parameters
    ----------
    field : ComparableRuns

    Returns
    -------
    dict of str to list of Group
        Scalar -> the groups with the highest mean as it is printed; none where all have the same.
    """
    winners = {}
    for name in SHOWN:
        values = {group.label: group.values(name).values() for group in field.groups}
        means = {label: float(f"{spread(known).mean:.2f}") for label, known in values.items() if known}
        top = max(means.values(), default=0.0)
        highest = [group for group in field.groups if means.get(group.label) == top]
        winners[name] = highest if len(highest) < len(means) else []
    return winners


def cell(group: Group, name: str, plus_minus: str = " ± ") -> str:
    """Write mean and standard error over the seeds of a group; where some lack the value, how many have it.

    Parameters
    ----------
    group : Group
    name : str
        One of `COLUMNS`.
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
    return written if len(known) == len(group.runs) else f"{written} ({over.n})"


def _block(section: Section, bold: bool) -> str:
    """Lay out one section: title, table, what its labels leave unsaid, differences, published numbers, notes."""
    field = section.field
    winners = best(field)
    rows = [["Method", "n", *(TITLES[name] for name in COLUMNS)]]
    strong = set()
    for number, group in enumerate(field.groups, start=1):
        rows.append([group.label, str(len(group.runs)), *(cell(group, name) for name in COLUMNS)])
        strong |= {(number, column) for column, name in enumerate(COLUMNS, start=2) if group in winners.get(name, [])}
    theirs = quoted(section.published)
    rows += theirs
    lines = _aligned(rows, strong if bold else ())
    if theirs:
        lines.insert(len(lines) - len(theirs), "published, not measured here:")
    if field.apart:
        other = ", ".join(field.apart)
        lines.insert(0, one_line(f"not comparable with other tables of this stream and model: other {other}"))
    lines.insert(0, one_line(field.title))
    below = []
    for group in field.groups:
        if group.label != group.method and group.fingerprint in group.label:
            below.append(f"  {group.label}: {_settings(group)}")
    below += [f"  note: {note}" for note in field.notes]
    if section.published:
        below += [f"  {line}" for line in provenance(section.published)]
    if section.against:
        below += ["", *_differences(section.against)]
    return "\n".join([*lines, *map(one_line, below)])


def _settings(group: Group, shown: int = 4) -> str:
    """Return, in short, the settings that tell a group from others of its method."""
    parts = [f"{key}={value}" for key, value in group.apart.items()]
    more = f", and {len(parts) - shown} more (see bench diff)" if len(parts) > shown else ""
    return ", ".join(parts[:shown]) + more or "the same settings, recorded by another version"


def quoted(table: Published | None) -> list[list[str]]:
    """Return the rows of a published table as cells.

    Parameters
    ----------
    table : Published or None

    Returns
    -------
    list of list of str
        The method with the number of its source in `provenance`, ``-`` for the seeds, and `COLUMNS`.
    """
    if table is None:
        return []
    numbers = _numbered(table)
    rows = []
    for row in table.rows:
        values = [row.value(name) for name in COLUMNS]
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        rows.append([f"{row.method} [{numbers[row.source]}]", "-", *cells])
    return rows


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


def _numbered(table: Published) -> dict[str, int]:
    """Return every source with its number, from 1."""
    return {source: number for number, source in enumerate(dict.fromkeys(row.source for row in table.rows), start=1)}


def _differences(against: Against) -> list[str]:
    """Lay out the differences to the baseline: a line for every method and scalar, and what the intervals are."""
    rows = []
    for group, differences in against.rows:
        for number, one in enumerate(differences):
            rows.append(["" if number else group.label, TITLES[one.scalar], *_interval(one), one.over])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"difference to {against.baseline.label} ({100 * TOGETHER:g} % interval)"]
    for label, scalar, mean, interval, verdict, over in rows:
        cells = [label.ljust(widths[0]), scalar.ljust(widths[1]), mean.rjust(widths[2]), interval.ljust(widths[3])]
        lines.append("  " + "  ".join([*cells, verdict.ljust(widths[4]), over]).rstrip())
    return lines + [f"  {line}" for line in explained(against)]


def explained(against: Against) -> list[str]:
    """Return in words what the intervals of differences are.

    Parameters
    ----------
    against : Against

    Returns
    -------
    list of str
        Sentences; none where there are no intervals.
    """
    over = [one.over for _, differences in against.rows for one in differences if one.low is not None]
    lines = []
    if any("seeds" in one for one in over):
        lines.append("over seeds: paired t interval over the seeds that both have")
    if any("images" in one for one in over):
        lines.append("over images: paired bootstrap within every test set; says nothing about other seeds")
    if len(against.rows) > 1 and over:
        lines.append(
            f"{len(against.rows)} methods are compared with {against.baseline.label}: each interval has "
            f"{100 * against.level:.4g} %, so that all of one scalar hold together "
            f"with {100 * TOGETHER:g} % (Bonferroni)"
        )
    return lines


def _interval(one: Difference) -> tuple[str, str, str]:
    """Write a difference, its interval, and whether it shows anything."""
    if one.mean is None:
        return "-", "", ""
    if one.low is None or one.high is None:
        return f"{one.mean:+.2f}", "", ""
    return f"{one.mean:+.2f}", f"[{one.low:+.2f}, {one.high:+.2f}]", "" if one.shown else "no difference shown"


def _aligned(rows: list[list[str]], strong: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Pad the cells of a table: the first column to the left, the others to the right, a rule below the head.

    Parameters
    ----------
    rows : list of list of str
        The head first.
    strong : iterable of (int, int)
        Rows and columns of cells in bold.

    Returns
    -------
    list of str
        Lines.
    """
    rows = [[one_line(one) for one in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    strong = set(strong)
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(one.rjust(w) for one, w in zip(row[1:], widths[1:], strict=True))]
        cells = [f"\x1b[1m{one}\x1b[0m" if (number, column) in strong else one for column, one in enumerate(cells)]
        lines.append("  ".join(cells))
    return [lines[0], "-" * len(lines[0]), *lines[1:]]

"""Many runs side by side: one table for the runs that may be compared (bench/results.py)."""

from __future__ import annotations

from collections.abc import Iterable

from bench.metrics import FORMULAS, spread
from bench.results import COSTS, SHOWN, TITLES, Comparison, Field, Group

COLUMNS = (*SHOWN, *COSTS)
"""Columns of a table after the method and its number of seeds."""

DIGITS = {"seconds": 1, "peak_memory_mb": 0}
"""Decimals of a column; 2 where nothing is said."""

SCALE = {"stored_bytes": 1e-6}
"""What a recorded number is multiplied by to be in the unit of its column."""


def table(comparison: Comparison, bold: bool = False) -> str:
    """Return a comparison as text: a table for every field, the formulas, and what was left out.

    Parameters
    ----------
    bold
        Print the best mean of every accuracy in bold, by an ANSI escape sequence.
    """
    sections = [_section(field, bold) for field in comparison.fields]
    if sections:
        formulas = [f"  {TITLES[name]} = {name} = {FORMULAS[name]}" for name in SHOWN]
        sections.append(
            "mean ± standard error over n seeds; a[i,j] = percent correct on test set j after task i, "
            "row 0 = untrained model\n" + "\n".join(formulas)
        )
    if comparison.left_out:
        sections.append("left out:\n" + "\n".join(f"  {path}: {reason}" for path, reason in comparison.left_out))
    return "\n\n".join(sections)


def best(field: Field) -> dict[str, list[Group]]:
    """Return per accuracy the groups with the highest mean as it is printed; none where all have the same."""
    found = {}
    for name in SHOWN:
        means = [
            (group, f"{spread(values.values()).mean:.2f}") for group in field.groups if (values := group.values(name))
        ]
        top = max((float(mean) for _, mean in means), default=0.0)
        winners = [group for group, mean in means if float(mean) == top]
        found[name] = winners if len(winners) < len(means) else []
    return found


def cell(group: Group, name: str, plus_minus: str = " ± ") -> str:
    """Write mean and standard error over the seeds of a group; where some lack the value, how many have it."""
    known = [value * SCALE.get(name, 1) for value in group.values(name).values()]
    if not known:
        return "-"
    over, digits = spread(known), DIGITS.get(name, 2)
    text = f"{over.mean:.{digits}f}"
    if over.standard_error is not None:
        text += f"{plus_minus}{over.standard_error:.{digits}f}"
    return text if len(known) == len(group.runs) else f"{text} ({over.n})"


def _section(field: Field, bold: bool) -> str:
    """Lay out one field: title, table, what its labels leave unsaid, notes."""
    winners = best(field)
    rows = [["Method", "n", *(TITLES[name] for name in COLUMNS)]]
    strong = set()
    for number, group in enumerate(field.groups, start=1):
        rows.append([group.label, str(len(group.runs)), *(cell(group, name) for name in COLUMNS)])
        strong |= {(number, column) for column, name in enumerate(COLUMNS, start=2) if group in winners.get(name, [])}
    lines = [field.title, *_aligned(rows, strong if bold else ())]
    for group in field.groups:
        if group.label != group.method and group.fingerprint in group.label:
            lines.append(f"  {group.label}: {_told(group)}")
    lines += [f"  note: {note}" for note in field.notes]
    return "\n".join(lines)


def _told(group: Group, shown: int = 4) -> str:
    """Say, in short, which settings tell a group from others of its method."""
    parts = [f"{key}={value}" for key, value in group.apart.items()]
    more = f", and {len(parts) - shown} more (see bench diff)" if len(parts) > shown else ""
    return ", ".join(parts[:shown]) + more or "the same settings, recorded by another version"


def _aligned(rows: list[list[str]], strong: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Pad the cells of a table: the first column to the left, the others to the right, a rule below the head.

    Parameters
    ----------
    strong
        Rows and columns of cells in bold.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    strong = set(strong)
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(one.rjust(w) for one, w in zip(row[1:], widths[1:], strict=True))]
        cells = [f"\x1b[1m{one}\x1b[0m" if (number, place) in strong else one for place, one in enumerate(cells)]
        lines.append("  ".join(cells))
    return [lines[0], "-" * len(lines[0]), *lines[1:]]

"""Text tables and paragraphs that fit the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence

from bench.core.console import one_line

NARROWEST = 8
"""Columns as narrow as this are not wrapped any further."""

SMALLEST = 72
"""Terminals narrower than this are treated as if they were this wide."""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> str:
    """Return a text table that fits the terminal: all columns but the first are wrapped if necessary.

    Parameters
    ----------
    headers : sequence of str
        One for each column.
    rows : iterable of sequence of str
        The cells; columns that are empty in all rows are left out.
    indent : str, optional
        Before every line.

    Returns
    -------
    str
    """
    cells = [list(headers), *(list(row) for row in rows)]
    kept = [column for column in range(len(headers)) if any(row[column] for row in cells[1:])]
    cells = [[row[column] for column in kept] for row in cells]
    widths = [max(len(row[column]) for row in cells) for column in range(len(kept))]
    room = _width() - len(indent) - 2 * (len(kept) - 1)
    while sum(widths) > room and max(widths[1:], default=0) > NARROWEST:
        widths[widths.index(max(widths[1:]), 1)] -= 1
    lines = []
    for row in cells:
        wrapped = [textwrap.wrap(text, width) or [""] for text, width in zip(row, widths, strict=True)]
        for line in range(max((len(part) for part in wrapped), default=0)):
            parts = [part[line] if line < len(part) else "" for part in wrapped]
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def wrap(text: str, first: str = "  ", rest: str = "  ") -> str:
    """Return a paragraph that fits the terminal.

    Parameters
    ----------
    text : str
    first : str, optional
        Before the first line.
    rest : str, optional
        Before every other line.

    Returns
    -------
    str
    """
    return textwrap.fill(text, _width(), initial_indent=first, subsequent_indent=rest)


def _width() -> int:
    return max(shutil.get_terminal_size((100, 24)).columns, SMALLEST)


def aligned(rows: list[list[str]], strong: Iterable[tuple[int, int]] = ()) -> list[str]:
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

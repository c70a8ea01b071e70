"""The accuracy matrix as text for a terminal, with Transfer, Average and Last below it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from bench.metrics.matrix import ZERO_SHOT, AccuracyMatrix
from bench.metrics.scalars import average_columns, last_columns, mean, summary, transfer_columns

LEGEND = "percent correct; rows: after each task; columns: test sets; * just learned; - missing"


def abbreviate(names: Sequence[str], width: int) -> list[str]:
    """Cut names to ``width`` characters; those that would look alike end in their position, counted from 1."""
    cut = [name[:width] for name in names]
    return [
        short if cut.count(short) == 1 else short[: max(0, width - len(str(place)))] + str(place)
        for place, short in enumerate(cut, start=1)
    ]


def render(matrix: AccuracyMatrix, after: int | None = None, width: int | None = None) -> str:
    """Return the matrix as text for a terminal; columns that do not fit go to a further block below.

    Parameters
    ----------
    matrix : AccuracyMatrix
    after : int, optional
        Last row to show, 0..T; by default all of them.
    width : int, optional
        Characters a line may take; by default the width of the terminal (100 when there is none).

    Raises
    ------
    IndexError
        If there is no row `after`.
    """
    size = len(matrix.tasks)
    after = size if after is None else after
    width = width or shutil.get_terminal_size(fallback=(100, 24)).columns
    if not 0 <= after <= size:
        raise IndexError(f"row {after} lies outside rows 0..{size}")
    # One entry per line: label, a value per task and their mean, and the column to mark.
    lines: list[tuple[str, list[float | None], float | None, int]] = []
    if after < size:  # what is not shown does not count below either
        matrix = matrix.until(after)
    for row in range(after + 1):
        values = [matrix.cell(row, column).accuracy for column in range(size)]
        lines.append((matrix.label(row), values, _mean_if_all(values), row - 1))
    below = [
        ("Transfer", transfer_columns(matrix), "transfer_by_column"),
        ("Average", average_columns(matrix), "average_mtil"),
        ("Last", last_columns(matrix), "last"),
    ]
    scalars = summary(matrix)
    lines += [(label, values, scalars[name], -1) for label, values, name in below]

    labels = [ZERO_SHOT, *matrix.tasks]
    number = max(len(_one_decimal(value)) for _, values, over, _ in lines for value in [*values, over, 10.0])
    longest = max(len(label) for label in labels)
    # Names are shown in full where they fit; rows are cut last. The narrowest cell is " 62.6*".
    choices = [(stub, cell) for stub in (16, 9) for cell in range(min(16, longest + 2), number + 1, -1)]
    for stub, cell in choices or [(9, number + 2)]:
        stub = max(9, min(stub, longest))
        if stub + (size + 1) * cell <= width + 1:
            break
    per_block = max(1, (width + 1 - stub) // cell - 1)
    names = abbreviate(matrix.tasks, cell - 2)
    stubs = [ZERO_SHOT, *abbreviate(matrix.tasks, stub)][: after + 1] + [label for label, *_ in below]

    out: list[str] = []
    for start in range(0, size, per_block):
        part = range(start, min(start + per_block, size))
        final = part.stop == size
        head = " " * stub + "".join(f"{names[column]:>{cell - 1}} " for column in part)
        block = [(head + f"{'mean':>{cell - 1}}" if final else head).rstrip()]
        for place, (name, (_, values, over, marked)) in enumerate(zip(stubs, lines, strict=True)):
            if place == after + 1:
                block.append("-" * len(block[0]))
            text = f"{name:<{stub}}"
            for column in part:
                text += f"{_one_decimal(values[column]):>{cell - 1}}" + ("*" if column == marked else " ")
            block.append((text + f"{_one_decimal(over):>{cell - 1}}" if final else text).rstrip())
        out += ["", *block] if out else block
    out.append(LEGEND)
    states = [matrix.state(row, column) for row in range(after + 1) for column in range(size)]
    if "reused" in states:
        out.append(f"{states.count('reused')} of {len(states)} cells reused from an earlier row, not measured again")
    return "\n".join(out)


def _mean_if_all(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _one_decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

"""How a finished run compares with those beside it (the line at its end), which runs are best, spread over orders."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.compare.grouping import ComparableRuns, Group, compared
from bench.compare.runs import find, read
from bench.core.tables import aligned
from bench.metrics.kinds import LESS_IS_BETTER, RANKED, SHOWN, TITLES, kind_of
from bench.metrics.over_seeds import sd_within, spread
from bench.metrics.scalars import mean


def standing(directory: Path) -> str:
    """Say how the Last of a run compares with that of others below the same folder, of the same stream and model.

    Of runs that were to forget it is the H-mean.

    Only runs that may be compared with it count (`bench.compare.grouping.ComparableRuns`); runs over seeds count as one
    method with their mean. Only the JSON files of the records are read.

    Parameters
    ----------
    directory : Path
        ``OUT/<stream>/<model>/<method>/<fingerprint>-s<seed>``.

    Returns
    -------
    str
        One sentence; empty where there is no other run, or the number is not defined.
    """
    sets = compared(read(path) for path in find([directory.parents[1]])).fields
    mine = [runs for runs in sets if any(run.path == directory for run in runs.runs)]
    if not mine:
        return ""
    return _sentence(max(mine, key=lambda one: len(one.runs)), directory)  # a run that trains nothing is in several


def _sentence(runs: ComparableRuns, directory: Path) -> str:
    own = next(group for group in runs.groups if any(run.path == directory for run in group.runs.values()))
    scalar = RANKED[runs.runs[0].kind]
    last = {group.label: mean(list(values.values())) for group in runs.groups if (values := group.values(scalar))}
    others = len(runs.runs) - 1
    if not others or own.label not in last:
        return ""
    seeds = f" (mean of {own.counted}{'' if own.orders else ' seeds'})" if len(own.runs) > 1 else ""
    said = (
        f"beside {others} other {'run' if others == 1 else 'runs'} here: {TITLES[scalar]} {last[own.label]:.1f}{seeds}"
    )
    rivals = {group.label for group in runs.groups if not group.bound} & last.keys() - {own.label}
    if rivals:
        rank = 1 + sum(last[label] > last[own.label] for label in rivals)
        first = max((label for label in last if label in rivals), key=lambda label: last[label])
        said += ", a reference line" if own.bound else f", {_ordinal(rank)} of {len(rivals) + 1}"
        said += f" ({'next' if rank == 1 and not own.bound else 'best'}: {first} {last[first]:.1f})"
    folder = directory.parents[3]
    return f"{said}; python -m bench compare {shlex.quote(str(folder))} {shlex.quote(f'stream={runs.stream}')}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def best(field: ComparableRuns) -> dict[str, list[Group]]:
    """Return which groups but bounds have the best mean of a scalar: the highest, of some the lowest.

    Parameters
    ----------
    field : ComparableRuns

    Returns
    -------
    dict of str to list of Group
        Scalar -> the groups with the best mean as it is printed; none where all have the same.
    """
    winners = {}
    for name in SHOWN[field.runs[0].kind]:
        values = {group.label: group.values(name).values() for group in field.groups if not group.bound}
        means = {label: float(f"{spread(known).mean:.2f}") for label, known in values.items() if known}
        top = (min if name in LESS_IS_BETTER else max)(means.values(), default=0.0)
        highest = [group for group in field.groups if means.get(group.label) == top]
        winners[name] = highest if len(highest) < len(means) else []
    return winners


def over_orders(field: ComparableRuns, columns: Sequence[str], title: Callable[[str], str]) -> list[str]:
    """Return the lines that tell the spread over orders of tasks from that over seeds.

    Parameters
    ----------
    field : ComparableRuns
    columns : sequence of str
        Those of the table; of them scalars count.
    title : callable
        Takes a scalar and returns its heading.

    Returns
    -------
    list of str
        None where orders do not differ, or not as well as seeds.
    """
    scalars = [name for name in columns if kind_of(name)]
    groups = [group for group in field.groups if len(group.orders) > 1]
    if not groups or not scalars:
        return []
    rows = [["standard deviation", *map(title, scalars)]]
    for group in groups:
        means = [spread(known).sd if (known := list(group.values(name).values())) else None for name in scalars]
        rows.append([f"{group.label}, over {len(group.orders)} orders", *map(_points, means)])
        within = [sd_within(_by_order(group, name)) for name in scalars]
        rows.append([f"{group.label}, over {group.counted.partition(' x ')[2]} of an order", *map(_points, within)])
    return ["", *aligned(rows), "  over orders: of means over seeds; over seeds: pooled over orders"]


def _by_order(group: Group, name: str) -> list[list[float]]:
    """Return a scalar for the seeds of each order."""
    by_order = [[group.runs[key].value(name) for key in keys] for keys in group.orders.values()]
    return [[value for value in values if value is not None] for values in by_order]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

"""Where a finished run stands among those beside it: the line at the end of a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.compare.runs import Field, compared, find, read
from bench.metrics.scalars import mean


def standing(directory: Path) -> str:
    """Say how the Last of a run compares with that of others below the same folder, of the same stream and model.

    Only runs that may be compared with it count (`bench.compare.runs.Field`); runs over seeds count as one method with their
    mean. Of the records only the JSON files are read.

    Parameters
    ----------
    directory
        ``OUT/<stream>/<model>/<method>/<fingerprint>-s<seed>``.

    Returns
    -------
    str
        One sentence; empty where there is no other run, or Last is not defined.
    """
    fields = compared(read(path) for path in find([directory.parents[1]])).fields
    mine = [place for place in fields if any(run.path == directory for run in place.records)]
    if not mine:
        return ""
    place = max(mine, key=lambda one: len(one.records))  # what trains nothing stands in several
    return _sentence(place, directory)


def _sentence(place: Field, directory: Path) -> str:
    own = next(group for group in place.groups if any(run.path == directory for run in group.runs.values()))
    found = {group.label: mean(list(values.values())) for group in place.groups if (values := group.values("last"))}
    others = len(place.records) - 1
    if not others or own.label not in found:
        return ""
    ranked = sorted(found, key=lambda label: -found[label])
    place_of_own = 1 + sum(value > found[own.label] for value in found.values())
    seeds = f" (mean of {len(own.runs)} seeds)" if len(own.runs) > 1 else ""
    told = f"beside {others} other {'run' if others == 1 else 'runs'} here: Last {found[own.label]:.1f}{seeds}"
    if len(found) > 1:
        told += f", {_ordinal(place_of_own)} of {len(found)}"
        first = next(label for label in ranked if label != own.label)
        told += f" ({'next' if place_of_own == 1 else 'best'}: {first} {found[first]:.1f})"
    folder = directory.parents[3]
    return f"{told}; python -m bench compare {shlex.quote(str(folder))} {shlex.quote(f'stream={place.stream}')}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"

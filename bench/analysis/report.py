"""What an analysis found: as files of comma-separated values, and as tables in words."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from bench.analysis.measure import PARTS, Measured
from bench.analysis.subspaces import Overlap
from bench.core.tables import aligned
from bench.metrics.scalars import mean

PARTS_COLUMNS = (
    "test_set", "learned", "towers", "part", "energy", "directions", "correct", "total", "accuracy", "chance",
)  # fmt: skip

OVERLAP_COLUMNS = (
    "tower", "task", "other", "energy", "overlap", "by_chance", "angle", "dimension", "dimension_of_other", "maps",
)  # fmt: skip

Groups = Mapping[str, Sequence[int]]
"""What a mean is over, in words -> the positions of the test sets."""


def groups(learned: Sequence[bool]) -> dict[str, list[int]]:
    """Return over which test sets means are taken: all, and, where there are both, those learned and the others.

    Parameters
    ----------
    learned : sequence of bool
        Whether the task of each test set was learned.
    """
    named = {f"all {len(learned)} test sets": list(range(len(learned)))}
    if len(set(learned)) > 1:
        for name, wanted in (("learned", True), ("not learned", False)):
            chosen = [index for index, one in enumerate(learned) if one is wanted]
            named[f"{len(chosen)} {name}"] = chosen
    return named


def parts_csv(
    measured: Sequence[Measured], names: Sequence[str], learned: Sequence[bool], by_chance: Sequence[float]
) -> str:
    """Return one line for every test set in every state; accuracy and chance in percent, directions as a share."""
    rows = [
        (
            name, "yes" if learned[index] else "no", one.state.place, one.state.part, one.state.energy,
            round(one.directions, 6), one.correct[index], one.total[index], round(one.accuracies[index], 4),
            round(by_chance[index], 4),
        )
        for one in measured
        for index, name in enumerate(names)
    ]  # fmt: skip
    return _csv(PARTS_COLUMNS, rows)


def overlaps_csv(measured: Sequence[Overlap]) -> str:
    """Return one line for every two subspaces; ``other`` is empty for the weights, ``energy`` for two tasks."""
    rows = [
        (
            one.tower, one.task, one.other or "", "" if one.energy is None else one.energy,
            *("" if math.isnan(value) else round(value, 6) for value in (one.overlap, one.by_chance, one.angle)),
            *(round(value, 6) for value in one.dimensions), one.maps,
        )
        for one in measured
    ]  # fmt: skip
    return _csv(OVERLAP_COLUMNS, rows)


def parts_table(measured: Sequence[Measured], chosen: Sequence[int], title: str) -> str:
    """Return mean accuracies in percent: a line an energy, two columns for every place where weights are replaced.

    Parameters
    ----------
    measured : sequence of Measured
    chosen : sequence of int
        Positions of the test sets.
    title : str
        What the mean is over.
    """
    by_state = {(one.state.place, one.state.part, one.state.energy): one for one in measured}
    places = list(dict.fromkeys(one.state.place for one in measured))
    energies = list(dict.fromkeys(one.state.energy for one in measured))
    rows = [["energy", "directions", *(f"{place} {part}" for place in places for part in PARTS)]]
    for energy in energies:
        cells = [by_state[place, part, energy] for place in places for part in PARTS]
        means = [f"{mean([one.accuracies[index] for index in chosen]):.1f}" for one in cells]
        rows.append([f"{energy:.4g}", f"{100 * by_state[places[-1], PARTS[0], energy].directions:.0f} %", *means])
    return "\n".join([f"accuracy (%), mean over {title}", *aligned(rows)])


def overlaps_table(measured: Sequence[Overlap]) -> str:
    """Return means over tasks: overlaps of two tasks, and of a task with the weights at every energy."""
    rows = [["overlap of a task with", "tower", "mean", "lowest", "highest", "by chance", "mean angle"]]
    kinds = list(dict.fromkeys((one.tower, one.other is None, one.energy) for one in measured))
    for tower, of_weights, energy in kinds:
        those = [
            one for one in measured
            if (one.tower, one.other is None, one.energy) == (tower, of_weights, energy) and one.maps
        ]  # fmt: skip
        if not those:
            continue
        values = [one.overlap for one in those]
        numbers = [mean(values), min(values), max(values), mean([one.by_chance for one in those])]
        name = f"weights, energy {energy:.4g}" if of_weights else "another task"
        angle = f"{mean([one.angle for one in those]):.0f} deg"
        rows.append([name, tower, *(f"{value:.2f}" for value in numbers), angle])
    return "\n".join(aligned(rows))


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()

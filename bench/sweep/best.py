"""Which setting of a sweep is the best by a metric, as the mean over its seeds.

What is chosen is a pure function of the points and their records: `best` shows it with the line that runs it again, and
`choose` returns it with all that led to it, for the file that ``tune`` writes.
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.chosen import Chosen
from bench.config.fingerprint import decides
from bench.config.resolve import read, resolve
from bench.config.run_settings import CHOICES, Resolved
from bench.config.values import GIVEN
from bench.config.words import pair
from bench.core.errors import UserError, shorten
from bench.core.tables import table
from bench.metrics.kinds import FORGETTING, HEADLINES, kind_of
from bench.metrics.over_seeds import spread
from bench.record.schema import Identity
from bench.sweep.options import scalar_of
from bench.sweep.points import Point, metrics_of, ranked

SHOWN = 10
"""Settings that are shown at most."""

OF_THE_CHOICE = ("seed", "evaluate.split", "evaluate.held_out")
"""Settings that a choice on validation images over seeds has, and that a run of what was chosen does without."""

OF_THE_STREAM = ("train.epochs", "train.steps", "train.tasks")
"""Settings that say how long a stream trains: they go with the stream, not with what is chosen for a method."""

TIE = "train.lr"
"""The setting that decides between equal means: the smaller value is the better one."""

ENDS = 3
"""Values of a number from which on the smallest and the largest are said to be the ends of what was tried."""


@dataclass(frozen=True)
class Tried:
    """One setting of a sweep: the points that differ in nothing but the seed.

    Attributes
    ----------
    points : tuple of Point
    values : tuple of float
        The metric of those that are finished.
    """

    points: tuple[Point, ...]
    values: tuple[float, ...]

    @property
    def complete(self) -> bool:
        """Whether every point has a value."""
        return len(self.values) == len(self.points)

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None where one is missing."""
        return spread(self.values).mean if self.complete else None

    @property
    def label(self) -> str:
        """The words that distinguish it from other settings, without the seed."""
        point = self.points[0]
        return re.sub(r"(^| )seed=\S+", "", point.label).strip() or shlex.join(self.words)

    @property
    def words(self) -> list[str]:
        """What stands after ``python -m bench run`` to run it on test images, with the seed of one's choice."""
        pairs = {word: pair(word) for word in self.points[0].words}
        return [word for word, one in pairs.items() if one is None or one.key not in OF_THE_CHOICE]


def deciding(points: Sequence[Point], key: str, word: str | None) -> str:
    """Return the scalar by which settings are ranked.

    Parameters
    ----------
    points : sequence of Point
    key : str
        The word of the command line that names it.
    word : str or None
        What it says, a scalar or a title; None takes ``average``, or ``h_mean`` where all streams ask to forget.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If it is no number of any stream of the points.
    """
    kinds = {point.kind for point in points}
    scalar = scalar_of(word or ("h_mean" if kinds == {FORGETTING} else "average")) or ""
    if kind_of(scalar) not in kinds:
        asks = "forget" if FORGETTING in kinds else "learn"
        titles = ", ".join(name for kind in kinds for name in HEADLINES[kind].values())
        raise UserError(f"{key}={shorten(word or scalar)} is not measured where streams ask to {asks}: choose {titles}")
    return scalar


def tried(points: Sequence[Point], metric: str) -> list[Tried]:
    """Return the settings of a sweep, the best first, those with an unfinished point at the end.

    Of settings with the same mean, to the last digit, the one with the smaller learning rate comes first, and of those
    with the same rate the earlier one of the sweep.

    Parameters
    ----------
    points : sequence of Point
    metric : str
        A scalar of `bench.metrics.scalars`.

    Returns
    -------
    list of Tried
    """
    groups: dict[Path, list[Point]] = {}
    for point in points:  # the folder is named after a hash of all settings but the seed
        groups.setdefault(point.directory.with_name(point.directory.name.rpartition("-s")[0]), []).append(point)
    tried = []
    for members in groups.values():
        values = [metrics_of(point).get(metric) for point in members]
        tried.append(Tried(tuple(members), tuple(value for value in values if value is not None)))
    tried.sort(key=lambda one: _numbers(one).get(TIE, math.inf))
    return [tried[index] for index in ranked([one.mean for one in tried], metric)]


def best(points: Sequence[Point], metric: str, file: Path) -> str:
    """Return the best setting of a sweep, with the others, what weakens the choice, and the line to paste.

    Parameters
    ----------
    points : sequence of Point
    metric : str
        A scalar of `bench.metrics.scalars`.
    file : Path
        The sweep file, for what is said.

    Returns
    -------
    str
        Lines for a terminal.

    Raises
    ------
    UserError
        If no setting is finished with all its seeds, or the metric is not defined for it.
    """
    ranking = tried(points, metric)
    first = ranking[0]
    if first.mean is None:
        raise UserError(
            f"no setting of {file} has {metric} for all its seeds yet: run its points first, with the same line "
            "without best="
        )
    lines = [*comparison(ranking, metric), f"the best, {first.label}, on test images:"]
    return "\n".join([*lines, f"python -m bench run {shlex.join(first.words)}"])


def comparison(ranking: Sequence[Tried], metric: str) -> list[str]:
    """Return a table of settings with what weakens a choice among them, as lines for a terminal.

    Parameters
    ----------
    ranking : sequence of Tried
        As of `tried`; the first one is complete.
    metric : str

    Returns
    -------
    list of str
    """
    split = "test" if any(point.split == "test" for one in ranking for point in one.points) else "validation"
    lines = [f"{metric} on {split} images, the mean over seeds:", "", _table(ranking[:SHOWN], metric)]
    if len(ranking) > SHOWN:
        lines.append(f"  and {len(ranking) - SHOWN} more: status sort={metric} shows every point")
    return [*lines, "", *_notes(ranking, split)]


def choose(ranking: Sequence[Tried], metric: str, grid: str) -> Chosen:
    """Return the best setting of one method, with all that led to it.

    Parameters
    ----------
    ranking : sequence of Tried
        As of `tried`; the first one is complete.
    metric : str
        A scalar of `bench.metrics.scalars`.
    grid : str
        Name of the grid.

    Returns
    -------
    Chosen
        It holds what varies and what else was given of ``method.`` and ``train.``, but no budget of the stream.
    """
    ways = [resolve(one.points[0].words) for one in ranking]
    differ = {key for way in ways for key, value in way.flat.items() if value != ways[0].flat.get(key)}
    held = _given(ways[0]) - {"seed", "evaluate.split"}
    kept = {
        key for key in held if key in differ or (key.startswith(("method.", "train.")) and key not in OF_THE_STREAM)
    }
    points = [point for one in ranking for point in one.points]
    run = ways[0].run
    return Chosen(
        settings=_values(ways[0], kept),
        stream=run.stream,
        model=run.model,
        criterion=metric,
        split=run.evaluate.split,
        seeds=sorted({resolve(point.words).run.seed for point in ranking[0].points}),
        grid=grid,
        under=_values(ways[0], held - kept),
        revisions=sorted({revision for point in points if (revision := _revision(point))}),
        tried=[_record(one, way, kept) for one, way in zip(ranking, ways, strict=True)],
    )


def _given(way: Resolved) -> set[str]:
    """Return the settings that were given and decide the numbers, but for those that name a plug-in or its file."""
    names = {f"{kind}.name" for kind in CHOICES}
    given = {key for key, source in way.sources.items() if source in GIVEN and key not in names and decides(key)}
    return {key for key in given if not key.endswith("_sha256")}


def _values(way: Resolved, keys: set[str]) -> dict[str, Any]:
    return {key: way.flat[key] for key in sorted(keys)}


def _revision(point: Point) -> str | None:
    """Return the state of the code that made a point; None where there is no record."""
    try:
        return Identity.read(point.directory).code_revision
    except (OSError, ValueError):
        return None


def _record(one: Tried, way: Resolved, keys: set[str]) -> dict[str, Any]:
    """Return what a file says of one setting that was tried."""
    mean = {} if one.mean is None else {"mean": round(one.mean, 4)}
    fingerprint = one.points[0].directory.name.rpartition("-s")[0]
    values = [round(value, 4) for value in one.values]
    return {"settings": _values(way, keys), **mean, "values": values, "fingerprint": fingerprint}


def _table(ranking: Sequence[Tried], metric: str) -> str:
    rows = []
    for number, one in enumerate(ranking, 1):
        whole = spread(one.values) if one.complete else None
        error = whole.standard_error if whole else None
        seeds = str(len(one.points)) if whole else f"{len(one.values)} of {len(one.points)}"
        cells = (f"{whole.mean:.1f}" if whole else "", "" if error is None else f"{error:.1f}")
        rows.append((str(number), *cells, seeds, one.label))
    return table(("#", metric, "+-", "seeds", "setting"), rows)


def _notes(ranking: Sequence[Tried], split: str) -> list[str]:
    """Return what weakens the choice, a line each."""
    notes = []
    missing = sum(len(one.points) - len(one.values) for one in ranking)
    if missing:
        are = "1 point is" if missing == 1 else f"{missing} points are"
        notes.append(f"note: {are} not finished; settings that lack one are not ranked")
    if split == "test":
        notes.append(
            "warning: points were scored on test images: what is chosen by them looks better than it is, so sweep with "
            "evaluate.split=validation to choose"
        )
    return notes + _ends(ranking)


def _ends(ranking: Sequence[Tried]) -> list[str]:
    """Return which numbers of the best setting are the smallest or the largest that were tried."""
    numbers = [_numbers(one) for one in ranking if one.complete]
    notes = []
    for key, value in numbers[0].items():
        values = {one[key] for one in numbers if key in one}
        if len(values) >= ENDS and value in (min(values), max(values)):
            end, way = ("smallest", "smaller") if value == min(values) else ("largest", "larger")
            notes.append(f"note: {key}={value:g} is the {end} that was tried: try {way} ones")
    return notes


def _numbers(one: Tried) -> dict[str, float]:
    """Return the values of settings that are written as numbers."""
    numbers = {}
    for key, (_, text) in read(one.words, []).items():
        with contextlib.suppress(ValueError):
            numbers[key] = float(text)
    return numbers

"""How far methods lie apart: paired differences to one of them, with intervals.

Two runs of one seed see the same tasks and images and, as far as the methods let them, the same order of images; two
methods are measured on the same test images. So differences are taken in pairs, which removes what both share.

* Over seeds, where two or more are common: Student's t interval of the paired differences (`scipy.stats.ttest_1samp`
  of these). Where orders of tasks differ as well as seeds: the same over orders, of each the mean over its seeds.
* Over test images, for one common seed or where all seeds give the same difference: the normal interval of a bootstrap
  of pairs within each test set. It says how much the choice of test images matters, and nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from bench.compare.grouping import ComparableRuns, Group, Key
from bench.compare.runs import Run
from bench.config import registry
from bench.config.values import GIVEN
from bench.core.errors import UserError, suggest
from bench.metrics.forgetting import NOT_LINEAR
from bench.metrics.kinds import HEADLINES
from bench.metrics.weights import shape_of, weights_of

COMPARED = {kind: tuple(headlines.values()) for kind, headlines in HEADLINES.items()}
"""Kind of matrix -> the scalars whose differences are shown; most are linear functions of the cells."""

TOGETHER = 0.95
"""Confidence that all intervals of one scalar hold."""

EQUAL = 1e-9
"""Percentages that differ by less are equal: two different counts of images always differ by more."""


@dataclass(frozen=True)
class Difference:
    """One scalar of a method minus that of the baseline.

    Attributes
    ----------
    scalar : str
    mean : float or None
        In percentage points, over all pairs of runs; None without any.
    low, high : float or None
        The interval in percentage points; None where there is none.
    over : str
        What the interval is over, as in ``3 seeds`` or ``700 images of seed 0``; where there is none, why.
    """

    scalar: str
    mean: float | None
    low: float | None
    high: float | None
    over: str

    @property
    def shown(self) -> bool:
        """Whether there is an interval and zero lies outside of it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Against:
    """The differences of all methods of a set of comparable runs to one of them.

    Attributes
    ----------
    baseline : Group
    level : float
        Confidence of each interval: widened after Bonferroni, so that those of one scalar hold together with
        confidence `TOGETHER`. The dependence between them is unknown, and this needs to know nothing about it.
    rows : list of (Group, list of Difference)
        In the order of the groups, each with one difference for every scalar of `COMPARED`.
    """

    baseline: Group
    level: float
    rows: list[tuple[Group, list[Difference]]] = field(default_factory=list)


def against(runs: ComparableRuns, name: str | None = None) -> Against | None:
    """Compare every method of a set of comparable runs with a baseline.

    Parameters
    ----------
    runs : ComparableRuns
    name : str, optional
        Label, method or fingerprint of the baseline; by default the method whose class says so (``baseline``), else the
        first one that trains, and no bound. If several groups have the method, it is the one with the fewest settings
        given by the user, then with the most seeds.

    Returns
    -------
    Against or None
        None where there is no such group, or no other.
    """
    baseline = _baseline(runs.groups, name)
    others = [group for group in runs.groups if group is not baseline]
    if baseline is None or not others:
        return None
    level, kind = level_of(len(others)), runs.runs[0].kind
    rows = [(group, [difference(group, baseline, scalar, level) for scalar in COMPARED[kind]]) for group in others]
    return Against(baseline, level, rows)


def level_of(intervals: int) -> float:
    """Return the confidence that each of some intervals has, so that all hold together with confidence `TOGETHER`.

    Parameters
    ----------
    intervals : int
        How many there are; at least one.

    Returns
    -------
    float
        In (0, 1), after Bonferroni.
    """
    return 1 - (1 - TOGETHER) / intervals


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
    for word in ("seeds", "orders"):
        if any(word in one for one in over):
            lines.append(f"over {word}: paired t interval over the {word} that both have")
    if any("images" in one for one in over):
        lines.append("over images: paired bootstrap within every test set; says nothing about other seeds")
    if len(against.rows) > 1 and over:
        lines.append(
            f"{len(against.rows)} methods are compared with {against.baseline.label}: each interval has "
            f"{100 * against.level:.4g} %, so that all of one scalar hold together "
            f"with {100 * TOGETHER:g} % (Bonferroni)"
        )
    return lines


def check_baseline(sets: Sequence[ComparableRuns], name: str) -> None:
    """Refuse the name of a baseline that is in no set of comparable runs.

    Parameters
    ----------
    sets : sequence of ComparableRuns
    name : str

    Raises
    ------
    UserError
        With the nearest label.
    """
    groups = [group for runs in sets for group in runs.groups]
    if _baseline(groups, name) is None:
        raise UserError(f"baseline={name} is none of the methods here{suggest(name, [g.label for g in groups])}")


def _baseline(groups: Sequence[Group], name: str | None) -> Group | None:
    if name is None:
        defaults = _defaults()
        able = [group for group in groups if not group.bound]
        named = [group for group in able if group.method in defaults] or [group for group in able if group.trains]
        named = [group for group in named if group.method == named[0].method]
    else:
        named = [group for group in groups if name in (group.label, group.method, group.fingerprint)]

    def plainness(group: Group) -> tuple[int, int]:
        first = next(iter(group.runs.values()))
        return sum(first.sources[key] in GIVEN for key in group.apart if key in first.sources), -len(group.runs)

    return min(named, key=plainness, default=None)


def _defaults() -> set[str]:
    """Return the methods whose classes say that others are compared with them; nothing is imported."""
    return {name for name, entry in registry.entries("method").items() if entry.facts.get("baseline") == "True"}


def difference(
    group: Group, baseline: Group, scalar: str, level: float = TOGETHER, task: str | int | None = None
) -> Difference:
    """Return how far a group lies from another in one scalar.

    Parameters
    ----------
    group, baseline : Group
    scalar : str
        One of `COMPARED`.
    level : float, optional
        Confidence of the interval.
    task : str or int, optional
        The task whose own value is compared, by its name or its position from 0; by default the mean over tasks.
    """
    pairs = {key: (run, baseline.runs[key]) for key, run in group.runs.items() if key in baseline.runs}
    pairs = {key: pair for key, pair in pairs.items() if pair[0].data == pair[1].data}
    if not pairs:
        return Difference(scalar, None, None, None, "no seed in common")
    values = {key: (value_of(a, scalar, task), value_of(b, scalar, task)) for key, (a, b) in pairs.items()}
    gaps = {key: a - b for key, (a, b) in values.items() if a is not None and b is not None}
    if not gaps:
        return Difference(scalar, None, None, None, "not defined here")
    units = group.averaged(gaps)
    over = f"{len(units)} {'orders' if group.orders else 'seeds'}"
    numbers = np.array(list(units.values()))
    mean = float(numbers.mean())
    if len(units) > 1 and np.ptp(numbers) > EQUAL:
        low, high = stats.ttest_1samp(numbers, 0).confidence_interval(level)
        return Difference(scalar, mean, float(low), float(high), over)
    first = next(iter(gaps))
    try:
        contributions = image_by_image(*pairs[first], scalar, task)
    except UserError as error:
        return Difference(scalar, mean, None, None, f"no interval: {error}")
    if contributions is None:
        return Difference(scalar, mean, None, None, "no interval: recorded without outcomes")
    low, high = over_images(contributions, level)
    images = sum(map(len, contributions))
    return Difference(scalar, mean, low, high, f"{images} images of {_named(first)}")


def _named(key: Key) -> str:
    return f"seed {key[1]} and order {key[0]}" if isinstance(key, tuple) else f"seed {key}"


def value_of(run: Run, scalar: str, task: str | int | None = None) -> float | None:
    """Return a scalar of a run, or what it is for one task.

    Parameters
    ----------
    run : Run
    scalar : str
        With a task one of `bench.metrics.kinds.COLUMNS`, else any that `bench.compare.runs.Run.value` knows.
    task : str or int, optional
        As for `difference`.

    Returns
    -------
    float or None
        In percent; None where it is not defined, was not recorded or cannot be read.
    """
    if task is None:
        return run.value(scalar)
    try:
        return run.columns[scalar][_column(run, task)]
    except (UserError, ValueError, IndexError):  # a damaged matrix, or one of other tasks
        return None


def _column(run: Run, task: str | int) -> int:
    return task if isinstance(task, int) else run.matrix.tasks.index(task)


# ------------------------------------------------------------------------------------------- test images


def image_by_image(first: Run, second: Run, scalar: str, task: str | int | None = None) -> list[np.ndarray] | None:
    """Return what each test image adds to the difference of two runs in a scalar.

    Parameters
    ----------
    first, second : Run
    scalar : str
        One of `COMPARED`.
    task : str or int, optional
        As for `difference`.

    Returns
    -------
    list of float64 array [images], or None
        One for each test set that the scalar reads, in percentage points: the sum of their means is the difference.
        None where a run was recorded without outcomes.

    Raises
    ------
    UserError
        If a record is damaged, or the test sets are not the same.
    """
    if scalar in NOT_LINEAR:
        raise UserError("it is no sum over images; more seeds give one")
    a, b = first.outcomes, second.outcomes
    if a is None or b is None:
        return None
    if (first.matrix.tasks, first.matrix.others) != (second.matrix.tasks, second.matrix.others):
        raise UserError(f"{first.path} and {second.path} measured other test sets")
    weights = weights_of(scalar, shape_of(first.matrix), None if task is None else _column(first, task))
    contributions = []
    for column in np.flatnonzero(weights.any(axis=0)).tolist():
        total: np.ndarray | float = 0.0
        for row in np.flatnonzero(weights[:, column]).tolist():
            right, other = a.of(first.matrix, row, column), b.of(second.matrix, row, column)
            if right is None or other is None or len(right) != len(other):
                raise UserError(f"{first.path} and {second.path} measured other test sets")
            total = total + weights[row, column] * 100 * (right.astype(float) - other)
        contributions.append(np.asarray(total))
    return contributions


def over_images(contributions: Sequence[np.ndarray], level: float) -> tuple[float, float]:
    """Return the interval of a sum of means of samples, each a test set of its own.

    Resampling the images of every test set by itself, the paired stratified bootstrap, gives the sum a variance that is
    known without drawing: the variances of the samples over their sizes, added up. With it and the normal distribution,
    to which such sums come near, the interval costs nothing, is the same every time, and reaches levels for which
    percentiles of `scipy.stats.bootstrap` would need a hundred thousand draws.

    Parameters
    ----------
    contributions : sequence of float array [images]
        See `image_by_image`.
    level : float
        Confidence of the interval.

    Returns
    -------
    low, high : float
    """
    centre = sum(float(sample.mean()) for sample in contributions)
    variance = sum(float(sample.var()) / len(sample) for sample in contributions)
    half = float(stats.norm.ppf((1 + level) / 2)) * variance**0.5
    return centre - half, centre + half

"""Lay runs out as far as they may be compared: groups over seeds, in sets of comparable runs.

`gather` gives a `Comparison`, from which tables, statistics, pages and pictures are made. It is one file: what may be
compared decides what a group is, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from bench.compare.filters import chosen
from bench.compare.runs import ABSENT, DATA, HEADROOM, Run, find, read, sharing
from bench.config.fields import show
from bench.config.fingerprint import decides, fingerprint
from bench.core.errors import UserError
from bench.metrics.scalars import mean
from bench.record.role import METHOD, roles

MEASURED = ("evaluate.split", "evaluate.templates", "precision")
"""Settings that decide what is measured, beside all of ``stream.`` and ``model.``."""

ORDER = "seeds.task_order"
"""The setting that orders tasks, or draws them."""

Key: TypeAlias = int | tuple[int, int]
"""What a run of a group is known by: its seed; where orders of tasks differ too, the seed of its order and its seed."""

CROSSED = (
    "orders of tasks (seeds.task_order) differ as well as seeds: means, their errors and differences are over orders, "
    "each the mean over its seeds"
)
"""What is said of such runs."""

NAMED = 2
"""Settings named in the label of a group at most; where more differ, its fingerprint stands for them."""


@dataclass
class Group:
    """The runs of one method with the same settings over seeds, or over orders of tasks and seeds.

    Attributes
    ----------
    method, fingerprint : str
    runs : dict of Key to Run
        By seed, ascending; where orders differ as well as seeds, by seed of the order and seed.
    settings : dict of str to str
        What all runs share and what decides the numbers, as on the command line; a seed that follows the run's is
        ``seed``.
    apart : dict of str to str
        Those settings in which it differs from other groups of the same method beside it; empty when it is the only
        one.
    label : str
        The method, with the settings of `apart` if they are few, else with the fingerprint; unique among the groups
        beside it.
    shared : int
        Runs that shared a machine with another one that is compared, of this or another group: their seconds say little
        about the method.
    headroom : dict of Key to float
        `headroom` of every run, ascending; empty where no upper bound stands beside it.
    """

    method: str
    fingerprint: str
    runs: dict[Key, Run]
    settings: dict[str, str] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)
    label: str = ""
    shared: int = 0
    headroom: dict[Key, float] = field(default_factory=dict)

    @property
    def orders(self) -> dict[int, list[Key]]:
        """The keys of the runs of every order of tasks; empty where seeds alone tell runs apart."""
        keys: dict[int, list[Key]] = {}
        for key in self.runs:
            if isinstance(key, tuple):
                keys.setdefault(key[0], []).append(key)
        return keys

    @property
    def n(self) -> int:
        """Over how many values means and their errors are taken: orders of tasks where these differ too, else seeds."""
        return len(self.orders or self.runs)

    @property
    def counted(self) -> str:
        """In words how many runs there are: ``3``, or ``4 orders x 3 seeds``."""
        if not self.orders:
            return str(len(self.runs))
        sizes = {len(keys) for keys in self.orders.values()}
        seeds = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
        orders = f"{len(self.orders)} order{'' if len(self.orders) == 1 else 's'}"
        return f"{orders} x {seeds} seed{'' if sizes == {1} else 's'}"

    def averaged(self, values: Mapping[Key, float]) -> dict[Key, float]:
        """Return independent values: those of the seeds, or of each order of tasks the mean over its seeds.

        Parameters
        ----------
        values : mapping of Key to float
            Of some of the runs.

        Returns
        -------
        dict of Key to float
            By seed, or by seed of the order.
        """
        if not self.orders:
            return dict(values)
        known = {order: [values[key] for key in keys if key in values] for order, keys in self.orders.items()}
        return {order: mean(few) for order, few in known.items() if few}

    @property
    def trains(self) -> bool:
        """Whether the method trains anything."""
        return any(run.trains for run in self.runs.values())

    @property
    def bound(self) -> bool:
        """Whether the method is a bound or a probe: a reference line for the others, never the best."""
        return next(iter(self.runs.values())).role.bound

    @property
    def flags(self) -> dict[str, str] | None:
        """What the method needs, keeps and adds, as of `bench.compare.runs.Run.flags`."""
        return next(iter(self.runs.values())).flags

    def values(self, name: str) -> dict[Key, float]:
        """Return a scalar or a cost for each seed that has it, or for each order of tasks its mean over seeds.

        Parameters
        ----------
        name : str
            As for `bench.compare.runs.Run.value`, or ``headroom``.

        Returns
        -------
        dict of Key to float
            As for `averaged`, ascending.
        """
        if name == HEADROOM:
            return self.averaged(self.headroom)
        values = {key: run.value(name) for key, run in self.runs.items()}
        return self.averaged({key: value for key, value in values.items() if value is not None})


@dataclass
class ComparableRuns:
    """Runs that may be compared: one stream, one model, and the same of everything else that decides what is measured.

    Attributes
    ----------
    stream, model : str
    conditions : dict of str to object
        What all runs have in common, in words -> value: settings of the stream and the model, split, weights, label
        space, training budget and, as far as no seed draws them, tasks, data and prompts.
    apart : dict of str to str
        Those of its conditions in which it differs from other sets of the same stream and model.
    groups : list of Group
        By method, then fingerprint.
    notes : list of str
        What does not forbid a comparison but should be known.
    """

    stream: str
    model: str
    conditions: dict[str, Any]
    groups: list[Group]
    apart: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """All runs, group after group."""
        return [run for group in self.groups for run in group.runs.values()]

    @property
    def title(self) -> str:
        """Stream and model, and how the set differs from others of both."""
        apart = "".join(f", {name} {value}" for name, value in self.apart.items())
        return f"stream {self.stream}, model {self.model}{apart}"


@dataclass
class Comparison:
    """Everything below some folders, ready to be shown.

    Attributes
    ----------
    fields : list of ComparableRuns
        Runs of different sets must not be averaged or tested against each other.
    left_out : list of (Path, str)
        Run directories whose numbers are not used, each with the reason.
    """

    fields: list[ComparableRuns]
    left_out: list[tuple[Path, str]]


def gather(paths: Sequence[Path], filters: Mapping[str, str] | None = None) -> Comparison:
    """Read the runs below some folders and lay them out as far as they may be compared.

    Parameters
    ----------
    paths : sequence of Path
        Run directories, or folders that hold some at any depth.
    filters : mapping of str to str, optional
        As for `bench.compare.filters.chosen`.

    Returns
    -------
    Comparison

    Raises
    ------
    UserError
        If there is no such folder, no run in it, or none that fits the filters.
    """
    runs = [read(path) for path in find(paths)]
    if not runs:
        names = ", ".join(f'"{path}"' for path in paths) or "no folder"
        raise UserError(f"no runs found in {names}; make one with: python -m bench run method=NAME")
    return compared(chosen(runs, filters or {}))


def compared(runs: Iterable[Run]) -> Comparison:
    """Lay runs out: those that may be compared in one `ComparableRuns`, those with trouble left out.

    Parameters
    ----------
    runs : iterable of Run

    Returns
    -------
    Comparison
    """
    left_out = []
    alike: dict[str, list[Run]] = {}
    known = roles()
    for run in (replace(run, role=known.get(run.method, METHOD)) for run in runs):
        if run.trouble:
            left_out.append((run.path, run.trouble))
        else:
            alike.setdefault(_canonical([run.stream, run.model, run.kind, _measured(run)]), []).append(run)
    sets = [one for key in sorted(alike) for one in _sets(alike[key], left_out)]
    _set_apart(sets)
    _note_sharing(sets)
    return Comparison(sets, left_out)


def _canonical(value: Any) -> str:
    """Write a value so that equal ones give equal text."""
    return json.dumps(value, sort_keys=True)


# ------------------------------------------------------------------------------- what may be compared


def _measured(run: Run) -> dict[str, Any]:
    """Return what is measured and on what, as far as no seed decides it."""
    kept = {
        key: value
        for key, value in run.settings.items()
        if key in MEASURED or (key.startswith(("stream.", "model.")) and decides(key, run.settings))
    }
    return {**kept, "weights": run.identity.weights_sha256, "label space": run.identity.label_space}


def _sets(runs: list[Run], left_out: list[tuple[Path, str]]) -> list[ComparableRuns]:
    """Divide runs that measure the same: by their data, unless the seed draws these, then by training budget."""
    drawn = _drawn(runs)
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault("" if drawn else _canonical(run.data), []).append(run)
    shared = [key for key in DATA if not drawn or len({_canonical(run.data[key]) for run in runs}) == 1]
    return [
        _set(_within(alike, budget), drawn, {DATA[key]: alike[0].data[key] for key in shared} | budget, left_out)
        for alike in by_data.values()
        for budget in _budgets(alike)
    ]


def _budgets(runs: list[Run]) -> list[dict[str, Any]]:
    """Return the different training budgets, without those that only leave open what another one says."""
    budgets = [json.loads(one) for one in sorted({_canonical(run.budget) for run in runs})]
    return [one for one in budgets if not any(one != other and _part_of(one, other) for other in budgets)]


def _within(runs: list[Run], budget: dict[str, Any]) -> list[Run]:
    """Return the runs that are compatible with a budget; what a run's own budget leaves open fits any value.

    If runs of a method that trains nothing name this very budget, they stand for its other runs.
    """
    admitted = [run for run in runs if _part_of(run.budget, budget)]
    own = {run.method for run in admitted if not run.trains and _part_of(budget, run.settings)}
    return [run for run in admitted if run.trains or run.method not in own or _part_of(budget, run.settings)]


def _part_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(key in other and other[key] == value for key, value in one.items())


def _drawn(runs: list[Run]) -> bool:
    """Return whether data differ between seeds of the order of tasks, and never within one.

    Two of these seeds may give the same order of the same tasks.
    """
    pairs = {(order_of(run), _canonical(run.data)) for run in runs}
    seeds, data = ({pair[index] for pair in pairs} for index in (0, 1))
    ordered = len({_canonical({**run.data, "tasks": sorted(run.identity.tasks)}) for run in runs}) == 1
    return len(pairs) == len(seeds) and len(data) > 1 and (ordered or len(data) == len(seeds))


def order_of(run: Run) -> int:
    """Return the seed of the order of tasks of a run."""
    seed = run.identity.seeds.get("task_order")
    return run.seed if seed is None else seed


def _settings_of(run: Run, drawn: bool) -> str:
    """Return what the settings of a run are known by; where the order of tasks is drawn, its seed is none of them."""
    given = drawn and run.settings.get(ORDER) is not None
    return fingerprint({**run.settings, ORDER: None}) if given else run.fingerprint


# ------------------------------------------------------------------------------------------- one set


def _set(runs: list[Run], drawn: bool, shared: dict[str, Any], left_out: list[tuple[Path, str]]) -> ComparableRuns:
    """Group comparable runs over seeds; a copy of a run is left out, since it is no further seed."""
    groups: dict[tuple[str, str], Group] = {}
    known = {run: (run.method, _settings_of(run, drawn)) for run in runs}
    orders: dict[tuple[str, str, int], set[int]] = {}
    for run, own in known.items():
        orders.setdefault((*own, run.seed), set()).add(order_of(run))
    crossed = drawn and any(len(seeds) > 1 for seeds in orders.values())
    for run in sorted(runs, key=lambda run: (*known[run], order_of(run) if crossed else 0, run.seed)):
        group = groups.setdefault(known[run], Group(*known[run], {}))
        twin = group.runs.setdefault((order_of(run), run.seed) if crossed else run.seed, run)
        copy = (run.path, f"the same settings and seed as {twin.path}")
        if twin is not run and copy not in left_out:
            left_out.append(copy)
    for group in groups.values():
        group.settings = _common_settings(list(group.runs.values()))
        if drawn:
            group.settings.pop(ORDER, None)  # it tells runs of a group apart, and no groups
    _name(list(groups.values()))
    _measure_headroom(list(groups.values()))
    first = runs[0]
    conditions = {**_measured(first), **shared}
    notes = _code_notes(runs)
    if first.settings.get("stream.probe"):
        beside = [name for name in first.identity.manifests if name not in first.identity.tasks]
        notes.append(f"probes (P), test sets that no task trains on: {', '.join(beside)}")
    if crossed:
        notes.insert(0, CROSSED)
    elif drawn:
        notes.insert(0, "every seed draws other tasks or data; differences between methods are taken seed by seed")
    return ComparableRuns(first.stream, first.model, conditions, list(groups.values()), notes=notes)


def headroom(run: Run, ceiling: Run) -> float | None:
    """Return how much of what an upper bound gains over the untrained model a run gains, in Last.

    Parameters
    ----------
    run, ceiling : Run
        The run and one of the upper bound, of the same seed.

    Returns
    -------
    float or None
        In percent; above 100 where the run is better. None where their data differ, a number is missing, or the bound
        gains nothing.
    """
    floor, last, top = run.value("zero_shot"), run.value("last"), ceiling.value("last")
    if run.data != ceiling.data or floor is None or last is None or top is None or top <= floor:
        return None
    return 100 * (last - floor) / (top - floor)


def _measure_headroom(groups: list[Group]) -> None:
    """Give every group its headroom, where there is an upper bound; of several the one with the highest Last."""
    bounds = {group.label: group for group in groups if next(iter(group.runs.values())).role.ceiling}
    last = {label: mean(list(known)) for label, group in bounds.items() if (known := group.values("last").values())}
    if not last:
        return
    top = bounds[max(last, key=lambda label: last[label])].runs
    for group in groups:
        values = {seed: headroom(run, top[seed]) for seed, run in group.runs.items() if seed in top}
        group.headroom = {seed: value for seed, value in values.items() if value is not None}


def _code_notes(runs: list[Run]) -> list[str]:
    """Note what changes from day to day and decides the numbers too: the code, and the files of plug-ins."""
    revisions = {_canonical(run.identity.code_revision) for run in runs}
    files: dict[tuple[str, str], set[str]] = {}  # only runs of one method share a method's file
    for run in runs:
        for kind, digest in run.identity.plugins_sha256.items():
            files.setdefault((kind, run.method if kind == "method" else ""), set()).add(digest)
    edited = sorted(f"{kind} {method}".strip() for (kind, method), digests in files.items() if len(digests) > 1)
    notes = []
    if len(revisions) > 1:
        notes.append(f"{len(revisions)} states of the code made these runs; bench diff RUN_A RUN_B shows them")
    if edited:
        notes.append(f"the plug-in's file changed between runs: {', '.join(edited)}")
    return notes


def _common_settings(runs: list[Run]) -> dict[str, str]:
    """Return the settings all runs of a group share, without those that only say where and with which seed."""
    common: dict[str, str] = {}
    for key in runs[0].settings:
        if not decides(key):
            continue
        values = {
            "seed" if key.startswith("seeds.") and run.settings.get(key) == run.seed else show(run.settings.get(key))
            for run in runs
        }
        if len(values) == 1:
            common[key] = values.pop()
    return common


def _name(groups: list[Group]) -> None:
    """Give every group its label, and the settings in which it differs from others of its method."""
    for method in {group.method for group in groups}:
        same = [group for group in groups if group.method == method]
        keys = sorted({key for group in same for key in group.settings})
        keys = [key for key in keys if len({group.settings.get(key, ABSENT) for group in same}) > 1]
        for group in same:
            group.apart = {key: group.settings.get(key, ABSENT) for key in keys}
            group.label = method if len(same) == 1 else f"{method} {group.fingerprint}"
        if 0 < len(keys) <= NAMED:
            labels = [" ".join([method, *(f"{key}={value}" for key, value in group.apart.items())]) for group in same]
            if len(set(labels)) == len(same):
                for group, label in zip(same, labels, strict=True):
                    group.label = label


def _set_apart(sets: list[ComparableRuns]) -> None:
    """Say for every set in which conditions it differs from others of the same stream and model."""
    for one in sets:
        others = [other for other in sets if (other.stream, other.model) == (one.stream, one.model)]
        names = dict.fromkeys(name for other in others for name in other.conditions)
        for name in names:
            values = [other.conditions.get(name) for other in others]
            if any(value != one.conditions.get(name) for value in values):
                one.apart[name] = _short(one.conditions.get(name, ABSENT), values)


def _note_sharing(sets: list[ComparableRuns]) -> None:
    """Count the runs of every group that shared a machine, and note which groups have some."""
    shared = sharing(run for one in sets for run in one.runs)
    for one in sets:
        for group in one.groups:
            group.shared = sum(run.path in shared for run in group.runs.values())
        if labels := [group.label for group in one.groups if group.shared]:
            said = ", ".join(labels)
            one.notes.append(f"runs shared a machine, so that their seconds are not those of a run alone: {said}")


def _short(value: Any, others: list[Any]) -> str:
    """Write a condition in short: only those entries of a mapping to hashes that differ, the beginning of a hash."""
    if isinstance(value, dict):
        differing = [key for key in value if any(isinstance(o, dict) and o.get(key) != value[key] for o in others)]
        return ", ".join(f"{key} {_short(value[key], [])}" for key in differing) or "none in common"
    written = show(value)
    return written[:8] if len(written) == 64 and set(written) <= set("0123456789abcdef") else written

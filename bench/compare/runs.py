"""What run directories hold, and how it may be compared: records, groups over seeds, fields of comparable runs.

`gather` gives a `Comparison`, from which tables, statistics and pages are made. All is read from disk, nothing is
computed anew: the scalars are those of summary.json, which are pure functions of accuracy.csv (bench/metrics/scalars.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from bench.config.fingerprint import decides
from bench.core.errors import UserError, suggest
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record.schema import OUTCOMES

SHOWN = ("zero_shot", "transfer_by_column", "average_mtil", "last", "learning", "backward_transfer")
"""Scalars of a comparison; percentages, the last one a difference of percentages."""

COSTS = ("seconds", "peak_memory_mb", "stored_bytes")
"""What a run took: seconds in all, largest memory in MB, bytes that the method keeps after the last task."""

TITLES = {
    "zero_shot": "Zero-shot",
    "transfer_by_column": "Transfer",
    "average_mtil": "Average",
    "last": "Last",
    "learning": "Learning",
    "backward_transfer": "Backward",
    "seconds": "Seconds",
    "peak_memory_mb": "Peak MB",
    "stored_bytes": "Stored MB",
}
"""Short headings of `SHOWN` and `COSTS`."""

GROUND = ("evaluate.split", "precision")
"""Settings that decide what is measured; with them all of ``stream.`` and ``model.``."""

BUDGET = ("train.epochs", "train.batch_size")
"""Settings that say how often how many images are shown, alike for all methods, unless a method prescribes its own."""

PRESCRIBED = ("method", "tuned")
"""Sources of a value that make it a part of the method."""

DATA = {"tasks": "order of tasks", "manifests": "images, labels or class names", "prompts_sha256": "prompts"}
"""Parts of identity.json that a stream may draw by seeds.task_order, in words."""

NAMED = 2
"""Settings named in the label of a group at most; where more differ, its fingerprint stands for them."""

ABSENT = "(absent)"


@dataclass
class Record:
    """What is on disk of one run.

    Attributes
    ----------
    path : Path
        The run directory.
    identity, environment, summary : dict
        Content of the JSON files of these names; empty where there is none.
    trouble : str
        Why its numbers cannot be used, if so.
    """

    path: Path
    identity: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {key: entry["value"] for key, entry in self.identity.get("settings", {}).items()}

    @cached_property
    def sources(self) -> dict[str, str]:
        """Dotted key -> where the value came from: ``default``, ``method``, ``stream``, ``tuned`` or ``user``."""
        return {key: entry.get("source", "unknown") for key, entry in self.identity.get("settings", {}).items()}

    @cached_property
    def matrix(self) -> AccuracyMatrix:
        """The accuracy matrix, read when first asked for; a damaged or missing file raises `UserError`."""
        return AccuracyMatrix.from_csv(self.path / "accuracy.csv")

    @cached_property
    def outcomes(self) -> Outcomes | None:
        """Image by image what the matrix counts, read as it is; ``None`` where it was not recorded."""
        path = self.path / OUTCOMES
        return Outcomes.from_csv(path, self.matrix.tasks) if path.is_file() else None

    @property
    def stream(self) -> str:
        return self.summary["stream"]

    @property
    def model(self) -> str:
        return self.summary["model"]

    @property
    def method(self) -> str:
        return self.summary["method"]

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that decide the numbers, the seed left out."""
        return self.summary["fingerprint"]

    @property
    def seed(self) -> int:
        return self.summary["seed"]

    @property
    def trains(self) -> bool:
        """Whether anything was trained; what was not has no training budget."""
        return self.summary.get("trainable_parameters") != 0

    @property
    def data(self) -> dict[str, Any]:
        """Order of tasks, hashes of their images, labels and names, and of the prompts: see `DATA`."""
        return {key: self.identity.get(key) for key in DATA}

    @property
    def budget(self) -> dict[str, Any]:
        """The training budget: see `BUDGET`. Empty where nothing is trained, without what the method prescribes."""
        keys = [key for key in BUDGET if key in self.settings and self.sources[key] not in PRESCRIBED]
        return {key: self.settings[key] for key in keys} if self.trains else {}

    def value(self, name: str) -> float | None:
        """Return a scalar of bench/metrics/scalars.py or one of `COSTS`; ``None`` where it was refused or not recorded."""
        if name == "seconds":
            return self.summary["seconds"].get("total")
        return self.summary.get(name) if name in COSTS else self.summary["metrics"].get(name)


@dataclass
class Group:
    """The runs of one method with the same settings over seeds.

    Attributes
    ----------
    method, fingerprint : str
    runs : dict of int to Record
        By seed, ascending.
    settings : dict of str to str
        What all runs share and what decides the numbers, as on the command line; a seed that follows the run's is
        ``seed``.
    apart : dict of str to str
        Those settings that tell it from other groups of the same method in its field; empty when it is the only one.
    label : str
        The method, with the settings of `apart` if they are few, else with the fingerprint; unique in the field.
    """

    method: str
    fingerprint: str
    runs: dict[int, Record]
    settings: dict[str, str] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def trains(self) -> bool:
        """Whether the method trains anything."""
        return any(run.trains for run in self.runs.values())

    def values(self, name: str) -> dict[int, float]:
        """Return a scalar or cost (`Record.value`) by seed; seeds without it are left out."""
        found = {seed: run.value(name) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass
class Field:
    """Runs that may be compared: one stream, one model, and all else that decides what is measured.

    Attributes
    ----------
    stream, model : str
    conditions : dict of str to object
        What all runs have in common, in words -> value: settings of the stream and the model, split, weights, label
        space, training budget and, unless they are drawn by the seed, tasks, data and prompts.
    apart : dict of str to str
        Those of its conditions in which it differs from the other fields of the same stream and model.
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
    def records(self) -> list[Record]:
        """All runs, group after group."""
        return [run for group in self.groups for run in group.runs.values()]

    @property
    def title(self) -> str:
        """Stream and model, and what tells the field from others of both."""
        apart = "".join(f", {name} {value}" for name, value in self.apart.items())
        return f"stream {self.stream}, model {self.model}{apart}"


@dataclass
class Comparison:
    """Everything below some folders, ready to be laid out.

    Attributes
    ----------
    fields : list of Field
        Runs of different fields must not be averaged or tested against each other.
    left_out : list of (Path, str)
        Run directories whose numbers are not used, each with the reason.
    """

    fields: list[Field]
    left_out: list[tuple[Path, str]]


# ------------------------------------------------------------------------------------ reading records


def is_run(path: Path) -> bool:
    """Say whether a folder holds the record of a run."""
    return (path / "identity.json").is_file() or (path / "summary.json").is_file()


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories among and below ``paths``, each once, sorted."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f'there is no folder "{path}"; name a run directory or a folder that holds some (runs/)')
        for folder, below, _ in os.walk(path):
            if is_run(Path(folder)):
                below.clear()  # a run holds no runs
                found.setdefault(Path(folder).resolve(), Path(folder))
            below.sort()
    return sorted(found.values())


def read(path: Path) -> Record:
    """Read a run directory; never fails, the record says in ``trouble`` what is wrong with it."""
    record = Record(path)
    reasons = []
    for name in ("identity", "environment", "summary"):
        file = path / f"{name}.json"
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(value, dict):
                raise TypeError("not a JSON object")
            _check_shape(name, value)
            setattr(record, name, value)
        except FileNotFoundError:
            if name == "summary":
                reasons.append("unfinished: no summary.json; the same line again makes the run")
            elif name == "identity":
                reasons.append("damaged: no identity.json")
        except json.JSONDecodeError as error:
            reasons.append(f"damaged: {file.name}, line {error.lineno}: {error.msg}")
        except (OSError, ValueError, TypeError) as error:
            reasons.append(f"damaged: {file.name}: {error}")
    if record.summary and record.summary["status"] != "finished":
        reasons.append(f"unfinished: the status is {record.summary['status']!r}")
    record.trouble = "; ".join(reasons)
    return record


def _check_shape(name: str, value: dict[str, Any]) -> None:
    """Refuse a record whose parts are not what the rest of this module relies on."""
    parts: dict[str, type] = {}
    if name == "identity":
        parts = {"settings": dict}
        parts |= {"plugins_sha256": dict} if value.get("plugins_sha256") is not None else {}
    if name == "environment" and "packages" in value:
        parts = {"packages": dict}
    if name == "summary":
        parts = {"status": str, "stream": str, "model": str, "method": str, "fingerprint": str, "seed": int}
        parts |= {"metrics": dict, "seconds": dict}
    for part, kind in parts.items():
        if not isinstance(value.get(part), kind):
            raise TypeError(f'no "{part}" in it' if part not in value else f'"{part}" is not of type {kind.__name__}')
    if name == "identity":
        for key, entry in value["settings"].items():
            if not isinstance(entry, dict) or "value" not in entry:
                raise ValueError(f'the setting "{key}" has no value')
    if name == "summary":
        costs = {key: value.get(key) for key in (*COSTS[1:], "trainable_parameters")}
        for key, number in {**value["metrics"], **value["seconds"], **costs}.items():
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
                raise ValueError(f'"{key}" is not a number')


# -------------------------------------------------------------------------------------------- filters


def text(value: Any) -> str:
    """Write a value as one would on the command line."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(text(item) for item in value) + "]"
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(value)


def _key(record: Record, name: str) -> str | None:
    """Return the dotted setting that a filter names (``method`` means ``method.name``), or ``None``."""
    return next((key for key in (name, f"{name}.name") if key in record.settings), None)


def _equals(value: Any, typed: str) -> bool:
    """Compare a setting with what the user typed; 1e-3 and 0.001 are the same number."""
    if isinstance(value, bool) or value is None:
        return text(value) == typed.strip().lower()
    if isinstance(value, int | float):
        try:
            return float(typed) == value
        except ValueError:
            return False
    return text(value).replace(" ", "") == typed.replace(" ", "")


def _one_of(typed: str) -> list[str]:
    """Return the values that ``[a,b]`` lists; none where it is no list."""
    try:
        items = yaml.safe_load(typed) if typed.strip().startswith("[") else None
    except yaml.YAMLError:
        items = None
    return [text(item) for item in items] if isinstance(items, list) else []


def _filtered(records: list[Record], filters: Mapping[str, str]) -> list[Record]:
    """Keep the runs with these settings, and those whose settings cannot be read."""
    known = sorted({key for record in records for key in record.settings})
    for name, typed in filters.items():
        if name not in known and f"{name}.name" not in known:
            raise UserError(f'no run here has a setting "{name}"{suggest(name, known)}')
        wanted = [typed, *_one_of(typed)]  # a setting may itself be a list
        records = [
            record
            for record in records
            if not record.settings
            or ((key := _key(record, name)) and any(_equals(record.settings[key], item) for item in wanted))
        ]
    if filters and not any(record.settings for record in records):
        told = " ".join(f"{name}={typed}" for name, typed in filters.items())
        raise UserError(f"no run here has {told}; leave a filter out to see what there is")
    return records


# ------------------------------------------------------------------------------------------- grouping


def gather(paths: Sequence[Path], filters: Mapping[str, str] | None = None) -> Comparison:
    """Read the runs below some folders and lay them out as far as they may be compared.

    Parameters
    ----------
    paths
        Run directories, or folders that hold some at any depth.
    filters
        Dotted setting -> value as typed, or ``[a,b]`` for one of several; only runs with these settings are kept.

    Raises
    ------
    UserError
        No such folder, no runs in it, or none that fits the filters.
    """
    records = [read(path) for path in find(paths)]
    if not records:
        names = ", ".join(f'"{path}"' for path in paths) or "no folder"
        raise UserError(f"no runs found in {names}; make one with: python -m bench run method=keeplora")
    return compared(_filtered(records, filters or {}))


def compared(records: Iterable[Record]) -> Comparison:
    """Lay out records: those that may be compared in one `Field`, those with trouble left out."""
    left_out = []
    places: dict[str, list[Record]] = {}
    for record in records:
        if record.trouble:
            left_out.append((record.path, record.trouble))
        else:
            places.setdefault(_canonical([record.stream, record.model, _ground(record)]), []).append(record)
    fields = [found for place in sorted(places) for found in _fields(places[place], left_out)]
    _set_apart(fields)
    return Comparison(fields, left_out)


def _canonical(value: Any) -> str:
    """Write a value so that equal ones give equal text."""
    return json.dumps(value, sort_keys=True)


def _ground(record: Record) -> dict[str, Any]:
    """What is measured and on what, as far as no seed decides it."""
    kept = {
        key: value
        for key, value in record.settings.items()
        if key in GROUND or (key.startswith(("stream.", "model.")) and decides(key))
    }
    return {
        **kept,
        "weights": record.identity.get("weights_sha256"),
        "label space": record.identity.get("label_space"),
    }


def _fields(records: list[Record], left_out: list[tuple[Path, str]]) -> list[Field]:
    """Lay out the runs of one ground: by their data, unless the seed draws these, then by training budget."""
    drawn = _drawn(records)
    by_data: dict[str, list[Record]] = {}
    for record in records:
        by_data.setdefault("" if drawn else _canonical(record.data), []).append(record)
    fields = []
    for alike in by_data.values():
        for budget in _budgets(alike):
            fields.append(_field(_within(alike, budget), drawn, budget, left_out))
    return fields


def _budgets(records: list[Record]) -> list[dict[str, Any]]:
    """Return the different training budgets, without those that only leave open what another one says."""
    found = [json.loads(one) for one in sorted({_canonical(record.budget) for record in records})]
    return [one for one in found if not any(one != other and _part_of(one, other) for other in found)]


def _within(records: list[Record], budget: dict[str, Any]) -> list[Record]:
    """Return the runs that a budget admits: where theirs leaves something open, they stand beside several.

    Of a method that trains nothing, runs that name this very budget stand for the others.
    """
    admitted = [record for record in records if _part_of(record.budget, budget)]
    own = {record.method for record in admitted if not record.trains and _part_of(budget, record.settings)}
    return [r for r in admitted if r.trains or r.method not in own or _part_of(budget, r.settings)]


def _part_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(key in other and other[key] == value for key, value in one.items())


def _drawn(records: list[Record]) -> bool:
    """Whether the stream draws tasks or data by its seed: another one for every seed, and one for each."""
    pairs = {(_order_seed(record), _canonical(record.data)) for record in records}
    seeds, data = ({pair[place] for pair in pairs} for place in (0, 1))
    return len(pairs) == len(seeds) == len(data) > 1


def _order_seed(record: Record) -> Any:
    seeds = record.identity.get("seeds")
    return seeds.get("task_order", record.seed) if isinstance(seeds, dict) else record.seed


def _field(records: list[Record], drawn: bool, budget: dict[str, Any], left_out: list[tuple[Path, str]]) -> Field:
    """Group comparable runs over seeds; a copy of a run is left out, since it must not pass for a further seed."""
    groups: dict[tuple[str, str], Group] = {}
    for record in sorted(records, key=lambda run: (run.method, run.fingerprint, run.seed)):
        group = groups.setdefault((record.method, record.fingerprint), Group(record.method, record.fingerprint, {}))
        twin = group.runs.setdefault(record.seed, record)
        if twin is not record:
            told = (record.path, f"the same settings and seed as {twin.path}")
            if told not in left_out:
                left_out.append(told)
    for group in groups.values():
        group.settings = _shared(list(group.runs.values()))
    _name(list(groups.values()))
    first = records[0]
    data = {} if drawn else {DATA[key]: value for key, value in first.data.items()}
    found = Field(first.stream, first.model, {**_ground(first), **data, **budget}, list(groups.values()))
    if drawn:
        found.notes.append("every seed draws other tasks or data; differences between methods are taken seed by seed")
    found.notes += _of_the_code(found.groups)
    return found


def _of_the_code(groups: list[Group]) -> list[str]:
    """Note what changes from day to day and decides the numbers too: the code, and the files of plug-ins."""
    records = [run for group in groups for run in group.runs.values()]
    revisions = {_canonical(record.identity.get("code_revision")) for record in records}
    files: dict[tuple[str, str], set[str]] = {}  # of a method's file only runs of that method have the same
    for record in records:
        for kind, digest in (record.identity.get("plugins_sha256") or {}).items():
            files.setdefault((kind, record.method if kind == "method" else ""), set()).add(digest)
    edited = sorted(f"{kind} {method}".strip() for (kind, method), digests in files.items() if len(digests) > 1)
    notes = []
    if len(revisions) > 1:
        notes.append(f"{len(revisions)} states of the code made these runs; bench diff RUN_A RUN_B shows them")
    if edited:
        notes.append(f"the plug-in's file changed between runs: {', '.join(edited)}")
    return notes


def _shared(runs: list[Record]) -> dict[str, str]:
    """Return the settings all runs of a group share, without those that only say where and with which seed."""
    shared: dict[str, str] = {}
    for key in runs[0].settings:
        if not decides(key):
            continue
        values = {
            "seed" if key.startswith("seeds.") and run.settings.get(key) == run.seed else text(run.settings.get(key))
            for run in runs
        }
        if len(values) == 1:
            shared[key] = values.pop()
    return shared


def _name(groups: list[Group]) -> None:
    """Give every group of a field its label, and what tells it from others of its method."""
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


def _set_apart(fields: list[Field]) -> None:
    """Tell every field in which conditions it differs from others of the same stream and model."""
    for one in fields:
        others = [other for other in fields if (other.stream, other.model) == (one.stream, one.model)]
        names = dict.fromkeys(name for other in others for name in other.conditions)
        for name in names:
            values = [other.conditions.get(name) for other in others]
            if any(value != one.conditions.get(name) for value in values):
                one.apart[name] = _short(one.conditions.get(name, ABSENT), values)


def _short(value: Any, others: list[Any]) -> str:
    """Write a condition: of a mapping to hashes the entries that differ, of a hash the beginning."""
    if isinstance(value, dict):
        differing = [key for key in value if any(isinstance(o, dict) and o.get(key) != value[key] for o in others)]
        return ", ".join(f"{key} {_short(value[key], [])}" for key in differing) or "none in common"
    written = text(value)
    return written[:8] if len(written) == 64 and set(written) <= set("0123456789abcdef") else written

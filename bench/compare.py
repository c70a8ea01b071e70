"""Runs side by side: a table over many (``table``), and what differs between two (``diff``).

Everything is read from run directories, nothing is computed anew: the numbers are those of summary.json,
which are pure functions of accuracy.csv (bench/metrics.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import decides
from bench.errors import UserError, suggest
from bench.matrix import AccuracyMatrix
from bench.metrics import FORMULAS, spread

SHOWN = ("zero_shot", "transfer_by_column", "average_mtil", "last", "learning", "backward_transfer")
"""Scalars of the table; percentages, the last one a difference of percentages."""

# What else decides the numbers, as named in identity.json; runs that differ here are not averaged unawares.
IDENTITY = {
    "weights_sha256": "weights",
    "label_space": "label space",
    "tasks": "order of tasks",
    "manifests": "manifests",
    "prompts_sha256": "prompts",
    "code_revision": "code",
    "plugins_sha256": "plug-in files",
}
ABSENT = "(absent)"


@dataclass
class Record:
    """What is on disk of one run; ``trouble`` says why its numbers cannot be used, if so."""

    path: Path
    identity: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {key: entry["value"] for key, entry in self.identity.get("settings", {}).items()}

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Stream, model, method and fingerprint: what runs over seeds have in common."""
        return tuple(str(self.summary[key]) for key in ("stream", "model", "method", "fingerprint"))  # type: ignore

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.summary["seed"]


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
    numbers = [*value["metrics"].items(), *value["seconds"].items()] if name == "summary" else []
    for key, number in numbers:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f'"{key}" is not a number')


# -------------------------------------------------------------------------------------------- filters


def _key(record: Record, name: str) -> str | None:
    """Return the dotted setting that a filter names (``method`` means ``method.name``), or ``None``."""
    return next((key for key in (name, f"{name}.name") if key in record.settings), None)


def _text(value: Any) -> str:
    """Write a value as one would on the command line."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(value)


def _equals(value: Any, text: str) -> bool:
    """Compare a setting with what the user typed; 1e-3 and 0.001 are the same number."""
    if isinstance(value, bool) or value is None:
        return _text(value) == text.strip().lower()
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return _text(value).replace(" ", "") == text.replace(" ", "")


def _filtered(records: list[Record], filters: Mapping[str, str]) -> list[Record]:
    """Keep the runs with these settings, and those whose settings cannot be read."""
    known = sorted({key for record in records for key in record.settings})
    for name, text in filters.items():
        if name not in known and f"{name}.name" not in known:
            raise UserError(f'no run here has a setting "{name}"{suggest(name, known)}')
        records = [
            record
            for record in records
            if not record.settings or ((key := _key(record, name)) and _equals(record.settings[key], text))
        ]
    if filters and not any(record.settings for record in records):
        wanted = " ".join(f"{name}={text}" for name, text in filters.items())
        raise UserError(f"no run here has {wanted}; leave a filter out to see what there is")
    return records


# ---------------------------------------------------------------------------------------------- table


def table(paths: Sequence[Path], filters: Mapping[str, str] | None = None) -> str:
    """Return the runs below some folders as text tables, one per stream and model.

    Parameters
    ----------
    paths
        Run directories, or folders that hold some at any depth.
    filters
        Dotted setting -> value as typed; only runs with these settings are shown.

    Raises
    ------
    UserError
        No such folder, no runs in it, or none that fits the filters.
    """
    records = [read(path) for path in find(paths)]
    if not records:
        names = ", ".join(f'"{path}"' for path in paths) or "no folder"
        raise UserError(f"no runs found in {names}; make one with: python -m bench run method=keeplora")
    records = _filtered(records, filters or {})
    left_out = [(record.path, record.trouble) for record in records if record.trouble]

    runs: dict[tuple[tuple[str, str, str, str], int], Record] = {}
    for record in records:
        if record.trouble:
            continue
        twin = runs.setdefault((record.group, record.seed), record)
        if twin is not record:  # a copied folder must not pass for a further seed
            left_out.append((record.path, f"the same settings and seed as {twin.path}"))
    places: dict[tuple[str, str], dict[tuple[str, str], list[Record]]] = {}
    for (group, _), record in sorted(runs.items()):
        places.setdefault(group[:2], {}).setdefault(group[2:], []).append(record)

    sections = [_one_table(stream, model, groups) for (stream, model), groups in places.items()]
    if sections:
        formulas = [f"  {name} = {FORMULAS[name]}" for name in SHOWN]
        sections.append(
            "mean ± standard error over n seeds; a[i,j] = percent correct on test set j after task i, "
            "row 0 = untrained model\n" + "\n".join(formulas)
        )
    if left_out:
        sections.append("left out:\n" + "\n".join(f"  {path}: {reason}" for path, reason in left_out))
    return "\n\n".join(sections)


def _one_table(stream: str, model: str, groups: dict[tuple[str, str], list[Record]]) -> str:
    """Lay out the groups (method, fingerprint) -> runs of one stream and model."""
    methods = [method for method, _ in groups]
    rows = [["method", "n", *SHOWN, "seconds"]]
    for (method, fingerprint), runs in groups.items():
        name = f"{method} {fingerprint}" if methods.count(method) > 1 else method
        cells = [_cell([run.summary["metrics"].get(scalar) for run in runs], 2) for scalar in SHOWN]
        rows.append([name, str(len(runs)), *cells, _cell([run.summary["seconds"].get("total") for run in runs], 1)])
    lines = [f"stream {stream}, model {model}", *_aligned(rows)]

    for method in sorted({method for method in methods if methods.count(method) > 1}):
        variants = {fingerprint: runs for (name, fingerprint), runs in groups.items() if name == method}
        lines += [f"  {method} {fingerprint}: {text}" for fingerprint, text in _differences(variants).items()]
    for key, title in IDENTITY.items():
        kinds = {json.dumps(run.identity.get(key), sort_keys=True) for runs in groups.values() for run in runs}
        if len(kinds) > 1:
            lines.append(f"  note: {len(kinds)} different {title} among these runs; bench diff RUN_A RUN_B shows them")
    return "\n".join(lines)


def _cell(values: list[float | None], digits: int) -> str:
    """Write mean and standard error; seeds without the value are counted out in brackets."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    over = spread(known)
    text = f"{over.mean:.{digits}f}"
    if over.standard_error is not None:
        text += f" ± {over.standard_error:.{digits}f}"
    return text if len(known) == len(values) else f"{text} ({over.n})"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Pad the cells of a table: the first column to the left, the others to the right, a rule below the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _differences(variants: dict[str, list[Record]], shown: int = 4) -> dict[str, str]:
    """Return per fingerprint, in short, the settings in which the variants of one method differ."""
    chosen = {name: _deciding(runs) for name, runs in variants.items()}
    keys = sorted({key for settings in chosen.values() for key in settings})
    keys = [key for key in keys if len({settings.get(key, ABSENT) for settings in chosen.values()}) > 1]
    texts = {}
    for name, settings in chosen.items():
        parts = [f"{key}={settings.get(key, ABSENT)}" for key in keys[:shown]]
        more = f", and {len(keys) - shown} more (see bench diff)" if len(keys) > shown else ""
        texts[name] = ", ".join(parts) + more or "the same settings, recorded by another version"
    return texts


def _deciding(runs: list[Record]) -> dict[str, str]:
    """Return the settings all runs of a group share, without those that only say where and with which seed."""
    shared: dict[str, str] = {}
    for key in runs[0].settings:
        if not decides(key):
            continue
        values = {
            "seed" if key.startswith("seeds.") and run.settings.get(key) == run.seed else _text(run.settings.get(key))
            for run in runs
        }
        if len(values) == 1:
            shared[key] = values.pop()
    return shared


# ----------------------------------------------------------------------------------------------- diff


def diff(a: Path, b: Path) -> str:
    """Return what differs between the records of two runs, section by section.

    Parameters
    ----------
    a, b
        Run directories; an unfinished run is compared as far as it got.

    Raises
    ------
    UserError
        One is no run directory, or its record is damaged.
    """
    first, second = _opened(Path(a)), _opened(Path(b))
    sections = {"settings": _changes(_settings(first), _settings(second))}
    for key, title in IDENTITY.items():
        sections[title] = _changes(_by_name(first.identity.get(key)), _by_name(second.identity.get(key)))
    sections["environment"] = _changes(_environment(first), _environment(second))
    sections["results"] = _changes(_results(first), _results(second)) + _cell_changes(first, second)
    lines = [f"A  {first.path}", f"B  {second.path}"]
    for name, changes in sections.items():
        if changes:
            lines += ["", name, *(f"  {change}" for change in changes)]
    same = [name for name, changes in sections.items() if not changes]
    if len(same) == len(sections):
        lines += ["", "no difference"]
    elif same:
        lines += ["", f"no difference in {', '.join(same)}"]
    return "\n".join(lines)


def _opened(path: Path) -> Record:
    """Read a run for ``diff``, refusing what is no run or is damaged."""
    if not is_run(path):
        raise UserError(f'"{path}" holds no run (no identity.json); name a folder such as runs/STREAM/MODEL/METHOD/ID')
    record = read(path)
    if "damaged" in record.trouble:
        raise UserError(f'the record in "{path}" cannot be compared: {record.trouble}')
    return record


def _by_name(value: Any) -> dict[str, Any]:
    """Return a part of the identity as name -> value; a single hash or revision has no name."""
    return value if isinstance(value, dict) else {"": value}


def _settings(record: Record) -> dict[str, str]:
    """Return dotted setting -> value with its source; seeds that are no setting of their own included."""
    settings = {
        key: f"{_text(entry['value'])} (from {entry.get('source', 'unknown')})"
        for key, entry in record.identity["settings"].items()
    }
    seeds = {f"seeds.{name}": _text(value) for name, value in _by_name(record.identity.get("seeds") or {}).items()}
    return seeds | settings


def _environment(record: Record) -> dict[str, Any]:
    """Return the environment with one entry a package; when a run was started always differs and is left out."""
    flat = {key: value for key, value in record.environment.items() if key not in ("packages", "started")}
    packages = record.environment.get("packages") or {}
    return flat | {f"package {name}": version for name, version in packages.items()}


def _results(record: Record) -> dict[str, Any]:
    """Return status, scalars and sizes; times and memory differ from run to run and are left out."""
    metrics = {name: _rounded(value) for name, value in record.summary.get("metrics", {}).items()}
    sizes = {key: record.summary.get(key) for key in ("trainable_parameters", "stored_numbers")}
    return {"status": record.summary.get("status", "unfinished")} | metrics | sizes


def _rounded(value: float | None) -> str | None:
    """Write a percentage so that one image of a million still shows."""
    return None if value is None else f"{value:.4f}"


def _changes(a: dict[str, Any] | None, b: dict[str, Any] | None) -> list[str]:
    """Return ``name: value in A | value in B`` for all that differs."""
    a, b = a or {}, b or {}
    lines = []
    for name in sorted(a.keys() | b.keys()):
        left, right = a.get(name, ABSENT), b.get(name, ABSENT)
        if left != right:
            lines.append(f"{name}: {_text(left)} | {_text(right)}".removeprefix(": "))
    return lines


def _cell_changes(first: Record, second: Record) -> list[str]:
    """Say in one line how far the two accuracy matrices differ."""
    files = [record.path / "accuracy.csv" for record in (first, second)]
    there = [file.is_file() for file in files]
    if not all(there):
        return [f"accuracy.csv: {' | '.join('there' if here else ABSENT for here in there)}"] if any(there) else []
    a, b = (AccuracyMatrix.from_csv(file) for file in files)
    if a.tasks != b.tasks:
        return [f"tasks: {', '.join(a.tasks)} | {', '.join(b.tasks)}"]
    places = [(row, column) for row in range(len(a.tasks) + 1) for column in range(len(a.tasks))]
    differing = [place for place in places if a.cell(*place).accuracy != b.cell(*place).accuracy]
    if not differing:
        return []

    def gap(place: tuple[int, int]) -> float:
        left, right = a.cell(*place).accuracy, b.cell(*place).accuracy
        return -1.0 if left is None or right is None else abs(left - right)

    row, column = most = max(differing, key=gap)
    line = f"accuracy.csv: {len(differing)} of {len(places)} cells differ"
    if gap(most) >= 0:
        line += f", most {a.where(row, column)}: {a.accuracy(row, column):.2f} | {b.accuracy(row, column):.2f}"
    return [line]

"""What differs between the records of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.compare.runs import ABSENT, Record, is_run, read, text
from bench.core.errors import UserError

IDENTITY = {
    "weights_sha256": "weights",
    "label_space": "label space",
    "tasks": "order of tasks",
    "manifests": "manifests",
    "prompts_sha256": "prompts",
    "code_revision": "code",
    "plugins_sha256": "plug-in files",
}
"""What else decides the numbers, as named in identity.json -> title of its section."""


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
    first, second = _opened(a), _opened(b)
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
        key: f"{text(entry['value'])} (from {entry.get('source', 'unknown')})"
        for key, entry in record.identity["settings"].items()
    }
    seeds = {f"seeds.{name}": text(value) for name, value in _by_name(record.identity.get("seeds") or {}).items()}
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
            lines.append(f"{name}: {text(left)} | {text(right)}".removeprefix(": "))
    return lines


def _cell_changes(first: Record, second: Record) -> list[str]:
    """Say in one line how far the two accuracy matrices differ."""
    there = [(record.path / "accuracy.csv").is_file() for record in (first, second)]
    if not all(there):
        return [f"accuracy.csv: {' | '.join('there' if here else ABSENT for here in there)}"] if any(there) else []
    a, b = first.matrix, second.matrix
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

"""Show what differs between the records of two runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.compare.runs import ABSENT, Run, is_run, read
from bench.config.fields import show
from bench.core.console import one_line
from bench.core.errors import UserError
from bench.record.schema import ACCURACY, IDENTITY

PARTS = {
    "weights_sha256": "weights",
    "label_space": "label space",
    "tasks": "order of tasks",
    "manifests": "manifests",
    "prompts_sha256": "prompts",
    "reference_sha256": "reference set",
    "validation_sha256": "validation images",
    "code_revision": "code",
    "plugins_sha256": "plug-in files",
}
"""Fields of `Identity` that decide the numbers, beside the settings -> titles of their sections."""


HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")
"""A long hash, and the digits of it that tell two apart."""


def diff(a: Path, b: Path) -> str:
    """Return what differs between the records of two runs, section by section.

    Parameters
    ----------
    a, b : Path
        Run directories; an unfinished run is compared as far as it got.

    Returns
    -------
    str
        Lines for a terminal.

    Raises
    ------
    UserError
        If one of them is no run directory, or its record is damaged.
    """
    first, second = _opened(a), _opened(b)
    sections = {"settings": _changes(_settings(first), _settings(second))}
    for key, title in PARTS.items():
        left, right = getattr(first.identity, key), getattr(second.identity, key)
        sections[title] = _changes(_by_name(left), _by_name(right))
    sections["environment"] = _changes(_environment(first.environment), _environment(second.environment))
    sections["continued"] = _continuations(first, second)
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
    return "\n".join(map(one_line, lines))


def _opened(path: Path) -> Run:
    """Read a run; refuse a folder that is no run, and a damaged record."""
    if not is_run(path):
        raise UserError(f'"{path}" holds no run (no {IDENTITY}); name a folder such as runs/STREAM/MODEL/METHOD/ID')
    run = read(path)
    if run.trouble.startswith("damaged"):
        raise UserError(f'the record in "{path}" cannot be compared: {run.trouble}')
    return run


def _by_name(value: Any) -> dict[str, Any]:
    """Return a part of the identity as name -> value; a single hash or revision has no name."""
    return value if isinstance(value, dict) else {"": value}


def _settings(run: Run) -> dict[str, str]:
    """Return dotted setting -> value with its source, and the seeds that are no setting of their own."""
    settings = {key: f"{show(value)} (from {run.sources[key]})" for key, value in run.settings.items()}
    return {f"seeds.{name}": show(value) for name, value in run.identity.seeds.items()} | settings


def _environment(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment with one entry for each package; the time of the start always differs and is left out."""
    flat = {key: value for key, value in content.items() if key not in ("packages", "started", "continued", "code")}
    packages = content.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    return flat | {f"package {name}": version for name, version in versions.items()}


def _continuations(first: Run, second: Run) -> list[str]:
    """Return how often each run was continued, and what was not as before; none where both are alike in that."""
    continued = {name: _changed_by_continuing(run) for name, run in (("A", first), ("B", second))}
    if continued["A"] == continued["B"]:
        return []
    lines = []
    for name, changes in continued.items():
        times = {0: "never", 1: "once"}.get(len(changes), f"{len(changes)} times")
        same = ", with nothing changed" if changes and not any(changes) else ""
        lines.append(f"{name}: {times}{same}")
        lines += [f"{name}, time {time}: {change}" for time, change in enumerate(changes, 1) if change]
    return lines


def _changed_by_continuing(run: Run) -> list[str]:
    """Return for each process that continued a run what was not as it was before, as in ``threads: 2 -> 4``."""
    before = _environment(run.environment) | _code(vars(run.identity))
    lines = []
    for entry in run.environment.get("continued", []):
        now = _environment(entry) | _code(entry.get("code"))
        # What only one of two versions of this suite records has not changed.
        changed = [name for name in sorted(before.keys() & now.keys()) if before[name] != now[name]]
        lines.append(", ".join(f"{name}: {show(before[name])} -> {show(now[name])}" for name in changed))
        before |= now
    return lines


def _code(content: Any) -> dict[str, Any]:
    """Return the state of the code with one entry for the file of each plug-in, hashes cut to twelve digits."""
    content = content if isinstance(content, dict) else {}
    revision, plugins = content.get("code_revision"), content.get("plugins_sha256")
    flat = {f"file of the {kind}": digest for kind, digest in (plugins if isinstance(plugins, dict) else {}).items()}
    return {name: HASH.sub(r"\1", show(value)) for name, value in ({"code": revision} | flat).items() if value}


def _results(run: Run) -> dict[str, Any]:
    """Return status, scalars and sizes; times and memory differ from run to run and are left out."""
    metrics = {name: _rounded(value) for name, value in run.summary.metrics.items()}
    sizes = {key: getattr(run.summary, key) for key in ("trainable_parameters", "stored_numbers")}
    return {"status": run.summary.status} | metrics | sizes


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
            lines.append(f"{name}: {show(left)} | {show(right)}".removeprefix(": "))
    return lines


def _cell_changes(first: Run, second: Run) -> list[str]:
    """Return one line on how far the two accuracy matrices differ; none where they do not."""
    there = [(run.path / ACCURACY).is_file() for run in (first, second)]
    if not all(there):
        return [f"{ACCURACY}: {' | '.join('there' if here else ABSENT for here in there)}"] if any(there) else []
    a, b = first.matrix, second.matrix
    if (a.tasks, a.others) != (b.tasks, b.others):
        return [f"test sets: {', '.join(a.columns)} | {', '.join(b.columns)}"]
    cells = [(row, column) for row in range(len(a.tasks) + 1) for column in range(len(a.columns))]
    differing = [cell for cell in cells if a.cell(*cell).accuracy != b.cell(*cell).accuracy]
    if not differing:
        return []

    def gap(cell: tuple[int, int]) -> float:
        left, right = a.cell(*cell).accuracy, b.cell(*cell).accuracy
        return -1.0 if left is None or right is None else abs(left - right)

    row, column = most = max(differing, key=gap)
    line = f"{ACCURACY}: {len(differing)} of {len(cells)} cells differ"
    if gap(most) >= 0:
        line += f", most {a.where(row, column)}: {a.accuracy(row, column):.2f} | {b.accuracy(row, column):.2f}"
    return [line]

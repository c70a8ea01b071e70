"""A comparison as one HTML file that needs nothing else: `python -m bench compare RUNS html=FILE`.

This module lays out what is drawn as plain data; bench/html/ has the page that draws it, with plotly.js.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.runs import ABSENT, COSTS, SHOWN, TITLES, Group, Record, text
from bench.compare.significance import COMPARED, TOGETHER
from bench.compare.tables import COLUMNS, DIGITS, Section
from bench.compare.views import DIVERGING, MOST, SEQUENTIAL, Line, View, told, views
from bench.metrics.scalars import FORMULAS

FILES = Path(__file__).parent / "html"
"""Markup, style and script of the page."""

SCRIPTS = ("elements.js", "plots.js", "answers.js", "pictures.js", "sweeps.js", "page.js")
"""Parts of the page's script, in the order in which they are put together."""

STOPS = 33
"""Colours that stand for a continuous scale."""

PRIVATE = ("started", "host", "continued", "packages")
"""Parts of environment.json that are no line of their own; the host's name is nobody else's business."""

HASH = 64
"""Characters of a SHA-256 hash, of which a page shows the first ten."""


def page(sections: Sequence[Section], left_out: Sequence[tuple[Path, str]] = ()) -> str:
    """Return the page as text.

    A content security policy forbids every request, and every script but the two whose hashes it holds: whatever a
    record says, nothing in it can run or call.

    Parameters
    ----------
    sections
        As of `bench.compare.tables.sections`.
    left_out
        As of `bench.compare.runs.Comparison`.
    """
    from plotly.offline import get_plotlyjs  # four megabytes

    scripts = {"plotly": get_plotlyjs(), "script": "\n".join(_file(name) for name in SCRIPTS)}
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts.values()]
    parts = {
        "policy": " ".join(f"'sha256-{one}'" for one in hashes),
        "style": _file("page.css"),
        "data": embedded(data(sections, left_out)),
        **scripts,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def _file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def embedded(value: Any) -> str:
    """Write a value as JSON that can stand inside a script element: no ``<`` ends it or opens a comment there."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def data(sections: Sequence[Section], left_out: Sequence[tuple[Path, str]] = ()) -> dict[str, Any]:
    """Return all that the page shows, as plain values for JSON: means and errors, not single runs.

    Numbers have as many decimals as can be seen.
    """
    return {
        "columns": [
            {
                "key": name,
                "title": TITLES[name],
                "digits": DIGITS.get(name, 2),
                "cost": name in COSTS,
                "formula": f"{name} = {FORMULAS[name]}" if name in SHOWN else "",
            }
            for name in COLUMNS
        ],
        "compared": COMPARED,
        "together": TOGETHER,
        "most": MOST,
        "absent": ABSENT,
        "scales": {"sequential": _scale(SEQUENTIAL), "diverging": _scale(DIVERGING)},
        "fields": [_field(view) for view in views(sections)],
        "left_out": [[str(path), reason] for path, reason in left_out],
    }


def _scale(name: str) -> list[list[Any]]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colors = colormaps[name]
    return [[place / (STOPS - 1), to_hex(colors(place / (STOPS - 1)))] for place in range(STOPS)]


def _field(view: View) -> dict[str, Any]:
    place = view.section.field
    environments: dict[str, dict[str, Any]] = {}
    return {
        "title": place.title,
        "conditions": [[name, _condition(value)] for name, value in place.conditions.items()],
        "notes": view.notes,
        "tasks": view.tasks,
        "states": view.states,
        "groups": [_line(line) for line in view.lines],
        "shown": view.shown,
        "best": view.best,
        "against": _against(view),
        "published": _published(view),
        "settings": _settings(place.groups),
        "runs": [_run(run, group, environments) for group in place.groups for run in group.runs.values()],
        "environments": [environment["lines"] for environment in environments.values()],
    }


def _line(line: Line) -> dict[str, Any]:
    group = line.group
    return {
        "label": group.label,
        "short": line.short,
        "method": group.method,
        "trains": group.trains,
        "color": line.color,
        "variant": line.variant,
        "n": len(group.runs),
        "apart": group.apart,
        "told": told(group),
        "values": {
            name: [_rounded(over.mean, 4), _rounded(over.standard_error, 4), over.n]
            for name, over in line.values.items()
            if _rounded(over.mean, 4) is not None
        },
        "mean": _cells(line.mean),
        "error": _cells(line.error),
        "phases": {name: _rounded(seconds, 3) for name, seconds in line.phases.items()},
    }


def _rounded(value: float | None, digits: int) -> float | None:
    """Round a number; JSON has none that is not finite."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def _cells(matrix: Any) -> list[list[float | None]] | None:
    cells = [] if matrix is None else [[_rounded(value, 2) for value in row] for row in matrix.tolist()]
    return cells if any(value is not None for row in cells for value in row) else None


def _against(view: View) -> dict[str, Any] | None:
    found = view.section.against
    if found is None:
        return None
    at = {line.group.label: number for number, line in enumerate(view.lines)}
    rows = {
        at[group.label]: {
            one.scalar: [_rounded(one.mean, 4), _rounded(one.low, 4), _rounded(one.high, 4), one.over]
            for one in differences
        }
        for group, differences in found.rows
    }
    return {"baseline": at[found.baseline.label], "level": found.level, "rows": rows}


def _published(view: View) -> dict[str, Any] | None:
    found = view.section.published
    if found is None:
        return None
    rows = [
        {
            "method": row.method,
            "source": row.source,
            "remarks": row.remarks,
            "values": {name: row.value(name) for name in SHOWN if row.value(name) is not None},
        }
        for row in found.rows
    ]
    return {"rows": rows, "notes": list(found.notes)}


def _condition(value: Any) -> str:
    """Write a condition, hashes shortened."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_condition(one)}" for key, one in value.items())
    return re.sub(rf"\b[0-9a-f]{{{HASH}}}\b", lambda match: match[0][:10], text(value))


def _settings(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the settings in which methods differ: per setting and method the values that its groups have."""
    methods = list(dict.fromkeys(group.method for group in groups))
    rows = []
    for key in sorted({key for group in groups for key in group.settings} - {"method.name"}):
        values = {
            method: list(dict.fromkeys(g.settings.get(key, ABSENT) for g in groups if g.method == method))
            for method in methods
        }
        if len({value for found in values.values() for value in found}) > 1:
            rows.append([key, ["–" if found == [ABSENT] else ", ".join(found) for found in values.values()]])
    return {"methods": methods, "rows": rows}


def _run(run: Record, group: Group, environments: dict[str, dict[str, Any]]) -> list[Any]:
    """Return where a run comes from: method, seed, when, which environment, code, command, folder."""
    lines = [[key, text(value)] for key, value in run.environment.items() if key not in PRIVATE]
    packages = run.environment.get("packages", {})
    lines.append(["packages", ", ".join(f"{name} {text(version)}" for name, version in packages.items())])
    known = environments.setdefault(json.dumps(lines), {"number": len(environments) + 1, "lines": lines})
    command = run.identity.get("command")
    return [
        group.label,
        run.seed,
        text(run.environment.get("started", "?")),
        known["number"],
        text(run.identity.get("code_revision", "?")),
        " ".join(map(str, command)) if isinstance(command, list) else "?",
        str(run.path),
    ]

"""What the page of a comparison shows, as plain data: computed here, drawn by the scripts in bench/compare/html/."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare import extremes
from bench.compare.extremes import RATIOS
from bench.compare.grouping import Group
from bench.compare.page.numbers import cells, range_of, rounded
from bench.compare.page.tasks import task_by_task
from bench.compare.per_task import ahead
from bench.compare.runs import ABSENT, COSTS, FORMULAS, Run
from bench.compare.significance import COMPARED, TOGETHER
from bench.compare.tables import COLUMNS, DIGITS, OPTIONAL, Section
from bench.compare.views import (
    DIVERGING,
    MOST,
    OVER,
    SEQUENTIAL,
    Line,
    View,
    short_names,
    short_settings,
    views,
)
from bench.config.fields import show
from bench.metrics.kinds import DIFFERENCES, FIRST, LESS_IS_BETTER, RANKED, SHOWN, TRADEOFF
from bench.record.flags import in_words

STOPS = 33
"""Colours that stand for a continuous scale."""

PRIVATE = ("started", "host", "continued", "packages")
"""Parts of environment.json that are no line of their own; the host's name is nobody else's business."""

HASH = 64
"""Characters of a SHA-256 hash, of which a page shows the first ten."""


def data(sections: Sequence[Section], left_out: Sequence[tuple[Path, str]] = ()) -> dict[str, Any]:
    """Return all that the page shows: means and errors, not single runs.

    Parameters
    ----------
    sections : sequence of Section
        See `bench.compare.tables.sections`.
    left_out : sequence of (Path, str)
        See `bench.compare.grouping.Comparison`.

    Returns
    -------
    dict
        Plain values for JSON, with the keys of ``PageData`` in bench/compare/html/types.d.ts. Numbers have as many
        decimals as can be seen.
    """
    return {
        "costs": OVER,
        "together": TOGETHER,
        "most": MOST,
        "scales": {"sequential": _scale(SEQUENTIAL), "diverging": _scale(DIVERGING)},
        "fields": [_field(view) for view in views(sections)],
        "left_out": [[str(path), reason] for path, reason in left_out],
    }


def _columns(view: View) -> list[str]:
    """Return scalars and costs, without those that are only there where a run has them."""
    return [
        name
        for name in COLUMNS[view.section.kind]
        if name not in OPTIONAL or any(name in line.values for line in view.lines)
    ]


def _column(name: str, title: str) -> dict[str, Any]:
    return {
        "key": name,
        "title": title,
        "digits": DIGITS.get(name, 2),
        "cost": name in COSTS,
        "less": name in (*COSTS, *LESS_IS_BETTER),
        "unit": "" if name in COSTS else "points" if name in DIFFERENCES else "%",
        "formula": f"{name} = {FORMULAS[name]}" if name in FORMULAS else "",
    }


def _scale(name: str) -> list[list[Any]]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colors = colormaps[name]
    return [[stop / (STOPS - 1), to_hex(colors(stop / (STOPS - 1)))] for stop in range(STOPS)]


def _field(view: View) -> dict[str, Any]:
    field, kind = view.section.field, view.section.kind
    environments: dict[str, dict[str, Any]] = {}
    return {
        "kind": kind,
        "columns": [_column(name, view.section.choice.title(name)) for name in _columns(view)],
        "headlines": FIRST[kind],
        "ranked": RANKED[kind],
        "tradeoff": TRADEOFF[kind],
        "compared": COMPARED[kind],
        "title": field.title,
        "conditions": [[name, _condition(value)] for name, value in field.conditions.items()],
        "notes": view.notes,
        "tasks": view.tasks,
        "sets": view.sets,
        "states": view.states,
        "groups": [_line(line) for line in view.lines],
        "shown": view.shown,
        "ahead": _ahead(view),
        **_extremes(view),
        "against": _against(view),
        "per_task": task_by_task(view),
        "published": _published(view),
        "settings": _settings(field.groups),
        "runs": [_run(run, group, environments) for group in field.groups for run in group.runs.values()],
        "environments": [environment["lines"] for environment in environments.values()],
    }


def _ahead(view: View) -> dict[str, int | None]:
    """Return for each accuracy the line that is shown to be ahead of the next one."""
    at = {line.group.label: index for index, line in enumerate(view.lines)}
    first = {name: ahead(view.section.field.groups, name) for name in SHOWN[view.section.kind]}
    return {name: at[group.label] if group else None for name, group in first.items()}


def _line(line: Line) -> dict[str, Any]:
    group = line.group
    return {
        "label": group.label,
        "short": line.short,
        "method": group.method,
        "trains": group.trains,
        "bound": group.bound,
        "color": line.color,
        "variant": line.variant,
        "n": group.n,
        "shared": group.shared,
        "apart": group.apart,
        "settings": short_settings(group),
        "values": {
            name: [rounded(over.mean, 4), rounded(over.standard_error, 4), over.n] for name, over in line.values.items()
        },
        "mean": cells(line.mean),
        "error": cells(line.error),
        "learned": [rounded(value, 2) for value in line.learned],
        "waiting": [rounded(value, 2) for value in line.waiting],
        "spans": [range_of(span) for span in extremes.spans(line)],
        "losses": [[[rounded(one.mean, 5), rounded(one.standard_error, 5)] for one in task] for task in line.losses],
        "phases": {name: rounded(seconds, 3) for name, seconds in line.phases.items()},
    }


def _extremes(view: View) -> dict[str, Any]:
    """Return what stands out in a view; contrasts by their baseline, then by line."""
    baselines = extremes.baselines(view)
    return {
        "winners": extremes.winners(view),
        "fastest": extremes.fastest(view),
        "baselines": baselines,
        "contrasts": {base: [_contrast(view, line, view.lines[base]) for line in view.lines] for base in baselines},
        "accuracies": range_of(extremes.accuracies(view)),
        "ranges": {a: {b: range_of(one) for b, one in others.items()} for a, others in extremes.ranges(view).items()},
        "tried": [_tried(one) for one in extremes.tried(view)],
    }


def _contrast(view: View, line: Line, base: Line) -> list[Any] | None:
    """Return a contrast as a list, which is short: there may be thousands."""
    if line is base:
        return None
    this = extremes.contrast(line, base, view.better)
    gain, loss = ([task[0], rounded(task[1], 2)] if task else None for task in (this.gain, this.loss))
    differences = [rounded(this.differences.get(name), 4) for name in COMPARED[view.section.kind]]
    ratios = [rounded(this.ratios.get(name), 4) for name in RATIOS]
    return [differences, gain, loss, ratios, rounded(this.reach, 2)]


def _tried(method: extremes.Tried) -> dict[str, Any]:
    return {
        "method": method.method,
        "groups": method.lines,
        "rulers": {key: dataclasses.asdict(ruler) for key, ruler in method.rulers.items()},
        "names": short_names(method.rulers),
        "widest": method.widest,
        "tops": {
            name: {"best": top.best, "tenth": top.tenth, "low": rounded(top.low, 4), "high": rounded(top.high, 4)}
            for name, top in method.tops.items()
        },
    }


def _against(view: View) -> dict[str, Any] | None:
    against = view.section.against
    if against is None:
        return None
    at = {line.group.label: number for number, line in enumerate(view.lines)}
    rows = {
        at[group.label]: {
            one.scalar: [rounded(one.mean, 4), rounded(one.low, 4), rounded(one.high, 4), one.over]
            for one in differences
        }
        for group, differences in against.rows
    }
    return {"baseline": view.baseline, "level": against.level, "rows": rows}


def _published(view: View) -> dict[str, Any] | None:
    table = view.section.published
    if table is None:
        return None
    rows = [
        {
            "method": row.method,
            "source": row.source,
            "remarks": row.remarks,
            "apart": row.apart,
            "values": {name: row.value(name) for name in SHOWN[view.section.kind] if row.value(name) is not None},
        }
        for row in table.rows
    ]
    return {"rows": rows, "notes": list(table.notes)}


def _condition(value: Any) -> str:
    """Write a condition, hashes shortened."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_condition(one)}" for key, one in value.items())
    return re.sub(rf"\b[0-9a-f]{{{HASH}}}\b", lambda match: match[0][:10], show(value))


def _settings(groups: Sequence[Group]) -> dict[str, Any]:
    """Return flags and settings in which methods differ: per setting and method the values that its groups have."""
    methods = list(dict.fromkeys(group.method for group in groups))
    known = [(group.method, {"flags": in_words(group.flags), **group.settings}) for group in groups]
    rows = []
    for key in ["flags", *sorted({key for group in groups for key in group.settings} - {"method.name"})]:
        values = {
            method: list(dict.fromkeys(values.get(key, ABSENT) for name, values in known if name == method))
            for method in methods
        }
        if len({value for few in values.values() for value in few}) > 1:
            rows.append([key, ["–" if few == [ABSENT] else ", ".join(few) for few in values.values()]])
    return {"methods": methods, "rows": rows}


def _run(run: Run, group: Group, environments: dict[str, dict[str, Any]]) -> list[Any]:
    """Return where a run comes from: method, seed, when, which environment, code, command, folder."""
    lines = [[key, show(value)] for key, value in run.environment.items() if key not in PRIVATE]
    packages = run.environment.get("packages") or {}
    lines.append(["packages", ", ".join(f"{name} {show(version)}" for name, version in packages.items())])
    known = environments.setdefault(json.dumps(lines), {"number": len(environments) + 1, "lines": lines})
    return [
        group.label,
        run.seed,
        show(run.environment.get("started", "?")),
        known["number"],
        run.identity.code_revision or "?",
        " ".join(map(str, run.identity.command)) or "?",
        str(run.path),
    ]

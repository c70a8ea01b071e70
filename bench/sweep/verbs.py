"""The verbs ``sweep`` and ``tune``: which points a line means, what is only shown, and what is chosen in the end."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.config.chosen import Chosen, chosen_text, read_chosen
from bench.config.fields import show
from bench.config.words import pair, split
from bench.config.written import items, unquoted
from bench.core.errors import UserError, together
from bench.core.files import make_folder, write_output
from bench.core.paths import is_file, user_path
from bench.sweep.best import Tried, best, choose, comparison, tried
from bench.sweep.file import Sweep, expand, find
from bench.sweep.launch import explain, preempt, run_points
from bench.sweep.options import Common, TuneOptions, options, scalar_of
from bench.sweep.points import Point, plan, points_table, states_of

SEEDS = (0, 1)
"""Seeds of a grid that names none."""

ALL = "all"
"""What stands for every registered method."""


def sweep(words: Sequence[str]) -> int:
    """Do what ``python -m bench sweep`` is asked for.

    Parameters
    ----------
    words : sequence of str
        The words after ``sweep``.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    UserError
        For what a user can correct.
    """
    pairs, plain = split(words)
    asked = [word for word in plain if word != "status"]
    if len(asked) != 1 or len(plain) > 2:
        raise UserError("sweep takes one sweep file, and perhaps status: python -m bench sweep compare_methods status")
    chosen, rest = options([pair.word for pair in pairs])
    found = expand(find(asked[0]), rest, chosen.count, chosen.sweep_seed)
    if chosen.best is not None:
        print(best(found.points, scalar_of(chosen.best) or "", found.file))
        return 0
    return 0 if only_shown(found, chosen, "status" in plain) else run_points(found, chosen.launch)


def only_shown(found: Sweep, chosen: Common, status: bool) -> bool:
    """Do what starts no point, if that is asked for.

    Parameters
    ----------
    found : Sweep
    chosen : Common
        The words of the line.
    status : bool
        Whether ``status`` is among them.

    Returns
    -------
    bool
        Whether it was asked for; otherwise the points are to be run.

    Raises
    ------
    UserError
        If words contradict each other, or a point cannot be preempted.
    """
    if chosen.sort is not None and not status:
        raise UserError(f"sort={chosen.sort} sorts the table of status: write status beside it")
    if status:
        states = states_of(found.points)
        print(points_table(found.points, scalar_of(chosen.sort or "")))
        explain(found, [point for point, state in zip(found.points, states, strict=True) if state == "failed"])
        return True
    for note in found.notes:
        print(f"note: {note}")
    if chosen.preempt is not None:
        print(preempt(found, chosen.preempt))
    elif chosen.dry_run:
        print(plan(found.points))
    return chosen.preempt is not None or chosen.dry_run


# ------------------------------------------------------------------------------------------------- tune


def tune(words: Sequence[str]) -> int:
    """Do what ``python -m bench tune`` is asked for: run a grid for each method, and choose the best setting of each.

    Parameters
    ----------
    words : sequence of str
        The words after ``tune``.

    Returns
    -------
    int
        The exit status, as of ``sweep``.

    Raises
    ------
    UserError
        For what a user can correct.
    """
    pairs, plain = split(words)
    if plain not in ([], ["status"]):
        raise UserError("tune takes KEY=VALUE words, and perhaps status: python -m bench tune method=NAME stream=NAME")
    chosen, rest = options([pair.word for pair in pairs], TuneOptions, "tune")
    methods = grids(chosen, rest)
    found = _together(list(methods.values()))
    metric = scalar_of(chosen.metric) or ""
    target = found.points[0].directory.parents[1] / "tuned.yaml" if chosen.to is None else user_path(chosen.to, "to")
    before = read_chosen(target) if is_file(target) else {}
    if only_shown(found, chosen, bool(plain)):
        return 0
    status = 0 if chosen.partial else run_points(found, chosen.launch)
    entries: dict[str, Chosen] = {}
    for word, one in methods.items():
        settings = tried(one.points, metric)
        missing = sum(len(setting.points) - len(setting.values) for setting in settings)
        print()
        if settings[0].mean is None or (missing and not chosen.partial):
            print(_not_chosen(word, missing, len(one.points), metric))
            continue
        entry = choose(settings, metric, one.file.stem)
        entries[settings[0].points[0].directory.parent.name] = entry
        print("\n".join(_said(word, settings, entry)))
    if len(entries) < len(methods) and (chosen.partial or chosen.launch.wait):
        status = status or 1
    if entries:
        try:
            make_folder(target.parent)
            write_output(target, chosen_text({**before, **entries}))
        except OSError as error:
            raise UserError(
                f"cannot write to {target} ({error.strerror or error}): choose another file with to=FILE"
            ) from error
        print(f"\n{target} has what was chosen: python -m bench run method=NAME {shlex.quote(f'settings={target}')}")
    return status


def _not_chosen(word: str, missing: int, points: int, metric: str) -> str:
    if not missing:
        return f"nothing is chosen for {word}: {metric} is not defined"
    return (
        f"nothing is chosen for {word}: {missing} of {points} points have no {metric} yet; the same line continues, "
        "and partial=true chooses among the settings that have it for all their seeds"
    )


def _said(word: str, settings: Sequence[Tried], entry: Chosen) -> list[str]:
    """Return the lines about what is chosen for one method."""
    values = [f"{key}={show(value)}" for key, value in entry.settings.items()]
    return [
        *comparison(settings, entry.criterion),
        f"chosen for {word} on {entry.stream}: {' '.join(values)}",
        f"python -m bench run {shlex.join([f'method={word}', *values])}",
    ]


def grids(chosen: TuneOptions, words: Sequence[str]) -> dict[str, Sweep]:
    """Return the points of each method, by the word for it.

    Parameters
    ----------
    chosen : TuneOptions
    words : sequence of str
        The words that are settings of a run.
    """
    methods: list[str] | None = None
    others = []
    for word in words:
        one = pair(word)
        if one is not None and one.key in ("method", "method.name"):
            listed = items(one.value)
            methods = [unquoted(name) for name in ([one.value] if listed is None else listed)]
        else:
            others.append(word)
    if not methods:
        raise UserError(
            f"tune needs a method: method=NAME, a file.py, a list as in method=[lora,keeplora], or method={ALL}"
        )
    if not any(one is not None and one.key in ("stream", "stream.name") for one in map(pair, others)):
        raise UserError("tune needs the stream to choose on: stream=NAME, another one than the results will be of")
    names = list(registry.entries("method")) if methods == [ALL] else list(dict.fromkeys(methods))
    file, problems = find(chosen.grid), list[str]()
    grids: dict[str, Sweep] = {}
    idle = []
    for name in names:
        try:
            grid = _grid(file, name, chosen.seeds, others)
            idle += [name] if grid is None else []
            grids |= {} if grid is None else {name: grid}
        except UserError as error:
            problems += str(error).split("\n")
    if problems:
        raise together(dict.fromkeys(problems))
    if not grids:
        raise UserError(f"{_never(idle)}: choose another method, or a grid of its own settings with grid=FILE")
    if idle:
        print(f"note: {_never(idle)}")
    return grids


def _never(idle: Sequence[str]) -> str:
    are = "is" if len(idle) == 1 else "are"
    return (
        f"{', '.join(idle)} {are} never trained, and the grid has settings of training only: there is nothing to tune"
    )


def _grid(file: Path, method: str, seeds: Sequence[int] | None, words: Sequence[str]) -> Sweep | None:
    """Return the points of one method; None for a method that is not trained where the grid is about training only."""
    cls = registry.load("method", method)
    own = file.with_name(f"{file.stem}_{cls.registry_name}.yaml")  # type: ignore[attr-defined]
    file = own if is_file(own) else file
    fixed: dict[str, dict[str, Any]] = {"evaluate.split": {"value": "validation"}}
    if seeds is not None:
        fixed["seed"] = {"values": list(seeds)}
    found = expand(file, [f"method={method}", *words], instead=fixed)
    if seeds is None and "seed" not in found.swept:
        fixed["seed"] = {"values": list(SEEDS)}
        found = expand(file, [f"method={method}", *words], instead=fixed)
    settings = tried(found.points, "")
    if len(settings) == 1:
        raise UserError(f"{file} has one setting only: give a setting of the method or of training more values")
    tested = {frozenset(point.directory.name.rpartition("-s")[2] for point in one.points) for one in settings}
    if len(tested) > 1 or ("seed" in fixed and tested != {frozenset(map(str, fixed["seed"]["values"]))}):
        raise UserError(f"{file} does not try every setting with every seed: write method: grid, without run_cap")
    if any(point.split != "validation" for point in found.points):
        raise UserError("tune chooses on validation images: leave evaluate.split out")
    about_training = all(key.startswith("train") or key == "seed" for key in found.swept)
    return None if getattr(cls, "constant", False) and about_training else found


def _together(grids: Sequence[Sweep]) -> Sweep:
    """Return the points of several methods as one sweep."""
    points: list[Point] = []
    for grid in grids:
        for point in grid.points:
            label = f"{point.directory.parent.name} {point.label}" if len(grids) > 1 else point.label
            points.append(dataclasses.replace(point, number=len(points) + 1, label=label))
    notes = tuple(dict.fromkeys(note for grid in grids for note in grid.notes))
    return Sweep(grids[0].file, tuple(points), notes, grids[0].swept, "tune")

"""The verbs ``sweep`` and ``tune``: which points a line means, what is only shown, and what is chosen in the end."""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.config.chosen import Chosen, chosen_text, read_chosen
from bench.config.fields import show
from bench.config.resolve import resolve
from bench.config.run_settings import label_space_of
from bench.config.words import pair, split
from bench.config.written import items, unquoted
from bench.core.errors import UserError, together
from bench.core.files import make_folder, write_output
from bench.core.paths import exists, is_file, is_folder, user_path
from bench.metrics.kinds import LEARNING
from bench.sweep.best import Tried, best, choose, comparison, deciding, tried
from bench.sweep.file import Sweep, expand, find, swept
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
    expanded = expand(find(asked[0]), rest, chosen.count, chosen.sweep_seed)
    if chosen.best is not None:
        print(best(expanded.points, deciding(expanded.points, "best", chosen.best), expanded.file))
        return 0
    return 0 if only_shown(expanded, chosen, "status" in plain) else run_points(expanded, chosen.launch)


def only_shown(expanded: Sweep, chosen: Common, status: bool) -> bool:
    """Do what starts no point, if that is asked for.

    Parameters
    ----------
    expanded : Sweep
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
        states = states_of(expanded.points)
        print(points_table(expanded.points, scalar_of(chosen.sort or "")))
        explain(expanded, [point for point, state in zip(expanded.points, states, strict=True) if state == "failed"])
        return True
    for note in expanded.notes:
        print(f"note: {note}")
    if chosen.preempt is not None:
        print(preempt(expanded, chosen.preempt))
    elif chosen.dry_run:
        print(plan(expanded.points))
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
    joined = _together(list(methods.values()))
    metric = deciding(joined.points, "metric", chosen.metric)
    target = joined.points[0].directory.parents[1] / "tuned.yaml" if chosen.to is None else user_path(chosen.to, "to")
    _before(target)
    if only_shown(joined, chosen, bool(plain)):
        return 0
    _check_place(target)
    status = 0 if chosen.partial else run_points(joined, chosen.launch)
    entries: dict[str, Chosen] = {}
    for word, one in methods.items():
        settings = tried(one.points, metric)
        missing = sum(len(setting.points) - len(setting.values) for setting in settings)
        print()
        if settings[0].mean is None or (missing and not chosen.partial):
            print(_not_chosen(word, missing, len(one.points), metric, chosen.partial))
            continue
        entry = choose(settings, metric, one.file.stem)
        entries[settings[0].points[0].directory.parent.name] = entry
        print("\n".join(_said(word, settings, entry)))
    if len(entries) < len(methods) and (chosen.partial or chosen.launch.wait):
        status = status or 1
    if entries:
        with _writing(target):
            make_folder(target.parent)
            write_output(target, chosen_text({**_before(target), **entries}))
        print(f"\n{target} has what was chosen: python -m bench run method=NAME {shlex.quote(f'settings={target}')}")
    return status


def _before(target: Path) -> dict[str, Chosen]:
    """Return what the file has already; read before points run, and again after them, since others may write it too."""
    return read_chosen(target) if is_file(target) else {}


def _check_place(target: Path) -> None:
    """Refuse a file that cannot be written before the points run, which may take hours."""
    with _writing(target):
        if is_folder(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if is_file(target) or not exists(target):  # not a pipe
            make_folder(target.parent)
            with tempfile.TemporaryFile(dir=Path(os.path.realpath(target)).parent):
                pass


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Say in a sentence what cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {target} ({error.strerror or error}): choose another file with to=FILE"
        ) from error


def _not_chosen(word: str, missing: int, points: int, metric: str, partial: bool) -> str:
    if not missing:
        return f"nothing is chosen for {word}: {metric} is not defined"
    remedy = (
        "the same line without partial=true continues"
        if partial
        else "the same line continues, and partial=true chooses among the settings that have it for all their seeds"
    )
    return f"nothing is chosen for {word}: {missing} of {points} points have no {metric} yet; {remedy}"


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
    keys = {one.key: one.value for one in map(pair, others) if one is not None}
    if keys.keys().isdisjoint(("stream", "stream.name")):
        raise UserError("tune needs the stream to choose on: stream=NAME, another one than the results will be of")
    if "seed" in keys:
        raise UserError(f"tune runs every setting with each of its seeds: write seeds=[{keys['seed']}], not seed=")
    names = _all(others) if methods == [ALL] else list(dict.fromkeys(methods))
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
    registered = [grid.points[0].directory.parent.name for grid in grids.values()]
    if twice := next((name for name in registered if registered.count(name) > 1), None):
        raise UserError(f"method= names {twice} twice, and a file has one choice for it: leave one out")
    if not grids:
        raise UserError(f"{_never(idle)}: choose another method, or a grid of its own settings with grid=FILE")
    if idle:
        print(f"note: {_never(idle)}")
    return grids


def _all(words: Sequence[str]) -> list[str]:
    """Return the names of all methods that support the label space of the stream."""
    names = list(registry.entries("method"))
    try:
        stream = resolve(words, need_method=False)
    except UserError:
        return names  # whoever reads these words for a method says what is wrong with them
    kind, space = (
        getattr(stream.stream_class, "kind", LEARNING),
        label_space_of(stream.stream_class, stream.stream_settings),
    )
    methods: dict[str, Any] = {name: registry.load("method", name) for name in names}
    names = [name for name in names if kind in getattr(methods[name], "kinds", (LEARNING,))]
    unfit = [name for name in names if space not in methods[name].label_spaces]
    if unfit:
        print(f"note: {', '.join(unfit)} left out: the label space {space!r} of the stream is not supported")
    return [name for name in names if name not in unfit]


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
    varied = set(swept(file)) - set(fixed)
    if seeds is not None or "seed" not in varied:
        fixed["seed"] = {"values": list(SEEDS if seeds is None else seeds)}
    foreign = sorted(key for key in varied - {"seed"} if not _is_chosen(key))
    if foreign:
        raise UserError(
            f"{file} varies {foreign[0]}: a grid of tune may vary settings of the method and of training, and seed"
        )
    grid = expand(file, [f"method={method}", *words], instead=fixed)
    settings = tried(grid.points, "")
    if len(settings) == 1:
        raise UserError(f"{file} has one setting only: give a setting of the method or of training more values")
    tested = {frozenset(point.directory.name.rpartition("-s")[2] for point in one.points) for one in settings}
    if len(tested) > 1 or ("seed" in fixed and tested != {frozenset(map(str, fixed["seed"]["values"]))}):
        raise UserError(f"{file} does not try every setting with every seed: write method: grid, without run_cap")
    if any(point.split != "validation" for point in grid.points):
        raise UserError("tune chooses on validation images: leave evaluate.split out")
    about_training = all(key.startswith("train") or key == "seed" for key in grid.swept)
    return None if getattr(cls, "constant", False) and about_training else grid


def _is_chosen(key: str) -> bool:
    """Return whether a setting may be chosen: one of the method's own or of training, but not what names the method."""
    return key.partition(".")[0] in ("method", "train") and key not in ("method", "method.name")


def _together(grids: Sequence[Sweep]) -> Sweep:
    """Return the points of several methods as one sweep."""
    points: list[Point] = []
    for grid in grids:
        for point in grid.points:
            label = f"{point.directory.parent.name} {point.label}" if len(grids) > 1 else point.label
            points.append(dataclasses.replace(point, number=len(points) + 1, label=label))
    notes = tuple(dict.fromkeys(note for grid in grids for note in grid.notes))
    return Sweep(grids[0].file, tuple(points), notes, grids[0].swept, "tune")

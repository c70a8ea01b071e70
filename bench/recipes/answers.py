"""What came out of a recipe: each published number within, above, below, or not run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.compare import published
from bench.compare.export.cells import CHANCE, Agreement, agreement, agreement_lines, counted
from bench.compare.grouping import ComparableRuns, Group, gather
from bench.compare.published import Row
from bench.config import registry
from bench.config.fingerprint import decides
from bench.config.resolve import read, resolve
from bench.core.console import one_line
from bench.core.errors import UserError, shorten, suggest
from bench.core.untrusted import why
from bench.recipes.recipe import EXPECTED, Recipe
from bench.record.schema import is_finished
from bench.sweep.points import Point

UNTRAINED = "zero-shot"
"""The method that leaves the model as it is."""

FAMILIES = {"ensemble": "zscl"}
"""Prompts of a stream -> their family in a file of accuracies of untrained models, where it has another name."""

REPEAT = "give compare the words that the runs were started with, out=DIR too"
"""What to do where no run is found."""


@dataclass(frozen=True)
class Known:
    """What must come out of some points of a recipe: those of one method on one stream, with one model.

    Attributes
    ----------
    stream, model, method : str
    rows : tuple of Row
        What is published of them.
    tasks : tuple of str
        Those of the published table, in their order.
    of : str
        The model that the published numbers are of.
    bands : mapping of str to float
        How far each test set may be off, in percentage points; empty where the limit is another one.
    points : list of Point
    """

    stream: str
    model: str
    method: str
    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    of: str
    bands: Mapping[str, float] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)


def known(recipe: Recipe, words: Sequence[str] = ()) -> list[Known]:
    """Return what must come out of a recipe.

    Parameters
    ----------
    recipe : Recipe
    words : sequence of str, optional
        KEY=VALUE words added to every run.

    Returns
    -------
    list of Known
        In the order of the recipe's points.

    Raises
    ------
    UserError
        If the recipe expects a row or a method that is not there, or a file of accuracies cannot be read.
    """
    found: dict[tuple[str, ...], Known] = {}
    for point in recipe.points(words).points:
        flat = resolve(point.words).flat
        names = [str(flat[f"{kind}.name"]) for kind in ("stream", "model", "method")]
        key = (*names, str({name: value for name, value in flat.items() if name.startswith("stream.")}))
        if key not in found:
            found[key] = _known(recipe, flat, *names)
        found[key].points.append(point)
    _check_expected(recipe, list(found.values()), words)
    return list(found.values())


def _check_expected(recipe: Recipe, found: Sequence[Known], words: Sequence[str]) -> None:
    """Refuse what is expected of no run of a recipe: a wrong name would drop its numbers without a word."""
    if {"method.name", "stream.name"} & set(read(words, [])):
        return  # runs of other methods or streams than the recipe's own
    tables = [table for one in found if (table := published.find(one.stream)) is not None]
    rows = {row.method for table in tables for row in table.rows}
    for what, there, names in (
        ("method of its sweep file", {one.method for one in found}, list(recipe.expected)),
        ("published row of its streams", rows, [name for own in recipe.expected.values() for name in own]),
    ):
        for name in names:
            if name not in there:
                wrong = f'"{shorten(name)}" is no {what}{suggest(name, there)}'
                raise UserError(f"recipe {recipe.name}: {wrong}: correct {recipe.file.with_name(EXPECTED)}")


def _known(recipe: Recipe, flat: Mapping[str, Any], stream: str, model: str, method: str) -> Known:
    """Return what must come out of a point with these settings."""
    if recipe.zero_shot and method == UNTRAINED:
        return _untrained(recipe.zero_shot, stream, model, str(flat.get("stream.prompts", "")))
    table = published.find(stream)
    names = recipe.expected.get(method, ())
    if table is None:
        return Known(stream, model, method, (), (), model)
    rows = tuple(row for row in table.rows if row.method in names and _holds(row, flat))
    return Known(stream, model, method, rows, table.tasks, table.model)


def _holds(row: Row, flat: Mapping[str, Any]) -> bool:
    """Return whether the settings that a row is about are those of a run."""
    return all(flat[key] == value for key, value in row.conditions.items() if key in flat)


def _untrained(name: str, stream: str, model: str, prompts: str) -> Known:
    """Return the accuracies of the untrained model that a file has, with their bands."""
    entry = registry.entries("stream").get(stream)  # None for a stream in a file of the user's
    if entry is None or entry.path is None:
        return Known(stream, model, UNTRAINED, (), (), model)
    path = entry.path.parent / "published" / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        of = content["models"].get(model)
        if of is None and model == content["model"]:
            of = content["families"].get(FAMILIES.get(prompts, prompts))
        values = {} if of is None else {task: (value, band) for task, (value, band) in of["accuracy"].items()}
        source = "" if of is None else of["source"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # whatever is in a file of JSON
        reason = f"it has no {error}" if isinstance(error, KeyError) else why(error)
        raise UserError(
            f"the accuracies of untrained models in {path} cannot be read ({reason}): correct it"
        ) from error
    table = published.find(stream)
    tasks = tuple(values) if table is None else table.tasks
    if not values or not set(tasks) <= set(values):
        return Known(stream, model, UNTRAINED, (), (), model)
    row = Row("zero-shot", source, columns={"last": {task: values[task][0] for task in tasks}}, flags={})
    return Known(stream, model, UNTRAINED, (row,), tasks, model, {task: band for task, (_, band) in values.items()})


# ------------------------------------------------------------------------------------------------ marked


def marked(recipe: Recipe, one: Known) -> tuple[list[Agreement], list[str]]:
    """Mark the published numbers of some points of a recipe.

    Parameters
    ----------
    recipe : Recipe
    one : Known

    Returns
    -------
    list of Agreement
        A published row and a group of runs each; one without runs where nothing can be compared.
    list of str
        Why runs that are there cannot be compared, and which runs count for nothing.
    """
    if not one.rows:
        return [], []
    directories = [point.directory for point in one.points if is_finished(point.directory)]
    limit = one.bands or recipe.tolerance
    notes: list[str] = []
    groups: list[Group] = []
    if directories:
        comparison = gather(directories)
        notes += [f"{path}: {reason}" for path, reason in comparison.left_out]
        groups = [group for runs in comparison.fields if _comparable(runs, one, notes) for group in runs.groups]
    groups = groups or [Group(one.method, "", {}, label=one.method)]
    return [agreement(group, row, one.tasks, limit) for group in groups for row in one.rows], notes


def _comparable(runs: ComparableRuns, one: Known, notes: list[str]) -> bool:
    """Return whether runs may stand beside the published numbers; where they may not, a note says why."""
    if one.bands:
        return True  # the numbers are of the model that ran
    table = published.beside(runs.stream, runs.model, runs.conditions)
    if table is not None and all(row in table.rows for row in one.rows):
        return True
    weights = "" if runs.conditions.get("model.weights", "pretrained") == "pretrained" else " without its weights"
    other = f"of {runs.model}{weights}, and the numbers of {one.of}" if (runs.model, weights) != (one.of, "") else ""
    notes.append(f"not compared: these runs are {other or 'of other tasks, images or label space than the numbers'}")
    return False


def answers(recipe: Recipe, words: Sequence[str] = (), bold: bool = False) -> str:
    """Return as text what came out of a recipe beside what must.

    Parameters
    ----------
    recipe : Recipe
    words : sequence of str, optional
        KEY=VALUE words added to every run, as on the line that ran it.
    bold : bool
        Whether numbers outside of their limits are printed in bold.

    Returns
    -------
    str
        A table for every method and published row, a line that counts all numbers, and what the limits are.

    Raises
    ------
    UserError
        If a word is no setting, or would replace what the recipe varies, or as for `known`.
    """
    blocks, all_answers, chance = [], [], False
    every = known(recipe, words)
    for one in every:
        lines = [one_line(f"stream {one.stream}, model {one.model}")]
        found, notes = marked(recipe, one)
        for each in found:
            said = agreement_lines(each, f"{each.row.method} ({each.row.source})", bold=bold)
            lines += said if each.group.runs else said[:1]
            all_answers += each.answers
            chance = chance or (each.errors > 0)
        lines += [] if found else [f"  nothing is published of {one.method} here: see its numbers with status"]
        blocks.append("\n".join([*lines, *(one_line(f"  note: {note}") for note in notes)]))
    if all_answers:
        blocks.append("\n".join([f"{recipe.name}: {counted(all_answers)}", *_limits(recipe, chance)]))
    if not any(is_finished(point.directory) for one in every for point in one.points):
        blocks.append(f"note: no run of it is finished in {every[0].points[0].directory.parents[3]}: {REPEAT}")
    changed = [word for word in words if decides(next(iter(read([word], []))))]
    if changed:
        blocks.append(f"note: the recipe has not {' '.join(changed)}: what is published is of runs without")
    return "\n\n".join(blocks)


def _limits(recipe: Recipe, chance: bool) -> list[str]:
    """Return what the limits are."""
    first = "ours minus theirs in percentage points, means over n seeds; within: not farther apart than"
    if recipe.zero_shot:
        return [first, f"the band of each test set in datasets/published/{recipe.zero_shot}.json"]
    if recipe.tolerance is not None:
        return [first, f"{recipe.tolerance:g} point{'' if recipe.tolerance == 1 else 's'}, since {recipe.why}"]
    return [f"{first} so many", "standard errors and half of the last published digit", CHANCE] if chance else []

"""What a recipe takes and what it must give, said before anything is started."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from bench.compare.published import Row
from bench.config.fields import show
from bench.config.resolve import resolve
from bench.config.run_settings import Resolved
from bench.core.errors import UserError
from bench.core.paths import is_folder, user_path
from bench.core.tables import table, wrap
from bench.data.dataset import Status, inspect
from bench.metrics.scalars import HEADLINES
from bench.recipes.answers import known
from bench.recipes.clock import CARDS, LAUNCH, PRECISIONS, SHARE, hours_on, measured
from bench.recipes.needs import Needed, Work, needed
from bench.recipes.recipe import Recipe
from bench.recipes.sizes import PROMPT, datasets_of, gigabytes

HERE = ("present", "differs")
"""States of datasets that can be read."""

COUNTED = (
    "Estimates. Images go forward through the image tower: in training, in passes before and after it, and in the rows "
    "of the matrix. How often a method reads its images is counted on toy tasks. A multiply-add is two operations; a "
    "gradient comes back through the activations for as many as forwards, and through the weights that learn for their "
    f"share of as many; prompts have {PROMPT} tokens. Left out: reading images, decompositions, prompts of the rows. "
    "Runs on one machine share the row of the untrained model, which is counted for each."
)
"""What the table of work is about."""


def statuses(runs: Sequence[Resolved], data: str | None) -> list[Status]:
    """Inspect every dataset that some runs need, each once.

    Parameters
    ----------
    runs : sequence of Resolved
    data : str or None
        The setting ``data``.

    Returns
    -------
    list of Status
        With the state ``unknown`` where there is no folder.

    Raises
    ------
    UserError
        If the folder is not there.
    """
    root = None if data is None else user_path(data, "data")
    if root is not None and not is_folder(root):
        raise UserError(f"data={data} is no folder: give the folder that holds the datasets")
    datasets = {name: one for run in runs for name, one in datasets_of(run).items()}
    if root is None:
        return [Status(one, "unknown", None, None, "") for one in datasets.values()]
    return [inspect(one, root)[0] for one in datasets.values()]


def check_data(recipe: Recipe, runs: Sequence[Resolved], data: str | None) -> None:
    """Refuse to start a recipe whose datasets are not there.

    Parameters
    ----------
    recipe : Recipe
    runs : sequence of Resolved
        Those of its points.
    data : str or None
        The setting ``data``.

    Raises
    ------
    UserError
        Naming the datasets.
    """
    found = statuses(runs, data)
    missing = [one.dataset.registry_name for one in found if one.state not in HERE]
    if missing and data is None:
        raise UserError(
            f"recipe {recipe.name} needs data=DIR, the folder that holds {len(missing)} datasets: "
            f"python -m bench recipe {recipe.name} names them"
        )
    if missing:
        line = streams_of(runs)[0]
        raise UserError(
            f"{len(missing)} of {len(found)} datasets of recipe {recipe.name} are not ready in {data} "
            f"({', '.join(missing)}): python -m bench data {line} data={data} says what to do"
        )


def streams_of(runs: Sequence[Resolved]) -> list[str]:
    """Return the streams of some runs, each with its own settings, as words for the verb ``data``."""
    lines = []
    for one in runs:
        own = {key: show(value) for key, value in one.flat.items() if key.startswith("stream.")}
        changed = [f"{key}={value}" for key, value in own.items() if one.sources.get(key) == "user"]
        lines.append(shlex.join([one.run.stream, *(word for word in changed if not word.startswith("stream.name="))]))
    return list(dict.fromkeys(lines))


def overview(recipe: Recipe, words: Sequence[str], count: int | None = None, measure: bool = True) -> Iterator[str]:
    """Yield what a recipe takes and what it must give, block by block; nothing is started.

    Parameters
    ----------
    recipe : Recipe
    words : sequence of str
        KEY=VALUE words added to every run.
    count : int, optional
        The first so many runs.
    measure : bool, optional
        Measure this machine, for at most a minute.

    Yields
    ------
    str
    """
    points = recipe.points(words, count).points
    runs = [resolve(point.words) for point in points]
    data = runs[0].run.data
    found = statuses(runs, data)
    yield "\n".join([f"{recipe.name}: {recipe.title}", f"{recipe.file}, {_many(len(points), 'run')}"])
    yield _data(found, data, streams_of(runs))
    all_runs = needed([point.words for point in points], bool(found) and all(one.state in HERE for one in found))
    yield _models(all_runs)
    yield "\n".join([_work(all_runs), "", wrap(COUNTED + _uncounted(all_runs), "", "")])
    yield _hours(all_runs, measure)
    yield _given(recipe, words)
    start = " data=DIR" if found and data is None else " launch=local" if data is None else f" data={data}"
    yield f"to start it: python -m bench recipe {recipe.name}{start}, with launch=slurm and all other words of sweep"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _data(found: Sequence[Status], data: str | None, streams: Sequence[str]) -> str:
    """Return which datasets are needed, how large they are, and which are there."""
    if not found:
        return f"data: none; {', '.join(streams)} has its images along"
    sizes = [gigabytes(one.dataset.size) for one in found]
    total = sum(size for size in sizes if size is not None)
    lines = [f"data: {_many(len(found), 'dataset')}, {total:.1f} GB on disk, in one folder (data={data or 'DIR'})"]
    lines.append(wrap(", ".join(f"{one.dataset.registry_name} {one.dataset.size or '?'}" for one in found)))
    for state in ("present", "differs", "incomplete", "missing"):
        names = [one.dataset.registry_name for one in found if one.state == state]
        lines += [wrap(f"{state}: {', '.join(names)}")] if names else []
    if any(one.state != "present" for one in found):
        own = "" if data is None else f" data={data}"
        lines += [f"  how to get them: python -m bench data {stream}{own}" for stream in streams]
    return "\n".join(lines)


def _models(runs: Sequence[Needed]) -> str:
    """Return the models, with their sizes."""
    sizes = {one.resolved.run.model: one.size for one in runs}
    rows = [
        (name, f"{size.numbers / 1e6:.1f} million", f"{size.numbers * 4 / 1e9:.2f} GB", f"{size.image / 1e9:.1f} GFLOP")
        for name, size in sizes.items()
    ]
    lines = [table(("model", "weights", "in fp32", "forward, an image"), rows)]
    if any(getattr(one.resolved.model_settings, "weights", "") == "pretrained" for one in runs):
        lines.append(
            "  weights are downloaded where this machine does not have them; model.checkpoint=FILE takes a file"
        )
    return "\n".join(lines)


def _groups(runs: Sequence[Needed]) -> dict[tuple[str, ...], list[Needed]]:
    """Return the runs by what distinguishes them but seeds: method, and stream and model where there are several."""
    names = [(one.resolved.run.method, one.resolved.run.stream, one.resolved.run.model) for one in runs]
    several = [True, *(len({name[place] for name in names}) > 1 for place in (1, 2))]
    groups: dict[tuple[str, ...], list[Needed]] = {}
    for one, name in zip(runs, names, strict=True):
        groups.setdefault(tuple(n if yes else "" for n, yes in zip(name, several, strict=True)), []).append(one)
    return groups


def _work(runs: Sequence[Needed]) -> str:
    """Return a table of what the runs do, those that differ in their seeds together."""
    groups = _groups(runs)
    rows = [(*name, str(len(own)), *_columns(own)) for name, own in groups.items()]
    if len(rows) > 1:
        rows.append(("together", "", "", str(len(runs)), *_columns(runs)))
    headers = ("method", "stream", "model", "runs", "steps", "images trained", "in passes", "evaluated", "operations")
    return table(headers, rows)


def _uncounted(runs: Sequence[Needed]) -> str:
    """Return which reference sets are not counted, since nobody knows how many images they have."""
    names = {one.resolved.run.reference.name for one in runs if one.reference is None}
    return "".join(f" The reference set {name} is not at hand, and its images are not counted." for name in names)


def _columns(runs: Sequence[Needed]) -> tuple[str, ...]:
    """Return the cells about what some runs do together."""
    work = sum((one.work for one in runs), Work())
    counts = (work.steps, work.training, work.passes, work.evaluation)
    return (*(f"{count:,}" for count in counts), _flop(work))


def _flop(work: Work) -> str:
    return f"{work.operations / 1e15:,.3g} PFLOP" if work.operations >= 1e14 else f"{work.operations / 1e12:.3g} TFLOP"


def _hours(runs: Sequence[Needed], measure: bool) -> str:
    """Return how long the runs take, one after another."""
    work = sum((one.work for one in runs), Work())
    rows: list[tuple[str, ...]] = []
    for card in CARDS:
        hours = [hours_on(card, precision, work) for precision in PRECISIONS]
        rows.append((card.name, *("-" if one is None else _time(one) for one in hours)))
    lines = ["how long all runs take, one after another (estimates)", table(("GPU", *PRECISIONS), rows)]
    least = f"{LAUNCH:g} s a step of training at least"
    lines.append(
        wrap(f"at {SHARE:.0%} of the peak without sparsity, and {least}; whether it fits the memory is not said")
    )
    if measure:
        largest = max(runs, key=lambda one: one.work.operations)
        try:
            speed = measured(largest.resolved, largest.size, largest.share, largest.classes)
            rates = f"{speed.training / 1e9:,.0f} GFLOP/s in training and {speed.forward / 1e9:,.0f} forwards"
            lines.append(f"  this machine ({speed.where}): {_time(speed.hours(work))}, at {rates}, as measured now")
        except UserError as error:
            lines.append(f"  this machine: not measured, since {error}")
    return "\n".join(lines)


def _time(hours: float) -> str:
    """Return hours in words: two digits are enough for an estimate."""
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _given(recipe: Recipe, words: Sequence[str]) -> str:
    """Return what must come out."""
    lines = ["what must come out (python -m bench recipe " + recipe.name + " compare marks it)"]
    said: dict[str, None] = {}
    for one in known(recipe, words):
        for row in one.rows:
            said[wrap(f"{one.method}: {row.method} ({row.source}): {_numbers(row)}", "  ", "    ")] = None
    lines += said or ["  nothing is published for these runs"]
    if recipe.zero_shot:
        rule = f"each within the band of its test set in datasets/published/{recipe.zero_shot}.json"
    elif recipe.tolerance is not None:
        rule = f"each within {recipe.tolerance:g} point{'' if recipe.tolerance == 1 else 's'}, since {recipe.why}"
    else:
        rule = "each within chance: z standard errors of the counts, and half of the last published digit"
    return "\n".join([*lines, wrap(rule)])


def _numbers(row: Row) -> str:
    """Return the published numbers of a row in short."""
    titles = {scalar: title for title, scalar in HEADLINES.items()}
    parts = [f"{titles.get(name, name)} {value:g}" for name, value in row.values.items()]
    parts += [f"{name.capitalize()} of {_many(len(of), 'test set')}" for name, of in row.columns.items() if of]
    if row.matrix:
        parts.append(f"a matrix of {len(row.matrix)} x {len(row.matrix)}")
    return ", ".join(parts)

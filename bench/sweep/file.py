"""Read a W&B sweep file as the runs that it means.

The words of a point are those a W&B agent would give to ``python -m bench run``, so that one file means the same runs
whoever starts them.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
from bench.config.fingerprint import run_directory
from bench.config.resolve import read, resolve
from bench.config.run_settings import CHOICES, Resolved
from bench.config.words import pair
from bench.core.errors import UserError, shorten, suggest, together
from bench.core.paths import is_file, user_path
from bench.metrics.kinds import LEARNING
from bench.sweep import yaml_file
from bench.sweep.parameters import Parameter, draws, grid, parameters_of, rewritten
from bench.sweep.points import Point

TOP = {
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler",
}  # fmt: skip
"""What W&B knows at the top of a sweep file."""

MANY = 10_000
"""Points of a sweep that are made without being asked for by ``count``."""

ARGUMENTS = {"${args}", "${args_no_hyphens}"}
"""The macros that stand for KEY=VALUE words."""


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep file.

    Attributes
    ----------
    file : Path
    points : tuple of Point
        Each run once, in the order of the file.
    notes : tuple of str
        What a reader should know about how the file was read.
    swept : tuple of str
        Keys of the parameters that vary.
    line : str
        What stands after ``python -m bench`` to ask for it.
    """

    file: Path
    points: tuple[Point, ...]
    notes: tuple[str, ...]
    swept: tuple[str, ...] = ()
    line: str = "sweep"


def find(name: str) -> Path:
    """Return the file that a name means.

    Parameters
    ----------
    name : str
        A path, or the bare name of a sweep file that comes with this package.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        If there is no such file.
    """
    path = user_path(name)
    if is_file(path):
        return path
    shipped = {file.stem: file for file in shipped_folder().glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    raise UserError(f'there is no sweep file "{shorten(name)}"{suggest(path.stem, shipped)}')


def shipped_folder() -> Path:
    """Return the folder of sweep files that come with this package: inside it in a wheel, beside it in a checkout."""
    package = Path(bench.__file__).parent
    return package / "sweeps" if (package / "sweeps").is_dir() else package.parent / "sweeps"


def expand(
    file: Path,
    words: Sequence[str] = (),
    count: int | None = None,
    seed: int = 0,
    instead: Mapping[str, Any] | None = None,
) -> Sweep:
    """Return the runs that a sweep file means, every one resolved; nothing is started.

    Parameters
    ----------
    file : Path
        A W&B sweep file whose command is ``... -m bench run ... ${args_no_hyphens}``.
    words : sequence of str, optional
        KEY=VALUE words added to every point; they may replace what the file fixes, not what it sweeps.
    count : int, optional
        How many points at most; wins over ``run_cap`` of the file; ``method: random`` needs one of the two, and what
        is more than `MANY` points needs this one.
    seed : int, optional
        Seed of ``method: random``: the same seed draws the same points, and fewer of them are the first of more.
    instead : mapping of str to object, optional
        Parameters that replace those of the file with the same name, or are added, as in ``{"seed": {"values": [0]}}``.

    Returns
    -------
    Sweep

    Raises
    ------
    UserError
        With one sentence for every problem, joined by newlines.
    """
    content, written = _load(file)
    if isinstance(content.get("parameters"), dict):
        for one in (content, written):
            one["parameters"] = {**one["parameters"], **(instead or {})}
    problems: list[str] = []
    before, after = _command(content.get("command"), problems)
    parameters = list(parameters_of(content.get("parameters"), "", problems))
    cap = _cap(content, count, problems)
    problems += _unknown(content, parameters, ends=cap is not None or bool(problems))
    if problems:
        raise together(f"{file}: {text}" for text in problems)

    _no_clash(file, parameters, [*before, *after], words)
    endless = content["method"] == "random"
    _not_too_many(file, None if endless else parameters, cap, count)
    drawn = draws(parameters, seed) if endless else grid(parameters)
    check = _AsWritten(file, list(rewritten(content["parameters"], written["parameters"])))
    points: dict[Path, Point] = {}
    repeated = 0
    for line, label in _lines(itertools.islice(drawn, cap), parameters, (before, after), words):
        try:
            resolved = resolve(line)
            check(line, resolved)
            point = _point(len(points) + 1, line, label, file.stem, resolved)
        except UserError as error:
            problems += str(error).split("\n")
            continue
        repeated += point.directory in points
        points.setdefault(point.directory, point)
    if problems:
        raise together(problems)
    notes = []
    if repeated:
        notes.append(f"{repeated} points mean the same run as an earlier one and are left out")
    if "early_terminate" in content:
        notes.append("early_terminate is ignored: only W&B's own agents stop runs early")
    swept = tuple(one.key for one in parameters if one.swept)
    return Sweep(file, tuple(points.values()), tuple(notes), swept, f"sweep {file}")


def swept(file: Path) -> tuple[str, ...]:
    """Return the keys of the parameters that vary in a sweep file; what is wrong with it, `expand` says.

    Parameters
    ----------
    file : Path

    Raises
    ------
    UserError
        If it is none at all.
    """
    return tuple(one.key for one in parameters_of(_load(file)[0].get("parameters"), "", []) if one.swept)


def _lines(
    drawn: Iterator[dict[str, Any]],
    parameters: Sequence[Parameter],
    command: tuple[list[str], list[str]],
    words: Sequence[str],
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the words and the label of every point."""
    swept = {one.key for one in parameters if one.swept}
    added = set(read(words, []))
    for values in drawn:
        # In the order in which W&B gives them to an agent; what the line replaces is left out.
        arguments = {key: f"{key}={values[key]}" for key in sorted(values) if _long(key) not in added}
        line = (*command[0], *arguments.values(), *command[1], *words)
        yield line, " ".join(arguments[key] for key in values if key in swept) or " ".join(line)


class _AsWritten:
    """Compare what the values of a file mean to W&B's agents with what they mean on a command line.

    Parameters
    ----------
    file : Path
    rewritten : sequence of tuple of str
        As of `bench.sweep.parameters.rewritten`.
    """

    def __init__(self, file: Path, rewritten: Sequence[tuple[str, str]]):
        self._file = file
        self._others: dict[str, dict[str, None]] = {}
        for word, other in rewritten:
            self._others.setdefault(word, {})[other] = None
        self._checked: set[tuple[str, ...]] = set()

    def __call__(self, line: tuple[str, ...], resolved: Resolved) -> None:
        """Refuse a point with a value that is not the same both times; each value is looked at once."""
        chosen = [str(resolved.flat[f"{kind}.name"]) for kind in CHOICES]
        for word in line:
            for other in self._others.get(word, ()):
                if (*chosen, word, other) not in self._checked:
                    self._checked.add((*chosen, word, other))
                    if resolve([other if one == word else one for one in line]).flat != resolved.flat:
                        key, _, value = other.partition("=")
                        raise UserError(
                            f"{self._file}: {key}: {shorten(value)} reaches a run as {shorten(word)} through YAML: "
                            "write it in quotes"
                        )


def _point(number: int, line: tuple[str, ...], label: str, stem: str, resolved: Resolved) -> Point:
    """Return the point that the words of a line mean."""
    folder = user_path(resolved.run.out, "out") / "sweeps" / stem
    run = resolved.run
    kind = getattr(resolved.stream_class, "kind", LEARNING)
    return Point(number, line, label, run.threads, run.evaluate.split, run_directory(resolved), folder, kind)


def _unknown(content: Mapping[str, Any], parameters: Sequence[Parameter], ends: bool) -> list[str]:
    """Return what is wrong with the method and the keys of a file.

    Parameters
    ----------
    ends : bool
        Whether random draws end, or something else is wrong already.
    """
    problems: list[str] = []
    method = content.get("method")
    if method in ("bayes", "custom"):
        problems.append(f"method: {method} cannot be expanded here: use wandb sweep and wandb agent")
    elif method not in ("grid", "random"):
        problems.append(f"method: {shorten(str(method))} is unknown: write grid or random")
    elif method == "random" and not ends:
        problems.append("method: random never ends: add run_cap: N to the file or count=N to the line")
    elif method == "grid":
        endless = [one.key for one in parameters if one.values is None]
        problems += [f"parameter {key} has no end of values: a grid needs value or values" for key in endless]
    return problems + [f'unknown key "{shorten(key)}"{suggest(key, TOP)}' for key in content if key not in TOP]


def _not_too_many(file: Path, parameters: Sequence[Parameter] | None, cap: int | None, count: int | None) -> None:
    """Refuse more points than anybody asked for; parameters are None where draws have no end."""
    points = math.inf if parameters is None else math.prod(len(one.values or ()) for one in parameters)
    wanted = points if cap is None else min(points, cap)
    if count is None and wanted > MANY:
        raise UserError(
            f"{file} means {wanted:,} points, more than {MANY:,}: take values out, or ask for as many with count=N"
        )


# ------------------------------------------------------------------------------------- reading the file


def _load(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of a sweep file, and the same as it is written."""
    content = yaml_file.read(file)
    if not isinstance(content.values, dict) or not content.values:
        raise UserError(f"{file} is no sweep file: it needs method, parameters and command")
    return content.values, content.written


def _command(command: Any, problems: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of the command between ``run`` and the arguments, and those after the arguments."""
    example = 'command: ["${env}", "${interpreter}", -m, bench, run, "${args_no_hyphens}"]'
    if not isinstance(command, list):
        problems.append(f"the command must be a list: write {example}")
        return [], []
    # As W&B does it: what is not in the environment stays as its name.
    texts = [re.sub(r"\$\{envvar:(\w+)\}", lambda m: os.environ.get(m[1], m[1]), str(item)) for item in command]
    start = next((i + 3 for i in range(len(texts)) if texts[i : i + 3] == ["-m", "bench", "run"]), None)
    if start is None:
        problems.append(f"the command does not run this suite: write {example}")
        return [], []
    rest = texts[start:]
    positions = [i for i, text in enumerate(rest) if text in ARGUMENTS]
    if len(positions) != 1:
        problems.append("the command must hold ${args_no_hyphens} once: it stands for the parameters")
        return [], []
    problems += [
        f'"{shorten(text)}" in the command is no setting: write KEY=VALUE, and the parameters as ${{args_no_hyphens}}'
        for text in rest
        if text not in ARGUMENTS and (text.startswith("${") or pair(text) is None)
    ]
    return rest[: positions[0]], rest[positions[0] + 1 :]


def _cap(content: Mapping[str, Any], count: int | None, problems: list[str]) -> int | None:
    """Return how many points are wanted at most; None for all."""
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        problems.append(f"run_cap: {shorten(str(cap))} must be a whole number from 1")
        return None
    return count if count is not None else cap


def _long(key: str) -> str:
    """Return a key in its long form, ``method`` as ``method.name``."""
    return next(iter(read([f"{key}=x"], [])))


def _no_clash(file: Path, parameters: Sequence[Parameter], fixed: Sequence[str], words: Sequence[str]) -> None:
    """Refuse words that would silently replace what varies."""
    problems: list[str] = []
    for key, (_, raw) in read(words, problems).items():
        for one in parameters:
            if one.swept and _touch(key, _long(one.key)):
                problems.append(f"{key}={shorten(raw)} would replace {one.key}, which {file} sweeps: leave it out")
    for key in read(fixed, problems):
        for one in parameters:
            if _touch(key, _long(one.key)):
                problems.append(f"{file}: {one.key} is both in the command and among the parameters: take one out")
    if problems:
        raise together(problems)


def _touch(one: str, other: str) -> bool:
    """Return whether two keys are the same, or one is a group that holds the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")

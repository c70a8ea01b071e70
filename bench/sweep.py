"""A W&B sweep file, read as the runs it means; what became of each of them; the table of both.

The words of a point are those a W&B agent would give to ``python -m bench run``, so that one file means the same runs
whoever starts them.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import shlex
import socket
import statistics
import subprocess
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench import cluster, listing
from bench.config import read, resolve, run_directory
from bench.errors import UserError, suggest
from bench.files import is_finished
from bench.stopping import is_interruption

TOP = {
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler",
}  # fmt: skip
"""What W&B knows at the top of a sweep file."""

CHOSEN = ("categorical", "categorical_w_probabilities")
"""What W&B calls a parameter with values."""

ARGUMENTS = {"${args}", "${args_no_hyphens}"}
"""The macros that stand for KEY=VALUE words."""

RESULTS = {"Transfer": "transfer_by_column", "Average": "average_mtil", "Last": "last"}
"""The scalars of summary.json that the table shows, by what the field calls them."""

# ---------------------------------------------------------------------------------------------- points


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes
    ----------
    number : int
        From 1, in the order of the file.
    words : tuple of str
        What stands after ``python -m bench run``.
    label : str
        Those of the words that set it apart from the other points.
    threads : int or None
        The setting of that name.
    directory : Path
        The run directory.
    folder : Path
        Where the sweep keeps logs: ``OUT/sweeps/<stem of the file>``.
    """

    number: int
    words: tuple[str, ...]
    label: str
    threads: int | None
    directory: Path
    folder: Path

    @property
    def log(self) -> Path:
        """What the point's process printed."""
        return self.folder / f"{self.directory.name}.log"

    @property
    def notes(self) -> Path:
        """Who runs the point, and how it ended."""
        return self.folder / f"{self.directory.name}.json"

    @property
    def job(self) -> Path:
        """The id of the SLURM job that was submitted for the point last."""
        return self.folder / f"{self.directory.name}.job"

    @property
    def lock(self) -> Path:
        """Held while the point runs; shared by all sweep files that mean this run."""
        return self.folder.parent / ".locks" / f"{self.directory.name}.lock"


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep file, and what a reader should know about how it was read."""

    file: Path
    points: tuple[Point, ...]
    notes: tuple[str, ...]


def find(name: str) -> Path:
    """Return the file that a name means: a path, or the bare name of a sweep file that comes with this package.

    Raises
    ------
    UserError
        If there is no such file.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = {file.stem: file for file in shipped_folder().glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    raise UserError(f'there is no sweep file "{name}"{suggest(path.stem, shipped)}')


def shipped_folder() -> Path:
    """The folder of sweep files that come with this package: inside it in a wheel, beside it in a checkout."""
    here = Path(__file__).parent
    return here / "sweeps" if (here / "sweeps").is_dir() else here.parent / "sweeps"


def expand(file: Path, words: Sequence[str] = (), count: int | None = None, seed: int = 0) -> Sweep:
    """Return the runs that a sweep file means, every one resolved; nothing is started.

    Parameters
    ----------
    file : Path
        A W&B sweep file whose command is ``... -m bench run ... ${args_no_hyphens}``.
    words : sequence of str, optional
        KEY=VALUE words added to every point; they may replace what the file fixes, not what it sweeps.
    count : int, optional
        How many points at most, before ``run_cap`` of the file; ``method: random`` needs one of the two.
    seed : int, optional
        Seed of ``method: random``: the same seed draws the same points, and fewer of them are the first of more.

    Raises
    ------
    UserError
        With one sentence for every problem found, joined by newlines.
    """
    content = _load(file)
    problems: list[str] = []
    before, after = _command(content.get("command"), problems)
    parameters = list(_parameters(content.get("parameters"), "", problems))
    cap = _cap(content, count, problems)
    method = content.get("method")
    if method not in ("grid", "random"):
        known = method in ("bayes", "custom")
        wrong = f"method: {method} cannot be expanded here: use wandb sweep and wandb agent" if known else ""
        problems.append(wrong or f"method: {method} is unknown: write grid or random")
    elif method == "random" and cap is None and not problems:
        problems.append("method: random never ends: add run_cap: N to the file or count=N to the line")
    problems += [text for text in (_refused(one) for one in parameters if method == "grid") if text]
    problems += [f'unknown key "{key}"{suggest(key, TOP)}' for key in content if key not in TOP]
    if problems:
        raise UserError("\n".join(f"{file}: {text}" for text in dict.fromkeys(problems)))

    _no_clash(file, parameters, [*before, *after], words)
    drawn = _grid(parameters) if method == "grid" else _random(parameters, seed)
    swept = {one.key for one in parameters if one.swept}
    added = set(read(words, []))
    points: dict[Path, Point] = {}
    repeated = 0
    for values in itertools.islice(drawn, cap):
        # In the order in which a W&B agent is given them; what the line replaces is left out.
        arguments = {key: f"{key}={values[key]}" for key in sorted(values) if _long(key) not in added}
        label = " ".join(arguments[key] for key in values if key in swept)
        line = (*before, *arguments.values(), *after, *words)
        try:
            resolved = resolve(line)
        except UserError as error:
            problems += str(error).splitlines()
            continue
        directory = run_directory(resolved)
        repeated += directory in points
        folder = Path(resolved.run.out).expanduser() / "sweeps" / file.stem
        point = Point(len(points) + 1, line, label or " ".join(line), resolved.run.threads, directory, folder)
        points.setdefault(directory, point)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    notes = []
    if repeated:
        notes.append(f"{repeated} points mean the same run as an earlier one and are left out")
    if "early_terminate" in content:
        notes.append("early_terminate is ignored: only W&B's own agents stop runs early")
    return Sweep(file, tuple(points.values()), tuple(notes))


# ------------------------------------------------------------------------------------- reading the file


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{file}{where} is no YAML: {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} is no sweep file: it needs method, parameters and command")
    return {str(key): value for key, value in content.items()}


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
    places = [i for i, text in enumerate(rest) if text in ARGUMENTS]
    if len(places) != 1:
        problems.append("the command must hold ${args_no_hyphens} once: it stands for the parameters")
        return [], []
    problems += [
        f'"{text}" in the command is no setting: write KEY=VALUE, and the parameters as ${{args_no_hyphens}}'
        for text in rest
        if text not in ARGUMENTS and (text.startswith("${") or "=" not in text)
    ]
    return rest[: places[0]], rest[places[0] + 1 :]


def _cap(content: Mapping[str, Any], count: int | None, problems: list[str]) -> int | None:
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        problems.append(f"run_cap: {cap} must be a whole number from 1")
        return None
    return count if count is not None else cap


@dataclass(frozen=True)
class Parameter:
    """One parameter: its dotted key, whether it varies, its values if they can be listed, and how one is drawn.

    Attributes
    ----------
    draw : callable
        From a number in [0, 1), its quantile, to a value.
    """

    key: str
    swept: bool
    values: list[Any] | None
    draw: Callable[[float], Any]


def _parameters(group: Any, prefix: str, problems: list[str]) -> Iterator[Parameter]:
    """Yield the parameters of a group and of the groups inside it, by dotted key."""
    if not isinstance(group, dict) or not group:
        problems.append(f"{prefix}parameters must name at least one parameter, such as seed: {{values: [0, 1]}}")
        return
    for name, spec in group.items():
        key = f"{prefix}{name}"
        if not isinstance(spec, dict) or not spec:
            problems.append(f"parameter {key} says nothing: write value, values, a distribution, or min and max")
        elif "parameters" in spec:
            others = sorted(str(other) for other in set(spec) - {"parameters"})
            if others:
                problems.append(f'parameter {key} is a group and cannot have "{others[0]}": leave it out')
            yield from _parameters(spec["parameters"], f"{key}.", problems)
        else:
            try:
                yield _parameter(key, spec)
            except ValueError as error:
                problems.append(f"parameter {key} {error}")


def _parameter(key: str, spec: Mapping[str, Any]) -> Parameter:
    """Return a parameter; what is wrong is a ValueError that goes on from ``parameter KEY``."""
    named = spec.get("distribution")
    if named is None and "value" not in spec and "values" not in spec and {"min", "max"} <= set(spec):
        kinds = {type(spec["min"]), type(spec["max"])}
        if kinds == {int, float}:  # W&B refuses it too
            raise ValueError("has one whole bound and one with a point: write both alike")
        named = "int_uniform" if kinds == {int} else "uniform"
    if "value" in spec or named == "constant":
        _only(spec, "value")
        if "value" not in spec:
            raise ValueError("is constant and needs a value")
        return Parameter(key, False, [spec["value"]], lambda u: spec["value"])
    if "values" in spec or named in CHOSEN:
        _only(spec, "values", "probabilities")
        values = spec.get("values")
        if not isinstance(values, list) or not values:
            raise ValueError("needs values: a list with at least one item, as in values: [1, 2]")
        return Parameter(key, True, values, _choice(values, spec.get("probabilities")))
    if named in DISTRIBUTIONS:
        return Parameter(key, True, None, _distribution(named, spec))
    _only(spec, "value", "values", "min", "max")
    if named is None:
        raise ValueError("says nothing: write value, values, a distribution, or min and max")
    raise ValueError(
        f'has an unknown distribution "{named}"{suggest(str(named), ["constant", *CHOSEN, *DISTRIBUTIONS])}'
    )


def _only(spec: Mapping[str, Any], *names: str) -> None:
    known = ("distribution", *names)
    for name in spec:
        if name not in known:
            raise ValueError(f'has "{name}", which means nothing here{suggest(str(name), known)}')


def _choice(values: list[Any], probabilities: Any) -> Callable[[float], Any]:
    if probabilities is None:
        return lambda u: values[int(u * len(values))]
    numbers = isinstance(probabilities, list) and all(_is_number(p) and p >= 0 for p in probabilities)
    if not numbers or len(probabilities) != len(values) or not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
        raise ValueError("needs one probability for every value, together 1")
    ends = list(itertools.accumulate(probabilities))
    likely = max(i for i, p in enumerate(probabilities) if p > 0)
    return lambda u: values[min(bisect_right(ends, u), likely)]


# -------------------------------------------------------------------------------------- distributions

DISTRIBUTIONS: dict[str, Callable[[float, float, float], float]] = {
    "int_uniform": lambda u, low, high: low + math.floor(u * (high - low + 1)),
    "uniform": lambda u, low, high: low + u * (high - low),
    "log_uniform": lambda u, low, high: math.exp(low + u * (high - low)),
    "log_uniform_values": lambda u, low, high: low * (high / low) ** u,
    "inv_log_uniform": lambda u, low, high: math.exp(-high + u * (high - low)),
    "inv_log_uniform_values": lambda u, low, high: low * (high / low) ** u,
    "normal": lambda u, mu, sigma: statistics.NormalDist(mu, sigma).inv_cdf(max(u, 2.0**-53)),
    "log_normal": lambda u, mu, sigma: math.exp(statistics.NormalDist(mu, sigma).inv_cdf(max(u, 2.0**-53))),
}
"""The quantile functions of W&B's distributions, of min and max or of mu and sigma.

Bounds of ``log_uniform`` are exponents of e; ``inv_log_uniform`` is the law of X where log(1/X) is uniform, so that
``inv_log_uniform_values`` is the same law as ``log_uniform_values``.
"""

for _name in ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal"):
    DISTRIBUTIONS[f"q_{_name}"] = DISTRIBUTIONS[_name]  # `_distribution` rounds to multiples of q


def _distribution(name: str, spec: Mapping[str, Any]) -> Callable[[float], Any]:
    """Return the quantile function of a distribution with its numbers put in."""
    bell = name.endswith("normal")
    wanted = ("mu", "sigma") if bell else ("min", "max")
    _only(spec, *wanted, *(["q"] if name.startswith("q_") else []))
    given = {"q": 1, **({"mu": 0.0, "sigma": 1.0} if bell else {}), **spec}
    for key in (*wanted, "q"):
        if key not in given:
            raise ValueError(f"needs {' and '.join(wanted)}")
        if not _is_number(given[key]):
            raise ValueError(f"has {key}: {given[key]}, which is no number; powers of ten are written as in 1.0e-3")
    first, second, q = given[wanted[0]], given[wanted[1]], given["q"]
    if name == "int_uniform" and not (isinstance(first, int) and isinstance(second, int)):
        raise ValueError("needs whole numbers for min and max")
    if bell and second <= 0:
        raise ValueError(f"has sigma: {second}, which must be above 0")
    if not bell and first > second:
        raise ValueError(f"has min: {first} above max: {second}")
    if name.endswith("_values") and first <= 0:
        raise ValueError(f"has min: {first}, which must be above 0 for a logarithm")
    if q <= 0:
        raise ValueError(f"has q: {q}, which must be above 0")
    quantile = DISTRIBUTIONS[name]
    if name.startswith("q_"):
        return lambda u: round(quantile(u, first, second) / q) * q
    return lambda u: quantile(u, first, second)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refused(one: Parameter) -> str:
    return "" if one.values is not None else f"parameter {one.key} has no end of values: a grid needs value or values"


def _grid(parameters: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Yield every combination; the parameter that stands last varies fastest."""
    keys = [one.key for one in parameters]
    for values in itertools.product(*(one.values or () for one in parameters)):
        yield dict(zip(keys, values, strict=True))


def _random(parameters: Sequence[Parameter], seed: int) -> Iterator[dict[str, Any]]:
    """Yield points for ever; what is drawn for a parameter depends on seed, place and key alone."""
    for place in itertools.count():
        yield {one.key: one.draw(random.Random(f"{seed} {place} {one.key}").random()) for one in parameters}


def _long(key: str) -> str:
    """``method`` as ``method.name``."""
    return next(iter(read([f"{key}=x"], [])))


def _no_clash(file: Path, parameters: Sequence[Parameter], fixed: Sequence[str], words: Sequence[str]) -> None:
    """Refuse words that would quietly replace what varies."""
    problems: list[str] = []
    for key, (_, raw) in read(words, problems).items():
        for one in parameters:
            if one.swept and _touch(key, _long(one.key)):
                problems.append(f"{key}={raw} would replace {one.key}, which {file} sweeps: leave it out")
    for key in read(fixed, problems):
        for one in parameters:
            if _touch(key, _long(one.key)):
                problems.append(f"{file}: {one.key} is both in the command and among the parameters: take one out")
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _touch(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


# ---------------------------------------------------------------------------------------------- states


def attempt(point: Point) -> dict[str, Any]:
    """What is noted of the last attempt at a point; empty when there was none."""
    try:
        return dict(json.loads(point.notes.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def job_id(point: Point) -> str | None:
    """The SLURM job that was submitted for a point last; None when there was none."""
    try:
        return point.job.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def states(points: Sequence[Point]) -> list[str]:
    """``finished``, ``queued`` or ``running`` (on SLURM or here), ``failed`` or ``pending``, of each point.

    An interrupted point is pending, also one whose job SLURM took away.
    """
    found: dict[Point, str] = {point: "finished" for point in points if is_finished(point.directory)}
    jobs = {point: job for point in points if point not in found and (job := job_id(point))}
    known = cluster.states(jobs.values())
    return [found.get(point) or _state(point, jobs.get(point), known) for point in points]


def state(point: Point) -> str:
    """The state of one point, as of `states`."""
    return states([point])[0]


def _state(point: Point, job: str | None, known: Mapping[str, str]) -> str:
    slurm = known.get(job, "") if job else ""
    if slurm in cluster.QUEUED:
        return "queued"
    if slurm in cluster.RUNNING:
        return "running"
    last = attempt(point)
    if job and last.get("job", job) != job:
        last = {}  # those of an earlier job
    status = last.get("exit_status")
    if status is None and slurm:  # the job ended without a word
        return "pending" if slurm in cluster.STOPPED else "failed"
    if last and status is None:
        return "running" if _is_alive(last) else "pending"
    return "failed" if isinstance(status, int) and status and not is_interruption(status) else "pending"


def reason(point: Point) -> str:
    """How the job of a point ended that left no exit status; empty where the log tells."""
    job = job_id(point)
    slurm = cluster.states([job]).get(job, "") if job else ""
    last = attempt(point)
    if not slurm or (last.get("job") == job and last.get("exit_status") is not None):
        return ""
    hint = "; raise launch.mem_gb if it needs more memory" if slurm in ("OUT_OF_MEMORY", "FAILED") else ""
    return f"SLURM ended job {job}: {slurm}{hint}"


def _is_alive(noted: Mapping[str, Any]) -> bool:
    pid, born = noted.get("pid"), noted.get("birth")
    return (
        noted.get("host") == socket.gethostname() and isinstance(pid, int) and born is not None and birth(pid) == born
    )


def birth(pid: int) -> str | None:
    """What tells a living process from an earlier one of the same number; None when there is none, or nobody knows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def results(point: Point) -> list[str]:
    """Transfer, Average and Last of a finished point, in per cent; empty texts where there are none."""
    try:
        metrics = json.loads((point.directory / "summary.json").read_text(encoding="utf-8"))["metrics"]
        values = [metrics.get(name) for name in RESULTS.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        values = [None for _ in RESULTS]
    return ["" if value is None else f"{value:.1f}" for value in values]


def table(points: Sequence[Point]) -> str:
    """Points, states and results, one point a line."""
    rows = [
        (str(point.number), now, *results(point), point.label)
        for point, now in zip(points, states(points), strict=True)
    ]
    return listing.table(("#", "state", *RESULTS, "point"), rows)


def plan(points: Sequence[Point]) -> str:
    """Points with their words and run directories, two lines a point."""
    width = len(str(len(points)))
    lines = []
    for point, now in zip(points, states(points), strict=True):
        lines.append(f"{point.number:>{width}}  {now:8}  {point.directory}")
        lines.append(f"{'':{width}}  {shlex.join(point.words)}")
    return "\n".join(lines)

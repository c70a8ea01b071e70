"""A W&B sweep file, read as the runs it means; what became of each of them; the table of both.

The words of a point are those a W&B agent would give to ``python -m bench run``, so that one file means the same runs
whoever starts them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import bench
from bench.config.fingerprint import run_directory
from bench.config.resolve import read, resolve
from bench.core.errors import UserError, suggest
from bench.core.signals import is_interruption
from bench.core.tables import table
from bench.record.schema import is_finished
from bench.sweep import slurm as cluster
from bench.sweep.parameters import Parameter, draws, grid, parameters_of

TOP = {
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler",
}  # fmt: skip
"""What W&B knows at the top of a sweep file."""

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
    package = Path(bench.__file__).parent
    return package / "sweeps" if (package / "sweeps").is_dir() else package.parent / "sweeps"


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
    parameters = list(parameters_of(content.get("parameters"), "", problems))
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
    drawn = grid(parameters) if method == "grid" else draws(parameters, seed)
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


def _refused(one: Parameter) -> str:
    return "" if one.values is not None else f"parameter {one.key} has no end of values: a grid needs value or values"


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


def points_table(points: Sequence[Point]) -> str:
    """Points, states and results, one point a line."""
    rows = [
        (str(point.number), now, *results(point), point.label)
        for point, now in zip(points, states(points), strict=True)
    ]
    return table(("#", "state", *RESULTS, "point"), rows)


def plan(points: Sequence[Point]) -> str:
    """Points with their words and run directories, two lines a point."""
    width = len(str(len(points)))
    lines = []
    for point, now in zip(points, states(points), strict=True):
        lines.append(f"{point.number:>{width}}  {now:8}  {point.directory}")
        lines.append(f"{'':{width}}  {shlex.join(point.words)}")
    return "\n".join(lines)

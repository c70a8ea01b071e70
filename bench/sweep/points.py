"""The points of a sweep: what each one runs, where it is kept, what became of it, and tables of all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from bench.core.signals import is_interruption
from bench.core.tables import table
from bench.metrics.kinds import HEADLINES, LEARNING, LESS_IS_BETTER
from bench.record.schema import Summary, is_finished
from bench.sweep import slurm
from bench.sweep.attempts import Attempt

State: TypeAlias = Literal["finished", "queued", "running", "failed", "pending"]
"""What became of a point; an interrupted point is pending, also one whose job SLURM took away."""


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
        Those of the words that distinguish it from the other points.
    threads : int or None
        The setting of that name.
    split : str
        ``evaluate.split``: the images that are scored.
    directory : Path
        The run directory.
    folder : Path
        Where the sweep keeps logs: ``OUT/sweeps/<stem of the file>``.
    kind : {"learning", "forgetting"}
        What its stream asks for.
    """

    number: int
    words: tuple[str, ...]
    label: str
    threads: int | None
    split: str
    directory: Path
    folder: Path
    kind: str = LEARNING

    @property
    def log(self) -> Path:
        """The file of what the point's process printed."""
        return self.folder / f"{self.directory.name}.log"

    @property
    def notes(self) -> Path:
        """The file of the last `Attempt`."""
        return self.folder / f"{self.directory.name}.json"

    @property
    def job(self) -> Path:
        """The file with the id of the SLURM job that was submitted for the point last."""
        return self.folder / f"{self.directory.name}.job"

    @property
    def lock(self) -> Path:
        """The file that is locked while the point runs; all sweep files that mean this run share it."""
        return self.folder.parent / ".locks" / f"{self.directory.name}.lock"


# ---------------------------------------------------------------------------------------------- states


def last_attempt(point: Point) -> Attempt | None:
    """Return what is noted of the last attempt at a point; None if there was none."""
    return Attempt.read(point.notes)


def job_id(point: Point) -> str | None:
    """Return the id of the SLURM job that was submitted for a point last; None if there was none."""
    try:
        return point.job.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def states_of(points: Sequence[Point]) -> list[State]:
    """Return the state of each point; SLURM is asked once for all of them, if at all.

    Parameters
    ----------
    points : sequence of Point

    Returns
    -------
    list of {"finished", "queued", "running", "failed", "pending"}
        ``queued`` is SLURM's; ``running`` is on SLURM, or on this machine.
    """
    finished = {point for point in points if is_finished(point.directory)}
    jobs = {point: job for point in points if point not in finished and (job := job_id(point))}
    known = slurm.job_states(jobs.values())
    return ["finished" if point in finished else _state(point, jobs.get(point), known) for point in points]


def state_of(point: Point) -> State:
    """Return the state of one point, as of `states_of`."""
    return states_of([point])[0]


def _state(point: Point, job: str | None, known: Mapping[str, str]) -> State:
    """Return the state of a point that is not finished, by SLURM's words for its job and the notes of the attempt."""
    word = known.get(job, "") if job else ""
    if word in slurm.QUEUED:
        return "queued"
    if word in slurm.RUNNING:
        return "running"
    attempt = _attempt_of(point, job)
    if attempt is None or attempt.exit_status is None:
        if word:  # the job ended and left no exit status
            return "pending" if word in slurm.STOPPED else "failed"
        return "running" if attempt is not None and attempt.is_alive() else "pending"
    return "failed" if attempt.exit_status and not is_interruption(attempt.exit_status) else "pending"


def _attempt_of(point: Point, job: str | None) -> Attempt | None:
    """Return the last attempt; None if it is older than the job that was submitted last."""
    attempt = last_attempt(point)
    return attempt if attempt is not None and job in (None, attempt.job) else None


def reason_of(point: Point) -> str:
    """Return how the job of a point ended that left no exit status; empty where the log says why."""
    job = job_id(point)
    word = slurm.job_states([job]).get(job, "") if job else ""
    attempt = _attempt_of(point, job)
    if not word or (attempt is not None and attempt.exit_status is not None):
        return ""
    hint = "; raise launch.mem_gb if it needs more memory" if word in ("OUT_OF_MEMORY", "FAILED") else ""
    return f"SLURM ended job {job}: {word}{hint}"


# ---------------------------------------------------------------------------------------------- tables


def metrics_of(point: Point) -> Mapping[str, float | None]:
    """Return the scalars of a finished point by name, in percent; none where there is no summary."""
    try:
        return Summary.read(point.directory).metrics
    except (OSError, ValueError):
        return {}


def results_of(point: Point, names: Sequence[str] | None = None) -> list[str]:
    """Return scalars of a finished point, in percent; empty texts where there are none.

    Parameters
    ----------
    point : Point
    names : sequence of str, optional
        Scalars; by default the headlines of its kind, such as Transfer, Average and Last.

    Returns
    -------
    list of str
    """
    metrics = metrics_of(point)
    names = tuple(HEADLINES[point.kind].values()) if names is None else names
    values = [metrics.get(name) for name in names]
    return ["" if value is None else f"{value:.1f}" for value in values]


def points_table(points: Sequence[Point], sort: str | None = None) -> str:
    """Return a table of points, states and results, one point a line.

    Parameters
    ----------
    points : sequence of Point
    sort : str, optional
        The scalar by which points are sorted, the best first and those without at the end; it gets a column. By
        default they come in the order of the file.

    Returns
    -------
    str
    """
    columns = {
        title: name
        for kind, titles in HEADLINES.items()
        if any(one.kind == kind for one in points)
        for title, name in titles.items()
    }
    columns |= {sort: sort} if sort and sort not in columns.values() else {}
    rows = [
        (str(point.number), state, *results_of(point, tuple(columns.values())), point.label)
        for point, state in zip(points, states_of(points), strict=True)
    ]
    if sort:
        values = [metrics_of(point).get(sort) for point in points]
        rows = [rows[index] for index in ranked(values, sort)]
    return table(("#", "state", *columns, "point"), rows)


def ranked(values: Sequence[float | None], metric: str) -> list[int]:
    """Return the indices of values, the best first, those without a value at the end, equal ones in their order.

    Parameters
    ----------
    values : sequence of float or None
    metric : str
        The scalar whose values they are; it says whether more is better.

    Returns
    -------
    list of int
    """
    sign = 1 if metric in LESS_IS_BETTER else -1
    keys = [(value is None, 0.0 if value is None else sign * value) for value in values]
    return sorted(range(len(values)), key=keys.__getitem__)


def plan(points: Sequence[Point]) -> str:
    """Return points with their states, run directories and words, two lines a point."""
    width = len(str(len(points)))
    lines = []
    for point, state in zip(points, states_of(points), strict=True):
        lines.append(f"{point.number:>{width}}  {state:8}  {point.directory}")
        lines.append(f"{'':{width}}  {shlex.join(point.words)}")
    return "\n".join(lines)

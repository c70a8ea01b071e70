"""Carrying out a sweep: where its points run, and what is told of them in the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.fields import build, complaints, describe, setting
from bench.config.resolve import read
from bench.config.run_settings import run_settings
from bench.core.errors import UserError, nearest, suggest
from bench.core.files import write_atomic
from bench.sweep import file as sweeps
from bench.sweep import processes
from bench.sweep import slurm as cluster
from bench.sweep.file import Point, Sweep
from bench.sweep.processes import POLL, Output, Tasks, carry_out, cores, stopping

SIGNAL_DELAY = 90
"""Seconds before the end of a job's time at which submitit has SLURM send its signal, by default."""

FOLLOW = 5.0
"""Seconds between two looks at SLURM's queue."""

TAIL = 10
"""Lines of a failed point's log that are shown."""


def _inline(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    return carry_out(todo, 1, lambda point: {}, Output(len(sweep.points)))


def _local(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    together = launch.processes or max(1, cores() // 2)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // together))}

    def environment(point: Point) -> Mapping[str, str]:
        chosen = "OMP_NUM_THREADS" in os.environ or point.threads is not None
        return {} if chosen else threads

    return carry_out(todo, together, environment, Tasks(len(sweep.points)))


def _slurm(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    """Submit one array and follow it; an interrupt ends the following only."""
    todo = [point for point, state in zip(todo, sweeps.states(todo), strict=True) if state != "running"]
    if not todo:
        print("all that is left is running")
        return 0
    folder = todo[0].folder / "jobs"
    jobs = []
    for point in todo:
        point.folder.mkdir(parents=True, exist_ok=True)
        log, notes = str(point.log), str(point.notes)
        jobs.append(cluster.PointJob(processes.command(point), log, notes, point.threads is None))
    ids = cluster.submit(jobs, folder, sweep.file.stem, launch.parameters())
    for point, job in zip(todo, ids, strict=True):
        write_atomic(point.job, job + "\n")
    array = ids[0].partition("_")[0]
    print(f"submitted {len(ids)} points as job {array}")
    how = f"follow: python -m bench sweep {sweep.file} status (with the same words); cancel: scancel {array}"
    print(how, flush=True)
    if not launch.wait:
        return 0
    show, began = Tasks(len(sweep.points)), time.time()
    seen = dict.fromkeys(todo, ("queued", 0))
    with stopping() as stop:
        while not stop.count and any(state in ("queued", "running") for state, _ in seen.values()):
            for _ in range(round(FOLLOW / POLL)):
                if not stop.count:
                    time.sleep(POLL)
            for point, state in zip(todo, sweeps.states(todo), strict=True):
                told = processes.progress(point.directory, began)
                done, count, name = told or (0, 0, "")
                before, seen[point] = seen[point], (state, done)
                if state != before[0]:
                    show.say(f"{show.head(point)} {point.label}: {state}")
                elif done > before[1]:
                    show.say(f"{show.head(point)} {done} of {count} tasks learned ({name})")
    if stop.count:
        print(f"the jobs go on; {how}")
    return stop.signal


LAUNCHERS: dict[str, Callable[[Sweep, Sequence[Point], Launch], int]] = {
    "inline": _inline,
    "local": _local,
    "slurm": _slurm,
}
"""What ``launch=NAME`` calls with the sweep, the points to run and settings; returns the signal that ended it, or 0."""

# ----------------------------------------------------------------------------------------------- the verb


@dataclass(frozen=True)
class Launch:
    """Where points run."""

    name: str = setting("inline", "one after another here, or several at a time", choices=tuple(LAUNCHERS))
    processes: int | None = setting(None, "points at a time; local only; null is half the cores", low=1)
    wait: bool = setting(True, "follow the jobs until they end; slurm only")
    partition: str | None = setting(None, "SLURM partition; null is the cluster's default")
    timeout_min: int = setting(240, "minutes a job may take before it is requeued to go on; slurm only", low=1)
    gpus_per_node: int | None = setting(None, "GPUs on each node of a job; slurm only", low=0)
    cpus_per_task: int | None = setting(None, "CPUs of each process of a job; slurm only", low=1)
    mem_gb: float | None = setting(None, "memory of a job in GB; slurm only", above=0)
    array_parallelism: int | None = setting(None, "jobs at a time at most; slurm only", low=1)
    setup: list[str] = setting([], "lines of shell before a job, such as module load; slurm only")
    constraint: str | None = setting(None, "what nodes must have, such as a100; slurm only")
    nodes: int | None = setting(None, "nodes that share one run; slurm only", low=1)
    tasks_per_node: int | None = setting(None, "processes on each node that share one run; slurm only", low=1)
    slurm: list[str] = setting([], "launch.slurm.KEY=VALUE: whatever else submitit takes, such as account or qos")

    def check(self) -> list[str]:
        """What does not go together."""
        if self.processes is not None and self.name != "local":
            return [f"launch.processes={self.processes} needs launch=local"]
        only = {key: one.default for key, one in describe(Launch).items() if key not in ("name", "processes")}
        given = [key for key, default in only.items() if getattr(self, key) != default]
        if given and self.name != "slurm":
            return [f"launch.{given[0]} needs launch=slurm"]
        delay = self.others().get("signal_delay_s", SIGNAL_DELAY)
        needed = (delay if isinstance(delay, int) else SIGNAL_DELAY) + cluster.START_UP
        if self.name == "slurm" and 60 * self.timeout_min <= needed:
            return [
                f"launch.timeout_min={self.timeout_min} leaves no time between the start of a job and the signal "
                f"before its end: it must be above {needed / 60:.1f}, or lower launch.slurm.signal_delay_s"
            ]
        return []

    def others(self) -> dict[str, Any]:
        """The further parameters by name, their values read as those of settings are."""
        return {key: value for key, (value, _) in read(self.slurm, []).items()}

    def parameters(self) -> dict[str, Any]:
        """What submitit takes."""
        common = ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb", "nodes", "tasks_per_node")
        own = ("partition", "array_parallelism", "constraint")
        return {
            **{key: getattr(self, key) for key in common},
            **{f"slurm_{key}": getattr(self, key) for key in own},
            "slurm_setup": self.setup or None,
            **{f"slurm_{key}": value for key, value in self.others().items()},
        }


@dataclass(frozen=True)
class Options:
    """The words of ``sweep`` that are no settings of a run."""

    launch: Launch = field(default_factory=Launch)
    dry_run: bool = setting(False, "show the points and start nothing")
    count: int | None = setting(None, "points at most; null is run_cap of the file", low=1)
    sweep_seed: int = setting(0, "seed of the points that method: random draws", low=0)
    preempt: int | None = setting(
        None, "number of a running point to be stopped and go on, as a preemption does", low=1
    )


def options(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Split KEY=VALUE words into those of ``sweep``, checked, and those for every point.

    Raises
    ------
    UserError
        With one sentence for every problem found, joined by newlines.
    """
    known = describe(Options)
    values = {key: list(one.default) if one.many else one.default for key, one in known.items()}
    rest: list[str] = []
    problems: list[str] = []
    of_a_run = {key.removesuffix(".name") for key in run_settings()}
    for word in words:
        key = word.removeprefix("--").partition("=")[0].strip()
        key = "launch.name" if key == "launch" else key
        if key.startswith("launch.slurm.") and "=" in word:
            values["launch.slurm"].append(f"{key.removeprefix('launch.slurm.')}={word.partition('=')[2]}")
            continue
        near = nearest(key, [*known, "launch"]) if "." not in key and key not in of_a_run else None
        if key in known:
            for value, raw in read([word], problems).values():
                try:
                    values[key] = known[key].convert(value, raw)
                except ValueError as error:
                    problems.append(f"{word.removeprefix('--')} {error}")
        elif key.startswith("launch.") or (near and not nearest(key, of_a_run)):
            problems.append(f'unknown word "{key}" of sweep{suggest(key, known)}')
        else:
            rest.append(word)
    found: Options = build(Options, values)
    problems += complaints(found)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found, rest


def sweep(words: Sequence[str]) -> int:
    """Do what ``python -m bench sweep`` is asked for; returns the exit status.

    Raises
    ------
    UserError
        For what a user can mend.
    """
    plain = [word for word in words if "=" not in word]
    asked = [word for word in plain if word != "status"]
    if len(asked) != 1 or len(plain) > 2:
        raise UserError("sweep takes one sweep file, and perhaps status: python -m bench sweep compare_methods status")
    chosen, rest = options([word for word in words if "=" in word])
    found = sweeps.expand(sweeps.find(asked[0]), rest, chosen.count, chosen.sweep_seed)
    if "status" in plain:
        states = sweeps.states(found.points)
        print(sweeps.points_table(found.points))
        explain(found, [point for point, state in zip(found.points, states, strict=True) if state == "failed"])
        return 0
    for note in found.notes:
        print(f"note: {note}")
    if chosen.preempt is not None:
        print(preempt(found, chosen.preempt))
        return 0
    if chosen.dry_run:
        print(sweeps.plan(found.points))
        return 0
    now = dict(zip(found.points, sweeps.states(found.points), strict=True))
    todo = [point for point in found.points if now[point] not in ("finished", "queued")]
    finished, queued = (list(now.values()).count(state) for state in ("finished", "queued"))
    if finished:
        print(f"{finished} of {len(now)} points are finished already", flush=True)
    if queued:
        print(f"{queued} of {len(now)} points are queued on SLURM and left alone", flush=True)
    stopped = LAUNCHERS[chosen.launch.name](found, todo, chosen.launch) if todo else 0
    if chosen.launch.name == "slurm" and (stopped or not chosen.launch.wait):
        return 128 + stopped if stopped else 0
    return conclude(found, todo, stopped)


def preempt(found: Sweep, number: int) -> str:
    """Do to a running point what a preemption does: it stops where it can be continued; returns what was done.

    Raises
    ------
    UserError
        If there is no such point or it is not running.
    """
    if number > len(found.points):
        raise UserError(f"preempt={number} names no point: there are {len(found.points)}")
    point = found.points[number - 1]
    state = sweeps.state(point)
    if state != "running":
        raise UserError(f"preempt={number}: the point is {state}, and only a running one can be preempted")
    job = sweeps.job_id(point)
    if job is not None and cluster.states([job]).get(job) in cluster.RUNNING:
        cluster.interrupt(job, point.folder / "jobs")
        return f"[{number}/{len(found.points)}] SLURM job {job} was told to stop; it is requeued and goes on"
    os.kill(sweeps.attempt(point)["pid"], signal.SIGTERM)
    return f"[{number}/{len(found.points)}] the run was told to stop; the same line without preempt goes on with it"


def conclude(found: Sweep, todo: Sequence[Point], stopped: int) -> int:
    """Print the table and what went wrong; returns the exit status: 0, 1 if a point failed, 128 + a signal."""
    states = dict(zip(found.points, sweeps.states(found.points), strict=True))
    print(f"\n{sweeps.points_table(found.points)}")
    failed = [point for point in todo if states[point] == "failed"]
    explain(found, failed)
    finished = list(states.values()).count("finished")
    pending = list(states.values()).count("pending")
    if failed:
        print(f"\n{len(failed)} points failed: the same line again retries them")
    if stopped:
        print(f"\ninterrupted: {finished} of {len(states)} points are finished; the same line again goes on from here")
        return 128 + stopped
    if pending:
        print(f"\n{pending} points were interrupted: the same line again goes on from here")
    return 1 if failed or pending else 0


def explain(found: Sweep, failed: Sequence[Point]) -> None:
    """Print how points failed: the end of their logs, and what SLURM says where a log does not tell."""
    for point in failed:
        print(f"\n[{point.number}/{len(found.points)}] failed: {point.log}")
        print("".join(f"  {line}\n" for line in [*_tail(point.log), sweeps.reason(point)] if line), end="")


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TAIL:]
    except OSError:
        return []

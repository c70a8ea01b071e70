"""Carrying out a sweep: every point in a process of its own, one after another or several at a time.

A point's process is led by the process that started it. It runs in a session of its own, so that an interrupt at the
terminal reaches it once, from its leader, which then waits for its clean end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from bench import cluster
from bench import sweep as sweeps
from bench.config import read, run_settings
from bench.errors import UserError, nearest, suggest
from bench.files import write_atomic
from bench.settings import build, complaints, describe, setting
from bench.stopping import is_interruption
from bench.sweep import Point, Sweep

SIGNAL_DELAY = 90
"""Seconds before the end of a job's time at which submitit has SLURM send its signal, by default."""

POLL = 0.1
"""Seconds between two looks at the running processes."""

FOLLOW = 5.0
"""Seconds between two looks at SLURM's queue."""

LOOK = 1.0
"""Seconds between two looks at a running point's record."""

TAIL = 10
"""Lines of a failed point's log that are shown."""


class Child:
    """The process of one point; until it has ended this process holds the point's lock.

    Parameters
    ----------
    point : Point
    lock : FileLock
        Held already.
    environment : mapping
        What is added to the environment.
    """

    def __init__(self, point: Point, lock: FileLock, environment: Mapping[str, str]):
        self.point = point
        self.lock = lock
        self.told = 0
        self.began = time.time()
        point.job.unlink(missing_ok=True)  # what SLURM knows of an earlier attempt no longer counts
        with point.log.open("wb") as log:
            self.process = subprocess.Popen(
                command(point),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._note(None, None)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.began

    def ended(self) -> int | None:
        """Note and return the exit status once the process has ended, a signal as 128 + its number; else None."""
        code = self.process.poll()
        if code is None:
            return None
        status = code if code >= 0 else 128 - code
        self._note(status, round(self.seconds, 3))
        self.lock.release()
        return status

    def _note(self, status: int | None, seconds: float | None) -> None:
        content = {
            "exit_status": status,
            "seconds": seconds,
            "host": socket.gethostname(),
            "pid": self.process.pid,
            "birth": sweeps.birth(self.process.pid) if status is None else None,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.began)),
        }
        write_atomic(self.point.notes, json.dumps(content, indent=1) + "\n")


def command(point: Point) -> list[str]:
    """The command line of a point."""
    return [sys.executable, "-m", "bench", "run", *point.words]


def start(point: Point, environment: Mapping[str, str]) -> Child | None:
    """Start a point's process; None when somebody else runs it or has finished it meanwhile.

    Raises
    ------
    UserError
        If the sweep's folder cannot be written.
    """
    try:
        point.lock.parent.mkdir(parents=True, exist_ok=True)
        point.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(point.lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        if sweeps.state(point) in ("finished", "running"):
            lock.release()
            return None
        return Child(point, lock, environment)
    except OSError as error:
        raise UserError(
            f"cannot write to {point.folder} ({error.strerror or error}): make room or choose another folder with "
            "out=DIR"
        ) from error


# ----------------------------------------------------------------------------------------------- showing


class Show:
    """What is told of the running points: here, a line when one starts and one when it ends."""

    def __init__(self, count: int):
        self.count = count

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def head(self, point: Point) -> str:
        """The number of a point among all."""
        return f"[{point.number}/{self.count}]"

    def started(self, child: Child) -> None:
        """Called once, after the start."""
        self.say(f"{self.head(child.point)} {child.point.label}")

    def goes_on(self, child: Child) -> None:
        """Called at every look while the process runs, and once after its end."""

    def ended(self, child: Child, status: int) -> None:
        """Called once, after the end."""
        self.say(f"{self.head(child.point)} {outcome(child.point, status)} after {child.seconds:.0f} s")


class Output(Show):
    """All that the points print, as their logs grow."""

    def __init__(self, count: int):
        super().__init__(count)
        self._read: dict[Path, int] = {}

    def goes_on(self, child: Child) -> None:
        log = child.point.log
        with log.open("rb") as file:
            file.seek(self._read.get(log, 0))
            text = file.read()
        # A character may still be incomplete; it is shown with the next line.
        text = text[: text.rfind(b"\n") + 1] if child.process.poll() is None else text
        self._read[log] = self._read.get(log, 0) + len(text)
        if text:
            sys.stdout.write(text.decode("utf-8", errors="replace"))
            sys.stdout.flush()


class Tasks(Show):
    """At which task each point is: a bar each on a terminal, else a line for every task learned."""

    def __init__(self, count: int):
        super().__init__(count)
        self._bars: dict[int, Any] = {}
        self._seen: dict[int, tuple[int, int, str]] = {}
        self._looked: dict[int, float] = {}

    def say(self, text: str) -> None:
        with tqdm.external_write_mode():
            super().say(text)

    def started(self, child: Child) -> None:
        super().started(child)
        self._bars[child.process.pid] = tqdm(
            desc=f"{self.head(child.point)} {child.point.label}",
            unit="task",
            leave=False,
            disable=None,  # only on a terminal
            dynamic_ncols=True,
        )

    def goes_on(self, child: Child) -> None:
        pid = child.process.pid
        if child.process.poll() is None and child.seconds - self._looked.get(pid, 0.0) < LOOK:
            return
        self._looked[pid] = child.seconds
        bar = self._bars[pid]
        bar.refresh()  # the time runs on while nothing else changes
        now = progress(child.point.directory, child.began)
        if now is None or now == self._seen.get(pid):
            return
        self._seen[pid] = now
        done, count, name = now
        bar.total, bar.n = count, done
        bar.set_postfix_str(name)
        if bar.disable and done:
            self.say(f"{self.head(child.point)} {done} of {count} tasks learned ({name})")

    def ended(self, child: Child, status: int) -> None:
        self._bars.pop(child.process.pid).close()
        super().ended(child, status)


def progress(directory: Path, since: float) -> tuple[int, int, str] | None:
    """Tasks learned, tasks in all and the name of the one learned last, by the record; None where it is older."""
    events = directory / "metrics.jsonl"
    try:
        if events.stat().st_mtime < since:
            return None
        tasks = json.loads((directory / "identity.json").read_text(encoding="utf-8"))["tasks"]
        whole = events.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        rows = [event for event in map(json.loads, whole) if event["event"] == "row"]
    except (OSError, ValueError, KeyError, TypeError):  # not written yet, or just being written
        return None
    return (rows[-1]["row"], len(tasks), rows[-1]["after"]) if rows else (0, len(tasks), "")


def outcome(point: Point, status: int) -> str:
    """How a point ended, in a few words."""
    if is_interruption(status):
        return f"interrupted (exit status {status})"
    if status:
        return f"failed (exit status {status})"
    return sweeps.state(point)


# ---------------------------------------------------------------------------------------------- running


class Stop:
    """Signals that ask for an end, counted instead of raised, so that nothing is left half done."""

    def __init__(self) -> None:
        self.signal = 0
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.count += 1


@contextmanager
def stopping() -> Iterator[Stop]:
    """Count interrupts and requests to end while open."""
    stop = Stop()
    wanted = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # else started with nohup
        wanted.append(hangup)
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carry_out(
    todo: Sequence[Point], processes: int, environment: Callable[[Point], Mapping[str, str]], show: Show
) -> int:
    """Run points, so many at a time, until all have ended or a signal asks for an end.

    Parameters
    ----------
    environment : callable
        What a point's process has in its environment beside what is there.

    Returns
    -------
    int
        The signal that asked for an end, else 0.
    """
    waiting, running, told = list(todo), list[Child](), 0
    with stopping() as stop:
        try:
            while running or (waiting and not stop.count):
                while waiting and len(running) < processes and not stop.count:
                    point = waiting.pop(0)
                    child = start(point, environment(point))
                    if child is None:
                        show.say(f"{show.head(point)} is left alone: another process runs it or has finished it")
                        continue
                    running.append(child)
                    show.started(child)
                time.sleep(POLL)
                if stop.count > told:
                    told = stop.count
                    show.say(f"stopping: waiting for the end of {len(running)} running points")
                for child in list(running):
                    if child.told < stop.count and child.process.poll() is None:
                        child.process.send_signal(stop.signal)
                        child.told = stop.count
                    status = child.ended()
                    show.goes_on(child)
                    if status is not None:
                        running.remove(child)
                        show.ended(child, status)
        finally:  # a full disk, a closed pipe: nobody would lead them any more
            for child in running:
                child.process.terminate()
                child.process.wait()
                child.ended()
        return stop.signal


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _inline(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    return carry_out(todo, 1, lambda point: {}, Output(len(sweep.points)))


def _local(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    processes = launch.processes or max(1, cores() // 2)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // processes))}

    def environment(point: Point) -> Mapping[str, str]:
        chosen = "OMP_NUM_THREADS" in os.environ or point.threads is not None
        return {} if chosen else threads

    return carry_out(todo, processes, environment, Tasks(len(sweep.points)))


def _slurm(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    """Submit one array and follow it; an interrupt ends the following only."""
    todo = [point for point, state in zip(todo, sweeps.states(todo), strict=True) if state != "running"]
    if not todo:
        print("all that is left is running")
        return 0
    folder = todo[0].folder / "jobs"
    threads = launch.tasks_per_node is None or launch.tasks_per_node == 1
    jobs = []
    for point in todo:
        point.folder.mkdir(parents=True, exist_ok=True)
        jobs.append(
            cluster.PointJob(command(point), str(point.log), str(point.notes), threads and point.threads is None)
        )
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
                told = progress(point.directory, began)
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
        print(sweeps.table(found.points))
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
    print(f"\n{sweeps.table(found.points)}")
    failed = [point for point in todo if states[point] == "failed"]
    for point in failed:
        print(f"\n[{point.number}/{len(found.points)}] failed: {point.log}")
        print("".join(f"  {line}\n" for line in [*_tail(point.log), sweeps.reason(point)] if line), end="")
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


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TAIL:]
    except OSError:
        return []

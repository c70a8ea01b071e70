"""Run points here, one after another or several at a time, or on SLURM; follow them, and report in the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bench.core.errors import UserError
from bench.core.files import write_atomic
from bench.sweep import slurm
from bench.sweep.display import Display, Output, Tasks, progress
from bench.sweep.file import Sweep
from bench.sweep.options import Launch
from bench.sweep.points import Point, State, job_id, last_attempt, points_table, reason_of, state_of, states_of
from bench.sweep.processes import Child, command, start, writing

TAIL = 10
"""Lines of a failed point's log that are shown."""

POLL = 0.1
"""Seconds between two looks at the running processes, and at whether a signal has come."""


def run_points(sweep: Sweep, launch: Launch) -> int:
    """Run the points that are neither finished nor queued, and report.

    Parameters
    ----------
    sweep : Sweep
    launch : Launch
        Where they run.

    Returns
    -------
    int
        The exit status: 0, 1 if a point failed or was interrupted, 128 + a signal that ended the sweep.
    """
    states = dict(zip(sweep.points, states_of(sweep.points), strict=True))
    todo = [point for point, state in states.items() if state not in ("finished", "queued")]
    finished, queued = (list(states.values()).count(state) for state in ("finished", "queued"))
    if finished:
        print(f"{finished} of {len(states)} points are finished already", flush=True)
    if queued:
        print(f"{queued} of {len(states)} points are queued on SLURM and left alone", flush=True)
    stopped = LAUNCHERS[launch.name](sweep, todo, launch) if todo else 0
    if launch.name == "slurm" and (stopped or not launch.wait):
        return 128 + stopped if stopped else 0
    return conclude(sweep, todo, stopped)


# ---------------------------------------------------------------------------------------- on this machine


def carry_out(
    todo: Sequence[Point], processes: int, environment: Callable[[Point], Mapping[str, str]], display: Display
) -> int:
    """Run points, some at a time, until all have ended or a signal asks for an end.

    Parameters
    ----------
    todo : sequence of Point
        In the order in which they start.
    processes : int
        How many at a time.
    environment : callable
        Returns what is added to the environment for a point's process.
    display : Display

    Returns
    -------
    int
        The signal that asked for an end, else 0.
    """
    waiting, running, reported = list(todo), list[Child](), 0
    with stopping() as stop:
        try:
            while running or (waiting and not stop.count):
                while waiting and len(running) < processes and not stop.count:
                    point = waiting.pop(0)
                    child = start(point, environment(point))
                    if child is None:
                        display.say(f"{display.head(point)} skipped: another process runs it or has finished it")
                        continue
                    running.append(child)
                    display.started(child)
                time.sleep(POLL)
                if stop.count > reported:
                    reported = stop.count
                    waiting.clear()
                    display.say(f"stopping: waiting for the end of {len(running)} running points")
                for child in list(running):
                    child.pass_on(stop.signal, stop.count)
                    status = child.ended()
                    display.running(child)
                    if status is not None:
                        running.remove(child)
                        display.ended(child, status, waiting, running)
        finally:  # a full disk, a closed pipe: nobody would wait for them any more
            for child in running:
                child.process.terminate()
                child.process.wait()
                child.ended()
        return stop.signal


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stop:
    """Handler of signals that ask for an end: counts them, so that nothing is left half done.

    Attributes
    ----------
    signal : int
        The last one; 0 before the first.
    count : int
    """

    def __init__(self) -> None:
        self.signal = 0
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Count a signal."""
        self.signal = number
        self.count += 1

    def sleep(self, seconds: float) -> None:
        """Sleep at most some seconds, and not longer than until the first signal."""
        end = time.monotonic() + seconds
        while not self.count and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL))


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


# ------------------------------------------------------------------------------------------- launchers


def _inline(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    return carry_out(todo, 1, lambda point: {}, Output(len(sweep.points)))


def _local(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    together = launch.processes or max(1, cores() // 2)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // together))}

    def environment(point: Point) -> Mapping[str, str]:
        chosen = "OMP_NUM_THREADS" in os.environ or point.threads is not None
        return {} if chosen else threads

    return carry_out(todo, together, environment, Tasks(len(sweep.points), together))


def _slurm(sweep: Sweep, todo: Sequence[Point], launch: Launch) -> int:
    """Submit one array and follow it; an interrupt ends only the following."""
    todo = [point for point, state in zip(todo, states_of(todo), strict=True) if state != "running"]
    if not todo:
        print("all points that are left are running")
        return 0
    jobs = []
    folder = todo[0].folder
    for point in todo:
        with writing(point.folder):
            point.folder.mkdir(parents=True, exist_ok=True)
        jobs.append(slurm.PointJob(command(point), str(point.log), str(point.notes), point.threads is None))
    with writing(folder):
        ids = slurm.submit(jobs, folder / "jobs", sweep.file.stem, launch.parameters())
    array = ids[0].partition("_")[0]
    try:
        for point, job in zip(todo, ids, strict=True):
            write_atomic(point.job, job + "\n")
    except OSError as error:
        raise UserError(
            f"the points are submitted as job {array}, but {folder} cannot be written ({error.strerror or error}): "
            f"scancel {array}, make room, and give the same line again"
        ) from error
    print(f"submitted {len(ids)} points as job {array}")
    how = f"follow: python -m bench {sweep.line} status (with the same words); cancel: scancel {array}"
    print(how, flush=True)
    if not launch.wait:
        return 0
    with stopping() as stop:
        follow(todo, Tasks(len(sweep.points)), stop)
    if stop.count:
        print(f"the jobs continue; {how}")
    return stop.signal


LAUNCHERS: dict[str, Callable[[Sweep, Sequence[Point], Launch], int]] = {
    "inline": _inline,
    "local": _local,
    "slurm": _slurm,
}
"""What ``launch=NAME`` calls with the sweep, the points to run and settings; returns the signal that ended it, or 0."""


def follow(todo: Sequence[Point], display: Tasks, stop: Stop) -> None:
    """Show how points on SLURM change, until all have ended or a signal comes.

    Parameters
    ----------
    todo : sequence of Point
        Submitted already.
    display : Tasks
        Prints a line for every change of a state and for every task learned.
    stop : Stop
        Counts signals.
    """
    began, backoff, changed = time.time(), slurm.Backoff(), True
    seen: dict[Point, tuple[State, int]] = dict.fromkeys(todo, ("queued", 0))
    while any(state in ("queued", "running") for state, _ in seen.values()):
        stop.sleep(backoff.next(changed))
        if stop.count:
            return
        before = dict(seen)
        for point, state in zip(todo, states_of(todo), strict=True):
            now = progress(point.directory, began)
            seen[point] = (state, now.learned if now else 0)
            if state != before[point][0]:
                display.say(f"{display.head(point)} {point.label}: {state}")
            elif now and now.learned > before[point][1]:
                display.learned(point, now)
        changed = seen != before


# ------------------------------------------------------------------------------- preemption and report


def preempt(sweep: Sweep, number: int) -> str:
    """Do to a running point what a preemption does: it stops where it can be continued.

    Parameters
    ----------
    sweep : Sweep
    number : int
        Number of the point, from 1.

    Returns
    -------
    str
        What was done, in a sentence.

    Raises
    ------
    UserError
        If there is no such point or it is not running.
    """
    if number > len(sweep.points):
        raise UserError(f"preempt={number} names no point: there are {len(sweep.points)}")
    point = sweep.points[number - 1]
    state = state_of(point)
    if state != "running":
        raise UserError(f"preempt={number}: the point is {state}, and only a running one can be preempted")
    head = f"[{number}/{len(sweep.points)}]"
    job = job_id(point)
    if job is not None and slurm.job_states([job]).get(job) in slurm.RUNNING:
        slurm.interrupt(job, point.folder / "jobs")
        return f"{head} SLURM job {job} was asked to stop; it is requeued and continues"
    attempt = last_attempt(point)
    assert attempt is not None and attempt.pid is not None  # it would not count as running
    os.kill(attempt.pid, signal.SIGTERM)
    return f"{head} the run was asked to stop; the same line without preempt continues it"


def conclude(sweep: Sweep, todo: Sequence[Point], stopped: int) -> int:
    """Print the table and what went wrong.

    Parameters
    ----------
    sweep : Sweep
    todo : sequence of Point
        Those that were to run.
    stopped : int
        The signal that ended the sweep, or 0.

    Returns
    -------
    int
        The exit status: 0, 1 if a point failed or was interrupted, 128 + a signal.
    """
    states = dict(zip(sweep.points, states_of(sweep.points), strict=True))
    print(f"\n{points_table(sweep.points)}")
    failed = [point for point in todo if states[point] == "failed"]
    explain(sweep, failed)
    finished, pending = (list(states.values()).count(state) for state in ("finished", "pending"))
    if failed:
        print(f"\n{_points(len(failed))} failed: the same line runs {_them(len(failed))} again")
    if stopped:
        print(f"\ninterrupted: {finished} of {len(states)} points are finished; the same line continues from here")
        return 128 + stopped
    if pending:
        were = "was" if pending == 1 else "were"
        print(f"\n{_points(pending)} {were} interrupted: the same line continues {_them(pending)}")
    return 1 if failed or pending else 0


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def explain(sweep: Sweep, failed: Sequence[Point]) -> None:
    """Print how points failed: the end of their logs, and what SLURM says where a log does not say it.

    Parameters
    ----------
    sweep : Sweep
    failed : sequence of Point
    """
    for point in failed:
        print(f"\n[{point.number}/{len(sweep.points)}] failed: {point.log}")
        print("".join(f"  {line}\n" for line in [*_tail(point.log), reason_of(point)] if line), end="")


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TAIL:]
    except OSError:
        return []

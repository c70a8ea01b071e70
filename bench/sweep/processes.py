"""Points of a sweep in processes of this machine: started, watched, shown, and stopped.

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
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from bench.core.errors import UserError
from bench.core.files import write_atomic
from bench.core.signals import is_interruption
from bench.sweep import file as sweeps
from bench.sweep.file import Point

POLL = 0.1
"""Seconds between two looks at the running processes."""

LOOK = 1.0
"""Seconds between two looks at a running point's record."""


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

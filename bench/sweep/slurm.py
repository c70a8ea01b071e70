"""Run points on SLURM: one array, each job of which runs a point in a process of its own.

submitit writes and submits the jobs. When SLURM preempts a job, or its time is nearly over, submitit calls
`PointJob.checkpoint`, which stops the run where nothing is half done, and requeues the job; the run then continues.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.signals import is_interruption
from bench.sweep.attempts import Attempt, exit_status

STOPPED_FOR = 300.0
"""Seconds that the job of a run that a signal stopped waits to be requeued or ended by SLURM."""

START_UP = 90
"""Seconds a job needs before it hears signals: SLURM sends them up to 60 s early, and Python has to start."""

MAX_TIMEOUTS = 100
"""How often a job may run out of time and continue, by default."""

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING"}
STOPPED = {"CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "REVOKED", "BOOT_FAIL", "DEADLINE"}
"""States of jobs in SLURM's words. A job of the last kind that left no exit status was stopped from outside."""


class PointJob:
    """What a job does: run one point in a process of its own, and stop it when the job is to be requeued.

    Jobs that wait in a queue are pickled objects of this class: its name and its attributes are an interface.

    Parameters
    ----------
    command : list of str
        The command line of the point.
    log : str
        What the process prints is added to this file.
    notes : str
        The file of the `Attempt`.
    threads : bool
        Whether the process gets as many threads as the job has CPUs.
    """

    def __init__(self, command: list[str], log: str, notes: str, threads: bool):
        self.command = command
        self.log = log
        self.notes = notes
        self.threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but the process."""
        return {**self.__dict__, "_process": None, "_status": None}

    def __call__(self) -> int:
        """Run the point to its end.

        Returns
        -------
        int
            The exit status; a signal is 128 + its number.
        """
        import submitit

        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        leads = job.global_rank == 0
        began = time.time()
        process = self._start(Path(self.log if leads else f"{self.log}.rank{job.global_rank}"))
        attempt = Attempt.of_process(process.pid, began, job.job_id, int(os.environ.get("SLURM_RESTART_COUNT", "0")))
        if leads:
            attempt.write(Path(self.notes))
        # Waited for in a thread: a handler that interrupts the main thread in `wait` could not wait again itself.
        threading.Thread(target=self._wait, args=(process,), daemon=True).start()
        while self._status is None:
            time.sleep(0.1)
        if is_interruption(self._status):  # SLURM signals all processes: what it does to this one is still to come
            end = time.monotonic() + STOPPED_FOR
            while time.monotonic() < end:
                time.sleep(0.5)
        if leads:
            attempt.ended(self._status, time.time() - began).write(Path(self.notes))
        return self._status

    def _start(self, log: Path) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if self.threads and "SLURM_CPUS_PER_TASK" in environment:
            environment.setdefault("OMP_NUM_THREADS", environment["SLURM_CPUS_PER_TASK"])
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        return self._process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        self._status = exit_status(process.wait())

    def checkpoint(self) -> Any:
        """Stop the run where it can be continued.

        Returns
        -------
        submitit.helpers.DelayedSubmission
            What is to be done when the job starts again.
        """
        import submitit

        while self._process is not None and self._status is None:
            self._process.send_signal(signal.SIGTERM)
            for _ in range(20):
                if self._status is None:
                    time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(PointJob(self.command, self.log, self.notes, self.threads))


def submit(jobs: Sequence[PointJob], folder: Path, name: str, parameters: Mapping[str, Any]) -> list[str]:
    """Submit jobs as one array.

    Parameters
    ----------
    jobs : sequence of PointJob
    folder : Path
        Where submitit keeps its files; compute nodes must see it.
    name : str
        Name of the array.
    parameters : mapping of str to object
        What `submitit.AutoExecutor` takes; those that are None are left out.

    Returns
    -------
    list of str
        The ids of the jobs, as in ``123_0``.

    Raises
    ------
    UserError
        If there is no SLURM, a parameter is unknown, or SLURM refuses the jobs.
    OSError
        If the folder cannot be written.
    """
    missing = [tool for tool in ("sbatch", "srun") if shutil.which(tool) is None]
    if missing:
        raise UserError(
            f"launch=slurm needs SLURM, and there is no {missing[0]} here: use a login node, or launch=local"
        )
    import submitit

    given = {key: value for key, value in parameters.items() if value is not None}
    timeouts = given.pop("slurm_max_num_timeout", MAX_TIMEOUTS)
    more = {"requeue": True, **given.pop("slurm_additional_parameters", {})}
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
    try:
        executor.update_parameters(name=name, slurm_additional_parameters=more, **given)
    except (ValueError, NameError, TypeError, AssertionError) as error:
        found = re.match(r"Unknown argument '(\w+)'.*?Valid arguments: (.*)", str(error))
        names = ", ".join(sorted(found[2].split(", "))) if found else ""
        text = f"launch.slurm.{found[1]} is unknown: there are {names}" if found else f"launch.slurm: {error}"
        raise UserError(" ".join(text.split())) from error
    try:
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        said = re.findall(r"(?:sbatch: )?error: (.*)", str(error)) or str(error).splitlines()
        raise UserError(
            f"SLURM refuses the jobs ({'; '.join(said)}): change launch.partition or what else is asked for"
        ) from error
    return [str(job.job_id) for job in submitted]


def job_states(ids: Iterable[str]) -> dict[str, str]:
    """Return SLURM's words for the states of jobs.

    The queue is asked for the user's own jobs only, since it may hold those of thousands of users. Accounting, which
    may lag behind or be missing, is asked for the rest: jobs that the queue has forgotten, and those of others.

    Parameters
    ----------
    ids : iterable of str
        As of `submit`.

    Returns
    -------
    dict of str to str
        Without jobs that SLURM does not know any more.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    states: dict[str, str] = {}
    # The state of a cancelled job is followed by who did it.
    for line in _ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%F_%K|%A|%T"):
        task, job, state = line.split("|")
        states[task if not task.endswith("_N/A") else job] = state.split()[0]
    lost = sorted(wanted - set(states))
    for line in _ask("sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(lost)) if lost else []:
        job, _, state = line.partition("|")
        states.setdefault(job, state.split()[0] if state else "")
    return {job: state for job, state in states.items() if job in wanted}


def _ask(*words: str) -> list[str]:
    """Return the lines that a tool of SLURM answers with; none where it is missing or fails."""
    if shutil.which(words[0]) is None:
        return []
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


class Backoff:
    """How long to wait before SLURM is asked again: longer and longer while nothing changes."""

    FIRST = 5.0
    LONGEST = 60.0

    def __init__(self) -> None:
        self._seconds = 0.0

    def next(self, changed: bool) -> float:
        """Return the seconds to wait now.

        Parameters
        ----------
        changed : bool
            Whether the last answer was another one than before.

        Returns
        -------
        float
            5 s after a change, then twice as long each time, at most 60 s.
        """
        self._seconds = self.FIRST if changed or not self._seconds else min(2 * self._seconds, self.LONGEST)
        return self._seconds


def interrupt(job: str, folder: Path) -> None:
    """Do to a running job what a preemption does: signal it to stop, so that it is requeued.

    Parameters
    ----------
    job : str
        Its id.
    folder : Path
        As for `submit`.
    """
    from submitit.slurm.slurm import SlurmJob

    SlurmJob(folder=folder, job_id=job)._interrupt(timeout=False)

"""The child process that mirrors a record in W&B: it follows the files of a run directory and sends them.

wandb is used here only. A run starts this as ``python -m bench.tracking.mirror_process RUNDIR``
(bench/tracking/mirror.py) and continues at once. What W&B holds is a function of the record
(bench/tracking/payload.py): one row of history for every epoch and every row of the matrix in metrics.jsonl, in order,
and one more with the whole matrix when the run is finished. So the number of rows sent says what is still to be sent,
whichever process sent them and however often the run was continued.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.core.files import write_atomic
from bench.record.events import read_events
from bench.record.schema import Identity, is_finished
from bench.tracking.mirror_state import MirrorState, folder, load_state, save_state
from bench.tracking.payload import (
    config,
    history,
    matrix_row,
    passed_over,
    record_files,
    requests,
    summary,
    weight_files,
)

POLL = 0.5
"""Seconds between two looks at the record."""

RETRY = 60.0
"""Seconds until W&B is tried again after it could not be reached."""

BUSY = 5.0
"""Seconds that `bench mirror` waits for another process that sends the same run."""

HOLDER = "holder"
"""File beside the lock that says who has it."""

FAILED = 1
"""Exit status, and exit code of a W&B run, where nothing better is known."""

GAVE_UP = 3
"""Exit status of this process when its time after the end of the run was over."""


class End:
    """Watch standard input for the run's exit code, one line of JSON; end of input without it means a killed run.

    Parameters
    ----------
    directory : Path
        The run directory.
    patience : float
        Seconds that this process lives on after the end of the run, whatever W&B's server does.

    Attributes
    ----------
    exit_code : int
    preempted : bool
        Whether the run was stopped to be continued later.
    """

    def __init__(self, directory: Path, patience: float):
        self.exit_code = FAILED
        self.preempted = False
        self._directory = directory
        self._patience = patience
        self._over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait at most some seconds for the end of the run; return whether it has come."""
        return self._over.wait(seconds)

    def _listen(self) -> None:
        line = sys.stdin.readline()
        if line.endswith("\n"):
            message = json.loads(line)
            self.exit_code, self.preempted = message["exit_code"], message["preempted"]
        elif is_finished(self._directory):
            self.exit_code = 0
        timer = threading.Timer(self._patience, self._give_up)
        timer.daemon = True
        timer.start()
        self._over.set()

    def _give_up(self) -> None:
        print(f"not done {self._patience:g} s after the end of the run: given up", file=sys.stderr, flush=True)
        os._exit(GAVE_UP)  # wandb may wait for a server without limit


def connect(directory: Path, state: MirrorState, pid: int | None) -> Any:
    """Start or continue the W&B run of a run directory.

    Parameters
    ----------
    directory : Path
        The run directory.
    state : MirrorState
        Which W&B run, and what it is called.
    pid : int or None
        The process whose load is recorded with that of the machine; None records neither.

    Returns
    -------
    wandb.sdk.wandb_run.Run
    """
    import wandb

    settings = wandb.Settings(
        console="off",
        reinit="create_new",  # not the run of an attempt that failed
        disable_git=True,
        disable_code=True,
        stop_fn=lambda: None,  # a run is stopped where it was started
        x_disable_meta=True,  # it would describe this process
        x_disable_stats=pid is None,
        x_stats_pid=pid or os.getpid(),
        x_save_requirements=False,
    )
    run = wandb.init(
        dir=str(directory),
        id=state.id,
        resume="allow",
        project=state.project,
        entity=state.entity,
        group=state.group,
        name=state.name,
        tags=state.tags or None,
        job_type="train",
        config=config(directory),
        settings=settings,
    )
    for axis in ("task", "train/step"):
        run.define_metric(axis, hidden=True)
    for axis, keys in (("task", "task/*"), ("train/step", "train/*")):
        run.define_metric(keys, step_metric=axis)
    return run


def follow(directory: Path, pid: int | None, end: End, report: Callable[..., None]) -> None:
    """Mirror a run directory until the run has ended and W&B has everything.

    Parameters
    ----------
    directory : Path
        The run directory, with ``wandb/state.json``.
    pid : int or None
        As in `connect`.
    end : End
        Says that the run has ended, and how.
    report : callable
        Gets ``url=`` or ``folder=`` once W&B is there, and ``note=`` for what the user should know.
    """
    state = load_state(directory)
    assert state is not None  # bench/tracking/mirror.py writes it first
    _remove_broken_off(directory, state)
    run = connect(directory, state, pid)
    local = Path(run.dir).parent
    if run.offline:
        sent = state.rows
        report(folder=str(local))
    else:
        sent = run.starting_step  # a server knows what it holds
        state.entity, state.project, state.url = run.entity, run.project, run.url
        save_state(directory, state)
        report(url=run.url)
    tasks = Identity.read(directory).tasks
    over = False
    while not over:
        over = end.wait(POLL)
        rows = history(read_events(directory), tasks, requests(directory))
        for row in rows[sent:]:
            run.log(row)
        sent = max(sent, len(rows))
    if is_finished(directory):
        if sent == len(rows):
            run.log(matrix_row(directory))
            sent += 1
        conclude(run, directory, state.weights)
        if others := passed_over(directory):
            report(note=f"links and what else is no file are not sent to W&B: {', '.join(others)}")
    if end.preempted:
        run.mark_preempting()
    run.finish(exit_code=end.exit_code)
    if run.offline:
        state.parts.append(local.name)
    state.rows = sent
    save_state(directory, state)


def _remove_broken_off(directory: Path, state: MirrorState) -> None:
    """Remove the folders of offline runs that were not closed.

    They lack what was written last and stop a sync of all folders; the record has their content.
    """
    for path in folder(directory).glob(f"offline-run-*-{glob.escape(state.id)}"):
        if path.name not in state.parts:
            shutil.rmtree(path, ignore_errors=True)


def conclude(run: Any, directory: Path, weights: bool) -> None:
    """Send what only a finished run has, its summary and its files; doing so twice changes nothing.

    Parameters
    ----------
    run : wandb.sdk.wandb_run.Run
    directory : Path
        The run directory.
    weights : bool
        Whether files of weights are sent too.
    """
    import wandb

    run.summary.update(summary(directory))
    artifact = wandb.Artifact(f"record-{run.id}", type="record")
    for path in record_files(directory):
        # Not copied: the files of a finished run stay as they are, and a later sync would look for the copy.
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
    run.log_artifact(artifact)
    files = weight_files(directory) if weights else []
    if files:
        model = wandb.Artifact(f"weights-{run.id}", type="model")
        for path in files:
            model.add_file(str(path), str(path.relative_to(directory)), policy="immutable", skip_cache=True)
        run.log_artifact(model)


def persist(directory: Path, pid: int | None, end: End, report: Callable[..., None]) -> None:
    """Call `follow`; while it fails and the run has not ended, call it again from time to time, and once at the end.

    wandb does its work in a process of its own, which a signal to all processes of a job ends.

    Parameters
    ----------
    directory, pid, end
        As for `follow`.
    report : callable
        Gets ``trouble=`` too, each time that W&B is lost.
    """
    import wandb

    while True:
        last = end.wait(0)
        try:
            return follow(directory, pid, end, report)
        except Exception as error:
            if last:
                raise
            traceback.print_exc()
            report(trouble=str(error).split("\n")[0])
        with contextlib.suppress(Exception):  # there is nobody to report it to
            wandb.teardown()
        end.wait(RETRY)


@contextlib.contextmanager
def _alone(home: Path, patience: float) -> Iterator[None]:
    """Keep other processes from sending the same run while open; raise `TimeoutError` that names the one that does."""
    from filelock import FileLock, Timeout

    holder = home / HOLDER
    lock = FileLock(home / "lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        try:
            name = holder.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            name = "another process"
        raise TimeoutError(f"{name} sends this run already, wait for it or stop it") from None
    try:
        write_atomic(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def main(argv: list[str]) -> int:
    """Mirror a run directory.

    Messages go to standard output, one JSON object a line; ``{"done": true}`` is the last one when all went well.
    Everything else that is printed, by wandb too, goes to standard error.

    Parameters
    ----------
    argv : list of str
        The run directory, seconds as in `End`, and the id of the run's process if it is still running.

    Returns
    -------
    int
        The exit status.
    """
    directory, patience = Path(argv[0]), float(argv[1])
    pid = int(argv[2]) if argv[2:] else None
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def report(**message: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(json.dumps(message), file=out, flush=True)

    try:
        end = End(directory, patience)
        # The mirror process of the attempt before may not have ended yet.
        with _alone(folder(directory), patience if pid else min(patience / 2, BUSY)):
            persist(directory, pid, end, report)
    except Exception as error:
        traceback.print_exc()
        report(failure=str(error).split("\n")[0])
        return FAILED
    report(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

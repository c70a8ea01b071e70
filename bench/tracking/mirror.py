"""The mirror of a run in W&B, as the run sees it: start a child process, report the end to it, wait for it.

The run directory is the truth. The child (bench/tracking/mirror_process.py) follows its files and sends them to W&B; a
run starts it and, at its end, waits for it for a bounded time. So nothing that happens to the network, the server or
the folder ``wandb/`` stops a run or slows it down, and nothing of wandb happens in the run's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import bench
from bench.config.run_settings import Resolved
from bench.core.errors import UserError
from bench.core.paths import first_time
from bench.core.signals import INTERRUPTIONS, Stopped, is_interruption
from bench.core.untrusted import check_folder, opened, why
from bench.tracking.mirror_process import GAVE_UP
from bench.tracking.mirror_state import MirrorState, folder, load_state, save_state
from bench.tracking.options import VARIABLES, MirrorOptions, mirror_options, settings_files, symbols_of

PATIENCE = 60.0
"""Seconds that the end of a run waits for W&B; WANDB_FINISH_TIMEOUT sets another number."""

UPLOADING = 600.0
"""The same for `bench mirror`, where nothing but the upload is waited for."""

DECIDED = {f"WANDB_{name}" for name in ("DISABLED", "RUN_ID", "RESUME", "TAGS", "JOB_TYPE", "CONSOLE", "REINIT")}
DECIDED |= set(VARIABLES.values())
"""W&B's variables that the child does not see: what they say reaches it as arguments."""

GRACE = 2.0
"""Seconds beyond that, in which the child ends itself."""


class Mirror:
    """The mirror of one run; as a context, it is closed with the exit code that the run ends with.

    Parameters
    ----------
    options : MirrorOptions
        With mode ``off`` nothing ever happens.
    say : callable
        Prints a line for the user.
    waits : float, optional
        Seconds that `close` waits at most.
    warn : bool, optional
        Whether the user is warned when W&B does not have everything.

    Attributes
    ----------
    options : MirrorOptions
    failure : str
        Why W&B does not have everything; empty as long as all is well.
    silent : bool
        Whether the reason is that W&B did not do its part in time.
    """

    def __init__(self, options: MirrorOptions, say: Callable[[str], None], waits: float = PATIENCE, warn: bool = True):
        self.options = options
        self.failure = ""
        self.silent = False
        self._say = say
        self._waits = waits
        self._warn = warn
        self._directory = Path()
        self._child: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._done = False

    def start(self, directory: Path, live: bool = True) -> None:
        """Start to mirror a run directory.

        Parameters
        ----------
        directory : Path
            The run directory; it has its config.yaml and identity.json already.
        live : bool, optional
            Whether this process is the run, whose load is then recorded too.
        """
        if self.options.note and first_time("wandb-login"):
            self._say(f"note: {self.options.note}")
        if self.options.mode == "off":
            return
        self._directory = directory.resolve()
        words = [str(self._directory), str(self._waits), *([str(os.getpid())] if live else [])]
        try:
            home = folder(directory)
            for path in (home, home / "data", home / "cache"):
                check_folder(path)
            home.mkdir(exist_ok=True)
            save_state(directory, self._state(load_state(directory)))
            with opened(home / "mirror.log", "ab") as log, _shielded():
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "bench.tracking.mirror_process", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self._environment(),
                    start_new_session=True,
                )
        except OSError as error:
            self._fail(f"{error.filename}: {why(error)}" if error.filename else str(error))
            return
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def close(self, code: int, preempted: bool = False) -> None:
        """Report the end of the run to W&B, and wait for a bounded time until W&B has everything.

        Parameters
        ----------
        code : int
            The exit code of the run.
        preempted : bool, optional
            Whether the run was stopped to be continued later.
        """
        child, self._child = self._child, None
        if child is None or self._listener is None:
            return
        assert child.stdin is not None
        try:
            with contextlib.suppress(OSError):  # it has failed; the listener knows why
                child.stdin.write(json.dumps({"exit_code": code, "preempted": preempted}) + "\n")
                child.stdin.close()
            if child.wait(self._waits + GRACE) == GAVE_UP:
                self.silent = True
                self._fail(f"not done {self._waits:g} s after the end of the run")
        except subprocess.TimeoutExpired:
            self.silent = True
            self._fail(f"not ended {self._waits:g} s after the end of the run")
        except KeyboardInterrupt:
            self._fail("interrupted")
            raise
        finally:
            child.kill()
            child.wait()
        self._listener.join()
        if not self._done:
            self._fail("it ended early")

    def __enter__(self) -> Mirror:
        """Return the mirror, which may be started already or later."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the mirror with the exit code that an error means."""
        code = exit_code(error)
        # Signals with which a scheduler announces the end; Ctrl-C is the user's.
        self.close(code, preempted=is_interruption(code) and code != 128 + signal.SIGINT)

    def _state(self, before: MirrorState | None) -> MirrorState:
        """Return the state to start with: the id of the W&B run, kept for good, and what it is to be called.

        Under an agent of a W&B sweep the run is the agent's, whatever was mirrored before.
        """
        given = os.environ.get("WANDB_RUN_ID")
        id = (given if os.environ.get("WANDB_SWEEP_ID") else None) or (before.id if before else given)
        state = before if before is not None and before.id == id else MirrorState(id or secrets.token_hex(4))
        for key in ("project", "entity", "group", "name", "tags", "weights"):
            setattr(state, key, getattr(self.options, key))
        return state

    def _environment(self) -> dict[str, str]:
        """Return the child's environment: wandb keeps everything in the run directory, and sends to its server only."""
        home = folder(self._directory)
        variables = {key: value for key, value in os.environ.items() if key not in _decided()}
        base_url = settings_files().get("base_url")
        chosen = {
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
            "WANDB_DATA_DIR": str(home / "data"),
            "WANDB_CACHE_DIR": str(home / "cache"),
            **({"WANDB_BASE_URL": base_url} if base_url else {}),
        }
        for key, value in chosen.items():
            variables.setdefault(key, value)
        # This process may have found the package through sys.path, which a child does not inherit.
        path = [str(Path(bench.__file__).parent.parent), *filter(None, [variables.get("PYTHONPATH")])]
        variables.update(WANDB_MODE=self.options.mode, WANDB_DIR=str(self._directory), PYTHONPATH=os.pathsep.join(path))
        return variables

    def _listen(self) -> None:
        """Say where the run is to be seen, once that is known, and what goes wrong."""
        assert self._child is not None and self._child.stdout is not None
        troubled = False
        for line in self._child.stdout:
            message = json.loads(line)
            if "url" in message:
                self._print(f"W&B: {message['url']}")
            elif "folder" in message:
                self._print(f'W&B, offline: "wandb sync {message["folder"]}" uploads it')
            elif "trouble" in message and not troubled:
                troubled = True
                self._print(f"note: W&B cannot be reached ({message['trouble']}); the run continues and tries it again")
            elif "note" in message:
                self._print(f"note: {message['note']}")
            elif "failure" in message:
                self._fail(message["failure"])
            self._done = self._done or "done" in message

    def _fail(self, reason: str) -> None:
        """Say once that W&B does not have everything, and what to do."""
        known, self.failure = self.failure, self.failure or reason
        if self._warn and not known:
            where = self._directory
            self._print(
                f"warning: W&B does not have everything of this run ({reason}; see {folder(where) / 'mirror.log'}); "
                f"the record in {where} is complete; upload it later with: python -m bench mirror {where}"
            )

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads standard output any more; that must not end the listener
            self._say(text)


def _decided() -> set[str]:
    """Return the variables that are decided on before the child starts; wandb would stumble over an odd one again.

    Under an agent of a W&B sweep wandb itself takes project, entity and id from the agent's variables.
    """
    of_agent = {"WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_ID"}
    return DECIDED - of_agent if os.environ.get("WANDB_SWEEP_ID") else DECIDED


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Let a process that is started in here never see `INTERRUPTIONS`, not even while it is starting.

    Signals for this process wait until the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_code(error: BaseException | None) -> int:
    """Return the exit status of a process that ends with an error, as the command line has it.

    Parameters
    ----------
    error : BaseException or None
        None is a good end.

    Returns
    -------
    int
    """
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, Stopped):
        return 128 + error.signum
    statuses: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130, BrokenPipeError: 141}
    return next((status for kind, status in statuses.items() if isinstance(error, kind)), 1)


def patience(seconds: float = PATIENCE) -> float:
    """Return how many seconds W&B is waited for, if WANDB_FINISH_TIMEOUT does not say another number."""
    try:
        return max(0.1, float(os.environ["WANDB_FINISH_TIMEOUT"]))
    except (KeyError, ValueError):
        return seconds


def mirror_of(resolved: Resolved, say: Callable[[str], None]) -> Mirror:
    """Return the mirror that a run's settings ask for.

    Parameters
    ----------
    resolved : Resolved
        The settings.
    say : callable
        Prints a line for the user.

    Returns
    -------
    Mirror

    Raises
    ------
    UserError
        If W&B is to be online and there is no login.
    """
    classes = {"method": resolved.method_class, "stream": resolved.stream_class, "model": resolved.model_class}
    return Mirror(mirror_options(resolved.flat, resolved.sources, symbols_of(classes)), say, patience())


def mirror_finished(mirror: Mirror, directory: Path) -> None:
    """Show a run that was finished before in the W&B run that an agent of a sweep has just opened for it.

    Parameters
    ----------
    mirror : Mirror
        Not started yet.
    directory : Path
        The directory of the finished run.
    """
    if os.environ.get("WANDB_SWEEP_ID") and mirror.options.mode == "online":
        mirror.start(directory, live=False)
        mirror.close(0)

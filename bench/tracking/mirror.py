"""Weights & Biases: whether and as what a run is mirrored there, and the process that does it.

The run directory is the truth. A child process (bench/tracking/mirror_process.py) follows its files and hands them to W&B; a run starts
it and, at its end, waits for it for a bounded time. So nothing that happens to the network, the server or the folder
``wandb/`` stops a run or slows it down, and nothing of wandb happens in its process.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import netrc
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import bench
from bench.config.fields import build, show
from bench.config.fingerprint import decides
from bench.config.resolve import read
from bench.config.run_settings import CHOICES, Resolved, Track, run_settings
from bench.core.errors import UserError
from bench.core.files import is_finished
from bench.core.signals import INTERRUPTIONS, Stopped, is_interruption
from bench.tracking.mirror_process import GAVE_UP, folder, load_state, read_json, save_state

PATIENCE = 60.0
"""Seconds that the end of a run waits for W&B; WANDB_FINISH_TIMEOUT sets another number."""

GRACE = 2.0
"""Seconds beyond that, in which the child ends itself."""

HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Hosts of W&B's own server, under which a login may be stored."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of W&B for one run.

    Attributes
    ----------
    mode : str
        ``online``, ``offline`` or ``off``.
    note : str
        What the user should know of the mode, if anything.
    entity : str or None
        None is the one of the login.
    """

    mode: str
    note: str
    project: str
    entity: str | None
    group: str
    name: str
    tags: list[str]
    weights: bool


def wanted(flat: Mapping[str, Any], sources: Mapping[str, str]) -> Wanted:
    """Decide whether and as what a run is mirrored; what the user sets wins over W&B's environment variables.

    Parameters
    ----------
    flat, sources : mapping
        As in `Resolved`: dotted key to value, and to where the value comes from.

    Raises
    ------
    UserError
        If W&B is to be online and there is no login.
    """
    track: Track = build(Track, dict(flat), "track.")
    files = settings_files()
    mode, note = _mode(track.wandb, files)

    def first(key: str, variable: str, *others: Any) -> Any:
        given = flat[f"track.{key}"] if sources.get(f"track.{key}") == "user" else None
        return next((one for one in (given, os.environ.get(variable), *others) if one), None)

    return Wanted(
        mode=mode,
        note=note,
        project=first("project", "WANDB_PROJECT", files.get("project"), track.project),
        entity=first("entity", "WANDB_ENTITY", files.get("entity")),
        group=first("group", "WANDB_RUN_GROUP", f"{flat['method.name']} {flat['stream.name']}"),
        name=first("name", "WANDB_NAME", run_name(flat, sources)),
        tags=track.tags or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag],
        weights=track.weights,
    )


def run_name(flat: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """A readable name, such as ``keeplora-r16-pocket-s0``: the method, what the user set, the stream, the seed."""
    names = {f"{kind}.name" for kind in CHOICES}
    special = []
    for key, value in flat.items():
        if sources.get(key) == "user" and decides(key) and key not in names and not key.endswith("_sha256"):
            word = key.rpartition(".")[2]
            special.append(f"{'r' if word == 'rank' else word}{show(value)}")
    model = [flat["model.name"]] if sources.get("model.name") == "user" else []
    words = [flat["method.name"], *special, *model, flat["stream.name"], f"s{flat['seed']}"]
    return re.sub(r"[^\w.,=-]+", "-", "-".join(words))[:128]


def _mode(asked: str, files: Mapping[str, str]) -> tuple[str, str]:
    """``online``, ``offline`` or ``off``, and what to say about it."""
    setting = f"track.wandb={asked}"
    if asked == "auto":
        standing = os.environ.get("WANDB_MODE") or files.get("mode") or ""
        if standing in ("offline", "dryrun"):
            return "offline", ""
        if standing == "disabled":
            return "off", ""
        if standing in ("online", "run", "shared"):
            asked, setting = "online", f"WANDB_MODE={standing}"
    if asked in ("off", "offline"):
        return asked, ""
    if logged_in(files):
        return "online", ""
    if asked == "online":
        raise UserError(
            f'{setting} needs a W&B login: call "wandb login", set WANDB_API_KEY or choose track.wandb=offline'
        )
    return "off", 'not mirrored in W&B, for want of a login: call "wandb login" or choose track.wandb=offline (or off)'


def logged_in(files: Mapping[str, str]) -> bool:
    """Whether there are credentials where wandb looks for them: environment, netrc, settings file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or files.get("api_key"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or files.get("base_url") or f"https://{HOSTS[0]}").netloc
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            known = netrc.netrc(Path(place).expanduser())
        except (OSError, netrc.NetrcParseError):
            continue
        return any(known.authenticators(name) for name in (HOSTS if host in HOSTS else [host]))
    return False


def settings_files() -> dict[str, str]:
    """What W&B's own settings files say, the folder's above the user's: server, mode, project, entity."""
    found: dict[str, str] = {}
    home = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for place in (Path(home).expanduser(), Path(os.environ.get("WANDB_DIR") or ".") / "wandb"):
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(place / "settings", encoding="utf-8")
            found.update(parser["default"] if parser.has_section("default") else {})
    return found


def patience() -> float:
    """Seconds that the end of a run waits for W&B."""
    try:
        return max(0.1, float(os.environ["WANDB_FINISH_TIMEOUT"]))
    except (KeyError, ValueError):
        return PATIENCE


def exit_code(error: BaseException | None) -> int:
    """The exit status of a process that ends with an error, as the command line has it."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, Stopped):
        return 128 + error.signum
    return {UserError: 2, KeyboardInterrupt: 130}.get(type(error), 1)


class Mirror:
    """The mirror of one run; as a context, it is closed with the exit code that the run ends with.

    Parameters
    ----------
    wanted : Wanted
        With mode ``off`` nothing ever happens.
    say : callable
        Prints a line for the user.
    waits : float, optional
        Seconds that `close` waits at most; None waits until W&B has everything.
    warn : bool, optional
        Whether the user is told that W&B has not everything; `failure` says it in any case, empty where all is well.
    """

    def __init__(self, wanted: Wanted, say: Callable[[str], None], waits: float | None = None, warn: bool = True):
        self.wanted = wanted
        self.failure = ""
        self._say = say
        self._waits = waits
        self._warn = warn
        self._directory = Path()
        self._child: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._done = False

    def start(self, directory: Path, live: bool = True) -> None:
        """Start to mirror a run directory, which has its config.yaml and identity.json by now.

        Parameters
        ----------
        live : bool, optional
            Whether this process is the run, whose load is then recorded too.
        """
        if self.wanted.note:
            self._say(f"note: {self.wanted.note}")
        if self.wanted.mode == "off":
            return
        self._directory = directory.resolve()
        words = [str(self._directory), str(self._waits or 0), *([str(os.getpid())] if live else [])]
        try:
            folder(directory).mkdir(exist_ok=True)
            save_state(directory, self._state(load_state(directory)))
            with (folder(directory) / "mirror.log").open("a", encoding="utf-8") as log, _shielded():
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
            self._fail(str(error))
            return
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def close(self, code: int, preempted: bool = False) -> None:
        """Tell that the run has ended, and wait for a bounded time until W&B has everything.

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
            with contextlib.suppress(OSError):  # it has failed, as the listener is told
                child.stdin.write(json.dumps({"exit_code": code, "preempted": preempted}) + "\n")
                child.stdin.close()
            if child.wait(None if self._waits is None else self._waits + GRACE) == GAVE_UP:
                self._fail(f"not done {self._waits:g} s after the end of the run")
        except subprocess.TimeoutExpired:
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
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        code = exit_code(error)
        # A signal that a scheduler gives notice with, turned into an exit status.
        self.close(code, preempted=is_interruption(code) and code != 128 + signal.SIGINT)

    def _state(self, before: dict[str, Any]) -> dict[str, Any]:
        """The content of ``wandb/state.json``: the id of the W&B run, kept for good, and what is wanted of it.

        Under an agent of a sweep the run is the agent's, whatever was mirrored before.
        """
        given = os.environ.get("WANDB_RUN_ID")
        id = (given if os.environ.get("WANDB_SWEEP_ID") else None) or before.get("id") or given or secrets.token_hex(4)
        kept = before if before.get("id") == id else {"id": id, "rows": 0}
        plan = {key: value for key, value in asdict(self.wanted).items() if key not in ("mode", "note")}
        return {**kept, **plan}

    def _environment(self) -> dict[str, str]:
        """What the child sees: wandb keeps everything in the run directory, and reports to nobody but the server."""
        home = folder(self._directory)
        found = dict(os.environ)
        base_url = settings_files().get("base_url")
        chosen = {
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
            "WANDB_DATA_DIR": str(home / "data"),
            "WANDB_CACHE_DIR": str(home / "cache"),
            **({"WANDB_BASE_URL": base_url} if base_url else {}),
        }
        for key, value in chosen.items():
            found.setdefault(key, value)
        # The checkout is not on the path of a child where this process was told of it in another way.
        path = [str(Path(bench.__file__).parent.parent), *filter(None, [found.get("PYTHONPATH")])]
        found.update(WANDB_MODE=self.wanted.mode, WANDB_DIR=str(self._directory), PYTHONPATH=os.pathsep.join(path))
        return found

    def _listen(self) -> None:
        """Say where the run is to be seen, once that is known, and what goes wrong."""
        assert self._child is not None and self._child.stdout is not None
        troubled = False
        for line in self._child.stdout:
            told = json.loads(line)
            if "url" in told:
                self._tell(f"W&B: {told['url']}")
            elif "folder" in told:
                self._tell(f'W&B, offline: "wandb sync {told["folder"]}" uploads it')
            elif "trouble" in told and not troubled:
                troubled = True
                self._tell(f"note: W&B is not reached ({told['trouble']}); the run goes on, and it is tried again")
            elif "failure" in told:
                self._fail(told["failure"])
            self._done = self._done or "done" in told

    def _fail(self, reason: str) -> None:
        """Say once that W&B has not everything, and what to do."""
        known, self.failure = self.failure, self.failure or reason
        if self._warn and not known:
            where = self._directory
            self._tell(
                f"warning: W&B has not everything of this run ({reason}; see {folder(where) / 'mirror.log'}); the "
                f"record is whole in {where}; upload it later with: python -m bench mirror {where}"
            )

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a reader that has gone is no trouble of the listener's
            self._say(text)


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """A process started in here never sees `INTERRUPTIONS`, not even while it is starting; those for this one wait."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mirror_of(resolved: Resolved, say: Callable[[str], None]) -> Mirror:
    """The mirror that a run's settings ask for.

    Raises
    ------
    UserError
        If W&B is to be online and there is no login.
    """
    return Mirror(wanted(resolved.flat, resolved.sources), say, patience())


def mirror_finished(mirror: Mirror, directory: Path) -> None:
    """Show a run that was finished before in the W&B run that an agent of a sweep has just opened for it."""
    if os.environ.get("WANDB_SWEEP_ID") and mirror.wanted.mode == "online":
        mirror.start(directory, live=False)
        mirror.close(0)


def upload(directory: Path, given: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Mirror a record that is on disk; what W&B has of it already is not sent again.

    Parameters
    ----------
    given : mapping
        Values of settings by dotted key, such as ``track.wandb``, in the place of those that the run was made with.

    Raises
    ------
    UserError
        If the folder is no record, there is no login, or W&B does not take it.
    """
    settings = read_json(directory / "identity.json").get("settings")
    if not settings:
        raise UserError(f"{directory} is no record of a run, or has no identity.json: name a folder below runs/")
    defaults = {key: one.default for key, one in run_settings().items() if key.startswith("track.")}
    flat = {**defaults, **{key: entry["value"] for key, entry in settings.items()}}
    # What kept the run itself from W&B does not keep it from there now.
    flat.update({"track.wandb": "auto", **given})
    sources = {**{key: entry["source"] for key, entry in settings.items()}, **dict.fromkeys(given, "user")}
    plan = wanted(flat, sources)
    if plan.mode == "off":
        plan = wanted({**flat, "track.wandb": "online"}, sources)
    waits = patience() if os.environ.get("WANDB_FINISH_TIMEOUT") else None
    mirror = Mirror(plan, say, waits, warn=False)
    mirror.start(directory, live=False)
    mirror.close(0 if is_finished(directory) else 1)
    if mirror.failure:
        raise UserError(f"{directory} is not in W&B ({mirror.failure}): see {folder(directory) / 'mirror.log'}")


def upload_all(paths: Sequence[Path], pairs: Sequence[str], say: Callable[[str], None]) -> None:
    """`upload` of the run directories among and below some folders.

    Parameters
    ----------
    pairs : sequence of str
        Words such as ``track.wandb=offline``.

    Raises
    ------
    UserError
        As `upload`, when all have been tried; also if a word is no setting of ``track``.
    """
    from bench.compare.runs import find

    known = {key: one for key, one in run_settings().items() if key.startswith("track.")}
    given = {}
    for key, (value, raw) in read(pairs, []).items():
        if key not in known:
            raise UserError(f'mirror takes settings of track only, not "{key}": as in track.wandb=offline')
        try:
            given[key] = known[key].convert(value, raw)
        except ValueError as error:
            raise UserError(f"{key}={raw} {error}") from None
    found = find(paths)
    if not found:
        raise UserError(f"there is no record of a run in {', '.join(map(str, paths))}: name a run directory")
    problems = []
    for directory in found:
        say(f"{directory}")
        try:
            upload(directory, given, say)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))

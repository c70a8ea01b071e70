"""Entry point of a run: checks that need no torch, device and kernels, finished runs left alone.

The run itself is a `bench.runs.session.Session`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.compare.ranking import standing
from bench.compute.device import choose_device, is_out_of_memory, kernels
from bench.compute.world import joined, world
from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.run_settings import NAMED, REFERENCE, Resolved
from bench.core.console import say
from bench.core.errors import UserError
from bench.core.paths import is_folder
from bench.core.stopwatch import Stopwatch
from bench.core.untrusted import why
from bench.data.stream import Stream
from bench.learning.method import Method
from bench.learning.observers import Observers
from bench.metrics.render import render
from bench.record.flags import flags_of
from bench.record.guard import check_names
from bench.record.json_file import read_object
from bench.record.provenance import code_identity, data_identity
from bench.record.results import read_matrix
from bench.record.schema import BATCHES, IDENTITY, SUMMARY, Summary
from bench.runs.parts import load_reference, load_stream
from bench.tracking.mirror import Mirror, mirror_finished, mirror_of

if TYPE_CHECKING:
    import torch


def run(resolved: Resolved, command: Sequence[str] = (), observers: Observers | None = None) -> Path:
    """Run a method on a stream and write the record; leave a finished run alone.

    Parameters
    ----------
    resolved : Resolved
        The settings.
    command : sequence of str, optional
        The command line, for the record.
    observers : Observers, optional
        Who listens to what is computed.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    UserError
        For everything that a user can correct.
    """
    observers = observers or Observers()
    directory = run_directory(resolved)
    _check_plugins(resolved)
    mirror = mirror_of(resolved, say)
    if _finished(directory):
        _repeat(directory, resolved, observers)
        if world().leads:
            mirror_finished(mirror, directory)
        _stand(directory)
        return directory
    check_names(directory)
    device, processes = choose_device(resolved.run.device), world()
    if resolved.run.precision == "tf32" and device.type != "cuda":
        raise UserError(f"precision=tf32 is arithmetic of CUDA devices and this run uses {device.type}: choose another")
    if processes.size > resolved.run.train.batch_size:
        raise UserError(
            f"{processes.size} processes share batches of train.batch_size={resolved.run.train.batch_size}: start fewer"
        )
    try:
        with kernels(resolved.run, device), joined(processes, device), mirror:
            _run(resolved, command, directory, device, mirror, observers)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the {device.type} ran out of memory: lower train.batch_size and evaluate.batch_size, or choose a smaller "
            "model (each makes another run); where there is more memory the same line continues this one"
        ) from error
    _stand(directory)
    return directory


def _finished(directory: Path) -> bool:
    """Return whether a run directory holds a finished run.

    Raises
    ------
    UserError
        If its summary.json is damaged: the run was finished, and making it again would remove what is left of it.
    """
    try:
        summary = Summary.read(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise _damaged(directory / SUMMARY, error) from error
    if not summary.finished:
        raise _damaged(directory / SUMMARY, ValueError(f'its "status" is "{summary.status}"'))
    return True


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} of a finished run cannot be read ({why(error)}): move {path.parent} away to run again")


def _stand(directory: Path) -> None:
    """Say where a finished run stands among those beside it, if there are any."""
    if world().leads and (line := standing(directory)):
        say(line)


def _check_plugins(resolved: Resolved) -> None:
    """Refuse what is wrong before data or model are loaded."""
    settings = resolved.run
    for kind, cls, base in (("method", resolved.method_class, Method), ("stream", resolved.stream_class, Stream)):
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise UserError(f"{kind} {getattr(settings, kind)} is no subclass of bench.api.{base.__name__}")
    learns_from_it = flags_of(resolved.method_class, resolved.method_settings).outside_data == REFERENCE
    if learns_from_it and settings.reference.name is None:
        sets = registry.entries("dataset").values()
        known = [f"reference={one.name}" for one in sets if one.facts.get("kind") == "reference"]
        raise UserError(
            f"method {settings.method} learns from a reference set: add reference=NAME, a dataset or a folder of "
            "images that are not of the stream" + (f"; {' or '.join(known)} is at hand" if known else "")
        )
    if settings.reference.name is not None and not learns_from_it:
        raise UserError(
            f"method {settings.method} learns from no reference set with these settings: leave reference= out"
        )
    for key, digest in resolved.flat.items():
        if digest == "" and key.endswith("_sha256") and key.startswith(tuple(f"{kind}." for kind in NAMED)):
            path = key.removesuffix("_sha256")
            raise UserError(f"{path}={resolved.flat[path]} is not there or cannot be read: give a file or a folder")
    if settings.data is not None and not is_folder(Path(settings.data).expanduser()):
        raise UserError(f"data={settings.data} is no folder: give the folder that holds the datasets")


def _repeat(directory: Path, resolved: Resolved, observers: Observers) -> None:
    """Show a finished run again, unless its data are not those of this line.

    Raises
    ------
    UserError
        If the record was made from other images, class names, prompts or tasks, or does not say from which.
    """
    try:
        stored = read_object(directory / IDENTITY)
    except (OSError, ValueError) as error:
        raise _damaged(directory / IDENTITY, error) from error
    stream = load_stream(resolved)
    reference, validation = load_reference(resolved, stream), resolved.method_class.validation
    for key, value in data_identity(stream, stream.tasks, reference, validation).items():
        if stored.get(key) != value:
            raise UserError(
                f"{directory} holds a finished run with another {key} than this line would have: move it away or "
                "choose another folder with out=DIR"
            )
    unrecorded = resolved.run.batches.record and not (directory / BATCHES).exists()
    if unrecorded or observers:
        raise UserError(
            f"{directory} holds a finished run, which is not made again for batches.record or for listeners: move it "
            "away or choose another folder with out=DIR"
        )
    say(f"already done: {directory}")
    if any(stored.get(key) != value for key, value in code_identity(resolved).items()):
        say("note: it was made with another state of the code; move it away to run again")
    say(render(read_matrix(directory)))


def _run(
    resolved: Resolved,
    command: Sequence[str],
    directory: Path,
    device: torch.device,
    mirror: Mirror,
    observers: Observers,
) -> None:
    # torch and the model come with these: whatever needs neither has been said before.
    from bench.runs.loading import introduce, load_parts
    from bench.runs.session import Session

    watch = Stopwatch()
    with watch.phase("load"):
        parts = load_parts(resolved, device)
    introduce(resolved, parts, device)
    session = Session(resolved, parts, directory, device, watch, observers)
    stop, record = session.stop, session.record
    # Only now, when everything that may be wrong has been looked at: a mistake leaves no run directory behind.
    with stop.listening(), record.held(stop.check):
        if _finished(directory):  # by another process, while this one was loading
            _repeat(directory, resolved, observers)
            return
        session.start_or_continue(command)
        if session.world.leads:
            mirror.start(directory)
        session.go()

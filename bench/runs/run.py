"""A line carried out: what can be told before anything is loaded, device and kernels, finished runs left alone.

The run itself is a `bench.runs.session.Session`.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.config.resolve import Resolved, run_directory
from bench.core.errors import UserError
from bench.core.files import is_finished
from bench.runs.parts import load_stream
from bench.learning.method import Method
from bench.metrics.scalars import AccuracyMatrix
from bench.compute.world import joined, world
from bench.core.console import say
from bench.record.record import BATCHES, code_identity, data_identity
from bench.runs.session import Session
from bench.compare.ranking import standing
from bench.data.stream import Stream
from bench.tracking.mirror import Mirror, mirror_finished, mirror_of


def choose_device(wanted: str) -> torch.device:
    """The device a run uses; ``auto`` is CUDA where there is one, else the CPU (MPS only when asked for).

    Raises
    ------
    UserError
        If the wanted device is not there.
    """
    place = world()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = "cuda" if available["cuda"] else "cpu"
    if not available[wanted]:
        raise UserError(f"device={wanted} is not available on this machine: choose device=auto or device=cpu")
    if wanted == "cuda" and place.size > 1:  # each process has one of its own
        return torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return torch.device(wanted)


@contextmanager
def deterministic(threads: int | None, tf32: bool = False) -> Iterator[None]:
    """Deterministic kernels, and a thread count if one is given, for the time of a run; restored afterwards.

    On CUDA an operation without a deterministic kernel warns and goes on: refusing it would refuse the run.

    Parameters
    ----------
    tf32 : bool
        Whether CUDA may round the factors of fp32 products to TF32.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_num_threads(),
    )
    # cuBLAS is deterministic only with a fixed workspace, which it reads from the environment at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[2:4]
        torch.set_num_threads(before[4])


def run(resolved: Resolved, command: Sequence[str] = ()) -> Path:
    """Run a method on a stream and write the record; a finished run is left alone.

    Parameters
    ----------
    resolved : Resolved
        The settings.
    command : sequence of str
        The command line, for the record.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    UserError
        For everything a user can mend.
    """
    directory = run_directory(resolved)
    _check_plugins(resolved)
    mirror = mirror_of(resolved, say)
    if is_finished(directory):
        _repeat(directory, resolved)
        if world().leads:
            mirror_finished(mirror, directory)
        _stand(directory)
        return directory
    device, place = choose_device(resolved.run.device), world()
    tf32 = resolved.run.precision == "tf32"
    if tf32 and device.type != "cuda":
        raise UserError(f"precision=tf32 is arithmetic of CUDA devices and this run uses {device.type}: choose another")
    if place.size > resolved.run.train.batch_size:
        raise UserError(
            f"{place.size} processes share batches of train.batch_size={resolved.run.train.batch_size}: start fewer"
        )
    try:
        with deterministic(resolved.run.threads, tf32), joined(place, device), mirror:
            _run(resolved, command, directory, device, mirror)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(
            f"the {device.type} ran out of memory: lower train.batch_size and evaluate.batch_size, or choose a smaller "
            "model (each makes another run); where there is more memory the same line continues this one"
        ) from error
    _stand(directory)
    return directory


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on CUDA an error of its own, on the CPU a `RuntimeError` or, outside of torch, a
    `MemoryError`."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _stand(directory: Path) -> None:
    """Say where a finished run stands among those beside it, if there are any."""
    if world().leads and (told := standing(directory)):
        say(told)


def _check_plugins(resolved: Resolved) -> None:
    """What can be told before data or model are loaded."""
    settings = resolved.run
    for kind, cls, base in (("method", resolved.method_class, Method), ("stream", resolved.stream_class, Stream)):
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise UserError(f"{kind} {getattr(settings, kind)} is no subclass of {base.__module__}.{base.__name__}")
    if settings.data is not None and not Path(settings.data).expanduser().is_dir():
        raise UserError(f"data={settings.data} is no folder: give the folder that holds the datasets")


def _repeat(directory: Path, resolved: Resolved) -> None:
    """Show a finished run again, unless its data are not those of this line.

    Raises
    ------
    UserError
        If the record was made from other images, class names, prompts or tasks, or does not say from which.
    """
    try:
        stored = dict(json.loads((directory / "identity.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{directory / 'identity.json'} of a finished run cannot be read: move {directory} away to run anew"
        ) from error
    stream = load_stream(resolved)
    for key, value in data_identity(stream, stream.tasks).items():
        if stored.get(key) != value:
            raise UserError(
                f"{directory} holds a finished run with another {key} than this line would have: move it away or "
                "choose another folder with out=DIR"
            )
    unrecorded = resolved.run.batches.record and not (directory / BATCHES).exists()
    if unrecorded or bool(getattr(resolved.method_settings, "dump", None)):
        raise UserError(
            f"{directory} holds a finished run, which is not made again for batches.record or method.dump: move it "
            "away or choose another folder with out=DIR"
        )
    say(f"already done: {directory}")
    if any(stored.get(key) != value for key, value in code_identity(resolved).items()):
        say("note: it was made with another state of the code; move it away to run anew")
    say(AccuracyMatrix.from_csv(directory / "accuracy.csv").render())


def _run(resolved: Resolved, command: Sequence[str], directory: Path, device: torch.device, mirror: Mirror) -> None:
    session = Session(resolved, directory, device)
    stop, record = session.stop, session.record
    # Only now, when everything that may be wrong has been looked at: a mistake leaves no run directory behind.
    with stop.listening(), record.held(stop.check):
        if is_finished(directory):  # by another process, while this one was loading
            _repeat(directory, resolved)
            return
        session.start_or_continue(command)
        if session.world.leads:
            mirror.start(directory)
        session.go()

"""A whole run: the tasks in order, one row of the accuracy matrix after each, and the record on disk."""

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import metrics
from bench.clip import Clip, load_open_clip
from bench.config import Resolved, Train, fingerprint, run_directory
from bench.errors import UserError
from bench.evaluate import evaluate_row
from bench.method import Context, Method, TaskData
from bench.metrics import AccuracyMatrix
from bench.pixels import PixelStore
from bench.progress import bar
from bench.task import Stream, Task
from bench.track import Record, is_finished, peak_memory_mb, unwritable
from bench.train import EpochReport, fit

DECODED_BYTES = 2**30
"""Decoded images kept in memory at most; larger sets are decoded on every pass."""


class Stopwatch:
    """Seconds spent in each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time in here as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start


def choose_device(wanted: str) -> torch.device:
    """The device a run uses: CUDA before MPS before the CPU for ``auto``.

    Raises
    ------
    UserError
        If the wanted device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[wanted]:
        raise UserError(f"device={wanted} is not available on this machine: choose device=auto or device=cpu")
    return torch.device(wanted)


@contextmanager
def deterministic(threads: int | None) -> Iterator[None]:
    """Deterministic kernels, and a thread count if one is given, for the time of a run; restored afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    # cuBLAS is deterministic only with a fixed workspace, which it reads from the environment at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


def load_model(resolved: Resolved) -> Clip:
    """The model of a run, on the CPU: a registered one, or one of open_clip's."""
    if resolved.model_class is not None:
        return resolved.model_class().load(resolved.model_settings)
    settings = resolved.model_settings
    return load_open_clip(resolved.run.model, settings.checkpoint, settings.weights, resolved.run.seeds.init or 0)


def train_settings(resolved: Resolved, task: Task) -> Train:
    """The training settings of one task: the run's, with the task's own where the user said nothing."""
    own = {k: v for k, v in task.train_settings.items() if resolved.sources.get(f"train.{k}") != "user"}
    return dataclasses.replace(resolved.run.train, **own)


def say(text: str = "") -> None:
    """Print a line for the user; standard output carries results, progress bars go to standard error."""
    print(text, flush=True)


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
        For everything a user can mend: see docs/errors in the pages of streams and methods.
    """
    directory = run_directory(resolved)
    if is_finished(directory):
        say(f"already done: {directory}")
        say(AccuracyMatrix.from_csv(directory / "accuracy.csv").render())
        return directory
    assert resolved.method_class is not None
    if resolved.stream_class.label_space not in resolved.method_class.label_spaces:
        raise UserError(
            f"method {resolved.run.method} does not support the label space {resolved.stream_class.label_space!r} of "
            f"stream {resolved.run.stream}: choose another stream"
        )
    device = choose_device(resolved.run.device)
    record = Record(directory)
    try:
        with deterministic(resolved.run.threads):
            _run(resolved, command, record, device)
    except OSError as error:
        if str(getattr(error, "filename", "")).startswith(str(directory)):
            raise unwritable(directory, error) from error
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise UserError("the device ran out of memory: lower train.batch_size or evaluate.batch_size") from error
    return directory


def _run(resolved: Resolved, command: Sequence[str], record: Record, device: torch.device) -> None:
    watch = Stopwatch()
    settings = resolved.run
    with watch.phase("load"):
        stream: Stream = resolved.stream_class(resolved.stream_settings, settings.data, settings.seeds.task_order)
        tasks = stream.tasks
        if settings.evaluate.split == "validation":
            tasks = [_with_validation(task) for task in tasks]
        clip = load_model(resolved)
        record.identity(resolved, command, clip.weights_sha256(), tasks)
        clip.to(device)
        record.environment(device)
        tokens = [clip.tokenize(task.prompts) for task in tasks]
    context = Context(len(tasks), settings.train.batch_size, settings.seeds.init or 0, settings.seeds.data_order or 0)
    store = PixelStore(clip, DECODED_BYTES)
    matrix = AccuracyMatrix([task.name for task in tasks])
    trained = stored = 0

    where = f"{settings.stream} ({len(tasks)} tasks), {settings.model}, seed {settings.seed}, {device.type}"
    say(f"{settings.method} on {where}")
    with watch.phase("statistics"):
        method = resolved.method_class(resolved.method_settings, clip, context)
    with watch.phase("evaluate"):
        _measure(method, store, tasks, stream.label_space, 0, matrix, settings.evaluate.batch_size)
    _keep(matrix, record, 0)

    for index, task in enumerate(tasks):
        start = time.perf_counter()
        data = TaskData(index, task.name, task.prompts, tokens[index], store.get(task.train), context)
        with watch.phase("statistics"):
            method.begin_task(data)
        with watch.phase("train"):
            trained = max(trained, _train(method, data, train_settings(resolved, task), record, index, len(tasks)))
        with watch.phase("statistics"):
            method.end_task(data)
        stored = method.stored_numbers()
        with watch.phase("evaluate"):
            # Where the label space grows, an untrained model's accuracies change too.
            if method.trains or stream.label_space == "seen":
                _measure(method, store, tasks, stream.label_space, index + 1, matrix, settings.evaluate.batch_size)
            else:
                _reuse(matrix, index + 1)
        _keep(matrix, record, index + 1, stored_numbers=stored, seconds=round(time.perf_counter() - start, 3))
        own = f"{matrix.accuracy(index + 1, index):5.1f}"
        say(f"[{index + 1}/{len(tasks)}] {task.name:<14} accuracy {own} after {time.perf_counter() - start:5.1f} s")

    seconds = {name: round(value, 3) for name, value in {"total": watch.total(), **watch.seconds}.items()}
    record.json(
        "summary.json",
        {
            "status": "finished",
            "stream": settings.stream,
            "model": settings.model,
            "method": settings.method,
            "fingerprint": fingerprint(resolved.flat),
            "seed": settings.seed,
            "metrics": metrics.summary(matrix),
            "seconds": seconds,
            "trainable_parameters": trained,
            "stored_numbers": stored,
            "peak_memory_mb": peak_memory_mb(device),
        },
    )
    say()
    say(matrix.render())
    say(f"{seconds['total']:.0f} s, record in {record.directory}")


def _with_validation(task: Task) -> Task:
    """The task with its validation images in the place of its test images."""
    if task.validation is None:
        raise UserError(f"task {task.name} has no validation images: leave evaluate.split at test")
    return dataclasses.replace(task, test=task.validation)


def _train(method: Method, data: TaskData, train: Train, record: Record, index: int, count: int) -> int:
    """Train on one task with a progress bar and one event an epoch; returns the number of trained values."""

    def on_epoch(report: EpochReport) -> None:
        record.event("epoch", task=data.name, **dataclasses.asdict(report))

    steps = -(-len(data.train) // train.batch_size) * train.epochs
    with bar(f"[{index + 1}/{count}] {data.name}: train", steps, "step") as advance:
        return fit(method, data, train, advance, on_epoch)


def _measure(
    method: Method, store: PixelStore, tasks: Sequence[Task], kind: str, seen: int, matrix: AccuracyMatrix, batch: int
) -> None:
    """Measure one row of the matrix."""
    total = sum(-(-len(task.test) // batch) for task in tasks)
    with bar(f"after {matrix.label(seen)}: evaluate", total) as advance:
        for column, correct, count in evaluate_row(method, store, tasks, kind, seen, batch, on_batch=advance):
            matrix.set(seen, column, correct, count)


def _reuse(matrix: AccuracyMatrix, row: int) -> None:
    """Fill a row from the row before, for a method that never changes the model."""
    for column in range(len(matrix.tasks)):
        cell = matrix.cell(row - 1, column)
        assert cell.correct is not None and cell.total is not None
        matrix.set(row, column, cell.correct, cell.total, state="reused")


def _keep(matrix: AccuracyMatrix, record: Record, row: int, **values: Any) -> None:
    """Write the matrix and an event for one finished row."""
    matrix.to_csv(record.directory / "accuracy.csv")
    accuracies: Mapping[str, float] = {
        task: round(matrix.accuracy(row, column), 4)
        for column, task in enumerate(matrix.tasks)
        if matrix.state(row, column) != "missing"
    }
    record.event("row", row=row, after=matrix.label(row), accuracy=accuracies, **values)

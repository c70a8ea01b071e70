"""A whole run: the tasks in order, one row of the accuracy matrix after each, and the record on disk."""

import dataclasses
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import gate, metrics
from bench.batch_order import BatchOrder
from bench.clip import Clip, load_open_clip
from bench.config import Resolved, Run, Train, fingerprint, run_directory
from bench.errors import UserError, suggest
from bench.evaluate import evaluate_row
from bench.method import Context, Method, TaskData
from bench.metrics import AccuracyMatrix
from bench.pixel_cache import PixelCache
from bench.pixels import PixelStore
from bench.progress import bar
from bench.record import Record, code_identity, data_identity, identity, is_finished, peak_memory_mb
from bench.settings import describe
from bench.task import LABEL_SPACES, Stream, Task, ZeroShot
from bench.track import Mirror, mirror_finished, mirror_of
from bench.train import EpochReport

BATCHES = "batches.jsonl"
"""The record of the order of batches in a run directory."""

DECODED_BYTES = 2**30
"""Decoded images kept in memory at most; larger sets are decoded on every pass."""


class Stopwatch:
    """Seconds spent in each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.parts: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time in here as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time in here as `name`, a part of whatever phase it lies in."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] += time.perf_counter() - start

    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start


def choose_device(wanted: str) -> torch.device:
    """The device a run uses; ``auto`` is CUDA where there is one, else the CPU (MPS only when asked for).

    Raises
    ------
    UserError
        If the wanted device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    if not available[wanted]:
        raise UserError(f"device={wanted} is not available on this machine: choose device=auto or device=cpu")
    return torch.device(wanted)


@contextmanager
def deterministic(threads: int | None) -> Iterator[None]:
    """Deterministic kernels, and a thread count if one is given, for the time of a run; restored afterwards.

    On CUDA an operation without a deterministic kernel warns and goes on: refusing it would refuse the run.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.allow_tf32,
        torch.get_num_threads(),
    )
    # cuBLAS is deterministic only with a fixed workspace, which it reads from the environment at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.backends.cudnn.allow_tf32 = False
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.allow_tf32 = before[2]
        torch.set_num_threads(before[3])


def load_model(resolved: Resolved) -> Clip:
    """The model of a run, on the CPU: a registered one, or one of open_clip's."""
    if resolved.model_class is not None:
        clip = resolved.model_class().load(resolved.model_settings)
        if not isinstance(clip, Clip):
            raise UserError(f"model {resolved.run.model} gives no bench.clip.Clip from load(settings)")
        return clip
    settings = resolved.model_settings
    return load_open_clip(resolved.run.model, settings.checkpoint, settings.weights, resolved.run.seeds.init or 0)


def train_settings(resolved: Resolved, task: Task) -> Train:
    """The training settings of one task: the run's, with the task's own where the user said nothing.

    Raises
    ------
    UserError
        If the task's own settings are unknown or out of range.
    """
    known = {key.removeprefix("train."): one for key, one in describe(Train, "train.").items()}
    own = {}
    for key, value in task.train_settings.items():
        if key not in known:
            raise UserError(f'task {task.name} sets "train.{key}", which is no setting{suggest(key, known)}')
        try:
            own[key] = known[key].convert(value, None)
        except ValueError as error:
            raise UserError(f"task {task.name} sets train.{key}={value}: it {error}") from error
    return dataclasses.replace(
        resolved.run.train, **{k: v for k, v in own.items() if resolved.sources.get(f"train.{k}") != "user"}
    )


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
        For everything a user can mend.
    """
    directory = run_directory(resolved)
    _check_plugins(resolved)
    mirror = mirror_of(resolved, say)
    if is_finished(directory):
        _repeat(directory, resolved)
        mirror_finished(mirror, directory)
        return directory
    device = choose_device(resolved.run.device)
    try:
        with deterministic(resolved.run.threads), mirror:
            _run(resolved, command, directory, device, mirror)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError("the device ran out of memory: lower train.batch_size or evaluate.batch_size") from error
    return directory


def _check_plugins(resolved: Resolved) -> None:
    """What can be told before data or model are loaded."""
    settings = resolved.run
    for kind, cls, base in (("method", resolved.method_class, Method), ("stream", resolved.stream_class, Stream)):
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise UserError(f"{kind} {getattr(settings, kind)} is no subclass of {base.__module__}.{base.__name__}")
    space = resolved.stream_class.label_space_of(resolved.stream_settings)
    if space in LABEL_SPACES and space not in resolved.method_class.label_spaces:
        raise UserError(
            f"method {settings.method} does not support the label space {space!r} of stream {settings.stream}: choose "
            "another stream"
        )
    if settings.data is not None and not Path(settings.data).expanduser().is_dir():
        raise UserError(f"data={settings.data} is no folder: give the folder that holds the datasets")


def _load_stream(resolved: Resolved) -> Stream:
    """The stream of a run, its test images replaced by validation images if those are to be scored."""
    settings = resolved.run
    stream: Stream = resolved.stream_class(resolved.stream_settings, settings.data, settings.seeds.task_order)
    if settings.evaluate.split == "validation":
        stream.tasks = [_with_validation(task) for task in stream.tasks]
    return stream


def _is_real(resolved: Resolved) -> bool:
    """Whether the model is one of open_clip's with its weights, whose results somebody may want to compare."""
    return resolved.model_class is None and resolved.model_settings.weights != "random"


def _published_zero_shot(resolved: Resolved, stream: Stream) -> ZeroShot | None:
    """What is known of the untrained model on this stream; None where the gate is off or nothing is comparable."""
    settings = resolved.run
    comparable = settings.gate == "on" and settings.evaluate.split == "test"
    if not comparable or getattr(resolved.model_settings, "weights", "") == "random":
        return None
    return stream.zero_shot(settings.model)


def pixel_cache(settings: Run) -> PixelCache | None:
    """The cache of decoded images that the settings mean; None if they want none."""
    if settings.cache.gb == 0:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "keeplora-bench"
    return PixelCache(Path(settings.cache.dir or home).expanduser(), int(settings.cache.gb * 1e9), say)


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
    stream = _load_stream(resolved)
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
    watch = Stopwatch()
    settings = resolved.run
    with watch.phase("load"):
        stream = _load_stream(resolved)
        tasks = stream.tasks
        expected = _published_zero_shot(resolved, stream)
        if settings.gate == "on" and _is_real(resolved):
            gate.check_data(stream)
        budgets = [train_settings(resolved, task) for task in tasks]
        clip = load_model(resolved)
        weights = clip.weights_sha256()
        clip.to(device)
        tokens = [clip.tokenize(task.prompts) for task in tasks]
    replay = settings.batches.replay
    order = BatchOrder(Path(replay).expanduser() if replay else None)
    context = Context(
        len(tasks),
        settings.train.batch_size,
        settings.seeds.init or 0,
        settings.seeds.data_order or 0,
        stream.label_space,
        say,
        watch.part,
        order,
    )
    store = PixelStore(clip, DECODED_BYTES, pixel_cache(settings))
    matrix = AccuracyMatrix([task.name for task in tasks])
    most_trained = stored = 0

    where = f"{settings.stream} ({len(tasks)} tasks), {settings.model}, seed {settings.seed}, {device.type}"
    say(f"{settings.method} on {where}")
    if clip.too_long:
        say(
            f"note: {len(clip.too_long)} prompts are longer than the {clip.context_length} tokens that {clip.name} "
            f'reads and lose their end, such as "{clip.too_long[0]}"'
        )
    for note in stream.notes:
        say(f"note: {note}")
    with watch.phase("statistics"):
        method = resolved.method_class(resolved.method_settings, clip, context)
    # Only now, when everything that may be wrong has been looked at: a mistake leaves no run directory behind.
    record = Record(directory)
    record.settings(resolved)
    record.json("identity.json", identity(resolved, command, weights, data_identity(stream, tasks)))
    record.environment(device)
    mirror.start(directory)
    if settings.batches.record:
        record.text(BATCHES, "")
        order.record = lambda entry: record.line(BATCHES, entry)
    if stream.facts:
        record.json("stream.json", stream.facts)
    with watch.phase("evaluate"):
        _measure(method, store, stream, 0, matrix, settings.evaluate.batch_size)
    _keep(matrix, record, 0)
    for line in gate.check_zero_shot(matrix, expected):
        say(line)

    for index, task in enumerate(tasks):
        start = time.perf_counter()
        data = TaskData(index, task.name, task.prompts, tokens[index], store.get(task.train), context)
        with watch.phase("statistics"):
            method.begin_task(data)
        with watch.phase("train"):
            trained = _train(method, data, budgets[index], record, index, len(tasks))
        with watch.phase("statistics"):
            method.end_task(data)
        store.release(task.train)
        most_trained, stored = max(most_trained, trained), method.stored_numbers()
        with watch.phase("evaluate"):
            # Where the label space grows, the accuracies of a constant classifier change too.
            if not method.constant or stream.label_space == "seen":
                _measure(method, store, stream, index + 1, matrix, settings.evaluate.batch_size)
            else:
                _reuse(matrix, index + 1)
        took = time.perf_counter() - start
        figures = {
            "trained": trained,
            "stored_numbers": stored,
            "stored_bytes": method.stored_bytes(),
            "peak_memory_mb": peak_memory_mb(device),
            "seconds": round(took, 3),
            **method.report(),
        }
        _keep(matrix, record, index + 1, **figures)
        own = f"{matrix.accuracy(index + 1, index):5.1f}"
        nothing = "" if trained or method.constant else "  (nothing was left to train)"
        say(f"[{index + 1}/{len(tasks)}] {task.name:<14} accuracy {own} after {took:5.1f} s{nothing}")

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
            "seconds_of_parts": {name: round(value, 3) for name, value in watch.parts.items()},
            "trainable_parameters": most_trained,
            "stored_numbers": stored,
            "stored_bytes": method.stored_bytes(),
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

    steps = -(-len(data.train) // train.batch_size)

    def on_epoch(report: EpochReport) -> None:
        record.event("epoch", task=data.name, step=steps * (report.epoch + 1), **dataclasses.asdict(report))

    with bar(f"[{index + 1}/{count}] {data.name}: train", steps * train.epochs, "step") as advance:
        return method.fit(data, train, advance, on_epoch)


def _measure(method: Method, store: PixelStore, stream: Stream, seen: int, matrix: AccuracyMatrix, batch: int) -> None:
    """Measure one row of the matrix."""
    total = sum(-(-len(task.test) // batch) for task in stream.tasks)
    with bar(f"after {matrix.label(seen)}: evaluate", total) as advance:
        row = evaluate_row(method, store, stream.tasks, stream.label_space, seen, batch, advance, stream.shared_prompts)
        for column, correct, count in row:
            matrix.set(seen, column, correct, count)


def _reuse(matrix: AccuracyMatrix, row: int) -> None:
    """Fill a row from the row before, for a method that never changes the model."""
    for column in range(len(matrix.tasks)):
        cell = matrix.cell(row - 1, column)
        assert cell.correct is not None and cell.total is not None
        matrix.set(row, column, cell.correct, cell.total, state="reused")


def _keep(matrix: AccuracyMatrix, record: Record, row: int, **values: Any) -> None:
    """Write the matrix and an event for one finished row."""
    record.matrix(matrix)
    accuracies: Mapping[str, float] = {
        task: round(matrix.accuracy(row, column), 4)
        for column, task in enumerate(matrix.tasks)
        if matrix.state(row, column) != "missing"
    }
    record.event("row", row=row, after=matrix.label(row), accuracy=accuracies, **values)

"""One run from loading to its summary: the tasks in order, one row of the accuracy matrix after each.

It knows where it stands, keeps that in checkpoints, and goes on from them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.compute.device import peak_memory_mb
from bench.compute.world import world
from bench.config.fingerprint import fingerprint
from bench.config.run_settings import Resolved, Train
from bench.core.console import bar, say
from bench.core.errors import UserError
from bench.core.signals import StopRequest
from bench.core.stopwatch import Stopwatch
from bench.data.batch_order import BatchOrder, read_order
from bench.data.pixels import PixelStore
from bench.learning.evaluate import evaluate_row
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.learning.training_state import EpochReport, TrainingState
from bench.metrics import scalars as metrics
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import FILE as OUTCOMES
from bench.metrics.outcomes import Outcomes
from bench.metrics.render import render
from bench.record import checkpoint
from bench.record.checkpoint import Checkpoints, Saved
from bench.record.provenance import code_identity, data_identity, identity
from bench.record.record import Record, Witness
from bench.record.schema import BATCHES
from bench.runs import gate
from bench.runs.loading import load_model, pixel_cache, shared_results
from bench.runs.parts import is_real, load_stream, published_zero_shot, train_settings
from bench.runs.state import RunState, settle

MODEL = "model.safetensors"
"""What a finished run learned: changed weights, and the method's memory."""

DECODED_BYTES = 2**30
"""Decoded images kept in memory at most; larger sets are decoded on every pass."""


class Session:
    """One run in progress: its parts, where it stands, and how it goes on.

    Parameters
    ----------
    resolved : Resolved
    directory : Path
        The run directory; it is created by `start_or_continue`.
    device : torch.device

    Attributes
    ----------
    row : int
        The row of the matrix that is worked on: 0 is the untrained model, k the state after k tasks.
    learned : bool
        Whether the learning for that row is done.
    figures : dict of str to object
        What the record tells of that row, apart from its accuracies.
    """

    def __init__(self, resolved: Resolved, directory: Path, device: torch.device):
        self.resolved = resolved
        self.settings = settings = resolved.run
        self.device = device
        self.watch = watch = Stopwatch()
        self.world = world()
        self.stop = StopRequest()
        with watch.phase("load"):
            self.stream = stream = load_stream(resolved)
            self.tasks = stream.tasks
            self.expected = published_zero_shot(resolved, stream)
            if settings.gate == "on" and is_real(resolved):
                gate.check_data(stream)
            self.budgets = [train_settings(resolved, task) for task in self.tasks]
            self.clip = load_model(resolved)
            self.state = RunState(self.clip, self.clip.digests())
            self.weights = self.clip.weights_sha256()
            self.clip.to(device)
            self.tokens = [self.clip.tokenize(task.prompts) for task in self.tasks]
        shared = shared_results(resolved, device, watch.reuse)
        replay = settings.batches.replay
        self.order = BatchOrder(Path(replay).expanduser() if replay else None)
        self.context = Context(
            len(self.tasks),
            settings.train.batch_size,
            settings.seeds.init or 0,
            settings.seeds.data_order or 0,
            stream.label_space,
            say,
            watch.part,
            self.order,
            self.stop.check if self.world.size == 1 else (lambda: None),
            self.world,
            self.weights,
            **({} if shared is None else {"shared": shared.get}),
        )
        self.store = PixelStore(self.clip, DECODED_BYTES, pixel_cache(settings))
        self.matrix = AccuracyMatrix([task.name for task in self.tasks])
        self.outcomes = Outcomes(self.matrix.tasks)
        self.record = Record(directory) if self.world.leads else Witness(directory)
        self.checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint.every, say)
        self.row, self.learned, self.figures, self.most_trained = 0, True, dict[str, Any](), 0
        self._row_seconds, self._row_started = 0.0, watch.now()
        self._broken_off: Saved | None = None
        self._introduce()
        with watch.phase("statistics"):
            self.method: Method = resolved.method_class(resolved.method_settings, self.clip, self.context)
            settle(self.method)

    def _introduce(self) -> None:
        settings, clip = self.settings, self.clip
        where = f"{settings.stream} ({len(self.tasks)} tasks), {settings.model}, seed {settings.seed}"
        say(f"{settings.method} on {where}, {self.device.type}")
        if clip.too_long:
            say(
                f"note: {len(clip.too_long)} prompts are longer than the {clip.context_length} tokens that {clip.name} "
                f'reads and lose their end, such as "{clip.too_long[0]}"'
            )
        for note in self.stream.notes:
            say(f"note: {note}")

    # ---- beginning and continuing

    def start_or_continue(self, command: Sequence[str]) -> None:
        """Go on from the newest checkpoint if there is one, else begin the record.

        Raises
        ------
        UserError
            If the checkpoint is that of another version, other data or other weights.
        """
        record, data = self.record, data_identity(self.stream, self.tasks)
        self._decisive = [fingerprint(self.resolved.flat), self.settings.seed, self.weights, data]
        if saved := self.checkpoints.load():
            self._continue(*saved)
        else:
            record.begin()
            record.settings(self.resolved)
            record.json("identity.json", identity(self.resolved, command, self.weights, data))
            record.environment(self.device)
            if self.settings.batches.record:
                record.text(BATCHES, "")
            if self.stream.facts:
                record.json("stream.json", self.stream.facts)
        if self.settings.batches.record:
            self.order.record = lambda entry: record.line(BATCHES, entry)
        self._row_started = self.watch.now()

    def _continue(self, base: Saved, step: Saved | None = None) -> None:
        directory, values = self.record.directory, (step or base).values
        if values["version"] != checkpoint.VERSION:
            raise UserError(
                f"{directory} holds an unfinished run of another version of keeplora-bench: finish it with that "
                "version, or move it away to run anew"
            )
        if values["decisive"] != self._decisive:
            raise UserError(
                f"{directory} holds an unfinished run with other data or weights than this line has: move it away or "
                "choose another folder with out=DIR"
            )
        record = self.record
        for name, text in values["files"].items():
            if Path(name).name != name:
                raise UserError(f"{directory} has a checkpoint that would write to {name}: remove it")
            record.text(name, text)
        if values["batches"] is not None and self.world.leads:
            record.cut(BATCHES, values["batches"])
            self.order.recorded = set(read_order(directory / BATCHES))
        record.continued(self.device, code_identity(self.resolved))
        files = values["files"]
        self.matrix = AccuracyMatrix.from_text(files["accuracy.csv"], directory / "accuracy.csv")
        self.outcomes = Outcomes.from_text(files[OUTCOMES], self.matrix.tasks, directory / OUTCOMES)
        self.row, self.learned, self.figures = values["row"], values["learned"], values["figures"]
        self.most_trained, self._row_seconds = values["most_trained"], values["row_seconds"]
        self.watch.resume(values["seconds"], values["parts"], values["reused"])
        self.state.load_between_tasks(self.method, base.tensors)
        self._broken_off = step
        say(f"continuing {self._where()}")
        if values["code"] != code_identity(self.resolved):
            say("note: it was begun with another state of the code, which environment.json tells")

    def _where(self) -> str:
        if self.row == 0:
            return "before any task"
        return f"in task {self.row} of {len(self.tasks)}" if self.row <= len(self.tasks) else "after the last task"

    def save(self, training: TrainingState | None = None) -> None:
        """Keep all that the rest of the run depends on: between tasks, or with a state of training inside one."""
        if not self.world.leads:
            return
        record = self.record
        values = {
            "decisive": self._decisive,
            "code": code_identity(self.resolved),
            "row": self.row,
            "learned": self.learned,
            "figures": self.figures,
            "most_trained": self.most_trained,
            "row_seconds": self._seconds_of_row(),
            "seconds": {"total": self.watch.total(), **self.watch.seconds},
            "parts": dict(self.watch.parts),
            "reused": dict(self.watch.reused),
            "batches": record.size(BATCHES) if self.settings.batches.record else None,
        }
        with record.writing():
            # With the lines in the checkpoint itself, a file torn by a crash is mended from it.
            events = (record.directory / "metrics.jsonl").read_text(encoding="utf-8")
            values["files"] = {
                "metrics.jsonl": events,
                "accuracy.csv": self.matrix.csv(),
                OUTCOMES: self.outcomes.csv(),
            }
            if training is None:
                tensors = self.state.between_tasks(self.method)
            else:
                tensors, more = self.state.inside_task(self.method, training)
                values.update(more)
            self.checkpoints.save(tensors, values, complete=training is None)

    def _seconds_of_row(self) -> float:
        return self._row_seconds + self.watch.now() - self._row_started

    def _safe_point(self, training: Callable[[], TrainingState] | None = None, always: bool = False) -> None:
        """Where nothing is half done: keep where the run stands if it is time to, and stop if it was asked to.

        Several processes decide both together.

        Parameters
        ----------
        training : callable, optional
            Tells where training stands, inside a task.
        always : bool
            Keep it in any case.
        """
        due = int(always or (self.world.leads and self.checkpoints.due()))
        signum, due = self.world.agree([self.stop.signum or 0, due], self.device)
        self.stop.signum = signum or None
        if signum or due:
            self.save(None if training is None else training())
        self.stop.check()

    # ---- the tasks in order

    def go(self) -> None:
        """Learn and measure what is left, and finish the record."""
        count = len(self.tasks)
        while self.row <= count:
            if not self.learned:
                self._learn(self.row - 1)
                self.learned = True
                self._safe_point()
            self._measure()
            self._tell()
            self.row, self.learned, self.figures = self.row + 1, False, {}
            self._row_seconds, self._row_started = 0.0, self.watch.now()
            self._safe_point(always=True)
        self._finish()

    def _learn(self, index: int) -> None:
        task, budget, method, watch = self.tasks[index], self.budgets[index], self.method, self.watch
        train = self.store.get(task.train)
        data = TaskData(index, task.name, task.prompts, self.tokens[index], train, self.context)
        data.safe_point = self._safe_point
        with watch.phase("statistics"):
            method.begin_task(data)
        if self._broken_off is not None:
            saved, self._broken_off = self._broken_off, None
            data.resume = self.state.load_inside_task(method, saved.tensors, saved.values)
        with watch.phase("train"), self.clip.computing(self.settings.precision):
            trained = _train(method, data, budget, self.record, index, len(self.tasks))
        with watch.phase("statistics"):
            method.end_task(data)
            settle(method)
        self.store.release(task.train)
        self.most_trained = max(self.most_trained, trained)
        self.figures = {
            "trained": trained,
            "stored_numbers": method.stored_numbers(),
            "stored_bytes": method.stored_bytes(),
            "peak_memory_mb": peak_memory_mb(self.device),
            **method.report(),
        }

    def _measure(self) -> None:
        """Measure one row of the matrix: what of it is missing."""
        # Where the label space grows, the accuracies of a constant classifier change too.
        if self.row > 0 and self.method.constant and self.stream.label_space != "seen":
            _reuse(self.matrix, self.row)
            return
        batch, done = self.settings.evaluate.batch_size, _measured(self.matrix, self.row)
        todo = [task for column, task in enumerate(self.tasks) if column not in done]
        total = sum(-(-len(task.test) // batch) for task in todo)
        with (
            self.watch.phase("evaluate"),
            self.clip.computing(self.settings.precision),
            bar(f"after {self.matrix.label(self.row)}: evaluate", total) as advance,
        ):

            def on_batch() -> None:
                advance()
                self.context.may_stop()

            row = evaluate_row(
                self.method,
                self.store,
                self.tasks,
                self.stream.label_space,
                self.row,
                batch,
                on_batch,
                self.stream.shared_prompts,
                done,
            )
            for column, right in row:
                self.outcomes.set(self.row, column, right)
                self.matrix.set(self.row, column, int(right.sum()), len(right))
                self._safe_point()

    def _tell(self) -> None:
        """Record a finished row, and say how the task went."""
        row, seconds = self.row, round(self._seconds_of_row(), 3)
        figures = {**self.figures, "seconds": seconds} if row else {}
        self.record.text(OUTCOMES, self.outcomes.csv())
        _keep(self.matrix, self.record, row, **figures)
        if row == 0:
            for line in gate.check_zero_shot(self.matrix, self.expected):
                say(line)
            return
        own = f"{self.matrix.accuracy(row, row - 1):5.1f}"
        nothing = "" if figures["trained"] or self.method.constant else "  (nothing was left to train)"
        name = self.tasks[row - 1].name
        say(f"[{row}/{len(self.tasks)}] {name:<14} accuracy {own} after {seconds:5.1f} s{nothing}")

    def _finish(self) -> None:
        if not self.world.leads:
            return
        settings, record, watch, method = self.settings, self.record, self.watch, self.method
        if settings.checkpoint.final:
            values = {"version": checkpoint.VERSION, "weights_sha256": self.weights}
            with record.writing():
                content = checkpoint.pack(self.state.between_tasks(method), values)
                checkpoint.write_durable(record.directory / MODEL, content)
        seconds = {name: round(value, 3) for name, value in {"total": watch.total(), **watch.seconds}.items()}
        record.json(
            "summary.json",
            {
                "status": "finished",
                "stream": settings.stream,
                "model": settings.model,
                "method": settings.method,
                "fingerprint": fingerprint(self.resolved.flat),
                "seed": settings.seed,
                "metrics": metrics.summary(self.matrix),
                "seconds": seconds,
                "seconds_of_parts": {name: round(value, 3) for name, value in watch.parts.items()},
                "seconds_reused": {name: round(value, 3) for name, value in watch.reused.items()},
                "trainable_parameters": self.most_trained,
                "stored_numbers": method.stored_numbers(),
                "stored_bytes": method.stored_bytes(),
                "peak_memory_mb": peak_memory_mb(self.device),
            },
        )
        with record.writing():
            self.checkpoints.clear()
        say()
        say(render(self.matrix))
        say(f"{seconds['total']:.0f} s, record in {record.directory}")


def _train(method: Method, data: TaskData, train: Train, record: Record, index: int, count: int) -> int:
    """Train on one task with a progress bar and one event an epoch; returns the number of trained values."""
    steps = -(-len(data.train) // train.batch_size)

    def on_epoch(report: EpochReport) -> None:
        record.event("epoch", task=data.name, step=steps * (report.epoch + 1), **dataclasses.asdict(report))

    with bar(f"[{index + 1}/{count}] {data.name}: train", steps * train.epochs, "step") as advance:
        return method.fit(data, train, advance, on_epoch)


def _measured(matrix: AccuracyMatrix, row: int) -> list[int]:
    """The columns of a row that are measured already."""
    return [column for column in range(len(matrix.tasks)) if matrix.state(row, column) == "measured"]


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

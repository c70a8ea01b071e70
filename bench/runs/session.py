"""One run: the tasks in order, one row of the accuracy matrix after each, and checkpoints to continue from.

It is one file, because all of it acts on one state, which a checkpoint holds as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.compute.device import peak_memory_mb
from bench.compute.world import world
from bench.config.fingerprint import fingerprint
from bench.config.run_settings import Resolved
from bench.core.console import bar, say
from bench.core.signals import StopRequest
from bench.core.stopwatch import Stopwatch
from bench.data.pixels import Pixels, PixelStore
from bench.data.request import Request
from bench.learning.driver import learn
from bench.learning.evaluate import Protocol, evaluate_row
from bench.learning.given import ToForget
from bench.learning.method import Method
from bench.learning.observers import Observers
from bench.learning.optimizer import epoch_steps, steps_of
from bench.learning.task_data import TaskData, together
from bench.learning.training_state import EpochReport, Misfit, TrainingState
from bench.metrics import kinds
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.metrics.render import render
from bench.record import checkpoint
from bench.record.checkpoint import Checkpoints, Saved
from bench.record.provenance import code_identity, identity_of
from bench.record.record import record_of
from bench.record.schema import ACCURACY, BATCHES, CHECKPOINTS, EVENTS, MODEL, OUTCOMES, STREAM, Summary
from bench.runs import gate
from bench.runs.loading import DECODED_BYTES, Parts, context_of, pixel_cache
from bench.runs.progress import Progress, Snapshot
from bench.runs.rehearsal import rehearse
from bench.runs.resume import fitting, is_described, no_fit, read_snapshot
from bench.runs.rows import Forecast, keep, measured, others, reuse, task_line
from bench.runs.state import RunState, settle


class Session:
    """One run in progress.

    Parameters
    ----------
    resolved : Resolved
    parts : Parts
    directory : Path
        The run directory; `start_or_continue` creates it.
    device : torch.device
    watch : Stopwatch
        Has counted the seconds of loading.
    observers : Observers
        Who listens to what is computed.

    Attributes
    ----------
    progress : Progress
    matrix : AccuracyMatrix
    outcomes : Outcomes
        Image by image what the matrix counts.
    """

    def __init__(
        self,
        resolved: Resolved,
        parts: Parts,
        directory: Path,
        device: torch.device,
        watch: Stopwatch,
        observers: Observers,
    ):
        self.resolved = resolved
        self.settings = settings = resolved.run
        self.parts = parts
        self.code = code_identity(resolved)  # as it was loaded, whatever is edited later
        self.device = device
        self.watch = watch
        self.world = world()
        self.stop = StopRequest()
        self.state = RunState(parts.clip, parts.digests)
        self.context = context_of(resolved, parts, device, watch, self.stop.check, observers, self._images_of)
        stream = parts.stream
        self.protocol = Protocol(
            parts.tasks, stream.label_space, stream.shared_prompts, settings.evaluate.batch_size, others=stream.others
        )
        self.store = PixelStore(parts.clip, DECODED_BYTES, pixel_cache(settings, self.context.may_stop))
        self.matrix = AccuracyMatrix(
            [task.name for task in parts.tasks], {extra.name: extra.role for extra in stream.others}
        )
        self.outcomes = Outcomes(self.matrix.columns)
        self.record = record_of(directory, self.world.leads)
        self.checkpoints = Checkpoints(directory / CHECKPOINTS, settings.checkpoint.every, say)
        self.progress = Progress()
        self._row_started = watch.now()
        self._broken_off: Saved | None = None
        self._decisive = [fingerprint(resolved.flat), settings.seed, parts.weights, dict(parts.data)]
        with watch.phase("statistics"):
            self.method: Method = resolved.method_class(resolved.method_settings, parts.clip, self.context)
            settle(self.method)
        self.forecast = Forecast(parts, watch, self.method)

    def _images_of(self, index: int) -> Pixels:
        return self.store.get(self.parts.tasks[index].train)

    # ---- beginning and continuing

    def start_or_continue(self, command: Sequence[str]) -> None:
        """Continue from the newest checkpoint if there is one, else begin the record.

        Parameters
        ----------
        command : sequence of str
            The command line, for the record.

        Raises
        ------
        UserError
            If the checkpoint is that of another version, other data or other weights.
        """
        record, records_batches = self.record, self.settings.batches.record
        if saved := self.checkpoints.load():
            self._continue(command, *saved)
        else:
            record.begin()
            self._describe(command, self.code)
            record.environment(self.device)
            if records_batches:
                record.text(BATCHES, "")
        if records_batches:
            self.context.order.record = lambda entry: record.line(BATCHES, entry)
        self._row_started = self.watch.now()

    def _describe(self, command: Sequence[str], code: dict[str, Any]) -> None:
        """Write the files of the record that say which run it is, and with which code it was begun."""
        identity = identity_of(self.resolved, command, self.parts.weights, self.parts.data)
        self.record.settings(self.resolved)
        self.record.identity(dataclasses.replace(identity, **code))
        if self.parts.stream.facts:
            self.record.json(STREAM, self.parts.stream.facts)

    def _continue(self, command: Sequence[str], base: Saved, step: Saved | None = None) -> None:
        record, directory = self.record, self.record.directory
        # Everything is read before anything is written.
        saved, matrix, outcomes = read_snapshot(directory, self._decisive, self.matrix, base, step)
        with fitting(directory):
            self.state.load_between_tasks(self.method, base.tensors)
        if not is_described(directory):
            self._describe(command, saved.code)
        for name, text in saved.files.items():
            record.text(name, text)
        if saved.batches is not None:
            self.context.order.recorded = record.cut_batches(saved.batches)
        changed = record.continued(self.device, self.code)
        self.matrix, self.outcomes, self.progress = matrix, outcomes, saved.progress
        self.watch.resume(saved.seconds, saved.parts, saved.reused)
        self._broken_off = step
        say(f"continuing {self.progress.where(len(self.parts.tasks))}")
        if changed:
            say(f"note: the last bits may differ from those of an uninterrupted run: {', '.join(changed)}")
        if saved.code != self.code:
            say("note: it was begun with another state of the code, which environment.json records")

    def save(self, training: TrainingState | None = None) -> None:
        """Write a checkpoint with all that the rest of the run depends on.

        Parameters
        ----------
        training : TrainingState, optional
            Where training stands, inside a task.
        """
        if not self.world.leads:
            return
        record = self.record
        with record.writing():
            # With the lines in the checkpoint itself, a file torn by a crash is repaired from it.
            events = record.read(EVENTS)
            if training is None:
                tensors, more = self.state.between_tasks(self.method), dict[str, Any]()
            else:
                tensors, more = self.state.inside_task(self.method, training)
            snapshot = Snapshot(
                decisive=self._decisive,
                code=self.code,
                progress=dataclasses.replace(self.progress, row_seconds=self._seconds_of_row()),
                seconds={"total": self.watch.total(), **self.watch.seconds},
                parts=dict(self.watch.parts),
                reused=dict(self.watch.reused),
                batches=record.size(BATCHES) if self.settings.batches.record else None,
                files={EVENTS: events, ACCURACY: self.matrix.csv(), OUTCOMES: self.outcomes.csv()},
                training=more.get("training"),
            )
            self.checkpoints.save(tensors, snapshot.values(), complete=training is None)

    def _seconds_of_row(self) -> float:
        return self.progress.row_seconds + self.watch.now() - self._row_started

    def _safe_point(self, training: Callable[[], TrainingState] | None = None, always: bool = False) -> None:
        """Write a checkpoint if one is due; stop if asked to. Several processes decide both together.

        Parameters
        ----------
        training : callable, optional
            Returns where training stands, inside a task.
        always : bool
            Write a checkpoint in any case.
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
        while self.progress.row <= len(self.parts.tasks):
            if not self.progress.learned:
                self._learn(self.progress.row - 1)
                self.progress.learned = True
                self._safe_point()
            self._measure()
            self._record_row()
            self.progress.next_row()
            self._row_started = self.watch.now()
            self._safe_point(always=True)
        self._finish()
        self.world.agree([0], self.device)  # no process reads the record before it is complete

    def _task(self, index: int) -> TaskData:
        """Return a task as a method sees it."""
        task, budget = self.parts.tasks[index], self.parts.budgets[index]
        train = self.store.get(task.train)
        return TaskData(index, task.name, task.prompts, self.parts.tokens[index], train, self.context, budget)

    def _learn(self, index: int) -> None:
        task, method, watch, observers = self.parts.tasks[index], self.method, self.watch, self.context.observers
        if method.at_once and index:
            self.progress.figures["trained"] = 0  # all was learned at the first task
            return
        data = self._task(index)
        if method.at_once:
            data = together([data, *map(self._task, range(1, len(self.parts.tasks)))], self.store.get)
        data.safe_point = self._safe_point
        if isinstance(task, Request):
            forget = None if task.forget is None else self.store.get(task.forget)
            data.request = ToForget(task.forgotten, task.earlier, task.retained, forget)
        if method.validation and task.validation is not None:
            data.validation = self.store.get(task.validation)
        phases = {"begin": "statistics", "fit": "train", "end": "statistics"}
        try:
            trained = learn(
                method,
                data,
                data.budget,
                precision=self.settings.precision,
                label=f"[{index + 1}/{len(self.parts.tasks)}] {task.name}: train",
                left=partial(self.forecast.left, index),
                phase=lambda name: watch.phase(phases[name]),
                begun=lambda: self._begun(data),
                on_epoch=lambda report: self._record_epoch(data, report),
            )
        except Misfit as error:
            raise no_fit(self.record.directory, str(error)) from error
        with watch.phase("statistics"):
            settle(method)
        observers.report("learned", task.name, method=method)
        self.store.release(data.train.images)
        if isinstance(task, Request) and task.forget is not None:
            self.store.release(task.forget)
        if data.validation is not None and task.validation is not task.test:
            self.store.release(data.validation.images)
        self.progress.most_trained = max(self.progress.most_trained, trained)
        self.progress.figures = {
            "trained": trained,
            "stored_numbers": method.stored_numbers(),
            "stored_bytes": method.stored_bytes(),
            "peak_memory_mb": peak_memory_mb(self.device),
            **method.report(),
        }

    def _begun(self, data: TaskData) -> None:
        """Restore training that was broken off, report the updates that are to be trained, try the largest task."""
        if self._broken_off is not None:
            saved, self._broken_off = self._broken_off, None
            with fitting(self.record.directory):
                data.resume = self.state.load_inside_task(self.method, saved.tensors, saved.values)
        for linear_map in self.parts.clip.maps.values() if self.context.observers.wants("update") else ():
            if (update := linear_map.update) is not None:
                A, B = update.factors()
                values = {"A": A, "B": B, "scale": update.scale, "tensors": update.tensors()}
                self.context.observers.report("update", data.name, linear_map.name, **values)
        rehearse(self.method, data, self.parts, self.settings.precision)

    def _record_epoch(self, data: TaskData, report: EpochReport) -> None:
        budget, images = data.budget, len(data.train)
        step = min(epoch_steps(budget, images) * (report.epoch + 1), steps_of(budget, images))
        self.record.event("epoch", task=data.name, step=step, **dataclasses.asdict(report))

    def _measure(self) -> None:
        """Measure what is missing of one row of the matrix."""
        row, batch = self.progress.row, self.protocol.batch_size
        if row > self.forecast.settled:
            reuse(self.matrix, row)
            return
        done = measured(self.matrix, row)
        todo = [test for column, test in enumerate(self.protocol.columns) if column not in done]
        total = sum(-(-len(test.test) // batch) for test in todo)
        with (
            self.watch.phase("evaluate"),
            self.parts.clip.computing(self.settings.precision),
            bar(f"after {self.matrix.label(row)}: evaluate", total) as advance,
        ):

            def on_batch() -> None:
                advance()
                self.context.may_stop()

            for column, right in evaluate_row(self.method, self.store, self.protocol, row, on_batch, done):
                self.outcomes.set(row, column, right)
                self.matrix.set(row, column, int(right.sum()), len(right))
                self._safe_point()

    def _record_row(self) -> None:
        """Record a finished row, and say how the task went."""
        row, seconds = self.progress.row, round(self._seconds_of_row(), 3)
        figures = {**self.progress.figures, "seconds": seconds} if row else {}
        self.record.text(OUTCOMES, self.outcomes.csv())
        keep(self.matrix, self.record, row, **figures)
        if row == 0:
            for line in gate.check_zero_shot(self.matrix, self.parts.expected):
                say(line)
            return
        idle = self.method.constant or (self.method.at_once and row > 1)
        nothing = "" if figures["trained"] or idle else "nothing was left to train"
        say(task_line(self.matrix, row, seconds, nothing, self.forecast.left(row)))

    def _finish(self) -> None:
        if not self.world.leads:
            return
        settings, record, watch, method, parts = self.settings, self.record, self.watch, self.method, self.parts
        if settings.checkpoint.final:
            values = {"version": checkpoint.VERSION, "weights_sha256": parts.pretrained, "prompts": parts.prompts}
            record.write(MODEL, checkpoint.pack(self.state.between_tasks(method), values))
        seconds = {name: round(value, 3) for name, value in {"total": watch.total(), **watch.seconds}.items()}
        record.summary(
            Summary(
                status="finished",
                stream=settings.stream,
                model=settings.model,
                method=settings.method,
                fingerprint=fingerprint(self.resolved.flat),
                seed=settings.seed,
                metrics=kinds.summary(self.matrix),
                seconds=seconds,
                seconds_of_parts={name: round(value, 3) for name, value in watch.parts.items()},
                seconds_reused={name: round(value, 3) for name, value in watch.reused.items()},
                trainable_parameters=self.progress.most_trained,
                stored_numbers=method.stored_numbers(),
                stored_bytes=method.stored_bytes(),
                peak_memory_mb=peak_memory_mb(self.device),
            )
        )
        with record.writing():
            self.checkpoints.clear()
        say(f"\n{render(self.matrix)}")
        if line := others(self.resolved, self.matrix.tasks):
            say(line)
        say(f"{seconds['total']:.0f} s, record in {record.directory}")

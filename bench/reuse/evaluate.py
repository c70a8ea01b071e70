"""Measure what a finished run learned on any stream, in a record of its own.

The record has the form of a run's, in ``OUT/<stream>/<model>/<method>/<fingerprint>-s<seed>/``, where ``out`` is
``evaluations`` if not given. Only the last row of its matrix is measured. The setting ``stream.learned`` in its
identity names the stream that was learned before: `bench.compare` therefore puts it beside other evaluations and never
beside runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare.runs import Run
from bench.compute.device import choose_device, kernels
from bench.compute.world import world
from bench.config.fingerprint import fingerprint, run_directory
from bench.config.run_settings import Resolved
from bench.core.console import bar, say
from bench.core.errors import UserError
from bench.core.stopwatch import Stopwatch
from bench.core.tables import table
from bench.data.pixels import PixelStore
from bench.data.stream import Stream
from bench.learning.evaluate import Protocol, evaluate_row
from bench.metrics import kinds
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.metrics.scalars import mean
from bench.record.provenance import data_identity, identity_of
from bench.record.record import Record
from bench.record.schema import OUTCOMES, Identity, SettingValue, Summary
from bench.reuse.load import Loaded, loaded
from bench.reuse.recorded import LEARNED, finished_run, settings_again
from bench.runs.loading import DECODED_BYTES, pixel_cache
from bench.runs.parts import load_stream
from bench.runs.rows import keep


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave.

    Attributes
    ----------
    path : Path
        Its record.
    accuracies : dict of str to float
        In percent, by test set.
    mean : float
        The mean over the tasks, or over the requests of a stream that asks to forget.
    same : bool or None
        Whether every answer is that of the last row of the run; None where the run did not measure the same.
    """

    path: Path
    accuracies: dict[str, float]
    mean: float
    same: bool | None


def evaluate(
    run: str | Path, settings: Mapping[str, Any] | Sequence[str] = (), command: Sequence[str] = ()
) -> Evaluation:
    """Measure what a finished run learned on a stream, and add a record.

    Parameters
    ----------
    run : str or Path
        The run directory.
    settings : mapping of str to object, or sequence of str, optional
        What is to be measured and how, as for `run`: ``stream`` with its settings (by default the run's own), ``data``,
        ``device``, ``out`` and others that do not decide what was learned.
    command : sequence of str, optional
        The command line, for the record.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        As for `load`; also if the data are missing, or ``out`` holds an evaluation on other data.
    """
    if world().size > 1:
        raise UserError("an evaluation is made by one process: start it without torchrun")
    record = finished_run(run)
    resolved = settings_again(record, settings)
    device, watch = choose_device(resolved.run.device), Stopwatch()
    with kernels(resolved.run, device):
        with watch.phase("load"):
            stream = load_stream(resolved)
            used = loaded(record, resolved)
        identity = _identity(used, stream, command)
        directory = run_directory(resolved).with_name(f"{identity.fingerprint}-s{identity.seed}")
        _refuse_other_data(directory, identity)
        where = f"{record.stream}, {len(used.prompts)} tasks, seed {record.seed}"
        say(f"{record.method} ({where}) on {stream.registry_name} ({len(stream.tasks)} tasks), {device.type}")
        for note in stream.notes:
            say(f"note: {note}")
        with watch.phase("evaluate"):
            matrix, outcomes = _measure(used, stream)
        writer, row = Record(directory), len(stream.tasks)
        with writer.held():
            writer.begin()
            writer.settings(resolved)
            writer.identity(identity)
            writer.environment(device)
            writer.text(OUTCOMES, outcomes.csv())
            keep(matrix, writer, row)
            writer.summary(_summary(record, identity, matrix, watch, stream))
    own = all(getattr(record.identity, key) == getattr(identity, key) for key in data_identity(stream, []))
    same = _same(record, matrix, outcomes) if own and _as_measured(record, resolved) else None
    return _say(Evaluation(directory, *_accuracies(matrix), same), matrix)


def protocol_of(used: Loaded, stream: Stream) -> Protocol:
    """Return how the method of a finished run is measured on a stream, learned or not.

    Parameters
    ----------
    used : Loaded
    stream : Stream
    """
    tasks, batch = stream.tasks, used.resolved.run.evaluate.batch_size
    protocol = Protocol(tasks, stream.label_space, stream.shared_prompts, batch)
    learned = {task.name: task.prompts for task in tasks} == dict(used.prompts)
    return protocol if learned else dataclasses.replace(protocol, place=used.place)


def _measure(used: Loaded, stream: Stream) -> tuple[AccuracyMatrix, Outcomes]:
    """Measure every test set of a stream, as after its last task."""
    settings, row = used.resolved.run, len(stream.tasks)
    protocol = dataclasses.replace(protocol_of(used, stream), others=stream.others)
    store = PixelStore(used.clip, DECODED_BYTES, pixel_cache(settings, lambda: None))
    matrix = AccuracyMatrix([task.name for task in stream.tasks], {one.name: one.role for one in stream.others})
    outcomes = Outcomes(matrix.columns)
    total = sum(-(-len(task.test) // protocol.batch_size) for task in protocol.columns)
    with used.clip.computing(settings.precision), bar("evaluate", total) as advance:
        for column, right in evaluate_row(used.method, store, protocol, row, advance):
            outcomes.set(row, column, right)
            matrix.set(row, column, int(right.sum()), len(right))
    return matrix, outcomes


def _identity(used: Loaded, stream: Stream, command: Sequence[str]) -> Identity:
    """Return the identity of an evaluation: the run's settings with the measured stream, and which was learned."""
    record, resolved = used.run, used.resolved
    weights = record.identity.weights_sha256 or ""
    identity = identity_of(resolved, command, weights, data_identity(stream, stream.tasks))
    settings = dict(identity.settings)
    for key, value in record.settings.items():
        if key in settings and settings[key].value == value:
            settings[key] = SettingValue(value, record.sources[key])
    learned = fingerprint({key: value for key, value in record.settings.items() if key.startswith("stream.")})
    settings[LEARNED] = SettingValue(f"{record.stream} {learned}")
    flat = {key: one.value for key, one in settings.items()}
    return dataclasses.replace(identity, settings=settings, fingerprint=fingerprint(flat))


def _refuse_other_data(directory: Path, identity: Identity) -> None:
    """Refuse to replace an evaluation on other data; one on the same data is measured again and replaced."""
    try:
        there = Identity.read(directory)
    except (OSError, ValueError):
        return
    if (there.manifests, there.prompts_sha256) != (identity.manifests, identity.prompts_sha256):
        raise UserError(f"{directory} holds an evaluation on other data: choose another folder with out=DIR")


def _as_measured(record: Run, resolved: Resolved) -> bool:
    """Return whether the settings that decide answers are those of the run."""
    keys = [key for key in resolved.flat if key == "precision" or key.startswith("evaluate.")]
    return all(record.settings.get(key) == resolved.flat[key] for key in keys)


def _same(record: Run, matrix: AccuracyMatrix, outcomes: Outcomes) -> bool:
    """Return whether the answers are those of the last row of the run's matrix."""
    row = len(matrix.tasks)
    for column in range(len(matrix.columns)):
        now, then = matrix.cell(row, column), record.matrix.cell(row, column)
        if (now.correct, now.total) != (then.correct, then.total):
            return False
        if record.outcomes is not None and now.total is not None:
            answers = [one.of(m, row, column) for one, m in ((outcomes, matrix), (record.outcomes, record.matrix))]
            if not np.array_equal(answers[0], answers[1]):  # type: ignore[arg-type]
                return False
    return True


def _summary(record: Run, identity: Identity, matrix: AccuracyMatrix, watch: Stopwatch, stream: Stream) -> Summary:
    """Return the summary of an evaluation; what training took is that of the run."""
    return dataclasses.replace(
        record.summary,
        stream=stream.registry_name,
        fingerprint=identity.fingerprint or "",
        metrics=kinds.summary(matrix),
        seconds={name: round(value, 3) for name, value in {"total": watch.total(), **watch.seconds}.items()},
        seconds_of_parts={},
        seconds_reused={},
    )


def _accuracies(matrix: AccuracyMatrix) -> tuple[dict[str, float], float]:
    row = len(matrix.tasks)
    values = {name: matrix.accuracy(row, column) for column, name in enumerate(matrix.columns)}
    return values, mean([values[name] for name in matrix.tasks])


def _say(result: Evaluation, matrix: AccuracyMatrix) -> Evaluation:
    """Print what an evaluation gave, and return it."""
    row = len(matrix.tasks)
    lines = [(name, str(matrix.cell(row, column).total), f"{result.accuracies[name]:.1f}") for column, name in
             enumerate(matrix.columns)]  # fmt: skip
    lines.insert(row, ("mean" if row == len(lines) else f"mean of these {row}", "", f"{result.mean:.1f}"))
    say(table(("test set", "images", "accuracy"), lines))
    if result.same is not None:
        say(
            "every answer is that of the last row of the run"
            if result.same
            else "note: some answers are not those of the last row of the run: code, packages or machine differ"
        )
    say(f"record in {result.path}")
    return result

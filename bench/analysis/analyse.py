"""One analysis: load, measure every test set in every state, compare subspaces, write tables and pictures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.analysis import pictures, report
from bench.analysis.measure import Measured, chance, decompose, distinct, measure, states
from bench.analysis.options import Subject, subject
from bench.analysis.subspaces import Overlap, overlaps, task_bases
from bench.compare.pictures import save
from bench.compute.device import choose_device, kernels
from bench.compute.world import world
from bench.config.fingerprint import fingerprint
from bench.core.console import bar, say
from bench.core.errors import UserError
from bench.core.files import make_folder, write_output
from bench.core.paths import user_path
from bench.core.untrusted import why
from bench.data.pixels import PixelStore
from bench.data.stream import Stream
from bench.learning.evaluate import Protocol
from bench.learning.method import Method
from bench.learning.task_data import Context
from bench.record.provenance import code_identity, data_identity
from bench.reuse.evaluate import protocol_of
from bench.reuse.load import loaded
from bench.runs.loading import DECODED_BYTES, load_model, pixel_cache
from bench.runs.parts import load_stream

PARTS, OVERLAPS, ORIGIN = "parts.csv", "overlaps.csv", "analysis.json"
"""Names of the files beside the pictures."""


@dataclass(frozen=True)
class Analysis:
    """What an analysis found.

    Attributes
    ----------
    path : Path
        The folder with its files.
    tasks : tuple of str
        The test sets, in order.
    parts : tuple of Measured
        Every test set in every state.
    overlaps : tuple of Overlap
        Every two tasks, and every task with the weights.
    """

    path: Path
    tasks: tuple[str, ...]
    parts: tuple[Measured, ...]
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class _Loaded:
    """What is analysed, loaded."""

    method: Method
    protocol: Protocol
    learned: tuple[bool, ...]
    weights: str


def analyse(
    run: str | Path | None = None, settings: Mapping[str, Any] | Sequence[str] = (), command: Sequence[str] = ()
) -> Analysis:
    """Measure a model while its weights are replaced by parts of them, and how the subspaces of tasks overlap.

    Every chosen weight is replaced by its principal part, the leading singular directions that hold a share of its
    energy, and then by the rest, for every share and tower. The weights are those of the model, or those that a
    finished run ended with.

    Parameters
    ----------
    run : str or Path, optional
        A run directory; without it the model of the settings is analysed, classified by its prompts.
    settings : mapping of str to object, or sequence of str, optional
        ``energies``, ``maps``, ``towers``, ``feature_energy`` and ``out`` as ``python -m bench analyse --help`` lists
        them, and the settings of a run that decide model, stream and evaluation.
    command : sequence of str, optional
        The command line, for the record.

    Returns
    -------
    Analysis

    Raises
    ------
    UserError
        For settings that are unknown or out of range, data that are missing, and as for `load`.
    """
    if world().size > 1:
        raise UserError("an analysis is made by one process: start it without torchrun")
    what = subject(run, settings)
    options, resolved = what.options, what.resolved
    device = choose_device(resolved.run.device)
    with kernels(resolved.run, device):
        stream = load_stream(resolved)
        there = _load(what, stream)
        folder = user_path(options.out, "out") / stream.registry_name / resolved.run.model.replace("/", "-")
        folder /= _leaf(what, stream, there.weights)
        say(_introduction(what, stream, device.type))
        for note in stream.notes:
            say(f"note: {note}")
        store = PixelStore(there.method.clip, DECODED_BYTES, pixel_cache(resolved.run, lambda: None))
        analysis = _analyse(what, there, stream, store, folder, command)
    for name, chosen in report.groups(there.learned).items():
        say(report.parts_table(analysis.parts, chosen, name))
    say(f"an answer drawn at random: {sum(chance(there.protocol)) / len(stream.tasks):.1f} %")
    if analysis.overlaps:
        say(report.overlaps_table(analysis.overlaps))
    else:
        say("no subspaces to compare: there is one test set, and no energy between 0 and 1")
    say(f"tables and pictures in {analysis.path}")
    return analysis


def _analyse(
    what: Subject, there: _Loaded, stream: Stream, store: PixelStore, folder: Path, command: Sequence[str]
) -> Analysis:
    """Measure, and write each table as soon as a line of it is known."""
    options, tasks = what.options, stream.tasks
    names, clip = [task.name for task in tasks], there.method.clip
    by_chance = chance(there.protocol)
    with _writing(folder):
        make_folder(folder)
        write_output(folder / ORIGIN, json.dumps(_origin(what, stream, there.weights, command), indent=1) + "\n")
    decomposed = decompose(clip, options)
    wanted = states(options)
    batches = sum(-(-len(task.test) // there.protocol.batch_size) for task in tasks) * distinct(wanted)
    measured: list[Measured] = []
    start = time.perf_counter()
    with clip.computing(what.resolved.run.precision), bar("measure", batches) as advance:
        for one in measure(there.method, store, there.protocol, decomposed, wanted, advance):
            if not measured:
                seconds = (time.perf_counter() - start) * (distinct(wanted) - 1)
                say(f"{distinct(wanted)} states of the model, about {max(1, round(seconds))} s")
            measured.append(one)
            with _writing(folder):
                write_output(folder / PARTS, report.parts_csv(measured, names, there.learned, by_chance))
    seeds = what.resolved.run.seeds
    batch = what.resolved.run.train.batch_size
    context = Context(len(tasks), batch, seeds.init or 0, seeds.data_order or 0, stream.label_space)
    bases = task_bases(clip, store, tasks, context, options)
    over = overlaps(names, bases, decomposed, options)
    groups = report.groups(there.learned)
    with _writing(folder):
        write_output(folder / OVERLAPS, report.overlaps_csv(over))
        list(save(partial(pictures.parts, measured, groups, by_chance), folder, "parts"))
        if over:
            list(save(partial(pictures.overlaps, over, names), folder, "overlaps"))
    return Analysis(folder, tuple(names), tuple(measured), tuple(over))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in a sentence what cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({why(error)}): choose another folder with out=DIR") from error


def _load(what: Subject, stream: Stream) -> _Loaded:
    """Load the model with what classifies: the method of a run, or the prompts alone."""
    tasks, resolved = stream.tasks, what.resolved
    if what.run is not None:
        used = loaded(what.run, resolved)
        used.clip.merge()
        known = set(used.prompts.values())
        learned = tuple(tuple(task.prompts) in known for task in tasks)
        return _Loaded(used.method, protocol_of(used, stream), learned, used.clip.weights_sha256())
    clip = load_model(resolved)
    weights = clip.weights_sha256()
    clip.to(choose_device(resolved.run.device))
    method = Method(None, clip, Context(len(tasks), resolved.run.train.batch_size, 0, 0, stream.label_space, say))
    protocol = Protocol(tasks, stream.label_space, stream.shared_prompts, resolved.run.evaluate.batch_size)
    return _Loaded(method, protocol, (False,) * len(tasks), weights)


def _introduction(what: Subject, stream: Stream, device: str) -> str:
    """Say what is analysed on what."""
    run, images = what.run, sum(len(task.test) for task in stream.tasks)
    name = f"{run.method} ({run.stream}, seed {run.seed}, {run.model})" if run else what.resolved.run.model
    return f"analyse {name} on {stream.registry_name} ({len(stream.tasks)} test sets, {images} images), {device}"


def _origin(what: Subject, stream: Stream, weights: str, command: Sequence[str]) -> dict[str, Any]:
    """Return what decides the numbers of an analysis."""
    options = {key: value for key, value in asdict(what.options).items() if key != "out"}
    return {
        "command": list(command),
        "run": str(what.run.path) if what.run else None,
        "model": what.resolved.run.model,
        "weights_sha256": weights,
        "options": options,
        "settings": {key: value for key, value in what.resolved.flat.items() if _decides(key)},
        "stream": stream.registry_name,
        **data_identity(stream, stream.tasks),
        **code_identity(what.resolved),
    }


def _decides(key: str) -> bool:
    return key.startswith(("stream.", "model.", "evaluate.")) or key == "precision"


def _leaf(what: Subject, stream: Stream, weights: str) -> str:
    """Return the name of the folder of an analysis: what was analysed, and a hash of all that decides the numbers."""
    origin = _origin(what, stream, weights, ())
    kept = {key: origin[key] for key in ("model", "weights_sha256", "options", *data_identity(stream, stream.tasks))}
    kept["settings"] = fingerprint(origin["settings"])
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:10]
    return f"{what.run.method}-{what.run.path.name}-{digest}" if what.run else f"model-{digest}"

"""Ask the image features of a finished run by a linear probe what its text classifier may not show.

A text classifier compares image features with the features of class names. A model that fails there may still tell the
classes apart: a logistic regression on the same frozen features finds out. It is fitted to the training images of the
stream, once on the features that the run began with, once on those that it ended with, and once on plain pixels, which
any picture shows without a model.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.compare.runs import Run
from bench.compute.device import choose_device, kernels
from bench.compute.world import world
from bench.config.fingerprint import run_directory
from bench.config.run_settings import Resolved
from bench.core.console import bar, say
from bench.core.errors import UserError
from bench.core.files import make_folder, write_output
from bench.core.tables import table
from bench.core.untrusted import why
from bench.data.images import Images
from bench.data.pixels import PixelStore
from bench.data.request import Request
from bench.data.stream import Stream, Task
from bench.learning.evaluate import Protocol
from bench.metrics.matrix_file import TASK
from bench.metrics.scalars import mean
from bench.model.clip import Clip
from bench.record.provenance import data_identity
from bench.reuse.load import loaded
from bench.reuse.logistic import fit
from bench.reuse.recorded import finished_run, settings_again
from bench.runs.loading import DECODED_BYTES, load_model, pixel_cache
from bench.runs.parts import load_stream
from bench.runs.state import begin_with

FILE = "probe.csv"
"""The name of the file."""

SIDE = 16
"""Pixels are averaged to this many in height and width before a probe reads them."""


@dataclass(frozen=True)
class Probed:
    """One test set, classified by the texts of its classes and by linear probes.

    Attributes
    ----------
    test_set : str
    role : str
        ``task`` for a task or a request, ``kept`` for classes that no request names.
    candidates : int
        Classes that the probe chooses among: those of the text classifier that have training images.
    images : int
        Test images of such classes.
    text_before, text_after : float or None
        Accuracy in percent of the text classifier, from the record: of the model that the run began with, and of the
        method after the last task. None where it was not measured.
    probe_before, probe_after : float
        Accuracy in percent of the probe on the features that the run began with, and on those that it ended with.
    pixels : float
        The same of a probe that reads the pixels.
    """

    test_set: str
    role: str
    candidates: int
    images: int
    text_before: float | None
    text_after: float | None
    probe_before: float
    probe_after: float
    pixels: float


@dataclass(frozen=True)
class Probe:
    """What a probe of a finished run found.

    Attributes
    ----------
    path : Path
        The file with the table.
    rows : tuple of Probed
        One for each test set whose classes have training images, in the order of the record.
    """

    path: Path
    rows: tuple[Probed, ...]


def probe(run: str | Path, settings: Mapping[str, Any] | Sequence[str] = ()) -> Probe:
    """Measure by a linear probe what the image features of a finished run hold, and write a table.

    The probe is scikit-learn's logistic regression on standardised features. It chooses among the classes that the text
    classifier chooses among, and learns from the training images of the stream: of a forgetting stream those of the
    classes to forget, and those of the classes that stay after the last request. `bench.reuse.logistic`
    says how its strength is chosen. Nothing is drawn at random. The run is not changed.

    Parameters
    ----------
    run : str or Path
        The run directory.
    settings : mapping of str to object, or sequence of str, optional
        Settings given again, as for `load`: ``data``, ``device``, ``out`` and others that do not decide what was
        learned.

    Returns
    -------
    Probe

    Raises
    ------
    UserError
        As for `load`; also if the data are missing or not those of the run, there are too few training images, or the
        run that this one began with is gone.
    """
    if world().size > 1:
        raise UserError("a probe is made by one process: start it without torchrun")
    record = finished_run(run)
    resolved = settings_again(record, settings)
    device, path = choose_device(resolved.run.device), run_directory(resolved) / FILE
    with _writing(path):
        make_folder(path.parent)
    with kernels(resolved.run, device):
        stream = load_stream(resolved)
        _check_data(record, stream)
        plan = _plan(stream)
        after, before = loaded(record, resolved).clip, load_model(resolved)
        if resolved.run.start is not None:
            begin_with(resolved, before, before.weights_sha256())
        before.to(device)
        say(f"{record.method} on {record.stream}, seed {record.seed}, {device.type}")
        accuracies = [
            _measure(before, before.encode_images, resolved, plan, "before"),
            _measure(after, after.encode_images, resolved, plan, "after"),
            _measure(after, coarse, resolved, plan, "pixels"),
        ]
    rows = tuple(_row(record, one, accuracies) for one in plan.sets)
    with _writing(path):
        write_output(path, _csv(record, rows))
    if plan.without:
        say(f"no training images, so no probe: {', '.join(plan.without)}")
    say(_table(rows))
    say(f"table in {path}")
    return Probe(path, rows)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in a sentence what cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({why(error)}): choose another folder with out=DIR") from error


def coarse(pixels: Tensor) -> Tensor:
    """Return images as features without a model: averaged to 16 x 16 pixels.

    Parameters
    ----------
    pixels : float32 Tensor [batch, 3, height, width]

    Returns
    -------
    float32 Tensor [batch, 768]
    """
    return F.adaptive_avg_pool2d(pixels, SIDE).flatten(1)


# ------------------------------------------------------------------------------------------- what is probed


@dataclass(frozen=True)
class _Labelled:
    """Images with the prompt of each label."""

    images: Images
    prompts: Sequence[str]

    def known(self) -> set[str]:
        """Return the prompts that have an image."""
        return {self.prompts[label] for label in np.unique(self.images.labels)}

    def among(self, candidates: Sequence[str]) -> np.ndarray:
        """Return for every image the index of its prompt among some; -1 where it is none of them."""
        indices = {prompt: index for index, prompt in enumerate(candidates)}
        return np.array([indices.get(prompt, -1) for prompt in self.prompts])[self.images.labels]


@dataclass(frozen=True)
class _Set:
    """One test set: its column in the record, its images, and what a probe chooses among."""

    column: int
    name: str
    role: str
    test: _Labelled
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What is probed: training images, test sets, and the names of those that cannot be."""

    training: list[_Labelled]
    sets: list[_Set]
    without: list[str]

    def images(self) -> list[Images]:
        """Return all images that features are needed of, each once."""
        several = [one.images for one in self.training] + [one.test.images for one in self.sets]
        return list({id(images): images for images in several}.values())


def _plan(stream: Stream) -> _Plan:
    """Return which test sets of a stream can be probed, and from what the probes learn."""
    tasks, others = stream.tasks, stream.others
    protocol = Protocol(tasks, stream.label_space, stream.shared_prompts, 1, others=others)
    training = list(_training(tasks))
    known = set().union(*(one.known() for one in training))
    sets, without = [], []
    for column, task in enumerate(protocol.columns):
        space, test = protocol.space(len(tasks), column), _Labelled(task.test, task.prompts)
        if space is None or not known & test.known():
            without.append(task.name)
            continue
        role = TASK if column < len(tasks) else others[column - len(tasks)].role
        candidates = tuple(prompt for prompt in space.texts if prompt in known)
        sets.append(_Set(column, task.name, role, test, candidates))
    if not sets:
        raise UserError(
            f"stream {stream.registry_name} has no training images of the classes that it tests: a linear probe has "
            "nothing to learn from"
        )
    return _Plan(training, sets, without)


def _training(tasks: Sequence[Task]) -> Iterator[_Labelled]:
    """Yield the training images of tasks; of requests those to forget, and those that stay after the last one."""
    for task in tasks:
        images = task.forget if isinstance(task, Request) else task.train
        if images is not None:
            yield _Labelled(images, task.prompts)
    if isinstance(tasks[-1], Request):
        yield _Labelled(tasks[-1].train, tasks[-1].prompts)


def _check_data(record: Run, stream: Stream) -> None:
    """Refuse images or names other than those of the run."""
    now = data_identity(stream, stream.tasks)
    if any(getattr(record.identity, key) != value for key, value in now.items()):
        raise UserError(
            f"the stream or its images are not those of {record.path}: a probe takes the run's own stream and data"
        )


# ------------------------------------------------------------------------------------------------ features


def _measure(
    clip: Clip, encode: Callable[[Tensor], Tensor], resolved: Resolved, plan: _Plan, title: str
) -> dict[int, float]:
    """Return the accuracy of probes in percent, by column; test sets with the same candidates share a probe."""
    features = _features(clip, encode, resolved, plan, title)
    probes: dict[tuple[str, ...], Any] = {}
    accuracies = {}
    for one in plan.sets:
        if one.candidates not in probes:
            learned = [(features[id(part.images)], part.among(one.candidates)) for part in plan.training]
            x, labels = (np.concatenate(parts) for parts in zip(*learned, strict=True))
            probes[one.candidates] = fit(x[labels >= 0], labels[labels >= 0])
        targets = one.test.among(one.candidates)
        answers = probes[one.candidates].predict(features[id(one.test.images)][targets >= 0])
        accuracies[one.column] = 100 * float(np.mean(answers == targets[targets >= 0]))
    return accuracies


@torch.no_grad()
def _features(
    clip: Clip, encode: Callable[[Tensor], Tensor], resolved: Resolved, plan: _Plan, title: str
) -> dict[int, np.ndarray]:
    """Return the features of all images of a plan, by their identity: float64 [images, width]."""
    store = PixelStore(clip, DECODED_BYTES, pixel_cache(resolved.run, lambda: None))
    batch, features = resolved.run.evaluate.batch_size, {}
    total = sum(-(-len(images) // batch) for images in plan.images())
    with clip.computing(resolved.run.precision), bar(title, total) as advance:
        for images in plan.images():
            parts = []
            for pixels, _ in store.get(images).batches(batch):
                parts.append(encode(pixels).double().cpu().numpy())
                advance()
            features[id(images)] = np.concatenate(parts)
    return features


# -------------------------------------------------------------------------------------------------- answer


def _row(record: Run, one: _Set, accuracies: Sequence[dict[int, float]]) -> Probed:
    """Return the accuracies of one test set, those of the text classifier from the record."""
    matrix = record.matrix
    before, after = (matrix.cell(row, one.column).accuracy for row in (0, len(matrix.tasks)))
    images = int((one.test.among(one.candidates) >= 0).sum())
    probes = (values[one.column] for values in accuracies)
    return Probed(one.name, one.role, len(one.candidates), images, before, after, *probes)


def _csv(record: Run, rows: Sequence[Probed]) -> str:
    """Return the table as comma-separated values: one line a test set, with the run that it is about."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", *(field.name for field in fields(Probed))])
    for one in rows:
        cells = ("" if value is None else round(value, 4) if isinstance(value, float) else value
                 for value in astuple(one))  # fmt: skip
        writer.writerow([record.method, record.seed, *cells])
    return text.getvalue()


def _table(rows: Sequence[Probed]) -> str:
    """Return the table in words, with the mean over the tasks or requests."""
    head = ("test set", "names", "images", "text before", "after", "probe before", "after", "pixels")
    lines = [(one.test_set, str(one.candidates), str(one.images), *map(_percent, astuple(one)[4:])) for one in rows]
    tasks = [one for one in rows if one.role == TASK]
    if len(tasks) > 1:
        means = zip(*(astuple(one)[4:] for one in tasks), strict=True)
        cells = [_percent(None if None in values else mean(values)) for values in means]
        lines.append((f"mean of {len(tasks)}", "", "", *cells))
    return table(head, lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

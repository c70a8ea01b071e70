"""Stream and budgets of a run, from its settings; no torch, so that a finished run is recognised without it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.config.fields import describe
from bench.config.run_settings import Resolved, Train
from bench.config.values import GIVEN
from bench.core.errors import UserError, suggest
from bench.core.paths import user_path
from bench.data.dataset_stream import ReferenceSet, hold_out, reference_set
from bench.data.images import Subset
from bench.data.stream import Stream, Task, ZeroShot
from bench.learning.method import Method
from bench.learning.optimizer import check_steps, steps_of

HELD_OUT_SEED = 0
"""Seed of the images that are held out for validation; all runs have the same, so that they can be compared."""


def train_settings(resolved: Resolved, task: Task) -> Train:
    """Return the training settings of one task.

    They are the run's, with the task's own where the user said nothing, and with what train.tasks says of the task.
    Epochs and steps replace each other: of the two, the one from the stronger source counts.

    Raises
    ------
    UserError
        If settings of the task are unknown, out of range or contradict each other.
    """
    sources = resolved.sources
    own = {
        key: _converted(f"task {task.name} sets", key, value, None)
        for key, value in task.train_settings.items()
        if sources.get(f"train.{key}") not in GIVEN
    }
    if sources.get("train.epochs") in GIVEN:
        own.pop("steps", None)
    elif "epochs" in own and sources.get("train.steps") not in GIVEN:
        own.setdefault("steps", None)
    single = {
        key: _converted("train.tasks sets", key, None, raw)
        for name, key, raw in _singles(resolved)
        if name == task.name
    }
    if "epochs" in single:
        single.setdefault("steps", None)
    train = dataclasses.replace(resolved.run.train, **{**own, **single, "tasks": []})
    if wrong := train.check():
        raise UserError("\n".join(f"task {task.name}: {text}" for text in wrong))
    return train


def _converted(who: str, key: str, value: Any, raw: str | None) -> Any:
    """Return a setting of a single task as its type."""
    known = {
        name.removeprefix("train."): one for name, one in describe(Train, "train.").items() if name != "train.tasks"
    }
    if key not in known:
        raise UserError(f'{who} "train.{key}", which is no setting of a task{suggest(key, known)}')
    try:
        return known[key].convert(value, raw)
    except ValueError as error:
        raise UserError(f"{who} train.{key}={value if raw is None else raw}: it {error}") from error


def _singles(resolved: Resolved) -> list[tuple[str, str, str]]:
    """Return the entries of train.tasks as task, key and text; a task's name may hold dots.

    Raises
    ------
    UserError
        If one is not written as TASK.KEY=VALUE, or two set the same.
    """
    entries: list[tuple[str, str, str]] = []
    for entry in resolved.run.train.tasks:
        left, equals, raw = entry.partition("=")
        name, dot, key = left.strip().rpartition(".")
        if not (equals and dot and name and key):
            raise UserError(f'train.tasks has "{entry}": write TASK.KEY=VALUE, as in train.tasks=[SUN397.epochs=5]')
        if (name, key) in [(task, other) for task, other, _ in entries]:
            raise UserError(f"train.tasks sets {name}.{key} twice: once is enough")
        entries.append((name, key, raw))
    return entries


def check_budgets(resolved: Resolved, stream: Stream, budgets: Sequence[Train]) -> None:
    """Refuse a budget that a later task could not be trained with, before the first one is.

    Methods that never train, or that train in their own way, decide for themselves.

    Raises
    ------
    UserError
        Naming the first such task, or a task in train.tasks that the stream has not.
    """
    names = [task.name for task in stream.tasks]
    for name, key, _ in _singles(resolved):
        if name not in names:
            raise UserError(f'train.tasks sets {key} of "{name}", which is no task of the stream{suggest(name, names)}')
    method = resolved.method_class
    if method.constant or method.fit is not Method.fit:
        return
    for task, train in zip(stream.tasks, budgets, strict=True):
        check_steps(train, steps_of(train, len(task.train)), f"task {task.name}")


def load_stream(resolved: Resolved) -> Stream:
    """Return the stream of a run, with the images and the templates that are to be scored.

    Raises
    ------
    UserError
        If a template of evaluate.templates has no ``{}``, or a class has too few images to hold one out.
    """
    settings = resolved.run
    for template in settings.evaluate.templates:
        if "{}" not in template:
            raise UserError(f'evaluate.templates has "{template}", which has no {{}} for the class name: add it')
    stream: Stream = resolved.stream_class(resolved.stream_settings, settings.data, settings.seeds.task_order)
    if settings.evaluate.split == "validation":
        _score_validation(stream, settings.evaluate.held_out)
    if more := tuple(settings.evaluate.templates):
        if any(task.template == "{}" for task in stream.tasks):
            raise UserError(
                "evaluate.templates is for class names, and those of this stream are whole prompts: leave it out"
            )
        # What is scored alone: a stream that makes its tasks of others need not make them again.
        Stream.change(stream, lambda one: dataclasses.replace(one, more_templates=(*one.more_templates, *more)))
    return stream


def load_reference(resolved: Resolved, stream: Stream) -> ReferenceSet | None:
    """Return the images and sentences outside of the stream that the method learns from; None where it needs none.

    Raises
    ------
    UserError
        If they are missing or damaged, or are those of a task.
    """
    wanted, data = resolved.run.reference, resolved.run.reference.data or resolved.run.data
    if wanted.name is None:
        return None
    root = None if data is None else user_path(data, "reference.data")
    sentences = None if wanted.sentences is None else user_path(wanted.sentences, "reference.sentences")
    reference = reference_set(wanted.name, root, wanted.images, sentences)
    whole = reference.images.images if isinstance(reference.images, Subset) else reference.images
    for task in stream.tasks:
        if whole.digest in (task.train.digest, task.test.digest):
            raise UserError(f"reference={wanted.name} has the images of task {task.name}: name others")
    return reference


def is_real(resolved: Resolved) -> bool:
    """Return whether the model is one of open_clip's with its weights, whose results somebody may want to compare."""
    return resolved.model_class is None and resolved.model_settings.weights != "random"


def published_zero_shot(resolved: Resolved, stream: Stream) -> ZeroShot | None:
    """Return the published accuracies of the untrained model on this stream.

    Returns
    -------
    ZeroShot or None
        None where the gate is off or nothing is comparable.
    """
    settings = resolved.run
    comparable = settings.gate == "on" and settings.evaluate.split == "test" and settings.start is None
    own = getattr(resolved.model_settings, "weights", "") == "random" or bool(settings.evaluate.templates)
    if not comparable or own:
        return None
    return stream.zero_shot(settings.model)


def _score_validation(stream: Stream, share: float) -> None:
    """Put validation images in place of test images; where a task has none, hold out a share of its training images."""
    held = {}

    def scored(task: Task) -> Task:
        if task.validation is not None:
            return dataclasses.replace(task, test=task.validation)
        try:
            kept, out = hold_out(task.train, task.classes, share, HELD_OUT_SEED, "validation")
        except UserError as error:
            raise UserError(
                f"task {task.name} has no validation images ({error}): leave evaluate.split at test"
            ) from error
        held[task.name] = {"share": share, "seed": HELD_OUT_SEED, "images": len(out)}
        return dataclasses.replace(task, train=kept, test=out)

    stream.change(scored)
    if held:
        stream.facts["held_out_for_validation"] = held
        stream.notes.append(
            f"{100 * share:g} % of the training images of each class are held out and scored, since there are no "
            f"validation images: {', '.join(held)}"
        )

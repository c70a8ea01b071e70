"""Stream and budgets of a run, from its settings; no torch, so that a finished run is recognised without it."""

import dataclasses
from collections.abc import Sequence

from bench.config.fields import describe
from bench.config.run_settings import Resolved, Train
from bench.core.errors import UserError, suggest
from bench.data.stream import Stream, Task, ZeroShot
from bench.learning.method import Method
from bench.learning.train import check_steps, steps_of


def train_settings(resolved: Resolved, task: Task) -> Train:
    """Return the training settings of one task: the run's, with the task's own where the user said nothing.

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


def check_budgets(resolved: Resolved, stream: Stream, budgets: Sequence[Train]) -> None:
    """Refuse a budget that a later task could not be trained with, before the first one is.

    Methods that never train, or that train in their own way, decide for themselves.

    Raises
    ------
    UserError
        Naming the first such task.
    """
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
        If a template of evaluate.templates has no ``{}``, or a task lacks the validation images that are asked for.
    """
    settings = resolved.run
    for template in settings.evaluate.templates:
        if "{}" not in template:
            raise UserError(f'evaluate.templates has "{template}", which has no {{}} for the class name: add it')
    stream: Stream = resolved.stream_class(resolved.stream_settings, settings.data, settings.seeds.task_order)
    if more := tuple(settings.evaluate.templates):
        stream.tasks = [dataclasses.replace(t, more_templates=(*t.more_templates, *more)) for t in stream.tasks]
    if settings.evaluate.split == "validation":
        stream.tasks = [_with_validation(task) for task in stream.tasks]
    return stream


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
    comparable = settings.gate == "on" and settings.evaluate.split == "test"
    own = getattr(resolved.model_settings, "weights", "") == "random" or bool(settings.evaluate.templates)
    if not comparable or own:
        return None
    return stream.zero_shot(settings.model)


def _with_validation(task: Task) -> Task:
    """Return the task with its validation images in place of its test images."""
    if task.validation is None:
        raise UserError(f"task {task.name} has no validation images: leave evaluate.split at test")
    return dataclasses.replace(task, test=task.validation)

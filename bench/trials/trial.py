"""One method on two small tasks and a toy model, step by step, and broken off where a test wants it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.config.run_settings import LEARNING, Resolved, Train
from bench.core.errors import UserError
from bench.data.images import Images, Subset
from bench.data.pixels import Pixels
from bench.data.request import Request
from bench.data.stream import Task, label_space
from bench.learning.driver import learn
from bench.learning.given import ToForget, encoded
from bench.learning.method import Method
from bench.learning.optimizer import steps_of
from bench.learning.task_data import Context, TaskData, together
from bench.learning.training_state import TrainingState
from bench.record import checkpoint
from bench.record.flags import flags_of
from bench.runs.loading import missing_images, reference_of
from bench.runs.parts import load_stream
from bench.runs.state import RunState, settle
from bench.trials.toy import tiny_clip, toy_reference, toy_request, toy_task

TASKS = 2
TRAIN = Train(epochs=2, batch_size=16, lr=1e-2, weight_decay=0.0)
"""How a method is tried; without decay, which some methods refuse."""

IMAGES = 40
"""Images that are taken of a task of a real stream, or one a class where these are more."""


def space_of(method: type[Method]) -> str:
    """Return the label space in which a method is tried: that of single tasks, unless the method does without it."""
    return "task" if "task" in method.label_spaces or not method.label_spaces else method.label_spaces[0]


def train_of(resolved: Resolved, sources: Sequence[str] = ("user",)) -> Train:
    """Return how a method is tried, with what the run says of training where that comes from one of some sources."""
    given = {f.name for f in dataclasses.fields(Train) if resolved.sources.get(f"train.{f.name}") in sources}
    return dataclasses.replace(TRAIN, **{name: getattr(resolved.run.train, name) for name in given})


def small_tasks(resolved: Resolved) -> list[Task]:
    """Return the first two tasks of a stream, with the first images of each class alone.

    Raises
    ------
    UserError
        If the stream cannot be loaded, or has one task only.
    """
    tasks = load_stream(resolved).tasks[:TASKS]
    if len(tasks) < TASKS:
        raise UserError(f"check needs a stream of two tasks, and {resolved.run.stream} has {len(tasks)}")
    return [_smaller(task) for task in tasks]


def _smaller(task: Task) -> Task:
    """Return a task with the first images of each class alone."""
    parts = {name: getattr(task, name, None) for name in ("train", "test", "validation", "forget")}
    smaller: dict[str, Any] = {name: _first(images) for name, images in parts.items() if images is not None}
    return dataclasses.replace(task, **smaller)


def _first(images: Images) -> Images:
    """Return the first images of each class, about `IMAGES` in all."""
    labels = np.asarray(images.labels)
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    each = max(1, IMAGES // len(of_class))
    return Subset(images, np.sort(np.concatenate([indices[:each] for indices in of_class])))


class Trial:
    """One method on two tasks.

    Parameters
    ----------
    cls : type
        The class of the method.
    settings : dataclass
        Its settings.
    tasks : sequence of Task
        Of which the first two are taken; toy tasks, or toy requests for a method that forgets, where there are none.
    train : Train
        How it is trained.
    say : callable, optional
        Gets what the method says.
    """

    def __init__(
        self,
        cls: type[Method],
        settings: Any,
        tasks: Sequence[Task] = (),
        train: Train = TRAIN,
        say: Callable[[str], None] = print,
    ):
        toy: Callable[[int], Task] = toy_task if LEARNING in cls.kinds else toy_request
        self.tasks = list(tasks[:TASKS]) or [toy(index) for index in range(TASKS)]
        self.train = train
        self.clip = tiny_clip()
        self._state = RunState(self.clip, self.clip.digests())
        images = {task.name: len(task.train) for task in self.tasks}
        self.context = Context(
            tasks=TASKS,
            batch_size=train.batch_size,
            init_seed=0,
            data_seed=0,
            label_space=space_of(cls),
            say=say,
            images=images,
            without_images=missing_images(self.tasks),
            pretrained=lambda: tiny_clip().model.state_dict(),
            reference=reference_of(toy_reference(), self.clip),
            training_images=lambda index: Pixels(self.tasks[index].train, self.clip, keep=True),
        )
        self.method = cls(copy.deepcopy(settings), self.clip, self.context)
        self.flags = flags_of(cls, settings)

    def steps(self, index: int) -> int:
        """Return how many steps of training a task has."""
        return steps_of(self.train, len(self.tasks[index].train))

    def learn(
        self,
        index: int,
        begun: Callable[[], None] = lambda: None,
        fitted: Callable[[], None] = lambda: None,
        safe_point: Callable[[Callable[[], TrainingState]], None] = lambda training: None,
        broken_off: bytes | None = None,
    ) -> None:
        """Take the method through one task.

        Parameters
        ----------
        index : int
            Number of the task.
        begun, fitted : callable, optional
            Those of `bench.learning.driver.learn`.
        safe_point : callable, optional
            Called after every step, with a function that returns the state of training.
        broken_off : bytes, optional
            Where training was broken off, from `inside_task`.
        """
        if self.method.at_once and index:
            return
        task, data = self.tasks[index], self._data(index)
        if self.method.at_once:
            data = together(
                [self._data(at) for at in range(TASKS)], lambda images: Pixels(images, self.clip, keep=True)
            )
        data.safe_point = safe_point
        if isinstance(task, Request):
            forget = None if task.forget is None else Pixels(task.forget, self.clip, keep=True)
            data.request = ToForget(task.forgotten, task.earlier, task.retained, forget)
        if self.method.validation and task.validation is not None:
            data.validation = Pixels(task.validation, self.clip, keep=True)

        def restore() -> None:
            if broken_off is not None:
                data.resume = self._state.load_inside_task(self.method, *checkpoint.unpack(broken_off))
            begun()

        learn(self.method, data, data.budget, begun=restore, fitted=fitted)

    def _data(self, index: int) -> TaskData:
        """Return a task as a method sees it."""
        task = self.tasks[index]
        train, tokens = Pixels(task.train, self.clip, keep=True), self.clip.tokenize(task.prompts)
        return TaskData(index, task.name, task.prompts, tokens, train, self.context, self.train)

    def between_tasks(self) -> bytes:
        """Return all that a run keeps between two tasks, as a checkpoint has it."""
        settle(self.method)
        return checkpoint.pack(self._state.between_tasks(self.method), {})

    def load_between_tasks(self, content: bytes) -> None:
        """Restore what `between_tasks` of another trial returned."""
        self._state.load_between_tasks(self.method, checkpoint.unpack(content)[0])

    def inside_task(self, training: TrainingState) -> bytes:
        """Return all that a run keeps inside a task, as a checkpoint has it."""
        return checkpoint.pack(*self._state.inside_task(self.method, training))

    @torch.no_grad()
    def logits(self, column: int = 0, kind: str = "task", from_features: bool = False) -> Tensor:
        """Return the logits of one test set, [images, prompts of the label space]; by their features where wanted."""
        space = label_space(kind, self.tasks, TASKS, column)
        assert space is not None
        if from_features:
            return self.method.feature_classifier(space)(self.features(column))
        pixels = Pixels(self.tasks[column].test, self.clip, keep=True)
        classify = self.method.classifier(space)
        return torch.cat([classify(batch) for batch, _ in pixels.batches(16)])

    def features(self, column: int = 0) -> Tensor:
        """Return the features of one test set, [images, width of embedding]."""
        pixels = Pixels(self.tasks[column].test, self.clip, keep=True)
        return encoded(pixels, 16, "features", self.context.world)

    @torch.no_grad()
    def mixed(self) -> tuple[Tensor, Tensor]:
        """Return the logits of some test images of all tasks in one batch, and of each alone: [images, prompts]."""
        space = label_space(space_of(type(self.method)), self.tasks, TASKS, 0)
        assert space is not None
        batches = [Pixels(task.test, self.clip, keep=True).batches(4) for task in self.tasks]
        images = torch.cat([next(iter(batch))[0] for batch in batches])
        classify = self.method.classifier(space)
        return classify(images), torch.cat([classify(image[None]) for image in images])

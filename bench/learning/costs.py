"""What a method costs on a model, measured on synthetic tasks.

The verb ``profile`` prints it for one method; ``docs/benchmarks/methods.py`` compares all methods.

It is one file, because the sizes of the synthetic tasks say what is measured and what they are made of.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.compute.device import peak_memory_mb
from bench.config.run_settings import LEARNING, Run
from bench.core.errors import UserError
from bench.core.stopwatch import Stopwatch
from bench.data.images import ArrayImages
from bench.data.pixels import Pixels
from bench.data.stream import Task, label_space
from bench.learning.driver import learn
from bench.learning.evaluate import outcomes
from bench.learning.given import Reference, ToForget
from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.task_data import Context, TaskData
from bench.learning.train import StepTools, TrainStep
from bench.model.clip import Clip

SQUARE = 2048
"""Rows and columns of the matrices whose product stands for what a machine can do; four times as many on CUDA."""

STEP, IMAGE = "a training step", "an image of evaluation"
"""The work whose operations are counted."""

PHASES = {"begin": "before training", "fit": "training", "end": "after training"}
"""Names of the phases of `bench.learning.driver.learn`."""

REFERENCE = "products for comparison"
"""Name of the phase in which the machine is measured."""

Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Sizes:
    """The size of the synthetic task.

    Attributes
    ----------
    classes : int
        Number of prompts.
    batch : int
        Images in a step.
    steps : int
        Training steps; at least 3.
    images : int
        Training images, at least one; 0 for as many as the steps take.
    resolution : int or None
        Height and width of an image in pixels; None leaves the model's own.
    """

    classes: int = 100
    batch: int = 8
    steps: int = 3
    images: int = 0
    resolution: int | None = None

    @property
    def trained_on(self) -> int:
        """The number of training images."""
        return self.images or self.batch * self.steps


@dataclass(frozen=True)
class Costs:
    """What a method costs.

    Attributes
    ----------
    step, image : float
        Seconds of one training step, and of one image of evaluation with its share of the class features.
    operations : dict of str to float
        Floating-point operations of `STEP` and `IMAGE` in 1e9; a method without training has no `STEP`.
    rate : float
        Most operations a second that this machine has shown, in 1e9: in a product of two square matrices, or in `STEP`
        or `IMAGE` where they were faster.
    shares : dict of str to float
        The fraction of that rate which `STEP` and `IMAGE` reach, at most 1.
    peak_memory_mb : float or None
        In MB (1e6 bytes).
    parameters, trained, stored_numbers : int
        Numbers of the model, trained on a task, and kept after it.
    stored_bytes : int
        Bytes of the numbers kept after a task.
    notes : list of str
        What the method said.
    """

    step: float
    image: float
    operations: dict[str, float]
    rate: float
    shares: dict[str, float]
    peak_memory_mb: float | None
    parameters: int
    trained: int
    stored_numbers: int
    stored_bytes: int
    notes: list[str]


def measure(
    clip: Clip, cls: type[Method], settings: Any, run: Run, sizes: Sizes, watch: Stopwatch, phase: Phase | None = None
) -> Costs:
    """Take a method through one synthetic task of noise images, or one that forgets through one request.

    Parameters
    ----------
    clip : Clip
        The model, on the device to measure.
    cls : type
        The class of the method.
    settings : dataclass
        An instance of its ``Settings``.
    run : Run
        Optimiser and learning rate of training, batch size of evaluation, precision.
    sizes : Sizes
    watch : Stopwatch
        Gets the seconds of every phase, and of the parts that the method names.
    phase : callable, optional
        Takes the name of a phase and returns the context in which it is measured; that of `watch` by default.

    Returns
    -------
    Costs

    Raises
    ------
    UserError
        If a method that forgets has one class only.
    """
    phase = phase or watch.phase
    notes: list[str] = []
    forget = LEARNING not in cls.kinds
    (task,), (data,) = synthetic(clip, sizes, say=notes.append, part=watch.part, forget=forget)
    with phase("before the first task"):
        method = cls(settings, clip, data.context)
    ends: list[float] = []
    operations: dict[str, float] = {}

    def count_step() -> None:
        if method.parameters():
            with clip.computing(run.precision), clip.trainable(tensors_of(method.parameters())):
                batch = next(iter(data.train.batches(sizes.batch)))
                idle = torch.optim.SGD(tensors_of(method.parameters()), lr=0.0)
                operations[STEP] = counted(lambda: method.train_step(step_of(method, batch, data, idle)))

    def end_step() -> None:
        if clip.device.type == "cuda":
            torch.cuda.synchronize(clip.device)  # a step has ended when the device is done, not when the call returns
        ends.append(time.perf_counter())

    trained = learn(
        method,
        data,
        dataclasses.replace(run.train, batch_size=sizes.batch, steps=sizes.steps),
        precision=run.precision,
        phase=lambda name: phase(PHASES[name]),
        fitted=count_step,
        on_step=end_step,
    )
    with phase("evaluation"), clip.computing(run.precision):
        classifier = _evaluate(method, task, run.evaluate.batch_size)
    with phase(REFERENCE), clip.computing(run.precision), torch.no_grad():
        one = next(iter(Pixels(task.test, clip, True).batches(1)))[0]
        operations[IMAGE] = counted(lambda: classifier(one))
        product = product_rate(clip.precision, clip.device)
    step = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else 0.0
    image = watch.seconds["evaluation"] / len(task.test)
    seconds = {STEP: step, IMAGE: image}
    reached = {name: count / seconds[name] for name, count in operations.items() if seconds[name]}
    rate = max(product, *reached.values())  # other work may have slowed the product down
    return Costs(
        step,
        image,
        operations,
        rate,
        {name: value / rate for name, value in reached.items()},
        peak_memory_mb(clip.device),
        sum(parameter.numel() for parameter in clip.model.parameters()),
        trained,
        method.stored_numbers(),
        method.stored_bytes(),
        notes,
    )


def _product(total: Any, a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    """Return the operations of a product of matrices, from the shapes."""
    return 2 * a.numel() * b[-1]


IN_PLACE = {torch.ops.aten.addmm_: _product, torch.ops.aten.baddbmm_: _product}
"""Products that are added up in place, which torch does not count by itself: weights with updates are formed so."""


def counted(work: Callable[[], Any]) -> float:
    """Return the floating-point operations of the products and of the attention in some work, in 1e9.

    Parameters
    ----------
    work : callable
        It is called once.
    """
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        work()
    return counter.get_total_flops() / 1e9


def product_rate(dtype: torch.dtype, device: torch.device, seconds: float = 3.0) -> float:
    """Return the operations a second of this machine in a product of two square matrices.

    Parameters
    ----------
    dtype : torch.dtype
    device : torch.device
    seconds : float, optional
        How long to try.

    Returns
    -------
    float
        The best rate, in 1e9.
    """
    size = 4 * SQUARE if device.type == "cuda" else SQUARE  # else reading the result would take longer than the product
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def step_of(
    method: Method,
    batch: tuple[torch.Tensor, torch.Tensor],
    task: TaskData,
    optimizer: torch.optim.Optimizer,
    number: int = 0,
    steps: int = 1,
) -> TrainStep:
    """Return a step of training for `Method.train_step`, outside of the training loop.

    Parameters
    ----------
    method : Method
        With a task begun.
    batch : tuple of Tensor
        Pixels and labels.
    task : TaskData
    optimizer : torch.optim.Optimizer
        Of `Method.parameters`. With a learning rate of zero the step changes nothing.
    number, steps : int, optional
        Which step of how many it is.

    Returns
    -------
    TrainStep
    """
    scaler = torch.amp.GradScaler(enabled=False)
    tools = StepTools(method.loss, optimizer, scaler, None, lambda loss, images: None, lambda total: None)
    return TrainStep(*batch, task, number, steps, tensors_of(method.parameters()), tools, len(batch[1]))


def synthetic(
    clip: Clip,
    sizes: Sizes,
    tasks: int = 1,
    say: Callable[[str], None] = print,
    part: Phase = lambda name: nullcontext(),
    forget: bool = False,
) -> tuple[list[Task], list[TaskData]]:
    """Return tasks of noise images, and the same tasks as a method sees them.

    Parameters
    ----------
    clip : Clip
    sizes : Sizes
        Of each task.
    tasks : int, optional
        How many; each has classes of its own.
    say : callable, optional
        Gets what the method says.
    part : callable, optional
        `Context.part`.
    forget : bool, optional
        Whether each task is a request to forget a fifth of its classes, at least one: they are its last ones, and have
        a batch of images for every step.

    Returns
    -------
    tasks : list of Task
    data : list of TaskData
        All with one context. The first task serves as a reference set too, and the model's weights as those that a run
        with a start finds in the pre-trained model.

    Raises
    ------
    UserError
        If there is something to forget and nothing that stays.
    """
    stay = sizes.classes - max(1, sizes.classes // 5) if forget else sizes.classes
    if not stay:
        raise UserError("a method that forgets needs a class that stays: set classes to 2 or more")
    made = [_noise(clip, sizes, index, range(stay)) for index in range(tasks)]
    images = [Pixels(task.train, clip, True) for task in made]
    context = Context(
        tasks=tasks,
        batch_size=sizes.batch,
        init_seed=0,
        data_seed=0,
        say=say,
        part=part,
        reference=Reference("noise", made[0].prompts, images[0]),
        training_images=images.__getitem__,
        pretrained=clip.model.state_dict if forget else None,
    )
    data = [
        TaskData(index, task.name, task.prompts, clip.tokenize(task.prompts), images[index], context)
        for index, task in enumerate(made)
    ]
    gone = range(stay, sizes.classes)
    for task in data if forget else ():
        noise = _noise(clip, sizes, tasks + task.index, gone)
        task.request = ToForget(tuple(gone), (), tuple(range(stay)), Pixels(noise.test, clip, True))
    return made, data


def _noise(clip: Clip, sizes: Sizes, index: int, present: range) -> Task:
    """Return a task with images of some of its classes."""
    (height, width), tested = clip.image_size, sizes.batch * sizes.steps
    pixels = np.random.default_rng(index).integers(
        0, 256, (max(sizes.trained_on, tested), height, width, 3), dtype=np.uint8
    )
    labels = present.start + np.arange(len(pixels)) % len(present)
    classes = tuple(f"thing {index * sizes.classes + number}" for number in range(sizes.classes))
    train, test = (ArrayImages(pixels[:count], labels[:count]) for count in (sizes.trained_on, tested))
    return Task(f"synthetic {index}" if index else "synthetic", classes, "a photo of a {}.", train, test)


def _evaluate(method: Method, task: Task, batch_size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Classify all test images once, and return the classifier."""
    space = label_space("task", [task], 1, 0)
    assert space is not None
    pixels = Pixels(task.test, method.clip, True)
    classifier = method.classifier(space)
    outcomes("profile", method, classifier, pixels, space, batch_size)
    return classifier

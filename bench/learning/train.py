"""The ordinary training loop for one task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bench.compute.world import World
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.core.lazy import torch
from bench.learning.training_state import EpochReport, Schedule, capture_training, restore_training

if TYPE_CHECKING:
    from torch import Tensor

    from bench.learning.task_data import TaskData
    from bench.model.clip import Clip

FEWEST_STEPS = 3
"""OneCycle needs a step on the way up, one at the top and one on the way down."""


class Losses:
    """The losses of an epoch, summed over images, and the step after which the sum was no number any more.

    Both are kept on the device: reading one at every step would make the device wait.

    Parameters
    ----------
    device : torch.device
    world : World
        The processes that share the run; each adds the losses of its images.
    step : int
        Steps of the epoch that were done in an earlier process.
    total : Tensor [], optional
        The sum of their losses.
    """

    def __init__(self, device: torch.device, world: World, step: int = 0, total: Tensor | None = None):
        self._world = world
        self._before = step
        self._total = torch.zeros((), device=device) if total is None else total.to(device)
        self._finite = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, images: int) -> None:
        """Add a step: the mean loss of some images."""
        self._total += loss.detach() * images
        self._finite += torch.isfinite(self._total)  # once it is not finite it stays so

    def total(self, name: str, epoch: int, lr: float) -> Tensor:
        """Return the sum over the images of all processes.

        Raises
        ------
        UserError
            If it is no finite number, naming task and step.
        """
        total = self._total.clone()
        self._world.sum([total])
        if not math.isfinite(value := float(total)):
            (last,) = self._world.agree([-int(self._finite)], total.device)
            raise UserError(
                f"the loss of task {name} became {value} in step {self._before - last + 1} of epoch {epoch + 1}: lower "
                f"train.lr (now {lr:g}) or set train.grad_clip"
            )
        return total


def build_optimizer(parameters: Sequence[Tensor], train: Train) -> torch.optim.Optimizer:
    """Return AdamW, Adam or SGD with the run's learning rate and weight decay; one kernel for all parameters."""
    common: dict[str, Any] = {"lr": train.lr, "weight_decay": train.weight_decay, "fused": True}
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=train.momentum, **common)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[train.optimizer](parameters, **common)


def steps_of(train: Train, images: int) -> int:
    """Return the optimiser steps of a task with that many training images."""
    return math.ceil(images / train.batch_size) * train.epochs


def check_steps(train: Train, steps: int, task: str = "a task") -> None:
    """Refuse a budget whose schedule cannot be laid out.

    Parameters
    ----------
    train : Train
    steps : int
        Optimiser steps of the task.
    task : str, optional
        What the sentence calls it.

    Raises
    ------
    UserError
        If OneCycle has too few steps.
    """
    if train.schedule == "onecycle" and steps < FEWEST_STEPS:
        raise UserError(
            f"train.schedule=onecycle needs at least {FEWEST_STEPS} steps and {task} has {steps}: raise train.epochs, "
            "lower train.batch_size or choose train.schedule=constant"
        )


def build_schedule(optimizer: torch.optim.Optimizer, train: Train, steps: int) -> Schedule:
    """Return the schedule of the learning rate over `steps` optimiser steps; None for a constant one.

    ``onecycle`` has PyTorch's defaults, as in the code released with KeepLoRA: up to ``lr`` over 30 % of the steps from
    lr/25, down to lr/250000, both along cosines, with Adam's beta1 moving against it between 0.95 and 0.85 (SGD keeps
    its momentum).
    ``cosine`` rises linearly over the fraction ``warmup`` and falls to zero along a cosine.
    """
    if train.schedule == "onecycle":
        check_steps(train, steps)
        cycle = train.optimizer != "sgd"
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=train.lr, total_steps=steps, cycle_momentum=cycle)
    if train.schedule == "cosine":
        warmup = round(train.warmup * steps)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return None


class Trainable(Protocol):
    """What the training loop needs of a method."""

    clip: Clip

    def parameters(self) -> Sequence[Tensor]:
        """Return the tensors to train."""
        ...

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the loss of one batch."""
        ...

    def after_step(self) -> None:
        """Act after an optimiser step."""
        ...


def fit(
    method: Trainable,
    task: TaskData,
    train: Train,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> int:
    """Train `method.parameters()` on a task for the given budget.

    Every epoch sees all images once, shuffled, the last partial batch included. The parameters require gradients only
    in here. Training that was broken off continues from `task.resume`; after every step `task.safe_point` may keep
    where it stands.

    Parameters
    ----------
    on_step, on_epoch : callable
        Called after every step, and with an `EpochReport` after every epoch, for progress bars and records.

    Returns
    -------
    int
        Number of values that were trained.

    Raises
    ------
    UserError
        If the loss stops being a finite number.
    """
    parameters = list(method.parameters())
    if not parameters:
        return 0
    world = task.context.world
    world.broadcast(parameters)
    steps_per_epoch = math.ceil(len(task.train) / train.batch_size)
    optimizer = build_optimizer(parameters, train)
    schedule = build_schedule(optimizer, train, steps_of(train, len(task.train)))
    # Gradients in fp16 are scaled up, since small ones would vanish; a step whose gradients overflow is left out.
    scaler = torch.amp.GradScaler(task.tokens.device.type, enabled=method.clip.precision == torch.float16)
    # Losses are summed on the device: reading one at every step would make the device wait.
    first, step, device = 0, 0, task.tokens.device
    losses = Losses(device, world)
    if task.resume is not None:
        first, step, total = restore_training(task.resume, optimizer, schedule, scaler, world, steps_per_epoch)
        losses = Losses(device, world, step, total)
        for _ in range(first * steps_per_epoch + step):
            on_step()
    observers = task.context.observers
    with method.clip.trainable(parameters):
        for epoch in range(first, train.epochs):
            total_now = partial(losses.total, task.name, epoch, train.lr)
            planned = task.batches("train", epoch, batch_size=train.batch_size, skip=step, share="images", bar=False)
            for pixels, labels in planned:
                optimizer.zero_grad(set_to_none=True)
                if len(labels):  # none for some process where the last batch has fewer images than there are processes
                    loss = method.loss(pixels, labels, task)
                    if observers:
                        observers.report("loss", task.name, epoch=epoch, step=step, loss=loss.detach())
                    # Every process has the mean over its images, and the sum over processes is the mean over all.
                    whole = min(train.batch_size, len(task.train) - step * train.batch_size)
                    scaler.scale(loss if world.size == 1 else loss * (len(labels) / whole)).backward()
                    losses.add(loss, len(labels))
                world.sum_gradients(parameters)
                if train.grad_clip is not None:
                    scaler.unscale_(optimizer)
                    torch.nn.utils.clip_grad_norm_(parameters, train.grad_clip)
                scaler.step(optimizer)
                scaler.update()
                if schedule is not None:
                    schedule.step()
                method.after_step()
                step += 1
                on_step()
                task.safe_point(partial(capture_training, optimizer, schedule, scaler, epoch, step, total_now))
            mean = float(total_now()) / len(task.train)
            on_epoch(EpochReport(epoch, mean, optimizer.param_groups[0]["lr"]))
            step, losses = 0, Losses(device, world)
    return sum(parameter.numel() for parameter in parameters)

"""The ordinary training loop for one task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.config import Train
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.method import Method, TaskData

FEWEST_STEPS = 3
"""OneCycle needs a step on the way up, one at the top and one on the way down."""


@dataclass(frozen=True)
class EpochReport:
    """Mean loss of one pass over a task's images, and the learning rate at its end."""

    epoch: int
    loss: float
    lr: float


def build_optimizer(parameters: Sequence[Tensor], train: Train) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with the run's learning rate and weight decay."""
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[train.optimizer]
    return kind(parameters, lr=train.lr, weight_decay=train.weight_decay)


def build_schedule(
    optimizer: torch.optim.Optimizer, train: Train, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """The learning rate over `steps` optimiser steps; None for a constant one.

    ``onecycle`` has PyTorch's defaults, as in the code released with KeepLoRA: up to ``lr`` over 30 % of the steps from
    lr/25, down to lr/250000, both along cosines, with Adam's beta1 moving against it between 0.95 and 0.85 (SGD keeps
    its momentum).
    ``cosine`` rises linearly over the fraction ``warmup`` and falls to zero along a cosine.
    """
    if train.schedule == "onecycle":
        if steps < FEWEST_STEPS:
            raise UserError(
                f"train.schedule=onecycle needs at least {FEWEST_STEPS} steps and a task has {steps}: raise "
                "train.epochs, lower train.batch_size or choose train.schedule=constant"
            )
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


def fit(
    method: Method,
    task: TaskData,
    train: Train,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> int:
    """Train `method.parameters()` on a task for the given budget.

    Every epoch sees all images once, shuffled, the last partial batch included. The parameters require gradients only
    in here.

    Parameters
    ----------
    on_step, on_epoch : callable
        Told of every step and every finished epoch, for progress bars and records.

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
    steps_per_epoch = math.ceil(len(task.train) / train.batch_size)
    optimizer = build_optimizer(parameters, train)
    schedule = build_schedule(optimizer, train, steps_per_epoch * train.epochs)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for epoch in range(train.epochs):
            # Summed on the device: reading the loss at every step would make the device wait.
            total, seen = torch.zeros((), device=task.tokens.device), 0
            for pixels, labels in task.batches("train", epoch, batch_size=train.batch_size):
                loss = method.loss(pixels, labels, task)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if train.grad_clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, train.grad_clip)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                method.after_step()
                total += loss.detach() * len(labels)
                seen += len(labels)
                on_step()
            mean = float(total) / seen
            if not math.isfinite(mean):
                raise UserError(
                    f"the loss of task {task.name} became {mean} in epoch {epoch + 1}: lower train.lr "
                    f"(now {train.lr:g}) or set train.grad_clip"
                )
            on_epoch(EpochReport(epoch, mean, optimizer.param_groups[0]["lr"]))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
    return sum(parameter.numel() for parameter in parameters)

"""What a task is trained with: its tensors in groups, the optimiser, the course of the learning rate, and how long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.config.run_settings import Train
from bench.core.errors import UserError, suggest
from bench.core.lazy import torch
from bench.learning.training_state import Schedule

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_STEPS = 3
"""OneCycle needs a step on the way up, one at the top and one on the way down."""

GROUP_KEYS = ("params", "lr", "lr_scale", "weight_decay")
"""What a group of parameters may say."""


def tensors_of(parameters: Sequence[Any]) -> list[Tensor]:
    """Return the tensors to train, without their groups.

    Parameters
    ----------
    parameters : sequence of Tensor or of dict
        As from `Method.parameters`.

    Returns
    -------
    list of Tensor
        In order.
    """
    return [tensor for one in parameters for tensor in (one.get("params", ()) if isinstance(one, Mapping) else (one,))]


def groups_of(parameters: Sequence[Any], train: Train) -> list[dict[str, Any]]:
    """Return the tensors to train as an optimiser takes them: in groups with learning rate and weight decay.

    Parameters
    ----------
    parameters : sequence of Tensor or of dict
        As from `Method.parameters`.
    train : Train
        Learning rate and weight decay of what does not say its own.

    Returns
    -------
    list of dict
        With ``params``, ``lr`` and ``weight_decay``; a single one for tensors without groups.

    Raises
    ------
    UserError
        If a group says something else, has both ``lr`` and ``lr_scale``, or stands beside tensors without one.
    """
    given = [dict(one) for one in parameters if isinstance(one, Mapping)]
    if not given:
        given = [{"params": list(parameters)}]
    elif len(given) < len(parameters):
        raise UserError("parameters() returns tensors and groups: return tensors alone, or put all of them in groups")
    groups = []
    for group in given:
        unknown = [key for key in group if key not in GROUP_KEYS]
        if unknown:
            raise UserError(
                f'a group of parameters() says "{unknown[0]}", which is none of {", ".join(GROUP_KEYS)}'
                f"{suggest(str(unknown[0]), GROUP_KEYS)}"
            )
        if "lr" in group and "lr_scale" in group:
            raise UserError("a group of parameters() has both lr and lr_scale: give one of them")
        rate = float(group["lr"]) if "lr" in group else train.lr * group.get("lr_scale", 1)
        tensors = list(group.get("params", ()))
        if tensors:
            decay = float(group.get("weight_decay", train.weight_decay))
            groups.append({"params": tensors, "lr": rate, "weight_decay": decay})
    return groups


def build_optimizer(parameters: Sequence[Any], train: Train) -> torch.optim.Optimizer:
    """Return AdamW, Adam, SGD or Muon with the run's learning rate and weight decay, which groups may override.

    AdamW, Adam and SGD use one kernel for all parameters of a group.

    Parameters
    ----------
    parameters : sequence of Tensor or of dict
        As from `Method.parameters`.
    train : Train

    Returns
    -------
    Optimizer

    Raises
    ------
    UserError
        If a group is not right, or Muon is asked for where it is not to be had.
    """
    groups = groups_of(parameters, train)
    if train.optimizer == "muon":
        return _muon(groups, train)
    if train.optimizer == "sgd":
        return _sgd(groups, train)
    more: dict[str, Any] = {} if train.betas is None else {"betas": (train.betas[0], train.betas[1])}
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[train.optimizer]
    return kind(groups, eps=train.eps, fused=True, **more)


def _sgd(groups: list[dict[str, Any]], train: Train) -> torch.optim.Optimizer:
    """Return SGD whose momentum starts at zero.

    torch's own starts with the first gradient, and where fp16 leaves out the first step it takes what is in memory.
    """
    optimizer = torch.optim.SGD(groups, momentum=train.momentum, fused=True)
    if train.momentum:
        for tensor in tensors_of(groups):
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer


def _muon(groups: list[dict[str, Any]], train: Train) -> torch.optim.Optimizer:
    """Return Muon, which orthogonalises the momentum of matrices and trains nothing else."""
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            f"train.optimizer=muon needs torch 2.9 or newer and this is {torch.__version__}: choose adamw, or update it"
        )
    other = [tuple(tensor.shape) for group in groups for tensor in group["params"] if tensor.dim() != 2]
    if other:
        raise UserError(
            f"train.optimizer=muon trains matrices only and this method trains a tensor of the shape {other[0]}: "
            "choose train.optimizer=adamw"
        )
    return torch.optim.Muon(groups, momentum=train.momentum)


def epoch_steps(train: Train, images: int) -> int:
    """Return the optimiser steps of a pass over that many training images."""
    return math.ceil(images / train.batch_size)


def steps_of(train: Train, images: int) -> int:
    """Return the optimiser steps of a task: `Train.steps`, or those of its epochs.

    Parameters
    ----------
    train : Train
        How the task is trained: `TaskData.budget`.
    images : int
        Number of its training images.

    Returns
    -------
    int
    """
    return epoch_steps(train, images) * train.epochs if train.steps is None else train.steps


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
        If OneCycle has too few steps, or a way up of a single one; if warming up takes all steps.
    """
    longer = "train.epochs" if train.steps is None else "train.steps"
    if train.schedule == "onecycle" and steps < FEWEST_STEPS:
        raise UserError(
            f"train.schedule=onecycle needs at least {FEWEST_STEPS} steps and {task} has {steps}: raise {longer}, "
            "lower train.batch_size or choose train.schedule=constant"
        )
    if train.warmup >= 1 and train.warmup >= steps:
        raise UserError(f"train.warmup={train.warmup:g} takes all {steps} steps of {task}: lower it, or raise {longer}")
    if train.schedule == "onecycle" and abs(_way_up(train, steps) * steps - 1) < 1e-9:
        key = "train.warmup" if train.warmup >= 1 else "train.pct_start"
        raise UserError(
            f"train.schedule=onecycle has a way up of a single step in {task}, which has {steps}: raise {key}"
        )


def build_schedule(
    optimizer: torch.optim.Optimizer, train: Train, steps: int, steps_per_epoch: int | None = None
) -> Schedule:
    """Return the course of the learning rates over `steps` optimiser steps; None for a constant one.

    Every group follows it with a rate of its own in the place of ``lr``.

    ``onecycle`` has PyTorch's defaults, as in the code released with KeepLoRA: up to ``lr`` over the share
    ``pct_start`` of the steps from lr/25, down to lr/250000, both along cosines, with Adam's beta1 moving against it
    between 0.95 and 0.85 unless ``betas`` is set (SGD and Muon keep their momentum). ``cosine`` rises linearly and
    falls along a cosine to the share ``lr_end`` of it; with ``rate_per`` epoch it has
    one rate in each: (1 + cos(pi e / E)) / 2 in epoch e of E, from 0. ``steps`` is a tenth of what it was from each
    epoch of ``milestones`` on. ``constant`` stays. These two rise first where ``warmup`` asks for it.

    ``warmup`` from 1 on is the number of steps of the rise: linear, or OneCycle's way up in place of ``pct_start``.
    Below 1 it is a share of the steps, for ``cosine`` only.

    Parameters
    ----------
    optimizer : Optimizer
    train : Train
    steps : int
    steps_per_epoch : int, optional
        For schedules that count epochs; all steps are one epoch by default.

    Returns
    -------
    LRScheduler or None

    Raises
    ------
    UserError
        As for `check_steps`.
    """
    check_steps(train, steps)
    if train.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=steps,
            pct_start=_way_up(train, steps),
            cycle_momentum=train.optimizer in ("adamw", "adam") and train.betas is None,
        )
    falls, least = train.schedule == "cosine", train.lr_end
    warmup = int(train.warmup) if train.warmup >= 1 else round(train.warmup * steps) if falls else 0
    if train.schedule == "constant" and not warmup:
        return None
    epoch = steps_per_epoch or steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if not falls:
            return 0.1 ** sum(step // epoch + 1 >= milestone for milestone in train.milestones)
        past, whole = step - warmup, max(1, steps - warmup)
        if train.rate_per == "epoch":
            past, whole = step // epoch, math.ceil(steps / epoch)
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * past / whole))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _way_up(train: Train, steps: int) -> float:
    """Return the share of the steps that OneCycle rises."""
    return train.warmup / steps if train.warmup >= 1 else train.pct_start

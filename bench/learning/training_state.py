"""Where the training of one task stands between two steps: captured, and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.compute.world import World
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EpochReport:
    """How one pass over a task's images went.

    Attributes
    ----------
    epoch : int
        Number of the pass, from 0.
    loss : float
        Mean loss over the images.
    lr : float
        Learning rate at the end of the pass.
    """

    epoch: int
    loss: float
    lr: float


@dataclass(frozen=True)
class TrainingState:
    """Where the training of one task stands between two steps, apart from what is trained.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Those of the optimiser, and the sum of the losses in the epoch at hand.
    values : dict of str to object
        Plain values: epoch and steps done in it, groups of the optimiser, schedule.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


Schedule: TypeAlias = "torch.optim.lr_scheduler.LRScheduler | None"


def capture_training(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    scaler: torch.amp.GradScaler,
    epoch: int,
    step: int,
    total: Callable[[], Tensor],
) -> TrainingState:
    """Return where training stands between two steps.

    Parameters
    ----------
    optimizer : Optimizer
    schedule : LRScheduler or None
    scaler : GradScaler
    epoch, step : int
        The epoch at hand, and how many of its steps are done.
    total : callable
        Returns the sum of the losses of all images of the epoch so far, a scalar Tensor.

    Returns
    -------
    TrainingState
    """
    state = optimizer.state_dict()
    tensors, others = {"loss sum": total()}, []
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                others.append([index, key, value])
    values = {
        "epoch": epoch,
        "step": step,
        "groups": state["param_groups"],
        "others": others,
        "schedule": None if schedule is None else schedule.state_dict(),
        "scaler": scaler.state_dict(),
    }
    return TrainingState(tensors, values)


def restore_training(
    saved: TrainingState,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    scaler: torch.amp.GradScaler,
    world: World,
) -> tuple[int, int, Tensor]:
    """Restore optimiser, schedule and scaler.

    Parameters
    ----------
    saved : TrainingState
    optimizer : Optimizer
    schedule : LRScheduler or None
    scaler : GradScaler
    world : World
        The processes that share the run; the leader keeps the sum of losses.

    Returns
    -------
    epoch, step : int
    total : Tensor
        Sum of losses, a scalar.
    """
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in saved.tensors.items():
        index, _, key = name.partition("/")
        if key:
            state.setdefault(int(index), {})[key] = tensor
    for index, key, value in saved.values["others"]:
        state.setdefault(index, {})[key] = value
    # JSON made lists of the tuples (beta1, beta2).
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in saved.values["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if schedule is not None:
        schedule.load_state_dict(dict(saved.values["schedule"]))
    if saved.values["scaler"]:
        scaler.load_state_dict(dict(saved.values["scaler"]))
    total = saved.tensors["loss sum"]
    return saved.values["epoch"], saved.values["step"], total if world.leads else torch.zeros_like(total)

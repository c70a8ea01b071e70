"""Where the training of one task stands between two steps: taken out, and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.compute.world import World

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class EpochReport:
    """Mean loss of one pass over a task's images, and the learning rate at its end."""

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
    """The state after `step` steps of an epoch, in which the losses of all images sum to `total`."""
    state = optimizer.state_dict()
    tensors, others = {"loss sum": total()}, []
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
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
    """Put optimiser and schedule back; returns epoch, steps done in it and the sum of losses, as captured."""
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

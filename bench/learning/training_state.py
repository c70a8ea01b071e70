"""Where the training of one task stands between two steps: captured, and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.compute.device import is_out_of_memory
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


class Misfit(ValueError):
    """A state of training that is not one of the training at hand; says why."""


KEPT = {
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "Muon": {"momentum_buffer"},
}
"""What an optimiser keeps of a tensor that it trains; it fails in its next step without."""

CHANGING = (
    "lr", "betas", "momentum", "last_epoch", "_step_count", "_last_lr", "_is_initial", "scale", "_growth_tracker",
)  # fmt: skip
"""Plain values of optimisers, schedules and scalers that change from step to step; the settings decide all others."""


def restore_training(
    saved: TrainingState,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    scaler: torch.amp.GradScaler,
    world: World,
    steps_per_epoch: int,
) -> tuple[int, int, Tensor]:
    """Restore optimiser, schedule and scaler.

    Parameters
    ----------
    saved : TrainingState
        As read from a file, whatever that holds.
    optimizer : Optimizer
    schedule : LRScheduler or None
    scaler : GradScaler
    world : World
        The processes that share the run; the leader keeps the sum of losses.
    steps_per_epoch : int

    Returns
    -------
    epoch, step : int
    total : Tensor
        Sum of losses, a scalar.

    Raises
    ------
    Misfit
        If the state is none of this training.
    """
    try:
        epoch, step = _position(saved.values, schedule, steps_per_epoch)
        _load_optimizer(saved, optimizer)
        if schedule is not None:
            schedule.load_state_dict(_changed(schedule.state_dict(), saved.values["schedule"]))
        if scaler.is_enabled():
            scaler.load_state_dict(_changed(scaler.state_dict(), saved.values["scaler"]))
        total = saved.tensors["loss sum"]
        if total.dim() or not total.is_floating_point():
            raise Misfit("the sum of losses is no number")
    except Misfit:
        raise
    except Exception as error:  # it may hold anything
        if is_out_of_memory(error):
            raise
        raise Misfit(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return epoch, step, total if world.leads else torch.zeros_like(total)


def _position(values: dict[str, Any], schedule: Schedule, steps_per_epoch: int) -> tuple[int, int]:
    """Return the epoch and how many of its steps are done."""
    epoch, step = values["epoch"], values["step"]
    if not (type(epoch) is type(step) is int and epoch >= 0 and 0 < step <= steps_per_epoch):
        raise Misfit("no task is at that step")
    if schedule is not None and values["schedule"]["last_epoch"] != epoch * steps_per_epoch + step:
        raise Misfit("its schedule is at another step")
    return epoch, step


def _load_optimizer(saved: TrainingState, optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in saved.tensors.items():
        number, _, key = name.partition("/")
        if key:
            state.setdefault(int(number), {})[key] = tensor
    for index, key, value in saved.values["others"]:
        state.setdefault(index, {})[key] = value
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    needed = KEPT.get(type(optimizer).__name__, set())
    for index, entries in state.items():
        shapes = [tuple(one.shape) for one in entries.values() if isinstance(one, torch.Tensor) and one.dim()]
        if not 0 <= index < len(trained) or any(shape != tuple(trained[index].shape) for shape in shapes):
            raise Misfit("the optimiser trains other tensors")
        if needed - set(entries):
            raise Misfit("the optimiser keeps something else")
    now: dict[str, Any] = optimizer.state_dict()
    pairs = zip(now["param_groups"], saved.values["groups"], strict=True)
    optimizer.load_state_dict({"state": state, "param_groups": [_changed(*pair) for pair in pairs]})


def _changed(now: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Return plain values with those from a file that change from step to step; what JSON made a list is a tuple."""
    changed = dict(now)
    for key in CHANGING:
        if key in now and key in saved:
            changed[key] = tuple(saved[key]) if isinstance(now[key], tuple) else saved[key]
            if not _alike(changed[key], now[key]):
                raise Misfit(f"{key} is {saved[key]}")
    return changed


def _alike(one: Any, other: Any) -> bool:
    """Return whether two values are of one kind; lists of numbers have to be of one length too."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)]
    return all(numbers) or type(one) is type(other)

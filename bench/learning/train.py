"""The ordinary training loop for one task, and one of its steps as a method sees it.

It is one file, because a step and the loop that makes it share optimiser, scaler and sums of losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bench.compute.world import World
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.core.lazy import torch
from bench.learning.optimizer import build_optimizer, build_schedule, epoch_steps, steps_of, tensors_of
from bench.learning.training_state import EpochReport, capture_training, restore_training

if TYPE_CHECKING:
    from torch import Tensor

    from bench.learning.task_data import TaskData
    from bench.model.clip import Clip


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
    images : int, optional
        How many images that sum is over.
    """

    def __init__(self, device: torch.device, world: World, step: int = 0, total: Tensor | None = None, images: int = 0):
        self._world = world
        self._before = step
        self._total = torch.zeros((), device=device) if total is None else total.to(device)
        self._finite = torch.zeros((), dtype=torch.int64, device=device)
        self._images = images

    def add(self, loss: Tensor, images: int) -> None:
        """Add the mean loss of some images; with no image at all it counts only if it is not finite."""
        self._total += loss.detach() * images
        self._images += images

    def add_sum(self, total: Tensor) -> None:
        """Add a sum over images that other processes have."""
        self._total += total.detach()

    def end_step(self) -> None:
        """Note whether the sum is finite after a step."""
        self._finite += torch.isfinite(self._total)  # once it is not finite it stays so

    def mean(self) -> Tensor:
        """Return the mean over the images of this process so far, a scalar on the device."""
        return self._total / max(self._images, 1)

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


class Reading:
    """A number on a device that is looked at from time to time; nobody waits until a CUDA device has computed it."""

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None
        self._value: float | None = None

    def look(self, number: Tensor) -> float | None:
        """Return the number; of a CUDA device what it was at an earlier look, None before the first has arrived.

        Parameters
        ----------
        number : Tensor
            Scalar.
        """
        if number.device.type != "cuda":
            return float(number)
        if self._arrived is None or self._arrived.query():
            self._value = None if self._copy is None else float(self._copy)
            self._copy = number.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(number.device))
        return self._value


class Trainable(Protocol):
    """What the training loop needs of a method."""

    clip: Clip

    def parameters(self) -> Sequence[Tensor] | Sequence[dict[str, Any]]:
        """Return the tensors to train, perhaps in groups."""
        ...

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the loss of one batch."""
        ...

    def train_step(self, step: TrainStep) -> None:
        """Train on one batch."""
        ...

    def after_step(self) -> None:
        """Act after a step."""
        ...

    def after_epoch(self, task: TaskData, epoch: int) -> None:
        """Act after a pass over the images."""
        ...


@dataclass(frozen=True)
class StepTools:
    """What all steps of a task are made with.

    `counted` takes a mean loss and over how many images it is; `apart` a sum over images of other processes.
    """

    loss: Callable[[Tensor, Tensor, TaskData], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    grad_clip: float | None
    counted: Callable[[Tensor, int], None]
    apart: Callable[[Tensor], None]


@dataclass
class TrainStep:
    """One step of training, as `Method.train_step` gets it: a batch, and what can be done with it.

    In the simplest case a step calls `backward` and `update` once each. It may call both as often as it needs to. Each
    image of the batch counts in the loss of the epoch once, so all but one of the passes that see an image say
    ``counts=False``.

    Attributes
    ----------
    pixels : Tensor
        The images of this process, float32 [batch, 3, height, width]; all of the batch where a run has one process.
    labels : Tensor
        int64 [batch], index into ``task.prompts``.
    task : TaskData
    number : int
        Steps of the task that were done before: with ``generator(seed, purpose, task.index, number)`` a run that is
        continued draws the same.
    steps : int
        Steps that the task has in all.
    parameters : sequence of Tensor
        What is trained. After `backward` each has its gradient in ``grad``; None where the loss does not depend on it.
    """

    pixels: Tensor
    labels: Tensor
    task: TaskData
    number: int
    steps: int
    parameters: Sequence[Tensor]
    _tools: StepTools = field(repr=False)
    _batch: int = field(repr=False)
    _unscaled: bool = field(default=False, repr=False)
    _images: int = field(default=0, repr=False)

    @property
    def lr(self) -> float:
        """The learning rate of this step; that of the first group where there are several."""
        return float(self._tools.optimizer.param_groups[0]["lr"])

    def backward(
        self,
        chosen: Tensor | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        counts: bool = True,
        beside: Callable[[], Tensor] | None = None,
    ) -> None:
        """Put the gradient of the mean loss over images of the batch into ``grad`` of all that is trained.

        The gradients of an earlier call are dropped. The mean is over the images of all processes. A loss that is
        scaled up for fp16 has its gradients scaled back. They may not be finite then, and `update` leaves the step out.

        Parameters
        ----------
        chosen : Tensor, optional
            Which images of this process, int64 indices or bool [batch]; all by default. Without an image in any process
            the gradients are zero. Every process has to call `backward` and `update` equally often.
        loss : callable, optional
            Takes pixels and labels of those images and returns their mean loss, as `Method.loss` does; that is the
            default.
        counts : bool, optional
            Count the images in the loss of the epoch, and report the loss to listeners.
        beside : callable, optional
            Returns what is added to the loss and is no mean over the images of the batch: a penalty on parameters, or a
            loss of other images. It is called in every process, and what the processes return is added up.
        """
        world, pixels, labels = self.task.context.world, self.pixels, self.labels
        if self._unscaled:  # the scaler looks at every gradient, and continues with the next one
            self._tools.scaler.update()
        if chosen is not None:
            pixels, labels = pixels[chosen], labels[chosen]
        for parameter in self.parameters:
            parameter.grad = None
        share: float | Tensor = 1.0
        if world.size > 1:  # Each has the mean over its images, and the sum over processes is the mean over all.
            share = len(labels) / self._batch if chosen is None else self._share(len(labels))
        objective = None if beside is None else beside()
        if len(labels):  # none for some process where there are fewer images than processes
            value = self._tools.loss(pixels, labels, self.task) if loss is None else loss(pixels, labels)
            mine = value if world.size == 1 else value * share
            objective = mine if objective is None else mine + objective
            self._tools.counted((value if beside is None else objective / share).detach(), len(labels) * counts)
            self._images += len(labels) * counts
        elif objective is not None:
            self._tools.apart(objective * self._batch * counts)
        if objective is not None and (beside is None or objective.requires_grad):
            self._tools.scaler.scale(objective).backward()
        elif world.size == 1:
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter)
        world.sum_gradients(self.parameters)
        self._tools.scaler.unscale_(self._tools.optimizer)
        self._unscaled = True

    def _share(self, images: int) -> Tensor:
        total = torch.tensor(float(images), device=self.labels.device)
        self.task.context.world.sum([total])
        return images / total.clamp(min=1)

    def update(self) -> None:
        """Change what is trained by one step of the optimiser along its gradients, clipped as ``train.grad_clip`` says.

        A step whose gradients are not finite in fp16 is left out.
        """
        if self._tools.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._tools.grad_clip)
        self._tools.scaler.step(self._tools.optimizer)
        self._tools.scaler.update()
        self._unscaled = False

    def close(self) -> None:
        """End the step; the loop calls this.

        Raises
        ------
        UserError
            If an image counted in the loss of the epoch more or less often than once.
        """
        if self._unscaled:
            self._tools.scaler.update()
        if self._images != len(self.labels):
            raise UserError(
                f"train_step counted the loss of {self._images} images in a batch of {len(self.labels)}: let backward "
                "count each image once, and say counts=False in all other calls"
            )


def fit(
    method: Trainable,
    task: TaskData,
    train: Train,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> int:
    """Train `method.parameters()` on a task for the given budget.

    Every epoch sees all images once, shuffled, the last partial batch included; a budget in steps may end inside one.
    The parameters require gradients only in here. Training that was broken off continues from `task.resume`; after
    every step `task.safe_point` may keep where it stands.

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
    given = method.parameters()
    parameters = tensors_of(given)
    if not parameters:
        return 0
    world = task.context.world
    world.broadcast(parameters)
    images, steps = len(task.train), steps_of(train, len(task.train))
    steps_per_epoch = epoch_steps(train, images)
    optimizer = build_optimizer(given, train)
    schedule = build_schedule(optimizer, train, steps, steps_per_epoch)
    # Gradients in fp16 are scaled up, since small ones would vanish; a step whose gradients overflow is left out.
    scaler = torch.amp.GradScaler(task.tokens.device.type, enabled=method.clip.precision == torch.float16)
    # Losses are summed on the device: reading one at every step would make the device wait.
    first, step, device = 0, 0, task.tokens.device
    losses = Losses(device, world)
    if task.resume is not None:
        first, step, total = restore_training(task.resume, optimizer, schedule, scaler, world, steps_per_epoch)
        losses = Losses(device, world, step, total, step * train.batch_size if world.leads else 0)
        for _ in range(first * steps_per_epoch + step):
            on_step()
    observers, reading, epoch = task.context.observers, Reading(), first

    def figures() -> str:
        loss = reading.look(losses.mean())
        return ("" if loss is None else f"loss {loss:.3f}, ") + f"lr {optimizer.param_groups[0]['lr']:.2g}"

    def counted(loss: Tensor, images: int) -> None:
        if observers and images:
            observers.report("loss", task.name, epoch=epoch, step=step, loss=loss)
        losses.add(loss, images)

    tools = StepTools(method.loss, optimizer, scaler, train.grad_clip, counted, lambda total: losses.add_sum(total))
    batches = partial(task.batches, "train", batch_size=train.batch_size, share="images", bar=False)
    with method.clip.trainable(parameters):
        for epoch in range(first, math.ceil(steps / steps_per_epoch)):
            total_now = partial(losses.total, task.name, epoch, train.lr)
            stop = min(steps_per_epoch, steps - epoch * steps_per_epoch)
            for pixels, labels in batches(epoch, skip=step, stop=stop):
                number, whole = epoch * steps_per_epoch + step, min(train.batch_size, images - step * train.batch_size)
                one = TrainStep(pixels, labels, task, number, steps, parameters, tools, whole)
                method.train_step(one)
                one.close()
                losses.end_step()
                if schedule is not None:
                    schedule.step()
                method.after_step()
                step += 1
                on_step()
                task.progress(figures)
                task.safe_point(partial(capture_training, optimizer, schedule, scaler, epoch, step, total_now))
            mean = float(total_now()) / min(images, stop * train.batch_size)
            method.after_epoch(task, epoch)
            on_epoch(EpochReport(epoch, mean, optimizer.param_groups[0]["lr"]))
            step, losses = 0, Losses(device, world)
    return sum(parameter.numel() for parameter in parameters)

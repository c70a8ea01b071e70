"""What methods that forget have in common: a low-rank update trained on images that stay and on images to forget.

A step of training has one batch of either kind. The candidates of every cross-entropy are all names of the request,
forgotten ones included, so what is forgotten must lose against its own name too. Only the image tower is trained by
default: the features of the names are a frozen head then, encoded once a request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import KINDS, TOWERS, Method, TaskData, UserError, setting, torch

from .low_rank import Targets, attach, kaiming_uniform, targets, tensors_named

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import TrainStep, World


# ---- losses


def bound_of(names: int, margin: float) -> float:
    """Return BND, the cross-entropy beyond which nothing more is forgotten: ln of the number of names, and a margin.

    A model that knows nothing about an image has a cross-entropy of ln of the number of names.

    Parameters
    ----------
    names : int
        |Y|.
    margin : float
        delta.
    """
    return math.log(names) + margin


def shared_mean(values: Tensor, world: World | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean of values that several processes have, as a part of each process and as a number.

    Parameters
    ----------
    values : Tensor [n]
        Those of this process, perhaps none.
    world : World, optional
        The processes; this one alone by default.

    Returns
    -------
    part : Tensor []
        Differentiable; the parts of all processes add up to the mean.
    mean : Tensor []
        The mean over the values of all processes, without gradient; 0 if there are none.
    """
    total, count = values.detach().sum(), values.new_tensor(float(len(values)))
    if world is not None:
        world.sum([total, count])
    count = count.clamp(min=1)
    return values.sum() / count, total / count


def forgetting_loss(values: Tensor, bound: float, world: World | None = None) -> Tensor:
    """Return L_f = relu(BND - mean of the losses): it falls as the losses rise, and ends at the bound.

    The hinge is around the mean of the batch, as in the released code of GS-LoRA. An image beyond the bound is pushed
    on while the mean is below, and one that is very far beyond it can end the push for the whole batch.

    Parameters
    ----------
    values : Tensor [n]
        Loss of every image to forget: its cross-entropy, or its divergence from the prototype.
    bound : float
        BND; infinity leaves the hinge out, and returns minus the mean.
    world : World, optional
        The processes that share the batch. Each gets its part, and the parts add up to the loss.

    Returns
    -------
    Tensor []
        Without gradient from the bound on.
    """
    part, mean = shared_mean(values, world)
    if math.isinf(bound):
        return -part
    processes = 1 if world is None else world.size
    return torch.where(mean < bound, bound / processes - part, torch.zeros_like(part))


# ---- the common method


@dataclass
class Adapted(Targets):
    """Which maps are trained."""

    maps: list[str] = setting(["fc1", "fc2"], "kinds of linear maps that are trained", choices=KINDS)
    towers: list[str] = setting(
        ["image"], "towers that are trained; without text, a name keeps its place", choices=TOWERS
    )
    rank: int = setting(8, "columns of an update, which has the factor 1 / rank", low=1, symbol="r")


@dataclass
class Bounded(Adapted):
    """The same, and how far forgetting goes."""

    margin: float = setting(
        3.0, "what is added to ln of the number of names, for the loss at which forgetting ends", symbol="delta"
    )
    bound: float | None = setting(
        None, "that loss itself, in place of ln and margin; 105 in GS-LoRA's scripts", above=0, symbol="BND"
    )

    def bound_for(self, names: int) -> float:
        """Return BND for a number of names."""
        return bound_of(names, self.margin) if self.bound is None else self.bound


class Forgets(Method):
    """A fresh low-rank update a request, merged at its end; a step is what `kept` and `gone` say."""

    @dataclass
    class Settings(Adapted):
        """Which maps are trained."""

    kinds = ("forgetting",)
    defaults = {"train.weight_decay": 0.0}
    wants_images = True
    """Whether it needs images of every class that it is to forget."""

    def setup(self) -> None:
        """Choose the maps; refuse requests with classes to forget that have no image."""
        for request, names in self.context.without_images.items() if self.wants_images else ():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"method {self.registry_name} forgets by images, and request {request} has none of "
                f"{names[0]!r}{more}: choose erase-text, or a stream that has them"
            )
        self.targets = targets(self.clip, self.settings)
        self.texts: Tensor | None = None

    def begin_task(self, task: TaskData) -> None:
        """Attach a new update to every map, A uniform and B = 0; encode the names where the text tower is frozen."""
        if "text" not in self.settings.towers:
            with torch.no_grad():
                self.texts = self.clip.encode_prompts(task.prompts)
        draw, rank = task.init_generator("lora"), self.settings.rank
        for linear_map in self.targets:
            attach(linear_map, kaiming_uniform((rank, linear_map.in_features), draw), self.scale)

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return 1 / self.settings.rank

    def parameters(self) -> Sequence[Tensor]:
        """Return A and B of every update."""
        return tensors_named(self.targets, "A", "B")

    def names(self, task: TaskData) -> Tensor:
        """Return the features of all names, [names, width]."""
        return self.clip.encode_tokens(task.tokens) if self.texts is None else self.texts

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the cross-entropy of images over all names."""
        return self.kept(pixels, labels, self.names(task), task)

    def train_step(self, step: TrainStep) -> None:
        """Make one step on a batch that stays and a batch to forget."""
        task, names = step.task, self.names(step.task)
        step.backward(
            loss=lambda pixels, labels: self.kept(pixels, labels, names, task), beside=lambda: self.gone(step, names)
        )
        step.update()

    def kept(self, pixels: Tensor, labels: Tensor, names: Tensor, task: TaskData) -> Tensor:
        """Return the mean loss of images that stay: CE_r."""
        return task.cross_entropy(self.clip.logits(self.clip.encode_images(pixels), names), labels)

    def gone(self, step: TrainStep, names: Tensor) -> Tensor:
        """Return this process's part of all other losses; by default nothing."""
        return names.new_zeros(())

    def losses_to_forget(self, step: TrainStep, names: Tensor) -> Tensor:
        """Return the cross-entropy of every image of the batch to forget, [images of this process]."""
        pixels, labels = step.task.batch_to_forget(step.number)
        if not len(labels):
            return names.new_zeros(0)
        logits = self.clip.logits(self.clip.encode_images(pixels), names)
        return step.task.cross_entropy(logits, labels, reduction="none")

    def end_task(self, task: TaskData) -> None:
        """Merge the update; the features of the names are not kept."""
        self.texts = None
        super().end_task(task)

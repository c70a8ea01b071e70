"""What forgetting is compared with: nothing, tuning on what stays, training again, and gradient ascent.

Gradient ascent is the usual baseline of machine unlearning (Graves et al., arXiv 2010.10981; Thudi et al., arXiv
2109.13398): steps that raise the loss of what is to be forgotten, and look at nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import Method, ParityCard, TaskData, UserError, register, torch

from .forgetting import Bounded, Forgets, forgetting_loss
from .low_rank import Targets

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import TrainStep

MAPS = "the maps, the rank and the factor of gs-lora's updates, so that the losses alone differ"


@register("method", "no-op", title="The model as it is, whatever is asked")
class NoOp(Method):
    """Forget nothing: what every request is measured against."""

    kinds = ("forgetting",)
    constant = True
    parity = ParityCard(
        present=("the model that the run starts with answers before and after every request",),
        verified=("the contract of constant methods (tests)",),
    )


@register("method", "retain-only", title="Tuning on what is to stay, nothing more", paper="the usual baseline")
class RetainOnly(Forgets):
    """CE_r alone: shows what a model forgets because it is trained on other classes."""

    kinds = ("forgetting",)
    wants_images = False
    parity = ParityCard(
        present=("cross-entropy of the images that stay, over all names, forgotten ones included",),
        deviations=(MAPS,),
        verified=("images to forget are never read (tests)",),
    )


class Climbs(Forgets):
    """Looks at the images to forget alone; the images that stay decide how many steps there are."""

    kinds = ("forgetting",)

    def kept(self, pixels: Tensor, labels: Tensor, names: Tensor, task: TaskData) -> Tensor:
        """Return nothing: the images that stay are not looked at."""
        return names.new_zeros(())

    def bound_for(self, names: int) -> float:
        """Return the loss at which ascent ends."""
        return math.inf

    def gone(self, step: TrainStep, names: Tensor) -> Tensor:
        """Return this process's part of the loss to forget."""
        return forgetting_loss(self.losses_to_forget(step, names), self.bound_for(len(names)), self.context.world)


@register("method", "ascent", title="Gradient ascent on what is to be forgotten", paper="arXiv 2010.10981")
class Ascent(Climbs):
    """Minus CE_f, without an end and without a look at what stays."""

    parity = ParityCard(
        present=("steps along the gradient of the mean cross-entropy of the images to forget",),
        absent=("a loss of what stays, which variants of it add: that is lora-forget, with an end",),
        deviations=(MAPS, "as many steps as a pass over the images that stay has, like all methods here"),
        verified=("the first gradient is minus that of the cross-entropy, in float64 (tests)",),
    )


@register("method", "bounded-ascent", title="Gradient ascent up to a bound", paper="the bound of arXiv 2403.11530")
class BoundedAscent(Climbs):
    """relu(BND - CE_f): the same ascent, which ends at GS-LoRA's bound."""

    @dataclass
    class Settings(Bounded):
        """Which maps are trained, and where ascent ends."""

    parity = ParityCard(
        present=("GS-LoRA's loss to forget alone: relu(BND - CE_f), BND = ln of the number of names plus 3",),
        deviations=Ascent.parity.deviations,
        verified=("no gradient beyond the bound (tests)",),
    )

    def bound_for(self, names: int) -> float:
        """Return BND."""
        bound: float = self.settings.bound_for(names)
        return bound


@register("method", "retrain", title="Training again without what is to be forgotten", paper="the usual upper bound")
class Retrain(Forgets):
    """Go back to the pre-trained weights at every request, and train them on what stays: LoRA on both towers."""

    @dataclass
    class Settings(Targets):
        """Which maps are trained; the defaults are those of lora."""

    kinds = ("forgetting",)
    wants_images = False
    scale = 1.0
    parity = ParityCard(
        present=("what no training has taught need not be forgotten: the start run's training is undone",),
        deviations=(
            "the pre-trained model knows classes that it was never trained on here; nothing can take that away but "
            "another pre-training, so accuracy on what is to be forgotten ends near zero-shot accuracy",
            "trained with plain LoRA, rank 16 on q, k, v, o of both towers, factor 1, whatever the start run did",
        ),
        verified=("a request starts with the pre-trained weights, and reads no image to forget (tests)",),
    )

    def setup(self) -> None:
        """Refuse a run that begins with the pre-trained weights."""
        super().setup()
        if self.context.pretrained is None and self.context.training_images is not None:
            raise UserError(
                "method retrain undoes the training of a finished run, and this run begins with the pre-trained model, "
                "which nobody can pre-train again: add start=RUN, a run that learned the classes"
            )

    def begin_task(self, task: TaskData) -> None:
        """Put the pre-trained weights back and attach a new update."""
        assert self.context.pretrained is not None
        weights = self.clip.model.state_dict()
        with torch.no_grad():
            for name, tensor in self.context.pretrained().items():
                weights[name].copy_(tensor)
        super().begin_task(task)

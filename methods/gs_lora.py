"""GS-LoRA and GS-LoRA++: forgetting by low-rank updates of which whole blocks are pushed towards zero.

Zhao et al., arXiv 2403.11530 and 2501.09705. A request names classes to forget. On the MLPs of the image tower,
W + B A / r with A [r, in] and B [out, r]; the group g of a block is {A1, B1, A2, B2}. With a batch that stays (r) and
a batch to forget (f), over all names Y, the loss of a step is

    L = CE_r + beta relu(BND - CE_f) + alpha sum_g ||g||_2
        + a_f relu(BND_p - KL_f) + a_r KL_r                        (GS-LoRA++ alone)

where CE and KL are means over their batch, the hinges are around these means, and KL = KL(softmax(p_y) || softmax(z)):
z is what the model says of an image, p_y the mean of z over the images of its class before the request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import ParityCard, TaskData, register, setting, torch, with_defaults

from .forgetting import Bounded, Forgets, forgetting_loss
from .low_rank import tensors_named

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import LinearMap, TrainStep

ACTIVE = 0.01
"""A group counts as active from this share of the largest group's norm on."""


def group_norms(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the 2-norm of every group of tensors: the root of the sum of all its squared entries.

    Parameters
    ----------
    groups : sequence of sequence of Tensor
        The tensors of each group, of any shapes.

    Returns
    -------
    Tensor [groups]
        Its gradient is theta / ||g||, and zero for a group of zeros. The released code has no number there. What that
        code logs is another figure: the sum of the norms of a group's matrices.
    """
    squares = torch.stack([torch.stack([tensor.square().sum() for tensor in group]).sum() for group in groups])
    present = squares > 0
    return torch.where(present, squares, torch.ones_like(squares)).sqrt() * present


def class_sums(outputs: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return sums of outputs by class, of which prototypes are made, and how many there are of each.

    Parameters
    ----------
    outputs : Tensor [images, d]
        z.
    labels : int64 Tensor [images]
    classes : int

    Returns
    -------
    sums : Tensor [classes, d]
    counts : Tensor [classes]
        Both of the type of `outputs`.
    """
    sums, counts = outputs.new_zeros(classes, outputs.shape[1]), outputs.new_zeros(classes)
    return sums.index_add(0, labels, outputs), counts.index_add(0, labels, torch.ones_like(outputs[:, 0]))


def divergence(prototypes: Tensor, outputs: Tensor) -> Tensor:
    """Return KL(softmax(prototype) || softmax(output)) of every image, without any temperature.

    Parameters
    ----------
    prototypes : Tensor [images, d]
        p_y, the prototype of each image's class.
    outputs : Tensor [images, d]
        z.

    Returns
    -------
    Tensor [images]
        Zero where both are the same, up to a constant; never negative but for rounding.
    """
    known, said = prototypes.log_softmax(dim=-1), outputs.log_softmax(dim=-1)
    return (known.exp() * (known - said)).sum(dim=-1)


@register("method", "gs-lora", title="Forget with group-sparse low-rank updates", paper="GS-LoRA, arXiv 2403.11530")
class GsLora(Forgets):
    """GS-LoRA on the MLPs of the image tower, one group a block.

    Attributes
    ----------
    figures : dict of str to object
        Norms of the groups in the request just carried out.
    """

    kinds = ("forgetting",)
    baseline = True

    @dataclass
    class Settings(Bounded):
        """Which maps are trained, and the weights of the losses."""

        beta: float = setting(0.2, "weight of the loss to forget", low=0, symbol="beta")
        sparsity: float = setting(1e-4, "weight of the sum of the groups' norms", low=0, symbol="alpha")
        sparsity_after: int = setting(
            0, "epochs before that sum counts; 20 or 30 in some of the released scripts", low=0, symbol="E_a"
        )

    parity = ParityCard(
        present=(
            "updates of both maps of every image MLP, rank 8, factor 1/r, A uniform, B = 0, merged after the request",
            "CE_r + beta relu(BND - CE_f) + alpha times the sum of the groups' 2-norms; the hinge around the mean",
            "candidates are all names, forgotten ones included; an epoch is one pass over what stays, and the images "
            "to forget begin again in every epoch; sparsity from a later epoch on",
        ),
        absent=(
            "the running average of the weights, which in the released code is the model without updates",
            "margin and dropout of the face model, which CLIP has not",
        ),
        deviations=(
            "CLIP's prompts are the frozen head, with CLIP's own temperature",
            "BND is ln of the number of names plus 3: 105 belongs to a scaled head with a margin (gs-lora-faithful)",
            "one beta for all requests; the scripts have one for each, from 0.2 to 0.25",
            "the gradient of a group of zeros is zero; the released code has none there",
            "A starts alike at every request; the released code starts later requests at a third of the size",
            "no weight decay: it would shrink groups beside the sparsity",
        ),
        verified=("float64 transcriptions of the definitions, worked examples, a problem of four classes (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps, and put those of a block into one group."""
        super().setup()
        self.groups: dict[str, list[LinearMap]] = {}
        for linear_map in self.targets:
            self.groups.setdefault(f"{linear_map.tower}.{linear_map.block}", []).append(linear_map)
        self.figures: dict[str, Any] = {}

    def norms(self) -> Tensor:
        """Return the 2-norm of every group, [groups]."""
        return group_norms([tensors_named(maps, "A", "B") for maps in self.groups.values()])

    def weight_of_sparsity(self, step: TrainStep) -> float:
        """Return alpha at a step: 0 in the first epochs, where the settings say so."""
        epoch = step.number // math.ceil(len(step.task.train) / step.task.budget.batch_size)
        return self.settings.sparsity if epoch >= self.settings.sparsity_after else 0.0

    def gone(self, step: TrainStep, names: Tensor) -> Tensor:
        """Return beta L_f and alpha L_s."""
        bound, world = self.settings.bound_for(len(names)), self.context.world
        lost = self.settings.beta * forgetting_loss(self.losses_to_forget(step, names), bound, world)
        return lost + self.sparse(step)

    def sparse(self, step: TrainStep) -> Tensor | float:
        """Return this process's part of alpha L_s."""
        weight = self.weight_of_sparsity(step)
        return weight * self.norms().sum() / self.context.world.size if weight else 0.0

    def end_task(self, task: TaskData) -> None:
        """Measure the groups and merge them."""
        norms, names = self.norms().tolist(), list(self.groups)
        deltas = [[m.update.delta() for m in maps if m.update] for maps in self.groups.values()]
        self.figures = {
            "group_norms": dict(zip(names, norms, strict=True)),
            "change_norms": dict(zip(names, group_norms(deltas).tolist(), strict=True)),
            "active_groups": sum(norm >= ACTIVE * max(norms) > 0 for norm in norms),
        }
        super().end_task(task)

    def report(self) -> dict[str, Any]:
        """Return the 2-norm of every group, that of its change of the weights, and how many groups are active.

        A group is active if its norm is at least a hundredth of the largest one: no norm becomes exactly zero.
        """
        return dict(self.figures)


@register("method", "lora-forget", title="GS-LoRA without sparsity", paper="the ablation in GS-LoRA, arXiv 2403.11530")
class LoraForget(GsLora):
    """The same losses without the sum of the groups' norms."""

    Settings = with_defaults(GsLora.Settings, sparsity=0.0)
    parity = ParityCard(
        present=("gs-lora with alpha = 0, the paper's ablation",),
        deviations=GsLora.parity.deviations[:3],
        verified=("the same tests as gs-lora",),
    )


@register("method", "gs-lora-pp", title="GS-LoRA with prototypes of the classes", paper="GS-LoRA++, arXiv 2501.09705")
class GsLoraPP(GsLora):
    """GS-LoRA++: images to forget are pushed away from their class's prototype, others may be pulled to theirs.

    Attributes
    ----------
    prototypes : Tensor [classes, d] or None
        Mean outputs by class of the model that entered the request, while it is carried out.
    """

    @dataclass
    class Settings(GsLora.Settings):
        """The same, and the weights of the divergences from prototypes."""

        proto: str = setting(
            "logits",
            "what prototypes are means of: logits over all names, or as released what the tower reads of an image "
            "(embedding)",
            choices=("logits", "embedding"),
        )
        push: float = setting(0.01, "weight of the divergence of images to forget", low=0, symbol="a_f")
        pull: float = setting(
            0.0, "weight of the divergence of images that stay; 0 in the released main scripts", low=0, symbol="a_r"
        )
        push_bound: float | None = setting(
            None, "divergence at which the push ends; null is BND; 18 in the released scripts", above=0, symbol="BND_p"
        )

    parity = ParityCard(
        present=(
            *GsLora.parity.present,
            "a_f relu(BND_p - KL_f) + a_r KL_r, not multiplied by beta; KL(softmax(prototype) || softmax(output))",
            "prototypes of the model that enters the request, from its images as a test sees them",
        ),
        absent=(*GsLora.parity.absent, "prototypes from randomly changed images, which one script has"),
        deviations=(
            "prototypes are mean logits over all names, as the paper describes them; proto=embedding takes what the "
            "tower reads of an image, after its last normalisation, as the released code",
            "BND_p is BND by default",
            *GsLora.parity.deviations,
        ),
        verified=GsLora.parity.verified,
    )

    def setup(self) -> None:
        """Choose the maps; there are no prototypes yet."""
        super().setup()
        self.prototypes: Tensor | None = None

    def begin_task(self, task: TaskData) -> None:
        """Compute the prototypes with the model as it is, then attach the update."""
        with self.context.part("prototypes"), torch.no_grad():
            self.prototypes = self._prototypes(task)
        super().begin_task(task)

    def _prototypes(self, task: TaskData) -> Tensor:
        """Return the mean output of every class, [classes, d]; zeros for classes without images."""
        names, world, device = self.clip.encode_prompts(task.prompts), self.context.world, self.clip.exact_device
        assert task.request is not None and task.request.pixels is not None
        forget = task.request.pixels
        to_forget = forget.take(world.my_batches(forget.plan(self.context.batch_size)))
        width = self.outputs(forget.clip.normalize(forget.uint8(torch.arange(1))), names)[0].shape[1]
        total = torch.zeros(len(names), width + 1, dtype=torch.float64, device=device)
        for batches in (task.batches("prototypes", share="batches"), to_forget):
            for pixels, labels in batches:
                outputs = self.outputs(pixels, names)[0].to(device).double()
                sums, counts = class_sums(outputs, labels.to(device), len(names))
                total += torch.cat([sums, counts[:, None]], dim=1)
        world.sum([total])
        return (total[:, :-1] / total[:, -1:].clamp(min=1)).to(names)

    def outputs(self, pixels: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        """Return z of images, [images, d], and their logits over all names."""
        read = self.clip.read_images(pixels)
        logits = self.clip.logits(self.clip.project_images(read), names)
        return (logits if self.settings.proto == "logits" else read), logits

    def _losses(self, pixels: Tensor, labels: Tensor, names: Tensor, task: TaskData) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the divergence of every image, [images] each."""
        if not len(labels):
            return names.new_zeros(0), names.new_zeros(0)
        outputs, logits = self.outputs(pixels, names)
        assert self.prototypes is not None
        return task.cross_entropy(logits, labels, "none"), divergence(self.prototypes[labels], outputs)

    def kept(self, pixels: Tensor, labels: Tensor, names: Tensor, task: TaskData) -> Tensor:
        """Return CE_r + a_r KL_r."""
        if not self.settings.pull:
            return super().kept(pixels, labels, names, task)
        entropies, divergences = self._losses(pixels, labels, names, task)
        return entropies.mean() + self.settings.pull * divergences.mean()

    def gone(self, step: TrainStep, names: Tensor) -> Tensor:
        """Return beta L_f, a_f times the hinge of KL_f, and alpha L_s."""
        chosen, world, bound = self.settings, self.context.world, self.settings.bound_for(len(names))
        losses = self._losses(*step.task.batch_to_forget(step.number), names, step.task)
        ends = bound if chosen.push_bound is None else chosen.push_bound
        lost, pushed = (forgetting_loss(*one, world) for one in zip(losses, (bound, ends), strict=True))
        return chosen.beta * lost + chosen.push * pushed + self.sparse(step)

    def end_task(self, task: TaskData) -> None:
        """Merge the update and drop the prototypes."""
        self.prototypes = None
        super().end_task(task)


RELEASED = {
    "train.optimizer": "adamw",
    "train.lr": 1e-2,
    "train.weight_decay": 0.05,
    "train.schedule": "cosine",
    "train.rate_per": "epoch",
    "train.warmup": 0.0,
    "train.lr_end": 1e-3,
    "train.epochs": 100,
    "train.batch_size": 48,
}
"""The budget of the released scripts: one rate an epoch, along a cosine from 1e-2 to 1e-5."""

BUDGET = (
    "the released scripts' optimiser, rates, decay, epochs and batch size, where the stream has no budget of its own"
)


@register("method", "gs-lora-faithful", title="GS-LoRA with the released constants", paper="GS-LoRA, arXiv 2403.11530")
class GsLoraFaithful(GsLora):
    """The released scripts for four requests of 20 of the 100 classes: BND 105, alpha 1e-4, their budget."""

    Settings = with_defaults(GsLora.Settings, bound=105.0)
    defaults = RELEASED
    parity = ParityCard(
        present=(*GsLora.parity.present, "BND = 105", BUDGET),
        absent=GsLora.parity.absent,
        deviations=(GsLora.parity.deviations[0], *GsLora.parity.deviations[2:5]),
        verified=GsLora.parity.verified,
    )


@register(
    "method", "gs-lora-pp-faithful", title="GS-LoRA++ with the released constants", paper="GS-LoRA++, arXiv 2501.09705"
)
class GsLoraPPFaithful(GsLoraPP):
    """The released script for ImageNet-100: prototypes of what the tower reads, a_f 0.05, bounds 105 and 18."""

    Settings = with_defaults(GsLoraPP.Settings, bound=105.0, proto="embedding", push=0.05, push_bound=18.0)
    defaults = RELEASED
    parity = ParityCard(
        present=(*GsLoraPP.parity.present, "proto=embedding, BND = 105, BND_p = 18, a_f = 0.05", BUDGET),
        absent=GsLoraPP.parity.absent,
        deviations=GsLoraFaithful.parity.deviations,
        verified=GsLora.parity.verified,
    )

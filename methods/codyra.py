"""CoDyRA: rank-one components with gates, of which training removes some. Lu et al., arXiv 2412.01004.

For every adapted map, before each task: A [r, in] uniform as in LoRA, B [out, r] zero, g [r] drawn from N(0, 1). The
map computes with W + sum_i g_i B_i A_i = W + (B diag g) A, and A, B and g are trained:

1. the loss is the cross-entropy over the task's classes; the released code adds one over the images of a batch;
2. an l1 penalty on g is solved by a proximal step after the optimiser's: T_kappa(g) moves every gate by kappa towards
   zero, and sets to zero those within kappa of it;
3. kappa is 0 in the dense first half of the steps, then rises in `lambda_num` levels to kappa_max;
4. what the gates left is merged, and A, B and g are drawn again for the next task.

The sum of all kappa decides how many gates survive. It grows with the number of steps, so ``codyra`` fixes the sum
(kappa_sum, by default that of the paper's 500 steps). ``codyra-faithful`` fixes kappa_max and is the released code.
It is one file, to be read beside one paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import (
    Flags,
    Method,
    ParityCard,
    TaskData,
    Update,
    UserError,
    no_grad,
    register,
    setting,
    steps_of,
    torch,
    with_defaults,
)

from .low_rank import Targets, kaiming_uniform, targets, tensors_named

if TYPE_CHECKING:
    from torch import Tensor

FARTHEST = {"normal": 4.0, "one": 1.0}
"""How far from zero gates start: of 16,000 draws from N(0, 1) one is beyond 4."""


def thresholds(steps: int, dense: float, lambda_num: int, kappa_max: float) -> list[float]:
    """Return the threshold after every step of a task.

    With D = dense * N, the index of the level goes up at the start of every step t >= D that is a multiple of
    floor((N - D) / lambda_num), and the rule is applied after steps t > D. So the first level, 0, is never applied if D
    is such a multiple, and the last one is reached before the end and held. A task with fewer steps than levels has as
    many levels as steps.

    Parameters
    ----------
    steps : int
        N, the optimiser steps of the task.
    dense : float
        Share of the steps without thresholds, in [0, 1).
    lambda_num : int
        Number of equally spaced levels from 0 to `kappa_max`; at least 2.
    kappa_max : float
        The highest level.

    Returns
    -------
    list of float
        kappa after each of the steps; 0 where none is applied.
    """
    start = dense * steps
    levels = max(2, min(lambda_num, math.floor(steps - start)))
    every = max(1, math.floor((steps - start) / levels))
    marks, level = [], 0
    for step in range(steps):
        if step >= start and step % every == 0:
            level = min(level + 1, levels - 1)
        marks.append(kappa_max * level / (levels - 1) if step > start else 0.0)
    return marks


def soft_threshold(g: Tensor, kappa: float) -> Tensor:
    """Return the gates moved by kappa towards zero, and zero where they are within kappa of it: the paper's T_kappa.

    Parameters
    ----------
    g : Tensor [n]
    kappa : float

    Returns
    -------
    Tensor [n]
    """
    return g.sign() * (g.abs() - kappa).clamp(min=0)


def released_threshold(g: Tensor, kappa: float) -> Tensor:
    """Return the gates as the released code leaves them: moved by kappa, then zero where they are less than kappa.

    So gates become zero from 2 kappa on, except one of exactly kappa, which stays.

    Parameters
    ----------
    g : Tensor [n]
    kappa : float

    Returns
    -------
    Tensor [n]
    """
    moved = torch.where(g.abs() > kappa, g - g.sign() * kappa, g)
    return torch.where(moved.abs() < kappa, torch.zeros_like(moved), moved)


RULES = {"paper": soft_threshold, "released": released_threshold}
"""What is done to the gates after a step, by the value of the setting."""


def text_loss(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the released code's second loss: for every class, which images of the batch are of it.

    A class's target is one for each of its images, not divided by their number, and the mean is over all classes met so
    far. Those that are not in the batch add nothing but to that number.

    Parameters
    ----------
    logits : Tensor [batch, classes of the task]
        Cosine similarities times the logit scale.
    labels : int64 Tensor [batch]
    classes : int
        C, how many classes this and all earlier tasks have.

    Returns
    -------
    Tensor
        Scalar: ``-1/C sum_i log softmax over the batch of logits[:, y_i]``, taken at i.
    """
    return -logits.log_softmax(dim=0).gather(1, labels[:, None]).sum() / classes


class Gated(Update):
    """The change ``(B diag g) A`` of a weight.

    Parameters
    ----------
    A : Tensor [r, in]
        Rows of the components.
    B : Tensor [out, r]
        Their columns.
    g : Tensor [r]
        Their gates.
    """

    def __init__(self, A: Tensor, B: Tensor, g: Tensor):
        self.A, self.B, self.g = A, B, g

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A [r, in] and B diag g [out, r]."""
        return self.A, self.B * self.g


@register("method", "codyra", title="Gates on components, thinned out in training", paper="CoDyRA, arXiv 2412.01004")
class Codyra(Method):
    """CoDyRA with the same sum of thresholds on every task, however many steps it has.

    Attributes
    ----------
    kappas : list of float
        The threshold after every step of the current task.
    step : int
        How many of its steps are done.
    gates : dict of map name to int
        How many gates of the task just learned are not zero.
    earlier : int
        Number of classes of earlier tasks, for the text loss.
    """

    @dataclass
    class Settings(Targets):
        """Which maps are adapted, and how their gates are thinned out."""

        rank: int = setting(16, "components of an update", low=1, symbol="r")
        dense: float = setting(
            0.5, "share of a task's steps before the first threshold", low=0, below=1, symbol="dense_iters"
        )
        kappa_sum: float | None = setting(
            0.65, "sum of a task's thresholds, whatever its number of steps; null where kappa_max is given", above=0
        )
        kappa_max: float | None = setting(
            None, "highest threshold, with method.kappa_sum=null; 0.005 in the paper", above=0, symbol="kappa_max"
        )
        lambda_num: int = setting(
            50, "levels of the threshold, at most one a step that is left", low=2, symbol="lambda_num"
        )
        threshold: str = setting(
            "paper", "what becomes zero: gates within kappa of it, or (released code) within 2 kappa",
            choices=tuple(RULES), symbol="T_kappa",
        )  # fmt: skip
        gate_init: str = setting("normal", "start of the gates: N(0, 1), or one", choices=tuple(FARTHEST), symbol="g")
        text_loss: bool = setting(
            False,
            "add the released code's loss of every class over the images of a batch; with the image tower only",
        )

        def check(self) -> list[str]:
            """Return what contradicts itself, whatever the model is."""
            problems = super().check()
            if (self.kappa_sum is None) == (self.kappa_max is None):
                problems.append(
                    "method.kappa_sum and method.kappa_max decide the same: give one of them and set the other to null"
                )
            elif self.kappa_sum is not None and (problem := self.kills("method.kappa_sum", self.kappa_sum)):
                problems.append(problem)
            return problems

        def kills(self, key: str, total: float) -> str:
            """Return what is wrong with a sum of thresholds that no gate would survive; empty if some would."""
            if total < FARTHEST[self.gate_init]:
                return ""
            return (
                f"{key} takes {total:.3g} off every gate, which kills them all, since they start within "
                f"{FARTHEST[self.gate_init]:g} of zero: lower it"
            )

    defaults = {"train.weight_decay": 0.0}
    flags = Flags()
    parity = ParityCard(
        present=(
            "one gate a component, A, B and g trained, no factor alpha / r, merged after the task",
            "proximal steps after the optimiser's in the second half of a task, with 50 rising thresholds",
        ),
        absent=("the second loss of the released code (text_loss)",),
        deviations=(
            "the sum of the thresholds is the paper's (0.65) on every task, however many steps it has; at a fixed "
            "kappa_max a task of 5,000 steps would lose all gates, one of 100 steps a tenth (kappa_sum)",
            "gates within kappa of zero become zero, as in the paper; in the released code within 2 kappa (threshold)",
            "q, k, v, o, the maps that all methods adapt here; the paper adapts fc1 and fc2 too",
            "the budget is the stream's, with weight decay 0",
        ),
        verified=("float64 transcriptions of schedule, rules and losses, on their published values (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt."""
        self.targets = targets(self.clip, self.settings)
        self.gates: dict[str, int] = {}
        self.earlier = 0
        self.step = 0
        self.kappas: list[float] = []
        if self.settings.text_loss and self.context.world.size > 1:
            raise UserError(
                "method.text_loss compares all images of a batch, which several processes share: use one process, or "
                "set method.text_loss=false"
            )

    def begin_task(self, task: TaskData) -> None:
        """Lay out the thresholds, and attach new components and gates to every map."""
        chosen = self.settings
        self.step = 0
        self.kappas = self.schedule(steps_of(task.budget, len(task.train)))
        self._check_schedule(task)
        draw = task.init_generator("codyra")
        for m in self.targets:
            A = kaiming_uniform((chosen.rank, m.in_features), draw)
            g = torch.randn(chosen.rank, generator=draw) if chosen.gate_init == "normal" else torch.ones(chosen.rank)
            A, g = A.to(m.parameter), g.to(m.parameter)
            m.update = Gated(A, torch.zeros(m.out_features, chosen.rank).to(A), g)
        self.context.observers.report("method", task.name, "thresholds", kappas=self.kappas)

    def schedule(self, steps: int) -> list[float]:
        """Return the thresholds of a task with that many steps, as the settings say."""
        chosen = self.settings
        highest = chosen.kappa_max
        if highest is None:
            unit = sum(thresholds(steps, chosen.dense, chosen.lambda_num, 1.0))
            highest = chosen.kappa_sum / unit if unit else 0.0
        return thresholds(steps, chosen.dense, chosen.lambda_num, highest)

    def _check_schedule(self, task: TaskData) -> None:
        """Refuse thresholds that no gate survives on the first task; say where there are none."""
        total = sum(self.kappas)
        if task.index == 0 and (problem := self.settings.kills("method.kappa_max", total)):
            raise UserError(f"{problem} (task {task.name} has {len(self.kappas)} steps)")
        if not total:
            steps = "1 step" if len(self.kappas) == 1 else f"{len(self.kappas)} steps"
            self.context.say(
                f"note: task {task.name} has {steps}, too few to thin out its gates "
                f"(method.dense={self.settings.dense:g})"
            )

    def parameters(self) -> Sequence[Tensor]:
        """Return A, B and g of every update."""
        return tensors_named(self.targets, "A", "B", "g")

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the cross-entropy over the task's prompts, and the text loss where it is wanted."""
        logits = self.clip.logits(self.clip.encode_images(pixels), self.clip.encode_tokens(task.tokens))
        loss = task.cross_entropy(logits, labels)
        if self.settings.text_loss and "image" in self.settings.towers:
            loss = loss + text_loss(logits, labels, self.earlier + len(task.prompts))
        return loss

    @no_grad
    def after_step(self) -> None:
        """Apply the threshold of this step to all gates."""
        kappa = self.kappas[self.step]
        self.step += 1
        if kappa:
            gates = tensors_named(self.targets, "g")
            thinned = RULES[self.settings.threshold](torch.cat(gates), kappa)  # at once: they are many and small
            for gate, values in zip(gates, thinned.split(self.settings.rank), strict=True):
                gate.copy_(values)

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Count what the gates left, and merge it."""
        gates = torch.stack(tensors_named(self.targets, "g"))
        self.context.observers.report("method", task.name, "gates", gates=gates)
        counts = (gates != 0).sum(dim=1).tolist()
        self.gates = dict(zip((m.name for m in self.targets), counts, strict=True))
        if not any(counts):
            self.context.say(
                f"note: all gates of task {task.name} are zero (its thresholds sum to {sum(self.kappas):.3g}): nothing "
                "of it is learned"
            )
        self.earlier += len(task.prompts)
        super().end_task(task)

    def report(self) -> dict[str, Any]:
        """Return how many gates are not zero, and the sum of the thresholds."""
        return {"gates": dict(self.gates), "kappa_sum": sum(self.kappas)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return how many classes there were, which the text loss alone asks for."""
        return {"earlier": torch.tensor(self.earlier)} if self.settings.text_loss else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.earlier = int(state.get("earlier", 0))

    def training_state(self) -> dict[str, Tensor]:
        """Return how many steps of the task are done."""
        return {"step": torch.tensor(self.step)}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `training_state` returned."""
        self.step = int(state["step"])


@register("method", "codyra-faithful", title="CoDyRA as its released code", paper="CoDyRA, arXiv 2412.01004")
class CodyraFaithful(Codyra):
    """The released code: six maps of a block, two losses, 500 steps with thresholds up to 0.005."""

    Settings = with_defaults(
        Codyra.Settings,
        maps=["q", "k", "v", "o", "fc1", "fc2"],
        kappa_sum=None,
        kappa_max=0.005,
        threshold="released",
        text_loss=True,
    )
    defaults = {
        "train.steps": 500,
        "train.batch_size": 64,
        "train.lr": 5e-4,
        "train.schedule": "cosine",
        "train.warmup": 0.0,
        "train.betas": [0.9, 0.9999],
        "train.weight_decay": 0.0,
        "train.augment": "crop",
    }
    parity = ParityCard(
        present=(
            "q, k, v, o, fc1 and fc2 of both towers, r = 16: 4.4 M trained values on ViT-B/16",
            "the thresholds of the released code, step by step, and its rule, which zeroes gates within 2 kappa",
            "both losses, the second over the images of a batch and divided by the number of classes met so far",
            "500 steps of 64 images, AdamW 5e-4 (0.9, 0.9999), cosine to zero, random crops of 0.9 to 1",
        ),
        deviations=(
            "the class prompts are the stream's, the same in training and test; the released code takes the first "
            "template of each set and raw class names",
            "what a stream says about its budget wins over the 500 steps of 64 images",
            "a task with fewer thresholded steps than levels has fewer levels; the released code then never prunes",
            "images are drawn by seed, purpose, task and epoch, and the last batch of an epoch may be smaller",
        ),
        verified=Codyra.parity.verified,
    )

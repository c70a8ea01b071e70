"""ZSCL: fine-tune, distil on a reference set, average along training. Zheng et al., arXiv 2303.06628, ICCV 2023.

theta_0 is the pre-trained model, theta_{t-1} the one that task t starts from, f_0 and f the image features of theta_0
and of the model in training, E the features of all reference sentences by theta_0, and s = exp(logit_scale), frozen.
For each step of a task:

1. the cross-entropy of a batch of the task over its prompts, with the run's label smoothing;
2. L_wc, the sum over everything trained of (theta - theta_{t-1})^2: a sum, not a mean;
3. a batch of reference images x gives teacher logits P = s f_0(x) E^T and student logits S = s f(x) E^T. With
   ``distil(P, S)`` = T^2 mean_rows CE(softmax(P / T), S / T), L_img = distil(P, S) holds every image's answers over the
   sentences, and L_txt = distil(P^T, S^T) every sentence's over the images of the batch. Sentences are encoded by the
   teacher alone, so neither has a gradient in the student's text tower;
4. loss = CE + a L_wc + b L_img + c L_txt, all weights 1 in the paper, and a step of the optimiser;
5. after some steps, the first and the last among them, the weights are a snapshot. The result of the task is the plain
   mean of theta_{t-1} and all snapshots, with which the next task starts.

``zscl-full`` trains both towers. ``zscl-lora`` trains a LoRA, where theta - theta_{t-1} is s B A: L_wc is then the sum
of |s B A|_F^2 = s^2 tr((B^T B)(A A^T)), and the mean is that of the products, which is not the product of means.

The teacher's features never change, so each image and each sentence of the reference set is encoded by it once. Several
processes share the batches of the task; each takes the whole reference batch, whose images L_txt compares. It is
one file, to be read beside one paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.api import F, Flags, Method, ParityCard, TaskData, generator, no_grad, register, setting, steps_of, torch

from .finetune import Finetune
from .full_finetuning import LAST_STEP, LOOP, PROMPTS, RATES, RELEASED, distil, whole_towers
from .lora import Lora

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import Reference, TrainStep

# ---- the decisive computations


def squared_distance(now: Iterable[Tensor], before: Iterable[Tensor]) -> Tensor:
    """Return L_wc: the sum of the squared differences of all weights.

    Parameters
    ----------
    now, before : iterable of Tensor
        In the same order and of the same shapes; at least one.

    Returns
    -------
    Tensor
        Scalar, differentiable with respect to `now`.
    """
    pairs = zip(now, before, strict=True)
    return torch.stack([F.mse_loss(one, other, reduction="sum") for one, other in pairs]).sum()


def squared_product(A: Tensor, B: Tensor) -> Tensor:
    """Return |B A|_F^2 = tr((B^T B)(A A^T)) without forming the product.

    Parameters
    ----------
    A : Tensor [r, in]
    B : Tensor [out, r]

    Returns
    -------
    Tensor
        Scalar, differentiable.
    """
    return ((B.T @ B) * (A @ A.T)).sum()  # both are symmetric


def snapshots(steps: int, count: int) -> list[int]:
    """Return after which steps of a task the weights are a snapshot: evenly, from the first step to the last.

    With 1000 steps and 11 snapshots these are 0, 100, ..., 900 and 999, with 1001 steps 0, 100, ..., 1000.

    Parameters
    ----------
    steps : int
        Steps of the task, numbered from 0.
    count : int
        Snapshots; fewer where there are fewer steps. One alone is taken after the last step, 0 is none.

    Returns
    -------
    list of int
        Numbers of steps, in order.
    """
    gaps = count - 1
    if gaps < 1:
        return [steps - 1] * count
    return sorted({min(one * steps // gaps, steps - 1) for one in range(count)})


def averaged(mean: Tensor, number: int, snapshot: Tensor) -> Tensor:
    """Return the mean with a snapshot more: (n mean + snapshot) / (n + 1), in place.

    Parameters
    ----------
    mean : Tensor
        Of the start and the snapshots so far; changed.
    number : int
        How many these are, n; 1 for the start alone.
    snapshot : Tensor

    Returns
    -------
    Tensor
        `mean`.
    """
    return mean.lerp_(snapshot, 1 / (number + 1))


# ---- the methods


@dataclass
class Distillation:
    """Weights of the losses, and how the average is taken."""

    anchor: float = setting(
        1.0, "weight of the squared distance to the weights that the task started from", low=0, symbol="L_wc"
    )
    image_loss: float = setting(
        1.0, "weight of the distillation of each reference image's answers over the sentences", low=0, symbol="L_img"
    )
    text_loss: float = setting(
        1.0, "weight of the distillation of each sentence's answers over the images of a batch", low=0, symbol="L_txt"
    )
    temperature: float = setting(2.0, "what both models' logits are divided by", above=0, symbol="T")
    snapshots: int = setting(
        11,
        "snapshots in the average, evenly from the first step of a task to its last; the paper takes one every 100 of "
        "its 1001 steps, which are 11; 0 averages nothing",
        low=0,
    )


class Zscl(Method, ABC):
    """What ZSCL adds to a method that trains a task; it comes before that method among the bases of a class.

    Attributes
    ----------
    known_images, known_texts : Tensor [images, width], Tensor [sentences, width]
        The teacher's features of the reference set.
    mean : dict of str to Tensor
        The average so far of what the method trains; empty between tasks, and where nothing is averaged.
    """

    defaults = {"train.weight_decay": 0.0}
    changes_at_end = True

    @classmethod
    def flags_for(cls, settings: Any) -> Flags:
        """Return that the reference set is outside data, where something is distilled."""
        return Flags(outside_data="reference" if settings.image_loss or settings.text_loss else "")

    def setup(self) -> None:
        """Keep the pre-trained model until the first task has asked it about the reference set."""
        super().setup()
        self.distils = bool(self.settings.image_loss or self.settings.text_loss)
        loaded = self.context.reference is None  # a model that is loaded after its run learns nothing any more
        self.teacher = self.clip.frozen() if self.distils and not loaded else None
        self.known_images = self.known_texts = torch.empty(0, device=self.clip.device)
        self.mean: dict[str, Tensor] = {}
        self.figures: dict[str, Any] = {}
        self._walk: tuple[tuple[int, int], Sequence[Tensor]] | None = None

    @abstractmethod
    def current(self) -> dict[str, Tensor]:
        """Return what is averaged as it is now, without gradients."""

    @abstractmethod
    def distance(self) -> Tensor:
        """Return L_wc."""

    @property
    def reference(self) -> Reference:
        """The reference set of the run."""
        reference = self.context.reference
        assert reference is not None  # by the flag of a method that distils
        return reference

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Ask the teacher about the reference set, once, and begin the average with the weights as they are."""
        super().begin_task(task)
        if self.distils and not len(self.known_images):
            self._ask_teacher()
        self.mean = {name: now.clone() for name, now in self.current().items()} if self.settings.snapshots else {}
        due = snapshots(steps_of(task.budget, len(task.train)), self.settings.snapshots)
        self.figures = {"snapshots": len(due)}

    def _ask_teacher(self) -> None:
        reference, size = self.reference, self.context.batch_size
        assert self.teacher is not None  # as there is a reference set

        def compute() -> dict[str, Tensor]:
            batches = reference.pixels.batches(size)
            texts = [self.clip.encode_tokens(part) for part in reference.tokens.split(256)]
            return {
                "images": torch.cat([self.clip.encode_images(one) for one, _ in batches]),
                "texts": torch.cat(texts),
            }

        key = [self.context.weights, size, *reference.pixels.identity(), *reference.sentences]
        with self.context.part("reference"), self.teacher:
            features = self.shared("features of the reference set", key, compute)
        self.known_images, self.known_texts = (features[name].to(self.clip.device) for name in ("images", "texts"))
        self.teacher = None

    def reference_batch(self, task: TaskData, number: int) -> Tensor:
        """Return the reference images of a step, in an order of its own, which begins again where it is used up.

        It depends on (data seed, task, walk) alone. A batch is as large as the task's and always full, since its size
        decides the scale of L_txt; what is left over at the end of a walk is left out.

        Parameters
        ----------
        task : TaskData
        number : int
            Steps of the task that were done before.

        Returns
        -------
        Tensor
            Their indices, int64 [batch], on the CPU.
        """
        pixels, context = self.reference.pixels, self.context
        size = min(task.budget.batch_size, len(pixels))
        walk, index = divmod(number, len(pixels) // size)
        if self._walk is None or self._walk[0] != (task.index, walk):
            drawn = pixels.plan(size, generator(context.data_seed, "reference", task.index, walk), drop_last=True)
            self._walk = (task.index, walk), context.order.plan(task.name, "reference", walk, drawn, len(pixels))
        return self._walk[1][index]

    def distillation(self, chosen: Tensor) -> Tensor:
        """Return L_img and L_txt with their weights, summed.

        Parameters
        ----------
        chosen : Tensor
            Indices of reference images, int64 [batch], on the CPU.

        Returns
        -------
        Tensor
            Scalar, differentiable with respect to the image tower.
        """
        weights, T = self.settings, self.settings.temperature
        there = chosen.to(self.clip.device, non_blocking=True)  # nobody waits for a CUDA device
        P = self.clip.logits(self.known_images[there], self.known_texts)
        S = self.clip.logits(self.clip.encode_images(self.reference.images(chosen)), self.known_texts)
        return weights.image_loss * distil(P, S, T) + weights.text_loss * distil(P.T, S.T, T)

    def train_step(self, step: TrainStep) -> None:
        """Train on a batch of the task and one of the reference set, and take a snapshot where one is due."""
        weights = self.settings
        terms: list[Callable[[], Tensor]] = []
        if weights.anchor:
            terms.append(lambda: weights.anchor * self.distance())
        if self.distils:
            terms.append(lambda: self.distillation(self.reference_batch(step.task, step.number)))
        # Every process has the same terms, and what they return is added up.
        step.backward(beside=partial(_sum, terms, self.context.world.size) if terms else None)
        step.update()
        due = snapshots(step.steps, weights.snapshots)
        if step.number in due:
            self._take(due.index(step.number) + 1)

    @no_grad
    def _take(self, number: int) -> None:
        for name, now in self.current().items():
            averaged(self.mean[name], number, now)

    def end_task(self, task: TaskData) -> None:
        """Forget the average, which the method has put in the place of the weights, and what was drawn."""
        super().end_task(task)
        self.mean, self._walk = {}, None

    def report(self) -> dict[str, Any]:
        """Return how many snapshots were averaged with the start of the task."""
        return dict(self.figures)

    def training_state(self) -> dict[str, Tensor]:
        """Return the average so far."""
        return dict(self.mean)

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `training_state` returned."""
        self.mean = {name: tensor.to(self.clip.device) for name, tensor in state.items()}


def _sum(terms: Iterable[Callable[[], Tensor]], processes: int) -> Tensor:
    """Return the share of one process in a sum of terms that all processes have."""
    return torch.stack([term() for term in terms]).sum() / processes


PRESENT = (
    "L_wc, L_img and L_txt with weight 1 each and T = 2, sentences by the teacher alone; cross-entropy over the task's "
    "prompts",
    "the mean of the start and 11 snapshots from the first step to the last, with which the next task starts",
    "reference images as a test sees them, in batches as large as the task's, in an order of their own",
)
CACHED = "the teacher encodes every reference image and sentence once; as released at every step, which is the same"
BUDGET = "the budget is the stream's, with weight decay 0 and the snapshots spread over its steps"
CHECKED = (
    "float64 transcriptions of the terms, worked examples of the mean; kept features are those of the untrained model; "
    "without weights and snapshots {plain} to the bit (tests)"
)


@register("method", "zscl-full", title="Full fine-tuning, distilled and averaged", paper="ZSCL, arXiv 2303.06628")
class ZsclFull(Zscl, Finetune):
    """ZSCL as published: all weights of both towers are trained, held to where the task started, and averaged.

    Attributes
    ----------
    start : list of Tensor
        theta_{t-1}, in the order of `parameters`; empty between tasks.
    """

    @dataclass
    class Settings(Distillation, Finetune.Settings):
        """Which towers are trained, weights of the losses, and how the average is taken."""

    parity = ParityCard(
        present=(*PRESENT, "all parameters of both towers but the logit scale, as in `finetune`"),
        absent=("the class-incremental variant, with other numbers and reference images from Conceptual Captions",),
        deviations=(BUDGET, CACHED, PROMPTS),
        verified=(CHECKED.format(plain="full fine-tuning"),),
    )

    def setup(self) -> None:
        """Check that there is something to train."""
        super().setup()
        self.start: list[Tensor] = []

    def begin_task(self, task: TaskData) -> None:
        """Keep the weights that the task starts from, beside what `Zscl.begin_task` does."""
        super().begin_task(task)
        self.start = [one.detach().clone() for one in self.parameters()] if self.settings.anchor else []

    def current(self) -> dict[str, Tensor]:
        """Return all weights that are trained."""
        return {name: one.detach() for name, one in whole_towers(self.clip, self.settings.towers).items()}

    def distance(self) -> Tensor:
        """Return the sum of (theta - theta_{t-1})^2."""
        return squared_distance(self.parameters(), self.start)

    def end_task(self, task: TaskData) -> None:
        """Put the average in the place of the weights."""
        for name, weight in self.current().items() if self.mean else ():
            weight.copy_(self.mean[name])
        self.start = []
        super().end_task(task)


@register("method", "zscl-full-faithful", title="ZSCL as its released code", paper="ZSCL, arXiv 2303.06628")
class ZsclFullFaithful(ZsclFull):
    """The released loop: 1000 steps and one of rate 0, 64 images, a rate of 1e-5, label smoothing 0.2."""

    defaults = RELEASED
    parity = ParityCard(
        present=(*ZsclFull.parity.present, LOOP),
        absent=(*ZsclFull.parity.absent, RATES),
        deviations=(
            "what a stream says about its budget wins over the 1000 steps of 64 images",
            f"{LAST_STEP}, and the last snapshot is taken after step 1000",
            *ZsclFull.parity.deviations[1:],
            "the reference set is the run's; as released ImageNet's training images and the captions of Conceptual "
            "Captions' validation part",
        ),
        verified=ZsclFull.parity.verified,
    )


@register("method", "zscl-lora", title="LoRA, distilled and averaged", paper="ZSCL, arXiv 2303.06628")
class ZsclLora(Zscl, Lora):
    """ZSCL on low-rank updates of q, k, v and o: the same losses and the same mean, of the products B A."""

    @dataclass
    class Settings(Distillation, Lora.Settings):
        """Which maps are adapted, the scale of the update, weights of the losses, and how the average is taken."""

    parity = ParityCard(
        present=PRESENT,
        absent=("training of whole towers (zscl-full)",),
        deviations=(
            "LoRA in the place of full fine-tuning: the squared distance is the norm of s B A, and the average is over "
            "s B A, one full matrix a map while a task is learned",
            BUDGET,
            CACHED,
        ),
        verified=(CHECKED.format(plain="plain LoRA"), "the trace formula is the norm of the product (tests)"),
    )

    def current(self) -> dict[str, Tensor]:
        """Return s B A of every map."""
        return {m.name: m.update.delta().detach() for m in self.targets if m.update}

    def distance(self) -> Tensor:
        """Return the sum of |s B A|_F^2 over all maps."""
        updates = [m.update for m in self.targets if m.update]
        return torch.stack([one.scale**2 * squared_product(*one.factors()) for one in updates]).sum()

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Add the averaged product to the weights, in the place of the trained one."""
        for m in self.targets if self.mean else ():
            m.update = None
            m.add(self.mean[m.name])
        super().end_task(task)

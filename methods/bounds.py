"""Upper bounds: what the same training gives without any forgetting.

``joint`` trains once on the training images of all tasks; ``independent`` trains every task from the untrained model
and keeps what each of them changed. Both train all weights of the towers, or low-rank updates, with the stream's budget
and rate. No method learns under these conditions: they are reference lines for those that learn task after task.

For a batch of joint training with labels y_n of tasks t_n, and logits z_nc over the classes c of all tasks,

    loss = mean_n [ (1 - s) (-log p_n(y_n)) + s mean_{c in t_n} (-log p_n(c)) ],
    p_n(c) = exp z_nc / sum_{c' in t_n} exp z_nc'

where s is the label smoothing: an image is classified among the classes of its own task. Where tests classify among
the classes of several tasks, it is classified among all classes of the stream, each prompt once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import Flags, LabelSpace, Method, ParityCard, TaskData, no_grad, register, setting, torch

from .full_finetuning import whole_towers
from .low_rank import Targets, attach, kaiming_uniform, targets, tensors_named

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

FULL, LORA = "full", "lora"
"""What is trained: all weights of the towers but the logit scale, as ``finetune`` does, or what ``lora`` trains."""


# ---- the decisive computation


def own_classes(logits: Tensor, labels: Tensor, owners: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of images, each among the classes of its own task.

    Parameters
    ----------
    logits : Tensor [images, classes]
        Over the classes of all tasks.
    labels : Tensor [images], int64
    owners : Tensor [classes], int64
        The task of each class.
    smoothing : float
        The share of the target that is spread over all classes of the task.

    Returns
    -------
    Tensor
        Scalar.
    """
    own = owners[labels][:, None] == owners
    logs = logits.masked_fill(~own, -torch.inf).log_softmax(dim=1)
    spread = -logs.masked_fill(~own, 0.0).sum(dim=1) / own.sum(dim=1)
    return ((1 - smoothing) * -logs.gather(1, labels[:, None])[:, 0] + smoothing * spread).mean()


# ---- what both have in common


class Bound(Method):
    """Trains all weights or low-rank updates, as ``finetune`` and ``lora`` do with the same seeds."""

    @dataclass
    class Settings(Targets):
        """What is trained; maps, rank and scale are those of low-rank updates."""

        form: str = setting(
            FULL, "what is trained: all weights of the towers, or low-rank updates", choices=(FULL, LORA)
        )
        alpha: float = setting(
            16.0, "scale of the update times the rank; alpha = rank gives factor 1", above=0, symbol="alpha"
        )

    def setup(self) -> None:
        """Choose what is trained."""
        self.low_rank = self.settings.form == LORA
        self.targets = targets(self.clip, self.settings) if self.low_rank else []

    def begin_task(self, task: TaskData) -> None:
        """Attach a new update to every target, where these are trained."""
        draw = task.init_generator("lora")
        for m in self.targets:
            attach(m, kaiming_uniform((self.settings.rank, m.in_features), draw), self._scale)

    @property
    def _scale(self) -> float:
        return float(self.settings.alpha / self.settings.rank)

    def parameters(self) -> Sequence[Tensor]:
        """Return all weights of the chosen towers but the logit scale, or both factors of every update."""
        if self.low_rank:
            return tensors_named(self.targets, "A", "B")
        return list(whole_towers(self.clip, self.settings.towers).values())


# ---- all tasks at once


@register("method", "joint", title="Upper bound: trained on all tasks at once")
class Joint(Bound):
    """Train once, from the untrained model, on the training images of all tasks with the sum of their budgets."""

    bound = True
    ceiling = True
    scalars = (
        "zero_shot", "average_mtil", "average_cil", "average_cil_pooled", "last", "last_pooled", "probe", "probe_loss"
    )  # fmt: skip
    at_once = True
    flags = Flags(in_advance=True)
    parity = ParityCard(
        present=(
            "one training on the union of all training images, shuffled together, at the first task; as many passes "
            "as each task has, or the sum of the steps",
            "an image is classified among its own task's prompts, or among all prompts of the stream where tests are",
        ),
        deviations=(
            "no task is unseen after the first one and nothing is forgotten: Transfer and Backward say nothing, and "
            "all rows after row 0 are one model",
            "every step encodes the prompts of all tasks, where other methods encode those of one",
        ),
        verified=("the loss against a loop over images in float64; each image once in every pass (tests)",),
    )

    def begin_task(self, task: TaskData) -> None:
        """Find the prompts that several tasks share, since tests count them as one class."""
        super().begin_task(task)
        self.tokens, self.places = task.tokens.unique(dim=0, return_inverse=True)

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the cross-entropy over the prompts among which a test would classify the images."""
        if task.owners is None:  # a single task, as where costs are measured
            return super().loss(pixels, labels, task)
        images = self.clip.encode_images(pixels)
        if self.context.label_space != "task":
            texts = self.clip.encode_tokens(self.tokens)
            return task.cross_entropy(self.clip.logits(images, texts), self.places[labels])
        logits = self.clip.logits(images, self.clip.encode_tokens(task.tokens))
        return own_classes(logits, labels, task.owners, task.budget.label_smoothing)

    def end_task(self, task: TaskData) -> None:
        """Merge the updates."""
        super().end_task(task)
        del self.tokens, self.places


# ---- each task by itself


@register("method", "independent", title="Upper bound: every task trained from the untrained model, a model a task")
class Independent(Bound):
    """Train every task from the untrained model and keep what it changed; a test set gets the model of its task."""

    bound = True
    scalars = ("zero_shot", "average_mtil", "last", "learning")
    label_spaces = ("task",)
    changes_at_end = True
    flags = Flags(task_at_test=True, grows="a model a task, or a low-rank update a task", extended=True)
    parity = ParityCard(
        present=(
            "every task from the untrained model with the stream's budget, as `finetune` and `lora` train it",
            "all weights that a task changed, or its A and B, kept; the untrained model for tasks not learned yet",
        ),
        absent=("label spaces with classes of several tasks: each image would need the model of its own task",),
        deviations=("Transfer equals zero-shot and nothing is forgotten, by construction",),
        verified=("the diagonal has the bits of single trainings by `finetune` and `lora` (tests)",),
    )

    def setup(self) -> None:
        """Find the weights that change; keep them as they are in the untrained model, where training writes on them."""
        super().setup()
        changing = {id(m.parameter) for m in self.targets} or set(map(id, self.parameters()))
        parameters = self.clip.model.named_parameters()
        self.changing: dict[str, Parameter] = {n: p for n, p in parameters if id(p) in changing}
        self.untrained = {} if self.low_rank else {n: _kept(p) for n, p in self.changing.items()}
        self.models: dict[int, dict[str, Tensor]] = {}

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Keep what the task changed, in host memory, and go back to the untrained model."""
        changed: dict[str, Tensor] = {}
        for m in self.targets:
            assert m.update is not None, "a task was begun"
            changed |= {f"{m.name}/{factor}": tensor for factor, tensor in m.update.tensors().items()}
            m.update = None
        for name, before in self.untrained.items():
            if not torch.equal(self.changing[name].cpu(), before):
                changed[name] = self.changing[name]
        self.models[task.index] = {name: _kept(tensor) for name, tensor in changed.items()}
        for name, before in self.untrained.items():
            self.changing[name].copy_(before)

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier of the task whose prompts these are; before it is learned the untrained model."""
        owners = set(space.tasks)
        index = owners.pop() if len(owners) == 1 else -1
        if index not in self.models:
            return super().classifier(space)
        weights = self._weights(index)
        with self._with(weights):
            texts = self.clip.encode_prompts(space.prompts)

        def classify(pixels: Tensor) -> Tensor:
            with self._with(weights):
                return self.clip.logits(self.clip.encode_images(pixels), texts)

        return classify

    @no_grad
    def _weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a task's model that are not the untrained ones, by name, on the model's device."""
        kept = {name: tensor.to(self.clip.device) for name, tensor in self.models[index].items()}
        if not self.low_rank:
            return kept
        weights = {name: parameter.detach().clone() for name, parameter in self.changing.items()}
        with self._with(weights):  # merged in place, as `lora` does it
            for m in self.targets:
                attach(m, kept[f"{m.name}/A"], self._scale, kept[f"{m.name}/B"])
            self.clip.merge()
        return weights

    @contextmanager
    def _with(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """While open, compute with these weights."""
        before = {name: self.changing[name].data for name in weights}
        try:
            for name, value in weights.items():
                self.changing[name].data = value
            yield
        finally:
            for name, value in before.items():
                self.changing[name].data = value

    def state_dict(self) -> dict[str, Tensor]:
        """Return what every task changed."""
        return {f"{index}/{name}": tensor for index, kept in self.models.items() for name, tensor in kept.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.models = {}
        for key, tensor in state.items():
            index, _, name = key.partition("/")
            self.models.setdefault(int(index), {})[name] = tensor


def _kept(tensor: Tensor) -> Tensor:
    """Return a copy in host memory."""
    return tensor.detach().to("cpu", copy=True)

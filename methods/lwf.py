"""LwF and LwF-VR: full fine-tuning that keeps the previous model's answers on the images of the task at hand.

Li and Hoiem, arXiv 1606.09282 (LwF), and Ding et al., arXiv 2207.09248 (LwF-VR, for CLIP), as ZSCL, arXiv 2303.06628,
runs them.

theta_{t-1} is the model that task t starts from, in the first task the pre-trained one; f_{t-1} and f are the image
features of theta_{t-1} and of the model in training, E the features of some texts by theta_{t-1}, and s = exp(logit
scale), frozen. For each batch x of the task:

1. the cross-entropy over the task's prompts, with the run's label smoothing;
2. teacher logits P = s f_{t-1}(x) E^T and student logits S = s f(x) E^T. With ``distil(P, S)`` = T^2 mean_rows
   CE(softmax(P / T), S / T), L_img = distil(P, S) keeps every image's answers over the texts, and L_txt = distil(P^T,
   S^T) every text's over the images of the batch;
3. loss = CE + a L_img + b L_txt.

The texts of ``lwf`` are the prompts of all earlier tasks, and those of ``lwf-vr`` random sentences. theta_{t-1} alone
encodes them, once a task, so neither distillation has a gradient in the text tower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import Flags, Frozen, ParityCard, TaskData, UserError, no_grad, register, setting, torch, with_defaults

from .finetune import Finetune
from .full_finetuning import LAST_STEP, LOOP, PROMPTS, RATES, RELEASED, distil, refuse_text_loss, whole_towers
from .known_classes import once

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 256
"""Texts that the teacher encodes at a time."""


# ---- the decisive computations


def kept_answers(P: Tensor, S: Tensor, T: float, image_loss: float, text_loss: float) -> Tensor:
    """Return a L_img + b L_txt.

    Parameters
    ----------
    P, S : Tensor [images, texts]
        Logits of teacher and student.
    T : float
        What both are divided by.
    image_loss, text_loss : float
        a and b.

    Returns
    -------
    Tensor
        Scalar, differentiable with respect to `S`.
    """
    loss = image_loss * distil(P, S, T)
    return loss + text_loss * distil(P.T, S.T, T) if text_loss else loss


def sentences(empty: Tensor, drawn: Tensor) -> Tensor:
    """Return texts of drawn tokens, between the start and the end token.

    Parameters
    ----------
    empty : Tensor
        The tokens of the empty text, int64 [context length]: start, end, padding.
    drawn : Tensor
        int64 [texts, tokens], at most two tokens fewer than the context has.

    Returns
    -------
    Tensor
        int64 [texts, context length].
    """
    count, length = drawn.shape
    start, end = (part.expand(count, -1) for part in (empty[:1], empty[1 : len(empty) - length]))
    return torch.cat([start, drawn, end], dim=1)


# ---- the methods


@dataclass
class Answers(Finetune.Settings):
    """Which towers are trained, and how strongly the answers of the previous model are kept."""

    image_loss: float = setting(1.0, "weight of the distillation of each image's answers over the texts", low=0)
    text_loss: float = setting(
        0.0, "weight of the distillation of each text's answers over the images of a batch; as released 1", low=0
    )
    temperature: float = setting(2.0, "what both models' logits are divided by", above=0, symbol="T")


class KeepsAnswers(Finetune, ABC):
    """What LwF and LwF-VR have in common; they differ in the texts.

    Attributes
    ----------
    teacher : Frozen or None
        The image tower that the task started from; None between tasks.
    texts : Tensor or None
        E, float32 [texts, width]; None between tasks.
    """

    defaults = {"train.weight_decay": 0.0}

    def setup(self) -> None:
        """Check that there is something to train; refuse a loss that several processes cannot share."""
        super().setup()
        self.teacher: Frozen | None = None
        self.texts: Tensor | None = None
        refuse_text_loss(self.settings.text_loss, self.context.world, "images of a batch")

    @abstractmethod
    def distilled(self, task: TaskData) -> Tensor:
        """Return the tokens of the texts, int64 [texts, context length], on the model's device."""

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Let the model as it is encode the texts, and keep its image tower."""
        super().begin_task(task)
        if not (self.settings.image_loss or self.settings.text_loss):
            return
        with self.context.part("teacher"):
            parts = self.distilled(task).split(CHUNK)
            self.texts = torch.cat([self.clip.encode_tokens(part) for part in parts])
            self.teacher = self.clip.frozen(whole_towers(self.clip, ["image"]).values(), host=False)

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the cross-entropy over the task's prompts, and what is distilled."""
        images = self.clip.encode_images(pixels)
        loss = task.cross_entropy(self.clip.logits(images, self.clip.encode_tokens(task.tokens)), labels)
        if self.teacher is None or self.texts is None:
            return loss
        with torch.no_grad(), self.teacher:
            taught = self.clip.encode_images(pixels)
        P, S = (self.clip.logits(features, self.texts) for features in (taught, images))
        own = self.settings
        return loss + kept_answers(P, S, own.temperature, own.image_loss, own.text_loss)

    def end_task(self, task: TaskData) -> None:
        """Forget the teacher."""
        super().end_task(task)
        self.teacher = self.texts = None


READ = (
    "written from ZSCL's released loop and scripts, which run both methods; the papers of LwF and LwF-VR were not read"
)
BUDGET = "the budget is the stream's, with weight decay 0"
IMAGES = (
    "the images are those of the batch itself, changed at random where the run says so; as released a second batch of "
    "the task, as a test sees them"
)
TEXT_TOWER = "as released the texts are the teacher's, so distillation trains the image tower alone"
ROWS = "as released L_txt has weight 1 too (method.text_loss=1)"
CHECKED = "float64 transcriptions of both losses; without weights full fine-tuning to the bit (tests)"


@register("method", "lwf", title="Fine-tuning that keeps the last model's answers", paper="LwF, arXiv 1606.09282")
class Lwf(KeepsAnswers):
    """Distil the previous model over the prompts of earlier tasks, on the images of the task.

    Attributes
    ----------
    earlier : Tensor
        Tokens of the prompts of all earlier tasks, each once, int64 [prompts, context length], on the CPU.
    """

    @dataclass
    class Settings(Answers):
        """Which towers are trained, and which answers of the previous model are kept."""

        prompts: str = setting(
            "earlier",
            "the texts: prompts of all earlier tasks, in the first task its own; or (released) those of the task",
            choices=("earlier", "task"),
        )

    flags = Flags(grows="the prompts of every task")
    parity = ParityCard(
        present=(
            "the previous model's answers on the images of the task over the classes of earlier tasks, softened with T "
            "= 2 and kept with weight 1; no image and no other text of earlier tasks",
            "in the first task the pre-trained model's answers over the task's own prompts, as released",
            "all parameters of both towers but the logit scale, as in `finetune`",
        ),
        absent=("a warm-up in which only the new head is trained: there is no head",),
        deviations=(
            READ,
            "as released the texts are the prompts of the task at hand, in every task (method.prompts=task)",
            ROWS,
            TEXT_TOWER,
            IMAGES,
            BUDGET,
        ),
        verified=(CHECKED,),
    )

    @classmethod
    def flags_for(cls, settings: Settings) -> Flags:
        """Return that nothing is kept where earlier prompts are not asked."""
        return cls.flags if settings.prompts == "earlier" else Flags()

    def setup(self) -> None:
        """Check the settings; there is no earlier task."""
        super().setup()
        self.earlier = torch.zeros(0, self.clip.context_length, dtype=torch.int64)

    def distilled(self, task: TaskData) -> Tensor:
        """Return the prompts of earlier tasks, or those of the task."""
        return self.earlier.to(self.clip.device) if len(self.earlier) else task.tokens

    def end_task(self, task: TaskData) -> None:
        """Forget the teacher, and remember the prompts."""
        super().end_task(task)
        if self.settings.prompts == "earlier":
            self.earlier = once(torch.cat([self.earlier, task.tokens.cpu()]))[0]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prompts of earlier tasks, where they are asked."""
        return {"earlier": self.earlier} if self.settings.prompts == "earlier" else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.earlier = state.get("earlier", self.earlier)


@register("method", "lwf-vr", title="LwF over random sentences", paper="LwF-VR, arXiv 2207.09248")
class LwfVr(KeepsAnswers):
    """Distil the previous model over random sentences, on the images of the task: vocabulary replay."""

    @dataclass
    class Settings(Answers):
        """Which towers are trained, and over which sentences the answers of the previous model are kept."""

        sentences: int = setting(1000, "random sentences of a task", low=1)
        length: int = setting(10, "random tokens of a sentence", low=1)

    parity = ParityCard(
        present=(
            "the previous model's answers on the images of the task over 1000 sentences of 10 random tokens, drawn "
            "once a task; in the first task those of the pre-trained model",
            "all parameters of both towers but the logit scale, as in `finetune`",
        ),
        deviations=(
            READ,
            "start and end tokens are never drawn; as released a sentence may have one, and then ends there",
            ROWS,
            TEXT_TOWER,
            IMAGES,
            BUDGET,
        ),
        verified=(CHECKED, "the form of the sentences, and that they depend on seed and task alone (tests)"),
    )

    def setup(self) -> None:
        """Find the ordinary tokens; refuse sentences that do not fit into the context."""
        super().setup()
        self.empty = self.clip.tokenize([""])[0]
        start, end = self.empty[:2].tolist()
        if end != start + 1:
            raise UserError(
                "lwf-vr draws tokens below the start token, and the tokenizer of this model has no start and end token "
                "at the end of its vocabulary: choose an OpenAI or LAION model of CLIP, or method=lwf"
            )
        longest = self.clip.context_length - 2
        if self.settings.length > longest:
            raise UserError(
                f"method.length={self.settings.length} does not fit into the context of this model: at most {longest}"
            )

    def distilled(self, task: TaskData) -> Tensor:
        """Return random sentences, the same for (seed, task)."""
        size = (self.settings.sentences, self.settings.length)
        drawn = torch.randint(int(self.empty[0]), size, generator=task.init_generator("lwf-vr"))
        return sentences(self.empty, drawn.to(self.empty.device))


@register("method", "lwf-faithful", title="LwF as ZSCL's released code", paper="LwF, arXiv 1606.09282")
class LwfFaithful(Lwf):
    """The released loop: the texts are the prompts of the task at hand, and both distillations have weight 1."""

    Settings = with_defaults(Lwf.Settings, prompts="task", text_loss=1.0)
    defaults = RELEASED
    parity = ParityCard(
        present=(
            "the answers of the previous model, in the first task of the pre-trained one, over the prompts of the task "
            "at hand, for every image and for every text, with weight 1 each and T = 2",
            Lwf.parity.present[-1],
            LOOP,
        ),
        absent=(RATES,),
        deviations=(READ, IMAGES, LAST_STEP, PROMPTS),
        verified=Lwf.parity.verified,
    )


@register("method", "lwf-vr-faithful", title="LwF-VR as ZSCL's released code", paper="LwF-VR, arXiv 2207.09248")
class LwfVrFaithful(LwfVr):
    """The released loop: both distillations have weight 1."""

    Settings = with_defaults(LwfVr.Settings, text_loss=1.0)
    defaults = RELEASED
    parity = ParityCard(
        present=(
            *LwfVr.parity.present,
            "the same for every sentence over the images of a batch, with weight 1",
            LOOP,
        ),
        absent=(RATES,),
        deviations=(READ, LwfVr.parity.deviations[1], IMAGES, LAST_STEP, PROMPTS),
        verified=LwfVr.parity.verified,
    )

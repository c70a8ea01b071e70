"""WiSE-FT: full fine-tuning whose weights are averaged with those before. Wortsman et al., arXiv 2109.01903.

theta is what a task ends with, theta_0 the pre-trained model and theta_{t-1} the one that the task started from. After
each task

    theta <- alpha theta + (1 - alpha) theta_{t-1},    or with theta_0 in its place,

which is used for tests and by the next task. ZSCL, arXiv 2303.06628, runs it with theta_{t-1} and alpha = 0.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import Frozen, ParityCard, TaskData, no_grad, register, setting

from .finetune import Finetune
from .full_finetuning import LAST_STEP, LOOP, PROMPTS, RATES, RELEASED

if TYPE_CHECKING:
    from torch import Tensor


def averaged(new: Tensor, old: Tensor, alpha: float) -> Tensor:
    """Return alpha new + (1 - alpha) old.

    Parameters
    ----------
    new, old : Tensor
        Of one shape.
    alpha : float
        From 0 to 1. With 1 it is `new` to the bit, with 0 `old`.

    Returns
    -------
    Tensor
    """
    return alpha * new + (1 - alpha) * old


BOTH = "all parameters of both towers but the logit scale, as in `finetune`"


@register("method", "wise-ft", title="Fine-tuning, averaged with the weights before", paper="WiSE-FT, arXiv 2109.01903")
class WiseFt(Finetune):
    """Full fine-tuning; after each task the weights are moved back towards what they were.

    Attributes
    ----------
    before : Frozen or None
        theta_{t-1}, None between tasks; or theta_0.
    """

    @dataclass
    class Settings(Finetune.Settings):
        """Which towers are trained, and how their weights are averaged."""

        alpha: float = setting(
            0.8, "share of the weights that a task ends with; 1 is full fine-tuning", low=0, high=1, symbol="alpha"
        )
        towards: str = setting(
            "previous",
            "what has the other share: the weights that the task started from, or the pre-trained ones",
            choices=("previous", "pretrained"),
        )

    defaults = {"train.weight_decay": 0.0}
    changes_at_end = True
    parity = ParityCard(
        present=(
            "the average of both ends with shares of 0.8 and 0.2 after every task, with which the next task starts, as "
            "ZSCL's released script has it",
            "the average with the pre-trained weights, which is that of the paper for one task (towards=pretrained)",
            BOTH,
        ),
        absent=("curves over alpha, of which the paper shows all points: one alpha for all tasks",),
        deviations=(
            "written from ZSCL's released loop and script; the paper of WiSE-FT was not read",
            "towards=pretrained averages after every task, so that the share of an early task falls with each later "
            "one",
            "the budget is the stream's, with weight decay 0",
        ),
        verified=(
            "the average in float64, over two tasks; full fine-tuning to the bit with alpha 1, and the weights before "
            "with alpha 0 (tests)",
        ),
    )

    def setup(self) -> None:
        """Keep the pre-trained weights, where they are averaged with."""
        super().setup()
        pretrained = self.settings.towards == "pretrained"
        self.before: Frozen | None = self.clip.frozen(self.parameters()) if pretrained else None

    def begin_task(self, task: TaskData) -> None:
        """Keep the weights that the task starts from, where they are averaged with."""
        super().begin_task(task)
        if self.settings.towards == "previous":
            self.before = self.clip.frozen(self.parameters())

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Average."""
        super().end_task(task)
        assert self.before is not None  # since the task began
        for weight, old in zip(self.parameters(), self.before.kept, strict=True):
            weight.copy_(averaged(weight, old.to(weight.device), self.settings.alpha))
        if self.settings.towards == "previous":
            self.before = None


@register("method", "wise-ft-faithful", title="WiSE-FT as ZSCL's released code", paper="WiSE-FT, arXiv 2109.01903")
class WiseFtFaithful(WiseFt):
    """The released loop and the released average: 0.8 of the new weights, 0.2 of the last task's."""

    defaults = RELEASED
    parity = ParityCard(
        present=(WiseFt.parity.present[0], BOTH, LOOP),
        absent=(*WiseFt.parity.absent, RATES),
        deviations=(WiseFt.parity.deviations[0], LAST_STEP, PROMPTS),
        verified=WiseFt.parity.verified,
    )

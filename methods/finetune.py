"""Continual full fine-tuning: every task trains every weight of both towers; nothing is protected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import TOWERS, Method, ParityCard, UserError, register, setting

from .full_finetuning import whole_towers

if TYPE_CHECKING:
    from torch import Tensor


@register(
    "method",
    "finetune",
    title="Full fine-tuning, nothing protected",
    paper="the usual baseline; ZSCL, arXiv 2303.06628",
)
class Finetune(Method):
    """Train all parameters of the chosen towers; the logit scale stays as it was pre-trained."""

    @dataclass
    class Settings:
        """Which towers are trained."""

        towers: list[str] = setting(["image", "text"], "towers that are trained", choices=TOWERS)

    parity = ParityCard(
        present=("all weights, biases, norms and embeddings of both towers are trained",),
        deviations=(
            "cross-entropy over the task's prompts, the loss of all methods here; the logit scale is frozen, since its "
            "gradient rewards over-confidence on the task at hand",
        ),
        verified=("every parameter but the logit scale moves, none moves outside the chosen towers (tests)",),
    )

    def setup(self) -> None:
        """Check that there is something to train."""
        if not self.settings.towers:
            raise UserError("method.towers names no tower: name image, text or both")

    def parameters(self) -> Sequence[Tensor]:
        """Return all parameters of the chosen towers but the logit scale."""
        return list(whole_towers(self.clip, self.settings.towers).values())

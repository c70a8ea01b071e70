"""O-LoRA: a fresh LoRA a task, whose A is held orthogonal to those of earlier tasks. Wang et al., arXiv 2310.14152.

For every adapted map W [out, in], in task t:

1. A_t [r, in] is random and B_t [out, r] zero at the start; both are trained, those of earlier tasks are frozen;
2. lambda_1 times the sum over earlier tasks i and all maps of the squared entries of A_i A_t^T is added to the loss;
3. the model has the sum of all updates: W + s sum_i B_i A_i. It is merged after each task, and only A_i is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import Flags, ParityCard, TaskData, no_grad, register, setting, torch

from .lora import Lora
from .low_rank import tensors_named

if TYPE_CHECKING:
    from torch import Tensor


def overlap(pairs: Iterable[tuple[Tensor, Tensor]], size: str) -> Tensor:
    """Return the sum of the sizes of all entries of A_i A_t^T.

    Parameters
    ----------
    pairs : iterable of (Tensor [n, in], Tensor [r, in])
        For every map the rows of all A_i, one below the other, and A_t; at least one pair.
    size : {"squares", "absolute"}
        The size of an entry: its square, or its absolute value.

    Returns
    -------
    Tensor
        Scalar, differentiable.
    """
    entries = [earlier @ A.T for earlier, A in pairs]
    return torch.stack([(one.square() if size == "squares" else one.abs()).sum() for one in entries]).sum()


@register("method", "o-lora", title="A held orthogonal to that of earlier tasks", paper="O-LoRA, arXiv 2310.14152")
class OLora(Lora):
    """Sequential LoRA with a penalty on input directions that earlier tasks have.

    Attributes
    ----------
    earlier : dict of map name to Tensor [n, in]
        The rows of A of all earlier tasks.
    figures : dict of str to float
        What `report` returns.
    """

    @dataclass
    class Settings(Lora.Settings):
        """Which maps are adapted, the scale of the update, and the penalty."""

        strength: float = setting(0.5, "weight of the penalty; 0 leaves plain LoRA", low=0, symbol="lambda_1")
        size: str = setting(
            "squares",
            "size of an entry of A_i A_t^T in the penalty: its square (paper) or absolute value (released code)",
            choices=("squares", "absolute"),
        )

    defaults = {"train.weight_decay": 0.0}
    flags = Flags(grows="A of every task")
    parity = ParityCard(
        present=(
            "a fresh LoRA a task, and a penalty of weight 0.5 on the entries of A_i A_t^T for all earlier tasks i",
            "the sum of squares of the paper, and of absolute values as in the released code (size)",
        ),
        absent=("the second penalty of the released code, on the length of the new factors: its weight there is 0",),
        deviations=(
            "written from descriptions of paper and code, neither of which was read",
            "A is the factor that reads the input, as in the released code; the paper's text calls the other one A",
            "q, k, v, o of both towers by default; the budget is the stream's, with weight decay 0",
            "earlier updates are merged into the weights and their A kept beside, which is the same function",
        ),
        verified=("a float64 transcription of the penalty; plain LoRA to the bit with strength 0 (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt; there is no earlier task."""
        super().setup()
        self.earlier: dict[str, Tensor] = {}
        self.figures: dict[str, float] = {}

    def penalty(self) -> Tensor:
        """Return the penalty of the current A without its weight; 0 on the first task."""
        if not self.earlier:
            return torch.zeros((), device=self.clip.device)
        current = tensors_named(self.targets, "A")
        earlier = [self.earlier[m.name] for m in self.targets]
        return overlap(zip(earlier, current, strict=True), self.settings.size)

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the cross-entropy over the task's prompts plus the penalty."""
        loss = super().loss(pixels, labels, task)
        return loss + self.settings.strength * self.penalty() if self.earlier and self.settings.strength else loss

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Keep A, and merge."""
        self.figures = {"penalty": float(self.penalty())}
        for m, A in zip(self.targets, tensors_named(self.targets, "A"), strict=True):
            self.earlier[m.name] = torch.cat([*([self.earlier[m.name]] if m.name in self.earlier else []), A])
        super().end_task(task)

    def report(self) -> dict[str, Any]:
        """Return what the penalty was at the end of the task, without its weight."""
        return dict(self.figures)

    def state_dict(self) -> dict[str, Tensor]:
        """Return A of all earlier tasks."""
        return dict(self.earlier)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.earlier = {name: A.to(self.clip.device) for name, A in state.items()}

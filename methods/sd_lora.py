"""SD-LoRA: directions of earlier updates stay, and their magnitudes are trained on. Wu et al., arXiv 2501.13198.

For every adapted map W [out, in], in task t:

1. the model is W + sum_{i<t} alpha_i D_i + s B_t A_t, with D_i = B_i A_i / ||B_i A_i||_F the frozen direction of an
   earlier task's update. A_t [r, in] is random and B_t [out, r] zero at the start;
2. A_t, B_t and the magnitudes alpha_1 .. alpha_{t-1} are trained, the latter from their values after the last task;
3. after the task D_t is the direction of B_t A_t, and alpha_t = s ||B_t A_t||_F: the function stays as it is.

Between tasks all of it is part of the weights. So what is trained of alpha_i here is its change, from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.api import Flags, ParityCard, TaskData, Update, no_grad, register, torch

from .lora import Lora
from .low_rank import tensors_named

if TYPE_CHECKING:
    from torch import Tensor


def normalised(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return B divided by the Frobenius norm of B A, and that norm.

    Parameters
    ----------
    A : Tensor [r, in]
    B : Tensor [out, r]

    Returns
    -------
    B : Tensor [out, r], float64
        Zeros where B A is zero.
    norm : Tensor, float64
        Scalar: the root of tr(B^T B A A^T).
    """
    A, B = A.double(), B.double()
    norm = ((B.T @ B) * (A @ A.T)).sum().clamp(min=0).sqrt()
    return (B / norm if norm > 0 else torch.zeros_like(B)), norm


class Directions(Update):
    """The change ``sum_i change_i D_i + scale B A`` of a weight.

    Parameters
    ----------
    A, B : Tensor [r, in], [out, r]
        The factors of the new update.
    A_old, B_old : Tensor [n r, in], [out, n r]
        The factors of n directions D_i, side by side.
    change : Tensor [n]
        What is added to their magnitudes.
    factor : float
        s.
    """

    def __init__(self, A: Tensor, B: Tensor, A_old: Tensor, B_old: Tensor, change: Tensor, factor: float):
        self.A, self.B, self.A_old, self.B_old, self.change, self.factor = A, B, A_old, B_old, change, factor

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return all rows of A [(n + 1) r, in], and all columns of B [out, (n + 1) r] times their magnitudes."""
        rank = self.A.shape[0]
        moved = self.B_old * self.change[:, None].expand(-1, rank).flatten()
        return torch.cat([self.A_old, self.A]), torch.cat([moved, self.factor * self.B], dim=1)


@register("method", "sd-lora", title="Directions kept, magnitudes trained on", paper="SD-LoRA, arXiv 2501.13198")
class SdLora(Lora):
    """Sequential LoRA in which every task may change how far earlier updates go, but not where.

    Attributes
    ----------
    memory : dict of str to Tensor
        For every map ``image.0.q.A`` [n r, in] and ``image.0.q.B`` [out, n r], the factors of the n directions so far,
        and ``image.0.q.magnitudes`` [n], alpha.
    """

    defaults = {"train.weight_decay": 0.0}
    flags = Flags(grows="a direction a task")
    parity = ParityCard(
        present=(
            "directions of earlier updates, of Frobenius norm 1 and frozen; their magnitudes trained with every task",
            "a new A and B a task",
        ),
        absent=(
            "the variants that give later tasks a smaller rank, and that express a new direction by earlier ones",
            "the paper's rank, optimiser and classifier, which are those of a vision transformer without texts",
        ),
        deviations=(
            "written from descriptions of the paper, whose text and code were not read",
            "a new direction has no magnitude of its own until its task is over, as B = 0 has no direction",
            "one magnitude for every map and task; each continues from its value after the last task",
            "q, k, v, o of both towers by default; the budget is the stream's, with weight decay 0",
        ),
        verified=("float64 transcriptions of function, gradients and normalisation (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt; there is no direction yet."""
        super().setup()
        self.memory: dict[str, Tensor] = {}

    def begin_task(self, task: TaskData) -> None:
        """Attach a new update to every map, beside the directions of earlier tasks."""
        super().begin_task(task)
        for m in self.targets if self.memory else ():
            assert m.update is not None
            A, B = m.update.factors()
            A_old, B_old, magnitudes = (self.memory[f"{m.name}.{part}"] for part in ("A", "B", "magnitudes"))
            m.update = Directions(A, B, A_old, B_old, torch.zeros_like(magnitudes), m.update.scale)

    def parameters(self) -> Sequence[Tensor]:
        """Return the new factors of every map, and the changes of its magnitudes."""
        return tensors_named(self.targets, "A", "B", *(["change"] if self.memory else []))

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Keep the new directions and all magnitudes, and merge."""
        for m in self.targets:
            assert m.update is not None
            new = m.update.tensors()
            unit, norm = normalised(new["A"].to(self.clip.exact_device), new["B"].to(self.clip.exact_device))
            factors = {"A": [new["A"]], "B": [unit.to(new["B"])]}
            factors["magnitudes"] = [(self.settings.alpha / self.settings.rank * norm)[None].to(new["B"])]
            if isinstance(m.update, Directions):
                old = {part: self.memory[f"{m.name}.{part}"] for part in factors}
                old["magnitudes"] = old["magnitudes"] + new["change"]
                factors = {part: [old[part], *more] for part, more in factors.items()}
            for part, tensors in factors.items():
                self.memory[f"{m.name}.{part}"] = torch.cat(tensors, dim=1 if part == "B" else 0)
        super().end_task(task)

    def report(self) -> dict[str, Any]:
        """Return the magnitudes of all tasks' directions, averaged over the maps."""
        magnitudes = torch.stack([self.memory[f"{m.name}.magnitudes"] for m in self.targets])
        return {"magnitudes": magnitudes.mean(dim=0).tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return directions and magnitudes."""
        return dict(self.memory)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.memory = {key: tensor.to(self.clip.device) for key, tensor in state.items()}

"""SLAO: one LoRA, merged with itself after every task. Qiao & Mahdavi, arXiv 2512.23017, ICLR 2026.

For every adapted map W [out, in], tasks counted from i = 1, with the fixed scale s = alpha / r:

1. the first task trains an ordinary LoRA: A_1 [r, in] random, B_1 [out, r] zero at the start;
2. a later one starts from the factors as the last task trained them: A is the orthonormal basis Q^T of A_{i-1}^T = Q R,
   with the signs that make the diagonal of R positive, and B = B_{i-1}. R is dropped, so the start is the last task's
   update with other lengths;
3. both are trained, on W alone: the merged update of the tasks before is not part of the model in training;
4. after the task A_mg = A_i, and B_mg moves to B_i by the share lambda(i) = i^(-1/2). W + s B_mg A_mg is the model.

So B_mg is a mean of all B with weights that sum to one, and all of them act through the newest A. The update is added
to W for tests and taken off again before the next task, which restores W up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import LinearMap, LowRank, ParityCard, TaskData, no_grad, register, setting, torch

from .lora import Lora
from .low_rank import attach

if TYPE_CHECKING:
    from torch import Tensor

AVERAGED = {"B": ("B",), "A": ("A",), "both": ("A", "B")}
"""The factors that are averaged over tasks by the value of the setting; the other one is replaced."""


def orthonormal_rows(A: Tensor) -> Tensor:
    """Return an orthonormal basis of the rows of A, each on the side of the row that it comes from.

    Parameters
    ----------
    A : Tensor [r, in]
        r at most `in`.

    Returns
    -------
    Tensor [r, in], float64
        Q^T of A^T = Q R with a diagonal of R that is not negative; orthonormal also where the rows of A are dependent.
    """
    Q, R = torch.linalg.qr(A.double().T)
    return torch.where(R.diagonal() < 0, -Q, Q).T


def share(number: int, power: float) -> float:
    """Return lambda(i) = i^(-power), how far the merged factor moves to that of the i-th task, counted from 1."""
    return float(number) ** -power


@register("method", "slao", title="One LoRA, averaged over tasks", paper="SLAO, arXiv 2512.23017")
class Slao(Lora):
    """SLAO: plain LoRA but for where a task starts and what is kept of it.

    Attributes
    ----------
    memory : dict of str to Tensor
        For every map the factors as the last task trained them, ``image.0.q.A`` and ``image.0.q.B``, and the averaged
        ones, ``image.0.q.merged.B``; empty before the first task.
    figures : dict of str to float
        What `report` returns.
    """

    @dataclass
    class Settings(Lora.Settings):
        """Which maps are adapted, the scale of the update, where a task starts, and how it is merged."""

        start: str = setting(
            "orthogonal",
            "start of a later task: the last task's factors with orthonormal A, the same as they are (last), the "
            "merged ones with orthonormal A (merged), or a fresh LoRA (random)",
            choices=("orthogonal", "last", "merged", "random"),
        )
        merge: str = setting(
            "B", "factors that are averaged over tasks; the other is replaced", choices=tuple(AVERAGED)
        )
        power: float = setting(
            0.5, "lambda(i) = i^-power; 1 is the plain mean over tasks, 0 keeps the last task alone", low=0
        )

    defaults = {"train.weight_decay": 0.0}
    changes_at_end = True
    parity = ParityCard(
        present=(
            "a later task starts from the last task's A, orthonormal by QR with signs, and from its B as it is",
            "A replaced after the task, B averaged with lambda(i) = 1 / sqrt(i); tests with the merged update",
            "the ablations of start and merging (start, merge, power)",
        ),
        absent=(
            "learning rate and batches of the paper, which trains language models; alpha and dropout are not known",
        ),
        deviations=(
            "written from notes on the paper and from the report of an independent reproduction; the authors have "
            "published no code",
            "q, k, v, o of both towers and r = 16 by default, the maps that KeepLoRA adapts; the paper adapts q and v "
            "with r = 8",
            "zero on the diagonal of R counts as positive, as in the reproduction",
            "the merged update is added to the weights and taken off again, which rounds them",
        ),
        verified=("float64 transcriptions of start and merging, and published weights of the tasks (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt; there is no update yet."""
        super().setup()
        self.memory: dict[str, Tensor] = {}
        self.figures: dict[str, float] = {}

    @property
    def scale(self) -> float:
        """The factor s of every update."""
        return self.settings.alpha / self.settings.rank

    def merged(self, linear_map: LinearMap) -> LowRank:
        """Return the update of a map that tests use after the tasks so far."""
        name, memory = linear_map.name, self.memory
        A, B = (memory.get(f"{name}.merged.{factor}", memory[f"{name}.{factor}"]) for factor in "AB")
        return LowRank(A, B, self.scale)

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Take the merged update off the weights, and attach the one that training starts from."""
        if not self.memory:
            super().begin_task(task)
            return
        for m in self.targets:
            m.add(-self.merged(m).delta())
        if self.settings.start == "random":
            super().begin_task(task)
            return
        for m in self.targets:
            A, B = (self.memory[f"{m.name}.{factor}"] for factor in "AB")
            if self.settings.start == "merged":
                A, B = self.merged(m).factors()
            if self.settings.start != "last":
                A = orthonormal_rows(A.to(self.clip.exact_device))
            attach(m, A.to(B, copy=True), self.scale, B.clone())

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Keep the trained factors, average those that are to be averaged, and add the merged update."""
        part = share(task.index + 1, self.settings.power)
        trained, averages = [], []
        for m in self.targets:
            assert m.update is not None
            for factor, tensor in m.update.tensors().items():
                self.memory[f"{m.name}.{factor}"] = tensor
                if factor in AVERAGED[self.settings.merge]:
                    key = f"{m.name}.merged.{factor}"
                    before = self.memory.get(key)
                    self.memory[key] = tensor.clone() if before is None else before.lerp(tensor, part)
                    trained.append(tensor.flatten())
                    averages.append(self.memory[key].flatten())
            m.update = self.merged(m)
        moved, length = (torch.cat(averages) - torch.cat(trained)).norm(), torch.cat(trained).norm()
        self.figures = {"share": part, "left_out": float(moved / length) if length else 0.0}
        super().end_task(task)

    def report(self) -> dict[str, Any]:
        """Return lambda(i), and how far the averaged factors are from the trained ones, relative to these."""
        return dict(self.figures)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the factors of the last task and the averaged ones."""
        return dict(self.memory)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.memory = {key: tensor.to(self.clip.device) for key, tensor in state.items()}

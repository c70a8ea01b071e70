"""MiLoRA: updates that start as the minor part of a weight. Wang et al., arXiv 2406.09044, known from its abstract.

For every adapted map W [out, in] with d = min(out, in) singular values, before each task:

1. W = U S V^T; U_m [out, r], S_m and V_m [in, r] belong to the last r singular values;
2. B = U_m S_m^(1/2), A = S_m^(1/2) V_m^T; W_res = W - B A, the principal part, is frozen;
3. A and B are trained and merged. The next task starts from a new decomposition of the merged weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import LinearMap, Method, ParityCard, TaskData, register, torch

from .low_rank import FromWeights, allow_no_decay, split_off, targets, tensors_named
from .subspace import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


def minor_part(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return two factors of the part of a weight that belongs to its last singular values.

    Parameters
    ----------
    weight : Tensor [out, in]
        W.
    rank : int
        r, how many singular values; at most min(out, in).

    Returns
    -------
    A : Tensor [r, in], float64
        ``S_m^(1/2) V_m^T``.
    B : Tensor [out, r], float64
        ``U_m S_m^(1/2)``.
    """
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    first = len(S) - rank
    root = S[first:].sqrt()
    return root[:, None] * Vh[first:], U[:, first:] * root


@register(
    "method", "milora", title="Updates that start from the minor part of weights", paper="MiLoRA, arXiv 2406.09044"
)
class MiLora(Method):
    """MiLoRA before every task; what is frozen follows from the weights alone, so nothing is kept between tasks."""

    @dataclass
    class Settings(FromWeights):
        """Which maps are adapted."""

    defaults = {"train.weight_decay": 0.0}
    parity = ParityCard(
        present=(
            "A and B from the last r singular triples, each with the roots of the singular values; both trained",
            "the principal part frozen; scale 1; merged after the task",
        ),
        absent=("the paper's optimiser and learning rate, which are not known here: the budget is the stream's",),
        deviations=(
            "written from the paper's abstract and from notes on papers that compare with it, without its text or code",
            "the paper adapts a model once; that every task decomposes the merged weight again is our reading for "
            "streams",
            "rank 16, which most methods have here; the published numbers on MTIL are of rank 128 (15.7 M values)",
        ),
        verified=("float64 transcriptions of the definition, and the number of trained values (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt."""
        self.targets = targets(self.clip, self.settings)

    def begin_task(self, task: TaskData) -> None:
        """Split the minor part off every weight as it is now."""
        allow_no_decay(task)
        device = self.clip.exact_device

        def factors(linear_map: LinearMap) -> tuple[Tensor, Tensor]:
            return minor_part(linear_map.weight.to(device), self.settings.rank)

        with self.context.part("decomposition"):
            results = side_by_side(factors, self.targets, device)
        for linear_map, (A, B) in zip(self.targets, results, strict=True):
            split_off(linear_map, A, B)

    def parameters(self) -> Sequence[Tensor]:
        """Return both factors of every update."""
        return tensors_named(self.targets, "A", "B")

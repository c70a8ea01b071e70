"""NuSA-CL: updates confined to the null tail of the weights. ICLR 2026, OpenReview tucuU4sQ3s.

For every adapted map W [out, in] of d = min(out, in) singular values, before each task:

1. W = U S V^T; k is the smallest number of leading singular values whose squares sum to the share rho of all squares;
2. U_n [out, r] and V_n [in, r] are the last r = min(d - k, r_max) left and right singular vectors;
3. Delta W = U_n M V_n^T with M [r, r] zero at the start and alone trained; as ablations V_n is trained too, or both;
4. the update is merged, and the next task starts from a new decomposition of the merged weight.

With U_k and V_k the vectors that belong to the leading values, U_k^T Delta W = 0 and Delta W V_k = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import (
    Flags,
    LinearMap,
    Method,
    ParityCard,
    Surroundings,
    TaskData,
    Update,
    UserError,
    register,
    setting,
    torch,
)

from .low_rank import Targets, tensors_named
from .subspace import count_reaching, side_by_side

if TYPE_CHECKING:
    from torch import Tensor

TRAINED = {"M": ("M",), "MV": ("M", "V"), "UMV": ("U", "M", "V")}
"""The tensors that are trained by the value of the setting; all but the first are ablations."""


def null_tail(weight: Tensor, rho: float, r_max: int) -> tuple[Tensor, Tensor]:
    """Return the last singular vectors of a weight, beyond those that hold a share of its energy.

    Parameters
    ----------
    weight : Tensor [out, in]
        W.
    rho : float
        The share of the sum of squared singular values that the leading ones hold, in (0, 1).
    r_max : int
        The largest number of vectors to return.

    Returns
    -------
    U_n : Tensor [out, r], float64
        Left singular vectors; r = min(d - k, r_max) of the definition above, which is 0 for a weight of zeros.
    V_n : Tensor [in, r], float64
        Right singular vectors, in the same order.
    """
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    d = len(S)
    k = count_reaching(S**2 / (S**2).sum(), rho)
    first = d - min(d - k, r_max)
    return U[:, first:], Vh[first:].T


class Core(Update):
    """The change ``U M V^T`` of a weight, with a core between two sides.

    Parameters
    ----------
    U : Tensor [out, r]
        U_n.
    M : Tensor [r, r]
        The core.
    V : Tensor [in, r]
        V_n.
    """

    def __init__(self, U: Tensor, M: Tensor, V: Tensor):
        self.U, self.M, self.V = U, M, V

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return V^T [r, in] and U M [out, r]."""
        return self.V.T, self.U @ self.M


@register("method", "nusa-cl", title="Updates in the null tail of the weights", paper="NuSA-CL, OpenReview tucuU4sQ3s")
class NusaCl(Method):
    """NuSA-CL; what is protected follows from the weights alone, so nothing is kept from task to task.

    Attributes
    ----------
    effective_rank : dict of map name to int
        r of every map in the current task.
    """

    @dataclass
    class Settings(Targets):
        """Which maps are adapted, and where the tail of a weight begins."""

        rank: int = setting(128, "largest number of singular directions of a tail that are used", low=1, symbol="r_max")
        rho: float = setting(
            0.85,
            "share of a weight's squared singular values that stays untouched; 0.80 to 0.90 in the paper",
            above=0,
            below=1,
            symbol="rho",
        )
        trained: str = setting(
            "M", "what is trained between the tails; MV and UMV are the paper's ablations", choices=tuple(TRAINED)
        )

        def fits(self, surroundings: Surroundings) -> list[str]:
            """Return nothing: a tail is never wider than its map, whatever the rank."""
            return []

    defaults = {"train.weight_decay": 0.0}
    flags = Flags()
    parity = ParityCard(
        present=(
            "tails U_n and V_n beyond the share rho of the squared singular values, at most 128 directions",
            "Delta W = U_n M V_n^T with M from zero, alone trained, merged after the task",
            "a new decomposition of the merged weight before every task",
            "the ablations that train V_n too, or all three; one tower",
        ),
        absent=("the paper's optimiser and learning rate, which are not known here: the budget is the stream's",),
        deviations=(
            "written from notes on the paper, without its text or code; the number of trained values that it gives "
            "(1.5 M on ViT-B/16) is that of this definition",
            "fc1 and fc2, if chosen, have d singular values like their shorter side: directions that the weight cannot "
            "reach at all are not used",
        ),
        verified=("float64 transcriptions of the definition, and the number of trained values (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt."""
        self.targets = self.clip.select(self.settings.maps, self.settings.towers)
        self.effective_rank: dict[str, int] = {}

    def begin_task(self, task: TaskData) -> None:
        """Attach a core of zeros between the tails of every weight as it is now."""
        device, chosen = self.clip.exact_device, self.settings

        def tail(linear_map: LinearMap) -> tuple[Tensor, Tensor]:
            return null_tail(linear_map.weight.to(device), chosen.rho, chosen.rank)

        with self.context.part("decomposition"):
            tails = side_by_side(tail, self.targets, device)
        self.effective_rank = {m.name: U.shape[1] for m, (U, _) in zip(self.targets, tails, strict=True)}
        self._check_tails(task)
        for m, (U, V) in zip(self.targets, tails, strict=True):
            if r := U.shape[1]:
                U, V = (side.to(m.parameter).contiguous() for side in (U, V))
                m.update = Core(U, torch.zeros(r, r).to(U), V)

    def _check_tails(self, task: TaskData) -> None:
        """Refuse a share that leaves a pre-trained weight no tail; say where merged weights have none."""
        without = [m for m in self.targets if not self.effective_rank[m.name]]
        if without and task.index == 0:
            raise UserError(
                f"method.rho={self.settings.rho} leaves nothing of {without[0].name} to train, since that share "
                "needs all of its singular values: lower method.rho"
            )
        if without:
            self.context.say(
                f"note: in {len(without)} maps of task {task.name} ({without[0].name}, ...) nothing is trained: all "
                f"singular values are needed for the share {self.settings.rho} (method.rho)"
            )

    def parameters(self) -> Sequence[Tensor]:
        """Return M of every update, and the sides that are trained with it."""
        return tensors_named(self.targets, *TRAINED[self.settings.trained])

    def report(self) -> dict[str, Any]:
        """Return the directions of every tail that were used in the task just learned."""
        return {"effective_rank": dict(self.effective_rank)}

"""KeepLoRA: low-rank updates confined to the residual subspace. Luo et al., arXiv 2601.19659.

For every adapted linear map ``y = x W^T`` a subspace of its input is protected: the principal directions of the
pre-trained weight (what CLIP knows) and the dominant directions of earlier tasks' features (what was learned). M is an
orthonormal basis of both. For a new task:

1. G, the gradient of the task's mean loss with respect to W, over all its training images;
2. R = G^T - M M^T G^T, the gradient outside of the protected subspace (``[in, out]``);
3. A = the r leading left singular vectors of R, frozen; B starts at their singular values times right vectors, and
   W is reduced by what A and B contribute, so that the function is unchanged;
4. B is trained; the update is merged;
5. M grows by the directions that the task's features need to reach the energy eps_f.

Since every row of the update lies in span(A), which is orthogonal to M, an input inside span(M) keeps its output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Method, ParityCard, TaskData
from bench.registry import register
from bench.settings import setting
from bench.statistics import mean_gradient, second_moments

from .low_rank import PerTower, Targets, attach, targets
from .subspace import empty_basis, grow, leading_directions, outside, principal_subspace

ROUNDING = 1e-5
"""Share of a gradient's norm below which its singular values are rounding: fp32 sums over many tokens."""


@register("method", "keeplora", title="Updates confined to the residual subspace", paper="KeepLoRA, arXiv 2601.19659")
class KeepLora(Method):
    """The paper's algorithm.

    Attributes
    ----------
    bases : dict of map name to Tensor [in, k], float64
        M, the protected subspace of each adapted map.
    effective_rank : dict of map name to int
        Columns of A in the current task; fewer than the rank where the projected gradient has no more directions.
    """

    @dataclass
    class Settings(Targets):
        rank: int = setting(16, "columns of the update", low=1, symbol="r")
        alpha: float = setting(1.0, "scale of the update times the rank", above=0, symbol="alpha")
        weight_energy: PerTower = setting(
            PerTower(0.85, 0.2),
            "share of a pre-trained weight's energy protected from the start; 0 protects nothing",
            low=0,
            high=1,
            symbol="eps_w",
        )
        feature_energy: PerTower = setting(
            PerTower(0.99, 0.99), "share of a task's feature energy protected after it", above=0, high=1, symbol="eps_f"
        )

    parity = ParityCard(
        present=(
            "principal subspace of the pre-trained weights by energy (eps_w = 0.85 image, 0.2 text)",
            "gradient of the task's mean loss, projected off the protected subspace; its leading directions are A",
            "A frozen, only B trained, update merged after the task; scale alpha / r = 1/16",
            "growth of the protected subspace by the features' energy (eps_f = 0.99)",
        ),
        absent=("the class-mean head of KeepLoRA+", "the layer factors of KeepLoRA++"),
        deviations=(
            "the weight's input-side directions are protected, as the paper's equations say; the released code takes "
            "the output side",
            "features enter through their second moment over all tokens without padding; the released code averages "
            "activations by position and batch slot",
            "columns of A beyond the rank of the projected gradient are dropped; the released code keeps arbitrary "
            "ones, which may lie inside the protected subspace",
        ),
        verified=("float64 transcriptions of the definitions, on small random towers (tests)",),
    )

    def setup(self) -> None:
        """Protect the principal subspace of every pre-trained weight; done once and never from merged weights."""
        self.targets = targets(self.clip, self.settings, self.settings.rank)
        self.bases: dict[str, Tensor] = {}
        self.effective_rank: dict[str, int] = {}
        for linear_map in self.targets:
            energy = self.settings.weight_energy.of(linear_map)
            self.bases[linear_map.name] = (
                principal_subspace(linear_map.weight.to(self.clip.exact_device), energy)
                if energy > 0
                else empty_basis(linear_map.in_features, self.clip.exact_device)
            )

    def begin_task(self, task: TaskData) -> None:
        """Turn the task's residual gradient into A, B and the compensation of W."""
        scale = self.settings.alpha / self.settings.rank
        gradients = mean_gradient(self.clip, task, self.targets)
        for linear_map in self.targets:
            basis = self.bases[linear_map.name]
            gradient = gradients[linear_map.name].to(self.clip.exact_device).double().T
            residual = outside(basis, gradient)
            # What is below the rounding of the fp32 gradient is no direction of it, however little was left over.
            directions = leading_directions(residual, self.settings.rank, basis, ROUNDING * float(gradient.norm()))
            self.effective_rank[linear_map.name] = directions.shape[1]
            # U^T R = S V^T: singular values times right singular vectors, without asking for them.
            update = attach(linear_map, directions.T, scale, (directions.T @ residual).T)
            if update is not None:
                linear_map.add(-update.delta())

    def parameters(self) -> Sequence[Tensor]:
        """B of every update; A is frozen."""
        return [linear_map.update.B for linear_map in self.targets if linear_map.update]

    @torch.no_grad()
    def end_task(self, task: TaskData) -> None:
        """Merge, then protect what the merged model's features on this task need."""
        self.clip.merge()
        moments = second_moments(self.clip, task, self.targets)
        for linear_map in self.targets:
            gram = moments[linear_map.site.name].gram
            energy = self.settings.feature_energy.of(linear_map)
            self.bases[linear_map.name] = grow(self.bases[linear_map.name], gram, energy)

    def report(self) -> dict[str, Any]:
        """Columns of A in the task just learned and dimension of the protected subspace after it, per map."""
        return {
            "effective_rank": dict(self.effective_rank),
            "protected": {name: basis.shape[1] for name, basis in self.bases.items()},
        }

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.bases)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.bases = {name: basis.to(self.clip.exact_device) for name, basis in state.items()}

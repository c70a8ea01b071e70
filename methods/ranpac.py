"""RanPAC: random projections, class prototypes and the Gram matrix that decorrelates them, on frozen towers.

After McDonnell et al., NeurIPS 2023, arXiv 2307.02251, written from general knowledge of the paper, without its text or
its code at hand. Neither tower changes. f [e] is the feature of an image, of unit length.

1. phi = max(P f, 0) [h] with P from N(0, 1), drawn once;
2. G = sum phi phi^T and Q = sum phi y^T over all images so far: column c of Q is the prototype of class c, times its
   number of images. W = (G + lam I)^-1 Q, and the answer is the largest of W^T phi;
3. lam is chosen again in every task, from a list: with W fitted to a part of the task's images, which has the smallest
   squared error on the rest?

The paper's setting is class-incremental: all candidates were learned. Where some were not, this does as RAIL: CLIP's
probabilities over all candidates decide, and where the largest is that of a class not learned yet, they are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import F, Flags, ParityCard, TaskData, generator, register, setting, torch

from .regression import Images, RandomFeatures

if TYPE_CHECKING:
    from torch import Tensor

RIDGES = [10.0**power for power in range(-8, 9)]
"""What lam is chosen from."""


# ---- the decisive computations


def held_out_errors(phi: Tensor, y: Tensor, kept: int, ridges: Sequence[float]) -> list[float]:
    """Return the mean squared error of ridge regression on rows that it was not fitted to, for every ridge.

    The solution is computed in the space of rows or of columns, whichever is smaller; it is the same.

    Parameters
    ----------
    phi : Tensor [n, h], float64
    y : Tensor [n, C], float64
    kept : int
        The first rows, to which W is fitted; above 0 and below n.
    ridges : sequence of float
        Each above 0.

    Returns
    -------
    list of float
    """
    known, rest = phi[:kept], phi[kept:]
    if kept <= phi.shape[1]:
        values, vectors = torch.linalg.eigh(known @ known.T)
        left, right = rest @ known.T @ vectors, vectors.T @ y[:kept]
    else:
        values, vectors = torch.linalg.eigh(known.T @ known)
        left, right = rest @ vectors, vectors.T @ (known.T @ y[:kept])
    inverses = (1 / (values.clamp(min=0) + ridge) for ridge in ridges)
    return [float((left @ (inverse[:, None] * right) - y[kept:]).square().mean()) for inverse in inverses]


# ---- the method


@register(
    "method", "ranpac", title="Random projections and decorrelated prototypes", paper="after RanPAC, arXiv 2307.02251"
)
class RanPac(RandomFeatures):
    """Decorrelated class prototypes of random features of frozen towers."""

    @dataclass
    class Settings(Images):
        """Settings of the projection and the regression."""

        expansion: int = setting(1024, "random features", low=1, symbol="M")
        ridges: list[float] = setting(
            RIDGES, "what may be added to the diagonal; every task chooses again", above=0, symbol="lambda"
        )
        held_out: float = setting(0.2, "share of a task's images that the ridge is chosen by", above=0, below=1)

        def check(self) -> list[str]:
            """Return what is missing."""
            return [] if self.ridges else ["method.ridges is empty: name at least one"]

    ridge_setting = "method.ridges"
    flags = Flags(grows="a prototype a class", extended=True)
    parity = ParityCard(
        present=(
            "random projection with ReLU, drawn once",
            "Gram matrix and class prototypes over all images so far",
            "the ridge, chosen in each task by the squared error on a fifth of its images",
        ),
        absent=("the adapter that is trained on the first task", "images changed at random while it is trained"),
        deviations=(
            "written from general knowledge of the paper: details may differ, and no number here is RanPAC's",
            "inputs are CLIP's image features, of unit length, not those of a transformer trained on ImageNet",
            "1,024 random features for models as small as the embedded one; 10,000 are method.expansion=10000",
            "where candidates were not learned, CLIP's text classifier may answer",
            "classes of two tasks with the same prompt are one class, as everywhere in this suite",
        ),
        verified=("scikit-learn's Ridge, for W and for the errors that the ridge is chosen by (tests)",),
    )

    def draw(self, h: int, e: int) -> Tensor:
        """Return P, from N(0, 1)."""
        return torch.randn(h, e, generator=generator(self.context.init_seed, "ranpac"))

    def ridges(
        self, phi: Callable[[Tensor], Tensor], features: Tensor, classes: Tensor, task: TaskData
    ) -> Sequence[float]:
        """Return the ridge with the smallest error on a share of the task's images, and the larger ones behind it.

        A task of one image has no such share, and takes the ridge of the task before.
        """
        chosen, listed = self.ridge, sorted(self.settings.ridges)
        kept = min(max(round((1 - self.settings.held_out) * len(features)), 1), len(features) - 1)
        if kept:
            order = torch.randperm(len(features), generator=generator(self.context.data_seed, "ranpac", task.index))
            own = classes.unique(return_inverse=True)[1]  # the columns of other classes are zero, whatever the ridge
            y = F.one_hot(own[order]).to(self.M)
            errors = held_out_errors(phi(features[order]), y, kept, listed)
            chosen = listed[errors.index(min(errors))]
        return [ridge for ridge in listed if ridge >= chosen]

    def combined(self, p: Tensor, scores: Tensor, known: Tensor) -> Tensor:
        """Return the scores, below which all classes stand that were not learned."""
        return torch.where(known, scores, scores.amin(dim=1, keepdim=True) - 1)

    def report(self) -> dict[str, Any]:
        """Return the ridge that the task just learned has chosen."""
        return {"ridge": self.ridge}

    def state_dict(self) -> dict[str, Tensor]:
        """Return prompts, sums and the ridge."""
        return {**super().state_dict(), "ridge": torch.tensor(self.ridge, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.ridge = float(state["ridge"])

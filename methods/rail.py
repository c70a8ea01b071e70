"""RAIL: ridge regression on CLIP's image features in closed form, mixed with CLIP's own probabilities.

After Xu et al., arXiv 2406.18868, written from a description of its released code, which has no licence; none of it was
copied. Neither tower changes. f [e] is the feature of an image, of unit length, y [C] its one-hot label among all
classes learned so far.

1. ``rail-primal``: W = (sum phi phi^T + lam I)^-1 sum phi y^T over all images so far, phi = max(P f, 0) [h] with P
   uniform in +-1/sqrt(e); a = W^T phi. `regression` keeps the two sums, which gives what the paper's recursion gives.
2. ``rail-dual``: all features so far are kept. K = k(X, X) with k(a, b) = exp(-gamma |a - b|^2), alpha = (K + lam I)^-1
   Y; a = k(f, X) alpha.
3. Both: p = softmax of CLIP's logits over all classes of the label space, learned or not. Where the largest is that of
   a class not learned yet, the answer is p. Else it is (1 - beta) p + beta a, with a = 0 for classes not learned yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.api import F, Flags, ParityCard, TaskData, UserError, generator, register, setting, torch

from .regression import Images, RandomFeatures, Regression

if TYPE_CHECKING:
    from torch import Tensor

MOST = 60_000
"""Images that the dual form takes: K and its factor have 16 bytes for each pair of images, 58 GB for so many."""


# ---- the decisive computations


def fused(p: Tensor, a: Tensor, beta: float) -> Tensor:
    """Return (1 - beta) p + beta a."""
    return (1 - beta) * p + beta * a


def kernel(a: Tensor, b: Tensor, gamma: float) -> Tensor:
    """Return exp(-gamma |a_i - b_j|^2).

    Parameters
    ----------
    a : Tensor [n, e]
    b : Tensor [m, e]
    gamma : float

    Returns
    -------
    Tensor [n, m]
    """
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    return (-gamma * squares.clamp(min=0)).exp()


# ---- the methods


@dataclass
class Fusion(Images):
    """How regression and CLIP are mixed, and what is regressed."""

    fusion: float = setting(
        0.8, "share of the regression where CLIP takes an image for a learned class", low=0, high=1, symbol="beta"
    )


PARITY = ParityCard(
    present=(
        "the ridge solution on all images so far, whatever their order, with new classes as new columns",
        "CLIP's probabilities over all classes: where a class not learned yet has the largest, they are the answer",
        "the mixture with weight beta, over raw outputs of the regression",
        "ridge, beta and gamma of the released configuration",
    ),
    absent=("copies of the training images with flips and colour jitter (augmentation_time, 1 in the configuration)",),
    deviations=(
        "each training image enters as a test sees it; the released loader's one random crop is method.passes=1 "
        "train.augment=crop",
        "the prompts are the stream's, for all methods the same, and CLIP's own temperature, which is 100",
        "classes of two tasks with the same prompt are one class, as everywhere in this suite",
        "what is random has generators of its own",
    ),
    verified=(
        "scikit-learn's Ridge and KernelRidge, the recursion and the rules of the gate written apart from the "
        "implementation (tests)",
    ),
)


@register("method", "rail-primal", title="RAIL: ridge regression on random features", paper="RAIL, arXiv 2406.18868")
class RailPrimal(RandomFeatures):
    """Ridge regression on random features of frozen towers, mixed with CLIP's probabilities."""

    @dataclass
    class Settings(Fusion):
        """Settings of the regression and the mixture."""

        ridge: float = setting(0.1, "what is added to the diagonal", above=0, symbol="lambda")
        expansion: int = setting(1024, "random features; 0 for the image features themselves", low=0, symbol="h")

    flags = Flags(grows="a column of weights a class", extended=True)
    parity = replace(
        PARITY,
        deviations=(
            "1,024 random features for models as small as the embedded one; the paper's 15,000 are "
            "method.expansion=15000",
            "sums in float64 and one Cholesky factor a task; the recursion of the paper, in float32, gives the same W",
            *PARITY.deviations,
        ),
    )

    def draw(self, h: int, e: int) -> Tensor:
        """Return P: uniform in +-1/sqrt(e)."""
        bound = 1 / math.sqrt(e)
        return torch.empty(h, e).uniform_(-bound, bound, generator=generator(self.context.init_seed, "rail"))

    def combined(self, p: Tensor, scores: Tensor, known: Tensor) -> Tensor:
        """Return the mixture."""
        return fused(p, scores, self.settings.fusion)


@register("method", "rail-dual", title="RAIL: kernel ridge regression", paper="RAIL, arXiv 2406.18868")
class RailDual(Regression):
    """Kernel ridge regression on the features of all images so far, mixed with CLIP's probabilities.

    Attributes
    ----------
    X : Tensor [N, e]
        Float32.
    classes : Tensor
        int64 [N], index into `tokens`, on the CPU.
    alpha : Tensor [N, C], float64
    """

    @dataclass
    class Settings(Fusion):
        """Settings of the regression and the mixture."""

        ridge: float = setting(0.001, "what is added to the diagonal", above=0, symbol="lambda")
        gamma: float = setting(0.1, "the larger, the narrower the kernel", above=0, symbol="gamma")

    flags = Flags(grows="the feature of every training image", extended=True, rehearsal=True)
    parity = replace(
        PARITY,
        deviations=(
            "solved again after every task, as in the released script; the paper's update by blocks gives the same",
            "the kernel in float64 too",
            *PARITY.deviations,
        ),
    )

    def setup(self) -> None:
        """Begin with no image; refuse a stream with too many of them."""
        super().setup()
        images = sum(self.context.images.values()) * max(self.settings.passes, 1)
        if images > MOST:
            raise UserError(
                f"rail-dual solves for all {images:,} training images together, which takes "
                f"{16 * images**2 / 1e9:,.0f} GB: use rail-primal, or a stream with fewer images (stream.shots)"
            )
        exact = self.clip.exact_device
        self.X = torch.zeros(0, self.clip.model.visual.output_dim, device=exact)
        self.classes = torch.zeros(0, dtype=torch.int64)
        self.alpha = torch.zeros(0, 0, dtype=torch.float64, device=exact)

    def add(self, features: Tensor, classes: Tensor, task: TaskData) -> int:
        """Keep the features, and solve for alpha."""
        self.X, self.classes = torch.cat([self.X, features.to(self.X)]), torch.cat([self.classes, classes])
        X = self.X.double()
        y = F.one_hot(self.classes, len(self.tokens)).to(X)
        self.alpha, _ = self.solve(kernel(X, X, self.settings.gamma), y, [self.settings.ridge])
        return self.alpha.numel()

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return the scores k(f, X) alpha."""
        X = self.X.double()
        return lambda f: (kernel(f.to(X), X, self.settings.gamma) @ self.alpha).to(f)

    def combined(self, p: Tensor, scores: Tensor, known: Tensor) -> Tensor:
        """Return the mixture."""
        return fused(p, scores, self.settings.fusion)

    def state_dict(self) -> dict[str, Tensor]:
        """Return prompts, features, classes and alpha."""
        return {"tokens": self.tokens, "X": self.X, "classes": self.classes, "alpha": self.alpha}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.tokens, self.classes = state["tokens"], state["classes"]
        self.X, self.alpha = (state[name].to(self.clip.exact_device) for name in ("X", "alpha"))

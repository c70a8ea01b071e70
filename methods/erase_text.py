"""Forget classes on the text side alone: directions of their names leave the classifier, in closed form.

The idea is that of arXiv 2512.14137, forgetting without training and without images; the details here are ours. With
w(c) the unit feature of the name of class c, for a request:

1. S = an orthonormal basis of the span of w(c) over the classes that stay: the leading left singular vectors that
   hold a share of the sum of squares;
2. for each class f to forget, the part of w(f) outside of S and of all earlier directions: (I - S S^T)(I - Q Q^T) w(f);
3. Q gets an orthonormal basis of these parts. Q is of all requests so far;
4. images are classified with w(c) (I - Q Q^T), at length one again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import F, Flags, LabelSpace, Method, ParityCard, TaskData, Train, register, setting, torch

from .subspace import count_reaching

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-5
"""A part of a unit feature that is no longer than this is rounding."""


def span(features: Tensor, energy: float) -> Tensor:
    """Return the leading directions of features (step 1).

    Parameters
    ----------
    features : Tensor [n, d]
    energy : float
        The share of the sum of their squares that the directions hold, in (0, 1]; 1 takes the whole span.

    Returns
    -------
    Tensor [d, k], float64
        Orthonormal columns.
    """
    _, S, Vh = torch.linalg.svd(features.double(), full_matrices=False)
    rank = int(S.gt(TINY * S[:1]).sum())
    kept = rank if energy >= 1 else min(rank, count_reaching(S**2 / (S**2).sum(), energy))
    return Vh[:kept].T


def directions(forgotten: Tensor, kept: Tensor, erased: Tensor, energy: float) -> Tensor:
    """Return the directions that a request erases (steps 2 and 3).

    Parameters
    ----------
    forgotten : Tensor [m, d]
        Unit features of the names to forget.
    kept : Tensor [n, d]
        Those of the names that stay.
    erased : Tensor [d, k]
        Q of earlier requests, orthonormal.
    energy : float
        As for `span`.

    Returns
    -------
    Tensor [d, at most m], float64
        Orthonormal, and orthogonal to `erased`. None for a name that lies in the span of the names that stay.
    """
    erased = erased.double()
    basis = span(without(kept.double(), erased), energy)
    outside = without(without(forgotten.double(), erased), basis)
    U, S, _ = torch.linalg.svd(outside.T, full_matrices=False)
    return U[:, S > TINY]


def without(features: Tensor, basis: Tensor) -> Tensor:
    """Return features [n, d] less what of them lies in the span of orthonormal columns [d, k]."""
    return features - (features @ basis) @ basis.T


@register(
    "method", "erase-text", title="Erase directions of names from the text side", paper="the idea of arXiv 2512.14137"
)
class EraseText(Method):
    """Take from all names what is special to those to forget; the towers stay, and no image is needed.

    Attributes
    ----------
    erased : Tensor [width of embedding, k]
        Q.
    """

    @dataclass
    class Settings:
        """What of the names that stay is protected."""

        energy: float = setting(
            1.0,
            "share of the squares of the names that stay that is protected; below 1 more is forgotten, and names that "
            "stay change",
            above=0,
            high=1,
        )

    kinds = ("forgetting",)
    flags = Flags(grows="directions of the names to forget", extended=True)
    parity = ParityCard(
        present=("forgetting without training and without images: a projection of the class features in closed form",),
        deviations=(
            "only the idea is of the paper: which directions are protected and erased is our own choice, and no result "
            "of the paper can be expected",
        ),
        verified=("names that stay keep their features, the others become their part in the span of these (tests)",),
    )

    def setup(self) -> None:
        """Nothing is erased yet."""
        width = self.clip.encode_prompts(["a"]).shape[1]
        self.erased = torch.zeros(width, 0, dtype=torch.float64, device=self.clip.exact_device)

    def fit(self, task: TaskData, train: Train, on_step: Callable[[], None], on_epoch: Callable[..., None]) -> int:
        """Add the directions of the names of the request to Q; return how many numbers that are."""
        assert task.request is not None
        with torch.no_grad():
            names = self.clip.encode_prompts(task.prompts).to(self.erased.device)
        gone, stay = (names[list(chosen)] for chosen in (task.request.classes, task.request.retained))
        new = directions(gone, stay, self.erased, self.settings.energy)
        self.erased = torch.cat([self.erased, new], dim=1)
        return new.numel()

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier by names without the erased directions."""
        names = self.clip.encode_prompts(space.prompts)
        left = F.normalize(without(names.to(self.erased), self.erased), dim=-1).to(names)
        return lambda pixels: self.clip.logits(self.clip.encode_images(pixels), left)

    def report(self) -> dict[str, Any]:
        """Return how many directions are erased so far."""
        return {"erased_directions": self.erased.shape[1]}

    def state_dict(self) -> dict[str, Tensor]:
        """Return Q."""
        return {"erased": self.erased}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore Q."""
        self.erased = state["erased"].to(self.clip.exact_device)

"""Regression in closed form on features of frozen towers: what RAIL and RanPAC have in common.

f [e] is the feature of an image, of unit length, and y [C] the one-hot label among all classes learned so far; a class
is known again by its prompt. Nothing is trained by steps, and no order of images, batches or tasks matters:

1. random features phi = max(P f, 0) [h] with a fixed P, or phi = f;
2. M = sum phi phi^T [h, h] and Q = sum phi y^T [h, C] over all images so far, both in float64;
3. W = (M + lam I)^-1 Q by a Cholesky factor: the ridge regression on all images so far, so nothing is forgotten.

W^T phi are the scores of learned classes. CLIP's own probabilities p, over all classes of the label space, decide who
answers: where the largest is that of a class not learned yet, the answer is p.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import F, LabelSpace, Method, TaskData, UserError, no_grad, setting, torch

from .known_classes import once, positions

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1024
"""Images whose random features are in memory at a time."""


# ---- the decisive computations


def expanded(f: Tensor, P: Tensor | None) -> Tensor:
    """Return random features.

    Parameters
    ----------
    f : Tensor [n, e]
    P : Tensor [h, e] or None
        None for the features themselves.

    Returns
    -------
    Tensor [n, h]
    """
    return f if P is None else (f @ P.T).relu()


def solved(A: Tensor, B: Tensor, ridge: float) -> Tensor | None:
    """Return (A + ridge I)^-1 B.

    Parameters
    ----------
    A : Tensor [k, k], float64
        Symmetric, positive semi-definite.
    B : Tensor [k, C], float64
    ridge : float
        Above 0.

    Returns
    -------
    Tensor [k, C], float64, or None
        None where rounding leaves A + ridge I without a Cholesky factor.
    """
    damped = A.clone()
    damped.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return None if int(failed) else torch.cholesky_solve(B, factor)


def gated(p: Tensor, scores: Tensor, known: Tensor) -> Tensor:
    """Return the scores of images that CLIP takes for a learned class, and CLIP's probabilities of all others.

    Parameters
    ----------
    p, scores : Tensor [n, C]
    known : Tensor
        bool [C], which classes were learned.

    Returns
    -------
    Tensor [n, C]
    """
    return torch.where(known[p.argmax(dim=1)][:, None], scores, p)


# ---- what the methods share


@dataclass
class Images:
    """Which images a regression is fitted to."""

    passes: int = setting(
        0, "passes over images that train.augment changes at random; 0: each image once, as a test sees it", low=0
    )


class Regression(Method, ABC):
    """Regression on features of frozen towers.

    Attributes
    ----------
    tokens : Tensor
        The tokenised prompts of all learned classes, int64 [C, context length], on the CPU.
    """

    frozen_towers = True
    ridge_setting = "method.ridge"

    def setup(self) -> None:
        """Know no class yet."""
        self.tokens = torch.zeros(0, self.clip.context_length, dtype=torch.int64)

    @abstractmethod
    def add(self, features: Tensor, classes: Tensor, task: TaskData) -> int:
        """Learn the images of a task.

        Parameters
        ----------
        features : Tensor
            Float32 [n, e], on the CPU.
        classes : Tensor
            int64 [n], index into `tokens`, on the CPU.
        task : TaskData

        Returns
        -------
        int
            How many values were computed.
        """

    @abstractmethod
    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return the function from features, float32 [batch, e], to scores of learned classes, float32 [batch, C]."""

    @abstractmethod
    def combined(self, p: Tensor, scores: Tensor, known: Tensor) -> Tensor:
        """Return the scores of images that CLIP takes for a learned class.

        Parameters
        ----------
        p : Tensor [batch, K]
            CLIP's probabilities.
        scores : Tensor [batch, K]
            Those of the regression; zero for classes that were not learned.
        known : Tensor
            bool [K], which classes were learned.
        """

    @no_grad
    def fit(self, task: TaskData, train: Any, on_step: Callable[[], None], on_epoch: Callable[[Any], None]) -> int:
        """Encode the images and solve; the budget of training does not matter."""
        with self.context.part("features"):
            features, labels = self._images(task)
        self.tokens, _ = once(torch.cat([self.tokens, task.tokens.cpu()]))
        with self.context.part("solve"):
            return self.add(features, positions(task.tokens, self.tokens)[labels], task)

    def _images(self, task: TaskData) -> tuple[Tensor, Tensor]:
        """Return the features and the labels that are regressed, on the CPU."""
        if not self.settings.passes:
            return task.features(), task.train.labels
        features, labels = [], []
        for epoch in range(self.settings.passes):
            for pixels, known in task.batches("features", epoch, augment=True):
                features.append(self.clip.encode_images(pixels).cpu())
                labels.append(known.cpu())
        return torch.cat(features), torch.cat(labels)

    def feature_classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier: CLIP's own where none of the classes was learned, else `gated`."""
        zero_shot = super().feature_classifier(space)
        indices = positions(self.clip.tokenize(space.texts), self.tokens).to(self.clip.device)
        known = indices >= 0
        if not known.any():
            return zero_shot
        columns, scorer = indices[known], self.scorer()

        def classify(features: Tensor) -> Tensor:
            p = zero_shot(features).softmax(dim=-1)
            scores = torch.zeros_like(p)
            scores[:, known] = scorer(features)[:, columns]
            return gated(p, self.combined(p, scores, known), known)

        return classify

    def solve(self, A: Tensor, B: Tensor, ridges: Sequence[float]) -> tuple[Tensor, float]:
        """Return `solved` with the first ridge that float64 can solve with, and that ridge.

        Raises
        ------
        UserError
            If there is none.
        """
        for ridge in ridges:
            solution = solved(A, B, ridge)
            if solution is not None:
                return solution, ridge
        raise UserError(
            f"{self.ridge_setting}={max(ridges):g} is too small to solve with in float64: choose a larger one"
        )


class RandomFeatures(Regression):
    """Ridge regression on random features, from sums over all images so far.

    Attributes
    ----------
    P : Tensor [h, e] or None
        Float32.
    M, Q : Tensor [h, h] and [h, C], float64
    W : Tensor [h, C]
        Float32.
    ridge : float
        lam of the task learned last; 0 before the first one.
    """

    def setup(self) -> None:
        """Draw P, and begin with sums over no image."""
        super().setup()
        e, h = self.clip.model.visual.output_dim, self.settings.expansion
        exact, device = self.clip.exact_device, self.clip.device
        self.P = self.draw(h, e).to(device) if h else None
        width = h or e
        self.M = torch.zeros(width, width, dtype=torch.float64, device=exact)
        self.Q = torch.zeros(width, 0, dtype=torch.float64, device=exact)
        self.W = torch.zeros(width, 0, device=device)
        self.ridge = 0.0

    @abstractmethod
    def draw(self, h: int, e: int) -> Tensor:
        """Return P, float32 [h, e], on the CPU."""

    def ridges(
        self, phi: Callable[[Tensor], Tensor], features: Tensor, classes: Tensor, task: TaskData
    ) -> Sequence[float]:
        """Return lam, and what to solve with where float64 cannot solve with it.

        Parameters
        ----------
        phi : callable
            From features [n, e] to random features [n, h], float64.
        features, classes, task
            As for `add`.
        """
        return [self.settings.ridge]

    def add(self, features: Tensor, classes: Tensor, task: TaskData) -> int:
        """Add to M and Q, and solve for W."""
        exact = self.clip.exact_device
        P = None if self.P is None else self.P.to(exact).double()
        self.Q = F.pad(self.Q, (0, len(self.tokens) - self.Q.shape[1]))

        def phi(some: Tensor) -> Tensor:
            return expanded(some.to(exact).double(), P)

        for some, labels in zip(features.split(CHUNK), classes.split(CHUNK), strict=True):
            chunk = phi(some)
            self.M += chunk.T @ chunk
            self.Q += chunk.T @ F.one_hot(labels, len(self.tokens)).to(chunk)
        W, self.ridge = self.solve(self.M, self.Q, self.ridges(phi, features, classes, task))
        self.W = W.float().to(self.clip.device)
        return self.W.numel()

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return the scores W^T phi."""
        return lambda features: expanded(features, self.P) @ self.W

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prompts and the sums; P is drawn again."""
        return {"tokens": self.tokens, "M": self.M, "Q": self.Q, "W": self.W}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.tokens, self.W = state["tokens"], state["W"].to(self.clip.device)
        self.M, self.Q = (state[name].to(self.clip.exact_device) for name in ("M", "Q"))

"""IF2Net-like: random features above frozen towers, and a readout that changes where no earlier feature is read.

After IF2Net, Li et al., arXiv 2306.10480. Its code is not public and this was written without its method section: the
features are those that the same authors' public code for CLSNet computes, the projection is that of OWM and of gradient
projection memory. Hence the name, and no number here is IF2Net's.

Both towers stay as they are. z [D] is the feature of an image, of unit length, and g [L] its random features, which
`random_features` computes by layers of random weights: they see the first task's images once, unlabelled, and never
change again.

1. z' = (z + R^T g) / |z + R^T g| classifies in place of z. The readout R [L, D] starts at zero and alone is trained;
2. each step of the optimiser is replaced by P times it. ``basis``: P = I - M M^T, where M holds for every task so far
   the fewest directions that cover 1 - eps of the energy of its g. ``ridge``: P = a (G^T G + a I)^-1 with the rows g of
   all earlier images. With eps = 0 the readouts of earlier training images stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.api import (
    F,
    Flags,
    LabelSpace,
    Method,
    ParityCard,
    TaskData,
    TrainStep,
    UserError,
    generator,
    no_grad,
    register,
    setting,
    torch,
)

from .random_features import Drawn, Fitted, Layers, draw_layers, fit_layers, random_features
from .subspace import empty_basis, grow, outside

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 256
"""Rows of features that enter a memory at a time."""


# ---- the decisive computations


def grown(basis: Tensor, G: Tensor, eps: float) -> Tensor:
    """Return the basis with the fewest further directions that cover 1 - eps of the energy of some features.

    `grow` decides which. Where features and basis span less than the whole space, it works inside their span.

    Parameters
    ----------
    basis : Tensor [L, k], float64
        M.
    G : Tensor [n, L]
        A row of features an image.
    eps : float
        In [0, 1).

    Returns
    -------
    Tensor [L, k + g], float64
        The columns of `basis` come first, unchanged.
    """
    L, k = basis.shape
    frame = torch.eye(L).to(basis)
    if k + len(G) < L:
        frame = torch.linalg.qr(torch.cat([basis, G.T.to(basis)], dim=1)).Q
    gram = torch.zeros(frame.shape[1], frame.shape[1]).to(basis)
    for rows in G.split(CHUNK):
        inside = rows.to(basis) @ frame
        gram += inside.T @ inside
    fresh = frame @ grow(frame.T @ basis, gram, 1 - eps)[:, k:]
    return torch.cat([basis, torch.linalg.qr(outside(basis, fresh)).Q], dim=1)


def damped(P: Tensor, G: Tensor, a: float) -> Tensor:
    """Return the projector of ridge regression after some more rows: from a (S + a I)^-1 to a (S + G^T G + a I)^-1.

    Parameters
    ----------
    P : Tensor [L, L], float64
        Symmetric; the identity before the first row.
    G : Tensor [n, L]
    a : float
        The damping, above 0.

    Returns
    -------
    Tensor [L, L], float64
    """
    for rows in G.split(CHUNK):
        seen = P @ rows.T.to(P)
        system = rows.to(P) @ seen + a * torch.eye(len(rows)).to(P)
        P = P - seen @ torch.linalg.solve(system, seen.T)
    return (P + P.T) / 2


def corrected(z: Tensor, g: Tensor, R: Tensor) -> Tensor:
    """Return what classifies in place of z.

    Parameters
    ----------
    z : Tensor [n, D]
        Features of images.
    g : Tensor [n, L]
        Random features of the same images.
    R : Tensor [L, D]
        The readout.

    Returns
    -------
    Tensor [n, D]
        Rows of unit length.
    """
    return F.normalize(z + g @ R, dim=-1)


# ---- the method


@register(
    "method",
    "if2net-like",
    title="A reconstruction: a projected readout of random features",
    paper="after IF2Net, arXiv 2306.10480",
)
class If2NetLike(Method):
    """A readout of random features above frozen towers, trained in directions that earlier tasks' features leave free.

    Attributes
    ----------
    readout : Tensor [L, D]
        R.
    memory : Tensor, float64
        M [L, k], or P [L, L] with ``projector=ridge``.
    """

    @dataclass
    class Settings(Layers):
        """Sizes of the random layers, and what of the features is protected."""

        projector: str = setting(
            "basis", "directions of earlier features are left out, or damped", choices=("basis", "ridge"), symbol="P"
        )
        eps: float = setting(
            0.01, "share of the energy of a task's features that basis leaves unprotected", low=0, below=1, symbol="eps"
        )
        damping: float = setting(1e-3, "damping of ridge, against |g|^2 = 1 an image", above=0, symbol="a")

    defaults = {"train.weight_decay": 0.0}
    frozen_towers = True
    flags = Flags(grows="protected directions of its features, at most method.width", extended=True)
    parity = ParityCard(
        present=(
            "a reconstruction, written without the paper's method section, its code or its numbers: what IF2Net itself "
            "does may differ in any of these points",
            "random hidden layers, frozen, with the tweak, enhancement layer and third layer of the authors' public "
            "code for CLSNet: sizes, draws, ranges, ADMM",
            "one readout for all tasks, its steps projected away from earlier tasks' features, by a basis with an "
            "energy or by OWM's damped projector",
            "no task identity, no images kept",
        ),
        absent=(
            "a readout a class: the readout corrects the image's feature, so that classes not learned yet can be "
            "candidates",
            "a tweak a task, and one fitted to the test set as the public code does",
            "random layers in place of a pre-trained model",
        ),
        deviations=(
            "inputs are features of CLIP's image tower, of images as a test sees them",
            "the tweak and all ranges are those of the first task, for training and tests alike",
            "features are divided by one number",
            "the step of the optimiser is projected, not the gradient: the same for SGD, and right for AdamW too",
            "ridge takes a row an image after each task; OWM takes a mean a batch while it trains, and lets a fall",
        ),
        verified=("float64 definitions, written apart from the implementation (tests)",),
    )

    @classmethod
    def flags_for(cls, settings: Settings) -> Flags:
        """Return the flags: the projector of ridge has one size."""
        return replace(cls.flags, grows="") if settings.projector == "ridge" else cls.flags

    def setup(self) -> None:
        """Draw the random layers; refuse a stream whose first task has one image."""
        for name, images in list(self.context.images.items())[:1]:
            self._check_images(name, images)
        D, L, exact = self.clip.model.visual.output_dim, self.settings.width, self.clip.exact_device
        layers = draw_layers(D, self.settings, generator(self.context.init_seed, "if2net-like"))
        self.layers = Drawn(*(tensor.to(self.clip.device) for tensor in layers))
        self.fitted: Fitted | None = None
        self.readout = torch.zeros(L, D, device=self.clip.device)
        whole = self.settings.projector == "ridge"
        self.memory = torch.eye(L, dtype=torch.float64, device=exact) if whole else empty_basis(L, exact)
        self.features: Tensor | None = None
        self.texts: Tensor | None = None
        self.projection: Tensor | None = None

    def _check_images(self, task: str, images: int) -> None:
        if images < 2 and self.settings.tweak == "shared":
            raise UserError(
                f"the first task, {task}, has {images} training image and the ranges of its features need two: add "
                "some, or set method.tweak=none"
            )

    def _random(self, z: Tensor) -> Tensor:
        assert self.fitted is not None, "a task was begun"
        return random_features(z, self.layers, self.fitted, self.settings.sharpness)

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Look at all images once; the first task fits the tweak to them."""
        with self.context.part("features"):
            z = torch.cat([self.clip.encode_images(pixels) for pixels, _ in task.batches("features")])
        if self.fitted is None:
            self._check_images(task.name, len(z))
            exact = self.clip.exact_device
            layers = Drawn(*(tensor.to(exact).double() for tensor in self.layers))
            fitted = fit_layers(z.to(exact).double(), layers, self.settings.sparsity, self.settings.sharpness)
            self.fitted = Fitted(*(tensor.float().to(self.clip.device) for tensor in fitted))
        self.features, self.texts = z, self.clip.encode_tokens(task.tokens)
        self.projection = self.memory.to(self.readout)
        if self._free() < 1:
            self.context.say(
                f"note: task {task.name} learns nothing, since earlier tasks used all {self.settings.width} directions "
                "of the features: raise method.width, or method.eps and method.damping"
            )

    def _free(self) -> float:
        """How many directions the readout may still change in: the trace of P."""
        used = self.memory.shape[1]
        return float(self.memory.trace() if self.settings.projector == "ridge" else self.settings.width - used)

    def parameters(self) -> Sequence[Tensor]:
        """Return the readout."""
        return [self.readout]

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the cross-entropy over the task's prompts, whose features do not change."""
        assert self.texts is not None, "a task was begun"
        with torch.no_grad():
            z = self.clip.encode_images(pixels)
            g = self._random(z)
        return task.cross_entropy(self.clip.logits(corrected(z, g, self.readout), self.texts), labels)

    def train_step(self, step: TrainStep) -> None:
        """Make the part of an ordinary step that the projector lets through."""
        assert self.projection is not None, "a task was begun"
        before = self.readout.detach().clone()
        step.backward()
        step.update()
        with torch.no_grad():
            change = self.readout - before
            free = self.projection @ change if self.settings.projector == "ridge" else outside(self.projection, change)
            self.readout.copy_(before + free)

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Remember the directions of this task's features; nothing is merged."""
        assert self.features is not None, "a task was begun"
        G = self._random(self.features)
        if self.settings.projector == "ridge":
            self.memory = damped(self.memory, G, self.settings.damping)
        else:
            self.memory = grown(self.memory, G, self.settings.eps)
            self.context.observers.report("subspace", task.name, "readout", basis=self.memory, when="task")
        self.features = self.texts = self.projection = None

    def feature_classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier: the same correction of an image's feature whatever the candidates are."""
        if self.fitted is None:
            return super().feature_classifier(space)
        texts = self.clip.encode_prompts(space.prompts)
        return lambda z: self.clip.logits(corrected(z, self._random(z), self.readout), texts)

    def report(self) -> dict[str, Any]:
        """Return in how many directions the readout may still change after the task just learned."""
        return {"free": self._free()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the readout, the memory, and what the first task decided."""
        if self.fitted is None:
            return {}
        return {"readout": self.readout, "memory": self.memory, **self.fitted._asdict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        if not state:
            return
        self.readout = state["readout"].to(self.clip.device)
        self.memory = state["memory"].to(self.clip.exact_device)
        self.fitted = Fitted(*(state[name].to(self.clip.device) for name in Fitted._fields))

"""LoDA: one branch in directions that tasks share, one in the new task's own. He et al., arXiv 2603.00191.

For every input site (d wide) S_new is the mean of x x^T over the tokens x of the new task, S_old the sum of such means
over earlier tasks. For task t, counted from 0:

1. general branch: A_G are the r leading eigenvectors of S_old + S_new, divided by sqrt(3);
2. isolated branch, from task 1 on: the r leading generalised eigenvectors of (S_new, S_old), by whitening: with
   S_old = L L^T and V the leading eigenvectors of L^-1 S_new L^-T they are L^-T V. Made orthonormal in that order and
   divided by sqrt(3) they are A_I: directions with much energy in the new task and little in earlier ones;
3. y = W x + w_G B_G A_G x + w_I B_I A_I x with B = 0 at the start. Only the B are trained; in task 0, where there is no
   isolated branch, A_G too. All maps of a site share A_G and A_I, each has its own B;
4. gradient-aligned optimisation, a batch at a time: its classes are divided at random into two halves. With u from
   U(0, 1), for (source, target) = (1, 2) and then (2, 1): g is the gradient of the loss of the source's images; every
   trained tensor moves by e = -rho u g / |g|, the gradient of the target's loss is taken there, the optimiser makes its
   step with it, and e is taken back;
5. after the task, S_cur is measured with the trained model. Row a_i of A_G keeps the share Lambda_i = gamma g_new /
   (g_old + gamma g_new), with g_old = a_i S_old a_i^T and g_new = a_i S_cur a_i^T, and
   W <- W + w_G B_G diag(Lambda) A_G + w_I B_I A_I; in task 0 with Lambda = 1;
6. S_old grows by S_cur, and by what the merged model measures.

Lambda belongs to the single eigenvectors: another basis of the same span would be recalibrated otherwise. The method is
one file, although it is long: its steps are functions to be read beside the paper, and half of it says what they take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import (
    Branches,
    F,
    LinearMap,
    LowRank,
    Method,
    ParityCard,
    Site,
    TaskData,
    TrainStep,
    generator,
    no_grad,
    register,
    second_moments,
    setting,
    torch,
    with_defaults,
)

from .low_rank import PerTower, Targets, targets, tensors_named
from .subspace import descending_eigh, empty_moment, side_by_side

if TYPE_CHECKING:
    from torch import Tensor

NUMERICAL = 1e-6
"""Share of the largest eigenvalue below which a direction has no energy: its row of A is zero."""

TINY = 1e-12
"""What keeps quotients finite, and the first addition to a moment that has no Cholesky factor."""


# ---- the decisive computations


def rows_of(directions: Tensor, rank: int) -> Tensor:
    """Return directions as rows of A, divided by sqrt(3), with rows of zeros where there are fewer than the rank.

    Parameters
    ----------
    directions : Tensor [d, k]
        Orthonormal columns, k at most the rank.
    rank : int

    Returns
    -------
    Tensor [rank, d]
    """
    return F.pad(directions.T / math.sqrt(3), (0, 0, 0, rank - directions.shape[1]))


def numerical_rank(eigenvalues: Tensor) -> int:
    """Return how many eigenvalues, largest first, are not rounding."""
    return int((eigenvalues > NUMERICAL * eigenvalues[0]).sum())


def general_rows(moment: Tensor, rank: int) -> Tensor:
    """Return A_G: the leading eigenvectors of a second moment (step 1).

    Parameters
    ----------
    moment : Tensor [d, d], float64
        S_old + S_new.
    rank : int
        r.

    Returns
    -------
    Tensor [r, d]
        A A^T = 1/3 but for rows of zeros beyond the numerical rank.
    """
    eigenvalues, vectors = descending_eigh(moment)
    return rows_of(vectors[:, : min(rank, numerical_rank(eigenvalues))], rank)


def cholesky(moment: Tensor) -> Tensor:
    """Return L with L L^T = S, or S + jitter where S is singular: 1e-12 of the identity, then ten times more on top.

    Parameters
    ----------
    moment : Tensor [d, d], float64

    Returns
    -------
    Tensor [d, d]
        Lower triangular.
    """
    added = TINY
    factor, failed = torch.linalg.cholesky_ex(moment)
    while int(failed):
        moment = moment + added * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        factor, failed = torch.linalg.cholesky_ex(moment)
        added *= 10
    return factor


def generalised(new: Tensor, old: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the generalised eigenvalues and eigenvectors of (S_new, S_old): S_new u = lambda S_old u (step 2).

    Parameters
    ----------
    new, old : Tensor [d, d], float64
        S_new and S_old.
    ridge : float, optional
        delta: S_old counts as S_old + delta tr(S_old) / d.

    Returns
    -------
    values : Tensor [d]
        Largest first.
    vectors : Tensor [d, d]
        U, columns in the same order, with U^T S_old U = 1.
    """
    identity = torch.eye(len(old), dtype=old.dtype, device=old.device)
    factor = cholesky(old + ridge * old.trace() / len(old) * identity)
    half = torch.linalg.solve_triangular(factor, new, upper=False)
    white = torch.linalg.solve_triangular(factor, half.T, upper=False)
    values, vectors = descending_eigh((white + white.T) / 2)
    return values, torch.linalg.solve_triangular(factor.T, vectors, upper=True)


def isolated_rows(new: Tensor, old: Tensor, rank: int, ridge: float = 0.0) -> Tensor:
    """Return A_I: the leading generalised eigenvectors of (S_new, S_old), made orthonormal one after the other.

    Parameters
    ----------
    new, old : Tensor [d, d], float64
        S_new and S_old.
    rank : int
        r.
    ridge : float, optional
        As for `generalised`.

    Returns
    -------
    Tensor [r, d]
        A A^T = 1/3 but for rows of zeros beyond the numerical rank of S_new.
    """
    kept = min(rank, numerical_rank(torch.linalg.eigvalsh(new).flip(0)))
    _, vectors = generalised(new, old, ridge)
    return rows_of(torch.linalg.qr(vectors[:, :kept]).Q, rank)


def recalibration(A: Tensor, old: Tensor, current: Tensor, gamma: float) -> Tensor:
    """Return Lambda: the share of the general branch that a task keeps, row by row (step 5).

    Parameters
    ----------
    A : Tensor [r, d]
        A_G.
    old, current : Tensor [d, d]
        S_old of earlier tasks, and S_cur.
    gamma : float
        Weight of the new task.

    Returns
    -------
    Tensor [r]
        From 0 to 1; 0 for a row of zeros.
    """
    A = A.to(old)
    before, now = ((A @ moment * A).sum(dim=1) for moment in (old, current))
    return gamma * now / (before + gamma * now + TINY)


def halves(classes: Sequence[int], order: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return two groups of classes (step 4): the first has half of them, rounded down, at least one.

    Parameters
    ----------
    classes : sequence of int
        The classes in a batch, sorted.
    order : sequence of int
        A permutation of their positions.
    """
    middle = max(1, len(classes) // 2)
    drawn = [classes[index] for index in order]
    return drawn[:middle], drawn[middle:]


def look_ahead(gradients: Sequence[Tensor], length: float) -> list[Tensor]:
    """Return e, the displacement of tensors against their gradients: together they move by a length (step 4).

    Parameters
    ----------
    gradients : sequence of Tensor
        Of tensors that count as one.
    length : float
        rho u.

    Returns
    -------
    list of Tensor
        Zeros where the gradient is zero, or not finite, as in fp16 it may be.
    """
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = torch.where(norm.isfinite(), -length / (norm + TINY), torch.zeros_like(norm))
    return [torch.where(norm.isfinite(), factor * gradient, torch.zeros_like(gradient)) for gradient in gradients]


def with_margin(logits: Tensor, labels: Tensor, margin: Tensor | float) -> Tensor:
    """Return logits [images, classes] with those of the labels [images] lowered by a margin."""
    return logits - margin * F.one_hot(labels, logits.shape[1])


# ---- the method


@register("method", "loda", title="General and isolated branches, aligned steps", paper="LoDA, arXiv 2603.00191")
class LoDA(Method):
    """LoDA with a classifier of text prompts, on q, k, v and o of both towers.

    Attributes
    ----------
    old : dict of site name to Tensor [d, d], float64
        S_old.
    """

    @dataclass
    class Settings(Targets):
        """Which maps are adapted, and how the two branches are made, trained and merged."""

        rank: int = setting(16, "rows of A_G, and of A_I", low=1, symbol="r")
        general: float = setting(0.25, "weight of the general branch", above=0, symbol="w_G")
        isolated: float = setting(0.5, "weight of the isolated branch", above=0, symbol="w_I")
        gamma: float = setting(
            3.0, "weight of a new task when the general branch is recalibrated", above=0, symbol="gamma"
        )
        rho: float = setting(
            0.106,
            "longest look-ahead of a tensor; 0.3 over 24 tensors as published moves as far as 0.106 over our 192",
            low=0,
            symbol="rho",
        )
        gao: str = setting(
            "both",
            "gradient-aligned steps: the towers whose tensors look ahead; image encodes the prompts twice a batch, not "
            "four times; off makes one ordinary step",
            choices=("both", "image", "off"),
        )
        fused: bool = setting(
            False, "q, k and v of a block look ahead as one tensor, which they are in the released code", symbol="e"
        )
        count_twice: bool = setting(
            True, "add a task to S_old before and after its merge, as released; once with gamma 1.5 weighs the same"
        )
        ridge: PerTower = setting(
            PerTower(0.0, 1e-3), "share of its mean energy that S_old gets in every direction", low=0, symbol="delta"
        )
        margin: float = setting(0.0, "margin of the cosine of the true class", low=0, below=1, symbol="m")

        def check(self) -> list[str]:
            """Return what contradicts itself, whatever the model is."""
            problems = super().check()
            if self.gao == "image" and self.towers and "image" not in self.towers:
                problems.append(
                    "method.gao=image looks ahead with the image tower, which method.towers does not name: add it, or "
                    "set method.gao=both"
                )
            return problems

    defaults = {"train.weight_decay": 0.0}
    changes_at_end = True
    parity = ParityCard(
        present=(
            "general branch: leading directions of old and new energy; isolated branch: whitened generalised "
            "eigenvectors of new against old energy, in float64; one A a site, one B a map",
            "first task with the general branch alone, A_G trained too; weights 0.25 and 0.5",
            "aligned double step: split by class, one u a batch, displaced descent, both directions, one optimiser",
            "recalibration of the general branch from S_old of earlier tasks; order of measuring and merging",
        ),
        absent=(
            "cosine heads, class means, classifier alignment (CLIP classifies with prompts)",
            "scores of a frozen CLIP beside the adapted ones, of which the weight is not published",
        ),
        deviations=(
            "built from a description of the method: the released code has no licence and was not read",
            "q, k, v, o of both towers by default; the released code adapts q, k, v of an image tower: loda-faithful",
            "each map's B looks ahead as a tensor of its own; q, k and v are one in the released code (fused)",
            "in the text tower S_old has a relative ridge (ridge.text), which is another method there: with few "
            "prompts the released jitter of 1e-12 takes directions in which no earlier prompt lies, before all others",
            "statistics of images as a test sees them, without padding of texts, in float64; released: of randomly "
            "changed ones, in float32, where singular moments are some percent away",
            "rows of A beyond the numerical rank are zero; after the first task, whose merge changes nothing, its "
            "statistics count twice without being measured again",
        ),
        verified=("float64 transcriptions of the definitions, worked examples of every step (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt; nothing has been learned yet."""
        self.targets = targets(self.clip, self.settings)
        self.sites: dict[str, Site] = {m.site.name: m.site for m in self.targets}
        self.old = {name: empty_moment(site.width, self.clip.exact_device) for name, site in self.sites.items()}
        self.texts: Tensor | None = None
        self.first = True
        self.said: set[str] = set()
        self.kept: dict[str, float] = {}

    # ---- before training

    def begin_task(self, task: TaskData) -> None:
        """Measure S_new, make A_G and A_I, and attach both branches with B = 0."""
        self.first, self.texts = task.index == 0, None
        with self.context.part("statistics"):
            new = self._moments(task)
        with self.context.part("subspaces"):
            results = side_by_side(lambda name: self._rows(name, new[name]), self.sites, self.clip.exact_device)
        rows = dict(zip(self.sites, results, strict=True))
        for name, site in self.sites.items():
            mine = [m for m in self.targets if m.site is site]
            shared = [A.to(mine[0].parameter).contiguous() for A in rows[name]]
            for linear_map in mine:
                self._attach(linear_map, shared)
            self.context.observers.report("method", task.name, name, **dict(zip(("A_G", "A_I"), shared, strict=False)))

    def _moments(self, task: TaskData) -> dict[str, Tensor]:
        """Measure the mean of x x^T over the task's tokens, as the model is now, a site each."""
        return {name: moment.mean() for name, moment in second_moments(self.clip, task, self.targets).items()}

    def _rows(self, name: str, new: Tensor) -> list[Tensor]:
        """Return A_G of a site, and A_I where there is an earlier task."""
        old, rank = self.old[name], self.settings.rank
        general = general_rows(old + new, rank)
        if self.first:
            return [general]
        return [general, isolated_rows(new, old, rank, getattr(self.settings.ridge, name.split(".")[0]))]

    def _attach(self, linear_map: LinearMap, rows: Sequence[Tensor]) -> None:
        weights = (self.settings.general, self.settings.isolated)
        zeros = linear_map.parameter.new_zeros(linear_map.out_features, self.settings.rank)
        branches = [LowRank(A, zeros.clone(), weight) for A, weight in zip(rows, weights, strict=False)]
        linear_map.update = branches[0] if self.first else Branches(*branches)

    # ---- training

    def parameters(self) -> Sequence[Tensor]:
        """Return B of both branches; in the first task A_G and B_G."""
        return self._trained(self.targets)

    def _trained(self, maps: Sequence[LinearMap]) -> list[Tensor]:
        return tensors_named(maps, *(("A", "B") if self.first else ("0.B", "1.B")))

    def _looking(self) -> list[list[Tensor]]:
        """Return the tensors that look ahead, in groups that count as one."""
        maps = [m for m in self.targets if self.settings.gao == "both" or m.tower == "image"]
        if not self.settings.fused:
            return [[tensor] for tensor in self._trained(maps)]
        names = ("A", "B") if self.first else ("0.B", "1.B")
        together = [[m for m in maps if m.site is site] for site in self.sites.values()]
        return [tensors_named(mine, name) for mine in together if mine for name in names]

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Cross-entropy over the task's prompts, with the margin where there is one."""
        return self._loss(task, labels, self.clip.encode_images(pixels), self._encode(task))

    def _loss(self, task: TaskData, labels: Tensor, images: Tensor, texts: Tensor) -> Tensor:
        logits = self.clip.logits(images, texts)
        if self.settings.margin:
            logits = with_margin(logits, labels, self.settings.margin * self.clip.logit_scale)
        return task.cross_entropy(logits, labels)

    def _encode(self, task: TaskData) -> Tensor:
        """Return features of the task's prompts, encoded once a task where the text tower is not adapted."""
        if "text" in self.settings.towers:
            return self.clip.encode_tokens(task.tokens)
        if self.texts is None:
            with torch.no_grad():
                self.texts = self.clip.encode_tokens(task.tokens)
        return self.texts

    def train_step(self, step: TrainStep) -> None:
        """Make the two half-steps of a batch; an ordinary step where it has one class."""
        divided = None if self.settings.gao == "off" else self._divide(step)
        if divided is None:
            return super().train_step(step)
        (one, two), length = divided
        images = None
        if "image" not in self.settings.towers and len(step.labels):  # one pass serves all four
            with torch.no_grad():
                images = self.clip.encode_images(step.pixels)
        for source, target in ((one, two), (two, one)):
            self._half_step(step, source, target, length, images)

    def _divide(self, step: TrainStep) -> tuple[list[Tensor], float] | None:
        """Return the images of this process in each half of the classes, and rho u; None for a single class."""
        labels = step.labels.tolist()
        classes = self._classes(step, labels)
        if len(classes) < 2:
            if "one class" not in self.said:
                self.said.add("one class")
                self.context.say(
                    f"note: batch {step.number + 1} of task {step.task.name} has one class alone, which cannot be "
                    "divided: it is trained with one ordinary step, and so are others like it"
                )
            return None
        draw = generator(self.context.data_seed, "loda", step.task.index, step.number)
        groups = halves(classes, torch.randperm(len(classes), generator=draw).tolist())
        length = self.settings.rho * float(torch.rand((), generator=draw, dtype=torch.float64))
        chosen = [[index for index, label in enumerate(labels) if label in group] for group in groups]
        return [torch.tensor(one, dtype=torch.int64, device=step.labels.device) for one in chosen], length

    def _classes(self, step: TrainStep, labels: Sequence[int]) -> list[int]:
        """Return the classes of the whole batch, sorted, whichever process has their images."""
        mine = set(labels)
        present = [int(label in mine) for label in range(len(step.task.tokens))]
        present = self.context.world.agree(present, step.labels.device)
        return [label for label, there in enumerate(present) if there]

    def _half_step(self, step: TrainStep, source: Tensor, target: Tensor, length: float, images: Tensor | None) -> None:
        """Step along the target's gradient, taken ahead along the source's (step 4)."""
        # Where no text tensor looks ahead, one pass over the prompts serves source and target.
        shared = self._encode(step.task) if self.settings.gao == "image" else None

        def loss(chosen: Tensor, texts: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
            def of(pixels: Tensor, labels: Tensor) -> Tensor:
                features = self.clip.encode_images(pixels) if images is None else images[chosen]
                return self._loss(step.task, labels, features, self._encode(step.task) if texts is None else texts)

            return of

        step.backward(source, loss(source, None if shared is None else shared.detach()))
        looking = self._looking()
        gradients = [[tensor.grad for tensor in group if tensor.grad is not None] for group in looking]
        moves = [look_ahead(group, length) for group in gradients]
        pairs = [pair for group, moved in zip(looking, moves, strict=True) for pair in zip(group, moved, strict=True)]
        with torch.no_grad():
            for tensor, move in pairs:
                tensor.add_(move)
        step.backward(target, loss(target, shared), counts=False)
        step.update()
        with torch.no_grad():
            for tensor, move in pairs:
                tensor.sub_(move)

    # ---- after training

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Recalibrate the general branch, merge both, and let the task enter S_old."""
        self.texts = None
        with self.context.part("statistics"):
            current = self._moments(task)
        if not self.first:
            for name, site in self.sites.items():
                self._recalibrate(task, name, [m for m in self.targets if m.site is site], current[name])
        self.clip.merge()
        counted = [current]
        if self.settings.count_twice:
            with self.context.part("statistics"):
                counted.append(current if self.first else self._moments(task))
        for name in self.sites:
            self.old[name] = self.old[name] + sum(moments[name] for moments in counted)

    def _recalibrate(self, task: TaskData, name: str, maps: Sequence[LinearMap], current: Tensor) -> None:
        """Weigh the columns of B_G of a site's maps by Lambda."""
        tensors = [m.update.tensors() for m in maps if m.update]
        shares = recalibration(tensors[0]["0.A"], self.old[name], current, self.settings.gamma)
        self.kept[name] = float(shares.mean())
        self.context.observers.report("method", task.name, name, Lambda=shares)
        for tensor in tensors:
            tensor["0.B"].mul_(shares.to(tensor["0.B"]))

    def report(self) -> dict[str, Any]:
        """Return the mean of Lambda in the task just learned, a site each; nothing of the first one."""
        return {"recalibration": dict(self.kept)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return S_old of every site."""
        return dict(self.old)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.old = {name: state[name].to(self.clip.exact_device) for name in self.sites}


@register("method", "loda-faithful", title="LoDA with the paper's maps and constants", paper="LoDA, arXiv 2603.00191")
class LoDAFaithful(LoDA):
    """q, k and v of the image tower, rank 32, SGD with one rate an epoch, where the stream says no other."""

    Settings = with_defaults(LoDA.Settings, maps=["q", "k", "v"], towers=["image"], rank=32, rho=0.3, fused=True)
    defaults = {
        "train.optimizer": "sgd",
        "train.momentum": 0.9,
        "train.lr": 0.005,
        "train.weight_decay": 5e-4,
        "train.schedule": "cosine",
        "train.rate_per": "epoch",
        "train.warmup": 0.0,
        "train.epochs": 20,
        "train.batch_size": 48,
    }
    parity = ParityCard(
        present=(*LoDA.parity.present, "its maps, rank, look-ahead, optimiser, rates, decay, epochs and batch size"),
        absent=LoDA.parity.absent,
        deviations=(
            LoDA.parity.deviations[0],
            "CLIP's own temperature in the place of a scale of 20; rate, decay and look-ahead are those for CIFAR-100, "
            "where the stream has no budget of its own; margins of 0.1 and 0.15 on other data are method.margin",
            *LoDA.parity.deviations[4:],
        ),
        verified=LoDA.parity.verified,
    )

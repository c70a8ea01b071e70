"""MoE-Adapters: experts with a router beside every block, and a selector. Yu et al., CVPR 2024, arXiv 2403.11549.

Every block of both towers has N experts E_i(h) = U_i relu(D_i h + b_i) + c_i of width 64, for all tasks, and two
matrices [d, N] for every task t: the router R and the noise R'. For a sequence h (the sum along the blocks between
attention and MLP) with the first token h_0:

1. g = h_0 R, in training plus e (softplus(h_0 R') + 0.01) with e from N(0, 1) for every image and prompt;
2. G = softmax over the k largest g, 0 elsewhere; the block's output gets s sum_i G_i E_i(h) added, for all tokens;
3. after a task the two experts of every block that its training used most are frozen for good.

The first token of a text sees itself alone, so that at test time all prompts of a task have the same experts. U starts
at 0: nothing changes at first.

At test time a selector gives every image a task t, whose routers are taken, or none: then it gets the pre-trained
model's answer. The paper trains an auto-encoder a task on features of a second network. Here it is linear, on what
CLIP's frozen image tower reads of an image, z: its best solution is known (the task's mean and principal directions),
so nothing has to be trained and no outside data are needed. The task with the least error |z - rec_t(z)|^2 is chosen,
unless that is above nearly all errors of the task's held-out training images.

It is one file, although it is long: much of it is what the small functions document and what the parity cards say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.api import (
    TOWERS,
    F,
    Flags,
    LabelSpace,
    Method,
    ParityCard,
    Surroundings,
    TaskData,
    TrainStep,
    UserError,
    generator,
    no_grad,
    register,
    setting,
    torch,
    with_defaults,
)

from .full_finetuning import LAST_STEP, RELEASED

if TYPE_CHECKING:
    from torch import Tensor

LEAST_NOISE = 0.01
"""What is added to the standard deviation of the noise."""

FROZEN_A_TASK = 2
"""Experts of a block that a task freezes, whatever k is."""

HELD_OUT = 0.2
"""Share of a task's training images that decide how far from a task an image may be; the others fit the selector."""


class Expert(NamedTuple):
    """What one expert is made of: ``down`` D [h, d], ``start`` b [h], ``up`` U [d, h], ``shift`` c [d]."""

    down: Tensor
    start: Tensor
    up: Tensor
    shift: Tensor


# ---- the decisive computations


def routing(c: Tensor, R: Tensor, R_noise: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
    """Return what a router says of sequences: ``c R``, in training ``+ e (softplus(c R') + 0.01)``; in float32.

    Parameters
    ----------
    c : Tensor [n, d]
        First tokens.
    R, R_noise : Tensor [d, N]
        R_noise is R'; None where there is no noise.
    noise : Tensor [n, N], optional
        e, from N(0, 1).

    Returns
    -------
    Tensor [n, N]
    """
    with torch.autocast(c.device.type, enabled=False):
        c = c.to(R.dtype)
        g = c @ R
        return g if R_noise is None or noise is None else g + noise * (F.softplus(c @ R_noise) + LEAST_NOISE)


def gates(g: Tensor, k: int, allowed: Tensor | None = None) -> Tensor:
    """Return the softmax over the k largest entries of each row, and 0 for the others; of equal ones the first.

    Parameters
    ----------
    g : Tensor [n, N]
    k : int
    allowed : bool Tensor [N], optional
        The experts that may be chosen, at least one; where they are fewer than k, a row has fewer entries.

    Returns
    -------
    Tensor [n, N]
        Rows sum to 1. (2, 1, 0, 0) with k = 2 becomes (0.7311, 0.2689, 0, 0).
    """
    if allowed is not None:
        g = g.masked_fill(~allowed, -torch.inf)
    largest = g.argsort(dim=1, descending=True, stable=True)[:, :k]
    chosen = F.one_hot(largest, g.shape[1]).sum(dim=1).bool()
    return g.masked_fill(~chosen, -torch.inf).softmax(dim=1)


def mixture(h: Tensor, G: Tensor, experts: Sequence[Expert], kept: Tensor | None = None) -> Tensor:
    """Return ``sum_i G_i E_i(h)``: the sequences are sorted by expert once, and an expert sees those that use it.

    Parameters
    ----------
    h : Tensor [n, tokens, d]
    G : Tensor [n, N]
        Gates. Where one is 0 the expert is not computed, and gets no gradient.
    experts : sequence of Expert
        N.
    kept : Tensor [n, k, tokens, h], optional
        Factors for the hidden values, of the first expert that a sequence uses, the second and so on: dropout.

    Returns
    -------
    Tensor [n, tokens, d]
        Summed up in the precision of `G`.
    """
    used = G != 0
    which, rows = used.T.nonzero(as_tuple=True)  # by expert
    slots = used.cumsum(dim=1)[rows, which] - 1
    sizes = used.sum(dim=0).tolist()
    factors: Sequence[Any] = [None] * len(experts) if kept is None else kept[rows, slots].split(sizes)
    outputs = []
    for expert, x, factor in zip(experts, h.index_select(0, rows).split(sizes), factors, strict=True):
        if len(x):
            hidden = F.relu(F.linear(x, expert.down, expert.start))
            hidden = hidden if factor is None else hidden * factor.to(hidden.dtype)
            outputs.append(F.linear(hidden, expert.up, expert.shift).to(G.dtype))
    y = torch.cat(outputs) * G[rows, which][:, None, None]
    return torch.zeros_like(h, dtype=G.dtype).index_add(0, rows, y)


def most_used(counts: Tensor) -> Tensor:
    """Return the two most used experts of every block; of those used equally often the first.

    Parameters
    ----------
    counts : int64 Tensor [blocks, N]
        How often a gate was not 0 in the training of a task.

    Returns
    -------
    bool Tensor [blocks, N]
    """
    largest = counts.argsort(dim=1, descending=True, stable=True)[:, :FROZEN_A_TASK]
    return F.one_hot(largest, counts.shape[1]).sum(dim=1).bool()


def autoencoder(z: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the linear auto-encoder with the least squared error: ``rec(z) = mean + (z - mean) V V^T``.

    Parameters
    ----------
    z : float64 Tensor [n, D]
        At least one.
    width : int
        Most columns of V. Directions in which the rows do not differ are left out.

    Returns
    -------
    mean : float64 Tensor [D]
    V : float64 Tensor [D, m]
        The m <= width leading principal directions, orthonormal.
    """
    mean = z.mean(dim=0)
    values, vectors = torch.linalg.eigh((z - mean).T @ (z - mean))
    m = min(width, len(z) - 1, int((values > 1e-10 * values[-1]).sum()))
    return mean, vectors[:, len(values) - m :].flip(1)


def error(z: Tensor, mean: Tensor, V: Tensor) -> Tensor:
    """Return the squared error of a linear auto-encoder, float64 [n], for z [n, D]."""
    x = z.to(mean.device).double() - mean.double()
    return (x - x @ V.double() @ V.double().T).square().sum(dim=1)


def selected(errors: Tensor, limits: Tensor) -> Tensor:
    """Return the task with the least error for each image, or -1 where that is above the task's limit.

    Parameters
    ----------
    errors : Tensor [n, T]
    limits : Tensor [T]

    Returns
    -------
    int64 Tensor [n]
        Of equal errors the first task; an error that equals the limit is not above it.
    """
    first = (errors == errors.amin(dim=1, keepdim=True)).int().argmax(dim=1)
    return torch.where(errors.gather(1, first[:, None])[:, 0] > limits[first], -1, first)


# ---- the method


@register(
    "method", "moe-adapters", title="Experts with a router a task in every block", paper="MoE-Adapters, 2403.11549"
)
class MoeAdapters(Method):
    """MoE-Adapters, with every image selecting its task by itself.

    Attributes
    ----------
    experts : dict of str to list of Expert
        N of every place, ``image.0.residual`` and so on.
    frozen : dict of str to Tensor
        By tower, int64 [blocks, N]: the task that froze an expert; -1 for one that is trained still.
    routers : dict of int to dict of str to Tensor
        R [d, N] of every task, by place.
    selectors : dict of int to dict of str to Tensor
        Of every task ``mean`` [D], ``directions`` [D, m] and ``limit`` []; empty with ``select=oracle``.
    """

    @dataclass
    class Settings:
        """Experts, routers, and who selects the task at test time."""

        experts: int | None = setting(
            None, "experts of a block; null is two for each task of the stream, the paper has 22", low=1, symbol="N"
        )
        active: int = setting(2, "experts that a sequence uses", low=1, symbol="k")
        width: int = setting(64, "inner width of an expert", low=1)
        scale: float = setting(0.1, "factor on what the experts add", above=0, symbol="s")
        dropout: float = setting(0.0, "share of an expert's hidden values left out in training", low=0, below=1)
        select: str = setting(
            "sample",
            "who selects the task at test time: every image, (released code) the mean error of the test batch, or an "
            "oracle, which knows the task of a test image",
            choices=("sample", "batch", "oracle"),
        )
        selector: int | None = setting(
            None, "values by which a selector describes an image; null is an eighth of the image tower's width", low=1
        )
        left_out: float = setting(
            0.05, "share of a task's held-out training images that would count as unknown", low=0, below=1
        )
        strict_freeze: bool = setting(
            False, "at test time take only experts that were frozen when the task ended: then nothing learned changes"
        )

        def check(self) -> list[str]:
            """Return what is wrong with the settings, whatever the stream is."""
            if self.experts is None or self.active <= self.experts:
                return []
            return [f"method.active={self.active} is more than method.experts={self.experts}: lower it"]

        def fits(self, surroundings: Surroundings) -> list[str]:
            """Return what does not fit the stream: an oracle knows the task only by its classes."""
            if self.select != "oracle" or surroundings.label_space == "task":
                return []
            return [
                f"method.select=oracle needs the label space task and the stream has {surroundings.label_space}: "
                "choose method.select=sample"
            ]

    defaults = {"train.weight_decay": 0.0}
    flags = Flags(task_count=True, grows="routers and a selector a task", extended=True)
    parity = ParityCard(
        present=(
            "experts beside the MLP of every block of both towers: width 64, scale 0.1, U = 0, all tokens, no "
            "normalisation before them; 22 experts and routers of 11 tasks: 51,059,712 values on ViT-B/16",
            "a router and a noise matrix a block and task, from zero; the first token after the attention decides; "
            "softmax over the k largest; noise with the deviation softplus(c R') + 0.01",
            "the two most used experts of every block are frozen after a task, by counts of training steps; ties go to "
            "the first",
            "experts that a step does not use get no gradient, so the optimiser leaves them alone",
            "an image of no task gets the answer of the pre-trained model, exactly",
        ),
        absent=(
            "the load-balancing term, which the released code computes and never adds to the loss",
            "the class-incremental code, which is another method: two experts, one router, no selector",
        ),
        deviations=(
            "the selector (DDAS) is a linear auto-encoder of CLIP's own features, solved in closed form, with a limit "
            "for each task; the released one reads features of AlexNet, has one limit for all and a reference "
            "auto-encoder of TinyImageNet: that network and its images would be outside data",
            "every image selects its task; the released code takes the mean over a test batch (select)",
            "two experts for each task of the stream instead of 22 (experts), so T has to be known",
            "the stream's budget and one learning rate instead of a tuned one a data set: expect lower numbers",
            "no dropout (moe-adapters-faithful has it)",
            "experts that are used equally often are frozen in their order; as released in any",
        ),
        verified=("float64 definitions, on small random towers, written apart from the implementation (tests)",),
    )

    @classmethod
    def flags_for(cls, settings: Settings) -> Flags:
        """Return the flags: who selects the task, and whether the number of tasks decides that of experts."""
        return replace(
            cls.flags,
            task_count=settings.experts is None,
            task_at_test=settings.select == "oracle",
            test_batch=settings.select == "batch",
            grows="routers a task" if settings.select == "oracle" else cls.flags.grows,
        )

    def setup(self) -> None:
        """Draw the experts; refuse a stream with a task of one image, and more active experts than there are."""
        for name, images in self.context.images.items():
            self._check_images(name, images)
        self.N = self.settings.experts or 2 * self.context.tasks
        if self.settings.active > self.N:
            raise UserError(f"method.active={self.settings.active} is more than the {self.N} experts: lower it")
        self.places = {
            tower: [one for one in self.clip.places if one.startswith(tower) and one.endswith(".residual")]
            for tower in TOWERS
        }
        self.widths = {tower: self.clip.maps[f"{tower}.0.q"].in_features for tower in TOWERS}
        draw = generator(self.context.init_seed, "moe-adapters")
        self.experts = {
            place: [self._expert(self.widths[tower], draw) for _ in range(self.N)]
            for tower in TOWERS
            for place in self.places[tower]
        }
        self.frozen = {tower: self._numbers(tower) - 1 for tower in TOWERS}
        self.routers: dict[int, dict[str, Tensor]] = {}
        self.selectors: dict[int, dict[str, Tensor]] = {}
        self._rest()

    def _rest(self) -> None:
        """Forget what is of a task in training alone."""
        self.current, self.step = -1, 0
        self.noise: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.now: dict[str, Tensor] = {}

    def _numbers(self, tower: str) -> Tensor:
        """Return a zero for every expert of a tower, int64 [blocks, N]."""
        return torch.zeros(len(self.places[tower]), self.N, dtype=torch.int64, device=self.clip.device)

    def _expert(self, d: int, draw: torch.Generator) -> Expert:
        """Return an expert that adds nothing: D as torch starts a linear layer, all else 0."""
        h = self.settings.width
        down = torch.empty(h, d).uniform_(-(d**-0.5), d**-0.5, generator=draw)
        return Expert(*(x.to(self.clip.device) for x in (down, torch.zeros(h), torch.zeros(d, h), torch.zeros(d))))

    def _check_images(self, task: str, images: int) -> None:
        if images < 2 and self.settings.select != "oracle":
            raise UserError(
                f"task {task} has {images} training image and its selector needs two: add some, or set "
                "method.select=oracle"
            )

    # ---- training

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Add routers, fit the selector on the frozen model, and count from 0."""
        self._rest()
        if self.settings.select != "oracle":
            self._check_images(task.name, len(task.train))
            with self.context.part("selector"):
                self.selectors[task.index] = self._selector(task)
        zeros = {
            place: torch.zeros(self.widths[tower], self.N, device=self.clip.device)
            for tower in TOWERS
            for place in self.places[tower]
        }
        self.routers[task.index] = zeros
        self.noise = {place: torch.zeros_like(zero) for place, zero in zeros.items()}
        self.counts, self.now = ({tower: self._numbers(tower) for tower in TOWERS} for _ in range(2))
        self.current = task.index
        if all(bool((one >= 0).all()) for one in self.frozen.values()):
            self.context.say(
                f"note: all {self.N} experts are frozen, so task {task.name} trains routers alone: raise method.experts"
            )

    def _selector(self, task: TaskData) -> dict[str, Tensor]:
        """Return the selector of a task; runs on this machine share it."""

        def compute() -> dict[str, Tensor]:
            exact = self.clip.exact_device
            features = [self.clip.read_images(pixels).to(exact).double() for pixels, _ in task.batches("selector")]
            z = torch.cat(features)  # in an order drawn at random
            held = max(1, int(HELD_OUT * len(z)))
            width = self.settings.selector or max(1, z.shape[1] // 8)
            mean, directions = autoencoder(z[held:], width)
            limit = error(z[:held], mean, directions).quantile(1 - self.settings.left_out)
            return {"mean": mean.float(), "directions": directions.float(), "limit": limit.float()}

        identity, chosen = task.identity("selector"), [self.settings.selector, self.settings.left_out]
        if identity is None:
            features = compute()
        else:
            features = self.shared("selector", [self.context.weights, *chosen, *identity], compute)
        return {name: tensor.to(self.clip.device) for name, tensor in features.items()}

    def parameters(self) -> Sequence[Tensor]:
        """Return the experts that are not frozen, and the routers of the current task."""
        trained = [
            tensor
            for tower in TOWERS
            for place, frozen in zip(self.places[tower], self.frozen[tower].tolist(), strict=True)
            for expert, task in zip(self.experts[place], frozen, strict=True)
            if task < 0
            for tensor in expert
        ]
        return [*trained, *self.routers[self.current].values(), *self.noise.values()]

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Cross-entropy over the task's prompts, its routers in both towers, with noise."""
        with self.clip.beside(self._training_branches(task), whole_texts=True):
            return super().loss(pixels, labels, task)

    def train_step(self, step: TrainStep) -> None:
        """Make an ordinary step; experts that nobody used in it have no gradient, in several processes too."""
        world, self.step = self.context.world, step.number
        self.now = {tower: self._numbers(tower) for tower in TOWERS}
        step.backward()
        if not world.leads:
            self.now["text"].zero_()  # all processes have the same prompts
        world.sum(list(self.now.values()))
        for tower, now in self.now.items():
            self.counts[tower] += now
            for place, used in zip(self.places[tower], now.tolist(), strict=True):
                for expert, times in zip(self.experts[place], used, strict=True):
                    if not times:
                        for tensor in expert:
                            tensor.grad = None
        step.update()

    def _training_branches(self, task: TaskData) -> dict[str, Any]:
        """Return what the experts add, by place: with noise and dropout, drawn for the whole batch of all processes."""
        world, k, rate = self.context.world, self.settings.active, self.settings.dropout
        draws = {
            what: generator(self.context.init_seed, f"moe-adapters {what}", task.index, self.step)
            for what in ("noise", "dropout")
        }

        def branch(tower: str, block: int, place: str) -> Callable[[Tensor, Tensor | None], Tensor]:
            def rows(x: Tensor) -> int:
                return len(x) if tower == "text" else max(task.budget.batch_size, len(x))

            def mine(drawn: Tensor, x: Tensor) -> Tensor:
                own = drawn if tower == "text" else drawn[world.rank :: world.size]
                return own[: len(x)].to(x.device)

            def add(x: Tensor, read: Tensor | None) -> Tensor:
                noise = mine(torch.randn(rows(x), self.N, generator=draws["noise"]), x)
                g = routing(x[:, 0], self.routers[task.index][place], self.noise[place], noise)
                G = gates(g, k)
                self.now[tower][block] = (G != 0).sum(dim=0)
                kept = None
                if rate:
                    shape = (rows(x), k, x.shape[1], self.settings.width)
                    kept = mine(torch.rand(shape, generator=draws["dropout"]) >= rate, x) / (1 - rate)
                return self.settings.scale * mixture(x, G, self.experts[place], kept)

            return add

        return self._everywhere(branch)

    def _everywhere(self, branch: Callable[[str, int, str], Any]) -> dict[str, Any]:
        return {
            place: branch(tower, block, place) for tower in TOWERS for block, place in enumerate(self.places[tower])
        }

    def training_state(self) -> dict[str, Tensor]:
        """Return how often each expert was used so far."""
        return dict(self.counts)

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `training_state` returned."""
        self.counts = {tower: counts.to(self.clip.device) for tower, counts in state.items()}

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Freeze the two most used experts of every block; nothing is merged."""
        self.frozen = {tower: self._frozen(tower) for tower in TOWERS}
        self._rest()

    def _frozen(self, tower: str) -> Tensor:
        """Return which task froze each expert, with what the current task freezes."""
        before = self.frozen[tower]
        if self.current < 0:
            return before
        return torch.where(most_used(self.counts[tower]) & (before < 0), self.current, before)

    # ---- tests

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier: the routers of the selected task in both towers, or the model as it is."""
        owners = set(space.tasks)
        if self.settings.select == "oracle":
            return self._answers(space, owners.pop() if len(owners) == 1 else -1)
        if not self.selectors:
            return super().classifier(space)
        indices = torch.tensor([*self.selectors, -1], device=self.clip.exact_device)
        parts = [{n: x.to(indices.device) for n, x in one.items()} for one in self.selectors.values()]
        limits = torch.stack([one["limit"] for one in parts]).double()
        plain = self.clip.encode_prompts(space.prompts)
        answers: dict[int, Callable[[Tensor], Tensor]] = {}

        def select(z: Tensor) -> Tensor:
            errors = torch.stack([error(z, one["mean"], one["directions"]) for one in parts], dim=1)
            if self.settings.select == "batch":
                errors = errors.mean(dim=0, keepdim=True).expand_as(errors)
            chosen = indices[selected(errors, limits)]
            self.context.observers.report("method", "", "select", errors=errors, chosen=chosen)
            return chosen.to(z.device)

        def classify(pixels: Tensor) -> Tensor:
            z = self.clip.read_images(pixels)
            chosen, logits = select(z), self.clip.logits(self.clip.project_images(z), plain)
            for index in chosen.unique().tolist():
                if index < 0:
                    continue
                if index not in answers:
                    answers[index] = self._answers(space, index)
                rows = (chosen == index).nonzero()[:, 0]
                logits[rows] = answers[index](pixels[rows])
            return logits

        return classify

    def _answers(self, space: LabelSpace, index: int) -> Callable[[Tensor], Tensor]:
        """Return the classifier with the routers of a task; that of the untrained model if there are none."""
        if index not in self.routers:
            return super().classifier(space)
        branches = self._branches(index)
        with self.clip.beside(branches, whole_texts=True):
            texts = self.clip.encode_prompts(space.prompts)

        def classify(pixels: Tensor) -> Tensor:
            with self.clip.beside(branches):
                return self.clip.logits(self.clip.encode_images(pixels), texts)

        return classify

    def _branches(self, index: int) -> dict[str, Any]:
        """Return what the experts add with the routers of a task, without noise, by place."""
        allowed: dict[str, Tensor] = {}
        if self.settings.strict_freeze:
            frozen = {tower: self._frozen(tower) for tower in TOWERS}
            allowed = {tower: (one >= 0) & (one <= index) for tower, one in frozen.items()}

        def branch(tower: str, block: int, place: str) -> Callable[[Tensor, Tensor | None], Tensor]:
            mask = allowed[tower][block] if allowed else None

            def add(x: Tensor, read: Tensor | None) -> Tensor:
                G = gates(routing(x[:, 0], self.routers[index][place]), self.settings.active, mask)
                return self.settings.scale * mixture(x, G, self.experts[place])

            return add

        return self._everywhere(branch)

    # ---- memory

    def report(self) -> dict[str, Any]:
        """Return how many experts are frozen, of how many, by tower."""
        return {"frozen": {tower: [int((one >= 0).sum()), one.numel()] for tower, one in self.frozen.items()}}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all experts, which of them are frozen, routers and selectors."""
        return {
            **{
                f"expert/{place}/{index}/{name}": tensor
                for place, experts in self.experts.items()
                for index, expert in enumerate(experts)
                for name, tensor in expert._asdict().items()
            },
            **{f"frozen/{tower}": one for tower, one in self.frozen.items()},
            **{f"router/{task}/{place}": R for task, own in self.routers.items() for place, R in own.items()},
            **{f"selector/{task}/{name}": x for task, own in self.selectors.items() for name, x in own.items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.routers, self.selectors = {}, {}
        for key, tensor in state.items():
            kind, first, *rest = key.split("/")
            tensor = tensor.to(self.clip.device)
            if kind == "expert":
                getattr(self.experts[first][int(rest[0])], rest[1]).copy_(tensor)
            elif kind == "frozen":
                self.frozen[first] = tensor
            else:
                (self.routers if kind == "router" else self.selectors).setdefault(int(first), {})[rest[0]] = tensor


@register(
    "method", "moe-adapters-faithful", title="MoE-Adapters as its released code", paper="MoE-Adapters, 2403.11549"
)
class MoeAdaptersFaithful(MoeAdapters):
    """The released MTIL code: 22 experts, dropout, the batch selects, ZSCL's loop at 1e-3."""

    Settings = with_defaults(MoeAdapters.Settings, experts=22, dropout=0.1, select="batch")
    defaults = {**RELEASED, "train.lr": 1e-3}
    parity = ParityCard(
        present=(
            *MoeAdapters.parity.present,
            "22 experts whatever the stream, dropout of 0.1 on their hidden values",
            "the mean error of a test batch selects the task, strictly: equality with the limit is accepted",
            "ZSCL's loop: AdamW without weight decay, 100 steps of linear warm-up, then a cosine to 0; batches of 64, "
            "label smoothing 0.2, random boxes of 0.9 to 1.0 of a training image",
        ),
        absent=MoeAdapters.parity.absent,
        deviations=(
            MoeAdapters.parity.deviations[0],
            "one learning rate, 1e-3; the released scripts have one for each data set, from 1e-4 to 5e-3, which is "
            "train.tasks on a line of MTIL",
            LAST_STEP,
            "test batches have evaluate.batch_size images, 128 as released",
            "the class prompts are the stream's; as released one template in training and all of them in tests",
            MoeAdapters.parity.deviations[5],
        ),
        verified=MoeAdapters.parity.verified,
    )

"""Share: all tasks have their low-rank updates in one subspace, and each keeps coefficients in it. arXiv 2602.06043.

A map W [n, d] has two bases, alpha [d, k] for the inputs and beta [n, k] for the outputs. Every task i has
coefficients a_i and b_i [k, p] in them. The update of the task is

    Delta W_i = B_i A_i   with   A_i^T = alpha a_i,   B_i = beta b_i

Task 1 trains a LoRA. A later one trains its coefficients and phi temporary directions on each side. After every task
the updates of all tasks are rebuilt, both bases are computed again from them, and all coefficients are projections on
these. The pre-trained weights are never trained.

Only the released code for language models and notes on the paper were available; what they leave open is in the parity
card. It is one file, although it is long: a third of it is settings and the parity card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.api import (
    F,
    Flags,
    LabelSpace,
    LinearMap,
    LowRank,
    Method,
    ParityCard,
    Surroundings,
    TaskData,
    Update,
    no_grad,
    register,
    setting,
    torch,
)

from .low_rank import Targets, attach, kaiming_uniform, targets
from .shared_subspace import ENERGY, Subspace, balanced, shared_subspace, squared_distance
from .subspace import side_by_side

if TYPE_CHECKING:
    from torch import Tensor

SIDES = ("A", "B")
"""The side of the inputs, with A^T [in, p] of every task, and that of the outputs, with B [out, p]."""


class Shared(Update):
    """The change ``(beta b + V_B U_B) (alpha a + V_A U_A)^T`` of a weight.

    Parameters
    ----------
    alpha, beta : Tensor [in, k_A], [out, k_B]
        Frozen bases.
    a, b : Tensor [k_A, p], [k_B, p]
        Coefficients.
    V_A, U_A : Tensor [in, phi], [phi, p]
        Temporary directions of the inputs, and their coefficients.
    V_B, U_B : Tensor [out, phi], [phi, p]
        The same of the outputs.
    """

    FROZEN = ("alpha", "beta")

    def __init__(
        self, alpha: Tensor, a: Tensor, V_A: Tensor, U_A: Tensor, beta: Tensor, b: Tensor, V_B: Tensor, U_B: Tensor
    ):
        self.alpha, self.a, self.V_A, self.U_A = alpha, a, V_A, U_A
        self.beta, self.b, self.V_B, self.U_B = beta, b, V_B, U_B

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A [p, in] and B [out, p]."""
        return (self.alpha @ self.a + self.V_A @ self.U_A).T, self.beta @ self.b + self.V_B @ self.U_B

    def parts(self, side: str) -> tuple[Tensor, Tensor]:
        """Return A^T or B as what lies in the shared subspace and what is temporary, both [width, p]."""
        if side == "A":
            return self.alpha @ self.a, self.V_A @ self.U_A
        return self.beta @ self.b, self.V_B @ self.U_B


@register("method", "share", title="One low-rank subspace, coefficients a task", paper="Share, arXiv 2602.06043")
class Share(Method):
    """Share, deployed with the mean of all tasks' coefficients unless the settings say otherwise.

    Attributes
    ----------
    subspaces : dict of map name to dict of side to Subspace
        Float32, after the tasks learned so far; empty before the first one ends.
    prototypes : dict of int to Tensor
        For select=router, of every task learned: mean features of its classes, of unit length, float32 [classes, D].
    """

    @dataclass
    class Settings(Targets):
        """Which maps are adapted, the subspace that their updates share, and which task's update a test has."""

        rank: int = setting(16, "columns of the first task's update", low=1, symbol="r")
        pseudo_rank: int | None = setting(
            None, "columns of an update as it is kept, at most the rank; null is the rank", low=1, symbol="p"
        )
        granularity: str = setting(
            "column",
            "what the shared directions are of: columns of the updates' factors, or whole factors as one vector each; "
            "then every task trains a LoRA and keeps one number a direction",
            choices=tuple(ENERGY),
        )
        directions: int = setting(64, "shared directions of a side of a map, at most", low=1, symbol="k")
        energy: float | None = setting(
            None,
            "share of the energy that the shared directions hold; null is 1 by column, 0.6 for whole factors",
            above=0,
            high=1,
        )
        temporary: int = setting(
            2, "directions that a later task adds on each side while it is trained, by column", low=0, symbol="phi"
        )
        warm_start: bool = setting(False, "a task starts from the last one's update, not from the pre-trained model")
        select: str = setting(
            "mean",
            "the update at test time: one with the mean coefficients of all tasks, that of the test set's own task, or "
            "for every image that of the task with the nearest class mean",
            choices=("mean", "oracle", "router"),
        )
        center: bool = setting(
            False, "take the mean off the columns and forget it, as released; by column it loses a direction"
        )
        drop_update: bool = setting(
            False, "leave the temporary part out of a task's coefficients, as released; by column"
        )

        def check(self) -> list[str]:
            """Return what contradicts itself, whatever the model is."""
            problems = super().check()
            if self.pseudo_rank is not None and self.pseudo_rank > self.rank:
                problems.append(
                    f"method.pseudo_rank={self.pseudo_rank} is above method.rank={self.rank}: choose at most the rank"
                )
            for name in ("center", "drop_update"):
                if getattr(self, name) and self.granularity != "column":
                    problems.append(f"method.{name} is for method.granularity=column: leave one of the two out")
            return problems

        def fits(self, surroundings: Surroundings) -> list[str]:
            """Return what does not fit stream and model."""
            problems = super().fits(surroundings)
            if self.select == "oracle" and surroundings.label_space != "task":
                problems.append(
                    "method.select=oracle has to know the task of a test image, which the label space "
                    f"{surroundings.label_space} does not name: choose mean or router"
                )
            for tower in self.towers:
                if self.temporary > (width := surroundings.widths.get(tower, self.temporary)):
                    problems.append(
                        f"method.temporary={self.temporary} is above the width {width} of the {tower} tower: choose at "
                        f"most {width}"
                    )
            return problems

    defaults = {"train.weight_decay": 0.0}
    changes_at_end = True
    flags = Flags(grows="coefficients a task")
    parity = ParityCard(
        present=(
            "task 1 trains a LoRA of rank r; later ones train coefficients in frozen bases and phi temporary "
            "directions a side, with their coefficients",
            "one basis a side for all tasks, computed again after every task from all rebuilt updates by SVD, A and B "
            "apart; all coefficients are projections on it",
            "the reading by column (released language code) and that of whole factors with a mean that is kept (60 % "
            "of the variance)",
            "the released code's centring, its coefficients without the temporary part, and a start from the last task "
            "(center, drop_update, warm_start)",
        ),
        absent=(
            "the fine-tuning of coefficients after a merge",
            "updates that arrive without data, heads a task, random further directions in the bases",
            "a preset with the budget of the paper: its code for images is not released",
        ),
        deviations=(
            "known from the released language code and from notes; the paper's text and its protocol for images were "
            "not available",
            "by column nothing is centred and the temporary part is kept; as released the trained part is lost",
            "the side of A starts from the last task's coefficients and the temporary directions are random and "
            "orthonormal; that of B starts at zero, so a task starts at the pre-trained model",
            "whole factors: a task trains a LoRA whose A starts from the last task's, since one temporary direction "
            "would be as large as the factor",
            "select=mean deploys (mean B)(mean A) as one model; this is not the mean of the products; before the next "
            "task it is taken off again, and the weights are the pre-trained ones up to rounding",
            "select=oracle: a test set that is none of a learned task gets the pre-trained model, so Transfer equals "
            "zero-shot by construction",
            "p below r: the first update is cut to its best approximation of rank p",
            "the budget is the stream's, with weight decay 0, which would pull coefficients of a frozen basis to zero",
        ),
        verified=("float64 definitions written apart from the implementation; Eckart-Young on both sides (tests)",),
    )

    @classmethod
    def flags_for(cls, settings: Settings) -> Flags:
        """Return the flags: only the mean is one model, and only the oracle knows the task of a test image."""
        if settings.select == "mean":
            return cls.flags
        if settings.select == "oracle":
            return replace(cls.flags, task_at_test=True, extended=True)
        return replace(cls.flags, grows="coefficients a task, a mean a class", extended=True)

    def setup(self) -> None:
        """Choose the maps to adapt."""
        self.targets = targets(self.clip, self.settings)
        self.p = self.settings.pseudo_rank or self.settings.rank
        self.whole = self.settings.granularity == "vector"
        self.subspaces: dict[str, dict[str, Subspace]] = {}
        self.prototypes: dict[int, Tensor] = {}
        self.errors: list[float] = []

    @property
    def finished(self) -> int:
        """How many tasks have coefficients."""
        return len(next(iter(self.subspaces.values()))["A"].coefficients) if self.subspaces else 0

    # ---- training

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Take the mean update off the weights again, and attach what the task starts from to every map."""
        if self.settings.select == "mean" and self.subspaces:
            self._add_mean(-1.0)
        if self.settings.select == "router":
            with self.context.part("prototypes"):
                self.means = self._class_means(task)
        draw = task.init_generator("share")
        for m in self.targets:
            if not self.subspaces:
                attach(m, kaiming_uniform((self.settings.rank, m.in_features), draw), 1.0)
            elif self.whole:
                A, B = self._factors(m, -1)
                attach(m, A, 1.0, B if self.settings.warm_start else None)
            else:
                m.update = self._start(m, draw)

    def _start(self, m: LinearMap, draw: torch.Generator) -> Shared:
        """Return an update in the shared subspace, with temporary directions beside it."""
        phi, warm, own = self.settings.temporary, self.settings.warm_start, self.subspaces[m.name]
        inputs, outputs = own["A"], own["B"]

        def directions(width: int) -> Tensor:
            return torch.linalg.qr(torch.randn(width, phi, generator=draw).double()).Q.to(m.parameter)

        V_A, V_B = directions(m.in_features), directions(m.out_features)
        U_A = torch.empty(phi, self.p).uniform_(-1, 1, generator=draw).to(V_A) / max(phi, 1) ** 0.5
        a, b = (side.coefficients[-1].clone() for side in (inputs, outputs))
        if warm:
            U_A.zero_()  # the update is the last one's, exactly
        else:
            b.zero_()
        U_B = torch.zeros_like(U_A)
        return Shared(inputs.basis, a, V_A.contiguous(), U_A, outputs.basis, b, V_B.contiguous(), U_B)

    def parameters(self) -> Sequence[Tensor]:
        """Return both factors of the first task's updates; of later ones all but the bases."""
        named = [item for m in self.targets if m.update for item in m.update.tensors().items()]
        return [tensor for name, tensor in named if name not in Shared.FROZEN and tensor.numel()]

    # ---- the merge

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Compute the subspaces of all tasks' updates; add the mean update to the weights where that is deployed."""
        with self.context.part("subspace"):
            results = side_by_side(self._merged, self.targets, self.clip.exact_device)
        for m, (own, _, _) in zip(self.targets, results, strict=True):
            self.subspaces[m.name] = {side: own[side].to(m.parameter) for side in SIDES}
            m.update = None
        changes = torch.stack([change for _, change, _ in results]).sum(dim=0)
        sizes = torch.stack([size for _, _, size in results]).sum(dim=0)
        self.errors = torch.where(sizes > 0, changes / sizes, 0.0).sqrt().tolist()
        if self.settings.select == "router":
            self.prototypes[task.index] = self.means
        if self.settings.select == "mean":
            self._add_mean(1.0)

    def _add_mean(self, scale: float) -> None:
        """Add the update with the mean coefficients, times a number, to the weights."""
        for m in self.targets:
            A, B = self._factors(m, None)
            attach(m, A, scale, B)
        self.clip.merge()

    def _merged(self, m: LinearMap) -> tuple[dict[str, Subspace], Tensor, Tensor]:
        """Return the new subspaces of a map, the squared changes of all tasks' updates by them, and their squares.

        Both are float64 [tasks].
        """
        assert m.update is not None
        chosen, device = self.settings, self.clip.exact_device
        A, B = (factor.to(device).double() for factor in m.update.factors())
        if self.p < len(A):
            A, B = balanced(A, B, self.p)
        trained = {"A": A.T, "B": B}
        before, own = {}, {}
        energy = ENERGY[chosen.granularity] if chosen.energy is None else chosen.energy
        for side, new in trained.items():
            earlier = self._all(m, side, device)
            before[side] = torch.cat([earlier, new[None]])
            kept, beside = new, None
            if chosen.drop_update and isinstance(m.update, Shared):
                kept, beside = (part.to(device).double() for part in m.update.parts(side))
            subspace = shared_subspace(
                torch.cat([earlier, kept[None]]),
                chosen.directions,
                energy,
                whole=self.whole,
                center=chosen.center,
                beside=beside,
            )
            own[side] = subspace.to(m.parameter).to(before[side])  # rounded as it is kept
        after = {side: own[side].factors(trained[side].shape[0]) for side in SIDES}
        pairs = before["A"].mT, before["B"]
        nothing = torch.zeros_like(pairs[0]), torch.zeros_like(pairs[1])
        return own, squared_distance(*pairs, after["A"].mT, after["B"]), squared_distance(*pairs, *nothing)

    def _all(self, m: LinearMap, side: str, device: torch.device) -> Tensor:
        """Return the factors of all earlier tasks on a side, float64 [tasks, width, p]."""
        width = m.in_features if side == "A" else m.out_features
        if not self.subspaces:
            return torch.zeros(0, width, self.p, dtype=torch.float64, device=device)
        own = self.subspaces[m.name][side]
        return own.to(own.basis.to(device).double()).factors(width)

    def _factors(self, m: LinearMap, index: int | None) -> tuple[Tensor, Tensor]:
        """Return A [p, in] and B [out, p] of a task's update, or with the mean coefficients of all tasks."""
        own = self.subspaces[m.name]
        chosen = {
            side: part.coefficients.mean(dim=0) if index is None else part.coefficients[index]
            for side, part in own.items()
        }
        A, B = own["A"].factors(m.in_features, chosen["A"]).T, own["B"].factors(m.out_features, chosen["B"])
        return A.contiguous(), B

    # ---- tests

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier with the update that the settings select; with none before the first task ends."""
        if self.settings.select == "mean" or not self.finished:
            return super().classifier(space)
        if self.settings.select == "router":
            return self._routed(space)
        owners = set(space.tasks)
        index = owners.pop() if len(owners) == 1 else -1
        return self._expert(space, index) if 0 <= index < self.finished else super().classifier(space)

    def _routed(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return a classifier that gives every image the update of the task with the nearest class mean."""
        means = torch.cat([self.prototypes[index] for index in range(self.finished)])
        counts = torch.tensor([len(self.prototypes[index]) for index in range(self.finished)])
        owners = torch.arange(self.finished).repeat_interleave(counts).to(means.device)
        experts: dict[int, Callable[[Tensor], Tensor]] = {}

        def classify(pixels: Tensor) -> Tensor:
            chosen = owners[(self.clip.encode_images(pixels) @ means.T).argmax(dim=1)]
            logits = pixels.new_zeros(len(pixels), len(space.prompts))
            for index in chosen.unique().tolist():
                if index not in experts:
                    experts[index] = self._expert(space, index)
                rows = (chosen == index).nonzero()[:, 0]
                logits[rows] = experts[index](pixels[rows])
            return logits

        return classify

    def _expert(self, space: LabelSpace, index: int) -> Callable[[Tensor], Tensor]:
        """Return the classifier with the update of a task in both towers."""
        updates = [LowRank(*self._factors(m, index)) for m in self.targets]
        with self._with(updates):
            texts = self.clip.encode_prompts(space.prompts)

        def classify(pixels: Tensor) -> Tensor:
            with self._with(updates):
                return self.clip.logits(self.clip.encode_images(pixels), texts)

        return classify

    @contextmanager
    def _with(self, updates: Sequence[Update]) -> Iterator[None]:
        """While open, have these updates in force."""
        before = [m.update for m in self.targets]
        try:
            for m, update in zip(self.targets, updates, strict=True):
                m.update = update
            yield
        finally:
            for m, earlier in zip(self.targets, before, strict=True):
                m.update = earlier

    def _class_means(self, task: TaskData) -> Tensor:
        """Return the mean features of a task's classes under the pre-trained model, of unit length [classes, D]."""

        def compute() -> dict[str, Tensor]:
            device, D = self.clip.exact_device, self.clip.model.visual.output_dim
            sums = torch.zeros(len(task.prompts), D, dtype=torch.float64, device=device)
            for pixels, labels in task.batches("prototypes", share="batches"):
                members = F.one_hot(labels.to(device), len(sums)).double()
                sums += members.T @ self.clip.encode_images(pixels).to(device).double()
            self.context.world.sum([sums])
            return {"sums": sums}

        identity = task.identity("prototypes")
        key = [self.context.weights, *(identity or [])]
        total = compute() if identity is None else self.shared("sums of features by class", key, compute)
        return F.normalize(total["sums"].to(self.clip.exact_device), dim=1).float().to(self.clip.device)

    # ---- memory

    def report(self) -> dict[str, Any]:
        """Return shared directions by side and map, and how far each task's update is from what it was before.

        That is ``||Delta W_i - Delta W_i'||_F / ||Delta W_i'||_F`` over all maps, in the order of the tasks. The update
        of the last one is compared with what was trained.
        """
        own = self.subspaces.items()
        sizes = {side: {name: sides[side].basis.shape[1] for name, sides in own} for side in SIDES}
        return {"directions": sizes, "error": list(self.errors)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the shared subspaces with all tasks' coefficients, and the class means."""
        state = {f"classes/{index}": means for index, means in self.prototypes.items()}
        for name, sides in self.subspaces.items():
            for side, own in sides.items():
                state |= {f"{name}/{side}/{part}": tensor for part, tensor in own.tensors().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.subspaces, self.prototypes = {}, {}
        memory: dict[str, dict[str, dict[str, Tensor]]] = {}
        for key, tensor in state.items():
            name, _, rest = key.partition("/")
            if name == "classes":
                self.prototypes[int(rest)] = tensor.to(self.clip.device)
            else:
                side, part = rest.split("/")
                memory.setdefault(name, {}).setdefault(side, {})[part] = tensor.to(self.clip.device)
        for name, sides in memory.items():
            self.subspaces[name] = {side: Subspace(**parts) for side, parts in sides.items()}

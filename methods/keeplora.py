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

The family differs in settings alone: ``keeplora`` is the paper, ``keeplora-official`` the released code,
``keeplora-plus`` adds the class-mean head (KeepLoRA+), ``keeplora-pp`` the layer factors (KeepLoRA++).
docs/keeplora.md lists the differences and what they amount to. The family is one file, although it is long: the presets
are one algorithm, to be read beside one paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.api import (
    Flags,
    LabelSpace,
    LinearMap,
    Method,
    ParityCard,
    Surroundings,
    TaskData,
    UserError,
    mean_gradient,
    no_grad,
    register,
    second_moments,
    setting,
    slot_means,
    torch,
    with_defaults,
)

from .cosine_head import class_means, head_logits
from .low_rank import PerTower, Targets, attach, targets, tensors_named
from .subspace import empty_basis, grow, leading, leading_directions, outside, side_by_side, spectrum

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-5
"""Share of a gradient's norm below which its singular values are rounding: fp32 sums over many tokens."""


@register("method", "keeplora", title="Updates confined to the residual subspace", paper="KeepLoRA, arXiv 2601.19659")
class KeepLora(Method):
    """The paper's algorithm.

    Attributes
    ----------
    bases : dict of map name to Tensor [in, k], float64
        M, the protected subspace of each adapted map.
    heads : dict of int to Tensor [classes, width of embedding]
        The class-mean heads of learned tasks, by their index.
    effective_rank : dict of map name to int
        Columns of A in the current task that are directions of the projected gradient; fewer than the rank where it has
        no more. Surplus columns that are kept are not counted.
    """

    @dataclass
    class Settings(Targets):
        """Settings of the family; comments give the paper's symbols."""

        alpha: float = setting(1.0, "scale of the update times the rank", above=0, symbol="alpha")
        weight_energy: PerTower = setting(
            PerTower(0.85, 0.2),
            "share of a pre-trained weight's energy protected from the start; 0 protects nothing",
            low=0,
            high=1,
            symbol="eps_w",
        )
        feature_energy: PerTower = setting(
            PerTower(0.99, 0.99),
            "share of a task's feature energy protected after it; 0 protects nothing",
            low=0,
            high=1,
            symbol="eps_f",
        )
        weight_side: str = setting(
            "input",
            "singular vectors of a weight that are protected; the released code takes the output side",
            choices=("input", "output"),
            symbol="W_p",
        )
        rank_rule: str = setting(
            "reach",
            "first fill of a subspace: until the energy is reached, or (released code) one direction less",
            choices=("reach", "below"),
            symbol="p",
        )
        feature_statistic: str = setting(
            "moment",
            "second moment of the features, or (released code) of their means by token position and place in the batch",
            choices=("moment", "slot-mean"),
            symbol="F",
        )
        pad_tokens: bool = setting(False, "count the text features after the end of a prompt; released code: true")
        drop_last: bool = setting(
            False, "leave the last, incomplete batch out of the passes for gradient, head and features; released: true"
        )
        surplus: str = setting(
            "drop",
            "columns of A that the projected gradient has no direction for; the released code keeps arbitrary ones",
            choices=("drop", "keep"),
        )
        init: str = setting(
            "gradient", "directions of A; random ones off the protected subspace are an ablation, with B = 0",
            choices=("gradient", "random"), symbol="A",
        )  # fmt: skip
        zero_b: bool = setting(False, "start B at zero and leave W as it is, as KeepLoRA++ does", symbol="B_0")
        layer_factor: float = setting(
            1.0, "factor of the update in the image tower's first block, rising to 1 in its last", above=0, high=1,
            symbol="g",
        )  # fmt: skip
        head: str = setting("none", "head added to the text logits of learned tasks", choices=("none", "class-mean"))
        head_scale: float = setting(30.0, "factor of the head's cosine similarities", above=0)

        def check(self) -> list[str]:
            """Return what contradicts itself, whatever the model is."""
            problems = super().check()
            if self.feature_statistic == "slot-mean" and not self.drop_last:
                problems.append("method.feature_statistic=slot-mean needs full batches: set method.drop_last=true")
            if self.weight_side == "output" and {"fc1", "fc2"} & set(self.maps):
                problems.append(
                    "method.weight_side=output cannot protect fc1 and fc2, whose input and output differ in width: "
                    "leave them out of method.maps"
                )
            return problems

        def fits(self, surroundings: Surroundings) -> list[str]:
            """Return what does not fit stream and model."""
            problems = super().fits(surroundings)
            if self.head != "none" and surroundings.label_space != "task":
                problems.append(
                    f"method.head={self.head} belongs to one task's classes and the stream has the label space "
                    f"{surroundings.label_space}: choose the label space task or method.head=none"
                )
            return problems

    baseline = True
    flags = Flags(grows="protected directions, at most the width of a map")
    parity = ParityCard(
        present=(
            "principal subspace of the pre-trained weights by energy (eps_w = 0.85 image, 0.2 text)",
            "gradient of the task's mean loss, projected off the protected subspace; its leading directions are A",
            "A frozen, only B trained, update merged after the task; scale alpha / r = 1/16",
            "growth of the protected subspace by the features' energy (eps_f = 0.99)",
        ),
        absent=("fp16 autocast: everything is fp32, statistics float64",),
        deviations=(
            "the weight's input-side directions are protected, as the paper's equations say; the released code takes "
            "the output side (weight_side)",
            "features enter through their second moment over all tokens without padding; the released code averages "
            "activations by position and batch slot, padding included (feature_statistic, pad_tokens)",
            "columns of A beyond the rank of the projected gradient are dropped; the released code keeps arbitrary "
            "ones, which may lie inside the protected subspace (surplus)",
        ),
        verified=("float64 transcriptions of the definitions, on small random towers (tests)",),
    )

    @classmethod
    def flags_for(cls, settings: Settings) -> Flags:
        """Return the flags; a head of class means belongs to one task."""
        if settings.head == "none":
            return cls.flags
        return replace(cls.flags, grows=f"{cls.flags.grows}; a head a task", extended=True, task_at_test=True)

    def setup(self) -> None:
        """Protect the principal subspace of every pre-trained weight; done once and never from merged weights."""
        chosen = self.settings
        for name, images in self.context.images.items():
            self._check_batches(name, images)
        self.targets = targets(self.clip, chosen)
        self.bases: dict[str, Tensor] = {}
        self.heads: dict[int, Tensor] = {}
        self.head: Tensor | None = None
        self.effective_rank: dict[str, int] = {}
        with self.context.part("weight subspace"):
            self.bases = self.protect_weights()
        self._report_subspaces("", "weights")

    def protect_weights(self) -> dict[str, Tensor]:
        """Return the principal subspace of every target's weight as it is now.

        Returns
        -------
        dict of map name to Tensor [in, k], float64
        """
        chosen, device = self.settings, self.clip.exact_device
        protecting = [m for m in self.targets if chosen.weight_energy.of(m) > 0]

        def spectra() -> dict[str, Tensor]:
            results = side_by_side(lambda m: spectrum(m.weight.to(device), chosen.weight_side), protecting, device)
            named = {m.name: pair for m, pair in zip(protecting, results, strict=True)}
            return {f"{name}/{part}": one for name, pair in named.items() for part, one in zip("sv", pair, strict=True)}

        key = [self.context.weights, chosen.weight_side, [m.name for m in protecting]]
        results = self.shared("spectra of the weights", key, spectra)
        bases = {m.name: empty_basis(m.in_features, device) for m in self.targets}
        for m in protecting:
            energies, vectors = (results[f"{m.name}/{part}"].to(device) for part in "sv")
            bases[m.name] = leading(energies, vectors, chosen.weight_energy.of(m), chosen.rank_rule)
        return bases

    def begin_task(self, task: TaskData) -> None:
        """Turn the task's residual gradient into A, B and the compensation of W; then the head."""
        self._check_batches(task.name, len(task.train))
        with self.context.part("gradient pass"):
            gradients = self._mean_gradient(task)
        surplus = []
        draw = task.init_generator("keeplora")
        with self.context.part("initialisation"):
            drawn = {m.name: self._drawn(m, draw) for m in self.targets}

            def exact(linear_map: LinearMap) -> Tensor:  # [in, out], as in the paper
                return gradients[linear_map.name].to(self.clip.exact_device).double().T

            def directions_of(linear_map: LinearMap) -> tuple[Tensor, int]:
                return self._directions(linear_map, exact(linear_map), drawn[linear_map.name])

            results = side_by_side(directions_of, self.targets, self.clip.exact_device)
            for linear_map, (directions, arbitrary) in zip(self.targets, results, strict=True):
                gradient = exact(linear_map)
                surplus += [linear_map.name] * bool(arbitrary)
                self._attach(linear_map, directions, outside(self.bases[linear_map.name], gradient))
                self.effective_rank[linear_map.name] = directions.shape[1] - arbitrary
        if surplus:
            self.context.say(
                f"note: in {len(surplus)} maps of task {task.name} ({surplus[0]}, ...) the rank exceeds what is left: "
                "surplus columns are arbitrary and may lie inside the protected subspace (method.surplus=keep)"
            )
        self.head = None
        if self.settings.head == "class-mean":
            with self.context.part("head"):
                self.heads[task.index] = self.head = class_means(self.clip, task, self.settings.drop_last)

    def _check_batches(self, task: str, images: int) -> None:
        if self.settings.drop_last and images < self.context.batch_size:
            raise UserError(
                f"task {task} has {images} training images, less than one batch of {self.context.batch_size}, and "
                "incomplete batches are dropped: lower train.batch_size or set method.drop_last=false"
            )

    def _mean_gradient(self, task: TaskData) -> dict[str, Tensor]:
        """G of every target; that of the first task, on the untrained model, is shared with other runs."""

        def compute() -> dict[str, Tensor]:
            return mean_gradient(self.clip, task, self.targets, self.settings.drop_last)

        batches = task.identity("gradient") if task.index == 0 else None
        if batches is None:
            return compute()
        key = [self.context.weights, self.settings.drop_last, [m.name for m in self.targets], *batches]
        return self.shared("gradient of the first task", key, compute)

    def _drawn(self, linear_map: LinearMap, draw: torch.Generator) -> Tensor | None:
        """Random directions [in, rank] for A, where they are wanted."""
        if self.settings.init != "random":
            return None
        return torch.randn(linear_map.in_features, self.settings.rank, generator=draw, dtype=torch.float64)

    def _directions(self, linear_map: LinearMap, gradient: Tensor, drawn: Tensor | None) -> tuple[Tensor, int]:
        """A^T [in, columns] of a map, and how many of the columns are arbitrary."""
        rank, basis = self.settings.rank, self.bases[linear_map.name]
        if drawn is not None:
            return leading_directions(outside(basis, drawn.to(basis)), rank, basis), 0
        residual = outside(basis, gradient)
        # What is below the rounding of the fp32 gradient is no direction of it, however little was left over.
        floor = ROUNDING * float(gradient.norm())
        if self.settings.surplus == "drop":
            return leading_directions(residual, rank, basis, floor), 0
        # In float32 as released: rounding decides where the columns without a direction of their own point.
        released = outside(basis.float(), gradient.float())
        vectors, values, _ = torch.linalg.svd(released, full_matrices=False)
        return vectors[:, :rank].double(), int((values[:rank] <= floor).sum())

    def _attach(self, linear_map: LinearMap, directions: Tensor, residual: Tensor) -> None:
        """Attach A and B to a map, and take what they contribute off its weight."""
        chosen = self.settings
        scale = chosen.alpha / chosen.rank * self.factor(linear_map)
        zero = chosen.zero_b or chosen.init == "random"
        # U^T R = S V^T: singular values times right singular vectors, without asking for them.
        update = attach(linear_map, directions.T, scale, None if zero else (directions.T @ residual).T)
        if update is not None and not zero:
            linear_map.add(-update.delta())

    def factor(self, linear_map: LinearMap) -> float:
        """Return the layer factor of KeepLoRA++: g + (1 - g) l / (L - 1) in block l of L of the image tower, else 1."""
        if linear_map.tower != "image":
            return 1.0
        blocks = sorted({m.block for m in self.targets if m.tower == "image"})
        g = self.settings.layer_factor
        return 1.0 if len(blocks) == 1 else g + (1 - g) * blocks.index(linear_map.block) / (len(blocks) - 1)

    def parameters(self) -> Sequence[Tensor]:
        """B of every update, and the head's weights; A is frozen."""
        factors = tensors_named(self.targets, "B")
        return factors if self.head is None else [*factors, self.head]

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Cross-entropy over the task's prompts, with label smoothing, and the head's logits where there is one."""
        features = self.clip.encode_images(pixels)
        logits = self.clip.logits(features, self.clip.encode_tokens(task.tokens))
        if self.head is not None:
            logits = logits + head_logits(features, self.head, self.settings.head_scale)
        return task.cross_entropy(logits, labels)

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Merge, then protect what the merged model's features on this task need."""
        chosen = self.settings
        with self.context.part("merge"):
            self.clip.merge()
        if self.head is not None:
            self.heads[task.index] = self.head.detach().clone()
        protecting = [m for m in self.targets if chosen.feature_energy.of(m) > 0]
        with self.context.part("feature pass"):
            moments = (
                slot_means(self.clip, task, protecting, chosen.pad_tokens)
                if chosen.feature_statistic == "slot-mean"
                else second_moments(self.clip, task, protecting, chosen.pad_tokens, chosen.drop_last)
            )
        with self.context.part("subspace update"):

            def grown(linear_map: LinearMap) -> Tensor:
                gram, energy = moments[linear_map.site.name].gram, chosen.feature_energy.of(linear_map)
                return grow(self.bases[linear_map.name], gram, energy, chosen.rank_rule)

            results = side_by_side(grown, protecting, self.clip.exact_device)
            self.bases.update({m.name: basis for m, basis in zip(protecting, results, strict=True)})
        self._report_subspaces(task.name, "task")

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the text classifier, with the head of the task whose classes these are, if it was learned."""
        head = self.heads.get(space.tasks[0])
        if head is None:
            return super().classifier(space)
        texts = self.clip.encode_prompts(space.prompts)

        def classify(pixels: Tensor) -> Tensor:
            features = self.clip.encode_images(pixels)
            return self.clip.logits(features, texts) + head_logits(features, head, self.settings.head_scale)

        return classify

    def report(self) -> dict[str, Any]:
        """Columns of A in the task just learned and dimension of the protected subspace after it, per map."""
        return {
            "effective_rank": dict(self.effective_rank),
            "protected": {name: basis.shape[1] for name, basis in self.bases.items()},
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return the protected subspaces and the heads."""
        return {**self.bases, **{f"head.{index}": head for index, head in self.heads.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore subspaces and heads."""
        self.bases = {n: t.to(self.clip.exact_device) for n, t in state.items() if not n.startswith("head.")}
        self.heads = {int(n[5:]): t.to(self.clip.device) for n, t in state.items() if n.startswith("head.")}

    def _report_subspaces(self, task: str, when: str) -> None:
        """Show the protected subspace of every map to those who listen."""
        for name, basis in self.bases.items():
            self.context.observers.report("subspace", task, name, basis=basis, when=when)


@register(
    "method", "keeplora-official", title="KeepLoRA as its released code computes it", paper="KeepLoRA, arXiv 2601.19659"
)
class KeepLoraOfficial(KeepLora):
    """The released code in fp32, quirks included; docs/keeplora.md says which, and what they amount to."""

    Settings = with_defaults(
        KeepLora.Settings,
        weight_side="output",
        rank_rule="below",
        feature_statistic="slot-mean",
        pad_tokens=True,
        drop_last=True,
        surplus="keep",
    )
    parity = ParityCard(
        present=(
            "left singular vectors of the stored weight, projected off the input side of the gradient",
            "first fill one direction short of the energy, growth until it is reached, no re-orthogonalisation needed",
            "features averaged by token position and place in the batch over full batches, padding included",
            "B0 = S V^T with compensation of W; AdamW and OneCycle with cycled beta1; arbitrary surplus columns",
        ),
        absent=("fp16 autocast of gradient, training, features and evaluation", "its global random number generator"),
        deviations=(
            "exact instead of randomised SVD: A A^T agrees to 1e-6 where the singular values differ by more than 30 % "
            "at the rank, to 1e-5 from 20 %, 3e-5 from 10 %, 2e-4 from 5 %",
            "subspaces in float64 instead of fp32: M M^T differs by up to 2.6e-5",
            "a task with less than one batch of images is refused; there it fails later",
        ),
        verified=("float64 transcriptions of its rules, on small random towers (tests)",),
    )


@register("method", "keeplora-plus", title="KeepLoRA+ with a head of class means", paper="KeepLoRA, arXiv 2601.19659")
class KeepLoraPlus(KeepLora):
    """KeepLoRA and, for learned tasks, cosine similarity to class means (scale 30) added to the text logits."""

    label_spaces = ("task",)
    Settings = with_defaults(KeepLora.Settings, head="class-mean")
    parity = ParityCard(
        present=("all of keeplora", "head of class means in the merged feature space, trained with B, kept per task"),
        deviations=(
            "the means are over all images of a task; the released code leaves out the last, incomplete batch",
        ),
        verified=("the definition of its logits before training (tests)",),
    )


@register("method", "keeplora-pp", title="KeepLoRA++ with layer factors", paper="KeepLoRA++, arXiv 2606.16256")
class KeepLoraPp(KeepLora):
    """KeepLoRA with B = 0 at the start and updates that count less in the image tower's early blocks (g = 0.2)."""

    Settings = with_defaults(KeepLora.Settings, zero_b=True, layer_factor=0.2)
    parity = ParityCard(
        present=("all of keeplora", "B0 = 0 without compensation", "factors from g = 0.2 to 1 over the image tower"),
        absent=("the head of KeepLoRA++cls: method.head=class-mean adds it",),
        deviations=("the text tower's factor is 1, as far as the released files show",),
        verified=("the factors, and one SGD step with them (tests)",),
    )

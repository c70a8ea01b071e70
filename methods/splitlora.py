"""SplitLoRA: updates in the directions that earlier tasks' inputs use least. Qiu et al., arXiv 2505.22370.

For every input site (d wide) C is the mean of x x^T over the tokens x of all tasks so far, with eigenvectors U and
eigenvalues lambda, largest first; p_i = lambda_i / sum lambda. For task t, counted from 1:

1. split, from task 2 on: i* is the first index that minimises (t - 1) (1 - sum_{j <= i} p_j) - alpha (d - i) / d, the
   energy of earlier tasks that an update could still touch against the room that it has. U_min are the columns of U
   after i*, at least one of them;
2. A is random, and frozen: R [d, r] from N(0, 1) gives Z = U_min U_min^T R and A = Z^T / ||Z||_F * ||A'||_F / t with A'
   LoRA's usual start. U_min^T R is as random as a draw of that shape, and Z does not depend on the signs of
   eigenvectors, which differ between devices. Each map draws its own R. The first task takes A' itself. B = 0;
3. B is trained and merged: W + B A;
4. the task's inputs, in the merged model, enter C, weighted by their number of tokens.

``stat=gradient`` is the paper's reading. In place of C every map has G [out, d], the mean over finished tasks of the
gradient of the task's mean loss with respect to the merged weight. U are its right singular vectors and p_i the shares
of its singular values. With ``forced=0`` U_min are the last k columns, for the first k of 1 to d that minimises
(t - 1) eps(k) - alpha k / d, where eps(k) is the sum of the last k shares.

A looks at earlier tasks alone, not at the new one: where a tower has few prompts, most of U_min may be directions in
which no prompt lies. `report` says how much of the new inputs the rows of A see (``seen``).

It is one file although it is long: both readings share the split, A and the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import (
    LinearMap,
    Method,
    ParityCard,
    TaskData,
    mean_gradient,
    register,
    second_moments,
    setting,
    torch,
    with_defaults,
)

from .low_rank import PerTower, Targets, attach, kaiming_uniform, targets, tensors_named
from .subspace import descending_eigh, side_by_side, spectrum

if TYPE_CHECKING:
    from torch import Tensor

BLIND = 0.1
"""Rows of A that see less than this share of what random rows would see: their tower hardly learns."""


# ---- the decisive computations


def running_mean(mean: Tensor, tokens: int, gram: Tensor, more: int) -> Tensor:
    """Return the second moment over earlier and new tokens.

    Parameters
    ----------
    mean : Tensor [d, d]
        C, the mean of x x^T over the tokens so far; zero for none. Or G [out, d], a mean over tasks.
    tokens : int
        How many these are.
    gram : Tensor [d, d]
        Sum of x x^T over the new tokens, or the gradient [out, d] of a new task.
    more : int
        How many those are.

    Returns
    -------
    Tensor
        Of the same shape.
    """
    return (tokens * mean + gram) / (tokens + more)


def first_free(eigenvalues: Tensor, finished: int, alpha: float, forced: int = 2) -> int:
    """Return how many leading eigenvectors of C are protected: the minor subspace begins after them.

    The scores of step 1 fall from i - 1 to i as long as p_i > alpha / (t d), with t the number of finished tasks. Since
    p descends, the first minimum is the last such i.

    Parameters
    ----------
    eigenvalues : Tensor [d]
        lambda, largest first; not all zero.
    finished : int
        The number of finished tasks.
    alpha : float
        Weight of plasticity.
    forced : int, optional
        The fewest directions that are protected.

    Returns
    -------
    int
        From `forced` to d - 1, so that one direction at least is free.
    """
    width = len(eigenvalues)
    shares = eigenvalues / eigenvalues.sum()
    above = int((shares > alpha / (finished * width)).sum())
    return min(max(above, forced), width - 1)


def random_rows(minor: Tensor, drawn: Tensor, norm: float, divisor: float) -> Tensor:
    """Return A: random rows inside the minor subspace, of a given size.

    Parameters
    ----------
    minor : Tensor [d, k]
        U_min, orthonormal columns.
    drawn : Tensor [d, r]
        R.
    norm : float
        Frobenius norm of LoRA's usual start.
    divisor : float
        t.

    Returns
    -------
    Tensor [r, d]
        Of rank min(k, r).
    """
    z = minor @ (minor.T @ drawn)
    return z.T / z.norm() * (norm / divisor)


def share_seen(A: Tensor, moment: Tensor) -> float:
    """Return how much of some inputs x the rows of A see: the norms |A x| / (|A| |x|) in the root mean square.

    Parameters
    ----------
    A : Tensor [r, d]
    moment : Tensor [d, d]
        Sum or mean of x x^T.

    Returns
    -------
    float
        As a multiple of 1 / sqrt(d), which rows in random directions see.
    """
    A = A.to(moment)
    seen = (A @ moment * A).sum() / ((A**2).sum() * moment.trace())
    return float((seen.clamp(min=0) * len(moment)).sqrt())


# ---- the method


@register(
    "method", "splitlora", title="Updates in earlier tasks' minor input directions", paper="SplitLoRA, arXiv 2505.22370"
)
class SplitLora(Method):
    """SplitLoRA with a classifier of text prompts, on q, k, v and o of both towers.

    Attributes
    ----------
    means : dict of site name to Tensor [d, d], float64
        C; or of map name to G [out, d], float32.
    tokens : dict of str to int
        How many tokens C is over, or tasks G.
    protected : dict of str to int
        Directions that the update of the current task leaves alone.
    """

    @dataclass
    class Settings(Targets):
        """Which maps are adapted, and how their inputs are split."""

        alpha: PerTower = setting(
            PerTower(20.0, 20.0),
            "plasticity: a direction is protected when its energy exceeds alpha / t times the mean; no LoRA scale",
            above=0,
            symbol="alpha",
        )
        shrink: bool = setting(True, "divide A by the number of the task, as the released code does", symbol="1/t")
        forced: int = setting(2, "directions that are protected in any case from task 2 on", low=0, symbol="i*")
        stat: str = setting(
            "inputs",
            "what is split: the second moment of a site's inputs, as in the released code, or a map's mean gradient",
            choices=("inputs", "gradient"),
        )

        def fits(self, surroundings: Any) -> list[str]:
            """Return what does not fit stream and model."""
            problems = super().fits(surroundings)
            narrow = {tower: width for tower, width in surroundings.widths.items() if tower in self.towers}
            for tower, width in narrow.items():
                if self.forced >= width:
                    problems.append(
                        f"method.forced={self.forced} leaves no direction of the {tower} tower free, whose width is "
                        f"{width}: choose at most {width - 1}"
                    )
            return problems

    defaults = {"train.weight_decay": 0.0}
    parity = ParityCard(
        present=(
            "running token mean of x x^T over all finished tasks, measured after each task; one a site",
            "the paper's mean gradient in its place with stat=gradient; its split is then that of forced=0",
            "split by energy against plasticity, with the released code's off-by-one and its two forced directions",
            "A frozen, random inside the minor subspace, with the norm of LoRA's start divided by t; own draws a map",
            "B starts at zero and alone is trained, with scale 1; merged after the task",
        ),
        absent=("linear heads with a temperature of 30 and a rate of their own (CLIP classifies with prompts)",),
        deviations=(
            "q, k, v, o of both towers by default; the released code adapts k and v of an image tower: "
            "splitlora-faithful",
            "statistics of one pass over images as a test sees them, without padding of texts; the released code takes "
            "ten passes over randomly changed ones",
            "one direction at least stays free; the released code divides zero by zero where none is left",
            "the budget is the stream's; the paper's numbers are of ten passes in each of ten epochs",
        ),
        verified=("float64 transcriptions of the definitions, worked examples of the split (tests)",),
    )

    def setup(self) -> None:
        """Choose the maps to adapt; nothing has been learned yet."""
        self.targets = targets(self.clip, self.settings)
        self.means = {self._place(m): self._nothing(m) for m in self.targets}
        self.tokens = dict.fromkeys(self.means, 0)
        self.protected = dict.fromkeys(self.means, 0)
        self.seen: dict[str, float] = {}
        self.said: set[str] = set()

    def _place(self, linear_map: LinearMap) -> str:
        """Return where the memory that belongs to a map is kept: maps of a site share one of inputs."""
        return linear_map.name if self.settings.stat == "gradient" else linear_map.site.name

    def _nothing(self, linear_map: LinearMap) -> Tensor:
        d, device = linear_map.in_features, self.clip.exact_device
        if self.settings.stat == "gradient":
            return torch.zeros(linear_map.out_features, d, device=device)
        return torch.zeros(d, d, dtype=torch.float64, device=device)

    def begin_task(self, task: TaskData) -> None:
        """Split the directions of every site or map, draw A in the minor ones, and attach it with B = 0."""
        results = side_by_side(lambda name: self._minor(name, task.index), self.means, self.clip.exact_device)
        minor = dict(zip(self.means, results, strict=True))
        self.protected = {n: len(U) - U.shape[1] if self.tokens[n] else 0 for n, U in minor.items()}
        self._say_what_is_protected(task)
        for linear_map in self.targets:
            draw = task.init_generator(f"splitlora {linear_map.name}")
            A = kaiming_uniform((self.settings.rank, linear_map.in_features), draw)
            free = minor[self._place(linear_map)]
            if self.tokens[self._place(linear_map)]:
                drawn = torch.randn(len(free), self.settings.rank, generator=draw, dtype=torch.float64)
                divisor = task.index + 1 if self.settings.shrink else 1
                A = random_rows(free, drawn.to(free), float(A.double().norm()), divisor)
            attach(linear_map, A, scale=1.0)

    def _minor(self, name: str, finished: int) -> Tensor:
        """U_min [d, k] of a site or a map after some tasks; empty before the first one is finished."""
        mean = self.means[name]
        if not self.tokens[name]:
            return mean[:, :0]
        if self.settings.stat == "gradient":
            energies, vectors = spectrum(mean)
            eigenvalues = energies.sqrt()
        else:
            eigenvalues, vectors = descending_eigh(mean)
        alpha = getattr(self.settings.alpha, name.split(".")[0])
        return vectors[:, first_free(eigenvalues, finished, alpha, self.settings.forced) :]

    def _say_what_is_protected(self, task: TaskData) -> None:
        """Say once where alpha protects nothing beyond what is forced."""
        if task.index != 1:
            return
        for tower in self.settings.towers:
            mine = {name: count for name, count in self.protected.items() if name.startswith(tower)}
            if max(mine.values()) <= self.settings.forced:
                self.context.say(
                    f"note: method.alpha.{tower}={getattr(self.settings.alpha, tower):g} protects no more than the "
                    f"{max(mine.values())} forced directions of {next(iter(mine))} and all other sites of the {tower} "
                    f"tower in task {task.name}: lower it to protect more"
                )

    def parameters(self) -> Sequence[Tensor]:
        """Return B of every update; A is frozen."""
        return tensors_named(self.targets, "B")

    def end_task(self, task: TaskData) -> None:
        """Merge, then let the inputs of the merged model enter C, or its gradients G."""
        rows = {m.name: m.update.factors()[0] for m in self.targets if m.update}
        self.clip.merge()
        if self.settings.stat == "gradient":
            for name, gradient in mean_gradient(self.clip, task, self.targets).items():
                self._remember(name, gradient.to(self.clip.exact_device), 1)
            return
        moments = second_moments(self.clip, task, self.targets)
        for name, moment in moments.items():
            self._remember(name, moment.gram, moment.count)
        self._see(task, {m.name: share_seen(rows[m.name], moments[m.site.name].gram) for m in self.targets})

    def _remember(self, name: str, total: Tensor, count: int) -> None:
        self.means[name] = running_mean(self.means[name], self.tokens[name], total, count)
        self.tokens[name] += count

    def _see(self, task: TaskData, shares: dict[str, float]) -> None:
        """Keep the mean of each tower for the report, and say where it is too little to learn from."""
        for tower in self.settings.towers:
            kept = [share for name, share in shares.items() if name.startswith(tower)]
            self.seen[tower] = sum(kept) / len(kept)
            if self.seen[tower] < BLIND and tower not in self.said:
                self.said.add(tower)
                self.context.say(
                    f"note: in task {task.name} the rows of A saw {self.seen[tower]:.1%} of what random rows see of "
                    f"the inputs of the {tower} tower, which hardly learns: raise method.alpha.{tower}"
                )

    def report(self) -> dict[str, Any]:
        """Return the directions protected while the task was learned, and how much of it the rows of A saw."""
        return {"protected": dict(self.protected), "seen": dict(self.seen)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return C of every site and its number of tokens, or G of every map and its number of tasks."""
        return self.means | {f"{name}.tokens": torch.tensor(count) for name, count in self.tokens.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.means = {name: state[name].to(self.clip.exact_device) for name in self.means}
        self.tokens = {name: int(state[f"{name}.tokens"]) for name in self.means}


@register(
    "method",
    "splitlora-faithful",
    title="SplitLoRA with the paper's maps and constants",
    paper="SplitLoRA, arXiv 2505.22370",
)
class SplitLoraFaithful(SplitLora):
    """k and v of the image tower, rank 10, AdamW whose rate falls at epochs 5 and 8, where the stream says no other."""

    Settings = with_defaults(SplitLora.Settings, maps=["k", "v"], towers=["image"], rank=10)
    defaults = {
        "train.optimizer": "adamw",
        "train.lr": 1e-3,
        "train.weight_decay": 5e-5,
        "train.schedule": "steps",
        "train.milestones": [5, 8],
        "train.epochs": 10,
        "train.batch_size": 256,
    }
    parity = ParityCard(
        present=(*SplitLora.parity.present, "its maps, rank, optimiser, rates, decay, epochs and batch size"),
        absent=SplitLora.parity.absent,
        deviations=(
            *SplitLora.parity.deviations[1:-1],
            "ten passes in all; the released code takes ten in each epoch, over images changed at random",
            "where the stream has a budget of its own, that is taken",
        ),
        verified=SplitLora.parity.verified,
    )

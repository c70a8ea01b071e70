"""SC-LoRA: updates that start as the part of a weight with the outputs to adapt. Luo et al., arXiv 2505.23724.

For every adapted map W [out, in], before each task, with y = W x, C+ the mean of x x^T over the task's inputs x and C-
that over inputs whose outputs are to be kept, each divided by its trace:

1. M = W ((1 - beta) C+ - beta C-) W^T, which is (1 - beta) E+[y y^T] - beta E-[y y^T];
2. Q [out, r] are the eigenvectors of the r largest eigenvalues of M. Among all subspaces of r dimensions, theirs has
   the largest (1 - beta) E+|Q^T y|^2 - beta E-|Q^T y|^2;
3. B = Q, A = Q^T W and W_res = W - B A, so that W_res + B A = W at the start;
4. A and B are trained with W_res frozen, then merged. Nothing keeps B in the span of Q while it is trained.

Eigenvalues within a millionth of zero belong to directions without outputs, which few prompts leave many of. These are
not chosen, so Q may have fewer than r columns. Moments are of inputs: they stay valid for the weights of later tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.api import (
    Flags,
    LinearMap,
    Method,
    ParityCard,
    SecondMoment,
    Site,
    TaskData,
    no_grad,
    register,
    second_moments,
    setting,
    torch,
)

from .low_rank import FromWeights, allow_no_decay, split_off, targets, tensors_named
from .subspace import empty_moment, side_by_side

if TYPE_CHECKING:
    from torch import Tensor

FAINT = 1e-6
"""Eigenvalues of M below this share of the largest magnitude belong to directions without outputs."""

SMALLEST = 0.01
"""The divisor of a sample's outputs is at least this share of their largest magnitude, which matters if all of them are
negative or near zero."""


# ---- the decisive computations


def unit_trace(gram: Tensor) -> Tensor:
    """Return a second moment [d, d] divided by its trace; one of zeros as it is."""
    trace = gram.trace()
    return gram / trace if trace > 0 else gram


def contrast(plus: Tensor, kept: Sequence[Tensor], beta: float) -> Tensor:
    """Return what is sought in the inputs less what is to be kept: the inner part of M.

    Parameters
    ----------
    plus : Tensor [d, d], float64
        Sum or mean of x x^T over the inputs of the task.
    kept : sequence of Tensor [d, d], float64
        The same over inputs whose outputs are to be kept. Several count alike; those of zeros count nothing.
    beta : float
        Weight of what is kept, in [0, 1).

    Returns
    -------
    Tensor [d, d], float64
        ``(1 - beta) C+ - beta C-``, or C+ if there is nothing to keep.
    """
    there = [unit_trace(gram) for gram in kept if gram.trace() > 0]
    if not there:
        return unit_trace(plus)
    return (1 - beta) * unit_trace(plus) - beta * sum(there) / len(there)


def output_directions(weight: Tensor, inner: Tensor, rank: int) -> Tensor:
    """Return the leading eigenvectors of ``M = W inner W^T``, without those of eigenvalues near zero.

    Parameters
    ----------
    weight : Tensor [out, in], float64
    inner : Tensor [in, in], float64
        Symmetric, of any sign.
    rank : int
        The largest number of columns to return.

    Returns
    -------
    Tensor [out, r], float64
        Q: orthonormal columns, in descending order of their eigenvalues, which may be negative; r >= 1.
    """
    M = weight @ inner @ weight.T
    values, vectors = torch.linalg.eigh((M + M.T) / 2)
    size = values.abs()
    chosen = (size >= FAINT * size.max()).nonzero()[:, 0].flip(0)[:rank]
    return vectors[:, chosen]


def divisors(y: Tensor, mask: Tensor | None) -> Tensor:
    """Return what the outputs of every sample are divided by in the released code.

    Parameters
    ----------
    y : Tensor [samples, tokens, out]
    mask : bool Tensor [samples, tokens] or None
        The tokens that count.

    Returns
    -------
    Tensor [samples]
        The magnitude of the largest element, not the largest magnitude; but no less than `SMALLEST` of that, and one
        for outputs of zero.
    """
    if mask is not None:
        y = y.where(mask[..., None], y[:, :1])  # the first token always counts
    largest, magnitude = y.amax(dim=(1, 2)).abs(), y.abs().amax(dim=(1, 2))
    return torch.maximum(largest, SMALLEST * magnitude).where(magnitude > 0, 1)


@no_grad
def scaled_moments(task: TaskData, maps: Sequence[LinearMap]) -> dict[str, SecondMoment]:
    """Measure second moments of inputs, a map each, with every sample divided by its `divisors` for that map.

    Parameters
    ----------
    task : TaskData
        What is measured on, with the model as it is now.
    maps : sequence of LinearMap

    Returns
    -------
    dict of str to SecondMoment
        By name of the map. With y = W x, W gram W^T is the sum of y y^T over all tokens, after the division.
    """
    clip = task.train.clip
    moments = {m.name: SecondMoment(m.in_features, clip.exact_device) for m in maps}
    readers: dict[str, list[LinearMap]] = {}
    for m in maps:
        readers.setdefault(m.site.name, []).append(m)

    def reading(mine: Iterable[LinearMap]):
        def record(x: Tensor, mask: Tensor | None) -> None:
            for m in mine:
                divisor = divisors(x @ m.weight.to(x.dtype).T, mask)
                moments[m.name].add(x / divisor[:, None, None], mask)

        return record

    with clip.recording({name: reading(mine) for name, mine in readers.items()}):
        if any(m.tower == "image" for m in maps):
            for pixels, _ in task.batches("statistics", share="batches"):
                clip.encode_images(pixels)
            for m in (m for m in maps if m.tower == "image"):
                moments[m.name].sum_over(task.context.world)
        if any(m.tower == "text" for m in maps):
            clip.encode_tokens(task.tokens)
    return moments


# ---- the method


@register("method", "sc-lora", title="Updates that start from outputs to adapt", paper="SC-LoRA, arXiv 2505.23724")
class ScLora(Method):
    """SC-LoRA before every task of a stream, on q, k, v and o of both towers.

    Attributes
    ----------
    past : dict of str to Tensor [in, in], float64
        Sums of x x^T over the inputs of all finished tasks; by site, with ``norm=absmax`` by map.
    outside : dict of str to Tensor [in, in], float64
        The same over the reference set, measured with the untrained model; empty until the first task.
    effective_rank : dict of map name to int
        Columns of Q in the current task.
    """

    @dataclass
    class Settings(FromWeights):
        """Which maps are adapted, and whose outputs are to be kept."""

        beta: float = setting(0.8, "weight of the outputs to keep", low=0, below=1, symbol="beta")
        keep: str = setting(
            "past",
            "whose outputs are to be kept: finished tasks' (none in the first task), the reference set's, or both",
            choices=("past", "reference", "both"),
            symbol="D-",
        )
        norm: str = setting(
            "none",
            "none takes outputs as they are; absmax divides those of a sample by their largest element, as released",
            choices=("none", "absmax"),
        )
        trained: str = setting(
            "AB", "what is trained; A keeps B = Q, so that no output outside of its span changes", choices=("AB", "A")
        )

    defaults = {"train.weight_decay": 0.0}
    parity = ParityCard(
        present=(
            "Q from the outputs to adapt less those to keep, by algebraic eigenvalue; B = Q, A = Q^T W, W_res frozen",
            "A and B trained with scale 1 and merged; every task starts again from the merged weight",
            "the ablation that keeps B = Q (trained=A)",
            "the released code's division of a sample's outputs by their largest element (norm=absmax; off by default)",
        ),
        absent=("the loss of a language model (CLIP classifies with prompts)",),
        deviations=(
            "the paper adapts a language model once: that every task begins with it, and that the outputs of finished "
            "tasks are kept by default, is our reading for streams; in the first task beta is then 0",
            "written from two audits of the released code that agree, without its text",
            "outputs without the bias, which the paper's layers do not have; moments of inputs, from which those of "
            "outputs follow, of images as a test sees them and without padding of texts",
            "both moments have trace 1, since images and prompts differ in number; released: sums over 256 samples",
            "eigenvalues within a millionth of zero are not chosen; the released code takes directions without data",
            "q, k, v and o of both towers at the common rank of 16; 128 of 4096 in the paper",
        ),
        verified=("float64 transcriptions of the definitions, worked examples (tests)",),
    )

    @classmethod
    def flags_for(cls, settings: Any) -> Flags:
        """Return that the reference set is outside data, where it is used."""
        return Flags(outside_data="" if settings.keep == "past" else "reference")

    def setup(self) -> None:
        """Choose the maps to adapt; nothing has been learned yet."""
        self.targets = targets(self.clip, self.settings)
        self.sites: dict[str, Site] = {m.site.name: m.site for m in self.targets}
        device, keep = self.clip.exact_device, self.settings.keep
        widths = {self._key(m): m.in_features for m in self.targets}
        self.past = {} if keep == "reference" else {key: empty_moment(width, device) for key, width in widths.items()}
        self.outside: dict[str, Tensor] = {}
        self.effective_rank: dict[str, int] = {}
        self.said = False

    def _key(self, linear_map: LinearMap) -> str:
        """Return the name of a map's moment, which maps of a site share unless each divides its own outputs."""
        return linear_map.name if self.settings.norm == "absmax" else linear_map.site.name

    def begin_task(self, task: TaskData) -> None:
        """Measure the task, choose Q for every map, and split B A off its weight."""
        allow_no_decay(task)
        if self.settings.keep != "past" and not self.outside:
            self.outside = {name: moment.gram for name, moment in self._moments(self._reference(task)).items()}
        plus = self._moments(task)
        self._say_if_few(task, plus)
        kept = {key: [one[key] for one in (self.past, self.outside) if one] for key in plus}

        def directions(m: LinearMap) -> Tensor:
            inner = contrast(plus[self._key(m)].gram, kept[self._key(m)], self.settings.beta)
            return output_directions(m.weight.to(inner), inner, self.settings.rank)

        with self.context.part("subspaces"):
            results = side_by_side(directions, self.targets, self.clip.exact_device)
        self.effective_rank = {m.name: Q.shape[1] for m, Q in zip(self.targets, results, strict=True)}
        for m, Q in zip(self.targets, results, strict=True):
            self.context.observers.report("method", task.name, m.name, Q=Q)
            split_off(m, Q.T @ m.weight.to(Q), Q)

    def _moments(self, data: TaskData) -> dict[str, SecondMoment]:
        """Measure second moments of inputs, by `_key`."""
        with self.context.part("statistics"):
            if self.settings.norm == "absmax":
                return scaled_moments(data, self.targets)
            return second_moments(self.clip, data, self.targets)

    def _reference(self, task: TaskData) -> TaskData:
        """Return the reference set as if it were a task to measure."""
        reference = self.context.reference
        assert reference is not None  # by the flag of a method that keeps the reference set
        name, texts = f"reference {reference.name}", reference.sentences
        return replace(task, name=name, prompts=texts, tokens=reference.tokens, train=reference.pixels)

    def _say_if_few(self, task: TaskData, moments: dict[str, SecondMoment]) -> None:
        """Say once where the images of a task have fewer tokens than a map has outputs."""
        for m in self.targets:
            count = moments[self._key(m)].count
            if m.tower == "image" and count < m.out_features and not self.said:
                self.said = True
                self.context.say(
                    f"note: task {task.name} has {count} tokens of images, fewer than the {m.out_features} outputs of "
                    f"{m.name}: they decide little about the directions that are adapted, so take more images"
                )

    def parameters(self) -> Sequence[Tensor]:
        """Return A and B of every update, or A alone."""
        return tensors_named(self.targets, *self.settings.trained)

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Merge, then let the inputs of the merged model count as past."""
        self.clip.merge()
        if self.past:
            for key, moment in self._moments(task).items():
                self.past[key] = self.past[key] + moment.gram

    def report(self) -> dict[str, Any]:
        """Return the columns of Q in the task just learned, a map each."""
        return {"effective_rank": dict(self.effective_rank)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums over finished tasks and over the reference set."""
        named = {"past": self.past, "reference": self.outside}
        return {f"{name}.{key}": gram for name, grams in named.items() for key, gram in grams.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        moments: dict[str, dict[str, Tensor]] = {"past": {}, "reference": {}}
        for name, gram in state.items():
            kind, _, key = name.partition(".")
            moments[kind][key] = gram.to(self.clip.exact_device)
        self.past, self.outside = moments["past"], moments["reference"]

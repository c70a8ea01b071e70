"""KeepLoRA the long way (long_way.py) beside the suite on one device: both with their fastest kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from bench.methods.subspace import grow, side_by_side
from gpu_rows import Bench
from long_way import LongWay
from torch import Tensor

from bench.data.stream import label_space
from bench.learning.moments import mean_gradient, second_moments
from bench.model.clip import PRODUCTS
from bench.model.linear_maps import LowRank

DECOMPOSED = ("image.0.q", "text.0.q")
"""Maps that the long way decomposes; the time is scaled to that of all maps."""

Pair = dict[str, float | None]
"""The long way and ours: seconds, or bytes."""


class Beside:
    """Both ways on the parameters of one model, with equal updates where they train."""

    def __init__(self, bench: Bench):
        bench.end()
        self.bench, self.clip = bench, bench.clip
        self.method: Any = bench.method("keeplora")
        self.long = LongWay(bench.clip, bench.size.rank)
        self.tokens = bench.data.tokens
        self.batches = list(bench.few.train.batches(bench.size.batch))
        self.share = len(list(self.long.maps())) / len(DECOMPOSED)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Equal updates of q, k, v and o for both, B to be trained."""
        draw, rank = torch.Generator().manual_seed(0), self.bench.size.rank
        for m in self.long.maps():
            A = torch.linalg.qr(torch.randn(m.in_features, rank, generator=draw))[0].to(self.clip.device)
            B = torch.zeros(rank, m.out_features, device=self.clip.device)
            self.long.updates[m.name] = (A, B.clone().requires_grad_(True))
            m.update = LowRank(A.T.contiguous(), B.T.clone().requires_grad_(True), 1 / rank)
        try:
            yield
        finally:
            self.long.updates = {}
            for m in self.long.maps():
                m.update = None

    def low(self, precision: str) -> AbstractContextManager[Any]:
        """Compute the products of the long way in a lower precision."""
        dtype = PRODUCTS.get(precision)
        return nullcontext() if dtype is None else torch.autocast(self.clip.device.type, dtype)

    def timed(self, long: Callable[[], Any], ours: Callable[[], Any], precision: str, scale: float = 1) -> Pair:
        """Seconds of both; what the long way does for some maps only is scaled to all of them."""
        with self.bench.computing(precision, exact=False):
            return {"the long way": self.bench.seconds(long) * scale, "this suite": self.bench.seconds(ours)}

    def long_step(self, precision: str) -> None:
        with self.low(precision):
            loss = self.long.loss(*self.bench.batch, self.tokens)
        loss.backward()

    def our_step(self) -> None:
        self.method.loss(*self.bench.batch, self.bench.data).backward()

    def step(self, precision: str) -> Pair:
        with self.attached():
            return self.timed(lambda: self.long_step(precision), self.our_step, precision)

    def memory(self, precision: str) -> Pair:
        with self.attached(), self.bench.computing(precision, exact=False):
            long = self.bench.peak(lambda: self.long_step(precision))[1]
            for m in self.long.maps():
                self.long.updates[m.name][1].grad = None
            return {"the long way": long, "this suite": self.bench.peak(self.our_step)[1]}

    def evaluation(self, precision: str) -> Pair:
        """A batch; the suite has encoded the classes before, once for the test set."""
        space = label_space("task", [self.bench.task], 1, 0)
        assert space is not None
        images: Tensor = self.bench.batch[0]
        with torch.no_grad():
            with self.bench.computing(precision, exact=False):
                classifier = self.method.classifier(space)

            def long() -> None:
                with self.low(precision):
                    self.long.logits(images, self.tokens)

            return self.timed(long, lambda: classifier(images), precision)

    def gradient_pass(self, precision: str) -> Pair:
        return self.timed(
            lambda: self.long.gradient_pass(self.batches, self.tokens),
            lambda: mean_gradient(self.clip, self.bench.few, self.method.targets),
            precision,
        )

    def feature_pass(self, precision: str) -> Pair:
        return self.timed(
            lambda: self.long.feature_pass(self.batches, self.tokens),
            lambda: second_moments(self.clip, self.bench.few, self.method.targets),
            precision,
        )

    @torch.no_grad()
    def subspace_update(self, precision: str) -> Pair:
        """Growth by the features of a task; the long way decomposes tall matrices, the suite their second moments."""
        moments = second_moments(self.clip, self.bench.few, self.method.targets)
        grams = {m.name: moments[m.site.name].mean() for m in self.method.targets}
        bases = self.method.bases
        self.long.feature_pass(self.batches[:1], self.tokens)
        self.long.features = {name: self.long.features[name] for name in DECOMPOSED}

        def long() -> None:
            self.long.bases = {name: bases[name].float() for name in DECOMPOSED}
            self.long.subspace_update(0.99)

        def ours() -> None:
            side_by_side(lambda m: grow(bases[m.name], grams[m.name], 0.99), self.method.targets, self.clip.device)

        return self.timed(long, ours, precision, self.share)

    @torch.no_grad()
    def weight_subspace(self, precision: str) -> Pair:
        def long() -> None:
            for name in DECOMPOSED:
                torch.linalg.svd(self.clip.maps[name].weight, full_matrices=False)

        return self.timed(long, self.method.protect_weights, precision, self.share)


LOW: dict[str, Callable[[Beside, str], Pair]] = {
    "forward and backward": Beside.step,
    "memory": Beside.memory,
    "evaluation batch": Beside.evaluation,
}
"""Phases that are measured in lower precision too."""

HIGH: dict[str, Callable[[Beside, str], Pair]] = {
    "gradient pass": Beside.gradient_pass,
    "feature pass": Beside.feature_pass,
    "subspace update": Beside.subspace_update,
    "weight subspace": Beside.weight_subspace,
}
"""Those that are in fp32 and float64 in any run."""


def beside(bench: Bench, phase: str, precision: str) -> Pair:
    """Measure a phase of both ways."""
    return (LOW | HIGH)[phase](Beside(bench), precision)


def phases(models: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str, str]]:
    """Model, precision and phase of everything that is measured here, in the order of the table."""
    low = [(precision, phase) for precision in precisions for phase in LOW]
    return [(model, *one) for model in models for one in [*low, *(("fp32", phase) for phase in HIGH)]]

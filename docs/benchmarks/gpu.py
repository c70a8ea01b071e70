"""Measures the suite on a GPU, beside KeepLoRA the long way, in about a minute: python docs/benchmarks/gpu.py

Prints tables in Markdown, and with --json FILE writes all numbers. Every number is the median of calls that begin and
end with an idle device, after one that warms up. The first table is of the fastest kernels on both sides, as in a run
with deterministic=false; the second says what deterministic ones cost. The long way decomposes only some of the maps,
and the time is scaled to that of all maps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from bench.methods.subspace import grow, side_by_side
from performance import Workload, head, row
from torch import Tensor

from bench.compute.device import deterministic, processor
from bench.config.run_settings import Train
from bench.data.stream import label_space
from bench.learning.costs import counted, product_rate
from bench.learning.moments import mean_gradient, second_moments
from bench.learning.optimizer import build_optimizer
from bench.model.linear_maps import LowRank

ENOUGH = 1.0
"""Seconds of calls after which a median is taken."""

FEWEST, MOST = 3, 30
"""Calls that a median is taken of."""

DECOMPOSED = ("image.0.q", "text.0.q")
"""Maps that the long way decomposes."""


class Bench:
    """Measures one workload on one device.

    Attributes
    ----------
    found : dict of str to float
        Seconds, bytes and rates by name.
    """

    def __init__(self, load: Workload):
        self.load = load
        self.clip = load.clip
        self.device = load.clip.device
        self.found: dict[str, float] = {}
        self.batch, self.labels = load.batches[0]
        space = label_space("task", [load.task], 1, 0)
        assert space is not None
        self.space = space

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, name: str, work: Callable[[], Any], calls: int = MOST) -> float:
        """Time some work; one call warms up."""
        took: list[float] = []
        work()
        while len(took) < min(FEWEST, calls) or (sum(took) < ENOUGH and len(took) < calls):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            took.append(time.perf_counter() - start)
        self.found[name] = statistics.median(took)
        return self.found[name]

    def peak(self, name: str, work: Callable[[], Any]) -> float | None:
        """Return the largest memory of some work in bytes, weights included; None where it is not known."""
        if self.device.type != "cuda":
            return None
        for _ in range(2):
            self.wait()
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
        self.wait()
        self.found[name] = torch.cuda.max_memory_allocated(self.device)
        return self.found[name]

    def low(self, precision: str) -> AbstractContextManager[Any]:
        """Compute the products of the long way in a lower precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

    @contextmanager
    def suite(self, precision: str, exact: bool = False) -> Iterator[None]:
        """Compute as a run does, with deterministic kernels or with the fastest ones."""
        with deterministic(None, precision == "tf32", exact), self.clip.computing(precision):
            yield

    # ---- what is measured

    def long_step(self, precision: str) -> None:
        with self.low(precision):
            loss = self.load.long.loss(self.batch, self.labels, self.load.data.tokens)
        loss.backward()

    def step(self) -> None:
        self.load.method.loss(self.batch, self.labels, self.load.data).backward()

    def optimised(self, both: bool) -> Callable[[], None]:
        """A whole step of KeepLoRA, which trains B, or of LoRA, which trains A and B."""
        trained: list[Tensor] = []
        for m in self.load.long.maps():
            update = self.clip.maps[m.name].update
            assert isinstance(update, LowRank)
            update.A.requires_grad_(both)
            trained += [update.A, update.B] if both else [update.B]
        optimizer = build_optimizer(trained, Train())

        def work() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.step()
            optimizer.step()

        return work


def compare(
    bench: Bench,
    title: str,
    long: Callable[[], Any],
    ours: Callable[[], Any],
    precision: str = "fp32",
    scale: tuple[float, float] = (1, 1),
    calls: int = MOST,
) -> None:
    """One row: the long way, the suite, their ratio."""
    name = f"{title}, {precision}"
    slow = bench.seconds(f"long: {name}", long, calls) * scale[0]
    with bench.suite(precision):
        fast = bench.seconds(f"ours: {name}", ours, calls) * scale[1]
    bench.found[f"ratio: {name}"] = slow / fast
    row(name, f"{slow * 1e3:.1f} ms", f"{fast * 1e3:.1f} ms", f"{slow / fast:.1f}")


def steps(bench: Bench, precision: str) -> None:
    size = f"{len(bench.labels)} images, {len(bench.load.task.classes)} prompts"
    compare(bench, f"training step, {size}", lambda: bench.long_step(precision), bench.step, precision)
    if bench.device.type == "cuda":
        long = bench.peak(f"long: memory, {precision}", lambda: bench.long_step(precision))
        with bench.suite(precision):
            ours = bench.peak(f"ours: memory, {precision}", bench.step)
        assert long and ours
        row(f"peak memory of that, {precision}", f"{long / 1e9:.2f} GB", f"{ours / 1e9:.2f} GB", f"{long / ours:.1f}")


def evaluation(bench: Bench, precision: str, batches: int = 125) -> None:
    load = bench.load
    load.detach()
    with bench.suite(precision), torch.no_grad():
        classifier = load.method.classifier(bench.space)
        texts = bench.seconds(f"class features, {precision}", lambda: load.method.classifier(bench.space))

    def long() -> None:
        with torch.no_grad(), bench.low(precision):
            load.long.logits(bench.batch, load.data.tokens)

    def ours() -> None:
        with torch.no_grad():
            classifier(bench.batch)

    compare(bench, "evaluation batch", long, ours, precision)
    took = bench.found[f"ours: evaluation batch, {precision}"] + texts / batches
    bench.found[f"images a second, {precision}"] = len(bench.labels) / took
    load.attach(load.long.rank)


def statistics_of(bench: Bench) -> None:
    """Gradient pass, feature pass, subspace update and weight subspaces, all in fp32 and float64."""
    load, count = bench.load, len(bench.load.batches)
    load.detach()
    targets, tokens = load.method.targets, load.data.tokens
    compare(
        bench, "gradient pass, a batch", lambda: load.long.gradient_pass(load.batches[:1], tokens),
        lambda: mean_gradient(load.clip, load.data, targets), scale=(1, 1 / count),
    )  # fmt: skip
    compare(
        bench, "feature pass, a batch", lambda: load.long.feature_pass(load.batches[:1], tokens),
        lambda: second_moments(load.clip, load.data, targets), scale=(1, 1 / count),
    )  # fmt: skip
    maps = list(load.long.maps())
    share = len(maps) / len(DECOMPOSED)
    bases = {name: basis.float() for name, basis in load.method.bases.items()}

    def long_update() -> None:
        load.long.bases = dict(bases)
        load.long.subspace_update(0.99)

    with torch.no_grad():
        load.long.feature_pass(load.batches[:1], tokens)
        load.long.features = {name: load.long.features[name] for name in DECOMPOSED}
        moments = second_moments(load.clip, load.data, targets)
    grams = {m.name: moments[m.site.name].mean() for m in targets}

    def update() -> None:
        side_by_side(lambda m: grow(load.method.bases[m.name], grams[m.name], 0.99), targets, bench.device)

    compare(bench, "subspace update", torch.no_grad()(long_update), torch.no_grad()(update), scale=(share, 1), calls=1)

    def long_weights() -> None:
        for m in maps:
            if m.name in DECOMPOSED:
                torch.linalg.svd(m.weight, full_matrices=False)

    compare(
        bench, "weight subspace, once", torch.no_grad()(long_weights),
        torch.no_grad()(load.method.protect_weights), scale=(share, 1), calls=1,
    )  # fmt: skip
    load.attach(load.long.rank)


def rates(bench: Bench, precisions: list[str]) -> None:
    """What a whole step costs, of KeepLoRA and of LoRA; images of evaluation; the share of what the device can do."""
    head(
        "precision", "KeepLoRA, a step", "LoRA, a step", "KeepLoRA, any kernels", "images a second", "TFLOP/s", "share"
    )
    load, operations = bench.load, counted(bench.step)
    for precision in precisions:
        took = {}
        for name, both in (("keeplora", False), ("lora", True)):
            load.attach(load.long.rank)
            with bench.suite(precision, exact=True):
                took[name] = bench.seconds(f"{name} step, {precision}", bench.optimised(both))
        load.attach(load.long.rank)
        with bench.clip.computing(precision), _products(precision == "tf32"):
            free = bench.seconds(f"keeplora step, any kernels, {precision}", bench.optimised(False))
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            rate = product_rate(dtype, bench.device, 0.5)
        bench.found[f"share of the rate of products, {precision}"] = share = operations / took["keeplora"] / rate
        images = bench.found.get(f"images a second, {precision}", float("nan"))
        row(precision, *(f"{one * 1e3:.1f} ms" for one in (took["keeplora"], took["lora"], free)), f"{images:.0f}",
            f"{operations / took['keeplora'] / 1e3:.1f}", f"{share:.0%}")  # fmt: skip


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device, began = torch.device(arguments.device), time.perf_counter()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{name}, torch {torch.__version__}, {arguments.model}", flush=True)
    with deterministic(None):
        load = Workload(arguments.model, arguments.classes, arguments.batch, 4, device=device)
    bench = Bench(load)
    print(f"set up after {time.perf_counter() - began:.1f} s", flush=True)
    precisions = ["fp32", "tf32", "bf16"] if device.type == "cuda" else ["fp32", "bf16"]
    head("phase", "the long way", "this suite", "ratio")
    for precision in ("fp32", "bf16"):
        steps(bench, precision)
        evaluation(bench, precision)
    if "tf32" in precisions:
        with _products(True):
            evaluation(bench, "tf32")
    statistics_of(bench)
    rates(bench, precisions)
    bench.found["seconds"] = time.perf_counter() - began
    print(f"\n{bench.found['seconds']:.0f} s in all")
    if arguments.json:
        about = {"device": name, "torch": torch.__version__, **vars(arguments), "json": None}
        arguments.json.write_text(json.dumps({"about": about, "found": bench.found}, indent=2))


if __name__ == "__main__":
    main()

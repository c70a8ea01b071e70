"""Measures the suite against KeepLoRA the long way, both in one run: python docs/benchmarks/performance.py [PHASE ...]

Phases: train, gradient, evaluate, features, weights, subspace, memory, precision, updates, and many (train and evaluate
with more prompts); all of them by default. Long way and suite take turns, and the faster of their measurements counts:
noise only adds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from long_way import LongWay
from torch import Tensor

from bench.compute.device import peak_memory_mb, processor
from bench.config import registry
from bench.data.images import ArrayImages
from bench.data.pixels import Pixels
from bench.data.stream import Task, label_space
from bench.learning.costs import counted, product_rate
from bench.learning.moments import mean_gradient, second_moments
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.model.pretrained import load_open_clip
from bench.model.updates import linear

HERE = Path(__file__).parent
CPU = torch.device("cpu")
ENERGY = {"image": 0.85, "text": 0.2}
"""eps_w of KeepLoRA."""


def classes_of(count: int) -> tuple[str, ...]:
    """Names of one to three words, as those of real datasets are."""
    words = ["red", "small", "wild", "old", "north", "river", "garden", "paper", "night", "silver"]
    things = ["bird", "car", "flower", "dish", "plane", "texture", "field", "house", "dog", "letter"]
    names = [f"{thing}" for thing in things]
    names += [f"{word} {thing}" for word in words for thing in things]
    names += [f"{a} {b} {thing}" for a in words for b in words for thing in things]
    return tuple(names[:count])


class Workload:
    """One task of noise images on a model with random weights.

    Attributes
    ----------
    method : Method
        KeepLoRA as the suite has it, with updates attached.
    long : LongWay
        On the parameters of the same model, with the same updates.
    """

    def __init__(self, model: str, classes: int, batch: int, batches: int, rank: int = 16, device: torch.device = CPU):
        self.batch = batch
        self.clip = clip = self._load(model).to(device)
        height, width = clip.image_size
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch * batches, height, width, 3), dtype=np.uint8)
        images = ArrayImages(pixels, rng.integers(0, classes, batch * batches))
        self.task = Task("noise", classes_of(classes), "a photo of a {}.", images, images)
        context = Context(1, batch, 0, 0, "task", lambda text: None)
        train = Pixels(images, clip, True)
        self.data = TaskData(0, "noise", self.task.prompts, clip.tokenize(self.task.prompts), train, context)
        self.batches = list(train.batches(batch))
        KeepLora = registry.load("method", "keeplora")
        settings = KeepLora.Settings(rank=rank)  # type: ignore[attr-defined]
        self.method: Any = KeepLora(settings, clip, context)
        self.long = LongWay(clip, rank)
        self.attach(rank)

    @staticmethod
    def _load(model: str) -> Clip:
        if model in registry.entries("model"):
            loader: Any = registry.load("model", model)
            return loader().load(None)
        return load_open_clip(model, weights="random")

    def attach(self, rank: int) -> None:
        """Equal updates of q, k, v and o for both, B to be trained."""
        draw = torch.Generator().manual_seed(0)
        for m in self.long.maps():
            A = torch.linalg.qr(torch.randn(m.in_features, rank, generator=draw))[0]
            B = torch.randn(rank, m.out_features, generator=draw) * 0.01
            A, B = A.to(self.clip.device), B.to(self.clip.device)
            self.long.updates[m.name] = (A, B.clone().requires_grad_(True))
            self.clip.maps[m.name].update = LowRank(A.T.contiguous(), B.T.clone().requires_grad_(True), 1 / rank)

    def detach(self) -> None:
        self.long.updates = {}
        for m in self.clip.maps.values():
            m.update = None

    # ---- the same work twice

    def long_step(self) -> Tensor:
        loss = self.long.loss(*self.batches[0], self.data.tokens)
        loss.backward()
        return loss.detach()

    def step(self) -> Tensor:
        loss = self.method.loss(*self.batches[0], self.data)
        loss.backward()
        return loss.detach()


def alternate(pairs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each, the least of some measurements taken in turns; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in pairs}
    for _ in range(repeats + 1):
        for name, work in pairs.items():
            start = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - start)
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def row(*cells: object) -> None:
    """A line of a Markdown table."""
    print("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def ratio(title: str, took: dict[str, float], target: str) -> None:
    long, ours = took["long"], took["ours"]
    row(title, f"{long:.3f} s", f"{ours:.3f} s", f"{long / ours:.1f}", target)


def head(*cells: str) -> None:
    print()
    row(*cells)
    row(*("---" for _ in cells))


# ---------------------------------------------------------------------------------------------- phases


def train(load: Workload, repeats: int, target: str) -> None:
    took = alternate({"long": load.long_step, "ours": load.step}, repeats)
    ratio(f"training step, {len(load.task.classes)} prompts", took, target)
    rate = product_rate(torch.float32, CPU)
    flop = {"long": counted(load.long_step), "ours": counted(load.step)}
    for name in ("long", "ours"):
        share = flop[name] / took[name] / rate
        print(f"  {name}: {flop[name]:.0f} GFLOP, {share:.0%} of {rate:.0f} GFLOP/s", flush=True)


def gradient(load: Workload, repeats: int, target: str) -> None:
    load.detach()
    count = len(load.batches)
    pairs = {
        "long": lambda: load.long.gradient_pass(load.batches[:1], load.data.tokens),
        "ours": lambda: mean_gradient(load.clip, load.data, load.method.targets),
    }
    took = alternate(pairs, repeats)
    ratio(f"gradient pass of {count} batches, per batch", {**took, "ours": took["ours"] / count}, target)
    print(f"  long: {counted(pairs['long']):.0f} GFLOP, ours: {counted(pairs['ours']) / count:.0f} GFLOP", flush=True)
    load.attach(load.long.rank)


@torch.no_grad()
def evaluate(load: Workload, repeats: int, target: str, batches: int = 125) -> None:
    load.detach()
    pixels = load.batches[0][0]
    space = label_space("task", [load.task], 1, 0)
    assert space is not None
    classifier = load.method.classifier(space)
    pairs = {
        "long": lambda: load.long.logits(pixels, load.data.tokens),
        "batch": lambda: classifier(pixels),
        "texts": lambda: load.method.classifier(space),
    }
    took = alternate(pairs, repeats)
    whole = {"long": took["long"], "ours": took["batch"] + took["texts"] / batches}
    ratio(f"evaluation batch, {len(load.task.classes)} prompts, {batches} batches a test set", whole, target)
    rate = product_rate(torch.float32, CPU)
    flop, long = counted(pairs["batch"]), counted(pairs["long"])
    share = flop / took["batch"] / rate
    print(f"  long: {long:.0f} GFLOP, ours: {flop:.0f} GFLOP, {share:.0%} of {rate:.0f} GFLOP/s", flush=True)
    load.attach(load.long.rank)


@torch.no_grad()
def features(load: Workload, repeats: int) -> None:
    load.detach()
    count = len(load.batches)
    pairs = {
        "long": lambda: load.long.feature_pass(load.batches[:1], load.data.tokens),
        "ours": lambda: second_moments(load.clip, load.data, load.method.targets),
    }
    took = alternate(pairs, repeats)
    ratio(f"feature pass of {count} batches, per batch", {**took, "ours": took["ours"] / count}, "")
    load.attach(load.long.rank)


@torch.no_grad()
def subspace(load: Workload, target: str) -> None:
    load.detach()
    load.long.bases = {name: basis.float() for name, basis in load.method.bases.items()}
    load.long.feature_pass(load.batches, load.data.tokens)
    start = time.perf_counter()
    load.long.subspace_update(0.99)
    took = {"long": time.perf_counter() - start}
    took["ours"] = _phase(load, lambda: load.method.end_task(load.data), "subspace update")
    ratio(f"subspace update after a task, {load.batch} images a batch", took, target)
    load.attach(load.long.rank)


@torch.no_grad()
def weights(load: Workload, repeats: int, target: str) -> None:
    took = alternate(
        {
            "long": lambda: load.long.weight_subspaces(ENERGY),
            "ours": lambda: load.method.protect_weights(),
        },
        repeats,
    )
    ratio("weight subspace, once", took, target)


def _phase(load: Workload, work: Callable[[], Any], name: str) -> float:
    """Seconds of a named part of what a method does."""
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(part: str) -> Any:
        start = time.perf_counter()
        yield
        seconds[part] = time.perf_counter() - start

    before = load.method.context
    load.method.context = Context(1, load.batch, 0, 0, "task", lambda text: None, phase)
    work()
    load.method.context = before
    return seconds[name]


def updates(load: Workload, repeats: int) -> None:
    """The four updated maps of a block: summed with the weight, or separate products, for images and for texts."""
    head("tokens", "separate products", "summed with the weight", "ratio")
    block = load.clip.model.visual.transformer.resblocks[1]
    site = block.attn.qkv
    factors = {m.name: m.update for m in site.maps}

    def separate(x: Tensor) -> Tensor:
        y = F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias)
        parts = [F.linear(F.linear(x, u.A), u.scale * u.B) for u in factors.values()]  # type: ignore[union-attr]
        return y + torch.cat(parts, dim=-1)

    def summed(x: Tensor) -> Tensor:
        return linear(site, x, block.attn.in_proj_weight, block.attn.in_proj_bias)

    for tokens in (8, 64, 512, 1576, 12608):
        x = torch.randn(1, tokens, site.width).requires_grad_(True)
        took = alternate(
            {"long": lambda x=x: separate(x).sum().backward(), "ours": lambda x=x: summed(x).sum().backward()}, repeats
        )
        row(
            tokens, f"{took['long'] * 1e3:.1f} ms", f"{took['ours'] * 1e3:.1f} ms", f"{took['long'] / took['ours']:.2f}"
        )


def memory(arguments: argparse.Namespace) -> None:
    """Peak memory of two training steps, each way in a process of its own."""
    peaks = {}
    for way in ("long", "ours"):
        words = [sys.executable, str(HERE / "performance.py"), f"peak-{way}", "--model", arguments.model]
        words += ["--classes", str(arguments.classes), "--batch", str(arguments.batch)]
        peaks[way] = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])
    row(
        "peak memory of training",
        f"{peaks['long'] / 1e3:.2f} GB",
        f"{peaks['ours'] / 1e3:.2f} GB",
        f"{peaks['ours'] / peaks['long']:.2f}",
        "<= 0.40",
    )


def peak(arguments: argparse.Namespace, way: str) -> None:
    """Print the peak memory of a process that makes two training steps of one way."""
    load = Workload(arguments.model, arguments.classes, arguments.batch, 1)
    for _ in range(2):
        load.long_step() if way == "long" else load.step()
    print(peak_memory_mb(CPU))


@torch.no_grad()
def precision(load: Workload, repeats: int) -> None:
    """Evaluation in bf16 beside fp32."""
    load.detach()
    pixels = load.batches[0][0]
    space = label_space("task", [load.task], 1, 0)
    assert space is not None
    classifier = load.method.classifier(space)

    def low() -> Tensor:
        with load.clip.computing("bf16"):
            return classifier(pixels)

    took = alternate({"long": lambda: classifier(pixels), "ours": low}, repeats)
    head("evaluation batch", "fp32", "bf16", "ratio", "target")
    ratio(f"{load.batch} images", took, ">= 2")
    rates = [product_rate(dtype, CPU) for dtype in (torch.float32, torch.bfloat16)]
    print(f"  products of matrices: {rates[0]:.0f} and {rates[1]:.0f} GFLOP/s", flush=True)
    load.attach(load.long.rank)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*")
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--many", type=int, default=397, help="prompts of the second workload")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    known = {
        "train",
        "gradient",
        "evaluate",
        "features",
        "weights",
        "subspace",
        "memory",
        "precision",
        "updates",
        "many",
    }
    unknown = set(arguments.phases) - known - {"peak-long", "peak-ours"}
    if unknown:
        parser.error(f"unknown phase {', '.join(sorted(unknown))}: choose from {', '.join(sorted(known))}")
    wanted = arguments.phases or ["train", "gradient", "evaluate", "features", "weights", "subspace", "memory"]
    wanted = wanted if arguments.phases else [*wanted, "many", "precision", "updates"]
    for way in ("long", "ours"):
        if wanted == [f"peak-{way}"]:
            peak(arguments, way)
            return
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.model}, fp32")
    load = Workload(arguments.model, arguments.classes, arguments.batch, 4)
    repeats = arguments.repeats
    head("phase", "the long way", "this suite", "ratio", "target")
    table: dict[str, Callable[[], None]] = {
        "train": lambda: train(load, repeats, ">= 3.0"),
        "gradient": lambda: gradient(load, repeats, ">= 4.2"),
        "evaluate": lambda: evaluate(load, repeats, ">= 4"),
        "features": lambda: features(load, repeats),
        "weights": lambda: weights(load, repeats, ">= 2"),
        "subspace": lambda: subspace(load, ">= 15"),
        "memory": lambda: memory(arguments),
        "precision": lambda: precision(load, repeats),
        "updates": lambda: updates(load, repeats),
    }
    for name in table:
        if name in wanted:
            table[name]()
    if "many" in wanted:
        load = Workload(arguments.model, arguments.many, arguments.batch, 1)
        head("phase", "the long way", "this suite", "ratio", "target")
        train(load, repeats, ">= 3.8")
        evaluate(load, repeats, ">= 9")


if __name__ == "__main__":
    main()

"""Measures the suite against KeepLoRA the long way, both in one run: python docs/benchmarks/performance.py [PHASE ...]

Phases: train, fit, gradient, evaluate, features, weights, subspace, memory, precision, updates, and many (train and
evaluate with more prompts); all of them by default. The model and the prompts are such as users have: QuickGELU, and
templates that end with the kind of thing. Long way and suite take turns, and the faster of their measurements counts:
noise only adds. With --write, what is measured of all phases becomes the first table of docs/performance.md; measure on
cores that do nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from long_way import LongWay
from torch import Tensor

from bench.compute.device import peak_memory_mb, processor
from bench.config import registry
from bench.config.run_settings import Train
from bench.data.images import ArrayImages
from bench.data.pixels import Pixels
from bench.data.stream import Task, label_space
from bench.learning.costs import counted, product_rate, step_of
from bench.learning.moments import mean_gradient, second_moments
from bench.learning.optimizer import build_optimizer, build_schedule
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.model.pretrained import load_open_clip
from bench.model.updates import linear

HERE = Path(__file__).parent
PAGE = HERE.parent / "performance.md"
MARKS = ("<!-- measured, made by docs/benchmarks/performance.py -->", "<!-- end of measured -->")
"""What stands between them in the page is written by this script."""

TEMPLATE = "a photo of a {}, a type of flower."
"""The prompts of half of MTIL's datasets end like this: 5 common tokens and then 8 to 10 of each class."""

HEADER = ("phase", "the long way", "this suite", "ratio", "by operations", "aim")
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
        self.task = Task("noise", classes_of(classes), TEMPLATE, images, images)
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
        self.optimizer = build_optimizer(self.method.parameters(), Train())
        self.long_optimizer = torch.optim.AdamW(self.long_trained(), lr=Train().lr)

    def long_trained(self) -> list[Tensor]:
        return [B for _, B in self.long.updates.values()]

    def detach(self) -> None:
        self.long.updates = {}
        for m in self.clip.maps.values():
            m.update = None

    # ---- the same work twice

    def long_step(self) -> None:
        self.long_optimizer.zero_grad(set_to_none=True)
        self.long.loss(*self.batches[0], self.data.tokens).backward()
        self.long_optimizer.step()

    def step(self) -> None:
        self.method.train_step(step_of(self.method, self.batches[0], self.data, self.optimizer))

    def long_fit(self) -> None:
        """One pass over the images in random order: batches are made, and the learning rate has a schedule."""
        budget = Train(batch_size=self.batch, epochs=1)
        optimizer = torch.optim.AdamW(self.long_trained(), lr=budget.lr)
        schedule = build_schedule(optimizer, budget, len(self.batches), len(self.batches))
        images = self.data.train
        for chosen in torch.randperm(len(images)).split(self.batch):
            optimizer.zero_grad(set_to_none=True)
            labels = images.labels[chosen].to(self.clip.device)
            self.long.loss(self.clip.normalize(images.uint8(chosen)), labels, self.data.tokens).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()

    def fit(self) -> None:
        """One pass over the images as a run makes it."""
        budget = self.data.budget = Train(batch_size=self.batch, epochs=1)
        self.method.fit(self.data, budget, lambda: None, lambda report: None)


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


LINES: list[tuple[str, ...]] = []
"""What has been measured, for the page."""


def ratio(title: str, took: dict[str, float], target: str, flop: dict[str, float] | None = None) -> None:
    """A line of the first table, with the ratio of the operations where they are counted."""
    long, ours = took["long"], took["ours"]
    operations = "" if flop is None else f"{flop['long'] / flop['ours']:.2f}"
    cells = (title, f"{long:.2f} s", f"{ours:.2f} s", f"{long / ours:.1f}", operations, target)
    LINES.append(cells)
    row(*cells)


def written(page: str, about: str) -> str:
    """Return the page with a sentence about the machine and the new lines between its marks."""
    start, end = (page.index(mark) for mark in MARKS)
    table = [HEADER, ("---",) * len(HEADER), *LINES]
    lines = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
    return f"{page[: start + len(MARKS[0])]}\n{about}\n\n{lines}\n{page[end:]}"


def head(*cells: str) -> None:
    print()
    row(*cells)
    row(*("---" for _ in cells))


# ---------------------------------------------------------------------------------------------- phases


def train(load: Workload, repeats: int, target: str) -> None:
    took = alternate({"long": load.long_step, "ours": load.step}, repeats)
    flop = {"long": counted(load.long_step), "ours": counted(load.step)}
    ratio(f"training step with its optimiser, {len(load.task.classes)} prompts", took, target, flop)
    rate = product_rate(torch.float32, CPU)
    for name in ("long", "ours"):
        share = flop[name] / took[name] / rate
        print(f"  {name}: {flop[name]:.0f} GFLOP, {share:.0%} of {rate:.0f} GFLOP/s", flush=True)


def fit(load: Workload, repeats: int, target: str) -> None:
    """Training as a run does it: batches are drawn, the learning rate follows its schedule, losses are watched."""
    count = len(load.batches)
    took = alternate({"long": load.long_fit, "ours": load.fit}, repeats)
    ratio(f"fit of {count} steps, a step", {name: seconds / count for name, seconds in took.items()}, target)
    load.attach(load.long.rank)  # training ends with parameters that require no gradient


def gradient(load: Workload, repeats: int, target: str) -> None:
    load.detach()
    count = len(load.batches)
    pairs = {
        "long": lambda: load.long.gradient_pass(load.batches[:1], load.data.tokens),
        "ours": lambda: mean_gradient(load.clip, load.data, load.method.targets),
    }
    took = alternate(pairs, repeats)
    flop = {"long": counted(pairs["long"]), "ours": counted(pairs["ours"]) / count}
    ratio(f"gradient pass of {count} batches, a batch", {**took, "ours": took["ours"] / count}, target, flop)
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
    rate = product_rate(torch.float32, CPU)
    batch, long = counted(pairs["batch"]), counted(pairs["long"])
    flop = {"long": long, "ours": batch + counted(pairs["texts"]) / batches}
    title = f"evaluation batch, {len(load.task.classes)} prompts, in a test set of {batches} batches"
    ratio(title, whole, target, flop)
    share = batch / took["batch"] / rate
    print(f"  long: {long:.0f} GFLOP, ours: {batch:.0f} GFLOP, {share:.0%} of {rate:.0f} GFLOP/s", flush=True)
    load.attach(load.long.rank)


@torch.no_grad()
def features(load: Workload, repeats: int, image: str, whole: str) -> None:
    """The statistics of a task's images alone, and with those of its texts: the same batches on both sides."""
    load.detach()
    count, targets = len(load.batches), load.method.targets
    images = [m for m in targets if m.tower == "image"]
    parts = {
        "feature pass, a batch of images": (None, images, count, image),
        f"feature pass of {count} batches and the texts": (load.data.tokens, targets, 1, whole),
    }
    for title, (tokens, maps, share, target) in parts.items():
        pairs: dict[str, Callable[[], Any]] = {
            "long": partial(load.long.feature_pass, load.batches, tokens),
            "ours": partial(second_moments, load.clip, load.data, maps),
        }
        took = {name: seconds / share for name, seconds in alternate(pairs, repeats).items()}
        ratio(title, took, target, {name: counted(work) for name, work in pairs.items()})
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
    long, ours = (f"{peaks[way] / 1e3:.2f} GB" for way in ("long", "ours"))
    LINES.append(("peak memory of training", long, ours, f"{peaks['ours'] / peaks['long']:.2f}", "", "<= 0.40"))
    row(*LINES[-1])


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
    head("evaluation batch", "fp32", "bf16", "ratio", "aim")
    long, ours = took["long"], took["ours"]
    row(f"{load.batch} images", f"{long:.3f} s", f"{ours:.3f} s", f"{long / ours:.2f}", ">= 2")
    rates = [product_rate(dtype, CPU) for dtype in (torch.float32, torch.bfloat16)]
    print(f"  products of matrices: {rates[0]:.0f} and {rates[1]:.0f} GFLOP/s", flush=True)
    load.attach(load.long.rank)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*")
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--many", type=int, default=397, help="prompts of the second workload")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"put the first table into {PAGE.name}")
    arguments = parser.parse_args()
    known = {
        "train",
        "fit",
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
    if arguments.write and arguments.phases:
        parser.error("--write puts the whole table into the page: name no phases")
    wanted = arguments.phases or ["train", "fit", "gradient", "evaluate", "features", "weights", "subspace", "memory"]
    wanted = wanted if arguments.phases else [*wanted, "many", "precision", "updates"]
    for way in ("long", "ours"):
        if wanted == [f"peak-{way}"]:
            peak(arguments, way)
            return
    about = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.model}, fp32"
    print(about)
    load = Workload(arguments.model, arguments.classes, arguments.batch, 4)
    repeats = arguments.repeats
    head(*HEADER)
    table: dict[str, Callable[[], None]] = {
        "train": lambda: train(load, repeats, ">= 3.0"),
        "fit": lambda: fit(load, repeats, ">= 3.0"),
        "gradient": lambda: gradient(load, repeats, ">= 4.2"),
        "evaluate": lambda: evaluate(load, repeats, ">= 4"),
        "features": lambda: features(load, repeats, ">= 1.6", ">= 2.5"),
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
        head(*HEADER)
        train(load, repeats, ">= 3.8")
        evaluate(load, repeats, ">= 9")
    if arguments.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), f"{about}, {repeats} repeats."), encoding="utf-8")


if __name__ == "__main__":
    main()

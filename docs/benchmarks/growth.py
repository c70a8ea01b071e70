"""Time and memory against tasks, classes, rank and width: python docs/benchmarks/growth.py [tasks classes rank width]

A slope of 1 means: ten times as much of it takes ten times as long.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import open_clip
import torch

from bench.compute.device import peak_memory_mb
from bench.config import registry
from bench.config.fields import setting
from bench.config.registry import register
from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.data.images import ArrayImages
from bench.data.pixels import Pixels
from bench.data.stream import Stream, Task
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.runs.run import run

CLASSES, TRAIN, TEST = 8, 8, 4
"""Classes of a task; training and test images of a class."""


@register("stream", "repeated", title="Small parts of the embedded tasks, again and again under new names")
class Repeated(Stream):
    """As many tasks as wanted; only their names and their images differ."""

    @dataclasses.dataclass
    class Settings:
        count: int = setting(100, "number of tasks", low=1)

    defaults = {"train.epochs": 1, "train.batch_size": 16}

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        pocket: Any = registry.load("stream", "pocket")
        parts: list[Task] = pocket(pocket.Settings(), None, 0).tasks
        return [_part(parts[number % len(parts)], number) for number in range(self.settings.count)]


def _part(task: Task, number: int) -> Task:
    """Some classes and images of a task, others for every number."""
    classes = [(number + place) % len(task.classes) for place in range(CLASSES)]

    def images(of: Any, count: int) -> ArrayImages:
        chosen = []
        for label in classes:
            own = np.flatnonzero(of.labels == label)
            chosen += [own[(number + place) % len(own)] for place in range(count)]
        return ArrayImages(of.pixels[chosen], np.repeat(np.arange(CLASSES), count))

    names = tuple(task.classes[label] for label in classes)
    train, test = images(task.train, TRAIN), images(task.test, TEST)
    return dataclasses.replace(
        task, name=f"{task.name}-{number}", classes=names, train=train, test=test, validation=None
    )


def slope(xs: Sequence[float], ys: Sequence[float]) -> str:
    """How fast y grows between the last two x, as an exponent."""
    return f"{math.log(ys[-1] / ys[-2]) / math.log(xs[-1] / xs[-2]):.2f}"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    print(f"\n{title}\n")
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def tasks() -> None:
    """A stream of 100 tasks: what one of them takes, and what is kept."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["method=keeplora", f"stream={__file__}", "track.wandb=off", "cache.gb=0", "checkpoint.final=false"]
        with redirect_stdout(io.StringIO()):  # a matrix of ten thousand cells
            directory = run(resolve([*words, f"out={folder}"]))
        events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rows = {event["row"]: event for event in events if event["event"] == "row"}
    shown = [
        (
            number,
            f"{rows[number]['seconds']:.2f} s",
            f"{rows[number]['seconds'] / len(rows):.3f} s",
            f"{rows[number]['peak_memory_mb']:.0f} MB",
            f"{rows[number]['stored_bytes'] / 1e6:.2f} MB",
        )
        for number in (1, 10, 25, 50, 75, 100)
    ]
    heads = ("task", "seconds, all test sets measured", "per test set", "peak memory so far", "remembered")
    table("A stream of 100 tasks, KeepLoRA on the embedded model", heads, shown)


def measured(clip: Clip, classes: int, rank: int, batch: int = 16, steps: int = 4) -> dict[str, float]:
    """Seconds of a training step and of KeepLoRA's phases, on noise; megabytes that it remembers."""
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Any:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    height, width = clip.image_size
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch * steps, height, width, 3), dtype=np.uint8)
    images = ArrayImages(pixels, rng.integers(0, classes, batch * steps))
    prompts = tuple(f"a picture of {number}" for number in range(classes))
    context = Context(1, batch, 0, 0, "task", lambda text: None, phase)
    data = TaskData(0, "noise", prompts, clip.tokenize(prompts), Pixels(images, clip, True), context)
    cls: Any = registry.load("method", "keeplora")
    method = cls(cls.Settings(rank=rank), clip, context)
    method.begin_task(data)
    marks = [time.perf_counter()]
    method.fit(data, Train(epochs=2, batch_size=batch), lambda: marks.append(time.perf_counter()), lambda report: None)
    method.end_task(data)
    seconds["training step"] = min(after - before for before, after in itertools.pairwise(marks))
    return {**seconds, "remembered": method.stored_bytes() / 1e6}


def model(width: int = 128, layers: int = 2) -> Clip:
    """A CLIP with random weights and towers of some width."""
    text = {"context_length": 16, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}
    vision = {"image_size": 64, "patch_size": 8, "width": width, "layers": layers, "head_width": 64}
    built = open_clip.CLIP(embed_dim=width, vision_cfg=vision, text_cfg=text)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Clip(built, tokenizer, {"size": 64, "mean": (0.5,) * 3, "std": (0.3,) * 3}, "synthetic", cut_prompts=True)


PHASES = ("weight subspace", "gradient pass", "initialisation", "training step", "feature pass", "subspace update")


def against(title: str, name: str, values: Sequence[int], make: Callable[[int], dict[str, float]]) -> None:
    """One table: every phase for every value, and how fast each grows at the end."""
    make(values[0])  # warms up
    found = [make(value) for value in values]
    rows: list[list[Any]] = []
    for phase in (*PHASES, "remembered"):
        ys = [one[phase] for one in found]
        unit = "{:.1f} MB" if phase == "remembered" else "{:.3f} s"
        rows.append([phase, *(unit.format(y) for y in ys), slope(values, ys)])
    table(title, (name, *map(str, values), "slope at the end"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="*", default=["tasks", "classes", "rank", "width"])
    wanted = parser.parse_args().wanted
    torch.manual_seed(0)
    if "tasks" in wanted:
        tasks()
    if "classes" in wanted:
        against("Classes", "classes", (10, 100, 1000), lambda n: measured(model(), n, 16))
    if "rank" in wanted:
        against("Rank", "rank", (4, 16, 64, 256), lambda n: measured(model(256), 20, n))
    if "width" in wanted:
        against("Width of both towers", "width", (128, 256, 512, 1024), lambda n: measured(model(n), 20, 16))
    print(f"\nlargest memory of this process: {peak_memory_mb(torch.device('cpu')):.0f} MB")


if __name__ == "__main__":
    main()

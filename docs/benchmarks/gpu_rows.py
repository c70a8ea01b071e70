"""What a method costs on a device: images a second of training, passes and evaluation, memory, waiting, kernels."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_checks import METHODS
from PIL import Image
from torch import Tensor

from bench.compute.device import deterministic
from bench.config import registry
from bench.config.run_settings import Train
from bench.data.pixel_cache import PixelCache
from bench.data.pixels import Pixels
from bench.data.stream import Task, label_space
from bench.learning.costs import counted, step_of
from bench.learning.evaluate import outcomes
from bench.learning.method import Method
from bench.learning.moments import mean_gradient, second_moments
from bench.learning.optimizer import build_optimizer, tensors_of
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.model.pretrained import load_open_clip
from bench.trials.toy import tiny_clip

TINY = "tiny"
"""The model of tests, two blocks a tower."""

MOST = 30
"""Calls or steps after which enough is measured."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes
    ----------
    models : sequence of str
        Of open_clip, or `TINY`, with random weights. Those of OpenAI's weights have QuickGELU.
    batch, classes, rank : int
    train, passes, test : int
        Batches of an epoch of training, of a gradient or feature pass, and of a test set.
    fewest : int
        Steps or calls of one measurement.
    enough : float
        Seconds after which a measurement ends, if it has these.
    """

    models: Sequence[str]
    batch: int
    classes: int
    rank: int
    train: int
    passes: int
    test: int
    fewest: int
    enough: float


OPENAI = ("ViT-B-16-quickgelu", "ViT-L-14-quickgelu")

SIZES = {
    "full": Size(OPENAI, 64, 100, 16, train=MOST, passes=4, test=8, fewest=5, enough=1.0),
    "small": Size((TINY,), 4, 5, 4, train=3, passes=2, test=2, fewest=2, enough=0.0),
}


class Noise:
    """Images of noise, each drawn when it is opened; what is decoded is kept by the cache, as that of files is."""

    def __init__(self, count: int, classes: int, size: tuple[int, int]):
        self.labels = np.arange(count, dtype=np.int64) % classes
        self.digest = f"noise {count} {classes} {size}"
        self.size = size

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (*self.size, 3), dtype=np.uint8))


class Held(Pixels):
    """One batch, which lies on the device already, again and again."""

    def __init__(self, pixels: Pixels, batch: tuple[Tensor, Tensor]):
        super().__init__(pixels.images, pixels.clip, False)
        self.batch = batch

    def take(self, planned: Sequence[Tensor], read: Any = None) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batch for _ in planned)


class Bench:
    """A model with random weights, a task of noise whose images are in the cache of decoded images, and methods.

    Attributes
    ----------
    clip : Clip
    data, held, few : TaskData
        The task; the same with one batch that is on the device; with the images of a pass alone.
    batch : tuple of Tensor
        That batch.
    """

    def __init__(self, model: str, size: Size, device: torch.device, folder: Path):
        self.model, self.size, self.device = model, size, device
        self.clip = self._load(model).to(device)
        self.cache = PixelCache(folder, 10**12, lambda line: None)
        prompts = [f"thing {number}" for number in range(size.classes)]
        train, few, self.test = (self._images(batches) for batches in (size.train, size.passes, size.test))
        self.task = Task("noise", tuple(prompts), "a photo of a {}.", train.images, self.test.images)
        self.context = Context(1, size.batch, 0, 0, say=lambda line: None)
        self.batch = next(train.batches(size.batch))
        self.data, self.held, self.few = (self._data(one) for one in (train, Held(train, self.batch), few))
        self.kept: tuple[str, Method] | None = None
        self.operations: dict[str, float] = {}
        self.begun = ""

    @staticmethod
    def _load(model: str) -> Clip:
        return tiny_clip() if model == TINY else load_open_clip(model, weights="random")

    def _images(self, batches: int) -> Pixels:
        pixels = Pixels(
            Noise(batches * self.size.batch, self.size.classes, self.clip.image_size), self.clip, False, self.cache
        )
        pixels.uint8(torch.tensor([0]))  # fills the cache
        return pixels  # fmt: skip

    def _data(self, images: Pixels) -> TaskData:
        tokens = self.clip.tokenize(self.task.prompts)
        return TaskData(0, "noise", self.task.prompts, tokens, images, self.context)

    def method(self, name: str) -> Method:
        """Return a method; what it does before the first task is done again where another one came between.

        One at a time is kept, so that the memory of another one does not count.
        """
        if self.kept is None or self.kept[0] != name:
            self.kept = None
            cls: Any = registry.load("method", name)
            self.kept = (name, cls(cls.Settings(rank=self.size.rank), self.clip, self.context))
        return self.kept[1]

    def end(self) -> None:
        """Merge what was trained."""
        self.begun = ""
        with torch.no_grad():
            self.clip.merge()

    def begin(self, name: str) -> Method:
        """Return a method whose task has begun."""
        if self.begun != name:
            self.end()
            self.method(name).begin_task(self.few)
            self.begun = name
        return self.method(name)

    # ---- how it is measured

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def computing(self, precision: str, exact: bool = True) -> Iterator[None]:
        """Compute as a run does, with deterministic kernels or with the fastest ones."""
        with deterministic(None, precision == "tf32", exact), self.clip.computing(precision):
            yield

    def seconds(self, work: Callable[[], Any]) -> float:
        """The median of calls that begin and end with an idle device, after one that warms up."""
        took: list[float] = []
        work()
        while len(took) < self.size.fewest or (sum(took) < self.size.enough and len(took) < MOST):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            took.append(time.perf_counter() - start)
        return statistics.median(took)

    def peak(self, work: Callable[[], Any]) -> tuple[Any, float | None]:
        """What some work returns, and its largest memory in bytes, weights included; None where it is not known."""
        if self.device.type != "cuda":
            return work(), None
        torch.cuda.reset_peak_memory_stats(self.device)
        found = work()
        return found, torch.cuda.max_memory_allocated(self.device)

    def step_seconds(self, method: Method, data: TaskData, steps: int) -> float:
        """Seconds a step of so many, trained as a run trains them."""
        data.budget = self.train(steps)
        self.wait()
        start = time.perf_counter()
        method.fit(data, data.budget, lambda: None, lambda report: None)
        self.wait()
        return (time.perf_counter() - start) / steps

    def train(self, steps: int) -> Train:
        return Train(steps=steps, batch_size=self.size.batch, lr=1e-6, schedule="constant")

    @contextmanager
    def stepping(self, method: Method) -> Iterator[Callable[[], None]]:
        """What makes a single step of training, optimiser included, after one that warms up."""
        given = method.parameters()
        with self.clip.trainable(tensors_of(given)):
            optimizer = build_optimizer(given, self.train(1))

            def step() -> None:
                method.train_step(step_of(method, self.batch, self.data, optimizer))

            step()
            yield step

    def launched(self, method: Method) -> int | None:
        """How many kernels a step launches; None where torch's profiler sees none, as on the CPU."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library reports its start and its stop
        with self.stepping(method) as step, torch.profiler.profile() as profile:
            step()
            self.wait()
        return sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key) or None

    def operations_of(self, name: str, method: Method) -> float:
        """Floating-point operations of a training step, which no precision changes."""
        if name not in self.operations:
            with self.stepping(method) as step:
                self.operations[name] = counted(step) * 1e9
        return self.operations[name]

    # ---- what is measured

    def training(self, name: str, precision: str) -> dict[str, float | None]:
        """Training of a method, with deterministic kernels as by default, and with any."""
        method, size = self.begin(name), self.size
        with self.computing(precision):
            self.step_seconds(method, self.data, 2)
            first = self.step_seconds(method, self.data, 2)
            steps = max(size.fewest, min(MOST, round(size.enough / first)))
            took, memory = self.peak(lambda: self.step_seconds(method, self.data, steps))
            held = self.step_seconds(method, self.held, steps)
            launched = self.launched(method)
            operations = self.operations_of(name, method)
        with self.computing(precision, exact=False):
            self.step_seconds(method, self.data, 2)
            free = self.step_seconds(method, self.data, steps)
        return {
            "images a second": size.batch / took,
            "images a second, any kernels": size.batch / free,
            "operations a second": operations / took,
            "memory": memory,
            "waiting": max(0.0, 1 - held / took),
            "kernels a step": launched,
        }

    def evaluation(self, precision: str) -> dict[str, float | None]:
        """A whole test set, class features included; these methods have merged their updates by then."""
        self.end()
        method, space = self.method(METHODS[0]), label_space("task", [self.task], 1, 0)
        assert space is not None

        def work() -> None:
            outcomes("noise", method, method.classifier(space), self.test, space, self.size.batch)

        with self.computing(precision), torch.no_grad():
            return {"images a second": len(self.test) / self.seconds(work)}

    def passes(self, precision: str) -> dict[str, float | None]:
        """Gradient pass and feature pass over the maps that the methods adapt."""
        self.end()
        maps: Any = self.method(METHODS[0])
        found: dict[str, float | None] = {}
        for name, work in (("gradient pass", mean_gradient), ("feature pass", second_moments)):
            with self.computing(precision):
                took = self.seconds(lambda work=work: work(self.clip, self.few, maps.targets))
            found[name] = len(self.few.train) / took
        return found

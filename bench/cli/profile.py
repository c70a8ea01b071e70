"""What a method costs on a model: seconds by phase, memory, trained and stored numbers, on one synthetic task."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.compute.device import choose_device, deterministic, peak_memory_mb
from bench.config.resolve import resolve
from bench.config.run_settings import Resolved, run_settings
from bench.core.errors import UserError, suggest
from bench.core.stopwatch import Stopwatch
from bench.core.tables import table
from bench.data.images import ArrayImages
from bench.data.pixels import Pixels
from bench.data.stream import Task, label_space
from bench.learning.evaluate import outcomes
from bench.learning.task_data import Context, TaskData
from bench.runs.loading import load_model

SQUARE = 2048
"""Rows and columns of the matrices whose product stands for what a machine can do."""


def product_rate(dtype: torch.dtype, device: torch.device, seconds: float = 3.0) -> float:
    """Operations a second, in 1e9, of this machine in a product of two square matrices: the best within some time."""
    a, b = (torch.randn(SQUARE, SQUARE, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * SQUARE**3 / best / 1e9


def counted(work: Callable[[], Any]) -> float:
    """Floating-point operations of the products and of the attention in some work, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


SIZES = {"classes": 100, "batch": 8, "steps": 3}
"""Words of ``profile`` that are no settings of a run, with their defaults: prompts, images a step, training steps."""


def profile(words: Sequence[str]) -> str:
    """Take a method through one synthetic task and return a table of what it cost.

    Parameters
    ----------
    words : sequence of str
        ``method=NAME``, ``model=NAME`` and other settings as for a run; ``classes=N``, ``batch=N``, ``steps=N``;
        ``weights=random`` is short for ``model.weights=random``.

    Raises
    ------
    UserError
        For what a user can mend.
    """
    sizes, rest = _sizes(words)
    resolved = resolve([*rest, f"train.batch_size={sizes['batch']}", "train.epochs=1"])
    device = choose_device(resolved.run.device)
    with deterministic(resolved.run.threads, resolved.run.precision == "tf32"):
        return _profile(resolved, sizes, device)


def _sizes(words: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    sizes, rest = dict(SIZES), []
    for word in words:
        key, _, value = word.removeprefix("--").partition("=")
        if key == "weights":
            rest.append(f"model.weights={value}")
        elif key not in SIZES:
            known = run_settings()
            if "." not in key and key not in known and f"{key}.name" not in known:
                raise UserError(f'unknown word "{key}" of profile{suggest(key, [*SIZES, *known])}')
            rest.append(word)
        elif not value.isdecimal() or int(value) < (3 if key == "steps" else 1):
            raise UserError(f"{key}={value} must be a whole number from {3 if key == 'steps' else 1}")
        else:
            sizes[key] = int(value)
    return sizes, rest


def _profile(resolved: Resolved, sizes: dict[str, int], device: torch.device) -> str:
    watch, settings = Stopwatch(), resolved.run
    with watch.phase("load"):
        clip = load_model(resolved).to(device)
    height, width = clip.image_size
    count = sizes["batch"] * sizes["steps"]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(count) % sizes["classes"])
    classes = tuple(f"thing {number}" for number in range(sizes["classes"]))
    task = Task("synthetic", classes, "a photo of a {}.", images, images)
    said: list[str] = []
    context = Context(1, sizes["batch"], 0, 0, "task", said.append, watch.part)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), context)
    with watch.phase("before the first task"):
        method = resolved.method_class(resolved.method_settings, clip, context)
    with watch.phase("before training"):
        method.begin_task(data)
    steps: list[float] = []
    with watch.phase("training"), clip.computing(settings.precision):
        trained = method.fit(data, settings.train, lambda: steps.append(time.perf_counter()), lambda report: None)
    operations = {}
    if trained and method.parameters():
        with clip.computing(settings.precision), clip.trainable(method.parameters()):
            first = next(iter(data.train.batches(sizes["batch"])))
            operations["a training step"] = counted(lambda: method.loss(*first, data).backward())
    with watch.phase("after training"):
        method.end_task(data)
    space = label_space("task", [task], 1, 0)
    assert space is not None
    with watch.phase("evaluation"), clip.computing(settings.precision):
        test = Pixels(images, clip, True)
        classifier = method.classifier(space)
        outcomes("profile", method, classifier, test, space, settings.evaluate.batch_size)
    with clip.computing(settings.precision), torch.no_grad():
        one = next(iter(test.batches(1)))[0]
        operations["an image of evaluation"] = counted(lambda: classifier(one))
        rate = product_rate(clip.precision, device)
    parts = list(watch.parts.items())
    seconds = [*watch.seconds.items(), *((f"  {name}", value) for name, value in parts)]
    rows = [(name, f"{value:.2f} s") for name, value in seconds]
    step = (steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 0.0
    reached = {"a training step": step, "an image of evaluation": watch.seconds["evaluation"] / count}
    shares = {name: flop / reached[name] / rate for name, flop in operations.items() if reached[name]}
    rows += [
        ("one training step", f"{step:.3f} s"),
        ("one image of evaluation, class features included", f"{watch.seconds['evaluation'] / count * 1e3:.1f} ms"),
        *((f"operations of {name}", f"{flop:.3g} GFLOP") for name, flop in operations.items()),
        (f"operations a second in products of {SQUARE} x {SQUARE} matrices", f"{rate:.0f} GFLOP/s"),
        *((f"share of that in {name}", f"{share:.0%}") for name, share in shares.items()),
        ("peak memory", f"{peak_memory_mb(device) or 0:.0f} MB"),
        ("numbers of the model", f"{sum(p.numel() for p in clip.model.parameters()):,}"),
        ("trained on a task", f"{trained:,}"),
        ("kept after a task", f"{method.stored_numbers():,} ({method.stored_bytes() / 1e6:.1f} MB)"),
    ]
    head = (
        f"{settings.method} on {settings.model}, {device.type}, {torch.get_num_threads()} threads: {sizes['classes']} "
        f"classes, {sizes['steps']} steps of {sizes['batch']} images"
    )
    return "\n".join([head, *said, table(("what", "cost"), rows)])

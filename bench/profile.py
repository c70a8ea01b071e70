"""What a method costs on a model: seconds by phase, memory, trained and stored numbers, on one synthetic task."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from bench.config import Resolved, resolve, run_settings
from bench.errors import UserError, suggest
from bench.evaluate import outcomes
from bench.images import ArrayImages
from bench.listing import table
from bench.loading import load_model
from bench.method import Context, TaskData
from bench.pixels import Pixels
from bench.record import peak_memory_mb
from bench.run import choose_device, deterministic
from bench.session import Stopwatch
from bench.task import Task, label_space

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
    with watch.phase("after training"):
        method.end_task(data)
    space = label_space("task", [task], 1, 0)
    assert space is not None
    with watch.phase("evaluation"), clip.computing(settings.precision):
        test = Pixels(images, clip, True)
        outcomes("profile", method, method.classifier(space), test, space, settings.evaluate.batch_size)
    parts = list(watch.parts.items())
    seconds = [*watch.seconds.items(), *((f"  {name}", value) for name, value in parts)]
    rows = [(name, f"{value:.2f} s") for name, value in seconds]
    step = (steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 0.0
    rows += [
        ("one training step", f"{step:.3f} s"),
        ("one image of evaluation, class features included", f"{watch.seconds['evaluation'] / count * 1e3:.1f} ms"),
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

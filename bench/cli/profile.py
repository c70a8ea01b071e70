"""``python -m bench profile``: what a method costs on a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.cli.verb import Verb
from bench.config.words import Pair, split
from bench.core.errors import UserError, shorten, suggest

if TYPE_CHECKING:
    from bench.config.run_settings import Resolved
    from bench.core.stopwatch import Stopwatch
    from bench.learning.costs import Costs, Sizes

LARGEST = 1_000_000
"""The largest of these sizes."""

SMALLEST = {"classes": 1, "batch": 1, "steps": 3, "images": 1, "resolution": 1}
"""Words of ``profile`` that are no settings of a run, with their smallest values: prompts, images a step, steps,
training images, and height and width of an image in pixels."""

CORE = 5e10
"""Operations a second of one core, for the guess of how long it will take."""

START = 15
"""Seconds for torch, a model and the products that the machine is measured by, for the same guess."""


def call(words: list[str]) -> int:
    """Print what a method costs."""
    given, settings = _sizes(words)
    from bench.config.resolve import resolve  # a mistake in a setting must not wait for torch

    resolved = resolve(settings)
    if resolved.model_class is not None and "resolution" in given:
        raise UserError(f"model {resolved.run.model} has a resolution of its own: leave resolution out")
    print(_plan(resolved, given), flush=True)
    # torch comes with these.
    from bench.compute.device import choose_device, kernels
    from bench.core.stopwatch import Stopwatch
    from bench.learning.costs import Sizes, measure
    from bench.runs.loading import load_model

    device, watch, sizes = choose_device(resolved.run.device), Stopwatch(), Sizes(**given)

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        print(f"  {name} ...", file=sys.stderr, flush=True)
        with watch.phase(name):
            yield

    with kernels(resolved.run, device):
        with phase("load"):
            clip = load_model(resolved, sizes.resolution).to(device)
        costs = measure(clip, resolved.method_class, resolved.method_settings, resolved.run, sizes, watch, phase)
    print(_report(sizes, watch, costs, clip.image_size, device.type))
    return 0


def _plan(resolved: Resolved, given: Mapping[str, int]) -> str:
    """Say what is going to be measured and about how long that takes, before torch is imported."""
    from bench.config.catalogue import architectures, split
    from bench.recipes.sizes import towers

    classes, batch, steps = given.get("classes", 100), given.get("batch", 8), given.get("steps", 3)
    head = (
        f"{resolved.run.method} on {resolved.run.model}: one task of {classes} classes, {steps} steps of {batch} images"
    )
    if resolved.model_class is not None:
        return f"{head}; a registered model, how long it takes is not known before"
    config = architectures()[split(resolved.run.model)[0]].config
    count = given.get("images", batch * steps)
    size = towers(config, given.get("resolution"))
    # In forward passes: the first gradient and training are three each, statistics and evaluation one each.
    work = size.image * (3 * count + 3 * batch * steps + 3 * count) + size.prompt * classes * (3 * steps + 7)
    cores = resolved.run.threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    seconds = START + work / CORE / cores
    said = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    threads = f"{cores} CPU thread{'' if cores == 1 else 's'}"
    return f"{head}; about {said} on {threads}, less on a GPU, more where a method decomposes weights"


def _sizes(words: list[str]) -> tuple[dict[str, int], list[str]]:
    """Separate the sizes of the synthetic task from settings, as they are for a run."""
    from bench.config.run_settings import run_settings
    from bench.config.written import whole

    known = run_settings()
    pairs, plain = split(words)
    sizes: dict[str, int] = {}
    settings: list[str] = []
    for key, value, word in [*pairs, *(Pair(word, "", word) for word in plain)]:
        if key == "weights":
            settings.append(f"model.weights={value}")
        elif key not in SMALLEST:
            if "." not in key and key not in known and f"{key}.name" not in known:
                raise UserError(f'unknown word "{key}" of profile{suggest(key, [*SMALLEST, *known])}')
            settings.append(word)
        elif (number := whole(value)) is None or not SMALLEST[key] <= number <= LARGEST:
            raise UserError(f"{key}={shorten(value)} must be a whole number from {SMALLEST[key]} to {LARGEST:,}")
        else:
            sizes[key] = number
    return sizes, settings


def _report(sizes: Sizes, watch: Stopwatch, costs: Costs, image_size: tuple[int, int], device: str) -> str:
    import torch

    from bench.core.tables import table
    from bench.learning.costs import SQUARE

    rows = [
        *((name, f"{seconds:.2f} s") for name, seconds in watch.seconds.items()),
        *((f"  {name}", f"{seconds:.2f} s") for name, seconds in watch.parts.items()),
        ("one training step", f"{costs.step:.3f} s"),
        ("one image of evaluation, class features included", f"{costs.image * 1e3:.1f} ms"),
        *((f"operations of {name}", f"{count:.3g} GFLOP") for name, count in costs.operations.items()),
        (f"most operations a second, here or in {SQUARE} x {SQUARE} matrices", f"{costs.rate:.0f} GFLOP/s"),
        *((f"share of that in {name}", f"{share:.0%}") for name, share in costs.shares.items()),
        ("peak memory", f"{costs.peak_memory_mb or 0:.0f} MB"),
        ("numbers of the model", f"{costs.parameters:,}"),
        ("trained on a task", f"{costs.trained:,}"),
        ("kept after a task", f"{costs.stored_numbers:,} ({costs.stored_bytes / 1e6:.1f} MB)"),
    ]
    height, width = image_size
    head = (
        f"{device}, {torch.get_num_threads()} threads, {sizes.classes} classes, {sizes.trained_on} training images of "
        f"{height} x {width} pixels, {sizes.steps} steps of {sizes.batch} images"
    )
    return "\n".join([head, *costs.notes, table(("what", "cost"), rows)])


PROFILE = Verb(
    name="profile",
    summary="show what a method costs on a model: seconds by phase, memory, trained and stored numbers",
    usage="profile method=NAME [KEY=VALUE...]",
    help="""\
One synthetic task of noise images, on a model with its weights or with random ones, so that costs are known without
downloads. A method that forgets is asked to forget a fifth of the classes. weights=random is short for
model.weights=random. It says first about how long it takes, and on standard error what it is doing. Everything but
these sizes is as for a run:
  classes=N     prompts (100)
  batch=N       images a step (8)
  steps=N       training steps, at least 3 (3)
  images=N      training images (as many as the steps take); a head of class means needs one of every class
  resolution=N  height and width of an image in pixels (the model's own); open_clip's models only

examples
  python -m bench profile method=keeplora
  python -m bench profile method=keeplora model=ViT-B-16 weights=random classes=100 batch=8
  python -m bench profile method=lora model=ViT-B-16 weights=random classes=1000 batch=64 resolution=336
""",
    call=call,
)

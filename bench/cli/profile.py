"""``python -m bench profile``: what a method costs on a model."""

from __future__ import annotations

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

SMALLEST = {"classes": 1, "batch": 1, "steps": 3}
"""Words of ``profile`` that are no settings of a run, with their smallest values: prompts, images a step, steps."""


def call(words: list[str]) -> int:
    """Print what a method costs."""
    given, settings = _sizes(words)
    from bench.config.resolve import resolve  # a mistake in a setting must not wait for torch

    resolved = resolve(settings)
    # torch comes with these.
    from bench.compute.device import choose_device, deterministic
    from bench.core.stopwatch import Stopwatch
    from bench.learning.costs import Sizes, measure
    from bench.runs.loading import load_model

    device, watch, sizes = choose_device(resolved.run.device), Stopwatch(), Sizes(**given)
    with deterministic(resolved.run.threads, resolved.run.precision == "tf32"):
        with watch.phase("load"):
            clip = load_model(resolved).to(device)
        costs = measure(clip, resolved.method_class, resolved.method_settings, resolved.run, sizes, watch)
    print(_report(resolved, sizes, watch, costs, device.type))
    return 0


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


def _report(resolved: Resolved, sizes: Sizes, watch: Stopwatch, costs: Costs, device: str) -> str:
    import torch

    from bench.core.tables import table
    from bench.learning.costs import SQUARE

    rows = [
        *((name, f"{seconds:.2f} s") for name, seconds in watch.seconds.items()),
        *((f"  {name}", f"{seconds:.2f} s") for name, seconds in watch.parts.items()),
        ("one training step", f"{costs.step:.3f} s"),
        ("one image of evaluation, class features included", f"{costs.image * 1e3:.1f} ms"),
        *((f"operations of {name}", f"{count:.3g} GFLOP") for name, count in costs.operations.items()),
        (f"operations a second in products of {SQUARE} x {SQUARE} matrices", f"{costs.rate:.0f} GFLOP/s"),
        *((f"share of that in {name}", f"{share:.0%}") for name, share in costs.shares.items()),
        ("peak memory", f"{costs.peak_memory_mb or 0:.0f} MB"),
        ("numbers of the model", f"{costs.parameters:,}"),
        ("trained on a task", f"{costs.trained:,}"),
        ("kept after a task", f"{costs.stored_numbers:,} ({costs.stored_bytes / 1e6:.1f} MB)"),
    ]
    head = (
        f"{resolved.run.method} on {resolved.run.model}, {device}, {torch.get_num_threads()} threads: {sizes.classes} "
        f"classes, {sizes.steps} steps of {sizes.batch} images"
    )
    return "\n".join([head, *costs.notes, table(("what", "cost"), rows)])


PROFILE = Verb(
    name="profile",
    summary="show what a method costs on a model: seconds by phase, memory, trained and stored numbers",
    usage="profile method=NAME [KEY=VALUE...]",
    help="""\
One synthetic task of noise images, on a model with its weights or with random ones, so that costs are known without
downloads. classes=N prompts (100), batch=N images a step (8), steps=N training steps (3); weights=random is short for
model.weights=random; everything else as for a run.

examples
  python -m bench profile method=keeplora
  python -m bench profile method=keeplora model=ViT-B-16 weights=random classes=100 batch=8
""",
    call=call,
)

"""The tables of docs/performance.md that gpu.py writes, and the time that it has: nothing here needs a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gpu_checks import IMAGES, LOSS, METHODS, STOPPED, TESTED

from bench.compute.peaks import peak_rate
from bench.core.errors import UserError

MARKS = ("<!-- on a GPU, made by docs/benchmarks/gpu.py -->", "<!-- end of what gpu.py makes -->")
"""What stands between them in the page is written by this script."""

NOT_RUN = "This script was not run on a GPU yet."
NOT_MEASURED = "not measured"
NONE = "-"
"""What a cell says that a method does not have, or a device does not show."""

PASSES: Mapping[str, Sequence[str]] = {
    "lora": (),
    "keeplora": ("gradient pass", "feature pass"),
    "inflora": ("feature pass",),
}
"""The passes of a method over the images of a task, beside training."""

OF_PASSES = {"tf32": "tf32"}
"""The precision of the passes by that of the run: fp32 in all others."""

TITLES = {"keeplora": "KeepLoRA", "lora": "LoRA", "inflora": "InfLoRA"}

TRAINING = ("model", "precision", "method", "training", "with any kernels", "gradient pass", "feature pass",
    "evaluation", "share of the peak rate", "peak memory", "waits for data", "kernels a step")  # fmt: skip

LONG = ("model", "precision", "phase", "the long way", "this suite", "ratio")

Found = Mapping[str, Any]
"""By the name of a row: its numbers by name, or the reason why there are none."""


class Budget:
    """The seconds that are left; the longest piece of work so far says whether another one fits.

    Parameters
    ----------
    seconds : float
    clock : callable, optional
        Returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._start = clock, clock()
        self.seconds, self.longest = seconds, 0.0

    @property
    def spent(self) -> float:
        return self._clock() - self._start

    @property
    def fits(self) -> bool:
        return self.spent + self.longest < self.seconds

    @contextmanager
    def piece(self) -> Iterator[None]:
        """Note how long some work takes."""
        before = self.spent
        try:
            yield
        finally:
            self.longest = max(self.longest, self.spent - before)


def share_of_peak(rate: float, device: str, precision: str) -> float | None:
    """Return the share that a rate, in operations a second, has of a device's peak; None where that is not known."""
    peak = peak_rate(device, precision)
    return None if peak is None else rate / peak


def name_of(model: str, precision: str, what: str) -> str:
    """The name of a row of what was found."""
    return f"{model}, {precision}, {what}"


def shown_share(row: Any, device: str, precision: str) -> str:
    """The cell of the share of the peak rate."""
    if isinstance(row, str):
        return row
    share = share_of_peak(row["operations a second"], device, precision)
    return "?" if share is None else f"{share:.1%}"


def shown(row: Any, key: str, form: Callable[[float], str]) -> str:
    """A cell: a number, or why there is none."""
    if isinstance(row, str):
        return row
    value = row[key]
    return NONE if value is None else form(value)


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{number(value * 1e3)} ms"


def model_title(model: str) -> str:
    """ViT-B-16-quickgelu -> ViT-B/16."""
    vit, *rest = model.removesuffix("-quickgelu").rsplit("-", 1)
    return "/".join([vit, *rest])


def training_rows(found: Found, models: Sequence[str], precisions: Sequence[str], device: str) -> Iterator[list[str]]:
    """Yield the lines of the first table; each says of every number that is missing why."""
    for model in models:
        for precision in precisions:
            passes = found.get(name_of(model, OF_PASSES.get(precision, "fp32"), "passes"), NOT_MEASURED)
            tested = found.get(name_of(model, precision, "evaluation"), NOT_MEASURED)
            for method in METHODS:
                row = found.get(name_of(model, precision, method), NOT_MEASURED)
                yield [
                    model_title(model),
                    precision,
                    TITLES[method],
                    shown(row, "images a second", number),
                    shown(row, "images a second, any kernels", number),
                    *(
                        shown(passes, one, number) if one in PASSES[method] else NONE
                        for one in ("gradient pass", "feature pass")
                    ),
                    shown(tested, "images a second", number),
                    shown_share(row, device, precision),
                    shown(row, "memory", gigabytes),
                    shown(row, "waiting", lambda value: f"{value:.0%}"),
                    shown(row, "kernels a step", number),
                ]


def long_rows(found: Found, phases: Sequence[tuple[str, str, str]]) -> Iterator[list[str]]:
    """Yield the lines of the second table: model, precision and phase of each."""
    for model, precision, phase in phases:
        row = found.get(name_of(model, precision, phase), NOT_MEASURED)
        form = gigabytes if phase == "memory" else seconds
        both = [shown(row, way, form) for way in ("the long way", "this suite")]
        known = not isinstance(row, str) and None not in row.values()
        ratio = f"{row['the long way'] / row['this suite']:.1f}" if known else NONE
        yield [model_title(model), precision, phase, *both, ratio]


def table(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in ([*head], *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def section(about: Mapping[str, Any], found: Found, phases: Sequence[tuple[str, str, str]]) -> str:
    """Return what the page says: where it was measured, that it was right there, and both tables."""
    size = about["size"]
    losses, images = (max(one[key] for one in about["checks"].values()) for key in ("loss", "images"))
    return f"""\
Measured on one {about["device"]}, torch {about["torch"]}, in {about["seconds"]:.0f} s. Before that, the device was
compared with the CPU on the toy stream: the loss of a step differs by {losses:.1g} of it at most ({LOSS:g} is allowed),
and {images} of the {TESTED} answers in a cell of the matrix do ({IMAGES} is allowed). A run that was stopped after
{STOPPED} steps and started again ended with the same bits.

Images a second, in batches of {size["batch"]}, with {size["classes"]} prompts and rank {size["rank"]}:

{table(TRAINING, training_rows(found, about["models"], about["precisions"], about["device"]))}

KeepLoRA, the long way beside this suite, both with any kernels:

{table(LONG, long_rows(found, phases))}
"""


def counts(kind: str, found: Found) -> bool:
    """Return whether something was measured on a GPU, so that it belongs into the page."""
    return kind == "cuda" and any(not isinstance(row, str) for row in found.values())


def written(page: str, text: str) -> str:
    """Return a page with a text between the marks.

    Raises
    ------
    UserError
        If the marks are not in the page.
    """
    if not all(mark in page for mark in MARKS):
        raise UserError(f"the page has no line {MARKS[0]} or no line {MARKS[1]} after it: put both back")
    before, rest = page.split(MARKS[0], 1)
    return f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.split(MARKS[1], 1)[1]}"

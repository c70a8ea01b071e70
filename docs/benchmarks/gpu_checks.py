"""Does a device compute what the CPU computes? The toy stream on both, and a run that is stopped inside a task."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

from bench.config.resolve import resolve
from bench.core.signals import Stopped
from bench.learning.observers import Observation, Observers
from bench.record.results import read_matrix
from bench.runs.run import run

METHODS = ("lora", "keeplora", "inflora")

LOSS = 2e-4
"""The share by which the loss of a step may differ from the CPU's."""

IMAGES = 1
"""How many test images of a cell of the accuracy matrix may have another answer than on the CPU."""

TESTED = 24
"""Test images of a toy task."""

STOPPED = 5
"""Steps after which the run is stopped: in the second epoch of the first task."""

TOY = Path(__file__).parent.parent.parent / "tests" / "toy.py"

SETTINGS = ["stream.count=2", "method.rank=4", "train.optimizer=sgd", "train.lr=0.01"]
"""SGD, whose steps are in proportion to gradients. AdamW's first ones have full size, also where a gradient is only
rounding."""

Step = tuple[str, int, int]
"""Name of a task, epoch, step in it."""


class Broken(Exception):
    """A bound does not hold; the sentence says which."""


@dataclass
class Learned:
    """What a run computed: the loss of every step, and the accuracy matrix."""

    directory: Path
    losses: dict[Step, float] = field(default_factory=dict)

    def cells(self) -> list[list[float]]:
        """The accuracy matrix in percent: rows 0 to T of T test sets."""
        return read_matrix(self.directory).array().tolist()

    def same_files(self, other: Learned) -> bool:
        names = ("accuracy.csv", "outcomes.csv", "model.safetensors")
        return all((self.directory / name).read_bytes() == (other.directory / name).read_bytes() for name in names)


def learned(method: str, device: str, out: Path, stopped: int | None = None) -> Learned:
    """Make a run; perhaps it is stopped after some steps and started again."""
    line = [f"stream={TOY}", f"model={TOY}", f"method={method}", f"device={device}", f"out={out}", *SETTINGS]
    resolved = resolve([*line, "threads=1", "cache.gb=0", "track.wandb=off"])
    losses: dict[Step, float] = {}

    def hear(seen: Observation) -> None:
        losses[seen.task, seen.values["epoch"], seen.values["step"]] = float(seen.values["loss"])
        if len(losses) == stopped:
            signal.raise_signal(signal.SIGTERM)

    observers = Observers()
    observers.on("loss", hear)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            directory = run(resolved, observers=observers)
        except Stopped:
            directory = run(resolved, observers=observers)
    return Learned(directory, losses)


def farthest(method: str, device: str, found: Mapping[Step, float], expected: Mapping[Step, float]) -> float:
    """Return the largest difference of two losses of a step, as a share of the CPU's.

    Raises
    ------
    Broken
        If it is above `LOSS`.
    """
    most = 0.0
    for (task, epoch, step), loss in expected.items():
        other = found.get((task, epoch, step), nan)
        share = abs(other - loss) / abs(loss)
        if not share <= LOSS:
            raise Broken(
                f"{method}: the loss of step {step + 1} of epoch {epoch + 1} of {task} is {other:.7g} on {device} and "
                f"{loss:.7g} on the CPU, and they may differ by {LOSS:.2%}"
            )
        most = max(most, share)
    return most


def changed(method: str, device: str, found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> int:
    """Return the most test images of a cell that have another answer than on the CPU.

    Raises
    ------
    Broken
        If they are more than `IMAGES`.
    """
    most = 0
    for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for column, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            images = round(abs(one - other) * TESTED / 100)
            if images > IMAGES:
                raise Broken(
                    f"{method}: after task {row}, test set {column + 1} has {one:.2f} on {device} and {other:.2f} on "
                    f"the CPU, and {IMAGES} of its {TESTED} images may have another answer"
                )
            most = max(most, images)
    return most


def checks(device: str, folder: Path) -> Iterator[tuple[str, float, int]]:
    """Check every method; yield its name and its largest differences from the CPU: of a loss, and of images of a cell.

    Raises
    ------
    Broken
        If a bound does not hold, or a run that was stopped does not end with the bits of one that was not.
    """
    for method in METHODS:
        expected = learned(method, "cpu", folder / "cpu")
        straight = learned(method, device, folder / "device")
        losses = farthest(method, device, straight.losses, expected.losses)
        images = changed(method, device, straight.cells(), expected.cells())
        again = learned(method, device, folder / "again", stopped=STOPPED)
        if again.losses != straight.losses or not again.same_files(straight):
            raise Broken(
                f"{method}: a run on {device} that was stopped after {STOPPED} steps and started again does not end "
                "with the bits of one that was not"
            )
        yield method, losses, images

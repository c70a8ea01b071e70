"""Measures what every method costs beside LoRA, in one process on one thread: python docs/benchmarks/methods.py

    python docs/benchmarks/methods.py --write                     # the table of docs/rivals.md, a minute or two
    python docs/benchmarks/methods.py loda codyra --write         # only these rows of it; the others stay
    python docs/benchmarks/methods.py lora diki --model ViT-B-16  # random weights

Each method learns two synthetic tasks of its own copy of the model. In each task the methods take turns, a training
step each, and the least processor seconds of a step count: other work on the machine only adds. Operations are counted
as they are executed. By default all registered methods are measured, except zero-shot and the presets that differ from
another method only in constants (-faithful).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.compute.device import deterministic, processor
from bench.config import registry
from bench.config.resolve import resolve
from bench.config.run_settings import LEARNING
from bench.data.pixels import Pixels
from bench.data.stream import label_space
from bench.learning.costs import Sizes, counted, step_of, synthetic
from bench.learning.optimizer import build_optimizer, tensors_of
from bench.runs.loading import load_model

PAGE = Path(__file__).parent.parent / "rivals.md"
MARKS = ("<!-- costs, made by docs/benchmarks/methods.py -->", "<!-- end of costs -->")
"""What stands between them in the page is written by this script."""

HEADER = (
    "method",
    "values trained",
    "bytes kept",
    "more passes",
    "images encoded at test",
    "operations of a step",
    "seconds of a step",
)
BESIDE = "lora"
"""The method that others are compared with."""

WORDS = {"codyra": ["method.dense=0"]}
"""Settings that let every step be a usual one: the gates of CoDyRA move after half of a task's steps only."""

TASKS = 2
EXPLAINED = 1.3
"""Seconds beyond this multiple of the operations are printed in bold; the page explains them."""

SIZES = Sizes(classes=10, batch=32, steps=3, images=64)


@dataclass
class Found:
    """What a method costs, in the first task and in the second.

    Attributes
    ----------
    trained, kept : list of int
        Values trained on a task; bytes kept after it.
    passes : list of float
        Images encoded before and after training, over the training images of the task.
    operations, seconds : list of float
        Of a training step: in 1e9, and of the processor.
    at_test : float
        Images encoded to classify one.
    """

    trained: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    operations: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    at_test: float = 0.0


class Learner:
    """A method on its own copy of a model, which is taken through the synthetic tasks.

    Attributes
    ----------
    encoded : int
        Images that the image tower has encoded so far.
    """

    def __init__(self, name: str, words: Sequence[str], sizes: Sizes, steps: int):
        resolved = resolve([f"method={name}", *words, *WORDS.get(name, [])])
        self.clip = load_model(resolved)
        self.tasks, self.data = synthetic(self.clip, sizes, TASKS, say=lambda text: None)
        self.train = dataclasses.replace(resolved.run.train, batch_size=sizes.batch, steps=steps)
        self.encoded, self.found = 0, Found()
        self.clip.model.visual.conv1.register_forward_hook(self._see)
        assert resolved.method_class is not None
        self.method = resolved.method_class(resolved.method_settings, self.clip, self.data[0].context)

    def _see(self, layer: torch.nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
        self.encoded += len(result)

    def begin(self, index: int) -> None:
        """Begin a task, and make the first step, which is not measured."""
        self.task, self.number, self.open, before = self.data[index], 0, ExitStack(), self.encoded
        self.task.budget = self.train
        self.method.begin_task(self.task)
        self.passes = (self.encoded - before) / len(self.task.train)
        given = self.method.parameters()
        self.open.enter_context(self.clip.trainable(tensors_of(given)))
        self.optimizer = build_optimizer(given, self.train)
        self.batch = next(iter(self.task.batches("train", batch_size=self.train.batch_size, bar=False)))
        self.found.trained.append(sum(tensor.numel() for tensor in tensors_of(given)))
        self.found.seconds.append(float("inf"))
        self.step()

    def step(self) -> None:
        """Make a whole step as training does: the method's own, and what it does after it."""
        assert self.train.steps
        step = step_of(self.method, self.batch, self.task, self.optimizer, self.number, self.train.steps)
        self.method.train_step(step)
        step.close()
        self.method.after_step()
        self.number += 1

    def timed_step(self) -> None:
        """Make a step, and keep its seconds if they are the least of the task."""
        start = time.process_time()
        self.step()
        self.found.seconds[-1] = min(self.found.seconds[-1], time.process_time() - start)

    def end(self) -> None:
        """Count the operations of one more step, and finish the task."""
        self.found.operations.append(counted(self.step))
        self.open.close()
        before = self.encoded
        self.method.end_task(self.task)
        self.found.passes.append(self.passes + (self.encoded - before) / len(self.task.train))
        self.found.kept.append(self.method.stored_bytes())

    @torch.no_grad()
    def test(self) -> None:
        """Classify the test images of the last task."""
        space = label_space("task", self.tasks, len(self.tasks), len(self.tasks) - 1)
        assert space is not None
        classifier, before, images = self.method.classifier(space), self.encoded, 0
        for pixels, labels in Pixels(self.tasks[-1].test, self.clip, True).batches(self.train.batch_size):
            classifier(pixels)
            images += len(labels)
        self.found.at_test = (self.encoded - before) / images


def measured() -> list[str]:
    """Return the names of the methods of the table, LoRA first; methods that forget learn no task."""
    entries = registry.entries("method").items()
    named = [name for name, one in entries if "bound" not in one.facts and not name.endswith("-faithful")]
    names = [name for name in named if LEARNING in getattr(registry.load("method", name), "kinds", (LEARNING,))]
    return sorted(names, key=lambda name: name != BESIDE)


def measure(names: Sequence[str], words: Sequence[str], sizes: Sizes = SIZES, rounds: int = 12) -> dict[str, Found]:
    """Take methods through the tasks, in turns.

    Parameters
    ----------
    names : sequence of str
        The methods.
    words : sequence of str
        Settings of all of them, such as ``model=pocket``.
    sizes : Sizes, optional
        Of a task.
    rounds : int, optional
        How many steps of each method are measured in a task.

    Returns
    -------
    dict of str to Found
        By method.
    """
    learners = {name: Learner(name, words, sizes, rounds + 2) for name in names}
    for index in range(TASKS):
        for learner in learners.values():
            learner.begin(index)
        for _ in range(rounds):
            for learner in learners.values():
                learner.timed_step()
        for learner in learners.values():
            learner.end()
    for learner in learners.values():
        learner.test()
    return {name: learner.found for name, learner in learners.items()}


def cell(values: Sequence[Any], form: str) -> str:
    """Return what holds in the first task and in the second; once where it is the same."""
    texts = list(dict.fromkeys(form.format(value) for value in values))
    return " / ".join(texts)


def rows(found: dict[str, Found]) -> dict[str, str]:
    """Return the line of every method in the table."""
    lora, lines = found[BESIDE], {}
    for name, one in found.items():
        operations = [mine / its for mine, its in zip(one.operations, lora.operations, strict=True)]
        seconds = [mine / its for mine, its in zip(one.seconds, lora.seconds, strict=True)]
        slow = any(took > EXPLAINED * count for took, count in zip(seconds, operations, strict=True))
        took = cell(seconds, "{:.2f}")
        cells = (
            f"`{name}`",
            cell(one.trained, "{:,}"),
            cell(one.kept, "{:,}"),
            cell(one.passes, "{:.3g}"),
            f"{one.at_test:.3g}",
            cell(operations, "{:.2f}"),
            f"**{took}**" if slow else took,
        )
        lines[name] = "| " + " | ".join(cells) + " |"
    return lines


def table(lines: dict[str, str]) -> str:
    """Return the table of some lines."""
    return "\n".join(["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER), *lines.values()]) + "\n"


def written(page: str, lines: dict[str, str]) -> str:
    """Return the page with new lines in its table; those of other methods stay."""
    start, end = (page.index(mark) for mark in MARKS)
    start += len(MARKS[0])
    there = [line for line in page[start:end].splitlines() if line.startswith("| `")]
    merged = {line.split("`")[1]: line for line in there} | lines
    order = sorted(merged, key=lambda name: (name != BESIDE, name))
    return page[:start] + "\n" + table({name: merged[name] for name in order}) + page[end:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="all by default; LoRA is always measured")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--classes", type=int, default=SIZES.classes)
    parser.add_argument("--batch", type=int, default=SIZES.batch)
    parser.add_argument("--rounds", type=int, default=12, help="measured steps of each method in a task")
    parser.add_argument("--write", action="store_true", help=f"put the lines into {PAGE.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    words = [f"model={arguments.model}"]
    if arguments.model not in registry.entries("model"):
        words.append("model.weights=random")
    sizes = Sizes(arguments.classes, arguments.batch, SIZES.steps, 2 * arguments.batch)
    names = list(dict.fromkeys([BESIDE, *arguments.methods])) if arguments.methods else measured()
    with deterministic(None):
        found = measure(names, words, sizes, arguments.rounds)
    lora = found[BESIDE]
    print(f"{processor()}, one thread, torch {torch.__version__}, {arguments.model}, {sizes.classes} prompts")
    print(f"LoRA, a step of {sizes.batch} images: {lora.seconds[-1] * 1e3:.1f} ms, {lora.operations[-1]:.3g} GFLOP\n")
    print(table(rows(found)), end="")
    if arguments.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), rows(found)), encoding="utf-8")
        sys.path.insert(0, str(PAGE.parent))
        import family

        family.write()  # its table has the same seconds


if __name__ == "__main__":
    main()

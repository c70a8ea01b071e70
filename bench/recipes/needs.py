"""What runs take before they are started: images to encode, steps of the optimiser, floating-point operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.config.resolve import resolve
from bench.config.run_settings import Resolved, Train
from bench.data.stream import Stream, Task
from bench.learning.optimizer import steps_of
from bench.recipes.passes import Passes, Rates, passes_of, shown
from bench.recipes.sizes import Towers, reference_images, stream_of, towers_of
from bench.runs.parts import train_settings


@dataclass(frozen=True)
class Work:
    """What one run does, or several together.

    Attributes
    ----------
    tasks, steps : int
        Of the stream, and of the optimiser.
    training, passes, evaluation : int
        Images that go forward through the image tower: in training, before and after it, and in the rows of the matrix.
    training_back, passes_back : int
        Of these, images that a gradient comes back through.
    prompts, prompts_back : int
        Prompts that go forward through the text tower, and that a gradient comes back through; those of the rows of
        the matrix are left out.
    operations : float
        Floating-point operations: a forward pass is as `Towers` says; a gradient comes back through the activations for
        as much again, and through the weights that learn for their share of as much again.
    with_gradient : float
        Those of them that belong to images and prompts which a gradient comes back through, both ways.
    """

    tasks: int = 0
    steps: int = 0
    training: int = 0
    training_back: int = 0
    passes: int = 0
    passes_back: int = 0
    evaluation: int = 0
    prompts: int = 0
    prompts_back: int = 0
    operations: float = 0.0
    with_gradient: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def images(self) -> int:
        """All images that go forward through the image tower."""
        return self.training + self.passes + self.evaluation


def work_of(resolved: Resolved, stream: Stream, passes: Passes, size: Towers, reference: int | None = None) -> Work:
    """Return what a run does.

    Parameters
    ----------
    resolved : Resolved
    stream : Stream
        As of `stream_of`.
    passes : Passes
        How often its method encodes what.
    size : Towers
    reference : int or None, optional
        Images of the reference set, which add nothing where their number is not known.

    Returns
    -------
    Work
    """
    found = Work(tasks=len(stream.tasks))
    for number, (images, classes, train) in enumerate(_learned(resolved, stream)):
        found += _of_task(passes.first if not number else passes.later, passes.steps, images, classes, train)
        found += _validation(resolved, stream.tasks[number], train)
    found = replace(found, evaluation=_evaluated(resolved, stream))
    if reference:
        found += _reference(passes, reference)
    back = size.image * (found.training_back + found.passes_back) + size.prompt * found.prompts_back
    forward = size.image * found.images + size.prompt * found.prompts
    more = (1 + passes.share) * back
    return replace(found, operations=forward + more, with_gradient=back + more)


def _learned(resolved: Resolved, stream: Stream) -> Iterator[tuple[int, int, Train]]:
    """Yield images, classes and budget of every task that is learned; all are one for a method that learns at once."""
    tasks = [(len(task.train), len(task.classes), train_settings(resolved, task)) for task in stream.tasks]
    if not resolved.method_class.at_once:
        yield from tasks
        return
    budget = tasks[0][2]
    if any((train.epochs, train.steps) != (budget.epochs, None) for _, _, train in tasks):  # as `together` has it
        budget = replace(budget, steps=sum(steps_of(train, images) for images, _, train in tasks))
    yield sum(images for images, _, _ in tasks), sum(classes for _, classes, _ in tasks), budget


def _of_task(rates: Rates, steps: float, images: int, classes: int, train: Train) -> Work:
    """Return what training a task and the passes beside it encode, a reference set apart."""
    done = steps_of(train, images)

    def count(phase: str, kind: str) -> int:
        rate = rates.get((phase, kind))
        if rate is None:
            return 0
        many = (shown(train, images), images) if kind.startswith("images") else (done * classes, classes)
        return round(rate.of(*many, more=0))

    return Work(
        steps=round(steps * done),
        training=count("training", "images"),
        training_back=count("training", "images back"),
        passes=count("passes", "images"),
        passes_back=count("passes", "images back"),
        prompts=count("training", "prompts") + count("passes", "prompts"),
        prompts_back=count("training", "prompts back") + count("passes", "prompts back"),
    )


def _validation(resolved: Resolved, task: Task, train: Train) -> Work:
    """Return the validation images that a method chooses by, once an epoch."""
    if not resolved.method_class.validation or task.validation is None:
        return Work()
    return Work(training=train.epochs * len(task.validation))


def _reference(passes: Passes, images: int) -> Work:
    """Return what a reference set adds, by how often the toy one was encoded."""
    from bench.trials.toy import toy_reference  # torch comes with it

    more = sum(rate.more for (_, kind), rate in passes.first.items() if kind == "images")
    return Work(passes=round(more / len(toy_reference().images) * images))


def _evaluated(resolved: Resolved, stream: Stream) -> int:
    """Return how many images the rows of the matrix encode."""
    from bench.runs.rows import last_measured  # torch comes with it

    sizes, beside = [len(task.test) for task in stream.tasks], sum(len(extra.test) for extra in stream.others)
    if resolved.method_class.frozen_towers:
        return sum(sizes) + beside  # each once
    last = last_measured(resolved.method_class, stream.label_space, len(sizes))
    rows = [sum(sizes[:row]) if stream.label_space == "seen" else sum(sizes) for row in range(last + 1)]
    return sum(rows) + len(rows) * beside


@dataclass(frozen=True)
class Needed:
    """What one run takes.

    Attributes
    ----------
    resolved : Resolved
    work : Work
    size : Towers
        Of its model.
    share : float
        As in `Passes`.
    classes : int
        Of a task, on average.
    reference : int or None
        Images of the reference set; None where that is not known.
    """

    resolved: Resolved
    work: Work
    size: Towers
    share: float
    classes: int
    reference: int | None = 0


def needed(lines: Sequence[Sequence[str]], ready: bool = False) -> list[Needed]:
    """Return what several runs take; what they have in common is found once.

    Parameters
    ----------
    lines : sequence of sequence of str
        The words of each run.
    ready : bool, optional
        As for `stream_of`.

    Returns
    -------
    list of Needed

    Raises
    ------
    UserError
        If a method does not run on the toy model, or as for `stream_of` and `towers_of`.
    """
    kept: dict[Any, Any] = {}

    def once(key: Any, make: Callable[..., Any], *given: Any) -> Any:
        if key not in kept:
            kept[key] = make(*given)
        return kept[key]

    found = []
    for words in lines:
        one = resolve(words)
        of_stream = [one.flat[key] for key in one.flat if key.startswith(("stream.", "evaluate."))]
        stream = once(("stream", str(of_stream), one.run.seeds.task_order), stream_of, one, ready)
        passes = once(("passes", one.method_class, str(one.method_settings)), passes_of, one)
        size = once(("towers", one.run.model), towers_of, one)
        classes = round(sum(len(task.classes) for task in stream.tasks) / len(stream.tasks))
        named = str([one.flat[key] for key in one.flat if key.startswith(("reference.", "data"))])
        images = once(("reference", named, str(of_stream)), reference_images, one, stream)
        work = work_of(one, stream, passes, size, images)
        found.append(Needed(one, work, size, passes.share, classes, images))
    return found

"""One row of the accuracy matrix: every test set, measured in the stream's label space."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.pixels import Pixels, PixelStore
from bench.data.stream import LabelSpace, Task, label_space
from bench.learning.method import Method
from bench.model.clip import Clip

Classifier = Callable[[Tensor], Tensor]


def _as_it_is(space: LabelSpace) -> LabelSpace:
    return space


def zero_shot(clip: Clip, space: LabelSpace, from_features: bool = False) -> Classifier:
    """Return the classifier of a model without any method: cosine similarity to the prompts of a label space.

    Parameters
    ----------
    clip : Clip
    space : LabelSpace
    from_features : bool, optional
        Whether it is given features of images instead of images.

    Returns
    -------
    callable
        From normalised images, float32 [batch, 3, height, width], or features, float32 [batch, width of embedding], to
        logits, float32 [batch, prompts of the space].
    """
    texts = clip.encode_prompts(space.prompts)
    if from_features:
        return lambda features: clip.logits(features, texts)
    return lambda pixels: clip.logits(clip.encode_images(pixels), texts)


@dataclass(frozen=True)
class Protocol:
    """How the test sets of a stream are measured.

    Attributes
    ----------
    tasks : sequence of Task
    label_space : {"task", "seen", "agnostic", "all"}
        As for `bench.data.stream.Stream`.
    shared_prompts : {"either", "first"}
        As for `bench.data.stream.Stream`.
    batch_size : int
        Images per forward pass.
    place : callable
        Takes a label space and returns it with the indices of tasks that the method knows; for streams that the method
        has not learned.
    others : sequence of Task
        Further test sets, each measured among its own classes.
    """

    tasks: Sequence[Task]
    label_space: str
    shared_prompts: str
    batch_size: int
    place: Callable[[LabelSpace], LabelSpace] = _as_it_is
    others: Sequence[Task] = ()

    @property
    def columns(self) -> list[Task]:
        """All test sets: those of the tasks, then the others."""
        return [*self.tasks, *self.others]

    def space(self, seen: int, column: int) -> LabelSpace | None:
        """Return the label space of a test set after `seen` tasks; None where it is not defined."""
        if column < len(self.tasks):
            return label_space(self.label_space, self.tasks, seen, column, self.shared_prompts)
        return label_space("task", self.columns, seen, column)


@torch.no_grad()
def outcomes(
    name: str,
    method: Method,
    classifier: Classifier,
    pixels: Pixels,
    space: LabelSpace,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
    row: int = 0,
    take: Callable[[Sequence[Tensor]], Iterable[tuple[Tensor, Tensor]]] | None = None,
) -> np.ndarray:
    """Return which images of one test set are classified correctly (plain top-1, ties to the first prompt).

    Parameters
    ----------
    name : str
        Name of its task, for errors and listeners.
    method : Method
    classifier : callable
        ``method.classifier(space)``, or ``method.feature_classifier(space)`` where `take` gives features.
    pixels : Pixels
    space : LabelSpace
    batch_size : int
        Images per forward pass.
    on_batch : callable, optional
        Called after every batch.
    row : int, optional
        Number of tasks learned, for listeners.
    take : callable, optional
        Yields what the classifier reads of planned batches, and their labels; the images by default.

    Returns
    -------
    array of bool [images]

    Raises
    ------
    UserError
        If a logit is not a number.
    """
    targets = torch.tensor(space.targets, device=method.clip.device)
    # Kept on the device: answers, and logits that are not a number, which argmax would take for the largest.
    right = torch.zeros(len(pixels), dtype=torch.uint8, device=method.clip.device)
    undefined = torch.zeros((), dtype=torch.int64, device=method.clip.device)
    world, observers = method.context.world, method.context.observers
    planned = world.my_batches(pixels.plan(batch_size))
    for chosen, (batch, labels) in zip(planned, (take or pixels.take)(planned), strict=True):
        logits = classifier(batch)
        if observers:
            observers.report("logits", name, row=row, start=int(chosen[0]), logits=logits)
        right[chosen.to(right.device, non_blocking=True)] = (logits.argmax(dim=-1) == targets[labels]).to(right.dtype)
        undefined += logits.isnan().sum()
        on_batch()
    world.sum([right, undefined])  # each image was answered by one process
    if undefined:
        raise UserError(
            f"{int(undefined)} logits of the test images of task {name} are no numbers: the weights have diverged, "
            "lower train.lr or set train.grad_clip"
        )
    return right.bool().cpu().numpy()


@torch.no_grad()
def evaluate_row(
    method: Method,
    store: PixelStore,
    protocol: Protocol,
    seen: int,
    on_batch: Callable[[], None] = lambda: None,
    done: Container[int] = (),
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield column and `outcomes` of every test set that has a label space after `seen` tasks and is not `done`.

    Row 0 always uses the base classifier, never the method's. Class features are encoded once for each distinct label
    space. Where the run keeps the features of images (`Context.features`), a method with frozen towers classifies them.

    Parameters
    ----------
    method : Method
    store : PixelStore
    protocol : Protocol
    seen : int
        Number of tasks learned so far; 0 for the untrained model.
    on_batch : callable, optional
        Called after every batch.
    done : container of int, optional
        Columns that are measured already.

    Yields
    ------
    column : int
    right : array of bool [images]
    """
    ready: tuple[LabelSpace, Classifier] | None = None
    features = method.context.features if method.frozen_towers else None

    def classifier(space: LabelSpace) -> Classifier:
        if not seen:
            return zero_shot(method.clip, space, from_features=features is not None)
        space = protocol.place(space)
        return method.classifier(space) if features is None else method.feature_classifier(space)

    def measure(column: int, space: LabelSpace) -> np.ndarray:
        nonlocal ready
        # The same prompts may be those of another task, for which a method may keep something else.
        if ready is None or (ready[0].prompts, ready[0].tasks) != (space.prompts, space.tasks):
            ready = space, classifier(space)
        task = protocol.columns[column]
        pixels = store.get(task.test)
        take = None if features is None else partial(features.take, pixels, f"{task.name}: encode")
        return outcomes(task.name, method, ready[1], pixels, space, protocol.batch_size, on_batch, seen, take)

    for column, task in enumerate(protocol.columns):
        if column in done:
            continue
        space = protocol.space(seen, column)
        if space is None:
            continue
        # Features are kept instead of the row: with both on the disk the seconds of encoding would be counted twice.
        if seen or features is not None or method.context.observers.wants("logits"):
            yield column, measure(column, space)
            continue
        # The untrained model gives the same numbers whatever the method: another run may have measured it.
        model = [method.context.weights, str(method.clip.precision)]
        pixels = [*store.get(task.test).identity(), list(space.prompts), list(space.targets), protocol.batch_size]
        shared = method.context.shared("zero-shot row", [*model, *pixels], partial(_tensors, measure, column, space))
        yield column, shared["right"].bool().numpy()


def _tensors(measure: Callable[[int, LabelSpace], np.ndarray], column: int, space: LabelSpace) -> dict[str, Tensor]:
    return {"right": torch.from_numpy(measure(column, space).astype(np.uint8))}

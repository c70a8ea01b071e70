"""One row of the accuracy matrix: every test set, measured in the stream's label space."""

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.pixels import Pixels, PixelStore
from bench.data.stream import LabelSpace, Task, label_space
from bench.learning.method import Method

Classifier = Callable[[Tensor], Tensor]


@torch.no_grad()
def outcomes(
    name: str,
    method: Method,
    classifier: Classifier,
    pixels: Pixels,
    space: LabelSpace,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Which images of one test set are classified correctly, bool [images] (plain top-1, ties to the first prompt).

    Parameters
    ----------
    name : str
        Of its task, for errors.
    classifier : callable
        ``method.classifier(space)``.

    Raises
    ------
    UserError
        If a logit is not a number.
    """
    targets = torch.tensor(space.targets, device=method.clip.device)
    # Kept on the device: answers, and logits that are not a number, which argmax would take for the largest.
    right = torch.zeros(len(pixels), dtype=torch.uint8, device=method.clip.device)
    undefined = torch.zeros((), dtype=torch.int64, device=method.clip.device)
    world = method.context.world
    planned = world.my_batches(pixels.plan(batch_size))
    for chosen, (batch, labels) in zip(planned, pixels.take(planned), strict=True):
        logits = classifier(batch)
        right[chosen.to(right.device)] = (logits.argmax(dim=-1) == targets[labels]).to(right.dtype)
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
    tasks: Sequence[Task],
    kind: str,
    seen: int,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
    shared_prompts: str = "either",
    done: Container[int] = (),
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield column and `outcomes` of every test set that has a label space after `seen` tasks and is not `done`.

    Before any task they are those of the model as it came: the method is not asked.
    Class features are encoded once for each distinct label space.

    Parameters
    ----------
    kind : {"task", "seen", "all"}
        The stream's label space.
    seen : int
        Number of tasks learned so far; 0 for the untrained model.
    shared_prompts : {"either", "first"}
        As for `bench.data.stream.Stream`.
    done : container of int
        Columns that are measured already.
    """
    ready: tuple[tuple[str, ...], Classifier] | None = None

    def measure(column: int, space: LabelSpace) -> np.ndarray:
        nonlocal ready
        if ready is None or ready[0] != space.prompts:
            ready = space.prompts, method.classifier(space) if seen else Method.classifier(method, space)
        task = tasks[column]
        return outcomes(task.name, method, ready[1], store.get(task.test), space, batch_size, on_batch)

    for column, task in enumerate(tasks):
        space = None if column in done else label_space(kind, tasks, seen, column, shared_prompts)
        if space is None:
            continue
        if seen:
            yield column, measure(column, space)
            continue
        # The model as it came, whatever the method: another run may have measured it.
        model = [method.context.weights, str(method.clip.precision)]
        asked = [*store.get(task.test).identity(), list(space.prompts), list(space.targets), batch_size]
        found = method.context.shared("zero-shot row", [*model, *asked], partial(_tensors, measure, column, space))
        yield column, found["right"].bool().numpy()


def _tensors(measure: Callable[[int, LabelSpace], np.ndarray], column: int, space: LabelSpace) -> dict[str, Tensor]:
    return {"right": torch.from_numpy(measure(column, space).astype(np.uint8))}

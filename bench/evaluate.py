"""One row of the accuracy matrix: every test set, measured in the stream's label space."""

from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.method import Method
from bench.pixels import Pixels, PixelStore
from bench.task import LabelSpace, Task, label_space

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
    planned = world.share(pixels.plan(batch_size))
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
        As for `bench.task.Stream`.
    done : container of int
        Columns that are measured already.
    """
    known: tuple[str, ...] | None = None
    for column, task in enumerate(tasks):
        space = None if column in done else label_space(kind, tasks, seen, column, shared_prompts)
        if space is None:
            continue
        pixels = store.get(task.test)
        if seen == 0:
            yield column, _of_untrained(task.name, method, pixels, space, batch_size, on_batch)
            continue
        if space.prompts != known:
            classifier, known = method.classifier(space), space.prompts
        yield column, outcomes(task.name, method, classifier, pixels, space, batch_size, on_batch)


def _of_untrained(
    name: str, method: Method, pixels: Pixels, space: LabelSpace, batch_size: int, on_batch: Callable[[], None]
) -> np.ndarray:
    """The `outcomes` of the model as it came, whatever the method; shared with other runs."""

    def measure() -> dict[str, Tensor]:
        classifier = Method.classifier(method, space)
        right = outcomes(name, method, classifier, pixels, space, batch_size, on_batch)
        return {"right": torch.from_numpy(right.astype(np.uint8))}

    model = [method.context.weights, str(method.clip.precision)]
    asked = [list(space.prompts), list(space.targets), batch_size]
    return method.context.shared("zero-shot row", [*model, *pixels.identity(), *asked], measure)["right"].bool().numpy()

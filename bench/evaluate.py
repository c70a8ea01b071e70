"""One row of the accuracy matrix: every test set, measured in the stream's label space."""

from collections.abc import Callable, Iterator, Sequence

import torch

from bench.method import Method
from bench.pixels import PixelStore
from bench.task import LabelSpace, Task, label_space


@torch.no_grad()
def count_correct(
    method: Method,
    store: PixelStore,
    task: Task,
    space: LabelSpace,
    batch_size: int,
    split: str = "test",
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Correctly classified images of one test set, and their number (plain top-1, ties to the first prompt).

    Parameters
    ----------
    split : {"test", "validation"}
        Which images of the task; validation images are for tuning.
    """
    images = task.test if split == "test" else task.validation
    if images is None:
        raise ValueError(f"task {task.name} has no {split} images")
    classifier = method.classifier(space)
    pixels = store.get(images)
    correct = torch.zeros((), dtype=torch.int64, device=method.clip.device)
    for batch, labels in pixels.batches(batch_size):
        correct += (classifier(batch).argmax(dim=-1) == labels + space.offset).sum()
        on_batch()
    return int(correct), len(pixels)


def evaluate_row(
    method: Method,
    store: PixelStore,
    tasks: Sequence[Task],
    kind: str,
    seen: int,
    batch_size: int,
    split: str = "test",
    on_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, int, int]]:
    """Yield (column, correct, total) for every test set that has a label space after `seen` tasks.

    Parameters
    ----------
    kind : {"task", "seen", "all"}
        The stream's label space.
    seen : int
        Number of tasks learned so far; 0 for the untrained model.
    """
    for column, task in enumerate(tasks):
        space = label_space(kind, tasks, seen, column)
        if space is not None:
            yield column, *count_correct(method, store, task, space, batch_size, split, on_batch)

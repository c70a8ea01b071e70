"""One step of the largest task, tried before the first step of a run: what does not fit should be known at once."""

from __future__ import annotations

import dataclasses

import torch

from bench.compute.device import is_out_of_memory
from bench.compute.world import world
from bench.core.errors import UserError
from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.task_data import TaskData
from bench.runs.loading import Parts


def rehearse(method: Method, data: TaskData, parts: Parts, precision: str) -> None:
    """Compute the cross-entropy of the largest later task and its gradients, and forget them.

    A task needs more memory where it has more classes or larger batches. A loss of the method's own is not asked, since
    the task has not begun. Nothing is tried after the first task, where no later task is larger than it, where all are
    learned at once, and for a method that trains in its own way.

    Parameters
    ----------
    method : Method
        Has begun the task.
    data : TaskData
        The task at hand.
    parts : Parts
    precision : str
        The run's.

    Raises
    ------
    UserError
        If there is not enough memory, naming the task.
    """
    parameters = tensors_of(method.parameters())
    if data.index or data.owners is not None or not parameters or type(method).fit is not Method.fit:
        return
    sizes = [(len(parts.tokens[i]), parts.budgets[i].batch_size) for i in range(len(parts.tasks))]
    largest = max(range(len(sizes)), key=lambda i: sizes[i])
    if sizes[largest] <= sizes[0]:
        return
    clip, task, (classes, batch) = method.clip, parts.tasks[largest], sizes[largest]
    images = -(-min(batch, len(task.train)) // world().size)
    pixels = torch.zeros(images, 3, *clip.image_size, device=clip.device)
    labels = torch.zeros(images, dtype=torch.int64, device=clip.device)
    later = dataclasses.replace(data, index=largest, name=task.name, prompts=task.prompts, tokens=parts.tokens[largest])
    try:
        with clip.computing(precision), clip.trainable(parameters):
            loss = Method.loss(method, pixels, labels, later)
            if loss.requires_grad:
                torch.autograd.grad(loss, parameters, allow_unused=True)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"task {task.name} ({classes} classes, train.batch_size={batch}) does not fit into the memory of the "
            f"{clip.device.type}, so the run was not begun: lower train.batch_size, or choose a smaller model"
        ) from error

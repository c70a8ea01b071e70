"""What a method holds on to: training images of earlier tasks, and every tensor that can be reached from it.

What is the model's does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench.core.lazy import torch
from bench.model.frozen import Frozen
from bench.model.linear_maps import Update

if TYPE_CHECKING:
    from torch import Tensor

    from bench.learning.task_data import Context, TaskData
    from bench.model.clip import Clip


class Memory:
    """Training images of earlier tasks, as many as a budget allows.

    They are in host memory as the model reads them, 8-bit pixels before normalisation, and count in
    `Method.stored_bytes` as these: height x width x 3 bytes each. A checkpoint holds their indices alone; the stream
    gives the images again.

    Parameters
    ----------
    clip : Clip
    context : Context
    per_class : int, optional
        Images of every class.
    total : int, optional
        Images of all classes together, shared out evenly again after every task; the first classes get what is left
        over. Exactly one of the two is given.

    Attributes
    ----------
    pixels : Tensor
        uint8 [images, 3, height, width], on the CPU. Those of a class are in the order of their importance.
    labels : Tensor
        int64 [images], index into `tokens`.
    tokens : Tensor
        The tokenised prompt of every class so far, int64 [classes, context length], on the CPU.
    tasks, indices : Tensor
        int64 [images]: the task of each image, and its index among the task's training images.

    Raises
    ------
    ValueError
        If both budgets are given, or none.
    """

    def __init__(self, clip: Clip, context: Context, *, per_class: int | None = None, total: int | None = None):
        if (per_class is None) == (total is None):
            raise ValueError("a memory has one budget: per_class or total")
        self._clip, self._context = clip, context
        self.per_class, self.total = per_class, total
        self.pixels = torch.zeros(0, 3, *clip.image_size, dtype=torch.uint8)
        self.labels, self.tasks, self.indices = (torch.zeros(0, dtype=torch.int64) for _ in range(3))
        self.tokens = torch.zeros(0, clip.context_length, dtype=torch.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def add(self, task: TaskData, order: Tensor | None = None) -> None:
        """Keep images of a task, and drop images of earlier ones where the budget is a total; for `Method.end_task`.

        Parameters
        ----------
        task : TaskData
        order : Tensor, optional
            Indices of training images, int64, the most important ones of each class first, as herding gives them. By
            default all in an order drawn from ``task.init_generator("exemplars")``.
        """
        if order is None:
            order = torch.randperm(len(task.train), generator=task.init_generator("exemplars"))
        labels = task.train.labels[order] + len(self.tokens)
        self.tokens = torch.cat([self.tokens, task.tokens.cpu()])
        room = self._room()
        old, new = _rank(self.labels) < room[self.labels], _rank(labels) < room[labels]
        self.pixels = torch.cat([self.pixels[old], task.train.uint8(order[new])])
        self.labels = torch.cat([self.labels[old], labels[new]])
        self.tasks = torch.cat([self.tasks[old], torch.full((int(new.sum()),), task.index)])
        self.indices = torch.cat([self.indices[old], order[new]])

    def _room(self) -> Tensor:
        """Return how many images each class may have, int64 [classes]."""
        classes = len(self.tokens)
        if self.per_class is not None:
            return torch.full((classes,), self.per_class)
        assert self.total is not None
        return self.total // classes + (torch.arange(classes) < self.total % classes).long()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images drawn without replacement; all where there are not so many.

        Parameters
        ----------
        count : int
        generator : torch.Generator
            On the CPU; of a key that has the step, such as ``generator(data_seed, "replay", task.index, step)``.

        Returns
        -------
        pixels : Tensor
            Normalised, float32 [drawn, 3, height, width], on the model's device.
        labels : Tensor
            int64 [drawn], index into `tokens`, on the model's device.
        """
        chosen = torch.randperm(len(self), generator=generator)[:count]
        return self._clip.normalize(self.pixels[chosen]), self.labels[chosen].to(self._clip.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `Method.state_dict` is to hold: which images are kept, and the prompts of their classes.

        Returns
        -------
        dict of str to Tensor
        """
        return {"tasks": self.tasks, "indices": self.indices, "labels": self.labels, "tokens": self.tokens}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the stream gives the images, if one is at hand.

        Parameters
        ----------
        state : mapping of str to Tensor
            On the CPU; it may hold more.
        """
        self.tasks, self.indices, self.labels, self.tokens = (
            state[name] for name in ("tasks", "indices", "labels", "tokens")
        )
        if self._context.training_images is None:
            return
        self.pixels = torch.zeros(len(self), *self.pixels.shape[1:], dtype=torch.uint8)
        for task in self.tasks.unique().tolist():
            here = self.tasks == task
            self.pixels[here] = self._context.training_images(task).uint8(self.indices[here])


def _rank(labels: Tensor) -> Tensor:
    """Return how many images of the same label stand before each, int64 [images]."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return rank


def held(method: object, model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a method keeps alive, apart from those of the model under study.

    Attributes are followed through dicts, lists, tuples, sets, modules and objects of the author's own classes; objects
    of the engine (the model, the run, a task) are not. Tensors that share memory count once.

    Parameters
    ----------
    method : Method
    model : Module
        The model under study.

    Returns
    -------
    dict of str to Tensor
        By the way to them, such as ``teacher.visual.proj`` or ``means[2]``.
    """
    seen = {_memory(tensor) for tensor in (*model.parameters(), *model.buffers())}
    tensors: dict[str, Tensor] = {}
    for path, tensor in _reachable(vars(method), "", set()):
        if (memory := _memory(tensor)) not in seen:
            seen.add(memory)
            tensors[path] = tensor
    return tensors


def _memory(tensor: Tensor) -> int:
    """Return what tensors that share memory have in common; empty ones have none."""
    return tensor.untyped_storage().data_ptr() if tensor.numel() else 0


def _reachable(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, torch.Tensor):
        if value.numel():
            yield path, value
        return
    if value is None or isinstance(value, str | bytes | int | float | type) or id(value) in seen:
        return
    seen.add(id(value))
    inside: Iterator[tuple[str, Any]]
    if isinstance(value, torch.nn.Module):
        yield from ((f"{path}.{name}", tensor) for name, tensor in (*value.named_parameters(), *value.named_buffers()))
        inside = iter(())
    elif isinstance(value, Mapping):
        inside = ((f"{path}[{key!r}]" if path else str(key), part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        inside = ((f"{path}[{index}]", part) for index, part in enumerate(value))
    elif type(value).__module__ == "bench.model.clip":  # a copy, such as a teacher; the one under study was seen
        inside = iter([(f"{path}.model", value.model)])
    elif hasattr(value, "__dict__") and not _is_engine(type(value)):
        inside = ((f"{path}.{key}", part) for key, part in vars(value).items())
    else:
        return
    for name, part in inside:
        yield from _reachable(part, name, seen)


def _is_engine(kind: type) -> bool:
    """Return whether a class is the engine's own, not a plug-in's: what it refers to belongs to the run.

    Updates, memories and teachers are the engine's classes and hold what the method made.
    """
    package = kind.__module__.split(".")[:2]
    own = package[0] == "bench" and package[-1] not in ("methods", "datasets")
    return own and not issubclass(kind, Update | Memory | Frozen)

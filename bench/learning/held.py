"""What a method holds on to: every tensor that can be reached from it and is not the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench.core.lazy import torch
from bench.model.linear_maps import Update

if TYPE_CHECKING:
    from torch import Tensor


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
    found: dict[str, Tensor] = {}
    for path, tensor in _reachable(vars(method), "", set()):
        if (memory := _memory(tensor)) not in seen:
            seen.add(memory)
            found[path] = tensor
    return found


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

    An update is the engine's class and holds what the method made.
    """
    package = kind.__module__.split(".")[:2]
    return package[0] == "bench" and package[-1] not in ("methods", "datasets") and not issubclass(kind, Update)

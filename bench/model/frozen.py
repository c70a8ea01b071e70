"""A model as it was at some time, for a teacher that needs no model of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.model.linear_maps import LinearMap, Update

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor
    from torch.nn import Module


class Frozen:
    """The weights and updates that a model has now; ``with frozen:`` the model computes with these again.

    The tensors that may change are copied into host memory. While it is open, they take the place of the model's on the
    device, to the bit; nothing of them stays there. On the CPU nothing is copied for that, nor anywhere where the copy
    is on the device.

    Open it for computations without gradients, and close it before a backward pass: what a graph saved is the model's
    own tensors, which are back then, untouched.

    Parameters
    ----------
    model : Module
    maps : iterable of LinearMap
        All linear maps of the model.
    changing : iterable of Tensor, optional
        The parameters of the model that will change; all parameters and buffers by default.
    host : bool, optional
        Keep the copy in host memory. False keeps it on the device, for a teacher that is asked at every step.

    Attributes
    ----------
    kept : list of Tensor
        The values, in the order of `changing`; they count in `Method.stored_bytes` where a method holds on to them.
    """

    def __init__(
        self, model: Module, maps: Iterable[LinearMap], changing: Iterable[Tensor] | None = None, host: bool = True
    ):
        everything = [*model.parameters(), *model.buffers()]
        self._tensors = everything if changing is None else list(dict.fromkeys(changing))
        self.kept = [tensor.detach().to("cpu" if host else tensor.device, copy=True) for tensor in self._tensors]
        self._maps = list(maps)
        self._updates = [linear_map.update for linear_map in self._maps]
        self._before: list[tuple[list[Tensor], list[Update | None]]] = []

    def __enter__(self) -> None:
        self._before.append(([tensor.data for tensor in self._tensors], [one.update for one in self._maps]))
        values = [kept.to(tensor.device) for kept, tensor in zip(self.kept, self._tensors, strict=True)]
        self._put(values, self._updates)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._put(*self._before.pop())

    def _put(self, values: list[Tensor], updates: list[Update | None]) -> None:
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.data = value  # not a copy into it: graphs of autograd see no change
        for linear_map, update in zip(self._maps, updates, strict=True):
            linear_map.update = update

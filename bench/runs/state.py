"""Convert the state of model and method to checkpoint tensors and back."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.training_state import TrainingState
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix/``, under the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def settle(method: Method) -> None:
    """Make state tensors contiguous, as they are after loading.

    The last bits of a product depend on the strides of its factors, so a view kept by the method and the same numbers
    read from a file would give different results.
    """
    memory = method.state_dict()
    if not all(tensor.is_contiguous() for tensor in memory.values()):
        method.load_state_dict({name: tensor.contiguous() for name, tensor in memory.items()})


class RunState:
    """Takes and restores the state of a model and a method.

    Weights are kept only where they differ from the pre-trained ones, by their hashes.

    Parameters
    ----------
    clip : Clip
    digests : mapping of str to str
        `Clip.digests` of the pre-trained weights.
    """

    def __init__(self, clip: Clip, digests: Mapping[str, str]):
        self.clip = clip
        self.digests = digests

    def model(self) -> dict[str, Tensor]:
        """Return the weights that differ from the pre-trained ones, and updates in force with their scales."""
        weights, now = self.clip.model.state_dict(), self.clip.digests()
        changed = {name: weights[name] for name, digest in self.digests.items() if now[name] != digest}
        factors = {}
        for name, linear_map in self.clip.maps.items():
            if linear_map.update is not None:
                scale = torch.tensor(linear_map.update.scale, dtype=torch.float64)
                factors.update({f"{name}/A": linear_map.update.A, f"{name}/B": linear_map.update.B})
                factors[f"{name}/scale"] = scale
        return {**_under("weight", changed), **_under("update", factors)}

    @torch.no_grad()
    def load_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `model` returned, on a model whose other weights are the pre-trained ones.

        Factors are written into those that are attached, where they fit: a method may hold on to them.
        """
        weights = self.clip.model.state_dict()
        for name, tensor in part(tensors, "weight").items():
            weights[name].copy_(tensor)
        factors = part(tensors, "update")
        for name, linear_map in self.clip.maps.items():
            if f"{name}/A" not in factors:
                linear_map.update = None
                continue
            A, B = factors[f"{name}/A"], factors[f"{name}/B"]
            update = linear_map.update
            if update is not None and update.A.shape == A.shape and update.B.shape == B.shape:
                update.A.copy_(A)
                update.B.copy_(B)
                update.scale = float(factors[f"{name}/scale"])
            else:
                like = linear_map.parameter
                linear_map.update = LowRank(A.to(like), B.to(like), float(factors[f"{name}/scale"]))

    def between_tasks(self, method: Method) -> dict[str, Tensor]:
        """Return the tensors of the model and all that the method remembers."""
        return {**self.model(), **_under("method", method.state_dict())}

    def load_between_tasks(self, method: Method, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `between_tasks` returned."""
        self.load_model(tensors)
        method.load_state_dict(part(tensors, "method"))

    def _own(self, method: Method) -> Iterator[tuple[str, Tensor]]:
        """Yield the trained tensors that are neither the model's nor factors of an update, by their index."""
        elsewhere = {id(parameter) for parameter in self.clip.model.parameters()}
        for linear_map in self.clip.maps.values():
            if linear_map.update is not None:
                elsewhere |= {id(linear_map.update.A), id(linear_map.update.B)}
        for index, parameter in enumerate(tensors_of(method.parameters())):
            if id(parameter) not in elsewhere:
                yield str(index), parameter

    def inside_task(self, method: Method, training: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of the model, of what is trained and of training, and training's plain values."""
        tensors = {
            **self.model(),
            **_under("parameter", dict(self._own(method))),
            **_under("task", method.training_state()),
            **_under("training", training.tensors),
        }
        return tensors, {"training": training.values}

    @torch.no_grad()
    def load_inside_task(
        self, method: Method, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> TrainingState:
        """Restore what `inside_task` returned, after `begin_task` was done again; return the state of training."""
        self.load_model(tensors)
        parameters = part(tensors, "parameter")
        for index, parameter in self._own(method):
            parameter.copy_(parameters[index])
        method.load_training_state(part(tensors, "task"))
        return TrainingState(part(tensors, "training"), values["training"])

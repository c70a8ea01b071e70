"""Convert the state of model and method to checkpoint tensors and back; begin with what a finished run kept."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.compare.runs import Run, is_run, read
from bench.config.run_settings import Resolved
from bench.core.errors import UserError, shorten
from bench.core.paths import is_folder, user_path
from bench.core.untrusted import read_file, why
from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.training_state import Misfit, TrainingState
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.record import checkpoint
from bench.record.schema import MODEL
from bench.runs.resume import fitting


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix/``, under the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


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

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights that differ from the pre-trained ones."""
        weights, now = self.clip.model.state_dict(), self.clip.digests()
        return _under("weight", {name: weights[name] for name, digest in self.digests.items() if now[name] != digest})

    def _updates(self, plain: bool) -> dict[str, Tensor]:
        """Return the tensors of updates in force, with their scales; plain, these are the two factors of any kind."""
        own = {}
        for name, linear_map in self.clip.maps.items():
            if (update := linear_map.update) is not None:
                tensors = dict(zip("AB", update.factors(), strict=True)) if plain else update.tensors()
                scale = torch.tensor(update.scale, dtype=torch.float64)
                own.update(_under(name, {**tensors, "scale": scale}))
        return _under("update", own)

    @torch.no_grad()
    def load_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore weights and updates, on a model whose other weights are the pre-trained ones.

        The tensors of an update are written into those that are attached, where they fit: a method may hold on to them.
        Elsewhere two factors become a `LowRank`.

        Raises
        ------
        Misfit
            If an update is made of other tensors than the one that is attached.
        """
        weights = self.clip.model.state_dict()
        for name, tensor in part(tensors, "weight").items():
            weights[name].copy_(tensor)
        saved = part(tensors, "update")
        for name, linear_map in self.clip.maps.items():
            found = part(saved, name)
            if not found:
                linear_map.update = None
                continue
            scale, update = float(found.pop("scale")), linear_map.update
            own = {} if update is None else update.tensors()
            if update is not None and _shapes(own) == _shapes(found):
                for key, tensor in own.items():
                    tensor.copy_(found[key])
                update.scale = scale
            elif found.keys() == {"A", "B"}:
                like = linear_map.parameter
                linear_map.update = LowRank(found["A"].to(like), found["B"].to(like), scale)
            else:
                raise Misfit(f"the update of {name} is made of other tensors")

    def between_tasks(self, method: Method) -> dict[str, Tensor]:
        """Return the tensors of the model and all that the method remembers."""
        return {**self._weights(), **self._updates(plain=True), **_under("method", method.state_dict())}

    def load_between_tasks(self, method: Method, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `between_tasks` returned."""
        self.load_model(tensors)
        method.load_state_dict(part(tensors, "method"))

    def _own(self, method: Method) -> Iterator[tuple[str, Tensor]]:
        """Yield the trained tensors that are neither the model's nor an update's, by their index."""
        elsewhere = {id(parameter) for parameter in self.clip.model.parameters()}
        for linear_map in self.clip.maps.values():
            if linear_map.update is not None:
                elsewhere |= {id(tensor) for tensor in linear_map.update.tensors().values()}
        for index, parameter in enumerate(tensors_of(method.parameters())):
            if id(parameter) not in elsewhere:
                yield str(index), parameter

    def inside_task(self, method: Method, training: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of the model, of what is trained and of training, and training's plain values."""
        tensors = {
            **self._weights(),
            **self._updates(plain=False),
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


def kept(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the plain values that a finished run kept in model.safetensors.

    Parameters
    ----------
    run : Run

    Raises
    ------
    UserError
        If there is no such file, or it is damaged or of another version.
    """
    try:
        tensors, values = checkpoint.unpack(read_file(run.path / MODEL))
    except FileNotFoundError:
        why_not = "" if run.settings.get("checkpoint.final", True) else " (checkpoint.final=false)"
        raise UserError(
            f"the weights of {run.path} were not kept{why_not}: make the run again with another out=DIR and "
            "checkpoint.final=true"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{run.path / MODEL} cannot be read ({why(error)}): make the run again") from error
    if values.get("version") != checkpoint.VERSION:
        raise UserError(f"{run.path / MODEL} is of another version of keeplora-bench: load it with that version")
    return tensors, values


def begin_with(resolved: Resolved, clip: Clip, pretrained: str) -> None:
    """Give the pre-trained model the weights that the run of the setting ``start`` ended with.

    Parameters
    ----------
    resolved : Resolved
    clip : Clip
        With its pre-trained weights.
    pretrained : str
        Their hash.

    Raises
    ------
    UserError
        If that run is unfinished, kept no weights, has another model, or its function is more than weights.
    """
    start, model = str(resolved.run.start), resolved.run.model
    said, directory = f"start={shorten(start)}", user_path(start, "start")
    if not is_folder(directory) or not is_run(directory):
        raise UserError(f"{said} holds no run: give a run directory, runs/STREAM/MODEL/METHOD/ID")
    run = read(directory)
    if run.trouble:
        raise UserError(f"{said} cannot be begun with ({run.trouble}): give a finished run")
    tensors, values = kept(run)
    if (run.settings["model.name"], values.get("weights_sha256")) != (model, pretrained):
        raise UserError(
            f"{said} is a run of model {run.settings['model.name']} and this is one of model {model}, with other "
            "weights or under another name: give a run of the same model"
        )
    if part(tensors, "update") or run.flags is None or "extended" in run.flags:
        raise UserError(
            f"{said} is a run of method {run.method}, which ends with more than weights: give one of a method that "
            "merges its updates and adds nothing to the model"
        )
    with fitting(directory):
        RunState(clip, {}).load_model(tensors)

"""Load what a finished run learned: the model, the method and its classifier as they were after the last task."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.compare.runs import Run
from bench.compute.device import choose_device
from bench.config.run_settings import Resolved
from bench.core.console import say
from bench.core.errors import UserError
from bench.data.stream import LabelSpace
from bench.learning.method import Method
from bench.learning.task_data import Context
from bench.model.clip import Clip
from bench.record.provenance import code_identity
from bench.record.schema import MODEL
from bench.reuse.recorded import finished_run, settings_again
from bench.runs.loading import load_model, shared_results
from bench.runs.parts import load_stream
from bench.runs.resume import fitting
from bench.runs.state import RunState, kept, settle


@dataclass(frozen=True)
class Loaded:
    """What a finished run learned.

    Attributes
    ----------
    path : Path
        The run directory.
    clip : Clip
        The model after the last task, on the device of `load`.
    method : Method
        The method after the last task, with all that it remembers.
    prompts : dict of str to tuple of str
        Name of each learned task, in order -> its prompts, one for each class.
    run : Run
        What the record says, as `bench.compare` reads it.
    resolved : Resolved
        The settings of the run, with those that were given to `load`.
    """

    path: Path
    clip: Clip
    method: Method
    prompts: Mapping[str, tuple[str, ...]]
    run: Run
    resolved: Resolved

    def classifier(self, prompts: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """Return the method's classifier for any prompts.

        Parameters
        ----------
        prompts : sequence of str
            One for each class, each once. The prompts of a learned task, all of them in their order, are recognised:
            the method then uses what it keeps for that task.

        Returns
        -------
        callable
            From normalised images, float32 [batch, 3, height, width] on the model's device, to logits, float32
            [batch, prompts]. ``clip.normalize(pixels)`` normalises what ``clip.to_uint8(image)`` gives.

        Raises
        ------
        UserError
            If there are no prompts, one occurs twice, or one does not fit into the context.
        """
        if not prompts or len(set(prompts)) < len(prompts):
            raise UserError("a classifier needs at least one prompt and each prompt once: leave out the second ones")
        space = self.place(LabelSpace(tuple(prompts), (0,) * len(prompts), tuple(range(len(prompts)))))
        with torch.no_grad(), self.clip.computing(self.resolved.run.precision):
            answer = self.method.classifier(space)

        def classify(pixels: Tensor) -> Tensor:
            with torch.no_grad(), self.clip.computing(self.resolved.run.precision):
                return answer(pixels)

        return classify

    def place(self, space: LabelSpace) -> LabelSpace:
        """Return a label space whose tasks are those that the method has learned.

        A task counts as learned where all its prompts are among those of the space and, if the run was measured in the
        label space ``task``, nothing else is. Every other task gets an index that no learned task has, as a task has
        before it is learned.

        Parameters
        ----------
        space : LabelSpace
            Its tasks are indices into any stream.

        Returns
        -------
        LabelSpace
        """
        texts = list(space.texts)
        owners: dict[str, int] = {}
        for index, known in enumerate(self.prompts.values()):
            if list(known) == texts if self.method.context.label_space == "task" else set(known) <= set(texts):
                owners = {**dict.fromkeys(known, index), **owners}
        tasks = [owners.get(text, len(self.prompts) + task) for text, task in zip(texts, space.tasks, strict=True)]
        return LabelSpace(space.prompts, tuple(tasks), space.targets)


def load(run: str | Path, settings: Mapping[str, Any] | Sequence[str] = ()) -> Loaded:
    """Load the model, the method and its classifier as a finished run left them.

    Parameters
    ----------
    run : str or Path
        The run directory.
    settings : mapping of str to object, or sequence of str, optional
        Settings given again, as for `run`: ``device``, ``data``, ``model.checkpoint`` and others that do not decide
        what was learned.

    Returns
    -------
    Loaded

    Raises
    ------
    UserError
        If the run is unfinished, its weights were not kept (``checkpoint.final=false``), or the weights that it began
        with are not those of its model any more. A change of the code is said and not refused.
    """
    record = finished_run(run)
    return loaded(record, settings_again(record, settings))


def loaded(run: Run, resolved: Resolved) -> Loaded:
    """Load a finished run under some settings; errors as for `load`.

    Parameters
    ----------
    run : Run
        Its record.
    resolved : Resolved
        From `settings_again`.
    """
    tensors, values = kept(run)
    if not _are_prompts(values.get("prompts", {})):
        raise UserError(f"{run.path / MODEL} cannot be read (its prompts are no lists of texts): make the run again")
    clip = load_model(resolved)
    weights = clip.weights_sha256()
    began = weights if run.settings["start"] else run.identity.weights_sha256  # a start changes the weights of row 0
    if not weights == began == values.get("weights_sha256"):
        raise UserError(
            f"{run.path} began with other weights than model={resolved.run.model} has now: give the same file as "
            "model.checkpoint, or make the run again"
        )
    state = RunState(clip, clip.digests())
    device = choose_device(resolved.run.device)
    method: Method = resolved.method_class(
        resolved.method_settings, clip.to(device), _context(run, resolved, clip, weights)
    )
    settle(method)
    with fitting(run.path):
        state.load_between_tasks(method, tensors)
    _say_changes(run, resolved)
    return Loaded(run.path, clip, method, _prompts(values, run, resolved), run, resolved)


def _are_prompts(value: Any) -> bool:
    lists = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) for texts in lists)


def _context(run: Run, resolved: Resolved, clip: Clip, weights: str) -> Context:
    """Return what the method knew about the run; the weights are those that `setup` finds."""
    device, seeds = clip.device, resolved.run.seeds
    shared = shared_results(resolved, clip, device, lambda name, seconds: None, lambda: None)
    context = Context(
        tasks=len(run.identity.tasks),
        batch_size=resolved.run.train.batch_size,
        init_seed=seeds.init or 0,
        data_seed=seeds.data_order or 0,
        label_space=(run.identity.label_space or "task").partition(",")[0],
        say=say,
        weights=weights,
    )
    return context if shared is None else dataclasses.replace(context, shared=shared.get)


def _prompts(values: Mapping[str, Any], run: Run, resolved: Resolved) -> dict[str, tuple[str, ...]]:
    """Return the prompts of the learned tasks; release 0.1 kept none, so its runs need their stream for them."""
    if "prompts" in values:
        return {name: tuple(texts) for name, texts in values["prompts"].items()}
    own = resolved.run.stream == run.settings["stream.name"]
    prompts = {task.name: task.prompts for task in load_stream(resolved if own else settings_again(run, {})).tasks}
    if hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest() != run.identity.prompts_sha256:
        raise UserError(
            f"{run.path} is an old record without its prompts, and the stream has others now: make it again"
        )
    return prompts


def _say_changes(run: Run, resolved: Resolved) -> None:
    """Say with which other state of the code the model is used."""
    code, then = code_identity(resolved), run.identity
    plugins = [
        kind for kind in ("method", "model") if code["plugins_sha256"].get(kind) != then.plugins_sha256.get(kind)
    ]
    if plugins:
        say(f"note: the code of the {' and the '.join(plugins)} has changed since the run")
    elif code["code_revision"] != then.code_revision:
        say(f"note: the run was made with another state of the code ({then.code_revision})")

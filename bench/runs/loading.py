"""What a run works with, loaded: stream, model, budgets; and the caches that it may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.compute.world import world
from bench.config.run_settings import FORGETTING, Resolved, Run, Train
from bench.core.blame import blamed
from bench.core.console import say
from bench.core.errors import UserError
from bench.core.paths import user_cache, user_path
from bench.core.stopwatch import Stopwatch
from bench.data.batch_order import BatchOrder
from bench.data.dataset_stream import ReferenceSet
from bench.data.pixel_cache import PixelCache
from bench.data.pixels import Pixels
from bench.data.request import Request
from bench.data.stream import Stream, Task, ZeroShot
from bench.learning.given import FrozenFeatures, Reference
from bench.learning.observers import Observers
from bench.learning.task_data import Context
from bench.model.clip import Clip
from bench.model.layers import activation
from bench.model.pretrained import load_open_clip
from bench.record.provenance import data_identity
from bench.runs import gate
from bench.runs.parts import check_budgets, is_real, load_reference, load_stream, published_zero_shot, train_settings
from bench.runs.shared import ResultCache, environment_of
from bench.runs.state import begin_with

DECODED_BYTES = 2**30
"""Decoded images kept in memory at most, and as many of a reference set; larger sets are decoded on every pass."""


@dataclass(frozen=True)
class Parts:
    """What a run works with.

    Attributes
    ----------
    stream : Stream
    budgets : sequence of Train
        The training settings of each task.
    expected : ZeroShot or None
        Published accuracies of the untrained model, where row 0 is to be checked against them.
    clip : Clip
        On the run's device.
    digests : mapping of str to str
        Hashes of the pre-trained model's parameters and buffers by name; empty for those that `start` changed, which
        differ from the pre-trained ones whatever becomes of them.
    weights : str
        Hash of all parameters and buffers that the run begins with.
    pretrained : str
        The same of the pre-trained model.
    tokens : sequence of Tensor
        Tokenised prompts of each task, int64 [classes, context length].
    data : mapping
        `data_identity` of stream and reference set.
    reference : ReferenceSet or None
        Images and sentences outside of the stream.
    """

    stream: Stream
    budgets: Sequence[Train]
    expected: ZeroShot | None
    clip: Clip
    digests: Mapping[str, str]
    weights: str
    pretrained: str
    tokens: Sequence[Tensor]
    data: Mapping[str, Any]
    reference: ReferenceSet | None = None

    @property
    def tasks(self) -> Sequence[Task]:
        """The tasks in order."""
        return self.stream.tasks

    @property
    def prompts(self) -> dict[str, tuple[str, ...]]:
        """The prompts of each task by its name, in order."""
        return {task.name: task.prompts for task in self.tasks}


def load_parts(resolved: Resolved, device: torch.device) -> Parts:
    """Load stream and model of a run.

    Raises
    ------
    UserError
        If something is missing, damaged, or not the published data where the gate is on.
    """
    stream = load_stream(resolved)
    if resolved.run.gate == "on" and is_real(resolved):
        gate.check_data(stream)
    reference = load_reference(resolved, stream)
    expected = published_zero_shot(resolved, stream)
    budgets = [train_settings(resolved, task) for task in stream.tasks]
    check_budgets(resolved, stream, budgets)
    clip = load_model(resolved)
    digests, pretrained = clip.digests(), clip.weights_sha256()
    weights = pretrained
    if resolved.run.start is not None:
        begin_with(resolved, clip, pretrained)
        begun, weights = clip.digests(), clip.weights_sha256()
        digests = {name: digest if begun[name] == digest else "" for name, digest in digests.items()}
    clip.to(device)
    tokens = [clip.tokenize(task.prompts) for task in stream.tasks]
    for task in (
        *stream.tasks,
        *stream.others,
    ):  # a template that does not fit is refused, or mentioned, before the first task
        if task.more_templates:
            clip.tokenize([text for prompt in task.test_prompts for text in prompt])
    data = data_identity(stream, stream.tasks, reference, resolved.method_class.validation)
    return Parts(stream, budgets, expected, clip, digests, weights, pretrained, tokens, data, reference)


def introduce(resolved: Resolved, parts: Parts, device: torch.device) -> None:
    """Say what is run on what, and what a user should know about model, prompts and data."""
    settings, clip = resolved.run, parts.clip
    tasks = "requests" if parts.stream.kind == FORGETTING else "tasks"
    where = f"{settings.stream} ({len(parts.tasks)} {tasks}), {settings.model}, seed {settings.seed}"
    say(f"{settings.method} on {where}, {device.type}")
    if settings.start is not None:
        say(f"note: it begins with the final weights of {settings.start}")
    if clip.too_long:
        say(
            f"note: {len(clip.too_long)} prompts are longer than the {clip.context_length} tokens that {clip.name} "
            f'reads and lose their end, such as "{clip.too_long[0]}"'
        )
    for note in (*clip.notes, *parts.stream.notes):
        say(f"note: {note}")


def context_of(
    resolved: Resolved,
    parts: Parts,
    device: torch.device,
    watch: Stopwatch,
    stop: Callable[[], None],
    observers: Observers,
    training_images: Callable[[int], Pixels],
) -> Context:
    """Return what a method may know about the run.

    Parameters
    ----------
    resolved : Resolved
    parts : Parts
    device : torch.device
    watch : Stopwatch
        Counts the parts of a phase, and what was reused.
    stop : callable
        Raises where the run has been asked to stop.
    observers : Observers
        Who listens to what is computed.
    training_images : callable
        Returns those of a task by its index.
    """
    settings, processes = resolved.run, world()
    replay = settings.batches.replay
    may_stop = stop if processes.size == 1 else _go_on  # several processes stop together, at safe points only
    shared = shared_results(resolved, parts.clip, device, watch.reuse, may_stop)
    cache, reference = pixel_cache(settings, may_stop), parts.reference
    context = Context(
        tasks=len(parts.tasks),
        batch_size=settings.train.batch_size,
        init_seed=settings.seeds.init or 0,
        data_seed=settings.seeds.data_order or 0,
        label_space=parts.stream.label_space,
        say=say,
        part=watch.part,
        order=BatchOrder(Path(replay).expanduser() if replay else None),
        may_stop=may_stop,
        world=processes,
        weights=parts.weights,
        observers=observers,
        reference=None if reference is None else reference_of(reference, parts.clip, cache),
        images={task.name: len(task.train) for task in parts.tasks},
        without_images=missing_images(parts.tasks),
        pretrained=None if settings.start is None else lambda: load_model(resolved).model.state_dict(),
        training_images=training_images,
    )
    if shared is not None:
        context = dataclasses.replace(context, shared=shared.get)
    if not resolved.method_class.frozen_towers:
        return context
    features = FrozenFeatures(settings.evaluate.batch_size, parts.weights, context.shared, processes, may_stop)
    return dataclasses.replace(context, features=features)


def missing_images(tasks: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """Return the classes to forget without training images, by the name of the request, as `Context` has them."""
    requests = [task for task in tasks if isinstance(task, Request) and task.without_images()]
    return {one.name: tuple(one.classes[index] for index in one.without_images()) for one in requests}


def reference_of(reference: ReferenceSet, clip: Clip, cache: PixelCache | None = None) -> Reference:
    """Return a reference set as a method sees it; decoded images are kept in memory where they fit."""
    pixels = Pixels(reference.images, clip, False, cache)
    pixels.keep = pixels.nbytes <= DECODED_BYTES
    return Reference(reference.name, reference.sentences, pixels)


def _go_on() -> None:
    """Do not stop."""


def load_model(resolved: Resolved, image_size: int | None = None) -> Clip:
    """Return the model of a run, on the CPU: a registered one, or one of open_clip's.

    Parameters
    ----------
    resolved : Resolved
    image_size : int, optional
        As for `load_open_clip`; registered models have their own.

    Raises
    ------
    UserError
        If it cannot be loaded.
    """
    if resolved.model_class is not None:
        try:
            clip = resolved.model_class().load(resolved.model_settings)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise UserError(f"model {resolved.run.model} cannot be loaded: {blamed(error)}") from error
        if not isinstance(clip, Clip):
            raise UserError(f"model {resolved.run.model} gives no bench.api.Clip from load(settings)")
        return clip
    settings = resolved.model_settings
    seed = resolved.run.seeds.init or 0
    return load_open_clip(resolved.run.model, settings.checkpoint, settings.weights, seed, image_size)


def pixel_cache(settings: Run, may_stop: Callable[[], None]) -> PixelCache | None:
    """Return the cache of decoded images that the settings ask for; None if they want none."""
    if settings.cache.gb == 0:
        return None
    return PixelCache(_cache_folder(settings), int(settings.cache.gb * 1e9), say, may_stop)


def shared_results(
    resolved: Resolved,
    clip: Clip,
    device: torch.device,
    reused: Callable[[str, float], None],
    may_stop: Callable[[], None],
) -> ResultCache | None:
    """Return the results that runs share on this machine; None if no cache is wanted, or processes share the run.

    Parameters
    ----------
    resolved : Resolved
    clip : Clip
        The run's model.
    device : torch.device
    reused : callable
        ``reused(name, seconds)`` is called for every result taken from there, with the seconds that it took.
    may_stop : callable
        Called while another run is waited for; it may raise.
    """
    cache = resolved.run.cache
    if cache.gb == 0 or world().size > 1:  # where one process has a result and another does not, they would differ
        return None
    # The same weights compute something else with another activation, resolution or normalisation.
    settings = {key: value for key, value in resolved.flat.items() if key.partition(".")[0] == "model"}
    environment = {
        **environment_of(device, resolved.model_class),
        "settings": settings,
        "activation": activation(clip.model),
    }
    folder, limit = _cache_folder(resolved.run) / "results", int(cache.gb * 1e8)
    return ResultCache(folder, limit, environment, reused, say, may_stop)


def _cache_folder(settings: Run) -> Path:
    return user_path(settings.cache.dir, "cache.dir") if settings.cache.dir else user_cache()

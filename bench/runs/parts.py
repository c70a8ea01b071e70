"""What a run is made of, from its settings: stream, model, budgets, cache of images."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import torch

from bench.model.clip import Clip, load_open_clip
from bench.config.resolve import Resolved, Run, Train
from bench.core.errors import UserError, suggest
from bench.compute.world import world
from bench.data.pixel_cache import PixelCache
from bench.core.console import say
from bench.config.fields import describe
from bench.runs.shared import Shared, place_of
from bench.data.stream import Stream, Task, ZeroShot


def load_model(resolved: Resolved) -> Clip:
    """The model of a run, on the CPU: a registered one, or one of open_clip's."""
    if resolved.model_class is not None:
        clip = resolved.model_class().load(resolved.model_settings)
        if not isinstance(clip, Clip):
            raise UserError(f"model {resolved.run.model} gives no bench.model.clip.Clip from load(settings)")
        return clip
    settings = resolved.model_settings
    return load_open_clip(resolved.run.model, settings.checkpoint, settings.weights, resolved.run.seeds.init or 0)


def train_settings(resolved: Resolved, task: Task) -> Train:
    """The training settings of one task: the run's, with the task's own where the user said nothing.

    Raises
    ------
    UserError
        If the task's own settings are unknown or out of range.
    """
    known = {key.removeprefix("train."): one for key, one in describe(Train, "train.").items()}
    own = {}
    for key, value in task.train_settings.items():
        if key not in known:
            raise UserError(f'task {task.name} sets "train.{key}", which is no setting{suggest(key, known)}')
        try:
            own[key] = known[key].convert(value, None)
        except ValueError as error:
            raise UserError(f"task {task.name} sets train.{key}={value}: it {error}") from error
    return dataclasses.replace(
        resolved.run.train, **{k: v for k, v in own.items() if resolved.sources.get(f"train.{k}") != "user"}
    )


def load_stream(resolved: Resolved) -> Stream:
    """The stream of a run, its test images replaced by validation images if those are to be scored."""
    settings = resolved.run
    stream: Stream = resolved.stream_class(resolved.stream_settings, settings.data, settings.seeds.task_order)
    if settings.evaluate.split == "validation":
        stream.tasks = [_with_validation(task) for task in stream.tasks]
    return stream


def is_real(resolved: Resolved) -> bool:
    """Whether the model is one of open_clip's with its weights, whose results somebody may want to compare."""
    return resolved.model_class is None and resolved.model_settings.weights != "random"


def published_zero_shot(resolved: Resolved, stream: Stream) -> ZeroShot | None:
    """What is known of the untrained model on this stream; None where the gate is off or nothing is comparable."""
    settings = resolved.run
    comparable = settings.gate == "on" and settings.evaluate.split == "test"
    if not comparable or getattr(resolved.model_settings, "weights", "") == "random":
        return None
    return stream.zero_shot(settings.model)


def pixel_cache(settings: Run) -> PixelCache | None:
    """The cache of decoded images that the settings mean; None if they want none."""
    if settings.cache.gb == 0:
        return None
    return PixelCache(_cache_folder(settings), int(settings.cache.gb * 1e9), say)


def shared_results(resolved: Resolved, device: torch.device, reused: Callable[[str, float], None]) -> Shared | None:
    """The results that runs share on this machine; None if the settings want no cache, or processes share the run.

    Parameters
    ----------
    reused : callable
        Told what was taken from there, and the seconds that computing it took.
    """
    cache = resolved.run.cache
    if cache.gb == 0 or world().size > 1:  # where one process found a result and another did not, they would part
        return None
    return Shared(_cache_folder(resolved.run) / "results", int(cache.gb * 1e8), place_of(device), reused)


def _cache_folder(settings: Run) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "keeplora-bench"
    return Path(settings.cache.dir or home).expanduser()


def _with_validation(task: Task) -> Task:
    """The task with its validation images in the place of its test images."""
    if task.validation is None:
        raise UserError(f"task {task.name} has no validation images: leave evaluate.split at test")
    return dataclasses.replace(task, test=task.validation)

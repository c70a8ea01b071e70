"""The model of a run, and the caches it uses."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from bench.compute.world import world
from bench.config.run_settings import Resolved, Run
from bench.core.console import say
from bench.core.errors import UserError
from bench.data.pixel_cache import PixelCache
from bench.model.clip import Clip
from bench.model.pretrained import load_open_clip
from bench.runs.shared import Shared, place_of


def load_model(resolved: Resolved) -> Clip:
    """The model of a run, on the CPU: a registered one, or one of open_clip's."""
    if resolved.model_class is not None:
        clip = resolved.model_class().load(resolved.model_settings)
        if not isinstance(clip, Clip):
            raise UserError(f"model {resolved.run.model} gives no bench.model.clip.Clip from load(settings)")
        return clip
    settings = resolved.model_settings
    return load_open_clip(resolved.run.model, settings.checkpoint, settings.weights, resolved.run.seeds.init or 0)


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

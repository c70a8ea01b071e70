"""Two equal models: one for the suite, one for the long way of docs/benchmarks, which is imported by its path."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from bench.data.pixels import Pixels
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.toy import tiny_clip, tiny_model, toy_task

FOLDER = Path(__file__).parent.parent.parent / "docs" / "benchmarks"
RANK = 3


def script(name: str) -> ModuleType:
    """A module of docs/benchmarks."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


LongWay = script("long_way").LongWay
CONTEXT = Context(1, 20, 0, 0)  # of the 40 images there are two full batches


def pair(dtype: torch.dtype = torch.float64, quick: bool = False) -> tuple[Clip, TaskData, "LongWay"]:
    """Two equal models, with QuickGELU if wanted: one for the suite, with a task, and one for the long way."""
    clip, other, task = tiny_clip(), tiny_clip(), toy_task(0)
    if quick:
        clip, other = (
            Clip(tiny_model(quick_gelu=True), one.tokenizer, one.preprocess, "quick") for one in (clip, other)
        )
    for one in (clip, other):
        one.model.to(dtype)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), CONTEXT)
    normalize = clip.normalize
    clip.normalize = lambda pixels: normalize(pixels).to(dtype)  # type: ignore[method-assign]
    return clip, data, LongWay(other, RANK)

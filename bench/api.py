"""Everything that a plug-in imports, in one place: ``from bench.api import Method, TaskData, register, setting``.

docs/api.md documents these names. They keep their meaning between releases, and CHANGELOG.md says what changes;
everything else in ``bench`` may move. Importing this module loads no torch: a name is imported from its home when it is
first used, and only `Clip`, `Pixels`, `tiny_clip`, `toy_task` and those that use a trained model (`load`, `evaluate`,
`probe`, `export`) need torch for that.
"""

# ruff: noqa: F401  (the imports below are for type checkers)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.analysis.analyse import Analysis, analyse
    from bench.compare.grouping import ComparableRuns, Comparison, Group, gather
    from bench.compute.seeding import derived_seed, generator
    from bench.compute.world import World
    from bench.config.catalogue import widths_in
    from bench.config.fields import setting, with_defaults
    from bench.config.registry import register
    from bench.config.run_settings import Surroundings, Train
    from bench.core.errors import UserError, suggest
    from bench.core.lazy import F, no_grad, torch
    from bench.data.dataset import Counts, Dataset, Splits, folder_dataset, load_dataset
    from bench.data.dataset_stream import DatasetStream, Part, hold_out, stream_class, stream_of
    from bench.data.images import ArrayImages, FileImages, Images, Joined, PackedImages, Subset, alone
    from bench.data.pixels import Pixels
    from bench.data.request import Request
    from bench.data.stream import LABEL_SPACES, Extra, LabelSpace, Stream, StreamSettings, Task, ZeroShot
    from bench.learning.given import Reference, ToForget
    from bench.learning.held import Memory
    from bench.learning.method import Method, ParityCard
    from bench.learning.moments import SecondMoment, mean_gradient, second_moments, slot_means
    from bench.learning.observers import Observation, Observers
    from bench.learning.optimizer import steps_of
    from bench.learning.task_data import Context, TaskData
    from bench.learning.train import TrainStep
    from bench.learning.training_state import EpochReport, TrainingState
    from bench.metrics.kinds import summary
    from bench.metrics.matrix import AccuracyMatrix
    from bench.metrics.render import render
    from bench.model.clip import Clip
    from bench.model.frozen import Frozen
    from bench.model.linear_maps import KINDS, TOWERS, Branches, LinearMap, LowRank, Site, Update
    from bench.record.flags import Flags
    from bench.reuse.evaluate import Evaluation, evaluate
    from bench.reuse.export import export
    from bench.reuse.load import Loaded, load
    from bench.reuse.logistic import linear_probe
    from bench.reuse.probe import Probe, Probed, probe
    from bench.runs.result import Result, run
    from bench.trials.toy import tiny_clip, toy_task

HOMES = {
    "bench.analysis.analyse": ("Analysis", "analyse"),
    "bench.compare.grouping": ("ComparableRuns", "Comparison", "Group", "gather"),
    "bench.compute.seeding": ("derived_seed", "generator"),
    "bench.compute.world": ("World",),
    "bench.config.catalogue": ("widths_in",),
    "bench.config.fields": ("setting", "with_defaults"),
    "bench.config.registry": ("register",),
    "bench.config.run_settings": ("Surroundings", "Train"),
    "bench.core.errors": ("UserError", "suggest"),
    "bench.core.lazy": ("F", "no_grad", "torch"),
    "bench.data.dataset": ("Counts", "Dataset", "Splits", "folder_dataset", "load_dataset"),
    "bench.data.dataset_stream": ("DatasetStream", "Part", "hold_out", "stream_class", "stream_of"),
    "bench.data.images": ("ArrayImages", "FileImages", "Images", "Joined", "PackedImages", "Subset", "alone"),
    "bench.data.pixels": ("Pixels",),
    "bench.data.request": ("Request",),
    "bench.data.stream": ("LABEL_SPACES", "Extra", "LabelSpace", "Stream", "StreamSettings", "Task", "ZeroShot"),
    "bench.learning.given": ("Reference", "ToForget"),
    "bench.learning.held": ("Memory",),
    "bench.learning.method": ("Method", "ParityCard"),
    "bench.learning.moments": ("SecondMoment", "mean_gradient", "second_moments", "slot_means"),
    "bench.learning.observers": ("Observation", "Observers"),
    "bench.learning.optimizer": ("steps_of",),
    "bench.learning.task_data": ("Context", "TaskData"),
    "bench.learning.train": ("TrainStep",),
    "bench.learning.training_state": ("EpochReport", "TrainingState"),
    "bench.metrics.kinds": ("summary",),
    "bench.metrics.matrix": ("AccuracyMatrix",),
    "bench.metrics.render": ("render",),
    "bench.model.clip": ("Clip",),
    "bench.model.frozen": ("Frozen",),
    "bench.model.linear_maps": ("KINDS", "TOWERS", "Branches", "LinearMap", "LowRank", "Site", "Update"),
    "bench.record.flags": ("Flags",),
    "bench.reuse.evaluate": ("Evaluation", "evaluate"),
    "bench.reuse.export": ("export",),
    "bench.reuse.load": ("Loaded", "load"),
    "bench.reuse.logistic": ("linear_probe",),
    "bench.reuse.probe": ("Probe", "Probed", "probe"),
    "bench.runs.result": ("Result", "run"),
    "bench.trials.toy": ("tiny_clip", "toy_task"),
}
"""Where each name lives. The imports above say the same to type checkers; a test holds the two together."""

_HOME = {name: module for module, names in HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOME:
        raise AttributeError(f"bench.api has no {name!r}: docs/api.md lists its names")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]

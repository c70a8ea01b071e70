"""Names that 0.1 had and that have moved: asking for one says where it is. To be removed after release 0.2."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

PLUGIN = (
    "batch_order", "catalogue", "clip", "dataset", "errors", "evaluate", "images", "linear_maps", "method", "pixels",
    "registry", "run", "seeding", "settings", "statistics", "task", "toy", "train",
)  # fmt: skip
"""Modules of 0.1 that plug-ins imported; `bench.api` has their names."""

ENGINE = (
    "check", "checkpoint", "dashboard", "difference", "doctor", "export", "files", "gate", "launch", "listing",
    "loading", "matrix", "matrix_text", "mirror", "outcomes", "packing", "page", "panels", "parallel", "pictures",
    "pixel_cache", "processes", "profile", "progress", "published", "results", "session", "shared", "significance",
    "standing", "state", "stopping", "sweep_parameters", "track", "views",
)  # fmt: skip
"""Modules of 0.1 that the engine alone used."""

NAMES = {
    "bench.compare": ("Section", "best", "cell", "explained", "provenance", "quoted", "sections", "text"),
    "bench.config": (
        "Batches", "Cache", "Checkpoint", "Evaluate", "NoSettings", "OpenClip", "Resolved", "Run", "Seeds",
        "Surroundings", "Track", "Train", "class_settings", "label_space_of", "read", "run_directory", "setting",
    ),
    "bench.metrics": (
        "AccuracyMatrix", "Cell", "FORMULAS", "MissingCell", "SCALARS", "Spread", "average_cil", "average_cil_pooled",
        "average_columns", "average_mtil", "backward_transfer", "forgetting_first_last", "forgetting_max_last", "last",
        "last_columns", "last_pooled", "learning", "mean", "so_far", "spread", "standard_error", "summary",
        "transfer_by_column", "transfer_by_row", "transfer_columns", "zero_shot", "zero_shot_loss",
    ),
    "bench.record": (
        "BATCHES", "Record", "Witness", "code_identity", "code_revision", "data_identity", "environment", "identity",
        "peak_memory_mb", "processor", "versions",
    ),
    "bench.sweep": (
        "Point", "Sweep", "attempt", "birth", "expand", "find", "job_id", "plan", "reason", "results",
        "shipped_folder", "state", "states", "table",
    ),
}  # fmt: skip
"""Names of 0.1 in modules that are packages now. `resolve`, `run_settings` and `fingerprint` of ``bench.config`` are
missing here: modules of the package have these names today."""

ALIASES = {"bench.cluster": "bench.sweep.slurm"}
"""Old names that still work: jobs that were queued with 0.1 look their class up there."""


_DOOR = 'write "from bench.api import {}" (docs/api.md lists the names)'
_MAP = "docs/architecture.md says where the engine's modules are now"


def old_names(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that was a module in 0.1: it says where the module's names are.

    Parameters
    ----------
    package : str
        One of the packages in `NAMES`.

    Returns
    -------
    callable
        Takes a name that the package lacks. Raises ImportError for one of `NAMES` (an AttributeError would lose the
        sentence in ``from ... import``), AttributeError for any other.
    """

    def __getattr__(name: str) -> Any:
        if name not in NAMES[package]:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        public = name in importlib.import_module("bench.api").__all__
        raise ImportError(f"{package}.{name} has moved: {_DOOR.format(name) if public else _MAP}", name=package)

    return __getattr__


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answer imports of modules that have moved; Python asks it last."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for an alias; raise a sentence for a module that has moved; None for anything else."""
        package, _, name = fullname.partition(".")
        if package != "bench":
            return None
        if fullname in ALIASES:
            return importlib.util.spec_from_loader(fullname, self)
        if name in PLUGIN:
            raise ModuleNotFoundError(f"{fullname} has moved: {_DOOR.format('...')}", name=fullname)
        if name in ENGINE:
            raise ModuleNotFoundError(f"{fullname} has moved: {_MAP}", name=fullname)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module that an alias stands for."""
        return importlib.import_module(ALIASES[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been executed under its own name."""
        sys.modules.setdefault("bench.cluster", module)

"""Names that 0.1 had and that have moved: asking for one says where it is. To be removed after release 0.2."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

PLUGIN = (
    "batch_order", "catalogue", "clip", "dataset", "errors", "evaluate", "images", "linear_maps", "method", "pixels",
    "registry", "seeding", "settings", "statistics", "task", "toy", "train",
)  # fmt: skip
"""Modules of 0.1 that plug-ins imported; `bench.api` has their names."""

ENGINE = (
    "check", "checkpoint", "difference", "doctor", "export", "files", "gate", "launch", "listing", "loading", "matrix",
    "matrix_text", "mirror", "outcomes", "packing", "page", "panels", "parallel", "pictures", "pixel_cache",
    "processes", "profile", "progress", "published", "results", "session", "shared", "significance", "standing",
    "state", "stopping", "sweep_parameters", "track", "views",
)  # fmt: skip
"""Modules of 0.1 that the engine alone used."""

ALIASES = {"bench.cluster": "bench.sweep.slurm"}
"""Old names that still work: jobs that were queued with 0.1 look their class up there."""


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of modules that have moved; Python asks it last."""

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
            raise ModuleNotFoundError(
                f'{fullname} has moved: write "from bench.api import ..." (docs/api.md lists the names)', name=fullname
            )
        if name in ENGINE:
            raise ModuleNotFoundError(
                f"{fullname} has moved: docs/architecture.md says where the engine's modules are now", name=fullname
            )
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module that an alias stands for."""
        return importlib.import_module(ALIASES[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been executed under its own name."""
        sys.modules.setdefault("bench.cluster", module)

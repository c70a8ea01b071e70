"""The engine of keeplora-bench: runs methods on streams of tasks and records what they know after each.

The plug-in folders ``methods/`` and ``datasets/`` stand beside this package in a checkout and inside it in a wheel.
They are always imported as ``bench.methods`` and ``bench.datasets``, never under their bare names, which belong to
other distributions (Hugging Face's ``datasets`` above all); docs/architecture.md explains the arrangement.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from bench import moved

__version__ = "0.1.0"


def _mount(name: str) -> None:
    """Make the sibling folder `name` importable as ``bench.<name>``; nothing to do where it lies inside the package."""
    here = Path(__file__).parent
    sibling = here.parent / name
    if (here / name).is_dir() or not sibling.is_dir():
        return
    spec = importlib.machinery.ModuleSpec(f"{__name__}.{name}", None, is_package=True)
    spec.submodule_search_locations = [str(sibling)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    globals()[name] = module


_mount("methods")
_mount("datasets")
sys.meta_path.append(moved.OldNames())

"""torch, imported when it is first used.

Importing torch takes seconds. A mistake in a setting must be answered before that, and settings are declared in the
files of methods. The modules that such a file imports therefore take torch from here: ``torch.zeros(...)`` inside a
function imports it then, and annotations do not need it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, ParamSpec, TypeVar


class LazyModule(ModuleType):
    """Represents a module and imports it when one of its attributes is read."""

    def __getattr__(self, name: str) -> object:
        """Return an attribute of the real module."""
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
else:
    torch = LazyModule("torch")
    dist = LazyModule("torch.distributed")
    F = LazyModule("torch.nn.functional")

__all__ = ["F", "LazyModule", "dist", "no_grad", "torch"]

P = ParamSpec("P")
T = TypeVar("T")


def no_grad(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function to run without recording gradients; unlike ``@torch.no_grad()`` it does not import torch.

    Parameters
    ----------
    function : callable
        Any function or method.

    Returns
    -------
    callable
        The same function, with gradients off while it runs.
    """

    @functools.wraps(function)
    def without_gradients(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.no_grad():
            return function(*args, **kwargs)

    return without_gradients

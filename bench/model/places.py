"""Places of a transformer where something of a method's own is computed beside what is there, and added to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from bench.core.errors import suggest

if TYPE_CHECKING:
    from torch import Tensor

Branch = Callable[["Tensor", Optional["Tensor"]], "Tensor"]
"""Takes what its place reads and where the tower reads its feature; returns what is added, of the same shape.

The first argument has tokens in the dimension before the last. The second one is int64 [sequences], the token of each
sequence that the tower reads (0 for images), or None where texts are packed and nobody can tell them apart.
"""


@dataclass
class Place:
    """A place of a block.

    Attributes
    ----------
    name : str
        ``image.3.heads``: tower, block, kind (heads, attention, mlp, residual).
    branch : callable or None
        What is computed there now, a `Branch`.
    whole_texts : bool
        Whether the branch needs texts one by one, not packed in a row.
    """

    name: str
    branch: Branch | None = None
    whole_texts: bool = False

    def add(self, y: Tensor, x: Tensor, read: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Return the result of the block's own layer with what the branch makes of its input.

        Parameters
        ----------
        y : Tensor
            The result.
        x : Tensor
            What the place reads; of the shape of `y`.
        read : callable
            Takes `x` and returns which token of each sequence the tower reads, as for `Branch`.

        Returns
        -------
        Tensor
            `y` itself where there is no branch.
        """
        if self.branch is None:
            return y
        return y + self.branch(x, read(x)).to(y.dtype)


@contextmanager
def computed_beside(places: Mapping[str, Place], branches: Mapping[str, Branch], whole_texts: bool) -> Iterator[None]:
    """While open, compute branches at places, in addition to those that are there.

    Parameters
    ----------
    places : mapping of str to Place
        All of a model, by name.
    branches : mapping of str to callable
        By name of the place.
    whole_texts : bool
        Process texts one by one, so that a branch can tell them apart.

    Raises
    ------
    KeyError
        If there is no place of a name.
    ValueError
        If there is something at a place already.
    """
    for name in branches:
        if name not in places:
            raise KeyError(f"the model has no place {name!r}{suggest(name, places)}")
        if places[name].branch is not None:
            raise ValueError(f"something is computed at {name} already: add both up in one branch")
    try:
        for name, branch in branches.items():
            places[name].branch, places[name].whole_texts = branch, whole_texts
        yield
    finally:
        for name in branches:
            places[name].branch, places[name].whole_texts = None, False

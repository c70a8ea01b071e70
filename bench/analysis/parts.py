"""A weight in two parts: its leading singular directions, which hold a share of its energy, and the rest.

The energy of a weight is the sum of its squared singular values. Everything here is float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.model.linear_maps import LinearMap


def leading_count(energies: Tensor, share: float) -> int:
    """Return the fewest leading energies whose sum is at least a share of the total: the rule of KeepLoRA.

    Parameters
    ----------
    energies : Tensor [n]
        Not negative, largest first.
    share : float
        From 0 to 1.

    Returns
    -------
    int
        0 for the share 0, or if all energies are zero; n for the share 1.
    """
    energies = energies.double().cpu()  # cumsum is not deterministic on CUDA
    total = energies.sum()
    if share <= 0 or total == 0:
        return 0
    if share >= 1:
        return len(energies)
    return min(int((energies.cumsum(0) / total < share).sum()) + 1, len(energies))


@dataclass(frozen=True)
class Directions:
    """The singular value decomposition of a weight W [out, in], with n = min(out, in).

    Attributes
    ----------
    left : Tensor [out, n], float64
        Orthonormal columns.
    values : Tensor [n], float64
        Largest first.
    right : Tensor [n, in], float64
        Orthonormal rows: directions of the input.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Directions:
        """Return the decomposition of a weight [out, in] of any floating-point type."""
        return cls(*torch.linalg.svd(weight.double(), full_matrices=False))

    def count(self, share: float) -> int:
        """Return how many leading directions hold a share of the energy, as `leading_count`."""
        return leading_count(self.values**2, share)

    def leading(self, count: int) -> Tensor:
        """Return the part of the weight in its leading directions.

        Parameters
        ----------
        count : int
            From 0 to n.

        Returns
        -------
        Tensor [out, in], float64
        """
        return (self.left[:, :count] * self.values[:count]) @ self.right[:count]

    def basis(self, count: int) -> Tensor:
        """Return the leading directions of the input as columns.

        Parameters
        ----------
        count : int
            From 0 to n.

        Returns
        -------
        Tensor [in, count], float64
        """
        return self.right[:count].T


def part_of(weight: Tensor, directions: Directions, share: float, rest: bool) -> Tensor:
    """Return the part of a weight that holds a share of its energy, or what is left without that part.

    Parameters
    ----------
    weight : Tensor [out, in]
    directions : Directions
        Of this weight.
    share : float
        From 0 to 1.
    rest : bool
        Return the weight minus the part.

    Returns
    -------
    Tensor [out, in]
        In the type of the weight and on its device. Part and rest add up to the weight, to rounding.
    """
    part = directions.leading(directions.count(share))
    if rest:
        part = weight.to(part) - part
    return part.to(weight.dtype).to(weight.device)  # in this order: not every device has float64


@contextmanager
def replaced(maps: Sequence[LinearMap], weights: Sequence[Tensor]) -> Iterator[None]:
    """While open, maps have other weights; at the end they have their own again, to the bit.

    Parameters
    ----------
    maps : sequence of LinearMap
    weights : sequence of Tensor [out, in]
        One for each map.
    """
    own = [one.weight.clone() for one in maps]
    try:
        for one, weight in zip(maps, weights, strict=True):
            one.weight.copy_(weight)
        yield
    finally:
        for one, weight in zip(maps, own, strict=True):
            one.weight.copy_(weight)

"""How much subspaces have in common: principal angles and normalised overlap, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.analysis.parts import leading_count

NOISE = 1e-12
"""Share of the energy up to which a direction is rounding, not a feature."""


def feature_basis(moment: Tensor, share: float) -> Tensor:
    """Return the fewest leading directions of features that hold a share of their energy.

    Parameters
    ----------
    moment : Tensor [width, width]
        The second moment of the features, not centred, up to a positive factor.
    share : float
        From 0 to 1.

    Returns
    -------
    Tensor [width, r], float64
        Orthonormal columns; r = 0 for the share 0 or without features.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    energies, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    usable = int((energies > NOISE * energies.sum()).sum())
    return vectors[:, : min(leading_count(energies, share), usable)]


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Return the principal angles between two subspaces (Bjorck and Golub, 1973).

    Parameters
    ----------
    a : Tensor [width, r], float64
        Orthonormal columns.
    b : Tensor [width, s], float64
        Orthonormal columns.

    Returns
    -------
    Tensor [min(r, s)], float64
        In degrees, from 0 to 90, smallest first.
    """
    return torch.rad2deg(torch.acos(torch.linalg.svdvals(a.T @ b).clamp(max=1)))


def overlap(a: Tensor, b: Tensor) -> float:
    """Return the mean squared cosine of the principal angles: ``||A^T B||_F^2 / min(r, s)``.

    Parameters
    ----------
    a : Tensor [width, r], float64
        Orthonormal columns, r >= 1.
    b : Tensor [width, s], float64
        Orthonormal columns, s >= 1.

    Returns
    -------
    float
        1 if one subspace lies in the other, 0 if they are orthogonal.
    """
    return float((a.T @ b).square().sum()) / min(a.shape[1], b.shape[1])


def overlap_by_chance(width: int, r: int, s: int) -> float:
    """Return the expected overlap of two random subspaces: ``max(r, s) / width``.

    The expectation of ``||A^T B||_F^2`` is ``r s / width`` where one of the two is drawn uniformly.

    Parameters
    ----------
    width : int
        Of the space.
    r, s : int
        Dimensions of the subspaces.

    Returns
    -------
    float
    """
    return max(r, s) / width

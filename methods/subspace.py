"""Principal subspaces: orthonormal bases chosen by energy, grown task by task, and directions outside of them.

A basis is a float64 tensor [width, dimension] with orthonormal columns; dimension 0 is the empty subspace. The energy
of a matrix F [width, n] is the sum of its squared singular values. All decompositions are of symmetric width x width
matrices (F F^T or W^T W), which have the same left singular vectors and energies as the tall matrices themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from bench.api import torch

if TYPE_CHECKING:
    from torch import Tensor


Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> list[Result]:
    """The results of some work on every item, in order; on the CPU as many at a time as there are threads.

    A decomposition gains little from several threads; several decompositions do. Each has one, so that its bits do not
    depend on their number.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, "subspace", torch.set_num_threads, (1,)) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(threads)


def empty_basis(width: int, device: torch.device) -> Tensor:
    """The basis of the zero subspace, [width, 0]."""
    return torch.zeros(width, 0, dtype=torch.float64, device=device)


def outside(basis: Tensor, x: Tensor) -> Tensor:
    """The part of the columns of x [width, n] that lies outside the subspace: ``x - M M^T x``."""
    return x - basis @ (basis.T @ x)


def descending_eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (clamped at zero, largest first) and eigenvectors of a positive semidefinite matrix, float64."""
    values, vectors = torch.linalg.eigh(symmetric.double())
    return values.flip(0).clamp(min=0), vectors.flip(1)


def count_reaching(energies: Tensor, threshold: float, already: float = 0.0) -> int:
    """How many of the leading energies are needed to bring ``already + their sum`` to the threshold.

    Parameters
    ----------
    energies : Tensor [n]
        Shares of a total, largest first.
    threshold : float
        In (0, 1].
    already : float
        The share covered before.

    Returns
    -------
    int
        0 if the threshold is met already; n if it cannot be met.
    """
    if already >= threshold:
        return 0
    reached = (already + energies.cpu().cumsum(0)) >= threshold  # cumsum is not deterministic on CUDA
    return int(reached.int().argmax()) + 1 if bool(reached.any()) else len(energies)


def count_below(energies: Tensor, threshold: float) -> int:
    """How many of the leading energies stay below the threshold in sum, at least one: one less than reach it.

    The rule of the code released with KeepLoRA for a subspace that is filled for the first time.
    """
    return max(1, int((energies.cpu().cumsum(0) < threshold).sum()))


COUNTS = {"reach": count_reaching, "below": count_below}
"""Rules by which a subspace is filled for the first time."""


def principal_subspace(weight: Tensor, energy: float, side: str = "input", rule: str = "reach") -> Tensor:
    """The directions of a linear map that hold a share `energy` of its squared singular values.

    The smallest number of leading right singular vectors of ``W`` [out, in] whose squared singular values sum to at
    least ``energy`` times the total (KeepLoRA, W_p: the paper stores weights as [in, out] and takes left vectors).

    Parameters
    ----------
    side : {"input", "output"}
        Right singular vectors, or left ones.
    rule : {"reach", "below"}
        Whether the energy is reached, or just not.

    Returns
    -------
    Tensor [in or out, p], p >= 1
    """
    return leading(*spectrum(weight, side), energy, rule)


def spectrum(weight: Tensor, side: str = "input") -> tuple[Tensor, Tensor]:
    """The squared singular values of W [out, in], largest first, and its right (or left, for ``output``) vectors."""
    weight = weight.double()
    return descending_eigh(weight.T @ weight if side == "input" else weight @ weight.T)


def leading(energies: Tensor, vectors: Tensor, energy: float, rule: str = "reach") -> Tensor:
    """The leading vectors that hold a share of the energies, by one of the `COUNTS`; none where all are zero."""
    total = energies.sum()
    if total == 0:
        return empty_basis(len(energies), vectors.device)
    return vectors[:, : COUNTS[rule](energies / total, energy)]


def grow(basis: Tensor, gram: Tensor, energy: float, first_rule: str = "reach") -> Tensor:
    """Append the fewest directions to a basis so that it covers a share `energy` of a set of features.

    The gradient projection memory rule (KeepLoRA step 10): with F the features, E = ||F||_F^2 and F^ = F - M M^T F,
    append leading left singular vectors of F^ until the covered share of E reaches `energy`. Columns are only appended.

    Parameters
    ----------
    basis : Tensor [width, k], float64
    gram : Tensor [width, width]
        ``F F^T``, up to a positive factor.
    energy : float
        In (0, 1].
    first_rule : {"reach", "below"}
        How an empty basis is filled; a filled one always grows until it reaches the energy.

    Returns
    -------
    Tensor [width, k + g], float64
    """
    gram = gram.double()
    total = gram.trace()
    width, dimension = basis.shape
    if total <= 0 or dimension >= width:
        return basis
    residual = outside(basis, outside(basis, gram).T)
    values, vectors = descending_eigh((residual + residual.T) / 2)
    already = float(1 - values.sum() / total)
    # Directions without energy are rounding noise, not features.
    usable = min(int((values > 1e-12 * total).sum()), width - dimension)
    if dimension == 0 and first_rule == "below":
        wanted = count_below(values / total, energy)
    else:
        wanted = count_reaching(values / total, energy, already)
    added = min(wanted, usable)
    if added == 0:
        return basis
    # Projected once more and orthonormalised: eigenvectors of a tiny residual are only orthogonal to M to rounding.
    fresh, _ = torch.linalg.qr(outside(basis, vectors[:, :added]))
    return torch.cat([basis, fresh], dim=1)


def leading_directions(matrix: Tensor, rank: int, basis: Tensor, floor: float | None = None) -> Tensor:
    """The leading left singular vectors of a matrix whose columns lie outside a subspace, none of them inside it.

    A matrix of rank below `rank` has no further directions of its own: what a decomposition returns for them is
    arbitrary and may lie inside the protected subspace. Such surplus columns are dropped.

    Parameters
    ----------
    matrix : Tensor [width, n]
        Already projected: ``outside(basis, ...)``.
    rank : int
        The most columns to return.
    basis : Tensor [width, k]
        The protected subspace.
    floor : float, optional
        Singular values up to this one are rounding, not directions; a millionth of the largest by default.

    Returns
    -------
    Tensor [width, r], float64, r <= rank
        Orthonormal columns, orthogonal to `basis`; r = 0 if nothing is left.
    """
    matrix = matrix.double()
    energies, vectors = descending_eigh(matrix @ matrix.T)
    floor = 1e-6 * float(energies[0]) ** 0.5 if floor is None else floor
    rank_of_matrix = int((energies > floor**2).sum())
    kept = min(rank, matrix.shape[0] - basis.shape[1], rank_of_matrix)
    directions, _ = torch.linalg.qr(outside(basis, vectors[:, :kept]))
    return directions

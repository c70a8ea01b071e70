"""Principal subspaces: orthonormal bases chosen by energy, grown task by task, and directions outside of them.

A basis is a float64 tensor [width, dimension] with orthonormal columns; dimension 0 is the empty subspace. The energy
of a matrix F [width, n] is the sum of its squared singular values. Every decomposition is of a symmetric width x width
matrix (F F^T or W^T W), which has the same left singular vectors and energies as the tall matrix itself.
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
    """Return the results of some work on every item; on the CPU several items are worked on at a time.

    A decomposition gains little from several threads; several decompositions at a time do. Each has one thread, so that
    its bits do not depend on the number of threads.

    Parameters
    ----------
    work : callable
        Takes an item and returns a result.
    items : iterable
        What to work on.
    device : torch.device
        Where the work is done; on any other than the CPU it is done item by item.

    Returns
    -------
    list
        In the order of the items.
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
    """Return the basis of the zero subspace, float64 [width, 0]."""
    return torch.zeros(width, 0, dtype=torch.float64, device=device)


def empty_moment(width: int, device: torch.device) -> Tensor:
    """Return the second moment of no features at all, float64 [width, width]."""
    return torch.zeros(width, width, dtype=torch.float64, device=device)


def outside(basis: Tensor, x: Tensor) -> Tensor:
    """Return the part of the columns of x [width, n] that lies outside of the subspace: ``x - M M^T x``."""
    return x - basis @ (basis.T @ x)


def descending_eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose a positive semidefinite matrix.

    Parameters
    ----------
    symmetric : Tensor [width, width]

    Returns
    -------
    values : Tensor [width], float64
        Eigenvalues, largest first; none is negative.
    vectors : Tensor [width, width], float64
        Eigenvectors as columns, in the same order.
    """
    values, vectors = torch.linalg.eigh(symmetric.double())
    return values.flip(0).clamp(min=0), vectors.flip(1)


def count_reaching(energies: Tensor, threshold: float, already: float = 0.0) -> int:
    """Return how many of the leading energies bring ``already + their sum`` to the threshold.

    Parameters
    ----------
    energies : Tensor [n]
        Shares of a total, largest first.
    threshold : float
        In (0, 1].
    already : float, optional
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
    """Return how many of the leading energies stay below the threshold in sum, at least one.

    The code released with KeepLoRA fills a subspace by this rule the first time: one direction less than reaches the
    threshold.

    Parameters
    ----------
    energies : Tensor [n]
        Shares of a total, largest first.
    threshold : float
        In (0, 1].

    Returns
    -------
    int
        From 1 to n.
    """
    return max(1, int((energies.cpu().cumsum(0) < threshold).sum()))


COUNTS = {"reach": count_reaching, "below": count_below}
"""Rules by which a subspace is filled the first time."""


def spectrum(weight: Tensor, side: str = "input") -> tuple[Tensor, Tensor]:
    """Return the squared singular values of a weight, and its singular vectors on one side.

    Parameters
    ----------
    weight : Tensor [out, in]
        The paper stores weights as [in, out] and calls the input side the left one.
    side : {"input", "output"}, optional
        Right singular vectors, or left ones.

    Returns
    -------
    energies : Tensor [in or out], float64
        Largest first.
    vectors : Tensor [in or out, in or out], float64
        Columns, in the same order.
    """
    weight = weight.double()
    return descending_eigh(weight.T @ weight if side == "input" else weight @ weight.T)


def leading(energies: Tensor, vectors: Tensor, energy: float, rule: str = "reach") -> Tensor:
    """Return the leading vectors that hold a share of the energies: the principal subspace.

    Parameters
    ----------
    energies : Tensor [width]
        Largest first.
    vectors : Tensor [width, width]
        Columns, in the same order.
    energy : float
        The share, in (0, 1].
    rule : {"reach", "below"}, optional
        Whether the share is reached, or just not: one of the `COUNTS`.

    Returns
    -------
    Tensor [width, p]
        p >= 1; p = 0 if all energies are zero.
    """
    total = energies.sum()
    if total == 0:
        return empty_basis(len(energies), vectors.device)
    return vectors[:, : COUNTS[rule](energies / total, energy)]


def grow(basis: Tensor, gram: Tensor, energy: float, first_rule: str = "reach") -> Tensor:
    """Append the fewest directions to a basis so that it covers a share of the energy of a set of features.

    This is the rule of gradient projection memory (KeepLoRA, step 10). With F the features, E = ||F||_F^2 and
    F^ = F - M M^T F, leading left singular vectors of F^ are appended until the covered share of E reaches `energy`.
    Columns are only appended.

    Parameters
    ----------
    basis : Tensor [width, k], float64
        M.
    gram : Tensor [width, width]
        ``F F^T``, up to a positive factor.
    energy : float
        In (0, 1].
    first_rule : {"reach", "below"}, optional
        How an empty basis is filled; any other grows until it reaches the energy.

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
    # Projected once more and orthonormalised: eigenvectors of a tiny residual are orthogonal to M only up to rounding.
    fresh, _ = torch.linalg.qr(outside(basis, vectors[:, :added]))
    return torch.cat([basis, fresh], dim=1)


def leading_directions(matrix: Tensor, rank: int, basis: Tensor, floor: float | None = None) -> Tensor:
    """Return the leading left singular vectors of a matrix whose columns lie outside of a subspace.

    None of them lies inside the subspace. A matrix of rank below `rank` has no further directions of its own: what a
    decomposition returns for them is arbitrary and may lie inside the protected subspace. Such columns are dropped.

    Parameters
    ----------
    matrix : Tensor [width, n]
        Already projected: ``outside(basis, ...)``.
    rank : int
        The largest number of columns to return.
    basis : Tensor [width, k]
        The protected subspace.
    floor : float, optional
        Singular values up to this one are rounding, not directions; a millionth of the largest by default.

    Returns
    -------
    Tensor [width, r], float64
        Orthonormal columns, orthogonal to `basis`; r <= rank, and r = 0 if nothing is left.
    """
    matrix = matrix.double()
    energies, vectors = descending_eigh(matrix @ matrix.T)
    floor = 1e-6 * float(energies[0]) ** 0.5 if floor is None else floor
    rank_of_matrix = int((energies > floor**2).sum())
    kept = min(rank, matrix.shape[0] - basis.shape[1], rank_of_matrix)
    directions, _ = torch.linalg.qr(outside(basis, vectors[:, :kept]))
    return directions

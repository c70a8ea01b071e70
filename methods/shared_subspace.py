"""A subspace that the low-rank updates of all tasks share, and the coefficients of each task in it, for Share.

Functions of tensors, in float64. What is said of one side holds for the factors A^T [in, p] and for B [out, p] alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.api import torch

from .subspace import count_reaching

if TYPE_CHECKING:
    from torch import Tensor

ENERGY = {"column": 1.0, "vector": 0.6}
"""The share of the energy that a basis holds by default, by what its directions are of."""


def principal(stack: Tensor, most: int, energy: float = 1.0, floor: float = 0.0) -> Tensor:
    """Return the leading left singular vectors of a matrix.

    Parameters
    ----------
    stack : float64 Tensor [rows, n]
    most : int
        The largest number of vectors.
    energy : float, optional
        As few vectors as hold this share of the sum of squared singular values, in (0, 1].
    floor : float, optional
        Singular values up to this one are rounding, and no direction.

    Returns
    -------
    float64 Tensor [rows, k]
        k <= most; k = 0 for a matrix of zeros.
    """
    vectors, values, _ = torch.linalg.svd(stack, full_matrices=False)
    rank = int((values > floor).sum())
    wanted = rank if energy >= 1 else count_reaching(values**2 / (values**2).sum(), energy)
    return vectors[:, : min(most, rank, wanted)]


@dataclass(frozen=True)
class Subspace:
    """One side of one map: what all tasks share, and what each of them keeps.

    Attributes
    ----------
    basis : Tensor [rows, k]
        Orthonormal columns; alpha or beta. `rows` is the width of the side, or p times that for whole factors.
    coefficients : Tensor [T, k, c]
        Of every task: p columns, or one for whole factors.
    mean : Tensor [rows, 1] or None
        What is added to every task's share of whole factors.
    """

    basis: Tensor
    coefficients: Tensor
    mean: Tensor | None = None

    def factors(self, width: int, coefficients: Tensor | None = None) -> Tensor:
        """Return factors rebuilt from coefficients, those of all tasks by default.

        Parameters
        ----------
        width : int
            Of the side.
        coefficients : Tensor [..., k, c], optional

        Returns
        -------
        Tensor [..., width, p]
        """
        coefficients = self.coefficients if coefficients is None else coefficients
        rebuilt = self.basis @ coefficients
        rebuilt = rebuilt if self.mean is None else rebuilt + self.mean
        return rebuilt.reshape(*rebuilt.shape[:-2], width, -1)

    def to(self, like: Tensor) -> Subspace:
        """Return it with the type and on the device of a tensor."""
        tensors = {name: tensor.to(like).contiguous() for name, tensor in self.tensors().items()}
        return Subspace(**tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def shared_subspace(
    factors: Tensor,
    most: int,
    energy: float = 1.0,
    *,
    whole: bool = False,
    center: bool = False,
    beside: Tensor | None = None,
) -> Subspace:
    """Return the subspace of the factors of all tasks on one side, and their coefficients in it.

    By column, the basis is of the columns of all factors, side by side. Whole factors are one long vector each: their
    mean is taken off and kept, and the basis is of what remains.

    Parameters
    ----------
    factors : float64 Tensor [T, width, p]
        A^T or B of every task.
    most : int
        k at most.
    energy : float, optional
        k is the smallest number of directions with this share of the squared singular values, in (0, 1].
    whole : bool, optional
        Take whole factors instead of columns.
    center : bool, optional
        Take the mean off the columns before the decomposition, and do not keep it, as the released code does.
    beside : float64 Tensor [width, n], optional
        Further columns that the basis is of, and that no task keeps.

    Returns
    -------
    Subspace
        Float64.
    """
    parts = factors.flatten(1)[..., None] if whole else factors
    stack = torch.cat([*parts, *([] if beside is None else [beside])], dim=1)
    floor = 1e-6 * float(stack.norm()) / stack.shape[1] ** 0.5  # a millionth of what the largest one is at least
    mean = stack.mean(dim=1, keepdim=True)
    basis = principal(stack - mean if whole or center else stack, most, energy, floor)
    return Subspace(basis, basis.T @ (parts - mean if whole else parts), mean if whole else None)


def balanced(A: Tensor, B: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """Return the best approximation of B A of rank p, with the singular values shared out evenly.

    Parameters
    ----------
    A : Tensor [r, in]
    B : Tensor [out, r]
    p : int
        At most r.

    Returns
    -------
    A : Tensor [p, in]
    B : Tensor [out, p]
    """
    (left, Rb), (right, Ra) = torch.linalg.qr(B), torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(Rb @ Ra.T)
    roots = S[:p].sqrt()
    return (right @ Vh[:p].T * roots).T, left @ U[:, :p] * roots


def squared_distance(A: Tensor, B: Tensor, other_A: Tensor, other_B: Tensor) -> Tensor:
    """Return ``||B A - B' A'||_F^2`` without forming the products.

    Parameters
    ----------
    A, other_A : Tensor [..., p, in]
    B, other_B : Tensor [..., out, p]

    Returns
    -------
    Tensor [...]
        Up to rounding of the squared norms.
    """
    rows, columns = torch.cat([A, other_A], dim=-2), torch.cat([B, -other_B], dim=-1)
    return ((rows @ rows.mT) * (columns.mT @ columns)).sum(dim=(-2, -1)).clamp(min=0)

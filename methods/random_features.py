"""Random features of image features: fixed layers with random weights, of which the first task sees ranges and a tweak.

This is how the code for CLSNet computes its hidden layers (Li et al., arXiv 2306.11967). z [n, D] are features of
images, and x is z with mean 0 and deviation 1 and the constant 0.1 behind it:

1. N2 random maps E_i [D + 1, N1] give U_i = ranged(x E_i), where `ranged` takes what a column had on the first task's
   images to [0, 1];
2. the tweak, on the first task alone: V_i minimises ||U_i V - x||^2 / 2 + lam ||V||_1, 50 steps of ADMM. It uses no
   label. Z = ranged(x [V_1^T, V_2^T, ...]);
3. h = tanh(s m / max m) with m = [Z, 0.1] W_h, W_h random with orthonormal rows, and the maximum of the first task;
   g = relu(W [Z, h] + b) / norm, W and b uniform in -1 to 1. The norm makes the mean of |g|^2 one on the first task,
   so that learning rates mean the same at every width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bench.api import F, setting, torch

if TYPE_CHECKING:
    from torch import Tensor

CONSTANT = 0.1
"""What stands behind the inputs of a random map, in place of a bias."""

ITERATIONS = 50
"""Steps of ADMM."""


@dataclass
class Layers:
    """Sizes of the random layers, and how the first task shapes them."""

    width: int = setting(2000, "random features that the readout reads", low=1, symbol="L")
    groups: int = setting(10, "random maps of the tweak", low=1, symbol="N2")
    nodes: int = setting(10, "outputs of each of them", low=1, symbol="N1")
    enhancement: int = setting(800, "outputs of the layer between tweak and features", low=1, symbol="N3")
    sharpness: float = setting(200.0, "factor inside the tanh of that layer", above=0, symbol="s")
    sparsity: float = setting(1e-3, "weight of the absolute values in the tweak", above=0, symbol="lambda")
    tweak: str = setting(
        "shared",
        "shared: fitted to the first task's images, for all tasks; none: features straight from the image's",
        choices=("shared", "none"),
    )


def with_constant(x: Tensor) -> Tensor:
    """Return rows [..., k] with the constant behind them, [..., k + 1]."""
    return F.pad(x, (0, 1), value=CONSTANT)


def standardised(z: Tensor) -> Tensor:
    """Return rows of mean 0 and standard deviation 1, with the constant behind them.

    Parameters
    ----------
    z : Tensor [n, D]

    Returns
    -------
    Tensor [n, D + 1]
    """
    centred = z - z.mean(dim=-1, keepdim=True)
    return with_constant(centred / centred.square().mean(dim=-1, keepdim=True).sqrt())


def ranged(u: Tensor, low: Tensor, span: Tensor) -> Tensor:
    """Return columns taken from the range that they had to [0, 1]; those without a range lose their minimum alone.

    Parameters
    ----------
    u : Tensor [..., n, k]
    low, span : Tensor [..., k]
        The minimum of each column where the range was measured, and its maximum less that.

    Returns
    -------
    Tensor [..., n, k]
        Beyond 0 and 1 where a value lies outside of the range.
    """
    return (u - low[..., None, :]) / torch.where(span > 0, span, 1)[..., None, :]


def range_of(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum of each column of u [..., n, k], and its maximum less that; both [..., k]."""
    low = u.amin(dim=-2)
    return low, u.amax(dim=-2) - low


def sparse_codes(U: Tensor, X: Tensor, lam: float, iterations: int = ITERATIONS) -> Tensor:
    """Minimise ||U V - X||^2 / 2 + lam ||V||_1 by ADMM with a penalty of 1.

    Parameters
    ----------
    U : Tensor [..., n, k]
        One or several problems.
    X : Tensor [n, m]
    lam : float
    iterations : int, optional

    Returns
    -------
    Tensor [..., k, m]
        V after the last soft threshold, so its zeros are exact.
    """
    system = U.mT @ U + torch.eye(U.shape[-1]).to(U)
    factor, right = torch.linalg.cholesky(system), U.mT @ X
    V, dual = torch.zeros_like(right), torch.zeros_like(right)
    for _ in range(iterations):
        code = torch.cholesky_solve(right + V - dual, factor)
        V = F.softshrink(code + dual, lam)
        dual = dual + code - V
    return V


class Drawn(NamedTuple):
    """Random layers, the same for all tasks and never trained; ``E`` and ``W_h`` have no entries without the tweak."""

    E: Tensor  # [N2, D + 1, N1]
    W_h: Tensor  # [N2 N1 + 1, N3]
    W: Tensor  # [L, N2 N1 + N3], or [L, D + 1] without the tweak
    b: Tensor  # [L]


class Fitted(NamedTuple):
    """What the first task decides of the features."""

    codes: Tensor  # [D + 1, N2 N1], the transposes of all V_i; empty without the tweak, as the next two
    low: Tensor  # [N2 N1]
    span: Tensor  # [N2 N1]
    peak: Tensor  # [], the maximum of m
    norm: Tensor  # []


def draw_layers(width: int, sizes: Layers, draw: torch.Generator) -> Drawn:
    """Draw the random layers as the code for CLSNet does: E and the start of W_h are 2 n - 1 with n from N(0, 1).

    Parameters
    ----------
    width : int
        D.
    sizes : Layers
    draw : torch.Generator

    Returns
    -------
    Drawn
        float32, on the CPU.
    """
    tweak, codes = sizes.tweak == "shared", sizes.groups * sizes.nodes
    E = 2 * torch.randn(sizes.groups * tweak, width + 1, sizes.nodes, generator=draw) - 1
    start = 2 * torch.randn(sizes.enhancement * tweak, codes + 1, generator=draw, dtype=torch.float64) - 1
    W_h = torch.linalg.qr(start).Q.T if len(start) > codes else torch.linalg.qr(start.T).Q
    inputs = codes + sizes.enhancement if tweak else width + 1
    W, b = (torch.empty(shape).uniform_(-1, 1, generator=draw) for shape in ((sizes.width, inputs), sizes.width))
    return Drawn(E, W_h.float(), W, b)


def hidden(x: Tensor, layers: Drawn, fitted: Fitted, s: float) -> Tensor:
    """Return [Z, h] of inputs x [n, D + 1], or x itself without the tweak."""
    if not len(layers.E):
        return x
    Z = ranged(x @ fitted.codes, fitted.low, fitted.span)
    return torch.cat([Z, torch.tanh(s * (with_constant(Z) @ layers.W_h) / fitted.peak)], dim=1)


def random_features(z: Tensor, layers: Drawn, fitted: Fitted, s: float) -> Tensor:
    """Return g.

    Parameters
    ----------
    z : Tensor [n, D]
        Features of images.
    layers : Drawn
    fitted : Fitted
    s : float
        Sharpness of the tanh.

    Returns
    -------
    Tensor [n, L]
        None is negative.
    """
    return F.relu(hidden(standardised(z), layers, fitted, s) @ layers.W.T + layers.b) / fitted.norm


def fit_layers(z: Tensor, layers: Drawn, lam: float, s: float) -> Fitted:
    """Find the tweak, all ranges and the norm on the images of the first task.

    Parameters
    ----------
    z : Tensor [n, D], float64
        Features of all its images; at least two with the tweak.
    layers : Drawn
        Of the same type.
    lam, s : float

    Returns
    -------
    Fitted
    """
    x, one = standardised(z), torch.ones(()).to(z)
    fitted = Fitted(one.new_zeros(0), one.new_zeros(0), one.new_zeros(0), one, one)
    if len(layers.E):
        U = x @ layers.E
        V = sparse_codes(ranged(U, *range_of(U)), x, lam)
        codes = V.flatten(0, 1).T
        low, span = range_of(x @ codes)
        peak = (with_constant(ranged(x @ codes, low, span)) @ layers.W_h).max()
        fitted = Fitted(codes, low, span, peak, one)
    return fitted._replace(norm=random_features(z, layers, fitted, s).square().sum(dim=1).mean().sqrt())

"""What blocks compute with gradients of our own: products with weights and low-rank updates, and QuickGELU."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.linear_maps import Site

Rows = tuple[int, int, float]
"""The first row of an update in the weight, the row after its last, and its scale."""

SLOPE = 1.702
"""The factor in QuickGELU."""

X, WEIGHT, BIAS, _, FACTORS = range(5)
"""Positions of the arguments of `_Updated`; the factors follow in the order A, B, A, B and so on."""


def linear(
    site: Site,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    chosen: slice = slice(None),
    counted: Tensor | None = None,
) -> Tensor:
    """Return ``x W^T + b`` for all maps of a site at once, plus their updates.

    Parameters
    ----------
    site : Site
    x : Tensor [batch, tokens, width]
        The activation of the site.
    weight : Tensor [rows, width]
        The rows of the common parameter that belong to the chosen maps.
    bias : Tensor [rows] or None
    chosen : slice, optional
        The maps of the site that are computed; all by default.
    counted : bool Tensor [batch, tokens], optional
        For the site's recorder.

    Returns
    -------
    Tensor [batch, tokens, rows]
    """
    if site.recorder is not None:
        site.recorder(x, counted)
    maps = site.maps[chosen]
    present = [linear_map for linear_map in maps if linear_map.update is not None]
    if not present:
        return F.linear(x, weight, bias)
    first, factors, layout = maps[0].rows.start, list[Tensor](), list[Rows]()
    lowered = torch.is_autocast_enabled(x.device.type)
    # Updates keep their own precision: only the product with the activation is lowered.
    with torch.autocast(x.device.type, enabled=False) if lowered else nullcontext():
        for linear_map in present:
            assert linear_map.update is not None
            factors += linear_map.update.factors()
            start = linear_map.rows.start - first
            layout.append((start, start + linear_map.out_features, linear_map.update.scale))
    if lowered:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _Updated.apply(x, weight, bias, tuple(layout), *factors)


class _Updated(torch.autograd.Function):
    """``x (W + D)^T + b``, D being the low-rank updates of some of W's rows.

    The sum costs a product with as many activations as the rank. In return, forward and backward need one large product
    each, instead of several small ones beside it and a sum of activations for every map. The sum is not kept but
    computed again for the backward pass. Only ``x A^T`` of the input is kept, for the gradient of B; the whole input is
    kept where A or W is trained.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layout: tuple[Rows, ...], *factors: Tensor
    ) -> Tensor:
        y = F.linear(x, _sum(weight, layout, factors).to(x.dtype), None if bias is None else bias.to(x.dtype))
        needs_x = ctx.needs_input_grad[WEIGHT] or any(ctx.needs_input_grad[FACTORS::2])
        needs_b = ctx.needs_input_grad[FACTORS + 1 :: 2]
        low = [F.linear(x, A.to(x.dtype)) if needed else None for A, needed in zip(factors[::2], needs_b, strict=True)]
        ctx.layout = layout
        ctx.save_for_backward(weight, x if needs_x else None, *low, *factors)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = upstream
        weight, x, *others = ctx.saved_tensors
        low, factors = others[: len(ctx.layout)], others[len(ctx.layout) :]
        wants, rows = ctx.needs_input_grad, g.flatten(0, -2)
        gradients: list[Tensor | None] = [None] * len(wants)
        if wants[X]:
            gradients[X] = g @ _sum(weight, ctx.layout, factors).to(g.dtype)
        if wants[WEIGHT]:
            gradients[WEIGHT] = (rows.T @ x.flatten(0, -2)).to(weight.dtype)
        if wants[BIAS]:
            gradients[BIAS] = rows.sum(0).to(weight.dtype)
        for index, (start, stop, scale) in enumerate(ctx.layout):
            part, (A, B) = rows[:, start:stop], factors[2 * index : 2 * index + 2]
            of_a = FACTORS + 2 * index
            of_b = of_a + 1
            if wants[of_a]:
                gradients[of_a] = scale * ((part @ B.to(part.dtype)).T @ x.flatten(0, -2)).to(A.dtype)
            if wants[of_b]:
                gradients[of_b] = scale * (part.T @ low[index].flatten(0, -2)).to(B.dtype)
        return tuple(gradients)


def _sum(weight: Tensor, layout: Sequence[Rows], factors: Sequence[Tensor]) -> Tensor:
    """Return W + D; the layout has the rows and the scale of every update, the factors are A and B of each."""
    total = weight.clone()
    for (start, stop, scale), A, B in zip(layout, factors[::2], factors[1::2], strict=True):
        total[start:stop].addmm_(B, A, alpha=scale)
    return total


class QuickGELU(nn.Module):
    """``x sigmoid(1.702 x)``, in place of open_clip's layer of that name.

    It is computed as ``silu(1.702 x) / 1.702``: fewer passes over the activation, one tensor kept for the backward pass
    instead of two, and a backward pass in one step. The result differs from open_clip's in its last digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of every number of `x`, in its precision."""
        y: Tensor = _QuickGelu.apply(x)
        return y


class _QuickGelu(torch.autograd.Function):
    """With z = 1.702 x, the derivative of silu(z) / 1.702 by x is that of silu by z."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        z = x * SLOPE
        kept = ctx.needs_input_grad[0]
        if kept:
            ctx.save_for_backward(z)
        return F.silu(z, inplace=not kept).mul_(1 / SLOPE)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (g,) = upstream
        (z,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(g, z)

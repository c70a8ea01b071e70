"""Layers that take the place of a block's own, so that their linear maps can be read and updated.

PyTorch hides three of the maps (query, key, value) in one packed parameter, and its attention module passes the fourth
to a fused function, where no hook sees it. The modules here replace `torch.nn.MultiheadAttention` and `torch.nn.Linear`
in a block, keep their parameters and names (a state dict stays interchangeable with open_clip's), and give each map a
`LinearMap`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.linear_maps import LinearMap, Site
from bench.model.packing import Packing


def linear(site: Site, x: Tensor, weight: Tensor, bias: Tensor | None, chosen: slice = slice(None)) -> Tensor:
    """Return ``x W^T + b`` for all maps of a site at once, plus their updates.

    Parameters
    ----------
    weight, bias : Tensor
        Their rows of the common parameter.
    chosen : slice
        Some of the site's maps, where not all of them are wanted.
    """
    if site.recorder is not None:
        site.recorder(x)
    maps = site.maps[chosen]
    present = [linear_map for linear_map in maps if linear_map.update is not None]
    if not present:
        return F.linear(x, weight, bias)
    first, factors, layout = maps[0].rows.start, list[Tensor](), list[tuple[int, int, float]]()
    for linear_map in present:
        assert linear_map.update is not None
        factors += [linear_map.update.A, linear_map.update.B]
        start = linear_map.rows.start - first
        layout.append((start, start + linear_map.out_features, linear_map.update.scale))
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _Updated.apply(x, weight, bias, tuple(layout), *factors)


class _Updated(torch.autograd.Function):
    """``x (W + D)^T + b``, D being the low-rank updates of some of W's rows.

    The sum is formed, at the cost of a product with as many activations as the rank, so that forward and backward need
    one large product each, instead of small ones beside it and a sum of activations for every map. It is not kept but
    formed again for the backward pass. Of the input ``x A^T`` alone is kept, for the gradient of B; all of it where A
    or W is trained.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layout: tuple[tuple[int, int, float], ...], *f: Tensor
    ) -> Tensor:
        y = F.linear(x, _sum(weight, layout, f).to(x.dtype), None if bias is None else bias.to(x.dtype))
        wants = ctx.needs_input_grad
        low = [F.linear(x, A.to(x.dtype)) if wants[5 + 2 * i] else None for i, A in enumerate(f[::2])]
        ctx.layout = layout
        ctx.save_for_backward(weight, x if wants[1] or any(wants[4::2]) else None, *low, *f)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = upstream
        weight, x, *others = ctx.saved_tensors
        low, factors = others[: len(ctx.layout)], others[len(ctx.layout) :]
        wants, rows = ctx.needs_input_grad, g.flatten(0, -2)
        found: list[Tensor | None] = [None] * len(wants)
        if wants[0]:
            found[0] = g @ _sum(weight, ctx.layout, factors).to(g.dtype)
        if wants[1]:
            found[1] = (rows.T @ x.flatten(0, -2)).to(weight.dtype)
        if wants[2]:
            found[2] = rows.sum(0).to(weight.dtype)
        for index, (start, stop, scale) in enumerate(ctx.layout):
            part, (A, B) = rows[:, start:stop], factors[2 * index : 2 * index + 2]
            if wants[4 + 2 * index]:
                found[4 + 2 * index] = scale * ((part @ B.to(part.dtype)).T @ x.flatten(0, -2)).to(A.dtype)
            if wants[5 + 2 * index]:
                found[5 + 2 * index] = scale * (part.T @ low[index].flatten(0, -2)).to(B.dtype)
        return tuple(found)


def _sum(weight: Tensor, layout: Sequence[tuple[int, int, float]], factors: Sequence[Tensor]) -> Tensor:
    """W + D; for every update its rows of W and its scale, then A and B of all."""
    found = weight.clone()
    for (start, stop, scale), A, B in zip(layout, factors[::2], factors[1::2], strict=True):
        found[start:stop].addmm_(B, A, alpha=scale)
    return found


class MapAttention(nn.Module):
    """Self-attention with the parameters and names of `torch.nn.MultiheadAttention`, reading through two sites."""

    def __init__(self, attention: nn.MultiheadAttention, name: str):
        super().__init__()
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        width = attention.embed_dim
        self.heads = attention.num_heads
        self.packing: Packing | None = None  # while texts go through that are packed
        self.qkv = Site(f"{name}.qkv", width)
        for index, kind in enumerate("qkv"):
            rows = slice(index * width, (index + 1) * width)
            linear_map = LinearMap(f"{name}.{kind}", self.in_proj_weight, self.in_proj_bias, rows, self.qkv)
            self.qkv.maps.append(linear_map)
        self.out_proj = MapLinear(attention.out_proj, f"{name}.o")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend within `query` [batch, tokens, width]; key and value must be the same tensor (self-attention)."""
        batch, tokens, width = query.shape
        qkv = linear(self.qkv, query, self.in_proj_weight, self.in_proj_bias)
        if self.packing is not None and attn_mask is not None:
            heads = self.packing.attend(qkv.view(tokens, 3, self.heads, width // self.heads), attn_mask)
            return self.out_proj(heads[None]), None
        q, k, v = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(heads.transpose(1, 2).reshape(batch, tokens, width)), None

    def read(self, query: Tensor, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """Attend from single positions to all of them.

        Parameters
        ----------
        query : Tensor [batch, 1, width]
            The input at the position of interest.
        x : Tensor [batch, tokens, width], or [1, row, width] of packed texts
        attn_mask : Tensor [batch, 1, 1, tokens] or None; that of the tower for packed texts

        Returns
        -------
        Tensor [batch, 1, width]
        """
        batch, width, tokens = len(query), x.shape[-1], x.shape[1]
        head = width // self.heads
        bias = (None, None) if self.in_proj_bias is None else (self.in_proj_bias[:width], self.in_proj_bias[width:])
        q = linear(self.qkv, query, self.in_proj_weight[:width], bias[0], slice(0, 1))
        kv = linear(self.qkv, x, self.in_proj_weight[width:], bias[1], slice(1, 3))
        q = q.view(batch, 1, self.heads, head).transpose(1, 2)
        if self.packing is not None and attn_mask is not None:
            heads = self.packing.read(q, kv.view(tokens, 2, self.heads, head), attn_mask)
        else:
            k, v = kv.view(batch, tokens, 2, self.heads, head).permute(2, 0, 3, 1, 4)
            mask = None if attn_mask is None else attn_mask.to(q.dtype)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(heads.transpose(1, 2).reshape(batch, 1, width))


class MapLinear(nn.Module):
    """A linear layer with the parameters of the one it replaces, holding a single map with a site of its own."""

    def __init__(self, linear: nn.Linear, name: str):
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.site = Site(name, linear.in_features)
        self.site.maps.append(LinearMap(name, self.weight, self.bias, slice(0, linear.out_features), self.site))

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.site, x, self.weight, self.bias)


def read_last_block(block: Any, x: Tensor, read: Tensor | None, attn_mask: Tensor | None) -> Tensor:
    """The output of a tower's last block at one position of each sequence, which is all that is read of it.

    Everything but keys and values is computed at that position alone: the same values, at a fraction of the cost.

    Parameters
    ----------
    block : open_clip's ResidualAttentionBlock
        With its linear maps replaced.
    x : Tensor [batch, tokens, width], or [1, row, width] of packed texts
    read : int64 Tensor [batch] or None
        The positions; None for the first one.
    attn_mask : Tensor [tokens, tokens] or None

    Returns
    -------
    Tensor [batch, width]
    """
    packing = block.attn.packing
    sequences = torch.arange(len(x), device=x.device)

    def at(y: Tensor) -> Tensor:
        if packing is not None:
            return y[0].index_select(0, packing.end)[:, None]
        return y[:, :1] if read is None else y[sequences, read][:, None]

    mask = None if attn_mask is None or read is None else attn_mask[read][:, None, None]
    if packing is not None:
        mask = attn_mask
    normed = block.ln_1(x)
    y = at(x) + block.ls_1(block.attn.read(at(normed), normed, mask))
    return (y + block.ls_2(block.mlp(block.ln_2(y))))[:, 0]


def replace_linear_maps(blocks: Iterable[Any], tower: str) -> list[Site]:
    """Put `MapAttention` and `MapLinear` in the place of each block's layers and return the sites in forward order.

    Parameters
    ----------
    blocks : iterable of open_clip's ResidualAttentionBlock
    tower : {"image", "text"}
    """
    sites = []
    for index, block in enumerate(blocks):
        name = f"{tower}.{index}"
        block.attn = MapAttention(block.attn, name)
        block.mlp.c_fc = MapLinear(block.mlp.c_fc, f"{name}.fc1")
        block.mlp.c_proj = MapLinear(block.mlp.c_proj, f"{name}.fc2")
        sites += [block.attn.qkv, block.attn.out_proj.site, block.mlp.c_fc.site, block.mlp.c_proj.site]
    return sites

"""The linear maps of a transformer: their weights, the activations they read, and low-rank updates on them.

Every method of this suite reads and writes a few matrices ``y = x W^T + b``. PyTorch hides three of them (query, key,
value) in one packed parameter, and its attention module passes the fourth to a fused function, where no hook sees it.
The modules here take the place of `torch.nn.MultiheadAttention` and `torch.nn.Linear` in a block, keep their parameters
and names (a state dict stays interchangeable with open_clip's), and give each map a `LinearMap`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.packing import Packing

Recorder = Callable[[Tensor], None]


@dataclass
class LowRank:
    """A low-rank update of one linear map: the map computes ``x W^T + b + scale * (x A^T) B^T``.

    Attributes
    ----------
    A : Tensor [rank, in]
        Down-projection. Papers that store weights as [in, out] write its transpose.
    B : Tensor [out, rank]
        Up-projection.
    scale : float
        LoRA's alpha / rank.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    def delta(self) -> Tensor:
        """The change of the weight, ``scale * B A``, [out, in]."""
        return self.scale * (self.B @ self.A)


@dataclass
class Site:
    """An activation that one or several linear maps read; statistics are gathered per site, not per map.

    Attributes
    ----------
    name : str
        ``image.3.qkv``, ``image.3.o``, ``image.3.fc1``, ``image.3.fc2``, and the same under ``text.``
    width : int
        Number of features of the activation.
    maps : list of LinearMap
        The maps that read it, in the order of the rows of their common parameter.
    recorder : callable or None
        Called with the activation, [batch, tokens, width], on every forward pass while set.
    """

    name: str
    width: int
    maps: list["LinearMap"] = field(default_factory=list)
    recorder: Recorder | None = None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, chosen: slice = slice(None)) -> Tensor:
        """``x W^T + b`` for all maps of the site at once, plus their updates.

        Parameters
        ----------
        weight, bias : Tensor
            Their rows of the common parameter.
        chosen : slice
            Some of the site's maps, where not all of them are wanted.
        """
        if self.recorder is not None:
            self.recorder(x)
        maps = self.maps[chosen]
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


@dataclass
class LinearMap:
    """One linear map of one block.

    Attributes
    ----------
    name : str
        ``image.3.q``: tower, block, kind (q, k, v, o, fc1, fc2).
    parameter, bias_parameter : Tensor
        The parameters that hold the map, possibly together with others.
    rows : slice
        The rows of `parameter` that belong to this map.
    site : Site
        The activation it reads.
    update : LowRank or None
        The update in force.
    """

    name: str
    parameter: Tensor
    bias_parameter: Tensor | None
    rows: slice
    site: Site
    update: LowRank | None = None

    @property
    def tower(self) -> str:
        return self.name.split(".")[0]

    @property
    def block(self) -> int:
        return int(self.name.split(".")[1])

    @property
    def kind(self) -> str:
        return self.name.split(".")[2]

    @property
    def out_features(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def in_features(self) -> int:
        return self.parameter.shape[1]

    @property
    def weight(self) -> Tensor:
        """View of the weight, [out, in], without the update; writing to it writes to the model."""
        return self.parameter.detach()[self.rows]

    @property
    def grad(self) -> Tensor:
        """View of the weight's gradient, [out, in].

        Raises
        ------
        RuntimeError
            If no gradient has reached the parameter.
        """
        if self.parameter.grad is None:
            raise RuntimeError(f"no gradient has reached {self.name}")
        return self.parameter.grad[self.rows]

    @torch.no_grad()
    def add(self, delta: Tensor) -> None:
        """Add `delta` [out, in] to the weight in the weight's own precision."""
        self.weight.add_(delta.to(self.parameter.dtype))

    def merge(self) -> None:
        """Fold the update into the weight and detach it; nothing to do without one."""
        if self.update is not None:
            self.add(self.update.delta().detach())
            self.update = None


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
        qkv = self.qkv.linear(query, self.in_proj_weight, self.in_proj_bias)
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
        q = self.qkv.linear(query, self.in_proj_weight[:width], bias[0], slice(0, 1))
        kv = self.qkv.linear(x, self.in_proj_weight[width:], bias[1], slice(1, 3))
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
        return self.site.linear(x, self.weight, self.bias)


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

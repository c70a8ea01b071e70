"""The linear maps of a transformer: their weights, the activations they read, and low-rank updates on them.

Every method of this suite reads and writes a few matrices ``y = x W^T + b``. PyTorch hides three of them (query, key,
value) in one packed parameter, and its attention module passes the fourth to a fused function, where no hook sees it.
The modules here take the place of `torch.nn.MultiheadAttention` and `torch.nn.Linear` in a block, keep their parameters
and names (a state dict stays interchangeable with open_clip's), and give each map a `LinearMap`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        y = F.linear(x, weight, bias)
        maps = self.maps[chosen]
        updates = [linear_map.update for linear_map in maps]
        present = [update for update in updates if update is not None]
        if not present:
            return y
        if len(maps) == 1:
            (update,) = present
            return y + F.linear(F.linear(x, update.A), update.scale * update.B)
        # One product for all down-projections of the site: the activation is read once.
        low = iter(F.linear(x, torch.cat([update.A for update in present])).split([u.rank for u in present], dim=-1))
        parts = [
            x.new_zeros(*x.shape[:-1], linear_map.out_features)
            if update is None
            else F.linear(next(low), update.scale * update.B)
            for linear_map, update in zip(maps, updates, strict=True)
        ]
        return y + torch.cat(parts, dim=-1)


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
        q, k, v = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(heads.transpose(1, 2).reshape(batch, tokens, width)), None

    def read(self, query: Tensor, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """Attend from single positions to all of them.

        Parameters
        ----------
        query : Tensor [batch, 1, width]
            The input at the position of interest.
        x : Tensor [batch, tokens, width]
        attn_mask : Tensor [batch, 1, 1, tokens] or None

        Returns
        -------
        Tensor [batch, 1, width]
        """
        batch, tokens, width = x.shape
        head = width // self.heads
        bias = (None, None) if self.in_proj_bias is None else (self.in_proj_bias[:width], self.in_proj_bias[width:])
        q = self.qkv.linear(query, self.in_proj_weight[:width], bias[0], slice(0, 1))
        kv = self.qkv.linear(x, self.in_proj_weight[width:], bias[1], slice(1, 3))
        q = q.view(batch, 1, self.heads, head).transpose(1, 2)
        k, v = kv.view(batch, tokens, 2, self.heads, head).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
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
    x : Tensor [batch, tokens, width]
    read : int64 Tensor [batch] or None
        The positions; None for the first one.
    attn_mask : Tensor [tokens, tokens] or None

    Returns
    -------
    Tensor [batch, width]
    """
    sequences = torch.arange(len(x), device=x.device)

    def at(y: Tensor) -> Tensor:
        return y[:, :1] if read is None else y[sequences, read][:, None]

    mask = None if attn_mask is None or read is None else attn_mask.to(x.dtype)[read][:, None, None]
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

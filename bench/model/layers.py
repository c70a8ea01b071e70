"""Layers that replace a block's own, so that their linear maps can be read and updated.

PyTorch hides three of the maps (query, key, value) in one packed parameter, and its attention module passes the fourth
to a fused function, where no hook sees it. The modules here replace `torch.nn.MultiheadAttention` and `torch.nn.Linear`
in a block, keep their parameters and names (a state dict stays interchangeable with open_clip's), and give each map a
`LinearMap`. It is one file, because all of them are put into a model together; half of it says what they compute.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU as OpenClipsQuickGELU
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.model.linear_maps import LinearMap, Site
from bench.model.packing import Packing
from bench.model.places import Place
from bench.model.updates import QuickGELU, linear

WIDE = 512
"""The least width of a tower whose patches are embedded by a product; narrower ones keep the bits of a convolution."""


@dataclass(frozen=True)
class Layout:
    """The arrangement of the tokens of one forward pass; every layer of a block receives it with the activations.

    Attributes
    ----------
    attn_mask : Tensor [tokens, tokens] or None
        Added to the attention's scores; [context length, context length] for packed texts.
    packing : Packing or None
        Set if the texts are packed in one row, [1, row, width].
    counted : bool Tensor [batch, tokens] or None
        The tokens that count, for recorders; None where all do.
    read : int64 Tensor [batch] or None
        The tokens that the tower reads, for what is computed beside; None for the first ones.
    """

    attn_mask: Tensor | None = None
    packing: Packing | None = None
    counted: Tensor | None = None
    read: Tensor | None = None

    def read_token(self, x: Tensor) -> Tensor | None:
        """Return which tokens of `x` [batch, ..., tokens, width] the tower reads, int64 [batch]; None if packed."""
        if self.packing is not None:
            return None
        alone = x.shape[-2] == 1  # in the last block nothing else is computed
        return torch.zeros(len(x), dtype=torch.int64, device=x.device) if alone or self.read is None else self.read


PLAIN = Layout()
"""The layout of images: whole sequences, every token attends to every other and counts."""


class MapAttention(nn.Module):
    """Self-attention with the parameters and names of `torch.nn.MultiheadAttention`, reading through two sites.

    Parameters
    ----------
    attention : torch.nn.MultiheadAttention
        The layer to replace; batch first.
    name : str
        Prefix of the maps' names, such as ``image.3``.
    """

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
        self.beside_heads, self.beside = Place(f"{name}.heads"), Place(f"{name}.attention")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend within `query` [batch, tokens, width], where open_clip's own blocks call the layer.

        `key` and `value` must be the same tensor as `query`; no attention weights are returned.
        """
        return self.attend(query, Layout(attn_mask)), None

    def attend(self, x: Tensor, layout: Layout) -> Tensor:
        """Return self-attention at all positions.

        Parameters
        ----------
        x : Tensor [batch, tokens, width], or [1, row, width] of packed texts
        layout : Layout

        Returns
        -------
        Tensor
            Of the shape of `x`.
        """
        batch, tokens, width = x.shape
        qkv = linear(self.qkv, x, self.in_proj_weight, self.in_proj_bias, counted=layout.counted)
        q, k, v = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if layout.packing is not None:
            assert layout.attn_mask is not None
            row = layout.packing.attend(qkv.view(tokens, 3, self.heads, width // self.heads), layout.attn_mask)
            heads = row.view(1, tokens, self.heads, -1).transpose(1, 2)
        else:
            mask = None if layout.attn_mask is None else layout.attn_mask.to(q.dtype)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        heads = self.beside_heads.add(heads, q, layout.read_token)
        y = self.out_proj(heads.transpose(1, 2).reshape(batch, tokens, width), layout.counted)
        return self.beside.add(y, x, layout.read_token)

    def read(self, query: Tensor, x: Tensor, read: Tensor | None, layout: Layout) -> Tensor:
        """Return self-attention at one position of each sequence.

        Parameters
        ----------
        query : Tensor [batch, 1, width]
            The input at that position.
        x : Tensor [batch, tokens, width], or [1, row, width] of packed texts
            The input at all positions.
        read : int64 Tensor [batch] or None
            The positions; None for the first one.
        layout : Layout

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
        if layout.packing is not None:
            assert layout.attn_mask is not None
            heads = layout.packing.read(q, kv.view(tokens, 2, self.heads, head), layout.attn_mask)
        else:
            k, v = kv.view(batch, tokens, 2, self.heads, head).permute(2, 0, 3, 1, 4)
            rows = None if layout.attn_mask is None or read is None else layout.attn_mask[read][:, None, None]
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=None if rows is None else rows.to(q.dtype))
        heads = self.beside_heads.add(heads, q, layout.read_token)
        return self.beside.add(self.out_proj(heads.transpose(1, 2).reshape(batch, 1, width)), query, layout.read_token)


class MapLinear(nn.Module):
    """A linear layer with the parameters of the one it replaces: a single map with its own site.

    Parameters
    ----------
    layer : torch.nn.Linear
        The layer to replace.
    name : str
        Of the map and its site, such as ``image.3.fc1``.
    """

    def __init__(self, layer: nn.Linear, name: str):
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.site = Site(name, layer.in_features)
        self.site.maps.append(LinearMap(name, self.weight, self.bias, slice(0, layer.out_features), self.site))

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return the outputs of the map, [batch, tokens, out]; `counted` is for the site's recorder."""
        return linear(self.site, x, self.weight, self.bias, counted=counted)


class PatchProduct(nn.Module):
    """The embedding of patches that do not overlap, with the parameters of the convolution that it replaces.

    On a CPU, one product of all patches with the weight takes a fifth of the time of a convolution; the result is the
    same up to rounding. Elsewhere it is the convolution.

    Parameters
    ----------
    layer : torch.nn.Conv2d
    """

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.weight, self.bias, self.stride = layer.weight, layer.bias, layer.stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings, [batch, width, rows, columns], of images [batch, 3, height, width]."""
        if x.device.type != "cpu":
            return F.conv2d(x, self.weight, self.bias, self.stride)
        height, width = self.weight.shape[2:]
        patches = x.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def patches(layer: nn.Conv2d) -> nn.Module:
    """Return what embeds patches in place of `layer`: `PatchProduct` for `WIDE` models, else `layer` itself."""
    apart = layer.stride == layer.kernel_size and layer.padding == (0, 0) and layer.groups == 1
    return PatchProduct(layer) if apart and layer.out_channels >= WIDE else layer


def through_blocks(
    blocks: Sequence[Any], x: Tensor, read: Tensor | None, layout: Layout = PLAIN, whole: bool = False
) -> Tensor:
    """Return the output of a tower's blocks at one position of each sequence.

    Parameters
    ----------
    blocks : sequence of open_clip's ResidualAttentionBlock
        With their linear maps replaced.
    x : Tensor [batch, tokens, width], or [1, row, width] of packed texts
    read : int64 Tensor [batch] or None
        The positions; None for the first one. Ignored for packed texts, which know their ends.
    layout : Layout, optional
    whole : bool, optional
        Compute the last block at all positions too, because something reads them; not for packed texts.

    Returns
    -------
    Tensor [batch, width]
    """
    *first, last = blocks
    for block in first:
        x = run_block(block, x, layout)
    if not whole:
        return _read_block(last, x, read, layout)
    x = run_block(last, x, layout)
    return x[:, 0] if read is None else x[torch.arange(len(x), device=x.device), read]


def run_block(block: Any, x: Tensor, layout: Layout) -> Tensor:
    """Return the output of a block at all positions: open_clip's own computation, with the layout passed along.

    Parameters
    ----------
    block : open_clip's ResidualAttentionBlock
        With its linear maps replaced.
    x : Tensor [batch, tokens, width], or [1, row, width] of packed texts
    layout : Layout

    Returns
    -------
    Tensor
        Of the shape of `x`.
    """
    first, activation, second = block.mlp
    x = x + block.ls_1(block.attn.attend(block.ln_1(x), layout))
    normed = block.ln_2(x)
    hidden = activation(first(normed, layout.counted))
    y = x + block.ls_2(block.beside_mlp.add(second(hidden, layout.counted), normed, layout.read_token))
    return block.beside.add(y, x, layout.read_token)


def places_of(blocks: Iterable[Any]) -> list[Place]:
    """Return the places of blocks with replaced linear maps, in forward order."""
    return [
        place
        for block in blocks
        for place in (block.attn.beside_heads, block.attn.beside, block.beside_mlp, block.beside)
    ]


def _read_block(block: Any, x: Tensor, read: Tensor | None, layout: Layout) -> Tensor:
    """Return the output of a block at one position of each sequence, [batch, width].

    Everything but keys and values is computed at that position only: the same values, at a fraction of the cost.
    """
    packing = layout.packing
    sequences = torch.arange(len(x), device=x.device)

    def at(y: Tensor) -> Tensor:
        if packing is not None:
            return y[0].index_select(0, packing.end)[:, None]
        return y[:, :1] if read is None else y[sequences, read][:, None]

    normed = block.ln_1(x)
    y = at(x) + block.ls_1(block.attn.read(at(normed), normed, read, layout))
    normed = block.ln_2(y)
    z = y + block.ls_2(block.beside_mlp.add(block.mlp(normed), normed, layout.read_token))
    return block.beside.add(z, y, layout.read_token)[:, 0]


def activation(model: Any) -> str:
    """Return the name of the function between the two linear layers of a block: ``"GELU"`` or ``"QuickGELU"``.

    Parameters
    ----------
    model : torch.nn.Module
        An open_clip model that `check_native` accepts.

    Returns
    -------
    str
    """
    return type(model.visual.transformer.resblocks[0].mlp[1]).__name__


def check_native(model: Any, text: Any, name: str) -> None:
    """Refuse a model whose towers are not open_clip's own transformers with plain residual attention blocks.

    Parameters
    ----------
    model : torch.nn.Module
        An open_clip model, before its linear maps are replaced.
    text : torch.nn.Module
        Its text tower.
    name : str
        For the message.

    Raises
    ------
    UserError
        It names what is not supported.
    """
    problem = None
    if not isinstance(getattr(model, "visual", None), VisionTransformer):
        problem = f"its image tower is a {type(getattr(model, 'visual', None)).__name__}"
    elif getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False):
        problem = "its text tower appends a class token or masks padding"
    elif not hasattr(text, "token_embedding") or not hasattr(text, "transformer"):
        problem = f"its text tower is a {type(text).__name__}"
    else:
        blocks = [*model.visual.transformer.resblocks, *text.transformer.resblocks]
        odd = next((b for b in blocks if type(b) is not ResidualAttentionBlock), None)
        if odd is not None:
            problem = f"its blocks are {type(odd).__name__}s"
        elif not all(block.attn.batch_first for block in blocks):
            problem = "its blocks read tokens first and not the batch first"
    if problem:
        raise UserError(
            f"model {name} is not supported: {problem}; choose one with open_clip's own vision and text transformers "
            "(see: python -m bench list models)"
        )


def replace_linear_maps(blocks: Iterable[Any], tower: str) -> list[Site]:
    """Replace each block's layers by `MapAttention`, `MapLinear` and, where it has one, our `QuickGELU`.

    Parameters
    ----------
    blocks : iterable of open_clip's ResidualAttentionBlock
        Changed in place.
    tower : {"image", "text"}
        For the names of the maps.

    Returns
    -------
    list of Site
        In forward order.
    """
    sites = []
    for index, block in enumerate(blocks):
        name = f"{tower}.{index}"
        block.attn = MapAttention(block.attn, name)
        block.mlp.c_fc = MapLinear(block.mlp.c_fc, f"{name}.fc1")
        block.mlp.c_proj = MapLinear(block.mlp.c_proj, f"{name}.fc2")
        if isinstance(block.mlp.gelu, OpenClipsQuickGELU):
            block.mlp.gelu = QuickGELU()
        block.beside_mlp, block.beside = Place(f"{name}.mlp"), Place(f"{name}.residual")
        sites += [block.attn.qkv, block.attn.out_proj.site, block.mlp.c_fc.site, block.mlp.c_proj.site]
    return sites

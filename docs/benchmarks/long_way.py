"""KeepLoRA the long way, as the code released with it goes: what the suite's shortcuts are measured and tested against.

Written from the definitions and from what is known of the order and the cost of the released code: texts at all
positions of the context and again for every batch; both towers to their last block at all positions; gradients of every
parameter of both towers, added up batch by batch on the CPU; the updates of q, k, v and o as separate small products; a
feature matrix for every map; two decompositions of a tall matrix for every map and task.

It shares the parameters of a `Clip` and nothing else with the suite: no layer of it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.model.clip import Clip
from bench.model.layers import activation

KINDS = ("q", "k", "v", "o")


class LongWay:
    """The released way through one task, on the parameters of a model.

    Parameters
    ----------
    clip : Clip
        With towers that read an image at its class token and a text where its token is largest (as OpenAI's do).
    rank : int
        r; the scale of updates is 1 / r.
    bases : dict of map name to Tensor [width, k], optional
        M; empty ones by default.

    Attributes
    ----------
    updates : dict of map name to (A [in, r], B [r, out])
        In force; none before `start`.
    features : dict of map name to Tensor [width, tokens]
        F, after `feature_pass`.
    """

    def __init__(self, clip: Clip, rank: int, bases: dict[str, Tensor] | None = None):
        self.clip = clip
        self.rank = rank
        self.scale = 1 / rank
        self.updates: dict[str, tuple[Tensor, Tensor]] = {}
        self.bases = bases or {}
        self.features: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}
        self._record = False

    # ---- towers

    def images(self, pixels: Tensor) -> Tensor:
        """Normalised images [batch, 3, height, width] -> features of unit length, [batch, width of embedding]."""
        visual = self.clip.model.visual
        x = F.conv2d(pixels, visual.conv1.weight, visual.conv1.bias, visual.conv1.stride)
        x = x.flatten(2).permute(0, 2, 1)
        first = visual.class_embedding + x.new_zeros(len(x), 1, x.shape[-1])
        x = torch.cat([first, x], dim=1) + visual.positional_embedding
        x = _norm(visual.ln_pre, x).permute(1, 0, 2)  # tokens first
        for index, block in enumerate(visual.transformer.resblocks):
            x = self._block(f"image.{index}", block, x, None)
        x = _norm(visual.ln_post, x.permute(1, 0, 2)[:, 0]) @ visual.proj
        return x / x.norm(dim=-1, keepdim=True)

    def texts(self, tokens: Tensor) -> Tensor:
        """Token ids [texts, context length] -> features of unit length, [texts, width of embedding]."""
        text = self.clip.text
        x = (text.token_embedding.weight[tokens] + text.positional_embedding).permute(1, 0, 2)
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        for index, block in enumerate(text.transformer.resblocks):
            x = self._block(f"text.{index}", block, x, mask)
        x = _norm(text.ln_final, x.permute(1, 0, 2))
        x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ text.text_projection
        return x / x.norm(dim=-1, keepdim=True)

    def _block(self, name: str, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        attention = block.attn
        y = _norm(block.ln_1, x)
        qkv = F.linear(y, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (part + self._update(f"{name}.{kind}", y) for kind, part in zip("qkv", qkv, strict=True))
        tokens, batch, width = y.shape
        heads = attention.heads

        def by_head(z: Tensor) -> Tensor:
            return z.contiguous().view(tokens, batch * heads, width // heads).transpose(0, 1)

        y = F.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v), mask)
        y = y.transpose(0, 1).contiguous().view(tokens, batch, width)
        out = attention.out_proj
        x = x + F.linear(y, out.weight, out.bias) + self._update(f"{name}.o", y)
        mlp = block.mlp
        y = F.linear(_norm(block.ln_2, x), mlp.c_fc.weight, mlp.c_fc.bias)
        y = y * torch.sigmoid(1.702 * y) if activation(self.clip.model) == "QuickGELU" else F.gelu(y)
        return x + F.linear(y, mlp.c_proj.weight, mlp.c_proj.bias)

    def _update(self, name: str, y: Tensor) -> Tensor | float:
        """What the update of one map adds; on the way the input of the map is recorded if that is wanted."""
        if self._record:
            flat = y.reshape(-1, y.shape[-1]).T  # position by position, then place in the batch
            n, c = self._seen.get(name, 0), flat.shape[1]
            old = self.features[name] if n else torch.zeros_like(flat)
            self.features[name] = n / (n + c) * old.clone() + flat / (n + c)
            self._seen[name] = n + c
        if name not in self.updates:
            return 0.0
        A, B = self.updates[name]
        return (y @ A) @ B * self.scale

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits [batch, texts]; the texts are encoded again."""
        return self.clip.model.logit_scale.exp() * self.images(pixels) @ self.texts(tokens).T

    # ---- the phases of a task

    def maps(self) -> Iterator[Any]:
        """The adapted maps, in forward order."""
        return (linear_map for linear_map in self.clip.maps.values() if linear_map.kind in KINDS)

    def parameters(self) -> list[tuple[str, Tensor]]:
        """All parameters of both towers."""
        return [(name, p) for name, p in self.clip.model.named_parameters() if name != "logit_scale"]

    def gradient_pass(self, batches: Sequence[tuple[Tensor, Tensor]], tokens: Tensor) -> dict[str, Tensor]:
        """Mean over batches of the gradient of the loss, for every parameter, by its name."""
        found: dict[str, Tensor] = {}
        with self.clip.trainable(parameter for _, parameter in self.parameters()):
            for pixels, labels in batches:
                F.cross_entropy(self.logits(pixels, tokens), labels).backward()
                for name, parameter in self.parameters():
                    if parameter.grad is not None:
                        copy = parameter.grad.detach().clone().cpu()
                        found[name] = found[name] + copy if name in found else copy
                        parameter.grad = None
        return {name: gradient / len(batches) for name, gradient in found.items()}

    def start(self, gradients: dict[str, Tensor]) -> None:
        """A and B from the gradients off the protected subspaces; what they contribute is taken off the weights."""
        names = {id(parameter): name for name, parameter in self.parameters()}
        for linear_map in self.maps():
            G = gradients[names[id(linear_map.parameter)]][linear_map.rows].T
            if linear_map.name in self.bases:
                M = self.bases[linear_map.name].to(G)
                G = G - M @ (M.T @ G)
            U, S, Vh = torch.linalg.svd(G, full_matrices=False)
            A, B = U[:, : self.rank], S[: self.rank, None] * Vh[: self.rank]
            self.updates[linear_map.name] = (A, B)
            linear_map.weight.sub_(self.scale * (A @ B).T)

    def loss(self, pixels: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
        """The loss of a training step."""
        return F.cross_entropy(self.logits(pixels, tokens), labels)

    @torch.no_grad()
    def feature_pass(self, batches: Sequence[tuple[Tensor, Tensor]], tokens: Tensor | None) -> None:
        """The running mean of the inputs of every map, by position and place in the batch; without tokens no texts."""
        self.features, self._seen, self._record = {}, {}, True
        for pixels, _ in batches:
            self.images(pixels)
        if tokens is not None:
            self.texts(tokens)
        self._record = False

    def subspace_update(self, energy: float) -> None:
        """Grow the protected subspace of every map by its features."""
        for name, F_ in self.features.items():
            M = self.bases.get(name, F_.new_zeros(len(F_), 0)).to(F_)
            total = (torch.linalg.svd(F_, full_matrices=False)[1] ** 2).sum()
            rest = F_ - M @ (M.T @ F_)
            U, S, _ = torch.linalg.svd(rest, full_matrices=False)
            covered, added = (total - (rest**2).sum()) / total, 0
            while covered < energy and added < len(S):
                covered = covered + S[added] ** 2 / total
                added += 1
            self.bases[name] = torch.cat([M, U[:, :added]], dim=1)[:, : len(M)]

    def weight_subspaces(self, energy: dict[str, float]) -> dict[str, Tensor]:
        """The leading right singular vectors of every weight that hold a tower's share of its energy."""
        found = {}
        for linear_map in self.maps():
            _, S, Vh = torch.linalg.svd(linear_map.weight, full_matrices=False)
            shares = (S**2).cumsum(0) / (S**2).sum()
            found[linear_map.name] = Vh[: int((shares < energy[linear_map.tower]).sum()) + 1].T
        return found


def _norm(layer: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)

"""A batch of texts without the tokens that nothing reads, and with those that all have in common only once.

The text tower is causal and the feature of a text is read at its end-of-text token. So the tokens after that one change
nothing, and the activations of tokens that all texts start with (the beginning of a template) are the same in all of
them. The remaining tokens form one row, which the blocks process as if it were a single text. Only the attention
separates the texts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The positions of the tokens of several texts in one row: first the common prefix, then the rest of each text.

    Attributes
    ----------
    texts : int
        Number of texts.
    prefix : int
        Number of tokens that all texts start with.
    longest : int
        Number of tokens of the longest rest; every rest has at least its end-of-text token.
    source : int64 Tensor [row]
        Index of every token of the row among all tokens, [texts x context length].
    position : int64 Tensor [row]
        Position of every token of the row in its text.
    padded : int64 Tensor [row - prefix]
        Index of every token after the prefix among the padded rests, [texts x longest].
    end : int64 Tensor [texts]
        Index of the end-of-text tokens in the row.
    """

    texts: int
    prefix: int
    longest: int
    source: Tensor
    position: Tensor
    padded: Tensor
    end: Tensor

    @classmethod
    def of(cls, tokens: Tensor, end: Tensor) -> "Packing":
        """Return the packing of some texts.

        Parameters
        ----------
        tokens : int64 Tensor [texts, context length]
        end : int64 Tensor [texts]
            Positions of the end-of-text tokens.

        Returns
        -------
        Packing
            With its indices on the device of `tokens`.
        """
        ids, last = tokens.cpu(), end.cpu()
        texts, context = ids.shape
        shared = (ids == ids[0]).all(dim=0).int().cumprod(0)
        prefix = min(int(shared.sum()), int(last.min()))
        longest = int(last.max()) + 1 - prefix
        positions = torch.arange(prefix, prefix + longest)
        real = positions <= last[:, None]  # [texts, longest]
        rest = (torch.arange(texts)[:, None] * context + positions)[real]
        lengths = last + 1 - prefix
        indices = {
            "source": torch.cat([torch.arange(prefix), rest]),
            "position": torch.cat([torch.arange(prefix), positions.expand(texts, -1)[real]]),
            "padded": real.flatten().nonzero().flatten(),
            "end": prefix + lengths.cumsum(0) - 1,
        }
        return cls(texts, prefix, longest, **{name: index.to(tokens.device) for name, index in indices.items()})

    def attend(self, qkv: Tensor, mask: Tensor) -> Tensor:
        """Return self-attention within every text.

        Parameters
        ----------
        qkv : Tensor [row, 3, heads, width of a head]
            Queries, keys and values.
        mask : Tensor [context length, context length]
            Added to the scores; causal.

        Returns
        -------
        Tensor [row, heads x width of a head]
        """
        p, heads = self.prefix, qkv.shape[2]
        (q,) = self._padded(qkv[p:, :1])  # apart, because the backward pass keeps q and the longer k and v
        k, v = self._padded(qkv[p:, 1:])
        k, v = (torch.cat([self._first(qkv[:p, i]), rest], dim=2) for i, rest in ((1, k), (2, v)))
        length = p + self.longest
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[p:length, :length].to(q.dtype))
        y = y.transpose(1, 2).reshape(self.texts * self.longest, -1).index_select(0, self.padded)
        if p == 0:
            return y
        q, k, v = (part.transpose(0, 1)[None] for part in qkv[:p].clone().unbind(1))  # a view would keep the whole row
        first = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:p, :p].to(q.dtype))
        return torch.cat([first[0].transpose(0, 1).reshape(p, heads * qkv.shape[3]), y])

    def read(self, q: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
        """Return attention from the end-of-text tokens only.

        Parameters
        ----------
        q : Tensor [texts, heads, 1, width of a head]
            Queries of the end-of-text tokens.
        kv : Tensor [row, 2, heads, width of a head]
            Keys and values of all tokens.
        mask : Tensor [context length, context length]
            Added to the scores; causal.

        Returns
        -------
        Tensor [texts, heads, 1, width of a head]
        """
        p, length = self.prefix, self.prefix + self.longest
        k, v = self._padded(kv[p:])
        k, v = (torch.cat([self._first(kv[:p, i]), rest], dim=2) for i, rest in ((0, k), (1, v)))
        rows = mask[self.position[self.end], :length].to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=rows[:, None, None])

    def _padded(self, rest: Tensor) -> Tensor:
        """Pad with zeros: [row - prefix, parts, heads, width] -> [parts, texts, heads, longest, width]."""
        # Unlike index_copy, this keeps the indices alone for the backward pass.
        whole = rest.new_zeros(self.texts * self.longest, *rest.shape[1:]).index_put((self.padded,), rest)
        return whole.view(self.texts, self.longest, *rest.shape[1:]).permute(2, 0, 3, 1, 4)

    def _first(self, prefix: Tensor) -> Tensor:
        """Repeat the prefix for every text: [prefix, heads, width] -> [texts, heads, prefix, width]."""
        return prefix.transpose(0, 1).expand(self.texts, -1, -1, -1)

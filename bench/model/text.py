"""The text tower: prompts to token ids, token ids to features."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from bench.core.errors import UserError
from bench.model.layers import Layout, run_block, through_blocks
from bench.model.linear_maps import Site
from bench.model.packing import Packing
from bench.model.places import Place


class TextEncoder:
    """The text tower of a CLIP model and its tokenizer.

    Parameters
    ----------
    model : open_clip.CLIP or open_clip.CustomTextCLIP
        With the linear maps of its text tower replaced.
    tokenizer : callable
        open_clip's tokenizer of the model.
    name : str
        What the model is called in messages.
    cut_prompts : bool
        Cut prompts that do not fit into the context and list them in `too_long`, instead of refusing them.
    sites : sequence of Site
        The sites of the text tower, in forward order.
    places : sequence of Place
        The places of the text tower, in forward order.
    precision : callable
        Returns a context manager in which products have the model's current precision.

    Attributes
    ----------
    tower : torch.nn.Module
        open_clip's text tower.
    too_long : list of str
        Prompts that were cut.
    packings : mapping of Tensor to Packing
        The packings of token tensors that are still in use.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        cut_prompts: bool,
        sites: Sequence[Site],
        places: Sequence[Place],
        precision: Callable[[], AbstractContextManager[Any]],
    ):
        self.tower: Any = getattr(model, "text", model)
        self.tokenizer = tokenizer
        self.name = name
        self.cut_prompts = cut_prompts
        self.too_long: list[str] = []
        self.packings = WeakTensorKeyDictionary()
        self._sites, self._places = sites, places
        last = f"text.{len(self.tower.transformer.resblocks) - 1}."
        self._last = [site for site in sites if site.name.startswith(last)]
        self._precision = precision
        self._pool_type: str = getattr(model, "text_pool_type", None) or self.tower.pool_type
        self._end_id: Any = getattr(model, "text_eos_id", None) or getattr(self.tower, "eos_id", None)

    # ---- prompts to token ids

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return the token ids of prompts.

        Parameters
        ----------
        prompts : sequence of str

        Returns
        -------
        int64 Tensor [texts, context length]
            On the CPU.

        Raises
        ------
        UserError
            If a prompt does not fit into the context, unless `cut_prompts` is set; if one is a tuple of several.
        """
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise UserError(
                    "a class has several prompts (evaluate.templates) and the method tokenises them itself: let it "
                    "call Clip.encode_prompts, which averages their features, or leave evaluate.templates empty"
                )
            length = self._token_count(prompt)
            if length is None or length <= self.tower.context_length:
                continue
            if not self.cut_prompts:
                raise UserError(
                    f'the prompt "{prompt}" takes {length} tokens and the context of {self.name} holds '
                    f"{self.tower.context_length}: shorten the class name or the template"
                )
            if prompt not in self.too_long:
                self.too_long.append(prompt)
        return self.tokenizer(list(prompts)).long()

    def _token_count(self, prompt: str) -> int | None:
        """Return the number of tokens of a prompt with start and end tokens; None if the tokenizer cannot say."""
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(prompt)) + 2
        inner, clean = getattr(self.tokenizer, "tokenizer", None), getattr(self.tokenizer, "clean_fn", str)
        return len(inner(clean(prompt))["input_ids"]) if inner is not None else None

    # ---- token ids to features

    def encode(self, tokens: Tensor, cut: bool = True) -> Tensor:
        """Return the features of tokenised texts, of unit length.

        Parameters
        ----------
        tokens : int64 Tensor [texts, context length]
            On the model's device.
        cut : bool, optional
            As for `Clip.encode_tokens`.

        Returns
        -------
        float32 Tensor [texts, width of embedding]
        """
        tower, end = self.tower, self._end_of_text(tokens)
        if cut and end is not None and tower.attn_mask is not None:
            if self._packs():
                packing = self._packing(tokens, tokens, end)
                return self._encode_packed(tower.token_embedding(tokens.flatten()[packing.source]), packing, end)
            tokens = tokens[:, : int(end.max()) + 1]
        return self._encode_whole(tower.token_embedding(tokens), tokens, end)

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of tokens, and the positions of their end-of-text tokens: see `Clip.embed`."""
        end = self._end_of_text(tokens)
        last = tokens.new_full(tokens.shape[:1], tokens.shape[1] - 1)
        return self.tower.token_embedding(tokens), last if end is None else end

    def encode_embeddings(self, x: Tensor, end: Tensor) -> Tensor:
        """Return the features of embedded texts, of unit length: see `Clip.encode_embeddings`."""
        if x.shape[1] != self.tower.context_length or end.shape != x.shape[:1]:
            raise ValueError(
                f"the embeddings are {list(x.shape)} with {list(end.shape)} ends: give [texts, "
                f"{self.tower.context_length}, width] and one end for each text"
            )
        if self._pool_type not in ("argmax", "eos"):
            return self._encode_whole(x, None, None)
        if self.tower.attn_mask is not None:
            if self._packs():
                # Nothing says which positions the texts have in common, so every one counts as another.
                indices = torch.arange(x.shape[0] * x.shape[1], device=end.device).view(x.shape[:2])
                packing = self._packing(end, indices, end)
                return self._encode_packed(x.flatten(0, 1)[packing.source], packing, end)
            x = x[:, : int(end.max()) + 1]
        return self._encode_whole(x, None, end)

    def _packs(self) -> bool:
        """Return whether texts may be packed in a row: nobody asks for them one by one."""
        return not (_recorded(self._sites) or any(place.whole_texts for place in self._places))

    def _packing(self, key: Tensor, tokens: Tensor, end: Tensor) -> Packing:
        """Return the packing of texts, computed once for texts that are encoded at every step."""
        if key not in self.packings:
            self.packings[key] = Packing.of(tokens, end)
        return self.packings[key]

    def _encode_packed(self, row: Tensor, packing: Packing, end: Tensor) -> Tensor:
        """Return the features of embedded texts in one row, without the tokens that nothing reads."""
        x = (row + self.tower.positional_embedding[packing.position])[None]
        return self._read(x, end, Layout(self.tower.attn_mask, packing), whole=False)

    def _encode_whole(self, x: Tensor, tokens: Tensor | None, end: Tensor | None) -> Tensor:
        """Return the features of embedded texts, all positions computed; without `end` the pooling reads elsewhere."""
        tower, length = self.tower, x.shape[1]
        mask = tower.attn_mask[:length, :length] if tower.attn_mask is not None else None
        x = x + tower.positional_embedding[:length]
        if end is None:
            with self._precision():
                for block in tower.transformer.resblocks:
                    x = run_block(block, x, Layout(mask))
            x = text_global_pool(tower.ln_final(x), tokens, self._pool_type, eos_token_id=self._end_id)
            return self._project(x)
        counted = torch.arange(length, device=x.device) <= end[:, None]
        whole = _recorded(self._last) or self._places[-1].whole_texts
        return self._read(x, end, Layout(mask, counted=counted, read=end), whole)

    def _read(self, x: Tensor, end: Tensor, layout: Layout, whole: bool) -> Tensor:
        """Return the features of embedded texts, read at their end-of-text tokens."""
        with self._precision():  # the sum along the blocks keeps its own precision
            x = through_blocks(self.tower.transformer.resblocks, x, end, layout, whole)
        return self._project(self.tower.ln_final(x))

    def _project(self, x: Tensor) -> Tensor:
        projection = self.tower.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return F.normalize(x, dim=-1)

    def _end_of_text(self, tokens: Tensor) -> Tensor | None:
        """Return the position that the feature is read at, int64 [texts]; None if the pooling reads elsewhere."""
        if self._pool_type == "argmax":
            return tokens.argmax(dim=-1)
        if self._pool_type == "eos":
            return tokens.eq(self._end_id).int().argmax(dim=-1)
        return None


def _recorded(sites: Sequence[Site]) -> bool:
    """Return whether the activations of one of these sites are recorded."""
    return any(site.recorder is not None for site in sites)

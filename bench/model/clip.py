"""The model under study: any open_clip CLIP with native towers, its features, its linear maps and their sites."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer, text_global_pool
from PIL import Image
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from bench.core.errors import UserError
from bench.model.layers import read_last_block, replace_linear_maps
from bench.model.linear_maps import LinearMap, Recorder, Site
from bench.model.packing import Packing


class Clip:
    """A CLIP model whose linear maps can be read, measured, updated and merged.

    Parameters
    ----------
    model : open_clip.CLIP or open_clip.CustomTextCLIP
        With open_clip's own towers (a vision transformer and a text transformer). It is changed in place: attention and
        linear layers of the blocks are replaced by equivalents with the same parameters and names.
    tokenizer : callable
        open_clip's tokenizer of the model.
    preprocess : dict
        open_clip's preprocessing settings: size (the image tower's by default), mean, std, interpolation, resize_mode.
    name : str
        What the model is called in records and messages.
    cut_prompts : bool
        Cut prompts that do not fit into the context and tell of them in `too_long`, instead of refusing them: for
        models so small that the prompts of real streams do not fit.

    Attributes
    ----------
    maps : dict of str to LinearMap
        ``image.3.q`` and so on, in forward order, image tower first.
    sites : dict of str to Site
        The activations that the maps read, in the same order.
    too_long : list of str
        Prompts that were cut.
    transform_id : str
        Says all that decides what `to_uint8` makes of an image.
    token_mask : Tensor or None
        During `encode_tokens`: bool [texts, tokens], true up to and including the end-of-text token, for recorders.

    Raises
    ------
    UserError
        If a tower is not open_clip's own (ResNet, timm, Hugging Face) or has another kind of block.
    """

    def __init__(self, model: Any, tokenizer: Any, preprocess: dict[str, Any], name: str, cut_prompts: bool = False):
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.cut_prompts = cut_prompts
        self.too_long: list[str] = []
        self.text: Any = getattr(model, "text", model)
        _check_native(model, self.text, name)
        sites = replace_linear_maps(self.model.visual.transformer.resblocks, "image")
        sites += replace_linear_maps(self.text.transformer.resblocks, "text")
        self.sites: dict[str, Site] = {site.name: site for site in sites}
        self.maps: dict[str, LinearMap] = {m.name: m for site in sites for m in site.maps}
        self.token_mask: Tensor | None = None
        self._packings = WeakTensorKeyDictionary()
        self._dtype: torch.dtype | None = None
        self._batch_first = bool(model.visual.transformer.batch_first and self.text.transformer.batch_first)
        config = PreprocessCfg(**{"size": model.visual.image_size, **preprocess})
        *self._to_rgb, _, normalize = image_transform_v2(config, is_train=False).transforms
        self._moments = tuple(torch.tensor(moment).view(3, 1, 1) for moment in (normalize.mean, normalize.std))
        self.transform_id = json.dumps(
            [dataclasses.asdict(config), *(importlib.metadata.version(name) for name in ("pillow", "torchvision"))]
        )
        self.image_size: tuple[int, int] = (config.size, config.size) if isinstance(config.size, int) else config.size

    # ---- places and sizes

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @property
    def exact_device(self) -> torch.device:
        """Where float64 is computed: the model's device, or the CPU where that has no float64 (MPS)."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def image_tokens(self) -> int:
        """Positions of an image in its tower: patches, and one for the whole."""
        return len(self.model.visual.positional_embedding)

    def to(self, device: torch.device | str) -> "Clip":
        """Move the model; maps and sites stay valid, since parameters are moved in place."""
        self.model.to(device)
        return self

    def select(self, kinds: Sequence[str], towers: Sequence[str]) -> list[LinearMap]:
        """The maps of the given kinds (q, k, v, o, fc1, fc2) and towers (image, text), in forward order."""
        return [m for m in self.maps.values() if m.kind in kinds and m.tower in towers]

    # ---- images

    def to_uint8(self, image: Image.Image) -> np.ndarray:
        """Resize, crop and convert one image as the model wants it: uint8 [3, height, width], before normalisation."""
        for step in self._to_rgb:
            image = step(image)
        return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [batch, 3, height, width] -> normalised float32 on the model's device; exactly open_clip's values.

        Not by torchvision's own transform, which looks for zeros in std: a CUDA device would be waited for.
        """
        mean, std = self._moments = tuple(moment.to(self.device) for moment in self._moments)
        return pixels.to(self.device, non_blocking=True).float().div_(255).sub_(mean).div_(std)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised float images [batch, 3, height, width] -> features of unit length, [batch, width of embedding]."""
        visual = self.model.visual
        if visual.attn_pool is not None or visual.pool_type != "tok" or not self._batch_first:
            with self._autocast():
                features = visual(pixels)
            return F.normalize(features.to(pixels.dtype), dim=-1)
        x = visual.ln_post(self._through(visual.transformer, "image", visual._embeds(pixels), None, None))
        return F.normalize(x if visual.proj is None else x @ visual.proj, dim=-1)

    def _through(
        self, transformer: Any, tower: str, x: Tensor, read: Tensor | None, attn_mask: Tensor | None
    ) -> Tensor:
        """Through the blocks of a tower, [batch, tokens, width] -> its last output at the positions `read`."""
        *blocks, last = transformer.resblocks
        with self._autocast():  # the sum along the blocks keeps its own precision
            for block in blocks:
                x = block(x, attn_mask=attn_mask)
            if self._recorded(f"{tower}.{len(blocks)}."):
                x = last(x, attn_mask=attn_mask)  # somebody wants its activations at all positions
                return x[:, 0] if read is None else x[torch.arange(len(x), device=x.device), read]
            return read_last_block(last, x, read, attn_mask)

    # ---- texts

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 [texts, context length], on the model's device.

        Raises
        ------
        UserError
            If a prompt does not fit into the context, unless `cut_prompts` is set: nothing is cut silently.
        """
        for prompt in prompts:
            length = self._token_count(prompt)
            if length is None or length <= self.context_length:
                continue
            if not self.cut_prompts:
                raise UserError(
                    f'the prompt "{prompt}" takes {length} tokens and the context of {self.name} holds '
                    f"{self.context_length}: shorten the class name or the template"
                )
            if prompt not in self.too_long:
                self.too_long.append(prompt)
        return self.tokenizer(list(prompts)).long().to(self.device)

    def _token_count(self, prompt: str) -> int | None:
        """Tokens of a prompt with start and end tokens; None where the tokenizer does not tell."""
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(prompt)) + 2
        inner = getattr(self.tokenizer, "tokenizer", None)
        return len(inner(prompt)["input_ids"]) if inner is not None else None

    def encode_tokens(self, tokens: Tensor, cut: bool = True) -> Tensor:
        """Token ids [texts, context length] -> features of unit length, [texts, width of embedding].

        Parameters
        ----------
        cut : bool
            Leave out the positions after the end-of-text tokens, and compute the beginning that all texts share once.
            The mask is causal and the feature is read at the end-of-text token, so this changes nothing but the cost.
            Where activations are recorded, only what lies behind the last of these tokens is left out.
        """
        text = self.text
        end = self._end_of_text(tokens)
        if cut and end is not None and text.attn_mask is not None:
            if self._batch_first and not self._recorded("text."):
                return self._encode_packed(tokens, end)
            tokens = tokens[:, : int(end.max()) + 1]
        length = tokens.shape[1]
        mask = text.attn_mask[:length, :length] if text.attn_mask is not None else None
        if end is not None:
            self.token_mask = torch.arange(length, device=tokens.device) <= end[:, None]
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        if end is not None and self._batch_first:
            x = text.ln_final(self._through(text.transformer, "text", x, end, mask))
        else:
            with self._autocast():
                x = text.transformer(x, attn_mask=mask)
            x = text.ln_final(x)
            x = text_global_pool(x, tokens, self._pool_type, eos_token_id=self._end_id)
        self.token_mask = None
        return self._project_text(x)

    def _encode_packed(self, tokens: Tensor, end: Tensor) -> Tensor:
        """`encode_tokens` without the tokens that nobody reads: see bench/model/packing.py."""
        text = self.text
        if tokens not in self._packings:  # found out once for texts that are encoded at every step
            self._packings[tokens] = Packing.of(tokens, end)
        packing = self._packings[tokens]
        row = tokens.flatten()[packing.source]
        x = (text.token_embedding(row) + text.positional_embedding[packing.position])[None]
        layers = [block.attn for block in text.transformer.resblocks]
        try:
            for attention in layers:
                attention.packing = packing
            return self._project_text(text.ln_final(self._through(text.transformer, "text", x, end, text.attn_mask)))
        finally:
            for attention in layers:
                attention.packing = None

    def _project_text(self, x: Tensor) -> Tensor:
        projection = self.text.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return F.normalize(x, dim=-1)

    def _recorded(self, prefix: str) -> bool:
        """Whether somebody wants the activations of a site whose name starts so."""
        return any(site.recorder is not None for name, site in self.sites.items() if name.startswith(prefix))

    def encode_prompts(self, prompts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Prompts -> features of unit length, [texts, width of embedding], encoded in batches."""
        chunks = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
        return torch.cat([self.encode_tokens(self.tokenize(chunk)) for chunk in chunks])

    @property
    def _pool_type(self) -> str:
        return getattr(self.model, "text_pool_type", None) or self.text.pool_type

    @property
    def _end_id(self) -> Any:
        return getattr(self.model, "text_eos_id", None) or getattr(self.text, "eos_id", None)

    def _end_of_text(self, tokens: Tensor) -> Tensor | None:
        """Position of the token that the feature is read at, int64 [texts]; None if the pooling reads elsewhere."""
        if self._pool_type == "argmax":
            return tokens.argmax(dim=-1)
        if self._pool_type == "eos":
            return tokens.eq(self._end_id).int().argmax(dim=-1)
        return None

    # ---- logits

    @property
    def logit_scale(self) -> Tensor:
        """exp of the learned log-scale: the factor between cosine similarities and logits."""
        return self.model.logit_scale.exp()

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine similarities times the logit scale, [images, texts]."""
        return self.logit_scale * image_features @ text_features.T

    # ---- precision

    @contextmanager
    def computing(self, precision: str) -> Iterator[None]:
        """While open, the products in the blocks of both towers are computed in ``"bf16"`` or ``"fp16"``.

        Everything else stays in fp32: weights and updates, embeddings, sums along the blocks, projections, features and
        logits. With any other precision nothing changes.
        """
        before, self._dtype = self._dtype, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        try:
            yield
        finally:
            self._dtype = before

    @property
    def precision(self) -> torch.dtype:
        """What the products in the blocks are computed in at the moment."""
        return self._dtype or torch.float32

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, self._dtype)

    # ---- updates and measurements

    @contextmanager
    def recording(self, recorders: dict[str, Recorder]) -> Iterator[None]:
        """While open, each named site hands its activation to its recorder on every forward pass."""
        try:
            for name, recorder in recorders.items():
                self.sites[name].recorder = recorder
            yield
        finally:
            for name in recorders:
                self.sites[name].recorder = None

    @contextmanager
    def trainable(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """While open, the given parameters require gradients; gradients are dropped at the end."""
        chosen = list(dict.fromkeys(parameters))
        try:
            for parameter in chosen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in chosen:
                parameter.requires_grad_(False)
                parameter.grad = None

    def merge(self) -> None:
        """Fold every attached update into its weight."""
        for linear_map in self.maps.values():
            linear_map.merge()

    def digests(self) -> dict[str, str]:
        """Hashes of all parameters and buffers by name: types, shapes and bytes."""
        found = {}
        for name, tensor in sorted(self.model.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
            found[name] = digest.hexdigest()
        return found

    def weights_sha256(self) -> str:
        """Hash of all parameters and buffers: names, types, shapes and bytes."""
        return hashlib.sha256(json.dumps(self.digests()).encode()).hexdigest()


def _check_native(model: Any, text: Any, name: str) -> None:
    """Raise UserError unless both towers are open_clip's own transformers with plain residual attention blocks."""
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
    if problem:
        raise UserError(
            f"model {name} is not supported: {problem}; choose one with open_clip's own vision and text transformers "
            "(see: python -m bench list models)"
        )

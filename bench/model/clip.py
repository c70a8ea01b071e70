"""The model under study: any open_clip CLIP with native towers, its features, its linear maps and their sites.

It is one file, because it is one class; more than half of it is the documentation that docs/api.md shows.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.model.frozen import Frozen
from bench.model.layers import PLAIN, check_native, patches, places_of, replace_linear_maps, run_block, through_blocks
from bench.model.linear_maps import LinearMap, Recorder, Site
from bench.model.places import Branch, Place, computed_beside
from bench.model.preprocess import Preprocess
from bench.model.text import TextEncoder

PRODUCTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of products by the name that the setting ``precision`` gives them; with any other name they are float32."""


class Clip:
    """A CLIP model whose linear maps can be read, measured, updated and merged.

    Parameters
    ----------
    model : open_clip.CLIP or open_clip.CustomTextCLIP
        With open_clip's own towers (a vision transformer and a text transformer). It is changed in place: attention and
        linear layers of the blocks are replaced by equivalents with the same parameters and names.
    tokenizer : callable
        open_clip's tokenizer of the model.
    preprocess : dict of str to object
        open_clip's preprocessing settings: size (the image tower's by default), mean, std, interpolation, resize_mode.
    name : str
        What the model is called in records and messages.
    cut_prompts : bool, optional
        Cut prompts that do not fit into the context and list them in `too_long`, instead of refusing them: for models
        so small that the prompts of real streams do not fit.
    config : dict of str to object, optional
        open_clip's configuration of the architecture: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and so on. Without it
        ``python -m bench export`` cannot write the model as a checkpoint of open_clip.

    Attributes
    ----------
    model : torch.nn.Module
        The open_clip model, in evaluation mode. Its parameters require no gradients, except inside `trainable`.
    text : torch.nn.Module
        Its text tower: `model.text`, or `model` itself.
    name, config
        As given.
    tokenizer : callable
        As given.
    preprocess : dict of str to object
        All of open_clip's preprocessing settings.
    notes : list of str
        What a user should know about how the model was loaded; a run prints them.
    maps : dict of str to LinearMap
        ``image.3.q`` and so on, in forward order, image tower first.
    sites : dict of str to Site
        The activations that the maps read, in the same order.
    places : tuple of str
        Names of the places where `beside` computes something: ``image.3.heads``, ``image.3.attention``,
        ``image.3.mlp``, ``image.3.residual`` and so on, in the same order.
    image_size : tuple of two int
        Height and width of the images that the model reads, in pixels.
    transform_id : str
        Identifies everything that decides what `to_uint8` makes of an image: settings and library versions.

    Raises
    ------
    UserError
        If a tower is not open_clip's own (ResNet, timm, Hugging Face) or has another kind of block.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: dict[str, Any],
        name: str,
        cut_prompts: bool = False,
        config: dict[str, Any] | None = None,
    ):
        self.model: Any = model.eval().requires_grad_(False)
        self.text: Any = getattr(model, "text", model)
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.notes: list[str] = []
        check_native(model, self.text, name)
        model.visual.conv1 = patches(model.visual.conv1)
        image_sites = replace_linear_maps(self.model.visual.transformer.resblocks, "image")
        text_sites = replace_linear_maps(self.text.transformer.resblocks, "text")
        sites = [*image_sites, *text_sites]
        self.sites: dict[str, Site] = {site.name: site for site in sites}
        self.maps: dict[str, LinearMap] = {m.name: m for site in sites for m in site.maps}
        texts = places_of(self.text.transformer.resblocks)
        self._places: dict[str, Place] = {
            place.name: place for place in [*places_of(self.model.visual.transformer.resblocks), *texts]
        }
        self.places: tuple[str, ...] = tuple(self._places)
        last = f"image.{len(self.model.visual.transformer.resblocks) - 1}."
        self._last_image_sites = [site for site in image_sites if site.name.startswith(last)]
        self._texts = TextEncoder(model, tokenizer, name, cut_prompts, text_sites, texts, self._autocast)
        self._preprocess = Preprocess({"size": model.visual.image_size, **preprocess})
        self.preprocess = self._preprocess.settings
        self.image_size = self._preprocess.image_size
        self.transform_id = self._preprocess.transform_id
        self._products: torch.dtype | None = None

    # ---- device, sizes and maps

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.logit_scale.device

    @property
    def exact_device(self) -> torch.device:
        """The device for float64 computations: the model's device, or the CPU where that has no float64 (MPS)."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def context_length(self) -> int:
        """Number of tokens that a prompt may have, start and end included."""
        return self.text.context_length

    @property
    def image_tokens(self) -> int:
        """Number of tokens of an image in its tower: one for each patch, and one for the whole image."""
        return len(self.model.visual.positional_embedding)

    @property
    def too_long(self) -> list[str]:
        """Prompts that were cut because they do not fit into the context."""
        return self._texts.too_long

    def to(self, device: torch.device | str) -> "Clip":
        """Move the model to a device; maps and sites stay valid, because parameters are moved in place.

        Parameters
        ----------
        device : torch.device or str

        Returns
        -------
        Clip
            The same object.
        """
        self.model.to(device)
        return self

    def select(self, kinds: Sequence[str], towers: Sequence[str]) -> list[LinearMap]:
        """Return the maps of some kinds and towers.

        Parameters
        ----------
        kinds : sequence of {"q", "k", "v", "o", "fc1", "fc2"}
        towers : sequence of {"image", "text"}

        Returns
        -------
        list of LinearMap
            In forward order, image tower first.
        """
        return [m for m in self.maps.values() if m.kind in kinds and m.tower in towers]

    # ---- images

    def to_uint8(self, image: Image.Image) -> np.ndarray:
        """Return an image as the model reads it, resized, cropped and in RGB, before normalisation.

        Parameters
        ----------
        image : PIL.Image.Image
            In any mode and size.

        Returns
        -------
        uint8 array [3, height, width]
        """
        return self._preprocess.to_uint8(image)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return normalised images on the model's device; exactly the values of open_clip's own transform.

        Parameters
        ----------
        pixels : uint8 Tensor [batch, 3, height, width]
            As from `to_uint8`, on any device.

        Returns
        -------
        float32 Tensor [batch, 3, height, width]
        """
        return self._preprocess.normalize(pixels, self.device)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return the features of images, of unit length.

        Parameters
        ----------
        pixels : float32 Tensor [batch, 3, height, width]
            Normalised, on the model's device; as `TaskData.batches` gives them.

        Returns
        -------
        float32 Tensor [batch, width of embedding]
            Differentiable with respect to updates and to parameters inside `trainable`.
        """
        return self.project_images(self.read_images(pixels))

    def read_images(self, pixels: Tensor) -> Tensor:
        """Return what the image tower reads of images, after its last normalisation and before the projection.

        Parameters
        ----------
        pixels : float32 Tensor [batch, 3, height, width]
            As for `encode_images`.

        Returns
        -------
        float32 Tensor [batch, width of the image tower]
            Differentiable as in `encode_images`.
        """
        visual = self.model.visual
        if visual.attn_pool is not None or visual.pool_type != "tok":
            with self._autocast():
                x = visual._embeds(pixels)
                for block in visual.transformer.resblocks:
                    x = run_block(block, x, PLAIN)
                return visual._pool(x)[0].to(pixels.dtype)
        # Only the first position of the last block is read, unless a recorder wants its activations at all positions.
        whole = any(site.recorder is not None for site in self._last_image_sites)
        x = visual._embeds(pixels)
        with self._autocast():  # the sum along the blocks keeps its own precision
            x = through_blocks(visual.transformer.resblocks, x, None, whole=whole)
        return visual.ln_post(x)

    def project_images(self, x: Tensor) -> Tensor:
        """Return the features of images, of unit length, from what `read_images` returned.

        Parameters
        ----------
        x : float32 Tensor [batch, width of the image tower]

        Returns
        -------
        float32 Tensor [batch, width of embedding]
        """
        visual, read = self.model.visual, x
        if visual.proj is not None:
            pooled = visual.attn_pool is not None or visual.pool_type != "tok"
            with self._autocast() if pooled else nullcontext():
                x = x @ visual.proj
        return F.normalize(x.to(read.dtype), dim=-1)

    # ---- texts

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return the token ids of prompts.

        Parameters
        ----------
        prompts : sequence of str

        Returns
        -------
        int64 Tensor [texts, context length]
            On the model's device.

        Raises
        ------
        UserError
            If a prompt does not fit into the context, unless `cut_prompts` is set: nothing is cut silently.
        """
        return self._texts.tokenize(prompts).to(self.device)

    def encode_tokens(self, tokens: Tensor, cut: bool = True) -> Tensor:
        """Return the features of tokenised texts, of unit length.

        Parameters
        ----------
        tokens : int64 Tensor [texts, context length]
            As from `tokenize`, on the model's device.
        cut : bool, optional
            Leave out the positions after the end-of-text tokens, and compute the beginning that all texts share once.
            The mask is causal and the feature is read at the end-of-text token, so this changes nothing but the cost.
            While activations are recorded, only the positions after the last of these tokens are left out.

        Returns
        -------
        float32 Tensor [texts, width of embedding]
            Differentiable with respect to updates and to parameters inside `trainable`.
        """
        return self._texts.encode(tokens, cut)

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token embeddings of tokenised texts, for methods that learn some of them.

        Parameters
        ----------
        tokens : int64 Tensor [texts, context length]
            As from `tokenize`, on the model's device.

        Returns
        -------
        x : float32 Tensor [texts, context length, width of the text tower]
            Without the positional embedding; differentiable with respect to parameters inside `trainable`.
        end : int64 Tensor [texts]
            Positions of the end-of-text tokens.
        """
        return self._texts.embed(tokens)

    def encode_embeddings(self, x: Tensor, end: Tensor) -> Tensor:
        """Return the features of embedded texts, of unit length: `encode_tokens` for embeddings of one's own.

        ``encode_embeddings(*embed(tokens))`` is ``encode_tokens(tokens)`` up to rounding. What follows an end-of-text
        token is never computed.

        Parameters
        ----------
        x : float32 Tensor [texts, context length, width of the text tower]
            Token embeddings before the positional embedding is added, on the model's device.
        end : int64 Tensor [texts]
            Positions of the end-of-text tokens, at which the features are read. Keep the same tensor from step to step,
            unchanged: what follows from it is computed once. A model that reads a text elsewhere ignores it.

        Returns
        -------
        float32 Tensor [texts, width of embedding]
            Differentiable with respect to `x`, to updates, and to parameters inside `trainable`.

        Raises
        ------
        ValueError
            If the shapes are others.
        """
        return self._texts.encode_embeddings(x, end)

    def encode_prompts(self, prompts: Sequence[str | Sequence[str]], batch_size: int = 256) -> Tensor:
        """Return the features of prompts, of unit length, encoded in batches.

        Parameters
        ----------
        prompts : sequence of str, or of sequences of str
            At least one. Several texts for one class become the normalised mean of their features, as in CLIP's
            zero-shot evaluation.
        batch_size : int, optional
            Texts encoded at a time.

        Returns
        -------
        float32 Tensor [prompts, width of embedding]

        Raises
        ------
        UserError
            As for `tokenize`.
        """
        groups = [(prompt,) if isinstance(prompt, str) else tuple(prompt) for prompt in prompts]
        texts = [text for group in groups for text in group]
        chunks = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        features = torch.cat([self.encode_tokens(self.tokenize(chunk)) for chunk in chunks])
        if len(texts) == len(groups):
            return features
        parts = features.split([len(group) for group in groups])
        return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)

    # ---- logits

    @property
    def logit_scale(self) -> Tensor:
        """The factor between cosine similarities and logits: exp of the learned log-scale."""
        return self.model.logit_scale.exp()

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return the logits: cosine similarities times the logit scale.

        Parameters
        ----------
        image_features : float32 Tensor [images, width of embedding]
            Of unit length.
        text_features : float32 Tensor [texts, width of embedding]
            Of unit length.

        Returns
        -------
        float32 Tensor [images, texts]
        """
        return self.logit_scale * image_features @ text_features.T

    # ---- precision

    @contextmanager
    def computing(self, precision: str | torch.dtype) -> Iterator[None]:
        """While open, compute the products in the blocks of both towers in a lower precision.

        Everything else stays in float32: weights and updates, embeddings, sums along the blocks, projections, features
        and logits.

        Parameters
        ----------
        precision : str or torch.dtype
            ``"bf16"`` or ``"fp16"``, or the `precision` of another model with these types; with any other, float32.
        """
        dtype = PRODUCTS.get(precision) if isinstance(precision, str) else precision
        before, self._products = self._products, dtype if dtype in PRODUCTS.values() else None
        try:
            yield
        finally:
            self._products = before

    @property
    def precision(self) -> torch.dtype:
        """The type in which the products in the blocks are computed now."""
        return self._products or torch.float32

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._products is None else torch.autocast(self.device.type, self._products)

    # ---- updates and measurements

    @contextmanager
    def recording(self, recorders: Mapping[str, Recorder]) -> Iterator[None]:
        """While open, hand the activations of sites to recorders on every forward pass.

        Parameters
        ----------
        recorders : mapping of str to callable
            By name of site. Each is called as ``recorder(x, mask)``: the activation, float32 [batch, tokens, width],
            and the tokens that count, bool [batch, tokens], true up to and including the end-of-text token. The mask is
            None for images, where all tokens count, and for models that read a text elsewhere.

        Raises
        ------
        KeyError
            If there is no site of a name.
        """
        chosen = {name: self.sites[name] for name in recorders}
        try:
            for name, recorder in recorders.items():
                chosen[name].recorder = recorder
            yield
        finally:
            for site in chosen.values():
                site.recorder = None

    def beside(self, branches: Mapping[str, Branch], whole_texts: bool = False) -> AbstractContextManager[None]:
        """While open, compute something of one's own beside attentions and MLPs, and add it to their results.

        ``with clip.beside({"image.3.mlp": branch}): clip.encode_images(pixels)``. What is added may differ from image
        to image: an expert or a weight for each. Nothing of it stays in the model.

        Parameters
        ----------
        branches : mapping of str to callable
            By name of the place, of `places`. Each is called as ``branch(x, read)`` and returns what is added. At
            ``image.3.heads``, `x` has the queries, [sequences, heads, tokens, width of a head], and the result is added
            to the heads before the output map. At ``image.3.attention`` and ``image.3.mlp``, `x` is the input of the
            attention or the MLP, after its normalisation, [sequences, tokens, width], and the result is added to the
            output, before the sum along the blocks. At ``image.3.residual``, `x` is that sum itself between attention
            and MLP, before the normalisation, and the result is added to the output of the block. `read` is int64
            [sequences], the token of each sequence that the tower reads (the first one of an image, the end-of-text
            token of a text), or None for packed texts. In the last block `x` has that token alone; at its ``residual``
            whole texts have all tokens. Where products are computed in a lower precision, `x` may have that one.
        whole_texts : bool, optional
            Process texts one by one, [texts, tokens, width]. By default they are packed in one row, [1, row, width],
            and what they all begin with is in it once: enough for a branch that treats every token alike.

        Returns
        -------
        context manager

        Raises
        ------
        KeyError
            If there is no place of a name.
        ValueError
            If something is computed at a place already.
        """
        return computed_beside(self._places, branches, whole_texts)

    @contextmanager
    def trainable(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """While open, make parameters require gradients; at the end their gradients are dropped.

        Parameters
        ----------
        parameters : iterable of Tensor
            Each may be given more than once.
        """
        chosen = list(dict.fromkeys(parameters))
        try:
            for parameter in chosen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in chosen:
                parameter.requires_grad_(False)
                parameter.grad = None

    def frozen(self, changing: Iterable[Tensor] | None = None, host: bool = True) -> Frozen:
        """Return the model as it is now, as a teacher for later: ``with teacher: clip.encode_images(pixels)``.

        Parameters
        ----------
        changing : iterable of Tensor, optional
            The parameters that will change until then, such as those of the maps that a method adapts; all by default.
        host : bool, optional
            Keep the copy in host memory. False keeps it on the device, for a teacher that is asked at every step.

        Returns
        -------
        Frozen
            It takes the host memory of these tensors, and on the device nothing except while it is open; with
            ``host=False`` it takes the memory of the device.
        """
        return Frozen(self.model, self.maps.values(), changing, host)

    def merge(self) -> None:
        """Add every update to its weight and remove it."""
        for linear_map in self.maps.values():
            linear_map.merge()

    def digests(self) -> dict[str, str]:
        """Return hashes of all parameters and buffers.

        Returns
        -------
        dict of str to str
            SHA-256 of type, shape and bytes, as hex digits, by name in the state dict.
        """
        digests = {}
        for name, tensor in sorted(self.model.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
            digests[name] = digest.hexdigest()
        return digests

    def weights_sha256(self) -> str:
        """Return a hash of all parameters and buffers: names, types, shapes and bytes.

        Returns
        -------
        str
            SHA-256 as hex digits.
        """
        return hashlib.sha256(json.dumps(self.digests()).encode()).hexdigest()

"""The pocket model: its architecture, its tokenizer, fast towers for pre-training, and its files.

Pre-training runs the two towers in bfloat16 through the functions below, which read the parameters by name, use
batch-first layouts and cut the text at its longest caption; ``check_towers`` asserts that they agree with open_clip's
own forward pass.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from safetensors.torch import load_file, save_file

MERGES = 1500
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 36, "patch_size": 6, "width": 128, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 512 + MERGES + 2, "width": 128, "heads": 4, "layers": 3},
}
MEAN, STD = 0.6, 0.35
PREPROCESS_CFG = {
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def write_bpe(path: Path) -> None:
    """Write the first ``MERGES`` merges of CLIP's own BPE, as open_clip ships it."""
    with gzip.open(default_bpe()) as full:
        lines = full.read().decode("utf-8").split("\n")[: MERGES + 1]
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
        file.write("\n".join(lines).encode("utf-8"))


def tokenizer_of(folder: Path) -> SimpleTokenizer:
    """Return the tokenizer of a model folder."""
    return SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=MODEL_CFG["text_cfg"]["context_length"])


def build_model(seed: int, init_scale: float) -> CLIP:
    """Create the model; the matrices of its blocks start smaller than open_clip's by ``init_scale``.

    A small start leaves the spectrum of the trained matrices to the data: what is left of a random matrix is spread
    over all directions.
    """
    torch.manual_seed(seed)
    model = CLIP(**MODEL_CFG)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".resblocks." in name and parameter.ndim == 2:
                parameter.mul_(init_scale)
    return model


def norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Apply a layer norm by its name."""
    return F.layer_norm(x, (x.shape[-1],), weights[f"{name}.weight"], weights[f"{name}.bias"])


def block(
    x: torch.Tensor, weights: dict[str, torch.Tensor], prefix: str, heads: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Apply one pre-norm transformer block to a (batch, tokens, width) tensor."""
    batch, tokens, width = x.shape
    normed = norm(x, weights, f"{prefix}.ln_1")
    qkv = F.linear(normed, weights[f"{prefix}.attn.in_proj_weight"], weights[f"{prefix}.attn.in_proj_bias"])
    query, key, value = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (query * (width // heads) ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
    x = x + F.linear(mixed, weights[f"{prefix}.attn.out_proj.weight"], weights[f"{prefix}.attn.out_proj.bias"])
    hidden = F.linear(
        norm(x, weights, f"{prefix}.ln_2"), weights[f"{prefix}.mlp.c_fc.weight"], weights[f"{prefix}.mlp.c_fc.bias"]
    )
    return x + F.linear(F.gelu(hidden), weights[f"{prefix}.mlp.c_proj.weight"], weights[f"{prefix}.mlp.c_proj.bias"])


def encode_image(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return normalised image features (float32) of pictures (batch, 3, side, side)."""
    cfg = MODEL_CFG["vision_cfg"]
    batch, patch = x.shape[0], cfg["patch_size"]
    grid = cfg["image_size"] // patch
    x = x.view(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, -1)
    position = weights["visual.positional_embedding"]
    x = F.linear(x, weights["visual.conv1.weight"].flatten(1)) + position[1:]
    start = (weights["visual.class_embedding"] + position[0]).expand(batch, 1, -1)
    x = norm(torch.cat([start, x], 1), weights, "visual.ln_pre")
    for layer in range(cfg["layers"]):
        x = block(x, weights, f"visual.transformer.resblocks.{layer}", cfg["width"] // cfg["head_width"], None)
    return F.normalize((norm(x[:, 0], weights, "visual.ln_post") @ weights["visual.proj"]).float(), dim=-1)


def encode_text(weights: dict[str, torch.Tensor], tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return normalised text features (float32); ``tokens`` may be cut after the longest text."""
    cfg = MODEL_CFG["text_cfg"]
    batch, length = tokens.shape
    x = F.embedding(tokens, weights["token_embedding.weight"]) + weights["positional_embedding"][:length]
    for layer in range(cfg["layers"]):
        x = block(x, weights, f"transformer.resblocks.{layer}", cfg["heads"], mask[:length, :length])
    x = norm(x[torch.arange(batch), tokens.argmax(1)], weights, "ln_final")
    return F.normalize((x @ weights["text_projection"]).float(), dim=-1)


@torch.no_grad()
def check_towers(model: CLIP, tokenizer: SimpleTokenizer) -> None:
    """Assert that the functions above compute what open_clip's model computes."""
    weights = dict(model.named_parameters())
    side = MODEL_CFG["vision_cfg"]["image_size"]
    pictures = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(["the letter a", "a clipart picture of a bird", "x"])
    torch.testing.assert_close(encode_image(weights, pictures), model.encode_image(pictures, normalize=True))
    short = tokens[:, : int(tokens.argmax(1).max()) + 1]
    expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encode_text(weights, short, model.attn_mask), expected)


class Towers:
    """The two towers in bfloat16, run on the parts of a batch by a pool of threads.

    Each part has its own copy of the weights and so its own gradients, which are summed in float32 in a fixed order.
    Two threads on one core each are faster than one operation at a time on two cores, since they meet only twice a
    step.

    Parameters
    ----------
    model : CLIP
        The model with the float32 master weights.
    chunks : int
        Number of parts of a batch.
    threads : int
        Number of threads.
    """

    def __init__(self, model: CLIP, chunks: int, threads: int) -> None:
        self.copies = [
            {name: value.detach().to(torch.bfloat16).requires_grad_() for name, value in model.named_parameters()}
            for _ in range(chunks)
        ]
        self.mask = model.attn_mask.to(torch.bfloat16)
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def encode(self, pictures: torch.Tensor, tokens: torch.Tensor) -> list[Future]:
        """Start the forward passes of all parts."""

        def work(
            weights: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return encode_image(weights, x.to(torch.bfloat16)), encode_text(weights, t, self.mask)

        chunks = len(self.copies)
        parts = zip(self.copies, pictures.chunk(chunks), tokens.chunk(chunks), strict=True)
        return [self.pool.submit(work, *part) for part in parts]

    @staticmethod
    def features(parts: list[Future]) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the forward passes and return the batch's image and text features as leaves."""
        images, texts = zip(*[part.result() for part in parts], strict=True)
        return torch.cat(images).detach().requires_grad_(), torch.cat(texts).detach().requires_grad_()

    def backward(self, parts: list[Future], images: torch.Tensor, texts: torch.Tensor) -> None:
        """Run the backward passes of all parts from the gradients of the features."""
        chunks = len(self.copies)
        jobs = [
            self.pool.submit(torch.autograd.backward, part.result(), (image, text))
            for part, image, text in zip(parts, images.chunk(chunks), texts.chunk(chunks), strict=True)
        ]
        for job in jobs:
            job.result()

    def collect(self, master: dict[str, torch.Tensor]) -> None:
        """Sum the gradients of the copies into those of the master weights."""
        for name, value in master.items():
            for copy in self.copies:
                gradient = copy[name].grad
                if gradient is not None:
                    value.grad = gradient.float() if value.grad is None else value.grad.add_(gradient)
                    copy[name].grad = None

    def update(self, master: dict[str, torch.Tensor]) -> None:
        """Copy the master weights into the copies."""
        for copy in self.copies:
            torch._foreach_copy_(list(copy.values()), list(master.values()))


def export(model: CLIP, folder: Path) -> None:
    """Write config, fp16 weights and tokenizer in open_clip's local-dir format."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    partial = folder / "open_clip_model.partial"
    save_file(weights, str(partial))
    partial.replace(folder / "open_clip_model.safetensors")
    write_bpe(folder / "bpe.txt.gz")


def load_exported(folder: Path) -> CLIP:
    """Load the exported fp16 weights into a float32 model."""
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    model = CLIP(**config["model_cfg"])
    weights = load_file(str(folder / "open_clip_model.safetensors"))
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model


def checksums(folder: Path) -> None:
    """Write SHA256SUMS over the other files of the folder."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")

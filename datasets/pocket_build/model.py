"""The pocket model: its architecture, its tokenizer, and its files."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
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

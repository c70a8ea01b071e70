"""The architecture of ViT-B/16 without numbers: for shapes and counts, at once and without memory."""

import open_clip
import torch

from bench.model.clip import Clip


def vit_b_16() -> Clip:
    """Return CLIP's ViT-B/16 on the meta device: tensors have shapes and no values."""
    config = open_clip.get_model_config("ViT-B-16")
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    return Clip(model, open_clip.SimpleTokenizer(context_length=77), {}, "ViT-B-16", config=config)

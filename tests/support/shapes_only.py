"""A model with the architecture of ViT-B/16 whose weights have shapes and no values."""

import functools

import open_clip
import torch

from bench.model.clip import Clip
from bench.trials.toy import tiny_clip


@functools.cache
def vit_b_16() -> Clip:
    """All linear maps of both towers, on the device "meta"."""
    config = open_clip.get_model_config("ViT-B-16")
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    return Clip(model, tiny_clip().tokenizer, {"mean": (0.5,) * 3, "std": (0.3,) * 3}, "ViT-B-16", config=config)


def trained(parameters: list[torch.Tensor]) -> int:
    """How many values are trained."""
    return sum(parameter.numel() for parameter in parameters)

"""Models of open_clip: by name, from a checkpoint, or with random weights."""

import logging

import open_clip
import torch

from bench.core.errors import UserError, suggest
from bench.model.clip import Clip


def load_open_clip(name: str, checkpoint: str | None = None, weights: str = "pretrained", seed: int = 0) -> Clip:
    """Load ``ARCHITECTURE/TAG`` (or ``ARCHITECTURE`` with a checkpoint on disk, or random weights) from open_clip.

    Parameters
    ----------
    name : str
        For example ``ViT-B-16/openai``.
    checkpoint : str, optional
        File with weights of that architecture. A tag, if given too, decides the activation (quick-gelu or not).
    weights : {"pretrained", "random"}
        ``random`` draws them from `seed`: costs without downloads.

    Raises
    ------
    UserError
        Unknown architecture or tag, unsupported tower, or weights that cannot be had.
    """
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f"unknown model {name}{suggest(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag.lower() not in [t.lower() for t in tags]:
        raise UserError(f"open_clip has no weights {tag} for {architecture}{suggest(tag, tags)}")
    source = checkpoint or tag or None
    if weights == "random":
        source = None
    elif source is None:
        some = f" with a TAG such as {', '.join(tags[:4])}" if tags else ""
        raise UserError(
            f"model {name} names no weights: write model={architecture}/TAG{some}, or give model.checkpoint=FILE or "
            "model.weights=random"
        )
    quick_gelu = bool(tag) and bool((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu"))
    try:
        logging.disable(logging.ERROR)  # libraries report every retry; what matters is said below
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = open_clip.create_model(architecture, pretrained=source, force_quick_gelu=quick_gelu)
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        if checkpoint:  # its text is advice for programmers, such as loading with pickle
            raise UserError(
                f"the file {checkpoint} cannot be loaded ({type(error).__name__}): check that it is a checkpoint of "
                f"{architecture}"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model {name} cannot be loaded ({reason}): run once on a machine with network access, or give "
            "model.checkpoint=FILE"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    return Clip(model, tokenizer, model.visual.preprocess_cfg, name)

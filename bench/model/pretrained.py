"""Models of open_clip: by name, from a checkpoint, or with random weights."""

import logging

import open_clip
import torch

from bench.core.errors import UserError
from bench.model.clip import Clip


def load_open_clip(name: str, checkpoint: str | None = None, weights: str = "pretrained", seed: int = 0) -> Clip:
    """Return an open_clip model, on the CPU.

    The names and the settings of a run are checked before, by `bench.config.catalogue`.

    Parameters
    ----------
    name : str
        ``ARCHITECTURE/TAG``, for example ``ViT-B-16/openai``; ``ARCHITECTURE`` alone with a checkpoint or random
        weights.
    checkpoint : str, optional
        File with weights of that architecture. A tag, if given too, decides the activation (quick-gelu or not).
    weights : {"pretrained", "random"}, optional
        ``random`` draws them, for measurements of cost without downloads.
    seed : int, optional
        Seed of random weights.

    Returns
    -------
    Clip

    Raises
    ------
    UserError
        If the weights cannot be loaded or downloaded, or the model's towers are not supported.
    """
    architecture, _, tag = name.partition("/")
    source = None if weights == "random" else checkpoint or tag or None
    quick_gelu = bool(tag) and bool((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu"))
    try:
        logging.disable(logging.ERROR)  # libraries report every retry; what matters is said below
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = open_clip.create_model(
                architecture,
                pretrained=source,
                force_quick_gelu=quick_gelu,
                require_pretrained=weights != "random",  # never random weights that nobody asked for
            )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        if checkpoint:  # the library's text is advice for programmers, such as loading with pickle
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

"""Write what a finished run learned as a checkpoint that open_clip loads by itself, with a model card."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save
from torch import Tensor

from bench.core.console import say
from bench.core.errors import UserError
from bench.core.files import make_folder, write_atomic
from bench.core.paths import is_folder, user_path
from bench.data.stream import LabelSpace
from bench.learning.evaluate import zero_shot
from bench.model.clip import Clip
from bench.model.layers import activation
from bench.reuse.card import CARD, card
from bench.reuse.load import Loaded, load

WEIGHTS, CONFIG, VOCABULARY = "open_clip_model.safetensors", "open_clip_config.json", "bpe.txt.gz"
"""Names of the files; open_clip looks for the first two in a folder."""

PROBES = 8
"""Images of noise on which the exported model is compared with the run's."""

TOLERANCE = 1e-4
"""Largest difference of features of unit length, and of logits relative to the largest, that rounding explains."""


def export(run: str | Path, to: str | Path, settings: Mapping[str, Any] | Sequence[str] = ()) -> Path:
    """Write the model of a finished run as a checkpoint of open_clip.

    Parameters
    ----------
    run : str or Path
        The run directory.
    to : str or Path
        A folder that is not there yet, or is empty.
    settings : mapping of str to object, or sequence of str, optional
        As for `load`.

    Returns
    -------
    Path
        The folder. ``open_clip.create_model(f"local-dir:{folder}")`` loads it; the card README.md in it says more.

    Raises
    ------
    UserError
        As for `load`; also if the folder is in use, or open_clip cannot represent the model.
    """
    folder = user_path(str(to), "to")
    if folder.exists() and not (is_folder(folder) and not any(folder.iterdir())):
        raise UserError(f"to={to} is there already: name a new folder")
    used = load(run, settings)
    clip = used.clip
    own = _logits(used, lambda space: used.method.classifier(used.place(space)))
    clip.merge()
    missing = _unmerged(used, own)
    content: dict[str, str | bytes] = {CONFIG: json.dumps(_config(clip), indent=2) + "\n"}
    vocabulary = _vocabulary(clip)
    if vocabulary is not None:
        content[VOCABULARY] = vocabulary
    content[CARD] = card(used, missing, vocabulary is not None)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in clip.model.state_dict().items()}
    content[WEIGHTS] = save(weights, {"format": "pt"})
    try:
        make_folder(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            for name, one in content.items():
                write_atomic(made / name, one)
            difference = _compare(used, made)
            made.replace(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error}): choose another folder") from error
    say(f"written to {folder}; open_clip gives the features of the run's model (largest difference {difference:.0e})")
    say(missing or "the weights are all that the method's classifier needs")
    return folder


# ------------------------------------------------------------------------------- what open_clip needs to know


def _config(clip: Clip) -> dict[str, Any]:
    """Return the content of open_clip_config.json."""
    if clip.config is None:
        raise UserError(
            f"model {clip.name} does not say how open_clip would build it: pass open_clip's configuration to "
            "bench.api.Clip as config="
        )
    model = deepcopy(clip.config)
    model["quick_gelu"] = activation(clip.model) == "QuickGELU"
    if clip.text is not clip.model:
        model["custom_text"] = True
    return {"model_cfg": model, "preprocess_cfg": clip.preprocess}


def _vocabulary(clip: Clip) -> bytes | None:
    """Return the file of a tokenizer's vocabulary where it is not open_clip's own."""
    tokenizer = clip.tokenizer
    if not isinstance(tokenizer, SimpleTokenizer):
        raise UserError(
            f"model {clip.name} has another tokenizer than open_clip's own, which cannot be written: use the model "
            "through bench.api.load"
        )
    if tokenizer.encoder == SimpleTokenizer().encoder:
        return None
    lines = ["merges", *(" ".join(merge) for merge in tokenizer.bpe_ranks)]
    return gzip.compress("\n".join(lines).encode(), mtime=0)


# ------------------------------------------------------------------------------------------ what is compared


def _noise(clip: Clip) -> Tensor:
    """Return images of noise, float32 [probes, 3, height, width], normalised."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (PROBES, 3, *clip.image_size), generator=draw, dtype=torch.uint8)
    return clip.normalize(pixels)


@torch.no_grad()
def _logits(used: Loaded, classifier: Callable[[LabelSpace], Callable[[Tensor], Tensor]]) -> dict[str, Tensor]:
    """Return the logits that a classifier gives to noise, by learned task."""
    pixels, logits = _noise(used.clip), {}
    for name, prompts in used.prompts.items():
        logits[name] = classifier(LabelSpace(prompts, (0,) * len(prompts), tuple(range(len(prompts)))))(pixels)
    return logits


def _unmerged(used: Loaded, own: Mapping[str, Tensor]) -> str:
    """Say what of the method's answers the merged weights do not give; empty if nothing.

    Parameters
    ----------
    used : Loaded
        Its updates are merged.
    own : mapping of str to Tensor
        The logits of the method's own classifier before that.
    """
    different = [
        name
        for name, plain in _logits(used, partial(zero_shot, used.clip)).items()
        if float((plain - own[name]).abs().max()) > TOLERANCE * max(float(plain.abs().max()), 1.0)
    ]
    if not different:
        return ""
    named = ", ".join(different) if len(different) < len(own) else "all tasks"
    return (
        f"not in these weights is what {used.run.method} adds to CLIP's logits when it classifies ({named}): heads, "
        "routers and class means cannot be merged; bench.api.load gives the whole classifier"
    )


@torch.no_grad()
def _compare(used: Loaded, folder: Path) -> float:
    """Load the checkpoint with open_clip and return the largest difference of its features.

    Raises
    ------
    UserError
        If it cannot be loaded, or is another function.
    """
    clip = used.clip
    texts = next(iter(used.prompts.values()))[:PROBES]
    wrong = (
        "open_clip's configuration of the model, which bench.api.Clip was given as config=, is not that of the model"
    )
    try:
        model = open_clip.create_model(f"local-dir:{folder}").eval().to(clip.device)
        more = {"bpe_path": str(folder / VOCABULARY)} if (folder / VOCABULARY).exists() else {}
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}", **more)(list(texts)).to(clip.device)
        pairs = [
            (clip.encode_images(_noise(clip)), model.encode_image(_noise(clip))),
            (clip.encode_prompts(texts), model.encode_text(tokens)),
        ]
        difference = max(float((ours - F.normalize(theirs, dim=-1)).abs().max()) for ours, theirs in pairs)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise UserError(f"open_clip cannot load the exported model ({reason}): {wrong}") from error
    if not difference <= TOLERANCE:
        raise UserError(
            f"open_clip computes other features from the exported model (they differ by {difference:.1e}): {wrong}"
        )
    return difference

"""Models of open_clip: by name, from a checkpoint, or with random weights."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.transform import PreprocessCfg
from torch import Tensor

from bench.core.errors import UserError
from bench.model.checkpoint_file import CONFIG, CheckpointFile, misfit, read_checkpoint
from bench.model.clip import Clip
from bench.model.layers import activation

QUICK = "-quickgelu"
"""How open_clip's architectures with QuickGELU end."""

READS = ("mean", "std", "interpolation", "resize_mode")
"""open_clip's settings of how images are read; their size is the architecture's."""

USUAL = {key: getattr(PreprocessCfg(), key) for key in READS}
"""OpenAI's way, which open_clip assumes of weights that it does not know."""

POSITIONS = {
    "visual.positional_embedding": "image sizes",
    "positional_embedding": "prompt lengths",
    "text.positional_embedding": "prompt lengths",
}
"""Weights that open_clip resizes where a checkpoint has more or fewer positions, and what they belong to."""


def load_open_clip(
    name: str,
    checkpoint: str | None = None,
    weights: str = "pretrained",
    seed: int = 0,
    image_size: int | None = None,
) -> Clip:
    """Return an open_clip model, on the CPU.

    The names and the settings of a run are checked before, by `bench.config.catalogue`.

    Parameters
    ----------
    name : str
        ``ARCHITECTURE/TAG``, for example ``ViT-B-16/openai``; ``ARCHITECTURE`` alone with a checkpoint or random
        weights.
    checkpoint : str, optional
        File with weights of that architecture: safetensors, of ``torch.save``, or OpenAI's own archive. Nothing in it
        is run. A tag, if given too, decides the activation (QuickGELU or GELU) and how images are read.
    weights : {"pretrained", "random"}, optional
        ``random`` draws them, for measurements of cost without downloads.
    seed : int, optional
        Seed of random weights.
    image_size : int, optional
        Height and width of the images in pixels, instead of the architecture's own; position embeddings are resized.

    Returns
    -------
    Clip
        Its `notes` say which activation a checkpoint runs with, and how images are read where that is not usual.

    Raises
    ------
    UserError
        If the weights cannot be loaded or downloaded, do not fit, or need the other activation, or if the model's
        towers are not supported.
    """
    if checkpoint and weights != "random":
        return _from_file(name, checkpoint, image_size)
    tag = name.partition("/")[2]
    chosen = None if weights == "random" else tag or None
    of_tag = _of_tag(name)
    quick_gelu, required = bool(of_tag.get("quick_gelu")), weights != "random"
    model, tokenizer = _create(name, chosen, quick_gelu, seed, required, image_size, of_tag)
    return Clip(model, tokenizer, model.visual.preprocess_cfg, name, config=_config(name, model))


def _create(
    name: str,
    tag: str | None,
    quick_gelu: bool,
    seed: int,
    required: bool,
    image_size: int | None,
    preprocess: Mapping[str, Any],
) -> tuple[Any, Any]:
    """Return open_clip's model, which reads images as `preprocess` says, and its tokenizer, without its reports."""
    architecture = name.partition("/")[0]
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = open_clip.create_model(
                architecture,
                pretrained=tag,
                force_quick_gelu=quick_gelu,
                force_image_size=image_size,
                force_preprocess_cfg={key: preprocess[key] for key in READS if key in preprocess},
                require_pretrained=required,  # never random weights that nobody asked for
            )
            return model, open_clip.get_tokenizer(architecture)
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = ", or give model.checkpoint=FILE" if required else ""
        raise UserError(
            f"model {name} cannot be loaded ({reason}): run once on a machine with network access{remedy}"
        ) from error


def _config(name: str, model: Any) -> dict[str, Any]:
    """Return open_clip's configuration of a model, with the activation that it runs with."""
    config = open_clip.get_model_config(name.partition("/")[0]) or {}
    vision = {**config.get("vision_cfg", {}), "image_size": model.visual.image_size}
    return {**config, "vision_cfg": vision, "quick_gelu": activation(model) == "QuickGELU"}


@contextmanager
def _quiet() -> Iterator[None]:
    """While open, hide what libraries log: they report every retry, and the suite's own sentences say what matters."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _from_file(name: str, checkpoint: str, image_size: int | None) -> Clip:
    architecture = name.partition("/")[0]
    file = read_checkpoint(checkpoint)
    quick_gelu, reason = _activation(name, checkpoint, file)
    preprocess, said = _reading(name, checkpoint, file)
    model, tokenizer = _create(name, None, quick_gelu, 0, False, image_size, preprocess)
    resized = _load(model, file.tensors, checkpoint, architecture)
    clip = Clip(model, tokenizer, model.visual.preprocess_cfg, name, config=_config(name, model))
    clip.notes.append(f"{checkpoint} runs with {activation(model)}, {reason}")
    clip.notes += said
    clip.notes += [f"the position embeddings of {checkpoint} are for other {what} and are resized" for what in resized]
    return clip


# ---- activation and preprocessing


def _of_tag(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a tag, with ``quick_gelu`` and `READS`; empty if there is no tag."""
    architecture, _, tag = name.partition("/")
    return (open_clip.get_pretrained_cfg(architecture, tag) or {}) if tag else {}


def _activation(name: str, checkpoint: str, file: CheckpointFile) -> tuple[bool, str]:
    """Return whether a checkpoint runs with QuickGELU, and why, in words.

    A model without a tag follows OpenAI's archive, which shows by itself what it needs. Every other contradiction is
    refused, so that the name of a model says how it computes.
    """
    architecture, _, tag = name.partition("/")
    config = open_clip.get_model_config(architecture) or {}
    quick_gelu = bool(config.get("quick_gelu") or _of_tag(name).get("quick_gelu"))
    other = architecture.removesuffix(QUICK) if quick_gelu else f"{architecture}{QUICK}"
    known = other != architecture and other in open_clip.list_models()
    if file.quick_gelu and not quick_gelu:
        if file.of_openai and not tag:
            return True, "as OpenAI's weights need"
        remedy = f"write model={other}" if known else "choose a model with QuickGELU"
        raise UserError(
            f"the file {checkpoint} needs QuickGELU ({file.quick_gelu}), and {name} computes with GELU: {remedy}"
        )
    if file.quick_gelu or tag or not known:
        return quick_gelu, f"as {name} says"
    tags = open_clip.list_pretrained_tags_by_model(architecture.removesuffix(QUICK) + QUICK)
    quick = ", ".join(tags) or "OpenAI, MetaCLIP and DFN"
    whose = f"others than {quick} need GELU" if quick_gelu else f"{quick} need QuickGELU"
    return quick_gelu, f"as {name} says; weights of {whose}: model={other}"


def _reading(name: str, checkpoint: str, file: CheckpointFile) -> tuple[dict[str, Any], list[str]]:
    """Return how images are read for the weights of a file, and what to say of it: nothing where that is usual.

    The tag decides, then open_clip's configuration beside the file, then what all tags of the architecture have in
    common. OpenAI's way is usual.
    """
    architecture, _, tag = name.partition("/")
    if tag:
        return _of_tag(name), _unusual(checkpoint, _of_tag(name), name)
    if file.preprocess or file.of_openai:
        return file.preprocess, _unusual(checkpoint, file.preprocess, f"{CONFIG} beside it")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    ways = {tag: _reads(_of_tag(f"{architecture}/{tag}")) for tag in tags}
    if tags and all(way == ways[tags[0]] for way in ways.values()):
        return ways[tags[0]], _unusual(checkpoint, ways[tags[0]], f"every tag of {architecture}")
    odd = [tag for tag, way in ways.items() if way != USUAL]
    note = f"{checkpoint} reads images as open_clip does without a tag; {', '.join(odd)} of {architecture} would not"
    return {}, [f"{note}: model={architecture}/{odd[0]}"] if odd else []


def _reads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how images are read: as a configuration says, and in the usual way where it says nothing."""
    return {key: config.get(key, USUAL[key]) for key in READS}


def _unusual(checkpoint: str, config: Mapping[str, Any], source: str) -> list[str]:
    """Return the line about images that are not read in the usual way, or none."""
    way = _reads(config)
    odd = [f"{key} {' '.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in way.items() if v != USUAL[key]]
    return [f"{checkpoint} reads images with {', '.join(odd)}, as {source} says"] if odd else []


# ---- weights


def _load(model: Any, tensors: dict[str, Tensor], checkpoint: str, architecture: str) -> list[str]:
    """Put weights into a model, as open_clip does, and return what had to be resized.

    Raises
    ------
    UserError
        If they do not fit.
    """
    try:
        tensors, resized = _converted(model, tensors)
    except MemoryError:
        raise
    except Exception:  # weights of another model can fail in any way here; what does not fit is named below
        resized = []
    wrong = misfit(tensors, model.state_dict())
    if wrong is None:
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:  # tensors that cannot be copied, such as sparse ones
            wrong = str(error).strip().splitlines()[-1].strip()
    if wrong is not None:
        raise UserError(
            f"the file {checkpoint} does not fit {architecture} ({wrong}): choose the architecture that it was made for"
        )
    return resized


def _converted(model: Any, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights under the names and in the shapes of a model, and what had to be resized."""
    converted = dict(convert_state_dict(model, dict(tensors)))
    if "positional_embedding" in converted and not hasattr(model, "positional_embedding"):
        converted = convert_to_custom_text_state_dict(converted)
    for name in ("logit_scale", "logit_bias"):  # a number, or a row of one number
        own = getattr(model, name, None)
        if name in converted and own is not None:
            converted[name] = converted[name].reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_bias" not in converted:
        converted["logit_bias"] = torch.zeros_like(converted["logit_scale"])
    before = {name: converted[name].shape for name in POSITIONS if name in converted}
    with _quiet():
        resize_pos_embed(converted, model)
        resize_text_pos_embed(converted, model)
    return converted, [POSITIONS[name] for name, shape in before.items() if converted[name].shape != shape]

"""Which models open_clip has and this suite can use, read from open_clip's files without importing it.

Importing open_clip imports torch, which takes seconds. The architectures are JSON files, and the pre-trained tags are a
literal table in one of its modules.

The same model has many names: ``ViT-L/14@336px`` in OpenAI's code, ``openai/clip-vit-large-patch14-336`` on the
Hugging Face hub, ``vit_large_patch14_clip_336.openai`` in timm, ``ViT-L-14-336/openai`` here. What somebody may have
meant with a name that does not exist is found here too.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import nearest, shorten, suggest

USUAL = "openai"
"""The weights that a name without any most likely means."""

FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")
"""Endings of files of weights."""

SPELLINGS = (
    (r"[^a-z0-9]+", "-"),
    (r"\b(\d+)px\b", r"\1"),
    (r"\b(\d+)x\1\b", r"\1"),
    (r"\bclip-", ""),
    (r"\b(b|l|h|g)(?:ase|arge|uge|iant)-patch(\d+)", r"\1-\2"),
)
"""What is replaced, in this order, to make the names of other libraries alike."""

Tags = Mapping[str, "tuple[str, ...] | None"]
"""Names of weights by architecture; None where they are not known."""


@dataclass(frozen=True)
class Architecture:
    """One open_clip architecture.

    Attributes
    ----------
    name : str
        Such as ``"ViT-B-16"``.
    tags : tuple of str or None
        Pre-trained tags such as ``"openai"``; None when this release of open_clip could not be read for them.
    unsupported : str
        Why the suite cannot use it; empty when it can.
    config : dict of str to object
        What open_clip's file says of it: ``vision_cfg``, ``text_cfg`` and so on.
    """

    name: str
    tags: tuple[str, ...] | None
    unsupported: str = ""
    config: dict[str, Any] = field(default_factory=dict)


@functools.lru_cache(maxsize=1)
def architectures() -> dict[str, Architecture]:
    """Return open_clip's architectures, usable ones and others.

    Returns
    -------
    dict of str to Architecture
        By name; empty if open_clip is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        return {}
    folder = Path(folders[0])
    tags = _tags(folder / "pretrained.py")
    known = {}
    for path in sorted((folder / "model_configs").glob("*.json"), key=lambda path: path.stem):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            reason = foreign_tower(config) or _missing_package(config)
        except (OSError, ValueError):
            continue
        own = None if tags is None else tags.get(path.stem, ())
        known[path.stem] = Architecture(path.stem, own, reason, config)
    return known


def supported() -> dict[str, Architecture]:
    """Return the architectures with native towers, which the suite can use.

    Returns
    -------
    dict of str to Architecture
        By name.
    """
    return {name: one for name, one in architectures().items() if not one.unsupported}


def split(name: str) -> tuple[str, str]:
    """Return the architecture and the tag of a model's name.

    Parameters
    ----------
    name : str
        ``ARCH/TAG`` or ``ARCH``.

    Returns
    -------
    arch : str
    tag : str
        Empty in the second form.
    """
    arch, _, tag = name.partition("/")
    return arch, tag


def problem(name: str, registered: tuple[str, ...] = (), own_weights: bool = False) -> str | None:
    """Return what is wrong with an open_clip model name, in one sentence, or None.

    Parameters
    ----------
    name : str
        ``ARCH/TAG`` or ``ARCH``.
    registered : tuple of str, optional
        Names of other models, for the suggestion.
    own_weights : bool, optional
        Whether other settings give the weights, so that ``ARCH`` alone is enough.
    """
    arch, tag = split(name)
    found = architectures().get(arch)
    if found is None:
        tags = {usual: one.tags for usual, one in supported().items()}
        if is_file(name):
            return f'model "{shorten(name)}" is a file and not a name: write {settings_for_file(name, tags)}'
        near = meant(name, tags, registered, own_weights)
        hint = f'did you mean "{near}"?' if near else 'see "python -m bench list models"'
        return f'unknown model "{shorten(name)}" ({hint})'
    if found.unsupported:
        return f'model "{arch}" is not supported: {found.unsupported} (see "python -m bench list models")'
    if tag and found.tags is not None and tag.lower().replace("-", "_") not in found.tags:
        if not found.tags:
            return f'open_clip has no weights for "{arch}": give model.checkpoint=FILE or model.weights=random'
        near = nearest(tag, found.tags)
        hint = f' (did you mean "{arch}/{near}"?)' if near else suggest(tag, found.tags)
        return f'unknown weights "{shorten(tag)}" of model "{arch}"{hint}'
    if name.endswith("/"):
        return f'model "{shorten(name)}" names no weights after the slash'
    return None


def weights_problem(name: str, checkpoint: str | None, weights: str) -> str | None:
    """Return what is wrong with the weights of an open_clip model whose name has no `problem`, or None.

    Parameters
    ----------
    name : str
        ``ARCH/TAG`` or ``ARCH``.
    checkpoint : str or None
        The setting ``model.checkpoint``.
    weights : {"pretrained", "random"}
        The setting ``model.weights``.

    Returns
    -------
    str or None
        One sentence.
    """
    arch, tag = split(name)
    if tag or checkpoint or weights == "random":
        return None
    tags = architectures()[arch].tags if arch in architectures() else None
    some = f" with a TAG such as {', '.join(tags[:4])}" if tags else ""
    return (
        f"model {name} names no weights: write model={arch}/TAG{some}, or give model.checkpoint=FILE or "
        "model.weights=random"
    )


def widths(name: str) -> dict[str, int]:
    """Return the widths of the blocks of a model.

    Parameters
    ----------
    name : str
        ``ARCH/TAG`` or ``ARCH``.

    Returns
    -------
    dict of str to int
        By ``"image"`` and ``"text"``; empty if they are not known.
    """
    found = architectures().get(split(name)[0])
    return widths_in(found.config) if found else {}


def widths_in(config: dict[str, Any]) -> dict[str, int]:
    """Return the widths of the blocks by tower, as an open_clip configuration gives them.

    Parameters
    ----------
    config : dict
        The content of ``model_cfg``.

    Returns
    -------
    dict of str to int
        By ``"image"`` and ``"text"``; without a tower whose width is not a number there.
    """
    towers = {"image": config.get("vision_cfg", {}), "text": config.get("text_cfg", {})}
    return {name: tower["width"] for name, tower in towers.items() if isinstance(tower.get("width"), int)}


def foreign_tower(config: dict[str, Any]) -> str:
    """Return which tower of an open_clip configuration the suite cannot use, in words; empty if it can use both."""
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if vision.get("timm_model_name"):
        return "its image tower comes from timm"
    if isinstance(vision.get("layers"), list):
        return "its image tower is a ResNet"
    if text.get("hf_model_name"):
        return "its text tower comes from Hugging Face"
    if "multimodal_cfg" in config:
        return "it is a captioning model (CoCa)"
    return ""


def _missing_package(config: dict[str, Any]) -> str:
    named = config.get("text_cfg", {}).get("hf_tokenizer_name")
    if named and importlib.util.find_spec("transformers") is None:
        return f"its tokenizer, {named}, needs the package transformers: install it with pip install transformers"
    return ""


def _tags(path: Path) -> dict[str, tuple[str, ...]] | None:
    """Read the tags of each architecture out of open_clip's table; None when it does not look as expected."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    table = assigned.get("_PRETRAINED")
    if not isinstance(table, ast.Dict):
        return None
    tags_of: dict[str, tuple[str, ...]] = {}
    for key, value in zip(table.keys, table.values, strict=True):
        weights = assigned.get(value.id) if isinstance(value, ast.Name) else value
        if not isinstance(key, ast.Constant) or not isinstance(weights, ast.Call):
            return None
        tags = {keyword.arg: keyword.value for keyword in weights.keywords if keyword.arg}
        arch = str(key.value)
        tags_of[arch] = tuple(tags)
        # open_clip lists weights trained with QuickGELU once more under the architecture's "-quickgelu" name.
        quick = tuple(tag for tag, weight in tags.items() if _is_quick(weight))
        if quick:
            tags_of[f"{arch}-quickgelu"] = quick
    return tags_of


def _is_quick(weight: ast.expr) -> bool:
    keywords = weight.keywords if isinstance(weight, ast.Call) else []
    return any(word.arg == "quick_gelu" and getattr(word.value, "value", False) for word in keywords)


def is_file(name: str) -> bool:
    """Return whether somebody named a file where a model is expected."""
    return name.lower().endswith(FILES) or name.startswith(("/", "./", "../", "~"))


def settings_for_file(name: str, tags: Tags) -> str:
    """Return the settings that load a file, with the architecture that its name suggests.

    Parameters
    ----------
    name : str
        The file.
    tags : mapping of str to tuple of str
        By architecture.

    Returns
    -------
    str
        Such as ``"model=ViT-B-16 model.checkpoint=ViT-B-16.pt"``.
    """
    arch = _contained(_spelled(Path(name).stem), tags) or "ARCHITECTURE"
    return f"model={arch} {shlex.quote(f'model.checkpoint={name}')}"


def meant(name: str, tags: Tags, registered: Iterable[str] = (), own_weights: bool = False) -> str | None:
    """Return the name that comes nearest, or None.

    Parameters
    ----------
    name : str
        As the user wrote it.
    tags : mapping of str to tuple of str
        By architecture; only these are suggested.
    registered : iterable of str, optional
        Names of other models.
    own_weights : bool, optional
        Whether other settings give the weights, so that an architecture alone is enough.

    Returns
    -------
    str or None
        ``ARCH/TAG``, ``ARCH`` if `own_weights` is set, or a registered name.
    """
    spelled = _spelled(name)
    arch = _contained(spelled, tags)
    first, _, last = name.partition("/")
    if arch is None:
        arch = nearest(first, [*registered, *tags])
        if arch is None or arch not in tags:
            return arch
    known = tags[arch]
    tag = _contained(spelled, known or ()) or nearest(last, known or ())
    if tag is None and own_weights:
        return arch
    if tag is None and known is None:  # this release of open_clip could not be read for its weights
        tag = last or None
    elif tag is None and known:
        tag = USUAL if USUAL in known else known[0]
    return f"{arch}/{tag}" if tag else None


def _contained(spelled: str, names: Iterable[str]) -> str | None:
    """Return the longest name that a spelled text contains as a whole."""
    found = [one for one in names if f"-{_spelled(one)}-" in f"-{spelled}-"]
    return max(found, key=len, default=None)


def _spelled(name: str) -> str:
    """Return a name as all libraries would spell it."""
    text = name.lower()
    for pattern, plain in SPELLINGS:
        text = re.sub(pattern, plain, text)
    return text.strip("-")

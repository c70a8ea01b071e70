"""Which models open_clip has and this suite can use, read from open_clip's files without importing it.

Importing open_clip imports torch, which takes seconds. The architectures are JSON files, and the pre-trained tags are a
literal table in one of its modules.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.model_names import is_file, meant, settings_for_file
from bench.core.errors import nearest, shorten, suggest


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
            reason = _unsupported(config)
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


def _unsupported(config: dict[str, Any]) -> str:
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

"""What somebody may have meant with a model name that does not exist.

The same model has many names: ``ViT-L/14@336px`` in OpenAI's code, ``openai/clip-vit-large-patch14-336`` on the
Hugging Face hub, ``vit_large_patch14_clip_336.openai`` in timm, ``ViT-L-14-336/openai`` here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.core.errors import nearest

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

"""Read a file of weights that a user names, without running anything in it, and say what is wrong with it.

What the file is decides its content, not its name.
"""

import json
import os
import pickle
import re
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.model.tensor_file import SCRIPT, Damaged, Unknown, read_archive, script_tensors

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys below which training scripts save a state dict, beside other things."""

SIZES = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's archives hold beside the weights, and nobody else's do."""

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Usual endings of files with weights."""

PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
"""How archives of gzip, bzip2, xz, zstd, 7z and rar begin."""

TAR = slice(257, 262)
"""Where a tar archive says ``ustar``."""

CONFIG = "open_clip_config.json"
"""What open_clip calls the configuration that it writes beside its weights."""

READING = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "longest", "squash")}
"""Values of open_clip's settings of preprocessing that are words."""

HEAD = 1024
"""Bytes that decide what a file is."""


@dataclass(frozen=True)
class CheckpointFile:
    """Weights from a file.

    Attributes
    ----------
    tensors : dict of str to Tensor
        By name, without the prefixes of wrappers.
    quick_gelu : str
        How the file shows that its weights need QuickGELU, such as ``"it is OpenAI's archive"``; empty if it does not.
    of_openai : bool
        Whether the file itself shows that OpenAI made it.
    preprocess : dict of str to object
        How open_clip's configuration beside the file says that images are read; empty if it does not.
    """

    tensors: dict[str, Tensor]
    quick_gelu: str = ""
    of_openai: bool = False
    preprocess: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(name: str) -> CheckpointFile:
    """Return the weights of a file: safetensors, of ``torch.save``, or a TorchScript archive such as OpenAI's.

    Parameters
    ----------
    name : str
        The file; ``~`` stands for the home folder.

    Returns
    -------
    CheckpointFile

    Raises
    ------
    UserError
        If it is missing, cut off, or no file of weights; the sentence says which, and what to do.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path's own raises where there is no such user)
    head = _head(path)
    try:
        held = _content(path, head)
    except Damaged as error:
        raise UserError(f"the file {path} is cut off or damaged ({error}): copy or download it again") from error
    except OSError as error:
        raise UserError(f"the file {path} cannot be read: {error.strerror or error}") from error
    tensors = _named(path, held)
    of_openai = all(size in tensors for size in SIZES)
    if of_openai:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in SIZES}
    if of_openai:
        return CheckpointFile(tensors, "it is OpenAI's archive", True)
    beside = _config_beside(path)
    asks = isinstance(beside.get("model_cfg"), dict) and beside["model_cfg"].get("quick_gelu") is True
    quick = f"{CONFIG} beside it says so" if asks else ""
    return CheckpointFile(tensors, quick, False, _preprocess(beside.get("preprocess_cfg")))


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; refuse what is no file of weights by its looks."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            inside = sorted(one.name for one in path.iterdir() if one.suffix in ENDINGS)
            some = f", such as {path / inside[0]}" if inside else ""
            raise UserError(f"{path} is a folder: give a file of weights as model.checkpoint{some}")
        if not stat.S_ISREG(kind):
            raise UserError(f"{path} is no regular file: give a file of weights as model.checkpoint")
        with path.open("rb") as file:
            head = file.read(HEAD)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no file {path}: check model.checkpoint") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the file {path} cannot be read ({reason}): check model.checkpoint") from error
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        problem = "is empty: copy or download it again"
    elif text.startswith(b"version https://git-lfs"):
        problem = 'is a pointer of Git LFS and not the weights: run "git lfs pull" in its folder'
    elif text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        problem = "is a web page and not the weights: download it again, from a link that leads to the file itself"
    elif head.startswith(PACKED) or head[TAR] == b"ustar":
        problem = "is a packed archive: unpack it and give the file of weights in it as model.checkpoint"
    else:
        return head
    raise UserError(f"the file {path} {problem}")


def _content(path: Path, head: bytes) -> Any:
    """Return what a file holds."""
    if head.startswith(b"PK\x03\x04"):
        held = read_archive(path)
        if held is None:
            raise UserError(
                f"the file {path} is a zip archive without weights of torch: unpack it, or give a .safetensors or .pt "
                "file as model.checkpoint"
            )
        is_script = isinstance(held, Unknown) and held.origin.startswith(SCRIPT)
        return script_tensors(held) if is_script else held
    if head[8:9] == b"{":  # after the length of a safetensors file's header
        return _safetensors(path, int.from_bytes(head[:8], "little"))
    if head.startswith(b"\x80"):
        return _old_format(path)
    raise UserError(
        f"the file {path} is no file of weights that can be read: give a .safetensors or .pt file as model.checkpoint"
    )


def _safetensors(path: Path, header: int) -> dict[str, Tensor]:
    size = path.stat().st_size
    if 8 + header > size:
        raise Damaged(f"it has {size} bytes, and its header alone takes {8 + header}")
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise Damaged(str(error)) from error


def _old_format(path: Path) -> Any:
    """Read the format that torch wrote before version 1.6, which torch can do without running anything in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about details of the format; what matters is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if named is None:
            raise Damaged("it is no file of torch.save") from error
        raise UserError(_other_things(path, named.group(1))) from error
    except Exception as error:  # a damaged file can fail in any way
        raise Damaged(str(error).strip().split("\n")[0] or type(error).__name__) from error


def _named(path: Path, held: Any) -> dict[str, Tensor]:
    """Return the tensors by name, out of what training scripts and wrappers put around them."""
    for _ in WRAPPERS:
        inner = [held[key] for key in WRAPPERS if isinstance(held.get(key), dict)] if isinstance(held, dict) else []
        held = inner[0] if inner else held
    if not isinstance(held, dict):
        raise UserError(_other_things(path, _kind(held)))
    if not held:
        raise UserError(f"the file {path} holds no weights: give another file as model.checkpoint")
    for key, value in held.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(_other_things(path, f"{_kind(value)} under the name {key!r}"))
    names = [name.replace("_orig_mod.", "") for name in held]  # torch.compile puts it before any module's name
    while all(name.startswith("module.") for name in names):  # DataParallel and its like
        names = [name.removeprefix("module.") for name in names]
    return dict(zip(names, held.values(), strict=True))


def _kind(value: Any) -> str:
    return value.origin if isinstance(value, Unknown) else type(value).__name__


def _other_things(path: Path, what: str) -> str:
    return (
        f"the file {path} holds something else than tensors by their names ({what}): load it where it was made, and "
        "save the model's state_dict() with torch.save or as safetensors"
    )


def _config_beside(path: Path) -> dict[str, Any]:
    """Return open_clip's configuration beside its own file of weights; empty if there is none that can be read."""
    if path.stem not in ("open_clip_model", "open_clip_pytorch_model"):
        return {}
    try:
        config = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _preprocess(config: Any) -> dict[str, Any]:
    """Return what a configuration says of how images are read, without values that cannot be meant."""
    settings = config if isinstance(config, dict) else {}
    words = {key: settings[key] for key, known in READING.items() if settings.get(key) in known}
    mean, std = (_moment(settings.get(key)) for key in ("mean", "std"))
    return {**words, "mean": mean, "std": std} if mean and std and all(std) else words


def _moment(value: Any) -> tuple[float, ...]:
    """Return one number a colour, each between 0 and 1; empty if the value is something else."""
    numbers = value if isinstance(value, list) and len(value) == 3 else []
    return tuple(map(float, numbers)) if all(type(one) in (int, float) and 0 <= one <= 1 for one in numbers) else ()


def misfit(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> str | None:
    """Return how weights do not fit a model, in words, or None.

    Parameters
    ----------
    given : dict of str to Tensor
        Of a file.
    wanted : dict of str to Tensor
        The state dict of the model.

    Returns
    -------
    str or None
        Names the first weight of each kind: too many, missing, of another shape.
    """
    if any(name.startswith(("vision_model.", "text_model.")) for name in given):
        return (
            "its weights have the names that the transformers library uses: take the file for open_clip, "
            "such as open_clip_model.safetensors"
        )
    shapes = {
        name: f"{name} of shape {list(given[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    }
    parts = [
        _counted([name for name in wanted if name not in given], "is missing", "are missing"),
        _counted([name for name in given if name not in wanted], "is unknown", "are unknown"),
        _counted(shapes.values(), "has another shape", "have another shape"),
    ]
    return "; ".join(part for part in parts if part) or None


def _counted(names: Iterable[str], one: str, several: str) -> str:
    found = list(names)
    if not found:
        return ""
    return f"{len(found)} {'weight ' + one if len(found) == 1 else 'weights ' + several}, the first is {found[0]}"

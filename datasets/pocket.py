"""The embedded default: two streams of small tasks of real images, a reference set, a CLIP of 1.7 million parameters.

pocket_data/SOURCES.md says where the images and the model come from, and under which licences. The scripts that built
them are in pocket_build/.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from bench.api import (
    ArrayImages,
    Dataset,
    Extra,
    Splits,
    Stream,
    StreamSettings,
    Task,
    UserError,
    register,
    setting,
    suggest,
    widths_in,
)

FOLDER = Path(__file__).parent / "pocket_data"


def _read(name: str) -> bytes:
    try:
        return (FOLDER / name).read_bytes()
    except OSError as error:
        raise UserError(f"the embedded file {FOLDER / name} cannot be read: reinstall keeplora-bench") from error


def read_split(entry: Mapping[str, Any], size: int) -> ArrayImages:
    """Read the images of one split from a lossless sheet of square cells, row by row, and check their hash.

    Parameters
    ----------
    entry : mapping
        ``file``, ``count``, ``sha256`` of the decoded pixels [count, size, size, 3], ``labels``.
    size : int
        Width and height of an image.

    Returns
    -------
    ArrayImages

    Raises
    ------
    UserError
        If the file is missing or damaged.
    """
    path = FOLDER / entry["file"]
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"the embedded file {path} cannot be decoded: reinstall keeplora-bench") from error
    rows, columns = sheet.shape[0] // size, sheet.shape[1] // size
    cells = sheet.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)[: entry["count"]]
    pixels = np.ascontiguousarray(cells)
    if hashlib.sha256(pixels.tobytes()).hexdigest() != entry["sha256"]:
        raise UserError(f"the embedded file {path} is damaged (its checksum differs): reinstall keeplora-bench")
    return ArrayImages(pixels, entry["labels"])


class EmbeddedStream(Stream):
    """Tasks of 36 x 36 pixels that ``tasks.json`` lists under `name`, in alphabetical order."""

    @dataclass
    class Settings(StreamSettings):
        """Which tasks, in which order, and what is measured beside them."""

        tasks: list[str] = setting(
            [], "names of the tasks, in order; empty takes all in alphabetical order, without those of stream.probe"
        )
        probe: list[str] = setting(
            [], "further test sets, which no task trains on and no mean contains: tasks of either embedded stream"
        )

    name: ClassVar[str]
    label_space = "task"
    prompt_family: ClassVar[str] = "one a task"
    budget: ClassVar[str] = "5 epochs, batch 32"
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 5, "train.batch_size": 32}
    reference = "pocket-reference"

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Return the chosen tasks; `data_root` is not needed."""
        index = json.loads(_read("tasks.json"))
        entries = {entry["name"]: entry for entry in index["tasks"]}
        known = index["streams"][self.name]
        beside = self.settings.probe
        names = self.settings.tasks or [name for name in known if name not in beside]
        for key, chosen, possible in (("tasks", names, known), ("probe", beside, entries)):
            for name in chosen:
                if name not in possible:
                    raise UserError(f"unknown task {name} in stream.{key}{suggest(name, possible)}")
        self.others = [Extra.probe(self._task(entries[name], index["image_size"])) for name in beside]
        return [self._task(entries[name], index["image_size"]) for name in names]

    @staticmethod
    def _task(entry: Mapping[str, Any], size: int) -> Task:
        train, validation, test = (read_split(entry["splits"][split], size) for split in ("train", "val", "test"))
        return Task(entry["name"], tuple(entry["classes"]), entry["template"], train, test, validation)


@register("stream", "pocket", title="Nine small tasks, four known and five new to the model", paper="this project")
class Pocket(EmbeddedStream):
    """digits, flags, greek, icons, kana, letters, music, outlines, satellite."""

    name = "pocket"
    label_space = "task"
    description = "9 tasks: real images of 36 x 36 pixels, embedded"
    tuned = FOLDER / "tuned.yaml"


@register("stream", "pocket-tuning", title="Four small tasks on which settings are chosen", paper="this project")
class PocketTuning(EmbeddedStream):
    """arabic, emoji, states, thai: other classes, images and sources than those of the stream `pocket`."""

    name = "pocket-tuning"
    label_space = "task"
    description = "4 tasks: real images of 36 x 36 pixels, embedded, to choose settings on"


@register("dataset", "pocket-reference", title="Clip art with sentences, embedded", paper="this project")
class PocketReference(Dataset):
    """Pictures and sentences that show no class of `pocket` or `pocket-tuning`, for ``reference=pocket-reference``."""

    kind = "reference"
    template = "{}"
    size = "1 MB, embedded"
    licence = "public domain"
    obtain = "it comes along"

    def locate(self, root: Path) -> Path:
        """Return the folder of the embedded files; `root` is not needed."""
        return FOLDER

    def read(self, folder: Path) -> Splits:
        """Return the pictures, each with a sentence of its own in the place of a class."""
        entry = json.loads(_read("reference.json"))
        pictures = read_split({**entry, "labels": range(entry["count"])}, entry["image_size"])
        return Splits(tuple(entry["sentences"]), pictures, ArrayImages(pictures.pixels[:0], ()))


@register("model", "pocket", title="A CLIP of 1.7 million parameters, embedded", paper="this project")
class PocketModel:
    """Pre-trained on clip art, icons, emoji, flags, letters and digits; pocket_data/model/RECIPE.md says how."""

    @dataclass
    class Settings:
        """No settings."""

    @classmethod
    def widths(cls, settings: Any) -> Mapping[str, int]:
        """Return the width of the blocks by tower, so that settings are checked before the model is loaded."""
        return widths_in(json.loads(_read("model/open_clip_config.json"))["model_cfg"])

    def load(self, settings: Any) -> Any:
        """Return the model, in fp32 on the CPU."""
        import open_clip
        from open_clip.tokenizer import SimpleTokenizer
        from safetensors.torch import load

        from bench.api import Clip

        weights = _read("model/open_clip_model.safetensors")
        sums = _read("model/SHA256SUMS").decode()
        if f"{hashlib.sha256(weights).hexdigest()}  open_clip_model.safetensors" not in sums:
            raise UserError(f"the embedded weights in {FOLDER / 'model'} are damaged: reinstall keeplora-bench")
        config = json.loads(_read("model/open_clip_config.json"))
        model_config = config["model_cfg"]
        tokenizer = SimpleTokenizer(
            bpe_path=str(FOLDER / "model" / "bpe.txt.gz"), context_length=model_config["text_cfg"]["context_length"]
        )
        model = open_clip.CLIP(**model_config)
        model.load_state_dict({name: tensor.float() for name, tensor in load(weights).items()})
        # Its 16 tokens are enough for its own stream. Users try other streams on it before they take a real model.
        return Clip(model, tokenizer, config["preprocess_cfg"], "pocket", cut_prompts=True, config=model_config)

"""A plug-in file for tests: the toy stream, the tiny model and a reference set under registered names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.api import ArrayImages, Clip, Dataset, Splits, Stream, Task, register, setting, tiny_clip, toy_task


@register("stream", "toy", title="Coloured noise")
class ToyStream(Stream):
    """Tasks of coloured noise."""

    @dataclass
    class Settings:
        """How many tasks."""

        count: int = setting(3, "number of tasks", low=1)

    defaults = {"train.epochs": 2, "train.batch_size": 16, "train.lr": 0.01}
    tuned = {"lora": {"train.lr": 0.002}}

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Return the tasks; nothing is read from the disk."""
        return [toy_task(index) for index in range(self.settings.count)]


@register("model", "tiny", title="Random weights")
class TinyModel:
    """The tiny model."""

    @dataclass
    class Settings:
        """Which random weights."""

        seed: int = setting(0, "seed of the random weights", low=0)

    def load(self, settings: Settings) -> Clip:
        """Return the model."""
        return tiny_clip(settings.seed)


@register("dataset", "noise", title="Noise")
class Noise(Dataset):
    """Twenty images of noise, for methods that learn from a reference set."""

    template = "{}"

    def locate(self, root: Path) -> Path:
        """Return any folder; nothing is read from the disk."""
        return root

    def read(self, folder: Path) -> Splits:
        """Return the images, which no toy task has."""
        pixels = np.random.default_rng(98).integers(0, 256, (20, 36, 36, 3), dtype=np.uint8)
        images = ArrayImages(pixels, np.arange(20) % 4)
        return Splits(("a dog", "a photo of a tall house", "grey water", "two birds"), images, images)

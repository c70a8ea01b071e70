"""A plug-in file for tests: the toy stream and the tiny model under registered names."""

from dataclasses import dataclass

from bench.api import Clip, Stream, Task, register, setting, tiny_clip, toy_task


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

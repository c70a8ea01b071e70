"""A plug-in file for tests: a hundred classes in two tasks with one prompt; every image says its number."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bench.api import ArrayImages, Stream, Task, register, setting

HUNDRED = __file__
CLASSES = tuple(f"thing {number}" for number in range(100))
TRAIN, TEST = 5, 2


def _images(classes: range, each: int, first: int) -> ArrayImages:
    numbers = first + np.arange(classes.start * each, classes.stop * each)
    pixels = np.zeros((len(numbers), 36, 36, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = numbers // 256, numbers % 256
    return ArrayImages(pixels, np.repeat(np.arange(len(classes)), each))


def number_of(image: Image.Image) -> int:
    """The number of an image: of training images, the class and the image of the class."""
    high, low, _ = np.asarray(image)[0, 0].tolist()
    return int(high) * 256 + int(low)


@register("stream", "hundred", title="A hundred classes")
class Hundred(Stream):
    """Things 0 to 49, then 50 to 99; with copies=2 both tasks once more."""

    @dataclass
    class Settings:
        """How often."""

        copies: int = setting(1, "how often the tasks come", low=1)

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Return the tasks."""
        tasks = []
        for copy in range(self.settings.copies):
            for start, name in ((0, "first"), (50, "second")):
                own = range(start, start + 50)
                images = _images(own, TRAIN, 2000 * copy), _images(own, TEST, 1000 + 2000 * copy)
                tasks.append(Task(name + "'" * copy, CLASSES[start : start + 50], "a photo of a {}.", *images))
        return tasks

"""Class-incremental streams: the classes of one dataset, a few at a time, in one growing label space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import (
    LABEL_SPACES,
    DatasetStream,
    Images,
    Part,
    Splits,
    StreamSettings,
    Subset,
    Task,
    UserError,
    load_dataset,
    register,
    setting,
)

from .ensembles import more_templates


@dataclass
class Order(StreamSettings):
    """The order of the classes, and the classes among which an image is classified."""

    class_order: str = setting(
        "natural",
        "natural; shuffled by seeds.task_order; or numpy's RandomState(seeds.task_order), as PILOT and LoDA do",
        choices=("natural", "shuffled", "numpy"),
    )
    label_space: str = setting("seen", "classes among which a test image is classified", choices=LABEL_SPACES)


def class_order(kind: str, count: int, seed: int) -> list[int]:
    """Return class numbers in the order in which they are learned.

    Parameters
    ----------
    kind : {"natural", "shuffled", "numpy"}
        ``shuffled`` is NumPy's PCG64 seeded with `seed`, as in VPT-NSP2 and SplitLoRA; ``numpy`` its legacy generator,
        as in LAMDA-PILOT and LoDA (seeds 1993, 1996, 1997).
    count : int
        Number of classes.
    seed : int
        Seed of the order.

    Returns
    -------
    list of int
    """
    order = np.arange(count)
    if kind == "shuffled":
        np.random.Generator(np.random.PCG64(seed)).shuffle(order)
    elif kind == "numpy":
        order = np.random.RandomState(seed % 2**32).permutation(count)
    return order.tolist()


class ClassIncremental(DatasetStream):
    """The classes of one dataset in tasks of equally many.

    Attributes
    ----------
    dataset : str
        Registered name of the dataset.
    count : int
        Number of tasks.
    """

    label_space = "seen"
    prompt_family: ClassVar[str] = '"a photo of a {}."'
    dataset: ClassVar[str]
    count: ClassVar[int]

    @dataclass
    class Settings(Order):
        """Order of classes and label space."""

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the one dataset."""
        dataset = load_dataset(cls.dataset)
        more = more_templates(cls.dataset) if getattr(settings, "prompts", "") == "ensemble" else ()
        return [Part(dataset, dataset.registry_name, dataset.template, more_templates=more)]

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the tasks, named after their classes' positions in the order: ``1-10``, ``11-20`` and so on."""
        total = len(splits.classes)
        if total < self.count:
            raise UserError(
                f"{part.name} has {total} classes, too few for the {self.count} tasks of {self.registry_name}: "
                "complete it"
            )
        order = class_order(self.settings.class_order, total, seed)
        self.facts["class_order"] = [splits.classes[number] for number in order]
        tasks, start = [], 0
        # Equal chunks; if the number of classes is no multiple of the number of tasks, the first chunks are larger.
        for chunk in np.array_split(np.asarray(order), self.count):
            numbers = chunk.tolist()
            train, test = (chosen_classes(images, numbers) for images in (splits.train, splits.test))
            names = tuple(splits.classes[number] for number in numbers)
            name = f"{start + 1}-{start + len(numbers)}"
            tasks.append(Task(name, names, part.template, train, test, more_templates=part.more_templates))
            start += len(numbers)
        return tasks


def chosen_classes(images: Images, numbers: list[int]) -> Subset:
    """Return the images of some classes; their labels are the indices of their classes in the given list."""
    position = {number: label for label, number in enumerate(numbers)}
    indices = np.flatnonzero(np.isin(images.labels, numbers))
    labels = [position[int(label)] for label in images.labels[indices]]
    return Subset(images, indices, labels, whole=True)


INFLORA: dict[str, Any] = {
    "train.batch_size": 128,
    "train.optimizer": "adam",
    "train.lr": 5e-4,
    "train.weight_decay": 0.0,
    "train.schedule": "cosine",
    "train.warmup": 0.0,
    "train.augment": "inflora",
}
"""How InfLoRA's code trains on CIFAR-100 and ImageNet-R.

Its learning rate falls along a quarter of a cosine, to 1.6 %, once an epoch; here it falls along half of one, to zero,
at every step.
"""


class _Cifar100(ClassIncremental):
    @dataclass
    class Settings(Order):
        """Order of classes, label space and prompts."""

        prompts: str = setting(
            "single",
            "single: one prompt a class; ensemble: where images are scored the mean of the 18 of CLIP's evaluation",
            choices=("single", "ensemble"),
        )

    dataset = "cifar100"
    budget: ClassVar[str] = "20 epochs, batch 128, Adam 5e-4, cosine, crops and flips (InfLoRA)"
    defaults: ClassVar[Mapping[str, Any]] = {**INFLORA, "train.epochs": 20}


class _ImageNetR(ClassIncremental):
    dataset = "imagenet-r"
    budget: ClassVar[str] = "50 epochs, batch 128, Adam 5e-4, cosine, crops and flips (InfLoRA)"
    defaults: ClassVar[Mapping[str, Any]] = {**INFLORA, "train.epochs": 50}


@register("stream", "cifar100-10", title="CIFAR-100 in 10 tasks of 10 classes", paper="InfLoRA, arXiv 2404.00228")
class Cifar100In10(_Cifar100):
    """The usual class-incremental CIFAR-100."""

    description = "10 tasks, 100 classes"
    count = 10


@register("stream", "cifar100-5", title="CIFAR-100 in 5 tasks of 20 classes", paper="InfLoRA, arXiv 2404.00228")
class Cifar100In5(_Cifar100):
    """Fewer, larger tasks."""

    description = "5 tasks, 100 classes"
    count = 5


@register("stream", "cifar100-20", title="CIFAR-100 in 20 tasks of 5 classes", paper="InfLoRA, arXiv 2404.00228")
class Cifar100In20(_Cifar100):
    """More, smaller tasks."""

    description = "20 tasks, 100 classes"
    count = 20


@register("stream", "imagenet-r-5", title="ImageNet-R in 5 tasks of 40 classes", paper="InfLoRA, arXiv 2404.00228")
class ImageNetRIn5(_ImageNetR):
    """Fewer, larger tasks."""

    description = "5 tasks, 200 classes"
    count = 5


@register("stream", "imagenet-r-10", title="ImageNet-R in 10 tasks of 20 classes", paper="InfLoRA, arXiv 2404.00228")
class ImageNetRIn10(_ImageNetR):
    """The usual class-incremental ImageNet-R."""

    description = "10 tasks, 200 classes"
    count = 10


@register("stream", "imagenet-r-20", title="ImageNet-R in 20 tasks of 10 classes", paper="InfLoRA, arXiv 2404.00228")
class ImageNetRIn20(_ImageNetR):
    """More, smaller tasks."""

    description = "20 tasks, 200 classes"
    count = 20


@register("stream", "cub200-10", title="CUB-200-2011 in 10 tasks of 20 classes", paper="LoDA, ICML 2026")
class Cub200In10(ClassIncremental):
    """Official split; LoDA and PILOT use a split of their own. LoDA's budget was made for a linear head."""

    description = "10 tasks, 200 classes"
    budget: ClassVar[str] = "20 epochs, batch 48, SGD 0.005, cosine, crops and flips (LoDA)"
    prompt_family: ClassVar[str] = '"a photo of a {}, a type of bird."'
    dataset = "cub200"
    count = 10
    defaults: ClassVar[Mapping[str, Any]] = {
        "train.epochs": 20,
        "train.batch_size": 48,
        "train.optimizer": "sgd",
        "train.lr": 0.005,
        "train.weight_decay": 5e-4,
        "train.schedule": "cosine",
        "train.warmup": 0.0,
        "train.augment": "pilot",
    }

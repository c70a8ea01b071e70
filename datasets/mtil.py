"""MTIL: eleven datasets, one after another, each with its own label space. Zheng et al. (ZSCL), ICCV 2023."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import (
    LABEL_SPACES,
    Dataset,
    DatasetStream,
    Part,
    Splits,
    StreamSettings,
    Task,
    ZeroShot,
    hold_out,
    load_dataset,
    register,
    setting,
    with_defaults,
)

from .class_incremental import chosen_classes
from .ensembles import more_templates
from .shots import Fewer, draw, few_shot
from .xtail import SPLITS, CoopSplit

PUBLISHED = Path(__file__).parent / "published"

ORDER_1 = (
    "aircraft", "caltech101", "cifar100", "dtd", "eurosat", "flowers102", "food101", "mnist", "oxford-pet",
    "stanford-cars", "sun397",
)  # fmt: skip
ORDER_2 = (
    "stanford-cars", "food101", "mnist", "oxford-pet", "flowers102", "sun397", "aircraft", "caltech101", "dtd",
    "eurosat", "cifar100",
)  # fmt: skip

KEEPLORA_TEMPLATES = {
    "dtd": "a photo of a {} thing.",
    "stanford-cars": "a photo of the {}, a type of car.",
    "sun397": "a photo of the {}.",
}
"""Where the first template of the code released with KeepLoRA differs from ZSCL's."""

HELD_OUT = 0.2
"""Share of the training images that DIKI holds out for validation where CoOp has no split."""

OWN_CLASSES = ("task", "agnostic")
"""Label spaces in which the untrained model classifies images among the classes of their own dataset."""

MODELS = {"ViT-B-16/openai", "ViT-B-16-quickgelu/openai"}
"""Models to which the published zero-shot accuracies belong."""


@dataclass
class Prompts(StreamSettings):
    """The settings that all streams of MTIL have."""

    prompts: str = setting(
        "keeplora",
        "whose first template each dataset takes; ensemble: zscl's, and where images are scored all of the dataset",
        choices=("keeplora", "zscl", "ensemble"),
    )
    splits: str = setting(
        "torchvision",
        "MTIL's splits and class names, or those of CoOp's split files, as DIKI and DPW have them",
        choices=("torchvision", "coop"),
    )
    label_space: str = setting("task", "classes among which a test image is classified", choices=LABEL_SPACES)


class Mtil(DatasetStream):
    """The datasets in the order of `order`, with the epochs of the code released with KeepLoRA."""

    label_space = "task"
    prompt_family: ClassVar[str] = "keeplora, zscl or ensemble"
    order: ClassVar[Sequence[str]] = ORDER_1
    epochs: ClassVar[Mapping[str, int]] = {}

    @dataclass
    class Settings(Prompts):
        """Prompts, splits and label space."""

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets in order, each with its prompt and its epochs."""
        return [_part(_dataset(name, settings.splits), settings.prompts, cls.epochs.get(name)) for name in cls.order]

    @classmethod
    def probe_part(cls, name: str, settings: Any, root: Path | None) -> Part:
        """Return a dataset that no task trains on, with prompts by the same rule."""
        return _part(load_dataset(name, root), settings.prompts)

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the task; with CoOp's splits every one has validation images, of a dataset without any a fifth."""
        if self.settings.splits == "coop" and splits.validation is None:
            train, validation = hold_out(splits.train, splits.classes, HELD_OUT, 0, "validation")
            splits = replace(splits, train=train, validation=validation)
        return super().tasks_of(part, splits, seed)

    def zero_shot(self, model: str) -> ZeroShot | None:
        """Return the accuracies that ZSCL published; None for another model, other splits or another label space."""
        if model not in MODELS or self.label_space not in OWN_CLASSES or self.settings.splits != "torchvision":
            return None
        table = json.loads((PUBLISHED / "mtil-zero-shot.json").read_text(encoding="utf-8"))
        prompts = self.settings.prompts
        family = table["families"]["zscl" if prompts == "ensemble" else prompts]
        return ZeroShot(family["source"], {task: (row[0], row[1]) for task, row in family["accuracy"].items()})


def _dataset(name: str, splits: str) -> Dataset:
    """Return a dataset with MTIL's split, or with CoOp's where it has a file of it."""
    return CoopSplit(name) if splits == "coop" and name in SPLITS else load_dataset(name)


def _part(dataset: Dataset, prompts: str, epochs: int | None = None) -> Part:
    """Return a dataset with the prompts of a family."""
    name = dataset.registry_name
    template = KEEPLORA_TEMPLATES.get(name) if prompts == "keeplora" else None
    more = more_templates(name) if prompts == "ensemble" else ()
    return Part(dataset, dataset.short or name, template or dataset.template, epochs, more)


@register("stream", "mtil-order1", title="MTIL, eleven datasets in alphabetical order", paper="ZSCL, arXiv 2303.06628")
class MtilOrder1(Mtil):
    """MTIL order I: the main table of KeepLoRA's paper."""

    description = "11 tasks, 1201 classes"
    budget: ClassVar[str] = "10 epochs, SUN397 5; batch 64 (KeepLoRA's code)"
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 10, "train.batch_size": 64}
    epochs: ClassVar[Mapping[str, int]] = {"sun397": 5}


@register("stream", "mtil-order2", title="MTIL in its second, random order", paper="ZSCL, arXiv 2303.06628")
class MtilOrder2(Mtil):
    """MTIL order II: fine-grained and large datasets first."""

    description = "11 tasks, 1201 classes"
    budget: ClassVar[str] = "5 epochs, Food 2, the last five 10; batch 64 (KeepLoRA's code)"
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 5, "train.batch_size": 64}
    order = ORDER_2
    epochs: ClassVar[Mapping[str, int]] = {"food101": 2, **dict.fromkeys(ORDER_2[6:], 10)}


@register(
    "stream",
    "mtil-agnostic",
    title="Task-agnostic MTIL: all datasets learned so far at once",
    paper="CoLeCLIP, arXiv 2403.10245",
)
class MtilAgnostic(MtilOrder1):
    """MTIL order I where nobody says of which of the learned datasets a test image is.

    It is classified among the classes of all datasets learned so far, at the end 1201, and one of a dataset that is not
    yet learned among its own classes. Training is that of `mtil-order1`.
    """

    label_space = "agnostic"
    description = "11 tasks, 1201 classes"
    Settings = with_defaults(Prompts, label_space="agnostic")


@register(
    "stream", "mtil-fewshot", title="MTIL order I with few images a class", paper="MoE-Adapters, arXiv 2403.11549"
)
class MtilFewShot(Mtil):
    """MTIL order I with `shots` training images a class, drawn by (dataset, class, seeds.task_order) and recorded."""

    @dataclass
    class Settings(Prompts):
        """Prompts, splits, label space, and how many images."""

        shots: int = setting(5, "training images a class", low=1)
        fewer: str = setting("error", "where a class has fewer images", choices=("error", "all", "repeat"))

    description = "11 tasks, 1201 classes, 5 shots by default"
    budget: ClassVar[str] = "10 epochs; batch 64 (ours: papers count steps)"
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 10, "train.batch_size": 64}

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the task with the drawn images; the record says which."""
        fewer: Fewer = self.settings.fewer
        chosen = draw(part.name, splits.classes, splits.train.labels, self.settings.shots, seed, fewer)
        self.facts.setdefault("shots", {})[part.name] = chosen
        images = few_shot(splits, chosen)
        return [Task(part.name, splits.classes, part.template, *images, more_templates=part.more_templates)]


@register(
    "stream", "mtil-split2", title="MTIL in 22 tasks of disjoint classes, few images a class", paper="SAME, CVPR 2026"
)
class MtilSplit2(MtilFewShot):
    """Each dataset of MTIL order I is two tasks, the first half of its classes and the second; one label space.

    The images are those of `mtil-fewshot`. If the number of classes is odd, the first half has one more.
    """

    label_space = "all"
    description = "22 tasks, 1201 classes, 5 shots by default"
    Settings = with_defaults(MtilFewShot.Settings, label_space="all")

    def zero_shot(self, model: str) -> ZeroShot | None:
        """Return None: nothing is published for halves."""
        return None

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return both halves, called ``DTD 1`` and ``DTD 2``."""
        (whole,) = super().tasks_of(part, splits, seed)
        halves = []
        for half, numbers in enumerate(np.array_split(np.arange(len(whole.classes)), 2), start=1):
            chosen = numbers.tolist()
            names = tuple(whole.classes[number] for number in chosen)
            train, test = (chosen_classes(images, chosen) for images in (whole.train, whole.test))
            halves.append(replace(whole, name=f"{part.name} {half}", classes=names, train=train, test=test))
        return halves

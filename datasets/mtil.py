"""MTIL: eleven datasets, one after another, each with its own label space. Zheng et al. (ZSCL), ICCV 2023."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.api import LABEL_SPACES, DatasetStream, Part, Splits, Task, ZeroShot, load_dataset, register, setting

from .shots import Fewer, draw, few_shot

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

MODELS = {"ViT-B-16/openai", "ViT-B-16-quickgelu/openai"}
"""Models to which the published zero-shot accuracies belong."""


@dataclass
class Prompts:
    """The settings that all streams of MTIL have."""

    prompts: str = setting("keeplora", "whose first template each dataset takes", choices=("keeplora", "zscl"))
    label_space: str = setting("task", "classes among which a test image is classified", choices=LABEL_SPACES)


class Mtil(DatasetStream):
    """The datasets in the order of `order`, with the epochs of the code released with KeepLoRA."""

    label_space = "task"
    prompt_family: ClassVar[str] = "keeplora or zscl"
    order: ClassVar[Sequence[str]] = ORDER_1
    epochs: ClassVar[Mapping[str, int]] = {}

    @dataclass
    class Settings(Prompts):
        """Prompts and label space."""

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets in order, each with its prompt and its epochs."""
        found = []
        for name in cls.order:
            dataset = load_dataset(name)
            template = KEEPLORA_TEMPLATES.get(name) if settings.prompts == "keeplora" else None
            found.append(Part(dataset, dataset.short, template or dataset.template, cls.epochs.get(name)))
        return found

    def zero_shot(self, model: str) -> ZeroShot | None:
        """Return the accuracies that ZSCL published for its model; None for any other model or label space."""
        if model not in MODELS or self.label_space != "task":
            return None
        table = json.loads((PUBLISHED / "mtil-zero-shot.json").read_text(encoding="utf-8"))
        family = table["families"][self.settings.prompts]
        return ZeroShot(family["source"], {task: (row[0], row[1]) for task, row in family["accuracy"].items()})


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
    "stream", "mtil-fewshot", title="MTIL order I with few images a class", paper="MoE-Adapters, arXiv 2403.11549"
)
class MtilFewShot(Mtil):
    """MTIL order I with `shots` training images a class, drawn by (dataset, class, seeds.task_order) and recorded."""

    @dataclass
    class Settings(Prompts):
        """Prompts, label space, and how many images."""

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
        return [Task(part.name, splits.classes, part.template, *few_shot(splits, chosen))]

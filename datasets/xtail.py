"""X-TAIL: ten datasets, few shots, one argmax over the union of all classes. Xu et al. (RAIL), NeurIPS 2024."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import (
    LABEL_SPACES,
    Counts,
    Dataset,
    DatasetStream,
    FileImages,
    Part,
    Splits,
    StreamSettings,
    Task,
    UserError,
    load_dataset,
    register,
    setting,
)

from .reading import json_file, parsed, spoken
from .shots import Fewer, draw, few_shot

ORDER = (
    "aircraft", "caltech101", "dtd", "eurosat", "flowers102", "food101", "mnist", "oxford-pet", "stanford-cars",
    "sun397",
)  # fmt: skip

TEMPLATE = "a photo of a {}."
"""RAIL's, for every dataset."""

SPLITS = {
    "caltech101": ("split_zhou_Caltech101.json", ".", Counts(4128, 2465, 100)),
    "dtd": ("split_zhou_DescribableTextures.json", "images", Counts(2820, 1692, 47)),
    "eurosat": ("split_zhou_EuroSAT.json", ".", Counts(13500, 8100, 10)),
    "flowers102": ("split_zhou_OxfordFlowers.json", "jpg", Counts(4093, 2463, 102)),
    "food101": ("split_zhou_Food101.json", "images", Counts(50500, 30300, 101)),
    "oxford-pet": ("split_zhou_OxfordPets.json", "images", Counts(2944, 3669, 37)),
    "stanford-cars": ("split_zhou_StanfordCars.json", ".", Counts(6509, 8041, 196)),
    "sun397": ("split_zhou_SUN397.json", ".", Counts(15880, 19850, 397)),
}
"""CoOp's split file, the folder below the dataset's own that its paths start from, and the counts in it."""

COOP_FOLDERS = (
    "caltech-101", "caltech101", "dtd", "eurosat", "oxford_flowers", "flowers-102", "food-101", "oxford_pets",
    "oxford-iiit-pet", "stanford_cars", "sun397", "SUN397",
)  # fmt: skip
"""Folders in which CoOp's split files may be."""


class CoopSplit(Dataset):
    """A dataset with the split of CoOp: its part train is for training, its part val for validation.

    Parameters
    ----------
    name : str
        Registered name of the dataset.
    """

    def __init__(self, name: str):
        self.original = load_dataset(name)
        self.registry_name = self.original.registry_name
        self.file, self.images, self.expected = SPLITS[name]
        super().__init__(self.original.folders)
        for fact in ("short", "template", "size", "licence", "obtain", "broken"):
            setattr(self, fact, getattr(self.original, fact))
        self.obtain: str = f"{self.original.obtain}; {self.file} from CoOp's DATASETS.md (Google Drive)"
        self.root: Path | None = None

    def locate(self, root: Path) -> Path | None:
        """Return the folder of the dataset itself; the split file may be beside it."""
        self.root = root
        return self.original.locate(root)

    def read(self, folder: Path) -> Splits:
        """Read the split file."""
        root = self.root or folder
        folders = [folder, folder.parent, *(root / name for name in COOP_FOLDERS)]
        path = next((one / self.file for one in folders if (one / self.file).is_file()), None)
        if path is None:
            raise UserError(
                f"the split file {self.file} of CoOp is not in {folder}: put it there, or take MTIL's splits with "
                "stream.splits=torchvision"
            )
        content = json_file(path)
        names: dict[int, str] = {}

        def part(split: str) -> FileImages:
            rows = parsed(path, lambda: [(str(file), int(label), str(name)) for file, label, name in content[split]])
            for _, label, name in rows:
                if names.setdefault(label, name) != name:
                    raise UserError(
                        f"the file {path} gives label {label} to {name} and to {names[label]}: get it again"
                    )
            return FileImages(folder / self.images, [row[0] for row in rows], [row[1] for row in rows])

        train, val, test = part("train"), part("val"), part("test")
        if sorted(names) != list(range(len(names))):
            raise UserError(f"the labels in {path} have gaps: get it again")
        return Splits(spoken(names[label] for label in sorted(names)), train, test, val)


@register("stream", "xtail", title="X-TAIL, ten datasets and one label space", paper="RAIL, arXiv 2406.18868")
class XTail(DatasetStream):
    """16 shots a class, drawn by (dataset, class, seeds.task_order) and recorded; a class with fewer repeats images.

    `splits=coop` needs CoOp's split files. Without them `splits=torchvision` takes MTIL's splits and class names, which
    is another benchmark and recorded as such. If two datasets have a class of the same name, a test image of the later
    one counts as wrong, as in the paper.
    """

    @dataclass
    class Settings(StreamSettings):
        """How many images, which splits, and the label space."""

        shots: int = setting(16, "training images a class", low=1)
        fewer: str = setting("repeat", "where a class has fewer images", choices=("error", "all", "repeat"))
        splits: str = setting("coop", "CoOp's split files, or MTIL's splits", choices=("coop", "torchvision"))
        label_space: str = setting("all", "classes among which a test image is classified", choices=LABEL_SPACES)

    label_space = "all"
    shared_prompts: ClassVar[str] = "first"
    description = "10 tasks, 1100 classes, 16 shots by default"
    budget: ClassVar[str] = "10 epochs; batch 64 (ours: the paper solves in closed form)"
    prompt_family: ClassVar[str] = '"a photo of a {}." (RAIL)'
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 10, "train.batch_size": 64}

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets in order, with CoOp's splits where these are chosen and exist."""
        several = []
        for name in ORDER:
            coop = settings.splits == "coop" and name in SPLITS
            dataset: Dataset = CoopSplit(name) if coop else load_dataset(name)
            several.append(Part(dataset, dataset.short, TEMPLATE))
        return several

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the task with the drawn images and RAIL's class names; the record says which images."""
        classes = splits.classes
        if part.name == "EuroSAT" and self.settings.splits == "coop":
            classes = tuple(f"{name} satellite location" for name in classes)
        if part.name == "MNIST":
            classes = tuple(f'number: "{name}"' for name in classes)
        fewer: Fewer = self.settings.fewer
        chosen = draw(part.name, classes, np.asarray(splits.train.labels), self.settings.shots, seed, fewer)
        self.facts.setdefault("shots", {})[part.name] = chosen
        return [Task(part.name, classes, part.template, *few_shot(splits, chosen))]

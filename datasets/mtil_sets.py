"""The datasets of MTIL without CIFAR-100 and MNIST: layouts, orders of images and labels of torchvision's classes.

torchvision's classes cannot be used as they are: their folder names are fixed, labels need decoded images, errors do
not name the file, and some refuse any file but the official one. The tests compare every reader here with torchvision's
class on the same files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import Counts, Dataset, FileImages, Splits, UserError, register

from .reading import (
    class_folders,
    class_names,
    images_by_class,
    json_file,
    lacking,
    mat_file,
    numbered,
    parsed,
    random_split_problem,
    split_randomly,
    spoken,
    text_lines,
)
from .walk import files_below


def _labels(names: list[str], classes: list[str], path: Path) -> list[int]:
    """Return the index of each name in a list of classes; a UserError names the file in which they disagree."""
    position = {name: label for label, name in enumerate(classes)}
    unknown = next((name for name in names if name not in position), None)
    if unknown is not None:
        raise UserError(f"the file {path} names the class {unknown!r}, which the class list does not: unpack it again")
    return [position[name] for name in names]


@register("dataset", "aircraft", title="100 variants of aircraft", paper="FGVC-Aircraft, arXiv 1306.5151")
class Aircraft(Dataset):
    """Official splits; class names as in variants.txt, without the maker."""

    short = "Aircraft"
    folders = ("fgvc-aircraft-2013b/data", "fgvc_aircraft")
    expected = Counts(3334, 3333, 100)
    template = "a photo of a {}, a type of aircraft."
    size = "2.8 GB"
    licence = "non-commercial research"
    obtain = "torchvision.datasets.FGVCAircraft(DIR, download=True)"

    def read(self, folder: Path) -> Splits:
        """Read the official lists of images; val is the validation part."""
        classes = text_lines(folder / "variants.txt")

        def part(split: str) -> FileImages:
            path = folder / f"images_variant_{split}.txt"
            pairs = [line.partition(" ") for line in text_lines(path)]
            labels = _labels([name for _, _, name in pairs], classes, path)
            return FileImages(folder, [f"images/{image}.jpg" for image, _, _ in pairs], labels)

        return Splits(spoken(classes), part("train"), part("test"), part("val"))


@register("dataset", "caltech101", title="101 kinds of objects, both face classes", paper="Caltech101, CVPRW 2004")
class Caltech101(Dataset):
    """Random 80/20 split of MTIL; background class left out; class names of CLIP's prompts."""

    short = "Caltech101"
    folders = ("caltech101/101_ObjectCategories", "caltech-101/101_ObjectCategories")
    expected = Counts(6941, 1736, 101)
    names_sha256 = "f7ed861e51f2712823694c205871b9cb6fa537d3869f01451fdc8dad40f333c9"
    size = "0.14 GB"
    licence = "CC BY 4.0"
    obtain = "caltech-101.zip from data.caltech.edu; torchvision.datasets.Caltech101(DIR, download=True) since 0.20"
    broken = "the Google Drive links of older torchvision"

    def read(self, folder: Path) -> Splits:
        """Read the class folders, and split their images randomly."""
        classes = [name for name in class_folders(folder) if name != "BACKGROUND_Google"]
        names = class_names("caltech101")
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise UserError(f"the class folder {folder / unknown[0]} is none of Caltech101: move it away")
        passed: Counter[str] = Counter()
        images = images_by_class(folder, classes, passed)
        return split_randomly((names[name] for name in classes), images, passed)

    def manifest_problem(self, splits: Splits) -> str:
        """Compare the classes and the random split with the published ones."""
        missing = lacking(class_names("caltech101"), splits.classes)
        return missing or random_split_problem(splits, (8512, 5748, 7753), (6301, 3455))


@register("dataset", "dtd", title="47 kinds of textures", paper="DTD, CVPR 2014")
class Dtd(Dataset):
    """Official partition 1: train and test; val is the validation part."""

    short = "DTD"
    folders = ("dtd/dtd", "dtd")
    expected = Counts(1880, 1880, 47)
    template = "a photo of a {} texture."
    size = "0.6 GB"
    licence = "research"
    obtain = "torchvision.datasets.DTD(DIR, download=True)"

    def read(self, folder: Path) -> Splits:
        """Read the lists of partition 1; val is the validation part."""
        lists = {split: text_lines(folder / "labels" / f"{split}1.txt") for split in ("train", "test", "val")}
        classes = sorted({name.partition("/")[0] for name in lists["train"]})

        def part(split: str) -> FileImages:
            owners = [name.partition("/")[0] for name in lists[split]]
            labels = _labels(owners, classes, folder / "labels" / f"{split}1.txt")
            return FileImages(folder / "images", lists[split], labels)

        return Splits(spoken(classes), part("train"), part("test"), part("val"))


@register("dataset", "eurosat", title="10 kinds of land use from space", paper="EuroSAT, arXiv 1709.00029")
class EuroSat(Dataset):
    """Random 80/20 split of MTIL; class names of CLIP's prompts."""

    short = "EuroSAT"
    folders = ("eurosat/2750", "eurosat/EuroSAT_RGB", "EuroSAT_RGB")
    expected = Counts(21600, 5400, 10)
    names_sha256 = "cac25108cf8f13f6e85e47cb425da6a59bcff6bfb78aab3faec77fab2c7086f9"
    template = "a centered satellite photo of {}."
    size = "0.09 GB"
    licence = "MIT"
    obtain = "torchvision.datasets.EuroSAT(DIR, download=True), or zenodo.org record 7711810"
    broken = "the dfki.de link of older torchvision (certificate)"

    def read(self, folder: Path) -> Splits:
        """Read the class folders, and split their images randomly."""
        classes = class_folders(folder)
        names = class_names("eurosat")
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise UserError(f"the class folder {folder / unknown[0]} is none of EuroSAT: move it away")
        passed: Counter[str] = Counter()
        images = images_by_class(folder, classes, passed)
        return split_randomly((names[name] for name in classes), images, passed)

    def manifest_problem(self, splits: Splits) -> str:
        """Compare the classes and the random split with the published ones."""
        missing = lacking(class_names("eurosat"), splits.classes)
        return missing or random_split_problem(splits, (4542, 1781, 1366), (5805, 24544))


@register("dataset", "flowers102", title="102 kinds of flowers", paper="Oxford Flowers 102, ICVGIP 2008")
class Flowers102(Dataset):
    """Official splits: trnid trains (10 images a class), tstid tests, valid is the validation part."""

    short = "Flowers"
    folders = ("flowers-102", "oxford_flowers")
    expected = Counts(1020, 6149, 102)
    names_sha256 = "0490feb6c5d111eefa2efa01510a701583eede9d5a6f528a90fc0aa97da5941b"
    template = "a photo of a {}, a type of flower."
    size = "0.35 GB"
    licence = "none stated"
    obtain = "torchvision.datasets.Flowers102(DIR, download=True)"

    def read(self, folder: Path) -> Splits:
        """Read labels and splits from the MATLAB files."""
        numbers_file, split_file = folder / "imagelabels.mat", folder / "setid.mat"
        content, lists = mat_file(numbers_file), mat_file(split_file)
        numbers = parsed(numbers_file, lambda: numbered(content["labels"]) - 1)
        ids = parsed(split_file, lambda: {key: numbered(lists[key]) for key in ("trnid", "tstid", "valid")})
        names = class_names("flowers102")

        def part(split: str) -> FileImages:
            if int(ids[split].max()) > len(numbers):
                raise UserError(
                    f"{split_file} names image {int(ids[split].max())} and {numbers_file} has {len(numbers)} labels: "
                    "unpack the dataset again"
                )
            labels = numbers[ids[split] - 1]
            return FileImages(folder, [f"jpg/image_{number:05d}.jpg" for number in ids[split].tolist()], labels)

        if int(numbers.max()) >= len(names) or int(numbers.min()) < 0:
            raise UserError(f"the labels in {numbers_file} are not from 1 to {len(names)}: unpack the dataset again")
        used = names[: int(numbers.max()) + 1]
        return Splits(tuple(used), part("trnid"), part("tstid"), part("valid"))


@register("dataset", "food101", title="101 dishes", paper="Food-101, ECCV 2014")
class Food101(Dataset):
    """Official splits."""

    short = "Food"
    folders = ("food-101",)
    expected = Counts(75750, 25250, 101)
    template = "a photo of a {}, a type of food."
    size = "5 GB"
    licence = "scientific use"
    obtain = "torchvision.datasets.Food101(DIR, download=True); slow"

    def read(self, folder: Path) -> Splits:
        """Read the official lists of images."""
        path = folder / "meta" / "train.json"
        classes = parsed(path, lambda: sorted(json_file(path).keys()))

        def part(split: str) -> FileImages:
            path = folder / "meta" / f"{split}.json"
            images = parsed(
                path, lambda: [(owner, str(name)) for owner, all_ in json_file(path).items() for name in all_]
            )
            labels = _labels([owner for owner, _ in images], classes, path)
            return FileImages(folder / "images", [f"{name}.jpg" for _, name in images], labels)

        return Splits(spoken(classes), part("train"), part("test"))


@register("dataset", "oxford-pet", title="37 breeds of cats and dogs", paper="Oxford-IIIT Pet, CVPR 2012")
class OxfordPet(Dataset):
    """Official splits: trainval trains."""

    short = "OxfordPet"
    folders = ("oxford-iiit-pet", "oxford_pets")
    expected = Counts(3680, 3669, 37)
    template = "a photo of a {}, a type of pet."
    size = "0.8 GB"
    licence = "CC BY-SA 4.0"
    obtain = "torchvision.datasets.OxfordIIITPet(DIR, download=True)"

    def read(self, folder: Path) -> Splits:
        """Read the lists trainval and test."""
        breeds: dict[int, str] = {}

        def part(split: str) -> FileImages:
            path = folder / "annotations" / f"{split}.txt"
            rows = [line.split() for line in text_lines(path) if not line.startswith("#")]
            images = parsed(path, lambda: [(row[0], int(row[1]) - 1) for row in rows])
            for name, label in images:
                breed = name.rpartition("_")[0]
                if breeds.setdefault(label, breed) != breed:
                    raise UserError(
                        f"the file {path} gives label {label + 1} to {breed} and to {breeds[label]}: unpack it again"
                    )
            return FileImages(folder / "images", [f"{name}.jpg" for name, _ in images], [label for _, label in images])

        train, test = part("trainval"), part("test")
        if sorted(breeds) != list(range(len(breeds))):
            raise UserError(f"the labels in {folder / 'annotations'} have gaps: unpack the dataset again")
        names = (" ".join(word.title() for word in breeds[label].split("_")) for label in sorted(breeds))
        return Splits(tuple(names), train, test)


@register("dataset", "stanford-cars", title="196 models of cars", paper="Stanford Cars, ICCVW 2013")
class StanfordCars(Dataset):
    """Official splits; class names with the year last."""

    short = "StanfordCars"
    folders = ("stanford_cars",)
    expected = Counts(8144, 8041, 196)
    template = "a photo of a {}, a type of car."
    size = "1.9 GB"
    licence = "non-commercial"
    obtain = "Kaggle rickyyyyyyy/torchvision-stanford-cars has this layout; others lack cars_test_annos_withlabels.mat"
    broken = "the official site (404); torchvision no longer downloads it"

    def read(self, folder: Path) -> Splits:
        """Read class names and labels from the MATLAB files."""
        meta = folder / "devkit" / "cars_meta.mat"
        classes = parsed(meta, lambda: [str(name) for name in np.atleast_1d(mat_file(meta)["class_names"])])

        def part(path: Path, images: str) -> FileImages:
            content: Any = mat_file(path)
            pairs = parsed(
                path,
                lambda: [
                    (f"{images}/{row['fname']}", int(row["class"]) - 1) for row in np.atleast_1d(content["annotations"])
                ],
            )
            return FileImages(folder, [name for name, _ in pairs], [label for _, label in pairs])

        train = part(folder / "devkit" / "cars_train_annos.mat", "cars_train")
        return Splits(spoken(classes), train, part(folder / "cars_test_annos_withlabels.mat", "cars_test"))


@register("dataset", "sun397", title="397 kinds of scenes", paper="SUN397, CVPR 2010")
class Sun397(Dataset):
    """Random 80/20 split of MTIL over the sorted list of files.

    torchvision lists the files in the order of the file system, so the split of published results cannot be known.
    """

    short = "SUN397"
    folders = ("SUN397", "sun397/SUN397")
    expected = Counts(87003, 21751, 397)
    size = "37 GB"
    licence = "research"
    obtain = "a mirror, such as ModelScope ForestLuo/X-TAIL"
    broken = "the Princeton and MIT links (404)"

    def read(self, folder: Path) -> Splits:
        """Read the sorted list of files, and split it randomly."""
        path = folder / "ClassName.txt"
        classes = [line[3:] for line in text_lines(path)]  # "/a/abbey" is the class abbey in the folder a
        found = [file for file in files_below(folder) if file.parent != folder or file.match("sun_*.jpg")]
        names = sorted(file.relative_to(folder).as_posix() for file in found if file.match("sun_*.jpg"))
        if not names:
            raise UserError(f"there are no images sun_*.jpg below {folder}: unpack the dataset again")
        passed = Counter(file.suffix or "without an ending" for file in found if not file.match("sun_*.jpg"))
        labels = _labels([name.partition("/")[2].rpartition("/")[0] for name in names], classes, path)
        return split_randomly(spoken(classes), FileImages(folder, names, labels), passed)

    def manifest_problem(self, splits: Splits) -> str:
        """Compare the random split with the known one."""
        return random_split_problem(splits, (57128, 82947, 84286), (8201, 36443))

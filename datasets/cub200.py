"""CUB-200-2011: 200 species of birds."""

from __future__ import annotations

from pathlib import Path

from bench.api import Counts, Dataset, FileImages, Splits, UserError, register

from .reading import parsed, spoken, text_lines


@register("dataset", "cub200", title="200 species of birds", paper="CUB-200-2011, 2011")
class Cub200(Dataset):
    """Official split of train_test_split.txt; class names without their numbers."""

    folders = ("CUB_200_2011",)
    expected = Counts(5994, 5788, 200)
    template = "a photo of a {}, a type of bird."
    size = "1.1 GB"
    licence = "non-commercial"
    obtain = "data.caltech.edu, record 65de6-vp158"
    broken = "the old vision.caltech.edu address"

    def read(self, folder: Path) -> Splits:
        """Read the four lists, and check that they name the same images."""

        def table(name: str) -> dict[int, str]:
            path = folder / name
            return parsed(path, lambda: {int(key): value for key, value in map(str.split, text_lines(path))})

        classes, images = table("classes.txt"), table("images.txt")
        labels, trains = table("image_class_labels.txt"), table("train_test_split.txt")
        for name, entries in (("image_class_labels.txt", labels), ("train_test_split.txt", trains)):
            if entries.keys() != images.keys():
                raise UserError(f"{folder / name} and images.txt name other images: unpack the dataset again")
        position = {number: label for label, number in enumerate(sorted(classes))}

        def part(flag: str) -> FileImages:
            chosen = [number for number in images if trains[number] == flag]
            owners = parsed(
                folder / "image_class_labels.txt", lambda: [position[int(labels[number])] for number in chosen]
            )
            return FileImages(folder / "images", [images[number] for number in chosen], owners)

        names = (classes[number].partition(".")[2] or classes[number] for number in sorted(classes))
        return Splits(spoken(names), part("1"), part("0"))

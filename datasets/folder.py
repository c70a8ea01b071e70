"""Your own images: one folder for each class, below train/ and test/."""

from __future__ import annotations

from pathlib import Path

from bench.api import Dataset, Splits, UserError, register

from .reading import class_folders, images_by_class, spoken, text_lines

NAMES = "classes.txt"


@register("dataset", "folder", title="Your own images: train/CLASS/*.jpg and test/CLASS/*.jpg")
class Folder(Dataset):
    """Class folders in ``train/`` and ``test/``, and in ``val/`` if there is one.

    Class names are the names of the folders with blanks for underscores, or the lines of ``classes.txt``: one line for
    each class, in the alphabetical order of the folders.
    """

    obtain = "put class folders with images into FOLDER/train and FOLDER/test"

    def read(self, folder: Path) -> Splits:
        """Read the class folders; the same classes must have images in all parts."""
        classes = class_folders(folder / "train")
        for split in ("test", "val"):
            if split == "test" or (folder / split).is_dir():
                odd = sorted(set(class_folders(folder / split)) ^ set(classes))
                if odd:
                    raise UserError(
                        f"the class folder {odd[0]} is not in both {folder / 'train'} and {folder / split}: every "
                        "class needs images in both"
                    )
        names = list(spoken(classes))
        if (folder / NAMES).is_file():
            names = text_lines(folder / NAMES)
            if len(names) != len(classes):
                raise UserError(
                    f"{folder / NAMES} names {len(names)} classes and {folder / 'train'} has {len(classes)}: write one "
                    "line for each folder, in alphabetical order"
                )
        validation = images_by_class(folder / "val", classes) if (folder / "val").is_dir() else None
        train, test = (images_by_class(folder / split, classes) for split in ("train", "test"))
        return Splits(tuple(names), train, test, validation)

"""Your own images: one folder for each class, below train/ and test/."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.api import Dataset, FileImages, Splits, UserError, register

from .reading import class_folders, images_by_class, spoken, text_lines
from .walk import one_form, passed_over

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
        known = _by_form(folder / "train", classes)
        parts: dict[str, FileImages] = {}
        passed: Counter[str] = Counter()
        for split in ("train", "test", "val"):
            if split == "val" and not (folder / split).is_dir():
                continue
            own = _by_form(folder / split, class_folders(folder / split))
            odd = sorted(own.keys() ^ known.keys())
            if odd:
                more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
                which = f"folders {', '.join(odd[:5])}{more} are" if len(odd) > 1 else f"folder {odd[0]} is"
                raise UserError(
                    f"the class {which} not in both {folder / 'train'} and {folder / split}: every class needs images "
                    "in both"
                )
            parts[split] = images_by_class(folder / split, [own[name] for name in known], passed)
        return Splits(
            self._names(folder, classes), parts["train"], parts["test"], parts.get("val"), passed_over(passed)
        )

    @staticmethod
    def _names(folder: Path, classes: list[str]) -> tuple[str, ...]:
        """Return the names of the classes: the lines of a file, or the names of their folders."""
        if not (folder / NAMES).is_file():
            return spoken(classes)
        names = text_lines(folder / NAMES)
        if len(names) != len(classes):
            raise UserError(
                f"{folder / NAMES} names {len(names)} classes and {folder / 'train'} has {len(classes)}: write one "
                "line for each folder, in alphabetical order"
            )
        return tuple(names)


def _by_form(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the names of class folders, each by its name in one Unicode form."""
    found: dict[str, str] = {}
    for name in names:
        if one_form(name) in found:
            raise UserError(
                f"{folder} holds two class folders {name}, whose names are equal but for their Unicode form: make "
                "them one"
            )
        found[one_form(name)] = name
    return found

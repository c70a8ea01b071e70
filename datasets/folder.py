"""Your own images in folders: one for each class, below train/ and test/ or without them, or with a list of labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.api import Dataset, FileImages, Splits, UserError, hold_out, register

from .own_parts import PARTS, Choices, class_names, refuse_second_test
from .own_table import Row, rows_of, splits_of
from .reading import class_folders, images_by_class
from .walk import folders_in, one_form, passed_over

NAMES = "classes.txt"

LISTS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files with a file name and a label for each image, in a folder or in its parts, as Hugging Face's imagefolder has."""


@register("dataset", "folder", title="Your own images: train/CLASS/*.jpg and test/CLASS/*.jpg")
class Folder(Dataset):
    """Class folders in ``train/`` and ``test/``, and in ``val/`` (``valid/``, ``validation/``) if there is one.

    Class names are the names of the folders with blanks for underscores, or the lines of ``classes.txt``: one line for
    each class, in the alphabetical order of the folders. Without ``test/`` a share of each class is held out for
    testing if `choices` say so; class folders may then be in the folder itself. Where a file ``metadata.csv``,
    ``.jsonl`` or ``.parquet`` lists the images, labels come from there.

    Parameters
    ----------
    folders : sequence of str
        Below ``data=``.
    choices : Choices, optional
        How they are read.
    """

    obtain = "put class folders with images into FOLDER/train and FOLDER/test, or list the images in a table"

    def __init__(self, folders: tuple[str, ...] = (), choices: Choices | None = None):
        super().__init__(folders)
        self.choices = choices or Choices()

    def read(self, folder: Path) -> Splits:
        """Read the class folders, or the images of a list; the same classes must have images in all parts."""
        parts = _parts(folder)
        if not {"train", "test"} & parts.keys():
            parts = {}  # class folders alone, of which one may be called valid
        lists = {where: found for where in (folder, *parts.values()) if (found := list_of(where)) is not None}
        if lists:
            return self._listed(folder, parts, lists)
        split = self.choices.split
        if "test" in parts:
            refuse_second_test(self.choices, f"the folder {folder} has test images")
        elif split is None:
            lacking = "test/" if "train" in parts else "train/ and test/"
            raise UserError(
                f"the folder {folder} has no {lacking}: put class folders there, or hold out a share of the images "
                "for testing with split: 0.2 in a file of tasks (stream.split=0.2)"
            )
        train = folder / "train" if parts else folder
        classes = class_folders(train)
        known = _by_form(train, classes)
        images: dict[str, FileImages] = {}
        passed: Counter[str] = Counter()
        for part, where in {**parts, "train": train}.items():
            own = _by_form(where, class_folders(where))
            _check_same(known, own, train, where)
            images[part] = images_by_class(where, [own[name] for name in known], passed)
        names, note = class_names(classes, self._names(folder), str(train)), passed_over(passed)
        if split is None:
            return Splits(names, images["train"], images["test"], images.get("validation"), note)
        kept, held = hold_out(images["train"], classes, split, self.choices.split_seed, "test")
        return Splits(names, kept, held, images.get("validation"), note)

    def _listed(self, folder: Path, parts: dict[str, Path], lists: dict[Path, Path]) -> Splits:
        """Return the images that one list in the folder names, or one in each of its parts."""
        if folder in lists:
            rows = [
                _placed(row, row.path, row.part or _first(row.path)) for row in rows_of(lists[folder], self.choices)
            ]
            return splits_of(rows, lists[folder], folder, self._names(folder), self.choices)
        without = [where for where in parts.values() if where not in lists]
        if without:
            raise UserError(
                f"{next(iter(lists.values()))} lists images and {without[0]} has no such file: add one, or remove the "
                "other, so that names of folders are the labels"
            )
        rows = [
            _placed(row, f"{where.name}/{row.path}", part)
            for part, where in parts.items()
            for row in rows_of(lists[where], self.choices)
        ]
        return splits_of(rows, folder, folder, self._names(folder), self.choices)

    def _names(self, folder: Path) -> Path | None:
        """Return the file of class names, if there is one or one is asked for."""
        file = folder / (self.choices.classes or NAMES)
        return file if self.choices.classes or file.is_file() else None


def _placed(row: Row, path: str, part: str) -> Row:
    return Row(path, row.label, part, row.line)


def _first(path: str) -> str:
    """Return the part that the first folder of a path is named after; empty if it is no name of a part."""
    return PARTS.get(path.partition("/")[0], "") if "/" in path else ""


def _parts(folder: Path) -> dict[str, Path]:
    """Return the folders of the parts by part: training, test and validation images as far as they are there."""
    found: dict[str, Path] = {}
    for name in folders_in(folder):
        part = PARTS.get(name)
        if part in found:
            raise UserError(f"{folder} holds {found[part].name}/ and {name}/ with {part} images: make them one folder")
        if part is not None:
            found[part] = folder / name
    return {part: found[part] for part in ("train", "test", "validation") if part in found}


def list_of(folder: Path) -> Path | None:
    """Return the file in a folder that lists its images; None if there is none."""
    found = [folder / name for name in LISTS if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} holds {' and '.join(path.name for path in found)}: keep one of them")
    return found[0] if found else None


def _check_same(known: dict[str, str], own: dict[str, str], train: Path, where: Path) -> None:
    """Refuse a part that does not have the class folders of the training images."""
    odd = sorted(own.keys() ^ known.keys())
    if odd:
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        which = f"folders {', '.join(odd[:5])}{more} are" if len(odd) > 1 else f"folder {odd[0]} is"
        raise UserError(f"the class {which} not in both {train} and {where}: every class needs images in both")


def _by_form(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the names of class folders, each by its name in one Unicode form."""
    forms: dict[str, str] = {}
    for name in names:
        if one_form(name) in forms:
            raise UserError(
                f"{folder} holds two class folders {name}, whose names are equal but for their Unicode form: make "
                "them one"
            )
        forms[one_form(name)] = name
    return forms

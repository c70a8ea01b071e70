"""What readers of your own images have in common: what a user chooses, names of parts and of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.api import UserError

from .reading import spoken, text_lines

PARTS = {"train": "train", "test": "test", "val": "validation", "valid": "validation", "validation": "validation"}
"""Names of folders and words of a column, and the parts that they mean."""


@dataclass(frozen=True)
class Choices:
    """How own images are read, as the settings or a file of tasks say.

    Attributes
    ----------
    split : float or None
        Share of the images of each class that is held out for testing; None where test images are there.
    split_seed : int
        Seed of that choice.
    path_column, label_column, split_column : str
        Columns of a table; empty for the usual ones.
    images : str
        Folder that the paths of a table start from, relative to the table.
    classes : str
        File with the name of a class on each line, in the order of the labels; empty for none.
    """

    split: float | None = None
    split_seed: int = 0
    path_column: str = ""
    label_column: str = ""
    split_column: str = ""
    images: str = ""
    classes: str = ""


def refuse_second_test(choices: Choices, what: str) -> None:
    """Refuse a share for testing where there are test images."""
    if choices.split is not None:
        raise UserError(
            f"{what} of its own, so none are held out for testing: leave out split, or set it for single tasks in a "
            "file of tasks"
        )


def class_names(labels: Sequence[str], file: Path | None, owner: str) -> tuple[str, ...]:
    """Return the names of classes, in the order of their labels: the lines of a file, or the labels with blanks."""
    if file is None:
        return spoken(labels)
    names = text_lines(file)
    if len(names) != len(labels):
        raise UserError(
            f"{file} names {len(names)} classes and {owner} has {len(labels)}: write one line for each, in "
            "alphabetical order (numbers by their value)"
        )
    return tuple(names)

"""Datasets on disk: where they are, what is in them, whether they are complete."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.config import registry
from bench.core.errors import UserError, nearest
from bench.data.images import Images
from bench.data.on_disk import find, find_or_guess, packed
from bench.data.stream import Task

OWN_IMAGES = "folder"
"""The dataset that reads a user's own folder of images."""


@dataclass(frozen=True)
class Splits:
    """The content of a dataset.

    Attributes
    ----------
    classes : tuple of str
        Class names as prompts use them, in label order.
    train : Images
        Training images.
    test : Images
        Test images.
    validation : Images or None
        The official held-out part, if there is one.
    note : str
        What a user should know of the reading, such as files that were skipped; empty by default.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    validation: Images | None = None
    note: str = ""


@dataclass(frozen=True)
class Counts:
    """The size of a dataset.

    Attributes
    ----------
    train : int
        Number of training images.
    test : int
        Number of test images.
    classes : int
        Number of classes.
    """

    train: int
    test: int
    classes: int


class Dataset:
    """Images on disk; a plug-in derives from it and is decorated with ``register("dataset", ...)``.

    A dataset implements `read`.

    Parameters
    ----------
    folders : sequence of str, optional
        Where it is below ``data=``, instead of the class's own `folders`.

    Attributes
    ----------
    kind : {"learning", "reference"}
        Whether it is learned, or for ``reference=`` alone: its class names are sentences, its test part is empty.
    folders : tuple of str
        Where it may be below ``data=``; the first folder that exists and is not empty is read.
    expected : Counts or None
        Counts of the published dataset.
    names_sha256 : str
        SHA-256 of the published class names, as `bench.data.dataset.names_hash` computes it; empty if unknown.
    template : str
        Prompt for streams that have none of their own.
    short : str
        Name in tables; a stream may use it as the name of the task.
    size : str
        For people: size on disk.
    licence : str
        For people: the licence.
    obtain : str
        For people: how to get it.
    broken : str
        For people: which official download is known not to work.
    absent : str
        What to say where it is missing, instead of the folders that were looked for.
    registry_name : str
        The name it is registered under; of a user's own images the name of their folder.
    """

    kind: ClassVar[str] = "learning"
    folders: tuple[str, ...] = ()
    expected: Counts | None = None
    names_sha256: str = ""
    template: str = "a photo of a {}."
    short: str = ""
    size: str = ""
    licence: str = ""
    obtain: str = ""
    broken: str = ""
    absent: str = ""
    registry_name: str

    def __init__(self, folders: Sequence[str] = ()):
        if folders:
            self.folders = tuple(folders)

    def read(self, folder: Path) -> Splits:
        """Read the dataset from its folder.

        Parameters
        ----------
        folder : Path
            As `locate` returned it.

        Returns
        -------
        Splits

        Raises
        ------
        UserError
            It names what is missing or damaged. An `OSError` need not be caught.
        """
        raise TypeError(f"{type(self).__name__} does not say how to read its folder")

    def manifest_problem(self, splits: Splits) -> str:
        """Return how classes or split differ from the published ones.

        Parameters
        ----------
        splits : Splits
            As `read` returned them.

        Returns
        -------
        str
            Empty if they do not differ, or if the published ones are not known.
        """
        return ""

    def locate(self, root: Path) -> Path | None:
        """Return the folder of the dataset.

        Parameters
        ----------
        root : Path
            The data folder, ``data=``.

        Returns
        -------
        Path or None
            The first of `folders` that exists and is not empty, or the only folder in it where that has the same name;
            None if there is none.

        Raises
        ------
        UserError
            If a folder cannot be read.
        """
        possible = (find(root, folder) for folder in self.folders)
        try:
            return next((folder for folder in possible if folder is not None), None)
        except OSError as error:
            raise _unreadable(error) from error

    def open(self, root: Path) -> Splits:
        """Locate and read the dataset.

        Parameters
        ----------
        root : Path
            The data folder, ``data=``.

        Returns
        -------
        Splits

        Raises
        ------
        UserError
            If it is missing, incomplete or cannot be read.
        """
        folder = self.locate(root)
        if folder is None:
            raise UserError(
                f"there is no dataset {self.registry_name} in {root} (looked for {', '.join(self.folders)}): put it "
                "there"
            )
        try:
            return self.read(folder)
        except OSError as error:
            raise _unreadable(error) from error


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{error.filename} cannot be read ({error.strerror}): fix its permissions")


def names_hash(names: Sequence[str]) -> str:
    """Return the SHA-256 of class names in label order, as hex digits.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    str
    """
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


@dataclass(frozen=True)
class Status:
    """Whether a dataset is ready.

    Attributes
    ----------
    dataset : Dataset
    state : {"present", "differs", "incomplete", "missing"}
        ``differs``: complete in itself, but not the published dataset.
    found : Counts or None
        Its counts, if it could be read.
    folder : Path or None
        Where it is.
    problem : str
        What is wrong, in words; empty if nothing is.
    note : str
        The reader's note, as in `Splits`.
    """

    dataset: Dataset
    state: str
    found: Counts | None
    folder: Path | None
    problem: str
    note: str = ""


def inspect(dataset: Dataset, root: Path) -> tuple[Status, Splits | None]:
    """Read a dataset and compare it with the published one.

    Parameters
    ----------
    dataset : Dataset
    root : Path
        The data folder, ``data=``.

    Returns
    -------
    status : Status
    splits : Splits or None
        Its content, if it could be read.
    """
    folder = None
    try:
        folder = dataset.locate(root)
        if folder is None:
            looked = dataset.absent or f"looked for {', '.join(dataset.folders)}"
            return Status(dataset, "missing", None, None, _hinted(looked, dataset, root)), None
        splits = dataset.open(root)
        if dataset.kind == "learning":
            Task(dataset.registry_name, splits.classes, "{}", splits.train, splits.test, splits.validation).validate()
    except UserError as error:
        return Status(dataset, "incomplete", None, folder, _hinted(str(error), dataset, root)), None
    counts = Counts(len(splits.train), len(splits.test), len(splits.classes))
    problems = []
    if dataset.expected is not None and counts != dataset.expected:
        parts = (("training images", "train"), ("test images", "test"), ("classes", "classes"))
        counted = ((title, getattr(counts, name), getattr(dataset.expected, name)) for title, name in parts)
        problems += [f"{here} of {there} {title}" for title, here, there in counted if here != there]
    elif dataset.names_sha256 and names_hash(splits.classes) != dataset.names_sha256:
        problems.append("other class names than the published ones")
    if dataset.expected is not None:
        problems += [text for text in [dataset.manifest_problem(splits)] if text]
    return Status(
        dataset, "differs" if problems else "present", counts, folder, ", ".join(problems), splits.note
    ), splits


def _hinted(problem: str, dataset: Dataset, root: Path) -> str:
    """Return a problem, with the archives that may be its cause."""
    archives = packed(root, dataset.folders)
    return f"{problem}; {archives}" if archives else problem


def load_dataset(name: str, root: Path | None = None) -> Dataset:
    """Return a dataset.

    Parameters
    ----------
    name : str
        A registered name, the path of a file ending in ``.py`` that registers one, or the name of a folder below `root`
        that holds the folders ``train`` and ``test``.
    root : Path, optional
        The data folder, ``data=``.

    Returns
    -------
    Dataset

    Raises
    ------
    UserError
        If there is no dataset of that name.
    """
    known = registry.entries("dataset")
    if not name.endswith(".py") and name not in known:
        own = find_or_guess(root, name) if root is not None else None
        if own is not None and (own / "train").is_dir():
            return folder_dataset(name)
        near = nearest(name, known)
        hint = f'did you mean "{near}"?' if near else 'see "python -m bench list datasets"'
        where = f", nor a folder {root / name} with train/ and test/" if root is not None else ""
        raise UserError(f'there is no dataset "{name}" ({hint}){where}')
    if name == OWN_IMAGES:
        raise UserError(f"dataset {name} means images of your own: name their folder instead")
    cls = registry.load("dataset", name)
    if not issubclass(cls, Dataset):
        raise UserError(f"dataset {name} is no subclass of bench.data.dataset.Dataset")
    return cls()


def folder_dataset(name: str) -> Dataset:
    """Return the dataset of a user's own images.

    Parameters
    ----------
    name : str
        Folder below the data folder, with a folder for each class in its folders ``train`` and ``test``.

    Returns
    -------
    Dataset
    """
    dataset: Dataset = registry.load("dataset", OWN_IMAGES)((name,))
    dataset.registry_name = name
    return dataset

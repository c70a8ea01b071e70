"""Datasets on disk: where they lie, what is in them, whether all is there; and streams made of them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.core.errors import UserError, nearest
from bench.data.images import Images
from bench.data.stream import Stream, Task

OWN_IMAGES = "folder"
"""The dataset that reads anybody's own folder of images."""


@dataclass(frozen=True)
class Splits:
    """What is in a dataset.

    Attributes
    ----------
    classes : tuple of str
        Class names as prompts use them, in label order.
    train, test : Images
    validation : Images or None
        The official held-out part, where there is one.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    validation: Images | None = None


@dataclass(frozen=True)
class Counts:
    """How many training images, test images and classes."""

    train: int
    test: int
    classes: int


class Dataset:
    """Images on disk; a plug-in derives from it and is decorated with ``register("dataset", ...)``.

    Parameters
    ----------
    folders : sequence of str, optional
        Where it lies below ``data=``, instead of the class's own `folders`.

    Attributes
    ----------
    folders : tuple of str
        Where it may lie below ``data=``; the first folder that is there and not empty is read.
    expected : Counts or None
        Of the published dataset.
    names_sha256 : str
        `names_hash` of the published class names, where this project knows them.
    template : str
        Prompt for streams that have none of their own.
    short : str
        What tables call it; the registered name by default.
    size, licence, obtain, broken : str
        For people: size on disk, licence, how to get it, and which official download is known not to work.
    """

    folders: tuple[str, ...] = ()
    expected: Counts | None = None
    names_sha256: str = ""
    template: str = "a photo of a {}."
    short: str = ""
    size: str = ""
    licence: str = ""
    obtain: str = ""
    broken: str = ""
    registry_name: str

    def __init__(self, folders: Sequence[str] = ()):
        if folders:
            self.folders = tuple(folders)

    def read(self, folder: Path) -> Splits:
        """What is in the dataset, from its folder; a UserError names what is wrong with it."""
        raise TypeError(f"{type(self).__name__} does not say how to read its folder")

    def manifest_problem(self, splits: Splits) -> str:
        """How classes or split differ from the published ones, where these are known; empty if they do not."""
        return ""

    def locate(self, root: Path) -> Path | None:
        """The folder of the dataset below `root`; None if there is none."""
        found = (root / folder for folder in self.folders)
        try:
            return next((folder for folder in found if folder.is_dir() and any(folder.iterdir())), None)
        except OSError as error:
            raise _unreadable(error) from error

    def open(self, root: Path) -> Splits:
        """What is in the dataset below `root`.

        Raises
        ------
        UserError
            If it is not there or something in it is wrong.
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
    return UserError(f"{error.filename} cannot be read ({error.strerror}): mend its permissions")


def names_hash(names: Sequence[str]) -> str:
    """SHA-256 of class names in label order."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


@dataclass(frozen=True)
class Status:
    """Whether a dataset is ready.

    Attributes
    ----------
    state : {"present", "differs", "incomplete", "missing"}
        ``differs``: whole in itself, but not the published dataset.
    found : Counts or None
    folder : Path or None
        Where it lies.
    problem : str
        What is wrong, in words; empty if nothing is.
    """

    dataset: Dataset
    state: str
    found: Counts | None
    folder: Path | None
    problem: str


def inspect(dataset: Dataset, root: Path) -> tuple[Status, Splits | None]:
    """Look a dataset over; what could be read of it comes with the verdict."""
    folder = None
    try:
        folder = dataset.locate(root)
        if folder is None:
            return Status(dataset, "missing", None, None, f"looked for {', '.join(dataset.folders)}"), None
        splits = dataset.open(root)
        Task(dataset.registry_name, splits.classes, "{}", splits.train, splits.test, splits.validation).validate()
    except UserError as error:
        return Status(dataset, "incomplete", None, folder, str(error)), None
    found = Counts(len(splits.train), len(splits.test), len(splits.classes))
    problems = []
    if dataset.expected is not None and found != dataset.expected:
        parts = (("training images", "train"), ("test images", "test"), ("classes", "classes"))
        counted = ((title, getattr(found, name), getattr(dataset.expected, name)) for title, name in parts)
        problems += [f"{here} of {there} {title}" for title, here, there in counted if here != there]
    elif dataset.names_sha256 and names_hash(splits.classes) != dataset.names_sha256:
        problems.append("other class names than the published ones")
    if dataset.expected is not None:
        problems += [text for text in [dataset.manifest_problem(splits)] if text]
    return Status(dataset, "differs" if problems else "present", found, folder, ", ".join(problems)), splits


@dataclass(frozen=True)
class Part:
    """One dataset of a stream.

    Attributes
    ----------
    dataset : Dataset
    name : str
        Of the task.
    template : str
        Prompt with ``{}`` for the class name.
    epochs : int or None
        Passes over its training images; None leaves the run's.
    """

    dataset: Dataset
    name: str
    template: str
    epochs: int | None = None


class DatasetStream(Stream):
    """A stream made of registered datasets, one task each unless `tasks_of` says otherwise.

    Attributes
    ----------
    statuses : list of Status
        What was found of every dataset.
    """

    statuses: list[Status]

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """The datasets in order; `root` is the data folder, for streams whose settings are read from it."""
        raise TypeError(f"{cls.__name__} does not say which datasets it is made of")

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """The tasks that a dataset gives, in order."""
        budget = {} if part.epochs is None else {"epochs": part.epochs}
        return [Task(part.name, splits.classes, part.template, splits.train, splits.test, splits.validation, budget)]

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Read every dataset, then make the tasks; all that is not ready is told at once."""
        name = self.registry_name
        if data_root is None:
            raise UserError(f"stream {name} needs data=DIR, the folder that holds its datasets")
        root = Path(data_root).expanduser()
        self.statuses, read = [], []
        for part in self.parts(self.settings, root):
            status, splits = inspect(part.dataset, root)
            self.statuses.append(status)
            if splits is not None:
                read.append((part, splits))
        broken = [status for status in self.statuses if status.state in ("missing", "incomplete")]
        if broken:
            told = "; ".join(f"{status.dataset.registry_name} is {status.state}: {status.problem}" for status in broken)
            raise UserError(
                f"{len(broken)} of {len(self.statuses)} datasets of stream {name} are not ready in {root} ({told}): "
                f'see "python -m bench data {name} data={data_root}"'
            )
        for status in self.statuses:
            if status.state == "differs":
                self.notes.append(f"dataset {status.dataset.registry_name} is not the published one: {status.problem}")
        self.facts["folders"] = {s.dataset.registry_name: str(s.folder) for s in self.statuses}
        return [task for part, splits in read for task in self.tasks_of(part, splits, order_seed)]


def load_dataset(name: str, root: Path | None = None) -> Dataset:
    """The dataset of a registered name, of a file.py, or of a folder below `root` that holds ``train`` and ``test``.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    known = registry.entries("dataset")
    if not name.endswith(".py") and name not in known:
        if root is not None and (root / name / "train").is_dir():
            return folder_dataset(name)
        near = nearest(name, known)
        hint = f'did you mean "{near}"?' if near else 'see "python -m bench list datasets"'
        where = f", nor a folder {root / name} with train/ and test/" if root is not None else ""
        raise UserError(f'there is no dataset "{name}" ({hint}){where}')
    if name == OWN_IMAGES:
        raise UserError(f"dataset {name} stands for images of your own: name their folder instead")
    cls = registry.load("dataset", name)
    if not issubclass(cls, Dataset):
        raise UserError(f"dataset {name} is no subclass of bench.data.dataset.Dataset")
    return cls()


def folder_dataset(name: str) -> Dataset:
    """Somebody's own images in the folder `name`."""
    dataset: Dataset = registry.load("dataset", OWN_IMAGES)((name,))
    dataset.registry_name = name  # it is called what its folder is called
    return dataset

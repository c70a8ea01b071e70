"""What is made of registered datasets: streams, a reference set, the share that is held out where a part is missing.

It is one file: these share how a dataset is read and reported, and half of it is documentation.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.compute.seeding import derived_seed
from bench.config import registry
from bench.config.resolve import resolve
from bench.core.errors import UserError, nearest
from bench.core.untrusted import read_text, why
from bench.data.dataset import Dataset, Splits, inspect, load_dataset
from bench.data.images import FileImages, Images, Subset
from bench.data.stream import Extra, Stream, Task


@dataclass(frozen=True)
class Part:
    """One dataset of a stream.

    Attributes
    ----------
    dataset : Dataset
        The dataset.
    name : str
        Name of the task.
    template : str
        Prompt with ``{}`` for the class name.
    epochs : int or None
        Passes over its training images; None means as many as the run's settings say.
    more_templates : tuple of str
        As for `Task`.
    """

    dataset: Dataset
    name: str
    template: str
    epochs: int | None = None
    more_templates: tuple[str, ...] = ()


class DatasetStream(Stream):
    """A stream made of registered datasets, one task each unless `tasks_of` says otherwise.

    A stream of this kind implements `parts`.
    """

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets of the stream.

        Parameters
        ----------
        settings : object
            An instance of the class's ``Settings``.
        root : Path or None
            The data folder, for streams that read their composition from it; None when only the names are wanted.

        Returns
        -------
        list of Part
            In the order of their tasks.
        """
        raise TypeError(f"{cls.__name__} does not say which datasets it is made of")

    @classmethod
    def probe_part(cls, name: str, settings: Any, root: Path | None) -> Part:
        """Return a dataset that no task trains on.

        Parameters
        ----------
        name : str
            One of the setting ``stream.probe``.
        settings : object
            An instance of the class's ``Settings``.
        root : Path or None
            As for `parts`.

        Returns
        -------
        Part
        """
        dataset = load_dataset(name, root)
        return Part(dataset, dataset.short or dataset.registry_name, dataset.template)

    @classmethod
    def probe_parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets of the setting ``stream.probe``, if the stream has it.

        Parameters
        ----------
        settings : object
            An instance of the class's ``Settings``.
        root : Path or None
            As for `parts`.

        Returns
        -------
        list of Part
            As `probe_part` returns them.
        """
        return [cls.probe_part(name, settings, root) for name in getattr(settings, "probe", ())]

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the tasks that a dataset gives.

        Parameters
        ----------
        part : Part
            As `parts` returned it.
        splits : Splits
            Its content.
        seed : int
            The setting ``seeds.task_order``.

        Returns
        -------
        list of Task
            In order; by default a single task with all classes.
        """
        budget = {} if part.epochs is None else {"epochs": part.epochs}
        images = (splits.train, splits.test, splits.validation)
        return [Task(part.name, splits.classes, part.template, *images, budget, part.more_templates)]

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Read every dataset, then make the tasks.

        Parameters
        ----------
        data_root : str or None
            The setting ``data``.
        order_seed : int
            The setting ``seeds.task_order``, for `tasks_of`.

        Returns
        -------
        list of Task

        Raises
        ------
        UserError
            It names every dataset that is missing or incomplete.
        """
        name = self.registry_name
        if data_root is None:
            raise UserError(f"stream {name} needs data=DIR, the folder that holds its datasets")
        root = Path(data_root).expanduser()
        statuses, read = [], []
        parts = self.parts(self.settings, root)
        for part in (*parts, *self.probe_parts(self.settings, root)):
            if part.dataset.kind == "reference":
                own = part.dataset.registry_name
                raise UserError(f"dataset {own} has no test images: leave it out, or write reference={own}")
            status, splits = inspect(part.dataset, root)
            statuses.append(status)
            if splits is not None:
                read.append((part, splits))
        broken = [status for status in statuses if status.state in ("missing", "incomplete")]
        if broken:
            named = "; ".join(f"{one.dataset.registry_name} is {one.state}: {one.problem}" for one in broken)
            raise UserError(
                f"{len(broken)} of {len(statuses)} datasets of stream {name} are not ready in {root} ({named}): "
                f'see "python -m bench data {name} data={data_root}", with the same stream.KEY=VALUE words as here'
            )
        self.differences = {s.dataset.registry_name: s.problem for s in statuses if s.state == "differs"}
        self.notes += [
            f"dataset {dataset} is not the published one: {how}" for dataset, how in self.differences.items()
        ]
        self.notes += [f"dataset {s.dataset.registry_name}: {s.note}" for s in statuses if s.note]
        self.facts["folders"] = {s.dataset.registry_name: str(s.folder) for s in statuses}
        self.others = [
            Extra.probe(task)
            for part, splits in read[len(parts) :]
            for task in DatasetStream.tasks_of(self, part, splits, order_seed)
        ]
        return [task for part, splits in read[: len(parts)] for task in self.tasks_of(part, splits, order_seed)]


def stream_class(name: str, words: Sequence[str] = ()) -> tuple[type[Stream], Any]:
    """Return the class of a stream that another one is made of, and its settings.

    Parameters
    ----------
    name : str
        A registered name, or the path of a file ending in ``.py``.
    words : sequence of str, optional
        Its settings as ``KEY=VALUE``, such as ``class_order=shuffled``.

    Returns
    -------
    cls : type
    settings : object
        An instance of its ``Settings``.

    Raises
    ------
    UserError
        If there is no such stream or setting, or the settings name another stream.
    """
    if named := next((word for word in words if word.partition("=")[0].strip() == "name"), None):
        raise UserError(f'"{named}" is no setting of stream {name}: leave it out, and name the stream itself')
    resolved = resolve([f"stream={name}", *(f"stream.{word}" for word in words)], need_method=False)
    return resolved.stream_class, resolved.stream_settings


def stream_of(name: str, words: Sequence[str], data_root: str | None, order_seed: int) -> Stream:
    """Return a stream that another one is made of, loaded.

    Parameters
    ----------
    name, words
        As for `stream_class`.
    data_root, order_seed
        As for `Stream`.

    Returns
    -------
    Stream

    Raises
    ------
    UserError
        As for `stream_class`; also if its data are missing or damaged.
    """
    cls, settings = stream_class(name, words)
    return cls(settings, data_root, order_seed)


@dataclass(frozen=True)
class ReferenceSet:
    """Images and sentences outside of a stream, as they are on disk.

    Attributes
    ----------
    name : str
    images : Images
        Their labels mean nothing.
    sentences : tuple of str
    """

    name: str
    images: Images
    sentences: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of images and sentences, as hex digits."""
        return hashlib.sha256(json.dumps([self.images.digest, self.sentences]).encode()).hexdigest()


IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of the files that are taken of a folder without classes."""

DRAWN_SEED = 0
"""Seed of the images that are drawn of a reference set; all runs have the same, so that they can be compared."""


def reference_set(name: str, root: Path | None, images: int | None, sentences: Path | None) -> ReferenceSet:
    """Return the reference set of a run.

    Parameters
    ----------
    name : str
        As for `load_dataset`, or a folder with images at any depth that has no folder ``train``.
    root : Path or None
        The folder that holds it; a dataset that comes along needs none.
    images : int or None
        How many images are drawn of it at most; None for all.
    sentences : Path or None
        A text file with a sentence a line; None for the prompts of its classes.

    Returns
    -------
    ReferenceSet

    Raises
    ------
    UserError
        If it is missing or damaged, or holds no images, or the file no sentences.
    """
    chosen, prompts = _reference_images(name, root)
    if images is not None and images < len(chosen):
        draw = np.random.default_rng(derived_seed(DRAWN_SEED, "reference"))
        chosen = Subset(chosen, np.sort(draw.permutation(len(chosen))[:images]))
    return ReferenceSet(name, chosen, prompts if sentences is None else _lines(sentences))


def _reference_images(name: str, root: Path | None) -> tuple[Images, tuple[str, ...]]:
    """Return the images of a reference set, and the prompts of its classes."""
    entries = registry.entries("dataset")
    known = name.endswith(".py") or name in entries
    if not known and Path(name).is_absolute():  # the name is a part of the run, the place is not
        where, own = Path(name).parent, Path(name).name
        raise UserError(f"reference={name} is a path: write reference={own} reference.data={where}")
    if not known and root is None:
        near = nearest(name, entries)
        hint = f' (did you mean "{near}"?)' if near else ""
        raise UserError(
            f"reference={name} is no registered dataset{hint}: for a folder of images add reference.data=DIR, the "
            "folder that holds it"
        )
    folder = None if root is None or known else root / name
    if folder is not None and folder.is_dir() and not (folder / "train").is_dir():
        found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_FILES and path.name[0] != ".")
        names = sorted(path.relative_to(folder).as_posix() for path in found)
        if not names:
            raise UserError(f"reference={name}: the folder {folder} holds no images: name one that does")
        return FileImages(folder, names, [0] * len(names)), ()
    dataset = load_dataset(name, root)
    if root is None and dataset.folders:
        raise UserError(f"reference={name} needs the folder that holds it: add reference.data=DIR, or data=DIR")
    status, splits = inspect(dataset, root or Path())
    if splits is None:
        raise UserError(f"reference={name} is {status.state} in {root}: {status.problem}")
    return splits.train, tuple(dataset.template.replace("{}", one) for one in splits.classes)


def _lines(file: Path) -> tuple[str, ...]:
    """Return the lines of a text file that are not blank."""
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise UserError(f"reference.sentences={file} cannot be read ({why(error)}): name a text file") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"reference.sentences={file} holds no sentence: write one a line")
    return lines


def hold_out(images: Images, classes: Sequence[str], share: float, seed: int, purpose: str) -> tuple[Subset, Subset]:
    """Hold out a share of the images of each class.

    The choice depends on (seed, purpose, class) and on the order of the class's images alone: not on other classes.

    Parameters
    ----------
    images : Images
        In an order that does not depend on the disk.
    classes : sequence of str
        Class names in label order.
    share : float
        Above 0 and below 1. The number of images is rounded, to at least one and at most all but one of a class.
    seed : int
        Seed of the choice.
    purpose : str
        What they are held out for, ``test`` or ``validation``; it is a part of the seed.

    Returns
    -------
    kept, held : Subset
        The images that stay, and those that are held out, each in the order of `images`. An image that occurs several
        times, as in few-shot draws, is on one side only, and held out once.

    Raises
    ------
    UserError
        If a class has fewer than two images.
    """
    origin = images.indices if isinstance(images, Subset) else np.arange(len(images))
    chosen = []
    for label, name in enumerate(classes):
        own = np.unique(origin[images.labels == label])
        if len(own) < 2:
            raise UserError(
                f"class {name!r} has {len(own)} image, of which none can be held out for {purpose}: it needs two"
            )
        digest = hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        count = min(max(1, round(share * len(own))), len(own) - 1)
        chosen.append(rng.permutation(own)[:count])
    out = np.isin(origin, np.concatenate(chosen))
    _, first = np.unique(origin, return_index=True)
    return _chosen(images, np.flatnonzero(~out)), _chosen(images, np.sort(first[out[first]]))


def _chosen(images: Images, indices: np.ndarray) -> Subset:
    """Return a selection, decoded together with the rest of what it is taken from."""
    if isinstance(images, Subset):
        return Subset(images.images, images.indices[indices], images.labels[indices], images.whole)
    return Subset(images, indices, whole=True)

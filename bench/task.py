"""Tasks, streams of tasks and the label spaces in which their images are classified."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from bench.errors import UserError

LABEL_SPACES = ("task", "seen", "all")


class Images(Protocol):
    """Labelled images, opened one at a time.

    Attributes
    ----------
    labels : int64 array [images]
        Index into the task's class names.
    digest : str
        Hash that identifies the data in records: it changes when labels or order do, and when images do as far as that
        shows without reading all of them.
    """

    labels: np.ndarray
    digest: str

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image at `index`; a UserError names the file if it cannot be decoded."""
        ...


class ArrayImages:
    """Images held in memory.

    Parameters
    ----------
    pixels : uint8 array [images, height, width, 3]
    labels : int array [images]
    """

    def __init__(self, pixels: np.ndarray, labels: Sequence[int] | np.ndarray):
        self.pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.pixels) != len(self.labels):
            raise UserError(f"{len(self.pixels)} images have {len(self.labels)} labels: give one label for each image")
        self.digest = hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


class FileImages:
    """Images in files, opened when they are asked for.

    The digest is of names, sizes and labels: reading whole datasets for a hash would take longer than many runs.

    Parameters
    ----------
    root : Path
        Folder that the names are relative to.
    names : sequence of str
    labels : int array [images]

    Raises
    ------
    UserError
        If a file is missing or cannot be decoded; the sentence names it.
    """

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int] | np.ndarray):
        self.root = root
        self.names = list(names)
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.names) != len(self.labels):
            raise UserError(f"{len(self.names)} files in {root} have {len(self.labels)} labels: give one label a file")
        try:
            sizes = [(root / name).stat().st_size for name in self.names]
        except OSError as error:
            raise UserError(
                f"the image {error.filename} cannot be read ({error.strerror}): check the dataset"
            ) from error
        self.digest = hashlib.sha256(json.dumps([self.names, sizes, self.labels.tolist()]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        path = self.root / self.names[index]
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise UserError(f"the image {path} cannot be decoded ({error}): restore or remove the file") from error


class Subset:
    """A selection of other images, in the given order."""

    def __init__(self, images: Images, indices: Sequence[int] | np.ndarray):
        self.images = images
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = images.labels[self.indices]
        self.digest = hashlib.sha256(images.digest.encode() + self.indices.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.images.image(int(self.indices[index]))


@dataclass(frozen=True)
class Task:
    """One classification task of a stream.

    Attributes
    ----------
    name : str
    classes : tuple of str
        Class names in label order.
    template : str
        Prompt with ``{}`` for the class name.
    train, test : Images
    validation : Images or None
        Held-out training images for tuning; a run never trains on them.
    train_settings : mapping
        Settings of the group ``train`` that differ for this task, for example ``{"epochs": 5}``. What the user sets
        on the command line wins.
    """

    name: str
    classes: tuple[str, ...]
    template: str
    train: Images
    test: Images
    validation: Images | None = None
    train_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(self.template.replace("{}", name) for name in self.classes)

    def digest(self) -> str:
        """Hash of everything in the task that can change a result."""
        parts = [self.name, self.classes, self.template, self.train.digest, self.test.digest, dict(self.train_settings)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def validate(self) -> None:
        """Raise UserError if the task cannot be learned or measured: no images, a class without any, wrong labels."""
        if not self.name or not self.name.isprintable():
            raise UserError(f"the task name {self.name!r} cannot be printed: give it another")
        if not self.classes:
            raise UserError(f"task {self.name} has no classes: give it a list of class names")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise UserError(f"task {self.name} names the class {twice[0]!r} twice: make its class names distinct")
        if "{}" not in self.template:
            raise UserError(f'the template "{self.template}" of task {self.name} has no {{}} for the class name')
        parts = {"training": self.train, "test": self.test}
        if self.validation is not None:
            parts["validation"] = self.validation
        for part, images in parts.items():
            if len(images) == 0:
                raise UserError(f"task {self.name} has no {part} images: check its dataset")
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= len(self.classes):
                raise UserError(
                    f"task {self.name} has {part} labels from {low} to {high} and {len(self.classes)} classes: "
                    "the label file and the class list disagree"
                )
            counts = np.bincount(images.labels, minlength=len(self.classes))
            if (counts == 0).any():
                name = self.classes[int(counts.argmin())]
                raise UserError(f"class {name!r} of task {self.name} has no {part} image: add some or drop the class")


class Stream:
    """An ordered list of tasks; a plug-in derives from it and is decorated with ``register("stream", ...)``.

    Attributes
    ----------
    Settings : type
        Dataclass of the stream's own settings.
    label_space : {"task", "seen", "all"}
        The classes among which a test image is classified: its own task's, all met so far, or all of the stream.
    defaults : mapping of str to value
        The training budget shared by all methods, as dotted settings of a run (``{"train.epochs": 8}``).
    tuned : mapping of method name to mapping
        Settings chosen for single methods on this stream's validation images.
    description : str
        One sentence for listings.
    """

    @dataclass
    class Settings:
        """No settings."""

    label_space: ClassVar[str] = "task"
    defaults: ClassVar[Mapping[str, Any]] = {}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    description: ClassVar[str] = ""
    registry_name: ClassVar[str]

    def __init__(self, settings: Any, data_root: str | None, order_seed: int):
        self.settings = settings
        if self.label_space not in LABEL_SPACES:
            raise UserError(
                f"stream {type(self).__name__} has the label space {self.label_space!r}: write one of "
                f"{', '.join(LABEL_SPACES)}"
            )
        self.tasks = self.load(data_root, order_seed)
        if not self.tasks:
            raise UserError("the stream has no tasks: name at least one dataset")
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"task {name} stands twice in the stream: name every task once")
        for task in self.tasks:
            task.validate()

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """The tasks in order; `order_seed` is for streams that shuffle their tasks or classes."""
        raise TypeError(f"{type(self).__name__} does not say how to load its tasks")


@dataclass(frozen=True)
class LabelSpace:
    """The prompts among which images of one test set are classified.

    Attributes
    ----------
    prompts : tuple of str
        Each once: classes of several tasks that have the same prompt cannot be told apart and count as one.
    tasks : tuple of int
        Index in the stream of the first task that each prompt comes from.
    targets : tuple of int
        Position among the prompts of each class of the test set.
    """

    prompts: tuple[str, ...]
    tasks: tuple[int, ...]
    targets: tuple[int, ...]


def label_space(kind: str, tasks: Sequence[Task], seen: int, column: int) -> LabelSpace | None:
    """The label space of test set `column` when `seen` tasks have been met; None where it is not defined.

    Parameters
    ----------
    kind : {"task", "seen", "all"}
        ``task``: the test set's own classes. ``seen``: the classes of the first `seen` tasks, undefined for test sets
        of tasks not met yet. ``all``: the classes of all tasks of the stream.
    """
    if kind == "task":
        included: Sequence[int] = [column]
    elif kind == "seen":
        if column >= seen:
            return None
        included = range(seen)
    else:
        included = range(len(tasks))
    owners: dict[str, int] = {}
    for index in included:
        for prompt in tasks[index].prompts:
            owners.setdefault(prompt, index)
    position = {prompt: place for place, prompt in enumerate(owners)}
    targets = tuple(position[prompt] for prompt in tasks[column].prompts)
    return LabelSpace(tuple(owners), tuple(owners.values()), targets)

"""Tasks, streams of tasks and the label spaces in which their images are classified."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from bench.config.run_settings import label_space_of
from bench.core.errors import UserError
from bench.data.images import Images

LABEL_SPACES = ("task", "seen", "all")

NEVER = -1
"""Target of a class whose prompt is taken by an earlier task and counts for that one only."""


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
    prompt_family, budget : str
        For listings: whose prompts, and which training budget after which paper. Literal texts in the class's own body,
        like `label_space`, since listings do not import it.
    shared_prompts : {"either", "first"}
        What counts as right where classes of several tasks have the same prompt in one label space: the prompt,
        whichever task it comes from; or only the first task's copy, as in papers that take one argmax over all copies.
    notes : list of str
        What a user should know about the data, told at the start of a run.
    facts : dict
        What the record keeps of how the tasks were made: drawn images, order of classes; plain values.
    """

    @dataclass
    class Settings:
        """No settings."""

    label_space: str = "task"
    shared_prompts: ClassVar[str] = "either"
    defaults: ClassVar[Mapping[str, Any]] = {}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    description: ClassVar[str] = ""
    prompt_family: ClassVar[str] = ""
    budget: ClassVar[str] = ""
    registry_name: ClassVar[str]

    def __init__(self, settings: Any, data_root: str | None, order_seed: int):
        self.settings = settings
        self.label_space = label_space_of(type(self), settings)
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
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
        shared = shared_classes(self.tasks) if self.label_space != "task" else {}
        if shared:
            told = "; ".join(f'"{name}" ({", ".join(owners)})' for name, owners in sorted(shared.items()))
            rule = "an image of any of them is right" if self.shared_prompts == "either" else "only the first can be"
            self.notes.append(
                f"{len(shared)} class names stand in several tasks (where their prompts are equal too, {rule} when it "
                f"wins): {told}"
            )

    def zero_shot(self, model: str) -> "ZeroShot | None":
        """The published accuracies of an untrained model on this stream, to be held against row 0; None if unknown.

        Parameters
        ----------
        model : str
            As in ``model=``.
        """
        return None

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
        Position among the prompts of each class of the test set; `NEVER` for a class that cannot win.
    """

    prompts: tuple[str, ...]
    tasks: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ZeroShot:
    """Published accuracies of an untrained model.

    Attributes
    ----------
    source : str
    expected : mapping of task name to (accuracy, tolerance), both in percent
    """

    source: str
    expected: Mapping[str, tuple[float, float]]


def shared_classes(tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Class names that stand in several tasks, whatever their case, with the names of those tasks."""
    owners: dict[str, dict[str, str]] = {}
    for task in tasks:
        for name in task.classes:
            owners.setdefault(name.lower(), {})[task.name] = name
    return {next(iter(found.values())): list(found) for found in owners.values() if len(found) > 1}


def label_space(
    kind: str, tasks: Sequence[Task], seen: int, column: int, shared_prompts: str = "either"
) -> LabelSpace | None:
    """The label space of test set `column` when `seen` tasks have been met; None where it is not defined.

    Parameters
    ----------
    kind : {"task", "seen", "all"}
        ``task``: the test set's own classes. ``seen``: the classes of the first `seen` tasks, undefined for test sets
        of tasks not met yet. ``all``: the classes of all tasks of the stream.
    shared_prompts : {"either", "first"}
        As for `Stream`.
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
    targets = tuple(
        position[prompt] if shared_prompts == "either" or owners[prompt] == column else NEVER
        for prompt in tasks[column].prompts
    )
    return LabelSpace(tuple(owners), tuple(owners.values()), targets)

"""Tasks, streams of tasks and the label spaces in which their images are classified.

It is one file, because these belong together; more than half of it is the documentation that docs/api.md shows.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from bench.compute.seeding import generator
from bench.config.fields import setting
from bench.config.run_settings import label_space_of
from bench.core.errors import UserError
from bench.core.lazy import torch
from bench.data.images import Images
from bench.metrics.matrix_file import PROBE, ROLES

LABEL_SPACES = ("task", "seen", "agnostic", "all")
"""The classes among which a test image is classified.

``task``: its own task's. ``seen``: all learned so far. ``agnostic``: the same, and for a task that is not yet learned
its own. ``all``: all of the stream.
"""

Prompt: TypeAlias = str | tuple[str, ...]
"""What a class is classified by: one text, or several whose features are averaged."""

NEVER = -1
"""Target of a class that can never win, because its prompt belongs to an earlier task."""


@dataclass(frozen=True)
class Task:
    """One classification task of a stream.

    Attributes
    ----------
    name : str
        Unique in the stream, printable.
    classes : tuple of str
        Class names in label order, each once.
    template : str
        Prompt with ``{}`` for the class name.
    train : Images
        Training images; every class has at least one.
    test : Images
        Test images; every class has at least one.
    validation : Images or None
        Held-out training images for tuning; a run never trains on them.
    train_settings : mapping of str to object
        Settings of the group ``train`` that differ for this task, for example ``{"epochs": 5}``. What the user sets
        on the command line wins.
    more_templates : tuple of str
        Further prompts with ``{}``. Where test images are classified, a class is the normalised mean of the features of
        all its prompts, as in CLIP's zero-shot evaluation. Training reads `template` alone.
    """

    name: str
    classes: tuple[str, ...]
    template: str
    train: Images
    test: Images
    validation: Images | None = None
    train_settings: Mapping[str, Any] = field(default_factory=dict)
    more_templates: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """One prompt for each class, in label order: the template with the class name."""
        return tuple(self.template.replace("{}", name) for name in self.classes)

    @property
    def test_prompts(self) -> tuple[Prompt, ...]:
        """What test images are classified by, in label order: a prompt, or several where there are `more_templates`."""
        templates = tuple(dict.fromkeys((self.template, *self.more_templates)))
        if len(templates) == 1:
            return self.prompts
        return tuple(tuple(template.replace("{}", name) for template in templates) for name in self.classes)

    def digest(self) -> str:
        """Return a hash of everything in the task that can change a result.

        Returns
        -------
        str
            SHA-256 as hex digits, of name, classes, templates, the digests of its images and its training settings.
        """
        parts = [self.name, self.classes, self.template, self.train.digest, self.test.digest, dict(self.train_settings)]
        if self.more_templates:
            parts.append(self.more_templates)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def validate(self) -> None:
        """Check that the task can be learned and measured.

        Raises
        ------
        UserError
            If there are no images, a class has none, a label is not an index into `classes`, a class name occurs twice,
            or a template has no ``{}``.
        """
        self.check_names()
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

    def check_names(self) -> None:
        """Check name, class names and templates.

        Raises
        ------
        UserError
            If there are no classes, a class name occurs twice, or a template has no ``{}``.
        """
        if not self.name or not self.name.isprintable():
            raise UserError(f"the task name {self.name!r} cannot be printed: give it another")
        if not self.classes:
            raise UserError(f"task {self.name} has no classes: give it a list of class names")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise UserError(f"task {self.name} names the class {twice[0]!r} twice: make its class names distinct")
        for template in (self.template, *self.more_templates):
            if "{}" not in template:
                raise UserError(f'the template "{template}" of task {self.name} has no {{}} for the class name')


@dataclass(frozen=True)
class Extra(Task):
    """A test set that no task trains on.

    `train` is read only where a share of it is held out, to be scored in place of the test images.

    Attributes
    ----------
    role : {"kept", "missing", "probe"}
        ``kept``: classes that no request names. ``missing``: such classes without training images. ``probe``: anything
        else; it counts in no mean over tasks.
    """

    role: str = field(kw_only=True)

    @classmethod
    def probe(cls, task: Task) -> "Extra":
        """Return a task as a test set that no task of the stream trains on, and that counts in no mean over tasks.

        Parameters
        ----------
        task : Task

        Returns
        -------
        Extra
        """
        images = (task.train, task.test, task.validation)
        return cls(task.name, task.classes, task.template, *images, {}, task.more_templates, role=PROBE)

    def digest(self) -> str:
        """Return a hash of everything in the test set that can change a result.

        Returns
        -------
        str
            SHA-256 as hex digits.
        """
        parts: list[Any] = [self.name, self.role, self.classes, self.template, self.more_templates, self.test.digest]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def validate(self) -> None:
        """Check that the test set can be measured.

        Raises
        ------
        UserError
            If it has no images, a label that is none of its classes, or another role than there are.
        """
        self.check_names()
        if self.role not in ROLES:
            raise UserError(f"test set {self.name} has the role {self.role!r}: give it one of {', '.join(ROLES)}")
        labels = self.test.labels
        if len(labels) == 0:
            raise UserError(f"test set {self.name} has no images: check its dataset")
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise UserError(f"test set {self.name} has labels outside of its {len(self.classes)} classes: check it")


@dataclass
class StreamSettings:
    """The settings that all streams of tasks to learn share."""

    shuffle: bool = setting(False, "shuffle the tasks by seeds.task_order")
    probe: list[str] = setting(
        [], "further test sets, which no task trains on and no mean contains: datasets, or folders below data="
    )


class Stream:
    """An ordered list of tasks; a plug-in derives from it and is decorated with ``register("stream", ...)``.

    A stream implements `load`. A stream made of registered datasets derives from `DatasetStream` instead.

    Parameters
    ----------
    settings : object
        An instance of `Settings`.
    data_root : str or None
        The setting ``data``: the folder that holds the images; None where they are embedded.
    order_seed : int
        The setting ``seeds.task_order``.

    Attributes
    ----------
    Settings : type
        Dataclass of `setting` fields: the stream's own settings. A field ``label_space`` overrides the class's. Where a
        field ``shuffle`` is true, the tasks that `load` returns are shuffled by ``seeds.task_order``. `StreamSettings`
        has the usual fields.
    kind : {"learning", "forgetting"}
        Whether its tasks are to be learned, or are requests to forget (`Request`). A method says which it can do.
    label_space : {"task", "seen", "agnostic", "all"}
        The classes among which a test image is classified: see `label_space`.
    defaults : mapping of str to object
        The training budget shared by all methods, as dotted settings of a run (``{"train.epochs": 8}``).
    tuned : mapping of str to mapping, or path
        Settings chosen for single methods, by name of the method; or a file that ``tune`` writes, which says how they
        were chosen (docs/tuning.md).
    reference : str or None
        The dataset that ``reference=`` names where nobody gave one, for methods that learn from a reference set.
    description : str
        One sentence for listings.
    prompt_family : str
        For listings: whose prompts the stream uses. This, `budget` and `label_space` must be literal texts in the body
        of the class or of a base in the same file, because listings do not import it.
    budget : str
        For listings: the training budget, and the paper it follows.
    shared_prompts : {"either", "first"}
        What counts as correct where classes of several tasks have the same prompt in one label space: the prompt,
        whichever task it comes from; or only the first task's copy, as in papers that take one argmax over all copies.
    registry_name : str
        The name it is registered under.
    settings : object
        As given.
    tasks : list of Task
        In the order in which they are learned.
    others : list of Extra
        Further test sets, which are measured after every task and that no task trains on; `load` may add some.
    notes : list of str
        What a user should know about the data, one sentence each; a run prints them at its start.
    facts : dict of str to object
        How the tasks were made, for the record: drawn images, order of classes. Values that JSON can hold.
    differences : dict of str to str
        How datasets differ from the published ones, by name. A run that is compared with published numbers refuses
        such data.

    Raises
    ------
    UserError
        If there are no tasks, two have the same name, or one is not valid.
    """

    @dataclass
    class Settings:
        """No settings."""

    kind: ClassVar[str] = "learning"
    label_space: str = "task"
    shared_prompts: ClassVar[str] = "either"
    defaults: ClassVar[Mapping[str, Any]] = {}
    tuned: ClassVar[Mapping[str, Mapping[str, Any]] | Path] = {}
    reference: ClassVar[str | None] = None
    description: ClassVar[str] = ""
    prompt_family: ClassVar[str] = ""
    budget: ClassVar[str] = ""
    registry_name: ClassVar[str]

    def __init__(self, settings: Any, data_root: str | None, order_seed: int):
        self.settings = settings
        self.label_space = label_space_of(type(self), settings)
        self.others: list[Extra] = []
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.differences: dict[str, str] = {}
        if self.label_space not in LABEL_SPACES:
            raise UserError(
                f"stream {type(self).__name__} has the label space {self.label_space!r}: write one of "
                f"{', '.join(LABEL_SPACES)}"
            )
        self.tasks = self.load(data_root, order_seed)
        if getattr(settings, "shuffle", False):
            order = torch.randperm(len(self.tasks), generator=generator(order_seed, "task order"))
            self.tasks = [self.tasks[index] for index in order.tolist()]
        if not self.tasks:
            raise UserError("the stream has no tasks: name at least one dataset")
        names = [task.name for task in (*self.tasks, *self.others)]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"task {name} occurs twice in the stream: name every task once")
        for task in (*self.tasks, *self.others):
            task.validate()
        shared = shared_classes(self.tasks) if self.label_space != "task" else {}
        if shared:
            named = "; ".join(f'"{name}" ({", ".join(owners)})' for name, owners in sorted(shared.items()))
            either = self.shared_prompts == "either"
            rule = "an image of any of them is correct" if either else "only the first can be correct"
            self.notes.append(
                f"{len(shared)} class names occur in several tasks (where their prompts are equal too, {rule} when it "
                f"wins): {named}"
            )

    def zero_shot(self, model: str) -> "ZeroShot | None":
        """Return the published accuracies of an untrained model on this stream, to compare row 0 with.

        Parameters
        ----------
        model : str
            As in ``model=``.

        Returns
        -------
        ZeroShot or None
            None if nothing is published.
        """
        return None

    def change(self, new: Callable[[Task], Task]) -> None:
        """Change every task and every further test set, as when validation images are scored.

        A stream that makes its tasks of others changes those and makes its tasks again.

        Parameters
        ----------
        new : callable
            Takes a task and returns it with other images.
        """
        self.tasks = [new(task) for task in self.tasks]
        self.others = [new(extra) for extra in self.others]  # type: ignore[misc]  # dataclasses.replace keeps the class

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Return the tasks in the order in which they are learned.

        Parameters
        ----------
        data_root : str or None
            The setting ``data``.
        order_seed : int
            For streams that shuffle their tasks or classes.

        Returns
        -------
        list of Task
            At least one.

        Raises
        ------
        UserError
            If data are missing or damaged.
        """
        raise TypeError(f"{type(self).__name__} does not say how to load its tasks")


@dataclass(frozen=True)
class LabelSpace:
    """The prompts among which images of one test set are classified.

    Attributes
    ----------
    prompts : tuple of str, or of tuple of str
        Each once: classes of several tasks that have the same prompt cannot be distinguished and count as one. A tuple
        holds all prompts of a class with several templates; `Clip.encode_prompts` averages their features. Classes
        whose first prompts are the same, which training reads, count as one too, with the templates of the first task.
    tasks : tuple of int
        For each prompt the index in the stream, from 0, of the first task that has it.
    targets : tuple of int
        For each class of the test set its index among the prompts; -1 for a class that can never win.
    """

    prompts: tuple[Prompt, ...]
    tasks: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """One text for each prompt: the first one where a class has several templates, as in `TaskData.prompts`."""
        return tuple(prompt if isinstance(prompt, str) else prompt[0] for prompt in self.prompts)


@dataclass(frozen=True)
class ZeroShot:
    """Published accuracies of an untrained model.

    Attributes
    ----------
    source : str
        The paper or the code that they come from.
    expected : mapping of str to tuple of two float
        Accuracy and tolerance, both in percent, by name of task.
    """

    source: str
    expected: Mapping[str, tuple[float, float]]


def shared_classes(tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Return the class names that occur in several tasks, ignoring case.

    Parameters
    ----------
    tasks : sequence of Task

    Returns
    -------
    dict of str to list of str
        Class name to names of tasks.
    """
    owners: dict[str, dict[str, str]] = {}
    for task in tasks:
        for name in task.classes:
            owners.setdefault(name.lower(), {})[task.name] = name
    return {next(iter(names.values())): list(names) for names in owners.values() if len(names) > 1}


def label_space(
    kind: str, tasks: Sequence[Task], seen: int, column: int, shared_prompts: str = "either"
) -> LabelSpace | None:
    """Return the label space of one test set at one time.

    Parameters
    ----------
    kind : {"task", "seen", "agnostic", "all"}
        ``task``: the test set's own classes. ``seen``: the classes of the tasks learned so far, undefined for test sets
        of later tasks. ``agnostic``: the same, and for test sets of later tasks their own classes, as in the released
        code of CoLeCLIP. ``all``: the classes of all tasks of the stream.
    tasks : sequence of Task
        The stream's tasks, in order.
    seen : int
        Number of tasks learned so far.
    column : int
        Index of the test set's task, from 0.
    shared_prompts : {"either", "first"}, optional
        As for `Stream`.

    Returns
    -------
    LabelSpace or None
        None where it is not defined.
    """
    if kind == "task" or (kind == "agnostic" and column >= seen):
        included: Sequence[int] = [column]
    elif kind == "seen" and column >= seen:
        return None
    elif kind in ("seen", "agnostic"):
        included = range(seen)
    else:
        included = range(len(tasks))
    # By the prompt of training, which is what a method knows a class by; the first task's templates stand for it.
    owners: dict[str, int] = {}
    prompts: list[Prompt] = []
    for index in included:
        for text, prompt in zip(tasks[index].prompts, tasks[index].test_prompts, strict=True):
            if text not in owners:
                owners[text] = index
                prompts.append(prompt)
    position = {text: index for index, text in enumerate(owners)}
    targets = tuple(
        position[text] if shared_prompts == "either" or owners[text] == column else NEVER
        for text in tasks[column].prompts
    )
    return LabelSpace(tuple(prompts), tuple(owners.values()), targets)

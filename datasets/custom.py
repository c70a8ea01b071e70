"""A stream of your own choice: datasets in the order in which you name them, on the command line or in a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.api import (
    LABEL_SPACES,
    Dataset,
    DatasetStream,
    Part,
    Splits,
    StreamSettings,
    Task,
    UserError,
    load_dataset,
    register,
    setting,
)

from .folder import Folder, list_of
from .own_parts import Choices
from .own_table import ENDINGS, Table
from .shots import Fewer, draw, few_shot
from .tasks_file import FEWER, READING, read_tasks


@dataclass(frozen=True)
class OwnPart(Part):
    """A part with a number of steps, or of images a class, that is trained on."""

    steps: int | None = None
    shots: int | None = None
    fewer: Fewer = "error"


@register("stream", "custom", title="Datasets of your choice, in your order", paper="")
class Custom(DatasetStream):
    """`datasets=[dtd,plants]` names registered datasets, files with one, or folders and tables of images.

    `tasks_file=tasks.yaml` says more: a list of entries, each with ``dataset``, ``folder`` or ``table``. An entry may
    also have a ``name``, a ``template`` with ``{}`` for the class name or several ``templates``, ``epochs`` or
    ``steps``, ``shots``, and for own images ``split`` and the columns of a table.
    """

    @dataclass
    class Settings(StreamSettings):
        """Which datasets, with which prompts, in which label space."""

        datasets: list[str] = setting(
            [], "names of datasets, a file.py with one, or folders and tables of images below data=, in order"
        )
        tasks_file: str = setting("", "YAML file that lists the tasks, instead of datasets")
        template: str = setting("", "prompt with {} for the class name, instead of each dataset's own")
        label_space: str = setting("task", "classes among which a test image is classified", choices=LABEL_SPACES)
        split: float | None = setting(
            None, "share of each class held out for testing, of own images without test images", above=0, below=1
        )
        split_seed: int = setting(0, "seed that chooses the images that split holds out", low=0)
        shots: int | None = setting(None, "training images a class; null takes all", low=1)
        fewer: str | None = setting(
            None, "what to do where a class has fewer images than shots; null is error", choices=FEWER
        )

        def check(self) -> list[str]:
            """Return what is wrong: the tasks are named twice, or not at all."""
            if bool(self.datasets) == bool(self.tasks_file):
                return ["give either stream.datasets=[NAME,...] or stream.tasks_file=FILE"]
            return []

    label_space = "task"
    description = "tasks from stream.datasets or stream.tasks_file"
    budget: ClassVar[str] = "the run's, or each task's own"
    prompt_family: ClassVar[str] = "each dataset's, or your own"

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the named datasets, in the order in which they are named."""
        listed = settings.tasks_file
        entries = read_tasks(listed) if listed else [{"dataset": name} for name in settings.datasets]
        several: list[Part] = []
        for entry in entries:
            dataset = _dataset(entry, settings, root)
            templates = entry.get("templates") or (entry.get("template") or settings.template or dataset.template,)
            several.append(
                OwnPart(
                    dataset,
                    entry.get("name") or dataset.short or dataset.registry_name,
                    templates[0],
                    entry.get("epochs"),
                    tuple(templates[1:]),
                    entry.get("steps"),
                    entry.get("shots", settings.shots),
                    entry.get("fewer") or settings.fewer or "error",
                )
            )
        return several

    @classmethod
    def probe_part(cls, name: str, settings: Any, root: Path | None) -> Part:
        """Return a dataset or own images that no task trains on."""
        dataset = _dataset({"dataset": name}, settings, root)
        return Part(dataset, dataset.short or dataset.registry_name, settings.template or dataset.template)

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the task; the record says which images are held out or drawn."""
        (task,) = super().tasks_of(part, splits, seed)
        if not isinstance(part, OwnPart):
            return [task]
        if part.steps is not None:
            task = dataclasses.replace(task, train_settings={"steps": part.steps})
        choices = getattr(part.dataset, "choices", Choices())
        if choices.split is not None:
            fact = {"share": choices.split, "seed": choices.split_seed, "images": len(splits.test)}
            self.facts.setdefault("held_out_for_test", {})[part.name] = fact
        if part.shots is None:
            return [task]
        chosen = draw(part.name, splits.classes, splits.train.labels, part.shots, seed, part.fewer)
        self.facts.setdefault("shots", {})[part.name] = chosen
        train, test = few_shot(splits, chosen)
        return [dataclasses.replace(task, train=train, test=test)]


class _Absent(Dataset):
    """A dataset that is not known: it is reported with the others that are missing."""

    def __init__(self, name: str, why: str):
        super().__init__()
        self.registry_name = name
        self.absent: str = why


def _dataset(entry: dict[str, Any], settings: Any, root: Path | None) -> Dataset:
    """Return the dataset of a task: registered, in a file, or own images."""
    chosen = {"split": settings.split, "split_seed": settings.split_seed}
    choices = Choices(**{**chosen, **{key: entry[key] for key in READING if key in entry}})
    name = entry.get("dataset", "")
    if "table" in entry or name.lower().endswith(ENDINGS):
        return Table(entry.get("table", name), choices)
    if "dataset" not in entry:
        return _folder(entry["folder"], choices)
    try:
        dataset = load_dataset(name, root)
    except UserError as error:
        return _unregistered(name, choices, root, str(error))
    if isinstance(dataset, Folder):
        return _folder(name, choices)
    own_keys = [key for key in READING if key in entry]
    if own_keys:
        raise UserError(f'the dataset {name} has its own images and labels: leave out "{own_keys[0]}" in its task')
    return type(dataset)((entry["folder"],)) if "folder" in entry else dataset


def _unregistered(name: str, choices: Choices, root: Path | None, why: str) -> Dataset:
    """Return the own images in a folder without train/, as far as it is clear which of them are for testing."""
    own = _folder(name, choices)
    try:
        where = own.locate(root) if root is not None else None
        if where is None:
            return _Absent(name, why)
        if choices.split is not None or list_of(where) is not None:
            return own
    except (OSError, UserError):
        return own  # whoever reads it says what is wrong
    return _Absent(name, f"{why}; to hold out test images of class folders alone, set stream.split=0.2")


def _folder(name: str, choices: Choices) -> Folder:
    dataset = Folder((name,), choices)
    dataset.registry_name = name
    return dataset

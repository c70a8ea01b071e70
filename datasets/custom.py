"""A stream of your own choice: datasets in the order in which you name them, on the command line or in a file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bench.api import (
    LABEL_SPACES,
    Dataset,
    DatasetStream,
    Part,
    UserError,
    folder_dataset,
    load_dataset,
    register,
    setting,
    suggest,
)

from .reading import text

NOTHING = ("", "~", "null", "Null", "NULL")
"""What YAML writes for no value."""

KEYS = ("dataset", "folder", "name", "template", "epochs")


@register("stream", "custom", title="Datasets of your choice, in your order", paper="")
class Custom(DatasetStream):
    """`datasets=[dtd,plants]` names registered datasets, or folders below ``data=`` with train/ and test/.

    `tasks_file=tasks.yaml` says more: a list of entries, each with ``dataset`` (or ``folder``). An entry may also have
    ``name``, ``template`` with ``{}`` for the class name, and ``epochs``.
    """

    @dataclass
    class Settings:
        """Which datasets, with which prompts, in which label space."""

        datasets: list[str] = setting([], "names of datasets, or of folders below data=, in order")
        tasks_file: str = setting("", "YAML file that lists the tasks, instead of datasets")
        template: str = setting("", "prompt with {} for the class name, instead of each dataset's own")
        label_space: str = setting("task", "classes among which a test image is classified", choices=LABEL_SPACES)

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
        entries = _entries(listed) if listed else [{"dataset": name} for name in settings.datasets]
        found = []
        for entry in entries:
            dataset = _dataset(entry, root)
            template = entry.get("template") or settings.template or dataset.template
            name = entry.get("name") or dataset.short or dataset.registry_name
            found.append(Part(dataset, name, template, entry.get("epochs")))
        return found


class _Absent(Dataset):
    """A dataset that is not known: it is reported with the others that are missing."""

    def __init__(self, name: str, why: str):
        super().__init__()
        self.registry_name = name
        self.absent: str = why


def _dataset(entry: dict[str, Any], root: Path | None) -> Dataset:
    if "dataset" in entry:
        try:
            dataset = load_dataset(entry["dataset"], root)
        except UserError as error:
            return _Absent(entry["dataset"], str(error))
        return type(dataset)((entry["folder"],)) if "folder" in entry else dataset
    return folder_dataset(entry["folder"])


class _TextSafeLoader(yaml.BaseLoader):
    """YAML in which every value is text as it is written: a dataset may be called 010 or on."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, in which each key must stand once."""
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.YAMLError(f"a key is there twice below line {node.start_mark.line + 1}")
        return found


def _entries(name: str) -> list[dict[str, Any]]:
    """Return the entries of a file of tasks, checked."""
    path, there = Path(name), False
    with contextlib.suppress(OSError, RuntimeError):  # no such user, a name that no file has
        path = path.expanduser()
        there = path.is_file()
    if not there:
        raise UserError(f"the file {path} of stream.tasks_file cannot be read (it is not there): give a YAML file")
    written = text(path)
    try:
        content = yaml.load(written, _TextSafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"the file {path} is not YAML ({' '.join(str(error).split())}): correct it") from error
    entries = content.get("tasks") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UserError(f'the file {path} lists no tasks: write lines such as "- dataset: dtd"')
    for number, entry in enumerate(entries, start=1):
        where = f"task {number} in {path}"
        if not isinstance(entry, dict) or not ({"dataset", "folder"} & entry.keys()):
            raise UserError(f'{where} names no dataset: write "- dataset: NAME" or "- folder: NAME"')
        for key in entry:
            if key not in KEYS:
                raise UserError(f'{where} has the unknown key "{key}"{suggest(str(key), KEYS)}')
            if not isinstance(entry[key], str):
                raise UserError(f'{where} has a list or a mapping as "{key}": write text')
        for key in ("name", "template", "epochs"):
            if entry.get(key) in NOTHING:
                entry.pop(key, None)
        if "epochs" in entry:
            entry["epochs"] = _epochs(entry["epochs"], where)
    return entries


def _epochs(written: str, where: str) -> int:
    digits = written.isascii() and written.isdecimal() and len(written) < 10
    if not digits or int(written) < 1:
        raise UserError(f"{where} has epochs: {written}; write a whole number from 1")
    return int(written)

"""A file of tasks: a YAML list with a dataset, a folder or a table of images for each task, and how it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bench.api import UserError, suggest

from .reading import text

NOTHING = ("", "~", "null", "Null", "NULL")
"""What YAML writes for no value."""

WHAT = ("dataset", "folder", "table")
"""Keys that say what a task is made of; one of them is needed."""

FEWER = ("error", "all", "repeat")
"""What happens to a class that has fewer images than shots."""


def read_tasks(name: str) -> list[dict[str, Any]]:
    """Return the entries of a file of tasks.

    Parameters
    ----------
    name : str
        Path of the file; ``~`` is the user's home.

    Returns
    -------
    list of dict
        Values by key: text, and for the keys of `READERS` what they return. Keys without a value are left out.

    Raises
    ------
    UserError
        If the file cannot be read, or a task has unknown keys or values; the sentence names the task.
    """
    path, there = Path(name), False
    with contextlib.suppress(OSError, RuntimeError):  # no such user, a name that no file has
        path = path.expanduser()
        there = path.is_file()
    if not there:
        raise UserError(f"the file {path} of stream.tasks_file cannot be read (it is not there): give a YAML file")
    written = text(path)
    try:
        content = yaml.load(written, TextSafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"the file {path} is not YAML ({' '.join(str(error).split())}): correct it") from error
    entries = content.get("tasks") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UserError(f'the file {path} lists no tasks: write lines such as "- dataset: dtd"')
    return [_entry(entry, f"task {number} in {path}") for number, entry in enumerate(entries, start=1)]


class TextSafeLoader(yaml.BaseLoader):
    """YAML in which every value is text as it is written: a dataset may be called 010 or on."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, in which each key must stand once."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError(f"a key is there twice below line {node.start_mark.line + 1}")
        return mapping


def _entry(written: Any, where: str) -> dict[str, Any]:
    if not isinstance(written, dict) or not (set(WHAT) & written.keys()):
        raise UserError(f'{where} names no dataset: write "- dataset: NAME", "- folder: NAME" or "- table: FILE"')
    entry: dict[str, Any] = {}
    for key, value in written.items():
        if key not in KEYS:
            raise UserError(f'{where} has the unknown key "{key}"{suggest(str(key), KEYS)}')
        if not isinstance(value, str) and key != "templates":
            raise UserError(f'{where} has a list or a mapping as "{key}": write text')
        if key in WHAT or not (isinstance(value, str) and value in NOTHING):
            entry[key] = READERS[key](key, value, where) if key in READERS else value
    for one, other in (("table", "dataset"), ("table", "folder"), ("template", "templates"), ("epochs", "steps")):
        if one in entry and other in entry:
            raise UserError(f"{where} has both {one} and {other}: leave one out")
    return entry


def _count(key: str, written: str, where: str) -> int:
    least = 0 if key == "split_seed" else 1
    digits = written.isascii() and written.isdecimal() and len(written) < 10
    if not digits or int(written) < least:
        raise UserError(f"{where} has {key}: {written}; write a whole number from {least}")
    return int(written)


def _share(key: str, written: str, where: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(written) < 1:
            return float(written)
    raise UserError(f"{where} has {key}: {written}; write a share above 0 and below 1, such as 0.2")


def _fewer(key: str, written: str, where: str) -> str:
    if written not in FEWER:
        raise UserError(f"{where} has {key}: {written}; write one of {', '.join(FEWER)}")
    return written


def _texts(key: str, written: Any, where: str) -> tuple[str, ...]:
    if not isinstance(written, list) or not written or not all(isinstance(one, str) for one in written):
        raise UserError(f"{where} has no list of texts as {key}: write each below it, after a dash")
    return tuple(written)


READERS: dict[str, Callable[[str, Any, str], Any]] = {
    "epochs": _count,
    "steps": _count,
    "shots": _count,
    "split_seed": _count,
    "split": _share,
    "fewer": _fewer,
    "templates": _texts,
}
"""Keys whose values are more than text -> what reads them from (key, what is written, where)."""

READING = ("split", "split_seed", "path_column", "label_column", "split_column", "images", "classes")
"""Keys for folders and tables, which are fields of `Choices`."""

KEYS = (*WHAT, "name", "template", "templates", "epochs", "steps", "shots", "fewer", *READING)

"""One JSON file of a record: an object with typed parts. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from bench.core.untrusted import LARGEST_OBJECT, check_plain, parse_json, read_text

ROUNDING = 1e-6
"""How far a percentage may be out of its range: means are rounded."""

Content = TypeVar("Content", bound="JsonFile")


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to object

    Raises
    ------
    OSError
        If the file cannot be read, is none (a link, a named pipe, a device), or is larger than any record.
    ValueError
        If it is not UTF-8, not JSON, holds no object, or something that no record holds: see
        `bench.core.untrusted.check_plain`.
    """
    content = parse_json(read_text(path, LARGEST_OBJECT))
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    check_plain(content)
    return content


def check_parts(content: Mapping[str, Any], needed: Mapping[str, type], optional: Mapping[str, type]) -> None:
    """Raise `ValueError` for a needed part that is missing, or any part of another type; null counts as missing."""
    for name, kind in {**needed, **optional}.items():
        value = content.get(name)
        if value is None and name in optional:
            continue
        if name not in content:
            raise ValueError(f'no "{name}" in it')
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f'"{name}" is not of type {kind.__name__}')


def check_entries(content: Mapping[str, Any], entries: Mapping[str, type]) -> None:
    """Raise `ValueError` for a list or an object with an entry of another type; null is an entry of every object."""
    for name, kind in entries.items():
        given = content.get(name) or ()
        values = [one for one in given.values() if one is not None] if isinstance(given, dict) else given
        if not all(isinstance(one, kind) and not isinstance(one, bool) for one in values):
            raise ValueError(f'"{name}" has an entry that is not of type {kind.__name__}')


def check_numbers(values: Mapping[str, Any], low: float, high: float) -> None:
    """Raise `ValueError` for a value that is neither null nor a number of a range."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f'"{name}" is not a number')
        if not low - ROUNDING <= value <= high + ROUNDING:
            raise ValueError(f'"{name}" is {value:.4g}, which is not from {low:g} to {high:g}')


@dataclass(frozen=True)
class JsonFile:
    """The content of one JSON file of a record; the fields of a subclass are the keys of the object, in their order."""

    FILE: ClassVar[str]
    NEEDED: ClassVar[Mapping[str, type]]
    OPTIONAL: ClassVar[Mapping[str, type]]
    ENTRIES: ClassVar[Mapping[str, type]] = {}

    @classmethod
    def read(cls: type[Content], directory: Path) -> Content:
        """Read the file from a run directory.

        Parameters
        ----------
        directory : Path

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it is damaged: no JSON, or a part that is missing or not what it should be. Nothing else is raised,
            whatever the file holds.
        """
        return cls.from_json(read_object(directory / cls.FILE))

    @classmethod
    def from_json(cls: type[Content], content: Mapping[str, Any]) -> Content:
        """Return the typed form of the file's object; parts that no field stands for are left out.

        Raises
        ------
        ValueError
            If a part is missing or of the wrong type.
        """
        check_parts(content, cls.NEEDED, cls.OPTIONAL)
        check_entries(content, cls.ENTRIES)
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known and value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return the object that the file holds."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

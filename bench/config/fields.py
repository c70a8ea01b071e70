"""A group of settings: a dataclass whose fields have a help line, a range and a symbol in the paper.

It is one file, because a setting is declared, read from text, checked and shown by the same few facts about it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config import written
from bench.core.blame import blamed, sentences_of
from bench.core.errors import UserError, suggest

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LARGE = 2**63  # what torch, numpy and files of tensors count with ends there
_HUGE = 1e30  # fp32, in which models compute, ends at 3e38, and settings are divided and multiplied
_LIMITS = ("low", "high", "above", "below", "choices", "symbol", "path")


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    symbol: str = "",
    path: bool | str = False,
) -> Any:
    """Declare one setting: a dataclass field with a default, a help line and what values are allowed.

    Given to a field that is itself a group, help and limits hold for each of its members that does not set its own.

    Parameters
    ----------
    default : object
        The default; lists and groups are copied for each instance.
    help : str
        One line: what it does, its unit, and whose default it is.
    low, high : float, optional
        Inclusive bounds; of each item for a list.
    above, below : float, optional
        Exclusive bounds.
    choices : sequence of str, optional
        The only values allowed; of each item for a list.
    symbol : str, optional
        What the paper calls it.
    path : bool or str, optional
        The text names a file or a folder that decides the numbers, such as a folder of reference images. A hash of its
        content becomes a setting of the run, named ``KEY_sha256``, and takes the place of the path in the fingerprint:
        a folder that was moved is the same run, one with other files is another run. Hidden files do not count. A name
        instead of True: of the folder, only the file of that name counts.

    Returns
    -------
    dataclasses.Field
        Typed ``Any`` so that ``rank: int = setting(4, ...)`` type-checks.
    """
    allowed = tuple(choices) if choices is not None else None
    bounds = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"help": help, **bounds, "choices": allowed, "symbol": symbol, "path": path or None}
    if isinstance(default, list) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting as declared: its dotted key, type, default and limits.

    Attributes
    ----------
    key : str
        Dotted, as in ``method.weight_energy.image``.
    type : type
        int, float, str or bool: of the value, or of each item of a list.
    many, optional : bool
        Whether it is a list, and whether it may be null.
    default : object
        A plain value.
    help : str
        One line.
    low, high, above, below : float or None
        Bounds, as for `setting`.
    choices : tuple of str or None
        The only values allowed.
    symbol : str
        What the paper calls it.
    path : bool or str
        Whether it names a file or a folder whose content decides the numbers; as for `setting`.
    """

    key: str
    type: type
    many: bool
    optional: bool
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    symbol: str = ""
    path: bool | str = False

    @property
    def type_name(self) -> str:
        """The type in words: ``int``, ``list of str``, ``float or null``."""
        name = f"list of {self.type.__name__}" if self.many else self.type.__name__
        return f"{name} or null" if self.optional else name

    @property
    def range(self) -> str:
        """The values allowed, such as ``>= 1``, ``> 0, <= 1`` or ``adamw | adam | sgd``; empty if all are."""
        if self.choices is not None:
            return " | ".join(self.choices)
        bounds = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def convert(self, value: Any, raw: str | None = None) -> Any:
        """Return ``value``, or what is written in ``raw``, as this setting's type.

        Parameters
        ----------
        value : object
            A plain value, as a plug-in or a program gives it; it does not count where there is a ``raw``.
        raw : str, optional
            What a user wrote: text is taken as it is written, numbers are decimal.

        Returns
        -------
        object
            An int, float, str or bool, a list of these, or None.

        Raises
        ------
        ValueError
            With the end of a sentence that starts with ``key=value``, such as ``must be a whole number``.
        """
        if raw is not None:
            value = self._read(raw.strip(written.BLANKS))
        if value is None:
            if self.optional:
                return None
            raise ValueError(f"needs a value: {self._wanted()}")
        if not self.many:
            return self._item(value)
        if not isinstance(value, list | tuple):
            example = ",".join(self.choices[:2]) if self.choices else "a,b"
            quotes = " (an item with a bracket, a brace or a comma in quotes)" if self._is_free_text() else ""
            raise ValueError(f"must be a list of {self.type.__name__}, written as {self.key}=[{example}]{quotes}")
        return [self._item(item) for item in value]

    def _read(self, text: str) -> Any:
        """Return what a text says; the text, which `_item` refuses, where it says nothing of this type."""
        # W&B's agents write a sweep's null as Python does.
        if text in written.NULLS or (text == "None" and self.optional):
            return None
        if not self.many:
            return self._read_item(text)
        items = written.items(text)
        return text if items is None else [self._read_item(item) for item in items]

    def _read_item(self, text: str) -> Any:
        readers: dict[type, Callable[[str], Any]] = {
            str: written.unquoted,
            bool: written.SWITCHES.get,
            int: written.whole,
            float: written.number,
        }
        value = readers[self.type](text)
        return text if value is None else value

    def _item(self, value: Any) -> Any:
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
        if not isinstance(value, self.type) or (self.type is int and isinstance(value, bool)):
            raise ValueError(f"must be {self._wanted()}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be a finite number")
        if isinstance(value, str) and not _is_text(value):
            raise ValueError("is no text: it holds a NUL character, or bytes that are not UTF-8")
        if self.choices is not None and value not in self.choices:
            hint = suggest(str(value), self.choices)
            raise ValueError(f"must be one of {', '.join(self.choices)}{hint if 'did you mean' in hint else ''}")
        if isinstance(value, int | float) and not self._inside(value):
            raise ValueError(f"is out of range: it must be {self.range.replace(', ', ' and ')}")
        if isinstance(value, int) and abs(value) >= _LARGE:
            raise ValueError("is out of range: it must be below 2^63")
        if isinstance(value, float) and abs(value) > _HUGE:
            raise ValueError(f"is out of range: it must be at most {_HUGE:g}")
        return value

    def _is_free_text(self) -> bool:
        return self.type is str and self.choices is None

    def _inside(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _wanted(self) -> str:
        if self.choices is not None:
            return f"one of {', '.join(self.choices)}"
        return f"a list of {self.type.__name__}" if self.many else _WORDS[self.type]


def with_defaults(group: type, **defaults: Any) -> Any:
    """Return a group of settings like another, with other defaults: what a preset is.

    Parameters
    ----------
    group : type
        A dataclass of `setting` fields.
    **defaults
        New defaults by field name.

    Returns
    -------
    type
        A dataclass; typed ``Any`` so that a class body can assign it to its ``Settings``.
    """
    hints = _hints(group)
    fields = {field.name: field for field in dataclasses.fields(group)}
    body: dict[str, Any] = {"__annotations__": {}, "__module__": group.__module__, "__doc__": group.__doc__}
    for name, default in defaults.items():
        body["__annotations__"][name] = hints[name]
        body[name] = setting(default, **{**fields[name].metadata})
    return dataclass(type("Settings", (group,), body))


def describe(group: type, prefix: str = "") -> dict[str, Setting]:
    """Return all settings of a group by dotted key, those of nested groups included, in the order of declaration.

    Parameters
    ----------
    group : type
        A dataclass whose every field has a default.
    prefix : str, optional
        What to put before each key, such as ``"method."``.

    Returns
    -------
    dict of str to Setting

    Raises
    ------
    UserError
        If the group is not declared as it must be, or a default is outside its own range.
    """
    who = f"the settings of {group.__qualname__.removesuffix('.Settings')} ({group.__module__})"
    if not dataclasses.is_dataclass(group):
        raise UserError(f"{who} must be a dataclass")
    try:
        return {one.key: one for one in _walk(group, group(), prefix, {})}
    except (TypeError, ValueError, NameError) as error:
        raise UserError(f"{who} are not declared properly: {error}") from error
    except Exception as error:  # of a default factory or __post_init__
        raise UserError(f"{who} cannot be made: {blamed(error)}") from error


def build(group: type, values: dict[str, Any], prefix: str = "") -> Any:
    """Return an instance of a group, nested groups included.

    Parameters
    ----------
    group : type
        A dataclass of `setting` fields.
    values : dict of str to object
        Plain values by dotted key.
    prefix : str, optional
        What is before each key, such as ``"method."``.

    Returns
    -------
    object
        An instance of `group`.
    """
    hints = _hints(group)
    given = {}
    for field in dataclasses.fields(group):
        key = prefix + field.name
        given[field.name] = build(hints[field.name], values, f"{key}.") if _is_group(hints[field.name]) else values[key]
    try:
        return group(**copy.deepcopy(given))
    except Exception as error:  # of a __post_init__
        raise UserError(f"the settings {prefix.rstrip('.')} cannot be made: {blamed(error)}") from error


def complaints(instance: Any) -> list[str]:
    """Return what the ``check()`` of a group and of its nested groups finds wrong across their fields.

    Parameters
    ----------
    instance : object
        An instance of a group.

    Returns
    -------
    list of str
        A sentence each.
    """
    sentences = sentences_of("check()", instance.check) if hasattr(instance, "check") else []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            sentences += complaints(value)
    return sentences


@functools.lru_cache(maxsize=256)
def _hints(group: type) -> dict[str, Any]:
    """Return the types of a group's fields; kept, since a sweep asks for them at every point."""
    return typing.get_type_hints(group)


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _walk(group: Any, defaults: Any, prefix: str, outer: dict[str, Any]) -> typing.Iterator[Setting]:
    hints = _hints(group)
    for field in dataclasses.fields(group):
        key, hint, default = prefix + field.name, hints[field.name], getattr(defaults, field.name)
        own = {name: value for name, value in field.metadata.items() if name in _LIMITS and value not in (None, "")}
        helps = [text for text in (outer.get("help", ""), field.metadata.get("help", "")) if text]
        known = {**outer, **own, "help": "; ".join(helps)}
        if _is_group(hint):
            yield from _walk(hint, default, f"{key}.", known)
            continue
        type_, many, optional = _shape(hint, key)
        if known.get("path") and (type_ is not str or many):
            raise TypeError(f"{key} is a path and declared as {hint}; use str, or str | None")
        declared = Setting(key, type_, many, optional, default, **known)
        try:
            yield dataclasses.replace(declared, default=declared.convert(default))
        except ValueError as error:
            raise ValueError(f"the default {key}={show(default)} {error}") from None


def _shape(hint: Any, key: str) -> tuple[type, bool, bool]:
    arms = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in arms
    arms = tuple(arm for arm in arms if arm is not type(None))
    many = len(arms) == 1 and typing.get_origin(arms[0]) is list
    inner = typing.get_args(arms[0])[0] if many else arms[0]
    if len(arms) != 1 or inner not in _WORDS:
        raise TypeError(f"{key} is declared as {hint}; use int, float, str, bool, list of these, or a dataclass")
    return inner, many, optional


def _is_text(value: str) -> bool:
    """Return whether a text can be written into a file; bytes of a command line that are not UTF-8 cannot."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def show(value: Any) -> str:
    """Return a plain value as a user would write it after ``key=``.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(show(item) for item in value)}]"
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)

"""Values as users write them after ``KEY=``: text, numbers, switches, lists and mappings.

A setting knows its type, so its word is read as that type: text as it is written, numbers in decimal. YAML, which is
made for values whose type nobody knows, would take ``010`` for 8, ``on`` for true and ``run #1`` for ``run``. It reads
what is left: quotes, mappings, and values that belong to other programs.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import yaml

DEEPEST = 50
"""Levels of lists and mappings inside each other that are read."""

TOO_DEEP = f"it is nested more than {DEEPEST} levels deep"

BLANKS = " \t\r\n"
"""What may stand around a value without being part of it."""

NULLS = ("", "~", "null", "Null", "NULL")
"""Words for no value."""

SWITCHES = {
    word: meaning
    for meaning, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for lower in words
    for word in (lower, lower.capitalize(), lower.upper())
}
"""Words for true and false."""

TAGS = {kind: f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "timestamp")}
"""YAML's names for kinds of values that have no quotes."""

_WHOLE = re.compile(r"([-+]?)([0-9][0-9_]*)")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.?(?:inf|infinity|nan)", re.IGNORECASE)
_LONGEST = 10_000  # characters that YAML is asked about; it takes minutes for a million
_DIGITS = 40  # of a whole number; what has more is out of every range, and Python does not read 5000
_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\""""
_ITEM = re.compile(rf"""[{BLANKS}]*((?:{_QUOTED})[{BLANKS}]*|[^,'"\[\]{{}}{BLANKS}][^,\[\]{{}}]*)(?:,|\Z)""", re.DOTALL)


def whole(text: str) -> int | None:
    """Return a whole number in decimal digits, in which leading zeros mean nothing; None for any other text."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        return None
    digits = found[2].replace("_", "").lstrip("0") or "0"
    number = int(digits) if len(digits) <= _DIGITS else 10**_DIGITS
    return -number if found[1] == "-" else number


def number(text: str) -> float | None:
    """Return a decimal number, with or without a point and a power of ten; None for any other text."""
    if _ENDLESS.fullmatch(text):
        return math.nan if "nan" in text.lower() else math.inf
    return float(text.replace("_", "")) if _NUMBER.fullmatch(text) else None


def unquoted(text: str) -> str:
    """Return text as it is written, without the quotes of YAML if they stand around all of it."""
    if not re.fullmatch(_QUOTED, text, re.DOTALL):
        return text
    try:
        return str(yaml.load(text, WordSafeLoader))
    except yaml.YAMLError:  # an escape that YAML does not know
        return text


def items(text: str) -> list[str] | None:
    """Return the items of ``[a,b]`` as they are written, each with its quotes.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str or None
        None if this is no list: no brackets around it, nothing between two commas, or an item without quotes that
        holds a bracket, a brace or a quote at its start.
    """
    text = text.strip(BLANKS)
    if len(text) < 2 or (text[0], text[-1]) != ("[", "]"):
        return None
    inner, at, parts = text[1:-1].strip(BLANKS), 0, []
    while at < len(inner):
        item = _ITEM.match(inner, at)
        if item is None:
            return None
        parts.append(item[1].rstrip(BLANKS))
        at = item.end()
    return parts


def means(text: str, value: Any) -> bool:
    """Return whether a text, read as the type of a value, is that value: 1e-3 and 0.001 are the same number.

    Parameters
    ----------
    text : str
        As a user writes it after ``KEY=``.
    value : object
        A plain value of a setting.

    Returns
    -------
    bool
    """
    text = text.strip(BLANKS)
    if value is None:
        return text in NULLS or text == "None"
    if isinstance(value, bool):
        return SWITCHES.get(text) is value
    if isinstance(value, int | float):
        return value in (whole(text), number(text))
    if isinstance(value, list | tuple):
        found = items(text)
        return found is not None and len(found) == len(value) and all(map(means, found, value))
    return str(value) in (text, unquoted(text))


def members(text: str) -> dict[str, str] | None:
    """Return the members of ``{a: 1, b: 2}``, each value as it is written; None if this is no mapping.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict of str to str or None
    """
    try:
        node = yaml.compose(text, WordSafeLoader) if _is_small(text) else None
    except yaml.YAMLError:
        return None
    if not isinstance(node, yaml.MappingNode) or not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        return None
    return {key.value: text[value.start_mark.index : value.end_mark.index] for key, value in node.value}


@functools.lru_cache(maxsize=1024)
def guess(text: str) -> Any:
    """Return what YAML takes a text for; kept, since the points of a sweep have most words in common.

    Parameters
    ----------
    text : str

    Returns
    -------
    object
        A plain value; the text itself where it is no YAML. Not to be changed.
    """
    try:
        return yaml.load(text, WordSafeLoader) if _is_small(text) else text
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
        return text  # also what an explicit tag makes of a value that does not fit it


def untyped(text: str) -> Any:
    """Return the value of a setting that belongs to another program, whose type is not known here.

    Parameters
    ----------
    text : str
        Such as ``8``, ``true``, ``[a,b]`` or ``007``.

    Returns
    -------
    object
        What YAML takes it for, but text as it is written where a number would be written otherwise: ``007``, ``1:30``.
    """
    value = guess(text)
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value if str(value) == text else unquoted(text)
    return value


def _is_small(text: str) -> bool:
    return len(text) <= _LONGEST


class ShallowSafeLoader(yaml.SafeLoader):
    """YAML with an end of depth: its readers call themselves at every level, and look ahead over all that are open."""

    _depth = 0

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Read an opening bracket or brace."""
        if self.flow_level >= DEEPEST:
            raise yaml.YAMLError(TOO_DEEP)
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, and those inside it."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(TOO_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class WordSafeLoader(ShallowSafeLoader):
    """YAML without dates and without aliases, with which few characters mean billions; ``1e3`` is a number in it."""

    yaml_implicit_resolvers: dict[Any, Any] = {
        first: [(tag, pattern) for tag, pattern in known if tag != TAGS["timestamp"]]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, which must not be an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read here")
        return super().compose_node(parent, index)


WordSafeLoader.add_implicit_resolver(
    TAGS["float"],
    re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+\Z|[-+]?[0-9][0-9_]*\.[0-9_]*[eE][0-9]+\Z"),
    list("-+0123456789"),
)

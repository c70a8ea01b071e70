"""Read the YAML of a sweep file that anybody may have written, twice: as W&B's agents read it, and as it is written.

YAML takes ``on`` for true and ``1.10`` for 1.1, and so does W&B, before an agent hands a value on as a word. On a
command line the same words are text. `bench.sweep.file` compares both readings of a value.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.config.written import TAGS, ShallowSafeLoader
from bench.core.errors import UserError, shorten, together

LARGEST = 1_000_000
"""Characters of a sweep file, and of what it says with its aliases written out."""

DIGITS = 40
"""Digits of a whole number at most; those of every setting end before."""

KINDS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "seq", "map", "merge", "value")} | set(TAGS.values())
"""What W&B passes on to a run."""

TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge")}
"""What keys are; ``<<`` takes the keys of another mapping over."""

_DECIMAL = {
    TAGS["int"]: re.compile(rf"[-+]?(0|[1-9][0-9_]{{,{DIGITS - 1}}})"),
    TAGS["float"]: re.compile(r"[^:]+"),
}
"""What numbers look like that mean the same everywhere: ``010`` is 8 in YAML, and ``1:30`` is 90."""


class Content(NamedTuple):
    """What a file says.

    Attributes
    ----------
    values : object
        Plain values, as W&B's agents read them.
    written : object
        The same, with the text for every number, switch and date; its representation is that text too.
    """

    values: Any
    written: Any


class Written(str):
    """A value without quotes, as it is written: also inside the representation of a list or of a mapping."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def read(file: Path) -> Content:
    """Read a file of YAML.

    Parameters
    ----------
    file : Path

    Returns
    -------
    Content

    Raises
    ------
    UserError
        With one sentence for every problem, joined by newlines.
    """
    problems: list[str] = []
    try:
        loader = _Values(_text(file))
        node = loader.get_single_node()
        if node is None:
            return Content(None, None)
        problems += [f"{file}, line {line}: {text}" for line, text in _Walk().problems(node)]
        if not problems:
            return Content(loader.construct_document(node), _AsWritten("").construct_document(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problems.append(f"{file}{where} is no YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}")
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # what an explicit tag does to its value
        problems.append(f"{file} is no YAML: a tag does not fit its value ({error})")
    raise together(problems)


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > 4 * LARGEST:
            raise UserError(f"{file} is no sweep file: it has more than {LARGEST:,} characters")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read as UTF-8 ({error.reason}): save it with that encoding") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(text) > LARGEST:
        raise UserError(f"{file} is no sweep file: it has more than {LARGEST:,} characters")
    return text


class _Values(ShallowSafeLoader):
    """YAML as W&B reads it, but dates are text, which its server would not take."""


class _AsWritten(_Values):
    """YAML with numbers and switches as they are written."""


def _as_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(node.value)


def _as_written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return Written(node.value)


_Values.add_constructor(TAGS["timestamp"], _as_text)
for _tag in TAGS.values():
    _AsWritten.add_constructor(_tag, _as_written)


class _Walk:
    """One walk over the nodes of a file."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()
        self._found: list[tuple[int, str]] = []

    def problems(self, root: yaml.Node) -> list[tuple[int, str]]:
        """Return what is wrong below a node, with the number of the line."""
        if self._size(root) > LARGEST:
            self._found.append((1, f"its aliases stand for more than {LARGEST:,} characters: write values out"))
        return sorted(self._found)

    def _size(self, node: yaml.Node) -> int:
        """Return how many characters a node stands for; every node is looked at once."""
        if id(node) in self._open:
            self._add(node, "a value contains itself, through an alias: write it out")
            return 0
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        self._open.add(id(node))
        if node.tag not in KINDS:
            self._add(node, f"{shorten(node.tag)} is no kind of value that a run takes: write text, a number or a list")
        size = 1
        if isinstance(node, yaml.ScalarNode):
            size += len(node.value)
            self._check_number(node)
        elif isinstance(node, yaml.SequenceNode):
            size += sum(self._size(one) for one in node.value)
        elif isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            size += sum(self._size(key) + self._size(value) for key, value in node.value)
        self._open.remove(id(node))
        self._sizes[id(node)] = size
        return size

    def _check_number(self, node: yaml.ScalarNode) -> None:
        pattern = _DECIMAL.get(node.tag)
        if pattern is not None and not pattern.fullmatch(node.value):
            shown = shorten(node.value)
            self._add(node, f'{shown} is another number in YAML, or none: write decimal digits, or "{shown}" for text')

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if key.tag not in TEXT:
                self._add(key, "a key is no text: write it in quotes")
            elif key.value in seen:
                self._add(key, f'"{shorten(key.value)}" is there twice: keep one')
            else:
                seen.add(key.value)

    def _add(self, node: yaml.Node, text: str) -> None:
        self._found.append((node.start_mark.line + 1, text))

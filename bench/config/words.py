"""The words of a command line: KEY=VALUE pairs and plain words, separated in one way for every verb."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bench.core.paths import exists


class Pair(NamedTuple):
    """One KEY=VALUE word.

    Attributes
    ----------
    key : str
        What stands before the first equals sign, without leading ``--`` and without blanks around it. It may be empty.
    value : str
        What stands after it, unchanged.
    word : str
        The whole word as the user wrote it.
    """

    key: str
    value: str
    word: str


def pair(word: str) -> Pair | None:
    """Return the pair that a word is, or None for a plain word.

    Parameters
    ----------
    word : str
        ``KEY=VALUE`` or ``--KEY=VALUE``; anything without an equals sign is a plain word.

    Returns
    -------
    Pair or None
    """
    key, equals, value = word.removeprefix("--").partition("=")
    return Pair(key.strip(), value, word) if equals else None


def split(words: Iterable[str], *, paths: bool = False) -> tuple[list[Pair], list[str]]:
    """Separate KEY=VALUE words from plain words; both keep their order.

    Parameters
    ----------
    words : iterable of str
        The words after a verb.
    paths : bool, optional
        Whether a word that is an existing path is a plain word, even when its name holds an equals sign.

    Returns
    -------
    pairs : list of Pair
    plain : list of str
    """
    pairs: list[Pair] = []
    plain: list[str] = []
    for word in words:
        one = None if paths and exists(Path(word)) else pair(word)
        if one is None:
            plain.append(word)
        else:
            pairs.append(one)
    return pairs, plain

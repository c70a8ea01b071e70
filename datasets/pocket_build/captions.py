"""Word tables that turn file names and folder names into captions of the pocket corpus.

A caption is a template filled with a phrase. Every phrase has a key; two phrases with the same key mean the same
thing (``house`` and ``home``). An image has a phrase for its name and phrases for its categories, e.g. ``eagle``,
``bird`` and ``animal``. In pre-training, captions of one batch with the same key are not each other's wrong answers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

_TABLES = json.loads((Path(__file__).resolve().parent / "words.json").read_text(encoding="utf-8"))

TEMPLATES: dict[str, list[str]] = _TABLES["templates"]
SYNONYMS: list[str] = _TABLES["synonyms"]
HYPERNYMS: dict[str, str] = {heads: " ".join(members) for heads, members in _TABLES["hypernyms"].items()}
EMOJI_CATEGORIES: dict[str, str] = _TABLES["emoji_categories"]
FOLDER_CATEGORIES: dict[str, str] = _TABLES["folder_categories"]
ABSENT: list[str] = _TABLES["absent"]
COUNTRY_ADJECTIVES: dict[str, str] = _TABLES["country_adjectives"]
DIGITS: list[str] = _TABLES["digits"]
AUTHORS: frozenset[str] = frozenset(_TABLES["authors"])
STYLE_WORDS: frozenset[str] = frozenset(_TABLES["style_words"])

_SYNONYM_OF = {word: row.split("|")[0] for row in SYNONYMS for word in row.split("|")}
SYNONYM_KEYS = frozenset(row.split("|")[0] for row in SYNONYMS)
_SYNONYM_ROWS = {row.split("|")[0]: row.split("|") for row in SYNONYMS}
_HYPERNYM_OF: dict[str, list[str]] = {}
for _heads, _words in HYPERNYMS.items():
    for _word in _words.split():
        _HYPERNYM_OF.setdefault(_word, []).extend(_heads.split("|"))

# Categories of icon sets count when they name things (food, animal, ...), not when they name uses (actions, editor,
# ...).
CATEGORY_KEYS = SYNONYM_KEYS | {_SYNONYM_OF.get(head, head) for row in HYPERNYMS for head in row.split("|")}


def clean(name: str, limit: int = 5, style: bool = False) -> str:
    """Turn a file or icon name into a phrase.

    Parameters
    ----------
    name : str
        File or icon name without extension.
    limit : int, default=5
        Number of words that are kept.
    style : bool, default=False
        Whether words about the drawing style are dropped.

    Returns
    -------
    str
        Lower-case words, maybe empty.
    """
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    words = [word for word in words if word not in AUTHORS] or words
    if style:
        words = [word for word in words if word not in STYLE_WORDS] or words
    return " ".join(words[:limit])


def canonical(phrase: str) -> str:
    """Return the key of a phrase: its row's first word in ``SYNONYMS``, or itself."""
    return _SYNONYM_OF.get(phrase, phrase)


def wordings(phrase: str) -> list[str]:
    """Return up to three wordings of a phrase, itself first and the key second."""
    key = canonical(phrase)
    return list(dict.fromkeys([phrase, key, *_SYNONYM_ROWS.get(key, [])]))[:4]


def hypernyms(phrase: str) -> list[str]:
    """Return the categories that the words of a phrase belong to."""
    found = [head for word in phrase.split() for head in _HYPERNYM_OF.get(word, [])]
    if not found:
        found = [head for word in phrase.split() for head in _HYPERNYM_OF.get(word.removesuffix("s"), [])]
    return list(dict.fromkeys(found))

"""The verb ``recipe``: list, tell, start, status, compare."""

from __future__ import annotations

from collections.abc import Sequence

from bench.config.words import split
from bench.core.errors import UserError
from bench.recipes.recipe import find, listing, recipes
from bench.sweep.verbs import sweep


def recipe(words: Sequence[str]) -> int:
    """Do what ``python -m bench recipe`` is asked for.

    Parameters
    ----------
    words : sequence of str
        The words after ``recipe``.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    UserError
        For what a user can correct.
    """
    pairs, plain = split(words)
    if not plain:
        raise UserError("recipe takes a name, or list: python -m bench recipe list")
    if plain == ["list"] and not pairs:
        print(listing(recipes()))
        return 0
    chosen = find(plain[0])
    if plain[1:] not in ([], ["status"]):
        raise UserError("recipe takes one name, and perhaps status")
    return sweep([str(chosen.file), *plain[1:], *(pair.word for pair in pairs)])

"""The verb ``recipe``: list, tell, start, status, compare."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.config.fields import setting
from bench.config.resolve import resolve
from bench.config.words import split
from bench.core.errors import UserError
from bench.recipes.answers import answers
from bench.recipes.overview import check_data, overview
from bench.recipes.recipe import find, listing, recipes
from bench.sweep.options import Options, options
from bench.sweep.verbs import sweep


@dataclass(frozen=True)
class RecipeOptions(Options):
    """The words of ``recipe`` that are no settings of a run."""

    measure: bool = setting(True, "measure this machine, for about a minute, to say how long the runs take")


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
    if plain[0] == "list":
        if plain[1:] or pairs:
            raise UserError("recipe list takes no other words")
        print(listing(recipes()))
        return 0
    chosen = find(plain[0])
    if plain[1:] not in ([], ["status"], ["compare"]):
        raise UserError("recipe takes one name, and perhaps status or compare")
    given = [one.word for one in pairs if one.key != "measure"]
    asked, settings = options([one.word for one in pairs], RecipeOptions, "recipe")
    if plain[1:] == ["compare"]:  # the line that ran it may be given again as it was
        print(answers(chosen, settings, bold=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
        return 0
    keys = {one.key.partition(".")[0] for one in pairs}
    looks = bool(plain[1:]) or any(one is not None for one in (asked.best, asked.preempt, asked.sort))
    if not looks and (asked.dry_run or keys.isdisjoint(("data", "launch"))):
        for block in overview(chosen, settings, asked.count, asked.measure):
            print(block, end="\n\n", flush=True)
        return 0
    if not looks:
        runs = [resolve(point.words) for point in chosen.points(settings, asked.count).points]
        check_data(chosen, runs, runs[0].run.data)
    return sweep([str(chosen.file), *plain[1:], *given])

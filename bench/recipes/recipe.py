"""Which recipes there are: a sweep file each in ``sweeps/recipes/``, and what must come out in ``expected.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, shorten, suggest
from bench.core.tables import table
from bench.sweep import yaml_file
from bench.sweep.file import Sweep, expand, shipped_folder

EXPECTED = "expected.yaml"
"""The file beside the sweep files that says what must come out of each."""

KEYS = ("title", "expected", "zero_shot", "tolerance", "why")
"""What that file may say of a recipe; the first two it must."""


@dataclass(frozen=True)
class Recipe:
    """A published table as a sweep file.

    Attributes
    ----------
    name : str
        Name of the sweep file, without ``.yaml``.
    file : Path
        The sweep file.
    title : str
        One line for listings.
    expected : mapping of str to tuple of str
        Method of the sweep -> names of rows in the file of the stream in ``datasets/published/`` that must come out.
    zero_shot : str
        Name of a file there with accuracies of untrained models and how far each may be off; empty for none.
    tolerance : float or None
        Points by which a number may differ, in place of the limit by chance; None for that limit.
    why : str
        Why there is a tolerance, one sentence; empty where there is none.
    """

    name: str
    file: Path
    title: str
    expected: Mapping[str, tuple[str, ...]]
    zero_shot: str = ""
    tolerance: float | None = None
    why: str = ""

    def points(self, words: Sequence[str] = (), count: int | None = None) -> Sweep:
        """Return the runs of the recipe; nothing is started.

        Parameters
        ----------
        words : sequence of str, optional
            KEY=VALUE words added to every run, as for `bench.sweep.file.expand`.
        count : int, optional
            The first so many.

        Returns
        -------
        Sweep
        """
        return expand(self.file, words, count)


def folder() -> Path:
    """Return the folder of the recipes that come with this package."""
    return shipped_folder() / "recipes"


def recipes(where: Path | None = None) -> dict[str, Recipe]:
    """Return all recipes by name, sorted.

    Parameters
    ----------
    where : Path, optional
        Their folder; that of this package by default.

    Returns
    -------
    dict of str to Recipe

    Raises
    ------
    UserError
        If the file of what is expected cannot be read, or it and the sweep files are not about the same recipes.
    """
    where = folder() if where is None else where
    file = where / EXPECTED
    content = yaml_file.read(file).values
    if not isinstance(content, dict):
        raise UserError(f"{file} names no recipe: it needs an entry for every sweep file beside it")
    files = {path.stem: path for path in sorted(where.glob("*.yaml")) if path != file}
    for name in content.keys() ^ files.keys():
        there, missing = (file, f"{name}.yaml") if name in content else (f"{name}.yaml", f"an entry in {file}")
        raise UserError(f"the recipe {shorten(str(name))} is in {there} and has not {missing}: add it")
    return {name: _recipe(path, content[name], file) for name, path in files.items()}


def _recipe(path: Path, entry: Any, file: Path) -> Recipe:
    """Return the recipe of an entry."""
    where = f"{file}: {path.stem}"
    if not isinstance(entry, dict) or not {"title", "expected"} <= set(entry):
        raise UserError(f"{where} needs title and expected")
    for key in entry:
        if key not in KEYS:
            raise UserError(f'{where} has the unknown key "{shorten(key)}"{suggest(key, KEYS)}')
    rows = entry["expected"]
    if not isinstance(rows, dict) or not all(
        isinstance(names, list) and names and all(isinstance(name, str) for name in names) for names in rows.values()
    ):
        raise UserError(f"{where}: expected maps a method to the names of published rows, as in lora: [LoRA]")
    for key in ("title", "zero_shot", "why"):
        if not isinstance(entry.get(key, ""), str):
            raise UserError(f"{where}: {key} is text")
    tolerance, why = entry.get("tolerance"), entry.get("why", "")
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and 0 < tolerance < math.inf):
        raise UserError(f"{where}: tolerance is a number of points above 0, as in 1.0")
    if (tolerance is not None) != bool(why):
        raise UserError(f"{where}: tolerance and why belong together: write both or none")
    expected = {method: tuple(names) for method, names in rows.items()}
    return Recipe(path.stem, path, entry["title"], expected, entry.get("zero_shot", ""), tolerance, why)


def find(name: str) -> Recipe:
    """Return a recipe.

    Parameters
    ----------
    name : str

    Returns
    -------
    Recipe

    Raises
    ------
    UserError
        If there is none of that name.
    """
    known = recipes()
    if name not in known:
        said = suggest(Path(name).stem, known)  # of a path to a sweep file too
        raise UserError(f'there is no recipe "{shorten(name)}"{said}: python -m bench recipe list has all')
    return known[name]


def listing(known: Mapping[str, Recipe]) -> str:
    """Return the table of ``recipe list``.

    Parameters
    ----------
    known : mapping of str to Recipe

    Returns
    -------
    str
    """
    rows = [(one.name, str(len(one.points().points)), one.title) for one in known.values()]
    return table(("recipe", "runs", "what"), rows)

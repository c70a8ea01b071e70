"""Choose runs by their settings and by the flags of their methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.compare.runs import Run
from bench.config.written import SWITCHES, items, means
from bench.core.errors import UserError, shorten, suggest
from bench.record.flags import WORDS

FLAG = "flags."
"""What the name of a flag begins with where it filters."""


def chosen(runs: list[Run], filters: Mapping[str, str]) -> list[Run]:
    """Return the runs with some settings or flags, and those whose settings cannot be read.

    Parameters
    ----------
    runs : list of Run
    filters : mapping of str to str
        Dotted setting -> its value as on the command line, or ``[a,b]`` for one of several. ``flags.NAME`` is yes or
        no; runs of methods whose flags are not known have neither.

    Raises
    ------
    UserError
        If no run has such a setting, or none has these values.
    """
    known = sorted({key for run in runs for key in run.settings})
    flags = [FLAG + name for name in WORDS]
    for name, typed in filters.items():
        if name not in (*known, *flags) and f"{name}.name" not in known:
            near = suggest(name, flags if name.startswith(FLAG) else known)
            raise UserError(f'no run here has a setting "{shorten(name)}"{near}')
        wanted = [typed, *(items(typed) or [])]  # a setting may itself be a list
        if name.startswith(FLAG) and not any(one in SWITCHES for one in wanted):
            raise UserError(f"{name}={shorten(typed)} must be yes or no: compare shows with flags=on what it is")
        runs = [run for run in runs if not run.settings or any(_has(run, name, one) for one in wanted)]
    if filters and not any(run.settings for run in runs):
        said = " ".join(f"{name}={shorten(typed)}" for name, typed in filters.items())
        raise UserError(f"no run here has {said}; leave a filter out to see what there is")
    return runs


def _has(run: Run, name: str, typed: str) -> bool:
    """Return whether a run has a value of a filter (``method`` means ``method.name``)."""
    values: dict[str, Any] = run.settings
    if name.startswith(FLAG):
        values = {} if run.flags is None else {name: name.removeprefix(FLAG) in run.flags}
    return any(means(typed, values[key]) for key in (name, f"{name}.name") if key in values)

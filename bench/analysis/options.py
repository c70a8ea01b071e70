"""The words of ``analyse``: which maps, energies and towers, and the settings of what is analysed. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.runs import Run
from bench.config.fields import build, complaints, describe, setting
from bench.config.resolve import given_values, resolve
from bench.config.run_settings import Resolved, run_settings
from bench.config.words import pair
from bench.core.errors import UserError, shorten, suggest, together
from bench.model.linear_maps import KINDS, TOWERS
from bench.reuse.recorded import finished_run, settings_again

BOTH = "both"
"""What the two towers together are called."""

GROUPS = ("stream.", "model.", "evaluate.", "cache.")
"""Groups of settings that decide an analysis, or where it is made."""

SINGLE = ("data", "device", "threads", "deterministic", "precision", "seed", "seeds.task_order")
"""Settings that decide an analysis, or where it is made."""


@dataclass(frozen=True)
class Options:
    """The words of ``analyse`` that are no settings of a run."""

    energies: list[float] = setting(
        [0.0, 0.5, 0.7, 0.85, 0.95, 0.99, 1.0],
        "shares of the energy of each weight that its principal part holds",
        low=0,
        high=1,
    )
    maps: list[str] = setting(["q", "k", "v", "o"], "kinds of linear maps: q, k, v, o, fc1, fc2", choices=KINDS)
    towers: list[str] = setting(list(TOWERS), "towers, one at a time and, if there are two, both", choices=TOWERS)
    feature_energy: float = setting(
        0.99, "share of the energy of a task's features that its subspace holds", above=0, high=1
    )
    out: str = setting("analyses", "folder for analyses")

    def check(self) -> list[str]:
        """Return what is missing, a sentence each."""
        empty = [key for key in ("energies", "maps", "towers") if not getattr(self, key)]
        return [f"{key}=[] leaves nothing to analyse: name at least one" for key in empty]

    def ordered(self) -> Options:
        """Return the same with every item once: energies rise, maps and towers come in the order of a model."""
        kinds = [one for one in KINDS if one in self.maps]
        towers = [one for one in TOWERS if one in self.towers]
        return Options(sorted(set(self.energies)), kinds, towers, self.feature_energy, self.out)

    @property
    def places(self) -> list[str]:
        """Where weights are replaced: each tower, and `BOTH` where there are two."""
        return [*self.towers, *([BOTH] if len(self.towers) > 1 else [])]


@dataclass(frozen=True)
class Subject:
    """What is analysed.

    Attributes
    ----------
    options : Options
    resolved : Resolved
        Model, stream and how it is measured.
    run : Run or None
        The finished run whose weights are analysed; None for the model as it is.
    """

    options: Options
    resolved: Resolved
    run: Run | None


def subject(run: str | Path | None, settings: Mapping[str, Any] | Sequence[str]) -> Subject:
    """Return what is to be analysed, from the settings that a user gave.

    Parameters
    ----------
    run : str, Path or None
        A run directory, or None for the model of the settings.
    settings : mapping of str to object, or sequence of str
        Those of `Options`, and those of a run that decide model, stream and evaluation.

    Returns
    -------
    Subject

    Raises
    ------
    UserError
        With one sentence for every problem, joined by newlines.
    """
    problems: list[str] = []
    known, of_a_run = describe(Options), run_settings()
    values = {key: one.default for key, one in known.items()}
    for key, (value, raw) in given_values(settings, problems).items():
        if key in known:
            try:
                values[key] = known[key].convert(value, raw)
            except ValueError as error:
                problems.append(f"{key}={shorten(str(value) if raw is None else raw)} {error}")
        elif "." not in key and key not in of_a_run:
            problems.append(f'unknown word "{shorten(key)}" of analyse{suggest(key, [*known, *of_a_run])}')
    options: Options = build(Options, values)
    problems += complaints(options)
    if problems:
        raise together(problems)
    rest = _without(settings, set(known))
    if run is not None:
        record = finished_run(run)
        return Subject(options.ordered(), settings_again(record, rest), record)
    resolved = resolve(rest, need_method=False)
    for key in given_values(rest, []):
        if not key.startswith(GROUPS) and key not in SINGLE:
            raise UserError(
                f"{key.removesuffix('.name')} decides nothing about a model that is not trained: leave it out, or "
                "give a finished run, python -m bench analyse RUN"
            )
    return Subject(options.ordered(), resolved, None)


def _without(settings: Mapping[str, Any] | Sequence[str], keys: set[str]) -> Mapping[str, Any] | Sequence[str]:
    """Return settings without some keys, in the form in which they were given."""
    if isinstance(settings, Mapping):
        return {key: value for key, value in settings.items() if key not in keys}
    return [word for word in settings if (one := pair(word)) is None or one.key not in keys]

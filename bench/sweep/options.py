"""The words of ``sweep`` and ``tune`` that are no settings of a run: where points run, how many, what is only shown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.fields import build, complaints, describe, setting
from bench.config.resolve import read
from bench.config.run_settings import run_settings
from bench.config.words import pair
from bench.config.written import untyped
from bench.core.errors import nearest, shorten, suggest, together
from bench.metrics import kinds
from bench.sweep.slurm import START_UP

SIGNAL_DELAY = 90
"""Seconds before the end of a job's time at which submitit has SLURM send its signal, by default."""

OTHERS = "launch.slurm."
"""How words for submitit begin that are not among the settings here."""


@dataclass(frozen=True)
class Launch:
    """Where points run."""

    name: str = setting("inline", "one after another here, or several at a time", choices=("inline", "local", "slurm"))
    processes: int | None = setting(None, "points at a time; local only; null is half the cores", low=1)
    wait: bool = setting(True, "follow the jobs until they end; slurm only")
    partition: str | None = setting(None, "SLURM partition; null is the cluster's default")
    timeout_min: int = setting(240, "minutes a job may take before it is requeued and continues; slurm only", low=1)
    gpus_per_node: int | None = setting(None, "GPUs on each node of a job; slurm only", low=0)
    cpus_per_task: int | None = setting(None, "CPUs of each process of a job; slurm only", low=1)
    mem_gb: float | None = setting(None, "memory of a job in GB; slurm only", above=0)
    array_parallelism: int | None = setting(None, "jobs at a time at most; slurm only", low=1)
    setup: list[str] = setting([], "lines of shell before a job, such as module load; slurm only")
    constraint: str | None = setting(None, "what nodes must have, such as a100; slurm only")
    nodes: int | None = setting(None, "nodes that share one run; slurm only", low=1)
    tasks_per_node: int | None = setting(None, "processes on each node that share one run; slurm only", low=1)
    slurm: list[str] = setting([], "launch.slurm.KEY=VALUE: whatever else submitit takes, such as account or qos")

    def check(self) -> list[str]:
        """Return what does not go together, a sentence each."""
        problems: list[str] = []
        read(self.slurm, problems)
        if problems:
            return [f"launch.slurm: {text}" for text in problems]
        if self.processes is not None and self.name != "local":
            return [f"launch.processes={self.processes} needs launch=local"]
        only = {key: one.default for key, one in describe(Launch).items() if key not in ("name", "processes")}
        given = [key for key, default in only.items() if getattr(self, key) != default]
        if given and self.name != "slurm":
            return [f"launch.{given[0]} needs launch=slurm"]
        delay = self.others().get("signal_delay_s", SIGNAL_DELAY)
        needed = (delay if isinstance(delay, int) else SIGNAL_DELAY) + START_UP
        if self.name == "slurm" and 60 * self.timeout_min <= needed:
            return [
                f"launch.timeout_min={self.timeout_min} leaves no time between the start of a job and the signal "
                f"before its end: it must be above {needed / 60:.1f}, or lower launch.slurm.signal_delay_s"
            ]
        return []

    def others(self) -> dict[str, Any]:
        """Return the values of ``launch.slurm.KEY`` by KEY: numbers, switches and lists where they look like some."""
        return {key: untyped(text) for key, (_, text) in read(self.slurm, []).items()}

    def parameters(self) -> dict[str, Any]:
        """Return what submitit takes, by its names; None where its default counts."""
        common = ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb", "nodes", "tasks_per_node")
        own = ("partition", "array_parallelism", "constraint")
        return {
            **{key: getattr(self, key) for key in common},
            **{f"slurm_{key}": getattr(self, key) for key in own},
            "slurm_setup": self.setup or None,
            **{f"slurm_{key}": value for key, value in self.others().items()},
        }


@dataclass(frozen=True)
class Common:
    """What ``sweep`` and ``tune`` have in common."""

    launch: Launch = field(default_factory=Launch)
    dry_run: bool = setting(False, "show the points and start nothing")
    preempt: int | None = setting(
        None, "number of a running point that is stopped as by a preemption, and continues", low=1
    )
    sort: str | None = setting(None, "sort the table of status by this metric, the best first")

    def check(self) -> list[str]:
        """Return which metrics are unknown, a sentence each."""
        asked = {key: getattr(self, key, None) for key in ("best", "sort", "metric")}
        known = [name for scalars in kinds.SCALARS.values() for name in scalars]
        known += [title.lower() for titles in kinds.HEADLINES.values() for title in titles]
        return [
            f"{key}={shorten(word)} names no metric{suggest(word, known)}"
            for key, word in asked.items()
            if word is not None and scalar_of(word) is None
        ]


@dataclass(frozen=True)
class Options(Common):
    """The words of ``sweep`` that are no settings of a run."""

    count: int | None = setting(None, "points at most; null is run_cap of the file", low=1, high=1_000_000)
    sweep_seed: int = setting(0, "seed of the points that method: random draws", low=0)
    best: str | None = setting(None, "show the best setting by this metric, such as last, and start nothing")


@dataclass(frozen=True)
class TuneOptions(Common):
    """The words of ``tune`` that are no settings of a run."""

    grid: str = setting("tune", "a sweep file, or the name of one that comes along")
    seeds: list[int] | None = setting(None, "seeds of every setting; null takes those of the grid, or 0 and 1", low=0)
    metric: str | None = setting(
        None, "what decides by its mean over the seeds; null is average, or h_mean where a stream asks to forget"
    )
    partial: bool = setting(False, "choose among the settings that are finished, and start nothing")
    to: str | None = setting(None, "the file that is written; null is tuned.yaml beside the runs")


def scalar_of(word: str) -> str | None:
    """Return the scalar that a word names: its own name, or the title of a column of tables.

    Parameters
    ----------
    word : str
        Such as ``last``, ``Transfer``, ``h_mean`` or, as W&B shows it, ``final/last``.

    Returns
    -------
    str or None
    """
    return kinds.scalar_of(word.removeprefix("final/"))


def options(words: Sequence[str], kind: type[Common] = Options, verb: str = "sweep") -> tuple[Any, list[str]]:
    """Separate the KEY=VALUE words of a verb from those for every point, and check the former.

    Parameters
    ----------
    words : sequence of str
        KEY=VALUE or ``--KEY=VALUE``.
    kind : type, optional
        The dataclass of the verb's words.
    verb : str, optional
        Its name, for what is said.

    Returns
    -------
    Common
        An instance of `kind`.
    list of str
        The words for every point, in their order.

    Raises
    ------
    UserError
        With one sentence for every problem, joined by newlines.
    """
    known = describe(kind)
    values = {key: copy.copy(one.default) for key, one in known.items()}
    rest: list[str] = []
    problems: list[str] = []
    of_a_run = {key.removesuffix(".name") for key in run_settings()}
    for word in words:
        given = pair(word)
        if given is None:
            rest.append(word)  # whoever reads the settings of a run says what is wrong with it
            continue
        key = "launch.name" if given.key == "launch" else given.key
        if key.startswith(OTHERS):
            values["launch.slurm"].append(f"{key.removeprefix(OTHERS)}={given.value}")
        elif key in known:
            for value, raw in read([word], problems).values():
                try:
                    values[key] = known[key].convert(value, raw)
                except ValueError as error:
                    problems.append(f"{given.key}={shorten(given.value)} {error}")
        elif key.startswith("launch.") or _looks_like_one(key, [*known, "launch"], of_a_run):
            problems.append(f'unknown word "{shorten(key)}" of {verb}{suggest(key, known)}')
        else:
            rest.append(word)
    built: Common = build(kind, values)
    problems += complaints(built)
    if problems:
        raise together(problems)
    return built, rest


def _looks_like_one(key: str, known: Sequence[str], of_a_run: set[str]) -> bool:
    """Return whether a key without a dot is near a word of ``sweep`` and not near a setting of every run."""
    return "." not in key and key not in of_a_run and bool(nearest(key, known)) and not nearest(key, of_a_run)

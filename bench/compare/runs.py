"""Read run directories.

Nothing is computed again: the scalars are those of summary.json, which are pure functions of accuracy.csv
(bench/metrics/kinds.py). `bench.compare.grouping` lays runs out as far as they may be compared. It is one file: what a
run gives decides what is read of it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from bench.config.fingerprint import later
from bench.core.errors import UserError
from bench.core.untrusted import kind_of, why
from bench.metrics import kinds
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record.flags import registered
from bench.record.results import read_matrix, read_outcomes
from bench.record.role import METHOD, Role
from bench.record.schema import (
    ACCURACY,
    ENVIRONMENT,
    IDENTITY,
    OUTCOMES,
    SUMMARY,
    Identity,
    Summary,
    read_environment,
)

COSTS = ("seconds", "peak_memory_mb", "stored_bytes")
"""What a run took: seconds in all, largest memory in MB, bytes that the method keeps after the last task."""

HEADROOM = "headroom"
"""How much of what the upper bound gains over the untrained model a method gains, in percent: see
`bench.compare.grouping.headroom`."""

TITLES = {
    **kinds.TITLES, HEADROOM: "Headroom", "seconds": "Seconds", "peak_memory_mb": "Peak MB", "stored_bytes": "Stored MB"
}  # fmt: skip
"""Short headings of scalars that are shown, of `HEADROOM` and of `COSTS`."""

FORMULAS = {
    **kinds.FORMULAS, HEADROOM: "100 (last - zero_shot) / (last of the upper bound - zero_shot), seed by seed"
}  # fmt: skip
"""One line for each scalar, and for `HEADROOM`."""


def column_kind(name: str) -> str | None:
    """Return of which kind of runs a column is; None for the costs, which all runs have.

    Parameters
    ----------
    name : str
        A scalar of `bench.metrics.kinds`, `HEADROOM` or one of `COSTS`.
    """
    return kinds.LEARNING if name == HEADROOM else kinds.kind_of(name)


BUDGET = ("train.epochs", "train.steps", "train.tasks", "train.batch_size")
"""Settings that say how often how many images are shown, alike for all methods, unless a method prescribes its own."""

PRESCRIBED = ("method", "tuned")
"""Sources of a value that make it a part of the method."""

DATA = {"tasks": "order of tasks", "manifests": "images, labels or class names", "prompts_sha256": "prompts"}
"""Parts of `Identity` that a stream may draw by seeds.task_order, in words."""

ABSENT = "(absent)"
"""What stands for a value that one side of a comparison lacks."""

STAMP = "%Y-%m-%dT%H:%M:%S%z"
"""How environment.json writes when a process began: in whole seconds, after loading."""

UNFINISHED = Summary("unfinished", stream="", model="", method="", fingerprint="", seed=0, metrics={}, seconds={})
"""Stands for the summary of a run that has none."""


@dataclass(frozen=True, eq=False)
class Run:
    """What is on disk of one run.

    Attributes
    ----------
    path : Path
        The run directory.
    identity : Identity
        Without settings where identity.json cannot be read.
    environment : dict of str to object
        Content of environment.json; empty where it cannot be read.
    summary : Summary
        `UNFINISHED` where summary.json cannot be read.
    trouble : str
        Why its numbers cannot be used; empty where they can.
    role : Role
        What its method is in a comparison.
    """

    path: Path
    identity: Identity = field(default_factory=Identity)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: Summary = UNFINISHED
    trouble: str = ""
    role: Role = METHOD

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The value of each setting by its dotted key; of a setting younger than the record what it then meant."""
        recorded = {key: one.value for key, one in self.identity.settings.items()}
        return later(recorded) | recorded if recorded else {}

    @cached_property
    def sources(self) -> dict[str, str]:
        """Where the value of each setting came from, one of `bench.config.values.SOURCES`."""
        recorded = {key: one.source for key, one in self.identity.settings.items()}
        return dict.fromkeys(later(self.settings), "default") | recorded if recorded else {}

    @cached_property
    def flags(self) -> dict[str, str] | None:
        """The flags of the method that hold (`bench.record.flags.Flags.held`); None where they are not known."""
        recorded = self.identity.flags
        return registered(self.settings) if recorded is None else recorded

    @cached_property
    def matrix(self) -> AccuracyMatrix:
        """The accuracy matrix, read when it is first needed; a damaged or missing file raises `UserError`."""
        matrix = read_matrix(self.path)
        if self.summary.finished and matrix.kind != self.kind:
            raise UserError(
                f"{self.path / ACCURACY} and {SUMMARY} are not of one run, since only one of them is about requests to "
                "forget: make the run again with another out=DIR"
            )
        return matrix

    @cached_property
    def columns(self) -> dict[str, list[float | None]]:
        """The scalars of `bench.metrics.kinds.COLUMNS` for each task, computed once; errors as for ``matrix``."""
        columns = kinds.COLUMNS[self.matrix.kind].items()
        return {n: of(self.matrix) if self.role.has(n) else [None] * len(self.matrix.tasks) for n, of in columns}

    @cached_property
    def outcomes(self) -> Outcomes | None:
        """What the matrix counts, image by image, read when it is first needed; None where it was not recorded."""
        return read_outcomes(self.path, self.matrix.columns) if _stands(self.path / OUTCOMES) else None

    @property
    def kind(self) -> str:
        """What its tasks are: ``learning``, or ``forgetting`` for requests to forget."""
        return kinds.FORGETTING if kinds.RANKED[kinds.FORGETTING] in self.summary.metrics else kinds.LEARNING

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self.summary.stream

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.summary.model

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.summary.method

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that decide the numbers, the seed left out."""
        return self.summary.fingerprint

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.summary.seed

    @property
    def trains(self) -> bool:
        """Whether anything was trained; a run that trained nothing has no training budget."""
        return self.summary.trainable_parameters != 0

    @property
    def data(self) -> dict[str, Any]:
        """Order of tasks, hashes of their images, labels and names, and of the prompts: see `DATA`."""
        return {key: getattr(self.identity, key) for key in DATA}

    @property
    def budget(self) -> dict[str, Any]:
        """The training budget: see `BUDGET`. Empty where nothing is trained; without what the method prescribes."""
        idle = "train.steps" if self.settings.get("train.steps") is None else "train.epochs"
        keys = [k for k in BUDGET if k in self.settings and k != idle and self.sources[k] not in PRESCRIBED]
        return {key: self.settings[key] for key in keys} if self.trains else {}

    @property
    def periods(self) -> list[tuple[str, float, float]]:
        """When each process worked on it: host, begin and latest end in seconds since 1970; without those not recorded.

        A process that was broken off left no end. It ended before the next one began, and it took no longer than all.
        """
        seconds = self.summary.seconds
        elsewhere = [seconds.get("load"), *self.summary.seconds_reused.values()]
        spent = (seconds.get("total") or 0.0) - sum(one or 0.0 for one in elsewhere)
        began = []
        for one in (self.environment, *self.environment.get("continued", [])):
            try:
                began.append((str(one["host"]), datetime.strptime(one["started"], STAMP).timestamp()))
            except (KeyError, TypeError, ValueError):
                continue
        following = [*(start for _, start in began[1:]), math.inf]
        return [(host, start, min(end, start + spent)) for (host, start), end in zip(began, following, strict=False)]

    def value(self, name: str) -> float | None:
        """Return a scalar or a cost.

        Parameters
        ----------
        name : str
            A scalar of `bench.metrics.kinds`, or one of `COSTS`.

        Returns
        -------
        float or None
            None where it is not defined, means nothing or was not recorded.
        """
        if name == "seconds":
            return self.summary.seconds.get("total")
        if name in COSTS:
            return getattr(self.summary, name)
        if not self.role.has(name):
            return None
        if name in kinds.LATER and name not in self.summary.metrics:
            return self._scalars.get(name)
        return self.summary.metrics.get(name)

    @cached_property
    def _scalars(self) -> dict[str, float | None]:
        """The scalars of the matrix, for those that are younger than the record; empty where it cannot be read."""
        try:
            return kinds.summary(self.matrix)
        except UserError:
            return {}


# ---------------------------------------------------------------------------------------------- reading


def is_run(path: Path) -> bool:
    """Return whether a folder holds the record of a run."""
    return _stands(path / IDENTITY) or _stands(path / SUMMARY)


def _stands(path: Path) -> bool:
    """Return whether anything has a name; also where that cannot be looked at, for whoever reads it to say why."""
    try:
        return kind_of(path) is not None
    except OSError:
        return True


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories among and below some folders, each once, sorted.

    Folders that cannot be read count as run directories, since they may be some: `read` says what is wrong with them.
    Links to folders are not followed below the folders that are named.

    Parameters
    ----------
    paths : iterable of Path

    Raises
    ------
    UserError
        If one of them is no folder.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f'there is no folder "{path}"; name a run directory or a folder that holds some (runs/)')
        unreadable: list[OSError] = []
        for folder, below, _ in os.walk(path, onerror=unreadable.append):
            if is_run(Path(folder)):
                below.clear()  # a run holds no runs
                found.setdefault(Path(folder).resolve(), Path(folder))
            below.sort()
        for error in unreadable:
            if not isinstance(error, FileNotFoundError):  # removed meanwhile
                found.setdefault(Path(error.filename).resolve(), Path(error.filename))
    return sorted(found.values())


def read(path: Path) -> Run:
    """Read a run directory. This never fails, whatever it holds: ``trouble`` says what is wrong with the record.

    Parameters
    ----------
    path : Path
    """
    try:
        next(path.iterdir(), None)
    except OSError as error:
        return Run(path, trouble=f"damaged: the folder cannot be read ({why(error)})")
    reasons: list[str] = []
    identity = _part(Identity.read, path, IDENTITY, "damaged: no identity.json", reasons)
    environment = _part(read_environment, path, ENVIRONMENT, "", reasons)
    unfinished = "unfinished: no summary.json; the same line again makes the run"
    summary = _part(Summary.read, path, SUMMARY, unfinished, reasons)
    if summary is not None and not summary.finished:
        reasons.append(f"unfinished: the status is {summary.status!r}")
    return Run(path, identity or Identity(), environment or {}, summary or UNFINISHED, "; ".join(reasons))


_Content = TypeVar("_Content")


def _part(
    reader: Callable[[Path], _Content], path: Path, file: str, missing: str, reasons: list[str]
) -> _Content | None:
    """Read one file of a record; where that fails, add the reason and return None."""
    try:
        return reader(path)
    except FileNotFoundError:
        reasons += [missing] if missing else []
    except json.JSONDecodeError as error:
        reasons.append(f"damaged: {file}, line {error.lineno}: {error.msg}")
    except (OSError, ValueError) as error:
        reasons.append(f"damaged: {file}: {why(error)}")
    return None


def sharing(runs: Iterable[Run]) -> set[Path]:
    """Return the runs that shared a machine with another one of them for more than a second.

    Parameters
    ----------
    runs : iterable of Run

    Returns
    -------
    set of Path
        Run directories. Their seconds say how busy the machine was, not only what their methods cost.
    """
    shared = set()
    latest: dict[str, tuple[float, Path]] = {}  # of each host: the latest end so far
    for start, end, host, path in sorted(
        (start, end, host, run.path) for run in runs for host, start, end in run.periods
    ):
        until, other = latest.get(host, (-math.inf, path))
        if min(until, end) - start > 1 and other != path:
            shared |= {path, other}
        latest[host] = max((until, other), (end, path))
    return shared

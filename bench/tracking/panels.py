"""The panels of a W&B dashboard. They read keys that bench/tracking/payload.py makes (docs/tracking.md).

Importing this imports wandb and wandb-workspaces, W&B's own package for saved views and reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces.reports.v2 import internal

from bench.config.fingerprint import decides
from bench.config.run_settings import CHOICES
from bench.metrics.kinds import FORGETTING, HEADLINES, LEARNING, RANKED, SCALARS, TITLES, TRADEOFF

INSTEAD = {"average_mtil": "average_cil"}
"""What is shown instead of one of `HEADLINES` that no run has: only learned tasks may have been measured."""

AXES = 10
"""Settings that the plot of parallel coordinates has room for."""


@dataclass(frozen=True)
class Survey:
    """What the panels depend on.

    Attributes
    ----------
    tasks : tuple of str
        Names of all tasks, in the order in which the runs name them first, then of other test sets.
    metrics : dict of str to str
        Title to key of the summary, as of `bench.metrics.kinds.HEADLINES`.
    varied : tuple of str
        Dotted settings of which the runs have several values, those of the method first.
    """

    tasks: tuple[str, ...]
    metrics: dict[str, str]
    varied: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Some panels under one title.

    Attributes
    ----------
    title : str
    text : str
        How to read them, in a sentence.
    panels : list
        Objects of wandb-workspaces' classes.
    single : bool
        Whether they show runs one by one; the others are about methods, over all their runs.
    """

    title: str
    text: str
    panels: list[Any]
    single: bool = False


def survey(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Survey:
    """Return what the panels depend on.

    Parameters
    ----------
    runs : sequence of (mapping, mapping)
        Config and summary of each run, as bench/tracking/payload.py makes them.

    Returns
    -------
    Survey
    """
    tasks = dict.fromkeys(task for config, _ in runs for task in config.get("identity.tasks", ()))
    keys = dict.fromkeys(key for _, summary in runs for key in summary)
    prefix = "task/accuracy/"
    tasks |= dict.fromkeys(key.removeprefix(prefix) for key in keys if key.startswith(prefix))
    known = {key.removeprefix("final/") for key in keys if key.startswith("final/")}
    forgets = any(f"{part}/{RANKED[FORGETTING]}" in keys for part in ("task", "final"))
    learns = not forgets or not known.isdisjoint(SCALARS[LEARNING])
    there = {**(HEADLINES[LEARNING] if learns else {}), **(HEADLINES[FORGETTING] if forgets else {})}
    # Before the first run is finished, a stream is taken for one that measures every cell.
    known = known or {*there.values()}
    shown = {title: name if name in known else INSTEAD.get(name) for title, name in there.items()}
    metrics = {title: f"final/{name}" for title, name in shown.items() if name in known}
    return Survey(tuple(tasks), metrics, tuple(_varied([config for config, _ in runs])))


def _varied(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the settings that have several values; plug-ins, seeds and what is no setting are left out."""
    values: dict[str, set[str | float]] = {}
    names = {f"{kind}.{word}" for kind in CHOICES for word in ("name", "file_sha256")}
    for config in configs:
        for key, value in config.items():
            setting = "." in key and decides(key) and not key.startswith(("identity.", "environment.", "seeds."))
            if setting and key not in names and isinstance(value, str | int | float):
                values.setdefault(key, set()).add(value)
    several = [key for key, seen in values.items() if len(seen) > 1]
    return sorted(several, key=lambda key: (not key.startswith("method."), key))


class _Setting(wr.ParallelCoordinatesPlotColumn):
    """An axis for a setting whose name has dots; `wr.Config` would look for a nested one."""

    def _to_model(self) -> Any:
        return internal.Column(accessor=f"config:{self.display_name}.value", display_name=self.display_name)


def _bar(title: str, key: str) -> Any:
    """Return a panel of means over the runs of every method, with the standard error."""
    return wr.BarPlot(
        title=title, metrics=[key], groupby=wr.Config("method"), groupby_aggfunc="mean", groupby_rangefunc="stderr"
    )


def _line(title: str, key: str, x: str = "task", title_x: str = "tasks learned") -> Any:
    """Return a panel of means over the runs of every method, with the standard error."""
    return wr.LinePlot(
        title=title,
        x=x,
        y=[key],
        title_x=title_x,
        groupby=wr.Config("method"),
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )


def parts(of: Survey) -> list[Part]:
    """Return all panels, made for what the runs hold.

    Parameters
    ----------
    of : Survey

    Returns
    -------
    list of Part
        In the order in which they are shown.
    """
    made = [
        _results(of),
        Part(
            "Scalars so far",
            "As they stand after every task; 0 is the untrained model.",
            [_line(f"{title} so far, %", _so_far(title)) for title in of.metrics],
        ),
        Part(
            "Accuracy of every task",
            "Accuracy on each test set after every task, in percent: it should rise when the task is learned, and "
            "fall neither before nor after. On the classes of a request to forget it should fall when that is made.",
            [_line(f"{task}, %", f"task/accuracy/{task}") for task in of.tasks],
        ),
        Part(
            "Training",
            "Once an epoch, over optimiser steps since the start of the run.",
            [
                _line("training loss", "train/loss", "train/step", "optimiser steps"),
                _line("learning rate", "train/lr", "train/step", "optimiser steps"),
            ],
        ),
        Part(
            "Costs",
            "Whole runs, and task by task: what a method stores may grow with every task.",
            [
                _bar("seconds of the run", "seconds/total"),
                _bar("peak memory, MB", "peak_memory_mb"),
                _bar("stored bytes", "stored_bytes"),
                _line("seconds of the task", "task/seconds"),
                _line("peak memory after the task, MB", "task/peak_memory_mb"),
                _line("stored bytes after the task", "task/stored_bytes"),
            ],
        ),
        Part(
            "Accuracy matrix",
            "Rows: the untrained model, then after every task; columns: test sets.",
            [
                wr.MediaBrowser(title="accuracy matrix", media_keys=["accuracy/heatmap"], gallery_axis="run"),
                wr.WeavePanelSummaryTable(table_name="accuracy/matrix"),
            ],
            single=True,
        ),
    ]
    if of.varied:
        made.insert(1, _settings(of))
    return made


def _so_far(title: str) -> str:
    """Return the key of the history in which a headline stands as it is after a task."""
    return f"task/{HEADLINES[FORGETTING].get(title, title.lower())}"


def _results(of: Survey) -> Part:
    panels = [_bar(f"{title}, %", key) for title, key in of.metrics.items()]
    for across, up in (TRADEOFF[LEARNING][::-1], TRADEOFF[FORGETTING]):
        x, y = TITLES[across], TITLES[up]
        if x in of.metrics and y in of.metrics:
            panels.append(
                wr.ScatterPlot(
                    title=f"{x} against {y}, %",
                    x=wr.SummaryMetric(of.metrics[x]),
                    y=wr.SummaryMetric(of.metrics[y]),
                    legend_template="${config:method} ${run:displayName}",
                )
            )
    text = "Finished runs: mean over the runs of a method, with the standard error as the whisker."
    return Part("Results", text, panels)


def _settings(of: Survey) -> Part:
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config("method"), display_name="method")]
    axes += [_Setting(wr.Config(key), display_name=key) for key in of.varied[:AXES]]
    axes += [
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key), display_name=title) for title, key in of.metrics.items()
    ]
    panels: list[Any] = [wr.ParallelCoordinatesPlot(title="settings and results", columns=axes)]
    panels += [wr.ParameterImportancePlot(with_respect_to=key) for key in of.metrics.values()]
    text = f"What differs between the runs: {', '.join(of.varied[:AXES])}."
    return Part("Settings", text, panels, single=True)

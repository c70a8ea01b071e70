"""A record in W&B's terms: config, rows of history, summary, the picture of the matrix, the files to upload.

All of it is a function of the files of the record (docs/tracking.md lists the keys), so that it does not matter which
process sends it, nor how often the run was continued.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.config.run_settings import CHOICES
from bench.core.files import SCRATCH
from bench.core.untrusted import kind_of
from bench.metrics.kinds import FORGETTING, so_far
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.render import BEFORE
from bench.record.events import EpochEvent, Event
from bench.record.json_file import read_object
from bench.record.results import read_matrix
from bench.record.schema import ACCURACY, ENVIRONMENT, IDENTITY, Summary
from bench.tracking.mirror_state import folder

WEIGHTS = ".safetensors"
"""Ending of files of weights."""

SMALL = 5_000_000
"""Bytes; larger files of a run directory are not part of the record that is uploaded."""


def config(directory: Path) -> dict[str, Any]:
    """Return the config of a W&B run: every setting by its dotted key, and what else is known of the run.

    Settings keep the names that they have on the command line, so that a sweep's parameters and the run's config are
    the same keys. Beside them are ``method``, ``stream`` and ``model``, the names without a dot, which W&B's filters
    need; ``fingerprint``, ``identity.*`` (seeds, hashes, order of tasks, code) and ``environment.*`` (versions,
    device).

    Parameters
    ----------
    directory : Path
        A run directory.

    Returns
    -------
    dict of str to object

    Raises
    ------
    OSError, ValueError
        If identity.json cannot be read.
    """
    identity = read_object(directory / IDENTITY)
    settings = {key: entry["value"] for key, entry in identity.pop("settings").items()}
    try:
        environment = read_object(directory / ENVIRONMENT)
    except (OSError, ValueError):
        environment = {}
    facts = {"identity": identity, "environment": environment}
    names = {kind: settings[f"{kind}.name"] for kind in CHOICES}
    return {**_flatten(facts), **settings, **names, "fingerprint": identity.get("fingerprint")}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def history(events: Iterable[Event], tasks: list[str], requests: AccuracyMatrix | None = None) -> list[dict[str, Any]]:
    """Return one row of W&B's history for every epoch and every row of the accuracy matrix.

    An epoch has ``train/*``, with ``train/step`` counted over the whole run; a row of the matrix has ``task/*`` with
    accuracies in percent, the scalars so far and every number of the event.

    Parameters
    ----------
    events : iterable of EpochEvent or RowEvent
        The events of a run, from its first.
    tasks : list of str
        Names of all tasks, in the order in which they are learned.
    requests : AccuracyMatrix, optional
        The matrix of requests to forget, whose scalars so far weigh images, which events do not count.

    Returns
    -------
    list of dict of str to object
    """
    rows: list[dict[str, Any]] = []
    known: list[list[float | None]] = []
    ends: dict[str, int] = {}
    for event in events:
        if isinstance(event, EpochEvent):
            before = sum(steps for task, steps in ends.items() if task != event.task)
            ends[event.task] = event.step
            values = {"train/epoch": event.epoch, "train/loss": event.loss, "train/lr": event.lr}
            rows.append({"train/step": before + event.step, **values})
            continue
        known.append([event.accuracy.get(task) for task in tasks])
        stages = known[1:] + [[None] * len(tasks)] * (len(tasks) + 1 - len(known))
        matrix = requests or AccuracyMatrix.from_percent(tasks, stages, known[0])
        rows.append(
            {
                "task": event.row,
                **{f"task/accuracy/{task}": value for task, value in event.accuracy.items()},
                **{f"task/{name}": value for name, value in so_far(matrix, event.row).items()},
                **{f"task/{key}": value for key, value in event.figures.items() if _is_number(value)},
            }
        )
    return rows


def requests(directory: Path) -> AccuracyMatrix | None:
    """Return the matrix of a run that is to forget, as far as it got; None of any other run, and before its first row.

    Parameters
    ----------
    directory : Path
        A run directory. The matrix is written before the event of a row: read it after the events.
    """
    matrix = read_matrix(directory) if (directory / ACCURACY).is_file() else None
    return matrix if matrix is not None and matrix.kind == FORGETTING else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def matrix_row(directory: Path) -> dict[str, Any]:
    """Return the last row of history: the accuracy matrix as a table and as a picture, in wandb's classes."""
    import wandb
    from PIL import Image

    matrix = read_matrix(directory)
    cells = [
        [label, *(matrix.cell(row, column).accuracy for column in range(len(matrix.columns)))]
        for row, label in enumerate(_states(matrix))
    ]
    return {
        "accuracy/matrix": wandb.Table(columns=["after", *matrix.columns], data=cells),
        "accuracy/heatmap": wandb.Image(Image.open(io.BytesIO(heatmap(matrix)))),
    }


def _states(matrix: AccuracyMatrix) -> list[str]:
    """Return the labels of the rows; a stream of requests need not begin with the untrained model."""
    return [BEFORE if matrix.kind == FORGETTING else matrix.label(0), *matrix.tasks]


def heatmap(matrix: AccuracyMatrix) -> bytes:
    """Return a picture of the matrix.

    Parameters
    ----------
    matrix : AccuracyMatrix

    Returns
    -------
    bytes
        PNG: a row for every state of the model, a column for every test set, percent.
    """
    # The figure is drawn by its own canvas: pyplot would look for a screen and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = matrix.array(every=True)
    rows, columns = values.shape
    figure = Figure(figsize=(2.4 + 0.62 * columns, 1.6 + 0.36 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(columns), matrix.columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(rows), _states(matrix))
    axes.set_xlabel("test set")
    axes.set_ylabel("after")
    for row in range(rows):
        for column in range(columns):
            if matrix.state(row, column) != "missing":
                shown = values[row, column]
                colour = "black" if shown > 60 else "white"
                axes.text(column, row, f"{shown:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="accuracy, %")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def summary(directory: Path) -> dict[str, Any]:
    """Return the summary of a finished run for W&B.

    Parameters
    ----------
    directory : Path
        A run directory with a summary.json.

    Returns
    -------
    dict of str to object
        ``final/<metric>`` in percent, without metrics that are not defined; ``seconds/*``, ``seconds_of_parts/*``,
        sizes and ``status``.

    Raises
    ------
    OSError, ValueError
        If summary.json cannot be read.
    """
    content = Summary.read(directory)
    kept: dict[str, Any] = {f"final/{name}": value for name, value in content.metrics.items() if value is not None}
    kept.update({f"seconds/{name}": value for name, value in content.seconds.items()})
    kept.update({f"seconds_of_parts/{name}": value for name, value in content.seconds_of_parts.items()})
    sizes = ("trainable_parameters", "stored_numbers", "stored_bytes", "peak_memory_mb")
    return {**kept, **{name: getattr(content, name) for name in sizes}, "status": content.status}


def record_files(directory: Path) -> list[Path]:
    """Return the small files of a record, which are uploaded together.

    Weights and W&B's own files are not among them, and neither are links: what they lead to is no part of the record.

    Parameters
    ----------
    directory : Path
        A run directory.

    Returns
    -------
    list of Path
    """
    return [
        path
        for path in sorted(directory.iterdir())
        if path.suffix not in (SCRATCH, WEIGHTS) and kind_of(path) == "a file" and path.stat().st_size <= SMALL
    ]


def weight_files(directory: Path) -> list[Path]:
    """Return the files of weights anywhere in a run directory, without W&B's own files and without links.

    Parameters
    ----------
    directory : Path
        A run directory.

    Returns
    -------
    list of Path
    """
    return [path for path in _weights(directory) if kind_of(path) == "a file"]


def passed_over(directory: Path) -> list[str]:
    """Return what of a run directory is never uploaded because it is neither a file nor a folder.

    Parameters
    ----------
    directory : Path
        A run directory.

    Returns
    -------
    list of str
        Such as ``notes.txt (a symbolic link)``.
    """
    kinds = {path: kind_of(path) for path in (*directory.iterdir(), *_weights(directory))}
    return [
        f"{path.relative_to(directory)} ({kind})"
        for path, kind in sorted(kinds.items())
        if kind not in ("a file", "a folder", None)
    ]


def _weights(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob(f"*{WEIGHTS}") if folder(directory) not in path.parents)

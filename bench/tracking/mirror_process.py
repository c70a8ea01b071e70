"""The child process that mirrors a record in W&B: it follows the files of a run directory and hands them over.

wandb is imported here only; a run starts this as ``python -m bench.tracking.mirror_process RUNDIR`` (bench/tracking/mirror.py) and goes on.
What W&B holds is a function of the record: one row of history for every epoch and every row of the matrix in
metrics.jsonl, in order, and one more with the whole matrix when the run is finished. So the number of rows handed over
says what is still to be handed over, whichever process did it and however often the run was continued.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.config.run_settings import CHOICES
from bench.core.files import is_finished, write_atomic
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.scalars import so_far

POLL = 0.5
"""Seconds between two looks at the record."""

RETRY = 60.0
"""Seconds until W&B is tried again after it could not be reached."""

SMALL = 5_000_000
"""Bytes; larger files of a run directory are not part of the record that is uploaded."""

FAILED = 1
"""Exit status, and exit code of a W&B run, where nothing better is known."""

GAVE_UP = 3
"""Exit status of this process when its time after the end of the run was over."""

STATE = "state.json"


def folder(directory: Path) -> Path:
    """The folder of a run directory that holds everything of W&B."""
    return directory / "wandb"


def load_state(directory: Path) -> dict[str, Any]:
    """What is remembered of the mirror of a run directory; empty where there is none that can be read."""
    return read_json(folder(directory) / STATE)


def save_state(directory: Path, state: Mapping[str, Any]) -> None:
    """Write ``wandb/state.json``."""
    write_atomic(folder(directory) / STATE, json.dumps(state, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config(directory: Path) -> dict[str, Any]:
    """The config of a W&B run: every setting by its dotted key, and what else is known of the run.

    Settings keep the names that they have on the command line, so that a sweep's parameters and the run's config are
    the same keys. Beside them are ``method``, ``stream`` and ``model``, the names without a dot, which W&B's filters
    need; ``fingerprint``, ``identity.*`` (seeds, hashes, order of tasks, code) and ``environment.*`` (versions,
    device).
    """
    identity = read_json(directory / "identity.json")
    settings = {key: entry["value"] for key, entry in identity.pop("settings", {}).items()}
    facts = {"identity": identity, "environment": read_json(directory / "environment.json")}
    names = {kind: settings[f"{kind}.name"] for kind in CHOICES}
    return {**flatten(facts), **settings, **names, "fingerprint": identity.get("fingerprint")}


def events(directory: Path) -> list[dict[str, Any]]:
    """The events of metrics.jsonl so far, without a last line that is still being written."""
    try:
        text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def history(found: Iterable[Mapping[str, Any]], tasks: list[str]) -> list[dict[str, Any]]:
    """One row of W&B's history for every epoch and every row of the matrix.

    An epoch has ``train/*``, with ``train/step`` counted over the whole run; a row of the matrix has ``task/*`` with
    accuracies in percent, the scalars so far and every number of the event.

    Parameters
    ----------
    found : iterable of mapping
        The events of a run from its first on.
    tasks : list of str
        Names of all tasks in the order in which they are learned.
    """
    rows: list[dict[str, Any]] = []
    known: list[list[float | None]] = []
    ends: dict[str, int] = {}
    for event in found:
        if event["event"] == "epoch":
            before = sum(steps for task, steps in ends.items() if task != event["task"])
            ends[event["task"]] = event["step"]
            values = {key: event[key] for key in ("epoch", "loss", "lr")}
            rows.append({"train/step": before + event["step"], **{f"train/{key}": v for key, v in values.items()}})
        elif event["event"] == "row":
            accuracy = event["accuracy"]
            known.append([accuracy.get(task) for task in tasks])
            stages = known[1:] + [[None] * len(tasks)] * (len(tasks) + 1 - len(known))
            matrix = AccuracyMatrix.from_percent(tasks, stages, known[0])
            numbers = {key: value for key, value in event.items() if key != "row" and _is_number(value)}
            rows.append(
                {
                    "task": event["row"],
                    **{f"task/accuracy/{task}": value for task, value in accuracy.items()},
                    **{f"task/{name}": value for name, value in so_far(matrix, event["row"]).items()},
                    **{f"task/{key}": value for key, value in numbers.items()},
                }
            )
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def heatmap(matrix: AccuracyMatrix) -> bytes:
    """The matrix as a picture in PNG: a row for every state of the model, a column for every test set, percent."""
    # The figure is drawn by its own canvas: pyplot would look for a screen and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = matrix.array()
    rows, columns = values.shape
    figure = Figure(figsize=(2.4 + 0.62 * columns, 1.6 + 0.36 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(columns), matrix.tasks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(rows), [matrix.label(row) for row in range(rows)])
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
    """The summary of a finished run: ``final/<metric>`` unless refused, in percent, ``seconds/*``, sizes."""
    found = read_json(directory / "summary.json")
    kept = {f"final/{name}": value for name, value in found["metrics"].items() if value is not None}
    kept.update({f"seconds/{name}": value for name, value in found["seconds"].items()})
    kept.update({f"seconds_of_parts/{name}": value for name, value in found["seconds_of_parts"].items()})
    sizes = ("trainable_parameters", "stored_numbers", "stored_bytes", "peak_memory_mb")
    return {**kept, **{key: found[key] for key in sizes}, "status": found["status"]}


def record_files(directory: Path) -> list[Path]:
    """The small files of a record, which are uploaded together; weights and everything of W&B are not among them."""
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and path.suffix not in (".tmp", ".safetensors") and path.stat().st_size <= SMALL
    ]


def weight_files(directory: Path) -> list[Path]:
    """The files of weights anywhere in a run directory."""
    return sorted(path for path in directory.rglob("*.safetensors") if folder(directory) not in path.parents)


# ---------------------------------------------------------------------------------------- handing over


class End:
    """How the run ended, told over standard input in one line; nothing but the end of input means that it was killed.

    Parameters
    ----------
    directory : Path
        The run directory.
    patience : float
        Seconds that the process lives on after the end of the run, whatever W&B's server does; 0 is without end.
    """

    def __init__(self, directory: Path, patience: float):
        self.exit_code = FAILED
        self.preempted = False
        self._directory = directory
        self._patience = patience
        self._over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the run; whether it has come."""
        return self._over.wait(seconds)

    def _listen(self) -> None:
        line = sys.stdin.readline()
        if line.endswith("\n"):
            told = json.loads(line)
            self.exit_code, self.preempted = told["exit_code"], told["preempted"]
        elif is_finished(self._directory):
            self.exit_code = 0
        if self._patience:
            timer = threading.Timer(self._patience, self._give_up)
            timer.daemon = True
            timer.start()
        self._over.set()

    def _give_up(self) -> None:
        print(f"not done {self._patience:g} s after the end of the run: given up", file=sys.stderr, flush=True)
        os._exit(GAVE_UP)  # wandb may be waiting for a server without an end


def connect(directory: Path, state: Mapping[str, Any], pid: int | None) -> Any:
    """Start or continue the W&B run of a run directory, as its state wants it; returns wandb's run.

    Parameters
    ----------
    pid : int or None
        The process whose load is recorded with that of the machine; None records neither.
    """
    import wandb

    settings = wandb.Settings(
        console="off",
        reinit="create_new",  # not the run of an attempt that failed
        disable_git=True,
        disable_code=True,
        stop_fn=lambda: None,  # a run is stopped where it was started
        x_disable_meta=True,  # it would describe this process
        x_disable_stats=pid is None,
        x_stats_pid=pid or os.getpid(),
        x_save_requirements=False,
    )
    run = wandb.init(
        dir=str(directory),
        id=state["id"],
        resume="allow",
        project=state["project"],
        entity=state["entity"],
        group=state["group"],
        name=state["name"],
        tags=state["tags"] or None,
        job_type="train",
        config=config(directory),
        settings=settings,
    )
    for axis in ("task", "train/step"):
        run.define_metric(axis, hidden=True)
    for axis, keys in (("task", "task/*"), ("train/step", "train/*")):
        run.define_metric(keys, step_metric=axis)
    return run


def conclude(run: Any, directory: Path, weights: bool) -> None:
    """Hand over what only a finished run has: summary and files. Both may be handed over again without harm."""
    import wandb

    run.summary.update(summary(directory))
    artifact = wandb.Artifact(f"record-{run.id}", type="record")
    for path in record_files(directory):
        # Not copied: the files of a finished run stay as they are, and a copy is what a later sync would look for.
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
    run.log_artifact(artifact)
    found = weight_files(directory) if weights else []
    if found:
        model = wandb.Artifact(f"weights-{run.id}", type="model")
        for path in found:
            model.add_file(str(path), str(path.relative_to(directory)), policy="immutable", skip_cache=True)
        run.log_artifact(model)


def matrix_row(directory: Path) -> dict[str, Any]:
    """The last row of history: the accuracy matrix as a table and as a picture."""
    import wandb
    from PIL import Image

    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    cells = [
        [matrix.label(row), *(matrix.cell(row, column).accuracy for column in range(len(matrix.tasks)))]
        for row in range(len(matrix.tasks) + 1)
    ]
    return {
        "accuracy/matrix": wandb.Table(columns=["after", *matrix.tasks], data=cells),
        "accuracy/heatmap": wandb.Image(Image.open(io.BytesIO(heatmap(matrix)))),
    }


def follow(directory: Path, pid: int | None, end: End, tell: Callable[..., None]) -> None:
    """Mirror a run directory until the run has ended and W&B has everything.

    Parameters
    ----------
    pid : int or None
        As in `connect`.
    end : End
        Says that the run has ended, and how.
    tell : callable
        Told ``url=`` or ``folder=`` once W&B is there.
    """
    state = load_state(directory)
    parts = state.setdefault("parts", [])
    for path in folder(directory).glob(f"offline-run-*-{state['id']}"):
        # One that was not closed lacks what was written last and stops a sync of all; the record has its content.
        if path.name not in parts:
            shutil.rmtree(path, ignore_errors=True)
    run = connect(directory, state, pid)
    place = Path(run.dir).parent
    if run.offline:
        handed = state["rows"]
    else:
        handed = run.starting_step  # a server knows what it holds
        state.update(entity=run.entity, project=run.project, url=run.url)
        save_state(directory, state)
    tell(**({"folder": str(place)} if run.offline else {"url": run.url}))
    tasks = read_json(directory / "identity.json")["tasks"]
    over = False
    while not over:
        over = end.wait(POLL)
        rows = history(events(directory), tasks)
        for row in rows[handed:]:
            run.log(row)
        handed = max(handed, len(rows))
    if is_finished(directory):
        if handed == len(rows):
            run.log(matrix_row(directory))
            handed += 1
        conclude(run, directory, state["weights"])
    if end.preempted:
        run.mark_preempting()
    run.finish(exit_code=end.exit_code)
    if run.offline:
        parts.append(place.name)
    save_state(directory, {**state, "rows": handed})


def persist(directory: Path, pid: int | None, end: End, tell: Callable[..., None]) -> None:
    """`follow`, begun again from time to time while it fails and the run goes on, and once more when that is over.

    wandb does its work in a process of its own, which a signal to the whole job ends.

    Parameters
    ----------
    tell : callable
        Told ``trouble=`` too, each time that W&B is lost.
    """
    import wandb

    while True:
        last = end.wait(0)
        try:
            return follow(directory, pid, end, tell)
        except Exception as error:
            if last:
                raise
            traceback.print_exc()
            tell(trouble=str(error).split("\n")[0])
        with contextlib.suppress(Exception):  # nobody is left to be told
            wandb.teardown()
        end.wait(RETRY)


def main(argv: list[str]) -> int:
    """Mirror a run directory; the words are the directory, seconds as in `End`, and the run's process if it is one.

    One JSON object a line is told on standard output, ``{"done": true}`` being the last when all went well; everything
    else that is printed, by wandb too, goes to standard error.
    """
    from filelock import FileLock

    directory, patience = Path(argv[0]), float(argv[1])
    pid = int(argv[2]) if argv[2:] else None
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**said: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(json.dumps(said), file=out, flush=True)

    try:
        end = End(directory, patience)
        # The process of the attempt before may still be at it.
        with FileLock(folder(directory) / "lock", timeout=patience):
            persist(directory, pid, end, tell)
    except Exception as error:
        traceback.print_exc()
        tell(failure=str(error).split("\n")[0])
        return FAILED
    tell(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

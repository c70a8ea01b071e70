"""Measures what a model knows of every embedded task, and what training on that task alone teaches it.

Usage: ``python criteria.py --data FOLDER --out FOLDER [--jobs N] [--tasks NAME ...]``, from a checkout. Everything is
measured on the validation images, with the suite's own engine and seed 0: the untrained accuracy, full fine-tuning and
rank-16 LoRA on the task alone at three rates each. Writes ``criteria.json`` and ``criteria.md`` into the output folder,
which also keeps the runs: the same line again continues. The criteria that the table must meet are those of
``docs/pocket.md``; ``shortfalls`` checks them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parent.parent / "pocket_data"
RATES = {"finetune": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3, 1e-2)}
LORA = "method.rank=16"
NEW_UNTRAINED = 45.0  # per cent: a task is new if the untrained model has at most this ...
NEW_GAIN = 25.0  # ... and training on it alone gains at least this
KNOWN_UNTRAINED = 60.0  # a task is known if the untrained model has at least this, and training does not lower it


def measure(job: tuple[str, str, str, float], data: Path, out: Path) -> tuple[float, float]:
    """Train a method on one task at a rate.

    Parameters
    ----------
    job : tuple
        Stream, task, method and learning rate.
    data : Path
        Folder of tasks.json and of the model.
    out : Path
        Where runs are recorded.

    Returns
    -------
    tuple of float
        Accuracy untrained and after training, in per cent of the validation images.
    """
    from bench.api import run

    importlib.import_module("bench.datasets.pocket").FOLDER = data  # type: ignore[attr-defined]
    stream, task, method, rate = job
    words = [f"method={method}", f"stream={stream}", f"stream.tasks=[{task}]", f"train.lr={rate}", f"out={out}"]
    words += ["model=pocket", "evaluate.split=validation", "seed=0", "device=cpu"]
    matrix = run([*words, LORA] if method == "lora" else words).matrix
    return matrix.accuracy(0, 0), matrix.accuracy(1, 0)


def collect(jobs: Sequence[tuple], results: Sequence[tuple], chances: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return the table: task -> stream, chance, untrained, and of each method the best rate and its accuracy.

    Parameters
    ----------
    jobs, results : sequence of tuple
        The arguments and values of ``measure``.
    chances : mapping of str to float
        Accuracy by chance of every task, in per cent.

    Returns
    -------
    dict
        Accuracies in per cent. Among rates with the same accuracy the smallest is given.
    """
    table: dict[str, dict[str, Any]] = {}
    for (stream, task, method, rate), (untrained, trained) in sorted(zip(jobs, results, strict=True)):
        row = table.setdefault(task, {"stream": stream, "chance": chances[task], "untrained": untrained})
        if method not in row or trained > row[method]["accuracy"]:
            row[method] = {"rate": rate, "accuracy": trained}
    return table


def is_new(row: Mapping[str, Any]) -> bool:
    """Say whether a task is new to the model."""
    best = max(row["finetune"]["accuracy"], row["lora"]["accuracy"])
    return row["untrained"] <= NEW_UNTRAINED and best >= row["untrained"] + NEW_GAIN


def is_known(row: Mapping[str, Any]) -> bool:
    """Say whether the model knows a task, and training on it by either method does not lower it."""
    least = min(row["finetune"]["accuracy"], row["lora"]["accuracy"])
    return row["untrained"] >= KNOWN_UNTRAINED and least >= row["untrained"]


def shortfalls(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the criteria that the stream ``pocket`` misses: five new tasks and three known ones."""
    rows = [row for row in table.values() if row["stream"] == "pocket"]
    new, known = sum(map(is_new, rows)), sum(map(is_known, rows))
    found = [] if new >= 5 else [f"{new} new tasks instead of at least 5"]
    return found if known >= 3 else [*found, f"{known} known tasks instead of at least 3"]


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of criteria as Markdown."""
    lines = ["| stream | task | chance | untrained | fine-tuned alone (rate) | LoRA alone (rate) | kind |"]
    lines.append("|---|---|---|---|---|---|---|")
    for task, row in sorted(table.items(), key=lambda item: (item[1]["stream"], item[0])):
        alone = [f"{row[method]['accuracy']:.1f} ({row[method]['rate']:g})" for method in RATES]
        kind = "new" if is_new(row) else "known" if is_known(row) else ""
        start = f"| {row['stream']} | {task} | {row['chance']:.1f} | {row['untrained']:.1f}"
        lines.append(" | ".join([start, *alone, f"{kind} |"]))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the tasks, write criteria.json and criteria.md, and print the table and the criteria missed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, default=SHIPPED, help="folder of tasks.json, with the model in model/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--tasks", nargs="*", default=[], help="tasks to measure (default: all of both streams)")
    arguments = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"})
    index = json.loads((arguments.data / "tasks.json").read_text(encoding="utf-8"))
    chances = {entry["name"]: 100 / len(entry["classes"]) for entry in index["tasks"]}
    streams = {task: stream for stream, names in index["streams"].items() for task in names}
    names = arguments.tasks or list(streams)
    jobs = [(streams[task], task, method, rate) for task in names for method in RATES for rate in RATES[method]]
    work = partial(measure, data=arguments.data.resolve(), out=arguments.out.resolve() / "runs")
    with get_context("spawn").Pool(arguments.jobs) as pool:
        results = pool.map(work, jobs, chunksize=1)
    table = collect(jobs, results, chances)
    (arguments.out / "criteria.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "criteria.md").write_text(markdown(table), encoding="utf-8")
    print(markdown(table), *shortfalls(table), sep="\n")


if __name__ == "__main__":
    main()

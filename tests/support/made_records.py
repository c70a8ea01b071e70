"""Run directories made without running anything, for tests of what reads them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.compare.published import find
from bench.metrics import kinds as metrics
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes


def settings_of(method, seed, **changes):
    values = {
        "stream.name": "pocket",
        "model.name": "pocket",
        "method.name": method,
        "method.rank": 8,
        "method.maps": ["q", "v"],
        "train.epochs": 5,
        "train.batch_size": 32,
        "train.lr": 0.001,
        "train.grad_clip": None,
        "track.wandb": "off",
        "out": "runs",
        "seed": seed,
        "seeds.init": None,
    }
    return values | {key.replace("__", "."): value for key, value in changes.items()}


def write(path: Path, name: str, value) -> None:
    (path / name).write_text(json.dumps(value), encoding="utf-8")


def make(
    root, method="keeplora", seed=0, last=50.0, finished=True, fingerprint="0123456789", stream="pocket",
    model="pocket", **changes,
):  # fmt: skip
    """Write a run directory of two tasks whose last row is ``last`` percent on both."""
    path = root / stream / model / method / f"{fingerprint}-s{seed}"
    path.mkdir(parents=True)
    values = settings_of(method, seed, stream__name=stream, model__name=model, **changes)
    identity = {
        "fingerprint": fingerprint,
        "seed": seed,
        "command": ["run", f"method={method}"],
        "settings": {
            key: {"value": value, "source": "user" if key in ("method.name", "seed") else "default"}
            for key, value in values.items()
        },
        "seeds": {"init": seed},
        "weights_sha256": "w" * 64,
        "label_space": "task",
        "tasks": ["a", "b"],
        "manifests": {"pocket": "m" * 64},
        "prompts_sha256": "p" * 64,
        "code_revision": "abc",
        "flags": {},
    }
    environment = {"python": "3.11", "threads": 2, "packages": {"torch": "2.9", "numpy": "2.4"}, "started": str(seed)}
    write(path, "identity.json", identity)
    write(path, "environment.json", environment)
    matrix = AccuracyMatrix(["a", "b"])
    for row, cells in enumerate([(30, 30), (80, 40), (last, last)]):
        for column, percent in enumerate(cells):
            matrix.set(row, column, round(percent * 10), 1000)
    matrix.to_csv(path / "accuracy.csv")
    if finished:
        summary = {"status": "finished", "stream": stream, "model": model, "method": method, "seed": seed}
        summary |= {"fingerprint": fingerprint, "metrics": metrics.summary(matrix), "seconds": {"total": 60.0 + seed}}
        trained = 0 if method == "zero-shot" else 100
        summary |= {"trainable_parameters": trained, "stored_numbers": 10, "stored_bytes": 2_500_000}
        write(path, "summary.json", summary | {"peak_memory_mb": 700.4})
    return path


def change(path, name, **parts):
    value = json.loads((path / name).read_text(encoding="utf-8"))
    write(path, name, value | parts)


def measure(path, tasks, rows):
    """Give a record other tasks and accuracies: T + 1 rows of percentages, None where missing."""
    matrix = AccuracyMatrix(tasks)
    for row, cells in enumerate(rows):
        for column, percent in enumerate(cells):
            if percent is not None:
                matrix.set(row, column, round(percent * 10), 1000)
    matrix.to_csv(path / "accuracy.csv")
    change(path, "summary.json", metrics=metrics.summary(matrix))
    change(path, "identity.json", tasks=list(tasks))


BESIDE = {"rest": "kept", "digits": "probe"}
IMAGES = (20, 40, 50, 30)


def forget(path, counts, beside=BESIDE, images=IMAGES, seed=None):
    """Give a record two requests to forget, a and b, and other test sets: three rows of images answered correctly.

    With a seed it says at random which images these are.
    """
    matrix = AccuracyMatrix(["a", "b"], beside)
    outcomes = Outcomes(matrix.columns)
    for row, line in enumerate(counts):
        for column, (correct, total) in enumerate(zip(line, images, strict=True)):
            matrix.set(row, column, correct, total)
            if seed is not None:
                order = np.random.default_rng([seed, row, column]).permutation(total)
                outcomes.set(row, column, order < correct)
    matrix.to_csv(path / "accuracy.csv")
    if seed is not None:
        (path / "outcomes.csv").write_text(outcomes.csv(), encoding="utf-8")
    change(path, "summary.json", metrics=metrics.summary(matrix))
    return matrix


def learn(path, losses):
    """Give a record the training loss of each pass over the images of its tasks: a list for each task."""
    tasks = json.loads((path / "identity.json").read_text(encoding="utf-8"))["tasks"]
    lines = [
        {"event": "epoch", "task": task, "step": 10 * (epoch + 1), "epoch": epoch, "loss": loss, "lr": 0.1}
        for task, passes in zip(tasks, losses, strict=True)
        for epoch, loss in enumerate(passes)
    ]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def opened_below(folder, monkeypatch):
    """Return a list that grows by the path of every file below a folder that is opened from now on."""
    seen = []
    by_number, by_path = os.open, Path.open

    def note(path):
        if folder in Path(path).parents:
            seen.append(Path(path))

    monkeypatch.setattr(os, "open", lambda path, *more, **named: note(path) or by_number(path, *more, **named))
    monkeypatch.setattr(Path, "open", lambda self, *more, **named: note(self) or by_path(self, *more, **named))
    return seen


def quoted():
    """Return the published table of MTIL as it stands beside runs that classify among each task's own classes."""
    known = find("mtil-order1")
    return replace(known, rows=tuple(row for row in known.rows if not row.conditions))


def mtil(root, method="keeplora", tasks=None, **changes):
    """Make a run that says it was made on MTIL, with the model of the published table."""
    path = make(root, method, stream="mtil-order1", model="ViT-B-16/openai", **changes)
    known = quoted()
    change(path, "identity.json", tasks=list(known.tasks) if tasks is None else tasks)
    return known

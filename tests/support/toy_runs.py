"""Whole runs on the toy stream: broken off in many ways, continued, and compared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.signals import Stopped
from bench.learning.observers import Observers
from bench.record.checkpoint import Checkpoints
from bench.runs.run import run
from bench.runs.session import MODEL, Session
from support.references import reference_of_toys

ROOT = Path(__file__).parent.parent.parent
TOY = str(Path(__file__).parent.parent / "toy.py")
TIMES = {"seconds", "peak_memory_mb"}


class Killed(BaseException):
    """Stands for the end of the process."""


FORGET = [
    "stream=forget",
    f"stream.of={TOY}",
    "stream.options=[count=2]",
    "stream.count=2",
    "stream.per_request=1",
    "train.epochs=2",
    "train.batch_size=16",
]
"""A toy stream of requests, for methods that forget."""


def words(out: Path, method: str, *more: str) -> list[str]:
    found = [
        f"model={TOY}",
        f"method={method}",
        f"out={out}",
        "device=cpu",
        "threads=1",
        "cache.gb=0",  # what is computed twice is to be computed
    ]
    entry = registry.entries("method").get(method)
    cls = registry.load_entry(entry) if entry else None
    forgets = "forgetting" in getattr(cls, "kinds", ())
    found += FORGET if forgets else [f"stream={TOY}", "stream.count=2"]
    found += reference_of_toys(cls) if cls else []
    if method == "retrain":  # it begins with what a run has learned
        found.append(f"start={run(resolve(words(out.parent / 'start', 'lora')))}")
    defaults = getattr(cls, "defaults", {})
    if "train.steps" in defaults:
        found.append("train.steps=8")  # a paper's are many
    if defaults.get("train.warmup", 0) >= 1:
        found.append("train.warmup=2")
    return [*found, *more, *(["method.rank=4"] if hasattr(getattr(cls, "Settings", None), "rank") else [])]


def events(directory: Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same(first: Path, second: Path) -> None:
    assert events(first) == events(second)
    for name in ("accuracy.csv", "outcomes.csv", MODEL, "batches.jsonl"):
        assert (first / name).exists() == (second / name).exists()
        if (first / name).exists():
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    metrics = [json.loads((path / "summary.json").read_text())["metrics"] for path in (first, second)]
    assert metrics[0] == metrics[1]


def until_finished(line: list[str], attempts: int = 200) -> tuple[Path, int]:
    """Start the same line until it ends; returns the run directory and how often it was broken off."""
    for attempt in range(attempts):
        try:
            return run(resolve(line)), attempt
        except (Killed, Stopped):
            continue
    raise AssertionError("the run makes no progress")


def deaths(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the fixture `killed_after` gives: it makes every process die after so many checkpoints."""

    def arrange(count: int, before: bool) -> None:
        save, left = Checkpoints.save, {"now": count}

        def dying(self: Checkpoints, *arguments, **named) -> None:
            left["now"] -= 1
            die = left["now"] <= 0
            if die:
                left["now"] = count
            if die and before:
                raise Killed
            save(self, *arguments, **named)
            if die:
                raise Killed

        monkeypatch.setattr(Checkpoints, "save", dying)

    return arrange


def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[list[str], Path]:
    """A run that ended inside its second task."""
    line = words(tmp_path, "lora", "checkpoint.every=0", *more)
    record_row = Session._record_row

    def dying(self: Session) -> None:
        if self.progress.row == 2:
            raise Killed
        record_row(self)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_record_row", dying)
        with pytest.raises(Killed):
            run(resolve(line))
    return line, run_directory(resolve(line))


def start(line: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", *line],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )


def toy_run(tmp_path: Path, *words: str, observers: Observers | None = None) -> Path:
    line = [f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu", "method.rank=4", "stream.count=2"]
    return run(resolve([*line, *words]), observers=observers)

"""Mirrors of records in W&B, and what they wrote; `support.mirror_fixtures` has records and a server."""

import time
from collections.abc import Callable
from pathlib import Path

from bench.config.resolve import resolve
from bench.config.run_settings import Resolved
from bench.tracking.mirror import Mirror
from bench.tracking.options import MirrorOptions
from support import wandb_log

TOY = str(Path(__file__).parent.parent / "toy.py")
RECORD = [
    "config.yaml",
    "metrics.jsonl",
    "accuracy.csv",
    "outcomes.csv",
    "identity.json",
    "environment.json",
    "summary.json",
]
ROWS = 10
"""Events of a toy run of three tasks and two epochs."""


def toy(out: Path, *words: str) -> Resolved:
    """A toy run."""
    return resolve(
        [f"stream={TOY}", f"model={TOY}", f"out={out}", "device=cpu", "method=lora", "method.rank=4", *words]
    )


def options(mode: str, **values: object) -> MirrorOptions:
    """Options with values that do not matter where they are not given."""
    known = {"project": "p", "entity": None, "group": "g", "name": "n", "tags": ["a", "b"], "weights": False}
    return MirrorOptions(mode, "", **{**known, **values})  # type: ignore[arg-type]


def mirrored(directory: Path, mode: str, said: list[str], waits: float = 60, **values: object) -> Mirror:
    """A mirror of a record, started."""
    found = Mirror(options(mode, **values), said.append, waits)
    found.start(directory)
    return found


def logs(directory: Path) -> list[wandb_log.Log]:
    """What the offline runs in a run directory hold, oldest first."""
    paths = sorted(directory.glob("wandb/offline-run-*/run-*.wandb"))
    return [wandb_log.read(path) for path in paths if path.stat().st_size]  # one has just been created


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cut(directory: Path, count: int) -> str:
    """Make a record that of a run in progress, with its first events only; return the whole of metrics.jsonl."""
    whole = (directory / "metrics.jsonl").read_text()
    (directory / "metrics.jsonl").write_text("".join(whole.splitlines(keepends=True)[:count]))
    (directory / "summary.json").unlink()
    return whole


def warned(said: list[str], directory: Path) -> bool:
    """Whether there was one warning, which names the record and the remedy."""
    warnings = [line for line in said if line.startswith("warning: ")]
    assert all(f"python -m bench mirror {directory}" in line and "\n" not in line for line in warnings)
    return len(warnings) == 1

"""Runs that several processes share, compared with runs of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record.schema import OUTCOMES
from support.toy_runs import ROOT

IN_TURN = """
import json, os, sys
from bench.cli.main import main
for port, cache, line in json.loads(sys.argv[1]):
    os.environ.update(MASTER_PORT=port, XDG_CACHE_HOME=cache)
    if status := main(["run", *line]):
        sys.exit(status)
"""
"""Makes runs one after another in a process that imports torch once, each with a cache and a port of its own."""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(line: list[str], size: int) -> list[subprocess.Popen]:
    return _started(["-m", "bench", "run", *line], size)


def start_in_turn(lines: list[list[str]], caches: list[Path], size: int) -> list[subprocess.Popen]:
    found = [(free_port(), str(cache), line) for cache, line in zip(caches, lines, strict=True)]
    return _started(["-c", IN_TURN, json.dumps(found)], size)


def _started(words: list[str], size: int) -> list[subprocess.Popen]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = {"WORLD_SIZE": str(size), **place, "OMP_WAIT_POLICY": "passive"}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **ranks, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def losses(directory: Path) -> list[float]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "epoch"]


def assert_close(first: Path, second: Path) -> None:
    """Equal up to the order of sums: here one image of a test set may change sides, and losses agree to five digits."""
    a, b = (AccuracyMatrix.from_csv(path / "accuracy.csv") for path in (first, second))
    c, d = (Outcomes.from_csv(path / OUTCOMES, a.columns) for path in (first, second))
    for row in range(3):
        for column in range(len(a.columns)):
            one, other = c.of(a, row, column), d.of(b, row, column)
            assert abs(a.accuracy(row, column) - b.accuracy(row, column)) <= 100 / len(one) + 1e-9
            assert (one != other).sum() <= 1
    assert losses(first) == pytest.approx(losses(second), rel=1e-4)

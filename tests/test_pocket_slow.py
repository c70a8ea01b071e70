"""Runs on the pocket stream: what the README claims about forgetting."""

import json
from pathlib import Path

import pytest

from bench.config.resolve import resolve
from bench.metrics.matrix import AccuracyMatrix
from bench.runs.run import run

pytestmark = pytest.mark.slow
TASKS = "stream.tasks=[flags,greek,music,icons]"
"""Two that the model knows and two that it does not: the whole stream takes three times as long."""
METHODS = ("keeplora", "lora", "zero-shot", "finetune", "inflora")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    return {method: run(resolve([f"method={method}", TASKS, f"out={out}"])) for method in METHODS}


def metric(directory: Path, name: str) -> float:
    return json.loads((directory / "summary.json").read_text())["metrics"][name]


def test_keeplora_keeps_what_lora_forgets(results: dict[str, Path]) -> None:
    assert metric(results["keeplora"], "last") >= metric(results["lora"], "last") + 5


def test_zero_shot_rows_are_constant(results: dict[str, Path]) -> None:
    """In every run the untrained model's row is the same, and zero-shot keeps it to the end."""
    rows = set()
    for directory in results.values():
        matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
        rows.add(tuple(matrix.cell(0, column).correct for column in range(len(matrix.tasks))))
    assert len(rows) == 1
    zero_shot = AccuracyMatrix.from_csv(results["zero-shot"] / "accuracy.csv")
    last = tuple(zero_shot.cell(len(zero_shot.tasks), column).correct for column in range(len(zero_shot.tasks)))
    assert rows == {last}


def test_trained_transfer_stays_sane(results: dict[str, Path]) -> None:
    """Training on other tasks costs zero-shot accuracy and does not destroy it."""
    keep = metric(results["zero-shot"], "transfer_by_column")
    for method, directory in results.items():
        if method != "zero-shot":
            assert 0.3 * keep < metric(directory, "transfer_by_column") < keep + 5, method


def test_every_method_learns(results: dict[str, Path]) -> None:
    for method, directory in results.items():
        if method != "zero-shot":
            assert metric(directory, "learning") > metric(directory, "zero_shot") + 5, method

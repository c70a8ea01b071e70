"""Whole runs on the pocket stream: what the README claims about forgetting."""

import json
from pathlib import Path

import pytest

from bench.config.resolve import resolve
from bench.metrics.matrix import AccuracyMatrix
from bench.runs.run import run

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    out = tmp_path_factory.mktemp("runs")
    runs = [(method, seed) for method in ("keeplora", "lora") for seed in SEEDS]
    runs += [("zero-shot", 0), ("finetune", 0), ("inflora", 0)]
    return {(method, seed): run(resolve([f"method={method}", f"seed={seed}", f"out={out}"])) for method, seed in runs}


def metric(directory: Path, name: str) -> float:
    return json.loads((directory / "summary.json").read_text())["metrics"][name]


@pytest.mark.parametrize("seed", SEEDS)
def test_keeplora_keeps_what_lora_forgets(seed: int, results: dict[tuple[str, int], Path]) -> None:
    assert metric(results["keeplora", seed], "last") >= metric(results["lora", seed], "last") + 5


def test_zero_shot_rows_are_constant(results: dict[tuple[str, int], Path]) -> None:
    """In every run the untrained model's row is the same, and zero-shot keeps it to the end."""
    rows = set()
    for directory in results.values():
        matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
        rows.add(tuple(matrix.cell(0, column).correct for column in range(len(matrix.tasks))))
    assert len(rows) == 1
    zero_shot = AccuracyMatrix.from_csv(results["zero-shot", 0] / "accuracy.csv")
    last = tuple(zero_shot.cell(len(zero_shot.tasks), column).correct for column in range(len(zero_shot.tasks)))
    assert rows == {last}


def test_trained_transfer_stays_sane(results: dict[tuple[str, int], Path]) -> None:
    """Training on other tasks costs zero-shot accuracy and does not destroy it."""
    keep = metric(results["zero-shot", 0], "transfer_by_column")
    for (method, _), directory in results.items():
        if method != "zero-shot":
            assert 0.3 * keep < metric(directory, "transfer_by_column") < keep + 5, method


def test_every_method_learns(results: dict[tuple[str, int], Path]) -> None:
    for (method, _), directory in results.items():
        if method != "zero-shot":
            assert metric(directory, "learning") > metric(directory, "zero_shot") + 5, method

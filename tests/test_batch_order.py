"""The order of batches: recorded by one run, followed by another, refused where it does not fit."""

import json
import re
from pathlib import Path

import pytest
from support.toy_runs import toy_run

from bench.core.errors import UserError


def test_a_run_can_follow_the_batches_of_another(tmp_path: Path) -> None:
    first = toy_run(tmp_path / "a", "method=keeplora-plus", "batches.record=true")
    record = first / "batches.jsonl"
    passes = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(p["task"], p["purpose"], p["epoch"]) for p in passes] == [
        (task, purpose, epoch)
        for task in ("toy0", "toy1")
        for purpose, epoch in (("gradient", 0), ("head", 0), ("train", 0), ("train", 1), ("statistics", 0))
    ]
    assert all(sorted(i for b in p["batches"] for i in b) == list(range(40)) for p in passes)
    other = toy_run(tmp_path / "b", "method=keeplora-plus", "seeds.data_order=9")
    replayed = toy_run(tmp_path / "c", "method=keeplora-plus", "seeds.data_order=9", f"batches.replay={record}",
                       "batches.record=true")  # fmt: skip
    assert (replayed / "batches.jsonl").read_text() == record.read_text()
    losses = {
        path: [
            json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines() if '"loss"' in line
        ]
        for path in (first, other, replayed)
    }
    assert losses[replayed] == losses[first] != losses[other]
    assert (replayed / "accuracy.csv").read_text() == (first / "accuracy.csv").read_text()


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda lines: lines[1:], [], "the pass gradient 0 of task toy0 in the record .* is missing"),
        (
            lambda lines: lines,
            ["train.batch_size=20"],
            "has 3 batches, of 16 .* this run 2, of 20",
        ),
        (lambda lines: [re.sub(r"\[\[\d+", "[[40", lines[0])], [], "names images that are not among the 40"),
        (lambda lines: [lines[0].replace("[[", "[[], [", 1).replace("]]", "")], [], "line 1 of .* is no pass"),
        (lambda lines: [lines[0].replace("[[", "[[0, ")], [], "has 3 batches, of 17 images at most"),
        (lambda lines: ["{}"], [], "line 1 of .* is no pass of batches"),
    ],
)
def test_records_that_do_not_fit(change, words: list[str], message: str, tmp_path: Path) -> None:
    record = toy_run(tmp_path / "a", "method=keeplora", "batches.record=true") / "batches.jsonl"
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("\n".join(change(record.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=message):
        toy_run(tmp_path / "b", "method=keeplora", f"batches.replay={damaged}", *words)
    with pytest.raises(UserError, match=r"batches\.replay cannot be read"):
        toy_run(tmp_path / "b", "method=keeplora", "batches.replay=nowhere.jsonl")

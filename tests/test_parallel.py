"""A run shared by several processes gives the results of one, and can be broken off and continued."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.references import reference_of_toys
from support.several_processes import assert_close, losses, start, start_in_turn

from bench.compute.world import World, world
from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.record.schema import OUTCOMES
from bench.runs.run import run

ROOT = Path(__file__).parent.parent
TOY = str(Path(__file__).parent / "toy.py")


FORGET = [
    "stream=forget",
    f"stream.of={TOY}",
    "stream.options=[count=2]",
    "stream.count=2",
    "stream.per_request=1",
    "train.epochs=2",
]
"""A toy stream of requests: 67 images stay in the first one, and 13 or 14 are to be forgotten."""


def words(out: Path, method: str, *more: str) -> list[str]:
    cls = registry.load("method", method)
    rank = ["method.rank=4"] if hasattr(cls.Settings, "rank") else []
    forgets = "forgetting" in cls.kinds
    found = [*(FORGET if forgets else [f"stream={TOY}", "stream.count=2"]), f"model={TOY}", f"method={method}"]
    found += [f"out={out}", "device=cpu"]
    return [*found, *rank, *reference_of_toys(cls), "threads=1", *more]


def finish(line: list[str], size: int = 2) -> Path:
    processes = start(line, size)
    output = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, output
    assert "record in" in output[0][0] and all(out == "" for out, _ in output[1:])
    return run_directory(resolve(line))


def small_batches(out: Path, method: str, batch: int) -> list[str]:
    more = [f"train.batch_size={batch}", "evaluate.batch_size=5"]
    if method in ("keeplora-official", "sc-lora"):  # with more, maps have columns that rounding decides
        more.append("method.rank=2")
    return words(out, method, *more)


@pytest.fixture(scope="module")
def shared_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that two processes share, one of each method that is tested: the two make them one after another."""
    items = [
        item
        for item in request.session.items
        if item.fspath == request.node.fspath and "shared_runs" in item.fixturenames
    ]
    root, cases = tmp_path_factory.mktemp("shared"), [item.callspec.params for item in items]
    lines = [small_batches(root / case["method"], case["method"], case["batch"]) for case in cases]
    processes = start_in_turn(lines, [root / case["method"] / "cache" for case in cases], 2)
    output = [process.communicate(timeout=240 * len(lines)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert output[0][0].count("record in") == len(lines) and output[1][0] == ""
    return {case["method"]: run_directory(resolve(line)) for case, line in zip(cases, lines, strict=True)}


# The last batch of 40 images has 8 with batches of 16, and one, so none for a second process, with batches of 13.
@pytest.mark.parametrize(
    ("method", "batch"),
    [
        ("keeplora", 13),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("keeplora-official", 16),
                ("diki", 13),
                ("loda", 13),
                ("splitlora", 16),
                ("inflora", 16),
                ("finetune", 13),
                ("lwf", 13),
                ("wise-ft", 16),
                ("icarl", 13),
                ("zscl-full", 13),
                ("zscl-lora", 16),
                ("zero-shot", 16),
                ("codyra", 13),
                ("nusa-cl", 16),
                ("share", 13),
                ("slao", 16),
                ("o-lora", 13),
                ("sd-lora", 13),
                ("sc-lora", 13),
                ("milora", 16),
                ("if2net-like", 13),
                ("rail-primal", 13),
                ("rail-dual", 16),
                ("ranpac", 13),
                ("moe-adapters", 13),
                ("gs-lora", 13),
                ("gs-lora-pp", 16),
                ("ascent", 13),
                ("retain-only", 13),
                ("erase-text", 16),
                ("no-op", 16),
            )
        ),
    ],
)
def test_two_processes_give_the_matrix_of_one(
    method: str, batch: int, shared_runs: dict[str, Path], tmp_path: Path
) -> None:
    alone, together = run(resolve(small_batches(tmp_path, method, batch))), shared_runs[method]
    assert_close(alone, together)
    environments = [json.loads((path / "environment.json").read_text()) for path in (alone, together)]
    assert [environment["processes"] for environment in environments] == [1, 2]
    summaries = [json.loads((path / "summary.json").read_text()) for path in (alone, together)]
    assert summaries[0]["trainable_parameters"] == summaries[1]["trainable_parameters"]
    assert summaries[0]["fingerprint"] == summaries[1]["fingerprint"]


@pytest.mark.slow
def test_two_processes_change_the_same_images_in_the_same_way(tmp_path: Path) -> None:
    more = ["train.batch_size=13", "train.steps=7", "train.augment=inflora", "train.label_smoothing=0.1"]
    alone = run(resolve(words(tmp_path / "alone", "lora", *more)))
    assert_close(alone, finish(words(tmp_path / "together", "lora", *more)))


def wait_for_epoch(process: subprocess.Popen, directory: Path, epoch: int) -> None:
    events, end = directory / "metrics.jsonl", time.monotonic() + 120
    while not (events.exists() and f'"epoch": {epoch},' in events.read_text()):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_the_others_end_when_one_process_is_killed_and_all_can_be_continued(tmp_path: Path) -> None:
    line = words(tmp_path / "broken", "lora", "train.epochs=100")
    directory = run_directory(resolve(line))
    processes = start(line, 2)
    wait_for_epoch(processes[0], directory, 2)
    processes[1].kill()
    _, errors = processes[0].communicate(timeout=120)
    processes[1].communicate(timeout=10)
    assert processes[0].returncode == 2
    assert "error: another process of this run has ended" in errors and "Traceback" not in errors
    straight = finish(words(tmp_path / "straight", "lora", "train.epochs=100"))
    finish(line)
    assert losses(directory) == losses(straight)
    assert (directory / "accuracy.csv").read_bytes() == (straight / "accuracy.csv").read_bytes()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_where_they_can_be_continued(tmp_path: Path) -> None:
    line = words(tmp_path / "broken", "lora", "train.epochs=100")
    directory = run_directory(resolve(line))
    processes = start(line, 2)
    wait_for_epoch(processes[0], directory, 2)
    processes[1].send_signal(signal.SIGTERM)
    output = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, output
    assert list((directory / "checkpoints").glob("*-step.*"))
    straight = finish(words(tmp_path / "straight", "lora", "train.epochs=100"))
    finish(line)
    assert losses(directory) == losses(straight)  # one machine, two processes: the same bits
    for name in ("accuracy.csv", OUTCOMES):
        assert (directory / name).read_bytes() == (straight / name).read_bytes()


def test_more_processes_than_images_in_a_batch_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="3 processes share batches of train.batch_size=2: start fewer"):
        run(resolve(words(tmp_path, "lora", "train.batch_size=2")))


@pytest.mark.parametrize("rank", [None, "x", "2", "-1"])
def test_a_place_that_makes_no_sense_is_refused(rank: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match="WORLD_SIZE=2 needs RANK from 0 to below it"):
        world()


def test_a_process_alone_has_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world() == World(0, 1, 0) and world().leads

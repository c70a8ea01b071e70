"""Whole runs on a CUDA device: beside the CPU, twice, broken off, in lower precision, out of memory."""

import json
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.cuda_device import cuda_device  # noqa: F401
from support.references import reference_of_toys
from support.several_processes import assert_close, start
from support.toy_runs import ROOT, TOY, Killed, assert_same, until_finished

from bench.cli import main as cli
from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.metrics.matrix import AccuracyMatrix
from bench.record.checkpoint import Checkpoints
from bench.runs.run import run
from bench.trials import contract, trial
from bench.trials.toy import tiny_model

pytestmark = pytest.mark.cuda

METHODS = sorted(registry.entries("method"))
IMAGES = 24
"""Test images of a toy task."""


def words(out: Path, method: str, *more: str, device: str = "cuda") -> list[str]:
    """A line for two toy tasks; what is computed twice is to be computed."""
    cls = registry.load("method", method)
    rank = ["method.rank=4"] if hasattr(cls.Settings, "rank") else []
    fixed = [f"stream={TOY}", "stream.count=2", f"model={TOY}", f"method={method}", f"out={out}", "track.wandb=off"]
    return [*fixed, *rank, f"device={device}", "threads=1", "cache.gb=0", *reference_of_toys(cls), *more]


def losses(directory: Path) -> list[float]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "epoch"]


def assert_near(first: Path, second: Path, images: int, loss: float, update: float) -> None:
    """So many test images of a cell may change sides; losses and what each weight learned agree up to these shares."""
    a, b = (AccuracyMatrix.from_csv(path / "accuracy.csv") for path in (first, second))
    for row in range(3):
        for column in range(2):
            assert abs(a.accuracy(row, column) - b.accuracy(row, column)) <= images * 100 / IMAGES + 1e-9
    assert losses(first) == pytest.approx(losses(second), rel=loss)
    one, other = (load_file(path / "model.safetensors") for path in (first, second))
    assert set(one) == set(other)
    before = tiny_model().state_dict()
    for name in one:
        if name.startswith("weight/"):
            learned = one[name] - before[name.removeprefix("weight/")]
            assert (one[name] - other[name]).norm() <= update * learned.norm(), name


LINEAR = ("train.optimizer=sgd", "train.lr=0.01")
"""Steps in proportion to gradients. AdamW's first ones have full size, also where a gradient is only rounding, as that
of the bias of k is. `test_an_optimiser_takes_the_same_steps_as_on_the_cpu` is about AdamW."""

ARBITRARY = {"keeplora-official": ("method.surplus=drop",)}
"""Columns that rounding decides are left out."""


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_what_it_learns_on_the_cpu(method: str, tmp_path: Path) -> None:
    more = (*LINEAR, *ARBITRARY.get(method, ()))
    found = [run(resolve(words(tmp_path / device, method, *more, device=device))) for device in ("cpu", "cuda")]
    assert_near(*found, images=1, loss=2e-4, update=1e-2)
    assert json.loads((found[1] / "summary.json").read_text())["peak_memory_mb"] > 5


@pytest.mark.parametrize(
    ("method", "precision"),
    [*((method, "fp32") for method in METHODS), *(("keeplora-plus", low) for low in ("tf32", "bf16", "fp16"))],
)
def test_the_same_line_twice_has_the_same_bits_and_warns_of_nothing(
    method: str, precision: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("always")
    found = [run(resolve(words(tmp_path / str(i), method, f"precision={precision}"))) for i in range(2)]
    assert_same(*found)
    assert not [str(warning.message) for warning in recwarn if "determin" in str(warning.message)]
    assert len({str(warning.message) for warning in recwarn}) <= 2


@pytest.mark.parametrize(
    ("method", "precision"), [*((method, "fp32") for method in METHODS), ("lora", "bf16"), ("lora", "fp16")]
)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    method: str,
    precision: str,
    tmp_path: Path,
    killed_after,
) -> None:
    more = [f"precision={precision}", "train.grad_clip=1", "checkpoint.every=0"]
    straight = run(resolve(words(tmp_path / "straight", method, *more)))
    killed_after(8, before=False)
    broken, times = until_finished(words(tmp_path / "broken", method, *more))
    assert times >= 2 or method == "zero-shot"
    assert_same(straight, broken)


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")], ids="-".join)
def test_a_run_continues_on_another_device_and_says_so(
    devices: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora", *LINEAR, device=devices[0])))
    save, left = Checkpoints.save, [5]

    def dying(self: Checkpoints, *arguments, **named) -> None:
        save(self, *arguments, **named)
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", dying)
    first, second = (
        words(tmp_path / "broken", "lora", "checkpoint.every=0", *LINEAR, device=device) for device in devices
    )
    with pytest.raises(Killed):
        run(resolve(first))
    capsys.readouterr()
    went_on = run(resolve(second))
    said = capsys.readouterr().out
    assert "the last bits may differ from those of an uninterrupted run: device " in said and " -> " in said
    assert_near(straight, went_on, images=1, loss=2e-4, update=1e-2)


@pytest.mark.parametrize(("precision", "loss", "update"), [("tf32", 0.1, 0.1), ("bf16", 0.2, 0.15), ("fp16", 0.4, 0.4)])
def test_lower_precision_is_near_fp32(precision: str, loss: float, update: float, tmp_path: Path) -> None:
    """On the CPU a tenth in bf16, in fp16, which leaves out its first steps, a fifth; so the run has many steps."""
    more = (*LINEAR, "train.epochs=10")
    found = [run(resolve(words(tmp_path / used, "lora", f"precision={used}", *more))) for used in ("fp32", precision)]
    assert_near(*found, images=4, loss=loss, update=update)
    assert losses(found[0]) != losses(found[1])


# ---------------------------------------------------------------------------------------------- memory

STREAM = """
    import dataclasses
    from bench.api import Stream, register, toy_task

    @register("stream", "growing", title="A second task with large batches")
    class Growing(Stream):
        defaults = {"train.epochs": 1, "train.batch_size": 8, "train.schedule": "constant"}

        def load(self, data_root, order_seed):
            large = toy_task(1, train=6144)
            return [toy_task(0), dataclasses.replace(large, train_settings={"batch_size": 6144})]
"""

SMALL = """
import sys
import torch
from bench.cli import main
if sys.argv[1] == "unrehearsed":
    import bench.runs.session
    bench.runs.session.rehearse = lambda *_: None
torch.cuda.set_per_process_memory_fraction({megabytes} * 1e6 / torch.cuda.get_device_properties(0).total_memory)
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("tried", ["rehearsed", "unrehearsed"])
def test_too_little_memory_is_one_sentence_and_nothing_is_lost(tried: str, tmp_path: Path) -> None:
    stream = tmp_path / "growing.py"
    stream.write_text(textwrap.dedent(STREAM))
    line = [f"stream={stream}", f"model={TOY}", "device=cuda", "track.wandb=off", "method=lora", "method.rank=2"]
    line += [f"out={tmp_path / 'runs'}", "threads=1"]
    command = [sys.executable, "-c", SMALL.format(megabytes=150), tried, "run", *line]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2, process.stderr
    errors = [one for one in process.stderr.splitlines() if one.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in process.stderr
    directory = run_directory(resolve(line))
    if tried == "rehearsed":
        assert "task toy1 (3 classes, train.batch_size=6144) does not fit into the memory of the cuda" in errors[0]
        return
    assert "the cuda ran out of memory: lower train.batch_size" in errors[0]
    before = (directory / "metrics.jsonl").read_text()
    assert '"row": 1,' in before and '"row": 2,' not in before
    run(resolve(line))  # with all of the device's memory it continues
    after = (directory / "metrics.jsonl").read_text()
    assert after.startswith(before) and '"row": 2,' in after


# ----------------------------------------------------------------------------------------- other verbs


def test_every_verb_that_computes_does_so_on_the_device(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = run(resolve(words(tmp_path / "runs", "keeplora-plus")))
    assert cli.main(["evaluate", str(made), "device=cuda", f"out={tmp_path / 'evaluations'}"]) == 0
    assert "every answer is that of the last row" in capsys.readouterr().out
    few = ["energies=[0.5,1]", "device=cuda", f"out={tmp_path / 'analyses'}"]
    assert cli.main(["analyse", str(made), *few]) == 0
    assert cli.main(["export", str(made), f"to={tmp_path / 'exported'}"]) == 0
    line = ["method=keeplora", f"model={TOY}", "method.rank=4", "classes=5", "batch=4", "device=cuda"]
    assert cli.main(["profile", *line]) == 0
    assert "peak memory" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_the_contract_holds_on_the_device(method: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = trial.tiny_clip
    for module in (trial, contract):
        monkeypatch.setattr(module, "tiny_clip", lambda *seed: tiny(*seed).to(device))
    verdicts = list(contract.verify(registry.load("method", method), None))
    assert not [(verdict.test, verdict.problem) for verdict in verdicts if verdict.problem]


# ------------------------------------------------------------------------------------ several of them


def test_a_device_is_chosen_by_its_kind_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["run", *words(tmp_path, "lora", device=f"cuda:{torch.cuda.device_count()}")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "device" in errors[0] and "cuda" in errors[0]


def test_two_processes_share_a_run_only_on_devices_of_their_own(tmp_path: Path) -> None:
    line = words(tmp_path / "two", "lora")
    processes = start(line, 2)
    said = [process.communicate(timeout=120) for process in processes]
    if torch.cuda.device_count() > 1:
        assert [process.returncode for process in processes] == [0, 0], said
        assert_close(run(resolve(words(tmp_path / "one", "lora"))), run_directory(resolve(line)))
        return
    assert [process.returncode for process in processes] == [2, 2], said
    for _, errors in said:
        assert "error: processes of this run have the same CUDA device" in errors and "Traceback" not in errors

"""A run broken off anywhere and started again ends with the bits of one that was not."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest
from support.toy_runs import Killed, assert_same, broken_off, start, until_finished, words

import bench
from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.learning.method import Method
from bench.record import provenance
from bench.record.checkpoint import Checkpoints
from bench.runs import loading, session
from bench.runs.run import run
from bench.runs.session import MODEL, Session
from bench.trials.contract import verify

VARIANTS = ("-faithful", "-official", "-pp")
"""Ends of the names of methods that are variants of others."""


def with_own_code() -> list[str]:
    """Return all methods but the variants that differ from another one in settings alone: it stands for them here.

    With their settings they are broken off at any step in tests/test_contract.py.
    """
    names = sorted(registry.entries("method"))
    return [name for name in names if not name.endswith(VARIANTS) or _has_code(registry.load("method", name))]


def _has_code(cls: type) -> bool:
    return any(isinstance(one, FunctionType | classmethod | staticmethod | property) for one in vars(cls).values())


def test_variants_that_differ_in_settings_alone_are_tested_with_the_code_of_another_method() -> None:
    left_out = registry.entries("method").keys() - set(with_own_code())
    assert "gs-lora-pp" not in left_out and len(left_out) > 5
    for name in left_out:
        assert registry.load("method", name).__mro__[1] in {registry.load("method", one) for one in with_own_code()}


@pytest.mark.parametrize("method", with_own_code())
def test_a_run_killed_again_and_again_ends_with_the_same_bits(method: str, tmp_path: Path, killed_after) -> None:
    more = ["batches.record=true", "checkpoint.every=0"]  # kept after every step
    straight = run(resolve(words(tmp_path / "straight", method, "batches.record=true")))
    killed_after(8 if registry.load("method", method).fit is Method.fit else 3, before=False)  # a solution has no steps
    broken, times = until_finished(words(tmp_path / "broken", method, *more))
    assert times >= 2 or method in ("zero-shot", "no-op", "erase-text")  # which are not trained
    assert_same(straight, broken)
    assert not (broken / "checkpoints").exists()


def test_a_run_killed_while_a_checkpoint_is_written_continues_from_the_one_before(tmp_path: Path, killed_after) -> None:
    straight = run(resolve(words(tmp_path / "straight", "keeplora")))
    killed_after(4, before=True)
    broken, times = until_finished(words(tmp_path / "broken", "keeplora", "checkpoint.every=0"))
    assert times >= 3
    assert_same(straight, broken)


@pytest.mark.parametrize(
    "train",
    [
        ["train.optimizer=sgd"],
        ["train.schedule=cosine"],
        ["train.schedule=constant"],
        ["train.optimizer=muon", "train.schedule=constant", "train.warmup=2", "train.label_smoothing=0.1"],
        ["train.steps=5", "train.tasks=[toy1.steps=4]", "train.augment=inflora", "train.betas=[0.8,0.9]"],
    ],
)
def test_every_optimiser_and_schedule_continues_exactly(train: list[str], tmp_path: Path, killed_after) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora", *train)))
    killed_after(3, before=False)
    broken, _ = until_finished(words(tmp_path / "broken", "lora", "checkpoint.every=0", *train))
    assert_same(straight, broken)


GROUPED = """
from bench.api import Method, register, torch


@register("method", "grouped", title="Two groups")
class Grouped(Method):
    defaults = {"train.lr": 0.01}
    label_spaces = ("task",)

    def setup(self):
        self.bias = torch.zeros(3, device=self.clip.device)
        self.scale = self.clip.model.logit_scale

    def begin_task(self, task):
        self.bias.zero_()

    def parameters(self):
        return [{"params": [self.scale], "lr_scale": 0.1}, {"params": [self.bias], "lr": 0.5, "weight_decay": 0.0}]

    def loss(self, pixels, labels, task):
        features = self.clip.encode_images(pixels)
        return task.cross_entropy(self.clip.logits(features, self.clip.encode_tokens(task.tokens)) + self.bias, labels)

    def classifier(self, space):
        inner = super().classifier(space)
        return lambda pixels: inner(pixels) + self.bias

    def state_dict(self):
        return {"bias": self.bias}

    def load_state_dict(self, state):
        self.bias.copy_(state["bias"])
"""


def test_groups_of_parameters_keep_the_contract_and_continue_exactly(tmp_path: Path, killed_after) -> None:
    """One tensor is the model's, the other the method's own."""
    method = tmp_path / "grouped.py"
    method.write_text(GROUPED)
    verdicts = list(verify(registry.load("method", str(method))))
    assert [verdict.problem for verdict in verdicts] == [""] * len(verdicts)
    straight = run(resolve(words(tmp_path / "straight", str(method))))
    killed_after(3, before=False)
    broken, times = until_finished(words(tmp_path / "broken", str(method), "checkpoint.every=0"))
    assert times >= 3
    assert_same(straight, broken)


def test_between_tasks_is_enough_where_nothing_is_kept_inside(tmp_path: Path, killed_after) -> None:
    straight = run(resolve(words(tmp_path / "straight", "inflora")))
    killed_after(2, before=False)
    broken, times = until_finished(words(tmp_path / "broken", "inflora", "checkpoint.every=null"))
    assert times == 1  # of the three rows' checkpoints
    assert_same(straight, broken)


def test_only_what_changed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}
    save = Checkpoints.save

    def watching(self, tensors, values, complete):
        seen.setdefault("task" if complete else "step", set()).update(tensors)
        save(self, tensors, values, complete)

    monkeypatch.setattr(Checkpoints, "save", watching)
    run(resolve(words(tmp_path, "lora", "checkpoint.every=0", "method.maps=[q]", "method.towers=[image]")))
    weights = {name for name in seen["task"] if name.startswith("weight/")}
    assert weights == {f"weight/visual.transformer.resblocks.{block}.attn.in_proj_weight" for block in (0, 1)}
    assert not any(name.startswith("method/") for name in seen["step"])
    assert {"update/image.0.q/A", "update/image.0.q/B", "training/loss sum"} <= seen["step"]
    assert not any(name.startswith("parameter/") for name in seen["step"])


def test_the_model_of_a_finished_run_is_kept_unless_it_is_not_wanted(tmp_path: Path) -> None:
    from bench.record.checkpoint import unpack

    directory = run(resolve(words(tmp_path / "a", "keeplora-plus")))
    tensors, values = unpack((directory / MODEL).read_bytes())
    assert values["weights_sha256"] == json.loads((directory / "identity.json").read_text())["weights_sha256"]
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith("method/head.")}
    assert {name: tuple(tensor.shape) for name, tensor in heads.items()} == {
        f"method/head.{index}": (3, 32) for index in range(2)
    }
    assert any(name.startswith("weight/text") or name.startswith("weight/transformer") for name in tensors)
    without = run(resolve(words(tmp_path / "b", "keeplora-plus", "checkpoint.final=false")))
    assert not (without / MODEL).exists() and without.name == directory.name


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, monkeypatch, capsys) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora")))
    line, directory = broken_off(tmp_path / "broken", monkeypatch)
    files = sorted((directory / "checkpoints").glob("*-task.*"))
    assert len(files) == 2
    content = bytearray(files[-1].read_bytes())
    content[len(content) // 2] ^= 1
    files[-1].write_bytes(content)
    assert_same(straight, run(resolve(line)))
    assert f"the checkpoint {files[-1]} is damaged and skipped" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100], ids=["empty", "text", "noise"])
def test_a_run_without_a_whole_checkpoint_starts_again(content: bytes, tmp_path, monkeypatch) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora")))
    line, directory = broken_off(tmp_path / "broken", monkeypatch)
    for path in (directory / "checkpoints").iterdir():
        path.write_bytes(content)
    assert_same(straight, run(resolve(line)))


def test_a_torn_line_is_repaired(tmp_path, monkeypatch) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora", "batches.record=true")))
    line, directory = broken_off(tmp_path / "broken", monkeypatch, "batches.record=true")
    for name in ("metrics.jsonl", "batches.jsonl"):
        with (directory / name).open("a") as file:
            file.write('{"event": "ep')
    for name in ("accuracy.csv", "outcomes.csv"):
        (directory / name).write_text("row")
    assert_same(straight, run(resolve(line)))


def test_lost_lines_of_the_order_are_not_passed_over(tmp_path, monkeypatch) -> None:
    line, directory = broken_off(tmp_path, monkeypatch, "batches.record=true")
    (directory / "batches.jsonl").write_text("")
    with pytest.raises(UserError, match="batches.jsonl has lost lines"):
        run(resolve(line))


def test_other_data_do_not_continue_a_run(tmp_path, monkeypatch) -> None:
    line, directory = broken_off(tmp_path, monkeypatch)
    original = loading.data_identity
    monkeypatch.setattr(loading, "data_identity", lambda *a: {**original(*a), "prompts_sha256": "other"})
    with pytest.raises(UserError, match=f"{directory} holds an unfinished run with other data or weights"):
        run(resolve(line))


def test_another_version_does_not_continue_a_run(tmp_path, monkeypatch) -> None:
    line, _ = broken_off(tmp_path, monkeypatch)
    monkeypatch.setattr("bench.record.checkpoint.VERSION", 99)
    with pytest.raises(UserError, match="holds an unfinished run of another version"):
        run(resolve(line))


def test_another_state_of_the_code_is_reported_and_recorded(tmp_path, monkeypatch, capsys) -> None:
    line, directory = broken_off(tmp_path, monkeypatch)
    monkeypatch.setattr(session, "code_identity", lambda resolved: {"code_revision": "another"})
    run(resolve(line))
    assert "note: it was begun with another state of the code" in capsys.readouterr().out
    (continued,) = json.loads((directory / "environment.json").read_text())["continued"]
    assert continued["code"] == {"code_revision": "another"} and continued["host"]


def test_two_processes_do_not_write_one_record(tmp_path: Path) -> None:
    from bench.record.record import Record

    line = words(tmp_path, "lora")
    directory = run_directory(resolve(line))
    with (
        Record(directory).held(),
        pytest.raises(UserError, match=f"{directory} is being written by process {os.getpid()} on"),
    ):
        run(resolve(line))
    run(resolve(line))
    assert not (directory / "lock").exists() and not (directory / "writer").exists()


def wait_for_row(process: subprocess.Popen, directory: Path, row: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        path = directory / "metrics.jsonl"
        if path.exists() and f'"row": {row},' in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


# Long enough to be met alive after the first task, which is short.
LONG = ["train.epochs=60", "train.tasks=[toy0.epochs=1]"]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(resolve(words(tmp_path_factory.mktemp("long"), "lora", *LONG)))


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_a_process_where_it_can_be_continued(
    signum: signal.Signals, tmp_path: Path, long_run: Path
) -> None:
    line = words(tmp_path, "lora", *LONG)
    directory = run_directory(resolve(line))
    process = start(line)
    wait_for_row(process, directory, 1)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    if signum == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + signum
        assert "the same line again continues the run" in errors and "Traceback" not in errors
    assert not (directory / "summary.json").exists()
    assert_same(long_run, run(resolve(line)))


def test_signals_are_nobody_elses_after_a_run(tmp_path: Path) -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    run(resolve(words(tmp_path, "zero-shot")))
    assert before == {signum: signal.getsignal(signum) for signum in before}


def test_resuming_counts_the_time_of_all_attempts(tmp_path, monkeypatch) -> None:
    start = Session.start_or_continue

    def late(self: Session, command: Sequence[str]) -> None:
        self.watch.resume({"total": 1000.0, "train": 500.0}, {"p": 5.0}, {})
        start(self, command)

    with monkeypatch.context() as patch:  # the first attempt takes long
        patch.setattr(Session, "start_or_continue", late)
        line, directory = broken_off(tmp_path, monkeypatch)
    run(resolve(line))
    found = json.loads((directory / "summary.json").read_text())
    assert 1000 < found["seconds"]["total"] < 1900 and 500 < found["seconds"]["train"] < 900
    assert found["seconds_of_parts"]["p"] == 5.0


def test_continuing_with_other_threads_says_that_bits_may_differ(
    tmp_path: Path, killed_after, capsys: pytest.CaptureFixture
) -> None:
    killed_after(2, before=False)
    line = words(tmp_path, "lora", "checkpoint.every=0")
    with pytest.raises(Killed):
        run(resolve([*line, "threads=1"]))
    capsys.readouterr()
    until_finished([*line, "threads=2"])
    assert "the last bits may differ from those of an uninterrupted run: threads 1 -> 2" in capsys.readouterr().out


def test_the_code_of_a_changed_checkout_is_part_of_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse --show-toplevel": str(Path(bench.__file__).parent.parent), "rev-parse HEAD": "abc"}
    monkeypatch.setattr(
        provenance.subprocess,
        "run",
        lambda command, **_: SimpleNamespace(stdout=answers.get(" ".join(command[3:]), " M bench/api.py")),
    )
    assert provenance.code_revision() == f"abc+changes-{provenance.suite_sha256()[:12]}"
    assert len(provenance.suite_sha256()) == 64

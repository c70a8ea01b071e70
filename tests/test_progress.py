"""What a person sees of how far a run or a sweep is: bars with loss and rate, the time left, lines in a log."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.mirroring import toy

from bench.config.run_settings import Train
from bench.core import console
from bench.core.stopwatch import Stopwatch, left, seconds_left
from bench.data.pixels import Pixels
from bench.learning.driver import learn
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.learning.train import Reading
from bench.runs.run import run
from bench.sweep.display import Display
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=1, batch_size=8, init_seed=0, data_seed=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(patch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal; pytest takes it back after the set-up of a test, so no fixture can."""
    shown = Terminal()
    patch.setattr(sys, "stderr", shown)
    return shown


class Bias(Method):
    """Trains a bias; its loss is log 3 as long as the bias hardly changes."""

    def setup(self) -> None:
        self.bias = torch.zeros(3)

    def parameters(self) -> list[torch.Tensor]:
        return [self.bias]

    def loss(self, pixels: torch.Tensor, labels: torch.Tensor, task: TaskData) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.bias.expand(len(labels), 3), labels)


def trained(**more: Any) -> None:
    clip, task = tiny_clip(), toy_task(0)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), CONTEXT)
    learn(Bias(None, clip, CONTEXT), data, Train(epochs=3, batch_size=16, lr=1e-6, schedule="constant"), **more)


# ------------------------------------------------------------------------------------------------- bars


def test_the_bar_of_training_shows_loss_rate_and_the_time_left_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOOK", 0.0)  # after every step
    asked, screen = [], terminal(monkeypatch)

    def rest(step: int, speed: float) -> str:
        asked.append((step, speed))
        return "about 3 h left"

    trained(left=rest)
    shown = screen.getvalue().split("\r")
    assert any("toy0: train" in bar and "loss 1.099, lr 1e-06, run: about 3 h left" in bar for bar in shown)
    assert [step for step, _ in asked] == list(range(1, 10)) and all(speed > 0 for _, speed in asked[1:])
    trained()
    assert "loss 1.099, lr 1e-06]" in screen.getvalue()


def test_nothing_is_looked_at_where_no_bar_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file has no bars, and then no step reads the loss."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(Reading, "look", lambda *_: pytest.fail("the loss was read"))
    trained(left=lambda step, speed: pytest.fail("the time left was asked for"))
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_bar_looks_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    monkeypatch.setattr(console, "LOOK", 60.0)
    asked: list[int] = []
    with console.bar("train", 5) as bar:
        for _ in range(5):
            bar()
            bar.show(lambda done, speed: str(asked.append(done)))
    assert asked == [1]


def test_a_number_on_a_cuda_device_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of an earlier look is read once it has arrived; until then no other is sent."""
    arrived, sent = [False], []

    class Number:
        device = SimpleNamespace(type="cuda")

        def __init__(self, value: float):
            self.value = value

        def to(self, device: str, non_blocking: bool) -> torch.Tensor:
            assert (device, non_blocking) == ("cpu", True)
            sent.append(self.value)
            return torch.tensor(self.value)

    class Event:
        def record(self, stream: object) -> None:
            arrived[0] = False

        def query(self) -> bool:
            return arrived[0]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    reading = Reading()
    assert reading.look(Number(1.0)) is None and reading.look(Number(2.0)) is None and sent == [1.0]
    arrived[0] = True
    assert reading.look(Number(3.0)) == 1.0 and sent == [1.0, 3.0]
    assert reading.look(Number(4.0)) == 1.0
    arrived[0] = True
    assert reading.look(Number(5.0)) == 3.0
    assert Reading().look(torch.tensor(7.0)) == 7.0


# -------------------------------------------------------------------------------------------- time left


def test_the_rest_takes_as_long_as_what_is_done() -> None:
    spent = {"train": 30.0, "evaluate": 4.0, "load": 100.0}
    done, total = {"train": 10, "evaluate": 2, "statistics": 5}, {"train": 40, "evaluate": 5, "statistics": 5}
    assert seconds_left(spent, done, total) == pytest.approx(30 * 3 + 3 * 2)
    assert seconds_left(spent, done, total, {"train": 3.0}) == pytest.approx(30 / 3 + 3 * 2)
    assert seconds_left({"train": 30.0}, done, total) is None  # nobody knows how long a row takes
    assert seconds_left(spent, total, total) == 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""), (0.4, ""), (7.4, "about 7 s left"), (86.4, "about 86 s left"), (95, "about 1.6 min left"),
        (754, "about 13 min left"), (5399, "about 90 min left"), (5400, "about 1.5 h left"),
        (129_600, "about 1.5 days left"), (86400 * 12.4, "about 12 days left"),
    ],
)  # fmt: skip
def test_seconds_in_words(seconds: float | None, said: str) -> None:
    assert left(seconds) == said


def test_a_run_says_after_every_task_how_long_the_rest_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a log there is one line a task, and no bar. A second counts as a thousand, since a toy run takes few."""
    monkeypatch.setattr(Stopwatch, "now", lambda watch: 1000 * time.perf_counter())
    run(toy(tmp_path))
    out, errors = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert [line[:5] for line in lines] == ["[1/3]", "[2/3]", "[3/3]"]
    assert [" left)" in line for line in lines] == [True, True, False]
    assert errors == ""


def child(method: str, seconds: float = 0.0, number: int = 1) -> Any:
    """The process of a point, which has run for some seconds."""
    point = SimpleNamespace(number=number, directory=Path(method) / "leaf", label="", log=None)
    return SimpleNamespace(point=point, seconds=seconds)


def test_a_sweep_says_how_long_its_rest_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.sweep.display.state_of", lambda point: "finished")

    def said(display: Display, *arguments: Any) -> str:
        display.ended(*arguments)
        return capsys.readouterr().out.strip()

    one = Display(9)
    waiting = [child("slow").point, child("quick").point, child("new").point]
    assert said(one, child("slow", 100), 0, waiting) == "[1/9] finished after 100 s"  # of one nobody can tell
    assert said(one, child("quick", 20), 1, waiting) == "[1/9] failed (exit status 1) after 20 s"
    # 100 s for the slow one, 20 s for the quick one, 60 s, their mean, for the other.
    assert said(one, child("quick", 20), 0, waiting) == "[1/9] finished after 20 s (about 3 min left)"
    assert said(one, child("quick", 20), 0) == "[1/9] finished after 20 s"
    two = Display(9, together=2)
    said(two, child("slow", 100), 0)
    # Two at a time: 300 s and the rest of the one that runs, 60 s; then what runs takes longer than its half.
    assert said(two, child("slow", 100), 0, waiting[:1] * 3, [child("slow", 40)]).endswith("(about 3 min left)")
    assert said(two, child("slow", 100), 0, [], [child("slow", 40)]).endswith("(about 60 s left)")

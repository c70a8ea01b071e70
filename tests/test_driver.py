"""One task from begin to end: the order of the calls, and what is passed on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from bench.config.run_settings import Train
from bench.data.pixels import Pixels
from bench.learning.driver import learn
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.learning.training_state import EpochReport
from bench.trials.toy import tiny_clip, toy_task


class Watched(Method):
    """Writes down what is called, and in which precision."""

    calls: list[str]

    def begin_task(self, task: TaskData) -> None:
        self.calls.append(f"begin_task {task.name}")

    def fit(
        self, task: TaskData, train: Train, on_step: Callable[[], None], on_epoch: Callable[[EpochReport], None]
    ) -> int:
        self.calls.append(f"fit in {self.clip.precision}")
        on_step()
        on_epoch(EpochReport(0, 1.5, train.lr))
        return 7

    def end_task(self, task: TaskData) -> None:
        self.calls.append(f"end_task in {self.clip.precision}")


@pytest.fixture
def method() -> Watched:
    method = Watched(None, tiny_clip(), Context(tasks=1, batch_size=8, init_seed=0, data_seed=0))
    method.calls = []
    return method


def data(method: Method) -> TaskData:
    task = toy_task(0)
    tokens = method.clip.tokenize(task.prompts)
    return TaskData(0, task.name, task.prompts, tokens, Pixels(task.train, method.clip, True), method.context)


def test_calls_come_in_order_inside_their_phases(method: Watched) -> None:
    calls = method.calls

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        calls.append(f"open {name}")
        yield
        calls.append(f"close {name}")

    trained = learn(
        method,
        data(method),
        Train(),
        precision="bf16",
        phase=phase,
        begun=lambda: calls.append("begun"),
        fitted=lambda: calls.append("fitted"),
        on_step=lambda: calls.append("step"),
        on_epoch=lambda report: calls.append(f"loss {report.loss}"),
    )
    assert trained == 7
    assert calls == [
        "open begin", "begin_task toy0", "close begin", "begun",
        "open fit", f"fit in {torch.bfloat16}", "step", "loss 1.5", "close fit", "fitted",
        "open end", f"end_task in {torch.float32}", "close end",
    ]  # fmt: skip


def test_the_bar_counts_every_step_of_the_budget(method: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    @contextmanager
    def bar(label: str, total: int, unit: str = "batch") -> Iterator[Callable[[], None]]:
        yield lambda: shown.append((label, total, unit))

    monkeypatch.setattr("bench.learning.driver.bar", bar)
    learn(method, data(method), Train(epochs=3, batch_size=16))
    learn(method, data(method), Train(epochs=1, batch_size=40), label="[1/2] toy0: train")
    assert shown == [("toy0: train", 9, "step"), ("[1/2] toy0: train", 1, "step")]

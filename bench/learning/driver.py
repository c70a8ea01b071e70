"""One task from begin to end: what the engine calls on a method, in which order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from bench.config.run_settings import Train
from bench.core.console import bar
from bench.learning.method import Method
from bench.learning.optimizer import steps_of
from bench.learning.task_data import TaskData
from bench.learning.training_state import EpochReport


def _no_phase(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _nothing(*_: Any) -> None:
    """Do nothing."""


def learn(
    method: Method,
    data: TaskData,
    train: Train,
    *,
    precision: str = "fp32",
    label: str | None = None,
    left: Callable[[int, float], str] = lambda step, speed: "",
    phase: Callable[[str], AbstractContextManager[None]] = _no_phase,
    begun: Callable[[], None] = _nothing,
    fitted: Callable[[], None] = _nothing,
    on_step: Callable[[], None] = _nothing,
    on_epoch: Callable[[EpochReport], None] = _nothing,
) -> int:
    """Let a method learn one task: call ``begin_task``, ``fit`` and ``end_task``.

    Training shows a bar on a terminal: its steps, and what the method says of them, such as the loss.

    Parameters
    ----------
    method : Method
    data : TaskData
        The task.
    train : Train
        The budget of training.
    precision : {"fp32", "tf32", "bf16", "fp16"}, optional
        Precision of the products in the towers during training; `Clip.computing` explains it.
    label : str, optional
        Label of the bar; by default the name of the task and "train".
    left : callable, optional
        Takes the steps that are done and how many are done in a second; returns what the bar says of the run's rest.
    phase : callable, optional
        Takes ``"begin"``, ``"fit"`` or ``"end"`` and returns the context in which the method is called, such as a
        stopwatch's.
    begun : callable, optional
        Called between ``begin_task`` and ``fit``, where training that was interrupted is restored.
    fitted : callable, optional
        Called between ``fit`` and ``end_task``, while the updates are still attached.
    on_step, on_epoch : callable, optional
        Passed on to ``fit``; called after every step, and with the report of every epoch.

    Returns
    -------
    int
        Number of values that were trained.
    """
    data.budget = train
    steps = steps_of(train, len(data.train))
    with phase("begin"):
        method.begin_task(data)
    begun()
    with phase("fit"), method.clip.computing(precision), bar(label or f"{data.name}: train", steps, "step") as advance:

        def step() -> None:
            advance()
            on_step()

        def progress(figures: Callable[[], str]) -> None:
            def text(step: int, speed: float) -> str:
                rest = left(step, speed)
                return f"{figures()}, run: {rest}" if rest else figures()

            advance.show(text)

        data.progress = progress
        trained = method.fit(data, train, step, on_epoch)
    fitted()
    with phase("end"):
        method.end_task(data)
    return trained

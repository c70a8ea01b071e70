"""Contract tests for anyone's method, on a toy stream and a toy model. The verb ``check`` prints what they find."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.config.run_settings import Surroundings, Train, class_settings
from bench.core.errors import UserError
from bench.data.pixels import Pixels
from bench.data.stream import LABEL_SPACES, label_space
from bench.learning.driver import learn
from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.task_data import Context, TaskData
from bench.learning.toy import tiny_clip, toy_task

TASKS = 2
TRAIN = Train(epochs=1, batch_size=16, lr=1e-2)


class Broken(Exception):
    """The contract does not hold; the message says where."""


@dataclass(frozen=True)
class Verdict:
    """What one contract test found.

    Attributes
    ----------
    test : str
        Name of the test.
    promise : str
        What the method does according to the contract.
    problem : str
        How the method breaks it; empty if it does not.
    """

    test: str
    promise: str
    problem: str


def verify(method: type[Method], settings: Any = None) -> Iterator[Verdict]:
    """Run all contract tests on a method.

    Parameters
    ----------
    method : type
        The class.
    settings : dataclass, optional
        An instance of its ``Settings``; the defaults if not given.

    Yields
    ------
    Verdict
        One for each test, as soon as it is done.

    Raises
    ------
    UserError
        If the class is no `Method`, or the settings do not fit the toy model, which is narrower than real ones.
    """
    if not issubclass(method, Method):
        raise UserError(f"{method.__name__} is no subclass of bench.api.Method")
    settings = class_settings(method)() if settings is None else settings
    _fit(method, settings)
    for test, promise in CONTRACT.items():
        problem = ""
        try:
            test(lambda: Trial(method, settings))
        except Broken as error:
            problem = str(error)
        except Exception as error:  # whatever a stranger's method raises is its failure, not that of the tests
            problem = f"{type(error).__name__}: {error}"
        yield Verdict(test.__name__, promise, problem)


def _fit(method: type[Method], settings: Any) -> None:
    if not hasattr(settings, "fits"):
        return
    maps = tiny_clip().maps.values()
    widths = {tower: min(m.in_features for m in maps if m.tower == tower) for tower in {m.tower for m in maps}}
    problems = settings.fits(Surroundings(_space(method), widths))
    if problems:
        raise UserError("\n".join(f"{text} (the model is the toy model of the contract tests)" for text in problems))


def _space(method: type[Method]) -> str:
    """Return the label space in which a method is tried: that of single tasks, unless the method does without it."""
    return "task" if "task" in method.label_spaces or not method.label_spaces else method.label_spaces[0]


class Trial:
    """One method on the toy stream.

    Parameters
    ----------
    cls : type
        The class of the method.
    settings : dataclass
        Its settings.
    """

    def __init__(self, cls: type[Method], settings: Any):
        self.tasks = [toy_task(index) for index in range(TASKS)]
        self.clip = tiny_clip()
        self.context = Context(tasks=TASKS, batch_size=16, init_seed=0, data_seed=0, label_space=_space(cls))
        self.method = cls(copy.deepcopy(settings), self.clip, self.context)

    def data(self, index: int) -> TaskData:
        """Return one task as the method sees it."""
        task = self.tasks[index]
        train = Pixels(task.train, self.clip, keep=True)
        return TaskData(index, task.name, task.prompts, self.clip.tokenize(task.prompts), train, self.context)

    def learn(
        self, index: int, begun: Callable[[], None] = lambda: None, fitted: Callable[[], None] = lambda: None
    ) -> None:
        """Take the method through one task; ``begun`` and ``fitted`` are those of `bench.learning.driver.learn`."""
        learn(self.method, self.data(index), TRAIN, begun=begun, fitted=fitted)

    @torch.no_grad()
    def logits(self, column: int = 0, kind: str = "task") -> Tensor:
        """Return the logits of one test set, [images, prompts of the label space]."""
        space = label_space(kind, self.tasks, TASKS, column)
        assert space is not None
        pixels = Pixels(self.tasks[column].test, self.clip, keep=True)
        classify = self.method.classifier(space)
        return torch.cat([classify(batch) for batch, _ in pixels.batches(16)])


Start = Callable[[], Trial]
"""Begins a trial with a new model."""


def toy_stream(start: Start) -> None:
    """Test that the method learns, and gives finite logits of the right shape."""
    trial = start()
    method = trial.method
    untrained = trial.logits()
    unknown = set(method.label_spaces) - set(LABEL_SPACES)
    if unknown:
        raise Broken(f"label_spaces names {sorted(unknown)}; there are {', '.join(LABEL_SPACES)}")
    for index in range(TASKS):
        trial.learn(index)
        for kind in method.label_spaces:
            for column, task in enumerate(trial.tasks):
                space = label_space(kind, trial.tasks, TASKS, column)
                assert space is not None
                logits = trial.logits(column, kind)
                if logits.shape != (len(task.test), len(space.prompts)):
                    raise Broken(f"classifier gives {tuple(logits.shape)} logits for {len(space.prompts)} prompts")
                if not torch.isfinite(logits).all():
                    raise Broken("classifier gives logits that are not finite")
    if method.constant and not torch.equal(trial.logits(), untrained):
        raise Broken("constant is True and the classifier changes: rows would be reused that are no longer true")


def determinism(start: Start) -> None:
    """Test that two runs with the same seeds are equal."""
    first, second = start(), start()
    for trial in (first, second):
        for index in range(TASKS):
            trial.learn(index)
    if not torch.equal(first.logits(), second.logits()):
        raise Broken("two runs differ: draw random numbers from task.init_generator(...) only")


def frozen(start: Start) -> None:
    """Test what training changes in the model."""
    trial = start()
    model = trial.clip.model
    before: dict[str, Tensor] = {}

    def keep() -> None:
        trained = {id(parameter) for parameter in tensors_of(trial.method.parameters())}
        before.update({name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in trained})

    def look() -> None:
        after = dict(model.named_parameters())
        moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
        if moved:
            raise Broken(f"training moved {moved[0]}, which parameters() does not name")

    trial.learn(0, begun=keep, fitted=look)
    needy = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if needy:
        raise Broken(f"{needy[0]} still requires gradients after the task")


def merge(start: Start) -> None:
    """Test what ``end_task`` leaves behind."""
    trial = start()
    trained: list[Tensor] = []
    trial.learn(0, fitted=lambda: trained.append(trial.logits()))
    left = [name for name, linear_map in trial.clip.maps.items() if linear_map.update is not None]
    if left:
        raise Broken(f"end_task leaves an update on {left[0]}: call self.clip.merge()")
    change = float((trial.logits() - trained[0]).abs().max())
    if change > 1e-2:
        raise Broken(f"end_task changes the logits by up to {change:.2g}")


def state(start: Start) -> None:
    """Test that nothing is remembered but the weights and ``state_dict()``."""
    straight = start()
    straight.learn(0)
    memory = copy.deepcopy(straight.method.state_dict())
    wrong = [key for key, value in memory.items() if not isinstance(value, Tensor)]
    if wrong:
        raise Broken(f"state_dict()[{wrong[0]!r}] is no tensor")
    weights = copy.deepcopy(straight.clip.model.state_dict())
    straight.learn(1)
    resumed = start()
    resumed.clip.model.load_state_dict(weights)
    resumed.method.load_state_dict(memory)
    resumed.learn(1)
    if not torch.equal(straight.logits(), resumed.logits()):
        raise Broken("a run continued from state_dict() differs: something is remembered outside of it")


CONTRACT: dict[Callable[[Start], None], str] = {
    toy_stream: "learns a toy stream and classifies every test set in every label space it declares",
    determinism: "gives the same bits twice",
    frozen: "changes nothing but parameters() while training, and leaves nothing requiring gradients",
    merge: "leaves no update attached after a task, and the function as training left it",
    state: "continues from state_dict() with the same bits",
}
"""The contract tests, with what each of them says that a method does; each raises `Broken` where it does not."""

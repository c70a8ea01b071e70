"""Contract tests for anyone's method: ``python -m bench check method=path/to/mine.py``."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.config import registry
from bench.config.run_settings import Train
from bench.data.pixels import Pixels
from bench.data.stream import LABEL_SPACES, label_space
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.learning.toy import tiny_clip, toy_task

TASKS = 2
CONTEXT = Context(tasks=TASKS, batch_size=16, init_seed=0, data_seed=0)
TRAIN = Train(epochs=1, batch_size=16, lr=1e-2)


def nothing(*_: Any) -> None:
    """Hears of steps and epochs."""


class Broken(Exception):
    """The contract does not hold; the message says where."""


class Trial:
    """One method on the toy stream."""

    def __init__(self, cls: type[Method]):
        self.tasks = [toy_task(index) for index in range(TASKS)]
        self.clip = tiny_clip()
        settings: Any = cls.Settings()
        # The toy model is narrower than real ones.
        if getattr(settings, "rank", 0) > 4:
            settings.rank = 4
        self.method = cls(settings, self.clip, CONTEXT)

    def data(self, index: int) -> TaskData:
        task = self.tasks[index]
        train = Pixels(task.train, self.clip, keep=True)
        return TaskData(index, task.name, task.prompts, self.clip.tokenize(task.prompts), train, CONTEXT)

    def learn(self, index: int) -> None:
        """One task from begin to end."""
        data = self.data(index)
        self.method.begin_task(data)
        self.method.fit(data, TRAIN, nothing, nothing)
        self.method.end_task(data)

    @torch.no_grad()
    def logits(self, column: int = 0, kind: str = "task") -> Tensor:
        """Logits of one test set."""
        space = label_space(kind, self.tasks, TASKS, column)
        assert space is not None
        pixels = Pixels(self.tasks[column].test, self.clip, keep=True)
        classify = self.method.classifier(space)
        return torch.cat([classify(batch) for batch, _ in pixels.batches(16)])


def toy_stream(cls: type[Method]) -> None:
    """learns a toy stream and classifies every test set in every label space it declares"""
    trial = Trial(cls)
    untrained = trial.logits()
    unknown = set(cls.label_spaces) - set(LABEL_SPACES)
    if unknown:
        raise Broken(f"label_spaces names {sorted(unknown)}; there are {', '.join(LABEL_SPACES)}")
    for index in range(TASKS):
        trial.learn(index)
        for kind in cls.label_spaces:
            for column, task in enumerate(trial.tasks):
                space = label_space(kind, trial.tasks, TASKS, column)
                assert space is not None
                logits = trial.logits(column, kind)
                if logits.shape != (len(task.test), len(space.prompts)):
                    raise Broken(f"classifier gives {tuple(logits.shape)} logits for {len(space.prompts)} prompts")
                if not torch.isfinite(logits).all():
                    raise Broken("classifier gives logits that are not finite")
    if cls.constant and not torch.equal(trial.logits(), untrained):
        raise Broken("constant is True and the classifier changes: rows would be reused that are no longer true")


def determinism(cls: type[Method]) -> None:
    """gives the same bits twice"""
    first, second = Trial(cls), Trial(cls)
    for trial in (first, second):
        for index in range(TASKS):
            trial.learn(index)
    if not torch.equal(first.logits(), second.logits()):
        raise Broken("two runs differ: draw random numbers from task.init_generator(...) only")


def frozen(cls: type[Method]) -> None:
    """changes nothing but parameters() while training, and leaves nothing requiring gradients"""
    trial = Trial(cls)
    data = trial.data(0)
    trial.method.begin_task(data)
    trained = {id(parameter) for parameter in trial.method.parameters()}
    model = trial.clip.model
    before = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in trained}
    trial.method.fit(data, TRAIN, nothing, nothing)
    after = dict(model.named_parameters())
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    if moved:
        raise Broken(f"training moved {moved[0]}, which parameters() does not name")
    trial.method.end_task(data)
    needy = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if needy:
        raise Broken(f"{needy[0]} still requires gradients after the task")


def merge(cls: type[Method]) -> None:
    """leaves no update attached after a task, and the function as training left it"""
    trial = Trial(cls)
    data = trial.data(0)
    trial.method.begin_task(data)
    trial.method.fit(data, TRAIN, nothing, nothing)
    trained = trial.logits()
    trial.method.end_task(data)
    left = [name for name, linear_map in trial.clip.maps.items() if linear_map.update is not None]
    if left:
        raise Broken(f"end_task leaves an update on {left[0]}: call self.clip.merge()")
    change = float((trial.logits() - trained).abs().max())
    if change > 1e-2:
        raise Broken(f"end_task changes the logits by up to {change:.2g}")


def state(cls: type[Method]) -> None:
    """continues from state_dict() with the same bits"""
    straight = Trial(cls)
    straight.learn(0)
    memory = copy.deepcopy(straight.method.state_dict())
    wrong = [key for key, value in memory.items() if not isinstance(value, Tensor)]
    if wrong:
        raise Broken(f"state_dict()[{wrong[0]!r}] is no tensor")
    weights = copy.deepcopy(straight.clip.model.state_dict())
    straight.learn(1)
    resumed = Trial(cls)
    resumed.clip.model.load_state_dict(weights)
    resumed.method.load_state_dict(memory)
    resumed.learn(1)
    if not torch.equal(straight.logits(), resumed.logits()):
        raise Broken("a run continued from state_dict() differs: something is remembered outside of it")


CONTRACT: tuple[Callable[[type[Method]], None], ...] = (toy_stream, determinism, frozen, merge, state)


def check(name: str) -> int:
    """Run all contract tests on a method and print one line each.

    Returns
    -------
    int
        0 if the method keeps the contract, else 1.
    """
    cls = registry.load("method", name)
    failures = 0
    for test in CONTRACT:
        try:
            test(cls)
            verdict = "ok    "
        except Broken as error:
            verdict, failures = "FAILED", failures + 1
            reason = str(error)
        except Exception as error:  # whatever a stranger's method raises is its failure, not this command's
            verdict, failures = "FAILED", failures + 1
            reason = f"{type(error).__name__}: {error}"
        line = f"{verdict} {test.__name__}: {test.__doc__}"
        print(line if verdict == "ok    " else f"{line}\n       {reason}")
    kept = len(CONTRACT) - failures
    print(f"{name}: {kept} of {len(CONTRACT)} contract tests hold")
    return 1 if failures else 0

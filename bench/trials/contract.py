"""Contract tests for anyone's method, on a toy stream and a toy model. The verb ``check`` prints what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.compute.seeding import generator
from bench.config.run_settings import Surroundings, Train, class_settings
from bench.core.blame import blamed
from bench.core.errors import UserError
from bench.data.stream import LABEL_SPACES, Task, label_space
from bench.learning.held import held
from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.training_state import TrainingState
from bench.trials.toy import tiny_clip
from bench.trials.trial import TASKS, TRAIN, Trial, space_of

BREAKS = 3
"""After how many steps of a task training is broken off, each time from the start."""


ALONE = 1e-3
"""How far logits of an image alone may differ from those in a batch, relative to the largest: products round apart."""


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


def verify(
    method: type[Method], settings: Any = None, tasks: Sequence[Task] = (), train: Train = TRAIN
) -> Iterator[Verdict]:
    """Run all contract tests on a method.

    Parameters
    ----------
    method : type
        The class.
    settings : dataclass, optional
        An instance of its ``Settings``; the defaults if not given.
    tasks : sequence of Task, optional
        Two tasks to try it on; by default two of coloured noise.
    train : Train, optional
        How it is trained; `Trial` needs more than one step a task.

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
    _fit(method, settings, train)
    start = Start(lambda: Trial(method, settings, tasks, train))
    for test, promise in CONTRACT.items():
        problem = ""
        try:
            test(start)
        except Broken as error:
            problem = str(error)
        except Exception as error:  # whatever a stranger's method raises is its failure, not that of the tests
            problem = blamed(error)
        yield Verdict(test.__name__, promise, problem)


def _fit(method: type[Method], settings: Any, train: Train) -> None:
    if not hasattr(settings, "fits"):
        return
    maps = tiny_clip().maps.values()
    widths = {tower: min(m.in_features for m in maps if m.tower == tower) for tower in {m.tower for m in maps}}
    problems = settings.fits(Surroundings(space_of(method), widths, train))
    if problems:
        raise UserError("\n".join(f"{text} (the model is the toy model of the contract tests)" for text in problems))


class Start:
    """Begins trials, each with a new model, and keeps those that several tests look at and none changes.

    Parameters
    ----------
    new : callable
        Returns a trial that has learned nothing.
    """

    def __init__(self, new: Callable[[], Trial]):
        self._new = new

    def __call__(self) -> Trial:
        """Return a trial that has learned nothing."""
        return self._new()

    @cached_property
    def whole(self) -> tuple[Trial, list[int]]:
        """A trial that has learned every task, and how many bytes the method kept after each."""
        trial, sizes = self(), []
        for index in range(TASKS):
            trial.learn(index)
            sizes.append(trial.method.stored_bytes())
        return trial, sizes

    @cached_property
    def saved(self) -> tuple[Trial, bytes, list[bytes]]:
        """A trial that has learned every task, what it kept between them, and inside of the second at some steps."""
        trial = self()
        trial.learn(0)
        _check_state(trial.method)
        between = trial.between_tasks()
        steps = max(2, trial.steps(1))
        chosen = {int(step) for step in torch.randint(1, steps, (BREAKS,), generator=generator(0, "breaks"))}
        done, kept = 0, []

        def keep(training: Callable[[], TrainingState]) -> None:
            nonlocal done
            done += 1
            if done in chosen:
                kept.append(trial.inside_task(training()))

        trial.learn(1, safe_point=keep)
        return trial, between, kept


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
    together, alone = trial.mixed()
    if not trial.flags.test_batch and float((together - alone).abs().max()) > ALONE * float(alone.abs().max()):
        raise Broken("an image alone has other logits than in a batch: say test_batch=True in flags if that is meant")


def determinism(start: Start) -> None:
    """Test that two runs with the same seeds are equal."""
    (first, _), second = start.whole, start()
    for index in range(TASKS):
        second.learn(index)
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


def towers(start: Start) -> None:
    """Test that a method with frozen towers leaves them alone, and classifies features as it classifies images."""
    trial = start()
    if not trial.method.frozen_towers:
        return
    weights, features = trial.clip.digests(), trial.features()
    for index in range(TASKS):
        trial.learn(index)
        moved = [name for name, digest in trial.clip.digests().items() if digest != weights[name]]
        if moved or not torch.equal(trial.features(), features):
            raise Broken(
                f"frozen_towers is True and the features of images change with {moved[0] if moved else 'an update'}: "
                "features are kept that are no longer true"
            )
        for kind in trial.method.label_spaces:
            for column in range(TASKS):
                images, found = trial.logits(column, kind), trial.logits(column, kind, from_features=True)
                if images.shape != found.shape or not torch.allclose(images, found, rtol=ALONE, atol=ALONE):
                    raise Broken("feature_classifier is not classifier: with frozen_towers write the first one alone")


def merge(start: Start) -> None:
    """Test what ``end_task`` leaves behind."""
    trial = start()
    trained: list[Tensor] = []
    trial.learn(0, fitted=lambda: trained.append(trial.logits()))
    left = [name for name, linear_map in trial.clip.maps.items() if linear_map.update is not None]
    if left and not trial.flags.extended:
        raise Broken(
            f"end_task leaves an update on {left[0]}: call self.clip.merge(), or say extended=True in flags if that "
            "is meant"
        )
    change = float((trial.logits() - trained[0]).abs().max())
    if change > 1e-2 and not trial.method.changes_at_end:
        raise Broken(f"end_task changes the logits by up to {change:.2g}: say changes_at_end = True if that is meant")


def state(start: Start) -> None:
    """Test that nothing is remembered but the weights and ``state_dict()``."""
    straight, between, _ = start.saved
    resumed = start()
    resumed.load_between_tasks(between)
    resumed.learn(1)
    _compare(straight, resumed, "a run continued from state_dict() differs: something is remembered outside of it")


def _check_state(method: Method) -> None:
    wrong = [key for key, value in method.state_dict().items() if not isinstance(value, Tensor)]
    if wrong:
        raise Broken(f"state_dict()[{wrong[0]!r}] is no tensor")


def interrupted(start: Start) -> None:
    """Test that training which is broken off after any step continues to the same bits."""
    straight, between, kept = start.saved
    for content in kept:
        resumed = start()
        resumed.load_between_tasks(between)
        resumed.learn(1, broken_off=content)
        _compare(
            straight,
            resumed,
            "training that was broken off and continued differs: what changes from step to step "
            "and is neither in parameters() nor in the model belongs into training_state()",
        )


def memory(start: Start) -> None:
    """Test that what the method keeps is counted."""
    trial, sizes = start.whole
    if len(set(sizes)) > 1 and not trial.flags.grows:
        said = " and ".join(map(str, sizes))
        raise Broken(f"it keeps {said} bytes after the first tasks: say in flags what grows (grows='a head a task')")
    kept = {
        path: tensor.numel() * tensor.element_size() for path, tensor in held(trial.method, trial.clip.model).items()
    }
    counted, largest = trial.method.stored_bytes(), max(kept, key=lambda path: kept[path], default="")
    if sum(kept.values()) > counted:
        everything, most = sum(kept.values()), kept[largest]
        raise Broken(f"it keeps {everything} bytes (self.{largest} has {most}), and stored_bytes() says {counted}")


def _compare(one: Trial, other: Trial, problem: str) -> None:
    """Refuse a method whose answers or memory differ in any bit."""
    pairs = [(one.logits(column), other.logits(column)) for column in range(TASKS)]
    memories = one.method.state_dict(), other.method.state_dict()
    same = memories[0].keys() == memories[1].keys()
    if same:
        pairs += [(memories[0][key], memories[1][key]) for key in memories[0]]
    if not same or not all(torch.equal(first, second) for first, second in pairs):
        raise Broken(problem)


CONTRACT: dict[Callable[[Start], None], str] = {
    toy_stream: "learns a toy stream and classifies every test set in every label space it declares, each image by "
    "itself unless it says otherwise",
    determinism: "gives the same bits twice",
    frozen: "changes nothing but parameters() while training, and leaves nothing requiring gradients",
    towers: "changes no weight and no feature if it says frozen_towers, and classifies features as it does images",
    merge: "leaves no update attached after a task unless it says so, and the function as training left it",
    state: "continues from state_dict() with the same bits",
    interrupted: "continues training that was broken off after any step with the same bits",
    memory: "counts all that it keeps, and keeps no more from task to task unless it says so",
}
"""The contract tests, with what each of them says that a method does; each raises `Broken` where it does not."""

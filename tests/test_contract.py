"""The contract tests themselves: methods here keep them, and each way to break the contract is noticed."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from bench.methods.lora import Lora
from torch import Tensor

from bench.config import registry
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.stream import LabelSpace
from bench.learning.method import Method
from bench.learning.task_data import TaskData
from bench.record.flags import Flags
from bench.trials.contract import CONTRACT, verify
from bench.trials.trial import TRAIN, Trial


def problems(method: type[Method], settings: object = None) -> dict[str, str]:
    """Give the problem of each contract test that a method breaks."""
    return {verdict.test: verdict.problem for verdict in verify(method, settings) if verdict.problem}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that leaves one contract test, since each takes seconds."""

    def choose(name: str) -> None:
        chosen = {test: promise for test, promise in CONTRACT.items() if test.__name__ == name}
        monkeypatch.setattr("bench.trials.contract.CONTRACT", chosen)

    return choose


def alike(name: str) -> bool:
    """Say whether a method differs from another one in settings alone."""
    return name.endswith(("-faithful", "-official", "-pp"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * alike(name)) for name in sorted(registry.entries("method"))],
)
def test_the_methods_of_the_suite_keep_the_contract_with_their_defaults(name: str) -> None:
    verdicts = list(verify(registry.load("method", name)))
    assert {verdict.test: verdict.problem for verdict in verdicts} == dict.fromkeys(
        ("toy_stream", "determinism", "frozen", "towers", "merge", "state", "interrupted", "memory"), ""
    )
    assert [verdict.promise for verdict in verdicts] == list(CONTRACT.values())


class UnknownSpace(Lora):
    label_spaces = ("task", "tsak")


class WrongShape(Lora):
    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        classify = super().classifier(space)
        return lambda pixels: classify(pixels)[:, :2]


class NotFinite(Lora):
    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        classify = super().classifier(space)
        return lambda pixels: classify(pixels) / 0


class NotConstant(Lora):
    constant = True


class Random(Lora):
    def begin_task(self, task: TaskData) -> None:
        super().begin_task(task)
        for parameter in self.parameters():
            parameter.data += 0.01 * torch.rand_like(parameter)


class Moves(Lora):
    def after_step(self) -> None:
        self.clip.model.logit_scale.data += 0.01


class KeepsGradients(Lora):
    def end_task(self, task: TaskData) -> None:
        super().end_task(task)
        self.clip.model.logit_scale.requires_grad_(True)


class DoesNotMerge(Lora):
    def end_task(self, task: TaskData) -> None:
        pass


class ForgetsTraining(Lora):
    def end_task(self, task: TaskData) -> None:
        for linear_map in self.clip.maps.values():
            linear_map.update = None


class RemembersElsewhere(Lora):
    tasks_seen = 0

    def begin_task(self, task: TaskData) -> None:
        super().begin_task(task)
        self.tasks_seen += 1

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        return super().loss(pixels, labels, task) * self.tasks_seen**3


class Counts(Lora):
    """Its loss depends on how many steps there were, which no one keeps."""

    steps = 0

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        self.steps += 1
        return super().loss(pixels, labels, task) * (1 + 0.1 * self.steps)


class KeepsItsCount(Counts):
    def training_state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.steps = int(state["steps"])

    def begin_task(self, task: TaskData) -> None:
        super().begin_task(task)
        self.steps = 0


class Teaches(Lora):
    """It has a frozen teacher."""

    def setup(self) -> None:
        super().setup()
        self.parts = {"teacher": [torch.nn.Linear(10, 3)]}
        self.again = self.parts["teacher"][0].weight[1:]  # the same memory
        self.ours = self.clip.model.logit_scale  # the model's


class HidesItsTeacher(Teaches):
    def stored_bytes(self) -> int:
        return 0


class Averages(Lora):
    """It takes half of the last task back."""

    def end_task(self, task: TaskData) -> None:
        for linear_map in self.clip.maps.values():
            if linear_map.update is not None:
                linear_map.update.B.mul_(0.5)
        super().end_task(task)


class SaysSo(Averages):
    changes_at_end = True


class MajorityOfTheBatch(Lora):
    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        classify = super().classifier(space)
        return lambda pixels: classify(pixels).mean(dim=0).expand(len(pixels), -1)


class SaysBatch(MajorityOfTheBatch):
    flags = Flags(test_batch=True)


class TrainsFrozenTowers(Lora):
    frozen_towers = True


class UpdatesFrozenTowers(DoesNotMerge):
    frozen_towers = True


class TwoClassifiers(Method):
    frozen_towers = True

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        classify = super().classifier(space)
        return lambda pixels: classify(pixels) * 2


class Grows(Lora):
    kept: tuple[Tensor, ...] = ()

    def end_task(self, task: TaskData) -> None:
        super().end_task(task)
        self.kept = (*self.kept, torch.ones(5))


class SaysGrows(Grows):
    @classmethod
    def flags_for(cls, settings: object) -> Flags:
        return Flags(grows="five numbers a task")


class SaysExtended(DoesNotMerge):
    flags = Flags(extended=True)


class NoTensor(Lora):
    def state_dict(self) -> dict[str, Tensor]:
        return {"name": "lora"}  # type: ignore[dict-item]


class Fails(Lora):
    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        raise ValueError("no loss today")


@pytest.mark.parametrize(
    ("method", "test", "problem"),
    [
        (UnknownSpace, "toy_stream", "label_spaces names ['tsak']; there are task, seen, agnostic, all"),
        (WrongShape, "toy_stream", "classifier gives (24, 2) logits for 3 prompts"),
        (NotFinite, "toy_stream", "classifier gives logits that are not finite"),
        (NotConstant, "toy_stream", "constant is True and the classifier changes"),
        (Random, "determinism", "two runs differ"),
        (Moves, "frozen", "training moved logit_scale"),
        (KeepsGradients, "frozen", "logit_scale still requires gradients"),
        (
            TrainsFrozenTowers,
            "towers",
            "the features of images change with transformer.resblocks",
        ),
        (UpdatesFrozenTowers, "towers", "the features of images change with an update"),
        (
            TwoClassifiers,
            "towers",
            "feature_classifier is not classifier: with frozen_towers write",
        ),
        (DoesNotMerge, "merge", "end_task leaves an update on image.0."),
        (ForgetsTraining, "merge", "end_task changes the logits by up to"),
        (RemembersElsewhere, "state", "a run continued from state_dict() differs"),
        (MajorityOfTheBatch, "toy_stream", "an image alone has other logits than in a batch: say test_batch=True"),
        (Grows, "memory", "it keeps 20 and 40 bytes after the first tasks: say in flags what grows"),
        (NoTensor, "state", "state_dict()['name'] is no tensor"),
    ],
)
def test_what_breaks_the_contract_is_named(
    method: type[Method], test: str, problem: str, only: Callable[[str], None]
) -> None:
    only(test)
    assert problem in problems(method)[test]


@pytest.mark.parametrize(
    ("method", "test"),
    [
        (KeepsItsCount, "interrupted"), (Teaches, "memory"), (SaysSo, "merge"), (SaysBatch, "toy_stream"),
        (SaysGrows, "memory"), (SaysExtended, "merge"),
    ],
)  # fmt: skip
def test_what_keeps_the_contract_passes(method: type[Method], test: str, only: Callable[[str], None]) -> None:
    only(test)
    assert problems(method) == {}


def test_a_teacher_is_part_of_what_is_stored() -> None:
    method = Trial(Teaches, Teaches.Settings()).method
    assert (method.stored_numbers(), method.stored_bytes()) == (33, 132)


def test_the_words_of_the_user_decide_tasks_and_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.cli.main import main

    seen = {}

    def listening(method: type[Method], settings: object, tasks: list, train: object) -> list:
        seen.update(tasks=[(task.name, len(task.train), len(task.test)) for task in tasks], train=train)
        return []

    monkeypatch.setattr("bench.trials.contract.verify", listening)
    assert main(["check", "method=lora", "train.optimizer=sgd", "stream=pocket", "stream.tasks=[digits,icons]"]) == 0
    names, sizes = zip(*((name, (train, test)) for name, train, test in seen["tasks"]), strict=True)
    assert set(names) == {"digits", "icons"} and all(20 <= size <= 60 for pair in sizes for size in pair)
    tuned = resolve(["method=lora", "stream=pocket"]).run.train.lr  # what the stream has tuned counts with the stream
    assert seen["train"] == dataclasses.replace(TRAIN, optimizer="sgd", lr=tuned) and tuned != TRAIN.lr
    assert main(["check", "method=lora", "train.optimizer=sgd"]) == 0
    assert seen["train"] == dataclasses.replace(TRAIN, optimizer="sgd")


def test_an_exception_of_the_method_is_a_problem_of_the_method(only: Callable[[str], None]) -> None:
    only("merge")
    assert problems(Fails)["merge"].startswith("ValueError: no loss today (test_contract.py, line ")


def test_settings_are_used_and_must_fit_the_toy_model(only: Callable[[str], None]) -> None:
    only("determinism")
    ranks = []

    class Watched(Lora):
        def setup(self) -> None:
            super().setup()
            ranks.append(self.settings.rank)
            self.settings.rank = 1  # must not reach the next trial

    assert problems(Watched, Lora.Settings(rank=7)) == {}
    assert ranks == [7, 7]
    with pytest.raises(
        UserError, match=r"method.rank=49 is above the width 48 of the text tower.*\(the model is the toy"
    ):
        problems(Lora, Lora.Settings(rank=49))


def test_a_method_without_the_label_space_of_tasks_is_tried_in_its_own(only: Callable[[str], None]) -> None:
    only("toy_stream")
    spaces = set()

    class Growing(Lora):
        label_spaces = ("seen",)

        def setup(self) -> None:
            super().setup()
            spaces.add(self.context.label_space)

    assert problems(Growing) == {}
    assert spaces == {"seen"}


def test_a_class_that_is_no_method_is_refused() -> None:
    with pytest.raises(UserError, match="object is no subclass of bench.api.Method"):
        problems(object)  # type: ignore[arg-type]

"""The contract tests themselves: methods here keep them, and each way to break the contract is noticed."""

from collections.abc import Callable

import pytest
import torch
from bench.methods.lora import Lora
from torch import Tensor

from bench.config import registry
from bench.core.errors import UserError
from bench.data.stream import LabelSpace
from bench.learning.contract import CONTRACT, verify
from bench.learning.method import Method
from bench.learning.task_data import TaskData


def problems(method: type[Method], settings: object = None) -> dict[str, str]:
    """Give the problem of each contract test that a method breaks."""
    return {verdict.test: verdict.problem for verdict in verify(method, settings) if verdict.problem}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that leaves one contract test, since each takes seconds."""

    def choose(name: str) -> None:
        chosen = {test: promise for test, promise in CONTRACT.items() if test.__name__ == name}
        monkeypatch.setattr("bench.learning.contract.CONTRACT", chosen)

    return choose


@pytest.mark.parametrize("name", sorted(registry.entries("method")))
def test_the_methods_of_the_suite_keep_the_contract_with_their_defaults(name: str) -> None:
    verdicts = list(verify(registry.load("method", name)))
    assert [verdict.test for verdict in verdicts] == ["toy_stream", "determinism", "frozen", "merge", "state"]
    assert [verdict.problem for verdict in verdicts] == [""] * 5
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


class NoTensor(Lora):
    def state_dict(self) -> dict[str, Tensor]:
        return {"name": "lora"}  # type: ignore[dict-item]


class Fails(Lora):
    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        raise ValueError("no loss today")


@pytest.mark.parametrize(
    ("method", "test", "problem"),
    [
        (UnknownSpace, "toy_stream", "label_spaces names ['tsak']; there are task, seen, all"),
        (WrongShape, "toy_stream", "classifier gives (24, 2) logits for 3 prompts"),
        (NotFinite, "toy_stream", "classifier gives logits that are not finite"),
        (NotConstant, "toy_stream", "constant is True and the classifier changes"),
        (Random, "determinism", "two runs differ"),
        (Moves, "frozen", "training moved logit_scale"),
        (KeepsGradients, "frozen", "logit_scale still requires gradients"),
        (DoesNotMerge, "merge", "end_task leaves an update on image.0."),
        (ForgetsTraining, "merge", "end_task changes the logits by up to"),
        (RemembersElsewhere, "state", "a run continued from state_dict() differs"),
        (NoTensor, "state", "state_dict()['name'] is no tensor"),
    ],
)
def test_what_breaks_the_contract_is_named(
    method: type[Method], test: str, problem: str, only: Callable[[str], None]
) -> None:
    only(test)
    assert problem in problems(method)[test]


def test_an_exception_of_the_method_is_a_problem_of_the_method(only: Callable[[str], None]) -> None:
    only("merge")
    assert problems(Fails) == {"merge": "ValueError: no loss today"}


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

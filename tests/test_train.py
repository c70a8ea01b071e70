"""The training loop: schedules, optimisers, what it may touch, and what stops it."""

import math

import pytest
import torch

from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.pixels import Pixels
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.learning.toy import tiny_clip, toy_task
from bench.learning.train import build_optimizer, build_schedule, fit
from bench.learning.training_state import EpochReport

CONTEXT = Context(tasks=1, batch_size=16, init_seed=0, data_seed=0)


def course(train: Train, steps: int) -> tuple[list[float], list[float]]:
    """Learning rate and beta1 before each step."""
    optimizer = build_optimizer([torch.zeros(1, requires_grad=True)], train)
    schedule = build_schedule(optimizer, train, steps)
    rates, betas = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if schedule is not None:
            schedule.step() if len(rates) < steps else None
    return rates, betas


def test_onecycle_as_in_the_released_code() -> None:
    """Invariant 18 of KeepLoRA: lr/25, peak at 30 %, lr/25e4 at the end; beta1 from .95 to .85 and back."""
    rates, betas = course(Train(lr=1e-3, schedule="onecycle"), 101)
    assert rates[0] == pytest.approx(4e-5)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3) and 28 <= rates.index(max(rates)) <= 31
    assert rates[-1] == pytest.approx(4e-9, rel=1e-3)
    assert betas[0] == pytest.approx(0.95) and min(betas) == pytest.approx(0.85, abs=1e-3)
    assert betas[-1] == pytest.approx(0.95, abs=1e-6)


def test_sgd_keeps_its_momentum_under_onecycle() -> None:
    optimizer = build_optimizer([torch.zeros(1, requires_grad=True)], Train(optimizer="sgd", momentum=0.3))
    build_schedule(optimizer, Train(optimizer="sgd", momentum=0.3), 10)
    assert optimizer.param_groups[0]["momentum"] == 0.3


@pytest.mark.parametrize("steps", [1, 2])
def test_onecycle_refuses_too_few_steps(steps: int) -> None:
    with pytest.raises(UserError, match=rf"needs at least 3 steps and a task has {steps}: raise train.epochs"):
        build_schedule(build_optimizer([torch.zeros(1)], Train()), Train(), steps)


def test_cosine_warms_up_and_falls_to_zero() -> None:
    rates, _ = course(Train(lr=2.0, schedule="cosine", warmup=0.1), 100)
    assert rates[:10] == pytest.approx([2 * (i + 1) / 10 for i in range(10)])
    for step in (10, 40, 99):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 10) / 90))


def test_constant_stays() -> None:
    assert set(course(Train(lr=0.5, schedule="constant"), 7)[0]) == {0.5}


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_optimisers_take_their_settings(name: str, kind: type) -> None:
    train = Train(optimizer=name, lr=0.1, weight_decay=0.3, momentum=0.7)
    optimizer = build_optimizer([torch.zeros(1)], train)
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind and group["lr"] == 0.1 and group["weight_decay"] == 0.3
    assert name != "sgd" or group["momentum"] == 0.7


class Probe(Method):
    """Trains a bias on top of the logits and counts what the loop does."""

    def setup(self) -> None:
        self.bias = torch.zeros(3)
        self.seen: list[int] = []
        self.steps = 0
        self.factor = 1.0

    def parameters(self):
        return [self.bias]

    def loss(self, pixels, labels, task):
        self.seen += labels.tolist()
        return torch.nn.functional.cross_entropy(self.bias.expand(len(labels), 3), labels) * self.factor

    def after_step(self) -> None:
        self.steps += 1


def probe() -> tuple[Probe, TaskData]:
    clip, task = tiny_clip(), toy_task(0)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), CONTEXT)
    return Probe(Probe.Settings(), clip, CONTEXT), data


def test_every_image_once_an_epoch_last_partial_batch_included() -> None:
    method, data = probe()
    reports: list[EpochReport] = []
    steps = []
    trained = fit(method, data, Train(epochs=3, batch_size=16), lambda: steps.append(1), reports.append)
    assert trained == 3
    assert method.steps == len(steps) == 3 * 3
    assert sorted(method.seen) == sorted(data.train.labels.tolist() * 3)
    assert [r.epoch for r in reports] == [0, 1, 2]
    assert reports[0].loss == pytest.approx(math.log(3), abs=0.01)


def test_epoch_loss_is_the_mean_over_images() -> None:
    """Without a step worth mentioning, the reported loss is the mean loss of all images, not of batches."""
    method, data = probe()
    method.bias = torch.tensor([0.5, 0.0, -0.5])
    expected = torch.nn.functional.cross_entropy(method.bias.expand(len(data.train), 3), data.train.labels)
    reports: list[EpochReport] = []
    fit(method, data, Train(epochs=1, batch_size=16, lr=1e-9, weight_decay=0), on_epoch=reports.append)
    assert reports[0].loss == pytest.approx(float(expected), abs=1e-6)


def test_parameters_require_gradients_only_while_training() -> None:
    method, data = probe()
    fit(method, data, Train(epochs=1, batch_size=16))
    assert not method.bias.requires_grad and method.bias.grad is None


def test_clipping_bounds_the_gradient() -> None:
    moved = []
    for clip in (None, 1e-3):
        method, data = probe()
        method.factor = 100.0
        train = Train(epochs=1, batch_size=40, lr=1.0, optimizer="sgd", momentum=0, weight_decay=0, schedule="constant")
        method.bias = torch.tensor([1.0, 0.0, 0.0])
        start = method.bias.clone()
        fit(method, data, Train(**{**vars(train), "grad_clip": clip}))
        moved.append(float((method.bias - start).norm()))
    assert moved[1] == pytest.approx(1e-3, rel=1e-2) and moved[0] > 1  # one step


def test_a_loss_that_is_no_number_stops_with_the_remedy() -> None:
    method, data = probe()
    after_step = method.after_step

    def spoil() -> None:
        after_step()
        if method.steps == 4:  # of three an epoch: the fifth sees it, the second of the second epoch
            method.factor = float("nan")

    method.after_step = spoil  # type: ignore[method-assign]
    sentence = (
        r"the loss of task toy0 became nan in step 2 of epoch 2: lower train.lr \(now 0.001\) or set train.grad_clip"
    )
    reports: list[EpochReport] = []
    with pytest.raises(UserError, match=sentence):
        fit(method, data, Train(epochs=2, batch_size=16), on_epoch=reports.append)
    assert [report.epoch for report in reports] == [0]
    assert not method.bias.requires_grad


def test_nothing_is_kept_of_training_whose_loss_is_no_number() -> None:
    method, data = probe()
    method.factor = float("nan")
    kept = []
    data.safe_point = lambda training: kept.append(training())
    with pytest.raises(UserError, match="became nan in step 1 of epoch 1"):
        fit(method, data, Train(epochs=2, batch_size=16))
    assert not kept


def test_a_batch_size_of_the_tasks_own_is_used() -> None:
    """The run's batch size is 16; a task's own decides both the batches and the length of the schedule."""
    method, data = probe()
    fit(method, data, Train(epochs=1, batch_size=8))
    assert method.steps == 5


def test_nothing_to_train_is_no_error() -> None:
    method, data = probe()
    method.parameters = lambda: []  # type: ignore[method-assign]
    assert fit(method, data, Train(epochs=1)) == 0
    assert method.steps == 0

"""The training loop: schedules, optimisers, what it may touch, and what stops it."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from support.training import CONTEXT, Probe, probe

from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.pixels import Pixels
from bench.learning.method import Method
from bench.learning.moments import mean_gradient
from bench.learning.observers import Observers
from bench.learning.optimizer import build_optimizer, build_schedule, groups_of, tensors_of
from bench.learning.task_data import TaskData
from bench.learning.train import TrainStep, fit
from bench.learning.training_state import EpochReport, TrainingState
from bench.trials.toy import tiny_clip, toy_task


def course(train: Train, steps: int, epoch: int | None = None) -> tuple[list[float], list[float]]:
    """Learning rate and beta1 before each step."""
    optimizer = build_optimizer([torch.zeros(1, requires_grad=True)], train)
    schedule = build_schedule(optimizer, train, steps, epoch)
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


def test_a_cosine_with_one_rate_an_epoch_and_a_rate_that_falls_in_steps() -> None:
    """LoDA's rates: (1 + cos(pi e / E)) / 2; SplitLoRA's: epochs 1-4, 5-7 and 8-10 with 1, 0.1 and 0.01."""
    rates, _ = course(Train(lr=2.0, schedule="cosine", warmup=0, rate_per="epoch", epochs=4), 12, 3)
    assert rates == pytest.approx([1 + math.cos(math.pi * (step // 3) / 4) for step in range(12)])
    rates, _ = course(Train(lr=3.0, schedule="steps", milestones=[5, 8]), 20, 2)
    assert rates == pytest.approx([3.0] * 8 + [0.3] * 6 + [0.03] * 6)
    rates, _ = course(Train(lr=2.0, schedule="cosine", warmup=0, rate_per="epoch", steps=7), 7, 3)
    assert rates == pytest.approx([2.0] * 3 + [1.5] * 3 + [0.5])  # a budget that ends inside an epoch


def test_a_rate_that_falls_in_steps_needs_its_epochs() -> None:
    assert Train(schedule="steps").check() == [
        "train.schedule=steps needs the epochs at which the rate falls: give them, as in train.milestones=[5,8]"
    ]
    assert Train(schedule="cosine", milestones=[5]).check() == []  # a method's own, on a stream with another schedule


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


# ---- budgets in steps


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_a_budget_in_steps_is_that_of_epochs_cut_off(steps: int) -> None:
    """40 images in batches of 16 are three steps an epoch; the images are those of training by epochs."""
    whole, data = probe()
    fit(whole, data, Train(epochs=3, batch_size=16, schedule="constant"))
    method, data = probe()
    seen: list[int] = []
    reports: list[EpochReport] = []
    fit(method, data, Train(steps=steps, batch_size=16, schedule="constant"), lambda: seen.append(1), reports.append)
    images = steps // 3 * 40 + steps % 3 * 16
    assert len(seen) == method.steps == steps and method.seen == whole.seen[:images]
    assert [report.epoch for report in reports] == list(range(math.ceil(steps / 3)))
    assert all(report.loss == pytest.approx(math.log(3), abs=0.02) for report in reports)


@pytest.mark.parametrize("stopped", range(1, 5))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_budget_in_steps_continues_at_any_step_with_the_same_bits(optimizer: str, stopped: int) -> None:
    budget = Train(steps=5, batch_size=16, schedule="cosine", warmup=2)
    train = dataclasses.replace(budget, optimizer=optimizer, betas=[0.8, 0.9], augment="inflora")
    straight, data = matrix(train)
    reports: list[EpochReport] = []
    fit(straight, data, train, on_epoch=reports.append)

    broken, data = matrix(train)
    states: list[TrainingState] = []
    data.safe_point = lambda state: states.append(copy.deepcopy(state())) if broken.steps == stopped else None
    with pytest.raises(Stopped):
        fit(broken, data, train, on_step=lambda: stop_after(broken, stopped + 1))
    continued, data = matrix(train)
    data.resume = states[0]
    for mine, kept in zip(continued.parameters(), broken.kept[stopped], strict=True):
        mine["params"][0].copy_(kept)
    again: list[EpochReport] = []
    fit(continued, data, train, on_epoch=again.append)
    assert torch.equal(continued.a, straight.a) and torch.equal(continued.b, straight.b)
    assert again == reports[len(reports) - len(again) :] and again


class Stopped(Exception):
    """Training was broken off."""


def stop_after(method: "Matrices", steps: int) -> None:
    if method.steps == steps:
        raise Stopped


class Matrices(Method):
    """Trains two matrices in groups with rates of their own, and remembers them after every step."""

    def setup(self) -> None:
        self.a = torch.ones(3, 4)
        self.b = torch.eye(4)
        self.steps = 0
        self.kept: dict[int, list[torch.Tensor]] = {}
        self.rates = ({"lr": 0.5}, {"lr_scale": 0.1, "weight_decay": 0.7})

    def parameters(self):
        return [{"params": [one], **rate} for one, rate in zip((self.a, self.b), self.rates, strict=True)]

    def loss(self, pixels, labels, task):
        inputs = pixels.mean(dim=(2, 3)) @ torch.ones(3, 4)
        return task.cross_entropy((inputs @ self.b.T) @ self.a.T, labels)

    def after_step(self) -> None:
        self.steps += 1
        self.kept[self.steps] = [self.a.detach().clone(), self.b.detach().clone()]


def matrix(train: Train) -> tuple[Matrices, TaskData]:
    _, data = probe()
    data.budget = train
    return Matrices(Matrices.Settings(), tiny_clip(), CONTEXT), data


# ---- groups


def test_groups_have_rates_and_weight_decay_of_their_own() -> None:
    """One step of SGD in float64: p - lr (gradient + decay p), with what each group says, else the run's."""
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    says = [{}, {"lr": 0.5}, {"lr_scale": 0.1}, {"weight_decay": 0.25}]
    train = Train(optimizer="sgd", lr=2.0, momentum=0, weight_decay=0.125)
    optimizer = build_optimizer([{"params": [t], **say} for t, say in zip(tensors, says, strict=True)], train)
    before = [tensor.detach().clone() for tensor in tensors]
    torch.stack([(tensor**2).sum() for tensor in tensors]).sum().backward()
    optimizer.step()
    for tensor, start, (rate, decay) in zip(
        tensors, before, [(2.0, 0.125), (0.5, 0.125), (0.2, 0.125), (2.0, 0.25)], strict=True
    ):
        assert torch.allclose(tensor.detach(), start - rate * (2 * start + decay * start), atol=1e-12)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_every_group_follows_the_schedule_at_its_own_height(schedule: str) -> None:
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr_scale": 0.1}]
    train = Train(lr=2.0, schedule=schedule, warmup=4)
    optimizer = build_optimizer(groups, train)
    schedule_ = build_schedule(optimizer, train, 12)
    for step in range(12):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10, rel=1e-12)
        if step < 11:
            optimizer.step()
            schedule_.step() if schedule_ is not None else None


def test_tensors_alone_are_one_group() -> None:
    tensors = [torch.zeros(1), torch.zeros(2)]
    assert tensors_of(tensors) == tensors and groups_of(tensors, Train())[0]["params"] == tensors
    assert tensors_of([{"params": tensors[:1]}, {"params": tensors[1:], "lr": 1.0}]) == tensors


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ([torch.zeros(1), {"params": []}], "tensors and groups"),
        ([{"params": [], "learning_rate": 1}], 'says "learning_rate", which is none of params, lr, lr_scale'),
        ([{"params": [torch.zeros(1)], "lr": 1, "lr_scale": 1}], "both lr and lr_scale"),
    ],
)
def test_groups_that_are_not_right_are_refused(parameters: list, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_optimizer(parameters, Train())


# ---- optimisers and schedules


def test_adam_takes_betas_and_eps_and_onecycle_leaves_given_betas_alone() -> None:
    train = Train(betas=[0.7, 0.8], eps=1e-3)
    optimizer = build_optimizer([torch.zeros(1)], train)
    build_schedule(optimizer, train, 10)
    assert optimizer.param_groups[0]["betas"] == (0.7, 0.8) and optimizer.param_groups[0]["eps"] == 1e-3


def test_muon_takes_matrices_and_refuses_others(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Train(optimizer="muon", lr=0.1, momentum=0.8, weight_decay=0.3)
    group = build_optimizer([torch.zeros(2, 2)], train).param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.8, 0.3)
    with pytest.raises(UserError, match=r"trains matrices only .* of the shape \(3,\): choose train.optimizer=adamw"):
        build_optimizer([torch.zeros(2, 2), torch.zeros(3)], train)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"muon needs torch 2.9 or newer"):
        build_optimizer([torch.zeros(2, 2)], train)


def test_a_warm_up_in_steps_for_every_schedule() -> None:
    """Against the definitions: linear to the rate over the steps, then the schedule."""
    assert course(Train(lr=2.0, schedule="constant", warmup=4), 6)[0] == pytest.approx([0.5, 1, 1.5, 2, 2, 2])
    assert course(Train(lr=2.0, schedule="constant", warmup=0.5), 3)[0] == [2.0] * 3  # a share is for cosine only
    rates = course(Train(lr=2.0, schedule="cosine", warmup=4), 10)[0]
    falling = [1 + math.cos(math.pi * step / 6) for step in range(6)]
    assert rates == pytest.approx([0.5, 1, 1.5, 2, *falling])


def test_a_cosine_may_end_above_zero() -> None:
    """Against the formula of DIKI's released code: 0.005 + (5 - 0.005) (1 + cos(pi k / K)) / 2."""
    rates, _ = course(Train(lr=5.0, schedule="cosine", warmup=0, lr_end=0.001), 8)
    assert rates == pytest.approx([0.005 + 4.995 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert rates[-1] == pytest.approx(0.195, abs=1e-3)


@pytest.mark.parametrize(("change", "up"), [({"warmup": 5}, 5), ({"pct_start": 0.25}, 10)])
def test_onecycle_rises_over_the_steps_it_is_given(change: dict, up: int) -> None:
    """Against the definition, in float64: half a cosine from lr/25 to lr, and one from there to lr/250000."""
    rates, _ = course(Train(lr=1.0, schedule="onecycle", **change), 40)
    top, end = up - 1, 39
    for step, rate in enumerate(rates):
        low, share = (1 / 25, 1 - step / top) if step <= top else (1 / 250000, (step - top) / (end - top))
        assert rate == pytest.approx(low + (1 - low) * (1 + math.cos(math.pi * share)) / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (Train(warmup=10, schedule="cosine"), "train.warmup=10 takes all 10 steps of a task: lower it, or raise"),
        (Train(warmup=11, schedule="constant"), "train.warmup=11 takes all 10 steps"),
        (Train(warmup=1), "a way up of a single step in a task, which has 10: raise train.warmup"),
        (Train(pct_start=0.1), "a way up of a single step in a task, which has 10: raise train.pct_start"),
    ],
)
def test_a_schedule_that_cannot_be_laid_out_is_refused(train: Train, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_schedule(build_optimizer([torch.zeros(1)], train), train, 10)


# ---- label smoothing


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_of_the_loss_and_of_the_mean_gradient(smoothing: float) -> None:
    """Against the definition in float64: the target is 1 - s at the label, and s / classes more everywhere."""
    method, data = probe()
    data.budget = Train(label_smoothing=smoothing)
    clip = method.clip
    pixels, labels = next(data.train.batches(40))
    loss = Method.loss(method, pixels, labels, data)
    logits = clip.logits(clip.encode_images(pixels), clip.encode_tokens(data.tokens)).double()
    target = torch.full((40, 3), smoothing / 3, dtype=torch.float64)
    target[torch.arange(40), labels] += 1 - smoothing
    expected = -(target * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)

    chosen = next(m for m in clip.maps.values() if m.tower == "image")
    found = mean_gradient(clip, data, [chosen])[chosen.name]
    with clip.trainable([chosen.parameter]):
        Method.loss(method, pixels, labels, data).backward()
        assert torch.allclose(found, chosen.grad, atol=1e-6)


def test_a_shared_result_knows_the_label_smoothing() -> None:
    _, data = probe()
    plain = data.identity("gradient")
    data.budget = Train(label_smoothing=0.1)
    assert data.identity("gradient") != plain


# ---- a step of the method's own


SGD = Train(epochs=2, batch_size=16, lr=0.5, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant")


class Halves(Probe):
    """Makes a step on each half of a batch, and a proximal step after both."""

    counts = True

    def setup(self) -> None:
        super().setup()
        self.heard: list[tuple[int, int, float]] = []

    def train_step(self, step: TrainStep) -> None:
        self.heard.append((step.number, step.steps, step.lr))
        everyone = torch.arange(len(step.labels))
        for half in (everyone[::2], everyone[1::2] if len(everyone) > 9 else everyone % 2 == 1):
            step.backward(half, counts=self.counts)
            step.update()
        self.bias.data = torch.nn.functional.softshrink(self.bias.data, 0.01)


def test_a_method_makes_steps_of_its_own() -> None:
    """Two half-steps and soft thresholding, against the same in float64."""
    method, data = probe(Halves)
    reports: list[EpochReport] = []
    fit(method, data, SGD, on_epoch=reports.append)
    bias, total = torch.zeros(3, dtype=torch.float64), 0.0
    for epoch in range(2):
        for _, labels in data.batches("train", epoch, batch_size=16):
            for half in (labels[::2], labels[1::2]):
                target = torch.nn.functional.one_hot(half, 3).double()
                total -= float((target @ bias.log_softmax(0)).sum())
                bias = bias - 0.5 * (bias.softmax(0) - target.mean(0))
            bias = bias.sign() * (bias.abs() - 0.01).clamp(min=0)
        assert reports[epoch].loss == pytest.approx(total / 40, rel=1e-5)
        total = 0.0
    assert torch.allclose(method.bias.double(), bias, atol=1e-6)
    assert method.heard == [(number, 6, 0.5) for number in range(6)] and method.steps == 6


def test_a_step_counts_each_image_once() -> None:
    method, data = probe(Halves)
    method.counts = False
    with pytest.raises(UserError, match="train_step counted the loss of 0 images in a batch of 16: let backward count"):
        fit(method, data, SGD)


class Looks(Probe):
    """Looks at a loss of its own that does not count, then steps along the ordinary one."""

    spoilt = -1

    def train_step(self, step: TrainStep) -> None:
        step.backward(loss=lambda pixels, labels: self.loss(pixels, labels, step.task) * self.large(step), counts=False)
        self.seen_gradient = self.bias.grad.clone()
        step.backward()
        step.update()

    def large(self, step: TrainStep) -> float:
        return float("inf") if step.number == self.spoilt else 2.0


def test_a_pass_that_does_not_count_changes_neither_training_nor_its_record() -> None:
    (plain, data), (looking, _) = probe(), probe(Looks)
    heard: list[list[float]] = [[], []]
    reports: list[list[EpochReport]] = [[], []]
    for index, method in enumerate((plain, looking)):
        observers = Observers()
        observers.on("loss", lambda one, index=index: heard[index].append(float(one.values["loss"])))
        task = dataclasses.replace(data, context=dataclasses.replace(CONTEXT, observers=observers))
        fit(method, task, SGD, on_epoch=reports[index].append)
    assert torch.equal(plain.bias, looking.bias) and heard[0] == heard[1] and len(heard[0]) == 6
    assert reports[0] == reports[1]
    assert looking.seen_gradient.norm() > 0


def test_a_loss_that_is_not_finite_is_found_in_any_pass() -> None:
    method, data = probe(Looks)
    method.spoilt = 4
    with pytest.raises(UserError, match="the loss of task toy0 became nan in step 2 of epoch 2"):
        fit(method, data, SGD)


def test_each_pass_of_a_step_in_fp16_moves_the_scale() -> None:
    """A gradient that overflows halves the scale, whether the optimiser would have used it or not."""
    method, data = probe(Looks)
    values, moved = [], []
    method.large = lambda step: 1e36 if step.number == 1 else 1.0  # type: ignore[method-assign]
    data.safe_point = lambda training: (
        values.append(training().values["scaler"]["scale"]),
        moved.append(method.bias.clone()),
    )
    with method.clip.computing("fp16"):
        fit(method, data, SGD)
    assert values == [65536.0, *[32768.0] * 5]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(moved))
    plain, data = probe()
    fit(plain, data, SGD)
    assert torch.allclose(method.bias, plain.bias, atol=1e-6)


def test_no_image_has_no_gradient() -> None:
    class Nothing(Probe):
        def train_step(self, step: TrainStep) -> None:
            step.backward()
            step.backward(torch.arange(0), counts=False)
            step.update()

    method, data = probe(Nothing)
    fit(method, data, SGD)
    assert method.bias.tolist() == [0, 0, 0]


class Penalised(Probe):
    """Has a penalty on its bias beside the loss of the batch."""

    def train_step(self, step: TrainStep) -> None:
        step.backward(beside=lambda: 0.3 * self.bias.square().sum() - self.bias[0])
        step.update()


def test_a_term_beside_the_batch_counts_in_gradient_and_loss() -> None:
    method, data = probe(Penalised)
    reports: list[EpochReport] = []
    fit(method, data, SGD, on_epoch=reports.append)
    bias, total = torch.zeros(3, dtype=torch.float64), 0.0
    for epoch in range(2):
        for _, labels in data.batches("train", epoch, batch_size=16):
            target = torch.nn.functional.one_hot(labels, 3).double()
            total -= float((target @ bias.log_softmax(0)).sum())
            total += float(0.3 * (bias**2).sum() - bias[0]) * len(labels)
            first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
            bias = bias - 0.5 * (bias.softmax(0) - target.mean(0) + 0.6 * bias - first)
        assert reports[epoch].loss == pytest.approx(total / 40, rel=1e-5)
        total = 0.0
    assert torch.allclose(method.bias.double(), bias, atol=1e-6)


def test_a_term_beside_the_batch_that_depends_on_nothing_has_no_gradient() -> None:
    class Nothing(Probe):
        def train_step(self, step: TrainStep) -> None:
            step.backward(loss=lambda pixels, labels: pixels.new_zeros(()), beside=lambda: torch.zeros(()))
            step.update()

    method, data = probe(Nothing)
    fit(method, data, SGD)
    assert method.bias.tolist() == [0, 0, 0]


class Validates(Probe):
    """Hears of epochs, and counts right answers on validation images after each."""

    validation = True

    def setup(self) -> None:
        super().setup()
        self.epochs: list[tuple[int, int, int | None]] = []

    def after_epoch(self, task: TaskData, epoch: int) -> None:
        def classify(pixels: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return self.bias.expand(len(pixels), 3)

        self.epochs.append((epoch, self.steps, task.validated(classify)))


def test_a_method_hears_of_every_epoch_the_last_one_cut_short() -> None:
    method, data = probe(Validates)
    fit(method, data, Train(epochs=2, batch_size=16))
    assert method.epochs == [(0, 3, None), (1, 6, None)]  # 40 images, none for validation
    method, data = probe(Validates)
    fit(method, data, Train(steps=4, batch_size=16))
    assert method.epochs == [(0, 3, None), (1, 4, None)]


def test_right_answers_on_validation_images_are_counted() -> None:
    method, data = probe(Validates)
    data.validation = Pixels(toy_task(0).validation, data.train.clip, True)  # four of each of three classes
    method.bias = torch.tensor([0.0, 1.0, 0.0])
    method.after_epoch(data, 0)
    assert method.epochs == [(0, 0, 4)]
    assert data.validated(lambda pixels: torch.eye(3)[torch.zeros(len(pixels), dtype=torch.int64)]) == 4

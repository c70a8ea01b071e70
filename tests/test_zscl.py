"""ZSCL: its losses, its average and its two forms, against definitions written here in float64."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from bench.methods.finetune import Finetune
from bench.methods.full_finetuning import RELEASED, distil, whole_towers
from bench.methods.lora import Lora
from bench.methods.zscl import (
    Zscl,
    ZsclFull,
    ZsclFullFaithful,
    ZsclLora,
    averaged,
    snapshots,
    squared_distance,
    squared_product,
)
from support.learning import data, nothing
from support.shapes_only import trained, vit_b_16

from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.learning.method import Method
from bench.learning.optimizer import build_schedule
from bench.learning.task_data import Context, TaskData
from bench.learning.train import TrainStep
from bench.record.flags import flags_of
from bench.runs.loading import reference_of
from bench.runs.run import run
from bench.trials.toy import tiny_clip, toy_reference

TRAIN = Train(steps=3, batch_size=8, lr=0.003, schedule="constant", weight_decay=0.0, label_smoothing=0.2)
LARGE = dataclasses.replace(TRAIN, batch_size=16)
OFF = {"anchor": 0.0, "image_loss": 0.0, "text_loss": 0.0, "snapshots": 0}


def made(cls: type[Method], reference: bool = True, **settings) -> Method:
    clip = tiny_clip()
    found = reference_of(toy_reference(), clip) if reference else None
    given = {"rank": 4} | settings if issubclass(cls, Lora) else settings
    return cls(cls.Settings(**given), clip, Context(3, 8, 0, 0, say=nothing, reference=found))


def begun(method: Method, index: int = 0, train: Train = TRAIN) -> TaskData:
    task = dataclasses.replace(data(method.clip, index, method.context), budget=train)
    method.begin_task(task)
    return task


def learn(method: Method, index: int = 0, train: Train = TRAIN) -> TaskData:
    task = begun(method, index, train)
    method.fit(task, train, nothing, nothing)
    method.end_task(task)
    return task


def weights(method: Method) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in method.clip.model.named_parameters()}


def moved(method: Method, amount: float = 0.02) -> None:
    """Give what is trained other values, as training does."""
    draw = torch.Generator().manual_seed(5)
    for tensor in method.parameters():
        tensor.data += amount * torch.randn(tensor.shape, generator=draw)


# ---- the losses


def long_way(P: torch.Tensor, S: torch.Tensor, T: float) -> float:
    """The mean over rows of the cross-entropies, summed element by element."""
    total = 0.0
    for p, s in zip(P.double().tolist(), S.double().tolist(), strict=True):
        wanted, given = ([math.exp(value / T) for value in row] for row in (p, s))
        total -= sum(w / sum(wanted) * math.log(g / sum(given)) for w, g in zip(wanted, given, strict=True))
    return T**2 * total / len(P)


def test_distillation_is_its_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    P, S = (3 * torch.randn(5, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    for T in (1.0, 2.0):
        assert float(distil(P, S, T)) == pytest.approx(long_way(P, S, T), rel=1e-12)
    kl = F.kl_div((S / 2).log_softmax(1), (P / 2).softmax(1), reduction="batchmean")
    assert float(distil(P, S, 2) - distil(P, P, 2)) == pytest.approx(4 * float(kl), rel=1e-12)
    shift = torch.randn(5, 1, generator=draw, dtype=torch.float64)
    assert float(distil(P + shift, S - 2 * shift, 2)) == pytest.approx(float(distil(P, S, 2)), rel=1e-12)
    assert float(distil(P.T, S.T, 2)) != pytest.approx(float(distil(P, S, 2)), rel=1e-3)


def test_a_student_that_is_the_teacher_has_no_gradient_and_the_loss_is_the_entropy() -> None:
    P = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    S = P.clone().requires_grad_()
    loss = distil(P, S, 2)
    loss.backward()
    assert S.grad is not None and S.grad.abs().max() < 1e-15
    q = (P / 2).softmax(1)
    assert float(loss.detach()) == pytest.approx(float(-4 * (q * q.log()).sum() / 4), rel=1e-12)
    assert float(F.cross_entropy(torch.zeros(3, 8), torch.arange(3), label_smoothing=0.2)) == pytest.approx(math.log(8))


def test_the_distance_grows_quadratically() -> None:
    draw = torch.Generator().manual_seed(2)
    start = [torch.randn(3, 4, generator=draw), torch.randn(5, generator=draw)]
    u = [torch.randn(one.shape, generator=draw) for one in start]
    length = sum(float(one.double().square().sum()) for one in u)
    assert float(squared_distance(start, start)) == 0
    for c in (0.5, 3.0):
        there = [one + c * v for one, v in zip(start, u, strict=True)]
        assert float(squared_distance(there, start)) == pytest.approx(c**2 * length, rel=1e-5)


def test_the_trace_formula_is_the_norm_of_the_product() -> None:
    draw = torch.Generator().manual_seed(3)
    A, B = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 9), (7, 4)))
    assert float(squared_product(A, B)) == pytest.approx(float((B @ A).square().sum()), rel=1e-12)


# ---- the average


def test_the_papers_snapshots_are_eleven_and_short_tasks_have_theirs() -> None:
    assert snapshots(1001, 11) == list(range(0, 1001, 100))
    assert snapshots(1000, 11) == [*range(0, 1000, 100), 999]
    assert snapshots(50, 11) == [*range(0, 50, 5), 49]
    assert snapshots(4, 11) == [0, 1, 2, 3] and snapshots(1, 11) == [0]
    assert snapshots(30, 1) == [29] and snapshots(30, 2) == [0, 29] and snapshots(30, 0) == []
    for steps in range(1, 60):
        found = snapshots(steps, 11)
        assert found == sorted(set(found)) and {0, steps - 1} <= set(found) <= set(range(steps))
        assert len(found) == min(steps, 11)


def test_a_worked_example_of_the_average() -> None:
    """The start is 10, the weights after step k are k: (10 + 5500) / 12."""
    mean = torch.tensor(10.0)
    for number, step in enumerate(snapshots(1001, 11), start=1):
        averaged(mean, number, torch.tensor(float(step)))
    assert float(mean) == pytest.approx(459.1667, abs=1e-4)


@pytest.mark.parametrize("cls", [ZsclFull, ZsclLora])
def test_a_task_ends_with_the_mean_of_its_start_and_the_snapshots(
    cls: type[Zscl], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(cls, snapshots=2)
    learn(method)
    task = begun(method, 1)
    before = weights(method)
    seen = []

    def keep(step: int, updated: Method) -> None:
        if step in (0, 2):
            dense = weights(updated)
            for m in updated.clip.maps.values():
                if m.update:  # as the weights would be if training ended here
                    name = next(key for key, one in updated.clip.model.named_parameters() if one is m.parameter)
                    dense[name][m.rows] += m.update.delta().detach()
            seen.append({name: one.double() for name, one in dense.items()})

    step_of = TrainStep.update

    def update(step: TrainStep) -> None:
        step_of(step)
        keep(step.number, method)

    monkeypatch.setattr(TrainStep, "update", update)
    method.fit(task, TRAIN, nothing, nothing)
    method.end_task(task)
    assert len(seen) == 2 and method.report() == {"snapshots": 2}
    for name, now in weights(method).items():
        mean = (before[name].double() + sum(one[name] for one in seen)) / 3
        assert (now - mean).abs().max() < 1e-6, name
    change = max(float((now - before[name]).abs().max()) for name, now in weights(method).items())
    assert change > 1e-3 and not method.mean and all(m.update is None for m in method.clip.maps.values())


# ---- the methods


@pytest.mark.parametrize(("cls", "plain"), [(ZsclFull, Finetune), (ZsclLora, Lora)])
def test_without_weights_and_average_it_is_the_plain_method_to_the_bit(cls: type[Zscl], plain: type[Method]) -> None:
    mine, other = made(cls, reference=False, **OFF), made(plain, reference=False)
    for index in range(2):
        learn(mine, index), learn(other, index)
    assert mine.clip.weights_sha256() == other.clip.weights_sha256()


def test_every_part_changes_what_is_learned() -> None:
    methods = [made(ZsclFull, **OFF | changed) for changed in ({}, *({name: 2} for name in OFF))]
    for method in methods:
        learn(method, train=dataclasses.replace(TRAIN, steps=2))
    assert len({method.clip.weights_sha256() for method in methods}) == 5


@pytest.mark.parametrize("cls", [ZsclFull, ZsclLora])
def test_the_first_step_has_the_gradient_of_the_cross_entropy_alone(cls: type[Zscl]) -> None:
    """The student is the teacher and the anchor."""
    method = made(cls)
    task = begun(method)
    chosen = method.reference_batch(task, 0)
    with method.clip.trainable(list(method.parameters())):
        (method.distillation(chosen) + method.distance()).backward()
        found = [one.grad for one in method.parameters() if one.grad is not None]
    assert found and max(float(one.abs().max()) for one in found) < 1e-4
    assert float(method.distance()) == 0


def test_the_loss_of_a_step_is_its_definition() -> None:
    """All terms in float64; the teacher is a second model."""
    method, teacher = made(ZsclFull, anchor=0.7, image_loss=1.3, text_loss=0.4, temperature=3.0), tiny_clip()
    learn(method)
    task = begun(method, 1)
    start = weights(method)
    moved(method)
    reference, chosen = method.reference, method.reference_batch(task, 0)
    pixels, labels = next(iter(task.batches("train", batch_size=8, bar=False)))
    with torch.no_grad():
        sentences = teacher.encode_tokens(reference.tokens).double()
        P, S = (
            float(one.logit_scale) * one.encode_images(reference.images(chosen)).double() @ sentences.T
            for one in (teacher, method.clip)
        )
        answers = method.clip.logits(method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens))
    expected = float(F.cross_entropy(answers.double(), labels, label_smoothing=0.2))
    expected += 1.3 * long_way(P, S, 3.0) + 0.4 * long_way(P.T, S.T, 3.0)
    expected += 0.7 * sum(float((now - start[name]).double().square().sum()) for name, now in weights(method).items())
    heard = []
    method.context.observers.on("loss", lambda one: heard.append(float(one.values["loss"])))
    method.fit(task, TRAIN, nothing, nothing)
    assert heard[0] == pytest.approx(expected, rel=1e-5)


def test_the_distance_of_low_rank_updates_is_that_of_the_weights() -> None:
    method = made(ZsclLora, alpha=8.0)
    begun(method)
    moved(method)
    deltas = [m.update.delta().detach().double() for m in method.targets]
    assert float(method.distance()) == pytest.approx(float(sum(one.square().sum() for one in deltas)), rel=1e-4)


def test_distillation_has_no_gradient_in_the_text_tower() -> None:
    method = made(ZsclFull)
    task = begun(method)
    moved(method)
    with method.clip.trainable(list(method.parameters())):
        method.distillation(method.reference_batch(task, 0)).backward()
        grown = {name for name, one in method.clip.model.named_parameters() if one.grad is not None and one.grad.any()}
    assert grown and all(name.startswith("visual.") for name in grown)


def test_the_teacher_is_the_untrained_model_and_is_asked_once() -> None:
    first, untrained = made(ZsclFull), tiny_clip()
    learn(first)
    known = first.known_images, first.known_texts
    reference = reference_of(toy_reference(), untrained)
    with torch.no_grad():
        again = untrained.encode_images(reference.images(torch.arange(12))), untrained.encode_tokens(reference.tokens)
    assert all((one - other).abs().max() < 1e-6 for one, other in zip(known, again, strict=True))
    assert first.teacher is None
    begun(first, 1)
    assert all(one is other for one, other in zip(known, (first.known_images, first.known_texts), strict=True))
    continued = made(ZsclFull)  # in another process, after the first task
    continued.clip.model.load_state_dict(first.clip.model.state_dict())
    begun(continued, 1)
    assert torch.equal(continued.known_images, known[0]) and torch.equal(continued.known_texts, known[1])


def test_reference_images_come_in_an_order_of_their_own_that_begins_again() -> None:
    method, train = made(ZsclFull), dataclasses.replace(TRAIN, batch_size=5)
    task = begun(method, 0, train)
    drawn = [method.reference_batch(task, number).tolist() for number in range(6)]
    for walk in (drawn[:2], drawn[2:4], drawn[4:]):
        assert [len(batch) for batch in walk] == [5, 5] and len({*walk[0], *walk[1]}) == 10
    assert len({tuple(sorted(walk)) for walk in map(tuple, drawn)}) == 6
    other = made(ZsclFull)
    later = begun(other, 0, train)
    assert [other.reference_batch(later, number).tolist() for number in (5, 0, 3)] == [drawn[i] for i in (5, 0, 3)]
    assert len(method.reference_batch(begun(method, 1, LARGE), 7)) == 12, (
        "a set that is smaller than a batch is the batch"
    )


def test_it_is_refused_without_a_reference_set() -> None:
    for cls in (ZsclFull, ZsclLora):
        assert flags_of(cls, cls.Settings()).outside_data == "reference"
        assert flags_of(cls, cls.Settings(image_loss=0.0)).outside_data == "reference"
        assert not flags_of(cls, cls.Settings(image_loss=0.0, text_loss=0.0)).outside_data
    with pytest.raises(UserError, match="method zscl-full learns from a reference set: add reference=NAME"):
        run(resolve(["method=zscl-full", "stream=mtil-order1", "track.wandb=off"]))


def test_the_released_rates_are_those_of_a_thousand_steps_and_one_without_effect() -> None:
    train = resolve(["method=zscl-full-faithful", "stream=mtil-order1", "train.steps=1000"]).run.train
    assert (train.steps, train.batch_size, train.weight_decay, train.label_smoothing) == (1000, 64, 0.0, 0.2)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=train.lr)
    schedule, rates = build_schedule(optimizer, train, 1000, 100), []
    assert schedule is not None
    for _ in range(1001):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for k, rate in enumerate(rates):
        shape = (k + 1) / 100 if k < 100 else (1 + math.cos(math.pi * (k - 100) / 900)) / 2
        assert rate == pytest.approx(1e-5 * shape, rel=1e-9, abs=1e-20)
    assert rates[99] == 1e-5 and rates[1000] == 0
    assert ZsclFullFaithful.defaults is RELEASED and ZsclFullFaithful.Settings is ZsclFull.Settings


def test_all_of_clip_but_the_logit_scale_is_trained() -> None:
    assert trained(list(whole_towers(vit_b_16()).values())) == 149_620_736

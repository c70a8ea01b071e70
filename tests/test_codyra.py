"""CoDyRA against its definitions, written here in float64 and apart from the implementation."""

import collections
import copy
import math

import numpy as np
import pytest
import torch
from bench.methods.codyra import Codyra, CodyraFaithful, released_threshold, soft_threshold, text_loss, thresholds
from support.shapes_only import trained, vit_b_16

from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.pixels import Pixels
from bench.learning.observers import Observers
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.toy import tiny_clip, toy_task


def made(cls: type[Codyra] = Codyra, clip: Clip | None = None, context: Context | None = None, **settings) -> Codyra:
    settings = {"rank": 4} | settings
    context = context or Context(tasks=2, batch_size=16, init_seed=0, data_seed=0)
    return cls(cls.Settings(**settings), clip or tiny_clip(), context)


def task_of(method: Codyra, index: int = 0, **budget) -> TaskData:
    task, clip = toy_task(index), method.clip
    train = Train(**{"steps": 20, "batch_size": 16, "lr": 0.02} | budget)
    pixels = Pixels(task.train, clip, True)
    return TaskData(index, task.name, task.prompts, clip.tokenize(task.prompts), pixels, method.context, train)


def learn(method: Codyra, index: int = 0, **budget) -> TaskData:
    task = task_of(method, index, **budget)
    method.begin_task(task)
    method.fit(task, task.budget, lambda: None, lambda report: None)
    method.end_task(task)
    return task


def gates(method: Codyra) -> torch.Tensor:
    return torch.stack([m.update.g for m in method.targets]).detach()


# ---- the thresholds of a task


def released(steps: int, dense: float, lambda_num: int, kappa_max: float) -> list[float]:
    """The released loop, step by step."""
    levels, index, found = np.linspace(0, kappa_max, lambda_num), 0, []
    length = math.floor((steps - dense * steps) / lambda_num)
    for step in range(steps):
        if step >= dense * steps and step % length == 0:
            index = min(index + 1, lambda_num - 1)
        found.append(levels[index] if step > dense * steps else 0)
    return found


@pytest.mark.parametrize(
    ("steps", "dense", "lambda_num"), [(500, 0.5, 50), (33, 0.5, 4), (1000, 0.3, 50), (100, 0.5, 50), (7, 0.0, 2)]
)
def test_thresholds_are_those_of_the_released_loop(steps: int, dense: float, lambda_num: int) -> None:
    expected = released(steps, dense, lambda_num, 0.005)
    assert np.allclose(thresholds(steps, dense, lambda_num, 0.005), expected, rtol=1e-14, atol=0)


def test_thresholds_of_500_steps_are_as_counted() -> None:
    found = thresholds(500, 0.5, 50, 0.005)
    used = collections.Counter(round(kappa / 0.005 * 49) for kappa in found[251:])
    assert used == {1: 4, **dict.fromkeys(range(2, 49), 5), 49: 10}
    assert not any(found[:251]) and found == sorted(found)
    assert sum(found) == pytest.approx(6369 * 0.005 / 49, rel=1e-12) == pytest.approx(0.6499, abs=1e-5)


def test_a_first_level_of_zero_is_applied_where_the_dense_part_ends_between_two_levels() -> None:
    found = thresholds(33, 0.5, 4, 3.0)
    assert found[17:21] == [0, 0, 0, 1.0]


@pytest.mark.parametrize("steps", range(3, 99))
def test_a_short_task_is_thinned_out_too(steps: int) -> None:
    found = thresholds(steps, 0.5, 50, 1.0)
    assert found == sorted(found) and found[-1] == 1.0
    assert len(set(found) - {0}) <= steps / 2


@pytest.mark.parametrize("steps", [6, 60, 500, 5000])
def test_the_sum_of_thresholds_does_not_depend_on_the_steps(steps: int) -> None:
    assert sum(made().schedule(steps)) == pytest.approx(0.65)
    fixed = sum(made(kappa_sum=None, kappa_max=0.005).schedule(steps))
    assert fixed == pytest.approx(sum(thresholds(steps, 0.5, 50, 0.005)))


# ---- what a threshold does to the gates


def test_the_rule_of_the_paper_moves_towards_zero_and_stops_there() -> None:
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    found = soft_threshold(x, 0.1)
    expected = [math.copysign(abs(v) - 0.1, v) if abs(v) > 0.1 else 0 for v in x.tolist()]
    assert (found - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-15
    assert torch.equal(found, -found.flip(0)), "odd"
    assert ((found[1:] - found[:-1]) <= x[1:] - x[:-1] + 1e-15).all(), "1-Lipschitz"
    assert soft_threshold(torch.tensor([0.19]).double(), 0.1).item() == pytest.approx(0.09)


def test_the_released_rule_zeroes_what_is_within_twice_the_threshold() -> None:
    kappa = 0.125  # of which sums are exact
    given = torch.tensor([0.3125, 0.25, 0.2, 0.125, 0.1, 0.0, -0.2, -0.3125], dtype=torch.float64)
    expected = [0.1875, 0.125, 0, 0.125, 0, 0, 0, -0.1875]  # exactly kappa stays
    assert released_threshold(given, kappa).tolist() == expected
    assert torch.equal(released_threshold(given, 0.0), given)
    assert released_threshold(torch.tensor([0.25, 0.19]).double(), 0.1).tolist() == pytest.approx([0.15, 0])


def thinned(rule, kappas: list[float], count: int = 20_001) -> float:
    """Share of N(0, 1) that is left without a gradient."""
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    g = torch.special.ndtri(grid)
    for kappa in kappas:
        g = rule(g, kappa)
    return float((g != 0).double().mean())


def test_half_of_the_gates_survive_without_a_gradient() -> None:
    kappas = [kappa for kappa in thresholds(500, 0.5, 50, 0.005) if kappa]
    assert thinned(released_threshold, kappas) == pytest.approx(0.513, abs=5e-4)
    assert thinned(soft_threshold, kappas) == pytest.approx(math.erfc(0.6499 / 2**0.5), abs=5e-4)


def test_equal_sums_leave_the_same_gates() -> None:
    shares = [thinned(soft_threshold, [k for k in made().schedule(steps) if k]) for steps in (60, 500, 1500)]
    assert max(shares) - min(shares) < 1e-4


@pytest.mark.parametrize(("cls", "rule"), [(Codyra, "paper"), (CodyraFaithful, "released")])
def test_every_step_applies_its_threshold_to_every_gate(cls: type[Codyra], rule: str) -> None:
    fixed = {"kappa_max": 0.1} if cls is CodyraFaithful else {}
    method = made(cls, maps=["q", "fc1"], **fixed)
    task = task_of(method)
    method.begin_task(task)
    expected = gates(method).double()
    for kappa in method.schedule(20):
        method.after_step()
        moved = torch.where(expected.abs() > kappa, expected - kappa * expected.sign(), expected)
        below = moved.abs() < kappa if rule == "released" else expected.abs() <= kappa
        expected = torch.where(below & (kappa > 0), 0.0, moved)
        assert (gates(method) - expected).abs().max() < 1e-6
    assert 0 < (expected != 0).double().mean() < 1


# ---- start, training, merging


def test_a_task_starts_with_the_function_and_gates_from_a_normal_distribution() -> None:
    method = made(rank=16, clip=tiny_clip())
    task = task_of(method)
    pixels = next(task.batches("look"))[0]
    before = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
    method.begin_task(task)
    after = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(before, after, strict=True))
    drawn = gates(method)
    assert len(set(drawn.flatten().tolist())) == drawn.numel() == 16 * len(method.targets)
    assert abs(drawn.mean()) < 0.2 and 0.85 < drawn.std() < 1.15
    for m in method.targets:
        assert 0.9 < m.update.A.abs().max() * m.in_features**0.5 <= 1 and not m.update.B.any()
    ones = made(gate_init="one")
    ones.begin_task(task_of(ones))
    assert (gates(ones) == 1).all()


def test_what_is_merged_is_the_sum_of_the_gated_components_that_are_left() -> None:
    method = made(rank=8)
    for index in range(2):
        before = {m.name: m.weight.clone() for m in method.targets}
        task = task_of(method, index)
        method.begin_task(task)
        method.fit(task, task.budget, lambda: None, lambda report: None)
        parts = {m.name: copy.deepcopy(m.update) for m in method.targets}
        method.end_task(task)
        left = method.report()["gates"]
        assert 0 < sum(left.values()) < 8 * len(left)
        for m in method.targets:
            one = parts[m.name]
            change = (m.weight - before[m.name]).double()
            kept = [i for i in range(8) if one.g[i] != 0]
            assert left[m.name] == len(kept)
            expected = sum(one.g[i].double() * torch.outer(one.B[:, i].double(), one.A[i].double()) for i in kept)
            assert (change - expected).abs().max() < 1e-6
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= len(kept)


def test_a_map_without_gates_keeps_its_weight_to_the_bit() -> None:
    method = made()
    task = task_of(method)
    before = {m.name: m.weight.clone() for m in method.targets}
    method.begin_task(task)
    with torch.no_grad():
        for m in method.targets:
            m.update.B.normal_()
            m.update.g.zero_()
    lines: list[str] = []
    object.__setattr__(method.context, "say", lines.append)
    method.end_task(task)
    assert all(torch.equal(m.weight, before[m.name]) for m in method.targets)
    assert "all gates of task toy0 are zero (its thresholds sum to 0.65)" in lines[0]


def test_only_components_and_gates_are_trained() -> None:
    method = made()
    before = copy.deepcopy(method.clip.model.state_dict())
    task = task_of(method)
    method.begin_task(task)
    assert method.fit(task, task.budget, lambda: None, lambda report: None) == trained(method.parameters())
    assert all(torch.equal(t, before[name]) for name, t in method.clip.model.state_dict().items())
    assert trained(method.parameters()) == sum(4 * (m.in_features + m.out_features + 1) for m in method.targets)


@pytest.mark.parametrize(("cls", "count"), [(Codyra, 122_880 * 16 + 96 * 16), (CodyraFaithful, 4_425_984)])
def test_on_vit_b_16_as_many_values_are_trained_as_published(cls: type[Codyra], count: int) -> None:
    method = made(cls, vit_b_16(), rank=16)
    method.begin_task(task_of(made()))
    assert trained(method.parameters()) == count
    for m in method.targets:
        m.update = None


# ---- the two losses


def test_the_text_loss_is_the_cross_entropy_of_classes_over_the_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    images, texts, earlier = (torch.randn(n, 6, generator=draw).double() for n in (9, 4, 5))
    labels = torch.tensor([0, 0, 3, 1, 3, 0, 1, 1, 3])  # nothing of class 2
    for matrix in (images, texts, earlier):
        matrix.requires_grad_(True)
    classes = torch.cat([earlier, texts])  # [C, width]
    rows = 7.0 * classes @ images.T  # [C, batch]
    target = torch.zeros(9, 9, dtype=torch.float64)
    for sample, label in enumerate(labels):
        target[5 + label, sample] = 1  # not divided by the number of images
    expected = torch.nn.functional.cross_entropy(rows, target)
    found = text_loss(7.0 * images @ texts.T, labels, 9)
    assert abs(found - expected) < 1e-12
    wanted = torch.autograd.grad(expected, [images, texts, earlier])
    assert not wanted[2].any()
    for gradient, other in zip(torch.autograd.grad(found, [images, texts]), wanted, strict=False):
        assert (gradient - other).abs().max() < 1e-12


def test_the_second_loss_counts_all_classes_so_far_and_needs_the_image_tower() -> None:
    method = made(CodyraFaithful)
    learn(method, 0, steps=6)
    task = task_of(method, 1)
    assert {key: int(value) for key, value in method.state_dict().items()} == {"earlier": 3}
    again = made(CodyraFaithful, method.clip)
    again.load_state_dict(method.state_dict())
    pixels, labels = next(task.batches("look"))
    logits = method.clip.logits(method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)).double()
    image = -logits.log_softmax(1)[range(len(labels)), labels].mean()
    text = -logits.log_softmax(0)[range(len(labels)), labels].sum() / 6
    for one in (method, again):
        assert abs(one.loss(pixels, labels, task) - image - text) < 1e-5
    assert abs(made(CodyraFaithful, method.clip, towers=["text"]).loss(pixels, labels, task) - image) < 1e-5
    assert abs(made(Codyra, method.clip).loss(pixels, labels, task) - image) < 1e-5
    assert made().state_dict() == {}


class Two:
    """Stands for a run of two processes."""

    size = 2


def test_the_second_loss_is_refused_in_several_processes() -> None:
    context = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0, world=Two())
    with pytest.raises(UserError, match="method.text_loss compares all images of a batch, which several processes"):
        made(CodyraFaithful, context=context)
    made(context=context)


# ---- settings, and what is shown


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("kappa_sum=4", "method.kappa_sum takes 4 off every gate, which kills them all"),
        ("kappa_sum=1 gate_init=one", "since they start within 1 of zero: lower it"),
        ("kappa_max=0.005", "method.kappa_sum and method.kappa_max decide the same: give one of them"),
        ("kappa_sum=null", "give one of them and set the other to null"),
        ("dense=1", "method.dense"),
        ("lambda_num=1", "method.lambda_num"),
        ("maps=[]", "choose no linear map"),
        ("rank=129", "method.rank=129 is above the width 128"),
    ],
)
def test_settings_outside_of_the_method_are_refused(words: str, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(["method=codyra", *(f"method.{word}" for word in words.split())])
    assert problem in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_a_highest_threshold_that_kills_every_gate_is_refused_before_training() -> None:
    method = made(kappa_sum=None, kappa_max=0.005)
    with pytest.raises(UserError, match=r"method.kappa_max takes 6\.\d+ off every gate.* \(task toy0 has 5000 steps\)"):
        method.begin_task(task_of(method, steps=5000))


@pytest.mark.parametrize(("steps", "said"), [(1, "1 step"), (2, "2 steps")])
def test_a_task_too_short_for_any_threshold_says_so(steps: int, said: str) -> None:
    lines: list[str] = []
    method = made(context=Context(2, 16, 0, 0, say=lines.append))
    learn(method, steps=steps, schedule="constant")
    assert lines == [f"note: task toy0 has {said}, too few to thin out its gates (method.dense=0.5)"]
    assert sum(method.report()["gates"].values()) == 4 * len(method.targets)


def test_listeners_hear_thresholds_and_gates() -> None:
    observers, heard = Observers(), {}
    observers.on("method", lambda one: heard.update({one.name: one.values}))
    method = made(context=Context(2, 16, 0, 0, observers=observers))
    learn(method, steps=6)
    assert heard["thresholds"]["kappas"] == method.schedule(6)
    assert heard["gates"]["gates"].shape == (len(method.targets), 4)

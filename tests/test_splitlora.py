"""SplitLoRA: its split, its start and its memory against definitions written here in float64."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from bench.methods.low_rank import PerTower, kaiming_uniform
from bench.methods.splitlora import SplitLora, SplitLoraFaithful, first_free, random_rows, running_mean, share_seen
from support.large import vit_b_16
from support.learning import TRAIN, data, learn, nothing, weights

from bench.config.fingerprint import fingerprint
from bench.config.resolve import resolve
from bench.config.run_settings import Surroundings, Train
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)


def made(**settings) -> SplitLora:
    chosen = {"rank": 4, "alpha": PerTower(2.0, 2.0)} | settings
    return SplitLora(SplitLora.Settings(**chosen), tiny_clip(), CONTEXT)


def scores(shares: torch.Tensor, finished: int, alpha: float) -> list[float]:
    """Energy of old tasks that is left after each index, against the share of directions from it on."""
    d = len(shares)
    return [finished * (1 - float(shares[: i + 1].sum())) - alpha * (d - i) / d for i in range(d)]


# ---- the split


def test_worked_examples_of_the_split() -> None:
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert scores(shares, 1, 1.0) == pytest.approx([-0.40, -0.45, -0.40, -0.25])
    assert first_free(shares, 1, 1.0) == 2  # the last two columns are free
    assert first_free(shares, 2, 1.0) == 3
    assert first_free(shares, 3, 1.0) == 3  # none would be left: the last one is kept
    assert first_free(shares, 1, 4.0) == 2  # the first two are protected in any case
    assert first_free(shares, 1, 4.0, forced=0) == 0


def test_the_split_is_the_first_minimum_of_the_scores() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        d = int(torch.randint(4, 40, (), generator=draw))
        spectrum = torch.rand(d, generator=draw, dtype=torch.float64).pow(4).sort(descending=True).values * 7
        finished = int(torch.randint(1, 9, (), generator=draw))
        alpha = float(torch.rand((), generator=draw)) * 10 + 0.01
        found = scores(spectrum / spectrum.sum(), finished, alpha)
        best = found.index(min(found))
        assert first_free(spectrum, finished, alpha) == min(max(best, 1) + 1, d - 1)
        assert first_free(spectrum, finished + 1, alpha) >= first_free(spectrum, finished, alpha)
        assert first_free(spectrum, finished, 2 * alpha) <= first_free(spectrum, finished, alpha)
        assert first_free(spectrum, finished, 1e6, forced=3) == 3


def test_a_direction_is_protected_when_its_energy_is_above_the_share_of_the_mean() -> None:
    spectrum = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.5, 0.0, 0.0])  # the mean is 2
    assert first_free(spectrum, 1, 0.8) == 3  # above 1.6
    assert first_free(spectrum, 2, 0.8) == 4  # above 0.8
    assert first_free(spectrum, 8, 0.8) == 6  # above 0.2


# ---- the start


def test_rows_have_the_norm_of_the_usual_start_and_lie_in_the_minor_subspace() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=draw, dtype=torch.float64)).Q
    for k in (1, 3, 8):
        drawn = torch.randn(12, 4, generator=draw, dtype=torch.float64)
        A = random_rows(basis[:, 12 - k :], drawn, 0.7, 3)
        assert A.shape == (4, 12) and float(A.norm()) == pytest.approx(0.7 / 3)
        assert (A @ basis[:, : 12 - k]).abs().max() < 1e-12
        assert torch.linalg.matrix_rank(A) == min(k, 4)
        protected = basis[:, : 12 - k]
        expected = (drawn - protected @ protected.T @ drawn).T
        assert torch.allclose(A / A.norm(), expected / expected.norm())
        turned = basis[:, 12 - k :] * (1 - 2 * (torch.arange(k) % 2))  # as another device may find them
        assert torch.allclose(random_rows(turned, drawn, 0.7, 3), A, atol=1e-14)


def test_the_usual_start_has_the_expected_norm() -> None:
    draw = torch.Generator().manual_seed(0)
    squares = [float((kaiming_uniform((8, 512), draw) ** 2).sum()) for _ in range(50)]
    assert sum(squares) / 50 == pytest.approx(8 / 3, rel=0.02)


def test_rows_in_random_directions_see_one_and_rows_beside_the_inputs_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 6, generator=draw, dtype=torch.float64)
    x[:, 3:] = 0
    A = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    by_token = (x @ A.T).pow(2).sum() / (A.pow(2).sum() * x.pow(2).sum())
    assert share_seen(A, x.T @ x) == pytest.approx(math.sqrt(6 * float(by_token)))
    assert share_seen(torch.eye(6, dtype=torch.float64), x.T @ x) == pytest.approx(1)
    assert share_seen(torch.eye(6)[3:], x.T @ x) == 0


# ---- the memory


def test_the_mean_does_not_depend_on_how_the_tokens_are_divided() -> None:
    x = torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, tokens = torch.zeros(5, 5, dtype=torch.float64), 0
    for part in x.split([60, 30, 10]):
        mean, tokens = running_mean(mean, tokens, part.T @ part, len(part)), tokens + len(part)
    assert torch.allclose(mean, x.T @ x / 100)
    assert torch.allclose(mean, mean.T) and torch.linalg.eigvalsh(mean).min() > -1e-12


def test_the_memory_is_the_mean_over_all_tokens_of_all_tasks_each_after_it_was_learned() -> None:
    method, total, count = made(towers=["image"]), 0.0, 0
    for index in range(2):
        task = learn(method, index)
        rows: list[torch.Tensor] = []
        with method.clip.recording({"image.1.o": lambda x, mask, rows=rows: rows.append(x.flatten(0, -2).double())}):
            for pixels, _ in task.batches("another order", batch_size=7):
                method.clip.encode_images(pixels)
        total, count = total + sum(part.T @ part for part in rows), count + sum(map(len, rows))
    state = method.state_dict()
    assert int(state["image.1.o.tokens"]) == count == 2 * 40 * 10
    assert torch.allclose(state["image.1.o"], total / count, rtol=1e-4, atol=1e-6)
    assert method.stored_numbers() == 4 * (64 * 64 + 1)


# ---- gradients in place of inputs


def full_gradients(method: SplitLora, task: TaskData) -> dict[str, torch.Tensor]:
    """Gradients of the mean loss over all images, by map, with ordinary autograd."""
    images, labels = (torch.cat(parts) for parts in zip(*task.batches("another order"), strict=True))
    with method.clip.trainable(m.parameter for m in method.targets):
        logits = method.clip.logits(method.clip.encode_images(images), method.clip.encode_tokens(task.tokens))
        torch.nn.functional.cross_entropy(logits, labels).backward()
        return {m.name: m.parameter.grad[m.rows].double().clone() for m in method.targets}


def test_the_split_of_gradients_is_the_one_of_the_paper() -> None:
    """The gradient of every task after it was learned, their mean, and a scan over k."""
    method, gradients = made(stat="gradient", forced=0, alpha=PerTower(8.0, 8.0)), []
    for index in range(2):
        gradients.append(full_gradients(method, learn(method, index)))
    task, before = data(method.clip, 2), weights(method)
    method.begin_task(task)
    protected = set()
    for m in method.targets:
        mean = (gradients[0][m.name] + gradients[1][m.name]) / 2
        assert (method.means[m.name] - mean).norm() < 1e-4 * mean.norm()
        _, values, right = torch.linalg.svd(method.means[m.name].double())
        d, shares = m.in_features, values / values.sum()
        assert len(shares) == d
        found = [2 * float(shares[d - k :].sum()) - 8.0 * k / d for k in range(1, d + 1)]
        k = found.index(min(found)) + 1
        assert method.protected[m.name] == d - k
        assert (m.update.A.double() @ right[: d - k].T).norm() < 1e-6
        protected.add(d - k)
    assert len(protected) > 2
    method.fit(task, TRAIN, nothing, nothing)
    method.end_task(task)
    assert all((m.weight - before[m.name]).norm() > 1e-4 for m in method.targets)
    assert set(method.report()) == {"protected", "seen"} and method.state_dict()["image.0.q.tokens"] == 3


def test_gradients_of_maps_with_more_inputs_than_outputs_leave_all_other_directions_free() -> None:
    method = made(stat="gradient", maps=["fc2"], towers=["image"], alpha=PerTower(1e-3, 1e-3))
    learn(method, 0)
    method.begin_task(data(method.clip, 1))
    (width,) = {m.in_features for m in method.targets}
    assert width == 256 and all(2 < count <= 64 for count in method.protected.values())


@pytest.mark.parametrize("name", ["splitlora", "splitlora-faithful"])
def test_runs_from_before_the_choice_of_a_statistic_keep_their_names(name: str) -> None:
    flat = resolve([f"method={name}"]).flat
    assert fingerprint(flat) == fingerprint({key: value for key, value in flat.items() if key != "method.stat"})
    assert fingerprint(resolve([f"method={name}", "method.stat=gradient"]).flat) != fingerprint(flat)


# ---- the method


def test_the_first_task_starts_as_lora_and_later_ones_in_the_minor_subspace() -> None:
    method = made()
    task = data(method.clip, 0)
    method.begin_task(task)
    for m in method.targets:
        drawn = kaiming_uniform((4, m.in_features), task.init_generator(f"splitlora {m.name}"))
        assert torch.equal(m.update.A, drawn) and not m.update.B.any() and m.update.scale == 1
    for index in range(3):
        learn(method, index)
    task = data(method.clip, 3)
    state = method.state_dict()
    method.begin_task(task)
    for m in method.targets:
        values, vectors = torch.linalg.eigh(state[m.site.name])
        alone = vectors.flip(1)[:, : method.protected[m.site.name]]
        best = scores(values.flip(0) / values.sum(), 3, 2.0)
        assert alone.shape[1] == min(max(best.index(min(best)), 1) + 1, m.in_features - 1)
        A = m.update.A.double()
        assert (A @ alone).abs().max() < 1e-6
        drawn = kaiming_uniform((4, m.in_features), task.init_generator(f"splitlora {m.name}"))
        assert float(A.norm()) == pytest.approx(float(drawn.norm()) / 4, rel=1e-5)
    assert not torch.equal(method.targets[0].update.A, method.targets[1].update.A)  # q and k draw their own


@pytest.mark.parametrize("shrink", [True, False])
def test_protected_directions_keep_their_outputs(shrink: bool) -> None:
    method = made(shrink=shrink)
    learn(method, 0)
    before, memory = weights(method), {name: mean.clone() for name, mean in method.means.items()}
    task = data(method.clip, 1)
    method.begin_task(task)
    norms = {m.name: float(m.update.A.norm()) for m in method.targets}
    assert method.fit(task, TRAIN, nothing, nothing) == 4 * sum(m.out_features for m in method.targets)
    method.end_task(task)
    for m in method.targets:
        alone = torch.linalg.eigh(memory[m.site.name]).eigenvectors.flip(1)[:, : method.protected[m.site.name]]
        change = (m.weight - before[m.name]).double()
        assert change.norm() > 1e-4 and (change @ alone).abs().max() < 1e-5
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 4
        assert norms[m.name] == pytest.approx(math.sqrt(4 / 3) / (2 if shrink else 1), rel=0.25)
    report = method.report()
    assert report["protected"] == method.protected and set(report["seen"]) == {"image", "text"}
    assert 0 < report["seen"]["image"] < 1


def test_two_classes_and_rank_eight() -> None:
    """Two prompts span few directions; nothing is divided by zero, and each task is learned."""
    method = made(rank=8)
    for index in range(2):
        task = toy_task(index)
        images = Subset(task.train, torch.nonzero(torch.as_tensor(task.train.labels) < 2)[:, 0].numpy())
        tokens = method.clip.tokenize(task.prompts[:2])
        pixels = Pixels(images, method.clip, True)
        two = TaskData(index, task.name, task.prompts[:2], tokens, pixels, CONTEXT)
        method.begin_task(two)
        method.fit(two, TRAIN, nothing, nothing)
        assert all(m.update.B.abs().max() > 0 for m in method.targets)
        method.end_task(two)
    assert all(bool(m.weight.isfinite().all()) for m in method.targets)


def test_what_alpha_protects_is_said_once_where_it_protects_nothing_of_its_own() -> None:
    said: list[str] = []
    context = dataclasses.replace(CONTEXT, say=said.append)
    method = SplitLora(SplitLora.Settings(rank=4, alpha=PerTower(1e4, 0.5)), tiny_clip(), context)
    for index in range(3):
        learn(method, index)
    (sentence,) = [text for text in said if "protects no more" in text]
    assert "method.alpha.image=10000 protects no more than the 2 forced directions of image.0.qkv" in sentence
    assert "in task toy1: lower it" in sentence


def test_a_tower_that_hardly_learns_is_named_once() -> None:
    said: list[str] = []
    method = SplitLora(SplitLora.Settings(rank=4), tiny_clip(), dataclasses.replace(CONTEXT, say=said.append))
    for _ in range(2):
        method._see(SimpleNamespace(name="digits"), {"image.0.q": 0.5, "image.0.k": 1.5, "text.0.q": 0.04})
    assert said == [
        "note: in task digits the rows of A saw 4.0% of what random rows see of the inputs of the text tower, which "
        "hardly learns: raise method.alpha.text"
    ]
    assert method.report()["seen"] == {"image": 1.0, "text": 0.04}


def test_a_tower_without_a_free_direction_is_refused() -> None:
    settings = SplitLora.Settings(rank=4, forced=48)
    assert settings.fits(Surroundings("task", {"image": 64, "text": 48})) == [
        "method.forced=48 leaves no direction of the text tower free, whose width is 48: choose at most 47"
    ]


def test_trained_numbers_of_vit_b_16() -> None:
    """B alone: 61,440 numbers a column over q, k, v and o of both towers."""
    clip = vit_b_16()
    method = SplitLora(SplitLora.Settings(), clip, CONTEXT)
    method.begin_task(TaskData(0, "first", (), torch.zeros(0, 77), None, CONTEXT))
    assert sum(tensor.numel() for tensor in method.parameters()) == 61_440 * 16
    assert method.stored_numbers() == 12 * 2 * (768**2 + 512**2 + 2)


def test_the_faithful_preset_adapts_what_the_paper_adapts() -> None:
    method = SplitLoraFaithful(SplitLoraFaithful.Settings(), vit_b_16(), CONTEXT)
    method.begin_task(TaskData(0, "first", (), torch.zeros(0, 77), None, CONTEXT))
    assert sum(tensor.numel() for tensor in method.parameters()) == 2 * 12 * 768 * 10  # 184k, as published
    assert Train(**{key.split(".")[1]: value for key, value in method.defaults.items()}).check() == []

"""LoDA: subspaces, recalibration, aligned steps and memory against definitions written here in float64."""

import collections
import dataclasses
import itertools
import math

import pytest
import torch
from bench.methods.loda import (
    LoDA,
    LoDAFaithful,
    general_rows,
    generalised,
    halves,
    isolated_rows,
    look_ahead,
    recalibration,
    with_margin,
)
from support.large import vit_b_16
from support.learning import data, learn, nothing, weights

from bench.compute.seeding import generator
from bench.config.fields import complaints
from bench.config.resolve import resolve_method
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.learning.method import Method
from bench.learning.moments import second_moments
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)
TRAIN = Train(epochs=1, batch_size=16, lr=0.01, weight_decay=0.0)
SGD = Train(
    epochs=1, batch_size=40, lr=0.1, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant"
)  # one batch


def made(cls: type[LoDA] = LoDA, **settings) -> LoDA:
    return cls(cls.Settings(**{"rank": 4} | settings), tiny_clip(), CONTEXT)


def moment(width: int, seed: int, tokens: int = 50, falling: float = 0.0) -> torch.Tensor:
    """Mean of x x^T over random tokens, whose energy falls along random directions."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=draw, dtype=torch.float64)
    x = x * torch.exp(-falling * torch.arange(width, dtype=torch.float64))
    turned = x @ torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64)).Q
    return turned.T @ turned / tokens


def span(rows: torch.Tensor) -> torch.Tensor:
    """The projection onto the span of some rows."""
    return torch.linalg.pinv(rows) @ rows


# ---- the two branches


def test_a_worked_example() -> None:
    old, new = torch.diag(torch.tensor([4.0, 1.0]).double()), torch.diag(torch.tensor([1.0, 2.0]).double())
    first, second = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(general_rows(old + new, 1).abs(), first[None] / math.sqrt(3))
    assert torch.allclose(isolated_rows(new, old, 1).abs(), second[None] / math.sqrt(3))
    assert torch.allclose(generalised(new, old)[0], torch.tensor([2, 0.25], dtype=torch.float64))
    for scale in (1, 3**-0.5):
        assert float(recalibration(scale * first[None], old, new, 3.0)) == pytest.approx(3 / 7)


def test_the_general_branch_has_the_leading_directions() -> None:
    total = moment(8, 0) + moment(8, 1)
    A = general_rows(total, 3)
    assert torch.allclose(3 * A @ A.T, torch.eye(3, dtype=torch.float64))
    energies = torch.linalg.svdvals(total)[:3]
    assert torch.allclose(3 * A @ total @ A.T, torch.diag(energies))


def test_generalised_eigenvectors_of_new_against_old_energy() -> None:
    new, old = moment(7, 2), moment(7, 3)
    values, U = generalised(new, old)
    assert torch.allclose(U.T @ old @ U, torch.eye(7, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(U.T @ new @ U, torch.diag(values), atol=1e-9)
    assert bool((values.diff() <= 0).all())
    expected = torch.linalg.eigvals(torch.linalg.inv(old) @ new).real.sort(descending=True).values
    assert torch.allclose(values, expected)


def test_the_isolated_branch_spans_them_and_its_ratio_lies_between_their_values() -> None:
    new, old = moment(9, 4, falling=0.3), moment(9, 5, falling=0.3)
    A, (values, U) = isolated_rows(new, old, 3), generalised(new, old)
    assert torch.allclose(3 * A @ A.T, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(span(A), span(U[:, :3].T), atol=1e-8)
    for row in range(3):  # Gram-Schmidt in descending order
        assert torch.allclose(span(A[: row + 1]), span(U[:, : row + 1].T), atol=1e-8)

    def ratio(rows: torch.Tensor) -> float:
        return float((rows @ new @ rows.T).trace() / (rows @ old @ rows.T).trace())

    assert float(values[2]) <= ratio(A) <= float(values[0])
    assert ratio(A) > 2 * ratio(general_rows(new + old, 3))
    assert torch.allclose(span(isolated_rows(new, 7 * old, 3)), span(A), atol=1e-8)


def test_proportional_moments_do_not_fail() -> None:
    new = moment(6, 6)
    assert torch.allclose(generalised(new, 4 * new)[0], torch.full((6,), 0.25, dtype=torch.float64))
    A = isolated_rows(new, 4 * new, 2)
    assert torch.allclose(3 * A @ A.T, torch.eye(2, dtype=torch.float64))


def test_old_energy_in_few_directions_leaves_the_others_to_the_new_task() -> None:
    """With the smallest jitter: the directions without old energy that have the most new energy."""
    new, old = moment(8, 7), moment(8, 8, tokens=3)
    A = isolated_rows(new, old, 2)
    empty = torch.linalg.eigh(old).eigenvectors[:, :5]
    best = empty @ torch.linalg.eigh(empty.T @ new @ empty).eigenvectors[:, -2:]
    assert torch.allclose(span(A), span(best.T), atol=1e-4)
    ridge = 0.1 * old.trace() / 8 * torch.eye(8, dtype=torch.float64)
    assert torch.allclose(span(isolated_rows(new, old, 2, 0.1)), span(isolated_rows(new, old + ridge, 2)), atol=1e-8)


def test_rows_beyond_the_numerical_rank_are_zero() -> None:
    new, old = moment(8, 9, tokens=3), moment(8, 10)
    for A in (isolated_rows(new, old, 5), general_rows(new, 5)):
        assert A.shape == (5, 8) and not A[3:].any()
        assert torch.allclose(3 * A[:3] @ A[:3].T, torch.eye(3, dtype=torch.float64))


# ---- recalibration


def test_a_general_direction_keeps_the_share_of_the_new_energy() -> None:
    A, old, new = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double(), moment(6, 0), moment(6, 1)
    expected = [3 * float(a @ new @ a) / float(a @ old @ a + 3 * a @ new @ a) for a in A]
    assert recalibration(A, old, new, 3.0).tolist() == pytest.approx(expected)
    assert torch.allclose(recalibration(-7 * A, old, new, 3.0), recalibration(A, old, new, 3.0))
    assert recalibration(A, new, new, 3.0).tolist() == pytest.approx([0.75] * 3)
    assert recalibration(A, 0 * old, new, 3.0).tolist() == pytest.approx([1] * 3)
    assert recalibration(0 * A, old, new, 3.0).tolist() == [0] * 3


@pytest.mark.parametrize(("twice", "gamma"), [(True, 3.0), (False, 1.5)])
def test_shares_of_data_that_stay_the_same(twice: bool, gamma: float) -> None:
    new, old = moment(5, 2), torch.zeros(5, 5, dtype=torch.float64)
    A, found = general_rows(new, 2), []
    for _ in range(10):
        old = old + new * (2 if twice else 1)
        found.append(float(recalibration(A, old, new, gamma)[0]))
    published = [0.6, 0.4286, 0.3333, 0.2727, 0.2308, 0.2, 0.1765, 0.1579, 0.1429, 0.1304]
    assert found == pytest.approx(published, abs=5e-5)


def test_another_basis_of_the_span_would_be_recalibrated_otherwise() -> None:
    old, new, B = moment(6, 3, falling=0.5), moment(6, 4, falling=0.5), torch.randn(4, 2).double()
    A, turn = general_rows(old + new, 2), torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
    changes = [(b * recalibration(a, old, new, 3.0)) @ a for a, b in ((A, B), (turn @ A, B @ turn.T))]
    assert not torch.allclose(*changes, rtol=0.01)


# ---- aligned steps


def test_classes_are_divided_and_the_first_half_is_the_smaller() -> None:
    assert halves([2, 5, 7, 8, 9], [3, 0, 4, 2, 1]) == ([8, 2], [9, 7, 5])
    assert halves([4, 6], [1, 0]) == ([6], [4])
    assert halves([1, 2, 3], [0, 1, 2]) == ([1], [2, 3])


def test_a_displacement_has_its_length_and_points_down() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0], [4.0]])]
    assert [e.tolist() for e in look_ahead(gradients, 0.5)] == [pytest.approx([-0.3, 0]), [[0], [pytest.approx(-0.4)]]]
    assert look_ahead([torch.zeros(2)], 0.5)[0].tolist() == [0, 0]  # B = 0 gives A no gradient in the first step
    for value in (math.inf, math.nan):
        assert look_ahead([torch.tensor([value, 1.0])], 0.5)[0].tolist() == [0, 0]


class Scalar(LoDA):
    """One number, and a loss a class: (theta - 1)^2 / 2 of the class that is the source first, (theta + 1)^2 / 2."""

    first_class = 0

    def begin_task(self, task: TaskData) -> None:
        self.theta, self.seen = torch.tensor([0.5]), []

    def _trained(self, maps) -> list[torch.Tensor]:
        return [self.theta]

    def _looking(self) -> list[list[torch.Tensor]]:
        return [[self.theta]]

    def _loss(self, task, labels, images, texts) -> torch.Tensor:
        (label,) = set(labels.tolist())
        self.seen.append((label, float(self.theta.detach())))
        return ((self.theta - (1 if label == self.first_class else -1)) ** 2 / 2).sum()


@pytest.mark.parametrize(("length", "expected"), [(0.1, (0.34, 0.416)), (0.0, (0.35, 0.415))])
def test_a_worked_example_of_the_aligned_step(length: float, expected: tuple[float, float]) -> None:
    draw = generator(0, "loda", 0, 0)
    first = torch.randperm(2, generator=draw).tolist()[0]
    u = float(torch.rand((), generator=draw, dtype=torch.float64))
    method = made(Scalar, rho=length / u, towers=["text"])
    method.first_class = first
    task = two_classes(method, 0)
    method.begin_task(task)
    method.fit(task, SGD, nothing, nothing)
    other = 1 - first
    assert method.theta.item() == pytest.approx(expected[1])
    labels, places = zip(*method.seen, strict=True)
    assert labels == (first, other, other, first)
    assert places == pytest.approx((0.5, 0.5 + length, expected[0], expected[0] - length))
    method.begin_task(task)
    method.fit(task, dataclasses.replace(SGD, optimizer="adamw", lr=0.01), nothing, nothing)
    assert abs(method.theta.item() - 0.5) <= 2 * 0.01 + 1e-6  # a step of Adam is at most its rate long


def two_classes(method: Method, index: int) -> TaskData:
    task = toy_task(index)
    images = Subset(task.train, torch.nonzero(torch.as_tensor(task.train.labels) < 2)[:, 0].numpy())
    tokens, pixels = method.clip.tokenize(task.prompts[:2]), Pixels(images, method.clip, True)
    return TaskData(index, task.name, task.prompts[:2], tokens, pixels, method.context)


@pytest.mark.parametrize(
    ("gao", "rho", "fused"), [("both", 0.3, False), ("both", 0.0, False), ("image", 0.3, False), ("both", 0.3, True)]
)
def test_a_batch_is_trained_as_its_definition_says(gao: str, rho: float, fused: bool) -> None:
    method = made(gao=gao, rho=rho, fused=fused)
    learn(method, 0)
    task = data(method.clip, 1)
    method.begin_task(task)
    ((pixels, labels),) = task.batches("train", batch_size=40)
    draw = generator(0, "loda", 1, 0)
    order = torch.randperm(3, generator=draw).tolist()
    length = rho * float(torch.rand((), generator=draw, dtype=torch.float64))
    groups = [torch.isin(labels, torch.tensor(part)) for part in (order[:1], order[1:])]
    theta = [tensor.clone() for tensor in method.parameters()]
    names = [(m, branch) for m in method.targets for branch in (0, 1)]

    def gradient(chosen: torch.Tensor) -> list[torch.Tensor]:
        with method.clip.trainable(method.parameters()):
            loss = method.loss(pixels[chosen], labels[chosen], task)
            return list(torch.autograd.grad(loss, method.parameters()))

    def place(values: list[torch.Tensor]) -> None:
        for tensor, value in zip(method.parameters(), values, strict=True):
            tensor.copy_(value)

    for source, target in (groups, groups[::-1]):
        together: dict[object, list[torch.Tensor]] = collections.defaultdict(list)
        for (m, branch), g in zip(names, gradient(source), strict=True):
            together[(m.site.name if fused else m.name, branch)].append(g)
        ahead = []
        for (m, branch), value, g in zip(names, theta, gradient(source), strict=True):
            size = torch.cat([one.flatten() for one in together[(m.site.name if fused else m.name, branch)]]).norm()
            moves = gao == "both" or m.tower == "image"
            ahead.append(value - length * g / size if moves else value)
        place(ahead)
        theta = [value - 0.1 * g for value, g in zip(theta, gradient(target), strict=True)]
        place(theta)
    place([torch.zeros_like(value) for value in theta])
    method.fit(task, SGD, nothing, nothing)
    for found, value in zip(method.parameters(), theta, strict=True):
        assert torch.allclose(found, value, atol=2e-6) and value.any()


@pytest.mark.parametrize(
    ("settings", "texts", "images"),
    [
        ({}, 4 * 3, 4 * 3),
        ({"gao": "image"}, 2 * 3, 4 * 3),
        ({"gao": "off"}, 3, 3),
        ({"towers": ["image"]}, 1, 4 * 3),
        ({"towers": ["text"]}, 4 * 3, 3),
    ],
)
def test_prompts_and_images_are_encoded_as_rarely_as_can_be(settings: dict, texts: int, images: int) -> None:
    method = made(**settings)
    task, counts = data(method.clip), collections.Counter()
    method.begin_task(task)
    for name in ("encode_tokens", "encode_images"):
        plain = getattr(method.clip, name)
        setattr(method.clip, name, lambda x, name=name, plain=plain: (counts.update([name]), plain(x))[1])
    method.fit(task, TRAIN, nothing, nothing)  # three batches
    assert counts == {"encode_tokens": texts, "encode_images": images}


def test_a_batch_with_one_class_is_trained_as_usual_and_named_once() -> None:
    said: list[str] = []
    found = []
    for gao in ("both", "off"):
        method = LoDA(LoDA.Settings(rank=4, gao=gao), tiny_clip(), dataclasses.replace(CONTEXT, say=said.append))
        task = toy_task(0)
        images = Subset(task.train, torch.nonzero(torch.as_tensor(task.train.labels) == 1)[:, 0].numpy())
        tokens, pixels = method.clip.tokenize(task.prompts), Pixels(images, method.clip, True)
        alone = TaskData(0, task.name, task.prompts, tokens, pixels, method.context)
        method.begin_task(alone)
        method.fit(alone, dataclasses.replace(TRAIN, batch_size=5, schedule="constant"), nothing, nothing)
        found.append([tensor.clone() for tensor in method.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert said == [
        "note: batch 1 of task toy0 has one class alone, which cannot be divided: it is trained with one ordinary "
        "step, and so are others like it"
    ]


# ---- the whole method


def measured(method: LoDA, task: TaskData) -> dict[str, torch.Tensor]:
    return {name: one.mean() for name, one in second_moments(method.clip, task, method.targets).items()}


@pytest.mark.parametrize("twice", [True, False])
def test_two_tasks_from_start_to_memory(twice: bool) -> None:
    method = made(count_twice=twice, rho=0.1)
    old, trained = dict.fromkeys(method.sites, 0.0), []
    for index in range(2):
        task, before = data(method.clip, index), weights(method)
        new = measured(method, task)
        pixels = next(task.batches("look"))[0]
        with torch.no_grad():
            untrained = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        method.begin_task(task)
        with torch.no_grad():  # B = 0
            assert torch.allclose(method.clip.encode_images(pixels), untrained[0], atol=1e-6)
            assert torch.allclose(method.clip.encode_tokens(task.tokens), untrained[1], atol=1e-6)
        start = {m.name: {k: t.double().clone() for k, t in m.update.tensors().items()} for m in method.targets}
        for m in method.targets:
            q = start[m.name]
            A, name = q["A" if index == 0 else "0.A"], m.site.name
            assert torch.allclose(A, general_rows(old[name] + new[name], 4), atol=1e-6)
            if index:
                ridge = 1e-3 if m.tower == "text" else 0.0
                assert torch.allclose(q["1.A"], isolated_rows(new[name], old[name], 4, ridge), atol=1e-5)
        trained.append(method.fit(task, TRAIN, nothing, nothing))
        end = {m.name: {k: t.double().clone() for k, t in m.update.tensors().items()} for m in method.targets}
        current = measured(method, task)
        method.end_task(task)
        for m in method.targets:
            q, name, change = end[m.name], m.site.name, (m.weight - before[m.name]).double()
            if index == 0:
                expected = 0.25 * q["B"] @ q["A"]
                assert (q["A"] - start[m.name]["A"]).abs().max() > 1e-4
            else:
                keeps = recalibration(q["0.A"], old[name], current[name], 3.0)
                expected = 0.25 * (q["0.B"] * keeps) @ q["0.A"] + 0.5 * q["1.B"] @ q["1.A"]
                assert all(torch.equal(q[key], start[m.name][key]) for key in ("0.A", "1.A"))
                assert q["0.B"].any() and q["1.B"].any() and 0 < float(keeps.mean()) < 1
            assert torch.allclose(change, expected, atol=1e-6) and change.norm() > 1e-4
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 4 * (1 + index)
        merged = measured(method, task)
        for name in old:
            grown = old[name] + current[name] + (merged[name] if twice else 0)
            assert torch.allclose(method.old[name], grown, rtol=1e-4, atol=1e-6)
            growth = torch.linalg.eigvalsh(method.old[name] - old[name])
            assert growth.min() > -1e-6 * growth.max()  # sums of a batch are float32
            old[name] = grown
    outputs, widths = (sum(m.out_features for m in method.targets), sum(s.width for s in method.sites.values()))
    assert trained == [4 * (outputs + widths), 4 * 2 * outputs]
    assert set(method.report()["recalibration"]) == set(method.sites)
    assert method.stored_numbers() == sum(site.width**2 for site in method.sites.values())


def test_two_classes_and_rank_eight() -> None:
    """Two prompts span few directions: rows of A without one are zero, nothing is divided by zero."""
    method = made(rank=8)
    for index in range(2):
        task = two_classes(method, index)
        method.begin_task(task)
        method.fit(task, dataclasses.replace(TRAIN, schedule="constant"), nothing, nothing)
        assert all(bool(tensor.isfinite().all()) and tensor.any() for tensor in method.parameters())
        last = method.clip.maps["text.1.q"].update.tensors()
        method.end_task(task)
    assert last["0.A"].shape == (8, 48) and all(bool(m.weight.isfinite().all()) for m in method.targets)


def test_a_margin_lowers_the_true_class() -> None:
    logits, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])
    assert with_margin(logits, labels, 0.5).tolist() == [[1.0, 1.5], [2.5, 4.0]]
    method = made(margin=0.2)
    task = data(method.clip)
    method.begin_task(task)
    pixels, labels = next(task.batches("look"))
    cosines = method.clip.encode_images(pixels) @ method.clip.encode_tokens(task.tokens).T
    lowered = cosines - 0.2 * torch.nn.functional.one_hot(labels, 3)
    expected = torch.nn.functional.cross_entropy(lowered * method.clip.logit_scale, labels)
    assert torch.allclose(method.loss(pixels, labels, task), expected, atol=1e-5)


def test_what_the_method_does_not_define_is_refused() -> None:
    (sentence,) = complaints(LoDA.Settings(gao="image", towers=["text"]))
    assert sentence.startswith("method.gao=image looks ahead with the image tower, which method.towers does not name")
    for word in ("rho=-1", "gamma=0", "margin=1", "ridge.image=-1", "gao=text", "rank=0"):
        with pytest.raises(UserError, match=f"method.{word.split('=')[0]}"):
            resolve_method(["method=loda", f"method.{word}"])


def test_trained_numbers_of_vit_b_16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A_G a site and B_G a map in the first task, 92,160 r; then two B a map, 122,880 r."""

    def rows(self: LoDA, name: str, new: object) -> list[torch.Tensor]:
        return [torch.zeros(self.settings.rank, self.sites[name].width) for _ in range(1 if self.first else 2)]

    monkeypatch.setattr(LoDA, "_moments", lambda self, task: dict.fromkeys(self.sites))
    monkeypatch.setattr(LoDA, "_rows", rows)
    clip, found = vit_b_16(), []
    for cls, index in itertools.product((LoDA, LoDAFaithful), (0, 1)):
        method = cls(cls.Settings(), clip, CONTEXT)
        method.begin_task(TaskData(index, "task", (), torch.zeros(0, 77), None, CONTEXT))
        found.append(sum(tensor.numel() for tensor in method.parameters()))
        if index:
            assert len(method._looking()) == (192 if cls is LoDA else 24)
        clip.merge()
    assert found == [92_160 * 16, 122_880 * 16, 12 * 4 * 768 * 32, 2 * 2304 * 32 * 12]
    assert Train(**{key.split(".")[1]: value for key, value in LoDAFaithful.defaults.items()}).check() == []

"""MoE-Adapters against its definitions, written here in float64 and apart from it."""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from bench.methods.moe_adapters import (
    Expert,
    MoeAdapters,
    MoeAdaptersFaithful,
    autoencoder,
    error,
    gates,
    mixture,
    most_used,
    routing,
    selected,
)
from torch import Tensor

from bench.compute.world import World
from bench.config.fields import complaints
from bench.config.resolve import resolve
from bench.config.run_settings import Surroundings, Train
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.data.stream import LabelSpace, Task, label_space
from bench.learning.driver import learn
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.contract import verify
from bench.trials.toy import tiny_clip, toy_task

TASKS = [toy_task(index, train=40, test=12) for index in range(3)]
TRAIN = Train(epochs=2, batch_size=16, lr=0.05, weight_decay=0.0)
SMALL = {"width": 8, "experts": 6}


def make(
    cls: type[MoeAdapters] = MoeAdapters, say: Callable[[str], None] = print, clip: Clip | None = None, **settings
) -> MoeAdapters:
    context = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0, say=say)
    return cls(cls.Settings(**{**SMALL, **settings}), clip or tiny_clip(), context)


def data(method: MoeAdapters, index: int = 0, task: Task | None = None) -> TaskData:
    task, clip = task or TASKS[index], method.clip
    return TaskData(
        index, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), method.context
    )


def trained(tasks: int = 1, **settings) -> MoeAdapters:
    method = make(**settings)
    for index in range(tasks):
        learn(method, data(method, index), TRAIN)
    return method


@functools.cache
def learned() -> MoeAdapters:
    """Give the method after two tasks, for tests that only ask it."""
    return trained(2)


def other(**settings) -> MoeAdapters:
    """Give another one with what `learned` has learned."""
    method = make(**settings)
    method.load_state_dict(learned().state_dict())
    return method


def images(method: MoeAdapters, index: int = 0, count: int = 12) -> Tensor:
    return next(iter(Pixels(TASKS[index].test, method.clip, True).batches(count)))[0]


def space(index: int = 0, kind: str = "task") -> LabelSpace:
    found = label_space(kind, TASKS, 2, index)
    assert found is not None
    return found


@torch.no_grad()
def logits(method: MoeAdapters, pixels: Tensor, index: int = 0, kind: str = "task") -> Tensor:
    return method.classifier(space(index, kind))(pixels)


@torch.no_grad()
def zero_shot(method: MoeAdapters, pixels: Tensor, index: int = 0, kind: str = "task") -> Tensor:
    return Method.classifier(method, space(index, kind))(pixels)


def chosen(method: MoeAdapters, pixels: Tensor) -> list[int]:
    found: dict[str, Tensor] = {}
    method.context.observers.on("method", lambda one: found.update(one.values) if one.name == "select" else None)
    logits(method, pixels)
    return found["chosen"].tolist()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def experts(count: int, d: int, h: int) -> list[Expert]:
    parts = drawn(count, h, d, seed=1), drawn(count, h, seed=2), drawn(count, d, h, seed=3), drawn(count, d, seed=4)
    return [Expert(*(part[i] for part in parts)) for i in range(count)]


# ---- gates and experts


def test_gates_are_a_softmax_over_the_largest() -> None:
    found = gates(torch.tensor([[2.0, 1, 0, 0], [0, 0, 0, 0], [0, 3, 5, 3]]), 2)
    assert found[0].tolist() == pytest.approx([0.7311, 0.2689, 0, 0], abs=5e-5)
    assert found[1].tolist() == [0.5, 0.5, 0, 0]  # of equal ones the first
    assert found[2].tolist() == pytest.approx([0, 0.1192, 0.8808, 0], abs=5e-5)
    many = gates(drawn(50, 7), 3)
    assert ((many > 0).sum(dim=1) == 3).all() and torch.allclose(many.sum(dim=1), torch.ones(50).double())
    g = drawn(5, 4)
    assert torch.allclose(gates(g, 4), torch.softmax(g, dim=1))  # k = N: dense
    only = gates(g, 3, torch.tensor([False, True, False, True]))
    assert torch.equal(only[:, [0, 2]], torch.zeros(5, 2).double())
    assert torch.allclose(only[:, [1, 3]], torch.softmax(g[:, [1, 3]], dim=1))
    assert gates(torch.tensor([[500.0, 0, 1]]), 2).tolist() == [[1, 0, 0]]  # one may vanish


def test_noise_has_the_deviation_that_the_first_token_says() -> None:
    c, R, R_noise, e = drawn(3, 5), drawn(5, 4, seed=1), drawn(5, 4, seed=2), drawn(3, 4, seed=3)
    found = routing(c, R, R_noise, e)
    for n in range(3):
        for i in range(4):
            deviation = math.log1p(math.exp(float(c[n] @ R_noise[:, i]))) + 0.01
            assert float(found[n, i]) == pytest.approx(float(c[n] @ R[:, i] + e[n, i] * deviation), abs=1e-12)
    assert torch.equal(routing(c, R), c @ R)
    start = routing(c, torch.zeros_like(R), torch.zeros_like(R), torch.ones_like(e))
    assert start.flatten().tolist() == pytest.approx([math.log(2) + 0.01] * 12)  # 0.703


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_dispatch_is_the_dense_mixture(k: int) -> None:
    """Every expert on every token of every sequence, weighed by its gate, one at a time."""
    h, G, made = drawn(7, 3, 4), gates(drawn(7, 5, seed=5), k), experts(5, 4, 6)
    found = mixture(h, G, made)
    for n in range(7):
        for token in range(3):
            x = h[n, token]
            values = [made[i].up @ torch.relu(made[i].down @ x + made[i].start) + made[i].shift for i in range(5)]
            assert torch.allclose(found[n, token], sum(G[n, i] * values[i] for i in range(5)), atol=1e-12)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(mixture(h, G[:, order], [made[i] for i in order]), found)  # experts with their columns
    alone = mixture(h[:1], torch.eye(5).double()[2:3], made)[0, 0]
    assert torch.allclose(alone, made_alone(made[2], h[0, 0]), atol=1e-12)


def made_alone(expert: Expert, x: Tensor) -> Tensor:
    return torch.nn.functional.linear(
        torch.relu(torch.nn.functional.linear(x, expert.down, expert.start)), expert.up, expert.shift
    )


def test_dropout_leaves_out_hidden_values_of_a_sequence_in_each_of_its_experts() -> None:
    h, G, made = drawn(4, 3, 4), gates(drawn(4, 5, seed=5), 2), experts(5, 4, 6)
    kept = (drawn(4, 2, 3, 6, seed=9) > 0).double() / 0.5
    found = mixture(h, G, made, kept)
    for n in range(4):
        total = torch.zeros(3, 4).double()
        for slot, i in enumerate(G[n].nonzero()[:, 0].tolist()):
            hidden = torch.relu(h[n] @ made[i].down.T + made[i].start) * kept[n, slot]
            total += G[n, i] * (hidden @ made[i].up.T + made[i].shift)
        assert torch.allclose(found[n], total, atol=1e-12)


def test_gradients_are_those_of_the_dense_mixture_and_none_where_an_expert_is_not_used() -> None:
    h, g, made = drawn(6, 2, 4), torch.tensor([[3.0, 2, 1, 0], [0, 2, 3, 1]] * 3).double(), experts(4, 4, 6)
    for expert in made:
        for tensor in expert:
            tensor.requires_grad_(True)
    g.requires_grad_(True)
    mixture(h, gates(g, 2), made).square().sum().backward()
    assert all(tensor.grad is None for tensor in made[3]) and all(tensor.grad is not None for tensor in made[0])
    sparse, own = g.grad.clone(), made[1].down.grad.clone()
    g.grad = made[1].down.grad = None
    dense = sum(
        weight[:, None, None] * (torch.relu(h @ one.down.T + one.start) @ one.up.T + one.shift)
        for weight, one in zip(gates(g, 2).T, made, strict=True)
    )
    dense.square().sum().backward()
    assert torch.allclose(g.grad, sparse) and torch.allclose(made[1].down.grad, own)


def test_the_two_most_used_are_frozen_and_of_equal_ones_the_first() -> None:
    counts = torch.tensor([[0, 5, 3, 5], [2, 2, 2, 2], [0, 0, 0, 9]])
    assert most_used(counts).int().tolist() == [[0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1]]
    assert most_used(torch.tensor([[4]])).tolist() == [[True]]


def test_a_block_adds_the_experts_that_its_first_token_selects() -> None:
    """Last block of the image tower, from its own sums: scale times the gated experts, none of them normalised."""
    method, pixels = learned(), images(learned())
    place, seen = "image.1.residual", {}
    branch = method._branches(1)[place]

    def keep(x: Tensor, read: Tensor | None) -> Tensor:
        seen.update(x=x, y=branch(x, read))
        return seen["y"]

    with torch.no_grad(), method.clip.beside({**method._branches(1), place: keep}):
        method.clip.encode_images(pixels)
    x = seen["x"].double()
    for n in range(len(x)):
        g = x[n, 0] @ method.routers[1][place].double()
        top = sorted(range(6), key=lambda i: -float(g[i]))[:2]
        weights = torch.softmax(g[top], dim=0)
        values = [made_alone(Expert(*(t.double() for t in method.experts[place][i])), x[n]) for i in top]
        expected = 0.1 * sum(w * v for w, v in zip(weights, values, strict=True))
        assert (seen["y"][n] - expected).abs().max() < 1e-5
    assert (seen["y"]).abs().max() > 1e-3


# ---- the towers


def test_before_training_it_is_zero_shot_with_any_router() -> None:
    method = make()
    assert torch.equal(logits(method, images(method)), zero_shot(method, images(method)))
    method.begin_task(data(method))
    for place in method.routers[0]:
        method.routers[0][place].normal_()
    with torch.no_grad(), method.clip.beside(method._branches(0), whole_texts=True):
        images_with, texts_with = method.clip.encode_images(images(method)), method.clip.encode_prompts(space().prompts)
    assert torch.equal(images_with, method.clip.encode_images(images(method)))
    assert (texts_with - method.clip.encode_prompts(space().prompts)).abs().max() < 1e-6


def test_an_image_of_no_task_gets_the_pretrained_answer_exactly() -> None:
    method = other()
    for one in method.selectors.values():
        one["limit"] = torch.tensor(-1.0)
    pixels = images(method)
    for kind in ("task", "seen", "all"):
        assert torch.equal(logits(method, pixels, 0, kind), zero_shot(method, pixels, 0, kind))


def test_all_prompts_of_a_task_have_the_same_experts() -> None:
    """The first token of a text sees itself alone, in the last block too; with noise, prompts differ."""
    method, seen = learned(), {}

    def heard(place: str, branch: Callable) -> Callable:
        def add(x: Tensor, read: Tensor | None) -> Tensor:
            seen[place] = gates(routing(x[:, 0], method.routers[1][place]), 2)
            return branch(x, read)

        return add

    branches = {place: heard(place, branch) for place, branch in method._branches(1).items()}
    with torch.no_grad(), method.clip.beside(branches, whole_texts=True):
        method.clip.encode_prompts(["a cat", "a picture of a tall house", "grey water in a bowl"])
        assert all((seen[f"text.{block}.residual"] != 0).sum() == 6 for block in range(2))
        assert all((seen[f"text.{block}.residual"].diff(dim=0).abs() < 1e-5).all() for block in range(2))
    fresh = make()
    task = data(fresh)
    fresh.begin_task(task)
    next_pixels, labels = next(task.batches("train"))
    fresh.loss(next_pixels, labels, task)
    assert all((fresh.now["text"] > 0).sum(dim=1) > 2)


# ---- training


def test_training_moves_what_is_not_frozen_and_keeps_the_rest_to_the_bit() -> None:
    method = trained(1)
    assert [int((one >= 0).sum(dim=1).max()) for one in method.frozen.values()] == [2, 2]
    weights, before = method.clip.digests(), copy.deepcopy(method.state_dict())
    learn(method, data(method, 1), TRAIN)
    after = method.state_dict()
    assert method.clip.digests() == weights
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith(("router/0", "selector/0")))
    moved = set()
    for tower in ("image", "text"):
        for block, place in enumerate(method.places[tower]):
            for i in range(6):
                same = [
                    torch.equal(after[f"expert/{place}/{i}/{part}"], before[f"expert/{place}/{i}/{part}"])
                    for part in Expert._fields
                ]
                was_frozen = int(before[f"frozen/{tower}"][block, i]) >= 0
                assert not was_frozen or all(same)
                moved.add((was_frozen, all(same)))
            frozen = method.frozen[tower][block]
            assert 2 <= int((frozen >= 0).sum()) <= 4 and ((before[f"frozen/{tower}"][block] < 0) | (frozen == 0)).all()
    assert (False, False) in moved and (True, True) in moved


def test_counts_are_of_training_steps_and_decide_what_is_frozen() -> None:
    method, kept = make(), {}
    task = data(method)

    def keep() -> None:
        kept.update({tower: counts.clone() for tower, counts in method.counts.items()})

    learn(method, task, TRAIN, fitted=keep)
    assert kept["image"].sum(dim=1).tolist() == [2 * 40 * 2] * 2  # epochs, images, experts of each
    assert kept["text"].sum(dim=1).tolist() == [6 * 3 * 2] * 2  # steps, prompts, experts of each
    for tower, counts in kept.items():
        for block in range(2):
            first = sorted(range(6), key=lambda i: (-int(counts[block, i]), i))[:2]
            assert (method.frozen[tower][block] >= 0).nonzero()[:, 0].tolist() == sorted(first)
    assert method.report() == {"frozen": {"image": [4, 12], "text": [4, 12]}}
    assert method.counts == {} and method.noise == {}


def test_experts_that_a_step_does_not_use_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a step that used them, when momentum would move them on."""
    method = make(experts=3)
    task, train = data(method), replace(TRAIN, epochs=1, steps=2, batch_size=40, schedule="constant")
    scores = iter([[9.0, 8, 0]] * 4 + [[0.0, 8, 9]] * 4)  # a score for every place in each of two steps
    monkeypatch.setattr(
        "bench.methods.moe_adapters.routing",
        lambda c, R, R_noise, noise: c @ R + torch.tensor(next(scores)).to(R),
    )
    seen: list[dict[str, Tensor]] = []
    learn(method, task, train, on_step=lambda: seen.append(copy.deepcopy(method.state_dict())))

    def moved(step: int, i: int) -> bool:
        name = f"expert/image.0.residual/{i}/shift"
        before = seen[step - 1][name] if step else torch.zeros(64)
        return not torch.equal(seen[step][name], before)

    assert [[moved(step, i) for i in range(3)] for step in range(2)] == [[True, True, False], [False, True, True]]


def test_noise_depends_on_seed_task_and_step_alone_and_changes_gates() -> None:
    found = []
    for step in (0, 0, 1):
        method = make()
        task = data(method)
        method.begin_task(task)
        method.step = step
        pixels, labels = next(task.batches("train"))
        method.loss(pixels, labels, task)
        found.append(copy.deepcopy(method.now))
    assert all(torch.equal(found[0][tower], found[1][tower]) for tower in found[0])
    assert not torch.equal(found[0]["image"], found[2]["image"])


def test_processes_draw_what_one_would_for_their_images() -> None:
    """Thirteen images in one process, and seven and six in two."""
    used: list[dict[str, Tensor]] = []
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        method = make(dropout=0.1)
        method.context = replace(method.context, world=World(rank=rank, size=size))
        task = data(method)
        task.budget = replace(TRAIN, batch_size=13)
        method.begin_task(task)
        pixels, labels = next(task.batches("train", batch_size=13))
        method.loss(pixels[rank::size], labels[rank::size], task)
        used.append(method.now)
    assert torch.equal(used[0]["image"], used[1]["image"] + used[2]["image"])
    assert torch.equal(used[0]["text"], used[1]["text"]) and torch.equal(used[0]["text"], used[2]["text"])


def test_without_experts_to_train_that_is_said_and_routers_train() -> None:
    said: list[str] = []
    method = make(experts=2, say=said.append)
    for index in range(2):
        learn(method, data(method, index), replace(TRAIN, epochs=1))
    assert said == ["note: all 2 experts are frozen, so task toy1 trains routers alone: raise method.experts"]
    assert method.routers[1]["image.0.residual"].abs().max() > 0


# ---- selecting


def test_the_selector_is_the_best_linear_auto_encoder() -> None:
    """Eckart-Young: no other subspace of that width leaves less; the error from singular values."""
    z = drawn(30, 8) * torch.arange(1, 9) + 3
    mean, V = autoencoder(z, 3)
    centred = z.numpy() - z.numpy().mean(0)
    left = np.linalg.svd(centred, compute_uv=False)[3:]
    assert float(error(z, mean, V).sum()) == pytest.approx((left**2).sum(), rel=1e-9)
    assert torch.allclose(V.T @ V, torch.eye(3).double())
    x = drawn(4, 8, seed=5)
    for n in range(4):
        rec = mean + V @ (V.T @ (x[n] - mean))
        assert float(error(x, mean, V)[n]) == pytest.approx(float((x[n] - rec) @ (x[n] - rec)))
    assert autoencoder(z[:2], 3)[1].shape == (8, 1) and autoencoder(z[:1], 3)[1].shape == (8, 0)
    assert autoencoder(z[:1].expand(5, 8), 3)[1].shape == (8, 0)  # images that do not differ


def test_the_least_error_selects_unless_it_is_above_the_limit() -> None:
    errors = torch.tensor([[1.0, 2, 3], [2, 1, 1], [5, 6, 4], [3, 3, 3], [2.5, 9, 9]])
    assert selected(errors, torch.tensor([2.0, 1.0, 3.0])).tolist() == [0, 1, -1, -1, -1]
    assert selected(errors, torch.tensor([3.0, 1.0, 4.0])).tolist() == [0, 1, 2, 0, 0]  # equal to the limit is inside


def test_a_task_limits_errors_by_its_held_out_images_on_the_frozen_tower() -> None:
    method = make()
    learn(method, data(method), TRAIN)
    learn(method, data(method, 1), TRAIN)
    clip = tiny_clip()
    task = data(make(clip=clip), 1)
    with torch.no_grad():
        z = torch.cat([clip.read_images(batch) for batch, _ in task.batches("selector")]).double()
    mean, V = autoencoder(z[8:], 8)  # a fifth is held out; an eighth of 64
    own = method.selectors[1]
    assert torch.allclose(own["mean"].double(), mean, atol=1e-6) and own["directions"].shape == (64, 8)
    limit = np.quantile(error(z[:8], mean, V).numpy(), 0.95)
    assert float(own["limit"]) == pytest.approx(limit, rel=1e-5)
    for index in range(2):
        assert chosen(method, images(method, index)).count(index) > 8
    assert chosen(method, 5 * torch.randn(4, 3, 36, 36, generator=torch.Generator().manual_seed(0))) == [-1] * 4


@torch.no_grad()
def by_hand(method: MoeAdapters, pixels: Tensor, tasks: list[int], kind: str = "task") -> Tensor:
    """Logits of images one by one, with routers of one task in both towers."""
    found = []
    for image, task in zip(pixels, tasks, strict=True):
        branches = method._branches(task) if task >= 0 else {}
        with method.clip.beside(branches, whole_texts=True):
            texts = method.clip.encode_prompts(space(0, kind).prompts)
            found.append(method.clip.logits(method.clip.encode_images(image[None]), texts))
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["task", "seen", "all"])
def test_every_image_selects_by_itself_and_prompts_go_with_it(kind: str) -> None:
    method = learned()
    far = 5 * torch.randn(2, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    pixels = torch.cat([images(method, 0, 3), far, images(method, 1, 4)])
    tasks = chosen(method, pixels)
    assert set(tasks) == {-1, 0, 1}
    found = logits(method, pixels, 0, kind)
    assert (found - by_hand(method, pixels, tasks, kind)).abs().max() < 1e-3
    assert (found - zero_shot(method, pixels, 0, kind)).abs().max() > 1e-2
    assert (torch.cat([logits(method, part, 0, kind) for part in pixels.split(2)]) - found).abs().max() < 1e-3


def test_prompts_are_encoded_once_for_each_task_and_space(monkeypatch: pytest.MonkeyPatch) -> None:
    method, calls = other(), []
    encode = method.clip.encode_prompts
    monkeypatch.setattr(method.clip, "encode_prompts", lambda prompts: calls.append(prompts) or encode(prompts))
    with torch.no_grad():
        classify = method.classifier(space())
        for _ in range(3):
            classify(torch.cat([images(method, 0), images(method, 1)]))
    assert len(calls) == 3  # plain, and with the routers of two tasks


def test_a_batch_selects_by_its_mean_error() -> None:
    method = other(select="batch")
    for one in method.selectors.values():
        one["limit"] = one["limit"] * 10
    pixels = torch.cat([images(method, 0, 2), images(method, 1, 5)])
    winner = chosen(method, pixels)
    assert set(winner) == {1} and {0, 1} <= set(chosen(learned(), pixels))
    assert (logits(method, pixels) - by_hand(method, pixels, winner)).abs().max() < 1e-3


def test_an_oracle_knows_the_task_and_leaves_others_to_the_pretrained_model() -> None:
    method = other(select="oracle")
    pixels = images(method)
    for index in (0, 1):
        method_space = space(index)
        with torch.no_grad():
            found = method.classifier(method_space)(pixels)
        with torch.no_grad(), method.clip.beside(method._branches(index), whole_texts=True):
            texts = method.clip.encode_prompts(method_space.prompts)
            expected = method.clip.logits(method.clip.encode_images(pixels), texts)
        assert (found - expected).abs().max() < 1e-4
    assert torch.equal(logits(method, pixels, 2), zero_shot(method, pixels, 2))


def test_experts_frozen_in_time_keep_old_answers_to_the_bit() -> None:
    method, pixels = trained(1, select="oracle", strict_freeze=True), images(make())
    for R in method.routers[0].values():
        R.normal_(generator=torch.Generator().manual_seed(1))  # which would take any expert
    before = logits(method, pixels)
    assert (before - zero_shot(method, pixels)).abs().max() > 1e-3
    learn(method, data(method, 1), TRAIN)
    assert torch.equal(logits(method, pixels), before)
    method.settings.strict_freeze = False
    assert not torch.equal(logits(method, pixels), before)


# ---- the contract, sizes, settings


@pytest.mark.parametrize(
    "settings",
    [
        {"select": "oracle", "strict_freeze": True, "dropout": 0.2, "experts": 3, "width": 5},
        pytest.param({"select": "batch", "experts": 5, "active": 1}, marks=pytest.mark.slow),
    ],
)
def test_the_variants_keep_the_contract(settings: dict[str, object]) -> None:
    tasks = [two_classes(TASKS[0]), TASKS[1]]
    verdicts = list(verify(MoeAdapters, MoeAdapters.Settings(**settings), tasks))
    assert [(one.test, one.problem) for one in verdicts if one.problem] == []


def two_classes(task: Task) -> Task:
    def part(found: object) -> Subset:
        return Subset(found, np.flatnonzero(np.asarray(found.labels) < 2))

    return replace(task, classes=task.classes[:2], train=part(task.train), test=part(task.test), validation=None)


def test_a_task_of_one_image_is_refused_unless_an_oracle_selects() -> None:
    one = replace(TASKS[0], train=Subset(TASKS[0].train, np.arange(1)))
    method = make(select="oracle")
    learn(method, data(method, 0, one), replace(TRAIN, steps=3))
    assert logits(method, images(method)).isfinite().all()
    context = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0, images={"a": 40, "b": 1})
    with pytest.raises(UserError, match="task b has 1 training image and its selector needs two: add some, or set "):
        MoeAdapters(MoeAdapters.Settings(), tiny_clip(), context)
    two = replace(TASKS[0], train=Subset(TASKS[0].train, np.arange(2)))
    method = make()
    learn(method, data(method, 0, two), replace(TRAIN, steps=3))
    assert logits(method, images(method)).isfinite().all()


def test_vit_b_16_has_the_published_sizes() -> None:
    """On a device without values: 22 experts and the routers of a task, and by the formula those of eleven tasks."""
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-16"))
    clip = Clip(model, lambda texts: None, {"mean": (0.5,) * 3, "std": (0.3,) * 3}, "ViT-B-16")
    context = Context(tasks=11, batch_size=4, init_seed=0, data_seed=0, say=lambda text: None)
    with torch.device("meta"):
        method = MoeAdapters(MoeAdapters.Settings(select="oracle"), clip, context)
    sizes = {
        tower: sum(tensor.numel() for place in places for expert in method.experts[place] for tensor in expert)
        for tower, places in method.places.items()
    }
    assert sizes == {"image": 26_171_904, "text": 17_453_568}
    routers = sum(2 * method.widths[tower] * method.N * len(places) for tower, places in method.places.items())
    assert routers == 675_840 and sum(sizes.values()) + 11 * routers == 51_059_712


def test_the_first_task_trains_all_experts_and_its_routers() -> None:
    method = make()
    method.begin_task(data(method))
    size = {d: 6 * (2 * d * 8 + 8 + d) for d in (64, 48)}
    assert sum(one.numel() for one in method.parameters()) == sum(2 * (size[d] + 2 * 6 * d) for d in (64, 48))


def test_flags_say_who_selects_and_what_the_number_of_experts_comes_from() -> None:
    flags = MoeAdapters.flags_for
    plain = flags(MoeAdapters.Settings())
    assert plain.task_count and plain.extended and not plain.task_at_test and not plain.test_batch
    assert not flags(MoeAdapters.Settings(experts=22)).task_count
    assert flags(MoeAdapters.Settings(select="oracle")).task_at_test
    assert flags(MoeAdapters.Settings(select="batch")).test_batch
    assert flags(MoeAdaptersFaithful.Settings()).test_batch and not flags(MoeAdaptersFaithful.Settings()).task_count


def test_settings_that_make_no_sense_are_refused_before_anything_is_loaded() -> None:
    assert complaints(MoeAdapters.Settings(experts=3, active=4)) == [
        "method.active=4 is more than method.experts=3: lower it"
    ]
    oracle = MoeAdapters.Settings(select="oracle")
    assert oracle.fits(Surroundings("task", {})) == [] and "select=oracle" in oracle.fits(Surroundings("all", {}))[0]
    with pytest.raises(UserError, match="method.active=7 is more than the 6 experts"):
        make(experts=None, active=7)
    for word in ("experts=0", "active=0", "dropout=1", "select=majority", "left_out=1"):
        with pytest.raises(UserError, match=word.partition("=")[0]):
            resolve(["method=moe-adapters", f"method.{word}"])


def test_the_faithful_preset_is_the_released_code() -> None:
    run = resolve(["method=moe-adapters-faithful", "stream=mtil-order1", "model=ViT-B-16", "model.weights=random"])
    train, settings = run.run.train, run.method_settings
    assert MoeAdaptersFaithful.defaults["train.steps"] == 1000  # where a stream does not say how long tasks are
    assert (train.optimizer, train.schedule, train.lr, train.weight_decay) == ("adamw", "cosine", 1e-3, 0.0)
    assert (train.warmup, train.label_smoothing, train.augment, train.batch_size) == (100, 0.2, "crop", 64)
    assert (settings.experts, settings.active, settings.width, settings.scale) == (22, 2, 64, 0.1)
    assert (settings.dropout, settings.select) == (0.1, "batch")

"""Share: its subspaces, its merge and its choices at test time against definitions written here in float64."""

import dataclasses

import pytest
import torch
from bench.methods.low_rank import kaiming_uniform
from bench.methods.share import Share
from bench.methods.shared_subspace import Subspace, balanced, shared_subspace, squared_distance
from support.large import vit_b_16
from support.learning import data, nothing, weights

from bench.config.resolve import resolve
from bench.config.run_settings import Surroundings, Train
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.data.stream import LabelSpace
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)
TRAIN = Train(steps=3, batch_size=8, lr=0.02, schedule="constant", warmup=0.0)


def made(**settings) -> Share:
    chosen = {"rank": 4, "maps": ["q", "o"]} | settings
    return Share(Share.Settings(**chosen), tiny_clip(), CONTEXT)


def learn(method: Share, index: int) -> None:
    task = data(method.clip, index)
    method.begin_task(task)
    method.fit(task, TRAIN, nothing, nothing)
    method.end_task(task)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def space(*indices: int) -> LabelSpace:
    """The label space of these tasks together."""
    prompts = {prompt: index for index in indices for prompt in toy_task(index).prompts}
    return LabelSpace(tuple(prompts), tuple(prompts.values()), tuple(range(3)))


def images(method: Share, index: int = 0) -> torch.Tensor:
    return next(data(method.clip, index).batches("look"))[0]


def updates(method: Share) -> dict[str, torch.Tensor]:
    """The change of every map's weight by every task, from the state dict alone: [tasks, out, in]."""
    state = {name: tensor.double() for name, tensor in method.state_dict().items()}
    found = {}
    for m in method.targets:
        factors = []
        for side, width in (("A", m.in_features), ("B", m.out_features)):
            basis, coefficients = state[f"{m.name}/{side}/basis"], state[f"{m.name}/{side}/coefficients"]
            mean = state.get(f"{m.name}/{side}/mean", 0)
            factors.append([(mean + basis @ one).reshape(width, -1) for one in coefficients])
        found[m.name] = torch.stack([B @ A.T for A, B in zip(*factors, strict=True)])
    return found


# ---- subspaces


def test_centring_loses_a_direction_and_its_mean() -> None:
    """Two tasks with columns e1 and e2 have one centred direction, (1, -1) / sqrt 2."""
    factors = torch.eye(3, dtype=torch.float64)[:2, :, None]
    found = shared_subspace(factors, 9, center=True)
    assert found.basis.abs().T.tolist() == [pytest.approx([0.5**0.5, 0.5**0.5, 0])]
    assert float((found.factors(3)[0] - factors[0]).norm()) == pytest.approx(0.5**0.5)
    assert torch.allclose(shared_subspace(factors, 9).factors(3), factors)
    alone = random(1, 20, 8)
    assert shared_subspace(alone, 32, center=True).basis.shape == (20, 7)
    assert shared_subspace(alone, 32).basis.shape == (20, 8)


def test_enough_directions_rebuild_every_factor_and_fewer_lose_the_discarded_energy() -> None:
    factors = random(5, 30, 4)
    stack = torch.cat(list(factors), dim=1)
    values = torch.linalg.svdvals(stack)
    for most in (20, 11, 3):
        found = shared_subspace(factors, most)
        assert found.basis.shape == (30, most) and found.coefficients.shape == (5, most, 4) and found.mean is None
        assert torch.allclose(found.basis.T @ found.basis, torch.eye(most, dtype=torch.float64), atol=1e-12)
        lost = float((found.factors(30) - factors).square().sum())
        assert lost == pytest.approx(float((values[most:] ** 2).sum()), abs=1e-12)
        turned = shared_subspace(factors.flip(0), most).factors(30).flip(0)
        assert torch.allclose(turned, found.factors(30)), "the order of the tasks does not matter"
    share = (values**2).cumsum(0) / (values**2).sum()
    assert shared_subspace(factors, 99, 0.6).basis.shape[1] == int((share < 0.6).sum()) + 1


def test_whole_factors_are_rebuilt_from_one_number_a_direction() -> None:
    factors = random(4, 10, 3) + 5
    found = shared_subspace(factors, 99, whole=True)
    assert found.basis.shape == (30, 3) and found.coefficients.shape == (4, 3, 1), "one direction less than tasks"
    assert torch.allclose(found.factors(10), factors)
    mean = factors.mean(dim=0)
    assert torch.allclose(found.factors(10, torch.zeros(3, 1, dtype=torch.float64)), mean)
    values = torch.linalg.svdvals((factors - mean).flatten(1))
    share = (values**2).cumsum(0) / (values**2).sum()
    fewer = shared_subspace(factors, 99, 0.6, whole=True)
    assert fewer.basis.shape[1] == int((share < 0.6).sum()) + 1 < 3
    kept = fewer.basis.shape[1]
    assert float((fewer.factors(10) - factors).square().sum()) == pytest.approx(float((values[kept:] ** 2).sum()))


def test_what_has_no_energy_has_no_direction() -> None:
    same = random(1, 10, 3).expand(4, 10, 3)
    assert shared_subspace(same, 99).basis.shape[1] == 3
    assert shared_subspace(same, 99, whole=True).basis.shape[1] == 0
    zero = shared_subspace(torch.zeros(2, 10, 3, dtype=torch.float64), 99, 0.6)
    assert zero.basis.shape == (10, 0) and not zero.factors(10).any() and zero.factors(10).shape == (2, 10, 3)


def test_columns_beside_turn_the_basis_and_belong_to_no_task() -> None:
    factors, beside = random(2, 12, 2), 3 * random(12, 2, seed=1)
    found = shared_subspace(factors, 3, beside=beside)
    stack = torch.cat([factors[0], factors[1], beside], dim=1)
    basis = torch.linalg.svd(stack).U[:, :3]
    assert torch.allclose(found.factors(12), basis @ (basis.T @ factors))


def test_a_narrow_update_is_the_best_approximation_in_equal_parts() -> None:
    A, B = random(6, 15), random(9, 6, seed=1)
    values = torch.linalg.svdvals(B @ A)
    narrow_A, narrow_B = balanced(A, B, 2)
    assert narrow_A.shape == (2, 15) and narrow_B.shape == (9, 2)
    assert float((narrow_B @ narrow_A - B @ A).square().sum()) == pytest.approx(float((values[2:] ** 2).sum()))
    for square in (narrow_A @ narrow_A.T, narrow_B.T @ narrow_B):
        assert torch.allclose(square, values[:2].diag(), atol=1e-10)


def test_distance_of_products() -> None:
    A, B, other_A, other_B = random(2, 3, 8), random(2, 5, 3, seed=1), random(2, 3, 8, seed=2), random(2, 5, 3, seed=3)
    expected = (B @ A - other_B @ other_A).square().sum(dim=(1, 2))
    assert torch.allclose(squared_distance(A, B, other_A, other_B), expected)
    assert squared_distance(A, B, A, B).abs().max() < 1e-9


# ---- training


def test_the_first_task_is_lora_and_nothing_of_it_is_lost() -> None:
    method = made(select="oracle")
    task = data(method.clip, 0)
    method.begin_task(task)
    draw = task.init_generator("share")
    assert all(torch.equal(m.update.A, kaiming_uniform((4, m.in_features), draw)) for m in method.targets)
    assert method.fit(task, TRAIN, nothing, nothing) == 4 * sum(m.in_features + m.out_features for m in method.targets)
    trained = {m.name: m.update.delta().double() for m in method.targets}
    expected = method.classifier(space(0))(images(method))
    method.end_task(task)
    found = updates(method)
    assert all(float((found[name][0] - delta).norm()) < 1e-5 * float(delta.norm()) for name, delta in trained.items())
    assert torch.allclose(method.classifier(space(0))(images(method)), expected, atol=1e-4)
    assert method.report()["error"] == [pytest.approx(0, abs=1e-5)]
    assert method.report()["directions"]["A"] == {m.name: 4 for m in method.targets}
    assert method.stored_numbers() == sum(4 * (m.in_features + m.out_features + 2 * 4) for m in method.targets)


def test_a_later_task_starts_at_the_pre_trained_model_and_freezes_the_bases() -> None:
    method = made()
    pretrained, pixels = weights(method), images(method)
    before = method.clip.encode_images(pixels)
    learn(method, 0)
    assert not torch.allclose(method.clip.encode_images(pixels), before, atol=1e-4)
    task = data(method.clip, 1)
    method.begin_task(task)
    start = weights(method)
    assert all((start[name] - weight).abs().max() < 1e-7 for name, weight in pretrained.items())
    assert torch.allclose(method.clip.encode_images(pixels), before, atol=1e-6)
    bases = [(m.update.alpha.clone(), m.update.beta.clone()) for m in method.targets]
    first = method.targets[0].update
    assert torch.equal(first.a, method.subspaces["image.0.q"]["A"].coefficients[-1])
    assert torch.allclose(first.V_A.T @ first.V_A, torch.eye(2), atol=1e-6)
    with method.clip.trainable(method.parameters()):
        batch, labels = next(task.batches("look"))
        method.loss(batch, labels, task).backward()
        assert all(bool(t.grad.any()) for m in method.targets for t in (m.update.b, m.update.U_B))
        for m in method.targets:
            still = m.update.a, m.update.U_A, m.update.V_A, m.update.V_B
            assert not any(bool(t.grad.any()) for t in still) and m.update.alpha.grad is m.update.beta.grad is None
    count = method.fit(task, TRAIN, nothing, nothing)
    assert count == sum(2 * 4 * 4 + 2 * (m.in_features + m.out_features) + 2 * 2 * 4 for m in method.targets)
    for m, (alpha, beta) in zip(method.targets, bases, strict=True):
        assert torch.equal(m.update.alpha, alpha) and torch.equal(m.update.beta, beta)
        assert torch.equal(m.weight, start[m.name]) and bool(m.update.b.any()) and bool(m.update.U_B.any())


@pytest.mark.parametrize("granularity", ["column", "vector"])
def test_a_warm_start_is_the_last_update(granularity: str) -> None:
    method = made(warm_start=True, granularity=granularity)
    learn(method, 0)
    last = updates(method)
    method.begin_task(data(method.clip, 1))
    for m in method.targets:
        assert (m.update.delta().double() - last[m.name][0]).norm() < 1e-5 * last[m.name][0].norm()
    if granularity == "column":
        assert all(bool(m.update.V_A.any()) and not m.update.U_A.any() for m in method.targets)


def test_whole_factors_train_a_lora_that_starts_from_the_last_input_side() -> None:
    method = made(granularity="vector", energy=1.0, select="oracle")
    for index in range(2):
        learn(method, index)
    A = method.subspaces["text.1.o"]["A"].factors(48)[-1].T
    method.begin_task(data(method.clip, 2))
    update = method.clip.maps["text.1.o"].update
    assert torch.equal(update.A, A) and not update.B.any()
    for m in method.targets:
        sides = method.subspaces[m.name]
        assert sides["A"].coefficients.shape == (2, 1, 1) and sides["B"].basis.shape == (4 * m.out_features, 1)
    assert method.report()["error"] == pytest.approx([0, 0], abs=1e-5)


# ---- the merge


@pytest.mark.parametrize("settings", [{}, {"drop_update": True}, {"granularity": "vector"}, {"pseudo_rank": 2}])
def test_the_error_is_how_far_the_updates_move(settings: dict) -> None:
    method = made(directions=5, select="oracle", **settings)
    for index in range(2):
        learn(method, index)
    earlier, task = updates(method), data(method.clip, 2)
    method.begin_task(task)
    method.fit(task, TRAIN, nothing, nothing)
    trained = {m.name: m.update.delta().double() for m in method.targets}
    method.end_task(task)
    before = {name: torch.cat([earlier[name], trained[name][None]]) for name in earlier}
    after = updates(method)
    for index in range(3):
        moved = sum(float((after[name][index] - before[name][index]).square().sum()) for name in before)
        size = sum(float(before[name][index].square().sum()) for name in before)
        assert method.report()["error"][index] == pytest.approx((moved / size) ** 0.5, abs=1e-6)
    assert max(method.report()["error"]) > 1e-3
    assert all(max(k.values()) <= 5 for k in method.report()["directions"].values())


@pytest.mark.parametrize("drop", [False, True])
def test_the_temporary_part_is_kept_unless_it_is_dropped_as_released(drop: bool) -> None:
    method = made(drop_update=drop, select="oracle")
    learn(method, 0)
    task = data(method.clip, 1)
    method.begin_task(task)
    method.fit(task, TRAIN, nothing, nothing)
    whole = {m.name: m.update.delta().double() for m in method.targets}
    shared = {m.name: (m.update.beta @ m.update.b @ (m.update.alpha @ m.update.a).T).double() for m in method.targets}
    method.end_task(task)
    for name, found in updates(method).items():
        expected = (shared if drop else whole)[name]
        assert float((found[1] - expected).norm()) < 1e-4 * float(whole[name].norm())
        assert float((whole[name] - shared[name]).norm()) > 1e-2 * float(whole[name].norm())


# ---- tests


def test_the_mean_of_the_coefficients_is_deployed_as_one_model() -> None:
    method = made()
    pretrained = weights(method)
    for index in range(2):
        learn(method, index)
    assert all(m.update is None for m in method.clip.maps.values())
    state = {name: tensor.double() for name, tensor in method.state_dict().items()}
    for m in method.targets:
        A, B = (
            state[f"{m.name}/{side}/basis"] @ state[f"{m.name}/{side}/coefficients"].mean(dim=0) for side in ("A", "B")
        )
        change = (m.weight - pretrained[m.name]).double()
        assert (change - B @ A.T).abs().max() < 1e-6
        assert (change - updates(method)[m.name].mean(dim=0)).norm() > 1e-2 * change.norm(), "no mean of products"
    moved = {name for name, weight in weights(method).items() if not torch.equal(weight, pretrained[name])}
    assert moved == {m.name for m in method.targets}


def test_the_mean_of_one_task_is_its_update() -> None:
    mean, oracle = made(), made(select="oracle")
    for method in (mean, oracle):
        learn(method, 0)
    pixels = images(mean)
    assert torch.allclose(mean.classifier(space(0))(pixels), oracle.classifier(space(0))(pixels), atol=1e-4)


def test_the_oracle_gives_each_test_set_the_update_of_its_task_and_others_the_pre_trained_model() -> None:
    method, pixels = made(select="oracle"), images(made(), 1)
    untrained = {index: Share.__mro__[1].classifier(method, space(index))(pixels) for index in (0, 1, 2)}
    for index in range(2):
        learn(method, index)
    found = updates(method)
    for index in range(2):
        own = tiny_clip()
        for m in method.targets:
            own.maps[m.name].add(found[m.name][index])
        expected = own.logits(own.encode_images(pixels), own.encode_prompts(space(index).prompts))
        assert torch.allclose(method.classifier(space(index))(pixels), expected, atol=1e-4)
        assert not torch.allclose(expected, untrained[index], atol=1e-3)
    assert torch.equal(method.classifier(space(2))(pixels), untrained[2])
    both = tiny_clip().encode_prompts(space(0, 1).prompts)
    plain = method.clip.logits(method.clip.encode_images(pixels), both)
    assert torch.equal(method.classifier(space(0, 1))(pixels), plain), "nobody says which task it is"


def test_the_router_gives_each_image_the_update_of_the_nearest_class_mean() -> None:
    method, oracle = made(select="router"), made(select="oracle")
    for index in range(2):
        learn(method, index), learn(oracle, index)
    plain, means = tiny_clip(), []
    for index in range(2):
        batches = [(plain.encode_images(p).double(), y) for p, y in data(plain, index).batches("other", batch_size=7)]
        z, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        rows = torch.stack([z[labels == one].sum(dim=0) for one in range(3)])
        means.append(rows / rows.norm(dim=1, keepdim=True))
        assert torch.allclose(method.state_dict()[f"classes/{index}"].double(), means[index], atol=1e-6)
    pixels = torch.cat([images(method, index) for index in (0, 1)])
    nearest = [int((torch.cat(means) @ z).argmax()) // 3 for z in plain.encode_images(pixels).double()]
    assert set(nearest) == {0, 1}
    asked = space(0, 1)
    alone = [oracle._expert(asked, index)(pixels) for index in range(2)]
    expected = torch.stack([alone[index][row] for row, index in enumerate(nearest)])
    assert torch.allclose(method.classifier(asked)(pixels), expected, atol=1e-4)


def test_flags_say_what_the_choice_at_test_time_needs() -> None:
    flags = {select: Share.flags_for(Share.Settings(select=select)) for select in ("mean", "oracle", "router")}
    assert [one.task_at_test for one in flags.values()] == [False, True, False]
    assert [one.extended for one in flags.values()] == [False, True, True]
    assert all(one.grows for one in flags.values()) and not any(one.test_batch for one in flags.values())


# ---- guards and sizes


@pytest.mark.parametrize("granularity", ["column", "vector"])
def test_tasks_of_two_images_and_a_rank_as_wide_as_the_tower(granularity: str) -> None:
    method = made(rank=48, directions=500, temporary=48, granularity=granularity, maps=["o"])
    for index in range(3):
        task = toy_task(index)
        pixels = Pixels(Subset(task.train, [0, 1][: 1 + index % 2]), method.clip, True)
        tokens = method.clip.tokenize(task.prompts[:2])
        few = TaskData(index, task.name, task.prompts[:2], tokens, pixels, CONTEXT)
        method.begin_task(few)
        method.fit(few, TRAIN, nothing, nothing)
        method.end_task(few)
    assert all(bool(m.weight.isfinite().all()) for m in method.targets)
    assert all(error < 1e-4 for error in method.report()["error"]) or granularity == "vector"
    assert max(method.report()["directions"]["A"].values()) <= 64


def test_a_task_that_learns_nothing_leaves_room_for_the_next() -> None:
    method = made(temporary=0)
    still = dataclasses.replace(TRAIN, lr=0.0)
    task = data(method.clip, 0)
    method.begin_task(task)
    method.fit(task, still, nothing, nothing)
    method.end_task(task)
    assert set(method.report()["directions"]["B"].values()) == {0} and method.report()["error"] == [0]
    learn(method, 1)  # without temporary directions there is no direction for B at all
    method.settings.temporary = 2
    learn(method, 2)
    assert set(method.report()["directions"]["B"].values()) == {2}


def test_trained_numbers_of_vit_b_16() -> None:
    """As published for k = 32, p = 8 and phi = 2: 0.30 M, against 0.98 M of the first task."""
    clip = vit_b_16()
    method = Share(Share.Settings(rank=8, directions=32, select="oracle"), clip, CONTEXT)
    task = TaskData(0, "first", (), torch.zeros(0, 77), None, CONTEXT)
    method.begin_task(task)
    assert sum(tensor.numel() for tensor in method.parameters()) == 122_880 * 8
    empty = torch.zeros(4, 32, 8, device="meta")
    for m in method.targets:
        widths = {"A": m.in_features, "B": m.out_features}
        method.subspaces[m.name] = {s: Subspace(torch.zeros(w, 32, device="meta"), empty) for s, w in widths.items()}
    method.begin_task(dataclasses.replace(task, index=4))
    assert sum(tensor.numel() for tensor in method.parameters()) == 192 * 32 * 8 + 122_880 * 2 + 192 * 2 * 8
    kept = sum(tensor.numel() for tensor in method.state_dict().values())
    assert kept == 122_880 * 32 + 4 * (2 * 32 * 8) * 96


@pytest.mark.parametrize(
    "word", ["pseudo_rank=17", "select=latest", "energy=0", "granularity=adapter", "directions=0", "temporary=-1"]
)
def test_settings_outside_of_the_method_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{word.split('=')[0]}"):
        resolve(["method=share", f"method.{word}"])


def test_settings_that_contradict_each_other_are_refused() -> None:
    for name in ("center", "drop_update"):
        with pytest.raises(UserError, match=rf"method.{name} is for method.granularity=column"):
            resolve(["method=share", f"method.{name}=true", "method.granularity=vector"])
    settings, widths = Share.Settings(rank=4, select="oracle", temporary=50), {"image": 64, "text": 48}
    assert settings.fits(Surroundings("seen", widths)) == [
        "method.select=oracle has to know the task of a test image, which the label space seen does not name: choose "
        "mean or router",
        "method.temporary=50 is above the width 48 of the text tower: choose at most 48",
    ]
    assert Share.Settings(rank=4, select="oracle").fits(Surroundings("task", {})) == []

"""IF2Net-like: its features, its projectors and its readout against definitions written here in float64."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from bench.methods.if2net import If2NetLike, corrected, damped, grown
from bench.methods.random_features import (
    Layers,
    draw_layers,
    fit_layers,
    random_features,
    range_of,
    ranged,
    sparse_codes,
    standardised,
)
from support.shapes_only import trained, vit_b_16

from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.data.stream import LabelSpace
from bench.learning.task_data import Context, TaskData
from bench.learning.train import fit
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0)
SMALL: dict[str, Any] = {"width": 70, "groups": 3, "nodes": 4, "enhancement": 20}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(context: Context = CONTEXT, **settings: Any) -> If2NetLike:
    return If2NetLike(If2NetLike.Settings(**{**SMALL, **settings}), tiny_clip(), context)


def task_of(method: If2NetLike, index: int, images: int | None = None, **budget: Any) -> TaskData:
    task, clip = toy_task(index), method.clip
    pixels = Pixels(task.train if images is None else Subset(task.train, np.arange(images)), clip, True)
    train = Train(**{"epochs": 2, "batch_size": 16, "lr": 0.02, "weight_decay": 0.0, "schedule": "constant", **budget})
    classes = task.prompts if images is None else task.prompts[:2]
    return TaskData(index, task.name, classes, clip.tokenize(classes), pixels, method.context, train)


def learn(method: If2NetLike, index: int, images: int | None = None, **budget: Any) -> TaskData:
    task = task_of(method, index, images, **budget)
    method.begin_task(task)
    fit(method, task, task.budget)
    method.end_task(task)
    return task


def features_of(method: If2NetLike, task: TaskData) -> tuple[torch.Tensor, torch.Tensor]:
    """Features z and g of all images of a task."""
    with torch.no_grad():
        z = torch.cat([method.clip.encode_images(pixels) for pixels, _ in task.batches("look")])
        return z, method._random(z)


# ---- the features


def test_rows_are_standardised_and_columns_ranged() -> None:
    x = standardised(normal(5, 7) * 3 + 2)
    assert torch.allclose(x[:, :7].mean(dim=1), torch.zeros(5).double(), atol=1e-12)
    assert torch.allclose((x[:, :7] ** 2).mean(dim=1), torch.ones(5).double()) and (x[:, 7] == 0.1).all()
    u = torch.tensor([[1.0, 4.0], [3.0, 4.0], [2.0, 4.0]])
    low, span = range_of(u)
    assert ranged(u, low, span).tolist() == [[0, 0], [1, 0], [0.5, 0]]
    assert ranged(torch.tensor([[5.0, 6.0]]), low, span).tolist() == [[2, 2]]  # beyond the range, and without one


def test_sparse_codes_fulfil_the_conditions_of_the_lasso() -> None:
    U, X, lam = normal(3, 30, 5).abs(), normal(30, 8, seed=1), 0.5
    V = sparse_codes(U, X, lam, iterations=200)
    assert V.shape == (3, 5, 8) and 0 < int((V == 0).sum()) < V.numel()
    for one, codes in zip(U, V, strict=True):
        slope = one.T @ (X - one @ codes)
        assert (slope[codes != 0] - lam * codes[codes != 0].sign()).abs().max() < 1e-4
        assert (slope[codes == 0].abs() <= lam + 1e-4).all()
    assert torch.allclose(sparse_codes(U[0], X, 1e-12, 200), torch.linalg.lstsq(U[0], X).solution, atol=1e-5)
    assert not sparse_codes(U, X, float((U.mT @ X).abs().max()), 200).any()


@pytest.mark.parametrize("enhancement", [20, 13, 6])
def test_layers_are_drawn_as_said(enhancement: int) -> None:
    sizes = Layers(**{**SMALL, "enhancement": enhancement})
    one, again = (draw_layers(200, sizes, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert one.E.shape == (3, 201, 4)
    assert float(one.E.mean()) == pytest.approx(-1, abs=0.15) and float(one.E.std()) == pytest.approx(2, abs=0.1)
    rows, columns = one.W_h.shape
    assert (rows, columns) == (13, enhancement)
    square = one.W_h @ one.W_h.T if rows <= columns else one.W_h.T @ one.W_h
    assert torch.allclose(square, torch.eye(min(rows, columns)), atol=1e-6)
    assert one.W.shape == (70, 12 + enhancement) and one.b.shape == (70,)
    for uniform in (one.W, one.b):
        assert uniform.abs().max() < 1 and float(uniform.std()) == pytest.approx(3**-0.5, rel=0.15)


def by_hand(z: np.ndarray, new: np.ndarray, layers: Any, lam: float, s: float) -> np.ndarray:
    """g of new images, after the images z have been seen, group by group."""
    E, W_h, W, b = (tensor.double().numpy() for tensor in layers)

    def inputs(rows: np.ndarray) -> np.ndarray:
        return np.c_[(rows - rows.mean(1)[:, None]) / rows.std(1)[:, None], np.full(len(rows), 0.1)]

    def both(of: Any) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the seen images and of the new ones, ranged as the seen ones need it."""
        seen, fresh = of(inputs(z)), of(inputs(new))
        low, high = seen.min(0), seen.max(0)
        return (seen - low) / (high - low), (fresh - low) / (high - low)

    groups = []
    for own in E:
        U, X = both(lambda x, own=own: x @ own)[0], inputs(z)
        o = u = np.zeros((U.shape[1], X.shape[1]))
        inverse = np.linalg.inv(U.T @ U + np.eye(U.shape[1]))
        for _ in range(50):
            c = inverse @ (U.T @ X + o - u)
            o = np.sign(c + u) * np.maximum(np.abs(c + u) - lam, 0)
            u = u + c - o
        groups.append(both(lambda x, o=o: x @ o.T))
    mapped = [np.concatenate(parts, axis=1) for parts in zip(*groups, strict=True)]
    m, fresh = (np.c_[Z, np.full(len(Z), 0.1)] @ W_h for Z in mapped)
    A = [np.c_[Z, np.tanh(s * inner / m.max())] for Z, inner in zip(mapped, (m, fresh), strict=True)]
    G, g = (np.maximum(rows @ W.T + b, 0) for rows in A)
    return g / np.sqrt((G**2).sum(1).mean())


def test_the_features_are_those_of_the_definition() -> None:
    z, new = normal(40, 16), normal(6, 16, seed=1)
    layers = draw_layers(16, Layers(**SMALL), torch.Generator().manual_seed(0))
    layers = type(layers)(*(tensor.double() for tensor in layers))
    fitted = fit_layers(z, layers, 1e-3, 5.0)
    g = random_features(new, layers, fitted, 5.0)
    assert np.allclose(g.numpy(), by_hand(z.numpy(), new.numpy(), layers, 1e-3, 5.0), rtol=1e-6, atol=1e-9)
    assert float(random_features(z, layers, fitted, 5.0).square().sum(dim=1).mean()) == pytest.approx(1)
    assert torch.allclose(random_features(new[2:3], layers, fitted, 5.0), g[2:3])


def test_without_the_tweak_the_features_are_one_random_layer() -> None:
    z = normal(9, 16)
    layers = draw_layers(16, Layers(**{**SMALL, "tweak": "none"}), torch.Generator().manual_seed(0))
    assert layers.W.shape == (70, 17) and layers.E.numel() == layers.W_h.numel() == 0
    layers = type(layers)(*(tensor.double() for tensor in layers))
    fitted = fit_layers(z, layers, 1e-3, 5.0)
    plain = torch.relu(standardised(z) @ layers.W.T + layers.b)
    assert torch.allclose(random_features(z, layers, fitted, 5.0), plain / plain.square().sum(1).mean().sqrt())


# ---- the projectors


@pytest.mark.parametrize("images", [8, 300])  # fewer than features, and more of a low rank
def test_a_basis_without_loss_keeps_earlier_readouts_and_loses_the_rank_of_the_features(images: int) -> None:
    L, basis = 30, torch.zeros(30, 0, dtype=torch.float64)
    old = [normal(images, 8, seed=seed) @ normal(8, L, seed=9 + seed) for seed in range(2)]
    for seen, G in enumerate(old, 1):
        before = basis
        basis = grown(basis, G, 0.0)
        P = torch.eye(L) - basis @ basis.T
        assert basis.shape[1] == 8 * seen and torch.equal(basis[:, : before.shape[1]], before)
        assert torch.allclose(P @ P, P, atol=1e-12) and (P @ basis).abs().max() < 1e-12
        assert torch.linalg.matrix_rank(P) == L - 8 * seen
    change = P @ normal(L, 5, seed=20)
    assert change.norm() > 1 and max(float((G @ change).abs().max()) for G in old) < 1e-10
    assert grown(basis, old[0], 0.0).shape == basis.shape  # nothing new in it
    turned = grown(torch.zeros(L, 0, dtype=torch.float64), old[0].flip(0), 0.0)
    assert torch.allclose(turned @ turned.T, basis[:, :8] @ basis[:, :8].T, atol=1e-10)


@pytest.mark.parametrize("images", [8, 100])
def test_a_basis_with_a_loss_has_the_fewest_directions_that_cover_the_rest(images: int) -> None:
    first, second = (normal(images, 20, seed=seed) * torch.linspace(3, 0.1, 20) for seed in range(2))
    basis = grown(torch.zeros(20, 0, dtype=torch.float64), first, 0.1)
    shares = torch.linalg.svdvals(first) ** 2 / first.square().sum()
    assert basis.shape[1] == 1 + int((shares.cumsum(0) < 0.9).sum())
    more = grown(basis, second, 0.1)
    left = second - second @ basis @ basis.T
    shares = torch.linalg.svdvals(left) ** 2 / second.square().sum()
    covered = 1 - shares.sum() + shares.cumsum(0)
    assert more.shape[1] == basis.shape[1] + 1 + int((covered < 0.9).sum())
    assert float((second @ more).square().sum() / second.square().sum()) == pytest.approx(
        float(covered[more.shape[1] - basis.shape[1] - 1])
    )


def test_a_basis_stops_growing_when_it_has_all_directions() -> None:
    full = grown(torch.zeros(6, 0, dtype=torch.float64), normal(50, 6), 0.0)
    assert full.shape == (6, 6) and torch.equal(grown(full, normal(50, 6, seed=1), 0.0), full)


def test_the_damped_projector_is_the_closed_form_and_the_recursion_row_by_row() -> None:
    G, a = normal(600, 12), 0.3
    P = damped(damped(torch.eye(12, dtype=torch.float64), G[:250], a), G[250:], a)
    assert torch.allclose(P, a * torch.linalg.inv(G.T @ G + a * torch.eye(12)), atol=1e-12)
    one = torch.eye(12, dtype=torch.float64)
    for r in G:
        k = one @ r
        one = one - torch.outer(k, k) / (a + r @ k)
    assert torch.allclose(P, one, atol=1e-12) and torch.equal(P, P.T)


# ---- the method


def test_a_readout_of_zeros_changes_nothing() -> None:
    z = torch.nn.functional.normalize(normal(4, 5), dim=-1)
    assert torch.allclose(corrected(z, normal(4, 7), torch.zeros(7, 5).double()), z)
    R, g = normal(7, 5, seed=2), normal(4, 7)
    expected = [(z[i] + R.T @ g[i]) / (z[i] + R.T @ g[i]).norm() for i in range(4)]
    assert torch.allclose(corrected(z, g, R), torch.stack(expected))


@pytest.mark.parametrize("projector", ["basis", "ridge"])
def test_a_step_is_the_projected_gradient(projector: str) -> None:
    method = made(projector=projector, damping=0.05, eps=0.1)
    G = features_of(method, learn(method, 0))[1].double()
    if projector == "ridge":
        P = 0.05 * torch.linalg.inv(G.T @ G + 0.05 * torch.eye(70))
    else:
        vectors = torch.linalg.svd(G, full_matrices=False).Vh[: method.memory.shape[1]]
        P = torch.eye(70) - vectors.T @ vectors
    task = task_of(method, 1, steps=1, batch_size=40, optimizer="sgd", momentum=0.0, lr=0.1)
    before = method.readout.double().requires_grad_()
    method.begin_task(task)
    (pixels, labels), *_ = task.batches("train", batch_size=40)
    z = method.clip.encode_images(pixels)
    texts = method.clip.encode_tokens(task.tokens).double()
    images = torch.nn.functional.normalize(z.double() + method._random(z).double() @ before, dim=1)
    logits = float(method.clip.logit_scale) * images @ texts.T
    torch.nn.functional.cross_entropy(logits, labels).backward()
    fit(method, task, task.budget)
    expected = before.detach() - 0.1 * P @ before.grad
    assert (method.readout - expected).abs().max() < 1e-5 * float(before.grad.abs().max())
    assert (method.readout - before.detach()).norm() > 1e-4


def test_old_images_keep_their_features_and_the_model_stays_as_it_was() -> None:
    method = made(eps=0.0, width=300)
    before = copy.deepcopy(method.clip.model.state_dict())
    first = learn(method, 0)
    z, g = features_of(method, first)
    old = corrected(z, g, method.readout)
    assert (old - z).norm() > 0.1
    second = learn(method, 1)
    assert (corrected(z, g, method.readout) - old).abs().max() < 1e-4
    z, g = features_of(method, second)
    assert (corrected(z, g, method.readout) - z).norm() > 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.clip.model.state_dict().items())
    assert method.report() == {"free": 300 - method.memory.shape[1]} and method.features is None


def test_prompts_of_no_task_are_scored_by_the_same_features() -> None:
    method = made()
    task = learn(method, 0)
    pixels = next(task.batches("look"))[0]
    prompts = (*task.prompts, "a dog", "an unknown thing")
    spaces = [LabelSpace(names, (0,) * len(names), (0,)) for names in (prompts, prompts[3:])]
    with torch.no_grad():
        scores = [method.classifier(space)(pixels) for space in spaces]
    assert torch.allclose(scores[0][:, 3:], scores[1], atol=1e-5)


def test_what_cannot_learn_any_more_is_said() -> None:
    said: list[str] = []
    method = made(dataclasses.replace(CONTEXT, say=said.append), width=5, eps=0.0)
    learn(method, 0)
    assert said == [] and method.report() == {"free": 0.0}
    before = method.readout.clone()
    learn(method, 1)
    assert (method.readout - before).abs().max() < 1e-5
    (sentence,) = said
    assert "task toy1 learns nothing, since earlier tasks used all 5 directions" in sentence
    assert "raise method.width" in sentence


@pytest.mark.parametrize("settings", [{}, {"projector": "ridge"}, {"tweak": "none"}], ids=str)
def test_a_later_task_may_have_one_image_and_the_state_holds_all(settings: dict[str, Any]) -> None:
    method, again = made(**settings), made(**settings)
    learn(method, 0, 2)
    again.load_state_dict({name: tensor.clone() for name, tensor in method.state_dict().items()})
    for one in (method, again):
        learn(one, 1, 1)
        assert one.readout.isfinite().all() and one.memory.isfinite().all()
    assert torch.equal(method.readout, again.readout) and torch.equal(method.memory, again.memory)


def test_a_first_task_of_one_image_is_refused_where_ranges_are_needed() -> None:
    context = dataclasses.replace(CONTEXT, images={"toy0": 1, "toy1": 40})
    with pytest.raises(UserError, match="the first task, toy0, has 1 training image.*method.tweak=none"):
        made(context)
    with pytest.raises(UserError, match="the first task, toy0, has 1 training image"):
        learn(made(), 0, 1)
    learn(made(context, tweak="none"), 0, 1)


@pytest.mark.parametrize("word", ["width=0", "eps=1", "damping=0", "sparsity=0", "tweak=own", "projector=hard"])
def test_settings_outside_of_the_method_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{word.split('=')[0]}"):
        resolve(["method=if2net-like", f"method.{word}"])


def test_trained_numbers_of_vit_b_16() -> None:
    method = If2NetLike(If2NetLike.Settings(), vit_b_16(), CONTEXT)
    assert trained(method.parameters()) == 2000 * 512


def test_ridge_keeps_a_memory_of_one_size() -> None:
    assert If2NetLike.flags_for(If2NetLike.Settings(projector="ridge")).grows == ""
    assert "at most method.width" in If2NetLike.flags_for(If2NetLike.Settings()).grows

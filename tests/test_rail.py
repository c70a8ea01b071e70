"""RAIL and RanPAC against scikit-learn, against the recursion and the rules of the gate written here in float64."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench.methods.known_classes import once, positions
from bench.methods.rail import RailDual, RailPrimal, fused, kernel
from bench.methods.ranpac import RIDGES, RanPac, held_out_errors
from bench.methods.regression import Regression, expanded, gated, solved
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.pixels import Pixels
from bench.data.stream import label_space
from bench.learning.evaluate import zero_shot
from bench.learning.given import encoded
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)
TASKS = [toy_task(index) for index in range(3)]
FORMS = [RailPrimal, RailDual, RanPac]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count: int, width: int = 32, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of unit length that lie near each other, as CLIP's do, and classes."""
    f = torch.nn.functional.normalize(normal(count, width, seed=seed) + 3, dim=1).float()
    return f, torch.arange(count) % classes


def one_hot(classes: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, count).double()


def made(cls: type[Regression], context: Context = CONTEXT, **settings: Any) -> Any:
    return cls(cls.Settings(**settings), tiny_clip(), context)


def width_of(method: Regression) -> int:
    return method.clip.model.visual.output_dim


def add(method: Any, f: torch.Tensor, classes: torch.Tensor, known: int, index: int = 0) -> None:
    """Let a method learn features of classes that have numbers in the place of prompts."""
    method.tokens = torch.arange(known)[:, None]
    method.add(f, classes, SimpleNamespace(index=index))


def data(method: Any, index: int) -> TaskData:
    task, clip = TASKS[index], method.clip
    return TaskData(
        index, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), method.context
    )


def learn(method: Any, *indices: int) -> None:
    for index in indices:
        task = data(method, index)
        method.begin_task(task)
        assert method.fit(task, task.budget, lambda: None, lambda report: None) > 0
        method.end_task(task)


def answers(method: Any, column: int, kind: str = "all") -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Give the scores and CLIP's own probabilities of one test set among all classes."""
    space = label_space(kind, TASKS, len(TASKS), column)
    assert space is not None
    f = encoded(Pixels(TASKS[column].test, method.clip, True), 16, "encode", CONTEXT.world)
    with torch.no_grad():
        p = zero_shot(method.clip, space, from_features=True)(f).softmax(dim=1)
        return method.feature_classifier(space)(f), p, space


# ---- the solution


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_the_solution_is_that_of_scikit_learn(ridge: float) -> None:
    X, Y = normal(30, 12), one_hot(torch.arange(30) % 4, 4)
    found = solved(X.T @ X, X.T @ Y, ridge)
    sklearn = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(X.numpy(), Y.numpy())
    assert found is not None and abs(found.numpy() - sklearn.coef_.T).max() < 1e-9


def test_the_primal_form_is_the_ridge_regression_on_all_images_however_they_come() -> None:
    method = made(RailPrimal, expansion=70)
    f, classes = images(60, width_of(method))
    add(method, f, classes, 4)
    phi = (f.double() @ method.P.double().T).clamp(min=0)
    joint = Ridge(alpha=0.1, fit_intercept=False, solver="svd").fit(phi.numpy(), one_hot(classes, 4).numpy())
    W = solved(method.M, method.Q, 0.1)
    assert W is not None and abs(W.numpy() - joint.coef_.T).max() < 1e-8
    assert torch.allclose(method.W, W.float())
    others = made(RailPrimal, expansion=70)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for known, part in (
        (2, order[classes[order] < 2]),
        (3, order[classes[order] == 2]),
        (4, order[classes[order] == 3]),
    ):
        for few in part.split(7):
            add(others, f[few], classes[few], known)
    assert torch.allclose(others.M, method.M, rtol=1e-12) and torch.allclose(others.Q, method.Q, rtol=1e-12)
    assert torch.allclose(others.W, method.W, atol=1e-5)
    bound = width_of(method) ** -0.5
    assert float(method.P.abs().max()) <= bound and float(method.P.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_recursion_of_the_paper_gives_the_same_weights() -> None:
    lam, h = 0.1, 20
    phi, classes = normal(48, h, seed=3).clamp(min=0), torch.arange(48) // 12
    R, W = torch.eye(h).double() / lam, torch.zeros(h, 0).double()
    for known, start in enumerate(range(0, 48, 12), 1):
        W = torch.nn.functional.pad(W, (0, 1))
        for part in torch.arange(start, start + 12).split(5):
            b, y, before = phi[part], one_hot(classes[part], 4)[:, :known], R
            R = R - R @ b.T @ torch.linalg.inv(torch.eye(len(b)).double() + b @ R @ b.T) @ b @ R
            W = W + R @ b.T @ (y - b @ W)
            assert torch.linalg.eigvalsh(before - R).min() > -1e-9  # it decreases with data
        M, Q = phi[: start + 12].T @ phi[: start + 12], phi[: start + 12].T @ one_hot(classes[: start + 12], known)
        found = solved(M, Q, lam)
        assert found is not None and torch.allclose(found, W, atol=1e-9)
        assert torch.allclose(R @ (M + lam * torch.eye(h).double()), torch.eye(h).double(), atol=1e-9)
        assert torch.allclose(R, R.T, atol=1e-9) and torch.linalg.eigvalsh(R).min() > 0


def test_the_dual_form_is_that_of_scikit_learn() -> None:
    method = made(RailDual)
    f, classes = images(40, width_of(method))
    for known, part in ((2, classes < 2), (4, classes >= 2)):
        add(method, f[part], classes[part], known)
    X, Y = method.X.double().numpy(), one_hot(method.classes, 4).numpy()
    joint = KernelRidge(alpha=0.001, kernel="rbf", gamma=0.1).fit(X, Y)
    new = images(9, width_of(method), seed=5)[0]
    assert abs(method.alpha.numpy() - joint.dual_coef_).max() < 1e-6 * abs(joint.dual_coef_).max()
    assert abs(method.scorer()(new).numpy() - joint.predict(new.double().numpy())).max() < 1e-6


def test_the_dual_form_with_a_linear_kernel_is_the_primal_form() -> None:
    X, Y = normal(20, 8), one_hot(torch.arange(20) % 3, 3)
    W, alpha = solved(X.T @ X, X.T @ Y, 0.1), solved(X @ X.T, Y, 0.1)
    assert W is not None and alpha is not None and torch.allclose(W, X.T @ alpha, atol=1e-9)


def test_the_kernel() -> None:
    f = images(25)[0].double()
    K = kernel(f, f, 0.1)
    expected = torch.tensor([[(-0.1 * float((a - b) @ (a - b))) for b in f] for a in f]).double().exp()
    assert torch.allclose(K, expected, atol=1e-7) and torch.allclose(K, K.T, atol=1e-14)
    assert torch.allclose(K.diagonal(), torch.ones(25).double(), atol=1e-12)
    assert torch.linalg.eigvalsh(K).min() > -1e-12 and K.min() >= torch.tensor(-0.4).exp()
    Y = one_hot(torch.arange(25) % 4, 4)
    alpha = solved(K, Y, 1e-10)
    assert alpha is not None and torch.allclose(K @ alpha, Y, atol=1e-4)  # it goes through the training points


def test_a_class_is_a_column_whatever_the_order_of_tasks_and_an_image_counts_as_often_as_it_comes() -> None:
    one, other, twice = (made(RailPrimal, expansion=50) for _ in range(3))
    f, classes = images(40, width_of(one))
    add(one, f, classes, 4)
    add(other, f, 3 - classes, 4)
    assert torch.allclose(other.W, one.W.flip(1), atol=1e-6)
    for _ in range(2):
        add(twice, f, classes, 4)
    assert torch.allclose(twice.M, 2 * one.M) and not torch.allclose(twice.W, one.W, atol=1e-3)


def test_without_expansion_features_are_regressed_as_they_are() -> None:
    method = made(RailPrimal, expansion=0)
    f, classes = images(40, width_of(method))
    add(method, f, classes, 4)
    assert method.P is None and torch.allclose(method.M, f.double().T @ f.double())
    assert torch.equal(expanded(f, None), f)


# ---- the gate and the mixture


def test_an_image_of_a_class_not_learned_yet_is_answered_by_clip_alone() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    scores, known = torch.tensor([[1.0, 0.0, 5.0], [9.0, 9.0, 9.0]]), torch.tensor([True, True, False])
    assert torch.equal(gated(p, scores, known), torch.stack([scores[0], p[1]]))
    assert torch.allclose(fused(p, scores, 0.8), 0.2 * p + 0.8 * scores)


@pytest.mark.parametrize("cls", FORMS)
def test_answers_among_all_classes(cls: type[Regression]) -> None:
    method = made(cls)
    for column in range(3):
        found, p, space = answers(method, column)
        assert torch.equal(found.argmax(dim=1), p.argmax(dim=1))  # before the first task
    learn(method, 0)
    f = encoded(Pixels(TASKS[0].test, method.clip, True), 16, "encode", CONTEXT.world)
    for column in range(3):
        found, p, space = answers(method, column)
        unlearned = p.argmax(dim=1) >= 3  # the first task has three classes
        assert torch.equal(found[unlearned], p[unlearned]) and unlearned.any()
        targets = torch.tensor(space.targets)[torch.from_numpy(TASKS[column].test.labels)]
        right = [(answer.argmax(dim=1) == targets).sum() for answer in (found, p)]
        assert right[0] >= right[1] or column == 0
        if column == 0:
            a = method.scorer()(f)[~unlearned]
            if cls is RanPac:
                assert torch.equal(found[~unlearned].argmax(dim=1), a.argmax(dim=1))
            else:
                padded = torch.nn.functional.pad(a, (0, found.shape[1] - 3))
                assert torch.allclose(found[~unlearned], 0.2 * p[~unlearned] + 0.8 * padded, atol=1e-6)
    learn(method, 1, 2)
    found, p, space = answers(method, 1)
    assert not (found == p).all(dim=1).any()  # every image is adapted once all is learned
    own, q, space = answers(method, 1, "task")
    assert own.shape[1] == 3 and not (own == q).all(dim=1).any()


@pytest.mark.parametrize("cls", [RailPrimal, RailDual])
def test_without_regression_or_with_an_endless_ridge_the_answers_are_clips(cls: type[Regression]) -> None:
    for settings in ({"fusion": 0.0}, {"ridge": 1e12}):
        method = made(cls, **settings)
        learn(method, 0, 1, 2)
        found, p, _ = answers(method, 0)
        assert torch.equal(found.argmax(dim=1), p.argmax(dim=1))
        share = 1.0 if "fusion" in settings else 0.2
        assert torch.allclose(found, share * p, atol=1e-6)


def test_a_class_is_known_again_by_its_prompt() -> None:
    one, more = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[3, 4], [5, 6], [1, 2]])
    known, _ = once(torch.cat([one, more]))
    assert known.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert positions(more, known).tolist() == [1, 2, 0] and positions(torch.tensor([[7, 7]]), known).tolist() == [-1]
    assert once(torch.zeros(0, 2, dtype=torch.int64))[0].shape == (0, 2)
    method = made(RailPrimal)
    learn(method, 0, 0)
    assert len(method.tokens) == 3 and method.W.shape == (1024, 3)


# ---- what is kept, and what is refused


def test_the_primal_form_keeps_a_column_more_and_the_dual_form_features() -> None:
    primal, dual = made(RailPrimal, expansion=100), made(RailDual)
    sizes = []
    for index in range(2):
        learn(primal, index)
        learn(dual, index)
        sizes.append(primal.stored_numbers())
    assert sizes[1] - sizes[0] == 3 * (2 * 100 + primal.clip.context_length)  # Q, W and prompts
    assert len(dual.X) == sum(len(task.train) for task in TASKS[:2]) and RailDual.flags.rehearsal
    again = made(RailDual)
    again.load_state_dict({name: tensor.clone() for name, tensor in dual.state_dict().items()})
    assert torch.equal(answers(again, 0)[0], answers(dual, 0)[0])


def test_too_many_images_for_the_dual_form_are_refused_at_the_start() -> None:
    context = dataclasses.replace(CONTEXT, images={"a": 50_000, "b": 10_001})
    with pytest.raises(UserError, match=r"all 60,001 training images together, which takes 58 GB: use rail-primal"):
        made(RailDual, context)
    made(RailPrimal, context)


def test_a_ridge_that_float64_cannot_solve_with_is_named() -> None:
    method = made(RailDual, ridge=1e-300)
    f, classes = images(30, width_of(method))
    with pytest.raises(UserError, match="method.ridge=1e-300 is too small to solve with in float64"):
        add(method, torch.cat([f, f]), torch.cat([classes, classes]), 4)


def test_passes_over_changed_images() -> None:
    method = made(RailDual, passes=2)
    task = data(method, 0)
    task.budget = dataclasses.replace(task.budget, augment="crop")
    method.fit(task, task.budget, lambda: None, lambda report: None)
    assert len(method.X) == 2 * len(task.train)
    assert torch.bincount(method.classes).tolist() == (2 * torch.bincount(task.train.labels)).tolist()
    plain = task.features()
    assert (torch.cdist(method.X, plain).min(dim=1).values > 1e-4).float().mean() > 0.9


@pytest.mark.parametrize(
    "word", ["ridge=0", "expansion=-1", "fusion=1.5", "gamma=0", "passes=-1", "held_out=1", "ridges=[]", "ridges=[0]"]
)
def test_settings_outside_of_the_methods_are_refused(word: str) -> None:
    key = word.split("=")[0]
    name = {"gamma": "rail-dual", "held_out": "ranpac", "ridges": "ranpac"}.get(key, "rail-primal")
    with pytest.raises(UserError, match=rf"method\.{key}"):
        resolve([f"method={name}", f"method.{word}"])


# ---- RanPAC


@pytest.mark.parametrize("width", [12, 60])
def test_the_ridge_is_chosen_by_the_errors_of_scikit_learn(width: int) -> None:
    phi, y = normal(40, width, seed=2).clamp(min=0), one_hot(torch.arange(40) % 3, 3)
    ridges = [1e-6, 1e-2, 1.0, 1e3]
    expected = []
    for ridge in ridges:
        fitted = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(phi[:30].numpy(), y[:30].numpy())
        expected.append(((fitted.predict(phi[30:].numpy()) - y[30:].numpy()) ** 2).mean())
    assert held_out_errors(phi, y, 30, ridges) == pytest.approx(expected, rel=1e-5)


def test_ranpac_is_ridge_regression_with_the_chosen_ridge() -> None:
    method = made(RanPac, expansion=200)
    learn(method, 0, 1)
    assert method.ridge in RIDGES and method.report() == {"ridge": method.ridge}
    W = Ridge(alpha=method.ridge, fit_intercept=False, solver="svd")
    f = torch.cat([encoded(Pixels(task.train, method.clip, True), 16, "encode", CONTEXT.world) for task in TASKS[:2]])
    y = one_hot(torch.cat([data(method, index).train.labels + 3 * index for index in range(2)]), 6)
    W.fit((f.double() @ method.P.double().T).clamp(min=0).numpy(), y.numpy())
    assert abs(method.W.numpy() - W.coef_.T).max() < 1e-4 * abs(W.coef_).max()
    assert abs(float(method.P.std()) - 1) < 0.05


def test_a_task_of_one_image_takes_the_ridge_of_the_task_before() -> None:
    method = made(RanPac, expansion=50, ridges=[0.5, 2.0])
    f, classes = images(20, width_of(method))
    add(method, f[:1], classes[:1], 1)
    assert method.ridge == 0.5
    add(method, f[1:], classes[1:], 4, 1)
    chosen = method.ridge
    add(method, f[:1], classes[:1], 4, 2)
    assert method.ridge == chosen

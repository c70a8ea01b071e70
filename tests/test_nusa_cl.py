"""NuSA-CL against its definition, written here in float64 and apart from the implementation."""

import copy
from pathlib import Path

import pytest
import torch
from bench.methods import nusa_cl
from bench.methods.nusa_cl import NusaCl, null_tail
from support.shapes_only import trained, vit_b_16

from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.pixels import Pixels
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.toy import tiny_clip, toy_task

TOY = Path(__file__).parent / "toy.py"


def made(clip: Clip | None = None, context: Context | None = None, **settings) -> NusaCl:
    context = context or Context(tasks=2, batch_size=16, init_seed=0, data_seed=0)
    return NusaCl(NusaCl.Settings(**settings), clip or tiny_clip(), context)


def task_of(method: NusaCl, index: int = 0) -> TaskData:
    task, clip = toy_task(index), method.clip
    train = Train(steps=3, batch_size=16, lr=0.02)
    pixels = Pixels(task.train, clip, True)
    return TaskData(index, task.name, task.prompts, clip.tokenize(task.prompts), pixels, method.context, train)


def with_values(*values: float, out: int | None = None) -> torch.Tensor:
    """A weight with these singular values."""
    draw, d = torch.Generator().manual_seed(1), len(values)
    U, V = (torch.linalg.qr(torch.randn(n, d, generator=draw).double()).Q for n in (out or d, d))
    return U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.T


@pytest.mark.parametrize(
    ("rho", "r_max", "r"),
    [(0.49, 9, 2), (0.51, 9, 1), (0.79, 9, 1), (0.81, 9, 0), (0.01, 9, 2), (0.49, 1, 1)],
)
def test_a_tail_is_what_lies_beyond_the_share(rho: float, r_max: int, r: int) -> None:
    """Squares 5, 3 and 2: shares 0.5, 0.8 and 1."""
    weight = with_values(5**0.5, 3**0.5, 2**0.5)
    U, V = null_tail(weight, rho, r_max)
    assert U.shape == V.shape == (3, r)
    left, _, right = torch.linalg.svd(weight)
    assert (U @ U.T - left[:, 3 - r :] @ left[:, 3 - r :].T).abs().max() < 1e-12
    assert (V @ V.T - right[3 - r :].T @ right[3 - r :]).abs().max() < 1e-12


@pytest.mark.parametrize("wide", [False, True])
def test_a_weight_that_is_not_square_has_as_many_singular_values_as_its_shorter_side(wide: bool) -> None:
    weight = with_values(4.0, 2.0, 1.0, 0.5, out=9)
    weight = weight.T if wide else weight
    U, V = null_tail(weight, 0.8, 128)
    assert (len(U), len(V)) == ((4, 9) if wide else (9, 4)) and U.shape[1] == 2
    assert torch.linalg.svdvals(U.T @ weight @ V).tolist() == pytest.approx([1.0, 0.5])


def test_a_weight_of_zeros_has_no_tail() -> None:
    U, V = null_tail(torch.zeros(3, 3), 0.85, 128)
    assert U.shape == V.shape == (3, 0)


@pytest.mark.parametrize("which", ["M", "MV", "UMV"])
def test_the_change_lies_between_the_tails(which: str) -> None:
    method = made(rho=0.6, rank=20, trained=which)
    for index in range(2):
        task = task_of(method, index)
        before = {m.name: m.weight.clone() for m in method.targets}
        pixels = next(task.batches("look"))[0]
        function = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        method.begin_task(task)
        start = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        assert all(torch.equal(a, b) for a, b in zip(function, start, strict=True)), "the start preserves the function"
        method.fit(task, task.budget, lambda: None, lambda report: None)
        deltas = {m.name: m.update.delta().double() for m in method.targets}
        method.end_task(task)
        for m in method.targets:
            U, S, Vh = torch.linalg.svd(before[m.name].double())
            shares = (S**2).cumsum(0) / (S**2).sum()
            k = int((shares < 0.6).sum()) + 1
            r, change = min(len(S) - k, 20), deltas[m.name]
            assert method.report()["effective_rank"][m.name] == r > 0
            assert torch.linalg.matrix_rank(change, rtol=1e-5) <= r and change.norm() > 0
            assert (m.weight - before[m.name] - change).abs().max() < 1e-6
            outside = U[:, :-r].T @ change, change @ Vh[:-r].T
            if which != "UMV":
                assert outside[0].norm() < 1e-5 * change.norm(), "U_k^T Delta W = 0"
            if which == "M":
                assert outside[1].norm() < 1e-5 * change.norm(), "Delta W V_k = 0"
            else:
                assert outside[1].norm() > 1e-3 * change.norm()


@pytest.mark.parametrize(
    ("which", "count"), [("M", lambda n, m, r: r * r), ("MV", lambda n, m, r: r * (r + m)),
                         ("UMV", lambda n, m, r: r * (n + r + m))],
)  # fmt: skip
def test_no_more_than_the_setting_says_is_trained(which: str, count) -> None:
    method = made(trained=which, rank=10, maps=["v", "fc1"], towers=["image"])
    task = task_of(method)
    before = copy.deepcopy(method.clip.model.state_dict())
    method.begin_task(task)
    trained_values = method.fit(task, task.budget, lambda: None, lambda report: None)
    ranks = method.effective_rank
    assert trained_values == sum(count(m.out_features, m.in_features, ranks[m.name]) for m in method.targets)
    assert all(torch.equal(t, before[name]) for name, t in method.clip.model.state_dict().items())
    assert {m.tower for m in method.targets} == {"image"}


def test_on_vit_b_16_as_many_values_are_trained_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes alone: every weight there has more than 128 directions beyond its share."""
    monkeypatch.setattr(
        nusa_cl, "null_tail", lambda W, rho, most: (W.new_zeros(len(W), most), W.new_zeros(W.shape[1], most))
    )
    method = made(vit_b_16())
    method.begin_task(task_of(made()))
    assert len(method.targets) == 96 and trained(method.parameters()) == 1_572_864
    for m in method.targets:
        m.update = None


def test_nothing_is_kept_from_task_to_task() -> None:
    method = made()
    task = task_of(method)
    method.begin_task(task)
    method.end_task(task)
    assert (method.state_dict(), method.stored_bytes()) == ({}, 0)


@pytest.mark.parametrize("word", ["rho=1", "rho=0", "rank=0", "towers=[]", "trained=V"])
def test_settings_outside_of_the_method_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{word.split('=')[0]}"):
        resolve(["method=nusa-cl", f"method.{word}"])
    resolve(["method=nusa-cl", "method.rank=128", f"model={TOY}", f"stream={TOY}"])  # narrower, and no tail is wider


def test_a_share_that_leaves_a_weight_no_tail_is_refused_before_training() -> None:
    method = made(rho=0.999999)
    with pytest.raises(UserError, match=r"method.rho=0.999999 leaves nothing of image.0.q to train.*lower method.rho"):
        method.begin_task(task_of(method))


def test_a_merged_weight_without_a_tail_is_left_and_said_once() -> None:
    lines: list[str] = []
    method = made(context=Context(2, 16, 0, 0, say=lines.append), maps=["q"], towers=["image"])
    method.clip.maps["image.0.q"].weight.copy_(torch.eye(64)[:, :1] @ torch.ones(1, 64))  # of rank one
    tail, method.settings.rho = nusa_cl.null_tail, 0.85
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nusa_cl, "null_tail", lambda W, rho, most: tail(W, rho, 0 if W[1, 0] == 0 else most))
        method.begin_task(task_of(method, 1))
    assert lines == [
        "note: in 1 maps of task toy1 (image.0.q, ...) nothing is trained: all singular values are needed for the "
        "share 0.85 (method.rho)"
    ]
    assert method.clip.maps["image.0.q"].update is None and len(method.parameters()) == 1
    method.end_task(task_of(method, 1))

"""SLAO: start, merging and memory against definitions written here in float64."""

import math

import pytest
import torch
from bench.methods.lora import Lora
from bench.methods.slao import Slao, orthonormal_rows, share
from support.large import vit_b_16
from support.learning import TRAIN, data, learn, nothing, weights

from bench.compute.seeding import generator
from bench.config.resolve import resolve_method
from bench.core.errors import UserError
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)


def made(cls: type[Method] = Slao, **settings) -> Method:
    return cls(cls.Settings(**{"rank": 4, "alpha": 4.0} | settings), tiny_clip(), CONTEXT)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_schmidt(A: torch.Tensor) -> torch.Tensor:
    """The definition: every row less what lies in the rows before, of length one."""
    rows: list[torch.Tensor] = []
    for a in A.double():
        rest = a - sum(((a @ row) * row for row in rows), torch.zeros_like(a))
        rows.append(rest / rest.norm())
    return torch.stack(rows)


def tuned(method: Method) -> dict[str, dict[str, torch.Tensor]]:
    return {m.name: {k: t.double().clone() for k, t in m.update.tensors().items()} for m in method.targets}


def set_factors(method: Method, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Stand in for training: put drawn factors into every update."""
    draw = generator(0, "stub", seed)
    for m in method.targets:
        for tensor in m.update.tensors().values():
            tensor.copy_(torch.randn(tensor.shape, generator=draw))
    return tuned(method)


# ---- the two rules


@pytest.mark.parametrize(("row", "expected"), [((3, 4), (0.6, 0.8)), ((-3, -4), (-0.6, -0.8))])
def test_a_row_keeps_its_side(row: tuple[int, int], expected: tuple[float, float]) -> None:
    assert torch.allclose(orthonormal_rows(torch.tensor([row]).float()), torch.tensor([expected]).double())


@pytest.mark.parametrize("shape", [(1, 5), (3, 7), (4, 4)])
def test_rows_are_those_of_gram_schmidt(shape: tuple[int, int]) -> None:
    A = random(*shape)
    new = orthonormal_rows(A)
    assert torch.allclose(new, gram_schmidt(A), atol=1e-10)
    R = A @ new.T
    assert torch.allclose(R, R.tril(), atol=1e-10) and bool((R.diagonal() > 0).all())
    assert torch.allclose(orthonormal_rows(new), new, atol=1e-12), "an orthonormal basis stays"


@pytest.mark.parametrize("A", [torch.zeros(3, 5), torch.ones(3, 5), torch.eye(5)[[1, 1, 2]]])
def test_dependent_rows_are_completed(A: torch.Tensor) -> None:
    new = orthonormal_rows(A)
    assert torch.allclose(new @ new.T, torch.eye(3, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (0.5, [0.2929, 0.7071]),
        (0.5, [0.1238, 0.2989, 0.5774]),
        (0.5, [0.0342, 0.0826, 0.1596, 0.2764, 0.4472]),
        (1.0, [0.25] * 4),
        (0.0, [0.0, 0.0, 1.0]),
    ],
)
def test_weights_of_the_tasks_in_the_merged_factor(power: float, expected: list[float]) -> None:
    method = made(power=power)
    factors = []
    for index in range(len(expected)):
        task = data(method.clip, index)
        method.begin_task(task)
        factors.append(set_factors(method, index))
        method.end_task(task)
    for m in method.targets:
        merged = method.memory[f"{m.name}.merged.B"].double()
        assert torch.allclose(
            merged, sum(w * one[m.name]["B"] for w, one in zip(expected, factors, strict=True)), atol=5e-4
        )
        assert torch.equal(method.memory[f"{m.name}.A"].double(), factors[-1][m.name]["A"])
    parts = [share(number, power) for number in range(1, len(expected) + 1)]
    products = [part * math.prod(1 - later for later in parts[i + 1 :]) for i, part in enumerate(parts)]
    assert products == pytest.approx(expected, abs=5e-5) and sum(products) == pytest.approx(1)


# ---- the whole method


def test_the_first_task_is_that_of_plain_lora() -> None:
    slao, lora = made(), made(Lora)
    for method in (slao, lora):
        learn(method, 0)
    assert slao.clip.weights_sha256() == lora.clip.weights_sha256()


def test_three_tasks_from_start_to_merge() -> None:
    method = made(alpha=2.0)
    pretrained, merged, last = weights(method), {}, {}
    for index in range(3):
        task = data(method.clip, index)
        method.begin_task(task)
        start = tuned(method)
        for m in method.targets:
            assert (m.weight - pretrained[m.name]).abs().max() < 1e-6, "training starts from W alone"
            assert m.update.scale == 0.5
            if index:
                A, B = start[m.name]["A"], start[m.name]["B"]
                assert torch.allclose(A, gram_schmidt(last[m.name]["A"]), atol=1e-5)
                assert torch.equal(B, last[m.name]["B"])
        trained = method.fit(task, TRAIN, nothing, nothing)
        last = tuned(method)
        method.end_task(task)
        for m in method.targets:
            A, B = last[m.name]["A"], last[m.name]["B"]
            assert (A - start[m.name]["A"]).abs().max() > 1e-3 and (B - start[m.name]["B"]).abs().max() > 1e-3
            before = merged.get(m.name, torch.zeros_like(B))
            merged[m.name] = before + (B - before) / math.sqrt(index + 1)
            change = (m.weight - pretrained[m.name]).double()
            assert m.update is None and torch.allclose(change, 0.5 * merged[m.name] @ A, atol=1e-6)
        share_now, left_out = method.report().values()
        assert share_now == pytest.approx((index + 1) ** -0.5)
        far = torch.cat([(merged[name] - one["B"]).flatten() for name, one in last.items()]).norm()
        assert left_out == pytest.approx(float(far / torch.cat([o["B"].flatten() for o in last.values()]).norm()), 1e-3)
    inputs, outputs = (sum(getattr(m, side) for m in method.targets) for side in ("in_features", "out_features"))
    assert trained == 4 * (inputs + outputs)
    assert method.stored_numbers() == 4 * (inputs + 2 * outputs), "as many after every task"


def test_a_task_without_training_keeps_the_factor_and_turns_the_rows() -> None:
    method = made()
    learn(method, 0)
    first = {key: tensor.clone() for key, tensor in method.memory.items()}
    task = data(method.clip, 1)
    method.begin_task(task)
    method.end_task(task)
    for m in method.targets:
        assert torch.equal(method.memory[f"{m.name}.merged.B"], first[f"{m.name}.B"])
        assert torch.allclose(method.memory[f"{m.name}.A"].double(), gram_schmidt(first[f"{m.name}.A"]), atol=1e-5)


def test_the_first_basis_makes_the_inherited_function_larger() -> None:
    """Fresh rows have an expected squared length of 1/3, orthonormal ones 1; nothing corrects it."""
    method = made(rank=16)
    method.begin_task(data(method.clip))
    fresh = torch.cat([m.update.A.square().sum(dim=1) for m in method.targets])
    assert float(fresh.mean()) == pytest.approx(1 / 3, abs=0.01)
    method.end_task(data(method.clip))
    method.begin_task(data(method.clip, 1))
    assert torch.allclose(torch.cat([m.update.A.square().sum(dim=1) for m in method.targets]), torch.tensor(1.0))


@pytest.mark.parametrize("start", ["last", "merged", "random"])
def test_the_other_starts(start: str) -> None:
    method = made(start=start, merge="both")
    for index in range(2):
        method.begin_task(data(method.clip, index))
        set_factors(method, index)
        method.end_task(data(method.clip, index))
    memory = method.memory
    method.begin_task(data(method.clip, 2))
    for m in method.targets:
        A, B = m.update.A, m.update.B
        if start == "last":
            assert torch.equal(A, memory[f"{m.name}.A"]) and torch.equal(B, memory[f"{m.name}.B"])
            assert A.data_ptr() != memory[f"{m.name}.A"].data_ptr(), "training must not write into the memory"
        elif start == "merged":
            assert torch.allclose(A.double(), gram_schmidt(memory[f"{m.name}.merged.A"]), atol=1e-5)
            assert torch.equal(B, memory[f"{m.name}.merged.B"])
        else:
            assert not B.any() and A.abs().max() <= m.in_features**-0.5


@pytest.mark.parametrize(("merge", "averaged"), [("A", "A"), ("B", "B"), ("both", "AB")])
def test_what_is_averaged_is_a_setting(merge: str, averaged: str) -> None:
    method = made(merge=merge, power=1.0)
    pretrained, factors = weights(method), []
    for index in range(2):
        task = data(method.clip, index)
        method.begin_task(task)
        factors.append(set_factors(method, index))
        method.end_task(task)
    for m in method.targets:
        first, second = (one[m.name] for one in factors)
        A, B = ((first[k] + second[k]) / 2 if k in averaged else second[k] for k in "AB")
        assert torch.allclose((m.weight - pretrained[m.name]).double(), B @ A, atol=1e-4)


def test_a_later_task_needs_the_factors_that_were_trained() -> None:
    """The merged ones are not enough: without the trained B another task is learned."""
    straight, ends = made(), []
    for index in range(2):
        straight.begin_task(data(straight.clip, index))
        set_factors(straight, index)
        straight.end_task(data(straight.clip, index))
    for forget in (False, True):
        resumed = made()
        resumed.clip.model.load_state_dict(straight.clip.model.state_dict())
        state = straight.state_dict()
        if forget:
            state |= {f"{m.name}.B": state[f"{m.name}.merged.B"] for m in straight.targets}
        resumed.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
        learn(resumed, 2)
        ends.append(resumed.clip.weights_sha256())
    learn(straight, 2)
    assert ends[0] == straight.clip.weights_sha256() != ends[1]


def test_two_texts_one_image_and_a_rank_as_wide_as_the_tower() -> None:
    method = made(rank=48)
    for index in range(2):
        task = data(method.clip, index)
        small = TaskData(index, "small", task.prompts[:2], task.tokens[:2], task.train, CONTEXT)
        method.begin_task(small)
        pixels, _ = next(task.batches("look", batch_size=1))
        with method.clip.trainable(method.parameters()):
            method.loss(pixels, torch.zeros(1, dtype=torch.int64), small).backward()
            assert all(bool(tensor.grad.isfinite().all()) for tensor in method.parameters())
        method.end_task(small)
    assert all(bool(m.weight.isfinite().all()) for m in method.targets)


@pytest.mark.parametrize("word", ["start=qr", "merge=AB", "power=-1", "rank=0", "maps=[]"])
def test_what_the_method_does_not_define_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"method.{word.split('=')[0]}"):
        resolve_method(["method=slao", f"method.{word}"])


def test_trained_and_kept_numbers_of_vit_b_16() -> None:
    """122,880 r are trained; r (in + 2 out) are kept, 1.47 M with the paper's r = 8."""
    method = Slao(Slao.Settings(rank=8), vit_b_16(), CONTEXT)
    task = TaskData(0, "task", (), torch.zeros(0, 77), None, CONTEXT)
    method.begin_task(task)
    assert sum(tensor.numel() for tensor in method.parameters()) == 122_880 * 8
    for m in method.targets:
        update = m.update.tensors()
        method.memory |= {f"{m.name}.{key}": tensor for key, tensor in update.items()}
        method.memory[f"{m.name}.merged.B"] = update["B"].clone()
    assert sum(tensor.numel() for tensor in method.state_dict().values()) == 3 * 61_440 * 8
    for m in method.targets:
        m.update = None

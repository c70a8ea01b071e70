"""O-LoRA: its penalty against a definition written here in float64, and what it keeps."""

import math

import pytest
import torch
from bench.methods.lora import Lora
from bench.methods.o_lora import OLora, overlap
from support.large import vit_b_16
from support.learning import TRAIN, data, learn, nothing

from bench.config.resolve import resolve_method
from bench.core.errors import UserError
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)


def made(cls: type[Method] = OLora, **settings) -> Method:
    return cls(cls.Settings(**{"rank": 4} | settings), tiny_clip(), CONTEXT)


def skipped(method: Method, index: int) -> None:
    """Go through a task without training it."""
    method.begin_task(data(method.clip, index))
    method.end_task(data(method.clip, index))


def by_entries(earlier: list[torch.Tensor], A: torch.Tensor, size: str) -> float:
    """The definition, entry by entry."""
    inner = [math.fsum((a * b).tolist()) for old in earlier for a in old.double() for b in A.double()]
    return math.fsum(abs(x) if size == "absolute" else x * x for x in inner)


@pytest.mark.parametrize("size", ["squares", "absolute"])
def test_the_penalty_is_the_sum_over_entries_of_all_earlier_tasks(size: str) -> None:
    draw = torch.Generator().manual_seed(0)
    earlier = [[torch.randn(3, width, generator=draw).double() for _ in range(2)] for width in (5, 7)]
    A = [torch.randn(3, width, generator=draw).double().requires_grad_() for width in (5, 7)]
    penalty = overlap(zip(map(torch.cat, earlier), A, strict=True), size)
    expected = sum(by_entries(old, new.detach(), size) for old, new in zip(earlier, A, strict=True))
    assert float(penalty.detach()) == pytest.approx(expected)
    penalty.backward()
    for old, new in zip(earlier, A, strict=True):
        terms = [new.detach() @ one.T for one in old]
        slopes = [term.sign() if size == "absolute" else 2 * term for term in terms]
        assert torch.allclose(new.grad, sum(slope @ one for slope, one in zip(slopes, old, strict=True)))


def test_orthogonal_rows_cost_nothing() -> None:
    rows = torch.eye(6, dtype=torch.float64)
    assert float(overlap([(rows[:4], rows[4:])], "squares")) == 0
    assert float(overlap([(rows[:4], 2 * rows[3:])], "squares")) == 4


@pytest.mark.parametrize("size", ["squares", "absolute"])
def test_the_loss_has_the_penalty_of_all_maps(size: str) -> None:
    method, kept = made(size=size, strength=0.3), []
    for index in range(3):
        task = data(method.clip, index)
        method.begin_task(task)
        pixels, labels = next(task.batches("look"))
        plain = float(Lora.loss(method, pixels, labels, task))
        expected = sum(by_entries([old[m.name] for old in kept], m.update.A, size) for m in method.targets)
        assert float(method.loss(pixels, labels, task)) == pytest.approx(plain + 0.3 * expected, rel=1e-5)
        kept.append({m.name: m.update.A.clone() for m in method.targets})
        method.end_task(task)
        assert method.report()["penalty"] == pytest.approx(expected, rel=1e-5)
    for m in method.targets:
        assert torch.equal(method.earlier[m.name], torch.cat([old[m.name] for old in kept]))


def test_without_weight_it_is_plain_lora() -> None:
    ends = []
    for method in (made(strength=0.0), made(Lora), made(strength=1.0)):
        skipped(method, 0)
        learn(method, 1)
        ends.append(method.clip.weights_sha256())
    assert ends[0] == ends[1] != ends[2]


def test_training_turns_the_new_rows_away_from_earlier_ones() -> None:
    found = []
    for strength in (0.0, 5.0):
        method = made(strength=strength)
        skipped(method, 0)
        task = data(method.clip, 1)
        method.begin_task(task)
        before = float(method.penalty())
        assert method.fit(task, TRAIN, nothing, nothing) == sum(t.numel() for t in method.parameters())
        method.end_task(task)
        found.append(method.report()["penalty"] / before)
    assert found[1] < 0.3 < found[0]


def test_two_texts_one_image_and_more_rows_than_inputs() -> None:
    method = made(rank=40)
    for index in range(2):
        task = data(method.clip, index)
        small = TaskData(index, "small", task.prompts[:2], task.tokens[:2], task.train, CONTEXT)
        method.begin_task(small)
        pixels, _ = next(task.batches("look", batch_size=1))
        with method.clip.trainable(method.parameters()):
            method.loss(pixels, torch.zeros(1, dtype=torch.int64), small).backward()
            assert all(bool(tensor.grad.isfinite().all()) for tensor in method.parameters())
        method.end_task(small)


@pytest.mark.parametrize("word", ["strength=-1", "size=norm", "rank=0", "towers=[]"])
def test_what_the_method_does_not_define_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"method.{word.split('=')[0]}"):
        resolve_method(["method=o-lora", f"method.{word}"])


def test_kept_numbers_of_vit_b_16() -> None:
    method = OLora(OLora.Settings(), vit_b_16(), CONTEXT)
    method.begin_task(TaskData(0, "task", (), torch.zeros(0, 77), None, CONTEXT))
    assert sum(tensor.numel() for tensor in method.parameters()) == 122_880 * 16
    assert sum(m.update.A.numel() for m in method.targets) == 61_440 * 16
    for m in method.targets:
        m.update = None
    small = made()
    for index in range(2):
        skipped(small, index)
        assert small.stored_numbers() == (index + 1) * 4 * sum(m.in_features for m in small.targets)

"""MiLoRA against its definition, written here in float64 and apart from the implementation."""

import dataclasses

import pytest
import torch
from bench.methods.milora import MiLora, minor_part
from support.learning import data, nothing, weights
from support.shapes_only import trained, vit_b_16

from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip

TRAIN = Train(steps=3, batch_size=16, lr=0.02, weight_decay=0.0)


def made(**settings) -> MiLora:
    return MiLora(MiLora.Settings(**{"rank": 5} | settings), tiny_clip(), Context(2, 16, 0, 0))


def task_of(method: MiLora, index: int = 0, train: Train = TRAIN) -> TaskData:
    return dataclasses.replace(data(method.clip, index), budget=train)


@pytest.mark.parametrize(("out", "width"), [(4, 4), (9, 4), (4, 9)])
def test_the_factors_are_those_of_the_last_singular_triples(out: int, width: int) -> None:
    draw = torch.Generator().manual_seed(1)
    U, V = (torch.linalg.qr(torch.randn(n, 4, generator=draw).double()).Q for n in (out, width))
    A, B = minor_part(U @ torch.diag(torch.tensor([7.0, 3.0, 2.0, 0.5]).double()) @ V.T, 2)
    minor = 2.0 * U[:, 2:3] @ V[:, 2:3].T + 0.5 * U[:, 3:] @ V[:, 3:].T
    assert (B @ A - minor).abs().max() < 1e-12
    values = torch.tensor([2.0, 0.5]).double()
    assert (B.T @ B - values.diag()).abs().max() < 1e-12, "both factors have the root of every singular value"
    assert (A @ A.T - values.diag()).abs().max() < 1e-12


def test_two_tasks_each_from_the_minor_part_of_the_weight_as_it_is() -> None:
    method = made(maps=["v", "fc1"])
    for index in range(2):
        task = task_of(method, index)
        before, pixels = weights(method), next(task.batches("look"))[0]
        function = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        method.begin_task(task)
        start = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(function, start, strict=True))
        frozen = weights(method)
        for m in method.targets:
            U, S, Vh = torch.linalg.svd(before[m.name].double(), full_matrices=False)
            principal = U[:, :-5] * S[:-5] @ Vh[:-5]
            assert (frozen[m.name] - principal).abs().max() < 1e-6
            assert (m.update.delta() - (before[m.name] - principal)).abs().max() < 1e-6
        method.fit(task, TRAIN, nothing, nothing)
        assert all(torch.equal(m.weight, frozen[m.name]) for m in method.clip.maps.values())
        learned = {m.name: m.update.delta() for m in method.targets}
        method.end_task(task)
        for m in method.targets:
            assert torch.allclose(m.weight, frozen[m.name] + learned[m.name], atol=1e-7)
            assert not torch.allclose(m.weight, before[m.name], atol=1e-4), "something was learned"
    assert (method.state_dict(), method.stored_bytes()) == ({}, 0)


def test_merging_at_once_returns_the_weights() -> None:
    method = made()
    before = weights(method)
    method.begin_task(task_of(method))
    method.end_task(task_of(method))
    assert all((m.weight - before[m.name]).abs().max() < 1e-6 for m in method.targets)


def test_as_many_values_are_trained_as_published() -> None:
    """15.7 M on ViT-B/16 at rank 128; the shapes alone."""
    method = MiLora(MiLora.Settings(rank=128), vit_b_16(), Context(2, 16, 0, 0))
    method.begin_task(task_of(made()))
    assert len(method.targets) == 96 and trained(method.parameters()) == 122_880 * 128 == 15_728_640
    for m in method.targets:
        m.update = None


@pytest.mark.parametrize("name", ["milora", "sc-lora"])
def test_weight_decay_is_refused_before_anything_is_loaded(name: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve([f"method={name}", "train.weight_decay=0.01"])
    assert str(refused.value) == (
        f'method "{name}": train.weight_decay=0.01 would erase the part of the weights that A and B start from: set '
        "train.weight_decay=0"
    )
    assert resolve([f"method={name}"]).run.train.weight_decay == 0.0


def test_weight_decay_of_a_single_task_is_refused_before_it_is_trained() -> None:
    method = made()
    with pytest.raises(UserError, match=r"^train.weight_decay=0.25 would erase .* for task toy1 too$"):
        method.begin_task(task_of(method, 1, dataclasses.replace(TRAIN, weight_decay=0.25)))

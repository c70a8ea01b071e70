"""SD-LoRA: directions, magnitudes and what is trained of them, against definitions written here in float64."""

import pytest
import torch
from bench.methods.lora import Lora
from bench.methods.sd_lora import Directions, SdLora, normalised
from support.large import vit_b_16
from support.learning import TRAIN, data, learn, nothing, weights

from bench.compute.seeding import generator
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)


def made(cls: type[Method] = SdLora, **settings) -> Method:
    return cls(cls.Settings(**{"rank": 4} | settings), tiny_clip(), CONTEXT)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stub(method: Method, index: int) -> dict[str, dict[str, torch.Tensor]]:
    """Stand in for training a task: draw what is trained, and return it."""
    draw = generator(0, "stub", index)
    method.begin_task(data(method.clip, index))
    for tensor in method.parameters():
        tensor.copy_(0.1 * torch.randn(tensor.shape, generator=draw))
    found = {m.name: {key: t.double().clone() for key, t in m.update.tensors().items()} for m in method.targets}
    method.end_task(data(method.clip, index))
    return found


def test_a_direction_has_norm_one() -> None:
    A, B = random(3, 7), random(5, 3, seed=1)
    unit, norm = normalised(A, B)
    assert float(norm) == pytest.approx(float(torch.linalg.matrix_norm(B @ A)))
    assert torch.allclose(unit @ A, B @ A / torch.linalg.matrix_norm(B @ A))


def test_an_update_of_zero_has_no_direction() -> None:
    unit, norm = normalised(random(3, 7), torch.zeros(5, 3))
    assert float(norm) == 0 and not unit.any()


def test_the_change_and_its_gradients() -> None:
    """The slope of the change of a magnitude is the inner product of the weight's gradient with the direction."""
    A, B, change = random(2, 6), random(5, 2, seed=1), random(3, seed=2)
    olds = [(random(2, 6, seed=3 + i), random(5, 2, seed=6 + i)) for i in range(3)]
    trained = [tensor.requires_grad_() for tensor in (A, B, change)]
    update = Directions(A, B, torch.cat([a for a, _ in olds]), torch.cat([b for _, b in olds], dim=1), change, 0.5)
    delta, G = update.delta(), random(5, 6, seed=9)
    assert torch.allclose(delta, sum(c * b @ a for c, (a, b) in zip(change, olds, strict=True)) + 0.5 * B @ A)
    of_a, of_b, of_change = torch.autograd.grad((delta * G).sum(), trained)
    assert of_change.tolist() == pytest.approx([float((G * (b @ a)).sum()) for a, b in olds])
    assert torch.allclose(of_a, 0.5 * B.T @ G) and torch.allclose(of_b, 0.5 * G @ A.T)


def test_the_model_is_the_sum_of_directions_times_magnitudes() -> None:
    method = made(alpha=2.0)
    pretrained, directions, alphas = weights(method), {}, {}
    for index in range(3):
        found = stub(method, index)
        for m in method.targets:
            new = found[m.name]
            changes = new.get("change", torch.zeros(0))
            product = 0.5 * new["B"] @ new["A"]
            alphas[m.name] = [a + float(c) for a, c in zip(alphas.get(m.name, []), changes, strict=True)]
            alphas[m.name].append(float(product.norm()))
            directions.setdefault(m.name, []).append(product / product.norm())
            model = sum(a * D for a, D in zip(alphas[m.name], directions[m.name], strict=True))
            assert torch.allclose((m.weight - pretrained[m.name]).double(), model, atol=1e-6)
            assert method.memory[f"{m.name}.magnitudes"].tolist() == pytest.approx(alphas[m.name], rel=1e-5)
            A, B = (method.memory[f"{m.name}.{factor}"].double() for factor in "AB")
            kept = [B[:, 4 * i : 4 * i + 4] @ A[4 * i : 4 * i + 4] for i in range(index + 1)]
            assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(kept, directions[m.name], strict=True))
    means = torch.tensor(list(alphas.values())).mean(dim=0)
    assert method.report()["magnitudes"] == pytest.approx(means.tolist(), rel=1e-4)


def test_a_later_task_trains_magnitudes_and_a_new_direction() -> None:
    method = made()
    stub(method, 0)
    stub(method, 1)
    task, before = data(method.clip, 2), weights(method)
    frozen = {key: tensor.clone() for key, tensor in method.memory.items()}
    method.begin_task(task)
    assert all(not m.update.delta().any() for m in method.targets), "the start preserves the function"
    trained = method.fit(task, TRAIN, nothing, nothing)
    outputs, inputs = (sum(getattr(m, side) for m in method.targets) for side in ("out_features", "in_features"))
    assert trained == 4 * (outputs + inputs) + 2 * len(method.targets)
    for m in method.targets:
        new = m.update.tensors()
        assert new["change"].abs().min() > 1e-4 and new["B"].any()
        assert torch.equal(new["A_old"], frozen[f"{m.name}.A"]) and torch.equal(new["B_old"], frozen[f"{m.name}.B"])
        assert torch.linalg.matrix_rank(m.update.delta(), rtol=1e-5) <= 3 * 4
    method.end_task(task)
    assert all(not torch.equal(m.weight, before[m.name]) for m in method.targets)
    assert method.stored_numbers() == 3 * (4 * (outputs + inputs) + len(method.targets))


def test_the_first_task_is_that_of_plain_lora() -> None:
    ends = []
    for cls in (SdLora, Lora):
        method = made(cls)
        learn(method, 0)
        ends.append(method.clip.weights_sha256())
    assert ends[0] == ends[1]


def test_a_map_that_did_not_move_two_texts_and_one_image() -> None:
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
    assert all(bool(tensor.isfinite().all()) for tensor in method.memory.values())


def test_trained_numbers_of_vit_b_16() -> None:
    method = SdLora(SdLora.Settings(), vit_b_16(), CONTEXT)
    for m in method.targets:
        method.memory |= {f"{m.name}.A": m.weight[:16], f"{m.name}.B": m.weight[:, :16]}
        method.memory[f"{m.name}.magnitudes"] = m.weight[0, :1]
    method.begin_task(TaskData(1, "task", (), torch.zeros(0, 77), None, CONTEXT))
    assert sum(tensor.numel() for tensor in method.parameters()) == 122_880 * 16 + 96
    for m in method.targets:
        m.update = None

"""SC-LoRA: its directions, its start and what it keeps, against definitions written here in float64."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from bench.methods import sc_lora
from bench.methods.sc_lora import ScLora, contrast, divisors, output_directions, unit_trace
from support.learning import data, nothing, weights
from support.shapes_only import trained, vit_b_16

from bench.config.resolve import resolve, resolve_method
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.learning.moments import SecondMoment
from bench.learning.task_data import Context, TaskData
from bench.model.linear_maps import LinearMap
from bench.record.flags import flags_of
from bench.runs.loading import reference_of
from bench.trials import contract
from bench.trials.toy import tiny_clip, toy_reference
from bench.trials.trial import TRAIN as TRIED
from bench.trials.trial import Trial

TRAIN = Train(steps=3, batch_size=16, lr=0.01, weight_decay=0.0)


def made(say: Callable[[str], None] = nothing, **settings) -> ScLora:
    clip = tiny_clip()
    context = Context(3, 16, 0, 0, say=say, reference=reference_of(toy_reference(), clip))
    return ScLora(ScLora.Settings(**{"rank": 4} | settings), clip, context)


def task_of(method: ScLora, index: int = 0) -> TaskData:
    return dataclasses.replace(data(method.clip, index, method.context), budget=TRAIN)


def learn(method: ScLora, index: int) -> TaskData:
    task = task_of(method, index)
    method.begin_task(task)
    method.fit(task, TRAIN, nothing, nothing)
    method.end_task(task)
    return task


def moment(draw: torch.Generator, width: int, rank: int | None = None) -> torch.Tensor:
    x = torch.randn(rank or 3 * width, width, generator=draw, dtype=torch.float64)
    return x.T @ x


def samples(method: ScLora, linear_map: LinearMap, task: TaskData) -> list[torch.Tensor]:
    """The inputs of a map, [tokens that count, in] for every image or prompt."""
    found: list[torch.Tensor] = []

    def record(x: torch.Tensor, mask: torch.Tensor | None) -> None:
        found.extend(one if mask is None else one[mask[place]] for place, one in enumerate(x.double()))

    with torch.no_grad(), method.clip.recording({linear_map.site.name: record}):
        for pixels, _ in task.batches("another order", batch_size=7) if linear_map.tower == "image" else ():
            method.clip.encode_images(pixels)
        if linear_map.tower == "text":
            method.clip.encode_tokens(task.tokens)
    return found


# ---- the directions


@pytest.mark.parametrize(("beta", "direction"), [(0.0, 0), (0.338, 0), (0.340, 1), (0.9, 1)])
def test_a_worked_example_of_the_directions(beta: float, direction: int) -> None:
    """The first direction wins up to beta = 2 / 5.9, where (1 - beta) 3 - beta 4 = (1 - beta) 1 - beta 0.1."""
    plus, minus = torch.tensor([3.0, 1.0]).double().diag(), torch.tensor([4.0, 0.1]).double().diag()
    Q = output_directions(torch.eye(2).double(), (1 - beta) * plus - beta * minus, 1)
    assert Q.abs().flatten().tolist() == [1.0 - direction, direction]


def test_both_moments_have_trace_one_and_several_to_keep_count_alike() -> None:
    draw = torch.Generator().manual_seed(0)
    plus, one, other = (moment(draw, 5) for _ in range(3))
    expected = 0.4 * plus / plus.trace() - 0.3 * (one / one.trace() + other / other.trace())
    assert (contrast(7 * plus, [1e4 * one, other], 0.6) - expected).abs().max() < 1e-15
    empty = torch.zeros(5, 5).double()
    assert torch.equal(contrast(plus, [one, empty], 0.6), contrast(plus, [one], 0.6))
    assert torch.equal(contrast(plus, [empty], 0.6), plus / plus.trace()), "beta is 0 where there is nothing to keep"
    assert torch.equal(unit_trace(empty), empty)


def test_no_directions_have_more_of_what_is_sought() -> None:
    draw = torch.Generator().manual_seed(0)
    for beta in (0.0, 0.5, 0.95):
        inner = contrast(moment(draw, 6), [moment(draw, 6)], beta)
        W = torch.randn(9, 6, generator=draw, dtype=torch.float64)
        M = W @ inner @ W.T
        Q = output_directions(W, inner, 3)
        values = torch.linalg.eigvals(M).real
        there = values[values.abs() > 1e-9]
        assert len(there) == 6 and (Q.T @ Q - torch.eye(3)).abs().max() < 1e-12
        assert float((Q.T @ M @ Q).trace()) == pytest.approx(float(there.sort().values[-3:].sum()))
        for _ in range(20):  # of the six directions with outputs
            other = torch.linalg.qr(W @ torch.randn(6, 3, generator=draw, dtype=torch.float64)).Q
            assert (other.T @ M @ other).trace() <= (Q.T @ M @ Q).trace() + 1e-12


def test_the_more_what_is_kept_weighs_the_less_of_it_and_of_the_task_is_chosen() -> None:
    draw = torch.Generator().manual_seed(3)
    plus, minus = (unit_trace(moment(draw, 8)) for _ in range(2))
    eye, found = torch.eye(8).double(), []
    for beta in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        Q = output_directions(eye, contrast(plus, [minus], beta), 3)
        found.append([float((Q.T @ one @ Q).trace()) for one in (plus, minus)])
    for before, after in itertools.pairwise(found):
        assert after[0] <= before[0] + 1e-12 and after[1] <= before[1] + 1e-12
    assert found[-1][1] < found[0][1] - 0.01


def test_a_task_that_is_all_that_is_kept_gives_directions_too() -> None:
    plus = moment(torch.Generator().manual_seed(0), 6)
    for inner in (contrast(plus, [plus], 0.5), torch.zeros(6, 6).double()):
        Q = output_directions(torch.eye(6).double(), inner, 2)
        assert Q.shape == (6, 2) and (Q.T @ Q - torch.eye(2)).abs().max() < 1e-12


def test_directions_without_outputs_are_not_chosen() -> None:
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(12, 12, generator=draw, dtype=torch.float64)
    few, kept = moment(draw, 12, 3), moment(draw, 12, 2)
    assert output_directions(W, contrast(few, [], 0.8), 8).shape == (12, 3)
    Q = output_directions(W, contrast(few, [kept], 0.8), 8)
    assert Q.shape == (12, 5), "first those of the task, then those that the kept outputs use"
    signs = (Q.T @ W @ contrast(few, [kept], 0.8) @ W.T @ Q).diag().sign().tolist()
    assert signs == [1, 1, 1, -1, -1]


# ---- what is measured


@pytest.mark.parametrize("norm", ["none", "absmax"])
def test_moments_of_inputs_give_those_of_outputs(norm: str) -> None:
    """Sample by sample, without biases and without what follows a prompt."""
    method = made(norm=norm, maps=["k", "o"])
    task = task_of(method)
    found = method._moments(task)
    for name in ("image.0.k", "image.1.o", "text.0.k", "text.1.o"):
        m = method.clip.maps[name]
        W, total, tokens = m.weight.double(), 0.0, 0
        for x in samples(method, m, task):
            y = x @ W.T
            y = y / y.max().abs() if norm == "absmax" else y
            total, tokens = total + y.T @ y, tokens + len(y)
        gram = found[name if norm == "absmax" else m.site.name]
        assert gram.count == tokens
        assert (W @ gram.gram @ W.T - total).abs().max() < 1e-4 * total.abs().max()


def test_outputs_are_divided_by_the_magnitude_of_their_largest_element() -> None:
    y = torch.tensor([[[1.0, -8.0], [2.0, 0.5]], [[-3.0, -1.0], [-2.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert divisors(y, None).tolist() == [2.0, 9.0, 1.0]
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    assert divisors(y, mask).tolist() == [2.0, 1.0, 1.0], "of the second sample the last token does not count"
    tiny = torch.tensor([[[-10.0, 1e-9]], [[-10.0, -1e-9]]])
    assert divisors(tiny, None).tolist() == pytest.approx([0.1, 0.1]), "no sample counts a million times as much"


def test_the_past_is_what_finished_tasks_read_in_the_model_that_learned_them() -> None:
    method = made()
    m, total = method.clip.maps["text.1.k"], torch.zeros(48, 48).double()
    assert not method.past[m.site.name].any()
    for index in range(2):
        task = learn(method, index)
        total += sum(x.T @ x for x in samples(method, m, task))
    assert torch.allclose(method.past[m.site.name], total, rtol=1e-4, atol=1e-5)
    assert method.stored_numbers() == 4 * 64**2 + 4 * 48**2
    task = task_of(method, 2)
    plus = sum(x.T @ x for x in samples(method, m, task))
    M = m.weight.double() @ (0.2 * plus / plus.trace() - 0.8 * total / total.trace()) @ m.weight.double().T
    method.begin_task(task)
    Q = m.update.B.double()
    values = torch.linalg.eigvalsh(M)
    there = values[values.abs() > 1e-6 * values.abs().max()]
    assert float((Q.T @ M @ Q).trace()) == pytest.approx(float(there[-4:].sum()), rel=1e-3)


@pytest.mark.parametrize("keep", ["reference", "both"])
def test_the_reference_set_is_measured_once_with_the_untrained_model(keep: str) -> None:
    method = made(keep=keep, towers=["image"], maps=["o"])
    m, reference = method.clip.maps["image.1.o"], method.context.reference
    seen: list[torch.Tensor] = []
    with torch.no_grad(), method.clip.recording({m.site.name: lambda x, _: seen.append(x.flatten(0, 1).double())}):
        method.clip.encode_images(reference.images(torch.arange(len(reference))))
    outside = seen[0].T @ seen[0]
    learn(method, 0)
    kept = method.outside[m.site.name].clone()
    assert torch.allclose(kept, outside, rtol=1e-4, atol=1e-5)
    past = None if keep == "reference" else method.past[m.site.name].clone()
    task = task_of(method, 1)
    plus, W = sum(x.T @ x for x in samples(method, m, task)), m.weight.double()
    method.begin_task(task)
    assert torch.equal(method.outside[m.site.name], kept)
    parts = [one / one.trace() for one in (outside, past) if one is not None]
    M = W @ (0.2 * plus / plus.trace() - 0.8 * sum(parts) / len(parts)) @ W.T
    Q, best = m.update.B.double(), torch.linalg.eigvalsh(M)[-4:].sum()
    assert float((Q.T @ M @ Q).trace()) == pytest.approx(float(best), rel=1e-3)
    assert set(method.state_dict()) == {
        f"{name}.image.{n}.o" for n in (0, 1) for name in ("reference", "past")[: len(parts)]
    }


@pytest.mark.parametrize("settings", [{"keep": "both", "norm": "absmax"}, {"keep": "reference", "trained": "A"}])
def test_other_settings_continue_to_the_same_bits(settings: dict[str, str]) -> None:
    once = dataclasses.replace(TRIED, epochs=1)
    contract.state(contract.Start(lambda: Trial(ScLora, ScLora.Settings(rank=4, **settings), [], once)))


# ---- the method


@pytest.mark.parametrize("which", ["AB", "A"])
def test_a_task_starts_as_the_model_is_and_changes_what_is_trained(which: str) -> None:
    method = made(trained=which)
    for index in range(2):
        task = task_of(method, index)
        before, pixels = weights(method), next(task.batches("look"))[0]
        function = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        method.begin_task(task)
        start = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(function, start, strict=True))
        rest, Q = weights(method), {m.name: m.update.B.double().clone() for m in method.targets}
        for m in method.targets:
            basis, W = Q[m.name], before[m.name].double()
            assert (basis.T @ basis - torch.eye(basis.shape[1])).abs().max() < 1e-6
            assert (basis.T @ rest[m.name].double()).abs().max() < 1e-6
            assert (m.update.delta() - basis @ basis.T @ W).abs().max() < 1e-6
        method.fit(task, TRAIN, nothing, nothing)
        assert all(torch.equal(m.weight, rest[m.name]) for m in method.clip.maps.values())
        method.end_task(task)
        for m in method.targets:
            change, basis = (m.weight - before[m.name]).double(), Q[m.name]
            outside, r = change - basis @ (basis.T @ change), basis.shape[1]
            assert change.norm() > 1e-3
            assert (outside.norm() < 1e-4 * change.norm()) == (which == "A")
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= (r if which == "A" else 2 * r)


def test_merging_at_once_returns_the_weights() -> None:
    method = made()
    before = weights(method)
    method.begin_task(task_of(method))
    method.end_task(task_of(method))
    assert all((m.weight - before[m.name]).abs().max() < 1e-6 for m in method.targets)


def test_one_image_and_two_classes_whose_prompts_have_fewer_directions_than_the_rank() -> None:
    said: list[str] = []
    method = made(said.append, rank=48)
    for index in range(2):
        whole = task_of(method, index)
        prompts = whole.prompts[:2]
        alone = Pixels(Subset(whole.train.images, [0]), method.clip, True)
        task = dataclasses.replace(whole, prompts=prompts, tokens=method.clip.tokenize(prompts), train=alone)
        method.begin_task(task)
        ranks = method.report()["effective_rank"]
        assert 0 < ranks["text.0.q"] < 48
        assert ranks["image.0.q"] == (10, 19)[index], "the class token is the same in both images"
        method.fit(task, TRAIN, nothing, nothing)
        method.end_task(task)
        assert all(bool(m.weight.isfinite().all()) for m in method.targets)
    assert said == [
        "note: task toy0 has 10 tokens of images, fewer than the 64 outputs of image.0.q: they decide little about the "
        "directions that are adapted, so take more images"
    ]


def test_numbers_of_vit_b_16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes alone: A and B of 96 maps, and a moment of every site."""
    monkeypatch.setattr(sc_lora, "output_directions", lambda W, inner, rank: W.new_zeros(len(W), rank))
    monkeypatch.setattr(sc_lora, "contrast", lambda plus, kept, beta: plus)
    method = ScLora(ScLora.Settings(), vit_b_16(), Context(2, 16, 0, 0))
    found = {name: SecondMoment(site.width, method.clip.exact_device) for name, site in method.sites.items()}
    monkeypatch.setattr(method, "_moments", lambda task: found)
    monkeypatch.setattr(method, "_say_if_few", nothing)
    method.begin_task(task_of(made()))
    assert trained(method.parameters()) == 122_880 * 16 == 1_966_080
    assert sum(gram.numel() for gram in method.state_dict().values()) == 24 * (768**2 + 512**2)
    for m in method.targets:
        m.update = None


@pytest.mark.parametrize("word", ["beta=1", "beta=-0.1", "keep=future", "norm=max", "trained=B", "rank=0", "towers=[]"])
def test_settings_outside_of_the_method_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{word.split('=')[0]}"):
        resolve_method(["method=sc-lora", f"method.{word}"])


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"method.rank=600 is above the width 512 of the text tower"):
        resolve(["method=sc-lora", "method.rank=600", "model=ViT-B-16/openai"])


def test_the_reference_set_is_outside_data() -> None:
    says = {keep: flags_of(ScLora, ScLora.Settings(keep=keep)).outside_data for keep in ("past", "reference", "both")}
    assert says == {"past": "", "reference": "reference", "both": "reference"}

"""Every shortcut against KeepLoRA the long way (docs/benchmarks/long_way.py), in float64."""

import sys

import pytest
import torch
import torch.nn.functional as F
from bench.methods.keeplora import KeepLora
from bench.methods.low_rank import PerTower
from support.long_way import CONTEXT, RANK, LongWay, pair, script

from bench.data.pixels import Pixels
from bench.data.stream import label_space
from bench.learning.evaluate import outcomes
from bench.learning.moments import mean_gradient
from bench.learning.task_data import Context
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.trials.toy import toy_task


def attach(clip: Clip, long: "LongWay") -> None:
    draw = torch.Generator().manual_seed(0)
    for m in long.maps():
        A, B = (torch.randn(s, generator=draw).double() * 0.3 for s in ((m.in_features, RANK), (RANK, m.out_features)))
        long.updates[m.name] = (A, B.clone().requires_grad_(True))
        clip.maps[m.name].update = LowRank(A.T.contiguous(), B.T.clone().requires_grad_(True), 1 / RANK)


@pytest.mark.parametrize("quick", [False, True])
def test_a_training_step_has_the_loss_and_the_gradients_of_the_long_way(quick: bool) -> None:
    clip, data, long = pair(quick=quick)
    attach(clip, long)
    pixels, labels = next(iter(data.train.batches(20)))
    loss = F.cross_entropy(clip.logits(clip.encode_images(pixels), clip.encode_tokens(data.tokens)), labels)
    expected = long.loss(pixels, labels, data.tokens)
    assert abs(loss - expected) < 1e-12
    loss.backward()
    expected.backward()
    for name, (_, B) in long.updates.items():
        update = clip.maps[name].update
        assert update is not None and B.grad is not None
        assert (update.B.grad.T - B.grad).abs().max() < 1e-12 * B.grad.abs().max().clamp(min=1e-6), name


def test_the_mean_gradient_is_that_of_the_long_way() -> None:
    clip, data, long = pair()
    got = mean_gradient(clip, data, list(clip.select(("q", "k", "v", "o"), ("image", "text"))))
    batches = list(data.batches("gradient"))
    found = long.gradient_pass(batches, data.tokens)
    names = {id(parameter): name for name, parameter in long.parameters()}
    assert len(found) == len(names)  # it computes all of them
    for m in long.maps():
        expected = found[names[id(m.parameter)]][m.rows]
        assert (got[m.name] - expected).abs().max() < 1e-11 * expected.abs().max().clamp(min=1e-3), m.name


def test_evaluation_answers_as_the_long_way_does() -> None:
    clip, data, long = pair()
    method = KeepLora(KeepLora.Settings(rank=RANK), clip, CONTEXT)
    task = toy_task(0)
    space = label_space("task", [task], 1, 0)
    assert space is not None
    test = Pixels(task.test, clip, True)
    right = outcomes("toy0", method, method.classifier(space), test, space, 5)
    with torch.no_grad():
        logits = torch.cat([long.logits(pixels, data.tokens) for pixels, _ in test.batches(7)])
        features = method.classifier(space)(next(iter(test.batches(len(test))))[0])
    assert (features - logits).abs().max() < 1e-10
    assert right.tolist() == (logits.argmax(dim=-1) == test.labels).tolist()


def test_weight_subspaces_are_those_of_the_long_way() -> None:
    clip, _, long = pair()
    energy = {"image": 0.6, "text": 0.3}
    method = KeepLora(KeepLora.Settings(rank=RANK, weight_energy=PerTower(**energy)), clip, CONTEXT)
    for name, expected in long.weight_subspaces(energy).items():
        basis = method.bases[name]
        assert basis.shape == expected.shape
        assert (basis @ basis.T - expected @ expected.T).abs().max() < 1e-9, name


def test_subspaces_grow_as_on_the_long_way() -> None:
    """With one batch a task the released mean of features is the features themselves, so both see the same ones."""
    clip, data, long = pair()
    context = Context(2, 40, 0, 0)
    data.context = context
    settings = KeepLora.Settings(rank=RANK, pad_tokens=True, weight_energy=PerTower(0.3, 0.2))
    settings.feature_energy = PerTower(0.9, 0.9)
    method = KeepLora(settings, clip, context)
    long.bases = {name: basis.clone() for name, basis in method.bases.items()}
    before = sum(basis.shape[1] for basis in method.bases.values())
    method.end_task(data)
    long.feature_pass(list(data.train.batches(40)), data.tokens)
    long.subspace_update(0.9)
    assert sum(basis.shape[1] for basis in long.bases.values()) > before
    for name, expected in long.bases.items():
        basis = method.bases[name]
        assert basis.shape == expected.shape, name
        # Products of features are taken in fp32 here; only their sums are not.
        assert (basis @ basis.T - expected @ expected.T).abs().max() < 1e-5, name


def test_the_benchmark_measures_every_phase(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded model; what it measures there means nothing, but it goes through."""
    performance = script("performance")
    monkeypatch.setattr(performance, "product_rate", lambda dtype, device: 100.0)
    phases = ["train", "fit", "gradient", "evaluate", "features", "weights", "subspace", "precision", "updates"]
    small = ["--model", "pocket", "--classes", "12", "--batch", "4", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["performance.py", *phases, *small])
    performance.main()
    out = capsys.readouterr().out
    for row in (
        "training step with its optimiser, 12 prompts",
        "fit of 4 steps, a step",
        "gradient pass of 4 batches",
        "evaluation batch, 12 prompts",
        "feature pass, a batch of images",
        "feature pass of 4 batches and the texts",
        "weight subspace",
        "subspace update",
        "4 images",
    ):
        assert f"| {row}" in out
    page = performance.PAGE.read_text(encoding="utf-8")
    new = performance.written(page, "a machine")
    start, end = (new.index(mark) for mark in performance.MARKS)
    assert (
        new[:start] == page[: page.index(performance.MARKS[0])]
        and new[end:] == page[page.index(performance.MARKS[1]) :]
    )
    lines = new[start:end].splitlines()
    assert lines[1] == "a machine" and lines[3] == "| " + " | ".join(performance.HEADER) + " |"
    assert len(lines) == 5 + len(performance.LINES) and all(line.count("|") == 7 for line in lines[3:])


def test_growth_is_measured_on_models_and_streams_of_any_size() -> None:
    growth = script("growth")
    found = growth.measured(growth.model(64), classes=5, rank=4, batch=4)
    assert set(growth.PHASES) <= found.keys() and all(seconds > 0 for seconds in found.values())
    stream = growth.Repeated(growth.Repeated.Settings(count=10), None, 0)
    assert [task.name for task in stream.tasks][::9] == ["digits-0", "digits-9"]
    first, again = stream.tasks[0], stream.tasks[9]
    assert len(first.train) == len(again.train) == 64 and len(first.test) == 32
    assert first.classes != again.classes and len(set(again.classes)) == 8
    assert first.train.digest != again.train.digest
    assert growth.slope([1, 10, 100], [1.0, 5.0, 50.0]) == "1.00"

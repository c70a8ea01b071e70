"""DIKI against its definitions, written here in float64 and apart from it."""

import copy
import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from bench.methods.diki import (
    Diki,
    DikiFaithful,
    best_epoch,
    blended,
    gaussian,
    injection_weight,
    log_densities,
    majority,
    prefix_attention,
    shrunk,
)
from torch import Tensor
from toy import ToyStream

from bench.config.fields import complaints
from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.data.stream import LabelSpace, label_space
from bench.learning.driver import learn
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.model.layers import PLAIN
from bench.model.packing import Packing
from bench.record.provenance import data_identity
from bench.runs.run import run
from bench.trials.toy import tiny_clip, toy_task
from bench.trials.trial import Trial

TASKS = [toy_task(index) for index in range(2)]
TRAIN = Train(epochs=2, batch_size=16, lr=0.1)


def make(cls: type[Diki] = Diki, say: Callable[[str], None] = print, **settings: object) -> Diki:
    context = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0, say=say)
    return cls(cls.Settings(**settings), tiny_clip(), context)


def data(method: Diki, index: int = 0, validation: bool = True) -> TaskData:
    task, clip = TASKS[index], method.clip
    given = TaskData(
        index, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), method.context
    )
    if validation:
        given.validation = Pixels(task.validation, clip, True)
    return given


def trained(tasks: int = 1, **settings: object) -> Diki:
    method = make(**settings)
    for index in range(tasks):
        learn(method, data(method, index), TRAIN)
    return method


@functools.cache
def learned() -> Diki:
    """Give the method after two tasks, for tests that only ask it."""
    return trained(2)


def images(method: Diki, index: int = 0, count: int = 12) -> Tensor:
    return next(iter(Pixels(TASKS[index].test, method.clip, True).batches(count)))[0]


def space(index: int = 0) -> LabelSpace:
    found = label_space("task", TASKS, 2, index)
    assert found is not None
    return found


@torch.no_grad()
def logits(method: Diki, pixels: Tensor, index: int = 0) -> Tensor:
    return method.classifier(space(index))(pixels)


@torch.no_grad()
def zero_shot(method: Diki, pixels: Tensor, index: int = 0) -> Tensor:
    return Method.classifier(method, space(index))(pixels)


def heard(method: Diki, kind: str, work: Callable[[], object]) -> dict[str, Tensor]:
    """Give what the method reports under a name while something is done, the last time."""
    found: dict[str, Tensor] = {}
    method.context.observers.on("method", lambda one: found.update(one.values) if one.name == kind else None)
    work()
    return found


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the branch


@pytest.mark.parametrize("each", [False, True])
def test_the_branch_is_its_definition(each: bool) -> None:
    """One query, one head at a time: softmax over the prefixes of q . k / sqrt(d_h), mean of the values, times w."""
    n, heads, tokens, d_h, length = 3, 2, 4, 5, 6
    q, w = drawn(n, heads, tokens, d_h), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    K, V = drawn(n, length, heads * d_h, seed=1), drawn(n, length, heads * d_h, seed=2)
    if not each:
        K, V = K[0], V[0]
    found = prefix_attention(q, K, V, w if each else w[1])
    for i in range(n):
        for h in range(heads):
            columns = slice(h * d_h, (h + 1) * d_h)
            keys, values = (K[i], V[i]) if each else (K, V)
            for t in range(tokens):
                scores = [float(q[i, h, t] @ keys[j, columns]) / math.sqrt(d_h) for j in range(length)]
                powers = [math.exp(score) for score in scores]
                mean = sum(power * values[j, columns] for j, power in enumerate(powers)) / sum(powers)
                assert torch.allclose(found[i, h, t], (w[i] if each else w[1]) * mean, atol=1e-12)


def test_it_is_no_prefix_tuning() -> None:
    """Zero values in one softmax with the tokens' own take weight away from them; in their own they change nothing."""
    q, k, v, K = drawn(1, 1, 3, 4), drawn(1, 1, 3, 4, seed=1), drawn(1, 1, 3, 4, seed=2), drawn(2, 4, seed=3)
    own = torch.softmax(q @ k.mT / 2, -1) @ v
    prefixed = torch.softmax(q @ torch.cat([k, K[None, None]], 2).mT / 2, -1) @ torch.cat(
        [v, v.new_zeros(1, 1, 2, 4)], 2
    )
    assert (prefixed - own).abs().max() > 1e-2
    assert torch.equal(own + prefix_attention(q, K, torch.zeros_like(K)), own)


def test_inside_or_outside_of_the_attention_is_the_same() -> None:
    """W_o (A + w A') + b_o = attention(x) + W_o (w A'), computed here from the weights, in the first block."""
    method = trained()
    own, attention = method.tasks[0], method.clip.model.visual.transformer.resblocks[0].attn
    x = torch.randn(2, 10, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        plain = attention.attend(x, PLAIN)
        K, V, w = own["image.K"][0].double(), own["image.V"][0].double(), 0.4
        q = x.double() @ attention.in_proj_weight[:64].double().T + attention.in_proj_bias[:64].double()
        parts = [
            torch.softmax(q[..., c] @ K[:, c].T / math.sqrt(32), -1) @ V[:, c] for c in (slice(0, 32), slice(32, 64))
        ]
        outside = plain + w * torch.cat(parts, -1) @ attention.out_proj.weight.double().T

        def branch(queries: Tensor, read: Tensor | None) -> Tensor:
            return prefix_attention(queries, own["image.K"][0], own["image.V"][0], torch.tensor(w))

        with method.clip.beside({"image.0.heads": branch}):
            inside = attention.attend(x, PLAIN)
    assert (inside - outside).abs().max() < 1e-6 and (inside - plain).abs().max() > 1e-3


@pytest.mark.parametrize("what", ["no values", "no weight"])
def test_without_values_or_weight_it_is_the_pretrained_model_to_the_bit(what: str) -> None:
    method = make(text_weight="one")
    task = data(method)
    pixels = images(method)
    with torch.no_grad():
        before = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
    method.begin_task(task)
    if what == "no weight":
        learn(method, task, TRAIN)
    w = torch.zeros(()) if what == "no weight" else torch.tensor(0.7)
    with torch.no_grad(), method.clip.beside(method._branches(0, w=w)):
        after = method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    if what == "no values":
        assert torch.equal(logits(method, pixels), zero_shot(method, pixels))


# ---- Gaussians, routing, weights


def test_the_gaussian_is_mean_and_covariance_of_the_features() -> None:
    z = drawn(20, 6)
    mean, covariance = gaussian(z.sum(0), z.T @ z, 20)
    assert torch.allclose(mean, torch.from_numpy(z.numpy().mean(0)), atol=1e-12)
    expected = np.cov(z.numpy(), rowvar=False, ddof=1) + 1e-7 * np.eye(6)
    assert np.allclose(covariance.numpy(), expected, atol=1e-12)
    assert torch.linalg.eigvalsh(gaussian(z[:3].sum(0), z[:3].T @ z[:3], 3)[1]).min() > 0.9e-7  # of rank two


def test_it_is_measured_on_unit_features_of_the_model_without_prefixes() -> None:
    method = make()
    learn(method, data(method), TRAIN)
    before = {name: tensor.clone() for name, tensor in method.tasks[0].items()}
    told = heard(method, "gaussian", lambda: learn(method, data(method, 1), TRAIN))
    batches = [b for b, _ in Pixels(TASKS[1].train, method.clip, True).batches(7)]
    with torch.no_grad():
        z = torch.cat([tiny_clip().encode_images(batch) for batch in batches]).double()
    assert torch.allclose(z.norm(dim=1), torch.ones(40, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(told["mean"], z.mean(0), atol=1e-9)
    covariance = torch.from_numpy(np.cov(z.numpy(), rowvar=False)) + 1e-7 * torch.eye(32)
    assert torch.allclose(told["covariance"], shrunk(covariance, 40), atol=1e-9)  # 40 images are fewer than 2 x 32
    assert torch.equal(method.tasks[1]["covariance"], told["covariance"].float())
    assert all(torch.equal(method.tasks[0][name], tensor) for name, tensor in before.items())


def test_shrinking_is_its_definition() -> None:
    """Oracle approximating shrinkage, from its formula, one sum at a time."""
    z, D, n = drawn(12, 8) / torch.arange(1, 9), 8, 12
    S = np.cov(z.numpy(), rowvar=False)
    square = sum(S[i, j] * S[j, i] for i in range(D) for j in range(D))
    trace = sum(S[i, i] for i in range(D))
    g = min(1, ((1 - 2 / D) * square + trace**2) / ((n + 1 - 2 / D) * (square - trace**2 / D)))
    assert np.allclose(shrunk(torch.from_numpy(S), n).numpy(), (1 - g) * S + g * trace / D * np.eye(D), atol=1e-12)
    assert 0 < g < 1
    flat = 0.3 * torch.eye(4, dtype=torch.float64)
    assert torch.allclose(shrunk(flat, 5), flat) and torch.equal(shrunk(0 * flat, 5), 0 * flat)


def test_a_task_with_few_images_recognises_its_own_where_its_covariance_is_shrunk() -> None:
    """512 features with falling variances, 160 images, as the specification simulates it: w is 0, and well above it."""
    D, n = 512, 160
    scales = torch.arange(1, D + 1, dtype=torch.float64) ** -0.5
    z = torch.nn.functional.normalize(3 * drawn(1, D, seed=9) / D**0.5 + 0.3 * drawn(n + 50, D) * scales, dim=1)
    mean, covariance = gaussian(z[:n].sum(0), z[:n].T @ z[:n], n)
    weights = []
    for one in (covariance, shrunk(covariance, n)):
        highest = log_densities(z[n:], mean[None], torch.linalg.cholesky(one)[None])[:, 0]
        weights.append(float(injection_weight(highest).mean()))
    assert weights[0] < 1e-6 and weights[1] > 0.5
    far = -z[n:]
    assert injection_weight(log_densities(far, mean[None], torch.linalg.cholesky(one)[None])[:, 0]).max() < 1e-3


def test_log_densities_are_those_of_the_normal_distribution() -> None:
    z, means = drawn(7, 4), drawn(3, 4, seed=1)
    covariances = torch.stack([gaussian(x.sum(0), x.T @ x, 9)[1] for x in drawn(3, 9, 4, seed=2)])
    found = log_densities(z, means, torch.linalg.cholesky(covariances))
    for t in range(3):
        normal = torch.distributions.MultivariateNormal(means[t], covariances[t])
        assert torch.allclose(found[:, t], normal.log_prob(z), atol=1e-9)


def test_the_weight_of_the_best_log_density() -> None:
    given = torch.tensor([-1e5, 0.0, 512.0, 1024.0, 1536.0], dtype=torch.float64)
    assert injection_weight(given).tolist() == pytest.approx([0.0, 0.2689, 0.5, 0.7311, 0.8808], abs=5e-5)
    many = injection_weight(torch.linspace(-3000, 5000, 100, dtype=torch.float64))
    assert (many.diff() > 0).all() and many.min() > 0 and many.max() < 1
    assert injection_weight(torch.tensor([16.0]), 16).item() == 0.5


def test_a_vote_with_a_tie_goes_to_the_first_task() -> None:
    assert int(majority(torch.tensor([2, 1, 2, 1, 0]), 3)) == 1
    assert int(majority(torch.tensor([2, 2, 1, 1, 0]), 4)) == 1
    assert int(majority(torch.tensor([3]), 4)) == 3
    assert int(majority(torch.tensor([0, 2, 2]), 3)) == 2


def test_images_choose_the_task_that_they_are_like_and_far_ones_get_the_pretrained_model() -> None:
    method = trained(2, towers=["image"])
    for index in range(2):
        told = heard(method, "route", lambda index=index: logits(method, images(method, index)))
        assert (told["chosen"] == index).float().mean() > 0.8 and told["weights"].min() > 0.1
    far = 5 * torch.randn(4, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    method.tasks = {i: {**own, "mean": own["mean"] + 10} for i, own in method.tasks.items()}  # now all are far
    told = heard(method, "route", lambda: logits(method, far))
    assert told["weights"].max() < 1e-6
    assert (logits(method, far) - zero_shot(method, far)).abs().max() < 1e-3


# ---- answers


@torch.no_grad()
def by_hand(method: Diki, pixels: Tensor, tasks: list[int], w: Tensor, text: Tensor | None, index: int = 0) -> Tensor:
    """Logits of images one by one: the prefixes of its task with its weight, prompts with one weight or none."""
    found = []
    for image, task, weight in zip(pixels, tasks, w, strict=True):
        with method.clip.beside(method._branches(task, ("image",), weight)):
            features = method.clip.encode_images(image[None])
        with method.clip.beside(method._branches(task, ("text",), text)):
            found.append(method.clip.logits(features, method.clip.encode_prompts(space(index).prompts)))
    return torch.cat(found)


@pytest.mark.parametrize("text_weight", ["one", "image"])
def test_every_image_has_its_own_prefixes_and_its_weight_whatever_else_is_in_the_batch(text_weight: str) -> None:
    method = make(text_weight=text_weight)
    method.load_state_dict(learned().state_dict())
    pixels = torch.cat([images(method, 0, 3), images(method, 1, 4)])
    told = heard(method, "route", lambda: logits(method, pixels))
    assert set(told["chosen"].tolist()) == {0, 1}
    found = logits(method, pixels)
    if text_weight == "one":
        weights = told["weights"].float()
        assert (found - by_hand(method, pixels, told["chosen"].tolist(), weights, None)).abs().max() < 1e-4
    shuffled = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert (logits(method, pixels[shuffled]) - found[shuffled]).abs().max() < 1e-4
    assert (torch.cat([logits(method, part) for part in pixels.split(3)]) - found).abs().max() < 1e-4
    assert (found - zero_shot(method, pixels)).abs().max() > 1e-2


def test_the_majority_of_a_batch_chooses_and_prompts_have_the_mean_weight() -> None:
    method = make(select="batch")
    method.load_state_dict(learned().state_dict())
    pixels = torch.cat([images(method, 0, 2), images(method, 1, 5)])
    told = heard(method, "route", lambda: logits(method, pixels))
    w = told["weights"].float()
    assert set(told["chosen"].tolist()) == {0, 1}
    winner = int(told["chosen"].bincount().argmax())
    found = logits(method, pixels)
    assert (found - by_hand(method, pixels, [winner] * 7, w, w.mean())).abs().max() < 1e-4
    assert (logits(method, pixels.flip(0)).flip(0) - found).abs().max() < 1e-4
    assert Diki.flags_for(method.settings).test_batch and not Diki.flags_for(Diki.Settings()).test_batch


def test_prompts_may_have_the_weight_of_each_image() -> None:
    """Features (1 - w) f0 + w f1, normalised, one at a time; at w = 0 those of the model itself."""
    x, f0, f1 = (torch.nn.functional.normalize(drawn(3, 6, seed=seed), dim=1) for seed in range(3))
    w = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    found = blended(x @ f0.T, x @ f1.T, (f0 * f1).sum(1), w)
    for i in range(3):
        for c in range(3):
            mean = (1 - w[i]) * f0[c] + w[i] * f1[c]
            assert float(found[i, c]) == pytest.approx(float(x[i] @ mean / mean.norm()), abs=1e-12)
    assert torch.equal(found[0], (x @ f0.T)[0])
    method = make(text_weight="image")
    method.load_state_dict({name: t + 10 * name.endswith("mean") for name, t in learned().state_dict().items()})
    pixels = images(method)  # far from all tasks now
    assert (logits(method, pixels) - zero_shot(method, pixels)).abs().max() < 1e-3
    method.settings.text_weight = "one"
    assert (logits(method, pixels) - zero_shot(method, pixels)).abs().max() > 1e-2


def test_before_the_first_task_it_is_zero_shot() -> None:
    method = make()
    assert torch.equal(logits(method, images(method)), zero_shot(method, images(method)))


# ---- training


def test_the_first_step_moves_values_only() -> None:
    method = make()
    task = data(method)
    method.begin_task(task)
    pixels, labels = next(task.batches("train"))
    parameters = dict(zip(["image.K", "image.V", "text.K", "text.V"], method.parameters(), strict=True))
    assert all((parameters[f"{tower}.V"] == 0).all() for tower in ("image", "text"))
    for tower in ("image", "text"):
        K = parameters[f"{tower}.K"]
        assert -1 <= K.min() < -0.9 and 0.9 < K.max() <= 1
    with method.clip.trainable(list(parameters.values())):
        method.loss(pixels, labels, task).backward()
        gradients = {name: one.grad for name, one in parameters.items()}
    for name, gradient in gradients.items():
        assert (gradient == 0).all() if name.endswith("K") else gradient.abs().max() > 1e-6


def test_training_moves_one_row_and_nothing_else() -> None:
    method = trained(1)
    before, weights = copy.deepcopy(method.tasks[0]), method.clip.digests()
    learn(method, data(method, 1), TRAIN)
    assert all(torch.equal(method.tasks[0][name], tensor) for name, tensor in before.items())
    assert method.clip.digests() == weights
    assert method.tasks[1]["image.V"].abs().max() > 1e-3 and method.tasks[1]["text.K"].abs().max() > 0.9


@pytest.mark.parametrize("towers", [["image"], ["text"]])
def test_a_single_tower(towers: list[str]) -> None:
    method = trained(1, towers=towers, depth=1, length=3)
    assert [tuple(one.shape) for one in method.parameters()] == [(1, 3, 64 if towers == ["image"] else 48)] * 2
    change = logits(method, images(method)) - zero_shot(method, images(method))
    assert change.abs().max() > 1e-3
    assert "image.K" in method.tasks[0] if towers == ["image"] else "image.K" not in method.tasks[0]


def test_the_first_of_the_best_epochs() -> None:
    assert [best_epoch(one) for one in ([3], [3, 5, 5], [5, 5, 3], [0, 0])] == [0, 1, 0, 0]


def test_the_best_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    right = iter([2, 7, 7])
    seen: list[list[Tensor]] = []
    method = make()

    def validated(self: TaskData, classify: Callable[[Tensor], Tensor]) -> int:
        seen.append([one.detach().clone() for one in method.parameters()])
        return next(right)

    monkeypatch.setattr(TaskData, "validated", validated)
    learn(method, data(method), replace(TRAIN, epochs=3))
    assert all(map(torch.equal, method.parameters(), seen[1]))
    assert not torch.equal(seen[1][1], seen[2][1])
    assert method.report() == {"validation": [2, 7, 7], "epoch": 1} and method.best == []


def test_epochs_are_validated_with_the_tasks_own_prefixes_and_full_weight() -> None:
    method = make()
    task = data(method)
    learn(method, task, replace(TRAIN, epochs=1))
    assert task.validation is not None
    pixels, labels = next(iter(task.validation.batches(12)))
    right = by_hand(method, pixels, [0] * 12, torch.ones(12), None).argmax(1) == labels
    assert method.correct == [int(right.sum())]


@pytest.mark.parametrize("chosen", [True, False])
def test_without_validation_images_the_last_epoch_is_kept_and_that_is_said_once(chosen: bool) -> None:
    said: list[str] = []
    method = make(say=said.append, choose_epoch=chosen)
    for index in range(2):
        learn(method, data(method, index, validation=False), TRAIN)
    assert said == ["note: task toy0 has no validation images, so diki keeps the last epoch"] * chosen
    assert method.report() == {}


@pytest.mark.parametrize("step", [3, 4])
def test_broken_off_at_the_end_of_an_epoch_and_after_it(step: int) -> None:
    """The third step ends the first epoch: what it left is validated after continuing, and the best is kept."""
    straight, kept = Trial(Diki, Diki.Settings(), train=TRAIN), []
    straight.learn(0, safe_point=lambda training: kept.append(straight.inside_task(training())))
    resumed = Trial(Diki, Diki.Settings(), train=TRAIN)
    resumed.learn(0, broken_off=kept[step - 1])
    for name, tensor in straight.method.state_dict().items():
        assert torch.equal(tensor, resumed.method.state_dict()[name]), name
    assert straight.method.correct == resumed.method.correct and len(resumed.method.correct) == 2


def test_the_validation_images_are_part_of_the_run(tmp_path: Path) -> None:
    toy = str(Path(__file__).parent / "toy.py")
    line = [f"stream={toy}", "stream.count=1", f"model={toy}", "train.steps=3", f"out={tmp_path}", "device=cpu"]
    done = run(resolve([*line, "method=diki"]))
    identity = json.loads((done / "identity.json").read_text())
    stream = ToyStream(ToyStream.Settings(count=1), None, 0)
    assert identity["validation_sha256"] == data_identity(stream, stream.tasks, None, True)["validation_sha256"]
    events = [json.loads(text) for text in (done / "metrics.jsonl").read_text().splitlines()]
    (right,) = [event["validation"] for event in events if "validation" in event]
    assert len(right) == 1 and 0 <= right[0] <= 12
    others = [replace(task, validation=task.test) for task in stream.tasks]
    assert data_identity(stream, others, None, True)["validation_sha256"] != identity["validation_sha256"]
    assert data_identity(stream, others) == data_identity(stream, stream.tasks)  # no other method looks at them
    assert run(resolve([*line, "method=diki"])) == done
    changed = type("Changed", (ToyStream,), {"load": lambda self, root, seed: others, "registry_name": "toy"})
    with pytest.raises(UserError, match="another validation_sha256 than this line would have"):
        run(replace(resolve([*line, "method=diki"]), stream_class=changed))


# ---- sizes and settings


def test_vit_b_16_trains_163840_values_and_keeps_the_published_sizes() -> None:
    """On a device without values: shapes of training and of what is kept are those of the real model."""
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-16"))
    clip = Clip(model, open_clip.SimpleTokenizer(), {"mean": (0.5,) * 3, "std": (0.3,) * 3}, "ViT-B-16")
    context = Context(tasks=1, batch_size=4, init_seed=0, data_seed=0, say=lambda text: None)
    method = Diki(Diki.Settings(shrink=False), clip, context)
    task = replace(TASKS[0], train=Subset(TASKS[0].train, np.arange(4)))
    given = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), context)
    method.begin_task(given)
    texts = clip._texts.tokenize(task.prompts)  # how texts are packed needs values
    packing = Packing.of(texts, texts.argmax(dim=1))
    clip._texts.packings[given.tokens] = replace(
        packing, **{name: getattr(packing, name).to("meta") for name in ("source", "position", "padded", "end")}
    )
    assert [tuple(one.shape) for one in method.parameters()] == [(8, 8, 768), (8, 8, 768), (8, 8, 512), (8, 8, 512)]
    assert sum(one.numel() for one in method.parameters()) == 163_840
    assert sum(8 * 2 * 8 * width for width in (768, 512)) == 163_840
    pixels, labels = next(given.batches("train", batch_size=4))
    with clip.trainable(method.parameters()):
        loss = method.loss(pixels, labels, given)
        loss.backward()
        assert all(one.grad is not None and one.grad.shape == one.shape for one in method.parameters())
    assert method.stored_numbers() == 163_840 + 512 + 512 * 512
    assert method.stored_bytes() == 4 * method.stored_numbers()


def test_settings_that_make_no_sense_are_refused_before_anything_is_loaded() -> None:
    assert complaints(Diki.Settings(towers=[])) == ["method.towers names no tower: name image, text or both"]
    for word in ("length=0", "depth=0", "scale=0", "select=majority", "towers=[images]"):
        with pytest.raises(UserError, match=word.partition("=")[0]):
            resolve(["method=diki", f"method.{word}"])
    context = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0, images={"a": 40, "b": 1})
    with pytest.raises(UserError, match="task b has 1 training image and its Gaussian needs two: add some"):
        Diki(Diki.Settings(), tiny_clip(), context)


def test_the_faithful_preset_is_the_released_code() -> None:
    run = resolve(["method=diki-faithful", "stream=mtil-order1", "model=ViT-B-16", "model.weights=random"])
    train = run.run.train
    assert (train.optimizer, train.momentum, train.lr, train.weight_decay) == ("sgd", 0.0, 5.0, 0.0)
    assert (train.schedule, train.warmup, train.lr * train.lr_end) == ("cosine", 0.0, pytest.approx(0.005))
    chosen = run.method_settings
    assert (chosen.select, chosen.scale, chosen.shrink, chosen.depth, chosen.length) == ("batch", 512, False, 8, 8)
    method = make(DikiFaithful)
    learn(method, data(method), TRAIN)
    told = heard(method, "route", lambda: logits(method, images(method)))
    highest = told["densities"].max(dim=1).values
    assert torch.allclose(told["weights"], 1 / (1 + torch.exp(1 - highest / 512)))

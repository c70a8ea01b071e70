"""What a CUDA device computes, beside the CPU in float64; the bits of long sequences; that no step waits."""

import itertools
from collections.abc import Callable, Iterator

import open_clip
import pytest
import torch
from bench.methods import subspace
from support.cuda_device import cuda_device  # noqa: F401
from support.long_way import CONTEXT as FULL
from support.long_way import pair

from bench.compute.device import deterministic
from bench.config import registry
from bench.config.run_settings import Train
from bench.data.pixels import Pixels
from bench.data.stream import label_space
from bench.learning.evaluate import outcomes
from bench.learning.moments import mean_gradient, second_moments
from bench.learning.optimizer import build_optimizer, build_schedule
from bench.learning.task_data import Context, TaskData
from bench.learning.train import fit
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.runs.loading import reference_of
from bench.trials.toy import tiny_clip, toy_reference, toy_task

pytestmark = pytest.mark.cuda

LEARNING = [name for name in sorted(registry.entries("method")) if name != "zero-shot"]
BATCH = 4
STEPS = 10
"""Of the 40 images of a toy task in batches of four."""


def task_data(clip: Clip, context: Context, budget: Train | None = None) -> TaskData:
    task = toy_task(0)
    train = Pixels(task.train, clip, True)
    return TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), train, context, budget=budget or Train())


def method_of(name: str, clip: Clip, context: Context):
    cls = registry.load("method", name)
    return cls(cls.Settings(rank=4) if hasattr(cls.Settings, "rank") else cls.Settings(), clip, context)


def near(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> bool:
    return bool((found.cpu().double() - exact.double()).norm() <= tolerance * exact.double().norm())


# ------------------------------------------------------------------------------------ against float64


def test_features_gradients_and_second_moments_are_those_of_float64(device: torch.device) -> None:
    exact, data, _ = pair()
    clip = tiny_clip().to(device)
    there = task_data(clip, FULL)
    pixels, labels = next(iter(data.train.batches(20)))
    theirs, their_labels = next(iter(there.train.batches(20)))
    assert theirs.device.type == device.type and torch.equal(labels, their_labels.cpu())
    assert near(theirs, pixels, 1e-6)
    with torch.no_grad():
        assert near(clip.encode_images(theirs), exact.encode_images(pixels), 1e-5)
        assert near(clip.encode_tokens(there.tokens), exact.encode_tokens(data.tokens), 1e-5)
    maps, their_maps = (one.select(("q", "k", "v", "o", "fc1", "fc2"), ("image", "text")) for one in (exact, clip))
    gradients, found = mean_gradient(exact, data, maps), mean_gradient(clip, there, their_maps)
    assert all(near(found[name], gradients[name], 1e-4) for name in gradients)
    moments, counted = second_moments(exact, data, maps), second_moments(clip, there, their_maps)
    for name, moment in moments.items():
        assert counted[name].gram.dtype == torch.float64 and counted[name].count == moment.count
        assert near(counted[name].gram, moment.gram, 1e-5), name


@pytest.mark.parametrize("width", [64, 768])
def test_subspaces_are_those_of_the_cpu(width: int, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -4, width, dtype=torch.float64)
    first, second = (
        torch.randn(width, width, generator=draw, dtype=torch.float64) * scales @ torch.linalg.qr(
            torch.randn(width, width, generator=draw, dtype=torch.float64)
        )[0]
        for _ in range(2)
    )  # fmt: skip
    projectors = []
    for where in (torch.device("cpu"), device):
        basis = subspace.leading(*subspace.spectrum(first.to(where)), energy=0.9)
        grown = subspace.grow(basis, (second @ second.T).to(where), 0.95)
        outside = subspace.outside(grown, first.to(where))
        directions = subspace.leading_directions(outside, 4, grown)
        assert (grown.T @ grown - torch.eye(grown.shape[1]).to(grown)).abs().max() < 1e-12
        assert (grown.T @ directions).abs().max() < 1e-10
        projectors.append([(b @ b.T).cpu() for b in (basis, grown, directions)])
    for one, other in zip(*projectors, strict=True):
        assert (one - other).abs().max() < 1e-8


@pytest.mark.parametrize("preset", ["clip", "crop", "inflora", "flip"])
def test_images_are_changed_as_on_the_cpu(preset: str, device: torch.device) -> None:
    passes = []
    for where in ("cpu", device):
        data = task_data(tiny_clip().to(where), FULL, Train(augment=preset))
        passes.append([(pixels.cpu(), labels.cpu()) for pixels, labels in data.batches("train", epoch=1)])
    for (one, labels), (other, their_labels) in zip(*passes, strict=True):
        assert torch.equal(labels, their_labels) and (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_an_optimiser_takes_the_same_steps_as_on_the_cpu(name: str, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(*shape, generator=draw) for shape in ((64, 4), (4, 64), (3, 5))]
    gradients = [[torch.randn(tensor.shape, generator=draw) for tensor in start] for _ in range(5)]
    train, ended = Train(optimizer=name, lr=0.01, weight_decay=0.1), []
    for where in (torch.device("cpu"), device):
        trained = [tensor.to(where).clone().requires_grad_(True) for tensor in start]
        optimizer = build_optimizer(trained, train)
        schedule = build_schedule(optimizer, train, len(gradients))
        assert schedule is not None
        for found in gradients:
            for tensor, gradient in zip(trained, found, strict=True):
                tensor.grad = gradient.to(where)
            optimizer.step()
            schedule.step()
        ended.append([tensor.detach().cpu() for tensor in trained])
    tolerance = 2e-2 if name == "muon" else 1e-5  # Muon orthogonalises in bf16
    for before, one, other in zip(start, *ended, strict=True):
        assert (one - before).norm() > 0 and near(other - before, one - before, tolerance)


# ------------------------------------------------------------------------------------------- the bits


def wide_clip() -> Clip:
    """A CLIP that reads 197 tokens an image and 77 a text, as ViT-B/16 does."""
    vision = {"image_size": 224, "patch_size": 16, "width": 128, "layers": 2, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text)
    return Clip(model, open_clip.SimpleTokenizer(), {"size": 224, "mean": (0.5,) * 3, "std": (0.3,) * 3}, "wide")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_gradients_of_long_sequences_have_the_same_bits_every_time(precision: str, device: torch.device) -> None:
    clip = wide_clip().to(device)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(32, 3, 224, 224, generator=draw).to(device)
    tokens = clip.tokenize([f"a photo of a {word} thing" for word in ("red", "small", "very old and green")] * 10)
    factors = []
    for m in clip.select(("q", "k", "v", "o"), ("image", "text")):
        A = torch.randn(4, m.in_features, generator=draw).to(device)
        factors.append(torch.randn(m.out_features, 4, generator=draw).to(device).requires_grad_(True))
        m.update = LowRank(A, factors[-1], 0.05)
    labels = torch.arange(32, device=device) % 30
    found = []
    for cut in (True, False):
        for _ in range(4):
            with deterministic(None, precision == "tf32"), clip.computing(precision):
                logits = clip.logits(clip.encode_images(pixels), clip.encode_tokens(tokens, cut))
                loss = torch.nn.functional.cross_entropy(logits, labels)
                found.append(torch.autograd.grad(loss, factors))
    for i in (1, 2, 3):
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[i], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(found[4], found[4 + i], strict=True))


# --------------------------------------------------------------------------------- fp16, and no waiting


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_halved(device: torch.device) -> None:
    clip = tiny_clip().to(device)
    data = task_data(clip, FULL)
    method = method_of("lora", clip, FULL)
    method.begin_task(data)
    loss, taken, values = method.loss, [], []

    def overflowing(pixels, labels, task):
        taken.append([tensor.detach().clone() for tensor in method.parameters()])
        return loss(pixels, labels, task) * (1e36 if len(taken) == 2 else 1.0)

    method.loss = overflowing
    data.safe_point = lambda training: values.append(training().values["scaler"]["scale"])
    with deterministic(None), clip.computing("fp16"):
        fit(method, data, Train(epochs=2, batch_size=16))
    taken.append([tensor.detach().clone() for tensor in method.parameters()])
    halved = [after < before for before, after in itertools.pairwise([65536.0, *values])]
    kept = [all(map(torch.equal, *two)) for two in itertools.pairwise(taken)]
    assert halved == kept and halved[1] and not all(halved)


class NoWaiting:
    """Between two calls of `step` that it lets be watched, an operation that waits for the device is an error."""

    def __init__(self, first: int, last: int):
        self.first, self.last, self.steps = first, last, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.first:
            torch.cuda.set_sync_debug_mode("error")
        elif self.steps == self.last:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def no_waiting() -> Iterator[Callable[[int, int], NoWaiting]]:
    yield NoWaiting
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_waits_for_the_device(method: str, precision: str, device: torch.device, no_waiting) -> None:
    """The first step may find out how the texts are packed; after an epoch its loss is read."""
    clip = tiny_clip().to(device)
    context = Context(1, BATCH, 0, 0, reference=reference_of(toy_reference(), clip))
    data = task_data(clip, context)
    made = method_of(method, clip, context)
    made.begin_task(data)
    watched = no_waiting(2, STEPS)
    with deterministic(None), clip.computing(precision):
        fit(made, data, Train(epochs=1, batch_size=BATCH, grad_clip=1.0), watched.step)
    assert watched.steps == STEPS


@pytest.mark.parametrize("method", ["lora", "keeplora-plus"])
def test_no_batch_of_a_test_set_waits_for_the_device(method: str, device: torch.device, no_waiting) -> None:
    clip = tiny_clip().to(device)
    context = Context(1, BATCH, 0, 0)
    data = task_data(clip, context)
    made = method_of(method, clip, context)
    made.begin_task(data)
    fit(made, data, Train(epochs=1, batch_size=BATCH))
    made.end_task(data)
    task = toy_task(0)
    space = label_space("task", [task], 1, 0)
    assert space is not None
    test = Pixels(task.test, clip, True)
    watched = no_waiting(1, len(test) // BATCH)
    with deterministic(None):
        outcomes("toy0", made, made.classifier(space), test, space, BATCH, watched.step)
    assert watched.steps == len(test) // BATCH


def test_a_frozen_model_gives_its_answers_again_and_leaves_nothing_on_the_device(device: torch.device) -> None:
    clip = tiny_clip().to(device)
    pixels = torch.randn(4, 3, *clip.image_size, device=device)
    with torch.no_grad(), deterministic(None):
        before, teacher = clip.encode_images(pixels), clip.frozen()
        for parameter in clip.model.parameters():
            parameter.mul_(1.1)
        after, digests, held = clip.encode_images(pixels), clip.digests(), torch.cuda.memory_allocated()
        with teacher:
            assert torch.equal(clip.encode_images(pixels), before)
        assert torch.equal(clip.encode_images(pixels), after) and clip.digests() == digests
        assert torch.cuda.memory_allocated() == held
        assert {tensor.device.type for tensor in teacher.kept} == {"cpu"}
        near = clip.frozen(host=False)
        assert all(tensor.device.type == "cuda" for tensor in near.kept)
        clip.model.visual.proj.mul_(1.1)
        with near:
            assert torch.equal(clip.encode_images(pixels), after)

"""Features of frozen towers: each image is encoded once, whoever asks, and nothing but the time changes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.methods.if2net import If2NetLike
from support.toy_runs import TOY, assert_same

from bench.compute.world import World
from bench.config.resolve import resolve
from bench.data.images import ArrayImages
from bench.data.pixels import Pixels, PixelStore
from bench.learning.evaluate import Protocol, evaluate_row
from bench.learning.given import FrozenFeatures, encoded
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.reuse.evaluate import evaluate
from bench.runs.run import run
from bench.trials.toy import tiny_clip, toy_task

NEAREST = """
from bench.api import F, Method, register, torch

@register("method", "nearest", title="Class means")
class Nearest(Method):
    frozen_towers = True

    def setup(self):
        self.means = {}

    def fit(self, task, train, on_step, on_epoch):
        features, labels = task.features(), task.train.labels
        for index, prompt in enumerate(task.prompts):
            self.means[prompt] = features[labels == index].mean(dim=0).to(self.clip.device)
        return 0

    def feature_classifier(self, space):
        texts = self.clip.encode_prompts(space.prompts)
        means = torch.stack([self.means.get(name, text) for name, text in zip(space.prompts, texts)])
        return lambda features: features @ F.normalize(means, dim=-1).T
"""


@pytest.fixture
def nearest(tmp_path: Path) -> str:
    """A file with a method of one frozen tower and class means."""
    path = tmp_path / "nearest.py"
    path.write_text(NEAREST)
    return str(path)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches of images that are encoded."""
    sizes: list[int] = []
    original = Clip.encode_images

    def counting(self: Clip, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Clip, "encode_images", counting)
    return sizes


def words(out: Path, method: str, cache: Path, *more: str) -> list[str]:
    common = [f"stream={TOY}", "stream.count=2", f"model={TOY}", "device=cpu", "threads=1", "evaluate.batch_size=7"]
    return [*common, f"method={method}", f"out={out}", f"cache.dir={cache}", *more]


def reused(directory: Path) -> set[str]:
    return set(json.loads((directory / "summary.json").read_text())["seconds_reused"])


def test_a_run_encodes_each_image_once_and_the_next_run_none(tmp_path: Path, nearest: str, images: list[int]) -> None:
    every = sum(len(part) for index in range(2) for part in (toy_task(index).train, toy_task(index).test))
    cache = tmp_path / "cache"
    first = run(resolve(words(tmp_path / "a", nearest, cache)))
    assert sum(images) == every and max(images) == 7 and not reused(first)
    images.clear()
    second = run(resolve(words(tmp_path / "b", nearest, cache)))
    assert images == [] and reused(second) == {"image features"}
    assert_same(first, second)
    summary = json.loads((second / "summary.json").read_text())
    assert summary["seconds"]["total"] >= summary["seconds_reused"]["image features"] > 0
    # Without a cache, too, no image is encoded twice.
    third = run(resolve(words(tmp_path / "c", nearest, cache, "cache.gb=0")))
    assert sum(images) == every
    assert_same(first, third)


def test_what_features_depend_on_makes_others(images: list[int]) -> None:
    keys: list[str] = []

    def shared(name, key, compute):
        keys.append(json.dumps([name, key]))
        return compute()

    def of(batch_size: int = 7, seed: int = 0, index: int = 0, precision: str = "fp32") -> FrozenFeatures:
        clip = tiny_clip(seed)
        store = FrozenFeatures(batch_size, clip.weights_sha256(), shared, World(), lambda: None)
        pixels = Pixels(toy_task(index).train, clip, False)
        with clip.computing(precision):
            assert store.of(pixels, "encode") is store.of(pixels, "encode")
        assert torch.equal(store.of(pixels, "encode"), store.of(pixels, "encode"))
        return store

    of()
    assert len(keys) == 1 and sum(images) == 40
    for change in ({"batch_size": 8}, {"seed": 1}, {"index": 1}, {"precision": "bf16"}):
        of(**change)
    assert len(set(keys)) == 5  # the features in bf16 lie beside those in fp32


def test_the_code_of_a_plug_ins_images_decides_too() -> None:
    class Own(ArrayImages):
        """Images of a plug-in, which may change what it makes of a file."""

    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    usual, own = (Pixels(cls(pixels, [0, 1]), tiny_clip(), False) for cls in (ArrayImages, Own))
    assert usual.images.digest == own.images.digest and usual.identity() != own.identity()


def test_no_image_that_was_decoded_is_kept(tmp_path: Path, nearest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Pixels._decode
    monkeypatch.setattr(Pixels, "_decode", lambda self, at: decoded.append(len(at)) or original(self, at))
    monkeypatch.setattr(Pixels, "_parts", lambda self: pytest.fail("a whole set is decoded"))
    run(resolve(words(tmp_path / "a", nearest, tmp_path / "cache", "stream.count=1")))
    assert max(decoded) == 7 and sum(decoded) == 64
    assert not list((tmp_path / "cache").glob("*.pixels"))


def test_images_that_are_decoded_already_are_read_from_where_they_are() -> None:
    clip = tiny_clip()
    kept = Pixels(toy_task(0).train, clip, keep=True)
    assert kept.for_one_pass() is not kept
    before = kept.uint8(torch.arange(5))
    assert kept.for_one_pass() is kept and torch.equal(kept.uint8(torch.arange(5)), before)


def test_processes_share_the_images_of_a_set() -> None:
    pixels = Pixels(toy_task(0).train, tiny_clip(), keep=True)

    class Half(World):
        def sum(self, tensors) -> None:
            """The other process is asked below."""

    whole = encoded(pixels, 7, "encode", World())
    one, other = (encoded(pixels, 7, "encode", Half(rank=rank, size=2)) for rank in (0, 1))
    assert torch.equal(one + other, whole) and one.any() and other.any() and not (one.bool() & other.bool()).any()
    assert torch.allclose(whole.norm(dim=1), torch.ones(len(pixels)), atol=1e-5)


def test_a_process_without_a_batch_encodes_with_the_others() -> None:
    encoded_sets = []

    class Half(World):
        def sum(self, tensors) -> None:
            """Stands for the processes' sum, for which each has to come."""
            encoded_sets.append([len(tensor) for tensor in tensors])

    store = FrozenFeatures(64, "", lambda name, key, compute: compute(), Half(rank=1, size=2), lambda: None)
    batches = store.take(Pixels(toy_task(0).test, tiny_clip(), True), "encode", [])
    assert encoded_sets == [[24]] and list(batches) == []


def test_outside_of_a_run_the_features_are_those_of_the_model_as_it_is() -> None:
    clip, task = tiny_clip(), toy_task(0)
    context = Context(tasks=1, batch_size=16, init_seed=0, data_seed=0)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), context)
    before = data.features()
    assert torch.allclose(before, torch.cat([clip.encode_images(p) for p, _ in data.train.batches(16)]), atol=1e-6)
    clip.model.visual.proj.data += 1.0
    assert (data.features() - before).abs().max() > 1e-3
    assert data.features(Pixels(task.test, clip, True)).shape == (len(task.test), before.shape[1])


class ByImages(If2NetLike):
    """The same method, asked for the classes of images."""

    frozen_towers = False


def test_answers_by_features_are_those_by_images_to_the_bit() -> None:
    tasks = [toy_task(index) for index in range(2)]
    protocol = Protocol(tasks, "all", "either", 7)
    settings = If2NetLike.Settings(width=70, groups=3, nodes=4, enhancement=20)
    rows, logits = [], []
    for cls in (If2NetLike, ByImages):
        clip = tiny_clip()
        context = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0)
        features = FrozenFeatures(7, clip.weights_sha256(), context.shared, World(), lambda: None)
        context = dataclasses.replace(context, features=features)
        context.observers.on("logits", lambda seen: logits.append(seen.values["logits"]))
        method, store = cls(settings, clip, context), PixelStore(clip, 10**9)
        task = TaskData(0, tasks[0].name, tasks[0].prompts, clip.tokenize(tasks[0].prompts), store.get(tasks[0].train),
                        context)  # fmt: skip
        method.begin_task(task)
        method.readout += 0.1
        method.end_task(task)
        rows.append([right.tolist() for seen in (0, 2) for _, right in evaluate_row(method, store, protocol, seen)])
    assert rows[0] == rows[1] and rows[0][:2] != rows[0][2:]
    half = len(logits) // 2
    assert half == 16 and all(torch.equal(one, other) for one, other in zip(logits[:half], logits[half:], strict=True))


def test_a_finished_run_answers_as_it_did(tmp_path: Path) -> None:
    """It keeps no features, and is asked for the classes of images."""
    path = run(resolve(words(tmp_path / "a", "if2net-like", tmp_path / "cache", "method.width=70")))
    assert evaluate(path, [f"out={tmp_path / 'b'}"]).same is True

"""What a linear probe finds in the image features of a finished run."""

import csv
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bench.api import Clip, Images, UserError, evaluate, load, run, tiny_clip, toy_task
from bench.cli import main as cli
from bench.compare.runs import read
from bench.record.results import read_matrix
from bench.reuse import logistic
from bench.reuse.probe import _plan, coarse, probe

TOY = str(Path(__file__).parent / "toy.py")
REQUESTS = """
from bench.api import Extra, Request, Stream, Subset, Task, register, toy_task


def some(images, *labels):
    chosen = [index for index, label in enumerate(images.labels) if label in labels]
    return Subset(images, chosen)


@register("stream", "requests", title="Two requests to forget one class each, of five")
class Requests(Stream):
    kind = "forgetting"
    label_space = "task"
    defaults = {"train.epochs": 1, "train.batch_size": 16, "train.lr": 0.01}

    def load(self, data_root, order_seed):
        whole, other = toy_task(0), toy_task(1)
        names = {"classes": whole.classes, "template": whole.template}
        first = Request("first", train=some(whole.train, 1, 2), test=some(whole.test, 0),
                        forget=some(whole.train, 0), forgotten=(0,), **names)
        second = Request("second", train=some(whole.train, 2), test=some(whole.test, 1),
                         forget=some(whole.train, 1), forgotten=(1,), earlier=(0,), **names)
        kept = some(whole.test, 2)
        self.others = [Extra("kept", train=kept, test=kept, role="kept", **names),
                       Extra("elsewhere", train=other.test, test=other.test, role="probe", classes=other.classes,
                             template=other.template)]
        return [first, second]
"""
IDLE = """
from bench.api import Method, register


@register("method", "idle", title="Changes nothing")
class Idle(Method):
    kinds = ("learning", "forgetting")
    constant = True
"""


# ------------------------------------------------------------------------------------------ the regression


def blobs(images: int, classes: int, distance: float, seed: int, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features around one corner a class."""
    labels = np.arange(images) % classes
    noise = np.random.default_rng(seed).normal(size=(images, width))
    return noise + distance * np.eye(classes, width)[labels], labels


def test_classes_that_a_plane_separates_are_told_apart_and_noise_is_chance() -> None:
    for distance, low, high in ((30.0, 1.0, 1.0), (0.0, 0.1, 0.4)):
        fitted = logistic.fit(*blobs(120, 4, distance, seed=0))
        features, labels = blobs(400, 4, distance, seed=1)
        assert low <= (fitted.predict(features) == labels).mean() <= high


def test_neither_scale_nor_shift_of_a_feature_matters() -> None:
    features, labels = blobs(60, 3, 2.0, seed=0)
    further = blobs(50, 3, 2.0, seed=1)[0]
    scale, shift = np.logspace(-3, 3, 20), np.linspace(-50, 50, 20)
    moved = logistic.fit(features * scale + shift, labels)
    assert np.array_equal(moved.predict(further * scale + shift), logistic.fit(features, labels).predict(further))


def test_every_fourth_image_of_a_class_is_held_out_from_its_last() -> None:
    labels = np.array([7, 3, 3, 3, 3, 3, 5, 5])
    assert logistic.held_out(labels).tolist() == [-1, 0, -1, -1, -1, 0, -1, 0]


def test_the_strength_is_the_best_on_held_out_images_and_the_fit_is_of_all() -> None:
    features, labels = blobs(80, 4, 1.5, seed=3)
    held = logistic.held_out(labels) == 0

    def standard(x: np.ndarray, of: np.ndarray) -> np.ndarray:
        return (x - of.mean(axis=0)) / of.std(axis=0)

    right = []
    for strength in logistic.STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(
            standard(features[~held], features[~held]), labels[~held]
        )
        right.append((model.predict(standard(features[held], features[~held])) == labels[held]).sum())
    best = logistic.STRENGTHS[int(np.argmax(right))]
    fitted = logistic.fit(features, labels)
    assert len(set(right)) > 1 and fitted.best_params_ == {"logisticregression__C": best}
    further = blobs(50, 4, 1.5, seed=4)[0]
    whole = LogisticRegression(C=best, max_iter=1000).fit(standard(features, features), labels)
    assert np.array_equal(fitted.predict(further), whole.predict(standard(further, features)))


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2]], ids=["one class", "one image a class"])
def test_too_few_training_images_are_refused(labels: list[int]) -> None:
    with pytest.raises(UserError, match="needs training images of two classes, and two images of one of them"):
        logistic.fit(np.random.default_rng(0).normal(size=(len(labels), 3)), np.array(labels))


def test_pixels_are_averaged() -> None:
    pixels = torch.arange(3 * 32 * 32, dtype=torch.float32).reshape(1, 3, 32, 32)
    means = pixels.reshape(1, 3, 16, 2, 16, 2).mean(dim=(3, 5)).flatten(1)
    assert torch.equal(coarse(pixels), means)


# ---------------------------------------------------------------------------------------------- of a run


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned two tasks."""
    words = {"method": "lora", "method.rank": 4, "stream": TOY, "model": TOY, "stream.count": 2, "train.epochs": 1}
    return run({**words, "device": "cpu", "out": str(tmp_path_factory.mktemp("runs"))}).path


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of requests to forget, by a method that changes nothing."""
    folder = tmp_path_factory.mktemp("asked")
    for name, text in (("requests", REQUESTS), ("idle", IDLE)):
        (folder / f"{name}.py").write_text(text)
    plugins = {"method": str(folder / "idle.py"), "stream": str(folder / "requests.py"), "model": TOY}
    return run({**plugins, "device": "cpu", "out": str(folder / "runs")}).path


def test_tasks_are_probed_each_among_its_own_classes(learned: Path, tmp_path: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in learned.rglob("*"))
    found = probe(learned, {"out": str(tmp_path)})
    assert found.path == tmp_path / "toy" / "tiny" / "lora" / learned.name / "probe.csv"
    assert sorted(path.stat().st_mtime_ns for path in learned.rglob("*")) == before
    matrix, clips = read_matrix(learned), {"before": tiny_clip(), "after": load(learned).clip}
    assert [one.test_set for one in found.rows] == ["toy0", "toy1"]
    for index, one in enumerate(found.rows):
        task = toy_task(index)
        assert (one.role, one.candidates, one.images) == ("task", 3, len(task.test))
        assert (one.text_before, one.text_after) == (matrix.accuracy(0, index), matrix.accuracy(2, index))
        by_hand = {}
        for name, clip in clips.items():
            (x, labels), (further, answers) = (
                (features(clip, images), images.labels) for images in (task.train, task.test)
            )
            by_hand[name] = 100 * (logistic.fit(x, labels).predict(further) == answers).mean()
        assert (one.probe_before, one.probe_after) == (by_hand["before"], by_hand["after"])
        assert one.pixels == 100  # one colour a class


@torch.no_grad()
def features(clip: Clip, images: Images) -> np.ndarray:
    pixels = torch.from_numpy(np.stack([clip.to_uint8(images.image(index)) for index in range(len(images))]))
    return clip.encode_images(clip.normalize(pixels)).double().numpy()


def test_a_class_that_tasks_share_is_one_candidate_whatever_their_further_templates() -> None:
    tasks = [
        dataclasses.replace(toy_task(index), template="a {}", more_templates=more)
        for index, more in enumerate([("the {}",), ()])
    ]
    stream = SimpleNamespace(tasks=tasks, others=[], label_space="all", shared_prompts="either", registry_name="toys")
    for one in _plan(stream).sets:
        assert one.candidates == tasks[0].prompts
        assert one.test.among(one.candidates).tolist() == tasks[one.column].test.labels.tolist()


def test_requests_share_a_probe_among_all_names_that_have_images(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["probe", str(asked), f"out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "no training images, so no probe: elsewhere" in printed and "mean of 2" in printed
    (file,) = tmp_path.rglob("probe.csv")
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert [(row["method"], row["seed"], row["test_set"], row["role"]) for row in rows] == [
        ("idle", "0", "first", "task"), ("idle", "0", "second", "task"), ("idle", "0", "kept", "kept"),
    ]  # fmt: skip
    matrix = read_matrix(asked)
    for row in rows:
        assert row["candidates"] == "3" and row["images"] == "8"
        assert row["probe_before"] == row["probe_after"]  # nothing was changed
        assert row["pixels"] == "100.0"
        column = matrix.columns.index(row["test_set"])
        assert float(row["text_after"]) == round(matrix.accuracy(2, column), 4)


def test_before_means_the_weights_that_the_run_began_with(learned: Path, asked: Path, tmp_path: Path) -> None:
    plugins = {key: read(asked).settings[f"{key}.file"] for key in ("method", "stream")}
    begun = run({**plugins, "model": TOY, "start": str(learned), "device": "cpu", "out": str(tmp_path / "runs")})
    (one, *_) = probe(begun.path, {"out": str(tmp_path)}).rows
    clip, whole = load(learned).clip, toy_task(0)
    chosen = whole.test.labels == 0
    fitted = logistic.fit(features(clip, whole.train), whole.train.labels)
    right = fitted.predict(features(clip, whole.test)[chosen]) == 0
    assert one.probe_before == one.probe_after == 100 * right.mean()


def test_what_cannot_be_probed_is_refused(learned: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a probe takes the run's own stream and data"):
        probe(learned, {"stream.count": 1})
    copy = shutil.copytree(learned, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="were not kept"):
        probe(copy)
    with pytest.raises(UserError, match="holds no run"):
        probe(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with out=DIR"):
        probe(learned, {"out": str(tmp_path / "file")})


def test_a_run_of_requests_is_measured_again_in_every_column(asked: Path, tmp_path: Path) -> None:
    found, matrix = evaluate(asked, {"out": str(tmp_path)}), read_matrix(asked)
    assert found.same is True and list(found.accuracies) == matrix.columns == ["first", "second", "kept", "elsewhere"]
    again = read_matrix(found.path)
    assert again.others == matrix.others and again.accuracy(2, 2) == matrix.accuracy(2, 2)
    assert found.mean == (matrix.accuracy(2, 0) + matrix.accuracy(2, 1)) / 2

"""Tasks, streams, label spaces, and what is refused in them."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.core.errors import UserError
from bench.data.images import ArrayImages, FileImages, Subset
from bench.data.pixels import PixelStore
from bench.data.stream import Stream, label_space
from bench.learning.evaluate import Protocol, evaluate_row, outcomes
from bench.learning.method import Method
from bench.learning.task_data import Context
from bench.trials.toy import tiny_clip, toy_task

TASKS = [dataclasses.replace(toy_task(i), classes=("a", "b", "c")[: 2 + i % 2]) for i in range(3)]


def test_label_spaces() -> None:
    """Three tasks of two, three and two classes."""
    own = label_space("task", TASKS, seen=1, column=2)
    assert own is not None and own.prompts == TASKS[2].prompts and own.targets == (0, 1) and own.tasks == (2, 2)
    seen = label_space("seen", TASKS, seen=2, column=1)
    assert seen is not None and seen.prompts == TASKS[0].prompts + TASKS[1].prompts and seen.targets == (2, 3, 4)
    assert label_space("seen", TASKS, seen=2, column=2) is None
    assert label_space("seen", TASKS, seen=0, column=0) is None
    agnostic = [label_space("agnostic", TASKS, seen=2, column=column) for column in range(3)]
    assert agnostic == [label_space("seen", TASKS, seen=2, column=0), seen, own]
    assert label_space("agnostic", TASKS, seen=0, column=2) == own
    union = label_space("all", TASKS, seen=0, column=2)
    assert (
        union is not None
        and len(union.prompts) == 7
        and union.targets == (5, 6)
        and union.tasks == (0, 0, 1, 1, 1, 2, 2)
    )


class Oracle(Method):
    """Always predicts one position of the label space."""

    position = 0

    def classifier(self, space):
        return lambda pixels: torch.eye(len(space.prompts))[self.position].expand(len(pixels), -1)


@pytest.mark.parametrize("position", range(7))
def test_counts_use_the_offset_of_the_test_set(position: int) -> None:
    tasks = [dataclasses.replace(task, test=ArrayImages(np.zeros((5, 36, 36, 3)), [0, 0, 0, 1, 1])) for task in TASKS]
    clip = tiny_clip()
    method = Oracle(None, clip, Context(3, 16, 0, 0))
    method.position = position
    row = list(evaluate_row(method, PixelStore(clip, 10**9), Protocol(tasks, "all", "either", 2), seen=1))
    expected = {0: [3, 0, 0], 1: [2, 0, 0], 2: [0, 3, 0], 3: [0, 2, 0], 4: [0, 0, 0], 5: [0, 0, 3], 6: [0, 0, 2]}
    assert [(column, int(right.sum()), len(right)) for column, right in row] == [
        (column, correct, 5) for column, correct in enumerate(expected[position])
    ]


def test_a_class_with_several_templates_is_the_normalised_mean_of_its_prompts() -> None:
    """Against the definition in float64; with a single template nothing is another number."""
    clip = tiny_clip()
    task = dataclasses.replace(toy_task(0), template="a {}", more_templates=("the {}", "a {}", "two {}"))
    assert task.prompts == tuple(f"a {name}" for name in task.classes)  # what training reads
    space = label_space("task", [task], 1, 0)
    assert space is not None and space.prompts[0] == tuple(f"{article} red thing" for article in ("a", "the", "two"))
    with torch.no_grad():
        found = clip.encode_prompts(space.prompts, batch_size=4)
        each = [[clip.encode_prompts([text])[0].double() for text in texts] for texts in space.prompts]
        means = [torch.stack(features).sum(0) / len(features) for features in each]
        expected = torch.stack([mean / mean.square().sum().sqrt() for mean in means])
        assert (found.double() - expected).abs().max() < 1e-6
        assert torch.equal(clip.encode_prompts(task.prompts), clip.encode_tokens(clip.tokenize(task.prompts)))


def test_a_method_that_tokenises_several_prompts_of_a_class_is_told_what_to_call() -> None:
    with pytest.raises(UserError, match="a class has several prompts .*: let it call Clip.encode_prompts"):
        tiny_clip().tokenize([("a cat", "the cat")])


def test_classes_with_the_same_first_template_count_as_one() -> None:
    """Training reads the first template alone, so no method can tell them apart; the first task's templates count."""
    tasks = [
        dataclasses.replace(toy_task(0), name=name, template="a {}", more_templates=more)
        for name, more in (("x", ("the {}",)), ("y", ("the {}",)), ("z", ()))
    ]
    for column in range(3):
        space = label_space("all", tasks, 0, column)
        assert space is not None and space.prompts == tasks[0].test_prompts and space.texts == tasks[2].prompts
        assert space.tasks == (0, 0, 0) and space.targets == (0, 1, 2)
    own = label_space("task", tasks, 0, 2)
    assert own is not None and own.prompts == tasks[2].prompts
    last = label_space("all", tasks, 0, 2, "first")
    assert last is not None and last.targets == (-1, -1, -1)


def test_outcomes_are_those_of_plain_predictions() -> None:
    clip, task = tiny_clip(), toy_task(1)
    method = Method(None, clip, Context(1, 16, 0, 0))
    space = label_space("task", [task], 1, 0)
    assert space is not None
    right = outcomes("toy", method, method.classifier(space), PixelStore(clip, 10**9).get(task.test), space, 5)
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(clip.to_uint8(task.test.image(i)).copy()) for i in range(24)])
        texts = clip.encode_prompts(task.prompts)
        predictions = (clip.encode_images(clip.normalize(pixels)) @ texts.T).argmax(1).numpy()
    assert right.tolist() == (predictions == task.test.labels).tolist() and 0 < right.sum() < len(right)


@pytest.mark.parametrize("kind", ["task", "all"])
def test_equal_prompts_of_two_tasks_count_as_one_class(kind: str) -> None:
    """The same task twice under one template: nothing distinguishes the copies, and none counts as wrong."""
    clip = tiny_clip()
    tasks = [dataclasses.replace(toy_task(0), name=name, template="a {}") for name in ("first", "second")]
    method = Method(None, clip, Context(2, 16, 0, 0))
    row = list(evaluate_row(method, PixelStore(clip, 10**9), Protocol(tasks, kind, "either", 16), seen=2))
    alone = list(evaluate_row(method, PixelStore(clip, 10**9), Protocol(tasks[:1], "task", "either", 16), seen=1))
    assert [right.tolist() for _, right in row] == [alone[0][1].tolist()] * 2


def test_class_features_are_encoded_once_for_each_label_space(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tiny_clip()
    method = Method(None, clip, Context(3, 16, 0, 0))
    calls = []
    real = clip.encode_prompts
    monkeypatch.setattr(clip, "encode_prompts", lambda prompts: calls.append(prompts) or real(prompts))
    for kind, expected in (("all", 1), ("task", 3)):
        calls.clear()
        protocol = Protocol([toy_task(i) for i in range(3)], kind, "either", 16)
        list(evaluate_row(method, PixelStore(clip, 10**9), protocol, seen=0))
        assert len(calls) == expected


def test_tasks_with_the_same_prompts_have_classifiers_of_their_own() -> None:
    """A method may keep something for each of them; further test sets with these prompts are no learned task."""
    tasks = [dataclasses.replace(toy_task(0), name=name, template="a {}") for name in ("first", "second", "third")]
    asked = []

    class Asked(Method):
        def classifier(self, space):  # type: ignore[no-untyped-def]
            asked.append(set(space.tasks))
            return super().classifier(space)

    clip = tiny_clip()
    protocol = Protocol(tasks[:2], "task", "either", 16, others=tasks[2:])
    list(evaluate_row(Asked(None, clip, Context(2, 16, 0, 0)), PixelStore(clip, 10**9), protocol, seen=2))
    assert asked == [{0}, {1}, {2}]


class Photos:
    """Images of a plug-in's own that lets Pillow's errors through."""

    labels = np.array([0, 1])
    digest = "photos"

    def __len__(self) -> int:
        return 2

    def image(self, index: int) -> Image.Image:
        raise Image.UnidentifiedImageError("cannot identify image file 'cat.jpg'")


def test_images_of_a_plugin_that_cannot_be_decoded() -> None:
    with pytest.raises(UserError, match=r"image 0 of class 0 in a set of 2 cannot be decoded \(.*cat.jpg"):
        list(PixelStore(tiny_clip(), 0).get(Photos()).batches(4))


def test_digests_follow_the_data() -> None:
    task = toy_task(0)
    assert task.digest() == toy_task(0).digest()
    changes = [
        dataclasses.replace(task, template="a {}"),
        dataclasses.replace(task, classes=("x", "y", "z")),
        dataclasses.replace(task, test=Subset(task.test, [0, 1, 2])),
        dataclasses.replace(task, train=ArrayImages(task.train.pixels, task.train.labels[::-1])),
        dataclasses.replace(task, train_settings={"epochs": 3}),
        dataclasses.replace(task, more_templates=("the {}",)),
    ]
    assert len({task.digest(), *(t.digest() for t in changes)}) == 7


def test_templates_may_hold_braces() -> None:
    task = dataclasses.replace(toy_task(0), template="a {} of {color}")
    assert task.prompts[0] == "a red thing of {color}"


def test_subset_selects_and_reorders() -> None:
    images = toy_task(0).test
    part = Subset(images, [5, 2])
    assert len(part) == 2 and part.labels.tolist() == images.labels[[5, 2]].tolist()
    assert np.array_equal(np.asarray(part.image(0)), images.pixels[5])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, kind in enumerate(("png", "jpeg", "webp")):
        Image.fromarray(toy_task(0).test.pixels[index]).save(tmp_path / f"{index}.{kind}")
    return tmp_path


def test_files_are_images(folder: Path) -> None:
    names = ["0.png", "1.jpeg", "2.webp"]
    images = FileImages(folder, names, [0, 1, 2])
    assert np.array_equal(np.asarray(images.image(0)), toy_task(0).test.pixels[0])
    assert images.image(1).size == (36, 36)
    digests = [
        FileImages(folder, n, y).digest for n, y in ((names, [0, 1, 2]), (names, [0, 2, 1]), (names[::-1], [0, 1, 2]))
    ]
    assert images.digest == digests[0]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("damage", [b"", b"no image at all", "truncated"])
def test_files_that_cannot_be_decoded_are_named(folder: Path, damage: bytes | str) -> None:
    file = folder / "1.jpeg"
    file.write_bytes(file.read_bytes()[:300] if isinstance(damage, str) else damage)
    images = FileImages(folder, ["0.png", "1.jpeg"], [0, 1])
    with pytest.raises(UserError, match=r"the image .*1\.jpeg cannot be decoded .*: restore or remove the file"):
        list(PixelStore(tiny_clip(), 0).get(images).batches(4))


def test_missing_files_are_named_at_once(folder: Path) -> None:
    with pytest.raises(UserError, match=r"the image .*9\.png cannot be read"):
        FileImages(folder, ["0.png", "9.png"], [0, 1])
    with pytest.raises(UserError, match="1 files in .* have 2 labels"):
        FileImages(folder, ["0.png"], [0, 1])


def test_what_is_no_file_keeps_nobody_waiting(folder: Path) -> None:
    os.mkfifo(folder / "7.png")
    (folder / "8.png").mkdir()
    for name in ("7.png", "8.png"):
        with pytest.raises(UserError, match=rf"the image .*{name} is no file but a folder, a named pipe or a device"):
            FileImages(folder, ["0.png", name], [0, 1])


BLANK = np.zeros((3, 4, 4, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "task toy0 has no classes"),
        ({"classes": ("a", "a", "b")}, "names the class 'a' twice"),
        ({"template": "no slot"}, r'the template "no slot" of task toy0 has no \{\}'),
        ({"test": ArrayImages(BLANK[:0], [])}, "task toy0 has no test images"),
        ({"train": ArrayImages(BLANK[:0], [])}, "task toy0 has no training images"),
        ({"train": ArrayImages(BLANK, [0, 2, 2])}, "class 'green thing' of task toy0 has no training image"),
        ({"name": "a\nb"}, "cannot be printed"),
        ({"test": ArrayImages(BLANK, [0, 0, 2])}, "class 'green thing' of task toy0 has no test image"),
        ({"validation": ArrayImages(BLANK, [0, 1, 7])}, "validation labels from 0 to 7 and 3 classes"),
        ({"validation": ArrayImages(BLANK[:0], [])}, "task toy0 has no validation images"),
        ({"test": ArrayImages(BLANK, [0, 1, 3])}, "test labels from 0 to 3 and 3 classes"),
        ({"train": ArrayImages(BLANK, [0, -1, 2])}, "training labels from -1 to 2"),
    ],
)
def test_unusable_tasks_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(toy_task(0), **change).validate()


def test_labels_and_images_must_match() -> None:
    with pytest.raises(UserError, match="3 images have 2 labels"):
        ArrayImages(BLANK, [0, 1])


@pytest.mark.parametrize(("tasks", "message"), [([], "has no tasks"), ([0, 1, 0], "task toy0 occurs twice")])
def test_unusable_streams_are_refused(tasks: list[int], message: str) -> None:
    class Bad(Stream):
        def load(self, data_root, order_seed):
            return [toy_task(index) for index in tasks]

    with pytest.raises(UserError, match=message):
        Bad(None, None, 0)

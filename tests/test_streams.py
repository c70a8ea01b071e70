"""Streams of real datasets: orders, prompts, budgets, shots, label spaces, and whole runs on small trees."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import fake_trees
import numpy as np
import pytest
from bench.datasets.class_incremental import ClassIncremental, class_order
from bench.datasets.ensembles import ENSEMBLES
from bench.datasets.mtil import KEEPLORA_TEMPLATES, ORDER_1, ORDER_2
from bench.datasets.shots import draw
from bench.datasets.xtail import ORDER as XTAIL
from bench.datasets.xtail import SPLITS, CoopSplit

from bench.cli import main as cli
from bench.compare.published import METRICS, find
from bench.config import registry
from bench.config.fingerprint import fingerprint
from bench.config.resolve import resolve
from bench.config.run_settings import label_space_of
from bench.core.errors import UserError
from bench.data.dataset import Counts, load_dataset
from bench.data.dataset_stream import DatasetStream
from bench.data.images import Subset
from bench.data.stream import NEVER, Stream, Task, label_space, shared_classes
from bench.learning.method import Method
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.scalars import COLUMNS, SCALARS
from bench.record.flags import registered
from bench.runs.parts import train_settings

REAL = [
    name
    for name, entry in registry.entries("stream").items()
    if not name.startswith("pocket") and name != "custom" and "kind" not in entry.facts
]


PUBLISHED = Path(__file__).parent.parent / "datasets" / "published"
REGISTERED = registry.entries("stream")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_trees.everything(tmp_path_factory.mktemp("data"))


def stream(tree: Path, *words: str) -> Any:
    resolved = resolve([*words, f"data={tree}"], need_method=False)
    run = resolved.run
    return resolved.stream_class(resolved.stream_settings, run.data, run.seeds.task_order)


# ---- orders, prompts, budgets


def test_order_2_is_the_known_permutation() -> None:
    assert [ORDER_1.index(name) for name in ORDER_2] == [9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2]
    assert tuple(name for name in ORDER_1 if name != "cifar100") == XTAIL


def test_class_counts() -> None:
    coop = [CoopSplit(name).expected for name in SPLITS]
    both = [load_dataset(name).expected for name in ("aircraft", "mnist")]
    assert sum(counts.classes for counts in [*coop, *both] if counts) == 1100
    expected = {name: load_dataset(name).expected for name in ORDER_1}
    assert sum(counts.classes for counts in expected.values() if counts) == 1201
    assert sum(counts.train for counts in expected.values() if counts) == 319_352
    assert sum(counts.test for counts in expected.values() if counts) == 97_209


def test_mtil_tasks_have_the_names_of_published_tables(tree: Path) -> None:
    assert tuple(task.name for task in stream(tree, "stream=mtil-order1").tasks) == find("mtil-order1").tasks


def test_prompt_families_differ_in_three_templates(tree: Path) -> None:
    ours, zscl = (stream(tree, "stream=mtil-order1", f"stream.prompts={f}").tasks for f in ("keeplora", "zscl"))
    differing = {a.name for a, b in zip(ours, zscl, strict=True) if a.template != b.template}
    assert differing == {"DTD", "StanfordCars", "SUN397"} and len(KEEPLORA_TEMPLATES) == 3
    assert {t.name: t.prompts[0] for t in ours}["StanfordCars"] == (
        "a photo of the AM General Hummer SUV 2000, a type of car."
    )
    assert {t.name: t.prompts[0] for t in zscl}["DTD"] == "a photo of a banded texture."
    assert {t.name: t.prompts[0] for t in zscl}["MNIST"] == 'a photo of the number: "0 - zero".'


def test_ensembles_classify_by_all_prompts_and_train_on_the_first(tree: Path) -> None:
    found = {task.name: task for task in stream(tree, "stream=mtil-order1", "stream.prompts=ensemble").tasks}
    counts = {name: 1 + len(task.more_templates) for name, task in found.items()}
    assert list(counts.values()) == [2, 34, 18, 8, 3, 1, 1, 1, 1, 9, 2]  # as many as ZSCL's tests average
    single = stream(tree, "stream=mtil-order1", "stream.prompts=zscl").tasks
    assert [task.prompts for task in found.values()] == [task.prompts for task in single]
    assert found["DTD"].test_prompts[0][1] == "a photo of a banded pattern."
    assert found["MNIST"].test_prompts == found["MNIST"].prompts
    for name, prompts in ENSEMBLES.items():
        assert prompts[0] == load_dataset(name).template and len(set(prompts)) == len(prompts)
        assert all(prompt.count("{}") == 1 and "<" not in prompt for prompt in prompts)
    for words in (["stream=cifar100-10"], ["stream=mtil-fewshot", "stream.fewer=all"]):
        several = stream(tree, *words, "stream.prompts=ensemble").tasks
        assert {len(t.more_templates) for t in several} == (
            {17} if "cifar100-10" in words[0] else {0, 1, 2, 7, 8, 17, 33}
        )


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("mtil-order1", [10] * 10 + [5]), ("mtil-order2", [5, 2, 5, 5, 5, 5, 10, 10, 10, 10, 10])],
)
def test_budgets_are_those_of_the_released_code(name: str, epochs: list[int], tree: Path) -> None:
    resolved = resolve(["method=keeplora", f"stream={name}", f"data={tree}"])
    tasks = stream(tree, f"stream={name}").tasks
    assert [train_settings(resolved, task).epochs for task in tasks] == epochs
    assert resolved.run.train.batch_size == 64 and resolved.run.train.lr == 1e-3
    mine = resolve(["method=keeplora", f"stream={name}", f"data={tree}", "train.epochs=3"])
    assert {train_settings(mine, task).epochs for task in tasks} == {3}


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("cifar100-10", (20, 128, "adam", 5e-4, 0.0, "cosine", 0.0, "inflora")),
        ("imagenet-r-20", (50, 128, "adam", 5e-4, 0.0, "cosine", 0.0, "inflora")),
        ("cub200-10", (20, 48, "sgd", 0.005, 5e-4, "cosine", 0.0, "pilot")),
    ],
)
@pytest.mark.parametrize("method", ["inflora", "keeplora", "finetune"])
def test_class_incremental_streams_train_every_method_as_their_papers_do(
    method: str, name: str, budget: tuple[Any, ...]
) -> None:
    train = resolve([f"method={method}", f"stream={name}"]).run.train
    found = (train.epochs, train.batch_size, train.optimizer, train.lr, train.weight_decay)
    assert (*found, train.schedule, train.warmup, train.augment) == budget and train.momentum == 0.9


@pytest.mark.parametrize("name", REAL)
def test_the_table_of_streams_is_true(name: str) -> None:
    """What the table says without importing is what the classes have."""
    entry, cls = registry.entries("stream")[name], registry.load("stream", name)
    assert set(entry.facts) == {"label_space", "prompt_family", "budget"}
    assert {key: getattr(cls, key) for key in entry.facts} == entry.facts
    assert issubclass(cls, DatasetStream) and entry.paper and cls.description
    assert str(cls.defaults["train.epochs"]) in entry.facts["budget"]
    assert f"batch {cls.defaults['train.batch_size']}" in entry.facts["budget"]
    assert label_space_of(cls, cls.Settings()) == entry.facts["label_space"]


# ---- shots


def test_shots_depend_on_dataset_class_and_seed_alone() -> None:
    labels = np.repeat(np.arange(4), 20)
    names = ["a", "b", "c", "d"]
    first = draw("dtd", names, labels, 5, 0, "error")
    assert all(len(found) == 5 and set(labels[found]) == {names.index(name)} for name, found in first.items())
    # Another class more, other images of other classes: the draws of the rest stay.
    more = draw("dtd", [*names, "e"], np.concatenate([labels, [4] * 9]), 5, 0, "error")
    assert {name: more[name] for name in names} == first
    assert draw("dtd", names, labels, 5, 1, "error") != first
    assert draw("sun", names, labels, 5, 0, "error") != first
    assert {name: found[:] for name, found in draw("dtd", names, labels, 20, 0, "error").items()} == {
        name: list(range(20 * label, 20 * label + 20)) for label, name in enumerate(names)
    }


def test_fewer_images_than_shots() -> None:
    labels = np.array([0, 0, 0, 1])
    with pytest.raises(UserError, match=r"class 'b' of x has 1 training images and stream.shots=2: lower it"):
        draw("x", ["a", "b"], labels, 2, 0, "error")
    assert draw("x", ["a", "b"], labels, 2, 0, "all")["b"] == [3]
    assert draw("x", ["a", "b"], labels, 3, 0, "repeat")["b"] == [3, 3, 3]


def test_few_shot_mtil_takes_and_records_them(tree: Path) -> None:
    found = stream(tree, "stream=mtil-fewshot", "stream.shots=2", "seed=4")
    for task in found.tasks:
        assert np.bincount(task.train.labels).tolist() == [2] * len(task.classes)
        assert found.facts["shots"][task.name].keys() == set(task.classes)
    assert found.facts == stream(tree, "stream=mtil-fewshot", "stream.shots=2", "seed=4").facts
    assert found.facts != stream(tree, "stream=mtil-fewshot", "stream.shots=2", "seed=5").facts
    assert not any(isinstance(task.test, Subset) and task.test.whole for task in found.tasks)
    with pytest.raises(UserError, match="has 4 training images and stream.shots=5"):
        stream(tree, "stream=mtil-fewshot")
    with pytest.raises(UserError, match=r"stream.shots=0 is out of range: it must be >= 1"):
        stream(tree, "stream=mtil-fewshot", "stream.shots=0")


# ---- X-TAIL


def test_xtail_is_one_label_space(tree: Path) -> None:
    found = stream(tree, "stream=xtail")
    assert found.label_space == "all" and found.shared_prompts == "first"
    assert all(np.bincount(task.train.labels).tolist() == [16] * len(task.classes) for task in found.tasks)
    prompts = {task.name: task.prompts for task in found.tasks}
    assert prompts["MNIST"][3] == 'a photo of a number: "3 - three".'
    assert prompts["EuroSAT"][1] == "a photo of a Forest satellite location."
    assert prompts["DTD"][0] == "a photo of a banded."
    space = label_space("all", found.tasks, 0, 9, "first")
    assert space is not None and len(space.prompts) == sum(len(task.classes) for task in found.tasks)
    assert space.targets == tuple(range(len(space.prompts) - 3, len(space.prompts)))


def test_xtail_without_coops_files(tree: Path, tmp_path: Path) -> None:
    for make in fake_trees.MTIL.values():
        make(tmp_path)
    with pytest.raises(UserError, match="8 of 10 datasets of stream xtail are not ready.*split_zhou_Caltech101.json"):
        stream(tmp_path, "stream=xtail")
    found = stream(tmp_path, "stream=xtail", "stream.splits=torchvision")
    assert found.tasks[1].classes == ("off-center face", "ant", "yin and yang symbol")


def test_mtil_with_the_splits_of_coop(tree: Path) -> None:
    found = stream(tree, "stream=mtil-order1", "stream.splits=coop", "stream.prompts=zscl")
    tasks = {task.name: task for task in found.tasks}
    assert tuple(tasks) == find("mtil-order1").tasks
    assert tasks["Caltech101"].classes[0] == "Faces"  # a name in CoOp's file, where MTIL says "off-center face"
    assert tasks["DTD"].prompts[0] == "a photo of a banded texture."
    whole = {task.name: len(task.train) for task in stream(tree, "stream=mtil-order1").tasks}
    for name in ("CIFAR100", "MNIST"):  # CoOp has no file of these
        held, kept = tasks[name].validation, tasks[name].train
        assert len(held) + len(kept) == whole[name]
        assert set(np.bincount(held.labels)) == {1} and set(np.bincount(kept.labels)) == {3}  # a fifth of four, rounded
    assert all(task.validation is not None for task in found.tasks)
    assert found.zero_shot("ViT-B-16/openai") is None  # the published accuracies are of MTIL's splits


def test_task_agnostic_mtil_grows_its_label_space(tree: Path) -> None:
    found = stream(tree, "stream=mtil-agnostic")
    assert found.label_space == "agnostic" and [task.name for task in found.tasks][:2] == ["Aircraft", "Caltech101"]
    published = found.zero_shot("ViT-B-16/openai")  # row 0 is measured among the classes of each dataset
    assert published is not None and published.expected["Caltech101"] == (88.4, 6)


def test_split2_has_the_classes_of_every_dataset_in_two_tasks(tree: Path) -> None:
    words = ("stream.fewer=all", "seeds.task_order=1")
    whole, found = stream(tree, "stream=mtil-fewshot", *words), stream(tree, "stream=mtil-split2", *words)
    assert found.label_space == "all" and len(found.tasks) == 22 and found.zero_shot("ViT-B-16/openai") is None
    assert found.facts["shots"] == whole.facts["shots"]
    for number, task in enumerate(whole.tasks):
        first, second = found.tasks[2 * number : 2 * number + 2]
        assert (first.name, second.name) == (f"{task.name} 1", f"{task.name} 2")
        assert first.classes + second.classes == task.classes and len(first.classes) - len(second.classes) in (0, 1)
        assert len(first.train) + len(second.train) == len(task.train)
        for half, start in ((first, 0), (second, len(first.classes))):
            kept = task.test.labels[half.test.indices]
            assert (half.test.labels + start == kept).all() and set(half.test.labels) == set(range(len(half.classes)))


# ---- the order of tasks, and probes


@pytest.mark.parametrize("name", ["mtil-order2", "xtail", "cifar100-10", "custom"])
def test_every_stream_shuffles_its_tasks_by_the_seed_of_the_order(name: str, tree: Path) -> None:
    words = [f"stream={name}", *(["stream.datasets=[dtd,eurosat,mnist,plants,food101,aircraft]"] * (name == "custom"))]
    plain = stream(tree, *words).tasks
    one, other = (stream(tree, *words, "stream.shuffle=true", f"seeds.task_order={seed}").tasks for seed in (1, 2))
    names = [[task.name for task in tasks] for tasks in (plain, one, other)]
    assert names[0] != names[1] != names[2] and sorted(names[0]) == sorted(names[1]) == sorted(names[2])
    if name != "xtail":  # whose images are drawn by this seed too
        digests = [{task.name: task.digest() for task in tasks} for tasks in (plain, one, other)]
        assert digests[0] == digests[1] == digests[2]


def test_fingerprints_of_lines_without_the_new_settings_stay() -> None:
    """Names of run directories as they were before streams had these settings."""
    known = {
        "mtil-order1": "1219c9da71",
        "mtil-order2": "cb266f6f16",
        "mtil-fewshot": "2efabb9935",
        "mtil-agnostic": "5326d31e58",
        "mtil-split2": "4be5787fdf",
        "xtail": "0d3cf09a75",
        "cifar100-10": "2f6364f18d",
        "cub200-10": "174c5cddd8",
        "pocket": "002aee82ce",
    }
    assert {name: fingerprint(resolve(["method=keeplora", f"stream={name}"]).flat) for name in known} == known


def test_probes_are_datasets_that_no_task_trains_on(tree: Path, tmp_path: Path) -> None:
    for words, expected in (
        (["stream=mtil-order1", "stream.prompts=ensemble", "stream.probe=[cifar10,plants]"], ["CIFAR10", "plants"]),
        (["stream=cifar100-10", "stream.probe=[dtd]"], ["DTD"]),
        (["stream=xtail", "stream.probe=[cifar100]"], ["CIFAR100"]),
        (["stream=custom", "stream.datasets=[dtd]", "stream.probe=[plants]"], ["plants"]),
    ):
        found = stream(tree, *words)
        assert [one.name for one in found.others] == expected and {one.role for one in found.others} == {"probe"}
        plain = stream(tree, *words[:-1])
        assert [task.digest() for task in found.tasks] == [task.digest() for task in plain.tasks]
    ensemble = stream(tree, "stream=mtil-order1", "stream.prompts=ensemble", "stream.probe=[cifar10]").others[0]
    assert len(ensemble.more_templates) == 17
    with pytest.raises(UserError, match='no dataset "nowhere"'):
        stream(tree, "stream=mtil-order1", "stream.probe=[nowhere]")
    with pytest.raises(UserError, match="task DTD occurs twice in the stream"):
        stream(tree, "stream=mtil-order1", "stream.probe=[dtd]")


def test_equal_names_in_a_union() -> None:
    """Two tasks share "lotus": merged, or the first one's only, and named once."""
    from bench.data.images import ArrayImages

    def task(name: str, *classes: str) -> Task:
        images = ArrayImages(np.zeros((len(classes), 4, 4, 3)), list(range(len(classes))))
        return Task(name, classes, "a photo of a {}.", images, images)

    tasks = [task("objects", "lotus", "chair"), task("flowers", "rose", "lotus")]
    assert shared_classes(tasks) == {"lotus": ["objects", "flowers"]}
    other = dataclasses.replace(tasks[1], classes=("rose", "Lotus"), template="a photo of a {}, a type of flower.")
    assert shared_classes([tasks[0], other]) == {"lotus": ["objects", "flowers"]}
    for kind, seen in (("all", 0), ("seen", 2)):
        merged, first = (label_space(kind, tasks, seen, 1, rule) for rule in ("either", "first"))
        assert merged is not None and first is not None and merged.prompts == first.prompts
        assert merged.targets == (2, 0) and first.targets == (2, NEVER)
        earlier = label_space(kind, tasks, seen, 0, "first")
        assert earlier is not None and earlier.targets == (0, 1)

    class Union(Stream):
        label_space, shared_prompts = "all", "first"

        def load(self, data_root, order_seed):
            return tasks

    assert Union(None, None, 0).notes == [
        "1 class names occur in several tasks (where their prompts are equal too, only the first can be correct when "
        'it wins): "lotus" (objects, flowers)'
    ]

    class Own(Union):
        label_space = "task"

    assert Own(None, None, 0).notes == []


# ---- class-incremental streams


@pytest.mark.parametrize("kind", ["natural", "shuffled", "numpy"])
def test_class_orders_are_permutations(kind: str) -> None:
    order = class_order(kind, 100, 1993)
    assert sorted(order) == list(range(100)) and order == class_order(kind, 100, 1993)
    if kind != "natural":
        assert order != class_order(kind, 100, 1996)


def test_the_order_of_pilot() -> None:
    """LAMDA-PILOT draws with NumPy's global generator after seeding it."""
    np.random.seed(1993)
    assert class_order("numpy", 100, 1993) == np.random.permutation(100).tolist()


@pytest.mark.parametrize(("name", "count"), [("cifar100-10", 10), ("cifar100-5", 5), ("cifar100-20", 20)])
def test_chunks_cover_all_classes_once(name: str, count: int, tree: Path) -> None:
    found = stream(tree, f"stream={name}", "stream.class_order=shuffled", "seeds.task_order=3")
    whole = load_dataset("cifar100").open(tree)
    assert len(found.tasks) == count and found.label_space == "seen"
    assert sorted(c for task in found.tasks for c in task.classes) == sorted(whole.classes)
    assert found.facts["class_order"] == [c for task in found.tasks for c in task.classes]
    for part in ("train", "test"):
        base = getattr(whole, part)
        seen = []
        for task in found.tasks:
            images = getattr(task, part)
            assert isinstance(images, Subset) and images.whole
            for index, label in zip(images.indices, images.labels, strict=True):
                assert whole.classes[base.labels[index]] == task.classes[label]
                seen.append(int(index))
        assert sorted(seen) == list(range(len(base)))


def test_too_few_classes_for_the_tasks(tree: Path) -> None:
    with pytest.raises(UserError, match="imagenet-r has 10 classes, too few for the 20 tasks"):
        stream(tree, "stream=imagenet-r-20")


# ---- custom streams


def test_custom_streams_by_name(tree: Path) -> None:
    found = stream(tree, "stream=custom", "stream.datasets=[dtd,plants]", "stream.label_space=seen")
    assert [task.name for task in found.tasks] == ["DTD", "plants"] and found.label_space == "seen"
    assert found.tasks[1].prompts == ("a photo of a moss.", "a photo of a oak tree.")


def test_custom_streams_from_a_file(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "tasks:\n- dataset: cifar10\n  epochs: 3\n- folder: plants\n  name: green\n  template: 'a {}, a plant'\n"
    )
    found = stream(tree, "stream=custom", f"stream.tasks_file={file}")
    assert [task.name for task in found.tasks] == ["CIFAR10", "green"]
    assert found.tasks[1].prompts[1] == "a oak tree, a plant" and found.tasks[0].train_settings == {"epochs": 3}


@pytest.mark.parametrize("name", ["2024", "010", "on", "1.10", "null", "2024-01-02", "a: b", "run #1"])
def test_a_folder_may_be_called_like_a_number(name: str, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "plants", tmp_path / name)
    (task,) = stream(tmp_path, "stream=custom", f"stream.datasets=[{name}]").tasks
    file = tmp_path / "tasks.yaml"
    quote = "'" if {":", "#"} & set(name) else ""  # what YAML itself takes for something else
    file.write_text(f"- folder: {quote}{name}{quote}\n  name: no\n  template: on {{}} 1.0\n  epochs: 010\n")
    (same,) = stream(tmp_path, "stream=custom", f"stream.tasks_file={file}").tasks
    assert (same.name, same.prompts[0], same.train_settings) == ("no", "on moss 1.0", {"epochs": 10})
    assert same.classes == task.classes == ("moss", "oak tree")


def test_nothing_is_no_name(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text("- folder: plants\n  name:\n  template: null\n  epochs: ~\n")
    (task,) = stream(tree, "stream=custom", f"stream.tasks_file={file}").tasks
    assert (task.name, task.train_settings) == ("plants", {})


def test_names_that_no_file_has_are_refused(tree: Path) -> None:
    for value in ("~nosuchuser/x", "x" * 300):
        with pytest.raises(UserError, match="of stream.tasks_file cannot be read .it is not there"):
            stream(tree, "stream=custom", f"stream.tasks_file={value}")
    with pytest.raises(UserError, match='there is no dataset "xxx'):
        stream(tree, "stream=custom", f"stream.datasets=[{'x' * 300}]")


def test_a_folder_may_be_called_like_a_dataset(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "plants", tmp_path / "mnist")
    file = tmp_path / "tasks.yaml"
    file.write_text("- folder: mnist\n")
    assert stream(tmp_path, "stream=custom", f"stream.tasks_file={file}").tasks[0].classes == ("moss", "oak tree")
    with pytest.raises(UserError, match="dataset folder means images of your own"):
        stream(tmp_path, "stream=custom", "stream.datasets=[folder]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- dataset: dtd\n- dataset: dtd\n", "task DTD occurs twice in the stream"),
        ("- dataset: dtdd\n", r'no dataset "dtdd" \(did you mean "dtd"'),
        ("- name: dtd\n", "task 1 in .* names no dataset"),
        ("- dataset: dtd\n  epoch: 3\n", r'unknown key "epoch" \(did you mean "epochs"'),
        ("- dataset: dtd\n  epochs: 0\n", "epochs: 0; write a whole number from 1"),
        ("- dataset: dtd\n  epochs: 0x10\n", "epochs: 0x10; write a whole number from 1"),
        ("- dataset: dtd\n  epochs: " + "9" * 5000, "write a whole number from 1"),
        ("- dataset: dtd\n  name: a\n  name: b\n", "a key is there twice below line 1"),
        ("- dataset: [dtd]\n", 'has a list or a mapping as "dataset": write text'),
        ("x: &a [*a]\n", "is not YAML"),
        ("{a: " * 1000, "is not YAML"),
        ("- dataset: dtd\n  template: no slot\n", r'the template "no slot" of task DTD has no \{\}'),
        ("tasks: []\n", "lists no tasks"),
        ("a: [", "is not YAML"),
    ],
)
def test_unusable_files_are_refused(content: str, message: str, tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        stream(tree, "stream=custom", f"stream.tasks_file={file}")


def test_custom_needs_one_of_both(tree: Path) -> None:
    for words in ([], ["stream.datasets=[dtd]", "stream.tasks_file=x.yaml"]):
        with pytest.raises(UserError, match=r"give either stream.datasets=\[NAME,...\] or stream.tasks_file=FILE"):
            stream(tree, "stream=custom", *words)
    with pytest.raises(UserError, match="cannot be read"):
        stream(tree, "stream=custom", "stream.tasks_file=nowhere.yaml")


# ---- published numbers


TABLES = {path.stem: find(path.stem) for path in sorted(PUBLISHED.glob("*.json")) if path.stem in REGISTERED}


def test_every_file_of_published_numbers_is_of_a_stream() -> None:
    assert {path.stem for path in PUBLISHED.glob("*.json")} == {*TABLES, "mtil-zero-shot"}
    assert {"mtil-order1", "mtil-order2", "mtil-fewshot", "xtail", "cifar100-10", "pocket"} <= set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_published_tasks_are_those_of_the_stream(name: str, tree: Path) -> None:
    cls = registry.load("stream", name)
    if issubclass(cls, ClassIncremental):
        whole = load_dataset(cls.dataset).expected.classes
        chunks = np.array_split(np.arange(1, whole + 1), cls.count)
        names = tuple(f"{chunk[0]}-{chunk[-1]}" for chunk in chunks)
    else:
        words = ["stream.shots=1"] if name == "mtil-fewshot" else []
        names = tuple(task.name for task in stream(tree, f"stream={name}", *words).tasks)
    assert names == TABLES[name].tasks


@pytest.mark.parametrize("name", TABLES)
def test_published_rows_hold_together(name: str) -> None:
    """Every stated mean is that of its columns, no row is there twice, and conditions are settings of the stream."""
    table = TABLES[name]
    tests, cls = len(table.tasks), registry.load("stream", name)
    assert table.notes and table.stream == name
    settings = {"label space", *(f"stream.{one.name}" for one in dataclasses.fields(cls.Settings))}
    keys = [(row.method, row.source, str(row.conditions)) for row in table.rows]
    assert len(set(keys)) == len(keys)
    for row in table.rows:
        assert row.source and row.values and set(row.conditions) <= settings, row.method
        assert all(0 < value < 100 for value in row.values.values()), row.method
        for metric, columns in row.columns.items():
            stated = row.value(METRICS[metric])
            wanted = tests - (metric == "transfer")
            assert table.tasks[0] not in columns or metric != "transfer", row.method
            if len(columns) == wanted and stated is not None:
                assert sum(columns.values()) / wanted == pytest.approx(stated, abs=0.11), (row.method, metric)


@pytest.mark.parametrize("name", ["mtil-order1", "mtil-order2"])
def test_published_matrices_are_those_of_their_rows(name: str) -> None:
    """What is stated of a row, for each task and on average, is what its matrix gives, to the published decimal."""
    table = TABLES[name]
    rows = [row for row in table.rows if row.matrix]
    assert [row.method for row in rows] == [
        "continual fine-tuning",
        "LwF",
        "iCaRL",
        "LwF-VR",
        "WiSE-FT",
        "ZSCL*",
        "ZSCL",
    ]
    for row in rows:
        matrix = AccuracyMatrix.from_percent(table.tasks, row.matrix)
        for word, scalar in METRICS.items():
            assert SCALARS[scalar](matrix) == pytest.approx(row.value(scalar), abs=0.06), (row.method, word)
            known = zip(table.tasks, COLUMNS[scalar](matrix), strict=True)
            assert row.columns[word] == pytest.approx({t: v for t, v in known if v is not None}, abs=0.06), row.method


@pytest.mark.parametrize(("name", "order"), [("mtil-order1", ORDER_1), ("mtil-order2", ORDER_2)])
def test_published_matrices_count_images_of_our_test_sets(name: str, order: tuple[str, ...]) -> None:
    """An accuracy times the number of test images is a whole number: theirs are the test sets that we read."""
    datasets = [load_dataset(one) for one in order]
    assert tuple(dataset.short for dataset in datasets) == TABLES[name].tasks
    for row in TABLES[name].rows:
        for stage in row.matrix:
            for dataset, percent in zip(datasets, stage, strict=True):
                right = percent / 100 * dataset.expected.test
                assert abs(right - round(right)) <= 0.0005 / 100 * dataset.expected.test + 1e-6, (
                    row.method,
                    dataset.short,
                )


def test_a_published_row_is_set_apart_as_the_method_here_is() -> None:
    """Rows of methods that this suite has say of them what the methods say, as far as it decides where they stand."""
    seen: set[str] = set()
    for table in TABLES.values():
        for row in table.rows:
            seen |= set(row.registered)
            for name in row.registered[:1]:
                held = registered({"method.name": name})
                assert held is not None, name
                assert row.apart == bool({"extended", "task_at_test"} & set(held)), (table.stream, row.method)
    assert seen <= set(registry.entries("method"))
    assert {"finetune", "zscl-full", "keeplora", "keeplora-plus", "diki", "rail-dual", "moe-adapters"} <= seen


def test_zero_shot_rows_give_the_known_constants() -> None:
    """A constant row: 69.4/65.3/65.3 in order I, 65.4/65.3/65.3 in order II."""
    for name, transfer in (("mtil-order1", 69.4), ("mtil-order2", 65.4)):
        table = find(name)
        row = next(row for row in table.rows if row.method == "zero-shot")
        values = [row.columns["last"][task] for task in table.tasks]
        matrix = AccuracyMatrix.from_percent(list(table.tasks), [values] * len(values))
        found = [SCALARS[METRICS[metric]](matrix) for metric in ("transfer", "average", "last")]
        assert [row.value(scalar) for scalar in METRICS.values()] == [transfer, 65.3, 65.3]
        assert found == pytest.approx([transfer, 65.3, 65.3], abs=0.051)


# ---- whole runs and the doctor, from the command line

MADE = {"mtil-order1": 11, "xtail": 10, "cifar100-10": 10}


@pytest.mark.parametrize("name", ["mtil-order1", pytest.param("xtail", marks=pytest.mark.slow), "cifar100-10"])
def test_runs_on_the_pocket_model(
    name: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    line = ["run", "method=keeplora", f"stream={name}", f"data={tree}", "model=pocket", f"out={tmp_path / 'runs'}"]
    assert cli.main([*line, "train.epochs=3"]) == 0
    said = capsys.readouterr().out
    assert "is not the published one" in said
    (directory,) = (path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    assert len(matrix.tasks) == MADE[name]
    facts = json.loads((directory / "stream.json").read_text())
    assert set(facts) == {"folders", *{"xtail": ["shots"], "cifar100-10": ["class_order"]}.get(name, [])}
    summary = json.loads((directory / "summary.json").read_text())["metrics"]
    if name == "cifar100-10":
        assert matrix.state(1, 1) == "missing" and summary["transfer_by_column"] is None
        assert summary["average_cil_pooled"] is not None
        last = [matrix.cell(10, column) for column in range(10)]
        assert summary["last_pooled"] == 100 * sum(c.correct for c in last) / sum(c.total for c in last)  # type: ignore
    else:
        assert summary["transfer_by_column"] is not None
    assert list((tmp_path / "cache" / "keeplora-bench").glob("*.pixels"))


RIVALS = [
    "codyra",
    "nusa-cl",
    "diki",
    "loda",
    "splitlora",
    "if2net-like",
    "moe-adapters",
    "rail-primal",
    "rail-dual",
    "ranpac",
]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=[pytest.mark.slow] * (rival % len(MADE) != kind))
        for rival, method in enumerate(RIVALS)
        for kind, name in enumerate(MADE)
    ],
)
def test_methods_of_other_papers_learn_two_tasks_of_every_kind_of_stream(
    method: str, name: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = registry.load("stream", name)
    whole = cls.load
    monkeypatch.setattr(cls, "load", lambda self, root, seed: whole(self, root, seed)[:2])
    words = [f"stream={name}", f"data={tree}", "model=pocket", f"out={tmp_path}", "cache.gb=0"]
    assert cli.main(["run", f"method={method}", "train.steps=3", "train.batch_size=8", *words]) == 0
    (directory,) = (path.parent for path in tmp_path.rglob("summary.json"))
    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    assert len(matrix.tasks) == 2 and {matrix.state(2, column) for column in range(2)} == {"measured"}
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "epoch"]
    closed_form = registry.load("method", method).fit is not Method.fit
    assert bool(losses) != closed_form and np.isfinite(losses).all()
    assert json.loads((directory / "summary.json").read_text())["trainable_parameters"] > 0


def test_every_other_dataset_runs_too(tree: Path, tmp_path: Path) -> None:
    words = ["stream.datasets=[cifar10,imagenet-r,cub200,plants]", f"data={tree}", f"out={tmp_path}", "cache.gb=0"]
    assert cli.main(["run", "method=zero-shot", "stream=custom", *words]) == 0


def test_data_says_what_is_ready(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("dtd", "mnist"):
        fake_trees.MAKERS[name](tmp_path)
    (tmp_path / "dtd" / "dtd" / "images" / "banded" / "banded_0001.jpg").unlink()
    assert cli.main(["data", "mtil-order1", f"data={tmp_path}"]) == 1
    said = capsys.readouterr().out
    assert "0 of 11 datasets are ready" in said and "40 / 60000" in said
    for state in ("missing", "incomplete", "differs"):
        assert state in said
    assert "banded_0001.jpg" in said and "2.8 GB" in said and "does not work" in said and "KeepLoRA" not in said


def test_data_is_content_with_the_published_counts(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tree / "plants", tmp_path / "elsewhere")
    for counts, status in ((Counts(12, 6, 3), 0), (Counts(12, 7, 3), 1)):
        monkeypatch.setattr(registry.load("dataset", "dtd"), "expected", counts)
        words = [f"data={tree}", f"stream.datasets=[dtd,plants,{tmp_path / 'elsewhere'}]"]
        assert cli.main(["data", "custom", *words]) == status
        assert f"{3 - status} of 3 datasets are ready" in capsys.readouterr().out
    # All is there, and the tasks cannot be made of it.
    monkeypatch.setattr(registry.load("dataset", "dtd"), "expected", Counts(12, 6, 3))
    assert cli.main(["data", "custom", f"data={tree}", "stream.datasets=[dtd]", "stream.template=none"]) == 1
    assert "not ready: the template" in capsys.readouterr().out
    assert cli.main(["data", "pocket"]) == 0
    assert "needs no data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data"], "say which stream"),
        (["data", "mtil-order1", "data=/nowhere/at/all"], "is no folder"),
        (["data", "mtil-order3", "data=."], 'did you mean "mtil-order'),
        (["data", "xtail", "data=.", "stream.splts=coop"], 'did you mean "stream.splits"'),
        (["run", "method=lora", "stream=mtil-order1"], "stream mtil-order1 needs data=DIR"),
        (["run", "method=lora", "stream=mtil-order1", "data=/nowhere/at/all"], "is no folder"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_an_incomplete_stream_fails_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for make in fake_trees.MTIL.values():
        make(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "SUN397")
    (tmp_path / "data" / "food-101" / "meta" / "test.json").write_text("{")
    words = ["run", "method=lora", "stream=mtil-order1", f"data={tmp_path / 'data'}", f"out={tmp_path / 'runs'}"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "2 of 11 datasets of stream mtil-order1 are not ready" in said and len(said.splitlines()) == 1
    assert "food101 is incomplete" in said and "sun397 is missing" in said and "python -m bench data" in said
    assert not (tmp_path / "runs").exists()


def test_a_truncated_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fake_trees.plants(tmp_path)
    file = tmp_path / "plants" / "test" / "moss" / "1.png"
    file.write_bytes(file.read_bytes()[:200])
    words = ["run", "method=zero-shot", "stream=custom", "stream.datasets=[plants]", f"data={tmp_path}"]
    assert cli.main([*words, f"out={tmp_path / 'runs'}", f"cache.dir={tmp_path / 'cache'}"]) == 2
    assert f"the image {file} cannot be decoded" in capsys.readouterr().err

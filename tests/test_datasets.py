"""Datasets on disk: every reader against torchvision's class on the same files, and what is refused."""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_trees
import numpy as np
import pytest
import torchvision.datasets as tv
from bench.datasets import imagenet_r
from bench.datasets.reading import class_names, random_split, random_split_problem
from PIL import Image

from bench.config import registry
from bench.core.errors import UserError
from bench.data.dataset import Counts, Splits, inspect, load_dataset, names_hash
from bench.data.images import FileImages, Images, Subset, to_rgb


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_trees.everything(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], Path]:
    """A small dataset of a test's own, to be damaged."""

    def make(name: str) -> Path:
        fake_trees.MAKERS[name](tmp_path)
        return tmp_path

    return make


def files(images: Images) -> list[tuple[str, int]]:
    """Path and label of every image, in order."""
    if isinstance(images, Subset):
        base = files(images.images)
        return [base[index] for index in images.indices]
    assert isinstance(images, FileImages)
    return [(str(images.root / name), int(y)) for name, y in zip(images.names, images.labels, strict=True)]


def theirs(images: list[Any], labels: list[int]) -> list[tuple[str, int]]:
    return [(str(image), label) for image, label in zip(images, labels, strict=True)]


def listed(dataset: Any) -> list[tuple[str, int]]:
    return theirs(dataset._image_files, dataset._labels)


def caltech(dataset: Any) -> list[tuple[str, int]]:
    folder = Path(dataset.root) / "101_ObjectCategories"
    names = [dataset.categories[label] for label in dataset.y]
    return theirs([folder / n / f"image_{i:04d}.jpg" for n, i in zip(names, dataset.index, strict=True)], dataset.y)


OFFICIAL: dict[str, tuple[Any, str, str]] = {
    "aircraft": (tv.FGVCAircraft, "train", "test"),
    "dtd": (tv.DTD, "train", "test"),
    "flowers102": (tv.Flowers102, "train", "test"),
    "food101": (tv.Food101, "train", "test"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_listed_datasets_are_torchvisions(name: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tv.Flowers102, "_check_integrity", lambda self: True)  # it knows the official files only
    cls, train, test = OFFICIAL[name]
    splits = load_dataset(name).open(tree)
    assert files(splits.train) == listed(cls(tree, split=train))
    assert files(splits.test) == listed(cls(tree, split=test))
    if name != "flowers102":
        assert list(splits.classes) == [c.replace("_", " ") for c in cls(tree, split=train).classes]
    assert splits.validation is None or files(splits.validation) == listed(cls(tree, split="val"))


def test_oxford_pet_is_torchvisions(tree: Path) -> None:
    splits = load_dataset("oxford-pet").open(tree)
    for images, split in ((splits.train, "trainval"), (splits.test, "test")):
        there = tv.OxfordIIITPet(tree, split=split)
        assert files(images) == theirs(there._images, there._labels)
        assert list(splits.classes) == there.classes == ["Abyssinian", "American Bulldog", "Bengal"]


def test_stanford_cars_is_torchvisions(tree: Path) -> None:
    splits = load_dataset("stanford-cars").open(tree)
    for images, split in ((splits.train, "train"), (splits.test, "test")):
        there = tv.StanfordCars(tree, split=split)
        assert files(images) == [(str(path), int(label)) for path, label in there._samples]
        assert list(splits.classes) == list(there.classes)


RANDOM: dict[str, tuple[Callable[[Path], list[tuple[str, int]]], list[str]]] = {
    "caltech101": (lambda root: caltech(tv.Caltech101(root)), ["off-center face", "ant", "yin and yang symbol"]),
    "eurosat": (
        lambda root: [tuple(s) for s in tv.EuroSAT(root).samples],
        ["annual crop land", "forest", "lake or sea"],
    ),
    "sun397": (lambda root: sorted(listed(tv.SUN397(root))), ["abbey", "apartment building/outdoor", "zoo"]),
}


@pytest.mark.parametrize("name", RANDOM)
def test_randomly_split_datasets_split_torchvisions_list(name: str, tree: Path) -> None:
    import torch

    list_of, classes = RANDOM[name]
    images = list_of(tree)
    counts = [int(0.8 * len(images)), len(images) - int(0.8 * len(images))]
    train, test = torch.utils.data.random_split(images, counts, torch.Generator().manual_seed(42))
    splits = load_dataset(name).open(tree)
    assert files(splits.train) == list(train) and files(splits.test) == list(test)
    assert list(splits.classes) == classes


@pytest.mark.parametrize(
    ("count", "train", "test"),
    [
        (8677, [8512, 5748, 7753], [6301, 3455]),
        (27000, [4542, 1781, 1366], [5805, 24544]),
        (108754, [57128, 82947, 84286], [8201, 36443]),
    ],
)
def test_the_random_split_has_the_known_fingerprint(count: int, train: list[int], test: list[int]) -> None:
    first, second = random_split(count)
    assert first[:3].tolist() == train and second[:2].tolist() == test
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(count))


@pytest.mark.parametrize(("name", "cls"), [("cifar10", tv.CIFAR10), ("cifar100", tv.CIFAR100)])
def test_cifar_is_torchvisions(name: str, cls: Any, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cls, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    splits = load_dataset(name).open(tree)
    for images, train in ((splits.train, True), (splits.test, False)):
        there = cls(tree, train=train)
        assert images.labels.tolist() == there.targets
        assert all(np.array_equal(np.asarray(images.image(i)), there.data[i]) for i in range(len(images)))
    assert splits.classes[3] == "thing 03"


def test_mnist_is_torchvisions(tree: Path) -> None:
    splits = load_dataset("mnist").open(tree)
    for images, train in ((splits.train, True), (splits.test, False)):
        there = tv.MNIST(tree, train=train)
        assert images.labels.tolist() == there.targets.tolist()
        assert all(np.array_equal(np.asarray(images.image(i)), there.data[i].numpy()) for i in range(len(images)))
        assert list(splits.classes) == there.classes


def test_imagenet_r_follows_the_lists(tree: Path) -> None:
    splits = load_dataset("imagenet-r").open(tree)
    assert splits.classes[:3] == ("goldfish", "great white shark", "hammerhead shark")
    assert isinstance(splits.test, FileImages)
    assert {name.rpartition("/")[2] for name in splits.test.names} == {"art_4.jpg", "art_5.jpg"}
    assert "another choice of train images" in load_dataset("imagenet-r").manifest_problem(splits)


def test_imagenet_r_in_two_folders(own: Callable[[str], Path]) -> None:
    root = own("imagenet-r")
    listed_ = load_dataset("imagenet-r").open(root)
    base = root / "imagenet-r"
    for split, images in (("train", listed_.train), ("test", listed_.test)):
        assert isinstance(images, FileImages)
        for name in images.names:
            (base / split / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).rename(base / split / name)
    moved = load_dataset("imagenet-r").open(root)
    assert moved.classes == listed_.classes
    assert [f[0].rpartition("/")[2] for f in files(moved.test)] == [
        f[0].rpartition("/")[2] for f in files(listed_.test)
    ]


def test_the_manifest_of_imagenet_r_is_of_sorted_paths(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    splits = load_dataset("imagenet-r").open(tree)
    assert isinstance(splits.train, FileImages) and isinstance(splits.test, FileImages)
    known = {"train": imagenet_r.paths_md5(splits.train.names[::-1]), "test": imagenet_r.paths_md5(splits.test.names)}
    monkeypatch.setattr(imagenet_r, "LISTS", known)
    assert load_dataset("imagenet-r").manifest_problem(splits) == ""
    assert imagenet_r.paths_md5(["b/1", "a/2"]) == hashlib.md5(b"a/2\nb/1").hexdigest()


def test_cub_has_its_official_split(tree: Path) -> None:
    splits = load_dataset("cub200").open(tree)
    assert splits.classes[0] == "Bird number 0" and len(splits.classes) == 10
    assert len(splits.train) == 40 and {name[-7:] for name, _ in files(splits.test)} == {"b_4.jpg", "b_5.jpg"}


def test_a_folder_of_ones_own(tree: Path, tmp_path: Path) -> None:
    splits = load_dataset("plants", tree).open(tree)
    assert splits.classes == ("moss", "oak tree") and (len(splits.train), len(splits.test)) == (8, 4)
    shutil.copytree(tree / "plants", tmp_path / "plants")
    (tmp_path / "plants" / "classes.txt").write_text("a moss\nan oak\n")
    shutil.copytree(tmp_path / "plants" / "test", tmp_path / "plants" / "val")
    named = load_dataset("plants", tmp_path).open(tmp_path)
    assert named.classes == ("a moss", "an oak") and named.validation is not None and len(named.validation) == 4


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("aircraft", "fgvc-aircraft-2013b/data", "fgvc_aircraft"),
        ("caltech101", "caltech101", "caltech-101"),
        ("dtd", "dtd/dtd", "x"),
        ("flowers102", "flowers-102", "oxford_flowers"),
        ("oxford-pet", "oxford-iiit-pet", "oxford_pets"),
        ("sun397", "SUN397", "sun397/SUN397"),
    ],
)
def test_folder_names_of_coop(name: str, before: str, after: str, own: Callable[[str], Path]) -> None:
    root = own(name)
    expected = load_dataset(name).open(root)
    (root / after).parent.mkdir(exist_ok=True)
    (root / before).rename(root / after)
    if after == "x":  # dtd/dtd becomes dtd
        shutil.rmtree(root / "dtd")
        (root / "x").rename(root / "dtd")
    found = load_dataset(name).open(root)
    assert found.classes == expected.classes and found.train.labels.tolist() == expected.train.labels.tolist()


def test_another_random_split_is_reported(tmp_path: Path) -> None:
    """Where all images of a dataset are there, the split must begin as the published one does."""
    (tmp_path / "a.png").touch()
    images = FileImages(tmp_path, ["a.png"] * 27000, [0] * 27000)
    train, test = random_split(27000)
    for order, problem in ((train, ""), (train[::-1], "another random split than the published one")):
        splits = Splits(("forest",), Subset(images, order), Subset(images, test))
        assert random_split_problem(splits, (4542, 1781, 1366), (5805, 24544)) == problem


def test_unreadable_folders_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trees.plants(tmp_path)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    status, _ = inspect(load_dataset("plants", tmp_path), tmp_path)
    assert status.state == "incomplete" and "plants cannot be read (Permission denied)" in status.problem


def test_published_class_names_have_their_hash() -> None:
    for name, names in (
        ("caltech101", class_names("caltech101").values()),
        ("eurosat", class_names("eurosat").values()),
        ("flowers102", class_names("flowers102")),
    ):
        assert load_dataset(name).names_sha256 == names_hash(list(names))
        expected = load_dataset(name).expected
        assert expected is not None and expected.classes == len(names)


def test_every_dataset_is_tested_and_described() -> None:
    assert set(registry.entries("dataset")) == {*fake_trees.MAKERS, "folder", "pocket-reference"}
    for name in fake_trees.MAKERS:
        dataset = load_dataset(name)
        assert dataset.folders and dataset.expected and dataset.size and dataset.licence and dataset.obtain, name
        assert dataset.template.count("{}") == 1


def test_states(own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = own("eurosat")
    dataset = load_dataset("eurosat")
    status, splits = inspect(dataset, root)
    assert status.state == "differs" and splits is not None and "21 of 21600 training images" in status.problem
    assert "no class folder HerbaceousVegetation, Highway, Industrial and 4 more" in status.problem
    monkeypatch.setattr(dataset, "expected", Counts(21, 6, 3))
    assert "other class names than the published ones" in inspect(dataset, root)[0].problem
    monkeypatch.setattr("bench.datasets.mtil_sets.lacking", lambda *_: "")
    monkeypatch.setattr(type(dataset), "names_sha256", names_hash(splits.classes))
    assert inspect(dataset, root)[0].state == "present"
    shutil.rmtree(root / "eurosat" / "2750" / "Forest")
    (root / "eurosat" / "2750" / "Forest").mkdir()
    status, splits = inspect(dataset, root)
    assert status.state == "incomplete" and splits is None and "Forest holds no images" in status.problem
    shutil.rmtree(root / "eurosat")
    assert inspect(dataset, root)[0].state == "missing"


def gone(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def written(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes(content)  # type: ignore[return-value]


def matlab(name: str, **variables: Any) -> Callable[[Path], None]:
    return lambda root: fake_trees.savemat(root / "flowers-102" / name, variables)  # type: ignore[return-value]


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


BASE = "fgvc-aircraft-2013b/data"
DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("aircraft", gone(f"{BASE}/variants.txt"), r"the file .*variants\.txt is missing"),
    ("aircraft", gone(f"{BASE}/images/0000003.jpg"), r"the image .*0000003\.jpg cannot be read"),
    ("aircraft", written(f"{BASE}/images_variant_test.txt", b"0000001 DC-11\n"), r"test\.txt names the class 'DC-11'"),
    ("aircraft", written(f"{BASE}/variants.txt", b"\xff\xfe\x00"), r"variants\.txt cannot be read"),
    ("caltech101", lambda root: (root / "caltech101/101_ObjectCategories/tank").mkdir(), r"tank is none of Caltech101"),
    ("dtd", gone("dtd/dtd/labels/val1.txt"), r"val1\.txt is missing"),
    ("dtd", written("dtd/dtd/labels/test1.txt", b"striped/striped_1.jpg"), r"test1\.txt names the class 'striped'"),
    ("eurosat", lambda root: (root / "eurosat/2750/Sea").mkdir(), r"Sea is none of EuroSAT"),
    ("flowers102", written("flowers-102/setid.mat", b"no matlab"), r"setid\.mat cannot be read"),
    ("flowers102", gone("flowers-102/imagelabels.mat"), r"imagelabels\.mat is missing"),
    (
        "flowers102",
        matlab("setid.mat", trnid=[1.0], tstid=[2]),
        "as",
    ),
    ("flowers102", matlab("imagelabels.mat", labels=[]), "does not have the form of this dataset"),
    (
        "flowers102",
        lambda root: fake_trees.savemat(root / "flowers-102/imagelabels.mat", {"labels": [1, 2]}),
        "has 2 l",
    ),
    ("food101", written("food-101/meta/test.json", b'{"waffles": ["waffles/1"'), r"test\.json cannot be read"),
    ("food101", written("food-101/meta/test.json", b'{"soup": ["soup/1"]}'), r"test\.json names the class 'soup'"),
    ("food101", written("food-101/meta/train.json", b"[]"), r"train\.json does not have the form of this dataset"),
    ("mnist", gone("MNIST/raw/t10k-labels-idx1-ubyte"), r"t10k-labels-idx1-ubyte is missing"),
    ("mnist", written("MNIST/raw/train-images-idx3-ubyte", b"\0\0\x08\x03\0\0"), r"train-images-idx3-ubyte is damaged"),
    (
        "oxford-pet",
        written("oxford-iiit-pet/annotations/test.txt", b"Bengal_1 1 1 1"),
        "gives label 1 to Bengal and to",
    ),
    (
        "oxford-pet",
        written("oxford-iiit-pet/annotations/test.txt", b"Bengal_1"),
        "does not have the form of this dataset",
    ),
    ("stanford-cars", gone("stanford_cars/cars_test_annos_withlabels.mat"), r"withlabels\.mat is missing"),
    ("sun397", written("SUN397/ClassName.txt", b"/a/abbey\n"), r"ClassName\.txt names the class 'apartment_building"),
    ("sun397", lambda root: fake_trees.save(root / "SUN397" / "sun_x.jpg", 0, 0), "names the class ''"),
    (
        "cifar100",
        written("cifar-100-python/test", pickle.dumps({"data": [[0] * 3072], "fine_labels": 5})),
        "the form of this",
    ),
    ("imagenet-r", written("imagenet-r/imagenet-r_test.yaml", b"data: 5"), "it needs the key data"),
    ("cifar100", written("cifar-100-python/test", b"junk"), r"cifar-100-python/test is damaged"),
    ("cifar100", written("cifar-100-python/test", pickle.dumps(Evil())), r"it wants to use builtins\.print"),
    ("cifar100", written("cifar-100-python/meta", pickle.dumps({})), "does not have the form of this dataset"),
    ("imagenet-r", gone("imagenet-r/imagenet-r_test.yaml"), "neither train/ and test/ nor the split list"),
    ("imagenet-r", written("imagenet-r/imagenet-r_test.yaml", b"targets: [1]"), "it needs the key data"),
    ("imagenet-r", written("imagenet-r/imagenet-r_test.yaml", b"data: [x/n02/a.jpg]"), "a class without training"),
    (
        "cub200",
        written("CUB_200_2011/train_test_split.txt", b"1 1\n"),
        "train_test_split.txt and images.txt name other",
    ),
    ("cub200", written("CUB_200_2011/image_class_labels.txt", b"1 x y\n"), "does not have the form of this dataset"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_damaged_datasets_are_incomplete_and_say_why(
    name: str, damage: Callable[[Path], None], message: str, own: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    root = own(name)
    damage(root)
    status, _ = inspect(load_dataset(name), root)
    assert status.state == "incomplete"
    with pytest.raises(UserError, match=message):
        load_dataset(name).open(root)
    assert "executed" not in capsys.readouterr().out


def test_a_packed_mnist_says_what_to_do(own: Callable[[str], Path]) -> None:
    root = own("mnist")
    fake_trees.gzipped(root / "MNIST" / "raw" / "train-images-idx3-ubyte")
    with pytest.raises(UserError, match="gunzip"):
        load_dataset("mnist").open(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda base: shutil.rmtree(base / "test"),
            "plants has no test/: put class folders there, or hold out a share",
        ),
        (lambda base: shutil.rmtree(base / "test" / "moss"), "the class folder moss is not in both"),
        (lambda base: (base / "classes.txt").write_text("moss\n"), "names 1 classes and .* has 2"),
        (lambda base: (base / "classes.txt").write_text(""), "names 0 classes"),
        (lambda base: [p.unlink() for p in (base / "train" / "moss").iterdir()], "moss holds no images"),
    ],
)
def test_unusable_folders_are_refused(change: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    change(tmp_path / "plants")
    with pytest.raises(UserError, match=message):
        load_dataset("plants", tmp_path).open(tmp_path)


def test_unknown_datasets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no dataset "eurosatt" \(did you mean "eurosat"\?\), nor a folder'):
        load_dataset("eurosatt", tmp_path)
    with pytest.raises(UserError, match="there is no dataset dtd in .*looked for dtd/dtd, dtd"):
        load_dataset("dtd").open(tmp_path)


GREY = np.linspace(0, 255, 36, dtype=np.uint8).reshape(6, 6)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY).convert("RGBA"),
        Image.fromarray(GREY).convert("CMYK"),
        Image.fromarray(GREY.astype(np.uint16) * 256 + 7),
        Image.fromarray(GREY.astype(np.int32) * 256 + 7),
        Image.fromarray(GREY.astype(np.float32)),
        Image.fromarray(GREY.astype(np.float32) / 255),
    ],
    ids=lambda image: image.mode,
)
def test_unusual_images_become_rgb(image: Image.Image) -> None:
    levels = np.asarray(to_rgb(image).convert("RGB")).astype(int)
    assert np.abs(levels - GREY[..., None]).max() <= 1


def test_transparent_palettes_become_rgb() -> None:
    image = Image.fromarray(GREY).convert("P")
    image.info["transparency"] = b"\0" * 256
    assert to_rgb(image).mode == "RGB"


def test_rgb_and_grey_are_left_to_open_clips_transform() -> None:
    for mode in ("RGB", "L"):
        image = Image.new(mode, (4, 4))
        assert to_rgb(image) is image

"""Small datasets in the true layouts, with real encoded files, for tests of loaders, the doctor and whole runs."""

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 4, 2
"""Images a class, where a dataset has official splits."""

ALL = 9
"""Images a class, where the split is random."""

CLASSES = 3


def picture(label: int, number: int, size: tuple[int, int] = (44, 40)) -> np.ndarray:
    """uint8 [height, width, 3]: noise around the colour of a class."""
    rng = np.random.default_rng((label, number))
    colour = np.random.default_rng(label).integers(40, 215, 3)
    return np.clip(colour + rng.normal(0, 30, (size[1], size[0], 3)), 0, 255).astype(np.uint8)


def save(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(label, number)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def aircraft(root: Path) -> None:
    base, names = root / "fgvc-aircraft-2013b" / "data", ["707-320", "A300B4", "DC-10"]
    text(base / "variants.txt", *names)
    number = 0
    for split, count in (("train", TRAIN), ("test", TEST), ("val", 1)):
        lines = []
        for label, name in enumerate(names):
            for _ in range(count):
                number += 1
                save(base / "images" / f"{number:07d}.jpg", label, number)
                lines.append(f"{number:07d} {name}")
        text(base / f"images_variant_{split}.txt", *lines)


def caltech101(root: Path) -> None:
    base = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(["BACKGROUND_Google", "Faces", "ant", "yin_yang"]):
        for number in range(1, ALL + 1):
            save(base / name / f"image_{number:04d}.jpg", label, number)


def cifar(root: Path, folder: str, files: dict[str, int], meta: str, meta_key: str, key: str, classes: int) -> None:
    base = root / folder
    base.mkdir(parents=True)
    for name, count in files.items():
        pixels = [picture(c, 100 * len(name) + n, (32, 32)) for n in range(count) for c in range(classes)]
        data = np.stack(pixels).transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        labels = [c for _ in range(count) for c in range(classes)]
        (base / name).write_bytes(pickle.dumps({"data": data, key: labels, "batch_label": "x"}, protocol=2))
    (base / meta).write_bytes(pickle.dumps({meta_key: [f"thing_{c:02d}" for c in range(classes)]}, protocol=2))


def cifar100(root: Path) -> None:
    cifar(root, "cifar-100-python", {"train": TRAIN, "test": TEST}, "meta", "fine_label_names", "fine_labels", 20)


def cifar10(root: Path) -> None:
    files = {**{f"data_batch_{number}": 1 for number in range(1, 6)}, "test_batch": TEST}
    cifar(root, "cifar-10-batches-py", files, "batches.meta", "label_names", "labels", 10)


def dtd(root: Path) -> None:
    base, number = root / "dtd" / "dtd", 0
    for split, count in (("train", TRAIN), ("test", TEST), ("val", 1)):
        lines = []
        for label, name in enumerate(["banded", "dotted", "zigzagged"]):
            for _ in range(count):
                number += 1
                lines.append(f"{name}/{name}_{number:04d}.jpg")
                save(base / "images" / lines[-1], label, number)
        text(base / "labels" / f"{split}1.txt", *lines)


def eurosat(root: Path) -> None:
    for label, name in enumerate(["AnnualCrop", "Forest", "SeaLake"]):
        for number in range(1, ALL + 1):
            save(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", label, number)


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    per_class = TRAIN + TEST + 1
    labels = [label for _ in range(per_class) for label in range(1, CLASSES + 1)]
    for number, label in enumerate(labels, start=1):
        save(base / "jpg" / f"image_{number:05d}.jpg", label, number)
    ids = np.arange(1, len(labels) + 1)
    cut = TRAIN * CLASSES, (TRAIN + TEST) * CLASSES
    savemat(base / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(
        base / "setid.mat",
        {"trnid": ids[None, : cut[0]], "tstid": ids[None, cut[0] : cut[1]], "valid": ids[None, cut[1] :]},
    )


def food101(root: Path) -> None:
    base, number = root / "food-101", 0
    for split, count in (("train", TRAIN), ("test", TEST)):
        found: dict[str, list[str]] = {}
        for label, name in enumerate(["waffles", "apple_pie", "baby_back_ribs"]):
            for _ in range(count):
                number += 1
                found.setdefault(name, []).append(f"{name}/{number}")
                save(base / "images" / name / f"{number}.jpg", label, number)
        text(base / "meta" / f"{split}.json", json.dumps(found))


def mnist(root: Path) -> None:
    base = root / "MNIST" / "raw"
    base.mkdir(parents=True)
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        labels = np.array([label for _ in range(count) for label in range(10)], np.uint8)
        pixels = np.stack([picture(int(label), n, (28, 28))[..., 0] for n, label in enumerate(labels)])
        for name, array in ((f"{split}-images-idx3-ubyte", pixels), (f"{split}-labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
            (base / name).write_bytes(head + array.tobytes())


def oxford_pet(root: Path) -> None:
    base, number = root / "oxford-iiit-pet", 0
    for split, count in (("trainval", TRAIN), ("test", TEST)):
        lines = []
        for label, name in enumerate(["Abyssinian", "american_bulldog", "Bengal"]):
            for _ in range(count):
                number += 1
                save(base / "images" / f"{name}_{number}.jpg", label, number)
                lines.append(f"{name}_{number} {label + 1} {2 - label % 2} 1")
        text(base / "annotations" / f"{split}.txt", *lines)


def stanford_cars(root: Path) -> None:
    base = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)[None]})
    for folder, path, count in (
        ("cars_train", base / "devkit" / "cars_train_annos.mat", TRAIN),
        ("cars_test", base / "cars_test_annos_withlabels.mat", TEST),
    ):
        rows = []
        for number in range(CLASSES * count):
            save(base / folder / f"{number + 1:05d}.jpg", number % CLASSES, number)
            rows.append((1, 1, 40, 40, number % CLASSES + 1, f"{number + 1:05d}.jpg"))
        fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
        savemat(path, {"annotations": np.array([rows], dtype=[(field, object) for field in fields])})


def sun397(root: Path) -> None:
    names = ["/a/abbey", "/a/apartment_building/outdoor", "/z/zoo"]
    text(root / "SUN397" / "ClassName.txt", *names)
    for label, name in enumerate(names):
        for number in range(ALL):
            save(root / "SUN397" / name[1:] / f"sun_{label}{number:05d}.jpg", label, number)


def imagenet_r(root: Path) -> None:
    base = root / "imagenet-r"
    wnids = ("n01443537", "n01484850", "n01494475", "n01498041", "n01514859")
    wnids += ("n01518878", "n01531178", "n01534433", "n01614925", "n01616318")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(wnids):
        for number in range(TRAIN + TEST):
            save(base / name / f"art_{number}.jpg", label, number)
            lists["train" if number < TRAIN else "test"].append(f"data/imagenet-r/{name}/art_{number}.jpg")
    for split, names in lists.items():
        text(base / f"imagenet-r_{split}.yaml", "data:", *(f"- {name}" for name in names), "targets: []")


def cub200(root: Path) -> None:
    base = root / "CUB_200_2011"
    classes = [f"{label + 1:03d}.Bird_number_{label}" for label in range(10)]
    rows = [(label, n) for label in range(10) for n in range(TRAIN + TEST)]
    text(base / "classes.txt", *(f"{label + 1} {name}" for label, name in enumerate(classes)))
    text(base / "images.txt", *(f"{i} {classes[label]}/b_{n}.jpg" for i, (label, n) in enumerate(rows, 1)))
    text(base / "image_class_labels.txt", *(f"{i} {label + 1}" for i, (label, _) in enumerate(rows, 1)))
    text(base / "train_test_split.txt", *(f"{i} {int(n < TRAIN)}" for i, (_, n) in enumerate(rows, 1)))
    for label, n in rows:
        save(base / "images" / classes[label] / f"b_{n}.jpg", label, n)


def plants(root: Path) -> None:
    """Somebody's own folder."""
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(["moss", "oak_tree"]):
            for number in range(count):
                save(root / "plants" / split / name / f"{number}.png", label, 10 * len(split) + number)


def shells(root: Path) -> None:
    """Somebody's class folders, without a test part."""
    for label, name in enumerate(["cone", "sea_snail"]):
        for number in range(ALL):
            save(root / "shells" / name / f"{number}.png", label, 100 + number)


def leaves(root: Path) -> None:
    """Somebody's table of paths and labels, beside a folder of images."""
    lines = ["path,label,split"]
    for split, count in (("train", TRAIN), ("test", TEST), ("val", 1)):
        for label, name in enumerate(["ash", "red_oak"]):
            for number in range(count):
                lines.append(f"images/{split}_{label}_{number}.png,{name},{split}")
                save(root / "leaves" / f"images/{split}_{label}_{number}.png", label, 200 + 10 * len(split) + number)
    text(root / "leaves" / "leaves.csv", *lines)


def fungi(root: Path) -> None:
    """Somebody's folder in the form of Hugging Face's imagefolder, with labels in lists."""
    for split, count in (("train", TRAIN), ("test", TEST), ("validation", 1)):
        rows = []
        for label, name in enumerate(["chanterelle", "fly_agaric"]):
            for number in range(count):
                rows.append({"file_name": f"{label}{number}.png", "label": name, "text": "seen in a wood"})
                save(root / "fungi" / split / f"{label}{number}.png", label, 300 + 10 * len(split) + number)
        text(root / "fungi" / split / "metadata.jsonl", *map(json.dumps, rows))


def birds(root: Path) -> None:
    """Somebody's images in a form of their own: the name of a file says its class, a list says which ones test."""
    for label, name in enumerate(["robin", "wren"]):
        for number in range(TRAIN + TEST):
            save(root / "birds" / f"{name}_{number}.png", label, 400 + number)
    text(root / "birds" / "test.txt", *(f"{name}_{number}.png" for name in ("robin", "wren") for number in range(TEST)))


OWN = {"plants": plants, "shells": shells, "leaves": leaves, "fungi": fungi, "birds": birds}
"""What makes somebody's own images, by the folder that they are in."""


def coop_splits(root: Path) -> None:
    """CoOp's split files for the datasets of X-TAIL, over the images that lie there."""
    places = {
        "Caltech101": ("caltech101", "101_ObjectCategories", "caltech-101"),
        "EuroSAT": ("eurosat", "2750", "eurosat"),
        "DescribableTextures": ("dtd/dtd", "images", "dtd"),
        "Food101": ("food-101", "images", "food-101"),
    }
    for name, (folder, images, target) in places.items():
        base = root / folder / images
        classes = sorted(entry.name for entry in base.iterdir() if entry.name != "BACKGROUND_Google")
        files = {c: sorted(path.name for path in (base / c).iterdir()) for c in classes}
        _coop(root / target, name, [(f"{c}/{f}", label, c) for label, c in enumerate(classes) for f in files[c]])
    flowers = [(f"image_{n:05d}.jpg", (n - 1) % CLASSES, f"flower_{(n - 1) % CLASSES}") for n in range(1, 22)]
    _coop(root / "oxford_flowers", "OxfordFlowers", flowers)
    names = ["abyssinian", "american_bulldog", "bengal"]
    images = sorted((root / "oxford-iiit-pet" / "images").iterdir())
    breeds = [path.name.rpartition("_")[0].lower() for path in images]
    _coop(
        root / "oxford_pets", "OxfordPets", [(p.name, names.index(b), b) for p, b in zip(images, breeds, strict=True)]
    )
    cars = sorted((root / "stanford_cars" / "cars_train").iterdir())
    rows = [(f"cars_train/{path.name}", n % CLASSES, f"200{n % CLASSES} car") for n, path in enumerate(cars)]
    _coop(root / "stanford_cars", "StanfordCars", rows)
    scenes = sorted(path.relative_to(root / "SUN397").as_posix() for path in (root / "SUN397").rglob("*.jpg"))
    owners = sorted({name.rpartition("/")[0] for name in scenes})
    rows = []
    for name in scenes:
        owner = name.rpartition("/")[0]
        rows.append((name, owners.index(owner), owner[2:]))
    _coop(root / "sun397", "SUN397", rows)


def _coop(folder: Path, name: str, rows: list[tuple[str, int, str]]) -> None:
    """A split that gives every class images in every part."""
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    seen: dict[int, int] = {}
    for row in rows:
        number = seen.setdefault(row[1], 0)
        parts[("train", "test", "val")[min(number, 2) if number < 3 else 0]].append(row)
        seen[row[1]] = number + 1
    text(folder / f"split_zhou_{name}.json", json.dumps(parts))


MTIL: dict[str, Callable[[Path], None]] = {
    "aircraft": aircraft,
    "caltech101": caltech101,
    "cifar100": cifar100,
    "dtd": dtd,
    "eurosat": eurosat,
    "flowers102": flowers102,
    "food101": food101,
    "mnist": mnist,
    "oxford-pet": oxford_pet,
    "stanford-cars": stanford_cars,
    "sun397": sun397,
}
MAKERS = {**MTIL, "cifar10": cifar10, "imagenet-r": imagenet_r, "cub200": cub200}
"""Every registered dataset with a layout of its own -> what makes a small one below a folder."""


def everything(root: Path) -> Path:
    """All of them, CoOp's split files and somebody's own folder included."""
    for make in MAKERS.values():
        make(root)
    plants(root)
    coop_splits(root)
    return root


def gzipped(path: Path) -> None:
    """Pack a file as its download has it."""
    with path.open("rb") as source, gzip.open(f"{path}.gz", "wb") as target:
        shutil.copyfileobj(source, target)
    path.unlink()


if __name__ == "__main__":  # python tests/fake_trees.py FOLDER
    import sys

    everything(Path(sys.argv[1]))

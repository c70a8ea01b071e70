"""Folders as they are on real disks: files of other programs, links, encodings, layouts, archives, large images."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import fake_trees
import pytest
from PIL import Image

from bench.cli import main as cli
from bench.core.errors import UserError
from bench.data import on_disk
from bench.data.dataset import Splits, inspect, load_dataset
from bench.data.images import FileImages

APPLE_DOUBLE = bytes.fromhex("00051607000200004d6163204f5320582020202020202020")
"""The start of what macOS writes beside a file on a disk of another system."""

MAKERS: dict[str, Callable[[Path], None]] = {**fake_trees.MAKERS, "plants": fake_trees.plants}


def opened(name: str, root: Path) -> Splits:
    return load_dataset(name, root).open(root)


def identity(splits: Splits) -> tuple[object, ...]:
    return splits.classes, splits.train.digest, splits.test.digest


@pytest.mark.parametrize("junk", ["._x.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("caltech101", "caltech101/101_ObjectCategories/ant"),
        ("eurosat", "eurosat/2750/Forest"),
        ("plants", "plants/test/moss"),
        ("sun397", "SUN397/z/zoo"),
    ],
)
def test_files_of_other_programs_are_no_images(name: str, folder: str, junk: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    before = identity(opened(name, tmp_path))
    (tmp_path / folder / junk).write_bytes(APPLE_DOUBLE)
    (tmp_path / folder / "._sun_1.jpg").write_bytes(APPLE_DOUBLE)
    after = opened(name, tmp_path)
    assert identity(after) == before and after.note == ""


@pytest.mark.parametrize("junk", [".ipynb_checkpoints", ".Trash", "__MACOSX", "@eaDir"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("caltech101", "caltech101/101_ObjectCategories"),
        ("eurosat", "eurosat/2750"),
        ("plants", "plants/train"),
        ("plants", "plants/train/moss"),
        ("sun397", "SUN397"),
    ],
)
def test_folders_of_other_programs_are_no_classes(name: str, folder: str, junk: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    before = identity(opened(name, tmp_path))
    fake_trees.save(tmp_path / folder / junk / "sun_200000.jpg", 0, 0)
    assert identity(opened(name, tmp_path)) == before


def test_hidden_files_alone_are_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    (tmp_path / "eurosat" / "2750" / ".DS_Store").touch()
    assert inspect(load_dataset("eurosat"), tmp_path)[0].state == "missing"


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    moss, disk = tmp_path / "plants" / "train" / "moss", tmp_path / "disk" / "part"
    disk.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        (moss / name).rename(disk / name)
    (moss / "part").symlink_to(disk)
    (moss / "loop").symlink_to(moss)
    (moss / "up").symlink_to(tmp_path / "plants" / "train")
    (disk / "back").symlink_to(moss)
    splits = opened("plants", tmp_path)
    assert len(splits.train) == 8 and splits.train.labels.tolist() == [0] * 4 + [1] * 4
    (tmp_path / "plants" / "train" / "fern").symlink_to(disk)
    (tmp_path / "plants" / "test" / "fern").symlink_to(disk)
    assert opened("plants", tmp_path).classes == ("fern", "moss", "oak tree")


def test_images_have_the_order_of_image_folder(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    fake_trees.plants(tmp_path)
    train = tmp_path / "plants" / "train"
    for name in ("a/0.png", "a-b/0.png", "a/b/0.PNG", "Z.png"):
        fake_trees.save(train / "moss" / name, 0, 0)
    splits = opened("plants", tmp_path)
    there = [os.path.relpath(path, train) for path, _ in ImageFolder(train).samples]
    assert sorted(splits.train.names) == sorted(there)  # type: ignore[attr-defined]
    names = splits.train.names  # type: ignore[attr-defined]
    assert names == [
        str(p.relative_to(train)) for p in sorted(map(train.joinpath, names), key=lambda p: (p.parent, p.name))
    ]


def test_endings_that_are_skipped_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fake_trees.plants(tmp_path)
    moss = tmp_path / "plants" / "train" / "moss"
    for name in ("a.gif", "b.GIF", "c.heic", "README"):
        (moss / name).touch()
    note = "files skipped, since their endings are not those of images: 2 .gif, 1 .heic, 1 without an ending"
    assert opened("plants", tmp_path).note == note
    assert cli.main(["data", "custom", "stream.datasets=[plants]", f"data={tmp_path}"]) == 0
    assert note in " ".join(capsys.readouterr().out.split())
    for path in moss.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"moss holds no images \(files skipped, .*2 \.gif"):
        opened("plants", tmp_path)


# ---- text


def test_a_byte_order_mark_is_no_part_of_a_class(tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    (tmp_path / "plants" / "classes.txt").write_bytes(b"\xef\xbb\xbfgreen moss\r\nold oak\r\n")
    assert opened("plants", tmp_path).classes == ("green moss", "old oak")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("aircraft", "fgvc-aircraft-2013b/data/variants.txt"),
        ("food101", "food-101/meta/train.json"),
        ("imagenet-r", "imagenet-r/imagenet-r_train.yaml"),
        ("cub200", "CUB_200_2011/images.txt"),
    ],
)
def test_every_text_file_may_begin_with_the_mark(name: str, file: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    before = identity(opened(name, tmp_path))
    (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + (tmp_path / file).read_bytes())
    assert identity(opened(name, tmp_path)) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("moss\nchêne\n".encode("latin-1"), "byte 0xea in line 2 is not UTF-8"),
        ("moss\noak\n".encode("utf-16"), "its encoding is UTF-16"),
    ],
)
def test_another_encoding_is_named_with_the_remedy(content: bytes, problem: str, tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    (tmp_path / "plants" / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"classes\.txt cannot be read \({problem}.*\): save it as UTF-8"):
        opened("plants", tmp_path)


def test_folder_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    base = tmp_path / "plants"
    forms = {"train": "NFC", "test": "NFD"}
    for split, form in forms.items():
        (base / split / "moss").rename(base / split / unicodedata.normalize(form, "chêne"))  # type: ignore[arg-type]
    splits = opened("plants", tmp_path)
    assert splits.classes == (unicodedata.normalize("NFC", "chêne"), "oak tree")
    assert len(splits.test) == 4 and splits.test.labels.tolist() == [0, 0, 1, 1]
    for split in forms:
        fake_trees.save(base / split / unicodedata.normalize("NFC", "chêne") / "0.png", 0, 0)
        fake_trees.save(base / split / unicodedata.normalize("NFD", "chêne") / "0.png", 0, 0)
    with pytest.raises(UserError, match="two class folders .* equal but for their Unicode form"):
        opened("plants", tmp_path)
    base.rename(tmp_path / unicodedata.normalize("NFD", "forêt"))
    assert load_dataset(unicodedata.normalize("NFC", "forêt"), tmp_path).locate(tmp_path) is not None


# ---- layouts, archives, advice


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("eurosat", "eurosat/2750", "eurosat/EuroSAT_RGB"),
        ("eurosat", "eurosat/2750", "EuroSAT_RGB"),
        ("food101", "food-101", "food-101/food-101"),
        ("aircraft", "fgvc-aircraft-2013b", "fgvc-aircraft-2013b/fgvc-aircraft-2013b"),
        ("dtd", "dtd", "dtd/dtd"),
        ("stanford-cars", "stanford_cars", "stanford_cars/stanford_cars"),
        ("plants", "plants", "plants/plants"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-images.idx3-ubyte"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte/t10k-labels-idx1-ubyte"),
    ],
)
def test_layouts_of_archives_are_the_same_data(name: str, before: str, after: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    expected = identity(opened(name, tmp_path))
    (tmp_path / before).rename(tmp_path / "moved")
    (tmp_path / after).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / after).parent.joinpath("__MACOSX").mkdir()
    (tmp_path / "moved").rename(tmp_path / after)
    assert identity(opened(name, tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "images"),
    [("stanford-cars", "stanford_cars/cars_train"), ("dtd", "dtd/dtd/images"), ("flowers102", "flowers-102/jpg")],
)
def test_images_one_folder_deeper_name_the_remedy(name: str, images: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    folder = tmp_path / images
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    (tmp_path / "moved").rename(folder / folder.name)
    status, _ = inspect(load_dataset(name), tmp_path)
    assert status.state == "incomplete"
    assert f"it is one folder deeper, so move all that is in {folder / folder.name} to {folder}" in status.problem


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("eurosat", "EuroSAT.zip"),
        ("dtd", "dtd-r1.0.1.tar.gz"),
        ("caltech101", "caltech101/caltech-101.zip"),
        ("oxford-pet", "oxford-iiit-pet/images.tar.gz"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
    ],
)
def test_archives_still_packed_are_named(name: str, archive: str, tmp_path: Path) -> None:
    (tmp_path / archive).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / archive).touch()
    (tmp_path / "holiday.zip").touch()
    status, _ = inspect(load_dataset(name), tmp_path)
    assert status.state in ("missing", "incomplete")
    assert f"unpack {tmp_path / archive} unless" in status.problem and "holiday" not in status.problem


def test_data_without_a_folder_lists_what_to_get(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["data", "mtil-order1"]) == 0
    found = capsys.readouterr()
    assert "to see what is there already: python -m bench data mtil-order1 data=DIR" in found.out and not found.err
    for text in ("sun397", "37 GB", "SUN397 or sun397/SUN397", "torchvision.datasets.Food101(DIR, download=True)"):
        assert text in found.out
    assert cli.main(["data", "custom", "stream.datasets=[dtd,plants]"]) == 0
    assert 'there is no dataset "plants"' in " ".join(capsys.readouterr().out.split())


def test_data_reports_all_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fake_trees.plants(tmp_path)
    words = ["stream=custom", "stream.datasets=[dtdd,plants,nowhere,mnist]", f"data={tmp_path}"]
    assert cli.main(["data", "custom", *words[1:]]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert 'there is no dataset "dtdd" (did you mean "dtd"?)' in out and 'there is no dataset "nowhere"' in out
    assert "mnist, missing" in out and "1 of 4 datasets are ready" in out
    assert cli.main(["run", "method=lora", *words, f"out={tmp_path / 'runs'}"]) == 2
    err = capsys.readouterr().err
    assert 'dtdd is missing: there is no dataset "dtdd"' in err and "nowhere is missing" in err and "mnist is" in err


def test_all_class_folders_without_images_in_both_parts_are_named(tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    for name in ("ash", "elm"):
        fake_trees.save(tmp_path / "plants" / "test" / name / "0.png", 0, 0)
    with pytest.raises(UserError, match="the class folders ash, elm are not in both"):
        opened("plants", tmp_path)


# ---- images


@pytest.mark.parametrize(("file", "mode"), [("big.png", "1"), ("big.jpg", "L")])
def test_images_above_pillows_limit_are_refused_before_the_run(
    file: str, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_trees.plants(tmp_path)
    path = tmp_path / "plants" / "train" / "oak_tree" / file
    Image.new(mode, (2000, 1000)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999_999)
    for limits in ("LARGE_OTHERS", "LARGE"):  # the small file stands for a large one
        monkeypatch.setattr(on_disk, limits, {} if limits == "LARGE" else 1)
    problem = f"the image {path} is too large (Image size (2000000 pixels) exceeds limit of 1999998 pixels"
    words = ["stream.datasets=[plants]", f"data={tmp_path}"]
    assert cli.main(["data", "custom", *words]) == 1
    assert "".join(problem.split()) in "".join(capsys.readouterr().out.split())
    assert cli.main(["run", "method=zero-shot", "stream=custom", *words, f"out={tmp_path / 'runs'}"]) == 2
    assert problem in capsys.readouterr().err and not (tmp_path / "runs").exists()
    monkeypatch.setattr(on_disk, "LARGE_OTHERS", 10**9)
    images = FileImages(path.parent, [file], [0])
    with pytest.raises(UserError, match="is too large"):
        images.image(0)


def test_a_large_flat_image_is_found_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "flat.png")
    with pytest.raises(UserError, match=r"flat\.png is too large"):
        FileImages(tmp_path, ["flat.png"], [0])


def test_the_orientation_of_a_camera_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert FileImages(tmp_path, ["a.jpg"], [0]).image(0).size == (30, 20)

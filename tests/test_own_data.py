"""Your own images: folders with a held-out share, tables, lists, files of datasets; and what is said of bad ones."""

import json
import random
import re
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path

import fake_trees
import numpy as np
import pytest

from bench.cli import main as cli
from bench.config.fingerprint import LATER, LATER_OF, fingerprint, later
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.dataset_stream import hold_out
from bench.data.images import ArrayImages, FileImages, Subset
from bench.data.stream import Stream, Task
from bench.runs.parts import load_stream

ROOT = Path(__file__).parent.parent
TOY = ROOT / "tests" / "toy.py"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    for make in fake_trees.OWN.values():
        make(root)
    return root


def stream(root: Path, *words: str) -> Stream:
    return load_stream(resolve(["method=zero-shot", "stream=custom", f"data={root}", *words]))


def only(root: Path, *words: str) -> Task:
    (task,) = stream(root, *words).tasks
    return task


def tasks(folder: Path, content: str) -> str:
    file = folder / "tasks.yaml"
    file.write_text(content, encoding="utf-8")
    return f"stream.tasks_file={file}"


def test_images_without_class_folders_are_answered_with_what_to_do(tmp_path: Path) -> None:
    """And the line that shows all datasets needs the words that name them."""
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="put the images of each class into a folder of its name") as caught:
        stream(tmp_path, "stream.datasets=[flat]", "stream.split=0.2")
    assert f'data custom data={tmp_path}", with the same stream.KEY=VALUE words' in str(caught.value)


def names(images: object) -> list[str]:
    """The files of an image set, in order."""
    if isinstance(images, Subset):
        files = images.images
        assert isinstance(files, FileImages)
        return [files.names[index] for index in images.indices]
    assert isinstance(images, FileImages)
    return images.names


# ---- a share that is held out


def test_a_share_of_each_class_is_held_out(tree: Path) -> None:
    task = only(tree, "stream.datasets=[shells]", "stream.split=0.2")
    assert task.classes == ("cone", "sea snail")
    assert np.bincount(task.test.labels).tolist() == [2, 2] and np.bincount(task.train.labels).tolist() == [7, 7]
    assert sorted([*names(task.train), *names(task.test)]) == sorted(
        f"{name}/{number}.png" for name in ("cone", "sea_snail") for number in range(9)
    )
    again, other = (
        only(tree, "stream.datasets=[shells]", "stream.split=0.2", *more)
        for more in (["seed=5", "seeds.task_order=3"], ["stream.split_seed=1"])
    )
    assert again.digest() == task.digest()  # runs with other seeds have the same test images
    assert names(other.test) == ["cone/1.png", "cone/6.png", "sea_snail/1.png", "sea_snail/5.png"]
    assert names(task.test) == ["cone/0.png", "cone/6.png", "sea_snail/2.png", "sea_snail/3.png"]  # in every release


def test_what_is_held_out_does_not_depend_on_other_classes_or_the_disk(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["stream.datasets=[shells]", "stream.split=0.3"]
    before = only(tree, *words)
    fake_trees.shells(tmp_path)
    for number in range(5):
        fake_trees.save(tmp_path / "shells" / "abalone" / f"{number}.png", 7, number)
    real, shuffled = Path.iterdir, random.Random(0)

    def in_any_order(folder: Path) -> list[Path]:
        return shuffled.sample(found := list(real(folder)), len(found))

    monkeypatch.setattr(Path, "iterdir", in_any_order)
    after = only(tmp_path, *words)
    assert [name for name in names(after.test) if not name.startswith("abalone")] == names(before.test)


@pytest.mark.parametrize(
    ("count", "share", "held"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (9, 0.2, 2), (3, 0.9, 2)]
)
def test_a_share_is_rounded_and_leaves_an_image_on_both_sides(count: int, share: float, held: int) -> None:
    images = ArrayImages(np.zeros((count, 2, 2, 3)), np.zeros(count))
    kept, out = hold_out(images, ["a"], share, 0, "test")
    assert len(out) == held and sorted([*kept.indices, *out.indices]) == list(range(count))


def test_an_image_that_was_drawn_twice_is_on_one_side_only() -> None:
    images = ArrayImages(np.arange(4)[:, None, None, None] * np.ones((4, 2, 2, 3)), [0, 0, 1, 1])
    drawn = Subset(images, [0, 0, 0, 1, 2, 3, 3])
    kept, out = hold_out(drawn, ["a", "b"], 0.5, 0, "validation")
    assert kept.images is images and not set(kept.indices) & set(out.indices)
    assert kept.labels.tolist() == drawn.labels[np.isin(drawn.indices, kept.indices)].tolist()
    assert sorted(out.labels) == [0, 1] and sorted(set(kept.indices) | set(out.indices)) == [0, 1, 2, 3]


def test_validation_images_are_held_out_where_there_are_none(tree: Path) -> None:
    words = ["stream.datasets=[plants,leaves/leaves.csv]"]
    scored = stream(tree, *words, "evaluate.split=validation", "evaluate.held_out=0.25")
    plants, leaves = scored.tasks
    whole = stream(tree, *words).tasks[0]
    assert np.bincount(plants.test.labels).tolist() == [1, 1]
    assert sorted([*names(plants.train), *names(plants.test)]) == sorted(names(whole.train))
    assert names(leaves.test) == ["images/val_0_0.png", "images/val_1_0.png"] and len(leaves.train) == 8
    assert scored.facts["held_out_for_validation"] == {"plants": {"share": 0.25, "seed": 0, "images": 2}}
    assert any(note.startswith("25 % of the training images") and note.endswith(": plants") for note in scored.notes)
    for seed in ("seed=3", "seeds.task_order=2"):
        assert stream(tree, *words, "evaluate.split=validation", "evaluate.held_out=0.25", seed).tasks[0].digest() == (
            plants.digest()
        )


def test_every_stream_has_validation_images(tmp_path: Path) -> None:
    fake_trees.cifar100(tmp_path)
    words = ["method=zero-shot", "stream=cifar100-5", f"data={tmp_path}"]
    whole, scored = (load_stream(resolve([*words, *more])).tasks for more in ([], ["evaluate.split=validation"]))
    for before, after in zip(whole, scored, strict=True):
        images = [one for one in (before.train, after.train, after.test) if isinstance(one, Subset)]
        everything, kept, held = images
        assert kept.images is held.images and kept.whole and held.whole  # decoded once, with the other tasks
        assert sorted([*kept.indices, *held.indices]) == sorted(everything.indices)
        assert np.bincount(held.labels).tolist() == [1] * len(after.classes) and not len(kept) % len(after.classes)


def test_a_class_with_one_image_has_none_to_hold_out(tmp_path: Path) -> None:
    fake_trees.shells(tmp_path)
    fake_trees.save(tmp_path / "shells" / "whelk" / "0.png", 0, 0)
    with pytest.raises(UserError, match="class 'whelk' has 1 image, of which none can be held out for test"):
        stream(tmp_path, "stream.datasets=[shells]", "stream.split=0.2")
    for name in ("train", "test"):
        fake_trees.save(tmp_path / "one" / name / "whelk" / "0.png", 0, 0)
    with pytest.raises(UserError, match=r"task one has no validation images \(class 'whelk' has 1 image"):
        stream(tmp_path, "stream.datasets=[one]", "evaluate.split=validation")


def test_shots_are_drawn_from_own_images(tree: Path) -> None:
    task = only(tree, "stream.datasets=[plants]", "stream.shots=3")
    assert np.bincount(task.train.labels).tolist() == [3, 3] and len(task.test) == 4
    with pytest.raises(UserError, match="has 4 training images and stream.shots=5: lower it"):
        stream(tree, "stream.datasets=[plants]", "stream.shots=5")
    repeated = only(tree, "stream.datasets=[plants]", "stream.shots=5", "stream.fewer=repeat")
    assert np.bincount(repeated.train.labels).tolist() == [5, 5]


def test_new_settings_at_their_defaults_change_no_fingerprint() -> None:
    flat = resolve(["method=lora", "stream=custom", "stream.datasets=[a]"]).flat
    younger = LATER_OF["stream.name", "custom"]
    assert {key: flat[key] for key in younger} == younger
    older = {key: value for key, value in flat.items() if key not in younger}
    assert fingerprint(older) == fingerprint(flat)
    assert all(fingerprint({**flat, key: "another"}) != fingerprint(flat) for key in younger)
    assert later(flat) == LATER | younger and later({**flat, "stream.name": "forget"}) == LATER


# ---- tables


def made(root: Path, *lines: str, name: str = "table.csv") -> Task:
    """The task of a table with these lines, beside the images of `leaves`."""
    (root / "leaves" / name).write_bytes("\n".join(lines).encode())
    return only(root, f"stream.datasets=[leaves/{name}]")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    fake_trees.leaves(tmp_path)
    return tmp_path


def lines(root: Path) -> list[str]:
    return (root / "leaves" / "leaves.csv").read_text(encoding="utf-8").splitlines()


def test_a_table_says_paths_labels_and_parts(own: Path) -> None:
    task = only(own, "stream.datasets=[leaves/leaves.csv]")
    assert task.name == "leaves" and task.classes == ("ash", "red oak")
    assert names(task.train) == [f"images/train_{label}_{number}.png" for label in (0, 1) for number in range(4)]
    assert task.train.labels.tolist() == [0] * 4 + [1] * 4 and len(task.test) == 4
    assert task.validation is not None and len(task.validation) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n\n,,\n",
        lambda text: text.replace("path,", "file_name,").replace(",train", ", TRAIN").replace(",val", ",validation"),
        lambda text: "\n".join([text.splitlines()[0], *sorted(text.splitlines()[1:], key=hash)]),
        lambda text: "\n".join(f"{line},{number}" for number, line in enumerate(text.splitlines())),
        lambda text: re.sub("^(images.*?),", r'"./\1",', text, flags=re.MULTILINE),
    ],
    ids=["mark", "semicolons", "tabs", "returns", "blank lines", "words", "order", "columns", "quotes"],
)
def test_the_form_of_a_table_does_not_change_the_data(change: Callable[[str], str], own: Path) -> None:
    before = only(own, "stream.datasets=[leaves/leaves.csv]")
    file = own / "leaves" / "leaves.csv"
    file.write_bytes(change(file.read_text(encoding="utf-8").rstrip("\n")).encode())
    assert only(own, "stream.datasets=[leaves/leaves.csv]").digest() == before.digest()


def test_columns_images_and_classes_of_a_table_can_be_named(own: Path, tmp_path: Path) -> None:
    rows = [
        line.removeprefix("images/").replace(",ash,", ",10,").replace(",red_oak,", ",9,") for line in lines(own)[1:]
    ]
    (own / "leaves" / "t.tsv").write_text("\n".join(["file\tspecies\tfold", *(r.replace(",", "\t") for r in rows)]))
    (own / "leaves" / "names.txt").write_text("northern red oak\nash tree\n")
    task = only(
        own,
        tasks(
            tmp_path,
            "- table: leaves/t.tsv\n  name: trees\n  images: images\n  path_column: file\n  label_column: species\n"
            "  split_column: fold\n  classes: names.txt\n  shots: 2\n  epochs: 3\n"
            "  templates:\n  - a leaf of a {}.\n  - a photo of a {} leaf.\n",
        ),
    )
    assert task.classes == ("northern red oak", "ash tree")  # numbers are in their own order: 9, 10
    assert task.name == "trees" and task.prompts[1] == "a leaf of a ash tree." and len(task.train) == 4
    assert task.more_templates == ("a photo of a {} leaf.",) and task.train_settings == {"epochs": 3}
    assert all("train_1" in name for name in np.array(names(task.train))[task.train.labels == 0])


def test_a_table_without_parts_has_a_share_held_out(own: Path, tmp_path: Path) -> None:
    content = [line.rpartition(",")[0] for line in lines(own)]
    (own / "leaves" / "all.csv").write_text("\n".join(content))
    entry = "- table: leaves/all.csv\n  split: 0.3\n  split_seed: 4\n"
    found = stream(own, tasks(tmp_path, entry))
    assert len(found.tasks[0].test) == 4 and len(found.tasks[0].train) == 10
    assert found.facts["held_out_for_test"] == {"all": {"share": 0.3, "seed": 4, "images": 4}}
    (own / "leaves" / "all.csv").write_text("\n".join([content[0], *reversed(content[1:])]))
    assert stream(own, tasks(tmp_path, entry)).tasks[0].digest() == found.tasks[0].digest()
    with pytest.raises(UserError, match="all.csv has no test images: add a column split with train and test, or hold"):
        stream(own, "stream.datasets=[leaves/all.csv]")


def test_labels_that_are_numbers_are_mentioned(own: Path) -> None:
    made(own, *(line.replace(",ash,", ",0,").replace(",red_oak,", ",1,") for line in lines(own)))
    (note,) = stream(own, "stream.datasets=[leaves/table.csv]").notes
    assert 'its labels are numbers, so prompts say "0": name the classes in a file, with classes: FILE' in note


def bad(old: str, new: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: "\n".join(lines).replace(old, new).split("\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            bad(",label", ",class"),
            r'has no column "label" \(it has path, class, split\): rename one, or name it with lab',
        ),
        (bad("path,", "image,"), r'has no column "path" \(it has image, label, split\).* path_column: NAME'),
        (lambda lines: [lines[0]], "table.csv lists no images: write a line for every image"),
        (lambda lines: [], "table.csv lists no images"),
        (
            bad("train_0_0.png,ash", "train_0_0.png,"),
            'line 2 of .*table.csv has nothing as "label": complete or remove',
        ),
        (bad("images/train_0_0.png", ""), 'line 2 of .*table.csv has nothing as "path"'),
        (bad("ash,test", "ash,exam"), 'has "exam" as split: write one of train, test, val, valid, validation'),
        (bad("ash,train", "ash,test"), "table.csv has no training image of ash: every class needs one in every part"),
        (bad("ash,test", "ash,train"), "table.csv has no test image of ash"),
        (bad(",train", ",test"), "table.csv has no training images: write train as split of some"),
        (
            bad("images/train", "/data/train"),
            r"8 of 14 paths in .* are absolute or contain \"..\", first /data/train_0_0",
        ),
        (bad("images/test_0_0", "C:/test_0_0"), r"1 of 14 paths in .* first C:/test_0_0.png \(line 10\): write them"),
        (bad("images/val", "../images/val"), "2 of 14 paths .*first ../images/val_0_0.png"),
        (
            bad("images/train", "photos/train"),
            "8 of 8 images that .* lists are not in .*leaves, first photos/train_0_0",
        ),
        (
            bad("train_0_1.png", "train_0_0.png"),
            r"1 of 13 paths are more than once in .*first images/train_0_0.* \(lines 2, 3\)",
        ),
        (
            lambda lines: [*lines, "a.png"],
            "line 16 of .* has 1 cells and the first line 3: write a cell for every column",
        ),
        (lambda lines: [*lines, '"a.png'], "line 16 of .*table.csv is not CSV"),
        (bad("label,split", "label,label"), 'table.csv has the column "label" twice'),
        (bad("red_oak", "red\x07oak"), 'line 6 of .* has no text as "label": write a word or a number'),
        (bad("red_oak", "red" * 50_000), "is not CSV .field larger"),
    ],
)
def test_bad_tables_are_answered_in_one_sentence(
    change: Callable[[list[str]], list[str]], message: str, own: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(own, *change(lines(own)))
    assert len(str(caught.value).splitlines()) == 1


def test_other_encodings_and_files_that_are_no_tables_are_named(own: Path) -> None:
    file = own / "leaves" / "table.csv"
    for content, message in (
        ("path,label\nchêne.png,chêne\n".encode("latin-1"), "byte 0xea in line 2 is not UTF-8"),
        ("path,label\n".encode("utf-16"), "its encoding is UTF-16"),
        (b"\x89PNG\x00\x00", "is not UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"table.csv cannot be read .*{message}.*: save it as UTF-8"):
            only(own, "stream.datasets=[leaves/table.csv]")
    with pytest.raises(UserError, match=r"gone\.csv is missing: looked for gone\.csv"):
        only(own, "stream.datasets=[gone.csv]")
    with pytest.raises(UserError, match="cannot be read .File name too long.: correct its name"):
        only(own, f"stream.datasets=[{'x' * 300}.csv]")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 1 of .* is no object"),
        ("{", "line 1 of .* is not JSON"),
        ("[" * 100_000, "line 1 of .* is not JSON"),
        ('{"file_name": "a.png"}', 'has no column "label" .it has file_name.'),
        ('{"file_name": "a.png", "label": null}', 'line 1 of .* has nothing as "label"'),
        ('{"file_name": ["a"], "label": "b"}', 'line 1 of .* has no text as "path"|has no text as "file_name"'),
        ('{"file_name": "\\ud800", "label": "b"}', 'has no text as "file_name"'),
        ('{"file_name": "a\\u0000", "label": "b"}', 'has no text as "file_name"'),
    ],
)
def test_bad_lines_of_json_are_answered_in_one_sentence(line: str, message: str, own: Path) -> None:
    with pytest.raises(UserError, match=message):
        made(own, line, name="table.jsonl")


def arrow(monkeypatch: pytest.MonkeyPatch, version: str, rows: list[dict[str, object]] | Exception) -> None:
    """Put a library in the place of pyarrow that has the parts of its interface that are used."""

    class ParquetFile:
        def __init__(self, path: Path):
            if isinstance(rows, Exception):
                raise rows
            self.schema_arrow = types.SimpleNamespace(names=list(rows[0]))

        def __enter__(self) -> "ParquetFile":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def read(self, columns: list[str]) -> types.SimpleNamespace:
            assert isinstance(rows, list)
            return types.SimpleNamespace(to_pylist=lambda: [{key: row[key] for key in columns} for row in rows])

    package, parquet = types.ModuleType("pyarrow"), types.ModuleType("pyarrow.parquet")
    package.__version__, parquet.ParquetFile = version, ParquetFile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", package)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


def test_a_parquet_file_is_read_where_pyarrow_is_installed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = only(own, "stream.datasets=[leaves/leaves.csv]")
    (own / "leaves" / "leaves.parquet").touch()
    header, *rest = (line.split(",") for line in lines(own))
    rows = [{**dict(zip(header, cells, strict=True)), "image": b"bytes"} for cells in rest]
    arrow(monkeypatch, "20.0.0", rows)
    same = only(own, "stream.datasets=[leaves/leaves.parquet]")
    assert (same.train.digest, same.test.digest, same.classes) == (
        before.train.digest,
        before.test.digest,
        before.classes,
    )
    for version, content, message in (
        ("14.0.2", rows, "is not read with pyarrow 14.0.2, since such a file could run code in it: pip install"),
        ("20.0.0", OSError("no magic\nbytes"), r"leaves.parquet cannot be read \(no magic\): save it again"),
    ):
        arrow(monkeypatch, version, content)
        with pytest.raises(UserError, match=message):
            only(own, "stream.datasets=[leaves/leaves.parquet]")


def test_without_pyarrow_a_parquet_file_names_the_remedy(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "leaves" / "leaves.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(UserError, match="pyarrow is not installed.: pip install pyarrow, or save it as CSV"):
        only(own, "stream.datasets=[leaves/leaves.parquet]")


# ---- folders in the form of imagefolder


def test_an_imagefolder_with_lists(tree: Path) -> None:
    task = only(tree, "stream.datasets=[fungi]")
    assert task.classes == ("chanterelle", "fly agaric") and names(task.train)[0] == "train/00.png"
    assert (len(task.train), len(task.test)) == (8, 4) and task.validation is not None and len(task.validation) == 2


def test_one_list_for_all_parts_is_the_same_data(tree: Path, tmp_path: Path) -> None:
    before = only(tree, "stream.datasets=[fungi]")
    fake_trees.fungi(tmp_path)
    written = ["file_name,label"]
    for part in ("train", "test", "validation"):
        file = tmp_path / "fungi" / part / "metadata.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        written += [f"{part}/{row['file_name']},{row['label']}" for row in rows]
        file.unlink()
    (tmp_path / "fungi" / "metadata.csv").write_text("\n".join(written))
    assert only(tmp_path, "stream.datasets=[fungi]").digest() == before.digest()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folders_of_validation_images_may_have_three_names(name: str, tmp_path: Path) -> None:
    fake_trees.plants(tmp_path)
    for label, kind in enumerate(["moss", "oak_tree"]):
        fake_trees.save(tmp_path / "plants" / name / kind / "0.png", label, 50)
    task = only(tmp_path, "stream.datasets=[plants]")
    assert task.validation is not None and names(task.validation) == ["moss/0.png", "oak_tree/0.png"]
    scored = only(tmp_path, "stream.datasets=[plants]", "evaluate.split=validation")
    assert names(scored.test) == names(task.validation) and len(scored.train) == len(task.train)


def test_a_list_alone_makes_a_folder_a_dataset(tmp_path: Path) -> None:
    fake_trees.shells(tmp_path)
    rows = [f"cone/{number}.png,cone,{'train' if number else 'test'}" for number in range(4)]
    (tmp_path / "shells" / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]))
    task = only(tmp_path, "stream.datasets=[shells]")
    assert names(task.test) == ["cone/0.png"] and task.classes == ("cone",)


def test_bad_folders_are_answered_in_one_sentence(tree: Path, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        with pytest.raises(UserError) as caught:
            stream(tmp_path, *words)
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    fake_trees.plants(tmp_path)
    fake_trees.shells(tmp_path)
    fake_trees.fungi(tmp_path)
    assert "set stream.split=0.2" in said("stream.datasets=[shells]")
    entry = tasks(tmp_path, "- folder: shells\n")
    assert "shells has no train/ and test/: put class folders there, or hold out a share" in said(entry)
    assert "plants has test images of its own, so none are held out for testing: leave out split" in (
        said("stream.datasets=[plants]", "stream.split=0.2")
    )
    (tmp_path / "fungi" / "test" / "metadata.jsonl").unlink()
    assert "test has no such file: add one, or remove the other" in said("stream.datasets=[fungi]")
    (tmp_path / "fungi" / "train" / "metadata.csv").touch()
    assert "train holds metadata.csv and metadata.jsonl: keep one of them" in said("stream.datasets=[fungi]")
    (tmp_path / "shells" / "metadata.csv").write_text("file_name,text\ncone/0.png,a shell\n")
    assert 'metadata.csv has no column "label" (it has file_name, text)' in said("stream.datasets=[shells]")
    rows = ["train/a.png,a,1", "test/a.png,a,2", "extra/b.png,a,3"]
    (tmp_path / "shells" / "metadata.csv").write_text("\n".join(["file_name,label,number", *rows]))
    assert "1 of 3 images of" in (found := said("stream.datasets=[shells]")) and "first extra/b.png (line 4)" in found
    for name in ("val", "valid"):
        fake_trees.save(tmp_path / "plants" / name / "moss" / "0.png", 0, 0)
    assert "holds val/ and valid/ with validation images: make them one" in said("stream.datasets=[plants]")


def test_a_folder_with_training_images_alone_has_a_share_held_out(tmp_path: Path) -> None:
    fake_trees.shells(tmp_path)
    (tmp_path / "sea").mkdir()
    (tmp_path / "shells").rename(tmp_path / "sea" / "train")
    task = only(tmp_path, "stream.datasets=[sea]", "stream.split=0.2")
    fake_trees.shells(tmp_path)
    flat = only(tmp_path, "stream.datasets=[shells]", "stream.split=0.2")
    assert names(task.test) == names(flat.test) and len(task.train) == 14
    with pytest.raises(UserError, match="sea has no test/: put class folders there"):
        stream(tmp_path, "stream.datasets=[sea]")


# ---- the file of tasks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- folder: shells\n  split: 0\n", "task 1 in .* has split: 0; write a share above 0 and below 1"),
        ("- folder: shells\n  split: 1\n", "has split: 1; write a share above 0 and below 1, such as 0.2"),
        ("- folder: shells\n  split: nan\n", "has split: nan; write a share"),
        ("- folder: shells\n  split: 20%\n", "has split: 20%; write a share"),
        ("- folder: shells\n  split: 0.2\n  split_seed: -1\n", "has split_seed: -1; write a whole number from 0"),
        ("- folder: plants\n  steps: 5\n  epochs: 2\n", "has both epochs and steps: leave one out"),
        ("- folder: plants\n  shots: 0\n", "has shots: 0; write a whole number from 1"),
        ("- folder: plants\n  fewer: none\n", "has fewer: none; write one of error, all, repeat"),
        ("- folder: plants\n  templates: a {}\n", "has no list of texts as templates"),
        ("- folder: plants\n  templates: [[a]]\n", "has no list of texts as templates"),
        ("- folder: plants\n  templates: [a]\n", r'the template "a" of task plants has no \{\}'),
        ("- folder: plants\n  templates: ['{}']\n  template: '{}'\n", "has both template and templates: leave one out"),
        ("- folder: plants\n  table: a.csv\n", "has both table and folder: leave one out"),
        ("- dataset: dtd\n  split: 0.2\n", 'the dataset dtd has its own images and labels: leave out "split"'),
        ("- table: leaves/leaves.csv\n  split: 0.2\n", "leaves.csv has test images of its own"),
        ("- table: leaves/leaves.csv\n  split_column: part\n", 'no column "part" .*name it with split_column'),
        ("- table: leaves/leaves.csv\n  classes: no.txt\n", "leaves/no.txt is missing"),
    ],
)
def test_bad_entries_are_answered_in_one_sentence(content: str, message: str, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        stream(tree, tasks(tmp_path, content))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "nan", "some"])
def test_a_share_on_the_line_is_between_0_and_1(value: str) -> None:
    with pytest.raises(UserError, match=rf"stream.split={value}"):
        resolve(["method=lora", "stream=custom", "stream.datasets=[shells]", f"stream.split={value}"])


# ---- docs/streams.md

SECTION = re.search(
    r"^## Your own images\n(.*?)^## ",
    (ROOT / "docs" / "streams.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
assert SECTION is not None
EXAMPLES = dict(re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)^```", SECTION[1], re.MULTILINE | re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", SECTION[1], re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data, with the examples of the page: what lies in a folder of the data there, the rest above."""
    root = tmp_path_factory.mktemp("documented")
    for make in (*fake_trees.OWN.values(), fake_trees.dtd):
        make(root / "data")
    for name, content in EXAMPLES.items():
        (root / "data" / name if "/" in name else root / name).write_text(content, encoding="utf-8")
    return root


def test_the_page_has_an_example_of_everything() -> None:
    assert {"leaves/leaves.csv", "fungi/train/metadata.jsonl", "birds.py", "tasks.yaml"} == EXAMPLES.keys()
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_page_run(command: str, documented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(documented)
    words = shlex.split(command.replace("data=/data", "data=data").replace("method=keeplora", "method=zero-shot"))[3:]
    if words[0] == "run":
        words += [f"model={TOY}", "device=cpu", "cache.gb=0"]
    assert cli.main(words) == 0


def test_the_file_of_tasks_of_the_page_means_what_it_says(documented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(documented)
    found = {task.name: task for task in stream(documented / "data", "stream.tasks_file=tasks.yaml").tasks}
    assert list(found) == ["green", "shells", "leaves", "fungi", "Birds"]
    assert found["green"].prompts[0] == "a photo of a moss, a type of plant."
    assert found["green"].train_settings == {"epochs": 5} and len(found["shells"].test) == 4
    assert found["shells"].test_prompts[0] == ("a photo of a cone, a type of shell.", "a close-up of a cone.")
    assert len(found["leaves"].train) == 4 and found["Birds"].classes == ("robin", "wren")

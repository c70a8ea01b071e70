"""The embedded stream and model: what is shipped is what is claimed."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.datasets import pocket

from bench.config import registry
from bench.config.listing import listing
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.dataset_stream import ReferenceSet, reference_set
from bench.data.pixels import PixelStore
from bench.learning.evaluate import Protocol, evaluate_row
from bench.learning.method import Method
from bench.learning.task_data import Context
from bench.model.clip import Clip
from bench.runs.parts import load_stream
from bench.runs.run import run

ROOT = Path(__file__).parent.parent
DATA = ROOT / "datasets" / "pocket_data"
INDEX = json.loads((DATA / "tasks.json").read_text(encoding="utf-8"))
TASKS = INDEX["streams"]["pocket"]
TUNING = INDEX["streams"]["pocket-tuning"]


@pytest.fixture(scope="module")
def stream() -> pocket.Pocket:
    return pocket.Pocket(pocket.Pocket.Settings(), None, 0)


@pytest.fixture(scope="module")
def tuning() -> pocket.PocketTuning:
    return pocket.PocketTuning(pocket.PocketTuning.Settings(), None, 0)


@pytest.fixture(scope="module")
def beside() -> ReferenceSet:
    return reference_set("pocket-reference", None, None, None)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return pocket.PocketModel().load(None)


def test_two_streams_with_enough_of_everything(stream: pocket.Pocket, tuning: pocket.PocketTuning) -> None:
    assert 8 <= len(stream.tasks) <= 10
    assert 3 <= len(tuning.tasks) <= 4
    assert not set(TASKS) & set(TUNING)
    for task in [*stream.tasks, *tuning.tasks]:
        assert len(task.train) >= 600 and len(task.test) >= 800, task.name
        assert task.validation is not None and len(task.validation) >= 150, task.name
        for images in (task.train, task.validation, task.test):
            assert set(images.labels.tolist()) == set(range(len(task.classes))), f"{task.name} lacks a class in a split"
        assert task.test.image(0).size == (36, 36)


def near_duplicates(first: np.ndarray, second: np.ndarray, limit: float = 5.0) -> int:
    """Images of `first` that have one in `second` within a root-mean-square difference of `limit` grey levels."""
    a, b = (torch.from_numpy(x.reshape(len(x), -1)).double() for x in (first, second))
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return int((squared.min(dim=1).values / a.shape[1] < limit**2).sum())


def test_the_measure_of_near_duplicates() -> None:
    image = np.full((1, 36, 36, 3), 100, dtype=np.uint8)
    assert near_duplicates(image, image + 4) == 1
    assert near_duplicates(image, image + 6) == 0


@pytest.mark.parametrize("name", [*TASKS, *TUNING])
def test_no_near_duplicates_between_splits(name: str, stream: pocket.Pocket, tuning: pocket.PocketTuning) -> None:
    (task,) = [task for task in [*stream.tasks, *tuning.tasks] if task.name == name]
    assert near_duplicates(task.test.pixels, task.train.pixels) == 0
    assert near_duplicates(task.test.pixels, task.validation.pixels) == 0
    assert near_duplicates(task.validation.pixels, task.train.pixels) == 0


@pytest.fixture(scope="module")
def everything(
    stream: pocket.Pocket, tuning: pocket.PocketTuning, beside: ReferenceSet
) -> dict[str, tuple[np.ndarray, torch.Tensor]]:
    """All images of both streams and of the reference set, with the means of squares of 6 x 6 pixels."""
    found = {
        name: np.concatenate([part.pixels for task in own.tasks for part in (task.train, task.validation, task.test)])
        for name, own in (("pocket", stream), ("pocket-tuning", tuning))
    } | {"reference": beside.images.pixels}
    return {
        name: (x, torch.from_numpy(x.reshape(len(x), 6, 6, 6, 6, 3).mean((2, 4), dtype=np.float32)).flatten(1))
        for name, x in found.items()
    }


@pytest.mark.parametrize(
    ("first", "second"), [("pocket", "pocket-tuning"), ("pocket", "reference"), ("pocket-tuning", "reference")]
)
def test_no_near_duplicates_between_streams_and_reference_set(first: str, second: str, everything: dict) -> None:
    """The means differ less than the images: only pairs that are close in them are compared."""
    (one, small), (other, smaller) = everything[first], everything[second]
    squared = torch.cdist(small, smaller).square() / small.shape[1]
    pairs = torch.argwhere(squared < 6.0**2).tolist()
    assert not [1 for i, j in pairs if near_duplicates(one[i : i + 1], other[j : j + 1])]


def test_no_near_duplicates_within_the_reference_set(everything: dict) -> None:
    pixels, small = everything["reference"]
    squared = torch.cdist(small, small).square() / small.shape[1]
    pairs = [(i, j) for i, j in torch.argwhere(squared < 6.0**2).tolist() if i < j]
    assert not [1 for i, j in pairs if near_duplicates(pixels[i : i + 1], pixels[j : j + 1])]


def test_the_reference_set_has_a_sentence_for_each_picture(beside: ReferenceSet) -> None:
    assert 1000 <= len(beside.images) == len(set(beside.sentences)) <= 2000
    assert beside.images.pixels.shape[1:] == (36, 36, 3)
    assert beside.digest == reference_set("pocket-reference", DATA, None, None).digest
    assert (DATA / "reference.webp").stat().st_size < 2.5e6


def test_no_sentence_of_the_reference_set_names_a_class(beside: ReferenceSet) -> None:
    """As a whole word or several, in the singular or plural; the article is no letter."""
    names = {name for entry in INDEX["tasks"] for name in entry["classes"]} - {"a"}
    for sentence in beside.sentences:
        words = sentence.split()
        parts = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        assert not names & (parts | {part.removesuffix("s") for part in parts}), sentence


def test_a_damaged_reference_set_is_reported(copied: Path) -> None:
    shutil.copy(copied / "digits_val.webp", copied / "reference.webp")
    with pytest.raises(UserError, match=r"reference=pocket-reference is incomplete in .*reference.webp is damaged"):
        reference_set("pocket-reference", None, None, None)


def test_the_reference_set_is_no_task() -> None:
    with pytest.raises(UserError, match="dataset pocket-reference has no test images: leave it out, or write "):
        load_stream(resolve(["method=lora", "stream=custom", "stream.datasets=[pocket-reference]", f"data={DATA}"]))
    assert re.search(r"pocket-reference +Clip art.* reference +this project", listing(["dataset"]))


def test_everything_shipped_is_small_and_no_pickle() -> None:
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} <= {".webp", ".json", ".yaml", ".md", ".safetensors", ".gz", ".log", ""}
    assert all(not path.read_bytes().startswith(b"\x80") for path in files), "a pickle begins with this byte"


ALLOWED = ("OFL-1.1", "Apache-2.0", "MIT", "ISC", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Unlicense")


def test_every_source_has_a_licence_that_allows_shipping() -> None:
    """No share-alike, no copyleft; and every package is named in SOURCES.md with its licence."""
    lines = (DATA / "SOURCES.md").read_text(encoding="utf-8").splitlines()
    groups = json.loads((ROOT / "datasets/pocket_build/packages.json").read_text(encoding="utf-8"))
    packages = {name: package for group in groups.values() for name, package in group.items()}
    assert len(packages) > 100
    for name, package in packages.items():
        licence = package["licence"]
        named = {part.split(" (")[0] for part in licence.split(", ")}
        assert licence.startswith("public domain") or named <= set(ALLOWED), (name, licence)
        (row,) = [line for line in lines if line.startswith(f"| {name} ")]
        assert package["version"] in row
        assert licence in row


def test_checksums_of_the_model() -> None:
    for line in (DATA / "model" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((DATA / "model" / name).read_bytes()).hexdigest() == digest, name


def test_the_model_is_a_small_open_clip_model(clip: Clip) -> None:
    parameters = sum(p.numel() for p in clip.model.parameters())
    assert 1e6 < parameters < 3e6
    assert clip.image_size == (36, 36)
    assert {m.tower for m in clip.maps.values()} == {"image", "text"}


def test_the_untrained_model_knows_four_tasks_and_not_the_other_five(stream: pocket.Pocket, clip: Clip) -> None:
    """On test images as the criteria say of validation images (tests/test_criteria.py)."""
    method = Method(None, clip, Context(len(stream.tasks), 64, 0, 0))
    store = PixelStore(clip, 10**9)
    known = []
    for column, right in evaluate_row(method, store, Protocol(stream.tasks, "task", "either", 256), 0):
        accuracy = 100 * right.mean()
        assert accuracy >= 80 or accuracy <= 15
        known += [stream.tasks[column].name] if accuracy >= 80 else []
    assert known == ["digits", "flags", "icons", "letters"]


def test_tasks_can_be_chosen_ordered_and_shuffled() -> None:
    def names(seed: int = 0, **settings) -> list[str]:
        return [task.name for task in pocket.Pocket(pocket.Pocket.Settings(**settings), None, seed).tasks]

    assert names() == TASKS == sorted(TASKS)
    assert names(tasks=["flags", "digits"]) == ["flags", "digits"]
    assert names(1, shuffle=True) == names(1, shuffle=True) != names(2, shuffle=True)
    assert sorted(names(1, shuffle=True)) == TASKS
    assert [task.name for task in pocket.PocketTuning(pocket.PocketTuning.Settings(), None, 0).tasks] == TUNING
    with pytest.raises(UserError, match="unknown task flags in stream.tasks"):
        pocket.PocketTuning(pocket.PocketTuning.Settings(tasks=["flags"]), None, 0)
    apart = pocket.Pocket(pocket.Pocket.Settings(probe=["letters", "emoji"]), None, 0)
    assert [(one.name, one.role) for one in apart.others] == [("letters", "probe"), ("emoji", "probe")]
    assert [task.name for task in apart.tasks] == [name for name in TASKS if name != "letters"]
    with pytest.raises(UserError, match="unknown task numbers in stream.probe"):
        names(probe=["numbers"])
    with pytest.raises(UserError, match=r'unknown task digit in stream.tasks \(did you mean "digits"\?\)'):
        names(tasks=["digit"])


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(DATA, tmp_path / "data")
    monkeypatch.setattr(pocket, "FOLDER", tmp_path / "data")
    return tmp_path / "data"


def test_damaged_images_are_named(copied: Path) -> None:
    file = copied / INDEX["tasks"][0]["splits"]["train"]["file"]
    other = copied / INDEX["tasks"][0]["splits"]["val"]["file"]
    for content, message in ((b"no image", "cannot be decoded"), (other.read_bytes(), "is damaged")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{file.name} {message}"):
            pocket.Pocket(pocket.Pocket.Settings(tasks=TASKS[:1]), None, 0)


def test_damaged_weights_are_reported(copied: Path) -> None:
    weights = copied / "model" / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="the embedded weights in .* are damaged"):
        pocket.PocketModel().load(None)
    weights.unlink()
    with pytest.raises(UserError, match="cannot be read: reinstall"):
        pocket.PocketModel().load(None)


@pytest.mark.slow
def test_a_short_run_learns(tmp_path: Path) -> None:
    """Two tasks, one epoch: KeepLoRA gains on them."""
    words = ["method=keeplora", "stream.tasks=[satellite,digits]", "train.epochs=1", "train.lr=0.03"]
    words += [f"out={tmp_path}", "device=cpu"]
    summary = json.loads((run(resolve(words)) / "summary.json").read_text())["metrics"]
    assert summary["learning"] > summary["zero_shot"] + 5


def test_it_is_the_default() -> None:
    resolved = resolve(["method=keeplora"])
    assert resolved.stream_class is registry.load("stream", "pocket")
    assert resolved.model_class is registry.load("model", "pocket")

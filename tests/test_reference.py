"""A reference set: images and sentences outside of the stream, for methods that learn from some."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import load, tiny_clip
from bench.compare.grouping import gather
from bench.config.fingerprint import fingerprint, run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.dataset_stream import ReferenceSet, reference_set
from bench.runs.loading import reference_of
from bench.runs.parts import load_reference, load_stream
from bench.runs.run import run

HERE = Path(__file__).parent
TOY = [
    f"stream={HERE / 'toy.py'}", "stream.count=2", f"model={HERE / 'toy.py'}", "train.epochs=1", "device=cpu",
    "track.wandb=off", "cache.gb=0",
]  # fmt: skip
DISTIL = f"method={HERE / 'examples' / 'distil.py'}"


def images(folder: Path, count: int = 6) -> Path:
    """Write images at two depths of a folder, and a file that is none."""
    draw = np.random.default_rng(0)
    for index in range(count):
        path = folder / ("more" if index % 2 else ".") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(path)
    (folder / "notes.txt").write_text("a quiet street\n\n  two birds \n")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return images(tmp_path / "data" / "photos")


def line(tmp_path: Path, *more: str, method: str = DISTIL) -> list[str]:
    return [method, *TOY, f"out={tmp_path / 'runs'}", *more]


def test_a_folder_is_read_at_any_depth(photos: Path) -> None:
    found = reference_set("photos", photos.parent, None, None)
    assert found.images.names == ["0.png", "2.png", "4.png", "more/1.png", "more/3.png", "more/5.png"]
    assert (found.name, found.sentences) == ("photos", ())
    said = reference_set("photos", photos.parent, None, photos / "notes.txt")
    assert said.sentences == ("a quiet street", "two birds") and said.digest != found.digest
    few = reference_set("photos", photos.parent, 4, None)
    assert len(few.images) == 4 and few.digest != found.digest
    assert few.digest == reference_set("photos", photos.parent, 4, None).digest
    assert reference_set("photos", photos.parent, 6, None).digest == found.digest


def test_the_embedded_set_needs_no_folder_and_no_sentences(tmp_path: Path) -> None:
    done = run(resolve(line(tmp_path, "reference=pocket-reference")))
    assert len(json.loads((done / "identity.json").read_text())["reference_sha256"]) == 64


def test_a_dataset_gives_its_training_images_and_prompts(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("oak_tree", "rose"):
            images(tmp_path / "plants" / part / name, 2)
    found = reference_set("plants", tmp_path, None, None)
    assert len(found.images) == 4 and found.sentences == ("a photo of a oak tree.", "a photo of a rose.")


def test_what_cannot_be_read_is_refused(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "data" / "nothing").mkdir()
    (tmp_path / "blank.txt").write_text("\n \n")
    for arguments, sentence in (
        (
            ("nothing", photos.parent, None, None),
            "reference=nothing: the folder .* holds no images: name one",
        ),
        (("elsewhere", photos.parent, None, None), 'there is no dataset "elsewhere"'),
        (("mnist", photos.parent, None, None), "reference=mnist is missing in .*: looked for"),
        (("photos", None, None, None), "reference=photos is no registered dataset: for a folder of images add ref"),
        (("mnits", None, None, None), r'reference=mnits is no registered dataset \(did you mean "mnist"\?\)'),
        ((str(photos), None, None, None), "is a path: write reference=photos reference.data=/"),
        (("mnist", None, None, None), "reference=mnist needs the folder that holds it: add reference.data=DIR"),
        (("photos", photos.parent, None, tmp_path / "blank.txt"), "reference.sentences=.* holds no sentence"),
        (("photos", photos.parent, None, tmp_path / "gone.txt"), "reference.sentences=.*gone.txt cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            reference_set(*arguments)


def test_images_of_a_task_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve(line(tmp_path, "reference=photos"))
    stream = load_stream(resolved)
    for part in (stream.tasks[1].train, stream.tasks[1].test):
        same = ReferenceSet("photos", part, ())
        monkeypatch.setattr("bench.runs.parts.reference_set", lambda *_, same=same: same)
        with pytest.raises(UserError, match="reference=photos has the images of task toy1: name others"):
            load_reference(resolved, stream)


def test_a_method_sees_images_and_sentences(photos: Path) -> None:
    clip = tiny_clip()
    found = reference_of(reference_set("photos", photos.parent, None, photos / "notes.txt"), clip)
    assert len(found) == 6 and found.images(torch.tensor([5, 0])).shape == (2, 3, 36, 36)
    shown = clip.normalize(torch.from_numpy(clip.to_uint8(Image.open(photos / "more" / "5.png")).copy())[None])
    assert torch.equal(found.images(torch.tensor([5])), shown)
    assert torch.equal(found.tokens, clip.tokenize(["a quiet street", "two birds"]))
    with pytest.raises(UserError, match="reference=photos has no sentences: add reference.sentences=FILE"):
        dataclasses.replace(found, sentences=()).tokens  # noqa: B018


def test_runs_without_one_keep_their_fingerprint(tmp_path: Path) -> None:
    before = resolve(line(tmp_path, method="method=lora")).flat
    assert {key for key in before if key.startswith("reference.")} == {
        "reference.name", "reference.data", "reference.images", "reference.sentences"
    }  # fmt: skip
    old = {key: value for key, value in before.items() if not key.startswith("reference.")}
    assert fingerprint(old) == fingerprint(before)

    def prints(*more: str) -> str:
        return fingerprint(resolve(line(tmp_path, "reference=photos", *more)).flat)

    assert prints("reference.data=here") == prints("reference.data=there") != fingerprint(before)
    assert len({prints(), prints("reference.images=5"), prints("reference=other")}) == 3


def test_a_stream_names_a_reference_set_for_methods_that_learn_from_one() -> None:
    def name(*words: str) -> tuple[str | None, str]:
        found = resolve([*words, "stream=pocket"])
        return found.run.reference.name, found.sources["reference.name"]

    assert name(DISTIL) == ("pocket-reference", "stream")
    assert resolve([DISTIL]).flat["reference.name"] == "pocket-reference"  # of the identity, not of the command alone
    assert name(DISTIL, "reference=photos") == ("photos", "user")
    assert name(DISTIL, "reference=null") == (None, "user")
    assert name(DISTIL, "method.on=task") == name("method=lora") == (None, "default")
    assert resolve([DISTIL, "stream=xtail"]).run.reference.name is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([DISTIL], "method distil learns from a reference set: add reference=NAME, .*; reference=pocket-reference"),
        (
            [DISTIL, "method.on=task", "reference=photos"],
            "method distil learns from no reference set with these settings",
        ),
        (["method=lora", "reference=photos"], "method lora learns from no reference set with these settings: leave"),
        ([DISTIL, "reference=photos", "reference.sentences=gone.txt"], "reference.sentences=gone.txt is not there"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.runs.loading.load_parts", None)
    with pytest.raises(UserError, match=sentence):
        run(resolve([*words, *TOY, f"out={tmp_path / 'runs'}"]))
    assert not (tmp_path / "runs").exists()


def test_a_run_records_its_reference_set_and_stays_comparable(tmp_path: Path, photos: Path) -> None:
    words = line(tmp_path, "reference=photos", f"reference.data={photos.parent}")
    done = run(resolve(words))
    identity = json.loads((done / "identity.json").read_text())
    assert identity["reference_sha256"] == reference_set("photos", photos.parent, None, None).digest
    assert identity["flags"] == {"outside_data": "reference"}
    assert set(identity["manifests"]) == {"toy0", "toy1"}  # nothing of it is measured
    other = run(resolve(line(tmp_path, "method.on=task")))
    assert "reference_sha256" not in json.loads((other / "identity.json").read_text())
    (field,) = gather([tmp_path / "runs"]).fields
    assert len(field.groups) == 2
    assert list(load(done).prompts) == ["toy0", "toy1"]  # what was learned needs no reference set any more
    moved = photos.parent.rename(tmp_path / "moved")
    words[-1] = f"reference.data={moved}"
    assert run(resolve(words)) == run_directory(resolve(words)) == done
    (moved / "photos" / "0.png").unlink()
    with pytest.raises(UserError, match="holds a finished run with another reference_sha256 than this line would have"):
        run(resolve(words))

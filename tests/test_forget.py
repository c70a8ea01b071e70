"""Streams that ask to forget: who is named, which images are read, what is recorded, and runs to begin with."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import fake_trees
import numpy as np
import pytest
import torch
from bench.datasets.class_incremental import class_order
from support.hundred import CLASSES, HUNDRED, TRAIN, number_of

from bench.api import Request, Stream, evaluate, load, run
from bench.cli import main as cli
from bench.config import registry
from bench.config.fingerprint import fingerprint
from bench.config.resolve import resolve
from bench.config.run_settings import label_space_of
from bench.core.errors import UserError
from bench.record.checkpoint import unpack
from bench.record.results import read_matrix
from bench.record.schema import Identity
from bench.runs.parts import load_stream
from bench.runs.session import Session

TOY = str(Path(__file__).parent / "toy.py")
FORGET = ["stream=forget", f"stream.of={HUNDRED}"]
TOYS = ["stream=forget", f"stream.of={TOY}"]
NO_OP = """
from bench.api import Method, register

@register("method", "nothing", title="Nothing")
class Nothing(Method):
    kinds = ("forgetting",)
    constant = True
"""
SHIFT = """
from bench.api import Method, register, torch

@register("method", "shift", title="Adds to one weight")
class Shift(Method):
    kinds = ("learning", "forgetting")

    def begin_task(self, task):
        with torch.no_grad():
            self.clip.maps["image.1.fc2"].parameter.add_(0.05 * (task.index + 1))
"""
BACK = """
from bench.api import Method, register, tiny_clip, torch

@register("method", "back", title="Takes one weight back to the pre-trained one, then adds to another")
class Back(Method):
    kinds = ("forgetting",)

    def begin_task(self, task):
        with torch.no_grad():
            if task.index == 0:
                self.clip.maps["image.1.fc2"].parameter.copy_(tiny_clip(0).maps["image.1.fc2"].parameter)
            else:
                self.clip.maps["image.0.fc2"].parameter.add_(0.05)
"""


def stream(*words: str) -> Any:
    return load_stream(resolve(list(words), need_method=False))


def requests(*words: str) -> list[Request]:
    return [task for task in stream(*words).tasks if isinstance(task, Request)]


def read(images: Any) -> set[int]:
    """The numbers of the images behind a selection, as they are drawn into their pixels."""
    return set() if images is None else {number_of(images.image(index)) for index in range(len(images))}


# ------------------------------------------------------------------------------------------------ slices


@pytest.mark.parametrize("kind", ["natural", "shuffled", "numpy"])
def test_requests_are_slices_of_the_order_from_its_end(kind: str) -> None:
    """GS-LoRA's code: with F classes kept after the first request, the request i keeps order[0 : F - i per]."""
    words = ["stream.count=4", "stream.per_request=20", f"stream.class_order={kind}", "seed=5"]
    found, order = requests(*FORGET, *words), class_order(kind, 100, 5)
    first, per = 80, 20
    for number, one in enumerate(found):
        end = first - number * per
        assert set(one.retained) == set(order[:end]) and len(one.retained) == (80, 60, 40, 20)[number]
        assert set(one.forgotten) == set(order[end : end + per]) and set(one.earlier) == set(order[end + per :])
        assert one.classes == CLASSES and one.template == "a photo of a {}."
        assert sorted([*one.retained, *one.forgotten, *one.earlier]) == list(range(100))


def test_no_image_of_a_class_that_was_forgotten_is_read_again() -> None:
    found = stream(*FORGET, "stream.count=4", "stream.per_request=20")
    for number, one in enumerate(found.tasks):
        stay, gone = read(one.train), read(one.forget)
        assert len(stay) == TRAIN * len(one.retained) and {at // TRAIN for at in stay} == set(one.retained)
        assert len(gone) == TRAIN * 20 and {at // TRAIN for at in gone} == set(one.forgotten)
        later = [read(other.train) | read(other.forget) for other in found.tasks[number + 1 :]]
        assert not any(gone & images for images in later)
    tested = [read(one.test) for one in (*found.tasks, *found.others)]
    assert sum(map(len, tested)) == len(set.union(*tested)) == 200
    assert [(one.name, one.role) for one in found.others] == [("kept", "kept")]


def test_the_order_is_drawn_by_its_seed() -> None:
    words = [*FORGET, "stream.per_request=2"]
    one, same, other = (requests(*words, *more) for more in (["seed=1"], ["seeds.task_order=1"], ["seed=2"]))
    assert [r.digest() for r in one] == [r.digest() for r in same] != [r.digest() for r in other]


# ------------------------------------------------------------------------------------------------ names


def test_classes_of_tasks_with_different_prompts_are_called_by_them() -> None:
    (request,) = requests(*TOYS, "stream.requests=[toy1/red thing + picture 0 of a blue thing]")
    assert request.template == "{}" and request.prompts == request.classes and len(request.classes) == 9
    named = [request.classes[index] for index in request.forgotten]
    assert named == ["picture 0 of a blue thing", "picture 1 of a red thing"]


def test_tasks_with_equal_prompts_share_classes() -> None:
    words = ["stream.options=[copies=2]", "stream.requests=[thing 3 + thing 4]"]
    (request,) = requests(*FORGET, *words)
    assert request.classes == CLASSES and len(request.test) == 2 * 2 * 2


def test_requests_name_classes_whole_tasks_or_a_file(tmp_path: Path) -> None:
    words = ["stream.requests=[first,thing 60 + thing 50]", "stream.class_order=natural"]
    whole, two = requests(*FORGET, *words)
    assert whole.forgotten == tuple(range(50)) and two.forgotten == (50, 60) and two.earlier == whole.forgotten
    file = tmp_path / "requests.yaml"
    file.write_text("- first\n- [thing 60, thing 50]\n")
    again = resolve([*FORGET, f"stream.requests_file={file}"], need_method=False)
    assert [one.digest() for one in load_stream(again).tasks] == [whole.digest(), two.digest()]
    file.write_text("- [thing 60, thing 50]\n")
    assert fingerprint(resolve([*FORGET, f"stream.requests_file={file}"], need_method=False).flat) != fingerprint(
        again.flat
    )


def test_a_scope_of_some_tasks_leaves_the_others_as_probes() -> None:
    found = stream(*TOYS, "stream.tasks=[toy0,toy2]", "stream.per_request=1", "stream.count=2")
    assert len(found.tasks[0].classes) == 6
    assert [(one.name, one.role, len(one.classes)) for one in found.others] == [
        ("kept", "kept", 6),
        ("toy1", "probe", 3),
    ]
    none = stream(*TOYS, "stream.tasks=[toy0,toy2]", "stream.per_request=1", "stream.probes=[none]")
    assert [one.name for one in none.others] == ["kept"]


def test_probes_are_tasks_other_streams_and_datasets(tmp_path: Path) -> None:
    fake_trees.dtd(tmp_path)
    words = ["stream.tasks=[toy0]", "stream.per_request=1", "stream.count=1", f"data={tmp_path}"]
    found = stream(*TOYS, *words, f"stream.probes=[toy2,dtd,{HUNDRED}]")
    assert [one.name for one in found.others] == ["kept", "toy2", "DTD", "first", "second"]
    assert "dtd" in found.facts["folders"]


# ------------------------------------------------------------------------------------------------ images


def test_few_shots_are_the_same_images_in_every_request() -> None:
    found = requests(*FORGET, "stream.shots=2", "stream.per_request=20")
    drawn = [read(one.train) | read(one.forget) for one in found]
    assert [len(images) for images in drawn] == [2 * (100 - 20 * number) for number in range(4)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(drawn))
    assert all(np.bincount(one.forget.labels).max() == 2 for one in found if one.forget)
    facts = stream(*FORGET, "stream.shots=2").facts["shots"][HUNDRED]
    assert list(facts) == list(CLASSES) and {len(images) for images in facts.values()} == {2}


def test_a_ratio_is_drawn_whatever_the_class() -> None:
    found = requests(*FORGET, "stream.ratio=0.5", "stream.per_request=20", "stream.count=2")
    for one in found:
        assert len(one.train) == len(one.retained) * TRAIN // 2 and one.forget and len(one.forget) == 20 * TRAIN // 2
        assert len(set(np.bincount(one.train.labels, minlength=100)[list(one.retained)])) > 1
    assert read(found[1].train) - read(found[0].train)  # every request draws again


def test_missing_classes_are_measured_and_never_read() -> None:
    found = stream(*FORGET, "stream.missing=5", "stream.per_request=20", "seed=3")
    order = class_order("shuffled", 100, 3)
    kept, missing = found.others
    assert (kept.role, missing.role) == ("kept", "missing")
    assert set(kept.test.labels) == set(order[5:20]) and set(missing.test.labels) == set(order[:5])
    assert not any(set(one.train.labels) & set(order[:5]) for one in found.tasks)
    assert set(order[:5]) <= set(found.tasks[-1].retained)


def test_a_class_to_forget_may_be_without_images() -> None:
    words = ["stream.requests=[thing 1 + thing 2,thing 3]", "stream.missing_classes=[thing 2,thing 3,thing 9]"]
    found = stream(*FORGET, *words)
    one, other = found.tasks
    assert one.without_images() == (2,) and other.forget is None and other.without_images() == (3,)
    assert found.facts["without_training_images"] == ["thing 2", "thing 3", "thing 9"]
    assert set(found.others[1].test.labels) == {9}


def test_validation_images_of_the_tasks_are_scored() -> None:
    words = [*TOYS, "stream.per_request=2", "stream.count=2", "stream.tasks=[toy0,toy1]"]
    plain, scored = stream(*words), stream(*words, "evaluate.split=validation")
    for one, other in zip((*plain.tasks, *plain.others), (*scored.tasks, *scored.others), strict=True):
        assert other.train.digest == one.train.digest or one in plain.others
        assert len(other.test) < len(one.test)
    assert sum(len(one.test) for one in (*scored.tasks, *scored.others)) == 3 * 12
    assert scored.tasks[0].validation.digest == scored.tasks[0].test.digest


def test_held_out_images_are_trained_on_in_no_request() -> None:
    found = stream(*FORGET, "stream.per_request=20", "evaluate.split=validation", "evaluate.held_out=0.2")
    scored = set.union(*(read(one.test) for one in (*found.tasks, *found.others)))
    trained = set.union(*(read(one.train) | read(one.forget) for one in found.tasks))
    assert len(scored) == 100 and len(trained) == 100 * (TRAIN - 1) and not scored & trained
    assert list(found.facts["held_out_for_validation"]) == ["first", "second"]


@pytest.mark.parametrize(
    "word",
    ["stream.shots=2", "stream.ratio=0.5", "stream.missing=1", "stream.per_request=3", "stream.class_order=natural",
     "seeds.task_order=7", "stream.options=[copies=2]"],
)  # fmt: skip
def test_the_identity_of_a_request_changes_with_what_matters(word: str) -> None:
    words = [*FORGET, "stream.per_request=2", "stream.count=2"]
    before, after = (stream(*words, *more) for more in ((), (word,)))
    assert before.tasks[1].digest() != after.tasks[1].digest()
    assert before.tasks[1].digest() == stream(*words).tasks[1].digest()


# ------------------------------------------------------------------------------------------------ registered


@pytest.mark.parametrize(
    ("name", "sizes", "stays", "probes"),
    [("forget-pocket", 8, 18, {"digits", "flags"}), ("forget-pocket-tuning", 7, 15, {"letters", "icons"})],
)
def test_the_embedded_streams(name: str, sizes: int, stays: int, probes: set[str]) -> None:
    found = stream(f"stream={name}")
    assert [len(one.forgotten) for one in found.tasks] == [sizes] * 4
    assert len(set(found.others[0].test.labels)) == stays and {one.name for one in found.others[1:]} == probes
    for one in found.tasks:
        assert len(one.train) == 8 * len(one.retained) and len(one.forget) == 8 * sizes


@pytest.mark.parametrize(
    ("name", "dataset", "per", "total"),
    [("forget-cifar100", "cifar100", 4, 20), ("forget-imagenet-r", "imagenet_r", 2, 10)],
)
def test_streams_of_real_datasets(name: str, dataset: str, per: int, total: int, tmp_path: Path) -> None:
    getattr(fake_trees, dataset)(tmp_path)
    words = [f"stream={name}", f"data={tmp_path}", f"stream.per_request={per}", "stream.ratio=null"]
    found = stream(*words)
    base = stream(f"stream={resolve(words, need_method=False).stream_settings.of}", f"data={tmp_path}")
    assert found.tasks[0].prompts == tuple(prompt for task in base.tasks for prompt in task.prompts)
    assert len(found.tasks[0].classes) == total and len(found.tasks[3].retained) == total - 4 * per
    assert found.differences == base.differences
    # The images are those of the dataset, decoded once for all requests.
    whole = found.tasks[0].train.images
    assert all(one.train.images is not None and one.train.whole for one in found.tasks)
    assert whole.images.images is not None
    assert cli.main(["data", name, f"data={tmp_path}", *words[2:]]) == 1  # readable, and not the published images


def test_the_table_of_streams_is_true() -> None:
    named = {name: entry for name, entry in registry.entries("stream").items() if entry.facts.get("kind")}
    assert set(named) == {"forget", "forget-pocket", "forget-pocket-tuning", "forget-cifar100", "forget-imagenet-r"}
    for name, entry in named.items():
        cls: Any = registry.load("stream", name)
        assert {key: getattr(cls, key) for key in entry.facts} == dict(entry.facts) and cls.description
        assert f"{cls.defaults['train.epochs']} epochs, batch {cls.defaults['train.batch_size']}" in cls.budget
        assert label_space_of(cls, cls.Settings()) == "task" and issubclass(cls, Stream)


def test_the_table_of_methods_is_true() -> None:
    for name, entry in registry.entries("method").items():
        cls: Any = registry.load("method", name)
        assert entry.facts.get("kinds", "learning") == ", ".join(cls.kinds), f"{name} must say kinds itself"


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stream.requests=[thing 3 + thong 4]"], '"thong 4", which is no class of the stream .did you mean "thing 4"'),
        (["stream.requests=[thing 3,thing 4 + thing 3]"], 'forgets "thing 3" twice, in request-1 and request-2'),
        (["stream.requests=[thing 3 + thing 3]"], 'forgets "thing 3" twice, in request-1 and request-1'),
        (["stream.requests=[first,second]"], "the requests leave no class of the stream: let at least one stay"),
        (["stream.count=5", "stream.per_request=20"], "requests of stream.per_request=20 leave none of the 100"),
        (["stream.count=200", "stream.per_request=1"], "leave none of the 100 classes: lower one of the two"),
        (["stream.missing=90"], "stream.missing=90 is more than the 80 classes that stay"),
        (["stream.missing=80"], "every class that stays is without training images: leave some"),
        (["stream.missing_classes=[nothing]"], 'stream.missing_classes names "nothing", which is no class'),
        (["stream.tasks=[third]"], "stream.tasks names third, which is no task of stream"),
        (["stream.shots=9"], "has 5 training images and stream.shots=9"),
        (["stream.shots=2", "stream.ratio=0.5"], "stream.shots and stream.ratio are both given: leave one out"),
        (["stream.requests_file=nowhere.yaml"], "stream.requests_file=nowhere.yaml is not there or cannot be read"),
        (["stream.of=hundrid"], 'stream.of=hundrid: unknown stream "hundrid"'),
        (["stream.of=forget"], "stream.of=forget: it asks to forget too; name a stream of tasks to learn"),
        (["stream.options=[copys=2]"], 'unknown setting "stream.copys" .did you mean "stream.copies"'),
        (["stream.options=[copies=2,name=toy]"], '"name=toy" is no setting of stream .*: leave it out, and name the'),
        (["stream.probes=[nowhere]"], "stream.probes names nowhere, which is no stream and no other task of"),
        (["stream.tasks=[first]", "stream.probes=[secnd]"], 'no other task of .* .did you mean "second"'),
        (['stream.requests=["thing 3\\n' + "x" * 999 + '"]'], 'names "thing 3 x{92}", which is no class of the stream'),
                (["start=nowhere"], "start=nowhere holds no run: give a run directory"),
        ([f"stream.of={TOY}", "stream.requests=[red thing]"], 'names "red thing", which several classes are called'),
        (
            [f"stream.of={TOY}", "stream.requests=[toy0]", 'evaluate.templates=["a bad {}"]'],
            "evaluate.templates is for class names, and those of this stream are whole prompts",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_before_anything_is_written(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    method = tmp_path / "method.py"
    method.write_text(SHIFT)
    line = [f"method={method}", f"model={TOY}", *FORGET, *words, "out=out", "track.wandb=off", "device=cpu"]
    if not any(word.startswith(("stream.requests", "stream.per_request")) for word in words):
        line.append("stream.per_request=5")
    assert cli.main(["run", *line]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert re.search(sentence, said), said
    assert not (tmp_path / "out").exists()


def test_only_a_stream_that_asks_to_forget_has_a_start() -> None:
    with pytest.raises(UserError, match='start=runs/x is for streams that ask to forget, and stream "pocket" asks to'):
        resolve(["method=lora", "stream=pocket", "start=runs/x"])


def test_a_method_that_only_forgets_has_requests_where_no_stream_is_given(tmp_path: Path) -> None:
    """So that every line without a stream works: that of ``tune``, ``check`` and ``profile`` with settings."""
    given, words = resolve(["method=gs-lora", "stream=forget-pocket"]), ["method=gs-lora"]
    found = resolve(words)
    assert found.run == given.run and fingerprint(found.flat) == fingerprint(given.flat)
    assert resolve(["method=lora"]).run.stream == resolve([], need_method=False).run.stream == "pocket"
    (tmp_path / "shift.py").write_text(SHIFT)
    assert resolve([f"method={tmp_path / 'shift.py'}"]).run.stream == "pocket"
    with pytest.raises(UserError, match='method "gs-lora" forgets classes and stream "pocket" asks to learn'):
        resolve([*words, "stream=pocket"])


@pytest.mark.parametrize("kinds", ["None", "()", '"forgetting"', '("learn",)'])
def test_a_method_of_unknown_kinds_is_refused(kinds: str, tmp_path: Path) -> None:
    (tmp_path / "nothing.py").write_text(NO_OP.replace('("forgetting",)', kinds))
    with pytest.raises(UserError, match='method "nothing" has other kinds than .*: give it a tuple of one or both'):
        resolve([f"method={tmp_path / 'nothing.py'}"])


@pytest.mark.parametrize("text", ["", "first", "- {a: b}", "- []", "- [[a]]", "- [a", "3"])
def test_a_file_without_requests_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "requests.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"lists no requests|is not YAML"):
        stream(*FORGET, f"stream.requests_file={file}")
    with pytest.raises(UserError, match="is no file: write one with a list of names for each request"):
        stream(*FORGET, f"stream.requests_file={tmp_path}")


# ------------------------------------------------------------------------------------------------ start=RUN


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    (folder / "shift.py").write_text(SHIFT)
    (folder / "nothing.py").write_text(NO_OP)
    (folder / "back.py").write_text(BACK)
    return folder


def go(method: Path, out: Path, **more: Any) -> Any:
    words = {"method": str(method), "model": TOY, "out": str(out), "device": "cpu", "track.wandb": "off"}
    return run({**words, "cache.gb": 0, **more})


ASKED = {"stream": "forget", "stream.of": TOY, "stream.options": ["count=2"], "stream.requests": ["toy0/red thing"]}


@pytest.fixture(scope="module")
def learned(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = go(files / "shift.py", tmp_path_factory.mktemp("runs"), stream=TOY, **{"stream.count": 2}).path
    return path


def test_a_run_begins_with_the_final_weights_of_another(
    files: Path, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = go(files / "nothing.py", tmp_path, **ASKED)
    assert re.search(r" on forget \(\d requests\), ", "".join(capsys.readouterr()))
    again = go(files / "nothing.py", tmp_path, start=str(learned), **ASKED)
    assert plain.path != again.path
    last = load(learned, {"device": "cpu"}).clip.model.state_dict()
    now = load(again.path, {"device": "cpu"}).clip.model.state_dict()
    assert all(torch.equal(last[name], now[name]) for name in last)
    untrained = load(plain.path, {"device": "cpu"}).clip.model.state_dict()
    assert any(not torch.equal(last[name], untrained[name]) for name in last)
    # Row 0 on the same images among the same names is what the run of before ends with.
    measured = evaluate(learned, {**ASKED, "out": str(tmp_path / "e")})
    matrix = read_matrix(again.path)
    row = {name: matrix.accuracy(0, column) for column, name in enumerate(matrix.columns)}
    assert row == pytest.approx(measured.accuracies)
    pretrained = Identity.read(plain.path).weights_sha256
    assert Identity.read(again.path).weights_sha256 != pretrained
    assert unpack((again.path / "model.safetensors").read_bytes())[1]["weights_sha256"] == pretrained


def test_a_run_that_began_elsewhere_is_loaded_and_measured_without_that_run(files: Path, tmp_path: Path) -> None:
    first = go(files / "shift.py", tmp_path / "a", stream=TOY, **{"stream.count": 2}).path
    after = go(files / "shift.py", tmp_path, start=str(first), **ASKED)
    before = load(after.path, {"device": "cpu"}).clip.model.state_dict()
    (first / "model.safetensors").unlink()
    now = load(after.path, {"device": "cpu"}).clip.model.state_dict()
    assert all(torch.equal(before[name], now[name]) for name in now)
    assert evaluate(after.path, {"out": str(tmp_path / "e"), "device": "cpu"}).same
    learning = evaluate(after.path, {"stream": TOY, "out": str(tmp_path / "e"), "device": "cpu"})
    assert list(learning.accuracies) == ["toy0", "toy1", "toy2"]
    recorded = json.loads((learning.path / "identity.json").read_text())["settings"]
    assert recorded["start_sha256"]["value"]


def test_a_run_that_began_elsewhere_continues_to_the_same_bits(
    files: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are the pre-trained ones again are kept too: the run began with others."""
    asked = {**ASKED, "stream.requests": ["toy0/red thing", "toy1/red thing"], "start": str(learned)}
    whole = go(files / "back.py", tmp_path / "a", **asked).path
    with monkeypatch.context() as patch:
        measure = Session._measure

        def broken(self: Session) -> None:
            if self.progress.row == 2:
                raise KeyboardInterrupt
            measure(self)

        patch.setattr(Session, "_measure", broken)
        with pytest.raises(KeyboardInterrupt):
            go(files / "back.py", tmp_path / "b", **asked)
    again = go(files / "back.py", tmp_path / "b", **asked).path
    for name in ("accuracy.csv", "outcomes.csv", "model.safetensors"):
        assert (whole / name).read_bytes() == (again / name).read_bytes()


def test_the_weights_and_not_the_path_of_the_start_decide(learned: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "model.safetensors").write_bytes((learned / "model.safetensors").read_bytes())
    words = ["method=no-op", "stream=forget-pocket"]
    here, there = (fingerprint(resolve([*words, f"start={path}"]).flat) for path in (learned, moved))
    assert here == there != fingerprint(resolve(words).flat)
    (moved / "model.safetensors").write_bytes(b"other")
    assert fingerprint(resolve([*words, f"start={moved}"]).flat) != here


def test_other_starts_are_refused(files: Path, learned: Path, tmp_path: Path) -> None:
    def refused(sentence: str, start: Path, **more: Any) -> None:
        with pytest.raises(UserError, match=sentence):
            go(files / "nothing.py", tmp_path / "out", start=str(start), **ASKED, **more)
        assert not (tmp_path / "out").exists()

    refused("is a run of model tiny and this is one of model tiny, with other weights", learned, **{"model.seed": 1})
    copy = Path(shutil.copytree(learned, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    refused("were not kept", copy)
    (copy / "model.safetensors").write_bytes((learned / "model.safetensors").read_bytes()[:-9])
    refused("cannot be read", copy)
    (copy / "summary.json").unlink()
    refused("cannot be begun with .unfinished", copy)
    heads = go(
        Path("keeplora-plus"), tmp_path / "h", stream=TOY, **{"stream.count": 1, "train.epochs": 1, "method.rank": 2}
    )
    refused("ends with more than weights", heads.path)

"""Records and checkpoints with something else in them than a run wrote: repaired, skipped or refused."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.toy_runs import Killed, assert_same, words

from bench.cli import main as cli
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.learning.training_state import TrainingState
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record.checkpoint import Checkpoints, digest_of, pack, unpack
from bench.runs.run import run
from bench.runs.session import Session


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, Path]:
    """The words and the directory of a run that ended while it trained its second task, and that of a straight one."""
    folder, save = tmp_path_factory.mktemp("begun"), Session.save

    def dying(self: Session, training: TrainingState | None = None) -> None:
        save(self, training)
        if self.progress.row == 2 and training is not None and training.values["step"] == 2:
            raise Killed

    line = words(folder / "runs", "lora", "checkpoint.every=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "save", dying)
        with pytest.raises(Killed):
            run(resolve(line))
    return line, run_directory(resolve(line)), run(resolve(words(folder / "straight", "lora")))


@pytest.fixture
def unfinished(begun: tuple[list[str], Path, Path], tmp_path: Path) -> tuple[list[str], Path]:
    """A copy of the unfinished run."""
    line, directory, _ = begun
    out = next(word for word in line if word.startswith("out=")).removeprefix("out=")
    shutil.copytree(out, tmp_path / "runs")
    line = [f"out={tmp_path / 'runs'}" if word.startswith("out=") else word for word in line]
    return line, tmp_path / "runs" / directory.relative_to(out)


JUNK = [None, b"", b"{", b"[]", b"\xff", b"[" * 200_000]


@pytest.mark.parametrize("content", JUNK)
def test_a_lost_environment_does_not_end_a_run(content: bytes | None, unfinished, begun, capsys) -> None:
    line, directory = unfinished
    (directory / "environment.json").unlink()
    if content is not None:
        (directory / "environment.json").write_bytes(content)
    assert_same(begun[2], run(resolve(line)))
    assert f"note: {directory / 'environment.json'} is lost (" in capsys.readouterr().out
    found = json.loads((directory / "environment.json").read_text())
    assert list(found) == ["continued"] and len(found["continued"]) == 1


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_what_says_which_run_it_is_is_written_again(content: bytes | None, unfinished, begun) -> None:
    line, directory = unfinished
    before = json.loads((directory / "identity.json").read_text())
    for name in ("identity.json", "config.yaml"):
        (directory / name).unlink()
        if content is not None:
            (directory / name).write_bytes(content)
    assert_same(begun[2], run(resolve(line)))
    found = json.loads((directory / "identity.json").read_text())
    moved = {"command": [], "settings": {**before["settings"], "out": found["settings"]["out"]}}
    assert {**found, "command": []} == {**before, **moved}
    assert "out:" in (directory / "config.yaml").read_text()


@pytest.mark.parametrize("content", [b"", b'{"status": "fin', b"{}", b'{"status": "stopped"}', b"[" * 200_000])
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_damaged_summary_is_refused_and_nothing_is_removed(
    state: str, content: bytes, unfinished, begun, tmp_path: Path
) -> None:
    line, directory = unfinished
    if state == "finished":
        shutil.rmtree(directory)
        shutil.copytree(begun[2], directory)
    (directory / "summary.json").write_bytes(content)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    refused = rf"{directory / 'summary.json'} of a finished run cannot be read \(.+\): move {directory} away to run"
    with pytest.raises(UserError, match=refused):
        run(resolve(line))
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def forged(directory: Path, kind: str, change: Callable[[dict, dict], None]) -> None:
    """Leave one complete checkpoint, and one inside a task if asked for, changed and with the right checksum."""
    folder = directory / "checkpoints"
    files = {kind: sorted(folder.glob(f"*-{kind}.*"))[-1] for kind in ("task", "step")}
    content = {kind: unpack(path.read_bytes()) for kind, path in files.items()}
    for path in folder.iterdir():
        path.unlink()
    for number, (name, (tensors, values)) in enumerate(content.items(), start=1):
        if name == kind:
            change(tensors, values)
        if name == "step":
            values["base"] = 1
        if name == "task" or kind == "step":
            packed = pack(tensors, values)
            (folder / f"{number:06d}-{name}.{digest_of(packed)}.safetensors").write_bytes(packed)


def drop(*path: str) -> Callable[[dict, dict], None]:
    def change(tensors: dict, values: dict) -> None:
        for key in path[:-1]:
            values = values[key]
        del values[path[-1]]

    return change


def put(value: object, *path: str) -> Callable[[dict, dict], None]:
    def change(tensors: dict, values: dict) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return change


def weight(tensors: dict) -> str:
    return next(name for name in tensors if name.startswith("weight/"))


def start(tensors: dict, text: str) -> str:
    return next(name for name in tensors if name.startswith(text))


FORGED = {
    "row missing": ("task", drop("row"), "whose row cannot be"),
    "row as text": ("task", put("1", "row"), "whose row cannot be"),
    "row below the first": ("task", put(-1, "row"), "whose row cannot be"),
    "row beyond the last": ("task", put(4, "row"), "whose position among the tasks cannot be"),
    "row and learned": ("task", lambda _, values: values.update(row="x", learned=1), "whose row and learned cannot be"),
    "figures missing": ("task", lambda _, values: values.update(row=1, learned=True, figures={}), "position among"),
    "figures with names of their own": ("task", put({"row": 1}, "figures"), "whose figures cannot be"),
    "code as text": ("task", put("abc", "code"), "whose code cannot be"),
    "code of other parts": ("task", put({"seed": 1}, "code"), "whose code cannot be"),
    "code as a number": ("task", put({"code_revision": 1}, "code"), "whose code cannot be"),
    "seconds as a list": ("task", put([1], "seconds"), "whose seconds cannot be"),
    "seconds that are none": ("task", put({"total": "long"}, "seconds"), "whose seconds cannot be"),
    "files missing": ("task", drop("files", "outcomes.csv"), "whose files cannot be"),
    "files as a list": ("task", put([], "files"), "whose files cannot be"),
    "text that is none": ("task", put(7, "files", "accuracy.csv"), "whose files cannot be"),
    "another matrix": ("task", put("row", "files", "accuracy.csv"), "does not fit this run .accuracy.csv, line 1: "),
    "the matrix of other tasks": (
        "task",
        lambda _, values: values["files"].update(
            {"accuracy.csv": AccuracyMatrix(["a"]).csv(), "outcomes.csv": Outcomes(["a"]).csv()}
        ),
        "it has the accuracies of other tasks",
    ),
    "other outcomes": ("task", put("row", "files", "outcomes.csv"), "does not fit this run .outcomes.csv, line 1: "),
    "version missing": ("task", drop("version"), "of another version of keeplora-bench"),
    "decisive missing": ("task", drop("decisive"), "whose decisive cannot be"),
    "a weight of another shape": (
        "task", lambda tensors, _: tensors.update({weight(tensors): torch.ones(2, 7)}), "does not fit this run"
    ),
    "a weight that is unknown": (
        "task", lambda tensors, _: tensors.update({"weight/other": torch.ones(2)}), "does not fit this run .*other"
    ),
    "training outside of a task": ("task", put({}, "training"), "position among the tasks"),
    "no training": ("step", drop("training"), "position among the tasks"),
    "training is empty": ("step", put({}, "training"), "does not fit this run .*epoch"),
    "a step that is none": ("step", put(-1, "training", "step"), "does not fit this run .no task is at that step"),
    "a step beyond the last": ("step", put(10**6, "training", "step"), "no task is at that step"),
    "another step of the schedule": ("step", put(7, "training", "schedule", "last_epoch"), "is at another step"),
    "a learning rate that is none": ("step", put(["x"], "training", "schedule", "_last_lr"), "run ._last_lr is"),
    "no groups": ("step", put([], "training", "groups"), "does not fit this run"),
    "other groups": ("step", put([{"lr": []}], "training", "groups"), "does not fit this run .lr is"),
    "no sum of losses": ("step", lambda tensors, _: tensors.pop("training/loss sum"), "does not fit .*loss sum"),
    "another sum of losses": (
        "step", lambda tensors, _: tensors.update({"training/loss sum": torch.ones(3)}), "sum of losses is no number"
    ),
    "no state of a tensor": (
        "step", lambda tensors, _: tensors.pop(start(tensors, "training/0/exp_avg")), "optimiser keeps something else"
    ),
    "a state of another shape": (
        "step", lambda tensors, _: tensors.update({"training/0/exp_avg": torch.ones(3)}), "trains other tensors"
    ),
    "a state of no tensor": (
        "step", lambda tensors, _: tensors.update({"training/99/exp_avg": torch.ones(3)}), "trains other tensors"
    ),
    "an update that is half there": (
        "step", lambda tensors, _: tensors.pop(next(n for n in tensors if n.endswith("/B"))), "does not fit this run"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_checkpoint_with_a_checksum_and_wrong_content_is_refused(name: str, unfinished, capsys) -> None:
    line, directory = unfinished
    kind, change, sentence = FORGED[name]
    forged(directory, kind, change)
    before = {path: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert cli.main(["run", *line]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and re.search(f"^error: {directory}.*{sentence}.*", errors), errors
    if kind == "task":
        assert {path: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
    assert len(list((directory / "checkpoints").iterdir())) == (1 if kind == "task" else 2)


def test_a_checkpoint_that_is_packed_again_is_taken(unfinished, begun) -> None:
    line, directory = unfinished
    forged(directory, "step", lambda tensors, values: None)
    assert_same(begun[2], run(resolve(line)))


@pytest.mark.parametrize("number", [999_999, 1_000_000])
def test_any_number_of_a_checkpoint_is_followed_by_the_next(number: int, unfinished) -> None:
    """A file that nobody can use must not hide those that are written after it."""
    folder = unfinished[1] / "checkpoints"
    (folder / f"{number}-task.{'0' * 32}.safetensors").write_bytes(b"")
    checkpoints = Checkpoints(folder, None, print)
    checkpoints.save({}, {"row": 1}, complete=True)
    (saved,) = checkpoints.load()
    assert saved.number == number + 1 and saved.values["row"] == 1
    checkpoints.clear()
    assert not folder.exists()


@pytest.mark.parametrize("part", ["checkpoints", "a checkpoint", "summary.json"])
def test_what_cannot_be_read_is_not_begun_again(part: str, unfinished, monkeypatch) -> None:
    """It may be there for its owner, and beginning again would remove it."""
    line, directory = unfinished
    newest = sorted((directory / "checkpoints").glob("*-task.*"))[-1]
    refused = {"a checkpoint": newest}.get(part, directory / part)
    original, scan = os.open, os.scandir

    def refuse(path: object) -> None:
        if isinstance(path, str | Path) and Path(path) == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", lambda path, *rest, **named: refuse(path) or original(path, *rest, **named))
    monkeypatch.setattr(os, "listdir", lambda path=".": refuse(path) or [one.name for one in scan(path)])
    monkeypatch.setattr(os, "scandir", lambda path=".": refuse(path) or scan(path))
    if part == "summary.json":
        (directory / part).write_text("{}")
    with pytest.raises(UserError, match=f"{refused}.* cannot be read .Permission denied.*move {directory} away"):
        run(resolve(line))
    assert newest.exists()

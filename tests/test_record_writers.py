"""Both writers of a record: the one that writes, and the one that stands in for it in the other processes of a run."""

import inspect
import json
from pathlib import Path

import pytest
import torch

from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix
from bench.record.checkpoint import Checkpoints
from bench.record.record import Record, RecordWriter, SilentRecord, record_of
from bench.record.schema import BATCHES, Identity, SettingValue, Summary

PASS = {"task": "a", "purpose": "train", "epoch": 0, "batches": [[0, 1]]}


def matrix() -> AccuracyMatrix:
    found = AccuracyMatrix(["a"])
    found.set(0, 0, 1, 2)
    return found


def use(record: RecordWriter) -> None:
    """Do all that a run does with its record."""
    device = torch.device("cpu")
    with record.held():
        record.begin()
        record.identity(Identity(settings={"seed": SettingValue(0, "default")}))
        record.environment(device)
        record.text(BATCHES, "")
        record.line(BATCHES, PASS)
        size = record.size(BATCHES)
        record.line(BATCHES, {**PASS, "epoch": 1})
        record.event("row", row=0, after="zero-shot", accuracy={"a": 50.0})
        record.matrix(matrix())
        with record.writing():
            assert record.read("metrics.jsonl") in ("", '{"event": "row", "row": 0, "after": "zero-shot", '
                                                    '"accuracy": {"a": 50.0}}\n')  # fmt: skip
        assert record.cut_batches(size or 0) in (set(), {("a", "train", 0)})
        record.continued(device, {"code_revision": "abc"})
        record.write("model.safetensors", b"weights")
        record.summary(Summary("finished", "s", "m", "lora", "f", 0, {"last": 50.0}, {"total": 1.0}))


def test_what_is_written(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    use(record_of(directory, leads=True))
    assert sorted(path.name for path in directory.iterdir()) == [
        "accuracy.csv", "batches.jsonl", "environment.json", "identity.json", "metrics.jsonl", "model.safetensors",
        "summary.json",
    ]  # fmt: skip
    assert AccuracyMatrix.from_csv(directory / "accuracy.csv") == matrix()
    assert json.loads((directory / BATCHES).read_text()) == PASS
    identity = (directory / "identity.json").read_text(encoding="utf-8")
    assert '\n "settings": {\n  "seed": {\n   "value": 0,\n   "source": "default"\n  }\n },\n' in identity
    (continued,) = json.loads((directory / "environment.json").read_text())["continued"]
    assert continued["code"] == {"code_revision": "abc"} and continued["python"]
    assert Summary.read(directory).metrics == {"last": 50.0}


def test_who_does_not_lead_writes_nothing(tmp_path: Path) -> None:
    use(record_of(tmp_path / "run", leads=False))
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_lead_reads_nothing(tmp_path: Path) -> None:
    """What the leading process is about to write may be half there."""
    (tmp_path / BATCHES).write_text('{"task"')
    record = record_of(tmp_path, leads=False)
    assert record.cut_batches(7) == set() and record.size(BATCHES) is None and record.read(BATCHES) == ""
    assert (tmp_path / BATCHES).read_text() == '{"task"'


def test_the_silent_record_has_a_body_of_its_own_wherever_the_other_one_writes() -> None:
    """Otherwise a method that is added to the one would write in every process."""
    own = {name for name, value in vars(Record).items() if inspect.isfunction(value)} - {"__init__", "cut_batches"}
    assert own == {name for name, value in vars(SilentRecord).items() if inspect.isfunction(value)}
    assert own == RecordWriter.__abstractmethods__


def test_lost_lines_are_named(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with pytest.raises(UserError, match=r"batches.jsonl has lost lines .* move .* away to run it again"):
        record.cut(BATCHES, 1)


def test_scratch_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".0123.tmp").write_text("half")
    with Record(tmp_path).held():
        assert not list(tmp_path.glob("*.tmp"))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Record(tmp_path).held():
        second = Record(tmp_path).held()
        with pytest.raises(UserError, match="is being written by process"):
            second.__enter__()
    with Record(tmp_path).held():
        pass


# ----------------------------------------------------------------------------------------- checkpoints


def test_who_does_not_lead_loads_checkpoints_only(tmp_path: Path) -> None:
    mine = Checkpoints(tmp_path / "checkpoints", 0, print)
    mine.save({"weight": torch.ones(2)}, {"row": 1}, complete=True)
    files = sorted((tmp_path / "checkpoints").iterdir())
    other = Checkpoints(tmp_path / "checkpoints", 0, print, leads=False)
    assert mine.due() and not other.due()
    other.save({}, {}, complete=True)
    other.clear()
    assert sorted((tmp_path / "checkpoints").iterdir()) == files and len(files) == 1
    (saved,) = other.load()
    assert saved.values["row"] == 1 and saved.tensors["weight"].tolist() == [1, 1]
    mine.clear()
    assert list(tmp_path.iterdir()) == []


def test_half_a_checkpoint_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".0123.tmp").write_text("half")
    checkpoints = Checkpoints(tmp_path, None, print)
    checkpoints.save({}, {}, complete=True)
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".4567.tmp").write_text("half")
    checkpoints.clear()
    assert not tmp_path.exists()

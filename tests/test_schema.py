"""What the JSON files of a record hold: typed, refused where damaged, read without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_records import change, make, write

from bench.record.events import EpochEvent, RowEvent, read_events
from bench.record.json_file import read_object
from bench.record.schema import Identity, SettingValue, Summary, is_finished

ROOT = Path(__file__).parent.parent


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = make(tmp_path, seed=3)
    change(path, "identity.json", plugins_sha256={"method": "f" * 64})
    change(path, "summary.json", seconds_of_parts={"gradient": 1.5}, seconds_reused={"gradient": 0.5})
    for cls, name in ((Identity, "identity.json"), (Summary, "summary.json")):
        content = cls.read(path).to_json()
        assert content == read_object(path / name)
        assert cls.from_json(json.loads(json.dumps(content))) == cls.read(path)


def test_the_order_of_the_parts_is_that_of_the_record(tmp_path: Path) -> None:
    """Rewriting a record must not change a byte."""
    path = make(tmp_path)
    assert list(Identity.read(path).to_json()) == [
        "fingerprint", "seed", "command", "settings", "seeds", "weights_sha256", "label_space", "tasks", "manifests",
        "prompts_sha256", "code_revision", "plugins_sha256", "flags",
    ]  # fmt: skip
    assert list(Summary.read(path).to_json()) == [
        "status", "stream", "model", "method", "fingerprint", "seed", "metrics", "seconds", "seconds_of_parts",
        "seconds_reused", "trainable_parameters", "stored_numbers", "stored_bytes", "peak_memory_mb",
    ]  # fmt: skip


def test_the_parts_are_typed(tmp_path: Path) -> None:
    path = make(tmp_path, seed=3)
    identity, summary = Identity.read(path), Summary.read(path)
    assert identity.settings["seed"] == SettingValue(3, "user") and identity.tasks == ["a", "b"]
    assert identity.seeds == {"init": 3} and identity.plugins_sha256 == {}
    assert summary.finished and summary.method == "keeplora" and summary.metrics["last"] == 50
    assert summary.seconds_of_parts == {} and summary.stored_bytes == 2_500_000


def test_an_old_record_lacks_what_was_not_yet_recorded() -> None:
    identity = Identity.from_json({"settings": {"train.lr": {"value": 1}}, "seeds": None, "of a later version": 1})
    assert identity.settings == {"train.lr": SettingValue(1, "unknown")}
    assert (identity.tasks, identity.seeds, identity.weights_sha256) == ([], {}, None)


@pytest.mark.parametrize(
    ("name", "part", "value", "reason"),
    [
        ("identity.json", "settings", None, '"settings" is not of type dict'),
        ("identity.json", "settings", {"train.lr": 1}, 'the setting "train.lr" has no value'),
        ("identity.json", "tasks", "a", '"tasks" is not of type list'),
        ("identity.json", "seed", True, '"seed" is not of type int'),
        ("summary.json", "status", 1, '"status" is not of type str'),
        ("summary.json", "metrics", {"last": "high"}, '"last" is not a number'),
        ("summary.json", "seconds", {"total": True}, '"total" is not a number'),
        ("summary.json", "peak_memory_mb", "much", '"peak_memory_mb" is not a number'),
    ],
)
def test_damage_is_named(name: str, part: str, value: object, reason: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    change(path, name, **{part: value})
    with pytest.raises(ValueError, match=reason):
        (Identity if name == "identity.json" else Summary).read(path)


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match='no "settings" in it'):
        Identity.from_json({})
    with pytest.raises(ValueError, match='no "status" in it'):
        Summary.from_json({"metrics": {}})


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    write(path, "summary.json", [1])
    with pytest.raises(ValueError, match="not a JSON object"):
        Summary.read(path)
    assert not is_finished(path)


def test_finished_runs(tmp_path: Path) -> None:
    path = make(tmp_path)
    assert is_finished(path) and not is_finished(tmp_path)
    change(path, "summary.json", status="stopped")
    assert not is_finished(path) and not Summary.read(path).finished
    for damaged in ("", "{}", '{"status": "fin', "\udcff"):
        (path / "summary.json").write_bytes(damaged.encode("utf-8", "surrogateescape"))
        assert not is_finished(path)


# ---------------------------------------------------------------------------------------------- events


def events(path: Path, *lines: object) -> None:
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_events_are_typed(tmp_path: Path) -> None:
    epoch = {"event": "epoch", "task": "a", "step": 4, "epoch": 0, "loss": 0.5, "lr": 0.1}
    row = {"event": "row", "row": 1, "after": "a", "accuracy": {"a": 50.0}, "trained": 7, "seconds": 1.5}
    events(tmp_path, epoch, {"event": "of a later version"}, row)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "epo')  # still being written
    assert read_events(tmp_path) == [
        EpochEvent("a", 4, 0, 0.5, 0.1),
        RowEvent(1, "a", {"a": 50.0}, {"trained": 7, "seconds": 1.5}),
    ]


def test_a_run_without_events(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    events(tmp_path)
    assert read_events(tmp_path) == []


@pytest.mark.parametrize("line", [[1], {"no": "event"}, {"event": "row", "row": 1}, {"event": "epoch", "task": "a"}])
def test_a_damaged_event_is_named(line: object, tmp_path: Path) -> None:
    events(tmp_path, {"event": "other"}, line)
    with pytest.raises(ValueError, match="metrics.jsonl, line 2 is damaged"):
        read_events(tmp_path)


def test_no_torch_and_nothing_that_is_slow_to_import() -> None:
    code = "import sys, bench.record.events; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

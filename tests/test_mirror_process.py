"""What arrives in W&B: a record as rows, offline files, runs on a server, runs that are continued."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.fake_wandb import KEY, FakeWandb
from support.mirroring import (
    RECORD,
    ROWS,
    TOY,
    cut,
    logs,
    mirrored,
    toy,
    until,
)

from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.scalars import average_mtil, last, so_far, transfer_by_column
from bench.record.events import EpochEvent, read_events
from bench.runs.run import run
from bench.tracking.mirror_state import load_state
from bench.tracking.payload import SMALL, heatmap, history, record_files, weight_files

pytest_plugins = ["support.mirror_fixtures"]

ROOT = Path(__file__).parent.parent

# --------------------------------------------------------------------------------------------------- the record as rows


def test_scalars_so_far_end_as_those_of_the_whole_matrix() -> None:
    matrix = AccuracyMatrix.from_percent(["a", "b", "c"], [[90, 40, 30], [80, 70, 20], [60, 50, 100]], [10, 20, 30])
    assert so_far(matrix, 0) == {"last": 20.0}
    assert so_far(matrix, 1) == pytest.approx({"transfer": 35.0, "average": 160 / 3, "last": 160 / 3})
    values = {"transfer": transfer_by_column(matrix), "average": average_mtil(matrix), "last": last(matrix)}
    assert so_far(matrix, 3) == pytest.approx(values)
    seen = AccuracyMatrix.from_percent(["a", "b"], [[90, None], [80, 70]])
    assert so_far(seen, 0) == {}
    assert so_far(seen, 2) == {"average": 82.5, "last": 75.0}


def test_steps_are_counted_over_the_tasks() -> None:
    events = [EpochEvent(task, step, epoch, 1.0, 0.1) for task in ("a", "b") for epoch, step in ((0, 5), (1, 10))]
    assert [row["train/step"] for row in history(events, ["a", "b"])] == [5, 10, 15, 20]


def test_a_line_that_is_being_written_waits(record: Path) -> None:
    whole = read_events(record)
    with (record / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert read_events(record) == whole
    assert read_events(record / "nowhere") == []


def test_what_is_no_record_is_not_uploaded(record: Path) -> None:
    (record / "big.jsonl").write_bytes(b"0" * (SMALL + 1))
    (record / "weights.safetensors").write_bytes(b"0")
    (record / "wandb").mkdir()
    (record / "wandb" / "not.safetensors").write_bytes(b"0")
    assert [path.name for path in record_files(record)] == sorted(RECORD)
    assert [path.name for path in weight_files(record)] == ["model.safetensors", "weights.safetensors"]


def test_the_picture_of_the_matrix() -> None:
    import io

    from PIL import Image

    matrix = AccuracyMatrix(["a", "b"])
    matrix.set(0, 0, 0, 10)
    matrix.set(1, 0, 10, 10)
    picture = Image.open(io.BytesIO(heatmap(matrix))).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
    assert {(68, 1, 84), (253, 231, 36)} <= colours  # the ends of the scale: 0 % and 100 %
    assert picture.width > 300 and picture.height > 200


# -------------------------------------------------------------------------------------------------------------- offline


def test_an_offline_run_holds_everything_and_changes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track.wandb=offline", "track.group=g", "track.tags=[a,b]", "track.name=n"]
    directory = run(toy(tmp_path, *words), ["python", "-m", "bench", "run"])
    assert 'W&B, offline: "wandb sync ' in capsys.readouterr().out
    # The record is that of a run without a mirror.
    assert (directory / "accuracy.csv").read_text() == (finished / "accuracy.csv").read_text()
    assert read_events(directory)[:3] == read_events(finished)[:3]
    assert {path.name for path in directory.iterdir()} == {*RECORD, "model.safetensors", "wandb"}

    (log,) = logs(directory)
    assert (log.run.project, log.run.run_group, log.run.display_name) == ("keeplora-bench", "g", "n")
    assert list(log.run.tags) == ["a", "b"] and log.exit_code == 0 and not log.preempting
    identity = json.loads((directory / "identity.json").read_text())
    for key, entry in identity["settings"].items():
        assert log.config[key] == entry["value"]
    assert log.config["fingerprint"] == identity["fingerprint"]
    assert [log.config[kind] for kind in ("method", "stream", "model")] == ["lora", "toy", "tiny"]  # for W&B's filters
    for key in ("weights_sha256", "code_revision", "seeds.data_order", "tasks", "plugins_sha256.method"):
        assert f"identity.{key}" in log.config
    assert "environment.packages.torch" in log.config

    assert [row["_step"] for row in log.history] == list(range(ROWS + 1))
    epochs = [row for row in log.history if "train/step" in row]
    events = read_events(directory)
    assert [row["train/step"] for row in epochs] == [3, 6, 9, 12, 15, 18]
    assert [row["train/loss"] for row in epochs] == [event.loss for event in events if isinstance(event, EpochEvent)]
    assert [row["train/epoch"] for row in epochs] == [0, 1] * 3 and all("train/lr" in row for row in epochs)
    rows = [row for row in log.history if "task" in row]
    assert [row["task"] for row in rows] == [0, 1, 2, 3]
    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    for row in rows:
        for column, name in enumerate(matrix.tasks):
            assert row[f"task/accuracy/{name}"] == pytest.approx(matrix.accuracy(row["task"], column), abs=1e-4)
    assert rows[3]["task/last"] == pytest.approx(last(matrix), abs=1e-4)
    assert rows[3]["task/transfer"] == pytest.approx(transfer_by_column(matrix), abs=1e-4)
    assert {"task/seconds", "task/trained", "task/stored_bytes", "task/peak_memory_mb"} <= set(rows[1])
    assert log.axes["task/*"].step_metric == "task" and log.axes["train/*"].step_metric == "train/step"

    summary = json.loads((directory / "summary.json").read_text())
    metrics = summary["metrics"]
    assert {name for name, value in metrics.items() if value is None} == {"probe", "probe_loss"}  # there are no probes
    for name, value in metrics.items():
        assert log.summary.get(f"final/{name}") == (None if value is None else pytest.approx(value))
    assert log.summary["seconds/total"] == summary["seconds"]["total"]
    assert log.summary["trainable_parameters"] == summary["trainable_parameters"]
    assert log.history[-1]["accuracy/matrix"]["nrows"] == 4
    files = next(directory.glob("wandb/offline-run-*")) / "files"
    table = json.loads((files / log.history[-1]["accuracy/matrix"]["path"]).read_text())
    assert table["columns"] == ["after", "toy0", "toy1", "toy2"] and table["data"][0][0] == "zero-shot"
    assert (files / log.history[-1]["accuracy/heatmap"]["path"]).is_file()
    (found,) = [artifact for artifact in log.artifacts if artifact.type == "record"]
    assert found.name == f"record-{log.run.run_id}"
    assert sorted(entry.path for entry in found.manifest.contents) == sorted(RECORD)


def sync(*folders: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, folders)],
        cwd=folders[0], env={**os.environ, "WANDB_ERROR_REPORTING": "false"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "ERROR" not in done.stdout + done.stderr, done.stderr  # its status is 0 even then


@pytest.mark.slow
def test_offline_runs_are_uploaded_by_sync(server: FakeWandb, record: Path, said: list[str]) -> None:
    """Two fragments of one run, in one command."""
    summary = (record / "summary.json").read_text()
    whole = cut(record, 6)
    mirrored(record, "offline", said).close(1)
    (record / "metrics.jsonl").write_text(whole)
    (record / "summary.json").write_text(summary)
    mirrored(record, "offline", said).close(0)
    first, second = logs(record)
    assert (len(first.history), len(second.history)) == (6, ROWS + 1 - 6)
    assert server.runs == {}
    sync(*sorted(record.glob("wandb/offline-run-*")))
    got = server.run(first.run.run_id)
    assert first.run.run_id == second.run.run_id and len(server.runs) == 1
    assert [row["_step"] for row in got["history"]] == list(range(ROWS + 1))
    assert [artifact["state"] for artifact in server.artifacts.values() if artifact["type"] == "record"] == [
        "COMMITTED"
    ]
    assert server.errors == []


# --------------------------------------------------------------------------------------------------------------- online


def test_an_online_run_says_where_it_is_and_keeps_the_key_to_itself(
    server: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(toy(tmp_path, "track.weights=true"))
    state = load_state(directory)
    assert f"W&B: {state.url}\n" in capsys.readouterr().out
    assert (state.entity, state.project, state.rows) == (server.entity, "keeplora-bench", ROWS + 1)
    got = server.run(state.id)
    assert (got["state"], got["exitcode"], got["groupName"]) == ("finished", 0, "lora toy")
    assert got["config"]["method.name"] == "lora" and len(got["history"]) == ROWS + 1
    assert got["summary"]["final/last"] is not None
    assert any(name.startswith("media/images/accuracy/heatmap") for name in got["files"])
    (found,) = [artifact for artifact in server.artifacts.values() if artifact["type"] == "record"]
    assert found["state"] == "COMMITTED"
    assert {name: found["files"][name] for name in RECORD} == {name: (directory / name).read_bytes() for name in RECORD}
    for path in directory.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    assert server.errors == []


def test_a_continued_run_is_one_run(server: FakeWandb, record: Path, said: list[str]) -> None:
    """The second process finds the record cut back to a checkpoint, and later with the same lines again."""
    summary = (record / "summary.json").read_text()
    whole = cut(record, 6)
    mirrored(record, "online", said).close(143, preempted=True)
    state = load_state(record)
    got = server.run(state.id)
    assert (len(got["history"]), got["state"]) == (6, "preempted")
    (record / "metrics.jsonl").write_text("".join(whole.splitlines(keepends=True)[:3]))
    again = mirrored(record, "online", said)
    until(lambda: len(said) == 2)
    (record / "metrics.jsonl").write_text(whole)
    (record / "summary.json").write_text(summary)
    again.close(0)
    assert load_state(record).id == state.id and len(server.runs) == 1
    assert [row["_step"] for row in got["history"]] == list(range(ROWS + 1))
    assert [row["task"] for row in got["history"] if "task" in row] == [0, 1, 2, 3]
    assert (got["state"], server.errors, again.failure) == ("finished", [], "")


# ----------------------------------------------------------------------------------------------------- agents of sweeps


AGENT = """
import sys
from wandb import wandb_agent
wandb_agent.Agent.POLL_INTERVAL = 0.2
wandb_agent.run_agent(sys.argv[1])
"""


@pytest.mark.slow
def test_a_sweep(server: FakeWandb, tmp_path: Path) -> None:
    words = {
        "stream": TOY, "model": TOY, "out": str(tmp_path), "device": "cpu", "threads": 1, "method.name": "zero-shot",
    }  # fmt: skip
    config = yaml.safe_load(
        """
        program: bench
        method: grid
        parameters: {seed: {values: [0, 1]}}
        command: ["${env}", "${interpreter}", -m, bench, run, "${args_no_hyphens}"]
        """
    )
    config["parameters"].update({key: {"value": value} for key, value in words.items()})
    sweep = server.add_sweep(config, "swept")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WANDB_DIR": str(tmp_path),
        "WANDB_ERROR_REPORTING": "false",
    }
    done = subprocess.run(
        [sys.executable, "-c", AGENT, f"{server.entity}/swept/{sweep}"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(got["config"]["seed"] for got in server.runs.values()) == [0, 1]
    assert {got["name"] for got in server.runs.values()} == set(server.sweeps[sweep]["runs"])
    for got in server.runs.values():
        assert (got["state"], got["project"], got["sweep"]) == ("finished", "swept", sweep)
        assert len([row for row in got["history"] if "task" in row]) == 4
        assert got["summary"]["final/last"] is not None
    assert server.errors == []


@pytest.mark.slow
def test_a_finished_run_shows_its_results_to_the_agent_that_asks_again(
    server: FakeWandb, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.parents[3], tmp_path, dirs_exist_ok=True)
    run(toy(tmp_path))
    assert server.runs == {}  # without an agent it is left alone
    monkeypatch.setenv("WANDB_SWEEP_ID", "swp")
    for name in ("agents1", "agents2"):
        monkeypatch.setenv("WANDB_RUN_ID", name)
        run(toy(tmp_path))
        got = server.run(name)
        assert (len(got["history"]), got["state"], got["sweep"]) == (ROWS + 1, "finished", "swp")

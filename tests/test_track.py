"""W&B as the mirror of a run: what is wanted, what arrives there, and what happens in trouble."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb_log
import yaml
from fake_wandb import KEY, FakeWandb

from bench.cli import main as cli
from bench.config.resolve import resolve
from bench.config.run_settings import Resolved
from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.scalars import average_mtil, last, so_far, transfer_by_column
from bench.runs.run import run
from bench.tracking import mirror as track
from bench.tracking import mirror_process as mirror
from bench.tracking.mirror import Mirror, Wanted, run_name, wanted

ROOT = Path(__file__).parent.parent
TOY = str(Path(__file__).parent / "toy.py")
RECORD = [
    "config.yaml",
    "metrics.jsonl",
    "accuracy.csv",
    "outcomes.csv",
    "identity.json",
    "environment.json",
    "summary.json",
]
ROWS = 10
"""Events of a toy run of three tasks and two epochs."""


def toy(out: Path, *words: str) -> Resolved:
    return resolve(
        [f"stream={TOY}", f"model={TOY}", f"out={out}", "device=cpu", "method=lora", "method.rank=4", *words]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was not mirrored."""
    return run(toy(tmp_path_factory.mktemp("runs"), "track.wandb=off"), ["python", "-m", "bench", "run"])


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """A server on loopback that this process and its children are logged in to."""
    with FakeWandb() as found:
        for key, value in found.env().items():
            monkeypatch.setenv(key, value)
        yield found


@pytest.fixture
def said() -> list[str]:
    return []


def plan(mode: str, **values: object) -> Wanted:
    known = {"project": "p", "entity": None, "group": "g", "name": "n", "tags": ["a", "b"], "weights": False}
    return Wanted(mode, "", **{**known, **values})  # type: ignore[arg-type]


def mirrored(directory: Path, mode: str, said: list[str], waits: float = 60, **values: object) -> Mirror:
    """A mirror of a record, started."""
    found = Mirror(plan(mode, **values), said.append, waits)
    found.start(directory)
    return found


def logs(directory: Path) -> list[wandb_log.Log]:
    """What the offline runs in a run directory hold, oldest first."""
    return [wandb_log.read(path) for path in sorted(directory.glob("wandb/offline-run-*/run-*.wandb"))]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cut(directory: Path, count: int) -> str:
    """Make a record that of a run in progress: its first events only; returns the whole of metrics.jsonl."""
    whole = (directory / "metrics.jsonl").read_text()
    (directory / "metrics.jsonl").write_text("".join(whole.splitlines(keepends=True)[:count]))
    (directory / "summary.json").unlink()
    return whole


# ------------------------------------------------------------------------------------------ what is wanted


def asked(*words: str) -> Wanted:
    resolved = toy(Path("runs"), *words)
    return wanted(resolved.flat, resolved.sources)


def test_auto_without_a_login_is_off_and_says_how_to_turn_it_on() -> None:
    found = asked()
    assert found.mode == "off"
    assert "wandb login" in found.note and "track.wandb=offline" in found.note and "\n" not in found.note
    assert asked("track.wandb=off").note == ""


def test_auto_with_a_login_is_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        assert (asked().mode, asked().note) == ("online", "")
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_IDENTITY_TOKEN_FILE", "token")
        assert asked().mode == "online"
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert asked().mode == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org:8080")
    assert asked().mode == "off"  # a login for another server is none
    netrc.write_text(f"machine wandb.example.org:8080 login user password {KEY}\n")
    assert asked().mode == "online"
    netrc.write_text("machine")  # damaged
    assert asked().mode == "off"


def test_the_login_of_a_server_named_in_wandbs_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "settings").write_text("[default]\nbase_url = https://own.example.org\nentity = team%\n")
    assert asked().mode == "off"
    (tmp_path / "netrc").write_text(f"machine own.example.org login user password {KEY}\n")
    assert (asked().mode, asked().entity) == ("online", "team%")
    (tmp_path / "settings").write_text("no settings")
    assert asked().mode == "off"


@pytest.mark.parametrize(
    ("word", "variable", "mode"),
    [
        ("auto", "offline", "offline"),
        ("auto", "disabled", "off"),
        ("auto", "online", "online"),
        ("off", "online", "off"),
        ("offline", "online", "offline"),
        ("online", "disabled", "online"),
    ],
)
def test_the_environment_decides_where_the_user_does_not(
    monkeypatch: pytest.MonkeyPatch, word: str, variable: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", variable)
    found = asked(f"track.wandb={word}")
    assert (found.mode, found.note) == (mode, "")


def test_online_without_a_login_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.runs.session.load_model", lambda resolved: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match="^track.wandb=online needs a W&B login: .*WANDB_API_KEY") as caught:
        run(toy(tmp_path, "track.wandb=online"))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="^WANDB_MODE=online needs a W&B login"):
        run(toy(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_user_win_over_the_environment_and_that_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked()
    assert (found.project, found.entity, found.group) == ("keeplora-bench", None, "lora toy")
    assert (found.tags, found.weights) == ([], False)
    for key in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME"):
        monkeypatch.setenv(f"WANDB_{key}", f"of-{key}")
    monkeypatch.setenv("WANDB_TAGS", "x,y")
    found = asked()
    assert (found.project, found.entity, found.group, found.name) == (
        "of-PROJECT", "of-ENTITY", "of-RUN_GROUP", "of-NAME",
    )  # fmt: skip
    assert found.tags == ["x", "y"]
    found = asked("track.project=p", "track.entity=e", "track.group=g", "track.name=n", "track.tags=[t]")
    assert (found.project, found.entity, found.group, found.name, found.tags) == ("p", "e", "g", "n", ["t"])


def test_a_name_says_what_is_special_about_a_run() -> None:
    def name(*words: str) -> str:
        resolved = resolve(words)
        return run_name(resolved.flat, resolved.sources)

    assert name("method=keeplora") == "keeplora-pocket-s0"
    assert name("method=keeplora", "method.rank=16", "seed=3", "out=x", "track.tags=[a]") == "keeplora-r16-pocket-s3"
    assert name("method=lora", "train.lr=0.01", "model=ViT-B-16/openai") == "lora-lr0.01-ViT-B-16-openai-pocket-s0"
    assert name("method=lora", f"stream={TOY}", f"model={TOY}") == "lora-tiny-toy-s0"


# ------------------------------------------------------------------------------------- the record as rows


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
    events = [
        {"event": "epoch", "task": task, "step": step, "epoch": epoch, "loss": 1.0, "lr": 0.1}
        for task in ("a", "b")
        for epoch, step in ((0, 5), (1, 10))
    ]
    events.insert(2, {"event": "of somebody else"})
    assert [row["train/step"] for row in mirror.history(events, ["a", "b"])] == [5, 10, 15, 20]


def test_a_line_that_is_being_written_waits(record: Path) -> None:
    whole = mirror.events(record)
    with (record / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert mirror.events(record) == whole
    assert mirror.events(record / "nowhere") == []


def test_what_is_no_record_is_not_uploaded(record: Path) -> None:
    (record / "big.jsonl").write_bytes(b"0" * (mirror.SMALL + 1))
    (record / "weights.safetensors").write_bytes(b"0")
    (record / "wandb").mkdir()
    (record / "wandb" / "not.safetensors").write_bytes(b"0")
    assert [path.name for path in mirror.record_files(record)] == sorted(RECORD)
    assert [path.name for path in mirror.weight_files(record)] == ["model.safetensors", "weights.safetensors"]


def test_the_picture_of_the_matrix() -> None:
    import io

    from PIL import Image

    matrix = AccuracyMatrix(["a", "b"])
    matrix.set(0, 0, 0, 10)
    matrix.set(1, 0, 10, 10)
    picture = Image.open(io.BytesIO(mirror.heatmap(matrix))).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
    assert {(68, 1, 84), (253, 231, 36)} <= colours  # the ends of the scale: 0 % and 100 %
    assert picture.width > 300 and picture.height > 200


# ------------------------------------------------------------------------------------------------ offline


def test_an_offline_run_holds_everything_and_changes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track.wandb=offline", "track.group=g", "track.tags=[a,b]", "track.name=n"]
    directory = run(toy(tmp_path, *words), ["python", "-m", "bench", "run"])
    assert 'W&B, offline: "wandb sync ' in capsys.readouterr().out
    # The record is that of a run without a mirror.
    assert (directory / "accuracy.csv").read_text() == (finished / "accuracy.csv").read_text()
    assert mirror.events(directory)[:3] == mirror.events(finished)[:3]
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
    events = mirror.events(directory)
    assert [row["train/step"] for row in epochs] == [3, 6, 9, 12, 15, 18]
    assert [row["train/loss"] for row in epochs] == [e["loss"] for e in events if e["event"] == "epoch"]
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
    for name, value in summary["metrics"].items():
        assert log.summary[f"final/{name}"] == pytest.approx(value)
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


def test_a_run_does_without_wandb_and_its_rows_survive_a_sigterm(tmp_path: Path) -> None:
    """The run is stopped by SIGTERM while it trains; the mirror, which the signal is sent to as well, goes on."""
    code = f"""
    import os, signal, sys
    import bench.runs.session
    from bench.cli import main as cli
    from bench.tracking import mirror as track
    child, start = [], track.Mirror.start
    def started(self, *args):
        start(self, *args)
        child.append(self._child.pid)
    track.Mirror.start = started
    def stopped(index, *args):
        assert "wandb" not in sys.modules or sys.modules["wandb"].run is None  # timm imports it
        os.kill(child[0], signal.SIGTERM)
        os.kill(child[0], signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        return 0
    bench.runs.session._train = stopped
    words = ["stream={TOY}", "model={TOY}", "method=lora", "out={tmp_path}", "track.wandb=offline"]
    sys.exit(cli.main(["run", *words]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    (directory,) = (tmp_path / "toy" / "tiny" / "lora").iterdir()
    until(lambda: logs(directory) and logs(directory)[0].exit_code is not None)
    (log,) = logs(directory)
    assert [row["task"] for row in log.history] == [0]
    assert log.exit_code == 128 + signal.SIGTERM and log.preempting


def test_a_killed_parent_leaves_a_failed_run_with_all_its_rows(record: Path) -> None:
    cut(record, 5)
    code = f"""
    import os, signal, sys
    from pathlib import Path
    from bench.tracking.mirror import Mirror, Wanted
    Mirror(Wanted("offline", "", "p", None, "g", "n", [], False), print, 60).start(Path({str(record)!r}))
    assert "wandb" not in sys.modules and "torch" not in sys.modules
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: logs(record) and logs(record)[0].exit_code is not None)
    (log,) = logs(record)
    assert len(log.history) == 5 and log.exit_code == mirror.FAILED


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_signal_to_every_process_of_a_job_costs_no_row(
    server: FakeWandb, record: Path, said: list[str], mode: str
) -> None:
    """wandb does its work in another process still, which such a signal ends."""
    found = mirrored(record, mode, said)
    assert found._child is not None
    until(lambda: said)
    threads = Path(f"/proc/{found._child.pid}/task").iterdir()
    (core,) = [pid for thread in threads for pid in (thread / "children").read_text().split()]
    for pid in (found._child.pid, int(core)):
        os.kill(pid, signal.SIGTERM)
    found.close(143, preempted=True)
    assert found.failure == ""
    if mode == "offline":
        (log,) = logs(record)  # what was broken off is gone
        assert (len(log.history), log.exit_code) == (ROWS + 1, 143)
    else:
        (got,) = server.runs.values()
        assert (len(got["history"]), got["state"]) == (ROWS + 1, "preempted")


def test_an_offline_run_that_was_broken_off_is_replaced(record: Path, said: list[str]) -> None:
    summary = (record / "summary.json").read_text()
    whole = cut(record, 6)
    found = mirrored(record, "offline", said)
    assert found._child is not None
    until(lambda: logs(record) and logs(record)[0].history)
    found._child.kill()
    found.close(1)
    assert warned(said, record)
    (record / "metrics.jsonl").write_text(whole)
    (record / "summary.json").write_text(summary)
    time.sleep(1)  # wandb names a folder by the second
    mirrored(record, "offline", said).close(0)
    (log,) = logs(record)
    assert (len(log.history), log.exit_code) == (ROWS + 1, 0)


def test_preemption_is_told(record: Path, said: list[str]) -> None:
    cut(record, 2)
    with pytest.raises(SystemExit), mirrored(record, "offline", said):
        raise SystemExit(128 + signal.SIGUSR1)
    (log,) = logs(record)
    assert (log.exit_code, log.preempting) == (128 + signal.SIGUSR1, True)


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (UserError(), 2), (KeyboardInterrupt(), 130), (ValueError(), 1), (SystemExit(7), 7)]
)
def test_exit_codes_are_those_of_the_command_line(error: BaseException | None, code: int) -> None:
    assert track.exit_code(error) == code


# ------------------------------------------------------------------------------------------------- online


def test_an_online_run_says_where_it_is_and_keeps_the_key_to_itself(
    server: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(toy(tmp_path, "track.weights=true"))
    state = mirror.load_state(directory)
    assert f"W&B: {state['url']}\n" in capsys.readouterr().out
    assert (state["entity"], state["project"], state["rows"]) == (server.entity, "keeplora-bench", ROWS + 1)
    got = server.run(state["id"])
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
    state = mirror.load_state(record)
    got = server.run(state["id"])
    assert (len(got["history"]), got["state"]) == (6, "preempted")
    (record / "metrics.jsonl").write_text("".join(whole.splitlines(keepends=True)[:3]))
    again = mirrored(record, "online", said)
    until(lambda: len(said) == 2)
    (record / "metrics.jsonl").write_text(whole)
    (record / "summary.json").write_text(summary)
    again.close(0)
    assert mirror.load_state(record)["id"] == state["id"] and len(server.runs) == 1
    assert [row["_step"] for row in got["history"]] == list(range(ROWS + 1))
    assert [row["task"] for row in got["history"] if "task" in row] == [0, 1, 2, 3]
    assert (got["state"], server.errors, again.failure) == ("finished", [], "")


def sync(*folders: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, folders)],
        cwd=folders[0], env={**os.environ, "WANDB_ERROR_REPORTING": "false"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "ERROR" not in done.stdout + done.stderr, done.stderr  # its status is 0 even then


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


def test_mirror_uploads_what_is_missing_and_nothing_twice(
    server: FakeWandb, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record / "parts").mkdir()
    (record / "parts" / "w.safetensors").write_bytes(b"weights")
    for _ in range(2):
        assert cli.main(["mirror", str(record.parent), "track.project=other", "track.weights=true"]) == 0
        assert "W&B: " in capsys.readouterr().out
    (model,) = {a["name"]: a for a in server.artifacts.values() if a["type"] == "model"}.values()
    assert model["files"]["parts/w.safetensors"] == b"weights"
    (got,) = server.runs.values()
    assert (got["project"], got["state"], got["groupName"]) == ("other", "finished", "lora toy")
    assert len(got["history"]) == ROWS + 1
    shutil.rmtree(record / "wandb")
    cut(record, 4)
    assert cli.main(["mirror", str(record)]) == 0
    got = server.run(mirror.load_state(record)["id"])
    assert (len(got["history"]), got["state"], got["project"]) == (4, "failed", "keeplora-bench")
    assert server.errors == []


def test_mirror_offline(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mirror", str(record), "track.wandb=offline"]) == 0
    (log,) = logs(record)
    assert len(log.history) == ROWS + 1 and log.exit_code == 0


def test_mirror_needs_a_login_and_a_record(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mirror", str(record)]) == 2
    assert "needs a W&B login" in capsys.readouterr().err
    (record / "identity.json").write_text("{}")
    assert cli.main(["mirror", str(record)]) == 2
    assert "is no record of a run" in capsys.readouterr().err


AGENT = """
import sys
from wandb import wandb_agent
wandb_agent.Agent.POLL_INTERVAL = 0.2
wandb_agent.run_agent(sys.argv[1])
"""


def test_the_id_is_chosen_once_and_an_agents_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Mirror(plan("online"), print)
    assert found._state({})["id"] != found._state({})["id"]
    kept = {"id": "kept", "rows": 3, "url": "u"}
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert found._state({})["id"] == "given"
    assert found._state(kept) == {**found._state({}), **kept}
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert found._state(kept) == {**found._state({}), "id": "given", "rows": 0}


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


# ------------------------------------------------------------------------------------------------ trouble


def warned(said: list[str], directory: Path) -> bool:
    """Whether one warning was said, which names the record and the remedy."""
    warnings = [line for line in said if line.startswith("warning: ")]
    assert all(f"python -m bench mirror {directory}" in line and "\n" not in line for line in warnings)
    return len(warnings) == 1


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses(server: FakeWandb, record: Path, said: list[str], status: int) -> None:
    server.refusal = status
    start = time.monotonic()
    mirrored(record, "online", said, waits=2).close(0)
    assert time.monotonic() - start < 2 + track.GRACE + 1
    assert warned(said, record)
    # What was missed is uploaded later, in the same run.
    server.refusal = 0
    assert cli.main(["mirror", str(record)]) == 0
    (got,) = server.runs.values()
    assert len(got["history"]) == ROWS + 1


def test_a_server_that_comes_back_has_everything(server: FakeWandb, record: Path, said: list[str]) -> None:
    server.refusal = 401
    found = mirrored(record, "online", said)
    until(lambda: said)
    assert said[0].startswith("note: W&B is not reached (")
    server.refusal = 0
    found.close(0)
    (got,) = server.runs.values()
    assert (len(got["history"]), got["state"], found.failure) == (ROWS + 1, "finished", "")
    assert not warned(said, record)


def test_mirror_says_which_records_were_not_taken(
    server: FakeWandb, record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "0.5")
    shutil.copytree(record, record.with_name("second"))
    server.hanging.set()
    assert cli.main(["mirror", str(record.parent)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2 and "warning" not in captured.out
    assert all(f"error: {record.with_name(name)} is not in W&B (" in captured.err for name in ("run", "second"))


def test_a_server_that_never_answers(server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.hanging.set()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    said: list[str] = []
    monkeypatch.setattr("bench.runs.run.say", lambda text="": said.append(text))
    directory = run(toy(tmp_path))
    assert warned(said, directory)
    assert mirror.is_finished(directory) and len(mirror.events(directory)) == ROWS


def test_a_server_that_dies_in_the_middle(server: FakeWandb, record: Path, said: list[str]) -> None:
    whole = cut(record, 3)
    found = mirrored(record, "online", said, waits=2)
    until(lambda: said)
    server.refusal = 500
    (record / "metrics.jsonl").write_text(whole)
    found.close(0)
    assert warned(said, record) and "not done 2 s after the end of the run" in said[1]
    server.refusal = 0
    track.upload(record, {"track.project": "p"}, said.append)
    (got,) = server.runs.values()
    assert [row["_step"] for row in got["history"]] == list(range(ROWS))  # no summary.json: no matrix


def test_nothing_of_a_mirror_lives_on(server: FakeWandb, record: Path, said: list[str]) -> None:
    server.hanging.set()
    found = mirrored(record, "online", said, waits=1)
    assert found._child is not None
    pid = found._child.pid
    found.close(0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_folder_that_cannot_be_made(record: Path, said: list[str]) -> None:
    (record / "wandb").write_text("in the way")
    mirrored(record, "offline", said).close(0)
    assert warned(said, record)


def test_a_full_disk(record: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(track, "save_state", full)
    mirrored(record, "offline", said).close(0)
    assert warned(said, record) and "No space left" in said[0]


def test_a_child_that_cannot_write(record: Path, said: list[str]) -> None:
    (record / "wandb" / "lock").mkdir(parents=True)
    mirrored(record, "offline", said).close(0)
    assert warned(said, record)
    assert (record / "wandb" / "mirror.log").read_text()


def test_two_mirrors_of_one_record_do_not_meet(record: Path, said: list[str]) -> None:
    from filelock import FileLock

    (record / "wandb").mkdir()
    with FileLock(record / "wandb" / "lock"):
        mirrored(record, "offline", said, waits=0.5).close(0)
    assert warned(said, record)
    assert logs(record) == []

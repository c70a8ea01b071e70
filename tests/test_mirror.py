"""The mirror in the run's process: signals and exit codes, the verb `mirror`, and what happens in trouble."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_wandb import FakeWandb
from support.mirroring import (
    ROWS,
    TOY,
    cut,
    logs,
    mirrored,
    options,
    toy,
    until,
    warned,
)

from bench.cli.main import main
from bench.core.errors import UserError
from bench.core.signals import Stopped
from bench.record.events import read_events
from bench.record.schema import is_finished
from bench.runs.run import run
from bench.tracking.mirror import GRACE, UPLOADING, Mirror, exit_code, patience
from bench.tracking.mirror_process import FAILED, HOLDER
from bench.tracking.mirror_state import MirrorState, load_state
from bench.tracking.upload import upload

pytest_plugins = ["support.mirror_fixtures"]

ROOT = Path(__file__).parent.parent

# ------------------------------------------------------------------------------------------------------- how a run ends


def test_a_run_does_without_wandb_and_its_rows_survive_a_sigterm(tmp_path: Path) -> None:
    """The run is stopped by SIGTERM while it trains; the mirror, which the signal is sent to as well, continues."""
    code = f"""
    import os, signal, sys
    from bench.api import Observers, run
    from bench.core.signals import Stopped
    from bench.tracking.mirror import Mirror
    child, start = [], Mirror.start
    def started(self, *args):
        start(self, *args)
        child.append(self._child.pid)
    Mirror.start = started
    def stop(observation):
        assert "wandb" not in sys.modules or sys.modules["wandb"].run is None  # timm imports it
        if (observation.values["epoch"], observation.values["step"]) == (0, 0):
            os.kill(child[0], signal.SIGTERM)
            os.kill(child[0], signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
    observers = Observers()
    observers.on("loss", stop)
    words = ["stream={TOY}", "model={TOY}", "method=lora", "out={tmp_path}", "track.wandb=offline"]
    try:
        run(words, observers=observers)
    except Stopped as stopped:
        sys.exit(128 + stopped.signum)
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
    from bench.tracking.mirror import Mirror
    from bench.tracking.options import MirrorOptions
    Mirror(MirrorOptions("offline", "", "p", None, "g", "n", [], False), print, 60).start(Path({str(record)!r}))
    assert "wandb" not in sys.modules and "torch" not in sys.modules
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: logs(record) and logs(record)[0].exit_code is not None)
    (log,) = logs(record)
    assert len(log.history) == 5 and log.exit_code == FAILED


@pytest.mark.parametrize("mode", ["offline", pytest.param("online", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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


def test_preemption_is_reported(record: Path, said: list[str]) -> None:
    cut(record, 2)
    with pytest.raises(SystemExit), mirrored(record, "offline", said):
        raise SystemExit(128 + signal.SIGUSR1)
    (log,) = logs(record)
    assert (log.exit_code, log.preempting) == (128 + signal.SIGUSR1, True)


class Special(UserError):
    """Any subclass of a user's mistake."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (Special("x"), 2),
        (KeyboardInterrupt(), 130),
        (Stopped(signal.SIGTERM), 143),
        (BrokenPipeError(), 141),
    ],
)
def test_exit_codes_are_those_of_the_command_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("bench.cli.main._dispatch", fails)
    monkeypatch.setattr("os.dup2", lambda *args: None)  # the command line gives up standard output after a broken pipe
    assert exit_code(error) == main(["run", "method=lora"]) == code


def test_exit_codes_without_an_error_of_ours() -> None:
    assert [exit_code(error) for error in (None, ValueError(), SystemExit(7), SystemExit("x"))] == [0, 1, 7, 1]


# ------------------------------------------------------------------------------------------------ the id of the W&B run


def test_the_id_is_chosen_once_and_an_agents_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Mirror(options("online"), print)
    assert found._state(None).id != found._state(None).id

    def kept() -> MirrorState:
        return MirrorState("kept", rows=3, url="u", name="old")

    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert found._state(None).id == "given"
    assert found._state(kept()) == replace(found._state(None), id="kept", rows=3, url="u")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert found._state(kept()) == found._state(None) and found._state(kept()).id == "given"


def test_a_state_that_an_older_version_wrote_is_continued(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    file = tmp_path / "wandb" / "state.json"
    file.write_text(json.dumps({"id": "old", "rows": 4, "project": "p", "tags": ["a"], "something": "else"}))
    assert load_state(tmp_path) == MirrorState("old", rows=4, project="p", tags=["a"])
    for damaged in ("{", "[]", "{}"):
        file.write_text(damaged)
        assert load_state(tmp_path) is None


# ------------------------------------------------------------------------------------------------------------- the verb


@pytest.mark.slow
def test_mirror_uploads_what_is_missing_and_nothing_twice(
    server: FakeWandb, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record / "parts").mkdir()
    (record / "parts" / "w.safetensors").write_bytes(b"weights")
    for _ in range(2):
        assert main(["mirror", str(record.parent), "track.project=other", "track.weights=true"]) == 0
        assert "W&B: " in capsys.readouterr().out
    (model,) = {a["name"]: a for a in server.artifacts.values() if a["type"] == "model"}.values()
    assert model["files"]["parts/w.safetensors"] == b"weights"
    (got,) = server.runs.values()
    assert (got["project"], got["state"], got["groupName"]) == ("other", "finished", "lora toy")
    assert len(got["history"]) == ROWS + 1
    shutil.rmtree(record / "wandb")
    cut(record, 4)
    assert main(["mirror", str(record)]) == 0
    got = server.run(load_state(record).id)
    assert (len(got["history"]), got["state"], got["project"]) == (4, "failed", "keeplora-bench")
    assert server.errors == []


def test_mirror_offline(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", str(record), "track.wandb=offline"]) == 0
    (log,) = logs(record)
    assert len(log.history) == ROWS + 1 and log.exit_code == 0


@pytest.mark.slow
def test_a_run_that_was_mirrored_before_keeps_its_name(record: Path) -> None:
    offline = ["mirror", str(record), "track.wandb=offline"]
    assert main([*offline, "track.name=chosen"]) == 0
    assert main(offline) == 0
    assert load_state(record).name == "chosen"
    assert main([*offline, "track.name=other"]) == 0
    assert load_state(record).name == "other"


def test_mirror_needs_a_login_and_a_record(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", str(record)]) == 2
    assert "needs a W&B login" in capsys.readouterr().err
    (record / "identity.json").write_text("{}")
    assert main(["mirror", str(record)]) == 2
    assert 'identity.json cannot be read (no "settings" in it), so that its run is not' in capsys.readouterr().err
    (record / "identity.json").unlink()
    assert main(["mirror", str(record)]) == 2
    assert "is no record of a run" in capsys.readouterr().err


def test_mirror_says_which_records_were_not_taken(
    server: FakeWandb, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(record, record.with_name("second"))
    for name in ("run", "second"):
        (record.with_name(name) / "wandb").write_text("in the way")
    assert main(["mirror", str(record.parent)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2 and "warning" not in captured.out
    assert all(f"error: {record.with_name(name)} is not in W&B (" in captured.err for name in ("run", "second"))


# -------------------------------------------------------------------------------------------------------------- trouble


@pytest.mark.parametrize("status", [pytest.param(401, marks=pytest.mark.slow), 500])
def test_a_server_that_refuses(server: FakeWandb, record: Path, said: list[str], status: int) -> None:
    server.refusal = status
    start = time.monotonic()
    mirrored(record, "online", said, waits=2).close(0)
    assert time.monotonic() - start < 2 + GRACE + 1
    assert warned(said, record)
    # What was missed is uploaded later, in the same run.
    server.refusal = 0
    assert main(["mirror", str(record)]) == 0
    (got,) = server.runs.values()
    assert len(got["history"]) == ROWS + 1


@pytest.mark.slow
def test_a_server_that_comes_back_has_everything(server: FakeWandb, record: Path, said: list[str]) -> None:
    server.refusal = 401
    found = mirrored(record, "online", said)
    until(lambda: said)
    assert said[0].startswith("note: W&B cannot be reached (")
    server.refusal = 0
    found.close(0)
    (got,) = server.runs.values()
    assert (len(got["history"]), got["state"], found.failure) == (ROWS + 1, "finished", "")
    assert not warned(said, record)


def test_a_server_that_never_answers(server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.hanging.set()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    said: list[str] = []
    monkeypatch.setattr("bench.runs.run.say", lambda text="": said.append(text))
    directory = run(toy(tmp_path))
    assert warned(said, directory)
    assert is_finished(directory) and len(read_events(directory)) == ROWS


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle(server: FakeWandb, record: Path, said: list[str]) -> None:
    whole = cut(record, 3)
    found = mirrored(record, "online", said, waits=2)
    until(lambda: said)
    server.refusal = 500
    (record / "metrics.jsonl").write_text(whole)
    found.close(0)
    assert warned(said, record) and "not done 2 s after the end of the run" in said[1]
    server.refusal = 0
    upload(record, {"track.project": "p"}, said.append)
    (got,) = server.runs.values()
    assert [row["_step"] for row in got["history"]] == list(range(ROWS))  # no summary.json: no matrix


def sending(record: Path) -> subprocess.Popen[str]:
    """`bench mirror` in a process of its own, which has begun to send."""
    found = subprocess.Popen(
        [sys.executable, "-m", "bench", "mirror", str(record)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    until((record / "wandb" / HOLDER).exists)
    return found


def test_mirror_gives_a_hanging_server_bounded_time_and_one_record(
    server: FakeWandb, record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.hanging.set()
    shutil.copytree(record, record.with_name("second"))
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    assert main(["mirror", str(record.parent)]) == 2
    first, rest = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {record} is not in W&B, whose server was not done with it in 1 s: ")
    assert rest == "error: 1 more records were not tried: run the same line later"
    assert not (record.with_name("second") / "wandb").exists()
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT")
    assert patience(UPLOADING) == UPLOADING < 3600


@pytest.mark.parametrize(
    "signum",
    [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_stopped_upload_leaves_nothing_behind(server: FakeWandb, record: Path, signum: int) -> None:
    server.hanging.set()
    found = sending(record)
    child = int((record / "wandb" / HOLDER).read_text().split()[1])
    found.send_signal(signum)
    assert found.wait(30) == 128 + signum
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_mirror_names_the_process_that_sends_a_run(
    server: FakeWandb, record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hanging.set()
    found = sending(record)
    holder = (record / "wandb" / HOLDER).read_text()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    assert main(["mirror", str(record)]) == 2
    assert f"({holder} sends this run already, wait for it or stop it)" in capsys.readouterr().err
    found.send_signal(signal.SIGTERM)
    found.wait(30)


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

    monkeypatch.setattr("bench.tracking.mirror.save_state", full)
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

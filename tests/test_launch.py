"""Carrying out a sweep: what is skipped, retried, interrupted and shown; several at a time; two sweeps at once."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import METHOD, STREAM
from filelock import FileLock

from bench.cli.main import main
from bench.config.fields import describe
from bench.core.errors import UserError
from bench.sweep import display, launch, processes
from bench.sweep.attempts import Attempt
from bench.sweep.file import expand
from bench.sweep.launch import Stop
from bench.sweep.options import Launch, Options, options
from bench.sweep.points import Point, job_id, last_attempt, results_of, state_of

ROOT = Path(__file__).parent.parent
COMMAND = ["python", "-m", "bench", "run", "${args_no_hyphens}"]

CHILD = '''
"""Stands in for a run: does what its word says."""
import json, os, pathlib, signal, sys, time
directory, word = pathlib.Path(sys.argv[1]), sys.argv[2]
directory.mkdir(parents=True, exist_ok=True)
with (directory / "starts").open("a") as file:
    file.write("start\\n")

def clean(number, frame):
    time.sleep(0.3)
    (directory / "clean").write_text(str(number))
    sys.exit(128 + number)

signal.signal(signal.SIGINT, clean)
signal.signal(signal.SIGTERM, clean)
print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
(directory / "identity.json").write_text(json.dumps({"settings": {}, "tasks": ["ant", "bee"]}))
rows = [{"event": "row", "row": row, "after": name, "accuracy": {}} for row, name in enumerate(("zero-shot", "ant"))]
(directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows) + '{"event')
if word == "fails" or (word == "once" and not (directory / "again").exists()):
    (directory / "again").touch()
    print(*(f"line {i}" for i in range(20)), "no such thing \\N{GREEK SMALL LETTER EPSILON}", sep="\\n", flush=True)
    sys.exit(3)
if word == "asked":
    os.kill(os.getpid(), signal.SIGTERM)
if word == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "slow":
    time.sleep(60)
time.sleep(0.5)
print("done without a line break", end="")
metrics = {"transfer_by_column": 1.0, "average_mtil": 2.0, "last": 3.0}
names = {"stream": "s", "model": "m", "method": "n", "fingerprint": "f", "seed": 0}
summary = {"status": "finished", **names, "metrics": metrics, "seconds": {}}
(directory / "summary.json").write_text(json.dumps(summary))
'''


def stand_in(point: Point) -> list[str]:
    """The command of a stand-in for a run; its word is method.note."""
    words = dict(word.split("=", 1) for word in point.words)
    return [sys.executable, "-c", CHILD, str(point.directory), words.get("method.note", "")]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a sweep file over plug-in files; runs are stood in for."""
    monkeypatch.setattr(processes, "command", stand_in)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "data.py").write_text(STREAM)

    def write(**parameters: Any) -> Path:
        plugins = {"method": "mine.py", "stream": "data.py", "model": "data.py"}
        fixed = {"out": {"value": str(tmp_path / "runs")}}
        fixed |= {key: {"value": str(tmp_path / name)} for key, name in plugins.items()}
        content = {"method": "grid", "parameters": {**fixed, **parameters}, "command": COMMAND}
        file = tmp_path / "some.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return write


@pytest.fixture
def say(capsys):
    def run(*words: str) -> tuple[int, str]:
        status = main(["sweep", *words])
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


def states(file: Path, *words: str) -> list[str]:
    return [state_of(point) for point in expand(file, words).points]


def starts(point: Point) -> int:
    return len((point.directory / "starts").read_text().splitlines())


@pytest.mark.parametrize("how", ["inline", "local"])
def test_a_failing_point_stops_no_other_and_is_retried(write, say, how):
    file = write(**{"method.note": {"values": ["good", "once", "fails", "fine"]}})
    status, out = say(str(file), f"launch={how}")
    assert status == 1
    assert states(file) == ["finished", "failed", "failed", "finished"]
    lines = out.splitlines()
    good, once, fails, fine = expand(file).points
    assert f"[2/4] failed: {once.log}" in lines and f"[3/4] failed: {fails.log}" in lines
    tail = lines[lines.index(f"[2/4] failed: {once.log}") + 1 :][:11]
    assert tail == [*(f"  line {i}" for i in range(11, 20)), "  no such thing ε", ""]
    assert "2 points failed: the same line runs them again" in lines
    noted = json.loads(once.notes.read_text())
    assert noted["exit_status"] == 3 and noted["seconds"] > 0 and noted["pid"] and noted["host"] and noted["started"]

    status, out = say(str(file), f"launch={how}")
    assert (status, states(file)) == (1, ["finished", "finished", "failed", "finished"])
    assert out.startswith("2 of 4 points are finished already\n")
    assert [starts(point) for point in (good, once, fails, fine)] == [1, 2, 2, 1]
    assert "  1  finished  1.0       2.0      3.0   method.note=good" in out


def test_inline_shows_the_output_and_keeps_it(write, say):
    file = write(seed={"values": [0, 1]})
    status, out = say(str(file))
    assert status == 0
    for head in ("[1/2] seed=0\nthreads None\ndone without a line break", "[2/2] seed=1\nthreads None\ndone without"):
        assert head in out
    assert expand(file).points[0].log.read_text() == "threads None\ndone without a line break"
    status, out = say(str(file))
    assert status == 0 and out.startswith("2 of 2 points are finished already\n")


def test_local_shares_the_cores_and_shows_the_tasks(write, say, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 8)
    file = write(seed={"values": [0, 1, 2]})
    status, out = say(str(file), "launch=local", "launch.processes=3")
    assert status == 0
    assert "threads" not in out
    assert [point.log.read_text().split()[1] for point in expand(file).points] == ["2", "2", "2"]
    for line in ("[1/3] seed=0", "[1/3] 1 of 2 tasks learned (ant)", "[3/3] 1 of 2 tasks learned (ant)"):
        assert f"{line}\n" in out
    assert out.index("[3/3] seed=2") < out.index("finished")  # all three at once


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_local_has_a_bar_a_point_on_a_terminal(write, say, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    status, out = say(str(write(seed={"values": [0, 1]})), "launch=local", "launch.processes=2")
    assert status == 0 and "tasks learned" not in out
    shown = sys.stderr.getvalue()
    for label in ("[1/2] seed=0:", "[2/2] seed=1:"):
        assert any(label in bar and " 1/2 " in bar and "ant" in bar for bar in shown.split("\r"))


def test_threads_that_the_user_chose_stay(write, say, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 8)
    file = write(seed={"values": [0]})
    say(str(file), "launch=local", "threads=1", "out=" + str(file.parent / "a"))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    say(str(file), "launch=local", "out=" + str(file.parent / "b"))
    monkeypatch.delenv("OMP_NUM_THREADS")
    say(str(file), "launch=local", "out=" + str(file.parent / "c"))
    logs = [expand(file, [f"out={file.parent / name}"]).points[0].log for name in "abc"]
    assert [log.read_text().split()[1] for log in logs] == ["None", "5", "2"]  # half the cores by default


@pytest.mark.parametrize(("word", "status"), [("asked", 143), ("killed", 137)])
def test_a_point_that_was_asked_to_stop_is_pending_and_one_that_was_killed_has_failed(write, say, word, status):
    file = write(**{"method.note": {"values": [word, "good"]}})
    ended, out = say(str(file))
    how, state = ("interrupted", "pending") if word == "asked" else ("failed", "failed")
    assert (ended, states(file)) == (1, [state, "finished"])
    assert f"[1/2] {how} (exit status {status})" in out
    assert ("1 point was interrupted: the same line continues it" in out) == (word == "asked")
    assert ("failed" in out) == (word == "killed")


def test_a_point_that_another_process_runs_is_skipped(write, say):
    file = write(seed={"values": [0, 1]})
    first, second = expand(file).points
    first.lock.parent.mkdir(parents=True)
    with FileLock(first.lock):
        status, out = say(str(file))
    assert status == 1 and "[1/2] skipped: another process runs it or has finished it" in out
    assert not first.directory.exists() and state_of(second) == "finished"


def test_a_folder_that_cannot_be_written_is_one_sentence(write, say, tmp_path):
    file = write(seed={"values": [0]})
    (tmp_path / "runs").write_text("a file")
    status, out = say(str(file))
    assert status == 2
    assert out.startswith(f"error: cannot write to {tmp_path / 'runs' / 'sweeps' / 'some'} (")


class FullDisk:
    """Makes some writes of notes fail as on a full disk; counts from 1."""

    def __init__(self, monkeypatch, *full: int):
        self.writes, write = 0, Attempt.write

        def maybe(attempt: Attempt, path: Path) -> None:
            self.writes += 1
            if self.writes in full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            write(attempt, path)

        monkeypatch.setattr(Attempt, "write", maybe)


@pytest.mark.parametrize("how", ["inline", "local"])
def test_a_full_disk_at_the_start_of_a_point_is_one_sentence(write, say, tmp_path, monkeypatch, how):
    file = write(**{"method.note": {"values": ["slow", "good"]}})
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr("bench.sweep.processes.subprocess.Popen", Popen)
    with monkeypatch.context() as patch:
        FullDisk(patch, 1)
        status, out = say(str(file), f"launch={how}")
    folder = tmp_path / "runs" / "sweeps" / "some"
    said = (
        f"error: cannot write to {folder} (No space left on device): make room or choose another folder with out=DIR\n"
    )
    assert (status, out) == (2, said)
    assert len(started) == 1 and started[0].poll() is not None  # nobody would wait for it
    slow, good = expand(file).points
    assert state_of(good) == "pending" and state_of(slow) == "pending"
    with FileLock(slow.lock, timeout=0):
        pass


def test_a_full_disk_at_the_end_of_a_point_loses_a_note_and_no_run(write, say, monkeypatch):
    file = write(**{"method.note": {"values": ["good", "fails"]}})
    with monkeypatch.context() as patch:
        FullDisk(patch, 2, 4)
        status, out = say(str(file))
    assert status == 1 and states(file) == ["finished", "pending"]
    assert "1 point was interrupted: the same line continues it" in out
    assert say(str(file))[0] == 1 and states(file) == ["finished", "failed"]


def test_jobs_that_were_submitted_and_cannot_be_noted_are_named(write, say, tmp_path, monkeypatch):
    file = write(**{"method.note": {"values": ["good"]}})
    monkeypatch.setattr("bench.sweep.slurm.submit", lambda *args: ["17_0"])

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(launch, "write_atomic", full)
    status, out = say(str(file), "launch=slurm")
    folder = tmp_path / "runs" / "sweeps" / "some"
    assert (status, out) == (
        2,
        f"error: the points are submitted as job 17, but {folder} cannot be written (No space left on device): scancel "
        "17, make room, and give the same line again\n",
    )


# ---------------------------------------------------------------------------------------- whole processes

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_launch
from bench.cli.main import main
from bench.sweep import processes
processes.command = test_launch.stand_in
sys.exit(main(["sweep", *sys.argv[2:]]))
"""


def begin(*words: str) -> subprocess.Popen[str]:
    """A sweep as a process of its own, at the mercy of signals."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(ROOT / "tests"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


def wait_for(condition: Any, what: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"waited in vain for {what}")


@pytest.mark.parametrize(
    ("how", "number", "status"),
    [("inline", signal.SIGINT, 130), ("local", signal.SIGINT, 130), ("local", signal.SIGTERM, 143)],
)
def test_an_interrupt_ends_the_points_cleanly_and_says_how_to_continue(write, how, number, status):
    file = write(**{"method.note": {"values": ["good", "slow", "later"]}, "seed": {"values": [0, 1]}})
    points = expand(file).points
    process = begin(str(file), f"launch={how}", *(["launch.processes=2"] if how == "local" else []))
    slow = points[2 : (4 if how == "local" else 3)]
    wait_for(lambda: all((point.directory / "metrics.jsonl").exists() for point in slow), "the slow points")
    assert [state_of(point) for point in slow] == ["running"] * len(slow)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == status, out
    assert [(point.directory / "clean").read_text() for point in slow] == [str(int(number))] * len(slow)
    assert f"stopping: waiting for the end of {len(slow)} running points\n" in out
    assert "interrupted: 2 of 6 points are finished; the same line continues from here" in out
    assert states(file) == ["finished", "finished", *["pending"] * 4]
    assert not points[-1].directory.exists()


def test_two_sweeps_at_once_run_every_point_once(write):
    file = write(seed={"values": [0, 1, 2, 3]})
    both = [begin(str(file)), begin(str(file), "launch=local", "launch.processes=2")]
    outs = [process.communicate(timeout=60)[0] for process in both]
    points = expand(file).points
    assert [starts(point) for point in points] == [1, 1, 1, 1], outs
    assert states(file) == ["finished"] * 4


def test_a_point_whose_leader_was_killed_still_counts_as_running(write, say):
    file = write(**{"method.note": {"values": ["slow"]}})
    (point,) = expand(file).points
    process = begin(str(file))
    wait_for((point.directory / "metrics.jsonl").exists, "the slow point")
    process.kill()
    process.communicate()
    _, out = say(str(file))
    assert "skipped: another process runs it" in out and state_of(point) == "running" and starts(point) == 1
    os.kill(last_attempt(point).pid, signal.SIGINT)
    wait_for(lambda: state_of(point) == "pending", "its end")


@pytest.mark.slow
def test_real_runs_two_at_a_time(tmp_path, say, monkeypatch):
    monkeypatch.chdir(ROOT)
    toy = str(ROOT / "tests" / "toy.py")
    parameters = {"method": {"value": "lora"}, "method.rank": {"values": [4, 1000]}, "seed": {"value": 2}}
    command = ["python", "-m", "bench", "run", f"stream={toy}", f"model={toy}", "device=cpu", "${args_no_hyphens}"]
    file = tmp_path / "real.yaml"
    file.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters, "command": command}))
    words = [str(file), "launch=local", "launch.processes=2", f"out={tmp_path / 'runs'}"]
    status, out = say(*words)
    assert status == 1, out
    assert "  error: method.rank=1000 is above the width" in out
    assert states(file, words[-1]) == ["finished", "failed"]
    good = expand(file, [words[-1]]).points[0]
    assert "accuracy" in good.log.read_text() and all(results_of(good))
    identity = json.loads((good.directory / "identity.json").read_text())
    assert identity["command"] == ["python", "-m", "bench", "run", *good.words]


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "sweep takes one sweep file, and perhaps status: "),
        (("status",), "sweep takes one sweep file, and perhaps status: "),
        (("a", "b"), "sweep takes one sweep file, and perhaps status: "),
        (("nowhere.yaml",), 'there is no sweep file "nowhere.yaml" (valid: compare_forgetting, '),
        (("seeds", "launch=lcoal"), 'launch=lcoal must be one of inline, local, slurm (did you mean "local"?)'),
        (("seeds", "launch.processes=2"), "launch.processes=2 needs launch=local"),
        (
            ("seeds", "launch.procesess=2"),
            'unknown word "launch.procesess" of sweep (did you mean "launch.processes"?)',
        ),
        (("seeds", "launch=local", "launch.processes=0"), "launch.processes=0 is out of range: it must be >= 1"),
        (("seeds", "dryrun=true"), 'unknown word "dryrun" of sweep (did you mean "dry_run"?)'),
        (("seeds", "dry_run=perhaps"), "dry_run=perhaps must be true or false"),
        (("seeds", "count=0"), "count=0 is out of range: it must be >= 1"),
        (("seeds", "sweep_seed=x"), "sweep_seed=x must be a whole number"),
    ],
)
def test_mistakes_on_the_line(capsys, words, said):
    assert main(["sweep", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}") and err.count("\n") == 1


def test_words_are_separated():
    chosen, rest = options(["launch=local", "--count=3", "out=x", "seed=1", "cache.gb=0", "sweep_seed=4"])
    assert chosen == Options(Launch("local", None), count=3, sweep_seed=4)
    assert rest == ["out=x", "seed=1", "cache.gb=0"]
    chosen, rest = options(["launch=slurm", "launch.mem_gb=8", "launch.slurm.account=me", "launch.slurm.nice=3"])
    assert chosen.launch.parameters()["mem_gb"] == 8.0 and rest == []
    assert chosen.launch.others() == {"account": "me", "nice": 3}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["launch.partition=gpu"], "launch.partition needs launch=slurm"),
        (["launch=local", "launch.slurm.qos=x"], "launch.slurm needs launch=slurm"),
        (["launch=slurm", "launch.processes=2"], "launch.processes=2 needs launch=local"),
        (["launch=slurm", "launch.timeout_min=3"], "launch.timeout_min=3 leaves no time .* it must be above 3.0"),
        (["launch=slurm", "launch.partiton=gpu"], 'unknown word "launch.partiton" .*did you mean "launch.partition"'),
    ],
)
def test_what_does_not_go_together_is_refused(words, complaint):
    with pytest.raises(UserError, match=complaint):
        options(words)


def test_slurm_is_missed_before_anything_is_written(write, say, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out = say(str(write(**{"method.note": {"values": ["good"]}})), "launch=slurm")
    assert status == 2 and "launch=slurm needs SLURM, and there is no sbatch here" in out


def test_only_a_running_point_is_preempted(write, say):
    file = write(**{"method.note": {"values": ["good"]}})
    assert say(str(file), "preempt=1") == (
        2,
        "error: preempt=1: the point is pending, and only a running one can be preempted\n",
    )
    assert say(str(file), "preempt=2") == (2, "error: preempt=2 names no point: there are 1\n")


def test_progress_is_read_from_this_attempts_record(tmp_path):
    assert display.progress(tmp_path, 0) is None
    (tmp_path / "identity.json").write_text('{"settings": {}, "tasks": ["a", "b"]}')
    (tmp_path / "metrics.jsonl").write_text("")
    assert display.progress(tmp_path, 0) == (0, 2, "")
    (tmp_path / "metrics.jsonl").write_text('{"event": "row", "row": 1, "after": "a", "accuracy": {}}\n{"ev')
    assert display.progress(tmp_path, 0) == (1, 2, "a")
    assert display.progress(tmp_path, time.time() + 10) is None
    (tmp_path / "metrics.jsonl").write_text("x\n")
    assert display.progress(tmp_path, 0) is None


def test_an_attempt_here_takes_the_place_of_a_job(write, say):
    file = write(**{"method.note": {"values": ["fails"]}})
    (point,) = expand(file).points
    point.folder.mkdir(parents=True)
    point.job.write_text("7\n")
    say(str(file))
    assert job_id(point) is None and state_of(point) == "failed"


def test_a_value_for_slurm_that_is_no_yaml_is_text():
    chosen, _ = options(["launch=slurm", "launch.slurm.comment=[a"])
    assert chosen.launch.others() == {"comment": "[a"}


def test_a_value_for_slurm_keeps_what_a_number_would_lose():
    words = {"account": "010", "comment": "run #1", "nice": "3", "time": "1:30", "requeue": "true", "qos": "'7'"}
    chosen, _ = options(["launch=slurm", *(f"launch.slurm.{key}={value}" for key, value in words.items())])
    assert chosen.launch.others() == {**words, "nice": 3, "requeue": True, "qos": "7"}


def test_every_launcher_can_be_chosen():
    assert tuple(launch.LAUNCHERS) == describe(Launch)["name"].choices


@pytest.mark.parametrize("word", ["=x", "launch.slurm.=x"])
def test_a_word_without_a_key_is_refused(write, say, word):
    status, out = say(str(write(seed={"values": [0]})), "launch=slurm", word)
    assert status == 2 and "is not a setting: write KEY=VALUE" in out


def test_a_sleep_ends_with_the_first_signal():
    stop = Stop()
    timer = threading.Timer(0.3, lambda: stop(signal.SIGTERM, None))
    timer.start()
    start = time.monotonic()
    stop.sleep(30)
    assert time.monotonic() - start < 10 and (stop.signal, stop.count) == (signal.SIGTERM, 1)
    stop.sleep(30)
    assert time.monotonic() - start < 10
    timer.join()


def test_status_lists_how_points_failed(write, say):
    file = write(**{"method.note": {"values": ["fails", "good"]}})
    say(str(file))
    status, out = say(str(file), "status")
    assert status == 0 and "[1/2] failed: " in out and "  line 19\n" in out and "[2/2]" not in out

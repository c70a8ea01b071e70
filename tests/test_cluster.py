"""What a sweep makes of SLURM's answers, by programs that stand in for its tools; tests/cluster has the real ones."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.sweep import launch, slurm
from bench.sweep.display import Tasks
from bench.sweep.launch import Stop
from bench.sweep.points import Point, reason_of, state_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Returns a function that puts programs with a fixed answer on the path, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(**answers: str) -> Path:
        for name, answer in answers.items():
            file = folder / name
            file.write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/{name}.asked\nprintf '%b' '{answer}'\n")
            file.chmod(0o755)
        return folder

    return write


@pytest.fixture
def point(tmp_path: Path) -> Point:
    folder = tmp_path / "runs" / "sweeps" / "some"
    folder.mkdir(parents=True)
    return Point(1, ("method=lora",), "label", None, "test", tmp_path / "runs" / "leaf-s0", folder)


def test_states_are_the_queues_and_else_the_accounts(tools) -> None:
    folder = tools(
        squeue="7_0|11|RUNNING\\n7_1|12|PENDING\\n8_N/A|8|CANCELLED by 0\\n",
        sacct="9|COMPLETED\\n7_1|FAILED\\n10_3|CANCELLED by 5\\n",
    )
    found = slurm.job_states(["7_0", "7_1", "8", "9", "10_3", "99"])
    assert found == {"7_0": "RUNNING", "7_1": "PENDING", "8": "CANCELLED", "9": "COMPLETED", "10_3": "CANCELLED"}
    assert (folder / "sacct.asked").read_text().split()[-1] == "10_3,9,99"  # only what the queue no longer has
    assert slurm.job_states(["7_0"]) == {"7_0": "RUNNING"}
    assert len((folder / "sacct.asked").read_text().splitlines()) == 1
    asked = (folder / "squeue.asked").read_text().splitlines()
    assert len(asked) == 2  # once for all
    assert all("--me" in line.split() for line in asked)  # a cluster's queue may be very long


def test_jobs_of_others_are_known_to_accounting(tools) -> None:
    """In a folder that several people share."""
    tools(squeue="7_0|11|RUNNING\\n", sacct="8_0|RUNNING\\n")
    assert slurm.job_states(["7_0", "8_0"]) == {"7_0": "RUNNING", "8_0": "RUNNING"}


def test_without_slurm_there_are_no_states(tools) -> None:
    assert slurm.job_states(["1"]) == {}
    (tools(squeue="x") / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert slurm.job_states(["1"]) == {}
    assert slurm.job_states([]) == {}


@pytest.mark.parametrize(
    ("word", "status", "state"),
    [
        ("PENDING", None, "queued"),
        ("REQUEUED", 143, "queued"),
        ("RUNNING", None, "running"),
        ("RUNNING", 1, "running"),  # the notes are those of the attempt before
        ("COMPLETED", 1, "failed"),
        ("COMPLETED", 143, "pending"),
        ("COMPLETED", 137, "failed"),
        ("CANCELLED", None, "pending"),
        ("NODE_FAIL", None, "pending"),
        ("TIMEOUT", None, "pending"),
        ("OUT_OF_MEMORY", None, "failed"),
        ("FAILED", None, "failed"),
        ("", None, "pending"),
        ("", 2, "failed"),
    ],
)
def test_the_state_of_a_point_on_slurm(word: str, status: int | None, state: str, tools, point: Point) -> None:
    tools(squeue=f"5_N/A|5|{word}\\n" if word else "", sacct="")
    point.job.write_text("5\n")
    point.notes.write_text(json.dumps({"exit_status": status, "host": "elsewhere", "pid": 1, "job": "5"}))
    assert state_of(point) == state


@pytest.mark.parametrize(
    ("word", "job", "status", "reason"),
    [
        ("OUT_OF_MEMORY", "5", None, "SLURM ended job 5: OUT_OF_MEMORY; raise launch.mem_gb if it needs more memory"),
        ("NODE_FAIL", "5", None, "SLURM ended job 5: NODE_FAIL"),
        ("NODE_FAIL", "4", 1, "SLURM ended job 5: NODE_FAIL"),  # the notes are an earlier job's
        ("COMPLETED", "5", 1, ""),  # the log says it
        ("", "5", None, ""),
    ],
)
def test_a_job_that_left_no_word_is_explained(
    word: str, job: str, status: int | None, reason: str, tools, point: Point
) -> None:
    tools(squeue=f"5_N/A|5|{word}\\n" if word else "", sacct="")
    point.job.write_text("5\n")
    point.notes.write_text(json.dumps({"exit_status": status, "job": job}))
    assert reason_of(point) == reason


def test_the_notes_of_an_earlier_job_do_not_count(tools, point: Point) -> None:
    point.job.write_text("5\n")
    point.notes.write_text(json.dumps({"exit_status": 1, "job": "4"}))
    tools(squeue="5_N/A|5|CANCELLED\\n", sacct="")
    assert state_of(point) == "pending"
    point.notes.write_text(json.dumps({"exit_status": 1, "birth": "1"}))  # a process of a machine, before the job
    assert state_of(point) == "pending" and reason_of(point) == "SLURM ended job 5: CANCELLED"
    point.job.unlink()
    assert state_of(point) == "failed"


def test_a_finished_point_is_finished_whatever_slurm_says(tools, point: Point) -> None:
    tools(squeue="5_N/A|5|RUNNING\\n")
    point.job.write_text("5\n")
    point.directory.mkdir(parents=True)
    (point.directory / "summary.json").write_text('{"status": "finished"}')
    assert state_of(point) == "finished"


# -------------------------------------------------------------------------------------- following jobs


def test_waiting_grows_until_something_changes() -> None:
    backoff = slurm.Backoff()
    assert [backoff.next(changed=False) for _ in range(6)] == [5, 10, 20, 40, 60, 60]
    assert [backoff.next(changed) for changed in (True, False, True, True)] == [5, 10, 5, 5]


def test_jobs_that_do_not_change_are_looked_at_less_often(
    tools, point: Point, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job waits for four looks, runs for three, learns a task, and ends."""
    point.job.write_text("5\n")
    words = ["PENDING"] * 4 + ["RUNNING"] * 3 + ["RUNNING"] * 2 + ["CANCELLED"]
    waited: list[float] = []

    def sleep(stop: Stop, seconds: float) -> None:
        waited.append(seconds)
        look = len(waited) - 1
        tools(squeue=f"5_N/A|5|{words[look]}\\n", sacct="")
        if look == 7:
            point.directory.mkdir(parents=True)
            (point.directory / "identity.json").write_text('{"settings": {}, "tasks": ["ant", "bee"]}')
            row = {"event": "row", "row": 1, "after": "ant", "accuracy": {}}
            (point.directory / "metrics.jsonl").write_text(json.dumps(row) + "\n")

    monkeypatch.setattr(Stop, "sleep", sleep)
    launch.follow([point], Tasks(1), Stop())
    assert waited == [5, 10, 20, 40, 60, 5, 10, 20, 5, 10]
    assert capsys.readouterr().out.splitlines() == [
        "[1/1] label: running",
        "[1/1] 1 of 2 tasks learned (ant)",
        "[1/1] label: pending",
    ]


def test_a_signal_ends_the_following(tools, point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tools(squeue="5_N/A|5|RUNNING\\n")
    point.job.write_text("5\n")
    monkeypatch.setattr(Stop, "sleep", lambda stop, seconds: stop(15, None))
    launch.follow([point], Tasks(1), Stop())
    assert not (folder / "squeue.asked").exists()


# ---------------------------------------------------------------------------------------------- pickles


def test_a_job_is_pickled_without_its_process_and_read_without_torch(tmp_path: Path) -> None:
    job = slurm.PointJob(["true"], str(tmp_path / "log"), str(tmp_path / "notes"), True)
    job._process, job._status = subprocess.Popen(["true"]), 0
    job._process.wait()
    (tmp_path / "job.pkl").write_bytes(pickle.dumps(job))
    code = (
        f"import pickle, sys; job = pickle.load(open({str(tmp_path / 'job.pkl')!r}, 'rb'));"
        "assert job.command == ['true'] and job._process is None and job._status is None;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_job_that_0_1_queued_is_read_under_its_new_name(tmp_path: Path) -> None:
    """Its pickle names bench.cluster.PointJob."""
    job = slurm.PointJob(["true"], "log", "notes", False)
    old = pickle.dumps(job, protocol=0).replace(b"cbench.sweep.slurm\n", b"cbench.cluster\n")
    assert b"bench.cluster" in old and b"bench.sweep" not in old
    (tmp_path / "job.pkl").write_bytes(old)
    code = (
        f"import pickle, sys; job = pickle.load(open({str(tmp_path / 'job.pkl')!r}, 'rb'));"
        "from bench.sweep.slurm import PointJob;"
        "assert type(job) is PointJob and (job.command, job.log, job.notes) == (['true'], 'log', 'notes');"
        "again = pickle.loads(pickle.dumps(job)); assert type(again) is PointJob and again.threads is False;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

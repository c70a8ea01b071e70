"""What a sweep makes of SLURM's answers, by programs that stand in for its tools; tests/cluster has the real ones."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.sweep import file as sweep
from bench.sweep import slurm as cluster

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
def point(tmp_path: Path) -> sweep.Point:
    folder = tmp_path / "runs" / "sweeps" / "some"
    folder.mkdir(parents=True)
    return sweep.Point(1, ("method=lora",), "label", None, tmp_path / "runs" / "leaf-s0", folder)


def test_states_are_the_queues_and_else_the_accounts(tools) -> None:
    folder = tools(
        squeue="7_0|11|RUNNING\\n7_1|12|PENDING\\n8_N/A|8|CANCELLED by 0\\n",
        sacct="9|COMPLETED\\n7_1|FAILED\\n10_3|CANCELLED by 5\\n",
    )
    found = cluster.states(["7_0", "7_1", "8", "9", "10_3", "99"])
    assert found == {"7_0": "RUNNING", "7_1": "PENDING", "8": "CANCELLED", "9": "COMPLETED", "10_3": "CANCELLED"}
    assert (folder / "sacct.asked").read_text().split()[-1] == "10_3,9,99"  # only what the queue no longer has
    assert cluster.states(["7_0"]) == {"7_0": "RUNNING"}
    assert len((folder / "sacct.asked").read_text().splitlines()) == 1
    assert len((folder / "squeue.asked").read_text().splitlines()) == 2  # once for all


def test_without_slurm_there_are_no_states(tools) -> None:
    assert cluster.states(["1"]) == {}
    (tools(squeue="x") / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert cluster.states(["1"]) == {}
    assert cluster.states([]) == {}


@pytest.mark.parametrize(
    ("slurm", "status", "state"),
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
def test_the_state_of_a_point_on_slurm(slurm: str, status: int | None, state: str, tools, point: sweep.Point) -> None:
    tools(squeue=f"5|5|{slurm}\\n".replace("5|5", "5_N/A|5") if slurm else "", sacct="")
    point.job.write_text("5\n")
    point.notes.write_text(json.dumps({"exit_status": status, "host": "elsewhere", "pid": 1}))
    assert sweep.state(point) == state


@pytest.mark.parametrize(
    ("slurm", "job", "status", "reason"),
    [
        ("OUT_OF_MEMORY", "5", None, "SLURM ended job 5: OUT_OF_MEMORY; raise launch.mem_gb if it needs more memory"),
        ("NODE_FAIL", "5", None, "SLURM ended job 5: NODE_FAIL"),
        ("NODE_FAIL", "4", 1, "SLURM ended job 5: NODE_FAIL"),  # the notes are an earlier job's
        ("COMPLETED", "5", 1, ""),  # the log tells
        ("", "5", None, ""),
    ],
)
def test_a_job_that_left_no_word_is_explained(
    slurm: str, job: str, status: int | None, reason: str, tools, point: sweep.Point
) -> None:
    tools(squeue=f"5_N/A|5|{slurm}\\n" if slurm else "", sacct="")
    point.job.write_text("5\n")
    point.notes.write_text(json.dumps({"exit_status": status, "job": job}))
    assert sweep.reason(point) == reason


def test_the_notes_of_an_earlier_job_do_not_count(tools, point: sweep.Point) -> None:
    point.job.write_text("5\n")
    point.notes.write_text(json.dumps({"exit_status": 1, "job": "4"}))
    tools(squeue="5_N/A|5|CANCELLED\\n", sacct="")
    assert sweep.state(point) == "pending"


def test_a_finished_point_is_finished_whatever_slurm_says(tools, point: sweep.Point) -> None:
    tools(squeue="5_N/A|5|RUNNING\\n")
    point.job.write_text("5\n")
    point.directory.mkdir(parents=True)
    (point.directory / "summary.json").write_text('{"status": "finished"}')
    assert sweep.state(point) == "finished"


def test_a_job_is_pickled_without_its_process_and_read_without_torch(tmp_path: Path) -> None:
    job = cluster.PointJob(["true"], str(tmp_path / "log"), str(tmp_path / "notes"), True)
    job._process, job._status = subprocess.Popen(["true"]), 0
    job._process.wait()
    (tmp_path / "job.pkl").write_bytes(pickle.dumps(job))
    code = (
        f"import pickle, sys; job = pickle.load(open({str(tmp_path / 'job.pkl')!r}, 'rb'));"
        "assert job.command == ['true'] and job._process is None and job._status is None;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

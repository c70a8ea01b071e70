"""Sweeps on a real SLURM of one node, which is started for these tests."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support.fake_wandb import FakeWandb

from bench.metrics.matrix import AccuracyMatrix
from bench.sweep import launch
from bench.sweep.attempts import Attempt
from bench.sweep.file import expand
from bench.sweep.points import Point, job_id, last_attempt, reason_of, state_of, states_of
from bench.sweep.slurm import job_states

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent.parent
TOY = str(ROOT / "tests" / "toy.py")
START = Path(__file__).parent / "slurm_up.sh"
SLURM = ["launch=slurm", "launch.cpus_per_task=1", "launch.mem_gb=2"]
AGENT = "import sys; from wandb import wandb_agent as a; a.Agent.POLL_INTERVAL = 0.2; a.run_agent(sys.argv[1])"


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM of this machine's own, with accounting; stopped at the end."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root, to start SLURM")
    if not Path("/usr/bin/apt-get").exists():
        pytest.skip("needs Debian packages of SLURM")
    import tempfile

    # Unix sockets lie in it, whose names may not be long.
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as folder:
        port = {"SLURM_UP_PORT": str(20000 + os.getpid() % 20000)}  # one of an aborted session may still be there
        started = subprocess.run(
            ["bash", str(START), folder], env={**os.environ, **port}, capture_output=True, text=True, timeout=600
        )
        assert started.returncode == 0, started.stdout + started.stderr
        before = dict(os.environ)
        os.environ["SLURM_CONF"] = f"{folder}/etc/slurm.conf"
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ["OMP_WAIT_POLICY"] = "passive"
        try:
            yield
        finally:
            subprocess.run(["bash", str(START), folder, "stop"], capture_output=True, timeout=120)
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def write(slurm: None, tmp_path: Path) -> Callable[..., Path]:
    """Writes a sweep file over the toy stream."""

    def write(name: str = "some", fixed: tuple[str, ...] = (), **parameters: list) -> Path:
        words = [
            f"stream={TOY}",
            "stream.count=2",
            f"model={TOY}",
            f"out={tmp_path / 'runs'}",
            "device=cpu",
            "threads=1",
        ]
        content = {
            "method": "grid",
            "parameters": {"method": {"value": "lora"}, **{key: {"values": v} for key, v in parameters.items()}},
            "command": ["${env}", "${interpreter}", "-m", "bench", "run", *words, *fixed, "${args_no_hyphens}"],
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return write


def bench(*words: str, timeout: float = 600) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "sweep", *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout + done.stderr


def points(file: Path, *words: str) -> tuple[Point, ...]:
    return expand(file, words).points


def attempt(point: Point) -> Attempt:
    found = last_attempt(point)
    assert found is not None
    return found


def until(what: Callable[[], bool], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def rows(point: Point) -> int:
    path = point.directory / "metrics.jsonl"
    return path.read_text().count('"event": "row"') if path.exists() else 0


def assert_same(first: Path, second: Path) -> None:
    for name in ("accuracy.csv", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


LONG = ("method.rank=2", "train.epochs=300", "checkpoint.every=null")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long run that nothing interrupted."""
    out = tmp_path_factory.mktemp("straight")
    line = [f"stream={TOY}", "stream.count=2", f"model={TOY}", "device=cpu", "threads=1", "method=lora", f"out={out}"]
    subprocess.run([sys.executable, "-m", "bench", "run", *line, *LONG], cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("toy/tiny/lora/*"))


def test_an_array_with_a_failing_point(write) -> None:
    file = write(**{"method.rank": [2, 100, 4]})
    assert "100" in bench(str(file), "dry_run=true")[1]
    status, out = bench(str(file), *SLURM)
    assert status == 1, out
    assert "submitted 3 points as job " in out and re.search(r"cancel: scancel \d+", out)
    assert states_of(points(file)) == ["finished", "failed", "finished"]
    assert "method.rank=100 is above the width" in out and "1 point failed: the same line runs it again" in out
    jobs = [job_id(point) for point in points(file)]
    assert [job.partition("_")[2] for job in jobs] == ["0", "1", "2"]
    # The same line again leaves alone what is finished and runs the rest.
    status, out = bench(str(file), *SLURM)
    assert status == 1 and "2 of 3 points are finished already" in out and "submitted 1 points" in out
    again = [job_id(point) for point in points(file)]
    assert (again[0], again[2]) == (jobs[0], jobs[2]) and again[1] != jobs[1]
    status, out = bench(str(file), "status")
    assert status == 0 and len(re.findall(r"finished +\d", out)) == 2 and "failed" in out


@pytest.mark.parametrize("how", ["preempted", "out of time"])
def test_a_job_that_is_stopped_continues_to_the_same_numbers(how: str, write, straight: Path) -> None:
    from submitit.slurm.slurm import SlurmJob

    file = write(fixed=LONG, seed=[0])
    # A job of less than ten minutes counts as out of time by submitit's reckoning, a longer one as preempted.
    minutes = {"preempted": "60", "out of time": "8"}[how]
    assert bench(str(file), *SLURM, f"launch.timeout_min={minutes}", "launch.wait=false")[0] == 0
    (point,) = points(file)
    until(lambda: rows(point) == 2)  # in its second task
    assert state_of(point) == "running"
    if how == "preempted":
        assert "was asked to stop; it is requeued and continues" in launch.preempt(expand(file), 1)
    else:
        SlurmJob(folder=point.folder / "jobs", job_id=job_id(point))._interrupt(timeout=True)
    seen = set()
    until(lambda: seen.add(state_of(point)) or "finished" in seen)
    assert not seen & {"failed", "pending"}
    until(lambda: attempt(point).exit_status == 0)
    assert attempt(point).restarts == 1
    assert "continuing in task 2 of 2" in point.log.read_text()
    assert_same(point.directory, straight)


def test_the_jobs_continue_when_nobody_follows_them(write) -> None:
    file = write(fixed=LONG, seed=[1, 2])
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "sweep", str(file), *SLURM],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    first, second = points(file)
    until(lambda: rows(first) >= 1 and rows(second) >= 1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "the jobs continue; follow: python -m bench sweep" in out
    assert states_of([first, second]) == ["running", "running"]
    status, out = bench(str(file), *SLURM)
    assert status == 0 and "all points that are left are running" in out
    job = job_id(first)
    subprocess.run(["scancel", job], check=True)
    until(lambda: state_of(first) == "pending")  # cancelled, not failed
    os.kill(attempt(second).pid, signal.SIGKILL)
    until(lambda: state_of(second) == "failed")
    assert attempt(second).exit_status == 128 + signal.SIGKILL


def test_a_job_that_dies_without_a_word_is_noticed(write) -> None:
    file = write(fixed=LONG, seed=[3])
    assert bench(str(file), *SLURM, "launch.wait=false")[0] == 0
    (point,) = points(file)
    until(lambda: rows(point) >= 1)
    run = attempt(point).pid
    leader = int(Path(f"/proc/{run}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (leader, run):
        os.kill(pid, signal.SIGKILL)
    until(lambda: state_of(point) == "failed")
    assert re.match(r"SLURM ended job \d+: (FAILED|OUT_OF_MEMORY); raise launch.mem_gb", reason_of(point))


def test_two_processes_share_a_run(write, tmp_path: Path) -> None:
    file = write(**{"method.rank": [2]})
    status, out = bench(str(file), *SLURM, "launch.tasks_per_node=2")
    assert status == 0, out
    (point,) = points(file)
    assert json.loads((point.directory / "environment.json").read_text())["processes"] == 2
    (alone,) = points(file, f"out={tmp_path / 'alone'}")
    assert bench(str(file), f"out={tmp_path / 'alone'}")[0] == 0
    a, b = (AccuracyMatrix.from_csv(one.directory / "accuracy.csv") for one in (point, alone))
    cells = [(row, column) for row in range(3) for column in range(2)]
    assert max(abs(a.accuracy(*cell) - b.accuracy(*cell)) for cell in cells) <= 100 / 24 + 1e-9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launch.partition=nowhere"], r"error: SLURM refuses the jobs \(.*invalid partition"),
        (["launch.mem_gb=100000"], r"error: SLURM refuses the jobs \(.*[Mm]emory"),
        (["launch.slurm.nothing=1"], r"error: launch.slurm.nothing is unknown: there are .*account, "),
    ],
)
def test_what_slurm_refuses_is_reported(words: list[str], said: str, write) -> None:
    file = write(seed=[0])
    status, out = bench(str(file), "launch=slurm", *words)
    assert status == 2 and re.search(said, out, flags=re.IGNORECASE) and "Traceback" not in out
    assert states_of(points(file)) == ["pending"] and job_id(points(file)[0]) is None


def test_a_job_that_is_no_longer_known_has_no_state(slurm: None) -> None:
    assert job_states(["1", "2_3"]) == {}


def test_three_ways_give_the_same_runs_and_numbers(slurm: None, tmp_path: Path) -> None:
    """Here, by W&B's agent and as an array: eight methods on a task of the pocket stream, one seed and epoch."""
    content = yaml.safe_load((ROOT / "sweeps" / "compare_methods.yaml").read_text())
    content["parameters"]["seed"] = {"value": 0}
    methods = content["parameters"]["method"]["values"][:8]
    content["parameters"]["method"]["values"] = methods
    more = ["stream.tasks=[flags]", "train.epochs=1", "threads=1", "device=cpu"]
    position = content["command"].index("${args_no_hyphens}")
    found = {}
    for way in ("here", "agent", "array"):
        out = tmp_path / way
        command = [*content["command"][:position], *more, f"out={out}", *content["command"][position:]]
        file = tmp_path / f"{way}.yaml"
        file.write_text(yaml.safe_dump({**content, "command": command}, sort_keys=False))
        if way == "agent":
            with FakeWandb() as server:
                made = server.add_sweep(yaml.safe_load(file.read_text()), "swept")
                environment = {**os.environ, **server.env(), "WANDB_DIR": str(tmp_path / "wandb")}
                environment["WANDB_ERROR_REPORTING"] = "false"
                (tmp_path / "wandb").mkdir()
                agent = [sys.executable, "-c", AGENT, f"{server.entity}/swept/{made}"]
                done = subprocess.run(agent, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
                assert done.returncode == 0, done.stderr
                assert len(server.runs) == len(methods) and not server.errors
        else:
            status, printed = bench(str(file), *(SLURM if way == "array" else []), timeout=1800)
            assert status == 0, printed
        runs = sorted(out.glob("pocket/pocket/*/*/accuracy.csv"))
        found[way] = {str(path.parent.relative_to(out)): path.read_bytes() for path in runs}
    assert len(found["here"]) == len(methods)
    assert found["here"] == found["agent"] == found["array"]

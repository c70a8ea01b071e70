"""Faults from outside: full and read-only disks, no memory, diverging training, a writer that is gone, odd clocks."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import SoftFileLease
from support.toy_runs import Killed, assert_same, broken_off, words

from bench.cli import main as cli
from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.images import ArrayImages
from bench.learning.method import Method
from bench.record import hold
from bench.record.checkpoint import Checkpoints
from bench.record.record import Record
from bench.runs.run import run

# ---------------------------------------------------------------------------------- full and read-only disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own for the test's runs; call it with mount options, again to change them."""
    made: list[Path] = []

    def mount(options: str, place: Path = tmp_path / "disk") -> Path:
        place.mkdir(exist_ok=True)
        again = "remount," if os.path.ismount(place) else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(place)], capture_output=True)
        if done.returncode and not made:
            pytest.skip("needs the right to mount a file system")
        assert done.returncode == 0, done.stderr
        if not again:
            made.append(place)
        return place

    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    yield mount
    for place in reversed(made):
        if os.path.ismount(place):
            subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_the_run_and_with_more_room_it_continues(tmp_path: Path, disk) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora", "batches.record=true")))
    line = words(disk("size=20k") / "runs", "lora", "batches.record=true", "checkpoint.every=0")
    directory, full = run_directory(resolve(line)), 0
    for room in range(20, 4000, 110):
        disk(f"size={room}k")
        try:
            run(resolve(line))
            break
        except UserError as error:
            told = str(error)
            full += 1
            assert not list(directory.rglob("*.tmp")) and not (directory / "summary.json").exists()
        assert told == (
            f"cannot write to {directory} (No space left on device): make room or choose another folder with out=DIR"
        )
    assert full >= 5
    assert_same(straight, directory)


def test_a_read_only_disk_ends_the_run_and_when_it_is_writable_it_continues(tmp_path: Path, disk, monkeypatch) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora")))
    line = words(disk("size=100m") / "runs", "lora", "checkpoint.every=0")
    directory, save, left = run_directory(resolve(line)), Checkpoints.save, {"now": 8}

    def locking(self: Checkpoints, *arguments, **named) -> None:
        left["now"] -= 1
        if left["now"] == 0:  # while files are open a mounted one cannot become read-only; a new one can
            disk("ro", directory / "checkpoints")
        save(self, *arguments, **named)

    monkeypatch.setattr(Checkpoints, "save", locking)
    with pytest.raises(UserError, match="Read-only file system"):
        run(resolve(line))
    subprocess.run(["umount", str(directory / "checkpoints")], check=True)
    disk("ro")
    with pytest.raises(UserError, match="Read-only file system"):
        run(resolve(line))
    disk("rw")
    assert left["now"] == 0
    assert_same(straight, run(resolve(line)))


@pytest.mark.parametrize("place", range(1, 25, 4))
def test_any_write_may_fail(place: int, tmp_path: Path, monkeypatch) -> None:
    """The n-th file that is opened for writing in the run directory cannot be; where no file system can be mounted."""
    straight = run(resolve(words(tmp_path / "straight", "lora", "stream.count=1")))
    line = words(tmp_path / "broken", "lora", "stream.count=1", "checkpoint.every=0")
    directory, opened, count = run_directory(resolve(line)), Path.open, {"now": 0}

    def failing(self: Path, mode: str = "r", *arguments, **named):
        if directory in self.parents and set(mode) & set("wax"):
            count["now"] += 1
            if count["now"] == place:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match=f"{directory}.* .No space left on device.*out=DIR"):
        run(resolve(line))
    assert_same(straight, run(resolve(line)))


# ------------------------------------------------------------------------------------------------- clocks


def test_clocks_do_not_matter(tmp_path: Path, monkeypatch) -> None:
    """Files that seem to be from the future, the oldest the newest; and a clock that has jumped back to 1970."""
    straight = run(resolve(words(tmp_path / "straight", "lora")))
    line, directory = broken_off(tmp_path / "broken", monkeypatch)
    for age, path in enumerate(sorted((directory / "checkpoints").iterdir())):
        future = time.time() + 1e6 - 1000 * age
        os.utime(path, (future, future))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert_same(straight, run(resolve(line)))
    seconds = json.loads((directory / "summary.json").read_text())["seconds"]
    assert all(0 <= value < 600 for value in seconds.values())


# ------------------------------------------------------------------------------- training that goes wrong


def told(line: list[str], capsys: pytest.CaptureFixture) -> str:
    """What a line that the user has to correct prints."""
    assert cli.main(["run", *line]) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors


def test_a_diverged_run_has_no_result(tmp_path: Path, capsys) -> None:
    line = words(tmp_path, "finetune", "train.lr=1e20", "train.schedule=constant", "checkpoint.every=0")
    for _ in range(2):  # also when it is continued from the last checkpoint before
        errors = told(line, capsys)
        assert "error: the loss of task toy0 became nan in step 2 of epoch 1: lower train.lr (now 1e+20)" in errors
    directory = run_directory(resolve(line))
    rows = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [(row["event"], row.get("row")) for row in rows] == [("row", 0)]
    assert not (directory / "summary.json").exists()


def test_weights_that_are_no_numbers_have_no_accuracy(tmp_path: Path, monkeypatch) -> None:
    """However they came about: by a method's own way to train, or in a last step after which no loss is computed."""
    lora = registry.load("method", "lora")
    original = Method.end_task

    def spoil(self: Method, task) -> None:
        original(self, task)
        next(iter(self.clip.model.parameters())).fill_(float("nan"))

    monkeypatch.setattr(lora, "end_task", spoil)
    with pytest.raises(UserError, match="of the test images of task toy0 are no numbers: the weights have diverged"):
        run(resolve(words(tmp_path, "lora")))
    assert not list(tmp_path.rglob("summary.json"))


HUNGRY = """
    import torch
    from bench.learning.method import Method
    from bench.config.registry import register

    @register("method", "hungry", title="Wants a pebibyte")
    class Hungry(Method):
        def setup(self):
            self.own = torch.zeros(3)

        def parameters(self):
            return [self.own]

        def loss(self, pixels, labels, task):
            {wish}
"""


@pytest.mark.parametrize("wish", ["torch.empty(2**48)", "bytearray(2**60)", "raise torch.cuda.OutOfMemoryError('no')"])
def test_too_little_memory_names_what_takes_less(wish: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "hungry.py"
    file.write_text(textwrap.dedent(HUNGRY.format(wish=wish)))
    errors = told(words(tmp_path, str(file)), capsys)
    assert "error: the cpu ran out of memory: lower train.batch_size and evaluate.batch_size" in errors


def test_an_error_of_the_method_is_no_lack_of_memory(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(textwrap.dedent(HUNGRY.format(wish="raise RuntimeError('mine')")))
    with pytest.raises(RuntimeError, match="mine"):
        run(resolve(words(tmp_path, str(file))))


@pytest.mark.parametrize("death", [MemoryError, SystemExit, ValueError])
def test_a_thread_that_decodes_may_die(death: type[BaseException], tmp_path: Path, monkeypatch) -> None:
    straight = run(resolve(words(tmp_path / "straight", "lora")))
    line = words(tmp_path / "broken", "lora")
    image, count = ArrayImages.image, {"now": 0}

    def dying(self: ArrayImages, index: int):
        count["now"] += 1
        if count["now"] == 100:
            raise death
        return image(self, index)

    monkeypatch.setattr(ArrayImages, "image", dying)
    with pytest.raises((death, UserError)):
        run(resolve(line))
    assert_same(straight, run(resolve(line)))


# ------------------------------------------------------------------------------------ writers elsewhere

ELSEWHERE = """
    import socket, sys, time
    socket.gethostname = lambda: "elsewhere"
    from filelock import SoftFileLease
    claim = SoftFileLease(sys.argv[1], lease_duration=2.0)
    claim.acquire()
    print("writing", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def elsewhere(monkeypatch) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Starts a writer of a run directory on what says to be another machine, with which no kernel shares locks."""
    monkeypatch.setattr(hold, "CLAIM", 2.0)
    started = []

    def start(directory: Path) -> subprocess.Popen:
        directory.mkdir(parents=True, exist_ok=True)
        code = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(directory / "writer")]
        started.append(subprocess.Popen(code, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "writing\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_writer_on_another_machine_is_named(tmp_path: Path, elsewhere) -> None:
    line = words(tmp_path, "zero-shot")
    directory = run_directory(resolve(line))
    other = elsewhere(directory)
    with pytest.raises(UserError, match=rf"{directory} is being written by process {other.pid} on elsewhere.*: wait"):
        run(resolve(line))


def test_a_writer_whose_machine_is_gone_is_waited_for_and_then_followed(tmp_path: Path, elsewhere, capsys) -> None:
    straight = run(resolve(words(tmp_path / "straight", "zero-shot")))
    line = words(tmp_path / "broken", "zero-shot")
    elsewhere(run_directory(resolve(line))).kill()
    begun = time.monotonic()
    assert_same(straight, run(resolve(line)))
    assert time.monotonic() - begun > 2
    assert "on elsewhere" in (out := capsys.readouterr().out) and "waiting 2 s for a sign of life" in out


def test_waiting_for_a_writer_can_be_broken_off(tmp_path: Path, elsewhere) -> None:
    elsewhere(tmp_path)
    with pytest.raises(Killed), Record(tmp_path).held(lambda: (_ for _ in ()).throw(Killed)):
        pass


def test_who_was_taken_for_gone_writes_no_more(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hold, "CLAIM", 0.6)
    mine = Record(tmp_path)
    with mine.held():
        mine.event("first")
        SoftFileLease(tmp_path / "writer", lease_duration=0.6).force_break()
        other = SoftFileLease(tmp_path / "writer", lease_duration=0.6)
        other.acquire(timeout=5)
        time.sleep(1)  # its heart beats three times in 0.6 s and believes in the second miss
        with pytest.raises(UserError, match=f"{tmp_path} has been taken over by process {os.getpid()} on"):
            mine.event("second")
        other.release()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"event": "first"}\n'

"""Power cuts: what had not reached the disk is lost, and the same line still ends with the bits of one straight run."""

import os
from pathlib import Path

import pytest
from support.power import PowerCut, dying, losing
from support.toy_runs import assert_same, words

from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.files import make_folder, write_atomic
from bench.record.checkpoint import Checkpoints
from bench.record.schema import BATCHES, CONFIG, ENVIRONMENT, IDENTITY, MODEL
from bench.runs.run import run

LINE = ("lora", "batches.record=true", "checkpoint.every=0", "train.epochs=1")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(resolve(words(tmp_path_factory.mktemp("straight"), *LINE)))


def test_the_disk_loses_what_was_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    disk = losing(monkeypatch, root)
    make_folder(root / "a" / "b")
    (root / "a" / "unsynced").mkdir()
    write_atomic(root / "a" / "b" / "kept", "1")
    (root / "a" / "b" / "new").write_text("2")
    (root / "a" / "b" / "kept").write_text("3")
    disk.cut()
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == {"a", "a/b", "a/b/kept"}
    assert (root / "a" / "b" / "kept").read_text() == "1"


def test_a_finished_record_is_on_the_disk(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its checkpoints are cleared there is nothing else to continue from."""
    disk = losing(monkeypatch, tmp_path)
    line = words(tmp_path / "runs", *LINE)
    directory = run(resolve(line))
    content = {path.name: path.read_bytes() for path in directory.iterdir()}
    disk.cut()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == content
    assert {CONFIG, IDENTITY, ENVIRONMENT, MODEL, BATCHES} <= set(content)
    assert_same(straight, directory)
    assert run(resolve(line)) == directory  # done already


def test_a_run_survives_power_cuts_at_any_moment(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So early in every attempt that none could finish alone: each continues where the one before had come to."""
    line = words(tmp_path / "runs", *LINE)
    directory = run_directory(resolve(line))
    for cuts in range(40):
        with monkeypatch.context() as patch:
            disk = losing(patch, tmp_path)
            dying(patch, 21 + cuts % 4, tmp_path)  # changes to names
            try:
                run(resolve(line))
                break
            except PowerCut:
                disk.cut()
    assert 3 < cuts < 39
    assert_same(straight, directory)
    assert {path.name for path in directory.iterdir()} == {path.name for path in straight.iterdir()}


def test_a_checkpoint_is_on_the_disk_with_all_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = losing(monkeypatch, tmp_path)
    save, saved = Checkpoints.save, []

    def last(self: Checkpoints, *arguments: object, **named: object) -> None:
        save(self, *arguments, **named)
        saved.append(1)
        if len(saved) == 4:
            raise PowerCut

    line = words(tmp_path / "runs", *LINE)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", last)
        with pytest.raises(PowerCut):
            run(resolve(line))
    disk.cut()
    directory = run_directory(resolve(line))
    assert {IDENTITY, ENVIRONMENT, CONFIG} <= {path.name for path in directory.iterdir()}
    assert len(list((directory / "checkpoints").iterdir())) >= 2


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems refuse to; what the disk itself refuses is a failure."""
    import errno

    fsync = os.fsync
    for number, fails in ((errno.EINVAL, False), (errno.EIO, True)):

        def refusing(descriptor: int, number: int = number) -> None:
            if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refusing)
        if fails:
            with pytest.raises(OSError, match="Input/output error"):
                write_atomic(tmp_path / "file", "text")
        else:
            write_atomic(tmp_path / "file", "text")

"""Files are replaced as a whole: what a failure, a crash or a link that lies in wait leaves behind."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.core import files
from bench.core.files import content_sha256, remove_scratch, replacing, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "stored"), [("Größe\n", "Größe\n".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n")])
def test_new_and_old_files_are_written(content: str | bytes, stored: bytes, tmp_path: Path) -> None:
    for _ in range(2):
        write_atomic(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == stored and names(tmp_path) == ["file"]
        (tmp_path / "file").write_bytes(b"old")


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise error

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", fail)

    def write() -> None:
        with replacing(tmp_path / "file") as file:
            file.write(b"new")
            if step == "write":
                fail()

    with pytest.raises(type(error)):
        write()
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


def test_content_is_synced_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file first, then its new name, then the folder: what is written outlives a crash of the machine."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(number: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else f"{os.fstat(number).st_size} bytes")
        fsync(number)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append("name") or replace(self, to))
    write_atomic(tmp_path / "file", "text")
    assert done == ["4 bytes", "name", "folder"]


KILLED = """
    import sys, time
    from pathlib import Path
    from bench.core.files import replacing

    with replacing(Path(sys.argv[1])) as file:
        file.write(b"new")
        file.flush()
        print("written", flush=True)
        time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    code = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "file")]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    assert (tmp_path / "file").read_text() == "old" and len(names(tmp_path)) == 2
    remove_scratch(tmp_path, unused_for=3600)
    assert len(names(tmp_path)) == 2  # may be somebody's who is still at work
    remove_scratch(tmp_path)
    assert names(tmp_path) == ["file"]


def test_only_scratch_files_that_are_old_enough_are_removed(tmp_path: Path) -> None:
    for name, age in (("old.tmp", 100), (".old.tmp", 100), ("new.tmp", 0), ("old.csv", 100)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_scratch(tmp_path, unused_for=50)
    assert names(tmp_path) == ["new.tmp", "old.csv"]
    remove_scratch(tmp_path / "nowhere")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "file").is_symlink()


def test_links_that_lie_in_wait_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name that was once used, and under the very name that is drawn."""
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "drawn")
    for name in ("file.tmp", ".drawn.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / ".drawn.tmp").is_symlink()  # of somebody else: not ours to remove
    (tmp_path / ".drawn.tmp").unlink()
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "precious").read_text() == "mine" and (tmp_path / "file.tmp").is_symlink()


def test_long_names_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("x" * 255), "text")
    assert names(tmp_path) == ["x" * 255]


# ---- hashes of content


def test_a_folder_is_known_by_its_names_and_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "1.png").write_bytes(b"one")
        (tmp_path / name / "2.png").write_bytes(b"two")
    first = content_sha256(tmp_path / "a")
    assert len(first) == 64 and content_sha256(tmp_path / "b") == first
    (tmp_path / "b" / ".DS_Store").write_bytes(b"left behind")
    (tmp_path / "b" / "inner" / "loop").symlink_to(tmp_path / "b")
    os.mkfifo(tmp_path / "b" / "pipe")  # whoever opened it would wait
    assert content_sha256(tmp_path / "b") == first
    seen = {first}
    (tmp_path / "b" / "2.png").write_bytes(b"other")
    seen.add(content_sha256(tmp_path / "b"))
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "3.png")
    seen.add(content_sha256(tmp_path / "b"))
    (tmp_path / "b" / "inner" / "1.png").unlink()
    seen.add(content_sha256(tmp_path / "b"))
    assert len(seen) == 4


def test_a_file_is_known_by_its_bytes_and_what_cannot_be_read_by_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    assert content_sha256(tmp_path / "file") == hashlib.sha256(b"one").hexdigest()
    os.mkfifo(tmp_path / "pipe")
    assert content_sha256(tmp_path / "missing") == content_sha256(tmp_path / "pipe") == ""

"""Links, named pipes and devices where a file is expected: in run directories, under names of output, in mirrors."""

import ast
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.made_records import make
from support.toy_runs import broken_off

from bench.cli import main as cli
from bench.compare.export import write
from bench.compare.grouping import gather
from bench.compare.tables import sections
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.core.files import write_output
from bench.core.untrusted import NotPlain, kind_of, opened, read_file, read_text
from bench.record.record import Record
from bench.record.results import read_matrix, read_outcomes
from bench.record.schema import CHECKPOINTS, FILES, FOLDERS, read_object
from bench.runs.run import run
from bench.tracking.mirror import Mirror
from bench.tracking.mirror_state import load_state
from bench.tracking.payload import passed_over, record_files, weight_files

pytest_plugins = ["support.mirror_fixtures"]

ROOT = Path(__file__).parent.parent
MINE = "mine\n" * 100


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file outside of a run directory that nobody may write to."""
    path = tmp_path / "precious"
    path.write_text(MINE)
    return path


def link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def dangling(path: Path, precious: Path) -> None:
    path.symlink_to(precious.with_name("not there yet"))


def pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, precious: Path) -> None:
    path.mkdir()


def endless(path: Path, precious: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path, precious: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1_100_000_000)  # a hole: it takes no room on the disk


ODD = [link, dangling, pipe, folder, endless]
Put = Callable[[Path, Path], None]

# ------------------------------------------------------------------------------------------ run directories


@pytest.mark.parametrize("put", [link, dangling, pipe, folder])
@pytest.mark.parametrize("name", FILES)
def test_nothing_is_written_where_a_file_of_the_record_is_something_else(
    name: str, put: Put, tmp_path: Path, precious: Path
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    put(directory / name, precious)
    held = Record(directory).held()
    with pytest.raises(UserError, match=f"{directory / name} is no part of a record .*: remove it, or move"):
        held.__enter__()
    assert precious.read_text() == MINE and not precious.with_name("not there yet").exists()
    assert [path.name for path in directory.iterdir()] == [name]


@pytest.mark.parametrize("name", [*FOLDERS, ""])
def test_nothing_is_written_where_a_folder_of_the_record_is_a_link(name: str, tmp_path: Path) -> None:
    directory, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if name:
        directory.mkdir()
    (directory / name if name else directory).symlink_to(elsewhere)
    held = Record(directory).held()
    with pytest.raises(UserError, match="is no part of a record .it is a symbolic link instead of a folder."):
        held.__enter__()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("put", ODD)
def test_files_are_opened_only_where_they_are_files(put: Put, tmp_path: Path, precious: Path) -> None:
    """A record that is held may change under the hands of its writer: nothing relies on one look at it."""
    put(tmp_path / "metrics.jsonl", precious)
    put(tmp_path / "summary.json", precious)
    record = Record(tmp_path)
    for use in (
        lambda: record.line("metrics.jsonl", {"event": "mine"}),
        lambda: record.cut("metrics.jsonl", 1),
        lambda: record.size("metrics.jsonl"),
        lambda: record.read("metrics.jsonl"),
    ):
        with pytest.raises(UserError, match="instead of a file"):
            use()
    with pytest.raises(NotPlain, match="instead of a file"):
        read_object(tmp_path / "summary.json")
    assert precious.read_text() == MINE and not precious.with_name("not there yet").exists()


@pytest.mark.parametrize("put", ODD)
def test_tables_are_read_only_where_they_are_files(put: Put, tmp_path: Path, precious: Path) -> None:
    for name in ("accuracy.csv", "outcomes.csv"):
        put(tmp_path / name, precious)
    with pytest.raises(UserError, match=r"accuracy.csv cannot be read \(it is .* instead of a file"):
        read_matrix(tmp_path)
    with pytest.raises(UserError, match=r"outcomes.csv cannot be read \(it is .* instead of a file"):
        read_outcomes(tmp_path, ["a"])


def test_what_is_larger_than_any_record_is_not_read(tmp_path: Path, precious: Path) -> None:
    for name in ("summary.json", "metrics.jsonl", "accuracy.csv"):
        huge(tmp_path / name, precious)
    with pytest.raises(NotPlain, match="it has 1100000000 bytes, and such a file has 64000000 at most"):
        read_object(tmp_path / "summary.json")
    with pytest.raises(NotPlain, match="1000000000 at most"):
        read_text(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="1000000000 at most"):
        read_matrix(tmp_path)


def test_a_name_that_changes_between_the_look_and_the_opening(
    tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.core.untrusted.check_file", lambda *_: None)
    link(tmp_path / "link", precious)
    pipe(tmp_path / "pipe", precious)
    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path / "link")
    with pytest.raises(NotPlain, match="no regular file"):
        read_file(tmp_path / "pipe")


@pytest.mark.parametrize("package", ["record", "runs"])
def test_records_are_opened_in_one_module(package: str) -> None:
    """What opens files of a record on its own follows links and waits for pipes again."""
    ways = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "fdopen", "symlink_to"}
    for path in (ROOT / "bench" / package).glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        used = {call.attr for call in calls if isinstance(call, ast.Attribute)} & ways
        used |= {call.id for call in calls if isinstance(call, ast.Name)} & {"open"}
        # One reads what it stored itself, the other hashes the suite's own code.
        assert not used or path.name in ("shared.py", "provenance.py"), path


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The line and the directory of a run that ended inside its second task."""
    with pytest.MonkeyPatch.context() as patch:
        return broken_off(tmp_path_factory.mktemp("unfinished"), patch)


@pytest.fixture
def copied(unfinished: tuple[list[str], Path], tmp_path: Path) -> tuple[list[str], Path]:
    """A copy of it."""
    line, directory = unfinished
    out = next(word for word in line if word.startswith("out=")).removeprefix("out=")
    shutil.copytree(out, tmp_path / "runs", symlinks=True)
    return [f"out={tmp_path / 'runs'}" if word.startswith("out=") else word for word in line], (
        tmp_path / "runs" / directory.relative_to(out)
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json", "summary.json", "writer", CHECKPOINTS, "."])
def test_a_run_from_somebody_else_that_holds_links_is_refused(
    name: str, copied, tmp_path: Path, precious: Path
) -> None:
    line, directory = copied
    path = (directory / name).resolve()
    target = precious if path.is_file() or not path.exists() else path.rename(tmp_path / "moved")
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    with pytest.raises(UserError, match="it is a symbolic link instead of a fi|it is a symbolic link instead of a fo"):
        run(resolve(line))
    assert precious.read_text() == MINE


def test_links_under_names_that_were_once_used_are_not_written_through(copied, precious: Path) -> None:
    line, directory = copied
    names = ("metrics.jsonl", "accuracy.csv", "outcomes.csv", "summary.json", "environment.json", "model.safetensors")
    for name in names:
        (directory / f"{name}.tmp").symlink_to(precious)
    run(resolve(line))
    assert precious.read_text() == MINE and not list(directory.glob("*.tmp"))
    assert all(kind_of(directory / name) == "a file" for name in names)


@pytest.mark.parametrize("put", [link, pipe, endless, huge])
def test_what_is_no_checkpoint_keeps_nobody_waiting(put: Put, copied, precious: Path, capsys) -> None:
    line, directory = copied
    odd = directory / CHECKPOINTS / f"999999-task.{'0' * 32}.safetensors"
    put(odd, precious)
    run(resolve(line))
    output = capsys.readouterr().out
    assert f"the checkpoint {odd} is damaged and skipped" in output and "continuing in task 2 of 2" in output
    assert precious.read_text() == MINE and not (directory / CHECKPOINTS).exists()


def test_a_finished_run_may_keep_its_weights_elsewhere(tmp_path: Path, precious: Path) -> None:
    """Only what a run writes to, or what is read, has to be a file of its own."""
    path = make(tmp_path / "runs")
    link(path / "model.safetensors", precious)
    assert not gather([tmp_path / "runs"]).left_out


@pytest.mark.parametrize("put", ODD)
@pytest.mark.parametrize("name", ["identity.json", "environment.json", "summary.json"])
def test_compare_names_what_is_no_file(name: str, put: Put, tmp_path: Path, precious: Path) -> None:
    make(tmp_path / "runs")
    path = make(tmp_path / "runs", seed=1)
    (path / name).unlink()
    put(path / name, precious)
    ((where, reason),) = gather([tmp_path / "runs"]).left_out
    assert where == path and f"damaged: {name}: it is a" in reason and "instead of a file" in reason


@pytest.mark.parametrize("put", ODD)
def test_a_table_that_is_no_file_is_noted(put: Put, tmp_path: Path, precious: Path, capsys) -> None:
    for seed in range(2):
        path = make(tmp_path / "runs", "lora" if seed else "keeplora", fingerprint=f"012345678{seed}")
        for name in ("accuracy.csv", "outcomes.csv"):
            (path / name).unlink(missing_ok=True)
            put(path / name, precious)
    assert cli.main(["compare", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "no interval: " in output and "instead of a file" in output and "mine" not in output


# ---------------------------------------------------------------------------------------------------- output


@pytest.fixture
def parts(tmp_path: Path):
    make(tmp_path / "runs")
    return sections(gather([tmp_path / "runs"]))


OPTIONS = {"csv": b"stream,", "latex": b"% needs", "html": b"<!"}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_named_pipe_is_written_into(option: str, parts, tmp_path: Path) -> None:
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    write(parts, {option: str(path)})
    reader.join(60)
    assert read[0].startswith(OPTIONS[option]) and stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_into(parts) -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    path = os.ttyname(slave)
    write_output(Path(path), "some text")
    assert os.read(master, 100) == b"some text" and stat.S_ISCHR(Path(path).stat().st_mode)
    os.close(master)
    os.close(slave)
    write(parts, {"csv": "/dev/null"})
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_link_is_followed_to_its_file(option: str, parts, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(tmp_path / "folder" / name)
        write(parts, {option: str(tmp_path / name)})
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "folder" / name).read_bytes().startswith(OPTIONS[option])
    assert len(list((tmp_path / "folder").iterdir())) == 2


@pytest.mark.parametrize("option", [*OPTIONS, "pictures"])
def test_links_that_lead_nowhere_are_refused(option: str, parts, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "not there" / "c")
    for name in "ac" if option != "pictures" else "a":
        with pytest.raises(UserError, match=f"{option}={tmp_path / name} cannot be written"):
            write(parts, {option: str(tmp_path / name)})


def test_what_is_printed_to_a_file_stays_there(capfd: pytest.CaptureFixture) -> None:
    """Standard output leads to a file here, as with ``bench compare runs csv=/dev/stdout > all.txt``."""
    print("before")
    write_output(Path("/dev/stdout"), "in between\n")
    print("after")
    assert capfd.readouterr().out == "before\nin between\nafter\n"


def test_a_reader_that_is_gone_is_one_sentence(parts, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: path.open("rb").close(), daemon=True)
    reader.start()
    with pytest.raises(UserError, match="html=.* cannot be written .Broken pipe."):
        write(parts, {"html": str(path)})  # larger than what a pipe holds


# --------------------------------------------------------------------------------------------------- mirrors


def test_links_are_not_uploaded_and_named(tmp_path: Path, precious: Path) -> None:
    path = make(tmp_path / "runs")
    (path / "wandb").mkdir()
    (path / "inside").mkdir()
    for name in ("notes.txt", "big.safetensors", "inside/more.safetensors", "wandb/latest.safetensors"):
        (path / name).symlink_to(precious)
    os.mkfifo(path / "pipe")
    (path / "model.safetensors").write_bytes(b"weights")
    assert {one.name for one in record_files(path)} == {
        "identity.json", "environment.json", "summary.json", "accuracy.csv"
    }  # fmt: skip
    assert weight_files(path) == [path / "model.safetensors"]
    assert passed_over(path) == [
        "big.safetensors (a symbolic link)", "inside/more.safetensors (a symbolic link)",
        "notes.txt (a symbolic link)", "pipe (a named pipe)",
    ]  # fmt: skip


def test_bench_mirror_says_what_it_leaves_out(record: Path, precious: Path, capsys) -> None:
    (record / "notes.txt").symlink_to(precious)
    assert cli.main(["mirror", str(record), "track.wandb=offline"]) == 0
    assert "note: links and what else is no file are not sent to W&B: notes.txt (a symbolic link)" in (
        capsys.readouterr().out
    )
    sent = b"".join(path.read_bytes() for path in record.glob("wandb/offline-run-*/*.wandb"))
    assert b"summary.json" in sent and b"notes.txt" not in sent and b"mine" not in sent


@pytest.mark.parametrize("name", ["", "data", "cache", "mirror.log"])
def test_a_mirror_keeps_to_its_own_folder(name: str, tmp_path: Path, precious: Path, said: list[str]) -> None:
    from support.mirroring import options

    path, elsewhere = make(tmp_path / "runs"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    if name:
        (path / "wandb").mkdir()
    (path / "wandb" / name if name else path / "wandb").symlink_to(precious if "." in name else elsewhere)
    mirror = Mirror(options("offline"), said.append)
    mirror.start(path)
    mirror.close(0)
    assert "it is a symbolic link instead of a" in mirror.failure and len(said) == 1
    assert precious.read_text() == MINE and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "state", ['{"id": "x/../../.."}', '{"id": 1}', '{"id": ""}', '{"id": "x", "tags": 1}', '{"id": "x", "parts": [1]}']
)
def test_the_state_of_a_mirror_names_no_folder_elsewhere(state: str, tmp_path: Path) -> None:
    """Folders that the id is a part of are removed."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "state.json").write_text(state)
    assert load_state(tmp_path) is None

"""Paths that users write on the command line: unknown home folders, names that no file has, filters of any length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_records import make

from bench.cli.main import main
from bench.core.errors import UserError
from bench.core.paths import exists, is_file, is_folder, user_path

LONG = "x" * 300
HOME = "starts with a home folder that is not known here: write the whole path"
BYTES = "has a part of 300 bytes: names of files have at most 255, shorten it"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Return a function that calls the command line and returns the one sentence that it is refused with."""

    def refused(*words: str) -> str:
        assert main(list(words)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return refused


def test_a_path_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/x") == Path("/home/somebody/x")
    assert user_path("a/~nosuchuser") == Path("a/~nosuchuser")
    assert user_path("é" * 127 + "/" + "x" * 255).name == "x" * 255
    for text, said in (
        ("~nosuchuser/x", f"out=~nosuchuser/x {HOME}"),
        ("é" * 150, BYTES),
        ("a\0b", r"out=a\x00b holds characters that no name of a file has: rename it"),
        ("\ud800", r"out=\ud800 holds characters that no name of a file has: rename it"),
        ("x/" * 1501, "has 3001 bytes, more than 3000: write a shorter path"),
    ):
        with pytest.raises(UserError) as caught:
            user_path(text, "out")
        assert str(caught.value).endswith(said)
    with pytest.raises(UserError, match='^the path "~nosuchuser" starts with'):
        user_path("~nosuchuser")


def test_looking_never_raises(tmp_path: Path) -> None:
    for text in (LONG, "a\0b", "\ud800"):
        assert not is_folder(tmp_path / text) and not is_file(tmp_path / text) and not exists(tmp_path / text)
    (tmp_path / "file").touch()
    assert is_folder(tmp_path) and is_file(tmp_path / "file") and exists(tmp_path) and not is_folder(tmp_path / "file")


@pytest.mark.parametrize(("value", "said"), [("~nosuchuser/x", HOME), (LONG, BYTES)])
def test_folders_and_files_on_the_line(value: str, said: str, refused, tmp_path: Path) -> None:
    run = str(make(tmp_path / "runs"))
    for words in (("compare", value), ("mirror", value), ("diff", run, value), ("sweep", value)):
        assert refused(*words).endswith(said), words
    for option in ("csv", "latex", "html", "pictures"):
        assert refused("compare", run, f"{option}={value}") == f"{option}={value[:100]}{'...' * (value == LONG)} {said}"
    for key in ("data", "out", "cache.dir", "batches.replay"):
        assert refused("run", "method=zero-shot", f"{key}={value}").endswith(said), key
    assert refused("data", "mtil-order1", f"data={value}").endswith(said)
    assert refused("list", "methods", f"{value}/x.py").endswith(said)


def test_a_filter_may_be_longer_than_any_name_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    methods = ",".join(f"method{i:03}" for i in range(30))
    assert main(["compare", str(tmp_path), f"method=[{methods},keeplora]"]) == 0
    assert "keeplora" in capsys.readouterr().out
    assert main(["compare", str(tmp_path), f"method=[{methods}]"]) == 2
    assert capsys.readouterr().err.startswith("error: no run here has method=[method000,")


def test_filters_read_numbers_in_decimal_and_text_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, seed=8, method__note="on")
    make(tmp_path, seed=10, method__note="010", fingerprint="9876543210")
    for words, kept in (
        (["seed=010"], "10"),
        (["seed=[08]"], "8"),
        (["method.note=010"], "10"),
        (["method.note=[on,run #1]"], "8"),
        (["method.maps=[ q, v ]", "seed=8"], "8"),
    ):
        csv = tmp_path / "numbers.csv"
        assert main(["compare", str(tmp_path), *words, f"csv={csv}"]) == 0, capsys.readouterr().err
        prints = {"8": "0123456789", "10": "9876543210"}
        assert {line.split(",")[6] for line in csv.read_text().splitlines()[1:]} == {prints[kept]}
        capsys.readouterr()


@pytest.mark.slow
def test_a_process_without_a_home_folder_can_still_run(tmp_path: Path) -> None:
    """A container may give a user id that no user has, and no HOME."""
    code = """
import pathlib, sys
pathlib.Path.expanduser = lambda self: (_ for _ in ()).throw(RuntimeError()) if str(self)[:1] == "~" else self
from bench.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    line = ["run", "method=zero-shot", "stream.tasks=[icons]", "track.wandb=off", f"out={tmp_path}"]
    root = Path(__file__).parent.parent
    environment = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"} | {
        "PYTHONPATH": str(root)
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *line], capture_output=True, text=True, env=environment, cwd=root
    )
    assert (done.returncode, done.stderr) == (2, f"error: cache.dir=~/.cache/keeplora-bench {HOME}\n")
    done = subprocess.run(
        [sys.executable, "-c", code, *line, "cache.gb=0"], capture_output=True, text=True, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stderr

"""What lines mean is remembered: without torch the second time, and for as long as the code is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import METHOD

from bench import remember, sweep
from bench.config import resolve, run_directory
from bench.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def resolved(own_cache: Path, toys, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The lines that were resolved, not remembered."""
    lines = []

    def count(words):
        lines.append(list(words))
        return resolve(words)

    monkeypatch.setattr(remember, "resolve", count)
    return lines


def look_up(*words: str) -> tuple[Path, Path, int | None]:
    memory = remember.Memory()
    found = memory.look_up(words)
    memory.keep()
    return found


def test_a_line_is_resolved_once(resolved: list[list[str]], own_cache: Path) -> None:
    words = ["method=toy", "out=~/there", "threads=2"]
    expected = (run_directory(resolve(words)), Path("~/there").expanduser(), 2)
    assert look_up(*words) == look_up(*words) == expected
    assert look_up("method=toy", "model=ViT-B-16/openai") == look_up("method=toy", "model=ViT-B-16/openai")
    assert resolved == [words, ["method=toy", "model=ViT-B-16/openai"]]
    (own_cache / "lines.json").write_text("{")
    assert look_up(*words) == expected and len(resolved) == 3


def test_other_code_is_another_line(resolved: list[list[str]], toys) -> None:
    before, _, _ = look_up("method=toy")
    toys.write("methods/toy_method.py", METHOD.replace('setting("",', 'setting("other",'))
    for name in [name for name in sys.modules if name.startswith("bench.methods.toy_method")]:
        del sys.modules[name]
    after, _, _ = look_up("method=toy")
    assert len(resolved) == 2 and before != after


def test_plugins_of_others_and_mistakes_are_not_remembered(resolved: list[list[str]], toys) -> None:
    file = toys.write("mine.py", METHOD.replace('"toy"', '"mine"'))
    toys.install(
        "far-away", "[keeplora_bench.method]\nfar = elsewhere_far:Toy\n", elsewhere_far=METHOD.replace("toy", "far")
    )
    for words in ([f"method={file}"], ["method=far"], ["--method.name=far"], ["method={name: far}"]):
        assert look_up(*words) == look_up(*words)
    assert len(resolved) == 8
    for _ in range(2):
        with pytest.raises(UserError):
            look_up("method=toy", "seed=-1")
    assert len(resolved) == 10


def test_a_cache_folder_that_cannot_be_written_costs_time_only(resolved: list[list[str]], own_cache: Path) -> None:
    own_cache.parent.write_text("a file")
    assert look_up("method=toy") == look_up("method=toy")
    assert len(resolved) == 2


def test_a_second_look_at_a_sweep_imports_no_torch(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.expand(sweep.find("seeds"))
    code = """
import sys
from bench.cli import main
assert main(["sweep", "seeds", "dry_run=true"]) == main(["sweep", "seeds", "status"]) == 0
print(sorted({"torch", "open_clip", "wandb", "submitit"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(json.loads((own_cache / "lines.json").read_text())["lines"]) == 5

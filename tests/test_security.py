"""What docs/security.md promises of the code: nothing that is read executes, nothing is written elsewhere."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.toy_runs import broken_off

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.record import checkpoint
from bench.runs.run import run

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("bench", "methods", "datasets") for path in (ROOT / room).rglob("*.py"))

FORBIDDEN = {
    "eval": "executes text",
    "exec": "executes text",
    "compile": "makes code of text",
    "os.system": "goes through a shell",
    "os.popen": "goes through a shell",
    "pickle.load": "executes what a file says",
    "pickle.loads": "executes what a file says",
    "torch.load": "unpickles, unless it is asked for weights only",
    "torch.save": "pickles",
    "yaml.load": "makes objects of what a file says, unless its loader is a safe one",
    "yaml.unsafe_load": "makes objects of what a file says",
    "yaml.full_load": "makes objects of what a file says",
    "OmegaConf.load": "resolves interpolations when read",
}


def complaints(source: str) -> list[str]:
    """The forbidden calls in a module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        safe = name == "yaml.load" and any("SafeLoader" in ast.unparse(argument) for argument in node.args)
        safe |= name == "torch.load" and keywords.get("weights_only") == "True"
        if name in FORBIDDEN and not safe:
            found.append(f"line {node.lineno}: {name} {FORBIDDEN[name]}")
        if keywords.get("shell", "False") != "False":
            found.append(f"line {node.lineno}: {name} goes through a shell")
        if keywords.get("allow_pickle", "False") != "False" or keywords.get("weights_only", "True") != "True":
            found.append(f"line {node.lineno}: {name} unpickles")
    return found


def test_the_search_finds_what_it_looks_for() -> None:
    calls = [f"{name}(x)" for name in FORBIDDEN]
    calls += ["run(x, shell=True)", "np.load(x, allow_pickle=True)", "read(x, weights_only=False)"]
    assert all(complaints(call) for call in calls)
    assert not complaints("yaml.load(x, yaml.SafeLoader); np.load(x, allow_pickle=False); self.eval(); re.compile(x)")
    assert not complaints("torch.load(x, weights_only=True)")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_executes_what_it_reads(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ["../../elsewhere.txt", "/tmp/elsewhere.txt", "checkpoints/x"])
def test_a_checkpoint_writes_into_its_own_run_directory_only(name: str, tmp_path: Path, monkeypatch) -> None:
    line, directory = broken_off(tmp_path / "runs", monkeypatch)
    folder = directory / "checkpoints"
    newest = sorted(folder.glob("*-task.*"))[-1]
    tensors, values = checkpoint.unpack(newest.read_bytes())
    values["files"][name] = "mine"
    for path in folder.iterdir():
        path.unlink()
    content = checkpoint.pack(tensors, values)
    (folder / f"000009-task.{checkpoint.digest_of(content)}.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"{directory} has a checkpoint that would write to {name}: remove it"):
        run(resolve(line))
    assert not any("elsewhere" in path.name for path in tmp_path.rglob("*"))


def test_the_installed_command_leaves_the_current_folder_out(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('the file of a stranger was run')\n")
    (tmp_path / "omegaconf.py").write_text("raise SystemExit('the file of a stranger was run')\n")
    command = Path(sys.executable).parent / "keeplora-bench"
    done = subprocess.run([command, "list", "methods"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "keeplora" in done.stdout, done.stderr
    wrong = subprocess.run([command, "compare", "."], cwd=tmp_path, capture_output=True, text=True)
    assert "stranger" not in wrong.stdout + wrong.stderr and wrong.returncode in (0, 2)

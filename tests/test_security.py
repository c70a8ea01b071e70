"""What docs/security.md promises of the code: nothing that is read executes, nothing is written elsewhere."""

import ast
from pathlib import Path

import pytest
from test_resume import broken_off

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
    "torch.load": "unpickles",
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
        safe_loader = name == "yaml.load" and any("SafeLoader" in ast.unparse(argument) for argument in node.args)
        if name in FORBIDDEN and not safe_loader:
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

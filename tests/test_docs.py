"""What the documents say: examples run, command lines resolve, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main as cli
from bench.config import registry
from bench.config.resolve import resolve
from bench.sweep import file as sweep
from bench.sweep import launch

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def bench_lines() -> list[tuple[str, str]]:
    """Every documented `python -m bench ...` line, with the page it stands on."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.findall(r"python -m bench [^#;|&]*", line):
                    found.append((page.name, command.strip()))
    return found


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The complete example of docs/methods.md, as a file."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- example: (\S+) -->\n```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert match
    file = tmp_path / match[1]
    file.write_text(match[2], encoding="utf-8")
    return file


def test_there_are_lines_to_test() -> None:
    assert len(bench_lines()) >= 8


@pytest.mark.parametrize(("page", "command"), bench_lines())
def test_documented_lines_are_understood(
    page: str, command: str, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line's verb exists, `run` lines resolve (known names, types, ranges) and `sweep` lines expand."""
    monkeypatch.chdir(example.parent)
    verb, *words = shlex.split(command)[3:]
    if verb == "--help":
        return
    assert verb in cli.VERBS
    words = [re.sub(r"\$\{?\w+\}?", "0" if "seed" in word else "lora", word) for word in words]
    if verb == "run" and "--help" not in words:
        resolve(words)
    elif verb == "sweep":
        chosen, settings = launch.options([word for word in words if "=" in word])
        (name,) = (word for word in words if "=" not in word and word != "status")
        file = ROOT / name if name.startswith("sweeps/") else sweep.find(name)
        assert sweep.expand(file, settings, chosen.count, chosen.sweep_seed).points
    elif verb == "data":
        resolve([f"stream={words[0]}", *words[1:]], need_method=False)
    elif verb == "check":
        registry.load("method", words[0].removeprefix("method="))


def test_the_example_keeps_the_contract(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "check", f"method={example.name}"],
        cwd=example.parent, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 contract tests hold" in done.stdout


def test_the_example_runs_and_is_listed(example: Path) -> None:
    toy = ROOT / "tests" / "toy.py"
    run = [f"method={example.name}", "method.rank=4", f"stream={toy}", f"model={toy}", "device=cpu", "out=runs"]
    for words in (["run", *run], ["list", "methods", example.name], ["compare", "runs"]):
        done = subprocess.run(
            [sys.executable, "-m", "bench", *words],
            cwd=example.parent,
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "fresh-directions" in done.stdout


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_sweep_files_of_the_docs_expand(tmp_path: Path) -> None:
    for index, block in enumerate(blocks(ROOT / "docs" / "sweeps.md", "yaml")):
        file = tmp_path / f"{index}.yaml"
        file.write_text(block, encoding="utf-8")
        assert sweep.expand(file, count=2).points


def test_every_shipped_sweep_is_told_of() -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert [file.stem for file in sweep.shipped_folder().glob("*.yaml") if f"`{file.stem}`" not in text] == []


def test_the_architecture_page_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in (ROOT / "bench").glob("*.py"):
        if not module.name.startswith("__"):
            assert f"`{module.name}`" in text, f"docs/architecture.md does not say what bench/{module.name} is for"


def test_every_metric_has_its_formula_in_the_docs() -> None:
    from bench.metrics.scalars import SCALARS

    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in SCALARS if f"`{name}`" not in text] == []


def test_the_page_of_settings_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import settings_page

    said = "docs/settings.md is out of date: python docs/settings_page.py"
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), said


def test_the_tests_that_the_table_of_faults_names_are_there() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in sources] == []
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/[\w/]+\.py)`", page))

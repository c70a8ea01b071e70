"""The layout that docs/architecture.md describes is the one on disk."""

import ast
import functools
import re
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WINGS = sorted(path.parent for path in (ROOT / "bench").glob("*/__init__.py"))

LONGEST = 350
"""Lines of a module without a reason for more at its top."""

WIDEST = 12
"""Modules of a wing."""


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:bench|tests|docs|methods|datasets)/[\w./]+)`", PAGE)
    assert len([name for name in named if name.startswith("bench/")]) >= 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_lists_every_wing_once() -> None:
    table = PAGE[PAGE.index("| wing |") : PAGE.index("A wing imports only")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == [wing.name for wing in WINGS]


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_says_what_it_is_and_stays_small(wing: Path) -> None:
    first, importers, imports, last = sentences(wing)
    assert first and last.startswith("It must ")
    assert importers.startswith("It may be imported by ")
    assert imports.startswith(("it imports ", "it may import "))
    modules = [path for path in wing.glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(modules) <= WIDEST, sorted(path.name for path in modules)


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_imports_what_it_says_and_is_imported_by_whom_it_says(wing: Path) -> None:
    """`make lint` holds the directions; here the words that a reader meets first."""
    _, importers, imports, _ = sentences(wing)
    uses, named = imported(wing), wings_in(imports)
    assert uses & named == set() if "every" in imports else uses <= named
    users = {other.name for other in WINGS if wing.name in imported(other)}
    assert "every wing" in importers or users <= wings_in(importers)


def sentences(wing: Path) -> tuple[str, str, str, str]:
    """What lives in a wing, who imports it, what it imports, and what it must not do: the docstring of the package."""
    text = ast.get_docstring(ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))) or ""
    first, _, rest = " ".join(text.split()).partition(" It may be imported by ")
    second, _, last = rest.partition(". ")
    importers, _, imports = second.partition("; ")
    return first, f"It may be imported by {importers}", imports, last


def wings_in(text: str) -> set[str]:
    return set(re.findall(r"`bench\.(\w+)`", text))


@functools.cache
def imported(wing: Path) -> set[str]:
    """Names of the other wings that the modules of a wing import."""
    names: list[str] = []
    for path in wing.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    parts = {tuple(name.split(".")[:2]) for name in names}
    return {one.name for one in WINGS if ("bench", one.name) in parts} - {wing.name}


def test_modules_are_short_or_say_why() -> None:
    files = [path for folder in ("bench", "methods", "datasets") for path in (ROOT / folder).rglob("*.py")]
    long = [path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST]
    unexplained = []
    for path in long:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if "one file" not in text.lower():
            unexplained.append(path.relative_to(ROOT).as_posix())
    assert unexplained == []


def test_the_wheel_has_every_wing() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(
        re.findall(r'"(bench\.\w+)"', text[text.index("packages = [") : text.index("[tool.setuptools.package-dir]")])
    )
    assert {f"bench.{wing.name}" for wing in WINGS} <= listed


def test_the_engine_imports_no_plugin_and_no_door() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        if path.parent == ROOT / "bench":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(("bench.methods", "bench.datasets", "bench.api")), path
    assert bench.__version__


def test_what_test_files_share_is_in_support() -> None:
    for path in ROOT.glob("tests/**/*.py"):
        names = re.findall(r"^ *(?:from|import) (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(names) <= {path.stem}, path  # a process that a test starts may import the test's own file

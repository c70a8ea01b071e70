"""The hash of a class's code covers the files of its author, and no other."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.config import registry
from bench.core.code import code_sha256

METHOD = """
from bench.api import Method, register
import elsewhere_helper

@register("method", "helped", title="Uses a helper")
class Helped(Method):
    value = elsewhere_helper.VALUE
"""


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("elsewhere_")]:
        del sys.modules[name]


def fresh(folder: Path) -> type:
    forget()
    importlib.invalidate_caches()
    return registry.load("method", str(folder / "helped.py"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "helped.py").write_text(METHOD)
    (tmp_path / "elsewhere_helper.py").write_text("import elsewhere_far\nVALUE = 1\n")
    (tmp_path / "elsewhere_far.py").write_text("import json\n")
    (tmp_path / "elsewhere_unused.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def test_an_edited_helper_is_other_code(folder: Path) -> None:
    before = code_sha256(fresh(folder))
    assert before == code_sha256(fresh(folder))
    (folder / "elsewhere_unused.py").write_text("x = 1\n")
    assert code_sha256(fresh(folder)) == before
    (folder / "elsewhere_helper.py").write_text("import elsewhere_far\nVALUE = 22\n")
    edited = code_sha256(fresh(folder))
    assert edited != before
    (folder / "elsewhere_far.py").write_text("import json, re\n")
    assert code_sha256(fresh(folder)) not in (before, edited)


def test_the_hash_does_not_depend_on_where_the_code_lies(folder: Path, tmp_path: Path) -> None:
    before = code_sha256(fresh(folder))
    other = tmp_path / "moved"
    other.mkdir()
    (other / "helped.py").write_text(METHOD)
    assert code_sha256(fresh(other)) == before


def test_a_built_in_method_counts_its_own_helpers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or read_bytes(self))
    assert len(code_sha256(registry.load("method", "keeplora"))) == 64
    assert sorted(read) == ["cosine_head.py", "keeplora.py", "low_rank.py", "subspace.py"]


def test_a_class_without_a_file_has_no_code() -> None:
    assert code_sha256(type("Made", (), {"__module__": "nowhere"})) == ""

"""The registry: finding without importing, loading, other people's plug-ins, names shared with other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import registry
from bench.config.scan import KINDS
from bench.core.errors import UserError, suggest

ROOT = Path(__file__).parent.parent
PLAIN = """
from bench.config.registry import register

@register("method", "{0}", title="Method {0}", paper="a paper")
class Mine:
    pass
"""
LOUD = "raise RuntimeError('imported')\n" + PLAIN


def python(*words: str, path: Path | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the interpreter in the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(path) if path else ""}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


# ------------------------------------------------------------------------------------------------ suggestions


def test_suggest_gives_the_nearest_name_or_the_list():
    assert suggest("keplora", ["keeplora", "lora"]) == ' (did you mean "keeplora"?)'
    assert suggest("KEEPLORA", ["keeplora", "lora"]) == ' (did you mean "keeplora"?)'
    assert suggest("zzz", ["b", "a"]) == " (valid: a, b)"
    assert suggest("zzz", []) == " (there are none)"
    assert suggest("zzz", [f"n{i:02d}" for i in range(15)]).endswith("n11 and 3 more)")


# ---------------------------------------------------------------------------------------------------- finding


def test_entries_are_read_without_importing(standins):
    standins.write("methods/loud.py", LOUD.format("loud"))
    entry = registry.entries("method")["loud"]
    assert (entry.title, entry.paper, entry.origin) == ("Method loud", "a paper", "built-in")
    assert (entry.module, entry.attr, entry.broken) == ("bench.methods.loud", "Mine", None)
    assert "bench.methods.loud" not in sys.modules


def test_one_file_may_register_several_kinds_and_hold_other_classes(toys):
    assert list(registry.entries("stream")) == ["pocket"]
    assert list(registry.entries("dataset")) == ["toys"]
    assert list(registry.entries("model")) == ["pocket"]
    assert list(registry.entries("method")) == ["toy"]  # PerTower and helpers are no entries


def test_entries_are_sorted_and_decorations_may_be_written_in_other_ways(standins):
    standins.write(
        "methods/ways.py",
        """
        import functools
        from bench.config import registry

        @registry.register(kind="method", name="z-last", title="by " "keywords")
        class Z: ...

        @registry.register("method", "a-first", title="by module")
        class A: ...

        class Shelf:
            def register(kind, name, title):
                return lambda cls: cls

        @Shelf.register("method", "book", title="registered elsewhere")
        class Book: ...

        @functools.total_ordering
        class Plain:
            def __lt__(self, other): return False
        """,
    )
    named = registry.entries("method")
    assert list(named) == ["a-first", "z-last"]
    assert named["z-last"].title == "by keywords"
    assert registry.load("method", "z-last").__name__ == "Z"


def test_a_file_with_a_syntax_error_is_broken_and_harms_no_other(standins):
    standins.write("methods/bad.py", '@register("method", "bad-one", title="x")\nclass A(:\n    pass\n')
    standins.write("methods/worse.py", "def (")
    standins.write("datasets/worst.py", "def (")
    standins.write("methods/good.py", PLAIN.format("good"))
    named = registry.entries("method")
    assert list(named) == ["bad-one", "good", "worse"]
    assert "SyntaxError" in named["bad-one"].broken
    assert "line 2" in named["bad-one"].broken
    assert named["worse"].broken
    assert not named["good"].broken
    assert registry.entries("stream")["worst"].broken
    with pytest.raises(UserError, match=r'method "bad-one" \(methods/bad.py\) is broken: SyntaxError'):
        registry.load("method", "bad-one")
    assert registry.load("method", "good").title == "Method good"


def test_an_unreadable_file_is_broken(standins):
    standins.write("methods/latin.py", "").write_bytes(b"# \xff\xfe\n")
    standins.write("methods/null.py", "").write_bytes(b"a = 1\0\n")
    assert "UnicodeDecodeError" in registry.entries("method")["latin"].broken
    assert registry.entries("method")["null"].broken


@pytest.mark.parametrize(
    ("decoration", "reason"),
    [
        ('register("method", NAME, title="x")', "literal strings"),
        ('register("method", "odd")', "literal strings"),
        ('register("method", "odd/name", title="x")', "cannot be a name"),
        ('register("metod", "odd", title="x")', 'unknown kind "metod" (did you mean "method"?)'),
    ],
)
def test_a_decoration_that_cannot_be_used_is_broken(standins, decoration, reason):
    standins.write(
        "methods/odd.py", f"from bench.config.registry import register\nNAME = 'n'\n@{decoration}\nclass A: ...\n"
    )
    (entry,) = registry.entries("method").values()
    assert reason in entry.broken


FAMILY = """
from bench.config.registry import register

class Family:
    label_space = "seen"
    budget: str = "20 epochs"
    baseline = True

class Other:
    budget = "another budget"
    prompt_family = "theirs"

@register("stream", "heir", title="x")
class Heir(Family, Other):
    pass

@register("stream", "rebel", title="x")
class Rebel(Heir):
    budget = str(5)
    label_space: str
    prompt_family = "mine"
    baseline = True

@register("stream", "foreign", title="x")
class Foreign(elsewhere.Family, Unknown):
    budget = "own"
"""


def test_a_class_has_the_facts_of_its_bases_in_the_same_file(standins):
    standins.write("datasets/family.py", FAMILY)
    facts = {name: entry.facts for name, entry in registry.entries("stream").items()}
    assert facts["heir"] == {"label_space": "seen", "budget": "20 epochs", "prompt_family": "theirs"}
    # What is no literal is not known; a bare annotation sets nothing; a baseline is marked itself.
    assert facts["rebel"] == {"label_space": "seen", "prompt_family": "mine", "baseline": "True"}
    assert facts["foreign"] == {"budget": "own"}


def test_classes_that_name_each_other_as_bases_harm_nobody(standins):
    """Python refuses such a file when it is imported; reading it must end."""
    odd = (
        '@register("stream", "odd", title="x")\nclass A(B):\n    pass\nclass B(A):\n    budget = "b"\nclass C(C): ...\n'
    )
    standins.write("datasets/odd.py", odd)
    assert registry.entries("stream")["odd"].facts == {}


def test_register_refuses_what_the_registry_would_call_broken():
    with pytest.raises(ValueError, match="unknown kind"):
        registry.register("metod", "x", title="")
    with pytest.raises(ValueError, match="cannot be a name"):
        registry.register("method", "a/b", title="")
    with pytest.raises(ValueError, match="cannot be a name"):
        registry.register("method", "mine.py", title="")


# ---------------------------------------------------------------------------------------------------- loading


def test_loading_gives_the_class_with_its_registration(standins):
    standins.write("methods/helper_maths.py", "VALUE = 7\n")
    standins.write("methods/relative.py", "from .helper_maths import VALUE\n" + PLAIN.format("relative"))
    cls = registry.load("method", "relative")
    assert (cls.registry_kind, cls.registry_name, cls.title, cls.paper) == (
        "method",
        "relative",
        "Method relative",
        "a paper",
    )
    assert sys.modules[cls.__module__].VALUE == 7


def test_unknown_names_come_with_the_nearest(toys):
    with pytest.raises(UserError, match=r'unknown method "toi" \(did you mean "toy"\?\)'):
        registry.load("method", "toi")
    with pytest.raises(UserError, match=r'unknown stream "mtil" \(valid: pocket\)'):
        registry.load("stream", "mtil")


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError", "ValueError"),
    ],
)
def test_a_plugin_that_fails_at_import_is_named_with_one_line(standins, first, said):
    standins.write("methods/failing.py", f"{first}\n{PLAIN.format('failing')}")
    with pytest.raises(UserError) as caught:
        registry.load("method", "failing")
    assert str(caught.value) == f'method "failing" (methods/failing.py) cannot be imported: {said} (failing.py, line 1)'


# ------------------------------------------------------------------------------------------- somebody's file


def test_a_method_from_a_file(standins, tmp_path, monkeypatch):
    file = standins.write("mine.py", PLAIN.format("mine"))
    assert "mine" not in registry.entries("method")
    cls = registry.load("method", str(file))
    assert (cls.registry_name, registry.find("method", str(file)).origin) == ("mine", str(file.resolve()))
    monkeypatch.chdir(file.parent)
    assert registry.load("method", "mine.py") is cls
    assert "mine" not in sys.modules  # it is imported under a name of its own
    file.write_text(PLAIN.format("renamed"), encoding="utf-8")
    assert registry.load("method", "mine.py").registry_name == "renamed"


def test_a_file_must_exist_and_hold_one_class_of_the_kind(standins):
    with pytest.raises(UserError, match=r'there is no method file "nowhere/mine\.py"'):
        registry.load("method", "nowhere/mine.py")
    two = standins.write("two.py", PLAIN.format("one") + PLAIN.format("two").replace("Mine", "Other"))
    with pytest.raises(UserError, match=r"registers 2 classes \(one, two\) as a method"):
        registry.load("method", str(two))
    with pytest.raises(UserError, match="registers no class as a stream"):
        registry.load("stream", str(two))
    syntax = standins.write("syntax.py", "def (")
    with pytest.raises(UserError, match="is broken: SyntaxError"):
        registry.load("method", str(syntax))


def test_the_file_of_a_built_in_is_the_built_in(standins):
    standins.write("methods/helper_maths.py", "")
    file = standins.write("methods/relative.py", "from . import helper_maths\n" + PLAIN.format("relative"))
    assert registry.load("method", str(file)) is registry.load("method", "relative")


def test_a_failed_import_of_a_file_leaves_nothing_behind(standins):
    file = standins.write("loud.py", LOUD.format("loud"))
    for _ in range(2):
        with pytest.raises(UserError, match="RuntimeError: imported"):
            registry.load("method", str(file))
    assert not [name for name in sys.modules if name.startswith("_bench_plugin_loud")]


# ------------------------------------------------------------------------------------------ installed packages


def test_an_installed_package_offers_a_method(standins):
    points = "[keeplora_bench.method]\nfar = elsewhere_far:Mine\n[console_scripts]\nfar = elsewhere_far:main\n"
    standins.install("far-away", points, "From far away", elsewhere_far=PLAIN.format("far"))
    entry = registry.entries("method")["far"]
    assert (entry.title, entry.origin, entry.broken) == ("From far away", "far-away", None)
    assert "elsewhere_far" not in sys.modules
    assert registry.load("method", "far").title == "Method far"


def test_entry_points_that_lead_nowhere(standins):
    points = """\
    [keeplora_bench.method]
    absent = elsewhere_absent:Mine
    plain = elsewhere_plain:Plain
    missing = elsewhere_plain:Missing
    module = elsewhere_plain
    other = elsewhere_plain:Mine
    """
    standins.install("far-away", points, elsewhere_plain=PLAIN.format("real") + "\nclass Plain: ...\n")
    assert "must name a class" in registry.entries("method")["module"].broken
    for name, said in {
        "absent": "cannot be imported: ModuleNotFoundError",
        "missing": "cannot be imported: AttributeError",
        "plain": 'is not a class decorated with @register("method", "plain"',
        "other": 'is not a class decorated with @register("method", "other"',
        "module": "is broken",
    }.items():
        with pytest.raises(UserError) as caught:
            registry.load("method", name)
        assert said in str(caught.value)
        assert f'method "{name}" (far-away)' in str(caught.value)


def test_where_names_collide_the_built_in_wins_and_says_so(standins):
    standins.write("methods/a.py", PLAIN.format("same"))
    standins.write("methods/b.py", PLAIN.format("same"))
    points = "[keeplora_bench.method]\nsame = elsewhere_same:Mine\n"
    standins.install("far-away", points, elsewhere_same=PLAIN.format("same"))
    entry = registry.entries("method")["same"]
    assert (entry.module, entry.hides) == ("bench.methods.a", ("b.py", "far-away"))
    assert registry.load("method", "same").__module__ == "bench.methods.a"


def test_a_subclass_of_a_registered_class_is_not_registered_itself(standins):
    points = "[keeplora_bench.method]\nreal = elsewhere_sub:Sub\n"
    standins.install("far-away", points, elsewhere_sub=PLAIN.format("real") + "\nclass Sub(Mine): ...\n")
    with pytest.raises(UserError, match="is not a class decorated"):
        registry.load("method", "real")


# ---------------------------------------------------------------------------------------- other people's names


@pytest.fixture
def namesakes(tmp_path: Path) -> Path:
    """Regular packages called ``datasets`` and ``methods``, as other distributions install them."""
    for name in ("datasets", "methods"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("WHOSE = 'theirs'\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("before", ["", "import bench, bench.methods, bench.datasets; "])
def test_packages_of_the_same_names_stay_usable(namesakes, before):
    done = python("-c", f"{before}import datasets, methods; print(datasets.WHOSE, methods.WHOSE)", path=namesakes)
    assert (done.stdout, done.stderr) == ("theirs theirs\n", "")


def test_the_suite_is_unharmed_by_packages_of_the_same_names(namesakes):
    done = python("-m", "bench", "list", "methods", path=namesakes)
    assert done.returncode == 0
    assert "keeplora" in done.stdout
    assert "BROKEN" not in done.stdout
    code = (
        "import datasets, methods; from bench.config import registry; "
        "print(sum(bool(registry.load('method', name)) for name in registry.entries('method')) >= 5)"
    )
    done = python("-c", code, path=namesakes)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_our_methods_are_all_listed_and_none_is_broken():
    named = registry.entries("method")
    assert {"zero-shot", "finetune", "lora", "inflora", "keeplora"} <= set(named)
    assert [entry.broken for kind in KINDS for entry in registry.entries(kind).values() if entry.broken] == []
    assert all(entry.title for entry in named.values())

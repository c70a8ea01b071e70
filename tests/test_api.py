"""The one door: what bench.api has, how it is documented, what importing it costs, and what a run leaves behind."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import api_page
import api_source
import pytest
from api_source import Item

from bench import api, moved
from bench.core import console
from bench.learning.observers import KINDS

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(
    [
        *ROOT.glob("methods/*.py"),
        *ROOT.glob("datasets/*.py"),
        *ROOT.glob("tests/examples/*.py"),
        ROOT / "tests" / "toy.py",
    ]
)
HEAVY = {
    "Clip", "Pixels", "tiny_clip", "toy_task", "Loaded", "load", "Evaluation", "evaluate", "export", "analyse",
    "Analysis", "Probe", "Probed", "probe",
}  # fmt: skip
"""Names whose homes need torch."""

NAMES = [name for name in api.__all__ if name not in api_page.MODULES]


# ---- the names


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "bench" / "api.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {node.module: tuple(alias.name for alias in node.names) for node in imports} == api.HOMES


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_comes_from_its_home(name: str) -> None:
    (home,) = (module for module, names in api.HOMES.items() if name in names)
    assert getattr(api, name) is getattr(importlib.import_module(home), name)
    defined = getattr(getattr(api, name), "__module__", home)
    assert defined == home or not inspect.isroutine(getattr(api, name)), f"{name} is defined in {defined}"


def test_an_unknown_name_is_answered_with_the_page_that_lists_them() -> None:
    with pytest.raises(AttributeError, match=r"bench.api has no 'Metod': docs/api.md lists its names"):
        api.Metod  # noqa: B018
    assert set(api.__all__) <= set(dir(api))


# ---- no torch


def loads_torch(code: str) -> bool:
    """Whether a fresh interpreter has torch after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('torch' in sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1] == "True"


def test_the_door_and_its_light_names_load_no_torch() -> None:
    light = [name for name in api.__all__ if name not in HEAVY]
    assert not loads_torch(f"from bench.api import {', '.join(light)}")


def test_a_name_that_needs_torch_asks_for_it() -> None:
    code = "import sys\nsys.modules['torch'] = None\nfrom bench.api import tiny_clip"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(
        "ModuleNotFoundError: import of torch halted"
    )


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_no_plug_in_of_ours_loads_torch_when_it_is_imported(folder: str) -> None:
    names = [f"bench.{folder}.{path.stem}" for path in sorted((ROOT / folder).glob("*.py"))]
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({name!r})\nassert 'torch' not in sys.modules, {name!r}\n" for name in names
    )
    assert not loads_torch(code)


# ---- where the names of 0.1 are


@pytest.mark.parametrize("name", ["method", "registry", "settings", "task", "statistics", "run"])
def test_a_module_that_plug_ins_imported_points_to_the_door(name: str) -> None:
    said = f'bench.{name} has moved: write "from bench.api import ..." (docs/api.md lists the names)'
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(said)}$"):
        importlib.import_module(f"bench.{name}")


@pytest.mark.parametrize("name", ["session", "track", "results", "dashboard", "matrix_text"])
def test_a_module_of_the_engine_points_to_the_architecture(name: str) -> None:
    said = f"bench.{name} has moved: docs/architecture.md says where the engine's modules are now"
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(said)}$"):
        importlib.import_module(f"bench.{name}")


def test_a_module_that_never_was_is_missing_as_usual() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'bench.nosuch'$"):
        importlib.import_module("bench.nosuch")


def test_queued_jobs_of_the_last_release_find_their_class() -> None:
    from bench.sweep.slurm import PointJob

    assert importlib.import_module("bench.cluster").PointJob is PointJob


@pytest.mark.parametrize(("package", "name"), [(p, name) for p, names in moved.NAMES.items() for name in names])
def test_a_name_of_a_module_that_is_a_package_now_says_where_it_is(package: str, name: str) -> None:
    door = f'write "from bench.api import {name}" (docs/api.md lists the names)'
    where = door if name in api.__all__ else "docs/architecture.md says where the engine's modules are now"
    with pytest.raises(ImportError, match=f"^{re.escape(f'{package}.{name} has moved: {where}')}$"):
        exec(f"from {package} import {name}")


@pytest.mark.parametrize("package", moved.NAMES)
def test_other_names_of_a_package_are_missing_as_usual(package: str) -> None:
    module = importlib.import_module(package)
    assert not hasattr(module, "nosuch")
    with pytest.raises(ImportError, match="cannot import name 'nosuch'"):
        exec(f"from {package} import nosuch")


def test_old_names_are_not_modules_of_today() -> None:
    for package, names in moved.NAMES.items():
        assert {path.stem for path in (ROOT / package.replace(".", "/")).glob("*.py")}.isdisjoint(names)


# ---- plug-ins use the door


def python_blocks() -> Iterator[tuple[str, str]]:
    """Every block of Python in the documentation, with the page and the number of its block."""
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        text = page.read_text(encoding="utf-8")
        for index, block in enumerate(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)):
            yield f"{page.name}, block {index + 1}", block


def engine_imports(text: str) -> list[str]:
    """Modules of the engine that some code imports, `bench.api` and relative imports left out."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [f"bench.{alias.name}" for alias in node.names] if node.module == "bench" else [node.module or ""]
    return [name for name in found if name.partition(".")[0] == "bench" and name != "bench.api"]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_plug_ins_import_the_door_or_relatively(path: Path) -> None:
    assert engine_imports(path.read_text(encoding="utf-8")) == []


def test_examples_of_the_documentation_import_the_door() -> None:
    blocks = dict(python_blocks())
    assert len(blocks) > 10
    assert {name: wrong for name, text in blocks.items() if (wrong := engine_imports(text))} == {}


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("import torch\nfrom bench.api import Method\nfrom .low_rank import attach", []),
        ("from bench import api", []),
        ("import bench.learning.method", ["bench.learning.method"]),
        ("def f():\n    from bench.model.clip import Clip", ["bench.model.clip"]),
        ("from bench import moved", ["bench.moved"]),
    ],
)
def test_imports_past_the_door_are_noticed(code: str, wrong: list[str]) -> None:
    assert engine_imports(code) == wrong


# ---- documentation


def test_the_page_of_the_api_is_up_to_date() -> None:
    said = "docs/api.md is out of date: python docs/api_page.py"
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), said


def test_every_name_is_in_one_group_of_the_page() -> None:
    grouped = [name for _, names in api_page.GROUPS.values() for name in names]
    assert sorted(grouped) == api.__all__


@pytest.mark.parametrize("name", NAMES)
def test_signatures_on_the_page_are_those_of_the_objects(name: str) -> None:
    one, value = api_source.item(name), getattr(api, name)
    if isinstance(one.node, ast.FunctionDef):
        assert set(api_source.parameters(one)) - {"*"} == set(inspect.signature(value).parameters)
    if isinstance(one.node, ast.ClassDef):
        assert one.node.name == value.__name__
        fields = getattr(value, "__dataclass_fields__", {})
        public = {key: member for key, member in vars(value).items() if not key.startswith("_") and key not in fields}
        shown = {member.name.partition(".")[2] for member in api_source.methods(one)}
        assert shown == {key for key, member in public.items() if is_method(member)}


def is_method(member: object) -> bool:
    return inspect.isfunction(member) or isinstance(member, property | cached_property | classmethod | staticmethod)


IMAGES = ("ArrayImages", "FileImages", "PackedImages", "Subset")
"""Classes that have what `Images` documents."""


def lacking(one: Item) -> Iterator[str]:
    """Say what is missing in the docstring of a public object and of its public members."""
    if not one.doc:
        yield f"{one.name}: no docstring"
    if isinstance(one.node, ast.FunctionDef):
        yield from lacking_of_function(one)
    elif isinstance(one.node, ast.ClassDef):
        known = api_source.named(one.doc, "Parameters", "Attributes")
        for member in api_source.members(one):
            short = member.name.partition(".")[2]
            if isinstance(member.node, ast.AnnAssign) and short not in known and not has_help(member):
                yield f"{member.name}: neither among the Parameters nor among the Attributes of {one.name}"
            if short == "__init__":
                gaps = sorted(set(api_source.parameters(member)) - {"*"} - known)
                yield from (f"{one.name}: the parameter {name} is not documented" for name in gaps)
        for member in api_source.methods(one):
            bases = [*getattr(api, one.name).__mro__[1:], *([api.Images] if one.name in IMAGES else [])]
            if not member.doc or not any(hasattr(base, member.node.name) for base in bases):
                yield from lacking(member)


def has_help(one: Item) -> bool:
    """Whether a field of a group of settings says itself what it is."""
    return isinstance(one.node, ast.AnnAssign) and one.node.value is not None and "setting(" in one.written(one.node)


def lacking_of_function(one: Item) -> Iterator[str]:
    assert isinstance(one.node, ast.FunctionDef)
    parameters = set(api_source.parameters(one)) - {"*"}
    documented = api_source.named(one.doc, "Parameters")
    for name in sorted(parameters - documented):
        yield f"{one.name}: the parameter {name} is not documented"
    for name in sorted(documented - parameters):
        yield f"{one.name}: the documented parameter {name} does not exist"
    kinds = api_source.decorators(one)
    silent = "@property" in kinds or "@contextmanager" in kinds
    returns = "None" if one.node.returns is None else api_source.annotation(one, one.node.returns)
    if returns != "None" and not silent and not {"Returns", "Yields"} & set(api_source.sections(one.doc)):
        yield f"{one.name}: what it returns is not documented"
    if raises(one.node) and "Raises" not in api_source.sections(one.doc):
        yield f"{one.name}: what it raises is not documented"


def raises(node: ast.FunctionDef) -> bool:
    """Whether a function raises an error itself; one that does nothing else is for subclasses to write."""
    abstract = isinstance(node.body[-1], ast.Raise) and len(node.body) <= 2
    return not abstract and any(isinstance(one, ast.Raise) and one.exc is not None for one in ast.walk(node))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented(name: str) -> None:
    """A docstring; every parameter, attribute and result of a function, a class and its members in a section."""
    assert list(lacking(api_source.item(name))) == []


def test_the_kinds_of_observations_are_documented() -> None:
    doc = api_source.item("Observation").doc
    assert [kind for kind, text in KINDS.items() if f"* ``{kind}``: {text}" not in doc] == []


# ---- a run from Python

TOY = ROOT / "tests" / "toy.py"

STATE = """
import gc, os, random, signal, sys, threading, warnings
from pathlib import Path
import numpy as np
import torch


def state():
    return {
        "threads of torch": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "tf32": [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": str(np.random.get_state()),
        "python's generator": str(random.getstate()),
        "handlers": [str(signal.getsignal(signum)) for signum in sorted(signal.valid_signals())],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "warnings": [str(one) for one in warnings.filters],
        "arguments": list(sys.argv),
        "threads": [one.name for one in threading.enumerate() if not (one.daemon or one.name.startswith("decode"))],
        "streams": [id(sys.stdout), id(sys.stderr), id(sys.excepthook)],
    }


def settings(**more):
    toy = str(Path("toy.py").resolve())
    found = {"method": "lora", "method.rank": 2, "stream": toy, "stream.count": 2, "model": toy, "device": "cpu"}
    return {**found, "out": "runs", "cache.gb": 0, "track.wandb": "off", **more}
"""


def in_a_fresh_interpreter(code: str, folder: Path, **environment: str) -> str:
    """Run code after `STATE` in a folder that has the toy; return its output."""
    shutil.copy(TOY, folder)
    done = subprocess.run(
        [sys.executable, "-c", STATE + textwrap.dedent(code)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Handlers, environment, paths, generators, torch's threads and flags: after a run what they were before."""
    out = in_a_fresh_interpreter(
        """
        import bench.runs.session, bench.tracking.mirror  # what libraries do when they are imported is not the run's
        from bench.api import Observers, run

        torch.set_num_threads(2)
        before = state()
        assert "CUBLAS_WORKSPACE_CONFIG" not in before["environment"]
        run(settings(threads=1))
        for key, value in state().items():
            assert value == before[key], (key, before[key], value)

        observers = Observers()
        observers.on("loss", lambda seen: 1 / 0)
        try:
            run(settings(threads=1, seed=1), observers=observers)
        except ZeroDivisionError:
            failed = True
        assert failed
        gc.collect()  # a traceback keeps what the run was in the middle of
        for key, value in state().items():
            assert value == before[key], ("after an error", key, before[key], value)
        print("the same")
        """,
        tmp_path,
    )
    assert out.endswith("the same\n")


def test_a_workspace_of_cublas_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.compute.device import deterministic

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(None):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with deterministic(None):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def toy(tmp_path: Path, **more: object) -> dict[str, object]:
    """The settings of a run of a few seconds."""
    found = {"method": "lora", "method.rank": 2, "stream": str(TOY), "stream.count": 2, "model": str(TOY)}
    return {**found, "device": "cpu", "cache.gb": 0, "out": str(tmp_path), **more}


def test_the_result_is_what_the_record_says(tmp_path: Path) -> None:
    result = api.run(toy(tmp_path))
    assert result.path.parent.parent.parent.parent == tmp_path
    assert result.summary == json.loads((result.path / "summary.json").read_text(encoding="utf-8"))
    assert result.scalars == result.summary["metrics"] == api.summary(result.matrix)
    assert result.matrix.csv() == (result.path / "accuracy.csv").read_text(encoding="utf-8")
    assert api.run(toy(tmp_path)) == result, "a finished run is not made again"
    words = [f"{key}={value}" for key, value in toy(tmp_path).items()]
    assert api.run(words) == result, "words mean the same"


def test_a_run_in_another_thread_has_the_same_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(api.run, toy(tmp_path / "other", threads=1)).result()
    here = api.run(toy(tmp_path / "here", threads=1))
    for name in ("accuracy.csv", "model.safetensors"):
        assert (other.path / name).read_bytes() == (here.path / name).read_bytes()


def test_an_interrupted_run_keeps_a_checkpoint_and_continues(tmp_path: Path) -> None:
    straight = api.run(toy(tmp_path / "straight"))
    handler, observers, steps = signal.getsignal(signal.SIGINT), api.Observers(), []

    def interrupt(seen: api.Observation) -> None:
        steps.append(seen)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)

    observers.on("loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.run(toy(tmp_path / "broken"), observers=observers)
    assert len(steps) == 3, "the run stops after the step in which it was interrupted"
    assert signal.getsignal(signal.SIGINT) is handler
    assert list(tmp_path.glob("broken/**/checkpoints/*"))
    continued = api.run(toy(tmp_path / "broken"))
    for name in ("accuracy.csv", "model.safetensors"):
        assert (continued.path / name).read_bytes() == (straight.path / name).read_bytes()


@pytest.mark.parametrize(("module", "disable"), [("tqdm.notebook", False), ("tqdm.std", None)])
def test_bars_are_shown_in_a_notebook_too(module: str, disable: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's output is no terminal, so tqdm would hide its bars there if it were left to find out."""
    given = []

    class Bar:
        def __init__(self, items=None, **arguments) -> None:
            given.append(arguments["disable"])

        def __iter__(self):
            return iter(())

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            pass

    Bar.__module__ = module
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    list(console.watched("look", [1], 1))
    with console.bar("train", 1):
        pass
    assert given == [disable, disable]


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    """The blocks of docs/python.md, as a notebook would run them; then those that read records."""
    blocks = dict(python_blocks())
    of_page = [text for name, text in blocks.items() if name.startswith("python.md")]
    assert len(of_page) >= 4
    enter = "os.chdir(result.path)"
    readers = [blocks["compare.md, block 1"], enter, blocks["metrics.md, block 1"]]
    out = in_a_fresh_interpreter("\n".join([*of_page, *readers]), tmp_path)
    assert re.search(r"^stream pocket, model pocket.* lora \{0: \d+\.\d+\}$", out, flags=re.MULTILINE)
    assert 'unknown setting "train.epoch" (did you mean "train.epochs"?)' in out
    for line in (r"^lora +Last +\d+\.\d +\d+ s$", r"^\d+ steps, from \d\.\d\d to \d\.\d\d$", r"^Transfer "):
        assert re.search(line, out, flags=re.MULTILINE), line

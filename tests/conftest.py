"""Stand-in plug-ins for tests of the registry, the settings and the command line."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")  # a failed assertion there shows its values, as in a test file
pytest_plugins = ["support.skips"]

METHOD = """
from dataclasses import dataclass, field
from bench.config.registry import register
from bench.config.fields import setting

@dataclass
class PerTower:
    image: float = setting(0.5, "image tower", above=0)
    text: float = setting(0.5, "text tower")

@register("method", "toy", title="A toy method", paper="arXiv 0000.00000")
class Toy:
    '''Does nothing.

    At all.
    '''

    defaults = {"train.weight_decay": 0.0, "train.lr": 0.5}
    label_spaces = ("task", "seen")

    class parity:
        present = ("the name",)
        deviations = ("it does not learn, because it is a toy",)

    @dataclass
    class Settings:
        rank: int = setting(4, "columns", low=1, high=64, symbol="r")
        energy: PerTower = setting(PerTower(image=0.9), "share kept", high=1, symbol="eps")
        maps: list[str] = setting(["q", "v"], "maps", choices=("q", "k", "v"))
        scale: float | None = setting(None, "scale", above=0)
        note: str = setting("", "anything")
        merge: bool = setting(True, "merge")

        def check(self):
            return ["rank must be even where merge is true"] if self.merge and self.rank % 2 else []
"""
STREAM = """
from dataclasses import dataclass
from bench.config.registry import register
from bench.config.fields import setting

@register("stream", "pocket", title="A toy stream")
class Pocket:
    label_space = "seen"
    defaults = {"train.epochs": 3, "train.lr": 0.25}
    tuned = {"toy": {"train.lr": 0.125, "method.rank": 8}}

    @dataclass
    class Settings:
        shots: int = setting(16, "images a class", low=1)

@register("dataset", "toys", title="A toy dataset")
class Toys:
    pass

@register("model", "pocket", title="A toy model")
class Model:
    pass
"""


@pytest.fixture(scope="session", autouse=True)
def no_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test goes online: nothing of W&B in the environment, no login to be found."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("WANDB_")]:
            patch.delenv(key)
        patch.setenv("NETRC", str(nowhere / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(nowhere))
        yield


@pytest.fixture(autouse=True)
def no_cache_of_ours(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test finds nothing that another one or its user has computed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


class StandIns:
    """Plug-in folders of a test's own in place of ``methods/`` and ``datasets/``, and installed packages."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root = root
        self.monkeypatch = monkeypatch
        for name in ("methods", "datasets"):
            (root / name).mkdir()
            monkeypatch.setattr(importlib.import_module(f"bench.{name}"), "__path__", [str(root / name)])

    def write(self, path: str, text: str) -> Path:
        """Write a file below the test's folder."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def install(self, distribution: str, entry_points: str, summary: str = "A summary", **modules: str) -> None:
        """Put a distribution with entry points and modules on the path."""
        site = f"site-{distribution}"
        info = f"{site}/{distribution.replace('-', '_')}-1.0.dist-info"
        self.write(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\nSummary: {summary}\n"
        )
        self.write(f"{info}/entry_points.txt", entry_points)
        for name, text in modules.items():
            self.write(f"{site}/{name}.py", text)
        self.monkeypatch.syspath_prepend(str(self.root / site))


def forget_standins() -> None:
    """Forget modules that were imported as plug-ins from the folder of a test."""
    root = Path(__file__).resolve().parent.parent
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) if name.startswith(("bench.methods.", "bench.datasets.")) else None
        if file and not Path(file).resolve().is_relative_to(root):
            del sys.modules[name]


@pytest.fixture
def standins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    """Empty plug-in folders; modules imported meanwhile are forgotten afterwards."""
    forget_standins()  # tests with folders of their own leave some behind
    before = set(sys.modules)
    folder = tmp_path / "plugins"
    folder.mkdir()
    yield StandIns(folder, monkeypatch)
    for name in set(sys.modules) - before:
        if name.startswith(("bench.methods.", "bench.datasets.", "_bench_plugin_", "elsewhere_")):
            del sys.modules[name]


@pytest.fixture
def toys(standins: StandIns) -> StandIns:
    """Plug-in folders with a method "toy", and a stream, a dataset and a model."""
    standins.write("methods/toy_method.py", METHOD)
    standins.write("datasets/toy_data.py", STREAM)
    return standins


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every process die after so many checkpoints, before or after the last of them is written."""
    from support.toy_runs import deaths  # torch comes with it

    return deaths(monkeypatch)

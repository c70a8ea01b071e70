"""Fixtures of the tests of mirrors: a finished toy run, and a W&B server on loopback.

A test file has them by ``pytest_plugins = ["support.mirror_fixtures"]``.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.runs.run import run
from support.fake_wandb import FakeWandb
from support.mirroring import toy


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was not mirrored."""
    return run(toy(tmp_path_factory.mktemp("runs"), "track.wandb=off"), ["python", "-m", "bench", "run"])


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """A server on loopback that this process and its children are logged in to."""
    with FakeWandb() as found:
        for key, value in found.env().items():
            monkeypatch.setenv(key, value)
        yield found


@pytest.fixture
def said() -> list[str]:
    """What a mirror says to the user, line by line."""
    return []

"""The suite beside packages whose names its folders share: both must keep working."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(code: str, *path: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "WANDB_ERROR_REPORTING": "false"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """Installed regular packages called datasets and methods."""
    for name in ("datasets", "methods"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'somebody else: {name}'\n")
    return tmp_path


def test_theirs_stay_importable_and_ours_work(strangers: Path) -> None:
    """Started in the checkout, whose own folders come first on the path."""
    done = python(
        """
        import datasets, methods
        assert datasets.OWNER == "somebody else: datasets" and methods.OWNER == "somebody else: methods"
        import bench
        from bench.methods.keeplora import KeepLora
        from bench.config import registry
        assert registry.load("method", "keeplora") is KeepLora
        assert registry.load("stream", "pocket").__module__ == "bench.datasets.pocket"
        import datasets as again
        assert again.OWNER == "somebody else: datasets"
        """,
        strangers,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["bench.cli.main", pytest.param("open_clip", marks=pytest.mark.slow)])
def test_open_clip_timm_and_wandb_work_beside_ours(first: str, strangers: Path, tmp_path: Path) -> None:
    done = python(
        f"""
        import {first}
        import open_clip, timm, wandb, bench.runs.run
        timm.create_model("resnet18", pretrained=False)
        run = wandb.init(mode="disabled")
        run.log({{"x": 1}})
        run.finish()
        """,
        strangers,
    )
    assert done.returncode == 0, done.stderr


def test_our_folders_are_no_packages() -> None:
    """A regular package of theirs beats a plain folder of ours only as long as ours have no __init__.py."""
    assert not (ROOT / "methods" / "__init__.py").exists()
    assert not (ROOT / "datasets" / "__init__.py").exists()


@pytest.mark.slow
def test_the_wheel_installs_one_name_and_works(tmp_path: Path) -> None:
    """A wheel, unpacked elsewhere: only `bench` at the top, plug-ins and embedded files inside, commands work."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        names = set(archive.namelist())
        archive.extractall(site)
    embedded = ("pocket_data/reference.json", "pocket_data/reference.webp")
    for data in ("class_names.json", "published/mtil-order1.json", "published/mtil-zero-shot.json", *embedded):
        assert f"bench/datasets/{data}" in names
    assert "bench/sweeps/compare_methods.yaml" in names
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bench"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = python(
        """
        import bench, sys
        assert "site" in bench.__file__, bench.__file__
        from bench.cli.main import main
        assert main(["list"]) == 0
        assert main(["sweep", "keeplora_rank", "dry_run=true"]) == 0
        assert main(["run", "method=zero-shot", "stream.tasks=[digits,flags]"]) == 0
        """,
        site,
        cwd=elsewhere,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keeplora" in done.stdout and "digits" in done.stdout

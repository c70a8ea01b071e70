"""The gate before training: published data and published zero-shot accuracy, or a reason to stop."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_trees
import pytest
from toy import ToyStream

from bench.cli import main as cli
from bench.config.registry import load
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.data.stream import ZeroShot
from bench.metrics.matrix import AccuracyMatrix
from bench.runs.run import run

TOY = str(Path(__file__).parent / "toy.py")


def toy(tmp_path: Path, *words: str) -> Any:
    return resolve(["method=zero-shot", f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu", *words])


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the toy stream published values; the toy model has 25 % to 50 %."""

    def give(value: float, tolerance: float) -> None:
        expected = ZeroShot("a paper", {"toy0": (value, tolerance), "elsewhere": (1.0, 0.1)})
        cls = toy(Path("x")).stream_class
        monkeypatch.setattr(cls, "zero_shot", lambda self, model: expected)

    return give


def test_a_model_in_its_band_passes(tmp_path: Path, published: Any, capsys: pytest.CaptureFixture) -> None:
    published(40, 40)
    run(toy(tmp_path))
    assert "within the published band on 1 test sets" in capsys.readouterr().out


def test_a_model_out_of_its_band_is_stopped_before_training(tmp_path: Path, published: Any) -> None:
    published(99, 2)
    with pytest.raises(
        UserError, match=r"published band \(a paper\) on toy0 .* instead of 99.0 ± 2: look for .*gate=off"
    ):
        run(toy(tmp_path))
    (directory,) = (path.parent for path in tmp_path.rglob("accuracy.csv"))
    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    assert matrix.state(0, 0) == "measured" and matrix.state(1, 0) == "missing"
    assert not (directory / "summary.json").exists()


@pytest.mark.parametrize("words", [["gate=off"], ["evaluate.split=validation"], ['evaluate.templates=["my {}"]']])
def test_the_gate_can_be_off(words: list[str], tmp_path: Path, published: Any) -> None:
    published(99, 2)
    assert (run(toy(tmp_path, *words)) / "summary.json").exists()


def test_the_gate_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    from bench.config.fingerprint import run_directory

    plain = run_directory(toy(tmp_path))
    assert plain == run_directory(toy(tmp_path, "gate=off", "cache.gb=1", "cache.dir=x"))


@pytest.mark.parametrize("model", ["ViT-B-16/openai", "ViT-B-32/openai"])
def test_other_data_stop_a_run_of_a_real_model(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Told before weights are looked for, which nobody has here."""
    fake_trees.cifar100(tmp_path)
    fake_trees.dtd(tmp_path)
    stream = ["stream=custom", "stream.datasets=[cifar100,dtd]", f"data={tmp_path}", f"out={tmp_path / 'runs'}"]
    assert cli.main(["run", "method=lora", *stream, f"model={model}"]) == 2
    told = capsys.readouterr().err
    assert "the data of stream custom are not the published ones (cifar100 has 80 of 50000" in told
    assert "dtd has 12 of 1880 training images" in told and "gate=off" in told and len(told.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_mtil_knows_its_zero_shot_values() -> None:
    cls = load("stream", "mtil-order2")
    stream: Any = cls.__new__(cls)
    stream.label_space, stream.settings = "task", SimpleNamespace(prompts="keeplora", splits="torchvision")
    found = stream.zero_shot("ViT-B-16/openai")
    assert found.expected["Aircraft"] == (24.3, 5) and len(found.expected) == 11
    assert "KeepLoRA's single prompts" in found.source
    stream.settings.prompts = "zscl"
    assert stream.zero_shot("ViT-B-16/openai").source.startswith("ZSCL (ICCV 2023)")
    assert sum(value for value, _ in found.expected.values()) / 11 == pytest.approx(65.3, abs=0.05)
    assert stream.zero_shot("pocket") is None and stream.zero_shot("ViT-L-14/openai") is None
    stream.label_space = "all"
    assert stream.zero_shot("ViT-B-16/openai") is None
    assert ToyStream.zero_shot(stream, "ViT-B-16/openai") is None

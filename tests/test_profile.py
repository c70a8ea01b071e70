"""What ``python -m bench profile`` prints and refuses."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench.cli import main as cli
from bench.learning.costs import counted

TOY = str(Path(__file__).parent / "toy.py")


def test_profile_prints_what_a_method_costs(capsys: pytest.CaptureFixture) -> None:
    words = ["profile", "method=keeplora", f"model={TOY}", "method.rank=4", "classes=5", "batch=4", "steps=3"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "5 classes, 3 steps of 4 images" in printed
    for what in ("gradient pass", "subspace update", "one training step", "peak memory", "kept after a task"):
        assert what in printed
    # 4 images of 10 tokens and 5 prompts in towers of two blocks, forwards and backwards: some tens of millions.
    (operations,) = re.findall(r"operations of a training step +([\d.]+) GFLOP", printed)
    assert 0.01 < float(operations) < 0.1
    assert "share of that in a training step" in printed and "share of that in an image of evaluation" in printed
    assert cli.main(["profile", "method=zero-shot", f"model={TOY}", "classes=5"]) == 0
    printed = capsys.readouterr().out
    assert "a training step" not in printed.replace("one training step", "") and "an image of evaluation" in printed


def test_operations_are_counted_as_they_are_executed() -> None:
    x, W = torch.randn(7, 5), torch.randn(3, 5, requires_grad=True)
    assert counted(lambda: F.linear(x, W)) == pytest.approx(2 * 7 * 5 * 3 / 1e9)
    assert counted(lambda: F.linear(x, W).sum().backward()) == pytest.approx(2 * 2 * 7 * 5 * 3 / 1e9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch=0"], "batch=0 must be a whole number from 1 to 1,000,000"),
        (["classes=" + "9" * 5000], "must be a whole number from 1 to 1,000,000"),
        (["steps=2"], "steps=2 must be a whole number from 3"),
        (["clases=3"], 'unknown word "clases" of profile (did you mean "classes"?)'),
        (["keeplora"], 'unknown word "keeplora" of profile'),
        (["method.rnk=3"], 'did you mean "method.rank"'),
        (["weights=no"], "model.weights"),
    ],
)
def test_wrong_words_of_profile(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["profile", "method=keeplora", f"model={TOY}", *words]) == 2
    assert message in capsys.readouterr().err

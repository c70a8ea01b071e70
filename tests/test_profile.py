"""What ``python -m bench profile`` prints and refuses."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench.api import tiny_clip
from bench.cli import main as cli
from bench.config.resolve import resolve, resolve_method
from bench.core.stopwatch import Stopwatch
from bench.learning import costs
from bench.learning.costs import counted

TOY = str(Path(__file__).parent / "toy.py")
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is measured for a moment only."""
    monkeypatch.setattr(costs, "product_rate", partial(costs.product_rate, seconds=0.1))


def test_profile_prints_what_a_method_costs(capsys: pytest.CaptureFixture) -> None:
    words = ["profile", "method=keeplora", f"model={TOY}", "method.rank=4", "classes=5", "batch=4", "steps=3"]
    assert cli.main(words) == 0
    printed, doing = capsys.readouterr()
    for phase in ("load", "before the first task", "before training", "training", "after training", "evaluation"):
        assert f"  {phase} ...\n" in doing
    assert "one task of 5 classes, 3 steps of 4 images" in printed.splitlines()[0]
    assert "5 classes, 12 training images of 36 x 36 pixels, 3 steps of 4 images" in printed
    for what in ("gradient pass", "subspace update", "one training step", "peak memory", "kept after a task"):
        assert what in printed
    # 4 images of 10 tokens and 5 prompts in towers of two blocks, forwards and backwards: some tens of millions.
    (operations,) = re.findall(r"operations of a training step +([\d.]+) GFLOP", printed)
    assert 0.01 < float(operations) < 0.1
    assert "share of that in a training step" in printed and "share of that in an image of evaluation" in printed
    assert cli.main(["profile", "method=zero-shot", f"model={TOY}", "classes=5"]) == 0
    printed = capsys.readouterr().out
    assert "a training step" not in printed.replace("one training step", "") and "an image of evaluation" in printed


def test_a_share_of_the_machine_is_never_above_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where other work has slowed down the products that the machine is measured by."""
    monkeypatch.setattr(costs, "product_rate", lambda dtype, device: 1e-6)
    cls, settings = resolve_method(["method=lora", "method.rank=4"])
    run = resolve(["method=lora", f"stream={TOY}", f"model={TOY}"]).run
    found = costs.measure(tiny_clip(), cls, settings, run, costs.Sizes(classes=5, batch=4), Stopwatch())
    assert max(found.shares.values()) == 1.0 and found.rate > 1e-6


def test_sizes_are_free(capsys: pytest.CaptureFixture) -> None:
    """More classes than images of the steps, also for a head that needs an image of every class."""
    words = ["profile", "method=keeplora-plus", f"model={TOY}", "method.rank=4", "classes=20", "batch=3"]
    assert cli.main(words) == 2
    assert "give every class an image" in capsys.readouterr().err
    assert cli.main([*words, "images=24"]) == 0
    assert "20 classes, 24 training images" in capsys.readouterr().out
    assert cli.main([*words, "resolution=48"]) == 2
    assert "has a resolution of its own: leave resolution out" in capsys.readouterr().err


def test_how_long_it_takes_is_said_before_torch_is_imported() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from bench.cli.main import main\n"
        "main(['profile', 'method=lora', 'model=ViT-B-16', 'weights=random', 'classes=1000', 'threads=2'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "torch" in done.stderr.splitlines()[-1]
    line = "lora on ViT-B-16: one task of 1000 classes, 3 steps of 8 images; about "
    assert done.stdout.startswith(line) and "on 2 CPU threads" in done.stdout
    # By hand, 12 blocks a tower: 24 w w + 4 w t operations a token. 9 passes over 24 images of 197 tokens with w = 768,
    # 16 over 1000 prompts of 8 tokens with w = 512; 5e10 operations a second of each thread, after 15 seconds.
    image, text = (12 * t * (24 * w * w + 4 * w * t) for t, w in ((197, 768), (8, 512)))
    seconds = 15 + (9 * 24 * image + 16 * 1000 * text) / 1e11
    assert f"about {seconds / 60:.0f} minutes" in done.stdout


def test_operations_are_counted_as_they_are_executed() -> None:
    x, W = torch.randn(7, 5), torch.randn(3, 5, requires_grad=True)
    assert counted(lambda: F.linear(x, W)) == pytest.approx(2 * 7 * 5 * 3 / 1e9)
    assert counted(lambda: F.linear(x, W).sum().backward()) == pytest.approx(2 * 2 * 7 * 5 * 3 / 1e9)
    A, B, total = torch.randn(2, 5), torch.randn(3, 2), torch.randn(3, 5)
    assert counted(lambda: total.addmm_(B, A, alpha=0.5)) == pytest.approx(2 * 3 * 2 * 5 / 1e9)  # as updates are added
    several = (torch.randn(4, 3, 5), torch.randn(4, 3, 2), torch.randn(4, 2, 5))
    assert counted(lambda: several[0].baddbmm_(*several[1:])) == pytest.approx(4 * 2 * 3 * 2 * 5 / 1e9)


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


@pytest.mark.parametrize("method", ["gs-lora-pp", "retrain", "erase-text", "no-op"])
def test_methods_that_forget_have_a_request_to_carry_out(method: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["profile", f"method={method}", f"model={TOY}", "classes=5", "batch=4"]) == 0
    printed = capsys.readouterr().out
    assert "5 classes, 12 training images" in printed
    assert ("operations of a training step" in printed) == (method in ("gs-lora-pp", "retrain"))


def test_a_fifth_of_the_classes_is_forgotten_and_one_stays(capsys: pytest.CaptureFixture) -> None:
    _, (data, after) = costs.synthetic(tiny_clip(), costs.Sizes(classes=10, batch=4), 2, forget=True)
    assert data.request is not None and data.request.pixels is not None and after.request is not None
    assert data.request.classes == (8, 9) and data.request.retained == tuple(range(8)) and not data.request.earlier
    assert set(data.request.pixels.labels.tolist()) == {8, 9} and len(data.request.pixels) == 12
    assert set(data.train.labels.tolist()) == set(range(8))
    assert not torch.equal(data.batch_to_forget(0)[0], after.batch_to_forget(0)[0])
    assert costs.synthetic(tiny_clip(), costs.Sizes(classes=5, batch=4))[1][0].request is None
    assert cli.main(["profile", "method=gs-lora", f"model={TOY}", "classes=1"]) == 2
    assert "needs a class that stays: set classes to 2 or more" in capsys.readouterr().err

"""What ``python -m bench profile`` tells and refuses."""

from pathlib import Path

import pytest

from bench import cli

TOY = str(Path(__file__).parent / "toy.py")


def test_profile_tells_what_a_method_costs(capsys: pytest.CaptureFixture) -> None:
    words = ["profile", "method=keeplora", f"model={TOY}", "method.rank=4", "classes=5", "batch=4", "steps=3"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "5 classes, 3 steps of 4 images" in told
    for what in ("gradient pass", "subspace update", "one training step", "peak memory", "kept after a task"):
        assert what in told
    assert cli.main(["profile", "method=zero-shot", f"model={TOY}", "classes=5"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch=0"], "batch=0 must be a whole number from 1"),
        (["steps=2"], "steps=2 must be a whole number from 3"),
        (["clases=3"], 'unknown word "clases" of profile (did you mean "classes"?)'),
        (["method.rnk=3"], 'did you mean "method.rank"'),
    ],
)
def test_wrong_words_of_profile(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["profile", "method=keeplora", f"model={TOY}", *words]) == 2
    assert message in capsys.readouterr().err

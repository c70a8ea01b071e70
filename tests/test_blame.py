"""What a plug-in does wrong is one sentence with file and line of its author's code."""

from pathlib import Path

import pytest

from bench.cli import main
from bench.config.resolve import resolve
from bench.core.errors import UserError

TOY = str(Path(__file__).parent / "toy.py")
HEAD = "from dataclasses import dataclass, field\nfrom bench.api import Method, register, setting\n"
CLASS = """\
@register("method", "mine", title="mine")
class Mine(Method):
    @dataclass
    class Settings:
        size: int = setting(1, "x")
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD + "raise BaseException('no')\n" + CLASS, r"cannot be imported: BaseException: no \(mine.py, line 3\)"),
        (HEAD + "import nowhere_at_all\n" + CLASS, r"ModuleNotFoundError: .* \(mine.py, line 3\)"),
        (HEAD + "raise MemoryError\n" + CLASS, r"cannot be imported: there is too little memory"),
        (
            HEAD + CLASS + "        def check(self):\n            return {}['x']\n",
            r"its check\(\) fails: KeyError: 'x' \(mine.py, line 9\)",
        ),
        (
            HEAD + CLASS + "        def check(self):\n            pass\n",
            r"its check\(\) returns NoneType: it must return",
        ),
        (
            HEAD + CLASS + "        def fits(self, surroundings):\n            return 'no'\n",
            r"its fits\(\) returns str: it must return a list of sentences",
        ),
        (
            HEAD + CLASS + "        def fits(self, surroundings):\n            return [1 / 0]\n",
            r"its fits\(\) fails: ZeroDivisionError: division by zero \(mine.py, line 9\)",
        ),
        (
            HEAD + CLASS + "        def __post_init__(self):\n            assert self.size > 1, 'too small'\n",
            r"cannot be made: AssertionError: too small \(mine.py, line 9\)",
        ),
        (
            HEAD + CLASS + "        more: list[str] = field(default_factory=lambda: [][0])\n",
            r"cannot be made: IndexError: list index out of range \(mine.py, line 8\)",
        ),
    ],
)
def test_the_authors_line_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        resolve([f"method={tmp_path / 'mine.py'}", f"stream={TOY}", f"model={TOY}"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_variable_shows_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(HEAD + "raise RuntimeError('deep')\n" + CLASS)
    line = ["run", f"method={tmp_path / 'mine.py'}"]
    assert main.main(line) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("KEEPLORA_TRACEBACK", "1")
    assert main.main(line) == 2
    assert "Traceback" in (err := capsys.readouterr().err) and "raise RuntimeError('deep')" in err


def test_a_model_that_fails_to_load_is_named(tmp_path: Path) -> None:
    from bench.runs.run import run

    (tmp_path / "mine.py").write_text(
        'from bench.api import register\n@register("model", "mine", title="mine")\nclass Mine:\n'
        "    def load(self, settings):\n        return [][1]\n"
    )
    line = ["method=zero-shot", f"stream={TOY}", f"model={tmp_path / 'mine.py'}", f"out={tmp_path}"]
    with pytest.raises(UserError, match=r"cannot be loaded: IndexError: .* \(mine.py, line 5\)"):
        run(resolve(line))

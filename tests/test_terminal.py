"""What records say reaches a terminal, a spreadsheet and LaTeX as text: nothing in it acts."""

import csv
import io
from pathlib import Path

import pytest
from support.made_records import change, make

from bench.cli import main as cli
from bench.compare.diff import diff
from bench.compare.export.numbers import csv_text
from bench.compare.export.paper import latex
from bench.compare.export.task_text import task_text
from bench.compare.grouping import gather
from bench.compare.tables import sections, text
from bench.core.console import one_line, say, visible
from bench.core.errors import UserError
from bench.record.schema import read_object

ODD = "\x1b[2J\x07\u202e\x9b\r"
SHOWN = r"\x1b[2J\x07\u202e\x9b\r"


def test_what_does_not_print_is_escaped(capsys: pytest.CaptureFixture) -> None:
    assert visible(f"Größe {ODD}\nä\udcff") == f"Größe {SHOWN}\nä\\udcff"
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert visible("± – 日本") == "± – 日本"
    say(f"a {ODD}\nb")
    assert capsys.readouterr().out == f"a {SHOWN}\nb\n"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Three runs, two of which say something in every text of their records."""
    make(tmp_path)
    for number in range(2):
        path = make(tmp_path, "lora", fingerprint=f"{number}123456789", last=40 + number)
        change(path, "summary.json", method=f"lora{ODD}\nx", fingerprint=f"{number}{ODD}\n")
        change(path, "identity.json", code_revision=f"{number}{ODD}")
        for key in ("train.lr", "method.rank", f"method.{ODD}", "method.scale"):
            values = {"value": f"{number}{ODD}\ny", "source": f"user{ODD}"}
            settings = read_object(path / "identity.json")["settings"]
            change(path, "identity.json", settings={**settings, key: values})
    change(make(tmp_path, seed=1), "summary.json", status=f"stopped{ODD}\n")
    return tmp_path


def acts(output: str) -> list[str]:
    return [one for one in output if not one.isprintable() and one != "\n"]


def test_nothing_in_a_record_acts_on_the_terminal(odd: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["compare", str(odd)]) == 0
    output = capsys.readouterr().out
    assert SHOWN in output and acts(output) == []
    for seed in (2, 3, 4):
        make(odd, seed=seed, last=90 + seed)
        make(odd, "third", seed=seed, last=60 + seed**2 / 10)
    comparison = gather([odd])
    for show in (text, task_text):
        bold = show(comparison, sections(comparison), bold=True)
        assert bold.count("\x1b[1m") == bold.count("\x1b[0m") > 0
        assert acts(bold.replace("\x1b[1m", "").replace("\x1b[0m", "")) == []


def test_nothing_in_a_record_breaks_the_lines_of_a_table(odd: Path) -> None:
    comparison = gather([odd])
    output = text(comparison, sections(comparison))
    assert [line for line in output.splitlines() if line in ("x", "y")] == []
    assert r"\nx" in output


def test_nothing_in_a_record_acts_in_a_difference(odd: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = sorted(path.parent for path in odd.rglob("identity.json") if "lora" in path.parts)
    output = diff(first, second)
    assert SHOWN in output and acts(output) == [] and "y" not in output.splitlines()
    assert cli.main(["diff", str(first), str(second)]) == 0
    assert acts(capsys.readouterr().out) == []


def test_nothing_in_a_record_acts_in_an_error(odd: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["compare", str(odd), "method.=1"]) == 2
    assert cli.main(["compare", str(odd), "baseline=lor"]) == 2
    errors = capsys.readouterr().err
    assert SHOWN in errors and acts(errors) == []


def test_names_of_files_that_are_no_text_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make(tmp_path / "runs")
    folder = tmp_path / "runs" / "odd\udcff"
    folder.mkdir()
    (folder / "identity.json").write_text("{")
    assert cli.main(["compare", str(tmp_path / "runs"), f"html={tmp_path / 'page.html'}"]) == 0
    assert r"odd\udcff: damaged: identity.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1+1", "'+1+1"), ("-1+1", "'-1+1"), ("@sum(a)", "'@sum(a)"), ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"), ("\n=1", r"\n=1"), ("-1.5", "-1.5"), ("+2e3", "+2e3"), ("1=1", "1=1"), ("a-b", "a-b"),
        ("", ""),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(name: str, cell: str, tmp_path: Path) -> None:
    change(make(tmp_path), "summary.json", method=name, stream=name, model=name, fingerprint=name)
    written = csv_text(sections(gather([tmp_path])))
    (*_, line) = csv.DictReader(io.StringIO(written, newline=""))
    assert {line[column] for column in ("method", "stream", "model", "fingerprint", "label")} == {cell}


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    make(tmp_path, last=20)
    lines = {line["metric"]: line for line in csv.DictReader(io.StringIO(csv_text(sections(gather([tmp_path])))))}
    assert float(lines["backward_transfer"]["mean"]) == -60.0


def test_names_are_one_line_of_latex(odd: Path) -> None:
    output = latex(sections(gather([odd])))
    assert acts(output) == [] and r"\textbackslash{}x1b[2J" in output


def test_several_problems_are_several_errors(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(words: list[str]) -> int:
        raise UserError(f"one {ODD}\ntwo\x0bhalf")

    monkeypatch.setattr(cli, "_dispatch", failing)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == f"error: one {SHOWN}\nerror: two\\x0bhalf\n"

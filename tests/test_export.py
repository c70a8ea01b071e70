"""A comparison as CSV and as LaTeX."""

import csv
import io
import re

import pytest
from support.made_records import change, make
from test_compare import mtil

from bench.compare import export, grouping
from bench.compare import tables as compare
from bench.core.errors import UserError


def sections(root):
    return compare.sections(grouping.gather([root]))


def test_csv_has_a_line_for_every_group_and_metric(tmp_path):
    for seed, last in enumerate([50, 60, 70]):
        make(tmp_path, seed=seed, last=last)
        make(tmp_path, "lora", seed=seed, last=last - 10 + seed)
    make(tmp_path, "lora", seed=0, train__epochs=1, fingerprint="9876543210")
    found = sections(tmp_path)
    lines = list(csv.DictReader(io.StringIO(export.csv_text(found))))
    assert tuple(lines[0]) == export.CSV_COLUMNS
    assert [(one["label"], one["apart"]) for one in lines[:: len(compare.COLUMNS)]] == [
        ("lora", "train.epochs 1"), ("keeplora", "train.epochs 5"), ("lora", "train.epochs 5")
    ]  # fmt: skip
    by = {(one["apart"][-1], one["label"], one["metric"]): one for one in lines}
    assert len(by) == len(lines) == 3 * len(compare.COLUMNS)
    last = by["5", "keeplora", "last"]
    assert (last["source"], last["n"], last["mean"], last["fingerprint"]) == ("measured", "3", "60.0", "0123456789")
    assert float(last["standard_error"]) == pytest.approx(10 / 3**0.5) and last["baseline"] == ""
    assert by["1", "lora", "last"]["standard_error"] == "" and by["5", "lora", "stored_bytes"]["mean"] == "2500000.0"
    other, (_, differences) = by["5", "lora", "last"], found[1].against.rows[0]
    assert (other["baseline"], other["over"], other["level"]) == ("keeplora", "3 seeds", "0.95")
    assert [float(other[key]) for key in ("difference", "low", "high")] == [
        getattr(differences[2], key) for key in ("mean", "low", "high")
    ]
    assert by["5", "lora", "seconds"]["difference"] == ""


def test_published_numbers_are_lines_of_their_own(tmp_path):
    known = mtil(tmp_path)
    lines = list(csv.DictReader(io.StringIO(export.csv_text(sections(tmp_path)))))
    quoted = [one for one in lines if one["source"] == "published"]
    said = sum(value is not None for row in known.rows for value in (row.transfer, row.average, row.last))
    assert len(quoted) == said and {one["reference"] for one in quoted} == {row.source for row in known.rows}
    (one,) = [q for q in quoted if (q["method"], q["metric"]) == ("ZSCL", "transfer_by_column")]
    assert (one["mean"], one["n"], one["fingerprint"], one["stream"]) == ("68.1", "", "", "mtil-order1")


def tabulars(text):
    """Rows of every tabular, as lists of cells; every line between rules is one."""
    found = []
    for body in re.findall(r"\\begin\{tabular\}.*?\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        lines = [line for line in body.splitlines() if not line.endswith("rule")]
        assert all(line.endswith(r" \\") for line in lines)
        found.append([line.removesuffix(r" \\").split(" & ") for line in lines])
    return found


def test_latex(tmp_path):
    for seed, last in enumerate([50, 60]):
        make(tmp_path, seed=seed, last=last)
        make(tmp_path, seed=seed, last=40, fingerprint="9876543210", method__weight_energy=0.5)
    text = export.latex(sections(tmp_path))
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}\n") == 1
    head, plain, other = tabulars(text)[0]
    assert len(head) == len(plain) == len(other) == 2 + len(compare.COLUMNS)
    assert rf"{{l{'r' * (len(head) - 1)}}}" in text
    assert plain[0] == r"keeplora method.weight\_energy=(absent)" and other[0] == r"keeplora method.weight\_energy=0.5"
    assert plain[5] == r"\textbf{55.00 $\pm$ 5.00}" and other[5] == r"40.00 $\pm$ 0.00"
    assert plain[7] == r"\textbf{$-$25.00 $\pm$ 5.00}" and plain[3] == r"40.00 $\pm$ 0.00"
    assert r"Mean $\pm$ standard error over $n$ seeds" in text and "booktabs" in text.splitlines()[0]


def test_latex_of_published_rows_is_never_bold(tmp_path):
    known = mtil(tmp_path, last=1)
    mtil(tmp_path, "lora", last=2)
    text = export.latex(sections(tmp_path))
    below = text.partition("published, not measured here:")[2].partition(r"\bottomrule")[0]
    assert "textbf" not in below and below.count("&") == len(known.rows) * (1 + len(compare.COLUMNS))
    assert export.escape(known.rows[0].source) in text and export.escape(known.notes[0]) in text


def test_every_special_character_is_escaped():
    plain = export.escape("a_b&c%d$e#f{g}h\\i~j^k<l>m|n")
    assert plain == (
        r"a\_b\&c\%d\$e\#f\{g\}h\textbackslash{}i\textasciitilde{}j\textasciicircum{}k\textless{}l"
        r"\textgreater{}m\textbar{}n"
    )


def test_names_of_methods_may_be_anything(tmp_path):
    change(make(tmp_path, "a_b"), "summary.json", method="a_b & 100 %")
    assert tabulars(export.latex(sections(tmp_path)))[0][1][0] == r"a\_b \& 100 \%"


def test_files_are_written(tmp_path):
    make(tmp_path)
    found = sections(tmp_path)
    options = {"csv": str(tmp_path / "a.csv"), "latex": str(tmp_path / "b.tex")}
    assert export.write(found, options) == [f"{name} written to {path}" for name, path in options.items()]
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == export.csv_text(found)
    assert (tmp_path / "b.tex").read_text(encoding="utf-8") == export.latex(found)
    assert export.write(found, {}) == []
    for name in ("", str(tmp_path), str(tmp_path / "nowhere" / "a.csv")):
        with pytest.raises(UserError, match=r"csv=.* cannot be written \(.*\): name a file elsewhere"):
            export.write(found, {"csv": name})

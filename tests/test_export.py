"""A comparison as CSV and as LaTeX."""

import csv
import io
import os
import re

import pytest
from support.made_records import change, make, measure, mtil

from bench.compare import export, grouping
from bench.compare import tables as compare
from bench.compare.export import numbers, paper
from bench.core.errors import UserError

USUAL = [name for name in compare.COLUMNS["learning"] if name not in compare.OPTIONAL]
"""Columns of runs without an upper bound beside them."""


def sections(root, **options):
    return compare.sections(grouping.gather([root]), options)


def test_csv_has_a_line_for_every_group_and_metric(tmp_path):
    for seed, last in enumerate([50, 60, 70]):
        make(tmp_path, seed=seed, last=last)
        make(tmp_path, "lora", seed=seed, last=last - 10 + seed)
    make(tmp_path, "lora", seed=0, train__epochs=1, fingerprint="9876543210")
    found = sections(tmp_path)
    lines = list(csv.DictReader(io.StringIO(numbers.csv_text(found))))
    assert tuple(lines[0]) == numbers.CSV_COLUMNS
    assert [(one["label"], one["apart"]) for one in lines[:: len(USUAL)]] == [
        ("lora", "train.epochs 1"), ("keeplora", "train.epochs 5"), ("lora", "train.epochs 5")
    ]  # fmt: skip
    by = {(one["apart"][-1], one["label"], one["metric"]): one for one in lines}
    assert len(by) == len(lines) == 3 * len(USUAL)
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
    lines = list(csv.DictReader(io.StringIO(numbers.csv_text(sections(tmp_path)))))
    quoted = [one for one in lines if one["source"] == "published"]
    said = sum(len(row.values) for row in known.rows)
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
        make(tmp_path, seed=seed, last=39 + 1.01 * last / 10, fingerprint="9876543210", method__weight_energy=0.5)
    text = paper.latex(sections(tmp_path))
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}\n") == 1
    head, plain, other = tabulars(text)[0]
    assert len(head) == len(plain) == len(other) == 1 + len(USUAL)
    assert rf"{{l{'r' * (len(head) - 1)}}}" in text
    assert plain[0] == r"keeplora method.weight\_energy=(absent)" and other[0] == r"keeplora method.weight\_energy=0.5"
    assert plain[4] == r"55.00 $\pm$ 5.00" and plain[6] == r"$-$25.00 $\pm$ 5.00" and plain[2] == r"40.00 $\pm$ 0.00"
    assert "textbf" not in text and "Bold" not in text  # two seeds that differ by 6 and 15 show nothing
    assert r"Mean $\pm$ standard error over 2 seeds, in percent" in text and "booktabs,graphicx" in text.splitlines()[0]


def ahead(root, make=make):
    """Make three methods over three seeds, the first of which is shown to be ahead."""
    for seed in range(3):
        make(root, seed=seed, last=60 + seed)
        make(root, "lora", seed=seed, last=50 + seed / 10)
        make(root, "third", seed=seed, last=40)


def test_latex_is_bold_where_a_difference_is_shown(tmp_path):
    ahead(tmp_path)
    text = paper.latex(sections(tmp_path))
    keeplora, *others = tabulars(text)[0][1:]
    assert [number for number, one in enumerate(keeplora) if "textbf" in one] == [3, 4, 5, 6]
    assert keeplora[4] == r"\textbf{61.00 $\pm$ 0.58}" and keeplora[6] == r"\textbf{$-$19.00 $\pm$ 0.58}"
    assert "textbf" not in "".join(map("".join, others)) and "Bold: ahead of the next method" in text


def test_latex_says_how_many_seeds_there_are(tmp_path):
    make(tmp_path)
    assert "One seed, in percent." in paper.latex(sections(tmp_path))
    make(tmp_path, "lora")
    make(tmp_path, "lora", seed=1)
    text = paper.latex(sections(tmp_path))
    head, keeplora, lora = tabulars(text)[0]
    assert (head[1], keeplora[1], lora[1]) == ("$n$", "1", "2") and "over $n$ seeds" in text
    assert "Seeds: keeplora 1, lora 2." in paper.latex(sections(tmp_path, per="task"))


def test_latex_has_captions_without_hashes_and_a_label_for_each_table(tmp_path):
    make(tmp_path, **{f"method__x{n}": n for n in range(6)})
    make(tmp_path, fingerprint="9876543210")
    change(make(tmp_path, "lora"), "identity.json", manifests={"pocket": "f" * 64})
    make(tmp_path, "lora", stream="Own & Co", train__epochs=1)
    found = sections(tmp_path)
    assert any("mmmmmmmm" not in one.field.title and "ffffffff" in one.field.title for one in found)
    for per, ending in (("method", ""), ("task", "-by-task")):
        text = paper.latex(sections(tmp_path, per=per))
        assert not re.search(r"[0-9a-f]{8}|[0-9]{10}", text)
        names = re.findall(r"\\label\{(.*?)\}", text)
        assert sorted(names) == sorted(
            f"tab:{name}" for name in (f"own-co{ending}", f"pocket{ending}", f"pocket{ending}:2")
        )
        assert "images, labels or class names unlike in other tables." in text
        assert (
            "keeplora (1) &" in text
            and "keeplora (1): method.x0=0, method.x1=1" in text
            and "keeplora (2) &" in text
            and "diff" not in text
        )


def test_latex_of_published_rows_is_never_bold(tmp_path):
    known = mtil(tmp_path, last=1)
    mtil(tmp_path, "lora", last=2)
    text = paper.latex(sections(tmp_path))
    captions = ("published, not measured here:", "published, set apart ")  # of two tables
    below = "".join(text.partition(one)[2].partition(r"\bottomrule")[0] for one in captions)
    assert "textbf" not in below and below.count("&") == len(known.rows) * len(USUAL)
    assert (
        paper.escape(known.rows[0].source) in text
        and paper.escape(known.notes[1]) in text
        and "docs/" in known.notes[0]
        and "docs/" not in text
    )
    assert "prompts and augmentation." in text


def test_latex_by_task(tmp_path):
    def measured(root, method="keeplora", seed=0, last=50):
        rows = [[20, 30, 40], [70, 31, 41], [69, 71, 42], [last, last, last]]
        measure(make(root, method, seed=seed), ["a_b", "pears", "plums"], rows)

    ahead(tmp_path, measured)
    names = "{keeplora: KeepLoRA, pears: Pears & Co, last: Final}"
    text = paper.latex(sections(tmp_path, per="task", names=names, columns="[last,transfer]", rows="[lora,keeplora]"))
    head, final, *last, transfer, lora, keeplora = tabulars(text)[0]
    turned = [rf"\rotatebox{{90}}{{{name}}}" for name in (r"a\_b", r"Pears \& Co", "plums")]
    assert head == ["Method", *turned, "Mean"] and "{lrrrr}" in text
    assert (final, transfer) == ([r"\multicolumn{5}{l}{\textit{Final}}"], [r"\multicolumn{5}{l}{\textit{Transfer}}"])
    assert last[0] == ["lora", "50.1", "50.1", "50.1", r"50.1 $\pm$ 0.1"]
    assert last[1] == ["KeepLoRA", *[r"\textbf{61.0}"] * 3, r"\textbf{61.0 $\pm$ 0.6}"]
    assert lora == ["lora", "--", "31.0", "41.5", r"36.2 $\pm$ 0.0"] and keeplora[1:] == lora[1:]
    assert "Final and Transfer for every task: stream pocket, model pocket. Mean over 3 seeds" in text


def test_latex_by_task_has_published_rows_below_a_rule(tmp_path):
    known = mtil(tmp_path)
    measure(next(tmp_path.rglob("*-s0")), known.tasks, [[50] * 11] * 12)
    text = paper.latex(sections(tmp_path, per="task", columns="transfer"))
    below = text.partition("\\cmidrule(lr){1-13}\n")[2].partition(r"\bottomrule")[0]
    rows = [row for row in known.rows if row.columns and row.value("transfer_by_column")]
    apart = sum(row.apart for row in rows)
    lines = below.splitlines()
    assert lines.pop(-apart - 1) == r"\cmidrule(lr){1-13}" and 0 < apart < len(rows)
    assert [line.partition(" [")[0] for line in lines] == [paper.escape(row.method) for row in rows]
    assert "Set apart by a further rule: extends the model, knows the task" in text
    assert "ZSCL [1] & -- & 86.0 & 67.4" in below and "& 68.1 \\\\" in below


def test_latex_by_task_has_a_table_a_metric_where_one_would_be_higher_than_a_page(tmp_path):
    def references(**options):
        return re.findall(r"\\label\{(.*?)\}", paper.latex(sections(tmp_path, per="task", **options)))

    known = mtil(tmp_path)
    measure(next(tmp_path.rglob("*-s0")), known.tasks, [[50] * 11] * 12)
    assert references(published="off") == ["tab:mtil-order1-by-task"]
    assert references(published="off", columns="last") == ["tab:mtil-order1-last"]
    assert references() == ["tab:mtil-order1-transfer", "tab:mtil-order1-average", "tab:mtil-order1-last"]
    text = paper.latex(sections(tmp_path, per="task"))
    assert text.count("for every task: ") == text.count(r"\begin{table*}") == 3 and "Average for every task: " in text


@pytest.mark.parametrize(("per", "ending"), [("method", ""), ("task", "-transfer")])
def test_latex_has_a_second_table_of_rows_set_apart_where_all_would_be_higher_than_a_page(
    tmp_path, monkeypatch, per, ending
):
    known = mtil(tmp_path)
    measure(next(tmp_path.rglob("*-s0")), known.tasks, [[50] * 11] * 12)
    (whole,) = sections(tmp_path, per=per, columns="transfer")
    monkeypatch.setattr(paper, "FULL", paper._lines(whole))
    assert len(re.findall(r"\\label\{(.*?)\}", paper.latex([whole]))) == 1
    monkeypatch.setattr(paper, "FULL", paper._lines(whole) - 1)
    text = paper.latex([whole])
    assert re.findall(r"\\label\{(.*?)\}", text) == [f"tab:mtil-order1{ending}", f"tab:mtil-order1{ending}:2"]
    for part, apart in zip(text.split(r"\end{table*}")[:2], (False, True), strict=True):
        quoted = dict(re.findall(r"^(.*) \[(\d+)\] &", part, re.M))
        papers = [
            row for row in whole.papers if row.apart is apart and (per == "method" or row.value("transfer_by_column"))
        ]
        assert quoted.keys() == {paper.escape(row.method) for row in papers} and "\nkeeplora & " in part
        sources = re.findall(r"\[(\d+)\] (.*?)\.", part.partition(r"\parbox")[2])
        assert {*quoted.values()} <= {number for number, _ in sources}
        assert ("They are set apart: each extends the model" in part) == apart and "by a further rule" not in part


def test_latex_of_everything_published_fits_pages(tmp_path):
    mtil(tmp_path)
    (whole,) = sections(tmp_path)
    parts = paper._parts(whole)
    assert [{row.apart for row in part.papers} for part in parts] == [{False}, {True}]
    assert max(map(paper._lines, parts)) <= paper.FULL < paper._lines(whole)
    assert paper._parts(sections(tmp_path, rows="[keeplora,ZSCL,CMAP]")[0])[0].papers[-1].method == "CMAP"


def test_latex_by_task_says_why_there_is_no_table(tmp_path):
    make(tmp_path)
    (next(tmp_path.rglob("*-s0")) / "accuracy.csv").unlink()
    text = paper.latex(sections(tmp_path, per="task"))
    assert "table" not in text.replace("no table for every task", "").replace("tables for every", "")
    assert "% no table for every task: no accuracy matrix can be read" in text


def test_csv_by_task_has_a_line_for_every_value(tmp_path):
    ahead(tmp_path)
    found = sections(tmp_path, per="task", names="{a: apples}")
    lines = list(csv.DictReader(io.StringIO(numbers.csv_text(found))))
    assert tuple(lines[0]) == numbers.TASK_COLUMNS
    by = {(one["label"], one["metric"], one["task"]): one for one in lines}
    assert len(by) == len(lines) == 3 * (2 + 3 + 3)  # the first task has no Transfer
    one = by["keeplora", "last", "apples"]
    assert (one["n"], one["mean"], one["ahead"], one["source"]) == ("3", "61.0", "yes", "measured")
    assert float(one["standard_error"]) == pytest.approx(1 / 3**0.5)
    assert by["lora", "last", numbers.MEAN]["ahead"] == "" and by["lora", "last", "b"]["fingerprint"] == "0123456789"


def test_csv_by_task_has_published_values(tmp_path):
    known = mtil(tmp_path)
    measure(next(tmp_path.rglob("*-s0")), known.tasks, [[50] * 11] * 12)
    lines = list(csv.DictReader(io.StringIO(numbers.csv_text(sections(tmp_path, per="task")))))
    (one,) = [line for line in lines if (line["method"], line["metric"], line["task"]) == ("ZSCL", "last", "DTD")]
    assert (one["mean"], one["n"], one["source"]) == ("70.5", "", "published") and "ZSCL (ICCV" in one["reference"]


def test_a_label_that_begins_a_row_is_no_argument_of_the_row_before(tmp_path):
    for name in ("[odd]", "*"):
        change(make(tmp_path, f"m{len(name)}"), "summary.json", method=name)
    assert paper.latex(sections(tmp_path)).count("\n{}") == 2


def test_every_special_character_is_escaped():
    plain = paper.escape("a_b&c%d$e#f{g}h\\i~j^k<l>m|n")
    assert plain == (
        r"a\_b\&c\%d\$e\#f\{g\}h\textbackslash{}i\textasciitilde{}j\textasciicircum{}k\textless{}l"
        r"\textgreater{}m\textbar{}n"
    )


def test_names_of_methods_may_be_anything(tmp_path):
    change(make(tmp_path, "a_b"), "summary.json", method="a_b & 100 %")
    assert tabulars(paper.latex(sections(tmp_path)))[0][1][0] == r"a\_b \& 100 \%"


def test_files_are_written(tmp_path):
    make(tmp_path)
    found = sections(tmp_path)
    options = {"csv": str(tmp_path / "a.csv"), "latex": str(tmp_path / "b.tex")}
    assert export.write(found, options) == [f"{name} written to {path}" for name, path in options.items()]
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == numbers.csv_text(found)
    assert (tmp_path / "b.tex").read_text(encoding="utf-8") == paper.latex(found)
    assert export.write(found, {}) == []
    for name in ("", str(tmp_path), str(tmp_path / "nowhere" / "a.csv")):
        with pytest.raises(UserError, match=r"csv=.* cannot be written \(.*\): name a file elsewhere"):
            export.write(found, {"csv": name})


def test_two_files_of_one_name_are_refused(tmp_path):
    """Neither is written, where the second would have replaced the first."""
    make(tmp_path)
    path = tmp_path / "same"
    with pytest.raises(UserError, match=r"csv= and latex= both name .*same: give each a file of its own"):
        export.write(sections(tmp_path), {"csv": str(path), "latex": str(path)})
    assert not path.exists()
    assert len(export.write(sections(tmp_path), {"csv": os.devnull, "latex": os.devnull})) == 2

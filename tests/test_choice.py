"""Rows and columns that a user chooses, orders and names, and what is refused."""

import re

import pytest
from support.made_records import change, make, measure, mtil

from bench.cli import main as cli
from bench.compare import tables as compare
from bench.compare.choice import Choice, read
from bench.compare.export.task_text import task_text
from bench.compare.grouping import gather
from bench.core.errors import UserError


def shown(root, **options):
    """The tables as text, with a row a method or a column a task."""
    comparison = gather([root])
    show = task_text if options.get("per") == "task" else compare.text
    return show(comparison, compare.sections(comparison, options))


def cells(text, start):
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.startswith(start)]


@pytest.fixture
def runs(tmp_path):
    """Three methods over two seeds on two tasks, a and b."""
    for number, method in enumerate(("keeplora", "lora", "third")):
        for seed in range(2):
            make(tmp_path, method, seed=seed, last=60 - 10 * number + seed)
    return tmp_path


def test_a_column_is_called_by_its_heading_or_its_scalar():
    assert read({"columns": "[Transfer, last, zero-shot,Peak MB,average_cil]"}).columns == (
        "transfer_by_column", "last", "zero_shot", "peak_memory_mb", "average_cil"
    )  # fmt: skip
    assert read({"columns": "last"}).columns == ("last",)
    assert read({}) == Choice()


def test_columns_and_rows_are_chosen_and_ordered(runs):
    text = shown(runs, columns="[last,transfer,forgetting_max_last]", rows="[third,keeplora]")
    assert cells(text, "Method") == [["Method", "n", "Last", "Transfer", "forgetting_max_last"]]
    rows = [line.split()[:4] for line in text.splitlines() if line.startswith(("third", "keeplora", "lora"))]
    assert rows == [["third", "2", "40.50", "±"], ["keeplora", "2", "60.50", "±"]]
    assert "Last = last =" in text and "Average" not in text.partition("mean ±")[2]
    assert "  third  Transfer" in text and "2 methods" not in text  # differences are those of the rows and columns
    assert "Average" not in text and "difference to" not in shown(runs, columns="seconds")


def test_rows_are_named_by_method_label_or_fingerprint(runs):
    make(runs, "lora", fingerprint="abc", method__rank=2)
    (section,) = compare.sections(gather([runs]), {"rows": "[lora method.rank=2,0123456789]"})
    labels = [group.label for group in section.field.groups]
    assert labels == ["lora method.rank=2", "keeplora", "lora method.rank=8", "third"]
    (field,) = gather([runs]).fields
    assert field.groups[0].label == "keeplora"  # the order of what was read stays


def test_a_row_may_have_brackets_in_its_name(runs):
    make(runs, "lora", fingerprint="abc", method__maps=["q"])
    for rows in ("lora method.maps=[q]", "['lora method.maps=[q]']", '["lora method.maps=[q]"]'):
        (section,) = compare.sections(gather([runs]), {"rows": rows})
        assert [group.label for group in section.field.groups] == ["lora method.maps=[q]"]


def test_names_replace_methods_tasks_and_headings(runs):
    make(runs, "lora", fingerprint="abc", method__rank=2)
    names = "{keeplora: KeepLoRA, lora: LoRA, 'third': 'a, b', transfer: Trans., a: Apples}"
    text = shown(runs, names=names, columns="[transfer,last]", rows="[KeepLoRA,LoRA,third]")
    assert cells(text, "Method") == [["Method", "n", "Trans.", "Last"]]
    assert [row[0] for row in cells(text, ("KeepLoRA", "LoRA", "a, b"))] == [
        "KeepLoRA", "LoRA method.rank=8", "LoRA method.rank=2", "a, b"
    ]  # fmt: skip
    assert "difference to KeepLoRA" in text and "  Trans. = transfer_by_column" in text
    text = shown(runs, names=names, per="task")
    assert cells(text, "Method") == [["Method", "n", "Apples", "b", "Mean"]]
    assert [line for line in text.splitlines() if line in ("Trans.", "Transfer", "Average", "Last")] == [
        "Trans.", "Average", "Last"
    ]  # fmt: skip


def test_the_baseline_keeps_its_method_as_a_name(runs):
    text = shown(runs, names="{lora: LoRA}", baseline="lora")
    assert "difference to LoRA" in text


def test_a_table_by_task(runs):
    text = shown(runs, per="task", rows="[lora,keeplora]")
    assert cells(text, ("lora", "keeplora")) == [
        ["lora", "2", "-", "40.0", "40.0 ± 0.0"], ["keeplora", "2", "-", "40.0", "40.0 ± 0.0"],
        ["lora", "2", "65.2", "45.2", "55.2 ± 0.2"], ["keeplora", "2", "70.2", "50.2", "60.2 ± 0.2"],
        ["lora", "2", "50.5", "50.5", "50.5 ± 0.5"], ["keeplora", "2", "60.5", "60.5", "60.5 ± 0.5"],
    ]  # fmt: skip
    assert "  Average = mean over all stages" in text
    text = shown(runs, per="task", columns="[last]", names="{last: Final}")
    assert text.endswith("± standard error\n  Final = after the last task")


def test_a_value_that_some_seeds_lack_says_how_many_have_it(runs):
    measure(next(runs.rglob("lora/*-s1")), ["a", "b"], [[30, 30], [80, None], [50, 50]])
    assert cells(shown(runs, per="task", columns="transfer"), "lora")[0][3:] == ["40.0 (1)", "40.0 (1)"]


def test_published_rows_are_chosen_and_named_too(tmp_path):
    known = mtil(tmp_path)
    measure(next(tmp_path.rglob("*-s0")), known.tasks, [[50] * 11] * 12)
    text = shown(tmp_path, per="task", columns="last", rows="[GIFT,keeplora,ZSCL]", names="{ZSCL: Zheng, DTD: Texture}")
    assert [row[0] for row in cells(text, ("GIFT", "keeplora", "Zheng", "LwF"))] == [
        "keeplora",
        "GIFT [1]",
        "Zheng [2]",
    ]
    assert cells(text, "Zheng")[0][2:6] == ["40.6", "92.2", "81.3", "70.5"] and "Texture" in text
    assert "[1] DPW" in text and "[2] ZSCL" in text and "[3]" not in text
    text = shown(tmp_path, rows="[keeplora,published]", columns="last")
    assert text.count("\nDIKI") == text.count("\nCMAP") == 1
    assert "published, not" not in shown(tmp_path, rows="keeplora")
    by_task = shown(tmp_path, per="task", columns="last")  # only those that have values for tasks
    assert "\nDIKI" in by_task and "\nCMAP" not in by_task
    chosen = shown(tmp_path, per="task", columns="last", rows="[CMAP,keeplora]")
    assert cells(chosen, "CMAP")[0] == ["CMAP [1]", "-", *["-"] * 11, "88.7"]


def test_a_table_without_a_chosen_row_is_left_out(runs):
    make(runs, "lora", train__epochs=1, fingerprint="abc")
    assert shown(runs, rows="third").count("stream pocket") == 1
    assert shown(runs, rows="lora").count("stream pocket") == 2


def test_mixed_streams_have_a_table_each(runs):
    measure(make(runs, "lora", stream="other"), ["x"], [[30], [70]])
    text = shown(runs, per="task", names="{x: only, a: first}")
    first, _, second = text.partition("\n\nstream pocket")
    assert (
        "other" in first and ["Method", "n", "only", "Mean"] in cells(first, "Method") and "\nTransfer\n" not in first
    )
    assert ["Method", "n", "first", "b", "Mean"] in cells(second, "Method")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"per": "dataset"}, "per=dataset must be method, task or cell"),
        ({"columns": "[transfr]"}, 'columns= has no "transfr" (did you mean "transfer"?)'),
        ({"columns": "[last,seconds]", "per": "task"}, "columns=seconds has no values by task"),
        ({"columns": "[last,Last]"}, "columns= names last twice"),
        ({"columns": "[]"}, "columns=[] is no list of names"),
        ({"columns": ""}, "columns= is no list of names"),
        ({"rows": "[lora"}, "rows=[lora is no list of names"),
        ({"rows": "[lora,lora]"}, "rows= names lora twice"),
        ({"rows": "[keplora]"}, 'rows= has no "keplora" (did you mean "keeplora"?)'),
        ({"names": "keeplora"}, "names=keeplora is no mapping"),
        ({"names": "{keeplora: }"}, "names= gives keeplora an empty name"),
        ({"names": "{keplora: K}"}, 'names= has "keplora", no row, task or column here (did you mean "keeplora"?)'),
        ({"names": "{keeplora: X, lora: X}"}, "names= calls two rows or tasks of a table X"),
        ({"names": "{keeplora: lora}"}, "names= calls two rows or tasks of a table lora"),
        ({"names": "{a: b}"}, "names= calls two rows or tasks of a table b"),
        ({"rows": "[published]"}, "rows=[published] names no run here"),
        ({"rows": "[lora]", "baseline": "keeplora"}, "baseline=keeplora is none of the methods here"),
    ],
)
def test_what_fits_nothing_is_refused(runs, options, said):
    with pytest.raises(UserError) as error:
        shown(runs, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_writes_what_it_shows(runs, tmp_path, capsys):
    files = [f"csv={tmp_path / 'a.csv'}", f"latex={tmp_path / 'a.tex'}"]
    words = ["per=task", "columns=[last]", "rows=[lora]", "names={lora: LoRA}", *files]
    assert cli.main(["compare", str(runs), *words]) == 0
    out = capsys.readouterr().out
    assert "LoRA    2  50.5  50.5  50.5 ± 0.5" in out and "third" not in out
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").count("\n") == 1 + 3
    assert "LoRA & 50.5 & 50.5" in (tmp_path / "a.tex").read_text(encoding="utf-8")
    assert cli.main(["compare", str(runs), "rows=keplora"]) == 2
    assert "error: rows= has no" in capsys.readouterr().err


def test_a_damaged_matrix_is_said_below(runs):
    damaged = next(runs.rglob("lora/*-s1")) / "accuracy.csv"
    damaged.write_text("x", encoding="utf-8")
    text = shown(runs, per="task")
    assert f"note: not in tables for every task: {damaged}" in text
    change(damaged.parent, "summary.json", status="stopped")
    assert "left out:" in shown(runs, per="task")

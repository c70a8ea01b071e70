"""Tables over many runs, on run directories made here."""

import itertools
import json
import re

import numpy as np
import pytest
from scipy import stats
from support.made_records import change, make, mtil, quoted

from bench.compare import grouping, runs
from bench.compare import tables as compare
from bench.compare.published import METRICS, Row, beside, find
from bench.compare.tables import APART
from bench.config import registry
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.metrics import kinds
from bench.metrics import scalars as metrics
from bench.metrics.kinds import summary as metrics_of
from bench.metrics.matrix import AccuracyMatrix
from bench.runs.rows import others

HEADER = [
    "Method",
    "n",
    "Zero-shot",
    "Transfer",
    "Average",
    "Last",
    "Learning",
    "Backward",
    "Seconds",
    "Peak MB",
    "Stored MB",
]


def table(root, bold=False, **options):
    comparison = grouping.gather([root])
    return compare.text(comparison, compare.sections(comparison, options), bold)


def line_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r" {2,}", line.strip())


def test_mean_and_standard_error_over_seeds(tmp_path):
    for seed, last in enumerate([50, 60, 70]):
        make(tmp_path, seed=seed, last=last)
    make(tmp_path, "zero-shot", last=30)
    text = table(tmp_path)
    assert text.splitlines()[0] == "stream pocket, model pocket"
    assert line_of(text, "Method") == HEADER
    cells = dict(zip(HEADER, line_of(text, "keeplora"), strict=True))
    assert cells["n"] == "3"
    # last: 50, 60, 70 have the standard deviation 10; 10 / sqrt(3) = 5.77
    assert cells["Last"] == "60.00 ± 5.77"
    assert cells["Zero-shot"] == "30.00 ± 0.00" and cells["Transfer"] == "40.00 ± 0.00"
    # mean of (80, 40, last, last) is 30 + last / 2; the diagonal (80, last); last - 80
    assert cells["Average"] == "60.00 ± 2.89"
    assert cells["Learning"] == "70.00 ± 2.89" and cells["Backward"] == "-20.00 ± 5.77"
    assert cells["Seconds"] == "61.0 ± 0.6" and cells["Peak MB"] == "700 ± 0" and cells["Stored MB"] == "2.50 ± 0.00"
    assert line_of(text, "zero-shot")[1:5] == ["1", "30.00", "40.00", "45.00"]  # one seed: no ±
    for name in (name for name in kinds.SHOWN["learning"] if name not in kinds.NEEDS):
        assert f"{runs.TITLES[name]} = {name} = {metrics.FORMULAS[name]}" in text
    assert "left out" not in text and "note" not in text and "not comparable" not in text


LASTS = {(1, 0): 50, (1, 1): 52, (2, 0): 60, (2, 1): 64, (3, 0): 55, (3, 1): 55}
"""Last by order of tasks and seed."""


def crossed(root):
    """Make runs of two methods whose orders of tasks differ as well as their seeds."""
    for (order, seed), last in LASTS.items():
        for method, less in (("keeplora", 0), ("lora", 3 + order + seed)):
            path = make(root, method, seed=seed, last=last - less, fingerprint=f"{order:010}", seeds__task_order=order)
            change(path, "identity.json", tasks=["a", "b"][:: 1 if order % 2 else -1], seeds={"task_order": order})


def test_spread_over_orders_is_separate_from_spread_over_seeds(tmp_path):
    crossed(tmp_path)
    text = table(tmp_path, columns="last")
    means, within = np.array([51, 62, 55]), np.array([1, 1, 2, 2, 0, 0])  # of the orders; distances from these
    over = f"{means.mean():.2f} ± {stats.sem(means):.2f}"
    assert re.search(rf"^keeplora  3 orders x 2 seeds  {over}$", text, re.MULTILINE)
    assert line_of(text, "keeplora, over 3 orders")[-1] == f"{means.std(ddof=1):.2f}"
    assert line_of(text, "keeplora, over 2 seeds of an order")[-1] == f"{(within @ within / 3) ** 0.5:.2f}"
    low, high = stats.ttest_1samp([-4.5, -5.5, -6.5], 0).confidence_interval(0.95)
    assert re.search(rf"lora +Last +-5.50 +\[{low:.2f}, {high:.2f}\] +3 orders", text)
    assert "over orders: paired t interval over the orders that both have" in text


def test_the_seed_of_the_order_tells_no_rows_apart(tmp_path):
    """Beside runs over orders and seeds stand some with another rank whose orders follow their seeds."""
    crossed(tmp_path)
    for seed in (1, 2):
        path = make(tmp_path, seed=seed, fingerprint="9876543210", method__rank=4, seeds__task_order=None)
        change(path, "identity.json", tasks=["a", "b"][:: 1 if seed % 2 else -1], seeds={"task_order": seed})
    (field,) = grouping.gather([tmp_path]).fields
    known = {group.label: group for group in field.groups}
    assert set(known) == {"keeplora method.rank=8", "keeplora method.rank=4", "lora"}
    assert known["keeplora method.rank=4"].counted == "2 orders x 1 seed"
    (alone,) = grouping.gather([tmp_path], {"seeds.task_order": "1", "method": "lora"}).fields
    assert alone.groups[0].counted == "2"


def test_a_row_in_one_order_beside_others_says_so(tmp_path):
    crossed(tmp_path)
    path = make(tmp_path, "third", seeds__task_order=1)
    change(path, "identity.json", tasks=["a", "b"], seeds={"task_order": 1})
    assert line_of(table(tmp_path, columns="last"), "third  ")[:2] == ["third", "1 order x 1 seed"]


def test_what_no_seed_draws_is_a_condition(tmp_path):
    """Runs over seeds that draw their images stand beside published rows of the same tasks in the same order."""
    known = quoted()
    for seed in range(2):
        mtil(tmp_path, seed=seed)
        path = tmp_path / "mtil-order1" / "ViT-B-16" / "openai" / "keeplora" / f"0123456789-s{seed}"
        change(path, "identity.json", manifests={"DTD": str(seed)}, seeds={"task_order": seed})
    (field,) = grouping.gather([tmp_path]).fields
    assert field.conditions["order of tasks"] == list(known.tasks) and "prompts" in field.conditions
    assert runs.DATA["manifests"] not in field.conditions
    assert "published, not measured here:" in table(tmp_path)


def test_what_is_shown_to_be_ahead_is_bold(tmp_path):
    for seed, last in enumerate([60, 61, 62]):
        make(tmp_path, seed=seed, last=last)
        make(tmp_path, "lora", seed=seed, last=50 + seed / 10)
        make(tmp_path, "third", seed=seed, last=40)
    assert "\x1b" not in table(tmp_path)
    lines = {
        line.split()[0]: line for line in table(tmp_path, bold=True).splitlines() if line.startswith(("k", "l", "t"))
    }
    bold = {name: re.findall(r"\x1b\[1m *(\S+ ± \S+)\x1b\[0m", line) for name, line in lines.items()}
    # Last, half of Average and of Learning, and Backward; nothing where all are alike: zero-shot, transfer
    assert bold["keeplora"] == ["60.50 ± 0.29", "61.00 ± 0.58", "70.50 ± 0.29", "-19.00 ± 0.58"]
    assert bold["lora"] == bold["third"] == []
    plain = {name: re.sub(r"\x1b\[\d*m", "", line) for name, line in lines.items()}
    assert len({len(line) for line in plain.values()}) == 1


def test_nothing_is_bold_with_one_seed(tmp_path):
    make(tmp_path, last=60)
    make(tmp_path, "lora", last=50)
    assert "\x1b" not in table(tmp_path, bold=True)


def test_what_labels_leave_unsaid_stands_below(tmp_path):
    make(tmp_path)
    make(tmp_path, fingerprint="9876543210", **{f"method__x{n}": n for n in range(6)})
    text = table(tmp_path)
    assert (
        "  keeplora 9876543210: method.x0=0, method.x1=1, method.x2=2, method.x3=3, and 2 more (see bench diff)" in text
    )
    assert "  keeplora 0123456789: method.x0=(absent)" in text


def test_notes_and_what_tells_tables_apart(tmp_path):
    make(tmp_path)
    change(make(tmp_path, seed=1), "identity.json", code_revision="another")
    make(tmp_path, "lora", train__epochs=1)
    text = table(tmp_path)
    assert "note: 2 states of the code made these runs" in text
    for epochs in (1, 5):
        assert f"stream pocket, model pocket, train.epochs {epochs}\n" in text
    assert text.count("not comparable with other tables of this stream and model: other train.epochs\n") == 2


def test_refused_scalars_are_left_out_of_the_mean(tmp_path):
    make(tmp_path)
    path = make(tmp_path, seed=1, last=60)
    scalars = json.loads((path / "summary.json").read_text(encoding="utf-8"))["metrics"]
    change(path, "summary.json", metrics=scalars | {"last": None})
    lone = make(tmp_path, "lone")
    change(lone, "summary.json", metrics={}, stored_bytes=None)
    text = table(tmp_path)
    assert line_of(text, "keeplora")[5] == "50.00 (1)"
    assert line_of(text, "lone")[2:8] == ["-"] * 6 and line_of(text, "lone")[10] == "-"


def test_an_old_record_has_preserve_of_its_matrix(tmp_path):
    path = make(tmp_path, last=60)
    scalars = json.loads((path / "summary.json").read_text(encoding="utf-8"))["metrics"]
    change(path, "summary.json", metrics={name: value for name, value in scalars.items() if name != "preserve"})
    assert line_of(table(tmp_path, columns="[preserve,last]"), "keeplora")[2:] == ["60.00", "60.00"]
    (path / "accuracy.csv").unlink()
    assert line_of(table(tmp_path, columns="[preserve,last]"), "keeplora")[2:] == ["-", "60.00"]


def test_probes_have_a_column_where_there_are_some(tmp_path):
    path = make(tmp_path, stream__probe=["apart"])
    change(path, "identity.json", manifests={"a": "m", "b": "m", "apart": "m"})
    matrix = AccuracyMatrix(["a", "b"], {"apart": "probe"})
    for row, column in np.ndindex(3, 3):
        matrix.set(row, column, 10 + 20 * row, 100)
    matrix.to_csv(path / "accuracy.csv")
    change(path, "summary.json", metrics=metrics_of(matrix))
    head, _, row = table(tmp_path).splitlines()[1:4]
    assert head.split()[:9] == ["Method", "n", *HEADER[2:8], "Probe"] and row.split()[8] == "50.00"
    assert "  note: probes (P), test sets that no task trains on: apart" in table(tmp_path)
    assert "Probe = probe = mean_{j in P} a[T,j]" in table(tmp_path)


def test_runs_left_out_are_listed(tmp_path):
    make(tmp_path)
    path = make(tmp_path, seed=1, finished=False)
    assert f"left out:\n  {path}: unfinished: no summary.json" in table(tmp_path)


# ---------------------------------------------------------------------------------------- differences


def test_differences_stand_below_the_table(tmp_path):
    for seed, last in enumerate([50, 60, 70]):
        make(tmp_path, seed=seed, last=last)
        make(tmp_path, "lora", seed=seed, last=last - 10 + seed / 10)
        make(tmp_path, "third", seed=seed, last=last + seed)
    lines = table(tmp_path).partition("difference to keeplora (95 % interval)\n")[2].splitlines()
    low, high = stats.ttest_rel([40, 50.1, 60.2], [50, 60, 70]).confidence_interval(0.975)
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    assert cells[0] == ["lora", "Transfer", "+0.00", "no interval: recorded without outcomes"]
    assert cells[2] == ["Last", "-9.90", f"[{low:+.2f}, {high:+.2f}]", "3 seeds"]
    assert cells[5][0] == "Last" and cells[5][3:] == ["no difference shown", "3 seeds"]
    assert cells[6] == ["over seeds: paired t interval over the seeds that both have"]
    assert cells[7][0].startswith("2 methods are compared with keeplora: each interval has 97.5 %, so that all of one")
    assert "difference to third" in table(tmp_path, baseline="third")


def test_no_difference_is_taken_across_tables(tmp_path):
    make(tmp_path)
    make(tmp_path, "lora", train__epochs=1)
    assert "difference to" not in table(tmp_path)


# ------------------------------------------------------------------------------------ published numbers


def test_published_rows_stand_below_ours(tmp_path):
    known = mtil(tmp_path, last=1)
    for seed, last in enumerate([2, 3, 4], start=1):
        mtil(tmp_path, "lora", seed=seed, last=last)
        mtil(tmp_path, "third", seed=seed, last=0.9 * last - 0.8)
    make(tmp_path)
    text = table(tmp_path, bold=True)
    head, _, rest = text.partition("published, not measured here:\n")
    assert "keeplora" in head and "ZSCL" not in head
    rows, apart = rest.splitlines()[: len(known.rows) + 1], sum(row.apart for row in known.rows)
    assert rows.pop(-apart - 1) == APART and 0 < apart < len(rows)
    for line, row in zip(rows, known.rows, strict=True):
        cells = re.split(r" {2,}", line.strip())
        assert re.fullmatch(re.escape(row.method) + r" \[\d+\]", cells[0])
        values = ["-" if value is None else f"{value:.1f}" for value in map(row.value, METRICS.values())]
        assert cells[1:] == ["-", "-", *values, "-", "-", "-", "-", "-"]
    assert "\x1b" not in "".join(rows) and "\x1b[1m" in head  # ours are bold among ours, however high theirs are
    assert all(row.source in text and row.note in text for row in known.rows) and all(n in text for n in known.notes)
    assert text.count("published, not measured here:") == 1  # pocket has none
    assert "published" not in table(tmp_path, published="off")


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": ["a", "b"]},
        {"evaluate__split": "validation"},
        {"model__weights": "random"},
        {"stream__file_sha256": "another stream of that name"},
    ],
)
def test_published_rows_are_left_out_where_they_do_not_belong(tmp_path, changes):
    mtil(tmp_path, **changes)
    assert "published" not in table(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"tasks": []}', "it has no 'sources'"),
        ('{"tasks": [], "sources": {}, "rows": [{"method": "m", "source": "x"}]}', "has the unknown source x"),
        ('{"tasks": [], "sources": {"x": "X"}, "rows": [{"method": "m", "source": "x", "last": "9"}]}', "is no number"),
    ],
)
def test_damaged_published_numbers_end_no_run(toys, content, reason):
    toys.write("datasets/published/pocket.json", content)
    with pytest.raises(UserError, match=re.escape(reason)):
        find("pocket")
    line = others(resolve(["method=toy", "stream=pocket"]), ["a"])
    assert line.startswith("note: the published numbers in ") and line.endswith("with published=off")


def test_published_is_on_or_off(tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match="published=yes must be on or off"):
        table(tmp_path, published="yes")


def test_published_rows_stand_beside_runs_of_their_own_conditions(tmp_path):
    def methods(stream, **conditions):
        known = find(stream)
        space = registry.entries("stream")[stream].facts["label_space"]
        fixed = {"order of tasks": list(known.tasks), "label space": space}
        found = beside(
            stream, known.model, fixed | {key.replace("__", "."): value for key, value in conditions.items()}
        )
        return [] if found is None else [row.method for row in found.rows]

    assert "KeepLoRA" in methods("mtil-order1") and "CoLeCLIP" not in methods("mtil-order1")
    agnostic = methods("mtil-agnostic")
    assert "CoLeCLIP" in agnostic and "DPW full" in agnostic and "KeepLoRA" not in agnostic
    for stream, space in itertools.product(("mtil-order1", "mtil-agnostic"), ("seen", "all")):
        assert methods(stream, **{"label space": space}) == []
    five, sixteen = (methods("mtil-fewshot", stream__shots=shots) for shots in (5, 16))
    assert "CoDyRA" in five and "DIKI" in sixteen and set(five) & set(sixteen) == {"zero-shot", "MoE-Adapters"}
    assert methods("xtail", stream__shots=16, stream__splits="torchvision", **{"label space": "all"}) == []
    assert "CoDyRA" in methods("xtail", stream__shots=16, stream__splits="coop", **{"label space": "all"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"flags": {"extend": "yes"}}, "has a flag that is none of task_count"),
        ({"matrix": [[1.0, 2.0]]}, "has a matrix that is not 2 x 2"),
        ({"matrix": [[1.0, 2.0], [3.0, "4"]]}, "has a value that is no number"),
        ({"columns": {"last": {"c": 1.0}}}, "has columns that are none of the stream's"),
        ({"last": None}, "has no number"),
    ],
)
def test_published_rows_that_say_what_cannot_be_are_refused(toys, row, reason):
    content = {"tasks": ["a", "b"], "sources": {"x": "X"}, "rows": [{"method": "m", "source": "x"} | row]}
    toys.write("datasets/published/pocket.json", json.dumps(content))
    with pytest.raises(UserError, match=re.escape(f"pocket.json: m {reason}")):
        find("pocket")


def test_what_a_published_method_needs_and_adds_is_said_of_it():
    def remarks(flags):
        row = Row("m", "x", flags=flags, note="a note")
        return row.apart, row.remarks

    assert remarks({}) == (False, "a note")
    assert remarks({"outside_data": "captions"}) == (False, "outside data (captions); a note")
    assert remarks({"extended": "yes", "task_at_test": "yes"}) == (
        True,
        "extends the model, knows the task of a test image; a note",
    )
    assert remarks(None) == (True, "what it needs and adds is not known; a note")

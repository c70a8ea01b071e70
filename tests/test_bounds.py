"""Bounds and probes beside methods are reference lines in tables, on the page and in pictures; and the headroom."""

import csv
import io

import pytest
from support.made_records import change, make, measure

from bench.compare import grouping, per_task, pictures, ranking, significance, views
from bench.compare import tables as compare
from bench.compare.export import numbers, paper
from bench.compare.export.task_text import task_text
from bench.compare.page.content import data
from bench.compare.pictures.look import dashes
from bench.config import registry
from bench.config.scan import Entry
from bench.core.errors import UserError

FACTS = {
    "keeplora": {"baseline": "True"},
    "lora": {},
    "zero-shot": {"bound": "True"},
    "joint": {"bound": "True", "ceiling": "True", "scalars": "zero_shot, average_mtil, last"},
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two methods over three seeds, one that trains nothing, and an upper bound that is ahead of both."""
    known = {name: Entry("method", name, facts=facts) for name, facts in FACTS.items()}
    monkeypatch.setattr(registry, "entries", lambda kind: known if kind == "method" else {})
    for seed in range(3):
        make(tmp_path, "joint", seed=seed, last=90 + seed)
        make(tmp_path, "keeplora", seed=seed, last=60 + seed)
        make(tmp_path, "lora", seed=seed, last=50 + seed / 10)
    make(tmp_path, "zero-shot", last=30)
    return tmp_path


def sections(root, **options):
    return compare.sections(grouping.gather([root]), options)


def text(root, show=compare.text, **options):
    comparison = grouping.gather([root])
    return show(comparison, compare.sections(comparison, options), bold=True)


def rows(found):
    return [line for line in found.splitlines() if line.split(" ")[0] in (*FACTS, "reference")]


# ------------------------------------------------------------------------------------------------- tables


def test_bounds_stand_below_a_line_and_are_never_bold(runs):
    keeplora, lora, line, joint, untrained, *_ = rows(text(runs))
    assert line == "reference lines:"
    assert [one.split()[0] for one in (keeplora, lora, joint, untrained)] == ["keeplora", "lora", "joint", "zero-shot"]
    assert "\x1b[1m61.00 ± 0.58\x1b[0m" in keeplora and "\x1b" not in joint + untrained + lora


def test_they_stand_last_whatever_rows_are_chosen(runs):
    assert [one.split()[0] for one in rows(text(runs, rows="[joint,lora,keeplora]", columns="seconds"))] == [
        "lora", "keeplora", "reference", "joint"
    ]  # fmt: skip


def test_alone_they_are_a_table_without_a_line(runs):
    assert "reference lines" not in text(runs, rows="[joint,zero-shot]")


def test_what_means_nothing_of_a_bound_is_a_dash(runs):
    table = text(runs, columns="[transfer,last,backward,seconds]")
    (joint,) = (one for one in rows(table) if one.startswith("joint "))
    assert joint.split() == ["joint", "3", "-", "91.00", "±", "0.58", "-", "61.0", "±", "0.6"]
    (untrained,) = (one for one in rows(table) if one.startswith("zero-shot"))
    assert untrained.split()[2:4] == ["40.00", "30.00"]
    (by_task,) = sections(runs, per="task")
    transfer, _, last = by_task.per_task.tables
    at = [row.label for row in last.measured].index("joint")
    assert transfer.measured[at].tasks == [None, None] and last.measured[at].tasks[1].mean == 91


def test_of_every_task_too(runs):
    last = text(runs, task_text, per="task", columns="last")
    assert [one.split()[0] for one in rows(last)] == ["keeplora", "lora", "reference", "joint", "zero-shot"]
    keeplora, _, _, joint, _ = rows(last)
    assert "\x1b[1m61.0" in keeplora and "\x1b" not in joint


def test_in_latex_below_a_rule(runs):
    table = paper.latex(sections(runs))
    above, _, below = table.partition("\\midrule\n\\multicolumn")
    assert below.startswith("{12}{l}{reference lines:} \\\\\njoint & ") and "\nkeeplora & " in above
    assert "textbf" in above and "textbf" not in below
    assert r"\cmidrule(lr){1-4}" + "\njoint & " in paper.latex(sections(runs, per="task"))


def test_in_csv_with_a_word(runs):
    for options in ({}, {"per": "task"}):
        lines = csv.DictReader(io.StringIO(numbers.csv_text(sections(runs, **options))))
        assert {(one["method"], one["bound"]) for one in lines} == {
            ("keeplora", ""), ("lora", ""), ("joint", "yes"), ("zero-shot", "yes")
        }  # fmt: skip


def test_a_bound_is_the_baseline_only_where_it_is_named(runs):
    (field,) = grouping.gather([runs]).fields
    assert significance.against(field).baseline.label == "keeplora"
    assert significance.against(field, "joint").baseline.label == "joint"
    for group in [group for group in field.groups if group.label in ("keeplora", "lora")]:
        field.groups.remove(group)
    assert significance.against(field) is None


def test_where_a_run_stands_among_methods(runs):
    at = {name: runs / "pocket" / "pocket" / name / "0123456789-s0" for name in FACTS}
    assert "Last 61.0 (mean of 3 seeds), 1st of 2 (next: lora 50.1)" in ranking.standing(at["keeplora"])
    assert "Last 91.0 (mean of 3 seeds), a reference line (best: keeplora 61.0)" in ranking.standing(at["joint"])


def test_the_best_is_no_bound(runs):
    (field,) = grouping.gather([runs]).fields
    assert [group.label for group in ranking.best(field)["last"]] == ["keeplora"]
    assert per_task.ahead(field.groups, "last").label == "keeplora"


# ----------------------------------------------------------------------------------------------- headroom


def test_headroom_is_a_share_of_what_the_upper_bound_gains(runs):
    (field,) = grouping.gather([runs]).fields
    found = {group.label: group.values("headroom") for group in field.groups}
    assert found["keeplora"] == {seed: pytest.approx(100 * (30 + seed) / (60 + seed)) for seed in range(3)}
    assert found["joint"] == dict.fromkeys(range(3), 100) and found["zero-shot"] == {0: 0}
    table = text(runs, columns="[last,headroom]")
    assert " Headroom" in table and "headroom = 100 (last - zero_shot) / (last of the upper bound - zero_shot)" in table
    (keeplora, *_) = rows(text(runs))
    assert "50.81 ± 0.47" in keeplora


def test_without_an_upper_bound_there_is_no_headroom(runs):
    found = text(runs, columns="[last,headroom]", rows="[keeplora]")
    assert "50.81 ± 0.47" in found  # it is known where the row of the bound is not chosen
    comparison = grouping.gather([runs], {"method": "[keeplora,lora]"})
    assert "Headroom" not in compare.text(comparison, compare.sections(comparison))
    with pytest.raises(UserError, match="columns=headroom has no values by task"):
        sections(runs, per="task", columns="headroom")


def test_headroom_is_never_over_another_budget_or_other_data(runs):
    make(runs, "lora", seed=0, last=55, fingerprint="9876543210", train__epochs=1)
    make(runs, "lora", seed=7, last=55)
    short, usual = grouping.gather([runs]).fields
    assert [group.values("headroom") for group in short.groups if group.method == "lora"] == [{}]
    assert [sorted(group.values("headroom")) for group in usual.groups if group.method == "lora"] == [[0, 1, 2]]


def test_of_several_upper_bounds_the_highest_counts(runs):
    make(runs, "joint", last=95, fingerprint="9876543210", train__lr=0.1)
    (field,) = grouping.gather([runs]).fields
    (keeplora,) = (group for group in field.groups if group.label == "keeplora")
    assert keeplora.values("headroom") == {0: pytest.approx(100 * 30 / 65)}


def test_an_upper_bound_that_gains_nothing_leaves_no_headroom(tmp_path, runs):
    for seed in range(3):
        measure(runs / "pocket" / "pocket" / "joint" / f"0123456789-s{seed}", ["a", "b"], [(30, 30)] * 3)
    (field,) = grouping.gather([runs]).fields
    assert all(group.values("headroom") == {} for group in field.groups)


# --------------------------------------------------------------------------------------- page and pictures


def test_the_page_sets_bounds_apart(runs):
    (field,) = data(sections(runs))["fields"]
    assert [(group["short"], group["bound"]) for group in field["groups"]] == [
        ("keeplora", False), ("lora", False), ("joint", True), ("zero-shot", True)
    ]  # fmt: skip
    assert field["winners"]["last"] == [0] and field["ahead"]["last"] == 0 and field["fastest"] in (0, 1)
    assert field["groups"][0]["values"]["headroom"][0] == 50.8109
    (column,) = (one for one in field["columns"] if one["key"] == "headroom")
    assert column["unit"] == "%" and not column["cost"] and column["formula"].startswith("headroom = 100 (last")
    assert field["ranges"]["last"]["transfer_by_column"] == pytest.approx([30, 91 + 3**-0.5], abs=1e-3)  # of lines


def test_twelve_methods_are_drawn_and_bounds_beside_them(runs):
    for number in range(20):
        make(runs, "lora", fingerprint=f"{number}", last=10 + number, method__rank=number)
        make(runs, f"other{number}", last=20 + number)
    (view,) = views.views(sections(runs))
    shown = [view.lines[at].group.label for at in view.shown]
    assert len(shown) == views.MOST + 2 and shown[-2:] == ["joint", "zero-shot"]


def test_pictures_draw_bounds_as_dashed_lines_across(runs):
    (view,) = views.views(sections(runs))
    bounds = [line for line in view.lines if line.group.bound]
    assert all(dashes(line) != "-" and line.color == views.UNTRAINED for line in bounds)
    assert len({str(dashes(line)) for line in bounds}) == 2
    (axes,) = pictures.scatter(view).axes
    across = {line.get_label(): line for line in axes.lines if line.get_linestyle() == "--"}
    assert len(axes.containers) == 2 and set(across["joint"].get_xdata()) == {91}  # it has no Transfer
    for axes in pictures.over_costs(view).axes:
        assert len(axes.containers) == 2 and set(across["joint"].get_xdata()) == {91}
        assert {float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() != "None"} == {91, 30}
    first, *_ = pictures.curves(view).axes
    joint, untrained = (next(one for one in first.lines if one.get_label() == line.short) for line in bounds)
    assert joint.get_marker() in ("", "None") and joint.get_linestyle() != "-" != untrained.get_linestyle()


def test_curves_of_tasks_to_come_have_no_bound_whose_transfer_means_nothing(runs):
    (field,) = data(sections(runs))["fields"]
    waiting = {group["short"]: group["waiting"] for group in field["groups"]}
    assert waiting == {"keeplora": [40], "lora": [40], "joint": [None], "zero-shot": [40]}


def test_the_page_has_the_headroom_where_it_is_known(runs):
    comparison = grouping.gather([runs], {"method": "[keeplora,lora]"})
    (field,) = data(compare.sections(comparison))["fields"]
    assert "headroom" not in [one["key"] for one in field["columns"]]


def test_headroom_over_orders_and_seeds_is_run_by_run(tmp_path, runs):
    root = tmp_path / "orders"
    for order, seed in ((1, 0), (1, 1), (2, 0)):
        for method, last in (("keeplora", 60 + order), ("joint", 90 + seed)):
            path = make(root, method, seed=seed, last=last, fingerprint=f"{order:010}", seeds__task_order=order)
            change(path, "identity.json", tasks=["a", "b"][:: 1 if order == 1 else -1], seeds={"task_order": order})
    keeplora, joint = (grouping.gather([root]).fields)[0].groups[::-1]
    assert keeplora.values("headroom") == {
        1: pytest.approx((100 * 31 / 60 + 100 * 31 / 61) / 2), 2: pytest.approx(100 * 32 / 60)
    }  # fmt: skip
    assert joint.values("headroom") == {1: 100, 2: 100}


def test_a_comparison_of_bounds_alone_is_drawn(runs):
    (view,) = views.views(sections(runs, rows="[joint,zero-shot]"))
    assert pictures.scatter(view) is not None and pictures.curves(view) is not None
    (field,) = data(sections(runs, rows="[joint,zero-shot]"))["fields"]
    assert field["winners"] == {} and field["against"] is None


def test_a_record_that_is_older_has_the_role_of_its_method_today(runs):
    path = runs / "pocket" / "pocket" / "zero-shot" / "0123456789-s0"
    change(path, "identity.json", flags={})
    (field,) = grouping.gather([path]).fields
    assert field.groups[0].bound and field.runs[0].value("transfer_by_column") == 40


def test_the_registered_bounds():
    known = {name: entry.facts for name, entry in registry.entries("method").items()}
    assert {name for name, facts in known.items() if facts.get("bound") == "True"} == {
        "zero-shot", "joint", "independent", "linear-probe", "nearest-mean"
    }  # fmt: skip
    assert [name for name, facts in known.items() if facts.get("ceiling") == "True"] == ["joint"]

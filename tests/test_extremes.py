"""Winners, extremes, ratios and ranges of what is drawn."""

import math
import statistics

import pytest
from support.made_records import change, make, measure, mtil

from bench.compare import extremes, grouping, runs, tables, views

TASKS = ["a", "b", "c"]


def view(root, **options):
    (found,) = views.views(tables.sections(grouping.gather([root]), options))
    return found


def line(root, method):
    (found,) = (one for one in view(root).lines if one.group.method == method)
    return found


def names(found, indices):
    return [found.lines[index].group.method for index in indices]


def shorts(found, indices):
    return [found.lines[index].short for index in indices]


# ------------------------------------------------------------------------------------------------ winners


def test_winners_have_the_highest_mean_as_it_is_printed(tmp_path):
    make(tmp_path, "keeplora", last=60)
    make(tmp_path, "lora", last=50)
    other = make(tmp_path, "third", last=60)
    scalars = {"zero_shot": 30.0, "last": 60.004, "average_mtil": 60.0, "transfer_by_column": 40.0}
    change(other, "summary.json", metrics=scalars)
    found = view(tmp_path)
    assert list(extremes.winners(found)) == ["last", "average_mtil", "transfer_by_column"]
    assert names(found, extremes.winners(found)["last"]) == ["keeplora", "third"]
    assert extremes.winners(found)["transfer_by_column"] == []  # all have the same


def test_the_only_one_with_a_value_wins_and_what_none_has_is_left_out(tmp_path):
    change(make(tmp_path, "lora"), "summary.json", metrics={"last": None, "average_mtil": None})
    change(make(tmp_path, "keeplora"), "summary.json", metrics={"last": 5.0, "average_mtil": None})
    found = view(tmp_path)
    assert {name: names(found, won) for name, won in extremes.winners(found).items()} == {"last": ["keeplora"]}


def test_the_fastest_is_one_that_trains(tmp_path):
    for method, seconds in {"zero-shot": 1.0, "keeplora": 20.0, "lora": 10.0, "untimed": None}.items():
        change(make(tmp_path, method), "summary.json", seconds={"total": seconds})
    found = view(tmp_path)
    assert names(found, [extremes.fastest(found)]) == ["lora"]


def test_where_nothing_trains_nothing_is_fastest(tmp_path):
    make(tmp_path, "zero-shot")
    assert extremes.fastest(view(tmp_path)) is None


# ------------------------------------------------------------------------------------------------- ranges


def test_accuracies_lie_between_those_of_all_matrices(tmp_path):
    measure(make(tmp_path), ["a", "b"], [[30, None], [80, 41], [70, 90]])
    measure(make(tmp_path, "lora"), ["a", "b"], [[12, 40], [None, 41], [70, 60]])
    (make(tmp_path, "third") / "accuracy.csv").unlink()
    assert extremes.accuracies(view(tmp_path)) == (12, 90)


def test_without_matrices_there_is_no_range(tmp_path):
    (make(tmp_path) / "accuracy.csv").unlink()
    found = view(tmp_path)
    assert extremes.accuracies(found) is None and extremes.spans(found.lines[0]) == []


def test_curves_lie_in_their_spans(tmp_path):
    rows = [[[30, 40], [80, None], [70, 90]], [[36, 40], [90, None], [50, 70]]]
    for seed, matrix in enumerate(rows):
        measure(make(tmp_path, seed=seed), ["a", "b"], matrix)
    mean, first, second, waiting = extremes.spans(line(tmp_path, "keeplora"))
    assert mean == (70, 85)  # (70 + 90 + 50 + 70) / 4 and (80 + 90) / 2, without errors
    error = [statistics.stdev(values) / 2**0.5 for values in ([30, 36], [80, 90])]
    assert first == pytest.approx((33 - error[0], 85 + error[1]))
    assert second == pytest.approx((40, 80 + statistics.stdev([90, 70]) / 2**0.5)) and waiting is None


def test_a_curve_that_nobody_measured_has_no_span(tmp_path):
    measure(make(tmp_path), ["a", "b"], [[30, None], [80, None], [70, None]])
    assert extremes.spans(line(tmp_path, "keeplora")) == [(70, 80), (30, 80), None, None]


def test_ranges_are_over_what_has_both_columns(tmp_path):
    for seed, last in enumerate([50, 60]):
        make(tmp_path, seed=seed, last=last)
    change(make(tmp_path, "lora"), "summary.json", metrics={"last": 20.0, "learning": 90.0})
    found = extremes.ranges(view(tmp_path))
    error = statistics.stdev([50, 60]) / 2**0.5
    assert found["last"]["last"] == pytest.approx((20, 55 + error))
    assert found["last"]["transfer_by_column"] == pytest.approx((55 - error, 55 + error))  # lora has no Transfer
    assert found["learning"]["last"] == pytest.approx((67.5 - error / 2, 90))


def test_published_numbers_are_in_the_ranges(tmp_path):
    known = mtil(tmp_path, last=1)
    found = extremes.ranges(view(tmp_path))
    both = [row.value("last") for row in known.rows if {"last", "transfer_by_column"} <= set(row.values)]
    assert found["last"]["transfer_by_column"] == (1, max(both))
    assert found["last"]["seconds"] == (1, 1)  # no paper has seconds


def test_two_columns_that_nothing_has_both_have_no_range(tmp_path):
    change(make(tmp_path, "keeplora"), "summary.json", metrics={"last": 20.0})
    change(make(tmp_path, "lora"), "summary.json", metrics={"learning": 90.0})
    assert extremes.ranges(view(tmp_path))["last"]["learning"] is None


# ---------------------------------------------------------------------------------------------- contrasts


def test_a_contrast_names_the_largest_gain_and_the_largest_loss_after_the_last_task(tmp_path):
    measure(make(tmp_path), TASKS, [[9, 9, 9], [20, 20, 20], [30, 30, 30], [50, 60, 70]])
    measure(make(tmp_path, "lora"), TASKS, [[9, 9, 9], [20, 20, 20], [30, 30, 10], [52, 55, 73.5]])
    found = extremes.contrast(line(tmp_path, "lora"), line(tmp_path, "keeplora"))
    assert found.gain == (2, pytest.approx(3.5)) and found.loss == (1, pytest.approx(-5))
    assert found.reach == pytest.approx(20)  # in the row before
    assert found.differences["last"] == pytest.approx((2 - 5 + 3.5) / 3)
    assert set(found.differences) == {"transfer_by_column", "average_mtil", "last"}
    back = extremes.contrast(line(tmp_path, "keeplora"), line(tmp_path, "lora"))
    assert (back.gain, back.loss) == ((1, pytest.approx(5)), (2, pytest.approx(-3.5)))


def test_changes_that_are_printed_as_nothing_are_not_named(tmp_path):
    measure(make(tmp_path), ["a", "b"], [[30, 40], [80, 41], [70, 90]])
    lora = make(tmp_path, "lora")
    measure(lora, ["a", "b"], [[30, 40], [80, 41], [70, 90]])
    found = extremes.contrast(line(tmp_path, "lora"), line(tmp_path, "keeplora"))
    assert (found.gain, found.loss, found.reach) == (None, None, 0)
    measure(lora, ["a", "b"], [[30, 40], [80, 41], [None, 90.1]])
    found = extremes.contrast(line(tmp_path, "lora"), line(tmp_path, "keeplora"))
    assert found.gain == (1, pytest.approx(0.1)) and found.loss is None


def test_ratios_are_of_means_over_seeds(tmp_path):
    for seed in (0, 1):
        change(make(tmp_path, seed=seed), "summary.json", seconds={"total": 10.0 + 10 * seed}, peak_memory_mb=0)
        change(make(tmp_path, "lora", seed=seed), "summary.json", seconds={"total": 45.0}, peak_memory_mb=100)
    found = extremes.contrast(line(tmp_path, "lora"), line(tmp_path, "keeplora"))
    assert found.ratios == {"seconds": 3.0}  # nothing is divided by zero


def test_without_a_matrix_or_a_common_cell_there_is_no_reach(tmp_path):
    measure(make(tmp_path), ["a", "b"], [[30, None], [80, None], [70, None]])
    measure(make(tmp_path, "lora"), ["a", "b"], [[None, 30], [None, 80], [None, 70]])
    change(make(tmp_path, "third"), "summary.json", metrics={})
    (tmp_path / "pocket/pocket/third/0123456789-s0/accuracy.csv").unlink()
    base = line(tmp_path, "keeplora")
    for method in ("lora", "third"):
        found = extremes.contrast(line(tmp_path, method), base)
        assert (found.gain, found.loss, found.reach, found.differences) == (None, None, None, {})


def test_of_many_groups_only_some_may_be_a_baseline(tmp_path, monkeypatch):
    monkeypatch.setattr(extremes, "BASELINES", 14)
    for number in range(13):
        make(tmp_path, fingerprint=f"k{number}", method__rank=number, last=40 + number)
    make(tmp_path, "lora")
    assert extremes.baselines(view(tmp_path)) == list(range(14))
    make(tmp_path, "third")
    found = view(tmp_path)
    assert shorts(found, found.shown) == ["keeplora rank=12", "lora", "third"]
    assert shorts(found, [found.baseline]) == ["keeplora rank=0"]
    assert shorts(found, extremes.baselines(found)) == ["keeplora rank=0", "keeplora rank=12", "lora", "third"]


# ------------------------------------------------------------------------------------------ settings tried


def test_only_methods_with_several_settings_were_tried(tmp_path):
    for number, (rank, alpha) in enumerate([(2, 0.5), (4, 0.5), (8, 1.0)]):
        make(tmp_path, fingerprint=f"{number}", method__alpha=alpha, method__rank=rank)
    make(tmp_path, "lora")
    (found,) = extremes.tried(view(tmp_path))
    assert found.method == "keeplora" and found.lines == [0, 1, 2]
    assert list(found.rulers) == ["method.alpha", "method.rank"] and found.widest == ["method.rank", "method.alpha"]


def test_the_best_and_the_best_tenth(tmp_path):
    for number in range(11):
        path = make(tmp_path, fingerprint=f"{number}", method__rank=number, last=40 + number * 7 % 11)
        change(path, "summary.json", seconds={"total": 100.0 + number})
    found = view(tmp_path)
    (tried,) = extremes.tried(found)
    lasts = [one.values["last"].mean for one in found.lines]
    top = tried.tops["last"]
    assert [lasts[index] for index in (top.best, *top.tenth)] == [50, 50, 49] and (top.low, top.high) == (40, 50)
    assert tried.tops["seconds"].best == 0  # the lowest cost is the best
    assert (tried.tops["seconds"].low, tried.tops["seconds"].high) == (100, 110)


def test_settings_without_a_value_are_not_among_the_tops(tmp_path):
    change(make(tmp_path, fingerprint="0", method__rank=2), "summary.json", metrics={"last": 5.0})
    change(make(tmp_path, fingerprint="1", method__rank=4), "summary.json", metrics={"learning": 6.0})
    (tried,) = extremes.tried(view(tmp_path))
    assert (tried.tops["last"].best, tried.tops["learning"].best) == (0, 1) and "zero_shot" not in tried.tops


def test_numbers_lie_where_they_are():
    found = extremes.ruler(["16", "4", "16", runs.ABSENT, "8"])
    assert found == extremes.Ruler(["4", "8", "16"], [4, 8, 16], numeric=True, log=False)


def test_numbers_of_several_sizes_lie_at_their_logarithm():
    found = extremes.ruler(["0.1", "0.001", "1e-2"])
    assert found.values == ["0.001", "1e-2", "0.1"] and found.log
    assert found.positions == pytest.approx([-3, -2, -1])
    assert extremes.ruler(["1", "8", "2"]).log and not extremes.ruler(["1", "7.9", "2"]).log
    assert not extremes.ruler(["1", "800"]).log  # two points have no shape
    assert not extremes.ruler(["0", "1", "800"]).log


@pytest.mark.parametrize("words", [["b", "a", "10"], ["1", "nan"], ["1", "inf", "2"], ["[q,v]", runs.ABSENT]])
def test_words_lie_one_by_one_as_they_come(words):
    found = extremes.ruler(words)
    assert found == extremes.Ruler(words, [float(number) for number in range(len(words))], numeric=False, log=False)


def test_positions_are_finite():
    assert all(map(math.isfinite, extremes.ruler(["1e-300", "1", "1e300"]).positions))

"""What pictures of a comparison are drawn from."""

import statistics

import numpy as np
import pytest
from support.made_records import change, learn, make, measure

from bench.compare import extremes, grouping, views
from bench.compare import tables as compare


def view(root):
    (found,) = views.views(compare.sections(grouping.gather([root])))
    return found


def test_matrices_are_means_over_the_seeds_that_measured_a_cell(tmp_path):
    rows = [[[30, 40], [80, 41], [70, 90]], [[32, 40], [84, 43], [75, None]], [[37, 40], [81, None], [71, None]]]
    for seed, matrix in enumerate(rows):
        measure(make(tmp_path, seed=seed), ["a", "b"], matrix)
    found = view(tmp_path)
    (line,) = found.lines
    assert found.tasks == ["a", "b"] and found.states == ["zero-shot", "a", "b"]
    for row in range(3):
        for column in range(2):
            known = [matrix[row][column] for matrix in rows if matrix[row][column] is not None]
            assert line.mean[row, column] == pytest.approx(statistics.mean(known))
            if len(known) > 1:
                assert line.error[row, column] == pytest.approx(statistics.stdev(known) / len(known) ** 0.5)
            else:
                assert np.isnan(line.error[row, column])


def test_a_cell_that_nobody_measured_is_missing(tmp_path):
    for seed in (0, 1):
        measure(make(tmp_path, seed=seed), ["a", "b"], [[30, None], [80, None], [70, 90]])
    (line,) = view(tmp_path).lines
    assert np.isnan(line.mean).tolist() == [[False, True], [False, True], [False, False]]


def test_a_matrix_without_any_cell_is_none(tmp_path):
    measure(make(tmp_path), ["a", "b"], [[None, None]] * 3)
    (line,) = view(tmp_path).lines
    assert line.mean is None and line.error is None


def test_values_are_in_the_units_of_the_table(tmp_path):
    for seed in (0, 1):
        path = make(tmp_path, seed=seed, last=50 + 10 * seed)
        change(path, "summary.json", seconds={"total": 100.0 + seed, "train": 60.0 + seed, "load": 30.0})
    (line,) = view(tmp_path).lines
    assert line.values["last"].mean == 55 and line.values["last"].standard_error == pytest.approx(5)
    assert line.values["stored_bytes"].mean == 2.5
    assert line.phases == {"train": 60.5, "load": 30.0, "other": 10.0}


def test_the_mean_of_the_tasks_learned_so_far(tmp_path):
    measure(make(tmp_path), ["a", "b", "c"], [[1, 2, 3], [None, 5, 6], [70, 90, 7], [60, None, 80]])
    (line,) = view(tmp_path).lines
    assert np.isnan(line.learned[0]) and line.learned[1:] == [80, 70]
    (tmp_path / "pocket/pocket/keeplora/0123456789-s0/accuracy.csv").unlink()
    assert view(tmp_path).lines[0].learned == []


def test_the_training_loss_is_a_mean_over_the_seeds_that_made_a_pass(tmp_path):
    for seed, losses in enumerate([[[4.0, 2.0], [3.0]], [[5.0, 3.0, 1.0], [2.0]]]):
        learn(make(tmp_path, seed=seed), losses)
    make(tmp_path, "zero-shot")
    line, other = view(tmp_path).lines
    assert [[one.mean for one in task] for task in line.losses] == [[4.5, 2.5, 1.0], [2.5]]
    assert [one.standard_error for one in line.losses[0]] == [pytest.approx(0.5), pytest.approx(0.5), None]
    assert other.losses == []


def test_losses_that_are_no_numbers_are_left_out_and_damaged_lines_named(tmp_path):
    path = make(tmp_path)
    learn(path, [["x", None, [], 1e300, 2.0], [float("inf")]])
    assert [[one.mean for one in task] for task in view(tmp_path).lines[0].losses] == [[2.0], []]
    (path / "metrics.jsonl").write_text("{\n")
    found = view(tmp_path)
    assert found.lines[0].losses == [] and "metrics.jsonl, line 1 is damaged" in found.notes[0]


def test_the_baseline_is_that_of_the_statistics(tmp_path):
    make(tmp_path, "keeplora")
    assert view(tmp_path).baseline is None
    make(tmp_path, "another")
    found = view(tmp_path)
    assert found.lines[found.baseline].group.method == "keeplora"


def test_a_method_has_one_colour_everywhere(tmp_path):
    for epochs in (1, 5):
        for method in ("zero-shot", "keeplora", "lora"):
            make(tmp_path, method, fingerprint=f"{method[:1]}{epochs}", train__epochs=epochs)
    make(tmp_path, "another", fingerprint="a1", train__epochs=1)
    fields = views.views(compare.sections(grouping.gather([tmp_path])))
    colors = [{line.group.method: line.color for line in found.lines} for found in fields]
    assert len(fields) == 2 and all(color == colors[0][method] for method, color in colors[1].items())
    assert len(set(colors[0].values())) == 4 and colors[0]["zero-shot"] == views.UNTRAINED


def test_groups_of_one_colour_have_other_markers_and_lie_in_the_order_of_their_settings(tmp_path):
    for number, rank in enumerate([16, 2, 8]):
        make(tmp_path, fingerprint=f"{number}", method__rank=rank)
    for number in range(len(views.PALETTE)):
        make(tmp_path, f"m{number}")
    lines = view(tmp_path).lines
    assert [line.short for line in lines if line.group.method == "keeplora"] == [
        "keeplora rank=2", "keeplora rank=8", "keeplora rank=16",
    ]  # fmt: skip
    looks = [(line.color, line.variant) for line in lines]
    assert len(set(looks)) == len(looks) == 3 + len(views.PALETTE)  # though one colour had to be used twice


def test_labels_are_short_and_tell_groups_apart(tmp_path):
    make(tmp_path, fingerprint="0", train__lr=0.00010117056341002269)
    make(tmp_path, fingerprint="1", train__lr=0.00010117056341002270 * (1 + 1e-9))
    labels = [line.short for line in view(tmp_path).lines]
    assert len(set(labels)) == 2 and all("train.lr=0.000101170563" in label for label in labels)  # not four digits
    make(tmp_path, fingerprint="2", train__lr=0.5, method__x=1, method__y="[a,b]")
    (last,) = (line for line in view(tmp_path).lines if line.group.fingerprint == "2")
    assert last.short == last.group.label and views.short_settings(last.group) == "x=1 y=[a,b] lr=0.5"


def test_a_label_keeps_the_part_of_a_setting_that_tells_it_apart(tmp_path):
    for number, energy in enumerate((0.5, 0.9)):
        make(tmp_path, fingerprint=f"f{number}", **{"method.weight_energy.image": energy})
    assert [line.short for line in view(tmp_path).lines] == [f"keeplora weight_energy.image={e}" for e in (0.5, 0.9)]
    assert views.short_names(["train.lr", "method.lr", "method.rank", "plain"]) == {
        "train.lr": "train.lr", "method.lr": "method.lr", "method.rank": "rank", "plain": "plain",
    }  # fmt: skip


def test_of_many_groups_the_best_of_each_method_are_shown(tmp_path):
    for number in range(views.MOST):
        make(tmp_path, fingerprint=f"{number}", method__rank=number, last=40 + number % 5)
    assert view(tmp_path).shown == list(range(views.MOST))
    make(tmp_path, "lora", last=10)
    found = view(tmp_path)
    assert [(found.lines[at].group.method, found.lines[at].values["last"].mean) for at in found.shown] == [
        ("keeplora", 44), ("lora", 10),
    ]  # fmt: skip


def test_of_25_methods_those_drawn_as_lines_share_colours_last(tmp_path):
    for number in range(25):
        make(tmp_path, f"m{number:02}", fingerprint=f"{number}", last=40 + (7 * number) % 25)
    found = view(tmp_path)
    looks = [(line.color, line.variant) for line in found.lines]
    assert len(set(looks)) == 25 and len(found.shown) == views.MOST
    first = [looks[at] for at in found.shown]
    assert [color for color, _ in first] == [*views.PALETTE, *views.PALETTE][: views.MOST]
    assert [variant for _, variant in first] == [number // len(views.PALETTE) for number in range(views.MOST)]


def test_the_best_are_those_of_the_table(tmp_path):
    make(tmp_path, "lora", last=70)
    make(tmp_path, "keeplora", last=60)
    found = view(tmp_path)
    assert [found.lines[at].short for at in found.best["last"]] == ["lora"] and found.best["zero_shot"] == []


def test_tasks_that_every_seed_draws_are_counted(tmp_path):
    for seed in (0, 1):
        path = make(tmp_path, seed=seed)
        measure(path, ["b", "a"] if seed else ["a", "b"], [[30, 40], [80, 41], [70, 90]])
        change(path, "identity.json", seeds={"task_order": seed})
    found = view(tmp_path)
    assert found.tasks == ["task 1", "task 2"] and found.lines[0].mean[1].tolist() == [80, 41]


def test_a_damaged_matrix_is_reported_and_left_out(tmp_path):
    (make(tmp_path) / "accuracy.csv").write_text("nonsense")
    make(tmp_path, "lora")
    found = view(tmp_path)
    assert [line.mean is None for line in found.lines] == [True, False]
    assert len(found.notes) == 1 and "accuracy.csv, line 1" in found.notes[0]


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("color", [*views.PALETTE, views.UNTRAINED])
@pytest.mark.parametrize("paper", ["#ffffff", "#15181d"])
def test_colours_are_seen_on_light_and_dark_paper(color, paper):
    """The contrast ratio of WCAG, section 1.4.3."""
    high, low = sorted([luminance(color), luminance(paper)], reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 2


def test_transfer_as_a_curve(tmp_path):
    measure(make(tmp_path), ["a", "b", "c"], [[10, 20, 30], [80, 40, 20], [90, 90, None], [70, 50, 99]])
    measure(make(tmp_path, "lora"), ["a", "b", "c"], [[10, 20, 30], [80, 41, 20], [90, 90, 10], [70, 50, 99]])
    found = view(tmp_path)
    assert [line.waiting for line in found.lines] == [[30, pytest.approx(np.nan, nan_ok=True)], [30.5, 10]]
    assert extremes.spans(found.lines[1])[-1] == (10, 30.5)


def test_matrices_of_several_orders_are_means_over_orders(tmp_path):
    """Of two orders one has two seeds: each order counts once."""
    for order, seed, first in ((1, 0, 80), (1, 1, 84), (2, 0, 70)):
        path = make(tmp_path, seed=seed, fingerprint=f"{order:010}", seeds__task_order=order)
        measure(path, ["a", "b"][:: 1 if order == 1 else -1], [[30, 40], [first, 41], [70, 90]])
        change(path, "identity.json", seeds={"task_order": order})
    (line,) = view(tmp_path).lines
    assert line.mean[1, 0] == (82 + 70) / 2 and line.error[1, 0] == pytest.approx((82 - 70) / 2)

"""Differences between methods: against SciPy, against definitions written separately, and what is refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.made_records import change, make, opened_below

from bench.compare import grouping, significance
from bench.config import registry
from bench.config.scan import Entry
from bench.core.errors import UserError
from bench.metrics import kinds
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.metrics.weights import Shape, weights_of
from bench.record.json_file import read_object

TASKS, IMAGES = ["a", "b", "c"], [60, 110, 35]


def answered(root, method, chance, seed=0, **changes):
    """Make a run of three tasks whose images are answered correctly by chance; return its outcomes [row][column]."""
    path = make(root, method, seed=seed, **changes)
    rng = np.random.default_rng([seed, round(1000 * chance), len(method)])
    matrix, outcomes = AccuracyMatrix(TASKS), Outcomes(TASKS)
    right = [[rng.random(n) < chance for n in IMAGES] for _ in range(4)]
    for row, column in itertools.product(range(4), range(3)):
        outcomes.set(row, column, right[row][column])
        matrix.set(row, column, int(right[row][column].sum()), IMAGES[column])
    matrix.to_csv(path / "accuracy.csv")
    (path / "outcomes.csv").write_text(outcomes.csv(), encoding="utf-8")
    change(path, "identity.json", tasks=TASKS)
    change(path, "summary.json", metrics=kinds.summary(matrix))
    return right


def field_of(root):
    (field,) = grouping.gather([root]).fields
    return field


def scores(right):
    """What every image adds to a scalar: the definitions of docs/metrics.md, image by image; [scalar][column]."""
    percent = [[100.0 * np.asarray(cell) for cell in row] for row in right]
    zero = [np.zeros(n) for n in IMAGES]
    return {
        "transfer_by_column": [zero[0], percent[1][1] / 2, (percent[1][2] + percent[2][2]) / 2 / 2],
        "average_mtil": [sum(percent[row][column] for row in (1, 2, 3)) / 9 for column in range(3)],
        "last": [percent[3][column] / 3 for column in range(3)],
    }


# ------------------------------------------------------------------------------------------- over images


@pytest.mark.parametrize("scalar", significance.COMPARED["learning"])
def test_one_seed_is_a_paired_bootstrap_within_every_test_set(tmp_path, scalar):
    a, b = answered(tmp_path, "keeplora", 0.7), answered(tmp_path, "lora", 0.6)
    found = significance.against(field_of(tmp_path))
    assert found.baseline.method == "keeplora" and found.level == 0.95
    ((group, differences),) = found.rows
    one = next(one for one in differences if one.scalar == scalar)
    gaps = [second - first for first, second in zip(scores(a)[scalar], scores(b)[scalar], strict=True)]
    assert group.label == "lora" and one.mean == pytest.approx(sum(gap.mean() for gap in gaps))
    used = sum(IMAGES[1:]) if scalar == "transfer_by_column" else sum(IMAGES)
    assert one.over == f"{used} images of seed 0"

    def statistic(*samples, axis):
        return sum(sample.mean(axis=axis) for sample in samples)

    theirs = stats.bootstrap(gaps, statistic, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    # percentiles of 9999 draws are off by a few hundredths of the interval
    assert [one.low, one.high] == pytest.approx(list(theirs), abs=0.04 * (theirs.high - theirs.low))


def test_contributions_are_those_of_the_definitions(tmp_path):
    a, b = answered(tmp_path, "keeplora", 0.7), answered(tmp_path, "lora", 0.6)
    first, second = (next(iter(group.runs.values())) for group in field_of(tmp_path).groups)
    for scalar in significance.COMPARED["learning"]:
        gaps = [x - y for x, y in zip(scores(a)[scalar], scores(b)[scalar], strict=True)]
        found = significance.image_by_image(first, second, scalar)
        if scalar == "transfer_by_column":
            gaps = gaps[1:]  # the first test set is not read
        for ours, theirs in zip(found, gaps, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=40), min_size=1, max_size=3))
def test_the_interval_over_images_is_centred_and_turns_round(samples):
    arrays = [np.array(sample, dtype=float) for sample in samples]
    low, high = significance.over_images(arrays, 0.95)
    back = significance.over_images([-array for array in arrays], 0.95)
    assert back == pytest.approx((-high, -low))
    assert (low + high) / 2 == pytest.approx(sum(array.mean() for array in arrays))
    wide = significance.over_images(arrays, 0.99)
    assert wide[0] <= low and high <= wide[1]


def test_the_variance_is_that_of_resampling():
    """All draws of two images out of two and of three out of three, each as often as any other."""
    samples = [np.array([0.0, 4.0]), np.array([1.0, 1.0, 7.0])]
    draws = [[np.mean(draw) for draw in itertools.product(sample, repeat=len(sample))] for sample in samples]
    sums = [sum(pair) for pair in itertools.product(*draws)]
    low, high = significance.over_images(samples, 0.95)
    half = 1.959963985 * np.std(sums)
    assert (low, high) == pytest.approx((np.mean(sums) - half, np.mean(sums) + half))


def test_weights_are_read_off_the_scalar():
    weights = weights_of("transfer_by_column", Shape(3))
    np.testing.assert_allclose(weights, [[0, 0, 0], [0, 0.5, 0.25], [0, 0, 0.25], [0, 0, 0]])
    last = weights_of("last", Shape(2, frozenset({(0, 0), (0, 1), (1, 1)})))
    np.testing.assert_allclose(last, [[0, 0], [0, 0], [0.5, 0.5]])


# --------------------------------------------------------------------------------------------- over seeds


def test_several_seeds_are_a_paired_t_interval(tmp_path):
    ours, theirs = [50, 60, 70, 65], [45, 58, 61, 64]
    for seed, (last, other) in enumerate(zip(ours, theirs, strict=True)):
        make(tmp_path, seed=seed, last=last)
        make(tmp_path, "lora", seed=seed, last=other)
    make(tmp_path, "lora", seed=9, last=1)  # of no pair
    ((_, differences),) = significance.against(field_of(tmp_path)).rows
    last = differences[2]
    low, high = stats.ttest_rel(theirs, ours).confidence_interval(0.95)
    assert (last.mean, last.low, last.high) == pytest.approx((-4.25, low, high)) and last.over == "4 seeds"
    # by hand: differences -5 -2 -9 -1, mean -4.25, squares sum to 38.75; t(3) at 97.5 % is 3.18245
    half = 3.18245 * (38.75 / 3 / 4) ** 0.5
    assert (low, high) == pytest.approx((-4.25 - half, -4.25 + half), abs=1e-4) and not last.shown
    assert differences[0].mean == 0  # transfer is the same in all: no spread over seeds
    assert differences[0].low is None and differences[0].over == "no interval: recorded without outcomes"


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_swapping_methods_flips_signs(tmp_path, seeds):
    for seed in seeds:
        answered(tmp_path, "keeplora", 0.7, seed)
        answered(tmp_path, "lora", 0.6, seed)
    field = field_of(tmp_path)
    (_, there), (_, back) = (significance.against(field, name).rows[0] for name in ("keeplora", "lora"))
    for one, other in zip(there, back, strict=True):
        assert one.mean == pytest.approx(-other.mean) and one.over == other.over
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_seeds_that_all_agree_leave_the_images(tmp_path):
    for seed in (0, 1):
        for method, chance in (("zero-shot", 0.5), ("keeplora", 0.7)):
            answered(tmp_path, method, chance, seed)
    field = field_of(tmp_path)
    for group in field.groups:  # every seed like seed 0
        for run in group.runs.values():
            run.summary.metrics.update(group.runs[0].summary.metrics)
    ((_, differences),) = significance.against(field).rows
    assert all(one.over.endswith("images of seed 0") for one in differences)


def test_several_methods_have_wider_intervals(tmp_path):
    for seed, last in enumerate([50, 60, 70]):
        for method, step in (("keeplora", 0), ("lora", seed), ("third", 2 * seed)):
            make(tmp_path, method, seed=seed, last=last + step)
    found = significance.against(field_of(tmp_path))
    assert found.level == pytest.approx(1 - 0.05 / 2)  # Bonferroni over two methods
    low, high = stats.ttest_rel([50, 61, 72], [50, 60, 70]).confidence_interval(0.975)
    assert [(one.low, one.high) for one in found.rows[0][1][2:]] == [pytest.approx((low, high))]


# -------------------------------------------------------------------------------------- what is compared


def test_the_baseline(tmp_path):
    for method in ("a-constant", "lora", "third"):
        make(tmp_path, method)
    change(next(tmp_path.glob("*/*/a-constant/*")), "summary.json", trainable_parameters=0)
    assert significance.against(field_of(tmp_path)).baseline.label == "lora"  # the first that trains
    make(tmp_path, train__lr=0.5)
    path = make(tmp_path, fingerprint="9876543210")
    own = {"train.lr": {"value": 0.7, "source": "user"}}
    change(path, "identity.json", settings=read_object(path / "identity.json")["settings"] | own)
    field = field_of(tmp_path)
    assert significance.against(field).baseline.label == "keeplora train.lr=0.5"  # which no user chose
    for name in ("9876543210", "keeplora train.lr=0.7"):
        assert significance.against(field, name).baseline.fingerprint == "9876543210"
    assert significance.against(field, "elsewhere") is None
    significance.check_baseline([field], "third")
    with pytest.raises(UserError, match='baseline=thrd is none of the methods here .did you mean "third"'):
        significance.check_baseline([field], "thrd")


def test_one_method_of_each_kind_says_that_others_are_compared_with_it():
    """Their relatives, which inherit from them, do not."""
    marked = {name for name, entry in registry.entries("method").items() if "baseline" in entry.facts}
    assert marked == {"keeplora", "gs-lora"}


def test_a_plug_in_may_be_the_baseline(tmp_path, monkeypatch):
    for method in ("keeplora", "mine", "theirs"):
        make(tmp_path, method)
    known = {name: Entry("method", name, facts={"baseline": "True"}) for name in ("theirs", "mine")}
    known["keeplora"] = Entry("method", "keeplora", facts={"baseline": "False"})
    monkeypatch.setattr(registry, "entries", lambda kind: known)
    assert significance.against(field_of(tmp_path)).baseline.label == "mine"  # the first by name
    known["mine"] = known["theirs"] = Entry("method", "other")
    assert significance.against(field_of(tmp_path)).baseline.label == "keeplora"  # the first that trains


def test_a_method_alone_is_compared_with_nothing(tmp_path):
    make(tmp_path)
    assert significance.against(field_of(tmp_path)) is None


def test_runs_of_other_data_or_seeds_are_no_pairs(tmp_path):
    for seed, order in enumerate((["a", "b"], ["b", "a"])):
        for method in ("keeplora", "lora"):
            path = make(tmp_path, method, seed=seed, last=50 + seed)
            change(path, "identity.json", tasks=order, seeds={"task_order": seed})
    keeplora, lora = field_of(tmp_path).groups
    lora.runs = {0: lora.runs[1], 2: lora.runs[0]}  # as if seeds.task_order had been given
    assert significance.difference(lora, keeplora, "last").over == "no seed in common"


def test_every_file_of_a_run_is_read_once(tmp_path, monkeypatch):
    for method in ("keeplora", "lora", "third"):
        answered(tmp_path, method, 0.6)
    seen = opened_below(tmp_path, monkeypatch)
    assert significance.against(field_of(tmp_path)).rows[1][1][2].low is not None
    assert sorted(seen) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_refused_scalars_and_damage_have_no_interval(tmp_path):
    for method, chance in (("keeplora", 0.7), ("lora", 0.6)):
        answered(tmp_path, method, chance)
    field = field_of(tmp_path)
    lora = field.groups[1]
    lora.runs[0].summary.metrics["transfer_by_column"] = None
    (path,) = tmp_path.glob("*/*/lora/*")
    (path / "outcomes.csv").write_text("row", encoding="utf-8")
    transfer, average, _ = significance.against(field).rows[0][1]
    assert (transfer.mean, transfer.low, transfer.over) == (None, None, "not defined here")
    assert average.mean is not None and average.low is None
    assert average.over.startswith(f"no interval: {path / 'outcomes.csv'}, line 1: expected the header")
    assert not average.shown

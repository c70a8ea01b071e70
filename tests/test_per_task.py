"""Transfer, Average and Last of every task: against definitions written here, and what stands in bold."""

import numpy as np
import pytest
from scipy import stats
from support.made_records import change, make, measure, mtil

from bench.compare import tables
from bench.compare.grouping import gather
from bench.compare.per_task import ahead, per_task
from bench.compare.significance import difference
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes

TASKS = ["apples", "pears", "plums"]


def measured(root, method, seeds, tasks=TASKS, best=90):
    """Make a run for each seed with accuracies drawn for it; return them as [seed][row][column]."""
    made = []
    for seed in seeds:
        rng = np.random.default_rng([seed, len(method)])
        rows = rng.integers(200, 10 * best, (len(tasks) + 1, len(tasks))) / 10
        measure(make(root, method, seed=seed), tasks, rows.tolist())
        made.append(rows)
    return made


def field_of(root):
    (field,) = gather([root]).fields
    return field


def defined(rows):
    """The values of docs/metrics.md for every task and over tasks, from a matrix with row 0: [metric][task + 1]."""
    size = len(rows[0])
    values = {
        "transfer_by_column": [np.nan, *(np.mean([rows[i][j] for i in range(1, j + 1)]) for j in range(1, size))],
        "average_mtil": [np.mean([rows[i][j] for i in range(1, size + 1)]) for j in range(size)],
        "last": [rows[size][j] for j in range(size)],
    }
    return {name: [*few, np.nanmean(few)] for name, few in values.items()}


def test_values_are_means_over_seeds_of_the_definitions(tmp_path):
    runs = {method: measured(tmp_path, method, (0, 1, 4)) for method in ("keeplora", "lora")}
    made = per_task(field_of(tmp_path))
    assert made.tasks == TASKS and made.notes == []
    assert [table.scalar for table in made.tables] == ["transfer_by_column", "average_mtil", "last"]
    for table in made.tables:
        assert [row.label for row in table.measured] == ["keeplora", "lora"] and table.published == []
        for row in table.measured:
            values = np.array([defined(rows)[table.scalar] for rows in runs[row.label]])
            for number, cell in enumerate([*row.tasks, row.overall]):
                if table.scalar == "transfer_by_column" and number == 0:
                    assert cell is None
                    continue
                assert cell.mean == pytest.approx(values[:, number].mean()) and cell.n == 3
                assert cell.standard_error == pytest.approx(stats.sem(values[:, number]))


def test_metrics_are_chosen_and_ordered(tmp_path):
    measured(tmp_path, "lora", (0,))
    made = per_task(field_of(tmp_path), scalars=["last", "transfer_by_column"])
    assert [table.scalar for table in made.tables] == ["last", "transfer_by_column"]


def test_a_stream_of_one_task_has_no_transfer(tmp_path):
    measure(make(tmp_path, "lora"), ["apples"], [[30], [70]])
    made = per_task(field_of(tmp_path))
    assert [(table.scalar, table.measured[0].tasks[0].mean) for table in made.tables] == [
        ("average_mtil", 70), ("last", 70)
    ]  # fmt: skip


def test_missing_cells_leave_a_gap(tmp_path):
    measure(make(tmp_path, "lora"), TASKS, [[30, 30, 30], [80, None, 40], [70, 60, 50], [60, 50, 40]])
    transfer, average, last = per_task(field_of(tmp_path)).tables
    assert [cell and cell.mean for cell in transfer.measured[0].tasks] == [None, None, 45]
    assert transfer.measured[0].overall is None
    assert [cell and cell.mean for cell in average.measured[0].tasks] == [70, None, pytest.approx(130 / 3)]
    assert all(last.measured[0].tasks)


def drawn(root, orders):
    """Make a run of two methods for each seed, which draws its own tasks."""
    for seed, order in enumerate(orders):
        for method in ("keeplora", "lora"):
            path = make(root, method, seed=seed)
            measure(path, order, [[10 * row + column for column in range(len(order))] for row in range(len(order) + 1)])
            change(path, "identity.json", seeds={"task_order": seed}, manifests={"pocket": str(seed)})


def test_tasks_in_other_orders_are_averaged_by_name(tmp_path):
    drawn(tmp_path, [["b", "a", "c"], ["c", "b", "a"]])
    made = per_task(field_of(tmp_path))
    assert made.tasks == ["a", "b", "c"] and "its own order" in made.notes[0]
    transfer, _, last = (table.measured[0].tasks for table in made.tables)
    # a is second, then third; b is first, then second; c is third, then first
    assert [cell.mean for cell in transfer] == [np.mean([11, 17]), 11, 17]
    assert [cell.n for cell in transfer] == [2, 1, 1]
    assert [cell.mean for cell in last] == [np.mean([31, 32]), np.mean([30, 31]), np.mean([32, 30])]


def test_orders_beside_seeds_are_named_as_such(tmp_path):
    for order, seed in ((0, 0), (0, 1), (1, 0)):
        path = make(tmp_path, seed=seed, fingerprint=f"{order:010}", seeds__task_order=order)
        measure(path, ["a", "b"][:: -1 if order else 1], [[0, 0], [80, 40 + seed], [70, 60]])
        change(path, "identity.json", seeds={"task_order": order})
    made = per_task(field_of(tmp_path))
    assert made.notes == ["tasks come in several orders: a task's Transfer is over the orders that begin elsewhere"]
    assert [(cell.mean, cell.n) for cell in made.tables[0].measured[0].tasks] == [(40, 1), (40.5, 1)]


def test_other_tasks_for_every_seed_are_averaged_by_position(tmp_path):
    drawn(tmp_path, [["a", "b"], ["c", "d"]])
    made = per_task(field_of(tmp_path))
    assert made.tasks == ["task 1", "task 2"] and "at each position" in made.notes[0]
    assert [cell.mean for cell in made.tables[-1].measured[0].tasks] == [20, 21]


def test_seeds_with_other_numbers_of_tasks_have_no_table(tmp_path):
    drawn(tmp_path, [["a", "b"], ["c", "d", "e"]])
    made = per_task(field_of(tmp_path))
    assert made.tables == [] and "different numbers of tasks" in made.notes[0]


def test_what_cannot_be_read_is_said(tmp_path):
    measured(tmp_path, "lora", (0, 1))
    damaged = next(tmp_path.rglob("*-s1")) / "accuracy.csv"
    damaged.write_text("nothing", encoding="utf-8")
    made = per_task(field_of(tmp_path))
    assert str(damaged) in made.notes[0] and made.tables[0].measured[0].tasks[1].n == 1
    (next(tmp_path.rglob("*-s0")) / "accuracy.csv").unlink()
    made = per_task(field_of(tmp_path))
    assert made.tables == [] and "no accuracy matrix can be read" in made.notes[-1]


def test_a_task_that_a_record_does_not_have_is_not_compared(tmp_path):
    measured(tmp_path, "keeplora", (0, 1))
    measured(tmp_path, "lora", (0, 1))
    groups = field_of(tmp_path).groups
    for task in ("figs", 3):
        assert difference(*groups, "last", task=task).over == "not defined here"


def test_published_values_stand_by_task(tmp_path):
    known = mtil(tmp_path)
    names = list(known.tasks)
    measure(next(tmp_path.rglob("*-s0")), names, [[50] * 11 for _ in range(12)])
    (section,) = tables.sections(gather([tmp_path]))
    transfer, average, last = per_task(section.field, section.published).tables
    zscl = next(row for row in transfer.published if row.label == "ZSCL")
    assert zscl.tasks[0] is None and zscl.tasks[1].mean == 86.0 and zscl.overall.mean == 68.1
    assert zscl.source in known.rows and zscl.group is None and zscl.tasks[1].standard_error is None
    for table, word in ((transfer, "transfer"), (average, "average"), (last, "last")):
        rows = [row for row in known.rows if row.columns and (row.columns.get(word) or row.value(table.scalar))]
        assert [row.label for row in table.published] == [row.method for row in rows]


# ------------------------------------------------------------------------------------------------ ahead


def seeds_of(root, method, last):
    """Make a run for each value: both tasks have it after the last task."""
    for seed, value in enumerate(last):
        make(root, method, seed=seed, last=value)


def test_ahead_is_what_the_paired_interval_shows(tmp_path):
    seeds_of(tmp_path, "keeplora", [60, 62, 64])
    seeds_of(tmp_path, "lora", [50, 52.5, 54])
    seeds_of(tmp_path, "third", [40, 45, 50])
    field = field_of(tmp_path)
    low, _ = stats.ttest_rel([60, 62, 64], [50, 52.5, 54]).confidence_interval(0.975)
    assert low > 0 and ahead(field.groups, "last").label == "keeplora"
    last = per_task(field, scalars=["last"]).tables[0]
    assert [row and row.label for row in last.ahead] == ["keeplora"] * 3
    assert ahead(field.groups[1:], "last") is None  # their seeds differ by 10, 7.5 and 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([60], [50]),  # one seed
        ([60, 62, 64], [50]),  # one seed in common
        ([60, 62, 64], [50, 52, 54]),  # always the same difference: nothing is known of its spread
        ([60, 62, 64], [60, 62, 64]),
        ([60, 70], [50, 69]),  # the interval has 0 in it
    ],
)
def test_nothing_is_ahead_without_seeds_that_show_it(tmp_path, first, second):
    seeds_of(tmp_path, "keeplora", first)
    seeds_of(tmp_path, "lora", second)
    field = field_of(tmp_path)
    assert ahead(field.groups, "last") is None
    assert per_task(field).tables[-1].ahead == [None] * 3


def test_a_method_alone_is_ahead_of_nothing(tmp_path):
    seeds_of(tmp_path, "lora", [60, 62])
    assert ahead(field_of(tmp_path).groups, "last") is None


def test_more_methods_need_a_clearer_difference(tmp_path):
    seeds_of(tmp_path, "keeplora", [60, 62, 64])
    seeds_of(tmp_path, "lora", [50, 55, 57])
    assert ahead(field_of(tmp_path).groups, "last")
    for name in ("a", "b", "c", "d"):
        seeds_of(tmp_path, name, [10, 11, 13])
    assert ahead(field_of(tmp_path).groups, "last") is None


def test_the_difference_of_one_task_is_taken_by_seeds_and_by_images(tmp_path):
    runs = {method: measured(tmp_path, method, (0, 1, 2)) for method in ("keeplora", "lora")}
    keeplora, lora = field_of(tmp_path).groups
    sides = [[defined(rows)["average_mtil"][1] for rows in runs[method]] for method in ("keeplora", "lora")]
    low, high = stats.ttest_rel(*sides).confidence_interval(0.95)
    for task in ("pears", 1):
        found = difference(keeplora, lora, "average_mtil", task=task)
        assert (found.low, found.high, found.over) == (pytest.approx(low), pytest.approx(high), "3 seeds")


def test_the_interval_of_one_task_over_images_reads_that_test_set_alone(tmp_path):
    rng = np.random.default_rng(3)
    sizes, right = [40, 30, 50], {}
    for method in ("keeplora", "lora"):
        path = make(tmp_path, method)
        matrix, outcomes = AccuracyMatrix(TASKS), Outcomes(TASKS)
        right[method] = [[rng.random(n) < 0.6 for n in sizes] for _ in range(4)]
        for row in range(4):
            for column, n in enumerate(sizes):
                outcomes.set(row, column, right[method][row][column])
                matrix.set(row, column, int(right[method][row][column].sum()), n)
        matrix.to_csv(path / "accuracy.csv")
        (path / "outcomes.csv").write_text(outcomes.csv(), encoding="utf-8")
        change(path, "identity.json", tasks=TASKS)
    keeplora, lora = field_of(tmp_path).groups
    found = difference(keeplora, lora, "transfer_by_column", task="plums")
    each = {name: 100 * (1.0 * rows[1][2] + rows[2][2]) / 2 for name, rows in right.items()}
    gap = each["keeplora"] - each["lora"]
    assert found.over == "50 images of seed 0" and found.mean == pytest.approx(gap.mean())
    half = stats.norm.ppf(0.975) * gap.std() / 50**0.5
    assert (found.low, found.high) == (pytest.approx(gap.mean() - half), pytest.approx(gap.mean() + half))

"""The accuracy matrix, every scalar against numbers worked out by hand or published, and the file on disk."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.metrics import kinds
from bench.metrics import render as matrix_text
from bench.metrics import scalars as metrics
from bench.metrics.cell import STATES
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.over_seeds import Spread, spread, standard_error
from bench.metrics.render import render

HERE = Path(__file__).parent
MTIL = json.loads((HERE.parent / "datasets" / "published" / "mtil-order1.json").read_text(encoding="utf-8"))
MATRICES = {row["method"]: row["matrix"] for row in MTIL["rows"] if "matrix" in row}
DIFFERENCES = {"backward_transfer", "forgetting_first_last", "forgetting_max_last", "zero_shot_loss"}
few = settings(max_examples=40, deadline=None, database=None)


# ------------------------------------------------------------------------------------- worked out by hand

#               A    B    C        row 0: untrained; then after A, after B, after C. Ten images a cell.
HAND = [[10, 20, 30], [80, 40, 20], [90, 90, 10], [70, 50, 100]]


PROBES = [[60, 30], [50, 30], [20, 10], [40, 20]]
"""The same of two test sets that no task trains on."""


def by_hand(rows=HAND, probes=None):
    matrix = AccuracyMatrix(["A", "B", "C"], {"P": "probe", "Q": "probe"} if probes else None)
    rows = [[*row, *more] for row, more in zip(rows, probes, strict=True)] if probes else rows
    for row, line in enumerate(rows):
        for column, percent in enumerate(line):
            matrix.set(row, column, percent // 10, 10)
    return matrix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zero_shot", (10 + 20 + 30) / 3),
        # B was waiting in row 1 only: 40. C in rows 1 and 2: (20 + 10) / 2 = 15.
        ("transfer_by_column", (40 + 15) / 2),
        # After A, B and C are waiting: (40 + 20) / 2 = 30. After B, only C: 10.
        ("transfer_by_row", (30 + 10) / 2),
        ("average_mtil", (80 + 40 + 20 + 90 + 90 + 10 + 70 + 50 + 100) / 9),
        # After A: 80. After B: (90 + 90) / 2. After C: (70 + 50 + 100) / 3.
        ("average_cil", (80 + 90 + 220 / 3) / 3),
        # Ten images a cell: pooling weighs the tasks the same here.
        ("average_cil_pooled", (80 + 90 + 220 / 3) / 3),
        ("last_pooled", (70 + 50 + 100) / 3),
        ("last", (70 + 50 + 100) / 3),
        ("learning", (80 + 90 + 100) / 3),
        # A after B and C: 90, 70. B after C: 50.
        ("preserve", (90 + 70 + 50) / 3),
        # A: 70 - 80 = -10. B: 50 - 90 = -40. The last task is not counted.
        ("backward_transfer", -25),
        ("forgetting_first_last", 25),
        # A was best after B: 90 - 70 = 20. B: 90 - 50 = 40.
        ("forgetting_max_last", 30),
        # B: 20 - 40 = -20, a gain. C: 30 - 15 = 15.
        ("zero_shot_loss", (-20 + 15) / 2),
        ("probe", (40 + 20) / 2),
        # P: 60 - 40. Q: 30 - 20.
        ("probe_loss", (20 + 10) / 2),
    ],
)
def test_scalar_by_hand(name, value):
    matrix = by_hand(probes=PROBES)
    assert metrics.SCALARS[name](matrix) == pytest.approx(value, abs=1e-9)
    assert kinds.summary(matrix)[name] == pytest.approx(value, abs=1e-9)
    assert kinds.summary(by_hand())[name] == (None if name in metrics.NEEDS else kinds.summary(matrix)[name])


def test_every_scalar_is_worked_out_by_hand():
    (mark,) = [mark for mark in test_scalar_by_hand.pytestmark if mark.name == "parametrize"]
    assert {name for name, _ in mark.args[1]} == set(metrics.SCALARS) == set(metrics.FORMULAS)


def test_pooled_scalars_weigh_images():
    matrix = AccuracyMatrix(["A", "B"])
    for row, column, correct, total in ((1, 0, 9, 10), (2, 0, 5, 10), (2, 1, 30, 90)):
        matrix.set(row, column, correct, total)
    assert metrics.last_pooled(matrix) == 35  # 5 + 30 of 100; the mean over tasks is 41.7
    assert metrics.average_cil_pooled(matrix) == (90 + 35) / 2
    without_counts = AccuracyMatrix.from_percent(["A", "B"], [[90, 1], [50, 33]])
    with pytest.raises(metrics.MissingCell, match="last_pooled needs counts of images"):
        metrics.last_pooled(without_counts)


def test_columns_by_hand():
    assert metrics.transfer_columns(by_hand()) == [None, 40, 15]
    assert metrics.average_columns(by_hand()) == pytest.approx([80, 60, 130 / 3])
    assert metrics.last_columns(by_hand()) == [70, 50, 100]


def test_transfer_as_a_curve():
    assert metrics.transfer_stages(by_hand(probes=PROBES)) == [30, 10]  # after A: B and C, (40 + 20) / 2; after B: C
    assert metrics.transfer_stages(AccuracyMatrix(["A"])) == []
    rows = [[1, None, 3], [1, 2, 4], [1, 2, 3]]
    assert metrics.transfer_stages(AccuracyMatrix.from_percent(["A", "B", "C"], rows)) == [None, 4]
    assert np.mean(metrics.transfer_stages(published("ZSCL"))) == pytest.approx(
        metrics.transfer_by_row(published("ZSCL"))
    )


def test_preserve_is_what_a_paper_says_of_zscl():
    assert round(metrics.preserve(published("ZSCL")), 1) == 80.0


def test_a_genuine_zero_counts():
    rows = [list(row) for row in HAND]
    rows[1][2] = 0  # C in row 1: its column mean is (0 + 10) / 2 = 5; a masked mean would make it 10
    assert metrics.transfer_by_column(by_hand(rows)) == (40 + 5) / 2
    assert metrics.last(by_hand([[0] * 3] * 4)) == 0


def test_forgetting_is_not_clipped():
    # A ends at 100, above its best earlier stage 80: -20 for A, 40 for B.
    matrix = by_hand([[0, 0, 0], [80, 40, 20], [60, 90, 10], [100, 50, 100]])
    assert metrics.forgetting_max_last(matrix) == 10
    # A stage before the task was learned does not count as its best: B waits at 100, is learned at 50, ends at 50.
    matrix = by_hand([[0, 0, 0], [80, 100, 20], [80, 50, 10], [80, 50, 100]])
    assert metrics.forgetting_max_last(matrix) == 0


# ------------------------------------------------------------------------------------------- published

ZERO_SHOT = [24.3, 88.4, 68.2, 44.6, 54.9, 71.0, 88.5, 59.4, 89.0, 64.7, 65.2]  # CLIP ViT-B/16, order I
ORDER_TWO = [9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2]


@pytest.mark.parametrize(("order", "transfer"), [(range(11), 69.4), (ORDER_TWO, 65.4)])
def test_zero_shot_constants_of_zscl(order, transfer):
    row = [ZERO_SHOT[task] for task in order]
    matrix = AccuracyMatrix.from_percent([MTIL["tasks"][task] for task in order], [row] * 11, zero_shot=row)
    shown = (metrics.transfer_by_column(matrix), metrics.average_mtil(matrix), metrics.last(matrix))
    # To one decimal; in order II the rounded accuracies give 65.35 on the nose.
    assert shown == pytest.approx((transfer, 65.3, 65.3), abs=0.0501)
    assert metrics.zero_shot_loss(matrix) == pytest.approx(0, abs=1e-9)


def published(method):
    return AccuracyMatrix.from_percent(MTIL["tasks"], MATRICES[method])


@pytest.mark.parametrize(
    ("method", "headlines", "others"),
    [  # transfer by column, MTIL average, last; transfer by row, class-incremental average
        ("continual fine-tuning", [44.558, 55.85, 77.266], [40.4, 65.4]),
        ("LwF", [56.905, 64.697, 74.636], [52.2, 70.9]),
        ("iCaRL", [50.367, 65.665, 80.102], [54.6, 73.0]),
        ("LwF-VR", [57.245, 65.134, 76.559], [53.3, 70.1]),
        ("WiSE-FT", [52.327, 60.721, 77.692], [47.9, 68.0]),
        ("ZSCL*", [62.172, 72.626, 84.46], [60.6, 79.3]),
        ("ZSCL", [68.138, 75.385, 83.622], [68.4, 77.6]),
    ],
)
def test_matrices_of_zscl(method, headlines, others):
    matrix = published(method)
    own = [metrics.SCALARS[name](matrix) for name in metrics.HEADLINES.values()]
    assert own == pytest.approx(headlines, abs=5.1e-4)
    assert [metrics.transfer_by_row(matrix), metrics.average_cil(matrix)] == pytest.approx(others, abs=0.0501)
    assert kinds.summary(matrix)["zero_shot"] is None  # not published, so not made up


def test_forgetting_variants_differ_for_icarl():
    assert metrics.forgetting_first_last(published("iCaRL")) == pytest.approx(7.66, abs=0.005)
    assert metrics.forgetting_max_last(published("iCaRL")) == pytest.approx(7.85, abs=0.005)


def test_docs_have_every_formula_and_the_measured_table():
    text = (HERE.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, formula in metrics.FORMULAS.items():
        assert f"| `{name}` | `{formula}` |" in text
    (head,) = [line for line in text.splitlines() if line.startswith("| method | `")]
    names = [cell.strip(" `") for cell in head.strip("|").split("|")[1:]]
    for method in MATRICES:
        scalars = kinds.summary(published(method))
        assert f"| {method} | " + " | ".join(f"{scalars[name]:.2f}" for name in names) + " |" in text


# --------------------------------------------------------------------------------------- missing cells


def test_a_missing_cell_is_refused_by_name():
    matrix = AccuracyMatrix(["cats", "dogs"])
    for row, column in [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]:
        matrix.set(row, column, 5, 10)
    with pytest.raises(UserError, match=r'transfer_by_column needs the accuracy after "cats" .* on "dogs"'):
        metrics.transfer_by_column(matrix)
    with pytest.raises(UserError, match='after "cats".*"dogs".*missing'):
        matrix.accuracy(1, 1)
    values = kinds.summary(matrix)
    refused = {"transfer_by_column", "transfer_by_row", "average_mtil", "zero_shot_loss", *metrics.NEEDS}
    assert {name for name, value in values.items() if value is None} == refused
    assert metrics.transfer_columns(matrix) == [None, None]
    assert np.isnan(matrix.array()[1, 1]) and np.isnan(matrix.array()).sum() == 1


def test_a_missing_untrained_row_is_named():
    with pytest.raises(UserError, match=r"zero_shot needs .* untrained model \(row 0\)"):
        metrics.zero_shot(AccuracyMatrix(["a"]))


def test_one_task_has_no_transfer_and_no_forgetting():
    matrix = AccuracyMatrix.from_percent(["a"], [[50.0]], zero_shot=[20.0])
    values = kinds.summary(matrix)
    assert values["last"] == values["average_cil"] == values["learning"] == 50
    assert all(values[name] is None for name in {"transfer_by_column", "transfer_by_row", "preserve"} | DIFFERENCES)
    with pytest.raises(UserError, match="at least two tasks"):
        metrics.backward_transfer(matrix)


def test_reused_cells_count_and_say_so():
    matrix = by_hand()
    matrix.set(1, 2, 2, 10, state="reused")
    assert kinds.summary(matrix) == kinds.summary(by_hand())
    assert matrix.state(1, 2) == "reused" and matrix.state(1, 1) == "measured"
    assert "1 of 12 cells reused" in render(matrix, width=80)


# -------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("tasks", [[], ["a", "a"], ["a", ""], ["a\nb"]])
def test_bad_task_names(tasks):
    with pytest.raises(ValueError, match="task"):
        AccuracyMatrix(tasks)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0, 0, 11, 10), ValueError),
        ((0, 0, -1, 10), ValueError),
        ((0, 0, 0, 0), ValueError),
        ((0, 0, 0.5, 1), TypeError),
        ((0, 0, 1, 2, "missing"), ValueError),
        ((4, 0, 1, 2), IndexError),
        ((0, 3, 1, 2), IndexError),
        ((-1, 0, 1, 2), IndexError),
    ],
)
def test_set_refuses(arguments, error):
    with pytest.raises(error):
        by_hand().set(*arguments)


def test_counts_may_come_from_numpy():
    matrix = AccuracyMatrix(["a"])
    matrix.set(0, 0, np.int64(1), np.int32(3))
    assert type(matrix.cell(0, 0).correct) is int


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [3.0, 101.0]], [[1.0, 2.0], [3.0, -1.0]]])
def test_from_percent_refuses(rows):
    with pytest.raises(ValueError):
        AccuracyMatrix.from_percent(["a", "b"], rows)


# ----------------------------------------------------------------------------------------- properties

POOLED = ("average_cil_pooled", "last_pooled")
"""Scalars over images rather than tasks: not known where a matrix was published without counts."""

names = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=12)


@st.composite
def matrices(draw, full=False, max_tasks=5):
    tasks = draw(st.lists(names, min_size=2, max_size=max_tasks, unique=True))
    matrix = AccuracyMatrix(tasks)
    states = ["measured", "reused"] if full else list(STATES)
    for row in range(len(tasks) + 1):
        for column in range(len(tasks)):
            state = draw(st.sampled_from(states))
            if state != "missing":
                total = draw(st.integers(1, 10**9))
                matrix.set(row, column, draw(st.integers(0, total)), total, state)
    return matrix


@few
@given(st.integers(2, 12), st.floats(0, 100))
def test_a_constant_matrix_gives_the_constant(tasks, value):
    row = [value] * tasks
    matrix = AccuracyMatrix.from_percent([str(task) for task in range(tasks)], [row] * tasks, zero_shot=row)
    for name, scalar in kinds.summary(matrix).items():
        if name in (*POOLED, *metrics.NEEDS):
            assert scalar is None
            continue
        assert scalar == pytest.approx(0 if name in DIFFERENCES else value, abs=1e-9)


@few
@given(matrices(full=True))
def test_relations_between_scalars(matrix):
    values, cells = kinds.summary(matrix), matrix.array()
    for name, value in values.items():
        if name in metrics.NEEDS:
            assert value is None
            continue
        low, high = (-100, 100) if name in DIFFERENCES else (cells.min(), cells.max())
        assert low - 1e-9 <= value <= high + 1e-9
    assert values["forgetting_first_last"] == pytest.approx(-values["backward_transfer"])
    assert values["forgetting_max_last"] >= values["forgetting_first_last"] - 1e-9
    assert np.mean(metrics.transfer_columns(matrix)[1:]) == pytest.approx(values["transfer_by_column"])
    assert np.mean(metrics.average_columns(matrix)) == pytest.approx(values["average_mtil"]) == cells[1:].mean()
    assert np.mean(metrics.last_columns(matrix)) == pytest.approx(values["last"]) == cells[-1].mean()
    assert values["zero_shot_loss"] == pytest.approx(cells[0, 1:].mean() - values["transfer_by_column"])


@few
@given(matrices(full=True), st.randoms(use_true_random=False))
def test_the_order_of_columns_matters_only_where_it_should(matrix, random):
    order = list(range(len(matrix.tasks)))
    random.shuffle(order)
    cells = matrix.array()[:, order]
    other = AccuracyMatrix.from_percent([matrix.tasks[task] for task in order], cells[1:], zero_shot=cells[0])
    for name in ("zero_shot", "average_mtil", "last"):
        assert metrics.SCALARS[name](other) == pytest.approx(metrics.SCALARS[name](matrix))
    if order == sorted(order):
        assert kinds.summary(other) == {**kinds.summary(matrix), **dict.fromkeys(POOLED)}


@few
@given(matrices())
def test_csv_round_trip_is_exact(matrix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accuracy.csv"
        matrix.to_csv(path)
        again = AccuracyMatrix.from_csv(path)
        assert [entry.name for entry in Path(folder).iterdir()] == ["accuracy.csv"]
    assert again == matrix
    assert kinds.summary(again) == kinds.summary(matrix)


@few
@given(matrices(max_tasks=3), st.data())
def test_a_file_cut_short_is_never_read(matrix, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accuracy.csv"
        matrix.to_csv(path)
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
        with pytest.raises(UserError, match=r"accuracy\.csv, line \d+"):
            AccuracyMatrix.from_csv(path)


@few
@given(matrices(), st.integers(10, 200), st.data())
def test_render_fits_and_shows_every_row(matrix, width, data):
    after = data.draw(st.integers(0, len(matrix.tasks)))
    text = render(matrix, after=after, width=width)
    body = text.splitlines()[: text.splitlines().index(matrix_text.LEGEND["learning"])]
    assert max(map(len, body)) <= max(width, 9 + 2 * 7)  # one column and the mean are always shown
    blocks = "\n".join(body).split("\n\n")
    for block in blocks:
        assert len(block.splitlines()) == 1 + (after + 1) + 1 + 3
    assert text.count("*") >= after


# ---------------------------------------------------------------------------------------- file on disk


def test_csv_layout(tmp_path):
    matrix = AccuracyMatrix(["cats, big", "dogs"])
    matrix.set(0, 0, 1, 3)
    matrix.set(1, 1, 0, 7, state="reused")
    matrix.to_csv(tmp_path / "accuracy.csv")
    assert (tmp_path / "accuracy.csv").read_text(encoding="utf-8").splitlines() == [
        "row,after,column,task,correct,total,accuracy,state",
        '0,zero-shot,1,"cats, big",1,3,33.333333333333336,measured',
        "0,zero-shot,2,dogs,,,,missing",
        '1,"cats, big",1,"cats, big",,,,missing',
        '1,"cats, big",2,dogs,0,7,0.0,reused',
        '2,dogs,1,"cats, big",,,,missing',
        "2,dogs,2,dogs,,,,missing",
    ]


def test_published_matrix_survives_the_file(tmp_path):
    published("ZSCL").to_csv(tmp_path / "accuracy.csv")
    assert AccuracyMatrix.from_csv(tmp_path / "accuracy.csv") == published("ZSCL")


@pytest.mark.parametrize(
    ("line", "old", "new", "reason"),
    [
        (1, "correct", "right", "header"),
        (3, ",0,10,", ",x,10,", "line 3"),
        (6, ",4,10,", ",4,0,", "line 6"),
        (6, ",4,10,", ",5,10,", "5 of 10 is not 40.0 %"),
        (6, ",4,10,40.0", ",11,10,110.0", "110.0 is no percentage"),
        (6, ",4,10,40.0", ",4,10,nan", "nan is no percentage"),
        (6, "measured", "guessed", "'guessed'"),
        (6, "measured", "missing", "a missing cell has numbers"),
        (6, ",measured", "", "7 fields"),
        (6, "1,A,2,B", "1,B,2,B", 'expected the accuracy after "A"'),
        (6, "1,A,2,B", "1,A,1,A", "expected the accuracy"),
        (6, "1,A,2,B", '1,"A,2,B', "line 6"),
        (6, "1,A,2,B", "1,A\udcff,2,B", "not UTF-8"),
        (6, "1,A,2,B,4,10,40.0,measured\n", "", "expected the accuracy"),
        (13, "3,C,3,C,10,10,100.0,measured\n", "", "11 cells instead of 12"),
        (13, "measured\n", "measured\n4,D,1,A,1,1,100.0,measured\n", "13 cells instead of 12"),
    ],
)
def test_damage_is_found_with_file_and_line(tmp_path, line, old, new, reason):
    path = tmp_path / "accuracy.csv"
    by_hand([[4] * 3, [80, 40, 20], [90, 90, 10], [70, 50, 100]]).to_csv(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_bytes("".join(lines).encode("utf-8", errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        AccuracyMatrix.from_csv(path)
    assert reason in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert f"line {line + (line == 13 and 'D' in new)}" in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv cannot be read"):
        AccuracyMatrix.from_csv(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"accuracy\.csv cannot be written"):
        by_hand().to_csv(tmp_path / "no folder" / "accuracy.csv")


# --------------------------------------------------------------------------------------------- as text


def test_render_small():
    matrix = AccuracyMatrix.from_percent(["A", "B", "a very long name of a task"], HAND[1:], zero_shot=HAND[0])
    lines = render(matrix, width=44).splitlines()
    assert lines[0] == "                     A      B  a ver   mean"
    assert lines[1] == "zero-shot         10.0   20.0   30.0   20.0"
    assert lines[2].split() == ["A", "80.0*", "40.0", "20.0", "46.7"]
    assert lines[-4].split() == ["Transfer", "-", "40.0", "15.0", "27.5"]
    assert lines[-3].split() == ["Average", "80.0", "60.0", "43.3", "61.1"]
    assert lines[-2].split() == ["Last", "70.0", "50.0", "100.0", "73.3"]


def test_render_of_eleven_tasks_fits_eighty_columns():
    row = ZERO_SHOT
    lines = render(AccuracyMatrix.from_percent(MTIL["tasks"], [row] * 11, zero_shot=row), width=80).splitlines()
    assert max(map(len, lines[:17])) == 80 and "" not in lines
    assert lines[0].split()[:4] == ["Airc", "Calt", "CIFA", "DTD"]


def test_render_while_running_shows_nothing_of_later_rows():
    text = render(by_hand(), after=1, width=80)
    assert text == render(by_hand().until(1), after=1, width=80)
    assert [line.split()[0] for line in text.splitlines()[1:-1] if line[:1] != "-"] == [
        "zero-shot", "A", "Transfer", "Average", "Last",
    ]  # fmt: skip
    assert text.splitlines()[-3].split() == ["Average", "-", "-", "-", "-"]
    with pytest.raises(IndexError):
        render(by_hand(), after=4)


def test_abbreviations_differ():
    assert matrix_text.abbreviate(["CIFAR10", "CIFAR100", "DTD"], 5) == ["CIFA1", "CIFA2", "DTD"]
    assert matrix_text.abbreviate([f"task {n:02}" for n in range(1, 12)], 5)[9:] == ["tas10", "tas11"]


# ------------------------------------------------------------------------------------------ over seeds


def test_spread():
    over = spread([1, 2, 3, 4])
    # squares of -1.5, -0.5, 0.5, 1.5 sum to 5; the variance is 5 / 3
    assert (over.mean, over.n) == (2.5, 4)
    assert over.sd == pytest.approx((5 / 3) ** 0.5)
    assert over.standard_error == standard_error([1, 2, 3, 4]) == pytest.approx((5 / 12) ** 0.5)
    assert spread([7]) == Spread(7, None, None, 1)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_no_torch():
    code = "import sys, bench.metrics.scalars, bench.compare.tables; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=True)

"""The scalars of requests to forget: by hand, against definitions written apart, in the file, as text."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.metrics import forgetting, kinds, render, scalars
from bench.metrics.matrix import AccuracyMatrix, MissingCell
from bench.metrics.matrix_file import ROLES
from bench.runs.rows import task_line

few = settings(max_examples=40, deadline=None, database=None)

# Columns: two requests of 10 and 30 images, 20 that stay, 10 that stay unseen, two other test sets of 10 and 40.
OTHERS = {"rest": "kept", "open": "missing", "digits": "probe", "flags": "probe"}
TOTALS = [10, 30, 20, 10, 10, 40]
COUNTS = [[9, 24, 16, 6, 7, 20], [1, 21, 14, 5, 6, 18], [2, 3, 13, 4, 5, 16]]


def by_hand(counts=COUNTS, others=OTHERS, totals=TOTALS):
    matrix = AccuracyMatrix(["ask-1", "ask-2"], others)
    for row, line in enumerate(counts):
        for column, (correct, total) in enumerate(zip(line, totals, strict=True)):
            matrix.set(row, column, correct, total)
    return matrix


def harmonic(drop, stays):
    return 2 * drop * stays / (drop + stays)


VALUES = {
    "forgotten": (10 + 10) / 2,  # 1 of 10 after the first request, 3 of 30 after the second
    "relapse": 20,  # after the second, 2 of the 10 that the first one named
    "forgotten_last": 12.5,  # 2 + 3 of 40
    "drop": (80 + 60) / 2,  # 90 to 10; the second from 21 of 30 to 3
    "retained": (70 + 65) / 2,  # 21 + 14 of 50, then 13 of 20: the second request's classes are to go by then
    "retained_last": 65,
    "h_mean": (harmonic(80, 70) + harmonic(60, 65)) / 2,
    "missing": (50 + 40) / 2,
    "elsewhere": (50 + 40) / 2,  # each test set counts the same, whatever its size
    "elsewhere_loss": (20 + 10) / 2,
}


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_scalar_by_hand(name, value):
    assert forgetting.SCALARS[name](by_hand()) == pytest.approx(value, abs=1e-9)
    assert kinds.summary(by_hand())[name] == pytest.approx(value, abs=1e-9)


def test_every_scalar_is_worked_out_by_hand_and_has_its_line_in_the_docs():
    assert set(VALUES) == set(forgetting.SCALARS) == set(forgetting.FORMULAS) == set(kinds.summary(by_hand()))
    text = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, formula in forgetting.FORMULAS.items():
        assert f"| `{name}` | `{formula}` |" in text


def test_the_two_kinds_share_no_name():
    assert not set(scalars.SCALARS) & set(forgetting.SCALARS)
    for kind in (kinds.LEARNING, kinds.FORGETTING):
        known = set(kinds.SCALARS[kind])
        named = {*kinds.SHOWN[kind], *kinds.COLUMNS[kind], *kinds.TRADEOFF[kind], kinds.RANKED[kind]}
        assert named <= known and set(kinds.SHOWN[kind]) <= set(kinds.TITLES)
        assert {kinds.kind_of(name) for name in known} == {kind}
    assert kinds.kind_of("nothing") is None
    assert [kinds.scalar_of(word) for word in ("h_mean", "H-mean", "last", "Average", "x")] == [
        "h_mean", "h_mean", "last", "average_mtil", None,
    ]  # fmt: skip


def test_values_of_single_requests_by_hand():
    found = {name: of(by_hand()) for name, of in forgetting.COLUMNS.items()}
    assert found["forgotten"] == [10, 10] and found["relapse"] == [None, 20] and found["drop"] == [80, 60]
    assert found["retained"] == [70, 65] and found["missing"] == [50, 40]
    assert found["h_mean"] == pytest.approx([harmonic(80, 70), harmonic(60, 65)])
    for name, values in found.items():
        known = [value for value in values if value is not None]
        assert np.mean(known) == pytest.approx(forgetting.SCALARS[name](by_hand()))


@pytest.mark.parametrize(("drop", "stays", "value"), [(80, 90, 84.70588235), (0, 90, 0), (-10, 70, 0), (80, 0, 0)])
def test_the_harmonic_mean_is_never_negative(drop, stays, value):
    assert forgetting.harmonic(drop, stays) == pytest.approx(value)


def test_a_request_that_raises_the_accuracy_counts_as_zero():
    counts = [list(line) for line in COUNTS]
    counts[1][0] = 10  # from 9 to 10 of the ten images that were to go
    assert forgetting.h_mean(by_hand(counts)) == pytest.approx((0 + harmonic(60, 65)) / 2)
    assert forgetting.drop(by_hand(counts)) == pytest.approx((-10 + 60) / 2)  # this one says that it rose


def defined(counts, totals, tasks, roles):
    """Every scalar from counts [T + 1, columns], once more from what docs/metrics.md says, in float64."""
    right, all_ = np.array(counts, float), np.array(totals, float)
    kept, missing, probe = ([tasks + at for at, role in enumerate(roles) if role == one] for one in ROLES)

    def over(row, columns):
        return 100 * right[row, columns].sum() / all_[columns].sum()

    accuracy = 100 * right / all_
    of = range(1, tasks + 1)
    stay = np.array([over(row, [*range(row, tasks), *kept]) for row in of])
    fall = np.array([accuracy[row - 1, row - 1] - accuracy[row, row - 1] for row in of])
    both = np.where((fall > 0) & (stay > 0), 2 * fall * stay / np.where(fall + stay == 0, 1, fall + stay), 0)
    return {
        "forgotten": np.mean([accuracy[row, row - 1] for row in of]),
        "relapse": np.mean([over(row, list(range(row - 1))) for row in of if row > 1]) if tasks > 1 else None,
        "forgotten_last": over(tasks, list(range(tasks))),
        "drop": fall.mean(),
        "retained": stay.mean(),
        "retained_last": over(tasks, kept),
        "h_mean": both.mean(),
        "missing": np.mean([over(row, missing) for row in of]) if missing else None,
        "elsewhere": accuracy[tasks, probe].mean() if probe else None,
        "elsewhere_loss": (accuracy[0, probe] - accuracy[tasks, probe]).mean() if probe else None,
    }


@st.composite
def requests(draw):
    tasks = draw(st.integers(1, 4))
    roles = ["kept", *draw(st.lists(st.sampled_from(ROLES), max_size=3))]
    totals = draw(st.lists(st.integers(1, 1000), min_size=tasks + len(roles), max_size=tasks + len(roles)))
    counts = [[draw(st.integers(0, total)) for total in totals] for _ in range(tasks + 1)]
    return tasks, roles, totals, counts


def made(tasks, roles, totals, counts):
    matrix = AccuracyMatrix([f"ask-{n}" for n in range(tasks)], {f"{role}-{n}": role for n, role in enumerate(roles)})
    for row, line in enumerate(counts):
        for column, correct in enumerate(line):
            matrix.set(row, column, correct, totals[column])
    return matrix


@few
@given(requests())
def test_scalars_are_what_their_definitions_say(drawn):
    tasks, roles, totals, counts = drawn
    matrix, expected = made(*drawn), defined(counts, totals, tasks, roles)
    found = kinds.summary(matrix)
    assert {name: value is None for name, value in found.items()} == {n: v is None for n, v in expected.items()}
    for name, value in expected.items():
        assert value is None or found[name] == pytest.approx(value, abs=1e-9), name
    final = kinds.so_far(matrix, tasks)
    assert final == pytest.approx({n: found[n] for n in kinds.HEADLINES["forgetting"].values() if found[n] is not None})


@few
@given(requests(), st.integers(0, 3))
def test_csv_round_trip_is_exact(drawn, last):
    matrix = made(*drawn).until(min(last, drawn[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accuracy.csv"
        matrix.to_csv(path)
        again = AccuracyMatrix.from_csv(path)
    assert again == matrix and again.others == matrix.others and again.kind == "forgetting"
    assert kinds.summary(again) == kinds.summary(matrix)


@few
@given(requests(), st.data())
def test_a_file_cut_short_is_never_read(drawn, data):
    text = made(*drawn).csv()
    cut = text[: data.draw(st.integers(0, len(text) - 2))]
    with pytest.raises(UserError, match=r"accuracy\.csv, line \d+"):
        AccuracyMatrix.from_text(cut, Path("accuracy.csv"))


@pytest.mark.parametrize(
    ("line", "old", "new", "reason"),
    [
        (1, ",role", ",part", "header"),
        (4, ",kept", ",keep", "has the role 'keep', which is none of kept, missing, probe"),
        (10, ",kept", "", "8 fields instead of 9"),
        (9, ",task", ",kept", "expected the accuracy"),
        (10, ",kept", ",probe", "expected the accuracy"),
        (2, ",task", ",kept", "at least one task"),
        (5, "open", "rest", "must differ"),
    ],
)
def test_a_damaged_role_is_found(line, old, new, reason):
    lines = by_hand().csv().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    with pytest.raises(UserError, match=r"accuracy\.csv, line \d+") as caught:
        AccuracyMatrix.from_text("".join(lines), Path("accuracy.csv"))
    assert reason in str(caught.value)


def test_without_a_test_set_of_a_role_there_is_no_such_number():
    matrix = AccuracyMatrix(["ask"], {"rest": "kept"})
    for row, (first, second) in enumerate([(8, 9), (1, 7)]):
        matrix.set(row, 0, first, 10)
        matrix.set(row, 1, second, 10)
    found = kinds.summary(matrix)
    assert {name for name, value in found.items() if value is None} == {
        "relapse", "missing", "elsewhere", "elsewhere_loss",
    }  # fmt: skip
    assert found["h_mean"] == pytest.approx(harmonic(70, 70))
    with pytest.raises(MissingCell, match="elsewhere needs a test set of the role probe"):
        forgetting.elsewhere(matrix)
    text = render.render(matrix, width=80)
    assert "Elsewhere" not in text and "Missing" not in text and "Relapse" in text


# --------------------------------------------------------------------------------------------- as text


TEXT = """\
            ask-1    ask-2     rest     open   digits    flags     mean
before       90.0     80.0     80.0     60.0     70.0     50.0
ask-1        10.0*    70.0     70.0     50.0     60.0     45.0
ask-2        20.0     10.0*    65.0     40.0     50.0     40.0
-----------------------------------------------------------------------
Forgotten    10.0     10.0                                         10.0
Relapse         -     20.0                                         20.0
Retained     70.0     65.0                                         67.5
H-mean       74.7     62.4                                         68.5
Missing      50.0     40.0                                         45.0
Elsewhere                                        50.0     40.0     45.0
percent correct; rows: before, after each request; columns: classes of requests, others; * just forgotten; - missing
rest: other classes, which stay
open: classes that stay and have no training images
digits, flags: test sets that no request is about
Forgotten: accuracy on the classes of a request right after it; less is better
Relapse: accuracy on all that earlier requests named, after each request; less is better
Retained: accuracy on all classes that were to stay so far, after each request; more is better
H-mean: harmonic mean of what a request took from its classes and Retained; more is better
Missing: accuracy on classes that stay and have no \
training images, after each request; more is better
Elsewhere: accuracy on test sets that no request is about, after the last request; more is better"""


def test_a_matrix_of_requests_says_what_its_lines_mean():
    assert render.render(by_hand(), width=73) == TEXT


def test_while_running_nothing_of_later_rows_is_shown():
    text = render.render(by_hand(), after=1, width=80)
    assert text == render.render(by_hand().until(1), after=1, width=80)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:9]}
    assert lines["Forgotten"] == ["10.0", "-", "-"] and "ask-2" not in lines


def test_test_sets_beside_learned_tasks_stand_apart_and_are_in_no_mean():
    matrix = AccuracyMatrix(["A", "B"], {"digits": "probe"})
    for row, line in enumerate([(10, 20, 90), (80, 40, 80), (70, 90, 60)]):
        for column, percent in enumerate(line):
            matrix.set(row, column, percent, 100)
    plain = AccuracyMatrix(["A", "B"])
    for row in range(3):
        for column in range(2):
            cell = matrix.cell(row, column)
            plain.set(row, column, cell.correct, cell.total)
    own = {"probe": 60.0, "probe_loss": 30.0}
    assert matrix.kind == "learning" and kinds.summary(matrix) == kinds.summary(plain) | own
    lines = render.render(matrix, width=60).splitlines()
    head = render.render(plain, width=60).splitlines()[:-1]
    assert lines[: len(head)] == head
    assert [line.split() for line in lines[len(head) : -2]] == [
        [], ["digits"], ["zero-shot", "90.0"], ["A", "80.0"], ["B", "60.0"],
    ]  # fmt: skip
    assert lines[-1] == "digits: test sets that no task is about"


@few
@given(requests(), st.integers(10, 200), st.data())
def test_render_fits_and_shows_every_row(drawn, width, data):
    after = data.draw(st.integers(0, drawn[0]))
    text = render.render(made(*drawn), after=after, width=width)
    body = text.splitlines()[: text.splitlines().index(render.LEGEND["forgetting"])]
    assert max(map(len, body)) <= max(width, 9 + 2 * 7)
    below = 4 + ("missing" in drawn[1]) + ("probe" in drawn[1])
    for block in "\n".join(body).split("\n\n"):
        assert len(block.splitlines()) == 1 + (after + 1) + 1 + below
    assert text.count("*") >= after


def test_the_line_about_a_request_says_what_went_and_what_stayed():
    assert (
        task_line(by_hand(), 1, 2.0)
        == "[1/2] ask-1          to go 90.0 -> 10.0 %, to stay 80.0 -> 70.0 % after   2.0 s"
    )
    assert "to go 70.0 -> 10.0 %, to stay 70.0 -> 65.0 %" in task_line(by_hand(), 2, 2.0, "constant")

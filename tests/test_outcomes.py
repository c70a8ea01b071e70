"""Image by image what the accuracy matrix counts: written, read back, held against the matrix."""

import base64
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes


def measured():
    """A matrix of two tasks and what it counts: row 0 measured, row 1 reused from it, row 2 measured in one column."""
    matrix, outcomes, rng = AccuracyMatrix(["a", "b, c"]), Outcomes(["a", "b, c"]), np.random.default_rng(0)
    for row, column, images in ((0, 0, 11), (0, 1, 8), (2, 1, 8)):
        right = rng.random(images) < 0.5
        outcomes.set(row, column, right)
        matrix.set(row, column, int(right.sum()), images)
    for column in (0, 1):
        matrix.set(1, column, matrix.cell(0, column).correct, matrix.cell(0, column).total, state="reused")
    return matrix, outcomes


def test_what_is_written_is_read(tmp_path):
    matrix, outcomes = measured()
    (tmp_path / "outcomes.csv").write_text(outcomes.csv(), encoding="utf-8")
    found = Outcomes.from_csv(tmp_path / "outcomes.csv", matrix.tasks)
    for row, column in ((0, 0), (0, 1), (2, 1)):
        assert found.of(matrix, row, column).tolist() == outcomes.of(matrix, row, column).tolist()
    assert found.csv() == outcomes.csv()


def test_the_format():
    outcomes = Outcomes(["a"])
    outcomes.set(1, 0, np.array([1, 0, 0, 0, 0, 0, 0, 0, 1], dtype=bool))
    packed = base64.b64encode(bytes([0b10000000, 0b10000000])).decode()
    assert outcomes.csv() == f"row,task,images,right\n1,a,9,{packed}\n"


def test_a_reused_cell_is_what_was_measured_last():
    matrix, outcomes = measured()
    assert outcomes.of(matrix, 1, 0) is outcomes.of(matrix, 0, 0)
    assert outcomes.of(matrix, 2, 0) is None  # missing


def test_what_does_not_fit_the_counts_is_refused():
    matrix, outcomes = measured()
    for right in (np.zeros(8, dtype=bool), np.ones(9, dtype=bool)):
        outcomes.set(2, 1, right)
        with pytest.raises(UserError, match=r'the recorded outcomes do not fit the accuracy after "b, c" \(row 2\)'):
            outcomes.of(matrix, 2, 1)
    matrix.set(2, 0, 1, 2)
    with pytest.raises(UserError, match="do not fit"):
        outcomes.of(matrix, 2, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0,a,11", "line 2: expected row,task,images,right of a task of a, b"),
        ("0,a,x,AAA=", "line 2: invalid literal"),
        ("0,z,8,AA==", "line 2: expected row,task,images,right of a task of a, b"),
        ("3,a,8,AA==", "no outcomes of 8 images in row 3"),
        ("0,a,9,AA==", "no outcomes of 9 images in row 0"),
        ("0,a,8,A!==", "line 2"),
        ('0,"a,8,AA==', "line 2"),
    ],
)
def test_damage_is_named_with_the_line(line, reason):
    with pytest.raises(UserError, match="somewhere, line") as raised:
        Outcomes.from_text(f"row,task,images,right\n{line}\n", ["a", "b"], Path("somewhere"))
    assert reason in str(raised.value) and "damaged" in str(raised.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="expected the header row,task,images,right"):
        Outcomes.from_text("", ["a"], Path("somewhere"))
    (tmp_path / "outcomes.csv").write_bytes(b"\xff")
    for name in ("nowhere.csv", "outcomes.csv"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            Outcomes.from_csv(tmp_path / name, ["a"])

"""Ours against theirs, number by number: limits against their definition, tables and CSV on records made here."""

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats
from support.made_records import change, make, measure, mtil

from bench.cli import main as cli
from bench.compare.export.cells import agreements, cell_text, standard_error
from bench.compare.export.numbers import csv_text
from bench.compare.grouping import gather
from bench.compare.published import find
from bench.compare.tables import sections
from bench.core.errors import UserError


def zscl(root, method="zscl-full", seed=0, changes=None):
    """Make a run whose matrix is ZSCL's, up to 1000 images a test set and some cells."""
    known = mtil(root, method, seed=seed)
    rows = [list(known.rows[0].columns["last"].values()), *(list(line) for line in row_of("ZSCL").matrix)]
    for (stage, column), value in (changes or {}).items():
        rows[stage][column] = value
    measure(next(root.rglob(f"{method}/*-s{seed}")), list(known.tasks), rows)


def row_of(method, stream="mtil-order1"):
    return next(row for row in find(stream).rows if row.method == method)


def found(root, **options):
    (section,) = sections(gather([root]), {"per": "cell"} | options)
    return agreements(section)


# ------------------------------------------------------------------------------------------------- limits


def one_cell(size=3, row=2, column=1):
    weights = np.zeros((size + 1, size))
    weights[row, column] = 1
    return weights


def test_the_error_of_a_cell_is_that_of_two_binomial_shares():
    accuracies, images = np.full((4, 3), 80.0), np.array([10, 400, 10])
    found = standard_error(one_cell(), accuracies, images, theirs=50.0, n=1)
    p = (0.8 + 0.5) / 2
    assert found == pytest.approx(100 * math.sqrt(p * (1 - p) * (1 / 400 + 1 / 400)))
    found = standard_error(one_cell(), accuracies, images, theirs=50.0, n=3)
    p = (3 * 0.8 + 0.5) / 4  # three runs of ours and one of theirs
    assert found == pytest.approx(100 * math.sqrt(p * (1 - p) * (1 / 1200 + 1 / 400)))
    everything = np.full((4, 3), 100.0)
    for weights in (one_cell(), np.array([[0.0], [0.1], [0.2], [0.7]]) * np.array([0.1, 0.2, 0.7])):
        assert standard_error(weights, everything, images, theirs=100.0, n=1) == pytest.approx(0, abs=1e-6)


def test_the_error_of_a_mean_over_tasks_adds_those_of_its_test_sets():
    accuracies = np.array([[0, 0], [90, 20], [70, 60]], float)
    weights = np.array([[0, 0], [0.25, 0], [0.25, 0.5]])  # a mean over stages of one test set, and another test set
    found = standard_error(weights, accuracies, np.array([100, 900]), theirs=0.0, n=1)
    each = [0.8 * 0.2 / 100, 0.6 * 0.4 / 900]
    assert found == pytest.approx(100 * math.sqrt(2 * (0.5**2 * each[0] + 0.5**2 * each[1])))


@pytest.mark.parametrize("n", [1, 4])
def test_the_error_is_a_bound_however_hard_the_images_are(n):
    """Each image has its own chance in every stage; then the variance of the difference is known exactly."""
    rng = np.random.default_rng(n)
    for _ in range(20):
        chances = rng.beta(0.4, 0.4, size=(3, 50))  # stages, images
        weights = rng.dirichlet([1, 1, 1])
        exact = (1 + 1 / n) * sum(w**2 * c * (1 - c) for w, line in zip(weights, chances, strict=True) for c in line)
        theirs = 100 * float(weights @ chances.mean(axis=1))
        bound = standard_error(weights[:, None], 100 * chances.mean(axis=1)[:, None], np.array([50]), theirs, n)
        assert 100 * math.sqrt(exact) / 50 <= bound


def test_limits_allow_for_all_numbers_and_for_rounding(tmp_path):
    zscl(tmp_path, changes={(2, 0): None})
    (one,) = found(tmp_path)
    assert one.errors == pytest.approx(stats.norm.ppf(1 - 0.05 / (2 * 120)))  # one of 121 was not run
    cell = next(answer for answer in one.answers if (answer.name, answer.task) == ("after SUN397", "SUN397"))
    assert (cell.theirs, cell.ours, cell.n) == (80.222, 80.2, 1)
    p = (0.80222 + 0.802) / 2
    assert cell.limit == pytest.approx(one.errors * 100 * math.sqrt(2 * p * (1 - p) / 1000) + 0.0005)


# ------------------------------------------------------------------------------------------------- shown


def test_cells_are_within_above_below_or_not_run(tmp_path):
    zscl(tmp_path, changes={(1, 0): 99.0, (3, 2): 10.0, (11, 10): None})
    comparison = gather([tmp_path])
    text = cell_text(comparison, sections(comparison, {"per": "cell"}))
    assert "\nzscl-full (1 seed) beside ZSCL [1]: 118 of 121 within, 1 above, 1 below, 1 not run\n" in text
    lines = {line[:16].strip(): line[16:].split("  ") for line in text.splitlines()}
    cells = {name: [cell.strip() for cell in line if cell.strip()] for name, line in lines.items()}
    theirs = row_of("ZSCL").matrix
    assert cells["after Aircraft"][-11] == f"{99 - theirs[0][0]:+.1f} above"
    assert cells["after CIFAR100"][-9] == f"{10 - theirs[2][2]:+.1f} below"
    assert cells["after SUN397"][-1] == "not run" and cells["after SUN397"][-2] in ("+0.0", "-0.0")
    assert "[1] ZSCL (ICCV 2023)" in text and "standard error = sqrt((1 + 1/n) p (1 - p) / images)" in text
    assert (
        "\x1b" not in text and cell_text(comparison, sections(comparison, {"per": "cell"}), True).count("\x1b[1m") == 2
    )


def test_seeds_are_averaged(tmp_path):
    for seed, value in enumerate([40.0, 44.0, 45.0]):
        zscl(tmp_path, seed=seed, changes={(1, 0): value})
    (one,) = found(tmp_path)
    first, second = one.answers[:2]
    assert (first.ours, first.n, second.n) == (pytest.approx(43.0), 3, 3)
    p = (3 * 0.43 + first.theirs / 100) / 4
    assert first.error == pytest.approx(100 * math.sqrt(4 / 3 * p * (1 - p) / 1000))


def test_a_damaged_matrix_counts_for_no_cell(tmp_path):
    zscl(tmp_path)
    mtil(tmp_path, "zscl-full", seed=1)
    next(tmp_path.rglob("*-s1/accuracy.csv")).write_text("nonsense")
    mtil(tmp_path, "zscl-full", seed=2)  # its matrix has two tasks
    (one,) = found(tmp_path)
    assert {answer.n for answer in one.answers} == {1}


def test_every_method_stands_beside_what_was_published_of_it(tmp_path):
    zscl(tmp_path)
    zscl(tmp_path, "lwf")
    zscl(tmp_path, "mine")

    def pairs(**options):
        return [(one.group.label, one.row.method) for one in found(tmp_path, **options)]

    assert pairs() == [("lwf", "LwF"), ("zscl-full", "ZSCL")]
    assert pairs(rows="[zscl-full,ZSCL*]") == [("zscl-full", "ZSCL*"), ("zscl-full", "ZSCL")]
    assert pairs(rows="[mine,ZSCL]") == [("mine", "ZSCL")]
    assert pairs(rows="[mine]") == []
    (one,) = found(tmp_path, rows="[mine,ZSCL]", names="{mine: Mine, ZSCL: Zheng}")
    assert (one.group.label, one.row.method, one.summary) == ("Mine", "Zheng", "121 of 121 within")
    comparison = gather([tmp_path])
    assert "nothing is published" in cell_text(comparison, sections(comparison, {"per": "cell", "rows": "[mine]"}))


def test_where_a_paper_has_no_matrix_its_columns_and_means_are_compared(tmp_path):
    known = mtil(tmp_path)
    ours = [[50.0] * 11 for _ in range(12)]
    measure(next(tmp_path.rglob("*-s0")), list(known.tasks), ours)
    (one,) = found(tmp_path)
    transfer = row_of("KeepLoRA").columns["transfer"]
    assert [(answer.name, answer.task, answer.theirs) for answer in one.answers] == [
        *(("Transfer", task, value) for task, value in transfer.items()),
        ("Transfer", "Mean", 69.0),
    ]
    dtd, mean = (next(a for a in one.answers if a.task == task) for task in ("DTD", "Mean"))
    p = (0.5 + transfer["DTD"] / 100) / 2
    assert dtd.error == pytest.approx(100 * math.sqrt(2 * p * (1 - p) / 1000))
    assert dtd.limit == pytest.approx(one.errors * dtd.error + 0.05)  # published with one decimal
    assert mean.error == pytest.approx(100 * math.sqrt(2 * 10 * 0.1**2 * 0.25 / 1000))
    assert (dtd.verdict, mean.verdict) == ("within", "below")


def test_what_a_missing_cell_decides_was_not_run(tmp_path):
    known = mtil(tmp_path)
    rows = [[50.0] * 11 for _ in range(12)]
    rows[1][3] = None  # DTD after Aircraft
    measure(next(tmp_path.rglob("*-s0")), list(known.tasks), rows)
    (one,) = found(tmp_path)
    assert {answer.task for answer in one.answers if answer.verdict == "not run"} == {"DTD", "Mean"}


def test_pooled_accuracies_weigh_images(tmp_path):
    table = find("cifar100-10")
    path = make(tmp_path, "loda", stream="cifar100-10", model="ViT-B-16/openai")
    measure(path, list(table.tasks), [[80.0] * 10 for _ in range(11)])
    change(path, "identity.json", label_space="seen")
    (one,) = found(tmp_path)
    assert [(a.name, a.task, a.theirs, a.ours) for a in one.answers] == [
        ("average_cil_pooled", "Mean", 86.4, pytest.approx(80)),
        ("last_pooled", "Mean", 81.1, pytest.approx(80)),
    ]
    assert one.answers[1].error == pytest.approx(100 * math.sqrt(2 * 0.8 * 0.2 / 10_000))


def test_csv_has_a_line_for_every_number(tmp_path):
    zscl(tmp_path, changes={(1, 0): 99.0, (11, 10): None})
    comparison = gather([tmp_path])
    lines = list(csv.DictReader(io.StringIO(csv_text(sections(comparison, {"per": "cell"})))))
    assert len(lines) == 121 and {line["published"] for line in lines} == {"ZSCL"}
    first, last = lines[0], lines[-1]
    assert (first["number"], first["task"], first["verdict"]) == ("after Aircraft", "Aircraft", "above")
    assert float(first["difference"]) == pytest.approx(99 - row_of("ZSCL").matrix[0][0])
    assert (last["verdict"], last["ours"], last["n"]) == ("not run", "", "0")


def test_what_single_cells_cannot_be_is_refused(tmp_path, capsys):
    zscl(tmp_path)
    with pytest.raises(UserError, match="columns= chooses nothing with per=cell"):
        found(tmp_path, columns="last")
    with pytest.raises(UserError, match="per=cells must be method, task or cell"):
        found(tmp_path, per="cells")
    assert cli.main(["compare", str(tmp_path), "per=cell", f"latex={tmp_path / 'table.tex'}"]) == 2
    said = capsys.readouterr()
    assert "latex= has no table of single cells" in said.err and not (tmp_path / "table.tex").exists()
    assert "121 of 121 within" in said.out

"""Runs that were to forget side by side: their numbers everywhere, never beside those of runs that were to learn."""

import csv
import io
import json

import numpy as np
import pytest
from support.made_records import forget, make

from bench.cli import main as cli
from bench.compare import extremes, page, pictures, ranking, significance, tables, views
from bench.compare.choice import read
from bench.compare.diff import diff
from bench.compare.export.numbers import csv_text
from bench.compare.export.paper import latex
from bench.compare.export.task_text import task_text
from bench.compare.grouping import gather
from bench.compare.per_task import ahead, per_task
from bench.core.errors import UserError
from bench.metrics import kinds
from bench.metrics.weights import shape_of, weights_of
from bench.record.events import RowEvent
from bench.tracking.panels import survey
from bench.tracking.payload import history, requests

HEADLINES = kinds.HEADLINES["forgetting"]
START = [18, 30, 40, 20]
#          a   b  rest digits: of 20, 40, 50 and 30 images
GOOD = [START, [2, 28, 38, 19], [1, 4, 37, 18]]
POOR = [START, [10, 20, 30, 12], [12, 16, 26, 10]]


def shifted(counts, by):
    return [START, *([one + by for one in row] for row in counts[1:])]


def asked(root, method, counts, seed=0, images=True, **changes):
    path = make(root, method, seed=seed, stream="forget-pocket", **changes)
    return path, forget(path, counts, seed=seed if images else None)


@pytest.fixture
def both(tmp_path):
    """Two methods that forget over three seeds, and two that learn."""
    for seed in range(3):
        asked(tmp_path, "gs-lora", shifted(GOOD, -(seed % 2)), seed)
        asked(tmp_path, "ascent", shifted(POOR, seed), seed)
        make(tmp_path, "keeplora", seed=seed, last=60 + seed)
        make(tmp_path, "lora", seed=seed, last=40 + 2 * seed)
    return tmp_path


def sections(root, **options):
    comparison = gather([root])
    return comparison, tables.sections(comparison, options)


def test_the_two_kinds_stand_in_tables_of_their_own(both):
    comparison, laid_out = sections(both)
    assert [section.kind for section in laid_out] == ["forgetting", "learning"]
    text = tables.text(comparison, laid_out)
    first, second = (block for block in text.split("\n\n") if block.startswith("stream "))
    assert first.splitlines()[1].split()[2:7] == list(HEADLINES) and "Last" not in first
    assert "Transfer" in second.splitlines()[1] and "H-mean" not in second
    for name, formula in kinds.FORMULAS.items():
        absent = ("missing", "probe", "probe_loss")  # no run here has such test sets
        shown = name in (*tables.SHOWN["learning"], *tables.SHOWN["forgetting"]) and name not in absent
        assert (f" = {name} = {formula}" in text) == shown, name
    assert "requests to forget: j = 1..T are" in text
    _, alone = sections(both / "pocket")
    assert "requests to forget" not in tables.text(gather([both / "pocket"]), alone)
    asks = both / "forget-pocket"
    assert "after request i, row 0 = model before the first\n" in tables.text(gather([asks]), sections(asks)[1])
    assert text.count("after task i, row 0 = untrained model\n") == 1


def test_gs_lora_is_what_others_that_forget_are_compared_with(both):
    assert sections(both)[1][0].against.baseline.label == "gs-lora"


def test_the_numbers_of_a_table_are_those_of_the_records(both):
    _, (section, _) = sections(both)
    matrices = [asked(both / "again", "x", shifted(GOOD, -(seed % 2)), seed)[1] for seed in range(3)]
    group = next(one for one in section.field.groups if one.method == "gs-lora")
    for name in ("forgotten", "relapse", "retained", "h_mean", "elsewhere", "drop"):
        values = [kinds.SCALARS["forgetting"][name](matrix) for matrix in matrices]
        error = np.std(values, ddof=1) / 3**0.5
        assert tables.cell(group, name) == f"{np.mean(values):.2f} ± {error:.2f}"
    assert "missing" not in section.columns and "drop" in section.columns


def test_less_is_better_decides_what_is_best_and_ahead(both):
    _, (section, _) = sections(both)
    best = {name: [group.method for group in found] for name, found in ranking.best(section.field).items()}
    assert best["forgotten"] == best["relapse"] == best["h_mean"] == best["retained"] == ["gs-lora"]
    groups = section.field.groups
    assert [ahead(groups, name).method for name in ("forgotten", "retained", "h_mean")] == ["gs-lora"] * 3
    (view, _) = views.views(sections(both)[1])
    assert list(extremes.winners(view)) == ["h_mean", "forgotten", "retained", "relapse", "elsewhere"]
    assert [view.lines[at].group.method for at in extremes.winners(view)["forgotten"]] == ["gs-lora"]


def test_differences_over_seeds_have_intervals(both):
    _, (section, other) = sections(both, baseline="ascent")
    assert other.against is None  # no such method among those that learn
    ((group, differences),) = section.against.rows
    assert group.method == "gs-lora" and [one.scalar for one in differences] == list(HEADLINES.values())
    assert all(one.over == "3 seeds" and one.shown for one in differences)
    by = {one.scalar: one.mean for one in differences}
    assert by["forgotten"] < 0 < by["h_mean"] and by["relapse"] < 0 < by["retained"]


def test_over_images_only_sums_over_images_have_intervals(tmp_path):
    ours, first = asked(tmp_path, "gs-lora", GOOD)
    _, second = asked(tmp_path, "ascent", POOR)
    _, (section,) = sections(tmp_path, baseline="ascent")
    ((_, differences),) = section.against.rows
    by = {one.scalar: one for one in differences}
    assert by["h_mean"].low is None and by["h_mean"].over == (
        "no interval: it is no sum over images; more seeds give one"
    )
    runs = {run.method: run for run in section.field.runs}
    for name in ("forgotten", "relapse", "retained", "elsewhere", "drop"):
        found = significance.image_by_image(runs["gs-lora"], runs["ascent"], name)
        gap = kinds.SCALARS["forgetting"][name](first) - kinds.SCALARS["forgetting"][name](second)
        assert sum(sample.mean() for sample in found) == pytest.approx(gap), name
        assert sorted(map(len, found)) == sorted(
            {"forgotten": [20, 40], "relapse": [20], "retained": [40, 50], "elsewhere": [30], "drop": [20, 40]}[name]
        )
    assert by["relapse"].over == "20 images of seed 0" and by["relapse"].low < by["relapse"].mean < by["relapse"].high
    (ours / "outcomes.csv").unlink()
    _, (section,) = sections(tmp_path, baseline="ascent")
    assert section.against.rows[0][1][0].over == "no interval: recorded without outcomes"


def test_weights_are_read_off_the_scalar_with_the_images_of_every_test_set(tmp_path):
    matrix = asked(tmp_path, "gs-lora", GOOD)[1]
    shape = shape_of(matrix)
    retained = np.zeros((3, 4))
    retained[1, 1:3] = [40 / 90 / 2, 50 / 90 / 2]  # 40 images of b and 50 that stay, half of the mean
    retained[2, 2] = 1 / 2
    np.testing.assert_allclose(weights_of("retained", shape), retained)
    first = weights_of("retained", shape, 0)
    np.testing.assert_allclose(first, np.where(np.arange(3)[:, None] == 1, 2 * retained, 0))
    for name in ("forgotten", "relapse", "retained", "elsewhere", "drop", "retained_last", "elsewhere_loss"):
        value = kinds.SCALARS["forgetting"][name](matrix)
        assert (weights_of(name, shape) * matrix.array(every=True)).sum() == pytest.approx(value), name


def test_tables_for_every_request(both):
    comparison, laid_out = sections(both, per="task")
    made = per_task(laid_out[0].field)
    assert [table.scalar for table in made.tables] == ["forgotten", "relapse", "retained", "h_mean"]
    text = task_text(comparison, laid_out)
    assert "H-mean = harmonic mean of what the request took" in text and "Transfer = mean over" in text
    relapse = next(table for table in made.tables if table.scalar == "relapse")
    assert relapse.measured[0].tasks[0] is None and relapse.measured[0].tasks[1] is not None
    assert any(row is not None and row.group.method == "gs-lora" for row in made.tables[0].ahead)
    drops = task_text(comparison, tables.sections(comparison, {"per": "task", "columns": "[drop,last]"}))
    assert "Drop = right before" in drops and "Retained" not in drops
    with pytest.raises(UserError, match="columns=elsewhere has no values by task: .*transfer, .*; forgotten, relapse,"):
        read({"per": "task", "columns": "[elsewhere]"})


def test_columns_go_to_the_tables_of_their_kind(both):
    _, (asks, learns) = sections(both, columns="[h_mean,Last,seconds,Forgotten]")
    assert asks.columns == ("h_mean", "seconds", "forgotten") and learns.columns == ("last", "seconds")
    with pytest.raises(UserError, match="columns= names none of stream pocket, model pocket: add one of zero_shot,"):
        sections(both, columns="h_mean")
    with pytest.raises(UserError, match="columns=H-mean: the streams of these runs ask to learn, and have no such"):
        sections(both / "pocket", columns="[last,H-mean]")
    with pytest.raises(UserError, match="columns=Last: the streams of these runs ask to forget, and have no such"):
        sections(both / "forget-pocket", columns="[last,seconds]")


def test_csv_and_latex_have_a_table_for_each_kind(both):
    lines = list(csv.DictReader(io.StringIO(csv_text(sections(both)[1]))))
    metrics = {kind: {one["metric"] for one in lines if one["stream"] == kind} for kind in ("forget-pocket", "pocket")}
    costs = {"seconds", "peak_memory_mb", "stored_bytes"}
    assert metrics["forget-pocket"] == {*HEADLINES.values(), "drop", *costs}
    assert not metrics["forget-pocket"] & metrics["pocket"] - costs
    text = latex(sections(both)[1])
    assert text.count(r"\begin{tabular}") == 2 and "Retained & H-mean & Elsewhere" in text
    assert text.count("Less is better: Forgotten and Relapse.") == text.count("Less is better") == 1
    by_task = latex(sections(both, per="task", columns="[forgotten,last]")[1])
    assert r"\label{tab:forget-pocket-forgotten}" in by_task and r"\label{tab:pocket-last}" in by_task
    assert by_task.count("Less is better: Forgotten.") == by_task.count("Less is better") == 1


def test_the_page_has_columns_and_words_of_its_kind(both):
    found = page.data(sections(both)[1])
    asks, learns = found["fields"]
    assert [one["kind"] for one in (asks, learns)] == ["forgetting", "learning"]
    assert asks["headlines"][0] == asks["ranked"] == "h_mean" and learns["ranked"] == "last"
    assert asks["tradeoff"] == ("forgotten", "retained") and asks["compared"] == tuple(HEADLINES.values())
    columns = {one["key"]: one for one in asks["columns"]}
    assert columns["forgotten"]["less"] and not columns["h_mean"]["less"] and columns["drop"]["unit"] == "points"
    assert "last" not in columns and "h_mean" not in {one["key"] for one in learns["columns"]}
    assert asks["tasks"] == ["a", "b"] and asks["sets"] == ["a", "b", "rest", "digits"]
    assert asks["states"] == ["before", "a", "b"] and learns["states"] == ["zero-shot", "a", "b"]
    (ours,) = (one for one in asks["groups"] if one["method"] == "gs-lora")
    assert [len(row) for row in ours["mean"]] == [4, 4, 4] and len(ours["spans"]) == 6
    json.dumps(found, allow_nan=False)


def test_gains_and_losses_are_of_what_is_to_stay(both):
    (view, _) = views.views(sections(both)[1])
    ours, theirs = (next(line for line in view.lines if line.group.method == name) for name in ("gs-lora", "ascent"))
    found = extremes.contrast(ours, theirs, view.better)
    assert view.sets[found.gain[0]] == "digits" and found.loss is None  # it fell on a and b, which were to go
    assert extremes.contrast(theirs, ours, view.better).gain is None


def test_pictures_are_drawn_of_what_a_kind_has(both):
    view, other = views.views(sections(both)[1])
    for one, labels in (
        (view, ("Forgotten (%, less is better)", "Retained (%)")), (other, ("Last (%)", "Transfer (%)")),
    ):  # fmt: skip
        (axes,) = pictures.scatter(one).axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == labels
    assert pictures.over_costs(view).axes[0].get_ylabel() == "H-mean (%)"
    titles = [axes.get_title() for axes in pictures.curves(view).axes]
    assert titles[:5] == ["mean of requests so far", "a", "b", "rest", "digits"]
    first, *_ = pictures.matrices(view).axes
    assert len(first.get_xticks()) == 4 and len(first.get_yticks()) == 3


def test_a_run_that_forgot_stands_beside_others_by_its_h_mean(both):
    path = both / "forget-pocket" / "pocket" / "ascent" / "0123456789-s0"
    said = ranking.standing(path)
    assert said.startswith("beside 5 other runs here: H-mean ") and ", 2nd of 2 (best: gs-lora " in said


def test_diff_reads_all_test_sets(tmp_path):
    first, _ = asked(tmp_path, "gs-lora", GOOD)
    second, _ = asked(tmp_path, "ascent", [*GOOD[:2], [1, 4, 37, 3]])
    assert 'accuracy.csv: 1 of 12 cells differ, most after "b" (row 2) on "digits"' in diff(first, second)
    forget(second, GOOD, {"rest": "kept", "flags": "probe"})
    assert "test sets: a, b, rest, digits | a, b, rest, flags" in diff(first, second)


def test_a_damaged_role_leaves_the_other_runs_comparable(both):
    path = both / "forget-pocket" / "pocket" / "ascent" / "0123456789-s0" / "accuracy.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",kept", ",keep"), encoding="utf-8")
    (view, _) = views.views(sections(both)[1])
    assert any("has the role 'keep'" in note for note in view.notes) and view.sets == ["a", "b", "rest", "digits"]


def test_a_matrix_of_the_other_kind_is_of_no_use(both):
    path = both / "forget-pocket" / "pocket" / "gs-lora" / "0123456789-s0" / "accuracy.csv"
    path.write_text((both / "pocket/pocket/lora/0123456789-s0/accuracy.csv").read_text(encoding="utf-8"))
    section, _ = sections(both, per="task")[1]
    said = "accuracy.csv and summary.json are not of one run, since only one of them is about requests to forget"
    assert any(said in note for note in views.views([section])[0].notes)
    assert any(said in note for note in section.per_task.notes)
    assert section.per_task.tables[0].measured[1].tasks[0].n == 2


def test_the_command_shows_both_kinds(both, capsys):
    assert cli.main(["compare", str(both)]) == 0
    out = capsys.readouterr().out
    assert "Retained" in out and "Transfer" in out
    assert cli.main(["compare", str(both), "columns=h_mean"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------------------ W&B


def test_the_mirror_has_scalars_so_far_that_end_as_those_of_the_run(tmp_path):
    path, matrix = asked(tmp_path, "gs-lora", GOOD)
    events = [
        RowEvent(row, matrix.label(row), {n: matrix.accuracy(row, at) for at, n in enumerate(matrix.columns)}, {})
        for row in range(3)
    ]
    rows = history(events, ["a", "b"], requests(path))
    assert rows[0]["task/accuracy/digits"] == pytest.approx(200 / 3) and "task/forgotten" not in rows[0]
    assert rows[0]["task/elsewhere"] == pytest.approx(200 / 3)
    assert rows[1]["task/forgotten"] == 10 and "task/relapse" not in rows[1] and "task/last" not in rows[1]
    final = kinds.summary(matrix)
    assert {name: rows[2][f"task/{name}"] for name in HEADLINES.values()} == pytest.approx(
        {name: final[name] for name in HEADLINES.values()}
    )
    assert requests(make(tmp_path)) is None


def test_the_dashboard_takes_the_numbers_that_runs_have():
    config = {"identity.tasks": ["a"], "method": "gs-lora"}
    asks = {
        "final/h_mean": 1.0,
        "final/forgotten": 2.0,
        "task/h_mean": 1.0,
        "task/accuracy/a": 3.0,
        "task/accuracy/rest": 4.0,
    }
    found = survey([(config, asks)])
    assert found.metrics == {"Forgotten": "final/forgotten", "H-mean": "final/h_mean"}
    assert found.tasks == ("a", "rest")
    assert list(survey([(config, {"task/h_mean": 1.0})]).metrics) == list(HEADLINES)
    assert list(survey([(config, asks), (config, {"final/last": 1.0})]).metrics) == ["Last", "Forgotten", "H-mean"]

"""Static pictures of a comparison: what is in them, and that the same runs give the same bytes."""

import numpy as np
import pytest
from support.made_records import change, learn, make, measure, mtil

from bench.cli import main as cli
from bench.compare import grouping, per_task, pictures, views
from bench.compare import tables as compare
from bench.compare.pictures.accuracy import within


@pytest.fixture
def sections(tmp_path):
    """Two methods with three seeds and one that trains nothing, on three tasks."""
    rng = np.random.default_rng(0)
    for method, seeds in {"keeplora": 3, "lora": 3, "zero-shot": 1}.items():
        for seed in range(seeds):
            path = make(tmp_path, method, seed=seed)
            measure(path, ["a", "b$", "c"], rng.integers(200, 900, size=(4, 3)) / 10)
            change(path, "summary.json", seconds={"total": 10.0, "load": 1.0, "train": 6.0 + seed})
            if method != "zero-shot":
                learn(path, [[3.0, 2.0 + seed], [1.0], [2.0, 1.5, 1.0]])
    return compare.sections(grouping.gather([tmp_path]))


@pytest.fixture
def view(sections):
    (found,) = views.views(sections)
    return found


def test_the_scatter_has_a_point_with_errors_for_every_method(view):
    (axes,) = pictures.scatter(view).axes
    *ours, bound = view.lines
    assert len(axes.containers) == len(ours) == 2 and bound.group.method == "zero-shot"
    for container, line in zip(axes.containers, ours, strict=True):
        points, _, (across, _) = container.lines
        assert points.get_xydata().tolist() == [[line.values["last"].mean, line.values["transfer_by_column"].mean]]
        (ends,) = across.get_segments()
        assert np.ptp(ends[:, 0]) == pytest.approx(2 * line.values["last"].standard_error)


def test_published_numbers_have_a_marker_of_their_own(tmp_path):
    known = mtil(tmp_path, last=1)
    (view,) = views.views(compare.sections(grouping.gather([tmp_path])))
    (axes,) = pictures.scatter(view).axes
    quoted = next(line for line in axes.lines if line.get_label() == "published")
    both = ([row.value("last"), row.value("transfer_by_column")] for row in known.rows)
    expected = [values for values in both if None not in values]
    assert quoted.get_xydata().tolist() == expected and quoted.get_markerfacecolor() == "none"


def cells(figure):
    return [axes for axes in figure.axes if axes.images]


def test_matrices_have_one_scale_and_their_numbers(view):
    drawn = cells(pictures.matrices(view))
    assert len({axes.images[0].get_clim() for axes in drawn}) == 1
    for axes, line in zip(drawn, view.lines, strict=True):
        assert np.array_equal(axes.images[0].get_array(), line.mean)
        assert [text.get_text() for text in axes.texts] == [f"{value:.1f}" for value in line.mean.flatten()]


def test_differences_are_to_the_baseline_on_a_symmetric_scale(view):
    keeplora, *others = view.lines
    drawn = cells(pictures.difference(view))
    for axes, line in zip(drawn, others, strict=True):
        change = line.mean - keeplora.mean
        assert np.array_equal(axes.images[0].get_array(), change)
        low, high = axes.images[0].get_clim()
        assert low == -high and high >= np.abs(change).max()
        assert axes.texts[0].get_text() == f"{change[0, 0]:+.1f}".replace("-", "−")


def test_curves_of_every_task(view):
    first, coming, *tasks = [axes for axes in pictures.curves(view).axes if axes.get_visible()]
    assert [axes.get_title() for axes in (coming, *tasks)] == ["mean of tasks to come", *view.tasks]
    spans = [np.ptp(axes.get_ylim()) for axes in (first, coming, *tasks)]
    assert spans == pytest.approx([spans[0]] * 5)
    for column, axes in enumerate(tasks):
        for container, line in zip(axes.containers, view.lines, strict=True):
            assert np.array_equal(container.lines[0].get_ydata(), line.mean[:, column])
    for drawn, line in zip(first.lines, view.lines, strict=True):
        learned = [line.mean[row, :row].mean() for row in (1, 2, 3)]
        assert drawn.get_ydata().tolist() == pytest.approx(learned)
    for drawn, line in zip(coming.lines, view.lines, strict=True):
        waiting = [line.mean[row, row:].mean() for row in (1, 2)]
        assert drawn.get_ydata()[:2].tolist() == pytest.approx(waiting) and np.isnan(drawn.get_ydata()[2:]).all()


@pytest.mark.parametrize(
    ("low", "high", "length", "bottom"),
    [(40, 60, 50, 25), (80, 99, 90, 10), (95, 102, 90, 12), (4, 20, 90, 0), (-4, 104, 108, -4), (1, 99, 110, 0)],
)
def test_an_axis_of_accuracies_does_not_go_beyond_100(low, high, length, bottom):
    """In the middle where it can be; it always holds the range."""
    assert within(low, high, length) == bottom <= low and bottom + length >= high


def test_costs_add_up(view):
    seconds, memory, stored = pictures.costs(view).axes
    widths = np.zeros(3)
    for phase in seconds.containers:
        widths += [bar.get_width() for bar in phase]
    assert widths[::-1].tolist() == pytest.approx([10, 10, 10])
    assert [bar.get_width() for bar in memory.patches] == [700.4] * 3
    assert [bar.get_width() for bar in stored.patches] == [2.5] * 3


def test_every_task_has_its_difference_and_its_interval(view):
    drawn = pictures.tasks(view).axes
    assert [axes.get_title() for axes in drawn] == ["lora", "zero-shot"]
    assert [text.get_text() for text in drawn[0].get_yticklabels()] == view.tasks
    against = view.section.against
    for axes, line in zip(drawn, view.lines[1:], strict=True):
        (row,) = per_task.apart(against, [line.group], view.tasks, "last")
        (container,) = axes.containers
        assert container.lines[0].get_xdata().tolist() == [one.mean for one in row]
        (arms,) = container.lines[2]
        for ends, one in zip(arms.get_segments(), row, strict=True):
            low, high = (one.mean, one.mean) if one.low is None else (one.low, one.high)
            assert ends[:, 0].tolist() == pytest.approx([low, high])
        low, high = axes.get_xlim()
        assert -100 <= low < 0 < high <= 100


def test_the_loss_falls_pass_by_pass(view):
    drawn = [axes for axes in pictures.losses(view).axes if axes.get_visible()]
    assert [axes.get_title() for axes in drawn] == view.tasks
    for task, axes in enumerate(drawn):
        assert len(axes.containers) == 2
        for container, line in zip(axes.containers, view.lines, strict=False):
            assert container.lines[0].get_ydata().tolist() == [one.mean for one in line.losses[task]]


def test_25_methods_are_points_and_of_their_curves_12_are_drawn_and_the_others_named(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(25):
        path = make(tmp_path, f"method-{number:02}", fingerprint=f"{number}")
        measure(path, ["a", "b"], rng.integers(200, 900, size=(3, 2)) / 10)
        learn(path, [[3.0, 2.0], [1.0]])
    (view,) = views.views(compare.sections(grouping.gather([tmp_path])))
    names = {line.short for line in view.lines}
    drawn = {view.lines[at].short for at in view.shown}
    for figure in (pictures.scatter(view), pictures.over_costs(view)):
        (legend,) = figure.legends
        assert {text.get_text() for text in legend.texts} == names
        looks = {(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles}
        assert len(looks) == 25
    curves = pictures.curves(view)
    (legend,) = curves.legends
    assert {text.get_text() for text in legend.texts} == drawn and len(drawn) == 12
    assert len({(one.get_color(), one.get_linestyle()) for one in legend.legend_handles}) == 12
    for figure in (curves, pictures.losses(view)):
        sentence = figure.get_supxlabel().partition("Not drawn, for want of room: ")[2].rstrip(".")
        assert sentence.replace("\n", " ").split(", ") == sorted(names - drawn)
    axes = curves.axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    curves.draw_without_rendering()
    inside = curves.bbox
    for box in (curves._supxlabel.get_window_extent(), legend.get_window_extent()):
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1


def test_many_settings_of_one_method_are_one_point(tmp_path):
    for number in range(13):
        make(tmp_path, fingerprint=f"{number}", method__rank=number, last=40 + number)
    (view,) = views.views(compare.sections(grouping.gather([tmp_path])))
    (axes,) = pictures.scatter(view).axes
    (container,) = axes.containers
    assert container.lines[0].get_xdata().tolist() == [52]


def test_accuracy_over_cost_has_open_markers_where_runs_shared_a_machine(tmp_path):
    for seed, method in enumerate(("keeplora", "lora")):
        change(make(tmp_path, method), "environment.json", host="a", started=f"2026-11-27T12:00:0{seed}+0000")
    (view,) = views.views(compare.sections(grouping.gather([tmp_path])))
    seconds, stored = pictures.over_costs(view).axes
    for axes, cost, open_ in ((seconds, 60.0, True), (stored, 2.5, False)):
        for container in axes.containers:
            points = container.lines[0]
            assert points.get_xydata().tolist() == [[cost, 50.0]]
            assert (points.get_markerfacecolor() == "white") == open_
    labels = [text.get_text() for text in pictures.costs(view).axes[0].get_yticklabels()]
    assert labels == ["lora *", "keeplora *"]


@pytest.mark.slow
def test_the_same_runs_give_the_same_files(sections, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DPI", 40)
    first, second = (pictures.write(sections, tmp_path / name) for name in ("one", "two/deep"))
    assert sorted(path.name for path in first) == sorted(
        f"pocket-pocket-{name}.{ending}" for name in pictures.DRAWN for ending in ("svg", "png")
    )
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
        if one.suffix == ".svg":
            assert b"<dc:date>" not in one.read_bytes() and b"<text" not in one.read_bytes()


def test_fields_have_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DRAWN", {"scatter": pictures.scatter})
    monkeypatch.setattr(pictures, "DPI", 40)
    make(tmp_path, train__epochs=1)
    make(tmp_path, "lora", train__epochs=5)
    make(tmp_path, stream="a/b c")
    assert cli.main(["compare", str(tmp_path), f"pictures={tmp_path / 'out'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.svg")) == [
        "a-b-c-pocket-scatter.svg", "pocket-pocket-1-scatter.svg", "pocket-pocket-2-scatter.svg",
    ]  # fmt: skip


def test_what_cannot_be_drawn_is_an_error(tmp_path, capsys):
    runs = tmp_path / "runs"
    make(runs, finished=False)
    assert cli.main(["compare", str(runs), f"pictures={tmp_path / 'out'}"]) == 2
    assert "there is nothing to draw" in capsys.readouterr().err and not (tmp_path / "out").exists()
    make(runs, seed=1)
    (tmp_path / "file").write_text("")
    assert cli.main(["compare", str(runs), f"pictures={tmp_path / 'file'}"]) == 2
    assert "cannot be written (File exists): name a folder elsewhere" in capsys.readouterr().err


def test_a_run_without_a_matrix_has_a_point_and_costs(tmp_path):
    (make(tmp_path) / "accuracy.csv").unlink()
    (view,) = views.views(compare.sections(grouping.gather([tmp_path])))
    assert pictures.matrices(view) is pictures.difference(view) is pictures.curves(view) is None
    assert pictures.tasks(view) is pictures.losses(view) is None
    assert pictures.scatter(view).axes and pictures.costs(view).axes


def test_cells_that_are_missing_are_left_open(tmp_path):
    measure(make(tmp_path), ["a", "b"], [[30, None], [None, None], [70, 90]])
    (view,) = views.views(compare.sections(grouping.gather([tmp_path])))
    (axes,) = cells(pictures.matrices(view))
    assert [text.get_text() for text in axes.texts] == ["30.0", "70.0", "90.0"]
    first = pictures.curves(view).axes[0]
    assert np.isnan(first.lines[0].get_ydata()[0]) and first.lines[0].get_ydata()[1] == 80

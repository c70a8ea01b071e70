"""What comes out of a recipe: every word resolves, every expected row is published, every number is marked."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import fake_trees
import pytest
from support.made_records import change, make, measure

from bench.cli import main as cli
from bench.compare.published import find as published
from bench.config import registry
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.recipes.answers import answers, known, marked
from bench.recipes.recipe import Recipe, find, recipes

RECIPES = recipes()


@functools.cache
def all_known(name):
    return known(RECIPES[name])


def record(root, recipe, percent, *words):
    """Make a finished record for every point of a recipe: ``percent`` has (stage, column, table) as input."""
    for point in find(recipe).points([f"out={root}", *words]).points:
        flat = resolve(point.words).flat
        stream, model, method = (flat[f"{kind}.name"] for kind in ("stream", "model", "method"))
        table = published(stream)
        fingerprint, _, seed = point.directory.name.rpartition("-s")
        settings = {
            key.replace(".", "__"): value
            for key, value in flat.items()
            if key.startswith(("stream.", "seeds.")) and key not in ("stream.name", "seeds.init")
        }
        where = {"fingerprint": fingerprint, "stream": stream, "model": model}
        made = make(root / "made", method, int(seed), **where, **settings)
        order = flat["seeds.task_order"]
        drawn = {"seeds": {"task_order": order}, "manifests": {"images": f"{order}" * 16}} if order else {}
        change(made, "identity.json", label_space=flat["stream.label_space"], **drawn)
        size = len(table.tasks)
        measure(made, table.tasks, [[percent(i, j, table) for j in range(size)] for i in range(size + 1)])
        point.directory.parent.mkdir(parents=True, exist_ok=True)
        made.rename(point.directory)


def row_of(stream, method):
    return next(row for row in published(stream).rows if row.method == method)


def verdicts(recipe, root, *words):
    found = [each for one in known(find(recipe), [f"out={root}", *words]) for each in marked(find(recipe), one)[0]]
    return [[answer.verdict for answer in each.answers] for each in found]


# ---------------------------------------------------------------------------------------------- the recipes


def test_there_is_a_recipe_for_what_is_published_and_known():
    assert {
        *(f"{name}-mtil{order}" for name in ("keeplora", "keeplora-plus", "diki", "zscl", "zscl-baselines",
                                            "moe-adapters", "zero-shot") for order in (1, 2)),
        "lora-mtil1", "inflora-mtil1", "codyra-xtail", "lora-xtail", "rail-xtail", "loda-cifar100", "inflora-cifar100",
        "moe-adapters-cifar100", "zero-shot-mtil-fewshot", "zero-shot-mtil-agnostic", "zero-shot-xtail",
        "zero-shot-cifar100", "zero-shot-imagenet-r", "zero-shot-cub200", "zero-shot-weights", "zero-shot-prompts",
    } <= set(RECIPES)  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_word_of_a_recipe_resolves_and_every_expected_row_is_published(name):
    recipe = RECIPES[name]
    found = all_known(name)  # resolves every point
    head = recipe.file.read_text(encoding="utf-8").splitlines()[:3]
    assert [line.partition(":")[0] for line in head] == ["# Question", "# Figure", "# Time"]
    assert f"# Time: {sum(len(one.points) for one in found)} run" in head[2]
    methods = {one.method for one in found}
    assert set(recipe.expected) <= methods
    for method, rows in recipe.expected.items():
        for row in rows:
            here = [one for one in found if one.method == method and row in {each.method for each in one.rows}]
            assert here, f"{name}: no stream of it has a published row {row}"
            for one in here:
                assert all(method in each.registered for each in one.rows), f"{row} is no result of {method}"
                assert one.model == one.of
    for one in found:
        names = [each.method for each in one.rows]
        assert len(set(names)) == len(names), f"{name}: two rows of one name"
        if recipe.zero_shot:
            assert one.rows and set(one.bands) == set(one.tasks)
    if not recipe.expected and not recipe.zero_shot:
        assert "no number of it is known here" in recipe.title
        assert not any(
            any(one.method in row.registered for row in table.rows)
            for one in found
            if (table := published(one.stream)) is not None
        ), f"{name}: there is a row of it"


def test_every_published_row_of_a_method_here_has_a_recipe():
    every = [row for name in RECIPES for one in all_known(name) for row in one.rows]
    expected = {(row.method, row.source, str(row.conditions)) for row in every}
    tables = [table for name in registry.entries("stream") if (table := published(name)) and name != "pocket"]
    missing = [
        (table.stream, row.method)
        for table in tables
        for row in table.rows
        if row.registered and (row.method, row.source, str(row.conditions)) not in expected
    ]
    assert missing == [("mtil-order1", "Dual-RAIL")]  # it refuses as many images; pocket has our own results


def test_every_stream_that_learns_tasks_of_real_images_has_a_gate():
    gates = {one.stream for name in RECIPES if name.startswith("zero-shot") for one in all_known(name)}
    own = {"custom", "pocket", "pocket-tuning"}
    assert gates == {name for name in registry.entries("stream") if not name.startswith("forget")} - own


def test_the_page_of_recipes_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    import recipes_table

    monkeypatch.setattr(recipes_table, "known", lambda recipe: all_known(recipe.name))
    text = recipes_table.PAGE.read_text(encoding="utf-8")
    assert text == recipes_table.page(text), "docs/recipes.md is out of date: python docs/recipes_table.py"
    assert all(f"| `{name}` |" in text for name in RECIPES)


# ------------------------------------------------------------------------------------------------- marked


def test_numbers_of_a_recipe_are_within_above_below_or_not_run(tmp_path):
    matrix = row_of("mtil-order1", "ZSCL").matrix
    assert verdicts("zscl-mtil1", tmp_path) == [["not run"] * 121]
    said = answers(find("zscl-mtil1"), [f"out={tmp_path}"]).splitlines()
    assert said[1].startswith("zscl-full-faithful beside ZSCL (") and said[1].endswith(": 0 of 121 within, 121 not run")

    def percent(stage, column, table):
        if (stage, column) in ((1, 0), (3, 2)):
            return 99.0 if stage == 1 else 10.0
        return None if (stage, column) == (11, 10) else matrix[max(stage, 1) - 1][column]

    record(tmp_path, "zscl-mtil1", percent)
    (found,) = verdicts("zscl-mtil1", tmp_path)
    assert [found.count(one) for one in ("within", "above", "below", "not run")] == [118, 1, 1, 1]
    assert (found[0], found[2 * 11 + 2], found[-1]) == ("above", "below", "not run")
    text = answers(find("zscl-mtil1"), [f"out={tmp_path}"])
    assert "\nzscl-mtil1: 118 of 121 within, 1 above, 1 below, 1 not run\n" in text
    assert "standard error = sqrt((1 + 1/n) p (1 - p) / images)" in text


def test_a_recipe_counts_its_own_points_and_expected_rows_only(tmp_path):
    matrix = row_of("mtil-order1", "LwF").matrix
    record(tmp_path, "zscl-baselines-mtil1", lambda stage, column, table: matrix[max(stage, 1) - 1][column])
    record(tmp_path, "zscl-mtil1", lambda stage, column, table: 1.0)  # beside them, and no points of the recipe
    recipe = find("zscl-baselines-mtil1")
    found = [(each.group.method, each.row.method, each.summary) for one in known(recipe, [f"out={tmp_path}"])
             for each in marked(recipe, one)[0]]  # fmt: skip
    assert [pair[:2] for pair in found] == [
        ("finetune", "continual fine-tuning"), ("lwf-faithful", "LwF"), ("icarl-faithful", "iCaRL"),
        ("lwf-vr-faithful", "LwF-VR"), ("wise-ft-faithful", "WiSE-FT"),
    ]  # fmt: skip
    assert found[1][2] == "121 of 121 within" and "above" in found[0][2] and "below" in found[0][2]


def test_rows_with_means_only_take_the_tolerance_of_the_recipe_and_say_why(tmp_path):
    assert row_of("mtil-order1", "NuSA-CL").values == {  # Transfer, Average, Last
        "transfer_by_column": 68.6, "average_mtil": 75.1, "last": 82.8,
    }  # fmt: skip
    recipe = find("nusa-cl-mtil1")
    assert recipe.tolerance == 2.5

    def percent(stage, column, table):
        return 82.8 + 2.4 if stage > column else 68.6 - 2.6  # Transfer is below, Last within

    record(tmp_path, "nusa-cl-mtil1", percent)
    (found,) = verdicts("nusa-cl-mtil1", tmp_path)
    average = sum(percent(i + 1, j, None) for i in range(11) for j in range(11)) / 121
    assert found == ["below", "within" if abs(average - 75.1) <= 2.5 else "above", "within"]
    text = answers(recipe, [f"out={tmp_path}"])
    assert "\n2.5 points" in text and f"not farther apart than\n2.5 points, since {recipe.why}" in text
    assert "standard error" not in text


def test_class_incremental_scalars_are_marked(tmp_path):
    record(tmp_path, "zero-shot-cifar100", lambda stage, column, table: 68.2 if column < max(stage, 1) else None)
    assert verdicts("zero-shot-cifar100", tmp_path) == [["within"]] * 3
    assert all(one.rows[0].values == {"last_pooled": 68.2} for one in all_known("zero-shot-cifar100"))


@pytest.mark.parametrize(("name", "last"), [("inflora-cifar100", 80.9), ("loda-cifar100", 81.1)])
def test_seeds_and_orders_of_a_recipe_are_one_number(name, last, tmp_path):
    record(tmp_path, name, lambda stage, column, table: last if column < max(stage, 1) else None)
    recipe = find(name)
    (one,) = known(recipe, [f"out={tmp_path}"])
    (found,), notes = marked(recipe, one)
    assert len(one.points) == 3 and [answer.n for answer in found.answers] == [3, 3] and not notes
    assert [answer.verdict for answer in found.answers] == ["below", "within"]  # the average is above the last


def test_the_gate_on_single_prompts_has_a_band_for_each_test_set(tmp_path):
    recipe = find("zero-shot-prompts")
    first = known(recipe)[0]
    theirs = first.rows[0].columns["last"]
    assert (theirs["Caltech101"], first.bands["Caltech101"]) == (88.4, 6)
    off = {"Caltech101": 5.9, "DTD": -5.1, "MNIST": 10.1}
    record(
        tmp_path, "zero-shot-prompts",
        lambda stage, column, table: theirs[table.tasks[column]] + off.get(table.tasks[column], 0.0),
    )  # fmt: skip
    one = dict(zip(first.tasks, verdicts("zero-shot-prompts", tmp_path)[0], strict=True))
    assert {task: one[task] for task in off} == {"Caltech101": "within", "DTD": "below", "MNIST": "above"}
    assert set(one.values()) == {"within", "below", "above"}
    assert "band of each test set in datasets/published/mtil-zero-shot.json" in answers(recipe, [f"out={tmp_path}"])


def test_every_model_of_a_gate_has_its_own_accuracies():
    found = all_known("zero-shot-weights")
    cifar = {one.model: one.rows[0].columns["last"]["CIFAR100"] for one in found}
    assert cifar["ViT-B-16/laion400m_e32"] == 71.16 and cifar["ViT-L-14/openai"] == 75.82 and len(cifar) == 7


def test_runs_with_another_model_are_not_compared(tmp_path):
    record(tmp_path, "keeplora-mtil1", lambda stage, column, table: 69.0, "model=pocket")
    words = [f"out={tmp_path}", "model=pocket"]
    assert verdicts("keeplora-mtil1", tmp_path, "model=pocket") == [["not run"] * 7]
    text = answers(find("keeplora-mtil1"), words)
    assert "not compared: these runs are of pocket, and the numbers of ViT-B-16/openai" in text
    assert "the recipe has not model=pocket" in text and "out=" not in text.rpartition("note:")[2]


def test_a_recipe_without_a_known_number_says_so(tmp_path, capsys):
    assert cli.main(["recipe", "zero-shot-xtail", "compare", f"out={tmp_path}", "launch=local"]) == 0
    assert "nothing is published of zero-shot here" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean"):
        answers(find("zero-shot-xtail"), ["train.epoch=1"])


def test_a_word_that_was_forgotten_is_asked_for(tmp_path):
    text = answers(find("nusa-cl-mtil1"), [f"out={tmp_path}"])
    assert (
        f"note: no run of it is finished in {tmp_path}:" in text and "the words that the runs were started with" in text
    )
    record(tmp_path, "nusa-cl-mtil1", lambda stage, column, table: 70.0)
    assert "no run of it is finished" not in answers(find("nusa-cl-mtil1"), [f"out={tmp_path}"])


def test_a_damaged_record_is_left_out_with_a_note(tmp_path):
    record(tmp_path, "nusa-cl-mtil1", lambda stage, column, table: 70.0)
    (point,) = find("nusa-cl-mtil1").points([f"out={tmp_path}"]).points
    (point.directory / "identity.json").write_text("{")
    text = answers(find("nusa-cl-mtil1"), [f"out={tmp_path}"])
    assert "0 of 3 within, 3 not run" in text and f"note: {point.directory}: " in text


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        ({"keeplora-official": ("KeepLoRa",)}, '"KeepLoRa" is no published row of its streams (did you mean "'),
        ({"keeplora-oficial": ("KeepLoRA",)}, '"keeplora-oficial" is no method of its sweep file (did you mean "'),
    ],
)
def test_a_wrong_name_among_what_is_expected_is_one_sentence(expected, sentence):
    recipe = replace(find("keeplora-mtil1"), expected=expected)
    with pytest.raises(UserError) as failed:
        known(recipe)
    assert sentence in str(failed.value) and str(failed.value).endswith("expected.yaml")
    assert "\n" not in str(failed.value)
    assert known(recipe, ["method=lora"])[0].rows == ()  # runs of another method need none of its names


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model": "x"}', '{"models": {"ViT-B-16/openai": {}}}'])
def test_a_damaged_file_of_accuracies_is_one_sentence(content, tmp_path, monkeypatch):
    (tmp_path / "published").mkdir()
    if content is not None:
        (tmp_path / "published" / "mine.json").write_text(content)
    entry = replace(registry.entries("stream")["mtil-order1"], path=tmp_path / "stream.py")
    recipe = replace(find("zero-shot-mtil1"), zero_shot="mine")
    points = recipe.points()
    resolved = resolve(points.points[0].words)
    monkeypatch.setattr(Recipe, "points", lambda self, words: points)
    monkeypatch.setattr(registry, "entries", lambda kind: {"mtil-order1": entry})
    monkeypatch.setattr("bench.recipes.answers.resolve", lambda words: resolved)
    with pytest.raises(UserError, match=r"published.mine.json cannot be read \([^\n]+\): correct it$"):
        known(recipe)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{title: a, expected: {}, tolerance: -1, why: b}", "tolerance is a number of points above 0, as in 1.0"),
        ("{title: a, expected: {}, tolerance: .nan, why: b}", "tolerance is a number of points above 0, as in 1.0"),
        ("{title: [a], expected: {}}", "title is text"),
        ("{title: a, expected: {}, zero_shot: null}", "zero_shot is text"),
        ("{title: a, expected: {}, tolerances: 1}", 'has the unknown key "tolerances" (did you mean "tolerance"?)'),
        ("{title: a, expected: {lora: LoRA}}", "expected maps a method to the names of published rows"),
        ("{title: a, expected: {}, tolerance: 1}", "tolerance and why belong together"),
        ("{title: a", "is no YAML"),
        ("[a]", "needs title and expected"),
    ],
)
def test_a_damaged_entry_is_one_sentence(entry, sentence, tmp_path):
    (tmp_path / "mine.yaml").write_text("method: grid")
    (tmp_path / "expected.yaml").write_text(f"mine: {entry}\n")
    with pytest.raises(UserError) as failed:
        recipes(tmp_path)
    assert sentence in str(failed.value) and "\n" not in str(failed.value)
    assert str(tmp_path / "expected.yaml") in str(failed.value)


@pytest.mark.slow
def test_a_recipe_runs_from_end_to_end(tmp_path, capsys, monkeypatch):
    """On small trees with the embedded model, started as a user would; then as if it had been the published model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for make_one in fake_trees.MTIL.values():
        make_one(tmp_path / "data")
    budget = [
        "train.steps=1",
        "train.batch_size=4",
        "train.schedule=constant",
        "threads=1",
        "device=cpu",
        f"out={tmp_path / 'runs'}",
    ]
    line = ["recipe", "keeplora-mtil1", f"data={tmp_path / 'data'}", "model=pocket", *budget]
    assert cli.main([*line, "launch=local", "launch.processes=1"]) == 0
    capsys.readouterr()
    assert cli.main(["recipe", "keeplora-mtil1", "status", *line[2:]]) == 0
    assert "finished" in capsys.readouterr().out
    assert cli.main(["recipe", "keeplora-mtil1", "compare", *line[2:]]) == 0
    assert "keeplora-mtil1: 0 of 7 within, 7 not run" in capsys.readouterr().out

    (run,) = (path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    settings = json.loads((run / "identity.json").read_text())["settings"]
    settings["model.name"]["value"] = "ViT-B-16/openai"
    change(run, "identity.json", settings=settings)
    change(run, "summary.json", model="ViT-B-16/openai")
    (point,) = find("keeplora-mtil1").points(budget).points
    point.directory.parent.mkdir(parents=True)
    shutil.move(run, point.directory)
    assert cli.main(["recipe", "keeplora-mtil1", "compare", *budget]) == 0
    said = capsys.readouterr().out
    assert "keeplora-official (1 seed) beside KeepLoRA" in said and "not run" not in said
    (found,) = verdicts("keeplora-mtil1", tmp_path / "runs", *budget[:-1])
    assert len(found) == 7 and set(found) <= {"within", "above", "below"}

"""Settings chosen for methods: the grid that ``tune`` runs, what it chooses, the file that ``run settings=`` reads."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench.datasets import pocket
from conftest import METHOD, STREAM

from bench.api import Stream
from bench.cli.main import main
from bench.config import registry
from bench.config.chosen import Chosen, chosen_text, read_chosen
from bench.config.fingerprint import fingerprint
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.runs.result import run
from bench.sweep import verbs
from bench.sweep.best import choose, tried
from bench.sweep.file import Sweep, expand
from bench.sweep.points import Point

COMMAND = ["${env}", "${interpreter}", "-m", "bench", "run", "${args_no_hyphens}"]
RATES = [0.1, 0.01, 0.001]
TOY = str(Path(__file__).parent / "toy.py")


@pytest.fixture
def grid(toys, tmp_path, monkeypatch):
    """Return a function that writes a grid over stand-in plug-ins; no point is ever started."""
    monkeypatch.setattr("bench.sweep.processes.start", lambda *args: pytest.fail("a point was started"))

    def write(name: str = "some", **more: Any) -> Path:
        parameters = {"out": {"value": str(tmp_path / "runs")}, "train.lr": {"values": RATES}, **more}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters, "command": COMMAND}))
        return file

    return write


@pytest.fixture
def say(capsys):
    def call(*words: str) -> tuple[int, str]:
        status = main(["tune", *words])
        output = capsys.readouterr()
        return status, output.out + output.err

    return call


def points(file: Path, *words: str, seeds: tuple[int, ...] = (0, 1)) -> tuple[Point, ...]:
    """The points that ``tune`` makes of a grid."""
    fixed = {"evaluate.split": {"value": "validation"}, "seed": {"values": list(seeds)}}
    return expand(file, words, instead=fixed).points


def finish(point: Point, revision: str = "abc", **metrics: float) -> None:
    """Write the record of a finished point."""
    point.directory.mkdir(parents=True)
    names = {"stream": "s", "model": "m", "method": "n", "fingerprint": "f", "seed": 0}
    summary = {"status": "finished", **names, "metrics": metrics, "seconds": {}}
    (point.directory / "summary.json").write_text(json.dumps(summary))
    (point.directory / "identity.json").write_text(json.dumps({"settings": {}, "code_revision": revision}))


def finish_all(file: Path, *words: str, values: tuple[float, ...] = (90, 10, 60, 62, 50, 60)) -> tuple[Point, ...]:
    found = points(file, *words)
    for point, value in zip(found, values, strict=True):
        finish(point, average_mtil=value, last=100 - value)
    return found


# ------------------------------------------------------------------------------------------------ the choice


def test_the_highest_mean_over_the_seeds_is_chosen_and_written_with_all_that_was_tried(grid, say, tmp_path):
    file = grid()
    words = ["method=toy", "stream=pocket", "method.rank=6", "train.epochs=1"]
    found = finish_all(file, *words)
    status, out = say(*words, f"grid={file}")
    target = tmp_path / "runs" / "pocket" / "pocket" / "tuned.yaml"
    assert status == 0
    lines = out.splitlines()
    assert "average_mtil on validation images, the mean over seeds:" in lines
    assert "chosen for toy on pocket: method.rank=6 train.lr=0.01" in lines
    assert lines[-1] == f"{target} has what was chosen: python -m bench run method=NAME settings={target}"
    entry = read_chosen(target)["toy"]
    assert entry.settings == {
        "method.rank": 6,
        "train.lr": 0.01,
    }  # the rank holds for the rate, the epochs are the stream's
    assert entry.under == {"train.epochs": 1}
    assert (entry.stream, entry.model, entry.criterion, entry.split) == (
        "pocket",
        "pocket",
        "average_mtil",
        "validation",
    )
    assert (entry.seeds, entry.grid, entry.revisions) == ([0, 1], "some", ["abc"])
    assert [(one["settings"]["train.lr"], one["mean"], one["values"]) for one in entry.tried] == [
        (0.01, 61.0, [60.0, 62.0]),
        (0.001, 55.0, [50.0, 60.0]),
        (0.1, 50.0, [90.0, 10.0]),
    ]
    assert entry.tried[0]["fingerprint"] == fingerprint(resolve(found[2].words).flat)
    pasted = shlex.split(next(line for line in lines if line.startswith("python -m bench run")))[4:]
    assert pasted == ["method=toy", "method.rank=6", "train.lr=0.01"]
    by_file = resolve(["method=toy", f"settings={target}"])
    assert fingerprint(by_file.flat) == fingerprint(resolve(pasted).flat)


def test_the_choice_is_a_pure_function_of_the_records(grid, say, tmp_path):
    file = grid()
    finish_all(file, "method=toy", "stream=pocket")
    words = ["method=toy", "stream=pocket", f"grid={file}", f"to={tmp_path / 'to.yaml'}"]
    assert say(*words)[0] == 0
    first = (tmp_path / "to.yaml").read_bytes()
    assert say(*words)[0] == 0 and (tmp_path / "to.yaml").read_bytes() == first
    entry = choose(tried(points(file, "method=toy", "stream=pocket"), "average_mtil"), "average_mtil", "some")
    assert read_chosen(tmp_path / "to.yaml") == {"toy": entry}


def test_another_metric_decides_where_one_is_asked_for(grid, say):
    file = grid()
    finish_all(file, "method=toy", "stream=pocket")
    for word in ("last", "final/last", "Last"):
        out = say("method=toy", "stream=pocket", f"grid={file}", f"metric={word}")[1]
        assert "last on validation images" in out and "chosen for toy on pocket: train.lr=0.1\n" in out


def test_requests_to_forget_are_chosen_by_their_h_mean(grid, say, toys):
    toys.write(
        "methods/toy_method.py", METHOD.replace("    label_spaces =", '    kinds = ("forgetting",)\n    label_spaces =')
    )
    toys.write(
        "datasets/toy_data.py", STREAM.replace("    label_space =", '    kind = "forgetting"\n    label_space =')
    )
    file = grid()
    for point, value in zip(points(file, "method=toy", "stream=pocket"), (90, 10, 60, 62, 50, 60), strict=True):
        finish(point, h_mean=value)
    out = say("method=toy", "stream=pocket", f"grid={file}")[1]
    assert "h_mean on validation images" in out and "chosen for toy on pocket: train.lr=0.01\n" in out
    status, out = say("method=toy", "stream=pocket", f"grid={file}", "metric=last")
    assert status == 2 and "metric=last is not measured where streams ask to forget: choose forgotten," in out


def test_of_equal_means_the_smaller_rate_wins_wherever_it_stands(grid):
    found = finish_all(grid(), "method=toy", "stream=pocket", values=(60, 50, 50, 60, 54, 55))
    assert [one.label for one in tried(found, "average_mtil")] == ["train.lr=0.01", "train.lr=0.1", "train.lr=0.001"]


def test_nothing_is_chosen_while_a_point_is_missing_unless_asked_for(grid, say, monkeypatch, tmp_path):
    file = grid()
    found = points(file, "method=toy", "stream=pocket")
    for point in found[1:]:
        finish(point, average_mtil=float(point.number))
    monkeypatch.setattr(verbs, "run_points", lambda found, launch: 130)  # interrupted
    words = ["method=toy", "stream=pocket", f"grid={file}"]
    status, out = say(*words)
    assert status == 130
    assert "nothing is chosen for toy: 1 of 6 points have no average_mtil yet; the same line continues, and" in out
    assert not list(tmp_path.rglob("tuned.yaml"))
    monkeypatch.setattr(verbs, "run_points", lambda found, launch: pytest.fail("a point was started"))
    status, out = say(*words, "partial=true")
    assert status == 0 and "chosen for toy on pocket: train.lr=0.001" in out
    entry = read_chosen(tmp_path / "runs" / "pocket" / "pocket" / "tuned.yaml")["toy"]
    assert "mean" not in entry.tried[-1] and entry.tried[-1]["values"] == [2.0]
    status, out = say("method=toy", "stream=pocket", f"grid={file}", "seeds=[7]", "partial=true")
    assert status == 1 and out.endswith("no average_mtil yet; the same line without partial=true continues\n")


def test_a_metric_that_is_not_defined_chooses_nothing(grid, say):
    file = grid()
    finish_all(file, "method=toy", "stream=pocket")
    status, out = say("method=toy", "stream=pocket", f"grid={file}", "metric=transfer")
    assert status == 1 and "nothing is chosen for toy: 6 of 6 points have no transfer_by_column" in out


# -------------------------------------------------------------------------------------------------- the grid


def shown(say: Any, *words: str) -> list[list[str]]:
    """The words of the points of a line."""
    status, out = say(*words, "dry_run=true")
    assert status == 0, out
    return [line.split() for line in out.splitlines() if line.startswith("   ")]


def test_every_setting_has_the_seeds_of_the_line_or_of_the_grid_or_two(grid, say):
    line = ["method=toy", "stream=pocket"]

    def seeds(*words: str) -> list[int]:
        return [resolve(one).run.seed for one in shown(say, *line, *words)]

    assert sorted(seeds(f"grid={grid()}")) == [0, 0, 0, 1, 1, 1]
    assert sorted(seeds(f"grid={grid(seed={'values': [3, 4, 5]})}")) == [3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert sorted(seeds(f"grid={grid(seed={'values': [3, 4, 5]})}", "seeds=[7]")) == [7, 7, 7]
    assert all(resolve(one).run.evaluate.split == "validation" for one in shown(say, *line, f"grid={grid()}"))


OTHER = METHOD.replace('"toy"', '"other"').replace("class Toy", "class Other")
STILL = OTHER.replace('"other"', '"still"').replace("    label_spaces", "    constant = True\n    label_spaces")


def test_several_methods_are_one_sweep_with_a_choice_each(grid, say, toys, tmp_path):
    toys.write("methods/other.py", OTHER)
    file, to = grid(), tmp_path / "to.yaml"
    for method, values in (("toy", (3, 3, 2, 2, 1, 1)), ("other", (1, 1, 2, 2, 3, 3))):
        finish_all(file, f"method={method}", "stream=pocket", values=values)
    words = ["stream=pocket", f"grid={file}", f"to={to}"]
    to.write_text("kept: {settings: {train.lr: 0.5}}\n")
    status, out = say("method=[toy,other]", *words)
    assert status == 0 and "12 of 12 points are finished already" in out
    assert "other train.lr=0.1 seed=0" in out and "\n  12  finished" in out
    rates = {name: one.settings["train.lr"] for name, one in read_chosen(to).items()}
    assert rates == {"kept": 0.5, "other": 0.001, "toy": 0.1}
    assert say("method=all", *words)[0] == 0


def test_a_method_that_is_never_trained_has_nothing_to_tune(grid, say, toys):
    toys.write("methods/still.py", STILL)
    status, out = say("method=still", "stream=pocket", f"grid={grid()}")
    said = "still is never trained, and the grid has settings of training only: there is nothing to tune"
    assert (status, out) == (2, f"error: {said}: choose another method, or a grid of its own settings with grid=FILE\n")
    finish_all(grid(), "method=toy", "stream=pocket")
    status, out = say("method=all", "stream=pocket", f"grid={grid()}")
    assert status == 0 and out.startswith(f"note: {said}\n")
    assert len(shown(say, "method=still", "stream=pocket", f"grid={grid(**{'method.rank': {'values': [2, 4]}})}")) == 12


def test_a_method_may_have_a_grid_of_its_own_beside_the_common_one(grid, say, toys):
    toys.write("methods/other.py", OTHER)
    common = grid()
    grid("some_other", **{"method.rank": {"values": [2, 4]}})
    lines = shown(say, "method=[toy,other]", "stream=pocket", f"grid={common}")
    of = [resolve(one) for one in lines]
    assert [one.run.method for one in of] == ["toy"] * 6 + ["other"] * 12
    assert {one.flat["method.rank"] for one in of if one.run.method == "other"} == {2, 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stream=pocket"], "tune needs a method: method=NAME, a file.py, a list as in method=[lora,keeplora], or"),
        (["method=toy"], "tune needs the stream to choose on: stream=NAME, another one than the results will be of"),
        (["some.yaml", "method=toy", "stream=pocket"], "tune takes KEY=VALUE words, and perhaps status: python -m"),
        (["method=tyo", "stream=pocket"], 'unknown method "tyo" (did you mean "toy"?)'),
        (["method=toy", "stream=pocket", "evaluate.split=test"], "tune chooses on validation images: leave"),
        (["method=toy", "stream=pocket", "train.lr=1"], "train.lr=1 would replace train.lr, which"),
        (["method=toy", "stream=pocket", "metric=avrage"], 'metric=avrage names no metric (did you mean "average"?)'),
        (["method=toy", "stream=pocket", "seeds=3"], "seeds=3 must be a list of int"),
        (["method=toy", "stream=pocket", "seed=3"], "tune runs every setting with each of its seeds: write seeds=[3]"),
        (["method=toy", "stream=pocket", "gird=x"], 'unknown word "gird" of tune (did you mean "grid"?)'),
        (["method=toy", "stream=pocket", "sort=last"], "sort=last sorts the table of status: write status beside it"),
    ],
)
def test_bad_lines_start_nothing(grid, say, words, said):
    file = grid()
    status, out = say(*words, *([] if "gird=x" in words else [f"grid={file}"]))
    assert status == 2 and out.startswith(f"error: {said}") and out.count("error: ") == 1


def test_grids_that_choose_nothing_are_refused(grid, say):
    line = ["method=toy", "stream=pocket"]
    for key in ("out", "stream.tasks", "seeds.init", "method"):
        file = grid(**{key: {"values": ["a", "b"]}})
        said = f"error: {file} varies {key}: a grid of tune may vary settings of the method and of training, and seed\n"
        assert say(*line, f"grid={file}") == (2, said)
    file = grid(**{"train.lr": {"value": 0.1}})
    assert say(*line, f"grid={file}") == (
        2,
        f"error: {file} has one setting only: give a setting of the method or of training more values\n",
    )
    content = yaml.safe_load(file.read_text())
    content["parameters"]["train.lr"] = {"min": 0.1, "max": 0.5}
    file.write_text(yaml.safe_dump({**content, "method": "random", "run_cap": 3}))
    said = f"error: {file} does not try every setting with every seed: write method: grid, without run_cap\n"
    assert say(*line, f"grid={file}") == (2, said)


def test_a_file_that_is_none_is_refused_before_anything_runs(grid, say, tmp_path):
    to = tmp_path / "to.yaml"
    to.write_text("some: text\n")
    status, out = say("method=toy", "stream=pocket", f"grid={grid()}", f"to={to}")
    assert status == 2 and "to.yaml: some must hold settings" in out


@pytest.mark.parametrize("to", ["folder", "file/to.yaml", "badlink.yaml"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(grid, say, tmp_path, monkeypatch, to):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "badlink.yaml").symlink_to(tmp_path / "file" / "no.yaml")
    monkeypatch.setattr(verbs, "run_points", lambda found, launch: pytest.fail("a point was started"))
    status, out = say("method=toy", "stream=pocket", f"grid={grid()}", f"to={tmp_path / to}")
    assert status == 2 and out.startswith(f"error: cannot write to {tmp_path / to} (") and "with to=FILE" in out


def test_choices_that_others_write_meanwhile_stay(grid, say, tmp_path, monkeypatch):
    file, to = grid(), tmp_path / "to.yaml"
    finish_all(file, "method=toy", "stream=pocket")
    theirs = "lora: {settings: {train.lr: 0.5}}\n"
    monkeypatch.setattr(verbs, "run_points", lambda found, launch: to.write_text(theirs) and 0)
    assert say("method=toy", "stream=pocket", f"grid={file}", f"to={to}")[0] == 0
    assert sorted(read_chosen(to)) == ["lora", "toy"]


def test_a_link_is_read_and_stays_a_link(grid, say, tmp_path):
    file, to, link = grid(), tmp_path / "to.yaml", tmp_path / "link.yaml"
    finish_all(file, "method=toy", "stream=pocket")
    to.write_text("lora: {settings: {train.lr: 0.5}}\n")
    link.symlink_to(to)
    assert say("method=toy", "stream=pocket", f"grid={file}", f"to={link}")[0] == 0
    assert link.is_symlink() and sorted(read_chosen(to)) == ["lora", "toy"]
    assert resolve(["method=toy", f"settings={link}"]).flat["train.lr"] == 0.01


def test_all_leaves_out_what_does_not_support_the_label_space(grid, say, toys):
    toys.write("methods/other.py", OTHER.replace('label_spaces = ("task", "seen")', 'label_spaces = ("task",)'))
    lines = shown(say, "method=all", "stream=pocket", "method.rank=2", f"grid={grid()}")
    assert {resolve(one).run.method for one in lines} == {"toy"}
    status, out = say("method=all", "stream=pocket", f"grid={grid()}", "dry_run=true")
    assert status == 0 and out.startswith("note: other left out: the label space 'seen' of the stream is not supported")


def test_two_files_with_one_name_of_a_method_are_refused(grid, say, toys, tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    status, out = say(f"method=[toy,{tmp_path / 'mine.py'}]", "stream=pocket", f"grid={grid()}")
    assert status == 2 and out == "error: method= names toy twice, and a file has one choice for it: leave one out\n"


# -------------------------------------------------------------------------------------------- settings=FILE


@pytest.fixture
def file(toys, tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("toy: {settings: {train.lr: 3e-3, method.rank: 6, method.maps: [k]}}\nother: {same_as: toy}\n")
    return path


def test_settings_of_a_file_win_over_defaults_and_lose_to_words(file):
    resolved = resolve(["method=toy", f"settings={file}", "method.rank=2"])
    where = {key: (resolved.flat[key], resolved.sources[key]) for key in resolved.flat}
    assert where["train.lr"] == (0.003, "settings")  # the stream has tuned 0.125
    assert where["method.maps"] == (["k"], "settings")
    assert where["method.rank"] == (2, "user")
    assert "settings" not in resolved.flat
    written = resolve(["method=toy", "train.lr=0.003", "method.maps=[k]", "method.rank=2"])
    assert fingerprint(resolved.flat) == fingerprint(written.flat)
    from_python = resolve({"method": "toy", "settings": file, "method.rank": 2})
    assert from_python.flat == resolved.flat
    assert resolve(["method=toy", f"settings='{file}'"]).flat["train.lr"] == 0.003


def test_a_choice_of_another_method_counts_where_the_file_says_so(file, toys):
    toys.write("methods/other.py", OTHER)
    assert resolve(["method=other", f"settings={file}"]).flat["train.lr"] == 0.003


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lora: {settings: {train.lr: 1}}", 'the settings file {} has nothing for method "toy", only for lora: choose'),
        ("toy: {settings: {train.lrr: 1}}", 'settings={}: unknown setting "train.lrr" (did you mean "train.lr"?)'),
        ("toy: {settings: {train.lr: -1}}", "settings={}: train.lr=-1 is out of range: it must be > 0"),
        ("toy: {setings: {train.lr: 1}}", '{}: toy has the unknown key "setings" (did you mean "settings"?)'),
        ("toy: {settings: 3}", "{}: toy: settings must be a mapping, as tune writes it"),
        ("toy: {settings: {train.lr: 1}, seeds: 0}", "{}: toy: seeds must be a list, as tune writes it"),
        ("toy: {settings: {train.lr: 1}, tried: [1]}", "{}: toy has something under tried that holds no settings"),
        ("toy: {stream: s}", "{}: toy must hold settings, as in settings: {{train.lr: 0.003}}"),
        ("toy: {same_as: lora}", "{}: toy has same_as: lora, which must name an entry with settings, alone"),
        ("- toy", "{} is no settings file: it must map names of methods to what was chosen for them"),
        ("toy: [", "the settings file {} cannot be read (line 1: expected the node content, but found"),
        ("toy: &a {settings: *a}", "the settings file {} cannot be read (aliases are not read here): correct it, or"),
        ("toy: {settings: {}}\ntoy: {}", 'the settings file {} cannot be read (line 2: "toy" is there twice): correct'),
        ("toy: {settings: {settings: x}}", 'settings={}: unknown setting "settings" (see'),
        (None, "the settings file {} cannot be read: No such file or directory"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_sentence(file, content, said):
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(UserError) as caught:
        resolve(["method=toy", f"settings={file}"])
    (sentence,) = str(caught.value).splitlines()
    assert sentence.startswith(said.format(file))


def test_settings_need_a_file_and_a_method(toys, file):
    with pytest.raises(UserError, match="settings=null names no file: write one that python -m bench tune made"):
        resolve(["method=toy", "settings="])
    with pytest.raises(UserError, match="holds settings of methods: add method=NAME, or leave it out"):
        resolve([f"settings={file}"], need_method=False)


def test_what_is_written_is_read_back_as_it_was(tmp_path: Path) -> None:
    odd = {"method.note": "on", "train.lr": 1e-05, "method.x": None, "method.maps": ["q", "no"], "method.flag": False}
    one = Chosen(odd, stream="1e3", seeds=[0], tried=[{"settings": odd, "fingerprint": "1234e56789"}])
    (tmp_path / "f.yaml").write_text(chosen_text({"one": one, "two": Chosen(odd, same_as="one")}))
    assert read_chosen(tmp_path / "f.yaml") == {"one": one, "two": Chosen(odd, same_as="one")}


def test_values_of_any_kind_that_were_tried_can_be_shown() -> None:
    tried = [{"settings": {"a": value}} for value in (2, {"b": 1}, "x", [1, "a"], ["a", 1], {"a": 1}, None, 1, 0.5)]
    values = Chosen({}, tried=tried).grid_values["a"]
    assert len(values) == 9 and values.index(1) < values.index(2)


# ---------------------------------------------------------------------------------------------- the stream's


def test_a_stream_may_carry_what_was_chosen_as_a_file(toys, tmp_path, capsys, monkeypatch):
    beside = tmp_path / "tuned.yaml"
    entry = Chosen(
        {"train.lr": 0.375}, stream="elsewhere", criterion="average_mtil", split="validation", seeds=[0, 1],
        grid="tune", revisions=["0123456789abcdef"], tried=[{"settings": {"train.lr": rate}} for rate in (0.375, 0.5)],
    )  # fmt: skip
    beside.write_text(chosen_text({"toy": entry, "other": Chosen({"train.lr": 0.375}, same_as="toy")}))
    monkeypatch.setattr(registry.load("stream", "pocket"), "tuned", beside)
    resolved = resolve(["method=toy"])
    assert (resolved.flat["train.lr"], resolved.sources["train.lr"]) == (0.375, "tuned")
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["list", "streams", "pocket"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "settings chosen for methods" in out
    assert (
        "toy: train.lr=0.375 chosen on stream elsewhere; split validation; by average_mtil; seeds 0, 1; "
        "grid tune (train.lr 0.375, 0.5); code 0123456789"
    ) in out
    assert "other: train.lr=0.375 that of toy" in out


def test_the_embedded_stream_says_where_its_settings_come_from() -> None:
    entries = read_chosen(pocket.Pocket.tuned)
    for name, entry in entries.items():
        resolved = resolve([f"method={name}"])
        assert {key: resolved.flat[key] for key in entry.settings} == entry.settings
        if not entry.same_as:
            assert entry.stream and entry.criterion and entry.split == "validation" and entry.seeds and entry.grid
            assert entry.settings["train.lr"] in entry.grid_values["train.lr"]
            assert entry.revisions


# -------------------------------------------------------------------------------- the evaluation stream stays shut


def test_tuning_on_one_stream_opens_no_image_of_another(tmp_path, monkeypatch, capsys):
    """Every point is run in this process, while the images of the embedded stream cannot be read."""

    def unreadable(self: Stream, *args: Any) -> Any:
        raise UserError("the images of the evaluation stream were opened")

    monkeypatch.setattr(pocket.Pocket, "load", unreadable)
    monkeypatch.chdir(tmp_path)

    def here(found: Sweep, launch: Any) -> int:
        for point in found.points:
            run(list(point.words))
        return 0

    monkeypatch.setattr(verbs, "run_points", here)
    words = [f"model={TOY}", "device=cpu", "track.wandb=off", "train.epochs=1", "checkpoint.final=false"]
    (tmp_path / "g.yaml").write_text(
        yaml.safe_dump({"method": "grid", "parameters": {"train.lr": {"values": [0.01, 0.1]}}, "command": COMMAND})
    )
    line = ["method=lora", f"stream={TOY}", "stream.count=2", "grid=g.yaml", "seeds=[0]", *words]
    assert main(["tune", *line]) == 0, capsys.readouterr()
    entry = read_chosen(Path("runs/toy/tiny/tuned.yaml"))["lora"]
    assert (entry.stream, len(entry.tried)) == ("toy", 2)
    with pytest.raises(UserError, match="the images of the evaluation stream were opened"):
        run(["method=lora", "stream=pocket", "settings=runs/toy/tiny/tuned.yaml", *words])

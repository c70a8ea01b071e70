"""A sweep file as the runs that it means: expansion, distributions, W&B's words, mistakes, states of points."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from bench.cli.main import main
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.sweep import parameters
from bench.sweep.attempts import Attempt, birth, exit_status
from bench.sweep.best import best, deciding, tried
from bench.sweep.file import Sweep, expand, find, shipped_folder
from bench.sweep.points import Point, points_table, results_of, state_of

COMMAND = ["${env}", "${interpreter}", "-m", "bench", "run", "${args_no_hyphens}"]
SHIPPED = sorted(shipped_folder().glob("*.yaml"))


@pytest.fixture
def write(toys, tmp_path):
    """Return a function that writes a sweep file over stand-in plug-ins."""

    def write(content: dict[str, Any] | str, **more: Any) -> Path:
        file = tmp_path / "some.yaml"
        if isinstance(content, dict):
            parameters = {"method": {"value": "toy"}, "out": {"value": str(tmp_path / "runs")}, **content}
            content = yaml.safe_dump(
                {"method": "grid", "parameters": parameters, "command": COMMAND, **more}, sort_keys=False
            )
        file.write_text(content, encoding="utf-8")
        return file

    return write


def settings(found: Sweep, *keys: str) -> list[tuple[Any, ...]]:
    """The resolved values of some keys, point by point."""
    flats = [resolve(point.words).flat for point in found.points]
    return [tuple(flat[key] for key in keys) for flat in flats]


def problems(file: Path, *words: str, **options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        expand(file, words, **options)
    return str(caught.value).splitlines()


# --------------------------------------------------------------------------------------------- expansion


def test_a_grid_is_every_combination_the_last_parameter_fastest(write):
    found = expand(write({"seed": {"values": [0, 1]}, "method.rank": {"values": [2, 4, 6]}}))
    assert settings(found, "method.rank") == [(2,), (4,), (6,)] * 2
    assert [point.label for point in found.points][:2] == ["seed=0 method.rank=2", "seed=0 method.rank=4"]
    assert [point.number for point in found.points] == [1, 2, 3, 4, 5, 6]
    assert found.points[3].words[:2] == ("method=toy", "method.rank=2")
    assert found.points[3].directory == run_directory(resolve(found.points[3].words))
    assert found.points[3].folder == Path(resolve(found.points[3].words).run.out) / "sweeps" / "some"
    assert found.notes == ()


def test_groups_of_parameters_become_dotted_keys(write):
    inner = {"parameters": {"image": {"values": [0.25, 0.5]}, "text": {"value": 0.75}}}
    file = write({"method": {"parameters": {"name": {"value": "toy"}, "energy": inner}}})
    found = expand(file)
    assert settings(found, "method.energy.image", "method.energy.text") == [(0.25, 0.75), (0.5, 0.75)]
    assert found.points[0].label == "method.energy.image=0.25"


NASTY = {
    "method": "toy",
    "method.energy": {"image": 0.25, "text": 0.125},
    "method.maps": ["k", "v"],
    "method.merge": False,
    "method.note": 'it\'s a "b" = ${c}: d, e',
    "method.scale": None,
    "seed": 3,
    "threads": None,
    "train.grad_clip": 1e-05,
    "train.lr": "1e-3",
}


def agent_words(values: dict[str, Any]) -> list[str]:
    """What a W&B agent puts instead of ``${args_no_hyphens}``; `wandb sweep` sorts the keys."""
    ordered = {key: {"value": values[key]} for key in sorted(values)}
    return create_sweep_command_args({"args": ordered})["args_no_hyphens"]


def test_values_of_all_kinds_are_the_words_of_an_agent(write):
    file = write({**{key: {"value": value} for key, value in NASTY.items()}, "seed": {"values": [3]}})
    (point,) = expand(file).points
    out = yaml.safe_load(file.read_text())["parameters"]["out"]["value"]
    assert list(point.words) == agent_words({**NASTY, "out": out})
    flat = resolve(point.words).flat
    assert (flat["method.scale"], flat["threads"], flat["method.merge"]) == (None, None, False)
    assert (flat["method.maps"], flat["method.note"]) == (["k", "v"], NASTY["method.note"])
    assert (flat["train.grad_clip"], flat["train.lr"]) == (1e-5, 1e-3)
    assert (flat["method.energy.image"], flat["method.energy.text"]) == (0.25, 0.125)


def test_a_group_means_the_same_here_and_to_an_agent(write):
    """An agent hands a group over as one word."""
    nested = {"parameters": {"name": {"value": "toy"}, "rank": {"value": 6}, "scale": {"value": None}}}
    (point,) = expand(write({"method": nested})).points
    (word,) = agent_words({"method": {"name": "toy", "rank": 6, "scale": None}})
    ours, theirs = resolve(point.words), resolve([word, *(w for w in point.words if w.startswith("out="))])
    assert (ours.flat, ours.sources) == (theirs.flat, theirs.sources)
    assert ours.flat["method.rank"] == 6


GRIDS = ("tune", "tune_o-lora", "tune_sc-lora", "tune_splitlora")
"""Files for `tune`, which says the stream."""

OF_SETTINGS = ("keeplora_alpha", "keeplora_lr", "keeplora_rank", "keeplora_thresholds", "lora_rank")
"""Files that vary settings, on the stream on which settings are chosen."""

FORGETTING = {"compare_forgetting": "forget-pocket", "tune_forgetting": "forget-pocket-tuning"}
"""Files about methods that forget, with the stream that each names."""


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_files_resolve_and_are_the_words_of_an_agent(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert set(content) == {"method", "metric", "parameters", "command"}  # no project: the user's default
    scalar = "h_mean" if file.stem in FORGETTING else "average" if file.stem in GRIDS else "last"
    assert content["metric"] == {"name": f"final/{scalar}", "goal": "maximize"}
    specs = content["parameters"]
    choices = [spec["values"] if "values" in spec else [spec["value"]] for spec in specs.values()]
    name = FORGETTING.get(file.stem, "pocket-tuning" if file.stem in OF_SETTINGS else "pocket")
    expected = [
        [f"stream={name}", *agent_words(dict(zip(specs, one, strict=True)))] for one in itertools.product(*choices)
    ]
    found = expand(file)
    assert [list(point.words) for point in found.points] == expected
    assert found.notes == ()
    text = file.read_text().splitlines()
    assert [line.split(":")[0] for line in text[:3]] == ["# Question", "# Figure", "# Time"]
    assert text[2].startswith(f"# Time: {len(expected)} runs, about")


def test_what_is_shipped() -> None:
    assert [file.stem for file in SHIPPED] == [
        "compare_forgetting", "compare_methods", "keeplora_ablation", "keeplora_alpha", "keeplora_lr", "keeplora_rank",
        "keeplora_thresholds", "lora_rank", "orders", "seeds", "tune", "tune_forgetting", "tune_o-lora",
        "tune_sc-lora", "tune_splitlora",
    ]  # fmt: skip
    assert find("compare_methods") == shipped_folder() / "compare_methods.yaml"
    with pytest.raises(UserError, match='there is no sweep file "compare_method" .did you mean "compare_methods"'):
        find("compare_method")


def test_the_rate_of_any_method_is_tuned_on_validation_images_of_any_stream() -> None:
    found = expand(find("tune"), ["method=inflora", "stream=cifar100-10"])
    assert {point.split for point in found.points} == {"validation"}
    swept = settings(found, "method.name", "stream.name", "train.lr", "seed")
    rates = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]
    assert swept == [("inflora", "cifar100-10", rate, seed) for rate in rates for seed in range(2)]


def test_files_of_one_setting_have_the_rate_that_was_chosen() -> None:
    chosen = yaml.safe_load((shipped_folder().parent / "datasets/pocket_data/tuned.yaml").read_text(encoding="utf-8"))
    for name in OF_SETTINGS:
        rates = {rate for (rate,) in settings(expand(find(name)), "train.lr")}
        method = name.partition("_")[0]
        assert rates == {chosen[method]["settings"]["train.lr"]} or name == "keeplora_lr"


def test_the_grid_of_thresholds_sets_both_towers_of_the_features() -> None:
    keys = ("method.weight_energy.image", "method.weight_energy.text", "method.feature_energy.image")
    values = settings(expand(find("keeplora_thresholds")), *keys, "method.feature_energy.text", "seed")
    assert [(image, low) for image, _, low, _, _ in values] == list(
        itertools.product([0, 0.5, 0.85, 0.95], [0, 0.9, 0.99, 0.999])
    )
    assert all(text == 0.2 and low == high and seed == 0 for _, text, low, high, seed in values)


def test_the_command_may_fix_settings(write, monkeypatch):
    monkeypatch.setenv("EPOCHS", "7")
    command = ["nice", "python", "-m", "bench", "run", "train.epochs=${envvar:EPOCHS}", "${args}", "--stream.shots=2"]
    file = write({"seed": {"values": [0, 1]}}, command=command)
    found = expand(file)
    assert settings(found, "train.epochs", "stream.shots") == [(7, 2), (7, 2)]
    assert found.points[0].label == "seed=0"
    again = expand(file, ["train.epochs=1", "--out=elsewhere"])
    assert settings(again, "train.epochs", "out") == [(1, "elsewhere")] * 2
    assert again.points[0].folder == Path("elsewhere/sweeps/some")


def test_added_words_replace_what_is_fixed_but_not_what_is_swept(write):
    file = write({"method.energy": {"values": [0.25, 0.5]}, "seed": {"value": 0}})
    assert settings(expand(file, ["seed=4"]), "seed") == [(4,), (4,)]
    for word in ("method.energy=0.1", "method.energy.image=0.1"):
        (said,) = problems(file, word)
        assert said == f"{word} would replace method.energy, which {file} sweeps: leave it out"
    file = write({"method": {"values": ["toy"]}})
    assert problems(file, "--method=x")[0].startswith("method.name=x would replace method, which")
    file = write({"train.lr": {"values": [0.1]}})
    assert "would replace train.lr" in problems(file, "train={lr: 0.5}")[0]


def test_repeated_points_are_kept_once_with_a_note(write):
    """1 and 1.0 are the same rate; device does not decide the numbers."""
    file = write({"train.lr": {"values": [1, 1.0, 2]}, "device": {"values": ["cpu", "auto"]}})
    found = expand(file)
    assert settings(found, "train.lr", "device") == [(1.0, "cpu"), (2.0, "cpu")]
    assert [point.number for point in found.points] == [1, 2]
    assert found.notes == ("4 points mean the same run as an earlier one and are left out",)


def test_the_count_of_points(write):
    file = write({"seed": {"values": [0, 1, 2, 3]}}, run_cap=3, early_terminate={"type": "hyperband", "min_iter": 1})
    found = expand(file)
    assert len(found.points) == 3
    assert found.notes == ("early_terminate is ignored: only W&B's own agents stop runs early",)
    assert len(expand(file, count=2).points) == 2


def test_a_scalar_for_a_group_counts_in_the_order_of_words(toys):
    def energies(*words: str) -> tuple[float, float]:
        energy = resolve(["method=toy", *words]).method_settings.energy
        return energy.image, energy.text

    assert energies("method.energy=0.25") == (0.25, 0.25)
    assert energies("method.energy=0.25", "method.energy.image=0.5") == (0.5, 0.25)
    assert energies("method.energy.image=0.5", "method.energy=0.25") == (0.25, 0.25)
    assert energies("method.energy.image=0.5", "method.energy=0.25", "method.energy.image=0.75") == (0.75, 0.25)
    assert resolve(["method=toy", "method.energy=0.25"]).sources["method.energy.text"] == "user"


# ------------------------------------------------------------------------------------------------ random


def draws(count: int, seed: int = 0, **spec: Any) -> list[Any]:
    parameter = parameters._parameter("x", spec)
    return [point["x"] for point in itertools.islice(parameters.draws([parameter], seed), count)]


BETWEEN = {"min": 0.5, "max": 8.0}
LAWS = {
    "uniform": (BETWEEN, stats.uniform(0.5, 7.5)),
    "log_uniform": ({"min": -3, "max": 1.5}, stats.loguniform(np.exp(-3), np.exp(1.5))),
    "log_uniform_values": (BETWEEN, stats.loguniform(0.5, 8)),
    "inv_log_uniform": ({"min": -1.0, "max": 2.0}, stats.loguniform(np.exp(-2), np.exp(1))),
    "inv_log_uniform_values": (BETWEEN, stats.loguniform(0.5, 8)),
    "normal": ({"mu": 2, "sigma": 0.5}, stats.norm(2, 0.5)),
    "log_normal": ({"mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=np.e)),
}


@pytest.mark.parametrize("name", LAWS)
def test_distributions_are_those_of_wandb(name: str) -> None:
    numbers, law = LAWS[name]
    drawn = draws(2000, distribution=name, **numbers)
    assert stats.kstest(drawn, law.cdf).pvalue > 0.01
    low, high = law.support()
    assert low <= min(drawn) and max(drawn) <= high


@pytest.mark.parametrize("name", ["uniform", "log_uniform", "log_uniform_values", "normal", "log_normal"])
@pytest.mark.parametrize("q", [2, 0.25])
def test_quantised_distributions_are_rounded_draws(name: str, q: float) -> None:
    numbers, _ = LAWS[name]
    plain, drawn = draws(200, distribution=name, **numbers), draws(200, distribution=f"q_{name}", q=q, **numbers)
    assert drawn == [round(x / q) * q for x in plain]
    assert all(isinstance(x, type(q)) for x in drawn)
    whole = draws(5, distribution=f"q_{name}", **numbers)
    assert whole == [round(x) for x in plain[:5]]  # q is 1


def test_bells_are_standard_where_nothing_is_said() -> None:
    assert stats.kstest(draws(1000, distribution="normal"), stats.norm.cdf).pvalue > 0.01


def test_bounds_alone_are_whole_numbers_or_an_interval() -> None:
    whole = draws(3000, min=1, max=3)
    assert stats.chisquare([Counter(whole)[k] for k in (1, 2, 3)]).pvalue > 0.01 and set(whole) == {1, 2, 3}
    assert draws(5, min=0.5, max=8.0) == draws(5, distribution="uniform", **BETWEEN)


def test_values_are_drawn_alike_or_by_their_probabilities() -> None:
    alike = Counter(draws(3000, values=["a", "b", "c"]))
    assert stats.chisquare([alike[k] for k in "abc"]).pvalue > 0.01
    weighed = Counter(draws(3000, values=["a", "b", "c"], probabilities=[0.5, 0.0, 0.5]))
    assert weighed["b"] == 0 and stats.binomtest(weighed["a"], 3000, 0.5).pvalue > 0.01
    assert set(draws(5, value="x")) == {"x"}


def test_extreme_quantiles_stay_inside() -> None:
    for name, (numbers, law) in LAWS.items():
        draw = parameters._distribution(name, {"distribution": name, **numbers})
        low, high = law.support()
        assert np.isfinite([draw(0.0), draw(1 - 2**-53)]).all()
        assert low * (1 - 1e-12) - 1e-12 <= draw(0.0) <= draw(1 - 2**-53) <= high * (1 + 1e-12)
    assert parameters._choice(["a", "b", "c"], [0.3, 0.7, 0])(1 - 2**-53) == "b"


def test_the_same_line_draws_the_same_points(write):
    file = write({"train.lr": {"min": 0.1, "max": 0.9}, "method.rank": {"values": [2, 4]}}, method="random")
    keys = ("train.lr", "method.rank")
    five = settings(expand(file, count=5), *keys)
    assert five == settings(expand(file, count=5), *keys)
    assert five[:3] == settings(expand(file, count=3), *keys)
    assert five != settings(expand(file, count=5, seed=1), *keys)
    one = write({"train.lr": {"min": 0.1, "max": 0.9}}, method="random", run_cap=5)
    assert [lr for lr, _ in five] == [lr for (lr,) in settings(expand(one), "train.lr")]


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "says nothing: write value, values, a distribution, or min and max"),
        ({"min": 1}, "says nothing: write value, values, a distribution, or min and max"),
        ([1, 2], "says nothing: write value, values, a distribution, or min and max"),
        ({"values": 3}, "needs values: a list with at least one item, as in values: [1, 2]"),
        ({"values": []}, "needs values: a list with at least one item, as in values: [1, 2]"),
        ({"distribution": "categorical"}, "needs values: a list with at least one item, as in values: [1, 2]"),
        ({"vales": [1]}, 'has "vales", which means nothing here (did you mean "values"?)'),
        ({"value": 1, "values": [1]}, 'has "values", which means nothing here (did you mean "value"?)'),
        ({"distribution": "constant"}, "is constant and needs a value"),
        ({"values": [1, 2], "probabilities": [1]}, "needs one probability for every value, together 1"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "needs one probability for every value, together 1"),
        ({"distribution": "unifrom"}, 'has an unknown distribution "unifrom" (did you mean "uniform"?)'),
        ({"distribution": "uniform", "min": 0}, "needs min and max"),
        ({"distribution": "uniform", "min": 0, "max": 1, "q": 2}, 'has "q", which means nothing here'),
        ({"min": "1e-4", "max": 1.0}, "has min: 1e-4, which is no number; powers of ten are written as in 1.0e-3"),
        ({"min": 0, "max": 1.5}, "has one whole bound and one with a point: write both alike"),
        ({"min": 3, "max": 1}, "has min: 3 above max: 1"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "needs whole numbers for min and max"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "has min: 0, which must be above 0"),
        ({"distribution": "normal", "sigma": 0}, "has sigma: 0, which must be above 0"),
        ({"distribution": "q_normal", "q": 0}, "has q: 0, which must be above 0"),
        ({"parameters": {"image": {"values": [1]}}, "q": 1}, 'is a group and cannot have "q": leave it out'),
    ],
)
def test_mistakes_in_a_parameter(write, spec, said):
    (found,) = problems(write({"method.x": spec}, method="random", run_cap=2))
    assert f": parameter method.x {said}" in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "bayes"}, "method: bayes cannot be expanded here: use wandb sweep and wandb agent"),
        ({"method": "custom"}, "method: custom cannot be expanded here: use wandb sweep and wandb agent"),
        ({"method": "gird"}, "method: gird is unknown: write grid or random"),
        ({"method": "random"}, "method: random never ends: add run_cap: N to the file or count=N to the line"),
        ({"run_cap": 0}, "run_cap: 0 must be a whole number from 1"),
        ({"parmeters": {}}, 'unknown key "parmeters" (did you mean "parameters"?)'),
        ({"parameters": {}}, "parameters must name at least one parameter"),
        ({"parameters": {"seed": {"min": 0, "max": 3}}}, "parameter seed has no end of values: a grid needs value or"),
        ({"command": None}, "the command must be a list: write command: ["),
        ({"command": "python -m bench run"}, "the command must be a list: write command: ["),
        ({"command": ["python", "train.py", "${args}"]}, "the command does not run this suite: write command: ["),
        ({"command": COMMAND[:-1]}, "the command must hold ${args_no_hyphens} once"),
        ({"command": [*COMMAND[:-1], "${args_json}"]}, "the command must hold ${args_no_hyphens} once"),
        ({"command": [*COMMAND, "fast"]}, '"fast" in the command is no setting: write KEY=VALUE'),
        ({"command": [*COMMAND, "seed=1"]}, "seed is both in the command and among the parameters: take one out"),
    ],
)
def test_mistakes_in_a_file(write, change, said):
    (found,) = problems(write({"seed": {"values": [0, 1]}}, **change))
    assert said in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: grid\nparameters: {seed: [}\n", ", line 2 is no YAML: "),
        ("a: \x00", " is no YAML: "),
        ("", " is no sweep file: it needs method, parameters and command"),
        ("- seed", " is no sweep file: it needs method, parameters and command"),
    ],
)
def test_files_that_are_none(write, text, said):
    file = write(text)
    (found,) = problems(file)
    assert found.startswith(f"{file}{said}")


def test_every_problem_of_every_point_is_reported_once_before_anything_starts(write, capsys):
    file = write({"method.rnak": {"value": 1}, "train.lr": {"values": [-1, 0.5]}, "seed": {"values": [0, 1]}})
    assert problems(file) == [
        'unknown setting "method.rnak" (did you mean "method.rank"?)',
        "train.lr=-1 is out of range: it must be > 0",
    ]
    assert main(["sweep", str(file)]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    found = problems(write({"seed": {}, "device": {"values": 1}}, method="gird", colour=1))
    assert len(found) == 4


# ------------------------------------------------------------------------------------------------ states


@pytest.fixture
def point(write) -> Point:
    (point,) = expand(write({"seed": {"values": [0]}})).points
    point.folder.mkdir(parents=True)
    return point


def note(point: Point, **content: Any) -> None:
    point.notes.write_text(json.dumps(content))


def test_states_of_a_point(point: Point) -> None:
    assert state_of(point) == "pending"
    me = {"host": socket.gethostname(), "pid": os.getpid(), "birth": birth(os.getpid())}
    for noted, expected in (
        ({"exit_status": None, **me}, "running"),
        ({"exit_status": None, **me, "birth": "1"}, "pending"),  # another process has the number now
        ({"exit_status": None, **me, "host": "elsewhere"}, "pending"),
        ({"exit_status": None, **me, "pid": 2**22 + 1}, "pending"),
        ({"exit_status": 1}, "failed"),
        ({"exit_status": 2}, "failed"),
        ({"exit_status": 130}, "pending"),
        ({"exit_status": 143}, "pending"),
        ({"exit_status": 0}, "pending"),  # its folder was moved away
    ):
        note(point, **noted)
        assert state_of(point) == expected, noted
    point.notes.write_text("{")
    assert state_of(point) == "pending"
    note(point, exit_status=1)
    point.directory.mkdir(parents=True)
    (point.directory / "summary.json").write_text('{"status": "finished"}')
    assert state_of(point) == "finished"
    assert results_of(point) == ["", "", ""]


def test_an_attempt_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    began = Attempt.of_process(os.getpid(), 1e9, job="5_0", restarts=2)
    assert began.is_alive() and began.exit_status is None and began.started.startswith("2001-09-")
    began.write(file)
    assert Attempt.read(file) == began
    ended = began.ended(143, 1.23456)
    assert (ended.exit_status, ended.seconds, ended.job, ended.restarts) == (143, 1.235, "5_0", 2)
    for content in ("[]", "{", "7"):
        file.write_text(content)
        assert Attempt.read(file) is None
    assert Attempt.read(tmp_path / "nowhere") is None
    assert [exit_status(code) for code in (0, 3, -15)] == [0, 3, 143]


# What versions before the schema was one wrote: a process of this machine, and a job of SLURM.
OLD_PROCESS = {
    "exit_status": None, "seconds": None, "host": "a", "pid": 7, "birth": "123", "started": "2026-01-31T12:00:00+0000",
}  # fmt: skip
OLD_JOB = {
    "exit_status": 1, "seconds": 2.5, "host": "b", "pid": 8, "job": "5_1", "restarts": 1,
    "started": "2026-01-31T12:00:00+0000",
}  # fmt: skip


def test_notes_of_older_versions_are_read(point: Point) -> None:
    note(point, **OLD_PROCESS)
    assert Attempt.read(point.notes) == Attempt(**OLD_PROCESS, job=None, restarts=0)
    note(point, **{**OLD_PROCESS, "host": socket.gethostname(), "pid": os.getpid(), "birth": birth(os.getpid())})
    assert state_of(point) == "running"
    note(point, **OLD_JOB, something="else")
    assert Attempt.read(point.notes) == Attempt(**OLD_JOB, birth=None)
    assert state_of(point) == "failed"


def test_dry_run_and_status_show_and_start_nothing(write, capsys, monkeypatch):
    file = write({"seed": {"values": [0, 1]}})
    first, second = expand(file).points
    monkeypatch.setattr("bench.sweep.processes.start", lambda *args: pytest.fail("it started"))
    first.directory.mkdir(parents=True)
    metrics = {"transfer_by_column": 51.04, "average_mtil": 60.0, "last": None}
    names = {"stream": "s", "model": "m", "method": "n", "fingerprint": "f", "seed": 0}
    summary = {"status": "finished", **names, "metrics": metrics, "seconds": {}}
    (first.directory / "summary.json").write_text(json.dumps(summary))
    assert main(["sweep", str(file), "dry_run=true"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"1  finished  {first.directory}",
        f"   {' '.join(first.words)}",
        f"2  pending   {second.directory}",
        f"   {' '.join(second.words)}",
    ]
    assert main(["sweep", str(file), "status"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["#", "state", "Transfer", "Average", "point"],
        ["1", "finished", "51.0", "60.0", "seed=0"],
        ["2", "pending", "seed=1"],
    ]
    assert not first.folder.exists()


# ----------------------------------------------------------------------------------------- the best setting


def finish(point: Point, **metrics: float | None) -> None:
    """Write the summary of a finished point."""
    point.directory.mkdir(parents=True)
    names = {"stream": "s", "model": "m", "method": "n", "fingerprint": "f", "seed": 0}
    summary = {"status": "finished", **names, "metrics": metrics, "seconds": {}}
    (point.directory / "summary.json").write_text(json.dumps(summary))


RATES = {"train.lr": {"values": [0.1, 0.01, 0.001]}, "seed": {"values": [0, 1]}}
VALIDATION = {"evaluate.split": {"value": "validation"}}


def shown(capsys, file: Path, *words: str) -> list[str]:
    assert main(["sweep", str(file), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_best_setting_is_that_of_the_best_mean_over_seeds(write, capsys):
    file = write({**RATES, **VALIDATION, "method.note": {"value": "a b"}})
    found = expand(file).points
    # The best single run is one of 0.1, the best mean that of 0.01.
    for point, value in zip(found, (90.0, 10.0, 60.0, 62.0, 50.0, 60.0), strict=True):
        finish(point, last=value)
    lines = shown(capsys, file, "best=last")
    assert lines[0] == "last on validation images, the mean over seeds:"
    assert [line.split() for line in lines[2:6]] == [
        ["#", "last", "+-", "seeds", "setting"],
        ["1", "61.0", "1.0", "2", "train.lr=0.01"],
        ["2", "55.0", "5.0", "2", "train.lr=0.001"],
        ["3", "50.0", "40.0", "2", "train.lr=0.1"],
    ]
    out = f"out={file.parent / 'runs'}"
    assert lines[6:] == [
        "",
        "the best, train.lr=0.01, on test images:",
        f"python -m bench run method=toy 'method.note=a b' {out} train.lr=0.01",
    ]
    words = shlex.split(lines[-1])[4:]
    flat, of_point = resolve(words).flat, resolve(found[2].words).flat
    assert {key for key in flat if flat[key] != of_point[key]} == {"evaluate.split"}


def test_settings_that_lack_a_seed_are_not_ranked_and_test_images_and_ends_are_warned_of(write, capsys):
    file = write(RATES)
    found = expand(file).points
    with pytest.raises(UserError, match=f"no setting of {file} has last for all its seeds yet: run its points"):
        best(found, "last", file)
    finish(found[0], last=99.0)  # its other seed is missing
    for point, value in zip(found[2:], (60.0, 62.0, 50.0, 60.0), strict=True):
        finish(point, last=value, forgetting_max_last=value)
    lines = shown(capsys, file, "best=Last")
    assert lines[5].split() == ["3", "1", "of", "2", "train.lr=0.1"]
    notes = [line for line in lines if line.startswith(("note", "warning"))]
    assert notes[0] == "note: 1 point is not finished; settings that lack one are not ranked"
    assert notes[1].startswith("warning: points were scored on test images: ")
    assert len(notes) == 2  # of two rates none is an end
    finish(found[1], last=99.0)
    assert "note: train.lr=0.1 is the largest that was tried: try larger ones" in shown(capsys, file, "best=last")
    assert tried(found, "forgetting_max_last")[0].label == "train.lr=0.001"  # less is better


def test_requests_to_forget_have_metrics_of_their_own(write, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # the table fits into lines that long
    file = write(RATES)
    learned = expand(file).points
    found = [replace(point, kind="forgetting") for point in learned]
    for point, value in zip(found, (90.0, 10.0, 60.0, 62.0, 50.0, 60.0), strict=True):
        finish(point, h_mean=value, forgotten=value, relapse=1.0, retained=2.0, elsewhere=3.0)
    assert tried(found, "h_mean")[0].label == "train.lr=0.01"
    assert tried(found, "forgotten")[0].label == "train.lr=0.1"  # the smallest of the means 50, 61 and 55
    rows = [line.split() for line in points_table(found, "forgotten").splitlines()]
    assert rows[0] == ["#", "state", "Forgotten", "Relapse", "Retained", "H-mean", "Elsewhere", "point"]
    assert rows[1] == [
        "2",
        "finished",
        "10.0",
        "1.0",
        "2.0",
        "10.0",
        "3.0",
        found[1].label.split()[0],
        found[1].label.split()[1],
    ]
    assert deciding(found, "metric", None) == "h_mean" and deciding(learned, "metric", None) == "average_mtil"
    assert deciding(found, "best", "Forgotten") == "forgotten"
    for points, word, asks in ((found, "Last", "forget"), (learned, "h_mean", "learn")):
        with pytest.raises(UserError, match=f"best={word} is not measured where streams ask to {asks}: choose "):
            deciding(points, "best", word)
    assert main(["sweep", str(file), "best=h_mean"]) == 2 and "ask to learn" in capsys.readouterr().err


def test_status_is_sorted_by_a_metric(write, capsys):
    file = write({"seed": {"values": [0, 1, 2]}})
    first, second, _ = expand(file).points
    finish(first, last=40.0, forgetting_max_last=1.0)
    finish(second, last=50.0, forgetting_max_last=2.0)
    rows = [line.split() for line in shown(capsys, file, "status", "sort=last")]
    assert [row[0] for row in rows] == ["#", "2", "1", "3"]
    rows = [line.split() for line in shown(capsys, file, "status", "sort=forgetting_max_last")]
    assert rows[0] == ["#", "state", "Last", "forgetting_max_last", "point"]
    assert rows[1:] == [
        ["1", "finished", "40.0", "1.0", "seed=0"],
        ["2", "finished", "50.0", "2.0", "seed=1"],
        ["3", "pending", "seed=2"],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["best=lost"], 'best=lost names no metric (did you mean "last"?)'),
        (["status", "sort=avrage"], 'sort=avrage names no metric (did you mean "average"?)'),
        (["sort=last"], "sort=last sorts the table of status: write status beside it"),
    ],
)
def test_metrics_that_are_none(write, capsys, words, said):
    assert main(["sweep", str(write({"seed": {"values": [0]}})), *words]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"

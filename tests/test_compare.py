"""Tables over many runs and differences between two, on run directories made here."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bench import compare, metrics
from bench.errors import UserError
from bench.metrics import AccuracyMatrix

HEADER = ["method", "n", *compare.SHOWN, "seconds"]


def settings_of(method, seed, **changes):
    values = {
        "stream.name": "pocket",
        "model.name": "pocket",
        "method.name": method,
        "method.rank": 8,
        "method.maps": ["q", "v"],
        "train.lr": 0.001,
        "train.grad_clip": None,
        "track.wandb": "off",
        "out": "runs",
        "seed": seed,
        "seeds.init": None,
    }
    return values | {key.replace("__", "."): value for key, value in changes.items()}


def write(path: Path, name: str, value) -> None:
    (path / name).write_text(json.dumps(value), encoding="utf-8")


def make(
    root, method="keeplora", seed=0, last=50.0, finished=True, fingerprint="0123456789", stream="pocket",
    model="pocket", **changes,
):  # fmt: skip
    """Write a run directory of two tasks whose last row is ``last`` percent on both."""
    path = root / stream / model / method / f"{fingerprint}-s{seed}"
    path.mkdir(parents=True)
    values = settings_of(method, seed, stream__name=stream, model__name=model, **changes)
    identity = {
        "fingerprint": fingerprint,
        "seed": seed,
        "command": ["run", f"method={method}"],
        "settings": {
            key: {"value": value, "source": "user" if key in ("method.name", "seed") else "default"}
            for key, value in values.items()
        },
        "seeds": {"init": seed},
        "weights_sha256": "w" * 64,
        "manifests": {"pocket": "m" * 64},
        "prompts_sha256": "p" * 64,
        "code_revision": "abc",
    }
    environment = {"python": "3.11", "threads": 2, "packages": {"torch": "2.9", "numpy": "2.4"}, "started": str(seed)}
    write(path, "identity.json", identity)
    write(path, "environment.json", environment)
    matrix = AccuracyMatrix(["a", "b"])
    for row, cells in enumerate([(30, 30), (80, 40), (last, last)]):
        for column, percent in enumerate(cells):
            matrix.set(row, column, round(percent * 10), 1000)
    matrix.to_csv(path / "accuracy.csv")
    if finished:
        summary = {"status": "finished", "stream": stream, "model": model, "method": method, "seed": seed}
        summary |= {"fingerprint": fingerprint, "metrics": metrics.summary(matrix), "seconds": {"total": 60.0 + seed}}
        write(path, "summary.json", summary | {"trainable_parameters": 100, "stored_numbers": 10})
    return path


def change(path, name, **parts):
    value = json.loads((path / name).read_text(encoding="utf-8"))
    write(path, name, value | parts)


def line_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r" {2,}", line.strip())


# --------------------------------------------------------------------------------------------- table


def test_mean_and_standard_error_over_seeds(tmp_path):
    for seed, last in enumerate([50, 60, 70]):
        make(tmp_path, seed=seed, last=last)
    make(tmp_path, "zero-shot", last=30)
    text = compare.table([tmp_path], {})
    assert text.splitlines()[0] == "stream pocket, model pocket"
    assert line_of(text, "method") == HEADER
    cells = dict(zip(HEADER, line_of(text, "keeplora"), strict=True))
    assert cells["n"] == "3"
    # last: 50, 60, 70 have the standard deviation 10; 10 / sqrt(3) = 5.77
    assert cells["last"] == "60.00 ± 5.77"
    assert cells["zero_shot"] == "30.00 ± 0.00" and cells["transfer_by_column"] == "40.00 ± 0.00"
    # mean of (80, 40, last, last) is 30 + last / 2; the diagonal (80, last); last - 80
    assert cells["average_mtil"] == "60.00 ± 2.89"
    assert cells["learning"] == "70.00 ± 2.89" and cells["backward_transfer"] == "-20.00 ± 5.77"
    assert cells["seconds"] == "61.0 ± 0.6"
    assert line_of(text, "zero-shot")[1:5] == ["1", "30.00", "40.00", "45.00"]  # one seed: no ±
    for name in compare.SHOWN:
        assert f"{name} = {metrics.FORMULAS[name]}" in text
    assert "left out" not in text and "note" not in text


def test_several_paths_count_a_run_once(tmp_path):
    path = make(tmp_path)
    assert compare.table([tmp_path, path, tmp_path / "pocket"], {}) == compare.table([tmp_path], {})


def test_a_copied_run_is_no_further_seed(tmp_path):
    path = make(tmp_path)
    shutil.copytree(path, tmp_path / "z copy")
    text = compare.table([tmp_path], {})
    assert line_of(text, "keeplora")[1] == "1"
    assert f"{tmp_path / 'z copy'}: the same settings and seed as {path}" in text


def test_streams_and_models_have_their_own_tables(tmp_path):
    make(tmp_path)
    make(tmp_path, stream="other")
    make(tmp_path, model="ViT-B-16/openai")
    heads = [line for line in compare.table([tmp_path], {}).splitlines() if line.startswith("stream")]
    assert heads == [
        "stream other, model pocket",
        "stream pocket, model ViT-B-16/openai",
        "stream pocket, model pocket",
    ]


def test_variants_of_a_method_say_how_they_differ(tmp_path):
    for seed in (0, 1):
        make(tmp_path, seed=seed)
        make(tmp_path, seed=seed, fingerprint="9876543210", train__lr=0.01, out="elsewhere", track__wandb="online")
    text = compare.table([tmp_path], {})
    assert line_of(text, "keeplora 0123456789")[1] == line_of(text, "keeplora 9876543210")[1] == "2"
    assert "  keeplora 0123456789: train.lr=0.001\n" in text
    assert "  keeplora 9876543210: train.lr=0.01\n" in text


def test_many_differences_are_cut_short(tmp_path):
    make(tmp_path)
    make(tmp_path, fingerprint="9876543210", **{f"method__x{n}": n for n in range(6)})
    text = compare.table([tmp_path], {})
    assert "9876543210: method.x0=0, method.x1=1, method.x2=2, method.x3=3, and 2 more" in text
    assert "0123456789: method.x0=(absent)" in text


@pytest.mark.parametrize("key", compare.IDENTITY)
def test_runs_on_different_ground_are_noted(tmp_path, key):
    make(tmp_path)
    change(make(tmp_path, seed=1), "identity.json", **{key: "another"})
    assert f"note: 2 different {compare.IDENTITY[key]} among these runs" in compare.table([tmp_path], {})


def test_refused_scalars_are_left_out_of_the_mean(tmp_path):
    make(tmp_path)
    path = make(tmp_path, seed=1, last=60)
    scalars = json.loads((path / "summary.json").read_text(encoding="utf-8"))["metrics"]
    change(path, "summary.json", metrics=scalars | {"last": None})
    lone = make(tmp_path, "lone")
    change(lone, "summary.json", metrics={})
    text = compare.table([tmp_path], {})
    assert line_of(text, "keeplora")[5] == "50.00 (1)"
    assert line_of(text, "lone")[2:8] == ["-"] * 6


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "summary.json").unlink(), "unfinished: no summary.json"),
        (lambda path: (path / "identity.json").unlink(), "damaged: no identity.json"),
        (lambda path: (path / "summary.json").write_text('{"status":\n '), "damaged: summary.json, line 2"),
        (lambda path: (path / "summary.json").write_bytes(b"\xff\xfe"), "damaged: summary.json"),
        (lambda path: write(path, "summary.json", []), "not a JSON object"),
        (lambda path: write(path, "summary.json", {"status": "finished"}), 'no "stream" in it'),
        (lambda path: change(path, "summary.json", metrics={"last": "high"}), '"last" is not a number'),
        (lambda path: change(path, "summary.json", seed="0"), '"seed" is not of type int'),
        (lambda path: change(path, "summary.json", status="stopped"), "unfinished: the status is 'stopped'"),
        (lambda path: change(path, "identity.json", settings={"train.lr": 1}), 'the setting "train.lr" has no value'),
        (lambda path: change(path, "environment.json", packages=["torch"]), '"packages" is not of type dict'),
    ],
)
def test_unusable_runs_are_listed_with_the_reason(tmp_path, damage, reason):
    make(tmp_path)
    path = make(tmp_path, seed=1, last=90)
    damage(path)
    text = compare.table([tmp_path], {})
    assert line_of(text, "keeplora")[5] == "50.00"
    (line,) = [line for line in text.partition("left out:\n")[2].splitlines() if str(path) in line]
    assert reason in line


def test_only_unfinished_runs(tmp_path):
    make(tmp_path, finished=False)
    assert compare.table([tmp_path], {}).startswith("left out:")


# ------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"method": "keeplora"}, {"keeplora"}),
        ({"method.name": "lora"}, {"lora"}),
        ({"train.lr": "1e-2"}, {"lora"}),
        ({"train.lr": "0.001"}, {"keeplora"}),
        ({"method.maps": "[q, v]"}, {"keeplora", "lora"}),
        ({"train.grad_clip": "null"}, {"keeplora"}),
        ({"train.grad_clip": "1"}, {"lora"}),
        ({"seed": "0", "method": "lora"}, {"lora"}),
    ],
)
def test_filters(tmp_path, filters, kept):
    make(tmp_path)
    make(tmp_path, "lora", train__lr=0.01, train__grad_clip=1.0)
    text = compare.table([tmp_path], filters)
    assert {name for name in ("keeplora", "lora") if f"\n{name} " in text} == kept


def test_filters_that_fit_nothing(tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match="no run here has method=lora train.lr=x"):
        compare.table([tmp_path], {"method": "lora", "train.lr": "x"})
    with pytest.raises(UserError, match=r'"train\.lrr" \(did you mean "train\.lr"\?\)'):
        compare.table([tmp_path], {"train.lrr": "1"})


def test_filters_leave_out_unfinished_runs_of_others(tmp_path):
    make(tmp_path)
    make(tmp_path, "lora", finished=False)
    assert "lora/" not in compare.table([tmp_path], {"method": "keeplora"}).replace("keeplora/", "")


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match=f'no runs found in "{re.escape(str(tmp_path))}"; make one with'):
        compare.table([tmp_path], {})
    with pytest.raises(UserError, match='there is no folder ".*nowhere"'):
        compare.table([tmp_path / "nowhere"], {})


# ---------------------------------------------------------------------------------------------- diff


def parts(text):
    """Section name -> its lines, of a diff."""
    found = {}
    for block in text.split("\n\n")[1:]:
        name, *lines = block.splitlines()
        found[name] = [line.strip() for line in lines]
    return found


def test_no_difference(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    assert compare.diff(a, b).splitlines() == [f"A  {a}", f"B  {b}", "", "no difference"]


def test_only_what_differs(tmp_path):
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", seed=1, last=60, train__lr=0.01, method__extra=True)
    change(b, "identity.json", weights_sha256="v" * 64, manifests={"pocket": "m" * 64, "other": "o"}, code_revision="d")
    change(b, "environment.json", packages={"torch": "2.10", "numpy": "2.4"})
    assert parts(compare.diff(a, b)) == {
        "settings": [
            "method.extra: (absent) | true (from default)",
            "seed: 0 (from user) | 1 (from user)",
            "train.lr: 0.001 (from default) | 0.01 (from default)",
        ],
        "weights": [f"{'w' * 64} | {'v' * 64}"],
        "manifests": ["other: (absent) | o"],
        "code": ["abc | d"],
        "environment": ["package torch: 2.9 | 2.10"],
        "results": [
            "average_cil: 65.0000 | 70.0000",
            "average_cil_pooled: 65.0000 | 70.0000",
            "average_mtil: 55.0000 | 60.0000",
            "backward_transfer: -30.0000 | -20.0000",
            "forgetting_first_last: 30.0000 | 20.0000",
            "forgetting_max_last: 30.0000 | 20.0000",
            "last: 50.0000 | 60.0000",
            "last_pooled: 50.0000 | 60.0000",
            "learning: 65.0000 | 70.0000",
            'accuracy.csv: 2 of 6 cells differ, most after "b" (row 2) on "a" (column 1): 50.00 | 60.00',
        ],
        "no difference in label space, order of tasks, prompts, plug-in files": [],
    }


def test_the_source_of_a_value_is_a_difference(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    values = json.loads((b / "identity.json").read_text(encoding="utf-8"))["settings"]
    change(b, "identity.json", settings=values | {"train.lr": {"value": 0.001, "source": "stream"}})
    assert parts(compare.diff(a, b))["settings"] == ["train.lr: 0.001 (from default) | 0.001 (from stream)"]


def test_an_unfinished_run_is_compared_as_far_as_it_got(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b", finished=False)
    assert "status: finished | unfinished" in parts(compare.diff(a, b))["results"]
    (b / "accuracy.csv").unlink()
    assert "accuracy.csv: there | (absent)" in parts(compare.diff(a, b))["results"]


def test_other_tasks(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    AccuracyMatrix(["b", "a"]).to_csv(b / "accuracy.csv")
    assert parts(compare.diff(a, b))["results"] == ["tasks: a, b | b, a"]


def test_diff_refuses(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    with pytest.raises(UserError, match='"nowhere" holds no run'):
        compare.diff(a, Path("nowhere"))
    (b / "identity.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be compared: damaged: identity\.json, line 1"):
        compare.diff(a, b)

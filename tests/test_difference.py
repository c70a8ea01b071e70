"""What differs between two records."""

import json
from pathlib import Path

import pytest
from support.made_records import change, make

from bench.compare import diff as difference
from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix


def parts(text):
    """Section name -> its lines, of a diff."""
    found = {}
    for block in text.split("\n\n")[1:]:
        name, *lines = block.splitlines()
        found[name] = [line.strip() for line in lines]
    return found


def test_no_difference(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    assert difference.diff(a, b).splitlines() == [f"A  {a}", f"B  {b}", "", "no difference"]


def test_only_what_differs(tmp_path):
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", seed=1, last=60, train__lr=0.01, method__extra=True)
    change(b, "identity.json", weights_sha256="v" * 64, manifests={"pocket": "m" * 64, "other": "o"}, code_revision="d")
    change(b, "environment.json", packages={"torch": "2.10", "numpy": "2.4"})
    assert parts(difference.diff(a, b)) == {
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
            "preserve: 50.0000 | 60.0000",
            'accuracy.csv: 2 of 6 cells differ, most after "b" (row 2) on "a" (column 1): 50.00 | 60.00',
        ],
        "no difference in label space, order of tasks, prompts, reference set, validation images, plug-in files, "
        "continued": [],
    }


def test_the_source_of_a_value_is_a_difference(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    values = json.loads((b / "identity.json").read_text(encoding="utf-8"))["settings"]
    change(b, "identity.json", settings=values | {"train.lr": {"value": 0.001, "source": "stream"}})
    assert parts(difference.diff(a, b))["settings"] == ["train.lr: 0.001 (from default) | 0.001 (from stream)"]


def test_an_unfinished_run_is_compared_as_far_as_it_got(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b", finished=False)
    assert "status: finished | unfinished" in parts(difference.diff(a, b))["results"]
    (b / "accuracy.csv").unlink()
    assert "accuracy.csv: there | (absent)" in parts(difference.diff(a, b))["results"]


def test_other_tasks(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    AccuracyMatrix(["b", "a"]).to_csv(b / "accuracy.csv")
    assert parts(difference.diff(a, b))["results"] == ["test sets: a, b | b, a"]


def continued(path: Path, *times: dict) -> Path:
    """Add to a record that it was continued, each time with what was not as at its begin."""
    begin = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    code = {"code_revision": "abc", "plugins_sha256": {}}
    change(path, "environment.json", continued=[begin | {"code": code} | {"started": "later"} | one for one in times])
    return path


def test_a_continued_run_shows_what_changed_on_its_way(tmp_path):
    a = make(tmp_path / "a")
    packages = {"torch": "2.10", "numpy": "2.4"}
    code = {"code_revision": f"{'0123456789abcdef' * 2}01234567+changes", "plugins_sha256": {"method": "e" * 64}}
    b = continued(make(tmp_path / "b"), {}, {"threads": 4, "packages": packages}, {"threads": 4, "code": code})
    change(b, "identity.json", plugins_sha256={"method": "d" * 64})
    found = parts(difference.diff(a, b))
    assert found["continued"] == [
        "A: never",
        "B: 3 times",
        "B, time 2: package torch: 2.9 -> 2.10, threads: 2 -> 4",
        f"B, time 3: code: abc -> 0123456789ab+changes, file of the method: {'d' * 12} -> {'e' * 12}, "
        "package torch: 2.10 -> 2.9",
    ]
    assert "environment" not in found and "{" not in str(found["continued"])


def test_runs_that_were_continued_alike_do_not_differ(tmp_path):
    a, b = continued(make(tmp_path / "a"), {}), continued(make(tmp_path / "b"), {})
    assert "no difference" in parts(difference.diff(a, b))
    never = make(tmp_path / "c")
    assert parts(difference.diff(a, never))["continued"] == ["A: once, with nothing changed", "B: never"]
    change(b, "environment.json", continued=[{"packages": [1], "code": 7, "threads": [{"a": 1}]}])  # whatever is there
    found = parts(difference.diff(never, b))
    assert found["continued"][1:] == ["B: once", 'B, time 1: threads: 2 -> [{"a": 1}]']


def test_diff_refuses(tmp_path):
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    with pytest.raises(UserError, match='"nowhere" holds no run'):
        difference.diff(a, Path("nowhere"))
    (b / "identity.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be compared: damaged: identity\.json, line 1"):
        difference.diff(a, b)

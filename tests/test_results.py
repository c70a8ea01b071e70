"""Runs read from disk, chosen by settings, and laid out as far as they may be compared."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_records import change, make, opened_below, write

from bench.compare import grouping
from bench.compare.runs import find, read
from bench.config.fingerprint import fingerprint
from bench.core.errors import UserError


def gather(root, **filters):
    return grouping.gather([root], {key.replace("__", "."): value for key, value in filters.items()})


def labels(comparison):
    """Labels of the groups of every field, with their seeds."""
    return [{group.label: list(group.runs) for group in field.groups} for field in comparison.fields]


def titles(comparison):
    return [field.title for field in comparison.fields]


def setting(path, key, value, source="user"):
    """Change one setting of a made record."""
    values = json.loads((path / "identity.json").read_text(encoding="utf-8"))["settings"]
    change(path, "identity.json", settings=values | {key: {"value": value, "source": source}})


# ---------------------------------------------------------------------------------------- groups over seeds


def test_seeds_of_one_method_are_a_group(tmp_path):
    for seed in (2, 0, 1):
        make(tmp_path, seed=seed, last=50 + seed)
    make(tmp_path, "lora")
    found = gather(tmp_path)
    assert labels(found) == [{"keeplora": [0, 1, 2], "lora": [0]}]
    group = found.fields[0].groups[0]
    assert group.values("last") == {0: 50, 1: 51, 2: 52}
    assert group.values("seconds") == {0: 60, 1: 61, 2: 62}
    assert group.values("stored_bytes")[0] == 2_500_000 and group.values("peak_memory_mb")[0] == 700.4
    assert group.runs[1].matrix.accuracy(2, 0) == 51
    assert group.settings["train.lr"] == "0.001" and "out" not in group.settings and "seed" not in group.settings
    assert found.fields[0].title == "stream pocket, model pocket" and not found.fields[0].notes and not found.left_out


def test_several_paths_count_a_run_once(tmp_path):
    path = make(tmp_path)
    assert labels(grouping.gather([tmp_path, path, tmp_path / "pocket"])) == [{"keeplora": [0]}]


def test_a_copied_run_is_no_further_seed(tmp_path):
    path = make(tmp_path)
    shutil.copytree(path, tmp_path / "z copy")
    found = gather(tmp_path)
    assert labels(found) == [{"keeplora": [0]}]
    assert found.left_out == [(tmp_path / "z copy", f"the same settings and seed as {path}")]


def test_variants_of_a_method_are_named_by_what_differs(tmp_path):
    for seed in (0, 1):
        make(tmp_path, seed=seed)
        make(tmp_path, seed=seed, fingerprint="9876543210", train__lr=0.01, out="elsewhere", track__wandb="online")
    assert labels(gather(tmp_path)) == [{"keeplora train.lr=0.001": [0, 1], "keeplora train.lr=0.01": [0, 1]}]


def test_many_differences_are_named_by_the_fingerprint(tmp_path):
    make(tmp_path)
    make(tmp_path, fingerprint="9876543210", **{f"method__x{n}": n for n in range(3)})
    first, second = gather(tmp_path).fields[0].groups
    assert (first.label, second.label) == ("keeplora 0123456789", "keeplora 9876543210")
    assert second.apart == {"method.x0": "0", "method.x1": "1", "method.x2": "2"}
    assert first.apart == dict.fromkeys(second.apart, "(absent)")


def test_one_method_recorded_by_two_versions(tmp_path):
    make(tmp_path)
    make(tmp_path, fingerprint="9876543210")
    assert labels(gather(tmp_path)) == [{"keeplora 0123456789": [0], "keeplora 9876543210": [0]}]


# ------------------------------------------------------------------------------------ what may be compared


def test_streams_and_models_are_kept_apart(tmp_path):
    make(tmp_path)
    make(tmp_path, stream="other")
    make(tmp_path, model="ViT-B-16/openai")
    assert titles(gather(tmp_path)) == [
        "stream other, model pocket",
        "stream pocket, model ViT-B-16/openai",
        "stream pocket, model pocket",
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stream.shots", 5, "stream.shots 5"),
        ("model.checkpoint", "mine.pt", "model.checkpoint mine.pt"),
        ("evaluate.split", "validation", "evaluate.split validation"),
        ("train.epochs", 1, "train.epochs 1"),
        ("train.batch_size", 64, "train.batch_size 64"),
        ("train.steps", 50, "train.epochs (absent), train.steps 50"),
        ("train.tasks", ["pocket.epochs=3"], "train.tasks [pocket.epochs=3]"),
    ],
)
def test_other_settings_of_what_is_measured_are_another_field(tmp_path, key, value, said):
    make(tmp_path)
    setting(make(tmp_path, "lora"), key, value)
    found = gather(tmp_path)
    assert sorted(map(len, labels(found))) == [1, 1]
    assert f"stream pocket, model pocket, {said}" in titles(found)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("weights_sha256", "0" * 64, "weights 00000000"),
        ("label_space", "all", "label space all"),
        ("tasks", ["b", "a"], "order of tasks [b,a]"),
        ("manifests", {"pocket": "1" * 64}, "images, labels or class names pocket 11111111"),
        ("prompts_sha256", "2" * 64, "prompts 22222222"),
    ],
)
def test_other_data_or_weights_are_another_field(tmp_path, key, value, said):
    make(tmp_path)
    make(tmp_path, seed=1)
    change(make(tmp_path, "lora"), "identity.json", **{key: value})
    found = gather(tmp_path)
    assert sorted(map(len, labels(found))) == [1, 1]
    assert f"stream pocket, model pocket, {said}" in titles(found)


def test_other_code_is_noted_only(tmp_path):
    for seed in (0, 1):
        path = make(tmp_path, seed=seed)
        change(
            path, "identity.json", code_revision=f"state {seed}", plugins_sha256={"method": str(seed), "stream": "s"}
        )
    change(make(tmp_path, "lora"), "identity.json", plugins_sha256={"method": "l", "stream": "another"})
    (field,) = gather(tmp_path).fields
    assert field.notes == [
        "3 states of the code made these runs; bench diff RUN_A RUN_B shows them",
        "the plug-in's file changed between runs: method keeplora, stream",
    ]


def test_every_method_has_a_file_of_its_own(tmp_path):
    for method in ("keeplora", "lora"):
        change(make(tmp_path, method), "identity.json", plugins_sha256={"method": method, "stream": "s"})
    assert gather(tmp_path).fields[0].notes == []


def test_what_a_method_prescribes_is_part_of_it(tmp_path):
    make(tmp_path)
    for method, source in (("long", "method"), ("chosen", "tuned")):
        setting(make(tmp_path, method), "train.epochs", 50, source)
    make(tmp_path, "lora", train__lr=0.5)  # a learning rate is no budget
    assert labels(gather(tmp_path)) == [{"chosen": [0], "keeplora": [0], "long": [0], "lora": [0]}]


def test_a_prescribed_budget_stands_beside_every_other(tmp_path):
    make(tmp_path)
    make(tmp_path, "lora", train__epochs=1)
    setting(make(tmp_path, "long"), "train.epochs", 50, "method")
    assert labels(gather(tmp_path)) == [{"long": [0], "lora": [0]}, {"keeplora": [0], "long": [0]}]


def test_a_method_that_trains_nothing_has_no_budget(tmp_path):
    make(tmp_path)
    make(tmp_path, "lora", train__epochs=1)
    make(tmp_path, "zero-shot", train__epochs=7)
    assert labels(gather(tmp_path)) == [{"lora": [0], "zero-shot": [0]}, {"keeplora": [0], "zero-shot": [0]}]
    make(tmp_path, "zero-shot", fingerprint="9876543210", train__epochs=1)
    one, five = gather(tmp_path).fields
    assert [g.fingerprint for g in one.groups] == ["0123456789", "9876543210"]  # lora's, and that of one epoch
    assert [g.label for g in five.groups] == ["keeplora", "zero-shot train.epochs=7", "zero-shot train.epochs=1"]


def test_tasks_drawn_by_the_seed_are_one_field(tmp_path):
    orders = {0: ["a", "b"], 1: ["b", "a"]}
    for method in ("keeplora", "lora"):
        for seed, order in orders.items():
            path = make(tmp_path, method, seed=seed)
            change(path, "identity.json", tasks=order, seeds={"task_order": seed})
    (field,) = gather(tmp_path).fields
    assert [list(group.runs) for group in field.groups] == [[0, 1], [0, 1]]
    assert field.notes == ["every seed draws other tasks or data; differences between methods are taken seed by seed"]
    assert "order of tasks" not in field.conditions


def drawn(root, method, order, seed, last, given=True):
    """Make a run with an order of its own; `given` says whether the user gave its seed."""
    explicit = {"seeds__task_order": order} if given else {"seeds__task_order": None}
    path = make(root, method, seed=seed, last=last, fingerprint=f"{order:010}" if given else "0123456789", **explicit)
    change(path, "identity.json", tasks=["a", "b"][:: 1 if order % 2 else -1], seeds={"task_order": order})


def test_orders_and_seeds_are_told_apart(tmp_path):
    lasts = {(1, 0): 50, (1, 1): 52, (2, 0): 60, (2, 1): 64, (3, 0): 55, (3, 1): 55}
    for (order, seed), last in lasts.items():
        drawn(tmp_path, "keeplora", order, seed, last)
        drawn(tmp_path, "lora", order, seed, last - order)
    (field,) = gather(tmp_path).fields
    keeplora, lora = field.groups
    assert list(keeplora.runs) == list(lasts) and (keeplora.n, keeplora.counted) == (3, "3 orders x 2 seeds")
    assert keeplora.values("last") == {1: 51, 2: 62, 3: 55} and lora.values("last") == {1: 50, 2: 60, 3: 52}
    assert (
        field.notes == [grouping.CROSSED]
        and keeplora.label == "keeplora"
        and "seeds.task_order" not in keeplora.settings
    )


def test_orders_with_one_seed_count_as_orders(tmp_path):
    for order in (1, 2, 3, 4):
        drawn(tmp_path, "keeplora", order, 7, 50 + order)
    (group,) = gather(tmp_path).fields[0].groups
    assert group.counted == "4 orders x 1 seed" and list(group.values("last").values()) == [51, 52, 53, 54]


def test_an_order_that_follows_the_seed_joins_those_that_are_given(tmp_path):
    for seed in (0, 1):
        drawn(tmp_path, "keeplora", seed, seed, 50, given=False)
    assert labels(gather(tmp_path)) == [{"keeplora": [0, 1]}]  # one seed for each order: as ever
    for path in find([tmp_path]):  # what these settings have where the order follows the seed
        change(path, "summary.json", fingerprint=fingerprint(read(path).settings))
    drawn(tmp_path, "keeplora", 5, 0, 60)
    assert labels(gather(tmp_path)) == [{"keeplora": [(0, 0), (1, 1), (5, 0)]}]


def test_shuffles_may_give_the_same_order(tmp_path):
    for order in (1, 2, 3):  # of two tasks there are two orders
        drawn(tmp_path, "keeplora", order, 0, 50)
    assert labels(gather(tmp_path)) == [{"keeplora": [(1, 0), (2, 0), (3, 0)]}]


def test_data_that_changed_are_not_taken_for_drawn_ones(tmp_path):
    for seed in (0, 1):
        make(tmp_path, seed=seed)
    change(make(tmp_path, seed=2), "identity.json", prompts_sha256="3" * 64)
    assert labels(gather(tmp_path)) == [{"keeplora": [0, 1]}, {"keeplora": [2]}]


# --------------------------------------------------------------------------------------------- left out


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
        (lambda path: change(path, "summary.json", stored_bytes="many"), '"stored_bytes" is not a number'),
    ],
)
def test_unusable_runs_are_listed_with_the_reason(tmp_path, damage, reason):
    make(tmp_path)
    path = make(tmp_path, seed=1, last=90)
    damage(path)
    found = gather(tmp_path)
    assert labels(found) == [{"keeplora": [0]}]
    ((where, said),) = found.left_out
    assert where == path and reason in said


LARGE = "it holds a number that is not finite or too large"
DEEP = "it is nested more than 40 levels deep"
BROKEN = [
    ("summary.json", {"metrics": {"last": 1e308}}, '"last" is 1e+308, which is not from -100 to 100'),
    ("summary.json", {"metrics": {"last": -100.1}}, '"last" is -100.1, which is not from -100 to 100'),
    *(("summary.json", {"metrics": {"last": one}}, LARGE) for one in (10**400, float("inf"), float("nan"))),
    *(("summary.json", {part: 10**400}, LARGE) for part in ("seed", "seconds", "of a later version")),
    *((f"{name}.json", {"of a later version": [10**400]}, LARGE) for name in ("identity", "environment")),
    ("summary.json", '{"seed": ' + "1" * 5000 + "}", ""),
    ("summary.json", {"seconds": {"total": -1}}, '"total" is -1, which is not from 0 to 1e+15'),
    ("summary.json", {"stored_bytes": 1e300}, '"stored_bytes" is 1e+300, which is not from 0 to 1e+15'),
    ("summary.json", {"seconds_reused": {"a": []}}, '"a" is not a number'),
    ("summary.json", {"method": "\udcff"}, "it holds text that is not Unicode"),
    ("identity.json", {"\ud800": 1}, "it holds text that is not Unicode"),
    ("identity.json", {"weights_sha256": ["w"]}, '"weights_sha256" is not of type str'),
    ("identity.json", {"manifests": {"a": ["m"]}}, '"manifests" has an entry that is not of type str'),
    ("identity.json", {"plugins_sha256": {"method": []}}, '"plugins_sha256" has an entry that is not of type str'),
    ("identity.json", {"seeds": {"task_order": [1]}}, '"seeds" has an entry that is not of type int'),
    ("identity.json", {"tasks": [["a"]]}, '"tasks" has an entry that is not of type str'),
    ("identity.json", {"settings": {"train.lr": {"value": 1, "source": []}}}, '"source" is not of type str'),
    ("environment.json", {"continued": [1]}, '"continued" has an entry that is not of type dict'),
    *(("identity.json", one, DEEP) for one in ("[" * 200_000, '{"a":' * 200_000)),
    *((f"{name}.json", '{"a": ' + "[" * 60 + "]" * 60 + "}", DEEP) for name in ("identity", "environment", "summary")),
]
"""Contents of a file of a record, or parts of it, each of which made a comparison of all runs fail."""


@pytest.mark.parametrize(("name", "content", "reason"), BROKEN)
def test_one_broken_record_leaves_the_others_comparable(tmp_path, name, content, reason):
    make(tmp_path)
    path = make(tmp_path, seed=1, last=90)
    if isinstance(content, str):
        (path / name).write_text(content, encoding="utf-8")
    else:
        change(path, name, **content)
    found = gather(tmp_path)
    assert labels(found) == [{"keeplora": [0]}]
    assert [(where, f"damaged: {name}: {reason}" in said) for where, said in found.left_out] == [(path, True)]


def unreadable(monkeypatch, folder, error):
    """Whoever may read everything cannot take the right away from itself."""
    scan = os.scandir

    def refusing(path="."):
        if Path(path) == folder:
            raise error
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os, "listdir", lambda path=".": [one.name for one in refusing(path)])


@pytest.mark.parametrize("part", ["keeplora/0123456789-s1", "keeplora", "lora"])
def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch, part):
    make(tmp_path, "zero-shot")
    for seed in range(2):
        make(tmp_path, seed=seed)
    (tmp_path / "pocket" / "pocket" / "lora").mkdir()
    folder = tmp_path / "pocket" / "pocket" / part
    unreadable(monkeypatch, folder, PermissionError(13, "Permission denied", str(folder)))
    assert (folder, "damaged: the folder cannot be read (Permission denied)") in gather(tmp_path).left_out


def test_a_folder_that_is_removed_meanwhile_is_none(tmp_path, monkeypatch):
    make(tmp_path)
    folder = tmp_path / "pocket" / "gone"
    folder.mkdir()
    unreadable(monkeypatch, folder, FileNotFoundError(2, "No such file or directory", str(folder)))
    assert gather(tmp_path).left_out == []


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    make(tmp_path)
    path = make(tmp_path, seed=1)
    original = os.open

    def refusing(file, *arguments, **named):
        if Path(file) == path / "identity.json":
            raise PermissionError(13, "Permission denied", str(file))
        return original(file, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    assert gather(tmp_path).left_out == [(path, "damaged: identity.json: Permission denied")]


def test_only_unfinished_runs(tmp_path):
    make(tmp_path, finished=False)
    found = gather(tmp_path)
    assert not found.fields and len(found.left_out) == 1


def test_every_file_is_read_once(tmp_path, monkeypatch):
    for seed in range(5):
        make(tmp_path, seed=seed)
        make(tmp_path, "lora", seed=seed, fingerprint="9876543210")
    seen = opened_below(tmp_path, monkeypatch)
    gather(tmp_path, stream="pocket")
    assert sorted(seen) == sorted(tmp_path.rglob("*.json")) and len(seen) == 30


def test_no_torch():
    code = "import sys, bench.compare.grouping; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)


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
        ({"method": "[lora,keeplora]"}, {"keeplora", "lora"}),
        ({"method": "[ lora, third ]"}, {"lora"}),
        ({"train.lr": "[1e-3, 5]"}, {"keeplora"}),
    ],
)
def test_filters(tmp_path, filters, kept):
    make(tmp_path)
    make(tmp_path, "lora", train__lr=0.01, train__grad_clip=1.0)
    assert {name for field in labels(grouping.gather([tmp_path], filters)) for name in field} == kept


def test_filters_that_fit_nothing(tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match="no run here has method=lora train.lr=x"):
        grouping.gather([tmp_path], {"method": "lora", "train.lr": "x"})
    with pytest.raises(UserError, match=r'"train\.lrr" \(did you mean "train\.lr"\?\)'):
        grouping.gather([tmp_path], {"train.lrr": "1"})


def test_filters_leave_out_unfinished_runs_of_others(tmp_path):
    make(tmp_path)
    make(tmp_path, "lora", finished=False)
    assert not gather(tmp_path, method="keeplora").left_out


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match=f'no runs found in "{re.escape(str(tmp_path))}"; make one with'):
        grouping.gather([tmp_path], {})
    with pytest.raises(UserError, match='there is no folder ".*nowhere"'):
        grouping.gather([tmp_path / "nowhere"], {})

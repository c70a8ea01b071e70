"""The line at the end of a run: how it compares with the runs beside it."""

import pytest
from support.made_records import change, make

from bench.compare.ranking import standing


def test_a_run_alone_says_nothing(tmp_path):
    path = make(tmp_path)
    make(tmp_path, stream="other")
    make(tmp_path, model="other")
    make(tmp_path, "lora", finished=False)
    make(tmp_path, "third", train__epochs=1)  # another training budget
    assert standing(path) == ""


def test_where_a_run_stands(tmp_path):
    last = {"keeplora": 65, "lora": 61.2, "third": 50, "zero-shot": 30}
    paths = {method: make(tmp_path / "my runs", method, last=value) for method, value in last.items()}
    line = f"python -m bench compare '{tmp_path}/my runs' stream=pocket"
    assert {method: standing(path) for method, path in paths.items()} == {
        "keeplora": f"beside 3 other runs here: Last 65.0, 1st of 3 (next: lora 61.2); {line}",
        "lora": f"beside 3 other runs here: Last 61.2, 2nd of 3 (best: keeplora 65.0); {line}",
        "third": f"beside 3 other runs here: Last 50.0, 3rd of 3 (best: keeplora 65.0); {line}",
        "zero-shot": f"beside 3 other runs here: Last 30.0, a reference line (best: keeplora 65.0); {line}",
    }


def test_seeds_count_as_one_with_their_mean(tmp_path):
    for seed in (0, 1):
        path = make(tmp_path, seed=seed, last=60 + seed)
    line = f"python -m bench compare {tmp_path} stream=pocket"
    assert standing(path) == f"beside 1 other run here: Last 60.5 (mean of 2 seeds); {line}"
    make(tmp_path, "lora", last=60.5)
    assert "Last 60.5 (mean of 2 seeds), 1st of 2 (next: lora 60.5); " in standing(path)  # level


def test_orders_and_seeds_are_both_named(tmp_path):
    for order, seed in ((1, 0), (1, 1), (2, 0)):
        path = make(tmp_path, seed=seed, last=60 + order, fingerprint=f"{order:010}", seeds__task_order=order)
        change(path, "identity.json", tasks=["a", "b"][:: 1 if order == 1 else -1], seeds={"task_order": order})
    assert "Last 61.5 (mean of 2 orders x 1 to 2 seeds); " in standing(path)


def test_what_trains_nothing_stands_beside_most(tmp_path):
    path = make(tmp_path, "zero-shot", last=30)
    make(tmp_path, "third", train__epochs=1)
    for method in ("keeplora", "lora"):
        make(tmp_path, method, last=50)
    assert "beside 2 other runs here: Last 30.0, a reference line" in standing(path)


def test_only_summaries_are_read(tmp_path, monkeypatch):
    path = make(tmp_path)
    make(tmp_path, "lora")
    for file in tmp_path.rglob("*.csv"):
        file.unlink()
    assert standing(path)


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")]
)
def test_ordinals(number, word):
    from bench.compare.ranking import _ordinal

    assert _ordinal(number) == word

"""What makes docs/keeplora-sensitivity.md, and that the page says no more than its tables."""

from __future__ import annotations

import importlib
import itertools
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.sweep.file import expand, find

ROOT = Path(__file__).parent.parent
SWEPT: dict[str, dict[str, list[float]]] = {
    "keeplora_rank": {"method.rank": [1, 16]},
    "keeplora_alpha": {"method.alpha": [0.25, 1]},
    "keeplora_lr": {"train.lr": [0.003, 0.1]},
    "keeplora_thresholds": {"method.weight_energy.image": [0, 0.85], "method.feature_energy": [0, 0.9, 0.99]},
}
"""As the shipped files have it, with fewer values; the last of each is the default."""


@pytest.fixture
def sensitivity(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("sensitivity")


@pytest.fixture
def results(sensitivity: ModuleType) -> dict[str, list[Any]]:
    """Made-up points: the n-th of a sweep has Transfer 10 + n, Average 20 + n, Last 30 + n, just learned 40 + n."""
    return {
        name: [
            sensitivity.Result(dict(zip(swept, values, strict=True)), metrics(number), number == len(points) - 1)
            for number, values in enumerate(points)
        ]
        for name, swept in SWEPT.items()
        for points in [list(itertools.product(*swept.values()))]
    }


def metrics(number: float) -> dict[str, float]:
    own = {"transfer_by_column": 10 + number, "average_mtil": 20 + number, "last": 30 + number, "learning": 40 + number}
    return {**own, "zero_shot": 50.04, "zero_shot_loss": 45.0 - number}


def test_a_table_has_a_row_a_point_and_the_default_in_bold(sensitivity, results):
    assert sensitivity.sweep_table(results["keeplora_alpha"]).splitlines() == [
        "| `method.alpha` | Transfer | Average | Last | just learned |",
        "| --- | --- | --- | --- | --- |",
        "| 0.25 | 10.0 | 20.0 | 30.0 | 40.0 |",
        "| **1** | **11.0** | **21.0** | **31.0** | **41.0** |",
    ]


def test_the_page_has_every_table_and_the_untrained_model(sensitivity, results):
    text = sensitivity.page(results)
    assert all(sensitivity.sweep_table(found) in text for found in results.values())
    assert "The untrained model has 55.0 in Transfer and 50.0 in the other three." in text
    assert "5 epochs a task" in text


def test_the_picture_has_curves_and_maps_with_the_defaults_marked(sensitivity, results):
    axes = sensitivity.draw(results).axes
    curves, maps = axes[:3], axes[3:]
    for place, name, default in zip(curves, sensitivity.CURVES, (16, 1, 0.1), strict=True):
        mark, *lines = place.get_lines()
        assert set(mark.get_xdata()) == {default} and place.get_xscale() == "log"
        assert [line.get_label() for line in lines] == list(sensitivity.MEASURES.values())
        assert list(lines[2].get_xdata()) == next(iter(SWEPT[name].values()))
        assert list(lines[2].get_ydata()) == [30, 31]
    assert [place.get_title() for place in maps] == ["Transfer (%)", "Last (%)", "just learned (%)"]
    # From below: weights 0, then 0.85; from the left: features 0, 0.9, 0.99.
    written = {text.get_position(): text.get_text() for text in maps[1].texts}
    assert written == {(n % 3, n // 3): f"{30 + n}.0" for n in range(6)}
    (frame,) = maps[1].patches
    assert frame.get_xy() == (1.5, 0.5)


def test_points_are_read_from_their_records(sensitivity, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "SWEEPS", {"keeplora_alpha": "Alpha"})
    words = [f"out={tmp_path}"]
    finish(words)
    (found,) = sensitivity.load(words).values()
    assert [result.values for result in found] == [{"method.alpha": alpha} for alpha in (0.25, 1, 4, 16)]
    assert [result.metrics["last"] for result in found] == [30, 31, 32, 33]
    assert [result.default for result in found] == [False, True, False, False]


def test_unfinished_points_are_named_with_the_line_that_runs_them(sensitivity, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sensitivity, "SWEEPS", {"keeplora_alpha": "Alpha", "keeplora_lr": "Learning rate"})
    words = [f"out={tmp_path}"]
    finish(words, but=3)
    assert sensitivity.main(words) == 2
    assert capsys.readouterr().err == (
        "error: not finished: keeplora_alpha (method.alpha=16); keeplora_lr (train.lr=0.003, train.lr=0.01, "
        f"train.lr=0.03, train.lr=0.3): run python -m bench sweep keeplora_alpha out={tmp_path} and python -m bench "
        f"sweep keeplora_lr out={tmp_path}\n"
    )


def finish(words: list[str], but: int | None = None) -> None:
    """Records of the points of keeplora_alpha, one of them unfinished."""
    for number, point in enumerate(expand(find("keeplora_alpha"), words).points):
        if number != but:
            point.directory.mkdir(parents=True)
            names = {
                "stream": "pocket",
                "model": "pocket",
                "method": "keeplora",
                "fingerprint": "0123456789",
                "seed": 0,
            }
            content = {"status": "finished", **names, "metrics": metrics(number), "seconds": {"total": 1.0}}
            (point.directory / "summary.json").write_text(json.dumps(content))


def test_page_and_picture_are_written(sensitivity, results, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "DOCS", tmp_path)
    monkeypatch.setattr(sensitivity, "load", lambda words: results)
    assert sensitivity.main(["out=elsewhere"]) == 0
    text = (tmp_path / "keeplora-sensitivity.md").read_text(encoding="utf-8")
    assert "elsewhere" not in text and text == sensitivity.page(results)
    assert (tmp_path / "keeplora-sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_other_words_are_refused(sensitivity, capsys):
    assert sensitivity.main(["train.epochs=1"]) == 2
    sentence = 'error: "train.epochs=1" means nothing here: write out=DIR, the folder where the runs lie\n'
    assert capsys.readouterr().err == sentence


# ------------------------------------------------------------------------------------- the page as it is


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[tuple[float, ...], tuple[float, ...]]]:
    """The four tables of the page: values of the settings -> Transfer, Average, Last, just learned."""
    text = (ROOT / "docs" / "keeplora-sensitivity.md").read_text(encoding="utf-8")
    found = {}
    for title, body in re.findall(r"^### (.+)\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        rows = [[float(cell.strip(" *")) for cell in line.split("|")[1:-1]] for line in body.splitlines()[2:]]
        found[title] = {tuple(row[:-4]): tuple(row[-4:]) for row in rows}
    return found


def test_the_page_is_the_generators_apart_from_the_numbers(sensitivity):
    text = (ROOT / "docs" / "keeplora-sensitivity.md").read_text(encoding="utf-8")
    assert sensitivity.SEEN in text
    assert [name for name in sensitivity.SWEEPS if f"python -m bench sweep {name} " not in text] == []


def test_what_is_said_of_rank_alpha_and_rate_is_in_the_tables(tables):
    for few, more in itertools.pairwise(tables["Rank"].values()):
        assert all(a < b for a, b in zip(few, more, strict=True))
    for title, default, lower in (("Alpha", 1, 0.25), ("Learning rate", 0.1, 0.03)):
        rows = tables[title]
        transfer, _, last, learned = zip(*rows.values(), strict=True)
        at, below, largest = rows[(default,)], rows[(lower,)], rows[max(rows)]
        assert list(transfer) == sorted(transfer, reverse=True)
        assert max(learned) == at[3] and max(last) == at[2]
        assert 3.5 < below[0] - at[0] < 4.5 and 2 <= at[2] - below[2] <= 4
        assert all(a < b for a, b in zip(largest, at, strict=True))


def test_what_is_said_of_the_thresholds_is_in_the_table(tables):
    table = tables["Energy of weights and of features"]
    weights, features = (sorted({key[axis] for key in table}) for axis in (0, 1))
    for weight in weights:
        last = {feature: table[weight, feature][2] for feature in features}
        assert min(last, key=last.__getitem__) == 0 and last[0] < last[0.9] - 10
        assert last[0.99] >= last[0.9] + 6
        assert all(a < b for a, b in zip(table[weight, 0.999][1:], table[weight, 0.99][1:], strict=True))
        transfer = [table[weight, feature][0] for feature in features]
        assert max(transfer) - min(transfer) <= 1
    for feature in features:
        column = [table[weight, feature] for weight in weights]
        assert 2 <= column[-1][0] - column[0][0] <= 4
        assert column[-1][3] - column[0][3] >= 5
    default, higher = table[0.85, 0.99], table[0.95, 0.99]
    assert higher[0] > default[0] + 1
    assert all(abs(a - b) < 1 for a, b in zip(higher[1:], default[1:], strict=True))

"""What fills in the results of docs/forgetting.md, and its picture."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from bench.reuse.probe import Probed

ROOT = Path(__file__).parent.parent
METHODS = {"no-op": (90.0, 90.0), "gs-lora": (2.0, 80.0)}
"""Mean Forgotten and Retained of made-up runs."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("forgetting_results")


@pytest.fixture
def runs(script: ModuleType, tmp_path: Path) -> dict[str, list[Path]]:
    """Made-up runs of two seeds, one point below and one above the mean, with probes of gs-lora."""
    found: dict[str, list[Path]] = {}
    for method, (forgotten, retained) in METHODS.items():
        for seed, by in enumerate((-1, 1)):
            path = tmp_path / "runs" / "forget-pocket" / "pocket" / method / f"0123456789-s{seed}"
            path.mkdir(parents=True)
            values = {"forgotten": forgotten + by, "relapse": 3.0, "retained": retained, "h_mean": 50.0 + by,
                      "elsewhere": 95.0}  # fmt: skip
            (path / "summary.json").write_text(json.dumps({"metrics": values}))
            found.setdefault(method, []).append(path)
            if method == "gs-lora":
                write_probe(tmp_path / "evaluations" / "/".join(path.parts[-4:]), by)
    return found


def write_probe(folder: Path, by: int) -> None:
    """Two requests and the kept classes; names of columns as the verb writes them."""
    folder.mkdir(parents=True)
    rows = [
        Probed("request-1", "task", 50, 100, 90.0, 0.0, 80.0, 60.0 + by, 20.0),
        Probed("request-2", "task", 50, 100, 80.0, 4.0, 70.0, 40.0 + by, 30.0),
        Probed("kept", "kept", 50, 100, 91.0, 89.0, 81.0, 79.0, 26.0),
    ]
    with (folder / "probe.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, vars(rows[0]))
        writer.writeheader()
        writer.writerows(map(vars, rows))


def test_the_tables_have_means_and_standard_errors(script: ModuleType, runs: dict, tmp_path: Path) -> None:
    assert script.results_table(runs).splitlines() == [
        "| method | Forgotten | Relapse | Retained | H-mean | Elsewhere |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `no-op` | 90.0 ± 1.0 | 3.0 ± 0.0 | 90.0 ± 0.0 | 50.0 ± 1.0 | 95.0 ± 0.0 |",
        "| `gs-lora` | 2.0 ± 1.0 | 3.0 ± 0.0 | 80.0 ± 0.0 | 50.0 ± 1.0 | 95.0 ± 0.0 |",
    ]
    probes = script.probes_of(runs, tmp_path / "evaluations")
    assert list(probes) == ["gs-lora"]  # the other was not probed
    assert script.probe_table(probes).splitlines() == [
        "| after | text, forgotten | text, kept | probe, forgotten | probe, kept |",
        "| --- | --- | --- | --- | --- |",
        "| before | 85.0 ± 0.0 | 91.0 ± 0.0 | 75.0 ± 0.0 | 81.0 ± 0.0 |",
        "| `gs-lora` | 2.0 ± 0.0 | 89.0 ± 0.0 | 50.0 ± 1.0 | 79.0 ± 0.0 |",
        "| pixels |  |  | 25.0 ± 0.0 | 26.0 ± 0.0 |",
    ]


def test_the_picture_has_a_point_a_method_and_marks_the_start(script: ModuleType, runs: dict) -> None:
    (axes,) = script.draw(script.scalars(runs)).axes
    points = {bar.get_label(): bar.lines[0].get_xydata()[0].tolist() for bar in axes.containers}
    assert points == {"gs-lora": [2.0, 80.0], "no-op: the start": [90.0, 90.0]}
    across, _ = axes.containers[0].lines[2][0].get_segments()[0]
    assert across.tolist() == [1.0, 80.0]  # one standard error below
    assert "good corner" in axes.get_title("left")


def test_the_results_are_put_between_the_marks_of_the_page(
    script: ModuleType, runs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n" + "old\n".join(script.MARKS) + "after\n")
    asked = []
    monkeypatch.setattr(script, "finished", lambda words, sweep: asked.append((words, sweep)) or runs)
    script.main([f"out={tmp_path / 'runs'}", f"probes={tmp_path / 'evaluations'}"], page)
    text = page.read_text()
    made = script.results(runs, script.probes_of(runs, tmp_path / "evaluations"))
    assert text == f"before\n{script.MARKS[0]}\n{made}\n{script.MARKS[1]}after\n"
    assert "| `gs-lora` | 2.0 ± 1.0" in text and "| pixels |" in text
    assert (tmp_path / "forgetting.png").read_bytes()[:4] == b"\x89PNG"
    assert asked == [([f"out={tmp_path / 'runs'}"], "compare_forgetting")]
    monkeypatch.setattr(script, "finished", lambda words, sweep: {})
    with pytest.raises(SystemExit, match="no method has 5 finished runs"):
        script.main([], page)


def test_the_page_has_the_marks(script: ModuleType) -> None:
    text = (ROOT / "docs" / "forgetting.md").read_text(encoding="utf-8")
    assert [text.count(mark) for mark in script.MARKS] == [1, 1] and text.index(script.MARKS[0]) < text.index(
        script.MARKS[1]
    )

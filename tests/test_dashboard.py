"""The saved view and the report in W&B: what is sent to a server on loopback, and what is said when it cannot be."""

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_wandb import FakeWandb

from bench.cli.main import main
from bench.config.resolve import resolve
from bench.runs.run import run
from bench.tracking.panels import survey
from bench.tracking.upload import upload

TOY = str(Path(__file__).parent / "toy.py")
PLACE = "test-entity/p"
TITLE = "keeplora-bench: stream toy, model tiny"


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeWandb]:
    """A server that this process is logged in to, with a mirrored run and a twin of it that has another rank."""
    import wandb

    out = tmp_path_factory.mktemp("runs")
    words = [f"stream={TOY}", f"model={TOY}", f"out={out}", "device=cpu", "method=lora", "method.rank=4"]
    with FakeWandb() as server, pytest.MonkeyPatch.context() as patch:
        for key, value in server.env().items():
            patch.setenv(key, value)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        upload(run(resolve([*words, "track.wandb=off"]), ["run"]), {"track.project": "p"}, print)
        ((key, one),) = server.runs.items()
        twin = {**copy.deepcopy(one), "id": "twin", "name": "twin"}
        twin["config"]["method.rank"] = 8
        server.runs[(*key[:2], "twin")] = twin
        yield server
        wandb.teardown()


@pytest.fixture
def server(mirrored: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """The same without views, its runs put back as they were afterwards."""
    runs = copy.deepcopy(mirrored.runs)
    mirrored.views.clear()
    mirrored.errors.clear()
    yield mirrored
    mirrored.runs, mirrored.refusal = runs, 0


def dashboard(*words: str) -> None:
    assert main(["dashboard", PLACE, *words]) == 0


def view(server: FakeWandb, title: str = TITLE) -> dict[str, Any]:
    (found,) = (v for v in server.views.values() if v["type"] == "project-view" and v["displayName"] == title)
    return found


def report(server: FakeWandb, title: str = TITLE) -> dict[str, Any]:
    (found,) = (v for v in server.views.values() if v["type"] == "runs" and v["displayName"] == title)
    return found


def shown(of: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Title of a section or heading -> its panels, as the server got them."""
    if of["type"] == "project-view":
        return {one["name"]: one["panels"] for one in of["spec"]["section"]["panelBankConfig"]["sections"]}
    found, heading = {}, ""
    for block in of["spec"]["blocks"]:
        if block["type"] == "heading":
            heading = block["children"][0]["text"]
        elif block["type"] == "panel-grid":
            found[heading] = block["metadata"]["panelBankSectionConfig"]["panels"]
    return found


def runsets(of: dict[str, Any]) -> list[dict[str, Any]]:
    if of["type"] == "project-view":
        return of["spec"]["section"]["runSets"]
    grids = [block["metadata"] for block in of["spec"]["blocks"] if block["type"] == "panel-grid"]
    return [one for grid in grids for one in grid["runSets"]]


def filters(of: dict[str, Any]) -> list[tuple[str, str, Any]]:
    (found,) = {json.dumps(one["filters"]["filters"]) for one in runsets(of)}
    return [(f"{one['key']['section']}:{one['key']['name']}", one["op"], one["value"]) for one in json.loads(found)]


def keys(panel: dict[str, Any]) -> list[str]:
    """What a panel reads, with the section it reads it from."""
    config = panel["config"]
    grouped = [f"config:{config['groupBy']}"] if "groupBy" in config else []
    match panel["viewType"]:
        case "Bar Chart":
            return [*(f"summary:{key}" for key in config["metrics"]), *grouped]
        case "Run History Line Plot":
            return [*(f"history:{key}" for key in [config["xAxis"], *config["metrics"]]), *grouped]
        case "Scatter Plot":
            return [config["xAxis"], config["yAxis"], *re.findall(r"config:[^}]+", config["legendTemplate"])]
        case "Parallel Coordinates Plot":
            return [column["accessor"] for column in config["columns"]]
        case "Parameter Importance":
            return [f"summary:{config['targetKey']}"]
        case "Media Browser":
            return [f"history:{key}" for key in config["mediaKeys"]]
        case "Weave":
            return [f"summary:{key}" for key in set(re.findall(r'"val": "(accuracy/[^"]+)"', json.dumps(config)))]
    raise AssertionError(panel["viewType"])


def logged(server: FakeWandb) -> set[str]:
    """Every key that the mirrored runs have."""
    found: set[str] = set()
    for one in server.runs.values():
        found |= {f"history:{key}" for row in one["history"] for key in row}
        found |= {f"summary:{key}" for key in one["summary"]}
        found |= {f"config:{key}" for key in one["config"]} | {f"config:{key}.value" for key in one["config"]}
    return found


# ------------------------------------------------------------------------------------------- what is shown


def test_view_and_report_have_the_panels_and_these_read_what_is_logged(
    server: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    dashboard()
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"view created: {server.url}/test-entity/p?nw={view(server)['name'][3:-2]}",
        f"report created: {server.url}/{PLACE}/reports/{TITLE.replace(' ', '-')}--{report(server)['id']}",
    ]
    known = logged(server)
    for of in (view(server), report(server)):
        found = {title: [keys(panel) for panel in panels] for title, panels in shown(of).items()}
        every = [key for panels in found.values() for read in panels for key in read]
        assert [key for key in every if key not in known] == []
        assert all(read for panels in found.values() for read in panels)
        by = "config:method.value"
        assert found == {
            "Results": [
                ["summary:final/transfer_by_column", by],
                ["summary:final/average_mtil", by],
                ["summary:final/last", by],
                ["summary:final/transfer_by_column", "summary:final/last", "config:method"],
            ],
            "Settings": [
                [
                    "config:method.value",
                    "config:method.rank.value",
                    "summary:final/transfer_by_column",
                    "summary:final/average_mtil",
                    "summary:final/last",
                ],
                ["summary:final/transfer_by_column"],
                ["summary:final/average_mtil"],
                ["summary:final/last"],
            ],
            "Scalars so far": [
                [f"history:{key}" for key in ("task", f"task/{name}")] + [by]
                for name in ("transfer", "average", "last")
            ],
            "Accuracy of every task": [["history:task", f"history:task/accuracy/toy{task}", by] for task in range(3)],
            "Training": [["history:train/step", f"history:train/{name}", by] for name in ("loss", "lr")],
            "Costs": [
                *([f"summary:{key}", by] for key in ("seconds/total", "peak_memory_mb", "stored_bytes")),
                *(["history:task", f"history:task/{key}", by] for key in ("seconds", "peak_memory_mb", "stored_bytes")),
            ],
            "Accuracy matrix": [["history:accuracy/heatmap"], ["summary:accuracy/matrix"]],
        }
        assert filters(of) == [("config:stream", "=", "toy"), ("config:model", "=", "tiny")]
    assert server.errors == []


def test_runs_are_grouped_by_method_except_where_they_are_shown_one_by_one(server: FakeWandb) -> None:
    dashboard()
    method = [{"section": "config", "name": "method.value"}]
    assert [one["grouping"] for one in runsets(view(server))] == [method]
    grouping = dict(zip(shown(report(server)), [one["grouping"] for one in runsets(report(server))], strict=True))
    assert {title for title, by in grouping.items() if by == []} == {"Settings", "Accuracy matrix"}
    assert all(by in ([], method) for by in grouping.values())


def test_the_same_line_again_writes_the_same_view_and_report(
    server: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    dashboard("method=lora")  # which looking for the other ones must pass over
    others = copy.deepcopy(server.views)
    dashboard()
    before = (view(server)["id"], view(server)["name"], report(server)["id"])
    for one in server.runs.values():  # what has changed since
        one["config"]["identity.tasks"] = ["toy0", "toy1", "toy2", "toy3"]
    capsys.readouterr()
    dashboard("stream=toy")  # the only one there is, said or not
    assert len(server.views) == 4
    assert {key: server.views[key] for key in others} == others
    assert (view(server)["id"], view(server)["name"], report(server)["id"]) == before
    for of in (view(server), report(server)):
        assert len(shown(of)["Accuracy of every task"]) == 4
    assert [line.split(": http")[0] for line in capsys.readouterr().out.splitlines()] == [
        "view updated",
        "report updated",
    ]


def test_other_settings_choose_among_the_runs_that_are_there(server: FakeWandb) -> None:
    dashboard("method=lora", "method.rank=4", "evaluate.split=test")
    dashboard("evaluate.split=test", "method.rank=4", "method=lora")
    assert len(server.views) == 2  # whatever the order of the words
    title = f"{TITLE}, evaluate.split test, method.rank 4".replace("stream", "method lora, stream")
    (four,) = (one["name"] for one in server.runs.values() if one["config"]["method.rank"] == 4)
    for of in (view(server, title), report(server, title)):
        assert filters(of) == [
            ("config:method", "=", "lora"),
            ("config:stream", "=", "toy"),
            ("config:model", "=", "tiny"),
            ("run:name", "IN", [four]),
        ]
        assert "Settings" not in shown(of)  # a single run differs from none


def test_panels_follow_the_metrics_that_the_runs_have() -> None:
    def titles(*summaries: dict[str, float]) -> dict[str, str]:
        return survey([({}, one) for one in summaries]).metrics

    unfinished = {"task/last": 1.0}
    assert titles(unfinished) == {
        "Transfer": "final/transfer_by_column",
        "Average": "final/average_mtil",
        "Last": "final/last",
    }
    # Only learned tasks are measured: there is no Transfer, and the average is another one.
    assert titles({"final/average_cil": 1.0, "final/last": 1.0}, unfinished) == {
        "Average": "final/average_cil",
        "Last": "final/last",
    }


def test_settings_that_differ() -> None:
    def varied(*configs: dict[str, Any]) -> tuple[str, ...]:
        return survey([(config, {}) for config in configs]).varied

    same = {"method.rank": 4, "train.lr": 0.1, "seeds.init": 0, "out": "a", "identity.code": "a", "method.maps": ["q"]}
    other = {"method.rank": 8, "train.lr": 0.2, "seeds.init": 1, "out": "b", "identity.code": "b", "method.maps": []}
    assert varied(same, same) == ()
    assert varied(same, other) == ("method.rank", "train.lr")
    assert varied({**same, "method.name": "lora", "seed": 0}, {"method.name": "zero-shot", "seed": 1}) == ()


# --------------------------------------------------------------------------------------------- what is wrong


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence of a line that fails."""
    capsys.readouterr()
    assert main(["dashboard", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("words", [[], ["p"], ["a/b/c"], ["https://wandb.ai/e/p"], ["e/p", "f/q"], ["/p"], ["e/"]])
def test_a_malformed_place(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "one ENTITY/PROJECT" in refused(capsys, *words)


def test_without_a_login(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "wandb login" in refused(capsys, PLACE)


def test_without_the_package(
    server: FakeWandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert "pip install wandb-workspaces" in refused(capsys, PLACE)


def test_a_server_that_refuses(
    server: FakeWandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "op_UpsertView2", None)  # may read, not write
    assert "no answer to UpsertView2" in refused(capsys, PLACE)
    server.refusal = 403
    assert f"W&B does not make the dashboard of {PLACE}" in refused(capsys, PLACE)


def test_runs_that_are_not_there(server: FakeWandb, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no project test-entity/q" in refused(capsys, "test-entity/q")
    assert '"method.ranks" (did you mean "method.rank"?)' in refused(capsys, PLACE, "method.ranks=4")
    assert 'stream=toys (did you mean "toy"?)' in refused(capsys, PLACE, "stream=toys")
    many = ["epochs=2", "batch_size=16", "lr=0.002", "optimizer=adamw", "schedule=onecycle", "weight_decay=0.01"]
    assert "128 characters" in refused(capsys, PLACE, *(f"train.{word}" for word in many))
    for one in server.runs.values():
        del one["config"]["stream"]  # another project's runs, or an older version's
    assert "bench mirror runs" in refused(capsys, PLACE)
    assert server.views == {}


@pytest.mark.parametrize("key", ["stream", "model", "evaluate.split"])
def test_runs_whose_numbers_do_not_compare(server: FakeWandb, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = next(iter(server.runs.values()))
    one["config"].update({key: "other", f"{key}.name": "other"})
    said = refused(capsys, PLACE)
    assert f"differ in {key} (" in said and f"choose one, as in {key}=other" in said

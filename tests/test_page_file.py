"""The page of a comparison: what is in the file. What a browser makes of it: tests/browser."""

import base64
import hashlib
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.made_records import change, learn, make, measure, mtil, settings_of

from bench.cli import main as cli
from bench.compare import export, grouping, page, significance
from bench.compare import tables as compare
from bench.metrics import kinds
from bench.metrics.matrix import AccuracyMatrix

ROOT = Path(__file__).parent.parent
EVIL = "</script><script>window.hacked=1</script><!-- & é"


class Page(HTMLParser):
    """Scripts with their attributes, all other text, and the content of meta elements."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.scripts, self.metas, self.elements = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        if tag == "script":
            self.scripts.append([dict(attributes), ""])
        if tag == "meta":
            self.metas.append(dict(attributes))

    def handle_data(self, data):
        if self.elements[-1:] == ["script"]:
            self.scripts[-1][1] += data

    def handle_endtag(self, tag):
        self.elements.append("")


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch):
    """Four megabytes of plotly.js say nothing here; tests/browser has them."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "const Plotly = {};")


def made(root, **options):
    comparison = grouping.gather([root])
    return page.page(compare.sections(comparison, options), comparison.left_out)


def data(root, **options):
    """What the page of these runs holds, read from the file."""
    ((_, found),) = [script for script in Page(made(root, **options)).scripts if script[0].get("id") == "data"]
    return json.loads(found)


def test_the_data_of_the_page_are_those_of_the_records(tmp_path):
    paths = [make(tmp_path, seed=seed, last=50 + 7 * seed**2) for seed in range(3)]
    make(tmp_path, "lora", last=40)
    (field,) = data(tmp_path)["fields"]
    summaries = [json.loads((path / "summary.json").read_text(encoding="utf-8")) for path in paths]
    mine = next(group for group in field["groups"] if group["method"] == "keeplora")
    assert [group["label"] for group in field["groups"]] == ["keeplora", "lora"] and mine["n"] == 3
    assert not set(kinds.NEEDS) & set(mine["values"])  # there are no probes
    for name in set(kinds.SHOWN["learning"]) - set(kinds.NEEDS):
        known = [summary["metrics"][name] for summary in summaries]
        error = statistics.stdev(known) / 3**0.5
        assert mine["values"][name] == pytest.approx([statistics.mean(known), error, 3], abs=1e-4)
    assert mine["values"]["seconds"] == pytest.approx([61, 1 / 3**0.5, 3], abs=1e-4)
    matrices = [AccuracyMatrix.from_csv(path / "accuracy.csv").array() for path in paths]
    for row in range(3):
        for column in range(2):
            known = [float(matrix[row, column]) for matrix in matrices]
            assert mine["mean"][row][column] == pytest.approx(statistics.mean(known), abs=0.005)
            assert mine["error"][row][column] == pytest.approx(statistics.stdev(known) / 3**0.5, abs=0.005)
    assert field["groups"][1]["error"] is None and field["groups"][1]["values"]["last"] == [40, None, 1]
    assert (
        field["ahead"]["last"] is None and field["tasks"] == ["a", "b"] and field["states"] == ["zero-shot", "a", "b"]
    )


def test_differences_are_those_of_the_statistics(tmp_path):
    for seed in range(3):
        make(tmp_path, seed=seed, last=50 + seed)
        make(tmp_path, "lora", seed=seed, last=40 + seed**2)
        make(tmp_path, "third", seed=seed, last=60 - seed)
    section = compare.sections(grouping.gather([tmp_path]), {"baseline": "lora"})[0]
    (field,) = data(tmp_path, baseline="lora")["fields"]
    assert field["groups"][field["against"]["baseline"]]["label"] == "lora"
    assert field["against"]["level"] == section.against.level
    for group, differences in section.against.rows:
        (at,) = [number for number, one in enumerate(field["groups"]) if one["label"] == group.label]
        for one in differences:
            mean, low, high, over = field["against"]["rows"][str(at)][one.scalar]
            assert over == one.over
            assert [mean, low, high] == pytest.approx([one.mean, one.low, one.high], abs=1e-4)


@pytest.fixture
def evil(tmp_path):
    """Runs whose every text wants to be markup."""
    path = make(tmp_path, method__note=EVIL)
    change(path, "summary.json", method=EVIL)
    change(path, "identity.json", command=["run", EVIL], code_revision=EVIL)
    change(path, "environment.json", processor=EVIL, started=EVIL)
    measure(path, [EVIL, "b"], [[30, 40], [80, 41], [70, 90]])
    make(tmp_path, "<i>x</i>", seed=1, finished=False)
    return tmp_path


def test_text_of_records_is_data_and_nothing_else(evil):
    text = made(evil)
    read = Page(text)
    assert [attributes.get("id") for attributes, _ in read.scripts] == ["data", None, None]
    assert "window.hacked=1</script>" not in text and "<!-- &" not in text and "<i>" not in text
    (field,) = data(evil)["fields"]
    assert field["groups"][0]["method"] == field["tasks"][0] == EVIL
    (run,) = field["runs"]
    assert run[0] == run[2] == run[4] == EVIL and run[5] == f"run {EVIL}"
    assert ["processor", EVIL] in field["environments"][0]


def test_only_the_scripts_of_the_page_may_run_and_nothing_may_be_requested(evil):
    read = Page(made(evil))
    (policy,) = [meta["content"] for meta in read.metas if "http-equiv" in meta]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for _, code in read.scripts[1:]]
    assert rules.pop("script-src").split() == [f"'sha256-{one}'" for one in hashes]
    assert rules == {
        "style-src": "'unsafe-inline'", "img-src": "data: blob:", "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_our_own_markup_names_no_address():
    for file in page.FILES.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, never fetched
        assert not re.search(r"https?:|//cdn|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|eval\(", text), file.name
        assert not re.search(r"<(link|img|iframe|base)\b|\bsrc=", text), file.name


def test_every_file_of_the_page_is_used_and_packed():
    names = {file.name for file in page.FILES.iterdir()}
    assert names == {*(f"{name}.js" for name in page.SCRIPTS), "page.html", "page.css", "types.d.ts"}
    assert '"bench.compare" = ["html/*"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_modules_import_what_earlier_ones_export():
    exported = {}
    for name in page.SCRIPTS:
        source = (page.FILES / f"{name}.js").read_text(encoding="utf-8")
        for names, origin in page.IMPORT.findall(source):
            assert origin in exported, f"{name}.js imports {origin}.js, which must come before it in SCRIPTS"
            assert {one.strip() for one in names.split(",") if one.strip()} <= exported[origin], name
        exported[name] = set(page.EXPORT.findall(source))


def test_the_script_of_the_page_has_no_globals():
    script = page.script()
    assert script.startswith('(() => {\n"use strict";\nconst module_text = (() => {\n') and script.endswith("})();\n")
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)  # forms that script() does not know
    for name in page.SCRIPTS:
        assert script.count(f"const module_{name} = (() => {{") == 1
        assert not re.search(r"^(var|let) ", (page.FILES / f"{name}.js").read_text(encoding="utf-8"), re.MULTILINE)


def keys_of(interface):
    """Keys of an interface in types.d.ts."""
    types = (page.FILES / "types.d.ts").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^interface {interface}\b[^{{]*\{{\n(.*?)^\}}", types, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^  (\w+)\??:", body, re.MULTILINE))


def test_types_describe_the_data_of_the_page(tmp_path):
    for rank in (2, 4):
        mtil(tmp_path, fingerprint=f"{rank}", method__rank=rank)
    found = data(tmp_path)
    (field,) = found["fields"]
    (tried,) = field["tried"]
    assert keys_of("PageData") == set(found) and keys_of("Column") == set(field["columns"][0])
    assert keys_of("Field") == set(field) and keys_of("PublishedRow") == set(field["published"]["rows"][0])
    assert keys_of("Group") | keys_of("Style") == set(field["groups"][0])
    assert keys_of("Tried") == set(tried) and keys_of("Ruler") == set(tried["rulers"]["method.rank"])
    assert keys_of("Tops") == set(tried["tops"]["last"])
    assert keys_of("PerTask") == set(field["per_task"]) and keys_of("TaskTable") == set(field["per_task"]["tables"][0])


def test_every_task_has_its_numbers_and_its_differences(tmp_path):
    for seed in range(3):
        measure(make(tmp_path, seed=seed), ["a", "b"], [[30, 40], [80 + seed, 50], [70, 90 - seed]])
        measure(make(tmp_path, "lora", seed=seed), ["a", "b"], [[30, 40], [75, 45 + seed], [60 + seed**2, 80]])
    make(tmp_path, "solo", seed=9)
    section = compare.sections(grouping.gather([tmp_path]))[0]
    (field,) = data(tmp_path)["fields"]
    found = field["per_task"]
    transfer, _, last = found["tables"]
    assert found["names"] == ["a", "b"] and [transfer["key"], last["key"]] == ["transfer_by_column", "last"]
    assert last["rows"][0] == [[70, 0, 3], [89, 0.577, 3], [79.5, 0.289, 3]] and transfer["rows"][0][0] is None
    lora = next(group for group in section.field.groups if group.method == "lora")
    for key, at in (("a", 0), ("b", 1)):
        one = significance.difference(lora, section.against.baseline, "last", section.against.level, key)
        assert last["differences"]["1"][at] == [*(round(end, 3) for end in (one.mean, one.low, one.high)), one.over]
    assert last["differences"]["2"] == [[None, None, None, "no seed in common"]] * 2
    lows, highs = zip(*(row[1:3] for row in last["differences"]["1"]), strict=True)
    assert last["reach"] == pytest.approx([min(0, *lows), max(0, *highs)], abs=1e-3)
    assert last["ahead"][0] == 0 and transfer["ahead"][0] is None


def test_only_what_the_seeds_show_is_bold(tmp_path):
    for seed in range(3):
        make(tmp_path, seed=seed, last=70 + seed**2 / 10)
        make(tmp_path, "lora", seed=seed, last=40 + seed)
        make(tmp_path, "third", seed=seed, last=40 + seed)
    (field,) = data(tmp_path)["fields"]
    assert field["ahead"]["last"] == 0 and field["ahead"]["zero_shot"] is None
    assert field["winners"]["last"] == [0]


def test_chosen_names_are_those_of_the_page(tmp_path):
    for rank in (2, 4):
        make(tmp_path, fingerprint=f"f{rank}", method__rank=rank)
    make(tmp_path, "lora")
    found = data(tmp_path, names="{keeplora: KeepLoRA, lora: LoRA, a: Apples, last: Final}")
    (field,) = found["fields"]
    assert [group["short"] for group in field["groups"]] == ["KeepLoRA rank=2", "KeepLoRA rank=4", "LoRA"]
    assert field["tasks"] == field["per_task"]["names"] == ["Apples", "b"]
    assert "Final" in [column["title"] for column in field["columns"]]


def test_the_interval_of_a_task_is_cut_off_where_no_accuracies_can_lie(tmp_path):
    for seed in (0, 1):
        measure(make(tmp_path, seed=seed), ["a", "b"], [[30, 40], [80, 50], [70, 90]])
        measure(make(tmp_path, "lora", seed=seed), ["a", "b"], [[30, 40], [75, 45], [20 + 60 * seed, 80]])
    last = data(tmp_path)["fields"][0]["per_task"]["tables"][-1]
    assert last["differences"]["1"][0][2] > 300 and last["reach"] == [-100, 100]


def test_the_loss_of_every_pass_is_in_the_page(tmp_path):
    for seed in (0, 1):
        learn(make(tmp_path, seed=seed), [[2.0 + seed, 1.0], [0.123456789]])
    (field,) = data(tmp_path)["fields"]
    assert field["groups"][0]["losses"] == [[[2.5, 0.5], [1, 0]], [[0.12346, 0]]]


def test_the_checks_of_the_scripts_are_pinned():
    package = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["devDependencies"].values())
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name, one in packages.items():
        assert "resolved" not in one and ("integrity" in one or not name), name  # whichever registry a user has


def test_where_every_run_comes_from(tmp_path):
    for seed in (0, 1):
        change(make(tmp_path, seed=seed), "environment.json", host="a-name-of-a-machine")
    change(make(tmp_path, "lora"), "environment.json", threads=4)
    (field,) = data(tmp_path)["fields"]
    assert [run[:4] for run in field["runs"]] == [["keeplora", 0, "0", 1], ["keeplora", 1, "1", 1], ["lora", 0, "0", 2]]
    assert field["runs"][0][4:] == [
        "abc",
        "run method=keeplora",
        str(tmp_path / "pocket/pocket/keeplora/0123456789-s0"),
    ]
    assert field["environments"] == [
        [["python", "3.11"], ["threads", threads], ["packages", "torch 2.9, numpy 2.4"]] for threads in ("2", "4")
    ]
    assert "a-name-of-a-machine" not in made(tmp_path)


def test_only_settings_that_differ_are_listed(tmp_path):
    make(tmp_path, fingerprint="0", method__rank=2)
    make(tmp_path, fingerprint="1", method__rank=4)
    make(tmp_path, "lora", method__own="x")
    (field,) = data(tmp_path)["fields"]
    assert field["settings"]["methods"] == ["keeplora", "lora"]
    assert field["settings"]["rows"] == [["method.own", ["–", "x"]], ["method.rank", ["2, 4", "8"]]]
    assert [group["settings"] for group in field["groups"]] == ["rank=2", "rank=4", ""]
    assert dict(field["conditions"])["train.epochs"] == "5" and dict(field["conditions"])["weights"] == "w" * 64
    assert settings_of("keeplora", 0)["method.rank"] == 8


def test_flags_that_differ_stand_before_the_settings(tmp_path):
    change(make(tmp_path), "identity.json", flags={"grows": "directions"})
    make(tmp_path, "lora")
    (field,) = data(tmp_path)["fields"]
    assert field["settings"]["rows"] == [["flags", ["grows with the tasks (directions)", "nothing special"]]]
    assert any("keeplora: grows with the tasks" in note for note in field["notes"])


def test_hashes_are_shortened(tmp_path):
    change(make(tmp_path), "identity.json", weights_sha256="0123456789abcdef" * 4)
    assert dict(data(tmp_path)["fields"][0]["conditions"])["weights"] == "0123456789"


def test_numbers_that_are_none_are_left_open(tmp_path):
    path = make(tmp_path)
    scalars = json.loads((path / "summary.json").read_text(encoding="utf-8"))["metrics"]
    change(path, "summary.json", metrics=scalars | {"last": None, "learning": None})
    measure_less = make(tmp_path, "lora")
    (measure_less / "accuracy.csv").unlink()
    mine, other = data(tmp_path)["fields"][0]["groups"]
    assert "last" not in mine["values"] and "learning" not in mine["values"] and "zero_shot" in mine["values"]
    assert other["mean"] is None


def test_what_stands_out_is_in_the_page(tmp_path):
    for rank, last in ((2, 50), (4, 70)):
        path = make(tmp_path, fingerprint=f"f{rank}", last=last, method__rank=rank)
        change(path, "summary.json", seconds={"total": 10.0 * rank}, peak_memory_mb=None)
    make(tmp_path, "zero-shot", last=30)
    found = data(tmp_path)
    (field,) = found["fields"]
    assert [group["short"] for group in field["groups"]] == ["keeplora rank=2", "keeplora rank=4", "zero-shot"]
    assert field["headlines"] == ["last", "average_mtil", "transfer_by_column"] == list(field["winners"])
    assert field["tradeoff"] == ["last", "transfer_by_column"]
    assert field["winners"]["last"] == [1] and field["winners"]["transfer_by_column"] == [] and field["fastest"] == 0
    assert field["baselines"] == [0, 1, 2] and list(field["contrasts"]) == ["0", "1", "2"]
    one, own, other = field["contrasts"]["1"]
    assert one == [[0.0, -10.0, -20.0], None, [0, -20.0], [0.5, None], 20.0] and own is None
    assert other == [[0.0, -20.0, -40.0], None, [0, -40.0], [1.5, None], 40.0]
    assert field["accuracies"] == [30, 80] and field["ranges"]["last"]["zero_shot"] == [30, 70]
    first = field["groups"][0]
    assert first["learned"] == [80, 50] and first["spans"] == [[50, 80], [30, 80], [30, 50], [40, 40]]
    (tried,) = field["tried"]
    assert tried["method"] == "keeplora" and tried["groups"] == [0, 1] and tried["widest"] == ["method.rank"]
    assert tried["rulers"]["method.rank"] == {"values": ["2", "4"], "positions": [2, 4], "numeric": True, "log": False}
    assert tried["tops"]["last"] == {"best": 1, "tenth": [1], "low": 50, "high": 70}


def test_units_of_the_columns(tmp_path):
    make(tmp_path)
    units = {column["key"]: column["unit"] for column in data(tmp_path)["fields"][0]["columns"]}
    assert (units["last"], units["backward_transfer"], units["seconds"]) == ("%", "points", "")


def test_published_numbers_stand_apart(tmp_path):
    known = mtil(tmp_path, last=1)
    (field,) = data(tmp_path)["fields"]
    assert len(field["groups"]) == 1 and field["ahead"]["last"] is None
    rows = field["published"]["rows"]
    assert [(row["method"], row["source"]) for row in rows] == [(row.method, row.source) for row in known.rows]
    assert [row["values"].get("last") for row in rows] == [row.value("last") for row in known.rows]
    assert field["published"]["notes"] == list(known.notes)
    assert data(tmp_path, published="off")["fields"][0]["published"] is None


def test_left_out_runs_have_their_reasons(tmp_path):
    path = make(tmp_path, finished=False)
    found = data(tmp_path)
    assert found["fields"] == []
    assert found["left_out"] == [[str(path), "unfinished: no summary.json; the same line again makes the run"]]


def test_a_matrix_is_read_once_and_only_means_are_kept(tmp_path, monkeypatch):
    for number in range(20):
        for seed in range(3):
            make(tmp_path, seed=seed, fingerprint=f"{number}", method__rank=number)
    read = []
    original = AccuracyMatrix.from_csv.__func__
    monkeypatch.setattr(
        AccuracyMatrix, "from_csv", classmethod(lambda cls, path: read.append(path) or original(cls, path))
    )
    (field,) = data(tmp_path, baseline="keeplora")["fields"]
    assert len(set(read)) == len(read) == len(field["runs"]) == 60
    assert len(field["groups"]) == 20 and len(json.dumps(field["groups"])) < 20 * 900


# ------------------------------------------------------------------------------------------- the command line


def test_the_command_writes_a_page(tmp_path, capsys):
    make(tmp_path)
    file = tmp_path / "a page.html"
    assert cli.main(["compare", str(tmp_path), f"html={file}"]) == 0
    assert capsys.readouterr().out.endswith(f"html written to {file}\n")
    assert file.read_text(encoding="utf-8") == made(tmp_path)


@pytest.mark.parametrize("name", ["nowhere/page.html", "", "."])
def test_a_page_that_cannot_be_written_is_an_error(tmp_path, name, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs")
    assert cli.main(["compare", "runs", f"html={name}"]) == 2
    assert f"error: html={name} cannot be written (" in capsys.readouterr().err


def test_a_page_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    make(tmp_path / "runs")
    sections = compare.sections(grouping.gather([tmp_path / "runs"]))
    file = tmp_path / "page.html"
    file.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(export.UserError, match="No space left on device"):
        export.write(sections, {"html": str(file)})
    assert file.read_text() == "old" and sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "runs"]


def test_without_runs_there_is_no_page(tmp_path, capsys):
    file = tmp_path / "page.html"
    assert cli.main(["compare", str(tmp_path), f"html={file}"]) == 2
    assert "no runs found" in capsys.readouterr().err and not file.exists()

"""What the documents say: examples run, command lines resolve, links lead somewhere, the site builds."""

import html
import itertools
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import markdown
import pytest
import yaml
from support.made_records import make, measure

import bench
from bench import api
from bench.analysis.options import subject
from bench.cli import main as cli
from bench.config import registry
from bench.config.resolve import resolve
from bench.metrics.forgetting import HEADLINES
from bench.metrics.matrix import AccuracyMatrix
from bench.recipes.recipe import find as recipe
from bench.sweep.file import expand, find, shipped_folder
from bench.sweep.options import TuneOptions, options
from bench.sweep.verbs import grids
from bench.trials.trial import Trial

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def bench_lines() -> list[tuple[str, str]]:
    """Every documented `python -m bench ...` line, with the page it stands on."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.findall(r"python -m bench [^#;|&]*", line):
                    found.append((page.name, command.strip()))
    return found


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The first complete example of docs/methods.md as a file, with the others beside it."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    for name, text in found:
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / found[0][0]


def test_there_are_lines_to_test() -> None:
    assert len(bench_lines()) >= 8


@pytest.mark.parametrize(("page", "command"), bench_lines())
def test_documented_lines_are_understood(
    page: str, command: str, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line's verb exists, `run` lines resolve (known names, types, ranges) and `sweep` lines expand."""
    monkeypatch.chdir(example.parent)
    verb, *words = shlex.split(command)[3:]
    if verb == "--help":
        return
    assert verb in cli.VERBS
    words = [re.sub(r"\$\{?\w+\}?", "0" if "seed" in word else "lora", word) for word in words]
    words = [word.replace("=tests/", f"={ROOT}/tests/") for word in words]
    if verb == "run" and "--help" not in words:
        (example.parent / "tuned.yaml").write_text("lora: {settings: {train.lr: 0.003}}", encoding="utf-8")
        resolve(words)
    elif verb == "tune":
        assert grids(*options([word for word in words if word != "status"], TuneOptions, "tune"))
    elif verb == "sweep":
        chosen, settings = options([word for word in words if "=" in word])
        (name,) = (word for word in words if "=" not in word and word != "status")
        file = ROOT / name if name.startswith("sweeps/") else find(name)
        assert expand(file, settings, chosen.count, chosen.sweep_seed).points
    elif verb == "recipe" and words[0] != "list":
        given = [word for word in words if "=" in word and not word.startswith("measure=")]
        assert recipe(words[0]).points(options(given)[1]).points
    elif verb == "data":
        resolve([f"stream={words[0]}", *words[1:]], need_method=False)
    elif verb == "analyse" and all("=" in word for word in words):
        subject(None, words)
    elif verb == "check":
        registry.load("method", words[0].removeprefix("method="))


def test_the_example_keeps_the_contract(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(example.parent)
    status, said = cli.main(["check", f"method={example.name}"]), capsys.readouterr()
    assert (status, said.err) == (0, "") and "8 of 8 contract tests hold" in said.out


@pytest.mark.parametrize("name", ["Remembers", "Rehearses", "Taught", "ClassMeans", "Chooses"])
def test_the_short_examples_learn_two_tasks(name: str) -> None:
    (block,) = (one for one in blocks(ROOT / "docs" / "methods.md", "python") if one.startswith(f"class {name}("))
    names = {one: getattr(api, one) for one in ("F", "Flags", "Memory", "Method", "generator", "torch")}
    exec(compile(block, name, "exec"), names)
    trial = Trial(names[name], None, [api.toy_task(index, train=24, test=6) for index in range(2)])
    untrained = trial.logits()
    for index in range(2):
        trial.learn(index)
    assert trial.logits().isfinite().all() and not trial.logits().equal(untrained)


def test_the_example_runs_and_is_listed(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = ROOT / "tests" / "toy.py"
    line = ["run", f"method={example.name}", "method.rank=4", f"stream={toy}", f"model={toy}", "device=cpu", "out=runs"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *line], cwd=example.parent, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and "fresh-directions" in done.stdout, done.stdout + done.stderr
    monkeypatch.chdir(example.parent)
    for words in (["list", "methods", example.name], ["compare", "runs"]):
        assert cli.main(words) == 0
        assert "fresh-directions" in capsys.readouterr().out


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_sweep_files_of_the_docs_expand(tmp_path: Path) -> None:
    for index, block in enumerate(blocks(ROOT / "docs" / "sweeps.md", "yaml")):
        file = tmp_path / f"{index}.yaml"
        file.write_text(block, encoding="utf-8")
        assert expand(file, count=2).points


def test_every_shipped_sweep_is_on_the_page() -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert [file.stem for file in shipped_folder().glob("*.yaml") if f"`{file.stem}`" not in text] == []


def test_every_metric_has_its_formula_in_the_docs() -> None:
    from bench.metrics.scalars import SCALARS

    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in SCALARS if f"`{name}`" not in text] == []


def test_the_page_of_settings_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import settings_page

    said = "docs/settings.md is out of date: python docs/settings_page.py"
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), said


def test_the_tests_that_the_table_of_faults_names_are_there() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in sources] == []
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/[\w/]+\.py)`", page))


# ---------------------------------------------------------------------------------------------- the front page


def test_the_readme_fits_on_two_screens_and_has_one_picture() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    assert text.count("![") == 1
    assert "make demo" in text and "make test" in text


def test_the_numbers_of_the_readme_are_those_of_the_page_of_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- results.*?-->\n(.*?)<!-- end of results -->", text, flags=re.DOTALL)
    results = (ROOT / "docs" / "pocket-results.md").read_text(encoding="utf-8")
    assert table.count("±") >= 32
    assert set(table.splitlines()) <= set(results.splitlines()) and "| `keeplora` |" in table


@pytest.mark.parametrize(
    "sentence",
    [
        "LoRA learns every task ({learned_lora} just learned) and ends at {last_lora}",
        "KeepLoRA learns as much ({learned_keeplora}) and ends at {last_keeplora}",
        "rate 0.1 for KeepLoRA, where Transfer is {transfer_keeplora}",
        "ends at {last_nusa-cl}, and has {average_nusa-cl} in Average",
        "KeepLoRA has {last_keeplora} and {average_keeplora}, KeepLoRA++ {last_keeplora-pp} and {average_keeplora-pp}",
        "what it has just learned ({learned_diki}) and the end ({last_diki})",
        "({learned_splitlora} to {last_splitlora})",
        "({learned_loda} to {last_loda}), learns less than LoRA, and has {average_loda} in Average",
        "learns only {learned_codyra}",
        "goes from {learned_o-lora} just learned to {last_o-lora}",
        "it learns {learned_slao}, ends at {last_slao}, and its Transfer of {transfer_slao}",
        "They end at {last_sd-lora} and {last_milora}",
        "It goes from {learned_sc-lora} just learned to {last_sc-lora}, and its Transfer is {transfer_sc-lora}",
        "Share ends at {last_share}, one point above",
        "readout of random features above frozen towers and ends at {last_if2net-like}",
        "(`joint`) the model ends at {last_joint}, and trained on each task from the start (`independent`) at "
        "{last_independent}",
        "a classifier for each task, has {last_linear-probe} in Last",
        "goes from {learned_rail-primal} to {last_rail-primal}, its dual form ends at {last_rail-dual}) and keep "
        "the untrained Transfer of {transfer_rail-dual}",
    ],
)
def test_what_the_page_of_the_embedded_stream_quotes_is_in_its_results(sentence: str) -> None:
    results = (ROOT / "docs" / "pocket-results.md").read_text(encoding="utf-8")
    values = {}
    for method, row in re.findall(r"^\| `([\w-]+)` \| ((?:-|\S+ ±) .*±.*) \|$", results, re.MULTILINE):
        means = [cell.split(" ± ")[0].strip() for cell in row.split("|")[:4]]
        names = ("transfer", "average", "last", "learned")
        values |= {f"{name}_{method}": mean for name, mean in zip(names, means, strict=True)}
    text = (ROOT / "docs" / "pocket.md").read_text(encoding="utf-8").replace("\n  ", " ")
    assert sentence.format(**values) in text


@pytest.mark.parametrize(
    "sentence",
    [
        "leaves {forgotten_gs-lora} of {forgotten_no-op} % on the classes of a request",
        "{retained_gs-lora} of {retained_no-op} % on those that stay",
        "it stands at {relapse_gs-lora} %",
        "H-mean is {h_mean_lora-forget}, with it {h_mean_gs-lora}, with prototypes {h_mean_gs-lora-pp}",
        "fall from {elsewhere_no-op} to {elsewhere_gs-lora} %",
        "recognises {text_forgotten_gs-lora} % of what was forgotten",
        "same features {probe_forgotten_gs-lora} %, {probe_forgotten_before} % before",
        "recognises {probe_kept_gs-lora} %, and {probe_kept_before} % before",
        "leaves {text_forgotten_bounded-ascent} % to the names, and {probe_forgotten_bounded-ascent} % to the probe",
    ],
)
def test_what_the_page_of_requests_quotes_is_in_its_results(sentence: str) -> None:
    page = (ROOT / "docs" / "forgetting.md").read_text(encoding="utf-8")
    values = {}
    tables = {5: HEADLINES.values(), 4: ("text_forgotten", "text_kept", "probe_forgotten", "probe_kept")}
    for method, row in re.findall(r"^\| `?([\w-]+)`? \| (\S+ ± .*) \|$", page, flags=re.MULTILINE):
        means = [cell.split(" ± ")[0].strip() for cell in row.split("|")]
        values |= {f"{name}_{method}": mean for name, mean in zip(tables[len(means)], means, strict=True)}
    assert sentence.format(**values) in page.replace("\n  ", " ")


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == bench.__version__
    assert citation["title"] == "keeplora-bench" and citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["url"].endswith("2601.19659") and {"type", "title", "authors"} <= set(paper)


def test_the_changes_have_the_sections_that_readers_look_for() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([\d.]+)\]", text, flags=re.MULTILINE)
    assert bench.__version__ in versions
    newest = text[text.index(f"## [{versions[0]}]") : text.index(f"## [{versions[1]}]")]
    sections = re.findall(r"^### (.+)$", newest, flags=re.MULTILINE)
    assert sections[:2] == ["Changes numbers", "Breaks plug-ins"]
    assert {"Added", "Changed"} <= set(sections)
    assert "bench.api" in newest


def test_the_page_for_contributors_names_the_checks() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"lint", "test", "slow", "cluster", "browser", "latex", "docs"} <= set(targets)
    assert [target for target in targets if target not in {"demo", "clean"} and f"`make {target}`" not in text] == []


# ------------------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page: Path) -> None:
    """Files that are named without a link, such as `bench/metrics/scalars.py`."""
    text = page.read_text(encoding="utf-8")
    if page.name != "CHANGELOG.md":  # which names what has gone
        named = re.findall(r"`((?:bench|methods|datasets|docs|sweeps|tests)/[\w./-]+)`", text)
        assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_the_text_exist(page: Path) -> None:
    """Modules and their names, such as `bench.metrics.scalars.so_far`."""
    if page.name == "CHANGELOG.md":
        return
    for name in re.findall(r"`(bench(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            raise AssertionError(f"{page.name} names {name}, which does not exist") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_and_tables_read_alike_everywhere(page: Path) -> None:
    """A code host and the site read Markdown by different rules; what both read as a list or a table is one."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    rendered = markdown.markdown(text, extensions=["tables", "sane_lists"])
    items = re.findall(r"^( *)(?:\*|-|\d+\.) ", text, flags=re.MULTILINE)
    assert rendered.count("<li>") == len(items), "a list needs an empty line before it"
    assert {len(indent) % 4 for indent in items} <= {0}, "a list in a list is indented by four blanks"
    assert rendered.count("<table>") == len(re.findall(r"^\|(?: ?-+ ?\|)+$", text, flags=re.MULTILINE))


def test_the_pages_of_measurements_are_what_their_scripts_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from tables and numbers, for which the runs would be needed."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import pocket_results
    import sensitivity

    metrics = dict.fromkeys(sensitivity.MEASURES, 0.0) | {"zero_shot": 19.4, "zero_shot_loss": 25.1}
    point = sensitivity.Result({"key": 0.0}, metrics, default=True)
    for name in ("results_table", "tuning_table", "matrix_table"):
        monkeypatch.setattr(pocket_results, name, lambda *_: "")
    methods = re.findall(r"^### (\S+)$", (ROOT / "docs" / "pocket-results.md").read_text(encoding="utf-8"), re.M)
    made = {
        "keeplora-sensitivity.md": sensitivity.page({name: [point] for name in sensitivity.SWEEPS}),
        "pocket-results.md": pocket_results.page({method: [] for method in methods}),
    }
    for name, text in made.items():
        assert prose(text) == prose((ROOT / "docs" / name).read_text(encoding="utf-8"))


def prose(text: str) -> list[str]:
    """Return the lines of a page that are neither empty nor part of a table."""
    return [line for line in text.splitlines() if line and not line.startswith("|")]


# -------------------------------------------------------------------------------------- examples in Python


def test_the_example_of_metrics_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    matrix = AccuracyMatrix(["cats", "dogs"])
    for row, column in itertools.product(range(3), range(2)):
        matrix.set(row, column, 5 + row, 10)
    matrix.to_csv(tmp_path / "accuracy.csv")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "metrics.md", "python")
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed.startswith("60.0\n{") and "'last': 70.0" in printed and "dogs" in printed


def test_the_example_of_compare_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for seed in range(2):
        measure(make(tmp_path / "runs", "lora", seed=seed), ["cats", "dogs"], [[50 + seed] * 2] * 3)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "compare.md", "python")
    exec(code, {})
    assert "lora {0: 50.0, 1: 51.0}" in capsys.readouterr().out


def test_the_example_of_comparing_implementations_hears_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    toy = str(ROOT / "tests" / "toy.py")
    text = (ROOT / "docs" / "keeplora.md").read_text(encoding="utf-8")
    (code,) = blocks(ROOT / "docs" / "keeplora.md", "python")
    stream = '"stream.tasks": ["digits"]'
    assert stream in code
    exec(code.replace(stream, f'"stream": {toy!r}, "model": {toy!r}, "train.batch_size": 8'), {})
    printed = capsys.readouterr().out
    for kind, values in re.findall(r"^\| [^|]+ \| `(\w+)` \| `(\w+)`", text, flags=re.MULTILINE):
        heard = [line for line in printed.splitlines() if line.startswith(f"{kind} ")]
        assert heard, kind
        assert kind == "learned" or f"'{values}'" in heard[0]
    (line,) = blocks(ROOT / "docs" / "keeplora.md", "json")
    (record,) = tmp_path.rglob("batches.jsonl")
    passes = [json.loads(one) for one in record.read_text(encoding="utf-8").splitlines()]
    assert [list(one) for one in passes] == [list(json.loads(line))] * len(passes)
    assert {one["purpose"] for one in passes} == {"gradient", "train", "statistics"}


# -------------------------------------------------------------------------------------------------- site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: strictly."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "properdocs", "build", "-f", "mkdocs.yml", "--site-dir", str(folder)]
    return subprocess.run(line, cwd=root, capture_output=True, text=True)


def test_the_site_has_every_page_and_a_search_of_them(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    searched = {entry["location"].partition("#")[0] for entry in index["docs"]}
    pages = {"index.html" if page.name == "README.md" else f"{page.stem}.html" for page in PAGES}
    assert pages <= searched
    assert all((site / page).is_file() for page in pages)


def test_the_site_asks_the_network_for_nothing(site: Path) -> None:
    """No script, style, picture, font or frame comes from elsewhere; links that a reader follows may lead there."""
    tags = r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>"
    pages = [page.read_text(encoding="utf-8") for page in site.rglob("*.html")]
    loaded = [
        source
        for page in pages
        for tag in re.findall(tags, page)
        for source in re.findall(r"\b(?:src|href|srcset|data)=\"([^\"]*)\"", tag)
    ]
    assert len(loaded) > 100
    assert [source for source in loaded if re.match(r"(?:\w+:)?//", source)] == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", text), style.name


def test_links_of_the_site_lead_to_its_own_files(site: Path) -> None:
    """Also links to files outside docs/, which are copied into the site."""
    lost = []
    for page in site.rglob("*.html"):
        text = html.unescape(page.read_text(encoding="utf-8"))
        for target in re.findall(r"<(?:a|img)\b[^>]*?(?:href|src)=\"([^\"#]+)", text):
            if not re.match(r"\w+:|/", target) and not (page.parent / target).exists():
                lost.append((page.name, target))
    assert lost == []
    assert (site / "datasets" / "pocket_data" / "SOURCES.html").is_file()


def test_broken_links_and_anchors_stop_the_site(tmp_path: Path) -> None:
    root = tmp_path / "root"
    large = shutil.ignore_patterns("__pycache__", "*.webp", "*.safetensors", "*.gz")
    for folder in ("docs", "methods", "datasets", "tests/examples"):
        shutil.copytree(ROOT / folder, root / folder, ignore=large)
    for file in [*ROOT.glob("*.md"), ROOT / "CITATION.cff", ROOT / "mkdocs.yml"]:
        shutil.copy(file, root)
    broken = ["no-page.md", "metrics.md#no-anchor", "../methods/no_file.py"]
    with (root / "docs" / "pocket.md").open("a", encoding="utf-8") as page:
        page.writelines(f"\n[x]({link})\n" for link in broken)
    done = build(root, tmp_path / "site")
    assert done.returncode != 0
    assert [name for name in ("no-page", "no-anchor", "no_file") if name not in done.stderr] == []
    assert f"{len(broken)} warnings" in done.stdout + done.stderr

"""The command line: verbs, help, errors, exit statuses, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import made_records

from bench.cli import main as cli
from bench.config import listing, registry
from bench.core import tables

ROOT = Path(__file__).parent.parent


@pytest.fixture
def say(capsys):
    """Return a function that runs a command line and gives status, output and error output."""

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(words)
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


def bench(*words: str, **options) -> subprocess.CompletedProcess[str]:
    """Run ``python -m bench`` in the checkout."""
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, **options)


def stand_in(monkeypatch, name: str, **functions) -> None:
    """Put a module in place of ``bench.<name>``."""
    module = types.ModuleType(f"bench.{name}")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, f"bench.{name}", module)
    monkeypatch.setattr(f"bench.{name}", module, raising=False)


# ------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview_names_every_verb(say, words):
    status, out, err = say(*words)
    assert (status, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples(say, verb):
    for words in ((verb, "--help"), (verb, "-h"), ("help", verb), (verb, "some", "words", "--help")):
        status, out, err = say(*words)
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: python -m bench {verb}")
        assert f"  python -m bench {verb} " in out or f"  python -m bench {verb}\n" in out
        assert max(map(len, out.splitlines())) <= 120


def test_the_help_of_run_lists_all_settings_of_a_run(say):
    _, out, _ = say("run", "--help")
    for key in ("train.epochs", "train.lr", "seeds.task_order", "track.wandb", "device", "out", "data", "threads"):
        assert f"\n  {key} " in out


def test_an_unknown_verb_comes_with_the_nearest(say):
    assert say("lsit") == (2, "", 'error: unknown verb "lsit" (did you mean "list"?)\n')
    assert say("help", "rnu") == (2, "", 'error: unknown verb "rnu" (did you mean "run"?)\n')
    assert bench("lsit").returncode == 2


# ------------------------------------------------------------------------------- answers that need no torch


def heavy_modules_of(lines: list[list[str]]) -> list[tuple[int, str, list[str]]]:
    """Run command lines in one new process; give exit status, error output and the heavy modules imported so far."""
    code = """
import contextlib, io, json, sys
from bench.cli.main import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    print(json.dumps([status, said.getvalue(), sorted({"torch", "torchvision", "open_clip"} & set(sys.modules))]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code, json.dumps(lines)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(json.loads(answer)) for answer in done.stdout.splitlines()]


def heavy_modules(*words: str) -> tuple[int, str, list[str]]:
    """Run a command line in a new process; give exit status, error output and the heavy modules it imported."""
    (answer,) = heavy_modules_of([list(words)])
    return answer


def test_a_mistake_in_a_setting_is_answered_without_torch():
    """One process reads the lines of all methods: one that imports torch is seen in its answer and in those after."""
    lines = [["run", f"method={method}", "stream.nosuch=1"] for method in sorted(registry.entries("method"))]
    lines += [[verb, "method=lora", "method.nosuch=1"] for verb in ("check", "profile")]
    answers = heavy_modules_of(lines)
    assert len(answers) == len(lines) > 10
    for line, (status, err, heavy) in zip(lines, answers, strict=True):
        assert (status, heavy) == (2, []), line
        assert err.startswith(f'error: unknown setting "{line[-1].removesuffix("=1")}"'), line


def test_a_sweep_is_shown_without_torch(tmp_path):
    pairs = [(file, word) for file in ("compare_methods", "keeplora_rank") for word in ("status", "dry_run=true")]
    assert heavy_modules_of([["sweep", *pair, f"out={tmp_path}"] for pair in pairs]) == [(0, "", [])] * 4


def test_a_finished_run_is_shown_without_torch(tmp_path):
    words = ["method=zero-shot", "stream.tasks=[digits,flags]", f"out={tmp_path}", "track.wandb=off"]
    assert cli.main(["run", *words]) == 0
    assert heavy_modules("run", *words) == (0, "", [])


# ------------------------------------------------------------------------------------------------------- list


def test_list_shows_four_tables(say, toys):
    status, out, err = say("list")
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if line and not line.startswith(" ")][:4] == [
        "methods",
        "streams",
        "datasets",
        "models",
    ]
    assert "  toy   A toy method  learning  arXiv 0000.00000  built-in\n" in out
    assert "A toy dataset" in out


@pytest.mark.parametrize("kind", ["methods", "method"])
def test_list_of_one_kind(say, toys, kind):
    _, out, _ = say("list", kind)
    assert "A toy method" in out
    assert "A toy stream" not in out


def test_list_imports_neither_torch_nor_a_plugin(standins, tmp_path):
    standins.write("methods/loud.py", LOUD)
    standins.write("methods/bad.py", "def (")
    points = "[keeplora_bench.method]\nfar = elsewhere_loud:Loud\n"
    standins.install("far-away", points, elsewhere_loud=LOUD)
    code = f"""
import sys
import bench.methods, bench.datasets
bench.methods.__path__ = [{str(standins.root / "methods")!r}]
from bench.cli.main import main
status = main(["list"])
heavy = {{"torch", "open_clip", "numpy", "omegaconf", "huggingface_hub", "bench.methods.loud", "elsewhere_loud"}}
print("imported:", sorted(heavy & set(sys.modules)), "status:", status)
"""
    environment = {**os.environ, "PYTHONPATH": str(standins.root / "site-far-away")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stdout.endswith("imported: [] status: 0\n")
    assert done.stderr == ""
    assert "BROKEN: SyntaxError" in done.stdout
    assert "A loud method" in done.stdout
    assert "far-away" in done.stdout


LOUD = """
from bench.config.registry import register
raise RuntimeError("imported")

@register("method", "loud", title="A loud method")
class Loud: ...
"""


def test_list_says_what_a_name_hides(say, toys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # the table fits into lines that long
    toys.install("far-away", "[keeplora_bench.method]\ntoy = elsewhere_toy:Toy\n", elsewhere_toy="")
    assert "built-in (hides one of far-away)" in " ".join(say("list", "methods")[1].split())


def test_details_of_a_method(say, toys):
    status, out, err = say("list", "methods", "toy")
    assert (status, err) == (0, "")
    rank = next(line for line in out.splitlines() if line.startswith("  rank ")).split()
    assert rank == ["rank", "int", "4", ">=", "1,", "<=", "64", "r", "columns"]
    for text in (
        "method toy: A toy method",
        "paper: arXiv 0000.00000",
        "from: built-in, methods/toy_method.py",
        "\n  Does nothing.\n",
        "energy.image",
        "[q,v]",
        "  train.weight_decay=0.0",
        "task, seen",
        "present\n    - the name",
        "absent\n    - nothing said",
        "deviations\n    - it does not learn, because it is a toy",
    ):
        assert text in out
    assert "At all." not in out


def test_details_of_a_stream_a_dataset_and_a_model(say, toys):
    _, out, _ = say("list", "streams", "pocket")
    for text in ("label space\n  seen", "train.epochs=3", "tuned for toy", "method.rank=8", "shots", ">= 1"):
        assert text in out
    assert "dataset toys: A toy dataset" in say("list", "datasets", "toys")[1]
    assert "model pocket: A toy model" in say("list", "models", "pocket")[1]


def test_a_name_alone_is_looked_for_in_every_kind(say, toys):
    out = say("list", "pocket")[1]
    assert "stream pocket" in out
    assert "model pocket" in out
    assert "method toy" in say("list", "toy")[1]
    assert "ViT-B-16, of open_clip" in say("list", "ViT-B-16")[1]


def test_details_of_a_file_and_of_an_installed_package(say, toys):
    file = toys.write("mine.py", LOUD.replace("raise", "0 and").replace('RuntimeError("imported")', "0"))
    assert "method loud: A loud method" in say("list", "methods", str(file))[1]
    assert say("list", str(file))[0] == 2
    module = LOUD.replace('raise RuntimeError("imported")', "").replace('"loud"', '"far"')
    toys.install("far-away", "[keeplora_bench.method]\nfar = elsewhere_far:Loud\n", elsewhere_far=module)
    assert "from: far-away" in say("list", "methods", "far")[1]


def test_details_of_an_open_clip_model(say):
    status, out, _ = say("list", "models", "ViT-B-16")
    assert status == 0
    for text in ("model=ViT-B-16/openai\n", "model=ViT-B-16/laion2b_s34b_b88k\n", "checkpoint", "pretrained | random"):
        assert text in out


def test_the_table_of_models_names_open_clips_and_counts_the_others(say):
    _, out, _ = say("list", "models")
    assert "\n  ViT-B-32 " in out
    assert "openai, laion400m_e31" in out
    assert "RN50" not in out
    assert "SigLIP" not in out
    assert "more are not supported" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "methods", "tooy"), 'unknown method "tooy" (did you mean "toy"?)'),
        (("list", "metods"), 'there is nothing called "metods" to list (did you mean "methods"?)'),
        (("list", "methods", "a", "b"), '"list" takes a kind and one name, not methods a b'),
        (("list", "models", "ViT-B16"), 'unknown model "ViT-B16" (did you mean "ViT-B-16/openai"?)'),
        (("list", "methods", "bad"), 'method "bad" (methods/bad.py) is broken: SyntaxError'),
        (("list", "methods", "loud"), 'method "loud" (methods/loud.py) cannot be imported: RuntimeError: imported'),
    ],
)
def test_mistakes_with_list(say, toys, words, message):
    toys.write("methods/bad.py", "def (")
    toys.write("methods/loud.py", LOUD)
    status, out, err = say(*words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_tables_fit_the_terminal(monkeypatch, toys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for text in (listing.listing(), listing.details("toy", "method"), listing.details("ViT-B-16")):
        assert max(map(len, text.splitlines())) <= max(columns, tables.SMALLEST)


def test_a_table_wraps_every_column_but_the_first():
    text = tables.table(("key", "empty", "meaning"), [("a.very.long.key" * 4, "", "several words " * 10)])
    assert "a.very.long.key" * 4 in text
    assert "empty" not in text
    assert len(text.splitlines()) > 3


# -------------------------------------------------------------------------------------------------------- run


def test_run_passes_on_its_words_and_the_command(say, monkeypatch):
    calls = []
    stand_in(monkeypatch, "runs.result", run=lambda *args: calls.append(args))
    assert say("run", "method=toy", "--method.rank=2") == (0, "", "")
    words = ["method=toy", "--method.rank=2"]
    assert calls == [(words, ["python", "-m", "bench", "run", *words])]


def test_run_reports_every_problem_on_a_line_of_its_own_and_does_not_start(say, toys, monkeypatch):
    monkeypatch.setattr("bench.runs.run.run", lambda *args, **options: pytest.fail("it started"))
    status, out, err = say("run", "method=tooy", "sed=1", "train.lr=x")
    assert (status, out) == (2, "")
    assert err == (
        'error: unknown method "tooy" (did you mean "toy"?)\n'
        'error: unknown setting "sed" (did you mean "seed"?)\n'
        "error: train.lr=x must be a number\n"
    )


def test_an_interrupted_run_says_one_line(say, toys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    stand_in(monkeypatch, "runs.result", run=interrupted)
    assert say("run", "method=toy") == (130, "", "interrupted\n")


# --------------------------------------------------------------------------------------- compare, diff, check


def test_compare_separates_folders_filters_and_options(say, monkeypatch, tmp_path):
    calls = []
    runs = SimpleNamespace(left_out=["one"])
    stand_in(monkeypatch, "compare.grouping", gather=lambda paths, filters: calls.append((paths, filters)) or runs)
    stand_in(
        monkeypatch, "compare.tables", OPTIONS=("baseline",),
        sections=lambda found, options: calls.append((found, options)),
        text=lambda found, sections, bold: f"{found is runs}, {bold}",
    )  # fmt: skip
    stand_in(
        monkeypatch, "compare.export", FORMATS=("csv",),
        write=lambda sections, options, left_out: [f"written to {options['csv']} without {left_out}"],
    )  # fmt: skip
    stand_in(monkeypatch, "compare.export.cells", cell_text=None)
    stand_in(monkeypatch, "compare.export.task_text", task_text=None)
    odd = tmp_path / "a=b"
    odd.mkdir()
    words = (str(tmp_path), "method=toy", "--seed=1", str(odd), "csv=x.csv", "--baseline=lora")
    assert say("compare", *words) == (0, "True, False\nwritten to x.csv without ['one']\n", "")
    assert calls == [
        ([tmp_path, odd], {"method": "toy", "seed": "1"}), (runs, {"csv": "x.csv", "baseline": "lora"})
    ]  # fmt: skip


@pytest.mark.parametrize(("tty", "no_color", "bold"), [(True, "", True), (True, "1", False), (False, "", False)])
def test_compare_is_bold_on_a_terminal_that_wants_it(say, monkeypatch, tmp_path, tty, no_color, bold):
    for seed in range(3):
        made_records.make(tmp_path, "lora", seed=seed, last=50 + seed)
        made_records.make(tmp_path, "third", seed=seed, last=60 + 1.1 * seed)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    for words in ((), ("per=task",)):
        status, out, _ = say("compare", str(tmp_path), *words)
        assert status == 0 and ("\x1b[1m" in out) == bold


def test_diff_takes_two_folders(say, monkeypatch, tmp_path):
    stand_in(monkeypatch, "compare.diff", diff=lambda a, b: f"{a.name} {b.name}")
    (tmp_path / "x").mkdir()
    assert say("diff", str(tmp_path / "x"), str(tmp_path)) == (0, f"x {tmp_path.name}\n", "")


def test_check_prints_verdicts_and_takes_settings_of_the_method(say, toys, monkeypatch):
    problems, ranks = ["", "it forgets"], []

    def verify(method, settings, tasks, train):
        assert (tasks, train.optimizer) == ([], "adamw")
        ranks.append((method.__name__, settings.rank))
        return [SimpleNamespace(test=f"test{problem}", promise="learns", problem=problem) for problem in problems]

    stand_in(monkeypatch, "trials.contract", CONTRACT=problems, verify=verify)
    lines = "ok     test: learns\nFAILED testit forgets: learns\n       it forgets\ntoy: 1 of 2 contract tests hold\n"
    assert say("check", "method=toy") == (1, lines, "")
    problems.pop()
    assert say("check", "method=toy", "--method.rank=6")[0] == 0
    assert ranks == [("Toy", 4), ("Toy", 6)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method=tooy",), 'unknown method "tooy" (did you mean "toy"?)'),
        (("method=toy", "method.rnk=1"), 'unknown setting "method.rnk" (did you mean "method.rank"?)'),
        (("method=toy", "method.rank=x"), "method.rank=x must be a whole number"),
        (("method=toy", "method.rank=7"), 'method "toy": rank must be even where merge is true'),
    ],
)
def test_check_refuses_wrong_settings_before_it_starts(say, toys, monkeypatch, words, message):
    stand_in(monkeypatch, "trials.contract", verify=lambda *args: pytest.fail("it started"))
    assert say("check", *words) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare",), "compare needs a run directory"),
        (("compare", "method=toy"), "compare needs a run directory"),
        (("compare", "nowhere"), 'there is no folder "nowhere"'),
        (("diff", "nowhere"), "diff compares two run directories, not 1"),
        (("diff", "nowhere", "."), 'there is no folder "nowhere"'),
        (("mirror",), "mirror needs a run directory"),
        (("mirror", "nowhere"), 'there is no folder "nowhere"'),
        (("mirror", "docs"), "there is no record of a run in docs"),
        (("mirror", "docs", "seed=1"), 'mirror takes settings of track only, not "seed"'),
        (("mirror", "docs", "track.wandb=on"), "track.wandb=on must be one of auto, online, offline, off"),
        (("check",), "check needs a method"),
        (("check", "toy"), "check needs a method"),
        (("check", "method=toy", "4"), "check needs a method"),
        (("check", "method="), "check needs a method"),
        (("check", "method=toy", "seed=1"), 'check takes settings of method, stream, train, data only, not of "seed"'),
    ],
)
def test_mistakes_with_the_other_verbs(say, words, message):
    status, out, err = say(*words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")


# ------------------------------------------------------------------------------------------------------ pipes


@pytest.mark.parametrize("word", ["list", "--help"])  # more and less than what is buffered
def test_a_reader_that_stops_early_sees_no_traceback(word):
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads: the first write fails, however little there is to write
    with os.fdopen(writing, "w") as pipe:
        command = [sys.executable, "-m", "bench", word]
        buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=buffered)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_the_terminal_cannot_show_is_no_error():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code = (
        "import runpy, bench.cli.main; bench.cli.main._overview = lambda: chr(949); "
        "runpy.run_module('bench', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.stdout, done.stderr, done.returncode) == ("?\n", "", 0)

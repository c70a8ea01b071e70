"""The tables of a paper in a real LaTeX, which is installed for these tests."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.made_records import change, make, measure, mtil

from bench.cli import main as cli

pytestmark = pytest.mark.latex

START = Path(__file__).parent / "texlive_up.sh"
ODD = r"a_b & 100 % #1 {x} ~^\<>|$ \input{/etc/passwd}"
NAMES = f"names={{keeplora: KeepLoRA (ours), lora: '{ODD}', third: '[third]', StanfordCars: Größe *}}"
TABLES = {
    "tasks": ["stream=mtil-order1", "per=task", "rows=[lora,third,keeplora,ZSCL,GIFT,CMAP]", NAMES],
    "every": ["stream=mtil-order1", "per=task"],
    "means": ["stream=mtil-order1", "columns=[transfer,average,last]", NAMES],
    "many": ["stream=pocket", "per=task"],
    "all": [],
}
"""Tables that a document shows, each by the words of its command line."""


@pytest.fixture(scope="session")
def texlive(tmp_path_factory: pytest.TempPathFactory) -> None:
    """LaTeX, booktabs and graphicx."""
    if not Path("/usr/bin/apt-get").exists():
        pytest.skip("needs Debian's packages of LaTeX")
    if not Path("/usr/bin/pdflatex").exists() and (not hasattr(os, "geteuid") or os.geteuid() != 0):
        pytest.skip("needs root, for Debian's packages of LaTeX")
    log = tmp_path_factory.mktemp("texlive") / "apt.log"
    ready = subprocess.run(["bash", str(START), str(log)], capture_output=True, text=True, timeout=900)
    assert ready.returncode == 0, ready.stdout + ready.stderr


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables, of runs on MTIL with published numbers and on a stream of thirty tasks."""
    root, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("tables")
    for number, method in enumerate(("keeplora", "lora", "third")):
        for seed in range(3):
            rng = np.random.default_rng([number, seed])
            names = mtil(root, method, seed=seed).tasks
            rows = 90 - 15 * number + rng.normal(0, 1, (12, 11))
            measure(next(root.glob(f"mtil-order1/*/*/{method}/*-s{seed}")), names, rows.tolist())
    for fingerprint in ("0123456789", "9876543210"):
        path = make(root, fingerprint=fingerprint, method__a=fingerprint, method__b=fingerprint, method__c=fingerprint)
        measure(path, [f"task_{number}" for number in range(30)], [[50] * 30] * 31)
    change(make(root, "lora"), "identity.json", manifests={"pocket": "f" * 64})
    for name, words in TABLES.items():
        assert cli.main(["compare", str(root), *words, f"latex={folder / name}.tex"]) == 0
    return folder


def typeset(folder: Path, options: str, names: list[str], into: Path) -> tuple[str, str]:
    """Typeset a document with some tables twice; return its log and the text of its pages."""
    inputs = "\n".join(rf"\input{{{folder / name}.tex}}" for name in names)
    references = re.findall(
        r"\\label\{(.*?)\}", "".join((folder / f"{n}.tex").read_text(encoding="utf-8") for n in names)
    )
    refers = ", ".join(rf"\ref{{{one}}}" for one in references)
    document = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}"
    file = into / "paper.tex"
    file.write_text(f"{document}\nTables {refers}.\n{inputs}\n\\end{{document}}\n", encoding="utf-8")
    for _ in range(2):
        line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", file.name]
        done = subprocess.run(line, cwd=into, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout
    read = subprocess.run(["pdftotext", "-layout", "paper.pdf", "-"], cwd=into, capture_output=True, text=True)
    return (into / "paper.log").read_text(encoding="utf-8", errors="replace"), read.stdout


@pytest.mark.parametrize("options", ["10pt", "twocolumn,10pt", "a4paper,12pt"])
def test_tables_are_typeset_without_a_warning(texlive: None, tables: Path, tmp_path: Path, options: str) -> None:
    for names in (["tasks", "many"], ["every"], ["all"], ["means"]):
        log, _ = typeset(tables, options, names, tmp_path)
        assert re.findall(r"^(?:LaTeX Warning: (?!Label\(s\) may).*|Overfull .*|!.*)$", log, re.M) == []


def test_a_table_by_task_is_on_the_page_as_it_was_measured(texlive: None, tables: Path, tmp_path: Path) -> None:
    log, text = typeset(tables, "10pt", ["tasks"], tmp_path)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for title in ("Transfer", "Average", "Last"):
        assert lines.count(title) == 1
    ours = [line for line in lines if line.startswith("KeepLoRA (ours)")]
    assert len(ours) == 3 and all(re.search(r"\d\d\.\d ± 0\.\d$", line) for line in ours)
    theirs = [line for line in lines if line.startswith("ZSCL [1]")]
    assert theirs[0] == "ZSCL [1] – 86.0 67.4 45.4 50.4 69.1 87.6 61.8 86.8 60.1 66.8 68.1"
    odd = [line for line in lines if "100 % #1" in line]
    assert len(odd) == 3 and all("input" in line and "passwd" in line for line in odd)
    assert sum(line.startswith("[third]") for line in lines) == 3
    assert "root:" not in text and "/etc/passwd" not in log
    assert "cmbx" in log + (tmp_path / "paper.pdf").read_bytes().decode("latin-1")  # keeplora is ahead: a bold font

"""Make docs/pocket-results.md, its pictures, the README's table and datasets/published/pocket.json from finished runs.

    python -m bench tune method=all stream=pocket-tuning to=datasets/pocket_data/tuned.yaml   # chooses the settings
    python -m bench sweep compare_methods launch=local launch.processes=2                     # every method, five seeds
    python docs/pocket_results.py [out=DIR]                               # DIR: where the runs are, by default runs

Methods without five finished runs are left out.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.compare import pictures
from bench.compare.grouping import Key, gather
from bench.compare.tables import sections
from bench.config import registry
from bench.config.chosen import Chosen, tuned_by
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.over_seeds import spread
from bench.record.flags import WORDS, registered
from bench.record.provenance import code_revision
from bench.record.role import roles
from bench.record.schema import is_finished
from bench.sweep.file import expand, find

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PUBLISHED = DOCS.parent / "datasets" / "published" / "pocket.json"
MARKS = ("<!-- results, made by docs/pocket_results.py -->", "<!-- end of results -->")
"""What stands between them in the README is written by this script."""
SWEEP = "compare_methods"
SEEDS = 5
FIRST = ("finetune", "lora", "inflora", "zero-shot", "linear-probe", "joint")
"""What the README shows beside KeepLoRA: baselines, and the reference lines that say the most. The page has all."""
SHOWN = {"transfer_by_column": "Transfer", "average_mtil": "Average", "last": "Last", "learning": "just learned"}
PICTURES = {"scatter": "Transfer against Last", "curves": "Accuracy on every task over the stream"}
"""Pictures of `bench compare ... pictures=` that the page and the README show."""

Runs = dict[str, list[Path]]
"""The run directories of every method, one for each seed."""


def finished(words: Sequence[str] = (), sweep: str = SWEEP) -> Runs:
    """Return the runs of every method of a sweep that is finished with all its seeds, in the order of the file."""
    runs: Runs = {}
    for point in expand(find(sweep), words).points:
        if is_finished(point.directory):
            method = next(word.partition("=")[2] for word in point.words if word.startswith("method="))
            runs.setdefault(method, []).append(point.directory)
    return {method: found for method, found in runs.items() if len(found) == SEEDS}


def summary(directory: Path) -> dict:
    return json.loads((directory / "summary.json").read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]) + "\n"


def results_table(runs: Runs) -> str:
    """Mean and standard error over the seeds, one row a method, reference lines last, with the flags of each method."""
    known, rows, gains = roles(), [], headroom(runs)
    for method in sorted(runs, key=lambda method: known[method].bound):
        results = [summary(directory)["metrics"] for directory in runs[method]]
        values = [spread([one[name] for one in results]) if known[method].has(name) else None for name in SHOWN]
        values.append(spread(list(gains[method].values())) if gains[method] else None)
        cells = ["-" if value is None else f"{value.mean:.1f} ± {value.standard_error:.1f}" for value in values]
        marks = [WORDS[flag] for flag in registered({"method.name": method}) or {}]
        marks = ["**reference line**", *marks] if known[method].bound else marks
        rows.append([f"`{method}`", *cells, ", ".join(marks)])
    return table(["method", *SHOWN.values(), "headroom", "flags"], rows)


def headroom(runs: Runs) -> dict[str, dict[Key, float]]:
    """How much of what joint training gains each method gains, by method and seed; empty without joint training."""
    (found,) = gather([directory for directories in runs.values() for directory in directories], {}).fields
    return {group.method: group.values("headroom") for group in found.groups}


def chosen() -> dict[str, Chosen]:
    """What the stream carries for its methods."""
    return {name: one for name, one in tuned_by(registry.load("stream", "pocket")).items() if isinstance(one, Chosen)}


def tuning_table() -> str:
    """Average of every setting of the grids, on validation images of pocket-tuning; what was chosen in bold."""
    entries = {name: one for name, one in chosen().items() if one.tried}
    means: dict[str, dict[float, str]] = {}
    for name, entry in sorted(entries.items()):
        for one in entry.tried:
            rest = dict(one["settings"])
            rate = rest.pop("train.lr")
            row = " ".join([f"`{name}`", *(f"`{key}={value:g}`" for key, value in rest.items())])
            cell = f"{one['mean']:.1f}"
            means.setdefault(row, {})[rate] = f"**{cell}**" if one["settings"] == entry.settings else cell
    rates = sorted({rate for row in means.values() for rate in row})
    rows = [[name, *(row.get(rate, "") for rate in rates)] for name, row in means.items()]
    return table(["method", *(f"{rate:g}" for rate in rates)], rows)


def matrix_table(directories: list[Path]) -> str:
    """The accuracy matrix, mean over the seeds."""
    found = [AccuracyMatrix.from_csv(directory / "accuracy.csv") for directory in directories]
    mean = np.mean([matrix.array() for matrix in found], axis=0)
    rows = [[found[0].label(i), *(f"{value:.1f}" for value in row)] for i, row in enumerate(mean)]
    return table(["after", *found[0].tasks], rows)


def page(runs: Runs) -> str:
    """The text of docs/pocket-results.md."""
    parts = [
        "# Results on the embedded stream\n",
        f"Percent correct on the test images, mean ± standard error over {SEEDS} seeds. [pocket.md](pocket.md#results) "
        "says what the numbers show, [metrics.md](metrics.md) what they mean; headroom is how much of what joint "
        "training gains over the untrained model a method gains, in Last. `docs/pocket_results.py` made this page and "
        "says which lines make its runs again.\n",
        results_table(runs),
        *(f"![{title}](pocket-results-{name}.png)\n" for name, title in PICTURES.items()),
        "## How the learning rates were chosen\n",
        "Every method that trains was tried on another stream, `pocket-tuning`, with two seeds, trained on its "
        "training images and scored on its validation images: on one grid of seven rates, or on a grid of its own. "
        "SplitLoRA and O-LoRA have five of the rates with two values of a setting of theirs each, SC-LoRA has smaller "
        "rates. The setting with the highest Average was taken ([tuning.md](tuning.md)); here is Average for the whole "
        "grid. No image of the stream `pocket` played a part. Methods in closed form and probes have their defaults; "
        "nothing was tried for them.\n",
        tuning_table(),
        "## Accuracy matrices\n",
        f"Rows: after each task. Columns: test sets. Means over {SEEDS} seeds.\n",
    ]
    for method, found in runs.items():
        parts += [f"### {method}\n", matrix_table(found)]
    return "\n".join(parts)


def published(runs: Runs) -> dict:
    """The same numbers as a table that `bench compare` and every run on the stream show beside theirs."""
    tasks = AccuracyMatrix.from_csv(next(iter(runs.values()))[0] / "accuracy.csv").tasks
    rows = []
    for method, found in runs.items():
        results = [summary(directory)["metrics"] for directory in found]
        names = [name for name in list(SHOWN)[:3] if roles()[method].has(name)]
        values = {SHOWN[name].lower(): spread([one[name] for one in results]).mean for name in names}
        rounded = {key: round(value, 1) for key, value in values.items()}
        flags = registered({"method.name": method})
        rows.append({"method": method, "registered": [method], "source": "A", **rounded, "flags": flags})
    return {
        "stream": "pocket",
        "model": "pocket",
        "tasks": list(tasks),
        "notes": [f"These are this project's own results, the mean over {SEEDS} seeds (docs/pocket-results.md)."],
        "sources": {"A": f"keeplora-bench at revision {str(code_revision())[:10]}"},
        "rows": rows,
    }


def fill_readme(runs: Runs) -> None:
    """Put the results of KeepLoRA, and of what stands beside it there, between the marks of the README."""
    runs = {name: found for name, found in runs.items() if name.startswith("keeplora") or name in FIRST}
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    README.write_text(f"{before}{MARKS[0]}\n{results_table(runs)}{MARKS[1]}{after}", encoding="utf-8")


def draw(runs: Runs) -> None:
    """Put the pictures that `bench compare` makes of the runs beside the page."""
    found = gather([directory for directories in runs.values() for directory in directories], {})
    with tempfile.TemporaryDirectory() as folder:
        for path in pictures.write(sections(found, {"published": "off"}), Path(folder)):
            name = path.stem.rpartition("-")[2]
            if path.suffix == ".png" and name in PICTURES:
                shutil.copy(path, DOCS / f"pocket-results-{name}.png")


def main() -> None:
    runs = finished(sys.argv[1:])
    (DOCS / "pocket-results.md").write_text(page(runs), encoding="utf-8")
    PUBLISHED.write_text(json.dumps(published(runs), indent=1) + "\n", encoding="utf-8")
    draw(runs)
    fill_readme(runs)


if __name__ == "__main__":
    main()

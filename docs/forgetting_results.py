"""Fill in the results of docs/forgetting.md and make its picture from finished runs and their probes.

    python -m bench tune method=gs-lora stream=forget-pocket-tuning grid=tune_forgetting      # likewise every method
    python -m bench sweep compare_forgetting launch=local launch.processes=2                  # all methods, five seeds
    for run in runs/forget-pocket/pocket/*/*/; do python -m bench probe $run; done            # what the features hold
    python docs/forgetting_results.py [out=DIR] [probes=DIR]

out=DIR is where the runs are (runs), probes=DIR where `python -m bench probe` wrote (evaluations). Methods without five
finished runs are left out, and so is the table of probes for a method that lacks one.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pocket_results import SEEDS, Runs, finished, summary, table

from bench.compare.pictures import save
from bench.compare.pictures.look import MARKERS, PAGE, canvas
from bench.compare.views import PALETTE, UNTRAINED
from bench.metrics.forgetting import HEADLINES
from bench.metrics.matrix_file import KEPT, TASK
from bench.metrics.over_seeds import Spread, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
PICTURE = "forgetting.png"
SWEEP = "compare_forgetting"
MARKS = ("<!-- results, made by docs/forgetting_results.py -->\n", "<!-- end of results -->\n")
"""What stands between them in docs/forgetting.md is written by this script."""
START = "no-op"
"""The method that changes nothing: the model that every other one begins with."""
AXES = ("forgotten", "retained")
"""The scalars of the picture."""
SETS = {TASK: "forgotten", KEPT: "kept"}
"""Role of a test set -> what the table of probes calls it."""

Probes = dict[str, list[list[dict[str, str]]]]
"""Method -> the lines of probe.csv of each of its runs."""


def probes_of(runs: Runs, root: Path) -> Probes:
    """Return what was probed, of methods all of whose runs have been."""
    found: Probes = {}
    for method, directories in runs.items():
        files = [root.joinpath(*directory.parts[-4:], "probe.csv") for directory in directories]
        if all(file.is_file() for file in files):
            found[method] = [list(csv.DictReader(file.open(encoding="utf-8"))) for file in files]
    return found


def scalars(runs: Runs) -> dict[str, dict[str, Spread]]:
    """Return every headline of every method over its seeds."""
    results = {method: [summary(directory)["metrics"] for directory in found] for method, found in runs.items()}
    return {
        method: {name: spread([one[name] for one in found]) for name in HEADLINES.values()}
        for method, found in results.items()
    }


def shown(value: Spread) -> str:
    return f"{value.mean:.1f} ± {value.standard_error:.1f}"


def results_table(runs: Runs) -> str:
    """Mean and standard error over the seeds, one row a method."""
    rows = [
        [f"`{method}`", *(shown(values[name]) for name in HEADLINES.values())]
        for method, values in scalars(runs).items()
    ]
    return table(["method", *HEADLINES], rows)


def probe_table(probes: Probes) -> str:
    """Accuracy of the text classifier and of the probe at the end, of what was forgotten and of what was kept.

    The first row is the model before any request, the last one a probe that sees pixels and no model.
    """
    rows = [["before", *_probed(next(iter(probes.values())), ("text_before", "probe_before"))]]
    rows += [[f"`{method}`", *_probed(found, ("text_after", "probe_after"))] for method, found in probes.items()]
    rows.append(["pixels", *_probed(next(iter(probes.values())), (None, "pixels"))])
    return table(["after", *(f"{who}, {what}" for who in ("text", "probe") for what in SETS.values())], rows)


def _probed(found: Sequence[Sequence[Mapping[str, str]]], columns: Sequence[str | None]) -> list[str]:
    cells = []
    for column in columns:
        for role in SETS:
            if column is None:
                cells.append("")
                continue
            values = [[float(row[column]) for row in one if row["role"] == role] for one in found]
            cells.append(shown(spread([sum(few) / len(few) for few in values])))
    return cells


def results(runs: Runs, probes: Probes) -> str:
    """What stands between the marks of the page."""
    parts = [
        f"Percent correct on test images, mean ± standard error over {SEEDS} seeds, each with an order of classes of "
        "its own. [metrics.md](metrics.md#requests-to-forget) has the formulas.\n",
        results_table(runs),
        f"![Accuracy on what was to be forgotten against accuracy on what was to stay]({PICTURE})\n",
    ]
    if probes:
        parts += [
            "What a [linear probe](#is-it-gone-or-hidden) finds after the last request, as the mean over the requests, "
            "beside the text classifier. Both choose among the same names.\n",
            probe_table(probes),
        ]
    return "\n".join(parts)


def draw(values: Mapping[str, Mapping[str, Spread]]) -> Figure:
    """One point a method with standard errors: forgetting from right to left, retention upwards."""
    figure = canvas(PAGE, 3.6)
    axes = figure.subplots()
    methods = [method for method in values if method != START]
    for number, method in enumerate(methods):
        color, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        _point(axes, values[method], color=color, marker=marker, label=method)
    if START in values:
        _point(axes, values[START], color=UNTRAINED, marker="*", markersize=11, label=f"{START}: the start")
    axes.set(xlabel="accuracy on what was to be forgotten (%)", ylabel="accuracy on what was to stay (%)")
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_title("↓ the good corner: all forgotten, all kept", loc="left")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def _point(axes: Axes, values: Mapping[str, Spread], **looks: object) -> None:
    across, up = (values[name] for name in AXES)
    axes.errorbar(
        across.mean, up.mean, xerr=across.standard_error, yerr=up.standard_error, linestyle="", elinewidth=1, capsize=2,
        **{"markersize": 5, **looks},
    )  # fmt: skip


def fill(page: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def main(words: Sequence[str], page: Path = DOCS / "forgetting.md") -> None:
    folders = dict(word.split("=", 1) for word in words)
    root = Path(folders.pop("probes", "evaluations"))
    runs = finished([f"{key}={value}" for key, value in folders.items()], SWEEP)
    if not runs:
        sys.exit(f"error: no method has {SEEDS} finished runs: run python -m bench sweep {SWEEP} first")
    fill(page, results(runs, probes_of(runs, root)))
    with tempfile.TemporaryDirectory() as folder:
        for path in save(partial(draw, scalars(runs)), Path(folder), "forgetting"):
            if path.suffix == ".png":
                shutil.copy(path, page.with_name(PICTURE))


if __name__ == "__main__":
    main(sys.argv[1:])

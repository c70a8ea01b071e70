"""Make the measured results on the embedded stream: learning rates, runs, docs/pocket-results.md and its pictures.

    python docs/pocket_results.py tune    # every method on the validation images over one grid of learning rates
    python docs/pocket_results.py run     # every method, five seeds, with the settings that the stream carries
    python docs/pocket_results.py page    # the page, its pictures and the README's table, from the runs

Runs lie in runs/ and are skipped when finished, so any part can be interrupted and repeated.
"""

import argparse
import csv
import json
import shutil
import tempfile
from pathlib import Path

from bench.compare import pictures
from bench.compare.grouping import gather
from bench.compare.tables import sections
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.scalars import spread
from bench.runs.run import run

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
MARKS = ("<!-- results, made by docs/pocket_results.py -->", "<!-- end of results -->")
"""What stands between them in the README is written by `page`."""
TRAINED = ("finetune", "lora", "inflora", "keeplora")
METHODS = ("zero-shot", *TRAINED)
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SEEDS = (0, 1, 2, 3, 4)
CHOSEN_BY = "learning"
SHOWN = {"learning": "just learned", "transfer_by_column": "Transfer", "average_mtil": "Average", "last": "Last"}
TUNING = DOCS / "pocket-tuning.csv"
"""The results of `tune`: one line for every method and rate."""
PICTURES = {"scatter": "Transfer against Last", "curves": "Accuracy on every task over the stream"}
"""Pictures of `bench compare ... pictures=` that the page and the README show."""


def tuning_line(method: str, lr: float) -> list[str]:
    return [f"method={method}", f"train.lr={lr:g}", "evaluate.split=validation", "seed=0"]


def line(method: str, seed: int) -> list[str]:
    return [f"method={method}", f"seed={seed}"]


def summary(words: list[str]) -> dict:
    directory = run_directory(resolve(words))
    return json.loads((directory / "summary.json").read_text(encoding="utf-8"))


def matrices(method: str) -> list[AccuracyMatrix]:
    return [AccuracyMatrix.from_csv(run_directory(resolve(line(method, seed))) / "accuracy.csv") for seed in SEEDS]


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]) + "\n"


def results_table() -> str:
    """Mean and standard error over the seeds, one row a method."""
    rows = []
    for method in METHODS:
        results = [summary(line(method, seed)) for seed in SEEDS]
        cells = [f"`{method}`"]
        for name in ("transfer_by_column", "average_mtil", "last", "learning"):
            found = spread([result["metrics"][name] for result in results])
            cells.append(f"{found.mean:.1f} ± {found.standard_error:.1f}")
        cells.append(f"{spread([result['seconds']['total'] for result in results]).mean:.0f} s")
        rows.append(cells)
    return table(["method", "Transfer", "Average", "Last", "just learned", "time"], rows)


def write_tuning() -> None:
    """Keep what every method reaches on the validation images at every learning rate."""
    with TUNING.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "lr", *SHOWN])
        for method in TRAINED:
            for lr in GRID:
                metrics = summary(tuning_line(method, lr))["metrics"]
                writer.writerow([method, f"{lr:g}", *(f"{metrics[name]:.1f}" for name in SHOWN)])


def tuning_table() -> str:
    """The same as a table; the chosen rate in bold."""
    found = list(csv.DictReader(TUNING.read_text(encoding="utf-8").splitlines()))
    rows = []
    for method in TRAINED:
        own = [line for line in found if line["method"] == method]
        best = max(own, key=lambda line: float(line[CHOSEN_BY]))
        for tried in own:
            cells = [f"`{method}`", tried["lr"], *(tried[name] for name in SHOWN)]
            rows.append([f"**{cell}**" if tried is best else cell for cell in cells])
    return table(["method", "learning rate", *SHOWN.values()], rows)


def matrix_table(method: str) -> str:
    """The accuracy matrix, mean over the seeds."""
    found = matrices(method)
    mean = sum(matrix.array() for matrix in found) / len(found)
    rows = [[found[0].label(i), *(f"{value:.1f}" for value in row)] for i, row in enumerate(mean)]
    return table(["after", *found[0].tasks], rows)


def page() -> str:
    """The text of docs/pocket-results.md."""
    parts = [
        "# Results on the embedded stream\n",
        f"Percent correct on the test images, mean ± standard error over {len(SEEDS)} seeds. Time is that of one run "
        "on one thread, with another run beside it. [pocket.md](pocket.md#results) says what the numbers show, "
        "[metrics.md](metrics.md) what they mean. This page was made by `python docs/pocket_results.py tune`, `run` "
        "and `page`.\n",
        results_table(),
        *(f"![{title}](pocket-results-{name}.png)\n" for name, title in PICTURES.items()),
        "## How the learning rates were chosen\n",
        "All methods were tried on one grid of rates, with seed 0, trained on the training images and scored on the "
        "validation images; test images play no part in it. The stream takes the rate with the highest accuracy on "
        "tasks just learned, as the mean over tasks (`Pocket.tuned`, in bold). A learner can know this accuracy when "
        "it learns a task, without looking at later tasks and without going back. Other criteria choose other rates, "
        "so here are all scores of the whole grid.\n",
        tuning_table(),
        "## Accuracy matrices\n",
        f"Rows: after each task. Columns: test sets. Means over {len(SEEDS)} seeds.\n",
    ]
    for method in METHODS:
        parts += [f"### {method}\n", matrix_table(method)]
    return "\n".join(parts)


def fill_readme() -> None:
    """Put the table of results between the marks of the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    README.write_text(f"{before}{MARKS[0]}\n{results_table()}{MARKS[1]}{after}", encoding="utf-8")


def draw() -> None:
    """Put the pictures that `bench compare` makes of the runs beside the page."""
    found = gather([run_directory(resolve(line(method, seed))) for method in METHODS for seed in SEEDS], {})
    with tempfile.TemporaryDirectory() as folder:
        for path in pictures.write(sections(found), Path(folder)):
            name = path.stem.rpartition("-")[2]
            if path.suffix == ".png" and name in PICTURES:
                shutil.copy(path, DOCS / f"pocket-results-{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tune", "run", "page"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="only these methods")
    arguments = parser.parse_args()
    if arguments.part == "tune":
        for method in (m for m in TRAINED if m in arguments.methods):
            for lr in GRID:
                run(resolve([*tuning_line(method, lr), "threads=1"]))
        write_tuning()
    elif arguments.part == "run":
        for seed in SEEDS:
            for method in arguments.methods:
                run(resolve([*line(method, seed), "threads=1"]), ["python", "-m", "bench", "run", *line(method, seed)])
    else:
        (DOCS / "pocket-results.md").write_text(page(), encoding="utf-8")
        draw()
        fill_readme()


if __name__ == "__main__":
    main()

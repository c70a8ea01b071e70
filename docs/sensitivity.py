"""Make docs/keeplora-sensitivity.md and its picture from finished runs of four of the shipped sweep files.

python -m bench sweep keeplora_rank launch=local launch.processes=2    # likewise the other three, see SWEEPS
python docs/sensitivity.py [out=DIR]                                   # DIR: where the runs are, by default runs
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocket_results import table

from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.record.schema import Summary, is_finished
from bench.sweep.file import expand, find
from bench.sweep.points import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
PAGE, PICTURE = "keeplora-sensitivity.md", "keeplora-sensitivity.png"
SWEEPS = {
    "keeplora_rank": "Rank",
    "keeplora_alpha": "Alpha",
    "keeplora_lr": "Learning rate",
    "keeplora_thresholds": "Energy of weights and of features",
}
"""The sweep files, and what the page calls them."""
CURVES = {"keeplora_rank": ("rank", 2), "keeplora_alpha": ("alpha", 10), "keeplora_lr": ("learning rate", 10)}
"""Sweeps over one setting: name of the axis, base of its logarithm."""
MAP = "keeplora_thresholds"
DEFAULT = ("stream=pocket-tuning", "method=keeplora", "train.lr=0.1", "seed=0", "evaluate.split=validation")
"""The point around which all four vary."""
MEASURES = {"transfer_by_column": "Transfer", "average_mtil": "Average", "last": "Last", "learning": "just learned"}
MAPPED = ("transfer_by_column", "last", "learning")
LOOKS = {
    "transfer_by_column": ("#d95f02", "o"),
    "average_mtil": ("#888888", "D"),
    "last": ("#2b6cb0", "s"),
    "learning": ("#1b9e77", "^"),
}
"""Colour and marker of every measure."""

SEEN = """\
* **Rank.** From 1 to 32 columns all four numbers rise at every step. The factor of the update is alpha / rank and alpha
  stays 1, so more columns also mean a smaller factor: these runs cannot separate the two.
* **Alpha and learning rate.** Transfer falls at every step up. Just learned and Last are highest at the default of
  both; the rate was chosen by Average, on these images. One step lower (alpha 0.25, rate 0.03) Transfer is about 4
  points higher and Last 2 to 4 points lower. The largest values are below the default in all four numbers.
* **Feature energy.** Without it (0) Last is lowest at every weight energy, by more than 10 points compared with 0.9.
  From 0.9 to 0.99 Last rises by another 6 points or more. 0.999 is below 0.99 in Average, Last and just learned at
  every weight energy. Transfer hardly depends on the feature energy: by 1 point at most.
* **Weight energy of the image tower.** From 0 to 0.95 Transfer rises by 2 to 4 points at every feature energy, and just
  learned by 5 or more.
* **The default is not the highest point of the maps.** With 0.95 for the image weights Transfer is more than 1 point
  higher, and Average, Last and just learned are within one point.
"""
"""What the page says about its tables; tests/test_sensitivity.py checks it against them."""


@dataclass(frozen=True)
class Result:
    """One finished point.

    Attributes
    ----------
    values : dict of str to float
        The settings that are swept, by dotted key, in the order of the sweep file.
    metrics : dict of str to float
        Those of summary.json, in percent.
    default : bool
        Whether all settings have their defaults.
    """

    values: dict[str, float]
    metrics: dict[str, float]
    default: bool


def load(words: Sequence[str] = ()) -> dict[str, list[Result]]:
    """Return the points of every sweep, in the order of its file.

    Parameters
    ----------
    words : sequence of str, optional
        ``out=DIR``, if the runs are not in runs/.

    Raises
    ------
    UserError
        If a point is not finished.
    """
    points = {name: expand(find(name), words).points for name in SWEEPS}
    _all_finished(points, words)
    default = run_directory(resolve([*DEFAULT, *words]))
    return {name: [_result(point, point.directory == default) for point in found] for name, found in points.items()}


def _all_finished(points: Mapping[str, Sequence[Point]], words: Sequence[str]) -> None:
    missing, lines = [], []
    for name, found in points.items():
        labels = [point.label for point in found if not is_finished(point.directory)]
        if labels:
            which = f"all {len(labels)} points" if len(labels) == len(found) else ", ".join(labels)
            missing.append(f"{name} ({which})")
            lines.append(" ".join(["python -m bench sweep", name, *words]))
    if missing:
        raise UserError(f"not finished: {'; '.join(missing)}: run {' and '.join(lines)}")


def _result(point: Point, default: bool) -> Result:
    values = {key: float(value) for key, _, value in (word.partition("=") for word in point.label.split())}
    metrics = Summary.read(point.directory).metrics
    return Result(values, metrics, default)


# ------------------------------------------------------------------------------------------------ page


def sweep_table(results: Sequence[Result]) -> str:
    """One row a point, with one decimal; that of the defaults in bold."""
    rows = []
    for result in results:
        cells = [f"{value:g}" for value in result.values.values()]
        cells += [f"{result.metrics[name]:.1f}" for name in MEASURES]
        rows.append([f"**{cell}**" for cell in cells] if result.default else cells)
    return table([*(f"`{key}`" for key in results[0].values), *MEASURES.values()], rows)


def page(results: Mapping[str, Sequence[Result]]) -> str:
    """The text of docs/keeplora-sensitivity.md."""
    metrics = next(iter(results.values()))[0].metrics
    untrained = metrics["zero_shot_loss"] + metrics["transfer_by_column"]
    epochs = resolve(DEFAULT).run.train.epochs
    parts = [
        "# How KeepLoRA depends on its settings\n",
        f"`keeplora` on `pocket-tuning`, the [stream on which settings are chosen](pocket.md): {epochs} epochs a task, "
        "seed 0, trained on the training images and scored on the validation images, in percent. One setting varies at "
        "a time, or the two thresholds together; the others keep their defaults, and the rate is the one that "
        "[tune](tuning.md) chose.\n",
        "These lines make the page:\n",
        "```sh",
        *(f"python -m bench sweep {name} launch=local launch.processes=2" for name in SWEEPS),
        "python docs/sensitivity.py",
        "```\n",
        f"![Transfer, Average, Last and accuracy on tasks just learned over each setting]({PICTURE})\n",
        "Dotted lines and frames mark the defaults. Every map has its own colour scale.\n",
        f"The untrained model has {untrained:.1f} in Transfer and {metrics['zero_shot']:.1f} in the other three. "
        "[metrics.md](metrics.md) defines the words; just learned is `learning`, the diagonal of the matrix.\n",
        "## What the runs show\n",
        SEEN,
        "This is one seed on a small stream, with 150 to 170 validation images a task. Over five seeds on `pocket`, "
        "KeepLoRA's Last has a standard error of 1.3 ([pocket-results.md](pocket-results.md)). That makes about 3 for "
        "a single run and 4 for the difference of two runs: smaller differences in Last mean nothing. What is best "
        "here need not be best for another model or stream.\n",
        "## The numbers\n",
        "The defaults are in bold; they are the same run in every table.\n",
    ]
    for name, found in results.items():
        parts += [f"### {SWEEPS[name]}\n", sweep_table(found)]
    return "\n".join(parts)


# --------------------------------------------------------------------------------------------- picture


def draw(results: Mapping[str, Sequence[Result]]) -> Figure:
    """Curves over the settings that vary alone, and below them maps over the two thresholds."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 5.8), layout="constrained", facecolor="white")
        axes = figure.subplots(2, 3)
        top = max(result.metrics[measure] for name in CURVES for result in results[name] for measure in MEASURES)
        for place, (name, (label, base)) in zip(axes[0], CURVES.items(), strict=True):
            _curves(place, results[name], label, base)
            place.set_ylim(0, 1.08 * top)
        axes[0, 0].set_ylabel("%, validation images")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
        for place, measure in zip(axes[1], MAPPED, strict=True):
            _map(place, results[MAP], measure)
    return figure


def _curves(place: Axes, results: Sequence[Result], label: str, base: int) -> None:
    over = [next(iter(result.values.values())) for result in results]
    place.set_xscale("log", base=base)
    for result, value in zip(results, over, strict=True):
        if result.default:
            place.axvline(value, color="black", linestyle=":", linewidth=1, label="default")
    for measure, (color, marker) in LOOKS.items():
        heights = [result.metrics[measure] for result in results]
        place.plot(over, heights, marker=marker, color=color, markersize=4, label=MEASURES[measure])
    place.set_xticks(over, [f"{value:g}" for value in over])
    place.minorticks_off()
    place.set_xlabel(label)
    place.grid(axis="y", alpha=0.3)


def _map(place: Axes, results: Sequence[Result], measure: str) -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    cells = [(*result.values.values(), result) for result in results]
    rows, columns = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    heights = np.full((len(rows), len(columns)), np.nan)
    placed = [(rows.index(row), columns.index(column), result) for row, column, result in cells]
    for y, x, result in placed:
        heights[y, x] = result.metrics[measure]
    low, high = np.nanmin(heights), np.nanmax(heights)
    span = max(high - low, 1.0)
    # Neither the palest nor the darkest colours, on which neither cell nor frame is seen.
    place.imshow(heights, cmap="Blues", origin="lower", aspect="auto", vmin=low - 0.2 * span, vmax=high + 0.3 * span)
    for y, x, result in placed:
        dark = heights[y, x] > low + 0.75 * span
        place.text(x, y, f"{heights[y, x]:.1f}", ha="center", va="center", color="white" if dark else "black")
        if result.default:
            place.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#d95f02", linewidth=3))
    place.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    place.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    place.set(title=f"{MEASURES[measure]} (%)", xlabel="feature energy", ylabel="weight energy (image)")


def main(words: Sequence[str]) -> int:
    """Write page and picture; returns the exit status: 0, 2 for a user's mistake."""
    try:
        for word in words:
            if not word.startswith("out="):
                raise UserError(f'"{word}" means nothing here: write out=DIR, the folder where the runs lie')
        results = load(words)
    except UserError as error:
        for sentence in str(error).splitlines():
            print(f"error: {sentence}", file=sys.stderr)
        return 2
    (DOCS / PAGE).write_text(page(results), encoding="utf-8")
    draw(results).savefig(DOCS / PICTURE, dpi=125, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

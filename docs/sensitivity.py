"""Makes docs/keeplora-sensitivity.md and its picture from the finished runs of the sweeps it names.

python -m bench sweep keeplora_rank                 # and the others of SWEEPS
python docs/sensitivity.py [out=DIR]
"""

import json
import sys
from pathlib import Path

from bench import sweep
from bench.config import resolve
from bench.errors import UserError

DOCS = Path(__file__).parent
LINES = {"keeplora_rank": "method.rank", "keeplora_alpha": "method.alpha", "keeplora_lr": "train.lr"}
TITLES = {"method.rank": "rank r", "method.alpha": "scale alpha", "train.lr": "learning rate"}
GRID = "keeplora_thresholds"
SWEEPS = (*LINES, GRID)
WEIGHTS, FEATURES = "method.weight_energy.image", "method.feature_energy.image"
SHOWN = {"transfer_by_column": "Transfer", "average_mtil": "Average", "last": "Last", "learning": "just learned"}
COLORS = {"transfer_by_column": "#1b9e77", "average_mtil": "#888888", "last": "#2b6cb0", "learning": "#d95f02"}

Results = dict[tuple[float, ...], dict[str, float]]


def results(name: str, keys: list[str], words: list[str]) -> Results:
    """The scalars of every point of a sweep, by the values of the settings it varies."""
    found: Results = {}
    for point in sweep.expand(sweep.find(name), words).points:
        try:
            summary = json.loads((point.directory / "summary.json").read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{name} is not finished: python -m bench sweep {name}") from None
        flat = resolve(point.words).flat
        found[tuple(flat[key] for key in keys)] = summary["metrics"]
    return dict(sorted(found.items()))


def defaults(keys: list[str]) -> tuple[float, ...]:
    """What the settings are where nobody sets them."""
    flat = resolve(["method=keeplora"]).flat
    return tuple(flat[key] for key in keys)


def table(keys: list[str], found: Results) -> str:
    """One row a point; the defaults in bold."""
    chosen = defaults(keys)
    lines = ["| " + " | ".join([*(f"`{key}`" for key in keys), *SHOWN.values()]) + " |"]
    lines.append("|" + "---|" * (len(keys) + len(SHOWN)))
    for values, metrics in found.items():
        cells = [*(f"{value:g}" for value in values), *(f"{metrics[name]:.1f}" for name in SHOWN)]
        lines.append("| " + " | ".join(f"**{cell}**" if values == chosen else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def picture(lines: dict[str, Results], grid: Results, file: Path) -> None:
    """Curves over one setting each, and maps over the two thresholds."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (key, found) in zip(axes[0], lines.items(), strict=True):
        places = [values[0] for values in found]
        for name, label in SHOWN.items():
            axis.plot(places, [m[name] for m in found.values()], "o-", color=COLORS[name], label=label, markersize=4)
        axis.axvline(defaults([key])[0], color="black", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.minorticks_off()
        axis.set_xlabel(f"{TITLES[key]}  ({key})")
        axis.set_ylim(0, 80)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("% (dotted: default)")
    axes[0][1].legend(frameon=False, fontsize=8, loc="lower left")
    rows, columns = (sorted({values[place] for values in grid}) for place in (0, 1))
    default = defaults([WEIGHTS, FEATURES])
    for axis, name in zip(axes[1], ("transfer_by_column", "last", "learning"), strict=True):
        values = [[grid[row, column][name] for column in columns] for row in rows]
        low, high = min(map(min, values)), max(map(max, values))
        axis.imshow(values, cmap="viridis", vmin=low, vmax=high, origin="lower", aspect="auto")
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                dark = value < (low + high) / 2
                axis.text(
                    x, y, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=9
                )
        corner = (columns.index(default[1]) - 0.47, rows.index(default[0]) - 0.47)
        axis.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="red", linewidth=2))
        axis.set_xticks(range(len(columns)), [f"{column:g}" for column in columns])
        axis.set_yticks(range(len(rows)), [f"{row:g}" for row in rows])
        axis.set_title(f"{SHOWN[name]} (%)", fontsize=10)
        axis.set_xlabel("feature energy, both towers")
    axes[1][0].set_ylabel("weight energy, image tower")
    figure.savefig(file, dpi=100, metadata={"Software": None})


def main(words: list[str]) -> None:
    lines = {key: results(name, [key], words) for name, key in LINES.items()}
    grid = results(GRID, [WEIGHTS, FEATURES], words)
    page = DOCS / "keeplora-sensitivity.md"
    before, mark, _ = page.read_text(encoding="utf-8").partition("<!-- tables, made by docs/sensitivity.py -->\n")
    tables = [table([key], found) for key, found in lines.items()] + [table([WEIGHTS, FEATURES], grid)]
    page.write_text(before + mark + "\n" + "\n".join(tables), encoding="utf-8")
    picture(lines, grid, DOCS / "keeplora-sensitivity.png")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")

"""Make the table of the low-rank methods in docs/rivals.md and its picture: python docs/family.py

What the code can tell is not written here by hand: what grows comes from the methods' flags, the seconds of a step from
the table of costs on the same page. tests/test_family.py compares the other columns with the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocket_results import table

from bench.compare.views import PALETTE
from bench.record.flags import registered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
PAGE, PICTURE = "rivals.md", "rivals-family.png"
MARKS = ("<!-- family, made by docs/family.py -->", "<!-- end of family -->")
"""What stands between them in the page is written by this script."""
COSTS = ("<!-- costs, made by docs/benchmarks/methods.py -->", "<!-- end of costs -->")

HEADER = (
    "method",
    "A comes from",
    "B starts at",
    "frozen",
    "protected",
    "remembered between tasks",
    "grows with the tasks",
    "numbers trained",
    "seconds of a step",
)
RANK = 16
WIDTHS = [768] * 12 + [512] * 12
"""Widths of the blocks of ViT-B/16: of its image tower, of its text tower."""

Count = Callable[[int, int], int]
"""Width d of a block and rank r -> numbers trained in its maps q, k, v and o, each [d, d]; q, k and v share a site."""

Box = tuple[float, float, float, float]
"""A part of the weight in the picture: its first and last input direction, its first and last output direction."""


# ---- what the methods do


def both(d: int, r: int) -> int:
    """A and B of four maps."""
    return 8 * r * d


def outputs(d: int, r: int) -> int:
    """B of four maps."""
    return 4 * r * d


@dataclass(frozen=True)
class Member:
    """One method of the family.

    Attributes
    ----------
    source, start : str
        Where A comes from and where B starts. `start` begins with 0 where the update of the first task starts at zero.
    frozen : tuple of str
        What is not trained on the second task, beside the weight: tensors of the update, as the method calls them.
    rest : bool
        A and B start as a part of the weight, and only the rest of it is frozen.
    protected, kept : str
        `kept` is "nothing" where the method has no memory.
    first, later : function
        Numbers trained on the first task and on the second one.
    kind : int
        The row of the picture, of `KINDS`.
    note : str
        What the picture says below the name.
    held, free : tuple of Box
        Where the picture shows the update: where it is kept or starts, and where else it may go.
    """

    source: str
    start: str
    frozen: tuple[str, ...]
    protected: str
    kept: str
    first: Count
    later: Count
    kind: int
    note: str
    held: tuple[Box, ...] = ()
    free: tuple[Box, ...] = ()
    rest: bool = False


END = 10.0
STRONG, PAST, NEW = (0.0, 4.0), (3.0, 6.0), (1.0, 8.0)
"""Directions of one side of a weight in the picture: principal ones, those of earlier tasks, of the new gradient."""

BARS = {"strong in W": STRONG, "past features": PAST, "new gradient": NEW}
KINDS = {
    0: "may write anywhere",
    1: "start in a part or prefer it, may leave it",
    2: "stay in a part by construction",
}


def inputs(*spans: tuple[float, float]) -> tuple[Box, ...]:
    """Return the parts of a weight with some input directions and all outputs."""
    return tuple((low, high, 0.0, END) for low, high in spans)


ALL = inputs((0.0, END))
OUTSIDE = ((0.0, PAST[0]), (PAST[1], END))
"""What earlier tasks do not use."""
OWN = ((NEW[0], PAST[0]), (PAST[1], NEW[1]))
"""What the new task uses and earlier ones do not."""
SHARED = ((1.4, 2.0), (3.6, 4.2), (5.2, 5.8))
"""A few directions of earlier updates."""

FAMILY: dict[str, Member] = {
    "lora": Member(
        source="random",
        start="0",
        frozen=(),
        protected="nothing",
        kept="nothing",
        first=both,
        later=both,
        kind=0,
        note="nothing is protected",
        free=ALL,
    ),
    "codyra": Member(
        source="random, with a random gate for each row",
        start="0",
        frozen=(),
        protected="nothing",
        kept="nothing",
        first=lambda d, r: both(d, r) + 4 * r,
        later=lambda d, r: both(d, r) + 4 * r,
        kind=0,
        note="with few components",
        free=ALL,
    ),
    "slao": Member(
        source="random; later the last task's A, made orthonormal",
        start="0; later the last task's B",
        frozen=(),
        protected="nothing",
        kept="A, the trained and the averaged B",
        first=both,
        later=both,
        kind=0,
        note="B is averaged\nover tasks",
        free=ALL,
    ),
    "zscl-lora": Member(
        source="random",
        start="0",
        frozen=(),
        protected="nothing; answers on a reference set and the length of the update, by penalties",
        kept="features of the reference set",
        first=both,
        later=both,
        kind=0,
        note="answers elsewhere are\nheld, by a penalty",
        free=ALL,
    ),
    "sd-lora": Member(
        source="random",
        start="0",
        frozen=("A_old", "B_old"),
        protected="nothing; earlier updates keep their directions",
        kept="A, B and a magnitude of every task",
        first=both,
        later=lambda d, r: both(d, r) + 4,
        kind=0,
        note="earlier updates\nonly change in size",
        free=ALL,
    ),
    "o-lora": Member(
        source="random",
        start="0",
        frozen=(),
        protected="input side, by a penalty: rows of earlier A",
        kept="A of every task",
        first=both,
        later=both,
        kind=1,
        note="away from earlier A,\nby a penalty",
        held=inputs(*OUTSIDE),
        free=inputs(PAST),
    ),
    "milora": Member(
        source="last right singular vectors of W, times the roots of their values",
        start="last left ones, times the same roots",
        rest=True,
        frozen=(),
        protected="both sides, at the start only: principal directions of W",
        kept="nothing",
        first=both,
        later=both,
        kind=1,
        note="from the last singular\nvectors of W",
        held=((7.5, END, 7.5, END),),
        free=ALL,
    ),
    "sc-lora": Member(
        source="Qᵀ W",
        start="Q, outputs that the task uses much and earlier tasks little",
        rest=True,
        frozen=(),
        protected="output side, at the start only: earlier tasks' outputs",
        kept="a second moment a site",
        first=both,
        later=both,
        kind=1,
        note="from outputs that are\nnew to the task",
        held=tuple((0.0, END, *span) for span in OWN),
        free=ALL,
    ),
    "share": Member(
        source="random; later shared directions and 2 random ones",
        start="0",
        frozen=("alpha", "beta"),
        protected="nothing",
        kept="shared directions, coefficients of every task",
        first=both,
        later=lambda d, r: 4 * (2 * r * r + 2 * 2 * (d + r)),
        kind=1,
        note="directions of earlier\nupdates, and 2 new ones",
        held=tuple((*one, *other) for one in SHARED for other in SHARED),
        free=ALL,
    ),
    "keeplora": Member(
        source="the gradient outside of what is protected",
        start="the part of the gradient along A",
        rest=True,
        frozen=("A",),
        protected="input side: principal directions of W, earlier tasks' inputs",
        kept="a basis a map",
        first=outputs,
        later=outputs,
        kind=2,
        note="new gradient: not strong\nin W, not used before",
        held=inputs((PAST[1], NEW[1])),
    ),
    "inflora": Member(
        source="the task's inputs outside of what is protected",
        start="0",
        frozen=("A",),
        protected="input side: earlier tasks' inputs",
        kept="a basis a site",
        first=outputs,
        later=outputs,
        kind=2,
        note="new inputs,\nnot used before",
        held=inputs(*OWN),
    ),
    "splitlora": Member(
        source="random, in the directions that earlier tasks use least",
        start="0",
        frozen=("A",),
        protected="input side: inputs that earlier tasks use most",
        kept="a second moment a site",
        first=outputs,
        later=outputs,
        kind=2,
        note="all inputs that were\nlittle used before",
        held=inputs(*OUTSIDE),
    ),
    "loda": Member(
        source="inputs that all tasks use most; in a second branch those that this task alone uses much",
        start="0 in both branches",
        frozen=("0.A", "1.A"),
        protected="input side: earlier tasks' inputs, which the first branch may use and then counts less",
        kept="a second moment a site",
        first=lambda d, r: 6 * r * d,
        later=both,
        kind=2,
        note="new inputs; those of\nearlier tasks count less",
        held=inputs(*OWN),
        free=inputs(PAST),
    ),
    "nusa-cl": Member(
        source="V, the last right singular vectors of W",
        start="0: it is U M, with U the last left ones and M = 0",
        frozen=("U", "V"),
        protected="both sides: principal directions of W",
        kept="nothing",
        first=lambda d, r: 4 * r * r,
        later=lambda d, r: 4 * r * r,
        kind=2,
        note="weak on both sides\nof W",
        held=((STRONG[1], END, STRONG[1], END),),
    ),
}
"""By name, in the order of the picture."""

TENSORS = {
    "A_old": "earlier A",
    "B_old": "earlier B",
    "0.A": "both A",
    "1.A": "",
    "alpha": "shared directions",
    "beta": "",
}
"""What the table calls tensors of updates, where it is not their name; empty where the one before says it too."""


# ---- the table


def trained(count: Count, rank: int = RANK, widths: Sequence[int] = WIDTHS) -> int:
    """Return how many numbers are trained in the maps q, k, v and o of blocks of some widths."""
    return sum(count(width, rank) for width in widths)


def seconds(page: str) -> dict[str, str]:
    """Return the last cell of every method in the table of costs of the page."""
    lines = page.partition(COSTS[0])[2].partition(COSTS[1])[0].splitlines()
    return {line.split("`")[1]: line.rstrip("| ").rpartition("|")[2].strip() for line in lines if line[:3] == "| `"}


def frozen(member: Member) -> str:
    """Return what is frozen in words."""
    words = [TENSORS.get(name, name) for name in member.frozen]
    return ", ".join([*filter(None, words), "the rest of W" if member.rest else "W"])


def row(name: str, member: Member, took: Mapping[str, str]) -> list[str]:
    """Return the cells of one method."""
    numbers = dict.fromkeys(f"{trained(count):,}" for count in (member.first, member.later))
    grows = (registered({"method.name": name}) or {}).get("grows", "nothing")
    words = (member.source, member.start, frozen(member), member.protected, member.kept, grows)
    return [f"`{name}`", *words, " / ".join(numbers), took.get(name, "")]


def written(page: str) -> str:
    """Return the page with the table as it is now."""
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    took = seconds(page)
    rows = table(list(HEADER), [row(name, member, took) for name, member in FAMILY.items()])
    return f"{before}{MARKS[0]}\n{rows}{MARKS[1]}{after}"


def write() -> None:
    """Put the table into the page."""
    page = DOCS / PAGE
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


# ---- the picture

WRITES = "#5b3f8c"
"""Where an update goes; the colours of what is there are the first of `PALETTE`."""
INK, SOFT, BACK = "#222222", "#777777", "#f3f3f3"
SIZE = (9.9, 6.05)
"""Of the picture, in inches; so are the others."""
COLUMN, ROW, SIDE, KEY = 1.4, 1.98, 1.0, 1.8
"""From one weight to the next; sides of a weight, and of the one that explains the others."""


def draw() -> Figure:
    """Draw a weight for every method, with its input directions across and its output directions down."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False, "text.color": INK}):
        figure = Figure(figsize=SIZE, facecolor="white")
        _key(_square(figure, 0.0, 0.55, KEY))
        for kind, title in KINDS.items():
            first, top = (0 if kind == len(KINDS) - 1 else 2), kind * ROW
            members = [item for item in FAMILY.items() if item[1].kind == kind]
            for place, (name, member) in enumerate(members, start=first):
                _panel(_square(figure, place * COLUMN, top + 0.3, SIDE), name, member)
            figure.text((first * COLUMN + 0.1) / SIZE[0], 1 - (top + 0.2) / SIZE[1], title, fontsize=10, weight="bold")
        _shades(_square(figure, 5 * COLUMN, 2 * ROW + 0.3, SIDE))
    return figure


LEFT, TOP = 2.4, 3.2
"""Room for the bars beside a weight and for them and the name above it, in directions."""


def _square(figure: Figure, left: float, top: float, side: float) -> Axes:
    """Return a place for a weight with room for its bars, name and note."""
    unit = side / END
    width, height = (LEFT + END + 1.6) * unit, (TOP + END + 3.6) * unit
    axes = figure.add_axes((left / SIZE[0], 1 - (top + height) / SIZE[1], width / SIZE[0], height / SIZE[1]))
    axes.set(xlim=(-LEFT, END + 1.6), ylim=(END + 3.6, -TOP))
    axes.axis("off")
    return axes


def _weight(axes: Axes, width: float, step: float) -> None:
    """Draw the weight, and beside it the bars of what its directions are."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((0, 0), END, END, facecolor=BACK, zorder=0))
    axes.add_patch(Rectangle((0, 0), END, END, fill=False, edgecolor=SOFT, linewidth=0.8, zorder=3))
    for number, (span, color) in enumerate(zip(BARS.values(), PALETTE, strict=False)):
        at = (-step * (number + 0.8),) * 2
        axes.plot(span, at, color=color, linewidth=width, solid_capstyle="butt")
        axes.plot(at, span, color=color, linewidth=width, solid_capstyle="butt")


def _fill(axes: Axes, boxes: Sequence[Box], strength: float) -> None:
    from matplotlib.patches import Rectangle

    for left, right, top, bottom in boxes:
        corner, color = (left, top), (WRITES, strength)
        axes.add_patch(Rectangle(corner, right - left, bottom - top, facecolor=color, edgecolor="none", zorder=1))


def _panel(axes: Axes, name: str, member: Member) -> None:
    _weight(axes, 2.2, 0.5)
    _fill(axes, member.free, LIGHT)
    _fill(axes, member.held, DARK)
    axes.text(END / 2, -1.75, name, ha="center", va="bottom", fontsize=9, family="monospace")
    axes.text(END / 2, END + 0.4, member.note, ha="center", va="top", fontsize=7.5, linespacing=1.05)


DARK, LIGHT = 0.9, 0.25
"""Strengths of the colour of updates."""


def _key(axes: Axes) -> None:
    """Draw the weight that explains the others."""
    step = 0.66
    _weight(axes, 4, step)
    for number, ((said, (_, high)), color) in enumerate(zip(BARS.items(), PALETTE, strict=False)):
        axes.text(high + 0.25, -step * (number + 0.8), said, va="center", fontsize=8, color=color, weight="bold")
    axes.text(0.3, 0.3, "input directions \N{RIGHTWARDS ARROW}", va="top", fontsize=8, color=SOFT)
    axes.text(0.3, END - 0.3, "output directions", va="bottom", fontsize=8, color=SOFT, rotation=90)
    axes.text(END / 2 + 0.4, END / 2, "one weight W:\nwhere does a task\nwrite its update?", ha="center", va="center",
              fontsize=10, linespacing=1.3)  # fmt: skip


def _shades(axes: Axes) -> None:
    """Say what the two shades mean."""
    for at, strength, said in ((1.6, DARK, "stays, starts or\nprefers to be here"), (5.6, LIGHT, "may go here too")):
        _fill(axes, [(0.0, 1.5, at, at + 1.5)], strength)
        axes.text(2.1, at + 0.75, said, va="center", fontsize=7.5)


def main() -> None:
    write()
    draw().savefig(DOCS / PICTURE, dpi=125, metadata={"Software": None})


if __name__ == "__main__":
    main()

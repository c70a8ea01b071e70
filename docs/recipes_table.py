"""Makes the tables of docs/recipes.md: what each recipe reproduces, and what must come out.

python docs/recipes_table.py
"""

from pathlib import Path

from bench.compare.published import METRICS, POOLED, Row
from bench.recipes.answers import known
from bench.recipes.recipe import Recipe, recipes

PAGE = Path(__file__).parent / "recipes.md"
MARKS = ("<!-- recipes, made by docs/recipes_table.py -->", "<!-- end of recipes -->")
SECTIONS = {
    "MTIL": "Transfer / Average / Last",
    "Few training images": "Transfer / Average / Last",
    "CIFAR-100 in 10 and 20 tasks": "average / last accuracy",
    "Untrained models": "Transfer / Average / Last; average / last accuracy of CIFAR-100",
}


def section_of(recipe: Recipe) -> str:
    """Return the section that a recipe is in."""
    mtil, few, cifar, untrained = SECTIONS
    if recipe.name.startswith("zero-shot"):
        return untrained
    return cifar if "cifar" in recipe.name else few if "fewshot" in recipe.name or "xtail" in recipe.name else mtil


def numbers(row: Row) -> str:
    """Return the published numbers of a row in short."""
    scalars = POOLED if set(POOLED) & set(row.values) else METRICS.values()
    means = " / ".join(f"{row.values[name]:.1f}" if name in row.values else "-" for name in scalars)
    more = ", matrix" if row.matrix else ", by task" if row.columns else ""
    return f"{means}{more}" if row.values else "by task"


def cells(recipe: Recipe) -> tuple[str, ...]:
    """Return the cells of a recipe: name, what it reproduces, runs, what must come out, how exactly, source."""
    found = known(recipe)
    rows = [row for one in found for row in one.rows]
    several = len({row.method for row in rows}) > 1
    out = dict.fromkeys(f"{row.method} {numbers(row)}" if several else numbers(row) for row in rows)
    if recipe.zero_shot:
        limit = "a band each"
    elif recipe.tolerance is not None:
        limit = f"{recipe.tolerance:g}"
    else:
        limit = "chance" if rows else ""
    runs = str(sum(len(one.points) for one in found))
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    title = recipe.title.partition("; no number")[0]
    return f"`{recipe.name}`", title, runs, "; ".join(out) or "not known here", limit, sources


def tables() -> str:
    """Return all tables as Markdown."""
    known_recipes = list(recipes().values())
    lines = []
    for section, order in SECTIONS.items():
        lines += ["", f"### {section}", "", f"| recipe | what | runs | must come out: {order} | within | source |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(cells(one))} |" for one in known_recipes if section_of(one) == section]
    return "\n".join([*lines, ""])


def page(text: str) -> str:
    """Return the page with its tables made again."""
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{tables()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

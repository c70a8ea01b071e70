"""Makes docs/api.md: every name of bench.api with its signature, its docstring and its public members.

python docs/api_page.py

Everything is read from the source text, so the page shows signatures as their authors wrote them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from api_source import LISTS, ROOT, Item, entries, item, listing, methods, sections, signature

PAGE = Path(__file__).parent / "api.md"

INTRO = """\
# The API for plug-ins

Made by `python docs/api_page.py`. This page lists every name that `bench.api` has: all that a method, a stream, a
dataset or a model of your own needs, and what starts a run from Python. [methods.md](methods.md) and
[streams.md](streams.md) teach them with examples, [python.md](python.md) shows how to start runs.

```python
from bench.api import Method, TaskData, register, setting
```

These names keep their meaning between releases. If one changes, [CHANGELOG.md](../CHANGELOG.md) says so in its section
on plug-ins. Everything else in `bench` may move without notice. Importing `bench.api` is fast: it loads no torch.
"""

GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "For every plug-in": (
        "A plug-in is a class with the decorator `register`. Its settings are a dataclass of `setting` fields.",
        ("register", "setting", "with_defaults", "UserError", "suggest", "derived_seed", "generator"),
    ),
    "For a method": (
        "A method derives from `Method`. The engine gives it the model as `self.clip` (a `Clip`), the run as "
        "`self.context` (a `Context`) and every task as a `TaskData`.",
        (
            "Method", "ParityCard", "Surroundings", "Context", "World", "TaskData", "Pixels", "LabelSpace", "Train",
            "EpochReport", "TrainStep", "TrainingState", "Clip", "LinearMap", "Update", "LowRank", "Branches", "Site",
            "KINDS", "TOWERS", "Flags", "Reference", "ToForget", "Memory", "Frozen", "SecondMoment",
            "second_moments", "slot_means", "mean_gradient", "steps_of", "linear_probe", "torch", "F", "no_grad",
        ),
    ),
    "For a stream or a dataset": (
        "A stream derives from `Stream` and returns a list of `Task`s, or from `DatasetStream`, which makes tasks of "
        "registered datasets. A dataset derives from `Dataset` and returns its `Splits`.",
        (
            "Stream", "StreamSettings", "Task", "Request", "Extra", "LABEL_SPACES", "ZeroShot", "DatasetStream", "Part",
            "Dataset", "Splits", "Counts", "load_dataset", "folder_dataset", "Images", "ArrayImages", "FileImages",
            "PackedImages", "Subset", "Joined", "alone", "hold_out", "stream_class", "stream_of",
        ),
    ),
    "For a model": (
        "A model is a registered class with `load(self, settings) -> Clip`. It may also have a class method "
        "`widths(cls, settings) -> Mapping[str, int]`, which gives the width of the blocks of each tower "
        '(`{"image": 768, "text": 512}`) before the model is loaded. `tests/toy.py` has a complete one.',
        ("widths_in", "tiny_clip", "toy_task"),
    ),
    "From Python": (
        "`run` does what the command line does: see [python.md](python.md). `load`, `evaluate`, `probe`, "
        "`export` and `analyse` use the model of a finished run: see [models.md](models.md). `gather` reads runs that "
        "are on disk: see [compare.md](compare.md#from-python).",
        (
            "run", "Result", "AccuracyMatrix", "summary", "render", "load", "Loaded", "evaluate", "Evaluation",
            "probe", "Probe", "Probed", "export", "analyse", "Analysis", "gather", "Comparison",
            "ComparableRuns", "Group",
        ),
    ),
    "To see what a run computes": (
        "A listener is called with what a run computes, number for number: logits, losses, gradients, statistics, "
        "subspaces. Without a listener nothing is reported and nothing is slower.",
        ("Observers", "Observation"),
    ),
}  # fmt: skip
"""Who needs which names, in reading order. A test holds that every name of `bench.api` is in one group."""

MODULES = {
    "torch": "The module `torch`, imported when one of its attributes is first read.",
    "F": "The module `torch.nn.functional`, imported when one of its attributes is first read.",
}
"""Public names that are modules and have no docstring of their own."""

Link = Callable[[str], str]
"""Returns a name as code, with a link where the page describes it."""


def markdown(text: str, link: Link) -> str:
    """Return a docstring's text as Markdown: literals and names as code, names of the page as links."""
    parts = re.split(r"(``.+?``|`[^`\n]+`)", text)
    return "".join(_inline(part, link) if index % 2 else _plain(part) for index, part in enumerate(parts))


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*").replace("__", r"\_\_")


def _inline(text: str, link: Link) -> str:
    return f"`{text[2:-2]}`" if text.startswith("``") else link(text.strip("`"))


def rendered(doc: str, link: Link) -> list[str]:
    """Return the lines of a docstring as Markdown."""
    lines: list[str] = []
    for title, text in sections(doc).items():
        if title:
            lines += ["", f"**{title}**"]
        if title in LISTS:
            lines.append("")
            for head, below in entries(text):
                lines += _entry(title, head, markdown(below, link), link)
        elif title == "Examples":
            lines += ["", "```pycon", text, "```"]
        else:
            lines += ["", markdown(text, link)]
    return lines[1:]


def _entry(title: str, head: str, below: str, link: Link) -> list[str]:
    """Return the lines of one entry of a list: its name as code, its type, and its text."""
    name, colon, kind = head.partition(" : ")
    if not colon and title not in ("Parameters", "Attributes"):
        name, kind = "", head
    shown = ", ".join(f"`{part.strip()}`" for part in name.split(",")) if name else ""
    kind = re.sub(r"[A-Z]\w+", lambda found: link(found[0]).replace("`", ""), _plain(kind))
    kind = f"*{kind}*" if kind else ""
    first = f"{shown} ({kind})" if shown and kind else shown or kind
    text, *rest = below.splitlines() or [""]
    return [f"* {first}: {text}" if text else f"* {first}", *(f"    {line}".rstrip() for line in rest)]


# ---- the page


def public() -> dict[str, Item | None]:
    """Return all names of the groups in reading order; None for a module."""
    return {name: None if name in MODULES else item(name) for _, names in GROUPS.values() for name in names}


def _linker(known: set[str], owner: str = "") -> Link:
    """Return what links a name of the page, or a member of ``owner`` without its owner's name."""

    def link(name: str) -> str:
        target = re.sub(r"\(.*\)$", "", name)
        target = next((one for one in (f"{owner}.{target}", target) if one in known), "")
        return f"[`{name}`](#{slug(target)})" if target else f"`{name}`"

    return link


def slug(name: str) -> str:
    """Return the anchor of a heading."""
    return name.lower().replace(".", "")


def _summary(name: str, one: Item | None) -> str:
    text = MODULES[name] if one is None else sections(one.doc)[""].split("\n\n")[0]
    return " ".join(text.split())


def _section(name: str, one: Item | None, known: set[str]) -> list[str]:
    """Return the lines about one name."""
    if one is None:
        return ["", f"### {name}", "", MODULES[name]]
    link = _linker(known - {name}, name)
    lines = ["", f"### {name}", "", f"Source: `{one.file.relative_to(ROOT).as_posix()}`", "", "```python"]
    if isinstance(one.node, ast.ClassDef):
        lines += [*listing(one), "```", "", *rendered(one.doc, link)]
        for member in methods(one):
            lines += ["", f"#### {member.name}", "", "```python", *signature(member), "```"]
            lines += ["", *rendered(member.doc, _linker(known - {member.name}, name))] if member.doc else []
        return lines
    code = signature(one) if isinstance(one.node, ast.FunctionDef) else [one.written(one.node)]
    return [*lines, *code, "```", "", *rendered(one.doc, link)]


def page() -> str:
    """Return the text of the page."""
    found = public()
    inner = {
        one.name for owner in found.values() if owner and isinstance(owner.node, ast.ClassDef) for one in methods(owner)
    }
    known = {*found, *inner}
    link = _linker(known)
    lines = [INTRO]
    for title, (text, names) in GROUPS.items():
        lines += [f"## {title}", "", re.sub(r"`([^`\n]+)`", lambda match: link(match[1]), text), ""]
        lines += ["| name | what it is |", "|---|---|"]
        for name in names:
            summary = markdown(_summary(name, found[name]), lambda inner: f"`{inner}`").replace("|", "\\|")
            lines.append(f"| {link(name)} | {summary} |")
        for name in names:
            lines += _section(name, found[name], known)
        lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

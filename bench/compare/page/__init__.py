"""A comparison as one HTML file that needs nothing else: `python -m bench compare RUNS html=FILE`.

This module puts the file together from the markup, the style and the scripts in bench/compare/html/, from plotly.js and
from the data that `bench.compare.page.content` lays out. The scripts draw; what has to be computed is computed there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.page.content import data
from bench.compare.tables import Section

FILES = Path(__file__).parent.parent / "html"
"""Markup, style and script of the page."""

SCRIPTS = (
    "text", "elements", "marks", "plots", "labels", "sheet", "forests", "answers", "results", "tradeoff", "tasks",
    "matrices", "curves", "losses", "costs", "axes", "crossed", "parallel", "sweeps", "provenance", "page",
)  # fmt: skip
"""ES modules of the page, each after those that it imports."""

IMPORT = re.compile(r'^import \{([\w\s,]+)\} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:function|class|const) (\w+))", re.MULTILINE)
"""The forms of import and export that `script` can put together; a test refuses all others."""


def page(sections: Sequence[Section], left_out: Sequence[tuple[Path, str]] = ()) -> str:
    """Return the page as text.

    A content security policy forbids every request, and every script but the two whose hashes it holds: whatever a
    record says, nothing in it can run or call.

    Parameters
    ----------
    sections : sequence of Section
        See `bench.compare.tables.sections`.
    left_out : sequence of (Path, str)
        See `bench.compare.grouping.Comparison`.

    Returns
    -------
    str
        HTML, about five megabytes, most of them plotly.js.
    """
    from plotly.offline import get_plotlyjs  # four megabytes

    scripts = {"plotly": get_plotlyjs(), "script": script()}
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts.values()]
    parts = {
        "policy": " ".join(f"'sha256-{one}'" for one in hashes),
        "style": _file("page.css"),
        "data": embedded(data(sections, left_out)),
        **scripts,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def _file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def script() -> str:
    """Return the modules of the page as one script.

    A browser loads no module from a file, and the page is one file. So each module becomes a function that returns what
    the module exports: modules share nothing else, and nothing is global.

    Returns
    -------
    str
        JavaScript without imports and exports.
    """
    parts = []
    for name in SCRIPTS:
        source = IMPORT.sub(r"const {\1} = module_\2;", _file(f"{name}.js"))
        exported = ", ".join(EXPORT.findall(source))
        parts.append(f"const module_{name} = (() => {{\n{EXPORT.sub('', source)}return {{ {exported} }};\n}})();\n")
    return "(() => {\n" + '"use strict";\n' + "".join(parts) + "})();\n"


def embedded(value: Any) -> str:
    """Write a value as JSON that can stand inside a script element: no ``<`` ends it or opens a comment there.

    Parameters
    ----------
    value : object
        Plain values without NaN and infinity.

    Returns
    -------
    str
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")

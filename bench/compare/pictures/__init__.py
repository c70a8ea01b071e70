"""A comparison as static pictures for papers: `python -m bench compare RUNS pictures=FOLDER`.

Every picture is written as SVG and as PNG, in the width of a column (3.3 inches) or of a page (7 inches). Text in SVG
is drawn as paths, so that it looks alike everywhere, and the same runs give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compare.pictures.accuracy import curves, difference, matrices, scatter
from bench.compare.pictures.costs import costs, over_costs
from bench.compare.pictures.look import STYLE
from bench.compare.pictures.tasks import losses, tasks
from bench.compare.tables import Section
from bench.compare.views import View, views
from bench.core.files import write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300

METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}

Draw = Callable[[View], "Figure | None"]

DRAWN: dict[str, Draw] = {
    "scatter": scatter,
    "tasks": tasks,
    "matrices": matrices,
    "difference": difference,
    "curves": curves,
    "losses": losses,
    "over-costs": over_costs,
    "costs": costs,
}
"""Last part of a file's name -> what draws it; ``None`` where there is nothing to draw."""


def write(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write all pictures of all fields.

    Parameters
    ----------
    sections : sequence of Section
        See `bench.compare.tables.sections`.
    folder : Path
        It is made if it is not there.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OSError
        If something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [path for name, view in _named(views(sections)) for path in _write(view, folder, name)]


def _named(drawn: Sequence[View]) -> Iterator[tuple[str, View]]:
    """Name fields by stream and model, and by a number where that does not tell them apart."""
    stems = [re.sub(r"[^\w.-]+", "-", f"{view.section.field.stream}-{view.section.field.model}") for view in drawn]
    for number, (stem, view) in enumerate(zip(stems, drawn, strict=True), start=1):
        yield (f"{stem}-{stems[:number].count(stem)}" if stems.count(stem) > 1 else stem), view


def _write(view: View, folder: Path, stem: str) -> Iterator[Path]:
    for name, draw in DRAWN.items():
        yield from save(partial(draw, view), folder, f"{stem}-{name}")


def save(draw: Callable[[], Figure | None], folder: Path, stem: str) -> Iterator[Path]:
    """Draw a picture in the style of all, write it as SVG and as PNG, and yield the files.

    Parameters
    ----------
    draw : callable
        Returns the picture, or None where there is nothing to draw.
    folder : Path
        It must be there.
    stem : str
        The name of the files without its ending.

    Yields
    ------
    Path

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return
        for ending, metadata in METADATA.items():
            path = folder / f"{stem}.{ending}"
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=DPI, metadata=metadata)
            write_output(path, content.getvalue())
            yield path

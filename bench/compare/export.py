"""A comparison in files: one tidy CSV, LaTeX tables, a page, pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compare import page, pictures
from bench.compare.runs import SHOWN, TITLES
from bench.compare.significance import Difference
from bench.compare.tables import COLUMNS, Section, best, cell, provenance, quoted
from bench.core.console import one_line
from bench.core.errors import UserError
from bench.core.files import write_output
from bench.core.paths import is_folder, user_path
from bench.metrics.scalars import spread

FORMATS = ("csv", "latex", "html", "pictures")
"""Words of the command line that name a file to write; the last one names a folder."""

CSV_COLUMNS = (
    "stream", "model", "apart", "source", "method", "label", "fingerprint", "metric", "n", "mean", "standard_error",
    "baseline", "difference", "low", "high", "level", "over", "reference",
)  # fmt: skip
"""What docs/compare.md says of each."""

FORMULA = ("=", "+", "-", "@")
"""What a cell begins with that spreadsheets compute; what they pass over to look for it is escaped."""

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
"""Characters that mean something else in LaTeX, or look otherwise."""


def write(
    sections: Sequence[Section], options: Mapping[str, str], left_out: Sequence[tuple[Path, str]] = ()
) -> list[str]:
    """Write the files that ``csv=FILE``, ``latex=FILE``, ``html=FILE`` and ``pictures=FOLDER`` ask for.

    Parameters
    ----------
    sections : sequence of Section
        See `bench.compare.tables.sections`.
    options : mapping of str to str
        Words of the command line; those that are none of `FORMATS` are passed over.
    left_out : sequence of (Path, str)
        See `bench.compare.grouping.Comparison`; for the page.

    Returns
    -------
    list of str
        A line about each file.

    Raises
    ------
    UserError
        If one cannot be written, or there is nothing to draw.
    """
    made = []
    for option in FORMATS:
        if option not in options:
            continue
        path = user_path(options[option], option)
        kind = "folder" if option == "pictures" else "file"
        try:
            if not options[option]:
                raise OSError(0, "no name is given")
            if kind == "file" and is_folder(path):
                raise IsADirectoryError(0, "there is a folder")
            if option == "csv":
                write_output(path, csv_text(sections))
            elif option == "latex":
                write_output(path, latex(sections))
            elif option == "html":
                write_output(path, page.page(sections, left_out))
            else:
                if not sections:
                    raise UserError(f"there is nothing to draw for pictures={path}: no run here is finished")
                pictures.write(sections, path)
        except OSError as error:
            raise UserError(
                f"{option}={options[option]} cannot be written ({error.strerror}): name a {kind} elsewhere"
            ) from None
        made.append(f"{option} written to {path}")
    return made


def csv_text(sections: Sequence[Section]) -> str:
    """Return one line for every group and metric, and for every published number, below `CSV_COLUMNS`.

    Parameters
    ----------
    sections : sequence of Section

    Returns
    -------
    str
        CSV. Numbers have all their digits, metrics and costs the names and units of summary.json. Names that begin
        like a formula of a spreadsheet begin with an apostrophe instead.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for line in (*_measured(section), *_published(section)):
            writer.writerow({column: _harmless(value) for column, value in line.items()})
    return stream.getvalue()


def _harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that could be one has an apostrophe before it."""
    if not isinstance(value, str):
        return value
    cell = one_line(value)
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.startswith(FORMULA) else cell
    return cell


def _shared(section: Section) -> dict[str, Any]:
    """Return what all lines of a section have in common."""
    apart = "; ".join(f"{name} {value}" for name, value in section.field.apart.items())
    return {"stream": section.field.stream, "model": section.field.model, "apart": apart}


def _measured(section: Section) -> Iterator[dict[str, Any]]:
    differences: dict[tuple[str, str], Difference] = {}
    if section.against:
        for group, its_own in section.against.rows:
            differences |= {(group.label, one.scalar): one for one in its_own}
    for group in section.field.groups:
        names = {"method": group.method, "label": group.label, "fingerprint": group.fingerprint}
        for metric in COLUMNS:
            values = group.values(metric).values()
            if not values:
                continue
            over = spread(values)
            line: dict[str, Any] = {**_shared(section), "source": "measured", **names, "metric": metric}
            line |= {"n": over.n, "mean": over.mean, "standard_error": over.standard_error}
            if (one := differences.get((group.label, metric))) and section.against:
                line |= {"baseline": section.against.baseline.label, "difference": one.mean, "low": one.low}
                line |= {"high": one.high, "level": section.against.level, "over": one.over}
            yield line


def _published(section: Section) -> Iterator[dict[str, Any]]:
    for row in section.published.rows if section.published else ():
        for metric in SHOWN:
            if (value := row.value(metric)) is not None:
                line = {**_shared(section), "source": "published", "method": row.method, "label": row.method}
                yield line | {"metric": metric, "mean": value, "reference": row.source}


# -------------------------------------------------------------------------------------------------- LaTeX


def escape(text: str) -> str:
    """Write text so that LaTeX prints it as it is.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        LaTeX.
    """
    return "".join(SPECIAL.get(character, character) for character in one_line(text))


def latex(sections: Sequence[Section]) -> str:
    r"""Return a ``table`` with a ``booktabs`` tabular for every section.

    Parameters
    ----------
    sections : sequence of Section

    Returns
    -------
    str
        LaTeX.
    """
    return "\n\n".join(["% needs \\usepackage{booktabs}", *map(_tabular, sections)]) + "\n"


def _tabular(section: Section) -> str:
    """Lay out one section: means with standard errors, the best in bold; published rows below a rule of their own."""
    winners = best(section.field)
    lines = [r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (1 + len(COLUMNS))}}}", r"\toprule"]
    lines += [_row(["Method", "$n$", *(escape(TITLES[name]) for name in COLUMNS)]), r"\midrule"]
    for group in section.field.groups:
        cells = []
        for name in COLUMNS:
            written = cell(group, name, r" $\pm$ ").replace("-", "$-$" if group.values(name) else "--")
            cells.append(rf"\textbf{{{written}}}" if group in winners.get(name, []) else written)
        lines.append(_row([escape(group.label), str(len(group.runs)), *cells]))
    if section.published:
        lines += [r"\midrule", rf"\multicolumn{{{2 + len(COLUMNS)}}}{{l}}{{published, not measured here:}} \\"]
        for method, *cells in quoted(section.published):
            lines.append(_row([escape(method), *("--" if one == "-" else one for one in cells)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{_caption(section)}}}", r"\end{table}"])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _caption(section: Section) -> str:
    """Say what is shown, what n and ± are, and where published numbers come from."""
    title = f"{section.field.title[0].upper()}{section.field.title[1:]}."
    parts = [title, "Mean ± standard error over n seeds, in percent; the best measured mean of a column is bold."]
    if section.published:
        parts += ["Published:", *(f"{line.rstrip('.')}." for line in provenance(section.published))]
    return escape(" ".join(parts)).replace("n seeds", "$n$ seeds")

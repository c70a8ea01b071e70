"""A comparison in files: one tidy CSV, LaTeX tables, a page, pictures; and tables for every task on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.compare import page, pictures
from bench.compare.export.numbers import csv_text
from bench.compare.export.paper import latex
from bench.compare.tables import Section
from bench.core.errors import UserError
from bench.core.files import write_output
from bench.core.paths import exists, is_file, is_folder, user_path

FORMATS = ("csv", "latex", "html", "pictures")
"""Words of the command line that name a file to write; the last one names a folder."""


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
        If one cannot be written, two are the same, or there is nothing to draw.
    """
    if "latex" in options and options.get("per") == "cell":
        raise UserError("latex= has no table of single cells: write it with per=task or without per=, or take csv=FILE")
    named: dict[Path, str] = {}
    for option in FORMATS:
        if options.get(option):
            path = user_path(options[option], option).absolute()
            if exists(path) and not is_file(path):
                continue  # a pipe or a device may take several; a folder is refused below
            if first := named.get(path):
                raise UserError(f"{first}= and {option}= both name {options[option]}: give each a file of its own")
            named[path] = option
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

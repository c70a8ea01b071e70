"""Your own images in a table: a CSV, JSON Lines or Parquet file with a path and a label for every image."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from bench.api import Dataset, FileImages, Splits, UserError, hold_out

from .own_parts import PARTS, Choices, class_names, refuse_second_test
from .reading import text

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
"""How the names of files end that are tables of images."""

PATHS = ("path", "file_name")
"""Columns of paths, unless another one is named; Hugging Face calls it file_name."""

SEPARATORS = ",;\t"

SAFE = 15
"""pyarrow from this version on: reading a Parquet file with older ones could run code (CVE-2023-47248)."""

Line = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One image of a table: its path below the folder of images, its label, its part, empty where it says none."""

    path: str
    label: str
    part: str
    line: int


class Table(Dataset):
    """A table with the columns path, label and perhaps split; paths are relative to the folder of the file.

    Parameters
    ----------
    file : str
        Below ``data=``.
    choices : Choices
        How it is read, as a file of tasks says.
    """

    obtain = "write a table with the columns path, label and split, a line for every image"

    def __init__(self, file: str, choices: Choices):
        super().__init__((file,))
        self.registry_name = file
        self.short: str = PurePosixPath(file).stem
        self.choices = choices

    def locate(self, root: Path) -> Path | None:
        """Return the file; None if there is none."""
        path = root / self.folders[0]
        try:
            return path if path.is_file() else None
        except OSError as error:
            raise UserError(f"the table {path} cannot be read ({error.strerror}): correct its name") from error

    def read(self, folder: Path) -> Splits:
        """Read the table, which `locate` returned."""
        base = folder.parent / self.choices.images
        names = folder.parent / self.choices.classes if self.choices.classes else None
        return splits_of(rows_of(folder, self.choices), folder, base, names, self.choices)


def splits_of(rows: Sequence[Row], source: Path, base: Path, names: Path | None, choices: Choices) -> Splits:
    """Return the images that tables list, in the order of labels and paths, whatever the order of the lines.

    Parameters
    ----------
    rows : sequence of Row
    source : Path
        The table, for sentences.
    base : Path
        The folder that the paths start from.
    names : Path or None
        File of class names.
    choices : Choices

    Returns
    -------
    Splits

    Raises
    ------
    UserError
        If paths are listed twice or are missing, classes lack images in a part, or no image is for testing.
    """
    _check_once(rows, source)
    labels = _in_order({row.label for row in rows})
    parts = {part: [row for row in rows if row.part == part] for part in {row.part for row in rows}}
    _check_classes(parts, labels, source)
    number = {label: index for index, label in enumerate(labels)}
    images = {part: _images(own, number, source, base) for part, own in parts.items()}
    classes, note = class_names(labels, names, str(source)), ""
    if names is None and all(label.isdecimal() for label in labels):
        note = f'its labels are numbers, so prompts say "{labels[0]}": name the classes in a file, with classes: FILE'
    if "test" in images:
        refuse_second_test(choices, f"{source} has test images")
        return Splits(classes, images["train"], images["test"], images.get("validation"), note)
    if choices.split is None:
        raise UserError(
            f"{source} has no test images: add a column split with train and test, or hold out a share with "
            "split: 0.2 in a file of tasks (stream.split=0.2)"
        )
    everything = images["train"] if "train" in images else images[""]
    train, test = hold_out(everything, labels, choices.split, choices.split_seed, "test")
    return Splits(classes, train, test, images.get("validation"), note)


def rows_of(file: Path, choices: Choices) -> list[Row]:
    """Return the rows of a table, checked one by one.

    Parameters
    ----------
    file : Path
    choices : Choices
        Names of its columns.

    Returns
    -------
    list of Row
        In the order of the file.

    Raises
    ------
    UserError
        If the file is no table, a column is missing, or a line has no path, no label or an unknown split.
    """
    split = choices.split_column or "split"
    paths = (choices.path_column,) if choices.path_column else PATHS
    label = choices.label_column or "label"
    columns, lines = _content(file, {*paths, label, split})
    if not lines:
        raise UserError(f"the table {file} lists no images: write a line for every image below a line of column names")
    path = _column(file, columns, paths, "path_column")
    _column(file, columns, (label,), "label_column")
    if choices.split_column:
        _column(file, columns, (split,), "split_column")
    rows = []
    for line, cells in lines:
        where = f"line {line} of {file}"
        values = [_cell(cells.get(name), name, where) for name in (path, label)]
        part = _part(_cell(cells.get(split), split, where), where) if split in columns else ""
        rows.append(Row(_path(values[0]), values[1], part, line))
    _check_inside(rows, file)
    return rows


def _content(file: Path, wanted: set[str]) -> tuple[list[str], list[Line]]:
    """Return the columns of a table and its lines, each with its number."""
    readers = {".jsonl": _json_lines, ".parquet": _parquet}
    return readers.get(file.suffix.lower(), _separated)(file, wanted)


def _separated(file: Path, wanted: set[str]) -> tuple[list[str], list[Line]]:
    """Read a CSV file; its separator is the one that its first line has most of: comma, semicolon or tab."""
    content = text(file)
    header = next((line for line in content.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=max(SEPARATORS, key=header.count), strict=True)
    columns: list[str] = []
    lines: list[Line] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = cells
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"line {reader.line_num} of {file} has {len(cells)} cells and the first line {len(columns)}: "
                    "write a cell for every column, in quotes where it holds the separator"
                )
            lines.append((reader.line_num, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {file} is not CSV ({error}): correct it") from error
    twice = [name for name, count in Counter(columns).items() if count > 1 and name in wanted]
    if twice:
        raise UserError(f'the table {file} has the column "{twice[0]}" twice: rename one')
    return columns, lines


def _json_lines(file: Path, wanted: set[str]) -> tuple[list[str], list[Line]]:
    lines: list[Line] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"line {number} of {file} is not JSON ({reason}): write one object a line") from error
        if not isinstance(cells, dict):
            raise UserError(f'line {number} of {file} is no object: write lines such as {{"file_name": "a.jpg"}}')
        columns.update(dict.fromkeys(cells))
        lines.append((number, cells))
    return list(columns), lines


def _parquet(file: Path, wanted: set[str]) -> tuple[list[str], list[Line]]:
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise UserError(
            f"the table {file} cannot be read (pyarrow is not installed): pip install pyarrow, or save it as CSV"
        ) from error
    if int(arrow.__version__.partition(".")[0]) < SAFE:
        raise UserError(
            f"the table {file} is not read with pyarrow {arrow.__version__}, since such a file could run code in it: "
            f'pip install "pyarrow>={SAFE}", or save it as CSV'
        )
    try:
        with parquet.ParquetFile(file) as content:
            columns = list(content.schema_arrow.names)
            rows = content.read(columns=[name for name in columns if name in wanted]).to_pylist()
    except Exception as error:  # a damaged file can fail in any of its many parts
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the table {file} cannot be read ({reason}): save it again") from error
    return columns, list(enumerate(rows, start=1))


def _column(file: Path, columns: Sequence[str], names: Sequence[str], key: str) -> str:
    """Return the first of some names that is a column of a table."""
    found = next((name for name in names if name in columns), None)
    if found is None:
        known = ", ".join(columns[:8]) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
        raise UserError(
            f'the table {file} has no column "{names[0]}" (it has {known}): rename one, or name it with {key}: NAME in '
            "a file of tasks"
        )
    return found


def _cell(value: Any, column: str, where: str) -> str:
    """Return a cell as text."""
    if value is None or value == "":
        raise UserError(f'{where} has nothing as "{column}": complete or remove the line')
    cell = str(value).strip()
    if isinstance(value, list | dict | bytes) or not cell.isprintable():
        raise UserError(f'{where} has no text as "{column}": write a word or a number')
    return cell


def _part(value: str, where: str) -> str:
    if value.lower() not in PARTS:
        raise UserError(f'{where} has "{value}" as split: write one of {", ".join(PARTS)}')
    return PARTS[value.lower()]


def _path(value: str) -> str:
    return PurePosixPath(value).as_posix()


def _check_inside(rows: Sequence[Row], file: Path) -> None:
    """Refuse paths that do not lie below the folder of the images."""

    def outside(path: str) -> bool:
        absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive
        return bool(absolute) or ".." in PurePosixPath(path).parts

    wrong = [row for row in rows if outside(row.path)]
    if wrong:
        raise UserError(
            f'{len(wrong)} of {len(rows)} paths in {file} are absolute or contain "..", first {wrong[0].path} (line '
            f"{wrong[0].line}): write them relative to the folder of the file"
        )


def _check_once(rows: Sequence[Row], source: Path) -> None:
    counts = Counter(row.path for row in rows)
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        lines = ", ".join([str(row.line) for row in rows if row.path == twice[0]][:5])
        raise UserError(
            f"{len(twice)} of {len(counts)} paths are more than once in {source}, first {twice[0]} (lines {lines}): "
            "list every image once"
        )


def _check_classes(parts: dict[str, list[Row]], labels: Sequence[str], source: Path) -> None:
    """Refuse a table whose parts do not all have images of all classes, or of which only some rows are in a part."""
    if "" in parts and len(parts) > 1:
        row = parts[""][0]
        raise UserError(
            f"{len(parts[''])} of {sum(map(len, parts.values()))} images of {source} are in no part, first {row.path} "
            f"(line {row.line}): begin their paths with train/ or test/, or add a column split"
        )
    if "" not in parts and "train" not in parts:
        raise UserError(f"{source} has no training images: write train as split of some")
    for part, rows in parts.items():
        lacking = _in_order(set(labels) - {row.label for row in rows})
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            kind = {"train": "training", "": "training"}.get(part, part)
            raise UserError(
                f"{source} has no {kind} image of {', '.join(lacking[:5])}{more}: every class needs one in every part"
            )


def _images(rows: Iterable[Row], number: dict[str, int], source: Path, base: Path) -> FileImages:
    """Return the images of one part; a sentence counts all that are missing."""
    ordered = sorted(rows, key=lambda row: (number[row.label], row.path))
    names = [row.path for row in ordered]
    try:
        return FileImages(base, names, [number[row.label] for row in ordered])
    except UserError:
        missing = [name for name in names if not _is_file(base / name)]
        if not missing:
            raise
        raise UserError(
            f"{len(missing)} of {len(names)} images that {source} lists are not in {base}, first {missing[0]}: paths "
            "are relative to that folder"
        ) from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _in_order(labels: set[str]) -> list[str]:
    """Return labels in the order of their classes: numbers by their value, everything else as text."""
    if all(label.isascii() and label.isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (len(label.lstrip("0")), label.lstrip("0"), label))
    return sorted(labels)

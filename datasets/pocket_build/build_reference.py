"""Build the embedded reference set: clip art that shows no class of a task, and a sentence for each picture.

Everything comes from openclipart, which is in the public domain. The table ``reference`` of ``partition.json`` says
what is left out by folder, author or word; besides,

* nothing is taken whose path or title names a kind of a task (`absent` of ``build_corpus.py`` and the table's kinds);
* nothing whose name has the name of a class of any task in it, another wording or the plural of one; and nothing that
  ``words.json`` files under a class of the stream ``pocket`` by its name or folder. Animals, people, vehicles and the
  other categories of the task emoji of ``pocket-tuning`` occur, by narrower names: they are another kind of picture;
* nothing that differs by less than an RMS of 5 grey levels from an image of a task, and no drawing that differs by less
  than that from one taken before, both on white.

Written to the output folder: ``reference.webp``, a lossless sheet, and ``reference.json`` with the hash of its pixels
and the sentences in the order of the pictures.

Usage: ``python build_reference.py --work WORK [--out OUT]`` after
``python sources.py --work WORK --only openclipart-png``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import captions as words
import numpy as np
import partition
import sources
from build_corpus import absent, describe
from build_tasks import sheet
from check import close_pairs, load_task
from drawing import SIZE, Rng, fit, jitter, pale, place
from PIL import Image
from task_images import BASE, shuffled

DATA = partition.HERE.parent / "pocket_data"
RULES = partition.REFERENCE
KINDS = re.compile(rf"(?<![a-z])({'|'.join(RULES['kinds'])})s?(?![a-z])")
LEFT_OUT = re.compile(rf"\b({'|'.join(RULES['words'])})\b")
TEMPLATES = [
    "a clipart picture of {}", "clip art of {}", "a picture of {}", "a drawing of {}", "an illustration of {}",
    "a cartoon of {}",
]  # fmt: skip
"""Captions of clip art in pre-training (words.json), of those that name no kind of a task."""
NO_WORDS = ("bw", "md", "svg")
"""Ends of names that say how a drawing is stored, or who made it."""
LEAST_CONTRAST = 15.0
"""Standard deviation of the grey levels of a drawing on white; below it there is next to nothing to see."""


def named(path: str, title: str, author: str) -> str:
    """Return what a file shows: its title, or its name where the two have no word in common.

    Parameters
    ----------
    path : str
        Path below ``clipart_root``.
    title, author : str
        As the file itself says; either may be empty.

    Returns
    -------
    str
        Lower-case words, maybe none.
    """
    own = words.clean(path.rpartition("/")[2].removesuffix(".png"), 9).split()
    title = re.sub(r"\(.*?\)|&\S+;", " ", title.removeprefix("Clipart by Nicu Buculei - "))
    found = words.clean(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", title), 9).split()
    if not set(own) & set(found):
        makers = words.clean(author, 9).split()
        found = [word for word in own if not any(maker.startswith(word) for maker in makers)]
    text = " ".join(word for word in found if word not in NO_WORDS and (len(word) > 1 or word == "a"))
    return re.sub(r"^((a|an|another|my|the) )+| a$", "", text)


@cache
def class_words(stream: str = "") -> frozenset[str]:
    """Return the names of the classes of a stream's tasks, or of all tasks, with other wordings of the same."""
    table = json.loads((DATA / "tasks.json").read_text(encoding="utf-8"))
    wanted = table["streams"].get(stream)
    names = [name for entry in table["tasks"] if wanted is None or entry["name"] in wanted for name in entry["classes"]]
    return frozenset(text for name in names for text in (*words.wordings(name), words.canonical(name)))


def shows_a_class(name: str, folder: str) -> bool:
    """Say whether a name or its folder stands for a class of a task; the article "a" does not."""
    prefix = folder
    while prefix and prefix not in words.FOLDER_CATEGORIES:
        prefix = prefix.rpartition("/")[0]
    keys = {key for _, key in describe(name, words.FOLDER_CATEGORIES.get(prefix, ""))}
    parts = name.split()
    runs = {" ".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)} - {"a"}
    runs |= {run.removesuffix(ending) for run in runs for ending in ("s", "es")}
    return bool(keys & class_words("pocket") or runs & class_words())


def candidates(work: Path) -> list[tuple[str, str]]:
    """Return the paths of the drawings that may be taken, and their names."""
    found = []
    for path in sources.clipart_files(work):
        folder, _, own = path.rpartition("/")
        if f"{folder}/".startswith(tuple(f"{name}/" for name in RULES["folders"])) or absent(path):
            continue
        with Image.open(sources.clipart_root(work) / path) as image:
            title, author = image.info.get("Title", ""), image.info.get("Author", "")
        name = named(path, title, author)
        text = f"{own} {title} {name}".lower()
        if author in RULES["authors"] or absent(title) or KINDS.search(text) or LEFT_OUT.search(name):
            continue
        if name and name.isascii() and not shows_a_class(name, folder):
            found.append((path, name))
    return found


def task_images() -> np.ndarray:
    """Return the images of all tasks and splits."""
    table = json.loads((DATA / "tasks.json").read_text(encoding="utf-8"))
    return np.concatenate([images for entry in table["tasks"] for images in load_task(DATA, entry).values()])


def draw(work: Path, path: str, rng: Rng) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw a file on a pale background, a little turned and moved, and on white; None where there is little to see."""
    background, how = pale(rng), jitter(rng, 6.0, (0.85, 1.0), 0.04)
    picture = sources.clipart_image(work, path)
    drawing = None if picture is None else fit(picture, BASE)
    if drawing is None:
        return None
    plain = place(drawing)
    if plain.astype(np.float32).std() < LEAST_CONTRAST:
        return None
    return place(drawing, background=background, **how), plain


def choose(work: Path) -> tuple[np.ndarray, list[str]]:
    """Return the pictures, uint8 [pictures, side, side, 3], and the sentence of each."""
    rng = np.random.default_rng(RULES["seed"])
    drawn = [(path, name, draw(work, path, rng)) for path, name in shuffled(rng, candidates(work))]
    whole = [(path, name, *pair) for path, name, pair in drawn if pair is not None]
    images, plain = (np.stack([row[at] for row in whole]) for at in (2, 3))
    refused = {i for kind in (images, plain) for i, _, _ in close_pairs(kind, task_images())}
    for i, j, _ in close_pairs(plain, plain):
        if i < j and i not in refused:
            refused.add(j)
    seen: Counter[str] = Counter()
    orders: dict[str, list[str]] = {}
    chosen = []
    for index, (path, name, *_) in enumerate(whole):
        key = name.removesuffix("s")
        if index in refused or seen[key] == RULES["most"]:
            continue
        template = orders.setdefault(key, shuffled(rng, TEMPLATES))[seen[key]]
        many = name.endswith("s") and not name.endswith(("ss", "us"))
        article = "" if many else "an " if name[0] in "aeiou" else "a "
        chosen.append((path, index, template.format(article + name)))
        seen[key] += 1
    chosen.sort()
    return images[[index for _, index, _ in chosen]], [sentence for _, _, sentence in chosen]


def main() -> None:
    """Write the sheet and the sentences."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    parser.add_argument("--out", type=Path, default=DATA, help="output folder (default: ../pocket_data)")
    arguments = parser.parse_args()
    images, sentences = choose(sources.work_folder(arguments.work))
    sheet(images).save(arguments.out / "reference.webp", lossless=True, quality=100, method=6, exact=True)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    entry = {
        "file": "reference.webp",
        "image_size": SIZE,
        "count": len(images),
        "sha256": digest,
        "sentences": sentences,
    }
    (arguments.out / "reference.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    print(f"{len(images)} pictures, {(arguments.out / 'reference.webp').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Build the captioned corpus that the pocket model is pre-trained on.

The corpus is not shipped. It is made of openclipart (without the files of `partition.clipart_reserved`), icon sets,
emoji and flag drawings of the pre-training vendors, and letters and digits of the pre-training font families. What may
be used is decided in ``partition.py``; how names become captions in ``captions.py``. The kinds of the new tasks
(letters of other scripts, musical signs, outlines of countries and states, views from space) are not in it at all:
`absent` knows them by their names.

Written to the work folder::

    corpus.npz   rgba [N,48,48,4] and alpha [M,48,48], uint8: first the coloured drawings, then those in one colour;
                 kind (index into the kinds), weight (within the kind) and keys [N+M,K] (-1: none) of each of the N+M
                 images
    corpus.json  kinds, templates of each kind, names of the keys, and for each image its phrases as [text, key] pairs

Run ``python build_corpus.py --work WORK`` after ``sources.py`` has fetched the packages.

This script is one file, although it is long: it ran once, from top to bottom, and made what is shipped.
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import Pool
from pathlib import Path

import captions as words
import numpy as np
import sources

SIZE = 48
SEED = 0
KINDS = ["clipart", "picture", "emoji", "flag", "icon", "letter", "digit"]
TEMPLATES_OF = {"picture": "icon"}
COLOUR_SETS = [
    "flat-color-icons",
    "fluent-color",
    "icon-park",
    "streamline-color",
    "streamline-kameleon-color",
    "meteocons",
]
# Sets that draw one icon in many sizes or styles: only names that match are used.
ICON_FILTER = {
    "fluent": r".*-24-(regular|filled)",
    "material-symbols": r"(?!.*-(rounded|sharp)$).*",
    "ic": r"(baseline|outline)-.*",
    "solar": r".*-(bold|linear|bold-duotone)",
    "healthicons": r"(?!.*-24px$).*",
    "tabler": r"(?!brand-).*",
    "ion": r"(?!ios-|md-|logo-).*",
}
SKIP_SETS = frozenset(
    ["bitcoin-icons", "material-symbols-light", "streamline-pixel", "si", "fluent-mdl2", "icon-park-twotone"]
)
HANDWRITTEN_FROM = "caveat"


@dataclass
class Item:
    """One image of the corpus.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    image : np.ndarray
        RGBA (48, 48, 4), or the alpha plane alone (48, 48) of a drawing in one colour.
    phrases : list of (str, str)
        Texts with their keys.
    weight : float
        Relative frequency within the kind.
    """

    kind: str
    image: np.ndarray
    phrases: list[tuple[str, str]]
    weight: float = 1.0


def describe(name: str, categories: str = "") -> list[tuple[str, str]]:
    """Return the phrases of a named thing: wordings of the name, then its categories.

    Parameters
    ----------
    name : str
        A phrase (lower-case words).
    categories : str
        Further categories, separated by ``|``.

    Returns
    -------
    list of (str, str)
        Texts with their keys, without repetitions.
    """
    phrases = [(text, words.canonical(name)) for text in words.wordings(name)]
    for category in [*filter(None, categories.split("|")), *words.hypernyms(name)]:
        phrases.append((category, words.canonical(category)))
    return list(dict.fromkeys(phrases))


@lru_cache(maxsize=1)
def _absent_words() -> re.Pattern[str]:
    names = [*words.ABSENT, *words.COUNTRY_ADJECTIVES, *words.COUNTRY_ADJECTIVES.values()]
    return re.compile(rf"\b({'|'.join(map(re.escape, names))})s?\b")


def absent(name: str) -> bool:
    """Say whether a drawing that is no flag shows a kind of thing that the corpus must not contain.

    Parameters
    ----------
    name : str
        Its name and its folder, in any spelling.

    Returns
    -------
    bool
    """
    return bool(_absent_words().search(re.sub(r"[\W\d_]+", " ", name.lower())))


# ---------------------------------------------------------------------------------------------------------------- parts


def clip_art(work: Path) -> list[Item]:
    """Read openclipart without the reserved files; its flags become flag items."""
    reserved = sources.clipart_reserved()
    rng = np.random.default_rng(SEED)
    items = []
    for path in sources.clipart_files(work):
        folder, _, name = path.rpartition("/")
        keep = 0.1 if folder.startswith("shapes/stars") else 0.5 if folder.startswith("computer/icons") else 1.0
        if path in reserved or folder.startswith(("special", "unsorted/duplicates")) or rng.random() > keep:
            continue
        if "/flags" not in folder and absent(path):
            continue
        picture = sources.clipart_image(work, path)
        image = None if picture is None else sources.fit(picture, SIZE)
        if image is None:
            continue
        name = words.clean(name.removesuffix(".png"), 4)
        if "/flags" in folder:
            country = name.removeprefix("flag of ").removesuffix(" flag").removeprefix("flag ")
            items.append(Item("flag", image, country_phrases(country), 0.5))
            continue
        prefix = folder
        while prefix and prefix not in words.FOLDER_CATEGORIES:
            prefix = prefix.rpartition("/")[0]
        category = words.FOLDER_CATEGORIES.get(prefix, folder.rpartition("/")[2].replace("_", " "))
        phrases = describe(name, category)
        head = category.split("|")[0]
        if name and folder.startswith(("animals", "food", "people", "plants", "transportation", "recreation", "tools")):
            phrases.append((f"{head}, {' '.join(name.split()[:3])}", name))
            phrases.extend([(head, words.canonical(head))])
        items.append(Item("clipart", image, phrases, 0.35 if folder.startswith("computer/icons") else 1.0))
    return items


def country_phrases(country: str) -> list[tuple[str, str]]:
    """Return the phrases of a country's flag."""
    phrases = [(country, f"flag:{country}")] * 3
    adjective = words.COUNTRY_ADJECTIVES.get(country)
    return [*phrases, (adjective, f"flag:{country}")] if adjective else phrases


def country_names(work: Path) -> dict[str, str]:
    """Return country names by two-letter code, from the emoji table and the countries of the flags task."""
    names = {}
    for emoji in sources.emoji_table(work):
        if emoji["subcategory"] == "country-flag":
            code = "".join(chr(int(part, 16) - 0x1F1E6 + ord("a")) for part in emoji["unified"].split("-"))
            names[code] = words.clean(emoji["name"].lower().removesuffix(" flag").replace("&", "and"))
    return names | {code: country for country, code in sources.FLAG_COUNTRIES.items()}


def flags(work: Path) -> list[Item]:
    """Draw the flags of the pre-training vendors."""
    countries = country_names(work)
    items = []
    for vendor in sources.FLAGS["pretrain"]:
        if vendor == "openclipart":
            continue
        if vendor == "svg-country-flags":
            root = sources.unpack(work, "npm", vendor)
            for path in sorted(root.glob("svg/*.svg")):
                if path.stem in countries:
                    image = draw_svg(path.read_text(encoding="utf-8"))
                    if image is not None:
                        items.append(Item("flag", image, country_phrases(countries[path.stem])))
            continue
        icons = sources.Iconify(work, vendor)
        by_name = {country.replace(" ", "-"): code for code, country in countries.items()}
        for name in icons.names:
            base = name.removeprefix("flag-for-flag-").removeprefix("flag-for-").removeprefix("flag-")
            base = base.removesuffix("-flag")
            code = base if base in countries else by_name.get(base)
            if code is None or (vendor in ("emojione", "fxemoji") and "flag" not in name):
                continue
            image = icons.draw(name, SIZE)
            if image is not None:
                items.append(Item("flag", image, country_phrases(countries[code])))
    return items


def draw_svg(svg: str) -> np.ndarray | None:
    """Rasterise and fit an SVG document; None when it cannot be drawn."""
    try:
        return sources.fit(sources.render_svg(svg, SIZE * 3), SIZE)
    except ValueError:
        return None


def emoji(work: Path) -> list[Item]:
    """Draw the emoji of the pre-training vendors, without flags, skin tones and families."""
    table: dict[str, dict] = {}
    for entry in sources.emoji_table(work):
        for name in [(entry["name"] or "").lower(), *entry["short_names"]]:
            table.setdefault(words.clean(name, 9), entry)
    items = []
    for vendor in sources.EMOJI["pretrain"]:
        icons = sources.Iconify(work, vendor)
        for name in icons.names:
            if re.search(r"flag|skin-tone|keycap|-tone|^(couple|family|kiss)-", name) or absent(name):
                continue
            image = icons.draw(name, SIZE)
            phrase = words.clean(name)
            if image is None or not phrase:
                continue
            row = table.get(words.clean(name, 9))
            group = row["subcategory"] if row else ""
            categories = words.EMOJI_CATEGORIES.get(group, "")
            if group.startswith("face-"):
                categories = "face|smiley face"
            elif group.startswith("hand"):
                categories = "hand|hand gesture"
            if row:
                categories = "|".join(filter(None, [sources.emoji_class(row), categories]))
            phrases = describe(phrase, categories)
            extra = [pair for pair in phrases if pair[1] != words.canonical(phrase)]
            items.append(Item("emoji", image, phrases + extra, 1.0 if extra else 0.4))
    return items


def set_categories(work: Path, prefix: str) -> dict[str, str]:
    """Return the categories of an icon set's names (``|`` between them) where the package has any."""
    with tarfile.open(sources.archive(work, "npm", f"@iconify-json/{prefix}")) as bundle:
        try:
            file = bundle.extractfile("package/metadata.json")
        except KeyError:
            return {}
        table = json.load(file).get("categories", {}) if file else {}
    found: dict[str, list[str]] = {}
    for category, names in table.items():
        parts = [words.clean(part, 3).removesuffix("s") for part in re.split(r"[/&,+]", category)]
        for name in names:
            found.setdefault(name, []).extend(part for part in parts if words.canonical(part) in words.CATEGORY_KEYS)
    return {name: "|".join(dict.fromkeys(parts)) for name, parts in found.items()}


def icon_weight(phrase: str) -> float:
    """Return the sampling weight of an icon: short names are those of well-known things, and drawn more often."""
    return {1: 1.0, 2: 0.3, 3: 0.06}[len(phrase.split())]


def icon_set(work: Path, prefix: str) -> list[Item]:
    """Draw one icon set: alpha planes for sets in one colour, RGBA for coloured ones."""
    icons = sources.Iconify(work, prefix)
    categories = set_categories(work, prefix)
    pattern = re.compile(ICON_FILTER.get(prefix, ".*"))
    coloured = prefix in COLOUR_SETS
    items = []
    seen = set()
    for name in icons.names:
        phrase = words.clean(name, 4, style=True)
        count = len(phrase.split())
        if not pattern.fullmatch(name) or count > 3 or absent(name):
            continue
        if prefix == "game-icons" and re.search(r"\d", name.removesuffix("-24")):
            continue
        if re.fullmatch(r"(alpha|letter|number|numeric|square|circle|hexagon)? ?[a-z]?", phrase) or len(phrase) < 3:
            continue
        if name.endswith("-24-filled"):
            phrase = phrase.removesuffix(" filled")
        if (phrase, "outline" in name or "regular" in name, "duotone" in name) in seen:
            continue
        seen.add((phrase, "outline" in name or "regular" in name, "duotone" in name))
        image = icons.draw(name, SIZE)
        if image is None:
            continue
        weight = icon_weight(phrase)
        phrases = describe(phrase, categories.get(name, ""))
        phrases = [phrases[0], *phrases]
        items.append(Item("picture" if coloured else "icon", image if coloured else image[..., 3], phrases, weight))
    return items


def glyphs(work: Path) -> list[Item]:
    """Draw letters and digits of the pre-training font families, at most four weights of each."""
    families = sources.FONT_FAMILIES["pretrain"]
    first = families.index(HANDWRITTEN_FROM)
    items = []
    for index, family in enumerate(families):
        faces = sources.font_files(work, family)
        faces = [faces[i] for i in sorted({round(k * (len(faces) - 1) / 3) for k in range(4)})] if faces else []
        handwritten = index >= first
        for face in faces:
            font = sources.load_font(face)
            weight = (3.0 if handwritten else 1.0) / len(faces)
            for digit, word in enumerate(words.DIGITS):
                image = sources.glyph(font, str(digit), SIZE)
                if image is not None:
                    key = f"digit:{word}"
                    items.append(Item("digit", image[..., 3], [(word, key)] * 3 + [(str(digit), key)], weight))
            for letter in "abcdefghijklmnopqrstuvwxyz":
                for text, kind in ((letter, "small"), (letter.upper(), "capital")):
                    image = sources.glyph(font, text, SIZE)
                    if image is not None:
                        key = f"letter:{letter}"
                        phrases = [(letter, key)] * 6 + [(f"{letter} in {kind}", f"letter:{letter}:{kind}")]
                        items.append(Item("letter", image[..., 3], phrases, 1.0 / len(faces)))
    return items


# ------------------------------------------------------------------------------------------------------------- assembly


def save(work: Path, items: list[Item]) -> None:
    """Write ``corpus.npz`` and ``corpus.json``."""
    items = [item for item in items if item.phrases]
    items = [item for item in items if item.image.ndim == 3] + [item for item in items if item.image.ndim == 2]
    names: dict[str, int] = {}
    texts: list[list[tuple[str, int]]] = []
    for item in items:
        texts.append([(text, names.setdefault(key, len(names))) for text, key in item.phrases if text])
    width = max(len({key for _, key in phrases}) for phrases in texts)
    keys = np.full((len(items), width), -1, np.int32)
    for row, phrases in zip(keys, texts, strict=True):
        own = sorted({key for _, key in phrases})
        row[: len(own)] = own
    np.savez(
        work / "corpus.npz",
        rgba=np.stack([item.image for item in items if item.image.ndim == 3]),
        alpha=np.stack([item.image for item in items if item.image.ndim == 2]),
        kind=np.array([KINDS.index(item.kind) for item in items], np.int64),
        weight=np.array([item.weight for item in items], np.float64),
        keys=keys,
    )
    templates = {kind: words.TEMPLATES[TEMPLATES_OF.get(kind, kind)] for kind in KINDS}
    content = {"kinds": KINDS, "templates": templates, "keys": list(names), "phrases": texts}
    (work / "corpus.json").write_text(json.dumps(content), encoding="utf-8")
    counts = Counter(item.kind for item in items)
    print(f"{len(items)} images, {len(names)} keys:", dict(counts), flush=True)


def main() -> None:
    """Build the corpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    work = sources.work_folder(parser.parse_args().work)
    parts = [partial(part, work) for part in (glyphs, clip_art, emoji, flags)]
    parts += [partial(icon_set, work, prefix) for prefix in sources.ICON_SETS["pretrain"] if prefix not in SKIP_SETS]
    items: list[Item] = []
    with Pool(2) as pool:
        for part, found in zip(parts, pool.imap(run, parts, chunksize=1), strict=True):
            print(part.func.__name__, *part.args[1:], len(found), flush=True)
            items.extend(found)
    save(work, items)


def run(part: partial) -> list[Item]:
    """Build one part (in a worker process)."""
    return part()


if __name__ == "__main__":
    main()

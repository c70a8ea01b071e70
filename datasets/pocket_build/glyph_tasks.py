"""The glyph tasks of the embedded streams: letters of other scripts, and musical signs.

Every task shows the signs of one script in free fonts. Training, validation and test use different font families of one
population: the families of a script are shuffled by a seed, half of the groups go to training, an eighth to validation
and the rest to the test (``divided``). Families of one lineage (weights, widths, rounded or monospaced sisters) are one
group. The families and where they went are in ``partition.json``.

An image has a plain background and one ink in at most eight steps, so that it compresses well. The sign fills 60 to
90 % of the image; it is turned by up to 8 degrees, slanted and shifted a little. There are few music fonts, so that the
musical signs are also drawn with thinner and thicker strokes.

It is one file, because the tables of signs and what is done with them are read together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import partition
import sources
from drawing import Rng, ink, jitter, place, resize_rgba, two_colours
from PIL import Image, ImageFilter, ImageFont
from task_images import BASE, Task, shuffled

PIXELS = 128  # size at which a face is drawn
STEPS = 7  # steps from the background to the ink
CONTRAST = 120.0  # least difference in brightness between ink and background, in grey levels
WEIGHTS = (300, 400, 700)  # of the faces of a family, those nearest to these are used
WANTED = {"train": 600, "val": 150, "test": 800}  # images of a task: at least that many, the same number of every class
SHARES = {"train": 1 / 2, "val": 1 / 8}  # of the groups of families; the rest is for the test


@dataclass(frozen=True)
class Script:
    """The signs of one task.

    Parameters
    ----------
    seed : int
        Seed of the partition and of the images.
    template : str
        Prompt with ``{}`` for the class.
    signs : dict of str to str
        Class name -> character.
    least : float
        A sign smaller than this share of the script's median size in the same face is drawn smaller, as in a text.
    strokes : bool
        Draw thinner and thicker strokes too.
    """

    seed: int
    template: str
    signs: dict[str, str]
    least: float = 0.75
    strokes: bool = False


def _letters(names: str, characters: str) -> dict[str, str]:
    """Return class name -> character from names separated by commas."""
    return dict(zip(names.split(", "), characters, strict=True))


SCRIPTS = {
    "arabic": Script(
        171,
        "the Arabic letter {}",
        _letters(
            "alef, beh, teh, theh, jeem, hah, khah, dal, thal, reh, zain, seen, sheen, sad, dad, tah, zah, ain, ghain, "
            "feh, qaf, kaf, lam, meem, noon, heh, waw, yeh",
            "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
        ),
    ),
    "greek": Script(
        172,
        "the Greek letter {}",
        _letters(
            "alpha, beta, gamma, delta, epsilon, zeta, eta, theta, iota, kappa, lambda, mu, nu, xi, omicron, pi, rho, "
            "sigma, tau, upsilon, phi, chi, psi, omega",
            "αβγδεζηθικλμνξοπρστυφχψω",
        ),
    ),
    "hebrew": Script(
        173,
        "the Hebrew letter {}",
        _letters(
            "alef, bet, gimel, dalet, he, vav, zayin, het, tet, yod, kaf, lamed, mem, nun, samekh, ayin, pe, tsadi, "
            "qof, resh, shin, tav",
            "אבגדהוזחטיכלמנסעפצקרשת",
        ),
        least=1.0,
    ),
    "kana": Script(
        174,
        "the katakana letter {}",
        _letters(
            "a, i, u, e, o, ka, ki, ku, ke, ko, sa, shi, su, se, so, ta, chi, tsu, te, to, na, ni, nu, ne, no, ha, hi, "
            "fu, he, ho",
            "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホ",
        ),
    ),
    "music": Script(
        175,
        "the musical sign {}",
        {
            "treble clef": "\ue050",
            "bass clef": "\ue062",
            "alto clef": "\ue05c",
            "percussion clef": "\ue069",
            "cut time": "\ue08b",
            "whole note": "\ue0a2",
            "quarter rest": "\ue4e5",
            "eighth rest": "\ue4e6",
            "sixteenth rest": "\ue4e7",
            "flat": "\ue260",
            "natural": "\ue261",
            "sharp": "\ue262",
            "double sharp": "\ue263",
            "double flat": "\ue264",
            "fermata": "\ue4c0",
            "segno": "\ue047",
            "coda": "\ue048",
            "trill": "\ue566",
            "turn": "\ue567",
            "mordent": "\ue56d",
            "forte": "\ue522",
            "pedal": "\ue650",
            "down bow": "\ue610",
            "breath mark": "\ue4ce",
        },
        least=0.0,
        strokes=True,
    ),
    "thai": Script(
        176,
        "the Thai letter {}",
        _letters(
            "ko kai, kho khai, kho khwai, ngo ngu, cho chan, cho ching, cho chang, yo ying, to tao, tho thung, "
            "tho thahan, tho thong, no nu, bo baimai, po pla, pho phueng, pho phan, mo ma, yo yak, ro ruea, lo ling, "
            "wo waen, so suea, ho hip, o ang, ho nok huk",
            "กขคงจฉชญตถทธนบปผพมยรลวสหอฮ",
        ),
    ),
}

# Music fonts: family -> package and file. Their signs have the code points of SMuFL (Standard Music Font Layout).
MUSIC_FONTS = {
    "bravura": ("vexflow-fonts", "bravura/Bravura_1.392.otf"),
    "finale-ash": ("vexflow-fonts", "finale/FinaleAsh_1.7.otf"),
    "finale-broadway": ("vexflow-fonts", "finale/FinaleBroadway_1.4.otf"),
    "finale-engraver": ("vexflow-fonts", "finale/FinaleEngraver_1.4.otf"),
    "finale-jazz": ("vexflow-fonts", "finale/FinaleJazz_1.9.otf"),
    "finale-legacy": ("vexflow-fonts", "finale/FinaleLegacy_1.6.otf"),
    "finale-maestro": ("vexflow-fonts", "finale/FinaleMaestro_2.7.otf"),
    "gonville": ("vexflow-fonts", "gonvillesmufl/GonvilleSmufl_1.100.otf"),
    "gootville": ("vexflow-fonts", "gootville/Gootville_1.3.otf"),
    "leipzig": ("@vexflow-fonts/leipzig", "leipzig.otf"),
    "leland": ("vexflow-fonts", "leland/Leland_0.75.otf"),
    "musejazz": ("vexflow-fonts", "musejazz/MuseJazz_1.0.otf"),
    "petaluma": ("vexflow-fonts", "petaluma/Petaluma_1.065.otf"),
    "sebastian": ("@vexflow-fonts/sebastian", "sebastian.otf"),
}


# ------------------------------------------------------------------------------------------------------------- families


def groups(name: str) -> list[list[str]]:
    """Return the families of a script as ``partition.json`` lists them, those of one lineage together."""
    table = json.loads((partition.HERE / "partition.json").read_text(encoding="utf-8"))["glyphs"]
    return [row.split() for row in table["families"][name]]


def divided(name: str) -> dict[str, list[str]]:
    """Divide the families of a script among the splits.

    Parameters
    ----------
    name : str
        A key of ``SCRIPTS``.

    Returns
    -------
    dict
        Split -> names of families, sorted. It depends on the list of families and on the seed of the script only.
    """
    order = shuffled(np.random.default_rng(SCRIPTS[name].seed), groups(name))
    train = round(SHARES["train"] * len(order))
    val = train + max(2, round(SHARES["val"] * len(order)))
    parts = {"train": order[:train], "val": order[train:val], "test": order[val:]}
    return {split: sorted(family for group in part for family in group) for split, part in parts.items()}


# ---------------------------------------------------------------------------------------------------------------- fonts


def _holds(ranges: str, character: str) -> bool:
    """Say whether a list of code points such as ``U+370-3ff,U+1f00`` names a character."""
    for row in ranges.replace("U+", "").split(","):
        first, _, last = row.strip().partition("-")
        if int(first, 16) <= ord(character) <= int(last or first, 16):
            return True
    return False


def faces(work: Path, family: str, characters: list[str]) -> list[list[ImageFont.FreeTypeFont]]:
    """Return the upright faces of a family, light to bold, at most three.

    Parameters
    ----------
    work : Path
        Work folder.
    family : str
        Name of a @fontsource package, or a key of ``MUSIC_FONTS``.
    characters : list of str
        The signs that are wanted.

    Returns
    -------
    list of list of FreeTypeFont
        For each face the font of every character: a package divides a face among files, by ranges of code points.
    """
    if family in MUSIC_FONTS:
        package, file = MUSIC_FONTS[family]
        return [[_font(sources.unpack(work, "npm", package) / file)] * len(characters)]
    folder = sources.unpack(work, "npm", f"@fontsource/{family}")
    ranges = json.loads((folder / "unicode.json").read_text(encoding="utf-8"))
    parts = [next(key.strip("[]") for key, row in ranges.items() if _holds(row, sign)) for sign in characters]
    files = folder.glob(f"files/{family}-{parts[0]}-*-normal.woff")
    weights = sorted(int(path.name.split("-")[-2]) for path in files)
    chosen = sorted({min(weights, key=lambda weight: abs(weight - wanted)) for wanted in WEIGHTS})
    return [[_font(folder / f"files/{family}-{part}-{weight}-normal.woff") for part in parts] for weight in chosen]


@lru_cache(maxsize=256)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    """Load a font file once."""
    return sources.load_font(path.read_bytes(), PIXELS)


def drawings(fonts: list[ImageFont.FreeTypeFont], characters: list[str], least: float) -> list[np.ndarray] | None:
    """Draw the signs of a face in black, each in a square that it fills in one direction.

    Parameters
    ----------
    fonts : list of FreeTypeFont
        The font of every character.
    characters : list of str
        The signs.
    least : float
        See ``Script``.

    Returns
    -------
    list of np.ndarray or None
        RGBA uint8 arrays (BASE, BASE, 4) in the order of the characters. None if the face lacks a sign: it draws
        nothing, the box for missing characters, or the same as for another sign.
    """
    found = [ink(font, sign) for font, sign in zip(fonts, characters, strict=True)]
    marks = [mark for mark in found if mark is not None]
    boxes = [ink(font, "\U0010fffd") for font in set(fonts)]
    seen = {mark.tobytes() for mark in marks}
    if len(seen) < len(characters) or any(box is not None and box.tobytes() in seen for box in boxes):
        return None
    usual = float(np.median([max(mark.size) for mark in marks]))
    return [_square(mark, max(*mark.size, round(least * usual))) for mark in marks]


def _square(mark: Image.Image, side: int) -> np.ndarray:
    """Put a drawing into the middle of a square and scale that to BASE pixels."""
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(mark, ((side - mark.width) // 2, (side - mark.height) // 2))
    return resize_rgba(np.asarray(canvas), BASE)


# --------------------------------------------------------------------------------------------------------------- images


def restroked(drawing: np.ndarray, level: float) -> np.ndarray:
    """Make the strokes of a drawing thicker (level below 0.5) or thinner (above)."""
    blurred = np.asarray(Image.fromarray(drawing[..., 3]).filter(ImageFilter.GaussianBlur(1.2)), np.float32) / 255
    result = drawing.copy()
    result[..., 3] = (((blurred - level) * 4 + 0.5).clip(0, 1) * 255).round()
    return result


def image(drawing: np.ndarray, rng: Rng, strokes: bool = False) -> np.ndarray:
    """Render a sign: slanted, turned, scaled, shifted, in one ink on a plain background.

    Parameters
    ----------
    drawing : np.ndarray
        Black RGBA drawing from ``drawings``.
    rng : np.random.Generator
        Source of every choice.
    strokes : bool
        Vary the thickness of the strokes.

    Returns
    -------
    np.ndarray
        RGB uint8 (SIZE, SIZE, 3) with at most ``STEPS`` + 1 colours, which lie between the ink and the background.
    """
    if strokes:
        drawing = restroked(drawing, rng.uniform(0.25, 0.5))
    moved = jitter(rng, 8, (0.7, 0.88), 0.05)
    mask = place(drawing, shear=rng.uniform(-0.1, 0.1), **moved)
    share = 1 - (mask[..., :1] / 255 * STEPS).round() / STEPS
    front, back = two_colours(rng, CONTRAST)
    return (back + (front - back) * share).round().astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------- tasks


def build(work: Path, name: str) -> Task:
    """Build the task of a script.

    Parameters
    ----------
    work : Path
        Work folder with the packages.
    name : str
        A key of ``SCRIPTS``.

    Returns
    -------
    Task
        The same number of images of every class; the families of a split take turns in random order.

    Raises
    ------
    ValueError
        If a family of the partition has no face with all signs.
    """
    script = SCRIPTS[name]
    characters = list(script.signs.values())
    task = Task(name, script.template, list(script.signs), "font families -> other font families (see SOURCES.md)")
    rng = np.random.default_rng(script.seed)
    for split, families in divided(name).items():
        table = {}
        for family in families:
            drawn = [drawings(face, characters, script.least) for face in faces(work, family, characters)]
            table[family] = [face for face in drawn if face is not None]
            if not table[family]:
                raise ValueError(f"{family} lacks signs of {name}: take it out of partition.json")
        for label in range(len(characters)):
            order: list[str] = []
            while task.count(split, label) < -(-WANTED[split] // len(characters)):
                order = order or shuffled(rng, families)
                own = table[order.pop()]
                task.add(split, label, image(own[rng.integers(len(own))][label], rng, script.strokes))
    return task


def build_arabic(work: Path) -> Task:
    """Isolated Arabic letters (stream ``pocket-tuning``)."""
    return build(work, "arabic")


def build_greek(work: Path) -> Task:
    """Lower-case Greek letters without the final sigma (stream ``pocket``)."""
    return build(work, "greek")


def build_hebrew(work: Path) -> Task:
    """Hebrew letters without the final forms (in neither stream)."""
    return build(work, "hebrew")


def build_kana(work: Path) -> Task:
    """Katakana of the first six rows (stream ``pocket``)."""
    return build(work, "kana")


def build_music(work: Path) -> Task:
    """Musical signs (stream ``pocket``)."""
    return build(work, "music")


def build_thai(work: Path) -> Task:
    """Thai consonants that differ in shape (stream ``pocket-tuning``)."""
    return build(work, "thai")

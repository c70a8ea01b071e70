"""The glyph tasks of the embedded streams: their families, and how a sign becomes an image."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont

BUILD = Path(__file__).resolve().parents[1] / "datasets/pocket_build"
SCRIPTS = ("arabic", "greek", "hebrew", "kana", "music", "thai")


@pytest.fixture(scope="module")
def glyphs() -> ModuleType:
    """Import the build script from its folder, as it runs."""
    sys.path.insert(0, str(BUILD))
    try:
        import glyph_tasks

        return glyph_tasks
    finally:
        sys.path.remove(str(BUILD))


@pytest.fixture(scope="module")
def fonts() -> list[ImageFont.FreeTypeFont]:
    path = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return [ImageFont.truetype(path, 128, layout_engine=ImageFont.Layout.BASIC)] * 30


@pytest.mark.parametrize("name", SCRIPTS)
def test_families_keep_apart(glyphs: ModuleType, name: str) -> None:
    """The stored partition is that of the seed, disjoint, and keeps a lineage in one split."""
    table = json.loads((BUILD / "partition.json").read_text(encoding="utf-8"))["glyphs"]
    parts = glyphs.divided(name)
    assert parts == {split: table[split][name] for split in ("train", "val", "test")}
    every = [family for part in parts.values() for family in part]
    assert len(every) == len(set(every))
    for group in glyphs.groups(name):
        assert sum(bool(set(group) & set(part)) for part in parts.values()) == 1, group
    assert len(parts["test"]) >= 5


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_family_comes_from_a_listed_package(glyphs: ModuleType, name: str) -> None:
    packages = json.loads((BUILD / "packages.json").read_text(encoding="utf-8"))["npm"]
    for split, families in glyphs.divided(name).items():
        for family in families:
            package = glyphs.MUSIC_FONTS[family][0] if name == "music" else f"@fontsource/{family}"
            (use,) = [part for part in packages[package]["use"].split("; ") if f"{name} " in f"{part} "]
            assert split in use, family


@pytest.mark.parametrize("name", SCRIPTS)
def test_classes_differ(glyphs: ModuleType, name: str) -> None:
    signs = glyphs.SCRIPTS[name].signs
    assert len(signs) == len(set(signs.values())) >= 22
    assert all(sign.isascii() for sign in signs)


def test_a_face_that_lacks_a_sign_is_left_out(glyphs: ModuleType, fonts: list[ImageFont.FreeTypeFont]) -> None:
    """DejaVu Sans has Greek and no katakana: every kana is drawn as the same box, and one box is found as well."""
    greek = list(glyphs.SCRIPTS["greek"].signs.values())
    drawn = glyphs.drawings(fonts[: len(greek)], greek, 0.75)
    assert len({drawing.tobytes() for drawing in drawn}) == 24
    kana = list(glyphs.SCRIPTS["kana"].signs.values())
    assert glyphs.drawings(fonts[:30], kana, 0.75) is None
    assert glyphs.drawings(fonts[:2], [greek[0], kana[0]], 0.75) is None


def test_a_small_sign_stays_small(glyphs: ModuleType, fonts: list[ImageFont.FreeTypeFont]) -> None:
    """A yod beside other letters is not blown up to the size of an alef."""
    alef, _, yod = glyphs.drawings(fonts[:3], list("\u05d0\u05d1\u05d9"), 1.0)
    heights = [int((drawing[..., 3] > 128).any(1).sum()) for drawing in (alef, yod)]
    assert heights[0] > 0.9 * 72
    assert 0.3 < heights[1] / heights[0] < 0.8
    (alone,) = glyphs.drawings(fonts[:1], ["\u05d9"], 1.0)
    assert (alone[..., 3] > 128).any(1).sum() > 0.9 * 72


def test_images_have_one_ink_and_fill_the_cell(glyphs: ModuleType, fonts: list[ImageFont.FreeTypeFont]) -> None:
    greek = list(glyphs.SCRIPTS["greek"].signs.values())
    drawn = glyphs.drawings(fonts[: len(greek)], greek, 0.75)
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    for drawing in drawn:
        image = glyphs.image(drawing, rng, strokes=True)
        np.testing.assert_array_equal(image, glyphs.image(drawing, again, strokes=True))
        assert image.dtype == np.uint8
        assert image.shape == (36, 36, 3)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) <= 8
        colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        mark = (image != colours[counts.argmax()]).any(-1)
        size = max(int(np.ptp(np.flatnonzero(mark.any(axis)))) + 1 for axis in (0, 1))
        assert 0.55 * 36 <= size <= 36


def test_strokes_become_thicker_and_thinner(glyphs: ModuleType, fonts: list[ImageFont.FreeTypeFont]) -> None:
    (drawing,) = glyphs.drawings(fonts[:1], ["\u03b1"], 0.0)
    thick, usual, thin = (glyphs.restroked(drawing, level)[..., 3].mean() for level in (0.25, 0.5, 0.7))
    assert thick > usual > thin > 0
    assert abs(usual - drawing[..., 3].mean()) < 0.05 * usual

"""From drawings to images: rasterising, fitting into a square, placing on a background, colours and light.

Drawings are RGBA uint8 arrays with alpha that is not premultiplied; images are RGB uint8 arrays of side ``SIZE``.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 36
Rng = np.random.Generator

# ---------------------------------------------------------------------------------------------------- rasterise and fit


def render_svg(svg: str, size: int) -> np.ndarray:
    """Rasterise an SVG.

    Parameters
    ----------
    svg : str
        SVG document.
    size : int
        Width of the result; drawings that are not square are centred in the square.

    Returns
    -------
    np.ndarray
        RGBA uint8 array of shape (size, size, 4), alpha not premultiplied.
    """
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    if image.size != (size, size):
        canvas = Image.new("RGBA", (max(image.size), max(image.size)), (0, 0, 0, 0))
        canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
        image = Image.fromarray(resize_rgba(np.asarray(canvas), size))
    return np.asarray(image)


def resize_rgba(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a square RGBA array with premultiplied alpha."""
    array = image.astype(np.float32) / 255
    array[..., :3] *= array[..., 3:]
    method = Image.Resampling.BOX if array.shape[0] >= size else Image.Resampling.BILINEAR
    planes = [np.asarray(Image.fromarray(array[..., i]).resize((size, size), method)) for i in range(4)]
    array = np.stack(planes, -1)
    array[..., :3] /= np.maximum(array[..., 3:], 1e-3)
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


def fit(image: Image.Image | np.ndarray, size: int, pad: float = 0.04) -> np.ndarray | None:
    """Crop a drawing to its content and scale it into a square.

    Parameters
    ----------
    image : PIL image or np.ndarray
        The drawing; anything that converts to RGBA.
    size : int
        Side of the result.
    pad : float, default=0.04
        Margin on every side, as a share of the content's longer side.

    Returns
    -------
    np.ndarray or None
        RGBA uint8 array (size, size, 4), or None for an empty drawing.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    width, height = image.size
    side = round(max(width, height) * (1 + 2 * pad))
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return resize_rgba(np.asarray(canvas), size)


def glyph(font: ImageFont.FreeTypeFont, text: str, size: int, pad: float = 0.08) -> np.ndarray | None:
    """Draw a text in black and fit it into a square.

    Parameters
    ----------
    font : ImageFont.FreeTypeFont
        A font from ``load_font``.
    text : str
        Usually one character.
    size : int
        Side of the result.
    pad : float, default=0.08
        Margin, see ``fit``.

    Returns
    -------
    np.ndarray or None
        RGBA uint8 array (size, size, 4), or None if the font draws nothing or its missing-glyph box.
    """
    mask = ink(font, text)
    if mask is None:
        return None
    for missing in ("\ue83a", "\U0010fffd"):
        box = ink(font, missing)
        if box is not None and box.size == mask.size and np.array_equal(np.asarray(box), np.asarray(mask)):
            return None
    return fit(mask, size, pad)


def ink(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    """Draw a text in black on transparent, cropped to its ink; None when there is no ink."""
    left, top, right, bottom = font.getbbox(text)
    if right <= left or bottom <= top:
        return None
    margin = int(font.size)
    image = Image.new("RGBA", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=(0, 0, 0, 255))
    box = image.getbbox()
    return image.crop(box) if box else None


# -------------------------------------------------------------------------------------------------------------- placing


def place(
    drawing: np.ndarray,
    angle: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    background: np.ndarray | tuple[int, int, int] = (255, 255, 255),
    mirror: bool = False,
    shear: float = 0.0,
) -> np.ndarray:
    """Rotate, scale, shear and shift a drawing and put it on a plain background.

    Parameters
    ----------
    drawing : np.ndarray
        RGBA uint8 (side, side, 4).
    angle : float
        Degrees.
    scale : float
        1 fills the image.
    shift : tuple of float
        Shares of the side.
    background : colour
        RGB colour.
    mirror : bool
        Flip left and right first.
    shear : float
        Slant along the rows before the rotation, columns a row.

    Returns
    -------
    np.ndarray
        RGB uint8 (SIZE, SIZE, 3).
    """
    if mirror:
        drawing = drawing[:, ::-1]
    side = drawing.shape[0]
    array = drawing.astype(np.float32) / 255
    array[..., :3] *= array[..., 3:]
    turn = math.radians(angle)
    cosine, sine = math.cos(turn) / scale, math.sin(turn) / scale
    middle, dx, dy = side / 2, shift[0] * side, shift[1] * side
    first, second = cosine - shear * sine, sine + shear * cosine
    matrix = (
        first, second, middle - first * (middle + dx) - second * (middle + dy),
        -sine, cosine, middle + sine * (middle + dx) - cosine * (middle + dy),
    )  # fmt: skip
    planes = []
    for i in range(4):
        plane = Image.fromarray(array[..., i])
        plane = plane.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        planes.append(np.asarray(plane.resize((SIZE, SIZE), Image.Resampling.BOX)))
    moved = np.stack(planes, -1)
    colour = np.asarray(background, np.float32) / 255
    return ((moved[..., :3] + colour * (1 - moved[..., 3:])).clip(0, 1) * 255).round().astype(np.uint8)


def jitter(rng: Rng, angle: float, scale: tuple[float, float], shift: float) -> dict:
    """Draw random arguments for ``place``."""
    dx, dy = rng.uniform(-shift, shift, 2)
    return {"angle": rng.uniform(-angle, angle), "scale": rng.uniform(*scale), "shift": (dx, dy)}


def pale(rng: Rng) -> np.ndarray:
    """Draw a light background colour."""
    return rng.integers(205, 256, 3)


def two_colours(rng: Rng, contrast: float = 90.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a drawing colour and a background colour that differ in brightness by more than some grey levels."""
    while True:
        front, back = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        if abs(float((front - back) @ np.array([0.3, 0.59, 0.11]))) > contrast:
            return front, back


def tint(drawing: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Give all of a drawing one colour."""
    result = drawing.copy()
    result[..., :3] = colour
    return result


def light(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Darken or brighten an image along a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    gain = rng.uniform(0.8, 1.1) + rng.uniform(0.0, 0.35) * (x * math.cos(angle) + y * math.sin(angle))
    return (image * gain[..., None]).clip(0, 255).round().astype(np.uint8)

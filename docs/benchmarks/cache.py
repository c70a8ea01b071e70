"""Measures what the cache of decoded images gains: python docs/benchmarks/cache.py [--images N]."""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.images import FileImages
from bench.data.pixel_cache import PixelCache
from bench.data.pixels import Pixels
from bench.model.pretrained import load_open_clip


def photographs(folder: Path, count: int) -> FileImages:
    """JPEG files of 500 x 375 pixels with the detail of photographs: smooth shapes and some noise."""
    names = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse).astype(int) + rng.normal(0, 12, (375, 500, 3))
        names.append(f"{number:05d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=90)
    return FileImages(folder, names, [0] * count)


def seconds(pixels: Pixels) -> float:
    """One pass over all images, to normalised batches."""
    start = time.perf_counter()
    for _ in pixels.batches(64):
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    count = parser.parse_args().images
    clip = load_open_clip("ViT-B-16", weights="random")
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder), count)
        files = sum((images.root / name).stat().st_size for name in images.names) / count

        def cached() -> Pixels:
            return Pixels(images, clip, False, PixelCache(Path(folder) / "cache", 10**12, lambda line: None))

        plain = seconds(Pixels(images, clip, False))
        first = seconds(cached())
        again = cached()  # opens the entry and checks it
        second, third = seconds(again), seconds(again)
    print(f"{count} JPEG files of 500 x 375 pixels, {files / 1e3:.0f} kB each, to 224 x 224, batches of 64\n")
    print("| pass | images a second | ratio |\n|---|---|---|")
    for name, took in (
        ("decoded again", plain),
        ("decoded and stored", first),
        ("from the cache, first pass of a run (with its checksum)", second),
        ("from the cache, further passes", third),
    ):
        print(f"| {name} | {count / took:.0f} | {plain / took:.1f} |")


if __name__ == "__main__":
    main()

"""Random changes of training images: torchvision's numbers, drawn for each image by itself, from cached originals."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from bench.compute.seeding import generator
from bench.config.run_settings import Train, run_settings
from bench.data.augment import PRESETS, changed, random_box, reduced_size
from bench.data.images import ArrayImages, FileImages, Subset
from bench.data.pixel_cache import PixelCache
from bench.data.pixels import Pixels, PixelStore
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip, toy_task

SIZE = (36, 36)
SHAPES = [(36, 36), (50, 40), (40, 90), (300, 30), (30, 300), (7, 5)]


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# ---- the presets


def test_the_choices_are_the_presets() -> None:
    assert run_settings()["train.augment"].choices == ("none", *PRESETS)


THEIRS: dict[str, Callable[[], v2.Compose]] = {
    "crop": lambda: v2.Compose([v2.RandomResizedCrop(36, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC)]),
    "clip": lambda: v2.Compose([v2.Resize(36, interpolation=InterpolationMode.BICUBIC), v2.RandomCrop(36)]),
    "inflora": lambda: v2.Compose([v2.RandomResizedCrop(36), v2.RandomHorizontalFlip()]),
    "pilot": lambda: v2.Compose(
        [v2.RandomResizedCrop(36, scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3)), v2.RandomHorizontalFlip(0.5)]
    ),
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_preset_gives_what_torchvision_gives(name: str, shape: tuple[int, int]) -> None:
    """Its transforms draw from the global generator: with one of the same state they give the same pixels."""
    image = photo(*shape)
    for seed in range(10):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = np.asarray(THEIRS[name]()(image)).transpose(2, 0, 1)
        found = changed(image, PRESETS[name], SIZE, torch.Generator().manual_seed(seed))
        assert np.array_equal(found, expected)


def test_crop_is_the_training_transform_of_open_clip() -> None:
    theirs = image_transform_v2(PreprocessCfg(size=36), is_train=True).transforms[0]
    assert (theirs.scale, theirs.ratio) == (PRESETS["crop"].area, (3 / 4, 4 / 3))
    assert theirs.interpolation == InterpolationMode.BICUBIC and not PRESETS["crop"].bilinear


def test_boxes_have_the_areas_and_shapes_of_the_definition() -> None:
    """Uniform in area and in the logarithm of the shape; up to half of the image every box fits."""
    boxes = [random_box(400, 500, (0.05, 0.5), torch.Generator().manual_seed(seed)) for seed in range(500)]
    areas = np.array([h * w / 200_000 for _, _, h, w in boxes])
    shapes = np.array([w / h for _, _, h, w in boxes])
    assert all(0 <= top <= 400 - h and 0 <= left <= 500 - w for top, left, h, w in boxes)
    assert 0.049 < areas.min() < 0.06 and 0.48 < areas.max() < 0.51 and abs(np.median(areas) - 0.275) < 0.03
    assert 0.74 < shapes.min() < 0.78 and 1.28 < shapes.max() < 1.35 and abs(np.log(shapes).mean()) < 0.03


@pytest.mark.parametrize("name", ["crop", "clip"])
def test_no_box_of_a_reduced_image_is_enlarged(name: str) -> None:
    side = PRESETS[name].side((224, 224))
    height, width = reduced_size(1000, 1000, side)
    assert height == width == side < 300
    smallest = side * (0.9 * 3 / 4) ** 0.5 if name == "crop" else side
    assert smallest >= 223.5


def test_images_are_reduced_along_their_shorter_side_and_never_enlarged() -> None:
    assert reduced_size(100, 80, 448) == (100, 80)
    assert reduced_size(1000, 2000, 448) == (448, 896)
    assert reduced_size(3001, 1000, 100) == (300, 100)
    assert PRESETS["inflora"].side((224, 224)) == 448


# ---- the images of a task


def task(images: ArrayImages | FileImages | Subset, augment: str, cache: PixelCache | None = None) -> TaskData:
    clip, toy = tiny_clip(), toy_task(0)
    pixels = PixelStore(clip, 0, cache).get(images)
    context = Context(tasks=1, batch_size=4, init_seed=0, data_seed=3)
    data = TaskData(2, "toy", toy.prompts, clip.tokenize(toy.prompts), pixels, context)
    data.budget = Train(augment=augment)
    return data


def seen(data: TaskData, purpose: str = "train", epoch: int = 0, **options: int | bool) -> dict[int, torch.Tensor]:
    """The pixels of each image of a pass, by its label, which is its index."""
    batches = data.batches(purpose, epoch, bar=False, **options)  # type: ignore[arg-type]
    return {int(label): x for pixels, labels in batches for x, label in zip(pixels, labels, strict=True)}


@pytest.fixture
def photos(tmp_path: Path) -> FileImages:
    """Seven photos of different shapes, the last one large."""
    for index, shape in enumerate([*SHAPES, (400, 500)]):
        photo(*shape, index).save(tmp_path / f"{index}.png")
    return FileImages(tmp_path, [f"{index}.png" for index in range(7)], range(7))


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[index], other[index]) for index in one)


@pytest.mark.parametrize("name", PRESETS)
def test_an_image_depends_on_seed_purpose_task_epoch_and_itself_alone(name: str, photos: FileImages) -> None:
    first = seen(task(photos, name))
    assert same(first, seen(task(photos, name), batch_size=2))
    rest = seen(task(photos, name), skip=1)
    assert len(rest) == 3 and all(torch.equal(first[index], rest[index]) for index in rest)
    others = [seen(task(photos, name), epoch=1), seen(task(photos, name), "other", augment=True)]
    moved = task(photos, name)
    moved.index = 3
    assert all(not same(first, other) for other in [*others, seen(moved)])


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "flip"])
def test_a_pass_gives_what_the_definition_gives(name: str, photos: FileImages) -> None:
    data = task(photos, name)
    side = PRESETS[name].side(SIZE)
    for index, pixels in seen(data, epoch=5).items():
        image = photos.image(index)
        height, width = reduced_size(image.height, image.width, side)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        expected = changed(image, PRESETS[name], SIZE, generator(3, f"train {index}", 2, 5))
        assert torch.equal(pixels, data.train.clip.normalize(torch.from_numpy(expected.copy())[None])[0])


def test_flip_mirrors_half_of_the_images_that_a_test_sees() -> None:
    images = ArrayImages(np.stack([np.asarray(photo(36, 36, index)) for index in range(40)]), range(40))
    plain, found = seen(task(images, "none")), seen(task(images, "flip"))
    mirrored = [index for index in plain if torch.equal(found[index], plain[index].flip(-1))]
    assert all(torch.equal(found[index], plain[index]) for index in plain if index not in mirrored)
    assert 10 < len(mirrored) < 30


@pytest.mark.parametrize("name", PRESETS)
def test_statistics_see_images_as_a_test_does_unless_asked(name: str, photos: FileImages) -> None:
    data, plain = task(photos, name), task(photos, "none")
    for purpose in ("statistics", "gradient"):
        assert same(seen(data, purpose), seen(plain, purpose))
        assert not same(seen(data, purpose, augment=True), seen(plain, purpose, augment=True))
    assert same(seen(data, augment=False), seen(plain))


# ---- the cache


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    return PixelCache(tmp_path / "cache", 10**8, print)


@pytest.mark.parametrize("name", ["crop", "inflora"])
def test_originals_are_decoded_once_and_change_no_bit(
    name: str, photos: FileImages, cache: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = [seen(task(photos, name), epoch=epoch) for epoch in range(2)]
    assert same(seen(task(photos, name, cache)), fresh[0])
    monkeypatch.setattr(FileImages, "image", None)  # from now on nothing can be decoded
    again = PixelCache(cache.folder, cache.limit, cache.say)
    assert same(seen(task(photos, name, again), epoch=1), fresh[1])


def test_selections_share_the_originals_of_their_set(photos: FileImages, cache: PixelCache) -> None:
    for indices in ([0, 6], [5, 1, 4]):
        part = Subset(photos, indices, labels=range(len(indices)), whole=True)
        assert same(seen(task(part, "crop", cache)), seen(task(Subset(photos, indices, range(len(indices))), "crop")))
    stored = sorted(path.stat().st_size for path in cache.folder.glob("*.pixels"))
    side = PRESETS["crop"].side(SIZE)
    sizes = [reduced_size(*shape, side) for shape in [*SHAPES, (400, 500)]]
    assert stored == [7 * 8, sum(3 * height * width for height, width in sizes)]


def test_a_cache_without_room_is_no_hindrance(photos: FileImages, tmp_path: Path) -> None:
    said: list[str] = []
    small = PixelCache(tmp_path / "small", 100, said.append)
    assert same(seen(task(photos, "crop", small)), seen(task(photos, "crop"))) and "no room" in said[0]


def test_grey_images_and_images_in_a_file_that_says_another_size(tmp_path: Path, cache: PixelCache) -> None:
    """The room in the cache is what the header says; whatever is decoded is made to fit."""

    class Changing(FileImages):
        def image(self, index: int) -> Image.Image:
            return photo(20, 30).convert("L")

    photo(40, 50).save(tmp_path / "0.png")
    images = Changing(tmp_path, ["0.png"], [0])
    (pixels,) = seen(task(images, "crop", cache)).values()
    assert pixels.shape == (3, *SIZE) and torch.isfinite(pixels).all()


def test_an_original_that_cannot_be_decoded_is_named(tmp_path: Path, cache: PixelCache) -> None:
    buffer = io.BytesIO()
    photo(40, 50).save(buffer, "PNG")
    (tmp_path / "0.png").write_bytes(buffer.getvalue()[:-400])
    images = FileImages(tmp_path, ["0.png"], [0])
    for kept in (cache, None):
        with pytest.raises(Exception, match="0.png cannot be decoded"):
            seen(task(images, "crop", kept))


@pytest.mark.parametrize("name", ["none", *PRESETS])
def test_a_batch_may_be_empty(name: str, photos: FileImages) -> None:
    """As where processes share one that has fewer images than there are processes."""
    pixels = task(photos, name).train
    read = None if name == "none" else pixels.augmented(name, partial(generator, 0, "x"))
    sizes = [len(batch) for batch, _ in pixels.take([torch.arange(2), torch.arange(0)], read)]
    assert sizes == [2, 0]


def test_pixels_of_an_array_need_no_cache(cache: PixelCache) -> None:
    images = ArrayImages(np.stack([np.asarray(photo(36, 36))] * 2), range(2))
    read = Pixels(images, tiny_clip(), True, cache).augmented("crop", partial(generator, 0, "x"))
    assert read(torch.arange(2)).shape == (2, 3, *SIZE) and not cache.folder.exists()

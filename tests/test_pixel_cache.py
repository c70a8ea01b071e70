"""Decoded images on disk: the same bits as decoding, decoded once, never trusted when damaged, bounded."""

import errno
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_trees
import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import disk_cache
from bench.data.dataset import load_dataset
from bench.data.images import FileImages, Subset
from bench.data.pixel_cache import PixelCache
from bench.data.pixels import Pixels, PixelStore
from bench.trials.toy import tiny_clip, toy_task

SHAPE = (4, 3, 2, 2)
DATA = np.arange(48, dtype=np.uint8).reshape(SHAPE)


class Decoder:
    """Counts how often a set is decoded."""

    def __init__(self, data: np.ndarray = DATA):
        self.data = data
        self.calls = 0

    def __call__(self) -> Iterator[np.ndarray]:
        self.calls += 1
        yield from np.array_split(self.data, 2)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> PixelCache:
    return PixelCache(tmp_path / "cache", 10**6, said.append)


def images(folder: Path) -> FileImages:
    fake_trees.plants(folder)
    found = load_dataset("plants", folder).open(folder).train
    assert isinstance(found, FileImages)
    return found


def test_bits_are_those_of_decoding(tmp_path: Path, cache: PixelCache) -> None:
    found, clip = images(tmp_path), tiny_clip()
    fresh = Pixels(found, clip, keep=False)
    for _ in range(2):
        cached = Pixels(found, clip, keep=False, cache=cache)
        for (a, x), (b, y) in zip(fresh.batches(3), cached.batches(3), strict=True):
            assert torch.equal(a, b) and torch.equal(x, y)
        order = torch.tensor([5, 0, 5])
        assert torch.equal(fresh.uint8(order), cached.uint8(order))


def test_a_set_is_decoded_once_for_all_runs(tmp_path: Path, cache: PixelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    found, clip = images(tmp_path), tiny_clip()
    list(Pixels(found, clip, False, cache).batches(3))
    monkeypatch.setattr(FileImages, "image", None)
    again = PixelCache(cache.folder, cache.limit, cache.say)
    assert sum(len(labels) for _, labels in PixelStore(clip, 0, again).get(found).batches(3)) == 8


def test_another_transform_or_set_is_another_entry(tmp_path: Path, cache: PixelCache) -> None:
    found, clip = images(tmp_path), tiny_clip()
    other = tiny_clip()
    other.transform_id += " "
    for images_, model in ((found, clip), (found, other), (Subset(found, [1, 0]), clip)):
        list(Pixels(images_, model, False, cache).batches(3))
    assert len(list(cache.folder.glob("*.pixels"))) == 3


def test_images_in_memory_need_no_cache(cache: PixelCache) -> None:
    list(Pixels(toy_task(0).train, tiny_clip(), True, cache).batches(16))
    assert not cache.folder.exists()


def test_selections_of_one_set_share_an_entry(tmp_path: Path, cache: PixelCache) -> None:
    found, clip = images(tmp_path), tiny_clip()
    store = PixelStore(clip, 10**9, cache)
    for indices in ([0, 2], [5, 1, 4]):
        part = Subset(found, indices, labels=range(len(indices)), whole=True)
        pixels = store.get(part)
        ((batch, labels),) = pixels.batches(8)
        ((expected, _),) = Pixels(part, clip, False).batches(8)
        assert torch.equal(batch, expected) and labels.tolist() == list(range(len(indices)))
        assert pixels.nbytes == 0
    assert len(list(cache.folder.glob("*.pixels"))) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] ^= 16
    path.write_bytes(content)


DAMAGE = {
    "bit": lambda pixels, seal: flip(pixels),
    "short": lambda pixels, seal: pixels.write_bytes(pixels.read_bytes()[:-1]),
    "long": lambda pixels, seal: pixels.write_bytes(pixels.read_bytes() + b"x"),
    "empty": lambda pixels, seal: pixels.write_bytes(b""),
    "gone": lambda pixels, seal: pixels.unlink(),
    "no seal": lambda pixels, seal: seal.unlink(),
    "torn seal": lambda pixels, seal: seal.write_text(seal.read_text()[:-9]),
    "other shape": lambda pixels, seal: seal.write_text(json.dumps({**json.loads(seal.read_text()), "shape": [48]})),
    "other version": lambda pixels, seal: seal.write_text(json.dumps({**json.loads(seal.read_text()), "version": 0})),
    "no object": lambda pixels, seal: seal.write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_made_again(damage: str, cache: PixelCache, said: list[str]) -> None:
    first = cache.get("k", SHAPE, Decoder())
    assert first is not None and np.array_equal(first, DATA)
    DAMAGE[damage](cache.folder / "k.pixels", cache.folder / "k.json")
    decoder = Decoder()
    again = PixelCache(cache.folder, cache.limit, said.append).get("k", SHAPE, decoder)
    assert again is not None and np.array_equal(again, DATA) and decoder.calls == 1 and said == []
    assert sorted(path.name for path in cache.folder.iterdir()) == ["k.json", "k.lock", "k.pixels", "room.lock"]


def test_what_a_caller_writes_stays_its_own(cache: PixelCache) -> None:
    first = cache.get("k", SHAPE, Decoder())
    assert first is not None
    first[:] = 0
    second = cache.get("k", SHAPE, Decoder())
    assert second is not None and np.array_equal(second, DATA)


def test_an_interrupted_decoding_leaves_nothing(cache: PixelCache) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield DATA[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("k", SHAPE, interrupted)
    assert {path.suffix for path in cache.folder.iterdir()} == {".lock"}
    with pytest.raises(ValueError, match="24 bytes were written"):
        cache.get("k", SHAPE, lambda: iter([DATA[:2]]))
    assert cache.get("k", SHAPE, Decoder()) is not None


def test_the_longest_unused_make_room(cache: PixelCache, said: list[str]) -> None:
    cache.limit = 100  # two entries of 48 bytes
    for number, key in enumerate(("a", "b")):
        cache.get(key, SHAPE, Decoder())
        old = time.time() - PixelCache.IN_USE * (3 - number)
        os.utime(cache.folder / f"{key}.json", (old, old))
    assert cache.get("c", SHAPE, Decoder()) is not None
    assert sorted(path.stem for path in cache.folder.glob("*.pixels")) == ["b", "c"]
    # b is used now and c was just made: neither may go.
    assert cache.get("b", SHAPE, Decoder()) is not None
    assert cache.get("d", SHAPE, Decoder()) is None
    assert "no room for 4 decoded images" in said[-1] and "cache.gb" in said[-1]
    said.clear()
    assert cache.get("e", (400, 3, 2, 2), Decoder()) is None and "no room for 400" in said[0]
    assert sorted(path.stem for path in cache.folder.glob("*.pixels")) == ["b", "c"]


def test_nothing_is_removed_where_that_would_not_make_enough_room(cache: PixelCache, said: list[str]) -> None:
    """An old entry and a new one: without the old one there is still no room for a third of two entries' size."""
    cache.limit = 100
    for key in ("old", "new"):
        cache.get(key, SHAPE, Decoder())
    os.utime(cache.folder / "old.json", (1e9, 1e9))
    assert cache.get("both", (8, 3, 2, 2), Decoder(np.concatenate([DATA, DATA]))) is None and "no room" in said[0]
    assert sorted(path.stem for path in cache.folder.glob("*.pixels")) == ["new", "old"]


def test_a_damaged_entry_gives_its_own_room(cache: PixelCache) -> None:
    cache.limit = 60  # one entry of 48 bytes
    cache.get("k", SHAPE, Decoder())
    flip(cache.folder / "k.pixels")
    again = PixelCache(cache.folder, 60, cache.say)
    assert again.get("k", SHAPE, Decoder()) is not None


def test_what_others_are_writing_takes_room(cache: PixelCache, said: list[str]) -> None:
    cache.limit = 100
    cache.folder.mkdir()
    (cache.folder / "other.part").write_bytes(b"x" * 60)
    assert cache.get("k", SHAPE, Decoder()) is None and "no room" in said[0]


def test_other_folders_and_other_times_are_other_entries(tmp_path: Path, cache: PixelCache) -> None:
    """Uncompressed files of one name and size in two datasets, and one that is changed in place."""
    clip, grey = tiny_clip(), {"a": 10, "b": 200}
    sets = {}
    for name, level in grey.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", (36, 36), (level,) * 3).save(tmp_path / name / "0.bmp")
        sets[name] = FileImages(tmp_path / name, ["0.bmp"], [0])
        assert int(Pixels(sets[name], clip, False, cache).uint8(torch.tensor([0])).max()) == level
    assert sets["a"].digest == sets["b"].digest  # records do not depend on the folder
    Image.new("RGB", (36, 36), (77,) * 3).save(tmp_path / "a" / "0.bmp")
    changed = FileImages(tmp_path / "a", ["0.bmp"], [0])
    assert int(Pixels(changed, clip, False, cache).uint8(torch.tensor([0])).max()) == 77


def test_half_written_files_of_dead_runs_are_removed(cache: PixelCache) -> None:
    cache.folder.mkdir()
    for name, age in (("old", 2 * disk_cache.DAY), ("new", 0)):
        path = cache.folder / f"{name}.part"
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    cache.get("k", SHAPE, Decoder())
    assert [path.name for path in cache.folder.glob("*.part")] == ["new.part"]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_stops_the_cache_and_not_the_run(
    call: str, tmp_path: Path, cache: PixelCache, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    found, clip = images(tmp_path), tiny_clip()
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        opened = Path.open
        monkeypatch.setattr(Path, "open", lambda self, mode="r", **more: (full if "x" in mode else opened)(self, mode))
    assert sum(len(labels) for _, labels in Pixels(found, clip, False, cache).batches(3)) == 8
    assert len(said) == 1 and "No space left on device" in said[0] and "cache.dir" in said[0] and cache.trouble
    assert list(cache.folder.glob("*.part")) == []
    assert cache.get("k", SHAPE, Decoder()) is None and len(said) == 1


def test_a_disk_without_room_is_left_alone(cache: PixelCache, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "SPARE", 2**60)
    assert cache.get("k", SHAPE, Decoder()) is None and "no room" in said[0]


def build(folder: Path, calls: Any, answers: Any) -> None:
    def decode() -> Iterator[np.ndarray]:
        with calls.get_lock():
            calls.value += 1
        time.sleep(0.3)
        yield DATA

    found = PixelCache(folder, 10**6, lambda line: None).get("k", SHAPE, decode)
    answers.put(found is not None and bool(np.array_equal(found, DATA)))


def test_runs_at_once_decode_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    calls, answers = context.Value("i", 0), context.Queue()
    runs = [context.Process(target=build, args=(tmp_path, calls, answers)) for _ in range(4)]
    for run in runs:
        run.start()
    assert [answers.get(timeout=60) for _ in runs] == [True] * 4
    for run in runs:
        run.join(timeout=60)
    assert calls.value == 1


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), PermissionError(13, "Permission denied")])
def test_a_file_system_without_locks_is_no_hindrance(
    error: Exception, cache: PixelCache, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(disk_cache.FileLock, "acquire", refuse)
    decoder = Decoder()
    for _ in range(2):
        found = cache.get("k", SHAPE, decoder)
        assert found is not None and np.array_equal(found, DATA)
    assert decoder.calls == 1 and said == []


def test_waiting_for_another_run_is_reported(
    cache: PixelCache, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(disk_cache, "WAIT", 0.05)
    cache.folder.mkdir()
    lock = FileLock(cache.folder / "k.lock")
    lock.acquire()
    monkeypatch.setattr(cache, "say", lambda line: (said.append(line), lock.release()))
    assert cache.get("k", SHAPE, Decoder()) is not None
    assert said == ["another process decodes the same 4 images: waiting for it"]


def test_who_waits_learns_for_whom_and_can_be_stopped(
    cache: PixelCache, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "WAIT", 0.05)
    cache.folder.mkdir()
    asked = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    waiting = PixelCache(cache.folder, cache.limit, cache.say, stop)
    with cache.locked("k"), pytest.raises(KeyboardInterrupt):
        waiting.get("k", SHAPE, Decoder())
    assert said == [f"process {os.getpid()} on {socket.gethostname()} decodes the same 4 images: waiting for it"]
    assert waiting.get("k", SHAPE, Decoder()) is not None  # the lock is free again


def test_waiting_has_an_end(cache: PixelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "WAIT", 0.02)
    monkeypatch.setattr(disk_cache, "PATIENCE", 0.1)
    cache.folder.mkdir()
    with cache.locked("k"):
        assert PixelCache(cache.folder, cache.limit, cache.say).get("k", SHAPE, Decoder()) is not None


def test_an_entry_belongs_to_its_key(cache: PixelCache) -> None:
    other = DATA[::-1].copy()
    for key, data in (("k", DATA), ("l", other)):
        cache.get(key, SHAPE, lambda data=data: [data])
    for ending in (".pixels", ".json"):
        first, second = (cache.folder / f"{key}{ending}" for key in "kl")
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    found = PixelCache(cache.folder, cache.limit, cache.say).get("k", SHAPE, lambda: [DATA])
    assert found is not None and np.array_equal(found, DATA)


def test_grey_and_palette_files_are_kept_as_rgb(tmp_path: Path, cache: PixelCache) -> None:
    for name, mode in (("0.png", "L"), ("1.png", "P"), ("2.png", "RGBA")):
        Image.fromarray(fake_trees.picture(1, 1)).convert(mode).save(tmp_path / name)
    found = FileImages(tmp_path, ["0.png", "1.png", "2.png"], [0, 0, 0])
    clip = tiny_clip()
    pixels = Pixels(found, clip, False, cache).uint8(torch.arange(3)).numpy()
    for index, image in enumerate(pixels):
        with Image.open(tmp_path / f"{index}.png") as file:
            assert np.array_equal(image, clip.to_uint8(file.convert("RGB")))
    assert np.array_equal(pixels[0][0], pixels[0][2]) and not np.array_equal(pixels[2][0], pixels[2][2])


def test_a_store_drops_what_is_released_and_selections_of_it() -> None:
    clip, images_ = tiny_clip(), toy_task(0).train
    store = PixelStore(clip, 10**9)
    parts = [Subset(images_, [0, 1], whole=True), Subset(images_, [2], whole=True)]
    first = store.get(parts[0])
    assert store.get(parts[1]).base is first.base and len(store._sets) == 3
    store.release(parts[0])
    assert store.get(parts[1]).base is first.base and len(store._sets) == 2
    store.release(images_)
    assert len(store._sets) == 0
    store.release(images_)


def test_packed_files_are_released_once_their_set_is_stored(tmp_path: Path, cache: PixelCache) -> None:
    from bench.data import images as module

    fake_trees.mnist(tmp_path)
    splits = load_dataset("mnist").open(tmp_path)
    splits.train.image(0)
    assert module._unpacked.cache_info().currsize > 0
    Pixels(splits.train, tiny_clip(), False, cache).uint8(torch.tensor([0]))
    assert module._unpacked.cache_info().currsize == 0

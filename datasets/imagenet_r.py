"""ImageNet-R: renditions of 200 ImageNet classes, split by the lists that class-incremental papers share."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from bench.api import Counts, Dataset, FileImages, Splits, UserError, register

from .reading import class_folders, images_by_class, text, text_lines

LISTS = {"train": "281d27383e01d442c1d88366c7c43601", "test": "09f7d3ee36ac72c4ac5d2bf138d081cb"}
"""MD5 of the sorted paths CLASS/FILE of the published split, one on each line: 24,000 and 6,000 images."""

ENDINGS = (".yaml", ".yml", ".txt")


@register("dataset", "imagenet-r", title="Renditions of 200 ImageNet classes", paper="ImageNet-R, arXiv 2006.16241")
class ImageNetR(Dataset):
    """The shared split of 24,000 training and 6,000 test images; classes in the order of their WordNet ids.

    Either the class folders are in ``train/`` and ``test/``, or the split lists are beside them, as published with
    CODA-Prompt and InfLoRA: ``imagenet-r_train.yaml`` and ``imagenet-r_test.yaml`` (or ``train.txt`` and ``test.txt``
    with one path on each line). There is no third way, since another random split is another benchmark.
    """

    folders = ("imagenet-r",)
    expected = Counts(24000, 6000, 200)
    size = "2.2 GB"
    licence = "MIT (the images: mixed)"
    obtain = "imagenet-r.tar of the authors (Hendrycks); the lists from CODA-Prompt, dataloaders/splits"

    def read(self, folder: Path) -> Splits:
        """Read the class folders, or the split lists beside them."""
        if all((folder / split).is_dir() for split in LISTS):
            classes = class_folders(folder / "train")
            if class_folders(folder / "test") != classes:
                raise UserError(f"{folder / 'train'} and {folder / 'test'} hold other classes: unpack them again")
            parts = {split: images_by_class(folder / split, classes) for split in LISTS}
        else:
            named = {split: self._listed(folder, split) for split in LISTS}
            classes = sorted({name.partition("/")[0] for name in named["train"]})
            position = {name: label for label, name in enumerate(classes)}
            parts = {}
            for split, names in named.items():
                odd = next((name for name in names if name.partition("/")[0] not in position), None)
                if odd is not None:
                    raise UserError(f"the {split} list in {folder} names {odd}, a class without training images")
                parts[split] = FileImages(folder, names, [position[name.partition("/")[0]] for name in names])
        known = synset_names()
        unknown = next((name for name in classes if name not in known), None)
        if unknown is not None:
            raise UserError(f"the class folder {unknown} in {folder} is no WordNet id of ImageNet: move it away")
        return Splits(tuple(known[name] for name in classes), parts["train"], parts["test"])

    def manifest_problem(self, splits: Splits) -> str:
        """Compare the images of both parts with the published lists."""
        for split, images in (("train", splits.train), ("test", splits.test)):
            assert isinstance(images, FileImages)
            if paths_md5(images.names) != LISTS[split]:
                return f"another choice of {split} images than in the published lists"
        return ""

    @staticmethod
    def _listed(folder: Path, split: str) -> list[str]:
        """Return CLASS/FILE of every image of a part, in the order of its list."""
        names = [f"{stem}{split}{ending}" for stem in ("imagenet-r_", "") for ending in ENDINGS]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise UserError(
                f"{folder} has neither train/ and test/ nor the split list {names[0]}: put the lists of CODA-Prompt "
                "there"
            )
        if path.suffix == ".txt":
            entries: Sequence[object] = [line.split()[0] for line in text_lines(path)]
        else:
            import yaml

            written = text(path)
            try:
                content = yaml.load(written, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
                entries = list(content["data"])
            except (ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
                raise UserError(f"the split list {path} cannot be read: it needs the key data with paths") from error
        listed = ["/".join(PurePosixPath(str(entry)).parts[-2:]) for entry in entries]
        if not listed:
            raise UserError(f"the split list {path} is empty: put the list of CODA-Prompt there")
        return listed


def paths_md5(names: Sequence[str]) -> str:
    """Return the MD5 of sorted paths, one on each line."""
    return hashlib.md5("\n".join(sorted(names)).encode(), usedforsecurity=False).hexdigest()


@cache
def synset_names() -> dict[str, str]:
    """Return the names of all 1,000 ImageNet classes by WordNet id: ids from timm's list, names from open_clip's."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "data" / "_info" / "imagenet_synsets.txt"
    return dict(zip(text_lines(path), IMAGENET_CLASSNAMES, strict=True))

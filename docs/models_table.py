"""Make the tables of docs/models.md: open_clip's architectures, which of them run, and how the usual tags read images.

python docs/models_table.py

The facts are those of open_clip's configuration files; no model is built. tests/test_backbones.py builds them.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg

from bench.config import catalogue

PAGE = Path(__file__).parent / "models.md"
MARKS = ("<!-- {}, made by docs/models_table.py -->", "<!-- end of {} -->")
"""What stands between them on the page is written by this script."""

QUICK = "-quickgelu"
"""How open_clip names the second form of an architecture, with QuickGELU."""

USUAL_BACKBONES = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
"""Architectures whose tags the page lists."""

FAMILIES = {
    "SigLIP, SigLIP 2": r"ViT-.*SigLIP",
    "EVA-CLIP": r"EVA0\d",
    "MobileCLIP": r"MobileCLIP",
    "Perception Encoder": r"PE-",
    "ViTamin": r"ViTamin",
    "ConvNeXt": r"convnext",
    "other towers of timm": r"swin|vit_",
    "ResNet": r"RN\d",
    "CoCa": r"coca",
    "NLLB-CLIP": r"nllb",
    "RoBERTa, XLM-RoBERTa, mT5": r"roberta|xlm|mt5",
}
"""Families of architectures by how their names begin."""

MOMENTS = {
    open_clip.OPENAI_DATASET_MEAN: "OpenAI's",
    (0.5, 0.5, 0.5): "0.5",
    (0.485, 0.456, 0.406): "ImageNet's",
}
"""Usual means of the colours by what people call them; each has its deviations."""

Config = Mapping[str, Any]


def parameters(config: Config) -> int:
    """Return the number of parameters of an architecture with open_clip's own towers."""
    vision, text, embedding = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    width, patch = vision["width"], vision["patch_size"]
    image = 3 * patch**2 * width + width + tokens(config) * width + _blocks(vision) + 2 * width + width * embedding
    image += 0 if vision.get("no_ln_pre") else 2 * width
    words = (text["vocab_size"] + text["context_length"]) * text["width"] + _blocks(text)
    return image + words + 2 * text["width"] + text["width"] * embedding + 1  # the last one is the scale of logits


def tokens(config: Config) -> int:
    """Return the number of tokens of an image: one for each patch, and one for the whole image."""
    vision = config["vision_cfg"]
    return (vision["image_size"] // vision["patch_size"]) ** 2 + 1


def _blocks(tower: Config) -> int:
    """Return the number of parameters of the blocks of a tower."""
    width = tower["width"]
    hidden = int(width * tower.get("mlp_ratio", 4.0))
    attention, mlp, norms = 4 * (width**2 + width), 2 * width * hidden + hidden + width, 4 * width
    scales = 0 if tower.get("ls_init_value") is None else 2 * width
    return tower["layers"] * (attention + mlp + norms + scales)


def special(config: Config) -> str:
    """Return what distinguishes an architecture from OpenAI's, in words."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    said = {
        "layer scale": vision.get("ls_init_value") is not None,
        "image: mean over patches": vision.get("pool_type") == "avg",
        "text: every token sees every other": bool(text.get("no_causal_mask")),
        "text: read at the last position": text.get("pool_type") == "last",
        "text: read at its own end token": text.get("pool_type") == "eos",
    }
    return "; ".join(words for words, holds in said.items() if holds)


def native() -> list[str]:
    """Return the table of architectures with open_clip's own towers; both forms of an activation share a row."""
    head = "architecture|image tower|text tower|pixels|image tokens|text tokens|parameters|what is special|runs"
    rows = []
    known = catalogue.architectures()
    for name, one in known.items():
        if catalogue.foreign_tower(one.config) or (name.endswith(QUICK) and name.removesuffix(QUICK) in known):
            continue
        vision, text = one.config["vision_cfg"], one.config["text_cfg"]
        names = [name, name + QUICK] if name + QUICK in known else [name]
        package = bool(text.get("hf_tokenizer_name"))
        cells = (
            ", ".join(f"`{form}`" for form in names),
            f"{vision['layers']} x {vision['width']}",
            f"{text['layers']} x {text['width']}",
            f"{vision['image_size']}",
            f"{tokens(one.config)}",
            f"{text['context_length']}",
            f"{parameters(one.config) / 1e6:.1f} M",
            special(one.config),
            "yes, with the package transformers for its tokenizer" if package else "yes",
        )
        rows.append(cells)
    return _table(head, rows)


def foreign() -> list[str]:
    """Return the table of architectures that are refused, one row a family and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, one in catalogue.architectures().items():
        if reason := catalogue.foreign_tower(one.config):
            family = next((family for family, begin in FAMILIES.items() if re.match(begin, name)), name)
            groups.setdefault((family, reason), []).append(f"`{name}`")
    order = [*FAMILIES]
    rows = [
        (family, str(len(names)), f"refused: {reason}", ", ".join(names))
        for (family, reason), names in sorted(groups.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))
    ]
    return _table("family|number|what happens|architectures", rows)


def tags() -> list[str]:
    """Return the table of the tags of usual backbones: activation, and how images are read."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in USUAL_BACKBONES:
        for tag in open_clip.list_pretrained_tags_by_model(name):
            config = {**vars(PreprocessCfg()), **open_clip.get_pretrained_cfg(name, tag)}
            way = (
                name,
                "QuickGELU" if config.get("quick_gelu") else "GELU",
                MOMENTS[config["mean"]],
                config["interpolation"],
                config["resize_mode"],
            )
            rows.setdefault(way, []).append(f"`{tag}`")
    head = "`model=ARCHITECTURE/TAG`|tags|activation|mean and deviation|interpolation|resizing"
    return _table(head, [(f"`{way[0]}/...`", ", ".join(names), *way[1:]) for way, names in rows.items()])


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> list[str]:
    titles = head.split("|")
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def version() -> list[str]:
    """Return the line that says which release of open_clip the tables are about."""
    known = catalogue.architectures().values()
    ours = [one for one in known if not catalogue.foreign_tower(one.config)]
    return [
        f"open_clip {importlib.metadata.version('open_clip_torch')} lists {len(known)} architectures. {len(ours)} have "
        f"its own towers, and all of these run. The other {len(known) - len(ours)} are refused."
    ]


PARTS = {"numbers": version, "architectures": native, "refused architectures": foreign, "tags": tags}
"""The parts of the page that this script writes."""


def page(text: str) -> str:
    """Return the page with its parts written again."""
    for name, lines in PARTS.items():
        begin, end = (mark.format(name) for mark in MARKS)
        before, rest = text.split(f"{begin}\n")
        text = f"{before}{begin}\n" + "\n".join(lines()) + f"\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

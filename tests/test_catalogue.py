"""open_clip's models, read without importing open_clip."""

from __future__ import annotations

import importlib.util
import re
import shlex

import pytest

from bench.config import catalogue, registry
from bench.config.resolve import resolve
from bench.core.errors import UserError


def test_tags_agree_with_open_clip_itself():
    import open_clip

    for name, found in catalogue.architectures().items():
        assert found.tags is not None
        assert sorted(found.tags) == sorted(open_clip.list_pretrained_tags_by_model(name)), name
    assert set(catalogue.architectures()) == set(open_clip.list_models())


def test_only_native_towers_are_supported():
    usable = catalogue.supported()
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-B-32-quickgelu", "ViT-H-14"} <= set(usable)
    assert not {"RN50", "ViT-B-16-SigLIP", "convnext_base", "roberta-ViT-B-32", "coca_ViT-B-32"} & set(usable)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-B-16", None),
        ("ViT-B-16/openai", None),
        ("ViT-B-16/laion2b-s34b-b88k", None),  # open_clip takes dashes for underscores
        ("ViT-B16", 'unknown model "ViT-B16" (did you mean "ViT-B-16/openai"?)'),
        ("VIT-B16/openai", 'unknown model "VIT-B16/openai" (did you mean "ViT-B-16/openai"?)'),
        ("pockt", 'unknown model "pockt" (did you mean "pocket"?)'),
        ("zzz", 'unknown model "zzz" (see "python -m bench list models")'),
        ("ViT-B-16/opena", 'unknown weights "opena" of model "ViT-B-16" (did you mean "ViT-B-16/openai"?)'),
        ("ViT-B-16/", 'model "ViT-B-16/" names no weights after the slash'),
        (
            "ViT-S-16/openai",
            'open_clip has no weights for "ViT-S-16": give model.checkpoint=FILE or model.weights=random',
        ),
        (
            "RN50/openai",
            'model "RN50" is not supported: its image tower is a ResNet (see "python -m bench list models")',
        ),
        ("ViT-B-16-SigLIP", "its image tower comes from timm"),
        ("roberta-ViT-B-32", "its text tower comes from Hugging Face"),
    ],
)
def test_problems_with_names(name, said):
    found = catalogue.problem(name, ("pocket",))
    assert found == said or (said and found and said in found)


MEANT = {
    "ViT-B/16": "ViT-B-16/openai",
    "ViT-L/14@336px": "ViT-L-14-336/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
    "hf-hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "ViT-B-16/laion2b_s34b_b88k",
    "https://huggingface.co/laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "ViT-bigG-14/laion2b_s39b_b160k",
    "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K": "ViT-B-32-256/datacomp_s34b_b86k",
    "apple/DFN5B-CLIP-ViT-H-14-378": "ViT-H-14-378/dfn5b",
    "timm/vit_large_patch14_clip_336.openai": "ViT-L-14-336/openai",
    "ViT-B-16:openai": "ViT-B-16/openai",
    "openai/ViT-B-16": "ViT-B-16/openai",
    "ViT-B16": "ViT-B-16/openai",
    "ViTB16/opnai": "ViT-B-16/openai",
    "ViT-B-16/opnai": "ViT-B-16/openai",
    "vit_b_32_quickgelu": "ViT-B-32-quickgelu/openai",
    "pockt": "pocket",
}
"""Names that other libraries use, or that are mistyped, and what is suggested for them."""

FILES = ("/data/ViT-B-16.pt", "./open_clip_model.safetensors", "~/my weights/ViT-L-14-336px.pt", "b32_400m.pt")

OTHERS = ("local-dir:/data/x", "google/siglip-base-patch16-224", "ViT-S16", "RN50", "ViT-B-16/zzz", "zzz", "a/b/c")


def suggested(message: str) -> list[list[str]]:
    """The settings that a message suggests, each as words for the command line."""
    found = [[f"model={name}"] for name in re.findall(r'did you mean "([^"]+)"', message)]
    return [*found, *(shlex.split(words) for words in re.findall(r"write (model=\S+ .*)", message))]


@pytest.mark.parametrize("name", [*MEANT, *FILES, *OTHERS])
@pytest.mark.parametrize("given", [[], ["model.checkpoint=weights.pt"], ["model.weights=random"]])
def test_what_is_suggested_for_a_wrong_name_is_accepted(name: str, given: list[str]):
    with pytest.raises(UserError) as error:
        resolve(["method=zero-shot", f"model={name}", *given])
    offers = suggested(str(error.value))
    assert bool(offers) == (name not in OTHERS or (name == "ViT-S16" and given != []))
    for words in offers:
        if "model=ARCHITECTURE" in words:  # nothing in the name says which
            words[0] = "model=ViT-B-16"
        own = [] if words == ["model=pocket"] else given  # it has its weights
        resolve(["method=zero-shot", *own, *words])


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_names_of_other_libraries_are_understood(name: str, meant: str):
    said = catalogue.problem(name, tuple(registry.entries("model")))
    assert f'(did you mean "{meant}"?)' in said
    arch = meant.partition("/")[0]
    own = catalogue.problem(name, tuple(registry.entries("model")), own_weights=True)
    assert f'did you mean "{arch}' in own  # with weights from elsewhere the architecture is enough


def test_a_file_instead_of_a_name_is_answered_with_the_settings_for_it():
    assert catalogue.problem("~/my weights/ViT-L-14-336px.pt") == (
        'model "~/my weights/ViT-L-14-336px.pt" is a file and not a name: write model=ViT-L-14-336 '
        "'model.checkpoint=~/my weights/ViT-L-14-336px.pt'"
    )
    assert "write model=ARCHITECTURE model.checkpoint=b32_400m.pt" in catalogue.problem("b32_400m.pt")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("ViT-B-16/openai", (None, "pretrained"), None),
        ("ViT-B-16", ("weights.pt", "pretrained"), None),
        ("ViT-B-16", (None, "random"), None),
        (
            "ViT-B-16",
            (None, "pretrained"),
            "model ViT-B-16 names no weights: write model=ViT-B-16/TAG with a TAG such as openai, laion400m_e31, "
            "laion400m_e32, laion2b_s34b_b88k, or give model.checkpoint=FILE or model.weights=random",
        ),
        (
            "ViT-S-16",
            (None, "pretrained"),
            "model ViT-S-16 names no weights: write model=ViT-S-16/TAG, or give model.checkpoint=FILE or "
            "model.weights=random",
        ),
    ],
)
def test_a_model_without_weights_is_refused(name, settings, said):
    assert catalogue.weights_problem(name, *settings) == said


def test_tags_that_cannot_be_read_are_unknown_and_any_is_let_through(tmp_path, monkeypatch):
    odd = tmp_path / "pretrained.py"
    for text in ("_PRETRAINED = make()", "def (", "_PRETRAINED = {'ViT-B-16': [1]}"):
        odd.write_text(text, encoding="utf-8")
        assert catalogue._tags(odd) is None
    assert catalogue._tags(tmp_path / "absent.py") is None
    known = {"ViT-B-16": catalogue.Architecture("ViT-B-16", None)}
    monkeypatch.setattr(catalogue, "architectures", lambda: known)
    assert catalogue.problem("ViT-B-16/whatever") is None
    assert 'did you mean "ViT-B-16/whatever"?' in catalogue.problem("ViTB16/whatever")
    assert "did you mean" not in catalogue.problem("ViTB16")


def test_without_open_clip_there_are_no_models(monkeypatch):
    catalogue.architectures.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        assert catalogue.architectures() == {}
        assert "unknown model" in (catalogue.problem("ViT-B-16") or "")
    finally:
        catalogue.architectures.cache_clear()


@pytest.mark.parametrize("installed", [False, True])
def test_a_tokenizer_of_hugging_face_needs_its_package(installed: bool, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    package = find("json") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package if name == "transformers" else find(name))
    catalogue.architectures.cache_clear()
    try:
        said = {name: catalogue.problem(name) for name in ("ViT-L-14-CLIPA/datacomp1b", "ViT-H-14-worldwide")}
        siglip = catalogue.problem("ViT-B-16-SigLIP/webli")
    finally:
        catalogue.architectures.cache_clear()
    assert siglip is not None and "its image tower comes from timm (" in siglip  # what no package changes
    if installed:
        assert list(said.values()) == [None, None]
    else:
        assert said["ViT-L-14-CLIPA/datacomp1b"] == (
            'model "ViT-L-14-CLIPA" is not supported: its tokenizer, bert-base-uncased, needs the package '
            'transformers: install it with pip install transformers (see "python -m bench list models")'
        )
        assert "its tokenizer, facebook/xlm-v-base, needs" in str(said["ViT-H-14-worldwide"])

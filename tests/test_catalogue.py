"""open_clip's models, read without importing open_clip."""

from __future__ import annotations

import pytest

from bench.config import catalogue


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
    ("name", "told"),
    [
        ("ViT-B-16", None),
        ("ViT-B-16/openai", None),
        ("ViT-B-16/laion2b-s34b-b88k", None),  # open_clip takes dashes for underscores
        ("ViT-B16", 'unknown model "ViT-B16" (did you mean "ViT-B-16"?)'),
        ("VIT-B16/openai", 'unknown model "VIT-B16/openai" (did you mean "ViT-B-16/openai"?)'),
        ("pockt", 'unknown model "pockt" (did you mean "pocket"?)'),
        ("zzz", 'unknown model "zzz" (see "python -m bench list models")'),
        ("ViT-B-16/opena", 'unknown weights "opena" of model "ViT-B-16" (did you mean "openai"?)'),
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
def test_problems_with_names(name, told):
    found = catalogue.problem(name, ("pocket",))
    assert found == told or (told and found and told in found)


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


def test_without_open_clip_there_are_no_models(monkeypatch):
    catalogue.architectures.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        assert catalogue.architectures() == {}
        assert "unknown model" in (catalogue.problem("ViT-B-16") or "")
    finally:
        catalogue.architectures.cache_clear()

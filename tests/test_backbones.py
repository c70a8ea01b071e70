"""open_clip's architectures: what the page says of them, and what really runs, as narrow copies with random weights."""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from bench.methods.lora import Lora
from support.learning import learn, weights

from bench.config import catalogue
from bench.core.errors import UserError
from bench.learning.task_data import Context
from bench.model.clip import Clip

ROOT = Path(__file__).parent.parent
END = 49407
"""The end-of-text token of open_clip's own tokenizer."""

NATIVE = {
    name: one.config for name, one in catalogue.architectures().items() if not catalogue.foreign_tower(one.config)
}
"""The configurations of all architectures with open_clip's own towers."""


def narrow(config: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture with the same kind of blocks, two a tower, and widths 64 and 48."""
    text = {**config["text_cfg"], "layers": 2, "width": 48, "heads": 2, "vocab_size": END + 1, "eos_id": END}
    vision = {**config["vision_cfg"], "layers": 2, "width": 64, "head_width": 32, "image_size": 36, "patch_size": 12}
    return {**config, "embed_dim": 32, "vision_cfg": vision, "text_cfg": text}


SIGLIP = {
    **NATIVE["ViT-B-16"],
    "text_cfg": catalogue.architectures()["ViT-B-16-SigLIP2"].config["text_cfg"],
    "init_logit_bias": -10,
    "custom_text": True,
}
"""A native image tower with SigLIP 2's text tower: no mask, read at the last position, GELU by tanh, a last bias."""

KINDS = {json.dumps(narrow(config), sort_keys=True): name for name, config in NATIVE.items()}
"""One architecture of each kind."""

QUICK = {
    "ViT-L-14-CLIPA": NATIVE["ViT-L-14-CLIPA"],
    "ViT-L-14-worldwide": NATIVE["ViT-L-14-worldwide"],
    "SigLIP": SIGLIP,
}


def build(config: dict[str, Any]) -> Any:
    """Return open_clip's model of a configuration."""
    options = dict(config)
    cls = open_clip.CustomTextCLIP if options.pop("custom_text", False) else open_clip.CLIP
    return cls(**options).eval()


@pytest.fixture(scope="module")
def tables() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        import models_table
    return models_table


# ---- the page


def test_the_tables_of_architectures_are_up_to_date(tables: Any) -> None:
    text = tables.PAGE.read_text(encoding="utf-8")
    assert tables.page(text) == text, "docs/models.md is out of date: python docs/models_table.py"


def test_every_architecture_of_open_clip_is_in_one_table_with_what_happens(tables: Any) -> None:
    runs, refused = (re.findall(r"`([\w-]+)`", "\n".join(table())) for table in (tables.native, tables.foreign))
    assert sorted([*runs, *refused]) == sorted(open_clip.list_models())
    assert set(runs) == set(NATIVE)
    for name in refused:  # the reason of the page is the one of the command line
        (row,) = (line for line in tables.foreign() if f"`{name}`" in line)
        reason = catalogue.architectures()[name].unsupported
        assert f"| refused: {reason} |" in row and f": {reason} (" in str(catalogue.problem(name))


def test_a_model_that_is_refused_is_refused_in_one_sentence() -> None:
    for name, one in catalogue.architectures().items():
        said = catalogue.problem(name)
        assert (said is None) == (not one.unsupported)
        assert said is None or (said.startswith(f'model "{name}" is not supported: ') and "\n" not in said)


# ---- what runs


def check(config: dict[str, Any]) -> None:
    """Compare features and gradients with open_clip's own, and take steps of LoRA in both towers."""
    torch.manual_seed(0)
    reference = build(narrow(config))
    clip = Clip(copy.deepcopy(reference), _tokenizer(config["text_cfg"]["context_length"]), {}, "narrow")
    pixels = torch.randn(3, 3, 36, 36)
    tokens = clip.tokenize(["a cat", "a very small green dog on a table", "x"])
    ours = clip.encode_images(pixels), clip.encode_tokens(tokens), clip.encode_tokens(tokens, cut=False)
    with torch.no_grad():
        image, text = reference.encode_image(pixels, normalize=True), reference.encode_text(tokens, normalize=True)
        logits = reference.get_logits(pixels, tokens)[0]
    for mine, theirs in zip(ours, (image, text, text), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)
    shift = logits - clip.logits(ours[0], ours[1])  # SigLIP's bias alone, which is the same for all classes
    torch.testing.assert_close(shift, torch.full_like(shift, config.get("init_logit_bias", 0)), atol=1e-4, rtol=0)

    name = "transformer.resblocks.1.attn.in_proj_weight"
    watched = [f"visual.{name}", f"text.{name}" if hasattr(reference, "text") else name]
    grads = []
    for model, encode in ((clip.model, clip.encode_tokens), (reference, lambda t: reference.encode_text(t, True))):
        chosen = [dict(model.named_parameters())[one].requires_grad_(True) for one in watched]
        images = clip.encode_images(pixels) if model is clip.model else model.encode_image(pixels, normalize=True)
        loss = torch.nn.functional.cross_entropy(images @ encode(tokens).T * 10, torch.arange(3))
        grads.append(torch.autograd.grad(loss, chosen))
    for mine, theirs in zip(*grads, strict=True):
        largest = float(theirs.abs().max())  # a layer scale makes all of them small
        torch.testing.assert_close(mine / largest, theirs / largest, atol=1e-4, rtol=0)
    clip.model.requires_grad_(False)

    method = Lora(Lora.Settings(rank=4), clip, Context(tasks=3, batch_size=16, init_seed=0, data_seed=0))
    before = weights(method)
    learn(method, 0)
    after = weights(method)
    assert all(
        after[m.name].isfinite().all() and not torch.equal(after[m.name], before[m.name]) for m in method.targets
    )
    assert {m.tower for m in method.targets} == {"image", "text"}


@functools.cache
def _vocabulary() -> Any:
    return open_clip.SimpleTokenizer()  # reading it takes half a second


def _tokenizer(length: int) -> Any:
    tokenizer = copy.copy(_vocabulary())
    tokenizer.context_length = length
    return tokenizer


@pytest.mark.parametrize("name", QUICK)
def test_towers_that_are_unlike_openais_compute_as_open_clip_and_learn(name: str) -> None:
    check(QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS.values())
def test_every_kind_of_native_architecture_computes_as_open_clip_and_learns(name: str) -> None:
    check(NATIVE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NATIVE if not name.endswith("-quickgelu")])
def test_full_sizes_are_those_of_the_page(name: str, tables: Any) -> None:
    """Built at full size on the device "meta", which takes no memory for weights."""
    config = NATIVE[name]
    with torch.device("meta"):
        model = build(config)
    clip = Clip(model, None, {}, name, config=config)
    assert sum(parameter.numel() for parameter in model.parameters()) == tables.parameters(config)
    assert clip.image_tokens == tables.tokens(config)
    assert clip.encode_images(torch.empty(2, 3, *clip.image_size, device="meta")).shape == (2, config["embed_dim"])
    tokens = torch.empty(3, clip.context_length, dtype=torch.int64, device="meta")
    assert clip.encode_tokens(tokens, cut=False).shape == (3, config["embed_dim"])


# ---- tokenizers of Hugging Face


class Words:
    """Gives tokens as BERT's tokenizer does: one each word and each mark, between 101 and 102, filled up with 0."""

    sep_token_id = 102

    def __call__(self, texts: Any, max_length: int = 0, **_: Any) -> Any:
        if isinstance(texts, str):
            return {"input_ids": self.ids(texts)}
        rows = [[*ids[: max_length - 1], ids[-1]] if len(ids) > max_length else ids for ids in map(self.ids, texts)]
        return SimpleNamespace(input_ids=torch.tensor([row + [0] * (max_length - len(row)) for row in rows]))

    def ids(self, text: str) -> list[int]:
        return [101, *(1000 + len(word) for word in re.findall(r"\w+|[^\w\s]", text)), 102]


@pytest.mark.parametrize(("name", "words"), [("ViT-L-14-CLIPA", 30), ("ViT-L-14-worldwide", 75)])
def test_a_tokenizer_of_hugging_face_is_used_and_counts_what_it_keeps(
    name: str, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIPA's drops the last token; that of ViT-L-14-worldwide drops punctuation before it counts."""
    loaded = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=lambda *_, **__: Words()))
    monkeypatch.setitem(sys.modules, "transformers", loaded)
    tokenizer = open_clip.get_tokenizer(name)
    config = narrow(NATIVE[name])
    config["text_cfg"]["eos_id"] = Words.sep_token_id
    clip = Clip(build(config), tokenizer, {}, name)
    prompts = ["a photo of a dog", " ".join(["word"] * words)]
    tokens = clip.tokenize(prompts)
    assert torch.equal(tokens, tokenizer(prompts)) and tokens.shape == (2, words + 2)
    assert (102 in tokens) == (name != "ViT-L-14-CLIPA")
    with torch.no_grad():
        expected = build_like(clip, config).encode_text(tokens, normalize=True)
        torch.testing.assert_close(clip.encode_tokens(tokens), expected, atol=2e-6, rtol=1e-5)
    marks = " ".join(["word"] * words) + "."
    if name == "ViT-L-14-CLIPA":
        with pytest.raises(UserError, match=f"takes {words + 3} tokens and the context of {name} holds {words + 2}"):
            clip.tokenize([marks])
    else:
        assert torch.equal(clip.tokenize([marks])[0], tokens[1])
    with pytest.raises(UserError, match=f"takes {words + 3} tokens"):
        clip.tokenize([f"{prompts[1]} word"])


def build_like(clip: Clip, config: dict[str, Any]) -> Any:
    """Return open_clip's model with the weights of a `Clip`."""
    model = build(config)
    model.load_state_dict(clip.model.state_dict())
    return model

"""Packed texts: the features and gradients of texts computed in full, at the cost of the tokens that are read."""

import open_clip
import pytest
import torch
from torch import Tensor

from bench.model.clip import Clip
from bench.model.linear_maps import LowRank, Recorder
from bench.model.packing import Packing
from bench.trials.toy import CONTEXT_LENGTH, tiny_clip, tiny_model

TEXTS = {
    "a template": ["a photo of a cat.", "a photo of a very small dog.", "a photo of a pear."],
    "nothing in common": ["cat", "a very small green dog on a table", "x"],
    "one is the beginning of another": ["a photo", "a photo of a", "a photo of a cat"],
    "all the same": ["a photo of a cat."] * 3,
    "a single text": ["a photo of a cat."],
    "the shortest": ["", "a"],
}


def both(prompts: list[str], updates: bool = False, **model: bool) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Features and gradients of every parameter of the text tower: packed, then in full; float64."""
    found = []
    for cut in (True, False):
        clip = Clip(tiny_model(**model), open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH), {"size": 36}, "tiny")
        clip.model.double()
        if updates:
            draw = torch.Generator().manual_seed(0)
            for m in clip.select(("q", "v", "o", "fc1"), ("text",)):
                shapes = ((2, m.in_features), (m.out_features, 2))
                m.update = LowRank(*(torch.randn(shape, generator=draw).double() for shape in shapes), 0.1)
        named = clip.text.named_parameters()
        parameters = {name: p for name, p in named if "visual" not in name and "logit" not in name}
        with clip.trainable(parameters.values()):
            features = clip.encode_tokens(clip.tokenize(prompts), cut=cut)
            weights = torch.linspace(-1, 1, features.numel(), dtype=torch.float64).view_as(features)
            (features * weights).sum().backward()
            grads = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        found.append((features.detach(), grads))
    return found


@pytest.mark.parametrize("prompts", TEXTS.values(), ids=TEXTS)
def test_features_and_gradients_are_those_of_the_long_way(prompts: list[str]) -> None:
    for options in ({}, {"updates": True}, {"custom_text": True}, {"quick_gelu": True}):
        (features, gradients), (expected, all_gradients) = both(prompts, **options)
        assert (features - expected).abs().max() < 1e-12
        assert gradients.keys() == all_gradients.keys() and len(gradients) > 20
        for name, gradient in gradients.items():
            assert (gradient - all_gradients[name]).abs().max() < 1e-11, name


@pytest.mark.parametrize("prompts", TEXTS.values(), ids=TEXTS)
def test_a_token_is_computed_once_if_it_is_read_and_else_never(prompts: list[str]) -> None:
    clip = tiny_clip()
    tokens = clip.tokenize(prompts)
    lengths = tokens.argmax(dim=-1) + 1
    sequences = [row[:length].tolist() for row, length in zip(tokens, lengths.tolist(), strict=True)]
    shared = 0
    while all(len(s) > shared + 1 for s in sequences) and len({s[shared] for s in sequences}) == 1:
        shared += 1
    packing = Packing.of(tokens, lengths - 1)
    assert packing.prefix == shared
    expected = sequences[0][:shared] + [token for sequence in sequences for token in sequence[shared:]]
    assert tokens.flatten()[packing.source].tolist() == expected
    assert packing.position[packing.end].tolist() == (lengths - 1).tolist()
    seen = []
    layer = clip.text.transformer.resblocks[0].mlp.c_fc
    hook = layer.register_forward_hook(lambda module, given, y: seen.append(y.shape[:2]))
    with torch.no_grad():
        clip.encode_tokens(tokens)
    hook.remove()
    assert seen == [(1, len(expected))]


@pytest.mark.parametrize("cut", [True, False])
def test_recorders_see_texts_one_by_one_and_which_tokens_count(cut: bool) -> None:
    clip, masks = tiny_clip(), {}
    tokens = clip.tokenize(TEXTS["a template"])
    end = tokens.argmax(dim=-1)
    longest = int(end.max()) + 1 if cut else CONTEXT_LENGTH

    def recorder(name: str) -> Recorder:
        def record(x: Tensor, mask: Tensor | None) -> None:
            assert mask is not None and x.shape[:2] == mask.shape == (3, longest)
            masks[name] = mask

        return record

    text_sites = [name for name in clip.sites if name.startswith("text.")]
    with torch.no_grad(), clip.recording({name: recorder(name) for name in text_sites}):
        recorded = clip.encode_tokens(tokens, cut=cut)
    assert list(masks) == text_sites
    for mask in masks.values():
        assert [row.nonzero().flatten().tolist() for row in mask] == [list(range(e + 1)) for e in end.tolist()]
    with torch.no_grad():
        assert (clip.encode_tokens(tokens) - recorded).abs().max() < 1e-5


def test_all_tokens_of_images_count() -> None:
    clip, masks = tiny_clip(), []
    image_sites = [name for name in clip.sites if name.startswith("image.")]
    with torch.no_grad(), clip.recording({name: lambda x, mask: masks.append(mask) for name in image_sites}):
        clip.encode_images(torch.zeros(2, 3, 36, 36))
    assert masks == [None] * len(image_sites)


def test_a_packing_is_found_out_once_for_every_set_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    clip, made = tiny_clip(), []
    of = Packing.of
    monkeypatch.setattr(Packing, "of", lambda *arguments: made.append(1) or of(*arguments))
    first, second = (clip.tokenize(TEXTS[name]) for name in ("a template", "nothing in common"))
    with torch.no_grad():
        for tokens in (first, second, first, second):
            clip.encode_tokens(tokens)
    assert len(made) == 2
    del first, tokens
    assert len(clip._texts.packings) == 1  # and forgotten with them


# ---- embeddings instead of tokens


def defined(x: Tensor, end: Tensor, **model: bool) -> Tensor:
    """Features of embedded texts as open_clip's own text tower computes them, float64."""
    whole = tiny_model(**model).double()
    text = getattr(whole, "text", whole)
    states = text.transformer(x + text.positional_embedding, attn_mask=text.attn_mask)
    read = text.ln_final(states)[torch.arange(len(end)), end]
    projection = text.text_projection
    features = projection(read) if isinstance(projection, torch.nn.Linear) else read @ projection
    return features / features.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("prompts", TEXTS.values(), ids=TEXTS)
def test_embedded_texts_have_the_features_of_their_tokens(prompts: list[str]) -> None:
    clip = tiny_clip()
    tokens = clip.tokenize(prompts)
    with torch.no_grad():
        x, end = clip.embed(tokens)
        assert x.shape == (len(prompts), CONTEXT_LENGTH, 48) and end.tolist() == tokens.argmax(dim=-1).tolist()
        assert (clip.encode_embeddings(x, end) - clip.encode_tokens(tokens)).abs().max() < 1e-6


@pytest.mark.parametrize("model", [{}, {"custom_text": True}, {"quick_gelu": True}])
@pytest.mark.parametrize("prompts", TEXTS.values(), ids=TEXTS)
def test_features_and_gradients_of_embeddings_are_those_of_their_definition(prompts: list[str], model: dict) -> None:
    clip = Clip(tiny_model(**model), open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH), {"size": 36}, "tiny")
    clip.model.double()
    x, end = clip.embed(clip.tokenize(prompts))
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    found = []
    for encode in (clip.encode_embeddings, lambda x, end: defined(x, end, **model)):
        given = x.clone().requires_grad_()
        features = encode(given, end)
        (features * torch.linspace(-1, 1, features.numel(), dtype=x.dtype).view_as(features)).sum().backward()
        found.append((features.detach(), given.grad))
    (features, gradient), (expected, defined_gradient) = found
    assert (features - expected).abs().max() < 1e-12
    assert (gradient - defined_gradient).abs().max() < 1e-11 and gradient.abs().max() > 1e-3
    assert all(gradient[i, int(last) + 1 :].abs().max() == 0 for i, last in enumerate(end) if last + 1 < CONTEXT_LENGTH)


def test_embedded_texts_keep_packing_precision_and_recorders() -> None:
    clip, seen = tiny_clip(), []
    tokens = clip.tokenize(TEXTS["a template"])
    x, end = (tensor.detach() for tensor in clip.embed(tokens))
    layer = clip.text.transformer.resblocks[0].mlp.c_fc
    hook = layer.register_forward_hook(lambda module, given, y: seen.append((y.shape[:2], y.dtype)))
    with torch.no_grad(), clip.computing("bf16"):
        low = clip.encode_embeddings(x, end)
        assert torch.equal(low, clip.encode_embeddings(x, end)) and len(clip._texts.packings) == 1
    hook.remove()
    assert seen == [((1, int((end + 1).sum())), torch.bfloat16)] * 2
    masks = []
    with torch.no_grad(), clip.recording({"text.0.fc1": lambda x, mask: masks.append(mask)}):
        recorded = clip.encode_embeddings(x, end)
    assert masks[0].sum(dim=1).tolist() == (end + 1).tolist()
    assert (recorded - low).abs().max() < 0.1
    assert (recorded - clip.encode_tokens(tokens)).abs().max() < 1e-5


def test_embeddings_of_another_shape_are_refused() -> None:
    clip = tiny_clip()
    x, end = clip.embed(clip.tokenize(TEXTS["a template"]))
    for given in ((x[:, :-1], end), (x, end[:-1])):
        with pytest.raises(ValueError, match=r"the embeddings are .* give \[texts, 16, width\] and one end"):
            clip.encode_embeddings(*given)


def test_a_model_that_reads_elsewhere_reads_embeddings_there() -> None:
    model = tiny_model(custom_text=True)
    model.text.pool_type = "last"
    clip = Clip(model, open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH), {"size": 36}, "tiny")
    tokens = clip.tokenize(TEXTS["a template"])
    with torch.no_grad():
        x, end = clip.embed(tokens)
        assert end.tolist() == [CONTEXT_LENGTH - 1] * 3
        assert torch.equal(clip.encode_embeddings(x, end), clip.encode_tokens(tokens))

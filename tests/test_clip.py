"""The model wrapper against open_clip's own forward passes, and its maps, sites, updates and measurements."""

import copy

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from bench.core.errors import UserError
from bench.data.pixels import Pixels, PixelStore
from bench.learning.moments import mean_gradient, second_moments, slot_means
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.model.pretrained import load_open_clip
from bench.trials.toy import tiny_clip, tiny_model, toy_task

PROMPTS = ("a cat", "a very small green dog on a table", "x")


def images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_forward_equals_open_clip_tiny(custom_text: bool, quick_gelu: bool) -> None:
    model = tiny_model(custom_text=custom_text, quick_gelu=quick_gelu)
    reference = copy.deepcopy(model)
    clip = Clip(model, open_clip.SimpleTokenizer(context_length=16), {"size": 36}, "tiny")
    x, tokens = images(5, 36), clip.tokenize(PROMPTS)
    with torch.no_grad():
        assert (clip.encode_images(x) - reference.encode_image(x, normalize=True)).abs().max() < 1e-5
        expected = reference.encode_text(tokens, normalize=True)
        for cut in (True, False):
            assert (clip.encode_tokens(tokens, cut=cut) - expected).abs().max() < 1e-5
        logits, _ = reference.get_logits(x, tokens)
        assert (clip.logits(clip.encode_images(x), clip.encode_prompts(PROMPTS)) - logits).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", ["ViT-B-32", "ViT-B-16", "ViT-B-16-quickgelu"])
@pytest.mark.parametrize("custom_text", [False, True])
def test_forward_equals_open_clip_real_architectures(architecture: str, custom_text: bool) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, force_custom_text=custom_text).eval()
    tokenizer = open_clip.get_tokenizer(architecture)
    x, tokens = images(1, 224), tokenizer(["a photo of a dog.", "cat"])
    with torch.no_grad():
        expected = model.encode_image(x, normalize=True), model.encode_text(tokens, normalize=True)
        clip = Clip(model, tokenizer, model.visual.preprocess_cfg, architecture)
        got = clip.encode_images(x), clip.encode_tokens(tokens)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{"pool_type": "last"}, {"pool_type": "first"}, {"no_causal_mask": True}])
def test_texts_that_are_read_elsewhere_or_without_a_mask_equal_open_clip(options: dict) -> None:
    """As SigLIP's are: nothing is packed then, and without an end-of-text token no mask can be named."""
    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2, **options}
    vision = {"image_size": 36, "patch_size": 12, "width": 64, "layers": 2, "head_width": 32}
    model = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()
    reference = copy.deepcopy(model)
    clip = Clip(model, open_clip.SimpleTokenizer(context_length=16), {"size": 36}, "tiny")
    tokens, masks = clip.tokenize(PROMPTS), []
    with torch.no_grad():
        expected = reference.encode_text(tokens, normalize=True)
        for cut in (True, False):
            assert (clip.encode_tokens(tokens, cut=cut) - expected).abs().max() < 1e-5
        with clip.recording({"text.1.fc2": lambda x, mask: masks.append(mask)}):
            assert (clip.encode_tokens(tokens) - expected).abs().max() < 1e-5
    assert (masks == [None]) == ("pool_type" in options)


def test_recording_an_unknown_site_changes_nothing() -> None:
    clip = tiny_clip()
    with (
        pytest.raises(KeyError),
        clip.recording({"image.0.qkv": lambda x, _: None, "image.0.nosuch": lambda x, _: None}),
    ):
        pass
    assert all(site.recorder is None for site in clip.sites.values())


def test_state_dict_keeps_open_clips_names() -> None:
    model = tiny_model()
    names = list(model.state_dict())
    Clip(model, None, {"size": 36}, "tiny")
    assert list(model.state_dict()) == names


def test_maps_are_views_of_the_packed_parameters() -> None:
    clip = tiny_clip()
    assert list(clip.maps)[:6] == [f"image.0.{kind}" for kind in ("q", "k", "v", "o", "fc1", "fc2")]
    assert len(clip.maps) == 2 * 2 * 6
    packed = clip.model.visual.transformer.resblocks[1].attn.in_proj_weight
    for index, kind in enumerate("qkv"):
        linear_map = clip.maps[f"image.1.{kind}"]
        assert linear_map.weight.data_ptr() == packed[64 * index :].data_ptr()
        assert linear_map.weight.shape == (64, 64)
        assert linear_map.site is clip.sites["image.1.qkv"]
    assert clip.maps["text.0.fc2"].weight.shape == (48, 192)
    assert [m.name for m in clip.select(["o"], ["text"])] == ["text.0.o", "text.1.o"]


def test_each_map_computes_its_weight_times_its_site() -> None:
    """q, k, v and o, found by hand from the recorded sites, give open_clip's attention output."""
    clip = tiny_clip()
    seen: dict[str, torch.Tensor] = {}
    x = images(2, 36)
    with torch.no_grad(), clip.recording({name: (lambda t, _, n=name: seen.update({n: t})) for name in clip.sites}):
        clip.encode_images(x)
    inputs = seen["image.0.qkv"]
    q, k, v = (
        inputs @ clip.maps[f"image.0.{kind}"].weight.T
        + clip.maps["image.0.q"].bias_parameter[clip.maps[f"image.0.{kind}"].rows]
        for kind in "qkv"
    )
    heads = []
    for h in range(2):
        part = slice(32 * h, 32 * h + 32)
        scores = (q[..., part] @ k[..., part].transpose(1, 2)) / 32**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    assert torch.allclose(torch.cat(heads, -1), seen["image.0.o"], atol=1e-5)
    fc1 = clip.maps["image.0.fc1"]
    hidden = F.gelu(seen["image.0.fc1"] @ fc1.weight.T + fc1.bias_parameter)
    assert torch.allclose(hidden, seen["image.0.fc2"], atol=1e-5)


@pytest.mark.parametrize("kinds", [("q", "k", "v", "o"), ("k", "v"), ("q", "fc1"), ("fc2",), ("v", "o", "fc1", "fc2")])
def test_update_forward_equals_merged_forward(kinds: tuple[str, ...]) -> None:
    clip = tiny_clip()
    before = clip.encode_images(images(3, 36)), clip.encode_prompts(PROMPTS)
    draw = torch.Generator().manual_seed(1)
    for rank, linear_map in enumerate(clip.select(kinds, ("image", "text")), start=1):
        A = torch.randn(rank, linear_map.in_features, generator=draw) / 8
        B = torch.randn(linear_map.out_features, rank, generator=draw) / 8
        linear_map.update = LowRank(A, B, scale=0.7)
    attached = clip.encode_images(images(3, 36)), clip.encode_prompts(PROMPTS)
    clip.merge()
    merged = clip.encode_images(images(3, 36)), clip.encode_prompts(PROMPTS)
    for first, second, third in zip(before, attached, merged, strict=True):
        assert (second - third).abs().max() < 1e-5
        assert (first - second).abs().max() > 1e-3
    assert all(m.update is None for m in clip.maps.values())


def test_cutting_the_context_is_exact_for_gradients() -> None:
    gradients = []
    for cut in (True, False):
        clip = tiny_clip()
        maps = clip.select(("q", "k", "v", "o", "fc1", "fc2"), ("text",))
        with clip.trainable(m.parameter for m in maps):
            clip.encode_tokens(clip.tokenize(PROMPTS), cut=cut)[:, 0].sum().backward()
            gradients.append([m.grad.clone() for m in maps])
    for short, long in zip(*gradients, strict=True):
        assert (short - long).abs().max() < 1e-5 * long.abs().max().clamp(min=1)


def test_a_prompt_longer_than_the_context_is_refused_by_name() -> None:
    clip = tiny_clip()
    clip.tokenize(["one " * 14])
    with pytest.raises(UserError, match=r'"one one.* takes 17 tokens and the context of tiny holds 16'):
        clip.tokenize(["cat", "one " * 15])


def test_pixels_equal_open_clips_transform() -> None:
    """uint8 first, normalised later: bit for bit what open_clip's transform gives, for every mode of image."""
    clip = tiny_clip()
    transform = image_transform_v2(PreprocessCfg(size=36, mean=(0.5,) * 3, std=(0.3,) * 3), is_train=False)
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    for mode in ("RGB", "L", "RGBA", "P"):
        image = Image.fromarray(noise).convert(mode)
        pixels = clip.normalize(torch.tensor(clip.to_uint8(image))[None])[0]
        assert torch.equal(pixels, transform(image)), mode


def test_unsupported_towers_are_named() -> None:
    model = open_clip.create_model("RN50")
    with pytest.raises(UserError, match="RN50 is not supported: its image tower is a ModifiedResNet"):
        Clip(model, None, {"size": 224}, "RN50")
    tokens_first = tiny_model()
    tokens_first.transformer.resblocks[1].attn.batch_first = False
    with pytest.raises(UserError, match="odd is not supported: its blocks read tokens first"):
        Clip(tokens_first, None, {"size": 36}, "odd")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("ViT-B-61/openai", {}, "model ViT-B-61/openai cannot be loaded"),
        ("ViT-S-32", {}, "model ViT-S-32 cannot be loaded .*model.checkpoint=FILE"),  # never random weights instead
        ("ViT-B-32", {"checkpoint": "missing.pt"}, "there is no file missing.pt: check model.checkpoint"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(name: str, kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_open_clip(name, **kwargs)


def test_missing_network_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        "open_clip.factory.download_pretrained", lambda *a, **k: (_ for _ in ()).throw(OSError("offline"))
    )
    with pytest.raises(UserError, match="model ViT-B-32/openai cannot be loaded .*model.checkpoint=FILE"):
        load_open_clip("ViT-B-32/openai")


def test_random_weights_follow_the_seed() -> None:
    hashes = [load_open_clip("ViT-S-32", weights="random", seed=seed).weights_sha256() for seed in (3, 3, 4)]
    assert hashes[0] == hashes[1] != hashes[2]


# ---- batches and statistics


def task_data(clip: Clip, batch_size: int = 16) -> TaskData:
    task = toy_task(0)
    context = Context(tasks=1, batch_size=batch_size, init_seed=0, data_seed=0)
    return TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), context)


def test_batches_cover_every_image_once_and_depend_on_purpose_and_epoch() -> None:
    data = task_data(tiny_clip())
    order = {
        key: torch.cat([y for _, y in data.batches(*key)]) for key in (("train", 0), ("train", 1), ("gradient", 0))
    }
    again = torch.cat([y for _, y in data.batches("train", 0)])
    assert torch.equal(order["train", 0], again)
    assert not torch.equal(order["train", 0], order["train", 1])
    assert not torch.equal(order["train", 0], order["gradient", 0])
    assert all(torch.equal(y.bincount(), torch.tensor([14, 13, 13])) for y in order.values())
    assert [len(y) for _, y in data.batches("train", drop_last=True)] == [16, 16]


def test_pixels_are_the_same_kept_or_decoded_again() -> None:
    clip, task = tiny_clip(), toy_task(0)
    kept, fresh = Pixels(task.test, clip, keep=True), Pixels(task.test, clip, keep=False)
    for (a, _), (b, _) in zip(kept.batches(7), fresh.batches(7), strict=True):
        assert torch.equal(a, b)


def test_the_store_keeps_what_fits_and_lets_the_oldest_go() -> None:
    clip = tiny_clip()
    sets = [toy_task(index).test for index in range(3)]
    store = PixelStore(clip, budget=2 * Pixels(sets[0], clip, True).nbytes)
    first, second = store.get(sets[0]), store.get(sets[1])
    assert store.get(sets[0]) is first
    store.get(sets[2])
    assert store.get(sets[0]) is first
    assert store.get(sets[1]) is not second
    assert not PixelStore(clip, budget=10).get(sets[0]).keep


def test_second_moments_equal_their_definition() -> None:
    """Sum of x x^T over every token, in float64, from activations recorded one image and one prompt at a time."""
    clip = tiny_clip()
    data = task_data(clip)
    maps = clip.select(("q", "o", "fc2"), ("image", "text"))
    got = second_moments(clip, data, maps)
    assert list(got) == [m.site.name for m in maps]
    expected = {name: torch.zeros_like(moment.gram) for name, moment in got.items()}
    tokens = dict.fromkeys(got, 0)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), clip.recording({name: (lambda t, _, n=name: seen.update({n: t})) for name in got}):
        for start in range(len(data.train)):
            clip.encode_images(clip.normalize(data.train.uint8(torch.tensor([start]))))
            for name in (n for n in got if n.startswith("image.")):
                rows = seen[name][0].double()
                expected[name] += torch.einsum("ti,tj->ij", rows, rows)
                tokens[name] += len(rows)
        for row in data.tokens:
            clip.encode_tokens(row[None], cut=False)
            for name in (n for n in got if n.startswith("text.")):
                rows = seen[name][0, : int(row.argmax()) + 1].double()
                expected[name] += torch.einsum("ti,tj->ij", rows, rows)
                tokens[name] += len(rows)
    for name, moment in got.items():
        assert moment.count == tokens[name], name
        # The forward passes are fp32, the sums are not.
        assert (moment.gram - expected[name]).norm() < 1e-6 * expected[name].norm(), name
        assert (moment.mean() - expected[name] / tokens[name]).norm() < 1e-6 * moment.mean().norm(), name


@pytest.mark.parametrize("batch_size", [8, 32])
def test_slot_means_equal_their_definition(batch_size: int) -> None:
    """F has a column for every token position and index in the batch: the mean there over the full batches, of which
    there are five of 8 images, or one of 32, where F is the transposed activations themselves."""
    clip = tiny_clip()
    data = task_data(clip, batch_size)
    (linear_map,) = clip.select(("fc1",), ("image",))[1:]
    name = linear_map.site.name
    got = slot_means(clip, data, [linear_map])[name].gram
    stack: list[torch.Tensor] = []
    with torch.no_grad(), clip.recording({name: lambda x, _: stack.append(x.double())}):
        for pixels, _ in data.batches("statistics", drop_last=True):
            clip.encode_images(pixels)
    assert len(stack) == 40 // batch_size
    F_ = torch.stack(stack).mean(0).flatten(0, 1).T  # [width, places x positions]
    expected = F_ @ F_.T
    got = got / len(stack) ** 2  # sums instead of means: no subspace depends on the scale
    assert (got - expected).norm() < 1e-5 * expected.norm()
    if len(stack) == 1:
        rows = stack[0].flatten(0, 1)
        assert torch.allclose(expected, rows.T @ rows)


def test_padding_can_be_counted() -> None:
    clip = tiny_clip()
    data = task_data(clip)
    maps = clip.select(("q",), ("text",))
    assert second_moments(clip, data, maps, padding=True)["text.0.qkv"].count == 3 * 16


def test_mean_gradient_equals_the_gradient_of_the_mean_loss() -> None:
    """The batched pass with one text backward against one backward of the whole task at once."""
    clip = tiny_clip()
    data = task_data(clip, batch_size=7)
    maps = clip.select(("q", "k", "v", "o", "fc1"), ("image", "text"))
    got = mean_gradient(clip, data, maps)
    pixels = clip.normalize(data.train.uint8(torch.arange(len(data.train))))
    with clip.trainable(m.parameter for m in maps):
        logits = clip.logits(clip.encode_images(pixels), clip.encode_tokens(data.tokens, cut=False))
        F.cross_entropy(logits, data.train.labels).backward()
        expected = {m.name: m.grad.clone() for m in maps}
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() < 1e-4 * gradient.norm(), name
    assert all(p.grad is None and not p.requires_grad for p in clip.model.parameters())


def test_mean_gradient_of_one_tower_equals_that_of_both() -> None:
    clip = tiny_clip()
    both = mean_gradient(clip, task_data(clip), clip.select(("v",), ("image", "text")))
    for tower in ("image", "text"):
        one = mean_gradient(clip, task_data(clip), clip.select(("v",), (tower,)))
        for name, gradient in one.items():
            assert torch.allclose(gradient, both[name], rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("kinds", [["q", "k", "v", "o"], ["k"], ["q", "fc1"]])
def test_the_last_block_is_the_same_where_only_one_position_is_computed(custom_text: bool, kinds: list[str]) -> None:
    """Recording the last block's input asks for all positions; features and gradients must not change by it."""
    model = tiny_model(custom_text=custom_text)
    clip = Clip(model, open_clip.SimpleTokenizer(context_length=16), {"mean": (0.5,) * 3, "std": (0.3,) * 3}, "tiny")
    draw = torch.Generator().manual_seed(0)
    for linear_map in clip.select(kinds, ["image", "text"]):
        A = 0.1 * torch.randn(3, linear_map.in_features, generator=draw)
        B = torch.randn(linear_map.out_features, 3, generator=draw).requires_grad_(True)
        linear_map.update = LowRank(A, B, 0.5)
    factors = [m.update.B for m in clip.maps.values() if m.update is not None]
    pixels = torch.randn(5, 3, 36, 36, generator=draw)
    tokens = clip.tokenize(["a", "a longer prompt of words", "two words"])

    def features_and_gradients(record: list[str]) -> list[torch.Tensor]:
        with clip.recording({name: lambda x, _: None for name in record}):
            found = [clip.encode_images(pixels), clip.encode_tokens(tokens), clip.encode_tokens(tokens, cut=False)]
        weights = [torch.linspace(-1, 1, f.numel()).view_as(f) for f in found]
        total = torch.stack([(f * w).sum() for f, w in zip(found, weights, strict=True)]).sum()
        return [*(f.detach() for f in found), *torch.autograd.grad(total, factors)]

    short = features_and_gradients([])
    long = features_and_gradients(["image.1.qkv", "text.1.fc2"])
    for a, b in zip(short, long, strict=True):
        assert torch.allclose(a, b, atol=1e-5), float((a - b).abs().max())

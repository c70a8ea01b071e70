"""Shortcuts of single computations against their definitions in float64: QuickGELU, second moments, ended passes."""

from collections.abc import Callable

import open_clip
import pytest
import torch
from torch import Tensor, nn

from bench.data.pixels import Pixels
from bench.learning.moments import SIDE, SecondMoment, outer_products, second_moments, slot_means
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.model.layers import WIDE, activation, patches
from bench.model.packing import Packing
from bench.model.updates import QuickGELU
from bench.trials.toy import CONTEXT_LENGTH, tiny_clip, tiny_model, toy_task

ROUNDING = 2.0**-24
"""Half of the distance of neighbouring float32 numbers, relative to them."""


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def test_quick_gelu_and_its_gradient_are_those_of_the_definition() -> None:
    x, g = torch.linspace(-30, 30, 4001, dtype=torch.float64), torch.linspace(-2, 2, 4001, dtype=torch.float64)
    exact = x.clone().requires_grad_(True)
    quick_gelu(exact).backward(g)
    assert exact.grad is not None
    for dtype, rounding in ((torch.float64, 2.0**-53), (torch.float32, ROUNDING), (torch.bfloat16, 2.0**-9)):
        mine = x.to(dtype).detach().clone().requires_grad_(True)
        y = QuickGELU()(mine)
        y.backward(g.to(dtype))
        assert mine.grad is not None and y.dtype == mine.grad.dtype == dtype
        read = mine.detach().double().requires_grad_(True)  # what is lost when x and g are rounded is no error of ours
        quick_gelu(read).backward(g.to(dtype).double())
        assert read.grad is not None
        size = read.detach().abs()
        assert ((y.detach().double() - quick_gelu(read.detach())).abs() <= 8 * rounding * size).all()
        assert ((mine.grad.double() - read.grad).abs() <= 4 * rounding * (1 + size) * g.abs()).all()
        with torch.no_grad():
            assert torch.equal(QuickGELU()(x.to(dtype)), y)


def kept_by(work: Callable[[], Tensor]) -> list[Tensor]:
    """Return the tensors that some work keeps for its backward pass."""
    kept = list[Tensor]()

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        work()
    return kept


def test_quick_gelu_leaves_its_input_alone_and_keeps_one_tensor() -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    QuickGELU()(x)
    assert torch.equal(x, before)
    kept = kept_by(lambda: QuickGELU()(x.requires_grad_(True)))
    assert torch.equal(x, before) and [t.shape for t in kept] == [x.shape]


def test_models_with_quick_gelu_compute_it_our_way_and_others_keep_theirs() -> None:
    for quick, kind in ((True, QuickGELU), (False, nn.GELU)):
        tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
        clip = Clip(tiny_model(quick_gelu=quick), tokenizer, {"size": 36}, "tiny")
        blocks = [*clip.model.visual.transformer.resblocks, *clip.text.transformer.resblocks]
        assert all(type(block.mlp.gelu) is kind for block in blocks)
        assert activation(clip.model) == kind.__name__


def test_attention_of_packed_texts_keeps_what_it_attends_with_and_not_the_row() -> None:
    tokens = torch.tensor([[1, 2, 3, 9, 0, 0, 0, 0], [1, 2, 4, 5, 6, 7, 8, 9]])
    packing = Packing.of(tokens, tokens.argmax(dim=-1))
    row = torch.randn(2 + 2 + 6, 3, 2, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    kept = kept_by(lambda: packing.attend(row * 1, torch.full((8, 8), float("-inf")).triu(1)))
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept if t.dim() == 4}
    rest, texts = 2 * 6 * 32 * 4, 2 * 8 * 32 * 4  # bytes of the padded rests and of whole texts
    assert sorted(sizes.values()) == sorted([rest, texts, texts, rest, 2 * 3 * 32 * 4, 2 * 32 * 4])


@pytest.mark.parametrize("channels", [64, WIDE])
def test_wide_patches_are_embedded_by_a_product_and_others_as_before(channels: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, channels, 4, 4, bias=channels == 64).requires_grad_(False)
    mine, x = patches(layer), torch.randn(2, 3, 12, 20)
    assert mine.state_dict().keys() == layer.state_dict().keys()
    assert (mine is layer) == (channels < WIDE)

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.conv2d(x.double(), weight.double(), None, 4)

    bias = 0 if layer.bias is None else layer.bias.double()[:, None, None]
    got, weight = mine(x).double() - bias, layer.weight
    bound = 50 * ROUNDING * (exact(x.abs(), weight.abs()) + 1)  # 48 products and a sum, rounded in any order
    assert got.shape == exact(x, weight).shape and ((got - exact(x, weight)).abs() <= bound).all()
    mine.weight.requires_grad_(True)
    mine(x).square().sum().backward()
    assert mine.weight.grad is not None and mine.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize("width", [48, 2 * SIDE, 2 * SIDE + 40, 3 * SIDE])
def test_outer_products_are_symmetric_and_off_by_rounding_only(width: int) -> None:
    rows = torch.randn(300, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, width)
    got, exact = outer_products(rows), rows.double()
    assert torch.equal(got, got.T)
    bound = len(rows) * ROUNDING * (exact.abs().T @ exact.abs())  # of a sum of rounded products, in any order
    assert ((got.double() - exact.T @ exact).abs() <= bound).all()
    if width < 2 * SIDE:
        assert torch.equal(got, rows.T @ rows)


def test_products_of_wide_activations_are_computed_on_one_side_of_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    products = list[tuple[int, int]]()
    plain = Tensor.__matmul__

    def seen(a: Tensor, b: Tensor) -> Tensor:
        products.append((a.shape[0], b.shape[1]))
        return plain(a, b)

    monkeypatch.setattr(Tensor, "__matmul__", seen)
    outer_products(torch.zeros(3, 3 * SIDE))
    assert sum(a * b for a, b in products) == 6 * SIDE**2


def test_batches_are_summed_in_float64() -> None:
    moment = SecondMoment(2, torch.device("cpu"))
    moment.add(torch.full((1, 2), 2.0**12))
    for _ in range(16):
        moment.add(torch.ones(1, 2))  # in float32 each would be lost beside 2^24
    assert torch.equal(moment.gram, torch.full((2, 2), 2.0**24 + 16, dtype=torch.float64))


def test_a_pass_ends_at_the_last_activation_that_is_wanted() -> None:
    """The moments are to the bit those of whole passes, and no layer after the last recorded one is computed."""
    clip, task = tiny_clip(), toy_task(0)
    train = Pixels(task.train, clip, True)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), train, Context(1, 8, 0, 0))
    computed = set[str]()
    for name, module in clip.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: computed.add(name))
    for kinds in (("q", "o"), ("v",)):
        maps = clip.select(kinds, ("image", "text"))
        whole = {m.site.name: SecondMoment(m.site.width, clip.device) for m in maps}
        with torch.no_grad(), clip.recording({name: moment.add for name, moment in whole.items()}):
            for pixels, _ in data.batches("statistics"):
                clip.encode_images(pixels)
            clip.encode_tokens(data.tokens)
        assert "visual.transformer.resblocks.1.mlp.c_proj" in computed
        computed.clear()
        moments = second_moments(clip, data, maps)
        assert moments.keys() == whole.keys()
        assert all(torch.equal(moments[name].gram, whole[name].gram) for name in whole)
        last = {name for name in computed if "resblocks.1" in name}
        assert last == {f"{tower}transformer.resblocks.1.ln_1" for tower in ("visual.", "")}
        assert not any(site.recorder for site in clip.sites.values())
        computed.clear()
        images = clip.select(kinds, ("image",))
        slot_means(clip, data, images)
        assert {name for name in computed if "resblocks.1" in name} == {"visual.transformer.resblocks.1.ln_1"}
        computed.clear()

"""What is computed beside attentions and MLPs: where it is added, in every way that a tower computes its tokens."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.config import registry
from bench.model.clip import Clip
from bench.trials.contract import verify
from bench.trials.toy import CONFIG, tiny_clip, toy_task

PROMPTS = ["a picture of a red thing", "a picture of two blue things", "something else"]


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 36, 36, generator=torch.Generator().manual_seed(1))


def matrix(rows: int, columns: int, seed: int = 2) -> Tensor:
    return 0.3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    return lambda x, read: F.linear(x, weight.to(x))


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_what_is_beside_an_mlp_is_added_to_its_output(tower: str, block: int, kind: str) -> None:
    """At ``residual`` it reads what the normalisation before the MLP reads."""
    clip, wide = tiny_clip(), tiny_clip()
    tokens = clip.tokenize(PROMPTS)
    encode = {"image": lambda c: c.encode_images(images()), "text": lambda c: c.encode_tokens(tokens)}[tower]
    resblock = (wide.model.visual if tower == "image" else wide.text).transformer.resblocks[block]
    weight = matrix(*[resblock.ln_2.weight.shape[0]] * 2)

    with clip.beside({f"{tower}.{block}.{kind}": linear(weight)}), torch.no_grad():
        found = encode(clip)
    resblock.mlp.c_proj = _Sum(resblock.mlp.c_proj, resblock.ln_2, weight, before=kind == "residual")
    with torch.no_grad():
        expected = encode(wide)
    assert (found - expected).abs().max() < 1e-5
    assert (found - encode(clip)).abs().max() > 1e-2


class _Sum(torch.nn.Module):
    """The second layer of an MLP with what is added, made from what the normalisation before it gave or read last."""

    def __init__(self, layer: Any, norm: Any, weight: Tensor, before: bool):
        super().__init__()
        self.layer, self.weight = layer, weight
        norm.register_forward_hook(lambda module, given, result: setattr(self, "seen", given[0] if before else result))

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        return self.layer(x, counted) + self.seen @ self.weight.T


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("block", [0, 1])
def test_what_is_added_to_the_heads_is_another_value_for_every_query(tower: str, block: int) -> None:
    """Adding c to all heads is adding W_o c to the attention's output, which is a change of the output map's bias."""
    clip, shifted = tiny_clip(), tiny_clip()
    tokens = clip.tokenize(PROMPTS)
    encode = {"image": lambda c: c.encode_images(images()), "text": lambda c: c.encode_tokens(tokens)}[tower]
    attention = (shifted.model.visual if tower == "image" else shifted.text).transformer.resblocks[block].attn
    constant = matrix(attention.heads, attention.out_proj.weight.shape[1] // attention.heads)

    def branch(q: Tensor, read: Tensor | None) -> Tensor:
        return constant[:, None].expand_as(q)

    with clip.beside({f"{tower}.{block}.heads": branch}), torch.no_grad():
        found = encode(clip)
    attention.out_proj.bias += attention.out_proj.weight @ constant.flatten()
    assert (found - encode(shifted)).abs().max() < 1e-5
    added = attention.out_proj.weight @ constant.flatten()
    with clip.beside({f"{tower}.{block}.attention": lambda x, read: added.expand_as(x)}), torch.no_grad():
        assert (encode(clip) - found).abs().max() < 1e-5


def test_a_branch_at_the_heads_reads_the_queries() -> None:
    clip, tokens = tiny_clip(), tiny_clip().tokenize(PROMPTS)
    attention, seen = clip.model.visual.transformer.resblocks[0].attn, {}

    def keep(name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        return lambda x, read: seen.update({name: (x, read)}) or torch.zeros_like(x)

    places = ["image.0.heads", "image.0.attention", "image.1.heads", "text.0.heads", "text.1.heads", "text.1.mlp"]
    before = clip.encode_images(images()), clip.encode_tokens(tokens)
    with clip.beside({name: keep(name) for name in places}):
        after = clip.encode_images(images()), clip.encode_tokens(tokens)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    x, read = seen["image.0.attention"]
    q = (x @ attention.in_proj_weight[:64].T + attention.in_proj_bias[:64]).view(3, 10, 2, 32).transpose(1, 2)
    assert (seen["image.0.heads"][0] - q).abs().max() < 1e-5
    assert read.tolist() == [0, 0, 0] and seen["image.1.heads"][0].shape == (3, 2, 1, 32)
    row = seen["text.0.heads"]
    assert row[0].shape[:2] == (1, 2) and row[1] is None  # packed
    assert seen["text.1.heads"][0].shape == (3, 2, 1, 24) and seen["text.1.mlp"][0].shape == (3, 1, 48)


def test_whole_texts_are_seen_one_by_one_with_the_token_that_is_read() -> None:
    clip, seen = tiny_clip(), {}
    tokens = clip.tokenize(PROMPTS)
    ends = clip.embed(tokens)[1]

    def routed(name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        def branch(x: Tensor, read: Tensor | None) -> Tensor:
            assert read is not None
            seen[name] = x.shape, read
            return x[torch.arange(len(x)), read][:, None] * 0.1 + torch.zeros_like(x)  # depends on the text's end

        return branch

    branches = {f"text.{block}.mlp": routed(f"text.{block}.mlp") for block in (0, 1)}
    with clip.beside(branches, whole_texts=True), torch.no_grad():
        together = clip.encode_tokens(tokens)
        assert seen["text.0.mlp"][0] == (3, int(ends.max()) + 1, 48) and torch.equal(seen["text.0.mlp"][1], ends)
        assert seen["text.1.mlp"][0] == (3, 1, 48) and seen["text.1.mlp"][1].tolist() == [0, 0, 0]
        alone = torch.cat([clip.encode_tokens(tokens[i : i + 1]) for i in range(3)])
        embedded = clip.encode_embeddings(*clip.embed(tokens))
    assert (together - alone).abs().max() < 1e-5 and (together - embedded).abs().max() < 1e-5
    assert (together - clip.encode_tokens(tokens)).abs().max() > 1e-3


def test_branches_of_one_text_at_a_time_are_those_of_packed_texts() -> None:
    clip, weight = tiny_clip(), matrix(48, 48)
    tokens = clip.tokenize(PROMPTS)
    found = []
    for whole in (False, True):
        with clip.beside({"text.0.mlp": linear(weight), "text.1.attention": linear(weight)}, whole_texts=whole):
            found.append(clip.encode_tokens(tokens))
    assert (found[0] - found[1]).abs().max() < 1e-5


def test_whole_texts_have_all_tokens_at_the_residual_of_the_last_block() -> None:
    clip, seen = tiny_clip(), {}
    tokens = clip.tokenize(PROMPTS)

    def keep(name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        return lambda x, read: seen.update({name: (x, read)}) or torch.zeros_like(x)

    plain = clip.encode_tokens(tokens)
    names = [f"{tower}.1.residual" for tower in ("image", "text")]
    with clip.beside({name: keep(name) for name in names}, whole_texts=True):
        assert (clip.encode_tokens(tokens) - plain).abs().max() < 1e-5
        clip.encode_images(images())
    ends = clip.embed(tokens)[1]
    x, read = seen["text.1.residual"]
    assert x.shape == (3, int(ends.max()) + 1, 48) and torch.equal(read, ends)
    assert (x[:, 0] - x[:1, 0]).abs().max() < 1e-6  # the start of a text sees itself alone
    assert seen["image.1.residual"][0].shape == (3, 1, 64)


@pytest.mark.parametrize("pooling", [{"pool_type": "avg"}, {"attentional_pool": True}])
def test_a_tower_that_pools_otherwise_has_the_same_places(pooling: dict[str, Any]) -> None:
    config = copy.deepcopy(CONFIG)
    config["vision_cfg"].update(pooling, **({"attn_pooler_heads": 2} if "attentional_pool" in pooling else {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
    plain = F.normalize(model.encode_image(images()), dim=-1)
    clip = Clip(model, None, {"size": 36, "mean": (0.5,) * 3, "std": (0.3,) * 3}, "pools")
    assert (clip.encode_images(images()) - plain).abs().max() < 1e-6
    with clip.beside({"image.1.mlp": linear(matrix(64, 64))}):
        assert (clip.encode_images(images()) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_reach_what_is_beside(precision: str) -> None:
    clip, weight = tiny_clip(), matrix(64, 64)
    with clip.computing(precision), clip.trainable([weight]), clip.beside({"image.0.mlp": linear(weight)}):
        clip.encode_images(images()).sum().backward()
        assert weight.grad is not None and weight.grad.abs().max() > 0
    assert weight.grad is None


def test_nothing_stays_and_wrong_names_are_refused() -> None:
    clip = tiny_clip()
    before = clip.encode_images(images())
    with pytest.raises(KeyError, match="image.0.mpl.*image.0.mlp"), clip.beside({"image.0.mpl": linear}):
        pass
    both = {name: linear(matrix(64, 64)) for name in ("image.1.mlp", "image.0.mlp")}
    with (
        clip.beside({"image.0.mlp": linear(matrix(64, 64))}),
        pytest.raises(ValueError, match=r"at image.0.mlp already"),
        clip.beside(both),
    ):
        pass
    with pytest.raises(ZeroDivisionError), clip.beside({"image.0.mlp": lambda x, read: 1 / 0}):
        clip.encode_images(images())
    assert torch.equal(clip.encode_images(images()), before)
    assert clip.places[:3] == ("image.0.heads", "image.0.attention", "image.0.mlp") and len(clip.places) == 16


def test_the_example_of_the_documentation_keeps_the_contract(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))
    file = tmp_path / "experts.py"
    file.write_text(found["experts.py"], encoding="utf-8")
    method = registry.load("method", str(file))
    tasks = [toy_task(index, train=24, test=6) for index in range(2)]
    assert [(one.test, one.problem) for one in verify(method, None, tasks) if one.problem] == []

"""Updates of every kind: their factors, the weight that is formed, what is kept of them and what is reported."""

import re
from pathlib import Path

import pytest
import torch
from bench.methods.low_rank import tensors_named
from torch import Tensor

from bench.config import registry
from bench.learning.held import held
from bench.learning.observers import Observation, Observers
from bench.learning.training_state import Misfit, TrainingState
from bench.model.clip import Clip
from bench.model.linear_maps import Branches, LinearMap, LowRank, Update
from bench.runs.state import RunState
from bench.trials.contract import verify
from bench.trials.toy import tiny_clip, toy_task

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"


class Gated(Update):
    def __init__(self, A: Tensor, B: Tensor, g: Tensor):
        self.A, self.B, self.g = A, B, g

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.A, self.B * self.g


class Core(Update):
    scale = 0.7

    def __init__(self, V: Tensor, M: Tensor, U: Tensor):
        self.V, self.M, self.U = V, M, U

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.V, self.U @ self.M


def numbers(draw: torch.Generator, *shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=draw, dtype=torch.float64)


def attached(kind: str, clip: Clip, rank: int = 3) -> dict[str, Tensor]:
    """Attach an update of a kind to every map; returns all its tensors, a shared one once."""
    draw, shared, like = torch.Generator().manual_seed(0), {}, clip.maps["image.0.q"].weight
    for m in clip.select("qkvo", ["image", "text"]):
        A, B = numbers(draw, rank, m.in_features).to(like), numbers(draw, m.out_features, rank).to(like)
        if kind == "gated":
            m.update = Gated(A, B, torch.tensor([1.5, 0.0, -0.5]).to(like))
        elif kind == "core":
            m.update = Core(A, numbers(draw, rank, rank).to(like), B)
        else:
            common = shared.setdefault(m.site.name, A)
            other = Core(numbers(draw, 2, m.in_features).to(like), torch.eye(2).to(like), B[:, :2].clone())
            m.update = Branches(LowRank(common, B, 0.25), other)
    return {f"{m.name}/{name}": t for m in clip.maps.values() if m.update for name, t in m.update.tensors().items()}


def change(m: LinearMap) -> Tensor:
    """The definition, from the tensors."""
    update = m.update
    if isinstance(update, Branches):
        first, second = update.branches
        return 0.25 * first.B @ first.A + 0.7 * second.U @ second.M @ second.V
    if isinstance(update, Gated):
        return update.B @ torch.diag(update.g) @ update.A
    return 0.7 * update.U @ update.M @ update.V


def outputs(clip: Clip) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, *clip.image_size, generator=draw).to(clip.maps["image.0.q"].weight)
    tokens = clip.tokenize(["a photo of a cat.", "a photo of two dogs.", "a bird"])
    return torch.cat([clip.encode_images(pixels), clip.encode_tokens(tokens)])


@pytest.mark.parametrize("kind", ["gated", "core", "branches"])
def test_an_update_has_the_outputs_and_gradients_of_its_definition(kind: str) -> None:
    ours, twin = tiny_clip(), tiny_clip()
    for clip in (ours, twin):
        clip.model.double()
    found, expected = attached(kind, ours), attached(kind, twin)
    for tensor in (*found.values(), *expected.values()):
        tensor.requires_grad_(True)
    got = outputs(ours)
    deltas = {m.name: change(m) for m in twin.maps.values() if m.update}
    rows = {id(m.parameter): [] for m in twin.maps.values() if m.update}
    for m in twin.maps.values():
        if m.update:
            rows[id(m.parameter)].append(deltas[m.name])
        m.update = None
    named = dict(twin.model.named_parameters())
    whole = {n: p + torch.cat(rows[id(p)]) if id(p) in rows else p for n, p in named.items()}
    with torch.no_grad():  # the same values; gradients follow by the chain rule below
        for name, parameter in named.items():
            parameter.copy_(whole[name])
    with twin.trainable(named.values()):
        wanted = outputs(twin)
        weights = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
        (wanted * weights).sum().backward()
        upstream = {name: parameter.grad for name, parameter in named.items()}
        sum((whole[n] * upstream[n]).sum() for n in whole if whole[n] is not named[n]).backward()
    (got * weights).sum().backward()
    assert (got - wanted).abs().max() < 1e-12
    for name, tensor in found.items():
        gradient = expected[name].grad
        assert gradient.norm() > 0 or "text" in name
        assert (tensor.grad - gradient).abs().max() < 1e-12 * gradient.abs().max().clamp(min=1), name


@pytest.mark.parametrize("kind", ["gated", "core", "branches"])
def test_merging_adds_the_change_in_fp32_and_keeps_the_function(kind: str) -> None:
    clip = tiny_clip()
    attached(kind, clip)
    before = {m.name: m.weight.clone() for m in clip.maps.values()}
    deltas = {m.name: m.update.delta() for m in clip.maps.values() if m.update}
    exact = {m.name: change(m) for m in clip.maps.values() if m.update}
    function = outputs(clip)
    clip.merge()
    assert (outputs(clip) - function).abs().max() < 1e-5
    for name, delta in deltas.items():
        assert torch.equal(clip.maps[name].weight, before[name] + delta)
        assert (delta - exact[name]).abs().max() < 1e-6
        assert clip.maps[name].update is None


def test_factors_keep_their_precision_where_products_are_lowered() -> None:
    clip, seen = tiny_clip(), []

    class Watched(Core):
        def factors(self) -> tuple[Tensor, Tensor]:
            seen.append(super().factors()[1].dtype)
            return super().factors()

    attached("core", clip)
    for m in clip.maps.values():
        if m.update is not None:
            m.update = Watched(m.update.V, m.update.M, m.update.U)
    with clip.computing("bf16"):
        outputs(clip)
    assert seen and set(seen) == {torch.float32}


class Holder:
    """As much of a method as a checkpoint asks for."""

    def __init__(self, parameters: list[Tensor]):
        self.trained = parameters

    def parameters(self) -> list[Tensor]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    training_state = state_dict

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass

    load_training_state = load_state_dict


@pytest.mark.parametrize("kind", ["gated", "core", "branches"])
def test_a_checkpoint_inside_a_task_restores_every_tensor_in_place(kind: str) -> None:
    clip, other = tiny_clip(), tiny_clip()
    trained, again = attached(kind, clip), attached(kind, other)
    with torch.no_grad():
        for tensor in dict.fromkeys(trained.values()):
            tensor += 1
    tensors, values = RunState(clip, clip.digests()).inside_task(
        Holder(list(trained.values())), TrainingState({}, {"step": 1})
    )
    assert not any(name.startswith("parameter/") for name in tensors), "every trained tensor is an update's"
    RunState(other, other.digests()).load_inside_task(Holder([]), {n: t.clone() for n, t in tensors.items()}, values)
    for name, tensor in again.items():
        assert torch.equal(tensor, trained[name]), name
    assert torch.equal(outputs(other), outputs(clip))


@pytest.mark.parametrize("kind", ["gated", "core", "branches"])
def test_an_update_that_stays_attached_after_a_task_is_kept_as_its_factors(kind: str) -> None:
    clip, other = tiny_clip(), tiny_clip()
    attached(kind, clip)
    tensors = RunState(clip, clip.digests()).between_tasks(Holder([]))
    RunState(other, other.digests()).load_between_tasks(Holder([]), tensors)
    assert isinstance(other.maps["text.1.o"].update, LowRank)
    assert torch.equal(outputs(other), outputs(clip))


def test_an_update_made_of_other_tensors_is_refused() -> None:
    clip, other = tiny_clip(), tiny_clip()
    attached("gated", clip), attached("core", other)
    tensors, values = RunState(clip, clip.digests()).inside_task(Holder([]), TrainingState({}, {}))
    with pytest.raises(Misfit, match="the update of image.0.q is made of other tensors"):
        RunState(other, other.digests()).load_inside_task(Holder([]), tensors, {"training": {}} | values)


def test_tensors_of_updates_that_a_method_keeps_are_counted() -> None:
    clip = tiny_clip()
    attached("branches", clip)
    holder = Holder([])
    holder.kept = [clip.maps[name].update for name in ("image.0.q", "image.0.k")]
    m = clip.maps["image.0.q"]
    own = m.out_features * 3 + 2 * m.in_features + 4 + 2 * m.out_features
    assert sum(t.numel() for t in held(holder, clip.model).values()) == 3 * m.in_features + 2 * own


def test_tensors_are_named_in_the_order_of_the_maps_and_shared_ones_once() -> None:
    clip = tiny_clip()
    attached("branches", clip)
    maps = clip.select("qkvo", ["image"])
    assert len(tensors_named(maps, "0.A")) == len({m.site.name for m in maps}) < len(maps)
    both = tensors_named(clip.maps.values(), "0.B", "1.M")  # the MLPs have no update
    assert both[1] is clip.maps["image.0.q"].update.branches[1].M and len(both) == 2 * 2 * len(maps)


def test_listeners_hear_the_factors_and_the_tensors(tmp_path: Path) -> None:
    from bench.config.resolve import resolve
    from bench.runs.run import run

    heard: list[Observation] = []
    observers = Observers()
    observers.on("update", heard.append)
    toy = Path(__file__).parent / "toy.py"
    line = [f"stream={toy}", "stream.count=1", f"model={toy}", "method=lora", "method.rank=2", f"out={tmp_path}"]
    run(resolve([*line, "device=cpu", "train.steps=3"]), observers=observers)
    values = heard[0].values
    assert heard[0].name == "image.0.q" and values["scale"] == 8.0
    assert values["A"] is values["tensors"]["A"] and values["tensors"].keys() == {"A", "B"}


def test_an_update_that_does_not_say_its_factors_is_named() -> None:
    with pytest.raises(NotImplementedError, match="Nothing does not say its factors"):
        type("Nothing", (Update,), {})().factors()


def test_the_example_of_the_page_keeps_the_contract(tmp_path: Path) -> None:
    found = re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)
    file = tmp_path / "core.py"
    file.write_text(dict(found)["core.py"], encoding="utf-8")
    method = registry.load("method", str(file))
    tasks = [toy_task(index, train=24, test=6) for index in range(2)]
    assert [verdict for verdict in verify(method, None, tasks) if verdict.problem] == []

"""The table of the low-rank methods in docs/rivals.md and its picture: what the code can tell is compared with it."""

import importlib
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from bench.methods.low_rank import PerTower
from support.learning import data

from bench.config import registry
from bench.config.run_settings import Train, class_settings
from bench.learning.method import Method
from bench.learning.optimizer import tensors_of
from bench.learning.task_data import Context, TaskData
from bench.record.flags import flags_of
from bench.runs.loading import reference_of
from bench.trials.toy import tiny_clip, toy_reference

ROOT = Path(__file__).parent.parent
RANK, WIDTHS = 2, [64, 64, 48, 48]
"""Rank of the updates, and the widths of the blocks of the toy model."""


def low_rank() -> list[str]:
    """Return the methods that learn by updates of some maps; presets count as the method that they are of."""
    classes: dict[str, Any] = {name: registry.load("method", name) for name in registry.entries("method")}
    learning = {name: cls for name, cls in classes.items() if "learning" in cls.kinds}
    found = [name for name, cls in learning.items() if {"maps", "rank"} <= set(vars(class_settings(cls)()))]
    methods = [name for name in found if not classes[name].bound]
    return [name for name in methods if not name.endswith("-faithful") and not name.startswith("keeplora-")]


@pytest.fixture(scope="module")
def family() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield importlib.import_module("family")


def made(name: str) -> Method:
    cls, clip = registry.load("method", name), tiny_clip()
    context = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0, reference=reference_of(toy_reference(), clip))
    # What is protected by default after a task with three prompts leaves too few directions for the rank.
    less = {"feature_energy": PerTower(0.5, 0.5)} if name == "keeplora" else {}
    return cls(cls.Settings(rank=RANK, **less), clip, context)


def train(method: Method) -> None:
    """Give everything that is trained other values, as training does."""
    for tensor in tensors_of(method.parameters()):
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", low_rank())
def test_the_table_says_what_the_method_does(name: str, family: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    member, method, drawn = family.FAMILY[name], made(name), []
    make_generator = TaskData.init_generator

    def init_generator(task: TaskData, purpose: str) -> torch.Generator:
        drawn.append((made := make_generator(task, purpose), made.get_state()))
        return made

    monkeypatch.setattr(TaskData, "init_generator", init_generator)
    before = {one: m.weight.clone() for one, m in method.clip.maps.items()}
    first, second = (data(method.clip, index) for index in range(2))
    first.budget = second.budget = Train(weight_decay=0.0)
    method.begin_task(first)
    adapted = [m for m in method.clip.maps.values() if m.update]
    random = any(not torch.equal(draw.get_state(), state) for draw, state in drawn)
    assert random == member.source.startswith("random")
    assert any(bool(m.update.factors()[1].any()) for m in adapted) != member.start.startswith("0")
    assert any(not torch.equal(m.weight, before[m.name]) for m in adapted) == member.rest
    counted = [sum(tensor.numel() for tensor in tensors_of(method.parameters()))]
    train(method)
    method.end_task(first)
    kept = [method.stored_bytes()]
    assert (kept[0] == 0) == (member.kept == "nothing")

    method.begin_task(second)
    given = {id(tensor) for tensor in tensors_of(method.parameters())}
    counted.append(sum(tensor.numel() for tensor in tensors_of(method.parameters())))
    assert counted == [family.trained(count, RANK, WIDTHS) for count in (member.first, member.later)]
    named = [item for m in adapted if m.update for item in m.update.tensors().items()]
    assert {key for key, tensor in named if id(tensor) not in given} == set(member.frozen)
    train(method)
    method.end_task(second)
    kept.append(method.stored_bytes())
    grows = bool(flags_of(type(method), method.settings).grows)
    assert kept[1] > kept[0] if grows else kept[1] == kept[0]


def test_the_table_of_the_page_is_what_its_script_writes(family: ModuleType) -> None:
    """Its seconds are those of the table of costs: where that was measured again, docs/family.py is to be run."""
    page = (ROOT / "docs" / "rivals.md").read_text(encoding="utf-8")
    assert family.written(page) == page
    took = family.seconds(page)
    assert took["lora"] == "1.00" and set(family.FAMILY) <= set(took)
    tail = family.trained(family.FAMILY["nusa-cl"].first, rank=128)
    assert f"trains {tail:,} numbers" in page
    ranks = {name: class_settings(registry.load("method", name))().rank for name in family.FAMILY}
    assert {name: rank for name, rank in ranks.items() if rank != family.RANK} == {"inflora": 10, "nusa-cl": 128}


def within(box: Any, span: Any) -> bool:
    return span[0] <= box[0] and box[1] <= span[1]


def apart(box: Any, span: Any) -> bool:
    return box[1] <= span[0] or span[1] <= box[0]


def test_the_picture_keeps_updates_out_of_what_the_table_calls_protected(family: ModuleType) -> None:
    members = family.FAMILY
    for box in members["keeplora"].held:
        assert within(box, family.NEW) and apart(box, family.PAST) and apart(box, family.STRONG)
    for name in ("inflora", "splitlora", "o-lora", "loda"):
        assert all(apart(box, family.PAST) for box in members[name].held)
    assert all(apart(box, family.STRONG) and apart(box[2:], family.STRONG) for box in members["nusa-cl"].held)
    assert all(apart(box[2:], family.PAST) and within(box[2:], family.NEW) for box in members["sc-lora"].held)
    for member in members.values():
        anywhere = member.free == family.ALL
        assert anywhere == (member.protected.startswith("nothing") or "start only" in member.protected)


def test_the_picture_has_the_methods_of_the_table_and_no_text_lies_on_another(family: ModuleType) -> None:
    figure = family.draw()
    texts = [text for axes in figure.axes for text in axes.texts]
    assert [text.get_text() for text in texts if text.get_family() == ["monospace"]] == list(family.FAMILY)
    figure.draw_without_rendering()
    places = [text.get_window_extent() for text in (*texts, *figure.texts)]
    assert not [pair for pair in itertools.combinations(places, 2) if pair[0].overlaps(pair[1])]
    width, height = figure.canvas.get_width_height()
    assert all(min(one.x0, one.y0) >= 0 and one.x1 <= width and one.y1 <= height for one in places)


def test_the_script_writes_page_and_picture(
    family: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / family.PAGE).read_text(encoding="utf-8")
    start, end = family.MARKS
    (tmp_path / family.PAGE).write_text(page.partition(start)[0] + start + end + page.partition(end)[2], "utf-8")
    monkeypatch.setattr(family, "DOCS", tmp_path)
    family.main()
    assert (tmp_path / family.PAGE).read_text(encoding="utf-8") == page
    made, kept = (folder.joinpath(family.PICTURE).read_bytes() for folder in (tmp_path, ROOT / "docs"))
    assert struct.unpack(">II", made[16:24]) == struct.unpack(">II", kept[16:24])

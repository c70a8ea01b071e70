"""One group of settings: declaring, describing, converting."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bench.config.fields import Setting, build, complaints, describe, setting, show
from bench.core.errors import UserError


@dataclass
class Inner:
    image: float = setting(1, "image tower", high=1)
    text: float = 0.5


@dataclass
class Outer:
    rank: int = setting(4, "columns", low=1, below=65, symbol="r")
    energy: Inner = setting(Inner(text=0.25), "share", above=0, high=0.9, symbol="eps")
    plain: Inner = field(default_factory=Inner)
    maps: list[str] = setting(["q"], "maps", choices=("q", "v"))
    sizes: list[int] = setting([1], "sizes", low=1)
    clip: float | None = setting(None, "clip", above=0)

    def check(self) -> list[str]:
        return ["rank is thirteen"] if self.rank == 13 else []


def test_describe_walks_nested_groups_in_order():
    found = describe(Outer, "method.")
    assert list(found) == [
        "method.rank",
        "method.energy.image",
        "method.energy.text",
        "method.plain.image",
        "method.plain.text",
        "method.maps",
        "method.sizes",
        "method.clip",
    ]
    rank = found["method.rank"]
    assert (rank.default, rank.help, rank.symbol, rank.range, rank.type_name) == (
        4,
        "columns",
        "r",
        ">= 1, < 65",
        "int",
    )
    assert found["method.maps"].range == "q | v"
    assert found["method.maps"].type_name == "list of str"
    assert found["method.clip"].type_name == "float or null"
    default = found["method.plain.image"].default
    assert default == 1.0
    assert isinstance(default, float)


def test_members_inherit_what_the_group_was_given_unless_they_say_otherwise():
    found = describe(Outer)
    text, image = found["energy.text"], found["energy.image"]
    assert (text.default, text.above, text.high, text.symbol, text.help) == (0.25, 0, 0.9, "eps", "share")
    assert (image.above, image.high, image.help) == (0, 1, "share; image tower")


def test_defaults_of_lists_and_groups_are_not_shared():
    first, second = Outer(), Outer()
    first.maps.append("v")
    first.energy.text = 0.1
    assert second.maps == ["q"]
    assert second.energy.text == 0.25


def test_build_makes_nested_instances_and_complaints_asks_them():
    values = {key: one.default for key, one in describe(Outer, "m.").items()} | {"m.rank": 13, "m.energy.image": 0.75}
    outer = build(Outer, values, "m.")
    assert outer.energy == Inner(0.75, 0.25)
    assert outer.plain == Inner(1.0, 0.5)
    assert complaints(outer) == ["rank is thirteen"]
    outer.maps.append("v")
    assert values["m.maps"] == ["q"]


@pytest.mark.parametrize(
    ("type_", "many", "value", "raw", "expected"),
    [
        (int, False, 8, "8", 8),
        (float, False, 1, "1", 1.0),
        (str, False, False, "off", "off"),
        (str, False, 7, "007", "007"),
        (bool, False, True, "yes", True),
        (bool, False, "no", "no", False),
        (bool, True, None, "[on, False]", [True, False]),
        (int, True, None, "[010, 8]", [10, 8]),
        (float, True, None, "[1, 1e-3]", [1.0, 0.001]),
        (str, True, ["q", "v"], "[q,v]", ["q", "v"]),
        (float, True, (1, 2.5), None, [1.0, 2.5]),
    ],
)
def test_convert_accepts(type_, many, value, raw, expected):
    found = Setting("key", type_, many, False, None).convert(value, raw)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("one", "value", "said"),
    [
        (Setting("k", int, False, False, 0), "eight", "must be a whole number"),
        (Setting("k", int, False, False, 0), 1.5, "must be a whole number"),
        (Setting("k", int, False, False, 0), True, "must be a whole number"),
        (Setting("k", float, False, False, 0), "x", "must be a number"),
        (Setting("k", float, False, False, 0), True, "must be a number"),
        (Setting("k", float, False, False, 0), float("nan"), "must be a finite number"),
        (Setting("k", float, False, False, 0), float("inf"), "must be a finite number"),
        (Setting("k", bool, False, False, 0), 1, "must be true or false"),
        (Setting("k", str, False, False, ""), None, "needs a value: text"),
        (Setting("k", str, True, False, []), "q", r"must be a list of str, written as k=\[a,b\]"),
        (Setting("k", str, True, False, [], choices=("q", "v")), ["q", "w"], "must be one of q, v"),
        (Setting("k", int, True, False, [], low=1), [1, 0], "is out of range: it must be >= 1"),
        (Setting("k", int, False, False, 1, low=1), 0, "is out of range: it must be >= 1"),
        (Setting("k", int, False, False, 1, high=3), 4, "is out of range: it must be <= 3"),
        (Setting("k", float, False, False, 1, above=0, high=1), 0, "is out of range: it must be > 0 and <= 1"),
        (Setting("k", float, False, False, 0, below=1), 1, "is out of range: it must be < 1"),
        (
            Setting("k", str, False, False, "", choices=("adamw", "sgd")),
            "adam",
            r'adamw, sgd \(did you mean "adamw"\?\)',
        ),
    ],
)
def test_convert_refuses(one, value, said):
    with pytest.raises(ValueError, match=said):
        one.convert(value)


def test_bounds_are_inclusive_or_exclusive_as_said():
    assert Setting("k", float, False, False, 1, low=0, high=1).convert(0) == 0
    assert Setting("k", float, False, False, 1, low=0, high=1).convert(1) == 1


def test_null_is_for_optional_settings():
    assert Setting("k", float, False, True, None, above=0).convert(None) is None


@dataclass
class Required:
    rank: int


@dataclass
class Exotic:
    rank: complex = 0j


@dataclass
class Outside:
    rank: int = setting(0, "x", low=1)


class NoDataclass:
    rank: int = 3


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (Required, "rank"),
        (Exotic, "use int, float, str"),
        (Outside, "default rank=0 is out"),
        (NoDataclass, "dataclass"),
    ],
)
def test_groups_that_are_not_declared_properly(group, said):
    with pytest.raises(UserError, match=said):
        describe(group)


def test_show_writes_values_as_a_user_would():
    assert [show(value) for value in (None, True, ["q", "v"], 0.001, "x")] == ["null", "true", "[q,v]", "0.001", "x"]


def test_only_a_text_can_be_a_path():
    @dataclass
    class Wrong:
        folders: list[str] = setting(["a"], "folders", path=True)

    with pytest.raises(UserError, match="folders is a path and declared as"):
        describe(Wrong)

"""The words of a command line: pairs, plain words, and paths that look like pairs."""

from pathlib import Path

import pytest

from bench.config.resolve import read
from bench.config.words import Pair, pair, split
from bench.config.written import means


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=1", Pair("seed", "1", "seed=1")),
        ("--train.lr=0.1", Pair("train.lr", "0.1", "--train.lr=0.1")),
        (" seed = 1 ", Pair("seed", " 1 ", " seed = 1 ")),
        ("key=a=b", Pair("key", "a=b", "key=a=b")),
        ("key=", Pair("key", "", "key=")),
        ("=1", Pair("", "1", "=1")),
        ("status", None),
        ("--help", None),
    ],
)
def test_a_word_is_a_pair_or_plain(word: str, expected: Pair | None) -> None:
    assert pair(word) == expected


def test_words_are_separated_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").mkdir()
    Path("x=" + "y" * 253).mkdir()
    words = ["runs", "method=lora", "a=b", "--seed=1", "more"]
    pairs, plain = split(words, paths=True)
    assert [one.word for one in pairs] == ["method=lora", "--seed=1"]
    assert plain == ["runs", "a=b", "more"]
    assert split(words)[1] == ["runs", "more"]
    longer = f"method=[{'x' * 300}]"  # no file can have such a name
    assert split([longer, "x=" + "y" * 253], paths=True) == ([Pair("method", longer[7:], longer)], ["x=" + "y" * 253])


def test_a_value_that_is_read_twice_is_not_shared() -> None:
    first = read(["maps=[q,v]"], [])
    first["maps"][0].append("k")
    assert read(["maps=[q,v]"], []) == {"maps": (["q", "v"], "[q,v]")}


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("010", 10, True),
        ("010", 8, False),
        ("010", "010", True),
        ("1e-3", 0.001, True),
        ("1.0", 1, True),
        ("on", True, True),
        ("1", True, False),
        ("no", "no", True),
        ("null", None, True),
        ("None", None, True),
        ("run #1", "run #1", True),
        ("'8'", "8", True),
        ("[q, v]", ["q", "v"], True),
        ("[q]", ["q", "v"], False),
        ("[1,v2.0,on]", ["1", "v2.0", "on"], True),
        ("q", ["q"], False),
    ],
)
def test_a_filter_is_read_as_the_type_of_what_it_is_compared_with(text: str, value: object, same: bool) -> None:
    assert means(text, value) is same

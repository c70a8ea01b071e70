"""config.yaml gives every text back as it was, also what looks like something else to a reader of YAML."""

import pytest
from omegaconf import OmegaConf

from bench.record.config_file import config_text


def test_settings_are_nested_in_their_order():
    flat = {
        "stream.name": "s",
        "seed": 3,
        "train.lr": 1e-05,
        "train.clip": None,
        "train.on": True,
        "method.maps": ["q", "v"],
    }
    assert config_text(flat) == (
        "stream:\n  name: s\nseed: 3\ntrain:\n  lr: 1.0e-05\n  clip: null\n  'on': true\n"
        "method:\n  maps:\n  - q\n  - v\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "${b",
        "${",
        "${oc.env:HOME}",
        r"\${b}",
        r"a\\${b}",
        "on",
        "1e3",
        "010",
        "run #1",
        "null",
        "2024-01-02",
        "a\nb",
        "é 😀",
        " a ",
        "",
        "\x07",
        "x" * 500,
    ],
)
def test_any_text_is_read_back(text):
    found = OmegaConf.to_container(
        OmegaConf.create(config_text({"track.name": text, "track.tags": [text]})), resolve=True
    )
    assert found == {"track": {"name": text, "tags": [text]}}


def test_text_that_looks_like_a_number_or_a_switch_is_quoted():
    assert config_text({"a": "1e3", "b": "y", "c": "1_0", "d": "x"}) == "a: '1e3'\nb: 'y'\nc: '1_0'\nd: x\n"

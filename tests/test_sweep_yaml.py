"""Sweep files that anybody may have written: values as written, the same key twice, bombs, too many points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.sweep import parameters
from bench.sweep.file import MANY, expand, find
from bench.sweep.parameters import DISTRIBUTIONS
from bench.sweep.yaml_file import LARGEST, Written, read

COMMAND = 'command: ["${env}", "${interpreter}", -m, bench, run, method=toy, "${args_no_hyphens}"]\n'


@pytest.fixture
def write(toys, tmp_path):
    """Return a function that writes a sweep file from lines below ``parameters:``."""

    def write(*lines: str, head: str = "method: grid\n") -> Path:
        file = tmp_path / "some.yaml"
        file.write_text(f"{head}{COMMAND}parameters:\n" + "".join(f"  {line}\n" for line in lines), encoding="utf-8")
        return file

    return write


def problems(file: Path, *words: str, **options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        expand(file, words, **options)
    return str(caught.value).splitlines()


def flat(file: Path, key: str) -> list[Any]:
    return [resolve(point.words).flat[key] for point in expand(file).points]


# ---------------------------------------------------------------------------------- values as they are written


@pytest.mark.parametrize("text", ["010", "0x10", "0b11", "1:30", "1:30.5", "0_7", "9" * 41, "!!int x"])
@pytest.mark.parametrize("line", ["seed: {{value: {}}}", "seed: {{values: [1, {}]}}", "train.lr: {{min: {}, max: 9}}"])
def test_a_number_that_yaml_reads_otherwise_is_refused(write, line, text):
    file = write(line.format(text))
    (said,) = problems(file)
    shown = text.removeprefix("!!int ")
    assert said.startswith(f"{file}, line 4: {shown} is another number in YAML, or none: write decimal digits")


def test_numbers_in_quotes_or_with_eights_are_decimal_for_everybody(write):
    file = write('seed: {values: ["010", 08, 9]}')
    assert flat(file, "seed") == [10, 8, 9]
    assert [point.words[-1] for point in expand(file).points] == ["seed=010", "seed=08", "seed=9"]
    assert flat(write("train.lr: {values: [1e-3, 1.0e-2, .5, 0.10]}"), "train.lr") == [0.001, 0.01, 0.5, 0.1]


@pytest.mark.parametrize(
    ("key", "text", "word"),
    [
        ("track.name", "on", "track.name=True"),
        ("track.name", "1.10", "track.name=1.1"),
        ("track.name", "+1", "track.name=1"),
        ("method.note", "1_000", "method.note=1000"),
        ("method.note", "No", "method.note=False"),
        ("track.tags", "[1, v2.0, on]", "track.tags=[1, 'v2.0', True]"),
        ("track.tags", "[1.0, 1.50]", "track.tags=[1.0, 1.5]"),
    ],
)
def test_text_that_yaml_changes_must_be_in_quotes(write, key, text, word):
    file = write(f"{key}: {{value: {text}}}")
    shown = text.replace(", ", ", ")
    assert problems(file) == [
        f"{file}: {key}: {_written(shown)} reaches a run as {word} through YAML: write it in quotes"
    ]
    group, _, name = key.partition(".")
    nested = write(f"{group}: {{parameters: {{{name}: {{values: [{text}]}}}}}}")
    assert len(problems(nested)) == 1


def _written(text: str) -> str:
    return text.replace("v2.0", "'v2.0'")


def test_text_in_quotes_and_values_of_other_types_are_as_they_are(write):
    file = write(
        'method.note: {values: ["on", "run #1", v2.0, "010", 7]}',
        'track.tags: {value: ["1", v2.0, "on", "a,b", 2024-01-02]}',
        "method.merge: {value: on}",
        "train.lr: {value: 0.10}",
        "train.weight_decay: {value: 1_0.0}",
        "method.scale: {value: ~}",
        "method.energy: {value: {image: 0.50, text: .25}}",
    )
    assert flat(file, "method.note") == ["on", "run #1", "v2.0", "010", "7"]
    point = resolve(expand(file).points[0].words)
    assert point.run.track.tags == ["1", "v2.0", "on", "a,b", "2024-01-02"]
    assert (point.run.train.lr, point.run.train.weight_decay) == (0.1, 10.0)
    assert (point.flat["method.merge"], point.flat["method.scale"]) == (True, None)
    assert (point.flat["method.energy.image"], point.flat["method.energy.text"]) == (0.5, 0.25)


def test_the_content_of_a_file_as_it_is_written(write):
    content = read(write("x: {values: [on, 1.0, a, '2', [1_0, {k: no}], ~]}"))
    values = content.written["parameters"]["x"]["values"]
    assert repr(values) == "[on, 1.0, 'a', '2', [1_0, {'k': no}], None]"
    assert isinstance(values[0], Written) and not isinstance(values[2], Written)
    assert content.values["parameters"]["x"]["values"] == [True, 1.0, "a", "2", [10, {"k": False}], None]


# ------------------------------------------------------------------------------------- files that are wrong


def test_a_key_that_is_there_twice_is_named_with_its_line(write):
    file = write("seed: {values: [0, 1]}", "train.lr: {value: 1, value: 2}", "seed: {values: [2]}")
    assert problems(file) == [
        f'{file}, line 5: "value" is there twice: keep one',
        f'{file}, line 6: "seed" is there twice: keep one',
    ]


@pytest.mark.parametrize("key", ["1", "on", "~", "[a]", "? {a: b}\n  "])
def test_keys_are_text(write, key):
    file = write(f"{key}: {{value: 1}}")
    assert problems(file) == [f"{file}, line 4: a key is no text: write it in quotes"]


@pytest.mark.parametrize("name", ["''", "' '", "a=b", "--seed", "seed ='", "'.rank'", "a..b", "'x\\n'"])
def test_names_of_parameters_are_those_of_settings(write, name):
    (said,) = problems(write(f"? {name}\n  : {{value: 1}}"))
    assert said.endswith("is no name of a setting: write it as on a command line")


def test_aliases_are_understood_and_bombs_are_not(write):
    base = "seed: {values: &some [2, 4]}"
    assert len(expand(write(base, "method.rank: {values: *some}", "train.epochs: {<<: {value: 2}}")).points) == 4
    bomb = [f"x{i}: &x{i} {{value: [{', '.join([f'*x{i - 1}'] * 9) if i else 'a'}]}}" for i in range(40)]
    file = write(*bomb)
    assert problems(file) == [f"{file}, line 1: its aliases stand for more than 1,000,000 characters: write values out"]
    file = write("x: &x [*x]", "seed: &y {parameters: *y}")
    said = "a value contains itself, through an alias: write it out"
    assert problems(file) == [f"{file}, line 4: {said}", f"{file}, line 5: {said}"]


@pytest.mark.parametrize("sign", ["[", "{a: ", "- ", "&a [", "? "])
def test_deep_nesting_ends_in_a_sentence(write, sign):
    file = write(f"x: {sign * 20_000}")
    (said,) = problems(file)
    assert said.startswith(str(file)) and "is no YAML: " in said


@pytest.mark.parametrize(
    "text", ["!!set {a}", "!!binary aGk=", "!!omap [a: 1]", "!unknown x", "!!python/name:os.system x"]
)
def test_kinds_of_values_that_no_run_takes(write, text):
    file = write(f"x: {{value: {text}}}")
    (said,) = problems(file)
    assert f"{file}, line 4: " in said and "is no kind of value that a run takes" in said


@pytest.mark.parametrize("text", ["!!bool x", "!!float x", "=", "2024-99-99: 1"])
def test_tags_that_do_not_fit_end_in_a_sentence(write, text):
    assert str(write(f"x: {{value: {text}}}")) in problems(write(f"x: {{value: {text}}}"))[0]


def test_files_that_cannot_be_read(write, tmp_path):
    file = write("seed: {value: 1}")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # an editor's byte-order mark
    assert len(expand(file).points) == 1
    file.write_bytes("méthod: grid".encode("latin-1"))
    assert problems(file) == [f"{file} cannot be read as UTF-8 (invalid continuation byte): save it with that encoding"]
    file.write_text("# " + "x" * LARGEST)
    assert problems(file) == [f"{file} is no sweep file: it has more than 1,000,000 characters"]
    for name, said in (
        (
            "~nosuchuser/x",
            'the path "~nosuchuser/x" starts with a home folder that is not known here: write the whole path',
        ),
        ("x" * 300, "has a part of 300 bytes: names of files have at most 255, shorten it"),
        (str(tmp_path), "there is no sweep file"),
        ("/dev/zero", "there is no sweep file"),
    ):
        with pytest.raises(UserError) as caught:
            find(name)
        assert said in str(caught.value)


# ------------------------------------------------------------------------------------------ too many points


def test_a_grid_says_how_many_points_it_means(write):
    axes = [f"method.note{i}: {{values: {list(range(100))}}}" for i in range(3)]
    file = write(*axes)
    assert problems(file) == [
        f"{file} means 1,000,000 points, more than 10,000: take values out, or ask for as many with count=N"
    ]
    assert "unknown setting" in problems(file, count=3)[0]  # it was looked at
    (said,) = problems(write(*axes, head=f"method: grid\nrun_cap: {MANY + 1}\n"))
    assert "means 10,001 points" in said
    (said,) = problems(write("train.lr: {min: 0.1, max: 0.2}", head=f"method: random\nrun_cap: {10**12}\n"))
    assert "means 1,000,000,000,000 points" in said


def test_a_count_lifts_the_bound(write, monkeypatch):
    monkeypatch.setattr("bench.sweep.file.MANY", 3)
    file = write("seed: {values: [0, 1, 2, 3]}")
    assert "means 4 points, more than 3" in problems(file)[0]
    assert len(expand(file, count=4).points) == 4
    monkeypatch.setattr("bench.sweep.file.MANY", 4)
    assert len(expand(file).points) == 4


# ------------------------------------------------------------------------------------------ impossible bounds


HUGE = 1.7e308


@pytest.mark.parametrize(
    "spec",
    [
        {"distribution": "log_uniform", "min": 0, "max": 1000},
        {"distribution": "q_log_uniform", "min": 0, "max": 1000},
        {"distribution": "inv_log_uniform", "min": -1000.0, "max": 0.0},
        {"distribution": "log_uniform_values", "min": 1e-300, "max": HUGE},
        {"distribution": "inv_log_uniform_values", "min": 1e-300, "max": HUGE},
        {"distribution": "uniform", "min": -HUGE, "max": HUGE},
        {"distribution": "q_uniform", "min": 1.0, "max": HUGE, "q": 1e-300},
        {"distribution": "int_uniform", "min": -int(HUGE), "max": int(HUGE)},
        {"distribution": "normal", "mu": 0, "sigma": HUGE},
        {"distribution": "log_normal", "mu": 800, "sigma": 1},
        {"distribution": "q_log_normal", "mu": 0, "sigma": 100},
    ],
)
def test_bounds_between_which_there_is_no_number_are_refused(spec):
    with pytest.raises(ValueError, match="between which there are values too large for a number: narrow them"):
        parameters._parameter("x", spec)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_bounds_that_are_no_numbers_are_refused(name):
    wanted = ("mu", "sigma") if name.endswith("normal") else ("min", "max")
    for bad in (math.nan, math.inf, 10**400, "1", None, True, [1], {}):
        with pytest.raises(ValueError, match="which is no number"):
            parameters._parameter("x", {"distribution": name, wanted[0]: bad, wanted[1]: 2})


@pytest.mark.parametrize("named", [["uniform"], {"a": 1}, 3, True])
def test_a_distribution_is_named_by_text(write, named):
    (said,) = problems(write(f"train.lr: {yaml.safe_dump({'distribution': named}, default_flow_style=True).strip()}"))
    assert "parameter train.lr has an unknown distribution" in said

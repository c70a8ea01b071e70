"""Settings, sweep files and W&B's variables that hold anything: a value, or one sentence for every problem."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import METHOD, STREAM
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import tries

from bench.config import written
from bench.config.fields import Setting, describe, show
from bench.config.fingerprint import fingerprint, run_directory
from bench.config.resolve import resolve
from bench.config.run_settings import run_settings
from bench.config.words import split
from bench.core.errors import UserError
from bench.record.config_file import config_text
from bench.sweep.file import expand, find
from bench.sweep.options import Options, options
from bench.sweep.parameters import CHOSEN, DISTRIBUTIONS
from bench.tracking.options import VARIABLES, mirror_options

# Pieces of values that once were misread or ended in a traceback, beside all that hypothesis thinks of.
ODD = [
    "", " ", "#", " #", "&x", "*x", "!x", "!!int x", "!!python/none", "|", ">", "%", "@", "`", "${", "${a}", "~",
    "~nosuchuser/x", "null", "None", "on", "No", "true", "010", "08", "0x10", "1:30", "1e3", "1e400", "-1",
    "9" * 5000, ".inf", "nan", "1_0", "٣", "[", "]", "{", "}", "[a,b]", "[1,on]", "{a: 1}", "{name: toy}",
    "{lr: 010}", "'", '"', "'a'", '"\\q"', "a: b", "a=b", "- a", "? a", ",", "\\", "\n", "\t", "\x00", "\x1b[2J",
    "\udcff", "\ud800", "é", "😀", "x" * 300, "x/" * 2000, "[" * 2000, "{a: " * 2000, "<<", "=", "2024-01-02",
    "/dev/zero", "toy", "pocket", "lora", "adamw", "mine.py", "ViT-B-16/openai", "../x",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(ODD) | st.text(max_size=4), min_size=1, max_size=4).map("".join)
NUMBERS = st.integers().map(str) | st.floats().map(repr) | st.decimals(allow_nan=False).map(str)
VALUES = st.sampled_from(ODD) | TEXT | NUMBERS | st.lists(TEXT, max_size=3).map(lambda items: f"[{', '.join(items)}]")
KEYS = [
    *run_settings(), "method", "stream", "model", "train", "track", "seeds", "cache", "method.rank", "method.energy",
    "method.energy.image", "method.maps", "method.scale", "method.note", "method.merge", "method.nope", "stream.shots",
]  # fmt: skip
NAMES = st.sampled_from(KEYS) | st.sampled_from(KEYS).map(lambda key: f"--{key}") | TEXT
WORDS = st.lists(st.builds("{}={}".format, NAMES, VALUES) | TEXT, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stand-in plug-ins, and an empty folder to be in: words may be paths."""
    import bench.datasets
    import bench.methods

    folder = tmp_path_factory.mktemp("plugins")
    (folder / "toy_method.py").write_text(METHOD)
    data = tmp_path_factory.mktemp("data")
    (data / "toy_data.py").write_text(STREAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.methods, "__path__", [str(folder)])
        patch.setattr(bench.datasets, "__path__", [str(data)])
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield


@contextmanager
def sentences() -> Iterator[None]:
    """What is in here works, or is refused in sentences that can be printed."""
    try:
        yield
    except UserError as error:
        for said in str(error).split("\n"):
            assert said.strip() and len(said) < 1100


@tries(200)
@given(WORDS)
def test_words_become_a_run_or_sentences(words: list[str]) -> None:
    with sentences():
        split(words, paths=True)
        resolved = resolve(["method=toy", *words])
        run_directory(resolved)
        assert len(fingerprint(resolved.flat)) == 10
        yaml.safe_load(config_text(resolved.flat))  # the record can hold it
        assert all(type(one) in (str, int, float, bool, list, type(None)) for one in resolved.flat.values())


@tries(150)
@given(VALUES)
def test_text_is_as_it_is_written(text: str) -> None:
    with sentences():
        found = resolve(["method=toy", f"method.note={text}"]).flat["method.note"]
        plain = text.strip(written.BLANKS)
        assert found == plain or plain[0] == plain[-1] in "'\""
    with sentences():
        tags = resolve(["method=toy", f"track.tags=[{text}]"]).flat["track.tags"]
        if not set(text) & set("'\""):
            assert tags == [one.strip(written.BLANKS) for one in text.removesuffix(",").split(",")] or not text.strip(
                written.BLANKS
            )


@tries(400)
@given(st.integers(-(2**62), 2**62), st.integers(0, 5))
def test_whole_numbers_have_any_number_of_zeros_before_them(number: int, zeros: int) -> None:
    text = f"{'-' if number < 0 else ''}{'0' * zeros}{abs(number)}"
    one = Setting("k", int, False, False, 0)
    assert one.convert(None, text) == number
    assert one.convert(None, f"+{text}" if number >= 0 else text) == number


@tries(400)
@given(st.floats(-1e30, 1e30))
def test_numbers_are_what_python_reads(number: float) -> None:
    one = Setting("k", float, False, False, 0)
    for text in (repr(number), f"{number:f}", f"{number:.17e}", f"{number:.17E}"):
        assert one.convert(None, text) == float(text)
    assert one.convert(None, show(number)) == number


@tries(200)
@given(
    st.dictionaries(
        NAMES.map(lambda key: key.removeprefix("--")),
        st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
        max_size=4,
    )
)
def test_values_from_python_become_a_run_or_sentences(values: dict[str, Any]) -> None:
    with sentences():
        run_directory(resolve({"method": "toy", **values}))


@tries(300)
@given(
    st.lists(
        st.builds(
            "{}={}".format, st.sampled_from([*describe(Options), "launch", "launch.slurm.x", "count", "nope"]), VALUES
        ),
        max_size=3,
    )
)
def test_words_of_a_sweep_become_options_or_sentences(words: list[str]) -> None:
    with sentences():
        chosen, _ = options(words)
        chosen.launch.parameters()


@tries(200)
@given(TEXT)
def test_names_of_sweep_files_are_found_or_refused(name: str) -> None:
    with sentences():
        find(name)


# ------------------------------------------------------------------------------------------------- sweep files

PLAIN = st.sampled_from(ODD) | TEXT | st.none() | st.booleans() | st.integers() | st.floats()
TREES: st.SearchStrategy[Any] = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD) | TEXT, inner, max_size=3),
    max_leaves=5,
)
SPECS = st.one_of(
    TREES,
    st.fixed_dictionaries({"value": TREES}),
    st.fixed_dictionaries({"values": st.lists(TREES, max_size=3)}, optional={"probabilities": TREES}),
    st.fixed_dictionaries(
        {"distribution": st.sampled_from([*DISTRIBUTIONS, *CHOSEN, "constant"]) | TREES},
        optional={
            name: st.floats() | st.integers() | TREES for name in ("min", "max", "mu", "sigma", "q", "value", "values")
        },
    ),
)
PARAMETERS = st.dictionaries(st.sampled_from(KEYS) | TEXT, SPECS, max_size=3)
COMMAND = ["${env}", "python", "-m", "bench", "run", "method=toy", "${args_no_hyphens}"]
CONTENTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["grid", "random"]) | TREES,
        "parameters": PARAMETERS
        | st.fixed_dictionaries({"method": st.fixed_dictionaries({"parameters": PARAMETERS})})
        | TREES,
        "command": st.just(COMMAND) | TREES,
    },
    optional={"run_cap": st.integers(1, 3) | TREES, "name": TREES, "nope": TREES},
)


@st.composite
def dumped(draw: Callable[..., Any]) -> str:
    """The content of a sweep file, as a program writes it or with some characters changed as by a person."""
    # Text that is no text cannot be dumped; it comes in by escapes.
    content = (
        yaml.safe_dump(draw(CONTENTS), sort_keys=False, allow_unicode=draw(st.booleans()))
        .replace("\ud800", "x")
        .replace("\udcff", "y")
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = draw(
            st.sampled_from(
                [
                    *string.punctuation,
                    "\n",
                    "\n  ",
                    ": ",
                    "&a ",
                    "*a",
                    "!!set ",
                    '"\\ud800"',
                    "<<: ",
                    "010",
                    "on",
                    "1:30",
                ]
            )
        )
        content = content[:at] + piece + content[at + draw(st.integers(0, 2)) :]
    return content


@tries(200)
@given(dumped() | TEXT | TREES.map(lambda tree: yaml.safe_dump(tree).replace("\ud800", "x")), WORDS)
def test_a_sweep_file_means_runs_or_sentences(
    tmp_path_factory: pytest.TempPathFactory, text: str, words: list[str]
) -> None:
    file = Path("some.yaml")  # in the folder of this module's fixture
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with sentences():
        found = expand(file, words if len(text) % 3 == 0 else (), count=3)
        assert 1 <= len(found.points) <= 3 or not found.points
        for point in found.points:
            assert run_directory(resolve(point.words)) == point.directory


@tries(100)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_sweep_file_or_a_sentence(content: bytes) -> None:
    file = Path("bytes.yaml")
    file.write_bytes(content)
    with sentences():
        expand(file)


# ------------------------------------------------------------------------------------------------------- W&B


VARIABLE = st.sampled_from(ODD).filter(lambda text: "\x00" not in text and "\ud800" not in text) | st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=200
)
SWITCHABLE = ["WANDB_MODE", "WANDB_DISABLED", "WANDB_TAGS", "WANDB_RUN_ID", *VARIABLES.values()]


@tries(200)
@given(
    st.dictionaries(st.sampled_from(SWITCHABLE), VARIABLE, max_size=4),
    st.lists(
        st.builds("{}={}".format, st.sampled_from([key for key in KEYS if key.startswith("track.")]), VALUES),
        max_size=3,
    ),
)
def test_names_for_wandb_are_within_its_limits_or_refused(variables: dict[str, str], words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, sentences():
        for name, value in variables.items():
            patch.setenv(name, value)
        resolved = resolve(["method=toy", *words])
        found = mirror_options(resolved.flat, resolved.sources)
        if found.mode != "off":
            assert all(1 <= len(tag) <= 64 for tag in found.tags)
            assert not set(found.project) & set("/\\#?%:") and len(found.project) <= 128 and len(found.name) <= 128

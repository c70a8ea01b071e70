"""Settings of a run: parsing, layers, problems, fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import METHOD

from bench.config.fingerprint import LATER, decides, fingerprint, run_directory
from bench.config.resolve import resolve
from bench.config.run_settings import NoSettings, OpenClip, run_settings
from bench.core.errors import UserError

pytestmark = pytest.mark.usefixtures("toys")


def problems(*pairs: str, **options: bool) -> list[str]:
    """Return the sentences that resolving is refused with."""
    with pytest.raises(UserError) as caught:
        resolve(pairs, **options)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------------------------------------------- parsing


def test_defaults_are_those_of_the_contract():
    resolved = resolve(["method=toy"])
    assert (resolved.run.stream, resolved.run.model, resolved.run.method) == ("pocket", "pocket", "toy")
    assert (resolved.run.seed, resolved.run.out, resolved.run.device, resolved.run.data) == (0, "runs", "auto", None)
    assert (resolved.run.threads, resolved.run.precision, resolved.run.track.wandb) == (None, "fp32", "auto")
    assert (resolved.run.train.batch_size, resolved.run.train.optimizer) == (64, "adamw")
    defaults = {key: one.default for key, one in run_settings().items() if key.startswith(("train.", "evaluate."))}
    assert defaults == {
        "train.epochs": 10,
        "train.batch_size": 64,
        "train.lr": 1e-3,
        "train.optimizer": "adamw",
        "train.schedule": "onecycle",
        "train.weight_decay": 0.01,
        "train.momentum": 0.9,
        "train.grad_clip": None,
        "train.warmup": 0.05,
        "train.steps": None,
        "train.tasks": [],
        "train.betas": None,
        "train.eps": 1e-8,
        "train.lr_end": 0.0,
        "train.pct_start": 0.3,
        "train.milestones": [],
        "train.rate_per": "step",
        "train.label_smoothing": 0.0,
        "train.augment": "none",
        "evaluate.batch_size": 256,
        "evaluate.split": "test",
        "evaluate.templates": [],
        "evaluate.held_out": 0.1,
    }


def test_settings_are_typed_instances_of_the_chosen_classes():
    resolved = resolve(["method=toy", "method.energy.text=0.25", "stream.shots=4"])
    assert resolved.method_class is not None
    assert resolved.method_class.__name__ == "Toy"
    assert resolved.stream_class.__name__ == "Pocket"
    assert resolved.model_class is not None
    assert (resolved.method_settings.energy.image, resolved.method_settings.energy.text) == (0.9, 0.25)
    assert resolved.stream_settings.shots == 4
    assert isinstance(resolved.model_settings, NoSettings)
    assert resolved.flat["method.energy.text"] == 0.25
    assert resolved.flat["stream.shots"] == 4


def test_values_are_yaml():
    resolved = resolve(
        ["method=toy", "method.maps=[k,q]", "method.scale=1e-3", "method.merge=no", "train.grad_clip=null", "data= "]
    )
    assert resolved.method_settings.maps == ["k", "q"]
    assert (resolved.method_settings.scale, resolved.method_settings.merge) == (0.001, False)
    assert (resolved.run.train.grad_clip, resolved.run.data) == (None, None)


@pytest.mark.parametrize("text", ["off", "007", "1e3", "a: b", "[1,", "%x", "${seed}", "a=b", "{}", "2024-01-02"])
def test_text_is_taken_as_it_is_written(text):
    assert resolve(["method=toy", f"method.note={text}"]).flat["method.note"] == text
    assert resolve(["method=toy", f"out={text}"]).run.out == text


@pytest.mark.parametrize(
    "text", ["My Data #2/x", "#7", "&x", "*x", "!x", "|", ">", "a #b", "- a", "{a: 1", "'a' b", "~x"]
)
def test_no_sign_of_yaml_ends_or_changes_a_text(text):
    resolved = resolve(["method=toy", f"track.name={text}", f"data=/mnt/{text}", f"method.note={text}"])
    assert (resolved.run.track.name, resolved.run.data) == (text, f"/mnt/{text}")
    assert resolved.flat["method.note"] == text


def test_quotes_around_text_are_yaml_quotes():
    def note(text):
        return resolve(["method=toy", f"method.note={text}"]).method_settings.note

    assert note("'8'") == "8"
    assert [note(one) for one in ("'it''s'", r'"a\tb"', "''", "' a '", r'"\q"')] == ["it's", "a\tb", "", " a ", r'"\q"']
    assert note("  a b\t") == "a b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1,v2.0,on]", ["1", "v2.0", "on"]),
        ("[2024]", ["2024"]),
        ("[run #1, 007]", ["run #1", "007"]),
        ("[a,]", ["a"]),
        ("[]", []),
        ("[ ]", []),
        ("['a,b', \"c]\", 'it''s']", ["a,b", "c]", "it's"]),
        ("[null, ~, 'None']", ["null", "~", "None"]),
        ("['']", [""]),
        ("[a: b, it's]", ["a: b", "it's"]),
    ],
)
def test_items_of_a_list_of_text_are_taken_as_they_are_written(text, expected):
    assert resolve(["method=toy", f"track.tags={text}"]).run.track.tags == expected


@pytest.mark.parametrize("text", ["[,a]", "[a,,b]", "[[a]]", "[a", "a]", "[{a: 1}]", "['a'b]", "['a]", "- a"])
def test_a_list_of_text_that_is_none_names_the_quotes(text):
    (said,) = problems("method=toy", f"track.tags={text}")
    assert said == (
        f"track.tags={text} must be a list of str, written as track.tags=[a,b] (an item with a bracket, a brace or a "
        "comma in quotes)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("010", 10), ("007", 7), ("08", 8), ("0100", 100), ("+5", 5), ("-0", 0), ("1_000", 1000), ("0" * 5000 + "3", 3)],
)
def test_whole_numbers_are_decimal(text, expected):
    assert resolve(["method=toy", f"seed={text}"]).run.seed == expected
    assert resolve(["method=toy", f"seeds={{init: {text}}}"]).run.seeds.init == expected


@pytest.mark.parametrize("text", ["0x10", "0b11", "0o17", "1:30", "1e3", "8.0", "٣", "8 # eight", "'8'", "true"])
def test_other_whole_numbers_are_refused(text):
    assert problems("method=toy", f"seed={text}") == [f"seed={text} must be a whole number"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("010", 10.0), ("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("1.", 1.0), ("1.5e3", 1500.0), ("08.5", 8.5)],
)
def test_numbers_are_decimal(text, expected):
    assert resolve(["method=toy", f"train.lr={text}"]).run.train.lr == expected
    assert resolve(["method=toy", f"train={{lr: {text}}}"]).run.train.lr == expected


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (f"train.lr=1{'0' * 400}", "must be a finite number"),
        ("train.lr=1e400", "must be a finite number"),
        ("train.lr=.inf", "must be a finite number"),
        ("train.lr=2e30", "is out of range: it must be at most 1e+30"),
        ("method.scale=1e300", "is out of range: it must be at most 1e+30"),
        ("train.lr=nan", "must be a finite number"),
        ("train.lr=1:30", "must be a number"),
        ("train.lr=0x10", "must be a number"),
        ("cache.gb=1e300", "is out of range: it must be >= 0 and <= 1e+09"),
        ("threads=11111111111111111111", "is out of range: it must be >= 1 and <= 1024"),
        ("threads=2000000000", "is out of range: it must be >= 1 and <= 1024"),
        ("seed=9223372036854775808", "is out of range: it must be below 2^63"),
        (f"seed={'9' * 5000}", "is out of range: it must be below 2^63"),
        ("track.name=a\udcff", "is no text: it holds a NUL character, or bytes that are not UTF-8"),
        ("data=\udcff", "is no text: it holds a NUL character, or bytes that are not UTF-8"),
        ("out=a\0b", "is no text: it holds a NUL character, or bytes that are not UTF-8"),
        ("track.tags=[a,\udcff]", "is no text: it holds a NUL character, or bytes that are not UTF-8"),
        (f"seed={'[' * 120_000}", "must be a whole number"),
        (f"train={'{lr: ' * 20_000}", '"train" is a group of settings: set train.epochs or another of it'),
        ("train={a: &a [x], b: *a}", '"train" is a group of settings: set train.epochs or another of it'),
    ],
)
def test_values_that_nothing_can_hold_are_refused_in_a_short_sentence(pair, said):
    (found,) = problems("method=toy", pair)
    assert found.endswith(said)
    assert len(found) < 300 and found.isprintable()


def test_numbers_from_python_are_held_too():
    for values in ({"seed": 2**63}, {"train.lr": 10**400}, {"threads": 10**30}):
        with pytest.raises(UserError, match="must be"):
            resolve({"method": "toy", **values})
    assert resolve({"method": "toy", "seed": 2**63 - 1}).run.seed == 2**63 - 1


@pytest.mark.parametrize("key", ["out", "data", "cache.dir", "batches.replay", "model.checkpoint"])
def test_paths_that_no_file_system_takes_are_refused(key):
    model = ["model=ViT-B-16/openai"] if key.startswith("model.") else []
    for value, said in (
        ("~nosuchuser/x", "starts with a home folder that is not known here: write the whole path"),
        ("x" * 256, "has a part of 256 bytes: names of files have at most 255, shorten it"),
        ("é" * 128, "has a part of 256 bytes: names of files have at most 255, shorten it"),
        ("x/" * 1501, "more than 3000: write a shorter path"),
    ):
        (found,) = problems("method=toy", *model, f"{key}={value}")
        assert found.startswith(f"{key}={value[:100]}") and found.endswith(said)
    assert resolve(["method=toy", *model, f"{key}={'x' * 255}"]).flat[key] == "x" * 255


@pytest.mark.parametrize("kind", ["method", "stream", "model"])
def test_files_of_plugins_that_cannot_be_are_refused(kind):
    for value, said in (
        ("~nosuchuser/x.py", "starts with a home folder that is not known here"),
        (f"{'x' * 300}.py", "has a part of 303 bytes"),
    ):
        (found,) = problems("method=toy", f"{kind}={value}")
        assert found.startswith(f"{kind}={value[:100]}") and said in found


def test_wandb_off_is_not_taken_for_false():
    assert resolve(["method=toy", "track.wandb=off"]).run.track.wandb == "off"
    assert resolve(["method=toy", "track.wandb=online"]).run.track.wandb == "online"


def test_order_does_not_matter():
    words = ["method=toy", "method.rank=16", "train.lr=0.1", "stream.shots=2", "stream=pocket", "seed=3"]
    first, second = resolve(words), resolve(words[::-1])
    assert first.flat == second.flat
    assert first.sources == second.sources
    assert first.flat["method.rank"] == 16


def test_dashes_and_the_long_form_mean_the_same():
    expected = resolve(["method=toy", "method.rank=8", "stream=pocket"])
    assert resolve(["--method=toy", "--method.rank=8", "--stream=pocket"]).flat == expected.flat
    assert resolve(["method.name=toy", "method.rank=8", "stream.name=pocket"]).flat == expected.flat
    assert resolve(["method.name=toy", "stream.name=pocket"]).sources["method.name"] == "user"


def test_the_last_of_two_counts():
    assert resolve(["method=toy", "seed=1", "seed=2"]).run.seed == 2
    assert resolve(["method=nonsense", "method=toy"]).run.method == "toy"


def test_a_mapping_sets_the_members_of_a_group():
    resolved = resolve(["method=toy", "train={lr: 0.1, epochs: 2}", "method.energy={image: 0.5}"])
    assert (resolved.run.train.lr, resolved.run.train.epochs) == (0.1, 2)
    assert resolved.method_settings.energy.image == 0.5
    assert resolved.sources["train.lr"] == "user"
    assert problems("method=toy", "train={lrr: 0.1}") == ['unknown setting "train.lrr" (did you mean "train.lr"?)']


def test_a_mapping_for_a_choice_names_it_and_sets_its_own():
    resolved = resolve(["method={name: toy, rank: 6, energy: {text: 0.25}}"])
    assert (resolved.run.method, resolved.method_settings.rank) == ("toy", 6)
    assert resolved.method_settings.energy.text == 0.25


def test_none_is_null_where_null_is_allowed_and_text_elsewhere():
    resolved = resolve(["method=toy", "method.scale=None", "data=None", "method.note=None"])
    assert (resolved.method_settings.scale, resolved.run.data) == (None, None)
    assert resolved.method_settings.note == "None"
    assert resolve(["method=toy", "data='None'"]).run.data == "None"


# ----------------------------------------------------------------------------------------------------- layers


def test_each_layer_wins_over_the_one_before_and_is_recorded():
    resolved = resolve(["method=toy", "method.note=mine"])
    where = {key: (resolved.flat[key], resolved.sources[key]) for key in resolved.flat}
    assert where["train.batch_size"] == (64, "default")
    assert where["train.weight_decay"] == (0.0, "method")
    assert where["train.epochs"] == (3, "stream")
    assert where["train.lr"] == (0.125, "tuned")  # default < method 0.5 < stream 0.25 < tuned for toy
    assert where["method.rank"] == (8, "tuned")
    assert where["method.note"] == ("mine", "user")
    assert where["method.name"] == ("toy", "user")
    assert where["stream.name"] == ("pocket", "default")
    assert set(resolved.sources) == set(resolved.flat)
    user = resolve(["method=toy", "train.lr=1", "train.epochs=7", "train.weight_decay=0.5", "method.rank=2"])
    for key, value in {"train.lr": 1.0, "train.epochs": 7, "train.weight_decay": 0.5, "method.rank": 2}.items():
        assert (user.flat[key], user.sources[key]) == (value, "user")


def test_what_is_tuned_for_one_method_does_not_reach_another(toys):
    toys.write("methods/other.py", OTHER)
    resolved = resolve(["method=other"])
    assert (resolved.flat["train.lr"], resolved.sources["train.lr"]) == (0.25, "stream")


OTHER = """
from bench.config.registry import register

@register("method", "other", title="Another")
class Other:
    pass
"""


def test_bad_defaults_are_blamed_on_the_plugin(toys):
    toys.write("methods/other.py", f"{OTHER}    defaults = {{'train.lrr': 1, 'train.lr': -1, 'method.name': 'x'}}\n")
    found = problems("method=other")
    assert 'the defaults of method "other": unknown setting "train.lrr" (did you mean "train.lr"?)' in found
    assert 'the defaults of method "other": train.lr=-1 is out of range: it must be > 0' in found
    assert any(said.startswith('the defaults of method "other": unknown setting "method.name"') for said in found)
    toys.write("methods/third.py", f"{OTHER.replace('other', 'third')}    defaults = ['train.lr']\n")
    assert problems("method=third") == ['the defaults of method "third": it must map dotted keys to values']


def test_seeds_follow_the_run_unless_set():
    resolved = resolve(["method=toy", "seed=5", "seeds.init=2"])
    assert vars(resolved.run.seeds) == {"task_order": 5, "data_order": 5, "init": 2}
    assert (resolved.flat["seeds.init"], resolved.flat["seeds.task_order"]) == (2, None)
    assert (resolved.sources["seeds.init"], resolved.sources["seeds.task_order"]) == ("user", "default")


# --------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("method.rnak=8", 'unknown setting "method.rnak" (did you mean "method.rank"?)'),
        ("rank=8", 'unknown setting "rank" (did you mean "method.rank"?)'),
        ("lr=8", 'unknown setting "lr" (did you mean "train.lr"?)'),
        ("epoch=8", 'unknown setting "epoch" (did you mean "train.epochs"?)'),
        ("sed=8", 'unknown setting "sed" (did you mean "seed"?)'),
        ("modle=pocket", 'unknown setting "modle" (did you mean "model"?)'),
        ("method.lr=8", 'unknown setting "method.lr" (did you mean "train.lr"?)'),
        ("method.energy.imag=1", 'unknown setting "method.energy.imag" (did you mean "method.energy.image"?)'),
        ("qqqqq=8", 'unknown setting "qqqqq" (see "python -m bench run --help")'),
        ("stream.qqqqq=8", 'unknown setting "stream.qqqqq" (valid: stream.shots)'),
        ("model.qqqqq=8", 'unknown setting "model.qqqqq" (there are none)'),
        ("train=5", '"train" is a group of settings: set train.epochs or another of it'),
        ("method.energy=5", "method.energy=5 is out of range: it must be > 0 and <= 1"),
        ("method.energy=high", "method.energy=high must be a number"),
        ("method.energy=", "method.energy= needs a value: a number"),
        ("method.rank=None", "method.rank=None must be a whole number"),
        ("method.rank=eight", "method.rank=eight must be a whole number"),
        ("method.rank=", "method.rank= needs a value: a whole number"),
        ("method.rank=0", "method.rank=0 is out of range: it must be >= 1 and <= 64"),
        ("method.energy.image=1.5", "method.energy.image=1.5 is out of range: it must be > 0 and <= 1"),
        ("method.energy.text=1.5", "method.energy.text=1.5 is out of range: it must be <= 1"),
        ("method.maps=q", "method.maps=q must be a list of str, written as method.maps=[q,k]"),
        ("method.maps=[q,w]", "method.maps=[q,w] must be one of q, k, v"),
        ("method.merge=maybe", "method.merge=maybe must be true or false"),
        ("train.lr=0", "train.lr=0 is out of range: it must be > 0"),
        ("train.epochs=0", "train.epochs=0 is out of range: it must be >= 1"),
        ("train.lr=[1", "train.lr=[1 must be a number"),
        ("device=cuda:1", 'device=cuda:1 must be one of auto, cpu, cuda, mps (did you mean "cuda"?)'),
        ("precision=int8", "precision=int8 must be one of fp32, tf32, bf16, fp16"),
        ("threads=0", "threads=0 is out of range: it must be >= 1 and <= 1024"),
        ("seed=-1", "seed=-1 is out of range: it must be >= 0"),
        ("seed", '"seed" is not a setting: write KEY=VALUE, as in seed=1'),
        ("--verbose", '"--verbose" is not a setting: write KEY=VALUE, as in seed=1'),
        ("=3", '"=3" is not a setting: write KEY=VALUE, as in seed=1'),
        ("stream=poket", 'unknown stream "poket" (did you mean "pocket"?)'),
        ("model=poket", 'unknown model "poket" (did you mean "pocket"?)'),
        ("model=ViT-B-16/opnai", 'unknown weights "opnai" of model "ViT-B-16" (did you mean "ViT-B-16/openai"?)'),
        ("stream=", "stream= needs a value: text"),
        ("out=null", "out=null needs a value: text"),
        ("method.rank=7", 'method "toy": rank must be even where merge is true'),
    ],
)
def test_one_sentence_for_one_problem(pair, said):
    assert problems("method=toy", pair) == [said]


def test_an_unknown_method_comes_with_the_nearest():
    assert problems("method=tooy", "method.rank=8") == ['unknown method "tooy" (did you mean "toy"?)']


def test_a_method_is_needed_unless_said_otherwise():
    assert problems() == ["no method is chosen: add method=NAME, NAME being one of toy, or a file.py"]
    resolved = resolve([], need_method=False)
    assert (resolved.method_class, resolved.method_settings, resolved.run.method) == (None, None, "")
    assert problems("method=tooy", need_method=False) == ['unknown method "tooy" (did you mean "toy"?)']


def test_problems_are_reported_together():
    found = problems("method=toy", "method.rnak=8", "stream=poket", "stream.shots=x", "train.lr=-1", "seed=x", "foo")
    assert found == [
        '"foo" is not a setting: write KEY=VALUE, as in seed=1',
        'unknown stream "poket" (did you mean "pocket"?)',
        'unknown setting "method.rnak" (did you mean "method.rank"?)',
        "train.lr=-1 is out of range: it must be > 0",
        "seed=x must be a whole number",
    ]


def test_cross_field_checks_do_not_speak_of_values_that_were_refused():
    assert problems("method=toy", "method.rank=7", "method.note=x", "method.maps=7") == [
        "method.maps=7 must be a list of str, written as method.maps=[q,k]"
    ]


def test_settings_that_are_not_declared_properly_are_blamed_on_the_plugin(toys):
    head = "from dataclasses import dataclass\n"
    toys.write("methods/other.py", f"{head}{OTHER}    @dataclass\n    class Settings:\n        name: str = 'x'\n")
    assert problems("method=other") == ['method "other" has a setting called "name", which is taken: rename it']
    toys.write("methods/another.py", f"{head}{OTHER.replace('other', 'third')}    class Settings: ...\n")
    assert "must be a dataclass" in problems("method=third")[0]


# ----------------------------------------------------------------------------------- open_clip, files, identity


def test_an_open_clip_model_has_its_own_settings():
    resolved = resolve(["method=toy", "model=ViT-B-16/openai", "model.checkpoint=weights.pt"])
    assert resolved.model_class is None
    assert resolved.model_settings == OpenClip("weights.pt", "pretrained")
    assert run_directory(resolved).parts[:4] == ("runs", "pocket", "ViT-B-16-openai", "toy")
    assert problems("method=toy", "model=ViT-B-16", "model.weights=rnd") == [
        'model.weights=rnd must be one of pretrained, random (did you mean "random"?)'
    ]
    (problem,) = problems("method=toy", "model=ViT-B-16")
    assert problem.startswith("model ViT-B-16 names no weights: write model=ViT-B-16/TAG with a TAG such as openai")


def test_a_method_from_a_file_is_known_by_its_name_and_content(toys):
    file = toys.write("mine.py", OTHER)
    first = resolve([f"method={file}"])
    assert (first.run.method, first.flat["method.name"], first.flat["method.file"]) == ("other", "other", str(file))
    assert first.sources["method.file"] == "user"
    assert run_directory(first).parent.name == "other"
    toys.write("elsewhere/mine.py", OTHER)
    assert fingerprint(resolve([f"method={toys.root / 'elsewhere/mine.py'}"]).flat) == fingerprint(first.flat)
    file.write_text(f"{OTHER}    changed = True\n", encoding="utf-8")
    assert fingerprint(resolve([f"method={file}"]).flat) != fingerprint(first.flat)


def test_a_replayed_order_is_known_by_its_content(toys):
    first, same = toys.write("a.jsonl", "x\n"), toys.write("elsewhere/b.jsonl", "x\n")
    base, moved = (fingerprint(resolve(["method=toy", f"batches.replay={file}"]).flat) for file in (first, same))
    assert base == moved != fingerprint(resolve(["method=toy"]).flat)
    first.write_text("y\n")
    assert fingerprint(resolve(["method=toy", f"batches.replay={first}"]).flat) != base


PATHS = """
from dataclasses import dataclass
from bench.config.registry import register
from bench.config.fields import setting

@register("method", "guided", title="A method with a folder")
class Guided:
    @dataclass
    class Settings:
        reference: str | None = setting(None, "folder of images", path=True)
"""


def test_a_path_is_known_by_its_content(toys):
    toys.write("methods/guided.py", PATHS)
    for name in ("here", "there"):
        toys.write(f"{name}/1.txt", "one")
    here, there = (resolve(["method=guided", f"method.reference={toys.root / name}"]) for name in ("here", "there"))
    assert len(here.flat["method.reference_sha256"]) == 64 and here.sources["method.reference_sha256"] == "user"
    assert fingerprint(here.flat) == fingerprint(there.flat)
    toys.write("there/1.txt", "something else")
    changed = resolve(["method=guided", f"method.reference={toys.root / 'there'}"])
    assert fingerprint(changed.flat) != fingerprint(here.flat)
    plain = resolve(["method=guided"])
    assert "method.reference_sha256" not in plain.flat and fingerprint(plain.flat) != fingerprint(here.flat)
    with pytest.raises(UserError, match="method.reference=.* has a part of 300 bytes"):
        resolve(["method=guided", f"method.reference={'x' * 300}"])


def test_the_fingerprint_leaves_out_what_does_not_decide_the_numbers():
    base = fingerprint(resolve(["method=toy"]).flat)
    assert len(base) == 10
    assert int(base, 16) >= 0
    for pair in ("out=x", "data=x", "device=cpu", "threads=2", "track.wandb=online", "track.name=x", "seed=7"):
        assert fingerprint(resolve(["method=toy", pair]).flat) == base, pair
    for pair in ("method.rank=2", "method.energy.text=0.1", "train.lr=0.3", "stream.shots=1", "evaluate.batch_size=1"):
        assert fingerprint(resolve(["method=toy", pair]).flat) != base, pair
    assert fingerprint(resolve(["method=toy", "model=ViT-B-16/openai"]).flat) != base
    assert fingerprint(resolve(["method=toy", "train.lr=0.125"]).flat) == base  # the value counts, not its source


def test_a_seed_of_its_own_is_part_of_the_fingerprint_for_every_run_seed():
    base = fingerprint(resolve(["method=toy"]).flat)
    fixed = {fingerprint(resolve(["method=toy", f"seed={seed}", "seeds.task_order=0"]).flat) for seed in range(3)}
    assert len(fixed) == 1
    assert base not in fixed


def test_a_younger_setting_leaves_the_fingerprints_of_older_records_alone():
    flat = resolve(["method=toy"]).flat
    older = {key: value for key, value in flat.items() if key not in LATER}
    assert {key: flat[key] for key in LATER} == LATER  # the defaults mean what they always did
    assert fingerprint(older) == fingerprint(flat)
    assert all((fingerprint({**flat, key: "another"}) != fingerprint(flat)) == decides(key) for key in LATER)
    assert not decides("deterministic")


def test_the_run_directory():
    resolved = resolve(["method=toy", "seed=4", "out=elsewhere"])
    expected = Path("elsewhere/pocket/pocket/toy") / f"{fingerprint(resolved.flat)}-s4"
    assert run_directory(resolved) == expected


# ------------------------------------------------------------------------------- what does not go together


def test_a_method_is_asked_whether_its_settings_fit_stream_and_model(toys) -> None:
    asked = "        def fits(self, at): return [f'{at.label_space} {at.widths} {at.train.lr} {at.train.epochs}']\n\n"
    toys.write("methods/toy_method.py", METHOD.replace("        def check(self):", f"{asked}        def check(self):"))
    assert problems("method=toy", "train.lr=3", "train.epochs=7") == ['method "toy": seen {} 3.0 7']
    assert problems("method=toy", "model=ViT-B-16/openai", "train.lr=2", "train.epochs=7") == [
        "method \"toy\": seen {'image': 768, 'text': 512} 2.0 7"
    ]


def test_a_label_space_that_the_method_does_not_know_is_refused(toys) -> None:
    toys.write("methods/toy_method.py", METHOD.replace('("task", "seen")', '("task",)'))
    assert problems("method=toy") == [
        """method "toy" does not support the label space 'seen' of stream "pocket": choose another stream"""
    ]

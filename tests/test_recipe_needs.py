"""What a recipe takes, before it is started: against hand-made numbers, and against what runs really did."""

import json
import math
import shutil

import fake_trees
import open_clip
import pytest
import torch
from support.shapes_only import vit_b_16
from support.toy_runs import TOY
from torch.utils.flop_counter import FlopCounterMode

from bench.cli import main as cli
from bench.config.catalogue import architectures
from bench.config.resolve import resolve
from bench.model.clip import Clip
from bench.recipes import clock
from bench.recipes.clock import CARDS, Speed, hours_on, measured
from bench.recipes.needs import Work, needed, work_of
from bench.recipes.overview import streams_of
from bench.recipes.passes import Passes, Rate
from bench.recipes.recipe import find
from bench.recipes.sizes import Towers, datasets_of, gigabytes, stream_of, towers, towers_of
from bench.runs.run import run

MODEL = "model=ViT-B-16/openai"

MTIL = {
    "Aircraft": (3334, 3333), "Caltech101": (6941, 1736), "CIFAR100": (50000, 10000), "DTD": (1880, 1880),
    "EuroSAT": (21600, 5400), "Flowers": (1020, 6149), "Food": (75750, 25250), "MNIST": (60000, 10000),
    "OxfordPet": (3680, 3669), "StanfordCars": (8144, 8041), "SUN397": (87003, 21751),
}  # fmt: skip
"""Training and test images of MTIL, order I."""

TRAINED = {("training", kind): Rate(shown=1.0) for kind in ("images", "images back")}
"""What a method encodes that does nothing but train."""


# ---------------------------------------------------------------------------------------------- the model


def test_the_operations_of_vit_b_16_are_those_by_hand():
    found = towers(architectures()["ViT-B-16"].config)
    multiply_adds = 0
    for _ in range(12):
        multiply_adds += 197 * 768 * 3 * 768 + 197 * 768 * 768  # q, k, v and o
        multiply_adds += 2 * 197 * 197 * 768  # attention: the products with the keys and with the values
        multiply_adds += 2 * 197 * 768 * 3072  # the MLP
    multiply_adds += 196 * 768 * (3 * 16 * 16) + 768 * 512  # patches, projection
    assert found.image == 2 * multiply_adds
    assert round(multiply_adds / 1e9, 1) == 17.6
    text = 12 * (12 * 512 * 512 * 8 + 2 * 8 * 8 * 512) + 512 * 512
    assert found.prompt == 2 * text


def test_the_sizes_of_models_are_those_of_the_models():
    assert towers(architectures()["ViT-B-16"].config).numbers == sum(p.numel() for p in vit_b_16().model.parameters())
    config = architectures()["ViT-L-14"].config
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
        with FlopCounterMode(display=False) as counter:
            model.visual(torch.empty(1, 3, 224, 224))
    found = towers(config)
    assert found.numbers == sum(p.numel() for p in model.parameters())
    assert found.image == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_a_larger_image_has_more_patches():
    config = architectures()["ViT-B-16"].config
    assert towers(config, 448).image > 4 * towers(config).image
    assert towers_of(resolve(["method=lora", f"model={TOY}", f"stream={TOY}"])).numbers > 0


# ---------------------------------------------------------------------------------------------- by published sizes


def work(words, passes, size=Towers(10, 3, 0)):  # noqa: B008
    resolved = resolve(words)
    return work_of(resolved, stream_of(resolved), passes, size)


def test_training_on_mtil_by_hand():
    passes = Passes(
        first={**TRAINED, ("passes", "images"): Rate(own=2.0), ("training", "prompts"): Rate(shown=1.0)},
        later={**TRAINED, ("passes", "images"): Rate(own=3.0), ("training", "prompts"): Rate(shown=1.0)},
        steps=1.0,
        share=0.25,
    )
    found = work(["method=lora", "stream=mtil-order1", MODEL], passes)
    epochs = {name: 5 if name == "SUN397" else 10 for name in MTIL}
    train = {name: count for name, (count, _) in MTIL.items()}
    steps = {name: epochs[name] * math.ceil(train[name] / 64) for name in MTIL}
    classes = [100, 101, 100, 47, 10, 102, 101, 10, 37, 196, 397]
    assert found.tasks == 11
    assert found.steps == sum(steps.values())
    assert found.training == found.training_back == sum(epochs[name] * train[name] for name in MTIL)
    assert found.passes == 2 * train["Aircraft"] + 3 * sum(train[name] for name in MTIL if name != "Aircraft")
    assert found.evaluation == 12 * sum(test for _, test in MTIL.values())
    assert found.prompts == sum(a * b for a, b in zip(steps.values(), classes, strict=True))
    forward = found.training + found.passes + found.evaluation
    assert found.operations == 10 * forward + 10 * 1.25 * found.training + 3 * found.prompts
    assert found.with_gradient == 10 * 2.25 * found.training


def test_a_budget_in_steps_may_end_inside_of_an_epoch():
    passes = Passes(TRAINED, TRAINED, steps=1.0)
    found = work(["method=lora", "stream=mtil-order1", MODEL, "train.steps=60", "train.batch_size=64"], passes)
    # 53 batches of Aircraft are an epoch, whose last has 6 images; DTD and Flowers have less than a batch beside.
    shown = [3334 + 7 * 64, 60 * 64, 60 * 64, 2 * 1880, 60 * 64, 3 * 1020 + 12 * 64, *[60 * 64] * 2]
    shown += [3680 + 2 * 64, 60 * 64, 60 * 64]
    assert (found.steps, found.training) == (11 * 60, sum(shown))


def test_shots_label_spaces_and_further_test_sets_count():
    passes = Passes(TRAINED, TRAINED, steps=1.0)
    xtail = work(["method=lora", "stream=xtail", MODEL], passes)
    assert xtail.training == 10 * 16 * 1100
    ten = work(["method=lora", "stream=cifar100-10", MODEL], passes)
    assert ten.training == 20 * 50000
    assert ten.evaluation == sum(1000 * row for row in range(11))  # later tasks have no label space yet
    more = work(["method=lora", "stream=cifar100-10", MODEL, "stream.probe=[dtd]"], passes)
    assert more.evaluation == ten.evaluation + 11 * 1880
    held = work(["method=lora", "stream=cifar100-10", MODEL, "evaluate.split=validation"], passes)
    assert (held.training, held.evaluation) == (20 * 45000, sum(500 * row for row in range(11)))


def test_a_method_that_never_changes_measures_once_and_frozen_towers_encode_once():
    tests = sum(test for _, test in MTIL.values())
    assert work(["method=zero-shot", "stream=mtil-order1", MODEL], Passes()).evaluation == tests
    assert work(["method=zero-shot", "stream=mtil-agnostic", MODEL], Passes()).evaluation == 12 * tests
    assert work(["method=rail-dual", "stream=mtil-order1", MODEL], Passes()).evaluation == tests
    assert work(["method=joint", "stream=mtil-order1", MODEL], Passes(TRAINED, TRAINED)).evaluation == 2 * tests


def test_sizes_of_datasets():
    assert [gigabytes(text) for text in ("2.8 GB", "12 MB", "1.5 TB", "large")] == [2.8, 0.012, 1500.0, None]
    names = datasets_of(resolve(["method=lora", "stream=cifar100-10", MODEL, "stream.probe=[dtd]"]))
    assert list(names) == ["cifar100", "dtd"]


# ---------------------------------------------------------------------------------------------- what runs really do


@pytest.mark.parametrize(
    "words",
    [
        ["method=keeplora-plus", "method.rank=4"],
        ["method=rail-primal"],
        pytest.param(
            ["method=zscl-lora", f"reference={TOY}", "reference.data=.", "train.batch_size=8"], marks=pytest.mark.slow
        ),
        pytest.param(["method=joint", "train.epochs=1"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_what_is_said_before_is_what_a_run_does(words, tmp_path, monkeypatch):
    given = [f"stream={TOY}", f"model={TOY}", "device=cpu", f"out={tmp_path}", f"cache.dir={tmp_path}", *words]
    (said,) = needed([given])
    encoded = {"forward": 0, "back": 0}
    read = Clip.read_images

    def counting(clip, pixels):
        encoded["forward"] += len(pixels)  # before they are read: a pass may end inside the tower
        features = read(clip, pixels)
        if features.requires_grad:
            features.register_hook(lambda gradient: encoded.update(back=encoded["back"] + len(pixels)))
        return features

    monkeypatch.setattr(Clip, "read_images", counting)
    directory = run(resolve(given))
    work = said.work
    assert (work.images, work.training_back + work.passes_back) == (encoded["forward"], encoded["back"])
    last = {}
    for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "epoch":
            last[event["task"]] = event["step"]
    assert work.steps == sum(last.values())


# ---------------------------------------------------------------------------------------------- time


def test_hours_of_named_cards_by_hand():
    card = next(one for one in CARDS if one.name == "A100 SXM")
    some = Work(steps=1000, operations=5e18, with_gradient=4e18)
    assert hours_on(card, "fp32", some) == pytest.approx(5e18 / (0.35 * 19.5e12) / 3600)
    assert hours_on(card, "bf16", Work(steps=10**6, operations=5e18, with_gradient=4e18)) == pytest.approx(
        (0.1 * 10**6 + 1e18 / (0.35 * 312e12)) / 3600  # a step takes its time, however little it computes
    )
    assert hours_on(CARDS[0], "tf32", some) is None
    assert Speed(forward=1e12, training=2e12, where="").hours(some) == pytest.approx(3e12 * 1e6 / 1e12 / 3600)


def test_this_machine_is_measured_with_random_weights(monkeypatch):
    monkeypatch.setattr(clock, "SECONDS", 0.01)
    resolved = resolve(["method=lora", f"model={TOY}", f"stream={TOY}", "device=cpu", "train.batch_size=3"])
    for share in (0.3, 1.0):
        found = measured(resolved, towers_of(resolved), share, 3)
        assert found.forward > 0 < found.training
        assert "CPU thread" in found.where and "fp32, batches of" in found.where


def test_a_model_that_does_not_fit_is_not_measured(monkeypatch, capsys):
    monkeypatch.setattr(clock, "_memory", lambda: 10**9)
    assert cli.main(["recipe", "zero-shot-mtil1"]) == 0
    said = capsys.readouterr().out
    assert "this machine: not measured, since model ViT-B-16/openai takes about 1.8 GB to measure and 1.0 GB" in said


# ---------------------------------------------------------------------------------------------- the verb


def fails(capsys, *words):
    assert cli.main(["recipe", *words]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    (line,) = out.err.splitlines()
    return line.removeprefix("error: ")


def test_what_a_recipe_takes_and_must_give_is_on_one_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["recipe", "zero-shot-mtil1", "measure=false"]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 50
    for text in (
        "data: 11 datasets, 48.9 GB on disk, in one folder (data=DIR)", "aircraft 2.8 GB",
        "python -m bench data mtil-order1", "ViT-B-16/openai  149.6 million  0.60 GB  35.1 GFLOP", "97,209",
        "3.41 PFLOP", "A100 SXM", "ZSCL (ICCV 2023)", "to start it: python -m bench recipe zero-shot-mtil1 data=DIR",
    ):  # fmt: skip
        assert text in said, text
    assert "  this machine" not in said


def test_words_change_what_is_said_and_nothing_is_started(tmp_path, capsys):
    words = ["zero-shot-mtil1", "measure=false", f"out={tmp_path / 'runs'}", "stream.probe=[cifar10]"]
    assert cli.main(["recipe", *words]) == 0
    said = capsys.readouterr().out
    assert "107,209" in said and "data: 12 datasets" in said
    assert not (tmp_path / "runs").exists()


def test_datasets_that_are_there_are_named_and_counted(tmp_path, capsys):
    fake_trees.everything(tmp_path)
    shutil.rmtree(tmp_path / "dtd")
    words = ["recipe", "zero-shot-mtil1", f"data={tmp_path}", "dry_run=true", "measure=false"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "missing: dtd" in said and "97,209" in said  # not all are there: the published sizes stand for them
    fake_trees.dtd(tmp_path)
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "differs: aircraft" in said and "97,209" not in said


def test_a_recipe_is_not_started_without_its_data(tmp_path, capsys):
    said = fails(capsys, "zero-shot-mtil1", "launch=local")
    assert said.startswith("recipe zero-shot-mtil1 needs data=DIR, the folder that holds 11 datasets")
    said = fails(capsys, "zero-shot-mtil1", f"data={tmp_path / 'no'}")
    assert said == f"data={tmp_path / 'no'} is no folder: give the folder that holds the datasets"
    fake_trees.dtd(tmp_path)
    said = fails(capsys, "zero-shot-mtil1", f"data={tmp_path}")
    (line,) = streams_of([resolve(point.words) for point in find("diki-mtil1").points().points])
    assert line == "mtil-order1 stream.prompts=zscl stream.splits=coop"
    assert said.startswith(f"10 of 11 datasets of recipe zero-shot-mtil1 are not ready in {tmp_path} (aircraft, ")
    assert said.endswith(f"python -m bench data mtil-order1 stream.prompts=ensemble data={tmp_path} says what to do")


def test_mistakes_are_one_sentence(capsys):
    assert fails(capsys, "zero-shot-mtil").startswith('there is no recipe "zero-shot-mtil" (did you mean "zero-shot-m')
    said = fails(capsys, "sweeps/recipes/zero-shot-mtil1.yaml")
    assert said.endswith('(did you mean "zero-shot-mtil1"?): python -m bench recipe list has all')
    for words in (["list", "x"], ["list", "data=."], ["list", "status"]):
        assert fails(capsys, *words) == "recipe list takes no other words"
    assert fails(capsys) == "recipe takes a name, or list: python -m bench recipe list"
    assert fails(capsys, "zero-shot-mtil1", "measure=maybe") == "measure=maybe must be true or false"
    assert fails(capsys, "zero-shot-mtil1", "launc=local").startswith('unknown word "launc" of recipe')
    assert fails(capsys, "zero-shot-mtil1", "sort=last", "data=.").startswith("sort=last")


def test_the_list_and_the_status_start_nothing(tmp_path, capsys):
    assert cli.main(["recipe", "list"]) == 0
    assert "KeepLoRA+" in capsys.readouterr().out
    assert cli.main(["recipe", "zero-shot-mtil1", "status", f"out={tmp_path}", f"data={tmp_path}"]) == 0
    assert "pending" in capsys.readouterr().out

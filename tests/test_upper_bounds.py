"""Joint and independent training: the loss against a loop in float64, the images that are seen, whose bits come out."""

import json
from dataclasses import replace

import pytest
import torch
from bench.methods.bounds import Independent, Joint, own_classes
from bench.methods.finetune import Finetune
from bench.methods.lora import Lora
from support.toy_runs import words

from bench.config.resolve import resolve
from bench.config.run_settings import Train
from bench.data.pixels import Pixels
from bench.learning.task_data import Context, TaskData, together
from bench.runs.run import run
from bench.trials.contract import verify
from bench.trials.toy import tiny_clip, toy_task
from bench.trials.trial import Trial

BATCHES = "batches.record=true"
TWICE = Train(epochs=2)


def tasks(clip, budgets=(TWICE, TWICE), sizes=(40, 20)):
    context = Context(tasks=2, batch_size=16, init_seed=0, data_seed=0)
    found = [toy_task(index, train=size) for index, size in enumerate(sizes)]
    return [
        TaskData(
            index, one.name, one.prompts, clip.tokenize(one.prompts), Pixels(one.train, clip, True), context, budget
        )
        for index, (one, budget) in enumerate(zip(found, budgets, strict=True))
    ]


def at_once(clip, found):
    return together(found, lambda images: Pixels(images, clip, True))


# ------------------------------------------------------------------------------------- all tasks as one


def test_all_tasks_as_one_have_the_images_and_prompts_of_each():
    clip = tiny_clip()
    first, second = tasks(clip)
    whole = at_once(clip, [first, second])
    assert whole.prompts == (*first.prompts, *second.prompts) and whole.owners.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(whole.tokens, torch.cat([first.tokens, second.tokens])) and whole.index == 0
    assert torch.equal(whole.train.labels, torch.cat([first.train.labels, second.train.labels + 3]))
    everything = torch.arange(60)
    assert torch.equal(whole.train.uint8(everything[40:]), second.train.uint8(everything[:20]))


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ((Train(epochs=3), Train(epochs=3)), (3, None)),
        ((Train(epochs=3, batch_size=16), Train(epochs=1, batch_size=16)), (3, 3 * 3 + 2)),
        ((Train(steps=7), Train(steps=7)), (Train().epochs, 14)),
    ],
)
def test_the_budget_is_the_sum_of_the_tasks(budgets, expected):
    clip = tiny_clip()
    budget = at_once(clip, tasks(clip, budgets)).budget
    assert (budget.epochs, budget.steps) == expected


# ------------------------------------------------------------------------------------------------- joint


def by_hand(logits, labels, owners, smoothing):
    """The definition, image by image, in float64."""
    losses = []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        own = [c for c in range(len(owners)) if owners[c] == owners[label]]
        total = sum(row[c].exp() for c in own)
        logs = {c: (row[c].exp() / total).log() for c in own}
        losses.append(-(1 - smoothing) * logs[label] - smoothing * sum(logs.values()) / len(own))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_an_image_is_classified_among_the_classes_of_its_task(smoothing):
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 6, generator=draw, dtype=torch.float64).requires_grad_()
    owners, labels = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 3, 5, 1, 2, 4, 4, 3, 0])
    loss, expected = own_classes(logits, labels, owners, smoothing), by_hand(logits, labels, owners, smoothing)
    assert torch.allclose(loss, expected, atol=1e-12)
    for one, other in zip(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_among_all_prompts_where_tests_are_each_counted_once():
    clip = tiny_clip()
    first, second = tasks(clip)
    second = replace(second, prompts=first.prompts, tokens=first.tokens)  # the same classes again
    whole = at_once(clip, [first, second])
    method = Joint(Joint.Settings(rank=4), clip, replace(first.context, label_space="seen"))
    method.begin_task(whole)
    pixels, labels = next(whole.train.batches(8, torch.Generator().manual_seed(0)))
    logits = clip.logits(clip.encode_images(pixels), clip.encode_tokens(first.tokens))
    expected = torch.nn.functional.cross_entropy(logits, labels % 3)
    assert torch.allclose(method.loss(pixels, labels, whole), expected, atol=1e-5)


def test_a_joint_run_sees_every_image_once_an_epoch_and_reuses_its_rows(tmp_path):
    path = run(resolve(words(tmp_path, "joint", BATCHES)))
    passes = {}
    for line in (path / "batches.jsonl").read_text().splitlines():
        one = json.loads(line)
        assert one["task"] == "toy0" and one["purpose"] == "train"
        passes.setdefault(one["epoch"], []).extend(image for batch in one["batches"] for image in batch)
    assert {epoch: sorted(images) for epoch, images in passes.items()} == {0: [*range(80)], 1: [*range(80)]}
    states = [line.split(",")[-1] for line in (path / "accuracy.csv").read_text().splitlines()[1:]]
    assert states == ["measured"] * 4 + ["reused"] * 2
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["epoch"], one["step"]) for one in lines if one["event"] == "epoch"] == [(0, 5), (1, 10)]
    assert [one["trained"] > 0 for one in lines if one["event"] == "row" and one["row"]] == [True, False]


@pytest.mark.parametrize("form", ["full", "lora"])
def test_joint_training_that_was_broken_off_continues_with_the_same_bits(form):
    straight, resumed = (Trial(Joint, Joint.Settings(form=form, rank=4)) for _ in range(2))
    kept = []
    straight.learn(0, safe_point=lambda training: kept.append(straight.inside_task(training())))
    assert len(kept) == 10  # two passes over 80 images
    resumed.learn(0, broken_off=kept[6])
    assert straight.clip.digests() == resumed.clip.digests() and not straight.method.state_dict()


# ------------------------------------------------------------------------------------------- independent


@pytest.mark.parametrize(("form", "single"), [("full", Finetune), ("lora", Lora)])
def test_the_diagonal_has_the_bits_of_single_trainings(form, single):
    rank = {"rank": 4}
    many = Trial(Independent, Independent.Settings(form=form, **rank))
    untrained = [many.logits(column) for column in range(2)]
    digests = many.clip.digests()
    for index in range(2):
        many.learn(index)
        assert many.clip.digests() == digests, "the model is the untrained one between tasks"
        alone = Trial(single, single.Settings(**(rank if single is Lora else {})))
        alone.learn(index)
        assert torch.equal(many.logits(index), alone.logits(index))
        assert not torch.equal(many.logits(index), untrained[index])
        if index == 0:
            first = many.logits(0)
            assert torch.equal(many.logits(1), untrained[1])
    assert torch.equal(many.logits(0), first), "nothing is forgotten"
    assert many.clip.digests() == digests


def test_only_what_changed_is_kept():
    small = Trial(Independent, Independent.Settings(form="lora", rank=4))
    towers = Trial(Independent, Independent.Settings(towers=["image"], rank=4))
    for one in (small, towers):
        one.learn(0)
    assert {name.rpartition("/")[2] for name in small.method.state_dict()} == {"A", "B"}
    sizes = sum(m.in_features + m.out_features for m in small.method.targets) * 4
    assert small.method.stored_numbers() == sizes
    names = list(towers.method.state_dict())
    assert names and all(name.startswith("0/visual.") for name in names)


def test_a_space_of_several_tasks_gets_the_untrained_model():
    trial = Trial(Independent, Independent.Settings(rank=4))
    before = trial.logits(0, "all")
    trial.learn(0)
    assert torch.equal(trial.logits(0, "all"), before)


@pytest.mark.parametrize("cls", [Joint, Independent])
def test_low_rank_forms_keep_the_contract(cls):
    assert [one for one in verify(cls, cls.Settings(form="lora", rank=4)) if one.problem] == []


def test_they_say_what_they_are():
    assert Joint.flags.held() == {"in_advance": "yes"} and Joint.at_once and Joint.ceiling
    assert Independent.flags.task_at_test and Independent.flags.grows and Independent.label_spaces == ("task",)
    assert "transfer_by_column" not in {*Joint.scalars, *Independent.scalars}
    probes = {"probe", "probe_loss"}  # what training on all tasks costs elsewhere; single models have no one answer
    assert probes <= {*Joint.scalars} and probes.isdisjoint(Independent.scalars)

"""Probes against scikit-learn and means by hand, in every label space; the search for C against the whole grid."""

import numpy as np
import pytest
import torch
from bench.methods.probes import LinearProbe, NearestMean, class_sums, gated
from sklearn.linear_model import LogisticRegression
from support.toy_runs import words

from bench.config.resolve import resolve
from bench.data.pixels import Pixels
from bench.data.stream import LabelSpace, label_space
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.reuse.logistic import held_out, linear_probe
from bench.runs.run import run
from bench.trials.toy import tiny_clip, toy_task

CLIP = tiny_clip()
TASKS = [toy_task(index) for index in range(2)]


def learned(cls, kind, count=2, validation=True):
    """Return a method after some tasks."""
    method = cls(cls.Settings(), CLIP, Context(tasks=2, batch_size=16, init_seed=0, data_seed=0, label_space=kind))
    for index, task in enumerate(TASKS[:count]):
        pixels = Pixels(task.train, CLIP, True)
        one = TaskData(index, task.name, task.prompts, CLIP.tokenize(task.prompts), pixels, method.context)
        if validation and cls.validation:
            one.validation = Pixels(task.validation, CLIP, True)
        method.begin_task(one)
        assert method.fit(one, None, None, None) == 0
        method.end_task(one)
    return method


@torch.no_grad()
def features(part="train"):
    found = [next(Pixels(getattr(task, part), CLIP, True).batches(99)) for task in TASKS]
    return [(CLIP.encode_images(pixels), labels) for pixels, labels in found]


def blobs(classes=4, images=12, width=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(classes * images) % classes
    return rng.normal(size=(classes, width))[labels] + rng.normal(size=(len(labels), width)), labels


NOTHING = np.zeros((0, 5)), np.zeros(0, dtype=int)


# ---------------------------------------------------------------------------------- the logistic regression


@pytest.mark.parametrize("classes", [2, 4])
def test_the_probe_is_scikit_learns_at_the_chosen_strength(classes):
    (z, labels), (further, answers) = blobs(classes), blobs(classes, seed=1)
    found = linear_probe(z, labels, np.zeros(len(labels), dtype=bool), further, answers)
    theirs = LogisticRegression(C=found.C, max_iter=1000).fit(z, labels)
    logits = further @ found.weights.T + found.bias
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(chances, theirs.predict_proba(further), atol=1e-9)


def test_the_strength_is_near_the_best_of_the_whole_grid():
    """The search looks at 15 of 97 values: none of its neighbours is better, and few others are."""
    (z, labels), (further, answers) = blobs(6, 10, seed=3), blobs(6, 40, seed=3)
    found = linear_probe(z, labels, np.zeros(len(labels), dtype=bool), further, answers)
    power = np.log10(found.C)
    assert (8 * power) == pytest.approx(round(8 * power)) and -6 <= power <= 6
    scores = {p: LogisticRegression(C=10.0**p, max_iter=1000).fit(z, labels).score(further, answers)
              for p in (power - 1 / 8, power, power + 1 / 8, -6, -4, -2, 0, 2)}  # fmt: skip
    assert scores[power] == max(scores.values())


def test_without_validation_images_every_fourth_training_image_decides():
    z, labels = blobs(3, 8)
    found = linear_probe(z, labels, np.ones(len(labels), dtype=bool), *NOTHING)
    held = held_out(labels) == 0
    asked = linear_probe(z[~held], labels[~held], np.zeros((~held).sum(), dtype=bool), z[held], labels[held])
    assert found.C == asked.C
    theirs = LogisticRegression(C=found.C, max_iter=1000).fit(z, labels)  # all of them
    assert np.array_equal(found.weights, theirs.coef_)


def test_where_nothing_decides_the_strength_is_one_and_a_class_alone_has_no_weights():
    z, labels = blobs(3, 1)
    assert linear_probe(z, labels, np.ones(3, dtype=bool), *NOTHING).C == 1
    alone = linear_probe(z, 0 * labels + 7, np.ones(3, dtype=bool), *NOTHING)
    assert alone.classes.tolist() == [7] and not alone.weights.any() and alone.C is None


# ----------------------------------------------------------------------------------------------- by hand


def test_means_by_hand():
    draw = torch.Generator().manual_seed(0)
    z, labels = torch.randn(7, 3, generator=draw), torch.tensor([0, 2, 2, 0, 2, 0, 0])
    sums, counts = class_sums(z, labels, 4)
    for label in range(4):
        own = z[labels == label].double()
        assert torch.allclose(sums[label], own.sum(0)) and counts[label] == len(own)


def test_the_gate_answers_by_text_where_its_best_class_is_not_learned():
    text, own = torch.tensor([[9.0, 1, 0], [0, 1, 9]]), torch.tensor([[-2.0, 5, 0], [3, 1, 0]])
    found = gated(text, own, torch.tensor([True, True, False]))
    assert torch.equal(found, torch.tensor([[-2.0, 5, -3], [0, 1, 9]]))


@pytest.mark.parametrize("kind", ["task", "seen", "all"])
def test_the_nearest_mean_of_every_label_space(kind):
    classify = [learned(NearestMean, kind).feature_classifier(label_space(kind, TASKS, 2, at)) for at in (0, 1)]
    train, tests = features(), features("test")
    unit = torch.nn.functional.normalize
    means = [torch.stack([unit(z[y == c].double().mean(0), dim=0) for c in range(3)]) for z, y in train]
    for column, (z, _) in enumerate(tests):
        candidates = means[column] if kind == "task" else torch.cat(means)
        assert torch.equal(classify[column](z).argmax(1), (z.double() @ candidates.T).argmax(1))


@pytest.mark.parametrize("kind", ["task", "seen"])
def test_the_linear_probe_is_fitted_to_the_classes_it_tells_apart(kind):
    method = learned(LinearProbe, kind, validation=False)
    train, tests = features(), features("test")
    for column, (z, _) in enumerate(tests):
        classify = method.feature_classifier(label_space(kind, TASKS, 2, column))
        parts = [train[column]] if kind == "task" else [(train[0][0], train[0][1]), (train[1][0], train[1][1] + 3)]
        x, y = torch.cat([p[0] for p in parts]).double().numpy(), torch.cat([p[1] for p in parts]).numpy()
        C = linear_probe(x, y, np.ones(len(y), dtype=bool), np.zeros((0, x.shape[1])), y[:0]).C
        theirs = LogisticRegression(C=C, max_iter=1000).fit(x, y).predict(z.double().numpy())
        assert classify(z).argmax(1).tolist() == theirs.tolist()


def test_validation_images_choose_the_strength():
    with_images, without = learned(LinearProbe, "task"), learned(LinearProbe, "task", validation=False)
    (z, y), _ = features()
    (further, answers), _ = features("validation")
    z, further = z.double().numpy(), further.double().numpy()
    assert with_images.report()["C"] and without.report()["C"]
    found = linear_probe(z, y.numpy(), np.zeros(len(y), dtype=bool), further, answers.numpy())
    kept = with_images.heads[0].tokens.tolist()
    order = [kept.index(row) for row in CLIP.tokenize(TASKS[0].prompts).tolist()]
    assert torch.allclose(with_images.heads[0].weights[order], torch.from_numpy(found.weights).float(), atol=1e-5)


@pytest.mark.parametrize("cls", [LinearProbe, NearestMean])
def test_classes_that_are_not_learned_have_the_text_classifier(cls):
    method = learned(cls, "task", count=1)
    (first, _), (second, _) = features("test")
    text = Method.feature_classifier(method, label_space("task", TASKS, 2, 1))
    assert torch.equal(method.feature_classifier(label_space("task", TASKS, 2, 1))(second), text(second))
    everything = label_space("all", TASKS, 2, 0)
    among_all = Method.feature_classifier(method, everything)(first)
    mixed = learned(cls, "all", count=1).feature_classifier(everything)(first)
    new = among_all.argmax(1) >= 3
    assert torch.equal(mixed[new], among_all[new]) and bool((mixed[~new].argmax(1) < 3).all())


@pytest.mark.parametrize("cls", [LinearProbe, NearestMean])
def test_a_prompt_that_two_tasks_share_is_one_class(cls):
    """In label spaces of several tasks the images of both count."""
    method = cls(cls.Settings(), CLIP, Context(tasks=2, batch_size=16, init_seed=0, data_seed=0, label_space="seen"))
    prompts = TASKS[0].prompts
    for index, task in enumerate(TASKS):
        pixels = Pixels(task.train, CLIP, True)
        method.fit(
            TaskData(index, task.name, prompts, CLIP.tokenize(prompts), pixels, method.context), None, None, None
        )
    (head,) = method.heads.values()
    assert len(head.weights) == 3
    if cls is NearestMean:
        z, y = (torch.cat(parts) for parts in zip(*features(), strict=True))
        mean = torch.nn.functional.normalize(z[y == 1].double().mean(0), dim=0)
        (logits,) = method.feature_classifier(LabelSpace((prompts[1],), (0,), (0,)))(mean.float()[None])
        assert float(logits) == pytest.approx(float(CLIP.logit_scale), rel=1e-5)


@pytest.mark.parametrize("cls", [LinearProbe, NearestMean])
@pytest.mark.parametrize("kind", ["task", "all"])
def test_what_is_kept_is_all_that_is_needed(cls, kind):
    whole, begun = learned(cls, kind), learned(cls, kind, count=1)
    other = cls(cls.Settings(), CLIP, whole.context)
    other.load_state_dict({name: begun.state_dict()[name] for name in sorted(begun.state_dict())})
    task = TASKS[1]
    one = TaskData(
        1, task.name, task.prompts, CLIP.tokenize(task.prompts), Pixels(task.train, CLIP, True), other.context
    )
    if cls.validation:
        one.validation = Pixels(task.validation, CLIP, True)
    other.fit(one, None, None, None)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert any(name.startswith("part/") for name in whole.state_dict()) == (kind == "all")


def test_a_run_trains_nothing_and_has_no_budget(tmp_path):
    from bench.compare.runs import read

    found = read(run(resolve(words(tmp_path, "nearest-mean"))))
    assert not found.trains and found.budget == {} and found.value("last") > found.value("zero_shot")

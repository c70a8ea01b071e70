"""LwF, LwF-VR, WiSE-FT and iCaRL against their definitions, written here in float64 and apart from them."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bench.methods.finetune import Finetune
from bench.methods.full_finetuning import RELEASED
from bench.methods.icarl import ICarl, ICarlFaithful, class_means, herding
from bench.methods.known_classes import once
from bench.methods.lwf import Lwf, LwfFaithful, LwfVr, LwfVrFaithful, kept_answers, sentences
from bench.methods.wise_ft import WiseFt, WiseFtFaithful
from support.learning import TRAIN, data, learn, nothing
from torch import Tensor

from bench.compute.world import World
from bench.config.fields import complaints
from bench.config.resolve import resolve_method
from bench.core.errors import UserError
from bench.data.images import Subset
from bench.data.pixels import Pixels
from bench.data.stream import label_space
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)
TASKS = [toy_task(index) for index in range(3)]


def made(cls: type[Method], context: Context = CONTEXT, **settings) -> Method:
    return cls(cls.Settings(**settings), tiny_clip(), context)


def skipped(method: Method, index: int) -> None:
    """Go through a task without training it."""
    method.begin_task(data(method.clip, index))
    method.end_task(data(method.clip, index))


def shaken(clip: Clip, seed: int = 5) -> None:
    """Give all weights other values, as training does."""
    draw = torch.Generator().manual_seed(seed)
    for name, weight in clip.model.named_parameters():
        if not name.startswith("logit_"):
            weight.data += 0.02 * torch.randn(weight.shape, generator=draw)


def weights(method: Method) -> list[Tensor]:
    return [weight.detach().double() for weight in method.parameters()]


# ---- definitions


def soft(row: list[float], T: float) -> list[float]:
    parts = [math.exp((x - max(row)) / T) for x in row]
    return [part / math.fsum(parts) for part in parts]


def distilled(P: Tensor, S: Tensor, T: float) -> float:
    """T^2 times the mean cross-entropy of the rows of S against those of P, entry by entry."""
    rows = zip(P.double().tolist(), S.double().tolist(), strict=True)
    terms = [-math.fsum(p * math.log(q) for p, q in zip(soft(a, T), soft(b, T), strict=True)) for a, b in rows]
    return T * T * math.fsum(terms) / len(terms)


def entropy(logits: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy without label smoothing."""
    rows = zip(logits.double().tolist(), labels.tolist(), strict=True)
    terms = [-math.log(soft(row, 1.0)[label]) for row, label in rows]
    return math.fsum(terms) / len(terms)


@torch.no_grad()
def images(clip: Clip, pixels: Tensor) -> Tensor:
    return clip.encode_images(pixels).double()


@torch.no_grad()
def texts(clip: Clip, tokens: Tensor) -> Tensor:
    return clip.encode_tokens(tokens).double()


def test_kept_answers_are_those_of_rows_and_of_columns() -> None:
    draw = torch.Generator().manual_seed(0)
    P, S = (4 * torch.randn(3, 5, generator=draw).double() for _ in range(2))
    expected = 0.7 * distilled(P, S, 2.0) + 0.3 * distilled(P.T, S.T, 2.0)
    assert float(kept_answers(P, S, 2.0, 0.7, 0.3)) == pytest.approx(expected)
    assert float(kept_answers(P, S, 3.0, 1.0, 0.0)) == pytest.approx(distilled(P, S, 3.0))
    assert float(kept_answers(P[:1], S[:1], 2.0, 0.0, 1.0)) == 0  # one image is all there is for every text


# ---- LwF and LwF-VR


def kinds() -> list:
    return [(Lwf, {}), (Lwf, {"prompts": "task"}), (LwfVr, {"sentences": 6, "length": 3})]


@pytest.mark.parametrize(("cls", "settings"), kinds())
def test_the_loss_keeps_the_answers_of_the_model_that_the_task_started_from(cls: type[Method], settings: dict) -> None:
    method = made(cls, image_loss=0.7, text_loss=0.3, temperature=1.5, **settings)
    for index in range(3):
        task = data(method.clip, index)
        earlier = torch.cat([data(method.clip, i).tokens for i in range(max(index, 1))])
        method.begin_task(task)
        asked = {"task": task.tokens, "earlier": earlier}.get(getattr(method.settings, "prompts", ""))
        asked = method.distilled(task) if asked is None else asked
        assert torch.equal(method.distilled(task), asked)
        pixels, labels = next(task.batches("look"))
        before, known = images(method.clip, pixels), texts(method.clip, asked)
        shaken(method.clip, index)
        now, scale = images(method.clip, pixels), float(method.clip.logit_scale)
        P, S = scale * before @ known.T, scale * now @ known.T
        expected = entropy(scale * now @ texts(method.clip, task.tokens).T, labels)
        expected += 0.7 * distilled(P, S, 1.5) + 0.3 * distilled(P.T, S.T, 1.5)
        assert float(method.loss(pixels, labels, task)) == pytest.approx(expected, rel=1e-5)
        method.end_task(task)
        assert method.teacher is None and method.texts is None


@pytest.mark.parametrize("cls", [Lwf, LwfVr])
def test_distillation_moves_the_image_tower_alone(cls: type[Method]) -> None:
    gradients = []
    for weight in (0.0, 1.0):
        method = made(cls, image_loss=weight)
        task = data(method.clip)
        method.begin_task(task)
        shaken(method.clip)
        with method.clip.trainable(method.parameters()):
            method.loss(*next(task.batches("look")), task).backward()
            named = method.clip.model.named_parameters()
            gradients.append({name: weight.grad.clone() for name, weight in named if weight.grad is not None})
    for name, without in gradients[0].items():
        assert torch.equal(gradients[1][name], without) != name.startswith("visual."), name


def test_at_the_start_of_a_task_nothing_is_to_be_kept() -> None:
    method = made(Lwf)
    task = data(method.clip)
    method.begin_task(task)
    pixels, labels = next(task.batches("look"))
    with method.clip.trainable(method.parameters()):
        loss = method.loss(pixels, labels, task) - Method.loss(method, pixels, labels, task)
        loss.backward()
        assert max(float(weight.grad.abs().max()) for weight in method.parameters() if weight.grad is not None) < 1e-3
    assert loss.detach() > 0  # the entropy of the teacher


def test_answers_are_kept_the_better_the_larger_the_weight() -> None:
    moved = []
    for weight in (0.0, 30.0):
        method = made(Lwf, image_loss=weight)
        skipped(method, 0)
        task = data(method.clip, 1)
        pixels, _ = next(task.batches("look"))
        known = float(method.clip.logit_scale) * texts(method.clip, data(method.clip, 0).tokens)
        P = images(method.clip, pixels) @ known.T
        method.begin_task(task)
        method.fit(task, replace(TRAIN, lr=1e-3), nothing, nothing)
        moved.append(distilled(P, images(method.clip, pixels) @ known.T, 2.0) - distilled(P, P, 2.0))
    assert 0 < moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize(
    ("cls", "settings"), [(Lwf, {"image_loss": 0.0}), (LwfVr, {"image_loss": 0.0}), (WiseFt, {"alpha": 1.0})]
)
def test_without_weights_it_is_full_fine_tuning(cls: type[Method], settings: dict) -> None:
    one, other = made(cls, **settings), made(Finetune)
    for method in (one, other):
        skipped(method, 0), learn(method, 1)
    assert one.clip.weights_sha256() == other.clip.weights_sha256()


def test_prompts_that_tasks_have_in_common_count_once() -> None:
    tokens = torch.tensor([[3, 1], [2, 9], [3, 1], [0, 0]])
    distinct, index = once(tokens)
    assert distinct.tolist() == [[3, 1], [2, 9], [0, 0]] and index.tolist() == [0, 1, 0, 2]
    method = made(Lwf)
    skipped(method, 0), skipped(method, 0)
    assert torch.equal(method.earlier, data(method.clip, 0).tokens)
    assert made(Lwf, prompts="task").state_dict() == {} and set(method.state_dict()) == {"earlier"}


def test_random_sentences_are_whole_texts_and_depend_on_seed_and_task_alone() -> None:
    method = made(LwfVr, sentences=40, length=5)
    found = method.distilled(data(method.clip, 0))
    start, end = method.clip.tokenize([""])[0, :2].tolist()
    assert found.shape == (40, method.clip.context_length)
    assert set(found[:, 0].tolist()) == {start} and set(found[:, 6].tolist()) == {end}
    assert int(found[:, 1:6].max()) < start and len(found[:, 1:6].unique()) > 150
    assert not found[:, 7:].any() and method.clip.embed(found)[1].tolist() == [6] * 40
    assert torch.equal(found, method.distilled(data(method.clip, 0)))
    assert not torch.equal(found, method.distilled(data(method.clip, 1)))
    other = replace(CONTEXT, init_seed=1)
    assert not torch.equal(found, method.distilled(data(method.clip, 0, other)))
    longest = sentences(torch.tensor([7, 8, 0, 0]), torch.tensor([[1, 2]]))
    assert longest.tolist() == [[7, 1, 2, 8]]


def test_sentences_that_no_model_could_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"method.length=15 does not fit into the context of this model: at most 14"):
        made(LwfVr, length=15)
    assert made(LwfVr, length=14).distilled(data(tiny_clip())).shape == (1000, 16)
    tokenize = Clip.tokenize
    monkeypatch.setattr(Clip, "tokenize", lambda clip, prompts: tokenize(clip, prompts).clamp(max=100))
    with pytest.raises(UserError, match="no start and end token at the end of its vocabulary"):
        made(LwfVr)


def test_several_processes_cannot_compare_the_images_of_a_batch() -> None:
    context = replace(CONTEXT, world=World(0, 2))
    with pytest.raises(UserError, match="method.text_loss compares all images of a batch"):
        made(Lwf, context, text_loss=1.0)
    made(Lwf, context)
    with pytest.raises(UserError, match="method.text_loss compares all exemplars of a step"):
        made(ICarl, context, text_loss=1.0)


# ---- WiSE-FT


@pytest.mark.parametrize("towards", ["previous", "pretrained"])
def test_weights_are_averaged_after_every_task(towards: str) -> None:
    method = made(WiseFt, alpha=0.7, towards=towards)
    pretrained = before = weights(method)
    for index in range(2):
        task = data(method.clip, index)
        method.begin_task(task)
        method.fit(task, TRAIN, nothing, nothing)
        ended = weights(method)
        method.end_task(task)
        old = before if towards == "previous" else pretrained
        pairs = zip(ended, old, weights(method), strict=True)
        assert all(torch.allclose(0.7 * new + 0.3 * past, now, atol=1e-6) for new, past, now in pairs)
        assert any(not torch.equal(new, now) for new, now in zip(ended, weights(method), strict=True))
        before = weights(method)
    assert bool(method.stored_numbers()) == (towards == "pretrained")


def test_without_a_share_the_weights_stay_as_they_were() -> None:
    method = made(WiseFt, alpha=0.0)
    untrained = method.clip.weights_sha256()
    learn(method, 0)
    assert method.clip.weights_sha256() == untrained


# ---- iCaRL


def chosen_by_definition(features: Tensor, count: int) -> list[int]:
    """Herding as it is defined: every candidate's mean is computed from all images."""
    mean, chosen = features.mean(dim=0), []
    for _ in range(min(count, len(features))):
        left = [i for i in range(len(features)) if i not in chosen]
        chosen.append(min(left, key=lambda i: float((mean - features[[*chosen, i]].mean(dim=0)).norm())))
    return chosen


def test_herding_takes_the_image_that_brings_the_mean_closest() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).double()
    for rows in (features, torch.nn.functional.normalize(features, dim=1)):
        assert herding(rows, 5).tolist() == chosen_by_definition(rows, 5)
    assert sorted(herding(features, 99).tolist()) == list(range(12))
    assert (
        herding(torch.tensor([[0.0], [10.0], [2.0], [4.0]]), 3).tolist()
        == [3, 2, 1]
        == chosen_by_definition(torch.tensor([[0.0], [10.0], [2.0], [4.0]]), 3)
    )


def test_means_have_unit_length() -> None:
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 2, 2, 0, 2, 0, 2])
    found = class_means(features, labels, 3)
    for label in (0, 2):
        mean = features[labels == label].double().mean(dim=0)
        assert torch.allclose(found[label].double(), mean / mean.norm(), atol=1e-6)
    assert not found[1].any()


def taken(method: ICarl, task: TaskData, number: int) -> tuple[Callable, Callable]:
    """Return the two parts of the objective of a step, as the engine gets them."""
    given: dict = {}
    step = SimpleNamespace(task=task, number=number, backward=lambda **parts: given.update(parts), update=nothing)
    method.train_step(step)
    return given["loss"], given["beside"]


@pytest.mark.parametrize("training", ["paper", "released"])
def test_the_objective_of_a_step(training: str) -> None:
    method = made(ICarl, total=9, training=training, image_loss=0.7, text_loss=0.3, temperature=1.5)
    clip, pretrained = method.clip, tiny_clip()
    learn(method, 0), learn(method, 1)
    task = data(clip, 2)
    method.begin_task(task)
    before = tiny_clip()
    before.model.load_state_dict(clip.model.state_dict())
    shaken(clip)
    teacher = before if training == "paper" else pretrained
    earlier = torch.cat([data(clip, 0).tokens, data(clip, 1).tokens])
    asked = texts(teacher, earlier if training == "paper" else task.tokens)
    classes = texts(clip, torch.cat([earlier, task.tokens]) if training == "paper" else task.tokens)
    scale, shift = float(clip.logit_scale), len(earlier) if training == "paper" else 0
    pixels, labels = next(task.batches("look"))

    def kept(pixels: Tensor, text_loss: float) -> float:
        P, S = (scale * images(one, pixels) @ asked.T for one in (teacher, clip))
        return 0.7 * distilled(P, S, 1.5) + text_loss * distilled(P.T, S.T, 1.5)

    of_task, of_exemplars = taken(method, task, 4)
    expected = entropy(scale * images(clip, pixels) @ classes.T, labels + shift)
    expected += kept(pixels, 0.0) if training == "paper" else 0.0
    assert float(of_task(pixels, labels)) == pytest.approx(expected, rel=1e-5)

    old = clip.normalize(method.memory.pixels)  # 9 exemplars of 6 classes: fewer than a batch, so a step has all
    expected = kept(old, 0.3)
    if training == "paper":
        expected += entropy(scale * images(clip, old) @ classes.T, method.memory.labels)
    assert float(of_exemplars()) == pytest.approx(expected, rel=1e-5)


def test_a_step_draws_as_many_exemplars_as_a_batch_has_images() -> None:
    method = made(ICarl, total=30, image_loss=0.0)
    skipped(method, 0)
    task = data(method.clip, 1)
    method.begin_task(task)
    assert len(method.memory) == 30 and task.budget.batch_size == 64
    small = replace(task, budget=TRAIN)
    seen = []
    for number in (0, 1, 1):
        seen.append(float(taken(method, small, number)[1]()))
    assert seen[1] == seen[2] != seen[0]
    # Two processes share the exemplars of a step.
    halves = []
    for rank in (0, 1):
        method.context = replace(CONTEXT, world=World(rank, 2))
        halves.append(float(taken(method, small, 1)[1]()))
    assert sum(halves) == pytest.approx(seen[1], rel=1e-5)


def test_the_first_task_is_full_fine_tuning_and_leaves_its_exemplars() -> None:
    method, plain = made(ICarl, total=7), made(Finetune)
    learn(method, 0), learn(plain, 0)
    assert method.clip.weights_sha256() == plain.clip.weights_sha256()
    train = data(method.clip).train
    features = images(method.clip, method.clip.normalize(train.uint8(torch.arange(len(train)))))
    for label, room in enumerate((3, 2, 2)):
        members = (train.labels == label).nonzero()[:, 0]
        expected = members[chosen_by_definition(features[members], room)]
        assert method.memory.indices[method.memory.labels == label].tolist() == expected.tolist()
    assert method.memory.labels.bincount().tolist() == [3, 2, 2]


def logits(method: Method, kind: str, column: int, plain: bool = False) -> Tensor:
    space = label_space(kind, TASKS, 3, column)
    assert space is not None
    pixels = method.clip.normalize(Pixels(TASKS[column].test, method.clip, True).uint8(torch.arange(6)))
    with torch.no_grad():
        return (Method.classifier if plain else type(method).classifier)(method, space)(pixels)


def test_means_classify_where_all_classes_have_exemplars_and_prompts_elsewhere() -> None:
    method = made(ICarl, per_class=2, total=None)
    assert torch.equal(logits(method, "task", 0), logits(method, "task", 0, plain=True))
    learn(method, 0), learn(method, 1)
    for kind, column in (("task", 2), ("all", 0), ("all", 2)):
        assert torch.equal(logits(method, kind, column), logits(method, kind, column, plain=True))
    for column in (0, 1):
        memory = method.memory
        pixels = method.clip.normalize(Pixels(TASKS[column].test, method.clip, True).uint8(torch.arange(6)))
        old = images(method.clip, method.clip.normalize(memory.pixels))
        means = torch.stack([old[memory.labels == 3 * column + label].mean(dim=0) for label in range(3)])
        nearest = torch.cdist(images(method.clip, pixels), torch.nn.functional.normalize(means, dim=1))
        found = logits(method, "task", column)
        assert found.argmax(dim=1).tolist() == nearest.argmin(dim=1).tolist()
        scale = float(method.clip.logit_scale)  # |f - m|^2 = 2 - 2 f m
        assert torch.allclose(found.double(), scale * (1 - nearest.square() / 2), atol=1e-3)
    skipped(method, 2)
    assert logits(method, "all", 1).shape == (6, 9)
    assert not torch.equal(logits(method, "all", 1), logits(method, "all", 1, plain=True))
    # A model that is loaded after its run has no images.
    again = made(ICarl, per_class=2, total=None)
    again.clip.model.load_state_dict(method.clip.model.state_dict())
    again.load_state_dict(method.state_dict())
    assert torch.equal(logits(again, "all", 1), logits(method, "all", 1))


def test_prompts_classify_where_asked_and_nothing_is_beside_the_model() -> None:
    method = made(ICarl, classifier="prompt")
    skipped(method, 0)
    assert torch.equal(logits(method, "task", 0), logits(method, "task", 0, plain=True))
    assert "means" not in method.state_dict()
    flags = [ICarl.flags_for(ICarl.Settings(**one)) for one in ({}, {"classifier": "prompt"}, {"per_class": 2})]
    assert [(one.extended, one.rehearsal) for one in flags] == [(True, True), (False, True), (True, True)]
    assert "mean" not in flags[1].grows and "total" not in flags[2].grows
    assert ICarlFaithful.flags_for(ICarlFaithful.Settings()) == ICarlFaithful.flags


def test_a_budget_below_the_number_of_classes_is_said() -> None:
    said: list[str] = []
    method = made(ICarl, replace(CONTEXT, say=said.append), total=4)
    skipped(method, 0)
    assert not said
    skipped(method, 1)
    assert len(said) == 1 and "after task toy1 2 of 6 classes have no exemplar" in said[0]
    assert len(method.means) == 4
    assert torch.equal(logits(method, "task", 1), logits(method, "task", 1, plain=True))
    assert not torch.equal(logits(method, "task", 0), logits(method, "task", 0, plain=True))


def test_a_memory_has_one_budget() -> None:
    assert complaints(ICarl.Settings()) == [] == complaints(ICarl.Settings(total=None, per_class=3))
    for budgets in ({"total": None}, {"per_class": 3}):
        assert any("are two budgets" in text for text in complaints(ICarl.Settings(**budgets)))


# ---- all


@pytest.mark.parametrize("cls", [Lwf, LwfVr, WiseFt, ICarl])
def test_two_classes_with_one_image_each(cls: type[Method]) -> None:
    method = made(cls)
    for index in range(2):
        task = data(method.clip, index)
        few = Pixels(Subset(TASKS[index].train, [0, 1]), method.clip, keep=True)
        small = TaskData(index, "small", task.prompts[:2], task.tokens[:2], few, CONTEXT)
        method.begin_task(small)
        method.fit(small, replace(TRAIN, batch_size=1, schedule="constant", lr=1e-3), nothing, nothing)
        method.end_task(small)
    assert all(bool(weight.isfinite().all()) for weight in method.parameters())
    assert bool(logits(method, "task", 0)[:, :2].isfinite().all())


@pytest.mark.parametrize(
    ("plain", "faithful", "changed"),
    [
        (Lwf, LwfFaithful, {"prompts": "task", "text_loss": 1.0}),
        (LwfVr, LwfVrFaithful, {"text_loss": 1.0}),
        (WiseFt, WiseFtFaithful, {}),
        (
            ICarl,
            ICarlFaithful,
            {"total": 10000, "training": "released", "classifier": "prompt", "text_loss": 1.0},
        ),
    ],
)
def test_faithful_presets_have_the_released_loop(plain: type, faithful: type, changed: dict) -> None:
    assert vars(faithful.Settings()) == vars(plain.Settings()) | changed
    assert faithful.defaults is RELEASED and plain.defaults == {"train.weight_decay": 0.0}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("lwf", "temperature=0"),
        ("lwf", "prompts=all"),
        ("lwf-vr", "sentences=0"),
        ("wise-ft", "alpha=1.5"),
        ("wise-ft", "towards=last"),
        ("icarl", "total=0"),
        ("icarl", "training=both"),
    ],
)
def test_what_the_methods_do_not_define_is_refused(name: str, word: str) -> None:
    with pytest.raises(UserError, match=f"method.{word.split('=')[0]}"):
        resolve_method([f"method={name}", f"method.{word}"])

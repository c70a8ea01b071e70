"""Methods of other kinds, tests/examples: each keeps the contract, does what its paper says and resumes exactly."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.toy_runs import assert_same, until_finished, words

from bench.api import LabelSpace, Method, Pixels, TaskData, Train, no_grad, toy_task
from bench.config.resolve import resolve, resolve_method
from bench.core.errors import UserError
from bench.runs.run import run
from bench.trials.contract import verify
from bench.trials.trial import Trial

EXAMPLES = {path.stem: path for path in sorted((Path(__file__).parent / "examples").glob("*.py"))}
QUICK = {"ewc": ["method.images=4"], "replay": ["method.per_class=3"]}


def given(name: str, *more: str) -> tuple[type[Method], object]:
    return resolve_method([f"method={EXAMPLES[name]}", *QUICK.get(name, []), *more])


def trial(name: str, *more: str, tasks: int = 0) -> Trial:
    """A method on the toy stream after some tasks."""
    one = Trial(*given(name, *more))
    for index in range(tasks):
        one.learn(index)
    return one


def data(one: Trial, index: int) -> TaskData:
    """A task as the method sees it."""
    task = one.tasks[index]
    pixels = Pixels(task.train, one.clip, keep=True)
    return TaskData(index, task.name, task.prompts, one.clip.tokenize(task.prompts), pixels, one.context)


def line(out: Path, name: str, *more: str) -> list[str]:
    return words(out, str(EXAMPLES[name]), *QUICK.get(name, []), "train.epochs=1", *more)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A folder of images in two folders."""
    draw = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / "reference" / f"part{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(path)
    return tmp_path / "reference"


def test_there_are_seven() -> None:
    assert list(EXAMPLES) == ["coop", "distil", "ewc", "replay", "ridge", "routed", "sam"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_keeps_the_contract(name: str) -> None:
    tasks = [toy_task(index, train=24, test=6) for index in range(2)]
    assert [f"{one.test}: {one.problem}" for one in verify(*given(name), tasks) if one.problem] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_that_is_killed_again_and_again_ends_with_the_same_bits(
    name: str,
    tmp_path: Path,
    killed_after,
    reference: Path,
) -> None:
    more = [f"reference={reference.name}", f"reference.data={reference.parent}"] if name == "distil" else []
    straight = run(resolve(line(tmp_path / "straight", name, *more)))
    killed_after(5, before=False)
    broken, times = until_finished(line(tmp_path / "broken", name, "checkpoint.every=0", *more))
    assert times >= 2
    assert_same(straight, broken)


# ---- what each of them is for


def test_ewc_measures_the_fisher_information_of_its_definition() -> None:
    one = trial("ewc", "method.images=3", tasks=1)
    method, task = one.method, data(one, 0)
    draw = task.init_generator("fisher")
    chosen = [pixels for pixels, _ in task.batches("fisher", batch_size=1)][:3]
    name = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    weight, expected = dict(one.clip.model.named_parameters())[name], 0.0
    for pixels in chosen:
        with one.clip.trainable([weight]):
            texts = one.clip.encode_tokens(task.tokens)
            probabilities = one.clip.logits(one.clip.encode_images(pixels), texts).softmax(dim=-1)[0]
            label = int(torch.multinomial(probabilities.detach(), 1, generator=draw))
            (-probabilities[label].log()).backward()
            expected = expected + weight.grad.double() ** 2 / 3
    measured = method.state_dict()[name]
    assert torch.allclose(measured.double(), expected, rtol=1e-3, atol=1e-12) and measured.max() > 0


def test_ewc_ties_weights_to_where_they_were() -> None:
    moved = []
    for strength in (0, 1e6):
        one = trial("ewc", f"method.strength={strength}", tasks=1)
        before = [weight.clone() for weight in one.method.weights.values()]
        one.learn(1)
        pairs = zip(before, one.method.weights.values(), one.method.state_dict().values(), strict=True)
        moved.append(math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b, _ in pairs)))
    assert moved[1] < 0.8 * moved[0]


def test_replay_keeps_twenty_images_of_every_class() -> None:
    assert given("replay")[1].per_class == 3 and resolve_method([f"method={EXAMPLES['replay']}"])[1].per_class == 20
    one = trial("replay", tasks=2)
    state = one.method.state_dict()
    assert state["labels"].bincount().tolist() == [3] * 6 and "pixels" not in state
    assert one.method.stored_bytes() == 18 * (3 * 36 * 36 + 3 * 8) + 6 * 16 * 8
    kept = {image.numpy().tobytes() for image in one.method.memory.pixels}
    seen = {image.numpy().tobytes() for index in range(2) for image in data(one, index).train.uint8(torch.arange(40))}
    assert len(kept) == 18 and kept <= seen


def test_replay_takes_a_prompt_that_two_tasks_share_for_one_class() -> None:
    one = trial("replay")
    task = data(one, 0)
    one.learn(0)
    one.method.begin_task(task)  # the same task again
    assert len(one.method.prompts) == 3 and one.method.index.tolist() == one.method.index[:3].tolist() * 2


def test_coop_trains_its_vectors_and_nothing_else() -> None:
    one = trial("coop", tasks=1)
    assert {name: tuple(value.shape) for name, value in one.method.state_dict().items()} == {"context": (4, 48)}
    assert one.clip.digests() == trial("coop").clip.digests()
    with pytest.raises(UserError, match="prompts with 12 vectors do not fit: lower method.vectors"):
        trial("coop", "method.vectors=12", tasks=1)


def test_coop_reads_the_vectors_after_the_start_token() -> None:
    one = trial("coop", "method.vectors=2")
    words = one.clip.embed(one.clip.tokenize(["red green"]))[0][:, 1:3]
    one.method.context_vectors = words[0].clone()
    found = one.method.encode(*one.method.embed(one.clip.tokenize(["a dog", "a very small cat"])))
    expected = one.clip.encode_prompts(["red green a dog", "red green a very small cat"])
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("on", ["reference", "task"])
def test_distillation_keeps_the_answers_of_the_untrained_model(on: str) -> None:
    @no_grad
    def answers(one: Trial, task: TaskData) -> torch.Tensor:
        reference = one.context.reference.images(torch.arange(12))
        seen = reference if on == "reference" else next(task.batches("look"))[0]
        return one.clip.logits(one.clip.encode_images(seen), one.clip.encode_tokens(task.tokens)).softmax(dim=-1)

    changes = []
    for strength in (0, 100):
        one = trial("distil", f"method.on={on}", f"method.strength={strength}")
        task = data(one, 0)
        before = answers(one, task)
        one.learn(0)
        with one.method.teacher:
            assert torch.equal(answers(one, task), before)
        changes.append(float((answers(one, task) - before).abs().mean()))
    assert changes[1] < 0.7 * changes[0]
    weights = sum(tensor.nbytes for tensor in [*one.clip.model.parameters(), *one.clip.model.buffers()])
    assert one.method.stored_bytes() == weights + (12 * 32 * 4 if on == "reference" else 0)  # and what it answered


def test_ridge_is_the_solution_of_all_images_together() -> None:
    one = trial("ridge", "method.damping=0.5", tasks=2)
    features, targets = [], []
    for index in range(2):
        for pixels, labels in data(one, index).batches("features"):
            features.append(one.clip.encode_images(pixels).double())
            targets.append(torch.nn.functional.one_hot(labels + 3 * index, 6).double())
    f, y = torch.cat(features), torch.cat(targets)
    expected = torch.linalg.inv(f.T @ f + 0.5 * torch.eye(32).double()) @ f.T @ y
    space = LabelSpace(tuple(p for index in (1, 0) for p in data(one, index).prompts), (1,) * 3 + (0,) * 3, (0,))
    pixels = next(iter(data(one, 0).batches("look")))[0]
    with torch.no_grad():
        found = one.method.classifier(space)(pixels)
        text = Method.classifier(one.method, space)(pixels).softmax(dim=-1)
    regression = (one.clip.encode_images(pixels).double() @ expected)[:, [3, 4, 5, 0, 1, 2]]
    assert (found - (0.2 * text + 0.8 * regression)).abs().max() < 1e-4


def test_ridge_leaves_images_of_unlearned_classes_to_the_text_tower() -> None:
    one = trial("ridge", tasks=1)
    first, second = (data(one, index).prompts for index in range(2))
    pixels = next(iter(data(one, 1).batches("look")))[0]
    with torch.no_grad():
        for prompts in ((*first, *second), second):
            space = LabelSpace(prompts, (0,) * len(prompts), (0,))
            text = Method.classifier(one.method, space)(pixels).softmax(dim=-1)
            unlearned = text.argmax(dim=1) >= len(prompts) - 3
            found = one.method.classifier(space)(pixels)
            assert torch.equal(found[unlearned], text[unlearned])
            assert not unlearned.all() or len(prompts) == 3
            assert not torch.equal(found, text) or len(prompts) == 3


def test_every_image_takes_its_own_adapter() -> None:
    one = trial("routed", tasks=2)
    space = LabelSpace(data(one, 0).prompts, (0,) * 3, (0,))
    pixels = torch.cat([next(iter(data(one, index).batches("look")))[0][:4] for index in range(2)])
    with torch.no_grad():
        classify = one.method.classifier(space)
        together, alone = classify(pixels), torch.cat([classify(pixel[None]) for pixel in pixels])
        assert (together - alone).abs().max() < 1e-3
        features, texts = one.clip.encode_images(pixels), one.clip.encode_prompts(space.prompts)
        answers = [features, *(one.method.adapt(features, expert) for expert in one.method.experts.values())]
        logits = torch.stack([one.clip.logits(answer, texts) for answer in answers])
        distance = (logits - together).abs().amax(dim=2)
        assert distance.amin(dim=0).max() < 1e-3
        assert {1, 2} <= set(distance.argmin(dim=0).tolist())  # both adapters are in use
        far = -one.clip.encode_images(pixels)
        one.method.clip = SimpleNamespace(
            encode_images=lambda pixels: far, encode_prompts=one.clip.encode_prompts, logits=one.clip.logits
        )
        assert torch.equal(one.method.classifier(space)(pixels), one.clip.logits(far, texts))  # unknown images: none


@pytest.mark.parametrize("name", ["coop", "ridge"])
def test_several_templates_are_classified_by_the_first(name: str) -> None:
    one = trial(name, tasks=1)
    prompts = data(one, 0).prompts
    several = LabelSpace(tuple((prompt, f"another {index}") for index, prompt in enumerate(prompts)), (0,) * 3, (0,))
    assert several.texts == prompts
    pixels = next(iter(data(one, 0).batches("look")))[0]
    with torch.no_grad():
        assert one.method.classifier(several)(pixels).shape == (len(pixels), 3)


def test_sam_steps_along_the_gradient_at_the_edge_of_its_ball() -> None:
    one = trial("sam", "method.radius=0.3")
    method, task = one.method, data(one, 0)
    method.begin_task(task)
    for factor in method.parameters():  # B = 0 is a start that looks at A not at all
        factor.add_(0.1)
    (batch,) = task.batches("train", batch_size=40)
    start = [factor.clone() for factor in method.parameters()]

    def gradient() -> list[torch.Tensor]:
        with one.clip.trainable(method.parameters()):
            return list(torch.autograd.grad(method.loss(*batch, task), method.parameters()))

    here = gradient()
    length = math.sqrt(sum(float((g.double() ** 2).sum()) for g in here))
    for factor, g in zip(method.parameters(), here, strict=True):
        factor.add_(0.3 / length * g)
    edge = gradient()
    for factor, value in zip(method.parameters(), start, strict=True):
        factor.copy_(value)
    sgd = Train(epochs=1, batch_size=40, lr=0.1, optimizer="sgd", momentum=0, weight_decay=0, schedule="constant")
    method.fit(task, sgd, lambda: None, lambda report: None)
    for factor, value, g in zip(method.parameters(), start, edge, strict=True):
        assert torch.allclose(factor, value - 0.1 * g, atol=1e-6)
    assert max(float((g - first).abs().max()) for g, first in zip(edge, here, strict=True)) > 1e-3

"""What a method keeps beside the model: exemplars with a budget, and a teacher that is no second model."""

import pytest
import torch

from bench.api import Context, Frozen, LowRank, Memory, Method, Pixels, TaskData, generator, tiny_clip, toy_task
from bench.learning.held import held

CLIP = tiny_clip()
TASKS = [toy_task(index, train=12) for index in range(3)]
PIXELS = [Pixels(task.train, CLIP, keep=True) for task in TASKS]
CONTEXT = Context(3, 16, 0, 0, training_images=PIXELS.__getitem__)


def task_data(index: int) -> TaskData:
    task = TASKS[index]
    return TaskData(index, task.name, task.prompts, CLIP.tokenize(task.prompts), PIXELS[index], CONTEXT)


def filled(tasks: int = 3, **budget: int) -> Memory:
    memory = Memory(CLIP, CONTEXT, **budget)
    for index in range(tasks):
        memory.add(task_data(index))
    return memory


def test_a_budget_a_class_keeps_as_many_of_each() -> None:
    memory = filled(per_class=2)
    assert memory.labels.bincount().tolist() == [2] * 9 and len(memory) == 18
    assert memory.tokens.shape == (9, 16) and torch.equal(memory.tokens[3:6], task_data(1).tokens)
    for row in range(len(memory)):
        task, index = int(memory.tasks[row]), memory.indices[row]
        assert torch.equal(memory.pixels[row], PIXELS[task].uint8(index[None])[0])
        assert int(memory.labels[row]) == 3 * task + int(PIXELS[task].labels[index])


def test_a_total_is_shared_out_again_after_every_task() -> None:
    room = []
    memory = Memory(CLIP, CONTEXT, total=10)
    for index in range(3):
        before = {(int(task), int(image)) for task, image in zip(memory.tasks, memory.indices, strict=True)}
        memory.add(task_data(index))
        kept = {(int(task), int(image)) for task, image in zip(memory.tasks, memory.indices, strict=True)}
        assert {one for one in kept if one[0] < index} <= before
        room.append(memory.labels.bincount(minlength=3 * index + 3).tolist())
    assert room == [[4, 3, 3], [2, 2, 2, 2, 1, 1], [2, *[1] * 8]]
    assert filled(total=2).labels.tolist() == [0, 1]  # fewer images than classes


def test_the_most_important_images_of_a_class_are_kept() -> None:
    task = task_data(0)
    order = torch.arange(11, -1, -1)
    memory = Memory(CLIP, CONTEXT, total=6)
    memory.add(task, order)
    of_class = [[int(i) for i in order if task.train.labels[i] == label][:2] for label in range(3)]
    assert [memory.indices[memory.labels == label].tolist() for label in range(3)] == of_class
    memory.add(task_data(1))
    assert [memory.indices[memory.labels == label].tolist() for label in range(3)] == [one[:1] for one in of_class]


def test_the_default_order_depends_on_seed_and_task_alone() -> None:
    assert torch.equal(filled(per_class=2).indices, filled(per_class=2).indices)
    drawn = filled(1, per_class=2).indices
    other = Context(3, 16, 1, 0)
    one = task_data(0)
    one.context = other
    memory = Memory(CLIP, other, per_class=2)
    memory.add(one)
    assert not torch.equal(memory.indices, drawn)


def test_a_draw_has_no_image_twice() -> None:
    memory = filled(per_class=2)
    pixels, labels = memory.draw(7, generator(0, "replay", 1, 5))
    again = memory.draw(7, generator(0, "replay", 1, 5))
    assert torch.equal(pixels, again[0]) and torch.equal(labels, again[1])
    assert pixels.shape == (7, 3, 36, 36) and len(pixels.flatten(1).unique(dim=0)) == 7
    everything = CLIP.normalize(memory.pixels)
    rows = [int((everything == one).all(dim=(1, 2, 3)).nonzero()) for one in pixels]
    assert memory.labels[rows].tolist() == labels.tolist()
    assert len(memory.draw(100, generator(0, "replay"))[1]) == 18
    assert memory.draw(0, generator(0, "replay"))[0].shape == filled(0, per_class=2).draw(5, generator(0, "x"))[0].shape


def test_a_checkpoint_holds_indices_and_the_stream_gives_the_images_again() -> None:
    memory, again = filled(total=10), Memory(CLIP, CONTEXT, total=10)
    state = memory.state_dict()
    assert sum(tensor.nbytes for tensor in state.values()) == 10 * 3 * 8 + 9 * 16 * 8
    again.load_state_dict({**state, "more": torch.zeros(1)})
    assert torch.equal(again.pixels, memory.pixels)
    for one in (memory, again):
        one.add(task_data(0))
    assert torch.equal(again.pixels, memory.pixels) and torch.equal(again.labels, memory.labels)
    without = Memory(CLIP, Context(3, 16, 0, 0), total=10)  # as where a model is loaded after its run
    without.load_state_dict(state)
    assert len(without) == 10 and torch.equal(without.labels, state["labels"])


def test_images_count_in_what_is_stored() -> None:
    class Keeps(Method):
        def setup(self) -> None:
            self.memory = filled(per_class=2)

        def state_dict(self) -> dict[str, torch.Tensor]:
            return self.memory.state_dict()

    method = Keeps(None, CLIP, CONTEXT)
    assert method.stored_bytes() == 18 * (3 * 36 * 36 + 3 * 8) + 9 * 16 * 8
    assert method.stored_numbers() == 18 * (3 * 36 * 36 + 3) + 9 * 16


def test_a_memory_has_one_budget() -> None:
    for budget in ({}, {"per_class": 1, "total": 1}):
        with pytest.raises(ValueError, match="a memory has one budget: per_class or total"):
            Memory(CLIP, CONTEXT, **budget)


# ---- a teacher


@torch.no_grad()
def answers(clip, pixels):
    return clip.logits(clip.encode_images(pixels), clip.encode_prompts(["a", "a red thing"]))


def changed(clip) -> None:
    """Change weights by training steps and a merge, and attach an update."""
    with torch.no_grad():
        for parameter in clip.model.parameters():
            parameter.mul_(1.1)
    for linear_map in clip.maps.values():
        A, B = torch.randn(2, linear_map.in_features), torch.randn(linear_map.out_features, 2)
        linear_map.update = LowRank(A, B, 0.1)
    clip.merge()
    clip.maps["image.0.q"].update = LowRank(torch.randn(2, 64), torch.randn(64, 2), 1.0)


@pytest.mark.parametrize("host", [True, False])
def test_a_frozen_model_gives_its_answers_again_to_the_bit(host: bool) -> None:
    clip, pixels = tiny_clip(), torch.randn(4, 3, 36, 36)
    before, teacher = answers(clip, pixels), clip.frozen(host=host)
    changed(clip)
    after, digests = answers(clip, pixels), clip.digests()
    with teacher:
        assert torch.equal(answers(clip, pixels), before)
        with teacher:
            assert torch.equal(answers(clip, pixels), before)
        assert torch.equal(answers(clip, pixels), before)
    assert torch.equal(answers(clip, pixels), after) and clip.digests() == digests
    assert clip.maps["image.0.q"].update is not None
    with pytest.raises(RuntimeError, match="on purpose"), teacher:
        raise RuntimeError("on purpose")
    assert torch.equal(answers(clip, pixels), after)


def test_a_frozen_model_may_be_of_later_than_the_start() -> None:
    clip, pixels = tiny_clip(), torch.randn(4, 3, 36, 36)
    changed(clip)
    before, teacher = answers(clip, pixels), clip.frozen()
    clip.merge()
    changed(clip)
    with teacher:
        assert torch.equal(answers(clip, pixels), before)


def test_only_what_changes_is_kept() -> None:
    clip, pixels = tiny_clip(), torch.randn(4, 3, 36, 36)
    maps = clip.select(["q", "k", "v"], ["image"])
    before, teacher = answers(clip, pixels), clip.frozen(linear_map.parameter for linear_map in maps)
    assert [tuple(tensor.shape) for tensor in teacher.kept] == [(192, 64)] * 2  # q, k and v are one parameter
    for linear_map in maps:
        linear_map.update = LowRank(torch.randn(2, 64), torch.randn(64, 2), 1.0)
    clip.merge()
    assert not torch.equal(answers(clip, pixels), before)
    with teacher:
        assert torch.equal(answers(clip, pixels), before)


def test_a_teacher_inside_a_loss_leaves_the_gradient_as_it_is() -> None:
    clip, pixels = tiny_clip(), torch.randn(4, 3, 36, 36)
    teacher = clip.frozen()
    changed(clip)
    parameters = [parameter for name, parameter in clip.model.named_parameters() if "logit" not in name]

    def gradients(look: bool) -> list[torch.Tensor]:
        with clip.trainable(parameters):
            features = clip.encode_images(pixels)
            if look:
                with torch.no_grad(), teacher:
                    clip.encode_images(pixels)
            return list(torch.autograd.grad(features.square().sum() + features[0, 0], parameters, allow_unused=True))

    pairs = list(zip(gradients(False), gradients(True), strict=True))
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)
    assert sum(a is not None and bool(a.any()) for a, _ in pairs) > 10


def test_a_teacher_counts_in_what_is_stored() -> None:
    class Taught(Method):
        def setup(self) -> None:
            self.teacher = self.clip.frozen()

    clip = tiny_clip()
    method = Taught(None, clip, CONTEXT)
    weights = [*clip.model.parameters(), *clip.model.buffers()]
    assert isinstance(method.teacher, Frozen) and method.stored_bytes() == sum(one.nbytes for one in weights)
    assert all(path.startswith("teacher.kept[") for path in held(method, clip.model))

"""What a run makes of its settings before anything is computed: templates and budgets of its tasks."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.record.provenance import data_identity
from bench.runs.parts import check_budgets, load_stream, train_settings

TOY = str(Path(__file__).parent / "toy.py")


def toy(*words: str, method: str = "lora") -> Any:
    return resolve([f"method={method}", f"stream={TOY}", f"model={TOY}", *words])


# ---- several templates


def test_templates_stand_beside_the_tasks_own() -> None:
    plain, more = load_stream(toy()), load_stream(toy('evaluate.templates=["one {}.","two {}."]'))
    assert [task.prompts for task in more.tasks] == [task.prompts for task in plain.tasks]
    assert more.tasks[0].test_prompts[0] == (plain.tasks[0].prompts[0], "one red thing.", "two red thing.")
    assert data_identity(plain, plain.tasks)["prompts_sha256"] != data_identity(more, more.tasks)["prompts_sha256"]


def test_a_template_without_a_place_for_the_name_is_refused() -> None:
    with pytest.raises(UserError, match=r'evaluate.templates has "a photo", which has no \{\} for the class name'):
        load_stream(toy("evaluate.templates=[a photo]"))


# ---- steps and epochs


def trained(*words: str, own: dict[str, Any] | None = None, **options: Any) -> list[tuple[int, int | None]]:
    """Epochs and steps of each task; of a task with settings of its own where these are given."""
    resolved = toy(*words, **options)
    stream = load_stream(resolved)
    if own is not None:
        stream.tasks[0] = dataclasses.replace(stream.tasks[0], train_settings=own)
    budgets = [train_settings(resolved, task) for task in stream.tasks]
    check_budgets(resolved, stream, budgets)
    return [(train.epochs, train.steps) for train in budgets]


def test_steps_decide_where_both_are_given() -> None:
    assert trained() == [(2, None)] * 3
    assert trained("train.steps=50") == [(2, 50)] * 3
    assert trained("train.steps=50", "train.epochs=3") == [(3, 50)] * 3
    assert trained("train.steps=50", own={"epochs": 5}) == [(5, 50), (2, 50), (2, 50)]


def test_of_steps_and_epochs_the_stronger_source_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = toy().stream_class
    monkeypatch.setattr(stream, "defaults", {**stream.defaults, "train.steps": 50})
    assert trained() == [(2, 50)] * 3
    assert trained("train.epochs=3") == [(3, None)] * 3 and toy("train.epochs=3").flat["train.steps"] is None
    assert trained(own={"epochs": 5}) == [(5, None), (2, 50), (2, 50)]
    assert trained("train.epochs=3", own={"steps": 7}) == [(3, None)] * 3
    assert trained("train.steps=60", own={"epochs": 5}) == [(5, 60), (2, 60), (2, 60)]
    monkeypatch.setattr(stream, "tuned", {"lora": {"train.epochs": 4}})
    assert trained() == [(4, None)] * 3 and trained(method="finetune") == [(2, 50)] * 3


def test_single_tasks_have_budgets_of_their_own() -> None:
    assert trained("train.tasks=[toy1.steps=9,toy2.epochs=7]", "train.steps=50") == [(2, 50), (2, 9), (7, None)]
    assert trained("train.tasks=[toy0.epochs=7]", own={"epochs": 5}) == [(7, None), (2, None), (2, None)]
    resolved = toy("train.tasks=[toy1.lr=0.5,toy1.warmup=3]")
    budgets = [train_settings(resolved, task) for task in load_stream(resolved).tasks]
    assert [(train.lr, train.warmup) for train in budgets] == [(0.002, 0.05), (0.5, 3), (0.002, 0.05)]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("toy1", 'train.tasks has "toy1": write TASK.KEY=VALUE, as in train.tasks=[SUN397.epochs=5]'),
        ("toy1.epoch=3", 'train.tasks sets "train.epoch", which is no setting of a task (did you mean "epochs"?)'),
        ("toy1.epochs=0", "train.tasks sets train.epochs=0: it is out of range: it must be >= 1"),
        ("toy1.tasks=x", 'train.tasks sets "train.tasks", which is no setting of a task'),
        ("toy7.epochs=3", 'train.tasks sets epochs of "toy7", which is no task of the stream (did you mean "toy2"?)'),
        ("toy1.betas=[0.5]", "task toy1: train.betas has 1 values: give two, as in train.betas=[0.9,0.99]"),
    ],
)
def test_a_setting_of_a_single_task_that_is_not_right_is_refused(entry: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        trained(f"train.tasks={[entry]!r}")


def test_task_set_twice() -> None:
    """A setting of a task that is given twice is refused; neither value wins silently."""
    with pytest.raises(UserError, match=r"train\.tasks sets toy1\.epochs twice: once is enough"):
        trained("train.tasks=[toy1.epochs=3,toy1.epochs=4]")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train.betas=[0.9]"], "train.betas has 1 values: give two, as in train.betas=[0.9,0.99]"),
        (["train.warmup=2.5"], "train.warmup=2.5 is no whole number of steps: from 1 on it counts steps"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_at_once(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        toy(*words)


def test_a_budget_that_a_later_task_cannot_have_is_refused_before_the_first() -> None:
    with pytest.raises(UserError, match=r"task toy0 has 2: raise train.steps"):
        trained("train.steps=2")
    with pytest.raises(
        UserError, match=r"train.warmup=9 takes all 8 steps of task toy2: lower it, or raise train.steps"
    ):
        trained("train.warmup=9", "train.steps=20", "train.tasks=[toy2.steps=8]")

"""What a run makes of its settings before anything is computed: templates and budgets of its tasks."""

from pathlib import Path
from typing import Any

import pytest

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.record.provenance import data_identity
from bench.runs.parts import load_stream

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

"""What docs/benchmarks/methods.py measures, and the table that it writes into docs/rivals.md."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.config import registry
from bench.learning.costs import Sizes

ROOT = Path(__file__).parent.parent
TOY = f"model={ROOT / 'tests' / 'toy.py'}"
SIZES = Sizes(classes=3, batch=6, steps=3, images=12)


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    spec = importlib.util.spec_from_file_location("costs_of_methods", ROOT / "docs" / "benchmarks" / "methods.py")
    assert spec and spec.loader
    sys.modules["costs_of_methods"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_methods_are_measured_beside_lora(methods: ModuleType) -> None:
    found = methods.measure(["lora", "loda"], [TOY], SIZES, rounds=1)
    lora, loda = found["lora"], found["loda"]
    # Rank 16 on four maps of two blocks: widths 64 and 48, A and B; B of three maps and A of four sites share in LoDA.
    assert lora.trained == [8 * 16 * 128 + 8 * 16 * 96] * 2
    assert loda.trained == [4 * 16 * (64 + 48) + 8 * 16 * (64 + 48), 2 * 8 * 16 * (64 + 48)]
    assert lora.kept == [0, 0] and loda.kept == [4 * 8 * (64**2 + 48**2)] * 2  # a float64 moment of each of four sites
    assert lora.passes == [0, 0] and loda.passes == [2, 3]
    assert lora.at_test == loda.at_test == 1
    # Four passes over half a batch, and over all prompts.
    assert all(2 < its / one < 3 for its, one in zip(loda.operations, lora.operations, strict=True))
    assert all(0 < seconds < 10 for one in (lora, loda) for seconds in one.seconds)


def test_images_that_are_encoded_twice_at_test_count_twice(methods: ModuleType) -> None:
    found = methods.measure(["diki"], [TOY], SIZES, rounds=1)["diki"]
    assert found.at_test == 2 and found.passes == [1, 1]
    assert found.kept[1] == 2 * found.kept[0] > 0


def test_the_gates_of_codyra_move_in_every_measured_step(methods: ModuleType) -> None:
    learner = methods.Learner("codyra", [TOY], SIZES, steps=4)
    learner.begin(0)
    learner.timed_step()
    learner.end()
    assert len(learner.method.kappas) == 4 and all(learner.method.kappas[1:])  # the first step is not measured


def test_all_methods_but_presets_are_measured(methods: ModuleType) -> None:
    names = methods.measured()
    assert names[0] == "lora" and {"keeplora", "finetune", "loda"} <= set(names)
    assert not {"zero-shot", "loda-faithful"} & set(names)


def test_lines_are_relative_to_lora_and_bold_where_they_need_explaining(methods: ModuleType) -> None:
    lora = methods.Found([10, 10], [0, 0], [0, 0], [2.0, 4.0], [0.5, 0.5], 1)
    other = methods.Found([1000, 2000], [8, 16], [1, 1.5], [4.0, 8.0], [1.0, 1.5], 2)
    lines = methods.rows({"lora": lora, "other": other})
    assert lines["lora"] == "| `lora` | 10 | 0 | 0 | 1 | 1.00 | 1.00 |"
    assert lines["other"] == "| `other` | 1,000 / 2,000 | 8 / 16 | 1 / 1.5 | 2 | 2.00 | **2.00 / 3.00** |"
    other.seconds = [1.0, 1.25]
    assert methods.rows({"lora": lora, "other": other})["other"].endswith("| 2.00 | 2.00 / 2.50 |")


def test_lines_of_other_methods_stay_in_the_page(methods: ModuleType) -> None:
    start, end = methods.MARKS
    page = methods.written(f"# Title\n{start}\n{end}\nmore\n", {"lora": "| `lora` | 1 |", "b": "| `b` | 2 |"})
    page = methods.written(page, {"a": "| `a` | 3 |", "b": "| `b` | 4 |"})
    head, _, *lines = page.split(start)[1].split(end)[0].strip().splitlines()
    assert head.startswith("| method | values trained |")
    assert lines == ["| `lora` | 1 |", "| `a` | 3 |", "| `b` | 4 |"]
    assert page.startswith("# Title\n") and page.endswith(f"{end}\nmore\n")


def test_the_table_of_the_page_is_of_methods_that_there_are(methods: ModuleType) -> None:
    page = methods.PAGE.read_text(encoding="utf-8")
    table = page.split(methods.MARKS[0])[1].split(methods.MARKS[1])[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    assert {line.split("`")[1] for line in lines} <= set(registry.entries("method"))
    assert methods.written(page, {}) == page and len(lines) >= 10

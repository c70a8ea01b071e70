"""docs/benchmarks/gpu.py: its tables, its time, its bounds; all of it on the CPU."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.compute.peaks import PEAKS, peak_rate

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"
CPU = torch.device("cpu")
ROW = {
    "images a second": 640.4,
    "images a second, any kernels": 1200.6,
    "operations a second": 98.94e12,
    "memory": 4.07e9,
    "waiting": 0.054,
    "kernels a step": 2400.0,
}


@pytest.fixture(scope="module")
def gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import gpu
        import gpu_checks
        import gpu_long
        import gpu_table

        yield SimpleNamespace(script=gpu, checks=gpu_checks, long=gpu_long, table=gpu_table)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------------- peak rates


@pytest.mark.parametrize(
    ("device", "precision", "rate"),
    [
        ("NVIDIA H200", "bf16", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "fp32", 66.9e12),
        ("NVIDIA H100 PCIe", "fp32", 51e12),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156e12),
        ("NVIDIA L40S", "fp16", 362e12),
        ("NVIDIA L4", "fp16", 121e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA A1000", "bf16", None),
        ("AMD EPYC 7B13", "fp32", None),
    ],
)
def test_the_peak_rate_is_that_of_the_longest_name(device: str, precision: str, rate: float | None) -> None:
    assert peak_rate(device, precision) == (rate if rate is None else pytest.approx(rate))


def test_no_precision_is_slower_than_one_with_more_bits() -> None:
    for name, rates in PEAKS.items():
        known = [rates[precision] for precision in ("fp32", "tf32", "fp16") if precision in rates]
        assert known == sorted(known) and rates.get("bf16", rates["fp16"]) == rates["fp16"], name


def test_the_share_of_the_peak_is_not_known_for_every_device(gpu) -> None:
    assert gpu.table.share_of_peak(98.94e12, "NVIDIA H200", "bf16") == pytest.approx(0.1)
    assert gpu.table.share_of_peak(98.94e12, "Some Card", "bf16") is None


# ----------------------------------------------------------------------------------------------- tables


def lines(gpu, found: dict[str, Any], device: str = "NVIDIA H200") -> dict[tuple[str, str], list[str]]:
    rows = gpu.table.training_rows(found, ["ViT-B-16-quickgelu"], ["fp32", "bf16"], device)
    return {(row[1], row[2]): row for row in rows}


def test_a_line_has_the_numbers_of_a_method_and_of_what_it_shares_with_others(gpu) -> None:
    name = partial(gpu.table.name_of, "ViT-B-16-quickgelu")
    found = {
        name("bf16", "keeplora"): ROW,
        name("bf16", "evaluation"): {"images a second": 3320.0},
        name("fp32", "passes"): {"gradient pass": 470.0, "feature pass": 88.25},
        name("bf16", "inflora"): "out of memory",
        name("fp32", "lora"): {**ROW, "kernels a step": None, "memory": None},
    }
    table = lines(gpu, found)
    assert len(table) == 6
    assert table["bf16", "KeepLoRA"] == [
        "ViT-B/16", "bf16", "KeepLoRA", "640", "1201", "470", "88.2", "3320", "10.0%", "4.07 GB", "5%", "2400",
    ]  # fmt: skip
    assert table["bf16", "InfLoRA"][3:9] == ["out of memory"] * 2 + ["-", "88.2", "3320", "out of memory"]
    assert table["bf16", "LoRA"][3:9] == ["not measured"] * 2 + ["-", "-", "3320", "not measured"]
    assert table["fp32", "LoRA"][5:] == ["-", "-", "not measured", "147.9%", "-", "5%", "-"]
    assert lines(gpu, found, "Some Card")["bf16", "KeepLoRA"][8] == "?"
    assert all(len(row) == len(gpu.table.TRAINING) for row in table.values())


def test_the_long_way_has_a_ratio_where_both_are_known(gpu) -> None:
    model = "ViT-L-14-quickgelu"
    found = {
        gpu.table.name_of(model, "fp32", "gradient pass"): {"the long way": 1.5, "this suite": 0.25},
        gpu.table.name_of(model, "bf16", "memory"): {"the long way": 8e9, "this suite": 4e9},
        gpu.table.name_of(model, "fp32", "memory"): {"the long way": None, "this suite": None},
        gpu.table.name_of(model, "fp32", "evaluation batch"): "out of memory",
    }
    rows = {(row[1], row[2]): row[3:] for row in gpu.table.long_rows(found, gpu.long.phases([model], ["fp32", "bf16"]))}
    assert rows["fp32", "gradient pass"] == ["1.5 s", "250 ms", "6.0"]
    assert rows["bf16", "memory"] == ["8.00 GB", "4.00 GB", "2.0"]
    assert rows["fp32", "memory"] == ["-", "-", "-"]
    assert rows["fp32", "evaluation batch"] == ["out of memory", "out of memory", "-"]
    assert rows["fp32", "weight subspace"] == ["not measured", "not measured", "-"] and len(rows) == 10


def test_the_text_goes_between_the_marks_and_says_what_was_checked(gpu) -> None:
    about = {
        "device": "NVIDIA H200", "torch": "2.15", "seconds": 300.4, "models": ["ViT-B-16-quickgelu"],
        "precisions": ["fp32"], "size": {"batch": 64, "classes": 100, "rank": 16},
        "checks": {"lora": {"loss": 1e-7, "images": 0}, "inflora": {"loss": 3e-5, "images": 1}},
    }  # fmt: skip
    text = gpu.table.section(about, {}, gpu.long.phases(about["models"], ["fp32"]))
    assert "one NVIDIA H200, torch 2.15, in 300 s" in text and "differs by 3e-05 of it" in text
    assert "and 1 of the 24 answers" in text and text.count("\n| ViT-B/16 | fp32 |") == 3 + 7
    start, end = gpu.table.MARKS
    page = gpu.table.written(f"before\n{start}\nold\n{end}\nafter\n", text)
    assert page == f"before\n{start}\n{text}{end}\nafter\n"
    with pytest.raises(gpu.script.UserError, match="put both back"):
        gpu.table.written(f"before\n{start}\nold\n", text)


def test_only_what_a_gpu_measured_belongs_into_the_page(gpu) -> None:
    assert gpu.table.counts("cuda", {"a": "out of memory", "b": ROW})
    assert not gpu.table.counts("cuda", {"a": "out of memory"}) and not gpu.table.counts("cpu", {"b": ROW})


def test_the_page_has_the_table_or_says_that_there_is_none(gpu) -> None:
    page = gpu.script.PAGE.read_text(encoding="utf-8")
    between = page.split(gpu.table.MARKS[0])[1].split(gpu.table.MARKS[1])[0]
    head = "| " + " | ".join(gpu.table.TRAINING) + " |"
    assert (gpu.table.NOT_RUN in between) != (head in between)


# ------------------------------------------------------------------------------------------------- time


def test_a_piece_is_begun_while_there_is_time_for_the_longest_so_far(gpu) -> None:
    clock = Clock()
    budget = gpu.table.Budget(10, clock)
    for took in (3, 1):
        assert budget.fits
        with budget.piece():
            clock.now += took
    assert budget.spent == 4 and budget.longest == 3 and budget.fits
    clock.now += 2.9
    assert budget.fits
    clock.now += 0.1
    assert not budget.fits


def test_what_there_is_no_time_for_is_left_out_and_what_does_not_fit_says_so(gpu, monkeypatch, tmp_path: Path) -> None:
    clock, begun, freed = Clock(), [], []

    def works(bench: str) -> dict[str, float]:
        clock.now += 4
        return {"of": len(begun)}

    def fails(bench: str, sentence: str) -> None:
        clock.now += 1
        raise RuntimeError(sentence)

    def plan(model: str, groups: object):
        full = partial(fails, sentence="CUDA error: out of memory")
        return iter([(f"{model} 1", works), (f"{model} 2", full), (f"{model} 3", works)])

    monkeypatch.setattr(gpu.script, "plan", plan)
    monkeypatch.setattr(gpu.script, "free", lambda device: freed.append(clock.now))
    monkeypatch.setattr(gpu.script, "Bench", lambda model, *rest: begun.append(model) or model)
    size = SimpleNamespace(models=["a", "b"])
    found = dict(gpu.script.measured(size, CPU, gpu.table.Budget(14, clock), tmp_path))
    assert found == {"a 1": {"of": 1}, "a 2": "out of memory", "a 3": {"of": 1}, "b 1": {"of": 2}}
    assert begun == ["a", "b"] and freed == [100, 105, 109]  # before each model, and after what did not fit


def test_a_row_that_fails_loses_no_other(gpu, monkeypatch, tmp_path: Path) -> None:
    def fails(bench: str) -> None:
        raise RuntimeError("something else")

    file = tmp_path / "found.json"
    monkeypatch.setattr(gpu.script, "checks", lambda device, folder: iter([("lora", 0.0, 0)]))
    monkeypatch.setattr(gpu.script, "Bench", lambda model, *rest: model)
    monkeypatch.setattr(gpu.script, "free", lambda device: None)
    monkeypatch.setattr(gpu.script, "plan", lambda *_: iter([("one", lambda bench: {"of": 1.5}), ("two", fails)]))
    with pytest.raises(RuntimeError, match="something else"):
        gpu.script.benchmark(["device=cpu", "size=small"], False, file)
    content = json.loads(file.read_text())
    assert content["found"] == {"one": {"of": 1.5}} and content["about"]["seconds"] > 0
    assert content["about"]["checks"] == {"lora": {"loss": 0, "images": 0}}


def test_the_tables_have_all_that_is_measured_in_order_of_importance(gpu) -> None:
    groups = gpu.script.precisions_of(torch.device("cuda"))
    names = [name for name, _ in gpu.script.plan("m", groups)]
    assert len(names) == len(set(names)) == 12 + 4 + 2 + 10 and names[:2] == ["m, fp32, lora", "m, bf16, lora"]
    read = set()

    class Reads(dict):
        def get(self, name: str, default: object) -> object:
            read.add(name)
            return default

    list(gpu.table.training_rows(Reads(), ["m"], [*groups[0], *groups[1]], ""))
    list(gpu.table.long_rows(Reads(), gpu.long.phases(["m"], groups[0])))
    assert read == set(names)


# ------------------------------------------------------------------------------------------- correctness


def test_a_loss_may_differ_by_its_bound_and_not_by_more(gpu) -> None:
    losses = {("toy0", 0, 0): 1.0, ("toy0", 0, 1): -2.0}
    near = {("toy0", 0, 0): 1.0001, ("toy0", 0, 1): -2.0}
    assert gpu.checks.farthest("lora", "cuda", near, losses) == pytest.approx(1e-4)
    for other in (-2.001, float("nan")):
        with pytest.raises(gpu.checks.Broken, match="lora: the loss of step 2 of epoch 1 of toy0 is .* on cuda and -2"):
            gpu.checks.farthest("lora", "cuda", {**near, ("toy0", 0, 1): other}, losses)
    with pytest.raises(gpu.checks.Broken, match="is nan on cuda"):
        gpu.checks.farthest("lora", "cuda", {("toy0", 0, 0): 1.0}, losses)


def test_one_answer_in_a_cell_may_differ_and_not_two(gpu) -> None:
    image = 100 / gpu.checks.TESTED
    assert gpu.checks.changed("lora", "cuda", [[50.0, 50 + image]], [[50.0, 50.0]]) == 1
    with pytest.raises(gpu.checks.Broken, match="inflora: after task 1, test set 2 has 41.67 on cuda and 50.00 on"):
        gpu.checks.changed("inflora", "cuda", [[50.0, 50.0], [50.0, 50 - 2 * image]], [[50.0, 50.0]] * 2)


class Made(SimpleNamespace):
    def cells(self) -> list[list[float]]:
        return [[50.0]]

    def same_files(self, other: "Made") -> bool:
        return self.files == other.files


@pytest.mark.parametrize(("losses", "files"), [({("t", 0, 0): 1.0001}, "same"), ({("t", 0, 0): 1.0}, "others")])
def test_a_run_that_goes_on_has_to_have_the_same_bits(gpu, monkeypatch, tmp_path, losses, files: str) -> None:
    straight = Made(losses={("t", 0, 0): 1.0}, files="same")
    broken_off = Made(losses=losses, files=files)
    monkeypatch.setattr(gpu.checks, "learned", lambda *words, stopped=None: straight if stopped is None else broken_off)
    with pytest.raises(gpu.checks.Broken, match="lora: a run on cuda that was stopped after 5 steps and started again"):
        list(gpu.checks.checks("cuda", tmp_path))
    monkeypatch.setattr(gpu.checks, "learned", lambda *words, stopped=None: straight)
    assert list(gpu.checks.checks("cuda", tmp_path)) == [(method, 0, 0) for method in gpu.checks.METHODS]


@pytest.mark.slow
def test_a_run_is_stopped_inside_a_task_and_goes_on(gpu, monkeypatch, tmp_path: Path) -> None:
    begun, run = [], gpu.checks.run

    def counted(*words, **named) -> Path:
        begun.append(named)
        return run(*words, **named)

    monkeypatch.setattr(gpu.checks, "run", counted)
    found = gpu.checks.learned("lora", "cpu", tmp_path, stopped=gpu.checks.STOPPED)
    steps = [(f"toy{task}", epoch, step) for task in (0, 1) for epoch in (0, 1) for step in (0, 1, 2)]
    assert list(found.losses) == steps and len(begun) == 2
    assert [len(row) for row in found.cells()] == [2, 2, 2]


def test_a_broken_bound_ends_it_with_status_1_and_one_sentence(gpu, monkeypatch, capsys) -> None:
    def broken(device: str, folder: Path) -> None:
        raise gpu.checks.Broken("lora: the loss is another one")

    monkeypatch.setattr(gpu.script, "checks", broken)
    monkeypatch.setattr(gpu.script, "measured", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "device=cpu", "size=small"])
    assert gpu.script.main() == 1
    captured = capsys.readouterr()
    assert captured.err == "error: lora: the loss is another one\n" and not captured.out


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("second=3", 'unknown word "second=3": write device=, size=, seconds= with a value'),
        ("seconds", 'unknown word "seconds"'),
        ("seconds=1.5", "seconds=1.5 must be a whole number"),
        ("size=large", "size=large is none of full, small"),
        ("device=tpu", "device=tpu is none of cuda, cpu, auto"),
    ],
)
def test_a_wrong_word_is_one_sentence(gpu, monkeypatch, capsys, word: str, sentence: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", word])
    assert gpu.script.main() == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing/found.json", "."])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    gpu, monkeypatch, capsys, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(gpu.script, "checks", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "device=cpu", "size=small", "--json", str(tmp_path / name)])
    assert gpu.script.main() == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: --json {tmp_path / name} cannot be written") and not captured.out


# ------------------------------------------------------------------------------------------ all of it


@pytest.mark.slow
def test_the_whole_script_runs_without_a_gpu(gpu, tmp_path: Path) -> None:
    file, page = tmp_path / "found.json", gpu.script.PAGE.read_bytes()
    words = ["device=cpu", "size=small", "--write", "--json", str(file)]
    process = subprocess.run([sys.executable, FOLDER / "gpu.py", *words], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert "performance.md stays as it is" in process.stderr and gpu.script.PAGE.read_bytes() == page
    content = json.loads(file.read_text())
    about, found = content["about"], content["found"]
    assert about["checks"] == {method: {"loss": 0, "images": 0} for method in gpu.checks.METHODS}
    assert list(found) == [name for name, _ in gpu.script.plan("tiny", gpu.script.precisions_of(CPU))]
    training = found["tiny, bf16, keeplora"]
    assert training["images a second"] > 0 and training["operations a second"] > 0 and 0 <= training["waiting"] < 1
    assert training["memory"] is None and training["kernels a step"] is None
    assert (
        found["tiny, fp32, gradient pass"]["the long way"] > 0
        and found["tiny, fp16, evaluation"]["images a second"] > 0
    )
    assert "not measured" not in process.stdout and process.stdout.count("\n| tiny |") == 9 + 10

"""Results shared by runs: the same numbers, computed once, and honest about the time they took."""

import json
from pathlib import Path

import pytest
import torch
from support.toy_runs import TOY, assert_same, until_finished

from bench.config.resolve import resolve
from bench.core.stopwatch import Stopwatch
from bench.learning.evaluate import outcomes
from bench.runs.run import run
from bench.runs.shared import ResultCache

WHAT = {"zero-shot row", "spectra of the weights", "gradient of the first task"}


def words(out: Path, cache: Path, *more: str) -> list[str]:
    common = [f"stream={TOY}", "stream.count=2", f"model={TOY}", "device=cpu", "threads=1"]
    return [*common, "method=keeplora", "method.rank=4", f"out={out}", f"cache.dir={cache}", *more]


def reused(directory: Path) -> set[str]:
    return set(json.loads((directory / "summary.json").read_text())["seconds_reused"])


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the expensive things is really done."""
    done: list[str] = []
    keeplora = __import__("bench.methods.keeplora", fromlist=["keeplora"])
    for module, name in ((keeplora, "mean_gradient"), (keeplora, "spectrum")):
        original = getattr(module, name)

        def counting(*arguments, original=original, name=name, **named):
            done.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, counting)
    monkeypatch.setattr("bench.learning.evaluate.outcomes", lambda *a: done.append("outcomes") or outcomes(*a))
    return done


def test_a_second_run_takes_what_does_not_depend_on_what_is_swept(tmp_path: Path, computed: list[str]) -> None:
    cache = tmp_path / "cache"
    first = run(resolve(words(tmp_path / "a", cache)))
    assert reused(first) == set() and computed.count("mean_gradient") == 2 and computed.count("outcomes") == 6
    computed.clear()
    swept = ["method.rank=3", "method.weight_energy=0.7", "train.lr=0.02"]
    second = run(resolve(words(tmp_path / "b", cache, *swept)))
    assert reused(second) == WHAT
    # The gradient of the second task, and two rows of two test sets after a task each.
    assert sorted(computed) == ["mean_gradient", *["outcomes"] * 4]
    alone = run(resolve(words(tmp_path / "c", tmp_path / "other", *swept, "cache.gb=0")))
    assert_same(alone, second)
    assert reused(alone) == set() and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("seed=1", {"zero-shot row", "spectra of the weights"}),
        ("train.batch_size=8", {"zero-shot row", "spectra of the weights"}),
        ("evaluate.batch_size=7", {"spectra of the weights", "gradient of the first task"}),
        ("model.seed=1", set()),
        ("method.weight_side=output", {"zero-shot row", "gradient of the first task"}),
        ("method.maps=[q,v]", {"zero-shot row"}),
        ("method.drop_last=true", {"zero-shot row", "spectra of the weights"}),
        ("precision=bf16", {"spectra of the weights", "gradient of the first task"}),
        ("batches.record=true", {"zero-shot row", "spectra of the weights"}),
        ("threads=2", set()),
    ],
)
def test_what_a_result_depends_on_makes_it_another(change: str, kept: set[str], tmp_path: Path, request) -> None:
    cache = tmp_path / "cache"
    run(resolve(words(tmp_path / "a", cache, "stream.count=1", "train.epochs=1")))
    second = run(resolve(words(tmp_path / "b", cache, "stream.count=1", "train.epochs=1", change)))
    assert reused(second) == kept


def test_methods_share_the_zero_shot_row_and_nothing_else(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = run(resolve(words(tmp_path / "a", cache)))
    second = run(resolve(words(tmp_path / "b", cache, "method=lora")))
    assert reused(second) == {"zero-shot row"} and not reused(first)
    rows = [(path / "accuracy.csv").read_text().splitlines()[:3] for path in (first, second)]
    assert rows[0] == rows[1]
    copy = tmp_path / "mine.py"  # the same method from a file of its own is another one
    copy.write_text(
        "from bench.api import register\nfrom bench.methods.keeplora import KeepLora\n"
        '@register("method", "mine", title="mine")\nclass Mine(KeepLora):\n    pass\n'
    )
    assert reused(run(resolve(words(tmp_path / "c", cache, f"method={copy}")))) == {"zero-shot row"}


def test_a_continued_run_reports_all_that_was_reused(tmp_path: Path, killed_after) -> None:
    cache = tmp_path / "cache"
    straight = run(resolve(words(tmp_path / "a", cache)))
    killed_after(3, before=False)
    broken, times = until_finished(words(tmp_path / "b", cache, "checkpoint.every=0"))
    assert times > 2 and reused(broken) == WHAT
    assert_same(straight, broken)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def shared(folder: Path, said: list, limit: int = 10**6, **environment: str) -> ResultCache:
    return ResultCache(folder, limit, environment, lambda name, seconds: said.append((name, seconds)))


def numbers(value: float):
    return lambda: {"x": torch.full((100,), value)}


def test_damaged_results_are_computed_again(tmp_path: Path) -> None:
    said: list = []
    store = shared(tmp_path, said)
    store.get("a", 1, numbers(1.0))
    (path,) = kept(tmp_path)
    for damage in (lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: c[:50], lambda c: b""):
        path.write_bytes(damage(path.read_bytes()))
        assert store.get("a", 1, numbers(2.0))["x"][0] == 2.0 and not said
        (path,) = kept(tmp_path)  # it replaces the damaged one
    assert store.get("a", 1, numbers(3.0))["x"][0] == 2.0 and said[0][0] == "a" and said[0][1] >= 0


def test_another_key_name_or_environment_is_another_result(tmp_path: Path) -> None:
    said: list = []
    shared(tmp_path, said, torch="1").get("a", {"k": [1, 2]}, numbers(1.0))
    for store, name, key in (
        (shared(tmp_path, said, torch="1"), "b", {"k": [1, 2]}),
        (shared(tmp_path, said, torch="1"), "a", {"k": [2, 1]}),
        (shared(tmp_path, said, torch="2"), "a", {"k": [1, 2]}),
    ):
        assert store.get(name, key, numbers(2.0))["x"][0] == 2.0
    assert not said


def test_the_longest_unused_make_room_and_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    import os

    said: list = []
    store = shared(tmp_path, said, limit=2500)  # five of about 500 bytes
    for number in range(4):
        store.get("a", number, numbers(1.0))
        for age, path in enumerate(sorted(tmp_path.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)):
            os.utime(path, (1e9 - age, 1e9 - age))
    store.get("a", 0, numbers(1.0))  # used just now
    store.get("a", 9, numbers(1.0))
    said.clear()
    store.get("a", 0, numbers(1.0))
    store.get("a", 1, numbers(1.0))
    assert [name for name, _ in said] == ["a"]
    before = len(kept(tmp_path))
    store.get("large", 0, lambda: {"x": torch.zeros(1000)})
    assert len(kept(tmp_path)) == before


def test_a_result_lies_in_memory_alike_whether_it_was_computed_or_read(tmp_path: Path, monkeypatch) -> None:
    said: list = []
    store = shared(tmp_path, said)
    monkeypatch.setattr(
        "bench.data.disk_cache.os.utime", lambda path: (_ for _ in ()).throw(PermissionError)
    )  # not ours
    found = [store.get("a", 1, lambda: {"x": torch.arange(12.0).view(4, 3).T})["x"] for _ in range(2)]
    assert len(said) == 1 and torch.equal(*found)
    assert [x.stride() for x in found] == [(4, 1)] * 2


def test_where_nothing_can_be_written_results_are_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert shared(tmp_path / "file", []).get("a", 1, numbers(4.0))["x"][0] == 4.0


def test_an_error_of_the_computation_is_its_own(tmp_path: Path) -> None:
    store = shared(tmp_path, [])
    with pytest.raises(ZeroDivisionError):
        store.get("a", 1, lambda: {"x": torch.tensor(1 / 0)})
    assert store.get("a", 1, numbers(5.0))["x"][0] == 5.0


def test_time_that_was_saved_counts_where_it_would_have_been_spent() -> None:
    watch = Stopwatch()
    with watch.phase("statistics"), watch.part("gradient pass"):
        watch.reuse("gradient", 100.0)
    assert 100 < watch.seconds["statistics"] < 101 and 100 < watch.parts["gradient pass"] < 101
    assert 100 < watch.total() < 101
    later = Stopwatch()
    later.resume({"total": 150.0, "statistics": 100.0}, {"gradient pass": 100.0}, {"gradient": 100.0})
    assert 150 < later.total() < 151 and later.seconds["statistics"] == 100.0 and later.reused == {"gradient": 100.0}


MODEL = """
from dataclasses import dataclass
from bench.api import Clip, register, tiny_clip

class Flipped(Clip):
    def encode_images(self, pixels):
        return super().encode_images(SIGN * pixels)

@register("model", "flipped", title="The tiny model on negative images")
class FlippedModel:
    def load(self, settings):
        clip = tiny_clip()
        clip.__class__ = Flipped
        return clip
"""


def test_a_model_whose_code_was_edited_is_measured_again(tmp_path: Path) -> None:
    model, rows = tmp_path / "flipped.py", []
    for sign in ("1", "-1"):
        model.write_text(MODEL.replace("SIGN", sign))
        line = [word for word in words(tmp_path / "runs", tmp_path / "cache", "method=zero-shot") if "rank" not in word]
        out = run(resolve([word for word in line if not word.startswith("model=")] + [f"model={model}"]))
        rows.append((out / "accuracy.csv").read_text())
        assert reused(out) == set()
    assert rows[0] != rows[1]


def test_an_entry_that_was_renamed_is_not_used(tmp_path: Path) -> None:
    said: list[tuple] = []
    results = shared(tmp_path, said)
    results.get("a", 1, numbers(1.0))
    (first,) = kept(tmp_path)
    results.get("a", 2, numbers(2.0))
    (second,) = set(kept(tmp_path)) - {first}
    for ending in (".safetensors", ".json"):
        content = second.with_suffix(ending).read_bytes()
        first.with_suffix(ending).write_bytes(content)
    assert float(shared(tmp_path, said).get("a", 1, numbers(1.0))["x"][0]) == 1.0


def test_a_method_without_a_file_shares_nothing(tmp_path: Path) -> None:
    from bench.api import Context, Method, tiny_clip

    asked = []
    context = Context(1, 16, 0, 0, shared=lambda name, key, compute: asked.append(key) or compute())
    made = type("Made", (Method,), {"__module__": "nowhere"})(None, tiny_clip(), context)
    assert float(made.shared("x", 1, numbers(3.0))["x"][0]) == 3.0 and asked == []
    assert float(Method(None, tiny_clip(), context).shared("x", 1, numbers(3.0))["x"][0]) == 3.0 and len(asked) == 1

"""Records and checkpoints that hold anything: left out or refused in one sentence, and nothing else happens."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import tries
from support.made_records import make

from bench.compare import export, page
from bench.compare.diff import diff
from bench.compare.export.task_text import task_text
from bench.compare.grouping import gather
from bench.compare.tables import sections, text
from bench.core.errors import UserError
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.record.checkpoint import VERSION, Saved, pack, unpack
from bench.record.events import read_events
from bench.record.schema import is_finished
from bench.runs.progress import Progress, Snapshot
from bench.runs.resume import read_snapshot
from bench.tracking.mirror_state import MirrorState, load_state

# Values that once made a comparison fail, beside all that hypothesis thinks of.
ODD = [
    1e308, -1e308, 10**400, -(10**400), float("nan"), float("inf"), 1e-320, 0, -1, 2**63, True, None, "", "\ud800",
    "\x1b[2J", "=1+1", "-1.5", "a\nb", "x" * 300, [], {}, [[]], {"": None}, [None], {"value": 1}, {"value": {}},
]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(ODD) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@contextmanager
def refusal(kind: type[Exception], said: str) -> Iterator[None]:
    """What is in here may be refused by one kind of error that says something."""
    try:
        yield
    except Exception as error:
        if type(error) is not kind and not (kind is ValueError and isinstance(error, ValueError)):
            raise
        assert re.search(said, str(error)), error  # noqa: PT017 - it may be taken as well


def paths(value: Any, start: tuple = ()) -> Iterator[tuple]:
    """The way to every part of a JSON value."""
    yield start
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from paths(part, (*start, key))


def replaced(value: Any, path: tuple, part: Any) -> Any:
    if not path:
        return part
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], part)
    return copy


def mutated(draw: Callable[[st.SearchStrategy], Any], original: Any) -> Any:
    """A JSON value with up to three parts replaced, doubled or removed."""
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(list(paths(original))))
        if where and draw(st.booleans()):
            key, parent = where[-1], original
            for step in where[:-1]:
                parent = parent[step]
            if draw(st.booleans()):
                rest = {k: v for k, v in parent.items() if k != key} if isinstance(parent, dict) else parent[1:]
            else:
                new = draw(VALUES)
                rest = {**parent, draw(st.text(max_size=5)): new} if isinstance(parent, dict) else [*parent, new]
            original = replaced(original, where[:-1], rest)
        else:
            original = replaced(original, where, draw(VALUES))
    return original


@st.composite
def contents(draw: Callable[[st.SearchStrategy], Any], original: Any) -> bytes:
    """What may stand in a JSON file instead of a value: a mutated one, a part of it, anything."""
    kind = draw(st.sampled_from(["value", "value", "value", "value", "cut", "bytes", "deep"]))
    if kind == "bytes":
        return draw(st.binary(max_size=50))
    if kind == "deep":
        depth = draw(st.sampled_from([30, 60, 900, 200_000]))
        return draw(st.sampled_from([b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth]))
    written = json.dumps(mutated(draw, original), ensure_ascii=draw(st.booleans()))
    content = written.encode("utf-8", "surrogatepass")
    return content[: draw(st.integers(0, len(content)))] if kind == "cut" else content


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make(root, seed=0)
    make(root, "lora", seed=0, fingerprint="9876543210", last=60)
    make(root, seed=1)
    make(root, seed=2)
    return root


def is_number(cell: str) -> bool:
    try:
        return bool(float(cell)) or True
    except ValueError:
        return False


def shown(root: Path) -> str:
    """All that `compare` makes of some runs."""
    comparison = gather([root])
    parts = sections(comparison)
    output = text(comparison, parts, bold=True)
    by_task = sections(comparison, {"per": "task"})
    for written in (output, task_text(comparison, by_task, bold=True)):
        assert written.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\n", "").isprintable()
        written.encode()
    for laid_out in (parts, by_task):
        written = export.csv_text(laid_out)
        (written + export.latex(laid_out)).encode()
        cells = [cell for line in csv.reader(io.StringIO(written, newline="")) for cell in line]
        assert not [cell for cell in cells if re.match(r"[=+@]|-[^\d]", cell) and not is_number(cell)]
    page.embedded(page.data(parts, comparison.left_out))
    left_out = {path.name for path, _ in comparison.left_out}
    kept = {run.path.name for one in comparison.fields for run in one.runs}
    assert left_out | kept == {path.parent.name for path in root.rglob("identity.json")}
    assert {"0123456789-s0", "9876543210-s0", "0123456789-s2"} <= kept
    return output


FULL = {
    "identity.json": {"plugins_sha256": {"method": "f" * 64}, "seeds": {"init": 1, "task_order": 1}},
    "environment.json": {"continued": [{"python": "3.11", "packages": {}}], "host": "h", "processes": 1},
    "summary.json": {"seconds_of_parts": {"gradient": 1.0}, "seconds_reused": {"gradient": 1.0}},
}


@pytest.mark.parametrize("name", sorted(FULL))
@given(data=st.data())
@tries(40)
def test_a_record_that_holds_anything_leaves_the_others_comparable(name: str, data: st.DataObject, runs: Path) -> None:
    path = next(runs.rglob("0123456789-s1"))
    original = json.loads((path.parent / "0123456789-s0" / name).read_text(encoding="utf-8")) | FULL[name]
    before = (path / name).read_bytes()
    try:
        (path / name).write_bytes(data.draw(contents(original)))
        shown(runs)
        is_finished(path)
        with refusal(UserError, "cannot be compared"):
            diff(path, path.parent / "0123456789-s0")
    finally:
        (path / name).write_bytes(before)


# ---------------------------------------------------------------------------------------- files of lines


def lines(draw: Callable[[st.SearchStrategy], Any], original: str) -> str:
    """A file of lines with fields, lines and characters replaced."""
    found = original.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found) - 1)) if found else 0
        odd = draw(st.sampled_from(["", "0", "-1", "1e999", "nan", "9" * 400, "\x00", '"', ",,,,,,,", "\ud800", "٣"]))
        kind = draw(st.sampled_from(["line", "field", "double", "drop", "end"]))
        if kind == "field" and found:
            fields = found[at].split(",")
            fields[draw(st.integers(0, len(fields) - 1))] = odd
            found[at] = ",".join(fields)
        else:
            found[at : at + (kind != "double")] = {"line": [odd + "\n"], "double": found[at : at + 1]}.get(kind, [])
    return "".join(found)


def matrix(others: dict[str, str] | None = None) -> AccuracyMatrix:
    found = AccuracyMatrix(["a", "b"], others)
    for row in range(2):
        for column in range(len(found.columns)):
            found.set(row, column, row + column, 9)
    return found


def outcomes() -> Outcomes:
    found = Outcomes(["a", "b"])
    for row in range(2):
        for column in range(2):
            found.set(row, column, [True] * (row + column) + [False] * (9 - row - column))
    return found


@given(data=st.data())
@tries(300)
def test_tables_that_hold_anything_are_refused(data: st.DataObject) -> None:
    others = data.draw(st.sampled_from([None, {"c": "kept", "d": "probe"}]))
    for written, read in (
        (matrix(others).csv(), lambda text: AccuracyMatrix.from_text(text, Path("accuracy.csv"))),
        (outcomes().csv(), lambda text: Outcomes.from_text(text, ["a", "b"], Path("outcomes.csv"))),
    ):
        with refusal(UserError, "damaged"):
            read(lines(data.draw, written))


@given(data=st.data())
@tries(100)
def test_events_and_the_state_of_a_mirror_that_hold_anything(data: st.DataObject, tmp_path_factory) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    (folder / "wandb").mkdir(exist_ok=True, parents=True)
    row = {"event": "row", "row": 1, "after": "a", "accuracy": {"a": 50.0}, "trained": 7}
    epoch = {"event": "epoch", "task": "a", "step": 4, "epoch": 0, "loss": 0.5, "lr": 0.1}
    (folder / "metrics.jsonl").write_bytes(b"\n".join(data.draw(contents(one)) for one in (row, epoch, row)) + b"\n")
    with refusal(ValueError, "damaged|utf-8"):
        read_events(folder)
    (folder / "wandb" / "state.json").write_bytes(data.draw(contents(vars(MirrorState("abc", tags=["x"], url="u")))))
    state = load_state(folder)
    assert state is None or (state.id and "/" not in state.id)


# ------------------------------------------------------------------------------------------- checkpoints

DECISIVE = ["0123456789", 0, "w" * 64, {"tasks": ["a", "b"]}]
FILES = {"metrics.jsonl": "{}\n", "accuracy.csv": matrix().csv(), "outcomes.csv": outcomes().csv()}


def snapshot(**changes: Any) -> dict[str, Any]:
    """The plain values of a checkpoint, as they are stored."""
    progress = Progress(row=1, learned=True, figures={"trained": 3}, most_trained=3, row_seconds=0.5)
    found = Snapshot(DECISIVE, {"code_revision": "abc"}, progress, {"total": 1.0}, {"part": 1.0}, {}, 7, FILES)
    return {**found.values(), "version": VERSION, "base": None, **changes}


def test_a_snapshot_is_read_as_it_was_written() -> None:
    empty = AccuracyMatrix(["a", "b"])
    found, read, right = read_snapshot(Path("run"), DECISIVE, empty, Saved(1, None, snapshot(), {}))
    assert found.values() == {name: value for name, value in snapshot().items() if name not in ("version", "base")}
    assert read == matrix() and right.csv() == outcomes().csv()


@given(data=st.data())
@tries(400)
def test_a_checkpoint_with_any_values_is_taken_or_refused(data: st.DataObject) -> None:
    inside = data.draw(st.booleans())
    values = snapshot(training={"epoch": 0}, learned=False) if inside else snapshot()
    values = mutated(data.draw, values)
    saved = Saved(1, None, values if isinstance(values, dict) else {}, {})
    with refusal(UserError, "^run (has|holds) "):
        found, *_ = read_snapshot(Path("run"), DECISIVE, AccuracyMatrix(["a", "b"]), saved, saved if inside else None)
        assert 0 <= found.progress.row <= 3 and set(found.files) == set(FILES)


@given(data=st.data())
@tries(300)
def test_bytes_that_are_no_checkpoint_are_refused(data: st.DataObject) -> None:
    import torch

    content = bytearray(pack({"weight": torch.ones(2, 3), "n": torch.tensor(3)}, snapshot()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 60))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with refusal(ValueError, ""):
        tensors, values = unpack(bytes(content))
        assert isinstance(values, dict) and all(isinstance(one, torch.Tensor) for one in tensors.values())

"""Weights in parts by energy, overlaps of subspaces, and the verb that measures both, against plain definitions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.methods.subspace import leading, spectrum
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from bench.analysis import measure as measuring
from bench.analysis import pictures, report
from bench.analysis.measure import Measured, State, chance, decompose, distinct, measure, states
from bench.analysis.options import Options, subject
from bench.analysis.overlap import feature_basis, overlap, overlap_by_chance, principal_angles
from bench.analysis.parts import Directions, leading_count, part_of, replaced
from bench.analysis.subspaces import Overlap, overlaps, task_bases
from bench.api import Clip, Context, Method, UserError, World, analyse, run, tiny_clip, toy_task
from bench.cli import main as cli
from bench.data.pixels import PixelStore
from bench.learning.evaluate import Protocol
from bench.record.results import read_matrix

TOY = str(Path(__file__).parent / "toy.py")
ALL = ["q", "k", "v", "o", "fc1", "fc2"]
TASKS = [toy_task(0), toy_task(1)]


def weight(out: int = 7, width: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


def subspace(width: int, r: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, r, dtype=torch.float64, generator=generator))[0]


def classifier(clip: Clip) -> Method:
    return Method(None, clip, Context(len(TASKS), 16, 0, 0, "task"))


def outcome(clip: Clip, wanted: list[State], kinds: list[str] = ALL) -> list[Measured]:
    method = classifier(clip)
    decomposed = decompose(clip, Options(maps=kinds))
    return list(measure(method, PixelStore(clip, 2**20), Protocol(TASKS, "task", "either", 16), decomposed, wanted))


def features(clip: Clip) -> Tensor:
    pixels = clip.normalize(PixelStore(clip, 2**20).get(TASKS[0].test).uint8(torch.arange(8)))
    with torch.no_grad():
        return torch.cat([clip.encode_images(pixels), clip.encode_prompts(TASKS[0].prompts)])


# ---- parts of a weight


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9), st.floats(0, 1))
def test_the_fewest_leading_energies_that_reach_a_share(energies: list[int], share: float) -> None:
    energies.sort(reverse=True)
    count, total = leading_count(torch.tensor(energies, dtype=torch.float64), share), sum(energies)
    if share == 0 or total == 0:
        assert count == 0
    elif share == 1:
        assert count == len(energies)
    else:
        assert sum(energies[:count]) >= share * total - 1e-9 * total
        assert sum(energies[: count - 1]) < share * total + 1e-9 * total


@pytest.mark.parametrize(("out", "width"), [(7, 10), (10, 7), (8, 8)])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.85, 0.99, 1.0])
def test_a_part_is_that_of_the_definition_and_parts_add_up(out: int, width: int, share: float) -> None:
    whole = weight(out, width)
    u, s, vt = np.linalg.svd(whole.numpy().astype(np.float64))
    kept = np.zeros((out, width))
    for index in range(min(out, width)):
        if share == 0 or (share < 1 and (s[:index] ** 2).sum() >= share * (s**2).sum()):
            break
        kept += s[index] * np.outer(u[:, index], vt[index])
    directions = Directions.of(whole)
    part, rest = (part_of(whole, directions, share, one) for one in (False, True))
    assert part.dtype == whole.dtype
    np.testing.assert_allclose(part.numpy(), kept, atol=1e-6)
    np.testing.assert_allclose((part + rest).numpy(), whole.numpy(), atol=1e-6)
    assert float((part.double() * rest.double()).sum()) == pytest.approx(0, abs=1e-5)  # orthogonal to each other


@pytest.mark.parametrize("share", [0.2, 0.5, 0.85, 0.99])
def test_the_principal_subspace_is_that_of_keeplora(share: float) -> None:
    whole = weight(12, 9)
    directions = Directions.of(whole)
    own, theirs = directions.basis(directions.count(share)), leading(*spectrum(whole), share)
    assert own.shape == theirs.shape
    torch.testing.assert_close(own @ own.T, theirs @ theirs.T, atol=1e-10, rtol=0)


def test_a_weight_of_zeros_has_no_directions() -> None:
    directions = Directions.of(torch.zeros(3, 4))
    assert directions.count(0.9) == 0 and not part_of(torch.zeros(3, 4), directions, 0.9, False).any()


def test_replaced_weights_come_back_to_the_bit() -> None:
    clip = tiny_clip()
    before, maps = clip.weights_sha256(), list(clip.maps.values())

    def fail() -> None:
        with replaced(maps, [one.weight * 0.5 for one in maps]):
            assert clip.weights_sha256() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert clip.weights_sha256() == before


# ---- subspaces


def test_overlap_of_equal_subspaces_is_one_and_of_orthogonal_ones_zero() -> None:
    both = subspace(9, 6)
    a, b = both[:, :3], both[:, 3:]
    turned = a @ subspace(3, 3, 1)
    assert overlap(a, turned) == pytest.approx(1) and overlap(a, b) == pytest.approx(0, abs=1e-12)
    assert overlap(a, both) == pytest.approx(1)  # one lies in the other
    torch.testing.assert_close(principal_angles(a, b), torch.full((3,), 90.0, dtype=torch.float64))


@pytest.mark.parametrize(("r", "s"), [(2, 5), (4, 4), (6, 1)])
def test_angles_are_scipys_and_overlap_the_mean_squared_cosine(r: int, s: int) -> None:
    a, b = subspace(9, r), subspace(9, s, 1)
    theirs = np.sort(subspace_angles(a.numpy(), b.numpy()))
    np.testing.assert_allclose(principal_angles(a, b).numpy(), np.degrees(theirs), atol=1e-6)
    assert overlap(a, b) == pytest.approx(float((np.cos(theirs) ** 2).mean()))


def test_random_subspaces_overlap_as_chance_says() -> None:
    drawn = [overlap(subspace(12, 3, seed), subspace(12, 5, 1000 + seed)) for seed in range(400)]
    assert np.mean(drawn) == pytest.approx(overlap_by_chance(12, 3, 5), abs=0.02)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_the_subspace_of_features_is_that_of_their_singular_vectors(share: float) -> None:
    found = np.random.default_rng(0).normal(size=(200, 8)) * 0.6 ** np.arange(8)
    found[:, 7] = found[:, 6]  # seven directions only
    s, vt = np.linalg.svd(found)[1:]
    count = 7 if share == 1 else 1 + int((np.cumsum(s**2) < share * (s**2).sum()).sum())
    basis = feature_basis(torch.from_numpy(found.T @ found), share)
    np.testing.assert_allclose((basis @ basis.T).numpy(), vt[:count].T @ vt[:count], atol=1e-8)


def test_overlaps_of_tasks_and_weights_are_those_of_all_their_activations() -> None:
    clip, options = tiny_clip(), Options([0.5, 1.0], ["q", "o"], ["image", "text"], 0.9)
    store = PixelStore(clip, 2**20)
    bases = task_bases(clip, store, TASKS, Context(2, 16, 0, 0, "task"), options)
    found = overlaps(["a", "b"], bases, decompose(clip, options), options)
    assert [(one.tower, one.task, one.other, one.energy) for one in found] == [
        (tower, *pair) for tower in options.towers for pair in (("a", "b", None), ("a", None, 0.5), ("b", None, 0.5))
    ]
    for tower in options.towers:
        names = [f"{tower}.{block}.{site}" for block in range(2) for site in ("qkv", "o")]
        spans = [[span(activations(clip, store, index, name), 0.9) for name in names] for index in range(len(TASKS))]
        weights = [span(clip.maps[name.replace("qkv", "q")].weight.double().numpy(), 0.5) for name in names]
        tasks, first, second = (one for one in found if one.tower == tower)
        for one, (left, right) in zip(
            (tasks, first, second), ((spans[0], spans[1]), (spans[0], weights), (spans[1], weights)), strict=True
        ):
            assert one.maps == 4
            squared = [np.cos(subspace_angles(a, b)) ** 2 for a, b in zip(left, right, strict=True)]
            assert one.overlap == pytest.approx(np.mean([values.mean() for values in squared]), abs=1e-4)
            shares = [np.mean([a.shape[1] / a.shape[0] for a in group]) for group in (left, right)]
            assert one.dimensions == pytest.approx(shares)


def activations(clip: Clip, store: PixelStore, index: int, name: str) -> np.ndarray:
    """All that a site reads of a task, a row a token, in float64."""
    rows = []

    def record(x: Tensor, mask: Tensor | None) -> None:
        rows.append(x.flatten(0, -2) if mask is None else x[mask])

    with clip.recording({name: record}), torch.no_grad():
        if name.startswith("image"):
            clip.encode_images(clip.normalize(store.get(TASKS[index].train).uint8(torch.arange(40))))
        else:
            clip.encode_tokens(clip.tokenize(TASKS[index].prompts))
    return torch.cat(rows).double().numpy()


def span(rows: np.ndarray, share: float) -> np.ndarray:
    """Leading right singular vectors of a matrix that hold a share of its energy, as columns."""
    s, vt = np.linalg.svd(rows, full_matrices=False)[1:]
    return vt[: 1 + int((np.cumsum(s**2) < share * (s**2).sum()).sum())].T


# ---- test sets under replaced weights


def test_with_all_energy_it_is_the_model_itself_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is replaced then, neither by the principal part of all nor by the rest of nothing."""
    monkeypatch.setattr(measuring, "part_of", lambda *_: pytest.fail("a weight is replaced"))
    clip = tiny_clip()
    before, plain = clip.weights_sha256(), accuracy_counts(clip)
    whole = [State("both", "principal", 1.0), State("text", "rest", 0.0)]
    assert [one.correct for one in outcome(clip, whole)] == [plain] * 2
    assert clip.weights_sha256() == before


def test_all_directions_together_are_the_model_to_rounding() -> None:
    clip = tiny_clip()
    plain = features(clip)
    maps = list(clip.maps.values())
    with replaced(maps, [part_of(one.weight, Directions.of(one.weight), 1.0, False) for one in maps]):
        torch.testing.assert_close(features(clip), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["image", "text", "both"])
def test_without_energy_it_is_the_model_with_maps_of_zeros(place: str) -> None:
    clip, zeroed = tiny_clip(), tiny_clip()
    for one in zeroed.maps.values():
        if place in (one.tower, "both"):
            one.weight.zero_()
    gone = [State(place, "principal", 0.0), State(place, "rest", 1.0)]
    found = outcome(clip, gone)
    assert [one.correct for one in found] == [accuracy_counts(zeroed)] * 2
    assert [one.directions for one in found] == [0, 0]
    maps = [one for one in clip.maps.values() if place in (one.tower, "both")]
    with replaced(maps, [part_of(one.weight, Directions.of(one.weight), 0.0, False) for one in maps]):
        assert torch.equal(features(clip), features(zeroed))


@pytest.mark.parametrize("part", ["principal", "rest"])
def test_in_between_it_is_the_model_with_that_part(part: str) -> None:
    clip, other = tiny_clip(), tiny_clip()
    left = []
    for one in other.maps.values():
        if one.tower == "image" and one.kind in ("q", "fc1"):
            u, s, vt = np.linalg.svd(one.weight.double().numpy(), full_matrices=False)
            count = 1 + int((np.cumsum(s**2) < 0.6 * (s**2).sum()).sum())
            chosen = slice(count) if part == "principal" else slice(count, None)
            one.weight.copy_(torch.from_numpy((u[:, chosen] * s[chosen]) @ vt[chosen]))
            left.append((len(s[chosen]), len(s)))
    (found,) = outcome(clip, [State("image", part, 0.6)], ["q", "fc1"])
    assert found.correct == accuracy_counts(other) and found.total == (24, 24)
    assert found.directions == pytest.approx(sum(one for one, _ in left) / sum(one for _, one in left))


def accuracy_counts(clip: Clip) -> tuple[int, ...]:
    """Correct images of every test set, computed directly."""
    found = []
    for task in TASKS:
        pixels = PixelStore(clip, 2**20).get(task.test)
        with torch.no_grad():
            images = torch.cat([clip.encode_images(batch) for batch, _ in pixels.batches(16)])
            answers = (images @ clip.encode_prompts(task.prompts).T).argmax(dim=-1)
        found.append(int((answers == pixels.labels).sum()))
    return tuple(found)


def test_every_state_is_listed_and_equal_ones_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = states(Options([0.0, 0.5, 1.0]))
    assert len(wanted) == 18 and len(set(wanted)) == 18
    assert distinct(wanted) == 1 + 3 + 6  # the model itself, a place without its weights, two parts of each place
    rows = []
    real = measuring.evaluate_row
    monkeypatch.setattr(measuring, "evaluate_row", lambda *given: rows.append(1) or real(*given))
    assert len(outcome(tiny_clip(), wanted)) == 18 and len(rows) == 10


def test_chance_is_one_of_the_prompts() -> None:
    assert chance(Protocol(TASKS, "task", "either", 16)) == pytest.approx([100 / 3] * 2)
    assert chance(Protocol(TASKS, "all", "either", 16)) == pytest.approx([100 / 6] * 2)


# ---- the words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["energies=[0.5,2]"], "energies=[0.5,2] is out of range: it must be >= 0 and <= 1"),
        (["energies=[]"], "energies=[] leaves nothing to analyse: name at least one"),
        (["towers=[video]"], "towers=[video] must be one of image, text"),
        (["feature_energy=0"], "feature_energy=0 is out of range: it must be > 0 and <= 1"),
        (["energy=[0.5]"], 'unknown word "energy" of analyse (did you mean "energies"?)'),
        (["method=lora"], "method decides nothing about a model that is not trained: leave it out, or give a finished"),
        (["train.lr=1"], "train.lr decides nothing about a model that is not trained"),
        (["no-run"], '"no-run" holds no run: give a run directory'),
        (["one", "two"], "give one run directory at most, not 2"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words: list[str], said: str, capsys) -> None:
    assert cli.main(["analyse", *words]) == 2
    assert said in capsys.readouterr().err


def test_words_are_ordered_and_taken_once() -> None:
    options = subject(None, ["energies=[1,0.5,1]", "maps=[fc1,q]", "towers=[text,image]"]).options
    assert options == Options([0.5, 1.0], ["q", "fc1"], ["image", "text"])
    assert options.places == ["image", "text", "both"]
    assert Options(towers=["text"]).places == ["text"]


# ---- the whole


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks."""
    words = {"method": "lora", "method.rank": 4, "stream": TOY, "model": TOY, "stream.count": 2, "train.epochs": 1}
    return run({**words, "out": str(tmp_path_factory.mktemp("runs")), "device": "cpu", "track.wandb": "off"}).path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_analysed_with_its_own_weights(finished: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("bench.compare.pictures.DPI", 40)
    before = content(finished)
    found = analyse(finished, {"stream": TOY, "stream.count": 3, "energies": [0.5, 1], "out": str(tmp_path)})
    assert content(finished) == before
    assert found.path.parent == tmp_path / "toy" / "tiny" and found.path.name.startswith(f"lora-{finished.name}-")
    assert sorted(content(found.path)) == [
        "analysis.json", "overlaps.csv", "overlaps.png", "overlaps.svg", "parts.csv", "parts.png", "parts.svg",
    ]  # fmt: skip
    last = [read_matrix(finished).cell(2, column).correct for column in range(2)]
    (whole,) = (one for one in found.parts if one.state == State("image", "principal", 1.0))
    assert list(whole.correct[:2]) == last  # what the run measured after its last task
    rows = list(csv.DictReader((found.path / "parts.csv").open()))
    assert len(rows) == len(found.parts) * 3 == 3 * 2 * 2 * 3
    assert {row["test_set"]: row["learned"] for row in rows} == {"toy0": "yes", "toy1": "yes", "toy2": "no"}
    assert len(list(csv.DictReader((found.path / "overlaps.csv").open()))) == len(found.overlaps) == 2 * (3 + 3)
    out = capsys.readouterr().out
    assert all(f"mean over {name}" in out for name in ("all 3 test sets", "2 learned", "1 not learned"))
    assert json.loads((found.path / "analysis.json").read_text())["run"] == str(finished)


def test_a_model_is_analysed_with_its_prompts(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("bench.compare.pictures.DPI", 40)
    words = [f"model={TOY}", f"stream={TOY}", "stream.count=2", "energies=[1]", "towers=[image]", "device=cpu"]
    for _ in range(2):
        assert cli.main(["analyse", *words, f"out={tmp_path}"]) == 0
    (folder,) = (tmp_path / "toy" / "tiny").iterdir()  # the same line again replaces
    rows = list(csv.DictReader((folder / "parts.csv").open()))
    plain = [row for row in rows if row["part"] == "principal"]
    assert tuple(int(row["correct"]) for row in plain) == accuracy_counts(tiny_clip())
    assert "2 states of the model" in capsys.readouterr().out


def test_one_task_and_all_energy_have_nothing_to_compare(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("bench.compare.pictures.DPI", 40)
    words = [f"model={TOY}", f"stream={TOY}", "stream.count=1", "energies=[1]", "towers=[text]", "maps=[o]"]
    assert cli.main(["analyse", *words, f"out={tmp_path}"]) == 0
    (folder,) = (tmp_path / "toy" / "tiny").iterdir()
    assert (folder / "parts.svg").is_file() and not (folder / "overlaps.svg").exists()
    assert "no subspaces to compare: there is one test set, and no energy between" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    words = [f"model={TOY}", f"stream={TOY}", "stream.count=1", "energies=[1]", f"out={tmp_path / 'file'}"]
    assert cli.main(["analyse", *words]) == 2
    err = capsys.readouterr().err
    assert "cannot be written (Not a directory): choose another folder with out=DIR" in err


def test_an_analysis_is_made_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.analysis.analyse.world", lambda: World(0, 2))
    with pytest.raises(UserError, match="an analysis is made by one process: start it without torchrun"):
        analyse(None, {})


# ---- tables and pictures


FOUND = [
    Measured(State("image", part, energy), energy, (right, 2 * right), (10, 10))
    for part, energy, right in [("principal", 1.0, 5), ("principal", 0.5, 4), ("rest", 1.0, 1), ("rest", 0.5, 2)]
]
OVER = [
    Overlap("image", "a", "b", None, 0.25, 0.1, 60.0, (0.1, 0.1), 4),
    Overlap("image", "a", None, 0.5, 0.75, 0.5, 30.0, (0.1, 0.5), 4),
    Overlap("image", "b", None, 0.5, float("nan"), float("nan"), float("nan"), (0.0, 0.5), 0),
]


def test_tables_have_means_over_the_chosen_test_sets() -> None:
    text = report.parts_table(FOUND, [0, 1], "all 2 test sets")
    assert [line.split() for line in text.splitlines()[3:]] == [
        ["1", "100", "%", "75.0", "15.0"],
        ["0.5", "50", "%", "60.0", "30.0"],
    ]
    text = report.overlaps_table(OVER)
    assert [line.split()[-6:] for line in text.splitlines()[2:]] == [
        ["0.25", "0.25", "0.25", "0.10", "60", "deg"],
        ["0.75", "0.75", "0.75", "0.50", "30", "deg"],
    ]
    assert report.groups([True, True]) == {"all 2 test sets": [0, 1]}
    assert report.groups([True, False]) == {"all 2 test sets": [0, 1], "1 learned": [0], "1 not learned": [1]}


def test_maps_of_zeros_have_no_overlap() -> None:
    clip, options = tiny_clip(), Options([0.5], ["o"], ["text"])
    clip.maps["text.0.o"].weight.zero_()
    bases = [{f"text.{block}.o": subspace(48, 5, block) for block in range(2)}]
    (one,) = overlaps(["a"], bases, decompose(clip, options), options)
    assert one.maps == 1 and 0 < one.overlap < 1
    clip.maps["text.1.o"].weight.zero_()
    (one,) = overlaps(["a"], bases, decompose(clip, options), options)
    assert one.maps == 0 and np.isnan(one.overlap) and one.dimensions == (5 / 48, 0)
    assert len(report.overlaps_table([one]).splitlines()) == 2  # the head alone


def test_an_empty_subspace_has_no_overlap_in_the_file() -> None:
    rows = list(csv.DictReader(report.overlaps_csv(OVER).splitlines()))
    assert [row["overlap"] for row in rows] == ["0.25", "0.75", ""]
    assert [(row["other"], row["energy"]) for row in rows] == [("b", ""), ("", "0.5"), ("", "0.5")]


def test_the_picture_of_parts_shows_means_over_energy() -> None:
    (axes,) = pictures.parts(FOUND, report.groups([True, False]), [10.0, 30.0]).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["principal part alone, all 2 test sets"] == [[100.0, 75.0], [50.0, 60.0]]
    assert lines["rest alone, 1 not learned"] == [[100.0, 20.0], [50.0, 40.0]]
    assert [y for _, y in lines["chance"]] == [20.0, 20.0]


def test_the_heat_map_has_tasks_and_weights() -> None:
    columns, cells = pictures.table(OVER, ["a", "b"])
    assert columns == ["a", "b", "weights 50 %"]
    np.testing.assert_array_equal(cells, [[1, 0.25, 0.75], [0.25, 1, np.nan]])
    axes, _ = pictures.overlaps(OVER, ["a", "b"]).axes
    assert sorted(text.get_text() for text in axes.texts) == ["0.25", "0.25", "0.75", "1.00", "1.00"]

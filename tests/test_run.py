"""A whole run on the toy stream: its record, its rows, its determinism, its refusals."""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import ToyStream

from bench.compute.device import peak_memory_mb
from bench.compute.world import World
from bench.config.resolve import resolve
from bench.config.run_settings import Resolved
from bench.core.errors import UserError
from bench.data.stream import Extra
from bench.learning.method import Method
from bench.metrics.kinds import summary
from bench.metrics.matrix import AccuracyMatrix
from bench.metrics.outcomes import Outcomes
from bench.runs import run as engine
from bench.runs.run import run
from bench.trials.toy import toy_task

ROOT = Path(__file__).parent.parent
TOY = str(Path(__file__).parent / "toy.py")


def toy(tmp_path: Path, *words: str) -> Resolved:
    return resolve([f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu", "method.rank=4", *words])


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(toy(tmp_path_factory.mktemp("runs"), "method=keeplora", "seed=3"), ["the", "command"])


def test_the_directory_names_what_ran(finished: Path) -> None:
    assert finished.parts[-4:-1] == ("toy", "tiny", "keeplora")
    assert finished.name.endswith("-s3")


def test_the_record_is_whole(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.yaml", "identity.json", "environment.json", "metrics.jsonl", "accuracy.csv", "outcomes.csv",
        "summary.json", "model.safetensors",
    }  # fmt: skip
    identity = json.loads((finished / "identity.json").read_text())
    assert identity["command"] == ["the", "command"]
    assert identity["seeds"] == {"task_order": 3, "data_order": 3, "init": 3}
    assert identity["settings"]["method.rank"] == {"value": 4, "source": "user"}
    assert identity["settings"]["train.lr"] == {"value": 0.01, "source": "stream"}
    assert identity["settings"]["method.alpha"] == {"value": 1.0, "source": "default"}
    assert set(identity["manifests"]) == {"toy0", "toy1", "toy2"}
    assert len(identity["weights_sha256"]) == len(identity["prompts_sha256"]) == 64
    assert identity["code_revision"]
    assert set(identity["plugins_sha256"]) == {"method", "stream", "model"}
    assert identity["label_space"] == "task"
    assert identity["tasks"] == ["toy0", "toy1", "toy2"]
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    config = (finished / "config.yaml").read_text()
    assert "rank: 4" in config and "weight_energy:\n    image: 0.85" in config
    result = json.loads((finished / "summary.json").read_text())
    assert result["status"] == "finished"
    assert result["metrics"] == summary(AccuracyMatrix.from_csv(finished / "accuracy.csv"))
    assert set(result["seconds"]) == {"total", "load", "statistics", "train", "evaluate"}
    matrix = AccuracyMatrix.from_csv(finished / "accuracy.csv")
    outcomes = Outcomes.from_csv(finished / "outcomes.csv", matrix.tasks)
    for row, column in itertools.product(range(4), range(3)):  # refuses what the counts do not fit
        assert outcomes.of(matrix, row, column) is not None
    assert result["trainable_parameters"] > 0 and result["stored_numbers"] > 0 and result["peak_memory_mb"] > 0


def test_every_cell_is_measured_unseen_test_sets_included(finished: Path) -> None:
    with (finished / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3 and {row["state"] for row in rows} == {"measured"}
    assert all(int(row["total"]) == 24 for row in rows)
    events = lines(finished)
    assert [e["after"] for e in events if e["event"] == "row"] == ["zero-shot", "toy0", "toy1", "toy2"]
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [0, 1] * 3


def test_running_again_says_it_is_done(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert run(toy(finished.parents[3], "method=keeplora", "seed=3")) == finished
    assert f"already done: {finished}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_run_says_where_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    words = [f"stream={TOY}", "stream.count=2", f"model={TOY}", f"out={tmp_path}", "device=cpu", "track.wandb=off"]
    run(resolve([*words, "method=zero-shot"]))
    assert "beside" not in capsys.readouterr().out
    for _ in ("made", "shown again"):
        run(resolve([*words, "method=lora", "method.rank=4"]))
        assert capsys.readouterr().out.splitlines()[-1].startswith("beside 1 other run here: Last ")
    monkeypatch.setattr(engine, "world", lambda: World(1, 2, 1))  # a process that does not lead
    engine._stand(next(tmp_path.glob("*/*/lora/*")))
    assert capsys.readouterr().out == ""


def test_an_unfinished_run_starts_again(finished: Path, tmp_path: Path) -> None:
    directory = tmp_path / finished.relative_to(finished.parents[3])
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text('{"event": "row"')
    assert run(toy(tmp_path, "method=keeplora", "seed=3")) == directory
    assert (directory / "accuracy.csv").read_text() == (finished / "accuracy.csv").read_text()
    assert len(lines(directory)) == len(lines(finished))


@pytest.mark.parametrize("method", ["zero-shot", "finetune", "lora", "inflora", "keeplora"])
def test_same_line_same_bits(method: str, tmp_path: Path) -> None:
    rank = [] if method in ("zero-shot", "finetune") else ["method.rank=4"]
    words = [f"stream={TOY}", f"model={TOY}", "device=cpu", f"method={method}", *rank]
    records = []
    for name in ("a", "b"):
        torch.manual_seed(len(records))  # the global generator must not matter
        directory = run(resolve([*words, f"out={tmp_path / name}"]))
        epochs = [event for event in lines(directory) if event["event"] == "epoch"]
        records.append(((directory / "accuracy.csv").read_text(), epochs))
    assert records[0] == records[1]


def test_seeds_are_separate(tmp_path: Path) -> None:
    """Another data order changes a run; naming the seeds that hold anyway does not."""
    base = run(toy(tmp_path / "a", "method=lora"))
    other = run(toy(tmp_path / "b", "method=lora", "seeds.data_order=1"))
    same = run(toy(tmp_path / "c", "method=lora", "seed=9", "seeds.data_order=0", "seeds.init=0", "seeds.task_order=0"))
    losses = [[e["loss"] for e in lines(d) if e["event"] == "epoch"] for d in (base, other, same)]
    assert losses[0] == losses[2] != losses[1]


def test_zero_shot_measures_once_and_reuses(tmp_path: Path) -> None:
    directory = run(resolve([f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu", "method=zero-shot"]))
    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    for column in range(3):
        assert matrix.state(0, column) == "measured"
        assert {matrix.state(row, column) for row in (1, 2, 3)} == {"reused"}
        assert len({matrix.accuracy(row, column) for row in range(4)}) == 1


@pytest.mark.parametrize(
    ("method", "space"), [*itertools.product(["lora", "zero-shot"], ["seen", "all"]), ("zero-shot", "agnostic")]
)
def test_other_label_spaces(method: str, space: str, tmp_path: Path) -> None:
    resolved = resolve([f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu", f"method={method}"])
    stream = type("OtherSpace", (ToyStream,), {"label_space": space})
    directory = run(dataclasses.replace(resolved, stream_class=stream))
    matrix = AccuracyMatrix.from_csv(directory / "accuracy.csv")
    missing = {(r, c) for r in range(4) for c in range(3) if matrix.state(r, c) == "missing"}
    assert missing == ({(r, c) for r in range(4) for c in range(3) if c >= r} if space == "seen" else set())
    if method == "zero-shot":  # where the label space grows, a model that stays the same is measured again
        assert (matrix.state(3, 0) == "reused") == (space == "all")
    metrics = json.loads((directory / "summary.json").read_text())["metrics"]
    assert metrics["average_cil"] is not None
    assert (metrics["transfer_by_column"] is None) == (space == "seen")


def test_a_probe_is_measured_and_changes_nothing_else(tmp_path: Path) -> None:
    class TwoTasks(ToyStream):
        def load(self, root, seed):
            return super().load(root, seed)[:2]

    class Probed(ToyStream):
        def load(self, root, seed):
            *tasks, apart = super().load(root, seed)
            self.others = [Extra.probe(dataclasses.replace(apart, name="apart"))]
            return tasks

    found = []
    for cls in (TwoTasks, Probed):
        resolved = dataclasses.replace(toy(tmp_path / cls.__name__, "method=lora"), stream_class=cls)
        directory = run(resolved)
        metrics = json.loads((directory / "summary.json").read_text())["metrics"]
        found.append((AccuracyMatrix.from_csv(directory / "accuracy.csv"), metrics))
    (plain, before), (probed, after) = found
    assert (plain.array() == probed.array()).all() and probed.others == {"apart": "probe"}
    last = [probed.accuracy(row, 2) for row in range(3)][-1]
    assert after == {**before, "probe": last, "probe_loss": probed.accuracy(0, 2) - last}


def test_validation_images_take_the_place_of_test_images(tmp_path: Path) -> None:
    directory = run(toy(tmp_path, "method=lora", "evaluate.split=validation"))
    assert AccuracyMatrix.from_csv(directory / "accuracy.csv").cell(1, 0).total == 12
    normal = run(toy(tmp_path, "method=lora"))
    assert directory != normal


def test_a_tasks_own_budget_yields_to_the_user(tmp_path: Path) -> None:
    class Short(ToyStream):
        def load(self, data_root, order_seed):
            tasks = super().load(data_root, order_seed)
            return [dataclasses.replace(tasks[0], train_settings={"epochs": 1}), tasks[1]]

    for words, expected in (((), [0, 0, 1]), (("train.epochs=3",), [0, 1, 2] * 2)):
        resolved = dataclasses.replace(toy(tmp_path / str(len(words)), "method=lora", *words), stream_class=Short)
        assert [e["epoch"] for e in lines(run(resolved)) if e["event"] == "epoch"] == expected


def test_threads_and_determinism_are_given_back(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    run(toy(tmp_path, "method=lora", f"threads={threads + 1}"))
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_unsupported_label_space_is_found_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy(tmp_path, "method=lora").method_class, "label_spaces", ("seen",))
    sentence = """method "lora" does not support the label space 'task' of stream "toy": choose another stream"""
    with pytest.raises(UserError, match=sentence):
        toy(tmp_path, "method=lora")


@pytest.mark.parametrize("method", ["lora", "inflora", "keeplora"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["method.rank=129"], "method.rank=129 is above the width 128 of the image tower: choose at most 128"),
        (["method.rank=600", "model=ViT-B-16/openai"], "method.rank=600 is above the width 512 of the text tower"),
        (
            ["method.rank=769", "model=ViT-B-16/openai", "method.towers=[image]"],
            "above the width 768 of the image tower",
        ),
    ],
)
def test_a_rank_above_the_width_is_found_before_loading(method: str, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=f'method "{method}": .*{sentence}'):
        resolve([f"method={method}", *words])


def test_a_rank_is_held_against_the_adapted_towers_only() -> None:
    resolve(["method=lora", "method.rank=600", "model=ViT-B-16/openai", "method.towers=[image]"])


def test_a_missing_device_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda is not available on this machine"):
        run(toy(tmp_path, "method=lora", "device=cuda"))


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*taken.*: make room or choose another folder with out=DIR"):
        run(toy(tmp_path / "taken", "method=lora"))


def test_a_disk_that_fills_up_during_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third row cannot be written: one sentence, and the two before it stay on disk."""
    real, calls = Path.replace, []

    def full(self: Path, path: Path) -> Path:
        if path.name == "accuracy.csv":
            calls.append(path)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")  # the kernel names no file when a write fails
        return real(self, path)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="cannot write to .*No space left on device"):
        run(toy(tmp_path, "method=lora"))
    matrix = AccuracyMatrix.from_csv(calls[0])
    assert [matrix.state(row, 0) for row in range(4)] == ["measured", "measured", "missing", "missing"]
    assert not (calls[0].parent / "summary.json").exists()


def test_a_file_system_that_refuses_large_files(tmp_path: Path) -> None:
    """A real limit of the kernel instead of a pretended error: the record stops, with one sentence and status 2."""
    code = (
        "import resource, signal, sys; from bench.cli.main import main; import bench.runs.run;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900));"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["run", "method=lora", "method.rank=4", f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: cannot write to ")
    assert "Traceback" not in done.stderr


def test_a_mistake_leaves_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="method.rank=100 is above the width"):
        run(toy(tmp_path, "method=lora", "method.rank=100"))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_of_other_data_is_not_handed_back(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(self, data_root, order_seed):
        return [toy_task(index + 1) for index in range(3)]

    resolved = toy(finished.parents[3], "method=keeplora", "seed=3")
    monkeypatch.setattr(resolved.stream_class, "load", other)
    with pytest.raises(UserError, match=r"holds a finished run with another tasks than this line would have"):
        run(resolved)


@pytest.mark.parametrize("content", ["", "{", "[1]", None])
def test_a_finished_run_whose_identity_is_damaged_is_reported(
    content: str | None, finished: Path, tmp_path: Path
) -> None:
    directory = tmp_path / finished.relative_to(finished.parents[3])
    shutil.copytree(finished, directory)
    (directory / "identity.json").unlink()
    if content is not None:
        (directory / "identity.json").write_text(content)
    with pytest.raises(UserError, match=r"identity.json of a finished run cannot be read .*: move .* away to run"):
        run(toy(tmp_path, "method=keeplora", "seed=3"))


def test_a_finished_run_of_other_code_is_shown_with_a_note(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "code_identity", lambda resolved: {"code_revision": "another"})
    run(toy(finished.parents[3], "method=keeplora", "seed=3"))
    assert "note: it was made with another state of the code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, r'task toy0 sets "train.epoch", which is no setting of a task \(did you mean "epochs"'),
        ({"epochs": -1}, "task toy0 sets train.epochs=-1: it "),
    ],
)
def test_a_tasks_own_budget_is_checked(settings: dict, message: str, tmp_path: Path) -> None:
    class Odd(ToyStream):
        def load(self, data_root, order_seed):
            return [dataclasses.replace(task, train_settings=settings) for task in super().load(data_root, order_seed)]

    with pytest.raises(UserError, match=message):
        run(dataclasses.replace(toy(tmp_path, "method=lora"), stream_class=Odd))


def test_what_is_no_method_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="method lora is no subclass of bench.api.Method"):
        run(dataclasses.replace(toy(tmp_path, "method=lora"), method_class=dict))


def test_a_data_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data=.*nowhere is no folder"):
        run(toy(tmp_path, "method=lora", f"data={tmp_path / 'nowhere'}"))


class ClosedForm(Method):
    """A class-mean head, solved without gradients: rows must be measured although nothing is trained."""

    def setup(self):
        self.heads = {}

    def fit(self, task, train, on_step, on_epoch):
        total = torch.zeros(len(task.prompts), 32)
        for pixels, labels in task.batches("heads"):
            total.index_add_(0, labels, self.clip.encode_images(pixels).detach())
        self.heads[task.prompts] = torch.nn.functional.normalize(total, dim=1)
        return 0

    def classifier(self, space):
        head = self.heads.get(space.prompts)
        plain = super().classifier(space)
        return plain if head is None else lambda pixels: self.clip.encode_images(pixels) @ head.T


def test_a_method_in_closed_form_is_measured_after_every_task(tmp_path: Path) -> None:
    resolved = dataclasses.replace(toy(tmp_path, "method=lora"), method_class=ClosedForm)
    matrix = AccuracyMatrix.from_csv(run(resolved) / "accuracy.csv")
    assert matrix.accuracy(3, 0) > matrix.accuracy(0, 0) + 20
    assert {matrix.state(3, column) for column in range(3)} == {"measured"}


def test_figures_of_every_task_are_recorded(finished: Path) -> None:
    rows = [event for event in lines(finished) if event["event"] == "row"]
    width = {"image": 64, "text": 48}
    for event in rows[1:]:
        ranks, protected = event["effective_rank"], event["protected"]
        assert max(ranks.values()) == 4
        assert event["trained"] == sum(rank * width[name.split(".")[0]] for name, rank in ranks.items())
        assert event["stored_numbers"] == sum(k * width[name.split(".")[0]] for name, k in protected.items())


def test_a_task_that_leaves_nothing_to_train_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(toy(tmp_path, "method=keeplora", "method.weight_energy.image=1", "method.weight_energy.text=1"))
    assert capsys.readouterr().out.count("(nothing was left to train)") == 3


def test_progress_bars_are_silent_when_not_on_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(toy(tmp_path, "method=lora"))
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "[3/3] toy2" in captured.out and "zero-shot" in captured.out


def test_nothing_is_read_or_set_at_import() -> None:
    """Importing every module changes no directory, no seed and no thread count."""
    import importlib
    import pkgutil

    import bench

    folder, threads, state = Path.cwd(), torch.get_num_threads(), torch.get_rng_state()
    environment = dict(os.environ)
    for module in pkgutil.iter_modules([str(Path(bench.__file__).parent)]):
        if module.name != "__main__":
            importlib.import_module(f"bench.{module.name}")
    assert Path.cwd() == folder and torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state) and dict(os.environ) == environment


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_is_the_processs_own_whoever_started_it() -> None:
    ballast = bytearray(900 * 10**6)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "import torch; from bench.compute.device import peak_memory_mb; print(peak_memory_mb(torch.device('cpu')))"
    own = peak_memory_mb(torch.device("cpu"))
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert own > 900 > float(child.stdout)


UNEVEN = """
from bench.api import Stream, Task, register, toy_task

@register("stream", "uneven", title="A large task and a small one")
class Uneven(Stream):
    defaults = {"train.epochs": 1, "train.batch_size": 16, "train.lr": 0.01}

    def load(self, data_root, order_seed):
        return [toy_task(0), toy_task(1, train=12)]
"""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["method=lora"], "train.schedule=onecycle needs at least 3 steps and task toy1 has 1"),
        (
            ["method=keeplora-official", "train.schedule=constant"],
            "task toy1 has 12 training images, less than one batch of 16",
        ),
    ],
)
def test_what_a_later_task_lacks_is_said_before_the_first_step(words: list[str], sentence: str, tmp_path: Path) -> None:
    stream = tmp_path / "uneven.py"
    stream.write_text(UNEVEN)
    line = [f"stream={stream}", f"model={TOY}", f"out={tmp_path / 'runs'}", "method.rank=4", *words]
    with pytest.raises(UserError, match=sentence):
        run(resolve(line))
    assert not (tmp_path / "runs").exists()


def test_a_method_that_never_trains_needs_no_steps(tmp_path: Path) -> None:
    stream = tmp_path / "uneven.py"
    stream.write_text(UNEVEN)
    line = [f"stream={stream}", f"model={TOY}", f"out={tmp_path / 'runs'}", "method=zero-shot"]
    assert (run(resolve(line)) / "summary.json").exists()


def test_what_is_published_of_the_stream_stands_below_the_matrix(tmp_path: Path, capsys, monkeypatch) -> None:
    from bench.compare import published
    from bench.compare.published import METRICS

    asked = []

    def beside(stream: str, model: str, conditions: dict) -> published.Published:
        asked.append((stream, model, conditions))
        rows = [
            published.Row("ZSCL", "a paper", dict.fromkeys(METRICS.values(), 1.0)),
            published.Row("LoRA (again)", "a paper", {"transfer_by_column": 20.5, "last": 31.0}),
        ]
        untrained = dict(zip(METRICS.values(), (50.0, 51.0, 52.0), strict=True))
        rows.append(published.Row("zero-shot", "another", untrained))
        return published.Published("toy", "tiny", (), (), tuple(rows))

    monkeypatch.setattr(published, "beside", beside)
    run(toy(tmp_path, "method=lora", "train.epochs=1"))
    said = capsys.readouterr().out
    line = "published (Transfer / Average / Last): zero-shot 50.0 / 51.0 / 52.0, LoRA 20.5 / - / 31.0; sources: "
    assert f"\n{line}datasets/published/toy.json\n" in said
    ((_, _, conditions),) = asked
    assert conditions["order of tasks"] == ["toy0", "toy1", "toy2"]
    assert conditions["label space"] == "task" and conditions["evaluate.split"] == "test"

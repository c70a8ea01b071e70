"""What can be done with a finished run: load its model, measure it elsewhere, export it for open_clip."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.made_records import forget, make

from bench.api import (
    Clip,
    LabelSpace,
    LowRank,
    Method,
    Observers,
    UserError,
    evaluate,
    export,
    gather,
    load,
    run,
    tiny_clip,
    toy_task,
)
from bench.cli import main as cli
from bench.compare.runs import read
from bench.metrics.kinds import summary
from bench.record.checkpoint import pack, unpack
from bench.record.results import read_matrix, read_outcomes
from bench.reuse.card import card, public
from bench.trials.toy import CONFIG

ROOT = Path(__file__).parent.parent
TOY = str(Path(__file__).parent / "toy.py")
SMALL = {"stream.count": 2, "train.epochs": 1, "device": "cpu", "track.wandb": "off"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """A run of a method with a head and one without, each with the logits that it gave after its last task."""
    made = {}
    for method in ("keeplora-plus", "lora"):
        seen: dict[str, torch.Tensor] = {}
        observers = Observers()
        observers.on(
            "logits",
            lambda one, seen=seen: seen.update({one.task: one.values["logits"]}) if one.values["row"] == 2 else None,
        )
        words = {"method": method, "method.rank": 4, "stream": TOY, "model": TOY, **SMALL}
        result = run({**words, "out": str(tmp_path_factory.mktemp("runs"))}, observers=observers)
        made[method] = result.path, seen
    return made


@pytest.fixture
def copy(finished: dict, tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a finished run, to be damaged."""
    return lambda method="lora": Path(shutil.copytree(finished[method][0], tmp_path / "copy" / method))


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **values}))


def plants(root: Path, count: int = 3) -> Path:
    """A folder of a user's own: two classes of plain pictures."""
    for split in ("train", "test"):
        for name, colour in (("red thing", (200, 20, 20)), ("blue thing", (20, 20, 200))):
            folder = root / "plants" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (36, 36), (*colour[:2], colour[2] - index)).save(folder / f"{index}.png")
    return root


# ------------------------------------------------------------------------------------------------ load


@pytest.mark.parametrize("method", ["keeplora-plus", "lora"])
def test_a_loaded_classifier_gives_the_logits_of_the_run_to_the_bit(finished: dict, method: str) -> None:
    path, logits = finished[method]
    loaded = load(path)
    assert loaded.method.registry_name == method and list(loaded.prompts) == ["toy0", "toy1"]
    for index, name in enumerate(loaded.prompts):
        task = toy_task(index)
        pixels = torch.from_numpy(np.stack([loaded.clip.to_uint8(task.test.image(i)) for i in range(len(task.test))]))
        answers = loaded.classifier(task.prompts)(loaded.clip.normalize(pixels))
        assert torch.equal(answers, logits[name])


def test_tasks_are_recognised_by_their_prompts(finished: dict) -> None:
    loaded = load(finished["keeplora-plus"][0])
    first, second = toy_task(0).prompts, toy_task(1).prompts

    def placed(*prompts: object) -> tuple[int, ...]:
        return loaded.place(LabelSpace(tuple(prompts), (0,) * len(prompts), tuple(range(len(prompts))))).tasks

    assert placed(*second) == (1, 1, 1)
    assert placed(*((text, "another template") for text in second)) == (1, 1, 1)
    assert placed(*first[:2]) == (2, 2)  # not the whole task: as before it was learned
    assert placed(*first, "something else") == (2, 2, 2, 2)
    loaded.method.context = type("Seen", (), {"label_space": "seen"})()
    assert placed(*second, "something else") == (1, 1, 1, 2)
    assert placed(*first, *second) == (0, 0, 0, 1, 1, 1)
    with pytest.raises(UserError, match="each prompt once"):
        loaded.classifier(["a dog", "a dog"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "summary.json").unlink(), "unfinished: no summary.json"),
        (lambda path: (path / "model.safetensors").write_bytes(b"torn"), "model.safetensors cannot be read"),
        (lambda path: change(path / "identity.json", weights_sha256="0" * 64), "began with other weights"),
        (lambda path: shutil.rmtree(path), "holds no run"),
    ],
    ids=["unfinished", "damaged", "other weights", "gone"],
)
def test_what_cannot_be_loaded_is_refused(copy: Callable, damage: Callable, message: str) -> None:
    path = copy()
    damage(path)
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_run_without_its_weights_is_refused(copy: Callable) -> None:
    path = copy()
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"were not kept: make the run again"):
        load(path)
    settings = json.loads((path / "identity.json").read_text())["settings"]
    change(path / "identity.json", settings={**settings, "checkpoint.final": {"value": False, "source": "user"}})
    with pytest.raises(UserError, match=r"were not kept \(checkpoint.final=false\)"):
        load(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 1}, "another version"),
        ({"prompts": ["a dog"]}, "its prompts are no lists of texts"),
        ({"prompts": {"toy0": [1, 2, 3]}}, "its prompts are no lists of texts"),
        ({"prompts": {"toy0": []}}, "its prompts are no lists of texts"),
    ],
)
def test_other_values_beside_the_weights_are_refused(copy: Callable, values: dict, message: str) -> None:
    path = copy()
    tensors, before = unpack((path / "model.safetensors").read_bytes())
    (path / "model.safetensors").write_bytes(pack(tensors, {**before, **values}))
    with pytest.raises(UserError, match=message):
        load(path)


def test_settings_that_decide_what_was_learned_cannot_be_given(finished: dict) -> None:
    path = finished["lora"][0]
    for words in (["train.lr=1"], {"method.rank": 8}, ["seed=1"]):
        with pytest.raises(UserError, match="cannot be given for a finished run"):
            load(path, words)
    with pytest.raises(UserError, match="is a run of method lora: leave method out, or give its file"):
        load(path, ["method=finetune"])
    assert load(path, {"device": "cpu", "threads": 1}).resolved.run.threads == 1


METHOD = """
from bench.api import Method, register

@register("method", "still", title="Learns nothing")
class Still(Method):
    pass
"""


def test_changed_code_is_said_and_a_file_that_is_gone_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "still.py"
    file.write_text(METHOD)
    path = run({"method": str(file), "stream": TOY, "model": TOY, **SMALL, "out": str(tmp_path)}).path
    capsys.readouterr()
    load(path)
    assert "note: the code of the method" not in capsys.readouterr().out
    file.write_text(METHOD + "\n# edited\n")
    load(path)
    assert "note: the code of the method has changed since the run" in capsys.readouterr().out
    moved = file.rename(tmp_path / "moved.py")
    with pytest.raises(UserError, match=r"is the file .*still\.py, which is not here: add method=FILE"):
        load(path)
    assert load(path, [f"method={moved}"]).method.registry_name == "still"
    moved.write_text(METHOD.replace('"still"', '"other"'))
    with pytest.raises(UserError, match="is a run of method still: leave method out, or give its file"):
        load(path, [f"method={moved}"])


def test_a_record_without_its_prompts_takes_them_from_the_stream(copy: Callable, tmp_path: Path) -> None:
    path = copy()
    tensors, values = unpack((path / "model.safetensors").read_bytes())
    del values["prompts"]  # as release 0.1 wrote it
    (path / "model.safetensors").write_bytes(pack(tensors, values))
    assert load(path).prompts == {"toy0": toy_task(0).prompts, "toy1": toy_task(1).prompts}
    elsewhere = ["stream=custom", "stream.datasets=[plants]", f"data={plants(tmp_path)}"]
    assert list(load(path, elsewhere).prompts) == ["toy0", "toy1"]
    change(path / "identity.json", prompts_sha256="0" * 64)
    with pytest.raises(UserError, match="old record without its prompts"):
        load(path)


def test_the_example_of_the_page_runs(finished: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40), (200, 20, 20)).save("flag.png")
    names: dict = {}
    place = "runs/pocket/pocket/lora/0123456789-s0"
    assert place in code
    exec(code.replace(place, str(finished["lora"][0])), names)
    assert names["logits"].shape == (1, 3) and names["features"].norm().item() == pytest.approx(1, abs=1e-5)


# -------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("method", ["keeplora-plus", "lora"])
def test_an_evaluation_on_the_run_s_own_stream_is_its_last_row_to_the_bit(
    finished: dict, method: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = finished[method][0]
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    result = evaluate(path, {"out": str(tmp_path)})
    assert result.same is True and "every answer is that of the last row" in capsys.readouterr().out
    tasks = ["toy0", "toy1"]
    matrices = [read_matrix(one) for one in (path, result.path)]
    outcomes = [read_outcomes(one, tasks) for one in (path, result.path)]
    for column in range(2):
        assert len({str(matrix.cell(2, column)) for matrix in matrices}) == 1
        answers = [one.of(matrix, 2, column) for one, matrix in zip(outcomes, matrices, strict=True)]
        assert np.array_equal(*answers)
        assert matrices[1].state(0, column) == matrices[1].state(1, column) == "missing"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before  # the run is not changed


def test_a_growing_label_space_is_measured_as_after_the_last_task(tmp_path: Path) -> None:
    file = tmp_path / "growing.py"
    file.write_text(
        "from bench.api import Stream, register, toy_task\n\n"
        '@register("stream", "growing", title="All classes so far")\n'
        "class Growing(Stream):\n"
        '    label_space = "seen"\n'
        "    def load(self, data_root, order_seed):\n"
        "        return [toy_task(0), toy_task(1)]\n"
    )
    words = {"method": "finetune", "stream": str(file), "model": TOY, "train.steps": 3, "device": "cpu"}
    path = run({**words, "track.wandb": "off", "out": str(tmp_path)}).path
    assert evaluate(path, {"out": str(tmp_path / "out")}).same is True
    narrow = evaluate(path, {"stream": TOY, "stream.count": 2, "out": str(tmp_path / "out")})
    assert narrow.same is None
    for column, accuracy in enumerate(narrow.accuracies.values()):  # with fewer classes no right answer gets wrong
        assert accuracy >= read_matrix(path).accuracy(2, column)


def test_an_evaluation_that_differs_says_so(copy: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = copy()
    text = (path / "outcomes.csv").read_text().splitlines()
    row, task, images, packed = text[-1].split(",")
    turned = read_outcomes(path, ["toy0", "toy1"]).of(read_matrix(path), 2, 1)
    assert turned is not None and not turned.all() and turned.any()
    import base64

    other = base64.b64encode(np.packbits(np.roll(turned, 1)).tobytes()).decode()
    assert other != packed
    (path / "outcomes.csv").write_text("\n".join([*text[:-1], ",".join([row, task, images, other])]) + "\n")
    assert evaluate(path, {"out": str(tmp_path / "a")}).same is False
    assert "some answers are not those of the last row" in capsys.readouterr().out
    assert evaluate(path, {"out": str(tmp_path / "b"), "evaluate.split": "validation"}).same is None


def test_a_folder_is_measured_and_compared_apart_from_runs(finished: dict, tmp_path: Path) -> None:
    data = plants(tmp_path / "data")
    words = ["stream=custom", "stream.datasets=[plants]", f"data={data}", f"out={tmp_path / 'out'}"]
    results = [evaluate(path, words) for path, _ in finished.values()]
    assert [list(result.accuracies) for result in results] == [["plants"]] * 2
    assert all(result.same is None for result in results)
    (beside,) = gather([tmp_path / "out"]).fields
    assert beside.stream == "custom" and [group.method for group in beside.groups] == ["keeplora-plus", "lora"]
    assert beside.conditions["stream.learned"].startswith("toy ")
    assert [run.value("last") for run in beside.runs] == [result.mean for result in results]
    assert [run.value("zero_shot") for run in beside.runs] == [None, None]
    # An evaluation of a run on its own stream stands apart from the run itself.
    own = evaluate(finished["lora"][0], [f"out={tmp_path / 'own'}"])
    assert len(gather([finished["lora"][0], own.path]).fields) == 2
    with pytest.raises(UserError, match="is an evaluation and holds no weights"):
        load(own.path)


def test_an_evaluation_is_made_again_but_not_over_other_data(finished: dict, tmp_path: Path) -> None:
    path = finished["lora"][0]
    words = ["stream=custom", "stream.datasets=[plants]", f"out={tmp_path / 'out'}"]
    first = evaluate(path, [*words, f"data={plants(tmp_path / 'a')}"])
    assert evaluate(path, [*words, f"data={tmp_path / 'a'}"]) == first
    with pytest.raises(UserError, match=r"holds an evaluation on other data: choose another folder with out=DIR"):
        evaluate(path, [*words, f"data={plants(tmp_path / 'b', count=4)}"])


def test_a_head_is_used_for_its_own_classes_in_another_stream(finished: dict, tmp_path: Path) -> None:
    """The second task alone, as the first one of another stream: its head must answer, not that of the first task."""
    file = tmp_path / "second.py"
    file.write_text(
        "from bench.api import Stream, register, toy_task\n\n"
        '@register("stream", "second", title="The second task alone")\n'
        "class Second(Stream):\n"
        "    def load(self, data_root, order_seed):\n"
        "        return [toy_task(1)]\n"
    )
    path, _ = finished["keeplora-plus"]
    result = evaluate(path, [f"stream={file}", f"out={tmp_path}"])
    assert result.accuracies == {"toy1": read_matrix(path).accuracy(2, 1)}
    assert (
        read_outcomes(result.path, ["toy1"]).csv().split(",")[-1] == (path / "outcomes.csv").read_text().split(",")[-1]
    )


def test_one_process_makes_an_evaluation(finished: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UserError, match="start it without torchrun"):
        evaluate(finished["lora"][0])


# ---------------------------------------------------------------------------------------------- export

ALONE = """
import json, os, pathlib, sys
import numpy as np, open_clip, torch
from PIL import Image

for folder, texts in json.loads(sys.argv[1]):
    folder = pathlib.Path(folder)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    own = {"bpe_path": str(folder / "bpe.txt.gz")} if (folder / "bpe.txt.gz").exists() else {}
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **own)
    images = torch.stack([preprocess(Image.fromarray(one)) for one in np.load("pixels.npy")])
    with torch.no_grad():
        image = model.encode_image(images, normalize=True).numpy()
        text = model.encode_text(tokenizer(texts), normalize=True).numpy()
    np.savez(folder.with_suffix(".npz"), image=image, text=text, scale=model.logit_scale.exp().item())
    Image.fromarray(np.load("pixels.npy")[0]).save(folder / "image.png")
    here = os.getcwd()
    os.chdir(folder)
    exec((folder / "README.md").read_text().split("```python")[1].split("```")[0], {})  # as the card says
    os.chdir(here)
assert not [name for name in sys.modules if name.split(".")[0] == "bench"]
"""


def test_open_clip_alone_answers_as_the_trained_model(
    finished: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In a process that never imports this suite; with updates merged, and with a vocabulary of its own."""
    words = {"method": "zero-shot", "stream.tasks": ["flags"], "device": "cpu", "track.wandb": "off"}
    embedded = run({**words, "out": str(tmp_path / "runs")}).path
    texts = {"toy": list(toy_task(1).prompts), "pocket": ["the flag of Chile", "a drawing of a bicycle"]}
    paths = {"toy": finished["lora"][0], "pocket": embedded}
    folders = {name: export(path, tmp_path / name) for name, path in paths.items()}
    assert capsys.readouterr().out.count("the weights are all that the method's classifier needs") == 2
    files = {"README.md", "open_clip_config.json", "open_clip_model.safetensors"}
    assert {file.name for file in folders["toy"].iterdir()} == files
    assert {file.name for file in folders["pocket"].iterdir()} == {*files, "bpe.txt.gz"}
    pixels = np.random.default_rng(5).integers(0, 256, (6, 36, 36, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    work = json.dumps([(str(folders[name]), texts[name]) for name in folders])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, work], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tensor([[") == 2
    for name, path in paths.items():
        theirs, clip = np.load(tmp_path / f"{name}.npz"), load(path).clip
        images = clip.encode_images(clip.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
        np.testing.assert_allclose(theirs["image"], images.numpy(), atol=2e-6)
        np.testing.assert_allclose(theirs["text"], clip.encode_prompts(texts[name]).numpy(), atol=2e-6)
        assert float(theirs["scale"]) == pytest.approx(float(clip.logit_scale), rel=1e-6)
    before = tiny_clip()
    noise = before.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert not np.allclose(np.load(tmp_path / "toy.npz")["image"], before.encode_images(noise).numpy(), atol=1e-3)


def test_what_cannot_be_merged_is_said_in_the_card_too(
    finished: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = finished["keeplora-plus"][0]
    assert cli.main(["export", str(path), f"to={tmp_path / 'model'}"]) == 0
    said = "ot in these weights is what keeplora-plus adds to CLIP's logits when it classifies (all tasks)"
    card = (tmp_path / "model" / "README.md").read_text()
    assert said in capsys.readouterr().out and said in card
    matrix = read_matrix(path)
    for part in (
        "license: other", "KeepLoRA, arXiv 2601.19659", "label space task", "method.rank=4", "open_clip.create_model",
        f"| {matrix.accuracy(2, 0):.1f} | {matrix.accuracy(2, 1):.1f} |", "Transfer | Average | Last",
        json.loads((path / "identity.json").read_text())["code_revision"],
    ):  # fmt: skip
        assert part in card


def test_a_card_of_a_run_that_forgot_has_its_own_numbers(tmp_path: Path) -> None:
    path = make(tmp_path, "lora", stream="forget-pocket")
    matrix = forget(path, [[18, 30, 40, 20], [2, 28, 38, 19], [1, 4, 37, 18]])
    prompts = {"a": ("red", "green"), "b": ("red", "green")}
    used = SimpleNamespace(run=read(path), resolved=SimpleNamespace(method_class=Method), prompts=prompts)
    said = card(used, "", vocabulary=False)  # type: ignore[arg-type]
    found = " | ".join(f"{summary(matrix)[name]:.1f}" for name in ("forgotten", "relapse", "retained", "h_mean"))
    assert "# lora after 2 requests of forget-pocket" in said and "was asked to forget classes, in 2 requests" in said
    assert "| Forgotten | Relapse | Retained | H-mean | Elsewhere |" in said and f"| {found} |" in said
    assert "After the last request, by test set:" in said and "| a | b | rest | digits |" in said
    assert "Transfer" not in said and "| 5.0 | 10.0 | 74.0 | 60.0 |" in said


def test_a_card_has_no_folder_of_the_machine() -> None:
    words = ["run", "method=/home/me/mine.py", "data=~/images", "stream.tasks=[a,b]", "method.rank=4"]
    assert [public(word) for word in words] == ["run", "method=mine.py", "data=images", *words[3:]]


def test_updates_that_a_method_leaves_attached_are_merged(tmp_path: Path) -> None:
    file = tmp_path / "attached.py"
    file.write_text(
        "from bench.api import LowRank, Method, register, torch\n\n"
        '@register("method", "attached", title="Never merges")\n'
        "class Attached(Method):\n"
        "    def begin_task(self, task):\n"
        "        one = self.clip.maps['image.1.fc1']\n"
        "        one.update = LowRank(torch.ones(1, one.in_features), 0.01 * torch.ones(one.out_features, 1), 1.0)\n"
        "    def end_task(self, task):\n"
        "        pass\n"
    )
    path = run({"method": str(file), "stream": TOY, "model": TOY, **SMALL, "out": str(tmp_path)}).path
    used = load(path)
    assert isinstance(used.clip.maps["image.1.fc1"].update, LowRank)
    weights = load_file(export(path, tmp_path / "model") / "open_clip_model.safetensors")
    name = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    before = tiny_clip().model.state_dict()[name]
    torch.testing.assert_close(weights[name], before + 0.01, rtol=0, atol=1e-6)


def test_the_place_of_an_export_is_not_overwritten(finished: dict, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    for place in (tmp_path / "used", tmp_path / "used" / "file"):
        with pytest.raises(UserError, match="is there already: name a new folder"):
            export(finished["lora"][0], place)
    (tmp_path / "empty").mkdir()
    assert export(finished["lora"][0], tmp_path / "empty") == tmp_path / "empty"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clip: setattr(clip, "config", None), "does not say how open_clip would build it"),
        (lambda clip: setattr(clip, "tokenizer", str), "another tokenizer than open_clip's own"),
        (
            lambda clip: setattr(clip, "config", {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "head_width": 16}}),
            "computes other features",
        ),
        (lambda clip: setattr(clip, "config", {**CONFIG, "embed_dim": 8}), "cannot load the exported model"),
    ],
    ids=["no config", "tokenizer", "other heads", "other width"],
)
def test_a_model_that_open_clip_cannot_build_leaves_no_folder(
    finished: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, message: str
) -> None:
    from bench.reuse import load as loading

    def load_changed(resolved: object) -> Clip:
        clip = tiny_clip()
        change(clip)
        return clip

    monkeypatch.setattr(loading, "load_model", load_changed)
    with pytest.raises(UserError, match=message):
        export(finished["lora"][0], tmp_path / "place" / "model")
    assert not (tmp_path / "place").exists() or not any((tmp_path / "place").iterdir())


# ------------------------------------------------------------------------------------------- the verbs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "give one run directory, not 0: python -m bench evaluate RUN"),
        (["evaluate", "a", "b"], "give one run directory, not 2"),
        (["evaluate", "nowhere"], 'error: "nowhere" holds no run'),
        (["export", "nowhere"], "say where the checkpoint should go"),
        (["export", "nowhere", "to=x"], 'error: "nowhere" holds no run'),
    ],
)
def test_wrong_words(
    words: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_mistake_does_not_wait_for_torch(finished: dict) -> None:
    line = ["evaluate", str(finished["lora"][0]), "train.lr=1"]
    code = f"import sys; sys.modules['torch'] = None\nfrom bench.cli.main import main\nsys.exit(main({line}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "cannot be given for a finished run" in done.stderr


def test_the_verb_records_its_line(finished: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(finished["lora"][0]), "device=cpu"]
    assert cli.main(words) == 0
    (record,) = Path("evaluations").glob("toy/tiny/lora/*")
    identity = json.loads((record / "identity.json").read_text())
    assert identity["command"] == ["python", "-m", "bench", *words]
    assert identity["settings"]["train.lr"]["source"] == "tuned" and issubclass(load(words[1]).method.__class__, Method)

"""Checkpoints that people have: what loads, with which activation, and what is said of what does not.

The architectures are small and have open_clip's own names of weights: `Tiny-16` and, with QuickGELU, its other form.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.transform import PreprocessCfg

from bench.core.errors import UserError
from bench.model.clip import Clip
from bench.model.layers import activation
from bench.model.pretrained import load_open_clip
from bench.model.tensor_file import Unknown, read_archive
from bench.runs import loading
from bench.trials.toy import tiny_clip, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # OpenAI's archives are of that kind

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

ARCHITECTURES = {
    "Tiny-16": TINY,
    "Tiny-16-quickgelu": {**TINY, "quick_gelu": True},
    "Tiny-16-custom": {**TINY, "custom_text": True},
    "Tiny-16-wide": {**TINY, "vision_cfg": {**TINY["vision_cfg"], "width": 96}},
    "Tiny-16-64": {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 64}},
    "Lone-16": TINY,
}

SIZES = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory):
    """open_clip knows the small architectures while the tests of this module run."""
    factory = open_clip.factory
    folder = tmp_path_factory.mktemp("configs")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    paths = list(factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    tokenizer = open_clip.get_tokenizer("Tiny-16")  # reading its vocabulary takes longer than loading a model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "get_tokenizer", lambda name: tokenizer)
        yield
    factory._MODEL_CONFIG_PATHS[:] = paths
    for name in ARCHITECTURES:  # reading the folders again would not forget them
        factory._MODEL_CONFIGS.pop(name)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return open_clip.create_model("Tiny-16").state_dict()


class Node(torch.nn.Module):
    """A module that TorchScript can save: its source is in a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def script(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Save tensors as OpenAI saved its models: a TorchScript archive whose modules hold parameters and buffers."""
    root = Node()
    for name, value in tensors.items():
        node, (*folders, leaf) = root, name.split(".")
        for part in folders:
            if not hasattr(node, part):
                node.add_module(part, Node())
            node = getattr(node, part)
        if value.is_floating_point():
            node.register_parameter(leaf, torch.nn.Parameter(value.clone(), requires_grad=False))
        else:
            node.register_buffer(leaf, value)
    torch.jit.save(torch.jit.script(root), str(path))


def of_openai(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Save weights as OpenAI gives them away: in half precision, with three sizes beside them."""
    halves = {name: value.half() for name, value in weights.items()}
    script(path, {**halves, **{name: torch.tensor(size) for name, size in SIZES.items()}})


def same(clip: Clip, weights: dict[str, torch.Tensor], half: bool = False) -> bool:
    own = clip.model.state_dict()
    renamed = {name.removeprefix("text."): value for name, value in own.items()}
    wanted = {name: value.half().float() if half else value for name, value in weights.items()}
    return set(renamed) == set(wanted) and all(torch.equal(renamed[name], value) for name, value in wanted.items())


def refusal(path: Path | str, name: str = "Tiny-16") -> str:
    with pytest.raises(UserError) as error:
        load_open_clip(name, str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what loads


def compiled(weights):
    """As torch.compile names them, of the whole model and of one part of it."""
    inner = {name.replace("visual.", "visual._orig_mod."): value for name, value in weights.items()}
    return {f"_orig_mod.{name}": value for name, value in inner.items()}


FORMS = {
    "plain": lambda w: w,
    "ordered": OrderedDict,
    "parameters": lambda w: {name: torch.nn.Parameter(value) for name, value in w.items()},
    "state_dict": lambda w: {"epoch": 3, "name": "x", "state_dict": w, "optimizer": {"state": {}, "lr": [0.1]}},
    "model": lambda w: {"model": w, "args": argparse.Namespace(lr=1), "out": Path("x")},
    "model_state_dict": lambda w: {"model_state_dict": w, "loss": None},
    "nested": lambda w: {"model": {"state_dict": w}},
    "module": lambda w: {f"module.{name}": value for name, value in w.items()},
    "compiled": compiled,
    "both": lambda w: {"state_dict": {f"module._orig_mod.{name}": value for name, value in w.items()}},
    "views": lambda w: {name: value.expand(2, *value.shape)[1] for name, value in w.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_training_scripts_save_is_loaded(form: str, weights: dict, tmp_path: Path) -> None:
    torch.save(FORMS[form](weights), tmp_path / "w.pt")
    assert same(load_open_clip("Tiny-16", str(tmp_path / "w.pt")), weights)
    if form == "plain":
        torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        assert same(load_open_clip("Tiny-16", str(tmp_path / "old.pt")), weights)
        assert same(load_open_clip("Tiny-16-custom", str(tmp_path / "w.pt")), weights)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "no ending"])
def test_safetensors_are_known_by_their_content(name: str, weights: dict, tmp_path: Path) -> None:
    safetensors.torch.save_file(weights, tmp_path / name)
    assert same(load_open_clip("Tiny-16", str(tmp_path / name)), weights)


def test_a_file_in_the_home_folder_is_found(weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(weights, tmp_path / "w.pt")
    assert same(load_open_clip("Tiny-16", "~/w.pt"), weights)
    assert "there is no file ~nosuchuser/w.pt" in refusal("~nosuchuser/w.pt")


def test_a_scale_that_is_a_row_is_taken_as_a_number(weights: dict, tmp_path: Path) -> None:
    torch.save({**weights, "logit_scale": weights["logit_scale"].reshape(1)}, tmp_path / "w.pt")
    assert same(load_open_clip("Tiny-16", str(tmp_path / "w.pt")), weights)


def test_position_embeddings_of_another_image_size_are_resized_as_open_clip_does_and_that_is_said(
    weights: dict, tmp_path: Path
) -> None:
    path = str(tmp_path / "w.pt")
    torch.save(weights, path)
    clip = load_open_clip("Tiny-16-64", path)
    theirs = open_clip.create_model("Tiny-16-64", pretrained=path).state_dict()
    assert same(clip, theirs)
    assert clip.notes[1:] == [f"the position embeddings of {path} are for other image sizes and are resized"]


# ---- OpenAI's archive


def test_openais_archive_is_loaded_and_runs_with_quick_gelu(weights: dict, tmp_path: Path) -> None:
    path = tmp_path / "ViT-tiny.pt"
    of_openai(path, weights)
    clip = load_open_clip("Tiny-16", str(path))
    assert same(clip, weights, half=True)
    assert clip.notes == [f"{path} runs with QuickGELU, as OpenAI's weights need"]
    reference = open_clip.create_model("Tiny-16-quickgelu")
    reference.load_state_dict({name: value.half().float() for name, value in weights.items()})
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (clip.encode_images(x) - reference.eval().encode_image(x, normalize=True)).abs().max() < 1e-5
    assert load_open_clip("Tiny-16-quickgelu", str(path)).notes == [
        f"{path} runs with QuickGELU, as Tiny-16-quickgelu says"
    ]
    assert same(load_open_clip("Tiny-16-custom", str(path)), weights, half=True)


def test_the_weights_of_openais_archive_saved_anew_are_still_openais(weights: dict, tmp_path: Path) -> None:
    torch.save({**weights, **{name: torch.tensor(size) for name, size in SIZES.items()}}, tmp_path / "w.pt")
    clip = load_open_clip("Tiny-16", str(tmp_path / "w.pt"))
    assert same(clip, weights) and activation(clip.model) == "QuickGELU"


def test_another_torchscript_archive_runs_with_what_the_model_says(weights: dict, tmp_path: Path) -> None:
    script(tmp_path / "w.pt", weights)
    clip = load_open_clip("Tiny-16", str(tmp_path / "w.pt"))
    assert same(clip, weights) and activation(clip.model) == "GELU"


def test_openais_archive_of_another_model_is_refused(weights: dict, tmp_path: Path) -> None:
    of_openai(tmp_path / "w.pt", weights)
    said = refusal(tmp_path / "w.pt", "Tiny-16-wide")
    assert "does not fit Tiny-16-wide" in said and "visual.class_embedding of shape [64] instead of [96]" in said


# ---- activation


@pytest.mark.parametrize(
    ("name", "runs", "why"),
    [
        (
            "Tiny-16",
            "GELU",
            "as Tiny-16 says; weights of OpenAI, MetaCLIP and DFN need QuickGELU: model=Tiny-16-quickgelu",
        ),
        (
            "Tiny-16-quickgelu",
            "QuickGELU",
            "as Tiny-16-quickgelu says; weights of others than OpenAI, MetaCLIP and DFN need GELU: model=Tiny-16",
        ),
        ("Lone-16", "GELU", "as Lone-16 says"),
        ("Tiny-16/openai", "QuickGELU", "as Tiny-16/openai says"),
        ("Tiny-16/laion", "GELU", "as Tiny-16/laion says"),
    ],
)
def test_a_checkpoint_says_which_activation_it_runs_with(
    name: str, runs: str, why: str, weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {"openai": {"quick_gelu": True}, "laion": {}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda architecture, tag: tags[tag])
    path = tmp_path / "w.pt"
    torch.save(weights, path)
    clip = load_open_clip(name, str(path))
    assert clip.notes == [f"{path} runs with {runs}, {why}"]
    assert activation(clip.model) == runs
    assert type(clip.text.transformer.resblocks[0].mlp[1]).__name__ == runs


def test_weights_that_show_what_they_need_do_not_run_with_something_else(
    weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag that contradicts OpenAI's archive, and a model that contradicts the configuration beside its weights."""
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda architecture, tag: {})
    archive = tmp_path / "ViT-tiny.pt"
    of_openai(archive, weights)
    assert refusal(archive, "Tiny-16/laion") == (
        f"the file {archive} needs QuickGELU (it is OpenAI's archive), and Tiny-16/laion computes with GELU: "
        "write model=Tiny-16-quickgelu"
    )
    path, beside = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    safetensors.torch.save_file(weights, path)
    beside.write_text(json.dumps({"model_cfg": {**TINY, "quick_gelu": True}}), encoding="utf-8")
    assert refusal(path) == (
        f"the file {path} needs QuickGELU (open_clip_config.json beside it says so), and Tiny-16 computes with GELU: "
        "write model=Tiny-16-quickgelu"
    )
    assert "computes with GELU: choose a model with QuickGELU" in refusal(path, "Lone-16")
    assert load_open_clip("Tiny-16-quickgelu", str(path)).notes == [
        f"{path} runs with QuickGELU, as Tiny-16-quickgelu says"
    ]
    for content in (json.dumps({"model_cfg": TINY}), "{", "[]", '{"model_cfg": 3}', "[" * 100_000):
        beside.write_text(content, encoding="utf-8")
        assert "runs with GELU" in load_open_clip("Tiny-16", str(path)).notes[0]


def test_the_weights_that_need_quick_gelu_are_named_where_open_clip_lists_them(
    weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAION-400M's of ViT-B-32 need it, those of ViT-B-16 do not: who made them is not enough."""
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(TAGS.get(name, ())))
    torch.save(weights, tmp_path / "w.pt")
    (note, *_) = load_open_clip("Tiny-16", str(tmp_path / "w.pt")).notes
    assert note.endswith("weights of openai, laion400m_e32 need QuickGELU: model=Tiny-16-quickgelu")


# ---- how images are read

INCEPTION = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
CLIPA = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
USUAL = {key: value for key, value in dataclasses.asdict(PreprocessCfg()).items() if key in CLIPA}

TAGS: dict[str, dict] = {
    "Tiny-16": {"openai": {**USUAL, "url": "x"}, "laion2b": {**INCEPTION, "hf_hub": "x"}},
    "Tiny-16-quickgelu": {"openai": USUAL, "laion400m_e32": USUAL},
    "Tiny-16-64": {"datacomp1b": CLIPA},
}
"""Tags as open_clip has them: of two kinds as for ViT-L-14, of the usual kind, of one other kind as for CLIPA's."""


def reads(clip: Clip) -> dict:
    return {key: clip.preprocess[key] for key in CLIPA}


@pytest.mark.parametrize(
    ("name", "expected", "said"),
    [
        ("Tiny-16/openai", USUAL, ""),
        ("Tiny-16/laion2b", INCEPTION, "mean 0.5 0.5 0.5, std 0.5 0.5 0.5, as Tiny-16/laion2b says"),
        ("Tiny-16", USUAL, "as open_clip does without a tag; laion2b of Tiny-16 would not: model=Tiny-16/laion2b"),
        ("Tiny-16-quickgelu", USUAL, ""),
        ("Tiny-16-64", CLIPA, "interpolation bilinear, resize_mode squash, as every tag of Tiny-16-64 says"),
        ("Lone-16", USUAL, ""),
    ],
)
def test_a_file_is_read_with_the_preprocessing_of_its_tag(
    name: str, expected: dict, said: str, weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a tag where all tags of the architecture agree; what may be wrong is said."""
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(TAGS.get(name, ())))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: TAGS.get(name, {}).get(tag, {}))
    path = tmp_path / "w.pt"
    torch.save(weights, path)
    clip = load_open_clip(name, str(path))
    assert reads(clip) == expected and clip.preprocess["size"] == clip.image_size
    (notes,) = [[note for note in clip.notes if note.startswith(f"{path} reads images")]]
    assert [note.endswith(said) for note in notes] == [True] * bool(said)
    pixels = torch.arange(3 * 2 * 2, dtype=torch.uint8).view(1, 3, 2, 2)
    mean, std = (torch.tensor(expected[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(clip.normalize(pixels), (pixels / 255 - mean) / std)
    assert reads(load_open_clip(name, weights="random")) == (expected if "/" in name else USUAL)


def test_a_file_is_read_as_open_clips_configuration_beside_it_says(weights: dict, tmp_path: Path) -> None:
    path, beside = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    safetensors.torch.save_file(weights, path)

    def read(preprocess: Any, name: str = "Tiny-16") -> tuple[dict, list[str]]:
        beside.write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess}), encoding="utf-8")
        clip = load_open_clip(name, str(path))
        return reads(clip), clip.notes[1:]

    assert read({**CLIPA, "size": 224}) == (
        CLIPA,
        [
            f"{path} reads images with mean 0.485 0.456 0.406, std 0.229 0.224 0.225, interpolation bilinear, "
            "resize_mode squash, as open_clip_config.json beside it says"
        ],
    )
    assert read(CLIPA, "Tiny-16/laion") == (USUAL, [])  # the tag decides
    assert read(USUAL) == (USUAL, [])
    assert read({"resize_mode": "squash"})[0] == {**USUAL, "resize_mode": "squash"}
    odd = ([1], {"mean": "x"}, {"mean": [0, 0]}, {**INCEPTION, "std": [0, 1, 1]}, {**INCEPTION, "mean": [True] * 3})
    for preprocess in (*odd, {"interpolation": ["bilinear"], "resize_mode": 3}):
        assert read(preprocess) == (USUAL, [])


def test_a_run_prints_the_notes_of_its_model(capsys: pytest.CaptureFixture) -> None:
    clip = tiny_clip()
    clip.notes.append("weights.pt runs with GELU")
    run = SimpleNamespace(stream="toy", model="tiny", seed=0, method="lora", start=None)
    parts: Any = SimpleNamespace(clip=clip, tasks=[], stream=SimpleNamespace(kind="learning", notes=["a note"]))
    resolved: Any = SimpleNamespace(run=run)
    loading.introduce(resolved, parts, torch.device("cpu"))
    assert capsys.readouterr().out.splitlines()[1:] == ["note: weights.pt runs with GELU", "note: a note"]


def test_results_are_not_shared_between_activations_or_models(tmp_path: Path) -> None:
    """The hash of the weights is the same, and they do not compute the same."""

    def stored(quick_gelu: bool, model: str) -> list[str]:
        clip = Clip(tiny_model(quick_gelu=quick_gelu), None, {"size": 36}, "tiny")
        run = SimpleNamespace(cache=SimpleNamespace(gb=1, dir=str(tmp_path)))
        resolved: Any = SimpleNamespace(run=run, flat={"model.name": model, "seed": 0}, model_class=None)
        shared = loading.shared_results(resolved, clip, torch.device("cpu"), lambda *_: None, lambda: None)
        assert shared is not None
        shared.get("row", clip.weights_sha256(), lambda: {"x": torch.zeros(1)})
        return sorted(path.name for path in (tmp_path / "results").glob("*.safetensors"))

    assert len(stored(False, "ViT-B-32")) == 1
    assert len(stored(True, "ViT-B-32")) == 2
    assert len(stored(True, "ViT-B-32/openai")) == 3
    assert len(stored(False, "ViT-B-32")) == 3


# ---- what does not load


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def packed() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


NOT_THERE = "there is no file {}: check model.checkpoint"
EMPTY = "the file {} is empty: copy or download it again"
WEB = "the file {} is a web page and not the weights: download it again, from a link that leads to the file itself"
POINTER = 'the file {} is a pointer of Git LFS and not the weights: run "git lfs pull" in its folder'
PACKED = "the file {} is a packed archive: unpack it and give the file of weights in it as model.checkpoint"
NO_WEIGHTS = "the file {} is no file of weights that can be read: give a .safetensors or .pt file as model.checkpoint"
OTHER = "the file {} holds something else than tensors by their names (%s): load it where it was made, and save"

CONTENTS = {
    "empty": (b"", EMPTY),
    "web page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>Sign in</html>", WEB),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", WEB),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605157884\n", POINTER),
    "gzip": (b"\x1f\x8b\x08\x00 and so on", PACKED),
    "tar": (packed(), PACKED),
    "zip": (zipped(readme=b"x"), "the file {} is a zip archive without weights of torch: unpack it"),
    "text": (b"hello, these are no weights", NO_WEIGHTS),
    "json": (b'{"model_cfg": {}}', NO_WEIGHTS),
    "list": (saved([torch.ones(1)]), OTHER % "list"),
    "number": (saved(3), OTHER % "int"),
    "settings": (saved({"lr": 0.1}), OTHER % "float under the name 'lr'"),
    "numbered": (saved({0: torch.ones(1)}), OTHER % "Tensor under the name 0"),
    "empty state": (saved({"state_dict": {}}), "the file {} holds no weights: give another file as model.checkpoint"),
    "whole model": (saved(torch.nn.Linear(2, 2)), OTHER % "torch.nn.modules.linear.Linear"),
    "model inside": (
        saved({"model": torch.nn.Linear(2, 2)}),
        OTHER % "torch.nn.modules.linear.Linear under the name 'model'",
    ),
    "old, whole": (pickle.dumps(argparse.Namespace(x=1)), "the file {} is cut off or damaged"),
    "pickle": (b"\x80\x04\x95", "the file {} is cut off or damaged"),
    "zip, cut pickle": (zipped(**{"x/data.pkl": b"\x80\x02}"}), "the file {} is cut off or damaged"),
    "safetensors, no header": (b"\xff" * 8 + b"{", "the file {} is cut off or damaged (it has 9 bytes, and its header"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_that_is_no_checkpoint_says_what_it_is(kind: str, tmp_path: Path) -> None:
    content, said = CONTENTS[kind]
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    assert refusal(path).startswith(said.format(path))


def test_what_is_not_there_or_no_file_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.pt") == NOT_THERE.format(tmp_path / "no.pt")
    (tmp_path / "file").write_bytes(b"x")
    assert refusal(tmp_path / "file" / "w.pt") == NOT_THERE.format(tmp_path / "file" / "w.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone.pt")
    assert refusal(tmp_path / "link.pt") == NOT_THERE.format(tmp_path / "link.pt")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert refusal(folder) == f"{folder} is a folder: give a file of weights as model.checkpoint"
    (folder / "w.bin").touch()
    assert refusal(folder).endswith(f"as model.checkpoint, such as {folder / 'w.bin'}")
    os.mkfifo(tmp_path / "fifo")
    for special in (tmp_path / "fifo", "/dev/zero"):  # reading either would not end
        assert refusal(special) == f"{special} is no regular file: give a file of weights as model.checkpoint"
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))
    assert "cannot be read (embedded null byte)" in refusal("a\0b")


@pytest.mark.parametrize("form", ["pt", "old", "safetensors", "script"])
@pytest.mark.parametrize("left", [0.999, 0.5, 0.01])
def test_a_cut_file_says_so(form: str, left: float, weights: dict, tmp_path: Path) -> None:
    path = tmp_path / f"w.{form}"
    few = {name: value for name, value in weights.items() if "token_embedding" not in name}
    if form == "safetensors":
        safetensors.torch.save_file(few, path)
    elif form == "script":
        script(path, few)
    else:
        torch.save(few, path, _use_new_zipfile_serialization=form == "pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    said = refusal(path)
    assert said.startswith(f"the file {path} is cut off or damaged (")
    assert said.endswith("): copy or download it again")


def test_a_flipped_bit_in_a_zip_archive_is_noticed(weights: dict, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"ln_final.weight": weights["ln_final.weight"], "x": torch.full((1000,), 1.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((8,), 1.5).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)
    assert "is cut off or damaged (Bad CRC-32" in refusal(path)


def test_keys_that_do_not_fit_are_counted_and_the_first_is_named(weights: dict, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    missing = {name: value for name, value in weights.items() if name not in ("visual.proj", "ln_final.bias")}
    torch.save({**missing, "head.weight": torch.ones(1), "visual.conv1.weight": torch.ones(2, 2)}, path)
    assert refusal(path) == (
        f"the file {path} does not fit Tiny-16 (2 weights are missing, the first is visual.proj; 1 weight is unknown, "
        "the first is head.weight; 1 weight has another shape, the first is visual.conv1.weight of shape [2, 2] "
        "instead of [64, 3, 16, 16]): choose the architecture that it was made for"
    )
    torch.save({"vision_model.embeddings.class_embedding": torch.ones(1)}, path)
    assert "the names that the transformers library uses: take the file for open_clip" in refusal(path)
    torch.save({**weights, "visual.proj": torch.ones(64, 32).to_sparse()}, path)
    assert "holds something else than tensors" in refusal(path)
    torch.save({**weights, "visual.positional_embedding": torch.ones(3)}, path)
    assert "visual.positional_embedding of shape [3]" in refusal(path)


# ---- nothing in a file is run


class Trap:
    """Its pickle makes a folder when it is executed."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_executes_nothing(zipped: bool, weights: dict, tmp_path: Path) -> None:
    path, sprung = tmp_path / "w.pt", tmp_path / "sprung"
    torch.save({"model": weights, "args": Trap(sprung)}, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        assert same(load_open_clip("Tiny-16", str(path)), weights)
        held = read_archive(path)
        assert isinstance(held["args"], Unknown) and held["args"].origin == f"{os.name}.mkdir"
    else:
        assert refusal(path).startswith(
            f"the file {path} holds something else than tensors by their names ({os.name}.mkdir)"
        )
    assert not sprung.exists()


def test_the_code_of_a_torchscript_archive_is_not_run_and_not_even_read(weights: dict, tmp_path: Path) -> None:
    path, broken = tmp_path / "w.pt", tmp_path / "broken.pt"
    of_openai(path, weights)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(broken, "w") as new:
        for member in old.namelist():
            new.writestr(member, b"this is no program" if "/code/" in member else old.read(member))
    with pytest.raises(RuntimeError):
        torch.jit.load(str(broken))
    assert same(load_open_clip("Tiny-16", str(broken)), weights, half=True)


def pickled(*parts: bytes) -> bytes:
    return zipped(**{"x/data.pkl": b"\x80\x02" + b"".join(parts) + b"."})


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"

HOSTILE = {
    "a tensor outside of its storage": pickled(
        b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE, b"K\x00(J\xff\xff\xff\x7ft(K\x01t\x89NtR"
    ),
    "a storage without bytes": pickled(STORAGE),
    "a storage of no known type": pickled(STORAGE.replace(b"ctorch\nFloatStorage", b"cos\nsystem")),
    "a persistent number": pickled(b"K\x01Q"),
    "a dictionary in itself": pickled(b"}q\x00X\x05\x00\x00\x00modelh\x00s"),
    "a list in itself": pickled(b"]q\x00h\x00a"),
    "a module in itself": pickled(b"c__torch__\nA\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb"),
    "a call of a call": pickled(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R)R"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_ends_with_a_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(HOSTILE[kind])
    assert refusal(path).startswith(f"the file {path} ")


def test_a_member_that_claims_more_than_the_file_has_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**7))
    assert "is cut off or damaged (x/data.pkl is larger than the file)" in refusal(path)


@pytest.mark.parametrize("name", ["Tiny-16", "Tiny-16-quickgelu", "Tiny-16-custom"])
@pytest.mark.parametrize("size", [None, 16, 48])
def test_a_model_of_any_resolution_says_how_open_clip_builds_it(name: str, size: int | None) -> None:
    clip = load_open_clip(name, weights="random", image_size=size)
    assert clip.image_size == (size or 32, size or 32) and clip.config is not None
    config = dict(clip.config)
    build = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    built = build(**config).eval()
    built.load_state_dict(clip.model.state_dict())
    pixels = clip.normalize(torch.zeros(1, 3, *clip.image_size, dtype=torch.uint8))
    with torch.no_grad():
        torch.testing.assert_close(built.encode_image(pixels, normalize=True), clip.encode_images(pixels))

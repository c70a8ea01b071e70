"""Lower precision: where it is used and where never, what it changes, and a step in which no device is waited for."""

import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from support.listening import Heard
from support.toy_runs import assert_same, until_finished, words
from support.training import CONTEXT, probe
from torch.utils._python_dispatch import TorchDispatchMode

from bench.compare.diff import diff
from bench.compute.device import deterministic, kernels
from bench.config import registry
from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve
from bench.config.run_settings import Run, Train
from bench.core.errors import UserError
from bench.data.pixels import Pixels, ahead
from bench.learning.optimizer import build_optimizer
from bench.learning.task_data import TaskData
from bench.learning.train import fit
from bench.model.clip import Clip
from bench.model.linear_maps import LowRank
from bench.record.provenance import differences
from bench.runs.run import run
from bench.trials.toy import tiny_clip, toy_task

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def task_data(clip: Clip) -> TaskData:
    task = toy_task(0)
    return TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), CONTEXT)


@pytest.mark.parametrize("precision", LOW)
def test_features_are_near_those_of_fp32_and_have_its_type(precision: str) -> None:
    clip, prompts = tiny_clip(), ("a cat", "a very small green dog")
    pixels = torch.randn(5, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    for m in clip.select(("q", "o", "fc1"), ("image", "text")):
        m.update = LowRank(torch.randn(2, m.in_features) * 0.1, torch.randn(m.out_features, 2) * 0.1, 0.5)
    with torch.no_grad():
        exact = clip.encode_images(pixels), clip.encode_prompts(prompts)
        with clip.computing(precision):
            low = clip.encode_images(pixels), clip.encode_prompts(prompts)
            recorded: list[torch.Tensor] = []
            with clip.recording(dict.fromkeys(("image.1.qkv", "text.1.fc2"), lambda x, _: recorded.append(x))):
                slow = clip.encode_images(pixels), clip.encode_tokens(clip.tokenize(prompts), cut=False)
        again = clip.encode_images(pixels), clip.encode_prompts(prompts)
    for a, b, c, d in zip(exact, low, slow, again, strict=True):
        assert b.dtype == c.dtype == torch.float32 and torch.equal(a, d)
        assert 1e-5 < (a - b).abs().max() < 0.03 and (b - c).abs().max() < 0.03
        assert torch.allclose(b.norm(dim=-1), torch.ones(len(b)), atol=1e-6)


@pytest.mark.parametrize("precision", LOW)
def test_gradients_of_updates_are_near_and_fp32(precision: str) -> None:
    found = []
    for used in ("fp32", precision):
        clip = tiny_clip()
        data = task_data(clip)
        method = registry.load("method", "lora")
        made = method(method.Settings(rank=4), clip, CONTEXT)
        made.begin_task(data)
        for factor in made.parameters():
            factor.requires_grad_(True)
        with clip.computing(used):
            pixels, labels = next(iter(data.train.batches(16)))
            made.loss(pixels, labels, data).backward()
        found.append([factor.grad for factor in made.parameters()])
    for a, b in zip(*found, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() <= (0.15 if precision == "bf16" else 0.03) * a.norm() + 1e-6


def test_training_and_evaluation_are_low_and_statistics_are_not(tmp_path: Path, monkeypatch) -> None:
    seen: dict[str, set[torch.dtype]] = {}
    phase = {"now": ""}
    keeplora = registry.load("method", "keeplora")
    for name in ("setup", "begin_task", "fit", "end_task", "classifier"):
        original = getattr(keeplora, name)

        def wrapped(self, *arguments, original=original, name=name, **named):
            phase["now"] = name
            if name == "setup" and not phase.get("hooked"):
                for tower in (self.clip.model.visual, self.clip.text):
                    tower.transformer.resblocks[0].mlp.c_fc.register_forward_hook(
                        lambda module, given, y: seen.setdefault(phase["now"], set()).add(y.dtype)
                    )
            return original(self, *arguments, **named)

        monkeypatch.setattr(keeplora, name, wrapped)
    computed = {}
    for precision in ("fp32", "bf16"):
        seen.clear()
        heard = Heard()
        directory = run(
            resolve(words(tmp_path / precision, "keeplora", f"precision={precision}")), observers=heard.observers
        )
        start = {key: one for key, one in heard.tasks["toy0"].items() if key.endswith(("/gradient", "/A", "/B"))}
        computed[precision] = {**heard.tasks[""], **start}
        low = torch.bfloat16 if precision == "bf16" else torch.float32
        assert seen == {
            "setup": {low},  # after which the untrained model is measured
            "begin_task": {torch.float32},
            "end_task": {torch.float32},
            "fit": {low},
            "classifier": {low},
        }
    for name, tensor in computed["fp32"].items():  # up to the first step nothing has been computed in bf16
        assert torch.equal(tensor, computed["bf16"][name]), name
    weights = load_file(directory / "model.safetensors")
    assert {t.dtype for name, t in weights.items() if name.startswith("weight/")} == {torch.float32}


@pytest.mark.parametrize("precision", LOW)
def test_a_broken_off_run_of_lower_precision_is_exact(precision: str, tmp_path, killed_after) -> None:
    more = [f"precision={precision}", "train.grad_clip=1"]
    straight = run(resolve(words(tmp_path / "straight", "lora", *more)))
    killed_after(5, before=False)
    broken, times = until_finished(words(tmp_path / "broken", "lora", "checkpoint.every=0", *more))
    assert times >= 2
    assert_same(straight, broken)
    assert json.loads((broken / "summary.json").read_text())["status"] == "finished"


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_halved() -> None:
    method, data = probe()
    taken, values = [], []
    loss = method.loss

    def overflowing(pixels, labels, task):
        found = loss(pixels, labels, task)
        taken.append(method.bias.clone())
        return found * (1e36 if len(taken) == 2 else 1.0)  # times 65536 this is more than fp32 holds

    method.loss = overflowing  # type: ignore[method-assign]
    data.safe_point = lambda training: values.append(training().values["scaler"])
    with method.clip.computing("fp16"):
        fit(method, data, Train(epochs=2, batch_size=16))
    assert [value["scale"] for value in values] == [65536.0, *[32768.0] * 5]
    assert not torch.equal(taken[0], taken[1]) and torch.equal(taken[1].detach(), taken[2].detach())


def test_sgd_continues_where_the_very_first_step_overflows() -> None:
    weight = torch.ones(3, requires_grad=True)
    train, steps = Train(optimizer="sgd", momentum=0.5, lr=0.25, schedule="constant", weight_decay=0.0), []
    optimizer, scaler = build_optimizer([weight], train), torch.amp.GradScaler("cpu")
    for factor in (1e36, 1.0, 1.0):  # times 65536 the first is more than fp32 holds
        optimizer.zero_grad()
        scaler.scale(weight.sum() * factor).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        steps.append(weight.tolist())
    assert steps == [[1.0] * 3, [0.75] * 3, [0.375] * 3]


def test_other_precisions_scale_nothing() -> None:
    for precision in ("fp32", "tf32", "bf16"):
        method, data = probe()
        values: list[dict] = []
        data.safe_point = lambda training, values=values: values.append(training().values["scaler"])
        with method.clip.computing(precision):
            fit(method, data, Train(epochs=1, batch_size=16))
        assert values == [{}] * 3


def test_tf32_is_asked_for_or_off_and_needs_cuda(tmp_path: Path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for wanted in (True, False):
        with deterministic(None, wanted):
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (wanted, wanted)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    with pytest.raises(UserError, match="precision=tf32 is arithmetic of CUDA devices and this run uses cpu"):
        run(resolve(words(tmp_path, "lora", "precision=tf32")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "asked", "used"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, True), ("cpu", False, True)]
)
def test_deterministic_kernels_are_used_unless_cuda_need_not(kind: str, asked: bool, used: bool) -> None:
    settings = Run(deterministic=asked)
    for before in (False, True):
        torch.use_deterministic_algorithms(before)
        try:
            with kernels(settings, torch.device(kind)):
                assert torch.are_deterministic_algorithms_enabled() == used
                assert os.environ["CUBLAS_WORKSPACE_CONFIG"]  # torch reads it once in a process
            assert torch.are_deterministic_algorithms_enabled() == before
        finally:
            torch.use_deterministic_algorithms(False)


def test_an_operation_without_a_deterministic_kernel_ends_a_run_on_cuda_with_one_sentence() -> None:
    """`put_` has none on the CPU either, so torch raises the error that it raises on CUDA."""

    def put() -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    cuda = torch.device("cuda")
    with (
        pytest.raises(UserError, match=r"^put_ has no .* kernel on CUDA: choose deterministic=.*$"),
        kernels(Run(), cuda),
    ):
        put()
    with kernels(Run(deterministic=False), cuda):
        put()
    with pytest.raises(RuntimeError, match="^put_ does not have a deterministic"), kernels(Run(), torch.device("cpu")):
        put()
    with pytest.raises(UserError, match="set CUBLAS_WORKSPACE_CONFIG=.* or choose determ"), kernels(Run(), cuda):
        raise RuntimeError(
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or ..., but "
            "this operation is not deterministic because it uses CuBLAS and you have CUDA >= 10.2."
        )


def test_a_run_without_deterministic_kernels_has_the_same_name_and_on_the_cpu_the_same_bits(tmp_path: Path) -> None:
    two = [[*words(tmp_path / given, "lora"), f"deterministic={given}"] for given in ("true", "false")]
    first, second = (run(resolve(line)) for line in two)
    assert first.name == second.name == run_directory(resolve(words(tmp_path, "lora"))).name
    assert (first / "accuracy.csv").read_bytes() == (second / "accuracy.csv").read_bytes()
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    kept = [OmegaConf.load(path / "config.yaml")["deterministic"] for path in (first, second)]
    there = [json.loads((path / "environment.json").read_text()) for path in (first, second)]
    assert kept == [True, False] and [one["deterministic"] for one in there] == [True, True]
    fast = there[0] | {"deterministic": False}
    assert differences(there[0], fast) == ["deterministic True -> False"]
    del there[0]["deterministic"]
    assert differences(there[0], fast) == [], "an older record does not say"
    said = diff(first, second)
    assert "deterministic: true (from user) | false (from user)" in said and "no difference in" in said


class Watching(TorchDispatchMode):
    """Notes what would make the host wait for a CUDA device: values read from it, sizes that depend on values."""

    WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        name = operator.name().removeprefix("aten::").split(".")[0]
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        if name in self.WAITING or by_mask:
            self.found.append(name)
        return operator(*arguments, **(named or {}))


@pytest.mark.parametrize("method", ["keeplora", "keeplora-plus", "lora", "finetune", "inflora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(method: str, precision: str) -> None:
    clip = tiny_clip()
    data, cls = task_data(clip), registry.load("method", method)
    made = cls(cls.Settings(rank=4) if hasattr(cls.Settings, "rank") else cls.Settings(), clip, CONTEXT)
    made.begin_task(data)
    watching, steps = Watching(), []

    def on_step() -> None:
        steps.append(len(watching.found))

    with clip.computing(precision), watching:
        fit(made, data, Train(epochs=2, batch_size=16), on_step)
    # The first step may find out how the texts are packed; after an epoch its loss is read.
    assert len(steps) == 6 and steps[0] == steps[1] == steps[2] and steps[3] == steps[4] == steps[5]


# --------------------------------------------------------------------------------------- reading ahead


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    read = []

    def reading(item: int) -> int:
        read.append(item)
        return item * 10

    batches = ahead(reading, range(4))
    assert next(batches) == 0
    while read != [0, 1]:  # by another thread
        pass
    assert [next(batches), next(batches), next(batches)] == [10, 20, 30] and read == [0, 1, 2, 3]
    with pytest.raises(StopIteration):
        next(batches)
    assert list(ahead(reading, [])) == []


def test_what_fails_to_be_read_fails_in_its_turn_and_a_broken_off_pass_ends() -> None:
    def reading(item: int) -> float:
        return 1 / item

    batches = ahead(reading, [2, 1, 0, 4])
    assert [next(batches), next(batches)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(batches)
    batches = ahead(reading, [1, 2, 3])
    next(batches)
    batches.close()


def test_a_copy_of_the_model_takes_over_the_precision_of_the_model() -> None:
    clip, copy = tiny_clip(), tiny_clip()
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with clip.computing(name), copy.computing(clip.precision):
            assert copy.precision == clip.precision == dtype
    assert copy.precision == torch.float32

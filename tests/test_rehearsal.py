"""The largest task is tried before the first step of a run."""

import textwrap
from pathlib import Path

import pytest
import torch
from support.mirroring import TOY

from bench.api import Clip
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.runs.run import run

STREAM = """
    from bench.api import Stream, register, toy_task
    import dataclasses

    @register("stream", "growing", title="A second task with larger batches")
    class Growing(Stream):
        defaults = {"train.epochs": 1, "train.batch_size": 8}

        def load(self, data_root, order_seed):
            return [toy_task(0), dataclasses.replace(toy_task(1), train_settings={"batch_size": 16})]
"""


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    file = tmp_path / "growing.py"
    file.write_text(textwrap.dedent(STREAM))
    return [f"stream={file}", f"model={TOY}", "device=cpu", "track.wandb=off", "method.rank=2"]


def refuse(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training fail as without memory with batches of so many images."""
    logits = Clip.logits

    def hungry(self: Clip, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        if len(features) == images and torch.is_grad_enabled():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return logits(self, features, texts)

    monkeypatch.setattr(Clip, "logits", hungry)


def test_a_task_that_does_not_fit_is_named_before_the_first_step(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: steps.append(1))
    with monkeypatch.context() as patch:
        refuse(16, patch)
        with pytest.raises(
            UserError, match=r"task toy1 \(3 classes, train.batch_size=16\) does not fit into the memory"
        ):
            run(resolve([*line, "method=lora", f"out={tmp_path / 'runs'}"]))
    assert not steps


@pytest.mark.parametrize("method", ["keeplora-plus", "finetune"])
def test_trying_changes_no_bit(method: str, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [word for word in line if method != "finetune" or "rank" not in word]
    tried = run(resolve([*line, f"method={method}", f"out={tmp_path / 'tried'}"]))
    monkeypatch.setattr("bench.runs.session.rehearse", lambda *_: None)
    plain = run(resolve([*line, f"method={method}", f"out={tmp_path / 'plain'}"]))
    for name in ("outcomes.csv", "model.safetensors"):
        assert (tried / name).read_bytes() == (plain / name).read_bytes()

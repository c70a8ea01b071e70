"""How long operations take: on this machine, by a few measured steps, and on named GPUs, by their peak rates."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.compute.peaks import PEAKS
from bench.config.run_settings import Resolved
from bench.core.errors import UserError
from bench.recipes.needs import Work
from bench.recipes.sizes import Towers

SHARE = 0.35
"""The share of its peak that a GPU is taken to reach."""

LAUNCH = 0.1
"""Seconds that a step of training takes on a GPU at least, in every precision: launching its kernels took 0.08 to 0.2 s
on an H200 (docs/performance.md), whatever they computed."""

SECONDS = 10.0
"""Seconds after which no further step is measured; forward passes alone get as many."""

STEPS = 20
"""Steps that are measured at most."""


ATTENTION = ("q", "k", "v", "o")
"""The linear maps whose weights have gradients in a measured step, where training changes a part of the weights."""

KINDS = (*ATTENTION, "fc1", "fc2")
"""All linear maps of a block."""


@dataclass(frozen=True)
class Card:
    """A GPU, and the operations a second of its tensor or other cores in 1e12, without sparsity, by precision."""

    name: str
    peaks: dict[str, float]


CARDS = (
    Card("V100 SXM2", PEAKS["V100"]),
    Card("A100 SXM", PEAKS["A100"]),
    Card("RTX 4090", PEAKS["RTX 4090"]),
    Card("H100 SXM", PEAKS["H100"]),
)

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""In the order of columns."""


def hours_on(card: Card, precision: str, work: Work) -> float | None:
    """Return the hours that some work takes on a GPU at `SHARE` of its peak, each step for `LAUNCH` seconds at least.

    Parameters
    ----------
    card : Card
    precision : str
    work : Work

    Returns
    -------
    float or None
        None where the card does not have the precision.
    """
    if precision not in card.peaks:
        return None
    rate = SHARE * card.peaks[precision] * 1e12
    trained, rest = work.with_gradient, work.operations - work.with_gradient
    return (max(trained / rate, LAUNCH * work.steps) + rest / rate) / 3600


@dataclass(frozen=True)
class Speed:
    """What this machine reached.

    Attributes
    ----------
    forward, training : float
        Operations a second of forward passes alone, and of passes with a gradient, both ways.
    where : str
        Device, precision and size of the batch, in words.
    """

    forward: float
    training: float
    where: str

    def hours(self, work: Work) -> float:
        """Return the hours that some work takes at this speed."""
        trained, rest = work.with_gradient, work.operations - work.with_gradient
        return (trained / self.training + rest / self.forward) / 3600


def measured(resolved: Resolved, size: Towers, share: float, classes: int) -> Speed:
    """Measure a few steps of a run's model with random weights on the device of the run.

    A step is a batch of noise with its prompts, forwards and back to the weights of the attention, or to all weights
    where training changes more than half of them; updates of low rank take as long. An optimiser takes no part.

    Parameters
    ----------
    resolved : Resolved
    size : Towers
        Of its model.
    share : float
        The share of the image tower's weights that training changes.
    classes : int
        Of a task, on average; prompts are in proportion to images as in a batch of the run.

    Returns
    -------
    Speed

    Raises
    ------
    UserError
        If the model does not fit the memory, or cannot be loaded.
    """
    from bench.compute.device import choose_device, is_out_of_memory, kernels  # torch comes with these

    run, device = resolved.run, choose_device(resolved.run.device)
    _check_memory(size, device.type, run.model)
    try:
        with kernels(run, device):
            return _measured(resolved, size, device, share > 0.5, classes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"model {run.model} does not fit into the memory of the {device.type}") from error


def _measured(resolved: Resolved, size: Towers, device: Any, whole: bool, classes: int) -> Speed:
    import torch

    from bench.core.lazy import F
    from bench.runs.loading import load_model

    if resolved.model_class is None:
        random = replace(resolved.model_settings, weights="random", checkpoint=None)
        resolved = replace(resolved, model_settings=random)
    clip = load_model(resolved).to(device)
    batch = resolved.run.train.batch_size
    pixels = torch.randn(batch, 3, *clip.image_size, device=device)
    if device.type != "cuda":  # there a rate hardly depends on the batch, and a whole one may take minutes
        with torch.no_grad():
            start = time.perf_counter()
            clip.encode_images(pixels[:1])
        one = time.perf_counter() - start
        batch = max(1, min(8, batch, int(SECONDS / one / 4)))
        pixels = pixels[:batch]
    prompts = max(1, round(classes * batch / resolved.run.train.batch_size))
    labels = torch.arange(batch, device=device) % prompts
    tokens = clip.tokenize([f"a photo of a thing {number}" for number in range(prompts)])
    kinds = KINDS if whole else ATTENTION
    weights = list({id(one.parameter): one.parameter for one in clip.select(kinds, ("image", "text"))}.values())
    share = _numbers(clip.select(kinds, ("image",))) / _numbers(clip.select(KINDS, ("image",)))

    def step() -> None:
        with clip.trainable(weights):
            loss = F.cross_entropy(clip.logits(clip.encode_images(pixels), clip.encode_tokens(tokens)), labels)
            torch.autograd.grad(loss, weights)

    def forward() -> None:
        with torch.no_grad():
            clip.encode_images(pixels)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with clip.computing(resolved.run.precision):
        of_step, of_forward = _seconds(step, wait), _seconds(forward, wait)
    both = batch * size.image + prompts * size.prompt
    threads = torch.get_num_threads()
    cpu = f"{threads} CPU thread{'' if threads == 1 else 's'}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    where = f"{name}, {resolved.run.precision}, batches of {batch}"
    return Speed(batch * size.image / of_forward, (2 + share) * both / of_step, where)


def _numbers(maps: Sequence[Any]) -> int:
    return sum(one.weight.numel() for one in maps)


def _seconds(work: Callable[[], None], wait: Callable[[], None]) -> float:
    """Return the seconds of some work: the fastest of several times, after a first one where there is time for it."""
    end, taken = time.perf_counter() + SECONDS, list[float]()
    while len(taken) < STEPS and (not taken or time.perf_counter() < end):
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _check_memory(size: Towers, device: str, model: str) -> None:
    """Refuse a model whose weights, gradients and activations the memory of this machine would not hold."""
    if device != "cpu":
        return  # there an allocation fails, while the system may end a process that takes too much here
    needed, there = 3 * 4 * size.numbers, _memory()
    if there is not None and needed > there:
        raise UserError(
            f"model {model} takes about {needed / 1e9:.1f} GB to measure and {there / 1e9:.1f} GB of memory are free"
        )


def _memory() -> int | None:
    """Return the bytes of memory that are free for a new process; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None

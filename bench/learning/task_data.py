"""What a method may know: the run it is part of, and the task at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.compute.seeding import generator
from bench.compute.world import World
from bench.core.console import watched
from bench.core.lazy import torch
from bench.data.batch_order import BatchOrder
from bench.learning.training_state import TrainingState

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.pixels import Pixels


def _no_phase(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _computed(name: str, key: Any, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    return compute()


def _nothing(*_: Any) -> None:
    """Hears and does nothing."""


@dataclass(frozen=True)
class Context:
    """What a method may know about the run.

    Attributes
    ----------
    tasks : int
        Number of tasks in the stream.
    batch_size : int
        Batch size of training, for passes of the method's own.
    init_seed, data_seed : int
        Seeds of initialisations and of the order of images.
    label_space : {"task", "seen", "all"}
        Of the stream.
    say : callable
        Tells the user one sentence.
    phase : callable
        Context in which time counts as a named phase of the run.
    order : BatchOrder
        Records or replays the batches of every pass.
    may_stop : callable
        Called where the run may be broken off, between two batches of a pass.
    world : World
        The processes that share the run.
    weights : str
        Hash of the untrained model.
    shared : callable
        ``shared(name, key, compute)`` gives the tensors by name that ``compute()`` gives, from the disk where a run on
        this machine has computed them before. The key, of plain values, must say all that they depend on.
    """

    tasks: int
    batch_size: int
    init_seed: int
    data_seed: int
    label_space: str = "task"
    say: Callable[[str], None] = print
    phase: Callable[[str], AbstractContextManager[None]] = _no_phase
    order: BatchOrder = field(default_factory=BatchOrder)
    may_stop: Callable[[], None] = _nothing
    world: World = field(default_factory=World)
    weights: str = ""
    shared: Callable[[str, Any, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] = _computed


@dataclass
class TaskData:
    """The task at hand, as a method sees it.

    Attributes
    ----------
    index : int
        Position in the stream, from 0.
    name : str
    prompts : tuple of str
        One prompt a class.
    tokens : Tensor
        The tokenised prompts, int64 [classes, context length].
    train : Pixels
    resume : TrainingState or None
        Where training was broken off, to be continued by `fit`.
    safe_point : callable
        Called between two steps of training with a function that tells where it stands.
    """

    index: int
    name: str
    prompts: tuple[str, ...]
    tokens: Tensor
    train: Pixels
    context: Context
    resume: TrainingState | None = None
    safe_point: Callable[[Callable[[], TrainingState]], None] = _nothing

    def identity(self, purpose: str) -> list[Any] | None:
        """What decides the batches of a pass, and what they are classified into; None where that is not known.

        For the key of a shared result: where an order of batches is recorded every pass must be made, and one that is
        replayed is not told by seeds.
        """
        context = self.context
        if context.order.record is not None or context.order.path is not None:
            return None
        drawn = [purpose, self.index, context.data_seed, context.batch_size]
        return [*drawn, *self.train.identity(), list(self.prompts)]

    def batches(
        self,
        purpose: str,
        epoch: int = 0,
        drop_last: bool = False,
        batch_size: int | None = None,
        skip: int = 0,
        share: str = "nothing",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images in an order that depends on (data seed, purpose, task, epoch) alone.

        Parameters
        ----------
        batch_size : int, optional
            The run's by default.
        skip : int
            Batches at the start that were taken already.
        share : {"nothing", "batches", "images"}
            What the processes of a run share: each makes the whole pass, every n-th batch (for sums that are added up
            with `World.sum`), or takes its images of every batch, which may be none.

        Yields
        ------
        pixels : Tensor [batch, 3, height, width]
            Normalised.
        labels : Tensor [batch]
            int64, index into `prompts`.
        """
        size = batch_size or self.context.batch_size
        drawn = self.train.plan(size, generator(self.context.data_seed, purpose, self.index, epoch), drop_last)
        planned = self.context.order.plan(self.name, purpose, epoch, drawn, len(self.train))
        divide = {"batches": self.context.world.my_batches, "images": self.context.world.my_images}
        planned = divide[share](planned[skip:]) if share in divide else planned[skip:]
        batches = self.train.take(planned)
        # The training loop shows one bar for all its epochs, and says itself where it may stop.
        return batches if purpose == "train" else self._watch(purpose, batches, len(planned))

    def _watch(
        self, purpose: str, batches: Iterator[tuple[Tensor, Tensor]], count: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in watched(f"{self.name}: {purpose}", batches, count):
            self.context.may_stop()
            yield batch

    def init_generator(self, purpose: str) -> torch.Generator:
        """A generator for initial values that depends on (init seed, purpose, task) alone."""
        return generator(self.context.init_seed, purpose, self.index)

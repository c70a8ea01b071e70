"""The contract of a method: what a plug-in fills in, and what the engine does in which order.

For every task of the stream the engine calls ``begin_task``, ``fit``, ``end_task``, then measures with ``classifier``.
docs/methods.md teaches it with a complete example.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.batch_order import BatchOrder
from bench.model.clip import Clip
from bench.core.files import file_sha256
from bench.compute.world import World
from bench.data.pixels import Pixels
from bench.core.console import watched
from bench.compute.seeding import generator
from bench.data.stream import LabelSpace
from bench.learning.train import EpochReport, Train, TrainingState, fit


@dataclass(frozen=True)
class ParityCard:
    """How a method here relates to its paper; shown by ``python -m bench list methods NAME``.

    Attributes
    ----------
    present, absent : tuple of str
        Parts of the paper that are and are not implemented.
    deviations : tuple of str
        What differs, and why.
    verified : tuple of str
        What the implementation was checked against.
    """

    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()


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
        divide = {"batches": self.context.world.share, "images": self.context.world.split}
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


class Method:
    """Base of all methods; a plug-in derives from it and is decorated with ``register("method", ...)``.

    Attributes
    ----------
    Settings : type
        Dataclass of `bench.config.resolve.setting` fields, with the paper's defaults.
    defaults : mapping of str to value
        Settings of the run that the method's paper prescribes, as dotted keys (``{"train.weight_decay": 0.0}``).
    label_spaces : tuple of str
        The label spaces it supports.
    constant : bool
        True for a method whose classifier never changes: its rows are then reused instead of measured again.
    parity : ParityCard
    """

    @dataclass
    class Settings:
        """No settings."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    label_spaces: ClassVar[tuple[str, ...]] = ("task", "seen", "all")
    constant: ClassVar[bool] = False
    parity: ClassVar[ParityCard] = ParityCard()
    registry_name: ClassVar[str]

    def __init__(self, settings: Any, clip: Clip, context: Context):
        self.settings = settings
        self.clip = clip
        self.context = context
        self.setup()

    def setup(self) -> None:
        """Done once, before the untrained model is measured: what needs the pre-trained weights only."""

    def begin_task(self, task: TaskData) -> None:
        """Before training on a task: statistics, initialisation, attaching updates to `self.clip.maps`."""

    def parameters(self) -> Sequence[Tensor]:
        """The tensors to train on the current task; the engine makes them require gradients while training."""
        return []

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """The loss of one batch, a scalar. Default: cross-entropy over the task's prompts."""
        images = self.clip.encode_images(pixels)
        return F.cross_entropy(self.clip.logits(images, self.clip.encode_tokens(task.tokens)), labels)

    def after_step(self) -> None:
        """After every optimiser step, for methods that project or average their parameters."""

    def fit(
        self, task: TaskData, train: Train, on_step: Callable[[], None], on_epoch: Callable[[EpochReport], None]
    ) -> int:
        """Learn a task between `begin_task` and `end_task`; returns the number of trained values.

        Default: `bench.learning.train.fit`, gradient descent on `parameters()`. Methods that solve in closed form or step their
        own way do it here.
        """
        return fit(self, task, train, on_step, on_epoch)

    def end_task(self, task: TaskData) -> None:
        """After training on a task: merging, memory. Default: merges every attached update."""
        self.clip.merge()

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """A function from normalised images [batch, 3, height, width] to logits [batch, prompts of the space].

        Called once per test set, so that class features are encoded once.
        """
        features = self.clip.encode_prompts(space.prompts)
        return lambda pixels: self.clip.logits(self.clip.encode_images(pixels), features)

    def shared(self, name: str, key: Any, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors by name that other runs on this machine can use too: computed once, and then taken from the disk.

        Parameters
        ----------
        name : str
            What they are, for the record.
        key : object
            All that they depend on besides the method's file, of plain values: `Context.weights` for the untrained
            model, `TaskData.identity` for the batches of a pass.
        """
        return self.context.shared(name, [file_sha256(type(self)), key], compute)

    def state_dict(self) -> dict[str, Tensor]:
        """All that the method remembers from one task to the next, apart from the model's weights."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""

    def training_state(self) -> dict[str, Tensor]:
        """What changes from step to step inside a task and is neither in `parameters()` nor in the model.

        Running averages, for example. Everything else of a task in progress is made again by `begin_task`.
        """
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `training_state` returned; called after `begin_task`."""

    def report(self) -> dict[str, Any]:
        """Figures about the task just learned for the record, made of numbers, texts, lists and dicts."""
        return {}

    def stored_numbers(self) -> int:
        """How many numbers the method keeps for later tasks, apart from the model itself."""
        return sum(tensor.numel() for tensor in self.state_dict().values())

    def stored_bytes(self) -> int:
        """How many bytes those numbers take as they are kept."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

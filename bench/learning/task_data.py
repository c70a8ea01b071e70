"""What a method may know: the run it is part of, and the task at hand.

It is one file, because an author reads it as a whole; most of it is documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.compute.seeding import generator
from bench.compute.world import World
from bench.config.run_settings import Train
from bench.core.console import watched
from bench.core.lazy import F, torch
from bench.data.batch_order import BatchOrder
from bench.learning.given import FrozenFeatures, Reference, ToForget, encoded
from bench.learning.observers import Observers
from bench.learning.optimizer import epoch_steps, steps_of
from bench.learning.training_state import TrainingState

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.images import Images
    from bench.data.pixels import Pixels


def _no_part(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _computed(name: str, key: Any, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    return compute()


def _nothing(*_: Any) -> None:
    """Take anything and do nothing."""


@dataclass(frozen=True)
class Context:
    """What a method may know about the run.

    Attributes
    ----------
    tasks : int
        Number of tasks in the stream.
    batch_size : int
        Images per training step, for passes of the method's own.
    init_seed, data_seed : int
        Seeds of initial values and of the order of images.
    label_space : {"task", "seen", "agnostic", "all"}
        The classes among which a test image is classified: see `bench.data.stream.label_space`.
    say : callable
        ``say(text)`` prints one line for the user.
    part : callable
        ``with part(name):`` counts the time inside under `name`, as a part of the phase it lies in (summary.json).
    order : BatchOrder
        Records the batches of every pass, or replays recorded ones.
    may_stop : callable
        Called between two batches of a pass; raises where the run has been asked to stop.
    world : World
        The processes that share the run.
    weights : str
        Hash of the untrained model's weights.
    shared : callable
        ``shared(name, key, compute)`` returns the tensors by name that ``compute()`` returns, from the disk where a run
        on this machine has computed them before. The key, of plain values, must say all that they depend on.
    observers : Observers
        Who listens to what the run computes.
    images : mapping of str to int
        Number of training images of every task, in order, so that `Method.setup` can refuse a stream that it could not
        learn to the end; empty where there is no stream.
    reference : Reference or None
        Images and sentences outside of the stream, for a method whose flags say ``outside_data="reference"``. None in
        `Method.setup` of a model that is loaded after its run: take it where a task is learned.
    without_images : mapping of str to tuple of str
        The classes to forget that have no training image, by the name of the request; those of requests without such
        classes are left out.
    pretrained : callable or None
        Returns the weights of the pre-trained model by name, as its state dict has them, where the run began with those
        of another run (``start=RUN``); None elsewhere.
    training_images : callable or None
        Takes the index of a task and returns its training images, `Pixels`, for a `Memory`; None where no stream is at
        hand, as for a model that is loaded after its run.
    features : FrozenFeatures or None
        Keeps the features of image sets in the run of a method that says ``frozen_towers = True``; None elsewhere.
        `TaskData.features` gives them.
    """

    tasks: int
    batch_size: int
    init_seed: int
    data_seed: int
    label_space: str = "task"
    say: Callable[[str], None] = print
    part: Callable[[str], AbstractContextManager[None]] = _no_part
    order: BatchOrder = field(default_factory=BatchOrder)
    may_stop: Callable[[], None] = _nothing
    world: World = field(default_factory=World)
    weights: str = ""
    shared: Callable[[str, Any, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] = _computed
    observers: Observers = field(default_factory=Observers)
    images: Mapping[str, int] = field(default_factory=dict)
    without_images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: Reference | None = None
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None
    training_images: Callable[[int], Pixels] | None = None
    features: FrozenFeatures | None = None


@dataclass
class TaskData:
    """The task at hand, as a method sees it.

    Attributes
    ----------
    index : int
        Position in the stream, from 0.
    name : str
    prompts : tuple of str
        One prompt a class, in label order.
    tokens : Tensor
        The tokenised prompts, int64 [classes, context length], on the model's device.
    train : Pixels
        The training images; ``len(task.train)`` is their number, ``task.train.labels`` their labels, int64 [images]
        on the CPU. Take them in batches with `batches`.
    context : Context
    budget : Train
        How the task is trained.
    resume : TrainingState or None
        Where training was broken off; `fit` continues from there.
    safe_point : callable
        Called between two steps of training with a function that returns the state of training.
    progress : callable
        Called after a step of training with a function that returns what the progress bar shows beside its count, such
        as ``loss 0.25``. That function is seldom called, and never where no bar is seen.
    validation : Pixels or None
        Images to choose by, as the best epoch is chosen, for a method that says ``validation = True``; None where the
        task has none. Nothing is trained on them; `validated` counts right answers.
    request : ToForget or None
        The classes to forget and their images, where the stream asks to forget; `train` are then images that are to
        stay, and `prompts` all classes, forgotten ones included.
    owners : Tensor or None
        The task of each prompt, int64 [classes], on the model's device, where all tasks are learned as one
        (``at_once = True``); None elsewhere. Classes of two tasks may then have the same prompt.
    """

    index: int
    name: str
    prompts: tuple[str, ...]
    tokens: Tensor
    train: Pixels
    context: Context
    budget: Train = field(default_factory=Train)
    resume: TrainingState | None = None
    safe_point: Callable[[Callable[[], TrainingState]], None] = _nothing
    progress: Callable[[Callable[[], str]], None] = _nothing
    validation: Pixels | None = None
    request: ToForget | None = None
    owners: Tensor | None = None
    _walk: tuple[tuple[int, int], Sequence[Tensor]] | None = field(default=None, init=False, repr=False)

    def identity(self, purpose: str) -> list[Any] | None:
        """Return what decides the batches of a pass and what they are classified into, for the key of a shared result.

        Parameters
        ----------
        purpose : str
            The purpose of the pass, as for `batches`.

        Returns
        -------
        list or None
            None where the pass must be made: batches are recorded, or somebody listens. None too where an order is
            replayed, which seeds do not decide.
        """
        context = self.context
        watched_over = context.observers.wants("gradient", "statistic")
        if watched_over or context.order.record is not None or context.order.path is not None:
            return None
        drawn = [purpose, self.index, context.data_seed, context.batch_size]
        smoothing = [self.budget.label_smoothing] if self.budget.label_smoothing else []
        return [*drawn, *self.train.identity(), list(self.prompts), *smoothing]

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Return the cross-entropy of a batch with the run's label smoothing: the loss of training.

        Parameters
        ----------
        logits : Tensor
            Float [batch, classes].
        labels : Tensor
            int64 [batch].
        reduction : {"mean", "sum", "none"}, optional
            Over the images.

        Returns
        -------
        Tensor
            Scalar; [batch] for ``"none"``.
        """
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=self.budget.label_smoothing)

    def features(self, pixels: Pixels | None = None) -> Tensor:
        """Return the features of all images as a test sees them, without random changes.

        In the run of a method that says ``frozen_towers = True`` each image set is encoded once, and not at all where
        an earlier run on this machine has done it. Elsewhere every call encodes, since the model may have changed.

        Parameters
        ----------
        pixels : Pixels, optional
            The training images of the task by default; others are `validation` and ``context.training_images(index)``.

        Returns
        -------
        Tensor
            Of unit length, float32 [images, width of embedding], in the order of the images and of ``pixels.labels``,
            on the CPU. Do not change it.
        """
        images, label = self.train if pixels is None else pixels, f"{self.name}: encode"
        if self.context.features is not None:
            return self.context.features.of(images, label)
        return encoded(images, self.context.batch_size, label, self.context.world, self.context.may_stop)

    def batches(
        self,
        purpose: str,
        epoch: int = 0,
        drop_last: bool = False,
        batch_size: int | None = None,
        skip: int = 0,
        stop: int | None = None,
        share: str = "nothing",
        bar: bool = True,
        augment: bool | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training images in an order that depends on (data seed, purpose, task, epoch) alone.

        Parameters
        ----------
        purpose : str
            What the pass is for, as in ``"gradient"``; it seeds the order and names the progress bar.
        epoch : int, optional
            Number of the pass, for passes that are made several times.
        drop_last : bool, optional
            Leave out the last batch if it is not full.
        batch_size : int, optional
            Images in a batch; the run's by default.
        skip : int, optional
            Batches at the start that were taken already.
        stop : int, optional
            Batches after which the pass ends; the last one by default.
        share : {"nothing", "batches", "images"}, optional
            What the processes of a run share: each makes the whole pass, every n-th batch (for sums that are added up
            with `World.sum`), or takes its images of every batch, which may be none.
        bar : bool, optional
            Show a progress bar, and stop between two batches where the run was asked to. Training does both itself.
        augment : bool, optional
            Change the images at random as ``train.augment`` says. By default this is done for the purpose ``"train"``
            alone: other passes see each image as a test does. What an image becomes depends on (data seed, purpose,
            task, epoch, image) alone.

        Yields
        ------
        pixels : Tensor
            Normalised images, float32 [batch, 3, height, width], on the model's device.
        labels : Tensor
            int64 [batch], index into `prompts`.
        """
        size = batch_size or self.context.batch_size
        drawn = self.train.plan(size, generator(self.context.data_seed, purpose, self.index, epoch), drop_last)
        planned = self.context.order.plan(self.name, purpose, epoch, drawn[:stop], len(self.train))[skip:]
        divide = {"batches": self.context.world.my_batches, "images": self.context.world.my_images}
        planned = divide[share](planned) if share in divide else planned
        random = self.budget.augment if (purpose == "train" if augment is None else augment) else "none"
        batches = self.train.take(planned, self._changing(random, purpose, epoch))
        return self._watch(purpose, batches, len(planned)) if bar else batches

    def batch_to_forget(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the images to forget that go with a step of training.

        The images that are to stay decide how long an epoch is. Those to forget begin again, in another order, in every
        epoch and wherever they are used up, as in GS-LoRA's code. The order depends on (data seed, task, epoch, walk)
        alone.

        Parameters
        ----------
        number : int
            Steps of the task that were done before, `TrainStep.number`.

        Returns
        -------
        pixels : Tensor
            Normalised images, float32 [batch, 3, height, width], on the model's device: this process's share of the
            batch, which may be empty.
        labels : Tensor
            int64 [batch], index into `prompts`.

        Raises
        ------
        ValueError
            If the task has no images to forget.
        """
        if self.request is None or (pixels := self.request.pixels) is None:
            raise ValueError(f"{self.name} has no images to forget")
        size, context = self.budget.batch_size, self.context
        epoch, step = divmod(number, epoch_steps(self.budget, len(self.train)))
        walk, position = divmod(step, -(-len(pixels) // size))
        if self._walk is None or self._walk[0] != (epoch, walk):
            purpose = f"forget, walk {walk}"
            drawn = pixels.plan(size, generator(context.data_seed, purpose, self.index, epoch))
            self._walk = (epoch, walk), context.order.plan(self.name, purpose, epoch, drawn, len(pixels))
        planned = context.world.my_images([self._walk[1][position]])
        return next(iter(pixels.take(planned, self._changing(self.budget.augment, "forget", epoch, pixels))))

    def validated(self, classify: Callable[[Tensor], Tensor]) -> int | None:
        """Return how many validation images are classified correctly.

        The processes of a run share the batches and have the same count.

        Parameters
        ----------
        classify : callable
            From normalised images, float32 [batch, 3, height, width], to logits, float [batch, classes].

        Returns
        -------
        int or None
            None where there are no validation images.
        """
        if self.validation is None:
            return None
        right = torch.zeros((), dtype=torch.int64, device=self.tokens.device)
        with torch.no_grad():
            planned = self.context.world.my_batches(self.validation.plan(self.context.batch_size))
            for pixels, labels in self.validation.take(planned):
                right += (classify(pixels).argmax(dim=-1) == labels).sum()
        self.context.world.sum([right])
        return int(right)

    def _changing(
        self, preset: str, purpose: str, epoch: int, pixels: Pixels | None = None
    ) -> Callable[[Tensor], Tensor] | None:
        """Return what changes images at random in one pass; None where nothing does."""
        if preset == "none":
            return None
        seed = self.context.data_seed
        images = self.train if pixels is None else pixels
        return images.augmented(preset, lambda image: generator(seed, f"{purpose} {image}", self.index, epoch))

    def _watch(
        self, purpose: str, batches: Iterator[tuple[Tensor, Tensor]], count: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in watched(f"{self.name}: {purpose}", batches, count):
            self.context.may_stop()
            yield batch

    def init_generator(self, purpose: str) -> torch.Generator:
        """Return a CPU generator for initial values that depends on (init seed, purpose, task) alone.

        Parameters
        ----------
        purpose : str
            What is drawn, such as ``"lora"``; two purposes have different numbers.

        Returns
        -------
        torch.Generator
        """
        return generator(self.context.init_seed, purpose, self.index)


def together(tasks: Sequence[TaskData], read: Callable[[Images], Pixels]) -> TaskData:
    """Return all tasks of a stream as one, for a method that learns them at once.

    Parameters
    ----------
    tasks : sequence of TaskData
        In their order; none is a request to forget.
    read : callable
        Takes images and returns their pixels.

    Returns
    -------
    TaskData
        The first task with the images and prompts of all, one task after the other, and its budget: as many passes as
        every task has, where all have the same number; else as many steps as all have together.
    """
    from bench.data.images import Joined

    first, sizes = tasks[0], torch.tensor([len(task.prompts) for task in tasks])
    starts = (sizes.cumsum(0) - sizes).tolist()
    labels = [(task.train.labels + start).numpy() for task, start in zip(tasks, starts, strict=True)]
    budget = first.budget
    if any((task.budget.epochs, task.budget.steps) != (budget.epochs, None) for task in tasks):
        budget = replace(budget, steps=sum(steps_of(task.budget, len(task.train)) for task in tasks))
    return replace(
        first,
        prompts=tuple(prompt for task in tasks for prompt in task.prompts),
        tokens=torch.cat([task.tokens for task in tasks]),
        train=read(Joined([task.train.images for task in tasks], labels)),
        budget=budget,
        owners=torch.arange(len(tasks)).repeat_interleave(sizes).to(first.tokens.device),
    )

"""The contract of a method: what a plug-in fills in, and the order in which the engine calls it.

For every task of the stream the engine calls ``begin_task``, ``fit``, ``end_task``, then measures with ``classifier``.
docs/methods.md has a complete example. It is one file, because an author reads it as a whole; most of it is
documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.config.run_settings import Train
from bench.core.code import code_sha256
from bench.data.stream import LabelSpace
from bench.learning.held import held
from bench.learning.train import fit
from bench.learning.training_state import EpochReport
from bench.record.flags import Flags

if TYPE_CHECKING:
    from torch import Tensor

    from bench.learning.task_data import Context, TaskData
    from bench.learning.train import TrainStep
    from bench.model.clip import Clip


@dataclass(frozen=True)
class ParityCard:
    """How a method here relates to its paper; ``python -m bench list methods NAME`` shows it.

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


class Method:
    """Base of all methods; a plug-in derives from it and is decorated with ``register("method", ...)``.

    Parameters
    ----------
    settings : object
        Instance of the class's `Settings`.
    clip : Clip
        The untrained model, on the run's device, in fp32.
    context : Context
        The run.

    Attributes
    ----------
    Settings : type
        Dataclass of `setting` fields, with the paper's defaults. It may have ``check()``, which returns sentences about
        settings that contradict each other, and ``fits(surroundings)``, which returns sentences about settings that do
        not fit stream and model; both are asked before anything is loaded.
    defaults : mapping of str to object
        Settings of the run that the method's paper prescribes, as dotted keys (``{"train.weight_decay": 0.0}``).
    kinds : tuple of str
        What it can do with a stream: ``learning`` for tasks to learn, ``forgetting`` for requests to forget
        (``task.request``).
    label_spaces : tuple of str
        The label spaces it supports: task, seen, agnostic, all.
    constant : bool
        True for a method whose classifier never changes: its rows are then reused instead of measured again.
    validation : bool
        True for a method that chooses by validation images, such as the best epoch: `TaskData.validation` has them, and
        their hash is part of the run.
    at_once : bool
        True for an upper bound that learns all tasks at the first one: its first task has the images, the prompts and
        the budgets of all tasks (`TaskData.owners`). Nothing is called for the later ones; their rows are reused.
    frozen_towers : bool
        True for a method that never changes the model, and writes `feature_classifier` in place of `classifier`. A run
        then encodes each image set once, training and test images alike: `TaskData.features` gives them.
    changes_at_end : bool
        True for a method whose `end_task` changes the function on purpose, as weight averaging does.
    baseline : bool
        True for the method that ``python -m bench compare`` compares the others with where the user names none. It is
        read without importing the class and not inherited: write ``baseline = True`` in the class itself.
    bound : bool
        True for an upper or lower bound or a probe, which shows what others could reach. Tables, page and pictures show
        it as a reference line: apart from the others, never the best. Read in the same way as `baseline`.
    ceiling : bool
        True for the bound whose Last is 100 % of the headroom (docs/metrics.md). Read in the same way.
    scalars : tuple of str
        Of a bound: the scalars of the accuracy matrix that mean something; tables show a dash for all others. Empty
        means all of them. Read in the same way.
    flags : Flags
        What it needs, keeps and adds beside its accuracy; tables that mix different flags say so.
    parity : ParityCard
        How it relates to its paper.
    registry_name : str
        The name it is registered under; `register` sets it.
    settings, clip, context
        As given.
    """

    @dataclass
    class Settings:
        """No settings."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("learning",)
    label_spaces: ClassVar[tuple[str, ...]] = ("task", "seen", "agnostic", "all")
    constant: ClassVar[bool] = False
    validation: ClassVar[bool] = False
    at_once: ClassVar[bool] = False
    frozen_towers: ClassVar[bool] = False
    changes_at_end: ClassVar[bool] = False
    baseline: ClassVar[bool] = False
    bound: ClassVar[bool] = False
    ceiling: ClassVar[bool] = False
    scalars: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[Flags] = Flags()
    parity: ClassVar[ParityCard] = ParityCard()
    registry_name: ClassVar[str]

    def __init__(self, settings: Any, clip: Clip, context: Context):
        self.settings = settings
        self.clip = clip
        self.context = context
        self.setup()

    @classmethod
    def flags_for(cls, settings: Any) -> Flags:
        """Return the flags that hold with some settings; by default those of the class. Asked before data are loaded.

        Parameters
        ----------
        settings : object
            Instance of the class's `Settings`.

        Returns
        -------
        Flags
        """
        return cls.flags

    def setup(self) -> None:
        """Prepare what needs the pre-trained weights only; called once, before the untrained model is measured."""

    def begin_task(self, task: TaskData) -> None:
        """Prepare the training of a task: gather statistics, initialise, attach updates to ``self.clip.maps``.

        Called again where a run is continued inside a task.

        Parameters
        ----------
        task : TaskData
        """

    def parameters(self) -> Sequence[Tensor] | Sequence[dict[str, Any]]:
        """Return the tensors to train on the current task.

        The engine makes them require gradients while it trains, and only then. An empty sequence trains nothing.

        Returns
        -------
        sequence of Tensor, or of dict
            Float32 leaf tensors on the model's device, the same objects in the same order until the task ends. Groups
            with rates of their own are dicts as torch's optimisers take them: ``params``, and ``lr`` or ``lr_scale`` (a
            factor on ``train.lr``), and ``weight_decay``; what a group does not say is the run's.
        """
        return []

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Return the loss of one batch; by default the cross-entropy over the task's prompts, with label smoothing.

        Parameters
        ----------
        pixels : Tensor
            Normalised images, float32 [batch, 3, height, width].
        labels : Tensor
            int64 [batch], index into ``task.prompts``.
        task : TaskData

        Returns
        -------
        Tensor
            Scalar, a mean over the images of the batch: processes that share a run weigh their means by images.
        """
        images = self.clip.encode_images(pixels)
        return task.cross_entropy(self.clip.logits(images, self.clip.encode_tokens(task.tokens)), labels)

    def train_step(self, step: TrainStep) -> None:
        """Train on one batch; by default one backward pass of `loss` and one step of the optimiser.

        A method with a step of its own overrides it: two half-steps, gradients at displaced parameters, or something
        done after the optimiser that needs the number of the step. All else of training stays the engine's: batches,
        schedule, several processes, fp16, checkpoints, records.

        Parameters
        ----------
        step : TrainStep
            The batch, with ``backward()`` and ``update()``.
        """
        step.backward()
        step.update()

    def after_step(self) -> None:
        """Act after every step: project or average parameters, for example."""

    def after_epoch(self, task: TaskData, epoch: int) -> None:
        """Act after every pass over the training images, the last one of a budget in steps included.

        ``task.validated(...)`` counts right answers on validation images. What is kept of a pass, such as the best
        parameters so far, belongs into `training_state`.

        Parameters
        ----------
        task : TaskData
        epoch : int
            Number of the pass, from 0.
        """

    def fit(
        self, task: TaskData, train: Train, on_step: Callable[[], None], on_epoch: Callable[[EpochReport], None]
    ) -> int:
        """Learn a task between `begin_task` and `end_task`; by default gradient descent on `parameters()`.

        Methods that solve in closed form, or step their own way, override it.

        Parameters
        ----------
        task : TaskData
            ``task.resume`` is where training was broken off; ``task.safe_point(state)`` may write a checkpoint and may
            stop the run.
        train : Train
            The budget: epochs or steps, batch size, learning rate, schedule, optimiser.
        on_step : callable
            To be called after every step.
        on_epoch : callable
            To be called with an `EpochReport` after every epoch.

        Returns
        -------
        int
            How many values were trained.

        Raises
        ------
        UserError
            If the loss stops being a finite number.
        """
        return fit(self, task, train, on_step, on_epoch)

    def end_task(self, task: TaskData) -> None:
        """Finish a task after its training: merge, remember; by default every attached update is merged.

        The function stays as training left it. A method that changes it here, to average weights for example, says
        ``changes_at_end = True``.

        Parameters
        ----------
        task : TaskData
        """
        self.clip.merge()

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the function that classifies the images of one test set; by default by their features.

        It is called once for each test set, so that class features are encoded once.

        Parameters
        ----------
        space : LabelSpace
            The prompts among which images are classified.

        Returns
        -------
        callable
            From normalised images, float32 [batch, 3, height, width], to logits, float32 [batch, prompts of the space].
        """
        classify = self.feature_classifier(space)
        return lambda pixels: classify(self.clip.encode_images(pixels))

    def feature_classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return what classifies the images of one test set by their features; by default cosine similarity to prompts.

        A method that says ``frozen_towers = True`` writes it in place of `classifier`.

        Parameters
        ----------
        space : LabelSpace
            The prompts among which images are classified.

        Returns
        -------
        callable
            From image features of unit length, float32 [batch, width of embedding] on the model's device, to logits,
            float32 [batch, prompts of the space].
        """
        texts = self.clip.encode_prompts(space.prompts)
        return lambda features: self.clip.logits(features, texts)

    def shared(self, name: str, key: Any, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors that other runs on this machine can use too: computed once, then read from the disk.

        Parameters
        ----------
        name : str
            What they are, for the record.
        key : object
            All that they depend on besides the method's code, of plain values: `Context.weights` for the untrained
            model, `TaskData.identity` for the batches of a pass.
        compute : callable
            Returns the tensors by name.

        Returns
        -------
        dict of str to Tensor
        """
        code = code_sha256(type(self))
        if not code:  # a class without a file: nobody could know whether it is still the same
            return compute()
        return self.context.shared(name, [code, key], compute)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the method remembers from one task to the next, apart from the model's weights.

        Returns
        -------
        dict of str to Tensor
        """
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Parameters
        ----------
        state : dict of str to Tensor
            On the CPU.
        """

    def training_state(self) -> dict[str, Tensor]:
        """Return what changes from step to step inside a task and is neither in `parameters()` nor in the model.

        Running averages, for example. `begin_task` makes everything else of a task in progress again.

        Returns
        -------
        dict of str to Tensor
        """
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `training_state` returned; called after `begin_task`.

        Parameters
        ----------
        state : dict of str to Tensor
            On the CPU.
        """

    def report(self) -> dict[str, Any]:
        """Return figures about the task just learned, for the record.

        Returns
        -------
        dict of str to object
            Made of numbers, texts, lists and dicts.
        """
        return {}

    def stored_numbers(self) -> int:
        """Return how many numbers the method keeps for later tasks, apart from the model itself.

        By default what `state_dict` returns, or all tensors that can be reached from the method if these are more: a
        frozen teacher counts.

        Returns
        -------
        int
        """
        return self._stored(lambda tensor: tensor.numel())

    def stored_bytes(self) -> int:
        """Return how many bytes those numbers take as they are kept.

        Returns
        -------
        int
        """
        return self._stored(lambda tensor: tensor.numel() * tensor.element_size())

    def _stored(self, size: Callable[[Tensor], int]) -> int:
        return max(sum(map(size, kept.values())) for kept in (self.state_dict(), held(self, self.clip.model)))

"""The contract of a method: what a plug-in fills in, and what the engine does in which order.

For every task of the stream the engine calls ``begin_task``, ``fit``, ``end_task``, then measures with ``classifier``.
docs/methods.md teaches it with a complete example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.config.run_settings import Train
from bench.core.files import file_sha256
from bench.core.lazy import F
from bench.data.stream import LabelSpace
from bench.learning.train import fit
from bench.learning.training_state import EpochReport

if TYPE_CHECKING:
    from torch import Tensor

    from bench.learning.task_data import Context, TaskData
    from bench.model.clip import Clip


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


class Method:
    """Base of all methods; a plug-in derives from it and is decorated with ``register("method", ...)``.

    Attributes
    ----------
    Settings : type
        Dataclass of `bench.config.fields.setting` fields, with the paper's defaults.
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

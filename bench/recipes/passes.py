"""How often a method encodes each image and each prompt of a task, counted on two toy tasks.

A method does not say how often it reads its images. So it learns two toy tasks three times: as they are, with twice the
epochs, and with twice the images. What it encodes is then

    a * shown + b * images + c

where ``shown`` are the images that the steps of training show and ``images`` those of the task; three counts give the
three numbers. Importing this imports no torch; counting does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.config.run_settings import Resolved, Train
from bench.learning.optimizer import epoch_steps, steps_of

IMAGES = 32
"""Training images of a toy task: whole batches, so that nothing hangs on whether the last one is dropped."""

BATCH = 8
"""Images of a step there."""

LARGEST = 32
"""Whole numbers among a method's settings are lowered to this: ranks and widths are too large for the toy model, and do
not decide how often images are read."""

KINDS = ("images", "images back", "prompts", "prompts back")
"""What is counted: what goes forward through a tower, and what a gradient comes back through."""

ENTRANCES = {"read_images": "images", "encode_tokens": "prompts", "encode_embeddings": "prompts"}
"""Ways into a tower, by their names in `bench.model.clip.Clip`, and what goes in there."""

PHASES = ("passes", "training")
"""When: before and after training, and in it."""


@dataclass(frozen=True)
class Rate:
    """How many are encoded on a task: ``shown`` of each that training shows, ``own`` of each of the task, and more.

    For prompts `shown` is of each class at each step, and `own` of each class. `more` is a number, the same for tasks
    of every size: mostly images of a reference set.
    """

    shown: float = 0.0
    own: float = 0.0
    more: float = 0.0

    def of(self, shown: int, own: int, more: float = 1.0) -> float:
        """Return how many these are where so many are shown, the task has so many, and `more` counts so often."""
        return self.shown * shown + self.own * own + self.more * more


Rates = Mapping[tuple[str, str], Rate]
"""By phase and kind."""


@dataclass(frozen=True)
class Passes:
    """How often a method encodes what.

    Attributes
    ----------
    first, later : mapping of (str, str) to Rate
        On the first task, and on a later one: by phase and kind, as in `PHASES` and `KINDS`.
    steps : float
        Steps of the optimiser for each step of the budget: 0 for a method that is not trained by steps.
    share : float
        The fraction of the image tower's linear weights that training changes or adapts.
    """

    first: Rates = field(default_factory=dict)
    later: Rates = field(default_factory=dict)
    steps: float = 0.0
    share: float = 0.0


def shown(train: Train, images: int) -> int:
    """Return how many images the steps of training show on a task.

    Parameters
    ----------
    train : Train
    images : int
        Of the task.
    """
    each = epoch_steps(train, images)
    epochs, rest = divmod(steps_of(train, images), each)
    return epochs * images + min(images, rest * train.batch_size)


def passes_of(resolved: Resolved) -> Passes:
    """Count what the method of a run encodes.

    Parameters
    ----------
    resolved : Resolved

    Returns
    -------
    Passes

    Raises
    ------
    UserError
        If the method does not run on the toy model with these settings.
    """
    method, settings = resolved.method_class, _smaller(resolved.method_settings)
    if method.constant:
        return Passes()
    once = _Toy(method, settings).learn()
    longer, larger = _Toy(method, settings, epochs=2).learn(), _Toy(method, settings, images=2 * IMAGES).learn()
    tasks = 1 if method.at_once else 2
    found = [
        _rates(once.counts[index], longer.counts[index], larger.counts[index], once.sizes(index), larger.sizes(index))
        for index in range(tasks)
    ]
    return Passes(found[0], found[-1], once.steps / once.budget, once.share)


def _smaller(settings: Any) -> Any:
    """Return settings that fit a narrow model."""
    whole = {name: value for name, value in vars(settings).items() if type(value) is int and value > LARGEST}
    return replace(settings, **dict.fromkeys(whole, LARGEST))


Counts = dict[tuple[str, str], int]


def _rates(
    once: Counts, longer: Counts, larger: Counts, sizes: Mapping[str, int], more: Mapping[str, int]
) -> dict[tuple[str, str], Rate]:
    """Return the rates that three counts mean; `sizes` and `more` have images, steps and classes of the smaller two."""
    rates = {}
    for phase in PHASES:
        for kind in KINDS:
            first, second, third = (counts.get((phase, kind), 0) for counts in (once, longer, larger))
            if kind.startswith("images"):
                images, grown = sizes["images"], more["images"] - sizes["images"]
                a = (second - first) / images
                b = (third - first) / grown - a
                rates[phase, kind] = Rate(a, b, first - (a + b) * images)
            else:  # twice the epochs are twice the steps; the number of classes stays
                a = (second - first) / (sizes["steps"] * sizes["classes"])
                rates[phase, kind] = Rate(a, first / sizes["classes"] - a * sizes["steps"])
    return {key: rate for key, rate in rates.items() if rate != Rate()}


class _Toy:
    """A method on two toy tasks, with counters where images and prompts enter the towers."""

    def __init__(self, method: type[Any], settings: Any, epochs: int = 1, images: int = IMAGES):
        from bench.trials.toy import toy_task  # torch comes with it
        from bench.trials.trial import TRAIN, Trial

        self.tasks = [replace(toy_task(index, train=images, test=3), validation=None) for index in range(2)]
        train = replace(TRAIN, epochs=epochs, batch_size=BATCH, schedule="constant")
        self.trial = Trial(method, settings, self.tasks, train, say=lambda text: None)
        if method.frozen_towers:
            self._keep_features()
        self.counts: list[Counts] = [{}, {}]
        self.steps = 0
        self.share = 0.0
        self._where = (0, PHASES[0])
        for name, kind in ENTRANCES.items():
            setattr(self.trial.clip, name, self._counting(getattr(self.trial.clip, name), kind))

    @property
    def budget(self) -> int:
        """Steps of the budget for all tasks."""
        return sum(self.trial.steps(index) for index in range(2))

    def sizes(self, index: int) -> dict[str, int]:
        """Return how many images, steps and classes a task has; all tasks are one where they are learned at once."""
        tasks: Sequence[Any] = self.tasks if self.trial.method.at_once else [self.tasks[index]]
        return {
            "images": sum(len(task.train) for task in tasks),
            "steps": sum(self.trial.steps(index) for _ in tasks),
            "classes": sum(len(task.classes) for task in tasks),
        }

    def learn(self) -> _Toy:
        """Learn both tasks, and return itself."""

        def begun() -> None:
            self._where = (self._where[0], PHASES[1])
            self._see_share()

        def fitted() -> None:
            self._where = (self._where[0], PHASES[0])

        for index in range(2):
            self._where = (index, PHASES[0])
            self.trial.learn(index, begun, fitted, safe_point=lambda training: self._step())
        return self

    def _step(self) -> None:
        self.steps += 1

    def _see_share(self) -> None:
        """Note which part of the image tower's linear maps is adapted or trained itself."""
        from bench.learning.optimizer import tensors_of

        trained = {id(tensor) for tensor in tensors_of(self.trial.method.parameters())}
        maps = [one for one in self.trial.clip.maps.values() if one.tower == "image"]
        sizes = [one.weight.numel() for one in maps]
        learns = [one.update is not None or id(one.parameter) in trained for one in maps]
        self.share = max(self.share, sum(size for size, yes in zip(sizes, learns, strict=True) if yes) / sum(sizes))

    def _counting(self, encode: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def counting(given: Any, *more: Any, **named: Any) -> Any:
            index, phase = self._where
            self._add(index, phase, kind, len(given))  # before it is encoded: a pass may end inside a tower
            read = encode(given, *more, **named)
            if read.requires_grad:
                read.register_hook(lambda gradient: self._add(index, phase, f"{kind} back", len(given)))
            return read

        return counting

    def _add(self, index: int, phase: str, kind: str, number: int) -> None:
        counts = self.counts[index]
        counts[phase, kind] = counts.get((phase, kind), 0) + number

    def _keep_features(self) -> None:
        """Keep the features of frozen towers, as a run does: each set is encoded once."""
        from bench.learning.given import FrozenFeatures

        context = self.trial.context
        features = FrozenFeatures(IMAGES, "", context.shared, context.world, context.may_stop)
        self.trial.context = self.trial.method.context = replace(context, features=features)

"""Streams that ask a model to forget: requests about the classes of any stream, one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.api import (
    DatasetStream,
    Extra,
    Images,
    Part,
    Request,
    Stream,
    Subset,
    Task,
    UserError,
    derived_seed,
    register,
    setting,
    stream_class,
    stream_of,
    suggest,
    with_defaults,
)

from .class_incremental import class_order
from .scope import BETWEEN, Scope, drawn, name_of, named, pooled, read_requests
from .shots import Fewer, draw, take

KEPT, MISSING = "kept", "missing"
"""Names of the test sets of classes that no request names, and of those among them without training images."""

NONE = "none"
"""What stands for no probes."""


@register("stream", "forget", title="Requests to forget classes of any stream", paper="GS-LoRA, arXiv 2403.11530")
class Forget(Stream):
    """The classes of the stream `of` are the scope. Requests name some of them, one request after another.

    Requests are drawn (`count`, `per_request`), or named: in `requests` an entry a request, with ``" + "`` between the
    names of classes or of whole tasks; in `requests_file` a YAML list of lists. Classes of tasks with different
    templates are called by their prompts; ``TASK/CLASS`` names one too. Every image is classified among all names of
    the scope, forgotten ones included.
    """

    @dataclass
    class Settings:
        """Which classes, which requests, with how many images."""

        of: str = setting("pocket", 'stream whose classes these are: a name of "list streams" or a file.py')
        options: list[str] = setting([], "settings of that stream, such as class_order=shuffled")
        tasks: list[str] = setting([], "its tasks whose classes may be forgotten; empty takes all")
        requests: list[str] = setting(
            [], 'what each request forgets: classes or whole tasks, with " + " between them; empty draws classes'
        )
        requests_file: str = setting("", "YAML file with a list of names a request, instead of requests", path=True)
        count: int = setting(4, "requests that are drawn", low=1)
        per_request: int = setting(5, "classes that each of them names", low=1)
        class_order: str = setting(
            "shuffled",
            "order from whose end requests are drawn, by seeds.task_order as in the class-incremental streams",
            choices=("natural", "shuffled", "numpy"),
        )
        shots: int | None = setting(None, "training images a class; null takes all", low=1)
        fewer: str = setting("error", "where a class has fewer images", choices=("error", "all", "repeat"))
        ratio: float | None = setting(
            None, "share of the training images that each request draws, whatever their class", above=0, high=1
        )
        missing: int = setting(
            0, "how many of the classes that stay have no training images: the first of the order", low=0
        )
        missing_classes: list[str] = setting([], "classes without training images, by name")
        probes: list[str] = setting(
            [],
            "further test sets: tasks of that stream, streams, datasets; empty takes its other tasks, none takes none",
        )

        def check(self) -> list[str]:
            """Return what is wrong across the fields: the same is said in two ways."""
            both = [("requests", "requests_file"), ("shots", "ratio"), ("missing", "missing_classes")]
            return [
                f"stream.{one} and stream.{other} are both given: leave one out"
                for one, other in both
                if getattr(self, one) and getattr(self, other)
            ]

    kind = "forgetting"
    label_space = "task"
    description = "requests to forget classes of any stream"
    prompt_family: ClassVar[str] = "those of the stream that is asked about"
    budget: ClassVar[str] = "20 epochs, batch 48 (GS-LoRA: 100 epochs)"
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 20, "train.batch_size": 48}

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets of the streams that this one is made of, for the verb ``data``."""

        def parts_of(name: str, options: Sequence[str]) -> list[Part]:
            made_of, own = stream_class(name, options)
            return made_of.parts(own, root) if issubclass(made_of, DatasetStream) else []

        probes = [part for name in settings.probes for part in parts_of(*_stream_of_probe(name))]
        # A probe that is no dataset is a task of the stream, or a run says that there is nothing of this name.
        return [*parts_of(settings.of, settings.options), *(part for part in probes if not part.dataset.absent)]

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Load the stream that is asked about and make the requests."""
        chosen, self._seed = self.settings, order_seed
        base = self._loaded(f"stream.of={chosen.of}", chosen.of, chosen.options, data_root)
        known = [task.name for task in base.tasks]
        for name in chosen.tasks:
            if name not in known:
                raise UserError(
                    f"stream.tasks names {name}, which is no task of stream {chosen.of}{suggest(name, known)}"
                )
        self._scope = [task for task in base.tasks if task.name in (chosen.tasks or known)]
        rest = [task for task in base.tasks if task.name not in (chosen.tasks or known)]
        self._outside = self._probes(rest, data_root)
        return self._made()

    def change(self, new: Callable[[Task], Task]) -> None:
        """Change the tasks that the requests are made of, and make these again."""
        self._scope = [new(task) for task in self._scope]
        self._outside = [new(task) for task in self._outside]
        self.tasks = self._made()

    def _loaded(self, who: str, name: str, options: Sequence[str], data_root: str | None) -> Stream:
        """Return another stream; what is to be known of its data is to be known of this one."""
        try:
            if stream_class(name, options)[0].kind == self.kind:
                raise UserError("it asks to forget too; name a stream of tasks to learn")
            stream = stream_of(name, options, data_root, self._seed)
        except UserError as error:
            raise UserError(f"{who}: {error}") from error
        self.notes += [note for note in stream.notes if note not in self.notes]
        self.differences |= stream.differences
        for key, value in stream.facts.items():
            same = isinstance(value, dict) and isinstance(self.facts.get(key, {}), dict)
            self.facts[key] = {**self.facts.get(key, {}), **value} if same else value
        return stream

    def _probes(self, rest: Sequence[Task], data_root: str | None) -> list[Task]:
        """Return the tasks whose test sets no request is about."""
        names, found = self.settings.probes, {task.name: task for task in rest}
        if names in ([], [NONE]):
            return [] if names else list(rest)
        tasks: list[Task] = []
        for name in names:
            if name in found:
                tasks.append(found[name])
                continue
            made_of, options = _stream_of_probe(name)
            also = f", which is no stream and no other task of {self.settings.of}{suggest(name, found)}"
            who = f"stream.probes names {name}{'' if made_of == name else also}"
            tasks += self._loaded(who, made_of, options, data_root).tasks
        return tasks

    def _made(self) -> list[Task]:
        """Return the requests; the classes that stay and the probes become further test sets."""
        scope = pooled(self._scope)
        order = class_order(self.settings.class_order, len(scope.classes), self._seed)
        requests = self._asked(scope, order)
        gone = {number for request in requests for number in request}
        stays = [number for number in order if number not in gone]
        if not stays:
            raise UserError("the requests leave no class of the stream: let at least one stay")
        without = self._without_images(scope, stays)
        if without.issuperset(stays):
            raise UserError("every class that stays is without training images: leave some in stream.missing")
        train = self._shots(scope, np.flatnonzero(~np.isin(scope.train.labels, list(without))))
        said: dict[str, Any] = {
            "classes": scope.classes,
            "template": scope.template,
            "more_templates": scope.more_templates,
        }
        self.facts["requests"] = {
            name_of(number): [scope.classes[one] for one in request] for number, request in enumerate(requests)
        }
        self.others = []
        for name, numbers in ((KEPT, set(stays) - without), (MISSING, without.intersection(stays))):
            self.facts[name] = [scope.classes[number] for number in sorted(numbers)]
            if numbers:
                test = _of(scope.test, sorted(numbers))
                self.others.append(Extra(name, train=test, test=test, role=name, **said))
        if without:
            self.facts["without_training_images"] = [scope.classes[number] for number in sorted(without)]
        self.others += map(Extra.probe, self._outside)
        return [self._request(number, requests, scope, train, said) for number in range(len(requests))]

    def _asked(self, scope: Scope, order: Sequence[int]) -> list[list[int]]:
        """Return the classes of every request."""
        chosen = self.settings
        if chosen.requests_file:
            written = read_requests(Path(chosen.requests_file).expanduser())
            return named(scope, written, "stream.requests_file")
        if chosen.requests:
            return named(scope, [entry.split(BETWEEN) for entry in chosen.requests], "stream.requests")
        return drawn(order, chosen.count, chosen.per_request)

    def _without_images(self, scope: Scope, stays: Sequence[int]) -> set[int]:
        """Return the classes whose training images are missing."""
        count = self.settings.missing
        if count > len(stays):
            raise UserError(f"stream.missing={count} is more than the {len(stays)} classes that stay: lower it")
        named = (scope.classes_of(name, "stream.missing_classes") for name in self.settings.missing_classes)
        return {*stays[:count], *(number for numbers in named for number in numbers)}

    def _shots(self, scope: Scope, present: np.ndarray) -> Images:
        """Return the training images that requests choose from."""
        shots, labels = self.settings.shots, scope.train.labels[present]
        images = Subset(scope.train, present, labels, whole=True)
        if shots is None:
            return images
        fewer: Fewer = self.settings.fewer
        numbers = sorted(set(labels.tolist()))
        names = [scope.classes[number] for number in numbers]
        chosen = draw(self.settings.of, names, np.searchsorted(numbers, labels), shots, self._seed, fewer)
        self.facts["shots"] = {self.settings.of: chosen}
        few = take(images, chosen)
        return Subset(scope.train, present[few.indices], few.labels)

    def _request(
        self, number: int, requests: Sequence[Sequence[int]], scope: Scope, train: Images, said: Mapping[str, Any]
    ) -> Request:
        """Return one request."""
        forgotten = tuple(sorted(requests[number]))
        earlier = tuple(sorted(one for request in requests[:number] for one in request))
        stays = sorted(set(range(len(scope.classes))) - {*forgotten, *earlier})
        forget = self._sampled(_of(train, forgotten), f"forget {number}")
        return Request(
            name_of(number),
            train=self._sampled(_of(train, stays), f"stay {number}"),
            test=_of(scope.test, forgotten),
            validation=None if scope.validation is None else _of(scope.validation, forgotten),
            forget=forget if len(forget) else None,
            forgotten=forgotten,
            earlier=earlier,
            **said,
        )

    def _sampled(self, images: Subset, purpose: str) -> Subset:
        """Return a share of some images drawn at random whatever their class, as in GS-LoRA's code."""
        if self.settings.ratio is None or not len(images):
            return images
        rng = np.random.default_rng(derived_seed(self._seed, f"ratio, {purpose}"))
        count = max(1, round(self.settings.ratio * len(images)))
        chosen = np.sort(rng.permutation(len(images))[:count])
        return Subset(images.images, images.indices[chosen], images.labels[chosen], images.whole)


def _of(images: Images, numbers: Sequence[int]) -> Subset:
    """Return the images of some classes, decoded together with the others."""
    indices = np.flatnonzero(np.isin(images.labels, list(numbers)))
    return Subset(images, indices, whole=True)


def _stream_of_probe(name: str) -> tuple[str, list[str]]:
    """Return the stream that a probe is, with its settings: the one of this name, or one of the dataset alone."""
    try:
        stream_class(name)
    except UserError:
        return "custom", [f"datasets=[{json.dumps(name)}]"]
    return name, []


class _Pocket(Forget):
    """Requests about classes of the embedded stream ``pocket``."""

    prompt_family: ClassVar[str] = "one a task"
    budget: ClassVar[str] = "5 epochs, batch 32"
    defaults: ClassVar[Mapping[str, Any]] = {"train.epochs": 5, "train.batch_size": 32}


@register("stream", "forget-pocket", title="Letters and icons to forget, of the embedded stream", paper="this project")
class ForgetPocket(_Pocket):
    """4 requests of 8 of the 50 classes of letters and icons; 18 stay. 8 images a class. Probes: digits and flags."""

    description = "4 requests of 8 of 50 classes, embedded"
    tuned = Path(__file__).parent / "pocket_data" / "tuned_forgetting.yaml"
    Settings = with_defaults(
        Forget.Settings, tasks=["letters", "icons"], count=4, per_request=8, shots=8, probes=["digits", "flags"]
    )


@register(
    "stream", "forget-pocket-tuning", title="Flags and digits to forget, to choose settings on", paper="this project"
)
class ForgetPocketTuning(_Pocket):
    """4 requests of 7 of the 43 classes of flags and digits; 15 stay. 8 images a class. Probes: letters and icons."""

    description = "4 requests of 7 of 43 classes, embedded, to choose settings on"
    Settings = with_defaults(
        Forget.Settings, tasks=["flags", "digits"], count=4, per_request=7, shots=8, probes=["letters", "icons"]
    )


@register(
    "stream", "forget-cifar100", title="CIFAR-100, 4 requests of 20 of 100 classes", paper="GS-LoRA, arXiv 2403.11530"
)
class ForgetCifar100(Forget):
    """20 classes stay. Each request draws a tenth of the training images, as GS-LoRA does for faces.

    The classes and their prompts are those of the streams ``cifar100-5``, ``-10`` and ``-20``, so that ``start=`` can
    be a run of one of them.
    """

    description = "4 requests of 20 of 100 classes"
    prompt_family: ClassVar[str] = '"a photo of a {}."'
    Settings = with_defaults(Forget.Settings, of="cifar100-10", count=4, per_request=20, ratio=0.1)


@register(
    "stream", "forget-imagenet-r", title="ImageNet-R, 4 requests of 40 of 200 classes", paper="GS-LoRA's protocol"
)
class ForgetImageNetR(Forget):
    """40 classes stay. Each request draws a fifth of the training images, so that no class is left without any.

    The classes and their prompts are those of the streams ``imagenet-r-5``, ``-10`` and ``-20``.
    """

    description = "4 requests of 40 of 200 classes"
    prompt_family: ClassVar[str] = '"a photo of a {}."'
    Settings = with_defaults(Forget.Settings, of="imagenet-r-10", count=4, per_request=40, ratio=0.2)

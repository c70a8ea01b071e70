"""The settings that every run has, and a run with all its values decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.config.fields import Setting, describe, setting


@dataclass(frozen=True)
class Train:
    """How one task is trained."""

    epochs: int = setting(10, "passes over a task's training images", low=1)
    steps: int | None = setting(None, "optimiser steps on a task, in place of epochs; null trains by epochs", low=1)
    tasks: list[str] = setting([], "settings of single tasks that win over all others, such as SUN397.epochs=5")
    batch_size: int = setting(64, "images per step", low=1)
    lr: float = setting(1e-3, "highest learning rate of the schedule", above=0)
    optimizer: str = setting("adamw", "optimiser", choices=("adamw", "adam", "sgd", "muon"))
    schedule: str = setting(
        "onecycle", "course of the learning rate", choices=("onecycle", "cosine", "constant", "steps")
    )
    lr_end: float = setting(0.0, "share of the learning rate that cosine falls to", low=0, high=1)
    weight_decay: float = setting(0.01, "weight decay", low=0)
    momentum: float = setting(0.9, "momentum; sgd and muon", low=0, below=1)
    betas: list[float] | None = setting(
        None, "Adam's two decay rates; null is 0.9,0.999, of which onecycle moves the first", low=0, below=1
    )
    eps: float = setting(1e-8, "what Adam adds to the root of its second moment", above=0)
    grad_clip: float | None = setting(None, "largest norm of the gradient; null does not clip", above=0)
    warmup: float = setting(
        0.05, "below 1 the share of the steps that warm up, cosine only; from 1 their number, for every schedule", low=0
    )
    pct_start: float = setting(0.3, "share of the steps on the way up; onecycle only", low=0, below=1)
    milestones: list[int] = setting(
        [], "epochs, counted from 1, from which on the rate is a tenth of what it was; schedule=steps only", low=1
    )
    rate_per: str = setting(
        "step", "how often the rate falls: at every step, or once an epoch; cosine only", choices=("step", "epoch")
    )
    augment: str = setting(
        "none", "random change of training images", choices=("none", "crop", "clip", "inflora", "pilot", "flip")
    )
    label_smoothing: float = setting(0.0, "share of the target that is spread over all classes", low=0, below=1)

    def check(self) -> list[str]:
        """Return what is wrong across the fields.

        Returns
        -------
        list of str
            A sentence each.
        """
        wrong = []
        if self.betas is not None and len(self.betas) != 2:
            wrong.append(f"train.betas has {len(self.betas)} values: give two, as in train.betas=[0.9,0.99]")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            wrong.append(f"train.warmup={self.warmup:g} is no whole number of steps: from 1 on it counts steps")
        if self.schedule == "steps" and not self.milestones:
            wrong.append(
                "train.schedule=steps needs the epochs at which the rate falls: give them, as in train.milestones=[5,8]"
            )
        return wrong


@dataclass(frozen=True)
class Evaluate:
    """How test sets are scored."""

    batch_size: int = setting(256, "images per forward pass", low=1)
    split: str = setting("test", "which images are scored; validation is for tuning", choices=("test", "validation"))
    held_out: float = setting(
        0.1,
        "share of a class's training images that is scored instead, with split=validation where there are no others",
        above=0,
        below=1,
    )
    templates: list[str] = setting(
        [], "prompts with {} beside each task's own; a class is the mean of their features where images are scored"
    )


@dataclass(frozen=True)
class Seeds:
    """Separate seeds for the separate sources of chance."""

    task_order: int | None = setting(None, "seed of the order of tasks; null is the run's seed", low=0)
    data_order: int | None = setting(None, "seed of the order of images; null is the run's seed", low=0)
    init: int | None = setting(None, "seed of initial weights; null is the run's seed", low=0)


REFERENCE = "reference"
"""What the flag ``outside_data`` says of a method that learns from the run's reference set."""


@dataclass(frozen=True)
class Reference:
    """Images and sentences outside of the stream, for methods that learn from some."""

    name: str | None = setting(
        None, 'dataset whose training images these are: a name of "list datasets", a file.py, or a folder of images'
    )
    data: str | None = setting(None, "folder that holds it; null is data=")
    images: int | None = setting(None, "images drawn of it at most; null takes all", low=1)
    sentences: str | None = setting(
        None, "text file with a sentence a line; null takes the prompts of its classes", path=True
    )


@dataclass(frozen=True)
class Batches:
    """The order of batches as a record."""

    record: bool = setting(False, "keep the images of every batch of every pass in batches.jsonl")
    replay: str | None = setting(None, "file of such a record to follow, instead of drawing an order")


@dataclass(frozen=True)
class Checkpoint:
    """What a run keeps in order to be continued, and of what it learned."""

    every: float | None = setting(
        10.0, "minutes between checkpoints inside a task; null keeps one after each task only", low=0
    )
    final: bool = setting(True, "keep changed weights and the method's memory of a finished run in model.safetensors")


@dataclass(frozen=True)
class Cache:
    """Decoded images on disk, and results that runs have in common."""

    gb: float = setting(
        100.0,
        "largest size in GB (1e9 bytes) of decoded images, and a tenth of it of results that runs share (zero-shot "
        "row, spectra of pre-trained weights, gradient of the first task); 0 keeps none on disk",
        low=0,
        high=1e9,
    )
    dir: str | None = setting(None, "folder; null is keeplora-bench in the user's cache folder")


@dataclass(frozen=True)
class Track:
    """Whether and as what a run is mirrored in W&B."""

    wandb: str = setting(
        "auto", "mirror in W&B; auto is online where there is a login", choices=("auto", "online", "offline", "off")
    )
    project: str = setting("keeplora-bench", "project; WANDB_PROJECT where not given")
    entity: str | None = setting(None, "user or team; null is WANDB_ENTITY, else the login's own")
    group: str | None = setting(None, 'what runs stand beside; null is WANDB_RUN_GROUP, else "METHOD STREAM"')
    name: str | None = setting(None, "name shown; null is WANDB_NAME, else made of what is special about the run")
    tags: list[str] = setting([], "free labels")
    weights: bool = setting(False, "upload the weights in the run directory too")


@dataclass(frozen=True)
class Run:
    """The settings of every run; those of its method, stream and model are beside it in `Resolved`."""

    stream: str = setting(
        "pocket",
        'stream of tasks: a name of "list streams" or a file.py; for a method that only forgets, forget-pocket where '
        "none is given",
    )
    model: str = setting("pocket", 'model under study: a name of "list models", such as ViT-B-16/openai')
    method: str = setting("", 'method: a name of "list methods" or a file.py')
    start: str | None = setting(
        None,
        "run directory of a finished run of the same model, whose final weights this run begins with; for streams that "
        "ask to forget",
        path="model.safetensors",
    )
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    seeds: Seeds = field(default_factory=Seeds)
    track: Track = field(default_factory=Track)
    cache: Cache = field(default_factory=Cache)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    batches: Batches = field(default_factory=Batches)
    reference: Reference = field(default_factory=Reference)
    seed: int = setting(0, "seed of the run", low=0)
    data: str | None = setting(None, "folder with the stream's images; null where they are embedded")
    out: str = setting("runs", "folder for run directories")
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    threads: int | None = setting(None, "CPU threads; null leaves torch's own number", low=1, high=1024)
    deterministic: bool = setting(
        True,
        "deterministic kernels, with which the same line gives the same bits; false takes the fastest ones on CUDA and "
        "changes nothing on the CPU",
    )
    gate: str = setting(
        "on", "before training, hold data and untrained model against published values", choices=("on", "off")
    )
    precision: str = setting(
        "fp32",
        "products in the towers while training and evaluating; weights, updates, statistics and subspaces are fp32 and "
        "fp64 in any case; tf32 is CUDA's",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )


@dataclass(frozen=True)
class OpenClip:
    """Settings of a model that open_clip knows."""

    checkpoint: str | None = setting(None, "file of weights on disk, instead of downloaded ones")
    weights: str = setting("pretrained", "random is for tests and profiles", choices=("pretrained", "random"))


@dataclass(frozen=True)
class NoSettings:
    """What a plug-in without a ``Settings`` of its own has."""


@dataclass(frozen=True)
class Resolved:
    """A run with all its values decided.

    Attributes
    ----------
    run : Run
        Typed values; ``run.method`` is the registered name also where a file was given, ``run.seeds`` holds ints.
    method_settings, stream_settings, model_settings : dataclass
        Instances of each chosen class's ``Settings``; of `OpenClip` for an open_clip model.
    method_class, stream_class, model_class : type or None
        None if no method is needed, or if the model is one of open_clip's.
    sources : dict of str to str
        Dotted key to ``default``, ``method``, ``stream``, ``tuned``, ``settings`` or ``user``.
    flat : dict of str to object
        Dotted key to plain value, all keys. Seeds that follow the run's seed are None here. For a plug-in given as
        a file, ``method.file`` and ``method.file_sha256`` (of its content) are added beside ``method.name``; for a
        setting that is a path, ``KEY_sha256`` beside it.
    """

    run: Run
    method_settings: Any
    stream_settings: Any
    model_settings: Any
    method_class: Any
    stream_class: Any
    model_class: Any
    sources: dict[str, str]
    flat: dict[str, Any]


LEARNING, FORGETTING = KINDS = ("learning", "forgetting")
"""What a stream asks for: tasks to learn, or requests to forget."""

TO_FORGET = "forget-pocket"
"""The stream of a run that names none, where its method only forgets."""


CHOICES = ("method", "stream", "model")
"""The groups that pick an entry of a registry: ``method=NAME`` means ``method.name=NAME``."""


NAMED = (*CHOICES, "reference")
"""The groups whose name may be given for the group: ``reference=NAME`` means ``reference.name=NAME``."""


PATHS = ("out", "data", "cache.dir", "batches.replay", "model.checkpoint", "reference.data")
"""Settings that are paths."""


def run_settings() -> dict[str, Setting]:
    """Return the settings that every run has.

    Returns
    -------
    dict of str to Setting
        By dotted key; method, stream and model have the keys ``method.name`` and so on.
    """
    renamed = ((f"{key}.name" if key in CHOICES else key, one) for key, one in describe(Run).items())
    return {key: dataclasses.replace(one, key=key) for key, one in renamed}


def class_settings(cls: type) -> type:
    """Return the dataclass of a plug-in's own settings.

    Parameters
    ----------
    cls : type
        The plug-in's class.

    Returns
    -------
    type
        `NoSettings` if it has none.
    """
    return getattr(cls, "Settings", NoSettings)


def label_space_of(stream: type, settings: Any) -> str:
    """Return the label space of a stream under its settings.

    Parameters
    ----------
    stream : type
        The stream's class.
    settings : object
        An instance of its ``Settings``, or None.

    Returns
    -------
    str
        The settings' own ``label_space`` if they have one, otherwise the class's; empty if neither has.
    """
    return str(getattr(settings, "label_space", getattr(stream, "label_space", "")))


@dataclass(frozen=True)
class Surroundings:
    """What a method's settings must fit, as far as it is known before data and model are loaded.

    Attributes
    ----------
    label_space : {"task", "seen", "agnostic", "all"}
        Of the stream.
    widths : mapping of tower ("image", "text") to int
        Width of the model's blocks; empty where the model does not say.
    train : Train
        The run's budget. Single tasks may have one of their own, which ``task.budget`` says in `Method.begin_task`.
    """

    label_space: str
    widths: Mapping[str, int]
    train: Train = field(default_factory=Train)

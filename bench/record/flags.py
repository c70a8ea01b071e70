"""What a method needs, keeps and adds beside its accuracy: which methods are alike enough to be compared. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bench.config import registry
from bench.config.fields import build, describe
from bench.config.run_settings import class_settings
from bench.core.blame import blamed
from bench.core.errors import UserError

WORDS = {
    "task_count": "knows the number of tasks",
    "task_at_test": "knows the task of a test image",
    "test_batch": "answers depend on the test batch",
    "outside_data": "outside data",
    "in_advance": "sees all tasks in advance",
    "grows": "grows with the tasks",
    "extended": "extends the model",
    "rehearsal": "stored samples",
}
"""Flag -> what it means, as tables say it."""

YES = "yes"
"""What is recorded for a flag that holds and says nothing more."""


@dataclass(frozen=True)
class Flags:
    """What decides beside accuracy whether two methods may fairly be compared; by default nothing special.

    Attributes
    ----------
    task_count : bool
        It has to know beforehand how many tasks there will be.
    task_at_test : bool
        It has to know which task a test image is from, as to choose a head.
    test_batch : bool
        Its answer for an image depends on the other images of the batch.
    outside_data : str
        What it learns from that is not of the stream; empty for nothing. ``"reference"`` is the run's reference set,
        without which the method is refused.
    in_advance : bool
        It learns from the images of a task before it is that task's turn.
    grows : str
        What it keeps more of with every task, such as ``"a head a task"``; empty where memory stays as it is.
    extended : bool
        The model for tests is more than the pre-trained architecture: modules, prompts or heads stay beside it.
    rehearsal : bool
        It stores training samples of earlier tasks.
    """

    task_count: bool = False
    task_at_test: bool = False
    test_batch: bool = False
    outside_data: str = ""
    in_advance: bool = False
    grows: str = ""
    extended: bool = False
    rehearsal: bool = False

    def held(self) -> dict[str, str]:
        """Return the flags that hold, as records hold them.

        Returns
        -------
        dict of str to str
            What each flag says, or ``yes``, in the order of the fields.
        """
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: YES if value is True else str(value) for name, value in values.items() if value}

    def lines(self) -> list[str]:
        """Return the flags that hold in words.

        Returns
        -------
        list of str
        """
        return sentences(self.held())


def sentences(held: Mapping[str, str]) -> list[str]:
    """Return what `Flags.held` says in words, a text for each flag that holds."""
    return [WORDS.get(name, name) + ("" if said == YES else f" ({said})") for name, said in held.items()]


def in_words(held: Mapping[str, str] | None) -> str:
    """Return what `Flags.held` says in one line; None stands for flags that are not known."""
    return "not known" if held is None else ", ".join(sentences(held)) or "nothing special"


def flags_of(cls: Any, settings: Any) -> Flags:
    """Return the flags of a method with some settings.

    Parameters
    ----------
    cls : type
        A subclass of `Method`.
    settings : dataclass
        Its settings.

    Returns
    -------
    Flags

    Raises
    ------
    UserError
        If its ``flags_for`` fails or gives something else.
    """
    who = f'method "{getattr(cls, "registry_name", cls.__name__)}"'
    try:
        flags = cls.flags_for(settings)
    except Exception as error:  # a plug-in's own code
        raise UserError(f"{who}: its flags_for() fails: {blamed(error)}") from error
    if not isinstance(flags, Flags):
        raise UserError(f"{who}: flags and flags_for() must give bench.api.Flags, not {type(flags).__name__}")
    return flags


def registered(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the flags of a run that recorded none: those of the registered method with the run's settings.

    Parameters
    ----------
    settings : mapping of str to object
        Of the record, by dotted key.

    Returns
    -------
    dict of str to str or None
        As `Flags.held`; None where the method is not registered here or does not know the settings.
    """
    try:
        if "method.file" in settings:  # no file of somebody's is run in order to read a record
            return None
        cls: Any = registry.load("method", str(settings["method.name"]))
        group = class_settings(cls)
        values = {key: one.default for key, one in describe(group, "method.").items()}
        return flags_of(cls, build(group, {**values, **settings}, "method.")).held()
    except (UserError, KeyError):
        return None

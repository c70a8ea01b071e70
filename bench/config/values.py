"""The values of a run's settings, in layers; later layers win.

The layers are the defaults of the dataclasses, the method's own defaults, the stream's shared training budget, what the
stream carries as tuned for that method, a file of chosen settings, and the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.config import written
from bench.config.chosen import Chosen, chosen_for, tuned_by
from bench.config.fields import Setting, show
from bench.config.run_settings import CHOICES
from bench.core.errors import UserError, nearest, shorten, suggest
from bench.core.paths import user_path

SOURCES = ("default", "method", "stream", "tuned", "settings", "user")
"""Where a value may come from; later ones win."""

GIVEN = ("settings", "user")
"""Sources of what a user gave: in a file of chosen settings (``settings=FILE``), or as words."""


@dataclass
class Choice:
    """What ``method=``, ``stream=`` or ``model=`` chose.

    Attributes
    ----------
    name : str
        The registered name, or a model of open_clip's.
    cls : type or None
        The class; None for a model of open_clip's, or if nothing could be chosen.
    settings : type or None
        The dataclass of its settings; None if nothing could be chosen.
    known : dict of str to Setting
        Its settings by dotted key.
    file : dict of str to str
        For a plug-in given as a file: what ``Resolved.flat`` has of the file.
    """

    name: str = ""
    cls: type | None = None
    settings: type | None = None
    known: dict[str, Setting] = field(default_factory=dict)
    file: dict[str, str] = field(default_factory=dict)


def layers(
    choices: dict[str, Choice], file: str | None, problems: list[str]
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the layers of defaults in order; later ones win.

    Parameters
    ----------
    choices : dict of str to Choice
        What ``method=`` and ``stream=`` chose.
    file : str or None
        What ``settings=`` names.
    problems : list of str
        A sentence is added for a layer that is no mapping, and for a file that cannot be used.

    Yields
    ------
    blame : str
        How a sentence about one of its values begins.
    source : str
        ``method``, ``stream``, ``tuned`` or ``settings``.
    layer : mapping of str to object
        Values by dotted key.
    """
    method, stream = choices["method"], choices["stream"]
    tuned: Any = {}
    given: dict[str, Any] = {}
    try:
        tuned = tuned_by(stream.cls)
        tuned = tuned.get(method.name, {}) if isinstance(tuned, Mapping) else tuned
        tuned = tuned.settings if isinstance(tuned, Chosen) else tuned
        if file is not None and method.cls is not None:
            given = chosen_for(user_path(file, "settings"), method.name)
        elif file is not None and not problems:
            problems.append(f"settings={shorten(file)} holds settings of methods: add method=NAME, or leave it out")
    except UserError as error:
        problems.append(str(error))
    candidates = (
        (f'the defaults of method "{method.name}": ', "method", getattr(method.cls, "defaults", {})),
        (f'the defaults of stream "{stream.name}": ', "stream", getattr(stream.cls, "defaults", {})),
        (f'what stream "{stream.name}" tuned for "{method.name}": ', "tuned", tuned),
        (f"settings={shorten(file or '')}: ", "settings", given),
    )
    for blame, source, layer in candidates:
        if isinstance(layer, Mapping):
            yield blame, source, layer
        else:
            problems.append(f"{blame}it must map dotted keys to values")


class Values:
    """The value and the source of every key, filled layer by layer.

    Parameters
    ----------
    known : dict of str to Setting
        The settings that every run has, by dotted key.
    choices : dict of str to Choice
        What ``method=``, ``stream=`` and ``model=`` chose, with their settings.
    problems : list of str
        A sentence is added for everything that is wrong.

    Attributes
    ----------
    flat : dict of str to object
        The value of every key.
    sources : dict of str to str
        Where it comes from: ``default``, or as given to `put`.
    wrong : set of str
        Groups that were given a wrong value.
    """

    def __init__(self, known: dict[str, Setting], choices: dict[str, Choice], problems: list[str]):
        self.problems = problems
        self.choices = choices
        self.settable = {key: one for key, one in known.items() if key not in {f"{kind}.name" for kind in CHOICES}}
        for choice in choices.values():
            self.settable.update(choice.known)
        self.flat: dict[str, Any] = {f"{kind}.name": choice.name for kind, choice in choices.items()}
        self.flat.update({key: one.default for key, one in self.settable.items()})
        self.sources = dict.fromkeys(self.flat, "default")
        self.wrong: set[str] = set()

    def put(self, key: str, value: Any, raw: str | None, source: str, blame: str = "") -> None:
        """Set one value, or the members of a group given as a mapping or, for a plug-in's group, as one scalar.

        Parameters
        ----------
        key : str
            Dotted.
        value : object
            A plain value.
        raw : str or None
            What a user wrote; None for a value that was not written as text.
        source : str
            Where the value comes from.
        blame : str, optional
            How a sentence about it begins.
        """
        group, _, inside = key.partition(".")
        one = self.settable.get(key)
        members = [name for name in self.settable if name.startswith(f"{key}.")]
        inner: Mapping[str, tuple[Any, str | None]] | None = None
        if members and isinstance(value, dict):
            inner = {name: (one, None) for name, one in value.items()} if raw is None else _members(raw)
        if inner is not None:
            for name, (item, text) in inner.items():
                self.put(f"{key}.{name}", item, text, source, blame)
        elif one is not None or (members and inside and group in self.choices):
            try:
                for name in members or [key]:
                    self.flat[name] = self.settable[name].convert(value, raw)
                    self.sources[name] = source
            except ValueError as error:
                self.problems.append(f"{blame}{key}={shorten(show(value) if raw is None else raw)} {error}")
                self.wrong.add(group)
        elif group not in self.choices or self.choices[group].settings is not None:
            self.problems.append(blame + self._unknown(key))  # otherwise it is unknown what the group may have

    def one_budget(self) -> None:
        """Drop train.steps where train.epochs comes from a stronger source; otherwise steps decide if they are set."""
        epochs, steps = (SOURCES.index(self.sources[key]) for key in ("train.epochs", "train.steps"))
        if epochs > steps:
            self.flat["train.steps"] = None

    def _unknown(self, key: str) -> str:
        members = [name for name in self.settable if name.startswith(f"{key}.")]
        if members:
            return f'"{key}" is a group of settings: set {members[0]} or another of it'
        head, _, rest = key.rpartition(".")
        last = {name.rpartition(".")[2]: name for name in reversed(self.settable)}
        owned = {name.removeprefix(f"{head}."): name for name in self.settable if head and name.startswith(f"{head}.")}
        if rest in last:  # the right word in the wrong group, or in none
            near = last[rest]
        elif owned:  # among its own, where the group's name does not make everything look alike
            near = owned.get(nearest(rest, owned) or "", "")
        else:
            names = [name for name in (*self.settable, *CHOICES, "settings") if name != key]
            near = "" if head in self.choices else nearest(key, names) or ""
            near = near or last.get(nearest(rest, last) or "", "")
        if near:
            return f'unknown setting "{shorten(key)}" (did you mean "{near}"?)'
        known = owned or head in self.choices
        hint = suggest("", owned.values()) if known else ' (see "python -m bench run --help")'
        return f'unknown setting "{shorten(key)}"{hint}'


def _members(raw: str) -> dict[str, tuple[Any, str | None]] | None:
    """Return what a mapping says of the members of a group, as `read` does; None if it is no such mapping."""
    members = written.members(raw)
    return None if members is None else {name: (written.guess(text), text) for name, text in members.items()}

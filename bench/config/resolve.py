"""What a run is: its settings, where each value comes from, and the fingerprint that names its folder.

``key=value`` words become typed settings in layers, later ones winning: the defaults of the dataclasses, the method's
own defaults, the stream's shared training budget, what is tuned for that method on that stream's validation split, and
the user. Everything that is wrong is reported at once.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import catalogue, registry, written
from bench.config.fields import Setting, build, complaints, describe, show
from bench.config.run_settings import (
    CHOICES,
    PATHS,
    OpenClip,
    Resolved,
    Run,
    Seeds,
    Surroundings,
    class_settings,
    label_space_of,
    run_settings,
)
from bench.config.words import pair
from bench.core.errors import UserError, nearest, shorten, suggest
from bench.core.paths import is_file, user_path

RESERVED = {"name", "file", "file_sha256"}
"""What a plug-in cannot call a setting of its own."""


@dataclass
class _Choice:
    """What ``method=``, ``stream=`` or ``model=`` chose; ``settings`` is None when nothing could be chosen."""

    name: str = ""
    cls: type | None = None
    settings: type | None = None
    known: dict[str, Setting] = field(default_factory=dict)
    file: dict[str, str] = field(default_factory=dict)


def resolve(pairs: Sequence[str] | Mapping[str, Any], *, need_method: bool = True) -> Resolved:
    """Return the run that ``key=value`` words mean.

    Parameters
    ----------
    pairs : sequence of str, or mapping of str to object
        Words such as ``method=keeplora``, ``--method.rank=8`` or ``method.maps=[q,v]``, in any order; of a key given
        twice the last counts. `bench.config.written` says how values are written. A scalar for a group inside
        ``method.``, ``stream.`` or ``model.`` sets all its members.
    need_method : bool, optional
        Whether a run without a method is an error.

    Raises
    ------
    UserError
        With one sentence for every problem found, joined by newlines.
    """
    problems: list[str] = []
    given = _given(pairs) if isinstance(pairs, Mapping) else read(pairs, problems)
    known = run_settings()
    names = {f"{kind}.name" for kind in CHOICES}
    choices = {kind: _choose(kind, given, known[f"{kind}.name"], need_method, problems) for kind in CHOICES}
    values = _Values(known, choices, problems)
    for blame, source, layer in _layers(choices, problems):
        for key, value in layer.items():
            values.put(str(key), value, None, source, blame)
    for key, (value, raw) in given.items():
        if key not in names:
            values.put(key, value, raw, "user")

    flat = values.flat
    run = build(Run, {**flat, **{kind: flat[f"{kind}.name"] for kind in CHOICES}})
    seeds = {key: run.seed if value is None else value for key, value in vars(run.seeds).items()}
    run = dataclasses.replace(run, seeds=Seeds(**seeds))
    groups: dict[str, Any] = dict.fromkeys(CHOICES)
    for kind, choice in choices.items():
        if choice.settings is not None:
            groups[kind] = build(choice.settings, flat, f"{kind}.")
            if kind not in values.wrong:
                problems += [f'{kind} "{choice.name}": {text}' for text in complaints(groups[kind])]
    problems += _wrong_paths(flat)
    if not problems:
        problems += [*_without_weights(choices["model"], groups["model"]), *_misfits(choices, groups)]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))

    for choice in choices.values():
        flat.update(choice.file)
        values.sources.update(dict.fromkeys(choice.file, "user"))
    values.sources.update(dict.fromkeys(names & set(given), "user"))
    if run.batches.replay is not None:  # as for a file with a plug-in, its content decides
        digest = _digest(user_path(run.batches.replay, "batches.replay"))
        flat["batches.replay_sha256"], values.sources["batches.replay_sha256"] = digest, "user"
    stream_class = choices["stream"].cls
    assert stream_class is not None
    return Resolved(
        run=run,
        method_settings=groups["method"],
        stream_settings=groups["stream"],
        model_settings=groups["model"],
        method_class=choices["method"].cls,
        stream_class=stream_class,
        model_class=choices["model"].cls,
        sources=values.sources,
        flat=flat,
    )


def resolve_method(words: Sequence[str]) -> tuple[type, Any]:
    """Return a method's class and its settings, from words for the method alone.

    Parameters
    ----------
    words : sequence of str
        Such as ``method=lora`` and ``method.rank=4``.

    Returns
    -------
    cls : type
    settings : dataclass
        An instance of its ``Settings``.

    Raises
    ------
    UserError
        With one sentence for every problem found, joined by newlines.
    """
    problems: list[str] = []
    known, given = run_settings()["method.name"], read(words, problems)
    choice = _choose("method", given, known, True, problems)
    values = _Values({}, {"method": choice}, problems)
    for key, (value, raw) in given.items():
        if key != known.key:
            values.put(key, value, raw, "user")
    settings = None if choice.settings is None else build(choice.settings, values.flat, "method.")
    if settings is not None and not values.wrong:
        problems += [f'method "{choice.name}": {text}' for text in complaints(settings)]
    if problems or choice.cls is None:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return choice.cls, settings


def _given(values: Mapping[str, Any]) -> dict[str, tuple[Any, str | None]]:
    """Return dotted key -> (value, None) of values given from Python, which are not parsed."""
    given: dict[str, tuple[Any, str | None]] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            given.update({f"{key}.{name}": item for name, item in _given(value).items()})
        else:
            given[f"{key}.name" if key in CHOICES else str(key)] = (value, None)
    return given


def _wrong_paths(flat: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the settings that are paths, a sentence each; they need not exist here."""
    wrong = []
    for key in PATHS:
        try:
            user_path(flat.get(key) or "", key)
        except UserError as error:
            wrong.append(str(error))
    return wrong


def _without_weights(model: _Choice, settings: Any) -> list[str]:
    """Return what is wrong with the weights of an open_clip model, a sentence each."""
    wrong = catalogue.weights_problem(model.name, settings.checkpoint, settings.weights) if model.cls is None else None
    return [wrong] if wrong else []


def _misfits(choices: dict[str, _Choice], groups: dict[str, Any]) -> list[str]:
    """Return what of method, settings, stream and model does not go together, a sentence each."""
    method, stream, model = (choices[kind] for kind in CHOICES)
    if method.cls is None or stream.cls is None:
        return []
    space = label_space_of(stream.cls, groups["stream"])
    if space and space not in getattr(method.cls, "label_spaces", (space,)):
        return [
            f'method "{method.name}" does not support the label space {space!r} of stream "{stream.name}": choose '
            "another stream"
        ]
    if not hasattr(groups["method"], "fits"):
        return []
    if model.cls is None:
        widths = catalogue.widths(model.name)
    else:
        widths = getattr(model.cls, "widths", lambda settings: {})(groups["model"])
    return [f'method "{method.name}": {text}' for text in groups["method"].fits(Surroundings(space, widths))]


def read(pairs: Sequence[str], problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Return dotted key -> (what YAML takes the text for, text); ``method=NAME`` becomes ``method.name``.

    A key stands where it was given last, since a later word for a group overrides earlier ones for its members.
    """
    given: dict[str, tuple[Any, str]] = {}
    for word in pairs:
        split_word = pair(word)
        if split_word is None or not split_word.key:
            problems.append(f'"{shorten(word)}" is not a setting: write KEY=VALUE, as in seed=1')
            continue
        key, raw, _ = split_word
        raw = raw.strip(written.BLANKS)
        found = {key: raw}
        if key in CHOICES:  # W&B hands over a nested group of parameters as one mapping
            members = written.members(raw) if raw.startswith("{") else None
            found = {f"{key}.{name}": text for name, text in (members or {"name": raw}).items()}
        for name, text in found.items():
            given.pop(name, None)
            given[name] = (copy.deepcopy(written.guess(text)), text)
    return given


def _members(raw: str) -> dict[str, tuple[Any, str | None]] | None:
    """Return what a mapping says of the members of a group, as `read` does; None if it is no such mapping."""
    members = written.members(raw)
    return None if members is None else {name: (written.guess(text), text) for name, text in members.items()}


def _choose(
    kind: str, given: Mapping[str, tuple[Any, str | None]], known: Setting, need_method: bool, problems: list[str]
) -> _Choice:
    """Load what a group names, and read its settings; what goes wrong is added to the problems."""
    if kind == "method" and known.key not in given:
        if need_method:
            names = ", ".join(registry.entries(kind))
            problems.append(f"no method is chosen: add method=NAME, NAME being one of {names}, or a file.py")
        return _Choice()
    value, raw = given.get(known.key, (known.default, known.default))
    try:
        name = known.convert(value, raw)
    except ValueError as error:
        problems.append(f"{kind}={shorten(show(value) if raw is None else raw)} {error}")
        return _Choice()
    try:
        if kind == "model" and not name.endswith(".py") and name not in (models := registry.entries(kind)):
            own_weights = not {"model.checkpoint", "model.weights"}.isdisjoint(given)
            wrong = catalogue.problem(name, tuple(models), own_weights)
            if wrong:
                raise UserError(wrong)
            return _Choice(name, None, OpenClip, describe(OpenClip, "model."))
        entry = registry.find(kind, name)
        cls = registry.load_entry(entry)
        settings = describe(class_settings(cls), f"{kind}.")
        taken = sorted(RESERVED & {key.split(".")[1] for key in settings})
        if taken:
            raise UserError(f'{kind} "{entry.name}" has a setting called "{taken[0]}", which is taken: rename it')
    except UserError as error:
        problems.append(str(error))
        return _Choice(name)
    file = {}
    if not entry.module and entry.path is not None:  # its content decides the numbers, so an edited file is another run
        file = {f"{kind}.file": name, f"{kind}.file_sha256": _digest(entry.path)}
    return _Choice(entry.name, cls, class_settings(cls), settings, file)


def _digest(path: Path) -> str:
    """Hash of a file's content; of nothing where it cannot be read, which whoever reads it tells."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if is_file(path) else ""
    except OSError:
        return ""


def _layers(choices: dict[str, _Choice], problems: list[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield whom to blame for a layer of defaults, the source to record and its values, in order."""
    method, stream = choices["method"], choices["stream"]
    tuned = getattr(stream.cls, "tuned", {})
    tuned = tuned.get(method.name, {}) if isinstance(tuned, Mapping) else tuned
    found = (
        (f'the defaults of method "{method.name}": ', "method", getattr(method.cls, "defaults", {})),
        (f'the defaults of stream "{stream.name}": ', "stream", getattr(stream.cls, "defaults", {})),
        (f'what stream "{stream.name}" tuned for "{method.name}": ', "tuned", tuned),
    )
    for blame, source, layer in found:
        if isinstance(layer, Mapping):
            yield blame, source, layer
        else:
            problems.append(f"{blame}it must map dotted keys to values")


class _Values:
    """The value and the source of every key, filled layer by layer."""

    def __init__(self, known: dict[str, Setting], choices: dict[str, _Choice], problems: list[str]):
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
        """Set one value, or the members of a group given as a mapping or, for a plug-in's group, as one scalar."""
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
            self.problems.append(blame + self._unknown(key))  # else nobody knows what the group may hold

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
            near = "" if head in self.choices else nearest(key, [*self.settable, *CHOICES]) or ""
            near = near or last.get(nearest(rest, last) or "", "")
        if near:
            return f'unknown setting "{key}" (did you mean "{near}"?)'
        known = owned or head in self.choices
        hint = suggest("", owned.values()) if known else ' (see "python -m bench run --help")'
        return f'unknown setting "{key}"{hint}'

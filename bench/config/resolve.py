"""From ``key=value`` words to a run with all its values decided; everything that is wrong is reported at once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.config import catalogue, registry, written
from bench.config.fields import Setting, build, complaints, describe, show
from bench.config.run_settings import (
    CHOICES,
    KINDS,
    LEARNING,
    NAMED,
    PATHS,
    REFERENCE,
    TO_FORGET,
    OpenClip,
    Resolved,
    Run,
    Seeds,
    Surroundings,
    Train,
    class_settings,
    label_space_of,
    run_settings,
)
from bench.config.values import Choice, Values, layers
from bench.config.words import pair
from bench.core.blame import blamed, sentences_of
from bench.core.errors import UserError, shorten, together
from bench.core.files import content_sha256
from bench.core.paths import user_path

RESERVED = {"name", "file", "file_sha256"}
"""Names that a plug-in cannot give to a setting of its own."""


def resolve(
    pairs: Sequence[str] | Mapping[str, Any], *, need_method: bool = True, base: Mapping[str, Any] | None = None
) -> Resolved:
    """Return the run that ``key=value`` words mean.

    Parameters
    ----------
    pairs : sequence of str, or mapping of str to object
        Words such as ``method=keeplora``, ``--method.rank=8`` or ``method.maps=[q,v]``, in any order; of a key given
        twice the last counts. `bench.config.written` says how values are written. A scalar for a group inside
        ``method.``, ``stream.`` or ``model.`` sets all its members. ``settings=FILE`` stands for what a file
        has for the method (see `bench.config.chosen`); every other word wins over it.
    need_method : bool, optional
        Whether a run without a method is an error.
    base : mapping of str to object, optional
        Values by dotted key that `pairs` override, such as those of a record.

    Returns
    -------
    Resolved

    Raises
    ------
    UserError
        With one sentence for every problem, joined by newlines.
    """
    problems: list[str] = []
    given = {**_given(base or {}), **given_values(pairs, problems)}
    file = _settings_file(given, problems)
    known = run_settings()
    names = {f"{kind}.name" for kind in CHOICES}
    choices: dict[str, Choice] = {}
    for kind in CHOICES:  # the method first: it decides the stream where none is given
        choices[kind] = _choose(kind, given, _known(kind, known, choices), need_method, problems)
    values = Values(known, choices, problems)
    for blame, source, layer in layers(choices, file, problems):
        for key, value in layer.items():
            values.put(str(key), value, None, source, blame)
    for key, (value, raw) in given.items():
        if key not in names:
            values.put(key, value, raw, "user")

    values.one_budget()
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
    own = getattr(choices["stream"].cls, "reference", None)
    none_given = values.sources["reference.name"] == "default"
    if own and none_given and _learns_from_reference(choices["method"], groups["method"]):
        values.put("reference.name", own, None, "stream")
        run = dataclasses.replace(run, reference=dataclasses.replace(run.reference, name=own))
    known_paths = {key: one.path for key, one in values.settable.items() if one.path and flat[key]}
    paths = {key: flat[key] for key in known_paths}
    problems += [*complaints(run), *_wrong_paths({key: flat.get(key) or "" for key in PATHS} | paths)]
    if not problems:
        problems += [*_without_weights(choices["model"], groups["model"]), *_misfits(choices, groups, run.train)]
    if not (problems or base):  # what a finished run learned or forgot may be measured on any stream
        problems += _other_kind(choices, run)
    if problems:
        raise together(problems)

    for choice in choices.values():
        flat.update(choice.file)
        values.sources.update(dict.fromkeys(choice.file, "user"))
    values.sources.update(dict.fromkeys(names & set(given), "user"))
    if run.batches.replay is not None:  # as for a file with a plug-in, its content decides
        paths["batches.replay"] = run.batches.replay
    for key, path in paths.items():
        inside = known_paths.get(key)
        place = user_path(path, key)
        digest = content_sha256(place / inside if isinstance(inside, str) else place)
        flat[f"{key}_sha256"], values.sources[f"{key}_sha256"] = digest, values.sources[key]
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
        With one sentence for every problem, joined by newlines.
    """
    problems: list[str] = []
    known, given = run_settings()["method.name"], read(words, problems)
    choice = _choose("method", given, known, True, problems)
    values = Values({}, {"method": choice}, problems)
    for key, (value, raw) in given.items():
        if key != known.key:
            values.put(key, value, raw, "user")
    settings = None if choice.settings is None else build(choice.settings, values.flat, "method.")
    if settings is not None and not values.wrong:
        problems += [f'method "{choice.name}": {text}' for text in complaints(settings)]
    if problems or choice.cls is None:
        raise together(problems)
    return choice.cls, settings


def given_values(pairs: Sequence[str] | Mapping[str, Any], problems: list[str]) -> Mapping[str, tuple[Any, str | None]]:
    """Return dotted key -> (value, text) of what a user gave; the text is None for a value from Python.

    Parameters
    ----------
    pairs : sequence of str, or mapping of str to object
        As for `resolve`.
    problems : list of str
        As for `read`.
    """
    return _given(pairs) if isinstance(pairs, Mapping) else read(pairs, problems)


def _given(values: Mapping[str, Any]) -> dict[str, tuple[Any, str | None]]:
    """Return dotted key -> (value, None) of values given from Python, which are not parsed."""
    given: dict[str, tuple[Any, str | None]] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            given.update({f"{key}.{name}": item for name, item in _given(value).items()})
        else:
            given[f"{key}.name" if key in NAMED else str(key)] = (value, None)
    return given


def _settings_file(given: dict[str, tuple[Any, str | None]], problems: list[str]) -> str | None:
    """Take the file of chosen settings out of what a user gave; None where there is none."""
    value, raw = given.pop("settings", (None, None))
    text = value if raw is None else written.unquoted(raw)
    if text is None or (text and isinstance(text, str | Path)):
        return None if text is None else str(text)
    problems.append(f"settings={shorten(show(value))} names no file: write one that python -m bench tune made")
    return None


def _wrong_paths(paths: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the settings that are paths, a sentence each; they need not exist here."""
    wrong = []
    for key, path in paths.items():
        try:
            user_path(path, key)
        except UserError as error:
            wrong.append(str(error))
    return wrong


def _known(kind: str, known: Mapping[str, Setting], choices: Mapping[str, Choice]) -> Setting:
    """Return the setting that names an entry; the stream's default is one that the method can do something with."""
    one = known[f"{kind}.name"]
    if kind == "stream" and LEARNING not in getattr(choices["method"].cls, "kinds", (LEARNING,)):
        return dataclasses.replace(one, default=TO_FORGET)
    return one


def _learns_from_reference(method: Choice, settings: Any) -> bool:
    """Return whether a method with some settings learns from a reference set, as far as it can say."""
    try:
        return bool(method.cls is not None and method.cls.flags_for(settings).outside_data == REFERENCE)  # type: ignore[attr-defined]
    except Exception:  # a plug-in's own code, or no method: `bench.record.flags` names what is wrong before a run
        return False


def _without_weights(model: Choice, settings: Any) -> list[str]:
    """Return what is wrong with the weights of an open_clip model, a sentence each."""
    wrong = catalogue.weights_problem(model.name, settings.checkpoint, settings.weights) if model.cls is None else None
    return [wrong] if wrong else []


def _other_kind(choices: dict[str, Choice], run: Run) -> list[str]:
    """Return why a method, or a run to begin with, is nothing for tasks to learn, or for requests to forget."""
    method, stream = choices["method"], choices["stream"]
    kind = getattr(stream.cls, "kind", LEARNING)
    if run.start is not None and kind == LEARNING:
        return [
            f'start={shorten(run.start)} is for streams that ask to forget, and stream "{stream.name}" asks to learn: '
            "leave start out"
        ]
    if method.cls is None or kind in getattr(method.cls, "kinds", (kind,)):
        return []
    does, asks = ("forgets classes", "learn") if kind == LEARNING else ("learns tasks", "forget")
    return [
        f'method "{method.name}" {does} and stream "{stream.name}" asks to {asks}: choose another of either; '
        '"list methods" and "list streams" say which'
    ]


def _misfits(choices: dict[str, Choice], groups: dict[str, Any], train: Train) -> list[str]:
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
        try:
            widths = getattr(model.cls, "widths", lambda settings: {})(groups["model"])
        except Exception as error:
            return [f'model "{model.name}": its widths() fails: {blamed(error)}']
    sentences = sentences_of("fits()", lambda: groups["method"].fits(Surroundings(space, widths, train)))
    return [f'method "{method.name}": {text}' for text in sentences]


def read(pairs: Sequence[str], problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Return the values and the texts of words by dotted key; ``method=NAME`` becomes ``method.name``.

    Parameters
    ----------
    pairs : sequence of str
        Words as for `resolve`.
    problems : list of str
        A sentence is added for every word that is not of the form ``KEY=VALUE``.

    Returns
    -------
    dict of str to tuple
        What YAML takes the text for, and the text. A key comes where it was given last, since a later word for a group
        overrides earlier ones for its members.
    """
    given: dict[str, tuple[Any, str]] = {}
    for word in pairs:
        split_word = pair(word)
        if split_word is None or not split_word.key:
            problems.append(f'"{shorten(word)}" is not a setting: write KEY=VALUE, as in seed=1')
            continue
        key, raw, _ = split_word
        raw = raw.strip(written.BLANKS)
        texts = {key: raw}
        if key in NAMED:  # W&B hands over a nested group of parameters as one mapping
            members = written.members(raw) if raw.startswith("{") else None
            texts = {f"{key}.{name}": text for name, text in (members or {"name": raw}).items()}
        for name, text in texts.items():
            given.pop(name, None)
            given[name] = (copy.deepcopy(written.guess(text)), text)
    return given


def _choose(
    kind: str, given: Mapping[str, tuple[Any, str | None]], known: Setting, need_method: bool, problems: list[str]
) -> Choice:
    """Load what a group names and read its settings; add what goes wrong to the problems."""
    if kind == "method" and known.key not in given:
        if need_method:
            names = ", ".join(registry.entries(kind))
            problems.append(f"no method is chosen: add method=NAME, NAME being one of {names}, or a file.py")
        return Choice()
    value, raw = given.get(known.key, (known.default, known.default))
    try:
        name = known.convert(value, raw)
    except ValueError as error:
        problems.append(f"{kind}={shorten(show(value) if raw is None else raw)} {error}")
        return Choice()
    try:
        if kind == "model" and not name.endswith(".py") and name not in (models := registry.entries(kind)):
            own_weights = not {"model.checkpoint", "model.weights"}.isdisjoint(given)
            wrong = catalogue.problem(name, tuple(models), own_weights)
            if wrong:
                raise UserError(wrong)
            return Choice(name, None, OpenClip, describe(OpenClip, "model."))
        entry = registry.find(kind, name)
        cls = registry.load_entry(entry)
        settings = describe(class_settings(cls), f"{kind}.")
        taken = sorted(RESERVED & {key.split(".")[1] for key in settings})
        kinds = getattr(cls, "kinds", (LEARNING,))
        if kind == "method" and not (isinstance(kinds, tuple) and kinds and all(one in KINDS for one in kinds)):
            raise UserError(f'method "{entry.name}" has other kinds than {KINDS}: give it a tuple of one or both')
        if taken:
            raise UserError(f'{kind} "{entry.name}" has a setting called "{taken[0]}", which is taken: rename it')
    except UserError as error:
        problems.append(str(error))
        return Choice(name)
    file = {}
    if not entry.module and entry.path is not None:  # its content decides the numbers, so an edited file is another run
        file = {f"{kind}.file": name, f"{kind}.file_sha256": content_sha256(entry.path)}
    return Choice(entry.name, cls, class_settings(cls), settings, file)

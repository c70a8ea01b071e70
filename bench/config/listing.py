"""Text about what is registered: tables of names, and everything about one entry. The verb ``list`` prints it.

Settings are imported inside the functions that show them, since a table of names must not wait for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.config import catalogue, registry
from bench.config.scan import KINDS as ENTRY_KINDS
from bench.config.scan import Entry
from bench.core.blame import blamed
from bench.core.errors import UserError, suggest
from bench.core.tables import table, wrap

if TYPE_CHECKING:
    from bench.config.chosen import Chosen
    from bench.config.fields import Setting

KINDS = {f"{kind}{ending}": kind for ending in ("s", "") for kind in ENTRY_KINDS}
"""What a user may write for a kind: ``methods`` or ``method``."""

FACT_TITLES = {
    "stream": {"kind": "kind", "label_space": "classes", "prompt_family": "prompts", "budget": "training budget"},
    "method": {"kinds": "kind"},
    "dataset": {"kind": "kind"},
}
"""Headers of the facts that the registry holds about a stream, a method or a dataset."""

USUAL = {"kind": "learning", "kinds": "learning"}
"""What a class means that says nothing of a fact."""


def listing(kinds: Iterable[str] = ENTRY_KINDS) -> str:
    """Return a table for each kind, from the registry alone: no plug-in is imported.

    Parameters
    ----------
    kinds : iterable of {"method", "stream", "dataset", "model"}, optional

    Returns
    -------
    str
    """
    everything = registry.all_entries()
    parts = []
    for kind in kinds:
        named = everything[kind]
        facts = FACT_TITLES.get(kind, {})
        rows = [
            (entry.name, _title(entry), *map(_fact_of(entry), facts), entry.paper, _origin(entry))
            for entry in named.values()
        ]
        headers = ("name", "title", *facts.values(), "paper", "from")
        body = table(headers, rows) if rows else "  none"
        parts.append(f"{kind}s\n{body}")
        if kind == "model":
            parts.append(_open_clip())
    return "\n\n".join(parts)


def details(name: str, kind: str | None = None) -> str:
    """Return everything about one entry; its plug-in is imported.

    Parameters
    ----------
    name : str
        A registered name, the path of a plug-in file, or an open_clip model.
    kind : str, optional
        Without it every kind is searched.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If there is no such entry, or it cannot be imported.
    """
    if kind is None:
        return _anywhere(name)
    if kind == "model" and not name.endswith(".py") and name not in registry.entries("model"):
        return _open_clip_details(name)
    entry = registry.find(kind, name)
    return _class_details(entry, registry.load_entry(entry))


def settings_table(settings: Iterable[Setting], prefix: str = "") -> str:
    """Return a table of settings.

    Parameters
    ----------
    settings : iterable of Setting
    prefix : str, optional
        What to leave out at the start of keys.

    Returns
    -------
    str
    """
    from bench.config.fields import show

    rows = [
        (one.key.removeprefix(prefix), one.type_name, show(one.default), one.range, one.symbol, one.help)
        for one in settings
    ]
    return table(("key", "type", "default", "allowed", "symbol", "meaning"), rows)


def _fact_of(entry: Entry) -> Callable[[str], str]:
    return lambda fact: entry.facts.get(fact, USUAL.get(fact, ""))


def _title(entry: Entry) -> str:
    return f"BROKEN: {entry.broken}" if entry.broken else entry.title


def _origin(entry: Entry) -> str:
    return f"{entry.origin} (hides one of {', '.join(entry.hides)})" if entry.hides else entry.origin


def _open_clip() -> str:
    known = catalogue.architectures()
    usable = catalogue.supported()
    if not known:
        return "models of open_clip\n  none: open_clip is not installed"
    rows = [(one.name, "?" if one.tags is None else ", ".join(one.tags) or "-") for one in usable.values()]
    usage = wrap("model=ARCHITECTURE/WEIGHTS, or model=ARCHITECTURE with model.checkpoint=FILE")
    left = wrap(
        f"{len(known) - len(usable)} more are not supported: "
        "a tower is a ResNet, or comes from timm or Hugging Face, or there is a third one for captions, "
        "or the tokenizer needs the package transformers, which is not installed"
    )
    return f"models of open_clip\n{usage}\n{table(('architecture', 'weights'), rows)}\n{left}"


def _anywhere(name: str) -> str:
    everything = registry.all_entries()
    found = [kind for kind in ENTRY_KINDS if name in everything[kind]]
    if name.endswith(".py"):
        raise UserError(f'say which kind "{name}" is, as in "list methods {name}"')
    if not found and catalogue.split(name)[0] in catalogue.architectures():
        found = ["model"]
    if not found:
        names = [*KINDS, *(other for named in everything.values() for other in named)]
        raise UserError(f'there is nothing called "{name}" to list{suggest(name, names)}')
    return "\n\n".join(details(name, kind) for kind in found)


def _open_clip_details(name: str) -> str:
    from bench.config.fields import describe
    from bench.config.run_settings import OpenClip

    problem = catalogue.problem(name, tuple(registry.entries("model")))
    if problem:
        raise UserError(problem)
    arch = catalogue.architectures()[catalogue.split(name)[0]]
    if arch.tags is None:
        weights = "  not known for this release of open_clip; model.checkpoint=FILE works"
    else:
        weights = "\n".join(f"  model={arch.name}/{tag}" for tag in arch.tags) or "  none; model.checkpoint=FILE works"
    rows = settings_table(describe(OpenClip, "model.").values(), "model.")
    return f"model {arch.name}, of open_clip\n\nweights\n{weights}\n\nsettings (model.KEY=VALUE)\n{rows}"


def _class_details(entry: Entry, cls: Any) -> str:
    from bench.config.fields import describe
    from bench.config.run_settings import class_settings

    parts = [f"{entry.kind} {entry.name}: {cls.title}"]
    if cls.paper:
        parts[0] += f"\n  paper: {cls.paper}"
    file = f", {entry.path.parent.name}/{entry.path.name}" if entry.path and entry.origin == "built-in" else ""
    parts[0] += f"\n  from: {_origin(entry)}{file}"
    about = inspect.cleandoc(cls.__doc__ or getattr(cls, "description", "") or "").split("\n\n")[0]
    if about:
        parts.append(wrap(" ".join(about.split())))
    settings = describe(class_settings(cls), f"{entry.kind}.")
    if settings:
        rows = settings_table(settings.values(), f"{entry.kind}.")
        parts.append(f"settings ({entry.kind}.KEY=VALUE)\n{rows}")
    else:
        parts.append("settings\n  none")
    parts += {"method": _method, "stream": _stream}.get(entry.kind, lambda cls: [])(cls)
    return "\n\n".join(parts)


def _method(cls: Any) -> list[str]:
    parts = []
    if getattr(cls, "defaults", None):
        parts.append("settings of the run that it changes\n" + _pairs(cls.defaults))
    if getattr(cls, "kinds", None):
        parts.append(f"what it can be asked to do\n  {', '.join(cls.kinds)}")
    if getattr(cls, "label_spaces", None):
        parts.append(f"label spaces it supports\n  {', '.join(cls.label_spaces)}")
    parts.append("what it needs, keeps and adds\n" + "\n".join(wrap(line, "  ", "    ") for line in _flags(cls)))
    card = getattr(cls, "parity", None)
    lines = []
    for part in ("present", "absent", "deviations", "verified"):
        lines.append(f"  {part}")
        lines += [wrap(text, "    - ", "      ") for text in getattr(card, part, ())] or ["    - nothing said"]
    return [*parts, "parity with the paper\n" + "\n".join(lines)]


def _flags(cls: Any) -> list[str]:
    """Return the flags that hold with a method's default settings, in words."""
    from bench.config.run_settings import class_settings

    try:
        return cls.flags_for(class_settings(cls)()).lines() or ["nothing special"]
    except Exception as error:  # a plug-in's own code
        return [f"not known: {blamed(error)}"]


def _stream(cls: Any) -> list[str]:
    from bench.config.chosen import Chosen, tuned_by

    parts = [
        f"kind\n  {getattr(cls, 'kind', USUAL['kind'])}",
        f"label space\n  {getattr(cls, 'label_space', 'not said')}",
    ]
    budget = _pairs(getattr(cls, "defaults", {})) or "  none of its own"
    parts.append(f"training budget, shared by all methods\n{budget}")
    if own := getattr(cls, "reference", None):
        parts.append(f"reference set, for methods that learn from one\n  {own}")
    tuned = tuned_by(cls)
    plain = {name: one for name, one in tuned.items() if not isinstance(one, Chosen)}
    parts += [f"tuned for {name} on validation images\n{_pairs(one)}" for name, one in sorted(plain.items())]
    lines = [line for name, one in sorted(tuned.items()) if isinstance(one, Chosen) for line in _chosen(name, one)]
    return [*parts, "settings chosen for methods\n" + "\n".join(lines)] if lines else parts


def _chosen(method: str, one: Chosen) -> list[str]:
    """Return the lines about what was chosen for a method, and how."""
    from bench.config.fields import show

    head = f"  {method}: {' '.join(f'{key}={show(value)}' for key, value in one.settings.items())}"
    if one.same_as:
        return [head, f"    that of {one.same_as}"]
    values = "; ".join(f"{key} {', '.join(map(show, tried))}" for key, tried in one.grid_values.items())
    facts = {
        "on stream": one.stream,
        "split": one.split,
        "by": one.criterion,
        "seeds": ", ".join(map(str, one.seeds)),
        "grid": f"{one.grid} ({values})" if values else one.grid,
        "code": ", ".join(str(revision)[:10] for revision in one.revisions),
    }
    said = "; ".join(f"{name} {fact}" for name, fact in facts.items() if fact)
    return [head, wrap(f"chosen {said}", "    ", "    ")]


def _pairs(values: Mapping[str, Any]) -> str:
    from bench.config.fields import show

    return "\n".join(f"  {key}={show(value)}" for key, value in values.items())

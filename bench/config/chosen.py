"""Settings that were chosen for methods on validation images, with how they were chosen, as files of YAML.

The verb ``tune`` writes such a file, ``run settings=FILE`` reads one, and ``Stream.tuned`` may name one. It maps the
name of a method to its entry::

    lora:
      settings: {train.lr: 0.003}
      stream: pocket-tuning
      criterion: average_mtil
      tried: [...]
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.config.written import WordSafeLoader
from bench.core.errors import UserError, shorten, suggest
from bench.core.untrusted import read_text, why

HEAD = """\
# Settings chosen on validation images, by method. To use them: python -m bench run method=NAME settings=THIS_FILE
# docs/tuning.md says what the entries mean.
"""
"""The first lines of a file."""

LARGEST = 1_000_000
"""Bytes of a file at most."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one method, and how. What is not known is empty.

    Attributes
    ----------
    settings : dict of str to object
        Dotted key to plain value.
    same_as : str
        The method whose choice these settings are, where the method itself was not tuned.
    stream, model : str
        What the choice was made on.
    criterion : str
        The scalar of `bench.metrics.scalars` whose mean over the seeds decided.
    split : str
        The images that were scored.
    seeds : list of int
    grid : str
        Name of the grid.
    under : dict of str to object
        Other settings that were given, and held for everything tried: the stream's own, the budget.
    revisions : list of str
        Of the code that made the runs.
    tried : list of dict
        Everything that was tried, the best first: ``settings``, ``mean``, ``values`` by seed, ``fingerprint``.
    """

    settings: dict[str, Any]
    same_as: str = ""
    stream: str = ""
    model: str = ""
    criterion: str = ""
    split: str = ""
    seeds: list[int] = field(default_factory=list)
    grid: str = ""
    under: dict[str, Any] = field(default_factory=dict)
    revisions: list[str] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)

    @property
    def grid_values(self) -> dict[str, list[Any]]:
        """The values that were tried of each setting, in order."""
        grid: dict[str, list[Any]] = {}
        for one in self.tried:
            for key, value in one["settings"].items():
                values = grid.setdefault(key, [])
                if value not in values:
                    values.append(value)
        return {key: sorted(values, key=_rank) for key, values in grid.items()}


def _rank(value: Any) -> tuple[str, Any]:
    """Return by what values are sorted: numbers and text by themselves, others by how they look."""
    return type(value).__name__, value if isinstance(value, int | float | str) else repr(value)


class _OnceSafeLoader(WordSafeLoader):
    """YAML in which a mapping has every key once: of two entries for a method the first one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping."""
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f'"{shorten(name)}" is there twice', problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_chosen(file: Path) -> dict[str, Chosen]:
    """Return the entries of a file by name of method.

    Parameters
    ----------
    file : Path

    Returns
    -------
    dict of str to Chosen

    Raises
    ------
    UserError
        If it cannot be read, or is no such file.
    """
    try:
        content = yaml.load(read_text(Path(os.path.realpath(file)), LARGEST), _OnceSafeLoader)  # users link files
    except OSError as error:
        raise UserError(f"the settings file {file} cannot be read: {why(error)}") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:  # or a tag that does not fit
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(
            f"the settings file {file} cannot be read ({where}{getattr(error, 'problem', None) or error}): correct it, "
            "or write it again with python -m bench tune"
        ) from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} is no settings file: it must map names of methods to what was chosen for them")
    return {str(name): _entry(content, name, f"{file}: {shorten(str(name))}") for name in content}


def _entry(content: Mapping[Any, Any], name: Any, where: str) -> Chosen:
    """Return one entry, checked; ``where`` is how a sentence about it begins."""
    entry = content[name]
    if not isinstance(entry, dict):
        raise UserError(f"{where} must hold settings, as in settings: {{train.lr: 0.003}}")
    known = Chosen.__dataclass_fields__
    for key in entry:
        if key not in known:
            raise UserError(f'{where} has the unknown key "{shorten(str(key))}"{suggest(str(key), known)}')
    empty = asdict(Chosen({}))
    for key, value in entry.items():
        if not isinstance(value, type(empty[key])):
            raise UserError(f"{where}: {key} must be {_KINDS[type(empty[key])]}, as tune writes it")
    if any(not isinstance(one, dict) or not isinstance(one.get("settings"), dict) for one in entry.get("tried", ())):
        raise UserError(f"{where} has something under tried that holds no settings: write it as tune does")
    other = entry.get("same_as")
    if other is not None:
        of_other = content.get(other)
        if "settings" in entry or not isinstance(of_other, dict) or not isinstance(of_other.get("settings"), dict):
            raise UserError(f"{where} has same_as: {shorten(other)}, which must name an entry with settings, alone")
        entry = {**entry, "settings": of_other["settings"]}
    if not all(isinstance(key, str) for key in entry.get("settings", {0: 0})):
        raise UserError(f"{where} must hold settings, as in settings: {{train.lr: 0.003}}")
    return Chosen(**entry)


_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "a mapping"}


def chosen_for(file: Path, method: str) -> dict[str, Any]:
    """Return the settings that a file has for a method.

    Parameters
    ----------
    file : Path
    method : str
        Its registered name.

    Raises
    ------
    UserError
        If the file is none, or has nothing for this method.
    """
    entries = read_chosen(file)
    if method not in entries:
        raise UserError(
            f'the settings file {file} has nothing for method "{method}", only for {", ".join(entries)}: choose one of '
            "them, or another file"
        )
    return entries[method].settings


def tuned_by(stream: Any) -> Any:
    """Return what a stream has tuned, by name of method: `Chosen` entries, or what else it carries as ``tuned``.

    Parameters
    ----------
    stream : type or None
        Its class. Its ``tuned`` is a mapping, or the path of a file.

    Raises
    ------
    UserError
        If a file is none.
    """
    tuned = getattr(stream, "tuned", {})
    return _shipped(Path(tuned)) if isinstance(tuned, str | Path) else tuned


@functools.lru_cache(maxsize=16)
def _shipped(file: Path) -> dict[str, Chosen]:
    """Return a file that belongs to the code of a stream; read once, since every point of a sweep asks for it."""
    return read_chosen(file)


class _Dumper(yaml.SafeDumper):
    """YAML that quotes what `WordSafeLoader` would take for something else, and writes no aliases."""

    yaml_implicit_resolvers = WordSafeLoader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: values are written out."""
        return True


def chosen_text(entries: Mapping[str, Chosen]) -> str:
    """Return the content of a file.

    Parameters
    ----------
    entries : mapping of str to Chosen
        By name of method.

    Returns
    -------
    str
    """
    plain = {}
    for name, one in sorted(entries.items()):
        entry = {key: value for key, value in asdict(one).items() if value}
        plain[name] = {key: value for key, value in entry.items() if not (one.same_as and key == "settings")}
    return HEAD + yaml.dump(plain, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)

"""From names to classes: methods, streams, datasets and models, built in, installed, or in a user's file.

Listing imports nothing: the files of ``methods/`` and ``datasets/`` are parsed, and installed packages have entry
points. So a plug-in that is slow or broken harms nobody who does not use it. A plug-in is imported when it is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from bench.config.scan import KINDS, Entry, problem, scan
from bench.core.blame import blamed
from bench.core.errors import UserError, shorten, suggest
from bench.core.paths import is_file, user_path
from bench.core.signals import Stopped

GROUPS = {f"keeplora_bench.{kind}": kind for kind in KINDS}
"""Entry-point groups of installed packages, such as ``keeplora_bench.method``."""

FOLDERS = {"methods": "method", "datasets": "stream"}
"""The mounted plug-in folders, and the kind a file there is taken for when it is too broken to say."""


_Class = TypeVar("_Class", bound=type)


def register(kind: str, name: str, *, title: str, paper: str = "") -> Callable[[_Class], _Class]:
    """Decorate a class to make it an entry of the registry.

    The arguments must be literal strings, because the registry reads them without importing the file. The decorator
    itself only sets the class attributes ``registry_kind``, ``registry_name``, ``title`` and ``paper``.

    Parameters
    ----------
    kind : {"method", "stream", "dataset", "model"}
        What the class is.
    name : str
        What users write, as in ``method=NAME``: letters, digits and ``_ . + -``.
    title : str
        One line for the table of ``python -m bench list``.
    paper : str, optional
        Where it comes from, such as ``"arXiv 2601.19659"``.

    Returns
    -------
    callable
        The decorator, which returns the class itself.

    Raises
    ------
    ValueError
        If the kind or the name is not a possible one.
    """
    wrong = problem(kind, name)
    if wrong:
        raise ValueError(wrong)

    def decorate(cls: _Class) -> _Class:
        for key, value in {"registry_kind": kind, "registry_name": name, "title": title, "paper": paper}.items():
            setattr(cls, key, value)
        return cls

    return decorate


def entries(kind: str) -> dict[str, Entry]:
    """Return all entries of one kind, importing none of them.

    Parameters
    ----------
    kind : {"method", "stream", "dataset", "model"}

    Returns
    -------
    dict of str to Entry
        By name, sorted.
    """
    return all_entries()[kind]


def all_entries() -> dict[str, dict[str, Entry]]:
    """Return all entries, importing none of them.

    Returns
    -------
    dict of str to dict of str to Entry
        By kind and name, sorted by name. Where names collide, the built-in entry wins and says what it hides.
    """
    files = tuple(
        (name, path, *_state(path)) for name, folder in _plugin_folders() for path in sorted(folder.glob("*.py"))
    )
    merged = _merged(files, tuple((folder, _modified(folder)) for folder in sys.path))
    return {kind: dict(named) for kind, named in merged.items()}


@functools.lru_cache(maxsize=1)
def _merged(
    files: tuple[tuple[str, Path, int, int, int], ...], folders: tuple[tuple[str, int], ...]
) -> dict[str, dict[str, Entry]]:
    """Return the entries of files and of installed packages; kept while none changes: each point of a sweep asks."""
    all_: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
    own = (entry for name, path, *_ in files for entry in _built_in(name, path))
    for entry in [*own, *_installed(folders)]:
        first = all_[entry.kind].setdefault(entry.name, entry)
        if first is not entry:
            loser = entry.path.name if entry.origin == "built-in" and entry.path else entry.origin
            all_[entry.kind][entry.name] = replace(first, hides=(*first.hides, loser))
    return {kind: dict(sorted(named.items())) for kind, named in all_.items()}


def find(kind: str, name: str) -> Entry:
    """Return the entry of a name.

    Parameters
    ----------
    kind : {"method", "stream", "dataset", "model"}
    name : str
        A registered name, or the path of a file ending in ``.py``.

    Returns
    -------
    Entry

    Raises
    ------
    UserError
        If there is no such name or file, or the file does not hold exactly one class of this kind.
    """
    if name.endswith(".py"):
        return _in_file(kind, user_path(name, kind))
    named = entries(kind)
    if name not in named:
        raise UserError(f'unknown {kind} "{shorten(name)}"{suggest(name, named)}')
    return named[name]


def load(kind: str, name: str) -> type:
    """Import the class of a name.

    Parameters
    ----------
    kind : {"method", "stream", "dataset", "model"}
    name : str
        As for `find`.

    Returns
    -------
    type

    Raises
    ------
    UserError
        If there is no such entry, or it cannot be imported, or is not what it is registered as.
    """
    return load_entry(find(kind, name))


def load_entry(entry: Entry) -> type:
    """Import the class of an entry.

    Parameters
    ----------
    entry : Entry

    Returns
    -------
    type

    Raises
    ------
    UserError
        As for `load`.
    """
    origin = entry.origin
    if entry.origin == "built-in" and entry.path:
        origin = f"{entry.path.parent.name}/{entry.path.name}"
    who = f'{entry.kind} "{entry.name}" ({origin})'
    if entry.broken:
        raise UserError(f"{who} is broken: {entry.broken}")
    try:
        module = importlib.import_module(entry.module) if entry.module else _import_file(entry.path)
        cls = functools.reduce(getattr, entry.attr.split("."), module)
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # whatever somebody's file does when imported, it is that file's fault
        raise UserError(f"{who} cannot be imported: {blamed(error)}") from error
    own: Mapping[str, object] = vars(cls) if isinstance(cls, type) else {}
    if (own.get("registry_kind"), own.get("registry_name")) != (entry.kind, entry.name):
        raise UserError(f'{who} is not a class decorated with @register("{entry.kind}", "{entry.name}", title=...)')
    assert isinstance(cls, type)
    return cls


def _plugin_folders() -> Iterator[tuple[str, Path]]:
    for name in FOLDERS:
        try:
            package = importlib.import_module(f"bench.{name}")
        except ModuleNotFoundError:
            continue
        yield from ((name, Path(folder)) for folder in package.__path__)


def _built_in(package: str, path: Path) -> Iterator[Entry]:
    return (replace(entry, module=f"bench.{package}.{path.stem}") for entry in scan(path, FOLDERS[package]))


def _state(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written, or may be read now."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _modified(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=1)
def _installed(folders: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    """Return the entries of installed packages; read again when a folder of packages has changed."""
    by_origin: dict[str, list[Entry]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            points = [point for point in distribution.entry_points if point.group in GROUPS]
            if points:
                origin = distribution.metadata["Name"] or "an installed package"
                title = distribution.metadata["Summary"] or ""
                # An installation further down the path is hidden by the first of its name, as in importing.
                by_origin.setdefault(origin, [_from_point(point, origin, title) for point in points])
        except Exception:  # a distribution whose own metadata cannot be read is no concern of this suite
            continue
    return tuple(entry for origin in sorted(by_origin) for entry in by_origin[origin])


def _from_point(point: importlib.metadata.EntryPoint, origin: str, title: str) -> Entry:
    module, _, attr = (part.strip() for part in point.value.partition(":"))
    broken = problem(GROUPS[point.group], point.name)
    if not (module and attr):
        broken = f'its entry point is "{point.value}"; it must name a class, as in "package.module:Class"'
    attr = attr.split("[")[0].strip()
    return Entry(GROUPS[point.group], point.name, title, origin=origin, module=module, attr=attr, broken=broken)


def _in_file(kind: str, path: Path) -> Entry:
    if not is_file(path):
        raise UserError(f'there is no {kind} file "{path}": give the path of a Python file, or a registered name')
    path = path.resolve()
    for package, folder in _plugin_folders():
        if path.parent == folder.resolve():  # ours: imported as such, or its relative imports would fail
            own = [replace(entry, module=f"bench.{package}.{path.stem}") for entry in scan(path, kind)]
            break
    else:
        own = [replace(entry, origin=str(path)) for entry in scan(path, kind)]
    own = [entry for entry in own if entry.kind == kind]
    if len(own) != 1:
        names = ", ".join(entry.name for entry in own)
        held = f"{len(own)} classes ({names})" if own else "no class"
        raise UserError(
            f'"{path}" registers {held} as a {kind}: it must hold one with @register("{kind}", "name", title="...")'
        )
    return own[0]


def _import_file(path: Path | None) -> ModuleType:
    assert path is not None
    status = path.stat()
    # Named after the file's state: loading it twice gives the same class, and an edited file is read again.
    stamp = f"{path}|{status.st_mtime_ns}|{status.st_size}".encode()
    name = f"_bench_plugin_{path.stem}_{hashlib.sha256(stamp).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up while it executes
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

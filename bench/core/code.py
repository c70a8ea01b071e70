"""Hashes of code: of the files that a class's code comes from."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_INSTALLED = tuple(
    Path(sysconfig.get_paths()[kind]).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Where the standard library and other distributions lie."""


def code_sha256(cls: type) -> str:
    """Return a hash of the files that a class's code comes from; empty where there are none.

    These are the file of the class and, followed import by import, the modules of the same author: those of its own
    package; for a file outside of all packages, those that are not installed. Modules of ``bench`` itself, the standard
    library and other distributions do not belong to it.

    Parameters
    ----------
    cls : type

    Returns
    -------
    str
        SHA-256, hexadecimal.
    """
    try:
        source = inspect.getsourcefile(cls)
    except (TypeError, OSError):  # written in a notebook or at a prompt
        source = None
    if not source:
        return ""
    module = sys.modules.get(cls.__module__)
    package = getattr(module, "__package__", None) or ""
    todo, files = [(Path(source).resolve(), package)], dict[Path, bytes]()
    while todo:
        path, inside = todo.pop()
        if path in files:
            continue
        with suppress(OSError):
            files[path] = path.read_bytes()
            todo += _imported(files[path], inside, package)
    folder = Path(source).resolve().parent
    digest = hashlib.sha256()
    for name, content in sorted((_relative(path, folder), content) for path, content in files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _relative(path: Path, folder: Path) -> str:
    """Return the path as it is named whatever machine it lies on, as far as it lies below a folder."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


@lru_cache(maxsize=512)
def _statements(content: bytes) -> list[tuple[int, str | None, list[str]]]:
    """Return the import statements of a file: dots, module (None for a plain import), and names."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    found: list[tuple[int, str | None, list[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.append((0, None, [alias.name for alias in node.names]))
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", [alias.name for alias in node.names]))
    return found


def _imported(content: bytes, inside: str, package: str) -> Iterator[tuple[Path, str]]:
    """Yield file and package of the modules of the same author that a file imports."""
    for level, base, aliases in _statements(content):
        names = list(aliases)
        if base is not None:
            if level:
                parents = inside.split(".")[: len(inside.split(".")) - level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            names = [base, *(f"{base}.{alias}" for alias in aliases)]
        for name in names:
            file = _file_of(name, package)
            if file is not None:
                own = name if file.name == "__init__.py" else name.rpartition(".")[0]
                yield file, own


def _file_of(name: str, package: str) -> Path | None:
    """Return the source file of a module if it is the author's own."""
    top = package.split(".")[0]
    if top == "bench":  # built-in plug-ins share a folder
        if not name.startswith(f"{package}."):
            return None
    elif name.split(".")[0] == "bench":
        return None
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if module is None:
        with suppress(ImportError, AttributeError, ValueError):
            spec = importlib.util.find_spec(name) if name.partition(".")[0] in (name, top) else None
            origin = spec.origin if spec else None
    if not origin or not origin.endswith(".py"):
        return None
    file = Path(origin).resolve()
    mine = top and name.split(".")[0] == top
    return file if mine or not any(file.is_relative_to(folder) for folder in _INSTALLED) else None

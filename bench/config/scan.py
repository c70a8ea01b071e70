"""What a Python file registers, read by parsing it: nothing is imported."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.core.errors import suggest

KINDS = ("method", "stream", "dataset", "model")
"""What the registry has entries of."""

FACTS = ("label_space", "prompt_family", "budget", "baseline", "bound", "ceiling", "scalars", "kind", "kinds")
"""Class attributes that are known without importing the class, so that only literals count.

A class has those that it sets, and those of its bases in the same file.
"""

OWN_FACTS = ("baseline", "bound", "ceiling", "scalars")
"""Facts that hold for the class that sets them and not for its subclasses."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

_DECORATION = re.compile(r"""@(?:\w+\.)*register\(\s*["'](\w+)["']\s*,\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Entry:
    """One registered class, known without importing it.

    Attributes
    ----------
    kind, name, title, paper : str
        As given to `register`; for an entry point the title is its distribution's summary.
    origin : str
        ``"built-in"``, the name of a distribution, or a file.
    module, attr : str
        What to import; ``module`` is empty for a file outside the plug-in folders.
    path : Path or None
        The file, if it is known without importing.
    broken : str or None
        Why it cannot be used, as far as this is known without importing it.
    hides : tuple of str
        Origins of other entries of the same kind and name, which this one replaces.
    facts : mapping of str to str
        Those `FACTS` that the class, or a base of it in the same file, sets to literals.
    """

    kind: str
    name: str
    title: str = ""
    paper: str = ""
    origin: str = "built-in"
    module: str = ""
    attr: str = ""
    path: Path | None = None
    broken: str | None = None
    hides: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def problem(kind: str, name: str) -> str | None:
    """Return what is wrong with the kind or the name of an entry, in one sentence, or None.

    Parameters
    ----------
    kind : str
    name : str

    Returns
    -------
    str or None
    """
    if kind not in KINDS:
        return f'unknown kind "{kind}"{suggest(kind, KINDS)}'
    if not _NAME.fullmatch(name) or name.endswith(".py"):
        return f'"{name}" cannot be a name: use letters, digits and _ . + - and do not end in .py'
    return None


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its text.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    str
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def scan(path: Path, fallback: str = "method") -> tuple[Entry, ...]:
    """Return the entries that a file registers, by parsing it; a file that cannot be parsed is a broken entry.

    Parameters
    ----------
    path : Path
        A Python file.
    fallback : str, optional
        The kind of the broken entry when not even a pattern search finds what the file registers.

    Returns
    -------
    tuple of Entry
    """
    try:
        status = path.stat()
        return _scan(path, fallback, status.st_mtime_ns, status.st_size)
    except (OSError, UnicodeDecodeError) as error:
        return (Entry(fallback, path.stem, path=path, broken=f"it cannot be read: {first_line(error)}"),)


@functools.cache
def _scan(path: Path, fallback: str, _modified: int, _size: int) -> tuple[Entry, ...]:
    text = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        reason = f"{type(error).__name__}: {getattr(error, 'msg', error)}" + (f", line {line}" if line else "")
        named = [(kind, name) for kind, name in _DECORATION.findall(text) if kind in KINDS]
        return tuple(Entry(kind, name, path=path, broken=reason) for kind, name in named or [(fallback, path.stem)])
    nodes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    classes = {node.name: node for node in nodes}
    calls = ((node, call) for node in nodes for call in node.decorator_list if _is_register(call))
    return tuple(
        replace(_read(path, node, call, fallback), facts=_facts(node, classes))
        for node, call in calls
        if isinstance(call, ast.Call)
    )


def _is_register(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return node.func.attr == "register" and getattr(owner, "attr", getattr(owner, "id", "")) == "registry"
    return isinstance(node.func, ast.Name) and node.func.id == "register"


def _read(path: Path, node: ast.ClassDef, call: ast.Call, fallback: str) -> Entry:
    given = dict(zip(("kind", "name"), call.args, strict=False))
    given.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
    plain = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
    kind, name = str(plain.get("kind", fallback)), str(plain.get("name", path.stem))
    broken = problem(kind, name)
    if len(plain) < len(given) or not {"kind", "name", "title"} <= set(plain):
        broken = f'line {call.lineno}: write it as @register("kind", "name", title="...") with literal strings'
    kind = kind if kind in KINDS else fallback
    title, paper = str(plain.get("title", "")), str(plain.get("paper", ""))
    return Entry(kind, name, title, paper, attr=node.name, path=path, broken=broken)


def _facts(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, str]:
    """Return the `FACTS` of a class: those of its bases in the same file, then the literals in its own body."""
    facts: dict[str, str] = {}
    for base in reversed(node.bases):  # the leftmost base wins
        above = classes.get(base.id) if isinstance(base, ast.Name) else None
        if above is not None and above.lineno < node.lineno:
            facts.update({key: text for key, text in _facts(above, classes).items() if key not in OWN_FACTS})
    for name, value in _assigned(node):
        facts.pop(name, None)  # a value that is no literal hides the one of a base too
        several = value.elts if isinstance(value, ast.Tuple) else [value]
        if all(isinstance(one, ast.Constant) for one in several):
            facts[name] = ", ".join(str(one.value) for one in several if isinstance(one, ast.Constant))
    return facts


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield those `FACTS` that a class body sets, with the expression."""
    for line in node.body:
        targets: list[ast.expr] = []
        if isinstance(line, ast.Assign):
            targets = line.targets
        elif isinstance(line, ast.AnnAssign):
            targets = [line.target]
        value = getattr(line, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and target.id in FACTS and value is not None:
                yield target.id, value

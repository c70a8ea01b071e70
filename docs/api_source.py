"""Reads the public names of bench.api from their source text: signatures as written, and the sections of docstrings.

docs/api_page.py makes the page of it, and tests/test_api.py checks what the docstrings must have.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.api import HOMES

ROOT = Path(__file__).parent.parent
WIDTH = 100
"""Signatures longer than this have a line for every parameter."""

SHOWN = ("__len__", "__call__", "__iter__", "__getitem__")
"""Special methods that a class's listing shows."""

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Item:
    """One public object: a function, a class, a member of a class, or a constant.

    Attributes
    ----------
    name : str
        As in ``Method.loss``.
    node : Definition
        Its definition.
    file : Path
        The file of the definition.
    doc : str
        Its docstring, without indentation.
    """

    name: str
    node: Definition
    file: Path
    doc: str

    def written(self, node: ast.AST) -> str:
        """Return a part of the definition as its author wrote it, on one line."""
        return (
            " ".join((ast.get_source_segment(_source(self.file), node) or "").split())
            .replace("( ", "(")
            .replace(" )", ")")
        )


@cache
def _source(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def _definitions(file: Path) -> dict[str, tuple[Definition, str]]:
    """Return the definitions of a module by name, with their docstrings."""
    return _documented(ast.parse(_source(file)).body)


def _documented(body: list[ast.stmt]) -> dict[str, tuple[Definition, str]]:
    """Return the definitions of a body by name; the docstring of a variable is the text on the line after it."""
    found: dict[str, tuple[Definition, str]] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = (node, inspect.cleandoc(ast.get_docstring(node) or ""))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = after.value if isinstance(after, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
            if isinstance(target, ast.Name):
                found[target.id] = (node, inspect.cleandoc(text))
    return found


def item(name: str) -> Item:
    """Return a public name of `bench.api`."""
    module = next(module for module, names in HOMES.items() if name in names)
    file = ROOT / f"{module.replace('.', '/')}.py"
    node, doc = _definitions(file)[name]
    return Item(name, node, file, doc)


def members(owner: Item) -> Iterator[Item]:
    """Yield the public attributes and methods of a class, in the order of the source."""
    assert isinstance(owner.node, ast.ClassDef)
    for name, (node, doc) in _documented(owner.node.body).items():
        if not isinstance(node, ast.ClassDef) and (not name.startswith("_") or name in ("__init__", *SHOWN)):
            yield Item(f"{owner.name}.{name}", node, owner.file, doc)


def methods(owner: Item) -> list[Item]:
    """Return the public methods and properties of a class, without the special ones."""
    return [one for one in members(owner) if isinstance(one.node, ast.FunctionDef) and "__" not in one.name]


# ---- signatures


def parameters(owner: Item) -> dict[str, str]:
    """Return the parameters of a function as written, by name, without ``self`` and ``cls``."""
    node = owner.node
    assert isinstance(node, ast.FunctionDef)
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    values = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    texts = {arg.arg: _parameter(owner, arg, value) for arg, value in zip(plain, values, strict=True)}
    if args.vararg:
        texts[args.vararg.arg] = "*" + _parameter(owner, args.vararg, None)
    elif args.kwonlyargs:
        texts["*"] = "*"
    texts.update({a.arg: _parameter(owner, a, v) for a, v in zip(args.kwonlyargs, args.kw_defaults, strict=True)})
    if args.kwarg:
        texts[args.kwarg.arg] = "**" + _parameter(owner, args.kwarg, None)
    return {name: text for name, text in texts.items() if name not in ("self", "cls")}


def _parameter(owner: Item, arg: ast.arg, default: ast.expr | None) -> str:
    text = arg.arg + (f": {annotation(owner, arg.annotation)}" if arg.annotation else "")
    return text if default is None else f"{text} = {_default(owner.written(default))}"


def annotation(owner: Item, node: ast.expr) -> str:
    """Return an annotation as written, without the quotes of a forward reference."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else owner.written(node)


def _default(written: str) -> str:
    """Return a default as written; what a reader cannot see is an ellipsis."""
    return "..." if written.startswith(("_", "field(", "lambda")) else written


def decorators(owner: Item) -> list[str]:
    """Return the decorators of a definition as written, with their at sign."""
    assert isinstance(owner.node, ast.FunctionDef | ast.ClassDef)
    return [f"@{owner.written(decorator)}" for decorator in owner.node.decorator_list]


def signature(owner: Item, indent: str = "") -> list[str]:
    """Return the lines of a function's signature, one line a parameter where one line would be too long."""
    node = owner.node
    assert isinstance(node, ast.FunctionDef)
    bound = [arg.arg for arg in node.args.args[:1] if arg.arg in ("self", "cls")]
    texts = [*bound, *parameters(owner).values()]
    end = f") -> {annotation(owner, node.returns)}: ..." if node.returns else "): ..."
    lines = [indent + decorator for decorator in decorators(owner)]
    line = f"{indent}def {node.name}({', '.join(texts)}{end}"
    if len(line) <= WIDTH:
        return [*lines, line]
    return [*lines, f"{indent}def {node.name}(", *(f"{indent}    {text}," for text in texts), f"{indent}{end}"]


WIDTH = 120
"""Longest line of code, for the formatter of the project, which formats code in pages too."""


def _opened(line: str) -> list[str]:
    """Return a long line that ends with a call as the formatter has it: the arguments on a line of their own."""
    start, _, arguments = line.partition(" = ")[2].partition("(")
    before = line[: line.index(" = ") + 3]
    return [f"{before}{start}(", f"        {arguments[:-1]}", "    )"]


def listing(owner: Item) -> list[str]:
    """Return the lines of a class's listing: its attributes, how it is made, and its special methods."""
    node = owner.node
    assert isinstance(node, ast.ClassDef)
    bases = ", ".join(owner.written(base) for base in node.bases)
    body: list[str] = []
    for one in members(owner):
        if isinstance(one.node, ast.AnnAssign):
            value = f" = {_default(one.written(one.node.value))}" if one.node.value else ""
            line = f"    {one.name.partition('.')[2]}: {annotation(one, one.node.annotation)}{value}"
            body += [line] if len(line) <= WIDTH else _opened(line)
        elif isinstance(one.node, ast.FunctionDef) and "__" in one.name:
            body += ["", *signature(one, "    ")] if body and body[-1] else signature(one, "    ")
    head = [line for line in decorators(owner) if not line.startswith("@register")]
    first = f"class {owner.name}{f'({bases})' if bases else ''}:"
    return [*head, first, *body] if body else [*head, f"{first} ..."]


# ---- docstrings

SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", flags=re.MULTILINE)
LISTS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns")
"""Sections whose entries are names or types with an indented text below."""


def sections(doc: str) -> dict[str, str]:
    """Return the sections of a docstring by title; the text before the first has the title ``""``."""
    first, *rest = SECTION.split(doc)
    return {"": first.strip(), **{title: text.strip("\n") for title, text in zip(rest[::2], rest[1::2], strict=True)}}


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of a section as (first line, text below it)."""
    for block in re.split(r"\n(?=\S)", text.strip("\n")):
        head, _, rest = block.partition("\n")
        yield head.strip(), inspect.cleandoc(rest)


def named(doc: str, *titles: str) -> set[str]:
    """Return the names that sections of a docstring describe; ``low, high : float`` describes two."""
    found = sections(doc)
    heads = [head.partition(" : ")[0] for title in titles for head, _ in entries(found.get(title, ""))]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")} - {""}

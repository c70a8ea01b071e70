"""Which rows and columns a table has, in which order and under which names: words of the command line.

A name or a row that fits nothing is refused, with the nearest one that would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.compare.grouping import ComparableRuns, Group
from bench.compare.published import Published
from bench.compare.runs import COSTS, TITLES, column_kind
from bench.config.written import items, members, unquoted
from bench.core.errors import UserError, shorten, suggest
from bench.metrics.kinds import COLUMNS, FORGETTING, SCALARS, SHOWN
from bench.record.flags import WORDS

OPTIONS = ("per", "columns", "rows", "names")
"""Words of the command line that this module reads."""

PER = ("method", "task", "cell")
"""What a line or a table of a comparison is about."""

ALL_PUBLISHED = "published"
"""The row that stands for all published ones."""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")


HEADINGS = {
    **{name: name for scalars in (*SCALARS.values(), COSTS) for name in scalars},
    **{_plain(title): name for name, title in TITLES.items()},
}
"""What a column may be called -> the scalar or cost that it shows."""


@dataclass(frozen=True)
class Choice:
    """What a user wants to see of a comparison.

    Attributes
    ----------
    per : str
        ``method`` for one row a method with all columns, ``task`` for a table of every metric with a column a task,
        ``cell`` for ours against theirs, number by number.
    columns : tuple of str
        Scalars and costs in their order; empty for the usual ones.
    rows : tuple of str
        Labels, methods or fingerprints in their order; empty for all rows.
    names : mapping of str to str
        A method, label, fingerprint, task or column -> what it is called in the tables.
    """

    per: str = "method"
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def title(self, scalar: str) -> str:
        """Return the heading of a column.

        Parameters
        ----------
        scalar : str
            A scalar or a cost.

        Returns
        -------
        str
        """
        named = (new for old, new in self.names.items() if HEADINGS.get(_plain(old)) == scalar)
        return next(named, TITLES.get(scalar, scalar))

    def named(self, name: str) -> str:
        """Return what a task or a published method is called."""
        return self.names.get(name, name)


USUAL = Choice()
"""What is shown where nothing is chosen."""


def read(options: Mapping[str, str]) -> Choice:
    """Read the words of the command line.

    Parameters
    ----------
    options : mapping of str to str
        Those of `OPTIONS` count: ``per=task``, ``columns=[transfer,last]``, ``rows=[keeplora,lora]`` and
        ``names={keeplora: KeepLoRA}``.

    Returns
    -------
    Choice

    Raises
    ------
    UserError
        If one of them cannot be read or names something twice, or a column is unknown.
    """
    per = options.get("per", "method")
    if per not in PER:
        raise UserError(f"per={shorten(per)} must be {', '.join(PER[:-1])} or {PER[-1]}")
    columns = tuple(_column(word, per) for word in _listed(options, "columns"))
    if per == "cell" and columns:
        raise UserError("columns= chooses nothing with per=cell, which shows all that was published: leave it out")
    _once("columns", columns)
    rows = tuple(_listed(options, "rows"))
    _once("rows", rows)
    return Choice(per, columns, rows, _names(options))


def _listed(options: Mapping[str, str], option: str) -> list[str]:
    """Return the items of ``[a,b]``, or the one item that stands without brackets."""
    if option not in options:
        return []
    text = options[option].strip()
    words = items(text) if text.startswith("[") else [text] if text else None
    if not words:
        raise UserError(
            f"{option}={shorten(text)} is no list of names: write {option}=[NAME,NAME], a name with brackets in quotes"
        )
    return [unquoted(one) for one in words]


def _once(option: str, words: Sequence[str]) -> None:
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise UserError(f"{option}= names {shorten(twice)} twice: once is enough")


def _column(word: str, per: str) -> str:
    scalar = HEADINGS.get(_plain(word))
    if scalar is None:
        raise UserError(f'columns= has no "{shorten(word)}"{suggest(word, HEADINGS)}')
    if per == "task" and not any(scalar in columns for columns in COLUMNS.values()):
        known = "; ".join(", ".join(_plain(TITLES[name]) for name in columns) for columns in COLUMNS.values())
        raise UserError(f"columns={shorten(word)} has no values by task: with per=task choose {known}")
    return scalar


def _names(options: Mapping[str, str]) -> dict[str, str]:
    if "names" not in options:
        return {}
    pairs = members(options["names"])
    if pairs is None:
        raise UserError(f"names={shorten(options['names'])} is no mapping: write 'names={{keeplora: KeepLoRA}}'")
    names = {old: unquoted(new).strip() for old, new in pairs.items()}
    for old, new in names.items():
        if not new:
            raise UserError(f"names= gives {shorten(old)} an empty name: write another, or leave it out")
    return names


def check_columns(choice: Choice, fields: Sequence[ComparableRuns]) -> None:
    """Refuse a column that no run here can have, and columns of which a table has none.

    Parameters
    ----------
    choice : Choice
    fields : sequence of ComparableRuns
        One a table.

    Raises
    ------
    UserError
        With what can be choice.
    """
    there = {one.runs[0].kind for one in fields}
    for name in choice.columns if fields else ():
        if column_kind(name) not in (None, *there):
            asks = " and ".join("forget" if kind == FORGETTING else "learn" for kind in sorted(there))
            raise UserError(
                f"columns={choice.title(name)}: the streams of these runs ask to {asks}, and have no such number"
            )
    for one in fields:
        if choice.columns and not any(column_kind(name) in (None, one.runs[0].kind) for name in choice.columns):
            shown = ", ".join(SHOWN[one.runs[0].kind])
            raise UserError(
                f"columns= names none of {one.title}: add one of {shown}, or choose the other runs with stream=NAME"
            )


# ---------------------------------------------------------------------------------------------- applied


def applied(
    choice: Choice, fields: Sequence[ComparableRuns], published: Sequence[Published | None]
) -> tuple[list[ComparableRuns], list[Published | None]]:
    """Choose, order and name the rows of tables.

    Parameters
    ----------
    choice : Choice
    fields : sequence of ComparableRuns
    published : sequence of Published or None
        What stands below each of them.

    Returns
    -------
    fields : list of ComparableRuns
        Those with at least one chosen row; their groups chosen, in the order of the choice but bounds last, with new
        labels. Where their methods have different flags, a note says so.
    published : list of Published or None
        What stands below each of those, chosen, ordered and named in the same way.

    Raises
    ------
    UserError
        If a row or a name fits nothing, or two rows of a table would have the same name.
    """
    _check_known(choice, fields, published)
    shown: list[ComparableRuns] = []
    below: list[Published | None] = []
    for one, table in zip(fields, published, strict=True):
        groups = _chosen(choice, one.groups)
        if groups:
            groups.sort(key=lambda group: group.bound)
            named = [replace(group, label=_label(choice, group)) for group in groups]
            notes = [*one.notes, *differing(named)]
            shown.append(replace(one, groups=named, notes=notes))
            below.append(None if table is None else _quoted(choice, table, groups))
            _distinct([group.label for group in shown[-1].groups])
    for one in shown:
        _distinct([choice.named(task) for task in one.runs[0].identity.tasks])
    if fields and not shown:
        raise UserError(f"rows=[{shorten(','.join(choice.rows))}] names no run here: name a measured method too")
    return shown, below


def differing(groups: Iterable[Group]) -> list[str]:
    """Return a note where methods that train have different flags; nothing where they are alike as far as known.

    Parameters
    ----------
    groups : iterable of Group
        The rows of a table.

    Returns
    -------
    list of str
        One note at most. Rows with the same flags stand together.
    """
    alike: dict[str, list[str]] = {}
    for group in groups:
        if group.trains:
            held = None if group.flags is None else [WORDS.get(name, name) for name in group.flags]
            said = "not known" if held is None else ", ".join(held) or "nothing special"
            alike.setdefault(said, []).append(group.label)
    if len(alike.keys() - {"not known"}) < 2:
        return []
    parts = [f"{', '.join(labels)}: {said}" for said, labels in alike.items()]
    return [f"methods differ in what they need, keep and add: {'; '.join(parts)}"]


def _words(group: Group) -> set[str]:
    """Return what a group may be called without new names."""
    return {group.label, group.method, group.fingerprint}


def _calls(choice: Choice, group: Group) -> set[str]:
    """Return what a group may be called, new names of its method and of itself included."""
    return _words(group) | {_label(choice, group), choice.named(group.method)}


def _chosen(choice: Choice, groups: Sequence[Group]) -> list[Group]:
    """Return the groups that the rows name, each once."""
    if not choice.rows:
        return list(groups)
    chosen: dict[str, Group] = {}
    for word in choice.rows:
        for group in groups:
            if word in _calls(choice, group):
                chosen.setdefault(group.label, group)
    return list(chosen.values())


def _label(choice: Choice, group: Group) -> str:
    """Return the new label of a group; where its method has a new name, the settings after it stay."""
    for word in (group.label, group.fingerprint):
        if word in choice.names:
            return choice.names[word]
    if group.method not in choice.names:
        return group.label
    return choice.names[group.method] + group.label.removeprefix(group.method)


def _distinct(labels: Sequence[str]) -> None:
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"names= calls two rows or tasks of a table {shorten(twice)}: give each a name of its own")


def _quoted(choice: Choice, table: Published, groups: Sequence[Group]) -> Published | None:
    """Choose, order and name published rows; None where none is left.

    Where no rows are chosen, a table for every task has those that have values for some. Ours against theirs has those
    of the methods that are shown, and chosen ones.
    """
    at = {word: index for index, word in enumerate(choice.rows)}

    def position(method: str) -> int | None:
        return next((at[word] for word in (method, choice.named(method), ALL_PUBLISHED) if word in at), None)

    rows = list(table.rows)
    if choice.per == "cell":
        methods = {group.method for group in groups}
        rows = [row for row in rows if methods & {*row.registered} or position(row.method) is not None]
    elif choice.rows:
        rows = [row for row in rows if position(row.method) is not None]
        rows.sort(key=lambda row: (row.apart, position(row.method) or 0))
    elif choice.per == "task":
        rows = [row for row in rows if row.columns]
    return replace(table, rows=tuple(replace(row, method=choice.named(row.method)) for row in rows)) if rows else None


def _check_known(choice: Choice, fields: Sequence[ComparableRuns], published: Sequence[Published | None]) -> None:
    """Refuse a row or a name that fits nothing in any table."""
    if not fields:
        return
    quoted = {row.method for table in published if table for row in table.rows}
    groups = [group for one in fields for group in one.groups]
    rows = quoted.union(*map(_words, groups))
    tasks = {task for one in fields for run in one.runs for task in run.identity.tasks}
    for old in choice.names:
        if old not in rows | tasks and _plain(old) not in HEADINGS:
            raise UserError(f'names= has "{shorten(old)}", no row, task or column here{_near(old, rows | tasks)}')
    calls = rows.union({choice.named(method) for method in quoted}, *(_calls(choice, group) for group in groups))
    for word in choice.rows:
        if word not in calls | {ALL_PUBLISHED}:
            raise UserError(f'rows= has no "{shorten(word)}"{_near(word, calls)}')


def _near(word: str, valid: Iterable[str]) -> str:
    return suggest(shorten(word), valid)

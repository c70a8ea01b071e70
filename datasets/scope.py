"""The classes that requests to forget are about: those of several tasks in one list, and what names mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from bench.api import Images, Joined, Subset, Task, UserError, suggest

from .reading import text
from .tasks_file import TextSafeLoader

BETWEEN = " + "
"""What stands between the names of one request."""

SHOWN = 100
"""How many characters of an unknown name a sentence shows."""


@dataclass(frozen=True)
class Scope:
    """The classes of several tasks in one list, and their images.

    Attributes
    ----------
    classes : tuple of str
        In the order of the tasks. Names where all tasks have one template; else whole prompts, and equal prompts are
        one class.
    template : str
        The template of all tasks; ``{}`` where `classes` are whole prompts.
    more_templates : tuple of str
        As for `Task`.
    train, test : Images
        Those of all tasks, with indices into `classes` as labels.
    validation : Images or None
        None where a task has none.
    called : dict of str to tuple of int
        What a user may write -> the classes that it means: a task, ``TASK/CLASS``, a prompt or a class name. A class
        name that several tasks have means several classes.
    tasks : tuple of str
        Names of the tasks, which mean all classes of theirs.
    """

    classes: tuple[str, ...]
    template: str
    more_templates: tuple[str, ...]
    train: Images
    test: Images
    validation: Images | None
    called: dict[str, tuple[int, ...]]
    tasks: tuple[str, ...]

    def classes_of(self, name: str, setting: str) -> tuple[int, ...]:
        """Return the classes that a name means.

        Parameters
        ----------
        name : str
            What a user wrote.
        setting : str
            Where, for errors.

        Returns
        -------
        tuple of int
            One, or those of a task.

        Raises
        ------
        UserError
            If nothing is called so, or several classes are.
        """
        found = self.called.get(name)
        if found is None:
            shown = " ".join(name[:SHOWN].split())
            raise UserError(f'{setting} names "{shown}", which is no class of the stream{suggest(shown, self.called)}')
        if len(found) > 1 and name not in self.tasks:
            raise UserError(
                f'{setting} names "{name}", which several classes are called ({", ".join(map(self._said, found))}): '
                "write TASK/CLASS or the whole prompt"
            )
        return found

    def _said(self, index: int) -> str:
        return f'"{self.classes[index]}"'


def pooled(tasks: Sequence[Task]) -> Scope:
    """Return the classes of some tasks in one list.

    Parameters
    ----------
    tasks : sequence of Task
        At least one.

    Returns
    -------
    Scope

    Raises
    ------
    UserError
        If tasks with different templates have several each.
    """
    first = tasks[0]
    alike = all((t.template, t.more_templates) == (first.template, first.more_templates) for t in tasks)
    if not alike and any(task.more_templates for task in tasks):
        raise UserError(
            "the tasks whose classes are to be forgotten have several templates each, and not the same: give them one "
            "template, or name tasks with the same ones in stream.tasks"
        )
    names_of = [task.classes if alike else task.prompts for task in tasks]
    index = {name: number for number, name in enumerate(dict.fromkeys(name for names in names_of for name in names))}
    numbers = [np.array([index[name] for name in names]) for names in names_of]

    def joined(parts: Sequence[Images]) -> Images:
        labels = [own[part.labels] for own, part in zip(numbers, parts, strict=True)]
        whole = [part.images for part in parts if isinstance(part, Subset) and part.whole]
        if len(whole) == len(parts) and all(one is whole[0] for one in whole):  # decoded once, with its other subsets
            indices = [part.indices for part in parts if isinstance(part, Subset)]
            return Subset(whole[0], np.concatenate(indices), np.concatenate(labels), whole=True)
        return Joined(parts, labels)

    validation = [task.validation for task in tasks if task.validation is not None]
    return Scope(
        tuple(index),
        first.template if alike else "{}",
        first.more_templates if alike else (),
        joined([task.train for task in tasks]),
        joined([task.test for task in tasks]),
        joined(validation) if len(validation) == len(tasks) else None,
        _called(tasks, numbers),
        tuple(task.name for task in tasks),
    )


def _called(tasks: Sequence[Task], numbers: Sequence[np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Return what a user may write of classes, and which are meant; what comes first in this order wins."""
    called: dict[str, tuple[int, ...]] = {}
    ways: tuple[Callable[[Task], Sequence[str]], ...] = (
        lambda task: task.classes,
        lambda task: task.prompts,
        lambda task: [f"{task.name}/{name}" for name in task.classes],
    )
    for way in ways:
        meant: dict[str, list[int]] = {}
        for task, own in zip(tasks, numbers, strict=True):
            for name, number in zip(way(task), own.tolist(), strict=True):
                if number not in meant.setdefault(name, []):
                    meant[name].append(number)
        called = {**{name: tuple(found) for name, found in meant.items()}, **called}
    whole = {task.name: tuple(own.tolist()) for task, own in zip(tasks, numbers, strict=True)}
    return {**called, **whole}


def name_of(number: int) -> str:
    """Return the name of a request by its number, from 0."""
    return f"request-{number + 1}"


def named(scope: Scope, requests: Sequence[Sequence[str]], setting: str) -> list[list[int]]:
    """Return the classes of requests that are named.

    Parameters
    ----------
    scope : Scope
    requests : sequence of sequence of str
        Names as users wrote them, for each request.
    setting : str
        Where, for errors.

    Returns
    -------
    list of list of int

    Raises
    ------
    UserError
        If a name means nothing, or a class is named twice.
    """
    found: list[list[int]] = []
    owner: dict[int, str] = {}
    for number, names in enumerate(requests):
        classes = [one for name in names for one in scope.classes_of(name.strip(), setting)]
        for one in classes:
            if one in owner:
                twice = f"twice, in {owner[one]} and {name_of(number)}"
                raise UserError(f'{setting} forgets "{scope.classes[one]}" {twice}: name it once')
            owner[one] = name_of(number)
        found.append(classes)
    return found


def drawn(order: Sequence[int], count: int, size: int) -> list[list[int]]:
    """Return the classes of requests taken from the end of an order, as in GS-LoRA's code.

    Parameters
    ----------
    order : sequence of int
        All classes.
    count, size : int
        Number of requests, and of the classes of each.

    Returns
    -------
    list of list of int

    Raises
    ------
    UserError
        If no class would stay.
    """
    total = len(order)
    if count * size >= total:
        raise UserError(
            f"stream.count={count} requests of stream.per_request={size} leave none of the {total} classes: lower one "
            "of the two"
        )
    return [list(order[total - (i + 1) * size : total - i * size]) for i in range(count)]


def read_requests(path: Path) -> list[list[str]]:
    """Return the requests that a YAML file lists: a list of lists of names, or of single names.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of list of str
        Names as they are written.

    Raises
    ------
    UserError
        If the file cannot be read or lists something else.
    """
    if not path.is_file():
        raise UserError(f"stream.requests_file={path} is no file: write one with a list of names for each request")
    written = text(path)
    try:
        content = yaml.load(written, TextSafeLoader)  # a class may be called on
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"the file {path} is not YAML ({' '.join(str(error).split())}): correct it") from error
    requests = [[one] if isinstance(one, str) else one for one in content] if isinstance(content, list) else []
    if not requests or not all(
        isinstance(one, list) and one and all(isinstance(n, str) for n in one) for one in requests
    ):
        raise UserError(
            f'the file {path} lists no requests: write a line such as "- [apple, pear]" for each, with names of classes'
        )
    return requests

"""What the verbs of ``python -m bench`` have in common.

A verb's module is imported for every line, since the overview shows its summary. It therefore imports the engine inside
its call: the overview must not wait for the registry, nor a table of names for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.core.console import visible
from bench.core.errors import UserError, shorten
from bench.core.paths import is_folder, user_path


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes
    ----------
    name : str
        The first word of a line.
    summary : str
        What it does, in one line.
    usage : str
        How it is called, without ``python -m bench``.
    help : str
        What ``--help`` shows below the summary, examples included.
    call : callable
        Takes the words after the verb and returns the exit status.
    more_help : callable, optional
        Returns further help that is not known before the engine is imported.
    """

    name: str
    summary: str
    usage: str
    help: str
    call: Callable[[list[str]], int]
    more_help: Callable[[], str] | None = None


def folder(word: str) -> Path:
    """Return the path that a word names.

    Parameters
    ----------
    word : str
        A path; ``~`` means the home folder.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        If there is no such folder.
    """
    path = user_path(word)
    if not is_folder(path):
        raise UserError(f'there is no folder "{shorten(word)}": give a run directory, or a folder that holds some')
    return path


def say(text: str) -> None:
    """Print a line at once, also where the output is a file or a pipe."""
    print(visible(text), flush=True)

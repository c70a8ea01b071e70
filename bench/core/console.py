"""What a run shows the user: lines on standard output, and progress bars with the time left on standard error.

Bars are shown in a terminal and in a notebook. If several processes share a run, one of them prints.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from bench.core.rank import rank

T = TypeVar("T")


def _tqdm(label: str, unit: str, total: int, items: Iterable[Any] | None = None) -> Any:
    """Return tqdm's bar for a terminal or a notebook; hidden elsewhere, and in processes that do not lead."""
    from tqdm.auto import tqdm  # it imports asyncio, which answering a mistake should not wait for

    # A notebook's output is no terminal, but tqdm has chosen its own bars for it.
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    hidden = True if not rank().leads else (False if notebook else None)  # None: shown in a terminal only
    return tqdm(items, total=total, desc=label, unit=unit, leave=False, disable=hidden, dynamic_ncols=True)


LOOK = 1.0
"""Seconds between two looks at what a bar shows beside its count."""


class Bar:
    """A bar that is shown; calling it counts a unit.

    Parameters
    ----------
    progress : object
        tqdm's.
    """

    def __init__(self, progress: Any):
        self._progress = progress
        self._looked = -LOOK

    def __call__(self) -> None:
        """Count one unit as done."""
        self._progress.update(1)

    def show(self, text: Callable[[int, float], str]) -> None:
        """Show something beside the count.

        Parameters
        ----------
        text : callable
            Takes the units that are done and how many are done in a second. It is called once in `LOOK` seconds at
            most, and never where no bar is seen.
        """
        progress = self._progress
        if progress.disable or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        known = progress.format_dict
        speed = known["rate"] or (known["n"] / known["elapsed"] if known["elapsed"] else 0.0)
        progress.set_postfix_str(text(known["n"], speed))


@contextmanager
def bar(label: str, total: int, unit: str = "batch") -> Iterator[Bar]:
    """Show a bar while open.

    Parameters
    ----------
    label : str
        What is being done.
    total : int
        Number of units.
    unit : str, optional
        What is counted.

    Yields
    ------
    Bar
    """
    with _tqdm(label, unit, total) as progress:
        yield Bar(progress)


def watched(label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Pass items on while showing a bar.

    Parameters
    ----------
    label : str
        What is being done.
    items : iterable
        The items.
    total : int
        Number of items.

    Yields
    ------
    object
        The items, unchanged.
    """
    yield from _tqdm(label, "batch", total, items)


def say(text: str = "") -> None:
    """Print a line for the user, in the process that leads.

    Parameters
    ----------
    text : str, optional
        The line; an empty one by default. It is printed as `visible` returns it.
    """
    if rank().leads:
        print(visible(text), flush=True)


def visible(text: str) -> str:
    r"""Return text in which all is escaped that does not print.

    Names and values from records and files may hold characters that move the cursor, colour a terminal, turn the
    direction of writing, or cannot be encoded: an escape character becomes ``\x1b``.

    Parameters
    ----------
    text : str
        Ends of lines stay as they are.

    Returns
    -------
    str
    """
    shown = (one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode("ascii") for one in text)
    return text if text.isprintable() else "".join(shown)


def one_line(text: str) -> str:
    r"""Return `visible` text in which ends of lines are escaped too.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    return visible(text).replace("\n", "\\n")

"""What a run shows the user: lines on standard output, and progress bars with the time left on standard error.

Bars are shown in a terminal and in a notebook. If several processes share a run, one of them prints.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

from bench.core.rank import rank

T = TypeVar("T")


def _hidden() -> bool | None:
    """Return tqdm's ``disable``: None shows a bar in a terminal only, False always, True never."""
    if not rank().leads:
        return True
    # A notebook's output is no terminal, but tqdm has chosen its own bars for it.
    return False if any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__) else None


@contextmanager
def bar(label: str, total: int, unit: str = "batch") -> Iterator[Callable[[], None]]:
    """Show a bar while open; call what it yields once for every unit done."""
    with tqdm(total=total, desc=label, unit=unit, leave=False, disable=_hidden(), dynamic_ncols=True) as progress:

        def advance() -> None:
            progress.update(1)

        yield advance


def watched(label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Pass items on while showing a bar."""
    yield from tqdm(items, total=total, desc=label, unit="batch", leave=False, disable=_hidden(), dynamic_ncols=True)


def say(text: str = "") -> None:
    """Print a line for the user."""
    if rank().leads:
        print(text, flush=True)

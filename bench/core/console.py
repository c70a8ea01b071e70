"""What a run shows the user: lines on standard output, and progress bars with the time left on standard error.

Bars are shown in a terminal and in a notebook. If several processes share a run, one of them prints.
"""

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


@contextmanager
def bar(label: str, total: int, unit: str = "batch") -> Iterator[Callable[[], None]]:
    """Show a bar while open; call what it yields once for every unit done."""
    with _tqdm(label, unit, total) as progress:

        def advance() -> None:
            progress.update(1)

        yield advance


def watched(label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Pass items on while showing a bar."""
    yield from _tqdm(label, "batch", total, items)


def say(text: str = "") -> None:
    """Print a line for the user."""
    if rank().leads:
        print(text, flush=True)

"""``python -m bench list``: what is registered, and everything about one entry."""

from __future__ import annotations

from bench.cli.verb import Verb
from bench.core.errors import UserError


def call(words: list[str]) -> int:
    """Print tables of what is registered, or everything about one entry."""
    from bench.config.listing import KINDS, details, listing  # the registry comes with it: see bench.cli.verb

    kind = KINDS.get(words[0]) if words else None
    names = words[1:] if kind else words
    if len(names) > 1:
        raise UserError(f'"list" takes a kind and one name, not {" ".join(words)}')
    if names:
        print(details(names[0], kind))
    else:
        print(listing([kind]) if kind else listing())
    return 0


LIST = Verb(
    name="list",
    summary="show methods, streams, datasets and models, or everything about one",
    usage="list [methods|streams|datasets|models] [NAME]",
    help="""\
Without NAME: a table, for which nothing is imported. With NAME: all settings with type, default, allowed values and
the paper's symbols; for a method how it relates to its paper; for a stream its label space and training budget.

examples
  python -m bench list
  python -m bench list methods
  python -m bench list methods keeplora
  python -m bench list models ViT-B-16
  python -m bench list methods path/to/mine.py
""",
    call=call,
)

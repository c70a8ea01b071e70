"""What a user did wrong, in one sentence, with the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 100
"""How many characters of a value a sentence shows."""

LONGEST = 1000
"""How many characters of a sentence are shown; what a user has to do stands at its end."""

LISTED = 12
"""How many valid names a sentence lists before it says "and N more"."""


class UserError(Exception):
    """A mistake of the user's: one sentence naming the setting or file, and the remedy.

    The command line prints it as ``error: <sentence>`` without a traceback and exits with status 2. Several problems
    at once are one error whose sentences are joined by newlines.
    """


def together(problems: Iterable[str]) -> UserError:
    """Return one error for several problems: each once, and each on one line of bounded length, whatever it quotes.

    Parameters
    ----------
    problems : iterable of str
        A sentence each.

    Returns
    -------
    UserError
    """
    lines = dict.fromkeys(one.replace("\n", "\\n") for one in problems)
    half = LONGEST // 2
    return UserError("\n".join(one if len(one) <= LONGEST else f"{one[:half]} ... {one[-half:]}" for one in lines))


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name nearest to ``name``, ignoring case, or None when nothing is near."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return what to add to a sentence about an unknown name.

    Parameters
    ----------
    name : str
        What the user wrote.
    valid : iterable of str
        The names that would have been understood.

    Returns
    -------
    str
        ``' (did you mean "keeplora"?)'``, or the valid names when none is near; it starts with a blank.
    """
    names = sorted(set(valid))
    if not names:
        return " (there are none)"
    near = nearest(name, names)
    if near is not None:
        return f' (did you mean "{near}"?)'
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f" (valid: {', '.join(names[:LISTED])}{more})"


def shorten(text: str) -> str:
    """Return what a sentence shows of a value: one line of printable characters, the end of a long one left out."""
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in shown)

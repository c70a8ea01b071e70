"""``python -m bench check``: test anyone's method against the contract."""

from __future__ import annotations

from bench.cli.verb import Verb
from bench.config.words import split
from bench.core.errors import UserError


def call(words: list[str]) -> int:
    """Print a line for every contract test; the exit status is 0 if the method keeps the contract, else 1."""
    pairs, plain = split(words)
    if plain or not any(pair.key == "method" and pair.value for pair in pairs):
        raise UserError("check needs a method: python -m bench check method=NAME (or a file.py)")
    for pair in pairs:
        if pair.key.partition(".")[0] != "method":
            raise UserError(f'check takes settings of the method only, not "{pair.key}": as in method.KEY=VALUE')
    from bench.config.resolve import resolve_method  # a mistake in a setting must not wait for torch

    method, settings = resolve_method(words)
    from bench.learning.contract import CONTRACT, verify  # torch comes with it

    failures = 0
    for verdict in verify(method, settings):
        print(f"{'FAILED' if verdict.problem else 'ok    '} {verdict.test}: {verdict.promise}")
        if verdict.problem:
            print(f"       {verdict.problem}")
            failures += 1
    name = [pair.value for pair in pairs if pair.key == "method"][-1]
    print(f"{name}: {len(CONTRACT) - failures} of {len(CONTRACT)} contract tests hold")
    return 1 if failures else 0


CHECK = Verb(
    name="check",
    summary="test anyone's method against the contract",
    usage="check method=NAME [method.KEY=VALUE...]",
    help="""\
Determinism, frozen parameters, saving and restoring its memory, merging, and a run over a toy stream. The toy model is
narrow (width 64 in the image tower, 48 in the text tower): give another value where a default does not fit it.

examples
  python -m bench check method=keeplora
  python -m bench check method=path/to/mine.py
  python -m bench check method=path/to/mine.py method.rank=4
""",
    call=call,
)

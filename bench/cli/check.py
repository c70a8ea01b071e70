"""``python -m bench check``: test anyone's method against the contract."""

from __future__ import annotations

from bench.cli.verb import Verb
from bench.config.words import split
from bench.core.errors import UserError

KEYS = ("method", "stream", "train", "data")
"""Groups of settings that `check` takes."""


def call(words: list[str]) -> int:
    """Print a line for every contract test; the exit status is 0 if the method keeps the contract, else 1."""
    pairs, plain = split(words)
    if plain or not any(pair.key == "method" and pair.value for pair in pairs):
        raise UserError("check needs a method: python -m bench check method=NAME (or a file.py)")
    groups = {pair.key.partition(".")[0] for pair in pairs}
    if others := sorted(groups - set(KEYS)):
        raise UserError(f'check takes settings of {", ".join(KEYS)} only, not of "{others[0]}"')
    from bench.config.resolve import resolve, resolve_method  # a mistake in a setting must not wait for torch

    resolved = resolve(words) if groups > {"method"} else None
    method, settings = resolve_method([pair.word for pair in pairs if pair.key.partition(".")[0] == "method"])
    from bench.trials.contract import CONTRACT, verify  # torch comes with it
    from bench.trials.trial import TRAIN, small_tasks, train_of

    tasks, train = [], TRAIN
    if resolved is not None and "stream" in groups:  # what the stream has tuned for the method counts with it
        tasks, settings = small_tasks(resolved), resolved.method_settings
        train = train_of(resolved, ("tuned", "user"))
    elif resolved is not None:
        train = train_of(resolved)
    failures = 0
    for verdict in verify(method, settings, tasks, train):
        print(f"{'FAILED' if verdict.problem else 'ok    '} {verdict.test}: {verdict.promise}", flush=True)
        if verdict.problem:
            print(f"       {verdict.problem}")
            failures += 1
    name = [pair.value for pair in pairs if pair.key == "method"][-1]
    print(f"{name}: {len(CONTRACT) - failures} of {len(CONTRACT)} contract tests hold")
    return 1 if failures else 0


CHECK = Verb(
    name="check",
    summary="test anyone's method against the contract",
    usage="check method=NAME [method.KEY=VALUE...] [train.KEY=VALUE...] [stream=NAME...] [data=DIR]",
    help="""\
Determinism, frozen parameters, merging, its memory, what it keeps beside it, training that is broken off after some
steps, and two small tasks in every label space that it declares. The tasks are coloured noise, or some images of the
first two tasks of a stream. The toy model is narrow (width 64 in the image tower, 48 in the text tower): give another
value where a default does not fit it.

examples
  python -m bench check method=keeplora
  python -m bench check method=path/to/mine.py
  python -m bench check method=path/to/mine.py method.rank=4 train.optimizer=sgd
  python -m bench check method=path/to/mine.py stream=pocket
""",
    call=call,
)

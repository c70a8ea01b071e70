"""``python -m bench diff``: show what differs between two runs."""

from __future__ import annotations

from bench.cli.verb import Verb, folder
from bench.core.errors import UserError


def call(words: list[str]) -> int:
    """Print the differences between two run directories."""
    from bench.compare.diff import diff  # numpy comes with it: see bench.cli.verb

    if len(words) != 2:
        raise UserError(f"diff compares two run directories, not {len(words)}: python -m bench diff RUN_A RUN_B")
    print(diff(folder(words[0]), folder(words[1])))
    return 0


DIFF = Verb(
    name="diff",
    summary="show only what differs between two runs",
    usage="diff RUN_A RUN_B",
    help="""\
Settings, data, weights, prompts, code, packages and results; what is equal is left out.

example
  python -m bench diff runs/pocket/pocket/lora/0123456789-s0 runs/pocket/pocket/lora/0123456789-s1
""",
    call=call,
)

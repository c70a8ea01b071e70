"""The command line: which verb a line means, help, errors and exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bench.cli.check import CHECK
from bench.cli.compare import COMPARE, DIFF
from bench.cli.data import DATA
from bench.cli.list import LIST
from bench.cli.profile import PROFILE
from bench.cli.reuse import ANALYSE, EVALUATE, EXPORT, PROBE
from bench.cli.run import RUN
from bench.cli.sweep import RECIPE, SWEEP, TUNE
from bench.cli.tracking import DASHBOARD, MIRROR
from bench.core.console import visible
from bench.core.errors import UserError, suggest
from bench.core.signals import Stopped

VERBS = {
    verb.name: verb
    for verb in (
        RUN, SWEEP, TUNE, RECIPE, LIST, DATA, COMPARE, DIFF, EVALUATE, PROBE, EXPORT, ANALYSE, MIRROR, DASHBOARD,
        PROFILE, CHECK,
    )
}  # fmt: skip
"""All verbs by name, in the order of the overview."""

HELP = ("-h", "--help")
"""Words that ask for help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``python -m bench``; by default those of this process.

    Returns
    -------
    int
        The exit status: 0, 2 for a user's mistake, 130 when interrupted, 141 when the reader of the output is gone, or
        what the verb returns.
    """
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a closed pipe is caught, rather than when the interpreter ends
        return status
    except UserError as error:
        for sentence in str(error).split("\n"):
            print(f"error: {visible(sentence)}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print("stopped; the same line again continues the run", file=sys.stderr)
        return 128 + stopped.signum
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # "| head" has read enough. What is still buffered goes nowhere, instead of failing again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(words: list[str]) -> int:
    name, rest = words[0] if words else "help", words[1:]
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name == "help" or name in HELP:
        print(_overview())
        return 0
    if name not in VERBS:
        raise UserError(f'unknown verb "{name}"{suggest(name, VERBS)}')
    if any(word in HELP for word in rest):
        print(_help(name))
        return 0
    return VERBS[name].call(rest)


def _overview() -> str:
    width = max(len(name) for name in VERBS)
    verbs = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"""\
usage: python -m bench VERB ...

Continual learning of CLIP-like models: methods on streams of tasks, recorded and compared.

verbs
{verbs}

examples
  python -m bench run method=keeplora
  python -m bench list
  python -m bench compare runs

"python -m bench VERB --help" explains a verb."""


def _help(name: str) -> str:
    verb = VERBS[name]
    text = f"usage: python -m bench {verb.usage}\n\n{verb.summary}\n\n{verb.help}".rstrip()
    return f"{text}\n\n{verb.more_help()}" if verb.more_help else text

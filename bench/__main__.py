"""``python -m bench``, and the command ``keeplora-bench``, which does the same."""

import io
import sys

from bench.cli.main import main


def command() -> int:
    """Do what the command line of this process says; return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a paper's symbol must not fail where the terminal is not UTF-8
    return main()


if __name__ == "__main__":
    sys.exit(command())

"""``python -m bench``."""

import io
import sys

from bench.cli.main import main

if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # a paper's symbol must not fail where the terminal is not UTF-8

sys.exit(main())

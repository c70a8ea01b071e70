"""``python -m bench compare`` and ``diff``: many runs side by side, and two of them."""

from __future__ import annotations

import os
import sys

from bench.cli.verb import Verb, folder
from bench.config.words import split
from bench.core.errors import UserError


def compare(words: list[str]) -> int:
    """Print tables of runs side by side, and write the files that were asked for."""
    # numpy and scipy come with these: see bench.cli.verb.
    from bench.compare.export import FORMATS, write
    from bench.compare.export.cells import cell_text
    from bench.compare.export.task_text import task_text
    from bench.compare.grouping import gather
    from bench.compare.tables import OPTIONS, sections, text

    pairs, plain = split(words, paths=True)
    paths = [folder(word) for word in plain]
    if not paths:
        raise UserError("compare needs a run directory or a folder of them: python -m bench compare runs")
    filters = {key: value for key, value, _ in pairs}
    options = {key: filters.pop(key) for key in (*OPTIONS, *FORMATS) if key in filters}
    comparison = gather(paths, filters)
    parts = sections(comparison, options)
    show = {"task": task_text, "cell": cell_text}.get(options.get("per", ""), text)
    print(show(comparison, parts, bold=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    for line in write(parts, options, comparison.left_out):
        print(line)
    return 0


def differ(words: list[str]) -> int:
    """Print the differences between two run directories."""
    from bench.compare.diff import diff  # numpy comes with it: see bench.cli.verb

    if len(words) != 2:
        raise UserError(f"diff compares two run directories, not {len(words)}: python -m bench diff RUN_A RUN_B")
    print(diff(folder(words[0]), folder(words[1])))
    return 0


COMPARE = Verb(
    name="compare",
    summary="put runs side by side: mean and spread over seeds, differences, published numbers",
    usage="compare RUNDIR... [KEY=VALUE...]",
    help="""\
RUNDIR is a run directory or any folder above some. KEY=VALUE keeps the runs with that setting, KEY=[A,B] those with one
of several, flags.NAME=no those of methods without a flag. Runs that may not be compared get separate tables;
docs/compare.md explains the rule and the statistics.

  per=task          Transfer, Average and Last of every task, as papers print them, in place of means over tasks
  per=cell          ours minus what papers published of the same method, number by number, and which lie within chance
  columns=[A,B]     the columns in this order: transfer, average, last, seconds, any metric of docs/metrics.md
  rows=[A,B]        the rows in this order: methods, labels, fingerprints, published methods (published: all of them)
  names={A: B}      what rows, tasks and columns are called
  baseline=NAME     the method that others are compared with (by default KeepLoRA, else the first one that trains)
  flags=on          what each method needs, keeps and adds: docs/methods.md
  published=off     leave out what papers published on the same stream and model
  csv=FILE          write all numbers, one line for every method and metric
  latex=FILE        write the tables for a paper in LaTeX
  html=FILE         write a page to look at: works offline, in one file
  pictures=FOLDER   write pictures for papers, as SVG and PNG

examples
  python -m bench compare runs
  python -m bench compare runs/pocket method=[keeplora,lora] train.epochs=5 baseline=lora
  python -m bench compare runs stream=mtil-order1 csv=numbers.csv latex=table.tex
  python -m bench compare runs per=task rows=[lora,keeplora] 'names={lora: LoRA, keeplora: KeepLoRA}' latex=table.tex
  python -m bench compare runs method=zscl-full per=cell csv=cells.csv
  python -m bench compare runs html=comparison.html pictures=figures
""",
    call=compare,
)

DIFF = Verb(
    name="diff",
    summary="show only what differs between two runs",
    usage="diff RUN_A RUN_B",
    help="""\
Settings, data, weights, prompts, code, packages and results; what is equal is left out.

example
  python -m bench diff runs/pocket/pocket/lora/0123456789-s0 runs/pocket/pocket/lora/0123456789-s1
""",
    call=differ,
)

"""The verbs of ``python -m bench``, their help and their errors.

Verbs import what they need when they are called, so that a table of names does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError, suggest
from bench.core.signals import Stopped

HELP = ("-h", "--help")


@dataclass(frozen=True)
class Verb:
    """One verb: what it does in a line, how it is called, its help, and the function that returns an exit status."""

    summary: str
    usage: str
    help: str
    call: Callable[[list[str]], int]


def _run(words: list[str]) -> int:
    from bench.config.resolve import resolve

    resolved = resolve(words)
    from bench.runs.run import run  # torch comes with it: mistakes are told before that

    run(resolved, ["python", "-m", "bench", "run", *words])
    return 0


def _list(words: list[str]) -> int:
    from bench.cli import list as listing

    kind = listing.KINDS.get(words[0]) if words else None
    names = words[1:] if kind else words
    if len(names) > 1:
        raise UserError(f'"list" takes a kind and one name, not {" ".join(words)}')
    if names:
        print(listing.details(names[0], kind))
    else:
        print(listing.listing([kind]) if kind else listing.listing())
    return 0


def _compare(words: list[str]) -> int:
    from bench.compare import export
    from bench.compare import runs as results
    from bench.compare import tables as compare

    # An existing path is a path even when its name holds an equals sign.
    filters = [word for word in words if "=" in word and not Path(word).exists()]
    paths = [_folder(word) for word in words if word not in filters]
    if not paths:
        raise UserError("compare needs a run directory or a folder of them: python -m bench compare runs")
    pairs = dict(word.removeprefix("--").partition("=")[::2] for word in filters)
    options = {key: pairs.pop(key) for key in (*compare.OPTIONS, *export.FORMATS) if key in pairs}
    comparison = results.gather(paths, pairs)
    sections = compare.sections(comparison, options)
    print(compare.text(comparison, sections, bold=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    for line in export.write(sections, options, comparison.left_out):
        print(line)
    return 0


def _diff(words: list[str]) -> int:
    from bench.compare import diff as difference

    if len(words) != 2:
        raise UserError(f"diff compares two run directories, not {len(words)}: python -m bench diff RUN_A RUN_B")
    print(difference.diff(_folder(words[0]), _folder(words[1])))
    return 0


def _mirror(words: list[str]) -> int:
    from bench.tracking import mirror as track

    pairs = [word for word in words if "=" in word and not Path(word).exists()]
    paths = [_folder(word) for word in words if word not in pairs]
    if not paths:
        raise UserError("mirror needs a run directory or a folder of them: python -m bench mirror runs")
    track.upload_all(paths, pairs, lambda text: print(text, flush=True))
    return 0


def _dashboard(words: list[str]) -> int:
    from bench.tracking.dashboard import dashboard

    dashboard(words, lambda text: print(text, flush=True))
    return 0


def _check(words: list[str]) -> int:
    from bench.config import registry

    pairs = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    if set(pairs) != {"method"} or not pairs["method"]:
        raise UserError("check takes one word: python -m bench check method=NAME (or a file.py)")
    registry.load("method", pairs["method"])
    from bench.cli import check

    return int(check.check(pairs["method"]) or 0)


def _profile(words: list[str]) -> int:
    from bench.cli.profile import profile

    print(profile(words))
    return 0


def _data(words: list[str]) -> int:
    if not words or "=" in words[0]:
        raise UserError("say which stream: python -m bench data mtil-order1 data=DIR")
    from bench.cli import data as doctor

    return doctor.data(words[0], words[1:])


def _sweep(words: list[str]) -> int:
    from bench.sweep.launch import sweep

    return sweep(words)


def _folder(word: str) -> Path:
    path = Path(word).expanduser()
    if not path.is_dir():
        raise UserError(f'there is no folder "{word}": give a run directory, or a folder that holds some')
    return path


def _all_run_settings() -> str:
    from bench.cli.list import settings_table
    from bench.config.run_settings import run_settings

    return "settings of every run\n" + settings_table(run_settings().values())


VERBS = {
    "run": Verb(
        "learn a stream of tasks with a method, and record what is known after each",
        "run method=NAME [KEY=VALUE...]",
        """\
Everything is KEY=VALUE, in any order; --KEY=VALUE means the same. method=NAME, stream=NAME and model=NAME pick
entries of "python -m bench list"; method.KEY=VALUE sets one of the entry's own settings, or all members of a group of
them (method.feature_energy=0.9). The same line again continues an unfinished run and leaves a finished one alone.

examples
  python -m bench run method=keeplora
  python -m bench run method=keeplora method.rank=8 train.epochs=5 seed=1 out=elsewhere
  python -m bench run method=path/to/mine.py stream=pocket device=cpu
  python -m bench run method=lora model=ViT-B-16/openai

short names often reached for
  out=DIR  seed=N  data=DIR  device=auto|cpu|cuda|mps  train.epochs=N  train.lr=X
  track.wandb=auto|online|offline|off
""",
        _run,
    ),
    "sweep": Verb(
        "run every point of a W&B sweep file, or show how far it is",
        "sweep FILE [status] [KEY=VALUE...]",
        """\
FILE is a W&B sweep file with method: grid or random, or the name of one that comes along (compare_methods, seeds,
keeplora_rank, ...). Every point is checked before one starts; finished points are left alone, failed and interrupted
ones are run again by the same line. "status" shows states and results, dry_run=true the points, and neither starts any.

KEY=VALUE is a setting for every point, as for "run", or one of
  launch=inline|local|slurm  one point after another with its output (default), several at a time, or a job each
  launch.processes=N     points at a time with launch=local (half the cores)
  launch.partition, .timeout_min, .gpus_per_node, .cpus_per_task, .mem_gb, .array_parallelism, .setup, .constraint,
  .nodes, .tasks_per_node, .wait, .slurm.KEY    with launch=slurm; docs/cluster.md tells what they mean
  preempt=N              stop running point N as a preemption does
  count=N                the first N points; needed by method: random without run_cap
  sweep_seed=N           which points method: random draws (0)
  dry_run=true           show points, words, run directories and states

examples
  python -m bench sweep compare_methods
  python -m bench sweep sweeps/keeplora_rank.yaml launch=local launch.processes=2 out=elsewhere
  python -m bench sweep compare_methods launch=slurm launch.partition=gpu launch.gpus_per_node=1 launch.mem_gb=32
  python -m bench sweep compare_methods status
""",
        _sweep,
    ),
    "list": Verb(
        "show methods, streams, datasets and models, or everything about one",
        "list [methods|streams|datasets|models] [NAME]",
        """\
Without NAME a table, for which nothing is imported. With NAME all settings with type, default, allowed values and
the paper's symbols; for a method how it relates to its paper; for a stream its label space and training budget.

examples
  python -m bench list
  python -m bench list methods
  python -m bench list methods keeplora
  python -m bench list models ViT-B-16
  python -m bench list methods path/to/mine.py
""",
        _list,
    ),
    "data": Verb(
        "say which datasets of a stream are there, and where to get the others",
        "data STREAM data=DIR [KEY=VALUE...]",
        """\
For every dataset: present, incomplete, missing, or differing from the published one; images and classes found and
expected; size, licence, how to get it, and which official download is known not to work. The exit status is 0 when all
are ready, else 1.

examples
  python -m bench data mtil-order1 data=/data/MTIL
  python -m bench data xtail data=/data/MTIL stream.splits=torchvision
  python -m bench data custom data=/data stream.datasets=[dtd,plants]
""",
        _data,
    ),
    "compare": Verb(
        "put runs side by side: mean and spread over seeds, differences, published numbers",
        "compare RUNDIR... [KEY=VALUE...]",
        """\
RUNDIR is a run directory or any folder above some. KEY=VALUE keeps the runs with that setting, KEY=[A,B] those with one
of several. Runs that may not be compared stand in different tables; docs/compare.md tells the rule and the statistics.

  baseline=NAME     the method that others are compared with (keeplora, else the first one that trains)
  published=off     leave out what papers published on the same stream and model
  csv=FILE          write all numbers, one line for every method and metric
  latex=FILE        write the tables for LaTeX, with booktabs
  html=FILE         write a page to look at: works offline, in one file
  pictures=FOLDER   write pictures for papers, as SVG and PNG

examples
  python -m bench compare runs
  python -m bench compare runs/pocket method=[keeplora,lora] train.epochs=5 baseline=lora
  python -m bench compare runs stream=mtil-order1 csv=numbers.csv latex=table.tex
  python -m bench compare runs html=comparison.html pictures=figures
""",
        _compare,
    ),
    "diff": Verb(
        "show only what differs between two runs",
        "diff RUN_A RUN_B",
        """\
Settings, data, weights, prompts, code, packages and results; what is equal is left out.

example
  python -m bench diff runs/pocket/pocket/lora/0123456789-s0 runs/pocket/pocket/lora/0123456789-s1
""",
        _diff,
    ),
    "mirror": Verb(
        "put records that are on disk into W&B: runs made without it, or when it could not be reached",
        "mirror RUNDIR... [track.KEY=VALUE...]",
        """\
RUNDIR is a run directory or any folder above some. The W&B run is the one that the record was mirrored in before, if
it was; only what W&B does not have yet is sent. track.wandb=offline writes files for "wandb sync" instead.

examples
  python -m bench mirror runs
  python -m bench mirror runs/pocket/pocket/lora/0123456789-s0 track.project=elsewhere
  python -m bench mirror runs track.wandb=offline
""",
        _mirror,
    ),
    "dashboard": Verb(
        "make a saved view and a report in W&B of the runs of a project, or bring them up to date",
        "dashboard ENTITY/PROJECT [stream=NAME] [KEY=VALUE...]",
        """\
Results by method, scatter of Transfer and Last, the accuracy of every task over the stages, training, costs, matrices,
and what settings did, where they differ. KEY=VALUE keeps the runs with that setting; stream, model and evaluate.split
must be given where the project has several of them. The same line again writes the same view and report anew.

examples
  python -m bench dashboard my-team/keeplora-bench
  python -m bench dashboard my-team/keeplora-bench stream=pocket evaluate.split=test
  python -m bench dashboard my-team/keeplora-bench stream=pocket method=keeplora evaluate.split=validation
""",
        _dashboard,
    ),
    "profile": Verb(
        "say what a method costs on a model: seconds by phase, memory, trained and stored numbers",
        "profile method=NAME [KEY=VALUE...]",
        """\
One synthetic task of noise images, on a model with its weights or with random ones, so that costs are known without
downloads. classes=N prompts (100), batch=N images a step (8), steps=N training steps (3); everything else as for a run.

examples
  python -m bench profile method=keeplora
  python -m bench profile method=keeplora model=ViT-B-16 weights=random classes=100 batch=8
""",
        _profile,
    ),
    "check": Verb(
        "test anyone's method against the contract",
        "check method=NAME",
        """\
Determinism, frozen parameters, saving and restoring its memory, merging, and a run over a toy stream.

examples
  python -m bench check method=keeplora
  python -m bench check method=path/to/mine.py
""",
        _check,
    ),
}


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

"python -m bench VERB --help" tells more."""


def _help(name: str) -> str:
    verb = VERBS[name]
    text = f"usage: python -m bench {verb.usage}\n\n{verb.summary}\n\n{verb.help}".rstrip()
    return f"{text}\n\n{_all_run_settings()}" if name == "run" else text


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in HELP:
        print(_overview())
        return 0
    name, rest = words[0], words[1:]
    if name == "help":
        name, rest = (rest[0], ["--help"]) if rest else ("run", [])
        if not rest:
            print(_overview())
            return 0
    if name not in VERBS:
        raise UserError(f'unknown verb "{name}"{suggest(name, VERBS)}')
    if any(word in HELP for word in rest):
        print(_help(name))
        return 0
    return VERBS[name].call(rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``python -m bench``; by default those of this process.

    Returns
    -------
    int
        The exit status: 0, 2 for a user's mistake, 130 when interrupted, 141 when the reader of the output is gone.
    """
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a closed pipe is caught, rather than when the interpreter ends
        return status
    except UserError as error:
        for sentence in str(error).splitlines():
            print(f"error: {sentence}", file=sys.stderr)
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

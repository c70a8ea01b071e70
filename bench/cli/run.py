"""``python -m bench run``: learn a stream of tasks with a method."""

from __future__ import annotations

from bench.cli.verb import Verb


def call(words: list[str]) -> int:
    """Start a run, continue it, or show a finished one."""
    from bench.runs.result import run  # not before a run is asked for: see bench.cli.verb

    run(words, ["python", "-m", "bench", "run", *words])
    return 0


def settings_of_every_run() -> str:
    """Return a table of all settings that do not depend on method, stream or model."""
    from bench.config.listing import settings_table
    from bench.config.run_settings import run_settings

    return "settings of every run\n" + settings_table(run_settings().values())


RUN = Verb(
    name="run",
    summary="learn a stream of tasks with a method, and record what is known after each",
    usage="run method=NAME [KEY=VALUE...]",
    help="""\
Everything is KEY=VALUE, in any order; --KEY=VALUE means the same. method=NAME, stream=NAME and model=NAME pick
entries of "python -m bench list"; method.KEY=VALUE sets one of the entry's own settings, or all members of a group of
them (method.feature_energy=0.9). The same line again continues an unfinished run and leaves a finished one alone.

examples
  python -m bench run method=keeplora
  python -m bench run method=keeplora method.rank=8 train.epochs=5 seed=1 out=elsewhere
  python -m bench run method=path/to/mine.py stream=pocket device=cpu
  python -m bench run method=lora model=ViT-B-16/openai

settings used most often
  settings=FILE  what "tune" chose for the method; other words win over it
  out=DIR  seed=N  data=DIR  device=auto|cpu|cuda|mps  train.epochs=N  train.lr=X
  track.wandb=auto|online|offline|off
""",
    call=call,
    more_help=settings_of_every_run,
)

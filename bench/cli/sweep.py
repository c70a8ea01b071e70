"""``python -m bench sweep``, ``tune`` and ``recipe``: run every point of a sweep file, or choose settings by one."""

from __future__ import annotations

from bench.cli.verb import Verb


def call(words: list[str]) -> int:
    """Run, show or stop the points of a sweep."""
    from bench.sweep.verbs import sweep  # not before a sweep is asked for: see bench.cli.verb

    return sweep(words)


def call_tune(words: list[str]) -> int:
    """Run a grid for each method, and choose the best setting of each."""
    from bench.sweep.verbs import tune  # as above

    return tune(words)


def call_recipe(words: list[str]) -> int:
    """Show or run a published table."""
    from bench.recipes.verb import recipe  # as above

    return recipe(words)


SWEEP = Verb(
    name="sweep",
    summary="run every point of a W&B sweep file, or show how far it is",
    usage="sweep FILE [status] [KEY=VALUE...]",
    help="""\
FILE is a W&B sweep file with method: grid or random, or the name of one that comes along (compare_methods, seeds,
keeplora_rank, ...). Every point is checked before one starts. Finished points are left alone; the same line again runs
failed and interrupted ones again. "status" shows states and results, dry_run=true the points; neither starts any.

KEY=VALUE is a setting for every point, as for "run", or one of
  launch=inline|local|slurm  one point after another with its output (default), several at a time, or a job each
  launch.processes=N     points at a time with launch=local (half the cores)
  launch.partition, .timeout_min, .gpus_per_node, .cpus_per_task, .mem_gb, .array_parallelism, .setup, .constraint,
  .nodes, .tasks_per_node, .wait, .slurm.KEY    with launch=slurm; docs/cluster.md explains them
  preempt=N              stop running point N as a preemption does
  count=N                the first N points; needed by method: random without run_cap, and for more than 10,000
  sweep_seed=N           which points method: random draws (0)
  dry_run=true           show points, words, run directories and states
  best=METRIC            the best setting over its seeds, and the line that runs it; starts none
  sort=METRIC            with status: the points sorted by a metric, the best first
METRIC is transfer, average, last or another one of docs/metrics.md.

examples
  python -m bench sweep compare_methods
  python -m bench sweep sweeps/keeplora_rank.yaml launch=local launch.processes=2 out=elsewhere
  python -m bench sweep compare_methods launch=slurm launch.partition=gpu launch.gpus_per_node=1 launch.mem_gb=32
  python -m bench sweep compare_methods status sort=last
  python -m bench sweep tune method=lora best=last
""",
    call=call,
)

TUNE = Verb(
    name="tune",
    summary="choose the settings of a method by a grid on validation images, for use on another stream",
    usage="tune method=NAME stream=NAME [status] [KEY=VALUE...]",
    help="""\
Runs every setting of a grid with every seed on the validation images of the stream, and chooses the setting with the
highest mean. It ends with the line to run, and writes what was chosen, with all that was tried, to a file for
"run method=NAME settings=FILE". Like a sweep it leaves finished points alone, and the same line continues it. Nothing
is chosen for a method while one of its points is missing. If two means are equal, the smaller learning rate wins.

method=NAME is a method, a file.py, a list as in method=[lora,keeplora], or all. KEY=VALUE is a setting for every point,
as for "run", or one of
  grid=FILE              a sweep file with method: grid, or the name of one that comes along (tune); FILE_NAME.yaml
                         beside it is the grid of the method NAME
  seeds=[0,1]            seeds of every setting (those of the grid; 0 and 1 where it has none)
  metric=METRIC          what decides (average; h_mean where the stream asks to forget); docs/metrics.md has all
  to=FILE                where the choice is written (OUT/STREAM/MODEL/tuned.yaml); what it has for others stays
  partial=true           choose among the settings that are finished with all their seeds; starts no point
  launch=..., launch.KEY=..., preempt=N, dry_run=true, status, sort=METRIC    as for "sweep"

examples
  python -m bench tune method=lora stream=pocket-tuning
  python -m bench tune method=path/to/mine.py stream=cifar100-10 grid=mine.yaml seeds=[0,1,2]
  python -m bench tune method=all stream=pocket-tuning launch=local launch.processes=2 to=tuned.yaml
""",
    call=call_tune,
)

RECIPE = Verb(
    name="recipe",
    summary="rerun a published table: what it takes, what must come out, and its runs",
    usage="recipe list | NAME [status|compare] [KEY=VALUE...]",
    help="""\
A recipe is a sweep file in sweeps/recipes/ with the method, the budget and the data of a published table.

  recipe list            all recipes
  recipe NAME            what it takes (datasets with their sizes, weights, images to encode, steps, operations, hours
                         here and on some GPUs) and what must come out. It starts nothing. With KEY=VALUE words it
                         says so for runs with these settings; data=DIR dry_run=true says which datasets are there
  recipe NAME data=DIR   runs it, as "sweep" does; all words of "sweep" may follow. launch=local does so too
  recipe NAME status     how far it is, with the words that it was started with
  recipe NAME compare    mark each published number: within, above, below, not run
  measure=false          leave this machine out, which takes about a minute

examples
  python -m bench recipe list
  python -m bench recipe keeplora-mtil1
  python -m bench recipe keeplora-mtil1 measure=false precision=bf16 train.epochs=1
  python -m bench recipe keeplora-mtil1 data=/data/MTIL launch=slurm launch.gpus_per_node=1
  python -m bench recipe keeplora-mtil1 compare out=runs
""",
    call=call_recipe,
)

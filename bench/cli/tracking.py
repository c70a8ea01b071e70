"""``python -m bench mirror`` and ``python -m bench dashboard``: records and their overview in W&B."""

from __future__ import annotations

from bench.cli.verb import Verb, folder, say
from bench.config.words import split
from bench.core.errors import UserError
from bench.core.signals import at_once


def call_mirror(words: list[str]) -> int:
    """Upload what W&B does not have yet of some runs."""
    from bench.tracking.upload import upload_all  # not before it is asked for: see bench.cli.verb

    pairs, plain = split(words, paths=True)
    paths = [folder(word) for word in plain]
    if not paths:
        raise UserError("mirror needs a run directory or a folder of them: python -m bench mirror runs")
    with at_once():
        upload_all(paths, [pair.word for pair in pairs], say)
    return 0


def call_dashboard(words: list[str]) -> int:
    """Make the view and the report of a project, or bring them up to date."""
    from bench.tracking.dashboard import dashboard  # not before it is asked for: see bench.cli.verb

    dashboard(words, say)
    return 0


MIRROR = Verb(
    name="mirror",
    summary="put records that are on disk into W&B: runs made without it, or when it could not be reached",
    usage="mirror RUNDIR... [track.KEY=VALUE...]",
    help="""\
RUNDIR is a run directory or any folder above some. A record that was mirrored before goes into the same W&B run; only
what W&B does not have yet is sent. track.wandb=offline writes files for "wandb sync" instead.
W&B gets ten minutes for a record; WANDB_FINISH_TIMEOUT sets another number of seconds.

examples
  python -m bench mirror runs
  python -m bench mirror runs/pocket/pocket/lora/0123456789-s0 track.project=elsewhere
  python -m bench mirror runs track.wandb=offline
""",
    call=call_mirror,
)

DASHBOARD = Verb(
    name="dashboard",
    summary="make a saved view and a report in W&B of the runs of a project, or bring them up to date",
    usage="dashboard ENTITY/PROJECT [stream=NAME] [KEY=VALUE...]",
    help="""\
Results by method, scatter of Transfer and Last, the accuracy of every task over the stages, training, costs, matrices,
and the effect of settings that differ. KEY=VALUE keeps the runs with that setting; stream, model and evaluate.split
must be given where the project has several of them. The same line again updates the same view and report.

examples
  python -m bench dashboard my-team/keeplora-bench
  python -m bench dashboard my-team/keeplora-bench stream=pocket evaluate.split=test
  python -m bench dashboard my-team/keeplora-bench stream=pocket method=keeplora evaluate.split=validation
""",
    call=call_dashboard,
)

"""``python -m bench dashboard``: a saved view and a report in W&B."""

from __future__ import annotations

from bench.cli.verb import Verb, say


def call(words: list[str]) -> int:
    """Make the view and the report of a project, or bring them up to date."""
    from bench.tracking.dashboard import dashboard  # not before it is asked for: see bench.cli.verb

    dashboard(words, say)
    return 0


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
    call=call,
)

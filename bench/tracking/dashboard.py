"""``bench dashboard``: a saved view and a report in W&B for the runs of one stream and model, found again by title."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.config.fields import show
from bench.config.resolve import read
from bench.config.run_settings import CHOICES
from bench.config.words import split
from bench.config.written import means
from bench.core.errors import UserError, shorten, suggest, together
from bench.tracking.options import logged_in, settings_files

if TYPE_CHECKING:
    from bench.tracking.panels import Part

TITLE = "keeplora-bench:"
"""How the titles of views and reports made here begin."""

LONGEST = 128
"""Characters that W&B allows in a report's title."""

NEWEST = 1000
"""Runs that are read, the newest first, to find out which panels are wanted."""

NEWEST_FIRST: dict[str, Any] = {"order": "-created_at", "lazy": False, "per_page": 100}
"""How `wandb.Api.runs` is asked for them."""

ALIKE = ("stream.name", "model.name", "evaluate.split")
"""Settings that the runs must have in common, since numbers under several of their values do not compare."""

VIEWS = """
query Views($entity: String!, $project: String!, $type: String!, $after: String) {
    project(name: $project, entityName: $entity) {
        allViews(viewType: $type, first: 50, after: $after) {
            edges { node { id name displayName } }
            pageInfo { endCursor hasNextPage }
        }
    }
}
"""


def dashboard(words: Sequence[str], say: Callable[[str], None]) -> None:
    """Create the view and the report of a project's runs, or update those of the same title.

    Parameters
    ----------
    words : sequence of str
        ENTITY/PROJECT, and KEY=VALUE for settings that the runs must have.
    say : callable
        Prints a line for the user: where view and report are.

    Raises
    ------
    UserError
        If the words are none of these, there is no login, no such run, or W&B refuses.
    """
    entity, project, given = _asked(words)
    if not logged_in(settings_files()):
        raise UserError('dashboard needs a W&B login: call "wandb login" or set WANDB_API_KEY')
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb reads it when it is imported
    try:
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "dashboard needs the package wandb-workspaces: python -m pip install wandb-workspaces"
        ) from None
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    wandb.setup(wandb.Settings(silent=True))  # `say` prints the addresses
    try:
        _make(_Project(wandb.Api(), entity, project), given, say)
    except (wandb.Error, WandbApiFailedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"W&B does not make the dashboard of {entity}/{project} ({reason}): check login, names and network"
        ) from None


def _asked(words: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """Return entity, project, and what is written for the wanted settings, by dotted key."""
    pairs, plain = split(words)
    if len(plain) != 1 or not re.fullmatch(r"[^/\s:?#%\\]+/[^/\s:?#%\\]+", plain[0]):
        said = f", not {' '.join(plain)}" if plain else ""
        raise UserError(f"dashboard needs one ENTITY/PROJECT{said}: python -m bench dashboard my-team/keeplora-bench")
    problems: list[str] = []
    given = {key: text for key, (_, text) in read([pair.word for pair in pairs], problems).items()}
    if problems:
        raise together(problems)
    entity, project = plain[0].split("/")
    return entity, project, given


@dataclass(frozen=True)
class _Project:
    """A project in W&B, and what asks its server."""

    api: Any
    entity: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.name}"

    def runs(self) -> list[Any]:
        """Return the newest runs that bench/tracking/mirror_process.py made."""
        try:
            newest = list(itertools.islice(self.api.runs(self.path, **NEWEST_FIRST), NEWEST))
        except ValueError:  # what wandb raises for a project that does not exist
            raise UserError(
                f"there is no project {self.path} that this login can read: write it as in the address of a run"
            ) from None
        needed = {word for kind in CHOICES for word in (kind, f"{kind}.name")}
        found = [run for run in newest if needed <= run.config.keys()]
        if not found:
            raise UserError(
                f"no run of {self.path} was mirrored by this version: python -m bench mirror runs uploads those on disk"
            )
        return found

    def find(self, kind: str, title: str) -> dict[str, str]:
        """Return id and name of the view of this kind and title; empty if there is none."""
        from wandb_workspaces._graphql import execute_graphql

        after = None
        while True:
            wanted = {"entity": self.entity, "project": self.name, "type": kind, "after": after}
            views = execute_graphql(self.api, VIEWS, wanted)["project"]["allViews"]
            for edge in views["edges"]:
                if edge["node"]["displayName"] == title:
                    return {"id": edge["node"]["id"], "name": edge["node"]["name"]}
            if not views["pageInfo"]["hasNextPage"]:
                return {}
            after = views["pageInfo"]["endCursor"]


def _make(project: _Project, given: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Read the runs, then save view and report."""
    import wandb_workspaces.workspaces as ws

    from bench.tracking import panels

    runs = _kept(project.runs(), given, project.path)
    parts = panels.parts(panels.survey([(run.config, run.summary_metrics) for run in runs]))
    names = {kind: runs[0].config[f"{kind}.name"] for kind in CHOICES if kind != "method" or "method.name" in given}
    others = {key: runs[0].config[key] for key in sorted(given) if key.removesuffix(".name") not in CHOICES}
    title = _title({**names, **others})
    wanted = [ws.Config(kind) == name for kind, name in names.items()]
    if others:
        # W&B's filters do not reach settings with dots in their names.
        wanted.append(ws.Metric("ID").isin([run.id for run in runs]))
    _save_view(project, title, parts, ws.And(*wanted), say)
    _save_report(project, title, parts, ws.And(*wanted), say)


def _save_view(project: _Project, title: str, parts: Sequence[Part], filters: Any, say: Callable[[str], None]) -> None:
    import wandb_workspaces.workspaces as ws

    view = ws.Workspace(
        entity=project.entity,
        project=project.name,
        name=title,
        sections=[ws.Section(name=part.title, panels=part.panels, is_open=True) for part in parts],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config("method")], filters=filters),
    )
    before = project.find("project-view", title)
    # The package knows a view that it has not loaded by these two only; loading it would keep the old panels.
    view._internal_id, view._internal_name = before.get("id", ""), before.get("name", "")
    view.save()
    say(f"view {'updated' if before else 'created'}: {view.url}")


def _save_report(
    project: _Project, title: str, parts: Sequence[Part], filters: Any, say: Callable[[str], None]
) -> None:
    import wandb_workspaces.reports.v2 as wr

    address: dict[str, Any] = {"entity": project.entity, "project": project.name}
    blocks: list[Any] = []
    for part in parts:
        shown = wr.Runset(**address, groupby=[] if part.single else ["config.method"], filters=filters)
        blocks += [wr.H1(part.title), wr.P(part.text), wr.PanelGrid(runsets=[shown], panels=part.panels)]
    about = "Written by: python -m bench dashboard. The same line updates it; edits made here are lost then."
    report = wr.Report(**address, title=title, description=about, blocks=blocks, width="fluid")
    before = project.find("runs", title)
    report.id = before.get("id", "")
    report.save()
    say(f"report {'updated' if before else 'created'}: {report.url}")


def _title(chosen: Mapping[str, Any]) -> str:
    """Return the title by which view and report are found again: what the runs in them have in common."""
    said = f"{TITLE} " + ", ".join(f"{key} {show(value)}" for key, value in chosen.items())
    # W&B's package takes signs like + and = for emojis, which it refuses in names of views.
    title = "".join("-" if unicodedata.category(sign)[0] == "S" else sign for sign in said)
    if len(title) > LONGEST:
        raise UserError(f'"{title}" is longer than the {LONGEST} characters of a title in W&B: give fewer settings')
    return title


def _kept(runs: list[Any], given: Mapping[str, str], path: str) -> list[Any]:
    """Return the runs with the wanted settings, which must be alike in what makes their numbers comparable."""
    known = {key for run in runs for key in run.config if not key.startswith(("identity.", "environment."))}
    for key, text in given.items():
        if key not in known:
            raise UserError(f'no run of {path} has a setting "{key}"{suggest(key, known)}')
        having = [run for run in runs if key in run.config and means(text, run.config[key])]
        if not having:
            there = {show(run.config[key]) for run in runs if key in run.config}
            said = f"{key.removesuffix('.name')}={shorten(text)}"
            raise UserError(f"no run of {path} that is left has {said}{suggest(text, there)}")
        runs = having
    for key in ALIKE:
        several = sorted({str(run.config[key]) for run in runs})
        if len(several) > 1:
            word = key.removesuffix(".name")
            raise UserError(
                f"the runs of {path} differ in {word} ({', '.join(several)}): choose one, as in {word}={several[0]}"
            )
    return runs

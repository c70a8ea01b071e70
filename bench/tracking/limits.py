"""What W&B takes: modes, projects, names, tags. Its client says so after the start of a run, and then sends nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.config.written import SWITCHES
from bench.core.errors import UserError, shorten, suggest, together

MODES = {
    **dict.fromkeys(("online", "run", "shared"), "online"),
    **dict.fromkeys(("offline", "dryrun"), "offline"),
    "disabled": "off",
}
"""What the client calls a mode, and what a run does then."""

LONGEST_TAG = 64
"""Characters of a tag."""

LONGEST_NAME = 128
"""Characters of a project, an entity, a run's name and its id."""

IN_ADDRESSES = "/\\#?%:"
"""Characters that no project has, since it is a part of addresses."""

IN_IDS = ":;,#?/'"
"""Characters that no id of a run has."""


class Given(NamedTuple):
    """A value and who gave it.

    Attributes
    ----------
    value : str or None
    by : str
        The start of a sentence, such as ``track.project=`` or ``WANDB_PROJECT=``.
    """

    value: str | None
    by: str


def standing_mode(variable: str | None, in_file: str | None) -> tuple[str, str]:
    """Return what W&B's own variables and files ask for.

    Parameters
    ----------
    variable : str or None
        ``WANDB_MODE``.
    in_file : str or None
        ``mode`` of W&B's settings file.

    Returns
    -------
    mode : str
        ``online``, ``offline`` or ``off``; empty where nobody asks for any.
    by : str
        Who asks for it, such as ``WANDB_MODE=online``.

    Raises
    ------
    UserError
        If a variable or the file holds no word that W&B knows.
    """
    switch = os.environ.get("WANDB_DISABLED", "").strip()
    disabled = {**SWITCHES, "1": True, "0": False, "": False}.get(switch)
    if disabled is None:
        raise UserError(f"WANDB_DISABLED={shorten(switch)} says neither yes nor no: write true or false, or unset it")
    if disabled:
        return "off", f"WANDB_DISABLED={switch}"
    word, by = (variable, "WANDB_MODE=") if variable else (in_file, "W&B's settings file says mode = ")
    if not word:
        return "", ""
    if word not in MODES:
        raise UserError(f"{by}{shorten(word)} is no mode of W&B{suggest(word, MODES)}")
    return MODES[word], by + word


def check(names: Mapping[str, Given], tags: Sequence[str], tagged_by: str) -> None:
    """Refuse what W&B would refuse.

    Parameters
    ----------
    names : mapping of str to Given
        Of ``project``, ``entity``, ``group``, ``name`` and ``id``, as far as they are known.
    tags : sequence of str
    tagged_by : str
        Such as ``track.tags`` or ``WANDB_TAGS``.

    Raises
    ------
    UserError
        With one sentence for every problem, joined by newlines.
    """
    wrong = [text for kind, one in names.items() if one.value is not None for text in _wrong(kind, one.value, one.by)]
    for tag in tags:
        if not 1 <= len(tag) <= LONGEST_TAG:
            wrong.append(
                f'{tagged_by}: the tag "{shorten(tag)}" has {len(tag)} characters, and W&B takes 1 to {LONGEST_TAG}: '
                "change it"
            )
        elif not _is_text(tag):
            wrong.append(f"{tagged_by} holds a tag that is no text in UTF-8: change it")
    if wrong:
        raise together(wrong)


def _wrong(kind: str, value: str, by: str) -> list[str]:
    said = by + shorten(value)
    if not _is_text(value):
        return [f"{said} is no text in UTF-8: change it"]
    entity, _, project = value.partition("/")
    if kind == "project" and entity and project and "/" not in project:
        return [f"{said} is a team and a project: write track.entity={entity} track.project={project}"]
    wrong = []
    forbidden = {"project": IN_ADDRESSES, "entity": "/", "id": IN_IDS}.get(kind, "")
    signs = "".join(sorted({one for one in value if one in forbidden}))
    if signs:
        wrong.append(f"{said} holds {' '.join(signs)}, which W&B does not take in the {_NAMES[kind]}: change it")
    if kind in _NAMES and len(value) > LONGEST_NAME:
        wrong.append(
            f"{said} has {len(value)} characters, and W&B takes {LONGEST_NAME} in the {_NAMES[kind]}: shorten it"
        )
    if kind == "id" and value != value.strip():
        wrong.append(f"{said} begins or ends with a blank, which W&B does not take in the id of a run: change it")
    return wrong


_NAMES = {"project": "name of a project", "entity": "name of a team", "name": "name of a run", "id": "id of a run"}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

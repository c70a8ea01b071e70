"""Whether and as what a run is mirrored in W&B: settings, W&B's environment variables and files, the login."""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.config import registry
from bench.config.fields import build, describe, show
from bench.config.fingerprint import decides
from bench.config.run_settings import CHOICES, Track, class_settings
from bench.config.values import GIVEN
from bench.core.errors import UserError
from bench.tracking.limits import Given, check, standing_mode

VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
}
"""Which variable counts for a setting of ``track`` that is not given."""

HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Hosts of W&B's own server, under which a login may be stored."""


@dataclass(frozen=True)
class MirrorOptions:
    """Resolved W&B options of one run.

    Attributes
    ----------
    mode : {"online", "offline", "off"}
    note : str
        What the user should know about the mode; may be empty.
    project : str
    entity : str or None
        User or team; None is the one of the login.
    group : str
        Runs of a group stand together in W&B.
    name : str
        The name shown in W&B.
    tags : list of str
    weights : bool
        Whether files of weights are uploaded too.
    """

    mode: str
    note: str
    project: str
    entity: str | None
    group: str
    name: str
    tags: list[str]
    weights: bool


def mirror_options(
    flat: Mapping[str, Any], sources: Mapping[str, str], symbols: Mapping[str, str] | None = None
) -> MirrorOptions:
    """Decide whether and as what a run is mirrored; what the user sets wins over W&B's environment variables.

    Parameters
    ----------
    flat, sources : mapping
        As in `bench.config.run_settings.Resolved`: dotted key to value, and to where the value comes from.
    symbols : mapping, optional
        As for `run_name`.

    Returns
    -------
    MirrorOptions

    Raises
    ------
    UserError
        If W&B is to be online and there is no login, or if W&B would not take a name, a tag or a mode.
    """
    track: Track = build(Track, dict(flat), "track.")
    files = settings_files()
    mode, note = _mode(track.wandb, files)
    # Without its own, a run has the first of: what a variable says, what W&B's settings file says, what stands here.
    own = {
        "project": track.project,
        "entity": None,
        "group": f"{flat['method.name']} {flat['stream.name']}",
        "name": run_name(flat, sources, symbols or {}),
    }
    names = {}
    for key, default in own.items():
        given = [Given(flat[f"track.{key}"], f"track.{key}=")] if sources.get(f"track.{key}") == "user" else []
        given += [Given(os.environ.get(VARIABLES[key]), f"{VARIABLES[key]}=")]
        given += [Given(files.get(key), f"W&B's settings file says {key} = ")] if key in ("project", "entity") else []
        names[key] = next((one for one in given if one.value), Given(default, f"track.{key}="))
    tags = track.tags or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    if mode != "off":
        run_id = Given(os.environ.get("WANDB_RUN_ID") or None, "WANDB_RUN_ID=")
        check({**names, "id": run_id}, tags, "track.tags" if track.tags else "WANDB_TAGS")
    return MirrorOptions(
        mode=mode,
        note=note,
        project=str(names["project"].value),
        entity=names["entity"].value,
        group=str(names["group"].value),
        name=str(names["name"].value),
        tags=tags,
        weights=track.weights,
    )


# --------------------------------------------------------------------------------------- name of the run


def run_name(flat: Mapping[str, Any], sources: Mapping[str, str], symbols: Mapping[str, str]) -> str:
    """Return a readable name, such as ``keeplora-r16-pocket-s0``: method, what the user set, stream, seed.

    Parameters
    ----------
    flat, sources : mapping
        As for `mirror_options`.
    symbols : mapping of str to str
        What the paper calls a setting, by dotted key. A number stands after the symbol if there is one, and after the
        last part of the key otherwise.

    Returns
    -------
    str
        At most 128 characters: letters, digits, ``_``, ``.``, ``,``, ``=`` and ``-``.
    """
    names = {f"{kind}.name" for kind in CHOICES}
    special = [
        f"{_short(key, value, symbols)}{show(value)}"
        for key, value in flat.items()
        if sources.get(key) in GIVEN and decides(key) and key not in names and not key.endswith("_sha256")
    ]
    model = [flat["model.name"]] if sources.get("model.name") == "user" else []
    words = [flat["method.name"], *special, *model, flat["stream.name"], f"s{flat['seed']}"]
    return re.sub(r"[^\w.,=-]+", "-", "-".join(words))[:128]


def _short(key: str, value: Any, symbols: Mapping[str, str]) -> str:
    own = key.rpartition(".")[2]
    if not symbols.get(key) or isinstance(value, bool) or not isinstance(value, int | float):
        return own
    in_group = key.count(".") > 1  # all members of a group have the symbol of the group
    return f"{symbols[key]}.{own}" if in_group else symbols[key]


def symbols_of(classes: Mapping[str, Any]) -> dict[str, str]:
    """Return what papers call the settings of plug-ins.

    Parameters
    ----------
    classes : mapping of str to type
        ``method``, ``stream``, ``model`` to a class; None where there is none.

    Returns
    -------
    dict of str to str
        Dotted key to symbol, of the settings that have one.
    """
    symbols: dict[str, str] = {}
    for kind, cls in classes.items():
        if cls is not None:
            settings = describe(class_settings(cls), f"{kind}.")
            symbols.update({key: one.symbol for key, one in settings.items() if one.symbol})
    return symbols


def recorded_symbols(flat: Mapping[str, Any]) -> dict[str, str]:
    """Return `symbols_of` the plug-ins of a record, as far as they are registered here under the same names.

    A file that a record names is not imported: reading records executes nothing that they bring along.

    Parameters
    ----------
    flat : mapping
        Dotted key to value, from the record.

    Returns
    -------
    dict of str to str
    """
    classes = {}
    for kind in CHOICES:
        if f"{kind}.file" not in flat:
            with contextlib.suppress(UserError):  # not installed here, or a model of open_clip
                classes[kind] = registry.load(kind, flat[f"{kind}.name"])
    return symbols_of(classes)


# ---------------------------------------------------------------------------------------- mode and login


def _mode(asked: str, files: Mapping[str, str]) -> tuple[str, str]:
    """Return ``online``, ``offline`` or ``off``, and what to say about it."""
    setting = f"track.wandb={asked}"
    if asked == "auto":
        standing, by = standing_mode(os.environ.get("WANDB_MODE"), files.get("mode"))
        asked, setting = standing or asked, by or setting
    if asked in ("off", "offline"):
        return asked, ""
    if logged_in(files):
        return "online", ""
    if asked == "online":
        raise UserError(
            f'{setting} needs a W&B login: call "wandb login", set WANDB_API_KEY or choose track.wandb=offline'
        )
    return "off", 'no W&B login, so nothing is sent there: call "wandb login" or choose track.wandb=offline (or off)'


def logged_in(files: Mapping[str, str]) -> bool:
    """Return whether there are credentials where wandb looks for them: environment, netrc, settings file.

    Parameters
    ----------
    files : mapping of str to str
        As of `settings_files`.

    Returns
    -------
    bool
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or files.get("api_key"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or files.get("base_url") or f"https://{HOSTS[0]}").netloc
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in paths:
        try:
            known = netrc.netrc(Path(path).expanduser())
        except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):  # no such user, no text, no netrc
            continue
        return any(known.authenticators(name) for name in (HOSTS if host in HOSTS else [host]))
    return False


def settings_files() -> dict[str, str]:
    """Return what W&B's own settings files say; the file of the working directory wins over the user's.

    Returns
    -------
    dict of str to str
        Such as ``base_url``, ``mode``, ``project``, ``entity``; empty where there is no file that can be read.
    """
    files: dict[str, str] = {}
    home = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for folder in (Path(home), Path(os.environ.get("WANDB_DIR") or ".") / "wandb"):
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, RuntimeError, configparser.Error, UnicodeDecodeError):
            parser.read(folder.expanduser() / "settings", encoding="utf-8")
            files.update(parser["default"] if parser.has_section("default") else {})
    return files

"""Mirror records that are on disk: runs made without W&B, or when it could not be reached."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.compare.runs import find
from bench.config.resolve import read
from bench.config.run_settings import run_settings
from bench.core.errors import UserError
from bench.core.untrusted import why
from bench.record.schema import IDENTITY, Identity, is_finished
from bench.tracking.mirror import UPLOADING, Mirror, patience
from bench.tracking.mirror_state import folder, load_state
from bench.tracking.options import MirrorOptions, mirror_options, recorded_symbols


class NoAnswer(UserError):
    """W&B was not done in time."""


def upload(directory: Path, given: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Mirror a record that is on disk; what W&B has of it already is not sent again.

    Parameters
    ----------
    directory : Path
        A run directory.
    given : mapping
        Values by dotted key, such as ``track.wandb``, instead of those that the run was made with.
    say : callable
        Prints a line for the user.

    Raises
    ------
    UserError
        If the folder is no record, there is no login, or W&B does not take it.
    """
    waits = patience(UPLOADING)
    mirror = Mirror(_options(directory, given), say, waits, warn=False)
    mirror.start(directory, live=False)
    mirror.close(0 if is_finished(directory) else 1)
    if mirror.silent:
        raise NoAnswer(
            f"{directory} is not in W&B, whose server was not done with it in {waits:g} s: mirror it again later, or "
            f"set WANDB_FINISH_TIMEOUT to more seconds (see {folder(directory) / 'mirror.log'})"
        )
    if mirror.failure:
        raise UserError(f"{directory} is not in W&B ({mirror.failure}): see {folder(directory) / 'mirror.log'}")


def _options(directory: Path, given: Mapping[str, Any]) -> MirrorOptions:
    """Return the options that a record was made with, changed as given and never off."""
    try:
        settings = Identity.read(directory).settings
    except FileNotFoundError:
        settings = {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{directory / IDENTITY} cannot be read ({why(error)}), so that its run is not mirrored: move it away"
        ) from error
    if not settings:
        raise UserError(f"{directory} is no record of a run, or has no identity.json: name a folder below runs/")
    defaults = {key: one.default for key, one in run_settings().items() if key.startswith("track.")}
    flat = {**defaults, **{key: one.value for key, one in settings.items()}}
    # A run that was made with track.wandb=off is to be sent now all the same.
    flat.update({"track.wandb": "auto", **given})
    sources = {**{key: one.source for key, one in settings.items()}, **dict.fromkeys(given, "user")}
    symbols = recorded_symbols(flat)
    options = mirror_options(flat, sources, symbols)
    if options.mode == "off":
        options = mirror_options({**flat, "track.wandb": "online"}, sources, symbols)
    state = load_state(directory)
    if state is not None and state.name and sources.get("track.name") != "user" and "WANDB_NAME" not in os.environ:
        # The run knew the symbols of a plug-in in a file, which is not imported here.
        options = replace(options, name=state.name)
    return options


def upload_all(paths: Sequence[Path], pairs: Sequence[str], say: Callable[[str], None]) -> None:
    """Call `upload` for the run directories among and below some folders.

    Parameters
    ----------
    paths : sequence of Path
        Run directories, or folders that hold some.
    pairs : sequence of str
        Words such as ``track.wandb=offline``.
    say : callable
        Prints a line for the user.

    Raises
    ------
    UserError
        As `upload`, when all have been tried; also if a word is no setting of ``track``.
    """
    given = _given(pairs)
    directories = find(paths)
    if not directories:
        raise UserError(f"there is no record of a run in {', '.join(map(str, paths))}: name a run directory")
    problems = []
    for position, directory in enumerate(directories, 1):
        say(f"{directory}")
        try:
            upload(directory, given, say)
        except UserError as error:
            problems.append(str(error))
            if isinstance(error, NoAnswer) and position < len(directories):
                problems.append(f"{len(directories) - position} more records were not tried: run the same line later")
                break
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _given(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``track.KEY=VALUE`` words by dotted key."""
    known = {key: one for key, one in run_settings().items() if key.startswith("track.")}
    given = {}
    problems: list[str] = []
    words = read(pairs, problems)
    if problems:
        raise UserError("\n".join(problems))
    for key, (value, raw) in words.items():
        if key not in known:
            raise UserError(f'mirror takes settings of track only, not "{key}": as in track.wandb=offline')
        try:
            given[key] = known[key].convert(value, raw)
        except ValueError as error:
            raise UserError(f"{key}={raw} {error}") from None
    return given

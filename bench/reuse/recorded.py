"""From the record of a finished run back to its settings, some of which may be given again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compare.runs import Run, is_run, read
from bench.config.resolve import given_values, resolve
from bench.config.run_settings import CHOICES, Resolved
from bench.core.errors import UserError, shorten
from bench.core.paths import is_file, is_folder, user_path

LEARNED = "stream.learned"
"""In the identity of an evaluation: the stream that was learned before. `bench.compare` keeps such records apart."""

OUT = "evaluations"
"""The folder for evaluations where none is given."""

LEFT = ("track.", "batches.", "checkpoint.")
"""Groups of settings that a finished run has done with."""

GROUPS = ("stream.", "evaluate.", "cache.")
"""Groups of settings that may be given again."""

NAMES = ("method.name", "model.name")
"""Settings that may be given again for files that lie elsewhere now."""

SINGLE = ("out", "data", "device", "threads", "deterministic", "precision", "model.checkpoint", *NAMES)
"""Settings that may be given again."""


def finished_run(path: str | Path) -> Run:
    """Return the record of a finished run.

    Parameters
    ----------
    path : str or Path
        The run directory.

    Raises
    ------
    UserError
        If there is no run, or it is unfinished or damaged.
    """
    directory = user_path(str(path))
    if not is_folder(directory) or not is_run(directory):
        raise UserError(f'"{shorten(str(path))}" holds no run: give a run directory, runs/STREAM/MODEL/METHOD/ID')
    run = read(directory)
    if run.trouble:
        raise UserError(f"{directory} cannot be used again ({run.trouble}): give a finished run")
    if LEARNED in run.settings:
        raise UserError(f"{directory} is an evaluation and holds no weights: give the run that it measured")
    return run


def settings_again(run: Run, settings: Mapping[str, Any] | Sequence[str]) -> Resolved:
    """Return the settings of a finished run, with what is given again.

    Parameters
    ----------
    run : Run
    settings : mapping of str to object, or sequence of str
        As for `bench.config.resolve.resolve`. A stream replaces that of the run with all its settings.

    Raises
    ------
    UserError
        If a setting is given that decides what was learned, or the file of a plug-in is gone.
    """
    changed = given_values(settings, [])
    for key, (value, _) in changed.items():
        if key not in SINGLE and not key.startswith(GROUPS):
            raise UserError(
                f'"{shorten(key)}" cannot be given for a finished run: leave it out, or make another run; what can be '
                "given are stream, data, device, threads, precision, evaluate.KEY and cache.KEY"
            )
        if key in NAMES and not str(value).endswith(".py"):
            _refuse_other(run, key, value)
    resolved = resolve(settings, base=_base(run, set(changed)))
    if "start_sha256" in run.settings:  # what was begun with is among the weights of the run, and may be gone
        resolved.flat["start_sha256"] = run.settings["start_sha256"]
    for key, name in zip(NAMES, (resolved.run.method, resolved.run.model), strict=True):
        _refuse_other(run, key, name)
    return resolved


def _refuse_other(run: Run, key: str, name: Any) -> None:
    """Refuse another method or model than that of a run."""
    kind, own = key.partition(".")[0], run.settings[key]
    if name != own:
        raise UserError(f"{run.path} is a run of {kind} {own}: leave {kind} out, or give its file if it lies elsewhere")


def _base(run: Run, changed: set[str]) -> dict[str, Any]:
    """Return the settings of a run as `resolve` takes them, without those that no longer matter."""
    left = {"gate", *(f"{key}_sha256" for key in run.settings)}  # hashes of files and folders are made again
    base = {key: value for key, value in run.settings.items() if key not in left and not key.startswith(LEFT)}
    base["out"] = OUT
    for kind in CHOICES:
        file = base.pop(f"{kind}.file", None)
        if file is None or f"{kind}.name" in changed:
            continue
        if not is_file(user_path(file)):
            raise UserError(f"the {kind} of {run.path} is the file {file}, which is not here: add {kind}=FILE")
        base[f"{kind}.name"] = file
    if "stream.name" in changed:
        base = {key: value for key, value in base.items() if not key.startswith("stream.")}
    return base

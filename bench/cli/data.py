"""``python -m bench data``: which datasets of a stream are there, and where to get the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.cli.verb import Verb
from bench.core.errors import UserError
from bench.core.paths import is_folder


def call(words: list[str]) -> int:
    """Print the datasets of a stream; the exit status is 1 if one is not there as published."""
    # numpy and the stream's own file come with these: see bench.cli.verb.
    from bench.config.resolve import resolve
    from bench.data.inventory import inventory, needs_data, report, requirements

    if not words or "=" in words[0]:
        raise UserError("say which stream: python -m bench data mtil-order1 data=DIR")
    stream, *settings = words
    resolved = resolve([f"stream={stream}", *settings], need_method=False)
    cls: Any = resolved.stream_class
    if not needs_data(cls, resolved.stream_settings):
        print(f"stream {stream} needs no data: it brings its images along, or reads them in its own way")
        return 0
    if resolved.run.data is None:
        print(requirements(cls, resolved.stream_settings))
        print(f"\nto see what is there already: python -m bench data {stream} data=DIR")
        return 0
    root = _root(resolved.run.data)
    statuses = inventory(cls, resolved.stream_settings, root)
    print(report(stream, root, statuses))
    ready = all(status.state == "present" for status in statuses)
    if not any(status.state in ("missing", "incomplete") for status in statuses):
        try:  # whether tasks can be made of them: enough images for the shots, enough classes
            cls(resolved.stream_settings, str(root), resolved.run.seeds.task_order)
        except UserError as error:
            print(f"\nnot ready: {error}")
            ready = False
    return 0 if ready else 1


def _root(data: str) -> Path:
    root = Path(data).expanduser()
    if not is_folder(root):
        raise UserError(f"data={data} is no folder: give the folder that holds the datasets")
    return root


DATA = Verb(
    name="data",
    summary="show which datasets of a stream are there, and where to get the others",
    usage="data STREAM data=DIR [KEY=VALUE...]",
    help="""\
For every dataset: present, incomplete, missing, or different from the published one; images and classes found and
expected; size, licence, how to get it, and which official download is known not to work. The exit status is 0 when all
are ready, else 1. Without data= it lists the datasets that the stream needs, their sizes, and how to get them, and the
exit status is 0.

examples
  python -m bench data mtil-order1 data=/data/MTIL
  python -m bench data xtail data=/data/MTIL stream.splits=torchvision
  python -m bench data custom data=/data stream.datasets=[dtd,plants]
""",
    call=call,
)

"""``python -m bench data STREAM data=ROOT``: what of a stream's datasets is there, what is missing, and what to do."""

from pathlib import Path
from typing import Any

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.core.tables import table, wrap
from bench.data.dataset import Counts, Dataset, DatasetStream, Status, inspect


def data(stream: str, words: list[str]) -> int:
    """Print a table of a stream's datasets and what to do about those that are not ready.

    Parameters
    ----------
    stream : str
        As in ``stream=``.
    words : list of str
        ``data=ROOT`` and settings of the stream, as for a run.

    Returns
    -------
    int
        0 if every dataset is there as published, else 1.

    Raises
    ------
    UserError
        Unknown stream or setting, no data folder.
    """
    resolved = resolve([f"stream={stream}", *words], need_method=False)
    cls: Any = resolved.stream_class
    if not issubclass(cls, DatasetStream):
        print(f"stream {stream} needs no data: it brings its images along, or reads them in its own way")
        return 0
    if resolved.run.data is None:
        raise UserError(f"say where the datasets lie: python -m bench data {stream} data=DIR")
    root = Path(resolved.run.data).expanduser()
    if not root.is_dir():
        raise UserError(f"data={resolved.run.data} is no folder: give the folder that holds the datasets")
    datasets: dict[tuple[Any, ...], Dataset] = {}
    for part in cls.parts(resolved.stream_settings, root):
        datasets.setdefault((part.dataset.registry_name, part.dataset.folders), part.dataset)
    statuses = [inspect(dataset, root)[0] for dataset in datasets.values()]
    print(report(stream, root, statuses))
    ready = all(status.state == "present" for status in statuses)
    if not any(status.state in ("missing", "incomplete") for status in statuses):
        try:  # whether tasks can be made of them: enough images for the shots, enough classes
            cls(resolved.stream_settings, str(root), resolved.run.seeds.task_order)
        except UserError as error:
            print(f"\nnot ready: {error}")
            ready = False
    return 0 if ready else 1


def report(stream: str, root: Path, statuses: list[Status]) -> str:
    """The table and the advice."""
    rows = [
        (
            status.dataset.registry_name,
            status.state,
            *_counted(status.found, status.dataset.expected),
            status.dataset.size,
            status.dataset.licence,
            _place(status.folder, root),
        )
        for status in statuses
    ]
    headers = ("dataset", "state", "train", "test", "classes", "size", "licence", "found in")
    parts = [f"stream {stream}, data in {root}", table(headers, rows)]
    advice = [line for status in statuses if status.state != "present" for line in _advice(status)]
    if advice:
        parts.append("\n".join(["what to do", *advice]))
    ready = sum(status.state == "present" for status in statuses)
    parts.append(f"{ready} of {len(statuses)} datasets are ready")
    return "\n\n".join(parts)


def _place(folder: Path | None, root: Path) -> str:
    if folder is None:
        return "-"
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def _counted(found: Counts | None, expected: Counts | None) -> tuple[str, str, str]:
    """Found / expected, for training images, test images and classes."""

    def cell(name: str) -> str:
        here = "-" if found is None else str(getattr(found, name))
        there = "" if expected is None else f" / {getattr(expected, name)}"
        return here + there

    return cell("train"), cell("test"), cell("classes")


def _advice(status: Status) -> list[str]:
    dataset = status.dataset
    lines = [wrap(f"{dataset.registry_name}, {status.state}: {status.problem}", "  ", "    ")]
    if status.state == "differs":
        lines.append(wrap("runs of models with real weights refuse it, unless told gate=off", "    ", "    "))
    else:
        lines.append(wrap(f"put it into {' or '.join(dataset.folders)}", "    ", "      "))
    if dataset.obtain:
        lines.append(wrap(f"get it: {dataset.obtain}", "    ", "      "))
    if dataset.broken:
        lines.append(wrap(f"does not work: {dataset.broken}", "    ", "      "))
    return lines

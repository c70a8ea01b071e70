"""Which datasets of a stream are ready, and what to do about the others. The verb ``data`` prints it."""

from pathlib import Path
from typing import Any, Protocol

from bench.core.tables import table, wrap
from bench.data.dataset import Counts, Dataset, Status, inspect
from bench.data.dataset_stream import DatasetStream, Part


class OfDatasets(Protocol):
    """A class of streams that are made of datasets: a `DatasetStream`, or one made of such streams."""

    registry_name: str

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets, as for `DatasetStream`."""
        ...


def needs_data(stream: type[Any], settings: Any) -> bool:
    """Return whether a stream is made of datasets.

    Parameters
    ----------
    stream : type
        The class of the stream.
    settings : dataclass
        An instance of its ``Settings``.

    Returns
    -------
    bool
        False for one that brings its images along, or reads them in its own way.
    """
    return issubclass(stream, DatasetStream) or bool(hasattr(stream, "parts") and stream.parts(settings, None))


def inventory(stream: type[OfDatasets], settings: Any, root: Path) -> list[Status]:
    """Inspect every dataset of a stream once, in the stream's order.

    Parameters
    ----------
    stream : type
        The class of the stream.
    settings : dataclass
        An instance of the stream's ``Settings``.
    root : Path
        The data folder.

    Returns
    -------
    list of Status

    Raises
    ------
    UserError
        If the settings name a dataset that is not known.
    """
    return [inspect(dataset, root)[0] for dataset in datasets(stream, settings, root)]


def datasets(stream: type[OfDatasets], settings: Any, root: Path | None) -> list[Dataset]:
    """Return every dataset of a stream once, in the stream's order.

    Parameters
    ----------
    stream : type
        The class of the stream.
    settings : dataclass
        An instance of the stream's ``Settings``.
    root : Path or None
        The data folder; None where only names and facts are wanted.

    Returns
    -------
    list of Dataset
    """
    known: dict[tuple[Any, ...], Dataset] = {}
    beside = stream.probe_parts(settings, root) if issubclass(stream, DatasetStream) else []
    for part in (*stream.parts(settings, root), *beside):
        known.setdefault((part.dataset.registry_name, part.dataset.folders), part.dataset)
    return list(known.values())


def requirements(stream: type[OfDatasets], settings: Any) -> str:
    """Return what a stream needs: every dataset, how large it is, into which folder it belongs, and how to get it.

    Parameters
    ----------
    stream : type
        The class of the stream.
    settings : dataclass
        An instance of the stream's ``Settings``.

    Returns
    -------
    str
    """
    needed = datasets(stream, settings, None)
    rows = [(one.registry_name, one.size or "-", one.licence or "-", " or ".join(one.folders) or "-") for one in needed]
    lines = ["how to get them"]
    for one in needed:
        lines.append(wrap(f"{one.registry_name}: {one.obtain or one.absent or '-'}", "  ", "    "))
        if one.broken:
            lines.append(wrap(f"does not work: {one.broken}", "    ", "      "))
    head = f"stream {stream.registry_name} needs these datasets in one folder"
    return "\n\n".join([head, table(("dataset", "size", "licence", "below data="), rows), "\n".join(lines)])


def report(stream: str, root: Path, statuses: list[Status]) -> str:
    """Return a table of datasets and what to do about those that are not ready.

    Parameters
    ----------
    stream : str
        Name of the stream.
    root : Path
        The data folder.
    statuses : list of Status

    Returns
    -------
    str
    """
    rows = [
        (
            status.dataset.registry_name,
            status.state,
            *_counted(status.found, status.dataset.expected),
            status.dataset.size,
            status.dataset.licence,
            _location(status.folder, root),
        )
        for status in statuses
    ]
    headers = ("dataset", "state", "train", "test", "classes", "size", "licence", "found in")
    parts = [f"stream {stream}, data in {root}", table(headers, rows)]
    advice = [line for status in statuses if status.state != "present" for line in _advice(status)]
    if advice:
        parts.append("\n".join(["what to do", *advice]))
    notes = [wrap(f"{s.dataset.registry_name}: {s.note}", "  ", "    ") for s in statuses if s.note]
    if notes:
        parts.append("\n".join(["notes", *notes]))
    ready = sum(status.state == "present" for status in statuses)
    parts.append(f"{ready} of {len(statuses)} datasets are ready")
    return "\n\n".join(parts)


def _location(folder: Path | None, root: Path) -> str:
    if folder is None:
        return "-"
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def _counted(counts: Counts | None, expected: Counts | None) -> tuple[str, str, str]:
    """Return "found / expected" for training images, test images and classes."""

    def cell(name: str) -> str:
        here = "-" if counts is None else str(getattr(counts, name))
        there = "" if expected is None else f" / {getattr(expected, name)}"
        return here + there

    return cell("train"), cell("test"), cell("classes")


def _advice(status: Status) -> list[str]:
    dataset = status.dataset
    lines = [wrap(f"{dataset.registry_name}, {status.state}: {status.problem}", "  ", "    ")]
    if status.state == "differs":
        lines.append(wrap("runs of models with real weights refuse it, unless you set gate=off", "    ", "    "))
    elif dataset.folders:
        lines.append(wrap(f"put it into {' or '.join(dataset.folders)}", "    ", "      "))
    if dataset.obtain:
        lines.append(wrap(f"get it: {dataset.obtain}", "    ", "      "))
    if dataset.broken:
        lines.append(wrap(f"does not work: {dataset.broken}", "    ", "      "))
    return lines

"""Streams made of registered datasets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.data.dataset import Dataset, Splits, inspect
from bench.data.stream import Stream, Task


@dataclass(frozen=True)
class Part:
    """One dataset of a stream.

    Attributes
    ----------
    dataset : Dataset
        The dataset.
    name : str
        Name of the task.
    template : str
        Prompt with ``{}`` for the class name.
    epochs : int or None
        Passes over its training images; None means as many as the run's settings say.
    """

    dataset: Dataset
    name: str
    template: str
    epochs: int | None = None


class DatasetStream(Stream):
    """A stream made of registered datasets, one task each unless `tasks_of` says otherwise.

    A stream of this kind implements `parts`.
    """

    @classmethod
    def parts(cls, settings: Any, root: Path | None) -> list[Part]:
        """Return the datasets of the stream.

        Parameters
        ----------
        settings : object
            An instance of the class's ``Settings``.
        root : Path or None
            The data folder, for streams that read their composition from it; None when only the names are wanted.

        Returns
        -------
        list of Part
            In the order of their tasks.
        """
        raise TypeError(f"{cls.__name__} does not say which datasets it is made of")

    def tasks_of(self, part: Part, splits: Splits, seed: int) -> list[Task]:
        """Return the tasks that a dataset gives.

        Parameters
        ----------
        part : Part
            As `parts` returned it.
        splits : Splits
            Its content.
        seed : int
            The setting ``seeds.task_order``.

        Returns
        -------
        list of Task
            In order; by default a single task with all classes.
        """
        budget = {} if part.epochs is None else {"epochs": part.epochs}
        return [Task(part.name, splits.classes, part.template, splits.train, splits.test, splits.validation, budget)]

    def load(self, data_root: str | None, order_seed: int) -> list[Task]:
        """Read every dataset, then make the tasks.

        Parameters
        ----------
        data_root : str or None
            The setting ``data``.
        order_seed : int
            The setting ``seeds.task_order``, for `tasks_of`.

        Returns
        -------
        list of Task

        Raises
        ------
        UserError
            It names every dataset that is missing or incomplete.
        """
        name = self.registry_name
        if data_root is None:
            raise UserError(f"stream {name} needs data=DIR, the folder that holds its datasets")
        root = Path(data_root).expanduser()
        statuses, read = [], []
        for part in self.parts(self.settings, root):
            status, splits = inspect(part.dataset, root)
            statuses.append(status)
            if splits is not None:
                read.append((part, splits))
        broken = [status for status in statuses if status.state in ("missing", "incomplete")]
        if broken:
            named = "; ".join(f"{one.dataset.registry_name} is {one.state}: {one.problem}" for one in broken)
            raise UserError(
                f"{len(broken)} of {len(statuses)} datasets of stream {name} are not ready in {root} ({named}): "
                f'see "python -m bench data {name} data={data_root}"'
            )
        self.differences = {s.dataset.registry_name: s.problem for s in statuses if s.state == "differs"}
        self.notes += [
            f"dataset {dataset} is not the published one: {how}" for dataset, how in self.differences.items()
        ]
        self.notes += [f"dataset {s.dataset.registry_name}: {s.note}" for s in statuses if s.note]
        self.facts["folders"] = {s.dataset.registry_name: str(s.folder) for s in statuses}
        return [task for part, splits in read for task in self.tasks_of(part, splits, order_seed)]

"""Listeners: register one to see what a run computes, number for number, without a change in the code.

Engine and methods report what they compute; without a listener a report costs one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "logits": "a batch of a test set: `row`, `start` (index of its first image), `logits` [batch, prompts]",
    "loss": "a training step: `epoch`, `step` (both from 0), `loss` [], the mean over this process's images",
    "gradient": "the mean gradient of a task with respect to a map's weight: `gradient` [out, in]",
    "statistic": "a second moment over a task: `gram` [width, width] (a sum), `count` (what it sums over)",
    "subspace": "a protected subspace: `basis` [width, dimension], `when` (weights, or task)",
    "update": "the update of a map as training starts: `A` [rank, in], `B` [out, rank], `scale`, `tensors` by name",
    "learned": "a task is learned and merged: `method`, whose `clip` has the weights",
    "method": "whatever a method wants to show; its documentation says what",
}
"""What can be listened to, with the values of an `Observation`. The docstring of that class says the same."""


@dataclass(frozen=True)
class Observation:
    """Something that a run has computed.

    Attributes
    ----------
    kind : str
        One of the kinds below.
    task : str
        The task that is learned, or whose test set is measured; empty before the first.
    name : str
        The map, the site, or what else the values belong to; empty where the kind says it all.
    values : mapping of str to object
        Tensors are those of the run itself: a listener that keeps one clones it, and changes none.

    Notes
    -----
    The kinds, with their values:

    * ``logits``: a batch of a test set: `row`, `start` (index of its first image), `logits` [batch, prompts]
    * ``loss``: a training step: `epoch`, `step` (both from 0), `loss` [], the mean over this process's images
    * ``gradient``: the mean gradient of a task with respect to a map's weight: `gradient` [out, in]
    * ``statistic``: a second moment over a task: `gram` [width, width] (a sum), `count` (what it sums over)
    * ``subspace``: a protected subspace: `basis` [width, dimension], `when` (weights, or task)
    * ``update``: the update of a map as training starts: `A` [rank, in], `B` [out, rank], `scale`, `tensors` by name
    * ``learned``: a task is learned and merged: `method`, whose `clip` has the weights
    * ``method``: whatever a method wants to show; its documentation says what
    """

    kind: str
    task: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Observation], None]


class Observers:
    """The listeners of a run.

    They hear what their own process computes. A continued run does not report again what it did before, and a finished
    run reports nothing. A result that another run has kept on disk is computed again if a listener wants it.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def on(self, kind: str, listener: Listener) -> Listener:
        """Call a listener with every `Observation` of a kind.

        Parameters
        ----------
        kind : str
            One of the kinds of `Observation`.
        listener : callable
            Takes an `Observation`. What it raises ends the run.

        Returns
        -------
        callable
            The listener.

        Raises
        ------
        ValueError
            If there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"nothing of the kind {kind!r} is reported: listen to one of {', '.join(KINDS)}")
        self._listeners.setdefault(kind, []).append(listener)
        return listener

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def wants(self, *kinds: str) -> bool:
        """Return whether somebody listens; a method asks before it computes what only a listener needs.

        Parameters
        ----------
        *kinds : str
            Kinds of `Observation`.

        Returns
        -------
        bool
            True if there is a listener for one of them.
        """
        return any(kind in self._listeners for kind in kinds)

    def report(self, kind: str, task: str, name: str = "", **values: Any) -> None:
        """Call the listeners of a kind; a method calls this with what it has computed.

        Parameters
        ----------
        kind : str
            One of the kinds of `Observation`.
        task : str
            Name of the task; empty before the first.
        name : str, optional
            The map, the site, or what else the values belong to.
        **values : object
            As the kind says.
        """
        for listener in self._listeners.get(kind, ()):
            listener(Observation(kind, task, name, values))

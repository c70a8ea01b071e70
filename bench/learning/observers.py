"""Listeners: whoever wants to see what a run computes, number for number, registers here and patches nothing.

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
    "update": "the update of a map as training starts: `A` [rank, in], `B` [out, rank], `scale`",
    "learned": "a task is learned and merged: `method`, whose `clip` has the weights",
    "method": "whatever a method wants to show; its documentation says what",
}
"""What can be listened to, with the values of an `Observation`."""


@dataclass(frozen=True)
class Observation:
    """Something that a run has computed.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    task : str
        The task that is learned, or whose test set is measured; empty before the first.
    name : str
        The map, the site, or what else the values belong to; empty where the kind says it all.
    values : mapping of str to object
        As `KINDS` says. Tensors are those of the run itself: a listener that keeps one clones it, and changes none.
    """

    kind: str
    task: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Observation], None]


class Observers:
    """The listeners of a run.

    They hear what their own process computes. A continued run does not report again what it had done before, nor does a
    finished one; a result that another run has kept on disk is computed again where somebody listens to it.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def on(self, kind: str, listener: Listener) -> Listener:
        """Call `listener` with every `Observation` of a kind; return it.

        Parameters
        ----------
        kind : str
            One of `KINDS`.
        listener : callable
            Takes an `Observation`. What it raises ends the run.

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
        """Return whether somebody listens to one of the kinds: ask before computing what only a listener needs."""
        return any(kind in self._listeners for kind in kinds)

    def report(self, kind: str, task: str, name: str = "", **values: Any) -> None:
        """Hand values to the listeners of a kind."""
        for listener in self._listeners.get(kind, ()):
            listener(Observation(kind, task, name, values))

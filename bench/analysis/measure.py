"""Every test set, measured while weights are replaced by one of their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.analysis.options import BOTH, Options
from bench.analysis.parts import Directions, part_of, replaced
from bench.core.console import watched
from bench.data.pixels import PixelStore
from bench.data.stream import label_space
from bench.learning.evaluate import Protocol, evaluate_row
from bench.learning.method import Method
from bench.model.clip import Clip
from bench.model.linear_maps import LinearMap

PARTS = ("principal", "rest")
"""The part of a weight that holds a share of its energy, and the weight without it."""


@dataclass(frozen=True)
class State:
    """What the weights are replaced by.

    Attributes
    ----------
    place : {"image", "text", "both"}
        The towers whose weights are replaced.
    part : {"principal", "rest"}
        Which of the `PARTS`.
    energy : float
        The share of energy that the principal part holds, from 0 to 1.
    """

    place: str
    part: str
    energy: float

    @property
    def whole(self) -> bool:
        """Whether nothing is replaced: the principal part of all energy, or the rest of none."""
        return self.energy == (1 if self.part == "principal" else 0)

    @property
    def empty(self) -> bool:
        """Whether the weights are zero."""
        return self.energy == (0 if self.part == "principal" else 1)


@dataclass(frozen=True)
class Measured:
    """What the test sets gave in one state.

    Attributes
    ----------
    state : State
    directions : float
        Share of the singular directions of the replaced weights that are left, from 0 to 1.
    correct, total : tuple of int
        Images of every test set.
    """

    state: State
    directions: float
    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def accuracies(self) -> list[float]:
        """Percent of every test set."""
        return [100 * right / count for right, count in zip(self.correct, self.total, strict=True)]


def states(options: Options) -> list[State]:
    """Return the states to measure: by place, then part, then energy, the highest first."""
    energies = options.energies[::-1]
    return [State(place, part, energy) for place in options.places for part in PARTS for energy in energies]


def distinct(wanted: Sequence[State]) -> int:
    """Return how many states differ: all of the whole model are one, and all with the weights of a place zero."""
    return len({_key(state) for state in wanted})


def decompose(clip: Clip, options: Options) -> list[tuple[LinearMap, Directions]]:
    """Return the chosen maps of a model, in forward order, with the decompositions of their weights."""
    maps = clip.select(options.maps, options.towers)
    shown = watched("decompose weights", maps, len(maps))
    return [(one, Directions.of(one.weight.to(clip.exact_device))) for one in shown]


def measure(
    method: Method,
    store: PixelStore,
    protocol: Protocol,
    decomposed: Sequence[tuple[LinearMap, Directions]],
    wanted: Sequence[State],
    on_batch: Callable[[], None] = lambda: None,
) -> Iterator[Measured]:
    """Measure all test sets in every state, as after the last task.

    Parameters
    ----------
    method : Method
        It classifies. Its model has its own weights again after every state, to the bit.
    store : PixelStore
    protocol : Protocol
    decomposed : sequence of (LinearMap, Directions)
        As `decompose` returns it.
    wanted : sequence of State
        States that do not differ are measured once.
    on_batch : callable, optional
        Called after every batch of images.

    Yields
    ------
    Measured
        In the order of `wanted`.
    """
    known: dict[object, list[tuple[int, int]]] = {}
    for state in wanted:
        chosen = [(one, directions) for one, directions in decomposed if state.place in (one.tower, BOTH)]
        key = _key(state)
        if key not in known:
            maps = [] if state.whole else [one for one, _ in chosen]
            with replaced(maps, [] if state.whole else [_weight(*one, state) for one in chosen]):
                row = evaluate_row(method, store, protocol, len(protocol.tasks), on_batch)
                known[key] = [(int(right.sum()), len(right)) for _, right in row]
        correct, total = zip(*known[key], strict=True)
        yield Measured(state, _directions(chosen, state), correct, total)


def chance(protocol: Protocol) -> list[float]:
    """Return the percentage of every test set that an answer drawn at random gets right."""
    count = len(protocol.tasks)
    spaces = [
        label_space(protocol.label_space, protocol.tasks, count, column, protocol.shared_prompts)
        for column in range(count)
    ]
    return [100 / len(space.prompts) for space in spaces if space is not None]  # after the last task none is undefined


def _key(state: State) -> object:
    """Return what is equal for states that do not differ."""
    return "whole" if state.whole else (state.place, "empty") if state.empty else state


def _weight(linear_map: LinearMap, directions: Directions, state: State) -> Tensor:
    return part_of(linear_map.weight, directions, state.energy, state.part == "rest")


def _directions(chosen: Sequence[tuple[LinearMap, Directions]], state: State) -> float:
    """Return the share of directions that are left in a state."""
    left = sum(directions.count(state.energy) for _, directions in chosen)
    share = left / sum(len(directions.values) for _, directions in chosen)
    return share if state.part == "principal" else 1 - share

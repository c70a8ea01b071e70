"""The seconds that a run spends, by phase and by part, and how many are left."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent in each phase of a run.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds by phase.
    parts : dict of str to float
        Seconds by part; a part is inside of a phase.
    reused : dict of str to float
        Seconds that results took when they were computed, by name, for those that were taken from the disk.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.parts: dict[str, float] = defaultdict(float)
        self.reused: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def now(self) -> float:
        """Return seconds since an arbitrary moment; what was reused counts as if it had been computed.

        Returns
        -------
        float
        """
        return time.perf_counter() + sum(self.reused.values())

    def reuse(self, name: str, seconds: float) -> None:
        """Count the time that a result took when it was computed, though it is taken from the disk now.

        Parameters
        ----------
        name : str
            What it is.
        seconds : float
            The time that computing it took.
        """
        self.reused[name] += seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time while open as a phase.

        Parameters
        ----------
        name : str
            Of the phase.
        """
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] += self.now() - start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time while open as a part of the current phase.

        Parameters
        ----------
        name : str
            Of the part.
        """
        start = self.now()
        try:
            yield
        finally:
            self.parts[name] += self.now() - start

    def resume(self, seconds: Mapping[str, float], parts: Mapping[str, float], reused: Mapping[str, float]) -> None:
        """Add what an earlier process spent on the same run.

        Parameters
        ----------
        seconds : mapping of str to float
            By phase, and ``"total"``, which includes what was reused.
        parts : mapping of str to float
            By part.
        reused : mapping of str to float
            By name of result.
        """
        self._start += sum(reused.values())
        for name, value in reused.items():
            self.reused[name] += value
        for name, value in seconds.items():
            if name == "total":
                self._start -= value
            else:
                self.seconds[name] += value
        for name, value in parts.items():
            self.parts[name] += value

    def total(self) -> float:
        """Return the seconds that the run has taken so far.

        Returns
        -------
        float
        """
        return self.now() - self._start


def seconds_left(
    spent: Mapping[str, float],
    done: Mapping[str, float],
    total: Mapping[str, float],
    speeds: Mapping[str, float] | None = None,
) -> float | None:
    """Return how long the rest takes if every phase stays as fast as it was so far.

    Parameters
    ----------
    spent : mapping of str to float
        Seconds by phase.
    done, total : mapping of str to float
        Work of each phase that is done, and in all, in any unit.
    speeds : mapping of str to float, optional
        Work a second of phases whose speed is known better than from what was spent on them.

    Returns
    -------
    float or None
        None as long as the speed of a phase is not known.
    """
    left = 0.0
    for phase, amount in total.items():
        todo = amount - done[phase]
        if todo <= 0:
            continue
        speed = (speeds or {}).get(phase) or (done[phase] / spent[phase] if spent.get(phase) else 0.0)
        if not speed:
            return None
        left += todo / speed
    return left


UNITS = (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600), ("days", 86400, float("inf")))
"""Units of time, their seconds, and the seconds from which on the next one is used."""


def left(seconds: float | None) -> str:
    """Return in words how long something still takes, as in ``about 3.5 h left``.

    Parameters
    ----------
    seconds : float or None
        An estimate, which is rounded to two digits.

    Returns
    -------
    str
        Empty for less than a second, and for None.
    """
    if seconds is None or seconds < 1:
        return ""
    unit, size = next((unit, size) for unit, size, end in UNITS if seconds < end)
    return f"about {float(f'{round(seconds) / size:.2g}'):g} {unit} left"

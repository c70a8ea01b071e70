"""The seconds that a run spends, by phase and by part."""

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

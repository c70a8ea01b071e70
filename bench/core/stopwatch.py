"""Seconds by phase."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent in each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.parts: dict[str, float] = defaultdict(float)
        self.reused: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def now(self) -> float:
        """Seconds since some moment; what was reused counts as if it had been computed."""
        return time.perf_counter() + sum(self.reused.values())

    def reuse(self, name: str, seconds: float) -> None:
        """Count the time that a result took when it was computed, though it is taken from the disk here."""
        self.reused[name] += seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time in here as `name`."""
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] += self.now() - start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time in here as `name`, a part of whatever phase it lies in."""
        start = self.now()
        try:
            yield
        finally:
            self.parts[name] += self.now() - start

    def resume(self, seconds: Mapping[str, float], parts: Mapping[str, float], reused: Mapping[str, float]) -> None:
        """Add what an earlier process spent on the same run; ``seconds`` has its total too, with what was reused."""
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
        """Seconds that the run has taken so far."""
        return self.now() - self._start

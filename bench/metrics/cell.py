"""One cell of an accuracy matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STATES = ("measured", "reused", "missing")
"""What a cell may be: see `Cell`."""


@dataclass(frozen=True)
class Cell:
    """One accuracy: counts where this suite measured, a percentage where a paper published no counts.

    Attributes
    ----------
    state : str
        ``measured``, ``reused`` (known to equal an earlier measurement, not measured again) or ``missing``.
    correct, total : int or None
        Images answered correctly, and all images; None when missing or published without counts.
    percent : float or None
        A published accuracy in percent; None when there are counts.
    """

    state: str = "missing"
    correct: int | None = None
    total: int | None = None
    percent: float | None = None

    @property
    def accuracy(self) -> float | None:
        """The accuracy in percent, or None when the cell is missing."""
        if self.correct is not None and self.total is not None:
            return 100 * self.correct / self.total
        return self.percent

    def fields(self) -> list[str]:
        """Return the cell as fields of a line of text: correct, total, accuracy in percent with all digits, state."""
        counts = ["" if count is None else str(count) for count in (self.correct, self.total)]
        return [*counts, "" if self.accuracy is None else repr(self.accuracy), self.state]

    @classmethod
    def from_fields(cls, fields: Sequence[str]) -> Cell:
        """Return the cell that `fields` wrote.

        Parameters
        ----------
        fields : sequence of str
            Correct, total, accuracy and state.

        Raises
        ------
        ValueError
            If they contradict each other, or are no numbers.
        """
        correct, total, accuracy, state = fields
        if state not in STATES:
            raise ValueError(f"the state is {state!r} instead of {', '.join(STATES)}")
        if state == "missing":
            if correct or total or accuracy:
                raise ValueError("a missing cell has numbers")
            return cls()
        percent = float(accuracy)
        if not 0 <= percent <= 100:
            raise ValueError(f"{accuracy} is no percentage")
        if not correct and not total:
            return cls(state, percent=percent)
        cell = cls(state, int(correct), int(total))
        if int(total) < 1 or not 0 <= int(correct) <= int(total):
            raise ValueError(f"{correct} correct of {total} is no accuracy")
        if abs((cell.accuracy or 0.0) - percent) > 1e-6:
            raise ValueError(f"{correct} of {total} is not {accuracy} %")
        return cell

"""A quantity over several seeds: mean, standard deviation, standard error; and over seeds within orders of tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.metrics.scalars import mean


@dataclass(frozen=True)
class Spread:
    """A quantity over several seeds.

    Attributes
    ----------
    mean : float
    sd : float or None
        Sample standard deviation, with n - 1 in its denominator; None for one seed.
    standard_error : float or None
        Of the mean; None for one seed.
    n : int
        Number of seeds.
    """

    mean: float
    sd: float | None
    standard_error: float | None
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Return mean, sample standard deviation, standard error and number of values.

    Parameters
    ----------
    values : iterable of float
        At least one.

    Raises
    ------
    ValueError
        If there are none.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("the spread of no values")
    centre = mean(numbers)
    if len(numbers) == 1:
        return Spread(centre, None, None, 1)
    sd = math.sqrt(math.fsum((number - centre) ** 2 for number in numbers) / (len(numbers) - 1))
    return Spread(centre, sd, sd / math.sqrt(len(numbers)), len(numbers))


def standard_error(values: Iterable[float]) -> float | None:
    """Return the standard error of the mean, or None for a single value."""
    return spread(values).standard_error


def sd_within(groups: Iterable[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, pooled: that over seeds of one order of tasks.

    Parameters
    ----------
    groups : iterable of sequence of float
        The values of each group; those of different groups may have different means.

    Returns
    -------
    float or None
        The root of the squared deviations from the means of the groups over ``sum(n - 1)``; None where every group has
        one value.
    """
    known = [values for values in groups if len(values) > 1]
    if not known:
        return None
    squares = math.fsum((value - mean(values)) ** 2 for values in known for value in values)
    return math.sqrt(squares / sum(len(values) - 1 for values in known))

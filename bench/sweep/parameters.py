"""The parameters of a W&B sweep file: their values, W&B's distributions, every combination, random draws."""

from __future__ import annotations

import itertools
import math
import random
import re
import statistics
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.errors import shorten, suggest

LARGEST = sys.float_info.max
"""The largest number that is drawn."""

LAST = 1 - 2.0**-53
"""The largest quantile."""

CHOSEN = ("categorical", "categorical_w_probabilities")
"""What W&B calls a parameter with values."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes
    ----------
    key : str
        Dotted.
    swept : bool
        Whether it varies.
    values : list or None
        All its values; None if they cannot be listed.
    draw : callable
        From a quantile, a number in [0, 1), to a value.
    """

    key: str
    swept: bool
    values: list[Any] | None
    draw: Callable[[float], Any]


def parameters_of(group: Any, prefix: str, problems: list[str]) -> Iterator[Parameter]:
    """Yield the parameters of a group and of the groups inside it.

    Parameters
    ----------
    group : object
        What the file has under ``parameters``.
    prefix : str
        What stands before the keys of this group; empty for the outermost one.
    problems : list of str
        Sentences about what is wrong are added to it.

    Yields
    ------
    Parameter
    """
    if not isinstance(group, dict) or not group:
        problems.append(f"{prefix}parameters must name at least one parameter, such as seed: {{values: [0, 1]}}")
        return
    for name, spec in group.items():
        key = f"{prefix}{name}"
        if not re.fullmatch(r"\w+(\.\w+)*", name):
            problems.append(f'parameter "{shorten(name)}" is no name of a setting: write it as on a command line')
        elif not isinstance(spec, dict) or not spec:
            problems.append(f"parameter {key} says nothing: write value, values, a distribution, or min and max")
        elif "parameters" in spec:
            others = sorted(str(other) for other in set(spec) - {"parameters"})
            if others:
                problems.append(f'parameter {key} is a group and cannot have "{shorten(others[0])}": leave it out')
            yield from parameters_of(spec["parameters"], f"{key}.", problems)
        else:
            try:
                yield _parameter(key, spec)
            except ValueError as error:
                problems.append(f"parameter {key} {error}")


def rewritten(group: Any, written: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield values that are written otherwise than W&B's agents hand them on, as their word and the written one.

    Parameters
    ----------
    group, written : object
        What a file has under ``parameters``, as of `bench.sweep.yaml_file.Content`; nothing in it is wrong.
    prefix : str, optional
        As for `parameters_of`.

    Yields
    ------
    tuple of str
        Such as ``("track.name=True", "track.name=on")``.
    """
    for name, spec in group.items():
        key, same = f"{prefix}{name}", written[name]
        if "parameters" in spec:
            yield from rewritten(spec["parameters"], same["parameters"], f"{key}.")
            continue
        pairs = zip(spec.get("values", [spec.get("value")]), same.get("values", [same.get("value")]), strict=True)
        for one, other in pairs:
            if str(one) != str(other):
                yield f"{key}={one}", f"{key}={other}"


def _parameter(key: str, spec: Mapping[str, Any]) -> Parameter:
    """Return a parameter; what is wrong is a ValueError that continues the sentence ``parameter KEY``."""
    named = spec.get("distribution")
    if named is None and "value" not in spec and "values" not in spec and {"min", "max"} <= set(spec):
        kinds = {type(spec["min"]), type(spec["max"])}
        if kinds == {int, float}:  # W&B refuses it too
            raise ValueError("has one whole bound and one with a point: write both alike")
        named = "int_uniform" if kinds == {int} else "uniform"
    if "value" in spec or named == "constant":
        _only(spec, "value")
        if "value" not in spec:
            raise ValueError("is constant and needs a value")
        return Parameter(key, False, [spec["value"]], lambda u: spec["value"])
    if "values" in spec or named in CHOSEN:
        _only(spec, "values", "probabilities")
        values = spec.get("values")
        if not isinstance(values, list) or not values:
            raise ValueError("needs values: a list with at least one item, as in values: [1, 2]")
        return Parameter(key, True, values, _choice(values, spec.get("probabilities")))
    if isinstance(named, str) and named in DISTRIBUTIONS:
        return Parameter(key, True, None, _distribution(named, spec))
    _only(spec, "value", "values", "min", "max")
    if named is None:
        raise ValueError("says nothing: write value, values, a distribution, or min and max")
    known = ["constant", *CHOSEN, *DISTRIBUTIONS]
    raise ValueError(f'has an unknown distribution "{shorten(str(named))}"{suggest(str(named), known)}')


def _only(spec: Mapping[str, Any], *names: str) -> None:
    """Refuse whatever has another name, ``distribution`` apart."""
    known = ("distribution", *names)
    for name in spec:
        if name not in known:
            raise ValueError(f'has "{shorten(str(name))}", which means nothing here{suggest(str(name), known)}')


def _choice(values: list[Any], probabilities: Any) -> Callable[[float], Any]:
    """Return the quantile function of a choice among values."""
    if probabilities is None:
        return lambda u: values[int(u * len(values))]
    numbers = isinstance(probabilities, list) and all(_is_number(p) and p >= 0 for p in probabilities)
    if not numbers or len(probabilities) != len(values) or not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
        raise ValueError("needs one probability for every value, together 1")
    ends = list(itertools.accumulate(probabilities))
    likely = max(i for i, p in enumerate(probabilities) if p > 0)
    return lambda u: values[min(bisect_right(ends, u), likely)]


# -------------------------------------------------------------------------------------- distributions

DISTRIBUTIONS: dict[str, Callable[[float, float, float], float]] = {
    "int_uniform": lambda u, low, high: low + math.floor(u * (high - low + 1)),
    "uniform": lambda u, low, high: low + u * (high - low),
    "log_uniform": lambda u, low, high: math.exp(low + u * (high - low)),
    "log_uniform_values": lambda u, low, high: low * (high / low) ** u,
    "inv_log_uniform": lambda u, low, high: math.exp(-high + u * (high - low)),
    "inv_log_uniform_values": lambda u, low, high: low * (high / low) ** u,
    "normal": lambda u, mu, sigma: statistics.NormalDist(mu, sigma).inv_cdf(max(u, 2.0**-53)),
    "log_normal": lambda u, mu, sigma: math.exp(statistics.NormalDist(mu, sigma).inv_cdf(max(u, 2.0**-53))),
}
"""The quantile functions of W&B's distributions: of a quantile, and of min and max or of mu and sigma.

Bounds of ``log_uniform`` are exponents of e; ``inv_log_uniform`` is the law of X where log(1/X) is uniform, so that
``inv_log_uniform_values`` is the same law as ``log_uniform_values``.
"""

for _name in ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal"):
    DISTRIBUTIONS[f"q_{_name}"] = DISTRIBUTIONS[_name]  # `_distribution` rounds to multiples of q


def _distribution(name: str, spec: Mapping[str, Any]) -> Callable[[float], Any]:
    """Return the quantile function of a distribution with its numbers put in."""
    bell = name.endswith("normal")
    wanted = ("mu", "sigma") if bell else ("min", "max")
    _only(spec, *wanted, *(["q"] if name.startswith("q_") else []))
    given = {"q": 1, **({"mu": 0.0, "sigma": 1.0} if bell else {}), **spec}
    for key in (*wanted, "q"):
        if key not in given:
            raise ValueError(f"needs {' and '.join(wanted)}")
        if not _is_number(given[key]):
            raise ValueError(
                f"has {key}: {shorten(str(given[key]))}, which is no number; powers of ten are written as in 1.0e-3"
            )
    first, second, q = given[wanted[0]], given[wanted[1]], given["q"]
    if name == "int_uniform" and not (isinstance(first, int) and isinstance(second, int)):
        raise ValueError("needs whole numbers for min and max")
    if bell and second <= 0:
        raise ValueError(f"has sigma: {second}, which must be above 0")
    if not bell and first > second:
        raise ValueError(f"has min: {first} above max: {second}")
    if name.endswith("_values") and first <= 0:
        raise ValueError(f"has min: {first}, which must be above 0 for a logarithm")
    if q <= 0:
        raise ValueError(f"has q: {q}, which must be above 0")
    quantile = DISTRIBUTIONS[name]

    def draw(u: float) -> Any:
        drawn = quantile(u, first, second)
        return round(drawn / q) * q if name.startswith("q_") else drawn

    try:
        holds = all(math.isfinite(draw(u)) for u in (0.0, LAST))
    except (OverflowError, ValueError, ZeroDivisionError):  # of a round number of infinity, of nothing
        holds = False
    if not holds:
        bounds = ", ".join(f"{key}: {given[key]}" for key in wanted)
        raise ValueError(f"has {bounds}, between which there are values too large for a number: narrow them")
    return draw


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def grid(parameters: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Yield every combination of values.

    Parameters
    ----------
    parameters : sequence of Parameter
        All with `values`.

    Yields
    ------
    dict of str to object
        Key to value; the last parameter varies fastest.
    """
    keys = [one.key for one in parameters]
    for values in itertools.product(*(one.values or () for one in parameters)):
        yield dict(zip(keys, values, strict=True))


def draws(parameters: Sequence[Parameter], seed: int) -> Iterator[dict[str, Any]]:
    """Yield random points without end.

    Parameters
    ----------
    parameters : sequence of Parameter
    seed : int
        What is drawn for a parameter depends on the seed, the number of the point and the parameter's key alone.

    Yields
    ------
    dict of str to object
        Key to value.
    """
    for number in itertools.count():
        yield {one.key: one.draw(random.Random(f"{seed} {number} {one.key}").random()) for one in parameters}
